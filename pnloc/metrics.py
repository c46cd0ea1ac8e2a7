"""Metrics of localization, tables in and tables out, with intervals bootstrapped over patients.

Definitions: book, Data access, and Wang et al. 2017. An image without a prediction counts as a miss. Everything is computed over
the images that have true boxes; predictions on other images are left out.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pnloc.boxes import area, intersection, iou, union_iou
from pnloc.errors import PnlocError

IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB_THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
CORNERS = ["x1", "y1", "x2", "y2"]
NAN = float("nan")


def weights(count: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of `count` patients is drawn in each bootstrap sample: int [resamples, count]."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of finite bootstrap values; NaN where there are none."""
    finite = values[np.isfinite(values)]
    return tuple(np.quantile(finite, [0.025, 0.975])) if len(finite) else (NAN, NAN)


def _per_image(predictions: pd.DataFrame, truth: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Image, predicted boxes (best score first) and true boxes of every image that has true boxes."""
    numbers = predictions[[*CORNERS, "score"]].to_numpy(float)
    if not np.isfinite(numbers).all():
        bad = predictions.loc[~np.isfinite(numbers).all(axis=1), "image"].iloc[0]
        raise PnlocError(f"prediction for image '{bad}': a coordinate or score is not a finite number")
    ordered = predictions.sort_values("score", ascending=False, kind="stable")
    by_image = {image: rows[CORNERS].to_numpy(float) for image, rows in ordered.groupby("image")}
    none = np.zeros((0, 4))
    return [
        (image, by_image.get(image, none), rows[CORNERS].to_numpy(float))
        for image, rows in truth.groupby("image", sort=True)
    ]


def _hits(predicted: np.ndarray, true: np.ndarray) -> dict[tuple[str, float], float]:
    """Hit true boxes of one image per metric and threshold; for 'miou' and 'pointing' the image's own value."""
    found: dict[tuple[str, float], float] = {}
    overlap = iou(predicted, true).max(0, initial=0.0)
    sizes = np.maximum(area(predicted), 1e-12)[:, None]
    inside = (intersection(predicted, true) / sizes).max(0, initial=0.0)
    found |= {("acc", t): float((overlap > t).sum()) for t in IOU_THRESHOLDS}
    found |= {("iobb", t): float((inside > t).sum()) for t in IOBB_THRESHOLDS}
    found["miou", NAN] = union_iou(predicted, true)
    found["pointing", NAN] = float(_points_inside(predicted, true))
    return found


def _points_inside(predicted: np.ndarray, true: np.ndarray) -> bool:
    """Whether the centre of the first predicted box lies in any true box."""
    if len(predicted) == 0:
        return False
    x, y = (predicted[0, 0] + predicted[0, 2]) / 2, (predicted[0, 1] + predicted[0, 3]) / 2
    return bool(((true[:, 0] <= x) & (x <= true[:, 2]) & (true[:, 1] <= y) & (y <= true[:, 3])).any())


def _by_patient(values: np.ndarray, images: list[str], patients: Mapping[str, str]) -> np.ndarray:
    """Sums over the images of each patient: values [images, columns] -> [patients, columns]."""
    unknown = [image for image in images if image not in patients]
    if unknown:
        raise PnlocError(f"image '{unknown[0]}' has true boxes but no patient")
    _, index = np.unique([patients[image] for image in images], return_inverse=True)
    sums = np.zeros((index.max() + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def localization(
    predictions: pd.DataFrame, truth: pd.DataFrame, patients: Mapping[str, str], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Table metric, threshold, value, low, high, n for one method on one set.

    predictions: image, x1, y1, x2, y2, score; truth: image, x1, y1, x2, y2 (same pixels); patients: image -> patient.
    `acc`: share of true boxes that any predicted box overlaps with IoU > threshold. `iobb`: the same with intersection over the
    predicted box. `miou`: mean over images of the IoU of the unions. `pointing`: share of images whose best box has its centre in a
    true box. n counts true boxes for the first two and images for the others. Intervals: 95%, over patients.
    """
    cases = _per_image(predictions, truth)
    if not cases:
        raise PnlocError("there is no true box to measure against")
    found = [_hits(predicted, true) for _, predicted, true in cases]
    keys = list(found[0])
    boxes = np.array([[len(true)] for _, _, true in cases], dtype=float)
    values = np.array([list(f.values()) for f in found])
    images = [image for image, _, _ in cases]
    sums = _by_patient(np.concatenate([values, boxes, np.ones_like(boxes)], axis=1), images, patients)
    drawn = weights(len(sums), resamples, seed) @ sums
    rows = []
    for column, (metric, threshold) in enumerate(keys):
        per = -2 if metric in ("acc", "iobb") else -1
        value = sums[:, column].sum() / sums[:, per].sum()
        rows.append((metric, threshold, value, *interval(drawn[:, column] / drawn[:, per]), int(sums[:, per].sum())))
    return pd.DataFrame(rows, columns=["metric", "threshold", "value", "low", "high", "n"])


def differences(
    first: pd.DataFrame,
    second: pd.DataFrame,
    truth: pd.DataFrame,
    patients: Mapping[str, str],
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Table metric, value, low, high, n: first minus second on the same images, paired over patients.

    Metrics: miou, pointing, and acc@0.3 (over true boxes).
    """
    cases = [_per_image(predictions, truth) for predictions in (first, second)]
    if not cases[0]:
        raise PnlocError("there is no true box to measure against")
    images = [image for image, _, _ in cases[0]]
    values = [[_hits(predicted, true) for _, predicted, true in one] for one in cases]
    boxes = np.array([[len(true)] for _, _, true in cases[0]], dtype=float)
    rows = []
    for name, key in (("miou", "miou"), ("pointing", "pointing"), ("acc@0.3", ("acc", 0.3))):
        per_image = [np.array([[_value(v, key)] for v in one]) for one in values]
        count = boxes if isinstance(key, tuple) else np.ones_like(boxes)
        sums = _by_patient(np.concatenate([per_image[0] - per_image[1], count], axis=1), images, patients)
        drawn = weights(len(sums), resamples, seed) @ sums
        total = sums.sum(0)
        rows.append((name, total[0] / total[1], *interval(drawn[:, 0] / drawn[:, 1]), int(total[1])))
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "n"])


def _value(hits: dict[tuple[str, float], float], key: str | tuple[str, float]) -> float:
    """The value of a metric; one without a threshold goes by its name alone."""
    return hits[key] if isinstance(key, tuple) else next(v for (metric, _), v in hits.items() if metric == key)


def afp(predictions: pd.DataFrame, truth: pd.DataFrame, threshold: float) -> float:
    """Average false positives per image (Wang et al. 2017): predicted boxes that overlap no true box with IoU > threshold."""
    cases = _per_image(predictions, truth)
    return float(
        np.mean([(iou(predicted, true).max(1, initial=0.0) <= threshold).sum() for _, predicted, true in cases])
    )
