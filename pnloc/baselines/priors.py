"""Boxes guessed without the image, from training boxes alone or with a report, and the ceiling.

Training boxes and guesses are relative to their image (0 to 1). A localizer that does not beat
the guesses has not read the image.
"""

import numpy as np
import pandas as pd

from pnloc.baselines.heatmaps import coverage
from pnloc.boxes import area, as_boxes, iou
from pnloc.model import PLACES
from pnloc.regions import Regions

GRID = 128


def whole_image(training: np.ndarray) -> np.ndarray:
    """One box [1, 4] around everything, whatever the training boxes."""
    return np.array([[0.0, 0.0, 1.0, 1.0]])


def training_boxes(images: pd.DataFrame, boxes: pd.DataFrame) -> np.ndarray:
    """The boxes [M, 4] of a set's training images, relative to their images.

    images: image, width, height, split; boxes: image, x1, y1, x2, y2 (pixels).
    """
    images = images.loc[images["split"] == "train", ["image", "width", "height"]]
    table = boxes.merge(images, on="image")
    sides = table[["width", "height", "width", "height"]].to_numpy(float)
    return table[["x1", "y1", "x2", "y2"]].to_numpy(float) / sides


def whole_lungs(training: np.ndarray) -> np.ndarray:
    """One box [1, 4] over both lungs, or none [0, 4] without training boxes [N, 4].

    It leaves out a twentieth of the training boxes' edges on each side.
    """
    if len(training) == 0:
        return training
    low, high = np.quantile(training, [0.05, 0.95], axis=0)
    return np.concatenate([low[:2], high[2:]])[None]


def heat_map(training: np.ndarray, cells: int = GRID) -> np.ndarray:
    """Share of the training boxes [N, 4] that cover each place, [cells, cells]; 0 without boxes."""
    return coverage(training, np.full(len(training), 1 / max(len(training), 1)), cells)


def place_boxes(training: np.ndarray) -> np.ndarray:
    """For each of the six places of the lungs (PLACES) a box [6, 4], from training boxes [N, 4].

    It is the median of the training boxes whose centre lies on that side, and in that third of
    the height of `whole_lungs`; the right lung is on the left of the picture. A place without
    boxes takes its third of the box of its side (`fixed_pair`). NaN without any boxes.
    """
    if len(training) == 0:
        return np.full((len(PLACES), 4), np.nan)
    top, bottom = whole_lungs(training)[0, [1, 3]]
    x, y = (training[:, 0] + training[:, 2]) / 2, (training[:, 1] + training[:, 3]) / 2
    third = np.clip((3 * (y - top) / max(bottom - top, 1e-9)).astype(int), 0, 2)
    boxes = []
    for side, (x1, y1, x2, y2) in enumerate(fixed_pair(training)):
        for zone in range(3):
            here, height = training[((x >= 0.5) == side) & (third == zone)], y2 - y1
            share = [x1, y1 + zone * height / 3, x2, y1 + (zone + 1) * height / 3]
            boxes.append(np.median(here, axis=0) if len(here) else share)
    return np.array(boxes)


def report_boxes(places: np.ndarray, by_place: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] of a report from its asserted places [P, 6] (rows of zeros are padding).

    by_place [6, 4] and sides [2, 4] are boxes per place and per side. Each asserted place gives,
    on each side that it allows, one box: that of the cell, the box around its cells if there are
    several, and the box of the side if it is the whole lung. Equal boxes count once. After Wu et
    al. 2020, who take the zones from an atlas; here they come from training boxes.
    """
    boxes = []
    for place in np.asarray(places).reshape(-1, len(PLACES)):
        for side in range(2):
            cells = np.flatnonzero(place[3 * side : 3 * side + 3]) + 3 * side
            if len(cells) == 3:
                boxes.append(sides[side])
            elif len(cells):
                here = by_place[cells]
                boxes.append(np.concatenate([here[:, :2].min(0), here[:, 2:].max(0)]))
    boxes = as_boxes(np.unique(np.array(boxes), axis=0) if boxes else [])
    return boxes[area(boxes) > 0]


def best_proposals(regions: Regions, truth: list[np.ndarray]) -> list[np.ndarray]:
    """The ceiling of any ranking: per image the region that overlaps each true box [n, 4] most."""
    boxes = []
    for row, true in enumerate(truth):
        own = regions.boxes[row, : int(regions.valid[row].sum())].numpy().astype(np.float64)
        some = len(true) and len(own)
        boxes.append(own[np.unique(iou(true, own).argmax(1))] if some else np.zeros((0, 4)))
    return boxes


def fixed_pair(boxes: np.ndarray) -> np.ndarray:
    """Two boxes [2, 4] that need no image: the median box of each half of the picture.

    boxes [N, 4] are training boxes relative to their image (0 to 1). A half without a box mirrors
    the other.
    """
    right = (boxes[:, 0] + boxes[:, 2]) / 2 >= 0.5
    halves = [np.median(half, axis=0) for half in (boxes[~right], boxes[right]) if len(half)]
    if len(halves) == 1:
        x1, y1, x2, y2 = halves[0]
        halves.insert(int(not right.all()), np.array([1 - x2, y1, 1 - x1, y2]))
    return as_boxes(halves)
