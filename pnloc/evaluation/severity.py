"""Severity: read-outs of a radiograph, and their association with experts' scores.

There are three fits: zero-shot (nothing is fitted), a line fitted on all other patients (leave one
patient out), and the protocol of Cohen et al. 2020 (50 random halves by patient).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from scipy.stats import rankdata

from pnloc.errors import PnlocError
from pnloc.evaluation.bootstrap import Patients, interval
from pnloc.evaluation.statistics import CORRELATIONS, ERRORS, STATISTICS, pearson, ratio, spearman

LEVELS = {"severity:mild": 1.0, "severity:moderate": 2.0, "severity:severe": 3.0}
SPLITS = 50
LEFT_OUT, HALVES = "leave-one-patient-out", "cohen-50-50"

Fit = Callable[[np.ndarray], np.ndarray]  # tested images, bool [n] -> their predictions


# Read-outs ----------------------------------------------------------------------------------------


def expected_severity(probabilities: pd.DataFrame) -> pd.Series:
    """Expected grade of each image, 0 (no pneumonia) to 3 (severe).

    probabilities: columns 'pneumonia' and those of LEVELS. The three grades are scaled to a sum of
    one, weighted with 1, 2 and 3, and multiplied by the probability of a pneumonia.
    """
    grades = probabilities[list(LEVELS)]
    total = grades.sum(axis=1).clip(lower=1e-9)
    return (grades * pd.Series(LEVELS)).sum(axis=1) / total * probabilities["pneumonia"]


def equalized(image: np.ndarray) -> np.ndarray:
    """A picture uint8 [S, S] after histogram equalization without its black padding, 0 to 1."""
    content = image > 0
    flat = len(np.unique(image[content])) < 2
    mask = None if flat else Image.fromarray((content * 255).astype(np.uint8))
    return np.asarray(ImageOps.equalize(Image.fromarray(image), mask=mask)) / 255


def means_inside(values: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mean [N] of values [N, S, S] inside bool masks [N, S, S]; NaN for an empty mask."""
    pairs = zip(values, masks, strict=True)
    return np.array([v[mask].mean() if mask.any() else np.nan for v, mask in pairs])


# Fits ---------------------------------------------------------------------------------------------


def _spread(x: np.ndarray) -> float:
    """Sum of the squared deviations from the mean; 0 where they are no more than rounding."""
    spread = float(((x - x.mean()) ** 2).sum())
    return spread if spread > 1e-18 else 0.0


def line(x: np.ndarray, y: np.ndarray) -> Fit:
    """Least-squares lines through the images that are not tested; flat where x does not vary."""

    def fit(test: np.ndarray) -> np.ndarray:
        known, values = x[~test], y[~test]
        spread = _spread(known)
        products = (known - known.mean()) * (values - values.mean())
        slope = products.sum() / spread if spread else 0.0
        return slope * x[test] + (values.mean() - slope * known.mean())

    return fit


def leave_one_patient_out(fit: Fit, who: np.ndarray) -> np.ndarray:
    """Each image's prediction by a fit on the images of all other patients; who [n] of numbers."""
    fitted = np.empty(len(who))
    for patient in np.unique(who):
        fitted[who == patient] = fit(who == patient)
    return fitted


def halves(who: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Which images [n] are tested in each of the 50 splits: those of half of the patients."""
    rng = np.random.default_rng([seed, 50])
    count = who.max() + 1
    for _ in range(SPLITS):
        yield np.isin(who, rng.permutation(count)[: count // 2])


def _fitted(
    fit: Fit, y: np.ndarray, patients: Patients, statistics: dict, flat: bool = False
) -> pd.DataFrame:
    """Table fit, statistic, value, low, high, n of a fit by both protocols.

    Without a slope (`flat`) the predictions are means over other patients. Their correlation says
    nothing about the read-out and is left undefined.
    """
    fitted, rows = leave_one_patient_out(fit, patients.index), []
    for name, statistic in statistics.items():
        x = np.zeros(len(y)) if flat and name in CORRELATIONS else fitted
        rows.append((LEFT_OUT, name, *patients.of(partial(statistic, x, y))))
    tests = halves(patients.index, patients.seed)
    splits = [(fit(test), y[test], np.ones((1, test.sum()))) for test in tests]
    for name in [name for name in statistics if name != "spearman"]:
        values = np.array([statistics[name](*split)[0] for split in splits])
        mean = pd.Series(values[np.isfinite(values)]).mean()
        rows.append((HALVES, name, mean, *interval(values), len(y)))
    return _table(rows, "fit", "statistic")


def _table(rows: list[tuple], *keys: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*keys, "value", "low", "high", "n"])


def _finite(score: pd.Series, *readouts: pd.Series) -> list[np.ndarray]:
    """Read-outs and the score, in the order of the score's images; all must be finite."""
    values = [v.reindex(score.index).to_numpy(float) for v in (*readouts, score)]
    if missing := int((~np.isfinite(values).all(0)).sum()):
        raise PnlocError(f"{missing} images have a read-out or a score that is not a number")
    return values


# Tables -------------------------------------------------------------------------------------------


def associations(readout: pd.Series, score: pd.Series, patients: Patients) -> pd.DataFrame:
    """Table fit, statistic, value, low, high, n of one read-out against one score, by image.

    patients: those of the score's images. Intervals of the first two fits: 95%, bootstrapped over
    patients, without fitting again; of 'cohen-50-50': the 2.5 and 97.5 percentiles over its splits,
    whose mean is the value. A read-out that does not vary has no correlation (NaN). Fewer than two
    patients raise PnlocError.
    """
    x, y = _finite(score, readout)
    if patients.index.max() < 1:
        raise PnlocError("an association needs scored images of at least two patients")
    alone = zero_shot(readout, score, patients).assign(fit="zero-shot")
    fits = _fitted(line(x, y), y, patients, STATISTICS, flat=not _spread(x))
    return pd.concat([alone, fits], ignore_index=True)[[*fits]]


def zero_shot(readout: pd.Series, score: pd.Series, patients: Patients) -> pd.DataFrame:
    """Both correlations, nothing fitted: table statistic, value, low, high, n."""
    both = _finite(score, readout)
    rows = [(name, *patients.of(partial(f, *both))) for name, f in CORRELATIONS.items()]
    return _table(rows, "statistic")


def no_data(score: pd.Series, patients: Patients) -> pd.DataFrame:
    """The training mean, without an image: the table of `associations` for r2 and mae alone."""
    (y,) = _finite(score)
    return _fitted(line(y * 0.0, y), y, patients, ERRORS)


def differences(
    first: pd.Series, second: pd.Series, score: pd.Series, patients: Patients
) -> pd.DataFrame:
    """Correlation of the first read-out minus that of the second: statistic, value, low, high, n.

    Paired: each bootstrap sample of patients measures both. A read-out that does not vary, as
    without an image, counts as a correlation of 0.
    """
    columns = _finite(score, first, second)
    return _differences(CORRELATIONS, *columns, patients).drop(columns=["first", "second"])


def _differences(
    statistics: dict, first: np.ndarray, second: np.ndarray, truth: np.ndarray, patients: Patients
) -> pd.DataFrame:
    """Statistics of two arrays [n, ...] with the truth, and first minus second, with intervals."""
    rows, one = [], np.ones((1, len(truth)))
    for name, statistic in statistics.items():
        both = [partial(statistic, values, truth) for values in (first, second)]
        values = [float(np.nan_to_num(function(one)[0])) for function in both]
        rows.append((name, *values, *patients.of(partial(_gap, *both))))
    return _table(rows, "statistic", "first", "second")


def _gap(first: Fit, second: Fit, w: np.ndarray) -> np.ndarray:
    """The difference of two statistics of weights, each 0 where it is undefined."""
    return np.nan_to_num(first(w)) - np.nan_to_num(second(w))


def partials(
    readout: pd.Series, score: pd.Series, patients: Patients, confounder: pd.Series
) -> pd.DataFrame:
    """Partial correlations, given a confounder: table statistic, value, low, high, n.

    A line removes a numeric confounder from both, the mean of each level a categorical one; for
    Spearman from ranks (of a numeric confounder, too). Each sample has its own regressions.
    """
    x, y = _finite(score, readout)
    values, rows = confounder.reindex(score.index), []
    numeric = pd.api.types.is_numeric_dtype(values)
    for statistic, order in (("pearson", np.asarray), ("spearman", rankdata)):
        columns = order(values) if numeric else pd.get_dummies(values)
        design = np.column_stack([np.ones(len(y)), columns]).astype(float)
        both = np.column_stack([order(x), order(y)]).astype(float)
        rows.append((statistic, *patients.of(partial(_of_residuals, both, design))))
    return _table(rows, "statistic")


def _of_residuals(both: np.ndarray, design: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted correlation [B] of the residuals of both [n, 2] after least squares on [n, k]."""
    correlations = []
    for row in w:
        root = np.sqrt(row)[:, None]
        rest = both - design @ np.linalg.lstsq(design * root, both * root, rcond=None)[0]
        sums, limits = np.square(rest * root).sum(0), np.square(both * root).sum(0)
        rest[:, sums <= 1e-12 * limits] = 0.0
        correlations.append(pearson(rest[:, 0], rest[:, 1], row[None])[0])
    return np.array(correlations)


def zone_associations(ours: np.ndarray, theirs: np.ndarray, patients: Patients) -> pd.DataFrame:
    """Zone scores [n, Z] against a reader's [n, Z]: table zone, statistic, value, low, high, n.

    'pooled': Spearman over all zones of all images. 'within': the mean over images of the Spearman
    correlation within an image, for images whose zones differ for the reader; an image whose zones
    are all equal for us counts 0. Then each zone over the images. n is the number of zones for
    'pooled', else of images.
    """
    pooled = patients.of(partial(_pooled, ours, theirs))
    rows = [("all", "pooled", *replace(pooled, n=ours.size))]
    if images := int((np.ptp(theirs, axis=1) > 0).sum()):
        within = patients.of(partial(_within, ours, theirs))
        rows.append(("all", "within", *replace(within, n=images)))
    for zone, (x, y) in enumerate(zip(ours.T, theirs.T, strict=True)):
        rows.append((zone, "spearman", *patients.of(partial(spearman, x, y))))
    return _table(rows, "zone", "statistic")


def zone_differences(
    first: np.ndarray, second: np.ndarray, theirs: np.ndarray, patients: Patients
) -> pd.DataFrame:
    """'pooled' and 'within' (`zone_associations`) of two ways to score zones, and their difference.

    Table statistic, first, second, value, low, high, n images; value is first minus second.
    """
    return _differences({"pooled": _pooled, "within": _within}, first, second, theirs, patients)


def _pooled(ours: np.ndarray, theirs: np.ndarray, w: np.ndarray) -> np.ndarray:
    return spearman(ours.ravel(), theirs.ravel(), np.repeat(w, ours.shape[1], axis=1))


def _within(ours: np.ndarray, theirs: np.ndarray, w: np.ndarray) -> np.ndarray:
    """NaN for a sample without an image whose zones differ for the reader."""
    varied, one = np.flatnonzero(np.ptp(theirs, axis=1) > 0), np.ones((1, ours.shape[1]))
    each = np.array([np.nan_to_num(spearman(ours[i], theirs[i], one)[0]) for i in varied])
    mass = w[:, varied].sum(1)
    return ratio(w[:, varied] @ each, mass, mass > 0)


def calibrated(readout: pd.Series, score: pd.Series, patients: pd.Series) -> pd.Series:
    """Each image's score by a line fitted on all other patients; indexed as `score` is."""
    who = Patients(patients.reindex(score.index).astype(str)).index
    return pd.Series(leave_one_patient_out(line(*_finite(score, readout)), who), score.index)
