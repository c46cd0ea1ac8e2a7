"""Weakly supervised phrase grounding on the regions: what image-report pairs teach without attributes, image labels or places.

    contrastive grounding   the cross-attention with its contrastive term alone (Gupta et al. 2020)
    Align2Ground            each word takes the region that fits it best, what is taken is compared with the report, and a report must fit its
                            own image better than others by a margin, and the other way round (Datta et al. 2019)

Both ground a phrase, so that they need one at test: always PROMPT, never the image's report. Letters as in pnloc.model.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnloc.config import FittingConfig, ModelConfig
from pnloc.localizer import make_batch
from pnloc.losses import matching
from pnloc.model import PNEUMONIA, Batch, CrossAttention
from pnloc.parallel import device
from pnloc.regions import Regions
from pnloc.reports.words import WordVectors
from pnloc.train import Losses, Schedule, fit, generator
from pnloc.training import name_vectors

PROMPT = ("opacity", "consolidation", "pneumonia")
MARGIN = 0.2  # of the ranking loss, between cosines


class ContrastiveGrounding(CrossAttention):
    """The cross-attention of pnloc.model, learnt from which report belongs to which image and nothing else."""

    def __init__(self, features: int, vectors: Tensor, names: Tensor, config: ModelConfig) -> None:
        super().__init__(features, vectors, names, config)
        self.contrast_tau, self.contrast_group = config.contrast_tau, config.contrast_group

    def loss(self, batch: Batch) -> Tensor:
        """In-batch contrastive loss of a batch's reports and images."""
        return matching(self, batch, None, self.contrast_group, self.contrast_tau)

    def mass(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Where the batch's words point, averaged over them [B, R], and how well they fit the image [B], 0 to 1."""
        regions = self.encode_regions(batch.features)
        alpha = self.text_attention(batch, regions)
        return alpha.sum(1) / (batch.words >= 0).sum(1, keepdim=True).clamp_min(1), self._fit(
            batch, regions
        )

    def _fit(self, batch: Batch, regions: Tensor) -> Tensor:
        return (1 + self.match(batch, regions).diagonal()) / 2


class Align2Ground(ContrastiveGrounding):
    """The same encoders; words pick regions, and picked regions are matched with reports. Words stand for the phrases of the paper."""

    def __init__(self, features: int, vectors: Tensor, names: Tensor, config: ModelConfig) -> None:
        super().__init__(features, vectors, names, config)
        width = config.width
        self.taken = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )  # what is picked
        self.caption = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )  # a report
        for head in (
            self.taken,
            self.caption,
        ):  # both begin as the mean itself, so that words and regions share a space
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)

    def likeness(self, words: Tensor, regions: Tensor, valid: Tensor) -> Tensor:
        """Cosines [B, T, R] of words [T, D] and regions [B, R, D]; -1 for padding."""
        return (words @ regions.transpose(1, 2)).masked_fill(~valid.unsqueeze(1), -1.0)

    def match(self, batch: Batch, regions: Tensor | None = None) -> Tensor:
        """score [B reports, B images]: the cosine of a report and of what its words pick in an image; 0 for reports without words."""
        known = batch.words >= 0
        encoded = self.encode_words(batch.words)
        regions = self.encode_regions(batch.features) if regions is None else regions
        chosen, which = distinct(batch.words)
        words = encoded[known][chosen]  # [U, D]
        best = self.likeness(words, regions, batch.valid).argmax(2)  # [B images, U]
        picked = regions.gather(1, best.unsqueeze(-1).expand(-1, -1, regions.shape[-1]))
        report, count = torch.nonzero(known)[:, 0], known.sum(1).clamp_min(1).unsqueeze(-1)
        often = torch.zeros(len(known), len(words), device=regions.device)
        often.index_put_(
            (report, which), torch.ones(len(which), device=regions.device), accumulate=True
        )
        images = (often / count) @ picked  # [B images, B reports, D]
        captions = (encoded * known.unsqueeze(-1)).sum(1) / count
        images, captions = images + self.taken(images), captions + self.caption(captions)
        return F.cosine_similarity(images, captions, dim=-1).T * known.any(1, keepdim=True)

    def loss(self, batch: Batch) -> Tensor:
        """Ranking loss of a batch's reports and images."""
        return ranking(self.match(batch), (batch.words >= 0).any(1))

    def mass(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `ContrastiveGrounding.mass`, by the softmax of the cosines."""
        regions, known = self.encode_regions(batch.features), batch.words >= 0
        cosines = torch.einsum("bwd,brd->bwr", self.encode_words(batch.words), regions)
        cosines = cosines.masked_fill(~batch.valid.unsqueeze(1), torch.finfo(cosines.dtype).min)
        weights = (
            torch.softmax(cosines / self.tau, dim=-1)
            * batch.valid.unsqueeze(1)
            * known.unsqueeze(-1)
        )
        return weights.sum(1) / known.sum(1, keepdim=True).clamp_min(1), self._fit(batch, regions)


KINDS = {"contrastive-grounding": ContrastiveGrounding, "align2ground": Align2Ground}


def distinct(words: Tensor) -> tuple[Tensor, Tensor]:
    """Of the T words that are no padding in words [B, W]: the place of one of each that are alike with their neighbours [U], and which it is [T].

    Reports say the same in the same words, and such words need not be compared twice: their vectors are equal.
    """
    triples = F.pad(words.clamp_min(-1), (1, 1), value=-1).unfold(1, 3, 1)[words >= 0]
    found, which = torch.unique(triples, dim=0, return_inverse=True)
    places = torch.arange(len(triples), device=words.device)
    return torch.zeros(len(found), dtype=torch.int64, device=words.device).scatter(
        0, which, places
    ), which


def ranking(scores: Tensor, paired: Tensor, margin: float = MARGIN) -> Tensor:
    """Hinge loss of scores [B reports, B images], both ways: the mean over reports with words (`paired` [B]) and over all others.

    Not against the hardest other alone: of reports that say the same in the same words the hardest other is as true as the own, and training on
    it ends with all scores alike. 0 where fewer than two studies take part.
    """
    rows = torch.nonzero(paired).squeeze(1)
    if len(rows) < 2:
        return scores.sum() * 0.0
    own = scores.diagonal()[rows]
    other = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)[rows]
    image = F.relu(margin - own[:, None] + scores[rows])[other]
    report = F.relu(margin - own[None] + scores[rows][:, rows])[other[:, rows]]
    return image.mean() + report.mean()


def make(
    method: str, features: int, vectors: WordVectors, config: ModelConfig
) -> ContrastiveGrounding:
    """An untrained model of KINDS for regions of that many features."""
    names = name_vectors((PNEUMONIA,), vectors)
    return KINDS[method](features, torch.from_numpy(vectors.vectors), names, config)


def train_grounding(
    method: str,
    pairs: tuple[Regions, np.ndarray],
    held: tuple[Regions, np.ndarray],
    vectors: WordVectors,
    config: FittingConfig,
    model_config: ModelConfig,
    *,
    seed: int,
    folder: str | Path,
    fingerprint: str,
) -> tuple[ContrastiveGrounding, pd.DataFrame]:
    """Train a method of KINDS on pairs of regions and words [N, W] until its loss on the `held` ones stops falling.

    Studies whose report asserts no opacity have no words and take part neither here nor there. Without held pairs it is trained for all epochs.
    """
    torch.manual_seed(seed)
    model = make(method, pairs[0].features.shape[-1], vectors, model_config).to(device())
    (regions, words), known = pairs, np.flatnonzero((pairs[1] >= 0).any(1))
    steps = max(1, len(known) // config.batch) if len(known) > 1 else 0
    rows_held = np.flatnonzero((held[1] >= 0).any(1))

    def cut(regions: Regions, words: np.ndarray, rows: np.ndarray) -> Batch:
        here = words[rows]
        return make_batch(regions.rows(rows), here[:, : int((here >= 0).sum(1).max(initial=0))])

    def batches(epoch: int):
        order = generator(seed, 5, epoch).permutation(known)
        for step in range(steps):
            yield cut(regions, words, order[step * config.batch : (step + 1) * config.batch])

    def losses(batch: Batch) -> Losses:
        return {method: model.loss(batch)}

    blocks = max(
        1, round(len(rows_held) / config.batch)
    )  # alike in size, since a loss is harder the more are compared
    fixed = (
        [cut(*held, block) for block in np.array_split(rows_held, blocks)]
        if len(rows_held) > 1
        else []
    )

    def validation() -> float:
        return float(np.mean([model.loss(batch).item() for batch in fixed]))

    history = fit(
        model,
        batches,
        losses,
        Schedule(
            config.epochs, steps, config.rate, config.weight_decay, config.patience if fixed else 0
        ),
        folder=folder,
        fingerprint=fingerprint,
        seed=seed,
        title=method,
        encoders=(model.regions,),
        validation=validation if fixed else None,
    )
    return model, history


@torch.no_grad()
def prompt_mass(
    model: ContrastiveGrounding, regions: Regions, vectors: WordVectors
) -> tuple[np.ndarray, np.ndarray]:
    """From images alone: where PROMPT points among the regions [N, R], and how well it fits each image [N], 0 to 1."""
    known = vectors.index(PROMPT)
    words = known[known > 0]
    parts = [(np.zeros((0, regions.scores.shape[1])), np.zeros(0))]
    for start in range(0, len(regions), 128):
        here = regions.rows(np.arange(start, min(start + 128, len(regions))))
        found = model.mass(make_batch(here, np.tile(words, (len(here), 1))))
        parts.append(tuple(f.cpu().numpy() for f in found))
    return tuple(np.concatenate(p) for p in zip(*parts, strict=True))
