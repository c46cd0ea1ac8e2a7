"""What every reader needs: finding files, saying where each row of a table went, checking boxes, putting Records together."""

import os
import re
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data.records import (
    BOX_COLUMNS,
    FATES,
    IMAGE_COLUMNS,
    QUARANTINE_COLUMNS,
    REPORT_COLUMNS,
    Records,
)
from pnloc.errors import PnlocError
from pnloc.files import read_csv
from pnloc.images import header

SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")
SLACK = (
    0.01  # a box may reach out of its image by this share of the longer side, and is then clipped
)
OLDEST = 120  # years
PATH = r"[/\\\x00-\x1f]"  # what no file name holds


# Files ----------------------------------------------------------------------------------------------------


def need(folder: Path, *names: str, where: str) -> Path:
    """The first of some files that a folder has; PnlocError, saying where to get it, where it has none."""
    if not folder.is_dir():
        raise PnlocError(f"{folder}: no such folder; {where}")
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise PnlocError(f"{folder}: holds no {' or '.join(names)}; {where}")


def access(folder: Path, otherwise: str) -> str:
    """'generated' for a tree of pnloc.data.demo (which leaves rates.json beside it), else `otherwise`."""
    return "generated" if (folder.parent / "rates.json").exists() else otherwise


def walk(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Paths of all files with one of some suffixes (in any case), relative to a folder, with '/', sorted.

    Links to folders are followed, each folder once, so that a set may lie on several disks and a loop ends.
    """
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        place = root[len(str(folder)) :].replace(os.sep, "/").strip("/")
        place = f"{place}/" if place else ""
        found += [place + name for name in names if name.lower().endswith(suffixes)]
    return sorted(found)


def image_files(folders: Iterable[Path], stems: bool = False) -> tuple[dict[str, Path], list[str]]:
    """Image files under some folders by file name (or its stem), and a note where a name stands for several files.

    The first one in the order of their paths counts.
    """
    files, again = {}, []
    for folder in folders:
        for place in walk(folder, SUFFIXES):
            path = folder / place
            name = path.stem if stems else path.name
            if name in files:
                again.append(name)
            files.setdefault(name, path)
    return files, [
        f"{len(again)} image files have the name of another one ({again[0]}, ...)"
    ] if again else []


def unnamed(files: Iterable[str], names: Iterable[object], table: Path) -> list[str]:
    """A note where image files are there that no row of the table names (the table may be cut short)."""
    more = set(files) - set(names)
    return [f"{len(more)} image files are named by no row of {table.name}"] if more else []


def read_rows(path: Path, columns: Iterable[str] = (), **options: object) -> pd.DataFrame:
    """A CSV as text, every cell as it stands in the file; an empty cell is missing, a byte order mark is no part of a name.

    A row that is longer than the header loses its end: its columns never shift.
    """
    options = {
        "encoding": "utf-8-sig",
        "index_col": False,
        "keep_default_na": False,
        "na_values": [""],
        **options,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)
        return read_csv(path, columns, dtype=str, **options)


def packaged(package: str, name: str, why: str) -> Path:
    """A file in the `data` folder of an installed package; PnlocError, with what it is needed for, where it is not there."""
    spec = find_spec(package)
    path = Path(spec.origin).parent / "data" / name if spec and spec.origin else None
    if path is None or not path.exists():
        raise PnlocError(f"{name} is not there; install {package}: {why}")
    return path


# Rows -----------------------------------------------------------------------------------------------------


class Quarantine:
    """Rows that cannot be used: file, 1-based row of the table (0: the whole file), reason."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, str]] = []

    def add(self, file: object, row: int, reason: str) -> None:
        """One more row; the reason is kept to one line."""
        self.rows.append((str(file), int(row), " ".join(str(reason).split())))

    def table(self) -> pd.DataFrame:
        """All rows as a table."""
        return pd.DataFrame(self.rows, columns=QUARANTINE_COLUMNS).astype(
            {"file": str, "row": int, "reason": str}
        )


def lines_of(table: pd.DataFrame, skipped: int = 0) -> pd.Series:
    """Number of each row in its file: the header is row 1, after the `skipped` lines above it."""
    return pd.Series(np.arange(len(table)) + 2 + skipped, index=table.index)


class Ledger:
    """Where each row of a table went: used, excluded by a stated rule, missing, or quarantined with its reason.

    The first thing that is said of a row counts; so the counts of the four add up to the rows.
    """

    def __init__(
        self, path: Path, table: pd.DataFrame, quarantine: Quarantine, skipped: int = 0
    ) -> None:
        self.path, self.table, self.quarantine = path, table, quarantine
        self.lines = table["line"] if "line" in table else lines_of(table, skipped)
        self.fate = pd.Series("used", index=table.index, dtype=object)

    @property
    def rows(self) -> pd.DataFrame:
        """The rows that are still used."""
        return self.table[self.fate == "used"]

    def _put(self, rows: pd.Series, fate: str) -> pd.Index:
        rows = (
            rows.reindex(self.table.index, fill_value=False).to_numpy(bool)
            & (self.fate == "used").to_numpy()
        )
        self.fate[rows] = fate
        return self.table.index[rows]

    def exclude(self, rows: pd.Series) -> None:
        """A stated rule leaves these rows (boolean, by index) out."""
        self._put(rows, "excluded")

    def miss(self, rows: pd.Series) -> None:
        """What these rows speak of is not in the folder."""
        self._put(rows, "missing")

    def reject(self, rows: pd.Series, reason: str | pd.Series) -> None:
        """Put rows into quarantine; `reason` is one for all, in which {column} is the row's own value, or one per row."""
        for index in self._put(rows, "quarantined"):
            why = (
                reason.format_map(self.table.loc[index])
                if isinstance(reason, str)
                else reason[index]
            )
            self.quarantine.add(self.path, self.lines[index], why)

    def reject_files(self, problems: dict[object, tuple[str, str]]) -> None:
        """Put rows into quarantine for the file (path, reason) that they name, by index."""
        for index in self._put(pd.Series(True, index=list(problems)), "quarantined"):
            path, reason = problems[index]
            self.quarantine.add(path, 0, reason.removeprefix(f"{path}: "))

    def reject_names(self, key: str, what: str = "") -> None:
        """Put rows into quarantine whose name is empty, climbs out of its folder, or stood in a row that is used."""
        names, said = self.table[key].fillna("").astype("str"), f"{what or key} '{{{key}}}'"
        self.reject(names.str.strip() == "", f"no {what or key}")
        self.reject(
            names.str.contains(PATH) | names.str.strip().isin([".", ".."]),
            f"{said} is a path or no file name",
        )
        self.reject(self.rows[key].duplicated(), f"{said} stands twice")

    def counts(self) -> dict[str, int]:
        """rows, used, missing, excluded, quarantined."""
        return {"rows": len(self.fate), **{f: int((self.fate == f).sum()) for f in FATES}}

    def fates(self, key: str) -> dict[str, str]:
        """Name -> fate; of several rows with one name the one that is used counts, else the first."""
        pairs = pd.DataFrame({"name": self.table[key].astype(object), "fate": self.fate}).dropna()
        order = (pairs["fate"] != "used").argsort(kind="stable")
        pairs = pairs.iloc[order].drop_duplicates("name")
        return dict(zip(pairs["name"], pairs["fate"], strict=True))


def plain(name: str) -> bool:
    """Whether a name is that of a file in a folder: no separators, not '..', no control characters."""
    return not re.search(PATH, name) and name.strip() not in ("", ".", "..")


def numbers(values: pd.Series) -> pd.Series:
    """Text as finite numbers, else NaN."""
    found = pd.to_numeric(values, errors="coerce").astype(float)
    return found.where(np.isfinite(found))


def years(values: pd.Series) -> pd.Series:
    """Ages in years: '58', '058Y', '013M', '010D'; NaN where there is none or one that nobody reaches (NIH has 414)."""
    parts = (
        values.astype(object)
        .astype(str)
        .str.strip()
        .str.extract(r"^(\d+(?:\.\d+)?)\s*([YMWDymwd]?)$")
    )
    unit = (
        parts[1].str.upper().map({"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25})
    )
    found = pd.to_numeric(parts[0], errors="coerce").astype(float) * unit.astype(float)
    return found.where(found <= OLDEST)


def with_headers(images: pd.DataFrame, ledger: Ledger) -> pd.DataFrame:
    """Add width, height and dicom (and, from DICOM files, sex, age, view) from the files' headers.

    `images` has a column path and the ledger's index. A file without a readable header goes into quarantine.
    """
    heads, problems = {}, {}
    for index, path in images["path"].items():
        try:
            heads[index] = header(path)
        except PnlocError as error:
            problems[index] = (path, str(error))
    ledger.reject_files(problems)
    found = pd.DataFrame.from_dict(
        heads, orient="index", columns=["width", "height", "dicom", "sex", "age", "view"]
    )
    found = found[[c for c in found if c not in images]]
    return images.loc[list(heads)].join(found).astype({"width": int, "height": int})


# Boxes ----------------------------------------------------------------------------------------------------


def clean_boxes(
    boxes: pd.DataFrame,
    images: pd.DataFrame,
    fates: dict[str, str],
    path: Path,
    quarantine: Quarantine,
) -> tuple[pd.DataFrame, Ledger]:
    """Boxes with columns image, x, y, w, h, line, label, text -> those of Records plus the ledger's index, and the ledger.

    x, y, w, h are pixels of the file; `fates` says where the rows of images went. A box of a missing or excluded image has its
    fate; one of an image that no row names counts as missing. A box with a `problem` (a further column, '' where there is none), or one that is
    not a number, has no area, lies outside of its image or reaches out of it by more than SLACK goes into quarantine; what is left is clipped.
    """
    ledger = Ledger(path, boxes.reset_index(drop=True), quarantine)
    table = ledger.table
    name = table["image"].astype(object)
    nameless = name.isna() | (name.astype(str).str.strip() == "")
    said = "box of " + name.astype(str) + ": "
    ledger.reject(nameless, "a box of no image")
    fate = name.map(fates).astype(object)
    ledger.miss(fate.isna() | (fate == "missing"))
    ledger.exclude(fate == "excluded")
    ledger.reject(fate == "quarantined", said + "its image is in quarantine")
    if "problem" in table:
        ledger.reject(table["problem"] != "", said + table["problem"])
    values = (
        np.stack([numbers(table[c]) for c in "xywh"], axis=1) if len(table) else np.zeros((0, 4))
    )
    ledger.reject(pd.Series(np.isnan(values).any(1)), said + "coordinates are not numbers")
    low, high = values[:, :2], values[:, :2] + values[:, 2:]
    ledger.reject(pd.Series((high <= low).any(1)), said + "no area")
    extent = images.set_index("image")[["width", "height"]].astype(float)
    extent = extent.reindex(name.where(name.isin(extent.index))).to_numpy().reshape(-1, 2)
    ledger.reject(pd.Series(((high <= 0) | (low >= extent)).any(1)), said + "outside of its image")
    slack = SLACK * extent.max(1, keepdims=True)
    ledger.reject(
        pd.Series(((low < -slack) | (high > extent + slack)).any(1)),
        said + "reaches out of its image",
    )
    again = ledger.rows.duplicated(["image", "x", "y", "w", "h", "label", "text"])
    ledger.reject(again, said + "stands twice")
    corners = np.concatenate([low.clip(0), np.minimum(high, extent)], axis=1)
    table = table.assign(**{c: corners[:, k] for k, c in enumerate(("x1", "y1", "x2", "y2"))})
    return table.loc[ledger.fate == "used", BOX_COLUMNS], ledger


# Records --------------------------------------------------------------------------------------------------


def assemble(
    name: str,
    access_class: str,
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    reports: pd.DataFrame,
    quarantine: Quarantine,
    *,
    tally: dict[str, dict[str, int]],
    scores: pd.DataFrame | None = None,
    notes: list[str] | None = None,
) -> Records:
    """Records from their parts, sorted by image; `tally` has the counts of a ledger per kind of rows, 'images' among them."""
    defaults = {"study": "", "view": "", "sex": "", "age": np.nan, "label": np.nan, "split": ""}
    images = images.assign(**{k: v for k, v in defaults.items() if k not in images})
    images = images[IMAGE_COLUMNS].sort_values("image", kind="stable").reset_index(drop=True)
    text = ["image", "path", "patient", "study", "view", "sex", "split"]
    images[text] = images[text].astype(object).fillna("").astype(str)
    images[["age", "label"]] = images[["age", "label"]].astype(float)
    scores = pd.DataFrame({"image": []}, dtype=str) if scores is None else scores
    tally = dict(tally)
    return Records(
        name,
        access_class,
        images,
        boxes.reset_index(drop=True),
        reports.reset_index(drop=True),
        quarantine.table(),
        tally.pop("images"),
        scores=scores.reset_index(drop=True),
        notes=notes or [],
        tally=tally,
    )


def no_boxes() -> pd.DataFrame:
    """An empty table of boxes."""
    return pd.DataFrame(columns=BOX_COLUMNS)


def no_reports() -> pd.DataFrame:
    """An empty table of reports."""
    return pd.DataFrame(columns=REPORT_COLUMNS)
