"""The region proposer: torchvision's RetinaNet (Lin et al. 2017), made narrow enough for a CPU.

In: square grey images [B, 1, S, S], 8-bit values. Out: boxes with scores, a coarse map of where an
opacity is, a score for the whole image, and the feature pyramid that describes regions.

Boxes, image labels and reports train it in conjunction (`Detector.losses`). Ours, not the paper's:
the sizes, detection on strides 16 and 32 only, and three more heads: a mask head at stride 8,
trained on the union of the boxes; an image-level head; and a map of places, trained on what reports
assert (`place_losses`). Nothing here reads a report at test.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

from pnloc.bodies import body
from pnloc.config import DetectorConfig

ANCHOR_SIDE = 192  # of the input for which the anchors of a configuration are meant
KINDS = 6  # of zones, in the order of pnloc.model.PLACES


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


class Heads(NamedTuple):
    """What the heads say of B images, before a box is chosen.

    outputs and anchors are RetinaNet's; mask and places are logits [B, S/8, S/8], image [B];
    places is None where there is no such head.
    """

    pyramid: dict[str, Tensor]
    outputs: dict[str, Tensor]
    anchors: list[Tensor]
    mask: Tensor
    image: Tensor
    places: Tensor | None


class Detector(RetinaNet):
    """RetinaNet for one class, with a mask head, an image-level head and a map of places."""

    def __init__(self, config: DetectorConfig) -> None:
        channels, scale = config.pyramid, config.side / ANCHOR_SIDE
        sizes = tuple(tuple(size * scale for size in level) for level in config.anchor_sizes)
        anchors = AnchorGenerator(sizes, (config.aspect_ratios,) * len(sizes))
        per_cell = anchors.num_anchors_per_location()[0]
        head = RetinaNetHead(channels, per_cell, 1, partial(nn.GroupNorm, 8))
        backbone = body(config)
        backbone.out_channels = channels
        backbone.stem.requires_grad_(not config.frozen_stem)
        options = {"score_thresh": 0.0, "topk_candidates": 300}
        super().__init__(backbone, 1, anchor_generator=anchors, head=head, **options)
        self.transform = nn.Identity()  # images come square, of one size, and are normalized here
        self.config = config
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), channels)
        self.mask_head = _map_head(channels + 2, channels)
        self.image_head = nn.Linear(2 * backbone.channels[-1], 1)
        self.place_head = _map_head(channels, channels) if config.place_weight else None

    def train(self, mode: bool = True) -> "Detector":
        """As in torch, except that what is frozen of the body keeps its batch statistics."""
        super().train(mode)
        if self.config.frozen_stem:
            self.backbone.stem.eval()
        for module in self.backbone.modules() if self.config.frozen_norm else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def heads(self, images: Tensor) -> Heads:
        """What each head says of images [B, 1, S, S].

        The image's score comes from the deepest feature, pooled by mean and maximum. The mask head
        is told where its cells lie. The map of places is not: a place would be enough for it.
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
        places = None if self.place_head is None else self.place_head(fine)[:, 0].float()
        return Heads(pyramid, outputs, anchors, mask, self.image_head(pooled)[:, 0].float(), places)

    def losses(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The weighted terms of images [B, 1, S, S]: boxes, mask, image label, places.

        Each target holds 'opacity', 1 or 0; where boxes are known also 'boxes' [n, 4] (pixels of
        the input) and 'labels' [n], all 0; where there is a map of places also 'zones' uint8 [S, S]
        and 'phrases' [P, 6] (`place_losses`). Boxes say more of a place than a phrase: an image
        that has some does not count in the map.
        """
        heads, config = self.heads(images), self.config
        boxed = [row for row, target in enumerate(targets) if "boxes" in target]
        opacity = torch.stack([target["opacity"] for target in targets])
        terms = self._box_losses(heads, [targets[row] for row in boxed], boxed)
        label = F.binary_cross_entropy_with_logits(heads.image, opacity)
        terms["image"] = config.image_weight * label
        if heads.places is not None and all("zones" in target for target in targets):
            zones = torch.stack([target["zones"] for target in targets])
            phrases = torch.stack([target["phrases"] for target in targets])
            told = opacity.clone()
            told[boxed] = told[boxed].where(told[boxed] == 0, torch.nan)
            named, beyond = place_losses(heads.places, zones, phrases, told, config)
            terms["places"] = config.place_weight * named
            terms["outside"] = config.place_weight * config.outside * beyond
        return terms

    def _box_losses(self, heads: Heads, targets: list[dict], boxed: list[int]) -> dict[str, Tensor]:
        """Focal, box and mask terms (cross-entropy and Dice) of the images with known boxes."""
        if not boxed:
            return {}
        outputs = {name: value[boxed] for name, value in heads.outputs.items()}
        terms = self.compute_loss(targets, outputs, [heads.anchors[row] for row in boxed])
        mask = heads.mask[boxed]
        cells = mask.shape[-1]
        truth = torch.stack([union_mask(t["boxes"], 8 * cells, cells) for t in targets])
        truth, present = truth.to(mask), torch.stack([t["opacity"] for t in targets])
        share = torch.sigmoid(mask)
        overlap, total = (share * truth).sum((1, 2)), share.sum((1, 2)) + truth.sum((1, 2))
        dice = 1 - (2 * overlap + 1) / (total + 1)
        cross_entropy = F.binary_cross_entropy_with_logits(mask, truth)
        return {
            "focal": terms["classification"],
            "box": terms["bbox_regression"],
            "mask": self.config.mask_weight * (cross_entropy + (dice * present).mean()),
        }

    def forward(self, images: Tensor, overlap: float = 0.5, most: int = 100) -> Output:
        """Detections of images [B, 1, S, S], suppressed at IoU `overlap`, at most `most` each."""
        heads = self.heads(images)
        cells = [heads.pyramid[stride][0, 0].numel() for stride in ("16", "32")]
        per_cell = heads.outputs["cls_logits"].shape[1] // sum(cells)
        sizes = [n * per_cell for n in cells]
        levels = {name: list(value.split(sizes, dim=1)) for name, value in heads.outputs.items()}
        anchors = [list(a.split(sizes)) for a in heads.anchors]
        self.nms_thresh, self.detections_per_img = overlap, most
        shapes = [tuple(images.shape[-2:])] * len(images)
        detections = self.postprocess_detections(levels, anchors, shapes)
        boxes, scores = ([d[name] for d in detections] for name in ("boxes", "scores"))
        mask, image = torch.sigmoid(heads.mask), torch.sigmoid(heads.image)
        return Output(boxes, scores, mask, image, heads.pyramid)


def _map_head(inputs: int, channels: int) -> nn.Sequential:
    """Two convolutions and a logit per cell."""
    layer = partial(Conv2dNormActivation, norm_layer=partial(nn.GroupNorm, 8), bias=True)
    return nn.Sequential(
        *layer(inputs, channels), *layer(channels, channels), nn.Conv2d(channels, 1, 1)
    )


def place_losses(
    logits: Tensor, zones: Tensor, phrases: Tensor, opacity: Tensor, config: DetectorConfig
) -> tuple[Tensor, Tensor]:
    """What reports ask of a map of logits z [B, h, w], and the term of its cells outside the lungs.

    e_k, the evidence of zone k, is the mean of the highest share `pooled` of z in it. Each of the
    asserted phrases P asks for an opacity in one of its places; the other zones hold none:

        L = mean_p softplus(-max_{k in p} e_k) + elsewhere * mean_{k in no p} softplus(e_k)

    of a report that asserts an opacity, a report without a place being a phrase of all zones, and
    mean_k softplus(e_k) of one that asserts none. The second term is the mean of softplus(z) over
    the cells outside the lungs.

    zones uint8 [B, S, S]: 0 outside the lungs, 1 + k in zone k; phrases [B, P, 6] (1 for each place
    that a phrase allows); opacity [B], NaN where the image does not count. An image in which no
    lung was found does not count either.
    """
    evidence, there = zone_evidence(logits, zones, config.pooled)
    unplaced = ~phrases.any(2).any(1)
    phrases = torch.cat([phrases > 0, unplaced[:, None, None].expand(-1, 1, KINDS)], dim=1)
    allowed = phrases & there[:, None]
    real = allowed.any(2)
    best = evidence[:, None].masked_fill(~allowed, -torch.inf).amax(2).masked_fill(~real, 0)
    named = _mean(F.softplus(-best), real)
    absent = F.softplus(evidence)
    other = there & ~allowed.any(1)
    asked = named + config.elsewhere * _mean(absent, other)
    terms = torch.where(opacity > 0.5, asked, _mean(absent, there))
    inside = F.interpolate((zones > 0).float()[:, None], logits.shape[-2:], mode="area")[:, 0]
    beyond = (inside < 0.5) & there.any(1)[:, None, None]
    outside = _mean(F.softplus(logits).flatten(), beyond.flatten())
    return _mean(terms, there.any(1) & ~opacity.isnan()), outside


def zone_evidence(logits: Tensor, zones: Tensor, pooled: float) -> tuple[Tensor, Tensor]:
    """Evidence [B, 6] of an opacity in each zone, 0 where it has no cell; whether it has any.

    logits [B, h, w]; zones uint8 [B, S, S]. A cell is of the zone that covers half of it.
    """
    one_hot = torch.stack([zones == 1 + kind for kind in range(KINDS)], dim=1).float()
    members = F.interpolate(one_hot, logits.shape[-2:], mode="area").flatten(2) >= 0.5
    count = members.sum(2)
    values = logits.flatten(1)[:, None].expand(-1, KINDS, -1)
    ranked = values.masked_fill(~members, -torch.inf).sort(dim=2, descending=True).values
    most = torch.arange(ranked.shape[2], device=logits.device) < (pooled * count).ceil()[..., None]
    return _mean(ranked.masked_fill(~most, 0), most), count > 0


def _mean(values: Tensor, of: Tensor) -> Tensor:
    """Mean of values over the last dimension where `of` holds; 0 where it holds nowhere."""
    return (values.masked_fill(~of, 0)).sum(-1) / of.sum(-1).clamp_min(1)


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


def coordinates(like: Tensor) -> Tensor:
    """Two channels [B, 2, H, W]: relative x and y, -1 to 1, of the cells of `like` [B, C, H, W]."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in like.shape[-2:]), indexing="ij")
    return torch.stack([x, y]).to(like).expand(len(like), -1, -1, -1)
