"""The region proposer: torchvision's RetinaNet (Lin et al. 2017), made narrow enough for a CPU.

In: square grey images [B, 1, S, S], 8-bit values. Out: boxes with scores, a coarse map of where an opacity is,
a score for the whole image, and the feature pyramid that regions are described with.

Ours, not the paper's: the width, detection on strides 16 and 32 only, and two more heads:
a mask head at stride 8 whose target is the union of the boxes, and an image-level head. Where more is known of the images, a
third head learns it beside the others (FINDINGS); nothing reads it afterwards.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FeaturePyramidNetwork

from pnloc.config import FINDINGS, DetectorConfig
from pnloc.errors import PnlocError
from pnloc.inputs import normalize

# The stages of torchvision's ResNet-18 as NarrowResNet calls them, and the only width with published weights.
_IMAGENET = {
    "conv1": "stem.0",
    "bn1": "stem.1",
    "layer1": "stem.4",
    "layer2": "stages.8",
    "layer3": "stages.16",
    "layer4": "stages.32",
}
WIDTH = 64


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

    def losses(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
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


def imagenet() -> dict[str, Tensor]:
    """The weights of torchvision's ResNet-18 (He et al. 2016) under the names of pnloc.detector.NarrowResNet, for grey images.

    The three colours of the first filter are summed: a grey image is one whose colours are the same. Raises PnlocError where the file is not at
    hand and cannot be downloaded, or is not what it should be.
    """
    from torchvision.models import ResNet18_Weights

    weights = ResNet18_Weights.IMAGENET1K_V1
    folder = f"{torch.hub.get_dir()}/checkpoints"
    try:
        known = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise PnlocError(
            f"the detector is to start from ImageNet weights, which cannot be downloaded ({error}); put {weights.url} into "
            f"{folder}, or set start='random' in the preset (pnloc/config.py)"
        ) from None
    except Exception as error:  # whatever a file that is no checkpoint makes torch say
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise PnlocError(
            f"{folder}/{weights.url.rsplit('/', 1)[1]}: not the weights of a ResNet-18 ({said[0]}); delete it"
        ) from None
    found = {}
    for name, value in known.items():
        first, rest = name.split(".", 1)
        if first in _IMAGENET:
            found[f"{_IMAGENET[first]}.{rest}"] = value
    found["stem.0.weight"] = found["stem.0.weight"].sum(1, keepdim=True)
    return found


def start(body: nn.Module, name: str) -> None:
    """Load the named weights into a backbone (pnloc.detector.NarrowResNet): 'random' leaves it as it is, 'imagenet' needs width 64.

    Raises PnlocError for another name or width.
    """
    if name == "random":
        return
    if name != "imagenet":
        raise PnlocError(f"a detector starts from 'random' or 'imagenet' weights, not {name!r}")
    width = body.stem[0].out_channels
    if width != WIDTH:
        raise PnlocError(
            f"ImageNet weights fit a detector of width {WIDTH}, not {width}; set start='random' or width={WIDTH}"
        )
    body.load_state_dict(imagenet())
