"""Is a box's score the chance that the box is right? Reliability curves and the expected calibration error, with intervals over patients."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from pnloc.boxes import iou
from pnloc.evaluation.bootstrap import by_patient, interval, patient_index, weights
from pnloc.evaluation.localization import cases

BINS = 10
OVERLAP = 0.3  # IoU with a true box above which a box is right


def judged(
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    negatives: Iterable[str] = (),
    overlap: float = OVERLAP,
) -> pd.DataFrame:
    """image, score, right of every predicted box: whether any true box overlaps it with IoU > `overlap`. Tables as in pnloc.evaluation.localization."""
    rows = []
    for case in cases(predictions, truth, negatives):
        right = iou(case.predicted, case.true).max(1, initial=0.0) > overlap
        rows += zip([case.image] * len(right), case.scores, right, strict=True)
    return pd.DataFrame(rows, columns=["image", "score", "right"]).astype(
        {"score": float, "right": float}
    )


def calibration(
    boxes: pd.DataFrame,
    patients: Mapping[str, str],
    resamples: int = 1000,
    seed: int = 0,
    bins: int = BINS,
) -> tuple[pd.DataFrame, tuple[float, float, float]]:
    """The curve (bin, score, right, low, high, n) of `judged` boxes, and their expected calibration error with its interval.

    Bins hold equally many boxes, equal scores together, so that there may be fewer than `bins`. The error is the mean over boxes of the distance
    between a bin's mean score and its share of right boxes (Naeini et al. 2015); it is above 0 by chance, the more so in a small sample. Without a
    box the curve is empty and the error NaN.
    """
    if boxes.empty:
        return pd.DataFrame(columns=["bin", "score", "right", "low", "high", "n"]), (np.nan,) * 3
    scores, right = boxes["score"].to_numpy(float), boxes["right"].to_numpy(float)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    member = np.searchsorted(edges, scores, side="left")
    _, member = np.unique(member, return_inverse=True)
    count = member.max() + 1
    hot = np.eye(count)[member]
    table = np.concatenate([hot, hot * scores[:, None], hot * right[:, None]], axis=1)
    sums = by_patient(table, patient_index(list(boxes["image"]), patients))
    drawn = np.concatenate([np.ones((1, len(sums))), weights(len(sums), resamples, seed)]) @ sums
    number, total, hits = np.split(drawn, 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = hits / number
        errors = np.abs(hits - total).sum(1) / number.sum(1)
    curve = [
        (k, total[0, k] / number[0, k], shares[0, k], *interval(shares[1:, k]), int(number[0, k]))
        for k in range(count)
    ]
    return pd.DataFrame(curve, columns=["bin", "score", "right", "low", "high", "n"]), (
        errors[0],
        *interval(errors[1:]),
    )
