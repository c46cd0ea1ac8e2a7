"""What all readers share: a source with its notes, tables with the fate of each row, checked boxes.

A reader reads each table of a `Source` into a `Ledger` and marks the rows that cannot be used.
"""

import os
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data.records import BOX_COLUMNS, FATES, IMAGE_COLUMNS, REPORT_COLUMNS, Records
from pnloc.errors import PnlocError
from pnloc.files import read_csv
from pnloc.images import Header, header

SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")
OFFICIAL_SIDE = 1024  # of the PNG of NIH and the DICOM of RSNA: boxes are in its pixels
SLACK = 0.01  # share of the longer side by which a box may overhang its image; it is then clipped
OLDEST = 120  # years
PATH = r"[/\\\x00-\x1f]"  # characters that no file name holds
XYWH = ["x", "y", "w", "h"]
_TEXTS = ["image", "path", "patient", "study", "view", "sex", "split", "label", "text"]
_UNKNOWN = dict.fromkeys(["study", "view", "sex", "split", "odd"], "")
_UNKNOWN |= {"age": np.nan, "label": np.nan}

# Files ------------------------------------------------------------------------------------------


def walk(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Paths of all files with one of some suffixes, in any case: relative to `folder`, sorted.

    Links to folders are followed, each folder once: a set may lie on several disks, a loop ends.
    """
    paths, visited = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        place = Path(root).relative_to(folder).as_posix() + "/"
        matches = (name for name in names if name.lower().endswith(suffixes))
        paths += [f"{place}{name}".removeprefix("./") for name in matches]
    return sorted(paths)


def read_rows(path: Path, columns: Iterable[str] = (), **options: object) -> pd.DataFrame:
    """A CSV as text, every cell as in the file; empty cells are missing, byte order marks ignored.

    A row that is longer than the header loses its end: its columns never shift. Further `options`
    go to pandas.read_csv. Raises PnlocError where the file is unreadable or lacks a column.
    """
    defaults = {"encoding": "utf-8-sig", "index_col": False, "keep_default_na": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)
        return read_csv(path, columns, dtype=object, na_values=[""], **{**defaults, **options})


def column(table: pd.DataFrame, *names: str) -> pd.Series:
    """The first of some columns that a table has, or one of missing values."""
    empty = pd.Series(np.nan, index=table.index, dtype=object)
    return next((table[name] for name in names if name in table), empty)


def packaged(package: str, name: str, why: str) -> Path:
    """A file in the `data` folder of an installed package; PnlocError, which says `why`, else."""
    spec = find_spec(package)
    path = Path(spec.origin).parent / "data" / name if spec and spec.origin else None
    if path is None or not path.exists():
        raise PnlocError(f"{name} is not there; install {package}: {why}")
    return path


# Rows -------------------------------------------------------------------------------------------


class Ledger:
    """The fate of each row of a table: used, excluded by a stated rule, missing, or quarantined.

    Only the first mark on a row counts, so the counts of the four fates add up to the rows.
    """

    def __init__(self, path: Path, table: pd.DataFrame, quarantine: list, first: int = 2) -> None:
        """A table whose rows are all in use, and the list for those of all tables that are not.

        quarantine: (file, 1-based row or 0 for the whole file, reason); first: line in the file of
        the row with index 0, by default the one below a header.
        """
        self.path, self.table, self.quarantine, self.first = path, table, quarantine, first
        self.fate = pd.Series("used", index=table.index, dtype=object)

    @property
    def rows(self) -> pd.DataFrame:
        """The rows that are still used."""
        return self.table[self.fate == "used"]

    def mark(self, rows: pd.Series | np.ndarray, fate: str) -> pd.Index:
        """Give a fate to those of some rows (boolean) that are still in use; return their index."""
        rows = pd.Series(rows, index=self.table.index).eq(True).to_numpy(bool)
        rows = rows & (self.fate.to_numpy() == "used")
        self.fate[rows] = fate
        return self.table.index[rows]

    def reject(self, rows: pd.Series | np.ndarray, reason: str) -> None:
        """Quarantine rows; {column} in the reason stands for the row's own value."""
        for index in self.mark(rows, "quarantined"):
            line = reason.format_map(self.table.loc[index])
            self.quarantine.append((self.path, index + self.first, line))

    def reject_files(self, problems: dict[object, tuple[str, object]]) -> None:
        """Quarantine rows because of a file that they name: index -> (path, reason)."""
        for index in self.mark(pd.Series(True, index=list(problems)), "quarantined"):
            path, reason = problems[index]
            self.quarantine.append((path, 0, str(reason).removeprefix(f"{path}: ")))

    def reject_names(self, key: str) -> None:
        """Quarantine rows whose name is empty, is a path, or stands in an earlier row in use."""
        names = self.table[key].fillna("").astype(str)
        self.reject(names.str.strip() == "", f"no {key}")
        path = names.str.contains(PATH) | names.str.strip().isin([".", ".."])
        self.reject(path, f"{key} '{{{key}}}' is a path or no file name")
        self.reject(self.rows[key].duplicated(), f"{key} '{{{key}}}' stands twice")

    def follow(self, key: str, fates: dict[str, str], reason: str) -> None:
        """Give rows the fate of the image that they name; an image that no row names is missing."""
        fate = self.table[key].map(fates)
        self.mark(fate.isna() | (fate == "missing"), "missing")
        self.mark(fate == "excluded", "excluded")
        self.reject(fate == "quarantined", reason)

    def fates(self, key: str) -> dict[str, str]:
        """Name -> fate; of several rows with one name the one in use counts, else the first."""
        pairs = pd.DataFrame({"name": self.table[key], "fate": self.fate}).dropna()
        order = (pairs["fate"] != "used").argsort(kind="stable")
        return pairs.iloc[order].drop_duplicates("name").set_index("name")["fate"].to_dict()

    def images(self, key: str, files: dict[str, Path], **columns: object) -> pd.DataFrame:
        """The rows in use as images: image, path, further `columns`, and what the headers say.

        Headers give width, height and dicom; those of DICOM files also sex, age, view and what is
        odd, where `columns` lack them. A file without a readable header goes into quarantine.
        """
        names = self.rows[key]
        images = {"image": names, "path": [str(files[name]) for name in names], **columns}
        images = pd.DataFrame(images, index=names.index)
        heads, problems = {}, {}
        for index, path in images["path"].items():
            try:
                heads[index] = header(path)
            except PnlocError as error:
                problems[index] = (path, error)
        self.reject_files(problems)
        read = pd.DataFrame.from_dict(heads, orient="index", columns=Header._fields)
        read = read.drop(columns=[name for name in columns if name in read])
        return images.loc[list(heads)].join(read).astype({"width": int, "height": int})


def numbers(values: pd.Series | pd.DataFrame) -> pd.Series | pd.DataFrame:
    """Text as finite numbers, else NaN; a table column by column."""
    if isinstance(values, pd.DataFrame):
        return values.apply(numbers).astype(float)
    parsed = pd.to_numeric(values, errors="coerce").astype(float)
    return parsed.where(np.isfinite(parsed))


def years(values: pd.Series) -> pd.Series:
    """Ages in years: '58', '058Y', '013M', '010D'; NaN for any other text and beyond OLDEST."""
    parts = values.astype(str).str.strip().str.extract(r"^(\d+(?:\.\d+)?)\s*([YMWDymwd]?)$")
    units = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
    ages = pd.to_numeric(parts[0], errors="coerce") * parts[1].str.upper().map(units).astype(float)
    return ages.where(ages <= OLDEST)


def rescaled(values: pd.DataFrame, names: pd.Series, images: pd.DataFrame) -> pd.DataFrame:
    """Coordinates on a square of OFFICIAL_SIDE pixels as numbers, in pixels of the rows' files.

    names: the image of each row; coordinates of one that is not in `images` stay as they are.
    """
    scale = images.set_index("image")["width"] / OFFICIAL_SIDE
    return numbers(values).mul(names.map(scale).astype(float).fillna(1.0), axis=0)


# Boxes and records ------------------------------------------------------------------------------


def clean_boxes(ledger: Ledger, images: pd.DataFrame, fates: dict[str, str]) -> pd.DataFrame:
    """The usable rows of a ledger of boxes, with BOX_COLUMNS.

    The ledger's table has image, x, y, w, h (pixels of the file), label and text; `fates` are those
    of the images by name. A box of a missing or excluded image shares its fate. A box goes into
    quarantine if it has a `problem` (an optional column, '' for none), is not given in numbers, has
    no area, lies outside its image or overhangs it by more than SLACK.
    """
    table = ledger.table
    ledger.reject(table["image"].fillna("").astype(str).str.strip() == "", "a box of no image")
    ledger.follow("image", fates, "box of {image}: its image is in quarantine")
    ledger.reject(column(table, "problem").fillna("") != "", "box of {image}: {problem}")
    corner, extent = (numbers(table[axes]).to_numpy() for axes in (XYWH[:2], XYWH[2:]))
    low, high = corner, corner + extent
    sizes = images.set_index("image")[["width", "height"]].astype(float)
    sizes = sizes.reindex(table["image"]).to_numpy()
    slack = SLACK * sizes.max(1, keepdims=True)
    problems = {
        "coordinates are not numbers": np.isnan(low) | np.isnan(high),
        "no area": high <= low,
        "outside of its image": (high <= 0) | (low >= sizes),
        "reaches out of its image": (low < -slack) | (high > sizes + slack),
    }
    for problem, rows in problems.items():
        ledger.reject(rows.any(1), f"box of {{image}}: {problem}")
    doubled = ledger.rows.duplicated(["image", *XYWH, "label", "text"])
    ledger.reject(doubled, "box of {image}: stands twice")
    corners = np.concatenate([low.clip(0), np.minimum(high, sizes)], axis=1)
    corners = pd.DataFrame(corners, table.index, ["x1", "y1", "x2", "y2"])
    return table.join(corners).loc[ledger.fate == "used", BOX_COLUMNS]


class Source:
    """A data set while it is read: its folder, quarantine, and notes for whoever uses it."""

    def __init__(self, name: str, folder: Path, where: str, access: str = "open") -> None:
        """where: how to get the set. A folder beside a `rates.json` is one of `phantoms`."""
        self.name, self.folder, self.where = name, Path(folder), where
        generated = (self.folder.parent / "rates.json").exists()
        self.access = "generated" if generated else access
        self.quarantine, self.notes = [], []

    def note(self, count: int, text: str) -> None:
        """Remember a sentence that begins with a number, unless the number is 0."""
        self.notes += [f"{count} {text}"] if count else []

    def need(self, *names: str) -> Path:
        """The first of some files that exists; else PnlocError, which says where to get the set."""
        if not self.folder.is_dir():
            raise PnlocError(f"{self.folder}: no such folder; {self.where}")
        for name in names:
            if (self.folder / name).exists():
                return self.folder / name
        raise PnlocError(f"{self.folder}: holds no {' or '.join(names)}; {self.where}")

    def ledger(self, path: Path, columns: Iterable[str], first: int = 2, **options) -> Ledger:
        """A table of the set (see `read_rows`) whose rows are all in use so far."""
        return Ledger(path, read_rows(path, columns, **options), self.quarantine, first)

    def files(
        self, ledger: Ledger, key: str, folders: Iterable[Path], stems: bool = False
    ) -> dict[str, Path]:
        """Image files by file name, or by its stem; of several with one name the first path counts.

        Rows without a file are missing. Notes report files of one name, and names without files.
        """
        files, doubled = {}, []
        for folder in folders:
            for path in (folder / place for place in walk(folder, SUFFIXES)):
                name = path.stem if stems else path.name
                doubled += [name] * (name in files)
                files.setdefault(name, path)
        self.note(len(doubled), f"image files share a name, such as {', '.join(doubled[:1])}")
        names = ledger.table[key]
        self.unnamed(files, names, ledger.path)
        ledger.mark(~names.isin(files), "missing")
        if files and len(names) and not names.isin(files).any():
            example = f"'{names.iloc[0]}'; a file is '{min(files)}'"
            self.note(len(names), f"names of {ledger.path.name} have no file, such as {example}")
        return files

    def unnamed(self, files: Iterable[str], names: Iterable[object], table: Path) -> None:
        """Note how many files no row of a table names."""
        self.note(len({*files} - {*names}), f"image files are named by no row of {table.name}")

    def records(
        self, images: pd.DataFrame, fates: dict[str, pd.Series], **tables: pd.DataFrame
    ) -> Records:
        """Records, sorted by image, with the `tables` (boxes, reports, scores) that the set has.

        fates: those of all rows by kind, 'images' among them.
        """
        images = images.assign(**{k: v for k, v in _UNKNOWN.items() if k not in images})
        odd = (images["image"] + ": " + images["odd"])[images["odd"] != ""].tolist()
        self.note(len(odd), f"image files are unusual by their headers ({''.join(odd[:1])})")
        images = images[IMAGE_COLUMNS].sort_values("image", kind="stable")
        tally = {
            kind: {"rows": len(rows), **{fate: int((rows == fate).sum()) for fate in FATES}}
            for kind, rows in fates.items()
        }
        types = {"file": str, "row": int, "reason": str}
        quarantine = pd.DataFrame(self.quarantine, columns=list(types)).astype(types)
        lines = quarantine["reason"].str.split().str.join(" ").astype(str)
        empty = {"boxes": BOX_COLUMNS, "reports": REPORT_COLUMNS, "scores": ["image"]}
        tables = {name: pd.DataFrame(columns=columns) for name, columns in empty.items()} | tables
        return Records(
            self.name,
            self.access,
            _typed(images, label=float, age=float),
            quarantine=quarantine.assign(reason=lines),
            counts=tally.pop("images"),
            notes=self.notes,
            tally=tally,
            **{name: _typed(table) for name, table in tables.items()},
        )


def _typed(table: pd.DataFrame, **types: type) -> pd.DataFrame:
    """A table of Records, its rows numbered anew; texts are str and '' where they are missing."""
    texts = [name for name in _TEXTS if name in table and name not in types]
    types |= dict.fromkeys(texts, str)
    return table.fillna(dict.fromkeys(texts, "")).astype(types).reset_index(drop=True)
