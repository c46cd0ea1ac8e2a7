"""Several finished runs side by side, from their files alone: settings that differ, joined tables.

A run is a folder with `config.json`, `run.json` and `tables/`, such as those in `artifacts/`.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from pnloc.errors import PnlocError
from pnloc.files import copy, read_csv, read_json, write_json

# The tables that can be joined, with the column that says what is measured, and what rows are of.
TABLES = dict.fromkeys(("localization", "differences"), "metric")
TABLES |= dict.fromkeys(("severity", "severity_differences"), "statistic")
KEYS = ("preset", "dataset", "method", "readout", "against", "score", "fit", "threshold")
KEPT = (  # tables over patients, without a row for a single image
    *("localization", "differences", "significance", "recall"),
    *("detector_folds", "detector_folds_differences"),
    *("severity", "severity_differences", "severity_zones"),
)


def gather(folders: Iterable[str | Path], table: str = "localization") -> pd.DataFrame:
    """One table of some runs: run, preset, seed, settings that differ, the table's own columns.

    Raises PnlocError if a folder is not a finished run, or its table lacks a column.
    """
    if table not in TABLES:
        raise PnlocError(f"unknown table '{table}'; one of {', '.join(TABLES)}")
    configs, parts = [], []
    for run in dict.fromkeys(map(Path, folders)):
        _require(run, "config.json", table)
        configs.append({"run": str(run), **read_json(run / "config.json")})
        needed = ["dataset", TABLES[table], "value"]
        rows = read_csv(run / "tables" / f"{table}.csv", needed).assign(run=str(run))
        parts.append(rows.drop(columns="seed", errors="ignore"))
    if not parts:
        raise PnlocError("no run to gather; name the folders of some, such as sweep/*/*")
    settings = pd.json_normalize(configs).rename(columns={"name": "preset"})
    first = ["run", "preset", "seed"]
    differing = [c for c in settings.columns.drop(first) if settings[c].map(str).nunique() > 1]
    return settings[[*first, *differing]].merge(pd.concat(parts), on="run")


def _require(run: Path, record: str, table: str) -> None:
    """Raise PnlocError if a folder is not a finished run."""
    needed = (record, f"tables/{table}.csv")
    if not all((run / name).exists() for name in needed):
        missing = f"{run}: not a finished run (it needs {' and '.join(needed)})"
        raise PnlocError(f"{missing}; python -m pnloc train makes one")


def summary(gathered: pd.DataFrame, metric: str = "miou") -> pd.DataFrame:
    """One metric, or statistic, over seeds: preset, dataset, ..., runs, mean, sd, lowest, highest.

    sd is NaN for one run. A metric with thresholds has a row for each.
    """
    measured = gathered["metric" if "metric" in gathered else "statistic"]
    rows = gathered[measured == metric]
    if rows.empty:
        known = ", ".join(measured.unique())
        raise PnlocError(f"no row with the metric '{metric}'; there are {known}")
    keys = [c for c in KEYS if c in rows]
    keys = [c for c in keys if c != "threshold" or rows[c].notna().any()]
    values = rows.groupby(keys, sort=False)["value"]
    table = values.agg(runs="count", mean="mean", sd="std", lowest="min", highest="max")
    return table.reset_index()


def keep(run: str | Path, out: str | Path) -> Path:
    """Copy a finished run's tables over patients (KEPT) into `out`, without those of single images.

    `made.json` beside them has the preset, seed, commits, versions and date. Raises PnlocError if
    the folder is not a finished run.
    """
    run, out = Path(run), Path(out)
    _require(run, "run.json", KEPT[0])
    for path in (run / "tables" / f"{name}.csv" for name in KEPT):
        if path.exists():
            copy(path, out / path.name)
    record = read_json(run / "run.json")
    environments = [*record["environments"].values()]
    facts = {"preset": record["preset"], "seed": record["seed"]}
    facts |= {"date": str(datetime.now(UTC).date()), "packages": environments[-1]["packages"]}
    facts["commits"] = sorted({environment["commit"] for environment in environments})
    write_json(out / "made.json", facts)
    return out
