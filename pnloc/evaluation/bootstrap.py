"""The bootstrap over patients: whole patients are drawn, so that images of one patient do not pass for independent ones.

A sample is a row of weights: how often each patient was drawn. Statistics are sums over patients, so that all samples are one
product of matrices.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pnloc.errors import PnlocError

NAN = float("nan")


def weights(count: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of `count` patients is drawn in each bootstrap sample: int [resamples, count]."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def of_images(patients: Sequence[str], resamples: int, seed: int) -> np.ndarray:
    """How often each image counts in each bootstrap sample of the patients [n]: int [resamples, n]."""
    index = np.unique(np.asarray(patients), return_inverse=True)[1]
    return weights(index.max() + 1, resamples, seed)[:, index]


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of finite bootstrap values; NaN where there are none."""
    finite = values[np.isfinite(values)]
    return tuple(np.quantile(finite, [0.025, 0.975])) if len(finite) else (NAN, NAN)


def patient_index(images: Sequence[str], patients: Mapping[str, str]) -> np.ndarray:
    """For each image the number of its patient, int [len(images)], counted from 0 in the order of their names."""
    unknown = [image for image in images if image not in patients]
    if unknown:
        raise PnlocError(f"image '{unknown[0]}' has no patient")
    return np.unique([patients[image] for image in images], return_inverse=True)[1]


def by_patient(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Sums over the images of each patient: values [images, columns], index [images] -> [patients, columns]."""
    sums = np.zeros((index.max() + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def p_value(drawn: np.ndarray) -> float:
    """Two-sided p value of 'no difference' from bootstrapped differences [B]: it is below .05 where the 95% interval leaves out 0.

    Twice the share of samples on the lesser side of 0, the sample at hand counted with them (Davison and Hinkley 1997), so that it
    is never 0. NaN where no sample is finite.
    """
    finite = drawn[np.isfinite(drawn)]
    if len(finite) == 0:
        return NAN
    lesser = min((finite <= 0).sum(), (finite >= 0).sum())
    return float(min(1.0, 2 * (1 + lesser) / (1 + len(finite))))


def holm(values: Sequence[float]) -> np.ndarray:
    """P values of one family, corrected by Holm's step-down procedure (1979); a NaN stays NaN and does not count."""
    values = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    corrected = np.full(values.shape, NAN)
    corrected[order] = np.minimum(
        np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1.0
    )
    return corrected
