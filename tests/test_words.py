"""Word vectors: the same in every process, unknown words, neighbours, files."""

import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_metrics import BY_HAND

from pnloc.errors import PnlocError
from pnloc.reports.words import UNKNOWN, WordVectors, train

CHOICES = ("mild", "moderate", "severe"), ("patchy", "focal"), ("left", "right"), ("upper", "lower")
SENTENCES = [
    "{} {} opacity in the {} {} zone".format(*words).split() for words in product(*CHOICES)
]
SMALL = {"size": 12, "epochs": 3}
PROGRAM = """
import sys
from tests.test_words import *
train(SENTENCES, seed=3, **SMALL).save(sys.argv[1])
"""


@pytest.fixture(scope="module")
def small() -> WordVectors:
    return train(SENTENCES, seed=3, **SMALL)


def test_the_same_seed_gives_the_same_vectors_in_another_process(small, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    small.save(one)
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", PROGRAM, other], env=environment, check=True)
    assert one.read_bytes() == other.read_bytes()


def test_rows_are_sorted_after_the_unknown_one_and_vectors_have_a_mean_length_of_one(small):
    assert small.words == [UNKNOWN, *sorted({w for s in SENTENCES for w in s})]
    assert small.vectors.shape == (len(small.words), 12) and small.vectors.dtype == np.float32
    assert (small.vectors[0] == 0).all()
    assert np.linalg.norm(small.vectors[1:], axis=1).mean() == pytest.approx(1, abs=1e-5)
    rows = small.index(["opacity", "aardvark", UNKNOWN, "left"])
    assert rows.tolist() == [small.words.index("opacity"), 0, 0, small.words.index("left")]
    assert small.index([]).shape == (0,) and small.index([]).dtype == np.int64
    other = train(SENTENCES, seed=4, **SMALL)
    assert np.abs(small.vectors[1:] - other.vectors[1:]).max(axis=1).min() > 0.01


@pytest.mark.parametrize(("sentences", "words"), BY_HAND["words"])
def test_rare_words_are_unknown(sentences, words):
    assert train(sentences, seed=0, **SMALL).words == [UNKNOWN, *words]


@pytest.mark.parametrize("sentences", [[], [[], []]])
def test_an_empty_corpus_is_an_error(sentences):
    with pytest.raises(PnlocError, match="no report has a word"):
        train(sentences, seed=0, **SMALL)


def test_neighbours_are_those_of_the_vectors_and_the_unknown_word_is_none():
    vectors = np.array([[0, 0], [1, 0], [-1, 0], [1, 1]], dtype=np.float32)
    keyed = WordVectors([UNKNOWN, "right", "left", "rll"], vectors).keyed
    assert keyed.most_similar("right", topn=1)[0] == ("rll", pytest.approx(0.5**0.5))
    assert UNKNOWN not in keyed


def test_a_file_of_something_else_is_named(tmp_path, small):
    broken, foreign, other = (tmp_path / f"{n}.safetensors" for n in ("broken", "foreign", "other"))
    small.save(broken)
    broken.write_bytes(broken.read_bytes()[:-20])
    save_file({"vectors": np.zeros((2, 2), np.float32)}, foreign)
    save_file({"weights": np.zeros((2, 2), np.float32)}, other, {"words": '["a", "b"]'})
    for path in (broken, foreign, other):
        with pytest.raises(PnlocError, match=rf"{path.name}: .*word vectors"):
            WordVectors.load(path)
    with pytest.raises(PnlocError, match=r"none\.safetensors: no such file$"):
        WordVectors.load(tmp_path / "none.safetensors")
