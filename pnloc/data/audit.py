"""What a data folder holds, what is wrong with it, and whether a patient leaks: `data check`.

Every set is read, every image decoded, and images are compared by content (pnloc.data.duplicates)
within and across sets. A leak is a training or validation image with the content of a test image
of another patient, which no table reveals. Training leaves such patients out (pnloc.run.sets), and
also those whom the tables name as test patients.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pnloc.data import duplicates
from pnloc.data.records import (
    FATES,
    Records,
    check,
    drop_broken,
    drop_patients,
    ledger,
    split_digest,
)
from pnloc.errors import PnlocError
from pnloc.images.remarks import FLAT

PAIR_COLUMNS = [f"{what}_{side}" for side in "ab" for what in ("set", "image", "patient", "split")]
CLEAN, QUARANTINED, UNUSABLE, LEAK = 0, 1, 2, 3


@dataclass(frozen=True)
class Audit:
    """The result; `pairs` are images of the same content: PAIR_COLUMNS, bits, correlation, leak."""

    records: dict[str, Records]
    unusable: dict[str, str]  # set -> reason
    pairs: pd.DataFrame
    dropped: dict[str, int]  # set -> images of test patients, which training leaves out
    decoded: bool

    def rows(self) -> pd.DataFrame:
        """Fates of the rows: set, kind, rows, used, missing, excluded, quarantined."""
        return _concat([ledger(r) for r in self.records.values()])

    def splits(self) -> pd.DataFrame:
        """Images, patients, positives, reports and boxes per set and split.

        The row of all has the digest of the set's splits.
        """
        table = _concat([check(r) for r in self.records.values()], ["set", "split"])
        digests = {name: split_digest(r) for name, r in self.records.items() if len(r.images)}
        digest = table["set"].map(digests).where(table["split"] == "all").fillna("")
        return table.assign(digest=digest)

    def quarantine(self) -> pd.DataFrame:
        """All rows in quarantine: set, file, row, reason."""
        parts = [r.quarantine.assign(set=name) for name, r in self.records.items()]
        columns = ["set", "file", "row", "reason"]
        return _concat(parts, columns)[columns]

    def leaks(self) -> pd.DataFrame:
        """The pairs that are leaks."""
        return self.pairs[self.pairs["leak"]].reset_index(drop=True)

    def status(self) -> int:
        """Exit status: 2 a set is unusable, 1 rows are in quarantine, 3 an image leaks, else 0."""
        if self.unusable:
            return UNUSABLE
        return QUARANTINED if len(self.quarantine()) else LEAK if len(self.leaks()) else CLEAN

    def remarks(self) -> list[str]:
        """What a user should know, a sentence each."""
        remarks = [f"{name}: {note}" for name, r in self.records.items() for note in r.notes]
        fate = "training or validation images of a set's test patients are left out of training"
        remarks += [f"{name}: {count} {fate}" for name, count in self.dropped.items() if count]
        if not self.decoded:
            return [*remarks, "no image was decoded: broken images and copies were not looked for"]
        apart = int((self.pairs["patient_a"] != self.pairs["patient_b"]).sum())
        content = (
            f"{len(self.pairs)} pairs of images have the same content, {apart} of them under two "
            f"patients' names, {len(self.leaks())} of which leak from test into training"
        )
        return [*remarks, content]

    def as_dict(self) -> dict:
        """All of it as plain values, for JSON."""
        sets = {}
        for name, r in self.records.items():
            tables = {"rows": ledger(r).set_index("kind"), "splits": check(r).set_index("split")}
            rows = {part: t.drop(columns="set").to_dict("index") for part, t in tables.items()}
            sets[name] = {"access": r.access, **rows, "split_digest": split_digest(r)}
            sets[name] |= {"dropped_for_leak": self.dropped[name], "notes": r.notes}
        return {
            "status": self.status(),
            "sets": sets,
            "unusable": self.unusable,
            "quarantine": self.quarantine().to_dict("records"),
            "same_content": self.pairs.to_dict("records"),
            "remarks": self.remarks(),
        }


def audit(
    readers: dict[str, Callable[[], Records]], tested: Collection[str], decode: bool = True
) -> Audit:
    """Read sets, decode their images, and look for leaks into the test splits of `tested`.

    readers: by the name of the set. A set is unusable if its reader raises PnlocError, or if it has
    images (or else reports) of which none is used; the others are still checked.
    """
    records, unusable, thumbnails = {}, {}, {}
    for name, read in readers.items():
        try:
            records[name] = replace(read(), name=name)
        except PnlocError as error:
            unusable[name] = str(error)
            continue
        if decode:
            images = records[name].images
            small, reasons = duplicates.thumbnails(images, name)
            records[name] = drop_broken(records[name], reasons)
            thumbnails[name] = small[~images["image"].isin(reasons)]
            flat = int((np.ptp(thumbnails[name], axis=(1, 2)) < FLAT).sum())
            records[name].notes.extend([f"{flat} images are nearly of one grey"] if flat else [])
    for name, r in records.items():
        for main in ledger(r).query("rows > 0").head(1).to_dict("records"):
            fates = ", ".join(f"{main[fate]} {fate}" for fate in FATES[1:] if main[fate])
            if not main["used"]:
                unusable[name] = f"none of {main['rows']} {main['kind']} is used ({fates})"
                for row in r.quarantine.head(1).itertuples():
                    unusable[name] += f"; {row.file}: {row.reason}"
    test = [r.split("test")["patient"] for name, r in records.items() if name in tested]
    patients = set().union(*test)
    left = {name: drop_patients(r, patients, keep_split="test") for name, r in records.items()}
    dropped = {name: len(r.images) - len(left[name].images) for name, r in records.items()}
    return Audit(records, unusable, _pairs(records, thumbnails, tested, patients), dropped, decode)


def _pairs(
    records: dict[str, Records],
    thumbnails: dict[str, np.ndarray],
    tested: Collection[str],
    patients: set[str],
) -> pd.DataFrame:
    """Pairs of images of the same content in all sets."""
    columns = ["image", "patient", "split", "set"]
    images = [records[name].images.assign(set=name)[columns] for name in thumbnails]
    images = _concat(images, columns)
    images["trained"] = (images["split"] != "test") & ~images["patient"].isin(patients)
    images["tested"] = (images["split"] == "test") & images["set"].isin(list(tested))
    none = np.zeros((0, duplicates.SIDE, duplicates.SIDE), np.uint8)
    same = duplicates.pairs(np.concatenate([none, *thumbnails.values()]))
    sides = [images.iloc[same[s]].reset_index(drop=True).add_suffix(f"_{s}") for s in "ab"]
    table = pd.concat([*sides, same[["bits", "correlation"]].round(4)], axis=1)
    leak = table["trained_a"] & table["tested_b"] | table["trained_b"] & table["tested_a"]
    return table[[*PAIR_COLUMNS, "bits", "correlation"]].assign(leak=leak.astype(bool))


def _concat(parts: list[pd.DataFrame], columns: Collection[str] = ()) -> pd.DataFrame:
    """One table of all parts that have rows; an empty one with the columns where none has."""
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))
