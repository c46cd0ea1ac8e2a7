"""RSNA Pneumonia Detection Challenge, stage 2: boxes of lung opacity on NIH radiographs."""

from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data.records import SPLITS, Records, assign_splits
from pnloc.data.tables import (
    Ledger,
    Quarantine,
    access,
    assemble,
    clean_boxes,
    image_files,
    lines_of,
    need,
    no_reports,
    numbers,
    read_rows,
    unnamed,
    with_headers,
)
from pnloc.errors import PnlocError
from pnloc.files import read_json

WHERE = "get the RSNA Pneumonia Detection Challenge (stage 2) from Kaggle"
OFFICIAL_SIDE = 1024  # boxes are pixels of the 1024 x 1024 DICOM
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
MAPPING_CSV = "nih-of-rsna.csv"
CLASSES_CSV = "stage_2_detailed_class_info.csv"
NORMAL = "Normal"
CLASSES = (NORMAL, "No Lung Opacity / Not Normal", "Lung Opacity")
COORDINATES = ["x", "y", "width", "height"]


def read(folder: Path) -> Records:
    """Read `stage_2_train_labels.csv` and the images beside it.

    Origin: 26,684 frontal radiographs of the NIH set, read by radiologists of RSNA and STR. Size here: whatever the folder holds.
    Labels: Target 1 with one row per box of a suspected pneumonia, 0 without. Access: Kaggle, research use with attribution.
    Citation: RSNA Pneumonia Detection Challenge, 2018.

    Images may be the official DICOM files or PNG or JPEG conversions of any size: boxes of conversions are scaled from 1024 pixels,
    boxes of DICOM files are in their own. `patientId` is an image id; patients come from `nih-of-rsna.csv` (patientId, nih_image and
    optionally split) or from the official mapping. Without one each image counts as a patient, and a note says what that means.

    An image with a box that cannot be used goes into quarantine with all its boxes: its boxes are meant to be complete, and
    training would take the rest of the picture for healthy.
    """
    folder, quarantine = Path(folder), Quarantine()
    path = need(folder, "stage_2_train_labels.csv", where=WHERE)
    labels = read_rows(path, ["patientId", *COORDINATES, "Target"])
    labels = labels.assign(line=lines_of(labels), value=numbers(labels["Target"]))
    ledger = _images(path, labels, quarantine)
    files, notes = image_files([need(folder, "stage_2_train_images", where=WHERE)], stems=True)
    notes += unnamed(files, labels["patientId"], path)
    ledger.miss(~ledger.table["patientId"].isin(files))
    used = ledger.rows
    images = pd.DataFrame(
        {"image": used["patientId"], "path": [str(files[i]) for i in used["patientId"]]}
    )
    images["label"] = used["value"]
    images = with_headers(images, ledger)
    boxes, box_ledger = clean_boxes(
        _boxes(labels, images), images, ledger.fates("patientId"), path, quarantine
    )
    images, boxes = _whole(images, boxes, ledger, box_ledger)
    nih = mapping(folder, quarantine)
    images["patient"] = [
        f"nih:{number_of(nih[i][0])}" if i in nih else f"rsna:{i}" for i in images["image"]
    ]
    unmapped = int((~images["image"].isin(nih)).sum())
    if unmapped:
        notes.append(
            f"{unmapped} of {len(images)} images have no known NIH patient ({MAPPING} or {MAPPING_CSV} would name them): "
            "that one patient stands on both sides of a split, here or in ChestX-ray8, cannot be excluded"
        )
    images["split"] = assign_splits(images["patient"], "rsna")
    images["split"] = [
        nih.get(i, ("", ""))[1] or s for i, s in images[["image", "split"]].itertuples(index=False)
    ]
    if not classes(folder, quarantine):
        notes.append(f"no {CLASSES_CSV}: which images are normal is not known")
    return assemble(
        "rsna",
        access(folder, "open"),
        images,
        boxes,
        no_reports(),
        quarantine,
        tally={"images": ledger.counts(), "boxes": box_ledger.counts()},
        notes=notes,
    )


def _images(path: Path, labels: pd.DataFrame, quarantine: Quarantine) -> Ledger:
    """A ledger of images: the first row of each patientId, every row without one, and every row that says again that there is no box."""
    healthy = (labels["value"] == 0) & labels[COORDINATES].isna().all(axis=1)
    first = ~labels["patientId"].duplicated() | labels["patientId"].isna() | healthy
    ledger = Ledger(path, labels[first], quarantine)
    ledger.reject_names("patientId")
    name = labels["patientId"].astype(object)
    odd = set(name[~labels["value"].isin([0, 1])])
    both = labels.groupby("patientId")["value"].nunique()
    marked = ledger.table["patientId"].astype(object)
    ledger.reject(
        marked.isin(odd), "patientId '" + marked.astype(str) + "' with a Target that is not 0 or 1"
    )
    ledger.reject(
        marked.isin(both.index[both > 1]),
        "patientId '" + marked.astype(str) + "' with Target 0 and 1",
    )
    return ledger


def _boxes(labels: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Rows with Target 1 or with a coordinate, as boxes in pixels of the image file."""
    rows = labels[(labels["value"] == 1) | labels[COORDINATES].notna().any(axis=1)]
    boxes = pd.DataFrame(
        {"image": rows["patientId"], "line": rows["line"], "label": "Lung Opacity", "text": ""}
    )
    files = images[["image", "dicom", "width"]].itertuples(index=False)
    scale = {image: 1.0 if dicom else width / OFFICIAL_SIDE for image, dicom, width in files}
    factor = boxes["image"].astype(object).map(scale).astype(float).fillna(1.0)
    boxes["problem"] = np.where(rows["value"] == 1, "", "its Target is not 1")
    for short, column in zip("xywh", COORDINATES, strict=True):
        boxes[short] = numbers(rows[column]) * factor
    return boxes


def _whole(
    images: pd.DataFrame, boxes: pd.DataFrame, ledger: Ledger, box_ledger: Ledger
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Only images whose boxes can all be used (a doubled one takes nothing away), and their boxes."""
    table = box_ledger.table
    again = table.duplicated(["image", "x", "y", "w", "h"])
    broken = set(table.loc[(box_ledger.fate == "quarantined") & ~again, "image"].dropna())
    name = ledger.table["patientId"].astype(object)
    ledger.reject(name.isin(broken), "image " + name.astype(str) + ": a box of it cannot be used")
    owner = table["image"].astype(object)
    box_ledger.reject(
        owner.isin(broken), "box of " + owner.astype(str) + ": its image is in quarantine"
    )
    return images[~images["image"].isin(broken)].copy(), boxes[~boxes["image"].isin(broken)]


def classes(folder: Path, quarantine: Quarantine) -> dict[str, str]:
    """image id -> its class, one of CLASSES; {} where the folder has no `stage_2_detailed_class_info.csv`. Its rows repeat for each box."""
    path = Path(folder) / CLASSES_CSV
    if not path.exists():
        return {}
    rows = read_rows(path, ["patientId", "class"])
    named, kind = rows["patientId"].astype(object), rows["class"].astype(object)
    ledger = Ledger(path, rows, quarantine)
    ledger.reject(named.isna(), "no patientId")
    ledger.reject(
        ~kind.isin(CLASSES), named.astype(str) + ": no class '" + kind.astype(str) + "' is known"
    )
    several = ledger.rows.groupby("patientId")["class"].nunique()
    ledger.reject(
        named.isin(several.index[several > 1]),
        "patientId '" + named.astype(str) + "' with several classes",
    )
    return dict(zip(ledger.rows["patientId"], ledger.rows["class"], strict=True))


def number_of(nih: str) -> int:
    """The patient's number in the name of an NIH image, such as 12 in 00000012_003.png."""
    return int(nih.split("_")[0])


def mapping(folder: Path, quarantine: Quarantine) -> dict[str, tuple[str, str]]:
    """image id -> (NIH image, split or ''), from whichever mapping the folder has."""
    table = folder / MAPPING_CSV
    if table.exists():
        rows = read_rows(table, ["patientId", "nih_image"])
        ledger = Ledger(table, rows, quarantine)
        ledger.reject_names("patientId")
        rows = ledger.rows
        splits = rows["split"].fillna("") if "split" in rows else [""] * len(rows)
        pairs = zip(
            rows["patientId"], rows["nih_image"], splits, ledger.lines[rows.index], strict=True
        )
    elif (folder / MAPPING).exists():
        table = folder / MAPPING
        try:
            pairs = [
                (str(e["subset_img_id"]), e["img_id"], "", n)
                for n, e in enumerate(read_json(table), 1)
            ]
        except (KeyError, TypeError) as error:
            raise PnlocError(f"{table}: not the official mapping ({error})") from None
    else:
        return {}
    found = {}
    for image, nih, split, line in pairs:
        nih, number = str(nih), str(nih).split("_")[0]
        if image in found:
            quarantine.add(table, line, f"patientId '{image}' stands twice")
        elif number.isascii() and number.isdigit() and split in ("", *SPLITS):
            found[image] = (nih, split)
        else:
            quarantine.add(table, line, f"{image}: no NIH image or split in '{nih}', '{split}'")
    return found
