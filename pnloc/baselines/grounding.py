"""Weakly supervised phrase grounding on the regions, learned from image-report pairs alone.

    contrastive grounding   the cross-attention with its contrastive term only (Gupta et al. 2020)
    Align2Ground            each word picks the region that fits it best; the picked regions are
                            compared with the report, and a report must fit its own image better
                            than others by a margin, and vice versa (Datta et al. 2019)
    reconstruction          what a word attends to has to tell the word again (the family of Chen et
                            al. 2018 and Liu et al. 2019, at its smallest)

None reads attributes, image labels or places. All ground a phrase, so they need one at test:
always PROMPT, never the image's report. Letters as in `pnloc.model`.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnloc.config import FittingConfig, ModelConfig
from pnloc.localizer import make_batch
from pnloc.losses import matching
from pnloc.model import Batch, CrossAttention
from pnloc.parallel import device
from pnloc.regions import Regions
from pnloc.reports.words import WordVectors
from pnloc.train import Losses, Schedule, fit, generator, parts

Pairs = tuple[Regions, np.ndarray]  # regions of N images, words [N, W]
PROMPT = ("opacity", "consolidation", "pneumonia")
MARGIN = 0.2  # of the ranking loss, between cosines


class ContrastiveGrounding(CrossAttention):
    """The cross-attention of `pnloc.model`, trained only to match reports with images."""

    def __init__(self, features: int, vectors: Tensor, names: Tensor, config: ModelConfig) -> None:
        super().__init__(features, vectors, names, config)
        self.contrast_tau, self.contrast_group = config.contrast_tau, config.contrast_group

    def loss(self, batch: Batch) -> Tensor:
        """In-batch contrastive loss of a batch's reports and images."""
        return matching(self, batch, None, self.contrast_group, self.contrast_tau)

    def grounded(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean attention of the words [B, R], and how well they fit the image [B], 0 to 1."""
        regions = self.encode_regions(batch.features)
        count = (batch.words >= 0).sum(1, keepdim=True).clamp_min(1)
        fit = (1 + self.match(batch, regions).diagonal()) / 2
        return self.text_attention(batch, regions).sum(1) / count, fit


class Align2Ground(ContrastiveGrounding):
    """The same encoders; words pick regions, and picked regions are matched with reports.

    Words take the part of the paper's phrases.
    """

    def __init__(self, features: int, vectors: Tensor, names: Tensor, config: ModelConfig) -> None:
        super().__init__(features, vectors, names, config)
        self.picked, self.caption = _residual(config.width), _residual(config.width)

    def match(self, batch: Batch, regions: Tensor | None = None) -> Tensor:
        """score [B reports, B images]: cosine of a report and the regions that its words pick.

        0 for reports without words.
        """
        present = batch.words >= 0
        encoded = self.encode_words(batch.words)
        regions = self.encode_regions(batch.features) if regions is None else regions
        first, which = distinct(batch.words)
        words = encoded[present][first]  # [U, D]
        cosines = (words @ regions.transpose(1, 2)).masked_fill(~batch.valid.unsqueeze(1), -1.0)
        best = cosines.argmax(2)  # [B images, U]
        picked = regions.gather(1, best.unsqueeze(-1).expand(-1, -1, regions.shape[-1]))
        report, count = torch.nonzero(present)[:, 0], present.sum(1).clamp_min(1).unsqueeze(-1)
        once = torch.ones(len(which), device=regions.device)
        often = once.new_zeros(len(present), len(words))
        often.index_put_((report, which), once, accumulate=True)
        images = (often / count) @ picked  # [B images, B reports, D]
        captions = (encoded * present.unsqueeze(-1)).sum(1) / count
        images, captions = images + self.picked(images), captions + self.caption(captions)
        return F.cosine_similarity(images, captions, dim=-1).T * present.any(1, keepdim=True)

    def loss(self, batch: Batch) -> Tensor:
        """Ranking loss of a batch's reports and images."""
        return ranking(self.match(batch), (batch.words >= 0).any(1))

    def text_attention(self, batch: Batch, regions: Tensor | None = None) -> Tensor:
        """Softmax of the cosines [B, W, R], without the detector's score; 0 for padding."""
        equal = replace(batch, log_scores=torch.zeros_like(batch.log_scores))
        return super().text_attention(equal, regions)


class Reconstruction(ContrastiveGrounding):
    """The same encoders; the region that a word attends to must tell the word's vector."""

    def __init__(self, features: int, vectors: Tensor, names: Tensor, config: ModelConfig) -> None:
        super().__init__(features, vectors, names, config)
        self.told = nn.Linear(config.width, vectors.shape[1])

    def loss(self, batch: Batch) -> Tensor:
        """1 - cosine of a word's vector and what its attended region tells, the mean over words."""
        regions, real = self.encode_regions(batch.features), batch.words >= 0
        told = self.told(self.text_attention(batch, regions) @ regions)
        fit = F.cosine_similarity(told, self.vectors[batch.words.clamp_min(0)], dim=-1)
        return ((1 - fit) * real).sum() / real.sum().clamp_min(1)


def _residual(width: int) -> nn.Sequential:
    """Two layers that give 0 at first, so that words and regions start in one space."""
    layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    return layers


def distinct(words: Tensor) -> tuple[Tensor, Tensor]:
    """A place [U] of each distinct word among the T words of [B, W], and each word's number [T].

    Padding does not count. Two words are the same if their neighbours are, too, since their vectors
    then agree. Reports repeat themselves, so most words need not be compared again.
    """
    triples = F.pad(words.clamp_min(-1), (1, 1), value=-1).unfold(1, 3, 1)[words >= 0]
    different, which = torch.unique(triples, dim=0, return_inverse=True)
    first = torch.zeros(len(different), dtype=torch.int64, device=words.device)
    return first.scatter(0, which, torch.arange(len(triples), device=words.device)), which


def ranking(scores: Tensor, paired: Tensor, margin: float = MARGIN) -> Tensor:
    """Hinge loss of scores [B reports, B images], both ways.

    The mean over reports with words (`paired` [B]) and over all others, not against the hardest
    other alone: among reports that say the same in the same words the hardest other is as true
    as the own, and training on it ends with equal scores. 0 for fewer than two studies.
    """
    rows = torch.nonzero(paired).squeeze(1)
    if len(rows) < 2:
        return scores.sum() * 0.0
    own = scores.diagonal()[rows]
    other = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)[rows]
    image = F.relu(margin - own[:, None] + scores[rows])[other]
    report = F.relu(margin - own[None] + scores[rows][:, rows])[other[:, rows]]
    return image.mean() + report.mean()


def train_grounding(
    model: ContrastiveGrounding, training: Pairs, held_out: Pairs, config: FittingConfig, **options
) -> pd.DataFrame:
    """Train a model in place on pairs of regions and words [N, W], and return the history.

    held_out: validation pairs, possibly none; options: those of `pnloc.train.fit`. Studies whose
    report asserts no opacity have no words and take part in neither.
    """
    model.to(device())
    rows, held_out_rows = (np.flatnonzero((w >= 0).any(1)) for _, w in (training, held_out))
    steps = max(1, len(rows) // config.batch) if len(rows) > 1 else 0

    def batch_of(pairs: Pairs, rows: np.ndarray) -> Batch:
        regions, words = pairs[0].rows(rows), pairs[1][rows]
        return make_batch(regions, words[:, : int((words >= 0).sum(1).max(initial=0))])

    def batches(epoch: int) -> Iterator[Batch]:
        order = generator(options["seed"], 5, epoch).permutation(rows)
        return (batch_of(training, own) for own in parts(order, config.batch, steps))

    def losses(batch: Batch) -> Losses:
        return {options["title"]: model.loss(batch)}

    # Blocks of equal size, since the loss grows with the number of studies compared.
    count = max(1, round(len(held_out_rows) / config.batch)) if len(held_out_rows) > 1 else 0
    blocks = [batch_of(held_out, b) for b in np.array_split(held_out_rows, count)] if count else []

    def validation() -> float:
        return float(np.mean([model.loss(block).item() for block in blocks]))

    check = validation if blocks else None
    schedule = Schedule(config.epochs, steps, config.rate, config.weight_decay, config.patience)
    return fit(model, batches, losses, schedule, validation=check, **options)


@torch.no_grad()
def prompted(
    model: ContrastiveGrounding, regions: Regions, vectors: WordVectors
) -> tuple[np.ndarray, np.ndarray]:
    """From images alone: PROMPT's attention over the regions [N, R] and its fit [N], 0 to 1."""
    words = vectors.index(PROMPT)
    words = words[words > 0]
    outputs = [(np.zeros((0, regions.scores.shape[1])), np.zeros(0))]
    for rows in parts(np.arange(len(regions)), 128):
        batch = make_batch(regions.rows(rows), np.tile(words, (len(rows), 1)))
        outputs.append([output.cpu().numpy() for output in model.grounded(batch)])
    return tuple(map(np.concatenate, zip(*outputs, strict=True)))
