"""Studies of the explorer: words in the report, repeated phrases, and what may be shown."""

from types import SimpleNamespace

import numpy as np
import pytest

from explorer import studies
from pnloc.reports.findings import asserting_words
from pnloc.reports.phrases import Phrase
from pnloc.run import evidence

REPORT = """
 FINAL REPORT
 INDICATION:  Opacity?  Evaluate for pneumonia.

 FINDINGS:  Heart is normal. New patchy  opacity in the
 right lower-lobe.  No effusion.

 IMPRESSION:  Pneumonia is likely; new patchy opacity in the right lower-lobe.
"""
TEXTS = (REPORT, "Opacity. Opacity.", "No opacity.", "", "Ärzte: opacity ___ at 2.5 cm, İ opacity")


@pytest.mark.parametrize("text", TEXTS)
def test_every_word_that_attends_is_located_in_the_report_in_order(text):
    words = asserting_words(text)
    places = studies.spans(text, words)
    located = [text[a:b].lower().replace("\u0307", "") for a, b in places]  # the dot of a small İ
    assert located == words and places == sorted(places)
    assert studies.spans(text, words[:1]) == places[:1]


def test_a_word_of_a_section_that_asserts_nothing_is_not_taken_for_it():
    first = studies.spans(REPORT, asserting_words(REPORT))[0]
    assert REPORT[: first[0]].endswith("Heart is normal. ")


def test_a_phrase_repeated_in_the_impression_is_listed_once_and_a_denied_one_never():
    texts = {"Opacity": "affirmed", "opacity": "affirmed", "mass": "hedged", "no": "negated"}
    one, again, other, denied = (Phrase(*pair, (1.0,) * 6) for pair in texts.items())
    assert studies.distinct([one, denied, other, again]) == [one, other]


@pytest.fixture
def run(monkeypatch):
    """A run of a credentialed set of pairs and an open one, both with boxes."""
    monkeypatch.setattr(evidence, "boxed_rows", lambda run, name, split: np.array([4, 5, 9]))
    access = {"mimic": "credentialed", "rsna": "open"}
    sets = SimpleNamespace(pairs=("mimic",), names=("rsna", "mimic"))
    sets.may_show = lambda name: access[name] != "credentialed"
    return SimpleNamespace(sets=sets, access=access)


def test_examples_come_from_sets_that_a_page_may_show(run):
    assert studies.examples(run, 2) == ("rsna", [4, 5])
    run.access["rsna"] = "credentialed"
    assert studies.examples(run) == ("", []) and studies.gather(run, "", []) == []


def test_of_the_pairs_only_reports_that_assert_an_opacity_are_examples(run):
    run.access["mimic"] = "open"
    places = np.zeros((10, 2, 6))
    places[5, 0, 3] = places[9, 0, 1] = 1
    run.sets.phrases = lambda name: places
    assert studies.examples(run) == ("mimic", [5, 9])
