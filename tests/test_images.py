"""Any image file as white-is-dense grey; broken files give one line that names them."""

import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from pnloc.errors import PnlocError
from pnloc.images import MOST_PIXELS, header, load, read_gray

RAMP = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)  # 0, 5, ..., 235: row after row
TABLES = tomllib.loads(Path(__file__).with_name("images.toml").read_text(encoding="utf-8"))
NO_IMAGE = "not an image (PNG, JPEG or DICOM)"
INVERTED = {"PhotometricInterpretation": "MONOCHROME1"}


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    """A soft 8-bit picture without an axis of symmetry."""
    y, x = np.mgrid[:height, :width]
    return (20 + 150 * x / width + 60 * y / height).astype(np.uint8)


def save_dicom(path: Path, pixels: np.ndarray, bits=8, compress="", **elements) -> Path:
    """A DICOM file of frames [H, W], [N, H, W] or [H, W, 3]; `elements` are set at the end."""
    data = Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.set_pixel_data(pixels, "RGB" if pixels.shape[2:] == (3,) else "MONOCHROME2", bits)
    for name, value in elements.items():
        setattr(data, name, value)
    if compress:
        data.compress(compress)
    data.save_as(path, enforce_file_format=True)
    return path


def with_syntax(path: Path, syntax: str, pixels: bytes) -> Path:
    """A DICOM file with compressed pixels of another transfer syntax."""
    data = dcmread(save_dicom(path, picture()))
    data.PixelData = pixels
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path)
    return path


def message(path: Path, read=read_gray) -> str:
    """The error of a file that cannot be read, checked to be one line that names the file."""
    with pytest.raises(PnlocError) as error:
        read(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("kind", TABLES["png"])
def test_a_png_of_any_mode(tmp_path, kind):
    mode, of, pixels, expected = TABLES["png"][kind]
    image = Image.fromarray(np.array(pixels, of), mode or None)
    if mode == "P":
        image.putpalette([10, 10, 10, 200, 200, 200, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=1 if kind == "transparent palette" else None)
    pixels = read_gray(tmp_path / "a.png", near=1)  # a PNG is never decoded at a reduced scale
    assert pixels.dtype == np.uint8 and pixels.tolist() == expected
    assert header(tmp_path / "a.png")[:2] == image.size


def test_a_jpeg_is_decoded_no_smaller_than_asked(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(400, 300)).save(path, quality=95)
    for near, shape in ((None, (300, 400)), (200, (150, 200)), (201, (300, 400))):
        assert read_gray(path, near=near).shape == shape
    assert header(path)[:2] == (400, 300)
    half = picture(400, 300).reshape(150, 2, 200, 2).mean((1, 3))
    assert np.abs(read_gray(path, near=200) - half).max() < 3


@pytest.mark.parametrize("near", [None, 32])
def test_a_colour_jpeg_becomes_luminance_at_any_scale(tmp_path, near):
    for mode, colour, grey in (("RGB", (200, 100, 50), 124), ("CMYK", (0, 0, 0, 155), 100)):
        Image.new(mode, (64, 32), colour).save(tmp_path / "a.jpg", quality=95)
        assert np.abs(read_gray(tmp_path / "a.jpg", near=near).astype(int) - grey).max() <= 2


TABLE = Dataset()
TABLE.LUTDescriptor = [4, 0, 16]
TABLE.add_new("LUTData", "US", [0, 200 * 257, 220 * 257, 255 * 257])


@pytest.mark.parametrize("kind", TABLES["dicom"])
def test_a_dicom_file_of_any_kind(tmp_path, kind):
    of, bits, pixels, elements, expected = TABLES["dicom"][kind]
    lut = {"VOILUTSequence": [TABLE]} if kind.startswith("VOI LUT") else {}
    path = save_dicom(tmp_path / "a.dcm", np.array(pixels, of), bits=bits, **elements, **lut)
    assert np.abs(read_gray(path).astype(int) - expected).max() <= ("window" in kind)
    assert header(path)[:2] == np.shape(expected)[::-1]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_dicom_is_looked_up(tmp_path, bits):
    colours = {"PhotometricInterpretation": "PALETTE COLOR"}
    path = save_dicom(tmp_path / "a.dcm", np.array([[0, 1, 2]], np.uint8), **colours)
    data = dcmread(path)
    for place, values in enumerate(([10, 200, 255, 0], [10, 200, 0, 0], [10, 200, 0, 0])):
        table = np.array(values, "<u2") * 257 if bits == 16 else np.array(values, np.uint8)
        data.add_new(0x00281101 + place, "US", [4, 0, bits])
        data.add_new(0x00281201 + place, "OW", table.tobytes())
    data.save_as(path)
    assert read_gray(path).tolist() == [[10, 200, 76]]


def test_jpeg_baseline_as_in_the_rsna_files(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", quality=95)
    pixels = encapsulate([(tmp_path / "a.jpg").read_bytes()])
    path = with_syntax(tmp_path / "a.dcm", JPEGBaseline8Bit, pixels)
    assert np.abs(read_gray(path).astype(int) - picture()).max() <= 4


def test_missing_decoders_are_named(tmp_path, monkeypatch):
    def none(self):
        raise RuntimeError("no decoder here")

    path = with_syntax(tmp_path / "a.dcm", JPEG2000Lossless, encapsulate([b"\0" * 64]))
    monkeypatch.setattr("pydicom.Dataset.pixel_array", property(none))
    assert "'JPEG 2000 Image Compression (Lossless Only)' cannot be decoded" in message(path)
    assert "`pip install 'pylibjpeg[all]'`, or convert the file to PNG" in message(path)


@pytest.mark.parametrize(
    ("age", "expected"), [("058Y", 58), ("58", 58), ("999Y", np.nan), ("", np.nan), ("old", np.nan)]
)
def test_a_dicom_header_gives_sex_view_and_age_in_years(tmp_path, age, expected):
    path = save_dicom(tmp_path / "a.dcm", RAMP, PatientSex="F", ViewPosition="AP")
    data, tag = dcmread(path), Tag("PatientAge")
    data["PatientAge"] = RawDataElement(tag, "AS", len(age), age.encode(), 0, False, True)
    data.save_as(path)
    assert header(path)[3:6] == ("F", pytest.approx(expected, nan_ok=True), "AP")


# Files that cannot be read


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm", "a"])
@pytest.mark.parametrize("content", [None, b"", b"not an image\n" * 40])
def test_a_missing_or_empty_file_or_text_is_not_an_image(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for read in (read_gray, header, lambda path: load(path, 32)):
        reason = message(tmp_path / name, read)
        if content is None or not name.endswith(".dcm"):
            assert reason == ("no such file" if content is None else NO_IMAGE)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_file_gives_an_image_or_one_line(tmp_path):
    Image.fromarray(picture()).convert("RGBA").save(tmp_path / "colour.png")
    Image.fromarray(picture()).save(tmp_path / "grey.jpg")
    save_dicom(tmp_path / "rle.dcm", picture(), compress=RLELossless)
    window = TABLES["scales"]["window"]
    save_dicom(tmp_path / "window.dcm", picture().astype(np.uint16), bits=12, **window)
    rng, images, errors = np.random.default_rng(0), 0, 0
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert message(path), "cut in its pixels"
        cuts = [content[:end] for end in rng.integers(0, len(content), 60)]
        # Changes are densest in the head, where the structure is.
        ends = np.r_[np.full(90, min(len(content), 900)), np.full(30, len(content))]
        for p in rng.integers(0, ends):
            cuts.append(content[:p] + bytes([rng.integers(256)]) + content[p + 1 :])
        for broken in cuts:
            path.write_bytes(broken)
            for read in (header, lambda p: read_gray(p, near=8)):
                try:
                    images += read(path) is not None
                except PnlocError as error:
                    assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
                    errors += 1
    assert min(images, errors) > 150


@pytest.mark.parametrize("side", [11_000, 60_000, 2_000_000])
def test_a_png_header_of_pathological_size_is_refused_unread(tmp_path, side):
    path = tmp_path / "a.png"
    Image.new("L", (1, 1)).save(path)
    content = path.read_bytes()
    extent = side.to_bytes(4, "big") * 2
    checked = content[12:16] + extent + content[24:29]
    path.write_bytes(content[:12] + checked + zlib.crc32(checked).to_bytes(4, "big") + content[33:])
    assert side * side > MOST_PIXELS
    for read in (header, read_gray):
        assert "pixels" in message(path, read)


@pytest.mark.parametrize(("rows", "columns"), [(65_535, 65_535), (0, 8)])
def test_a_dicom_header_of_pathological_size_is_refused_unread(tmp_path, rows, columns):
    path = save_dicom(tmp_path / "a.dcm", RAMP, Rows=rows, Columns=columns)
    for read in (header, read_gray):
        assert message(path, read) == f"{columns} x {rows} pixels, which no radiograph has"
