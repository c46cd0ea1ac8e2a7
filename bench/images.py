"""Decoding: a large JPEG at model size, beside a full decode and beside the bare reduced decode.

Threads are measured beside one, too. The file is generated: 2544 x 3056 pixels, about 1.6 MB, as in
MIMIC-CXR-JPG; bounds are those of the entropy decoder, which no reduced scale spares.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter

from bench import COLUMNS
from pnloc.images import load, load_all

WIDTH, HEIGHT, BYTES, SIDE = 2544, 3056, 1_600_000, 256
REPEATS, FILES = 15, 24


def radiograph(path: Path) -> int:
    """Write the JPEG, with as much grain as gives about BYTES; returns its size."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    soft = 120 + 60 * np.cos(9 * x) * np.sin(7 * y)
    grain = gaussian_filter(rng.standard_normal((HEIGHT, WIDTH)), 0.8)
    low, high = 0.0, 60.0
    for _ in range(12):
        middle = (low + high) / 2
        Image.fromarray((soft + middle * grain).clip(0, 255).astype(np.uint8)).save(
            path, quality=92
        )
        low, high = (middle, high) if path.stat().st_size < BYTES else (low, middle)
    return path.stat().st_size


def full(path: Path) -> np.ndarray:
    """What one writes first: decode all of it, then resize."""
    with Image.open(path) as image:
        return np.asarray(
            image.convert("L").resize((SIDE * WIDTH // HEIGHT, SIDE), Image.Resampling.BOX)
        )


def bare(path: Path) -> np.ndarray:
    """The reduced decode alone: no checks, no resizing, no padding."""
    with Image.open(path) as image:
        image.draft("L", (SIDE * WIDTH // HEIGHT, SIDE))
        return np.asarray(image)


def _fastest(*functions) -> list[float]:
    """Milliseconds of each function, the least of REPEATS.

    They take turns, so that a busy machine is fair.
    """
    times = np.full((REPEATS, len(functions)), np.inf)
    for turn in range(REPEATS):
        for k, function in enumerate(functions):
            started = time.perf_counter()
            function()
            times[turn, k] = (time.perf_counter() - started) * 1000
    return list(times.min(0))


def _training(seconds: float) -> int:
    """Steps of a computation that holds the interpreter as little as torch's do."""
    rng, steps, end = np.random.default_rng(0), 0, time.perf_counter() + seconds
    weights = rng.standard_normal((200, 200))
    while time.perf_counter() < end:
        weights @ weights
        steps += 1
    return steps


def _overlapped(paths: list[Path]) -> float:
    """Seconds for decoding, one thread ahead, while as long a computation runs between images."""
    share = _alone(paths) / len(paths)
    started = time.perf_counter()
    for _ in load_all(paths, SIDE, workers=1):
        _training(share)
    return time.perf_counter() - started


def _alone(paths: list[Path], workers: int = 1) -> float:
    started = time.perf_counter()
    for _ in load_all(paths, SIDE, workers):
        pass
    return time.perf_counter() - started


def run() -> pd.DataFrame:
    """Ratios of one JPEG, and of FILES of it with threads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jpg"
        size = radiograph(path)
        ours, whole, reduced = _fastest(
            lambda: load(path, SIDE), lambda: full(path), lambda: bare(path)
        )
        paths = [path] * FILES
        one, two = min(_alone(paths) for _ in range(3)), min(_alone(paths, 2) for _ in range(3))
        both = min(_overlapped(paths) for _ in range(3))
    name = f"{WIDTH} x {HEIGHT} JPEG of {size / 1e6:.2f} MB to {SIDE}"
    rows = [
        (
            f"{name}, against full decode and resize",
            ours,
            whole,
            "ms",
            whole / ours,
            ">= 1.7 x as fast",
            whole / ours >= 1.7,
        ),
        (
            f"{name}, against the bare reduced decode",
            ours,
            reduced,
            "ms",
            ours / reduced,
            "<= 1.35 x its time",
            ours / reduced <= 1.35,
        ),
        (
            f"{FILES} of them, 2 threads against 1",
            two,
            one,
            "s",
            one / two,
            ">= 1.5 x as fast on 2 free cores",
            one / two >= 1.5,
        ),
        (
            f"{FILES} of them and as long a computation, overlapped against one after the other",
            both,
            2 * one,
            "s",
            2 * one / both,
            ">= 1.5 x as fast on 2 free cores",
            2 * one / both >= 1.5,
        ),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
