"""What the localizer is compared with: an image-label classifier, the box prior, the best proposal.

Heat maps of the classifier are in pnloc.baselines.heatmaps, other priors in pnloc.baselines.priors. The image-label attention is the localizer itself, trained
without text (pnloc.training.train_localizer).
"""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnloc.boxes import fixed_pair, iou
from pnloc.config import FittingConfig
from pnloc.inputs import augment, normalize
from pnloc.parallel import autocast, device
from pnloc.regions import Regions
from pnloc.train import Losses, Schedule, fit, generator

if TYPE_CHECKING:
    from pnloc.detector import Detector


class Classifier(nn.Module):
    """Pneumonia or not, from the image: the detector's backbone, global pooling, one linear layer.

    It starts from the detector's weights and is trained on image labels only, so that it has seen whatever
    the proposals of the other methods have seen. Its stem and the stage of stride 8 stay as the detector left them.
    """

    def __init__(self, detector: "Detector") -> None:
        super().__init__()
        self.body = deepcopy(detector.backbone)
        self.head = nn.Linear(8 * detector.config.width, 1)
        for part in self.kept():
            part.requires_grad_(False)

    def kept(self) -> tuple[nn.Module, nn.Module]:
        """The parts that are not trained."""
        return self.body.stem, self.body.stages["8"]

    def train(self, mode: bool = True) -> "Classifier":
        """As in torch, but that the moments of what is kept stay, too."""
        super().train(mode)
        for part in self.kept():
            part.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, S, S], 8-bit values -> logits [B, 1]."""
        return self.head(self.body(normalize(images))["32"].mean((2, 3)))


def train_classifier(
    kind: type[Classifier],
    detector: "Detector",
    images: np.ndarray,
    labels: np.ndarray,
    held: tuple[np.ndarray, np.ndarray],
    config: FittingConfig,
    *,
    seed: int,
    folder: str | Path,
    fingerprint: str,
    title: str = "classifier",
) -> tuple[Classifier, pd.DataFrame]:
    """Train a `kind` of classifier on uint8 images [N, S, S] and labels [N] of 0 and 1 until its loss on the `held` ones stops falling.

    `held` are validation images and labels; without any, it is trained for all epochs. Returns the classifier and its history.
    """
    where = device()
    torch.manual_seed(seed)
    model = kind(detector).to(where, memory_format=torch.channels_last)
    steps = max(1, len(images) // config.batch)

    def batches(epoch: int):
        rng = generator(seed, 3, epoch)
        order = rng.permutation(len(images))
        for step in range(steps):
            rows = order[step * config.batch : (step + 1) * config.batch]
            pictures, _ = augment(
                torch.from_numpy(images[rows])[:, None], [np.zeros((0, 4))] * len(rows), rng
            )
            yield (
                pictures.to(where),
                torch.as_tensor(labels[rows], dtype=torch.float32, device=where),
            )

    def losses(batch: tuple[Tensor, Tensor]) -> Losses:
        with autocast(where):
            logits = model(batch[0])[:, 0].float()
        return {"label": F.binary_cross_entropy_with_logits(logits, batch[1])}

    def validation() -> float:
        total, truth = 0.0, torch.as_tensor(held[1], dtype=torch.float32, device=where)
        for start in range(0, len(truth), 64):
            pictures = torch.from_numpy(held[0][start : start + 64])[:, None].to(where)
            with autocast(where):
                logits = model(pictures)[:, 0].float()
            total += F.binary_cross_entropy_with_logits(
                logits, truth[start : start + 64], reduction="sum"
            ).item()
        return total / len(truth)

    schedule = Schedule(
        config.epochs,
        steps,
        config.rate,
        config.weight_decay,
        config.patience if len(held[0]) else 0,
    )

    history = fit(
        model,
        batches,
        losses,
        schedule,
        folder=folder,
        fingerprint=fingerprint,
        seed=seed,
        title=title,
        shared=True,
        validation=validation if len(held[0]) else None,
    )
    return model, history


def prior_boxes(training: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> list[np.ndarray]:
    """The fixed-box prior [2, 4] in pixels of each image, from relative training boxes [M, 4]."""
    pair = fixed_pair(training)
    return [pair * [w, h, w, h] for w, h in zip(widths, heights, strict=True)]


def best_proposals(regions: Regions, truth: list[np.ndarray]) -> list[np.ndarray]:
    """For each image the region that overlaps each true box [n, 4] most: the ceiling of any ranking of regions."""
    found = []
    for row, boxes in enumerate(truth):
        here = regions.boxes[row, : int(regions.valid[row].sum())].numpy().astype(np.float64)
        found.append(
            here[np.unique(iou(boxes, here).argmax(1))]
            if len(boxes) and len(here)
            else np.zeros((0, 4))
        )
    return found
