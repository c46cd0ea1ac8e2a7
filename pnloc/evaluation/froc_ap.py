"""Detection over a whole set, images without a true box included: FROC and average precision.

Everything here takes `Case`s and weights of the cases, one row per bootstrap sample, so that a
metric and all its samples come out of one pass. A row of ones is the metric itself.

Neither the order nor the names of images matter: of predictions with equal scores none comes before
another. A threshold between two such groups of ties admits a share of every kind in the group, as
the ROC curve does on its sloping parts; what is reached inside a group follows from that.
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
    more than `overlap`; a prediction that overlaps no true box so much is a false positive. Where
    a rate is reached inside a group of ties, a share of the group's hits counts; where the
    predictions end before a rate is reached, what they found until then.
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
    order, starts = _ties(scores)
    owner, true = owner[order], true[order]
    values = []
    for block in _blocks(weights, len(owner)):
        drawn = block[:, owner].astype(float)
        hits, false = (np.add.reduceat(drawn * kind, starts, axis=1) for kind in (true, ~true))
        found, wrong = (np.pad(kind.cumsum(1), ((0, 0), (1, 0))) for kind in (hits, false))
        allowed = block.sum(1)[:, None] * np.array(FROC_RATES)
        whole = np.stack([(wrong[:, 1:] <= a[:, None]).sum(1) for a in allowed.T], axis=1)
        part = np.minimum(whole, len(starts) - 1)  # the group that a rate ends in
        rest = allowed - np.take_along_axis(wrong, whole, axis=1)
        share = rest / np.maximum(np.take_along_axis(false, part, axis=1), 1)
        inside = np.where(whole < len(starts), share, 0) * np.take_along_axis(hits, part, axis=1)
        values.append(np.take_along_axis(found, whole, axis=1) + inside)
    with np.errstate(invalid="ignore"):
        return np.concatenate(values) / boxes[:, None]


def average_precision(cases: Sequence[Case], weights: np.ndarray) -> np.ndarray:
    """COCO's average precision [B, 10] at COCO_THRESHOLDS, for weights [B, cases].

    At most 100 predictions per image, boxes of every size; precision at 101 recalls, each the
    best at that recall or beyond. NaN for a sample without a true box. Source: Lin et al. 2014
    and the authors' reference code, which gives the same numbers where no two images share a
    score. Where they do, it ranks by the order of the images; here recall and precision move
    along the line of a group of ties (Davis and Goadrich 2006).
    """
    cases = [Case(c.image, c.predicted[:COCO_MOST], c.scores[:COCO_MOST], c.true) for c in cases]
    scores = np.concatenate([c.scores for c in cases])
    boxes = np.array([len(c.true) for c in cases], dtype=float)
    if len(scores) == 0:
        return np.where(weights @ boxes > 0, 0.0, np.nan)[:, None] * np.ones(len(COCO_THRESHOLDS))
    owner = np.repeat(np.arange(len(cases)), [len(c.scores) for c in cases])
    hits = np.concatenate(
        [match(iou(c.predicted, c.true), COCO_THRESHOLDS, inclusive=True) for c in cases]
    )
    order, starts = _ties(scores)
    owner, hits = owner[order], hits[order]
    values = []
    for block in _blocks(weights, len(owner)):
        drawn, total = block[:, owner].astype(float), block @ boxes
        size = np.add.reduceat(drawn, starts, axis=1)
        columns = [np.add.reduceat(drawn * hit, starts, axis=1) for hit in hits.T]
        values.append(np.stack([_interpolated(size, right, total) for right in columns], axis=1))
    return np.concatenate(values)


def _interpolated(size: np.ndarray, right: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Average precision [B] of groups of ties, best first: predictions and hits [B, G].

    The best precision at a recall or beyond is that inside its group, or at the end of it or of a
    later one.
    """
    some = right.any(0)  # precision falls throughout a group without a hit
    if not some.any():
        return np.where(boxes > 0, 0.0, np.nan)
    ranks, right, size = size.cumsum(1)[:, some], right[:, some], size[:, some]
    hits = right.cumsum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ends = np.nan_to_num(hits / ranks)
        best = np.maximum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(COCO_RECALLS, hits / boxes[:, None], side="right")
        # The group that reaches each recall, by one search over the rows laid end to end.
        row, recalls = np.arange(len(hits))[:, None], np.arange(len(COCO_RECALLS))
        apart = len(COCO_RECALLS) + 1
        group = np.searchsorted((reached + apart * row).ravel(), recalls + apart * row, "right")
        group -= hits.shape[1] * row
        part = np.minimum(group, hits.shape[1] - 1)
        n, h, to_rank, to_hit, at_end = (
            np.take_along_axis(values, part, axis=1) for values in (size, right, ranks, hits, best)
        )
        wanted = COCO_RECALLS * boxes[:, None]
        inside = np.nan_to_num(wanted / (to_rank - (to_hit - wanted) * n / h))
        inside[n == h] = 0  # among hits alone precision rises, to its value at the end
        precision = np.where(group < hits.shape[1], np.maximum(at_end, inside), 0.0)
    return np.where(boxes > 0, precision.mean(1), np.nan)


def _ties(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of scores [n], best first, and where each group of equal ones starts in it."""
    order = np.argsort(-scores, kind="stable")
    return order, np.flatnonzero(np.diff(scores[order], prepend=np.inf))


def _blocks(weights: np.ndarray, columns: int, most: int = 4_000_000) -> list[np.ndarray]:
    """Rows of `weights` in parts: with that many columns none makes more than `most` numbers."""
    return np.array_split(weights, max(1, -(-len(weights) * columns // most)))
