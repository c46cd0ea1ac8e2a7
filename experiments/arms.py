"""Arms of the experiment: a cohort of pairs, what an ablation does to its reports, and one training of the cross-attention on it.

A cohort is a choice among the training pairs that has a given share of positives; no rate of the generator is touched for it. Every arm is a
stage of the run (pnloc.run.cache) that trains on training pairs and looks at validation images; test images are for experiments.text_gain.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pnloc.errors import PnlocError
from pnloc.files import load_module, save_module, write_table
from pnloc.localizer import Choice, best_choice, image_attention, rank_regions, rank_with_report
from pnloc.model import CrossAttention
from pnloc.parallel import device
from pnloc.regions import Regions, extract
from pnloc.reports import phrases
from pnloc.reports.words import WordVectors
from pnloc.run import feature_store as shards
from pnloc.run.evidence import boxed_rows, pneumonia_boxes
from pnloc.run.run import Run
from pnloc.run.sets import NAMES
from pnloc.training import name_vectors, train_localizer

_OTHER_SIDE = {
    "right": "left",
    "left": "right",
    "rul": "lul",
    "lul": "rul",
    "rll": "lll",
    "lll": "rll",
}
_SIDE = re.compile(r"\b(" + "|".join(_OTHER_SIDE) + r")\b", re.I)


@dataclass(frozen=True)
class Pairs:
    """n studies to learn from: rows [n] of their images in the set; words [n, W], phrases [n, P, K], labels and weights [n, A] of their reports."""

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


# Cohorts and reports --------------------------------------------------------------------------------------


def cohort_size(positive: np.ndarray, prevalences: tuple[float, ...]) -> int:
    """How many of the studies [N] (bool: positive) a cohort of each prevalence can have, the same number for all."""
    have = (positive.sum(), (~positive).sum())
    shares = ((p, 1 - p) for p in prevalences)
    return int(
        min(n / share for pair in shares for n, share in zip(have, pair, strict=True) if share > 0)
        + 1e-9
    )


def cohort(
    positive: np.ndarray, prevalence: float, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Numbers [size] of studies, drawn without replacement from [N] (bool: positive), `prevalence` of them positive, in their order."""
    wanted = round(prevalence * size)
    found = []
    for numbers, count in (
        (np.flatnonzero(positive), wanted),
        (np.flatnonzero(~positive), size - wanted),
    ):
        if len(numbers) < count:
            raise PnlocError(
                f"a cohort of {size} studies, {prevalence:.0%} of them positive, needs more studies"
            )
        found.append(rng.choice(numbers, count, replace=False))
    return np.sort(np.concatenate(found))


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random permutation [count] that leaves nothing in its place (one cycle); a single thing has nowhere to go."""
    order, found = rng.permutation(count), np.zeros(count, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found


def shuffled(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Every report goes to another study of the same image label, whose label stays: reports then know nothing beyond it."""
    source = np.arange(len(pairs))
    for label in (0, 1):
        here = np.flatnonzero(pairs.labels[:, 0] == label)
        source[here] = here[derangement(len(here), rng)]
    labels, weights = pairs.labels[source], pairs.weights[source]
    labels[:, 0], weights[:, 0] = pairs.labels[:, 0], pairs.weights[:, 0]
    return Pairs(pairs.rows, pairs.words[source], pairs.phrases[source], labels, weights)


def fewer_reports(pairs: Pairs, share: float, rng: np.random.Generator) -> Pairs:
    """Only a share of the studies keeps its report; of the others remains the image label."""
    lost = np.sort(rng.permutation(len(pairs))[round(share * len(pairs)) :])
    words, places, labels, weights = (
        a.copy() for a in (pairs.words, pairs.phrases, pairs.labels, pairs.weights)
    )
    words[lost], places[lost], labels[lost, 1:] = -1, 0, 0
    weights[lost, 1:] = np.where(
        labels[lost, :1] > 0, 0, weights[lost, 1:]
    )  # what a pneumonia is like is not known
    return Pairs(pairs.rows, words, places, labels, weights)


def swap_sides(text: str) -> str:
    """A report with right and left exchanged, and so RUL and LUL, RLL and LLL; case is kept."""

    def other(match: re.Match) -> str:
        word = match[0]
        found = _OTHER_SIDE[word.lower()]
        return (
            found.upper() if word.isupper() else found.capitalize() if word[0].isupper() else found
        )

    return _SIDE.sub(other, text)


def random_vectors(vectors: WordVectors, seed: int) -> WordVectors:
    """The same words with random vectors of the same mean length 1; the unknown word stays zero."""
    drawn = np.random.default_rng([seed, 5]).normal(size=vectors.vectors.shape).astype(np.float32)
    drawn[0] = 0
    return WordVectors(vectors.words, drawn / np.linalg.norm(drawn[1:], axis=1).mean())


def pairs_of(run: Run, change: Callable[[str], str] = str) -> Pairs:
    """All training pairs of a run, their reports changed by `change` before they are read."""
    rows = run.sets.rows(run.sets.pairs, "train")
    words, labels, weights = (a[rows] for a in run.sets.supervision(run.sets.pairs, change))
    texts = run.sets.texts(run.sets.pairs)
    places = phrases.padded(
        [phrases.asserted_places(change(texts[row]), run.sets.splitter) for row in rows]
    )
    return Pairs(rows, words, places, labels, weights)


# Arms -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """One training: with reports or image labels alone, on which cohort, with which options of the model, and what an ablation changes.

    options replace values of the preset's ModelConfig; reports is '', 'shuffled', 'swapped', 'half' or 'tenth'; regions is R, 0 for the preset's.
    """

    text: bool
    prevalence: float
    options: tuple[tuple[str, float], ...] = ()
    reports: str = ""
    attributes: bool = True
    word2vec: bool = True
    regions: int = 0

    @property
    def name(self) -> str:
        """A name for its stages: no two arms have the same."""
        parts = ["text" if self.text else "labels", f"{100 * self.prevalence:.0f}"]
        parts += [
            f"{key}{value:g}".replace("_", "").replace(".", "") for key, value in self.options
        ]
        parts += [
            self.reports,
            "" if self.attributes else "pneumonia",
            "" if self.word2vec else "random",
        ]
        return "-".join(p for p in [*parts, f"R{self.regions}" if self.regions else ""] if p)


def regions_of(run: Run, arm: Arm) -> Regions:
    """Regions of the set of pairs, as many per image as the arm asks for."""
    if arm.regions in (0, run.preset.regions.count):
        return run.regions(run.sets.pairs)
    config = replace(run.preset.regions, count=arm.regions)

    def make(folder: Path, _: str) -> None:
        shards.build(
            folder,
            len(run.sets.pixels(run.sets.pairs)),
            lambda rows: extract(run.detector, run.sets.pixels(run.sets.pairs)[rows], config),
        )

    folder, _ = run.cache.stage(
        f"regions-R{arm.regions}",
        run.regions_stage(run.sets.pairs)[1],
        config,
        make=make,
        code=(extract,),
    )
    return shards.load(folder)


class Arms:
    """The trainings of one run."""

    def __init__(self, run: Run, prevalences: tuple[float, ...]) -> None:
        self.run, self.prevalences = run, prevalences
        self.whole = lru_cache(None)(lambda change: pairs_of(run, change))
        self.pairs = lru_cache(None)(self._pairs)
        self.regions = lru_cache(2)(lambda count: regions_of(run, Arm(True, 0.0, regions=count)))

    def _pairs(self, prevalence: float, reports: str) -> Pairs:
        """The pairs of a cohort; the same studies whatever is done to their reports."""
        whole = self.whole(swap_sides if reports == "swapped" else str)
        positive = self.whole(str).labels[:, 0] > 0
        size = cohort_size(positive, self.prevalences)
        rng = np.random.default_rng([self.run.seed, 7, round(1000 * prevalence)])
        pairs = whole.take(cohort(positive, prevalence, size, rng))
        if reports == "shuffled":
            return shuffled(pairs, rng)
        return (
            fewer_reports(pairs, {"half": 0.5, "tenth": 0.1}[reports], rng)
            if reports in ("half", "tenth")
            else pairs
        )

    def _vectors(self, arm: Arm) -> WordVectors:
        return (
            self.run.sets.vectors
            if arm.word2vec
            else random_vectors(self.run.sets.vectors, self.run.seed)
        )

    def stage(self, arm: Arm, seed: int) -> tuple[Path, str]:
        """The folder of one training, with its model and history."""
        run, config = self.run, replace(self.run.preset.model, **dict(arm.options))
        names = NAMES if arm.attributes else NAMES[:1]
        inputs = (
            run.regions_stage(run.sets.pairs)[1],
            run.sets.words_stage[1],
            config,
            arm,
            self.prevalences,
            seed,
        )

        def make(folder: Path, key: str) -> dict:
            pairs, width = self.pairs(arm.prevalence, arm.reports), len(names)
            model, history = train_localizer(
                self.regions(arm.regions).rows(pairs.rows),
                pairs.words,
                pairs.phrases,
                pairs.labels[:, :width],
                pairs.weights[:, :width],
                self._vectors(arm),
                names,
                config,
                text=arm.text,
                seed=seed,
                folder=folder,
                fingerprint=key,
            )
            save_module(folder / "model.safetensors", model)
            write_table(folder / "history.csv", history)
            return {"pairs": len(pairs), "seed": seed, "options": dict(arm.options)}

        return run.cache.stage(f"arm-{arm.name}-seed{seed}", *inputs, make=make)

    def model(self, arm: Arm, seed: int) -> CrossAttention:
        """The trained cross-attention."""
        run, names = self.run, NAMES if arm.text and arm.attributes else NAMES[:1]
        vectors = self._vectors(arm)
        model = CrossAttention(
            self.regions(arm.regions).features.shape[-1],
            torch.from_numpy(vectors.vectors),
            name_vectors(names, vectors),
            replace(run.preset.model, **dict(arm.options)),
        )
        return (
            load_module(self.stage(arm, seed)[0] / "model.safetensors", model).to(device()).eval()
        )

    def scores(
        self, arm: Arm, seed: int, rows: np.ndarray, given: bool, grouped: bool
    ) -> np.ndarray:
        """What a trained arm ranks the regions of some rows by [n, R], from the image alone or with its report given."""
        regions, model = self.regions(arm.regions).rows(rows), self.model(arm, seed)
        if given:
            return rank_with_report(
                model, regions, self.run.sets.phrases(self.run.sets.pairs)[rows], grouped
            )
        return rank_regions(regions, image_attention(model, regions)[0], grouped)

    def choice(self, arm: Arm, seed: int, given: bool, grouped: bool) -> tuple[Choice, float]:
        """How many boxes a trained arm keeps, by validation images, and its mean union IoU there."""
        rows = boxed_rows(self.run, self.run.sets.pairs, "validate")
        truth = pneumonia_boxes(self.run, self.run.sets.pairs)
        ranking = self.scores(arm, seed, rows, given, grouped)
        return best_choice(
            self.regions(arm.regions).rows(rows), ranking, [truth[i] for i in rows], grouped
        )
