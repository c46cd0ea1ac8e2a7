"""Train the cross-attention on studies: their labels, weights and words, and the training itself.

Word vectors are those of pnloc.reports.words.WordVectors: `vectors` [V, E] and `index(words)`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pnloc.config import ModelConfig
from pnloc.localizer import make_batch
from pnloc.losses import total
from pnloc.model import CrossAttention
from pnloc.parallel import device
from pnloc.regions import Regions
from pnloc.train import Schedule, fit, generator, parts

UNMENTIONED = 0.2  # weight of an attribute that the report of a pneumonia does not mention


def name_vectors(names: tuple[str, ...], vectors) -> Tensor:
    """Mean word vector [A, E] of each attribute's name ('side:right': right); 0 if unknown."""
    rows = [vectors.vectors[vectors.index(name.split(":")[-1].split())].mean(0) for name in names]
    return torch.from_numpy(np.stack(rows)).float()


def new_attention(
    features: int,
    vectors,
    names: tuple[str, ...],
    config: ModelConfig,
    kind: type[CrossAttention] = CrossAttention,
) -> CrossAttention:
    """A cross-attention before training, for regions of F features and attributes `names`."""
    words = torch.from_numpy(vectors.vectors)
    return kind(features, words, name_vectors(names, vectors), config)


def supervision(
    attributes: list[set[str]], opacity: np.ndarray, names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weights [N, A] from each study's asserted attributes and opacity (1, 0, or NaN).

    names[0] is the pneumonia itself. Without an opacity every attribute is absent; with one, an
    attribute that is not asserted is absent with weight UNMENTIONED; where the opacity is unknown
    (NaN), so is every attribute.
    """
    labels = np.array([[name in own for name in names] for own in attributes], dtype=np.float32)
    labels = labels.reshape(-1, len(names))
    opacity = np.asarray(opacity, dtype=np.float32)
    present = np.nan_to_num(opacity) > 0.5
    labels[:, 0] = present
    labels[~present] = 0
    absent = np.where(present, UNMENTIONED, 1.0)[:, None]
    weights = np.where(labels > 0, 1.0, absent).astype(np.float32)
    weights[:, 0] = 1
    weights[np.isnan(opacity)] = 0
    return labels, weights


def pad_words(words: list[np.ndarray], most: int) -> np.ndarray:
    """Word indices as one array [N, W], padded with -1, W at most `most`."""
    width = min(most, max((len(w) for w in words), default=0))
    padded = np.full((len(words), width), -1, dtype=np.int64)
    for row, indices in enumerate(words):
        padded[row, : min(len(indices), width)] = indices[:width]
    return padded


def stacked(arrays: list[np.ndarray], fill: float) -> np.ndarray:
    """Arrays [N, W, ...] of several sets as one; W is the greatest of theirs, the rest `fill`."""
    width = max(array.shape[1] for array in arrays)
    rest = [(0, 0)] * (arrays[0].ndim - 2)
    return np.concatenate(
        [np.pad(a, [(0, 0), (0, width - a.shape[1]), *rest], constant_values=fill) for a in arrays]
    )


def asserted(labels: np.ndarray) -> np.ndarray:
    """The numbers of each study's attributes [N, A], without the first, as words padded with -1."""
    numbers = np.where(labels > 0, np.arange(labels.shape[1]), -1)
    return -np.sort(-np.where(numbers > 0, numbers, -1), axis=1)


def stretches(words: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """`most` consecutive words from anywhere in each report [N, W]; all of a shorter one."""
    count = (words >= 0).sum(1)
    first = rng.integers(np.maximum(count - most, 0) + 1)
    width = min(most, int(count.max(initial=0)))
    return np.take_along_axis(words, first[:, None] + np.arange(width), axis=1)


@contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread for torch: splitting the attention's small steps costs more than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_localizer(
    regions: Regions,
    words: np.ndarray,
    phrases: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    vectors,
    names: tuple[str, ...],
    config: ModelConfig,
    *,
    text: bool,
    seed: int,
    **place: str | Path,
) -> tuple[CrossAttention, pd.DataFrame]:
    """A cross-attention trained on N studies, and its history; without `text` on names[0] alone.

    regions of N images; words [N, W]; phrases [N, P, K]; labels, weights [N, A]; place: `folder`
    and `fingerprint` of pnloc.train.fit.
    """
    torch.manual_seed(seed)
    if not text:
        names, labels, weights = names[:1], labels[:, :1], weights[:, :1]
    words = asserted(labels) if config.text == "attributes" else words
    model = new_attention(regions.rows([]).features.shape[-1], vectors, names, config).to(device())
    usable = np.flatnonzero(weights.sum(1) > 0)
    steps = max(1, len(usable) // config.batch) if len(usable) else 0

    def batches(epoch: int):
        rng = generator(seed, 2, epoch)
        for rows in parts(rng.permutation(usable), config.batch, steps):
            tokens = stretches(words[rows], config.contrast_words, rng)
            yield make_batch(regions.rows(rows), tokens, phrases[rows], labels[rows], weights[rows])

    def losses(batch):
        return total(model, batch, config, text)

    schedule = Schedule(config.epochs, steps, config.rate, config.weight_decay)
    title = "text attention" if text else "image-label attention"
    with one_thread():
        history = fit(model, batches, losses, schedule, seed=seed, title=title, **place)
    return model, history
