"""Train the detector on augmented images and their boxes; pnloc.train.fit is the loop."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from pnloc.config import DetectorConfig
from pnloc.detector import Detector, start
from pnloc.errors import PnlocError
from pnloc.parallel import autocast, device
from pnloc.train import Losses, Schedule, fit, generator, parts


def augment(
    images: Tensor, boxes: list[np.ndarray], rng: np.random.Generator
) -> tuple[Tensor, list[Tensor]]:
    """A random flip, scale (17%), shift (8%), rotation (4 degrees) and gamma for each image.

    images uint8 [B, 1, S, S] and B arrays [n, 4] -> float images and tensors of boxes in pixels of
    the result. A rotated box becomes the upright box around it, shrunk by half of what the rotation
    added; boxes with less than a third of their area in the picture are dropped.
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
    return moved, [_move(b, m, side) for b, m in zip(boxes, forward, strict=True)]


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


def balanced(
    images: np.ndarray,
    boxes: list[np.ndarray],
    batch: int,
    seed: int,
    stream: int,
    findings: np.ndarray | None = None,
) -> tuple[int, Callable[[int], Iterator[tuple[Tensor, list[Tensor], Tensor]]]]:
    """Steps per epoch, and a function that yields an epoch's augmented batches.

    An epoch is every image with a box and as many without, drawn anew. images uint8 [N, S, S]; N
    arrays of boxes [n, 4]; findings [N, 15] or None; `stream` separates the random numbers of
    trainings with the same seed. A batch has images, boxes and findings ([b, 0] without any).
    """
    findings = np.zeros((len(images), 0), dtype=np.float32) if findings is None else findings
    positive = np.array([i for i, b in enumerate(boxes) if len(b)], dtype=int)
    negative = np.array([i for i, b in enumerate(boxes) if not len(b)], dtype=int)
    drawn = min(len(negative), len(positive))
    steps = (len(positive) + drawn) // batch or int(len(positive) > 0)

    def batches(epoch: int) -> Iterator[tuple[Tensor, list[Tensor], Tensor]]:
        rng = generator(seed, stream, epoch)
        order = np.concatenate([positive, rng.choice(negative, drawn, replace=False)])
        for rows in parts(rng.permutation(order), batch, steps):
            moved = augment(torch.from_numpy(images[rows])[:, None], [boxes[i] for i in rows], rng)
            yield *moved, torch.from_numpy(findings[rows])

    return steps, batches


def targets_of(boxes: list, where: torch.device) -> list[dict[str, Tensor]]:
    """Targets of `Detector.losses` from the boxes [n, 4] of each image."""
    boxes = [torch.as_tensor(own, dtype=torch.float32, device=where) for own in boxes]
    labels = [torch.zeros(len(own), dtype=torch.int64, device=where) for own in boxes]
    return [{"boxes": b, "labels": zeros} for b, zeros in zip(boxes, labels, strict=True)]


def train_detector(
    images: np.ndarray,
    boxes: list[np.ndarray],
    config: DetectorConfig,
    *,
    findings: np.ndarray | None = None,
    seed: int,
    **place: str | Path,
) -> tuple[Detector, pd.DataFrame]:
    """A detector trained on uint8 images [N, S, S] and N arrays of boxes [n, 4], and its history.

    Boxes are in pixels of the input, n may be 0. findings: float32 [N, 15] (NaN unknown), see
    pnloc.detector.FINDINGS, where `config.finding_weight` asks for them; PnlocError without them.
    place: `folder` and `fingerprint` of pnloc.train.fit.
    """
    if config.finding_weight and findings is None:
        raise PnlocError("the detector is to learn findings (finding_weight), but there are none")
    where = device()
    torch.manual_seed(seed)
    detector = Detector(config)
    start(detector.backbone, config.start)
    detector.to(where, memory_format=torch.channels_last)
    findings = findings if config.finding_weight else None
    steps, batches = balanced(images, boxes, config.batch, seed, 1, findings)

    def losses(batch: tuple[Tensor, list[Tensor], Tensor]) -> Losses:
        pictures, boxes, findings = batch
        both = zip(targets_of(boxes, where), findings.to(where), strict=True)
        targets = [target | {"findings": row} for target, row in both]
        with autocast(where):
            return detector.losses(pictures.to(where), targets)

    schedule = Schedule(config.epochs, steps, config.rate, config.weight_decay)
    options = {"seed": seed, "title": "detector", "shared": True}
    history = fit(detector, batches, losses, schedule, **options, **place)
    return detector, history
