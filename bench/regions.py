"""Regions on disk at the size of MIMIC-CXR-JPG: bytes, and memory while training from them.

Writes random regions of 377,110 studies at R = 20 and the widths of the `mimic` preset with the
code that writes real ones. Another process, whose peak memory is reported, reads an epoch of rows
in random order and trains some steps. The files are removed at the end. With less than 25 GB free
it writes as many studies as fit, and says how many.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench import COLUMNS
from bench.training import measured
from pnloc.config import preset
from pnloc.regions import Regions, feature_size
from pnloc.run import feature_store

STUDIES, WORDS, NAMES, STEPS = 377_110, 48, 18, 100
ROOM = 25e9  # bytes free, or fewer studies
LONGEST = 90.0  # seconds of reading, after which the rate is taken as it is
PRESET = preset("mimic")


def run() -> pd.DataFrame:
    """Bytes and memory against their bars; waiting for a batch against a training step."""
    root = Path(__file__).parents[1]
    home = root / "artifacts" / "bench"
    home.mkdir(parents=True, exist_ok=True)
    studies = int(STUDIES * min(1, shutil.disk_usage(home).free / ROOM))
    with tempfile.TemporaryDirectory(prefix="regions-", dir=home) as folder:
        write(folder, studies)
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file()) / 1e9
        command = [sys.executable, "-m", "bench.regions", folder, str(studies)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    facts = json.loads(done.stdout.splitlines()[-1])
    peak, waited, whole = facts["peak_gib"], facts["waited"], facts["whole"]
    reading = f"peak memory: {facts['rows']:,} rows in random order, {STEPS} steps"
    waiting = "share of a training step spent waiting for rows from disk"
    rows = [
        [f"regions of {studies:,} studies on disk", size, 20.0, "GB", size / 20, 1.0],
        [reading, peak, 3.0, "GiB", peak / 3, 1.0],
        [waiting, waited, whole, "s", waited / whole, 0.05],
    ]
    table = pd.DataFrame(rows, columns=COLUMNS[:-1])
    return table.assign(met=table["ratio"] <= table["bar"])


def write(folder: str, studies: int) -> None:
    """Regions of `studies` studies: one random block in the place of every slice."""
    block = generated(feature_store.LENGTH)
    feature_store.build(Path(folder), studies, lambda rows: shifted(block, rows))


def generated(count: int) -> Regions:
    """Random regions of `count` studies."""
    side, regions = PRESET.detector.side, PRESET.regions.count
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(count, regions, 4, generator=rng) * side / 2
    corners[..., 2:] += corners[..., :2]
    return Regions(
        corners,
        torch.rand(count, regions, generator=rng),
        torch.ones(count, regions, dtype=torch.bool),
        torch.randn(count, regions, feature_size(PRESET.detector.pyramid), generator=rng).half(),
        torch.rand(count, side // 8, side // 8, generator=rng).half(),
        torch.rand(count, generator=rng),
    )


def shifted(block: Regions, rows: slice) -> Regions:
    """The block again, moved on by the slice's number, so that no two slices are alike."""
    return block.rows(
        (np.arange(rows.stop - rows.start) + rows.start // feature_store.LENGTH) % len(block)
    )


def work(folder: str, count: int) -> dict[str, float]:
    """Read an epoch and train from the regions of `count` studies; runs in a process of its own."""
    import resource

    from pnloc.reports.words import WordVectors
    from pnloc.training import train_localizer

    regions = feature_store.load(Path(folder), count)
    rng, batch = np.random.default_rng(0), PRESET.model.batch
    order, read, started = rng.permutation(count), 0, time.perf_counter()
    for start in range(0, count, batch):
        read += len(regions.rows(order[start : start + batch]))
        if time.perf_counter() - started > LONGEST:
            break
    # All studies have words, labels and weights in memory, as in a real run; training leaves those
    # of weight 0 out.
    words = rng.integers(0, 500, (count, WORDS))
    words[:, 12:] = -1
    phrases = (rng.random((count, 2, 6), dtype=np.float32) < 0.3).astype(np.float32)
    labels = (rng.random((count, NAMES), dtype=np.float32) < 0.3).astype(np.float32)
    weights = np.zeros((count, NAMES), dtype=np.float32)
    weights[rng.choice(count, STEPS * batch, replace=False)] = 1
    vectors = WordVectors(
        ["", *map(str, range(499))], rng.normal(size=(500, PRESET.words.size)).astype(np.float32)
    )
    with tempfile.TemporaryDirectory() as scratch:
        (waited, whole, _, _), _ = measured(
            lambda: train_localizer(
                feature_store.join([(regions, np.arange(count))]),
                words,
                phrases,
                labels,
                weights,
                vectors,
                tuple(map(str, range(NAMES))),
                replace(PRESET.model, epochs=1),
                text=True,
                seed=0,
                folder=scratch,
                fingerprint="b",
            )
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"rows": read, "waited": waited, "whole": whole, "peak_gib": peak}


if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], int(sys.argv[2]))))
