"""Readers: one module per source, the only places that know a layout. All give pnloc.data.records.Records."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data import chestxray8, covid19, findings, mimic_cxr, openi, rsna
from pnloc.data.records import Records
from pnloc.errors import PnlocError
from pnloc.images import load_all

READERS = {
    "rsna": rsna.read,
    "mimic": mimic_cxr.read,
    "chestxray8": chestxray8.read,
    "covid19": covid19.read,
}
FOLDERS = {
    "rsna": "rsna-pneumonia-detection-challenge",
    "mimic": "mimic-cxr-jpg",
    "chestxray8": "ChestX-ray8",
    "covid19": "covid-chestxray-dataset",
}
BESIDE = {"mimic": ("mimic-cxr", "ms-cxr", "mimic-cxr-annotations"), "covid19": ("brixia-cohen",)}
CARDS = pd.DataFrame(
    [
        (
            "rsna",
            "radiographs, boxes of lung opacity",
            "Kaggle",
            "research use, with attribution",
            "RSNA 2018",
        ),
        (
            "chestxray8",
            "radiographs, 14 labels, 984 boxes",
            "NIH Clinical Center",
            "open, with attribution",
            "Wang et al. 2017",
        ),
        (
            "covid19",
            "radiographs, notes, severity and Brixia scores",
            "GitHub",
            "one per image, mostly CC BY-NC-SA",
            "Cohen et al. 2020; Signoroni et al. 2021",
        ),
        (
            "mimic",
            "radiographs, reports, labels, boxes",
            "PhysioNet",
            "credentialed",
            "Johnson et al. 2019; Boecking et al. 2022; Tam et al. 2020",
        ),
        ("openi", "reports", "inside torchxrayvision", "CC BY-NC-ND", "Demner-Fushman et al. 2016"),
    ],
    columns=["set", "holds", "from", "licence", "citation"],
).set_index("set")
SKEW = 0.02  # the proportions of a file may differ by this share from those of its row: conversions round
__all__ = [
    "CARDS",
    "FOLDERS",
    "READERS",
    "chestxray8",
    "covid19",
    "decode",
    "find",
    "findings",
    "mimic_cxr",
    "openi",
    "read_all",
    "related",
    "rsna",
]


def find(data: Path) -> dict[str, Path]:
    """Which sets a data folder holds, by their official folder names."""
    return {
        name: Path(data) / folder
        for name, folder in FOLDERS.items()
        if (Path(data) / folder).is_dir()
    }


def related(name: str) -> tuple[str, ...]:
    """Folders under the data folder that the reader of a set looks into."""
    return (FOLDERS[name], *BESIDE.get(name, ()))


def read_all(data: Path, names: list[str]) -> dict[str, Records]:
    """Read some sets of a data folder; PnlocError says which folders were looked for where one is not there."""
    present = find(data)
    absent = [FOLDERS[name] for name in names if name not in present]
    if absent:
        raise PnlocError(
            f"{data}: holds no {', '.join(absent)} (book, Data access, says where to get each set)"
        )
    return {name: READERS[name](present[name]) for name in names}


def decode(images: pd.DataFrame, side: int, workers: int = 0) -> Iterator[np.ndarray | PnlocError]:
    """Each image row as uint8 [side, side], padded to a square, or the error that says why not; in order, decoded ahead by threads.

    A file whose proportions are not those of its row (width, height: boxes count in them) is an error too.
    """
    rows = images[["path", "width", "height"]].itertuples(index=False)
    for row, found in zip(rows, load_all(images["path"], side, workers), strict=True):
        if isinstance(found, PnlocError):
            yield found
            continue
        pixels, file = found
        slack = SKEW + 1 / min(file.width, file.height)
        if abs(file.width * row.height / (file.height * row.width) - 1) > slack:
            told = f"{file.width} x {file.height} pixels, where its table says {row.width} x {row.height}"
            yield PnlocError(f"{row.path}: {told}")
        else:
            yield pixels
