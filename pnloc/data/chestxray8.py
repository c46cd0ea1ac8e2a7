"""NIH ChestX-ray8/14 with its few boxes."""

from pathlib import Path

import pandas as pd

from pnloc.data.records import Records, assign_splits
from pnloc.data.tables import XYWH, Ledger, Source, clean_boxes, column, numbers, rescaled, years

WHERE = "get ChestX-ray8 from the NIH Clinical Center"
# The header `Image Index,Finding Label,Bbox [x,y,w,h],,,` falls apart at its commas.
BOX_HEADER = ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]


def read(folder: Path) -> Records:
    """Read `Data_Entry_2017*.csv`, `BBox_List_2017.csv` and the images under `images*/`.

    Origin: 112,120 frontal radiographs of 30,805 patients of the NIH Clinical Center. Labels:
    fourteen findings mined from reports (which are not public); 984 boxes on 880 images, one per
    image and finding, 120 of Pneumonia. `Infiltrate` in the box list is the `Infiltration` of the
    labels. Access: open, attribution. Citation: Wang et al., CVPR 2017.

    Boxes are floats on the 1024 x 1024 PNG and are scaled to the file. An image with a box is a
    test image, and so is every other image of its patient; the rest follows the official lists
    where they are, else a hash of the patient.
    """
    source = Source("chestxray8", folder, WHERE)
    path = source.need("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    ledger = source.ledger(path, ["Image Index", "Finding Labels", "Patient ID"])
    entries = ledger.table
    ledger.reject_names("Image Index")
    folders = sorted(place for place in source.folder.glob("images*") if place.is_dir())
    files = source.files(ledger, "Image Index", folders or [source.need("images")])
    patient, labels = numbers(entries["Patient ID"]), entries["Finding Labels"]
    whole = (patient >= 0) & (patient % 1 == 0)
    ledger.reject(~whole, "{Image Index}: Patient ID is not a number")
    ledger.reject(labels.isna(), "{Image Index}: no Finding Labels")
    pneumonia = labels.str.split("|").explode().str.strip() == "Pneumonia"
    images = ledger.images(
        "Image Index",
        files,
        patient=patient.abs().map("nih:{:.0f}".format),
        view=column(entries, "View Position"),
        sex=column(entries, "Patient Gender", "Patient Sex"),
        age=years(column(entries, "Patient Age")),
        label=pneumonia.groupby(level=0).any().astype(float),
    )
    box_ledger = _boxes(source, images)
    boxes = clean_boxes(box_ledger, images, ledger.fates("Image Index"))
    images["split"] = _splits(source.folder, images, box_ledger.table["image"])
    absent = int((box_ledger.fate == "missing").sum())
    source.note(absent, "boxes belong to images that are not in this folder")
    return source.records(images, {"images": ledger.fate, "boxes": box_ledger.fate}, boxes=boxes)


def _boxes(source: Source, images: pd.DataFrame) -> Ledger:
    """Boxes in pixels of the files."""
    ledger = source.ledger(source.need("BBox_List_2017.csv"), BOX_HEADER)
    table = ledger.table[BOX_HEADER].set_axis(["image", "label", *XYWH], axis=1)
    table[XYWH] = rescaled(table[XYWH], table["image"], images)
    ledger.table = table.assign(text="", label=table["label"].fillna(""))
    return ledger


def _splits(folder: Path, images: pd.DataFrame, boxed: pd.Series) -> pd.Series:
    """Split of each image; whoever has a boxed image is a test patient."""
    splits, tested = assign_splits(images["patient"], "chestxray8"), images["image"].isin(boxed)
    listed = folder / "test_list.txt"
    if listed.exists():
        splits = assign_splits(images["patient"], "chestxray8", (0.875, 0.125, 0.0))
        text = listed.read_text(encoding="utf-8-sig", errors="replace")
        tested |= images["image"].isin(text.split())
    return splits.mask(images["patient"].isin(images.loc[tested, "patient"]), "test")
