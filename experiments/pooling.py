"""Tables of the experiment: averages over seeds, with intervals over anatomical variants."""

import numpy as np
import pandas as pd

from experiments.plans import FULL, GIVEN, LABELS, TEXT, Plan
from pnloc.errors import PnlocError
from pnloc.evaluation.bootstrap import NAN, Patients
from pnloc.evaluation.localization import PER_BOX

KEYS = [("miou", NAN), ("pointing", NAN), *(("acc", round(t / 10, 1)) for t in range(1, 8))]
COLUMNS = [metric if np.isnan(threshold) else f"{metric}@{threshold}" for metric, threshold in KEYS]
COMPARED = (
    (TEXT, LABELS),
    (GIVEN, "detector"),
    (TEXT, "detector"),
    (TEXT, "grad-cam"),
    (LABELS, "detector"),
    (GIVEN, "report-anatomy"),
)
ESTIMATE = ["value", "low", "high", "n"]


def over_seeds(values: pd.DataFrame, method: str) -> pd.DataFrame:
    """A method's mean over seeds: index (variant, image), columns boxes and COLUMNS."""
    own = values[values["method"] == method]
    return own.groupby(["variant", "image"])[["boxes", *COLUMNS]].mean()


def pooled(table: pd.DataFrame, boxes: pd.Series, resamples: int) -> pd.DataFrame:
    """metric, threshold, value, low, high, n from a row per image; whole variants are drawn."""
    variants = Patients(table.index.get_level_values("variant"), resamples, 0)
    rows = []
    for column, (metric, threshold) in zip(COLUMNS, KEYS, strict=True):
        per = boxes.to_numpy(float) if metric in PER_BOX else None
        rows.append((metric, threshold, *variants.mean(table[column].to_numpy(float), per)))
    return pd.DataFrame(rows, columns=["metric", "threshold", *ESTIMATE])


def minus(first: pd.DataFrame, second: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """`pooled` of the paired differences; raises PnlocError where the images are not the same."""
    if not first.index.equals(second.index):
        raise PnlocError("two methods cannot be compared: not measured on the same images")
    return pooled(first[COLUMNS] - second[COLUMNS], first["boxes"], resamples)


def tables(plan: Plan, replicates: list[dict[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """The tables, from what `Replicate.all` gave for each replicate."""
    levels, against, seeds = [], [], []
    for prevalence in plan.prevalences:
        values = _joined(replicates, "references", f"cohort {prevalence}")
        dataset = f"demo-mimic-{100 * prevalence:.0f}"
        seeded = set(values.loc[values["seed"].notna(), "method"])
        means = {method: over_seeds(values, method) for method in dict.fromkeys(values["method"])}
        for method, table in means.items():
            used = f"0-{plan.seeds - 1}" if method in seeded else ""
            level = pooled(table, table["boxes"], plan.resamples)
            levels.append(level.assign(dataset=dataset, method=method, seed=used))
        for first, second in COMPARED:
            for one in (None, *plan.replicates):  # all replicates together, then each
                pair = [_of(means[method], one) for method in (first, second)]
                name = f"{dataset}/{one}" if one else dataset
                table = minus(*pair, plan.resamples)
                against.append(table.assign(dataset=name, method=first, against=second))
        values["replicate"] = values["variant"].str.split("/").str[0]
        spread = values.dropna(subset="seed").groupby(["method", "replicate", "seed"])["miou"]
        seeds.append(spread.mean().reset_index().assign(dataset=dataset))
    differences = pd.concat(against, ignore_index=True)
    differences = differences[differences["threshold"].isin([NAN, 0.3])]
    differences["metric"] = differences["metric"].replace("acc", "acc@0.3")
    columns = {
        "localization": ["dataset", "method", "metric", "threshold", *ESTIMATE, "seed"],
        "differences": ["dataset", "method", "against", "metric", *ESTIMATE],
        "seeds": ["dataset", "method", "replicate", "seed", "miou"],
    }
    results = {
        "localization": pd.concat(levels, ignore_index=True),
        "differences": differences,
        "ablations": ablations(plan, replicates),
        "seeds": pd.concat(seeds, ignore_index=True).astype({"seed": int}),
        "tuning": _joined(replicates, "tuning"),
    }
    return {name: table[columns.get(name, list(table))] for name, table in results.items()}


def _joined(replicates: list[dict[str, pd.DataFrame]], *names: str) -> pd.DataFrame:
    return pd.concat([r[name] for r in replicates for name in names], ignore_index=True)


def _of(table: pd.DataFrame, replicate: int | None) -> pd.DataFrame:
    """The rows of one replicate, or all of them."""
    prefix = f"{replicate}/" if replicate else ""
    return table[table.index.get_level_values("variant").str.startswith(prefix)]


def ablations(plan: Plan, replicates: list[dict[str, pd.DataFrame]]) -> pd.DataFrame:
    """Mean union IoU of every ablation, image alone and report given, with two paired differences.

    They are to the model as it is and to image labels, on the same seeds.
    """
    first_cohort = _joined(replicates, f"cohort {plan.prevalences[0]}")
    few = first_cohort["seed"] < plan.ablation_seeds
    labels, rows = over_seeds(first_cohort[few], LABELS), []
    full = _joined(replicates, f"ablation {FULL}")
    for name in (FULL, *plan.ablations):
        values = _joined(replicates, f"ablation {name}")
        for method in (TEXT, GIVEN):
            own = over_seeds(values, method)
            compared = {"": pooled(own, own["boxes"], plan.resamples)}
            if name != FULL:
                compared[FULL] = minus(own, over_seeds(full, method), plan.resamples)
            if method == TEXT:
                compared[LABELS] = minus(own, labels, plan.resamples)
            for against, table in compared.items():
                rows.append((name, method, against, *table.loc[0, ESTIMATE]))
    columns = ["ablation", "method", "against", *ESTIMATE]
    table = pd.DataFrame(rows, columns=columns).astype({"n": int})
    return table.assign(seeds=f"0-{plan.ablation_seeds - 1}")
