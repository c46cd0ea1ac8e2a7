"""A set's images, decoded once into squares of the model's size; those that cannot be are quarantined, those of test patients left out.

The squares are written to a file and read through a memory map: the 377,110 images of MIMIC-CXR are 25 GB at 256 pixels.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data import duplicates
from pnloc.data import readers as datasets
from pnloc.data.records import BOX_COLUMNS, QUARANTINE_COLUMNS, Records, drop_patients
from pnloc.errors import PnlocError
from pnloc.files import unwritable
from pnloc.images import Letterbox
from pnloc.parallel import bar

PIECE = 1024  # images that are moved at once


@contextmanager
def scratch(folder: Path, count: int, side: int) -> Iterator[np.ndarray]:
    """Room for `count` images uint8 [count, side, side] in a file of `folder` that is gone afterwards, in at least one image's place.

    Raises PnlocError where the disk has not so much room.
    """
    path, size = folder / "scratch.bin", max(1, count) * side * side
    if (
        shutil.disk_usage(folder).free < size
    ):  # a map of a disk that fills up would kill the process
        raise unwritable(path, f"{size / 2**20:.0f} MiB are needed")
    try:
        yield np.memmap(path, np.uint8, "w+", shape=(max(1, count), side, side))
    finally:
        path.unlink(missing_ok=True)


def decode(records: Records, side: int, room: np.ndarray) -> tuple[Records, np.ndarray]:
    """Decode every image to uint8 [N, side, side], the first N of `room`; what cannot be decoded moves into the quarantine table."""
    count, bad = 0, {}
    rows = zip(records.images.itertuples(), datasets.decode(records.images, side), strict=True)
    for row, found in bar(
        rows, total=len(records.images), desc=f"decode {records.name}", unit="image"
    ):
        if isinstance(found, PnlocError):
            bad[row.image] = (row.path, str(found).removeprefix(f"{row.path}: "))
        else:
            room[count] = found
            count += 1
    quarantine = pd.DataFrame(
        [(path, 0, reason) for path, reason in bad.values()], columns=QUARANTINE_COLUMNS
    )
    kept = records.images[~records.images["image"].isin(bad)].reset_index(drop=True)
    boxes = records.boxes[~records.boxes["image"].isin(bad)].reset_index(drop=True)[BOX_COLUMNS]
    counts = {**records.counts, "quarantined": records.counts.get("quarantined", 0) + len(bad)}
    counts["used"] = counts.get("used", len(records.images)) - len(bad)
    whole = (
        pd.concat([records.quarantine, quarantine], ignore_index=True)
        if bad
        else records.quarantine
    )
    result = Records(
        records.name,
        records.access,
        kept,
        boxes,
        records.reports,
        whole.astype({"file": str, "reason": str}),
        counts,
        scores=records.scores[~records.scores["image"].isin(bad)].reset_index(drop=True),
        notes=records.notes,
        tally=records.tally,
    )
    return result, room[:count]


def drop_twins(
    records: Records, pixels: np.ndarray, tested: np.ndarray
) -> tuple[Records, np.ndarray]:
    """Without the training and validation images of every patient of whom one is the same image as one of `tested` (thumbnails).

    The images that stay move to the front of `pixels`.
    """
    boxes = [
        Letterbox(w, h, pixels.shape[-1])
        for w, h in records.images[["width", "height"]].itertuples(index=False)
    ]
    own = np.array(
        [duplicates.thumbnail(p, b) for p, b in zip(pixels, boxes, strict=True)], dtype=np.uint8
    )
    outside = np.flatnonzero(records.images["split"] != "test")
    copies = duplicates.copies(tested, own.reshape(-1, *tested.shape[1:])[outside])
    kept = drop_patients(
        records, set(records.images["patient"].iloc[outside[copies]]), keep_split="test"
    )
    kept.counts["dropped_as_duplicate"] = len(records.images) - len(kept.images)
    return kept, to_the_front(pixels, records.images["image"].isin(kept.images["image"]).to_numpy())


def to_the_front(pixels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Move the images of [N, S, S] that are `kept` [N] to the front, in their order and in place; these [n, S, S]."""
    count = 0
    for start in range(0, len(pixels), PIECE):
        moved = pixels[start : start + PIECE][kept[start : start + PIECE]]  # a copy of one piece
        pixels[count : count + len(moved)] = moved
        count += len(moved)
    return pixels[:count]
