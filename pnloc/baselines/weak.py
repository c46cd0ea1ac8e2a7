"""Weakly supervised localizers that learn from image labels alone, like the classifier behind CAM, but are made to look further.

    hide-and-seek       parts of the training images are hidden (Singh and Lee 2017); CAM at test
    attention dropout   what the features attend to most is dropped in training (Choe and Shim 2019); CAM at test
    patch MIL           a score for each patch, an image being as likely as at least one of its patches (Li et al. 2018)

All start from the detector's backbone and train the same part of it as pnloc.baselines.classifier.Classifier. B images of side S.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnloc.baselines.classifier import Classifier
from pnloc.inputs import normalize

if TYPE_CHECKING:
    from pnloc.detector import Detector

HIDDEN = 0.5  # share of the cells of an image that are hidden
GRIDS = (
    0,
    4,
    5,
    7,
    14,
)  # cells per side, drawn for each image: the authors' 56, 44, 32 and 16 of 224 pixels, and nothing hidden
DROP_RATE, DROP_ABOVE = (
    0.75,
    0.8,
)  # the authors' values: how often attention is dropped, from which share of its maximum on
PATCHES = 2  # per cell of the last features and side


def hide(pictures: Tensor, grids: tuple[int, ...] = GRIDS, share: float = HIDDEN) -> Tensor:
    """Pictures [B, 1, S, S] with random cells set to 0, the mean of each normalized picture; the grid of a picture is drawn from `grids`."""
    drawn = torch.randint(len(grids), (len(pictures),)).tolist()
    masks = []
    for number in drawn:
        cells = max(grids[number], 1)
        kept = (
            (torch.rand(1, 1, cells, cells) >= share).float()
            if grids[number]
            else torch.ones(1, 1, 1, 1)
        )
        masks.append(F.interpolate(kept, size=pictures.shape[-2:], mode="nearest"))
    return pictures * torch.cat(masks).to(pictures)


def drop_mask(features: Tensor, above: float = DROP_ABOVE) -> Tensor:
    """1 where the attention of features [B, C, H, W], their mean over the channels, is below a share of its maximum, else 0: [B, 1, H, W]."""
    attention = features.mean(1, keepdim=True)
    return (attention < above * attention.amax((2, 3), keepdim=True)).to(features)


def drop_attention(features: Tensor, rate: float = DROP_RATE, above: float = DROP_ABOVE) -> Tensor:
    """Features [B, C, H, W] times their drop mask, with probability `rate`, or else times the sigmoid of their attention."""
    if torch.rand(()) < rate:
        return features * drop_mask(features, above)
    return features * torch.sigmoid(features.mean(1, keepdim=True))


def bag_logit(patches: Tensor) -> Tensor:
    """The logit [B] of the noisy-or of patches [B, N], themselves logits: at least one of them is positive, 1 - prod (1 - p).

    In logarithms, so that nothing underflows; Li et al. squeeze the factors into [.98, 1] instead.
    """
    none = (
        F.softplus(patches).sum(1).clamp_min(1e-6)
    )  # -log of the probability that no patch is positive
    return none + torch.log(-torch.expm1(-none))


class HideAndSeek(Classifier):
    """The classifier, trained on pictures of which parts are hidden. Singh and Lee 2017."""

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, S, S], 8-bit values -> logits [B, 1]; nothing is hidden at test."""
        pictures = normalize(images)
        return self.head(
            self.body(hide(pictures) if self.training else pictures)["32"].mean((2, 3))
        )


class AttentionDropout(Classifier):
    """The classifier with a layer after the stages of stride 16 and 32 that hides what they attend to. Choe and Shim 2019."""

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, S, S], 8-bit values -> logits [B, 1]; nothing is dropped at test."""
        features = self.body.stem(normalize(images))
        for stride, stage in self.body.stages.items():
            features = stage(features)
            if self.training and stride != "8":
                features = drop_attention(features)
        return self.head(features.mean((2, 3)))


class PatchMIL(Classifier):
    """A logit for each patch, of which an image is the noisy-or. Li et al. 2018, without their term for images with boxes.

    The last features are enlarged to PATCHES patches per cell, as the authors resize theirs, and read by a small convolutional head.
    """

    def __init__(self, detector: "Detector") -> None:
        super().__init__(detector)
        channels = 8 * detector.config.width
        self.head = nn.Sequential(
            nn.Conv2d(channels, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 1, 1),
        )
        cells = (detector.config.side // 32 * PATCHES) ** 2
        nn.init.constant_(
            self.head[-1].bias, -torch.tensor(float(cells)).log().item()
        )  # about one positive per image

    def patches(self, images: Tensor) -> Tensor:
        """Images [B, 1, S, S], 8-bit values -> logits of their patches [B, P, P], P = 2 S / 32."""
        features = self.body(normalize(images))["32"]
        return self.head(
            F.interpolate(features, scale_factor=PATCHES, mode="bilinear", align_corners=False)
        )[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, S, S] -> logits [B, 1]."""
        return bag_logit(self.patches(images).float().flatten(1))[:, None]
