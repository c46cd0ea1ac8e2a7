"""Finding the same image twice: scikit-learn's neighbours against comparing all hashes with all.

Also the time of that search for 100,000 images.
"""

import time

import numpy as np
import pandas as pd

from bench import COLUMNS
from pnloc.data.duplicates import BITS, SIDE, hashes, near

SMALL, LARGE = 20_000, 100_000


def thumbnails(count: int) -> np.ndarray:
    """Soft pictures that are alike, as radiographs are: mixtures of forty, with their own grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = np.stack(
        [np.cos(a * x + b * y + c) for a, b, c in rng.uniform(1, 12, (40, 3))]
    ).reshape(40, -1)
    found = np.empty((count, SIDE, SIDE), dtype=np.uint8)
    for start in range(0, count, 5000):
        part = rng.dirichlet(np.full(40, 0.2), min(5000, count - start)) @ waves
        part = 128 + 60 * part + rng.normal(0, 6, part.shape)
        found[start : start + len(part)] = part.clip(0, 255).reshape(-1, SIDE, SIDE)
    again = found[: SMALL // 20].astype(float) + rng.normal(
        0, 2, (SMALL // 20, SIDE, SIDE)
    )  # saved anew
    found[SMALL - len(again) : SMALL] = again.clip(0, 255)
    return found


def all_with_all(bits: np.ndarray) -> int:
    """How many pairs differ by at most BITS bits, each compared with each."""
    words, total = np.packbits(bits, axis=1).view(np.uint64), 0
    for start in range(0, len(words), 256):
        distance = sum(
            np.bitwise_count(words[start : start + 256, None, k] ^ words[None, :, k]).astype(
                np.int16
            )
            for k in range(4)
        )
        total += int((distance <= BITS).sum())
    return (total - len(words)) // 2


def run() -> pd.DataFrame:
    """Seconds for the same hashes; both must find the same number of pairs."""
    bits = hashes(thumbnails(LARGE))
    started = time.perf_counter()
    found = near(bits[:SMALL])
    ours = time.perf_counter() - started
    expected = all_with_all(bits[:SMALL])
    other = time.perf_counter() - started - ours
    if len(found) != expected:
        raise RuntimeError(f"{len(found)} pairs found, {expected} expected")
    started = time.perf_counter()
    near(bits)
    large = time.perf_counter() - started
    rows = [
        (
            f"{SMALL} images, {expected} pairs, against all with all",
            ours,
            other,
            "s",
            other / ours,
            "as fast",
            other / ours >= 1,
        ),
        (f"{LARGE} images", large, 180.0, "s", large / 180, "< 180 s", large < 180),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
