"""Rectangles: overlaps, unions, grouping. All boxes are xyxy, float; N and M count them.

A box of no area is legal and overlaps nothing. Empty sets of boxes have shape [0, 4].
"""

import numpy as np
import torch
from torchvision.ops import nms

# The least IoU of boxes that count as one place; above the other, the lesser of two is left out.
PLACE, REPEATED = 0.5, 0.3


def as_boxes(boxes: object) -> np.ndarray:
    """Anything box-like as a float64 array [N, 4]."""
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def area(boxes: np.ndarray) -> np.ndarray:
    """Areas [N] of boxes [N, 4]; a box turned inside out has area 0."""
    boxes = as_boxes(boxes)
    return np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Areas [N, M] shared by each box of a [N, 4] and each of b [M, 4]."""
    a, b = as_boxes(a), as_boxes(b)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union [N, M]; 0 where both boxes have no area (never NaN)."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def union_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of the regions that two SETS of boxes cover.

    Exact, on the grid of all edges. Two empty sets give 0.
    """
    a, b = as_boxes(a), as_boxes(b)
    both = np.concatenate([a, b])
    xs, ys = np.unique(both[:, [0, 2]]), np.unique(both[:, [1, 3]])
    cells = np.outer(np.diff(ys), np.diff(xs))
    first, second = (_cover(boxes, xs, ys) for boxes in (a, b))
    union = (cells * (first | second)).sum()
    return float((cells * (first & second)).sum() / union) if union > 0 else 0.0


def _cover(boxes: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Which cells of the grid of edges xs, ys lie in any box: bool [len(ys) - 1, len(xs) - 1]."""
    x1, y1, x2, y2 = boxes.T[..., None]
    rows, columns = (ys[:-1] >= y1) & (ys[1:] <= y2), (xs[:-1] >= x1) & (xs[1:] <= x2)
    return (rows[:, :, None] & columns[:, None]).any(0)


def group(boxes: np.ndarray, mass: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Grouped score [N] of each box: its own score times the mass of all boxes that overlap it.

    boxes [N, 4]; mass [N], non-negative (attention over the boxes); scores [N] (the detector's).
    Boxes of at least the IoU PLACE count as one place.
    """
    same = iou(boxes, boxes) >= PLACE
    np.fill_diagonal(same, True)
    return np.asarray(scores, dtype=np.float64) * (same @ np.asarray(mass, dtype=np.float64))


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
    """Greedy non-maximum suppression: indices of what remains, best first; the earlier of a tie."""
    scores = torch.as_tensor(np.asarray(scores, dtype=np.float64))
    return nms(torch.as_tensor(as_boxes(boxes)), scores, overlap).numpy()


def select(boxes: np.ndarray, scores: np.ndarray, share: float, most: int) -> np.ndarray:
    """Indices of `most` boxes or fewer, suppressed, with at least `share` of the best score."""
    rest = suppress(boxes, scores, REPEATED)
    own = np.asarray(scores)[rest]
    return rest[own >= share * own[:1]][:most]


def fuse(boxes: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] of some rows, averaged by score with all that overlap (Solovyev et al. 2021).

    boxes [N, 4]; scores [N], not negative; rows [n]. Boxes of at least the IoU PLACE count as
    one place. A box whose neighbours all score 0 stays as it is.
    """
    boxes, rows = as_boxes(boxes), np.asarray(rows, dtype=np.int64)
    weights = (iou(boxes[rows], boxes) >= PLACE) * np.asarray(scores, dtype=np.float64)
    total = weights.sum(1, keepdims=True)
    return np.where(total > 0, weights @ boxes / np.where(total > 0, total, 1), boxes[rows])
