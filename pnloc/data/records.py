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
boxes    image, x1, y1, x2, y2 (pixels of the file), label (the source's own name),
         text (phrase, or '')
reports  study, text
scores   image, and one column per severity score (geographic_extent, opacity, brixia, ...),
         NaN where not scored
quarantine  file, row (1-based row of the table it came from, the header being 1; 0 for a whole
         file), reason
counts   of the image rows of the main table: rows = used + missing + excluded + quarantined
tally    the same of the other kinds of rows (boxes, scores, reports, labels, splits)
"""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from pnloc import access
from pnloc.errors import PnlocError

IMAGE_COLUMNS = ["image", "path", "patient", "study", "view", "sex", "age"]
IMAGE_COLUMNS += ["width", "height", "label", "split"]
BOX_COLUMNS = ["image", "x1", "y1", "x2", "y2", "label", "text"]
REPORT_COLUMNS = ["study", "text"]
SPLITS = ("train", "validate", "test")
FATES = ("used", "missing", "excluded", "quarantined")  # of a row: exactly one
COUNTED = ["rows", *FATES]
# Kind in `tally` -> a column that its rows fill, and the table of Records that has it.
_KINDS = {"boxes": ("image", "boxes"), "severity scores": ("opacity", "scores")}
_KINDS["brixia scores"] = ("brixia", "scores")


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
    notes: list[str] = field(default_factory=list)  # what a user should know, a sentence each
    tally: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.access == access.CREDENTIALED:
            access.hold(self.name, self.images)

    def split(self, name: str) -> pd.DataFrame:
        """The image rows of one split."""
        if name not in SPLITS:
            raise PnlocError(f"unknown split '{name}'; use one of {', '.join(SPLITS)}")
        return self.images[self.images["split"] == name].reset_index(drop=True)

    def only(self, rows: pd.Series) -> "Records":
        """The records of some image rows (boolean), with their boxes and scores."""
        images = self.images[rows].reset_index(drop=True)
        boxes, scores = (t[t["image"].isin(images["image"])] for t in (self.boxes, self.scores))
        own = {"boxes": boxes.reset_index(drop=True), "scores": scores.reset_index(drop=True)}
        return replace(self, images=images, counts=dict(self.counts), **own)


def patient_share(patient: str, seed: str) -> float:
    """A number from 0 to 1 that depends on patient and seed alone: 8 bytes of their SHA-256."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{patient}".encode()).digest()[:8], "big") / 2**64


def assign_splits(
    patients: pd.Series, seed: str, fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
) -> pd.Series:
    """A split for each row, by a hash of its patient; fractions are those of `SPLITS`."""
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise PnlocError(f"fractions of train, validate and test must add up to 1, not {fractions}")
    shares = {patient: patient_share(patient, seed) for patient in patients.unique()}
    places = np.digitize(patients.map(shares).astype(float), np.cumsum(fractions[:2]))
    return pd.Series(np.take(SPLITS, places), patients.index, name=patients.name, dtype=str)


def drop_patients(records: Records, patients: set[str], keep_split: str = "") -> Records:
    """The records without the images of some patients; images of `keep_split` stay."""
    images = records.images
    return records.only(~images["patient"].isin(patients) | (images["split"] == keep_split))


def drop_broken(records: Records, reasons: dict[str, str]) -> Records:
    """The records without images (name -> reason) that cannot be decoded: they are quarantined.

    In the counts their boxes and scores are quarantined with them.
    """
    broken = records.images["image"].isin(reasons)
    if not broken.any():
        return records
    clean, tally = records.only(~broken), {k: dict(v) for k, v in records.tally.items()}
    lost = {"images": int(broken.sum())}
    for kind, (column, table) in _KINDS.items():
        before, after = (getattr(r, table).get(column, pd.Series()) for r in (records, clean))
        lost[kind] = int(before.count() - after.count())
    for kind, counts in {"images": clean.counts, **tally}.items():
        counts["used"] -= lost.get(kind, 0)
        counts["quarantined"] += lost.get(kind, 0)
    files = records.images[broken]
    rows = pd.DataFrame({"file": files["path"], "row": 0, "reason": files["image"].map(reasons)})
    parts = [table for table in (records.quarantine, rows) if len(table)]
    return replace(clean, tally=tally, quarantine=pd.concat(parts, ignore_index=True))


def split_digest(records: Records) -> str:
    """16 hexadecimal digits of the splits alone: SHA-256 of sorted 'image<tab>split'."""
    lines = sorted(records.images["image"] + "\t" + records.images["split"])
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def ledger(records: Records) -> pd.DataFrame:
    """Where the rows of each kind went: set, kind, rows, used, missing, excluded, quarantined."""
    kinds = {"images": records.counts, **records.tally}
    rows = [{"set": records.name, "kind": kind, **counts} for kind, counts in kinds.items()]
    table = pd.DataFrame(rows).reindex(columns=["set", "kind", *COUNTED]).fillna(0)
    return table.astype(dict.fromkeys(COUNTED, int))


def check(records: Records) -> pd.DataFrame:
    """Counts in all and per split; `with report` and `with boxes` are numbers of images.

    Reports of a set without images count in the row `all`.
    """
    columns = "set,split,used,patients,positive,with report,studies with report,with boxes,boxes"
    reported = set(records.reports.loc[records.reports["text"].str.strip() != "", "study"])
    rows = []
    for split in ("all", *SPLITS):
        images = records.images if split == "all" else records.split(split)
        boxes = records.boxes[records.boxes["image"].isin(images["image"])]
        studies = reported if split == "all" else reported & set(images["study"])
        positive, read = (images["label"] == 1).sum(), images["study"].isin(reported).sum()
        counts = (len(images), images["patient"].nunique(), positive, read, len(studies))
        rows.append((records.name, split, *counts, boxes["image"].nunique(), len(boxes)))
    return pd.DataFrame(rows, columns=columns.split(","))
