"""What a page shows of the tables: numbers with their intervals, a row per method under its reader's name, and sentences made from numbers.

Of a run's own tables (pnloc.run.results) and of those of the experiment (experiments.pooling), which are kept under `book/results/`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.plans import FULL, GIVEN, LABELS, TEXT
from pnloc.files import read_csv, read_json
from pnloc.view.figures import reader_name

RESULTS = (
    Path(__file__).parents[2] / "book" / "results"
)  # tables of the full plan, kept under version control
MAIN = {"acc@0.3": "acc, T .3", "acc@0.5": "acc, T .5", "miou": "union IoU", "pointing": "pointing"}
PER_IMAGE = {"afp@0.3": "AFP, T .3"}
PER_SET = {"froc_mean": "FROC", "rsna_map": "RSNA mAP", "coco_ap@0.5": "AP, T .5", "cnr": "CNR"}
# What the plan hopes for: at least so much, and an interval above 0.
HOPES = {
    (TEXT, LABELS): 0.03,
    (GIVEN, "detector"): 0.06,
    (TEXT, "detector"): 0.0,
    (TEXT, "grad-cam"): 0.0,
}


def cell(value: float, low: float, high: float, digits: int = 2, signed: bool = False) -> str:
    """'.45 [.41, .49]', or with signs '+.01 [-.00, +.02]', which no line breaks; nothing for a value that is not known."""
    sign = "+" if signed else ""
    written = "{:{f}} [{:{f}}, {:{f}}]".format(value, low, high, f=f"{sign}.{digits}f")
    return (
        re.sub(r"\b0\.", ".", written).replace(" ", "\N{NO-BREAK SPACE}")
        if np.isfinite(value)
        else ""
    )


def difference(value: float, low: float, high: float) -> str:
    """A difference with its interval, '+.012 [-.003, +.027]'."""
    return cell(value, low, high, 3, True)


# A run's own tables ----------------------------------------------------------------------------------


def readable(
    table: pd.DataFrame, dataset: str, columns: dict[str, str], methods: Iterable[str]
) -> pd.DataFrame:
    """Rows of `tables/localization.csv` for a page: a row per method, a column per metric, '.45 [.41, .49]' in the cells.

    columns: metric, with '@threshold' where it has one -> heading. A method without a metric has an empty cell.
    """
    rows = table[table["dataset"] == dataset]
    key = rows["metric"] + rows["threshold"].map(lambda t: "" if np.isnan(t) else f"@{t}")
    numbers = rows[["value", "low", "high"]].to_numpy(float)
    cells = {
        names: cell(*found)
        for names, found in zip(zip(rows["method"], key, strict=True), numbers, strict=True)
    }
    shown = [m for m in methods if m in set(rows["method"])]
    made = [[cells.get((m, name), "") for name in columns] for m in shown]
    return pd.DataFrame(made, index=[reader_name(m) for m in shown], columns=list(columns.values()))


def pivoted(table: pd.DataFrame, rows: list[str], column: str = "method") -> pd.DataFrame:
    """A table with value, low and high for a page: a row per value of the columns `rows`, a column per value of `column`, cells as in `readable`."""
    cells = [cell(*numbers) for numbers in table[["value", "low", "high"]].to_numpy(float)]
    keys = [tuple(key) for key in table[rows].itertuples(index=False)]
    known = dict(zip(zip(keys, table[column], strict=True), cells, strict=True))
    columns = list(table[column].unique())
    body = [
        [*key, *(known.get((key, name), "") for name in columns)] for key in dict.fromkeys(keys)
    ]
    return pd.DataFrame(body, columns=[*rows, *map(reader_name, columns)]).set_index(rows[0])


# The experiment ----------------------------------------------------------------------------------------


def published(folder: Path = RESULTS) -> dict[str, pd.DataFrame]:
    """The tables of a folder of results, by name; what made them (`experiment.json`, of a kept run `made.json`) as one row per fact."""
    found = {path.stem: read_csv(path) for path in sorted(folder.glob("*.csv"))}
    facts = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    return found | {
        name: pd.Series(known).rename("value").to_frame() for name, known in facts.items()
    }


def beside(pool: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Mean union IoU (or its differences) of the pooled tables and of a run's, a row per method (and what it is compared with)."""
    signed = "against" in pool
    key = ["method", "against"] if signed else ["method"]
    columns = {
        name: rows
        for name, rows in pool[pool["metric"] == "miou"].groupby("dataset", sort=False)
        if "/" not in name
    }
    columns |= {
        f"{name}, this run": rows
        for name, rows in own[own["metric"] == "miou"].groupby("dataset", sort=False)
    }
    cells = {
        name: pd.Series(
            [cell(*r, 3, signed) for r in rows[["value", "low", "high"]].to_numpy()],
            pd.MultiIndex.from_frame(rows[key]),
        )
        for name, rows in columns.items()
    }
    order = next(iter(cells.values())).index
    shown = pd.DataFrame({name: series.reindex(order) for name, series in cells.items()}).fillna("")
    return shown.rename(index=reader_name)


def sentences(ablations: pd.DataFrame) -> list[str]:
    """One sentence per ablation: what it does to the union IoU, from the image alone and with the report given."""
    rows = ablations.fillna({"against": ""}).set_index(["ablation", "method", "against"])[
        ["value", "low", "high"]
    ]
    found = []
    for name in ablations["ablation"].unique():
        if name == FULL:
            said = f"{cell(*rows.loc[name, TEXT, ''], 3)} from the image alone, {cell(*rows.loc[name, GIVEN, ''], 3)} with the report given"
            found.append(
                f"**As it is**: {said}; {_told(rows.loc[name, TEXT, LABELS], 'image labels')}."
            )
            continue
        said = f"{_told(rows.loc[name, TEXT, FULL], 'the arm as it is')} and {_told(rows.loc[name, TEXT, LABELS], 'image labels')}"
        found.append(
            f"**{name.capitalize()}**: {said}; with the report given {_told(rows.loc[name, GIVEN, FULL], 'the arm as it is')}."
        )
    return found


def ablation_table(ablations: pd.DataFrame) -> pd.DataFrame:
    """A row per ablation for a page: mean union IoU from the image alone and with the report given, and the differences to the arm as it is."""
    known = ablations.fillna({"against": ""})
    columns = {
        "image alone": (TEXT, ""),
        "less as it is": (TEXT, FULL),
        "less image labels": (TEXT, LABELS),
        "report given": (GIVEN, ""),
        "less as it is, report given": (GIVEN, FULL),
    }
    made = pd.DataFrame(index=pd.Index(known["ablation"].unique(), name="ablation"))
    for heading, (method, against) in columns.items():
        rows = known[(known["method"] == method) & (known["against"] == against)].set_index(
            "ablation"
        )
        made[heading] = pd.Series(
            {
                name: cell(r.value, r.low, r.high, 3, bool(against))
                for name, r in zip(rows.index, rows.itertuples(), strict=True)
            }
        )
    return made.fillna("")


def _told(row: pd.Series, other: str) -> str:
    """A difference in words: 'worse than image labels (-.020 [-.031, -.010])'."""
    value, low, high = row
    verdict = "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"
    return f"{verdict} {other} ({difference(value, low, high)})"


def answers(differences: pd.DataFrame, dataset: str = "demo-mimic-93") -> list[str]:
    """What came of each hope of the plan, for one cohort: the difference, and whether it is what was hoped for."""
    rows = differences[
        (differences["dataset"] == dataset) & (differences["metric"] == "miou")
    ].set_index(["method", "against"])
    found = []
    for (method, against), hope in HOPES.items():
        value, low, high = rows.loc[(method, against), ["value", "low", "high"]]
        reached = "reached" if value >= hope and low > 0 else "not reached"
        side = "above 0" if low > 0 else "below 0" if high < 0 else "on both sides of 0"
        wish = f"at least {hope:+.2f}".replace("0.", ".") if hope else "above 0"
        found.append(
            f"**{reader_name(method)}** minus **{reader_name(against)}**: {difference(value, low, high)}, an interval {side}; hoped for: {wish}, {reached}."
        )
    return found


def made(facts: pd.DataFrame) -> str:
    """One sentence on what made the tables: images, replicates, seeds, commit, date, time."""
    known = facts["value"]
    plan, hours = known["plan"], sum(known["seconds"].values()) / 3600
    return (
        f"{known['test_images_with_pneumonia']} test images with a pneumonia in {len(plan['replicates'])} generated data sets, each with its own detector; "
        f"{plan['seeds']} seeds of the attention, {plan['ablation_seeds']} for ablations. Made on {known['date']} with commit "
        f"{_commits(known)}; all stages together took {hours:.1f} hours of one process with one thread."
    )


# A kept run on real data ------------------------------------------------------------------------------------


def _commits(known: pd.Series) -> str:
    """The commits that made some tables, short, each once."""
    return ", ".join(dict.fromkeys(commit[:10] for commit in known["commits"]))


def made_once(facts: pd.DataFrame) -> str:
    """One sentence on what made a kept run's tables."""
    known = facts["value"]
    return f"Made once, on {known['date']}, with the preset `{known['preset']}`, seed {known['seed']}, commit {_commits(known)}."
