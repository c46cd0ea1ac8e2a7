"""Metrics of localization: tables in, tables out, with intervals bootstrapped over patients.

Definitions: book, Reproduce, and the sources named at each. An image without a
prediction is a miss. Predictions on images that are neither in the table of true boxes nor among
the negatives are left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pnloc.boxes import area, intersection, iou, union_iou
from pnloc.errors import PnlocError
from pnloc.evaluation import froc_ap
from pnloc.evaluation.bootstrap import NAN, Estimate, Patients, patients_of
from pnloc.evaluation.froc_ap import Case
from pnloc.evaluation.statistics import ratio

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
CORNERS = ["x1", "y1", "x2", "y2"]
METRICS = ("acc", "iobb", "miou", "pointing", "afp", "froc", "froc_mean", "rsna_map", "coco_ap")
PER_BOX = ("acc", "iobb")  # shares of true boxes; the others are means over images
COMPARED = {"miou": ("miou", NAN), "pointing": ("pointing", NAN), "acc@0.3": ("acc", 0.3)}
ESTIMATE = ["value", "low", "high", "n"]


@dataclass(frozen=True)
class Truth:
    """What predictions are measured against, on images of one set."""

    boxes: pd.DataFrame  # image, x1, y1, x2, y2; in the pixels of the predictions
    patients: Mapping[str, str]  # of every image
    negatives: Iterable[str] = ()  # images known to have no true box

    def cases(self, predictions: pd.DataFrame, negatives: bool = True) -> list[Case]:
        """The images as `cases`, with or without the negatives."""
        return cases(predictions, self.boxes, self.negatives if negatives else ())

    def draws(self, cases: Iterable[Case], resamples: int, seed: int) -> Patients:
        """Bootstrap samples of some images; one without a patient raises PnlocError."""
        return Patients(patients_of([c.image for c in cases], self.patients), resamples, seed)


def cases(
    predictions: pd.DataFrame, truth: pd.DataFrame, negatives: Iterable[str] = ()
) -> list[Case]:
    """Every image with true boxes, by name, then every negative, by name.

    predictions: image, x1, y1, x2, y2, score; truth: image, x1, y1, x2, y2 (same pixels). Raises
    PnlocError where there is no true box, where a coordinate or score is not finite, or where a
    negative has a true box.
    """
    finite = np.isfinite(predictions[[*CORNERS, "score"]].to_numpy(float)).all(axis=1)
    if not finite.all():
        image, reason = predictions.loc[~finite, "image"].iloc[0], "is not a finite number"
        raise PnlocError(f"prediction for image '{image}': a coordinate or score {reason}")
    if truth.empty:
        raise PnlocError("there is no true box to measure against")
    # Ties lie in the order of their corners, so that none of the metrics depends on that of rows.
    ordered = predictions.sort_values(["score", *CORNERS], ascending=[False, *[True] * 4])
    predicted = _by_image(ordered, [*CORNERS, "score"])
    true = _by_image(truth, CORNERS)
    negatives = sorted(set(negatives))
    both = [image for image in negatives if image in true]
    if both:
        raise PnlocError(f"image '{both[0]}' has true boxes and is named as one without")
    none, result = np.zeros((0, 5)), []
    for image in (*true, *negatives):
        boxes = predicted.get(image, none)
        result.append(Case(image, boxes[:, :4], boxes[:, 4], true.get(image, none[:, :4])))
    return result


def _by_image(table: pd.DataFrame, columns: list[str]) -> dict[str, np.ndarray]:
    groups = table.groupby("image", sort=True)[columns]
    return {image: rows.to_numpy(float) for image, rows in groups}


def per_image(case: Case) -> dict[tuple[str, float], float]:
    """Metrics of an image with true boxes, by name and threshold; of PER_BOX sums over boxes."""
    predicted, true = case.predicted, case.true
    overlaps = iou(predicted, true)
    best, best_of_prediction = overlaps.max(0, initial=0.0), overlaps.max(1, initial=0.0)
    sizes = np.maximum(area(predicted), 1e-12)[:, None]
    inside = (intersection(predicted, true) / sizes).max(0, initial=0.0)
    values = {("acc", t): float((best > t).sum()) for t in IOU_THRESHOLDS}
    values |= {("iobb", t): float((inside > t).sum()) for t in IOBB_THRESHOLDS}
    values["miou", NAN] = union_iou(predicted, true)
    best = predicted[case.scores == case.scores.max(initial=-np.inf), None]
    centres = (best[..., :2] + best[..., 2:]) / 2
    inside = ((true[:, :2] <= centres) & (centres <= true[:, 2:])).all(axis=-1).any(axis=-1)
    values["pointing", NAN] = float(inside.mean()) if len(inside) else 0.0
    return values | {("afp", t): float((best_of_prediction <= t).sum()) for t in IOU_THRESHOLDS}


def localization(
    predictions: pd.DataFrame, truth: Truth, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Table metric, threshold, value, low, high, n of one method on one set.

    predictions: image, x1, y1, x2, y2, score.

    Over true boxes (n counts them): `acc`, the share that any predicted box overlaps with IoU >
    threshold (Wang et al. 2017); `iobb`, the same with intersection over the predicted box. Over
    images with true boxes: `miou`, mean IoU of the unions; `pointing`, share whose best box has
    its centre in a true box, a tie counting by the share of its boxes that do; `afp`, predicted
    boxes that overlap no true box with IoU > threshold. Over these and the negatives: `froc`,
    sensitivity at `threshold` false positives per image, and `froc_mean`, its mean over the rates;
    `rsna_map`, without images that have no box of either kind; `coco_ap` at IoU .5 (threshold .5)
    and averaged over .5 to .95 (no threshold).
    """
    everything = truth.cases(predictions)
    boxed = [case for case in everything if len(case.true)]
    draws, boxes = truth.draws(boxed, resamples, seed), _true_boxes(boxed)
    rows = [
        (*key, *draws.mean(values, boxes if key[0] in PER_BOX else None))
        for key, values in _columns(boxed).items()
    ]
    rows += _over_all(everything, truth.draws(everything, resamples, seed))
    return pd.DataFrame(rows, columns=["metric", "threshold", *ESTIMATE])


def _true_boxes(boxed: list[Case]) -> np.ndarray:
    """The number of true boxes of each image: float [n]."""
    return np.array([len(case.true) for case in boxed], dtype=float)


def _columns(boxed: list[Case]) -> dict[tuple[str, float], np.ndarray]:
    """`per_image` of images with true boxes, each metric as an array [n]."""
    table = [per_image(case) for case in boxed]
    return {key: np.array([row[key] for row in table]) for key in table[0]}


def _over_all(everything: list[Case], draws: Patients) -> list[tuple]:
    """Rows of the metrics that take in the negatives."""
    weights = np.concatenate([np.ones((1, len(everything))), draws.weights])
    sensitivity = froc_ap.froc(everything, weights)
    precision = froc_ap.average_precision(everything, weights)
    rsna = np.array([froc_ap.rsna_precision(case) for case in everything])
    counted = np.isfinite(rsna)
    with np.errstate(invalid="ignore"):
        of_counted = np.ascontiguousarray(weights[:, counted])
        rsna_map = of_counted @ rsna[counted] / of_counted.sum(1)
    n = len(everything)
    columns = [
        *(("froc", rate, sensitivity[:, i], n) for i, rate in enumerate(froc_ap.FROC_RATES)),
        ("froc_mean", NAN, sensitivity.mean(1), n),
        ("rsna_map", NAN, rsna_map, int(counted.sum())),
        ("coco_ap", NAN, precision.mean(1), n),
        ("coco_ap", float(froc_ap.COCO_THRESHOLDS[0]), precision[:, 0], n),
    ]
    return [(*key, *Estimate.of(float(v[0]), v[1:], n)) for *key, v, n in columns]


def differences(
    first: pd.DataFrame, second: pd.DataFrame, truth: Truth, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Table metric, value, low, high, n, p of first minus second on the same images, paired.

    Metrics: miou, pointing, and acc@0.3 (over true boxes). p is not corrected.
    """
    one, other = (truth.cases(predictions, negatives=False) for predictions in (first, second))
    draws, boxes = truth.draws(one, resamples, seed), _true_boxes(one)
    a, b, rows = _columns(one), _columns(other), []
    for name, key in COMPARED.items():
        gap = draws.difference(a[key], b[key], boxes if key[0] in PER_BOX else None)
        rows.append((name, *gap, gap.p))
    return pd.DataFrame(rows, columns=["metric", *ESTIMATE, "p"])


def contrast_to_noise(heat: np.ndarray, true: np.ndarray) -> float:
    """|mean inside - mean outside| / sqrt(var inside + var outside) of a map [H, W].

    The mean over the true boxes [m, 4]; pixels whose centre lies in a box are inside. A flat map
    has no contrast: 0. NaN where no box has pixels on either side, or there is no noise at all.
    Source: Boecking et al. 2022.
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


def heat_table(
    maps: pd.DataFrame, patients: Mapping[str, str], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Table metric, threshold, value, low, high, n of heat maps; maps: image, cnr, a row each.

    `cnr` is the mean of `contrast_to_noise` over images, those without one left out.
    """
    finite = maps[maps["cnr"].notna()]
    row = (NAN, NAN, NAN, 0)
    if len(finite):
        draws = Patients(patients_of(list(finite["image"]), patients), resamples, seed)
        row = draws.mean(finite["cnr"].to_numpy(float))
    return pd.DataFrame([("cnr", NAN, *row)], columns=["metric", "threshold", *ESTIMATE])


def auc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve [B] of scores [n] for truth [n] of 0 and 1, by weights [B, n].

    The chance that a positive scores above a negative, ties counting one half (Hanley and McNeil
    1982). NaN where one class weighs nothing.
    """
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of each run of equal scores
    positive = np.add.reduceat((weights * (np.asarray(truth) > 0))[:, order], first, axis=1)
    negative = np.add.reduceat((weights * (np.asarray(truth) <= 0))[:, order], first, axis=1)
    below = negative.cumsum(1) - negative / 2
    pairs = positive.sum(1) * negative.sum(1)
    return ratio((positive * below).sum(1), pairs, pairs > 0)
