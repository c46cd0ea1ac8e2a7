"""Decoding through a file: which images stay, in which order, on how much disk."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from trees import COVID, draw, sound_covid, sound_nih, sound_rsna

from pnloc.data import decode
from pnloc.errors import PnlocError
from pnloc.run.run import open_run


def test_images_that_stay_move_to_the_front_in_their_order(monkeypatch):
    monkeypatch.setattr(decode, "PIECE", 3)
    rng = np.random.default_rng(0)
    pixels, kept = rng.integers(0, 255, (11, 2, 2), dtype=np.uint8), rng.random(11) < 0.5
    expected = pixels[kept].copy()
    assert 0 < kept.sum() < 11
    np.testing.assert_array_equal(decode.to_the_front(pixels, kept), expected)
    assert decode.to_the_front(pixels[:0], kept[:0]).shape == (0, 2, 2)


def test_scratch_space_is_removed_even_after_an_error(tmp_path):
    with decode.scratch(tmp_path, 3, 4) as room:
        assert room.shape == (3, 4, 4) and len(list(tmp_path.iterdir())) == 1
    with decode.scratch(tmp_path, 0, 4) as room:
        assert len(room[:0]) == 0
    with pytest.raises(RuntimeError), decode.scratch(tmp_path, 3, 4):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_an_error_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    message = r"scratch.bin: cannot be written \(1 MiB are needed\)"
    with pytest.raises(PnlocError, match=message), decode.scratch(tmp_path, 16, 256):
        pass


def test_decoded_images_are_as_many_as_the_rows_and_read_through_a_memory_map(smoke):
    sets = open_run("smoke", artifacts=str(smoke)).sets
    pixels, images = sets.pixels("demo-covid19"), sets.records("demo-covid19").images
    folder = Path(sets.decoded("demo-covid19")[0])
    assert not (folder / "scratch.bin").exists()
    assert pixels.shape[0] == len(images) and pixels.any((1, 2)).all()
    if not Path("/proc/self/maps").exists():
        pytest.skip("memory maps are listed on Linux only")
    assert str(folder / "pixels.safetensors") in Path("/proc/self/maps").read_text()


def test_what_follows_depends_on_the_images_and_not_on_the_times_of_their_files(tmp_path):
    for make in (sound_rsna, sound_nih, sound_covid):
        make(tmp_path)

    def fingerprint() -> tuple[str, bool]:
        run = open_run("public", str(tmp_path), artifacts=str(tmp_path / "a"))
        return run.sets.decoded("covid19")[1], "decode-covid19" in run.cache.ran

    first, _ = fingerprint()
    assert fingerprint() == (first, False)
    image = tmp_path / COVID / "images" / "a.png"
    os.utime(image, (1, 1))
    assert fingerprint() == (first, True), "decoded again, to the same images"
    draw(image, 40, 30, seed=99)
    assert fingerprint()[0] != first
