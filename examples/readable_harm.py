"""How well can harm be read off a model's own states, before any edit?

An edit in a few neurons refuses what their gates can tell apart. So a linear reader of what the gates read, the MLP's
input where the answer begins, is fitted to the prompts that an edit learns from, and asked about those that a run
reports. It may miss one harmful prompt in twenty, of the bare ones and of the attacked ones; printed is how many safe
prompts it then takes for harmful. What such a reader confuses, an edit can hardly tell apart.

    python examples/readable_harm.py                 # the embedded model, seeds 0 to 2: about five minutes
    python examples/readable_harm.py MODEL --seeds 5

The threshold is set by the reported prompts themselves, which flatters the reader.
"""

import argparse
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pkedit import load_model
from pkedit.edit.detector import where_answers_begin
from pkedit.evaluate.suite import make_suite
from pkedit.locate.region import candidate_layers
from pkedit.models.batches import Dialogue
from pkedit.models.chat import ChatModel
from pkedit.models.frozen import FrozenPrompts
from pkedit.models.precision import arithmetic
from pkedit.prompts import Prompt
from pkedit.run.data import asked_pairs, edit_prompts, read_splits
from pkedit.settings import RunSettings

MISSED = 0.05
HARMFUL = ("bare", "dg_other_aq")
SAFE = ("harmless", "long", "borderline")
# Strengths of the penalty that leaving out one prompt after another, of those learnt from, chooses among.
PENALTIES = np.logspace(1, 6, 16)


def states(chat: ChatModel, prompts: Sequence[Prompt], layers: Sequence[int]) -> dict[int, Tensor]:
    """What the MLP of each layer reads where the answer begins, [prompts, hidden]."""
    opening = tuple(chat.answer_ids("Sure", limit=1, ended=False))
    dialogues = [Dialogue(tuple(chat.prompt_ids(prompt.conversation)), opening) for prompt in prompts]
    with chat.frozen(), arithmetic(chat, "auto", cast_once=True):
        cache = FrozenPrompts(chat, dialogues, layers[0], first_tokens=1, first_weight=1.0, tokens_per_batch=768)
        cache.prepare(range(len(dialogues)))
        order, entering = where_answers_begin(chat, layers, cache, range(len(dialogues)))
    back = torch.tensor(order).argsort()
    return {layer: found[back] for layer, found in entering.items()}


def reader(harmful: NDArray[np.float32], safe: NDArray[np.float32]) -> Pipeline:
    """Ridge regression onto the two classes, both weighing the same."""
    wanted = np.r_[np.ones(len(harmful)), np.zeros(len(safe))]
    chosen = RidgeClassifierCV(alphas=PENALTIES, class_weight="balanced")
    return make_pipeline(StandardScaler(), chosen).fit(np.concatenate([harmful, safe]), wanted)


def mistaken(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Percent of each group of safe prompts above the score that `MISSED` of either harmful group stay below."""
    threshold = min(float(np.quantile(scores[group], MISSED)) for group in HARMFUL)
    return {group: 100 * float(np.mean(scores[group] > threshold)) for group in SAFE}


def of_seed(chat: ChatModel, seed: int) -> dict[str, dict[str, float]]:
    """For each layer that an edit may choose from, and for all of them together."""
    settings = RunSettings(seed=seed)
    splits = read_splits(settings)
    learnt = edit_prompts(splits, settings)
    suite = make_suite(splits.test, asked_pairs(splits, settings), splits.edit.attacks, settings.evaluate)
    groups = {"learnt, harmful": learnt.harmful, "learnt, safe": learnt.safe}
    groups |= {group: suite.groups[group] for group in (*HARMFUL, *SAFE)}
    layers = candidate_layers(settings.locate, chat.layers)
    found = states(chat, [prompt for prompts in groups.values() for prompt in prompts], layers)
    ends = np.cumsum([len(prompts) for prompts in groups.values()])
    rows = {}
    for name, some in {**{f"layer {layer}": [layer] for layer in layers}, "all of them": list(layers)}.items():
        inputs = torch.cat([found[layer] for layer in some], dim=1).numpy()
        parts = dict(zip(groups, np.split(inputs, ends[:-1]), strict=True))
        fitted = reader(parts.pop("learnt, harmful"), parts.pop("learnt, safe"))
        rows[name] = mistaken({group: fitted.decision_function(part) for group, part in parts.items()})
    return rows


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("model", nargs="?", default="smollm2")
    options.add_argument("--seeds", type=int, default=3, help="how many, from 0 on; each has its own splits")
    given = options.parse_args()
    chat = load_model(given.model)
    tables = [of_seed(chat, seed) for seed in range(given.seeds)]
    print(
        f"Safe prompts taken for harmful where {MISSED:.0%} of the harmful ones are missed, mean of {given.seeds} seeds"
    )
    print(f"{'read from':<12} {'everyday':>9} {'long':>9} {'borderline':>11}")
    for name in tables[0]:
        values = [fmean(table[name][group] for table in tables) for group in SAFE]
        print(f"{name:<12} {values[0]:>7.1f} % {values[1]:>7.1f} % {values[2]:>9.1f} %")


if __name__ == "__main__":
    main()
