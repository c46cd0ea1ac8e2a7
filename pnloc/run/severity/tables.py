"""Tables of severity, from the read-outs per image (pnloc.run.severity.readouts) and the scores."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd

from pnloc.boxes import iou
from pnloc.data import covid19
from pnloc.evaluation import severity
from pnloc.evaluation.bootstrap import Patients
from pnloc.run import folds
from pnloc.run.run import Run
from pnloc.run.severity import lungs, readouts
from pnloc.run.severity.readouts import CONTROLS, ONE, ONES, READOUTS, TRIVIAL, ZONED

SCORES = ("geographic_extent", "opacity", "brixia")
LEAST, FEWER = 10, 300  # least images of an association; samples where there are many tables
AGAINST = "no image"
TEXT = (("pneumonia (text)", CONTROLS[1]), ("attended area", CONTROLS[0]))
TEXT += (tuple(ONES.values())[:2],)
# What several detectors add, and the attention.
LOST = (("detector: image", ONE), ("attended area", "detector: area"), tuple(ONES.values())[::2])
# The other tables, severity_*.csv.
BESIDE = ("choice", "differences", "zones", "confounders", "lungs")
READERS = {"senior": "brixia", "junior": "brixia_junior"}
PREFIXES = {"ours": "zone ", **{reader: f"{column}_" for reader, column in READERS.items()}}

Tables = dict[str, pd.DataFrame]  # read-outs of the scored images, by set


def known(table: pd.DataFrame) -> list[str]:
    """The scores with values for enough images of a table."""
    return [s for s in SCORES if s in table and table[s].notna().sum() >= LEAST]


def at(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows of a table whose columns have the wanted values."""
    return table[(table[[*wanted]] == pd.Series(wanted)).all(axis=1)]


def of_score(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """The rows of images with a score, by image."""
    return table[table[score].notna()].set_index("image")


def _scored(tables: Tables) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Set, score and scored images, for each score of each set."""
    for name, table in tables.items():
        yield from ((name, score, of_score(table, score)) for score in known(table))


def _patients(run: Run, rows: pd.DataFrame, most: float = np.inf) -> Patients:
    """Bootstrap samples of images by patient, no more than `most`."""
    return Patients(rows["patient"].astype(str), min(run.preset.resamples, most), run.seed)


def _table(parts: list[pd.DataFrame], columns: str) -> pd.DataFrame:
    """The parts as one table with these columns; empty without parts."""
    names = columns.split()
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)


# Scores of the whole image ------------------------------------------------------------------------


def associations(run: Run, tables: Tables) -> pd.DataFrame:
    """`severity.csv`: dataset, readout, score, fit, statistic, value, low, high, n."""
    parts = []
    for name, score, rows in _scored(tables):
        patients, truth = _patients(run, rows), rows[score]
        shown = [*READOUTS, *TRIVIAL, *(r for r in ONES.values() if r in rows)]
        measured = {
            **{r: severity.associations(rows[r], truth, patients) for r in shown},
            AGAINST: severity.no_data(truth, patients),
        }
        parts += [t.assign(dataset=name, readout=r, score=score) for r, t in measured.items()]
    return _table(parts, "dataset readout score fit statistic value low high n")


def differences(run: Run, tables: Tables, chosen: str) -> pd.DataFrame:
    """`severity_differences.csv`: dataset, readout, against, score, statistic, value, low, high, n.

    Paired over patients: the chosen read-out against every trivial one and against no image, what
    text adds, what several detectors and the attention add; and zones against trivial ones.
    """
    pairs, parts = [*((chosen, other) for other in (*TRIVIAL, AGAINST)), *TEXT, *LOST], []
    for (name, table), (first, second) in product(tables.items(), pairs):
        if first not in table:  # of arms that this preset does not train
            continue
        for _, score, rows in _scored({name: table}):
            other = rows[second] if second in rows else pd.Series(0.0, rows.index)
            gap = severity.differences(rows[first], other, rows[score], _patients(run, rows))
            parts.append(gap.assign(dataset=name, readout=first, against=second, score=score))
    for (name, rows), other in product(_scored_zones(tables, "senior"), ZONED):
        gap = _zone_differences(run, rows, PREFIXES["ours"], f"{other} ", PREFIXES["senior"])
        labels = {"dataset": name, "readout": "zones", "against": other}
        parts.append(gap.assign(**labels, score="brixia zones"))
    return _table(parts, "dataset readout against score statistic value low high n")


def facts(run: Run, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Possible confounders of each image: view, source, year, image size in megapixels.

    Sources are hosts; those of fewer than five images are 'other'.
    """
    table, sources = table.set_index("image"), covid19.sources(run.sets.place(name))
    sources = sources.set_index("image").reindex(table.index)
    hosts = sources["source"].map(sources["source"].value_counts())
    names = {
        "view": table["view"].mask(table["view"] == ""),
        "source": sources["source"].where(hosts >= 5, "other"),
        "year": sources["year"].map("{:.0f}".format, na_action="ignore"),
    }
    sizes = (table["width"] * table["height"] / 1e6).astype(float)
    return pd.DataFrame(names).astype(object).fillna("unknown").assign(**{"image size": sizes})


def confounders(run: Run, tables: Tables, chosen: str) -> pd.DataFrame:
    """`severity_confounders.csv`: dataset, readout, score, confounder, level, statistic, value ...

    Level 'taken out': the correlation that is left once the confounder is taken out of both. Other
    levels: the correlation among the images of that view, source or year, where there are enough;
    image size is cut at its median.
    """
    parts = []
    for name, score, rows in _scored(tables):
        for confounder, level in facts(run, name, tables[name]).items():
            level, truth = level.reindex(rows.index), rows[score]
            patients = _patients(run, rows, FEWER)
            levels = {"taken out": severity.partials(rows[chosen], truth, patients, level)}
            if pd.api.types.is_numeric_dtype(level):
                halves = np.where(level > level.median(), "larger half", "smaller half")
                level = pd.Series(halves, level.index)
            for value, group in rows.groupby(level) if level.nunique() > 1 else ():
                if len(group) >= LEAST and group["patient"].nunique() > 1:
                    patients = _patients(run, group, FEWER)
                    levels[value] = severity.zero_shot(group[chosen], group[score], patients)
            labels = {"dataset": name, "readout": chosen, "score": score, "confounder": confounder}
            parts += [t.assign(**labels, level=str(value)) for value, t in levels.items()]
    return _table(parts, "dataset readout score confounder level statistic value low high n")


# Zones and lungs ----------------------------------------------------------------------------------


def _scored_zones(tables: Tables, *readers: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Set and images of which the readers scored all zones, for each set with enough of them."""
    columns = [f"{READERS[reader]}_{zone}" for reader in readers for zone in lungs.ZONES]
    for name, table in tables.items():
        rows = table.dropna(subset=columns) if set(columns) <= set(table) else table[:0]
        if len(rows) >= LEAST:
            yield name, rows


def zone_values(table: pd.DataFrame, prefix: str) -> np.ndarray:
    """Zone columns [N, 6]: 'zone ' for ours, 'brixia_' or 'brixia_junior_' for a reader's."""
    return table[[f"{prefix}{zone}" for zone in lungs.ZONES]].to_numpy(float)


def _zone_differences(run: Run, rows: pd.DataFrame, *prefixes: str) -> pd.DataFrame:
    """Two ways to score zones against a reader; prefixes of the columns of all three."""
    scores = [zone_values(rows, prefix) for prefix in prefixes]
    return severity.zone_differences(*scores, _patients(run, rows))


def zones(run: Run, tables: Tables) -> pd.DataFrame:
    """`severity_zones.csv`: dataset, what, against, zone, statistic, value, low, high, n.

    Ours against each Brixia reader, the junior one and the trivial ways against the senior; per
    zone, pooled, within an image, and of the global scores.
    """
    parts, prefixes = [], PREFIXES | {way: f"{way} " for way in ZONED}
    pairs = [("ours", "senior"), ("ours", "junior")]
    pairs += [(way, "senior") for way in ("junior", *ZONED)]
    for name, rows in _scored_zones(tables, *READERS):
        patients = _patients(run, rows)
        values = {what: zone_values(rows, prefix) for what, prefix in prefixes.items()}
        for what, against in pairs:
            table = severity.zone_associations(values[what], values[against], patients)
            letters = table["zone"].replace(dict(enumerate(lungs.ZONES)))
            parts.append(table.assign(zone=letters, dataset=name, what=what, against=against))
        whole = severity.zero_shot(rows[READERS["junior"]], rows[READERS["senior"]], patients)
        whole = whole.assign(zone="global", statistic="global " + whole["statistic"])
        parts.append(whole.assign(dataset=name, what="junior", against="senior"))
    return _table(parts, "dataset what against zone statistic value low high n")


def lung_finder(run: Run, tables: Tables) -> pd.DataFrame:
    """`severity_lungs.csv`: dataset, finder, side, iou (median), low, high (quartiles), n.

    Over the images of a set that have lung boxes drawn by people. 'usual place' is one pair of
    boxes for all images, the median of the network's.
    """
    rows = []
    for name in tables:
        drawn = covid19.lung_boxes(run.sets.place(name))
        drawn = drawn.pivot(index="image", columns="side").dropna()
        inside = run.sets.records(name).images["image"].isin(drawn.index)
        images = run.sets.records(name).images[inside]
        boxes = lungs.find(run.lung_finder, run.sets.pixels(name)[inside]).boxes
        pairs = zip(run.sets.letterboxes(images), boxes, strict=True)
        boxes = [b.inverse(pair * b.side) / ([b.width, b.height] * 2) for b, pair in pairs]
        for column, side in enumerate(lungs.SIDES if len(images) else ()):
            true = drawn.xs(side, axis=1, level="side").loc[images["image"]]
            ours = np.stack(boxes)[:, column]
            usual = np.tile(np.median(ours, axis=0), (len(true), 1))
            for finder, corners in (("network", ours), ("usual place", usual)):
                overlaps = np.diag(iou(corners, true))
                quartiles = np.quantile(overlaps, [0.5, 0.25, 0.75])
                rows.append((name, finder, side, *quartiles, len(overlaps)))
    return pd.DataFrame(rows, columns=["dataset", "finder", "side", "iou", "low", "high", "n"])


# All ----------------------------------------------------------------------------------------------


def severity_sets(run: Run) -> list[str]:
    """The COVID-19 sets of a run: the preset's, and the real one where its folder is there."""
    return [name for name in run.sets.names if name.removeprefix("demo-") == "covid19"]


def severity_table(run: Run) -> pd.DataFrame:
    """`tables/severity.csv` (see `associations`), which is returned, and the other tables.

    These are those of BESIDE and the read-outs per image, `predictions/<set>--severity.csv`.
    """

    def make() -> Tables:
        validation = readouts.validation(run)
        tables = {name: readouts.cases(run, name, validation) for name in severity_sets(run)}
        choice = readouts.comparison(validation)
        chosen = choice.loc[choice["chosen"], "readout"].item()
        return {
            **{f"{name}--severity": table for name, table in tables.items()},
            "severity_choice": choice,
            "severity_differences": differences(run, tables, chosen),
            "severity_zones": zones(run, tables),
            "severity_confounders": confounders(run, tables, chosen),
            "severity_lungs": lung_finder(run, tables),
            "severity": associations(run, tables),
        }

    upstream = [readouts.models(run, name) for name in (folds.home(run), *severity_sets(run))]
    settings = (run.preset.severity, run.preset.resamples, run.seed)
    return run.cache.tables("severity", upstream, *settings, make=make)["severity"]
