"""Findings that are not pneumonia: nodules, atelectases, scars, effusions, catheters and leads."""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy import ndimage

from pnloc.data.demo.anatomy import Variant
from pnloc.data.demo.case import SEEN, Added, Finding

# Band: mean and deviation of its angle; ranges of length and width (mm) and of the water it adds.
BANDS = {
    "atelectasis": ((0, 0.3), (18, 40), (2, 4.5), (7, 15)),
    "scar": ((0.6, 0.5), (8, 18), (1.5, 3), (6, 12)),
}


def add_other(variant: Variant, rng: Generator, name: str) -> Added:
    """A finding that is not pneumonia, and the millimetres of water [S, S] that it adds.

    None where there is no place for it, or where it would not be seen.
    """
    side = str(rng.choice(["left", "right"]))
    lung = variant.sides[side]
    if lung.sum() < 200:
        return None
    pitch = variant.grid[0] * variant.lobes.shape[0] / len(lung)
    if name == "nodule":
        added = _nodule(rng, lung, pitch)
    elif name in BANDS:
        added = _band(rng, lung, pitch, name)
    elif name == "effusion":
        added = _effusion(rng, lung, side)
    else:
        added = _device(rng, len(lung))
    mask = added > (SEEN if name != "device" else 8.0)
    if mask.sum() < 12:
        return None
    return Finding.of(variant, name, side, mask, 0, 0.0), added.astype(np.float32)


def _nodule(rng: Generator, lung: np.ndarray, pitch: float) -> np.ndarray:
    """A ball of 5 to 12 mm radius, away from the border of the lung where there is room."""
    inner = ndimage.binary_erosion(lung, iterations=6)
    rows, columns = np.nonzero(inner if inner.any() else lung)
    pick = rng.integers(len(rows))
    y, x = np.indices(lung.shape, dtype=np.float32)
    radius = rng.uniform(5, 12) / pitch
    inside = radius**2 - (x - int(columns[pick])) ** 2 - (y - int(rows[pick])) ** 2
    added = 2 * pitch * np.sqrt(np.clip(inside, 0, None)) * 0.7
    return ndimage.gaussian_filter(added, 0.7) * lung


def _band(rng: Generator, lung: np.ndarray, pitch: float, name: str) -> np.ndarray:
    """A soft straight band: an atelectasis in the lower lung or a scar at the apex."""
    angles, lengths, widths, amounts = BANDS[name]
    rows, columns = np.nonzero(lung)
    low, high = rows > np.quantile(rows, 0.72), rows < np.quantile(rows, 0.25)
    where = np.flatnonzero(low if name == "atelectasis" else high)
    centre = where[rng.integers(len(where))]
    y, x = np.indices(lung.shape, dtype=np.float32)
    y, x = y - rows[centre], x - columns[centre]
    angle = rng.normal(*angles)
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    length, width = rng.uniform(*lengths) / pitch, rng.uniform(*widths) / pitch
    band = np.exp(-((along / length) ** 4) - (across / width) ** 2)
    return band * rng.uniform(*amounts) * lung


def _effusion(rng: Generator, lung: np.ndarray, side: str) -> np.ndarray:
    """Fluid at the bottom of the visible lung, higher at the wall; it blunts the angle."""
    size = len(lung)
    columns = np.flatnonzero(lung.any(0))
    bottom = np.where(lung.any(0), size - 1 - lung[::-1].argmax(0), 0)
    wall = columns.min() if side == "right" else columns.max()
    reach = np.abs(np.arange(size) - wall) / max(columns.max() - columns.min(), 1)
    level = rng.uniform(0.04, 0.16) * size * np.clip(1.0 - 1.6 * reach, 0, 1)  # 0 near the heart
    height = bottom[None, :] - np.arange(size)[:, None]
    depth = np.clip(1 - height / np.maximum(level, 1)[None, :], 0, 1.3) * lung
    fluid = ndimage.gaussian_filter(depth * rng.uniform(25, 45), 2.0)
    return fluid * ndimage.gaussian_filter(lung.astype(np.float32), 2.0)


def _device(rng: Generator, size: int) -> np.ndarray:
    """Catheters or leads: thin dense curves from the upper edge, some with a round electrode."""
    canvas = Image.new("F", (4 * size, 4 * size))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 4)):
        t = np.linspace(0, 1, 60)
        start, end = rng.uniform([0.25, -0.05], [0.75, 0.05]), rng.uniform([0.3, 0.3], [0.7, 0.75])
        bend = rng.normal(0, 0.12, 2)
        curve = start + (end - start) * t[:, None] + np.outer(np.sin(np.pi * t), bend)
        points = [tuple(p * 4 * size) for p in curve]
        pen.line(points, fill=float(rng.uniform(10, 22)), width=int(rng.integers(4, 9)))
        if rng.random() < 0.4:
            x, y = points[-1]
            pen.ellipse((x - 12, y - 12, x + 12, y + 12), fill=30.0)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))
