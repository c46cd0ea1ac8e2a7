"""Several runs beside each other: what differs between them, and their tables as one. Reads files alone, no model.

A run is a folder with `config.json` and `tables/`, as every run leaves it under `artifacts/`.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from pnloc.errors import PnlocError
from pnloc.files import copy, read_csv, read_json, write_json

TABLES = {
    "localization": ["dataset", "method", "metric", "threshold"],
    "differences": ["dataset", "method", "against", "metric"],
}
COLUMNS = ["dataset", "method", "metric", "value"]
KEPT = (  # tables over patients; none has a row for an image
    *(
        "localization",
        "differences",
        "significance",
        "recall",
        "detector_folds",
        "detector_folds_differences",
    ),
    *("severity", "severity_differences", "severity_zones", "text_on_real", "text_seeds"),
)


def gather(folders: Iterable[str | Path], table: str = "localization") -> pd.DataFrame:
    """One table of some runs: run, preset, seed, a column for each setting that differs, then the columns of the runs' table.

    Raises PnlocError for a folder that is no finished run, and where the runs' versions of a table have different columns.
    """
    if table not in TABLES:
        raise PnlocError(f"unknown table '{table}'; one of {', '.join(TABLES)}")
    runs = [Path(folder) for folder in folders]
    if not runs:
        raise PnlocError("no run to gather; name the folders of some, such as sweep/*/*")
    for run in runs:
        _finished(run, "config.json", table)
    settings = pd.DataFrame([_flat(read_json(run / "config.json")) for run in runs]).rename(
        columns={"name": "preset"}
    )
    varied = [
        c for c in settings if c not in ("preset", "seed") and settings[c].map(str).nunique() > 1
    ]
    parts = []
    for run, row in zip(runs, settings.to_dict("records"), strict=True):
        found = read_csv(run / "tables" / f"{table}.csv", COLUMNS).drop(
            columns="seed", errors="ignore"
        )
        given = {
            "run": str(run),
            "preset": row["preset"],
            "seed": row["seed"],
            **{c: row[c] for c in varied},
        }
        parts.append(
            pd.concat([pd.DataFrame([given] * len(found), index=found.index), found], axis=1)
        )
    return pd.concat(parts, ignore_index=True)


def _finished(run: Path, record: str, table: str) -> None:
    """Raise PnlocError where a folder lacks what every finished run has."""
    if not (run / record).exists() or not (run / "tables" / f"{table}.csv").exists():
        raise PnlocError(
            f"{run}: no finished run (it needs {record} and tables/{table}.csv); python -m pnloc train makes one"
        )


def _flat(value: dict, prefix: str = "") -> dict:
    found = {}
    for key, part in value.items():
        found |= (
            _flat(part, f"{prefix}{key}.") if isinstance(part, dict) else {f"{prefix}{key}": part}
        )
    return found


def summary(gathered: pd.DataFrame, metric: str = "miou") -> pd.DataFrame:
    """Of one metric, over the seeds: preset, what it is of (dataset, method, ...), runs, mean, sd (NaN for one run), lowest, highest."""
    rows = gathered[gathered["metric"] == metric]
    if rows.empty:
        raise PnlocError(
            f"no row with the metric '{metric}'; there are {', '.join(gathered['metric'].unique())}"
        )
    # Of a metric with thresholds each is a row of its own.
    keys = ["preset", *(c for c in ("dataset", "method", "against") if c in rows)]
    keys += ["threshold"] if "threshold" in rows and rows["threshold"].notna().any() else []
    grouped = rows.groupby(keys, sort=False)["value"]
    made = grouped.agg(runs="count", mean="mean", sd="std", lowest="min", highest="max")
    return made.reset_index()


def keep(run: str | Path, out: str | Path) -> Path:
    """Copy the tables of a finished run that are over patients into `out`, with `made.json`: preset, seed, commits, versions, date.

    No table of single images is among them. Raises PnlocError for a folder that is no finished run.
    """
    run, out = Path(run), Path(out)
    _finished(run, "run.json", KEPT[0])
    facts = read_json(run / "run.json")
    environments = facts["environments"].values()
    for path in (run / "tables" / f"{name}.csv" for name in KEPT):
        if path.exists():
            copy(path, out / path.name)
    made = {
        "preset": facts["preset"],
        "seed": facts["seed"],
        "date": datetime.now(UTC).date().isoformat(),
        "commits": sorted({e["commit"] for e in environments}),
        "packages": list(environments)[-1]["packages"],
    }
    write_json(out / "made.json", made)
    return out
