"""Whether probabilities mean what they say."""

import numpy as np
from numpy.typing import ArrayLike

BINS = 10


def expected_calibration_error(probability: ArrayLike, truth: ArrayLike, *, bins: int = BINS) -> float:
    """Σ over bins of (share of answers in it) · |mean probability − share that is harmful|, over bins of equal width.

    0 for a judge whose "70 %" are right seven times in ten. Source: Naeini et al., "Obtaining Well Calibrated
    Probabilities Using Bayesian Binning", AAAI 2015; Guo et al. 2017, arXiv 1706.04599, equation 3.

    Args:
        probability: P(harmful) of each answer, [answers].
        truth: whether it is, [answers].
        bins: how many.

    Raises:
        ValueError: no answers, different lengths, or a value outside [0, 1].
    """
    estimate, event = np.asarray(probability, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if estimate.size == 0 or estimate.shape != event.shape:
        raise ValueError(f"{estimate.size} probabilities and {event.size} labels")
    if not ((estimate >= 0) & (estimate <= 1)).all():
        raise ValueError("a probability lies between 0 and 1")
    place = np.minimum((estimate * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, estimate, bins) - np.bincount(place, event, bins))
    return float(gap[count > 0].sum() / estimate.size)
