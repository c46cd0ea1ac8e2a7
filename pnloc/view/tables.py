"""Tables and sentences for the pages: numbers with intervals, a row per method under its title.

They come from a run's own `tables/*.csv` and from results of larger runs under `book/results/`.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.files import read_csv, read_json
from pnloc.view.figures import reader_name

RESULTS = Path(__file__).parents[2] / "book" / "results"
KNOWN = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
MAIN, FURTHER, FOLDS = (KNOWN[key] for key in ("main", "further", "folds"))
SIGNIFICANT = 0.05
_INTERVAL = ["value", "low", "high"]


def cell(value: float, low: float, high: float, digits: int = 2, signed: bool = False) -> str:
    """'.45 [.41, .49]', or signed '+.01 [-.00, +.02]', without line breaks; '' for NaN."""
    if not np.isfinite(value):
        return ""
    form = f"{'+' if signed else ''}.{digits}f"
    text = f"{value:{form}} [{low:{form}}, {high:{form}}]"
    return re.sub(r"\b0\.", ".", text).replace(" ", "\N{NO-BREAK SPACE}")


def wide(
    table: pd.DataFrame,
    rows: str | list[str],
    columns: str | list[str] = "method",
    digits: int = 2,
    signed: bool | Sequence[bool] = False,
) -> pd.DataFrame:
    """A long table (value, low, high) as text: a row and a column per value of these columns.

    Both keep the order of their first appearance, methods get their titles, gaps are left blank.
    """
    signs = np.broadcast_to(signed, len(table))
    numbers = zip(table[_INTERVAL].to_numpy(float), signs, strict=True)
    table = table.assign(text=[cell(*three, digits, sign) for three, sign in numbers])
    shown = table.pivot_table("text", rows, columns, aggfunc="first", sort=False).fillna("")
    shown.columns.names = [None] * shown.columns.nlevels
    return shown.rename(index=reader_name, columns=reader_name)


def readable(
    table: pd.DataFrame, dataset: str, columns: Mapping[str, str], methods: Iterable[str]
) -> pd.DataFrame:
    """Rows of `tables/localization.csv` of a data set: a row per method, a column per metric.

    columns: metric, with '@threshold' if it has one -> heading. Missing values are left blank.
    """
    table = table[table["dataset"] == dataset]
    suffix = table["threshold"].map(lambda t: "" if np.isnan(t) else f"@{t}")
    table = table.assign(column=(table["metric"] + suffix).map(dict(columns)))
    shown = wide(table.dropna(subset="column"), "method", "column")
    titles = [title for title in map(reader_name, methods) if title in shown.index]
    return shown.reindex(titles, columns=columns.values()).fillna("")


def comparison(row: Mapping) -> str:
    """A difference in words: 'better than *Grad-CAM* (+.012 [.003, .021], p = .004)'.

    row: method, against, value, low, high; significance is by `p_holm`, else by the interval.
    """
    p = row.get("p_holm")
    clear = not row["low"] <= 0 <= row["high"] if p is None else p < SIGNIFICANT
    verdict = "better than" if row["value"] > 0 else "worse than"
    verdict = verdict if clear else "not significantly different from"
    number = cell(*(row[name] for name in _INTERVAL), digits=3, signed=True)
    number += "" if p is None else f", p = {p:.3f}"
    return f"{verdict} *{reader_name(row['against'])}* ({number})"


# The main numbers of a run --------------------------------------------------------------------


def headlines(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """question, on (the data set), number, n, made in (a link): the lines of tables.toml.

    tables: those of a run, by name. A line whose table or row is missing is left out.
    """
    rows, tables = [], _with_facts(tables)
    for line in KNOWN["line"]:
        table = tables.get(line["table"], pd.DataFrame())
        for row in table.query(line["query"]).to_dict("records") if len(table) else []:
            question = line["question"].format(**row).replace("_", " ")
            number = line["number"].format(**row)
            rows.append([question, row["dataset"], number, row["n"], line["link"]])
    return pd.DataFrame(rows, columns=["question", "on", "number", "n", "made in"])


def _with_facts(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables with what the headlines need: p values, the chosen read-out, a summary."""
    ready = dict(tables)
    if "significance" in ready:
        keys = ["dataset", "method", "against", "metric"]
        p_values = ready["significance"][[*keys, "p_holm"]]
        ready["differences"] = ready["differences"].merge(p_values, on=keys)
    if "severity" in ready:
        chosen = ready["severity_choice"][["readout", "chosen"]]
        ready["severity"] = ready["severity"].merge(chosen, how="left", on="readout")
    if "attributes" in ready:
        scores = ready["attributes"].dropna(subset="auc").assign(dataset="test reports")
        summary = {"total": ("auc", "size"), "median": ("auc", "median"), "n": ("n", "max")}
        groups = scores.assign(clear=scores["low"] > 0.5).groupby("dataset", as_index=False)
        ready["attributes"] = groups.agg(clear=("clear", "sum"), **summary)
    return ready


def markdown(table: pd.DataFrame) -> str:
    """The table of `headlines` as Markdown: a row per question, a line per data set."""
    lines = ["| question | number [95% interval] | made in |", "|---|---|---|"]
    for question, rows in table.groupby("question", sort=False):
        numbers = "<br>".join(f"{r.on}: {r.number} (n={r.n})" for r in rows.itertuples())
        lines.append(f"| {question} | {numbers} | {rows['made in'].iloc[0]} |")
    return "\n".join(lines)


# Results of larger runs -----------------------------------------------------------------------


def published(folder: Path = RESULTS) -> dict[str, pd.DataFrame]:
    """The tables of a folder of results by name, and its facts (`made`) as a Series."""
    tables = {path.stem: read_csv(path) for path in sorted(folder.glob("*.csv"))}
    facts = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    return tables | {name: pd.Series(values) for name, values in facts.items()}


def worth(table: pd.DataFrame, boxes: int, reports: int, metric: str = "union IoU") -> str:
    """What reports are worth beside so many boxed images, in a sentence.

    table: line, metric, boxes, further, low, high, least, most (experiments.tables.worth).
    """
    rows = table.query("line == 'text' and metric == @metric and boxes == @boxes")
    further, low, high, least, most = rows.iloc[0][["further", "low", "high", "least", "most"]]
    bound = "at most " if further <= least else "at least " if further >= most else ""
    beyond = [
        "" if least < end < most else " or less" if end <= least else " or more"
        for end in (low, high)
    ]
    return (
        f"With {boxes} boxed images, {reports:,} reports are worth {bound}"
        f"**{round(further)} further boxed images** [{low:.0f}{beyond[0]}, {high:.0f}{beyond[1]}]."
    )
