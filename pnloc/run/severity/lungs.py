"""The lung finder: a small network of our own for the two lungs and their zones in a radiograph.

It is trained on generated radiographs only (`phantoms`), whose lung masks come from the CT and
are exact; strong augmentation makes up for the variety that one CT lacks. The patient's right lung,
on the left of the picture, comes first.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from pnloc.baselines.classifier import in_batches
from pnloc.baselines.heatmaps import coverage
from pnloc.boxes import as_boxes
from pnloc.detector import coordinates, normalize
from pnloc.parallel import autocast, device
from pnloc.regions import mask_mean
from pnloc.train import Losses, Schedule, fit, generator

SIDES = ("right", "left")
INPUT = 96  # pixels of the network's square input; its masks have half of them
LEAST = 0.01  # least share of the picture that a lung covers
ZONES = "ABCDEF"  # Brixia: right upper, middle, lower; left upper, middle, lower
CELLS = 64  # per side of the grid on which covered areas are measured


class LungNet(nn.Module):
    """A U-Net of four levels: images [B, 1, S, S], 8-bit values -> logits [B, 2, 48, 48].

    `usual` [2, 4] are the median boxes of the lungs that it was trained on.
    """

    def __init__(self, widths: tuple[int, ...] = (24, 32, 48, 64)) -> None:
        super().__init__()
        upward = pairwise((widths[-1] + 2, *widths[-2::-1]))
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise((1, *widths)))
        self.up = nn.ModuleList(_block(a + b, b) for a, b in upward)
        self.head = nn.Conv2d(widths[0], len(SIDES), 1)
        self.register_buffer("usual", torch.zeros(len(SIDES), 4))

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        grey = F.interpolate(images.float(), size=(INPUT, INPUT), mode="area")
        x, levels = normalize(grey), []
        for block in self.down:
            x = block(x)
            levels.append(x)
        x = torch.cat([levels.pop(), coordinates(x)], dim=1)
        for block, level in zip(self.up, levels[::-1], strict=True):
            x = F.interpolate(x, size=level.shape[-2:], mode="bilinear")
            x = block(torch.cat([x, level], dim=1))
        return self.head(x).float()


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    norm = partial(nn.GroupNorm, 8)
    first = Conv2dNormActivation(before, after, stride=stride, norm_layer=norm)
    return nn.Sequential(first, Conv2dNormActivation(after, after, norm_layer=norm))


def train_lungs(
    images: np.ndarray, masks: np.ndarray, *, epochs: int, seed: int, **place: str | Path
) -> tuple[LungNet, pd.DataFrame]:
    """Train on the output of `phantoms.lungs.generate_lungs`; returns the network and its history.

    place: `folder` and `fingerprint` of pnloc.train.fit.
    """
    from phantoms.lungs import augment

    where, batch = device(), 32
    torch.manual_seed(seed)
    net = LungNet().to(where)
    usual = around(masks.astype(float), np.zeros((2, 4))).boxes
    net.usual = torch.from_numpy(usual).float().median(0).values.to(where)
    steps = max(1, len(images) // batch)

    def batches(epoch: int):
        rng = generator(seed, 202, epoch)
        for rows in np.array_split(rng.permutation(len(images))[: steps * batch], steps):
            yield augment(images[rows], masks[rows], rng)

    def losses(pair: tuple[Tensor, Tensor]) -> Losses:
        pictures, truth = pair
        with autocast(where):
            logits = net(pictures.to(where))
        truth = F.interpolate(truth.to(where), size=logits.shape[-2:], mode="area")
        chance = torch.sigmoid(logits)
        shared, total = (chance * truth).sum((2, 3)), chance.sum((2, 3)) + truth.sum((2, 3))
        return {
            "cross-entropy": F.binary_cross_entropy_with_logits(logits, truth),
            "dice": (1 - (2 * shared + 1) / (total + 1)).mean(),
        }

    schedule = Schedule(epochs, steps, 3e-3, 0.01)
    return net, fit(net, batches, losses, schedule, seed=seed, title="lungs", **place)


@torch.no_grad()
def masks(net: LungNet, images: np.ndarray) -> np.ndarray:
    """Probability [N, 2, 48, 48] that a cell is lung, right and left, of uint8 images [N, S, S].

    It is the mean over the image and its mirror image.
    """
    net.eval()
    chances = [torch.zeros(0, 2, INPUT // 2, INPUT // 2)]
    for pictures in in_batches(net, images, 64):
        mirrored = torch.sigmoid(net(pictures.flip(-1))).flip(-1).flip(1)
        chances.append(((torch.sigmoid(net(pictures)) + mirrored) / 2).cpu())
    return torch.cat(chances).numpy()


@dataclass(frozen=True)
class Lungs:
    """Lungs of N pictures: boxes [N, 2, 4], relative to the picture, and whether each was found."""

    boxes: np.ndarray
    found: np.ndarray  # bool [N, 2]

    @property
    def zones(self) -> np.ndarray:
        """The six zones [N, 6, 4], A to F, relative to the picture: thirds of a lung's height."""
        left, top, right, bottom = np.moveaxis(self.boxes, -1, 0)[..., None]
        height, thirds = (bottom - top) / 3, np.arange(3)
        edges = np.broadcast_arrays(left, top + thirds * height, right, top + (thirds + 1) * height)
        return np.stack(edges, axis=-1).reshape(-1, 6, 4)

    def mean(self, masks: np.ndarray) -> np.ndarray:
        """Mean [N] of masks [N, h, w] inside both lungs."""
        return self._both(within(masks, self.boxes))

    def covered(self, boxes: list[np.ndarray]) -> np.ndarray:
        """Share [N] of both lungs that the union of each image's boxes [n, 4] covers."""
        return self._both(covered(boxes, self.boxes))

    def _both(self, values: np.ndarray) -> np.ndarray:
        """Values of each lung [N, 2] as one [N], weighted by the area of their boxes."""
        area = np.prod(self.boxes[..., 2:] - self.boxes[..., :2], axis=-1)
        return (values * area).sum(1) / np.maximum(area.sum(1), 1e-9)


def _lung(chances: np.ndarray) -> np.ndarray:
    """The largest connected part above one half of a map [h, w], as bool [4 h, 4 w].

    Nothing where it covers less than 1% of the picture.
    """
    large = ndimage.zoom(chances, 4, order=1, grid_mode=True, mode="nearest") > 0.5
    parts, _ = ndimage.label(large)
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.max(initial=0) < LEAST * large.size:
        return np.zeros_like(large)
    return parts == 1 + sizes.argmax()


def around(chances: np.ndarray, usual: np.ndarray) -> Lungs:
    """The lungs in masks [N, 2, h, w]; one that is not there gets the box of `usual` [2, 4]."""
    boxes = np.tile(usual, (len(chances), 1, 1)).astype(float)
    found = np.zeros((len(chances), 2), dtype=bool)
    height, width = chances.shape[2:]
    for row, side in np.ndindex(len(chances), 2):
        for rows, columns in ndimage.find_objects(_lung(chances[row, side]).astype(np.uint8)):
            edges = np.array([columns.start, rows.start, columns.stop, rows.stop]) / 4
            boxes[row, side], found[row, side] = edges / [width, height, width, height], True
    return Lungs(boxes, found)


def zones(net: LungNet, images: np.ndarray) -> np.ndarray:
    """Zones uint8 [N, INPUT, INPUT] of uint8 images [N, S, S], cut from the image's own lungs.

    0 outside of them, 1 + k in zone k of pnloc.model.PLACES: thirds of a lung's height.
    """
    result = np.zeros((len(images), INPUT, INPUT), dtype=np.uint8)
    for row, chances in enumerate(masks(net, images)):
        for number, chance in enumerate(chances):
            lung = _lung(chance)[::2, ::2]
            rows, columns = np.nonzero(lung)
            if len(rows):
                thirds = (rows - rows.min()) * 3 // (rows.max() + 1 - rows.min())
                result[row, rows, columns] = 1 + 3 * number + thirds
    return result


def find(net: LungNet, images: np.ndarray) -> Lungs:
    """Lungs of uint8 images [N, S, S]; one that is not found gets its usual place."""
    return around(masks(net, images), net.usual.cpu().numpy())


def pixels(net: LungNet, images: np.ndarray) -> np.ndarray:
    """Lung pixels of uint8 images [N, S, S], as bool [N, S, S]; all where none is found."""
    chances = torch.from_numpy(masks(net, images).max(1, keepdims=True))
    inside = F.interpolate(chances, size=images.shape[1:], mode="bilinear")[:, 0].numpy() > 0.5
    return inside | ~inside.any((1, 2), keepdims=True)


def covered(boxes: list[np.ndarray], places: np.ndarray) -> np.ndarray:
    """Share [N, K] of each of K places [N, K, 4] that the union of an image's boxes [n, 4] covers.

    All are relative to the picture.
    """
    shares = np.zeros(places.shape[:2])
    for row, column in np.ndindex(shares.shape):
        low, high = np.split(places[row, column], 2)
        inside = (as_boxes(boxes[row]) - np.tile(low, 2)) / np.tile(high - low, 2)
        shares[row, column] = (coverage(inside, np.ones(len(inside)), CELLS) > 0).mean()
    return shares


def within(masks: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Mean [N, K] of masks [N, h, w] inside each of K places [N, K, 4], relative to the picture."""
    return np.stack([mask_mean(m, p, 1) for m, p in zip(masks, places, strict=True)])
