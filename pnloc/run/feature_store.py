"""Regions of a set too large for memory: files of some thousand images each, read row by row through memory maps.

`build` makes them: several processes share the shards, a shard that is whole is not made again. `Shards` has
the surface of `pnloc.regions.Regions` (len, rows, the same fields), so that training does not see which one it reads; it holds
no features in memory. A set of at most SMALL images ends as the one file that `Regions.save` writes.
"""

import json
import mmap
from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnloc import parallel
from pnloc.errors import PnlocError
from pnloc.files import read_json, write_json
from pnloc.parallel import bar
from pnloc.regions import Regions

LENGTH = (
    2048  # images per shard; a multiple of the detector's batch, so that shards change no number
)
SMALL = 16_384  # images; up to here a set is kept as one file and held in memory
NAMES = [field.name for field in fields(Regions)]
_TYPES = {"F32": np.float32, "F16": np.float16, "BOOL": np.bool_}
_FOLDER, _WHOLE, _INDEX = "parts", "regions.safetensors", "shards.json"


def build(
    folder: str | Path,
    count: int,
    make: Callable[[slice], Regions],
    *,
    length: int = LENGTH,
    small: int = SMALL,
) -> None:
    """Regions of `count` images into `folder`: make(rows) gives those of some consecutive ones.

    A shard that an interrupted call left is kept, so a folder belongs to one detector and one set. The shards are shared
    between processes.
    """
    folder = Path(folder)
    pieces = [slice(start, min(start + length, count)) for start in range(0, max(count, 1), length)]
    paths = [folder / _FOLDER / f"{number:05d}.safetensors" for number in range(len(pieces))]
    mine = range(parallel.index(), len(pieces), parallel.count())
    for number in bar(mine, desc="shards", unit="shard", shown=len(mine) > 1):
        if not paths[number].exists():
            make(pieces[number]).save(paths[number])
    parallel.wait()
    if parallel.main():
        if count <= small:
            join([(Regions.load(path), None) for path in paths]).save(folder / _WHOLE)
            for path in (folder / _FOLDER).iterdir():
                path.unlink()
            (folder / _FOLDER).rmdir()
        else:
            for path in set((folder / _FOLDER).iterdir()) - set(
                paths
            ):  # half written, of a process that was killed
                path.unlink()
            write_json(
                folder / _INDEX,
                {"images": count, "length": length, "files": [p.name for p in paths]},
            )
    parallel.wait()


def load(folder: str | Path) -> "Regions | Shards":
    """What `build` wrote. Raises PnlocError, naming the file, where a shard is missing or is none."""
    folder = Path(folder)
    return Shards(folder) if (folder / _INDEX).exists() else Regions.load(folder / _WHOLE)


class Column:
    """One field of all images, on disk: its shape, and rows of it as tensors."""

    def __init__(self, shards: "Shards", name: str, shape: tuple[int, ...]) -> None:
        self._shards, self._name, self.shape = shards, name, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: object) -> Tensor:
        """Rows as a tensor: index is a row number, a slice, or an array of row numbers or of booleans."""
        rows = np.arange(len(self))[
            np.asarray(index) if not isinstance(index, slice | int) else index
        ]
        found = self._shards.read([self._name], np.atleast_1d(rows))[0]
        return found[0] if np.ndim(rows) == 0 else found


class Shards:
    """Regions of N images in memory-mapped shards. `features` and `mask` are read when rows are asked for; the
    rest (some 400 bytes an image at R = 20) is read whole when it is first used.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        index = read_json(folder / _INDEX)
        self._images, self._length = int(index["images"]), int(index["length"])
        self._files = [_Shard(folder / _FOLDER / name) for name in index["files"]]
        for number, file in enumerate(self._files):
            expected = min(self._length, self._images - number * self._length)
            if any(len(file.columns[name]) != expected for name in NAMES):
                raise PnlocError(
                    f"{file.path}: not {expected} images; delete this file and run again"
                )

    def __len__(self) -> int:
        return self._images

    def column(self, name: str) -> Column:
        """One field of all images, left on disk."""
        return Column(self, name, (self._images, *self._files[0].columns[name].shape[1:]))

    @cached_property
    def features(self) -> Column:
        """[N, R, F] float16, on disk."""
        return self.column("features")

    @cached_property
    def mask(self) -> Column:
        """[N, S/8, S/8] float16, on disk."""
        return self.column("mask")

    @cached_property
    def boxes(self) -> Tensor:
        """[N, R, 4] float32, in memory."""
        return self.column("boxes")[:]

    @cached_property
    def scores(self) -> Tensor:
        """[N, R] float32, in memory."""
        return self.column("scores")[:]

    @cached_property
    def valid(self) -> Tensor:
        """[N, R] bool, in memory."""
        return self.column("valid")[:]

    @cached_property
    def image(self) -> Tensor:
        """[N] float32, in memory."""
        return self.column("image")[:]

    def rows(self, index: object) -> Regions:
        """The regions of some of the images, in memory."""
        rows = np.asarray(index, dtype=np.int64).reshape(-1)
        return Regions(*self.read(NAMES, np.where(rows < 0, rows + len(self), rows)))

    def read(self, names: list[str], rows: np.ndarray) -> list[Tensor]:
        """Rows of some fields, copied into memory.

        Each shard is let go of once it has been read, so that never more than one is resident; the system keeps its pages
        for the next reading as long as nobody else needs the memory.
        """
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"row {rows.max()} of {len(self)} images")
        like = self._files[0].columns
        found = [
            np.empty((len(rows), *like[name].shape[1:]), dtype=like[name].dtype) for name in names
        ]
        of, order = rows // self._length, np.argsort(rows, kind="stable")
        here = {shard: order[of[order] == shard] for shard in np.unique(of)}
        if "features" in names:
            for shard, chosen in here.items():
                self._files[shard].fetch(rows[chosen] - shard * self._length)
        for shard, chosen in here.items():
            for name, column in zip(names, found, strict=True):
                column[chosen] = self._files[shard].columns[name][
                    rows[chosen] - shard * self._length
                ]
            self._files[shard].release()
        return [torch.from_numpy(column) for column in found]


class _Shard:
    """One safetensors file as NumPy arrays over a memory map: an 8-byte length, a JSON header, then the data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            start = 8 + int.from_bytes(self._map[:8], "little")
            header = json.loads(self._map[8:start])
            self.columns = {name: self._array(header[name], start) for name in NAMES}
        except FileNotFoundError:
            raise PnlocError(
                f"{path}: no such file; delete its stage's folder and run again"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise PnlocError(
                f"{path}: not a shard of regions ({error}); delete it and run again"
            ) from None
        features = self.columns["features"]
        self._features = (
            start + header["features"]["data_offsets"][0],
            features.nbytes // max(len(features), 1),
        )

    def _array(self, entry: dict, start: int) -> np.ndarray:
        kind, shape = np.dtype(_TYPES[entry["dtype"]]), entry["shape"]
        begin, end = entry["data_offsets"]
        if end - begin != int(np.prod(shape)) * kind.itemsize or start + end > len(self._map):
            raise ValueError("shorter than its header says")
        return np.frombuffer(self._map, kind, int(np.prod(shape)), start + begin).reshape(shape)

    def fetch(self, rows: np.ndarray) -> None:
        """Ask the system to read these rows' features at once rather than page by page, where it takes such advice."""
        if hasattr(mmap, "MADV_WILLNEED") and len(rows) < len(self.columns["features"]) // 4:
            first, size = self._features
            for row in rows:
                begin = (first + int(row) * size) // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, begin, first + (int(row) + 1) * size - begin)

    def release(self) -> None:
        """Unmap what was read; a later reading maps it again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Chosen:
    """Some rows of several sets as one; what is on disk stays there."""

    def __init__(self, parts: list[tuple["Regions | Shards", np.ndarray]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(rows) for _, rows in parts])
        self.features = _Shape((len(self), *parts[0][0].features.shape[1:]))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, index: object) -> Regions:
        """The regions of some of the images, in the order of `index`."""
        index = np.asarray(index, dtype=np.int64).reshape(-1)
        of = np.searchsorted(self._ends, index, side="right")
        order, found = [], []
        for number in np.unique(of):
            regions, rows = self._parts[number]
            here = np.flatnonzero(of == number)
            order.append(here)
            found.append(regions.rows(rows[index[here] - (self._ends[number] - len(rows))]))
        if not found:
            return self._parts[0][0].rows(index)
        back = np.argsort(np.concatenate(order))
        return _concatenate(found) if len(found) == 1 else _concatenate(found).rows(back)


class _Shape:
    """Stands for features that are read only when rows are asked for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def _concatenate(parts: list[Regions]) -> Regions:
    return Regions(*(torch.cat([getattr(part, name) for part in parts]) for name in NAMES))


def join(parts: list[tuple["Regions | Shards", np.ndarray | None]]) -> "Regions | Chosen":
    """Some rows (None: all) of several sets as one: in memory if all of them are, else left on disk."""
    parts = [
        (regions, np.arange(len(regions)) if rows is None else np.asarray(rows))
        for regions, rows in parts
    ]
    if all(isinstance(regions, Regions) for regions, _ in parts):
        return _concatenate([regions.rows(rows) for regions, rows in parts])
    return Chosen(parts)
