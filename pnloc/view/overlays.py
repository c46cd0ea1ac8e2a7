"""Image files with their boxes drawn on them, and tables of what a localizer gives for them."""

from pathlib import Path

import pandas as pd

from pnloc.errors import PnlocError
from pnloc.files import write_table
from pnloc.images import read_gray
from pnloc.localizer import Localizer
from pnloc.view.figures import overlay

BOXES = ["image", "x1", "y1", "x2", "y2", "score", "label"]
ATTRIBUTES = ["image", "attribute", "probability"]


def localize(
    localizer: Localizer, paths: list[Path], out: Path, phrases: list | None = None
) -> list[PnlocError]:
    """Write boxes.csv, attributes.csv and an overlay per image into `out`; errors of broken files.

    phrases: of the report of the one image (pnloc.reports.phrases), which go to phrases.csv.
    """
    boxes, attributes = [pd.DataFrame(columns=BOXES)], [pd.DataFrame(columns=ATTRIBUTES)]
    failures, stems = [], [path.stem for path in paths]
    for path in paths:
        try:
            proposals = localizer.propose(path)
            located, probabilities = localizer(proposals)
            name = path.stem if stems.count(path.stem) == 1 else path.name.replace(".", "-")
            overlay(read_gray(path), located, out / f"{name}.overlay.png")
            if phrases is not None:
                write_table(out / "phrases.csv", localizer.ground(proposals, phrases))
            boxes.append(located.assign(image=str(path), label="pneumonia")[BOXES])
            named = probabilities.rename_axis("attribute").reset_index(name="probability")
            attributes.append(named.assign(image=str(path))[ATTRIBUTES])
        except PnlocError as error:
            failures.append(error)
    for name, parts in (("boxes", boxes), ("attributes", attributes)):
        parts = [part for part in parts if len(part)] or parts[:1]
        write_table(out / f"{name}.csv", pd.concat(parts, ignore_index=True))
    return failures
