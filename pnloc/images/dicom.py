"""DICOM files: what a header says, and the first frame as numbers that grow with density.

A header that lacks something is completed where only one reading makes sense; pnloc.images.remarks
says where it is a guess.
"""

from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi
from scipy.ndimage import label
from scipy.special import expit

from pnloc.errors import PnlocError

INSIDE = 0.001  # share of pixels with the value of padding, but inside, that is worth a remark


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its content: the prefix DICM, or a first element as they have."""
    with open(path, "rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM":
        return True
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    little = head[:1] in (b"\x02", b"\x08") and head[1:2] + head[3:4] == b"\0\0"
    big = head[:3] == b"\0\x08\0"
    return (little and (explicit or head[5:8] == b"\0\0\0")) or (big and explicit)


def read(path: str | Path, header_only: bool = False) -> Dataset:
    """A DICOM file, with or without its preamble; PnlocError where it has no picture."""
    data = pydicom.dcmread(path, stop_before_pixels=header_only, force=True)
    if not header_only and not data.get("PixelData"):
        raise PnlocError(f"{path}: a DICOM file without pixels")
    if None in (number(data, "Rows"), number(data, "Columns")):
        raise PnlocError(f"{path}: a DICOM file without a picture (no Rows and Columns)")
    return data


def numbers(data: Dataset, name: str) -> list[float]:
    """The finite numbers of an element; none where it is missing, empty or something else."""
    try:
        values = np.ravel(np.asarray(data.get(name), dtype=float))
    except (TypeError, ValueError):
        return []
    return values[np.isfinite(values)].tolist()


def number(data: Dataset, name: str) -> float | None:
    """The first of the finite numbers of an element, or None."""
    return next(iter(numbers(data, name)), None)


def text(data: Dataset, name: str) -> str:
    """An element as text, its values joined by backslashes; '' where it is missing or empty."""
    value = data.get(name)
    values = [value] if value is None or isinstance(value, str) else np.ravel(value).tolist()
    return "\\".join(str(part) for part in values if part is not None).strip()


def complete(data: Dataset) -> None:
    """Fill in what pydicom needs to decode pixels: what is missing, empty or impossible."""
    meta = data.file_meta if hasattr(data, "file_meta") else FileMetaDataset()
    if not meta.get("TransferSyntaxUID"):
        implicit, little = data.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    data.file_meta = meta
    samples, frames, stored = (
        int(number(data, name) or least)
        for name, least in (("SamplesPerPixel", 1), ("NumberOfFrames", 1), ("BitsStored", 0))
    )
    count = max(1, int(data.Rows) * int(data.Columns) * samples * frames)
    allocated = 8 * (len(data.PixelData) // count)
    if meta.TransferSyntaxUID.is_compressed:
        allocated = 16 if stored > 8 else 8
    allocated = int(number(data, "BitsAllocated") or allocated)
    stored = stored if 0 < stored <= allocated else allocated
    high = number(data, "HighBit")
    high = int(high) if high is not None and stored <= high + 1 <= allocated else stored - 1
    data.SamplesPerPixel, data.NumberOfFrames = samples, frames
    data.BitsAllocated, data.BitsStored, data.HighBit = allocated, stored, high
    data.PixelRepresentation = int(number(data, "PixelRepresentation") or 0)
    if not text(data, "PhotometricInterpretation"):
        data.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    if samples > 1 and number(data, "PlanarConfiguration") is None:
        data.PlanarConfiguration = 0


def pixels(data: Dataset, path: str | Path) -> np.ndarray:
    """The first frame [H, W], or [H, W, 3] in colour; great numbers are dense.

    uint8 where the file has shades of 8 bits and nothing else to apply. The steps of the standard:
    stored bits, padding, modality LUT or rescale, VOI LUT or window, polarity. Padding is black and
    has no part in the range of the others. Where a window or LUT leaves a picture of one grey, it
    is left out. PnlocError where pixels cannot be decoded.
    """
    complete(data)
    raw = _decoded(data, path)
    if data.PhotometricInterpretation == "PALETTE COLOR":
        colour = apply_color_lut(_first(raw), data)[..., :3]
        return colour if colour.dtype == np.uint8 else (colour >> 8).astype(np.uint8)
    if data.SamplesPerPixel == 3:
        return raw.reshape(-1, *raw.shape[-3:])[0]
    raw, shape = _first(raw), text(data, "PresentationLUTShape")
    inverse = shape == "INVERSE" or data.PhotometricInterpretation == "MONOCHROME1"
    stored = _stored(data, raw)
    padding = _at_border(_padding(data, raw, stored))
    if padding.any():
        light_first = inverse != ((number(data, "RescaleSlope") or 1) < 0)
        black = stored.dtype.type(_black(stored[~padding], light_first))
        stored = np.where(padding, black, stored)
    values = _rescaled(data, stored)
    shown = _windowed(data, values)
    if shown is None or (np.ptp(shown[~padding]) == 0 and np.ptp(values[~padding]) > 0):
        shown = values
    if raw.dtype == np.uint8 and shown is values and 0 <= values.min() <= values.max() <= 255:
        values = values.astype(np.uint8)
        return np.where(padding, 0, 255 - values if inverse else values).astype(np.uint8)
    shown = -shown.astype(float) if inverse else shown.astype(float)
    return np.where(padding, shown.min(), shown)


def _decoded(data: Dataset, path: str | Path) -> np.ndarray:
    """The array of all frames, words as they are; PnlocError with the transfer syntax otherwise."""
    extent = data.Rows * data.Columns * data.SamplesPerPixel * data.NumberOfFrames
    needed, given = extent * data.BitsAllocated // 8, len(data.PixelData)
    if given < needed and not data.file_meta.TransferSyntaxUID.is_compressed:
        raise PnlocError(f"{path}: cut short ({given} bytes of pixels; its header says {needed})")
    data.pixel_array_options(correct_unused_bits=not _words(data))
    try:
        return data.pixel_array.astype(data.pixel_array.dtype.newbyteorder("="), copy=False)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        syntax = getattr(data.file_meta.TransferSyntaxUID, "name", "") or "unknown"
        start = f"{path}: pixels of transfer syntax '{syntax}' cannot be decoded"
        advice = "`pip install 'pylibjpeg[all]'`, or convert the file to PNG"
        raise PnlocError(f"{start}; {advice} ({reason})") from None


def _first(frames: np.ndarray) -> np.ndarray:
    """The first of grey frames [H, W] or [N, H, W]."""
    return frames.reshape(-1, *frames.shape[-2:])[0]


def _words(data: Dataset) -> bool:
    """Whether pixels are stored as words that may hold more than the stored bits."""
    syntax = data.file_meta.TransferSyntaxUID
    return not syntax.is_compressed or syntax == uid.RLELossless


def _stored(data: Dataset, raw: np.ndarray) -> np.ndarray:
    """The stored bits of each word, with their sign: overlays lie in the others."""
    size = 8 * raw.dtype.itemsize
    if not _words(data) or raw.dtype.kind not in "iu" or data.HighBit >= size:
        return raw
    word = raw.astype(f"u{raw.dtype.itemsize}") << (size - 1 - data.HighBit)
    return word.view(raw.dtype) >> (size - data.BitsStored)


def _padding(data: Dataset, raw: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Which pixels have the value of padding, bool [H, W]; none where all of them would.

    The value may be given with the sign of the pixels or without, and be wider than the stored
    bits, as the words are.
    """
    padding = np.zeros(raw.shape, dtype=bool)
    first, last = number(data, "PixelPaddingValue"), number(data, "PixelPaddingRangeLimit")
    if first is None:
        return padding
    limits = [int(first), int(first if last is None else last)]
    size = 8 * raw.dtype.itemsize
    wide = [limit % 2**size for limit in limits]
    for values, bits, ends in ((raw, size, wide), (stored, data.BitsStored, limits)):
        half = 2 ** (bits - 1) if data.PixelRepresentation else 0
        if all(-half <= end < 2**bits for end in ends):
            low, high = sorted((end + half) % 2**bits - half for end in ends)
            padding |= (values >= low) & (values <= high)
    return padding & ~padding.all()


def _at_border(padding: np.ndarray) -> np.ndarray:
    """The parts of padding [H, W] that reach the border, or all where none does.

    Others are dense or empty places of the picture that happen to have the value.
    """
    parts, _ = label(padding)
    edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return np.isin(parts, edge[edge > 0]) if edge.any() else padding


def _black(values: np.ndarray, light_first: bool) -> int:
    """The stored value of black of a padded picture, whose own background is cut away.

    It is the end of the range of the bits that the values [N] need, or the darkest value where the
    picture would fill less than half of that range.
    """
    low, high = int(values.min()), int(values.max())
    if light_first:
        end, darkest = 2 ** max(high, 0).bit_length() - 1, high
    else:
        end, darkest = 0 if low >= 0 else -(2 ** (-low - 1).bit_length()), low
    reach = max(high, end) - min(low, end)
    return end if high - low >= reach / 2 else darkest


def _rescaled(data: Dataset, stored: np.ndarray) -> np.ndarray:
    """Stored values after the modality LUT, or slope and intercept; an empty one is none."""
    if _tables(data, "ModalityLUTSequence"):
        return apply_modality_lut(stored, data)
    slope = number(data, "RescaleSlope") or 1.0
    intercept = number(data, "RescaleIntercept") or 0.0
    return stored if (slope, intercept) == (1, 0) else stored * slope + intercept


def _tables(data: Dataset, name: str) -> bool:
    """Whether a sequence has a lookup table that can be applied."""
    first = next(iter(data.get(name) or []), {})
    return len(numbers(first, "LUTDescriptor")) == 3 and first.get("LUTData") is not None


def _windowed(data: Dataset, values: np.ndarray) -> np.ndarray | None:
    """Values after the first VOI LUT, or the first window (0 to 1); None without a usable one."""
    if _tables(data, "VOILUTSequence"):
        whole = values if values.dtype.kind in "iu" else values.round().astype(np.int64)
        return apply_voi(whole, data)
    function = text(data, "VOILUTFunction").upper()
    linear = function not in ("LINEAR_EXACT", "SIGMOID")
    pairs = zip(numbers(data, "WindowCenter"), numbers(data, "WindowWidth"), strict=False)
    usable = [pair for pair in pairs if pair[1] >= 1 or (pair[1] > 0 and not linear)]
    if not usable:
        return None
    centre, width = usable[0]
    if function == "SIGMOID":
        return expit(4 * (values - centre) / width)
    if linear:
        centre, width = centre - 0.5, max(width - 1, 1e-9)
    return ((values - centre) / width + 0.5).clip(0, 1)


def stored_remarks(data: Dataset, path: str | Path) -> list[str]:
    """What is unusual in the pixels of a grey picture: bits of no meaning, padding inside."""
    complete(data)
    padded = number(data, "PixelPaddingValue") is not None
    spare = _words(data) and 1 < data.BitsStored < data.BitsAllocated
    if data.SamplesPerPixel != 1 or not (padded or spare):
        return []
    raw, lines = _first(_decoded(data, path)), []
    stored, unsigned = _stored(data, raw), f"u{raw.dtype.itemsize}"
    padding, words = _padding(data, raw, stored), raw.astype(unsigned)
    shift = data.HighBit + 1 - data.BitsStored
    more = words & ~(stored << shift).astype(unsigned) & ~np.array(_overlays(data), unsigned)
    if spare and more[~padding].any():
        lines.append(f"bits outside of the {data.BitsStored} stored ones are set, and left out")
    inside = (padding & ~_at_border(padding)).sum()
    if inside > INSIDE * padding.size:
        lines.append(f"{inside} pixels inside have the Pixel Padding Value: read as picture")
    return lines


def _overlays(data: Dataset) -> int:
    """The bits of a word in which overlays are declared to lie."""
    places = [data.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2)]
    return sum({1 << int(place.value) for place in places if place is not None and place.value})
