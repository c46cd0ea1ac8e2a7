"""Tables of localization on test images, under a run's `tables/`.

All but recall and attributes are made from the saved predictions alone (pnloc.run.predictions).
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from pnloc.boxes import iou
from pnloc.errors import PnlocError
from pnloc.evaluation import calibration
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.bootstrap import NAN, Patients, holm, patients_of
from pnloc.files import read_csv, write_table
from pnloc.localizer import BOX, image_attention
from pnloc.run import predictions as predict
from pnloc.run.evidence import boxed_rows, generated_truth, parsed_boxes, pneumonia_boxes
from pnloc.run.experience import CALIBRATED, METHOD, experience
from pnloc.run.methods import in_group
from pnloc.run.run import Run
from pnloc.run.sets import NAMES

HIT = 0.3  # a true box is found above this IoU
FAILING = ("text-attention", "image-label-attention", "detector")  # methods of `failures`
# Further pairs that are compared.
BESIDE = (("report-given", "detector"), *(("detector", arm) for arm in in_group("arms")))
SIZES = ("small", "middle", "large")


def measured(run: Run) -> Iterator[tuple[str, metrics.Truth, dict[str, pd.DataFrame]]]:
    """Sets whose test images measure localization: name, truth, saved predictions by method.

    Boxes are in original pixels; sets without a true box are left out.
    """
    for name in map(run.title, run.preset.roles.localization):
        truth = predict.truth(run, name)
        if len(truth.boxes):
            yield name, truth, predict.saved_predictions(run, name)


def draws(run: Run) -> dict[str, int]:
    """The bootstrap's options: resamples and seed."""
    return {"resamples": run.preset.resamples, "seed": run.seed}


def compared(run: Run) -> dict[str, pd.DataFrame]:
    """Three tables that are made from the saved predictions, by name.

    `tables/localization.csv`: dataset, method, metric, threshold, value, low, high, n, seed; the
    metrics of pnloc.evaluation.localization.localization and heat_table. `tables/differences.csv`:
    dataset, method, against, metric, value, low, high, n; paired. `tables/significance.csv`:
    dataset, method, against, metric, value, p, p_holm, n; p_holm is corrected by Holm's procedure
    over all comparisons of a data set in one metric.
    """
    key = predict.predict(run)

    def make() -> dict[str, pd.DataFrame]:
        gaps, keys = _differences(run), ["dataset", "method", "against", "metric", "value"]
        return {
            "localization": _localization(run),
            "differences": gaps[[*keys, "low", "high", "n"]],
            "significance": gaps[[*keys, "p", "p_holm", "n"]],
        }

    return run.cache.tables("compare", key, *draws(run).values(), make=make)


def _localization(run: Run) -> pd.DataFrame:
    parts = []
    for name, truth, predictions in measured(run):
        maps = read_csv(run.root / "predictions" / f"{name}--maps.csv", dtype={"image": str})
        for method, boxes in predictions.items():
            tables = [metrics.localization(boxes, truth, **draws(run))]
            heat = maps[maps["method"] == method]
            if len(heat):
                tables.append(metrics.heat_table(heat, truth.patients, **draws(run)))
            parts += [table.assign(dataset=name, method=method) for table in tables]
    if not parts:
        nothing = "no test image of any set has a box of a pneumonia"
        raise PnlocError(f"{nothing}: localization cannot be measured")
    table = pd.concat(parts, ignore_index=True).assign(seed=run.seed)
    return table[["dataset", "method", "metric", "threshold", *metrics.ESTIMATE, "seed"]]


def _differences(run: Run, method: str = "text-attention") -> pd.DataFrame:
    parts = []
    for name, truth, boxes in measured(run):
        pairs = [(method, m) for m in boxes if m != method and not m.endswith("-raw")]
        pairs += [pair for pair in BESIDE if set(pair) <= set(boxes)]
        for a, b in pairs:
            table = metrics.differences(boxes[a], boxes[b], truth, **draws(run))
            parts.append(table.assign(dataset=name, method=a, against=b))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(p_holm=table.groupby(["dataset", "metric"])["p"].transform(holm))


def recall(run: Run) -> pd.DataFrame:
    """`tables/recall.csv`: dataset, regions, threshold, recall, n.

    The share of true test boxes that one of the first R regions overlaps with IoU > threshold.
    """
    rows = []
    for name in map(run.title, run.preset.roles.localization):
        truth, boxed = pneumonia_boxes(run, name), boxed_rows(run, name, "test")
        boxes = run.regions(name).rows(boxed).boxes.numpy()
        for count, threshold in product((1, 2, 5, 10, run.preset.regions.count), (0.3, 0.5)):
            best = [iou(truth[i], own[:count]).max(1) for i, own in zip(boxed, boxes, strict=True)]
            hits = np.concatenate([*best, np.zeros(0)]) > threshold
            rows.append((name, count, threshold, hits.mean() if len(hits) else NAN, len(hits)))
    return _written(run, "recall", rows, ["dataset", "regions", "threshold", "recall", "n"])


def attributes(run: Run) -> pd.DataFrame:
    """`tables/attributes.csv`: attribute, auc, low, high, positives, n; from the image alone.

    On the test split of the pairs; the report is the truth. Attributes with fewer than five present
    or five absent cases are listed without an AUC.
    """
    parts, table = [], []
    for pairs in run.sets.pairs:
        rows = run.sets.rows(pairs, "test")
        stated = (array[rows] for array in run.sets.supervision(pairs)[1:])
        scores = image_attention(run.localizer(True)[0], run.regions(pairs).rows(rows))[1]
        parts.append((*stated, scores, run.sets.records(pairs).images["patient"].to_numpy()[rows]))
    labels, weights, probabilities, patients = map(np.concatenate, zip(*parts, strict=True))
    for column, name in enumerate(NAMES):
        stated = weights[:, column] > 0
        truth, scores = labels[stated, column], probabilities[stated, column]
        positives, n, auc = int(truth.sum()), len(truth), [NAN] * 3
        if min(positives, n - positives) >= 5:
            drawn = Patients(patients[stated], **draws(run))
            auc = [*drawn.of(partial(metrics.auc, truth, scores))][:3]
        table.append((name, *auc, positives, n))
    return _written(run, "attributes", table, ["attribute", "auc", "low", "high", "positives", "n"])


def failures(run: Run) -> pd.DataFrame:
    """`tables/failures.csv`: dataset, method, factor, level, value, low, high, n.

    The share of true boxes that the methods FAILING find, by size and, in generated images, by
    place, kind, severity and whether the image shows another finding.
    """
    parts = []
    for name, truth, predictions in measured(run):
        true = with_traits(run, name, truth.boxes.sort_values("image", kind="stable"))
        for method in (m for m in predictions if m in FAILING):
            hit = hits(predictions[method], true)
            table = shares(true.assign(hit=hit), truth.patients, **draws(run))
            parts.append(table.assign(dataset=name, method=method))
    columns = ["dataset", "method", "factor", "level", *metrics.ESTIMATE]
    return _written(run, "failures", pd.concat(parts, ignore_index=True), columns)


def with_traits(run: Run, name: str, boxes: pd.DataFrame) -> pd.DataFrame:
    """True boxes of a set (image, x1, y1, x2, y2) with their size and, if generated, their traits.

    Sizes are thirds of the boxes by their share of the image. Traits are zone, lobe, kind and
    severity of the opacity, and `beside`, whether there is another finding.
    """
    boxes = boxes.reset_index(drop=True)
    images = run.sets.records(name).images.set_index("image").loc[boxes["image"]]
    area = (boxes["x2"] - boxes["x1"]) * (boxes["y2"] - boxes["y1"])
    share = area.to_numpy() / (images["width"] * images["height"]).to_numpy()
    third = np.searchsorted(np.quantile(share, [1 / 3, 2 / 3]), share)
    table = boxes.assign(size=np.array(SIZES)[third])
    if not name.startswith("demo-"):
        return table
    truth = generated_truth(run, name).loc[boxes["image"]]
    pairs = zip(truth.itertuples(), boxes[metrics.CORNERS].to_numpy(float), strict=True)
    return table.join(pd.DataFrame([traits(row, box) for row, box in pairs]))


def traits(truth: tuple, box: np.ndarray) -> dict[str, str]:
    """Traits of the opacity in a row of `generated_truth` whose box is nearest to box [4]."""
    nearest = iou(box, parsed_boxes(truth.boxes))[0].argmax()
    kind, side, zone, lobe, _ = truth.opacities.split(";")[nearest].split("/")
    beside = "another finding" if truth.others else "nothing else"
    place = {"lobe": lobe, "zone": f"{side} {zone}"}
    return {**place, "kind": kind, "severity": truth.severity, "beside": beside}


def hits(predictions: pd.DataFrame, true: pd.DataFrame) -> np.ndarray:
    """Whether any predicted box overlaps each true box, sorted by image, with IoU > HIT: [n]."""
    cases = metrics.cases(predictions, true)
    best = [iou(case.predicted, case.true).max(0, initial=0.0) for case in cases]
    return (np.concatenate(best) > HIT).astype(float)


def shares(true: pd.DataFrame, patients: Mapping[str, str], **draws: int) -> pd.DataFrame:
    """Table factor, level, value, low, high, n: the mean of `hit` over the boxes of each level.

    Factors are the columns beside image, corners and hit; first comes the mean of all boxes.
    `draws`: resamples and seed of the bootstrap.
    """
    drawn = Patients(patients_of(list(true["image"]), patients), **draws)
    groups = [("all", "all", np.ones(len(true)))]
    for factor in true.columns.difference(["image", *metrics.CORNERS, "hit"], sort=False):
        levels = sorted(set(true[factor]), key=SIZES.index if factor == "size" else None)
        groups += [(factor, level, (true[factor] == level).to_numpy(float)) for level in levels]
    hit = true["hit"].to_numpy()
    rows = [(factor, level, *drawn.mean(of * hit, of)) for factor, level, of in groups]
    return pd.DataFrame(rows, columns=["factor", "level", *metrics.ESTIMATE])


def calibrations(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`tables/calibration.csv` (dataset, method, value, low, high, n), the expected error, and
    `tables/reliability.csv` (dataset, method, bin, score, right, low, high, n), the curves.

    For the methods whose score is meant as a probability, and for CALIBRATED, the scores that the
    checkpoint gives (pnloc.run.experience); negatives are included.
    """
    errors, curves, known = [], [], experience(run)
    scored = in_group("classifier", "labels", "pairs", "boxes", "attention")
    for name, truth, predictions in measured(run):
        if BOX in known.curves:
            raw = predictions[METHOD]
            score = known.calibrated(BOX, raw["score"].to_numpy())
            predictions[CALIBRATED] = raw.assign(score=score)
        for method in (m for m in predictions if m in (*scored, CALIBRATED)):
            boxes = calibration.right_boxes(predictions[method], truth)
            curve, error = calibration.calibration(boxes, truth.patients, **draws(run))
            errors.append((name, method, *error))
            curves.append(curve.assign(dataset=name, method=method))
    table = _written(run, "calibration", errors, ["dataset", "method", *metrics.ESTIMATE])
    columns = ["dataset", "method", "bin", "score", "right", "low", "high", "n"]
    return table, _written(run, "reliability", pd.concat(curves, ignore_index=True), columns)


def _written(
    run: Run, name: str, rows: list[tuple] | pd.DataFrame, columns: list[str]
) -> pd.DataFrame:
    """Rows as a table with these columns, written as `tables/<name>.csv`."""
    table = pd.DataFrame(rows, columns=columns)
    write_table(run.root / "tables" / f"{name}.csv", table)
    return table
