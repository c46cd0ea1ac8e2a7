"""Regions: the R places per image that everything downstream looks at, with their features, cached on disk.

A region is a detection of the RetinaNet or a connected component of its mask head. Its feature is the
ROI-aligned pyramid (strides 8, 16 and 32), its geometry and what the detector's heads say of it. The cache is one
safetensors file per data set, named by the fingerprint of what made it.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from pnloc.boxes import iou
from pnloc.config import RegionConfig
from pnloc.files import load_tensors, save_tensors
from pnloc.parallel import autocast, bar

if (
    TYPE_CHECKING
):  # torchvision takes a second and more to import; most users of Regions only read them
    from pnloc.detector import Detector, Output

GEOMETRY = 7  # x1, y1, x2, y2, area, width, height; all relative to the picture
COMPONENT_LEVELS = (0.5, 0.3)  # of the mask's probability


@dataclass(frozen=True)
class Regions:
    """R regions of each of N images, padded with regions of no area where fewer were found.

    boxes     [N, R, 4] float32, xyxy in pixels of the detector's square input
    scores    [N, R] float32, how sure the detector is of the region (0 for padding)
    valid     [N, R] bool, False for padding
    features  [N, R, F] float16, pooled pyramid, geometry, detector's score and mask
    mask      [N, S/8, S/8] float16, mask head
    image     [N] float32, image-level probability of an opacity
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor
    features: Tensor
    mask: Tensor
    image: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def centres(self) -> Tensor:
        """Centres of the regions [N, R, 2], x and y relative to the picture."""
        corners = self.features[..., -GEOMETRY - 2 : -GEOMETRY + 2].float()
        return (corners[..., :2] + corners[..., 2:]) / 2

    def rows(self, index: object) -> "Regions":
        """The regions of some of the images."""
        index = torch.from_numpy(np.array(index, dtype=np.int64).reshape(-1))
        return Regions(*(getattr(self, f.name)[index] for f in fields(self)))

    def save(self, path: str | Path) -> None:
        """Write as safetensors."""
        save_tensors(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @staticmethod
    def load(path: str | Path) -> "Regions":
        """Read what `save` wrote."""
        return Regions(**load_tensors(path))


def feature_size(pyramid: int) -> int:
    """F for a feature pyramid of that many channels: three levels, the geometry, the detector's score and its mask."""
    return 3 * pyramid + GEOMETRY + 2


def components(
    mask: np.ndarray, side: int, levels: tuple[float, ...] = COMPONENT_LEVELS
) -> np.ndarray:
    """Boxes [n, 4] (pixels of the side x side input) around the connected parts of a mask [h, w] above each level.

    The mask is enlarged bilinearly first; parts of less than 0.5% of the picture are dropped.
    """
    large = F.interpolate(
        torch.as_tensor(mask)[None, None].float(), size=(side, side), mode="bilinear"
    )[0, 0].numpy()
    found = []
    for level in levels:
        labels, _ = ndimage.label(large > level)
        for rows, columns in ndimage.find_objects(labels):
            if (rows.stop - rows.start) * (columns.stop - columns.start) >= 0.005 * side * side:
                found.append([columns.start, rows.start, columns.stop, rows.stop])
    return np.array(found, dtype=np.float32).reshape(-1, 4)


def mask_mean(mask: np.ndarray, boxes: np.ndarray, side: int) -> np.ndarray:
    """Mean of a mask [h, w] inside each box [n, 4] (pixels of the side x side picture): [n], 0 for no area."""
    height, width = mask.shape
    total = np.zeros((height + 1, width + 1))
    total[1:, 1:] = mask.astype(np.float64).cumsum(0).cumsum(1)
    x1, y1, x2, y2 = (
        np.asarray(boxes, dtype=np.float64).reshape(-1, 4) / side * [width, height, width, height]
    ).T

    def at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(total, [y, x], order=1, mode="nearest")

    area = (x2 - x1).clip(0) * (y2 - y1).clip(0)
    inside = at(y2, x2) - at(y1, x2) - at(y2, x1) + at(y1, x1)
    return np.divide(inside, area, out=np.zeros_like(area), where=area > 0)


def choose(
    output: "Output", row: int, side: int, config: RegionConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] and scores [n] of one image's regions, n at most config.count.

    Components of the mask come beside the detections. So that both kinds compare, the score is the geometric mean
    of the detector's probability (for a component: of the detection that overlaps it most, times that
    IoU) and of the mask's mean inside the region.
    """
    boxes, scores = (
        output.boxes[row].float().cpu().numpy(),
        output.scores[row].float().cpu().numpy(),
    )
    mask = output.mask[row].float().cpu().numpy()
    parts = components(mask, side)[: config.components]
    overlaps = iou(parts, boxes)
    likeness = (overlaps * scores).max(1) if len(boxes) else np.zeros(len(parts))
    boxes = np.concatenate([parts, boxes[: config.count - len(parts)]])
    scores = np.concatenate([likeness, scores[: config.count - len(parts)]])
    return boxes, np.sqrt(scores * mask_mean(mask, boxes, side).clip(0, 1))


@torch.no_grad()
def extract(
    detector: "Detector", images: np.ndarray, config: RegionConfig, batch: int = 32
) -> Regions:
    """Regions of uint8 images [N, S, S]. N may be 0."""
    where = next(detector.parameters()).device
    detector.eval()
    parts = []
    starts = range(0, len(images), batch)
    for start in bar(starts, desc="regions", unit="batch", shown=len(starts) > 1):
        pictures = torch.from_numpy(np.asarray(images[start : start + batch]))[:, None].to(where)
        with autocast(where):
            output = detector(pictures, config.overlap, config.count)
            if config.mirrored:
                output = both_ways(output, detector(pictures.flip(-1), config.overlap, 1))
        parts.append(_describe(output, pictures.shape[-1], config))
    if not parts:
        return _empty(detector, images.shape[-1], config)
    return Regions(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Regions)))


def both_ways(output: "Output", mirrored: "Output") -> "Output":
    """An image's output, its mask averaged with that of the mirrored image, its image-level probability by the mean of their log-odds."""
    odds = (torch.logit(output.image, 1e-6) + torch.logit(mirrored.image, 1e-6)) / 2
    return replace(
        output, mask=(output.mask + mirrored.mask.flip(-1)) / 2, image=torch.sigmoid(odds)
    )


def _empty(detector: "Detector", side: int, config: RegionConfig) -> Regions:
    """The regions of no images, with the right trailing sizes."""
    whole = extract(detector, np.zeros((1, side, side), dtype=np.uint8), config)
    return whole.rows(np.zeros(0, dtype=np.int64))


def _describe(output: "Output", side: int, config: RegionConfig) -> Regions:
    """Choose, pad and describe the regions of one batch."""
    count = len(output.boxes)
    boxes = torch.zeros(count, config.count, 4)
    scores, valid = (
        torch.zeros(count, config.count),
        torch.zeros(count, config.count, dtype=torch.bool),
    )
    means = torch.zeros(count, config.count)
    for row in range(count):
        found, confidence = choose(output, row, side, config)
        order = np.argsort(-confidence, kind="stable")
        n = len(order)
        boxes[row, :n] = torch.from_numpy(found[order]).float()
        scores[row, :n] = torch.from_numpy(confidence[order]).float()
        valid[row, :n] = True
        means[row, :n] = torch.from_numpy(
            mask_mean(output.mask[row].float().cpu().numpy(), boxes[row, :n].numpy(), side)
        )
    if not (torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
        raise FloatingPointError("the detector gave a box or a score that is not finite")
    from torchvision.ops import roi_align

    pooled = []
    for stride, level in output.pyramid.items():
        rois = [b.to(level.device) for b in boxes]
        pooled.append(
            roi_align(level.float(), rois, 1, spatial_scale=1 / int(stride), sampling_ratio=4).cpu()
        )
    pooled = torch.stack([p.flatten(1) for p in pooled], dim=1)  # [count * R, 3, C]
    features = torch.cat(
        [
            pooled.reshape(count, config.count, -1),
            geometry(boxes / side),
            scores[..., None],
            means[..., None],
        ],
        dim=2,
    )
    return Regions(
        boxes,
        scores,
        valid,
        (features * valid[..., None]).to(torch.float16),
        output.mask.to("cpu", torch.float16),
        output.image.float().cpu(),
    )


def geometry(boxes: Tensor) -> Tensor:
    """Relative boxes [..., 4] -> [..., 7]: x1, y1, x2, y2, area, width, height."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return torch.cat([boxes, torch.stack([width * height, width, height], dim=-1)], dim=-1)
