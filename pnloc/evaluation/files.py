"""Localization measured from files alone: anybody's predictions against anybody's true boxes.

PREDICTIONS  CSV: image, x1, y1, x2, y2, score. A row without corners predicts nothing for its
             image. Or COCO's results (JSON), or an RSNA submission (CSV: patientId,
             PredictionString of 'score x y width height ...').
TRUTH        CSV: image, x1, y1, x2, y2, and optionally patient. A row without corners names an
             image that is known to have no true box (a negative). Or COCO's annotations (JSON;
             an image may have a `patient`), or RSNA's labels (CSV: patientId, x, y, width,
             height, Target).
PATIENTS     CSV: image, patient.

Corners are pixels, the same in both files. Further columns are ignored. COCO's images go by their
`file_name`; a file that names them by `id` is understood, too.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.errors import PnlocError
from pnloc.evaluation.localization import CORNERS, Truth, localization
from pnloc.files import form, read_csv, read_json, require

WHERE = "where"  # the column that says which row or entry of its file a row comes from
SIZES = ["x", "y", "width", "height"]
TEXT = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Predictions (image, x1, y1, x2, y2, score) of a file.

    Raises PnlocError with file, row and reason.
    """
    table, _ = _read(path, [*CORNERS, "score"])
    boxes = table[_has_corners(path, table)]
    _refuse(path, boxes, boxes["score"] == "", "a box without a score")
    return _numbers(path, boxes, [*CORNERS, "score"])


def read_truth(
    path: str | Path, patients: str | Path | None = None
) -> tuple[Truth, dict[str, str], list[str]]:
    """True boxes, negatives and patients of a file; names by id; remarks on what it lacks.

    Patients are those of a second file, or of the column `patient`; without either each image
    counts as a patient of its own. Only a file of COCO has names by id. Raises PnlocError with
    file, row and reason.
    """
    (table, names), remarks = _read(path, CORNERS), []
    boxed = _has_corners(path, table)
    boxes, negatives = _numbers(path, table[boxed], CORNERS), table[~boxed]
    if boxes.empty:
        raise PnlocError(f"{path}: there is no true box to measure against")
    both = "image '{image}' has no corners here and a box in another row"
    _refuse(path, negatives, negatives["image"].isin(boxes["image"]), both)
    source, owners = path, table
    if patients is not None:
        source, owners = patients, _read(patients, ["patient"])[0]
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
    return Truth(boxes, owners, negatives["image"].unique()), names, remarks


def evaluate(
    predictions: str | Path,
    truth: str | Path,
    patients: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[str]]:
    """The table of pnloc.evaluation.localization.localization from files, and remarks."""
    table = read_predictions(predictions)
    target, names, remarks = read_truth(truth, patients)
    known = table["image"].isin(names.values()) & ~_is_json(predictions)
    table["image"] = table["image"].where(known, table["image"].replace(names))
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
    _refuse_relative(predictions, table[inside], truth, target.boxes)
    return localization(table[inside], target, resamples, seed), remarks


def _refuse(path: str | Path, table: pd.DataFrame, bad: pd.Series, reason: str) -> None:
    """Raise PnlocError for the first bad row; `reason` is a template for the row's fields."""
    for fields in table[bad].head(1).to_dict("records"):
        raise PnlocError(f"{path}: {fields[WHERE]}: {reason.format_map(fields)}")


def _refuse_relative(
    predictions: str | Path, table: pd.DataFrame, truth: str | Path, boxes: pd.DataFrame
) -> None:
    """Raise PnlocError where one file has shares of the picture and the other has pixels."""
    corners = {predictions: table[CORNERS], truth: boxes[CORNERS]}
    most = {path: part.abs().to_numpy().max(initial=0.0) for path, part in corners.items()}
    for relative, other in ((predictions, truth), (truth, predictions)):
        if 0 < most[relative] <= 1 and most[other] > 2:
            raise PnlocError(
                f"{relative}: all coordinates lie within 0 and 1, but those of {other} are pixels; "
                "multiply x by the width of each image and y by its height"
            )


def _read(path: str | Path, columns: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """A file as text: image, `columns`, where (its row there), and what else it has.

    With it the names of images by id, where the file is one of COCO.
    """
    if _is_json(path):
        table, names = _coco(path, columns)
    else:
        names = {}
        table = read_csv(path, **TEXT).fillna("")
        if not isinstance(table.index, pd.RangeIndex):  # what pandas makes of unnamed fields
            raise PnlocError(f"{path}: row 2 has more fields than the header names")
        table = table.apply(lambda column: column.str.strip())
        table[WHERE] = [f"row {row + 2}" for row in table.index]  # the header is row 1
        table = table[(table.drop(columns=WHERE) != "").any(axis=1)]
        table = _rsna(path, table)
    require(path, table.drop(columns=WHERE), ["image", *columns])
    _refuse(path, table, table["image"] == "", "names no image")
    return table.reset_index(drop=True), names


def _is_json(path: str | Path) -> bool:
    try:
        with open(path, "rb") as stream:
            start = stream.read(99)
    except OSError:  # which reading it as a table will name
        return False
    return start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _coco(path: str | Path, columns: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """COCO's results (a list) or annotations, and the names of its images by id.

    A name is the `file_name` or, where images lack one or share it, the id. All categories count as
    one, crowds not at all.
    """
    content, rows = read_json(path), []
    with form(path, "neither results nor annotations of COCO"):
        whole = isinstance(content, dict)
        images = content.get("images", []) if whole else []
        names = {str(image["id"]): str(image.get("file_name") or "") for image in images}
        if not all(names.values()) or len(set(names.values())) < len(names):
            names = {image: image for image in names}
        for number, entry in enumerate(content["annotations"] if whole else content, start=1):
            where = f"entry {number}"
            if not entry.get("iscrowd"):
                x, y, width, height = map(float, entry["bbox"])
                if width < 0 or height < 0:
                    raise PnlocError(f"{path}: {where}: bbox {entry['bbox']} has a negative size")
                corners = [x, y, x + width, y + height]
                image = str(entry["image_id"])
                rows.append((names.get(image, image), *corners, entry.get("score", ""), where))
        boxed = {row[0] for row in rows}
        rows += [(name, *[""] * 5, "images") for name in names.values() if name not in boxed]
        owners = {names[str(i["id"])]: str(i["patient"]) for i in images if "patient" in i}
    table = pd.DataFrame(rows, columns=["image", *CORNERS, "score", WHERE]).astype(str)
    if owners or "patient" in columns:
        table["patient"] = table["image"].map(owners).fillna("")
    return table, names


def _rsna(path: str | Path, table: pd.DataFrame) -> pd.DataFrame:
    """RSNA's labels or a submission in columns of ours; any other table as it is."""
    if "patientId" not in table or "image" in table:
        return table
    table = table.rename(columns={"patientId": "image"})
    if "PredictionString" in table:
        parts = table["PredictionString"].str.split()
        odd = parts.str.len() % 5 != 0
        _refuse(path, table, odd, "PredictionString is not 'score x y width height ...'")
        boxes = [[p[k : k + 5] for k in range(0, len(p), 5)] or [[""] * 5] for p in parts]
        table = table.assign(box=boxes).explode("box", ignore_index=True)
        table[["score", *SIZES]] = table["box"].tolist()
    if not set(SIZES) <= set(table):
        return table
    numbers = table[SIZES].apply(pd.to_numeric, errors="coerce")
    bad = (numbers.isna() & (table[SIZES] != "")).any(axis=1)
    _refuse(path, table, bad, "x, y, width or height is not a number")
    _refuse(path, table, (numbers[["width", "height"]] < 0).any(axis=1), "a box of negative size")
    numbers["width"] += numbers["x"]
    numbers["height"] += numbers["y"]
    table[CORNERS] = numbers.astype(object).where(numbers.notna(), "")
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
