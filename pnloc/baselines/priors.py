"""Boxes that no image is read for: what the training boxes alone, or a report and the training boxes, let one guess.

Training boxes come relative to their image (0 to 1); so do the boxes that are given back. A localizer that does not beat these has not
read the image.
"""

import numpy as np

from pnloc.baselines.heatmaps import coverage
from pnloc.boxes import area, as_boxes, fixed_pair
from pnloc.model import PLACES

WHOLE_IMAGE = np.array([[0.0, 0.0, 1.0, 1.0]])
GRID = 128


def whole_lungs(training: np.ndarray) -> np.ndarray:
    """One box [1, 4] over both lungs: it leaves out a twentieth of the training boxes' edges on each side. Without boxes [0, 4]."""
    training = as_boxes(training)
    if len(training) == 0:
        return training
    return np.concatenate(
        [np.quantile(training[:, :2], 0.05, axis=0), np.quantile(training[:, 2:], 0.95, axis=0)]
    )[None]


def heat_map(training: np.ndarray, cells: int = GRID) -> np.ndarray:
    """Share of the training boxes [N, 4] that cover each place of the picture, [cells, cells]; zeros without boxes."""
    training = as_boxes(training)
    return coverage(training, np.full(len(training), 1 / max(len(training), 1)), cells)


def place_boxes(training: np.ndarray) -> np.ndarray:
    """For each of the six places of the lungs (pnloc.model.PLACES) a box [6, 4]: the median of the training boxes that lie there.

    A box lies on the side, and in the third of the height of `whole_lungs`, that its centre is in; the right lung is on the left of the
    picture. A place without boxes takes its third of the box of its side (`pnloc.boxes.fixed_pair`). Without boxes at all [6, 4] of NaN.
    """
    training = as_boxes(training)
    if len(training) == 0:
        return np.full((len(PLACES), 4), np.nan)
    top, bottom = whole_lungs(training)[0, [1, 3]]
    sides = fixed_pair(training)
    x, y = (training[:, 0] + training[:, 2]) / 2, (training[:, 1] + training[:, 3]) / 2
    third = np.clip((3 * (y - top) / max(bottom - top, 1e-9)).astype(int), 0, 2)
    found = []
    for number in range(len(PLACES)):
        side, zone = divmod(number, 3)
        here = training[((x >= 0.5) == bool(side)) & (third == zone)]
        if len(here):
            found.append(np.median(here, axis=0))
        else:
            x1, y1, x2, y2 = sides[side]
            found.append([x1, y1 + zone * (y2 - y1) / 3, x2, y1 + (zone + 1) * (y2 - y1) / 3])
    return np.array(found)


def report_boxes(places: np.ndarray, by_place: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] of a report whose asserted places are [P, 6] (rows of zeros are padding), from boxes per place [6, 4] and per side [2, 4].

    Each named place gives, on each side that it allows, one box: that of the cell, the box around its cells where there are several, and
    the box of the side where it is the whole lung. Equal boxes count once. Source of the idea: Wu et al. 2020, who take the zones from an
    atlas; here they come from training boxes.
    """
    found = []
    for place in np.asarray(places).reshape(-1, len(PLACES)):
        for side in range(2):
            cells = np.flatnonzero(place[3 * side : 3 * side + 3]) + 3 * side
            if len(cells) == 3:
                found.append(sides[side])
            elif len(cells):
                here = by_place[cells]
                found.append(np.concatenate([here[:, :2].min(0), here[:, 2:].max(0)]))
    boxes = as_boxes(np.unique(np.array(found), axis=0) if found else [])
    return boxes[area(boxes) > 0]
