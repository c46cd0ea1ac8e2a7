"""Reports: sections, sentences, tokens; what is affirmed, negated, hedged, past; whose attributes are whose."""

import io
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnloc import reports as r
from pnloc.cli import main
from pnloc.reports.findings import ASKING_SECTIONS, LONGEST, SILENT_SECTIONS
from pnloc.reports.sentences import plain

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


# Sections, sentences, tokens ------------------------------------------------------------------------------


def test_sections_go_by_upper_case_headers():
    found = r.sections(REPORT)
    assert list(found) == ["", "EXAMINATION", "INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION"]
    assert found[""] == "FINAL REPORT" and found["IMPRESSION"] == "Possible pneumonia."
    assert found["FINDINGS"].endswith("opacity in the right\n upper lobe.")
    assert r.sections("No header: none.") == {"": "No header: none."}
    assert r.sections(" \n ") == {}


def test_an_addendum_on_top_joins_the_section_of_the_same_name():
    text = "IMPRESSION: Left opacity.\n FINDINGS: Clear.\n IMPRESSION: Right opacity."
    assert r.sections(text) == {"IMPRESSION": "Left opacity.\nRight opacity.", "FINDINGS": "Clear."}
    assert r.extract_attributes(text) == {"side:bilateral"}


def test_a_line_of_underscores_ends_a_section():
    text = "INDICATION: Fever.\n  ______________  \n Left basilar opacity.\n IMPRESSION: Clear."
    assert r.sections(text) == {
        "INDICATION": "Fever.",
        "": "Left basilar opacity.",
        "IMPRESSION": "Clear.",
    }
    assert r.extract_attributes(text) == {"side:left", "zone:lower"}


@pytest.mark.parametrize("name", sorted(SILENT_SECTIONS))
def test_silent_sections_assert_nothing(name):
    found = r.findings(f"{name}: Right pneumonia.")
    expected = ["hypothetical"] if name in ASKING_SECTIONS else []
    assert [f.assertion for f in found] == expected and not any(f.current for f in found)
    assert r.asserting_words(f"{name}: Right pneumonia.") == []
    assert r.has_opacity(f"{name}: Right pneumonia.\n IMPRESSION: No pneumonia.") == 0.0
    assert r.extract_attributes(f"{name}: Right pneumonia.\n IMPRESSION: Left pneumonia.") == {
        "side:left"
    }


@pytest.mark.parametrize(
    "name", ["FINDINGS", "IMPRESSION", "CONCLUSION", "FINDINGS AND IMPRESSION", "ADDENDUM"]
)
def test_other_sections_assert(name):
    assert r.has_opacity(f"{name}: Right pneumonia.") == 1.0


def test_the_whole_report_speaks_in_its_asserting_sections_alone():
    found = r.findings(REPORT)
    assert [(f.phrase, f.assertion, f.section) for f in found] == [
        ("pneumonia", "hypothetical", "INDICATION"),
        ("opacity", "affirmed", "FINDINGS"),
        ("pneumonia", "hedged", "IMPRESSION"),
    ]
    assert [f.sentence for f in found] == [-1, 2, 3]  # 'FINAL REPORT' is sentence 0
    assert r.extract_attributes(REPORT) == {"side:right", "zone:upper", "kind:patchy"}


def test_sentences_have_single_spaces_and_survive_abbreviations():
    assert plain()("Seen by Dr. Ames.  It measures approx. 3 cm\n in size. Clear.") == [
        "Seen by Dr. Ames.",
        "It measures approx. 3 cm in size.",
        "Clear.",
    ]
    assert plain()("") == plain()(" \n ") == plain()(". .") == []


def test_tokens_are_lower_case_and_keep_the_marks_of_de_identification():
    assert r.tokens(
        "XXXX-year-old, seen on ___ at 3.5 cm: ill-defined Opacity; patient's film."
    ) == [
        "xxxx-year-old",
        "seen",
        "on",
        "___",
        "at",
        "3.5",
        "cm",
        "ill-defined",
        "opacity",
        "patient's",
        "film",
    ]
    assert r.tokens("XXXX ___ XXXX.") == ["xxxx", "___", "xxxx"]
    assert r.tokens("") == []


# Assertion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentence",
    [
        "Right lower lobe opacity.",
        "There is a patchy consolidation at the left base.",
        "The left opacity persists.",
        "Increasing infiltrates are noted.",
        "No change in the left opacity.",
        "The left opacity is not significantly changed.",
        "Ground-glass opacities are scattered in both lungs.",
        "XXXX opacity in the left lung on the film of ___.",
        "Airspace disease on the right.",
        "Hazy density at the apex.",
        "The opacity noted on the prior study is unchanged.",
        "Compared to the prior study, the opacity is larger.",
        "Opacity, not seen on the prior study.",
        "No significant change in the opacity.",
        "Resolving pneumonia.",
        "Ground glass attenuation.",
        "Air space disease.",
        "Right basilar airspace process.",
    ],
)
def test_affirmed(sentence):
    assert assertions(sentence) == ["affirmed"]
    assert r.has_opacity(sentence) == 1.0


@pytest.mark.parametrize(
    "sentence",
    [
        "No focal consolidation.",
        "There is no opacity.",
        "The lungs are clear of infiltrate.",
        "Lungs are without consolidation.",
        "Negative for pneumonia.",
        "No evidence of acute pneumonia.",
        "The consolidation is no longer seen.",
        "The opacity has resolved.",
        "Previously seen opacity has cleared.",
        "Atelectasis rather than pneumonia.",
        "Neither consolidation nor effusion is seen.",
        "Absence of infiltrate.",
        "Interval resolution of the left opacity.",
        "The lungs are clear without infiltrate.",
        "The opacity is not seen on this study.",
        "Pneumonia has been excluded.",
        "No definite focal alveolar consolidation.",
        "Lungs clear w/o infiltrate.",
    ],
)
def test_negated(sentence):
    assert assertions(sentence) == ["negated"]
    assert r.has_opacity(sentence) == 0.0 and r.extract_attributes(sentence) == set()
    assert r.asserting_words(sentence) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Possible pneumonia.",
        "Probably a consolidation on the left.",
        "Findings suggest pneumonia.",
        "Findings are suspicious for pneumonia.",
        "Atelectasis versus consolidation.",
        "Pneumonia cannot be excluded.",
        "Cannot exclude pneumonia.",
        "Pneumonia is not excluded.",
        "Questionable infiltrate on the right.",
        "A subtle infiltrate is suspected.",
        "Question of pneumonia.",
        "Consider pneumonia.",
    ],
)
def test_hedged_counts_as_current(sentence):
    assert assertions(sentence) == ["hedged"]
    assert r.has_opacity(sentence) == 1.0


@pytest.mark.parametrize(
    "sentence",
    [
        "Prior pneumonia.",
        "History of pneumonia.",
        "Resolved right pneumonia.",
        "Old consolidation of the left base.",
        "Pneumonia resolved.",
    ],
)
def test_past_is_not_current(sentence):
    assert assertions(sentence) == ["past"]
    assert r.has_opacity(sentence) == 0.0 and r.extract_attributes(sentence) == set()


@pytest.mark.parametrize(
    "sentence",
    [
        "Evaluate for pneumonia.",
        "Rule out pneumonia.",
        "Fever, r/o pneumonia.",
        "Repeat the film to assess for pneumonia.",
        "Repeat the film if there is concern for pneumonia.",
        "Obtain CT to exclude pneumonia.",
        "Patient on treatment for pneumonia.",
    ],
)
def test_hypothetical_is_not_current(sentence):
    assert assertions(sentence) == ["hypothetical"]
    assert r.has_opacity(sentence) == 0.0


def test_a_vaccine_is_no_pneumonia():
    assert r.findings("Pneumonia vaccine was given.") == []


# Scope ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("No effusion or focal consolidation.", ["negated"]),
        ("No effusion, pneumothorax, or focal consolidation.", ["negated"]),
        ("There is no focal consolidation, effusion, or pneumothorax.", ["negated"]),
        ("No pneumothorax, consolidation or opacity.", ["negated", "negated"]),
        ("No focal opacity or left lower lobe consolidation.", ["negated", "negated"]),
        ("No effusion, or right lower lobe opacity.", ["negated"]),
        ("Pneumonia is not likely, no opacity.", ["affirmed", "negated"]),
        (
            "Left opacity without pneumonia but with consolidation.",
            ["affirmed", "negated", "affirmed"],
        ),
        ("No effusion, right lower lobe opacity.", ["affirmed"]),
        ("No focal consolidation, left basilar opacity.", ["negated", "affirmed"]),
        ("No effusion but there is an opacity.", ["affirmed"]),
        ("No consolidation on the left, however a right opacity.", ["negated", "affirmed"]),
        ("No pneumothorax; patchy opacity.", ["affirmed"]),
        ("No evidence of pneumonia although a hazy opacity is seen.", ["negated", "affirmed"]),
        ("Left opacity, no consolidation.", ["affirmed", "negated"]),
        ("Left opacity and no consolidation.", ["affirmed", "negated"]),
        ("Right opacity without consolidation.", ["affirmed", "negated"]),
        ("Opacity, which may represent pneumonia.", ["affirmed", "hedged"]),
        ("Opacity on the left. No consolidation.", ["affirmed", "negated"]),
    ],
)
def test_a_cue_reaches_as_far_as_its_clause(sentence, expected):
    assert assertions(sentence) == expected


def test_findings_know_their_sentence_and_its_words():
    found = r.findings(
        "FINDINGS: Heart is normal. Left opacity. IMPRESSION: No pneumonia or Opacity."
    )
    assert [(f.phrase, f.sentence) for f in found] == [
        ("opacity", 1),
        ("pneumonia", 2),
        ("opacity", 2),
    ]
    assert found[0].words == ("left", "opacity")
    assert found[1].words == found[2].words == ("no", "pneumonia", "or", "opacity")


# Attributes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Small effusion with right basilar opacity.", {"side:right", "zone:lower"}),
        ("Right basilar opacity with small left effusion.", {"side:right", "zone:lower"}),
        (
            "Small left effusion and moderate right upper lobe consolidation.",
            {"severity:moderate", "side:right", "zone:upper", "kind:consolidation"},
        ),
        (
            "Large right effusion obscures the left consolidation.",
            {"side:left", "kind:consolidation"},
        ),
        ("Severe cardiomegaly, patchy opacity.", {"kind:patchy"}),
        ("No effusion, right lower lobe opacity.", {"side:right", "zone:lower"}),
        ("No focal consolidation, left basilar opacity.", {"side:left", "zone:lower"}),
        (
            "No right upper lobe opacity, left lower lobe opacity persists.",
            {"side:left", "zone:lower"},
        ),
        (
            "No consolidation on the left, however a right perihilar opacity.",
            {"side:right", "zone:perihilar"},
        ),
        ("Right apical scarring. Left opacity.", {"side:left"}),
        ("Minimal right basilar atelectasis. No opacity.", set()),
        ("Right basilar opacity with small effusion.", {"side:right", "zone:lower"}),
        ("Opacity at the left base and small right effusion.", {"side:left", "zone:lower"}),
        ("Scar at the left base and patchy right opacity.", {"side:right", "kind:patchy"}),
        ("At the left base, there is patchy opacity.", {"side:left", "zone:lower", "kind:patchy"}),
        ("The right base shows patchy opacity.", {"side:right", "zone:lower", "kind:patchy"}),
        ("Opacity overlying the left 5th rib.", {"side:left"}),
        ("Opacity in the lower lobes.", {"side:bilateral", "zone:lower"}),
        (
            "Opacities in the right middle and lower lobes.",
            {"side:right", "zone:middle", "zone:lower"},
        ),
        (
            "Opacity in the right base, left lower lobe and lingula.",
            {"side:bilateral", "zone:lower", "zone:lingula"},
        ),
        ("Small amount of airspace disease on the left.", {"side:left", "severity:mild"}),
        ("Patchy areas of opacity in both lungs.", {"side:bilateral", "kind:patchy"}),
        ("The opacity is mild and patchy.", {"severity:mild", "kind:patchy"}),
        ("Mild to moderate opacity.", {"severity:mild", "severity:moderate"}),
    ],
)
def test_attributes_belong_to_their_own_finding(sentence, expected):
    assert r.extract_attributes(sentence) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Right and left opacities.", {"side:bilateral"}),
        (
            "Opacity in the right upper lobe. Opacity in the left base.",
            {"side:bilateral", "zone:upper", "zone:lower"},
        ),
        ("Opacity in both bases.", {"side:bilateral", "zone:lower"}),
        ("Bibasilar opacities, right more than left.", {"side:bilateral", "zone:lower"}),
        ("Bilateral opacities. Right opacity.", {"side:bilateral"}),
    ],
)
def test_right_and_left_are_bilateral(sentence, expected):
    assert r.extract_attributes(sentence) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("RLL opacity", {"side:right", "zone:lower"}),
        ("RML opacity", {"side:right", "zone:middle"}),
        ("LUL opacity", {"side:left", "zone:upper"}),
        ("lingular opacity", {"side:left", "zone:lingula"}),
        ("retrocardiac opacity", {"zone:retrocardiac"}),
        ("left juxtahilar opacity", {"side:left", "zone:perihilar"}),
        ("opacity behind the heart", {"zone:retrocardiac"}),
        ("RUL opacity", {"side:right", "zone:upper"}),
        ("LLL opacity", {"side:left", "zone:lower"}),
        ("right-sided air-space opacity", {"side:right"}),
        ("a few scattered opacities", {"kind:multifocal"}),
        ("foci of consolidation", {"kind:multifocal", "kind:consolidation"}),
        ("focus of consolidation", {"kind:focal", "kind:consolidation"}),
        ("dense opacity", set()),
        ("right mid lung opacity", {"side:right", "zone:middle"}),
        ("left apical opacity", {"side:left", "zone:upper"}),
        ("mildly patchy opacity", {"severity:mild", "kind:patchy"}),
        ("extensive opacities", {"severity:severe"}),
        ("multifocal opacities", {"kind:multifocal"}),
        ("focal opacity", {"kind:focal"}),
        ("ground-glass opacity", {"kind:ground glass"}),
        ("diffuse interstitial opacities", {"kind:diffuse", "kind:interstitial"}),
        ("linear reticular opacity", {"kind:streaky", "kind:reticular"}),
        ("rounded opacity", {"kind:round"}),
        ("upright opacity", set()),
    ],
)
def test_words_of_places_severities_and_kinds(phrase, expected):
    assert r.extract_attributes(phrase[0].upper() + phrase[1:] + ".") == expected
    assert expected <= set(r.ATTRIBUTES)


def test_the_attributes_are_each_named_once():
    assert len(set(r.ATTRIBUTES)) == len(r.ATTRIBUTES) == 22
    assert {a.split(":")[0] for a in r.ATTRIBUTES} == {"side", "zone", "severity", "kind"}


# What a report as a whole says ----------------------------------------------------------------------------


def test_an_empty_text_is_not_known_and_a_silent_one_is_negative():
    assert math.isnan(r.has_opacity("")) and math.isnan(r.has_opacity(" \n"))
    assert r.has_opacity("Heart size is normal.") == 0.0
    assert r.extract_attributes("") == set() and r.asserting_words("") == []


def test_asserting_words_are_those_of_sentences_with_a_current_opacity_each_once():
    text = "Heart is normal. Left opacity, possibly pneumonia. No effusion. IMPRESSION: No pneumonia. Right infiltrate."
    assert r.asserting_words(text) == [
        "left",
        "opacity",
        "possibly",
        "pneumonia",
        "right",
        "infiltrate",
    ]


@pytest.mark.parametrize("text", ["patchy opacity ", "No effusion, right opacity, no pneumonia. "])
def test_time_grows_with_the_length_of_a_report_and_no_faster(text):
    def seconds(times: int) -> float:
        started = time.process_time()
        assert len(r.findings(text * times)) >= times
        return time.process_time() - started

    # Four times the length: a quadratic step would take 16 times as long.
    def least(times: int) -> float:
        return min(seconds(times) for _ in range(3))

    assert least(1200) < 9 * max(least(300), 0.01)


def test_cues_reach_far_but_not_without_end():
    assert assertions("No " + "very " * 60 + "patchy opacity.") == ["negated"]
    assert assertions("No " + "very " * 200 + "patchy opacity.") == ["affirmed"]


# Attributes: joined nouns, interpretations, densities -----------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            "Mild bibasilar atelectasis/infiltrate.",
            {"side:bilateral", "zone:lower", "severity:mild"},
        ),
        (
            "Mild left basilar atelectasis or infiltrate.",
            {"side:left", "zone:lower", "severity:mild"},
        ),
        ("Mild left basilar atelectasis and infiltrate.", {"side:left", "zone:lower"}),
        ("Opacity and effusion at the left base.", {"side:left", "zone:lower"}),
        ("Right opacity and effusion at the left base.", {"side:right"}),
        (
            "Patchy atelectasis or infiltrate in the left base.",
            {"side:left", "zone:lower", "kind:patchy"},
        ),
        ("Right basilar atelectasis with airspace disease.", {"side:right", "zone:lower"}),
    ],
)
def test_joined_nouns_share_their_place_and_with_or_all_else(sentence, expected):
    assert r.extract_attributes(sentence) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Right basilar opacity may represent mild focal pneumonia.", {"side:right", "zone:lower"}),
        ("This may represent mild focal pneumonia in the left base.", {"side:left", "zone:lower"}),
        ("Left basilar atelectasis may represent pneumonia.", {"side:left", "zone:lower"}),
        ("Possible mild focal pneumonia.", {"severity:mild", "kind:focal"}),
        ("Opacity, likely mild edema.", set()),
    ],
)
def test_what_an_opacity_may_represent_says_where_and_not_how(sentence, expected):
    assert r.extract_attributes(sentence) == expected


@pytest.mark.parametrize(
    ("sentence", "count"),
    [
        ("Density in the left base.", 1),
        ("Calcific density in the left lung.", 1),
        ("Bone density is normal.", 0),
        ("Soft tissue density.", 0),
        ("Radiopaque density over the left chest.", 0),
        ("Nodular density in the right lung.", 1),
        ("Nodular density in the right lung, nodule not excluded.", 0),
    ],
)
def test_a_density_is_an_opacity_unless_of_something_else(sentence, count):
    assert len(r.findings(sentence)) == count


@pytest.mark.parametrize(
    "word", ["opactiy", "opacites", "consolodation", "infilrates", "pnuemonia", "consoldation"]
)
def test_misspelt_findings_are_understood(word):
    assert r.extract_attributes(f"Right {word}.") >= {"side:right"}
    assert assertions(f"No {word}.") == ["negated"]


@pytest.mark.parametrize(
    "word", ["capacity", "filtrate", "intensity", "consultation", "opaque", "pneumonectomy"]
)
def test_other_words_are_not_findings(word):
    assert r.findings(f"Right {word}.") == []


# Three values, spans, the terminal ------------------------------------------------------------------------


def test_an_attribute_is_present_absent_or_not_stated():
    values = r.attribute_values("Patchy opacity on the right. No focal consolidation.")
    assert set(values) == set(r.ATTRIBUTES)
    assert values["kind:patchy"] is values["side:right"] is True
    assert values["kind:focal"] is values["kind:consolidation"] is False
    assert values["side:left"] is values["zone:lower"] is None


def test_denied_in_one_place_is_denied_neither_on_the_side_nor_in_the_zone():
    values = r.attribute_values("Right opacity. No left lower lobe opacity.")
    assert (
        values["side:right"] is True
        and values["side:left"] is None
        and values["zone:lower"] is None
    )
    assert r.attribute_values("Right opacity. No left opacity.")["side:left"] is False
    assert r.attribute_values("No left opacity. Left opacity.")["side:left"] is True


def test_where_opacities_are_denied_altogether_every_attribute_is_absent():
    assert set(r.attribute_values("No focal consolidation.").values()) == {False}
    assert set(r.attribute_values("Heart size is normal.").values()) == {None}
    assert set(r.attribute_values("").values()) == {None}
    assert r.attribute_values("Possible opacity. No pneumonia.")["side:left"] is None


def test_spans_point_into_the_report_as_it_was_given():
    for finding in r.findings(REPORT):
        start, end = finding.span
        assert REPORT[start:end] == finding.phrase
    opacity = r.findings(REPORT)[1]
    marked = {REPORT[start:end]: set(names) for start, end, names in opacity.marks}
    assert marked == {"patchy": {"kind:patchy"}, "right": {"side:right"}, "upper": {"zone:upper"}}
    assert r.findings("\u0130 opacity. Right opacity.")[1].span == (17, 24)


def test_the_description_names_lines_assertions_and_values():
    text = r.describe("note.txt", REPORT)
    lines = text.splitlines()
    assert lines[0] == "note.txt"
    assert lines[2].split() == [
        "line",
        "8",
        "affirmed",
        "opacity",
        "[kind:patchy,",
        "side:right,",
        "zone:upper]",
    ]
    assert lines[-3].split()[0] == "present" and lines[-1].split() == ["opacity", "yes"]
    assert r.describe("empty", " ") == "empty\n  an empty report"


def test_the_command_line_reads_files_and_standard_input_and_names_what_it_cannot_read(
    tmp_path, capsys, monkeypatch
):
    good, broken = tmp_path / "good.txt", tmp_path / "broken.txt"
    good.write_text("Right opacity.")
    broken.write_bytes(b"\xff\xfe\x00Right")
    assert main(["reports", str(good)]) == 0
    assert "affirmed" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"No pneumonia.")))
    assert main(["reports", "-", str(broken), str(tmp_path / "none.txt"), str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "standard input" in said.out and "negated" in said.out
    errors = said.err.splitlines()
    assert len(errors) == 3 and all(line.startswith("pnloc: ") for line in errors)
    assert (
        "broken.txt: not UTF-8 text (byte 0)" in errors[0] and "none.txt: No such file" in errors[1]
    )


PIECES = (
    "No",
    "opacity",
    "opacities",
    "density",
    "ground-glass",
    "left",
    "bases",
    "patchy",
    "and",
    "or",
    ",",
    "/",
    ";",
    "in",
    "with",
    "there is",
    "effusion",
    "may represent",
    "not seen",
    "rib",
    "atelectasis",
    "XXXX",
    "___",
    "prior",
    "resolved",
    ".",
    "\n\n",
    "FINDINGS:",
    "HISTORY:",
)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join))
def test_any_text_is_read(text):
    for finding in r.findings(text):
        start, end = finding.span
        assert 0 <= start < end <= len(text) and finding.assertion in r.ASSERTIONS
    assert r.extract_attributes(text) <= set(r.ATTRIBUTES)
    assert r.has_opacity(text) in (0.0, 1.0) or not text.strip()


def test_a_long_report_is_read_in_no_more_than_proportional_time():
    started = time.process_time()
    for text in ("Dr. ", "...", "1. ", "\n \n ", "\n_____", "xxxx", "no, "):
        r.findings(text * 20_000)
    assert time.process_time() - started < 20  # seconds; a quadratic step would take minutes


def test_a_sentence_without_end_is_read_in_parts_and_its_places_are_those_of_the_text():
    text = "Heart, bones, " * 200 + "patchy opacity in the right base, " + "ribs, spine, " * 200
    found = r.findings(text)
    assert len(text) > 2 * LONGEST
    assert [(f.phrase, sorted(f.attributes)) for f in found] == [
        ("opacity", ["kind:patchy", "side:right", "zone:lower"])
    ]
    assert text[slice(*found[0].span)] == "opacity"
    assert {text[a:b] for a, b, _ in found[0].marks} == {"patchy", "right", "base"}


def test_a_sentence_read_before_is_read_alike():
    text = "Patchy opacity in the right base. No effusion. Patchy opacity in the right base."
    first, second = r.findings(text)
    assert (first.phrase, first.attributes, first.assertion) == (
        second.phrase,
        second.attributes,
        second.assertion,
    )
    assert (
        text[slice(*first.span)] == text[slice(*second.span)] == "opacity"
        and first.span != second.span
    )
    assert (first.sentence, second.sentence) == (0, 2)
