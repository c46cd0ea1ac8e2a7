"""Regions of a set on disk: a NumPy file of records, one per image, for each slice of the set.

`build` makes the slices that are missing, so that several processes can share the work and an
interrupted one continues where it stopped. `Store` maps the files into memory and reads only the
rows it is asked for, however large the set.
"""

import mmap
from collections.abc import Callable
from dataclasses import fields
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from pnloc import parallel
from pnloc.errors import PnlocError
from pnloc.files import atomic
from pnloc.regions import Regions

# Images per slice; a multiple of the detector's batch, so that slices change no number.
LENGTH = 2048


def _paths(folder: Path, count: int, length: int) -> list[Path]:
    """The files of the slices of `count` images; one, if there is no image."""
    return [folder / f"{start // length:05d}.npy" for start in range(0, max(count, 1), length)]


def build(folder: Path, count: int, make: Callable[[slice], Regions], length: int = LENGTH) -> None:
    """Write the regions of `count` images into `folder`; make(rows) returns those of a slice.

    Slices finished by an interrupted call are not made again, so a folder belongs to one detector
    and one set. Raises PnlocError if the disk is full.
    """
    paths = _paths(folder, count, length)
    mine = range(parallel.index(), len(paths), parallel.count())
    for number in parallel.bar(mine, desc="slices", unit="slice", shown=len(mine) > 1):
        if not paths[number].exists():
            start = number * length
            _write(paths[number], make(slice(start, min(start + length, count))))
    parallel.wait()


def _write(path: Path, regions: Regions) -> None:
    parts = {field.name: getattr(regions, field.name).numpy() for field in fields(regions)}
    kinds = [(name, part.dtype, part.shape[1:]) for name, part in parts.items()]
    records, content = np.empty(len(regions), kinds), BytesIO()
    for name, part in parts.items():
        records[name] = part
    np.save(content, records)
    with atomic(path) as temporary:
        temporary.write_bytes(content.getbuffer())


class Store:
    """Regions of N images on disk: those of a set, or rows of several sets (`join`).

    slices  memory maps of records
    places  [N, 2], the number of each image's slice, and its row there
    """

    def __init__(self, slices: list[np.memmap], places: np.ndarray) -> None:
        self.slices, self.places = slices, places

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, index: object) -> Regions:
        """The regions of some images, in memory; the pages that were read are released."""
        source, row = self.places[np.asarray(index, dtype=np.int64).reshape(-1)].T
        records = np.empty(len(row), self.slices[0].dtype)
        for number in np.unique(source):
            here = source == number
            records[here] = self.slices[number][row[here]]
            self.slices[number]._mmap.madvise(mmap.MADV_DONTNEED)
        return Regions(*(torch.from_numpy(records[name].copy()) for name in records.dtype.names))


def load(folder: Path, count: int, length: int = LENGTH) -> Store:
    """The store of `count` images in a folder of `build`.

    A missing or damaged file raises PnlocError.
    """
    slices = []
    for path in _paths(folder, count, length):
        try:
            slices.append(np.load(path, mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            message = f"{path}: cannot be read ({error}); delete its folder and run again"
            raise PnlocError(message) from None
    return Store(slices, np.stack(np.divmod(np.arange(count), length), axis=1))


def join(parts: list[tuple[Store, np.ndarray]]) -> Store:
    """Rows of several stores as one store."""
    slices, places = [], []
    for store, rows in parts:
        places.append(store.places[rows] + (len(slices), 0))
        slices += store.slices
    return Store(slices, np.concatenate(places))
