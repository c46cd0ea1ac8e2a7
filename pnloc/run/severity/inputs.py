"""Ways to show a radiograph to a network: how it becomes a square, and how its grey values are changed.

For ablations: what the read-outs owe to the padded square and to the normalisation of grey values, and what exposure, compression and letters do to them.
"""

import io
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from pnloc.images import Letterbox, read_gray
from pnloc.train import autocast

if TYPE_CHECKING:
    from pnloc.detector import Detector

Made = Callable[[], tuple[np.ndarray, np.ndarray]]
PLACED = "lungs in their usual place"  # the way that takes finding the lungs (pnloc.run.severity.ensemble.in_place)
FIXED = "not normalised"  # ways that begin so are for a detector without normalisation
ADAPTED = "batch statistics of this set"  # the way that is for a detector which `adapted` gives


def ways(squares: np.ndarray, boxes: list[Letterbox], paths: list[str]) -> dict[str, Made]:
    """Name -> what makes the pictures uint8 [N, S, S] and the share [N] of each that is not padding.

    squares: the padded squares of the files `paths`, and their letterboxes. Squares of other shapes are read from the files anew.
    """
    side = squares.shape[-1]
    shares = np.array([b.width * b.height * (b.scale / b.side) ** 2 for b in boxes])

    def grey(change: Callable[[np.ndarray], np.ndarray]) -> Made:
        return lambda: (np.stack([_inside(s, change) for s in squares]), shares)

    def shape(cut: Callable[[Image.Image], Image.Image]) -> Made:
        def make() -> tuple[np.ndarray, np.ndarray]:
            pictures = (Image.fromarray(read_gray(path, near=2 * side)) for path in paths)
            made = [np.asarray(cut(p).resize((side, side), Image.Resampling.BOX)) for p in pictures]
            return np.stack(made), np.ones(len(made))

        return make

    return {
        "padded": lambda: (squares, shares),
        "stretched": shape(lambda p: p),
        "centre crop": shape(lambda p: ImageOps.fit(p, (min(p.size),) * 2)),
        PLACED: lambda: (squares, shares),
        "equalised": grey(equalised),
        "1st to 99th percentile": grey(clipped),
        FIXED: lambda: (squares, shares),
        ADAPTED: lambda: (squares, shares),
        "brighter (gamma 0.5)": grey(lambda v: gamma(v, 0.5)),
        "darker (gamma 2)": grey(lambda v: gamma(v, 2.0)),
        "half the contrast": grey(flattened),
        f"{FIXED}, half the contrast": grey(flattened),
        "JPEG, quality 10": lambda: (np.stack([compressed(s) for s in squares]), shares),
        "letters and an arrow": lambda: (np.stack([marked(s) for s in squares]), shares),
    }


def _inside(square: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A square [S, S] whose values that are not black have been changed; they stay above 0, so that padding stays what it is."""
    seen = square > 0
    if not seen.any():
        return square
    changed = square.copy()
    changed[seen] = change(square[seen].astype(float)).round().clip(1, 255)
    return changed


def equalised(values: np.ndarray) -> np.ndarray:
    """Values [n] by their rank, 0 to 255."""
    levels, place, count = np.unique(values, return_inverse=True, return_counts=True)
    upto = count.cumsum() - count / 2
    return (upto / len(values) * 255)[place] if len(levels) > 1 else values


def clipped(values: np.ndarray) -> np.ndarray:
    """Values [n], their 1st to 99th percentile spread over 0 to 255."""
    low, high = np.percentile(values, [1, 99])
    return (values - low) / (high - low) * 255 if high > low else values


def gamma(values: np.ndarray, power: float) -> np.ndarray:
    """Values [n] of 0 to 255 raised to a power; the ends stay."""
    return (values / 255) ** power * 255


def flattened(values: np.ndarray) -> np.ndarray:
    """Values [n] drawn together around a light grey, as in a photograph of a screen."""
    return 128 + (values - values.mean()) / 2


def compressed(square: np.ndarray) -> np.ndarray:
    """A square [S, S] as a JPEG of quality 10 shows it."""
    kept = io.BytesIO()
    Image.fromarray(square).save(kept, "JPEG", quality=10)
    return np.where(square > 0, np.maximum(np.asarray(Image.open(kept)), 1), 0).astype(np.uint8)


def marked(square: np.ndarray) -> np.ndarray:
    """A square [S, S] with white letters in both upper corners and below, and a white arrow over the right lung."""
    image, side = Image.fromarray(square), square.shape[-1]
    pen = ImageDraw.Draw(image)
    for x, y, text in ((0.12, 0.1, "R"), (0.8, 0.1, "AP 10:42"), (0.1, 0.88, "SUPINE")):
        pen.text((x * side, y * side), text, fill=255)
    tip, tail = (0.3 * side, 0.5 * side), (0.18 * side, 0.42 * side)
    pen.line([tail, tip], fill=255, width=max(1, side // 96))
    pen.polygon([tip, (tip[0] - side * 0.04, tip[1]), (tip[0], tip[1] - side * 0.04)], fill=255)
    return np.asarray(image)


def unnormalised(detector: "Detector", pixels: np.ndarray) -> "Detector":
    """A copy of a detector that takes grey values as they are, scaled alike for all images by the mean and deviation of `pixels`."""
    from pnloc.detector import Detector

    seen = pixels[pixels > 0].astype(float)
    mean, deviation = float(seen.mean()), float(max(seen.std(), 1.0))

    class Unnormalised(Detector):
        def features(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            grey = (
                ((images.float() - mean) / deviation)
                .clamp(-4, 4)
                .contiguous(memory_format=torch.channels_last)
            )
            levels = self.backbone(grey)
            return self.fpn(levels), torch.cat(
                [levels["32"].mean((2, 3)), levels["32"].amax((2, 3))], dim=1
            )

    copy = deepcopy(detector)
    copy.__class__ = Unnormalised
    return copy


@torch.no_grad()
def adapted(detector: "Detector", pixels: np.ndarray, batch: int = 32) -> "Detector":
    """A copy of a detector whose batch normalisation has the statistics of uint8 images [N, S, S] (AdaBN, Li et al. 2018), not of its training set.

    Nothing but grey values is read of them. Without images the copy is the detector as it was.
    """
    copy = deepcopy(detector)
    layers = (
        [m for m in copy.modules() if isinstance(m, torch.nn.BatchNorm2d)] if len(pixels) else []
    )
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over batches
        layer.train()
    where = next(copy.parameters()).device
    for start in range(0, len(pixels) if layers else 0, batch):
        with autocast(where):
            copy.features(torch.from_numpy(pixels[start : start + batch])[:, None].to(where))
    return copy.eval()
