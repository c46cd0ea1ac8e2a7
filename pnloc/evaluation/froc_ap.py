"""Detection over a whole set, images without a true box included: FROC and average precision.

Everything here takes `Case`s and weights of the cases, one row per bootstrap sample, so that a
metric and all its samples come out of one pass. A row of ones is the metric itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pnloc.boxes import iou

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives per image
FROC_OVERLAP = 0.3
RSNA_THRESHOLDS = np.linspace(0.4, 0.75, 8)
COCO_THRESHOLDS = np.linspace(0.5, 0.95, 10)
COCO_RECALLS = np.linspace(0, 1, 101)
COCO_MOST = 100


@dataclass(frozen=True)
class Case:
    """One image: predicted boxes [n, 4] and scores [n], best first, and true boxes [m, 4]."""

    image: str
    predicted: np.ndarray
    scores: np.ndarray
    true: np.ndarray


def match(overlaps: np.ndarray, thresholds: Sequence[float], inclusive: bool) -> np.ndarray:
    """Which predictions match a true box of their own: bool [n, T], from IoUs [n, m], best first.

    Each prediction takes, of the true boxes that are still free, the one that it overlaps most (of
    equals the last, as COCO does), if by more than the threshold, or `inclusive` by as much.
    """
    thresholds = np.asarray(thresholds, dtype=np.float64)
    n, m = overlaps.shape
    matched = np.zeros((n, len(thresholds)), dtype=bool)
    free, every = np.ones((len(thresholds), m), dtype=bool), np.arange(len(thresholds))
    for row in range(n if m else 0):
        left = np.where(free, overlaps[row], -1.0)
        best = m - 1 - left[:, ::-1].argmax(1)
        value = left[every, best]
        matched[row] = value >= thresholds if inclusive else value > thresholds
        free[every[matched[row]], best[matched[row]]] = False
    return matched


def rsna_precision(case: Case) -> float:
    """TP / (TP + FP + FN), averaged over the thresholds of the RSNA challenge.

    NaN for an image without boxes of either kind.
    """
    if len(case.predicted) + len(case.true) == 0:
        return float("nan")
    hits = match(iou(case.predicted, case.true), RSNA_THRESHOLDS, inclusive=False).sum(0)
    return float((hits / (len(case.predicted) + len(case.true) - hits)).mean())


def froc(cases: Sequence[Case], weights: np.ndarray, overlap: float = FROC_OVERLAP) -> np.ndarray:
    """Sensitivity [B, 7] at FROC_RATES false positives per image, for weights [B, cases].

    As the score threshold falls, a true box is found by the first prediction that overlaps it by
    more than `overlap`; a prediction that overlaps no true box so much is a false positive. Equal
    scores come together. Where the predictions end before a rate is reached, what they found until
    then counts; where the first ones already exceed it, nothing does.
    """
    scores, owner, true = [], [], []
    for number, case in enumerate(cases):
        near = iou(case.predicted, case.true) > overlap
        hit = near.any(0)
        first = near.argmax(0)[hit] if hit.any() else np.zeros(0, dtype=int)
        wrong = case.scores[~near.any(1)]
        scores += [case.scores[first], wrong]
        true += [np.ones(len(first), dtype=bool), np.zeros(len(wrong), dtype=bool)]
        owner.append(np.full(len(first) + len(wrong), number))
    scores, owner, true = np.concatenate(scores), np.concatenate(owner), np.concatenate(true)
    boxes = weights @ np.array([len(c.true) for c in cases], dtype=float)
    if len(scores) == 0:
        return np.where(boxes[:, None] > 0, 0.0, np.nan) * np.ones(len(FROC_RATES))
    order = np.argsort(-scores, kind="stable")
    owner, true = owner[order], true[order]
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    values = []
    for block in _blocks(weights, len(owner)):
        drawn = block[:, owner].astype(float)
        hits, false = (np.cumsum(drawn * kind, axis=1)[:, ends] for kind in (true, ~true))
        allowed = block.sum(1)[:, None]
        counts = np.stack([(false <= rate * allowed).sum(1) for rate in FROC_RATES], axis=1)
        values.append(np.take_along_axis(np.pad(hits, ((0, 0), (1, 0))), counts, axis=1))
    with np.errstate(invalid="ignore"):
        return np.concatenate(values) / boxes[:, None]


def average_precision(cases: Sequence[Case], weights: np.ndarray) -> np.ndarray:
    """COCO's average precision [B, 10] at COCO_THRESHOLDS, for weights [B, cases].

    At most 100 predictions per image, boxes of every size; precision at 101 recalls, each the
    best at that recall or beyond. NaN for a sample without a true box. Source: Lin et al. 2014
    and the authors' reference code, with which a test compares these numbers.
    """
    cases = [Case(c.image, c.predicted[:COCO_MOST], c.scores[:COCO_MOST], c.true) for c in cases]
    scores = np.concatenate([c.scores for c in cases])
    owner = np.repeat(np.arange(len(cases)), [len(c.scores) for c in cases])
    hits = np.concatenate(
        [match(iou(c.predicted, c.true), COCO_THRESHOLDS, inclusive=True) for c in cases]
    )
    order = np.argsort(-scores, kind="stable")
    owner, hits = owner[order], hits[order]
    boxes = np.array([len(c.true) for c in cases], dtype=float)
    blocks = _blocks(weights, len(owner))
    return np.concatenate([_interpolated(w, owner, hits, (w @ boxes)[:, None]) for w in blocks])


def _interpolated(
    weights: np.ndarray, owner: np.ndarray, hits: np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """`average_precision` [B, T] of predictions, best first: image [D], hits [D, T]."""
    drawn = weights[:, owner].astype(float)
    ranks = np.cumsum(drawn, axis=1)
    values = np.zeros((len(weights), hits.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        for column, hit in enumerate(hits.T):
            if hit.any():  # the best precision from a recall on is reached at a hit
                right = np.cumsum(drawn[:, hit], axis=1)
                precision = np.nan_to_num(right / ranks[:, hit])
                best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
                reached = np.searchsorted(COCO_RECALLS, right / boxes, side="right")
                steps = np.diff(reached, axis=1, prepend=0)
                values[:, column] = (best * steps).sum(1) / len(COCO_RECALLS)
    values[boxes[:, 0] == 0] = np.nan
    return values


def _blocks(weights: np.ndarray, columns: int, most: int = 4_000_000) -> list[np.ndarray]:
    """Rows of `weights` in parts: with that many columns none makes more than `most` numbers."""
    return np.array_split(weights, max(1, -(-len(weights) * columns // most)))
