"""What training with reports adds to boxes over several seeds of the attention: one seed moves such a difference by as much as text does."""

from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.boxes import union_iou
from pnloc.evaluation import bootstrap
from pnloc.files import read_csv, write_table
from pnloc.localizer import Choice, boxes_of
from pnloc.run.cache import lay_out
from pnloc.run.comparators import boxed_rows, kinds
from pnloc.run.predictions import choose, scores
from pnloc.run.run import Run

COLUMNS = ["dataset", "seed", "text", "labels", "value", "low", "high", "n"]
ARMS = ("text-attention", "image-label-attention")
MEAN = "mean"  # stands for the seed in the row of all


def table(run: Run) -> pd.DataFrame:
    """`tables/text_seeds.csv`: dataset, seed, text, labels, value, low, high, n; empty where the preset has one seed.

    Mean union IoU of the boxes on test images with a box, of the attention trained with reports and with image labels alone, and their
    difference, with a 95% interval over patients. Each training chooses on validation images how many boxes it keeps. In the row 'mean' an
    image's value is averaged over the seeds first. Detector, regions and word vectors are the run's own.
    """
    if run.preset.seeds < 2:
        return pd.DataFrame(columns=COLUMNS)

    def make(folder: Path, _: str) -> None:
        parts = {name: [[], []] for name in _measured(run)}
        for seed in seeds(run):
            for arm, method in enumerate(ARMS):
                choice, _ = choose(run, method, seed=seed)
                for name, values in parts.items():
                    values[arm].append(_values(run, name, method, seed, choice))
        rows = [
            row for name, values in parts.items() for row in _rows(run, name, *np.array(values))
        ]
        write_table(folder / "text_seeds.csv", pd.DataFrame(rows, columns=COLUMNS))

    models = [run.localizer_stage(text, seed)[1] for seed in seeds(run) for text in (True, False)]
    regions = [run.regions_stage(name)[1] for name in _measured(run)]
    folder, _ = run.cache.stage(
        "text-seeds", models, regions, run.preset.resamples, run.seed, make=make
    )
    lay_out(folder, run.root)
    return read_csv(folder / "text_seeds.csv", COLUMNS, dtype={"seed": str})


def seeds(run: Run) -> list[int]:
    """The seeds of the attention: the run's own, then others that no run with a small seed has for its own."""
    return [run.seed, *(run.seed + 1000 * k for k in range(1, run.preset.seeds))]


def _measured(run: Run) -> list[str]:
    return [run.title(role) for role in run.preset.roles.localization]


def _values(run: Run, name: str, method: str, seed: int, choice: Choice) -> np.ndarray:
    """Union IoU [n] on the test images of a set that have a box."""
    rows, truth = boxed_rows(run, name, "test"), run.sets.true_boxes(name, kinds(name))
    found = boxes_of(
        run.regions(name).rows(rows), scores(run, name, rows, method, choice.grouped, seed), choice
    )
    return np.array(
        [union_iou(boxes, truth[row]) for row, (boxes, _) in zip(rows, found, strict=True)]
    )


def _rows(run: Run, name: str, text: np.ndarray, labels: np.ndarray) -> list[tuple]:
    """Rows of COLUMNS from the union IoU [seeds, n] of both arms on a set's test images."""
    patients = run.sets.records(name).images["patient"].to_numpy()[boxed_rows(run, name, "test")]
    if not len(patients):
        return []
    drawn = bootstrap.of_images(patients, run.preset.resamples, run.seed)
    by_seed = {str(seed): (text[k], labels[k]) for k, seed in enumerate(seeds(run))}
    found = []
    for seed, (a, b) in {MEAN: (text.mean(0), labels.mean(0)), **by_seed}.items():
        low, high = bootstrap.interval(drawn @ (a - b) / drawn.sum(1))
        found.append((name, seed, a.mean(), b.mean(), (a - b).mean(), low, high, len(patients)))
    return found
