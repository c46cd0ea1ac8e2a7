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
        if self._rows.get(word, 0) == 0:
            raise PnlocError(f"'{word}' is not in the vocabulary of {len(self.words) - 1} words")
        lengths = np.linalg.norm(self.vectors, axis=1)
        here = self._rows[word]
        cosine = self.vectors @ self.vectors[here] / np.maximum(lengths * lengths[here], 1e-12)
        cosine[[0, here]] = -np.inf
        return [
            (self.words[i], float(cosine[i]))
            for i in np.argsort(-cosine, kind="stable")[:count]
            if np.isfinite(cosine[i])
        ]

    def save(self, path: str | Path) -> None:
        """Write as safetensors, the words in the file's metadata."""
        with atomic(path) as temporary:
            save_file({"vectors": self.vectors}, str(temporary), {"words": json.dumps(self.words)})

    @staticmethod
    def load(path: str | Path) -> "WordVectors":
        """Read what `save` wrote; PnlocError names a file that is missing or something else."""
        try:
            with safe_open(str(path), "numpy") as stream:
                return WordVectors(json.loads(stream.metadata()["words"]), stream.get_tensor("vectors"))
        except FileNotFoundError:
            raise PnlocError(f"{path}: no such file") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise PnlocError(f"{path}: holds no word vectors ({error})") from None


def _stable_hash(text: str) -> int:
    """A hash that does not depend on the process, for gensim's initial vectors."""
    return zlib.crc32(text.encode())


def train(
    sentences: list[list[str]], *, size: int, epochs: int, seed: int, window: int = 5, least: int = 2
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
        sentences, vector_size=size, window=window, min_count=least, sg=1, negative=5, epochs=epochs,
        seed=seed + 1, workers=1, hashfxn=_stable_hash,
    )  # fmt: skip
    words = sorted(model.wv.index_to_key)
    vectors = model.wv[words].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1).mean()
    return WordVectors([UNKNOWN, *words], np.concatenate([np.zeros((1, size), np.float32), vectors]))
