"""General ability before and after an edit: lm-evaluation-harness tasks, run on the loaded model in memory.

Source: Gao et al., "A framework for few-shot language model evaluation", 2021, doi 10.5281/zenodo.5371628.
"""

import difflib
import logging
import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pkedit.errors import ChatTemplateError, PkeditError, first_line
from pkedit.evaluate.stats import Metric, mcnemar, paired_difference, proportion
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic

# Where a task gives several measures of right or wrong: the one usually reported. `acc_norm` divides the
# log-likelihood of a choice by its length, so that short choices are not favoured.
USUAL_MEASURES = ("acc_norm", "acc", "exact_match")


class CapabilityError(PkeditError):
    """A task is unknown, cannot be had, or does not say of each item whether it was answered rightly."""


@dataclass(frozen=True)
class Capability:
    """How well a model did a task. `correct` says of each item, `TASK/NUMBER`, whether it was answered rightly.

    `measure` is lm-eval's name of what was counted. A group of tasks (`mmlu`) is the share of all its items.
    """

    task: str
    measure: str
    metric: Metric
    correct: dict[str, bool]


def measure_capability(
    chat: ChatModel,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 16,
    precision: str = "auto",
    verbose: bool = False,
) -> dict[str, Capability]:
    """Runs tasks through `lm_eval.simple_evaluate` with the model's chat template and a fixed batch size.

    The model stays as it is, and so do the states of the random generators, which lm-eval seeds. Nothing is written,
    except that `datasets` caches what a task downloads.

    Args:
        chat: the model, edited or not.
        tasks: names of lm-eval's tasks, groups or tags, `everyday` (no network), or paths of task files (YAML).
        limit: only the first items of each task.
        batch_size: texts at once.
        precision: as in `pkedit.models.precision.arithmetic`.
        verbose: shows lm-eval's log and progress bars.

    Returns:
        One `Capability` for each of `tasks`, with a Wilson interval.

    Raises:
        CapabilityError: a task is unknown, cannot be downloaded, cannot be run, or has no measure of right and wrong.
        ChatTemplateError: the tokenizer has no chat template.
    """
    if not chat.tokenizer.chat_template:
        raise ChatTemplateError(f"{chat.name} has no chat template; give one with --chat-template FILE.jinja")
    with ExitStack() as stack:
        if not verbose:
            stack.enter_context(_quiet())
        stack.enter_context(_random_states_kept())
        folder = stack.enter_context(as_file(files("pkedit.evaluate.tasks")))
        manager = _manager(tasks, folder)
        loaded = {name: _load(manager, name) for name in tasks}
        stack.enter_context(chat.frozen())
        return {name: _run(chat, manager, name, own, limit, batch_size, precision) for name, own in loaded.items()}


def check_tasks(tasks: Sequence[str]) -> None:
    """Finds out whether there are such tasks and whether their items can be had; downloaded ones are then cached.

    Raises:
        CapabilityError: a task is unknown, cannot be downloaded, or cannot be run.
    """
    with _quiet(), _random_states_kept(), as_file(files("pkedit.evaluate.tasks")) as folder:
        manager = _manager(tasks, folder)
        for name in tasks:
            _load(manager, name)


def capability_change(before: Capability, after: Capability, *, seed: int) -> tuple[Metric, float]:
    """The difference after − before on the same items with a paired bootstrap interval, and McNemar's p-value.

    Raises:
        ValueError: the two were not measured on the same items.
    """
    if (before.measure, before.correct.keys()) != (after.measure, after.correct.keys()):
        raise ValueError(f"{before.task} and {after.task} were not measured on the same items in the same way")
    old = list(before.correct.values())
    new = [after.correct[item] for item in before.correct]
    difference = paired_difference([float(right) for right in old], [float(right) for right in new], seed=seed)
    return difference, mcnemar(old, new)


def _manager(tasks: Sequence[str], folder: Path) -> Any:
    """What knows the tasks. lm-eval's own are indexed only if one is asked for: that takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(folder), include_defaults=_includes_defaults(tasks, folder))


def _includes_defaults(tasks: Sequence[str], folder: Path) -> bool:
    own = {path.stem for path in folder.glob("*/*.yaml")}
    return any(name not in own and not Path(name).is_file() for name in tasks)


def _load(manager: Any, name: str) -> list[Any]:
    """The tasks that a name stands for, with their items."""
    from datasets.exceptions import DatasetsError

    if name not in manager.all_tasks and not Path(name).is_file():
        near = difflib.get_close_matches(name, manager.all_tasks)
        advice = f"did you mean {' or '.join(near)}?" if near else "lm-eval ls tasks shows all names"
        raise CapabilityError(f"there is no task {name!r}; {advice}")
    try:
        loaded = list(manager.load([name])["tasks"].values())
    except (OSError, DatasetsError) as error:
        raise CapabilityError(
            f"the items of task {name!r} cannot be had: {first_line(error)} "
            "(they come from the Hub; go online, or use the task everyday, which needs no network)"
        ) from error
    except ImportError as error:
        raise CapabilityError(
            f"task {name!r} needs a package that is not installed: {first_line(error)}; install it, or choose others "
            "with --tasks"
        ) from error
    for task in loaded:
        if getattr(task, "UNSAFE_CODE", False):
            raise CapabilityError(
                f"task {name!r} executes code that the model writes, which pkedit does not run; leave it out of --tasks"
            )
        if getattr(task, "MULTIMODAL", False):
            raise CapabilityError(
                f"task {name!r} shows pictures or sound, and pkedit measures text only; leave it out of --tasks"
            )
    return loaded


def _run(
    chat: ChatModel,
    manager: Any,
    name: str,
    tasks: Sequence[Any],
    limit: int | None,
    batch_size: int,
    precision: str,
) -> Capability:
    from lm_eval import evaluator

    from pkedit.evaluate.tasks.harness import LoadedModel

    # Made before the weights are cast: it ties the head to the embedding once more.
    model = LoadedModel(chat, batch_size=batch_size)
    nothing: dict[str, Any] = {"get_git_commit_hash": lambda: None, "add_env_info": lambda _: None}
    # The report on the machine takes longer than a small task: it asks git and pip in processes of their own.
    with _replaced(evaluator, **nothing), arithmetic(chat, precision, cast_once=True):
        model.multiply_as_outside()
        results = evaluator.simple_evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    return _counted(name, results["samples"])


def _counted(name: str, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Capability:
    """The items of all tasks behind a name, as rows of lm-eval's log."""
    correct: dict[str, bool] = {}
    measures: list[str] = []
    for task, rows in samples.items():
        # A task may read the same answers in several ways ("filters"); its first is the one it is known by.
        own = [row for row in rows if row["filter"] == rows[0]["filter"]]
        measure = _measure_of(name, own)
        measures.append(measure)
        correct |= {f"{task}/{row['doc_id']}": bool(row[measure]) for row in own}
    return Capability(name, " ".join(dict.fromkeys(measures)), proportion(sum(correct.values()), len(correct)), correct)


def _measure_of(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The measure to count: it says of each item that it was right (1) or wrong (0)."""
    given: list[str] = rows[0]["metrics"]
    counted = [measure for measure in given if all(_is_right_or_wrong(row[measure]) for row in rows)]
    if not counted:
        raise CapabilityError(
            f"task {name!r} does not say of each item whether it was answered rightly (it gives {', '.join(given)}); "
            "choose a task that does"
        )
    return next((measure for measure in USUAL_MEASURES if measure in counted), counted[0])


def _is_right_or_wrong(value: object) -> bool:
    return isinstance(value, (bool, int, float, np.number, np.bool_)) and float(value) in (0.0, 1.0)


@contextmanager
def _quiet() -> Generator[None]:
    """Neither log lines nor progress bars; some of lm-eval's bars cannot be turned off by an option."""
    from tqdm.std import tqdm

    usual = tqdm.__init__

    def unseen(self: Any, *args: Any, **options: Any) -> None:
        usual(self, *args, **{**options, "disable": True})

    levels = {logger: logger.level for logger in map(logging.getLogger, ("lm_eval", "huggingface_hub"))}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with _replaced(tqdm, __init__=unseen):
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _random_states_kept() -> Generator[None]:
    """lm-eval seeds the generators of Python, NumPy and torch; afterwards they go on from where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _replaced(owner: Any, **attributes: Any) -> Generator[None]:
    """Other attributes of a module or class meanwhile."""
    usual = {name: getattr(owner, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in usual.items():
            setattr(owner, name, value)
