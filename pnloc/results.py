"""Results: predictions of every method, the choices behind them, and the tables made from them.

Everything is written under the run's folder: `predictions/`, `tables/` and `checkpoint/`. Choices (how many boxes, from which
share of the best score on) are made on validation images; the tables are made from the saved predictions alone.
"""

import re
import shutil
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc import baselines, bootstrap, comparators, looks, members, metrics, readouts, severity_tables, trained
from pnloc.bootstrap import holm
from pnloc.boxes import iou, union_iou
from pnloc.cache import source_digest
from pnloc.comparators import Found, boxed_rows, kinds
from pnloc.config import BASELINES
from pnloc.errors import PnlocError
from pnloc.files import atomic, read_csv, write_table
from pnloc.heatmaps import HeatChoice
from pnloc.localize import Choice, Localizer, boxes_of, image_mass, region_scores, report_mass, report_scores
from pnloc.regions import Regions
from pnloc.stages import NAMES, Run
from pnloc.trained import MOST, SHARES

ATTENTION = ("detector", "image-label-attention", "text-attention", "report-given")
METHODS = (
    *comparators.BLIND,
    *comparators.CAMS,
    comparators.MASK,
    *ATTENTION,
    "best-proposal",
)  # of every run; trained.names(run) come with them
NEED_REPORTS = ("report-anatomy", "report-given")  # at test; only where the set has reports
_SEVERITY = (  # modules that the tables of severity depend on
    *("results", "readouts", "looks", "members", "severity", "severity_tables", "lungs", "views", "datasets"),
    *("localize", "regions", "boxes", "baselines", "metrics", "bootstrap", "published"),
)
BOX_TABLE = ["image", "x1", "y1", "x2", "y2", "score"]


def mass(run: Run, name: str, rows: np.ndarray, method: str) -> np.ndarray:
    """A method's mass over the regions [n, R] of some rows of a set."""
    regions = run.regions(name).rows(rows)
    if method == "detector":
        scores = regions.scores.numpy()
        return scores / np.maximum(scores.sum(1, keepdims=True), 1e-9)
    model, _ = run.localizer(method != "image-label-attention")
    if method == "report-given":
        return report_mass(model, regions, run.phrases(name)[rows])
    return image_mass(model, regions)[0]


def scores(run: Run, name: str, rows: np.ndarray, method: str, grouped: bool) -> np.ndarray:
    """What a method ranks the regions of some rows of a set by [n, R], with or without the grouping step."""
    regions = run.regions(name).rows(rows)
    if method == "report-given":
        return report_scores(run.localizer(True)[0], regions, run.phrases(name)[rows], grouped)
    return region_scores(regions, mass(run, name, rows, method), grouped)


def choose(run: Run, method: str, grouped: bool = True) -> tuple[Choice, float]:
    """The choice with the best mean union IoU on validation images, and that IoU (NaN where none has boxes)."""
    name = run.title(run.preset.roles.localization[0])
    rows = boxed_rows(run, name, "validate")
    if len(rows) == 0:
        return Choice(grouped=grouped), float("nan")
    truth = [run.true_boxes(name, kinds(name))[i] for i in rows]
    method = "text-attention" if method == "report-given" and name != run.pairs else method
    return best_choice(run.regions(name).rows(rows), scores(run, name, rows, method, grouped), truth, grouped)


def best_choice(regions: Regions, ranked: np.ndarray, truth: list[np.ndarray], grouped: bool) -> tuple[Choice, float]:
    """The choice with the best mean union IoU with true boxes, and that IoU, for regions of N images ranked by scores [N, R]."""
    tried = [Choice(share, most, grouped) for share, most in product(SHARES, MOST)]
    values = np.zeros((len(regions), len(tried)))
    widest = boxes_of(regions, ranked, Choice(0.0, max(MOST), grouped))
    for row, ((boxes, own), true) in enumerate(zip(widest, truth, strict=True)):
        unions = [
            union_iou(boxes[:n], true) for n in range(len(boxes) + 1)
        ]  # what a choice keeps are the first n of these
        kept = [min(c.most, (own >= c.share * own.max(initial=0.0)).sum()) for c in tried]
        values[row] = [unions[n] for n in kept]
    means = values.mean(0)
    return tried[int(np.argmax(means))], float(means.max())


def predict(run: Run) -> Path:
    """Write `predictions/<set>--<method>.csv` for every set and method, and `tables/choices.csv`; return the folder.

    The tables hold boxes in pixels of the original image, for every test image of the set. A report can be given only where the set has
    reports. Methods that end in `-raw` rank by the attention (or the detector's score) alone, without the grouping step. Beside them stand
    `<set>--truth.csv` (image, patient, x1, y1, x2, y2; an image that is known to have no pneumonia is a row without corners), so that
    `python -m pnloc evaluate` can make the tables again, and `<set>--maps.csv`, what each method's heat map is worth per image.
    """
    folder, _ = _predict_stage(run)
    for path in folder.glob("*--*.csv"):
        write_table(run.root / "predictions" / path.name, pd.read_csv(path, dtype={"image": str, "patient": str}))
    write_table(run.root / "tables" / "choices.csv", pd.read_csv(folder / "choices.csv"))
    return run.root / "predictions"


def _predict_stage(run: Run) -> tuple[Path, str]:
    def make(folder: Path, _: str) -> None:
        choices = {m: choose(run, m) for m in ATTENTION}
        choices |= {f"{m}-raw": choose(run, m, grouped=False) for m in ATTENTION}
        heats = {m: comparators.choose_heat(run, m) for m in (*comparators.CAMS, comparators.MASK, "heat-map")}
        fitted = {m: trained.choose(run, m) for m in trained.names(run)}
        table = [_choice_row(m, c, v) for m, (c, v) in (choices | heats | fitted).items()]
        write_table(folder / "choices.csv", pd.DataFrame(table).astype({"most": "Int64"}))
        for name in (run.title(role) for role in run.preset.roles.localization):
            rows = run.rows(name, "test")
            write_table(folder / f"{name}--truth.csv", truth_file(run, name))
            found, maps = _found(run, name, rows, choices, {m: c for m, (c, _) in (heats | fitted).items()})
            write_table(folder / f"{name}--maps.csv", maps)
            for method, boxes in found.items():
                write_table(folder / f"{name}--{method}.csv", boxes_table(run, name, rows, boxes))

    upstream = [run._regions_stage(run.title(r))[1] for r in run.preset.roles.localization]
    models = [run._localizer_stage(True)[1], run._localizer_stage(False)[1], run._classifier_stage[1]]
    models += [trained.stage(run, method)[1] for method in trained.names(run)]
    modules = source_digest(
        *("results", "stages", "boxes", "localize", "baselines", "heatmaps", "priors", "comparators", "metrics"),
        *("trained", "weak", "grounding", "supervised"),
    )
    return run.cache.stage("predict", upstream, models, modules, make=make)


def _choice_row(method: str, choice: "Choice | HeatChoice", value: float) -> dict:
    if isinstance(choice, Choice):
        return {"method": method, "share": choice.share, "most": choice.most, "validation_miou": value}
    plain = {"method": method, "share": choice.threshold, "most": choice.most, "validation_miou": value}
    return plain | {"rule": choice.rule, "layer": choice.layer}


def _found(run: Run, name: str, rows: np.ndarray, choices: dict, heats: dict) -> tuple[dict[str, Found], pd.DataFrame]:
    """Boxes and scores of every method for some rows of a set, in pixels of the square input; and the table image, method, cnr, peak.

    The score of a method with an image-level probability is that probability times the box's share of the image's best score, as in
    pnloc.localize.Localizer.
    """
    regions, truth = run.regions(name).rows(rows), [run.true_boxes(name, kinds(name))[i] for i in rows]
    boxed = np.flatnonzero([len(t) > 0 for t in truth])
    found = comparators.blind(run, name, rows, heats["heat-map"])
    training = comparators.training_boxes(run)
    prior = [comparators.drawn(run, name, row, training, np.ones(len(training))) for row in rows[boxed]]
    maps = {"heat-map": comparators.heat_rows(run, name, rows[boxed], prior)}
    for method, boxes, heat in comparators.activations(run, name, rows, heats):
        found[method] = boxes
        maps[method] = comparators.heat_rows(run, name, rows[boxed], heat[boxed])
    boxes, heat = comparators.mask_boxes(run, name, rows, heats[comparators.MASK])
    found[comparators.MASK] = _scored(boxes, likely(run, name, rows, "detector"))
    maps[comparators.MASK] = comparators.heat_rows(run, name, rows[boxed], heat[boxed])
    for method in trained.names(run):
        found[method], heat = trained.found(run, name, rows, method, heats[method])
        if heat is not None:
            maps[method] = comparators.heat_rows(run, name, rows[boxed], [heat[i] for i in boxed])
    for method, (choice, _) in choices.items():
        plain = method.removesuffix("-raw")
        if plain not in NEED_REPORTS or name == run.pairs:
            ranking = scores(run, name, rows, plain, choice.grouped)
            found[method] = _scored(boxes_of(regions, ranking, choice), likely(run, name, rows, plain))
            if method == plain:
                over = mass(run, name, rows[boxed], plain)
                heat = comparators.maps_of_regions(run, name, rows[boxed], over)
                maps[method] = comparators.heat_rows(run, name, rows[boxed], heat)
    found["best-proposal"] = [(b, np.ones(len(b))) for b in baselines.best_proposals(regions, truth)]
    return found, pd.concat([m.assign(method=method) for method, m in maps.items()], ignore_index=True)


def likely(run: Run, name: str, rows: np.ndarray, method: str) -> np.ndarray:
    """A method's own estimate [n], 0 to 1, of how likely an image of a set has a pneumonia.

    Where the report is given, images whose report asserts one come before all others, and the image decides among either.
    """
    regions = run.regions(name).rows(rows)
    if method == "detector":
        return regions.image.numpy()
    probability = image_mass(run.localizer(method != "image-label-attention")[0], regions)[1][:, 0]
    if method == "report-given":
        said = run.phrases(name)[rows]
        probability = (probability + (said.any((1, 2)) if said.size else 0.0)) / 2
    return probability


def _scored(found: Found, probability: np.ndarray) -> Found:
    return [(b, s / max(s.max(initial=0.0), 1e-12) * p) for (b, s), p in zip(found, probability, strict=True)]


def boxes_table(run: Run, name: str, rows: np.ndarray, found: Found) -> pd.DataFrame:
    """Boxes in pixels of the square input -> a table image, x1, y1, x2, y2, score in original pixels."""
    images = run.records(name).images.iloc[rows]
    boxes = [t.inverse(boxes) for t, (boxes, _) in zip(run.letterboxes(images), found, strict=True)]
    table = pd.DataFrame(np.concatenate([np.zeros((0, 4)), *boxes]), columns=BOX_TABLE[1:5])
    table["score"] = np.concatenate([np.zeros(0), *(scores for _, scores in found)])
    return table.assign(image=np.repeat(images["image"].to_numpy(), [len(b) for b in boxes]))[BOX_TABLE]


def truth_table(run: Run, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """True boxes of a set's test images (image, x1, y1, x2, y2; original pixels), and each image's patient."""
    records = run.records(name)
    rows = boxed_rows(run, name, "test")
    images = records.images.iloc[rows]
    boxes = records.boxes[records.boxes["image"].isin(images["image"])]
    if kinds(name) is not None:
        boxes = boxes[boxes["label"].isin(kinds(name))]
    return boxes[["image", "x1", "y1", "x2", "y2"]], dict(zip(images["image"], images["patient"], strict=True))


def negatives(run: Run, name: str) -> dict[str, str]:
    """Test images of a set that are labelled as free of a pneumonia and have no box of any kind, with their patients."""
    records = run.records(name)
    images = records.images.iloc[run.rows(name, "test")]
    images = images[(images["label"] == 0) & ~images["image"].isin(records.boxes["image"])]
    return dict(zip(images["image"], images["patient"], strict=True))


def truth_file(run: Run, name: str) -> pd.DataFrame:
    """`predictions/<set>--truth.csv`: image, patient, x1, y1, x2, y2; without corners for `negatives`. Images of neither kind are not in it."""
    truth, patients = truth_table(run, name)
    without = negatives(run, name)
    rows = [
        truth.assign(patient=truth["image"].map(patients)),
        pd.DataFrame({"image": without.keys(), "patient": without.values()}),
    ]
    return pd.concat([r for r in rows if len(r)] or rows, ignore_index=True).reindex(
        columns=["image", "patient", *BOX_TABLE[1:5]]
    )


def saved_predictions(run: Run, name: str) -> dict[str, pd.DataFrame]:
    """Saved predictions of a set by method: what looks at no image, heat maps, trained baselines, attention, the ceiling."""
    fitted = [m for m in BASELINES if m in run.preset.baselines]
    order = [
        *comparators.BLIND,
        *comparators.CAMS,
        *fitted,
        comparators.MASK,
        *ATTENTION,
        "best-proposal",
        *(f"{m}-raw" for m in ATTENTION),
    ]
    paths = {m: run.root / "predictions" / f"{name}--{m}.csv" for m in order}
    return {m: read_csv(p, BOX_TABLE, dtype={"image": str}) for m, p in paths.items() if p.exists()}


def ranked(run: Run, name: str, method: str) -> list[tuple[int, float, np.ndarray]]:
    """Boxed test images of a set by falling union IoU of a method: row number, IoU, boxes in the square input's pixels."""
    saved = saved_predictions(run, name)[method]
    boxes = {image: rows[["x1", "y1", "x2", "y2"]].to_numpy(float) for image, rows in saved.groupby("image")}
    rows = boxed_rows(run, name, "test")
    images = run.records(name).images.iloc[rows]
    truth, none = run.true_boxes(name, kinds(name)), np.zeros((0, 4))
    found = [t.boxes(boxes.get(i, none)) for i, t in zip(images["image"], run.letterboxes(images), strict=True)]
    values = [union_iou(b, truth[row]) for row, b in zip(rows, found, strict=True)]
    return [(int(rows[k]), values[k], found[k]) for k in np.argsort(-np.array(values), kind="stable")]


def localization(run: Run) -> pd.DataFrame:
    """`tables/localization.csv`: dataset, method, metric, threshold, value, low, high, n, seed (pnloc.metrics.localization, heat_table)."""
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
    predict(run)

    def make(folder: Path, _: str) -> None:
        made = _localization(run)
        write_table(folder / "localization.csv", made)
        for table, found in zip(("differences", "significance"), _differences(run), strict=True):
            write_table(folder / f"{table}.csv", found)

    modules = source_digest("results", "metrics", "detection", "bootstrap", "boxes")
    folder, _ = run.cache.stage("compare", _predict_stage(run)[1], run.preset.resamples, run.seed, modules, make=make)
    for path in folder.glob("*.csv"):
        write_table(run.root / "tables" / path.name, read_csv(path, float_precision="round_trip"))
    return read_csv(folder / f"{name}.csv", float_precision="round_trip")


def _localization(run: Run) -> pd.DataFrame:
    parts, options = [], {"resamples": run.preset.resamples, "seed": run.seed}
    for name in (run.title(role) for role in run.preset.roles.localization):
        (truth, patients), without = truth_table(run, name), negatives(run, name)
        if truth.empty:
            continue
        maps = read_csv(run.root / "predictions" / f"{name}--maps.csv", dtype={"image": str})
        for method, predictions in saved_predictions(run, name).items():
            table = metrics.localization(predictions, truth, patients | without, negatives=without, **options)
            own = maps[maps["method"] == method]
            if len(own):
                table = pd.concat([table, metrics.heat_table(own, patients, **options)], ignore_index=True)
            parts.append(table.assign(dataset=name, method=method, seed=run.seed))
    if not parts:
        raise PnlocError("no test image of any set has a box of a pneumonia: localization cannot be measured")
    columns = ["dataset", "method", "metric", "threshold", "value", "low", "high", "n", "seed"]
    return pd.concat(parts, ignore_index=True)[columns]


def _differences(run: Run, method: str = "text-attention") -> tuple[pd.DataFrame, pd.DataFrame]:
    parts = []
    for name in (run.title(role) for role in run.preset.roles.localization):
        truth, patients = truth_table(run, name)
        saved = saved_predictions(run, name)
        pairs = [(method, other) for other in saved if other != method and not other.endswith("-raw")]
        pairs += [("report-given", "detector")] if "report-given" in saved else []
        for first, second in pairs if len(truth) else []:
            table = metrics.differences(
                saved[first], saved[second], truth, patients, resamples=run.preset.resamples, seed=run.seed
            )
            parts.append(table.assign(dataset=name, method=first, against=second))
    table = pd.concat(parts, ignore_index=True)
    table["p_holm"] = table.groupby(["dataset", "metric"])["p"].transform(holm)
    shared = ["dataset", "method", "against", "metric", "value"]
    return table[[*shared, "low", "high", "n"]], table[[*shared, "p", "p_holm", "n"]]


MAIN = {"acc@0.3": "acc, T .3", "acc@0.5": "acc, T .5", "miou": "union IoU", "pointing": "pointing"}
PER_IMAGE = {"best_iou": "IoU per box", "matched_iou": "one to one", "corloc": "CorLoc", "afp@0.3": "AFP, T .3"}
PER_SET = {"froc_mean": "FROC", "rsna_map": "RSNA mAP", "coco_ap@0.5": "AP, T .5", "cnr": "CNR"}


def readable(table: pd.DataFrame, dataset: str, columns: dict[str, str], methods: Iterable[str]) -> pd.DataFrame:
    """Rows of `tables/localization.csv` for a page: a row per method, a column per metric, '.45 [.41, .49]' in the cells.

    columns: metric, with '@threshold' where it has one -> heading. A method without a metric has an empty cell.
    """
    from pnloc.figures import reader_name  # which takes seconds to import

    rows = table[table["dataset"] == dataset]
    key = rows["metric"] + rows["threshold"].map(lambda t: "" if np.isnan(t) else f"@{t}")
    numbers = rows[["value", "low", "high"]].to_numpy(float)
    cells = {names: _cell(*found) for names, found in zip(zip(rows["method"], key, strict=True), numbers, strict=True)}
    shown = [m for m in methods if m in set(rows["method"])]
    made = [[cells.get((m, name), "") for name in columns] for m in shown]
    return pd.DataFrame(made, index=[reader_name(m) for m in shown], columns=list(columns.values()))


def _cell(value: float, low: float, high: float) -> str:
    """'.45 [.41, .49]', or nothing for a value that is not known."""
    return re.sub(r"\b0\.", ".", f"{value:.2f} [{low:.2f}, {high:.2f}]") if np.isfinite(value) else ""


def pivoted(table: pd.DataFrame, rows: list[str], column: str = "method") -> pd.DataFrame:
    """A table with value, low and high for a page: a row per value of the columns `rows`, a column per value of `column`, cells as in `readable`."""
    from pnloc.figures import reader_name

    cells = [_cell(*numbers) for numbers in table[["value", "low", "high"]].to_numpy(float)]
    keys = [tuple(key) for key in table[rows].itertuples(index=False)]
    known = dict(zip(zip(keys, table[column], strict=True), cells, strict=True))
    columns = list(table[column].unique())
    body = [[*key, *(known.get((key, name), "") for name in columns)] for key in dict.fromkeys(keys)]
    return pd.DataFrame(body, columns=[*rows, *map(reader_name, columns)]).set_index(rows[0])


def recall(run: Run) -> pd.DataFrame:
    """`tables/recall.csv`: share of true test boxes that one of the first R regions overlaps by more than an IoU."""
    rows = []
    for name in (run.title(role) for role in run.preset.roles.localization):
        truth, regions = run.true_boxes(name, kinds(name)), run.regions(name)
        chosen = boxed_rows(run, name, "test")
        for count, threshold in product((1, 2, 5, 10, run.preset.regions.count), (0.3, 0.5)):
            hits = np.concatenate(
                [iou(truth[i], regions.boxes[i, :count].numpy()).max(1) > threshold for i in chosen] or [np.zeros(0)]
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
    rows = run.rows(run.pairs, "test")
    _, labels, weights = (a[rows] for a in run.supervision(run.pairs))
    probabilities = image_mass(run.localizer(True)[0], run.regions(run.pairs).rows(rows))[1]
    patients = run.records(run.pairs).images["patient"].to_numpy()[rows]
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
            _, index = np.unique(who, return_inverse=True)
            drawn = bootstrap.weights(index.max() + 1, run.preset.resamples, run.seed)[:, index]
            row["auc"] = metrics.auc(truth, scores, np.ones((1, len(truth))))[0]
            row["low"], row["high"] = bootstrap.interval(metrics.auc(truth, scores, drawn))
        found.append(row)
    table = pd.DataFrame(found)
    write_table(run.root / "tables" / "attributes.csv", table)
    return table


def severity_choices(run: Run) -> dict[str, Choice]:
    """The choices that the read-outs of severity need, made on validation images."""
    return {method: choose(run, method)[0] for method in readouts.CHOICES}


def severity_readouts(run: Run, name: str) -> pd.DataFrame:
    """One row per scored image of a set: image, patient, its scores, and the read-outs, all from the image alone."""
    return readouts.scored(run, name, severity_choices(run))


def severity_sets(run: Run) -> list[str]:
    """The COVID-19 sets of this run: the preset's own, and the real collection where its folder was given."""
    return [name for name in run.sets if name.removeprefix("demo-") == "covid19"]


def severity_table(run: Run) -> pd.DataFrame:
    """`tables/severity.csv` (dataset, readout, score, fit, statistic, value, low, high, n), which it returns.

    Beside it: predictions of the read-outs, and the tables severity_choice, _differences, _zones, _confounders, _inputs, _lungs and
    _detectors. All are made once for the same models.
    """

    def make(folder: Path, _: str) -> None:
        _severity(run)
        for path in (*run.root.glob("tables/severity*.csv"), *run.root.glob("predictions/*--severity.csv")):
            shutil.copy(path, folder)

    numbers = range(1, run.preset.severity.detectors)
    upstream = [looks.lungs_stage(run)[1], *(members.member_stage(run, n)[1] for n in numbers)]
    upstream += [run._regions_stage(name)[1] for name in (run.title(run.preset.roles.detector), *severity_sets(run))]
    upstream += [run._localizer_stage(True)[1], run._localizer_stage(False)[1], run._classifier_stage[1]]
    inputs = (upstream, run.preset.severity, run.preset.resamples, run.seed, source_digest(*_SEVERITY))
    folder, _ = run.cache.stage("severity", *inputs, make=make)
    for path in folder.glob("*.csv"):
        home = run.root / ("tables" if path.name.startswith("severity") else "predictions")
        with atomic(home / path.name) as temporary:
            shutil.copy(path, temporary)
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
    severity_tables.detectors(run, tables, choices)
    return severity_tables.associations(run, tables)


def text_on_real(run: Run) -> pd.DataFrame:
    """`tables/text_on_real.csv`: dataset, measure, score, text, labels, value, low, high, n; empty where the pairs are generated.

    The localizer trained with the reports of the pairs and the same one trained with image labels only, and their difference, paired over
    patients: the boxes that it keeps on test images ('union IoU'), its attention on the zones that radiologists scored, and its read-outs of
    severity. No patient of a measured image is in either training.
    """
    columns = ["dataset", "measure", "score", "text", "labels", "value", "low", "high", "n"]
    parts = []
    if not run.preset.generated:
        arms, gaps = ("text-attention", "image-label-attention"), differences(run)
        table, severity = localization(run), severity_table(run)
        boxes = gaps[(gaps["method"] == arms[0]) & (gaps["against"] == arms[1]) & (gaps["metric"] == "miou")]
        means = table[table["metric"] == "miou"].set_index(["dataset", "method"])["value"]
        for column, arm in zip(("text", "labels"), arms, strict=True):
            boxes = boxes.assign(**{column: [means[d, arm] for d in boxes["dataset"]]})
        parts.append(boxes.assign(measure="union IoU", score="boxes"))
        zoned = read_csv(run.root / "tables" / "severity_text.csv")
        parts.append(zoned.assign(measure="zones, " + zoned["statistic"], score="Brixia, " + zoned["against"]))
        read = read_csv(run.root / "tables" / "severity_differences.csv")
        one = severity[severity["fit"] == "zero-shot"].set_index(["dataset", "readout", "score", "statistic"])["value"]
        for first, second in severity_tables.TEXT:
            rows = read[(read["readout"] == first) & (read["against"] == second)]
            for column, readout in (("text", first), ("labels", second)):
                keys = zip(rows["dataset"], rows["score"], rows["statistic"], strict=True)
                rows = rows.assign(**{column: [one[d, readout, s, t] for d, s, t in keys]})
            parts.append(rows.assign(measure=rows["statistic"] + ", " + first.removesuffix(" (text)")))
    found = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
    write_table(run.root / "tables" / "text_on_real.csv", found)
    return found


def checkpoint(run: Run) -> Localizer:
    """Write `checkpoint/` (detector, model, words, config.json) and return the localizer that it holds."""
    model, _ = run.localizer(True)
    found = Localizer(run.detector, model, NAMES, run.vectors, choose(run, "text-attention")[0], run.preset.regions)
    config = run.preset.as_dict()
    found.save(run.root / "checkpoint", preset=run.preset.name, seed=run.seed, model=config["model"])
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
