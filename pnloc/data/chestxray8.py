"""NIH ChestX-ray8/14 with its few boxes."""

from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data.records import Records, assign_splits
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
    years,
)

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
    entries = read_rows(path, ["Image Index", "Finding Labels", "Patient ID"])
    ledger = Ledger(path, entries, quarantine)
    ledger.reject_names("Image Index")
    need(folder, *sorted(p.name for p in folder.glob("images*")) or ["images"], where=WHERE)
    files, notes = image_files(sorted(p for p in folder.glob("images*") if p.is_dir()))
    name = entries["Image Index"].astype(object)
    notes += unnamed(files, name, path)
    ledger.miss(~name.isin(files))
    patient = numbers(entries["Patient ID"])
    whole = patient.notna() & (patient >= 0) & (patient % 1 == 0)
    ledger.reject(~whole, name.astype(str) + ": Patient ID is not a number")
    ledger.reject(entries["Finding Labels"].isna(), name.astype(str) + ": no Finding Labels")
    used = ledger.rows
    empty = pd.Series(np.nan, index=used.index, dtype=object)
    images = pd.DataFrame(
        {
            "image": used["Image Index"],
            "path": [str(files[name]) for name in used["Image Index"]],
            "patient": [f"nih:{int(p)}" for p in patient[used.index]],
            "view": used.get("View Position", empty),
            "sex": used.get("Patient Gender", used.get("Patient Sex", empty)),
            "age": years(used.get("Patient Age", empty)),
            "label": used["Finding Labels"].map(
                lambda f: float("Pneumonia" in [part.strip() for part in f.split("|")])
            ),
        }
    )
    images = with_headers(images, ledger)
    table, path = _boxes(folder, images)
    boxes, box_ledger = clean_boxes(table, images, ledger.fates("Image Index"), path, quarantine)
    images["split"] = _splits(folder, images, set(box_ledger.table["image"]))
    absent = box_ledger.counts()["missing"]
    notes += [f"{absent} boxes belong to images that are not in this folder"] if absent else []
    return assemble(
        "chestxray8",
        access(folder, "open"),
        images,
        boxes,
        no_reports(),
        quarantine,
        tally={"images": ledger.counts(), "boxes": box_ledger.counts()},
        notes=notes,
    )


def _boxes(folder: Path, images: pd.DataFrame) -> tuple[pd.DataFrame, Path]:
    """Boxes in pixels of the files, and the path of their list.

    The header `Image Index,Finding Label,Bbox [x,y,w,h],,,` falls apart at its commas.
    """
    path = need(folder, "BBox_List_2017.csv", where=WHERE)
    split = {
        "Image Index": "image",
        "Finding Label": "label",
        "Bbox [x": "x",
        "y": "y",
        "w": "w",
        "h]": "h",
    }
    table = read_rows(path, list(split))[list(split)].rename(columns=split)
    boxes = table.assign(line=lines_of(table), text="", label=table["label"].fillna(""))
    scale = dict(zip(images["image"], images["width"] / OFFICIAL_SIDE, strict=True))
    factor = boxes["image"].astype(object).map(scale).astype(float).fillna(1.0)
    for column in "xywh":
        boxes[column] = numbers(boxes[column]) * factor
    return boxes, path


def _splits(folder: Path, images: pd.DataFrame, boxed: set[str]) -> np.ndarray:
    """Split of each image; whoever has a boxed image is a test patient."""
    splits = assign_splits(images["patient"], "chestxray8")
    listed = folder / "test_list.txt"
    if listed.exists():
        tested = set(listed.read_text(encoding="utf-8-sig", errors="replace").split())
        patients = set(images.loc[images["image"].isin(tested), "patient"])
        hashed = assign_splits(images["patient"], "chestxray8", (0.875, 0.125, 0.0))
        splits = hashed.where(~images["patient"].isin(patients), "test")
    patients = set(images.loc[images["image"].isin(boxed), "patient"])
    return np.where(images["patient"].isin(patients), "test", splits)
