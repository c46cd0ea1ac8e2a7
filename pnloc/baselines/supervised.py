"""Supervised upper bound: detectors trained on boxes of the very set that is measured.

RetinaNet (Lin et al. 2017) is `pnloc.detector.Detector`; Faster R-CNN (Ren et al. 2015) is
torchvision's, on the same narrow backbone and pyramid. Both start from the run's detector, so
they build on the same boxes as the other methods.
"""

import tomllib
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from pnloc.baselines.classifier import in_batches
from pnloc.config import FittingConfig
from pnloc.detector import Detector, normalize
from pnloc.detector_training import Batch, balanced, placed, targets_of
from pnloc.parallel import autocast, device
from pnloc.train import Losses, Schedule, fit, parts

Boxed = tuple[np.ndarray, list[np.ndarray]]  # images uint8 [N, S, S], boxes [n, 4] of each
# Of torchvision's Faster R-CNN, where they are not its own.
NUMBERS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


class Pyramid(nn.Module):
    """Backbone and pyramid: images [B, 1, S, S] -> {"16": [B, C, S/16, S/16], "32": ...}."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.body, self.fpn = deepcopy(detector.backbone), deepcopy(detector.fpn)
        self.out_channels = detector.config.pyramid

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = self.fpn(self.body(normalize(images)))
        return {stride: levels[stride].float() for stride in ("16", "32")}


class FasterRegions(FasterRCNN):
    """Faster R-CNN for one class and square grey images, small enough for a CPU (supervised.toml).

    Its box head has 256 units.
    """

    def __init__(self, detector: Detector) -> None:
        config, width, anchors = detector.config, 256, detector.anchor_generator
        super().__init__(
            Pyramid(detector),
            rpn_anchor_generator=AnchorGenerator(anchors.sizes, anchors.aspect_ratios),
            box_roi_pool=MultiScaleRoIAlign(["16", "32"], output_size=5, sampling_ratio=2),
            box_head=TwoMLPHead(config.pyramid * 25, width),
            box_predictor=FastRCNNPredictor(width, 2),
            min_size=config.side,
            max_size=config.side,
            **NUMBERS,
        )
        self.config = config

    def losses(self, images: Tensor, targets: list[dict[str, Tensor]]) -> Losses:
        """The four terms of Faster R-CNN; targets as for `Detector.losses`."""
        targets = [{**t, "labels": t["labels"] + 1} for t in targets]  # 0 is the background
        training = self.training
        self.train()  # torchvision gives losses in this mode only
        self.backbone.train(training)  # which has all the batch normalization
        terms = super().forward(list(images), targets)
        self.train(training)
        return terms


def train_supervised(
    model: nn.Module, training: Boxed, held_out: Boxed, config: FittingConfig, **options
) -> pd.DataFrame:
    """Train a `Detector` or `FasterRegions` in place on uint8 images and their boxes.

    held_out: validation images and boxes, possibly none; options: those of `pnloc.train.fit`. An
    epoch is every image with a box and as many without, drawn anew. Returns the history.
    """
    where, seed = device(), options["seed"]
    model.to(where, memory_format=torch.channels_last)
    steps, batches = balanced(*training, config.batch, seed, 6)

    def losses(batch: Batch) -> Losses:
        with autocast(where):
            return model.losses(*placed(batch, where))

    def validation() -> float:
        """With the same random numbers each time: Faster R-CNN samples the boxes of its losses."""
        total, size, (images, boxes) = 0.0, config.batch, held_out
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for batch, own in zip(in_batches(model, images, size), parts(boxes, size), strict=True):
                terms = losses((batch, targets_of(own)))
                total += sum(value.item() for value in terms.values()) * len(batch)
        return total / len(images)

    check = validation if len(held_out[0]) else None
    schedule = Schedule(config.epochs, steps, config.rate, config.weight_decay, config.patience)
    return fit(model, batches, losses, schedule, validation=check, shared=True, **options)


@torch.no_grad()
def detect(model: FasterRegions, images: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes [n, 4] (pixels of the square input) and probabilities [n] per uint8 image [N, S, S].

    The best comes first.
    """
    outputs = []
    model.eval()
    for batch in in_batches(model, images):
        with autocast(batch.device):
            outputs += model(list(batch))
    return [tuple(o[key].double().cpu().numpy() for key in ("boxes", "scores")) for o in outputs]
