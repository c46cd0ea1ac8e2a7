"""Pneumonic opacities inside lobes, with exact masks, and the findings that are not pneumonia.

These are nodules, atelectases, scars, effusions, catheters and leads.
"""

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy import ndimage

from phantoms.anatomy import LEFT, LUNG, Variant, picture
from phantoms.case import SEEN, Added, Finding
from phantoms.rates import RATES, table

THINNEST = 0.05  # least width and height of an opacity, as a share of the picture
SHAPES, BANDS = table("findings").values()


@lru_cache(1)
def noise_bank(shape: tuple[int, int, int]) -> np.ndarray:
    """Smooth noise [6, *shape] of mean 0 and deviation 1, to be rolled for each lesion."""
    rng, bank = np.random.default_rng(7), []
    for scale in np.linspace(2.0, 4.5, 6):
        noise = rng.normal(size=shape).astype(np.float32)
        smooth = ndimage.gaussian_filter(noise, (scale, scale / 2.5, scale * 1.1), mode="wrap")
        bank.append(smooth / smooth.std())
    return np.stack(bank)


def _noise(shape: tuple[int, int, int], rng: Generator) -> np.ndarray:
    volume = noise_bank(shape)[rng.integers(6)]
    return np.roll(volume, [rng.integers(0, n) for n in shape], axis=(0, 1, 2))


def _centre(variant: Variant, lobe: int, rng: Generator) -> np.ndarray | None:
    """A voxel of a lobe that the picture shows; None where the lobe is hidden."""
    side = len(variant.visible)
    voxels = np.argwhere(variant.lobes == lobe)
    columns = (voxels[:, 0] * side / variant.lobes.shape[0]).astype(int)
    rows = side - 1 - (voxels[:, 2] * side / variant.lobes.shape[2]).astype(int)
    inner = ndimage.binary_erosion(variant.visible, iterations=3)
    voxels = voxels[inner[rows.clip(0, side - 1), columns.clip(0, side - 1)]]
    return voxels[rng.integers(len(voxels))] if len(voxels) > 50 else None


def _ellipsoid(variant: Variant, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Squared distance [x, y, z] from the centre, 1 at the surface of an ellipsoid."""
    axes = np.ogrid[tuple(map(slice, variant.lobes.shape))]
    parts = zip(axes, centre, variant.grid, radii, strict=True)
    return sum(((axis - c) * g / r) ** 2 for axis, c, g, r in parts)


def add_opacity(variant: Variant, rng: Generator, name: str, lobe: int, kind: str) -> Added:
    """One opacity of a kind of SHAPES, and the millimetres of water [S, S] that it adds.

    Its size and its density are those of the set. None where it would not be seen.
    """
    centre = _centre(variant, lobe, rng)
    if centre is None:
        return None
    size, rough = SHAPES[kind].values()
    enlarge = 1.8 if name == "covid" else 1.55
    radii = enlarge * rng.uniform(*size) * np.exp(rng.normal(0, 0.18, 3))
    density = rng.uniform(*RATES[name]["density"])
    if kind in ("ground glass", "interstitial"):
        density = min(density, rng.uniform(0.28, 0.45))
    elif kind == "consolidation":
        density = max(density, rng.uniform(0.6, 0.95))
    depth = 1 - _ellipsoid(variant, centre, radii) + rough * _noise(variant.lobes.shape, rng)
    filling = np.clip(depth * 2.0, 0, 1) * (variant.lobes == lobe)
    if kind == "interstitial":
        filling = filling * np.clip(1 - 1.6 * np.abs(_noise(variant.lobes.shape, rng)), 0, 1) * 1.6
    water = picture(filling.sum(1) * variant.grid[1], len(variant.visible))
    added = ndimage.gaussian_filter(water, 1.0) * density * (1 - LUNG)
    mask = ndimage.binary_opening((added > SEEN) & variant.visible)
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts[mask], minlength=1)
    mask = (sizes >= 0.2 * sizes.max())[parts] & mask  # without parts far smaller than the largest
    if mask.sum() < 0.005 * mask.size:
        return None
    side = "left" if lobe in LEFT else "right"
    finding = Finding.of(variant, kind, side, mask, lobe, density)
    x1, y1, x2, y2 = finding.box
    return (finding, added) if min(x2 - x1, y2 - y1) >= THINNEST * len(mask) else None


def merge(opacities: list[Finding], variant: Variant) -> list[Finding]:
    """Opacities that the picture cannot tell apart as one, as a reader boxes them.

    That is where a third of the smaller one lies on the other.
    """
    merged: list[Finding] = []
    for one in opacities:
        for place, other in enumerate(merged):
            shared = (one.mask & other.mask).sum()
            if one.side == other.side and shared > min(one.area, other.area) / 3:
                large = max(one, other, key=lambda f: f.area)
                density, both = max(one.density, other.density), one.mask | other.mask
                merged[place] = Finding.of(variant, large.kind, one.side, both, large.lobe, density)
                break
        else:
            merged.append(one)
    return merged


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
    angles, lengths, widths, amounts = BANDS[name].values()
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
