"""Looks: what several detectors and the lung finder of a run see in pictures, and areas inside the lungs.

Several detectors are averaged; an image of their own set is shown only to those that have not seen its patient.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import logit

from pnloc.boxes import as_boxes
from pnloc.files import load_module, load_tensors, save_module, save_tensors
from pnloc.images import Letterbox
from pnloc.localizer import Choice, normalized_scores, pick
from pnloc.parallel import device
from pnloc.regions import Regions, extract, mask_mean
from pnloc.run import members
from pnloc.run.run import Run
from pnloc.run.severity import lungs

if TYPE_CHECKING:
    from pnloc.detector import Detector

CELLS = 64  # per side of the grid on which areas inside the lungs are measured


# Networks -------------------------------------------------------------------------------------------------


@lru_cache(None)
def detectors(run: Run) -> "list[Detector]":
    """The run's detector and, where the preset asks for more, further ones (pnloc.run.members)."""
    return [run.detector, *members.further(run)]


def lungs_stage(run: Run) -> tuple[Path, str]:
    """The lung finder, trained on generated radiographs, and where lungs usually lie in them."""
    config = run.preset.severity
    inputs = (config.anatomies, config.epochs, run.seed)

    def make(folder: Path, key: str) -> None:
        images, masks = lungs.generated(config.anatomies, run.seed)
        net, _ = lungs.train_lungs(
            images, masks, epochs=config.epochs, seed=run.seed, folder=folder, fingerprint=key
        )
        save_module(folder / "lungs.safetensors", net)
        shown = torch.from_numpy(
            np.stack([lungs.boxes(m[None].astype(float), np.zeros((2, 4)))[0][0] for m in masks])
        )
        save_tensors(folder / "usual.safetensors", {"boxes": shown.float()})

    return run.cache.stage("lungs", *inputs, make=make, code=(lungs.train_lungs,))


@lru_cache(None)
def lung_finder(run: Run) -> lungs.LungNet:
    """The lung finder of the run, trained on generated radiographs."""
    return (
        load_module(lungs_stage(run)[0] / "lungs.safetensors", lungs.LungNet()).to(device()).eval()
    )


@dataclass(frozen=True)
class Lungs:
    """Lungs of N pictures of S x S pixels: boxes [N, 2, 4] relative to the picture, found [N, 2] bool."""

    boxes: np.ndarray
    found: np.ndarray

    @property
    def zones(self) -> np.ndarray:
        """[N, 6, 4], A to F, relative to the picture."""
        return lungs.zones(self.boxes)


def find_lungs(run: Run, pixels: np.ndarray) -> Lungs:
    """Lungs of uint8 pictures [N, S, S]; one that is not found lies where it usually does in generated radiographs."""
    usual = (
        load_tensors(lungs_stage(run)[0] / "usual.safetensors")["boxes"].median(0).values.numpy()
    )
    return Lungs(*lungs.boxes(lungs.masks(lung_finder(run), pixels), usual))


def lung_pixels(run: Run, pixels: np.ndarray) -> np.ndarray:
    """Which pixels of uint8 pictures [N, S, S] are lung, bool [N, S, S]; a picture without any is lung throughout."""
    chances = torch.from_numpy(lungs.masks(lung_finder(run), pixels).max(1, keepdims=True))
    inside = F.interpolate(chances, size=pixels.shape[1:], mode="bilinear")[:, 0].numpy() > 0.5
    return inside | ~inside.any((1, 2), keepdims=True)


# Looks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What V looks (each detector, at the image as it is and mirrored) say of N images.

    image [V, N] probability of an opacity; mask [V, N, h, w] probability per cell; area [V, N] of the detected boxes, in pictures.
    """

    image: np.ndarray
    mask: np.ndarray
    area: np.ndarray

    def mean(self, looks: slice = slice(None)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image [N], as log-odds; mask [N, h, w]; area [N]: means over some looks."""
        return odds(self.image[looks]).mean(0), self.mask[looks].mean(0), self.area[looks].mean(0)


def odds(probability: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities: where most images have an opacity, probabilities crowd below 1, and these do not."""
    return logit(np.asarray(probability, dtype=np.float64).clip(1e-6, 1 - 1e-6))


def look(
    run: Run, shown_to: "list[Detector]", pixels: np.ndarray, choice: Choice, mirrored: bool = True
) -> Look:
    """Show uint8 pictures [N, S, S] to some detectors. Looks come detector by detector, each first as it is."""
    images, masks, areas = [], [], []
    config = replace(run.preset.regions, mirrored=False)
    for detector in shown_to:
        for flipped in (False, True) if mirrored else (False,):
            regions = extract(detector, pixels[..., ::-1].copy() if flipped else pixels, config)
            mask = regions.mask.float().numpy()
            images.append(regions.image.numpy())
            masks.append(mask[..., ::-1] if flipped else mask)
            areas.append(detected_area(regions, choice, pixels.shape[-1]))
    return Look(np.stack(images), np.stack(masks), np.stack(areas))


def look_at(run: Run, name: str, rows: np.ndarray, choice: Choice) -> Look:
    """What the detectors of the run say of some rows of a set.

    Rows of the detectors' own set must be none that the run's own detector was trained on; where others have learned from them, it speaks alone.
    """
    shown_to = [run.detector] if run.preset.folds and name == members.home(run) else detectors(run)
    return look(run, shown_to, run.sets.pixels(name)[rows], choice)


def masks_of(run: Run, pixels: np.ndarray) -> np.ndarray:
    """The mean mask [N, h, w] of all detectors on uint8 pictures [N, S, S]."""
    return look(run, detectors(run), pixels, Choice()).mean()[1]


def share(box: Letterbox) -> float:
    """The picture's share of its padded square."""
    return box.width * box.height * (box.scale / box.side) ** 2


def detected_area(regions: Regions, choice: Choice, side: int) -> np.ndarray:
    """Area [N] of the boxes that a choice keeps of the detector's, in pictures of side x side, times the best region's score."""
    return np.array(
        [
            np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum()
            / side**2
            * (best.max() if len(best) else 0.0)
            for (boxes, _), best in zip(
                pick(regions, normalized_scores(regions), choice),
                regions.scores.numpy(),
                strict=True,
            )
        ]
    )


def covered(found: list[np.ndarray], places: np.ndarray) -> np.ndarray:
    """Share [N, K] of each of K places [N, K, 4] that the union of an image's boxes [n, 4] covers; all relative to the picture."""
    shares = np.zeros(places.shape[:2])
    centres = (np.arange(CELLS) + 0.5) / CELLS
    for row, boxes in enumerate(found):
        for column, (x1, y1, x2, y2) in enumerate(places[row]):
            x, y = x1 + centres * (x2 - x1), y1 + centres * (y2 - y1)
            inside = np.zeros((CELLS, CELLS), dtype=bool)
            for left, top, right, bottom in as_boxes(boxes):
                inside |= np.outer((top <= y) & (y < bottom), (left <= x) & (x < right))
            shares[row, column] = inside.mean()
    return shares


def in_lungs(values: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Values of the two lungs [N, 2] as one [N], weighted by the area of their boxes [N, 2, 4]."""
    area = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    return (values * area).sum(1) / np.maximum(area.sum(1), 1e-9)


def within(masks: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Mean [N, K] of masks [N, h, w] inside each of K places [N, K, 4], relative to the picture."""
    return np.stack([mask_mean(m, p, 1) for m, p in zip(masks, places, strict=True)])
