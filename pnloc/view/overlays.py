"""A localizer's output for image files: tables, and overlays of the boxes on the images."""

from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.errors import PnlocError
from pnloc.files import write_table
from pnloc.images import read_gray
from pnloc.localizer import Localizer
from pnloc.view.figures import overlay

BOXES = ["image", "x1", "y1", "x2", "y2", "score", "label"]
ATTRIBUTES = ["image", "attribute", "probability", "reason"]


def localize(
    localizer: Localizer, paths: list[Path], out: Path, phrases: list | None = None
) -> list[PnlocError]:
    """Write boxes.csv, attributes.csv and an overlay per image into `out`.

    Returns the errors of files that cannot be read. phrases: those of the report
    (pnloc.reports.phrases) of a single image; they go to phrases.csv.
    """
    boxes, attributes, failures = [], [], []
    stems = [path.stem for path in paths]
    for path in paths:
        try:
            proposals = localizer.propose(path)
            located, named = localizer(proposals)
            name = path.stem if stems.count(path.stem) == 1 else path.name.replace(".", "-")
            overlay(read_gray(path), located, out / f"{name}.overlay.png")
            if phrases is not None:
                write_table(out / "phrases.csv", localizer.ground(proposals, phrases))
            boxes += [(path, *box, "pneumonia") for box in located.to_numpy()]
            attributes += [(path, *row) for row in named.itertuples(index=False)]
        except PnlocError as error:
            failures.append(error)
    write_table(out / "boxes.csv", pd.DataFrame(boxes, columns=BOXES))
    table = pd.DataFrame(attributes, columns=ATTRIBUTES).astype({"probability": np.float32})
    write_table(out / "attributes.csv", table)
    return failures
