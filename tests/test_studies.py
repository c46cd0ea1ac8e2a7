"""Studies for the explorer: where words stand in a report, phrases that repeat, and which studies may be shown."""

from types import SimpleNamespace

import numpy as np
import pytest

from pnloc.reports.findings import asserting_words
from pnloc.reports.phrases import Phrase
from pnloc.run import evidence
from pnloc.view.explorer import studies

REPORT = """
 FINAL REPORT
 INDICATION:  Opacity?  Evaluate for pneumonia.

 FINDINGS:  Heart is normal. New patchy  opacity in the
 right lower-lobe.  No effusion.

 IMPRESSION:  Pneumonia is likely; new patchy opacity in the right lower-lobe.
"""


def said(text: str) -> list[str]:
    """The words at the places found; the dot that some letters leave when they become small is no part of a word."""
    return [
        text[a:b].lower().replace("\u0307", "")
        for a, b in studies.spans(text, asserting_words(text))
    ]


@pytest.mark.parametrize(
    "text",
    [REPORT, "Opacity. Opacity.", "No opacity.", "", "Ärzte: opacity ___ at 2.5 cm, İ opacity"],
)
def test_every_word_that_attends_is_found_in_the_report_in_order(text):
    places = studies.spans(text, asserting_words(text))
    assert said(text) == asserting_words(text)
    assert places == sorted(places), "from the beginning of the report to its end"


def test_a_word_of_another_sentence_is_not_taken_for_it():
    first = studies.spans(REPORT, asserting_words(REPORT))[0]
    assert REPORT[: first[0]].endswith("Heart is normal. "), (
        "not the opacity that the indication asks about"
    )


def test_only_so_many_words_are_looked_for_as_are_given():
    assert len(studies.spans(REPORT, asserting_words(REPORT)[:3])) == 3


def test_a_phrase_that_an_impression_repeats_stands_once_and_a_denied_one_not_at_all():
    one, other, denied = (
        Phrase(t, a, (1.0,) * 6)
        for t, a in (("Opacity", "affirmed"), ("mass", "hedged"), ("no", "negated"))
    )
    again = Phrase("opacity", "affirmed", (1.0,) * 6)
    assert studies.distinct([one, denied, other, again]) == [one, other]


@pytest.fixture
def run(monkeypatch):
    """A run of a credentialed set of pairs and an open one, both with boxes."""
    monkeypatch.setattr(evidence, "boxed_rows", lambda run, name, split: np.array([4, 5, 9]))
    access = {"mimic": "credentialed", "rsna": "open"}
    sets = SimpleNamespace(
        pairs="mimic", names=("rsna", "mimic"), may_show=lambda n: access[n] != "credentialed"
    )
    return SimpleNamespace(sets=sets, access=access)


def test_examples_come_from_sets_that_a_page_may_show(run):
    assert studies.examples(run, 2) == ("rsna", [4, 5])


def test_where_no_set_may_be_shown_there_is_no_example_and_nothing_is_gathered(run):
    run.access["rsna"] = "credentialed"
    assert studies.examples(run) == ("", [])
    assert studies.gather(run, "", []) == []


def test_of_the_pairs_only_reports_that_assert_something_are_examples(run):
    run.access["mimic"] = "open"
    places = np.zeros((10, 2, 6))
    places[5, 0, 3] = places[9, 0, 1] = 1
    run.sets.phrases = lambda name: places
    assert studies.examples(run) == ("mimic", [5, 9])
