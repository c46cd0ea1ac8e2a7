"""The cross-attention at work: from pairs to a trained model, from regions to scores, boxes and attributes.

Nothing on the way from an image's regions to its boxes reads a report; `phrase_mass`, `report_mass` and `report_scores` are the exceptions
and say so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pnloc.boxes import fuse, group, select
from pnloc.config import ModelConfig
from pnloc.losses import total
from pnloc.model import Batch, CrossAttention
from pnloc.regions import Regions
from pnloc.reports.phrases import CELLS
from pnloc.reports.words import WordVectors
from pnloc.train import Schedule, device, fit, generator

UNSAID = 0.2  # weight of an attribute that the report of a pneumonia does not mention


@dataclass(frozen=True)
class Choice:
    """How region scores become boxes; chosen on validation data (pnloc.boxes.select)."""

    share: float = 0.5
    most: int = 2
    grouped: bool = True


def name_vectors(names: tuple[str, ...], vectors: WordVectors) -> Tensor:
    """Mean word vector [A, E] of each attribute's name ('side:right' -> right); unknown words are zero."""
    rows = [vectors.vectors[vectors.index(name.split(":")[-1].split())].mean(0) for name in names]
    return torch.from_numpy(np.stack(rows)).float()


def make_batch(
    regions: Regions,
    words: np.ndarray | None = None,
    phrases: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Batch:
    """A Batch on the training device from regions of B images and arrays [B, W], [B, P, K], [B, A], [B, A]; what is not given is empty."""
    where = device()
    none = np.zeros((len(regions), 0))
    words, labels, weights = (none if a is None else a for a in (words, labels, weights))
    phrases = np.zeros((len(regions), 0, len(CELLS))) if phrases is None else phrases
    return Batch(
        regions.features.to(where).float(),
        regions.scores.clamp_min(1e-4).log().to(where),
        regions.valid.to(where),
        regions.centres.to(where),
        torch.as_tensor(words, dtype=torch.int64, device=where),
        torch.as_tensor(phrases, dtype=torch.float32, device=where),
        torch.as_tensor(labels, dtype=torch.float32, device=where),
        torch.as_tensor(weights, dtype=torch.float32, device=where),
    )


def supervision(
    found: list[set[str]], opacity: np.ndarray, names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weights [N, A] from each study's asserted attributes and its opacity (1, 0 or NaN: not known).

    names[0] is the pneumonia itself. Without an opacity every attribute is absent; with one, what is not
    asserted is absent with weight UNSAID only; where the opacity is not known, nothing is.
    """
    labels = np.array(
        [[float(name in have) for name in names] for have in found], dtype=np.float32
    ).reshape(-1, len(names))
    opacity = np.asarray(opacity, dtype=np.float32)
    present = np.nan_to_num(opacity) > 0.5
    labels[:, 0] = present
    labels[~present] = 0
    weights = np.where(labels > 0, 1.0, np.where(present, UNSAID, 1.0)[:, None]).astype(np.float32)
    weights[:, 0] = 1
    weights[np.isnan(opacity)] = 0
    return labels, weights


def pad_words(words: list[np.ndarray], most: int) -> np.ndarray:
    """Word indices as one array [N, W], padded with -1, `most` words at the most."""
    width = min(most, max((len(w) for w in words), default=0))
    padded = np.full((len(words), width), -1, dtype=np.int64)
    for row, indices in enumerate(words):
        padded[row, : min(len(indices), width)] = indices[:width]
    return padded


@contextmanager
def one_thread() -> Iterator[None]:
    """Whatever torch computes on the CPU inside the block takes one thread: sharing a step as small as the attention's costs more than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stretches(words: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """`most` words that follow each other, from anywhere in each report [N, W]: [N, at most `most`]; of a shorter one all."""
    count = (words >= 0).sum(1)
    first, width = (
        rng.integers(np.maximum(count - most, 0) + 1),
        min(most, int(count.max(initial=0))),
    )
    return np.take_along_axis(words, first[:, None] + np.arange(width), axis=1)


def train_localizer(
    regions: Regions,
    words: np.ndarray,
    phrases: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    vectors: WordVectors,
    names: tuple[str, ...],
    config: ModelConfig,
    *,
    text: bool,
    seed: int,
    folder: str | Path,
    fingerprint: str,
) -> tuple[CrossAttention, pd.DataFrame]:
    """Train the cross-attention on N studies; without `text` only from names[0], the image label.

    regions of N images; words [N, W]; phrases [N, P, K]; labels, weights [N, A]. Returns the model and its history.
    """
    torch.manual_seed(seed)
    if not text:
        names, labels, weights = names[:1], labels[:, :1], weights[:, :1]
    model = CrossAttention(
        regions.features.shape[-1],
        torch.from_numpy(vectors.vectors),
        name_vectors(names, vectors),
        config,
    )
    model.to(device())
    known = np.flatnonzero(weights.sum(1) > 0)
    steps = max(1, len(known) // config.batch) if len(known) else 0

    def batches(epoch: int):
        rng = generator(seed, 2, epoch)
        order = rng.permutation(known)
        for step in range(steps):
            rows = order[step * config.batch : (step + 1) * config.batch]
            here = stretches(words[rows], config.contrast_words, rng)
            yield make_batch(regions.rows(rows), here, phrases[rows], labels[rows], weights[rows])

    with one_thread():
        history = fit(
            model,
            batches,
            lambda batch: total(model, batch, config, text),
            Schedule(config.epochs, steps, config.rate, config.weight_decay),
            folder=folder,
            fingerprint=fingerprint,
            seed=seed,
            title="text attention" if text else "image-label attention",
            encoders=(model.regions,),
        )
    return model, history


@torch.no_grad()
def image_mass(model: CrossAttention, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
    """From images alone: beta of the pneumonia query over regions [N, R], and attribute probabilities [N, A]."""
    beta, logits = model.image_only(make_batch(regions))
    return beta[:, 0].cpu().numpy(), torch.sigmoid(logits).cpu().numpy()


@torch.no_grad()
def phrase_mass(model: CrossAttention, regions: Regions, phrases: np.ndarray) -> np.ndarray:
    """gamma [N, P, R]: where each phrase [N, P, K] of an image's report points; 0 for padding."""
    return model.phrase_attention(make_batch(regions, phrases=phrases))[0].cpu().numpy()


def report_mass(model: CrossAttention, regions: Regions, phrases: np.ndarray) -> np.ndarray:
    """With the report given: the greatest gamma of its phrases [N, P, K], [N, R]; one without phrases falls back on `image_mass`."""
    gamma = phrase_mass(model, regions, phrases)
    said = phrases.any((1, 2)) if phrases.size else np.zeros(len(regions), dtype=bool)
    return np.where(said[:, None], gamma.max(1, initial=0.0), image_mass(model, regions)[0])


def detector_mass(regions: Regions) -> np.ndarray:
    """The detector's own word as a mass over the regions [N, R]: its scores, as shares of their sum."""
    scores = regions.scores.numpy()
    return scores / np.maximum(scores.sum(1, keepdims=True), 1e-9)


def region_scores(regions: Regions, mass: np.ndarray, grouped: bool) -> np.ndarray:
    """Scores [N, R] to rank regions by, from a mass over them [N, R]; padding gets 0. Raises on a value not finite.

    grouped: the mass of overlapping regions times the detector's score (pnloc.boxes.group); else the mass itself.
    """
    scores = np.zeros(mass.shape)
    for row in range(len(regions)):
        n = int(regions.valid[row].sum())
        if grouped:
            scores[row, :n] = group(
                regions.boxes[row, :n].numpy(), mass[row, :n], regions.scores[row, :n].numpy()
            )
        else:
            scores[row, :n] = mass[row, :n]
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            f"{(~np.isfinite(scores)).any(1).sum()} images have region scores that are not finite"
        )
    return scores


def report_scores(
    model: CrossAttention, regions: Regions, phrases: np.ndarray, grouped: bool
) -> np.ndarray:
    """Scores [N, R] to rank regions by with the report given, from the phrases [N, P, K] of each report.

    Each phrase ranks the regions by its gamma as `region_scores` does, the best one scoring 1; a region has the greatest score that any
    phrase gives it. So a report that names two places is answered with a box for either. One without phrases falls back on the image alone.
    """
    gamma, scores = (
        phrase_mass(model, regions, phrases),
        region_scores(regions, image_mass(model, regions)[0], grouped),
    )
    said = phrases.any(-1) if phrases.size else np.zeros((len(regions), 0), dtype=bool)
    found = np.zeros_like(scores)
    for number in range(said.shape[1]):
        own = region_scores(regions, gamma[:, number], grouped)
        found = np.maximum(found, own / own.max(1, keepdims=True).clip(1e-12))
    return np.where(said.any(1)[:, None], found, scores)


def pick(regions: Regions, mass: np.ndarray, choice: Choice) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes [n, 4] (pixels of the square input) and scores [n] per image, from a mass over regions [N, R].

    Where regions are grouped, a box is the mean of its group by score (pnloc.boxes.fuse).
    """
    return boxes_of(regions, region_scores(regions, mass, choice.grouped), choice)


def boxes_of(
    regions: Regions, scores: np.ndarray, choice: Choice
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same from the scores [N, R] that the regions are ranked by."""
    picked = []
    for row in range(len(regions)):
        n = int(regions.valid[row].sum())
        boxes, own = regions.boxes[row, :n].numpy().astype(np.float64), scores[row, :n]
        kept = select(boxes, own, choice.share, choice.most)
        picked.append((fuse(boxes, own, kept) if choice.grouped else boxes[kept], own[kept]))
    return picked
