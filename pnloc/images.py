"""Image files: any PNG, JPEG or DICOM as an 8-bit grey array, and the transform that carries boxes with the pixels.

White is dense in every array that leaves this module: DICOM's MONOCHROME1 is inverted, after the VOI LUT.
"""

import os
import struct
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image, UnidentifiedImageError
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from pnloc.errors import PnlocError

MOST_PIXELS = 100_000_000  # more than any radiograph; beyond it a file is refused unread
# What Pillow and pydicom raise on broken files.
_BROKEN = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
    InvalidDicomError,
    BytesLengthException,
)


# Transfer syntaxes by the head of their number -> the packages that decode them.
_DECODERS = {
    "1.2.840.10008.1.2.4.5": "pylibjpeg pylibjpeg-libjpeg",  # JPEG, baseline and extended
    "1.2.840.10008.1.2.4.7": "pylibjpeg pylibjpeg-libjpeg",  # JPEG, lossless
    "1.2.840.10008.1.2.4.8": "pylibjpeg pylibjpeg-libjpeg",  # JPEG-LS
    "1.2.840.10008.1.2.4.9": "pylibjpeg pylibjpeg-openjpeg",  # JPEG 2000
    "1.2.840.10008.1.2.4.20": "pylibjpeg pylibjpeg-openjpeg",  # High-throughput JPEG 2000
    "1.2.840.10008.1.2.5": "pylibjpeg pylibjpeg-rle",
}


class Header(NamedTuple):
    """What an image file says of itself without its pixels; sex, age and view are '' outside of DICOM files."""

    width: int
    height: int
    dicom: bool = False
    sex: str = ""
    age: float = float("nan")  # years
    view: str = ""


@dataclass(frozen=True)
class Letterbox:
    """An image of width x height pixels, scaled to fit a `side` x `side` square and centred, with black bars."""

    width: int
    height: int
    side: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.side) < 1:
            raise PnlocError(
                f"an image of {self.width} x {self.height} pixels cannot be fitted into a square of {self.side}"
            )

    @property
    def scale(self) -> float:
        """Pixels of the square per pixel of the image."""
        return self.side / max(self.width, self.height)

    @property
    def offset(self) -> tuple[float, float]:
        """Left and upper bar, in pixels of the square."""
        return (self.side - self.width * self.scale) / 2, (self.side - self.height * self.scale) / 2

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """xyxy [N, 4] in pixels of the image -> pixels of the square."""
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * self.scale + np.tile(
            self.offset, 2
        )

    def inverse(self, boxes: np.ndarray) -> np.ndarray:
        """xyxy [N, 4] in pixels of the square -> pixels of the image, clipped to it."""
        back = (
            np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - np.tile(self.offset, 2)
        ) / self.scale
        return back.clip(0, [self.width, self.height, self.width, self.height])

    def image(self, gray: np.ndarray) -> np.ndarray:
        """A grey image uint8 of any size with these proportions -> uint8 [side, side].

        The array may be a reduced decode of the file; it is resized by averaging over areas.
        """
        left, top = (int(round(o)) for o in self.offset)
        size = (max(1, self.side - 2 * left), max(1, self.side - 2 * top))
        square = np.zeros((self.side, self.side), dtype=np.uint8)
        filling = Image.Resampling.BOX if gray.shape[1] >= size[0] else Image.Resampling.BILINEAR
        square[top : top + size[1], left : left + size[0]] = np.asarray(
            Image.fromarray(gray).resize(size, filling)
        )
        return square


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM: by its magic number, or by its suffix where it is no PNG or JPEG under a wrong name."""
    with open(path, "rb") as stream:
        head = stream.read(132)
    named = str(path).lower().endswith((".dcm", ".dicom"))
    return head[128:] == b"DICM" or (named and not head.startswith((b"\x89PNG", b"\xff\xd8\xff")))


def _reason(path: str | Path, error: Exception) -> PnlocError:
    if isinstance(error, FileNotFoundError):
        return PnlocError(f"{path}: no such file")
    if isinstance(error, UnidentifiedImageError):
        return PnlocError(f"{path}: not an image (PNG, JPEG or DICOM)")
    text = " ".join(str(error).split()) or type(error).__name__
    return PnlocError(f"{path}: cannot be read as an image ({text})")


def header(path: str | Path) -> Header:
    """What a file's header says. Raises PnlocError, naming the file, where there is none or it makes no sense."""
    try:
        if not is_dicom(path):
            with _opened(path) as image:
                return Header(*_checked(path, *image.size))
        tags = ["Rows", "Columns", "PatientSex", "PatientAge", "ViewPosition"]
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        age = str(found.get("PatientAge", "")).strip().upper().removesuffix("Y")
        years = float(age) if age.isascii() and age.isdigit() and int(age) <= 120 else float("nan")
        sex, view = (
            str(found.get(tag, "") or "").strip() for tag in ("PatientSex", "ViewPosition")
        )
        return Header(*_checked(path, int(found.Columns), int(found.Rows)), True, sex, years, view)
    except _BROKEN as error:
        raise _reason(path, error) from None


def size(path: str | Path) -> tuple[int, int]:
    """(width, height) from the file's header. Raises PnlocError, naming the file, where there is none."""
    return header(path)[:2]


def _opened(path: str | Path) -> Image.Image:
    """PIL's lazy image; its warning of a decompression bomb is left to `_checked`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def _checked(path: str | Path, width: int, height: int) -> tuple[int, int]:
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise PnlocError(f"{path}: {width} x {height} pixels, which no radiograph has")
    return width, height


def read_gray(path: str | Path, near: int | None = None) -> np.ndarray:
    """The image as uint8 [H, W], white being dense. Raises PnlocError, naming file and reason.

    near: a JPEG may be decoded at a reduced scale whose longer side is still at least this long.
    """
    try:
        if is_dicom(path):
            return _read_dicom(path)
        with _opened(path) as image:
            _checked(path, *image.size)
            return _pixels(image, near)
    except _BROKEN as error:
        raise _reason(path, error) from None


def _pixels(image: Image.Image, near: int | None) -> np.ndarray:
    """Decode an opened image; a JPEG at a reduced scale where `near` allows it."""
    if near and image.format == "JPEG" and image.mode in ("L", "RGB"):
        share = max(near / max(image.size), 1e-6)
        image.draft("L", (int(np.ceil(image.width * share)), int(np.ceil(image.height * share))))
    image.load()
    return _gray(image)


def _gray(image: Image.Image) -> np.ndarray:
    """Any PIL mode as uint8 grey: 16-bit and wider are scaled to their own range, transparency is laid on black."""
    if image.mode.startswith(("I", "F")):
        return _to_bytes(np.asarray(image, dtype=np.float64))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour)
    return np.asarray(image.convert("L"), dtype=np.uint8)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Finite values to 0..255 over their own range; a flat image becomes all zero."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float64))
    low, high = values.min(), values.max()
    return (
        ((values - low) / (high - low) * 255).round().astype(np.uint8)
        if high > low
        else np.zeros(values.shape, np.uint8)
    )


def _read_dicom(path: str | Path) -> np.ndarray:
    """A DICOM file: rescale, VOI LUT or window, then inversion of MONOCHROME1; the first frame of several."""
    data = pydicom.dcmread(path)
    if "PixelData" not in data:
        raise PnlocError(f"{path}: a DICOM file without pixels")
    _checked(path, int(data.Columns), int(data.Rows))
    try:
        raw = data.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        raise _undecoded(path, data, error) from None
    palette = data.get("PhotometricInterpretation") == "PALETTE COLOR"
    if palette:
        raw = apply_color_lut(raw.reshape(-1, *raw.shape[-2:])[0], data)[..., :3]
        raw = raw if raw.dtype == np.uint8 else (raw >> 8).astype(np.uint8)  # tables of 16 bits
    if palette or int(data.get("SamplesPerPixel", 1)) == 3:
        colour = raw.reshape(-1, *raw.shape[-3:])[0]
        colour = colour if colour.dtype == np.uint8 else _to_bytes(colour)
        return np.asarray(Image.fromarray(colour).convert("L"))
    raw = raw.reshape(-1, *raw.shape[-2:])[0]
    windowed = "WindowWidth" in data or "VOILUTSequence" in data
    values = apply_modality_lut(raw, data)
    values = apply_voi_lut(values, data) if windowed else values
    plain = raw.dtype == np.uint8 and not windowed and values.min() >= 0 and values.max() <= 255
    gray = values.astype(np.uint8) if plain else _to_bytes(values)
    return 255 - gray if data.get("PhotometricInterpretation") == "MONOCHROME1" else gray


def _undecoded(path: str | Path, data: pydicom.Dataset, error: Exception) -> PnlocError:
    """What to do about compressed pixels that cannot be decoded: which package, or another form of the file."""
    syntax = data.file_meta.get("TransferSyntaxUID", "") if hasattr(data, "file_meta") else ""
    packages = next((p for head, p in _DECODERS.items() if str(syntax).startswith(head)), "")
    advice = f"`pip install {packages}` decodes it" if packages else "convert the file to PNG"
    why = " ".join(str(error).split())[:200]
    name = getattr(syntax, "name", "") or "unknown"
    return PnlocError(
        f"{path}: pixels of transfer syntax '{name}' cannot be decoded; {advice} ({why})"
    )


def load(path: str | Path, side: int) -> tuple[np.ndarray, Letterbox]:
    """An image file as uint8 [side, side], and the transform of its boxes. Raises PnlocError, naming the file."""
    try:
        if not is_dicom(path):
            with _opened(path) as image:
                letterbox = Letterbox(*_checked(path, *image.size), side)
                return letterbox.image(_pixels(image, side)), letterbox
    except _BROKEN as error:
        raise _reason(path, error) from None
    letterbox = Letterbox(*size(path), side)
    return letterbox.image(read_gray(path)), letterbox


def load_all(
    paths: Iterable[str], side: int, workers: int = 0
) -> Iterator[tuple[np.ndarray, Letterbox] | PnlocError]:
    """What `load` gives for each file, or the error that it gave, in order; decoded ahead by `workers` threads (0: one per core).

    The decoders of Pillow let go of the interpreter while they work, so threads do what processes would, and whoever takes the
    images may train on the last ones while the next ones are decoded. A few images per thread are held at a time.
    """
    workers = workers or len(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )

    def one(path: str) -> tuple[np.ndarray, Letterbox] | PnlocError:
        try:
            return load(path, side)
        except PnlocError as error:
            return error

    rest = iter(paths)
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(one, path) for path in islice(rest, 4 * workers)]
        while waiting:
            done = waiting.pop(0)
            waiting += [pool.submit(one, path) for path in islice(rest, 1)]
            yield done.result()
