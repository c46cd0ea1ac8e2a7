"""Reports: sections, findings, their assertions and attributes; `readings.csv` lists sentences."""

import csv
import io
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnloc import reports as r
from pnloc.cli import main
from pnloc.reports.findings import ASSERTIONS, LONGEST, asserting_words, describe, sections
from pnloc.reports.lexicon import ASKING, SKIPPED

READINGS = list(csv.DictReader((Path(__file__).parent / "readings.csv").open(encoding="utf-8")))
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old man with right lower lobe pneumonia.

 COMPARISON:  Left opacity on the radiograph of ___.

 FINDINGS:  The heart is normal.  There is a patchy opacity in the right
 upper lobe.

 IMPRESSION:  Possible pneumonia.
"""


def assertions(text: str) -> list[str]:
    return [f.assertion for f in r.findings(text)]


@pytest.mark.parametrize("row", READINGS, ids=lambda row: row["sentence"][:50])
def test_a_sentence_is_read_as_a_radiologist_would(row):
    sentence, expected = row["sentence"], row["assertions"].split()
    assert assertions(sentence) == expected
    assert ", ".join(sorted(r.extract_attributes(sentence))) == row["attributes"]
    current = {"affirmed", "hedged"} & set(expected)
    assert r.has_opacity(sentence) == float(bool(current))
    assert bool(asserting_words(sentence)) == bool(current)


# Sections and sentences ---------------------------------------------------------------------------


def test_sections_go_by_upper_case_headers():
    found = sections(REPORT)
    assert list(found) == ["", "EXAMINATION", "INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION"]
    assert found[""] == "FINAL REPORT" and found["IMPRESSION"] == "Possible pneumonia."
    assert found["FINDINGS"].endswith("opacity in the right\n upper lobe.")
    assert sections("No header: none.") == {"": "No header: none."}
    assert sections(" \n ") == {}


def test_an_addendum_joins_the_section_of_the_same_name():
    text = "IMPRESSION: Left opacity.\n FINDINGS: Clear.\n IMPRESSION: Right opacity."
    assert sections(text) == {"IMPRESSION": "Left opacity.\nRight opacity.", "FINDINGS": "Clear."}
    assert r.extract_attributes(text) == {"side:bilateral"}


def test_a_line_of_underscores_ends_a_section():
    text = "INDICATION: Fever.\n  ______________  \n Left basilar opacity.\n IMPRESSION: Clear."
    assert sections(text)[""] == "Left basilar opacity."
    assert r.extract_attributes(text) == {"side:left", "zone:lower"}


@pytest.mark.parametrize("name", sorted(SKIPPED | ASKING))
def test_sections_that_ask_or_are_skipped_assert_nothing(name):
    text = f"{name}: Right pneumonia."
    assert assertions(text) == (["hypothetical"] if name in ASKING else [])
    assert asserting_words(text) == []
    assert r.has_opacity(f"{text}\n IMPRESSION: No pneumonia.") == 0.0
    assert r.extract_attributes(f"{text}\n IMPRESSION: Left pneumonia.") == {"side:left"}


@pytest.mark.parametrize("name", ["FINDINGS", "IMPRESSION", "FINDINGS AND IMPRESSION", "ADDENDUM"])
def test_other_sections_assert(name):
    assert r.has_opacity(f"{name}: Right pneumonia.") == 1.0


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


def test_cues_reach_far_but_not_without_end():
    assert assertions("No " + "very " * 60 + "patchy opacity.") == ["negated"]
    assert assertions("No " + "very " * 200 + "patchy opacity.") == ["affirmed"]


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


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Right opacity. No left lower lobe opacity.", None),  # neither left nor lower is denied
        ("Right opacity. No left opacity.", False),
        ("No left opacity. Left opacity.", True),
        ("No focal consolidation.", False),  # opacities are denied altogether
        ("Possible opacity. No pneumonia.", None),
        ("Heart size is normal.", None),
        ("", None),
    ],
)
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
    assert "broken.txt: not UTF-8 text (byte 0)" in errors[0]
    assert "none.txt: No such file" in errors[1]


# Any text -----------------------------------------------------------------------------------------

PIECES = (
    "No|opacity|opacities|density|ground-glass|left|bases|patchy|and|or|,|/|;|in|with|there is|"
    "effusion|may represent|not seen|rib|atelectasis|XXXX|___|prior|resolved|.|\n\n|FINDINGS:|"
    "HISTORY:"
)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join))
def test_any_text_is_read(text):
    for finding in r.findings(text):
        start, end = finding.span
        assert 0 <= start < end <= len(text) and finding.assertion in ASSERTIONS
    assert r.extract_attributes(text) <= set(r.ATTRIBUTES)
    assert r.has_opacity(text) in (0.0, 1.0) or not text.strip()


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
