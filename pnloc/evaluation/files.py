"""Localization measured from files alone: anybody's predictions against anybody's true boxes.

PREDICTIONS  CSV: image, x1, y1, x2, y2, score. A row without corners predicts nothing for its
             image.
TRUTH        CSV: image, x1, y1, x2, y2, and optionally patient. A row without corners names an
             image that is known to have no true box (a negative).
PATIENTS     CSV: image, patient.

Corners are pixels, the same in both files. Further columns are ignored.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.errors import PnlocError
from pnloc.evaluation.localization import CORNERS, Truth, localization
from pnloc.files import read_csv

TEXT = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Predictions (image, x1, y1, x2, y2, score) of a CSV.

    Raises PnlocError with file, row and reason.
    """
    table = _read(path, [*CORNERS, "score"])
    boxes = table[_has_corners(path, table)]
    _refuse(path, boxes, boxes["score"] == "", "a box without a score")
    return _numbers(path, boxes, [*CORNERS, "score"])


def read_truth(path: str | Path, patients: str | Path | None = None) -> tuple[Truth, list[str]]:
    """True boxes, negatives and patients of a CSV, and remarks on what it lacks, a line each.

    Patients are those of a second CSV, or of the column `patient`; without either each image counts
    as a patient of its own. Raises PnlocError with file, row and reason.
    """
    table, remarks = _read(path, CORNERS), []
    boxed = _has_corners(path, table)
    boxes, negatives = _numbers(path, table[boxed], CORNERS), table[~boxed]
    if boxes.empty:
        raise PnlocError(f"{path}: there is no true box to measure against")
    both = "image '{image}' has no corners here and a box in another row"
    _refuse(path, negatives, negatives["image"].isin(boxes["image"]), both)
    source, owners = path, table
    if patients is not None:
        source, owners = patients, _read(patients, ["patient"])
    elif "patient" not in table:
        owners = table.assign(patient=table["image"])
        remarks.append(
            f"{path} has no column patient: each image counts as a patient of its own, which makes "
            "intervals too narrow where patients have several"
        )
    if negatives.empty:
        remarks.append(
            f"{path} names no image without a box: froc, rsna_map and coco_ap are over images with "
            "a true box alone"
        )
    owners, named = _patients(source, owners), table.assign(file=str(source))
    unknown = ~table["image"].isin(owners.keys())
    _refuse(path, named, unknown, "image '{image}' has no patient in {file}")
    owners = {image: owners[image] for image in table["image"]}
    return Truth(boxes, owners, negatives["image"].unique()), remarks


def evaluate(
    predictions: str | Path,
    truth: str | Path,
    patients: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[str]]:
    """The table of pnloc.evaluation.localization.localization from files, and remarks."""
    table, (target, remarks) = read_predictions(predictions), read_truth(truth, patients)
    inside = table["image"].isin(target.patients.keys())
    if not inside.all():
        others = table.loc[~inside, "image"]
        first = f"(the first: '{others.iloc[0]}')"
        if not inside.any():
            raise PnlocError(
                f"{predictions}: no image of it is named in {truth} {first}; names must be the same"
            )
        remarks.append(
            f"{predictions}: {len(others)} boxes lie on {others.nunique()} images that {truth} "
            f"does not name and are left out {first}"
        )
    return localization(table[inside], target, resamples, seed), remarks


def _refuse(path: str | Path, table: pd.DataFrame, bad: pd.Series, reason: str) -> None:
    """Raise PnlocError for the first bad row; `reason` is a template for the row's fields.

    The header counts as row 1.
    """
    for row, fields in table[bad].head(1).to_dict("index").items():
        raise PnlocError(f"{path}: row {row + 2}: {reason.format_map(fields)}")


def _read(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV as text; the index counts its rows, blank ones included. Every row names its image."""
    table = read_csv(path, ["image", *columns], **TEXT).fillna("")
    if not isinstance(table.index, pd.RangeIndex):  # what pandas makes of fields without a name
        raise PnlocError(f"{path}: row 2 has more fields than the header names")
    table = table.apply(lambda column: column.str.strip())
    table = table[(table != "").any(axis=1)]
    _refuse(path, table, table["image"] == "", "names no image")
    return table


def _has_corners(path: str | Path, table: pd.DataFrame) -> pd.Series:
    """Which rows have corners; some of the four but not all raise PnlocError."""
    empty = table[CORNERS] == ""
    names = [", ".join(np.array(CORNERS)[row]) for row in empty.to_numpy(bool)]
    reason = "{names} is empty; give all four corners, or none for an image without a box"
    _refuse(path, table.assign(names=names), empty.any(axis=1) & ~empty.all(axis=1), reason)
    return ~empty.any(axis=1)


def _numbers(path: str | Path, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """`image` and columns of numbers; one that is not finite, or x2 < x1, raises PnlocError."""
    numbers = table[["image"]].copy()
    for column in columns:
        numbers[column] = pd.to_numeric(table[column], errors="coerce").astype(float)
        reason = f"{column} is '{{{column}}}', not a finite number"
        _refuse(path, table, ~np.isfinite(numbers[column]), reason)
    inverted = (numbers["x2"] < numbers["x1"]) | (numbers["y2"] < numbers["y1"])
    order = "corners are x1, y1, x2, y2, not x, y, width, height"
    _refuse(path, table, inverted, f"x2 is less than x1, or y2 than y1; {order}")
    return numbers.reset_index(drop=True)


def _patients(path: str | Path, table: pd.DataFrame) -> dict[str, str]:
    """Image -> patient; an image without one, or with two, raises PnlocError."""
    _refuse(path, table, table["patient"] == "", "image '{image}' has no patient")
    first = table.drop_duplicates("image").set_index("image")["patient"]
    table = table.assign(first=table["image"].map(first))
    two = "image '{image}' has two patients, '{first}' and '{patient}'"
    _refuse(path, table, table["first"] != table["patient"], two)
    return first.to_dict()
