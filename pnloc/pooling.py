"""Tables of the experiment: values of images, averaged over seeds, and intervals over anatomical variants; and what a page shows of them."""

from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.bootstrap import NAN, by_patient, interval, weights
from pnloc.errors import PnlocError
from pnloc.files import read_csv, read_json
from pnloc.metrics import PER_BOX
from pnloc.plans import FULL, GIVEN, LABELS, TEXT, Plan

RESULTS = Path(__file__).parents[1] / "book" / "results"  # tables of the full plan, kept under version control
KEYS = [("miou", NAN), ("pointing", NAN), *(("acc", t) for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))]
COLUMNS = [metric if np.isnan(threshold) else f"{metric}@{threshold}" for metric, threshold in KEYS]
COMPARED = (
    (TEXT, LABELS), (GIVEN, "detector"), (TEXT, "detector"), (TEXT, "grad-cam"), (LABELS, "detector"), (GIVEN, "report-anatomy"),
)  # fmt: skip

# What the plan hopes for: at least so much, and an interval above 0.
HOPES = {(TEXT, LABELS): 0.03, (GIVEN, "detector"): 0.06, (TEXT, "detector"): 0.0, (TEXT, "grad-cam"): 0.0}


def over_seeds(values: pd.DataFrame, method: str) -> pd.DataFrame:
    """One row per image of a method, the mean over its seeds: index (variant, image), columns boxes and COLUMNS."""
    return values[values["method"] == method].groupby(["variant", "image"])[["boxes", *COLUMNS]].mean()


def pooled(table: pd.DataFrame, boxes: pd.Series, resamples: int) -> pd.DataFrame:
    """metric, threshold, value, low, high, n of one row per image, index (variant, image): whole variants are drawn."""
    _, index = np.unique(table.index.get_level_values("variant"), return_inverse=True)
    counts = np.stack([boxes.to_numpy(float), np.ones(len(table))], axis=1)
    sums = by_patient(np.concatenate([table[COLUMNS].to_numpy(float), counts], axis=1), index)
    drawn = weights(len(sums), resamples, 0) @ sums
    rows = []
    for column, (metric, threshold) in enumerate(KEYS):
        per = -2 if metric in PER_BOX else -1
        value, n = sums[:, column].sum() / sums[:, per].sum(), int(sums[:, per].sum())
        rows.append((metric, threshold, value, *interval(drawn[:, column] / drawn[:, per]), n))
    return pd.DataFrame(rows, columns=["metric", "threshold", "value", "low", "high", "n"])


def minus(first: pd.DataFrame, second: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """`pooled` of the differences of two methods on the same images; raises PnlocError where they are not the same."""
    if not first.index.equals(second.index):
        raise PnlocError("two methods were not measured on the same images, so they cannot be compared pair by pair")
    return pooled(first[COLUMNS] - second[COLUMNS], first["boxes"], resamples)


def tables(plan: Plan, found: list[dict[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The tables, from what `Replicate.all` gave for each replicate."""
    levels, against, seeds = [], [], []
    for prevalence in plan.prevalences:
        values = pd.concat([t for f in found for t in (f["references"], f[f"cohort {prevalence}"])], ignore_index=True)
        dataset = f"demo-mimic-{100 * prevalence:.0f}"
        means = {method: over_seeds(values, method) for method in dict.fromkeys(values["method"])}
        for method, table in means.items():
            used = f"0-{plan.seeds - 1}" if values.loc[values["method"] == method, "seed"].notna().any() else ""
            level = pooled(table, table["boxes"], plan.resamples)
            levels.append(level.assign(dataset=dataset, method=method, seed=used))
        for first, second in COMPARED:
            replicates = [("", slice(None)), *((f"/{seed}", f"{seed}/") for seed in plan.replicates)]
            for suffix, chosen in replicates:
                one, other = (_of(means[m], chosen) for m in (first, second))
                table = minus(one, other, plan.resamples)
                against.append(table.assign(dataset=dataset + suffix, method=first, against=second))
        by_seed = values.dropna(subset="seed").assign(replicate=lambda v: v["variant"].str.split("/").str[0])
        spread = by_seed.groupby(["method", "replicate", "seed"])["miou"].mean().reset_index()
        seeds.append(spread.assign(dataset=dataset))
    differences = pd.concat(against, ignore_index=True)
    at = differences["threshold"].isna() | (differences["threshold"] == 0.3)
    named = differences["metric"] + differences["threshold"].map(lambda t: "" if np.isnan(t) else f"@{t}")
    return {
        "localization": pd.concat(levels, ignore_index=True)[["dataset", "method", "metric", "threshold", "value", "low", "high", "n", "seed"]],
        "differences": differences.assign(metric=named)[at][["dataset", "method", "against", "metric", "value", "low", "high", "n"]],
        "ablations": ablations(plan, found),
        "seeds": pd.concat(seeds, ignore_index=True)[["dataset", "method", "replicate", "seed", "miou"]].astype({"seed": int}),
        "tuning": pd.concat([f["tuning"] for f in found], ignore_index=True),
    }  # fmt: skip


def _of(table: pd.DataFrame, chosen: "slice | str") -> pd.DataFrame:
    """The rows of one replicate, or all of them."""
    return table[table.index.get_level_values("variant").str.startswith(chosen)] if isinstance(chosen, str) else table


def ablations(plan: Plan, found: list[dict[str, pd.DataFrame]]) -> pd.DataFrame:
    """Mean union IoU of every ablation, image alone and report given, and its difference to the model as it is and to image labels, same seeds."""
    few, rows = range(plan.ablation_seeds), []
    whole = pd.concat([f[f"cohort {plan.prevalences[0]}"] for f in found], ignore_index=True)
    labels = over_seeds(whole[whole["seed"].isin(few)], LABELS)
    full = pd.concat([f[f"ablation {FULL}"] for f in found], ignore_index=True)
    for name in (FULL, *plan.ablations):
        values = pd.concat([f[f"ablation {name}"] for f in found], ignore_index=True)
        for method in (TEXT, GIVEN):
            own = over_seeds(values, method)
            compared = {"": pooled(own, own["boxes"], plan.resamples)}
            if name != FULL:
                compared[FULL] = minus(own, over_seeds(full, method), plan.resamples)
            if method == TEXT:
                compared[LABELS] = minus(own, labels, plan.resamples)
            for against, table in compared.items():
                rows.append(
                    {
                        "ablation": name,
                        "method": method,
                        "against": against,
                        **table.iloc[0][["value", "low", "high", "n"]],
                    }
                )
    return pd.DataFrame(rows).assign(seeds=f"0-{plan.ablation_seeds - 1}").astype({"n": int})


# What a page shows ----------------------------------------------------------------------------------------


def published(folder: Path = RESULTS) -> dict[str, pd.DataFrame]:
    """The tables under `book/results/`, by name; `experiment.json` as one row per fact."""
    found = {path.stem: read_csv(path) for path in sorted(folder.glob("*.csv"))}
    facts = read_json(folder / "experiment.json")
    return found | {"experiment": pd.Series(facts).rename("value").to_frame()}


def beside(pool: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Mean union IoU (or its differences) of the pooled tables and of a run's, a row per method (and what it is compared with)."""
    signed = "against" in pool
    key = ["method", "against"] if signed else ["method"]
    columns = {
        name: rows for name, rows in pool[pool["metric"] == "miou"].groupby("dataset", sort=False) if "/" not in name
    }
    columns |= {f"{name}, this run": rows for name, rows in own[own["metric"] == "miou"].groupby("dataset", sort=False)}
    cells = {name: pd.Series([cell(*r, signed) for r in rows[["value", "low", "high"]].to_numpy()], pd.MultiIndex.from_frame(rows[key]))
             for name, rows in columns.items()}  # fmt: skip
    order = next(iter(cells.values())).index
    return pd.DataFrame({name: series.reindex(order) for name, series in cells.items()}).fillna("")


def cell(value: float, low: float, high: float, signed: bool = True) -> str:
    """'+.012 [-.003, +.027]', or without signs '.45 [.41, .49]'."""
    form = "{:+.3f} [{:+.3f}, {:+.3f}]" if signed else "{:.3f} [{:.3f}, {:.3f}]"
    return form.format(value, low, high).replace("0.", ".")


def sentences(ablations: pd.DataFrame) -> list[str]:
    """One sentence per ablation: what it does to the union IoU, from the image alone and with the report given."""
    rows = ablations.fillna({"against": ""}).set_index(["ablation", "method", "against"])[["value", "low", "high"]]
    found = []
    for name in ablations["ablation"].unique():
        if name == FULL:
            said = f"{cell(*rows.loc[name, TEXT, ''], signed=False)} from the image alone, {cell(*rows.loc[name, GIVEN, ''], signed=False)} with the report given"
            found.append(f"**As it is**: {said}; {_told(rows.loc[name, TEXT, LABELS], 'image labels')}.")
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
        rows = known[(known["method"] == method) & (known["against"] == against)].set_index("ablation")
        made[heading] = pd.Series(
            {
                name: cell(r.value, r.low, r.high, signed=bool(against))
                for name, r in zip(rows.index, rows.itertuples(), strict=True)
            }
        )
    return made.fillna("")


def _told(row: pd.Series, other: str) -> str:
    """A difference in words: 'worse than image labels (-.020 [-.031, -.010])'."""
    value, low, high = row
    verdict = "better than" if low > 0 else "worse than" if high < 0 else "not told apart from"
    return f"{verdict} {other} ({cell(value, low, high)})"


def answers(differences: pd.DataFrame, dataset: str = "demo-mimic-93") -> list[str]:
    """What came of each hope of the plan, for one cohort: the difference, and whether it is what was hoped for."""
    rows = differences[(differences["dataset"] == dataset) & (differences["metric"] == "miou")].set_index(
        ["method", "against"]
    )
    found = []
    for (method, against), hope in HOPES.items():
        value, low, high = rows.loc[(method, against), ["value", "low", "high"]]
        reached = "reached" if value >= hope and low > 0 else "not reached"
        side = "above 0" if low > 0 else "below 0" if high < 0 else "on both sides of 0"
        wish = f"at least {hope:+.2f}".replace("0.", ".") if hope else "above 0"
        found.append(
            f"**{method}** minus **{against}**: {cell(value, low, high)}, an interval {side}; hoped for: {wish}, {reached}."
        )
    return found


def made(facts: pd.DataFrame) -> str:
    """One sentence on what made the tables: images, replicates, seeds, commit, date, time."""
    known = facts["value"]
    plan, hours = known["plan"], sum(known["seconds"].values()) / 3600
    return (
        f"{known['test_images_with_pneumonia']} test images with a pneumonia in {len(plan['replicates'])} generated data sets, each with its own detector; "
        f"{plan['seeds']} seeds of the attention, {plan['ablation_seeds']} for ablations. Made on {known['date']} with commit "
        f"{', '.join(dict.fromkeys(c[:10] for c in known['commits']))}; all stages together took {hours:.1f} hours of one process with one thread."
    )
