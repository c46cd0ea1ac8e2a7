"""OpenI's codings as gold: what a coding means, how agreement is counted, which kind an error is; and the development half of the real ones."""

import pandas as pd
import pytest

from pnloc.data import openi
from pnloc.evaluation import openi as mesh

# Made up: two coded reports, one that is not coded, one normal.
REPORTS = pd.DataFrame(
    {
        "study": ["2", "4", "6", "8"],
        "text": [
            "Patchy opacity in the right lower lobe.",
            "Left opacity.",
            "Mild opacity.",
            "No opacity.",
        ],
        "mesh": [
            "Opacity/lung/lower lobe/right/patchy",
            "Opacity/lung/left/mild",
            "Pulmonary Atelectasis/mild",
            "normal",
        ],
    }
)


@pytest.mark.parametrize(
    ("coding", "expected"),
    [
        (
            "Opacity/lung/lower lobe/right/patchy/mild",
            {"zone:lower", "side:right", "kind:patchy", "severity:mild"},
        ),
        (
            "Opacity/lung/base/right;Infiltrate/lung/apex/left",
            {"zone:lower", "zone:upper", "side:bilateral"},
        ),
        (
            "Density/lung/hilum/bilateral/small",
            {"zone:perihilar", "side:bilateral", "severity:mild"},
        ),
        ("Airspace Disease/lung/lingula", {"zone:lingula", "side:left"}),
        ("Opacity/lung/scattered/round", {"kind:multifocal", "kind:round"}),
        ("Pneumonia/focal/multiple", {"kind:multifocal"}),
        ("Opacity/lung/irregular", set()),
        ("Opacity", set()),
        ("Density/ribs/left", None),
        ("Opacity/thorax/right", None),
        ("Nodule/lung/upper lobe/right", None),
        ("normal", None),
        ("", None),
    ],
)
def test_a_coding_as_attributes(coding, expected):
    assert mesh.gold(coding) == expected


def test_to_the_letter_the_lingula_has_no_side():
    assert mesh.gold("Opacity/lung/lingula", implied=False) == {"zone:lingula"}
    assert mesh.gold("Opacity/lung/base/right", implied=False) == {"zone:lower", "side:right"}


def test_halves_go_by_the_number_and_leave_empty_texts_out():
    reports = pd.DataFrame(
        {"study": ["1", "2", "3", "4"], "text": ["a", "b", " ", "c"], "mesh": ""}
    )
    assert mesh.half(reports, odd=False)["study"].tolist() == ["2", "4"]
    assert mesh.half(reports, odd=True)["study"].tolist() == ["1"]


def test_agreement_is_counted_over_attributes_of_coded_reports():
    table = mesh.agreement(REPORTS).set_index("group")
    assert (table["reports"] == 2).all()
    assert table.loc["side", ["coded", "precision", "recall", "f1"]].tolist() == [2, 1, 1, 1]
    assert table.loc["severity", ["coded", "precision", "recall", "f1"]].tolist() == [1, 1, 0, 0]
    assert ((table["low"] <= table["f1"]) & (table["f1"] <= table["high"])).all()


def test_over_every_report_what_is_not_coded_is_extra():
    table = mesh.agreement(REPORTS, every=True).set_index("group")
    assert (table["reports"] == 4).all()
    assert table.loc["severity", ["precision", "recall"]].tolist() == [0, 0]
    assert table.loc["zone", "f1"] == 1


def test_the_comparison_takes_the_words_of_a_sentence_whatever_they_describe():
    assert mesh.sentence_words("Small left effusion, right opacity. Mild scar.") == {
        "severity:mild",
        "side:bilateral",
    }
    assert mesh.sentence_words("No left opacity.") == set()


def test_attributes_that_no_coding_can_express_do_not_count():
    table = mesh.agreement(
        REPORTS, lambda text: {"kind:consolidation", "kind:ground glass", "side:right"}
    )
    assert (
        table.set_index("group").loc["kind", "precision"] == 1
    )  # nothing that counts was extracted
    assert table.set_index("group").loc["side", "precision"] == 0.5


def test_the_same_seed_gives_the_same_intervals():
    pd.testing.assert_frame_equal(mesh.agreement(REPORTS, seed=1), mesh.agreement(REPORTS, seed=1))


def test_normal_reports_with_an_attribute_are_counted():
    assert mesh.normals(REPORTS) == (0, 1)
    assert mesh.normals(REPORTS, lambda text: {"side:left"}) == (1, 1)


@pytest.mark.parametrize(
    ("text", "coding", "expected"),
    [
        (
            "Opacity.",
            "Opacity/lung/mild",
            [("severity:mild", "missed", "gold disagrees: no word for it")],
        ),
        (
            "Mild opacity.",
            "Opacity/lung",
            [("severity:mild", "extra", "gold disagrees: said, not coded")],
        ),
        (
            "Opacity. The left base is hazy.",
            "Opacity/lung/left",
            [("side:left", "missed", "missed finding")],
        ),
        (
            "Opacity, left effusion.",
            "Opacity/lung/left",
            [("side:left", "missed", "attached to a neighbour")],
        ),
        (
            "No left opacity. Opacity.",
            "Opacity/lung/left",
            [("side:left", "missed", "wrong assertion")],
        ),
        (
            "Mild opacity.",
            "Opacity/lung;Nodule/mild",
            [("severity:mild", "extra", "attached to a neighbour")],
        ),
        (
            "Left mid lung opacity.",
            "Opacity/lung/lingula/left",
            [("zone:lingula", "missed", "vocabulary"), ("zone:middle", "extra", "vocabulary")],
        ),
        ("Left opacity.", "Opacity/lung/left", []),
        ("Left opacity.", "normal", []),
    ],
)
def test_errors_have_a_kind(text, coding, expected):
    found = mesh.errors(pd.DataFrame({"study": ["2"], "text": [text], "mesh": [coding]}))
    assert (
        list(found[["attribute", "error", "kind"]].itertuples(index=False, name=None)) == expected
    )


def test_the_reader_agrees_with_the_development_half_of_openi():
    development = mesh.half(openi.read(None).reports, odd=False)
    assert len(development) == 1962
    f1 = mesh.agreement(development, resamples=10).set_index("group")["f1"]
    assert (
        f1["side"] >= 0.93 and f1["zone"] >= 0.93 and f1["kind"] >= 0.91 and f1["severity"] >= 0.91
    ), f1
    wrong, count = mesh.normals(development)
    assert count == 674 and wrong <= 0.01 * count
