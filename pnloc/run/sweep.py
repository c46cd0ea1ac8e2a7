"""Several finished runs side by side, from their files alone: settings that differ, joined tables.

A run is a folder with `config.json`, `run.json` and `tables/`, as it lies under `artifacts/`.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from pnloc.errors import PnlocError
from pnloc.files import copy, read_csv, read_json, write_json

TABLES = ("localization", "differences")
COLUMNS = ["dataset", "method", "metric", "value"]
KEPT = (  # tables over patients, without a row for a single image
    *("localization", "differences", "significance", "recall"),
    *("detector_folds", "detector_folds_differences"),
    *("severity", "severity_differences", "severity_zones", "text_on_real", "text_seeds"),
)


def gather(folders: Iterable[str | Path], table: str = "localization") -> pd.DataFrame:
    """One table of some runs: run, preset, seed, settings that differ, the table's own columns.

    Raises PnlocError for a folder that is no finished run, or whose table lacks a column.
    """
    if table not in TABLES:
        raise PnlocError(f"unknown table '{table}'; one of {', '.join(TABLES)}")
    runs = [Path(folder) for folder in folders]
    if not runs:
        raise PnlocError("no run to gather; name the folders of some, such as sweep/*/*")
    for run in runs:
        _require(run, "config.json", table)
    configs = [read_json(run / "config.json") for run in runs]
    settings = pd.json_normalize(configs).rename(columns={"name": "preset"})
    others = settings.columns.drop(["preset", "seed"])
    columns = ["preset", "seed", *(c for c in others if settings[c].map(str).nunique() > 1)]
    parts = []
    for run, row in zip(runs, settings[columns].to_dict("records"), strict=True):
        rows = read_csv(run / "tables" / f"{table}.csv", COLUMNS).drop(
            columns="seed", errors="ignore"
        )
        facts = pd.DataFrame([{"run": str(run), **row}] * len(rows), index=rows.index)
        parts.append(pd.concat([facts, rows], axis=1))
    return pd.concat(parts, ignore_index=True)


def _require(run: Path, record: str, table: str) -> None:
    """Raise PnlocError where a folder lacks what every finished run has."""
    if not (run / record).exists() or not (run / "tables" / f"{table}.csv").exists():
        raise PnlocError(
            f"{run}: no finished run (it needs {record} and tables/{table}.csv); "
            "python -m pnloc train makes one"
        )


def summary(gathered: pd.DataFrame, metric: str = "miou") -> pd.DataFrame:
    """One metric over seeds: preset, dataset, method, ..., runs, mean, sd, lowest, highest.

    sd is NaN for one run. A metric with thresholds has a row for each.
    """
    rows = gathered[gathered["metric"] == metric]
    if rows.empty:
        known = ", ".join(gathered["metric"].unique())
        raise PnlocError(f"no row with the metric '{metric}'; there are {known}")
    keys = [c for c in ("preset", "dataset", "method", "against", "threshold") if c in rows]
    keys = [c for c in keys if c != "threshold" or rows[c].notna().any()]
    values = rows.groupby(keys, sort=False)["value"]
    table = values.agg(runs="count", mean="mean", sd="std", lowest="min", highest="max")
    return table.reset_index()


def keep(run: str | Path, out: str | Path) -> Path:
    """Copy a finished run's tables over patients (KEPT) into `out`, without those of single images.

    Beside them `made.json`: preset, seed, commits, versions, date. Raises PnlocError for a folder
    that is no finished run.
    """
    run, out = Path(run), Path(out)
    _require(run, "run.json", KEPT[0])
    for path in (run / "tables" / f"{name}.csv" for name in KEPT):
        if path.exists():
            copy(path, out / path.name)
    record = read_json(run / "run.json")
    environments = [*record["environments"].values()]
    facts = {
        "preset": record["preset"],
        "seed": record["seed"],
        "date": datetime.now(UTC).date().isoformat(),
        "commits": sorted({e["commit"] for e in environments}),
        "packages": environments[-1]["packages"],
    }
    write_json(out / "made.json", facts)
    return out
