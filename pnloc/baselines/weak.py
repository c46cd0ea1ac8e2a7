"""Weakly supervised localizers: from image labels alone, like CAM, but they look further.

    hide-and-seek      parts of the training images are hidden (Singh and Lee 2017); CAM at test
    attention dropout  the most attended features are dropped in training (Choe and Shim 2019);
                       CAM at test
    patch MIL          a score per patch; an image is positive if any patch is (Li et al. 2018)

All start from the detector's backbone and train the same part of it as
`pnloc.baselines.classifier.Classifier`. B images of side S.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnloc.baselines.classifier import Classifier
from pnloc.detector import Detector, normalize

HIDDEN = 0.5  # share of the cells of an image that are hidden
# Cells per side, drawn per image: the authors' 56, 44, 32 and 16 of 224 pixels; 0 hides nothing.
GRIDS = (0, 4, 5, 7, 14)
# The authors' values: how often attention is dropped, and above which share of its maximum.
DROP_RATE, DROP_ABOVE = 0.75, 0.8
PATCHES = 2  # per side of a cell of the last features


def hide(pictures: Tensor, grids: tuple[int, ...] = GRIDS, share: float = HIDDEN) -> Tensor:
    """Pictures [B, 1, S, S] with random cells set to 0, the mean of a normalised picture.

    The grid of each picture is drawn from `grids`.
    """
    masks = []
    for cells in torch.tensor(grids)[torch.randint(len(grids), (len(pictures),))].tolist():
        mask = torch.rand(1, 1, cells, cells) >= share if cells else torch.ones(1, 1, 1, 1)
        masks.append(F.interpolate(mask.float(), size=pictures.shape[-2:], mode="nearest"))
    return pictures * torch.cat(masks).to(pictures)


def drop_mask(features: Tensor, above: float = DROP_ABOVE) -> Tensor:
    """1 where the attention is below a share of its maximum, else 0: [B, 1, H, W].

    The attention is the mean of features [B, C, H, W] over their channels.
    """
    attention = features.mean(1, keepdim=True)
    return (attention < above * attention.amax((2, 3), keepdim=True)).to(features)


def drop_attention(features: Tensor, rate: float = DROP_RATE, above: float = DROP_ABOVE) -> Tensor:
    """Features [B, C, H, W] times their drop mask or times the sigmoid of their attention.

    `rate` is the probability of the former.
    """
    if torch.rand(()) < rate:
        return features * drop_mask(features, above)
    return features * torch.sigmoid(features.mean(1, keepdim=True))


def bag_logit(patches: Tensor) -> Tensor:
    """The logit [B] of the noisy-or 1 - prod(1 - p) of patch logits [B, N].

    In logarithms, so that nothing underflows; Li et al. squeeze the factors into [.98, 1] instead.
    """
    none = F.softplus(patches).sum(1).clamp_min(1e-6)  # -log P(no patch is positive)
    return none + torch.log(-torch.expm1(-none))


class HideAndSeek(Classifier):
    """The classifier, trained on partly hidden pictures; nothing is hidden at test.

    Singh and Lee 2017.
    """

    def features(self, pictures: Tensor) -> Tensor:
        return super().features(hide(pictures) if self.training else pictures)


class AttentionDropout(Classifier):
    """The classifier with attention dropout after strides 16 and 32; none at test.

    Choe and Shim 2019.
    """

    def features(self, pictures: Tensor) -> Tensor:
        features = self.body.stem(pictures)
        for stride, stage in self.body.stages.items():
            features = stage(features)
            if self.training and stride != "8":
                features = drop_attention(features)
        return features


class PatchMIL(Classifier):
    """A logit per patch, and their noisy-or per image. Li et al. 2018.

    Their term for images with boxes is left out. The last features are enlarged to PATCHES
    patches per cell, as the authors resize theirs, and read by a small convolutional head.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector)
        self.head = nn.Sequential(
            nn.Conv2d(self.body.channels[-1], 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 1, 1),
        )
        cells = (detector.config.side // 32 * PATCHES) ** 2  # at first about one is positive
        nn.init.constant_(self.head[-1].bias, -torch.tensor(float(cells)).log().item())

    def patches(self, images: Tensor) -> Tensor:
        """Images [B, 1, S, S], 8-bit values -> logits of their patches [B, P, P], P = 2 S / 32."""
        features = self.features(normalize(images))
        larger = F.interpolate(features, scale_factor=PATCHES, mode="bilinear")
        return self.head(larger)[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, S, S] -> logits [B, 1]."""
        return bag_logit(self.patches(images).float().flatten(1))[:, None]

    def activation(self, images: Tensor) -> Tensor:
        """The probability of each patch [B, P, P]."""
        return torch.sigmoid(self.patches(images).float())
