"""Train the detector on augmented images: boxes and reports together; pnloc.train.fit is the loop.

A batch is images [B, 1, S, S] and a target for each, as `Detector.losses` takes them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from pnloc.bodies import load_start
from pnloc.config import DetectorConfig
from pnloc.detector import KINDS, Detector
from pnloc.parallel import autocast, device
from pnloc.train import Losses, Schedule, fit, generator, parts

Batch = tuple[Tensor, list[dict[str, Tensor]]]
PHRASES = 4  # per image
POSITIVE = 2 / 3  # share of the described images of a batch that show an opacity


def augment(
    images: Tensor,
    boxes: list[np.ndarray],
    rng: np.random.Generator,
    zones: np.ndarray | None = None,
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """A random flip, scale (17%), shift (8%), rotation (4 degrees) and gamma for each image.

    images uint8 [B, 1, S, S] and B arrays [n, 4] -> float images and tensors of boxes in pixels of
    the result. A rotated box becomes the upright box around it, shrunk by half of what the rotation
    added; boxes with less than a third of their area in the picture are dropped. zones uint8
    [B, z, z], on any grid over the picture, are moved as the pixels are and become uint8 [B, S, S]:
    the patient's right lung stays the right one where the picture is flipped.
    """
    count, side = len(images), images.shape[-1]
    flip = rng.choice([-1.0, 1.0], count)
    scale = np.exp(rng.uniform(-0.17, 0.17, count))
    angle = np.deg2rad(rng.uniform(-4, 4, count))
    shift = rng.uniform(-0.08, 0.08, (count, 2)) * 2
    gamma = np.exp(rng.uniform(-0.35, 0.35, count))
    # `forward` maps centred coordinates (-1 to 1) of the source to the result; grid_sample inverts.
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    forward = np.zeros((count, 3, 3))
    forward[:, 0] = np.stack([flip * cos, -sin, shift[:, 0]], axis=1)
    forward[:, 1] = np.stack([flip * sin, cos, shift[:, 1]], axis=1)
    forward[:, 2, 2] = 1
    inverse = torch.from_numpy(np.linalg.inv(forward)[:, :2]).float()
    grid = F.affine_grid(inverse, [count, 1, side, side], align_corners=False)
    moved = F.grid_sample(images.float() / 255, grid, align_corners=False)
    moved = moved.clamp(0, 1) ** torch.from_numpy(gamma).float()[:, None, None, None] * 255
    if zones is not None:
        whole = torch.from_numpy(zones)[:, None].float()
        zones = F.grid_sample(whole, grid, mode="nearest", align_corners=False)[:, 0].byte()
    return moved, [_move(b, m, side) for b, m in zip(boxes, forward, strict=True)], zones


def _move(boxes: np.ndarray, matrix: np.ndarray, side: int) -> Tensor:
    """Boxes [n, 4] in pixels under a centred affine [3, 3], clipped to the picture."""
    if len(boxes) == 0:
        return torch.zeros(0, 4)
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] / side * 2 - 1
    corners = corners @ matrix[:2, :2].T + matrix[:2, 2]
    outer = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    size = (boxes[:, 2:] - boxes[:, :2]) / side * 2 * np.hypot(*matrix[:2, 1])
    centre, extent = (outer[:, :2] + outer[:, 2:]) / 2, (outer[:, 2:] - outer[:, :2] + size) / 2
    moved = (np.concatenate([centre - extent / 2, centre + extent / 2], axis=1) + 1) / 2 * side
    clipped = moved.clip(0, side)
    before, after = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (moved, clipped))
    return torch.from_numpy(clipped[after > before / 3]).float()


@dataclass(frozen=True)
class Described:
    """N images of a set with what their reports, or else their image labels, say of an opacity.

    images   uint8 [N, S, S]
    zones    uint8 [N, z, z]: 0 outside the lungs, 1 + k in the zone of pnloc.model.PLACES[k]
    phrases  float32 [N, PHRASES, 6], the places that each asserted phrase allows
    opacity  [N], 1 asserted, 0 denied or not mentioned, NaN unknown: such an image is not used
    """

    images: np.ndarray
    zones: np.ndarray
    phrases: np.ndarray
    opacity: np.ndarray

    def without_places(self) -> "Described":
        """The same with image labels alone: an opacity may lie anywhere in the lungs."""
        return replace(self, phrases=np.zeros_like(self.phrases))


def balanced(
    images: np.ndarray,
    boxes: list[np.ndarray],
    batch: int,
    seed: int,
    stream: int,
    zones: np.ndarray | None = None,
    steps: int = 0,
) -> tuple[int, Callable[[int], Iterator[Batch]]]:
    """Steps per epoch, and a function that yields an epoch's augmented batches.

    An epoch is every image with a box and as many without, drawn anew, and again until the `steps`
    that were asked for are full. images uint8 [N, S, S]; N arrays of boxes [n, 4]; zones uint8
    [N, z, z] or None; `stream` separates the random numbers of trainings with the same seed.
    """
    positive = np.array([i for i, b in enumerate(boxes) if len(b)], dtype=int)
    negative = np.array([i for i, b in enumerate(boxes) if not len(b)], dtype=int)
    drawn = min(len(negative), len(positive))
    rounds = -(-steps * batch // (len(positive) + drawn)) if steps and len(positive) else 1
    steps = steps or (len(positive) + drawn) // batch or int(len(positive) > 0)

    def batches(epoch: int) -> Iterator[Batch]:
        rng, order = generator(seed, stream, epoch), []
        for _ in range(rounds):
            both = np.concatenate([positive, rng.choice(negative, drawn, replace=False)])
            order.append(rng.permutation(both))
        for rows in parts(np.concatenate(order), batch, steps):
            own = None if zones is None else zones[rows]
            pictures = torch.from_numpy(images[rows])[:, None]
            moved, found, own = augment(pictures, [boxes[i] for i in rows], rng, own)
            yield moved, targets_of(found) if own is None else in_zones(targets_of(found), own)

    return steps, batches


def describing(
    data: Sequence[Described], batch: int, steps: int, seed: int
) -> Callable[[int], Iterator[Batch]]:
    """A function that yields an epoch's `steps` augmented batches of images with reports or labels.

    Two thirds show an opacity; the others come from every set in turn, as far as it has some: a
    label must not tell which set an image is from. Rows are drawn without replacement.
    """
    present = [np.flatnonzero(part.opacity > 0.5) for part in data]
    absent = [np.flatnonzero(part.opacity < 0.5) for part in data]
    positive = np.array([(k, row) for k, rows in enumerate(present) for row in rows], dtype=int)
    negative = [[(k, row) for row in rows] for k, rows in enumerate(absent) if len(rows)]
    count = round(batch * POSITIVE) if negative else batch

    def batches(epoch: int) -> Iterator[Batch]:
        rng = generator(seed, 3, epoch)
        drawn = [_cycled(positive, count * steps, rng).reshape(steps, count, 2)]
        if negative:
            rest = batch - count
            each = -(-rest * steps // len(negative))
            mixed = np.stack([_cycled(np.array(pool), each, rng) for pool in negative], axis=1)
            drawn.append(mixed.reshape(-1, 2)[: rest * steps].reshape(steps, rest, 2))
        for pairs in np.concatenate(drawn, axis=1):
            images, zones, phrases, opacity = (
                np.stack([getattr(data[k], name)[row] for k, row in pairs])
                for name in ("images", "zones", "phrases", "opacity")
            )
            no_boxes = [np.zeros((0, 4))] * len(pairs)
            moved, _, zones = augment(torch.from_numpy(images)[:, None], no_boxes, rng, zones)
            targets = [{"opacity": torch.tensor(own, dtype=torch.float32)} for own in opacity]
            yield moved, in_zones(targets, zones, torch.from_numpy(phrases).float())

    return batches


def _cycled(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` rows, each again only when all have been drawn."""
    rounds = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(rounds)[:count]


def targets_of(boxes: list) -> list[dict[str, Tensor]]:
    """Targets of `Detector.losses` from the boxes [n, 4] of each image."""
    boxes = [torch.as_tensor(own, dtype=torch.float32) for own in boxes]
    labels = [torch.zeros(len(own), dtype=torch.int64) for own in boxes]
    opacity = [torch.tensor(float(len(own) > 0)) for own in boxes]
    columns = zip(boxes, labels, opacity, strict=True)
    return [{"boxes": b, "labels": zeros, "opacity": o} for b, zeros, o in columns]


def in_zones(
    targets: list[dict[str, Tensor]], zones: Tensor, phrases: Tensor | None = None
) -> list[dict[str, Tensor]]:
    """Targets with zones [B, S, S] and phrases [B, P, 6], by default one that allows no place."""
    phrases = torch.zeros(len(targets), PHRASES, KINDS) if phrases is None else phrases
    columns = zip(targets, zones, phrases, strict=True)
    return [target | {"zones": z, "phrases": p} for target, z, p in columns]


def placed(batch: Batch, where: torch.device) -> Batch:
    """A batch on a device."""
    images, targets = batch
    return images.to(where), [{key: v.to(where) for key, v in t.items()} for t in targets]


def train_detector(
    images: np.ndarray,
    boxes: list[np.ndarray],
    config: DetectorConfig,
    *,
    zones: np.ndarray | None = None,
    described: Sequence[Described] = (),
    steps: int = 0,
    seed: int,
    **place: str | Path,
) -> tuple[Detector, pd.DataFrame]:
    """A detector trained on uint8 images [N, S, S] and N arrays of boxes [n, 4], and its history.

    Boxes are in pixels of the input, n may be 0. Where the configuration has a map of places, each
    batch also holds `config.described` of the images in `described`, and zones uint8 [N, z, z] are
    those of `images`; with `steps` per epoch N may then be 0, and reports alone train it. place:
    `folder` and `fingerprint` of pnloc.train.fit.
    """
    where = device()
    torch.manual_seed(seed)
    detector = Detector(config)
    load_start(detector.backbone, config)
    detector.to(where, memory_format=torch.channels_last)
    steps, batches = balanced(images, boxes, config.batch, seed, 1, zones, steps)
    both = batches
    if described:
        both = others = describing(described, config.described, steps, seed)
    if described and len(images):

        def both(epoch: int) -> Iterator[Batch]:
            for (pictures, own), (more, told) in zip(batches(epoch), others(epoch), strict=True):
                yield torch.cat([pictures, more]), own + told

    def losses(batch: Batch) -> Losses:
        with autocast(where):
            return detector.losses(*placed(batch, where))

    schedule = Schedule(config.epochs, steps, config.rate, config.weight_decay)
    options = {"seed": seed, "title": "detector", "shared": True}
    own = set(detector.backbone.parameters())
    rates = {config.body_rate: [p for p in detector.parameters() if p in own]}
    rates.setdefault(1.0, []).extend(p for p in detector.parameters() if p not in own)
    groups = [{"params": part, "lr": share * config.rate} for share, part in rates.items()]
    history = fit(detector, both, losses, schedule, groups=groups, **options, **place)
    return detector, history
