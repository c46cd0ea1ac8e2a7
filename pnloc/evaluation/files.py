"""Localization measured from files alone: anybody's predictions against anybody's true boxes.

PREDICTIONS  CSV: image, x1, y1, x2, y2, score. An image without corners is one for which nothing is predicted.
TRUTH        CSV: image, x1, y1, x2, y2, and optionally patient. An image without corners is known to have no true box (a negative).
PATIENTS     CSV: image, patient.

Corners are pixels, the same in both files. Further columns are left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.errors import PnlocError
from pnloc.evaluation.localization import CORNERS, localization
from pnloc.files import read_csv


@dataclass(frozen=True)
class Truth:
    """True boxes (image, x1, y1, x2, y2), negatives, and the patient of each image; `remarks` say what a reader should know."""

    boxes: pd.DataFrame
    negatives: tuple[str, ...]
    patients: dict[str, str]
    remarks: tuple[str, ...] = ()


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Predictions (image, x1, y1, x2, y2, score; floats) of a CSV; raises PnlocError with file, row and reason."""
    table = _read(path, [*CORNERS, "score"])
    given = _rows_with_corners(path, table)
    for row, text in table.loc[given, "score"].items():
        if text == "":
            raise _bad(path, row, "a box without a score")
    return _numbers(path, table[given], [*CORNERS, "score"])


def read_truth(path: str | Path, patients: str | Path | None = None) -> Truth:
    """True boxes and negatives of a CSV, with the patients of a second one, or of the column `patient`; else each image is a patient."""
    table = _read(path, CORNERS)
    given = _rows_with_corners(path, table)
    boxes = _numbers(path, table[given], CORNERS)
    if boxes.empty:
        raise PnlocError(f"{path}: there is no true box to measure against")
    boxed, without = set(boxes["image"]), dict.fromkeys(table.loc[~given, "image"])
    for row, image in table.loc[~given, "image"].items():
        if image in boxed:
            raise _bad(path, row, f"image '{image}' has no corners here and a box in another row")
    images, remarks = list(dict.fromkeys(table["image"])), []
    if patients is not None:
        known = _patients(patients, _read(patients, ["patient"]))
        for row, image in table["image"].items():
            if image not in known:
                raise _bad(path, row, f"image '{image}' has no patient in {patients}")
    elif "patient" in table:
        known = _patients(path, table)
    else:
        known = {image: image for image in images}
        remarks.append(
            f"{path} has no column patient: each image counts as a patient of its own, which makes intervals too narrow "
            "where patients have several"
        )
    if not without:
        remarks.append(
            f"{path} names no image without a box: froc, rsna_map and coco_ap are over images with a true box alone"
        )
    return Truth(boxes, tuple(without), {image: known[image] for image in images}, tuple(remarks))


def evaluate(
    predictions: str | Path,
    truth: str | Path,
    patients: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[str]]:
    """The table of pnloc.evaluation.localization.localization from files, and remarks, a sentence each."""
    found, known = read_predictions(predictions), read_truth(truth, patients)
    inside = found["image"].isin(known.patients.keys())
    remarks = [*known.remarks]
    if not inside.all():
        other = found.loc[~inside, "image"]
        remarks.append(
            f"{predictions}: {len(other)} boxes lie on {other.nunique()} images that {truth} does not name and are left out "
            f"(the first: '{other.iloc[0]}')"
        )
        if not inside.any():
            raise PnlocError(
                f"{predictions}: no image of it is named in {truth} (the first: '{other.iloc[0]}'); names must be the same"
            )
    table = localization(
        found[inside], known.boxes, known.patients, resamples, seed, negatives=known.negatives
    )
    return table, remarks


def _read(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV as text, a blank line being an empty row, so that rows are those of the file; every row names its image."""
    options = {
        "dtype": str,
        "keep_default_na": False,
        "skip_blank_lines": False,
        "encoding": "utf-8-sig",
    }
    table = read_csv(path, ["image", *columns], **options).fillna("")
    if not isinstance(table.index, pd.RangeIndex):  # what pandas makes of fields without a name
        raise PnlocError(f"{path}: row 2 has more fields than the header names")
    table = table.apply(lambda column: column.str.strip())
    table = table[(table != "").any(axis=1)]
    for row, image in table["image"].items():
        if image == "":
            raise _bad(path, row, "names no image")
    return table


def _bad(path: str | Path, row: int, reason: str) -> PnlocError:
    return PnlocError(f"{path}: row {row + 2}: {reason}")  # the header is row 1


def _rows_with_corners(path: str | Path, table: pd.DataFrame) -> pd.Series:
    """Which rows have corners; some but not all of the four raise PnlocError."""
    count = (table[CORNERS] != "").sum(axis=1)
    for row in table.index[(count > 0) & (count < len(CORNERS))][:1]:
        missing = [c for c in CORNERS if table.loc[row, c] == ""]
        raise _bad(
            path,
            row,
            f"{', '.join(missing)} is empty; give all four corners, or none for an image without a box",
        )
    return count > 0


def _numbers(path: str | Path, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """`image` and columns of numbers; what is no finite number, or a box turned inside out, raises PnlocError."""
    table = table[["image", *columns]].copy()
    for column in columns:
        numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
        for row in table.index[~np.isfinite(numbers)][:1]:
            raise _bad(path, row, f"{column} is '{table.loc[row, column]}', not a finite number")
        table[column] = numbers
    for row in table.index[(table["x2"] < table["x1"]) | (table["y2"] < table["y1"])][:1]:
        raise _bad(
            path,
            row,
            "x2 is less than x1, or y2 than y1; corners are x1, y1, x2, y2, not x, y, width, height",
        )
    return table.reset_index(drop=True)


def _patients(path: str | Path, table: pd.DataFrame) -> dict[str, str]:
    """Image -> patient; an image without one, or with two, raises PnlocError."""
    found: dict[str, str] = {}
    for row, image, patient in zip(table.index, table["image"], table["patient"], strict=True):
        if patient == "":
            raise _bad(path, row, f"image '{image}' has no patient")
        if found.setdefault(image, patient) != patient:
            raise _bad(
                path, row, f"image '{image}' has two patients, '{found[image]}' and '{patient}'"
            )
    return found
