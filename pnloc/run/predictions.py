"""Predictions of every method on test images, and the choices behind them.

They are written under the run's folder, `predictions/`, so that any table can be made again from files alone. Choices (how many boxes, from which
share of the best score on) are made on validation images.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.baselines import classifier as baselines
from pnloc.baselines.heatmaps import HeatChoice
from pnloc.boxes import union_iou
from pnloc.config import BASELINES
from pnloc.files import read_csv, write_table
from pnloc.localizer import (
    Choice,
    best_choice,
    boxes_of,
    image_attention,
    normalized_scores,
    rank_regions,
    rank_with_report,
    report_attention,
)
from pnloc.run import comparators, trained
from pnloc.run.cache import lay_out
from pnloc.run.comparators import Found, boxed_rows, kinds
from pnloc.run.run import Run

ATTENTION = ("detector", "image-label-attention", "text-attention", "report-given")
BEST = "best-proposal"
NEED_REPORTS = ("report-anatomy", "report-given")  # at test; only where the set has reports
BOX_TABLE = ["image", "x1", "y1", "x2", "y2", "score"]


def methods(fitted: Iterable[str] = ()) -> tuple[str, ...]:
    """Every method in the order of the tables: what looks at no image, heat maps, trained baselines, attention, the ceiling.

    fitted: the baselines that a run trains beside those of every run (pnloc.run.trained.names).
    """
    return (*comparators.BLIND, *comparators.CAMS, *fitted, comparators.MASK, *ATTENTION, BEST)


METHODS = methods()  # of every run


def mass(run: Run, name: str, rows: np.ndarray, method: str, seed: int | None = None) -> np.ndarray:
    """A method's mass over the regions [n, R] of some rows of a set; with the attention of the run's own seed or of another."""
    regions = run.regions(name).rows(rows)
    if method == "detector":
        return normalized_scores(regions)
    model, _ = run.localizer(method != "image-label-attention", seed)
    if method == "report-given":
        return report_attention(model, regions, run.sets.phrases(name)[rows])
    return image_attention(model, regions)[0]


def scores(
    run: Run, name: str, rows: np.ndarray, method: str, grouped: bool, seed: int | None = None
) -> np.ndarray:
    """What a method ranks the regions of some rows of a set by [n, R], with or without the grouping step."""
    regions = run.regions(name).rows(rows)
    if method == "report-given":
        return rank_with_report(
            run.localizer(True, seed)[0], regions, run.sets.phrases(name)[rows], grouped
        )
    return rank_regions(regions, mass(run, name, rows, method, seed), grouped)


def choose(
    run: Run, method: str, grouped: bool = True, seed: int | None = None
) -> tuple[Choice, float]:
    """The choice with the best mean union IoU on validation images, and that IoU (NaN where none has boxes)."""
    name = run.title(run.preset.roles.localization[0])
    rows = boxed_rows(run, name, "validate")
    if len(rows) == 0:
        return Choice(grouped=grouped), float("nan")
    truth = [run.sets.true_boxes(name, kinds(name))[i] for i in rows]
    method = "text-attention" if method == "report-given" and name != run.sets.pairs else method
    return best_choice(
        run.regions(name).rows(rows), scores(run, name, rows, method, grouped, seed), truth, grouped
    )


def predict(run: Run) -> Path:
    """Write `predictions/<set>--<method>.csv` for every set and method, and `tables/choices.csv`; return the folder.

    The tables hold boxes in pixels of the original image, for every test image of the set. A report can be given only where the set has
    reports. Methods that end in `-raw` rank by the attention (or the detector's score) alone, without the grouping step. Beside them stand
    `<set>--truth.csv` (image, patient, x1, y1, x2, y2; an image that is known to have no pneumonia is a row without corners), so that
    `python -m pnloc evaluate` can make the tables again, and `<set>--maps.csv`, what each method's heat map is worth per image.
    """
    folder, _ = stage(run)
    lay_out(folder, run.root)
    return run.root / "predictions"


def stage(run: Run) -> tuple[Path, str]:
    """The stage that makes the predictions and choices: its folder and its fingerprint."""

    def make(folder: Path, _: str) -> None:
        choices = {m: choose(run, m) for m in ATTENTION}
        choices |= {f"{m}-raw": choose(run, m, grouped=False) for m in ATTENTION}
        heats = {
            m: comparators.choose_heat(run, m)
            for m in (*comparators.CAMS, comparators.MASK, "heat-map")
        }
        fitted = {m: trained.choose(run, m) for m in trained.names(run)}
        table = [_choice_row(m, c, v) for m, (c, v) in (choices | heats | fitted).items()]
        write_table(folder / "choices.csv", pd.DataFrame(table).astype({"most": "Int64"}))
        for name in (run.title(role) for role in run.preset.roles.localization):
            rows = run.sets.rows(name, "test")
            write_table(folder / f"{name}--truth.csv", truth_file(run, name))
            found, maps = _found(
                run, name, rows, choices, {m: c for m, (c, _) in (heats | fitted).items()}
            )
            write_table(folder / f"{name}--maps.csv", maps)
            for method, boxes in found.items():
                write_table(folder / f"{name}--{method}.csv", boxes_table(run, name, rows, boxes))

    upstream = [run.regions_stage(run.title(r))[1] for r in run.preset.roles.localization]
    models = [run.localizer_stage(True)[1], run.localizer_stage(False)[1], run.classifier_stage[1]]
    models += [trained.stage(run, method)[1] for method in trained.names(run)]
    return run.cache.stage("predict", upstream, models, make=make)


def _choice_row(method: str, choice: "Choice | HeatChoice", value: float) -> dict:
    if isinstance(choice, Choice):
        return {
            "method": method,
            "share": choice.share,
            "most": choice.most,
            "validation_miou": value,
        }
    plain = {
        "method": method,
        "share": choice.threshold,
        "most": choice.most,
        "validation_miou": value,
    }
    return plain | {"rule": choice.rule, "layer": choice.layer}


def _found(
    run: Run, name: str, rows: np.ndarray, choices: dict, heats: dict
) -> tuple[dict[str, Found], pd.DataFrame]:
    """Boxes and scores of every method for some rows of a set, in pixels of the square input; and the table image, method, cnr.

    The score of a method with an image-level probability is that probability times the box's share of the image's best score, as in
    pnloc.localizer.Localizer.
    """
    regions, truth = (
        run.regions(name).rows(rows),
        [run.sets.true_boxes(name, kinds(name))[i] for i in rows],
    )
    boxed = np.flatnonzero([len(t) > 0 for t in truth])
    found = comparators.blind(run, name, rows, heats["heat-map"])
    training = comparators.training_boxes(run)
    prior = [
        comparators.drawn(run, name, row, training, np.ones(len(training))) for row in rows[boxed]
    ]
    maps = {"heat-map": comparators.heat_rows(run, name, rows[boxed], prior)}
    for method, boxes, heat in comparators.activations(run, name, rows, heats):
        found[method] = boxes
        maps[method] = comparators.heat_rows(run, name, rows[boxed], heat[boxed])
    boxes, heat = comparators.mask_boxes(run, name, rows, heats[comparators.MASK])
    found[comparators.MASK] = comparators.scored(boxes, likely(run, name, rows, "detector"))
    maps[comparators.MASK] = comparators.heat_rows(run, name, rows[boxed], heat[boxed])
    for method in trained.names(run):
        found[method], heat = trained.found(run, name, rows, method, heats[method])
        if heat is not None:
            maps[method] = comparators.heat_rows(run, name, rows[boxed], [heat[i] for i in boxed])
    for method, (choice, _) in choices.items():
        plain = method.removesuffix("-raw")
        if plain not in NEED_REPORTS or name == run.sets.pairs:
            ranking = scores(run, name, rows, plain, choice.grouped)
            found[method] = comparators.scored(
                boxes_of(regions, ranking, choice), likely(run, name, rows, plain)
            )
            if method == plain:
                over = mass(run, name, rows[boxed], plain)
                heat = comparators.maps_of_regions(run, name, rows[boxed], over)
                maps[method] = comparators.heat_rows(run, name, rows[boxed], heat)
    found[BEST] = [(b, np.ones(len(b))) for b in baselines.best_proposals(regions, truth)]
    return found, pd.concat(
        [m.assign(method=method) for method, m in maps.items()], ignore_index=True
    )


def likely(run: Run, name: str, rows: np.ndarray, method: str) -> np.ndarray:
    """A method's own estimate [n], 0 to 1, of how likely an image of a set has a pneumonia.

    Where the report is given, images whose report asserts one come before all others, and the image decides among either.
    """
    regions = run.regions(name).rows(rows)
    if method == "detector":
        return regions.image.numpy()
    probability = image_attention(run.localizer(method != "image-label-attention")[0], regions)[1][
        :, 0
    ]
    if method == "report-given":
        said = run.sets.phrases(name)[rows]
        probability = (probability + (said.any((1, 2)) if said.size else 0.0)) / 2
    return probability


def boxes_table(run: Run, name: str, rows: np.ndarray, found: Found) -> pd.DataFrame:
    """Boxes in pixels of the square input -> a table image, x1, y1, x2, y2, score in original pixels."""
    images = run.sets.records(name).images.iloc[rows]
    boxes = [
        t.inverse(boxes) for t, (boxes, _) in zip(run.sets.letterboxes(images), found, strict=True)
    ]
    table = pd.DataFrame(np.concatenate([np.zeros((0, 4)), *boxes]), columns=BOX_TABLE[1:5])
    table["score"] = np.concatenate([np.zeros(0), *(scores for _, scores in found)])
    return table.assign(image=np.repeat(images["image"].to_numpy(), [len(b) for b in boxes]))[
        BOX_TABLE
    ]


def truth_table(run: Run, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """True boxes of a set's test images (image, x1, y1, x2, y2; original pixels), and each image's patient."""
    records = run.sets.records(name)
    rows = boxed_rows(run, name, "test")
    images = records.images.iloc[rows]
    boxes = records.boxes[records.boxes["image"].isin(images["image"])]
    if kinds(name) is not None:
        boxes = boxes[boxes["label"].isin(kinds(name))]
    return boxes[["image", "x1", "y1", "x2", "y2"]], dict(
        zip(images["image"], images["patient"], strict=True)
    )


def negatives(run: Run, name: str) -> dict[str, str]:
    """Test images of a set that are labelled as free of a pneumonia and have no box of any kind, with their patients."""
    records = run.sets.records(name)
    images = records.images.iloc[run.sets.rows(name, "test")]
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
    """Saved predictions of a set by method, in the order of the tables; rankings without the grouping step come last."""
    fitted = [m for m in BASELINES if m in run.preset.baselines]
    order = [*methods(fitted), *(f"{m}-raw" for m in ATTENTION)]
    paths = {m: run.root / "predictions" / f"{name}--{m}.csv" for m in order}
    return {m: read_csv(p, BOX_TABLE, dtype={"image": str}) for m, p in paths.items() if p.exists()}


def ranked(run: Run, name: str, method: str) -> list[tuple[int, float, np.ndarray]]:
    """Boxed test images of a set by falling union IoU of a method: row number, IoU, boxes in the square input's pixels."""
    saved = saved_predictions(run, name)[method]
    boxes = {
        image: rows[["x1", "y1", "x2", "y2"]].to_numpy(float)
        for image, rows in saved.groupby("image")
    }
    rows = boxed_rows(run, name, "test")
    images = run.sets.records(name).images.iloc[rows]
    truth, none = run.sets.true_boxes(name, kinds(name)), np.zeros((0, 4))
    found = [
        t.boxes(boxes.get(i, none))
        for i, t in zip(images["image"], run.sets.letterboxes(images), strict=True)
    ]
    values = [union_iou(b, truth[row]) for row, b in zip(rows, found, strict=True)]
    return [
        (int(rows[k]), values[k], found[k]) for k in np.argsort(-np.array(values), kind="stable")
    ]
