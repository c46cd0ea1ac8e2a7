"""Boxes move with the pixels into the square and back; many files come in order."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_images import RAMP, save_dicom

from pnloc.errors import PnlocError
from pnloc.images import Letterbox, load, load_all


def test_letterbox_by_hand():
    wide, tall = Letterbox(200, 100, 50), Letterbox(100, 200, 400)
    assert (wide.scale, wide.offset, tall.offset) == (0.25, (0, 12.5), (100, 0))
    boxes = wide.boxes([[0, 0, 200, 100], [40, 20, 80, 60]])
    assert boxes.tolist() == [[0, 12.5, 50, 37.5], [10, 17.5, 20, 27.5]]
    assert tall.boxes([[10, 20, 50, 100]]).tolist() == [[120, 40, 200, 200]]
    back = wide.inverse([[-5, 0, 25, 50], [30, 40, 60, 49]])
    assert back.tolist() == [[0, 0, 100, 100], [120, 100, 200, 100]], "the bars are clipped away"
    assert tall.boxes([]).shape == tall.inverse([]).shape == (0, 4)
    with pytest.raises(PnlocError, match="0 x 10 pixels"):
        Letterbox(0, 10, 32)


EXTENT, SIDE = st.integers(1, 5000), st.integers(1, 1024)
BOXES = st.lists(st.tuples(*[st.floats(-2, 3)] * 4), max_size=5)


@given(EXTENT, EXTENT, SIDE, BOXES)
def test_boxes_come_back_from_the_square_and_lie_in_the_image(width, height, side, shares):
    letterbox, shares = Letterbox(width, height, side), np.array(shares).reshape(-1, 4)
    boxes = shares.clip(0, 1) * [width, height, width, height]
    inside = letterbox.boxes(boxes)
    assert ((inside >= -1e-9) & (inside <= side + 1e-9)).all()
    assert np.allclose(letterbox.inverse(inside), boxes, atol=1e-6)
    back = letterbox.inverse(shares * side)
    assert (back >= 0).all() and (back <= [width, height, width, height]).all()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 48))
def test_any_proportions_fill_the_square_but_for_the_bars(width, height, side):
    letterbox = Letterbox(width, height, side)
    square = letterbox.image(np.full((height, width), 200, dtype=np.uint8))
    ys, xs = np.nonzero(square)
    assert square.shape == (side, side) and (square[ys, xs] == 200).all()
    filled = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert filled == pytest.approx(letterbox.boxes([0, 0, width, height])[0], abs=1)
    stripes = np.tile([200, 0], (128, 64)).astype(np.uint8)
    assert (Letterbox(128, 128, 64).image(stripes) == 100).all(), "the mean over areas"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".dcm"])
@pytest.mark.parametrize("size", [(300, 200), (256, 256), (140, 1000), (90, 61), (50, 50)])
def test_boxes_move_with_the_pixels(tmp_path, suffix, size):
    width, height = size
    # A bright rectangle off the middle both ways: neither a flip nor swapped axes go unseen.
    box = np.round(np.array([0.55, 0.2, 0.9, 0.45]) * [width, height, width, height]).astype(int)
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    path = tmp_path / f"a{suffix}"
    if suffix == ".dcm":
        save_dicom(path, pixels)
    else:
        Image.fromarray(pixels).save(path, **({"quality": 95} if suffix == ".jpg" else {}))
    square, letterbox = load(path, 128)
    assert letterbox == Letterbox(width, height, 128) and square.shape == (128, 128)
    ys, xs = np.nonzero(square > 127)
    bright = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    assert bright == pytest.approx(letterbox.boxes(box)[0], abs=1.01)
    assert letterbox.inverse(bright)[0] == pytest.approx(box, abs=1.5 / letterbox.scale)


# Many files


def test_many_files_come_in_order_with_their_errors(tmp_path):
    paths = [str(tmp_path / f"{n}.png") for n in range(12)]
    for n, path in enumerate(paths):
        Image.fromarray(np.full((20, 10 + n), 8 * n, dtype=np.uint8)).save(path)
    Path(paths[7]).write_bytes(b"")
    for workers in (0, 1, 3):
        results = list(load_all(paths, 16, workers))
        assert isinstance(results[7], PnlocError) and "7.png" in str(results[7])
        for n in set(range(12)) - {7}:
            expected, letterbox = load(paths[n], 16)
            assert (results[n][0] == expected).all() and results[n][1] == letterbox
    assert list(load_all([], 16)) == []


def test_files_are_decoded_ahead_and_only_a_few(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    paths = iter([str(tmp_path / "a.png")] * 100)
    next(load_all(paths, 8, workers=2))
    assert 100 - 10 <= len(list(paths)) < 99
