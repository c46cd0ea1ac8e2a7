"""Word vectors: the same in every process, unknown words, neighbours, files."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from pnloc.errors import PnlocError
from pnloc.reports.words import UNKNOWN, WordVectors, train

SENTENCES = [
    f"{grade} {kind} opacity in the {side} {zone} zone".split()
    for grade in ("mild", "moderate", "severe")
    for kind in ("patchy", "focal")
    for side in ("left", "right")
    for zone in ("upper", "lower")
]
SMALL = {"size": 12, "epochs": 3}
PROGRAM = """
import hashlib, sys
sys.path[:0] = [{folder!r}]
from test_words import SENTENCES, SMALL
from pnloc.reports.words import train
found = train(SENTENCES, seed=3, **SMALL)
print(hashlib.sha256(found.vectors.tobytes()).hexdigest(), *found.words)
"""


def small(seed: int = 3) -> WordVectors:
    return train(SENTENCES, seed=seed, **SMALL)


def plane() -> WordVectors:
    """Five words in the plane."""
    vectors = np.array([[0, 0], [1, 0], [2, 0.2], [0, 3], [-1, 0], [0, 0]], dtype=np.float32)
    return WordVectors([UNKNOWN, "east", "eastern", "north", "west", "nowhere"], vectors)


def test_the_same_seed_gives_the_same_vectors_in_every_process():
    here = small()
    expected = [hashlib.sha256(here.vectors.tobytes()).hexdigest(), *here.words]
    program = PROGRAM.format(folder=os.path.dirname(__file__))
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == expected, hash_seed


def test_another_seed_gives_other_vectors_of_the_same_words():
    one, other = small(3), small(4)
    assert one.words == other.words
    assert np.abs(one.vectors[1:] - other.vectors[1:]).max(axis=1).min() > 0.01


def test_words_are_sorted_after_the_unknown_one_and_vectors_are_of_mean_length_one():
    found = small()
    assert found.words == [UNKNOWN, *sorted({w for s in SENTENCES for w in s})]
    assert found.vectors.shape == (len(found.words), 12) and found.vectors.dtype == np.float32
    assert (found.vectors[0] == 0).all()
    assert np.linalg.norm(found.vectors[1:], axis=1).mean() == pytest.approx(1, abs=1e-5)


def test_an_unknown_word_is_row_zero():
    found = small()
    rows = found.index(["opacity", "aardvark", UNKNOWN, "left"])
    assert rows.dtype == np.int64
    assert rows.tolist() == [found.words.index("opacity"), 0, 0, found.words.index("left")]
    assert found.index([]).shape == (0,)


@pytest.mark.parametrize("first", [[], ["once"], ["left", "opacity"]])
def test_rare_words_are_unknown_wherever_they_stand(first):
    found = train(
        [first, ["left", "opacity"], ["left", "opacity", "twice"], ["twice", "never"]],
        seed=0,
        **SMALL,
    )
    assert found.words == [UNKNOWN, "left", "opacity", "twice"]


def test_a_word_may_stand_twice_in_one_sentence():
    assert train([["a", "left", "left"]], seed=0, **SMALL).words == [UNKNOWN, "left"]


def test_where_no_word_stands_twice_all_are_kept():
    assert train([["left", "opacity"]], seed=0, **SMALL).words == [UNKNOWN, "left", "opacity"]


@pytest.mark.parametrize("sentences", [[], [[]], [[], []]])
def test_an_empty_corpus_is_an_error(sentences):
    with pytest.raises(PnlocError, match="no report has a word"):
        train(sentences, seed=0, **SMALL)


def test_neighbours_are_ordered_by_cosine_without_the_word_itself_or_the_unknown():
    found = plane().neighbours("east", 9)
    assert [word for word, _ in found] == ["eastern", "north", "nowhere", "west"]
    assert [cosine for _, cosine in found] == pytest.approx([10 / np.sqrt(101), 0, 0, -1], abs=1e-6)
    assert plane().neighbours("north", 1)[0][0] == "eastern"
    with pytest.raises(PnlocError, match="'south' is not in the vocabulary of 5 words"):
        plane().neighbours("south", 3)
    with pytest.raises(PnlocError, match="not in the vocabulary"):
        plane().neighbours(UNKNOWN, 3)


def test_an_analogy_leaves_its_own_words_out():
    vectors = np.array([[0, 0], [1, 0], [-1, 0], [1, 1], [-1, 1], [0, -1]], dtype=np.float32)
    found = WordVectors([UNKNOWN, "right", "left", "rll", "lll", "heart"], vectors)
    assert found.analogy("right", "left", "rll")[0][0] == "lll"
    assert [word for word, _ in found.analogy("right", "left", "rll", 9)] == ["lll", "heart"]
    with pytest.raises(PnlocError, match="'spleen' is not in the vocabulary of 5 words"):
        found.analogy("right", "left", "spleen")


def test_the_plane_keeps_the_distances_of_words_that_lie_in_one():
    found = plane()
    flat = found.plane(["east", "north", "west"])
    unit = np.array([[1, 0], [0, 1], [-1, 0]])
    assert flat.shape == (3, 2)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(flat[i] - flat[j]) == pytest.approx(
            np.linalg.norm(unit[i] - unit[j]), abs=1e-5
        )
    assert found.plane(["east"]).tolist() == [[0, 0]]


def test_vectors_come_back_from_their_file(tmp_path):
    found = small()
    found.save(tmp_path / "words.safetensors")
    again = WordVectors.load(tmp_path / "words.safetensors")
    assert again.words == found.words and np.array_equal(again.vectors, found.vectors)
    assert again.index(["severe"])[0] == found.index(["severe"])[0] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["words.safetensors"]


def test_a_file_of_something_else_is_named(tmp_path):
    broken, foreign, other = (tmp_path / f"{n}.safetensors" for n in ("broken", "foreign", "other"))
    small().save(broken)
    broken.write_bytes(broken.read_bytes()[:-20])
    save_file({"vectors": np.zeros((2, 2), np.float32)}, foreign)
    save_file({"weights": np.zeros((2, 2), np.float32)}, other, {"words": '["a", "b"]'})
    for path in (broken, foreign, other):
        with pytest.raises(PnlocError, match=rf"{path.name}: holds no word vectors"):
            WordVectors.load(path)
    with pytest.raises(PnlocError, match=r"none\.safetensors: no such file$"):
        WordVectors.load(tmp_path / "none.safetensors")
