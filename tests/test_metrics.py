"""Metrics: by hand, against reference code and brute force; the bootstrap draws patients."""

import contextlib
import io
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torchvision.ops import box_iou

from pnloc.boxes import as_boxes, iou
from pnloc.errors import PnlocError
from pnloc.evaluation import bootstrap, froc_ap
from pnloc.evaluation import localization as metrics
from pnloc.evaluation.bootstrap import Patients
from pnloc.evaluation.froc_ap import Case

BY_HAND = tomllib.loads(Path(__file__).with_name("by_hand.toml").read_text(encoding="utf-8"))
TRUTH = [("a", 0, 0, 10, 10), ("a", 20, 20, 30, 30), ("b", 0, 0, 10, 10), ("c", 0, 0, 4, 4)]
# a: its first true box twice, once exactly and once by half; b: IoU 40/160, 40% of the prediction
# inside; c: nothing; d: no truth.
PREDICTED = [
    ("a", 0, 0, 10, 5, 0.5),
    ("a", 0, 0, 10, 10, 0.9),
    ("b", 6, 0, 16, 10, 0.8),
    ("d", 0, 0, 9, 9, 1.0),
]
PATIENTS = {"a": "p", "b": "p", "c": "q"}
# By falling score: a hit in a, a false positive in the negative n, a hit in b, one more in m.
WITH_NEGATIVES = [
    ("a", 0, 0, 10, 10, 0.9),
    ("n", 0, 0, 5, 5, 0.8),
    ("b", 0, 0, 10, 10, 0.7),
    ("m", 0, 0, 5, 5, 0.6),
]


def true(rows=TRUTH) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image", *metrics.CORNERS])


def predicted(rows=PREDICTED) -> pd.DataFrame:
    columns = ["image", *metrics.CORNERS, "score"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[1:], float))


def truth_of(rows=TRUTH, patients=PATIENTS, negatives=()) -> metrics.Truth:
    return metrics.Truth(true(rows), patients, negatives)


def measured(rows=PREDICTED, **truth) -> pd.DataFrame:
    return metrics.localization(predicted(rows), truth_of(**truth), resamples=50)


def with_negatives(rows=WITH_NEGATIVES) -> pd.DataFrame:
    return measured(rows, patients=PATIENTS | {"m": "r", "n": "s"}, negatives=["m", "n"])


def row_of(table: pd.DataFrame, metric: str, threshold: float | None = None) -> pd.Series:
    rows = table[table["metric"] == metric]
    return (rows if threshold is None else rows[np.isclose(rows["threshold"], threshold)]).iloc[0]


def strips(shares: dict[str, float], owner: dict[str, str]) -> tuple[pd.DataFrame, metrics.Truth]:
    """Predictions and truth in which each image has the given IoU; one of 0 has no prediction."""
    rows = [(image, 0, 0, 100 * share, 10, 1.0) for image, share in shares.items() if share]
    return predicted(rows), truth_of([(image, 0, 0, 100, 10) for image in shares], owner)


# By hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "threshold", "value", "n"), BY_HAND["metrics"])
def test_a_metric_by_hand(metric, threshold, value, n):
    row = row_of(measured(), metric, threshold or None)
    assert row["value"] == pytest.approx(value) and row["n"] == n


@pytest.mark.parametrize(
    "rows", [[], [("d", 0, 0, 9, 9, 1.0)], [(i, 3, 3, 3, 9, 1.0) for i in "abc"]]
)
def test_without_predictions_everything_is_missed_and_nothing_is_left_out(rows):
    table = measured(rows)
    hits = table[~table["metric"].isin(["pointing", "afp"])]
    assert (hits[["value", "low", "high"]] == 0).all(axis=None)
    assert row_of(table, "acc", 0.1)["n"] == 4 and row_of(table, "miou")["n"] == 3


def test_perfect_predictions_reach_one_everywhere():
    table = measured([(*row, 1.0) for row in TRUTH]).set_index("metric")[["value", "low", "high"]]
    assert (table.drop("afp") == 1).all(axis=None) and (table.loc["afp"] == 0).all(axis=None)


def test_ties_count_by_their_share_of_hits():
    # Two of four equal scores are right, on images that come first or last by name.
    rows = [(i, 0, 0, n, n, 1.0) for i, n in zip("abcd", (50, 100, 50, 100), strict=True)]
    owners = {i: i for i in "abcd"}
    truth = truth_of([(i, 0, 0, 100, 100) for i in "bd"], owners, negatives=["a", "c"])
    table = metrics.localization(predicted(rows), truth, resamples=50)
    assert (table.loc[table["metric"] == "coco_ap", "value"] == 0.5).all()
    # A better hit alone, then one hit of two: at the recalls in between precision falls to 2/3.
    better = metrics.localization(predicted([*rows[:1], *rows[3:], (*rows[1][:5], 2.0)]), truth, 50)
    recalls = froc_ap.COCO_RECALLS[51:] * 2
    expected = (51 + (recalls / (1 + (recalls - 1) * 2)).sum()) / 101
    assert row_of(better, "coco_ap", 0.5)["value"] == pytest.approx(expected)
    # Of two best boxes one points at the pneumonia.
    both = predicted([("b", 0, 0, 10, 10, 1.0), ("b", 200, 0, 210, 10, 1.0)])
    only = truth_of([("b", 0, 0, 100, 100)], {"b": "p"})
    assert row_of(metrics.localization(both, only, 50), "pointing")["value"] == 0.5


def test_a_prediction_on_a_negative_lowers_what_takes_negatives_in_and_nothing_else():
    clean, worse = with_negatives(WITH_NEGATIVES[::2]), with_negatives()
    moved = ~np.isclose(clean["value"], worse["value"])
    assert set(worse.loc[moved, "metric"]) == {"froc", "froc_mean", "rsna_map", "coco_ap"}
    assert (worse.loc[moved, "value"] <= clean.loc[moved, "value"]).all()


def test_rsna_leaves_out_images_without_any_box():
    # a: one of two boxes, 1/2; b: 1; c: missed, 0; a predicted negative is 0, others do not count.
    for rows, n in ((WITH_NEGATIVES, 5), (WITH_NEGATIVES[:3], 4)):
        row = row_of(with_negatives(rows), "rsna_map")
        assert row["value"] == pytest.approx((1 / 2 + 1) / n) and row["n"] == n


def test_contrast_to_noise_by_hand():
    heat = np.array([[4.0, 2, 0, 0], [2, 4, 2, 2]])
    left, right, whole = (np.array([b], float) for b in ([0, 0, 2, 2], [2, 0, 4, 2], [0, 0, 4, 2]))
    # Inside 4 2 2 4: mean 3, variance 1; outside 0 0 2 2: mean 1, variance 1. It has no sign.
    for boxes in (left, right, np.concatenate([left, right])):
        assert metrics.contrast_to_noise(heat, boxes) == pytest.approx(2 / np.sqrt(2))
    assert metrics.contrast_to_noise(np.ones((2, 4)), left) == 0, "a flat map has no contrast"
    assert np.isnan(metrics.contrast_to_noise(heat, whole)), "nothing lies outside"


def test_the_table_of_heat_maps_counts_what_it_has():
    maps = pd.DataFrame({"image": ["a", "b", "c"], "cnr": [1.0, 2.0, np.nan]})
    row = metrics.heat_table(maps, PATIENTS, resamples=20).iloc[0]
    assert row["metric"] == "cnr" and row["value"] == 1.5 and row["n"] == 2
    none = metrics.heat_table(maps.assign(cnr=np.nan), PATIENTS, resamples=20).iloc[0]
    assert np.isnan(none["value"]) and none["n"] == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [1, 4, 5])
def test_a_prediction_that_is_no_number_is_named(bad, place):
    row = [*PREDICTED[2]]
    row[place] = bad
    table = predicted([*PREDICTED[:2], tuple(row)])
    with pytest.raises(PnlocError, match="prediction for image 'b'"):
        metrics.localization(table, truth_of())
    with pytest.raises(PnlocError, match="prediction for image 'b'"):
        metrics.differences(predicted(), table, truth_of())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": []}, "no true box"),
        ({"patients": {"a": "p", "c": "q"}}, "image 'b' has no patient"),
        ({"negatives": ["a"]}, "image 'a' has true boxes and is named as one without"),
        ({"negatives": ["n"]}, "image 'n' has no patient"),
    ],
)
def test_what_cannot_be_measured_is_named(options, message):
    with pytest.raises(PnlocError, match=message):
        metrics.localization(predicted(), truth_of(**options))


# Against others -------------------------------------------------------------------------------


def corners(box: tuple) -> tuple:
    """x1, y1, x2, y2 of x1, y1, width, height."""
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


place = st.floats(-50, 50, allow_nan=False, width=32)
length = st.floats(0.125, 40, allow_nan=False, width=32)
solid = st.tuples(place, place, length, length).map(corners)
cell, size = st.integers(0, 12), st.integers(1, 12)
# Boxes of whole coordinates, so that overlaps are the same numbers everywhere, ties included.
whole = st.tuples(cell, cell, size, size).map(corners)
scored = st.tuples(whole, st.integers(1, 64))
image = st.tuples(st.lists(scored, max_size=6), st.lists(whole, max_size=4))
scenes = st.lists(image, min_size=1, max_size=5).filter(lambda images: any(t for _, t in images))


def cases_of(images, apart=False) -> list[Case]:
    """Cases of images: boxes with scores in 64ths, equal ones `apart`, and true boxes."""
    cases = []
    if apart:
        steps = iter(range(10**6))
        images = [([(b, s + next(steps) / 1024) for b, s in boxes], t) for boxes, t in images]
    for number, (boxes, truth) in enumerate(images):
        ordered = sorted(boxes, key=lambda box: -box[1])
        scores = np.array([score / 64 for _, score in ordered])
        cases.append(Case(str(number), as_boxes([b for b, _ in ordered]), scores, as_boxes(truth)))
    return cases


def once(cases: list[Case]) -> np.ndarray:
    return np.ones((1, len(cases)), dtype=int)


@settings(deadline=None, max_examples=50)
@given(st.lists(solid, min_size=1, max_size=5), st.lists(solid, min_size=1, max_size=5))
def test_iou_agrees_with_torchvision(first, second):
    tensors = (torch.tensor(boxes, dtype=torch.float64) for boxes in (first, second))
    assert iou(first, second) == pytest.approx(box_iou(*tensors).numpy(), abs=1e-9)


def by_pycocotools(cases: list[Case]) -> np.ndarray:
    """Average precision at each of COCO's ten thresholds, by the reference code."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def box(corners, i, **more):
        x1, y1, x2, y2 = map(float, corners)
        corners, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
        return {"image_id": i, "bbox": corners, "area": area, "category_id": 1, **more}

    truth = [box(b, i, iscrowd=0) for i, case in enumerate(cases) for b in case.true]
    results = []
    for i, case in enumerate(cases):
        scored = zip(case.predicted, case.scores, strict=True)
        results += [box(b, i, score=float(score)) for b, score in scored]
    if not results:
        return np.zeros(10)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        annotations = [row | {"id": n} for n, row in enumerate(truth, start=1)]
        images = [{"id": i} for i in range(len(cases))]
        coco.dataset = {"images": images, "categories": [{"id": 1}], "annotations": annotations}
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, 0, 0, -1].mean(1)


def by_torchmetrics(cases: list[Case]) -> float:
    """The mean over COCO's thresholds, by another implementation."""
    from torchmetrics.detection import MeanAveragePrecision

    judge = MeanAveragePrecision(
        iou_thresholds=froc_ap.COCO_THRESHOLDS.tolist(),
        rec_thresholds=froc_ap.COCO_RECALLS.tolist(),
        max_detection_thresholds=[1, 10, 100],  # any other last number makes it answer -1
    )

    def boxes(corners, **more):
        labels = torch.zeros(len(corners), dtype=torch.int64)
        return {"boxes": torch.tensor(corners, dtype=torch.float32), "labels": labels, **more}

    scores = [torch.tensor(case.scores, dtype=torch.float32) for case in cases]
    results = [boxes(c.predicted, scores=s) for c, s in zip(cases, scores, strict=True)]
    judge.update(results, [boxes(case.true) for case in cases])
    return float(judge.compute()["map"])


@settings(deadline=None, max_examples=60)
@given(scenes)
def test_average_precision_is_that_of_pycocotools_and_torchmetrics(images):
    cases = cases_of(images, apart=True)
    ours = froc_ap.average_precision(cases, once(cases))[0]
    assert ours == pytest.approx(by_pycocotools(cases), abs=1e-6)
    assert ours.mean() == pytest.approx(by_torchmetrics(cases), abs=1e-6)


def test_with_one_score_for_all_average_precision_is_that_of_shuffled_images_in_the_mean():
    rng = np.random.default_rng(0)
    fixed = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], float)
    truth = [fixed[rng.random(2) < 0.5] + rng.integers(0, 4) for _ in range(300)]
    cases = [Case(str(k), fixed, np.ones(2), boxes) for k, boxes in enumerate(truth)]
    ours = froc_ap.average_precision(cases, once(cases))[0]
    shuffled = [[cases[k] for k in rng.permutation(len(cases))] for _ in range(10)]
    assert ours == pytest.approx(np.mean([by_pycocotools(s) for s in shuffled], axis=0), abs=0.02)
    assert ours.mean() == pytest.approx(np.mean([by_torchmetrics(s) for s in shuffled]), abs=0.02)
    for other in shuffled:
        assert froc_ap.average_precision(other, once(other))[0] == pytest.approx(ours, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(scenes, st.randoms(use_true_random=False))
def test_neither_names_nor_order_move_a_metric(images, random):
    """Rows and images in another order, names that sort otherwise: the same table."""
    names = [f"{number}" for number in range(len(images))]
    others = random.sample([f"{number + 10}" for number in range(len(images))], len(images))
    tables = []
    for named in (names, others):
        pairs = list(zip(named, images, strict=True))
        boxes = [(i, *box, score) for i, (found, _) in pairs for box, score in found]
        if named is others:
            random.shuffle(boxes)
        boxed = [(i, *box) for i, (_, truth) in pairs for box in truth]
        negatives = [i for i, (_, truth) in pairs if not truth]
        truth = truth_of(boxed, {i: i for i in named}, negatives)
        tables.append(metrics.localization(predicted(boxes), truth, resamples=1))
    first, second = (table["value"].to_numpy(float) for table in tables)
    assert second == pytest.approx(first, nan_ok=True)


def plain_rsna(case: Case) -> float:
    """The challenge's rule, threshold by threshold and box by box."""
    values = []
    for threshold in (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75):
        left, hits = list(range(len(case.true))), 0
        for box in case.predicted:
            overlaps = {t: iou([box], [case.true[t]])[0, 0] for t in left}
            if overlaps and max(overlaps.values()) > threshold + 1e-12:
                left.remove(max(overlaps, key=lambda t: (overlaps[t], t)))
                hits += 1
        values.append(hits / (len(case.predicted) + len(case.true) - hits))
    return float(np.mean(values))


@settings(deadline=None, max_examples=40)
@given(image.filter(lambda one: one[0] or one[1]))
def test_rsna_is_that_of_trying_every_box(one):
    (case,) = cases_of([one])
    assert froc_ap.rsna_precision(case) == pytest.approx(plain_rsna(case))


def plain_froc(cases: list[Case], overlap: float) -> list[float]:
    """FROC by trying every score in turn, and the line between what equal scores part."""
    points = [(0.0, 0.0)]
    for limit in sorted({score for case in cases for score in case.scores}, reverse=True):
        hits = wrong = 0
        for case in cases:
            near = iou(case.predicted[case.scores >= limit], case.true) > overlap
            hits, wrong = hits + near.any(0).sum(), wrong + (~near.any(1)).sum()
        points.append((wrong / len(cases), hits / sum(len(case.true) for case in cases)))
    rates, hits = map(list, zip(*points, strict=True))
    last = [k for k in range(len(rates)) if rates[k] not in rates[k + 1 :]]
    first = [rates.index(rate) for rate in rates]
    values = []
    for rate in froc_ap.FROC_RATES:
        below = max(k for k in last if rates[k] <= rate)
        value = hits[below]
        if below + 1 < len(rates):
            share = (rate - rates[below]) / (rates[below + 1] - rates[below])
            value += share * (hits[first[below + 1]] - value)
        values.append(value)
    return values


@settings(deadline=None, max_examples=50)
@given(scenes)
def test_froc_is_that_of_trying_every_score(images):
    cases = cases_of(images)
    ours = froc_ap.froc(cases, once(cases))[0]
    assert ours == pytest.approx(plain_froc(cases, froc_ap.FROC_OVERLAP))


@settings(deadline=None, max_examples=30)
@given(scenes, st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_an_image_that_is_drawn_twice_counts_as_two(images, counts):
    """Weights give what the same images give when they are really repeated."""
    cases = cases_of(images)
    drawn = np.array([counts[: len(cases)]])
    repeated = [case for case, n in zip(cases, drawn[0], strict=True) for _ in range(n)]
    if not any(len(case.true) for case in repeated):
        assert np.isnan(froc_ap.froc(cases, drawn)).all()
        assert np.isnan(froc_ap.average_precision(cases, drawn)).all()
        return
    assert froc_ap.froc(cases, drawn) == pytest.approx(froc_ap.froc(repeated, once(repeated)))
    expected = froc_ap.average_precision(repeated, once(repeated))
    assert froc_ap.average_precision(cases, drawn) == pytest.approx(expected)


def test_samples_in_parts_are_those_in_one(monkeypatch):
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 20, (12, 2, 2))
    truth = np.concatenate([corners, corners + 10], axis=2)
    boxes = truth + rng.integers(-2, 3, truth.shape)
    scores = -np.sort(-rng.random((12, 2)), axis=1)
    pairs = zip(boxes.astype(float), scores, truth.astype(float), strict=True)
    cases = [Case(str(number), *own) for number, own in enumerate(pairs)]
    drawn, blocks = Patients(range(12), 40, 0).drawn, froc_ap._blocks
    at_once = froc_ap.average_precision(cases, drawn), froc_ap.froc(cases, drawn)
    monkeypatch.setattr(froc_ap, "_blocks", lambda *of: blocks(*of, most=70))
    assert len(froc_ap._blocks(drawn, 24)) > 10 and np.ptp(at_once[0]) > 0
    assert np.array_equal(froc_ap.average_precision(cases, drawn), at_once[0])
    assert np.array_equal(froc_ap.froc(cases, drawn), at_once[1])


def test_the_area_under_the_roc_curve_of_each_sample_is_scikit_learns():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 2, 60), rng.integers(0, 9, 60) / 10  # many ties
    drawn = Patients(range(60), 20, 0).drawn
    expected = [roc_auc_score(truth, scores, sample_weight=row) for row in drawn]
    assert metrics.auc(truth, scores, drawn) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(metrics.auc(np.ones(3), scores[:3], np.ones((1, 3)))[0]), "no negative"


# The bootstrap --------------------------------------------------------------------------------


def half_good(patients: int, images: int) -> tuple[pd.DataFrame, metrics.Truth]:
    """Patients of whom every other one is hit in all images, and the others in none."""
    owner = {f"p{p:02d}-{i:02d}": f"p{p:02d}" for p in range(patients) for i in range(images)}
    return strips({image: float(int(p[1:]) % 2) for image, p in owner.items()}, owner)


def test_the_bootstrap_draws_patients_and_not_images():
    table, truth = half_good(10, 20)
    alone = metrics.Truth(truth.boxes, {image: image for image in truth.patients})
    by_patient, by_image = (metrics.localization(table, t, 500) for t in (truth, alone))
    for metric, threshold in (("miou", None), ("acc", 0.5), ("pointing", None)):
        wide, narrow = row_of(by_patient, metric, threshold), row_of(by_image, metric, threshold)
        assert wide["value"] == narrow["value"] == 0.5
        # Standard errors .158 of ten patients and .035 of two hundred images, times 2 * 1.96.
        assert 0.5 < wide["high"] - wide["low"] <= 0.7
        assert 0.1 < narrow["high"] - narrow["low"] < 0.18


def test_patients_weigh_by_their_rows():
    mean = Patients(["a", "a", "a", "b"], 400, 0).mean(np.array([1.0, 1, 1, 0]))
    # Samples are aa, ab, ba, bb: 1, 3/4, 3/4, 0.
    assert [*mean] == [0.75, 0.0, 1.0, 4]


def test_rows_are_drawn_with_their_patients_and_as_many_patients_as_there_are():
    draws = Patients(["b", "a", "b", "c", "d"], 500, 1)
    assert draws.drawn.shape == (500, 4) and (draws.drawn.sum(1) == 4).all()
    assert draws.drawn.mean(0) == pytest.approx(np.ones(4), abs=0.15) and draws.drawn.max() > 2
    assert (draws.weights == draws.drawn[:, [1, 0, 1, 2, 3]]).all()


def test_means_differences_and_statistics_of_the_same_rows_agree():
    a, b, per = np.random.default_rng(0).random((3, 40))
    draws = Patients([f"p{i // 3}" for i in range(40)], 100, 0)
    for one, other in (
        (draws.mean(a, per), draws.of(lambda w: w @ a / (w @ per))),
        (draws.difference(a, b), draws.of(lambda w: w @ (a - b) / w.sum(1))),
    ):
        assert [*one][:3] == pytest.approx([*other][:3]) and one.p == pytest.approx(other.p)
    assert draws.mean(a).n == 40 and draws.mean(a, np.full(40, 2.0)).n == 80


def test_an_interval_leaves_out_what_is_not_finite():
    values = np.array([np.nan, *range(101), np.inf])
    assert bootstrap.interval(values) == pytest.approx((2.5, 97.5))
    assert np.isnan(bootstrap.interval(np.array([np.nan]))).all()


def test_differences_by_hand():
    table = metrics.differences(predicted(), predicted([]), truth_of(), resamples=20)
    assert list(table.columns) == ["metric", "value", "low", "high", "n", "p"]
    values = dict(zip(table["metric"], zip(table["value"], table["n"], strict=True), strict=True))
    assert values == {"miou": (1 / 4, 3), "pointing": (1 / 3, 3), "acc@0.3": (1 / 4, 4)}


def test_the_p_value_is_that_of_the_interval_and_never_zero():
    drawn = np.linspace(-0.1, 0.9, 999)  # a tenth lies below 0
    assert bootstrap.p_value(drawn) == pytest.approx(0.2, abs=0.01)
    assert bootstrap.p_value(drawn + 1) == bootstrap.p_value(-drawn - 1) == pytest.approx(2 / 1000)
    assert bootstrap.p_value(np.zeros(50)) == 1 and np.isnan(bootstrap.p_value(np.array([np.nan])))


def test_no_difference_is_significant_in_about_one_of_twenty():
    values = np.random.default_rng(0).normal(0, 1, (300, 60))
    p = [Patients(range(60), 300, trial).mean(row).p for trial, row in enumerate(values)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.10


def test_holm_corrects_a_family():
    assert bootstrap.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert bootstrap.holm([0.5, 0.9]).tolist() == [1.0, 1.0] and bootstrap.holm([]).tolist() == []
    corrected = bootstrap.holm([0.01, np.nan, 0.04])
    assert corrected[[0, 2]] == pytest.approx([0.02, 0.04]) and np.isnan(corrected[1])
