"""Cross-validation of the detector over folds of patients, and detectors with other seeds.

The first fold holds the images that the run's own detector was not trained on. The training images
are split among the other folds, each with a detector trained on all images outside it. Every image
of the detector's set is thus measured by a detector that has not seen its patient; a single
held-out part of a small set has too few boxes for stable figures. A method's choices are made for
each fold on the images of the others. On other sets, where no detector has seen any patient, all
detectors are averaged (pnloc.run.severity.readouts).
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from pnloc.baselines import priors
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.bootstrap import NAN, Patients
from pnloc.localizer import Boxes, Choice
from pnloc.regions import Regions, concatenate, extract
from pnloc.run import methods
from pnloc.run.cache import Trained
from pnloc.run.evidence import Images
from pnloc.run.predictions import boxes_table
from pnloc.run.run import Run

BLIND = ("fixed-boxes", "heat-map")
METHODS = (*BLIND, "detector-top", "detector", "detector-mask")
COLUMNS = ["dataset", "method", "metric", "threshold", *metrics.ESTIMATE]
DIFFERENCES = ["dataset", "method", "against", "metric", *metrics.ESTIMATE, "p"]


def home(run: Run) -> str:
    """Title of the set whose boxes train the detectors."""
    return run.title(run.preset.roles.detector)


@lru_cache(None)
def folds(run: Run) -> np.ndarray:
    """The fold [N], from 0 on, of each image of the detector's set.

    No patient is in two folds; all but the first have about as many images with a box.
    """
    name = home(run)
    boxed, patients = _boxed(run), run.sets.records(name).images["patient"].to_numpy()
    training, fold = run.sets.rows(name, "train"), np.zeros(len(boxed), dtype=int)
    split = StratifiedGroupKFold(run.preset.folds - 1, shuffle=True, random_state=run.seed)
    parts = split.split(training, boxed[training], patients[training])
    for number, (_, rows) in enumerate(parts, start=1):
        fold[training[rows]] = number
    return fold


def _boxed(run: Run) -> np.ndarray:
    """Whether each image of the detector's set has a box: bool [N]."""
    return np.array([len(boxes) > 0 for boxes in run.sets.true_boxes(home(run))])


def plan(run: Run, number: int) -> tuple[str, np.ndarray, int]:
    """Stage, training rows and seed of a further detector, numbered from 1 on.

    First come the detectors of the folds, then those with other seeds.
    """
    seed = run.seed + 1000 * number
    if number < run.preset.folds:
        return f"detector-fold-{number}", np.flatnonzero(folds(run) != number), seed
    return f"detector-member-{number}", run.sets.rows(home(run), "train"), seed


def member_stage(run: Run, number: int) -> Trained:
    """The detector with this number; 0 is the run's own."""
    return run.train_detector(*plan(run, number)) if number else run.detector_stage


def fold_keys(run: Run) -> list[str]:
    """Fingerprints of the detectors of all folds."""
    return [member_stage(run, number).key for number in range(run.preset.folds)]


@lru_cache(None)
def unseen_regions(run: Run) -> Regions:
    """Regions of every image of the detector's set, by the detector of its own fold."""
    name, fold, config = home(run), folds(run), run.preset.regions

    def make(folder: Path, _: str) -> None:
        pixels = run.sets.pixels(name)
        detectors = [member_stage(run, number).load() for number in range(run.preset.folds)]
        parts = [extract(d, pixels[fold == k], config) for k, d in enumerate(detectors)]
        order = np.argsort(np.argsort(fold, kind="stable"))
        concatenate(parts).rows(order).save(folder / "regions.safetensors")

    folder, _ = run.cache.stage("regions-folds", fold_keys(run), config, make=make, code=(extract,))
    return Regions.load(folder / "regions.safetensors")


@dataclass(frozen=True)
class Unseen(Images):
    """Images of the detector's set, seen by the detectors that have not seen their patients.

    The training boxes are those of all folds but `fold`.
    """

    fold: int = 0

    @cached_property
    def regions(self) -> Regions:
        """The proposals, each image's by the detector of its own fold."""
        return unseen_regions(self.run).rows(self.rows)

    @cached_property
    def training_boxes(self) -> np.ndarray:
        """Boxes [M, 4] of the other folds, relative to their images."""
        records, held = self.run.sets.records(self.name), folds(self.run) == self.fold
        images = records.images.assign(split=np.where(held, "test", "train"))
        return priors.training_boxes(images, records.boxes)


def predictions(run: Run) -> dict[str, Boxes]:
    """Boxes and scores of every method for every image of the detector's set, in input pixels."""
    fold, boxed = folds(run), _boxed(run)
    result: dict[str, Boxes] = {method: [None] * len(fold) for method in METHODS}
    for number, name in product(np.unique(fold), METHODS):
        own = Unseen(run, home(run), np.flatnonzero(fold == number), number)
        others = replace(own, rows=np.flatnonzero((fold != number) & boxed))
        method = methods.METHODS[name.removesuffix("-top")]
        choice = Choice(1.0, 1)
        if name != "detector-top":
            choice, _ = method.evidence(others).choose(others.truth)
        found = method.evidence(own).predictions(choice)
        for row, (boxes, scores) in zip(own.rows, found, strict=True):
            result[name][row] = (boxes, np.ones(len(boxes)) if name in BLIND else scores)
    return result


def tables(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables of the cross-validated detector; empty where the preset has no folds.

    `tables/detector_folds.csv`: dataset, method, metric, threshold, value, low, high, n. Metrics
    are those of pnloc.evaluation.localization; 'boxes', the predicted boxes per image with a true
    box; and 'auc', that of the image's score for the presence of a box.
    `tables/detector_folds_differences.csv`: dataset, method, against, metric, value, low, high,
    n, p (not corrected). The boxes are in `predictions/<set>-folds--<method>.csv`, with the truth
    beside them.
    """
    if not run.preset.folds:
        return tuple(pd.DataFrame(columns=columns) for columns in (COLUMNS, DIFFERENCES))

    def make() -> dict[str, pd.DataFrame]:
        return _tables(run)

    inputs = (fold_keys(run), run.preset.regions, run.preset.resamples, run.seed)
    results = run.cache.tables("folds", *inputs, make=make)
    return results["detector_folds"], results["detector_folds_differences"]


def _tables(run: Run) -> dict[str, pd.DataFrame]:
    name, options = home(run), {"resamples": run.preset.resamples, "seed": run.seed}
    records, boxed = run.sets.records(name), _boxed(run)
    patients, rows = records.images.set_index("image")["patient"], np.arange(len(boxed))
    boxes, negatives = records.boxes[["image", *metrics.CORNERS]], patients.index[~boxed]
    truth = metrics.Truth(boxes, patients.to_dict(), negatives)
    draws, of_boxed = (Patients(part, **options) for part in (patients, patients[boxed]))
    auc = draws.of(partial(metrics.auc, boxed, unseen_regions(run).image.numpy()))
    parts = [pd.DataFrame([("detector", "auc", NAN, *auc)], columns=COLUMNS[1:])]
    saved = {m: boxes_table(run, name, rows, boxes) for m, boxes in predictions(run).items()}
    for method, table in saved.items():
        counts = table["image"].value_counts().reindex(patients.index[boxed], fill_value=0)
        row = ("boxes", NAN, *of_boxed.mean(counts.to_numpy()))
        count = pd.DataFrame([row], columns=COLUMNS[2:])
        measured = metrics.localization(table, truth, **options)
        parts.append(pd.concat([measured, count]).assign(method=method))
    gaps = [
        metrics.differences(saved[a], saved[b], truth, **options).assign(method=a, against=b)
        for a, b in product([m for m in METHODS if m not in BLIND], BLIND)
    ]
    file = pd.concat([boxes, pd.DataFrame({"image": negatives})], ignore_index=True)
    return {
        "detector_folds": pd.concat(parts, ignore_index=True).assign(dataset=name)[COLUMNS],
        "detector_folds_differences": pd.concat(gaps, ignore_index=True).assign(dataset=name),
        f"{name}-folds--truth": file.assign(patient=file["image"].map(patients)),
        **{f"{name}-folds--{method}": table for method, table in saved.items()},
    }
