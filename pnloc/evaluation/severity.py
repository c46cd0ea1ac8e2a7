"""Severity: read-outs of a radiograph, and their association with experts' scores.

Three ways to look: zero-shot (nothing is fitted), a linear map fitted on the other patients (leave one patient out),
and the protocol of Cohen et al. 2020 (50 splits in halves by patient).
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from scipy.stats import rankdata

from pnloc.boxes import as_boxes
from pnloc.errors import PnlocError
from pnloc.evaluation.bootstrap import interval, weights

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
    share = (
        (table["x2"] - table["x1"])
        * (table["y2"] - table["y1"])
        / (table["width"] * table["height"])
    )
    return (
        (share * table["score"])
        .groupby(table["image"])
        .sum()
        .reindex(sizes["image"], fill_value=0.0)
        .astype(float)
    )


def brightness(images: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The trivial read-out: mean grey value [N], 0 to 1, inside fixed boxes, after histogram equalization.

    images uint8 [N, S, S]; regions [n, 4], relative to the picture.
    """
    side = images.shape[-1]
    inside = np.zeros((side, side), dtype=bool)
    for x1, y1, x2, y2 in (as_boxes(regions) * side).round().astype(int):
        inside[y1:y2, x1:x2] = True
    if not inside.any():
        raise PnlocError(
            "the fixed boxes have no area: there is no place to take the brightness of"
        )
    return np.array([_equalized_mean(image, inside) for image in images])


def brightness_within(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The same [N] inside masks bool [N, S, S], such as those of the lungs; NaN where a mask is empty."""
    return np.array(
        [_equalized_mean(i, m) if m.any() else np.nan for i, m in zip(images, inside, strict=True)]
    )


def equalized(image: np.ndarray) -> np.ndarray:
    """A picture uint8 [S, S] after histogram equalization of what is not black padding, 0 to 1."""
    return np.asarray(ImageOps.equalize(Image.fromarray(image), mask=_content(image))) / 255


def _equalized_mean(image: np.ndarray, inside: np.ndarray) -> float:
    return float(equalized(image)[inside].mean())


def _content(image: np.ndarray) -> Image.Image | None:
    """Mask of what is not black padding; None (everything) for an image without contrast."""
    mask = image > 0
    return (
        Image.fromarray((mask * 255).astype(np.uint8)) if len(np.unique(image[mask])) > 1 else None
    )


def _pearson(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation for each row of weights [B, n]; x, y [n] or [B, n]. NaN where one does not vary."""
    total = w.sum(-1, keepdims=True)
    dx, dy = x - (w * x).sum(-1, keepdims=True) / total, y - (w * y).sum(-1, keepdims=True) / total
    xx, yy, xy = (w * dx * dx).sum(-1), (w * dy * dy).sum(-1), (w * dx * dy).sum(-1)
    product = xx * yy
    return np.divide(
        xy, np.sqrt(product), out=np.full(product.shape, np.nan), where=product > 1e-18
    )


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
        (w * (y - fitted) ** 2).sum(-1),
        spread,
        out=np.full(spread.shape, np.nan),
        where=spread > 1e-18,
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


def _aligned(
    readout: pd.Series, score: pd.Series, patients: pd.Series
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
        rows.append(
            ("zero-shot", statistic, function(x, y, one)[0], *interval(function(x, y, drawn)))
        )
    fitted = leave_one_patient_out(x, y, who)
    # Without a slope the predictions are the means of the others, whose correlation says nothing of the read-out.
    moving = fitted if _spread(x) else np.zeros(len(y))
    for statistic, function in (("pearson", _pearson), ("spearman", _spearman)):
        rows.append(
            (
                "leave-one-patient-out",
                statistic,
                function(moving, y, one)[0],
                *interval(function(moving, y, drawn)),
            )
        )
    for statistic, function in (("r2", _r2), ("mae", _mae)):
        rows.append(
            (
                "leave-one-patient-out",
                statistic,
                function(y, fitted, one)[0],
                *interval(function(y, fitted, drawn)),
            )
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


def halves(who: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Which images [n] are tested in each of the 50 splits: those of half of the patients `who` [n]."""
    rng = np.random.default_rng([seed, 50])
    count = who.max() + 1
    for _ in range(SPLITS):
        yield np.isin(who, rng.permutation(count)[: count // 2])


def _halves(
    x: np.ndarray, y: np.ndarray, who: np.ndarray, seed: int, correlation: bool
) -> list[tuple]:
    """Rows of the 50/50 protocol: a line is fitted on one half of the patients and measured on the other."""
    found: dict[str, list[float]] = {"pearson": [], "r2": [], "mae": []}
    for test in halves(who, seed):
        slope, intercept = _line(x[~test], y[~test])
        fitted, one = slope * x[test] + intercept, np.ones((1, test.sum()))
        found["pearson"].append(float(_pearson(fitted, y[test], one)[0]))
        found["r2"].append(float(_r2(y[test], fitted, one)[0]))
        found["mae"].append(float(_mae(y[test], fitted, one)[0]))
    if not correlation:
        del found["pearson"]
    return [
        ("cohen-50-50", s, _mean(np.array(v)), *interval(np.array(v))) for s, v in found.items()
    ]


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def ridge(
    readouts: pd.DataFrame,
    score: pd.Series,
    patients: pd.Series,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """What several read-outs (columns, by image) reach together: table as that of `associations`, without the zero-shot fit.

    Each fit is a ridge regression on standardized read-outs, its penalty chosen by leave-one-out within the images that it is fitted on.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    columns = [_aligned(readouts[name], score, patients) for name in readouts]
    x, (_, y, who) = np.stack([c[0] for c in columns], axis=1), columns[0]

    def fit(test: np.ndarray) -> np.ndarray:
        model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11)))
        return model.fit(x[~test], y[~test]).predict(x[test])

    fitted, one = np.empty(len(y)), np.ones((1, len(y)))
    for patient in np.unique(who):
        fitted[who == patient] = fit(who == patient)
    drawn = weights(who.max() + 1, resamples, seed)[:, who].astype(float)
    measures = {
        "pearson": _pearson,
        "spearman": _spearman,
        "r2": lambda f, y, w: _r2(y, f, w),
        "mae": lambda f, y, w: _mae(y, f, w),
    }
    rows = [
        ("leave-one-patient-out", s, f(fitted, y, one)[0], *interval(f(fitted, y, drawn)))
        for s, f in measures.items()
    ]
    found: dict[str, list[float]] = {"pearson": [], "r2": [], "mae": []}
    for test in halves(who, seed):
        half, ones = fit(test), np.ones((1, test.sum()))
        for statistic, values in found.items():
            values.append(float(measures[statistic](half, y[test], ones)[0]))
    rows += [
        ("cohen-50-50", s, _mean(np.array(v)), *interval(np.array(v))) for s, v in found.items()
    ]
    return pd.DataFrame(rows, columns=["fit", "statistic", "value", "low", "high"]).assign(n=len(y))


def no_data(
    score: pd.Series, patients: pd.Series, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """What predicting the training mean without an image reaches: table fit, statistic (r2, mae), value, low, high, n."""
    x, y, who = _aligned(score * 0.0, score, patients)
    drawn, one = weights(who.max() + 1, resamples, seed)[:, who].astype(float), np.ones((1, len(y)))
    fitted = leave_one_patient_out(x, y, who)
    rows = [
        (
            "leave-one-patient-out",
            statistic,
            function(y, fitted, one)[0],
            *interval(function(y, fitted, drawn)),
        )
        for statistic, function in (("r2", _r2), ("mae", _mae))
    ]
    rows += _halves(x, y, who, seed, correlation=False)
    return pd.DataFrame(rows, columns=["fit", "statistic", "value", "low", "high"]).assign(n=len(y))


def differences(
    first: pd.Series,
    second: pd.Series,
    score: pd.Series,
    patients: pd.Series,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlation of the first read-out with the score minus that of the second: table statistic, value, low, high, n.

    Paired: each bootstrap sample of patients measures both. A read-out that does not vary, as without an image, counts as a correlation of 0.
    """
    a, y, who = _aligned(first, score, patients)
    b, _, _ = _aligned(second, score, patients)
    drawn, one = weights(who.max() + 1, resamples, seed)[:, who].astype(float), np.ones((1, len(y)))
    rows = []
    for statistic, function in (("pearson", _pearson), ("spearman", _spearman)):
        found = [
            np.nan_to_num(function(a, y, w)) - np.nan_to_num(function(b, y, w))
            for w in (one, drawn)
        ]
        rows.append((statistic, found[0][0], *interval(found[1])))
    return pd.DataFrame(rows, columns=["statistic", "value", "low", "high"]).assign(n=len(y))


def partial(
    readout: pd.Series,
    score: pd.Series,
    patients: pd.Series,
    confounder: pd.Series,
    resamples: int = 300,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlations of read-out and score once a confounder is taken out of both: table statistic, value, low, high, n.

    A confounder of numbers is taken out by a line, one of names by the mean of each; for Spearman from the ranks (numbers of it are ranked,
    too). Intervals are bootstrapped over patients, with the regressions done anew in each sample.
    """
    x, y, who = _aligned(readout, score, patients)
    known = confounder.reindex(score.index)
    numeric = pd.api.types.is_numeric_dtype(known)
    rows = []
    drawn = weights(who.max() + 1, resamples, seed)[:, who].astype(float)
    for statistic, ranked in (("pearson", False), ("spearman", True)):
        order = rankdata if ranked else np.asarray
        taken = order(known)[:, None] if numeric else pd.get_dummies(known).to_numpy(float)
        design = np.column_stack([np.ones(len(y)), taken]).astype(float)
        values = [_partial(order(x), order(y), design, w) for w in (np.ones(len(y)), *drawn)]
        rows.append((statistic, values[0], *interval(np.array(values[1:]))))
    return pd.DataFrame(rows, columns=["statistic", "value", "low", "high"]).assign(n=len(y))


def _partial(x: np.ndarray, y: np.ndarray, design: np.ndarray, w: np.ndarray) -> float:
    """Weighted correlation [of x and y, both n] of what a weighted least-squares fit on design [n, k] leaves."""
    root, both = np.sqrt(w)[:, None], np.column_stack([x, y]).astype(float)
    rest = both - design @ np.linalg.lstsq(design * root, both * root, rcond=None)[0]
    rest[:, np.square(rest * root).sum(0) <= 1e-12 * np.square(both * root).sum(0)] = 0.0
    return float(_pearson(rest[:, 0], rest[:, 1], w[None])[0])


def zone_associations(
    ours: np.ndarray, theirs: np.ndarray, patients: np.ndarray, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How far zone scores [n, Z] of n images follow a reader's [n, Z]: table zone, statistic, value, low, high, n.

    'pooled': Spearman over all zones of all images. 'within': the mean over images of the Spearman correlation of an image's zones, of the images
    whose zones differ for the reader; an image whose zones are all alike for us counts 0. Then each zone over the images. n counts zones
    for the pooled line, else images; intervals are bootstrapped over patients.
    """
    drawn, one = _zone_weights(patients, resamples, seed)
    count, zones = ours.shape
    rows = [
        (
            "all",
            "pooled",
            _pooled(ours, theirs, one)[0],
            *interval(_pooled(ours, theirs, drawn)),
            count * zones,
        )
    ]
    if images := int((np.ptp(theirs, axis=1) > 0).sum()):
        within = _within(ours, theirs, drawn)
        rows.append(("all", "within", _within(ours, theirs, one)[0], *interval(within), images))
    for zone in range(zones):
        x, y = ours[:, zone], theirs[:, zone]
        rows.append(
            (zone, "spearman", _spearman(x, y, one)[0], *interval(_spearman(x, y, drawn)), count)
        )
    return pd.DataFrame(rows, columns=["zone", "statistic", "value", "low", "high", "n"])


def zone_differences(
    first: np.ndarray,
    second: np.ndarray,
    theirs: np.ndarray,
    patients: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """'pooled' and 'within' (zone_associations) of two ways to score zones [n, Z], and the first minus the second: table statistic, first,
    second, value, low, high, n images; each bootstrap sample of patients measures both."""
    drawn, one = _zone_weights(patients, resamples, seed)
    rows = []
    for statistic, function in (("pooled", _pooled), ("within", _within)):
        a, b = (float(np.nan_to_num(function(ours, theirs, one)[0])) for ours in (first, second))
        gaps = np.nan_to_num(function(first, theirs, drawn)) - np.nan_to_num(
            function(second, theirs, drawn)
        )
        rows.append((statistic, a, b, a - b, *interval(gaps), len(theirs)))
    return pd.DataFrame(rows, columns=["statistic", "first", "second", "value", "low", "high", "n"])


def _zone_weights(patients: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of images [B, n], bootstrapped over their patients [n], and [1, n] of ones."""
    who = np.unique(np.asarray(patients).astype(str), return_inverse=True)[1]
    return weights(who.max() + 1, resamples, seed)[:, who].astype(float), np.ones((1, len(who)))


def _pooled(ours: np.ndarray, theirs: np.ndarray, w: np.ndarray) -> np.ndarray:
    return _spearman(ours.ravel(), theirs.ravel(), np.repeat(w, ours.shape[1], axis=1))


def _within(ours: np.ndarray, theirs: np.ndarray, w: np.ndarray) -> np.ndarray:
    """NaN for a sample without an image whose zones differ for the reader."""
    varied, one = np.flatnonzero(np.ptp(theirs, axis=1) > 0), np.ones((1, ours.shape[1]))
    each = np.array([np.nan_to_num(_spearman(ours[i], theirs[i], one)[0]) for i in varied])
    mass = w[:, varied].sum(1)
    return np.divide(w[:, varied] @ each, mass, out=np.full(len(w), np.nan), where=mass > 0)


def mean_difference(fitted: np.ndarray, score: np.ndarray) -> tuple[float, float, float]:
    """Bland and Altman 1986: mean of fitted minus score, and the limits of agreement at 1.96 standard deviations of it."""
    gap = np.asarray(fitted, float) - np.asarray(score, float)
    spread = 1.96 * gap.std(ddof=1) if len(gap) > 1 else 0.0
    return float(gap.mean()), float(gap.mean() - spread), float(gap.mean() + spread)


def calibrated(readout: pd.Series, score: pd.Series, patients: pd.Series) -> pd.Series:
    """Each image's score from a line fitted on all other patients, by image as `score` is."""
    return pd.Series(leave_one_patient_out(*_aligned(readout, score, patients)), score.index)


def classes(score: pd.Series, most: float) -> pd.Series:
    """'none' (below 0.5), and thirds of the score's range 0 to `most`: 'mild', 'moderate', 'severe'."""
    edges = [-np.inf, 0.5, most / 3, most * 2 / 3, np.inf]
    return pd.cut(score, edges, labels=["none", "mild", "moderate", "severe"], right=False).astype(
        str
    )
