"""Weighted statistics of two columns: a value [B] for each row of weights w [B, n]."""

import numpy as np
from scipy.stats import rankdata


def pearson(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation of x and y, [n] or [B, n]; NaN where one does not vary."""
    total = w.sum(-1, keepdims=True)
    dx, dy = (v - (w * v).sum(-1, keepdims=True) / total for v in (x, y))
    xx, yy, xy = (w * dx * dx).sum(-1), (w * dy * dy).sum(-1), (w * dx * dy).sum(-1)
    return ratio(xy, np.sqrt(xx * yy), xx * yy > 1e-18)


def spearman(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted Spearman correlation of x and y [n], of integer weights.

    That is Pearson's of the mid-ranks within each sample.
    """
    return pearson(_ranks(x, w), _ranks(y, w), w)


def _ranks(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mid-ranks [B, n] of values [n], each repeated w times."""
    dense = rankdata(values, method="dense").astype(int) - 1
    mass = np.zeros((len(w), dense.max() + 1))
    np.add.at(mass.T, dense, w.T)
    return (mass.cumsum(1) - mass / 2 + 0.5)[:, dense]


def r2(fitted: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted coefficient of determination; NaN where y does not vary."""
    mean = (w * y).sum(-1, keepdims=True) / w.sum(-1, keepdims=True)
    spread = (w * (y - mean) ** 2).sum(-1)
    return 1 - ratio((w * (y - fitted) ** 2).sum(-1), spread, spread > 1e-18)


def mae(fitted: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted mean absolute error."""
    return (w * np.abs(y - fitted)).sum(-1) / w.sum(-1)


def ratio(above: np.ndarray, below: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=where)


CORRELATIONS = {"pearson": pearson, "spearman": spearman}
ERRORS = {"r2": r2, "mae": mae}
STATISTICS = CORRELATIONS | ERRORS
