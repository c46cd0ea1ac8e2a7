"""An image as a square: padded, as everywhere here, or cropped, as by Cohen et al. 2020."""

import numpy as np
from PIL import Image, ImageOps

from pnloc.images import read_gray
from pnloc.localizer import Choice
from pnloc.run.run import Run
from pnloc.run.severity import ensemble
from pnloc.run.severity.ensemble import View
from pnloc.run.severity.lungs import Lungs

PADDED, CROPPED = "padded", "centre crop"  # ours, and as published


def centre_crops(paths: list[str], side: int) -> np.ndarray:
    """The largest central square of each image file, uint8 [N, side, side]."""
    squares = np.zeros((len(paths), side, side), np.uint8)
    for square, path in zip(squares, paths, strict=True):
        picture = Image.fromarray(read_gray(path, near=2 * side))
        cropped = ImageOps.fit(picture, (min(picture.size),) * 2)
        square[:] = cropped.resize((side, side), Image.Resampling.BOX)
    return squares


def views(
    run: Run, name: str, rows: np.ndarray, choice: Choice
) -> dict[str, tuple[View, Lungs, np.ndarray]]:
    """Rows of a set through the run's own detector, shown either way.

    Each with the lungs, and the share [N] of its square that is picture.
    """
    images, pixels = run.sets.records(name).images.iloc[rows], run.sets.pixels(name)[rows]
    shares = np.array([ensemble.share(box) for box in run.sets.letterboxes(images)])
    crops = centre_crops(images["path"], pixels.shape[-1])
    return {
        way: (
            ensemble.view(run, [run.detector], squares, choice, mirrored=False),
            ensemble.find_lungs(run, squares),
            share,
        )
        for way, squares, share in ((PADDED, pixels, shares), (CROPPED, crops, np.ones(len(rows))))
    }
