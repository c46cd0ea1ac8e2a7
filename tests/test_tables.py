"""Tables and sentences of the pages: cells by hand, titles of methods, the main numbers."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_metrics import BY_HAND

from pnloc.view import tables

NAN = float("nan")
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def long(columns: str, *rows: tuple) -> pd.DataFrame:
    """Rows with these columns, before value, low and high."""
    return pd.DataFrame(rows, columns=[*columns.split(), "value", "low", "high"])


def text(table: pd.DataFrame) -> list[list[str]]:
    return [[cell.replace("\xa0", " ") for cell in row] for row in table.to_numpy().tolist()]


@pytest.mark.parametrize(("numbers", "shown"), BY_HAND["cells"])
def test_a_cell_holds_a_number_with_its_interval_and_is_blank_without_one(numbers, shown):
    assert tables.cell(*numbers).replace("\xa0", " ") == shown


def test_a_wide_table_keeps_the_order_of_the_long_one_and_leaves_gaps_blank():
    rows = [("y", "detector", 0.5, 0.4, 0.6), ("y", "cam", NAN, NAN, NAN)]
    shown = tables.wide(long("level method", *rows, ("x", "cam", 0.1, 0.0, 0.2)), "level")
    assert list(shown.columns) == ["detector alone", "CAM"] and list(shown.index) == ["y", "x"]
    assert text(shown) == [[".50 [.40, .60]", ""], ["", ".10 [.00, .20]"]]


def test_a_table_for_readers_has_the_methods_and_metrics_that_were_asked_for():
    table = long(
        "dataset method metric threshold",
        ("s", "detector", "acc", 0.3, 0.5, 0.25, 1.0),
        ("s", "detector", "miou", NAN, 0.2, 0.1, 0.3),
        ("s", "fixed-boxes", "afp", 0.3, 1.5, 0.0, 2.0),
        ("t", "cam", "miou", NAN, 0.9, 0.9, 0.9),
    )
    columns = {"acc@0.3": "found", "miou": "IoU", "afp@0.3": "wrong", "froc_mean": "FROC"}
    shown = tables.readable(table, "s", columns, ["fixed-boxes", "detector", "cam"])
    assert list(shown.columns) == ["found", "IoU", "wrong", "FROC"]
    assert shown.index.tolist() == ["two fixed boxes, no image", "detector alone"]
    wanted = [["", "", "1.50 [.00, 2.00]", ""], [".50 [.25, 1.00]", ".20 [.10, .30]", "", ""]]
    assert text(shown) == wanted


@pytest.mark.parametrize(("value", "low", "high", "p", "verdict"), BY_HAND["verdicts"])
def test_the_verdict_follows_the_p_value_or_else_the_interval(value, low, high, p, verdict):
    row = {"against": "grad-cam", "value": value, "low": low, "high": high}
    shown = tables.comparison(row if np.isnan(p) else row | {"p_holm": p})
    assert shown.startswith(f"{verdict} *Grad-CAM* (") and ("p = " in shown) != np.isnan(p)


@pytest.mark.parametrize(("further", "low", "high", "shown"), BY_HAND["worth"])
def test_the_worth_of_reports_is_a_bound_where_the_line_of_boxes_ends(further, low, high, shown):
    table = pd.DataFrame([("text", "union IoU", 25, further, low, high, -15, 75)])
    table.columns = ["line", "metric", "boxes", "further", "low", "high", "least", "most"]
    sentence = tables.worth(table, 25, 1000)
    assert shown in sentence and "25" in sentence and "1,000" in sentence


# The main numbers -----------------------------------------------------------------------------


def test_each_main_number_comes_from_its_table():
    columns, miou = "dataset method against metric", ("s", "text-attention", "detector", "miou")
    recall = pd.DataFrame({"regions": [5, 10], "recall": [0.1, 0.75]})
    severity = ("c", "mass", "opacity", "zero-shot", "spearman", 0.5, 0.4, 0.6)
    own = {
        "differences": long(columns, (*miou, 0.02, -0.01, 0.05)).assign(n=22),
        "significance": long(columns, (*miou, 0.02, NAN, NAN)).assign(p_holm=0.2),
        "recall": recall.assign(dataset="s", threshold=0.5, n=8),
        "attributes": pd.DataFrame({"auc": [0.7, 0.5, NAN], "low": [0.6, 0.4, NAN], "n": 9}),
        "severity": long("dataset readout score fit statistic", severity).assign(n=30),
        "severity_choice": pd.DataFrame({"readout": ["area", "mass"], "chosen": [False, True]}),
    }
    table = tables.headlines(own)
    numbers = [re.findall(r"[-+]?[\d.]+", number) for number in table["number"]]
    difference = ["+0.020", "-0.010", "+0.050", "0.200"]
    assert numbers == [difference, ["0.75"], ["1", "2", "0.60"], ["0.50", "0.40", "0.60"]]
    assert "*mass*" in table["question"].iloc[-1] and table["n"].tolist() == [22, 8, 9, 30]
    assert tables.headlines({}).empty


def test_every_section_that_a_main_number_links_to_exists():
    for line in tables.KNOWN["line"]:
        notebook, section = re.fullmatch(r"\[.*\]\((.*)#(.*)\)", line["link"]).groups()
        cells = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))["cells"]
        headings = [row[3:].strip() for c in cells for row in c["source"] if row[:3] == "## "]
        assert section in [heading.replace(" ", "-") for heading in headings], line["link"]
