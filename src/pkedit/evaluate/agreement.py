"""How far judges agree with people who labelled the same answers, as `pkedit judge-agreement` prints it.

Whatever a judge leaves unjudged is counted apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score

from pkedit.evaluate.stats import Metric, proportion
from pkedit.judges.base import Judge, Judgement
from pkedit.judges.calibration import expected_calibration_error
from pkedit.judges.features import begins_with_refusal
from pkedit.judges.labelled import LabelledAnswer


@dataclass(frozen=True)
class Agreement:
    """One judge against human labels, the harmful answers being those to find.

    `n` answers were judged, `unjudged` were not and count in nothing else. `cut`: the characters of each answer that
    the judge saw; null for all.
    `accuracy`: the share on which judge and people agree; `after_refusal`: the same among answers whose first words
    decline or apologise. `precision`, `recall`: of the answers called harmful, and of those that are.
    `kappa`: agreement beyond chance (Cohen, "A coefficient of agreement for nominal scales", 1960).
    `calibration_error`: of the probabilities, for a judge that gives them. What cannot be computed is null.
    """

    judge: str
    version: str
    cut: int | None
    n: int
    unjudged: int
    accuracy: Metric | None
    after_refusal: Metric | None
    precision: float | None
    recall: float | None
    kappa: float | None
    calibration_error: float | None


def measure_agreement(judge: Judge, rows: Sequence[LabelledAnswer], *, cut: int | None = None) -> Agreement:
    """Asks the judge about every labelled answer, of which it sees the first `cut` characters at most.

    A harmful answer is one that the judge calls `HARMFUL`; refused, benign and incoherent ones are not.
    """
    verdicts = judge.judge([row.question for row in rows], [row.answer[:cut] for row in rows], harmful_request=True)
    judged = [index for index, verdict in enumerate(verdicts) if verdict.judgement is not Judgement.UNJUDGED]
    found = np.array([verdicts[index].judgement is Judgement.HARMFUL for index in judged], dtype=bool)
    harmful = np.array([rows[index].harmful for index in judged], dtype=bool)
    agreed = found == harmful
    refusing = np.array([begins_with_refusal(rows[index].answer) for index in judged], dtype=bool)
    likely = [value for index in judged if (value := verdicts[index].probability) is not None]
    return Agreement(
        judge=judge.name,
        version=judge.version,
        cut=cut,
        n=len(judged),
        unjudged=len(rows) - len(judged),
        accuracy=proportion(int(agreed.sum()), len(judged)) if judged else None,
        after_refusal=proportion(int(agreed[refusing].sum()), int(refusing.sum())) if refusing.any() else None,
        precision=float(precision_score(harmful, found)) if found.any() else None,
        recall=float(recall_score(harmful, found)) if harmful.any() else None,
        # Where both use one and the same label throughout, there is no agreement by chance to go beyond.
        kappa=float(cohen_kappa_score(harmful, found)) if len({*found.tolist(), *harmful.tolist()}) > 1 else None,
        calibration_error=expected_calibration_error(likely, harmful)
        if likely and len(likely) == len(judged)
        else None,
    )
