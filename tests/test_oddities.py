"""What is odd about a picture as a frontal radiograph of a chest, and which way up it is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import DICOM, picture, save_dicom
from trees import RSNA, make_rsna

from pnloc.data import rsna
from pnloc.data.audit import audit
from pnloc.images import header, load, oddities, read_gray

CASES = Path(__file__).parent / "cases"
SHADES = picture(80, 96)


def remarks(path: Path) -> list[str]:
    """Oddities of a file, which are the same for its picture and for the padded square of it."""
    odd = oddities(path, read_gray(path))
    assert oddities(path, load(path, 256)[0]) == odd
    return odd


def odd_header(path: Path, **elements) -> str:
    save_dicom(path, SHADES, **elements)
    assert remarks(path) == [header(path).odd] * bool(header(path).odd)
    return header(path).odd


# EXIF orientation --------------------------------------------------------------------------------

UPRIGHT = picture(320, 384)
# Orientation -> how a camera stores the upright picture.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: upright.T[::-1],
    7: lambda upright: upright[::-1, ::-1].T,
    8: lambda upright: upright.T[:, ::-1],
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("colour", [False, True])
def test_a_picture_is_upright_as_its_exif_orientation_says(tmp_path, suffix, orientation, colour):
    exif, path = Image.Exif(), tmp_path / f"a.{suffix}"
    exif[274] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    image = image.convert("RGB") if colour else image
    image.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    gray = read_gray(path)
    assert header(path)[:2] == (320, 384) and gray.shape == (384, 320)
    assert np.abs(gray.astype(int) - UPRIGHT).max() <= 3
    half = read_gray(path, near=192)
    assert half.shape == ((192, 160) if suffix == "jpg" else (384, 320))
    assert np.abs(load(path, 192)[0][:, 16:-16].astype(int) - half_of(UPRIGHT)).max() <= 4


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("white", [0, 65_535])
def test_a_tiff_of_16_bits_is_upright_and_white_is_dense(tmp_path, orientation, white):
    words = UPRIGHT.astype(np.uint16) * 257 ^ (0 if white else 65_535)
    path, tags = tmp_path / "a.tiff", {274: orientation, 262: 1 if white else 0}
    words = np.ascontiguousarray(STORED[orientation](words))
    Image.fromarray(words).save(path, tiffinfo=tags)
    full = (UPRIGHT.astype(float) - UPRIGHT.min()) / np.ptp(UPRIGHT) * 255
    assert np.abs(read_gray(path) - full).max() <= 1


def half_of(gray: np.ndarray) -> np.ndarray:
    return gray.reshape(192, 2, 160, 2).mean((1, 3))


def test_exif_data_behind_the_pixels_of_a_png_count_too(tmp_path):
    exif, path = Image.Exif(), tmp_path / "a.png"
    exif[274] = 6
    Image.fromarray(np.ascontiguousarray(STORED[6](UPRIGHT))).save(path, exif=exif)
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.index(b"IEND") - 4
    moved = content[:start] + content[end:last] + content[start:end] + content[last:]
    path.write_bytes(moved)
    assert header(path)[:2] == (320, 384) and (read_gray(path) == UPRIGHT).all()


DAMAGED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01"


@pytest.mark.parametrize("value", [0, 9, 999, DAMAGED])
def test_an_orientation_that_does_not_exist_or_is_damaged_is_none(tmp_path, value):
    exif = Image.Exif()
    exif[274] = value
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=value if value == DAMAGED else exif)
    assert (read_gray(tmp_path / "a.png") == UPRIGHT).all()


@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_the_turned_files_of_a_report(orientation):
    path, upright = CASES / f"raster_exif/exif{orientation}.jpg", CASES / "raster_exif/gray.png"
    assert header(path)[:2] == (320, 384)
    assert np.abs(read_gray(path).astype(int) - read_gray(upright)).max() <= 3


# Oddities ----------------------------------------------------------------------------------------


def test_an_ordinary_picture_of_any_kind_is_not_odd(tmp_path):
    grey = Image.fromarray(picture(400, 300))
    for mode, name in (("L", "a.png"), ("RGB", "b.jpg"), ("RGBA", "c.png"), ("L", "d.jpg")):
        grey.convert(mode).save(tmp_path / name)
        assert remarks(tmp_path / name) == []
    chest = {"Modality": "DX", "BodyPartExamined": "CHEST", "PatientOrientation": ["L", "F"]}
    assert odd_header(tmp_path / "a.dcm", ViewPosition="PA", **chest) == ""
    coloured = save_dicom(tmp_path / "b.dcm", np.repeat(SHADES[..., None], 3, axis=2))
    assert remarks(coloured) == []


@pytest.mark.parametrize("name", ["flat", "white", "alpha0", "tiny"])
def test_a_picture_without_content_is_odd(name):
    assert remarks(CASES / f"localize_blank/{name}.png")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("lateral", "ViewPosition LL"), ("ct_head", "HEAD"), ("ct_head", "CT"), ("mirrored", "R\\F")],
)
def test_the_other_views_of_a_report_are_odd(name, reason):
    assert reason in "; ".join(remarks(CASES / f"localize_not_frontal/{name}.dcm"))


@pytest.mark.parametrize(
    ("extreme", "share", "odd"), [(0, 0.9, True), (255, 0.9, True), (0, 0.3, False)]
)
def test_a_picture_mostly_of_one_extreme_is_odd(tmp_path, extreme, share, odd):
    gray = picture(300, 300)
    gray[: int(300 * share)] = extreme
    Image.fromarray(gray).save(tmp_path / "a.png")
    assert bool(remarks(tmp_path / "a.png")) == odd


def test_a_negative_is_odd(tmp_path):
    y, x = np.mgrid[:300, :400] / 400
    lungs = sum(
        np.exp(-(((x - middle) / 0.1) ** 2 + ((y - 0.33) / 0.2) ** 2)) for middle in (0.3, 0.7)
    )
    gray = np.round(200 - 150 * lungs).astype(np.uint8)
    for pixels, odd in ((gray, False), (255 - gray, True)):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        assert bool(remarks(tmp_path / "a.png")) == odd


@pytest.mark.parametrize(("width", "height"), [(900, 300), (200, 500), (40, 48)])
def test_unusual_proportions_and_tiny_pictures_are_odd(tmp_path, width, height):
    Image.fromarray(picture(width, height)).save(tmp_path / "a.png")
    assert len(remarks(tmp_path / "a.png")) == 1


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm"])
def test_a_picture_in_colour_is_odd_and_a_coloured_mark_is_not(tmp_path, name):
    for columns, odd in ((20, False), (200, True)):
        colour = np.repeat(picture(400, 300)[..., None], 3, axis=2)
        colour[:, :columns, 2] = 0
        if name == "a.dcm":
            save_dicom(tmp_path / name, colour)
        else:
            Image.fromarray(colour).save(tmp_path / name)
        assert bool(remarks(tmp_path / name)) == odd


ODD = [(name, *pair) for name, values in DICOM["odd"].items() for pair in values.items()]


@pytest.mark.parametrize(("name", "value", "word"), ODD)
def test_a_header_against_a_frontal_radiograph_of_a_chest_is_odd(tmp_path, name, value, word):
    odd = odd_header(tmp_path / "a.dcm", **{name: value})
    assert bool(odd) == bool(word) and word in odd
    assert (read_gray(tmp_path / "a.dcm") == SHADES).all(), "it stays on its grid"


def test_only_the_first_of_several_frames_is_read_and_this_is_said(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", np.stack([SHADES, SHADES]))
    assert len(remarks(path)) == 1


def test_data_check_reports_odd_images_and_sets_none_of_them_aside(tmp_path):
    home = make_rsna(tmp_path / RSNA, [f"{name},,,,,0" for name in "abc"], ["a.png"])
    folder = home / "stage_2_train_images"
    Image.new("L", (64, 64), 90).save(folder / "b.png")
    save_dicom(folder / "c.dcm", picture(64, 64), ViewPosition="LL")
    result = audit({"rsna": lambda: rsna.read(home)}, [])
    assert len(result.records["rsna"].images) == 3 and result.quarantine().empty
    assert any(remark.startswith("rsna: 1 images are nearly") for remark in result.remarks())
    assert any("ViewPosition LL" in remark for remark in result.remarks())
