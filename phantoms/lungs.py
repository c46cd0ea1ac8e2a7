"""Generated radiographs with masks of their lungs, for the lung finder of pnloc.

Strong augmentation of place, contrast and density makes up for the variety that one CT lacks.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from phantoms.anatomy import project, read_chest
from phantoms.film import develop
from phantoms.generator import make_case
from pnloc.parallel import bar

SIDES = ("right", "left")
VIEWS = 8  # radiographs per projected anatomy


def generate_lungs(anatomies: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Radiographs uint8 [N, S, S] of anatomies, PA and AP in turn, and lungs bool [N, 2, S, S].

    S is `side`; the right lung comes first. Opacities are those of the COVID-like set, so that a
    network learns from lungs that are partly white. Raises PnlocError if the chest CT is not
    installed.
    """
    chest, images, masks = read_chest(), [], []
    for number in bar(range(anatomies), desc="generate lungs", unit="anatomy"):
        rng = np.random.default_rng([seed, 201, number])
        variant = project(chest, rng, side, portable=bool(number % 2))
        for _ in range(VIEWS):
            _, added = make_case(variant, rng, "covid")
            images.append(develop(variant, added, rng))
        masks += [np.stack([variant.sides[name] for name in SIDES])] * VIEWS
    return np.stack(images), np.stack(masks)


def _per_image(values: np.ndarray) -> Tensor:
    """Values [B], or bools, as a tensor [B, 1, 1, 1]."""
    tensor = torch.from_numpy(values)[:, None, None, None]
    return tensor.float() if tensor.is_floating_point() else tensor


def augment(
    images: np.ndarray, masks: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Augment images uint8 [B, S, S] and masks [B, 2, S, S]: shift, zoom, rotate, mirror and more.

    Returns float images [B, 1, S, S] with other contrast, noise and density and with white patches
    over the lungs, and masks [B, 2, S, S] of 0 and 1.
    """
    count, side = images.shape[0], images.shape[-1]
    flip = rng.random(count) < 0.5
    angle, shift = np.deg2rad(rng.normal(0, 5, count)), rng.uniform(-0.3, 0.3, (count, 2))
    zoom = np.exp(rng.uniform(-0.3, 0.35, (count, 1)) + rng.normal(0, 0.1, (count, 2)))
    across, upright = (np.cos(angle) * zoom.T) * [np.where(flip, -1, 1), np.ones(count)]
    matrix = [[across, -np.sin(angle), shift[:, 0]], [np.sin(angle), upright, shift[:, 1] * 0.7]]
    transform = torch.from_numpy(np.moveaxis(np.array(matrix), -1, 0)).float()
    grid = F.affine_grid(transform, [count, 1, side, side], align_corners=False)
    both = torch.from_numpy(np.concatenate([images[:, None] / 255, masks], axis=1)).float()
    moved = F.grid_sample(both, grid, align_corners=False)
    # Beyond the generated picture: black in half of the images, the nearest pixels in the others.
    spread = F.grid_sample(both[:, :1], grid, padding_mode="border", align_corners=False)
    grey = torch.where(_per_image(rng.random(count) < 0.5), spread, moved[:, :1])
    truth = torch.where(_per_image(flip), moved[:, 1:].flip(1), moved[:, 1:])
    white = torch.from_numpy(_patches(count, side, rng)).float()[:, None]
    grey = grey + white * truth.amax(1, keepdim=True) * (0.95 - grey).clamp_min(0)
    grey = grey.clamp(0, 1) ** _per_image(np.exp(rng.uniform(-0.6, 0.6, count)))
    noise = torch.from_numpy(rng.normal(0, 1, grey.shape)).float()
    grey = grey + noise * _per_image(rng.uniform(0, 0.05, count))
    grey = torch.where(_per_image(rng.random(count) < 0.4), F.avg_pool2d(grey, 3, 1, 1), grey)
    return grey.clamp(0.004, 1) * 255, (truth > 0.5).float()


def _patches(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Density [B, S, S], 0 to 1, of up to three soft ellipses per image; a third have none."""
    y, x = np.mgrid[0:side, 0:side] / side
    density = np.zeros((count, side, side))
    for image in density:
        for _ in range(rng.choice([0, 1, 2, 3], p=[0.34, 0.22, 0.22, 0.22])):
            centre, size = rng.uniform([0.1, 0.25], [0.9, 0.9]), rng.uniform(0.08, 0.3, 2)
            distance = np.hypot((x - centre[0]) / size[0], (y - centre[1]) / size[1])
            ellipse = rng.uniform(0.2, 0.9) / (1 + np.exp((distance - 1) * 6))
            np.maximum(image, ellipse, out=image)
    return density
