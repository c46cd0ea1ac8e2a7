"""The supervised upper bound: detectors trained on the boxes of the very set that localization is measured on.

RetinaNet (Lin et al. 2017) is pnloc.detector.Detector; Faster R-CNN (Ren et al. 2015) is torchvision's, on the same narrow backbone and
pyramid. Both start from the run's detector, so that they have seen all that the other methods have seen.
"""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from pnloc.config import FittingConfig
from pnloc.detector import Detector
from pnloc.inputs import normalize
from pnloc.parallel import autocast, device
from pnloc.train import Losses, Schedule, fit
from pnloc.training import balanced

OVERLAP = 0.3  # IoU from which on the lesser of two detections of Faster R-CNN is dropped
MOST = 20  # detections per image


class Pyramid(nn.Module):
    """Backbone and feature pyramid of a detector: images [B, 1, S, S] -> {'16': [B, C, S/16, S/16], '32': ...}."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.body, self.fpn = deepcopy(detector.backbone), deepcopy(detector.fpn)
        self.out_channels = detector.config.pyramid

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = self.fpn(self.body(normalize(images)))
        return {stride: levels[stride].float() for stride in ("16", "32")}


class FasterRegions(FasterRCNN):
    """Faster R-CNN for one class and square grey images, small enough for a CPU: 200 proposals, a box head of 256 units."""

    def __init__(self, detector: Detector) -> None:
        config, width = detector.config, 256
        anchors = AnchorGenerator(
            config.anchor_sizes, (config.aspect_ratios,) * len(config.anchor_sizes)
        )
        super().__init__(
            Pyramid(detector),
            rpn_anchor_generator=anchors,
            box_roi_pool=MultiScaleRoIAlign(["16", "32"], output_size=5, sampling_ratio=2),
            box_head=TwoMLPHead(config.pyramid * 25, width),
            box_predictor=FastRCNNPredictor(width, 2),
            rpn_pre_nms_top_n_train=400,
            rpn_pre_nms_top_n_test=400,
            rpn_post_nms_top_n_train=200,
            rpn_post_nms_top_n_test=200,
            rpn_batch_size_per_image=64,
            box_batch_size_per_image=64,
            box_score_thresh=0.0,
            box_nms_thresh=OVERLAP,
            box_detections_per_img=MOST,
            min_size=config.side,
            max_size=config.side,
            image_mean=[0.0],
            image_std=[1.0],
        )
        self.config = config

    def losses(self, images: Tensor, targets: list[dict[str, Tensor]]) -> Losses:
        """The four terms of Faster R-CNN; targets as for `Detector.losses`."""
        known = [
            {"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets
        ]  # 0 is the background
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        resting = not self.training
        try:
            self.train()  # torchvision gives losses in training only
            if resting:
                for norm in norms:
                    norm.eval()
            return super().forward(list(images), known)
        finally:
            self.train(not resting)


def train_supervised(
    model: nn.Module,
    pictures: tuple[np.ndarray, list[np.ndarray]],
    held: tuple[np.ndarray, list[np.ndarray]],
    config: FittingConfig,
    *,
    seed: int,
    folder: str | Path,
    fingerprint: str,
    title: str,
) -> pd.DataFrame:
    """Train a Detector or FasterRegions in place on uint8 images [N, S, S] and their boxes [n, 4], until its loss on the `held` ones stops falling.

    An epoch is every image with a box and as many without, drawn anew. Returns the history.
    """
    where = device()
    model.to(where, memory_format=torch.channels_last)
    steps, batches = balanced(*pictures, config.batch, seed, 6)

    def targets(found: list[Tensor]) -> list[dict[str, Tensor]]:
        return [
            {"boxes": b.to(where), "labels": torch.zeros(len(b), dtype=torch.int64, device=where)}
            for b in found
        ]

    def losses(batch: tuple[Tensor, list[Tensor], Tensor]) -> Losses:
        with autocast(where):
            return model.losses(batch[0].to(where), targets(batch[1]))

    def validation() -> float:
        """With the same random numbers each time: Faster R-CNN draws which of its boxes count."""
        total, count = 0.0, len(held[0])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for start in range(0, count, config.batch):
                rows = slice(start, start + config.batch)
                found = [
                    torch.as_tensor(b, dtype=torch.float32).reshape(-1, 4) for b in held[1][rows]
                ]
                terms = losses(
                    (
                        torch.from_numpy(held[0][rows])[:, None].float(),
                        found,
                        torch.zeros(len(found), 0),
                    )
                )
                total += sum(v.item() for v in terms.values()) * len(found)
        return total / count

    return fit(
        model,
        batches,
        losses,
        Schedule(
            config.epochs,
            steps,
            config.rate,
            config.weight_decay,
            config.patience if len(held[0]) else 0,
        ),
        folder=folder,
        fingerprint=fingerprint,
        seed=seed,
        title=title,
        shared=True,
        validation=validation if len(held[0]) else None,
    )


@torch.no_grad()
def detect(
    model: FasterRegions, images: np.ndarray, batch: int = 32
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes [n, 4] (pixels of the square input) and probabilities [n] per uint8 image [N, S, S], best first."""
    where, found = next(model.parameters()).device, []
    model.eval()
    for start in range(0, len(images), batch):
        pictures = (
            torch.from_numpy(np.asarray(images[start : start + batch]))[:, None].float().to(where)
        )
        with autocast(where):
            found += [
                (f["boxes"].double().cpu().numpy(), f["scores"].double().cpu().numpy())
                for f in model(list(pictures))
            ]
    return found
