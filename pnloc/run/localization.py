"""Tables of localization on test images, under a run's `tables/`.

All but recall and attributes are made from the saved predictions alone (pnloc.run.predictions).
"""

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from pnloc.boxes import iou
from pnloc.errors import PnlocError
from pnloc.evaluation import calibration
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.bootstrap import NAN, Patients, holm
from pnloc.files import read_csv, write_table
from pnloc.localizer import BOX, image_attention
from pnloc.run import predictions as predict
from pnloc.run.evidence import boxed_rows, pneumonia_boxes
from pnloc.run.experience import CALIBRATED, METHOD, experience
from pnloc.run.methods import in_group
from pnloc.run.run import Run
from pnloc.run.sets import NAMES

# Further pairs that are compared.
BESIDE = (("report-given", "detector"), *(("detector", arm) for arm in in_group("arms")))


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
