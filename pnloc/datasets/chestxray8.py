"""NIH ChestX-ray8/14 with its few boxes."""

from pathlib import Path

import numpy as np
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
from pnloc.files import read_csv
from pnloc.records import Records, assign_splits

WHERE = "get ChestX-ray8 from the NIH Clinical Center"
OFFICIAL_SIDE = 1024


def read(folder: Path) -> Records:
    """Read `Data_Entry_2017*.csv`, `BBox_List_2017.csv` and the images under `images*/`.

    Origin: 112,120 frontal radiographs of 30,805 patients of the NIH Clinical Center. Labels: fourteen findings mined from reports (which are
    not public); 984 boxes on 880 images, one per image and finding, 120 of Pneumonia. `Infiltrate` in the box list is the `Infiltration`
    of the labels. Access: open, attribution. Citation: Wang et al., CVPR 2017.

    Boxes are floats on the 1024 x 1024 PNG and are scaled to the file. An image with a box is a test image, and so is every other image
    of its patient; the rest follows the official lists where they are, else a hash of the patient.
    """
    folder, quarantine = Path(folder), Quarantine()
    path = need(folder, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", where=WHERE)
    entries = read_csv(path, ["Image Index", "Finding Labels", "Patient ID"], dtype={"Image Index": str})
    total, lines = len(entries), lines_of(entries)
    entries = doubled(entries, "Image Index", path, quarantine)
    need(folder, *sorted(p.name for p in folder.glob("images*")) or ["images"], where=WHERE)
    files = {name: path for top in sorted(folder.glob("images*")) for name, path in image_files(top).items()}
    found = entries["Image Index"].isin(files)
    missing = int((~found).sum())
    entries = entries[found]
    patient = pd.to_numeric(entries["Patient ID"], errors="coerce")
    for index, name in entries["Image Index"][patient.isna()].items():
        quarantine.add(path, lines[index], f"{name}: Patient ID is not a number")
    entries, patient = entries[patient.notna()], patient[patient.notna()].astype(int)
    empty = pd.Series("", index=entries.index)
    images = pd.DataFrame(
        {
            "image": entries["Image Index"],
            "path": [str(files[name]) for name in entries["Image Index"]],
            "patient": [f"nih:{p}" for p in patient],
            "view": entries.get("View Position", empty),
            "sex": entries.get("Patient Gender", entries.get("Patient Sex", empty)),
            "age": pd.to_numeric(entries.get("Patient Age", empty), errors="coerce"),
            "label": entries["Finding Labels"].fillna("").map(lambda f: float("Pneumonia" in f.split("|"))),
        }
    )
    images = with_sizes(images, quarantine)
    boxes, absent = _boxes(folder, images, quarantine)
    images["split"] = _splits(folder, images, set(boxes["image"]))
    records = assemble(
        "chestxray8", access(folder, "open"), images, boxes, no_reports(), quarantine, rows=total, missing=missing, excluded=0,
        notes=[f"{absent} boxes belong to images that are not in this folder"] if absent else [],
    )  # fmt: skip
    return records


def _boxes(folder: Path, images: pd.DataFrame, quarantine: Quarantine) -> tuple[pd.DataFrame, int]:
    """Boxes in pixels of the files, and how many belong to images that are not here.

    The header `Image Index,Finding Label,Bbox [x,y,w,h],,,` falls apart at its commas, so columns go by place.
    """
    path = need(folder, "BBox_List_2017.csv", where=WHERE)
    table = read_csv(path, ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"], dtype={"Image Index": str})
    boxes = table[["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]].set_axis(
        ["image", "label", "x", "y", "w", "h"], axis=1
    )
    boxes = boxes.assign(line=lines_of(boxes), text="")
    scale = dict(zip(images["image"], images["width"] / OFFICIAL_SIDE, strict=True))
    factor = boxes["image"].map(scale).fillna(1.0)
    for column in ("x", "y", "w", "h"):
        boxes[column] = pd.to_numeric(boxes[column], errors="coerce") * factor
    absent = int((~boxes["image"].isin(images["image"])).sum())
    return clean_boxes(boxes, images, path, quarantine), absent


def _splits(folder: Path, images: pd.DataFrame, boxed: set[str]) -> np.ndarray:
    """Split of each image; whoever has a boxed image is a test patient."""
    splits = assign_splits(images["patient"], "chestxray8")
    listed = {name: folder / name for name in ("train_val_list.txt", "test_list.txt") if (folder / name).exists()}
    if "test_list.txt" in listed:
        tested = set(listed["test_list.txt"].read_text().split())
        patients = set(images.loc[images["image"].isin(tested), "patient"])
        hashed = assign_splits(images["patient"], "chestxray8", (0.875, 0.125, 0.0))
        splits = hashed.where(~images["patient"].isin(patients), "test")
    patients = set(images.loc[images["image"].isin(boxed), "patient"])
    return np.where(images["patient"].isin(patients), "test", splits)
