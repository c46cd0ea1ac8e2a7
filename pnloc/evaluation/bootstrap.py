"""The bootstrap over patients.

Whole patients are drawn, because images of one patient are not independent. A sample is a row of
weights, how often each patient was drawn, so that all samples of a mean are one matrix product.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pnloc.errors import PnlocError

NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval; unpacks into the columns value, low, high, n of a table."""

    value: float
    low: float
    high: float
    n: int
    p: float  # two-sided, of the value 0; not corrected

    def __iter__(self) -> Iterator[float]:
        return iter((self.value, self.low, self.high, self.n))

    @classmethod
    def of(cls, value: float, samples: np.ndarray, n: int) -> "Estimate":
        """The estimate of a value from its bootstrap samples [B]."""
        return cls(value, *interval(samples), n, p_value(samples))


class Patients:
    """Bootstrap samples of the rows of a table, drawn by `patients`, the patient of each row.

    The same patients, resamples and seed always give the same samples, so statistics of the same
    rows are paired.
    """

    def __init__(self, patients: Sequence, resamples: int = 1000, seed: int = 0) -> None:
        self.index = np.unique(np.asarray(patients), return_inverse=True)[1]  # [n]
        self.resamples, self.seed = resamples, seed

    @cached_property
    def drawn(self) -> np.ndarray:
        """How often each patient was drawn in each sample: int [B, patients]."""
        count = self.index.max() + 1
        rng = np.random.default_rng(self.seed)
        return rng.multinomial(count, np.full(count, 1 / count), size=self.resamples)

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each row counts in each sample: float [B, n]."""
        return self.drawn[:, self.index].astype(float)

    def of(self, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Any statistic: a function from weights [b, n] to a value for each row of them [b]."""
        count = len(self.index)
        return Estimate.of(float(statistic(np.ones((1, count)))[0]), statistic(self.weights), count)

    def mean(self, values: np.ndarray, per: np.ndarray | None = None) -> Estimate:
        """Sum of the values [n] over the sum of `per` [n], by default 1 each; that sum is n."""
        sums = self.sums(values, np.ones(len(values)) if per is None else per)
        return self._ratio(sums, sums[:, 0].sum(), sums[:, 1].sum())

    def difference(
        self, first: np.ndarray, second: np.ndarray, per: np.ndarray | None = None
    ) -> Estimate:
        """`mean` of the paired differences first - second [n]."""
        sums = self.sums(first - second, np.ones(len(first)) if per is None else per)
        return self._ratio(sums, *sums.sum(0))

    def sums(self, *columns: np.ndarray) -> np.ndarray:
        """Sums of columns [n] over the rows of each patient: [patients, columns]."""
        sums = np.zeros((self.index.max() + 1, len(columns)))
        np.add.at(sums, self.index, np.stack(columns, axis=1))
        return sums

    def _ratio(self, sums: np.ndarray, values: float, per: float) -> Estimate:
        samples = self.drawn @ sums
        with np.errstate(invalid="ignore", divide="ignore"):
            return Estimate.of(values / per, samples[:, 0] / samples[:, 1], int(per))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the finite bootstrap values; NaN where there are none."""
    finite = values[np.isfinite(values)]
    return tuple(np.quantile(finite, [0.025, 0.975])) if len(finite) else (NAN, NAN)


def patients_of(images: Sequence[str], patients: Mapping[str, str]) -> list[str]:
    """The patient of each image; an image without one raises PnlocError."""
    unknown = [image for image in images if image not in patients]
    if unknown:
        raise PnlocError(f"image '{unknown[0]}' has no patient")
    return [patients[image] for image in images]


def p_value(drawn: np.ndarray) -> float:
    """Two-sided p value of 'no difference' from bootstrapped differences [B].

    Twice the share of samples on the lesser side of 0, counting the observed sample as one of them
    (Davison and Hinkley 1997), so that it is never 0; it is below .05 if the 95% interval excludes
    0. NaN if no sample is finite.
    """
    finite = drawn[np.isfinite(drawn)]
    if len(finite) == 0:
        return NAN
    lesser = min((finite <= 0).sum(), (finite >= 0).sum())
    return float(min(1.0, 2 * (1 + lesser) / (1 + len(finite))))


def holm(values: Sequence[float]) -> np.ndarray:
    """P values of one family, corrected by Holm's step-down procedure (1979); a NaN stays NaN."""
    values = np.asarray(values, dtype=np.float64)
    order = np.argsort(values, kind="stable")[: np.isfinite(values).sum()]  # NaN comes last
    corrected, steps = np.full(values.shape, NAN), np.arange(len(order), 0, -1)
    corrected[order] = np.maximum.accumulate(values[order] * steps).clip(max=1.0)
    return corrected
