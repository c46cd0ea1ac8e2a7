"""Outputs of an ensemble of detectors, and the lungs, for the read-outs of severity.

The outputs of several detectors are averaged. An image of their own set is shown only to detectors
that have not seen its patient.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy.special import logit

from pnloc.detector import Detector
from pnloc.files import load_tensors, save_tensors
from pnloc.images import Letterbox, read_gray
from pnloc.localizer import Choice, normalized_scores, pick
from pnloc.regions import Regions, extract
from pnloc.run import folds
from pnloc.run.cache import Trained
from pnloc.run.run import Run
from pnloc.run.severity import lungs


@lru_cache(None)
def detectors(run: Run) -> list[Detector]:
    """The run's detector and, where the preset asks for more, further ones (pnloc.run.folds)."""
    others = range(1, run.preset.severity.detectors)
    return [run.detector, *(folds.member_stage(run, number).load() for number in others)]


def lungs_stage(run: Run) -> Trained:
    """The training of the lung finder on generated radiographs; saves where lungs lie in them."""
    config, seed = run.preset.severity, run.seed

    def fit(folder: Path, **place: object) -> tuple[lungs.LungNet, pd.DataFrame]:
        images, masks = lungs.generated(config.anatomies, seed)
        boxes, _ = lungs.boxes(masks.astype(float), np.zeros((2, 4)))
        save_tensors(folder / "usual.safetensors", {"boxes": torch.from_numpy(boxes).float()})
        return lungs.train_lungs(images, masks, epochs=config.epochs, folder=folder, **place)

    functions = {"build": lungs.LungNet, "fit": fit, "code": (lungs.boxes,)}
    return run.cache.trained("lungs", config.anatomies, config.epochs, seed=seed, **functions)


@lru_cache(None)
def lung_finder(run: Run) -> lungs.LungNet:
    """The lung finder of a run."""
    return lungs_stage(run).load()


def find_lungs(run: Run, pixels: np.ndarray) -> lungs.Lungs:
    """Lungs of uint8 pictures [N, S, S].

    A lung that is not found gets its usual place in generated radiographs.
    """
    usual = load_tensors(lungs_stage(run)[0] / "usual.safetensors")["boxes"].median(0).values
    return lungs.Lungs(*lungs.boxes(lungs.masks(lung_finder(run), pixels), usual.numpy()))


def lung_pixels(run: Run, pixels: np.ndarray) -> np.ndarray:
    """Lung pixels of uint8 pictures [N, S, S], as bool [N, S, S]; all where none is found."""
    chances = torch.from_numpy(lungs.masks(lung_finder(run), pixels).max(1, keepdims=True))
    inside = F.interpolate(chances, size=pixels.shape[1:], mode="bilinear")[:, 0].numpy() > 0.5
    return inside | ~inside.any((1, 2), keepdims=True)


@dataclass(frozen=True)
class View:
    """Outputs for N images in V views: by each detector, as they are and mirrored.

    image  [V, N] probability of an opacity
    mask   [V, N, h, w] probability per cell
    area   [V, N] of the detected boxes, as a share of the picture
    """

    image: np.ndarray
    mask: np.ndarray
    area: np.ndarray

    def mean(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means over views: image [N], as log-odds; mask [N, h, w]; area [N]."""
        return log_odds(self.image).mean(0), self.mask.mean(0), self.area.mean(0)


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Log-odds: they do not crowd below 1, as probabilities do where opacities are common."""
    return logit(np.asarray(probability, dtype=np.float64).clip(1e-6, 1 - 1e-6))


def view(
    run: Run, ensemble: list[Detector], pixels: np.ndarray, choice: Choice, mirrored: bool = True
) -> View:
    """Views of uint8 pictures [N, S, S] by some detectors in turn, each first as they are."""
    outputs, config = [], replace(run.preset.regions, mirrored=False)
    for detector, step in product(ensemble, (1, -1) if mirrored else (1,)):
        regions = extract(detector, np.ascontiguousarray(pixels[..., ::step]), config)
        mask = regions.mask.float().numpy()[..., ::step]
        areas = detected_area(regions, choice, pixels.shape[-1])
        outputs.append((regions.image.numpy(), mask, areas))
    return View(*map(np.stack, zip(*outputs, strict=True)))


def unseen_view(run: Run, name: str, rows: np.ndarray, choice: Choice) -> View:
    """Views of rows of a set by the detectors of the run that have not seen them.

    In the detectors' own set the run's own detector must not have been trained on the rows; it is
    the only one used if others were.
    """
    ensemble = [run.detector] if run.preset.folds and name == folds.home(run) else detectors(run)
    return view(run, ensemble, run.sets.pixels(name)[rows], choice)


def masks_of(run: Run, pixels: np.ndarray) -> np.ndarray:
    """The mean mask [N, h, w] of all detectors on uint8 pictures [N, S, S]."""
    return view(run, detectors(run), pixels, Choice()).mean()[1]


def share(box: Letterbox) -> float:
    """The picture's share of its padded square."""
    return box.width * box.height * (box.scale / box.side) ** 2


def detected_area(regions: Regions, choice: Choice, side: int) -> np.ndarray:
    """Area [N] of the detector's boxes by a choice, times the best region's score.

    The unit is the area of a picture, side x side pixels.
    """
    picked = pick(regions, normalized_scores(regions), choice)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum() / side**2 for boxes, _ in picked]
    return np.array(areas) * regions.scores.numpy().max(1, initial=0.0)


def centre_crops(paths: list[str], side: int) -> np.ndarray:
    """The largest central square of each image file, uint8 [N, side, side]."""
    pictures = [Image.fromarray(read_gray(path, near=2 * side)) for path in paths]
    squares = [ImageOps.fit(picture, (min(picture.size),) * 2) for picture in pictures]
    return np.stack([square.resize((side, side), Image.Resampling.BOX) for square in squares])
