"""The main numbers of a run in one table, each with the section of the book that made it. Reads the tables of pnloc.run.results."""

import pandas as pd

from pnloc.view.figures import reader_name

COLUMNS = ["question", "on", "number", "n", "made in"]
OURS = "text-attention"
# Where each number comes from: notebook and heading, as a link that works in JupyterLab and, rewritten by book._ext.publish, in the book.
SECTIONS = {
    "regions": ("03_regions", "Recall on the test images"),
    "attributes": ("05_training", "Attributes from the image alone"),
    "main": ("06_localization", "The main table"),
    "text": ("06_localization", "What text adds"),
    "severity": ("07_covid_severity", "Zero-shot association"),
}


def link(section: str) -> str:
    """A Markdown link to the section that made a number."""
    notebook, heading = SECTIONS[section]
    return f"[{int(notebook[:2])}: {heading}]({notebook}.ipynb#{heading.replace(' ', '-')})"


def headlines(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """question, on (data set), number with its 95% interval, n, made in; from `tables/*.csv` by name.

    A question whose table is missing, or has nothing to say of it, has no row.
    """
    rows = [
        *_text(tables),
        *_places(tables),
        *_ceiling(tables),
        *_attributes(tables),
        *_severity(tables),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def markdown(table: pd.DataFrame) -> str:
    """The table of `headlines` as Markdown: a row per question, a line per data set, and where it was made."""
    lines = ["| question | number [95% interval] | made in |", "|---|---|---|"]
    for question, rows in table.groupby("question", sort=False):
        told = "<br>".join(f"{r.on}: {r.number} (n={r.n})" for r in rows.itertuples())
        lines.append(f"| {question} | {told} | {rows['made in'].iloc[0]} |")
    return "\n".join(lines)


def _number(row: pd.Series, form: str = ".2f") -> str:
    return f"**{row['value']:{form}}** [{row['low']:{form}}, {row['high']:{form}}]"


def _text(tables: dict[str, pd.DataFrame]) -> list[list]:
    """What training with reports adds to the mean union IoU."""
    if not {"differences", "significance"} <= tables.keys():
        return []
    keys = ["dataset", "method", "against", "metric"]
    both = tables["differences"].merge(tables["significance"][[*keys, "p_holm"]], on=keys)
    both = both[(both["metric"] == "miou") & (both["method"] == OURS)]
    asked = {
        "image-label-attention": "What do reports in training add to the mean union IoU, against image labels alone?",
        "detector": "And against the detector alone?",
        "fixed-boxes": "And against two fixed boxes that read no image?",
    }
    found = []
    for other, question in asked.items():
        for _, row in both[both["against"] == other].iterrows():
            number = f"{_number(row, '+.3f')}, p {row['p_holm']:.3f}"
            found.append([question, row["dataset"], number, int(row["n"]), link("text")])
    return found


def _places(tables: dict[str, pd.DataFrame]) -> list[list]:
    if "localization" not in tables:
        return []
    table = tables["localization"]
    found = []
    for metric, threshold, method, question in (
        ("miou", None, OURS, f"Mean union IoU of {reader_name(OURS)}"),
        (
            "miou",
            None,
            "best-proposal",
            "The same of the best proposal, the ceiling of any ranking",
        ),
        ("acc", 0.3, OURS, f"Share of true boxes that {reader_name(OURS)} finds at IoU .3"),
    ):
        rows = table[(table["metric"] == metric) & (table["method"] == method)]
        rows = rows if threshold is None else rows[(rows["threshold"] - threshold).abs() < 1e-9]
        found += [
            [question, r["dataset"], _number(r), int(r["n"]), link("main")]
            for _, r in rows.iterrows()
        ]
    return found


def _ceiling(tables: dict[str, pd.DataFrame]) -> list[list]:
    if "recall" not in tables:
        return []
    table = tables["recall"]
    rows = table[(table["regions"] == 10) & ((table["threshold"] - 0.5).abs() < 1e-9)].dropna(
        subset="recall"
    )
    question = "Share of true boxes that one of the first ten regions overlaps at IoU .5"
    return [
        [question, r["dataset"], f"**{r['recall']:.2f}**", int(r["n"]), link("regions")]
        for _, r in rows.iterrows()
    ]


def _attributes(tables: dict[str, pd.DataFrame]) -> list[list]:
    known = tables["attributes"].dropna(subset="auc") if "attributes" in tables else []
    if not len(known):
        return []
    clear = int((known["low"] > 0.5).sum())
    number = f"**{clear}** of {len(known)}; median AUC {known['auc'].median():.2f}"
    return [
        [
            "Attributes that the image alone tells better than chance",
            "test reports",
            number,
            int(known["n"].max()),
            link("attributes"),
        ]
    ]


def _severity(tables: dict[str, pd.DataFrame]) -> list[list]:
    """The read-out that was chosen on validation images, with nothing fitted."""
    if not {"severity", "severity_choice"} <= tables.keys():
        return []
    choice = tables["severity_choice"]
    chosen = choice.loc[choice["chosen"].astype(bool), "readout"]
    table = tables["severity"]
    rows = table[
        table["readout"].isin(chosen)
        & (table["fit"] == "zero-shot")
        & (table["statistic"] == "spearman")
    ]
    question = "Rank correlation of *{}* with the experts' {}, nothing fitted"
    asked = [
        question.format(r["readout"], str(r["score"]).replace("_", " ")) for _, r in rows.iterrows()
    ]
    return [
        [a, r["dataset"], _number(r), int(r["n"]), link("severity")]
        for a, (_, r) in zip(asked, rows.iterrows(), strict=True)
    ]
