"""Word vectors: word2vec (Mikolov et al. 2013) trained on reports by gensim.

The same seed gives the same vectors in every process.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from pnloc.errors import PnlocError
from pnloc.files import atomic, form, readable

UNKNOWN = "<unknown>"


@dataclass(frozen=True)
class WordVectors:
    """V words and their vectors float32 [V, E], of mean length 1; row 0, all zero, is UNKNOWN."""

    words: list[str]
    vectors: np.ndarray

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words)}

    @cached_property
    def keyed(self) -> object:
        """The same without the unknown word, for neighbours and analogies (`most_similar`)."""
        from gensim.models import KeyedVectors

        keyed = KeyedVectors(self.vectors.shape[1])
        keyed.add_vectors(self.words[1:], self.vectors[1:])
        return keyed

    def index(self, tokens: Sequence[str]) -> np.ndarray:
        """Rows int64 [n] of some words; 0 where a word is not in the vocabulary."""
        return np.array([self._rows.get(token, 0) for token in tokens], dtype=np.int64)

    def save(self, path: str | Path) -> None:
        """Write as safetensors, the words in the file's metadata."""
        with atomic(path) as temporary:
            save_file({"vectors": self.vectors}, str(temporary), {"words": json.dumps(self.words)})

    @staticmethod
    def load(path: str | Path) -> "WordVectors":
        """Read what `save` wrote; PnlocError if the file is missing or holds something else."""
        with readable(path, "word vectors"), form(path, "holds no word vectors"):
            stream = safe_open(str(path), "numpy")
            words = json.loads(stream.metadata()["words"])
            return WordVectors(words, stream.get_tensor("vectors"))


def train(
    sentences: list[list[str]], *, size: int, epochs: int, seed: int, window=5, least=2
) -> WordVectors:
    """Skip-gram word2vec on token lists; words that occur less than `least` times are unknown.

    One worker makes it reproducible. Where no word occurs so often, all words are
    kept; where there is no word at all, PnlocError is raised.
    """
    counts = Counter(token for sentence in sentences for token in sentence)
    if not counts:
        raise PnlocError("no report has a word: there is nothing to learn word vectors from")
    from gensim.models import Word2Vec

    least = least if max(counts.values()) >= least else 1
    options = {"vector_size": size, "window": window, "min_count": least, "epochs": epochs}
    model = Word2Vec(sentences, sg=1, negative=5, seed=seed + 1, workers=1, **options)
    words = sorted(model.wv.index_to_key)
    vectors = model.wv[words].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1).mean()
    unknown = np.zeros((1, size), np.float32)
    return WordVectors([UNKNOWN, *words], np.concatenate([unknown, vectors]))
