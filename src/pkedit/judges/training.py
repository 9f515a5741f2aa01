"""Trains the embedded judge from human labels: `python -m pkedit.judges.training FILE ... --out FILE --held-out FILE`.

The labels that the shipped numbers come from are the training set of GPTFuzz (Yu et al. 2023, arXiv 2309.10253; MIT
licence): 6,160 answers of a chat model to 80 questions, each in 77 attack templates, marked harmful or not by people.
A quarter of the questions and a quarter of the templates are held out. Answers to held-out questions in held-out
templates are written to a file of their own, for `pkedit judge-agreement`; those with one of the two held out are not
used.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack, vstack
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression

from pkedit.judges.calibration import expected_calibration_error
from pkedit.judges.embedded import Numbers
from pkedit.judges.features import findings, scaled, word_counts
from pkedit.judges.labelled import LabelledAnswer, load_labelled

# An answer is judged by its beginning where it was cut, so the judge learns from beginnings too. Their labels are
# those of whole answers: what is learnt is how likely an answer that begins so is harmful. Characters → weight.
CUTS = {None: 1.0, 1000: 0.3, 400: 0.3, 150: 0.3}
# Inverse strength of the penalty on the weights. In cross-validation on the training part 3 and 10 agreed with people
# alike, on 90.5 and 90.6 % of whole answers, 1 on 89.5 %.
PENALTY = 3.0
HELD_OUT_SHARE = 0.25
FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """Rows to train on and rows to test on, that share no question and no template."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def fit(rows: Sequence[LabelledAnswer], *, penalty: float = PENALTY) -> Numbers:
    """Learns from these rows.

    Raises:
        ValueError: all rows have the same label.
    """
    questions = [row.question for row in rows]
    labels = np.array([row.harmful for row in rows])
    if labels.all() or not labels.any():
        raise ValueError("a judge cannot be learnt from one kind of label; give harmful and safe answers")
    rarity = TfidfTransformer().fit(word_counts([row.answer for row in rows])).idf_.astype(np.float32)
    parts = []
    for cut in CUTS:
        answers = [row.answer[:cut] for row in rows]
        words = scaled(word_counts(answers), rarity)
        parts.append(csr_matrix(hstack([words, csr_matrix(findings(questions, answers))])))
    weights = np.concatenate([np.full(len(rows), weight) for weight in CUTS.values()])
    model = LogisticRegression(C=penalty, max_iter=1000)
    model.fit(vstack(parts), np.tile(labels, len(CUTS)), sample_weight=weights)
    return Numbers(rarity, model.coef_[0].astype(np.float32), float(model.intercept_[0]))


def hold_out(rows: Sequence[LabelledAnswer], *, share: float = HELD_OUT_SHARE, seed: int = 0) -> Fold:
    """A share of the questions and a share of the templates held out; rows with one of both are in neither part."""
    questions, templates = _groups([row.question for row in rows], seed), _groups([row.template for row in rows], seed)
    held = [
        (questions[row.question] < share * len(questions), templates[row.template] < share * len(templates))
        for row in rows
    ]
    return Fold(
        tuple(index for index, one in enumerate(held) if one == (False, False)),
        tuple(index for index, one in enumerate(held) if one == (True, True)),
    )


def cross_validation(rows: Sequence[LabelledAnswer], *, folds: int = FOLDS, seed: int = 1) -> list[Fold]:
    """Folds in which each question and each template is held out once."""
    questions, templates = _groups([row.question for row in rows], seed), _groups([row.template for row in rows], seed)
    numbers = [(questions[row.question] % folds, templates[row.template] % folds) for row in rows]
    return [
        Fold(
            tuple(index for index, (one, other) in enumerate(numbers) if fold not in (one, other)),
            tuple(index for index, pair in enumerate(numbers) if pair == (fold, fold)),
        )
        for fold in range(folds)
    ]


def validated(rows: Sequence[LabelledAnswer], *, penalty: float) -> dict[int | None, tuple[float, float]]:
    """Accuracy and expected calibration error over all folds of cross-validation, for answers cut to each of `CUTS`."""
    likely: dict[int | None, list[NDArray[np.float64]]] = {cut: [] for cut in CUTS}
    truth = []
    for fold in cross_validation(rows):
        numbers = fit([rows[index] for index in fold.train], penalty=penalty)
        tested = [rows[index] for index in fold.test]
        truth.append(np.array([row.harmful for row in tested]))
        for cut, found in likely.items():
            found.append(numbers.probability([row.question for row in tested], [row.answer[:cut] for row in tested]))
    harmful = np.concatenate(truth)
    return {
        cut: (
            float(((np.concatenate(found) >= 0.5) == harmful).mean()),
            expected_calibration_error(np.concatenate(found), harmful),
        )
        for cut, found in likely.items()
    }


def _groups(names: Sequence[str], seed: int) -> dict[str, int]:
    """Each distinct name with its place in a shuffled order."""
    distinct = sorted(set(names))
    order: NDArray[np.int64] = np.random.default_rng(seed).permutation(len(distinct))
    return dict(zip(distinct, order.tolist(), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, and writes `embedded.npz` and `held_out.jsonl`."""
    parser = argparse.ArgumentParser(prog="python -m pkedit.judges.training", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="JSONL, CSV or Parquet files of labelled answers")
    parser.add_argument("--columns", default="question=prompt,answer=Response,harmful=harmful,template=template_id")
    parser.add_argument("--out", type=Path, required=True, help="where the numbers go: .../judges/data/embedded.npz")
    parser.add_argument("--held-out", type=Path, required=True, help="where the held-out answers go, as JSONL")
    parser.add_argument("--cross-validate", action="store_true", help="also try penalties on the training part")
    given = parser.parse_args(arguments)
    rows = [row for path in given.files for row in load_labelled(path, given.columns)]
    fold = hold_out(rows)
    trained = [rows[index] for index in fold.train]
    if given.cross_validate:
        for penalty in (1.0, 3.0, 10.0):
            for cut, (accuracy, error) in validated(trained, penalty=penalty).items():
                print(
                    f"penalty {penalty:g}, answers cut to {cut}: accuracy {accuracy:.3f}, calibration error {error:.3f}"
                )
    given.out.write_bytes(fit(trained).to_bytes())
    with given.held_out.open("w", encoding="utf-8") as file:
        for index in fold.test:
            row = rows[index]
            content = {
                "question": row.question,
                "answer": row.answer,
                "harmful": int(row.harmful),
                "template": row.template,
            }
            file.write(json.dumps(content, ensure_ascii=False) + "\n")
    print(f"learnt from {len(fold.train)} answers: {given.out}; {len(fold.test)} held out: {given.held_out}")


if __name__ == "__main__":
    main()
