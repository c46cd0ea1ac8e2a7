"""Training of the baselines, by group: on image labels, on image-report pairs, or on boxes."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from torch import nn

from pnloc.baselines import grounding, supervised
from pnloc.baselines.classifier import train_classifier
from pnloc.model import PNEUMONIA
from pnloc.regions import Regions, concatenate, feature_size
from pnloc.reports.supervision import supervise
from pnloc.run import evidence
from pnloc.run.run import Run
from pnloc.training import new_attention, stacked


class Labels:
    """Training on image labels, the set's own or those extracted from reports.

    It names the part of the preset that configures it, its `fit` (model, training data, validation
    data, config, ...; trains in place and returns a history), and the code behind its data.
    """

    config, fit, code = "classifier", staticmethod(train_classifier), (supervise,)
    shared = True  # between processes

    def data(self, run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, S, S] of a split of the training sets; labels [N], 1 for pneumonia."""
        images, targets = [], []
        for name in run.sets.training:
            _, labels, weights = run.sets.supervision(name)
            rows = run.sets.rows(name, split)
            rows = rows[weights[rows, 0] > 0]
            images.append(run.sets.pixels(name)[rows])
            targets.append(labels[rows, 0])
        return np.concatenate(images), np.concatenate(targets)

    def upstream(self, run: Run) -> list:
        """Fingerprints of the stages behind the data."""
        return [run.sets.words_stage[1], *(run.sets.decoded(n)[1] for n in run.sets.training)]

    def build(self, run: Run, kind: Callable[..., nn.Module]) -> nn.Module:
        """An untrained model of a kind."""
        return kind(run.detector)


class Pairs(Labels):
    """Training on image-report pairs."""

    config, fit, shared = "grounding", staticmethod(grounding.train_grounding), False

    def data(self, run: Run, split: str) -> tuple[Regions, np.ndarray]:
        """Regions of N images and words [N, W] of a split."""
        rows = {name: run.sets.rows(name, split) for name in run.sets.pairs}
        words = [run.sets.supervision(name)[0][own] for name, own in rows.items()]
        parts = [run.regions(name).rows(own) for name, own in rows.items()]
        return concatenate(parts), stacked(words, -1)

    def upstream(self, run: Run) -> list:
        words = run.sets.words_stage[1]
        regions = [run.regions_stage(name)[1] for name in run.sets.pairs]
        return [regions, words, asdict(run.preset.model)]

    def build(self, run: Run, kind: Callable[..., nn.Module]) -> nn.Module:
        size = feature_size(run.preset.detector.pyramid)
        return new_attention(size, run.sets.vectors, (PNEUMONIA,), run.preset.model, kind)


class TargetBoxes(Labels):
    """Training on boxes of the target set, the first of those that measure localization."""

    config, fit, code = "supervised", staticmethod(supervised.train_supervised), ()

    def data(self, run: Run, split: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Images uint8 [N, S, S] of a split and their boxes [n, 4], in pixels of the input.

        If the images are generated and the set has no box in the split (as MS-CXR has none for
        training), the generator's truth takes their place. No other method sees these boxes.
        """
        name = run.title(run.preset.roles.localization[0])
        rows, boxes = run.sets.rows(name, split), evidence.pneumonia_boxes(run, name)
        if run.preset.generated and not any(len(boxes[row]) for row in rows):
            images = run.sets.records(name).images
            truth = evidence.generated_truth(run, name)["boxes"]
            texts = truth.reindex(images["image"], fill_value="")
            pairs = zip(texts, run.sets.letterboxes(images), strict=True)
            boxes = [letterbox.boxes(evidence.parsed_boxes(text)) for text, letterbox in pairs]
        return run.sets.pixels(name)[rows], [boxes[row] for row in rows]

    def upstream(self, run: Run) -> list:
        return [run.sets.decoded(run.title(run.preset.roles.localization[0]))[1]]


TRAINING = {"labels": Labels(), "pairs": Pairs(), "boxes": TargetBoxes()}
