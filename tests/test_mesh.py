"""OpenI's codings as gold: what a coding means, how agreement is counted, kinds of errors."""

import json
from pathlib import Path

import pandas as pd
import pytest

from bench import _openi as openi
from bench.reports import BARS
from pnloc.data import openi as data
from pnloc.reports.findings import extract_attributes
from pnloc.view.tables import published

CODINGS = json.loads(Path(__file__).with_name("codings.json").read_text())
# Made up: two coded reports, one that is not coded, one normal.
ROWS = [
    ("2", "Patchy opacity in the right lower lobe.", "Opacity/lung/lower lobe/right/patchy"),
    ("4", "Left opacity.", "Opacity/lung/left/mild"),
    ("6", "Mild opacity.", "Pulmonary Atelectasis/mild"),
    ("8", "No opacity.", "normal"),
]
REPORTS = pd.DataFrame(ROWS, columns=["study", "text", "mesh"])


def agreement(read=extract_attributes, reports=REPORTS, **options) -> pd.DataFrame:
    return openi.agreement(reports, read, resamples=100, **options).set_index("group")


@pytest.mark.parametrize(("coding", "expected"), CODINGS["attributes"].items())
def test_a_coding_as_attributes(coding, expected):
    assert openi.gold(coding) == (None if expected is None else set(expected))


def test_without_implied_attributes_the_lingula_has_no_side():
    assert openi.gold("Opacity/lung/lingula", implied=False) == {"zone:lingula"}
    assert openi.gold("Opacity/lung/base/right", implied=False) == {"zone:lower", "side:right"}


def test_halves_go_by_the_number_and_leave_empty_texts_out():
    reports = pd.DataFrame({"study": list("1234"), "text": ["a", "b", " ", "c"], "mesh": ""})
    assert openi.half(reports, odd=False)["study"].tolist() == ["2", "4"]
    assert openi.half(reports, odd=True)["study"].tolist() == ["1"]


def test_agreement_is_counted_over_attributes_of_coded_reports():
    table = agreement()
    assert (table["reports"] == 2).all()
    assert table.loc["side", ["coded", "precision", "recall", "f1"]].tolist() == [2, 1, 1, 1]
    assert table.loc["severity", ["coded", "precision", "recall", "f1"]].tolist() == [1, 1, 0, 0]
    assert ((table["low"] <= table["f1"]) & (table["f1"] <= table["high"])).all()
    pd.testing.assert_frame_equal(table, agreement())

    table = agreement(every=True)  # there what is not coded is extra
    assert (table["reports"] == 4).all() and table.loc["zone", "f1"] == 1
    assert table.loc["severity", ["precision", "recall"]].tolist() == [0, 0]


def test_the_word_baseline_ignores_what_a_word_describes():
    words = openi.words_alone("Small left effusion, right opacity. Mild scar.")
    assert words == {"severity:mild", "side:bilateral"}
    assert openi.words_alone("No left opacity.") == set()


def test_attributes_that_no_coding_can_express_do_not_count():
    table = agreement(lambda text: {"kind:consolidation", "kind:ground glass", "side:right"})
    assert table.loc["kind", "precision"] == 1, "nothing that counts was read"
    assert table.loc["side", "precision"] == 0.5


@pytest.mark.parametrize(("text", "coding", "errors"), CODINGS["errors"])
def test_errors_have_a_kind(text, coding, errors):
    reports = pd.DataFrame({"study": ["2"], "text": [text], "mesh": [coding]})
    table = openi.errors(reports, extract_attributes)[["attribute", "error", "kind"]]
    assert "; ".join(" ".join(row) for row in table.itertuples(index=False, name=None)) == errors


def test_the_reader_agrees_with_openi_as_the_kept_tables_say():
    tables, kept = openi.tables(data.read(None).reports), published()
    for name, table in tables.items():  # else: python -m bench reports, and copy
        pd.testing.assert_frame_equal(table, kept[name], check_dtype=False)
    f1 = tables["report_agreement"].query("half == 'development' and reader == 'rules'")
    f1 = f1[f1["reading"] == "opacity coded"].set_index("group")["f1"]
    least = pd.Series(BARS)
    assert (f1[least.index] >= least).all(), f1
    wrong, count = tables["report_normals"].loc[0, ["attributed", "normal"]]
    assert count == 674 and wrong <= 0.01 * count
