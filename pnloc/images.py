"""Image files: any PNG, JPEG or DICOM as an 8-bit grey array, and the transform of its boxes.

White is dense in every array that leaves this module: DICOM's MONOCHROME1 is inverted, after the
VOI LUT.
"""

import struct
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from joblib import cpu_count
from PIL import Image, UnidentifiedImageError
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from pnloc.boxes import as_boxes
from pnloc.errors import PnlocError

MOST_PIXELS = 100_000_000  # more than any radiograph; a larger file is refused unread
# What Pillow and pydicom raise on broken files.
_PYTHON = (OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError)
_BROKEN = (
    *(*_PYTHON, ArithmeticError, RuntimeError, struct.error),
    *(Image.DecompressionBombError, InvalidDicomError, BytesLengthException),
)


class Header(NamedTuple):
    """The header of an image file; sex, age and view come with DICOM files only."""

    width: int
    height: int
    dicom: bool = False
    sex: str = ""
    age: float = float("nan")  # years
    view: str = ""


@dataclass(frozen=True)
class Letterbox:
    """A width x height image scaled to fit a `side` x `side` square, centred, with black bars."""

    width: int
    height: int
    side: int

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.side) < 1:
            pixels = f"{self.width} x {self.height} pixels"
            raise PnlocError(f"an image of {pixels} does not fit into a square of {self.side}")

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
        return as_boxes(boxes) * self.scale + np.tile(self.offset, 2)

    def inverse(self, boxes: np.ndarray) -> np.ndarray:
        """xyxy [N, 4] in pixels of the square -> pixels of the image, clipped to it."""
        back = (as_boxes(boxes) - np.tile(self.offset, 2)) / self.scale
        return back.clip(0, [self.width, self.height, self.width, self.height])

    def image(self, gray: np.ndarray) -> np.ndarray:
        """A grey image uint8 of any size with these proportions -> uint8 [side, side].

        The array may be a reduced decode of the file; it is resized by averaging over areas.
        """
        left, top = (int(round(o)) for o in self.offset)
        size = (max(1, self.side - 2 * left), max(1, self.side - 2 * top))
        square = np.zeros((self.side, self.side), dtype=np.uint8)
        filling = Image.Resampling.BOX if gray.shape[1] >= size[0] else Image.Resampling.BILINEAR
        scaled = np.asarray(Image.fromarray(gray).resize(size, filling))
        square[top : top + size[1], left : left + size[0]] = scaled
        return square


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM: by its magic number, or by a suffix that is not misleading."""
    with open(path, "rb") as stream:
        head = stream.read(132)
    named = str(path).lower().endswith((".dcm", ".dicom"))
    return head[128:] == b"DICM" or (named and not head.startswith((b"\x89PNG", b"\xff\xd8\xff")))


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turn errors of reading an image inside the block into PnlocError with its file's name."""
    try:
        yield
    except FileNotFoundError:
        raise PnlocError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise PnlocError(f"{path}: not an image (PNG, JPEG or DICOM)") from None
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PnlocError(f"{path}: cannot be read as an image ({reason})") from None


def header(path: str | Path) -> Header:
    """The header of an image file; PnlocError with its name where it makes no sense."""
    with _named(path):
        if not is_dicom(path):
            with _opened(path) as image:
                return Header(*image.size)
        tags = ["Rows", "Columns", "PatientSex", "PatientAge", "ViewPosition"]
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        age = str(data.get("PatientAge", "")).strip().upper().removesuffix("Y")
        years = float(age) if age.isascii() and age.isdigit() and int(age) <= 120 else float("nan")
        sex, view = (str(data.get(t, "") or "").strip() for t in ("PatientSex", "ViewPosition"))
        return Header(*_checked(path, int(data.Columns), int(data.Rows)), True, sex, years, view)


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """PIL's lazy image, of a size that a radiograph may have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_checked` is stricter
        image = Image.open(path)
    with image:
        _checked(path, *image.size)
        yield image


def _checked(path: str | Path, width: int, height: int) -> tuple[int, int]:
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise PnlocError(f"{path}: {width} x {height} pixels, which no radiograph has")
    return width, height


def read_gray(path: str | Path, near: int | None = None) -> np.ndarray:
    """The image as uint8 [H, W], white being dense; PnlocError with file and reason.

    near: a JPEG may be decoded at a reduced scale whose longer side is still at least this long.
    """
    with _named(path):
        if is_dicom(path):
            return _read_dicom(path)
        with _opened(path) as image:
            if near and image.format == "JPEG" and image.mode in ("L", "RGB"):
                share = max(near / max(image.size), 1e-6)
                image.draft("L", tuple(int(np.ceil(extent * share)) for extent in image.size))
            image.load()
            return _gray(image)


def _gray(image: Image.Image) -> np.ndarray:
    """Any PIL mode as uint8 grey: wider values scaled to their own range, transparency on black."""
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
    if high == low:
        return np.zeros(values.shape, np.uint8)
    return ((values - low) / (high - low) * 255).round().astype(np.uint8)


def _read_dicom(path: str | Path) -> np.ndarray:
    """The first frame of a DICOM file: rescale, VOI LUT or window, inversion of MONOCHROME1."""
    data = pydicom.dcmread(path)
    if "PixelData" not in data:
        raise PnlocError(f"{path}: a DICOM file without pixels")
    _checked(path, int(data.Columns), int(data.Rows))
    try:
        raw = data.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        syntax = data.file_meta.get("TransferSyntaxUID", "") if hasattr(data, "file_meta") else ""
        reason, name = " ".join(str(error).split())[:200], getattr(syntax, "name", "") or "unknown"
        start = f"{path}: pixels of transfer syntax '{name}' cannot be decoded"
        advice = "`pip install 'pylibjpeg[all]'`, or convert the file to PNG"
        raise PnlocError(f"{start}; {advice} ({reason})") from None
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


Loaded = tuple[np.ndarray, Letterbox] | PnlocError


def load(path: str | Path, side: int) -> tuple[np.ndarray, Letterbox]:
    """An image file as uint8 [side, side], and the transform of its boxes; PnlocError names it."""
    letterbox = Letterbox(*header(path)[:2], side)
    return letterbox.image(read_gray(path, near=side)), letterbox


def load_all(paths: Iterable[str], side: int, workers: int = 0) -> Iterator[Loaded]:
    """The result of `load` for each file, or its error, in order, from threads (`in_threads`)."""

    def one(path: str) -> Loaded:
        try:
            return load(path, side)
        except PnlocError as error:
            return error

    return in_threads(one, paths, workers)


def in_threads(function: Callable, items: Iterable, workers: int = 0) -> Iterator:
    """function(item) for each item, in order, from `workers` threads (0: all).

    Pillow's decoders release the interpreter's lock, so threads do what processes would, and the
    caller may train on the last images meanwhile. A few results per thread wait at a time.
    """
    workers, rest = workers or cpu_count(), iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = deque(pool.submit(function, item) for item in islice(rest, 4 * workers))
        while waiting:
            done = waiting.popleft()
            waiting += [pool.submit(function, item) for item in islice(rest, 1)]
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)
