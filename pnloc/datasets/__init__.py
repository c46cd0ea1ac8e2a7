"""Readers: one module per source, the only places that know a layout. All give pnloc.records.Records."""

from pathlib import Path

from pnloc.datasets import chestxray8, covid19, mimic_cxr, openi, rsna
from pnloc.errors import PnlocError
from pnloc.records import Records

READERS = {"rsna": rsna.read, "mimic": mimic_cxr.read, "chestxray8": chestxray8.read, "covid19": covid19.read}
FOLDERS = {
    "rsna": "rsna-pneumonia-detection-challenge",
    "mimic": "mimic-cxr-jpg",
    "chestxray8": "ChestX-ray8",
    "covid19": "covid-chestxray-dataset",
}
BESIDE = {"mimic": ("mimic-cxr", "ms-cxr"), "covid19": ("brixia-cohen",)}
__all__ = ["FOLDERS", "READERS", "chestxray8", "covid19", "find", "mimic_cxr", "openi", "read_all", "related", "rsna"]


def find(data: Path) -> dict[str, Path]:
    """Which sets a data folder holds, by their official folder names."""
    return {name: Path(data) / folder for name, folder in FOLDERS.items() if (Path(data) / folder).is_dir()}


def related(name: str) -> tuple[str, ...]:
    """Folders under the data folder that the reader of a set looks into."""
    return (FOLDERS[name], *BESIDE.get(name, ()))


def read_all(data: Path, names: list[str]) -> dict[str, Records]:
    """Read some sets of a data folder; PnlocError says which folders were looked for where one is not there."""
    present = find(data)
    absent = [FOLDERS[name] for name in names if name not in present]
    if absent:
        raise PnlocError(f"{data}: holds no {', '.join(absent)} (book, Data access, says where to get each set)")
    return {name: READERS[name](present[name]) for name in names}
