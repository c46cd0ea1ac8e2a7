"""A classifier of image labels, and its training with early stopping.

Heat maps of the classifier are in `pnloc.baselines.heatmaps`, its weakly supervised relatives in
`pnloc.baselines.weak`.
"""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnloc.config import FittingConfig
from pnloc.detector import Detector, normalize
from pnloc.detector_training import augment
from pnloc.parallel import autocast, device
from pnloc.train import Losses, Schedule, fit, generator, parts

Labelled = tuple[np.ndarray, np.ndarray]  # images uint8 [N, S, S], labels [N]


class Classifier(nn.Module):
    """Pneumonia or not: the detector's backbone, global average pooling, one linear layer.

    It starts from the detector's weights and is trained on image labels only, so it builds on the
    same boxes as the proposals of the other methods. The stem and the stage of stride 8 stay
    frozen.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.body = deepcopy(detector.backbone)
        self.head = nn.Linear(self.body.channels[-1], 1)
        for part in self.frozen():
            part.requires_grad_(False)

    def frozen(self) -> tuple[nn.Module, nn.Module]:
        """The parts that are not trained."""
        return self.body.stem, self.body.stages["8"]

    def train(self, mode: bool = True) -> "Classifier":
        """As in torch, except that the frozen parts keep their batch statistics."""
        super().train(mode)
        for part in self.frozen():
            part.eval()
        return self

    def features(self, pictures: Tensor) -> Tensor:
        """Normalised pictures [B, 1, S, S] -> features [B, C, S/32, S/32]."""
        return self.body(pictures)["32"]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, S, S], 8-bit values -> logits [B, 1]."""
        return self.head(self.features(normalize(images)).mean((2, 3)))

    def activation(self, images: Tensor) -> Tensor:
        """CAM [B, S/32, S/32] (Zhou et al. 2016): features, weighted as for the logit."""
        features = self.features(normalize(images)).float()
        return torch.einsum("bchw,c->bhw", features, self.head.weight[0])


def train_classifier(
    model: Classifier, training: Labelled, held_out: Labelled, config: FittingConfig, **options
) -> pd.DataFrame:
    """Train a classifier in place on uint8 images [N, S, S] and labels [N] of 0 and 1.

    held_out: validation images and labels, possibly none; options: those of `pnloc.train.fit`.
    Returns the history.
    """
    where = device()
    model.to(where, memory_format=torch.channels_last)
    (images, labels), steps = training, max(1, len(training[0]) // config.batch)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = generator(options["seed"], 3, epoch)
        for rows in parts(rng.permutation(len(images)), config.batch, steps):
            no_boxes = [np.zeros((0, 4))] * len(rows)
            pictures, *_ = augment(torch.from_numpy(images[rows])[:, None], no_boxes, rng)
            targets = torch.as_tensor(labels[rows], dtype=torch.float32, device=where)
            yield pictures.to(where), targets

    def losses(batch: tuple[Tensor, Tensor], reduction: str = "mean") -> Losses:
        with autocast(where):
            logits = model(batch[0])[:, 0].float()
        loss = F.binary_cross_entropy_with_logits(logits, batch[1], reduction=reduction)
        return {"label": loss}

    def validation() -> float:
        truth = torch.as_tensor(held_out[1], dtype=torch.float32, device=where)
        batches = zip(in_batches(model, held_out[0], 64), truth.split(64), strict=True)
        return sum(losses(batch, "sum")["label"].item() for batch in batches) / len(truth)

    check = validation if len(held_out[0]) else None
    schedule = Schedule(config.epochs, steps, config.rate, config.weight_decay, config.patience)
    return fit(model, batches, losses, schedule, validation=check, shared=True, **options)


def in_batches(model: nn.Module, images: np.ndarray, size: int = 32) -> Iterator[Tensor]:
    """Uint8 images [N, S, S] as float batches [b, 1, S, S] on the device of `model`."""
    where = next(model.parameters()).device
    for batch in parts(images, size):
        yield torch.from_numpy(np.asarray(batch))[:, None].float().to(where)
