"""How an image becomes a square: padded, as everywhere here, against cropped, as published by Cohen et al. 2020."""

import numpy as np
from PIL import Image, ImageOps

from pnloc.images import read_gray
from pnloc.localizer import Choice
from pnloc.run.run import Run
from pnloc.run.severity import ensemble as looks

PADDED, CROPPED = "padded", "centre crop"  # ours, and as published


def centre_crops(paths: list[str], side: int) -> np.ndarray:
    """The largest central square of each image file, uint8 [N, side, side]."""
    squares = np.zeros((len(paths), side, side), np.uint8)
    for square, path in zip(squares, paths, strict=True):
        picture = Image.fromarray(read_gray(path, near=2 * side))
        cropped = ImageOps.fit(picture, (min(picture.size),) * 2)
        square[:] = cropped.resize((side, side), Image.Resampling.BOX)
    return squares


def views_by_input(
    run: Run, name: str, rows: np.ndarray, choice: Choice
) -> dict[str, tuple[looks.Look, looks.Lungs, np.ndarray]]:
    """What the run's own detector sees of some rows of a set, shown either way.

    Per way its unmirrored view, the lungs, and the share [N] of each square that is picture.
    """
    images, padded = run.sets.records(name).images.iloc[rows], run.sets.pixels(name)[rows]
    shares = np.array([looks.share(box) for box in run.sets.letterboxes(images)])
    shown = {
        PADDED: (padded, shares),
        CROPPED: (centre_crops(images["path"], padded.shape[-1]), np.ones(len(rows))),
    }
    return {
        way: (
            looks.look(run, [run.detector], pixels, choice, mirrored=False),
            looks.find_lungs(run, pixels),
            share,
        )
        for way, (pixels, share) in shown.items()
    }
