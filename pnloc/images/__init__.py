"""Image files: any PNG, JPEG or DICOM as an 8-bit grey array, and the transform of its boxes.

White is dense in every array that leaves this module, and PNG, JPEG and TIFF are upright as their
EXIF orientation says. DICOM files (pnloc.images.dicom) keep the grid that they are stored in.
`oddities` says what is unusual for a frontal radiograph of a chest.
"""

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
from joblib import cpu_count
from PIL import ExifTags, Image, UnidentifiedImageError

from pnloc.boxes import as_boxes
from pnloc.errors import PnlocError
from pnloc.images import dicom, remarks

TAIL = 2**16  # bytes at the end of a file, which hold all that follows its pixels
MOST_PIXELS = 100_000_000  # more than any radiograph; a larger file is refused unread
_TURN = Image.Transpose
# EXIF orientation -> what makes the picture upright.
UPRIGHT = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM}
UPRIGHT |= {5: _TURN.TRANSPOSE, 6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90}
_POLARITY = ExifTags.Base.PhotometricInterpretation  # Pillow applies it to 8 bits only


class Header(NamedTuple):
    """The header of an image file; what follows `height` comes with DICOM files only.

    Width and height are those of the upright picture, in which boxes are given.
    """

    width: int
    height: int
    dicom: bool = False
    sex: str = ""
    age: float = float("nan")  # years
    view: str = ""
    odd: str = ""  # what it says against a frontal radiograph of a chest (pnloc.images.remarks)


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

    @property
    def share(self) -> float:
        """The share of the square that the image covers."""
        return self.width * self.height * (self.scale / self.side) ** 2

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


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turn errors of reading an image inside the block into PnlocError with its file's name."""
    try:
        yield
    except FileNotFoundError:
        raise PnlocError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise PnlocError(f"{path}: not an image (PNG, JPEG or DICOM)") from None
    except PnlocError:
        raise
    except Exception as error:  # Pillow and pydicom raise nearly anything on broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PnlocError(f"{path}: cannot be read as an image ({reason})") from None


def header(path: str | Path) -> Header:
    """The header of an image file; PnlocError with its name where it makes no sense."""
    with _named(path):
        if not dicom.is_dicom(path):
            with _opened(path) as image:
                sideways = _orientation(image, path) in (5, 6, 7, 8)
                return Header(*(image.size[::-1] if sideways else image.size))
        data = dicom.read(path, header_only=True)
        age = dicom.text(data, "PatientAge").upper().removesuffix("Y")
        years = float(age) if age.isascii() and age.isdigit() and int(age) <= 120 else float("nan")
        sex, view = dicom.text(data, "PatientSex"), dicom.text(data, "ViewPosition")
        size = _checked(path, int(data.Columns), int(data.Rows))
        return Header(*size, True, sex, years, view, "; ".join(remarks.of_header(data)))


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """PIL's lazy image, of a size that a radiograph may have.

    It is opened as a stream: Pillow reads a turned TIFF by its name in the wrong order.
    """
    with open(path, "rb") as stream:
        with warnings.catch_warnings():
            # `_checked` is stricter.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream)
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
        if dicom.is_dicom(path):
            return np.asarray(Image.fromarray(_shades(dicom.read(path), path)).convert("L"))
        with _opened(path) as image:
            if near and image.format == "JPEG" and image.mode in ("L", "RGB"):
                share = max(near / max(image.size), 1e-6)
                image.draft("L", tuple(int(np.ceil(extent * share)) for extent in image.size))
            image.load()
            gray, turn = _gray(image), UPRIGHT.get(_orientation(image, path))
            return gray if turn is None else np.asarray(Image.fromarray(gray).transpose(turn))


def _orientation(image: Image.Image, path: str | Path) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1 too where it has none, or a damaged one.

    Pillow turns TIFF files itself.
    """
    if image.format == "TIFF":
        return 1
    if image.format == "PNG" and _ends_with_metadata(path):
        image.load()
    try:
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return value if value in UPRIGHT else 1


def _ends_with_metadata(path: str | Path) -> bool:
    """Whether a PNG may have EXIF data or text at its end, where Pillow looks at loading only."""
    with open(path, "rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - TAIL))
        tail = stream.read().rpartition(b"IDAT")[2]
    return any(kind in tail for kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"))


def _gray(image: Image.Image) -> np.ndarray:
    """Any PIL mode as uint8 grey: wider values scaled to their own range, transparency on black."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(_POLARITY) == 0
        return _to_bytes(-values if white_is_zero else values)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour)
    return np.asarray(image.convert("L"), dtype=np.uint8)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Finite values to 0..255 over their range, others to 0; a flat image becomes all zero."""
    values, finite = np.asarray(values, dtype=np.float64), np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    if high == low:
        return np.zeros(values.shape, np.uint8)
    return (np.where(finite, values - low, 0.0) / (high - low) * 255).round().astype(np.uint8)


def _shades(data: dicom.Dataset, path: str | Path) -> np.ndarray:
    """The first frame of a DICOM file as uint8 [H, W] or [H, W, 3]; padding is black."""
    _checked(path, int(data.Columns), int(data.Rows))
    values = dicom.pixels(data, path)
    return values if values.dtype == np.uint8 else _to_bytes(values)


def oddities(path: str | Path, gray: np.ndarray) -> list[str]:
    """What is odd about an image file as a frontal radiograph of a chest: short phrases.

    gray: its picture as `read_gray` or, with black bars, as `load` gives it. By the header where
    that says something, else by the pixels; nothing is known of a lateral PNG. An empty list is no
    promise. Raises PnlocError where the file cannot be read.
    """
    head = header(path)
    inside = _without_bars(gray, head)
    odd = [head.odd] if head.odd else []
    odd += remarks.of_pixels(inside, head.width, head.height)
    with _named(path):
        data = dicom.read(path) if head.dicom else None
        colours = _colours(path, data)  # first: `stored_remarks` completes the header
        odd += [] if data is None else dicom.stored_remarks(data, path)
    return odd if colours is None else odd + remarks.of_colours(colours)


def _without_bars(gray: np.ndarray, head: Header) -> np.ndarray:
    """A picture without the black bars that make a square of an image of other proportions."""
    height, width = gray.shape
    if width != height or head.width == head.height:
        return gray
    left, top = (int(np.ceil(o)) for o in Letterbox(head.width, head.height, width).offset)
    inside = gray[top : height - top, left : width - left]
    return inside if inside.size else gray


def _colours(path: str | Path, data: dicom.Dataset | None) -> np.ndarray | None:
    """The pixels of an image, much reduced, as uint8 [64, 64, 3]; None for one that has no colours.

    data: the content of a DICOM file. It may be grey that is stored as colours.
    """
    if data is not None:
        if dicom.number(data, "SamplesPerPixel") != 3:
            return None
        image = Image.fromarray(_shades(data, path))
    else:
        with _opened(path) as image:
            if image.mode in ("1", "L", "LA") or image.mode.startswith(("I", "F")):
                return None
            image.draft("RGB", (64, 64))
            image = image.convert("RGB")
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX))


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
