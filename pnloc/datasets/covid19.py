"""The COVID-19 image data collection with clinical notes, severity scores and Brixia scores."""

from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.datasets.common import (
    Quarantine,
    access,
    assemble,
    doubled,
    image_files,
    lines_of,
    need,
    no_boxes,
    with_sizes,
)
from pnloc.errors import PnlocError
from pnloc.files import read_csv
from pnloc.records import REPORT_COLUMNS, Records, assign_splits

WHERE = "get the COVID-19 image data collection of Cohen et al. (ieee8023/covid-chestxray-dataset)"
FRONTAL = ("PA", "AP", "AP Supine", "AP Erect", "AP semi erect")
OLD_NAMES = {"Patientid": "patientid", "clinical notes": "clinical_notes", "pO2 saturation": "pO2_saturation"}
ZONES = "ABCDEF"


def read(folder: Path, brixia: Path | None = None) -> Records:
    """Read `metadata.csv`, `images/`, `annotations/covid-severity-scores.csv`, and Brixia scores.

    Origin: radiographs from publications and web pages, most of them of COVID-19. Labels: the finding; free clinical notes, which are the
    reports here; for 94 images geographic extent (0-8) and opacity (0-6), means of three experts. Access: open, a licence per image. Citation:
    Cohen et al. 2020. Brixia scores (Signoroni et al. 2021) come from `brixia-cohen/public-annotations.csv` beside this folder.

    Old and new column names are read. CT and lateral views are excluded. Every patient with a score of any kind is a test patient; the
    others are split by hash into train and validate.
    """
    folder, quarantine = Path(folder), Quarantine()
    path = need(folder, "metadata.csv", where=WHERE)
    table = read_csv(path, encoding="utf-8", encoding_errors="replace", dtype=str)
    table = table.rename(columns=lambda c: OLD_NAMES.get(str(c).strip(), str(c).strip()))
    table = _required(table, path)
    total = len(table)
    table = table.assign(line=lines_of(table))
    table = doubled(table, "filename", path, quarantine)
    frontal = table["view"].isin(FRONTAL) & (table["modality"] == "X-ray")
    excluded = int((~frontal).sum())
    table = table[frontal]
    files = image_files(need(folder, "images", where=WHERE))
    found = table["filename"].isin(files)
    missing = int((~found).sum())
    table = table[found]
    notes = table.get("clinical_notes", pd.Series("", index=table.index)).fillna("").str.strip()
    images = pd.DataFrame(
        {
            "image": table["filename"],
            "path": [str(files[f]) for f in table["filename"]],
            "patient": "covid:" + table["patientid"].astype(str),
            "study": table["filename"].where(notes != "", ""),
            "view": table["view"],
            "sex": table.get("sex", ""),
            "age": pd.to_numeric(table.get("age", np.nan), errors="coerce"),
            "label": table["finding"].map(_label),
        }
    )
    images = with_sizes(images, quarantine)
    scores = _scores(folder, brixia or folder.parent / "brixia-cohen", quarantine)
    tested = set(images.loc[images["image"].isin(scores["image"]), "patient"])
    images["split"] = assign_splits(images["patient"], "covid19", (0.85, 0.15, 0.0)).where(
        ~images["patient"].isin(tested), "test"
    )
    texts = pd.DataFrame({"study": table["filename"], "text": notes})[notes != ""][REPORT_COLUMNS]
    absent = int((~scores["image"].isin(images["image"])).sum())
    return assemble(
        "covid19", access(folder, "open"), images, no_boxes(), texts, quarantine,
        rows=total, missing=missing, excluded=excluded, scores=scores,
        notes=[f"{absent} scored images are not among the images used"] if absent else [],
    )  # fmt: skip


def _required(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Require the columns that matter, under either of their names."""
    needed = ["patientid", "finding", "view", "modality", "filename"]
    lacking = [c for c in needed if c not in table]
    if lacking:
        raise PnlocError(f"{path}: lacks the column(s) {', '.join(lacking)}; it has {', '.join(table.columns)}")
    return table


def _label(finding: object) -> float:
    """1 for a pneumonia of any cause, 0 for 'No Finding', NaN where the finding is open."""
    text = str(finding).lower()
    if text == "no finding":
        return 0.0
    return float("nan") if text in ("", "nan", "todo", "unknown", "tuberculosis") else 1.0


def _scores(folder: Path, brixia: Path, quarantine: Quarantine) -> pd.DataFrame:
    """One row per scored image: geographic_extent, opacity, brixia, and brixia_A to brixia_F (the senior reader's zones)."""
    table = pd.DataFrame({"image": pd.Series(dtype=str)})
    path = folder / "annotations" / "covid-severity-scores.csv"
    if path.exists():
        names = {"filename": "image", "geographic_mean": "geographic_extent", "opacity_mean": "opacity"}
        rows = read_csv(path, list(names), comment="#", dtype={"filename": str})[list(names)].rename(columns=names)
        table = table.merge(
            _numeric(rows, {"geographic_extent": 8, "opacity": 6}, path, quarantine, skipped=5), on="image", how="outer"
        )
    path = brixia / "public-annotations.csv"
    if path.exists():
        names = {"filename": "image", "S-Global": "brixia", **{f"S-{z}": f"brixia_{z}" for z in ZONES}}
        rows = read_csv(path, list(names), encoding="utf-8-sig", dtype={"filename": str})[list(names)].rename(
            columns=names
        )
        limits = {"brixia": 18, **{f"brixia_{z}": 3 for z in ZONES}}
        table = table.merge(_numeric(rows, limits, path, quarantine), on="image", how="outer")
    return table


def _numeric(
    rows: pd.DataFrame, limits: dict[str, int], path: Path, quarantine: Quarantine, skipped: int = 0
) -> pd.DataFrame:
    """Scores as numbers from 0 to their limit; other rows go into quarantine. `skipped`: comment lines before the header."""
    lines = lines_of(rows, skipped)
    rows = doubled(rows, "image", path, quarantine, skipped)
    values = rows[list(limits)].apply(pd.to_numeric, errors="coerce")
    bad = values.isna().any(axis=1) | (values < 0).any(axis=1) | (values > pd.Series(limits)).any(axis=1)
    for index in rows.index[bad]:
        quarantine.add(path, lines[index], f"{rows.at[index, 'image']}: a score is not a number in its range")
    return rows[["image"]].join(values)[~bad]
