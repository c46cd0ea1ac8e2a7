"""How many boxes a method keeps, and from which share of its best score on: tried on validation images, the same for every method."""

from itertools import product

import numpy as np

from pnloc.boxes import union_iou
from pnloc.localize import Choice, boxes_of
from pnloc.regions import Regions

SHARES, MOST = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85), (1, 2, 3, 4)


def best_choice(
    regions: Regions, ranked: np.ndarray, truth: list[np.ndarray], grouped: bool
) -> tuple[Choice, float]:
    """The choice with the best mean union IoU with true boxes, and that IoU, for regions of N images ranked by scores [N, R]."""
    return best_of(boxes_of(regions, ranked, Choice(0.0, max(MOST), grouped)), truth, grouped)


def best_of(
    found: list[tuple[np.ndarray, np.ndarray]], truth: list[np.ndarray], grouped: bool = True
) -> tuple[Choice, float]:
    """The same for the boxes [n, 4] and scores [n] of each image, the best first: what a choice keeps are the first few of these."""
    tried = [Choice(share, most, grouped) for share, most in product(SHARES, MOST)]
    values = np.zeros((len(found), len(tried)))
    for row, ((boxes, own), true) in enumerate(zip(found, truth, strict=True)):
        unions = [union_iou(boxes[:n], true) for n in range(min(len(boxes), max(MOST)) + 1)]
        kept = [min(c.most, (own >= c.share * own.max(initial=0.0)).sum()) for c in tried]
        values[row] = [unions[n] for n in kept]
    means = values.mean(0)
    return tried[int(np.argmax(means))], float(means.max())
