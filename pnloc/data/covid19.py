"""The COVID-19 image data collection with clinical notes, severity scores and Brixia scores."""

import re
from pathlib import Path

import pandas as pd

from pnloc.data.records import Records, assign_splits
from pnloc.data.tables import Ledger, Source, column, numbers, read_rows, years
from pnloc.files import form, read_json, require

WHERE = "get the COVID-19 image data collection of Cohen et al. (ieee8023/covid-chestxray-dataset)"
FRONTAL = ("PA", "AP", "AP Supine", "AP Erect", "AP semi erect")
OLD_NAMES = {"Patientid": "patientid", "clinical notes": "clinical_notes"}
OPEN = ("", "nan", "none", "todo", "unknown", "tuberculosis")  # findings that decide nothing
ZONES = "ABCDEF"
READERS = {"S": "brixia", "J": "brixia_junior"}  # column prefix in the file -> that of the scores
SEVERITY = {"geographic_mean": "geographic_extent", "opacity_mean": "opacity"}
EXTENT, OPACITY = 8, 6  # upper ends of the two scales
# Licences under which a picture may be drawn, with credit.
SHOWN = re.compile(r"(?:cc0|cc[ -]by(?:[ -]nc)?(?:[ -]sa)?)(?:\s+\d(?:\.\d)?)?", re.IGNORECASE)
LUNGS = {"right lung": "right", "left lung": "left"}
NO_LUNGS = {"images": [], "categories": [], "annotations": []}


def read(folder: Path) -> Records:
    """Read `metadata.csv`, `images/`, `annotations/covid-severity-scores.csv`, and Brixia scores.

    Origin: radiographs from publications and web pages, most of them of COVID-19. Labels: the
    finding; free clinical notes, which are the reports here; for 94 images geographic extent (0-8)
    and opacity (0-6), means of three experts. Access: open, a licence per image. Citation: Cohen
    et al. 2020. Brixia scores (Signoroni et al. 2021) come from
    `brixia-cohen/public-annotations.csv` beside this folder.

    Old and new column names are read. CT and lateral views are excluded. Every patient with a
    score of any kind is a test patient; the others are split by hash into train and validate.
    Patients who share an image file are one person.
    """
    source = Source("covid19", folder, WHERE)
    table = _metadata(source)
    person = _people(source, table)
    ledger = Ledger(source.need("metadata.csv"), table, source.quarantine)
    view = table["view"].str.strip()
    ledger.mark(~view.isin(FRONTAL) | (table["modality"].str.strip() != "X-ray"), "excluded")
    ledger.reject_names("filename")
    files = source.files(ledger, "filename", [source.need("images")])
    ledger.reject(table["patientid"].isna(), "{filename}: no patientid")
    text = column(table, "clinical_notes").fillna("").astype(str).str.strip()
    images = ledger.images(
        "filename",
        files,
        patient="covid:" + table["patientid"].replace(person),
        study=table["filename"].where(text != "", ""),
        view=view,
        sex=column(table, "sex"),
        age=years(column(table, "age")),
        label=_labels(table["finding"]),
    )
    scores, fates = _scores(source, ledger.fates("filename"))
    tested = images.loc[images["image"].isin(scores["image"]), "patient"]
    splits = assign_splits(images["patient"], "covid19", (0.85, 0.15, 0.0))
    images["split"] = splits.mask(images["patient"].isin(tested), "test")
    reports = images[["study"]].join(text.rename("text")).query("study != ''")
    return source.records(images, {"images": ledger.fate, **fates}, reports=reports, scores=scores)


def sources(folder: Path) -> pd.DataFrame:
    """Origin of each image: image, source (host), year, day, licence, credit (a line), shown.

    `shown` is True only for the licences CC0, CC BY, CC BY-SA, CC BY-NC and CC BY-NC-SA, written
    plainly in the column `license`: what is unknown or forbids derivatives is not drawn. The year
    is that of the radiograph's date, the day its `offset`, from the first symptoms or the
    admission on (NaN: unknown).
    """
    table = _metadata(Source("covid19", folder, WHERE)).dropna(subset="filename")
    table = table.drop_duplicates("filename").reset_index(drop=True)
    facts = table.reindex(columns=["url", "doi", "license", "date"]).fillna("").astype(str)
    url, doi, licence, date = (facts[name].str.strip() for name in facts)
    host = url.str.extract(r"^https?://(?:www\.)?([^/:]+)", expand=False)
    page = url.where(url != "", ("https://doi.org/" + doi).where(doi != "", "source not named"))
    terms = licence.where(licence != "", "licence not named")
    return pd.DataFrame(
        {
            "image": table["filename"].astype(str),
            "source": host.fillna("unknown"),
            "year": date.str.extract(r"((?:19|20)\d\d)", expand=False).astype(float),
            "day": pd.to_numeric(table.reindex(columns=["offset"])["offset"], errors="coerce"),
            "licence": licence,
            "credit": table["filename"] + ", " + page + ", " + terms,
            "shown": licence.str.fullmatch(SHOWN).astype(bool),
        }
    )


def lung_boxes(folder: Path) -> pd.DataFrame:
    """Lungs drawn by hand: image, side, x1, y1, x2, y2 (relative to the picture).

    They come from `annotations/lung-boxes.json` (COCO); without it the table is empty. A lung of
    several boxes gets the box around them.
    """
    path, rows = Path(folder) / "annotations" / "lung-boxes.json", []
    with form(path, "not a COCO file of lung boxes"):
        coco = read_json(path) if path.exists() else NO_LUNGS
        images = {image["id"]: image for image in coco["images"]}
        sides = {c["id"]: LUNGS.get(str(c["name"]).lower(), "") for c in coco["categories"]}
        for annotation in coco["annotations"]:
            image, (x, y, w, h) = images[annotation["image_id"]], annotation["bbox"]
            across, down = image["width"], image["height"]
            edges = (x / across, y / down, (x + w) / across, (y + h) / down)
            rows.append((image["file_name"], sides[annotation["category_id"]], *edges))
    table = pd.DataFrame(rows, columns=["image", "side", "x1", "y1", "x2", "y2"])
    around = {"x1": "min", "y1": "min", "x2": "max", "y2": "max"}
    return table[table["side"] != ""].groupby(["image", "side"], as_index=False).agg(around)


def _metadata(source: Source) -> pd.DataFrame:
    """`metadata.csv` with the new column names; PnlocError where one that matters is missing."""
    path = source.need("metadata.csv")
    table = read_rows(path, encoding_errors="replace")
    table = table.rename(columns=lambda name: OLD_NAMES.get(name.strip(), name.strip()))
    return require(path, table, ["patientid", "finding", "view", "modality", "filename"])


def _people(source: Source, table: pd.DataFrame) -> dict[str, str]:
    """patientid -> that of the same person's first row, where patients share a file; noted."""
    person: dict[str, str] = {}
    rows = table[["filename", "patientid"]].dropna()
    for _, patients in rows.groupby("filename", sort=False)["patientid"]:
        heads = list(dict.fromkeys(person.get(patient, patient) for patient in patients))
        person |= {p: heads[0] for p, head in person.items() if head in heads[1:]}
        person |= dict.fromkeys(heads[1:], heads[0])
    pairs = ", ".join(f"{patient} = {head}" for patient, head in person.items())
    text = "patients share an image file with another and count as the same"
    source.note(len(person), f"{text}: {pairs}")
    return person


def _labels(findings: pd.Series) -> pd.Series:
    """1 for a pneumonia of any cause, 0 for 'No Finding', NaN where the finding is open."""
    text = findings.fillna("").astype(str).str.strip().str.lower()
    return (text != "no finding").astype(float).mask(text.isin(OPEN))


def _scores(source: Source, fates: dict[str, str]) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """One row per scored image, and the fates of the rows of each file that is there.

    Columns: geographic_extent, opacity; brixia, brixia_A to brixia_F (senior reader);
    brixia_junior, brixia_junior_A to brixia_junior_F (junior reader).
    """
    table, ledgers = pd.DataFrame({"image": pd.Series(dtype=str)}), {}
    path = source.folder / "annotations" / "covid-severity-scores.csv"
    if path.exists():
        comments, top = _comments(path)
        ledger = source.ledger(path, ["filename", *SEVERITY], comments + 2, skiprows=comments)
        limits = {"geographic_extent": EXTENT, "opacity": top}
        part = _in_range(ledger, SEVERITY, limits, fates)
        if top != OPACITY:
            source.notes.append(f"opacity is given from 0 to {top} and scaled to 0 to {OPACITY}")
        part["opacity"] = part["opacity"] * OPACITY / top
        table, ledgers["severity scores"] = table.merge(part, on="image", how="outer"), ledger.fate
    path = source.folder.parent / "brixia-cohen" / "public-annotations.csv"
    if path.exists():
        names = {f"{column}-Global": name for column, name in READERS.items()}
        names |= {f"{column}-{z}": f"{name}_{z}" for column, name in READERS.items() for z in ZONES}
        limits = {name: 18 if name in READERS.values() else 3 for name in names.values()}
        ledger = source.ledger(path, ["filename", *names])
        part = _in_range(ledger, names, limits, fates)
        for reader in READERS.values():
            sums = part[[f"{reader}_{zone}" for zone in ZONES]].sum(axis=1)
            wrong = int((sums != part[reader]).sum())
            source.note(wrong, f"global scores of {reader} are not the sum of their zones")
        table, ledgers["brixia scores"] = table.merge(part, on="image", how="outer"), ledger.fate
    return table, ledgers


def _comments(path: Path) -> tuple[int, int]:
    """Number of comment lines ('#') above the header, and upper end of the scale of opacity.

    It is 6, but 8 in RALO's later set; of '0 to 3 per lung, 0 to 6 in all' the latter counts.
    """
    count, top = 0, OPACITY
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        count += 1
        ends = [int(end) for end in re.findall(r"\b0\s*(?:to|-)\s*(\d+)", line)]
        if line.lstrip("# ").lower().startswith("opacity"):
            top = max(ends, default=0) or top
    return count, top


def _in_range(
    ledger: Ledger, names: dict[str, str], limits: dict[str, int], fates: dict[str, str]
) -> pd.DataFrame:
    """Scores of the images in use, under their new names, as numbers from 0 to their limit."""
    table = ledger.table = ledger.table.rename(columns={"filename": "image", **names})
    ledger.reject_names("image")
    scores = numbers(table[list(names.values())])
    inside = (scores >= 0) & (scores <= pd.Series(limits))
    ledger.reject(~inside.all(axis=1), "{image}: a score is not a number in its range")
    ledger.follow("image", fates, "{image}: its image is in quarantine")
    return ledger.rows[["image"]].join(scores)
