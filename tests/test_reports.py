"""Reports: sections, findings, their assertions and attributes.

`readings.csv` has texts and what they say, `texts.json` texts in odd forms, languages and layouts.
"""

import csv
import io
import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnloc import reports as r
from pnloc.cli import main
from pnloc.reports.findings import ASSERTIONS, LONGEST, asserting_words, describe
from pnloc.reports.layout import is_english, straightened
from pnloc.reports.supervision import sizes

CASES = Path(__file__).parent / "cases"  # each folder's expected.json says what is right, and why
READINGS = list(csv.DictReader((CASES.parent / "readings.csv").open(encoding="utf-8")))
TEXTS = json.loads((CASES.parent / "texts.json").read_text(encoding="utf-8"))
FILES = list(csv.DictReader((CASES / "reports.csv").open(encoding="utf-8")))
REPORT = TEXTS["report"]


def assertions(text: str) -> list[str]:
    return [f.assertion for f in r.findings(text)]


def test_size_is_that_of_an_asserted_opacity():
    assert sizes("Small pleural effusion. Large LLL consolidation.") == {"size:large"}
    assert sizes("No large opacity. A tiny opacity on the right.") == {"size:small"} > sizes("")


@pytest.mark.parametrize("row", READINGS, ids=lambda row: row["sentence"][:50])
def test_a_text_is_read_as_a_radiologist_would(row):
    sentence, expected = row["sentence"], row["assertions"].split()
    assert assertions(sentence) == expected
    assert ", ".join(sorted(r.extract_attributes(sentence))) == row["attributes"]
    current = {"affirmed", "hedged"} & set(expected)
    assert r.has_opacity(sentence) == float(bool(current))
    assert bool(asserting_words(sentence)) == bool(current)


@pytest.mark.filterwarnings("ignore:a report is not in English")
@pytest.mark.parametrize("row", FILES, ids=lambda row: row["file"])
def test_a_report_as_people_have_them_is_read_right(row):
    text = (CASES / row["file"]).read_text(encoding="utf-8")
    assert assertions(text) == row["assertions"].split()
    assert ", ".join(sorted(r.extract_attributes(text))) == row["attributes"]


@pytest.mark.parametrize("text", TEXTS["odd"])
def test_the_form_of_a_text_changes_nothing_and_spans_are_those_of_the_text_as_it_came(text):
    (finding,) = r.findings(text)
    assert finding.assertion == "affirmed" and "side:left" in finding.attributes
    phrase, _ = straightened(text[slice(*finding.span)])
    assert " ".join(phrase.lower().split()) == finding.phrase
    assert all(word.isascii() for word in finding.words)


@pytest.mark.parametrize("text", TEXTS["foreign"])
def test_a_report_in_another_language_asserts_nothing_and_says_so(text):
    with pytest.warns(UserWarning, match="not in English"):
        assert r.findings(text) == []
    assert math.isnan(r.has_opacity(text)) and describe("a.txt", text).count("\n") == 1


@pytest.mark.parametrize("text", TEXTS["english"])
def test_names_and_symbols_make_no_other_language(text, recwarn):
    assert r.has_opacity(text) == 1.0 and not recwarn


@pytest.mark.parametrize("style", TEXTS["styles"])
@pytest.mark.parametrize("case", [str.upper, str.title, str.capitalize], ids=lambda c: c.__name__)
def test_sections_that_ask_or_are_skipped_assert_nothing_in_any_style(style, case):
    end = style.format(case("IMPRESSION"))
    for name in [*TEXTS["asking"], *TEXTS["skipped"]]:
        text = style.format(case(name))
        assert assertions(text) == ["hypothetical"] * (name in TEXTS["asking"]), text
        assert asserting_words(text) == []
        denied, left = (f"{text}\n {end.replace('Right', word)}" for word in ("No", "Left"))
        assert r.has_opacity(denied) == 0.0, denied
        assert r.extract_attributes(left) == {"side:left"}, left


def test_findings_know_their_section_sentence_words_and_span():
    found = r.findings(REPORT)
    assert [(f.phrase, f.assertion, f.section, f.sentence) for f in found] == [
        ("pneumonia", "hypothetical", "INDICATION", -1),
        ("opacity", "affirmed", "FINDINGS", 2),  # 'FINAL REPORT' is sentence 0
        ("pneumonia", "hedged", "IMPRESSION", 3),
    ]
    assert all(REPORT[slice(*f.span)] == f.phrase for f in found)
    marked = {REPORT[start:end]: set(names) for start, end, names in found[1].marks}
    assert marked == {"patchy": {"kind:patchy"}, "right": {"side:right"}, "upper": {"zone:upper"}}
    assert found[2].words == ("possible", "pneumonia")
    assert r.findings("\u0130 opacity. Right opacity.")[1].span == (17, 24)


def test_a_repeated_sentence_is_read_the_same_way():
    text = "Patchy opacity in the right base. No effusion. Patchy opacity in the right base."
    first, second = r.findings(text)
    assert (first.attributes, first.assertion) == (second.attributes, second.assertion)
    assert text[slice(*second.span)] == "opacity" and first.span != second.span
    assert (first.sentence, second.sentence) == (0, 2)


# What a report as a whole says --------------------------------------------------------------------


def test_an_empty_text_is_not_known_and_a_silent_one_is_negative():
    assert math.isnan(r.has_opacity("")) and math.isnan(r.has_opacity(" \n"))
    assert r.has_opacity("Heart size is normal.") == 0.0
    assert r.extract_attributes("") == set() and asserting_words("") == []


def test_asserting_words_are_those_of_sentences_with_a_current_opacity_each_once():
    text = "Heart is normal. Left opacity, possibly pneumonia. No effusion. Right infiltrate."
    words = ["left", "opacity", "possibly", "pneumonia", "right", "infiltrate"]
    assert asserting_words(text) == words


def test_an_attribute_is_present_absent_or_not_stated():
    values = r.attribute_values("Patchy opacity on the right. No focal consolidation.")
    assert set(values) == set(r.ATTRIBUTES)
    assert values["kind:patchy"] is values["side:right"] is True
    assert values["kind:focal"] is values["kind:consolidation"] is False
    assert values["side:left"] is values["zone:lower"] is None


@pytest.mark.parametrize(("text", "left"), TEXTS["of the left"].items())
def test_what_is_denied_of_the_left(text, left):
    assert r.attribute_values(text)["side:left"] is left


def test_the_description_names_lines_assertions_and_values():
    lines = [line.split() for line in describe("note.txt", REPORT).splitlines()]
    assert lines[0] == ["note.txt"]
    attributes = ["[kind:patchy,", "side:right,", "zone:upper]"]
    assert lines[2] == ["line", "8", "affirmed", "opacity", *attributes]
    assert lines[-3][0] == "present" and lines[-1] == ["opacity", "yes"]
    assert describe("empty", " ") == "empty\n  an empty report"


def test_the_command_reads_files_and_standard_input_and_names_what_it_cannot_read(
    tmp_path, capsys, monkeypatch
):
    good, broken = tmp_path / "good.txt", tmp_path / "broken.txt"
    good.write_text("Right opacity.")
    broken.write_bytes(b"\xff\xfe\x00Right")
    assert main(["reports", str(good)]) == 0
    assert "affirmed" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"No pneumonia.")))
    assert main(["reports", "-", str(broken), str(tmp_path / "none.txt"), str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "standard input" in shown.out and "negated" in shown.out
    errors = shown.err.splitlines()
    assert len(errors) == 3 and all(line.startswith("pnloc: ") for line in errors)
    assert "broken.txt: not readable as text" in errors[0]
    assert "none.txt: no such file" in errors[1]


# Any text -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:a report is not in English")
@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=300) | st.lists(st.sampled_from(TEXTS["pieces"]), max_size=40).map(" ".join)
)
def test_any_text_is_read(text):
    for finding in r.findings(text):
        start, end = finding.span
        assert 0 <= start < end <= len(text) and finding.assertion in ASSERTIONS
    assert r.extract_attributes(text) <= set(r.ATTRIBUTES)
    assert r.has_opacity(text) in (0.0, 1.0) or not text.strip() or not is_english(text)


def test_a_long_report_of_one_mark_is_read_in_no_more_than_proportional_time():
    started = time.process_time()
    for text in ("Dr. ", "...", "1. ", "\n \n ", "\n_____", "xxxx", "no, "):
        r.findings(text * 20_000)
    assert time.process_time() - started < 20  # seconds; a quadratic step would take minutes


def test_a_sentence_without_end_is_read_in_parts_and_its_places_are_those_of_the_text():
    text = "Heart, bones, " * 200 + "patchy opacity in the right base, " + "ribs, spine, " * 200
    (finding,) = r.findings(text)
    assert len(text) > 2 * LONGEST
    assert finding.attributes == {"kind:patchy", "side:right", "zone:lower"}
    assert text[slice(*finding.span)] == finding.phrase == "opacity"
    assert {text[a:b] for a, b, _ in finding.marks} == {"patchy", "right", "base"}
