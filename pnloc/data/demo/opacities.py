"""Pneumonic opacities inside lobes, with exact masks."""

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from pnloc.data.demo.anatomy import LEFT, LUNG, Variant, picture
from pnloc.data.demo.case import SEEN, Added, Finding, extent_box
from pnloc.data.demo.rates import RATES

THINNEST = 0.05  # least width and height of an opacity, as a share of the picture
# Kind: range of its radii in millimetres, and how rough its border is.
SHAPES = {
    "focal": ((13, 26), 0.25),
    "patchy": ((22, 42), 0.7),
    "consolidation": ((30, 55), 0.25),
    "ground glass": ((28, 52), 0.5),
    "interstitial": ((35, 60), 0.5),
}


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
    size, rough = SHAPES[kind]
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
    mask = _largest(ndimage.binary_opening((added > SEEN) & variant.visible))
    if mask.sum() < 0.005 * mask.size:
        return None
    x1, y1, x2, y2 = extent_box(mask)
    if min(x2 - x1, y2 - y1) < THINNEST * len(mask):
        return None
    side = "left" if lobe in LEFT else "right"
    return Finding.of(variant, kind, side, mask, lobe, density), added


def _largest(mask: np.ndarray) -> np.ndarray:
    """The connected parts that are at least a fifth as large as the largest."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= 0.2 * sizes.max())[labels] & mask


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
