"""The images of a set, decoded once into squares of the model's size.

The squares are written to a file and read through a memory map: the 377,110 images of MIMIC-CXR
are 25 GB at 256 pixels.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data.records import Records, drop_broken
from pnloc.errors import PnlocError
from pnloc.files import unwritable
from pnloc.images import load_all
from pnloc.parallel import bar

PIECE = 1024  # images moved at once
# Share by which the proportions of a file may differ from those of its row: conversions round.
SKEW = 0.02


def squares(images: pd.DataFrame, side: int) -> Iterator[np.ndarray | str]:
    """Each image row as uint8 [side, side], padded to a square, or the reason why it cannot be.

    In order, decoded ahead by threads. A file must have the proportions of its row (width, height),
    since boxes are in these pixels.
    """
    rows = images[["path", "width", "height"]].itertuples(index=False)
    for row, result in zip(rows, load_all(images["path"], side), strict=True):
        if isinstance(result, PnlocError):
            yield str(result).removeprefix(f"{row.path}: ")
            continue
        pixels, file = result
        slack = SKEW + 1 / min(file.width, file.height)
        skewed = abs(file.width * row.height / (file.height * row.width) - 1) > slack
        table = f"where its table says {row.width} x {row.height}"
        yield f"{file.width} x {file.height} pixels, {table}" if skewed else pixels


@contextmanager
def scratch(folder: Path, count: int, side: int) -> Iterator[np.ndarray]:
    """Room for images uint8 [max(1, count), side, side] in a temporary file of `folder`.

    Raises PnlocError where the disk is too full: writing to the map would then kill the process.
    """
    path, size = folder / "scratch.bin", max(1, count) * side * side
    if shutil.disk_usage(folder).free < size:
        raise unwritable(path, f"{size / 2**20:.0f} MiB are needed")
    try:
        yield np.memmap(path, np.uint8, "w+", shape=(max(1, count), side, side))
    finally:
        path.unlink(missing_ok=True)


def decode(records: Records, side: int, room: np.ndarray) -> tuple[Records, np.ndarray]:
    """Decode every image to uint8 [N, side, side], the first N of `room`.

    An image that cannot be decoded goes into quarantine; the records are those of the other N.
    """
    images, reasons, count = records.images, {}, 0
    decoded = bar(
        squares(images, side), total=len(images), desc=f"decode {records.name}", unit="image"
    )
    for name, square in zip(images["image"], decoded, strict=True):
        if isinstance(square, str):
            reasons[name] = square
        else:
            room[count] = square
            count += 1
    return drop_broken(records, reasons), room[:count]


def to_the_front(pixels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Move the images [N, S, S] with `kept` [N] to the front, in order; return them [n, S, S]."""
    count = 0
    for start in range(0, len(pixels), PIECE):
        moved = pixels[start : start + PIECE][kept[start : start + PIECE]]  # a copy of one piece
        pixels[count : count + len(moved)] = moved
        count += len(moved)
    return pixels[:count]
