"""The detector alone, cross-validated by patient: every image of its set is measured, by a detector that has not seen its patient.

One held-out part of a small set has few boxes, and its figures hang on which these are. Here all boxes count. What a line must choose (how many
boxes, from which level on) is chosen for each fold on the other folds' images, each seen by the detector of its own fold.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.baselines import heatmaps, priors
from pnloc.boxes import union_iou
from pnloc.evaluation import bootstrap
from pnloc.evaluation import localization as metrics
from pnloc.files import read_csv, write_table
from pnloc.localizer import MOST, SHARES, Boxes, Choice, normalized_scores, pick
from pnloc.run import members
from pnloc.run.cache import lay_out
from pnloc.run.evidence import Images, scaled
from pnloc.run.predictions import BOX_TABLE, boxes_table
from pnloc.run.run import Run

BLIND = ("fixed-boxes", "heat-map")
METHODS = (*BLIND, "detector-top", "detector", "detector-mask")
COLUMNS = ["dataset", "method", "metric", "threshold", "value", "low", "high", "n"]
SHOWN = {
    "miou": "union IoU",
    "acc@0.3": "acc, T .3",
    "acc@0.5": "acc, T .5",
    "boxes": "boxes per image",
    "afp@0.3": "AFP, T .3",
    "auc": "image AUC",
}


def chosen(
    ways: Sequence[list[np.ndarray]], truth: list[np.ndarray], fold: np.ndarray
) -> np.ndarray:
    """Of several ways to give boxes to N images, for each image the number [N] of the one with the best mean union IoU on the other folds' boxed images.

    ways: boxes [n, 4] per image, for each way; truth: true boxes per image; fold [N]. Of equal ways the first; without boxed images
    elsewhere, too.
    """
    boxed = np.array([len(t) > 0 for t in truth])
    values = np.array(
        [
            [union_iou(b, t) if len(t) else 0.0 for b, t in zip(way, truth, strict=True)]
            for way in ways
        ]
    )
    best = {k: int(np.argmax(values[:, boxed & (fold != k)].sum(1))) for k in np.unique(fold)}
    return np.array([best[k] for k in fold], dtype=int)


def found(run: Run) -> dict[str, Boxes]:
    """Boxes and scores of every method for every image of the detector's set, in pixels of the square input."""
    name = members.home(run)
    regions, fold, truth = (
        members.unseen_regions(run),
        members.folds(run),
        run.sets.true_boxes(name),
    )
    likely, mass = regions.image.numpy(), normalized_scores(regions)
    maps = heatmaps.mask_maps(regions, run.preset.detector.side)
    ways = {
        "detector-top": [pick(regions, mass, Choice(1.0, 1))],
        "detector": [
            pick(regions, mass, Choice(share, most)) for share, most in product(SHARES, MOST)
        ],
        "detector-mask": [boxes for _, boxes in heatmaps.every_choice(maps, "")],
    }
    lines = _blind(run, name, fold, truth)
    for line, made in ways.items():
        boxes = [[b for b, _ in way] for way in made]
        best = chosen(boxes, truth, fold)
        own = [made[k][row] for row, k in enumerate(best)]
        lines[line] = scaled(own, likely)
    return lines


def _blind(run: Run, name: str, fold: np.ndarray, truth: list[np.ndarray]) -> dict[str, Boxes]:
    """Boxes that no image is read for, from the boxes of the other folds."""
    images = run.sets.records(name).images
    whole = images[["width", "height", "width", "height"]].to_numpy(float)
    relative = [
        t.inverse(b) / s for t, b, s in zip(run.sets.letterboxes(images), truth, whole, strict=True)
    ]
    lines: dict[str, Boxes] = {line: [None] * len(images) for line in BLIND}
    for k in np.unique(fold):
        rows, others = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        boxes = np.concatenate([relative[i] for i in others])
        heat = priors.heat_map(boxes)
        ways = [heatmaps.boxes_of(heat, c)[0] / len(heat) for c in heatmaps.candidates("")]
        boxed = [i for i in others if len(truth[i])]
        values = [np.mean([union_iou(way, relative[i]) for i in boxed]) for way in ways]
        for line, guess in (
            ("fixed-boxes", priors.fixed_pair(boxes)),
            ("heat-map", ways[int(np.argmax(values))]),
        ):
            for row, placed in zip(rows, Images(run, name, rows).place(guess), strict=True):
                lines[line][row] = (placed, np.ones(len(placed)))
    return lines


def tables(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`tables/detector_folds.csv`: dataset, method, metric, threshold, value, low, high, n (pnloc.evaluation.localization.localization; 'boxes', how many are
    predicted per image with a true box; 'auc' of the image-level head for the presence of one); and `detector_folds_differences.csv`: dataset,
    method, against, metric, value, low, high, n, p, not corrected.

    The boxes stand in `predictions/<set>-folds--<method>.csv`, with the truth beside them. Both are empty where the preset has no folds.
    """
    if not run.preset.folds:
        return pd.DataFrame(columns=COLUMNS), pd.DataFrame(
            columns=[*COLUMNS[:2], "against", *COLUMNS[2:]]
        )

    def make(folder: Path, _: str) -> None:
        for name, table in _made(run).items():
            write_table(folder / f"{name}.csv", table)

    inputs = (members.fold_keys(run), run.preset.regions, run.preset.resamples, run.seed)
    folder, _ = run.cache.stage("folds", *inputs, make=make)
    lay_out(folder, run.root)
    ends = ("", "_differences")
    return tuple(
        read_csv(folder / f"detector_folds{end}.csv", float_precision="round_trip") for end in ends
    )


def _made(run: Run) -> dict[str, pd.DataFrame]:
    name, records = members.home(run), run.sets.records(members.home(run))
    images, rows = records.images, np.arange(len(records.images))
    patients = dict(zip(images["image"], images["patient"], strict=True))
    truth = records.boxes[["image", *BOX_TABLE[1:5]]]
    without = images.loc[~images["image"].isin(truth["image"]), "image"]
    known = metrics.Truth(truth, patients, without)
    options = {"resamples": run.preset.resamples, "seed": run.seed}
    saved = {method: boxes_table(run, name, rows, boxes) for method, boxes in found(run).items()}
    parts = [_image_level(run)]
    for method, predictions in saved.items():
        table = metrics.localization(predictions, known, **options)
        parts.append(pd.concat([table, _counts(run, predictions)]).assign(method=method))
    pairs = product([m for m in METHODS if m not in BLIND], BLIND)
    gaps = [
        metrics.differences(saved[a], saved[b], known, **options).assign(method=a, against=b)
        for a, b in pairs
    ]
    file = pd.concat([truth, pd.DataFrame({"image": without})], ignore_index=True)
    whole = pd.concat(parts, ignore_index=True).assign(dataset=name)[COLUMNS]
    return {
        "detector_folds": whole,
        "detector_folds_differences": pd.concat(gaps, ignore_index=True).assign(dataset=name),
        f"{name}-folds--truth": file.assign(patient=file["image"].map(patients)),
        **{f"{name}-folds--{method}": table for method, table in saved.items()},
    }


def _drawn(run: Run, rows: np.ndarray) -> np.ndarray:
    """Weights [1 + B, n] of some images: ones, then bootstrapped over their patients."""
    patients = run.sets.records(members.home(run)).images["patient"].to_numpy()[rows]
    drawn = bootstrap.of_images(patients, run.preset.resamples, run.seed)
    return np.concatenate([np.ones((1, len(rows)), dtype=drawn.dtype), drawn])


def _counts(run: Run, predictions: pd.DataFrame) -> pd.DataFrame:
    """Predicted boxes per image with a true box."""
    name = members.home(run)
    rows = np.flatnonzero([len(b) > 0 for b in run.sets.true_boxes(name)])
    counts = (
        predictions["image"]
        .value_counts()
        .reindex(run.sets.records(name).images["image"].iloc[rows], fill_value=0)
    )
    drawn = _drawn(run, rows)
    values = drawn @ counts.to_numpy() / drawn.sum(1)
    return pd.DataFrame(
        [("boxes", np.nan, values[0], *bootstrap.interval(values[1:]), len(rows))],
        columns=COLUMNS[2:],
    )


def _image_level(run: Run) -> pd.DataFrame:
    present = np.array([len(b) > 0 for b in run.sets.true_boxes(members.home(run))])
    values = metrics.auc(
        present, members.unseen_regions(run).image.numpy(), _drawn(run, np.arange(len(present)))
    )
    row = ("detector", "auc", np.nan, values[0], *bootstrap.interval(values[1:]), len(present))
    return pd.DataFrame([row], columns=COLUMNS[1:])
