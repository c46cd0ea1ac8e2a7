"""Is a box's score the probability that the box is right? Reliability and calibration error."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pnloc.boxes import iou
from pnloc.evaluation.bootstrap import NAN, Estimate, Patients, patients_of
from pnloc.evaluation.localization import ESTIMATE, Truth

BINS = 10
OVERLAP = 0.3  # a box is right above this IoU with a true box


def right_boxes(predictions: pd.DataFrame, truth: Truth, overlap: float = OVERLAP) -> pd.DataFrame:
    """Every predicted box: image, score, right (1 where its IoU with a true box > overlap)."""
    rows = []
    for case in truth.cases(predictions):
        right = iou(case.predicted, case.true).max(1, initial=0.0) > overlap
        rows += zip([case.image] * len(right), case.scores, right, strict=True)
    table = pd.DataFrame(rows, columns=["image", "score", "right"])
    return table.astype({"score": float, "right": float})


def calibration(
    boxes: pd.DataFrame, patients: Mapping[str, str], resamples: int = 1000, seed: int = 0
) -> tuple[pd.DataFrame, Estimate]:
    """The curve (bin, score, right, low, high, n) of `right_boxes`, and their calibration error.

    Bins hold equally many boxes, equal scores together, so that there may be fewer than BINS. The
    expected calibration error is the mean over boxes of the distance between a bin's mean score and
    its share of right boxes (Naeini et al. 2015); by chance it is above 0, the more so in a small
    sample. Without a box the curve is empty and the error NaN.
    """
    if boxes.empty:
        curve = pd.DataFrame(columns=["bin", "score", "right", *ESTIMATE[1:]])
        return curve, Estimate(NAN, NAN, NAN, 0, NAN)
    scores, right = boxes["score"].to_numpy(float), boxes["right"].to_numpy(float)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, BINS + 1)[1:-1]))
    bin_of_box = np.unique(np.searchsorted(edges, scores, side="left"), return_inverse=True)[1]
    hot = np.eye(bin_of_box.max() + 1)[bin_of_box]
    draws = Patients(patients_of(list(boxes["image"]), patients), resamples, seed)
    sums = draws.sums(*hot.T, *(hot * scores[:, None]).T, *(hot * right[:, None]).T)
    samples = np.concatenate([np.ones((1, len(sums))), draws.drawn]) @ sums
    number, total, hits = np.split(samples, 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means, shares = total[0] / number[0], hits / number
        errors = np.abs(hits - total).sum(1) / number.sum(1)
    curve = [
        (k, means[k], *Estimate.of(share[0], share[1:], int(number[0, k])))
        for k, share in enumerate(shares.T)
    ]
    error = Estimate.of(errors[0], errors[1:], len(boxes))
    return pd.DataFrame(curve, columns=["bin", "score", "right", *ESTIMATE[1:]]), error
