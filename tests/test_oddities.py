"""What is odd about a picture as a frontal radiograph of a chest, and which way up it is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import TABLES, picture, save_dicom
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
ORIENTATIONS = range(1, 9)


def stored(orientation: int, upright: np.ndarray = UPRIGHT) -> np.ndarray:
    """As a camera stores a picture: turned in one of four ways, from 5 on transposed as well."""
    rows, columns = [(1, 1), (1, -1), (-1, -1), (-1, 1)][(orientation - 1) % 4]
    turned = upright[::rows, ::columns]
    return np.ascontiguousarray(turned.T if orientation > 4 else turned)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("colour", [False, True])
def test_a_picture_is_upright_as_its_exif_orientation_says(tmp_path, suffix, orientation, colour):
    exif, path = Image.Exif(), tmp_path / f"a.{suffix}"
    exif[274] = orientation
    image = Image.fromarray(stored(orientation))
    image = image.convert("RGB") if colour else image
    image.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    gray = read_gray(path)
    assert header(path)[:2] == (320, 384) and gray.shape == (384, 320)
    assert np.abs(gray.astype(int) - UPRIGHT).max() <= 3
    half = read_gray(path, near=192)
    assert half.shape == ((192, 160) if suffix == "jpg" else (384, 320))
    smaller = UPRIGHT.reshape(192, 2, 160, 2).mean((1, 3))
    assert np.abs(load(path, 192)[0][:, 16:-16].astype(int) - smaller).max() <= 4


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("white", [0, 65_535])
def test_a_tiff_of_16_bits_is_upright_and_white_is_dense(tmp_path, orientation, white):
    words = UPRIGHT.astype(np.uint16) * 257 ^ (0 if white else 65_535)
    path, tags = tmp_path / "a.tiff", {274: orientation, 262: 1 if white else 0}
    Image.fromarray(stored(orientation, words)).save(path, tiffinfo=tags)
    full = (UPRIGHT.astype(float) - UPRIGHT.min()) / np.ptp(UPRIGHT) * 255
    assert np.abs(read_gray(path) - full).max() <= 1


def test_exif_data_behind_the_pixels_of_a_png_count_too(tmp_path):
    exif, path = Image.Exif(), tmp_path / "a.png"
    exif[274] = 6
    Image.fromarray(stored(6)).save(path, exif=exif)
    content = path.read_bytes()
    start, pixels, last = (content.index(name) - 4 for name in (b"eXIf", b"IDAT", b"IEND"))
    moved = content[:start] + content[pixels:last] + content[start:pixels] + content[last:]
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


ODD_FILES = [*CASES.glob("localize_blank/*.png"), *CASES.glob("localize_not_frontal/*.dcm")]
REASONS = {"lateral": ["ViewPosition LL"], "ct_head": ["HEAD", "CT"], "mirrored": ["R\\F"]}


@pytest.mark.parametrize("path", ODD_FILES, ids=lambda path: path.stem)
def test_pictures_without_content_and_other_views_of_a_report_are_odd(path):
    found = "; ".join(remarks(path))
    assert found and all(reason in found for reason in REASONS.get(path.stem, []))


def mostly(extreme: int, share: float) -> np.ndarray:
    gray = picture(300, 300)
    gray[: int(300 * share)] = extreme
    return gray


def lungs() -> np.ndarray:
    """Two dark ellipses on a bright ground."""
    y, x = np.mgrid[:300, :400] / 400
    both = [((x - middle) / 0.1) ** 2 + ((y - 0.33) / 0.2) ** 2 for middle in (0.3, 0.7)]
    return np.round(200 - 150 * np.exp(-np.array(both)).sum(0)).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "odd"),
    [
        *[(mostly(0, 0.9), True), (mostly(255, 0.9), True), (mostly(0, 0.3), False)],
        *[(lungs(), False), (255 - lungs(), True)],
        *[(picture(*size), True) for size in ((900, 300), (200, 500), (40, 48))],
    ],
)
def test_pictures_of_one_extreme_negatives_and_unusual_sizes_are_odd(tmp_path, pixels, odd):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert len(remarks(tmp_path / "a.png")) == odd


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


ODD = [(name, *pair) for name, values in TABLES["odd"].items() for pair in values.items()]


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
