"""The same image under two names: found when saved anew, not when only alike."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pnloc.data import duplicates
from pnloc.data.duplicates import BITS, SIDE, copies, hashes, pairs, thumbnail, thumbnails
from pnloc.images import Letterbox


def picture(seed: int, width: int = 300, height: int = 260) -> Image.Image:
    """A soft random picture; another seed is another image."""
    small = np.random.default_rng(seed).integers(20, 236, (14, 14), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def small(image: Image.Image, side: int = 128) -> np.ndarray:
    letterbox = Letterbox(image.width, image.height, side)
    return thumbnail(letterbox.image(np.asarray(image)), letterbox)


def saved(image: Image.Image, quality: int) -> Image.Image:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("L")


SAVED_ANEW = {
    "half its size": lambda i: i.resize((i.width // 2, i.height // 2)),
    "twice its size": lambda i: i.resize((i.width * 2, i.height * 2)),
    "a jpeg of quality 30": lambda i: saved(i, 30),
    "brighter": lambda i: i.point(lambda v: min(255, v + 15)),
    "less contrast": lambda i: i.point(lambda v: 40 + v * 0.7),
}


@pytest.mark.parametrize("how", SAVED_ANEW)
def test_an_image_that_is_saved_anew_is_found(how):
    images = [picture(0), picture(1), SAVED_ANEW[how](picture(0))]
    found = pairs(np.stack([small(image) for image in images]))
    assert found[["a", "b"]].to_numpy().tolist() == [[0, 2]]
    assert found["bits"][0] <= BITS and found["correlation"][0] > 0.99


def test_neither_another_image_nor_the_mirrored_or_inverted_one_is_found():
    image = picture(0)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    other = [picture(1), mirrored, image.point(lambda v: 255 - v)]
    assert len(pairs(np.stack([small(i) for i in (image, *other)]))) == 0


def test_the_bars_of_the_square_are_not_part_of_the_image():
    wide = picture(3, 400, 200)
    assert np.abs(small(wide).astype(int) - small(wide.resize((200, 200))).astype(int)).max() <= 6


def test_none_one_and_flat_images_have_no_pairs():
    none = np.zeros((0, SIDE, SIDE), np.uint8)
    assert len(pairs(none)) == len(pairs(small(picture(0))[None])) == 0
    assert copies(none, small(picture(0))[None]).tolist() == []
    flat = np.zeros((3, SIDE, SIDE), dtype=np.uint8)
    flat[1] = 100
    assert hashes(flat).sum() == 0
    assert len(pairs(flat)) == 0


def test_copies_are_rows_of_the_second_that_are_in_the_first():
    first, second = [picture(0), picture(1)], [picture(2), picture(1), picture(2), picture(0)]
    found = copies(*(np.stack([small(i) for i in group]) for group in (first, second)))
    assert found.tolist() == [1, 3]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_the_search_finds_what_comparing_all_with_all_finds(seed, most):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (60, 256), dtype=np.uint8)
    for row in range(30, 60):  # half of them near another one
        bits[row] = bits[row - 30]
        bits[row, rng.choice(256, rng.integers(0, most + 1), replace=False)] ^= 1
    distance = (bits[:, None] != bits[None]).sum(2)
    expected = {(a, b) for a in range(60) for b in range(a + 1, 60) if distance[a, b] <= BITS}
    assert set(map(tuple, duplicates.near(bits).tolist())) == expected


def test_thumbnails_of_files_that_cannot_be_decoded_are_black_and_explained(tmp_path):
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    images = pd.DataFrame({"image": ["a", "b"], "path": paths}).assign(width=300, height=260)
    found, bad = thumbnails(images)
    assert found.shape == (2, SIDE, SIDE) and found[0].std() > 0 and found[1].max() == 0
    assert list(bad) == ["b"]
