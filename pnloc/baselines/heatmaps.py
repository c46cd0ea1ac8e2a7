"""Heat maps of an image-label classifier (CAM, Grad-CAM, Grad-CAM++), and the rules by which a heat map becomes boxes.

Maps are [S, S] or any other grid, larger where the evidence is; boxes are in cells of the map. Which layer and which rule a method uses is
chosen on validation data from `candidates`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from pnloc.baselines.classifier import Classifier
from pnloc.boxes import as_boxes
from pnloc.inputs import normalize

if TYPE_CHECKING:
    from pnloc.baselines.weak import PatchMIL

LAYERS = {
    "cam": ("32",),
    "grad-cam": ("16", "32"),
    "grad-cam++": ("16", "32"),
}  # strides of what each method may explain
THRESHOLDS, MOST = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (1, 2, 3)
WANG = (60 / 255, 180 / 255)
QUANTILE = 0.95
RULES = ("range", "wang", "quantile", "otsu")


@dataclass(frozen=True)
class HeatChoice:
    """How a heat map becomes boxes: the layer that it explains, the rule, and, where the rule leaves them open, threshold and number of boxes.

    range     above `threshold` of the map's range
    wang      above 60 and, beside these, above 180 of 255 of the range (Wang et al. 2017)
    quantile  above the .95 quantile of the map (AGXNet, Yu et al. 2022)
    otsu      above Otsu's threshold (as in CheXlocalize, Saporta et al. 2022)
    The last three give one box per connected region, however many.
    """

    layer: str = "16"
    threshold: float = 0.5
    most: int | None = 2
    rule: str = "range"


def candidates(*layers: str) -> list[HeatChoice]:
    """Every choice that is tried on validation data, for each layer."""
    found = []
    for layer in layers:
        found += [
            HeatChoice(layer, threshold, most) for threshold, most in product(THRESHOLDS, MOST)
        ]
        found += [HeatChoice(layer, float("nan"), None, rule) for rule in RULES[1:]]
    return found


@torch.no_grad()
def probabilities(model: Classifier, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """The classifier's probability [N] of a pneumonia on uint8 images [N, S, S]."""
    parts = [
        torch.sigmoid(model(p))[:, 0].float().cpu().numpy() for p in _batches(model, images, batch)
    ]
    return np.concatenate([np.zeros(0, dtype=np.float32), *parts])


def heat_maps(
    model: Classifier, images: np.ndarray, method: str, layer: str, batch: int = 32
) -> np.ndarray:
    """Maps float32 [N, S, S], 0 to 1 per image, of uint8 images [N, S, S] by a method of LAYERS, or of pnloc.config.FROM_LABELS."""
    if method == "patch-mil":
        return patch_maps(model, images, batch)
    if method.startswith("grad-cam"):
        return grad_cam(model, images, layer, method == "grad-cam++", batch)
    return class_activation(model, images, batch)


@torch.no_grad()
def class_activation(model: Classifier, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """CAM (Zhou et al. 2016): the last features, weighted as the linear layer weights their means; negative evidence stays negative."""
    parts = [np.zeros((0, *images.shape[1:]), dtype=np.float32)]
    for pictures in _batches(model, images, batch):
        features = model.body(normalize(pictures))["32"].float()
        maps = torch.einsum("bchw,c->bhw", features, model.head.weight[0])[:, None]
        parts.append(_enlarged(maps, images.shape[1:]))
    return np.concatenate(parts)


@torch.no_grad()
def patch_maps(model: "PatchMIL", images: np.ndarray, batch: int = 32) -> np.ndarray:
    """The probabilities of the patches of multiple-instance learning (Li et al. 2018)."""
    parts = [np.zeros((0, *images.shape[1:]), dtype=np.float32)]
    for pictures in _batches(model, images, batch):
        parts.append(
            _enlarged(torch.sigmoid(model.patches(pictures).float())[:, None], images.shape[1:])
        )
    return np.concatenate(parts)


def _enlarged(maps: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Maps [B, 1, h, w] enlarged bilinearly to [B, H, W], 0 to 1 per image."""
    maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(1e-7)).cpu().numpy()


def grad_cam(
    model: Classifier, images: np.ndarray, layer: str, plus: bool = False, batch: int = 32
) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017), or Grad-CAM++ (Chattopadhyay et al. 2018), at the stride `layer`."""
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    maps, explained = [np.zeros((0, *images.shape[1:]), dtype=np.float32)], model.body.stages[layer]
    with (
        _gradients_from(explained, model),
        (GradCAMPlusPlus if plus else GradCAM)(model, [explained]) as cam,
    ):
        for pictures in _batches(model, images, batch):
            maps.append(
                cam(input_tensor=pictures, targets=[ClassifierOutputTarget(0)] * len(pictures))
            )
    return np.concatenate(maps)


@contextmanager
def _gradients_from(layer: nn.Module, model: nn.Module) -> Iterator[None]:
    """Inside the block, gradients are followed no further back than into `layer`: those of its output need nothing before it."""
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        list(layer.parameters())[-1].requires_grad_(True)
        yield
    finally:
        for parameter, before in asked.items():
            parameter.requires_grad_(before)


def _batches(model: Classifier, images: np.ndarray, batch: int) -> Iterator[Tensor]:
    where = next(model.parameters()).device
    for start in range(0, len(images), batch):
        yield torch.from_numpy(np.asarray(images[start : start + batch]))[:, None].float().to(where)


def coverage(boxes: np.ndarray, weights: np.ndarray, cells: int) -> np.ndarray:
    """A map [cells, cells] of the unit square: at each place the sum of the weights [n] of the boxes [n, 4] (0 to 1) that cover it."""
    boxes, centres = as_boxes(boxes), (np.arange(cells) + 0.5) / cells
    columns = (boxes[:, None, 0] <= centres) & (centres < boxes[:, None, 2])
    rows = (boxes[:, None, 1] <= centres) & (centres < boxes[:, None, 3])
    return (rows * np.asarray(weights, dtype=np.float64)[:, None]).T @ columns


def heat_boxes(
    heat: np.ndarray, threshold: float, most: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] and scores [n] around the connected parts of a map above `threshold` of its range, best first, `most` at the most.

    A part's score is its highest value; a flat map gives no box.
    """
    return boxes_of(heat, HeatChoice("", threshold, most))


def boxes_of(heat: np.ndarray, choice: HeatChoice) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] and scores [n] of a map by the rule of `choice`, best first; see `heat_boxes`."""
    low, high = float(heat.min()), float(heat.max())
    if high - low < 1e-6:
        return np.zeros((0, 4)), np.zeros(0)
    levels = {
        "range": lambda: [low + choice.threshold * (high - low)],
        "wang": lambda: [low + share * (high - low) for share in WANG],
        "quantile": lambda: [np.quantile(heat, QUANTILE)],
        "otsu": lambda: [threshold_otsu(heat)],
    }[choice.rule]()
    parts = [_components(heat, level) for level in levels]
    boxes, scores = (np.concatenate(p) for p in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")[: choice.most]
    return boxes[order], scores[order]


def every_choice(maps: Iterable[np.ndarray], layer: str) -> Iterator[tuple[HeatChoice, list]]:
    """Each of `candidates(layer)` with the boxes and scores that it gives on every map, without doing anything twice."""
    maps, rule, whole = list(maps), None, []
    for choice in candidates(layer):
        if (choice.rule, choice.threshold) != rule:
            rule, whole = (
                (choice.rule, choice.threshold),
                [boxes_of(m, replace(choice, most=None)) for m in maps],
            )
        yield choice, [(boxes[: choice.most], scores[: choice.most]) for boxes, scores in whole]


def _components(heat: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    labels, _ = ndimage.label(heat > level)
    places = ndimage.find_objects(labels)
    scores = [
        heat[place][labels[place] == number].max() for number, place in enumerate(places, start=1)
    ]
    return as_boxes([[c.start, r.start, c.stop, r.stop] for r, c in places]), np.array(
        scores, dtype=np.float64
    )
