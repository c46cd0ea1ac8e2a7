"""DICOM files as devices write them: padding, spare bits, empty elements, no preamble, polarity."""

from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless
from test_images import INVERTED, TABLES, message, save_dicom

from pnloc.images import header, oddities, read_gray

CASES = Path(__file__).parent / "cases"
# A slope with a bright square; above and left of it the padding.
DENSITY = np.tile(np.arange(80) / 79 * 0.6, (96, 1))
DENSITY[30:60, 40:60] = 1.0
PADDED = np.zeros(DENSITY.shape, dtype=bool)
PADDED[:10] = PADDED[:, :16] = True
SHADES = np.round(DENSITY * 4095).astype(np.uint16)
NOTHING = np.zeros(DENSITY.shape, dtype=bool)


def stored(density: np.ndarray, elements: dict, signed: bool = False) -> np.ndarray:
    """Words of 12 bits that show a density, given polarity and slope."""
    inverted = elements.get("PhotometricInterpretation") == "MONOCHROME1"
    inverted ^= elements.get("RescaleSlope", "").startswith("-")
    density = 1 - density if inverted else density
    return np.round(density * 4095).astype(np.int16 if signed else np.uint16)


def rewrite(path: Path, pixels: np.ndarray | None = None, **elements) -> Path:
    """A DICOM file with other elements, and words that pydicom would not write."""
    data = dcmread(path)
    if pixels is not None:
        data.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(path)
    return path


def shows(path: Path, padding: np.ndarray = NOTHING) -> bool:
    """Whether a file is read as DENSITY outside of its padding, which is black."""
    gray = read_gray(path).astype(int)
    assert header(path)[:2] == (80, 96) and not gray[padding].any()
    return bool((np.abs(gray - DENSITY * 255)[~padding] <= 1).all())


# Padding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", TABLES["scales"])
@pytest.mark.parametrize(
    ("signed", "value"), [*product([False], [0, 4095, 40_000, 65_535]), (True, -20_000), (True, 0)]
)
@pytest.mark.parametrize("polarity", [{}, INVERTED], ids=["MONOCHROME2", "MONOCHROME1"])
def test_padding_is_black_and_out_of_the_range_of_the_picture(
    tmp_path, polarity, signed, value, scale
):
    elements = {**TABLES["scales"][scale], **polarity}
    words = stored(DENSITY, elements, signed)
    words[PADDED] = value
    path = save_dicom(tmp_path / "a.dcm", words, 16, PixelPaddingValue=value, **elements)
    assert shows(path, PADDED)
    inside = (words == value) & ~PADDED
    assert bool(oddities(path, read_gray(path))) == inside.any()


@pytest.mark.parametrize("limits", [(-2000, -1000), (-1000, -2000), (63_536, 64_536)])
def test_a_range_of_padding_may_be_given_in_any_order_and_without_its_sign(tmp_path, limits):
    words = SHADES.astype(np.int16)
    words[PADDED] = np.random.default_rng(0).integers(-2000, -999, PADDED.sum())
    path = save_dicom(tmp_path / "a.dcm", words, 16)
    data, kind = dcmread(path), "SS" if limits[0] < 0 else "US"
    data.add_new("PixelPaddingValue", kind, limits[0])
    data.add_new("PixelPaddingRangeLimit", kind, limits[1])
    data.save_as(path)
    assert shows(path, PADDED)


def test_padding_may_be_wider_than_the_stored_bits(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", SHADES, 12, PixelPaddingValue=65_535)
    assert shows(rewrite(path, np.where(PADDED, 65_535, SHADES)), PADDED)
    assert not oddities(path, read_gray(path))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_padding_of_a_compressed_picture(tmp_path, syntax):
    words = np.where(PADDED, 4094, SHADES)
    path = save_dicom(tmp_path / "a.dcm", words, 12, compress=syntax, PixelPaddingValue=4094)
    assert shows(path, PADDED)


@pytest.mark.parametrize("polarity", [{}, INVERTED], ids=["MONOCHROME2", "MONOCHROME1"])
def test_shades_of_8_bits_stay_as_they_are_beside_padding(tmp_path, polarity):
    shades = np.round(DENSITY * 200).astype(np.uint8)
    words = np.where(PADDED, 255, 255 - shades if polarity else shades)
    path = save_dicom(tmp_path / "a.dcm", words, PixelPaddingValue=255, **polarity)
    assert (read_gray(path) == np.where(PADDED, 0, shades)).all()


@pytest.mark.parametrize("padding", [{}, {"PixelPaddingValue": None}])
def test_what_is_not_declared_is_no_padding(tmp_path, padding):
    words = np.where(PADDED, 4095, SHADES)
    gray = read_gray(save_dicom(tmp_path / "a.dcm", words, 12, **padding))
    assert (gray[PADDED] == 255).all()


@pytest.mark.parametrize("name", ["65535", "neg", "mono1"])
def test_the_padded_files_of_a_report(name):
    path, truth = CASES / f"dicom_padding/padding_{name}.dcm", "dicom_padding/truth.npy"
    gray, true = read_gray(path).astype(int), np.load(CASES / truth)
    assert (np.abs(gray - true * 255) <= 1)[:, 16:].all() and not gray[:, :16].any()


# Bits and polarity -------------------------------------------------------------------------------

PLANE = np.where(np.arange(80) > 40, 1, 0).astype(np.uint16)


def test_the_high_bit_says_where_the_stored_bits_end(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", SHADES, 12)
    assert shows(rewrite(path, SHADES << 4, HighBit=15))
    assert not oddities(path, read_gray(path))


@pytest.mark.parametrize("signed", [False, True])
def test_an_overlay_in_spare_bits_is_left_out_and_noted_where_it_is_not_declared(tmp_path, signed):
    words = (SHADES.astype(np.int32) - 2048 * signed).astype(np.uint16) & 4095
    path = save_dicom(tmp_path / "a.dcm", SHADES, 12)
    rewrite(path, words | PLANE << 13, PixelRepresentation=int(signed))
    assert shows(path) and oddities(path, read_gray(path))
    data = dcmread(path)
    data.add_new(0x60000102, "US", 13)
    data.save_as(path)
    assert shows(path) and not oddities(path, read_gray(path))


@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
@pytest.mark.parametrize("colour", ["MONOCHROME1", "MONOCHROME2"])
def test_a_contradiction_on_black_and_white_is_noted(tmp_path, colour, shape):
    white = {"PhotometricInterpretation": colour, "PresentationLUTShape": shape}
    inverted, inverse = colour == "MONOCHROME1", shape == "INVERSE"
    words = 4095 - SHADES if inverted or inverse else SHADES
    path = save_dicom(tmp_path / "a.dcm", words, 12, **white)
    assert shows(path) and bool(header(path).odd) == (inverted != inverse)


# Empty elements and other forms of file ----------------------------------------------------------

EMPTY = {"VOILUTSequence": [Dataset()], "ModalityLUTSequence": [Dataset()]}


@pytest.mark.parametrize("elements", [*TABLES["empty"], EMPTY], ids=str)
def test_an_empty_or_impossible_element_is_as_none(tmp_path, elements):
    path = save_dicom(tmp_path / "a.dcm", SHADES, 12, **elements)
    assert shows(path) and not oddities(path, read_gray(path))


GUESSED = ("PhotometricInterpretation", "PixelRepresentation")
INFERRED = ("BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel")


@pytest.mark.parametrize("name", GUESSED + INFERRED)
@pytest.mark.parametrize("absent", [True, False])
def test_what_a_header_lacks_is_inferred_and_a_guess_is_noted(tmp_path, name, absent):
    path = rewrite(save_dicom(tmp_path / "a.dcm", SHADES, 12), **{name: None})
    data = dcmread(path)
    if absent:
        del data[name]
    data.save_as(path)
    assert shows(path) and bool(header(path).odd) == (name in GUESSED)


@pytest.mark.parametrize("name", ["Rows", "Columns", "PixelData"])
def test_without_size_or_pixels_the_reason_is_plain(tmp_path, name):
    path = rewrite(save_dicom(tmp_path / "a.dcm", SHADES, 12), **{name: None})
    assert message(path).startswith("a DICOM file without")


@pytest.mark.parametrize("suffix", [".dcm", ""])
@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("meta", [True, False])
def test_a_file_without_preamble_is_read_whatever_its_name(tmp_path, meta, implicit, suffix):
    whole = dcmread(save_dicom(tmp_path / "whole.dcm", SHADES, 12))
    data, content = Dataset(), BytesIO()
    data.update(whole)
    if meta:
        data.file_meta = whole.file_meta
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2" + ".1" * (not implicit)
        dcmwrite(content, data, enforce_file_format=True)
    else:
        dcmwrite(content, data, implicit_vr=implicit, little_endian=True)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content.getvalue()[132 * meta :])
    assert header(path).dicom and shows(path)


@pytest.mark.parametrize("start", [b"%PDF-1.4 ", bytes(200), b"\x08\0\x05\0an element", b"PK\3\4"])
def test_a_foreign_file_named_dcm_is_no_image(tmp_path, start):
    (tmp_path / "a.dcm").write_bytes(start + np.random.default_rng(1).bytes(4000))
    for read in (header, read_gray):
        assert message(tmp_path / "a.dcm", read) == "not an image (PNG, JPEG or DICOM)"


@pytest.mark.parametrize("folder", ["dicom_empty_values", "dicom_no_preamble"])
def test_the_incomplete_files_of_a_report_are_read_like_the_complete_one(folder):
    whole, files = read_gray(CASES / folder / "plain12.dcm"), [*(CASES / folder).glob("*.dcm")]
    assert len(files) > 1 and all(header(path)[:2] == (80, 96) for path in files)
    assert all((read_gray(path) == whole).all() for path in files)
