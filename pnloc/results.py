"""Results: predictions of every method, the choices behind them, and the tables made from them.

Everything is written under the run's folder: `predictions/`, `tables/` and `checkpoint/`. Choices (how many boxes, from which
share of the best score on) are made on validation images; the tables are made from the saved predictions alone.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from pnloc import baselines, metrics, readouts, severity_tables
from pnloc.boxes import iou, union_iou
from pnloc.cache import source_digest
from pnloc.errors import PnlocError
from pnloc.files import read_csv, write_table
from pnloc.localize import Choice, Localizer, image_mass, pick, report_mass
from pnloc.stages import NAMES, OPACITY_LABELS, Run

SHARES, MOST = (0.3, 0.5, 0.7, 0.85), (1, 2, 3)
HEAT_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
ATTENTION = ("detector", "image-label-attention", "text-attention", "report-given")
METHODS = ("fixed-boxes", "grad-cam", *ATTENTION, "best-proposal")
BOX_TABLE = ["image", "x1", "y1", "x2", "y2", "score"]
Found = list[tuple[np.ndarray, np.ndarray]]


def _kinds(name: str) -> frozenset[str] | None:
    """Which labels of a set's boxes count as truth: RSNA has one kind, NIH's must be Pneumonia."""
    role = name.removeprefix("demo-")
    return {"rsna": None, "chestxray8": frozenset({"Pneumonia"})}.get(role, OPACITY_LABELS)


def boxed_rows(run: Run, name: str, split: str) -> np.ndarray:
    """Row numbers of a set's images in a split that have a box of a pneumonia."""
    truth = run.true_boxes(name, _kinds(name))
    return np.array([i for i in run.rows(name, split) if len(truth[i])], dtype=int)


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


def _mean_union(found: Found, truth: list[np.ndarray]) -> float:
    return float(np.mean([union_iou(boxes, true) for (boxes, _), true in zip(found, truth, strict=True)]))


def choose(run: Run, method: str, grouped: bool = True) -> tuple[Choice, float]:
    """The choice with the best mean union IoU on validation images, and that IoU (NaN where none has boxes)."""
    name = run.title(run.preset.roles.localization[0])
    rows = boxed_rows(run, name, "validate")
    if len(rows) == 0:
        return Choice(grouped=grouped), float("nan")
    truth = [run.true_boxes(name, _kinds(name))[i] for i in rows]
    method = "text-attention" if method == "report-given" and name != run.pairs else method
    weights, regions = mass(run, name, rows, method), run.regions(name).rows(rows)
    tried = [Choice(share, most, grouped) for share, most in product(SHARES, MOST)]
    values = [_mean_union(pick(regions, weights, choice), truth) for choice in tried]
    return tried[int(np.argmax(values))], max(values)


def choose_heat(run: Run) -> tuple[baselines.HeatChoice, float]:
    """Layer, threshold and number of boxes for Grad-CAM, by mean union IoU on validation images."""
    name = run.title(run.preset.roles.localization[0])
    rows = boxed_rows(run, name, "validate")
    if len(rows) == 0:
        return baselines.HeatChoice(), float("nan")
    truth = [run.true_boxes(name, _kinds(name))[i] for i in rows]
    tried, values = [], []
    for layer in baselines.LAYERS:
        maps = baselines.grad_cam(run.classifier, run.pixels(name)[rows], layer)
        for threshold, most in product(HEAT_THRESHOLDS, MOST):
            tried.append(baselines.HeatChoice(layer, threshold, most))
            values.append(_mean_union([baselines.heat_boxes(m, threshold, most) for m in maps], truth))
    return tried[int(np.argmax(values))], max(values)


def predict(run: Run) -> Path:
    """Write `predictions/<set>--<method>.csv` for every set and method, and `tables/choices.csv`; return the folder.

    The tables hold boxes in pixels of the original image, for every test image with a box and, beyond that, for every test image of
    the set. A report can be given only where the set has reports. Methods that end in `-raw` rank by the attention
    (or the detector's score) alone, without the grouping step.
    """

    def make(folder: Path, _: str) -> None:
        choices = {m: choose(run, m) for m in ATTENTION}
        choices |= {f"{m}-raw": choose(run, m, grouped=False) for m in ATTENTION}
        heat = choose_heat(run)
        table = [{"method": m, "share": c.share, "most": c.most, "validation_miou": v} for m, (c, v) in choices.items()]
        table.append(
            {"method": "grad-cam", "share": heat[0].threshold, "most": heat[0].most, "validation_miou": heat[1]}
        )
        write_table(folder / "choices.csv", pd.DataFrame(table))
        for name in (run.title(role) for role in run.preset.roles.localization):
            for method, found in _found(run, name, run.rows(name, "test"), choices, heat[0]).items():
                write_table(folder / f"{name}--{method}.csv", boxes_table(run, name, run.rows(name, "test"), found))

    upstream = [run._regions_stage(run.title(r))[1] for r in run.preset.roles.localization]
    models = [run._localizer_stage(True)[1], run._localizer_stage(False)[1], run._classifier_stage[1]]
    modules = source_digest("results", "stages", "boxes", "localize", "baselines")
    folder, _ = run.cache.stage("predict", upstream, models, modules, make=make)
    for path in folder.glob("*--*.csv"):
        write_table(run.root / "predictions" / path.name, pd.read_csv(path))
    write_table(run.root / "tables" / "choices.csv", pd.read_csv(folder / "choices.csv"))
    return run.root / "predictions"


def _found(run: Run, name: str, rows: np.ndarray, choices: dict, heat: baselines.HeatChoice) -> dict[str, Found]:
    """Boxes and scores of every method for some rows of a set, in pixels of the square input."""
    regions, images = run.regions(name).rows(rows), run.records(name).images.iloc[rows]
    training = run.title(run.preset.roles.detector)
    own = run.records(training).images
    sides = own[["width", "height", "width", "height"]].to_numpy(float)
    boxes = run.records(training).boxes.merge(
        own.assign(row=np.arange(len(own)))[["image", "row", "split"]], on="image"
    )
    boxes = boxes[boxes["split"] == "train"]
    relative = boxes[["x1", "y1", "x2", "y2"]].to_numpy(float) / sides[boxes["row"]]
    prior = baselines.prior_boxes(relative, images["width"], images["height"])
    truth = [run.true_boxes(name, _kinds(name))[i] for i in rows]
    maps = baselines.grad_cam(run.classifier, run.pixels(name)[rows], heat.layer)
    transforms = run.letterboxes(images)
    found: dict[str, Found] = {
        "fixed-boxes": [(t.boxes(b), np.ones(len(b))) for t, b in zip(transforms, prior, strict=True)],
        "grad-cam": [baselines.heat_boxes(m, heat.threshold, heat.most) for m in maps],
        "best-proposal": [(b, np.ones(len(b))) for b in baselines.best_proposals(regions, truth)],
    }
    for method, (choice, _) in choices.items():
        if not method.startswith("report-given") or name == run.pairs:
            found[method] = pick(regions, mass(run, name, rows, method.removesuffix("-raw")), choice)
    return found


def boxes_table(run: Run, name: str, rows: np.ndarray, found: Found) -> pd.DataFrame:
    """Boxes in pixels of the square input -> a table image, x1, y1, x2, y2, score in original pixels."""
    images = run.records(name).images.iloc[rows]
    parts = [pd.DataFrame(columns=BOX_TABLE)]
    for image, transform, (boxes, scores) in zip(images["image"], run.letterboxes(images), found, strict=True):
        if len(boxes):
            part = pd.DataFrame(transform.inverse(boxes), columns=BOX_TABLE[1:5])
            parts.append(part.assign(image=image, score=scores)[BOX_TABLE])
    return pd.concat(parts[1:] or parts, ignore_index=True)


def truth_table(run: Run, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """True boxes of a set's test images (image, x1, y1, x2, y2; original pixels), and each image's patient."""
    records = run.records(name)
    rows = boxed_rows(run, name, "test")
    images = records.images.iloc[rows]
    boxes = records.boxes[records.boxes["image"].isin(images["image"])]
    if _kinds(name) is not None:
        boxes = boxes[boxes["label"].isin(_kinds(name))]
    return boxes[["image", "x1", "y1", "x2", "y2"]], dict(zip(images["image"], images["patient"], strict=True))


def saved_predictions(run: Run, name: str) -> dict[str, pd.DataFrame]:
    """Saved predictions of a set by method, in the order of METHODS."""
    paths = sorted((run.root / "predictions").glob(f"{name}--*.csv"))
    found = {p.stem.split("--")[1]: read_csv(p, BOX_TABLE, dtype={"image": str}) for p in paths}
    order = [*METHODS, *(f"{m}-raw" for m in ATTENTION)]
    return {m: found[m] for m in order if m in found}


def ranked(run: Run, name: str, method: str) -> list[tuple[int, float, np.ndarray]]:
    """Boxed test images of a set by falling union IoU of a method: row number, IoU, boxes in the square input's pixels."""
    saved = saved_predictions(run, name)[method]
    boxes = {image: rows[["x1", "y1", "x2", "y2"]].to_numpy(float) for image, rows in saved.groupby("image")}
    rows = boxed_rows(run, name, "test")
    images = run.records(name).images.iloc[rows]
    truth, none = run.true_boxes(name, _kinds(name)), np.zeros((0, 4))
    found = [t.boxes(boxes.get(i, none)) for i, t in zip(images["image"], run.letterboxes(images), strict=True)]
    values = [union_iou(b, truth[row]) for row, b in zip(rows, found, strict=True)]
    return [(int(rows[k]), values[k], found[k]) for k in np.argsort(-np.array(values), kind="stable")]


def localization(run: Run) -> pd.DataFrame:
    """`tables/localization.csv`: dataset, method, metric, threshold, value, low, high, n, seed."""
    predict(run)
    parts = []
    for name in (run.title(role) for role in run.preset.roles.localization):
        truth, patients = truth_table(run, name)
        if truth.empty:
            continue
        for method, predictions in saved_predictions(run, name).items():
            table = metrics.localization(predictions, truth, patients, resamples=run.preset.resamples, seed=run.seed)
            parts.append(table.assign(dataset=name, method=method, seed=run.seed))
    if not parts:
        raise PnlocError("no test image of any set has a box of a pneumonia: localization cannot be measured")
    columns = ["dataset", "method", "metric", "threshold", "value", "low", "high", "n", "seed"]
    table = pd.concat(parts, ignore_index=True)[columns]
    write_table(run.root / "tables" / "localization.csv", table)
    return table


def differences(run: Run, method: str = "text-attention") -> pd.DataFrame:
    """`tables/differences.csv`: dataset, method, against, metric, value, low, high, n; paired over patients."""
    predict(run)
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
    table = pd.concat(parts, ignore_index=True)[["dataset", "method", "against", "metric", "value", "low", "high", "n"]]
    write_table(run.root / "tables" / "differences.csv", table)
    return table


def recall(run: Run) -> pd.DataFrame:
    """`tables/recall.csv`: share of true test boxes that one of the first R regions overlaps by more than an IoU."""
    rows = []
    for name in (run.title(role) for role in run.preset.roles.localization):
        truth, regions = run.true_boxes(name, _kinds(name)), run.regions(name)
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
            row["auc"] = roc_auc_score(truth, scores)
            row["low"], row["high"] = _auc_interval(truth, scores, who, min(run.preset.resamples, 300), run.seed)
        found.append(row)
    table = pd.DataFrame(found)
    write_table(run.root / "tables" / "attributes.csv", table)
    return table


def _auc_interval(
    truth: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the AUC, bootstrapped over patients."""
    rng = np.random.default_rng(seed)
    _, index = np.unique(patients, return_inverse=True)
    drawn = rng.multinomial(index.max() + 1, np.full(index.max() + 1, 1 / (index.max() + 1)), size=resamples)
    values = []
    for counts in drawn:
        weight = counts[index]
        if len(np.unique(truth[weight > 0])) == 2:
            values.append(roc_auc_score(truth, scores, sample_weight=weight))
    return tuple(np.quantile(values, [0.025, 0.975])) if values else (np.nan, np.nan)


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

    Beside it: predictions of the read-outs, and the tables severity_choice, _differences, _zones, _confounders, _inputs, _lungs and _detectors.
    """
    choices = severity_choices(run)
    tables = {name: readouts.scored(run, name, choices) for name in severity_sets(run)}
    for name, table in tables.items():
        write_table(run.root / "predictions" / f"{name}--severity.csv", table)
    compared = readouts.comparison(run, choices)
    write_table(run.root / "tables" / "severity_choice.csv", compared)
    chosen = compared.loc[compared["chosen"], "readout"].item()
    severity_tables.differences(run, tables, chosen)
    severity_tables.zones(run, tables)
    severity_tables.confounders(run, tables, chosen)
    severity_tables.inputs(run, tables, choices)
    severity_tables.lung_finder(run, tables)
    severity_tables.detectors(run, tables, choices)
    return severity_tables.associations(run, tables)


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
