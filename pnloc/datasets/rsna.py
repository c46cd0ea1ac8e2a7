"""RSNA Pneumonia Detection Challenge, stage 2: boxes of lung opacity on NIH radiographs."""

import json
from pathlib import Path

import pandas as pd

from pnloc.datasets.common import (
    Quarantine,
    access,
    assemble,
    clean_boxes,
    doubled,
    image_files,
    lines_of,
    need,
    no_reports,
    with_sizes,
)
from pnloc.errors import PnlocError
from pnloc.files import read_csv
from pnloc.records import Records, assign_splits

WHERE = "get the RSNA Pneumonia Detection Challenge (stage 2) from Kaggle"
OFFICIAL_SIDE = 1024  # boxes are pixels of the 1024 x 1024 DICOM
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


def read(folder: Path) -> Records:
    """Read `stage_2_train_labels.csv` and the images beside it.

    Origin: 26,684 frontal radiographs of the NIH set, read by radiologists of RSNA and STR. Size here: whatever the folder holds.
    Labels: Target 1 with one row per box of a suspected pneumonia, 0 without. Access: Kaggle, research use with attribution.
    Citation: RSNA Pneumonia Detection Challenge, 2018.

    Images may be the official DICOM files or PNG or JPEG conversions of any size: boxes of conversions are scaled from 1024 pixels,
    boxes of DICOM files are in their own. `patientId` is an image id; patients come from `nih-of-rsna.csv` (patientId, nih_image and
    optionally split) or from the official mapping. Without one each image counts as a patient, and a note says what that means.
    """
    folder, quarantine = Path(folder), Quarantine()
    path = need(folder, "stage_2_train_labels.csv", where=WHERE)
    labels = read_csv(path, ["patientId", "x", "y", "width", "height", "Target"], dtype={"patientId": str})
    labels = labels.assign(line=lines_of(labels), Target=pd.to_numeric(labels["Target"], errors="coerce"))
    for row in labels[labels["patientId"].isna() | ~labels["Target"].isin([0, 1])].itertuples():
        why = f"patientId '{row.patientId}' with a Target that is not 0 or 1"
        quarantine.add(path, row.line, "no patientId" if pd.isna(row.patientId) else why)
    broken = set(labels.loc[~labels["Target"].isin([0, 1]), "patientId"])
    labels = labels[labels["patientId"].notna()]
    total = labels["patientId"].nunique()
    labels = labels[~labels["patientId"].isin(broken)]
    target = labels.groupby("patientId")["Target"].max()
    files = {p.stem: p for p in image_files(need(folder, "stage_2_train_images", where=WHERE)).values()}
    images = pd.DataFrame({"image": target.index.astype(str), "label": target.to_numpy(float)})
    found = images["image"].isin(files)
    missing = int((~found).sum())
    images = images[found].assign(path=lambda t: [str(files[i]) for i in t["image"]])
    images = with_sizes(images, quarantine)
    nih, notes = _patients(folder, quarantine)
    images["patient"] = [nih[i][0] if i in nih else f"rsna:{i}" for i in images["image"]]
    unmapped = int((~images["image"].isin(nih)).sum())
    if unmapped:
        notes.append(
            f"{unmapped} images have no known NIH patient: that one of them is on both sides of a split cannot be excluded"
        )
    given = {i: split for i, (_, split) in nih.items() if split}
    images["split"] = assign_splits(images["patient"], "rsna")
    images["split"] = [given.get(i, s) for i, s in images[["image", "split"]].itertuples(index=False)]
    boxes = _boxes(labels, images)
    boxes = clean_boxes(boxes, images, path, quarantine)
    return assemble(
        "rsna", access(folder, "open"), images, boxes, no_reports(), quarantine,
        rows=total, missing=missing, excluded=0, notes=notes,
    )  # fmt: skip


def _boxes(labels: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Rows with Target 1 as boxes in pixels of the image file."""
    boxes = labels[labels["Target"] == 1].rename(columns={"patientId": "image", "width": "w", "height": "h"})
    files = images[["image", "path", "width"]].itertuples(index=False)
    scale = {image: 1.0 if path.lower().endswith(".dcm") else width / OFFICIAL_SIDE for image, path, width in files}
    factor = boxes["image"].map(scale).astype(float)
    for column in ("x", "y", "w", "h"):
        boxes[column] = pd.to_numeric(boxes[column], errors="coerce") * factor
    return boxes.assign(label="Lung Opacity", text="")


def _patients(folder: Path, quarantine: Quarantine) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """image id -> (patient, split or ''), from whichever mapping the folder has, and notes."""
    table = folder / "nih-of-rsna.csv"
    if table.exists():
        rows = read_csv(table, ["patientId", "nih_image"], dtype=str)
        rows = doubled(rows.assign(line=lines_of(rows)), "patientId", table, quarantine)
        splits = rows["split"].fillna("") if "split" in rows else [""] * len(rows)
        pairs = zip(rows["patientId"], rows["nih_image"], splits, rows["line"], strict=True)
    elif (folder / MAPPING).exists():
        table = folder / MAPPING
        try:
            entries = json.loads(table.read_text(encoding="utf-8"))
            pairs = [(e["subset_img_id"], e["img_id"], "", 0) for e in entries]
        except (ValueError, KeyError, TypeError) as error:
            raise PnlocError(f"{table}: not the official mapping ({error})") from None
    else:
        return {}, []
    found = {}
    for image, nih, split, line in pairs:
        number = str(nih).split("_")[0]
        if number.isdigit() and split in ("", "train", "validate", "test"):
            found[image] = (f"nih:{int(number)}", split)
        else:
            quarantine.add(table, line, f"{image}: no NIH image or split in '{nih}', '{split}'")
    return found, []
