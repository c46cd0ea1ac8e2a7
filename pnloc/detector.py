"""The region proposer: torchvision's RetinaNet (Lin et al. 2017), made narrow enough for a CPU.

In: square grey images [B, 1, S, S], 8-bit values. Out: boxes with scores, a coarse map of where an opacity is,
a score for the whole image, and the feature pyramid that regions are described with.

Ours, not the paper's: the width, detection on strides 16 and 32 only, and two more heads:
a mask head at stride 8 whose target is the union of the boxes, and an image-level head. Where more is known of the images, a
third head learns it beside the others (FINDINGS); nothing reads it afterwards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FeaturePyramidNetwork

from pnloc import pretrained, processes
from pnloc.config import FINDINGS, DetectorConfig
from pnloc.errors import PnlocError
from pnloc.inputs import augment, normalize
from pnloc.train import Losses, Schedule, autocast, device, fit, generator


@dataclass(frozen=True)
class Output:
    """What the detector says of B images of side S.

    boxes    B tensors [n, 4], xyxy in pixels of the S x S input, best first
    scores   B tensors [n], probabilities
    mask     [B, S/8, S/8], probability that an opacity covers the cell
    image    [B], probability that the image shows an opacity
    pyramid  features at strides 8, 16 and 32, each [B, C, S/stride, S/stride]
    """

    boxes: list[Tensor]
    scores: list[Tensor]
    mask: Tensor
    image: Tensor
    pyramid: dict[str, Tensor]


class NarrowResNet(nn.Module):
    """ResNet-18 for grey images with `width` instead of 64 channels; gives strides 8, 16 and 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        net = ResNet(BasicBlock, [2, 2, 2, 2], zero_init_residual=True)
        net.inplanes = width
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            net._make_layer(BasicBlock, width, 2),
        )
        self.stages = nn.ModuleDict(
            {
                str(8 * 2**i): net._make_layer(BasicBlock, width * 2 ** (i + 1), 2, stride=2)
                for i in range(3)
            }
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 1, S, S] -> {'8': [B, 2w, S/8, S/8], '16': [B, 4w, ...], '32': [B, 8w, ...]}."""
        features, x = {}, self.stem(images)
        for stride, stage in self.stages.items():
            features[stride] = x = stage(x)
        return features


class Detector(RetinaNet):
    """RetinaNet for one class, with a mask head and an image-level head."""

    def __init__(self, config: DetectorConfig) -> None:
        channels = config.pyramid
        anchors = AnchorGenerator(
            config.anchor_sizes, (config.aspect_ratios,) * len(config.anchor_sizes)
        )
        head = RetinaNetHead(
            channels, anchors.num_anchors_per_location()[0], 1, partial(nn.GroupNorm, 8)
        )
        body = NarrowResNet(config.width)
        body.out_channels = channels
        super().__init__(
            body, 1, anchor_generator=anchors, head=head, score_thresh=0.0, topk_candidates=300
        )
        self.transform = nn.Identity()  # images come square, of one size, and are normalized here
        self.config = config
        self.fpn = FeaturePyramidNetwork([config.width * 2**i for i in (1, 2, 3)], channels)
        self.mask_head = nn.Sequential(
            nn.Conv2d(channels + 2, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.ReLU(),
            nn.Conv2d(channels, 1, 1),
        )
        self.image_head = nn.Linear(2 * config.width * 8, 1)
        self.finding_head = (
            nn.Linear(2 * config.width * 8, len(FINDINGS)) if config.finding_weight else None
        )

    def features(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Pyramid of strides 8, 16, 32, and the pooled deepest feature [B, 16w] (mean and maximum)."""
        levels = self.backbone(normalize(images).contiguous(memory_format=torch.channels_last))
        pooled = torch.cat([levels["32"].mean((2, 3)), levels["32"].amax((2, 3))], dim=1)
        return self.fpn(levels), pooled

    def heads(
        self, images: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor], Tensor, Tensor, Tensor | None]:
        """Pyramid, RetinaNet's outputs, anchors per image, mask logits [B, S/8, S/8], image logits [B], logits of FINDINGS [B, 15] or None."""
        pyramid, pooled = self.features(images)
        levels = [pyramid["16"], pyramid["32"]]
        outputs = {name: value.float() for name, value in self.head(levels).items()}
        sizes = [tuple(images.shape[-2:])] * len(images)
        anchors = self.anchor_generator(ImageList(images, sizes), levels)
        mask = self.mask_head(torch.cat([pyramid["8"], _coordinates(pyramid["8"])], dim=1))[
            :, 0
        ].float()
        findings = None if self.finding_head is None else self.finding_head(pooled).float()
        return pyramid, outputs, anchors, mask, self.image_head(pooled)[:, 0].float(), findings

    def losses(self, images: Tensor, targets: list[dict[str, Tensor]]) -> Losses:
        """Focal, box, mask (cross-entropy and Dice), image-level and, where they are given and there is a head for them, finding terms.

        images [B, 1, S, S]; targets[i] holds 'boxes' [n, 4] (pixels of the input), 'labels' [n], all 0, and maybe 'findings' [15], NaN unknown.
        """
        _, outputs, anchors, mask, image, findings = self.heads(images)
        terms = self.compute_loss(targets, outputs, anchors)
        truth = torch.stack(
            [union_mask(t["boxes"], images.shape[-1], mask.shape[-1]) for t in targets]
        ).to(mask)
        present = torch.tensor([float(len(t["boxes"]) > 0) for t in targets]).to(image)
        weights = self.config
        probability = torch.sigmoid(mask)
        dice = 1 - (2 * (probability * truth).sum((1, 2)) + 1) / (
            probability.sum((1, 2)) + truth.sum((1, 2)) + 1
        )
        found = {
            "focal": terms["classification"],
            "box": terms["bbox_regression"],
            "mask": weights.mask_weight
            * (F.binary_cross_entropy_with_logits(mask, truth) + (dice * present).mean()),
            "image": weights.image_weight * F.binary_cross_entropy_with_logits(image, present),
        }
        if findings is not None and "findings" in targets[0]:
            known = torch.stack([t["findings"] for t in targets])
            found["findings"] = weights.finding_weight * finding_loss(findings, known)
        return found

    def forward(self, images: Tensor, overlap: float = 0.5, most: int = 100) -> Output:
        """Detections of images [B, 1, S, S], suppressed at IoU `overlap`, `most` per image at the most."""
        pyramid, outputs, anchors, mask, image, _ = self.heads(images)
        counts = [pyramid[stride].shape[-2] * pyramid[stride].shape[-1] for stride in ("16", "32")]
        per_cell = outputs["cls_logits"].shape[1] // sum(counts)
        sizes = [n * per_cell for n in counts]
        split = {name: list(value.split(sizes, dim=1)) for name, value in outputs.items()}
        self.nms_thresh, self.detections_per_img = overlap, most
        found = self.postprocess_detections(
            split, [list(a.split(sizes)) for a in anchors], [tuple(images.shape[-2:])] * len(images)
        )
        return Output(
            [f["boxes"] for f in found],
            [f["scores"] for f in found],
            torch.sigmoid(mask),
            torch.sigmoid(image),
            pyramid,
        )


def union_mask(boxes: Tensor, side: int, cells: int) -> Tensor:
    """Share of each cell of a [cells, cells] grid over a `side`-pixel square that the boxes [n, 4] cover.

    Exact for one box; where boxes overlap, the larger share counts.
    """
    if len(boxes) == 0:
        return torch.zeros(cells, cells, device=boxes.device)
    edges = torch.arange(cells + 1, dtype=torch.float32, device=boxes.device) * side / cells
    width = side / cells
    along = [
        (
            (
                torch.minimum(boxes[:, k + 2, None], edges[1:])
                - torch.maximum(boxes[:, k, None], edges[:-1])
            )
            / width
        ).clamp(0, 1)
        for k in (0, 1)
    ]
    return (along[1][:, :, None] * along[0][:, None, :]).amax(0)


def finding_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of FINDINGS [B, 15]: that of 'Normal', and twice the mean over the others; what is unknown (NaN) does not count."""

    def mean(logits: Tensor, truth: Tensor) -> Tensor:
        known = (~torch.isnan(truth)).to(logits)
        losses = (
            F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(0.0), reduction="none")
            * known
        )
        return losses.sum() / known.sum().clamp_min(1)

    return mean(logits[:, :1], truth[:, :1]) + 2 * mean(logits[:, 1:], truth[:, 1:])


def _coordinates(like: Tensor) -> Tensor:
    """Two channels [B, 2, H, W] with the relative x and y of each cell, -1 to 1."""
    height, width = like.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    return torch.stack([x, y]).to(like).expand(len(like), -1, -1, -1)


def balanced(
    images: np.ndarray,
    boxes: list[np.ndarray],
    batch: int,
    seed: int,
    stream: int,
    findings: np.ndarray | None = None,
) -> tuple[int, Callable[[int], Iterator[tuple[Tensor, list[Tensor], Tensor]]]]:
    """Steps per epoch, and what gives an epoch's augmented batches: every image with a box and as many without, drawn anew.

    images uint8 [N, S, S]; N boxes [n, 4]; findings [N, 15] or None; `stream` tells the random numbers of one training from those of another
    with the same seed. A batch has images, boxes and findings ([b, 0] where there are none).
    """
    findings = np.zeros((len(images), 0), dtype=np.float32) if findings is None else findings
    positive = np.array([i for i, b in enumerate(boxes) if len(b)], dtype=int)
    negative = np.array([i for i, b in enumerate(boxes) if not len(b)], dtype=int)
    drawn = min(len(negative), len(positive))
    steps = (len(positive) + drawn) // batch or int(len(positive) > 0)

    def batches(epoch: int):
        rng = generator(seed, stream, epoch)
        order = rng.permutation(
            np.concatenate([positive, rng.choice(negative, drawn, replace=False)])
        )
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            moved = augment(torch.from_numpy(images[rows])[:, None], [boxes[i] for i in rows], rng)
            yield *moved, torch.from_numpy(findings[rows])

    return steps, batches


def train_detector(
    images: np.ndarray,
    boxes: list[np.ndarray],
    config: DetectorConfig,
    *,
    findings: np.ndarray | None = None,
    seed: int,
    folder: str | Path,
    fingerprint: str,
) -> tuple[Detector, pd.DataFrame]:
    """Train on uint8 images [N, S, S] and N arrays of boxes [n, 4] (pixels of the input, n may be 0).

    findings: what else is known of the images, float32 [N, 15] (FINDINGS; NaN unknown), where `config.finding_weight` asks for it; without it
    PnlocError is raised. An epoch is every image with a box and as many without, drawn anew. Returns the detector and its history.
    """
    if config.finding_weight and findings is None:
        raise PnlocError("the detector is to learn findings (finding_weight), and none are given")
    where = device()
    torch.manual_seed(seed)
    detector = Detector(config)
    pretrained.start(detector.backbone, config.start)
    detector.to(where, memory_format=torch.channels_last)
    steps, batches = balanced(
        images, boxes, config.batch, seed, 1, findings if config.finding_weight else None
    )

    def losses(batch: tuple[Tensor, list[Tensor], Tensor]) -> Losses:
        pictures, found, known = batch
        targets = [
            {"boxes": b.to(where), "labels": torch.zeros(len(b), dtype=torch.int64, device=where)}
            for b in found
        ]
        for target, row in zip(targets, known.to(where), strict=True):
            target |= {"findings": row} if len(row) else {}
        with autocast(where):
            return detector.losses(pictures.to(where), targets)

    history = fit(
        detector,
        batches,
        losses,
        Schedule(config.epochs, steps, config.rate, config.weight_decay),
        folder=folder,
        fingerprint=fingerprint,
        seed=seed,
        title="detector",
        share=processes.share,
    )
    return detector, history
