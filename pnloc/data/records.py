"""Records: the tables that every data set becomes, whatever its layout on disk.

A reader (pnloc.data.readers) returns `Records`; everything downstream knows only these columns.

images   image    unique name within the set (dicom_id, patientId, Image Index, filename)
         path     absolute path of the image file
         patient  patient, unique across sets ('nih:12', 'mimic:10000032', 'covid:7')
         study    key into `reports`, or '' where there is none
         view     'AP', 'PA', 'AP Supine', ... or ''
         sex, age 'M', 'F' or ''; years or NaN
         width, height   pixels of the file
         label    1.0 pneumonia (lung opacity), 0.0 none, NaN not known
         split    'train', 'validate', 'test', or '' where the set has none of its own
boxes    image, x1, y1, x2, y2 (pixels of the file), label (the source's own name), text (phrase, or '')
reports  study, text
scores   image, and one column per severity score (geographic_extent, opacity, brixia, ...), NaN where not scored
quarantine  file, row (1-based row of the table it came from, the header being 1; 0 for a whole file), reason
counts   of the image rows of the main table: rows = used + missing + excluded + quarantined
tally    the same of the other kinds of rows (boxes, scores, reports, labels, splits), as the reader found them
"""

import hashlib
from dataclasses import dataclass, field, replace

import pandas as pd

from pnloc import access
from pnloc.errors import PnlocError

IMAGE_COLUMNS = [
    "image",
    "path",
    "patient",
    "study",
    "view",
    "sex",
    "age",
    "width",
    "height",
    "label",
    "split",
]
BOX_COLUMNS = ["image", "x1", "y1", "x2", "y2", "label", "text"]
REPORT_COLUMNS = ["study", "text"]
QUARANTINE_COLUMNS = ["file", "row", "reason"]
SPLITS = ("train", "validate", "test")
FATES = ("used", "missing", "excluded", "quarantined")  # of a row: exactly one


@dataclass
class Records:
    """One data set as tables; see the head of this module for the columns."""

    name: str
    access: str  # 'generated', 'open' or 'credentialed'
    images: pd.DataFrame
    boxes: pd.DataFrame
    reports: pd.DataFrame
    quarantine: pd.DataFrame
    counts: dict[str, int]
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["image"]))
    notes: list[str] = field(default_factory=list)  # what a reader should know, a sentence each
    tally: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.access == access.CREDENTIALED:
            access.hold(self.name, self.images)

    def split(self, name: str) -> pd.DataFrame:
        """The image rows of one split."""
        if name not in SPLITS:
            raise PnlocError(f"unknown split '{name}'; use one of {', '.join(SPLITS)}")
        return self.images[self.images["split"] == name].reset_index(drop=True)


def patient_share(patient: str, seed: str) -> float:
    """A number from 0 to 1 that depends on the patient (and `seed`) alone: the first 8 bytes of SHA-256."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{patient}".encode()).digest()[:8], "big") / 2**64


def assign_splits(
    patients: pd.Series, seed: str, fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
) -> pd.Series:
    """'train', 'validate' or 'test' for each row, by a hash of its patient; fractions are those of `SPLITS`."""
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise PnlocError(f"fractions of train, validate and test must add up to 1, not {fractions}")

    def place(patient: str) -> str:
        share = patient_share(patient, seed)
        return (
            SPLITS[0]
            if share < fractions[0]
            else SPLITS[1]
            if share < fractions[0] + fractions[1]
            else SPLITS[2]
        )

    by_patient = {patient: place(patient) for patient in patients.unique()}
    return patients.map(by_patient).astype(str)


def leaks(training: Records, testing: Records) -> set[str]:
    """Patients that `training` uses outside its test split and `testing` inside its own."""
    outside = training.images[training.images["split"] != "test"]
    return set(outside["patient"]) & set(testing.split("test")["patient"])


def drop_patients(records: Records, patients: set[str], keep_split: str = "") -> Records:
    """The records without the images of some patients; images of `keep_split` stay."""
    images = records.images
    kept = images[~images["patient"].isin(patients) | (images["split"] == keep_split)].reset_index(
        drop=True
    )
    inside = set(kept["image"])
    boxes = records.boxes[records.boxes["image"].isin(inside)].reset_index(drop=True)
    scores = records.scores[records.scores["image"].isin(inside)].reset_index(drop=True)
    return replace(records, images=kept, boxes=boxes, scores=scores, counts=dict(records.counts))


def split_digest(records: Records) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all lines 'image<tab>split', sorted: the same for the same splits."""
    lines = sorted(
        f"{i}\t{s}" for i, s in records.images[["image", "split"]].itertuples(index=False)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def ledger(records: Records) -> pd.DataFrame:
    """Where the rows of each kind went: set, kind, rows, used, missing, excluded, quarantined."""
    kinds = {"images": records.counts, **records.tally}
    table = [
        [records.name, kind, *(counts.get(c, 0) for c in ("rows", *FATES))]
        for kind, counts in kinds.items()
    ]
    return pd.DataFrame(table, columns=["set", "kind", "rows", *FATES])


def check(records: Records) -> pd.DataFrame:
    """Counts per split: set, split, used, patients, positive, with report (images), studies with report, with boxes (images), boxes;
    and, for all, what was not used. A set of reports without images has its reports in the row of all.
    """
    reported = set(records.reports.loc[records.reports["text"].str.strip() != "", "study"])
    rows = []
    for split in ("all", *SPLITS):
        images = records.images if split == "all" else records.split(split)
        boxes = records.boxes[records.boxes["image"].isin(images["image"])]
        row = {
            "set": records.name,
            "split": split,
            "used": len(images),
            "patients": images["patient"].nunique(),
            "positive": int((images["label"] == 1).sum()),
            "with report": int(images["study"].isin(reported).sum()),
            "studies with report": len(reported)
            if split == "all"
            else len(reported & set(images["study"])),
            "with boxes": boxes["image"].nunique(),
            "boxes": len(boxes),
        }
        for reason in ("rows", "missing", "excluded", "quarantined"):
            row[reason] = records.counts.get(reason, 0) if split == "all" else None
        rows.append(row)
    return pd.DataFrame(rows).astype(
        {r: "Int64" for r in ("rows", "missing", "excluded", "quarantined")}
    )
