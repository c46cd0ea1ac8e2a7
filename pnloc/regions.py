"""Regions: the R places per image that everything downstream looks at, with their features.

A region is a detection of the RetinaNet or a connected component of its mask head. Its feature is
the ROI-aligned pyramid (strides 8, 16 and 32), its geometry and the detector's score and mask.
A run keeps them in one NumPy file per 2,048 images (pnloc.run.feature_store).
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor
from torchvision.ops import roi_align

from pnloc.boxes import area, as_boxes, iou
from pnloc.config import RegionConfig
from pnloc.detector import Detector, Output
from pnloc.files import load_tensors, save_tensors
from pnloc.parallel import autocast, bar

GEOMETRY = 7  # x1, y1, x2, y2, area, width, height; all relative to the picture
COMPONENT_LEVELS = (0.5, 0.3)  # of the mask's probability
GREY_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
DETAIL_SCALES = (3, 5, 9, 17)  # sides of mean filters, in pixels
GREY = len(GREY_QUANTILES) + 1 + len(DETAIL_SCALES)  # grey statistics of an image


@dataclass(frozen=True)
class Regions:
    """R regions of each of N images, padded with regions of no area.

    boxes     [N, R, 4] float32, xyxy in pixels of the detector's square input
    scores    [N, R] float32, the detector's confidence in the region (0 for padding)
    valid     [N, R] bool, False for padding, which comes last
    features  [N, R, F] float16: pooled pyramid, geometry, detector's score and mask
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
    """F for a pyramid of that many channels: three levels, geometry, detector's score and mask."""
    return 3 * pyramid + GEOMETRY + 2


def components(
    mask: np.ndarray, side: int, levels: tuple[float, ...] = COMPONENT_LEVELS
) -> np.ndarray:
    """Boxes [n, 4] around the connected parts of a mask [h, w] above each level.

    They are in pixels of the side x side input, to which the mask is enlarged bilinearly; boxes of
    less than 0.5% of the picture are dropped.
    """
    large = enlarged(torch.as_tensor(mask)[None].float(), side)[0].numpy()
    places = [p for level in levels for p in ndimage.find_objects(ndimage.label(large > level)[0])]
    boxes = as_boxes([[x.start, y.start, x.stop, y.stop] for y, x in places])
    return boxes[area(boxes) >= 0.005 * side * side]


def enlarged(maps: Tensor, side: int) -> Tensor:
    """Maps [B, h, w] enlarged bilinearly to [B, S, S], S = `side`."""
    return F.interpolate(maps[:, None], (side, side), mode="bilinear")[:, 0]


def mask_mean(mask: np.ndarray, boxes: np.ndarray, side: int) -> np.ndarray:
    """Mean [n] of a mask [h, w] inside boxes [n, 4] of a side x side picture; 0 for no area."""
    height, width = mask.shape
    total = np.zeros((height + 1, width + 1))
    total[1:, 1:] = mask.astype(np.float64).cumsum(0).cumsum(1)
    x1, y1, x2, y2 = (as_boxes(boxes) / side * [width, height, width, height]).T

    def at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(total, [y, x], order=1, mode="nearest")

    extent = (x2 - x1).clip(0) * (y2 - y1).clip(0)
    inside = at(y2, x2) - at(y1, x2) - at(y2, x1) + at(y1, x1)
    return np.divide(inside, extent, out=np.zeros_like(extent), where=extent > 0)


def choose(output: Output, row: int, side: int, config: RegionConfig) -> tuple[np.ndarray, ...]:
    """Boxes [n, 4], scores [n] and means [n] of the mask of one image's regions, best first.

    There are at most config.count. Components of the mask join the detections. So that both kinds
    compare, the score is the geometric mean of the mask's mean inside the region and the detector's
    probability; a component takes that of the detection that overlaps it most, times their IoU.
    """
    boxes, scores, mask = (
        value[row].float().cpu().numpy() for value in (output.boxes, output.scores, output.mask)
    )
    parts = components(mask, side)[: config.components]
    overlaps = iou(parts, boxes)
    likeness = (overlaps * scores).max(1) if len(boxes) else np.zeros(len(parts))
    boxes = np.concatenate([parts, boxes[: config.count - len(parts)]])
    scores = np.concatenate([likeness, scores[: config.count - len(parts)]])
    means = mask_mean(mask, boxes, side)
    scores = np.sqrt(scores * means.clip(0, 1))
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order], means[order]


@torch.no_grad()
def extract(
    detector: Detector, images: np.ndarray, config: RegionConfig, batch: int = 32
) -> Regions:
    """Regions of uint8 images [N, S, S]; N may be 0."""
    if not len(images):
        blank = np.zeros((1, *images.shape[1:]), dtype=np.uint8)
        return extract(detector, blank, config).rows([])
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
    return concatenate(parts)


def concatenate(parts: list[Regions]) -> Regions:
    """The regions of several sets of images as one."""
    return Regions(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Regions)))


def both_ways(output: Output, mirrored: Output) -> Output:
    """An output averaged with the mirrored image's: masks, and log-odds of the image score."""
    odds = (torch.logit(output.image, 1e-6) + torch.logit(mirrored.image, 1e-6)) / 2
    mask = (output.mask + mirrored.mask.flip(-1)) / 2
    return replace(output, mask=mask, image=torch.sigmoid(odds))


def _describe(output: Output, side: int, config: RegionConfig) -> Regions:
    """Choose, pad and describe the regions of one batch."""
    count = len(output.boxes)
    boxes = torch.zeros(count, config.count, 4)
    scores, means = torch.zeros(2, count, config.count)
    valid = torch.zeros(count, config.count, dtype=torch.bool)
    for row in range(count):
        chosen = choose(output, row, side, config)
        valid[row, : len(chosen[0])] = True
        for field, values in zip((boxes, scores, means), chosen, strict=True):
            field[row, : len(values)] = torch.from_numpy(values)
    if not (torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
        raise FloatingPointError("the detector gave a box or a score that is not finite")
    pooled = []
    for stride, level in output.pyramid.items():
        rois, scale = [b.to(level.device) for b in boxes], 1 / int(stride)
        aligned = roi_align(level.float(), rois, 1, spatial_scale=scale, sampling_ratio=4)
        pooled.append(aligned.cpu().flatten(1))
    pooled = torch.stack(pooled, dim=1).reshape(count, config.count, -1)  # [count, R, 3 C]
    parts = [pooled, geometry(boxes / side), scores[..., None], means[..., None]]
    features = (torch.cat(parts, dim=2) * valid[..., None]).to(torch.float16)
    mask, image = output.mask.to("cpu", torch.float16), output.image.float().cpu()
    return Regions(boxes, scores, valid, features, mask, image)


def geometry(boxes: Tensor) -> Tensor:
    """Relative boxes [..., 4] -> [..., 7]: x1, y1, x2, y2, area, width, height."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return torch.cat([boxes, torch.stack([width * height, width, height], dim=-1)], dim=-1)


def appearance(pictures: np.ndarray, regions: Regions) -> np.ndarray:
    """What N square images uint8 [N, S, S] look like to the detector: [N, F - 9 + GREY].

    The pooled pyramid, averaged over the image's regions; then quantiles and deviation of the grey
    values that are not black, and the log contrast of the detail at each of DETAIL_SCALES.
    """
    weights = regions.valid.float()[..., None]
    pyramid = regions.features[..., : -GEOMETRY - 2].float()
    pooled = (pyramid * weights).sum(1) / weights.sum(1).clamp_min(1)
    rows = []
    for picture in pictures:
        gray = picture.astype(np.float32) / 255
        inside = gray > 0 if gray.any() else np.ones(gray.shape, dtype=bool)
        row, smooth = [*np.quantile(gray[inside], GREY_QUANTILES), gray[inside].std()], gray
        for scale in DETAIL_SCALES:
            smoother = ndimage.uniform_filter(smooth, scale)
            row.append(np.log((smooth - smoother)[inside].std() + 1e-3))
            smooth = smoother
        rows.append(row)
    return np.concatenate([pooled.numpy(), np.reshape(rows, (-1, GREY))], axis=1)
