"""Behind the tables of localization: where the localizer fails, whether scores can be believed, where words and attributes point."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from pnloc import reports
from pnloc.boxes import iou
from pnloc.config import BASELINES
from pnloc.evaluation import calibration
from pnloc.evaluation.bootstrap import by_patient, interval, patient_index, weights
from pnloc.files import read_csv, write_table
from pnloc.localizer import image_attention, make_batch
from pnloc.run import comparators
from pnloc.run import predictions as predict
from pnloc.run.run import Run
from pnloc.run.sets import NAMES

FOUND = 0.3  # IoU above which a true box counts as found
COMPARED = ("text-attention", "image-label-attention", "detector")  # whose failures are counted
SIZES = ("small", "middle", "large")


# Failures -------------------------------------------------------------------------------------------------


def failures(run: Run) -> pd.DataFrame:
    """`tables/failures.csv`: dataset, method, factor, level, value, low, high, n; the share of true boxes that a method finds, by what they are."""
    parts = []
    for name in measured(run):
        true, patients = described(run, name), predict.truth_table(run, name)[1]
        for method, predictions in predict.saved_predictions(run, name).items():
            if method in COMPARED:
                rates = found_by(
                    true.assign(found=_found(true, predictions)),
                    patients,
                    run.preset.resamples,
                    run.seed,
                )
                parts.append(rates.assign(dataset=name, method=method))
    table = pd.concat(parts, ignore_index=True)[
        ["dataset", "method", "factor", "level", "value", "low", "high", "n"]
    ]
    write_table(run.root / "tables" / "failures.csv", table)
    return table


def measured(run: Run) -> list[str]:
    """Sets whose test images have true boxes."""
    return [
        name
        for name in map(run.title, run.preset.roles.localization)
        if len(predict.truth_table(run, name)[0])
    ]


def described(run: Run, name: str) -> pd.DataFrame:
    """True test boxes of a set (image, x1, y1, x2, y2) with what is known of each: its size and, of generated ones, place, kind and company.

    Sizes are thirds of the set's test boxes by their share of the image. Zone, lobe, kind and severity come from the generator's truth, as does
    the column `beside`: whether the image has another finding that is no pneumonia.
    """
    boxes = predict.truth_table(run, name)[0].reset_index(drop=True)
    images = run.sets.records(name).images.set_index("image").loc[boxes["image"]]
    area = (boxes["x2"] - boxes["x1"]) * (boxes["y2"] - boxes["y1"])
    share = area.to_numpy() / (images["width"] * images["height"]).to_numpy()
    third = np.searchsorted(np.quantile(share, [1 / 3, 2 / 3]), share)
    table = boxes.assign(size=np.array(SIZES)[third])
    if not run.preset.generated or not name.startswith("demo-"):
        return table
    columns = ["set", "image", "opacities", "others", "boxes", "severity"]
    truth = read_csv(run.sets.folder / "truth.csv", columns, dtype=str, keep_default_na=False)
    truth = truth[truth["set"] == name.removeprefix("demo-")].set_index("image")
    told = [
        _told(truth.loc[row.image], np.array([[row.x1, row.y1, row.x2, row.y2]]))
        for row in boxes.itertuples()
    ]
    return table.join(pd.DataFrame(told))


def _told(truth: pd.Series, box: np.ndarray) -> dict[str, str]:
    """What the generator says of the opacity of an image whose box is nearest."""
    opacities = [text.split("/") for text in truth["opacities"].split(";") if text]
    known = np.array(
        [text.split() for text in truth["boxes"].split(";") if text], dtype=float
    ).reshape(-1, 4)
    kind, side, zone, lobe, _ = opacities[int(iou(box, known)[0].argmax())]
    beside = "another finding" if truth["others"] else "nothing else"
    return {
        "lobe": lobe,
        "zone": f"{side} {zone}",
        "kind": kind,
        "severity": truth["severity"],
        "beside": beside,
    }


def _found(true: pd.DataFrame, predictions: pd.DataFrame) -> np.ndarray:
    """Whether any predicted box of the same image overlaps each true box with IoU > FOUND: float [n]."""
    corners = ["x1", "y1", "x2", "y2"]
    by_image = {
        image: rows[corners].to_numpy(float) for image, rows in predictions.groupby("image")
    }
    rows = zip(true["image"], true[corners].to_numpy(float), strict=True)
    return np.array(
        [
            float(iou(box[None], by_image.get(i, np.zeros((0, 4)))).max(initial=0.0) > FOUND)
            for i, box in rows
        ]
    )


def found_by(
    true: pd.DataFrame, patients: Mapping[str, str], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """factor, level, value, low, high, n: the mean of the column `found` over the boxes of each level of every further column; over patients."""
    factors = [c for c in true.columns if c not in ("image", "x1", "y1", "x2", "y2", "found")]
    index = patient_index(list(true["image"]), patients)
    drawn = weights(index.max() + 1, resamples, seed)
    groups = [("all", "all", np.ones(len(true), dtype=bool))]
    for factor in factors:
        levels = (
            [s for s in SIZES if s in set(true[factor])]
            if factor == "size"
            else sorted(true[factor].unique())
        )
        groups += [(factor, level, (true[factor] == level).to_numpy()) for level in levels]
    rows = []
    for factor, level, member in groups:
        sums = by_patient(np.stack([member * true["found"], member], axis=1).astype(float), index)
        samples = drawn @ sums
        with np.errstate(invalid="ignore"):
            shares = samples[:, 0] / samples[:, 1]
        rows.append(
            (
                factor,
                level,
                sums[:, 0].sum() / sums[:, 1].sum(),
                *interval(shares),
                int(member.sum()),
            )
        )
    return pd.DataFrame(rows, columns=["factor", "level", "value", "low", "high", "n"])


# Calibration ----------------------------------------------------------------------------------------------


def calibrations(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`tables/calibration.csv` (dataset, method, value, low, high, n: the expected calibration error) and `tables/reliability.csv` (its curves).

    For the methods whose score is meant as a probability; images that are known to have no pneumonia count.
    """
    errors, curves = [], []
    for name in measured(run):
        (truth, patients), without = predict.truth_table(run, name), predict.negatives(run, name)
        for method, predictions in predict.saved_predictions(run, name).items():
            if method in (*comparators.CAMS, *BASELINES, *predict.ATTENTION):
                boxes = calibration.right_boxes(predictions, truth, without)
                options = {"resamples": run.preset.resamples, "seed": run.seed}
                curve, error = calibration.calibration(boxes, patients | without, **options)
                errors.append((name, method, *error))
                curves.append(curve.assign(dataset=name, method=method))
    made = pd.DataFrame(errors, columns=["dataset", "method", "value", "low", "high", "n"])
    write_table(run.root / "tables" / "calibration.csv", made)
    drawn = pd.concat(curves, ignore_index=True)[
        ["dataset", "method", "bin", "score", "right", "low", "high", "n"]
    ]
    write_table(run.root / "tables" / "reliability.csv", drawn)
    return made, drawn


# Attention ------------------------------------------------------------------------------------------------


def example(run: Run) -> int | None:
    """The row of a test study of the pairs: the one at the median of the union IoU of what text attention finds, among those whose report has words.

    Where the pairs have no boxes, the first test study with words. None where there is none, or where its image or text may not be shown.
    """
    name = run.sets.pairs
    rows, texts = run.sets.rows(name, "test").tolist(), run.sets.texts(name)
    boxed = name in measured(run)
    if boxed:
        rows = [row for row, _, _ in predict.ranked(run, name, "text-attention")]
    rows = [row for row in rows if reports.asserting_words(texts[row], run.sets.splitter)]
    if not rows or not run.sets.may_show(name) or not run.sets.may_show_text(name):
        return None
    return rows[len(rows) // 2] if boxed else rows[0]


@torch.no_grad()
def word_attention(run: Run, row: int, most: int = 6) -> list[tuple[str, np.ndarray]]:
    """The different words of a study of the pairs that its report asserts an opacity with, and their attention [R] over its regions.

    Those that point most firmly to one region come first, `most` at the most; unknown words and such as 'the' are left out.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    said = reports.asserting_words(run.sets.texts(run.sets.pairs)[row], run.sets.splitter)
    words = run.sets.vectors.index(said)[None, : run.preset.words.most]
    alpha = (
        run.localizer(True)[0]
        .text_attention(make_batch(run.regions(run.sets.pairs).rows([row]), words))[0]
        .cpu()
        .numpy()
    )
    found: dict[str, np.ndarray] = {}
    for number, over in zip(words[0], alpha, strict=True):
        word = run.sets.vectors.words[number]
        if (
            number > 0
            and word not in ENGLISH_STOP_WORDS
            and (word not in found or over.max() > found[word].max())
        ):
            found[word] = over
    return sorted(found.items(), key=lambda item: -item[1].max())[:most]


@torch.no_grad()
def attribute_attention(run: Run, row: int, most: int = 6) -> list[tuple[str, float, np.ndarray]]:
    """The attributes that the image of a study of the pairs is given with the greatest probability, that, and their attention beta [R]; no word is read."""
    model, regions = run.localizer(True)[0], run.regions(run.sets.pairs).rows([row])
    probabilities = image_attention(model, regions)[1][0]
    beta = model.image_only(make_batch(regions))[0][0].cpu().numpy()
    return [
        (NAMES[k], float(probabilities[k]), beta[k])
        for k in np.argsort(-probabilities, kind="stable")[:most]
    ]
