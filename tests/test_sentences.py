"""Sentences: Punkt's decisions, its parameters learnt and stored; glued full stops; spans."""

import json
from pathlib import Path

import numpy as np
import pytest

from phantoms import wording
from phantoms.case import Case
from pnloc.errors import PnlocError
from pnloc.reports.sentences import Splitter, plain, tokens, train

NOTES = [
    f"Seen by Prof. {name} at the clinic. The lungs are clear. Heart size is normal."
    for name in ("Ames", "Berg", "Cole", "Dorn")
] * 8
ENDS = json.loads(Path(__file__).with_name("texts.json").read_text())["sentences"]
MIXED = "1. No opacity. 2. Effusion of 3.5 cm. J. Smith saw it... And left? Yes! (Clear.) Fine."


def reports(count: int) -> list[str]:
    """Generated reports of normal cases, each in one line of single spaces."""
    normal = Case([], [], {"right": 0.0, "left": 0.0}, {})
    rngs = (np.random.default_rng(seed) for seed in range(count))
    return [" ".join(wording.write(normal, rng)[0].split()) for rng in rngs]


def test_sentences_are_those_of_punkt_itself():
    texts = [*reports(60), *NOTES[:4], MIXED]
    splitter = train(texts)
    assert [splitter(text) for text in texts] == [splitter.punkt.tokenize(text) for text in texts]


def test_an_abbreviation_is_learnt_from_the_corpus_and_comes_back_from_its_file(tmp_path):
    assert len(plain()("Seen by Prof. Ames. Clear.")) == 3
    learnt = train(NOTES)
    learnt.save(tmp_path / "sentences.json")
    again = Splitter.load(tmp_path / "sentences.json")
    for splitter in (learnt, again):
        assert splitter("Seen by Prof. Ames. Clear.") == ["Seen by Prof. Ames.", "Clear."]
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "sentences.json").read_bytes()


@pytest.mark.parametrize("content", ["{}", "[]", '{"abbrev_types": 3}', "no json"])
def test_a_file_of_something_else_is_named(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(PnlocError, match=r"other\.json"):
        Splitter.load(path)


@pytest.mark.parametrize("texts", [[], [""], ["", " \n"], ["..."]])
def test_nothing_to_learn_from_is_no_error(texts):
    assert train(texts)("Seen by Dr. Ames. Clear.") == ["Seen by Dr. Ames.", "Clear."]


@pytest.mark.parametrize(("text", "expected"), ENDS.items())
def test_where_a_sentence_ends(text, expected):
    assert plain()(text) == expected


def test_spans_are_within_the_part_asked_for_and_have_a_word():
    text = "Clear.  Left opacity.\n\n . \n\nRight."
    assert [text[a:b] for a, b in plain().spans(text, 6)] == ["Left opacity.", "Right."]
    assert plain().spans("") == plain().spans(" . ") == []


def test_tokens_are_lower_case_and_marks_of_de_identification_are_words():
    text = "XXXX-year-old, seen on ___ at 3.5 cm: ill-defined Opacity; patient's film."
    expected = "xxxx-year-old seen on ___ at 3.5 cm ill-defined opacity patient's film"
    assert tokens(text) == expected.split()
    assert tokens("") == []
