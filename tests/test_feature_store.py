"""Regions on disk read as those in memory do; finished slices stay; a damaged file is named."""

import errno
import os
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import random_regions

from pnloc.config import DetectorConfig, RegionConfig
from pnloc.detector import Detector
from pnloc.errors import PnlocError
from pnloc.regions import Regions, concatenate, extract
from pnloc.run.feature_store import Store, build, join, load

COUNT = 23
SOME, OTHER = random_regions(COUNT), random_regions(9, seed=1)


def equal(one: Regions, other: Regions) -> bool:
    return all(map(torch.equal, astuple(one), astuple(other)))


def stored(folder: Path, regions: Regions, length: int = 5) -> Store:
    every = np.arange(len(regions))
    build(folder, len(regions), lambda rows: regions.rows(every[rows]), length)
    return load(folder, len(regions), length)


@pytest.mark.parametrize("rows", [[0], [22, 0, 7, 7], [-1, 4, 5], [], range(COUNT)], ids=str)
def test_rows_are_those_of_the_regions_in_memory(rows, tmp_path):
    store = stored(tmp_path, SOME)
    assert len(store) == COUNT and equal(store.rows(rows), SOME.rows(list(rows)))
    assert equal(store.rows(rows), SOME.rows(list(rows))), "and can be read again"
    with pytest.raises(IndexError):
        store.rows([COUNT])


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_set_may_be_small_or_empty(count, tmp_path):
    assert equal(stored(tmp_path, random_regions(count)).rows(range(count)), random_regions(count))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_no_page_stays_resident_after_reading(tmp_path):
    store = stored(tmp_path, SOME)
    store.rows(range(COUNT))
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = str(tmp_path) in line
        elif inside and line.startswith("Rss:"):
            resident += int(line.split()[1])
    assert resident == 0


def test_an_interrupted_build_continues_where_it_stopped(tmp_path):
    begun, stops = [], [10]

    def make(rows):
        if rows.start in stops:
            raise KeyboardInterrupt
        begun.append(rows.start)
        return SOME.rows(np.arange(COUNT)[rows])

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, COUNT, make, 5)
    stops.clear()
    build(tmp_path, COUNT, make, 5)
    assert begun == [0, 5, 10, 15, 20]
    assert equal(load(tmp_path, COUNT, 5).rows(range(COUNT)), SOME)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 200, "short"], ids=str)
def test_a_file_that_is_missing_or_damaged_is_named(content, tmp_path):
    stored(tmp_path, SOME)
    path = tmp_path / "00001.npy"
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[:-10] if content == "short" else content)
    with pytest.raises(PnlocError, match=r"00001\.npy: .* run again") as caught:
        load(tmp_path, COUNT, 5)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PnlocError, match=r"00000\.npy: cannot be written \(No space left"):
        stored(tmp_path, SOME)


def test_rows_of_several_sets_join(tmp_path):
    stores = [stored(tmp_path / "one", SOME), stored(tmp_path / "two", OTHER)]
    rows = [np.array([4, 0, 22]), np.array([8, 8, 1])]
    joined = join(list(zip(stores, rows, strict=True)))
    memory = concatenate([SOME.rows(rows[0]), OTHER.rows(rows[1])])
    for index in ([5, 0, 3, 3, 1], []):
        assert equal(joined.rows(index), memory.rows(index)), index
    again = join([(stores[0], np.array([7])), (joined, np.array([3, 0]))])
    both = concatenate([SOME.rows([7]), memory.rows([3, 0])])
    assert equal(again.rows(range(3)), both), "joined ones, too"


def test_slices_change_no_region(tmp_path):
    torch.manual_seed(0)
    detector = Detector(DetectorConfig(side=64, width=8, pyramid=8)).eval()
    images = np.random.default_rng(0).integers(0, 255, (9, 64, 64), dtype=np.uint8)
    config = RegionConfig(count=6)
    build(tmp_path, 9, lambda rows: extract(detector, images[rows], config, batch=4), 4)
    whole = extract(detector, images, config, batch=4)
    assert equal(load(tmp_path, 9, 4).rows(range(9)), whole)
