"""The trained baselines at work on a run: each a stage of its own, its choice on validation images, its boxes on test images.

They are those of pnloc.config.BASELINES; which of them a run has, its preset says. `found` is all that tables of results need.
"""

from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import nn

from pnloc import parallel
from pnloc.baselines import grounding, heatmaps, weak
from pnloc.baselines.classifier import train_classifier
from pnloc.baselines.heatmaps import HeatChoice
from pnloc.config import BASELINES, FROM_BOXES, FROM_LABELS, FROM_PAIRS, FittingConfig
from pnloc.errors import PnlocError
from pnloc.files import load_module, read_csv, save_module, write_table
from pnloc.localizer import Choice, best_choice, best_of, normalized_scores, pick, rank_regions
from pnloc.parallel import device
from pnloc.regions import extract
from pnloc.run import comparators
from pnloc.run.comparators import Found, boxed_rows, kinds

if TYPE_CHECKING:
    from pnloc.run.run import Run

KINDS = {
    "hide-and-seek": weak.HideAndSeek,
    "attention-dropout": weak.AttentionDropout,
    "patch-mil": weak.PatchMIL,
}


def names(run: "Run") -> tuple[str, ...]:
    """The baselines that this run trains: those of its preset, but for detectors where the target set has no training boxes.

    Nor is RetinaNet trained twice: where the detector's own set is the target, it is the supervised one already.
    """
    unknown = set(run.preset.baselines) - set(BASELINES)
    if unknown:
        raise PnlocError(f"unknown baseline '{min(unknown)}'; use some of {', '.join(BASELINES)}")
    chosen = [name for name in BASELINES if name in run.preset.baselines]
    if set(chosen) & set(FROM_BOXES) and not any(len(b) for b in _target(run, "train")[1]):
        chosen = [name for name in chosen if name not in FROM_BOXES]
    if run.preset.roles.localization[0] == run.preset.roles.detector:
        chosen = [name for name in chosen if name != "supervised"]
    return tuple(chosen)


def target_boxes(run: "Run", split: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Images uint8 [N, S, S] of the target set's split, the first that localization is measured on, and their boxes [n, 4] (`_target`)."""
    rows, boxes = _target(run, split)
    return run.sets.pixels(run.title(run.preset.roles.localization[0]))[rows], boxes


def _target(run: "Run", split: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Row numbers [N] of the target set's split, and the boxes [n, 4] of each image in pixels of the square input.

    Where the images are generated and their set gives out no box of the split, as MS-CXR gives none for training, the generator's truth stands in
    for it. No other method sees these.
    """
    name = run.title(run.preset.roles.localization[0])
    rows, boxes = run.sets.rows(name, split), run.sets.true_boxes(name, kinds(name))
    if run.preset.generated and not any(len(boxes[i]) for i in rows):
        boxes = _generated_boxes(run, name)
    return rows, [boxes[i] for i in rows]


def _generated_boxes(run: "Run", name: str) -> list[np.ndarray]:
    """Boxes of every opacity of a generated set, in pixels of the square input."""
    truth = read_csv(
        run.sets.folder / "truth.csv", ["set", "image", "boxes"], dtype=str, keep_default_na=False
    )
    told = truth[truth["set"] == name.removeprefix("demo-")].set_index("image")["boxes"].to_dict()
    images = run.sets.records(name).images
    boxes = [
        np.array([b.split() for b in told.get(i, "").split(";") if b], float).reshape(-1, 4)
        for i in images["image"]
    ]
    return [t.boxes(b) for t, b in zip(run.sets.letterboxes(images), boxes, strict=True)]


# Training -------------------------------------------------------------------------------------------------


def stage(run: "Run", method: str) -> tuple[Path, str]:
    """The stage that trains a baseline: weights and history, and its fingerprint."""
    if method in FROM_LABELS:
        upstream = [run.sets.decoded(n)[1] for n in run.sets.training]
    elif method in FROM_PAIRS:
        upstream = [
            run.regions_stage(run.sets.pairs)[1],
            run.sets.words_stage[1],
            asdict(run.preset.model),
        ]
    else:
        upstream = [run.sets.decoded(run.title(run.preset.roles.localization[0]))[1]]
    inputs = (_config(run, method), upstream, run.detector_stage[1], run.seed)

    def make(folder: Path, key: str) -> None:
        model, history = _trained(run, method, folder, key)
        save_module(folder / "model.safetensors", model)
        write_table(folder / "history.csv", history)

    return run.cache.stage(
        f"baseline-{method}",
        *inputs,
        make=make,
        together=parallel.shared() and method not in FROM_PAIRS,
    )


def _config(run: "Run", method: str) -> FittingConfig:
    preset = run.preset
    return _of_group(
        {
            FROM_LABELS: preset.classifier,
            FROM_PAIRS: preset.grounding,
            FROM_BOXES: preset.supervised,
        },
        method,
    )


def _of_group(by_group: dict, method: str) -> object:
    """What a method's group has in a dictionary by groups."""
    return next(value for group, value in by_group.items() if method in group)


def _trained(run: "Run", method: str, folder: Path, key: str) -> tuple[nn.Module, pd.DataFrame]:
    options = {"seed": run.seed, "folder": folder, "fingerprint": key}
    config = _config(run, method)
    if method in FROM_LABELS:
        data = (*run.sets.labelled("train"), run.sets.labelled("validate"))
        return train_classifier(KINDS[method], run.detector, *data, config, **options, title=method)
    if method in FROM_PAIRS:
        pairs, held = (_pairs(run, split) for split in ("train", "validate"))
        return grounding.train_grounding(
            method, pairs, held, run.sets.vectors, config, run.preset.model, **options
        )
    from pnloc.baselines.supervised import train_supervised

    model = _untrained(run, method)
    data = target_boxes(run, "train"), target_boxes(run, "validate")
    return model, train_supervised(model, *data, config, **options, title=method)


def _pairs(run: "Run", split: str) -> tuple:
    rows = run.sets.rows(run.sets.pairs, split)
    return run.regions(run.sets.pairs).rows(rows), run.sets.supervision(run.sets.pairs)[0][rows]


def _untrained(run: "Run", method: str) -> nn.Module:
    """A model of a baseline as its training begins."""
    if method in FROM_LABELS:
        return KINDS[method](run.detector)
    if method in FROM_PAIRS:
        return grounding.make(
            method,
            run.regions(run.sets.pairs).features.shape[-1],
            run.sets.vectors,
            run.preset.model,
        )
    from pnloc.baselines import supervised
    from pnloc.detector import Detector

    if method == "supervised-faster-rcnn":
        import torch

        torch.manual_seed(run.seed)
        return supervised.FasterRegions(run.detector)
    model = Detector(run.preset.detector)
    model.load_state_dict(run.detector.state_dict())
    return model


def train(run: "Run", chosen: Iterable[str] | None = None) -> None:
    """Train the baselines of `chosen` (None: all of the run); a stage that several processes can share."""
    _ = run.classifier_stage
    for method in names(run) if chosen is None else chosen:
        stage(run, method)


@lru_cache(8)
def model(run: "Run", method: str) -> nn.Module:
    """A trained baseline."""
    found = _untrained(run, method)
    load_module(stage(run, method)[0] / "model.safetensors", found)
    return found.to(device()).eval()


def history(run: "Run", chosen: Iterable[str] | None = None) -> pd.DataFrame:
    """method, epoch, loss, validation of the classifier behind CAM and of every baseline of `chosen` (None: all of the run)."""
    folders = {"classifier": run.classifier_stage[0]}
    folders |= {
        method: stage(run, method)[0] for method in (names(run) if chosen is None else chosen)
    }
    tables = [
        read_csv(folder / "history.csv").assign(method=method) for method, folder in folders.items()
    ]
    return pd.concat(tables, ignore_index=True).reindex(
        columns=["method", "epoch", "loss", "validation"]
    )


def lengths(run: "Run", told: pd.DataFrame) -> pd.DataFrame:
    """baseline, kept (the epoch whose weights are), trained (epochs), most (that there might have been), from a `history`."""
    rows = []
    for method, epochs in told.groupby("method", sort=False):
        most = (run.preset.classifier if method == "classifier" else _config(run, method)).epochs
        best = (
            epochs["validation"].idxmin()
            if epochs["validation"].notna().any()
            else epochs.index[-1]
        )
        rows.append((method, epochs.loc[best, "epoch"] + 1, len(epochs), most))
    return pd.DataFrame(rows, columns=["baseline", "kept", "trained", "most"])


# Choices and boxes ----------------------------------------------------------------------------------------


def choose(run: "Run", method: str) -> tuple["Choice | HeatChoice", float]:
    """The choice with the best mean union IoU on validation images, and that IoU (NaN where none has boxes)."""
    if method in FROM_LABELS:
        return comparators.choose_heat(run, method, model(run, method))
    name = run.title(run.preset.roles.localization[0])
    rows = boxed_rows(run, name, "validate")
    if len(rows) == 0:
        return Choice(), float("nan")
    truth = [run.sets.true_boxes(name, kinds(name))[i] for i in rows]
    made = _before_choice(run, name, rows, method)
    if isinstance(made, tuple):
        regions, mass, _ = made
        return best_choice(regions, rank_regions(regions, mass, True), truth, True)
    return best_of(made, truth)


def found(
    run: "Run", name: str, rows: np.ndarray, method: str, choice: "Choice | HeatChoice"
) -> tuple[Found, "list[np.ndarray] | np.ndarray | None"]:
    """A baseline's boxes and scores for some rows of a set, in pixels of the square input, and its maps [n, S, S] where it has any.

    A score is a probability: that of a pneumonia in the image, for detectors that of the box, times the box's share of the best one.
    """
    if method in FROM_LABELS:
        trained, pixels = model(run, method), run.sets.pixels(name)[rows]
        return comparators.activation(
            trained, pixels, method, choice, heatmaps.probabilities(trained, pixels)
        )
    made = _before_choice(run, name, rows, method)
    boxes = _chosen(made, choice)
    if method == "supervised-faster-rcnn":
        return boxes, None
    regions, mass, likely = made
    side = run.preset.detector.side
    return comparators.scored(boxes, likely), [
        heatmaps.coverage(b / side, m, side)
        for b, m in zip(regions.boxes.numpy(), mass, strict=True)
    ]


def _before_choice(run: "Run", name: str, rows: np.ndarray, method: str) -> "Found | tuple":
    """What a baseline says of some rows of a set: detections, or regions, a mass over them and how likely a pneumonia is."""
    trained = model(run, method)
    if method == "supervised-faster-rcnn":
        from pnloc.baselines.supervised import detect

        return detect(trained, run.sets.pixels(name)[rows])
    if method == "supervised":
        regions = extract(trained, run.sets.pixels(name)[rows], run.preset.regions)
        return regions, normalized_scores(regions), regions.image.numpy()
    regions = run.regions(name).rows(rows)
    return regions, *grounding.prompt_mass(trained, regions, run.sets.vectors)


def _chosen(made: "Found | tuple", choice: Choice) -> Found:
    """Boxes by a choice: of detections those whose score is a share of the best one's, of regions as pnloc.localizer.pick."""
    if isinstance(made, tuple):
        regions, mass, _ = made
        return pick(regions, mass, choice)
    return [_top(boxes, scores, choice) for boxes, scores in made]


def _top(boxes: np.ndarray, scores: np.ndarray, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    kept = np.flatnonzero(scores >= choice.share * scores.max(initial=0.0))[: choice.most]
    return boxes[kept], scores[kept]
