"""Regions of a set on disk: one NumPy file per field of `pnloc.regions.Regions`.

`build` fills the files slice by slice and marks finished slices, so that several processes can
share the work and an interrupted one continues where it stopped. `Store` maps the files into memory
and reads only the rows it is asked for, however large the set.
"""

import mmap
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from pnloc import parallel
from pnloc.errors import PnlocError
from pnloc.files import unwritable
from pnloc.regions import Regions

# Images per slice; a multiple of the detector's batch, so that slices change no number.
LENGTH = 2048
NAMES = [field.name for field in fields(Regions)]


def build(folder: Path, count: int, make: Callable[[slice], Regions], length: int = LENGTH) -> None:
    """Write the regions of `count` images into `folder`; make(rows) returns those of a slice.

    Slices finished by an interrupted call are not made again, so a folder belongs to one detector
    and one set. Raises PnlocError if the disk is full.
    """
    slices = [slice(start, min(start + length, count)) for start in range(0, max(count, 1), length)]
    markers = [folder / "slices" / f"{number:05d}" for number in range(len(slices))]
    if parallel.main() and not markers[0].exists():
        markers[0].parent.mkdir(parents=True, exist_ok=True)
        first = make(slices[0])
        for name in NAMES:
            field = getattr(first, name).numpy()
            open_memmap(folder / f"{name}.npy", "w+", field.dtype, (count, *field.shape[1:]))
        _write(folder, 0, first)
        markers[0].touch()
    parallel.wait()
    mine = range(parallel.index(), len(slices), parallel.count())
    for number in parallel.bar(mine, desc="slices", unit="slice", shown=len(mine) > 1):
        if not markers[number].exists():
            _write(folder, slices[number].start, make(slices[number]))
            markers[number].touch()
    parallel.wait()


def _write(folder: Path, start: int, regions: Regions) -> None:
    """Write a slice by file, not by map: on a full disk, a write to a map kills the process."""
    for name in NAMES:
        path = folder / f"{name}.npy"
        field = open_memmap(path, "r")
        try:
            with open(path, "r+b") as file:
                file.seek(field.offset + start * field.strides[0])
                file.write(getattr(regions, name).numpy().tobytes())
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(path, error.strerror) from None


class Store:
    """Regions of N images on disk: those of a set, or rows of several sets (`join`).

    fields  for each set, the memory maps of its fields
    places  [N, 2], the number of each image's set, and its row there
    """

    def __init__(self, fields: list[dict[str, np.memmap]], places: np.ndarray) -> None:
        self.fields, self.places = fields, places

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, index: object) -> Regions:
        """The regions of some images, in memory; the pages that were read are released."""
        index = np.asarray(index, dtype=np.int64).reshape(-1)
        source, row = self.places[index].T
        parts = {}
        for name, like in self.fields[0].items():
            part = np.empty((len(index), *like.shape[1:]), like.dtype)
            for number in np.unique(source):
                field, here = self.fields[number][name], source == number
                part[here] = field[row[here]]
                field._mmap.madvise(mmap.MADV_DONTNEED)
            parts[name] = torch.from_numpy(part)
        return Regions(**parts)


def load(folder: Path) -> Store:
    """The store in a folder of `build`; a missing or damaged file raises PnlocError."""
    maps = {}
    for name in NAMES:
        path = folder / f"{name}.npy"
        try:
            maps[name] = open_memmap(path, "r")
        except (OSError, ValueError) as error:
            message = f"{path}: cannot be read ({error}); delete its folder and run again"
            raise PnlocError(message) from None
    rows = np.arange(len(maps["image"]))
    return Store([maps], np.stack([np.zeros_like(rows), rows], axis=1))


def join(parts: list[tuple[Store, np.ndarray]]) -> Store:
    """Rows of several stores as one store."""
    maps, places = [], []
    for store, rows in parts:
        places.append(store.places[rows] + (len(maps), 0))
        maps += store.fields
    return Store(maps, np.concatenate(places))
