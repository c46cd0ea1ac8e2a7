"""Tables of severity, each made from the read-outs per image (pnloc.run.severity.readouts) and the experts' scores alone."""

from itertools import product

import numpy as np
import pandas as pd

from pnloc.boxes import iou
from pnloc.data import covid19
from pnloc.evaluation import severity
from pnloc.files import read_csv
from pnloc.localizer import Choice
from pnloc.run import members
from pnloc.run.predictions import choose
from pnloc.run.run import Run
from pnloc.run.severity import ensemble as looks
from pnloc.run.severity import lungs, readouts
from pnloc.run.severity.inputs import PADDED, views_by_input
from pnloc.run.severity.readouts import READOUTS, TRIVIAL

SCORES = ("geographic_extent", "opacity", "brixia")
LEAST = 10  # scored images that an association needs
AGAINST = "no image"
TOGETHER = (
    "all read-outs (ridge)"  # fitted on other patients' scores, so there is no zero-shot line of it
)
ALL = (
    *(r for r in readouts.OURS if r not in readouts.COMBINED),
    *(f"zone {zone}" for zone in lungs.ZONES),
)
TEXT = (
    ("pneumonia (text)", "pneumonia (labels only)"),
    ("attended area", "attended area (labels only)"),
)
LOST = (
    ("detector: image", "detector: image, one"),
    ("attended area", "detector: area"),
)  # what several detectors add, and the attention
BESIDE = (
    "choice",
    "differences",
    "zones",
    "confounders",
    "inputs",
    "lungs",
    "text",
)  # tables severity_*.csv
BOXED = "boxed share of the lungs"
IMAGE_READOUTS = ("detector: image", "detector: mask in the lungs")
READERS = {"senior": "brixia", "junior": "brixia_junior"}


def known(table: pd.DataFrame) -> list[str]:
    """The scores that enough images of a table have."""
    return [s for s in SCORES if s in table and table[s].notna().sum() >= LEAST]


def at(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows of a table whose columns have the wanted values."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def of_score(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """The images that have a score, by name."""
    return table[table[score].notna()].set_index("image")


def associations(run: Run, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`severity.csv`: dataset, readout, score, fit, statistic, value, low, high, n."""
    parts, options = [], {"resamples": run.preset.resamples, "seed": run.seed}
    for name, table in tables.items():
        for score in known(table):
            rows = of_score(table, score)
            for readout in (*READOUTS, *TRIVIAL):
                found = severity.associations(
                    rows[readout], rows[score], rows["patient"], **options
                )
                parts.append(found.assign(dataset=name, readout=readout, score=score))
            together = severity.ridge(rows[[*ALL]], rows[score], rows["patient"], **options)
            parts.append(together.assign(dataset=name, readout=TOGETHER, score=score))
            none = severity.no_data(rows[score], rows["patient"], **options)
            parts.append(none.assign(dataset=name, readout=AGAINST, score=score))
    return _table(parts, "dataset readout score fit statistic value low high n")


def differences(run: Run, tables: dict[str, pd.DataFrame], chosen: str) -> pd.DataFrame:
    """`severity_differences.csv`: dataset, readout, against, score, statistic, value, low, high, n; paired over patients.

    The read-out that speaks for the method against every trivial one and against no image; what text adds; what several detectors and the
    attention add.
    """
    parts = []
    pairs = [*((chosen, other) for other in (*TRIVIAL, AGAINST)), *TEXT, *LOST]
    for (name, table), (first, second) in product(tables.items(), pairs):
        for score in known(table):
            rows = of_score(table, score)
            other = rows[second] if second in rows else pd.Series(0.0, rows.index)
            found = severity.differences(
                rows[first],
                other,
                rows[score],
                rows["patient"],
                resamples=run.preset.resamples,
                seed=run.seed,
            )
            parts.append(found.assign(dataset=name, readout=first, against=second, score=score))
    parts += [p for name, table in tables.items() for p in _zones_above_trivial(run, name, table)]
    return _table(parts, "dataset readout against score statistic value low high n")


def _scored_zones(table: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """The images of which a reader (a prefix of READERS) scored all zones; none where there are too few."""
    columns = [f"{prefix}_{zone}" for zone in lungs.ZONES]
    rows = table[table[columns].notna().all(axis=1)] if set(columns) <= set(table) else table[:0]
    return rows if len(rows) >= LEAST else rows[:0]


def _zones_above_trivial(run: Run, name: str, table: pd.DataFrame) -> list[pd.DataFrame]:
    """'pooled' and 'within' of our zones minus those of each trivial way to score zones, against the senior reader."""
    rows, parts = _scored_zones(table, READERS["senior"]), []
    for other in readouts.ZONED if len(rows) else ():
        found = severity.zone_differences(
            *(zone_values(rows, f"{prefix} ") for prefix in ("zone", other)),
            zone_values(rows, f"{READERS['senior']}_"),
            rows["patient"].to_numpy(),
            run.preset.resamples,
            run.seed,
        )
        parts.append(
            found.assign(dataset=name, readout="zones", against=other, score="brixia zones")
        )
    return parts


def zone_values(table: pd.DataFrame, prefix: str) -> np.ndarray:
    """Zone columns [N, 6] of a table: 'zone ' for ours, 'brixia_' or 'brixia_junior_' for a reader's."""
    return table[[f"{prefix}{zone}" for zone in lungs.ZONES]].to_numpy(float)


def zones(run: Run, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`severity_zones.csv`: dataset, what, against, zone, statistic, value, low, high, n.

    Ours against each Brixia reader, the junior and the trivial ways to score zones against the senior; per zone, pooled, within an image, and of the global scores.
    """
    parts, options = [], {"resamples": run.preset.resamples, "seed": run.seed}
    for name, table in tables.items():
        columns = [f"{p}_{z}" for p in READERS.values() for z in lungs.ZONES]
        if not set(columns) <= set(table):
            continue
        rows = table[table[columns].notna().all(axis=1)]
        if len(rows) < LEAST:
            continue
        who = rows["patient"].to_numpy()
        values = {
            "ours": zone_values(rows, "zone "),
            **{r: zone_values(rows, f"{p}_") for r, p in READERS.items()},
        }
        values |= {z: zone_values(rows, f"{z} ") for z in readouts.ZONED}
        trivial = ((z, "senior") for z in readouts.ZONED)
        for what, against in (
            ("ours", "senior"),
            ("ours", "junior"),
            ("junior", "senior"),
            *trivial,
        ):
            found = severity.zone_associations(values[what], values[against], who, **options)
            named = found["zone"].map(lambda z: z if z == "all" else lungs.ZONES[int(z)])
            parts.append(found.assign(zone=named, dataset=name, what=what, against=against))
        both = rows.set_index("image")
        whole = severity.associations(
            both[READERS["junior"]], both[READERS["senior"]], both["patient"], **options
        )
        whole = whole[(whole["fit"] == "zero-shot")].drop(columns="fit")
        whole = whole.assign(zone="global", statistic="global " + whole["statistic"])
        parts.append(whole.assign(dataset=name, what="junior", against="senior"))
    return _table(parts, "dataset what against zone statistic value low high n")


def text_on_zones(run: Run, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`severity_text.csv`: dataset, against (a reader), statistic (pooled, within), text, labels, value, low, high, n.

    How the attention follows the Brixia zones, of the localizer trained with the reports and of the one trained with image labels only.
    """
    parts = []
    for name, table in tables.items():
        for reader, prefix in READERS.items():
            rows = _scored_zones(table, prefix)
            if len(rows):
                arms = (zone_values(rows, f"attention ({arm}) ") for arm in ("text", "labels only"))
                found = severity.zone_differences(
                    *arms,
                    zone_values(rows, f"{prefix}_"),
                    rows["patient"].to_numpy(),
                    run.preset.resamples,
                    run.seed,
                )
                found = found.rename(columns={"first": "text", "second": "labels"})
                parts.append(found.assign(dataset=name, against=reader))
    return _table(parts, "dataset against statistic text labels value low high n")


def facts(run: Run, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """What may confound, per image: view, source (hosts of fewer than five images as 'other'), year, image size in megapixels."""
    told = covid19.sources(readouts.folder(run, name)).set_index("image").reindex(table["image"])
    often = told["source"].value_counts()
    source = told["source"].where(told["source"].map(often) >= 5, "other").fillna("unknown")
    return pd.DataFrame(
        {
            "view": table["view"].fillna("").replace("", "unknown").to_numpy(),
            "source": source.to_numpy(),
            "year": told["year"]
            .map(lambda y: "unknown" if np.isnan(y) else str(int(y)))
            .to_numpy(),
            "image size": (table["width"] * table["height"] / 1e6).to_numpy(float),
        },
        index=table["image"].to_numpy(),
    )


def confounders(run: Run, tables: dict[str, pd.DataFrame], chosen: str) -> pd.DataFrame:
    """`severity_confounders.csv`: dataset, readout, score, confounder, level, statistic, value, low, high, n.

    Level 'taken out': the correlation that is left once the confounder is taken out of both. Other levels: the correlation among the images of that
    view, source or year, where there are enough; image size is cut at its median.
    """
    parts, fewer = [], min(run.preset.resamples, 300)
    for name, table in tables.items():
        told = facts(run, name, table)
        for score in known(table):
            rows = of_score(table, score)
            for confounder in told:
                level = told[confounder].reindex(rows.index)
                options = {"resamples": fewer, "seed": run.seed}
                left = severity.partial(
                    rows[chosen], rows[score], rows["patient"], level, **options
                )
                parts.append(
                    left.assign(dataset=name, score=score, confounder=confounder, level="taken out")
                )
                if pd.api.types.is_numeric_dtype(level):
                    level = pd.Series(
                        np.where(level > level.median(), "larger half", "smaller half"), level.index
                    )
                for value, group in rows.groupby(level):
                    if (
                        len(group) >= LEAST
                        and group["patient"].nunique() > 1
                        and level.nunique() > 1
                    ):
                        found = severity.associations(
                            group[chosen], group[score], group["patient"], **options
                        )
                        found = found[found["fit"] == "zero-shot"].drop(columns="fit")
                        parts.append(
                            found.assign(
                                dataset=name, score=score, confounder=confounder, level=str(value)
                            )
                        )
    parts = [p.assign(readout=chosen) for p in parts]
    columns = "dataset readout score confounder level statistic value low high n"
    return _table(parts, columns)


def inputs(run: Run, tables: dict[str, pd.DataFrame], choices: dict[str, Choice]) -> pd.DataFrame:
    """`severity_inputs.csv`: dataset, input, readout, score, statistic, value, low, high, n.

    Zero-shot, one detector; 'same' is the rank correlation with the read-out of the padded square. The
    validation images of the detector's set have the boxed share of their lungs as a score.
    """
    parts, options = [], {"resamples": min(run.preset.resamples, 300), "seed": run.seed}
    for name, score, rows in (*_validation(run, choices), *_first_scores(tables)):
        place = pd.Series(
            np.arange(len(run.sets.records(name).images)),
            index=run.sets.records(name).images["image"],
        )
        views = views_by_input(run, name, place[rows.index].to_numpy(), choices["detector"])
        ways = {way: pd.DataFrame(readouts.of_look(*v), rows.index) for way, v in views.items()}
        for (way, found), readout in product(ways.items(), IMAGE_READOUTS):
            usual, patients = ways[PADDED][readout], rows["patient"]
            measured = severity.associations(found[readout], rows[score], patients, **options)
            same = severity.associations(found[readout], usual, patients, **options)
            same = at(same, statistic="spearman").assign(statistic="same")
            measured = at(pd.concat([measured, same]), fit="zero-shot").drop(columns="fit")
            parts.append(measured.assign(dataset=name, input=way, readout=readout, score=score))
    return _table(parts, "dataset input readout score statistic value low high n")


def _first_scores(tables: dict[str, pd.DataFrame]) -> list[tuple[str, str, pd.DataFrame]]:
    """Set, score and scored images, of the first score that each set has."""
    return [
        (name, s, of_score(table, s)) for name, table in tables.items() for s in known(table)[:1]
    ]


def _validation(run: Run, choices: dict[str, Choice]) -> list[tuple[str, str, pd.DataFrame]]:
    """The same of the images by which a read-out is chosen, whose score is the share of the lungs that boxes cover."""
    name = run.title(run.preset.roles.detector)
    table, truth = readouts.validated(run, choices)
    patients = run.sets.records(name).images.set_index("image")["patient"]
    rows = table.assign(**{BOXED: truth, "patient": patients.reindex(table.index)})
    return [(name, BOXED, rows)] if rows["patient"].nunique() > 1 else []


def lung_finder(run: Run, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`severity_lungs.csv`: dataset, finder, side, iou (median), low, high (quartiles), n; where a set has lung boxes that people drew.

    All images of the set that have such boxes count; 'usual place' is one pair of boxes for all, the median of the finder's over these images.
    """
    parts = []
    for name in tables:
        truth = covid19.lung_boxes(readouts.folder(run, name)).pivot(index="image", columns="side")
        images = run.sets.records(name).images
        rows = np.flatnonzero(images["image"].isin(truth.index[truth.notna().all(axis=1)]))
        if len(rows) == 0:
            continue
        chosen = images.iloc[rows]
        found = looks.find_lungs(run, run.sets.pixels(name)[rows]).boxes
        letterboxes = run.sets.letterboxes(chosen)
        relative = [
            b.inverse(f * b.side) / ([b.width, b.height] * 2)
            for b, f in zip(letterboxes, found, strict=True)
        ]
        relative = np.stack(relative)
        for column, side in enumerate(lungs.SIDES):
            true = np.stack(
                [
                    truth[(e, side)].reindex(chosen["image"]).to_numpy(float)
                    for e in ("x1", "y1", "x2", "y2")
                ],
                axis=1,
            )
            usual = np.median(relative[:, column], axis=0)
            for finder, boxes in (
                ("network", relative[:, column]),
                ("usual place", np.tile(usual, (len(true), 1))),
            ):
                overlaps = np.array(
                    [iou(b[None], t[None])[0, 0] for b, t in zip(boxes, true, strict=True)]
                )
                low, middle, high = np.quantile(overlaps, [0.25, 0.5, 0.75])
                parts.append(
                    pd.DataFrame(
                        [(name, finder, side, middle, low, high, len(overlaps))],
                        columns=["dataset", "finder", "side", "iou", "low", "high", "n"],
                    )
                )
    return _table(parts, "dataset finder side iou low high n")


def _table(parts: list[pd.DataFrame], columns: str) -> pd.DataFrame:
    """The parts as one table with these columns; empty without parts."""
    names = columns.split()
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)


def severity_sets(run: Run) -> list[str]:
    """The COVID-19 sets of a run: the preset's, and the real collection where its folder is there."""
    return [name for name in run.sets.names if name.removeprefix("demo-") == "covid19"]


def severity_table(run: Run) -> pd.DataFrame:
    """`tables/severity.csv` (see `associations`), which it returns; beside it those of BESIDE, and
    the read-outs per image, `predictions/<set>--severity.csv`. Made once for the same models."""

    def make() -> dict[str, pd.DataFrame]:
        choices = {method: choose(run, method)[0] for method in readouts.CHOICES}
        tables = {name: readouts.scored(run, name, choices) for name in severity_sets(run)}
        choice = readouts.comparison(run, choices)
        chosen = choice.loc[choice["chosen"], "readout"].item()
        return {
            **{f"{name}--severity": table for name, table in tables.items()},
            "severity_choice": choice,
            "severity_differences": differences(run, tables, chosen),
            "severity_zones": zones(run, tables),
            "severity_text": text_on_zones(run, tables),
            "severity_confounders": confounders(run, tables, chosen),
            "severity_inputs": inputs(run, tables, choices),
            "severity_lungs": lung_finder(run, tables),
            "severity": associations(run, tables),
        }

    detectors = range(1, run.preset.severity.detectors)
    names = (run.title(run.preset.roles.detector), *severity_sets(run))
    upstream = [
        looks.lungs_stage(run)[1],
        *(members.member_stage(run, number)[1] for number in detectors),
        *(run.regions_stage(name)[1] for name in names),
        *(run.localizer_stage(text)[1] for text in (True, False)),
        run.classifier_stage[1],
    ]
    settings = (run.preset.severity, run.preset.resamples, run.seed)
    folder = run.cache.tables("severity", upstream, *settings, make=make)
    return read_csv(folder / "severity.csv", float_precision="round_trip")
