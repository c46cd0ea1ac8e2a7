"""Metrics of localization, tables in and tables out, with intervals bootstrapped over patients.

Definitions: book, Data access, and the sources named at each. An image without a prediction counts as a miss. Predictions on images that are neither
in the table of true boxes nor named as negatives are left out.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from pnloc.boxes import area, intersection, iou, union_iou
from pnloc.errors import PnlocError
from pnloc.evaluation.bootstrap import NAN, by_patient, interval, p_value, patient_index, weights
from pnloc.evaluation.froc_ap import (
    COCO_THRESHOLDS,
    FROC_RATES,
    Case,
    average_precision,
    froc,
    rsna_precision,
)

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
CORNERS = ["x1", "y1", "x2", "y2"]
METRICS = (
    "acc",
    "iobb",
    "miou",
    "pointing",
    "afp",
    "best_iou",
    "matched_iou",
    "corloc",
    "froc",
    "froc_mean",
    "rsna_map",
    "coco_ap",
)
PER_BOX = (
    "acc",
    "iobb",
    "best_iou",
    "matched_iou",
)  # shares or means over true boxes; the others go by image
DIFFERENCES = (("miou", NAN), ("pointing", NAN), ("acc", 0.3))


def cases(
    predictions: pd.DataFrame, truth: pd.DataFrame, negatives: Iterable[str] = ()
) -> list[Case]:
    """Every image with true boxes, in the order of their names, then every negative in that of theirs.

    predictions: image, x1, y1, x2, y2, score; truth: image, x1, y1, x2, y2 (same pixels). Raises PnlocError where there is no true box, where
    a prediction holds a number that is not finite, or where a negative has a true box.
    """
    numbers = predictions[[*CORNERS, "score"]].to_numpy(float)
    if not np.isfinite(numbers).all():
        bad = predictions.loc[~np.isfinite(numbers).all(axis=1), "image"].iloc[0]
        raise PnlocError(
            f"prediction for image '{bad}': a coordinate or score is not a finite number"
        )
    if truth.empty:
        raise PnlocError("there is no true box to measure against")
    ordered = predictions.sort_values("score", ascending=False, kind="stable")
    by_image = {
        image: rows.to_numpy(float) for image, rows in ordered.groupby("image")[[*CORNERS, "score"]]
    }
    true = {
        image: rows.to_numpy(float) for image, rows in truth.groupby("image", sort=True)[CORNERS]
    }
    both = sorted(set(negatives) & set(true))
    if both:
        raise PnlocError(f"image '{both[0]}' has true boxes and is named as one without")
    none = np.zeros((0, 5))
    found = ((image, by_image.get(image, none)) for image in (*true, *sorted(set(negatives))))
    return [
        Case(image, rows[:, :4], rows[:, 4], true.get(image, none[:, :4])) for image, rows in found
    ]


def per_image(case: Case) -> dict[tuple[str, float], float]:
    """Of an image with true boxes: sums over its true boxes for PER_BOX, else the image's own value, by metric and threshold."""
    predicted, true = case.predicted, case.true
    overlaps = iou(predicted, true)
    best, best_of_prediction = overlaps.max(0, initial=0.0), overlaps.max(1, initial=0.0)
    sizes = np.maximum(area(predicted), 1e-12)[:, None]
    inside = (intersection(predicted, true) / sizes).max(0, initial=0.0)
    found = {("acc", t): float((best > t).sum()) for t in IOU_THRESHOLDS}
    found |= {("iobb", t): float((inside > t).sum()) for t in IOBB_THRESHOLDS}
    found["miou", NAN] = union_iou(predicted, true)
    found["pointing", NAN] = float(_points_inside(predicted, true))
    found |= {("afp", t): float((best_of_prediction <= t).sum()) for t in IOU_THRESHOLDS}
    found["best_iou", NAN] = float(best.sum())
    found["matched_iou", NAN] = one_to_one(overlaps)
    found["corloc", NAN] = float(len(predicted) > 0 and best_of_prediction[0] >= 0.5)
    return found


def one_to_one(overlaps: np.ndarray) -> float:
    """Sum of the IoUs of pairs of a prediction and a true box, from IoUs [n, m]: the greatest first, each box in one pair at the most."""
    left, total = overlaps.copy(), 0.0
    while left.size and left.max() > 0:
        row, column = np.unravel_index(left.argmax(), left.shape)
        total += float(left[row, column])
        left[row], left[:, column] = 0.0, 0.0
    return total


def _points_inside(predicted: np.ndarray, true: np.ndarray) -> bool:
    """Whether the centre of the first predicted box lies in any true box."""
    if len(predicted) == 0:
        return False
    x, y = (predicted[0, 0] + predicted[0, 2]) / 2, (predicted[0, 1] + predicted[0, 3]) / 2
    return bool(
        ((true[:, 0] <= x) & (x <= true[:, 2]) & (true[:, 1] <= y) & (y <= true[:, 3])).any()
    )


def localization(
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    patients: Mapping[str, str],
    resamples: int = 1000,
    seed: int = 0,
    negatives: Iterable[str] = (),
) -> pd.DataFrame:
    """Table metric, threshold, value, low, high, n for one method on one set; intervals: 95%, over patients.

    predictions: image, x1, y1, x2, y2, score; truth: image, x1, y1, x2, y2 (same pixels); patients: image -> patient; negatives: images that
    are known to have no true box. Over true boxes (n counts them):
    `acc` share that any predicted box overlaps with IoU > threshold (Wang et al. 2017); `iobb` the same with intersection over the predicted
    box; `best_iou` mean of the best IoU of any predicted box; `matched_iou` the same, each predicted box used once (`one_to_one`).
    Over images with true boxes: `miou` mean IoU of the unions; `pointing` share whose best box has its centre in a true box; `afp` predicted
    boxes that overlap no true box with IoU > threshold; `corloc` share whose best box has an IoU of .5 or more with a true box.
    Over these and the negatives: `froc` sensitivity at `threshold` false positives per image (pnloc.evaluation.froc_ap.froc), `froc_mean` their mean;
    `rsna_map`, for which an image without any box of either kind does not count; `coco_ap` at IoU .5 (threshold .5) and averaged over
    .5 to .95 (no threshold).
    """
    known = cases(predictions, truth, negatives)
    boxed = [case for case in known if len(case.true)]
    found = [per_image(case) for case in boxed]
    keys = list(found[0])
    boxes = np.array([[len(case.true)] for case in boxed], dtype=float)
    values = np.array([list(f.values()) for f in found])
    table = np.concatenate([values, boxes, np.ones_like(boxes)], axis=1)
    sums = by_patient(table, patient_index([case.image for case in boxed], patients))
    drawn = weights(len(sums), resamples, seed) @ sums
    rows = []
    for column, (metric, threshold) in enumerate(keys):
        per = -2 if metric in PER_BOX else -1
        value = sums[:, column].sum() / sums[:, per].sum()
        rows.append(
            (
                metric,
                threshold,
                value,
                *interval(drawn[:, column] / drawn[:, per]),
                int(sums[:, per].sum()),
            )
        )
    rows += _over_all(known, patients, resamples, seed)
    return pd.DataFrame(rows, columns=["metric", "threshold", "value", "low", "high", "n"])


def _over_all(
    known: list[Case], patients: Mapping[str, str], resamples: int, seed: int
) -> list[tuple]:
    """Rows of the metrics that take in the negatives."""
    index = patient_index([case.image for case in known], patients)
    drawn = weights(index.max() + 1, resamples, seed)[:, index]
    drawn = np.concatenate(
        [np.ones((1, len(known)), dtype=drawn.dtype), drawn]
    )  # the first row: every image once
    sensitivity, precision = froc(known, drawn), average_precision(known, drawn)
    rsna = np.array([rsna_precision(case) for case in known])
    counts = drawn[:, np.isfinite(rsna)]
    with np.errstate(invalid="ignore"):
        rsna_map = (counts @ rsna[np.isfinite(rsna)]) / counts.sum(1)
    columns = [("froc", rate, sensitivity[:, i], len(known)) for i, rate in enumerate(FROC_RATES)]
    columns += [
        ("froc_mean", NAN, sensitivity.mean(1), len(known)),
        ("rsna_map", NAN, rsna_map, int(np.isfinite(rsna).sum())),
        ("coco_ap", NAN, precision.mean(1), len(known)),
        ("coco_ap", float(COCO_THRESHOLDS[0]), precision[:, 0], len(known)),
    ]
    return [
        (metric, threshold, float(v[0]), *interval(v[1:]), n) for metric, threshold, v, n in columns
    ]


def differences(
    first: pd.DataFrame,
    second: pd.DataFrame,
    truth: pd.DataFrame,
    patients: Mapping[str, str],
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Table metric, value, low, high, n, p: first minus second on the same images, paired over patients; p is not corrected.

    Metrics: miou, pointing, and acc@0.3 (over true boxes).
    """
    known = [cases(predictions, truth) for predictions in (first, second)]
    values = [np.array([_compared(case) for case in one]) for one in known]
    boxes = np.array([[len(case.true)] for case in known[0]], dtype=float)
    table = np.concatenate([values[0] - values[1], boxes, np.ones_like(boxes)], axis=1)
    sums = by_patient(table, patient_index([case.image for case in known[0]], patients))
    drawn = weights(len(sums), resamples, seed) @ sums
    rows = []
    for column, (metric, threshold) in enumerate(DIFFERENCES):
        name, per = (f"{metric}@{threshold}", -2) if metric in PER_BOX else (metric, -1)
        samples, total = drawn[:, column] / drawn[:, per], sums.sum(0)
        rows.append(
            (
                name,
                total[column] / total[per],
                *interval(samples),
                int(total[per]),
                p_value(samples),
            )
        )
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "n", "p"])


def _compared(case: Case) -> list[float]:
    """The values of an image for the metrics of DIFFERENCES, as `per_image` gives them."""
    best = iou(case.predicted, case.true).max(0, initial=0.0)
    return [
        union_iou(case.predicted, case.true),
        float(_points_inside(case.predicted, case.true)),
        float((best > DIFFERENCES[2][1]).sum()),
    ]


def contrast_to_noise(heat: np.ndarray, true: np.ndarray) -> float:
    """|mean inside - mean outside| / sqrt(var inside + var outside) of a map [H, W] for each true box [m, 4], averaged over the boxes.

    Pixels whose centre lies in a box are inside. A flat map has no contrast: 0. NaN where no box has pixels on either side, or the contrast
    is without any noise. Source: Boecking et al. 2022.
    """
    if np.ptp(heat) == 0:
        return 0.0
    ys, xs = (np.arange(n) + 0.5 for n in heat.shape)
    values = []
    for x1, y1, x2, y2 in true:
        inside = ((ys >= y1) & (ys <= y2))[:, None] & ((xs >= x1) & (xs <= x2))[None, :]
        within, without = heat[inside], heat[~inside]
        if len(within) and len(without):
            noise = np.sqrt(within.var() + without.var())
            values.append(abs(within.mean() - without.mean()) / noise if noise > 0 else NAN)
    finite = np.array([v for v in values if np.isfinite(v)])
    return float(finite.mean()) if len(finite) else NAN


def peak_inside(heat: np.ndarray, true: np.ndarray) -> float:
    """1 where the highest place of a map [H, W] (the first of equals) lies in any of the true boxes [m, 4], else 0; 0 for a flat map."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    point = np.array([[column, row, column + 1, row + 1]], dtype=float)
    return float(np.ptp(heat) > 0 and _points_inside(point, true))


def heat_table(
    measured: pd.DataFrame, patients: Mapping[str, str], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Table metric, threshold, value, low, high, n of heat maps, from one row per image: image, cnr, peak.

    `cnr`: mean of `contrast_to_noise` over images, those without one left out; `peak`: the pointing game by the highest value of the map, as
    its authors play it (Zhang et al. 2018).
    """
    rows = []
    for metric in ("cnr", "peak"):
        known = measured[measured[metric].notna()]
        if known.empty:
            rows.append((metric, NAN, NAN, NAN, NAN, 0))
            continue
        index = patient_index(list(known["image"]), patients)
        sums = by_patient(
            np.stack([known[metric].to_numpy(float), np.ones(len(known))], axis=1), index
        )
        drawn = weights(len(sums), resamples, seed) @ sums
        value = sums[:, 0].sum() / sums[:, 1].sum()
        rows.append((metric, NAN, value, *interval(drawn[:, 0] / drawn[:, 1]), len(known)))
    return pd.DataFrame(rows, columns=["metric", "threshold", "value", "low", "high", "n"])


def afp(predictions: pd.DataFrame, truth: pd.DataFrame, threshold: float) -> float:
    """Average false positives per image (Wang et al. 2017): predicted boxes that overlap no true box with IoU > threshold."""
    wrong = [
        (iou(c.predicted, c.true).max(1, initial=0.0) <= threshold).sum()
        for c in cases(predictions, truth)
    ]
    return float(np.mean(wrong))


def auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve [B] of n scores for truth [n] of 0 and 1, by rows of weights [B, n]; NaN where one class weighs nothing.

    The chance that a positive scores above a negative, ties counting one half (Hanley and McNeil 1982).
    """
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of each run of equal scores
    positive = np.add.reduceat((weights * (np.asarray(truth) > 0))[:, order], first, axis=1)
    negative = np.add.reduceat((weights * (np.asarray(truth) <= 0))[:, order], first, axis=1)
    below = negative.cumsum(1) - negative / 2
    pairs = positive.sum(1) * negative.sum(1)
    return np.divide(
        (positive * below).sum(1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0
    )
