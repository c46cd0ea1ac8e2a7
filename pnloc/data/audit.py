"""What a data folder holds, what is wrong with it, and whether a patient leaks: behind `python -m pnloc data check`.

Every set is read, every image decoded, and images are compared by content (pnloc.data.duplicates) within and across sets. A leak is a training or
validation image that is, by content, a test image of a patient of another name: the tables did not tell. Training leaves such patients out
(pnloc.run.run), as it does those of whom the tables do tell.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pnloc.data import duplicates
from pnloc.data.records import (
    QUARANTINE_COLUMNS,
    Records,
    check,
    drop_patients,
    ledger,
    split_digest,
)
from pnloc.errors import PnlocError

PAIR_COLUMNS = [f"{what}_{side}" for side in "ab" for what in ("set", "image", "patient", "split")]
# Table of Records -> column that a row of a kind fills -> that kind in `tally`.
MARKS = {
    "boxes": {"image": "boxes"},
    "scores": {"opacity": "severity scores", "brixia": "brixia scores"},
}
CLEAN, QUARANTINED, UNUSABLE, LEAK = 0, 1, 2, 3


@dataclass(frozen=True)
class Audit:
    """The result; `pairs` are images of the same content: PAIR_COLUMNS, bits, correlation, leak."""

    records: dict[str, Records]
    unusable: dict[str, str]  # set -> why
    pairs: pd.DataFrame
    dropped: dict[
        str, int
    ]  # set -> training and validation images of test patients, which training leaves out
    decoded: bool

    def rows(self) -> pd.DataFrame:
        """Where the rows of every table went: set, kind, rows, used, missing, excluded, quarantined."""
        return _concat([ledger(r) for r in self.records.values()])

    def splits(self) -> pd.DataFrame:
        """Images, patients, positives, reports and boxes per set and split, and the digest of each set's splits."""
        table = _concat([check(r) for r in self.records.values()])
        digests = {name: split_digest(r) for name, r in self.records.items() if len(r.images)}
        first = table["split"] == "all" if len(table) else []
        return table.drop(
            columns=["rows", "missing", "excluded", "quarantined"], errors="ignore"
        ).assign(
            digest=[
                digests.get(s, "") if f else ""
                for s, f in zip(table.get("set", []), first, strict=True)
            ]
        )

    def quarantine(self) -> pd.DataFrame:
        """All rows in quarantine: set, file, row, reason."""
        parts = [
            r.quarantine.assign(set=name) for name, r in self.records.items() if len(r.quarantine)
        ]
        return _concat(parts, ["set", *QUARANTINE_COLUMNS])[["set", *QUARANTINE_COLUMNS]]

    def leaks(self) -> pd.DataFrame:
        """The pairs that are leaks."""
        return self.pairs[self.pairs["leak"]].reset_index(drop=True)

    def status(self) -> int:
        """Exit status: 2 a set is unusable, else 1 something is in quarantine, else 3 an image leaks by its content, else 0."""
        if self.unusable:
            return UNUSABLE
        return QUARANTINED if len(self.quarantine()) else LEAK if len(self.leaks()) else CLEAN

    def remarks(self) -> list[str]:
        """What a reader should know, a sentence each."""
        said = [f"{name}: {note}" for name, r in self.records.items() for note in r.notes]
        said += [
            f"{name}: {n} training or validation images are of test patients of a set and are left out of training"
            for name, n in self.dropped.items()
            if n
        ]
        if self.decoded:
            apart = int((self.pairs["patient_a"] != self.pairs["patient_b"]).sum())
            said.append(
                f"{len(self.pairs)} pairs of images have the same content, {apart} of them under two patients' names, "
                f"{len(self.leaks())} of which leak from test into training"
            )
        else:
            said.append(
                "no image was decoded: images cut short, and the same image under two names, were not looked for"
            )
        return said

    def as_dict(self) -> dict:
        """All of it as plain values, for JSON."""
        rows, splits = self.rows(), self.splits()
        sets = {}
        for name, records in self.records.items():
            counted = rows[rows["set"] == name].drop(columns="set").set_index("kind")
            parted = (
                splits[splits["set"] == name].drop(columns=["set", "digest"]).set_index("split")
            )
            sets[name] = {
                "access": records.access,
                "rows": counted.to_dict("index"),
                "splits": parted.to_dict("index"),
                "split_digest": split_digest(records),
                "dropped_for_leak": self.dropped.get(name, 0),
                "notes": records.notes,
            }
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
    """Read sets (by the names that they shall have), decode their images, and look for leaks into the test splits of `tested`.

    A set whose reader raises PnlocError is unusable; the others are still looked at.
    """
    records, unusable, thumbnails = {}, {}, {}
    for name, read in readers.items():
        try:
            records[name] = replace(read(), name=name)
        except PnlocError as error:
            unusable[name] = str(error)
            continue
        if decode:
            records[name], thumbnails[name] = _decoded(records[name])
    test = [r.split("test") for name, r in records.items() if name in tested]
    patients = set().union(*(set(images["patient"]) for images in test))
    dropped = {}
    for name, r in records.items():
        kept = drop_patients(r, patients, keep_split="test")
        dropped[name] = len(r.images) - len(kept.images)
    return Audit(records, unusable, _pairs(records, thumbnails, tested, patients), dropped, decode)


def _decoded(records: Records) -> tuple[Records, np.ndarray]:
    """The records without the images that cannot be decoded, which go into quarantine, and the thumbnails of the others."""
    images = records.images
    found, bad = duplicates.thumbnails(images, records.name)
    if not bad:
        return records, found
    places = list(bad)
    paths = images["path"].iloc[places]
    reasons = [
        reason.removeprefix(f"{path}: ") for path, reason in zip(paths, bad.values(), strict=True)
    ]
    more = pd.DataFrame({"file": list(paths), "row": 0, "reason": reasons})
    good = np.setdiff1d(np.arange(len(images)), places)
    inside = set(images["image"].iloc[good])
    counts = dict(records.counts)
    counts["used"] -= len(bad)
    counts["quarantined"] += len(bad)
    tally, parts = {k: dict(v) for k, v in records.tally.items()}, {}
    for (
        kind,
        marks,
    ) in MARKS.items():  # a box or score of an image that cannot be decoded cannot be used either
        for mark, name in marks.items():
            table = getattr(records, kind)
            lost = (
                0
                if mark not in table
                else int((table[mark].notna() & ~table["image"].isin(inside)).sum())
            )
            if name in tally:
                tally[name]["used"] -= lost
                tally[name]["quarantined"] += lost
        parts[kind] = table[table["image"].isin(inside)].reset_index(drop=True)
    clean = replace(
        records,
        images=images.iloc[good].reset_index(drop=True),
        counts=counts,
        tally=tally,
        quarantine=_concat([records.quarantine, more], QUARANTINE_COLUMNS),
        **parts,
    )
    return clean, found[good]


def _pairs(
    records: dict[str, Records],
    thumbnails: dict[str, np.ndarray],
    tested: Collection[str],
    patients: set[str],
) -> pd.DataFrame:
    """Pairs of images of the same content in all sets."""
    columns = ["image", "patient", "split"]
    images = _concat(
        [records[n].images[columns].assign(set=n) for n in thumbnails], [*columns, "set"]
    )
    shape = (0, duplicates.SIDE, duplicates.SIDE)
    found = duplicates.pairs(np.concatenate([np.zeros(shape, np.uint8), *thumbnails.values()]))
    sides = [images.iloc[found[s]].reset_index(drop=True).add_suffix(f"_{s}") for s in "ab"]
    table = pd.concat([*sides, found[["bits", "correlation"]].round(4)], axis=1)
    leak = np.zeros(len(table), dtype=bool)
    for one, other in ("ab", "ba"):
        trained = (table[f"split_{one}"] != "test") & ~table[f"patient_{one}"].isin(patients)
        leak |= (
            trained & (table[f"split_{other}"] == "test") & table[f"set_{other}"].isin(list(tested))
        ).to_numpy(bool)
    return table[[*PAIR_COLUMNS, "bits", "correlation"]].assign(leak=leak)


def _concat(parts: list[pd.DataFrame], columns: list[str] | None = None) -> pd.DataFrame:
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns or [])
