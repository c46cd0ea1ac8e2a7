"""Readers: one module per source, the only places that know a layout; each gives Records."""

from pathlib import Path

import pandas as pd

from pnloc.data import chestxray8, covid19, mimic_cxr, rocov2, rsna
from pnloc.data.records import Records
from pnloc.errors import PnlocError

MODULES = {"rsna": rsna, "mimic": mimic_cxr, "chestxray8": chestxray8, "covid19": covid19}
MODULES |= {"rocov2": rocov2}
READERS = {name: module.read for name, module in MODULES.items()}
SETS = pd.read_csv(Path(__file__).with_suffix(".csv"), index_col="set", keep_default_na=False)
FOLDERS = SETS.loc[list(READERS), "folder"].to_dict()
CARDS = SETS.drop(columns=["folder", "beside"])


def find(data: Path) -> dict[str, Path]:
    """Which sets a data folder holds, by their official folder names."""
    paths = {name: Path(data) / folder for name, folder in FOLDERS.items()}
    return {name: path for name, path in paths.items() if path.is_dir()}


def related(name: str) -> tuple[str, ...]:
    """Folders under the data folder that the reader of a set looks into."""
    return (FOLDERS[name], *filter(None, SETS.loc[name, "beside"].split(";")))


def read_all(data: Path, names: list[str]) -> dict[str, Records]:
    """Read some sets of a data folder; PnlocError names the folders that are not there."""
    present = find(data)
    absent = [FOLDERS[name] for name in names if name not in present]
    if absent:
        where = "book, Data access, says where to get each set"
        raise PnlocError(f"{data}: holds no {', '.join(absent)} ({where})")
    return {name: READERS[name](present[name]) for name in names}
