"""Tables of the experiment: values of images, averaged over seeds, and intervals over anatomical variants."""

import numpy as np
import pandas as pd

from experiments.plans import FULL, GIVEN, LABELS, TEXT, Plan
from pnloc.errors import PnlocError
from pnloc.evaluation.bootstrap import NAN, by_patient, interval, weights
from pnloc.evaluation.localization import PER_BOX

KEYS = [
    ("miou", NAN),
    ("pointing", NAN),
    *(("acc", t) for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
]
COLUMNS = [metric if np.isnan(threshold) else f"{metric}@{threshold}" for metric, threshold in KEYS]
COMPARED = (
    (TEXT, LABELS),
    (GIVEN, "detector"),
    (TEXT, "detector"),
    (TEXT, "grad-cam"),
    (LABELS, "detector"),
    (GIVEN, "report-anatomy"),
)


def over_seeds(values: pd.DataFrame, method: str) -> pd.DataFrame:
    """One row per image of a method, the mean over its seeds: index (variant, image), columns boxes and COLUMNS."""
    return (
        values[values["method"] == method].groupby(["variant", "image"])[["boxes", *COLUMNS]].mean()
    )


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
        raise PnlocError(
            "two methods were not measured on the same images, so they cannot be compared pair by pair"
        )
    return pooled(first[COLUMNS] - second[COLUMNS], first["boxes"], resamples)


def tables(plan: Plan, found: list[dict[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The tables, from what `Replicate.all` gave for each replicate."""
    levels, against, seeds = [], [], []
    for prevalence in plan.prevalences:
        values = pd.concat(
            [t for f in found for t in (f["references"], f[f"cohort {prevalence}"])],
            ignore_index=True,
        )
        dataset = f"demo-mimic-{100 * prevalence:.0f}"
        means = {method: over_seeds(values, method) for method in dict.fromkeys(values["method"])}
        for method, table in means.items():
            used = (
                f"0-{plan.seeds - 1}"
                if values.loc[values["method"] == method, "seed"].notna().any()
                else ""
            )
            level = pooled(table, table["boxes"], plan.resamples)
            levels.append(level.assign(dataset=dataset, method=method, seed=used))
        for first, second in COMPARED:
            replicates = [
                ("", slice(None)),
                *((f"/{seed}", f"{seed}/") for seed in plan.replicates),
            ]
            for suffix, chosen in replicates:
                one, other = (_of(means[m], chosen) for m in (first, second))
                table = minus(one, other, plan.resamples)
                against.append(table.assign(dataset=dataset + suffix, method=first, against=second))
        by_seed = values.dropna(subset="seed").assign(
            replicate=lambda v: v["variant"].str.split("/").str[0]
        )
        spread = by_seed.groupby(["method", "replicate", "seed"])["miou"].mean().reset_index()
        seeds.append(spread.assign(dataset=dataset))
    differences = pd.concat(against, ignore_index=True)
    at = differences["threshold"].isna() | (differences["threshold"] == 0.3)
    named = differences["metric"] + differences["threshold"].map(
        lambda t: "" if np.isnan(t) else f"@{t}"
    )
    return {
        "localization": pd.concat(levels, ignore_index=True)[
            ["dataset", "method", "metric", "threshold", "value", "low", "high", "n", "seed"]
        ],
        "differences": differences.assign(metric=named)[at][
            ["dataset", "method", "against", "metric", "value", "low", "high", "n"]
        ],
        "ablations": ablations(plan, found),
        "seeds": pd.concat(seeds, ignore_index=True)[
            ["dataset", "method", "replicate", "seed", "miou"]
        ].astype({"seed": int}),
        "tuning": pd.concat([f["tuning"] for f in found], ignore_index=True),
    }


def _of(table: pd.DataFrame, chosen: "slice | str") -> pd.DataFrame:
    """The rows of one replicate, or all of them."""
    return (
        table[table.index.get_level_values("variant").str.startswith(chosen)]
        if isinstance(chosen, str)
        else table
    )


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
