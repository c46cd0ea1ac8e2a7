"""Predictions of every method on test images, and the choices behind them.

They are written to `predictions/` in the run's folder, so that every table can be made again from
files alone. The number of boxes of a method, and the share of its best score above which it gives
them, are chosen on validation images.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.baselines.heatmaps import HeatChoice
from pnloc.boxes import union_iou
from pnloc.evaluation import localization as metrics
from pnloc.files import read_csv, write_table
from pnloc.localizer import Boxes, Choice
from pnloc.run.cache import lay_out
from pnloc.run.evidence import Images, boxed_rows, pneumonia_labels
from pnloc.run.methods import METHODS, available, train
from pnloc.run.run import ARMS, ATTENTIONS, Run

BOX_TABLE = ["image", *metrics.CORNERS, "score"]
TRUTH = ["image", "patient", *metrics.CORNERS]
# Groups of methods whose heat maps are measured.
_MAPS = ("prior", "classifier", "mask", "labels", "pairs", "boxes", "attention")


def choose(run: Run, method: str) -> tuple[Choice | HeatChoice | None, float]:
    """A method's choice with the greatest mean union IoU on validation images, and that IoU.

    The IoU is NaN if no validation image has boxes; a method without a choice gives (None, NaN).
    """
    name = run.title(run.preset.roles.localization[0])
    images = Images(run, name, boxed_rows(run, name, "validate"))
    return METHODS[method].evidence(images).choose(images.truth)


def predict(run: Run) -> str:
    """Write `predictions/<set>--<method>.csv` for every set and method; return their fingerprint.

    The tables hold boxes in pixels of the original image, for every test image of the set. Methods
    that read reports need a set with reports. Methods that end in `-raw` rank by the attention (or
    the detector's score) alone, without the grouping step. Further files are `<set>--truth.csv`
    (`truth_file`), from which `python -m pnloc evaluate` can make the tables again,
    `<set>--maps.csv` (`heat_rows`), and `tables/choices.csv`.
    """
    names = [run.title(role) for role in run.preset.roles.localization]

    def make(folder: Path, _: str) -> None:
        choices = {method.name: choose(run, method.name) for method in available(run)}
        write_table(folder / "choices.csv", choices_table(choices))
        for name in names:
            images, maps = Images(run, name, run.sets.rows(name, "test")), {}
            write_table(folder / f"{name}--truth.csv", truth_file(truth(run, name)))
            for method in available(run, images.has_reports):
                evidence, (choice, _) = method.evidence(images), choices[method.name]
                table = boxes_table(run, name, images.rows, evidence.predictions(choice))
                write_table(folder / f"{name}--{method.name}.csv", table)
                if method.group in _MAPS:
                    table = heat_rows(images, partial(evidence.heat, choice))
                    maps[method.name] = table.assign(method=method.name)
            table = pd.concat(maps.values(), ignore_index=True)
            write_table(folder / f"{name}--maps.csv", table)

    upstream = [run.regions_stage(name)[1] for name in names]
    models = [run.localizer_stage(*form).key for form in ATTENTIONS.values()]
    models += [stage.key for stage in train(run).values()]
    models += [run.arm_stage(arm).key for arm in ARMS[:2] if run.preset.detector.place_weight]
    folder, key = run.cache.stage("predict", upstream, models, make=make)
    lay_out(folder, run.root)
    return key


def choices_table(choices: dict[str, tuple[Choice | HeatChoice | None, float]]) -> pd.DataFrame:
    """`tables/choices.csv`: method, share, most, validation_miou, rule, layer.

    `share` is a heat map's threshold, too. A method without a choice has no row.
    """
    pairs = [(name, *choice) for name, choice in choices.items()]
    rows = [{"method": m, "validation_miou": v, **asdict(c)} for m, c, v in pairs if c]
    columns = ["method", "share", "most", "validation_miou", "rule", "layer"]
    table = pd.DataFrame(rows, columns=[*columns, "threshold"]).astype({"most": "Int64"})
    return table.assign(share=table["share"].fillna(table["threshold"]))[columns]


def heat_rows(images: Images, heat: Callable[[int], np.ndarray | None]) -> pd.DataFrame:
    """Table image, cnr of the heat maps of images with true boxes.

    heat: number of an image -> its map [S, S]. The bars that pad the picture to a square are left
    out; an image without a map has no row.
    """
    table, rows = images.run.sets.records(images.name).images.iloc[images.rows], []
    triples = zip(table["image"], images.truth, images.place(np.array([[0, 0, 1, 1]])), strict=True)
    for number, (image, true, inside) in enumerate(triples):
        if len(true) and (values := heat(number)) is not None:
            x1, y1, x2, y2 = inside[0].round().astype(int)
            cnr = metrics.contrast_to_noise(values[y1:y2, x1:x2], true - [x1, y1, x1, y1])
            rows.append((image, cnr))
    return pd.DataFrame(rows, columns=["image", "cnr"])


def boxes_table(run: Run, name: str, rows: np.ndarray, predictions: Boxes) -> pd.DataFrame:
    """Predictions as a table image, x1, y1, x2, y2, score in pixels of the original images."""
    images = run.sets.records(name).images.iloc[rows]
    parts = [(np.zeros((0, 4)), np.zeros(0))]
    for letterbox, (boxes, scores) in zip(run.sets.letterboxes(images), predictions, strict=True):
        parts.append((letterbox.inverse(boxes), scores))
    boxes, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    image = np.repeat(images["image"].to_numpy(), [len(boxes) for boxes, _ in predictions])
    return pd.DataFrame(boxes, columns=metrics.CORNERS).assign(image=image, score=scores)[BOX_TABLE]


def truth(run: Run, name: str, split: str = "test") -> metrics.Truth:
    """True boxes of a set's images of a split in original pixels, and negatives, with patients.

    Negatives are labelled as without a pneumonia and have no box of any kind.
    """
    records, labels = run.sets.records(name), pneumonia_labels(name)
    boxed = records.images.iloc[boxed_rows(run, name, split)]
    boxes = records.boxes[records.boxes["image"].isin(boxed["image"])]
    boxes = boxes if labels is None else boxes[boxes["label"].isin(labels)]
    tested = records.images.iloc[run.sets.rows(name, split)]
    tested = tested[(tested["label"] == 0) & ~tested["image"].isin(records.boxes["image"])]
    patients = pd.concat([boxed, tested]).set_index("image")["patient"].to_dict()
    return metrics.Truth(boxes[["image", *metrics.CORNERS]], patients, tested["image"].tolist())


def truth_file(truth: metrics.Truth) -> pd.DataFrame:
    """`predictions/<set>--truth.csv`: image, patient, x1, y1, x2, y2; negatives without corners."""
    images = pd.Index([*truth.boxes["image"], *truth.negatives], dtype=object)
    table = truth.boxes.reset_index(drop=True).reindex(range(len(images)))
    return table.assign(image=images, patient=images.map(truth.patients)).reindex(columns=TRUTH)


def saved_predictions(run: Run, name: str) -> dict[str, pd.DataFrame]:
    """Saved predictions of a set by method, in the order of the tables."""
    order = [m.name for m in METHODS.values() if not m.training or m.name in run.preset.baselines]
    paths = {method: run.root / "predictions" / f"{name}--{method}.csv" for method in order}
    return {m: read_csv(p, BOX_TABLE, dtype={"image": str}) for m, p in paths.items() if p.exists()}


def ranked(run: Run, name: str, method: str) -> list[tuple[int, float, np.ndarray]]:
    """Test images of a set that have a box, by a method's union IoU, the best first.

    Each with its row number, IoU and predicted boxes in pixels of the square input.
    """
    images = Images(run, name, boxed_rows(run, name, "test"))
    saved = saved_predictions(run, name)[method].set_index("image")[metrics.CORNERS]
    table = run.sets.records(name).images.iloc[images.rows]
    places = zip(table["image"], run.sets.letterboxes(table), strict=True)
    boxes = [letterbox.boxes(saved[saved.index == image]) for image, letterbox in places]
    rows = zip(images.rows.tolist(), map(union_iou, boxes, images.truth), boxes, strict=True)
    return sorted(rows, key=lambda item: -item[1])
