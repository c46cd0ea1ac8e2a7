"""Cross-validation of the detector over folds of patients, and detectors with other seeds.

The first fold holds the images that the run's own detector was not trained on. The training images
are split among the other folds, each with a detector trained on all images outside it. Every image
of the detector's set is thus measured by a detector that has not seen its patient; a single
held-out part of a small set has too few boxes for stable figures. A method's choices are made for
each fold on the images of the others. On other sets, where no detector has seen any patient, all
detectors are averaged (pnloc.run.severity.readouts).
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from pnloc.baselines import heatmaps, priors
from pnloc.boxes import union_iou
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.bootstrap import NAN, Patients
from pnloc.localizer import Boxes, Choice, normalized_scores, pick
from pnloc.regions import Regions, concatenate, extract
from pnloc.run.cache import Trained
from pnloc.run.evidence import MOST, SHARES, Images, scaled
from pnloc.run.predictions import boxes_table
from pnloc.run.run import Run

BLIND = ("fixed-boxes", "heat-map")
METHODS = (*BLIND, "detector-top", "detector", "detector-mask")
COLUMNS = ["dataset", "method", "metric", "threshold", *metrics.ESTIMATE]
DIFFERENCES = ["dataset", "method", "against", "metric", *metrics.ESTIMATE, "p"]
SHOWN = {
    "miou": "union IoU",
    "acc@0.3": "acc, T .3",
    "acc@0.5": "acc, T .5",
    "boxes": "boxes per image",
    "afp@0.3": "AFP, T .3",
    "auc": "image AUC",
}


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


def best_elsewhere(
    candidates: Sequence[list[np.ndarray]], truth: list[np.ndarray], fold: np.ndarray
) -> np.ndarray:
    """For each of N images the number [N] of the candidate that is best on the other folds.

    candidates: predicted boxes [n, 4] per image, each; truth: true boxes per image; fold [N]. The
    best has the greatest mean union IoU over images with a box; the first of equals, also where the
    other folds have no such image.
    """
    values = np.array([list(map(union_iou, boxes, truth)) for boxes in candidates])
    best = {k: values[:, fold != k].sum(1).argmax() for k in np.unique(fold)}
    return np.array([best[k] for k in fold], dtype=int)


def predictions(run: Run) -> dict[str, Boxes]:
    """Boxes and scores of every method for every image of the detector's set, in input pixels."""
    truth, fold, regions = run.sets.true_boxes(home(run)), folds(run), unseen_regions(run)
    scores, maps = normalized_scores(regions), heatmaps.mask_maps(regions, run.preset.detector.side)
    grid = [Choice(share, most) for share, most in product(SHARES, MOST)]
    ways = {
        "detector-top": [pick(regions, scores, Choice(1.0, 1))],
        "detector": [pick(regions, scores, choice) for choice in grid],
        "detector-mask": [boxes for _, boxes in heatmaps.every_choice(maps, "")],
    }
    result = _blind(run, truth, fold)
    for method, tried in ways.items():
        best = best_elsewhere([[boxes for boxes, _ in way] for way in tried], truth, fold)
        own = [tried[k][row] for row, k in enumerate(best)]
        result[method] = scaled(own, regions.image.numpy())
    return result


def _blind(run: Run, truth: list[np.ndarray], fold: np.ndarray) -> dict[str, Boxes]:
    """Boxes guessed without the image, from the true boxes of the other folds."""
    images = run.sets.records(home(run)).images
    pairs = zip(run.sets.letterboxes(images), truth, strict=True)
    relative = [box.inverse(own) / np.tile([box.width, box.height], 2) for box, own in pairs]
    result: dict[str, Boxes] = {method: [None] * len(images) for method in BLIND}
    for k in np.unique(fold):
        rows, others = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        boxes = np.concatenate([relative[i] for i in others])
        heat = priors.heat_map(boxes)
        ways = [corners / len(heat) for _, [(corners, _)] in heatmaps.every_choice([heat], "")]
        unions = [sum(union_iou(way, relative[i]) for i in others) for way in ways]
        guesses = (priors.fixed_pair(boxes), ways[int(np.argmax(unions))])
        for method, guess in zip(BLIND, guesses, strict=True):
            for row, own in zip(rows, Images(run, home(run), rows).place(guess), strict=True):
                result[method][row] = (own, np.ones(len(own)))
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
