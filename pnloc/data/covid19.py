"""The COVID-19 image data collection with clinical notes, severity scores and Brixia scores."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data.records import REPORT_COLUMNS, Records, assign_splits
from pnloc.data.tables import (
    Ledger,
    Quarantine,
    access,
    assemble,
    image_files,
    need,
    no_boxes,
    numbers,
    read_rows,
    unnamed,
    with_headers,
    years,
)
from pnloc.errors import PnlocError
from pnloc.files import read_json

WHERE = "get the COVID-19 image data collection of Cohen et al. (ieee8023/covid-chestxray-dataset)"
FRONTAL = ("PA", "AP", "AP Supine", "AP Erect", "AP semi erect")
OLD_NAMES = {
    "Patientid": "patientid",
    "clinical notes": "clinical_notes",
    "pO2 saturation": "pO2_saturation",
}
ZONES = "ABCDEF"
READERS = {
    "S": "brixia",
    "J": "brixia_junior",
}  # column prefix in the file -> prefix of the score columns
EXTENT, OPACITY = 8, 6  # the most of each
# Licences under which a picture may be drawn, with credit.
SHOWN = re.compile(r"(?:cc0|cc[ -]by(?:[ -]sa|[ -]nc[ -]sa)?)(?:\s+\d(?:\.\d)?)?", re.IGNORECASE)
LUNGS = {"right lung": "right", "left lung": "left"}


def read(folder: Path, brixia: Path | None = None) -> Records:
    """Read `metadata.csv`, `images/`, `annotations/covid-severity-scores.csv`, and Brixia scores.

    Origin: radiographs from publications and web pages, most of them of COVID-19. Labels: the finding; free clinical notes, which are the
    reports here; for 94 images geographic extent (0-8) and opacity (0-6), means of three experts. Access: open, a licence per image. Citation:
    Cohen et al. 2020. Brixia scores (Signoroni et al. 2021) come from `brixia-cohen/public-annotations.csv` beside this folder.

    Old and new column names are read. CT and lateral views are excluded. Every patient with a score of any kind is a test patient; the
    others are split by hash into train and validate. Patients who share an image file are one person.
    """
    folder, quarantine = Path(folder), Quarantine()
    path = need(folder, "metadata.csv", where=WHERE)
    table = _renamed(read_rows(path, encoding_errors="replace"), path)
    person, notes = _people(table)
    ledger = Ledger(path, table, quarantine)
    frontal = table["view"].astype(object).str.strip().isin(FRONTAL) & (
        table["modality"].str.strip() == "X-ray"
    )
    ledger.exclude(~frontal.astype(bool))
    ledger.reject_names("filename")
    name = table["filename"].astype(object)
    files, doubled = image_files([need(folder, "images", where=WHERE)])
    notes += doubled + unnamed(files, name, path)
    ledger.miss(~name.isin(files))
    ledger.reject(table["patientid"].isna(), name.astype(str) + ": no patientid")
    used = ledger.rows
    text = (
        used.get("clinical_notes", pd.Series(np.nan, index=used.index, dtype=object))
        .fillna("")
        .str.strip()
    )
    images = pd.DataFrame(
        {
            "image": used["filename"],
            "path": [str(files[f]) for f in used["filename"]],
            "patient": [f"covid:{person.get(p, p)}" for p in used["patientid"]],
            "study": used["filename"].where(text != "", ""),
            "view": used["view"].str.strip(),
            "sex": used.get("sex", pd.Series(np.nan, index=used.index, dtype=object)),
            "age": years(used.get("age", pd.Series(np.nan, index=used.index, dtype=object))),
            "label": used["finding"].map(_label, na_action=None).astype(float),
        }
    )
    images = with_headers(images, ledger)
    reports = pd.DataFrame({"study": images["study"], "text": text.reindex(images.index)})
    reports = reports[reports["study"] != ""][REPORT_COLUMNS]
    fates = ledger.fates("filename")
    scores, score_rows, score_notes = _scores(
        folder, brixia or folder.parent / "brixia-cohen", fates, quarantine
    )
    tested = set(images.loc[images["image"].isin(scores["image"]), "patient"])
    images["split"] = assign_splits(images["patient"], "covid19", (0.85, 0.15, 0.0)).where(
        ~images["patient"].isin(tested), "test"
    )
    return assemble(
        "covid19",
        access(folder, "open"),
        images,
        no_boxes(),
        reports,
        quarantine,
        tally={"images": ledger.counts(), **score_rows},
        scores=scores,
        notes=notes + score_notes,
    )


def sources(folder: Path) -> pd.DataFrame:
    """Where each image comes from: image, source (host of its page), year, licence, credit (a line), shown (bool).

    `shown` is True only for the licences CC0, CC BY, CC BY-SA and CC BY-NC-SA, written plainly in the column `license`: what is unknown or forbids
    derivatives is not drawn. The year is that of the radiograph's date (NaN: unknown).
    """
    path = need(Path(folder), "metadata.csv", where=WHERE)
    table = _renamed(read_rows(path, encoding_errors="replace"), path).dropna(subset="filename")
    table = table.drop_duplicates("filename")
    url, doi, licence, date = (
        table[c].fillna("").astype(str).str.strip()
        if c in table
        else pd.Series("", index=table.index)
        for c in ("url", "doi", "license", "date")
    )
    page = url.where(url != "", ("https://doi.org/" + doi).where(doi != "", "source not named"))
    return pd.DataFrame(
        {
            "image": table["filename"],
            "source": url.str.extract(r"^https?://(?:www\.)?([^/:]+)", expand=False).fillna(
                "unknown"
            ),
            "year": date.str.extract(r"((?:19|20)\d\d)", expand=False).astype(float),
            "licence": licence,
            "credit": table["filename"]
            + ", "
            + page
            + ", "
            + licence.where(licence != "", "licence not named"),
            "shown": licence.str.fullmatch(SHOWN).astype(bool),
        }
    ).reset_index(drop=True)


def lung_boxes(folder: Path) -> pd.DataFrame:
    """Boxes of lungs that people drew (`annotations/lung-boxes.json`, COCO): image, side, x1, y1, x2, y2, relative to the picture.

    An empty table where the file is not there. A lung of several boxes gets the box around them.
    """
    columns = ["image", "side", "x1", "y1", "x2", "y2"]
    path = Path(folder) / "annotations" / "lung-boxes.json"
    if not path.exists():
        return pd.DataFrame(columns=columns)
    try:
        told = read_json(path)
        images = {i["id"]: i for i in told["images"]}
        sides = {c["id"]: LUNGS.get(str(c["name"]).lower(), "") for c in told["categories"]}
        rows = []
        for one in told["annotations"]:
            image, (x, y, w, h) = images[one["image_id"]], one["bbox"]
            sizes = [image["width"], image["height"]] * 2
            edges = [float(v) / s for v, s in zip((x, y, x + w, y + h), sizes, strict=True)]
            rows.append((image["file_name"], sides[one["category_id"]], *edges))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise PnlocError(
            f"{path}: not a COCO file of lung boxes ({type(error).__name__}: {error})"
        ) from None
    table = pd.DataFrame(rows, columns=columns)
    around = {"x1": "min", "y1": "min", "x2": "max", "y2": "max"}
    return table[table["side"] != ""].groupby(["image", "side"], as_index=False).agg(around)


def _renamed(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Columns under their new names; PnlocError where one that matters is there under neither."""
    table = table.rename(columns=lambda c: OLD_NAMES.get(str(c).strip(), str(c).strip()))
    needed = ["patientid", "finding", "view", "modality", "filename"]
    lacking = [c for c in needed if c not in table]
    if lacking:
        raise PnlocError(
            f"{path}: lacks the column(s) {', '.join(lacking)}; it has {', '.join(table.columns)}"
        )
    return table


def _people(table: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """patientid -> the patientid that stands for the person, for patients of whom a file is shared, and a note on them."""
    person: dict[str, str] = {}

    def first(patient: str) -> str:
        while patient in person:
            patient = person[patient]
        return patient

    rows = table[["filename", "patientid"]].dropna()
    for _, patients in rows[rows["filename"].duplicated(keep=False)].groupby(
        "filename", sort=False
    )["patientid"]:
        heads = list(dict.fromkeys(first(p) for p in patients))
        person |= {other: heads[0] for other in heads[1:]}
    person = {patient: first(patient) for patient in person}
    pairs = ", ".join(f"{a} = {b}" for a, b in person.items())
    return person, [
        f"{len(person)} patients share an image file with another and count as the same: {pairs}"
    ] * bool(person)


def _label(finding: object) -> float:
    """1 for a pneumonia of any cause, 0 for 'No Finding', NaN where the finding is open."""
    text = str(finding).strip().lower()
    if text == "no finding":
        return 0.0
    return float("nan") if text in ("", "nan", "none", "todo", "unknown", "tuberculosis") else 1.0


def _scores(
    folder: Path, brixia: Path, fates: dict[str, str], quarantine: Quarantine
) -> tuple[pd.DataFrame, dict[str, dict[str, int]], list[str]]:
    """One row per scored image, the counts of the rows of each file that is there, and notes.

    Columns: geographic_extent, opacity; brixia, brixia_A to brixia_F (senior reader); brixia_junior, brixia_junior_A to _F (junior).
    """
    parts, counts, notes = [], {}, []
    path = folder / "annotations" / "covid-severity-scores.csv"
    if path.exists():
        comments, top = _comments(path)
        names = {
            "filename": "image",
            "geographic_mean": "geographic_extent",
            "opacity_mean": "opacity",
        }
        rows = read_rows(path, list(names), skiprows=comments)[list(names)].rename(columns=names)
        part, ledger = _numeric(
            rows, {"geographic_extent": EXTENT, "opacity": top}, path, fates, quarantine, comments
        )
        if top != OPACITY:
            notes.append(f"opacity is given from 0 to {top} and scaled to 0 to {OPACITY}")
        parts.append(part.assign(opacity=part["opacity"] * OPACITY / top))
        counts["severity scores"] = ledger.counts()
    path = brixia / "public-annotations.csv"
    if path.exists():
        names = {f"{r}-Global": s for r, s in READERS.items()}
        names |= {f"{r}-{z}": f"{s}_{z}" for r, s in READERS.items() for z in ZONES}
        rows = read_rows(path, ["filename", *names])[["filename", *names]]
        rows = rows.rename(columns={"filename": "image", **names})
        limits = {column: 18 if column in READERS.values() else 3 for column in names.values()}
        part, ledger = _numeric(rows, limits, path, fates, quarantine)
        parts.append(part)
        counts["brixia scores"] = ledger.counts()
        for reader in READERS.values():
            wrong = int((part[[f"{reader}_{z}" for z in ZONES]].sum(axis=1) != part[reader]).sum())
            notes += [f"{wrong} global scores of {reader} are not the sum of their zones"] * bool(
                wrong
            )
    table = pd.DataFrame({"image": pd.Series(dtype=str)})
    for part in parts:
        table = table.merge(part, on="image", how="outer")
    return table, counts, notes


def _comments(path: Path) -> tuple[int, int]:
    """How many lines that start with '#' stand above the header, and the most that they give opacity (6, RALO's later set 8)."""
    count, top = 0, OPACITY
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        count += 1
        ranges = [int(end) for end in re.findall(r"\b0\s*(?:to|-)\s*(\d+)", line)]
        if line.lstrip("# ").lower().startswith("opacity") and max(ranges, default=0) > 0:
            top = max(ranges)  # of '0 to 3 per lung, 0 to 6 in all' the latter
    return count, top


def _numeric(
    rows: pd.DataFrame,
    limits: dict[str, int],
    path: Path,
    fates: dict[str, str],
    quarantine: Quarantine,
    skipped: int = 0,
) -> tuple[pd.DataFrame, Ledger]:
    """Scores of used images as numbers from 0 to their limit, and the ledger. `skipped`: comment lines before the header."""
    ledger = Ledger(path, rows, quarantine, skipped)
    ledger.reject_names("image")
    name = rows["image"].astype(object)
    values = rows[list(limits)].apply(numbers).astype(float)
    bad = (
        values.isna().any(axis=1)
        | (values < 0).any(axis=1)
        | (values > pd.Series(limits)).any(axis=1)
    )
    ledger.reject(bad, name.astype(str) + ": a score is not a number in its range")
    fate = name.map(fates).astype(object)
    ledger.miss(fate.isna() | (fate == "missing"))
    ledger.exclude(fate == "excluded")
    ledger.reject(fate == "quarantined", name.astype(str) + ": its image is in quarantine")
    kept = ledger.rows.index
    return rows.loc[kept, ["image"]].join(values.loc[kept]), ledger
