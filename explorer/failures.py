"""Which true boxes are missed: the share that is found, by what the boxes are."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pnloc.boxes import iou
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.bootstrap import Patients, patients_of
from pnloc.files import write_table
from pnloc.run import localization
from pnloc.run.evidence import generated_truth, parsed_boxes
from pnloc.run.run import Run

HIT = 0.3  # a true box is found above this IoU
FAILING = ("text-attention", "image-label-attention", "detector")  # methods of `failures`
SIZES = ("small", "middle", "large")


def failures(run: Run) -> pd.DataFrame:
    """`tables/failures.csv`: dataset, method, factor, level, value, low, high, n.

    The share of true boxes that the methods FAILING find, by size and, in generated images, by
    place, kind, severity and whether the image shows another finding.
    """
    parts = []
    for name, truth, predictions in localization.measured(run):
        true = with_traits(run, name, truth.boxes.sort_values("image", kind="stable"))
        for method in (m for m in predictions if m in FAILING):
            hit = hits(predictions[method], true)
            table = shares(true.assign(hit=hit), truth.patients, **localization.draws(run))
            parts.append(table.assign(dataset=name, method=method))
    columns = ["dataset", "method", "factor", "level", *metrics.ESTIMATE]
    table = pd.concat(parts, ignore_index=True)[columns]
    write_table(run.root / "tables" / "failures.csv", table)
    return table


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
