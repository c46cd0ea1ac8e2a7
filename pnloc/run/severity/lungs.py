"""Lungs: where the two lungs and their zones lie in a radiograph, by a small network of our own.

It has seen generated radiographs only (pnloc.data.demo), whose lung masks are exact since they come from the CT; strong changes of place,
contrast and density while training take the part of the variety that one CT lacks. Lungs go by the side of the picture: first the
patient's right lung, which is on the left.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from pnloc.detector import normalize
from pnloc.parallel import autocast, bar, device
from pnloc.train import Losses, Schedule, fit, generator

SIDES = ("right", "left")
INPUT = 96  # pixels of the network's square input; its masks have half of them
LEAST = 0.01  # share of the picture that a lung has at least
VIEWS = 8  # generated radiographs per projected anatomy
ZONES = "ABCDEF"  # Brixia: right upper, middle, lower; left upper, middle, lower


class LungNet(nn.Module):
    """A U-Net of four levels: images [B, 1, S, S], 8-bit values -> logits [B, 2, 48, 48], right and left lung."""

    def __init__(self, widths: tuple[int, ...] = (24, 32, 48, 64)) -> None:
        super().__init__()
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise((1, *widths)))
        self.up = nn.ModuleList(
            _block(a + b, b) for a, b in pairwise((widths[-1] + 2, *widths[-2::-1]))
        )
        self.head = nn.Conv2d(widths[0], len(SIDES), 1)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        grey = images.float()
        grey = (
            grey
            if grey.shape[-1] == INPUT
            else F.interpolate(grey, size=(INPUT, INPUT), mode="area")
        )
        x, levels = normalize(grey), []
        for block in self.down:
            x = block(x)
            levels.append(x)
        x = torch.cat([levels.pop(), _places(x)], dim=1)
        for block, level in zip(self.up, levels[::-1], strict=True):
            x = block(
                torch.cat([F.interpolate(x, size=level.shape[-2:], mode="bilinear"), level], dim=1)
            )
        return self.head(x).float()


def _block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False),
        nn.GroupNorm(8, after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, 1, 1, bias=False),
        nn.GroupNorm(8, after),
        nn.ReLU(),
    )


def _places(like: Tensor) -> Tensor:
    """Two channels [B, 2, H, W] with the relative x and y of each cell of `like` [B, C, H, W]."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in like.shape[-2:]), indexing="ij")
    return torch.stack([x, y]).to(like).expand(len(like), -1, -1, -1)


def generated(anatomies: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Radiographs uint8 [N, 96, 96] of that many anatomies, frontal both ways, and their lungs bool [N, 2, 96, 96].

    Half of the lungs' opacities are those of the COVID-like set, so that the finder sees lungs that are partly white. Raises PnlocError
    where the chest CT is not installed.
    """
    from pnloc.data.demo.anatomy import project, read_chest
    from pnloc.data.demo.film import develop
    from pnloc.data.demo.generator import make_case

    chest, images, masks = read_chest(), [], []
    for number in bar(range(anatomies), desc="generate lungs", unit="anatomy"):
        rng = generator(seed, 201, number)
        variant = project(chest, rng, INPUT, portable=bool(number % 2))
        lungs = np.stack([variant.sides[side] for side in SIDES])
        for _ in range(VIEWS):
            _, added = make_case(variant, rng, "covid")
            images.append(develop(variant, added, rng))
            masks.append(lungs)
    return np.stack(images), np.stack(masks)


def disturb(
    images: np.ndarray, masks: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Images uint8 [B, S, S] and masks [B, 2, S, S], moved, stretched, turned, mirrored, and changed in contrast, noise and density.

    Gives float images [B, 1, S, S] and masks [B, 2, S, S] of 0 and 1. Whitened patches over the lungs, bars and letters stay out of the masks.
    """
    count, side = images.shape[0], images.shape[-1]
    flip = rng.random(count) < 0.5
    angle, shift = np.deg2rad(rng.normal(0, 5, count)), rng.uniform(-0.3, 0.3, (count, 2))
    zoom = np.exp(rng.uniform(-0.3, 0.35, (count, 1)) + rng.normal(0, 0.1, (count, 2)))
    matrix = np.zeros((count, 2, 3))
    matrix[:, 0] = np.stack(
        [np.cos(angle) * zoom[:, 0] * np.where(flip, -1, 1), -np.sin(angle), shift[:, 0]], axis=1
    )
    matrix[:, 1] = np.stack([np.sin(angle), np.cos(angle) * zoom[:, 1], shift[:, 1] * 0.7], axis=1)
    grid = F.affine_grid(
        torch.from_numpy(matrix).float(), [count, 1, side, side], align_corners=False
    )
    both = torch.from_numpy(np.concatenate([images[:, None] / 255, masks], axis=1)).float()
    moved = F.grid_sample(both, grid, align_corners=False)
    # Beyond the generated picture: black in one half of the images, the nearest pixels in the other.
    spread = F.grid_sample(both[:, :1], grid, padding_mode="border", align_corners=False)
    grey = torch.where(
        torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None], spread, moved[:, :1]
    )
    truth = moved[:, 1:]
    truth = torch.where(torch.from_numpy(flip)[:, None, None, None], truth.flip(1), truth)
    lung = truth.amax(1, keepdim=True)
    white = torch.from_numpy(_patches(count, side, rng)).float()[:, None] * lung
    grey = grey + white * (0.95 - grey).clamp_min(0)
    power = torch.from_numpy(np.exp(rng.uniform(-0.6, 0.6, count))).float()[:, None, None, None]
    grey = grey.clamp(0, 1) ** power
    noise = torch.from_numpy(rng.normal(0, 1, grey.shape)).float()
    grey = grey + noise * torch.from_numpy(rng.uniform(0, 0.05, count)).float()[:, None, None, None]
    soft = F.avg_pool2d(grey, 3, 1, 1)
    grey = torch.where(
        torch.from_numpy(rng.random(count) < 0.4)[:, None, None, None], soft, grey
    ).clamp(0.004, 1)
    return grey * 255, (truth > 0.5).float()


def _patches(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """How dense [B, S, S], 0 to 1, up to three soft ellipses per image are; a third of the images has none."""
    y, x = np.mgrid[0:side, 0:side] / side
    found = np.zeros((count, side, side))
    for row in range(count):
        for _ in range(rng.choice([0, 1, 2, 3], p=[0.34, 0.22, 0.22, 0.22])):
            centre, size = rng.uniform([0.1, 0.25], [0.9, 0.9]), rng.uniform(0.08, 0.3, 2)
            distance = np.hypot((x - centre[0]) / size[0], (y - centre[1]) / size[1])
            found[row] = np.maximum(
                found[row], rng.uniform(0.2, 0.9) / (1 + np.exp((distance - 1) * 6))
            )
    return found


def train_lungs(
    images: np.ndarray,
    masks: np.ndarray,
    *,
    epochs: int,
    seed: int,
    folder: Path,
    fingerprint: str,
    batch: int = 32,
) -> tuple[LungNet, pd.DataFrame]:
    """Train on what `generated` gives; returns the network and its history."""
    where = device()
    torch.manual_seed(seed)
    net = LungNet().to(where)
    steps = max(1, len(images) // batch)

    def batches(epoch: int):
        rng = generator(seed, 202, epoch)
        order = rng.permutation(len(images))
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            yield disturb(images[rows], masks[rows], rng)

    def losses(pair: tuple[Tensor, Tensor]) -> Losses:
        pictures, truth = pair
        with autocast(where):
            logits = net(pictures.to(where))
        truth = F.interpolate(truth.to(where), size=logits.shape[-2:], mode="area")
        chance = torch.sigmoid(logits)
        overlap = (2 * (chance * truth).sum((2, 3)) + 1) / (
            chance.sum((2, 3)) + truth.sum((2, 3)) + 1
        )
        return {
            "cross-entropy": F.binary_cross_entropy_with_logits(logits, truth),
            "dice": (1 - overlap).mean(),
        }

    history = fit(
        net,
        batches,
        losses,
        Schedule(epochs, steps, 3e-3, 0.01),
        folder=folder,
        fingerprint=fingerprint,
        seed=seed,
        title="lungs",
    )
    return net, history


@torch.no_grad()
def masks(net: LungNet, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Probability [N, 2, 48, 48] that a cell is lung, right and left, of uint8 images [N, S, S]."""
    where, found = (
        next(net.parameters()).device,
        [np.zeros((0, 2, INPUT // 2, INPUT // 2), dtype=np.float32)],
    )
    net.eval()
    for start in range(0, len(images), batch):
        pictures = torch.from_numpy(np.asarray(images[start : start + batch]))[:, None].to(where)
        mirrored = torch.sigmoid(net(pictures.flip(-1))).flip(-1).flip(1)
        found.append(((torch.sigmoid(net(pictures)) + mirrored) / 2).cpu().numpy())
    return np.concatenate(found)


def boxes(chances: np.ndarray, usual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 2, 4] around the lungs, relative to the picture, from masks [N, 2, h, w], and which were found, bool [N, 2].

    A lung is the largest connected part above one half. Where it has less than 1% of the picture, the box is `usual` [2, 4].
    """
    found, seen = (
        np.tile(usual, (len(chances), 1, 1)).astype(float),
        np.zeros((len(chances), 2), dtype=bool),
    )
    for row, side in np.ndindex(len(chances), 2):
        height, width = chances.shape[2:]
        large = ndimage.zoom(chances[row, side], 4, order=1, grid_mode=True, mode="nearest") > 0.5
        parts, count = ndimage.label(large)
        if count == 0:
            continue
        largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
        if largest.mean() >= LEAST:
            rows, columns = ndimage.find_objects(largest.astype(int))[0]
            edges = np.array([columns.start, rows.start, columns.stop, rows.stop]) / 4
            found[row, side], seen[row, side] = edges / [width, height, width, height], True
    return found, seen


def zones(lungs: np.ndarray) -> np.ndarray:
    """The six zones [..., 6, 4], A to F, of lung boxes [..., 2, 4]: thirds of the height of each lung."""
    top, height = lungs[..., 1], (lungs[..., 3] - lungs[..., 1]) / 3
    thirds = []
    for third in range(3):
        edges = [lungs[..., 0], top + third * height, lungs[..., 2], top + (third + 1) * height]
        thirds.append(np.stack(edges, axis=-1))
    by_side = np.stack(thirds, axis=-2)  # [..., side, third, 4]
    return by_side.reshape(*lungs.shape[:-2], 6, 4)
