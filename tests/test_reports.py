"""Reports: sections, sentences, tokens; what is affirmed, negated, hedged, past; whose attributes are whose."""

import math
import time

import pytest

from pnloc import reports as r

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
    assert r.sections(text) == {"INDICATION": "Fever.", "": "Left basilar opacity.", "IMPRESSION": "Clear."}
    assert r.extract_attributes(text) == {"side:left", "zone:lower"}


@pytest.mark.parametrize("name", sorted(r.SILENT_SECTIONS))
def test_silent_sections_assert_nothing(name):
    assert r.findings(f"{name}: Right pneumonia.") == []
    assert r.has_opacity(f"{name}: Right pneumonia.\n IMPRESSION: No pneumonia.") == 0.0
    assert r.extract_attributes(f"{name}: Right pneumonia.\n IMPRESSION: Left pneumonia.") == {"side:left"}


@pytest.mark.parametrize("name", ["FINDINGS", "IMPRESSION", "CONCLUSION", "FINDINGS AND IMPRESSION", "ADDENDUM"])
def test_other_sections_assert(name):
    assert r.has_opacity(f"{name}: Right pneumonia.") == 1.0


def test_the_whole_report_speaks_in_its_asserting_sections_alone():
    found = r.findings(REPORT)
    assert [(f.phrase, f.assertion) for f in found] == [("opacity", "affirmed"), ("pneumonia", "hedged")]
    assert r.extract_attributes(REPORT) == {"side:right", "zone:upper", "kind:patchy"}


def test_sentences_have_single_spaces_and_survive_abbreviations():
    assert r.sentences("Seen by Dr. Ames.  It measures approx. 3 cm\n in size. Clear.") == [
        "Seen by Dr. Ames.",
        "It measures approx. 3 cm in size.",
        "Clear.",
    ]
    assert r.sentences("") == r.sentences(" \n ") == r.sentences(". .") == []


def test_tokens_are_lower_case_and_keep_the_marks_of_de_identification():
    assert r.tokens("XXXX-year-old, seen on ___ at 3.5 cm: ill-defined Opacity; patient's film.") == [
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
        "Question of pneumonia.",
    ],
)
def test_hypothetical_is_not_current(sentence):
    assert assertions(sentence) == ["past"]
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
    found = r.findings("FINDINGS: Heart is normal. Left opacity. IMPRESSION: No pneumonia or Opacity.")
    assert [(f.phrase, f.sentence) for f in found] == [("opacity", 1), ("pneumonia", 2), ("opacity", 2)]
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
        ("Large right effusion obscures the left consolidation.", {"side:left", "kind:consolidation"}),
        ("Severe cardiomegaly, patchy opacity.", {"kind:patchy"}),
        ("No effusion, right lower lobe opacity.", {"side:right", "zone:lower"}),
        ("No focal consolidation, left basilar opacity.", {"side:left", "zone:lower"}),
        ("No right upper lobe opacity, left lower lobe opacity persists.", {"side:left", "zone:lower"}),
        ("No consolidation on the left, however a right perihilar opacity.", {"side:right", "zone:perihilar"}),
        ("Right apical scarring. Left opacity.", {"side:left"}),
        ("Minimal right basilar atelectasis. No opacity.", set()),
    ],
)
def test_attributes_belong_to_their_own_finding(sentence, expected):
    assert r.extract_attributes(sentence) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Right and left opacities.", {"side:bilateral"}),
        ("Opacity in the right upper lobe. Opacity in the left base.", {"side:bilateral", "zone:upper", "zone:lower"}),
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
        ("retrocardiac opacity", {"side:left", "zone:retrocardiac"}),
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
    assert r.asserting_words(text) == ["left", "opacity", "possibly", "pneumonia", "right", "infiltrate"]


@pytest.mark.parametrize("text", ["patchy opacity ", "No effusion, right opacity, no pneumonia. "])
def test_time_grows_with_the_length_of_a_report_and_no_faster(text):
    def seconds(times: int) -> float:
        started = time.process_time()
        assert len(r.findings(text * times)) >= times
        return time.process_time() - started

    # Four times the length: a quadratic step would take 16 times as long.
    assert seconds(1200) < 9 * max(min(seconds(300) for _ in range(3)), 0.01)


def test_cues_reach_far_but_not_without_end():
    assert assertions("No " + "very " * 60 + "patchy opacity.") == ["negated"]
    assert assertions("No " + "very " * 200 + "patchy opacity.") == ["affirmed"]
