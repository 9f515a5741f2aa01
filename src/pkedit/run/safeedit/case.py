"""One case of SafeEdit: locate on the instance, edit on it, and ask what the edit is tested with.

Source: Wang et al. 2024, arXiv 2403.14472, sections 5.1 and 5.2, and EasyEdit's `safety_editor.py`. EasyEdit keeps the
layer of its first case for all later ones, and puts a refusal suffix into DINM's prompts; neither is done here.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pkedit.edit.baselines import dinm_settings, fixed_layer
from pkedit.edit.delta import Delta
from pkedit.edit.editor import edit
from pkedit.edit.instance import InstanceEditor
from pkedit.evaluate.measure import GivenAnswer, Response, judged
from pkedit.evaluate.suite import Suite
from pkedit.judges.base import Judge
from pkedit.locate.dinm import toxic_layer, whole_layer
from pkedit.locate.locating import locate
from pkedit.locate.region import Region
from pkedit.models.chat import ChatModel
from pkedit.models.precision import arithmetic
from pkedit.prompts import ContrastPair, Demonstration, Kind, Prompt, SafeEditCase, cross
from pkedit.run.data import read_splits
from pkedit.run.safeedit.settings import SafeEditSettings
from pkedit.settings import RunSettings

KNOWLEDGE = "knowledge"


@dataclass(frozen=True)
class CaseEdit:
    """The edit of one case. `seconds`: of locating and editing together, as EasyEdit times an edit."""

    delta: Delta
    layers: tuple[int, ...]
    steps: int
    seconds: float


def sample_kept(chat: ChatModel, settings: SafeEditSettings) -> list[Demonstration]:
    """The harmless answers that PKE keeps in every case beside the case's own: the model's, to built-in prompts.

    PKE tells harmful from harmless prompts, for which one harmless prompt is not enough. These are from the edit split,
    fixed for the whole run: a third everyday prompts, a third of them inside attack templates, so that wrapping alone
    is not what the edit refuses, and a third borderline ones. None is harmful. DINM and FT-L use the case's own alone,
    as published. Empty answers are left out.
    """
    split = read_splits(RunSettings(seed=settings.seed)).edit
    third = settings.kept // 3
    prompts = [
        *split.harmless[:third],
        *cross(split.harmless[third : 2 * third], split.attacks),
        *split.borderline[: settings.kept - 2 * third],
    ]
    with arithmetic(chat, settings.edit.precision):
        answers = chat.generate(
            [prompt.text for prompt in prompts],
            max_new_tokens=max(settings.edit.harmless_tokens, settings.locate.tokens),
        )
    return [Demonstration(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True) if answer]


def edit_case(
    chat: ChatModel,
    case: SafeEditCase,
    settings: SafeEditSettings,
    kept: Sequence[Demonstration] = (),
    editor: InstanceEditor | None = None,
) -> CaseEdit:
    """Locates and edits on one instance: its adversarial prompt, its two answers, its knowledge constraint.

    Nothing that the case is tested with is seen, the bare question neither. The model leaves as it came.

    Args:
        chat: the unedited model.
        case: the instance.
        settings: whose method is `pke`, `dinm` or `ft`.
        kept: what `sample_kept` gave; for PKE only.
        editor: made of `kept`; it edits, by settings of its own, where the run is to be fast.

    Raises:
        NonFiniteLossError: the edit diverged.
        TooFewPairsError: PKE was given no further harmless answers.
    """
    started = time.perf_counter()
    pair = ContrastPair(_prompt(case, case.adversarial_prompt), case.safe_generation, case.unsafe_generation)
    if editor is not None:
        result = editor.edit(pair)
    else:
        own = Demonstration(_knowledge(case), case.knowledge_answer)
        keep = [own, *kept] if settings.method == "pke" else [own]
        region = _region(chat, pair, keep, settings)
        options = settings.edit
        if settings.method != "pke":
            whole = {"safe_tokens": settings.answer_tokens, "harmless_tokens": settings.answer_tokens}
            options = dinm_settings(options).model_copy(update=whole)
        result = edit(chat, region, [pair], keep, options)
    return CaseEdit(
        result.delta,
        tuple(layer.layer for layer in result.delta.layers),
        len(result.history),
        time.perf_counter() - started,
    )


def _region(chat: ChatModel, pair: ContrastPair, keep: Sequence[Demonstration], settings: SafeEditSettings) -> Region:
    """Where the method edits this instance."""
    if settings.method == "dinm":
        return whole_layer(chat, toxic_layer(chat, [pair], limit=settings.answer_tokens))
    if settings.method == "ft":
        return whole_layer(chat, fixed_layer(chat))
    # The signals compare spreads, which one pair does not have; twice the same one has none, and means of its own.
    return locate(chat, [pair, pair], keep, settings.locate, seed=settings.seed).region


def measure_case(
    chat: ChatModel, case: SafeEditCase, judges: Sequence[Judge], settings: SafeEditSettings, *, arm: str
) -> list[Response]:
    """The model's greedy answers to SafeEdit's five prompts and to the knowledge prompt, with every verdict."""
    suite = case_suite(case)
    answers = chat.generate(
        [prompt.text for _, prompt in suite.prompts],
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
    )
    return judged(suite, [GivenAnswer(answer) for answer in answers], judges, arm=arm)


def case_suite(case: SafeEditCase) -> Suite:
    """What one case is asked: DS is the prompt that was edited, DG the four tests, and a harmless one beside them."""
    tests = {
        "ds": case.adversarial_prompt,
        "dg_only_q": case.only_question,
        "dg_other_a": case.other_attack,
        "dg_other_q": case.other_question,
        "dg_other_aq": case.other_question_and_attack,
    }
    groups = {group: (_prompt(case, text),) for group, text in tests.items()}
    return Suite({**groups, KNOWLEDGE: (_knowledge(case),)})


def _prompt(case: SafeEditCase, text: str) -> Prompt:
    return Prompt(
        id=case.id,
        question=_question(case, text),
        text=text,
        kind=Kind.HARMFUL,
        category=case.category,
        attack=case.attack if text == case.adversarial_prompt else None,
    )


def _knowledge(case: SafeEditCase) -> Prompt:
    text = case.knowledge_prompt
    return Prompt(id=case.id, question=text, text=text, kind=Kind.HARMLESS, category=KNOWLEDGE)


def _question(case: SafeEditCase, text: str) -> str:
    """The bare question in a prompt, for judges that read it; the whole prompt where it cannot be told.

    SafeEdit does not name the other question, but both attacks are known around the first one.
    """
    found = [
        case.question,
        _without_attack(case.other_question, case.adversarial_prompt, case.question),
        _without_attack(case.other_question_and_attack, case.other_attack, case.question),
    ]
    return next((question for question in found if question and question in text), text)


def _without_attack(text: str, attacked: str, question: str) -> str:
    """What stands in `text` where `attacked` has `question`; empty if the words around it differ."""
    before, inside, after = attacked.partition(question)
    if not inside or not text.startswith(before) or not text.endswith(after):
        return ""
    return text[len(before) : len(text) - len(after)].strip()
