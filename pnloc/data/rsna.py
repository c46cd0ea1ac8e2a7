"""RSNA Pneumonia Detection Challenge, stage 2: boxes of lung opacity on NIH radiographs."""

from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data import tables
from pnloc.data.records import SPLITS, Records, assign_splits
from pnloc.data.tables import XYWH, Ledger, Source, clean_boxes, numbers, read_rows
from pnloc.files import form, read_json

WHERE = "get the RSNA Pneumonia Detection Challenge (stage 2) from Kaggle"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
MAPPING_CSV = "nih-of-rsna.csv"
COORDINATES = ["x", "y", "width", "height"]


def read(folder: Path) -> Records:
    """Read `stage_2_train_labels.csv` and the images beside it.

    Origin: 26,684 frontal radiographs of the NIH set, read by radiologists of RSNA and STR. Size
    here: whatever the folder holds. Labels: Target 1 with one row per box of a suspected
    pneumonia, 0 without. Access: Kaggle, research use with attribution. Citation: RSNA Pneumonia
    Detection Challenge, 2018.

    Images may be the official DICOM files or PNG or JPEG conversions of any size: boxes of
    conversions are scaled from 1024 pixels, boxes of DICOM files are in their own. `patientId` is
    an image id; patients come from `nih-of-rsna.csv` (patientId, nih_image and optionally split)
    or from the official mapping. Without one each image counts as a patient, and a note says what
    that means.

    An image with a box that cannot be used goes into quarantine with all its boxes: its boxes are
    meant to be complete, and training would take the rest of the picture for healthy.
    """
    source = Source("rsna", folder, WHERE)
    path = source.need("stage_2_train_labels.csv")
    labels = read_rows(path, ["patientId", *COORDINATES, "Target"])
    labels["value"] = numbers(labels["Target"])
    ledger = _images(path, labels, source)
    folders = [source.need("stage_2_train_images")]
    files = source.files(ledger, "patientId", folders, stems=True)
    images = ledger.images("patientId", files, label=labels["value"])
    box_ledger = Ledger(path, _boxes(labels, images), source.quarantine)
    boxes = clean_boxes(box_ledger, images, ledger.fates("patientId"))
    broken = _incomplete(ledger, box_ledger)
    images, boxes = (table[~table["image"].isin(broken)] for table in (images, boxes))
    images = images.join(mapping(source), on="image")
    numbered = images["nih_image"].str.replace(r"(?s)0*([0-9]+).*", r"nih:\1", regex=True)
    images["patient"] = numbered.fillna("rsna:" + images["image"])
    unknown = f"images have no known NIH patient ({MAPPING} or {MAPPING_CSV} would name them)"
    risk = "that one patient stands on both sides of a split, here or in ChestX-ray8"
    lacking = int(numbered.isna().sum())
    source.note(lacking, f"of {len(images)} {unknown}: {risk}, cannot be excluded")
    own = images["split"].isin(SPLITS)
    images["split"] = images["split"].where(own, assign_splits(images["patient"], "rsna"))
    return source.records(images, {"images": ledger.fate, "boxes": box_ledger.fate}, boxes=boxes)


def _images(path: Path, labels: pd.DataFrame, source: Source) -> Ledger:
    """A ledger of images: the first row of each id, and the rows without an id or without a box."""
    healthy = (labels["value"] == 0) & labels[COORDINATES].isna().all(axis=1)
    name = labels["patientId"]
    ledger = Ledger(path, labels[~name.duplicated() | name.isna() | healthy], source.quarantine)
    ledger.reject_names("patientId")
    odd = name.isin(name[~labels["value"].isin([0, 1])])
    ledger.reject(odd, "patientId '{patientId}' with a Target that is not 0 or 1")
    both = labels.groupby("patientId")["value"].transform("nunique") > 1
    ledger.reject(both, "patientId '{patientId}' with Target 0 and 1")
    return ledger


def _boxes(labels: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Rows with Target 1 or with a coordinate, as boxes in pixels of the image file."""
    rows = labels[(labels["value"] == 1) | labels[COORDINATES].notna().any(axis=1)]
    files = images[~images["dicom"].astype(bool)]
    boxes = tables.rescaled(rows[COORDINATES], rows["patientId"], files)
    problem = np.where(rows["value"] == 1, "", "its Target is not 1")
    boxes = boxes.set_axis(XYWH, axis=1).assign(label="Lung Opacity", text="", problem=problem)
    return boxes.assign(image=rows["patientId"])


def _incomplete(ledger: Ledger, box_ledger: Ledger) -> set[str]:
    """Images with an unusable box, rejected with all their boxes; a doubled box does no harm."""
    table = box_ledger.table
    doubled = table.duplicated(["image", *XYWH])
    broken = set(table.loc[(box_ledger.fate == "quarantined") & ~doubled, "image"].dropna())
    names = ledger.table["patientId"]
    ledger.reject(names.isin(broken), "image {patientId}: a box of it cannot be used")
    box_ledger.reject(table["image"].isin(broken), "box of {image}: its image is in quarantine")
    return broken


def mapping(source: Source) -> pd.DataFrame:
    """nih_image and split ('' for none) by image id, from whichever mapping the folder has."""
    path, columns = source.folder / MAPPING_CSV, ["patientId", "nih_image"]
    if path.exists():
        ledger = source.ledger(path, columns)
    else:
        path, rows = source.folder / MAPPING, []
        with form(path, "not the official mapping"):
            entries = read_json(path) if path.exists() else []
            rows = [(str(e["subset_img_id"]), str(e["img_id"])) for e in entries]
        table = pd.DataFrame(rows, columns=columns, dtype=object)
        ledger = Ledger(path, table, source.quarantine, first=1)
    ledger.table["split"] = tables.column(ledger.table, "split").fillna("")
    ledger.reject_names("patientId")
    whole = ledger.table["nih_image"].str.match(r"[0-9]+(?:_|\Z)", na=False)
    whole &= ledger.table["split"].isin(["", *SPLITS])
    ledger.reject(~whole, "{patientId}: no NIH image or split in '{nih_image}', '{split}'")
    return ledger.rows.set_index("patientId")[["nih_image", "split"]]
