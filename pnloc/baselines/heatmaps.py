"""Heat maps of image-label classifiers, and the rules by which a heat map becomes boxes.

Maps are [S, S] or any other grid, larger where the evidence is; boxes are in cells of the map.
Which layer and which rule a method uses is chosen on validation data from `every_choice`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from pnloc.baselines.classifier import Classifier, in_batches
from pnloc.boxes import as_boxes
from pnloc.detector import Detector
from pnloc.parallel import autocast
from pnloc.regions import Regions, enlarged

THRESHOLDS, COUNTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (1, 2, 3)
WANG = (60 / 255, 180 / 255)
STATISTICS = {"quantile": partial(np.quantile, q=0.95), "otsu": threshold_otsu}
RULES = ("range", "wang", *STATISTICS)


@dataclass(frozen=True)
class HeatChoice:
    """How a heat map becomes boxes: the layer explained, the rule, threshold and number of boxes.

    range     above `threshold` of the map's range, at most `most` boxes
    wang      above 60 and, in addition, above 180 of 255 of the range (Wang et al. 2017)
    quantile  above the .95 quantile of the map (AGXNet, Yu et al. 2022)
    otsu      above Otsu's threshold (as in CheXlocalize, Saporta et al. 2022)

    The last three give one box per connected component, however many.
    """

    layer: str = "16"
    threshold: float = 0.5
    most: int | None = 2
    rule: str = "range"


# Maps of a classifier -------------------------------------------------------------------------


@torch.no_grad()
def probabilities(model: Classifier, images: np.ndarray) -> np.ndarray:
    """The classifier's probability [N] of a pneumonia in uint8 images [N, S, S]."""
    return _joined(model, images, lambda batch: torch.sigmoid(model(batch))[:, 0])


@torch.no_grad()
def class_activation(model: Classifier, images: np.ndarray, layer: str = "") -> np.ndarray:
    """A classifier's own maps [N, S, S], 0 to 1 per image, of uint8 images [N, S, S].

    CAM (Zhou et al. 2016), negative evidence staying negative, or the patch probabilities of
    multiple-instance learning (Li et al. 2018). There is no choice of a `layer`.
    """

    def maps(batch: Tensor) -> Tensor:
        large = enlarged(model.activation(batch), images.shape[-1])
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        return (large - low) / (high - low).clamp_min(1e-7)

    return _joined(model, images, maps).reshape(images.shape)


def grad_cam(model: Classifier, images: np.ndarray, layer: str, plus: bool = False) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017) at the stride `layer`, as `class_activation`.

    plus: Grad-CAM++ (Chattopadhyay et al. 2018) instead.
    """
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus

    with (GradCAMPlusPlus if plus else GradCAM)(model, [model.body.stages[layer]]) as cam:
        maps = _joined(model, images, lambda batch: torch.from_numpy(cam(batch, None)))
    return maps.reshape(images.shape)


def _joined(model: nn.Module, images: np.ndarray, function: Callable) -> np.ndarray:
    """The output of `function` for batches [B, 1, S, S] of the images, as one float32 array."""
    outputs = [function(batch).float().cpu() for batch in in_batches(model, images)]
    return torch.cat([torch.zeros(0), *outputs]).numpy()


# Maps of regions and boxes --------------------------------------------------------------------


def mask_maps(regions: Regions, side: int) -> np.ndarray:
    """The detector's mask of N images as maps [N, S, S] of the square input, S = `side`."""
    return enlarged(regions.mask.float(), side).numpy()


@torch.no_grad()
def place_maps(detector: Detector, images: np.ndarray) -> np.ndarray:
    """The detector's map of places of uint8 images [N, S, S] as maps [N, S, S]."""

    def maps(batch: Tensor) -> Tensor:
        with autocast(batch.device):
            places = detector.heads(batch).places
        return enlarged(torch.sigmoid(places), images.shape[1])

    return _joined(detector.eval(), images, maps).reshape(images.shape)


def coverage(boxes: np.ndarray, weights: np.ndarray, cells: int) -> np.ndarray:
    """A map [cells, cells] of the unit square: the summed weights of the boxes over each place.

    boxes [n, 4], 0 to 1; weights [n].
    """
    boxes, centres = as_boxes(boxes), (np.arange(cells) + 0.5) / cells
    columns = (boxes[:, None, 0] <= centres) & (centres < boxes[:, None, 2])
    rows = (boxes[:, None, 1] <= centres) & (centres < boxes[:, None, 3])
    return (rows * np.asarray(weights, dtype=np.float64)[:, None]).T @ columns


# From maps to boxes ---------------------------------------------------------------------------


def boxes_of(heat: np.ndarray, choice: HeatChoice) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] around the connected components of a map above a level, and scores [n].

    The level follows from the rule of `choice`. A component's score is its highest value; the
    best comes first. A flat map gives no box.
    """
    low, high = float(heat.min()), float(heat.max())
    if high - low < 1e-6:
        return np.zeros((0, 4)), np.zeros(0)
    if choice.rule in STATISTICS:
        levels = [STATISTICS[choice.rule](heat)]
    else:
        shares = WANG if choice.rule == "wang" else (choice.threshold,)
        levels = [low + share * (high - low) for share in shares]
    boxes, scores = [], []
    for level in levels:
        labels, _ = ndimage.label(heat > level)
        places = ndimage.find_objects(labels)
        boxes += [[c.start, r.start, c.stop, r.stop] for r, c in places]
        scores += [heat[p][labels[p] == k].max() for k, p in enumerate(places, start=1)]
    order = np.argsort(-np.array(scores), kind="stable")[: choice.most]
    return as_boxes(boxes)[order], np.array(scores, dtype=np.float64)[order]


def every_choice(maps: Sequence[np.ndarray], layer: str) -> Iterator[tuple[HeatChoice, list]]:
    """Each choice that is tried on validation data, with its boxes and scores on every map."""
    rules = [("range", threshold, COUNTS) for threshold in THRESHOLDS]
    rules += [(rule, float("nan"), (None,)) for rule in RULES[1:]]
    for rule, threshold, counts in rules:
        every = [boxes_of(heat, HeatChoice(layer, threshold, None, rule)) for heat in maps]
        for most in counts:
            shown = [(boxes[:most], scores[:most]) for boxes, scores in every]
            yield HeatChoice(layer, threshold, most, rule), shown
