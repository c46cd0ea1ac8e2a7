"""Images: every kind of file as white-is-dense grey, broken files, and boxes that move with the pixels."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from pnloc.errors import PnlocError
from pnloc.images import MOST_PIXELS, Letterbox, header, is_dicom, load, load_all, read_gray, size

RAMP = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)  # 0, 5, ..., 235: row after row


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    """A soft 8-bit picture without an axis of symmetry."""
    y, x = np.mgrid[:height, :width]
    return (20 + 150 * x / width + 60 * y / height).astype(np.uint8)


def save_dicom(
    path: Path, pixels: np.ndarray, bits: int = 8, compress: str = "", **elements
) -> Path:
    """A DICOM file of one grey frame; `elements` are set after the usual ones."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", generate_uid()
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    data.BitsAllocated, data.BitsStored, data.HighBit = pixels.dtype.itemsize * 8, bits, bits - 1
    data.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    if compress:
        data.compress(compress)
    data.save_as(path, enforce_file_format=True)
    return path


def _with_syntax(path: Path, syntax: str, pixels: bytes) -> None:
    """Put compressed pixels of another transfer syntax into a DICOM file."""
    data = dcmread(path)
    data.PixelData = pixels
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path)


def message(path: Path, read=read_gray) -> str:
    """The error of a file that cannot be read, checked to be one line that names the file."""
    with pytest.raises(PnlocError) as error:
        read(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


# PNG and JPEG


def test_an_8_bit_png_is_read_as_it_is(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    found = read_gray(tmp_path / "a.png")
    assert found.dtype == np.uint8
    assert (found == RAMP).all()
    assert size(tmp_path / "a.png") == (8, 6)


def test_a_16_bit_png_is_scaled_to_its_own_range(tmp_path):
    Image.fromarray(np.array([[1000, 2000], [3000, 5000]], dtype=np.uint16)).save(
        tmp_path / "a.png"
    )
    assert read_gray(tmp_path / "a.png").tolist() == [[0, 64], [128, 255]]


def test_a_flat_16_bit_png_is_black(tmp_path):
    Image.fromarray(np.full((2, 3), 4000, dtype=np.uint16)).save(tmp_path / "a.png")
    assert read_gray(tmp_path / "a.png").tolist() == [[0, 0, 0], [0, 0, 0]]


def test_colour_becomes_luminance(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert read_gray(tmp_path / "a.png").tolist() == [[76, 150, 29, 90]]  # .299, .587, .114


def test_rgba_transparency_lies_on_black(tmp_path):
    colours = np.array(
        [[[200, 200, 200, 255], [200, 200, 200, 0], [200, 200, 200, 128]]], dtype=np.uint8
    )
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert read_gray(tmp_path / "a.png").tolist() == [[200, 0, 100]]


def test_grey_with_alpha_lies_on_black(tmp_path):
    Image.fromarray(np.array([[[180, 255], [180, 0]]], dtype=np.uint8), "LA").save(
        tmp_path / "a.png"
    )
    assert read_gray(tmp_path / "a.png").tolist() == [[180, 0]]


@pytest.mark.parametrize(("transparent", "expected"), [(None, [[10, 200, 76]]), (1, [[10, 0, 76]])])
def test_a_palette_is_looked_up_and_its_transparent_colour_is_black(
    tmp_path, transparent, expected
):
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    image.putpalette([10, 10, 10, 200, 200, 200, 255, 0, 0])
    image.save(tmp_path / "a.png", **({} if transparent is None else {"transparency": transparent}))
    assert read_gray(tmp_path / "a.png").tolist() == expected


def test_a_jpeg_is_decoded_no_smaller_than_asked(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(400, 300)).save(path, quality=95)
    assert read_gray(path).shape == (300, 400)
    assert read_gray(path, near=200).shape == (150, 200)
    assert read_gray(path, near=201).shape == (300, 400)
    assert read_gray(path, near=4000).shape == (300, 400)
    assert size(path) == (400, 300)
    half = picture(400, 300).reshape(150, 2, 200, 2).mean((1, 3))
    assert np.abs(read_gray(path, near=200) - half).max() < 3


def test_a_colour_jpeg_is_decoded_to_grey_at_any_scale(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 32), (200, 100, 50)).save(path, quality=95)
    for near, shape in ((None, (32, 64)), (32, (16, 32))):
        found = read_gray(path, near=near)
        assert found.shape == shape
        assert np.abs(found.astype(int) - 124).max() <= 2  # .299 * 200 + .587 * 100 + .114 * 50


def test_a_png_is_never_decoded_at_a_reduced_scale(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    assert (read_gray(tmp_path / "a.png", near=2) == RAMP).all()


# DICOM


def test_an_8_bit_dicom_keeps_its_values(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", RAMP)
    assert (read_gray(path) == RAMP).all()
    assert size(path) == (8, 6)


def test_dicom_is_known_by_its_magic_number_too(tmp_path):
    path = save_dicom(tmp_path / "no-suffix", RAMP)
    assert is_dicom(path)
    assert (read_gray(path) == RAMP).all()
    assert size(path) == (8, 6)
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    assert not is_dicom(tmp_path / "a.png")


def test_monochrome1_is_inverted(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")
    assert (read_gray(path) == 255 - RAMP).all()


def test_12_bits_in_16_are_scaled_to_their_own_range(tmp_path):
    pixels = np.array([[96, 1096], [2096, 4095]], dtype=np.uint16)
    path = save_dicom(tmp_path / "a.dcm", pixels, bits=12)
    assert read_gray(path).tolist() == [[0, 64], [128, 255]]  # 1000 / 3999 and 2000 / 3999 of 255


def test_signed_pixels_and_rescale_are_applied(tmp_path):
    pixels = np.array([[-100, 0], [100, 300]], dtype=np.int16)
    path = save_dicom(tmp_path / "a.dcm", pixels, bits=16, PixelRepresentation=1)
    assert read_gray(path).tolist() == [[0, 64], [128, 255]]
    path = save_dicom(
        tmp_path / "b.dcm",
        pixels,
        bits=16,
        PixelRepresentation=1,
        RescaleSlope="-2",
        RescaleIntercept="50",
    )
    assert read_gray(path).tolist() == [[255, 191], [128, 0]]


def test_a_rescale_that_stays_within_8_bits_is_not_stretched(tmp_path):
    pixels = np.array([[0, 50, 100]], dtype=np.uint8)
    path = save_dicom(tmp_path / "a.dcm", pixels, RescaleSlope="2", RescaleIntercept="10")
    assert read_gray(path).tolist() == [[10, 110, 210]]


WINDOWED = np.array([[0, 999, 1250, 1500, 1750, 2001, 4095]], dtype=np.uint16)


def test_the_window_cuts_both_ends(tmp_path):
    path = save_dicom(
        tmp_path / "a.dcm", WINDOWED, bits=12, WindowCenter="1500", WindowWidth="1000"
    )
    found = read_gray(path)[0].tolist()
    assert [found[0], found[1], found[5], found[6]] == [0, 0, 255, 255]
    assert found[2:5] == pytest.approx([64, 128, 191], abs=1)


def test_the_window_counts_in_rescaled_units(tmp_path):
    path = save_dicom(
        tmp_path / "a.dcm",
        WINDOWED,
        bits=12,
        WindowCenter="2000",
        WindowWidth="2000",
        RescaleSlope="2",
        RescaleIntercept="-1000",
    )
    found = read_gray(path)[0].tolist()
    assert [found[0], found[1], found[5], found[6]] == [0, 0, 255, 255]
    assert found[2:5] == pytest.approx([64, 128, 191], abs=1)


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    # A window off the middle tells the order: inverted before it, the values would fall outside of the window.
    path = save_dicom(
        tmp_path / "a.dcm",
        WINDOWED,
        bits=12,
        WindowCenter="1500",
        WindowWidth="1000",
        PhotometricInterpretation="MONOCHROME1",
    )
    found = read_gray(path)[0].tolist()
    assert [found[0], found[1], found[5], found[6]] == [255, 255, 0, 0]
    assert found[2:5] == pytest.approx([191, 128, 64], abs=1)


def test_a_voi_lut_is_applied_and_monochrome1_is_inverted_after_it(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.add_new("LUTData", "US", [0, 200 * 257, 220 * 257, 255 * 257])
    pixels = np.array([[0, 1, 2, 3]], dtype=np.uint8)
    path = save_dicom(tmp_path / "a.dcm", pixels, VOILUTSequence=[table])
    assert read_gray(path).tolist() == [[0, 200, 220, 255]]
    path = save_dicom(
        tmp_path / "b.dcm", pixels, VOILUTSequence=[table], PhotometricInterpretation="MONOCHROME1"
    )
    assert read_gray(path).tolist() == [[255, 55, 35, 0]]


def test_rle_lossless_keeps_its_values(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", picture(), compress=RLELossless)
    assert (read_gray(path) == picture()).all()


def test_jpeg_baseline_as_in_the_rsna_files(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", quality=95)
    path = save_dicom(tmp_path / "a.dcm", picture())
    _with_syntax(path, JPEGBaseline8Bit, encapsulate([(tmp_path / "a.jpg").read_bytes()]))
    assert np.abs(read_gray(path).astype(int) - picture()).max() <= 4


def test_jpeg_2000_lossless_keeps_its_values(tmp_path):
    try:
        path = save_dicom(tmp_path / "a.dcm", picture(), compress=JPEG2000Lossless)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"no JPEG 2000 encoder: {str(error).splitlines()[0]}")
    assert (read_gray(path) == picture()).all()


def test_a_transfer_syntax_without_decoder_says_what_to_install(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", RAMP)
    _with_syntax(path, "1.2.840.10008.1.2.4.102", encapsulate([b"\0" * 64]))
    assert "cannot be decoded" in message(path)
    assert "MPEG-4" in message(path)
    assert "convert the file to PNG" in message(path)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        (JPEGBaseline8Bit, "pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.70", "pylibjpeg-libjpeg"),
        (JPEG2000Lossless, "pylibjpeg-openjpeg"),
        (RLELossless, "pylibjpeg-rle"),
    ],
)
def test_a_missing_decoder_is_named_with_its_package(tmp_path, monkeypatch, syntax, package):
    def none(self):
        raise RuntimeError("no decoder here")

    path = save_dicom(tmp_path / "a.dcm", RAMP)
    _with_syntax(path, syntax, encapsulate([b"\0" * 64]))
    monkeypatch.setattr("pydicom.Dataset.pixel_array", property(none))
    assert f"`pip install pylibjpeg {package}`" in message(path)


def test_the_first_of_several_frames_is_read(tmp_path):
    frames = np.stack([RAMP, 255 - RAMP])
    path = save_dicom(tmp_path / "a.dcm", frames, NumberOfFrames=2, Rows=6, Columns=8)
    assert (read_gray(path) == RAMP).all()


def test_a_colour_dicom_becomes_luminance(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], dtype=np.uint8)
    path = save_dicom(
        tmp_path / "a.dcm",
        colours,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    )
    assert read_gray(path).tolist() == [[76, 150, 29, 90]]


# Files that cannot be read


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm", "a"])
def test_a_missing_file_is_named(tmp_path, name):
    assert message(tmp_path / name) == "no such file"
    assert message(tmp_path / name, size) == "no such file"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm", "a"])
@pytest.mark.parametrize("content", [b"", b"not an image\n" * 40], ids=["empty", "text"])
def test_an_empty_file_or_text_is_not_an_image(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for read in (read_gray, size):
        reason = message(tmp_path / name, read)
        if not name.endswith(".dcm"):
            assert reason == "not an image (PNG, JPEG or DICOM)"


def test_a_dicom_without_pixels_is_named(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", RAMP)
    data = dcmread(path)
    del data.PixelData
    data.save_as(path)
    assert message(path) == "a DICOM file without pixels"


def _samples(folder: Path) -> list[Path]:
    Image.fromarray(picture()).save(folder / "grey.png")
    Image.fromarray(picture()).convert("RGBA").save(folder / "colour.png")
    Image.fromarray(picture()).save(folder / "grey.jpg")
    save_dicom(folder / "native.dcm", picture())
    save_dicom(folder / "rle.dcm", picture(), compress=RLELossless)
    save_dicom(
        folder / "window.dcm",
        picture().astype(np.uint16),
        bits=12,
        WindowCenter="90",
        WindowWidth="100",
    )
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_cut_in_its_pixels_is_named(tmp_path):
    for path in _samples(tmp_path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert message(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_is_cut_or_changed_gives_an_image_or_one_line(tmp_path):
    rng = np.random.default_rng(0)
    outcomes = {"image": 0, "error": 0}
    for path in _samples(tmp_path):
        content = path.read_bytes()
        cuts = [content[:end] for end in rng.integers(0, len(content), 60)]
        # Changes are densest in the head, where the structure is.
        places = rng.integers(
            0, np.r_[np.full(90, min(len(content), 900)), np.full(30, len(content))]
        )
        changed = [content[:p] + bytes([rng.integers(256)]) + content[p + 1 :] for p in places]
        for broken in (*cuts, *changed):
            path.write_bytes(broken)
            for read in (size, lambda p: read_gray(p, near=8)):
                try:
                    read(path)
                    outcomes["image"] += 1
                except PnlocError as error:
                    assert str(error).startswith(f"{path}: ")
                    assert "\n" not in str(error)
                    outcomes["error"] += 1
    assert min(outcomes.values()) > 200


def _png_with_size(path: Path, width: int, height: int) -> Path:
    """A PNG of one pixel whose header claims another size."""
    Image.new("L", (1, 1)).save(path)
    content = path.read_bytes()
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
    checksum = zlib.crc32(header).to_bytes(4, "big")
    path.write_bytes(content[:12] + header + checksum + content[33:])
    return path


@pytest.mark.parametrize("side", [11_000, 60_000, 2_000_000])
def test_a_png_header_of_pathological_size_is_refused_unread(tmp_path, side):
    path = _png_with_size(tmp_path / "a.png", side, side)
    assert side * side > MOST_PIXELS
    for read in (size, read_gray):
        assert "pixels" in message(path, read)


def test_a_dicom_header_of_pathological_size_is_refused_unread(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", RAMP, Rows=65_535, Columns=65_535)
    for read in (size, read_gray):
        assert message(path, read) == "65535 x 65535 pixels, which no radiograph has"


def test_a_dicom_without_extent_is_refused(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", RAMP, Rows=0)
    assert message(path, size) == "8 x 0 pixels, which no radiograph has"


# Letterbox


def test_letterbox_by_hand():
    wide = Letterbox(200, 100, 50)
    assert wide.scale == 0.25
    assert wide.offset == (0, 12.5)
    assert wide.boxes([[0, 0, 200, 100], [40, 20, 80, 60]]).tolist() == [
        [0, 12.5, 50, 37.5],
        [10, 17.5, 20, 27.5],
    ]
    tall = Letterbox(100, 200, 400)
    assert tall.offset == (100, 0)
    assert tall.boxes([[10, 20, 50, 100]]).tolist() == [[120, 40, 200, 200]]
    assert tall.boxes([]).shape == (0, 4)
    assert tall.inverse([]).shape == (0, 4)


def test_an_image_without_extent_cannot_be_fitted():
    with pytest.raises(PnlocError, match="0 x 10 pixels"):
        Letterbox(0, 10, 32)


extents = st.integers(1, 5000)
shares = st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5)


@given(extents, extents, st.integers(1, 1024), shares)
def test_boxes_come_back_from_the_square(width, height, side, parts):
    letterbox = Letterbox(width, height, side)
    boxes = np.array(parts).reshape(-1, 4) * [width, height, width, height]
    inside = letterbox.boxes(boxes)
    assert ((inside >= -1e-9) & (inside <= side + 1e-9)).all()
    assert np.allclose(letterbox.inverse(inside), boxes, atol=1e-6)


@given(
    extents,
    extents,
    st.integers(1, 1024),
    st.lists(st.tuples(*[st.floats(-2000, 3000)] * 4), max_size=5),
)
def test_whatever_comes_back_lies_in_the_image(width, height, side, boxes):
    back = Letterbox(width, height, side).inverse(boxes)
    assert (back >= 0).all()
    assert (back <= [width, height, width, height]).all()


def test_the_inverse_clips_the_bars_away():
    wide = Letterbox(200, 100, 50)
    assert wide.inverse([[-5, 0, 25, 50], [30, 40, 60, 49]]).tolist() == [
        [0, 0, 100, 100],
        [120, 100, 200, 100],
    ]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 48))
def test_any_proportions_fill_the_square_but_for_the_bars(width, height, side):
    letterbox = Letterbox(width, height, side)
    square = letterbox.image(np.full((height, width), 200, dtype=np.uint8))
    assert square.shape == (side, side)
    ys, xs = np.nonzero(square)
    assert (square[ys, xs] == 200).all()
    x1, y1, x2, y2 = letterbox.boxes([[0, 0, width, height]])[0]
    assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == pytest.approx(
        [x1, y1, x2, y2], abs=1
    )


SHAPES = [
    (300, 200),
    (200, 300),
    (256, 256),
    (1000, 140),
    (90, 61),
    (61, 90),
    (50, 50),
]  # the last three scale up


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".dcm"])
@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_boxes_move_with_the_pixels(tmp_path, suffix, width, height):
    # A bright rectangle off the middle in both directions, so that neither a flip nor a swap of axes goes unseen.
    box = np.round(np.array([0.55, 0.2, 0.9, 0.45]) * [width, height, width, height]).astype(int)
    pixels = np.zeros((height, width), dtype=np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    path = tmp_path / f"a{suffix}"
    if suffix == ".dcm":
        save_dicom(path, pixels)
    else:
        Image.fromarray(pixels).save(path, **({"quality": 95} if suffix == ".jpg" else {}))
    square, letterbox = load(path, 128)
    assert (letterbox.width, letterbox.height, letterbox.side) == (width, height, 128)
    assert square.shape == (128, 128)
    ys, xs = np.nonzero(square > 127)
    found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    assert found == pytest.approx(letterbox.boxes(box)[0], abs=1.01)
    assert letterbox.inverse(found)[0] == pytest.approx(box, abs=1.5 / letterbox.scale)


def test_load_averages_over_areas_when_it_scales_down(tmp_path):
    stripes = np.zeros((128, 128), dtype=np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert (load(tmp_path / "a.png", 64)[0] == 100).all()


def test_load_names_a_broken_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert message(tmp_path / "a.png", lambda p: load(p, 32)) == "not an image (PNG, JPEG or DICOM)"


# Further kinds of pixels


def test_a_cmyk_jpeg_becomes_luminance(tmp_path):
    Image.new("CMYK", (32, 32), (0, 0, 0, 155)).save(tmp_path / "a.jpg", quality=95)
    assert (
        np.abs(read_gray(tmp_path / "a.jpg", near=16).astype(int) - 100).max() <= 2
    )  # 255 - 155 of black


def test_a_1_bit_png_is_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert read_gray(tmp_path / "a.png").tolist() == [[255, 0]]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_dicom_is_looked_up(tmp_path, bits):
    path = save_dicom(
        tmp_path / "a.dcm",
        np.array([[0, 1, 2]], np.uint8),
        PhotometricInterpretation="PALETTE COLOR",
    )
    data = dcmread(path)
    for place, values in enumerate(
        ([10, 200, 255, 0], [10, 200, 0, 0], [10, 200, 0, 0])
    ):  # red, green, blue
        table = np.array(values, dtype="<u2") * (257 if bits == 16 else 1)
        content = table.tobytes() if bits == 16 else table.astype(np.uint8).tobytes()
        data.add_new(0x00281101 + place, "US", [4, 0, bits])
        data.add_new(0x00281201 + place, "OW", content)
    data.save_as(path)
    assert read_gray(path).tolist() == [[10, 200, 76]]


def test_a_colour_dicom_of_16_bits_is_scaled_and_never_wraps(tmp_path):
    colours = np.array([[[0, 0, 0], [1000, 1000, 1000], [4000, 4000, 4000]]], dtype=np.uint16)
    path = save_dicom(
        tmp_path / "a.dcm",
        colours,
        bits=12,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
    )
    assert read_gray(path).tolist() == [[0, 64, 255]]


def test_a_file_is_read_for_what_it_is_whatever_its_extension(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    assert (read_gray(tmp_path / "a.dcm") == RAMP).all() and size(tmp_path / "a.dcm") == (8, 6)
    save_dicom(tmp_path / "b.dcm", RAMP).rename(tmp_path / "b.jpg")
    assert (read_gray(tmp_path / "b.jpg") == RAMP).all() and header(tmp_path / "b.jpg").dicom


@pytest.mark.parametrize(
    ("age", "expected"), [("058Y", 58), ("58", 58), ("999Y", None), ("", None), ("old", None)]
)
def test_a_dicom_header_tells_sex_view_and_age_in_years(tmp_path, age, expected):
    path = save_dicom(tmp_path / "a.dcm", RAMP, PatientSex="F", ViewPosition="AP")
    data = dcmread(path)
    data["PatientAge"] = RawDataElement(
        Tag("PatientAge"), "AS", len(age), age.encode(), 0, False, True
    )
    data.save_as(path)
    found = header(path)
    assert (found.sex, found.view) == ("F", "AP")
    assert found.age == pytest.approx(np.nan if expected is None else expected, nan_ok=True)


# Many files


def test_many_files_come_in_order_with_their_errors_whatever_the_number_of_threads(tmp_path):
    paths = []
    for n in range(30):
        paths.append(str(tmp_path / f"{n}.png"))
        Image.fromarray(np.full((20, 10 + n), 8 * n, dtype=np.uint8)).save(paths[-1])
    Path(paths[7]).write_bytes(b"")
    for workers in (1, 3):
        found = list(load_all(paths, 16, workers))
        assert isinstance(found[7], PnlocError) and "7.png" in str(found[7])
        for n in set(range(30)) - {7}:
            expected, letterbox = load(paths[n], 16)
            assert (found[n][0] == expected).all() and found[n][1] == letterbox
    assert list(load_all([], 16)) == []


def test_files_are_decoded_ahead_and_only_a_few(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    asked = []

    def paths():
        for n in range(100):
            asked.append(n)
            yield str(tmp_path / "a.png")

    stream = load_all(paths(), 8, workers=2)
    next(stream)
    assert 1 < len(asked) <= 9 + 1
    assert len(list(stream)) == 99
