"""Is a box's score the probability that the box is right? Reliability and calibration error."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, logit

from pnloc.boxes import iou
from pnloc.evaluation.bootstrap import NAN, Estimate, Patients, patients_of
from pnloc.evaluation.localization import ESTIMATE, Truth

BINS = 10
OVERLAP = 0.3  # a box is right above this IoU with a true box
LEAST = 5  # right and wrong scores, below which nothing is fitted
LEAST_SLOPE = 0.01  # so that a calibrated score ranks as the score itself does


def right_boxes(predictions: pd.DataFrame, truth: Truth, overlap: float = OVERLAP) -> pd.DataFrame:
    """Every predicted box: image, score, right (1 where its IoU with a true box > overlap)."""
    rows = []
    for case in truth.cases(predictions):
        right = iou(case.predicted, case.true).max(1, initial=0.0) > overlap
        rows += zip([case.image] * len(right), case.scores, right, strict=True)
    table = pd.DataFrame(rows, columns=["image", "score", "right"])
    return table.astype({"score": float, "right": float})


def calibration(
    boxes: pd.DataFrame, patients: Mapping[str, str], **draws: int
) -> tuple[pd.DataFrame, Estimate]:
    """The curve (bin, score, right, low, high, n) of `right_boxes`, and their calibration error.

    Bins hold about equally many boxes; equal scores share a bin, so there may be fewer than BINS.
    The expected calibration error is the mean over boxes of the distance between the mean score of
    a bin and its share of right boxes (Naeini et al. 2015). In a small sample chance alone makes it
    positive. Without a box the curve is empty and the error NaN. `draws`: resamples and seed.
    """
    if boxes.empty:
        curve = pd.DataFrame(columns=["bin", "score", "right", *ESTIMATE[1:]])
        return curve, Estimate(NAN, NAN, NAN, 0, NAN)
    scores, right = boxes["score"].to_numpy(float), boxes["right"].to_numpy(float)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, BINS + 1)[1:-1]))
    bin_of_box = np.unique(np.searchsorted(edges, scores, side="left"), return_inverse=True)[1]
    hot = np.eye(bin_of_box.max() + 1)[bin_of_box]
    drawn = Patients(patients_of(list(boxes["image"]), patients), **draws)
    sums = drawn.sums(*hot.T, *(hot * scores[:, None]).T, *(hot * right[:, None]).T)
    samples = np.concatenate([np.ones((1, len(sums))), drawn.drawn]) @ sums
    number, total, hits = np.split(samples, 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means, shares = total[0] / number[0], hits / number
        errors = np.abs(hits - total).sum(1) / number.sum(1)
    right = [Estimate.of(s[0], s[1:], int(n)) for s, n in zip(shares.T, number[0], strict=True)]
    curve = pd.DataFrame(right, columns=["right", *ESTIMATE[1:]]).assign(score=means)
    curve = curve.reset_index(names="bin")[["bin", "score", "right", *ESTIMATE[1:]]]
    return curve, Estimate.of(errors[0], errors[1:], len(boxes))


def platt(scores: np.ndarray, right: np.ndarray) -> tuple[float, float] | None:
    """Slope and intercept of the log-odds that calibrate scores [n] to right [n] of 0 and 1.

    Logistic regression on the log-odds of the scores, with Platt's targets (1999), which keep few
    scores from certainty. The slope is positive even if the scores rank no better than chance: they
    then all become nearly the share of the right ones. None for fewer than LEAST right or wrong.
    """
    x, right = logit(np.clip(scores, 1e-6, 1 - 1e-6).astype(float)), np.asarray(right) > 0
    positive, negative = right.sum(), (~right).sum()
    if min(positive, negative) < LEAST:
        return None
    target = np.where(right, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(curve: np.ndarray) -> tuple[float, np.ndarray]:
        odds = curve[0] * x + curve[1]
        error = expit(odds) - target
        value = (np.logaddexp(0, odds) - target * odds).mean()
        return value, np.array([error @ x, error.sum()]) / len(x)

    bounds = [(LEAST_SLOPE, None), (None, None)]
    slope, intercept = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(slope), float(intercept)
