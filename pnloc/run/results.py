"""The tables of results, and the checkpoint: all that a run leaves under `tables/` and `checkpoint/`.

Tables of localization are made from the saved predictions alone (pnloc.run.predictions).
"""

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.boxes import iou
from pnloc.errors import PnlocError
from pnloc.evaluation import bootstrap
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.bootstrap import holm
from pnloc.files import read_csv, write_table
from pnloc.localizer import Choice, Localizer, image_attention
from pnloc.run import members, seeds
from pnloc.run import predictions as predict
from pnloc.run.cache import lay_out
from pnloc.run.comparators import boxed_rows, kinds
from pnloc.run.run import Run
from pnloc.run.sets import NAMES
from pnloc.run.severity import ensemble as looks
from pnloc.run.severity import readouts
from pnloc.run.severity import tables as severity_tables


def localization(run: Run) -> pd.DataFrame:
    """`tables/localization.csv`: dataset, method, metric, threshold, value, low, high, n, seed (pnloc.evaluation.localization.localization, heat_table)."""
    return _tables_stage(run, "localization")


def differences(run: Run) -> pd.DataFrame:
    """`tables/differences.csv`: dataset, method, against, metric, value, low, high, n; paired over patients.

    Beside it `tables/significance.csv`, with p values in the place of intervals.
    """
    return _tables_stage(run, "differences")


def significance(run: Run) -> pd.DataFrame:
    """`tables/significance.csv`: dataset, method, against, metric, value, p, p_holm, n.

    p is that of the bootstrap; p_holm is corrected by Holm's procedure over all comparisons of a data set in one metric.
    """
    return _tables_stage(run, "significance")


def _tables_stage(run: Run, name: str) -> pd.DataFrame:
    """One of the tables that are made from the saved predictions alone, made once for the same predictions."""
    predict.predict(run)

    def make(folder: Path, _: str) -> None:
        made = _localization(run)
        write_table(folder / "localization.csv", made)
        for table, found in zip(("differences", "significance"), _differences(run), strict=True):
            write_table(folder / f"{table}.csv", found)

    folder, _ = run.cache.stage(
        "compare", predict.stage(run)[1], run.preset.resamples, run.seed, make=make
    )
    lay_out(folder, run.root)
    return read_csv(folder / f"{name}.csv", float_precision="round_trip")


def _localization(run: Run) -> pd.DataFrame:
    parts, options = [], {"resamples": run.preset.resamples, "seed": run.seed}
    for name in (run.title(role) for role in run.preset.roles.localization):
        (truth, patients), without = predict.truth_table(run, name), predict.negatives(run, name)
        if truth.empty:
            continue
        maps = read_csv(run.root / "predictions" / f"{name}--maps.csv", dtype={"image": str})
        for method, predictions in predict.saved_predictions(run, name).items():
            table = metrics.localization(
                predictions, truth, patients | without, negatives=without, **options
            )
            own = maps[maps["method"] == method]
            if len(own):
                table = pd.concat(
                    [table, metrics.heat_table(own, patients, **options)], ignore_index=True
                )
            parts.append(table.assign(dataset=name, method=method, seed=run.seed))
    if not parts:
        raise PnlocError(
            "no test image of any set has a box of a pneumonia: localization cannot be measured"
        )
    columns = ["dataset", "method", "metric", "threshold", "value", "low", "high", "n", "seed"]
    return pd.concat(parts, ignore_index=True)[columns]


def _differences(run: Run, method: str = "text-attention") -> tuple[pd.DataFrame, pd.DataFrame]:
    parts = []
    for name in (run.title(role) for role in run.preset.roles.localization):
        truth, patients = predict.truth_table(run, name)
        saved = predict.saved_predictions(run, name)
        pairs = [
            (method, other) for other in saved if other != method and not other.endswith("-raw")
        ]
        pairs += [("report-given", "detector")] if "report-given" in saved else []
        for first, second in pairs if len(truth) else []:
            table = metrics.differences(
                saved[first],
                saved[second],
                truth,
                patients,
                resamples=run.preset.resamples,
                seed=run.seed,
            )
            parts.append(table.assign(dataset=name, method=first, against=second))
    table = pd.concat(parts, ignore_index=True)
    table["p_holm"] = table.groupby(["dataset", "metric"])["p"].transform(holm)
    shared = ["dataset", "method", "against", "metric", "value"]
    return table[[*shared, "low", "high", "n"]], table[[*shared, "p", "p_holm", "n"]]


def recall(run: Run) -> pd.DataFrame:
    """`tables/recall.csv`: share of true test boxes that one of the first R regions overlaps by more than an IoU."""
    rows = []
    for name in (run.title(role) for role in run.preset.roles.localization):
        truth, regions = run.sets.true_boxes(name, kinds(name)), run.regions(name)
        chosen = boxed_rows(run, name, "test")
        for count, threshold in product((1, 2, 5, 10, run.preset.regions.count), (0.3, 0.5)):
            hits = np.concatenate(
                [iou(truth[i], regions.boxes[i, :count].numpy()).max(1) > threshold for i in chosen]
                or [np.zeros(0)]
            )
            rows.append((name, count, threshold, hits.mean() if len(hits) else np.nan, len(hits)))
    table = pd.DataFrame(rows, columns=["dataset", "regions", "threshold", "recall", "n"])
    write_table(run.root / "tables" / "recall.csv", table)
    return table


def attributes(run: Run) -> pd.DataFrame:
    """`tables/attributes.csv`: attribute, auc, low, high, positives, n; from the image alone, on the pairs' test split.

    The truth is what the test report asserts. Intervals are bootstrapped over patients; attributes with fewer than
    five reports on either side are listed without an AUC.
    """
    rows = run.sets.rows(run.sets.pairs, "test")
    _, labels, weights = (a[rows] for a in run.sets.supervision(run.sets.pairs))
    probabilities = image_attention(run.localizer(True)[0], run.regions(run.sets.pairs).rows(rows))[
        1
    ]
    patients = run.sets.records(run.sets.pairs).images["patient"].to_numpy()[rows]
    found = []
    for column, name in enumerate(NAMES):
        known = weights[:, column] > 0
        truth, scores, who = labels[known, column], probabilities[known, column], patients[known]
        row = {
            "attribute": name,
            "auc": np.nan,
            "low": np.nan,
            "high": np.nan,
            "positives": int(truth.sum()),
            "n": len(truth),
        }
        if min(truth.sum(), len(truth) - truth.sum()) >= 5:
            drawn = bootstrap.of_images(who, run.preset.resamples, run.seed)
            row["auc"] = metrics.auc(truth, scores, np.ones((1, len(truth))))[0]
            row["low"], row["high"] = bootstrap.interval(metrics.auc(truth, scores, drawn))
        found.append(row)
    table = pd.DataFrame(found)
    write_table(run.root / "tables" / "attributes.csv", table)
    return table


def severity_choices(run: Run) -> dict[str, Choice]:
    """The choices that the read-outs of severity need, made on validation images."""
    return {method: predict.choose(run, method)[0] for method in readouts.CHOICES}


def severity_readouts(run: Run, name: str) -> pd.DataFrame:
    """One row per scored image of a set: image, patient, its scores, and the read-outs, all from the image alone."""
    return readouts.scored(run, name, severity_choices(run))


def severity_sets(run: Run) -> list[str]:
    """The COVID-19 sets of this run: the preset's own, and the real collection where its folder was given."""
    return [name for name in run.sets.names if name.removeprefix("demo-") == "covid19"]


def severity_table(run: Run) -> pd.DataFrame:
    """`tables/severity.csv` (dataset, readout, score, fit, statistic, value, low, high, n), which it returns.

    Beside it: predictions of the read-outs, and the tables severity_choice, _differences, _zones, _confounders, _inputs
    and _lungs. All are made once for the same models.
    """

    def make(folder: Path, _: str) -> None:
        _severity(run)
        for path in (
            *run.root.glob("tables/severity*.csv"),
            *run.root.glob("predictions/*--severity.csv"),
        ):
            shutil.copy(path, folder)

    numbers = range(1, run.preset.severity.detectors)
    upstream = [looks.lungs_stage(run)[1], *(members.member_stage(run, n)[1] for n in numbers)]
    upstream += [
        run.regions_stage(name)[1]
        for name in (run.title(run.preset.roles.detector), *severity_sets(run))
    ]
    upstream += [
        run.localizer_stage(True)[1],
        run.localizer_stage(False)[1],
        run.classifier_stage[1],
    ]
    inputs = (upstream, run.preset.severity, run.preset.resamples, run.seed)
    folder, _ = run.cache.stage("severity", *inputs, make=make)
    lay_out(folder, run.root)
    return read_csv(folder / "severity.csv", float_precision="round_trip")


def _severity(run: Run) -> pd.DataFrame:
    """The tables of severity, made and written."""
    choices = severity_choices(run)
    tables = {name: readouts.scored(run, name, choices) for name in severity_sets(run)}
    for name, table in tables.items():
        write_table(run.root / "predictions" / f"{name}--severity.csv", table)
    compared = readouts.comparison(run, choices)
    write_table(run.root / "tables" / "severity_choice.csv", compared)
    chosen = compared.loc[compared["chosen"], "readout"].item()
    severity_tables.differences(run, tables, chosen)
    severity_tables.zones(run, tables)
    severity_tables.text_on_zones(run, tables)
    severity_tables.confounders(run, tables, chosen)
    severity_tables.inputs(run, tables, choices)
    severity_tables.lung_finder(run, tables)
    return severity_tables.associations(run, tables)


def text_on_real(run: Run) -> pd.DataFrame:
    """`tables/text_on_real.csv`: dataset, measure, score, text, labels, value, low, high, n; empty where the pairs are generated.

    The localizer trained with the reports of the pairs and the same one trained with image labels only, and their difference, paired over
    patients: the boxes that it keeps on test images ('union IoU', also averaged over seeds: pnloc.run.seeds), its attention on the zones that radiologists scored, and its read-outs of
    severity. No patient of a measured image is in either training.
    """
    columns = ["dataset", "measure", "score", "text", "labels", "value", "low", "high", "n"]
    parts = []
    if not run.preset.generated:
        arms, gaps = ("text-attention", "image-label-attention"), differences(run)
        table, severity = localization(run), severity_table(run)
        boxes = gaps[
            (gaps["method"] == arms[0]) & (gaps["against"] == arms[1]) & (gaps["metric"] == "miou")
        ]
        means = table[table["metric"] == "miou"].set_index(["dataset", "method"])["value"]
        for column, arm in zip(("text", "labels"), arms, strict=True):
            boxes = boxes.assign(**{column: [means[d, arm] for d in boxes["dataset"]]})
        parts.append(boxes.assign(measure="union IoU", score="boxes"))
        several = seeds.table(run)
        whole = several[several["seed"] == seeds.MEAN]
        parts.append(whole.assign(measure=f"union IoU, {run.preset.seeds} seeds", score="boxes"))
        zoned = read_csv(run.root / "tables" / "severity_text.csv")
        parts.append(
            zoned.assign(
                measure="zones, " + zoned["statistic"], score="Brixia, " + zoned["against"]
            )
        )
        read = read_csv(run.root / "tables" / "severity_differences.csv")
        one = severity[severity["fit"] == "zero-shot"].set_index(
            ["dataset", "readout", "score", "statistic"]
        )["value"]
        for first, second in severity_tables.TEXT:
            rows = read[(read["readout"] == first) & (read["against"] == second)]
            for column, readout in (("text", first), ("labels", second)):
                keys = zip(rows["dataset"], rows["score"], rows["statistic"], strict=True)
                rows = rows.assign(**{column: [one[d, readout, s, t] for d, s, t in keys]})
            parts.append(
                rows.assign(measure=rows["statistic"] + ", " + first.removesuffix(" (text)"))
            )
    found = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    write_table(run.root / "tables" / "text_on_real.csv", found)
    return found


def checkpoint(run: Run) -> Localizer:
    """Write `checkpoint/` (detector, model, words, config.json) and return the localizer that it holds."""
    model, _ = run.localizer(True)
    found = Localizer(
        run.detector, model, NAMES, predict.choose(run, "text-attention")[0], run.preset.regions
    )
    config = run.preset.as_dict()
    found.save(
        run.root / "checkpoint", preset=run.preset.name, seed=run.seed, model=config["model"]
    )
    run.sets.vectors.save(run.root / "checkpoint" / "words.safetensors")
    return found


def tables(run: Run) -> dict[str, pd.DataFrame]:
    """Every table of results, made and written."""
    made = {
        "localization": localization(run),
        "differences": differences(run),
        "severity": severity_table(run),
        "recall": recall(run),
        "attributes": attributes(run),
    }
    checkpoint(run)
    return made
