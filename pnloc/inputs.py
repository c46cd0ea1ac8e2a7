"""Augmentation of training images; their boxes move along."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


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
