"""Arms of the experiment: a cohort of studies, what an ablation does to its reports, a training.

A cohort is a sample of the training pairs with a given share of positives; the generator's rates
are not touched for it. Every arm is a stage of the run (pnloc.run.cache) that trains on training
pairs and chooses on validation images; test images are for experiments.text_gain.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from experiments.plans import Options
from pnloc.errors import PnlocError
from pnloc.localizer import Choice, image_attention, rank_with_report
from pnloc.model import CrossAttention
from pnloc.regions import feature_size
from pnloc.reports import phrases
from pnloc.reports.words import WordVectors
from pnloc.run.cache import Trained
from pnloc.run.evidence import Images, Ranking, boxed_rows
from pnloc.run.feature_store import Store
from pnloc.run.run import Run
from pnloc.run.sets import NAMES
from pnloc.training import new_attention, train_localizer

_LEFT = {"right": "left", "rul": "lul", "rll": "lll"}
_OTHER_SIDE = _LEFT | {left: right for right, left in _LEFT.items()}
_SIDE = re.compile(r"\b(" + "|".join(_OTHER_SIDE) + r")\b", re.I)
SHARES = {"half": 0.5, "tenth": 0.1}  # of the reports that an ablation leaves


@dataclass(frozen=True)
class Pairs:
    """n studies: rows [n] of their images in the set, and what their reports say.

    words [n, W], phrases [n, P, K], labels and weights [n, A].
    """

    rows: np.ndarray
    words: np.ndarray
    phrases: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> "Pairs":
        """Some of the studies."""
        return Pairs(*(getattr(self, f.name)[index] for f in fields(self)))


# Cohorts and reports -----------------------------------------------------------------------------


def cohort_size(positive: np.ndarray, prevalences: tuple[float, ...]) -> int:
    """The greatest size of cohorts of all prevalences from studies [N] (bool: positive)."""
    have = (positive.sum(), (~positive).sum())
    sizes = [
        n / share for p in prevalences for n, share in zip(have, (p, 1 - p), strict=True) if share
    ]
    return int(min(sizes) + 1e-9)


def cohort(
    positive: np.ndarray, prevalence: float, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Sorted numbers [size] drawn from studies [N] (bool: positive), with this prevalence."""
    wanted = round(prevalence * size)
    strata = ((np.flatnonzero(positive), wanted), (np.flatnonzero(~positive), size - wanted))
    if any(len(numbers) < count for numbers, count in strata):
        raise PnlocError(
            f"a cohort of {size} studies, {prevalence:.0%} of them positive, needs more studies"
        )
    drawn = [rng.choice(numbers, count, replace=False) for numbers, count in strata]
    return np.sort(np.concatenate(drawn))


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random permutation [count] of one cycle: nothing but a single item stays in place."""
    order, moved = rng.permutation(count), np.zeros(count, dtype=np.int64)
    moved[order] = np.roll(order, 1)
    return moved


def shuffled(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Every report moved to another study with the same image label."""
    source = np.arange(len(pairs))
    for label in (0, 1):
        here = np.flatnonzero(pairs.labels[:, 0] == label)
        source[here] = here[derangement(len(here), rng)]
    moved = pairs.take(source)
    moved.labels[:, 0], moved.weights[:, 0] = pairs.labels[:, 0], pairs.weights[:, 0]
    return replace(moved, rows=pairs.rows)


def fewer_reports(pairs: Pairs, share: float, rng: np.random.Generator) -> Pairs:
    """The same studies, of which only a share keeps its report and the others their image label."""
    lost = np.sort(rng.permutation(len(pairs))[round(share * len(pairs)) :])
    fewer = pairs.take(np.arange(len(pairs)))
    fewer.words[lost], fewer.phrases[lost], fewer.labels[lost, 1:] = -1, 0, 0
    positive = fewer.labels[lost, :1] > 0  # whose attributes are then unknown
    fewer.weights[lost, 1:] = np.where(positive, 0, fewer.weights[lost, 1:])
    return fewer


def swap_sides(text: str) -> str:
    """A report with right and left exchanged, and so RUL and LUL, RLL and LLL; case is kept."""

    def other(match: re.Match) -> str:
        word, swapped = match[0], _OTHER_SIDE[match[0].lower()]
        if word.isupper():
            return swapped.upper()
        return swapped.capitalize() if word[0].isupper() else swapped

    return _SIDE.sub(other, text)


def random_vectors(vectors: WordVectors, seed: int) -> WordVectors:
    """The same words with random vectors of mean length 1; the unknown word stays zero."""
    drawn = np.random.default_rng([seed, 5]).normal(size=vectors.vectors.shape).astype(np.float32)
    drawn[0] = 0
    return WordVectors(vectors.words, drawn / np.linalg.norm(drawn[1:], axis=1).mean())


def pairs_of(run: Run, change: Callable[[str], str] = str) -> Pairs:
    """All training pairs of a run, their reports changed by `change` before they are read."""
    sets = run.sets
    rows, texts = sets.rows(sets.pairs[0], "train"), sets.texts(sets.pairs[0])
    words, labels, weights = (a[rows] for a in sets.supervision(sets.pairs[0], change))
    places = [phrases.asserted_places(change(texts[row]), sets.splitter) for row in rows]
    return Pairs(rows, words, phrases.padded(places), labels, weights)


# Arms --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One training: with reports or labels alone, on which cohort, and what an ablation changes.

    reports is '', 'shuffled', 'swapped', 'half' or 'tenth'; regions is R, or 0 for the preset's.
    """

    text: bool
    prevalence: float
    options: Options = ()
    reports: str = ""
    attributes: bool = True
    word2vec: bool = True
    regions: int = 0

    @property
    def name(self) -> str:
        """A unique name for its stages."""
        options = [f"{k}{v:g}".replace("_", "").replace(".", "") for k, v in self.options]
        parts = [
            "text" if self.text else "labels",
            f"{100 * self.prevalence:.0f}",
            *options,
            self.reports,
            "" if self.attributes else "pneumonia",
            "" if self.word2vec else "random",
            f"R{self.regions}" if self.regions else "",
        ]
        return "-".join(filter(None, parts))


class Arms:
    """The trainings of one run."""

    def __init__(self, run: Run, prevalences: tuple[float, ...]) -> None:
        self.run, self.prevalences = run, prevalences
        self.whole = lru_cache(None)(lambda change: pairs_of(run, change))
        self.pairs = lru_cache(None)(self._pairs)

    def _pairs(self, prevalence: float, reports: str) -> Pairs:
        """The pairs of a cohort, of the same studies whatever an ablation does to their reports."""
        positive = self.whole(str).labels[:, 0] > 0
        size = cohort_size(positive, self.prevalences)
        rng = np.random.default_rng([self.run.seed, 7, round(1000 * prevalence)])
        whole = self.whole(swap_sides if reports == "swapped" else str)
        pairs = whole.take(cohort(positive, prevalence, size, rng))
        if reports == "shuffled":
            return shuffled(pairs, rng)
        return fewer_reports(pairs, SHARES[reports], rng) if reports in SHARES else pairs

    def regions(self, count: int) -> Store:
        """Regions of the set of pairs, `count` per image (0: as many as in the preset)."""
        own = count == self.run.preset.regions.count
        return self.run.regions(self.run.sets.pairs[0], 0 if own else count)

    def _vectors(self, arm: Arm) -> WordVectors:
        vectors = self.run.sets.vectors
        return vectors if arm.word2vec else random_vectors(vectors, self.run.seed)

    def stage(self, arm: Arm, seed: int) -> Trained:
        """One training."""
        run, config = self.run, replace(self.run.preset.model, **dict(arm.options))
        names, vectors = NAMES if arm.attributes else NAMES[:1], self._vectors(arm)

        def build() -> CrossAttention:
            features = feature_size(run.preset.detector.pyramid)
            return new_attention(features, vectors, names if arm.text else names[:1], config)

        def fit(**place: object) -> tuple[CrossAttention, pd.DataFrame]:
            pairs, width = self.pairs(arm.prevalence, arm.reports), len(names)
            regions, labels = self.regions(arm.regions).rows(pairs.rows), pairs.labels[:, :width]
            studies = (regions, pairs.words, pairs.phrases, labels, pairs.weights[:, :width])
            return train_localizer(*studies, vectors, names, config, text=arm.text, **place)

        upstream = (run.regions_stage(run.sets.pairs[0])[1], run.sets.words_stage[1])
        inputs = (*upstream, config, arm, self.prevalences)
        functions = {"seed": seed, "build": build, "fit": fit, "code": (Arms,)}
        return run.cache.trained(f"arm-{arm.name}-seed{seed}", *inputs, **functions)

    def evidence(
        self, arm: Arm, seed: int, rows: np.ndarray, report: bool, grouped: bool
    ) -> Ranking:
        """What an arm sees in some rows of the set of pairs, with or without their report."""
        regions, model = self.regions(arm.regions).rows(rows), self.stage(arm, seed).load()
        beta, chances = image_attention(model, regions)
        ranking = Ranking(regions, beta, chances[:, 0], grouped)
        if not report:
            return ranking
        places = self.run.sets.phrases(self.run.sets.pairs[0])[rows]
        scores, _ = rank_with_report(model, regions, places, beta, grouped)
        return replace(ranking, scores=scores)

    def choice(self, arm: Arm, seed: int, report: bool, grouped: bool) -> tuple[Choice, float]:
        """The best choice of boxes on validation images, and its mean union IoU there."""
        name = self.run.sets.pairs[0]
        images = Images(self.run, name, boxed_rows(self.run, name, "validate"))
        return self.evidence(arm, seed, images.rows, report, grouped).choose(images.truth)
