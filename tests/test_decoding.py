"""Decoding through a file: what stays, in which order, in how much memory."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from pnloc.data import decode as decoding
from pnloc.errors import PnlocError
from pnloc.run.run import open_run


def test_images_that_stay_move_to_the_front_in_their_order(monkeypatch):
    monkeypatch.setattr(decoding, "PIECE", 3)
    rng = np.random.default_rng(0)
    pixels, kept = rng.integers(0, 255, (11, 2, 2), dtype=np.uint8), rng.random(11) < 0.5
    expected = pixels[kept].copy()
    assert 0 < kept.sum() < 11
    np.testing.assert_array_equal(decoding.to_the_front(pixels, kept), expected)
    assert decoding.to_the_front(pixels[:0], kept[:0]).shape == (0, 2, 2)


def test_scratch_room_is_gone_afterwards_whatever_happens(tmp_path):
    with decoding.scratch(tmp_path, 3, 4) as room:
        assert room.shape == (3, 4, 4) and len(list(tmp_path.iterdir())) == 1
    with decoding.scratch(tmp_path, 0, 4) as room:
        assert len(room[:0]) == 0
    with pytest.raises(RuntimeError), decoding.scratch(tmp_path, 3, 4):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_said_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with (
        pytest.raises(PnlocError, match=r"scratch.bin: cannot be written \(1 MiB are needed\)"),
        decoding.scratch(tmp_path, 16, 256),
    ):
        pass


def test_decoded_images_are_read_through_a_memory_map(tmp_path):
    """Nothing of the scratch file is left, and the pixels are as many as the rows."""
    run = open_run("smoke", artifacts=str(tmp_path))
    pixels, images = run.sets.pixels("demo-covid19"), run.sets.records("demo-covid19").images
    folder = Path(run.sets.decoded("demo-covid19")[0])
    assert (
        not (folder / "scratch.bin").exists()
        and pixels.shape[0] == len(images)
        and pixels.any((1, 2)).all()
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("memory maps are listed on Linux only")
    with open("/proc/self/maps") as maps:
        assert any(str(folder / "pixels.safetensors") in line for line in maps)


def test_what_follows_depends_on_the_images_and_not_on_the_times_of_their_files(tmp_path):
    def fingerprint() -> tuple[str, bool]:
        run = open_run("smoke", artifacts=str(tmp_path))
        return run.sets.decoded("demo-covid19")[1], "decode-demo-covid19" in run.cache.ran

    first, _ = fingerprint()
    assert fingerprint() == (first, False)
    one, other = sorted(
        open_run("smoke", artifacts=str(tmp_path)).sets.folder.rglob(
            "covid-chestxray-dataset/images/*.png"
        )
    )[:2]
    os.utime(one, (1, 1))
    assert fingerprint() == (first, True), "decoded again, to the same images"
    shutil.copyfile(other, one)
    assert fingerprint()[0] != first
