"""What every reader needs: finding files, checking boxes row by row, sizes from headers, putting Records together."""

from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.errors import PnlocError
from pnloc.images import size
from pnloc.records import BOX_COLUMNS, IMAGE_COLUMNS, QUARANTINE_COLUMNS, REPORT_COLUMNS, Records

SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")


def need(folder: Path, *names: str, where: str) -> Path:
    """The first of some files that a folder has; PnlocError, saying where to get it, where it has none."""
    if not folder.is_dir():
        raise PnlocError(f"{folder}: no such folder; {where}")
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise PnlocError(f"{folder}: holds no {' or '.join(names)}; {where}")


def access(folder: Path, otherwise: str) -> str:
    """'generated' for a tree of pnloc.demo (which leaves rates.json beside it), else `otherwise`."""
    return "generated" if (folder.parent / "rates.json").exists() else otherwise


def image_files(folder: Path) -> dict[str, Path]:
    """Image files under a folder by file name."""
    return {path.name: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES}


class Quarantine:
    """Rows that cannot be used: file, 1-based line of the table (0: the whole file), reason."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, str]] = []

    def add(self, file: object, row: int, reason: str) -> None:
        """One more line."""
        self.rows.append((str(file), int(row), reason))

    def table(self) -> pd.DataFrame:
        """All lines as a table."""
        return pd.DataFrame(self.rows, columns=QUARANTINE_COLUMNS).astype({"file": str, "row": int, "reason": str})


def lines_of(table: pd.DataFrame, skipped: int = 0) -> pd.Series:
    """Line number of each row in its file: the header is line 1, after the `skipped` lines above it."""
    return pd.Series(np.arange(len(table)) + 2 + skipped, index=table.index)


def doubled(table: pd.DataFrame, key: str, path: Path, quarantine: Quarantine, skipped: int = 0) -> pd.DataFrame:
    """The table without rows whose key is empty or stood before; these are put into quarantine."""
    lines, again = lines_of(table, skipped), table[key].duplicated()
    empty = table[key].isna() | (table[key].astype(str).str.strip() == "")
    for index in table.index[again | empty]:
        why = f"no {key}" if empty[index] else f"{key} '{table.at[index, key]}' stands twice"
        quarantine.add(path, lines[index], why)
    return table[~(again | empty)]


def with_sizes(images: pd.DataFrame, quarantine: Quarantine) -> pd.DataFrame:
    """Add width and height from the files' headers; a file without a readable one goes into quarantine."""
    sizes = []
    for path in images["path"]:
        try:
            sizes.append(size(path))
        except PnlocError as error:
            quarantine.add(path, 0, str(error).removeprefix(f"{path}: "))
            sizes.append((0, 0))
    images = images.assign(width=[s[0] for s in sizes], height=[s[1] for s in sizes])
    return images[images["width"] > 0]


def clean_boxes(boxes: pd.DataFrame, images: pd.DataFrame, path: Path, quarantine: Quarantine) -> pd.DataFrame:
    """Boxes with columns image, x, y, w, h, line, label, text -> the columns of Records, clipped to their image.

    x, y, w, h are pixels of the file. A box that is not a number, has no area, or lies outside of its image goes into
    quarantine; boxes of images that are not in `images` are left out.
    """
    boxes = boxes.merge(images[["image", "width", "height"]], on="image")
    numbers = boxes[["x", "y", "w", "h"]].apply(pd.to_numeric, errors="coerce").to_numpy(float).reshape(-1, 4)
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    bounds = boxes[["width", "height"]].to_numpy(float).reshape(-1, 2)
    low, high = numbers[:, :2].clip(0), np.minimum(numbers[:, :2] + numbers[:, 2:], bounds)
    broken = np.isnan(numbers).any(1)
    flat = ~broken & (numbers[:, 2:] <= 0).any(1)
    outside = ~broken & ~flat & (high - low <= 0).any(1)
    seen = boxes.duplicated(["image", "x", "y", "w", "h", "label", "text"]).to_numpy(bool)
    repeated = seen & ~broken & ~flat & ~outside
    reasons = (
        (broken, "coordinates are not numbers"),
        (flat, "no area"),
        (outside, "outside of its image"),
        (repeated, "stands twice"),
    )
    for rows, reason in reasons:
        for image, line in boxes.loc[rows, ["image", "line"]].itertuples(index=False):
            quarantine.add(path, line, f"box of {image}: {reason}")
    good = ~(broken | flat | outside | repeated)
    boxes = boxes[good].assign(x1=low[good, 0], y1=low[good, 1], x2=high[good, 0], y2=high[good, 1])
    return boxes[BOX_COLUMNS].reset_index(drop=True)


def assemble(
    name: str,
    access_class: str,
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    reports: pd.DataFrame,
    quarantine: Quarantine,
    *,
    rows: int,
    missing: int,
    excluded: int,
    scores: pd.DataFrame | None = None,
    notes: list[str] | None = None,
) -> Records:
    """Records from their parts, sorted by image; `rows` are the image rows of the main table.

    Rows that are neither used, missing nor excluded are in quarantine, and the counts say so.
    """
    defaults = {"study": "", "view": "", "sex": "", "age": np.nan, "label": np.nan, "split": ""}
    images = images.assign(**{k: v for k, v in defaults.items() if k not in images})
    images = images[IMAGE_COLUMNS].sort_values("image", kind="stable").reset_index(drop=True)
    text = ["image", "path", "patient", "study", "view", "sex", "split"]
    images[text] = images[text].fillna("").astype(str)
    images[["age", "label"]] = images[["age", "label"]].astype(float)
    counts = {"rows": rows, "used": len(images), "missing": missing, "excluded": excluded}
    counts["quarantined"] = rows - len(images) - missing - excluded
    scores = pd.DataFrame({"image": []}, dtype=str) if scores is None else scores[scores["image"].isin(images["image"])]
    return Records(
        name, access_class, images, boxes.reset_index(drop=True), reports.reset_index(drop=True), quarantine.table(), counts,
        scores=scores.reset_index(drop=True), notes=notes or [],
    )  # fmt: skip


def no_boxes() -> pd.DataFrame:
    """An empty table of boxes."""
    return pd.DataFrame(columns=BOX_COLUMNS)


def no_reports() -> pd.DataFrame:
    """An empty table of reports."""
    return pd.DataFrame(columns=REPORT_COLUMNS)
