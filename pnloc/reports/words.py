"""Word vectors: word2vec (Mikolov et al. 2013) on the reports at hand, by gensim; the same seed gives the same numbers."""

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pnloc.errors import PnlocError
from pnloc.files import atomic

UNKNOWN = "<unknown>"


@dataclass(frozen=True)
class WordVectors:
    """V words and their vectors float32 [V, E], of mean length 1. Row 0 is the unknown word, all zero."""

    words: list[str]
    vectors: np.ndarray

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words)}

    def index(self, tokens: Sequence[str]) -> np.ndarray:
        """Rows int64 [n] of some words; 0 where a word is not known."""
        return np.array([self._rows.get(token, 0) for token in tokens], dtype=np.int64)

    def neighbours(self, word: str, count: int) -> list[tuple[str, float]]:
        """The `count` words with the greatest cosine to a word, which must be known."""
        return self._nearest(self._unit([word])[0], {word}, count)

    def analogy(self, word: str, like: str, other: str, count: int = 1) -> list[tuple[str, float]]:
        """The `count` words that are to `other` as `like` is to `word`: nearest to like - word + other, the three left out.

        `analogy('right', 'left', 'rll')` hopes for 'lll' (Mikolov et al. 2013); all three must be known.
        """
        first, second, third = self._unit([word, like, other])
        return self._nearest(second - first + third, {word, like, other}, count)

    def plane(self, words: Sequence[str]) -> np.ndarray:
        """Words on the plane of their two principal components: float [n, 2], signs fixed; all words must be known."""
        unit = self._unit(words)
        centred = unit - unit.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        axes = axes[:2] * np.sign(axes[:2].sum(1, keepdims=True) + 1e-12)
        flat = centred @ axes.T
        return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))

    def _unit(self, words: Sequence[str]) -> np.ndarray:
        """Vectors [n, E] of length one; PnlocError names a word that is not known."""
        for word in words:
            if self._rows.get(word, 0) == 0:
                raise PnlocError(
                    f"'{word}' is not in the vocabulary of {len(self.words) - 1} words"
                )
        vectors = self.vectors[self.index(words)]
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def _nearest(
        self, target: np.ndarray, without: set[str], count: int
    ) -> list[tuple[str, float]]:
        lengths = np.linalg.norm(self.vectors, axis=1) * np.linalg.norm(target)
        cosine = self.vectors @ target / np.maximum(lengths, 1e-12)
        cosine[[0, *(self._rows[word] for word in without)]] = -np.inf
        order = np.argsort(-cosine, kind="stable")[:count]
        return [(self.words[i], float(cosine[i])) for i in order if np.isfinite(cosine[i])]

    def save(self, path: str | Path) -> None:
        """Write as safetensors, the words in the file's metadata."""
        with atomic(path) as temporary:
            save_file({"vectors": self.vectors}, str(temporary), {"words": json.dumps(self.words)})

    @staticmethod
    def load(path: str | Path) -> "WordVectors":
        """Read what `save` wrote; PnlocError names a file that is missing or something else."""
        try:
            with safe_open(str(path), "numpy") as stream:
                return WordVectors(
                    json.loads(stream.metadata()["words"]), stream.get_tensor("vectors")
                )
        except FileNotFoundError:
            raise PnlocError(f"{path}: no such file") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise PnlocError(f"{path}: holds no word vectors ({error})") from None


def _stable_hash(text: str) -> int:
    """A hash that does not depend on the process, for gensim's initial vectors."""
    return zlib.crc32(text.encode())


def train(
    sentences: list[list[str]],
    *,
    size: int,
    epochs: int,
    seed: int,
    window: int = 5,
    least: int = 2,
) -> WordVectors:
    """Skip-gram word2vec on token lists; words that stand less than `least` times are unknown.

    One worker and a fixed hash: the same seed gives the same vectors in every process. Where no word stands so often, all words are kept;
    where there is no word at all, PnlocError is raised.
    """
    counts = Counter(token for sentence in sentences for token in sentence)
    if not counts:
        raise PnlocError("no report has a word: there is nothing to learn word vectors from")
    from gensim.models import Word2Vec

    least = least if max(counts.values()) >= least else 1
    model = Word2Vec(
        sentences,
        vector_size=size,
        window=window,
        min_count=least,
        sg=1,
        negative=5,
        epochs=epochs,
        seed=seed + 1,
        workers=1,
        hashfxn=_stable_hash,
    )
    words = sorted(model.wv.index_to_key)
    vectors = model.wv[words].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1).mean()
    return WordVectors(
        [UNKNOWN, *words], np.concatenate([np.zeros((1, size), np.float32), vectors])
    )
