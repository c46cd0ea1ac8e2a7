"""Lesions inside lobes with exact masks, findings that are not pneumonia, and how attenuation becomes a picture."""

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from pnloc.data.demo.anatomy import LEFT, LOBES, LUNG, Variant
from pnloc.data.demo.rates import Rates, SetRates

SEEN = 5.0  # millimetres of water that a lesion must add to count as seen
THINNEST = 0.05  # least width and height of an opacity, as a share of the picture
WATER = 0.0185  # attenuation of water per millimetre at the tube's effective energy


@dataclass(frozen=True)
class Finding:
    """Something in the picture: its name or kind, where, its mask [S, S] bool, and what it adds to the path.

    kind: an opacity's kind or a distractor's name; lobe: label or 0; side: 'left' or 'right'; zone: 'upper', 'middle', 'lower';
    box: xyxy in pixels, the mask's extent.
    """

    kind: str
    lobe: int
    side: str
    zone: str
    density: float
    mask: np.ndarray
    box: tuple[float, float, float, float]
    area: int  # pixels of the mask

    def light(self) -> "Finding":
        """The same without its mask, to travel between processes."""
        return replace(self, mask=np.zeros((0, 0), dtype=bool))


@dataclass
class Case:
    """One image's truth: opacities and other findings, and the share of each visible lung that opacities cover."""

    opacities: list[Finding] = field(default_factory=list)
    others: list[Finding] = field(default_factory=list)
    share: dict[str, float] = field(default_factory=dict)
    degree: dict[str, float] = field(default_factory=dict)

    def light(self) -> "Case":
        """The same without masks."""
        return replace(
            self,
            opacities=[o.light() for o in self.opacities],
            others=[o.light() for o in self.others],
        )

    @property
    def extent(self) -> float:
        """Geographic extent, 0 to 8: per lung 0 (none), 1 (<25%), 2 (25-50%), 3 (50-75%), 4 (>75%)."""
        return float(sum(extent_grade(s) for s in self.share.values()))

    @property
    def opacity(self) -> float:
        """Degree of opacity, 0 to 6: per lung 0 (none), 1 (ground glass), 2 (consolidation), 3 (white-out)."""
        return float(sum(self.degree.values()))

    @property
    def severity(self) -> str:
        """'mild', 'moderate' or 'severe', from the geographic extent."""
        return "mild" if self.extent <= 2 else "moderate" if self.extent <= 4 else "severe"


def extent_grade(share: float) -> int:
    """Grade of the share of a lung that is involved, by the definition of Cohen et al. 2020."""
    return 0 if share <= 0 else 1 + sum(share > limit for limit in (0.25, 0.5, 0.75))


def degree_grade(share: float, density: float) -> int:
    """Grade of a lung's opacity: none, ground glass (thin), consolidation (dense), white-out (dense nearly everywhere)."""
    if share <= 0:
        return 0
    return 1 if density < 0.45 else 3 if share > 0.75 and density > 0.65 else 2


def noise_bank(shape: tuple[int, int, int], count: int = 6) -> np.ndarray:
    """Smooth noise [count, *shape] of mean 0 and deviation 1, to be rolled and turned for each lesion."""
    rng = np.random.default_rng(7)
    found = []
    for scale in np.linspace(2.0, 4.5, count):
        volume = ndimage.gaussian_filter(
            rng.normal(size=shape).astype(np.float32),
            (scale, scale / 2.5, scale * 1.1),
            mode="wrap",
        )
        found.append(volume / volume.std())
    return np.stack(found)


def _noise(bank: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    volume = bank[rng.integers(len(bank))]
    return np.roll(volume, tuple(rng.integers(0, n) for n in volume.shape), axis=(0, 1, 2))


def _centre(variant: Variant, lobe: int, rng: np.random.Generator) -> np.ndarray | None:
    """A voxel of a lobe that the picture shows; None where the lobe is hidden."""
    side = len(variant.visible)
    voxels = np.argwhere(variant.lobes == lobe)
    columns = (voxels[:, 0] * side / variant.lobes.shape[0]).astype(int)
    rows = side - 1 - (voxels[:, 2] * side / variant.lobes.shape[2]).astype(int)
    inner = ndimage.binary_erosion(variant.visible, iterations=3)
    voxels = voxels[inner[rows.clip(0, side - 1), columns.clip(0, side - 1)]]
    return voxels[rng.integers(len(voxels))] if len(voxels) > 50 else None


def _blob(
    variant: Variant,
    centre: np.ndarray,
    radii: np.ndarray,
    inside: np.ndarray,
    rough: float,
    noise: np.ndarray,
) -> np.ndarray:
    """Filling [x, y, z], 0 to 1, of an ellipsoid whose border is roughened by noise, within `inside`."""
    axes = [
        ((np.arange(n) - c) * g / r) ** 2
        for n, c, g, r in zip(inside.shape, centre, variant.grid, radii, strict=True)
    ]
    distance = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    return np.clip((1 - distance + rough * noise) * 2.0, 0, 1) * inside


def _picture(variant: Variant, filling: np.ndarray) -> np.ndarray:
    """Millimetres of water [S, S] that a filling [x, y, z] adds along the rays."""
    side = len(variant.visible)
    plane = (filling.sum(1) * variant.grid[1]).astype(np.float32)
    zoom = (side / plane.shape[0], side / plane.shape[1])
    return ndimage.gaussian_filter(
        ndimage.zoom(plane, zoom, order=1, grid_mode=True, mode="nearest")[:, ::-1].T, 1.0
    )


def extent_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """xyxy of a mask's extent, in pixels; the mask must not be empty."""
    rows, columns = np.nonzero(mask)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def zone_of(mask: np.ndarray, lung: np.ndarray) -> str:
    """'upper', 'middle' or 'lower' third of the visible lung, by the mask's centre of mass."""
    rows = np.nonzero(lung.any(1))[0]
    centre = np.nonzero(mask)[0].mean()
    share = (centre - rows.min()) / max(rows.max() - rows.min(), 1)
    return "upper" if share < 0.36 else "middle" if share < 0.66 else "lower"


def add_opacity(
    variant: Variant,
    rng: np.random.Generator,
    bank: np.ndarray,
    rates: Rates,
    own: SetRates,
    lobe: int,
    kind: str,
    enlarge: float,
) -> tuple[Finding, np.ndarray] | None:
    """One pneumonic opacity (its usual size times `enlarge`) and the millimetres of water [S, S] that it adds; None where it would not be seen."""
    centre = _centre(variant, lobe, rng)
    if centre is None:
        return None
    size = {
        "focal": (13, 26),
        "patchy": (22, 42),
        "consolidation": (30, 55),
        "ground glass": (28, 52),
        "interstitial": (35, 60),
    }[kind]
    radii = enlarge * rng.uniform(*size) * np.exp(rng.normal(0, 0.18, 3))
    density = rng.uniform(*own.density)
    if kind in ("ground glass", "interstitial"):
        density = min(density, rng.uniform(0.28, 0.45))
    elif kind == "consolidation":
        density = max(density, rng.uniform(0.6, 0.95))
    noise = _noise(bank, rng)
    rough = {
        "focal": 0.25,
        "patchy": 0.7,
        "consolidation": 0.25,
        "ground glass": 0.5,
        "interstitial": 0.5,
    }[kind]
    filling = _blob(variant, centre, radii, variant.lobes == lobe, rough, noise)
    if kind == "interstitial":
        filling = filling * np.clip(1 - 1.6 * np.abs(_noise(bank, rng)), 0, 1) * 1.6
    added = _picture(variant, filling) * density * (1 - LUNG)
    mask = (added > SEEN) & variant.visible
    mask = _largest(ndimage.binary_opening(mask, iterations=1))
    if mask.sum() < 0.005 * mask.size:
        return None
    box = extent_box(mask)
    if min(box[2] - box[0], box[3] - box[1]) < THINNEST * len(mask):
        return None
    side = "left" if lobe in LEFT else "right"
    return Finding(
        kind, lobe, side, zone_of(mask, variant.sides[side]), density, mask, box, int(mask.sum())
    ), added


def _largest(mask: np.ndarray) -> np.ndarray:
    """The connected parts that are at least a fifth as large as the largest."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.isin(labels, np.nonzero(sizes >= 0.2 * sizes.max())[0])


def add_other(
    variant: Variant, rng: np.random.Generator, bank: np.ndarray, name: str
) -> tuple[Finding, np.ndarray] | None:
    """A finding that is not pneumonia, and the millimetres of water [S, S] that it adds."""
    side = str(rng.choice(["left", "right"]))
    lung = variant.sides[side]
    rows, columns = np.nonzero(lung)
    if len(rows) < 200:
        return None
    size = len(lung)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    pitch = variant.grid[0] * variant.lobes.shape[0] / size
    if name == "nodule":
        row, column = _at(rng, lung)
        radius = rng.uniform(5, 12) / pitch
        added = (
            2
            * pitch
            * np.sqrt(np.clip(radius**2 - (x - column) ** 2 - (y - row) ** 2, 0, None))
            * 0.7
        )
        added = ndimage.gaussian_filter(added, 0.7) * lung
    elif name == "atelectasis":
        low = rows > np.quantile(rows, 0.72)
        pick = rng.integers(low.sum())
        added = _band(
            x,
            y,
            columns[low][pick],
            rows[low][pick],
            rng.normal(0, 0.3),
            rng.uniform(18, 40) / pitch,
            rng.uniform(2, 4.5) / pitch,
        )
        added = added * rng.uniform(7, 15) * lung
    elif name == "scar":
        high = rows < np.quantile(rows, 0.25)
        pick = rng.integers(high.sum())
        added = _band(
            x,
            y,
            columns[high][pick],
            rows[high][pick],
            rng.normal(0.6, 0.5),
            rng.uniform(8, 18) / pitch,
            rng.uniform(1.5, 3) / pitch,
        )
        added = added * rng.uniform(6, 12) * lung
    elif name == "effusion":
        added = _effusion(variant, rng, side, bank)
    else:
        added = _device(rng, size)
    mask = added > (SEEN if name != "device" else 8.0)
    if mask.sum() < 12:
        return None
    return Finding(
        name, 0, side, zone_of(mask, lung), 0.0, mask, extent_box(mask), int(mask.sum())
    ), added.astype(np.float32)


def _at(rng: np.random.Generator, mask: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(ndimage.binary_erosion(mask, iterations=6))
    if len(rows) == 0:
        rows, columns = np.nonzero(mask)
    pick = rng.integers(len(rows))
    return int(rows[pick]), int(columns[pick])


def _band(
    x: np.ndarray,
    y: np.ndarray,
    column: float,
    row: float,
    angle: float,
    length: float,
    width: float,
) -> np.ndarray:
    """A soft straight band around a point, 0 to 1."""
    along = (x - column) * np.cos(angle) + (y - row) * np.sin(angle)
    across = -(x - column) * np.sin(angle) + (y - row) * np.cos(angle)
    return np.exp(-((along / length) ** 4) - (across / width) ** 2)


def _effusion(
    variant: Variant, rng: np.random.Generator, side: str, bank: np.ndarray
) -> np.ndarray:
    """Fluid at the bottom of the visible lung, higher at the wall: it fades upwards and blunts the angle."""
    lung = variant.sides[side]
    size = len(lung)
    rows, columns = np.nonzero(lung)
    bottom = np.full(size, np.nan)
    for column in np.unique(columns):
        bottom[column] = rows[columns == column].max()
    wall = columns.min() if side == "right" else columns.max()
    reach = np.abs(np.arange(size) - wall) / max(columns.max() - columns.min(), 1)
    level = rng.uniform(0.04, 0.16) * size * np.clip(1.0 - 1.6 * reach, 0, 1)  # none near the heart
    height = np.nan_to_num(bottom)[None, :] - np.arange(size)[:, None]
    depth = np.clip(1 - height / np.maximum(level, 1)[None, :], 0, 1.3) * lung
    return ndimage.gaussian_filter(depth * rng.uniform(25, 45), 2.0) * ndimage.gaussian_filter(
        lung.astype(np.float32), 2.0
    )


def _device(rng: np.random.Generator, size: int) -> np.ndarray:
    """A catheter or lead: a thin dense curve from the upper edge to the middle, or wires with round electrodes."""
    picture = Image.new("F", (4 * size, 4 * size))
    pen = ImageDraw.Draw(picture)
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
    return np.asarray(picture.resize((size, size), Image.Resampling.BOX))


def merge(found: list[Finding], variant: Variant) -> list[Finding]:
    """Opacities that the picture cannot tell apart (a third of the smaller lies on the other) as one, as a reader boxes them."""
    merged: list[Finding] = []
    for one in found:
        for place, other in enumerate(merged):
            shared = (one.mask & other.mask).sum()
            if one.side == other.side and shared > min(one.area, other.area) / 3:
                mask = one.mask | other.mask
                zone, density = (
                    zone_of(mask, variant.sides[one.side]),
                    max(one.density, other.density),
                )
                larger = max(one, other, key=lambda f: f.area)
                merged[place] = replace(
                    larger,
                    zone=zone,
                    density=density,
                    mask=mask,
                    box=extent_box(mask),
                    area=int(mask.sum()),
                )
                break
        else:
            merged.append(one)
    return merged


def make_case(
    variant: Variant,
    rng: np.random.Generator,
    bank: np.ndarray,
    rates: Rates,
    own: SetRates,
    covid: bool = False,
) -> tuple[Case, np.ndarray]:
    """Draw an image's findings by the rates; the case and the millimetres of water [S, S] that they add together."""
    case, added = Case(), np.zeros(variant.path.shape, dtype=np.float32)
    if rng.random() < own.positive:
        counts = rates.covid_opacities if covid else rates.opacities
        wanted = 1 + rng.choice(len(counts), p=counts)
        kind = str(rng.choice(list(rates.kinds), p=list(rates.kinds.values())))
        lobes = rng.choice(LOBES, size=min(wanted, 5), replace=False, p=rates.lobes)
        for lobe in lobes:
            found = add_opacity(
                variant, rng, bank, rates, own, int(lobe), kind, 1.8 if covid else 1.55
            )
            if found:
                case.opacities.append(found[0])
                added += found[1]
    case.opacities = merge(case.opacities, variant)
    for _ in range(min(rng.poisson(own.distractor), 3)):
        name = str(rng.choice(list(rates.distractors), p=list(rates.distractors.values())))
        found = add_other(variant, rng, bank, name)
        if found and name not in [o.kind for o in case.others]:
            case.others.append(found[0])
            added += found[1]
    for side, lung in variant.sides.items():
        here = [o for o in case.opacities if o.side == side]
        covered = np.any([o.mask for o in here], axis=0) & lung if here else np.zeros_like(lung)
        case.share[side] = float(covered.sum() / max(lung.sum(), 1))
        density = (
            np.average([o.density for o in here], weights=[o.area for o in here]) if here else 0.0
        )
        case.degree[side] = float(degree_grade(case.share[side], float(density)))
    return case, added


def develop(variant: Variant, added: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture uint8 [S, S] of a variant with `added` millimetres of water: scatter, noise, film curve, markers.

    White is dense, as a radiograph is read.
    """
    side = len(added)
    intensity = np.exp(-WATER * (variant.path + added))
    scatter = ndimage.zoom(
        ndimage.gaussian_filter(intensity[::4, ::4], side / 40),
        4,
        order=1,
        mode="nearest",
        grid_mode=True,
    )
    intensity = intensity + rng.uniform(0.2, 0.45 if not variant.portable else 0.7) * scatter
    photons = rng.uniform(2.5e4, 9e4) * (0.5 if variant.portable else 1.0)
    intensity = np.clip(
        intensity + rng.normal(0, 1, intensity.shape) * np.sqrt(intensity / photons), 1e-5, None
    )
    dense = -np.log(intensity)
    dense = ndimage.gaussian_filter(dense, rng.uniform(0.3, 0.8))
    dense = dense + rng.uniform(0.3, 1.0) * (
        dense - ndimage.gaussian_filter(dense, side / 50)
    )  # the detector's edge enhancement
    inner = dense[side // 12 : -side // 12, side // 12 : -side // 12]
    low, high = np.quantile(inner, [rng.uniform(0.005, 0.03), rng.uniform(0.93, 0.99)])
    shade = np.clip((dense - low) / (high - low), 0, 1.15)
    curve = 1 / (1 + np.exp(-rng.uniform(3.2, 4.8) * (shade - rng.uniform(0.42, 0.55))))
    edges = curve.min(), curve.max()
    picture = (
        (curve - edges[0]) / max(edges[1] - edges[0], 1e-6) * rng.uniform(215, 250)
        + rng.uniform(0, 12)
    ).clip(0, 255)
    if rng.random() < 0.5:
        picture = _marker(picture, rng)
    return picture.astype(np.uint8)


def _marker(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A lead letter in an upper corner: L on the patient's left, which is the picture's right; R on the other."""
    letter = str(rng.choice(["L", "R"]))
    side = len(picture)
    image = Image.fromarray(picture.astype(np.uint8))
    column = rng.uniform(0.88, 0.94) if letter == "L" else rng.uniform(0.03, 0.08)
    ImageDraw.Draw(image).text((column * side, rng.uniform(0.02, 0.12) * side), letter, fill=245)
    return np.asarray(image, dtype=np.float32)
