"""What the reports of a run say: word vectors, asserted words and places, labels and the weights these count with.

`Pairs` adds this to a run's data sets (pnloc.run.sets); what is trained on it stands in pnloc.run.run.
"""

from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from pnloc import reports
from pnloc.config import Preset
from pnloc.data import readers as datasets
from pnloc.localize import pad_words, supervision
from pnloc.model import PNEUMONIA
from pnloc.reports import phrases, sentences, words
from pnloc.run.cache import tree_digest
from pnloc.run.sets import Cohort

NAMES = (PNEUMONIA, *reports.ATTRIBUTES)


class Pairs(Cohort):
    """The data sets of a run with what their reports assert."""

    def __init__(self, configuration: Preset, data: Path | None, seed: int, root: Path) -> None:
        super().__init__(configuration, data, seed, root)
        self.phrases = lru_cache(None)(self._phrases)

    @property
    def pairs(self) -> str:
        """Title of the set whose image-report pairs train the localizer."""
        return self.title(self.preset.roles.pairs)

    @cached_property
    def _words_stage(self) -> tuple[Path, str]:
        config, openi = self.preset.words, datasets.openi.place(self.data)
        inputs = (
            config,
            self._decoded(self.pairs)[1],
            self.preset.roles.texts,
            tree_digest(openi) if openi else "",
            self.seed,
        )

        def make(folder: Path, _: str) -> None:
            texts = self.texts(self.pairs)
            training = {texts[i] for i in self.rows(self.pairs, "train") if texts[i]}
            if self.preset.roles.texts:
                training |= set(datasets.openi.read(openi).reports["text"])
            splitter = sentences.train(sorted(training))
            splitter.save(folder / "sentences.json")
            lists = [reports.tokens(s) for text in sorted(training) for s in splitter(text)]
            words.train(lists, size=config.size, epochs=config.epochs, seed=self.seed).save(
                folder / "words.safetensors"
            )

        return self.cache.stage(
            "words",
            *inputs,
            make=make,
            code=("pnloc.reports.words", "pnloc.reports.sentences", "pnloc.data.openi"),
        )

    @cached_property
    def vectors(self) -> words.WordVectors:
        """word2vec of the training reports (and of the open texts that the preset names)."""
        return words.WordVectors.load(self._words_stage[0] / "words.safetensors")

    @cached_property
    def splitter(self) -> sentences.Splitter:
        """The sentence model of the same texts."""
        return sentences.Splitter.load(self._words_stage[0] / "sentences.json")

    def supervision(
        self, name: str, change: Callable[[str], str] = str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words [N, W], labels [N, A] and weights [N, A] of a set's images, from report (after `change`) and image label.

        An opacity is present if the report asserts one; else the set's own label counts; else, absent where a report
        mentions none and unknown without a report. Images without a report keep their label alone: what the
        pneumonia is like stays unknown.
        """
        texts = [change(text) for text in self.texts(name)]
        own = self.records(name).images["label"].to_numpy(float)
        said = np.array([reports.has_opacity(text, self.splitter) for text in texts], dtype=float)
        opacity = np.where(said == 1, 1.0, np.where(np.isnan(own), said, own))
        labels, weights = supervision(
            [reports.extract_attributes(text, self.splitter) for text in texts], opacity, NAMES
        )
        silent = np.array([not text for text in texts]) & (labels[:, 0] > 0)
        weights[silent, 1:] = 0
        indices = [
            self.vectors.index(reports.asserting_words(text, self.splitter)) for text in texts
        ]
        return pad_words(indices, self.preset.words.most), labels, weights

    def _phrases(self, name: str) -> np.ndarray:
        """Places [N, P, 6] of the opacities that the report of each image of a set asserts (pnloc.reports.phrases)."""
        return phrases.padded(
            [phrases.asserted_places(text, self.splitter) for text in self.texts(name)]
        )

    def training_sets(self) -> list[str]:
        """Sets that the localizer learns from: the pairs, and the set of image labels where the preset has one."""
        extra = self.preset.roles.labels
        return [self.pairs, *([self.title(extra)] if extra else [])]

    def labelled(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, S, S] of the training sets' split whose label is known, and the labels [N], 1 for a pneumonia."""
        pictures, targets = [], []
        for name in self.training_sets():
            rows = self.rows(name, split)
            _, labels, weights = self.supervision(name)
            rows = rows[weights[rows, 0] > 0]
            pictures.append(self.pixels(name)[rows])
            targets.append(labels[rows, 0])
        return np.concatenate(pictures), np.concatenate(targets)
