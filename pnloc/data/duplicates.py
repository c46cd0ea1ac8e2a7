"""Finds the same image under two names: a perceptual hash of its content, checked by correlation.

A thumbnail is an image averaged to 32 x 32. Its hash is 255 bits: which of the 16 x 16 lowest
coefficients of its cosine transform, but for the constant one, lie above their median (the widely
used `phash`, with 16 instead of 8 frequencies per axis, since radiographs of the chest are all
alike at 8). Two images count as the same where at most BITS bits differ and their thumbnails
correlate by at least CORRELATION.

Both limits were set on real data. Among the 1.3 million pairs of 1,590 radiographs of the RSNA,
ChestX-ray8 and COVID-19 sets, 8 pairs differ by 26 bits or less and correlate by .97 or more: to
the eye each is one exposure, and one is named by the RSNA-to-NIH mapping. The next pair, two
patients, differs by 46 bits. Of 150 of these images, all were recognised at half size, at 256
pixels, as JPEG of quality 20, brighter, and with another gamma; 93% when cropped by 1% on each
side, 47% when equalized; none when cropped by 3%.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import triu
from sklearn.neighbors import radius_neighbors_graph

from pnloc.data.decode import squares, to_the_front
from pnloc.data.records import Records, drop_patients
from pnloc.images import Letterbox
from pnloc.parallel import bar

SIDE, FREQUENCIES = 32, 16
DECODED = 4 * SIDE  # the side at which files are decoded for their thumbnail
BITS, CORRELATION = 31, 0.95
_PART = 4096  # thumbnails that are compared at once

# uint8 [N, 32, 32], and why an image of a name cannot be decoded.
Thumbnails = tuple[np.ndarray, dict[str, str]]


def thumbnail(square: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """A padded square uint8 [S, S] -> its image without bars, uint8 [32, 32], averaged."""
    left, top = (max(0.0, offset) for offset in letterbox.offset)
    inside = (left, top, letterbox.side - left, letterbox.side - top)
    image = Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BOX, box=inside)
    return np.asarray(image)


def shrink(images: pd.DataFrame, squares: Iterable[np.ndarray | str], side: int) -> Thumbnails:
    """Thumbnails of image rows of Records, given as squares of a side.

    Where there is a reason instead of a square, the thumbnail is black.
    """
    small, reasons = np.zeros((len(images), SIDE, SIDE), dtype=np.uint8), {}
    rows = images[["image", "width", "height"]].itertuples(index=False)
    for place, (row, square) in enumerate(zip(rows, squares, strict=True)):
        if isinstance(square, str):
            reasons[row.image] = square
        else:
            small[place] = thumbnail(square, Letterbox(row.width, row.height, side))
    return small, reasons


def thumbnails(images: pd.DataFrame, title: str = "") -> Thumbnails:
    """Thumbnails of image files, which threads decode; the title is that of the progress bar."""
    decoded = bar(squares(images, DECODED), total=len(images), desc=title, unit="image")
    return shrink(images, decoded, DECODED)


def hashes(thumbnails: np.ndarray) -> np.ndarray:
    """uint8 [N, 32, 32] -> bits uint8 0 or 1 [N, 256]; the first, and those of one grey, are 0."""
    bits = np.zeros((len(thumbnails), FREQUENCIES**2), dtype=np.uint8)
    for start in range(0, len(thumbnails), _PART):
        part = thumbnails[start : start + _PART].astype(np.float32)
        low = dctn(part, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]
        low = low.reshape(len(part), -1)[:, 1:]
        varied = part.reshape(len(part), -1).std(1, keepdims=True) > 0
        bits[start : start + _PART, 1:] = (low > np.median(low, axis=1, keepdims=True)) & varied
    return bits


def pairs(thumbnails: np.ndarray) -> pd.DataFrame:
    """Pairs of the same image among uint8 [N, 32, 32]: a < b (rows), bits, correlation."""
    bits, parts = hashes(thumbnails), []
    close = near(bits)
    for a, b in (close[s : s + _PART].T for s in range(0, len(close) or 1, _PART)):
        distance, alike = (bits[a] != bits[b]).sum(1), _correlation(thumbnails[a], thumbnails[b])
        parts.append(pd.DataFrame({"a": a, "b": b, "bits": distance, "correlation": alike}))
    table = pd.concat(parts)
    return table[table["correlation"] >= CORRELATION].reset_index(drop=True)


def copies(originals: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Rows of `thumbnails` that are the same image as an original (both uint8 [n, 32, 32])."""
    same = pairs(np.concatenate([originals, thumbnails]))
    across = (same["a"] < len(originals)) & (same["b"] >= len(originals))
    return np.unique(same.loc[across, "b"].to_numpy() - len(originals))


def drop_twins(
    records: Records, pixels: np.ndarray, tested: np.ndarray
) -> tuple[Records, np.ndarray]:
    """Records and pixels without patients who train and have a copy of a test image.

    tested: thumbnails uint8 [n, 32, 32] of the test images. A patient with a copy among the
    training and validation images loses all of these. The remaining images move to the front of
    `pixels` [N, S, S].
    """
    images = records.images
    outside = np.flatnonzero(images["split"] != "test")
    own, _ = shrink(images, pixels, pixels.shape[-1])
    patients = set(images["patient"].iloc[outside[copies(tested, own[outside])]])
    left = drop_patients(records, patients, keep_split="test")
    left.counts["dropped_as_duplicate"] = len(images) - len(left.images)
    return left, to_the_front(pixels, images["image"].isin(left.images["image"]).to_numpy())


def near(bits: np.ndarray) -> np.ndarray:
    """All pairs [n, 2], a < b, of hashes [N, 256] that differ by at most BITS bits."""
    if len(bits) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    # The squared Euclidean distance of bits is the number of those that differ.
    graph = radius_neighbors_graph(bits.astype(np.float32), np.sqrt(BITS + 0.5))
    return np.stack(triu(graph, k=1).nonzero(), axis=1)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of pairs of thumbnails [n, 32, 32]; 0 where one of them is flat."""
    one, other = (part.reshape(-1, SIDE * SIDE).astype(np.float32) for part in (one, other))
    one, other = one - one.mean(1, keepdims=True), other - other.mean(1, keepdims=True)
    norm = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    ratio = (one * other).sum(1) / np.maximum(norm, 1e-9)
    return np.where(norm > 0, ratio, 0.0).astype(float)
