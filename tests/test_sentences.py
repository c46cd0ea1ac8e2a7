"""Sentences: Punkt's decisions kept, its parameters learnt from a corpus and stored; glued full stops; spans."""

import numpy as np
import pytest

from pnloc.data.demo import wording
from pnloc.data.demo.lesions import Case
from pnloc.data.demo.rates import RATES
from pnloc.errors import PnlocError
from pnloc.reports.sentences import Splitter, plain, tokens, train

NOTES = [
    f"Seen by Prof. {name} at the clinic. The lungs are clear. Heart size is normal."
    for name in ("Ames", "Berg", "Cole", "Dorn")
] * 8


def reports(count: int) -> list[str]:
    """Generated reports of normal cases, each in one line of single spaces."""
    rngs = (np.random.default_rng(seed) for seed in range(count))
    return [
        " ".join(
            wording.write(Case([], [], {"right": 0.0, "left": 0.0}, {}), rng, RATES).text.split()
        )
        for rng in rngs
    ]


def test_sentences_are_those_of_punkt_itself():
    texts = [
        *reports(60),
        *NOTES[:4],
        "1. No opacity. 2. Small effusion of 3.5 cm. J. Smith saw it... And left? Yes! (Clear.) Fine.",
    ]
    splitter = train(texts)
    assert [splitter(text) for text in texts] == [splitter.punkt.tokenize(text) for text in texts]


def test_an_abbreviation_is_learnt_from_the_corpus():
    assert len(plain()("Seen by Prof. Ames. Clear.")) == 3
    assert train(NOTES)("Seen by Prof. Ames. Clear.") == ["Seen by Prof. Ames.", "Clear."]


def test_what_was_learnt_comes_back_from_its_file(tmp_path):
    one = train(NOTES)
    one.save(tmp_path / "sentences.json")
    again = Splitter.load(tmp_path / "sentences.json")
    assert (
        again("Seen by Prof. Ames. Clear.")
        == one("Seen by Prof. Ames. Clear.")
        == ["Seen by Prof. Ames.", "Clear."]
    )
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "sentences.json").read_bytes()


@pytest.mark.parametrize("content", ["{}", "[]", '{"abbreviations": 3}', "no json"])
def test_a_file_of_something_else_is_named(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(PnlocError, match=r"other\.json"):
        Splitter.load(path)


@pytest.mark.parametrize("texts", [[], [""], ["", " \n"], ["..."]])
def test_nothing_to_learn_from_is_no_error(texts):
    assert train(texts)("Seen by Dr. Ames. Clear.") == ["Seen by Dr. Ames.", "Clear."]


def test_a_glued_full_stop_and_a_blank_line_end_a_sentence():
    assert plain()("No effusion.Heart is normal.") == ["No effusion.", "Heart is normal."]
    assert plain()("Clear right lung XXXX.In the left base.") == [
        "Clear right lung XXXX.",
        "In the left base.",
    ]
    assert plain()("Left opacity\n \nRight opacity") == ["Left opacity", "Right opacity"]
    assert plain()("Seen at 3.5 cm, e.g. here\nand there") == [
        "Seen at 3.5 cm, e.g. here and there"
    ]


def test_spans_are_within_the_part_asked_for_and_have_a_word():
    text = "Clear.  Left opacity.\n\n . \n\nRight."
    spans = plain().spans(text, 6)
    assert [text[a:b] for a, b in spans] == ["Left opacity.", "Right."]
    assert plain().spans("") == plain().spans(" . ") == []


def test_marks_of_de_identification_are_words():
    assert tokens("Compared to ___, XXXX opacity.") == ["compared", "to", "___", "xxxx", "opacity"]
