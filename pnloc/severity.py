"""Severity: read-outs of a radiograph, and their association with experts' scores.

Three ways to look: zero-shot (nothing is fitted), a linear map fitted on the other patients (leave one patient out),
and the protocol of Cohen et al. 2020 (50 splits in halves by patient).
"""

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from scipy.stats import rankdata

from pnloc.boxes import as_boxes
from pnloc.errors import PnlocError
from pnloc.metrics import interval, weights

LEVELS = {"severity:mild": 1.0, "severity:moderate": 2.0, "severity:severe": 3.0}
SPLITS = 50


def expected_severity(probabilities: pd.DataFrame) -> pd.Series:
    """Expected grade of each image, 0 (no pneumonia) to 3 (severe).

    probabilities: columns 'pneumonia', 'severity:mild', 'severity:moderate', 'severity:severe'. The three grades are scaled to a sum
    of one, weighted with 1, 2 and 3, and multiplied by the probability of a pneumonia.
    """
    grades = probabilities[list(LEVELS)]
    total = grades.sum(axis=1).clip(lower=1e-9)
    return (grades * pd.Series(LEVELS)).sum(axis=1) / total * probabilities["pneumonia"]


def box_area(predictions: pd.DataFrame, sizes: pd.DataFrame) -> pd.Series:
    """Sum over an image's boxes of score times the box's share of the picture; 0 for an image without boxes.

    predictions: image, x1, y1, x2, y2, score; sizes: image, width, height (same pixels), one row per image.
    """
    table = predictions.merge(sizes, on="image")
    share = (table["x2"] - table["x1"]) * (table["y2"] - table["y1"]) / (table["width"] * table["height"])
    return (share * table["score"]).groupby(table["image"]).sum().reindex(sizes["image"], fill_value=0.0).astype(float)


def brightness(images: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The trivial read-out: mean grey value [N], 0 to 1, inside fixed boxes, after histogram equalization.

    images uint8 [N, S, S]; regions [n, 4], relative to the picture.
    """
    side = images.shape[-1]
    inside = np.zeros((side, side), dtype=bool)
    for x1, y1, x2, y2 in (as_boxes(regions) * side).round().astype(int):
        inside[y1:y2, x1:x2] = True
    if not inside.any():
        raise PnlocError("the fixed boxes have no area: there is no place to take the brightness of")
    return np.array(
        [np.asarray(ImageOps.equalize(Image.fromarray(i), mask=_content(i)))[inside].mean() / 255 for i in images]
    )


def _content(image: np.ndarray) -> Image.Image | None:
    """Mask of what is not black padding; None (everything) for an image without contrast."""
    mask = image > 0
    return Image.fromarray((mask * 255).astype(np.uint8)) if len(np.unique(image[mask])) > 1 else None


def _pearson(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation for each row of weights [B, n]; x, y [n] or [B, n]. NaN where one does not vary."""
    total = w.sum(-1, keepdims=True)
    dx, dy = x - (w * x).sum(-1, keepdims=True) / total, y - (w * y).sum(-1, keepdims=True) / total
    xx, yy, xy = (w * dx * dx).sum(-1), (w * dy * dy).sum(-1), (w * dx * dy).sum(-1)
    product = xx * yy
    return np.divide(xy, np.sqrt(product), out=np.full(product.shape, np.nan), where=product > 1e-18)


def _spearman(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted Spearman correlation per row of integer weights [B, n]: Pearson of the mid-ranks within each sample."""
    return _pearson(_ranks(x, w), _ranks(y, w), w)


def _ranks(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mid-ranks [B, n] of values [n], each repeated w times."""
    dense = rankdata(values, method="dense").astype(int) - 1
    mass = np.zeros((len(w), dense.max() + 1))
    np.add.at(mass.T, dense, w.T)
    upper = mass.cumsum(1)
    return (upper - mass / 2 + 0.5)[:, dense]


def _r2(y: np.ndarray, fitted: np.ndarray, w: np.ndarray) -> np.ndarray:
    mean = (w * y).sum(-1, keepdims=True) / w.sum(-1, keepdims=True)
    spread = (w * (y - mean) ** 2).sum(-1)
    return 1 - np.divide(
        (w * (y - fitted) ** 2).sum(-1), spread, out=np.full(spread.shape, np.nan), where=spread > 1e-18
    )


def _mae(y: np.ndarray, fitted: np.ndarray, w: np.ndarray) -> np.ndarray:
    return (w * np.abs(y - fitted)).sum(-1) / w.sum(-1)


def _spread(x: np.ndarray) -> float:
    """Sum of the squared deviations from the mean; 0 where they are no more than rounding."""
    spread = float(((x - x.mean()) ** 2).sum())
    return spread if spread > 1e-18 else 0.0


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the least-squares line; slope 0 where x does not vary."""
    spread = _spread(x)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread if spread else 0.0
    return slope, y.mean() - slope * x.mean()


def _aligned(readout: pd.Series, score: pd.Series, patients: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read-out, score and patient number of the images, as arrays of equal length; all values must be finite."""
    x, y = readout.reindex(score.index).to_numpy(float), score.to_numpy(float)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise PnlocError(
            f"{int((~(np.isfinite(x) & np.isfinite(y))).sum())} images have a read-out or a score that is not a number"
        )
    return x, y, np.unique(patients.reindex(score.index).astype(str), return_inverse=True)[1]


def associations(
    readout: pd.Series, score: pd.Series, patients: pd.Series, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Table fit, statistic, value, low, high, n of one read-out against one score.

    All three are indexed by image. Intervals of the first two fits: 95%, bootstrapped over patients (the leave-one-out predictions are
    kept); of 'cohen-50-50': the 2.5 and 97.5 percentiles over its splits, whose mean is the value. A read-out that does not vary has no
    correlation (NaN). Fewer than two patients raise PnlocError.
    """
    x, y, who = _aligned(readout, score, patients)
    if len(set(who)) < 2:
        raise PnlocError("an association needs scored images of at least two patients")
    drawn = weights(who.max() + 1, resamples, seed)[:, who].astype(float)
    one = np.ones((1, len(y)))
    rows = []
    for statistic, function in (("pearson", _pearson), ("spearman", _spearman)):
        rows.append(("zero-shot", statistic, function(x, y, one)[0], *interval(function(x, y, drawn))))
    fitted = leave_one_patient_out(x, y, who)
    # Without a slope the predictions are the means of the others, whose correlation says nothing of the read-out.
    moving = fitted if _spread(x) else np.zeros(len(y))
    for statistic, function in (("pearson", _pearson), ("spearman", _spearman)):
        rows.append(
            ("leave-one-patient-out", statistic, function(moving, y, one)[0], *interval(function(moving, y, drawn)))
        )
    for statistic, function in (("r2", _r2), ("mae", _mae)):
        rows.append(
            ("leave-one-patient-out", statistic, function(y, fitted, one)[0], *interval(function(y, fitted, drawn)))
        )
    rows += _halves(x, y, who, seed, correlation=True)
    return pd.DataFrame(rows, columns=["fit", "statistic", "value", "low", "high"]).assign(n=len(y))


def leave_one_patient_out(x: np.ndarray, y: np.ndarray, who: np.ndarray) -> np.ndarray:
    """Each image's score from a line fitted on the images of all other patients."""
    fitted = np.empty(len(y))
    for patient in np.unique(who):
        out = who == patient
        slope, intercept = _line(x[~out], y[~out])
        fitted[out] = slope * x[out] + intercept
    return fitted


def _halves(x: np.ndarray, y: np.ndarray, who: np.ndarray, seed: int, correlation: bool) -> list[tuple]:
    """Rows of the 50/50 protocol: a line is fitted on one half of the patients and measured on the other."""
    rng = np.random.default_rng([seed, 50])
    count = who.max() + 1
    found: dict[str, list[float]] = {"pearson": [], "r2": [], "mae": []}
    for _ in range(SPLITS):
        test = np.isin(who, rng.permutation(count)[: count // 2])
        slope, intercept = _line(x[~test], y[~test])
        fitted, one = slope * x[test] + intercept, np.ones((1, test.sum()))
        found["pearson"].append(float(_pearson(fitted, y[test], one)[0]))
        found["r2"].append(float(_r2(y[test], fitted, one)[0]))
        found["mae"].append(float(_mae(y[test], fitted, one)[0]))
    if not correlation:
        del found["pearson"]
    return [("cohen-50-50", s, _mean(np.array(v)), *interval(np.array(v))) for s, v in found.items()]


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def no_data(score: pd.Series, patients: pd.Series, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """What predicting the training mean without an image reaches: table fit, statistic (r2, mae), value, low, high, n."""
    x, y, who = _aligned(score * 0.0, score, patients)
    drawn, one = weights(who.max() + 1, resamples, seed)[:, who].astype(float), np.ones((1, len(y)))
    fitted = leave_one_patient_out(x, y, who)
    rows = [
        ("leave-one-patient-out", statistic, function(y, fitted, one)[0], *interval(function(y, fitted, drawn)))
        for statistic, function in (("r2", _r2), ("mae", _mae))
    ]
    rows += _halves(x, y, who, seed, correlation=False)
    return pd.DataFrame(rows, columns=["fit", "statistic", "value", "low", "high"]).assign(n=len(y))
