"""The region proposer: torchvision's RetinaNet (Lin et al. 2017), made narrow enough for a CPU.

In: square grey images [B, 1, S, S], 8-bit values. Out: boxes with scores, a coarse map of where an
opacity is, a score for the whole image, and the feature pyramid that describes regions.

Ours, not the paper's: the width, detection on strides 16 and 32 only, and two more heads: a mask
head at stride 8, trained on the union of the boxes, and an image-level head. Where more is known
about the images (FINDINGS), a third head is trained on that; nothing reads its output.
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
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

from pnloc.config import DetectorConfig
from pnloc.errors import PnlocError

# What a detector may learn beside the boxes: RSNA's class 'Normal', and the labels of ChestX-ray14.
FINDINGS = ("Normal", "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion")
FINDINGS += ("Emphysema", "Fibrosis", "Hernia", "Infiltration", "Mass", "Nodule")
FINDINGS += ("Pleural_Thickening", "Pneumonia", "Pneumothorax")
WIDTH = 64  # the only width with published weights
# Stages of torchvision's ResNet-18 by their names in NarrowResNet.
_IMAGENET = {"conv1": "stem.0", "bn1": "stem.1", "layer1": "stem.4"}
_IMAGENET |= {"layer2": "stages.8", "layer3": "stages.16", "layer4": "stages.32"}


@dataclass(frozen=True)
class Output:
    """Output for B images of side S.

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
        self.stages = nn.ModuleDict()
        for level, stride in enumerate(("8", "16", "32"), 1):
            self.stages[stride] = net._make_layer(BasicBlock, width * 2**level, 2, stride=2)
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
        channels, sizes = config.pyramid, config.anchor_sizes
        anchors = AnchorGenerator(sizes, (config.aspect_ratios,) * len(sizes))
        per_cell = anchors.num_anchors_per_location()[0]
        head = RetinaNetHead(channels, per_cell, 1, partial(nn.GroupNorm, 8))
        body = NarrowResNet(config.width)
        body.out_channels = channels
        options = {"score_thresh": 0.0, "topk_candidates": 300}
        super().__init__(body, 1, anchor_generator=anchors, head=head, **options)
        self.transform = nn.Identity()  # images come square, of one size, and are normalized here
        self.config = config
        self.fpn = FeaturePyramidNetwork([config.width * 2**i for i in (1, 2, 3)], channels)
        layer = partial(Conv2dNormActivation, norm_layer=partial(nn.GroupNorm, 8), bias=True)
        layers = (*layer(channels + 2, channels), *layer(channels, channels))
        self.mask_head = nn.Sequential(*layers, nn.Conv2d(channels, 1, 1))
        pooled = 2 * config.width * 8
        self.image_head = nn.Linear(pooled, 1)
        self.finding_head = nn.Linear(pooled, len(FINDINGS)) if config.finding_weight else None

    def heads(self, images: Tensor) -> tuple:
        """Pyramid, RetinaNet's outputs, anchors per image, and the logits of the other heads.

        These are mask [B, S/8, S/8], image [B] and, where there is such a head, FINDINGS [B, 15],
        else None. Image and findings come from the deepest feature, pooled by mean and maximum.
        """
        features = self.backbone(normalize(images).contiguous(memory_format=torch.channels_last))
        deepest = features["32"]
        pooled = torch.cat([deepest.mean((2, 3)), deepest.amax((2, 3))], dim=1)
        pyramid = self.fpn(features)
        levels = [pyramid["16"], pyramid["32"]]
        outputs = {name: value.float() for name, value in self.head(levels).items()}
        sizes = [tuple(images.shape[-2:])] * len(images)
        anchors = self.anchor_generator(ImageList(images, sizes), levels)
        fine = pyramid["8"]
        mask = self.mask_head(torch.cat([fine, coordinates(fine)], dim=1))[:, 0].float()
        findings = None if self.finding_head is None else self.finding_head(pooled).float()
        return pyramid, outputs, anchors, mask, self.image_head(pooled)[:, 0].float(), findings

    def losses(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Focal, box, mask (cross-entropy and Dice), image-level and finding terms.

        images [B, 1, S, S]; targets[i] holds 'boxes' [n, 4] (pixels of the input), 'labels' [n],
        all 0, and, where there is a head for them, 'findings' [15], NaN where unknown.
        """
        _, outputs, anchors, mask, image, findings = self.heads(images)
        terms, config = self.compute_loss(targets, outputs, anchors), self.config
        side, cells = images.shape[-1], mask.shape[-1]
        truth = torch.stack([union_mask(t["boxes"], side, cells) for t in targets]).to(mask)
        present = torch.tensor([float(len(t["boxes"]) > 0) for t in targets]).to(image)
        share = torch.sigmoid(mask)
        overlap, total = (share * truth).sum((1, 2)), share.sum((1, 2)) + truth.sum((1, 2))
        dice = 1 - (2 * overlap + 1) / (total + 1)
        cross_entropy = F.binary_cross_entropy_with_logits
        losses = {
            "focal": terms["classification"],
            "box": terms["bbox_regression"],
            "mask": config.mask_weight * (cross_entropy(mask, truth) + (dice * present).mean()),
            "image": config.image_weight * cross_entropy(image, present),
        }
        if findings is not None:
            labels = torch.stack([t["findings"] for t in targets])
            losses["findings"] = config.finding_weight * finding_loss(findings, labels)
        return losses

    def forward(self, images: Tensor, overlap: float = 0.5, most: int = 100) -> Output:
        """Detections of images [B, 1, S, S], suppressed at IoU `overlap`, at most `most` each."""
        pyramid, outputs, anchors, mask, image, _ = self.heads(images)
        cells = [pyramid[stride][0, 0].numel() for stride in ("16", "32")]
        per_cell = outputs["cls_logits"].shape[1] // sum(cells)
        sizes = [n * per_cell for n in cells]
        levels = {name: list(value.split(sizes, dim=1)) for name, value in outputs.items()}
        anchors = [list(a.split(sizes)) for a in anchors]
        self.nms_thresh, self.detections_per_img = overlap, most
        shapes = [tuple(images.shape[-2:])] * len(images)
        detections = self.postprocess_detections(levels, anchors, shapes)
        boxes, scores = ([d[name] for d in detections] for name in ("boxes", "scores"))
        return Output(boxes, scores, torch.sigmoid(mask), torch.sigmoid(image), pyramid)


def normalize(images: Tensor) -> Tensor:
    """Grey values of each image [B, 1, S, S] to mean 0 and deviation 1 over its non-black pixels.

    Black padding is left out of the statistics; an image without contrast becomes all zero.
    """
    images = images.float()
    inside = (images > 0).float()
    count = inside.sum((1, 2, 3), keepdim=True).clamp_min(1)
    mean = (images * inside).sum((1, 2, 3), keepdim=True) / count
    deviation = (((images - mean) * inside).square().sum((1, 2, 3), keepdim=True) / count).sqrt()
    return ((images - mean) / deviation.clamp_min(1e-3)).clamp(-4, 4)


def union_mask(boxes: Tensor, side: int, cells: int) -> Tensor:
    """Share of each cell that boxes [n, 4] cover: a [cells, cells] grid over `side` pixels.

    Exact for one box; where boxes overlap, the larger share counts.
    """
    if len(boxes) == 0:
        return torch.zeros(cells, cells, device=boxes.device)
    edges = torch.arange(cells + 1, dtype=torch.float32, device=boxes.device) * side / cells
    low, high = boxes[:, :2, None], boxes[:, 2:, None]
    shared = torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])  # [n, 2, cells]
    along = (shared / (side / cells)).clamp(0, 1)
    return (along[:, 1, :, None] * along[:, 0, None, :]).amax(0)


def finding_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of FINDINGS [B, 15]: of 'Normal', plus twice the mean over the others.

    Unknown findings (NaN) do not count.
    """
    known = (~torch.isnan(truth)).to(logits)
    targets = truth.nan_to_num(0.0)
    losses = known * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    normal = losses[:, :1].sum() / known[:, :1].sum().clamp_min(1)
    return normal + 2 * (losses[:, 1:].sum() / known[:, 1:].sum().clamp_min(1))


def coordinates(like: Tensor) -> Tensor:
    """Two channels [B, 2, H, W]: relative x and y, -1 to 1, of the cells of `like` [B, C, H, W]."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in like.shape[-2:]), indexing="ij")
    return torch.stack([x, y]).to(like).expand(len(like), -1, -1, -1)


def imagenet() -> dict[str, Tensor]:
    """torchvision's ResNet-18 (He et al. 2016), trained on ImageNet, named as in NarrowResNet.

    The three colours of the first filter are summed: in a grey image they are the same. torch's
    restricted reader makes tensors of the pickled file and calls nothing; the hash in its name is
    checked. Raises PnlocError where the file is broken, or missing and cannot be downloaded.
    """
    from torchvision.models import ResNet18_Weights

    weights = ResNet18_Weights.IMAGENET1K_V1
    folder = f"{torch.hub.get_dir()}/checkpoints"
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        advice = f"put {weights.url} into {folder}, or set start='random' (pnloc/presets.toml)"
        raise PnlocError(f"ImageNet weights cannot be downloaded ({error}); {advice}") from None
    except Exception as error:  # whatever torch raises on a file that is no checkpoint
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        path = f"{folder}/{weights.url.rsplit('/', 1)[1]}"
        raise PnlocError(f"{path}: not the weights of a ResNet-18 ({reason}); delete it") from None
    parts = [(*name.split(".", 1), value) for name, value in state.items()]
    result = {f"{_IMAGENET[s]}.{rest}": value for s, rest, value in parts if s in _IMAGENET}
    result["stem.0.weight"] = result["stem.0.weight"].sum(1, keepdim=True)
    return result


def start(body: NarrowResNet, name: str) -> None:
    """Load the weights that a backbone starts from: 'imagenet', or 'random' for its own.

    Raises PnlocError for another name, and for ImageNet weights with a width other than 64.
    """
    if name not in ("random", "imagenet"):
        raise PnlocError(f"a detector starts from 'random' or 'imagenet' weights, not {name!r}")
    if name == "imagenet":
        width, advice = body.stem[0].out_channels, f"set start='random' or width={WIDTH}"
        if width != WIDTH:
            raise PnlocError(f"ImageNet weights fit only a width of {WIDTH}, not {width}; {advice}")
        body.load_state_dict(imagenet())
