"""Metrics: by hand, against torchvision and against pixels; the bootstrap moves patients and is paired."""

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torchvision.ops import box_iou

from pnloc import boxes as b
from pnloc.errors import PnlocError
from pnloc.evaluation import bootstrap
from pnloc.evaluation import froc_ap as detection
from pnloc.evaluation import localization as metrics

TRUTH = [("a", 0, 0, 10, 10), ("a", 20, 20, 30, 30), ("b", 0, 0, 10, 10), ("c", 0, 0, 4, 4)]
# a: its first true box twice, once exactly and once by half; b: IoU 40/160, 40% of the prediction inside; c: nothing; d: no truth.
FOUND = [
    ("a", 0, 0, 10, 5, 0.5),
    ("a", 0, 0, 10, 10, 0.9),
    ("b", 6, 0, 16, 10, 0.8),
    ("d", 0, 0, 9, 9, 1.0),
]
PATIENTS = {"a": "p", "b": "p", "c": "q"}


def truth_of(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image", *metrics.CORNERS])


def found_of(rows) -> pd.DataFrame:
    columns = ["image", *metrics.CORNERS, "score"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[1:], float))


def value(table: pd.DataFrame, metric: str, threshold: float | None = None) -> pd.Series:
    rows = table[table["metric"] == metric]
    return (rows if threshold is None else rows[np.isclose(rows["threshold"], threshold)]).iloc[0]


def measured(rows=FOUND, **options) -> pd.DataFrame:
    return metrics.localization(found_of(rows), truth_of(TRUTH), PATIENTS, resamples=50, **options)


def strip(image: str, share: float) -> tuple:
    """A prediction of IoU `share` with the true box 0, 0, 100, 10."""
    return (image, 0, 0, 100 * share, 10, 1.0)


def strips(shares: dict[str, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and truth in which each image has the given IoU; one of 0 has no prediction."""
    return found_of([strip(i, s) for i, s in shares.items() if s]), truth_of(
        [(i, 0, 0, 100, 10) for i in shares]
    )


# By hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "share"),
    [(0.1, 2 / 4), (0.2, 2 / 4), (0.3, 1 / 4), (0.4, 1 / 4), (0.5, 1 / 4), (0.7, 1 / 4)],
)
def test_accuracy_is_the_share_of_true_boxes_with_an_iou_above_the_threshold(threshold, share):
    row = value(measured(), "acc", threshold)
    assert row["value"] == pytest.approx(share) and row["n"] == 4


@pytest.mark.parametrize(
    ("threshold", "share"), [(0.1, 2 / 4), (0.25, 2 / 4), (0.5, 1 / 4), (0.75, 1 / 4), (0.9, 1 / 4)]
)
def test_iobb_divides_by_the_predicted_box(threshold, share):
    row = value(measured(), "iobb", threshold)
    assert row["value"] == pytest.approx(share) and row["n"] == 4


def test_mean_iou_is_that_of_the_unions_over_images():
    # a: 100 of 200 pixels, b: 1/4, c: nothing.
    row = value(measured(), "miou")
    assert row["value"] == pytest.approx((1 / 2 + 1 / 4 + 0) / 3) and row["n"] == 3


def test_pointing_takes_the_centre_of_the_best_box():
    # a: (5, 5) lies inside, although the box of lesser score comes first; b: (11, 5) lies outside; c: nothing.
    row = value(measured(), "pointing")
    assert row["value"] == pytest.approx(1 / 3) and row["n"] == 3
    worse = [("a", 40, 40, 50, 50, 0.95), *FOUND]
    assert value(measured(worse), "pointing")["value"] == 0
    assert value(measured(worse), "acc", 0.7)["value"] == pytest.approx(1 / 4)


def test_the_table_has_a_row_per_metric_and_threshold():
    table = measured()
    assert list(table.columns) == ["metric", "threshold", "value", "low", "high", "n"]
    once = dict.fromkeys(metrics.METRICS, 1)
    assert table["metric"].value_counts().to_dict() == once | {
        "acc": 7,
        "iobb": 5,
        "afp": 7,
        "froc": 7,
        "coco_ap": 2,
    }
    assert list(table["metric"][:14]) == ["acc"] * 7 + ["iobb"] * 5 + ["miou", "pointing"]
    assert sorted(table.loc[table["metric"] == "acc", "threshold"]) == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    )
    assert sorted(table.loc[table["metric"] == "iobb", "threshold"]) == pytest.approx(
        [0.1, 0.25, 0.5, 0.75, 0.9]
    )
    assert table.loc[table["metric"].isin(["miou", "pointing"]), "threshold"].isna().all()


def test_a_threshold_itself_is_not_enough():
    half = found_of([("c", 0, 0, 4, 2, 1.0)])
    table = metrics.localization(half, truth_of(TRUTH[3:]), PATIENTS, resamples=10)
    assert value(table, "acc", 0.5)["value"] == 0 and value(table, "acc", 0.4)["value"] == 1


@pytest.mark.parametrize(
    "rows", [[], [("d", 0, 0, 9, 9, 1.0)], [(i, 3, 3, 3, 9, 1.0) for i in "abc"]]
)
def test_without_predictions_everything_is_missed_and_nothing_is_left_out(rows):
    table = measured(rows)
    hits = table[~table["metric"].isin(["pointing", "afp"])]
    assert (hits[["value", "low", "high"]] == 0).all(axis=None)
    assert value(table, "acc", 0.1)["n"] == 4 and value(table, "miou")["n"] == 3


def test_perfect_predictions_reach_one_everywhere():
    table = measured([(*row, 1.0) for row in TRUTH])
    wrong = table["metric"] == "afp"
    assert (table.loc[~wrong, ["value", "low", "high"]] == 1).all(axis=None)
    assert (table.loc[wrong, ["value", "low", "high"]] == 0).all(axis=None)


def test_false_positives_are_predicted_boxes_that_match_no_true_box_per_image():
    table = measured()
    counts = [0, 0, 1, 1, 2, 2, 2]  # IoU 1, .5, .25 of the predictions in a and b
    for threshold, count in zip(metrics.IOU_THRESHOLDS, counts, strict=True):
        row = value(table, "afp", threshold)
        assert row["value"] == pytest.approx(count / 3) and row["n"] == 3
    six = measured([("c", 5, 5, 9, 9, 1.0)] * 6)
    assert value(six, "afp", 0.1)["value"] == 2 and value(measured([]), "afp", 0.5)["value"] == 0


# With negatives -------------------------------------------------------------------------------------------

# Found, by falling score: a hit in a, a false positive in the negative n, a hit in b, a false positive in m.
NEGATIVES = [
    ("a", 0, 0, 10, 10, 0.9),
    ("n", 0, 0, 5, 5, 0.8),
    ("b", 0, 0, 10, 10, 0.7),
    ("m", 0, 0, 5, 5, 0.6),
]
OWNERS = PATIENTS | {"m": "r", "n": "s"}


def with_negatives(rows=NEGATIVES, resamples=50) -> pd.DataFrame:
    return metrics.localization(
        found_of(rows), truth_of(TRUTH), OWNERS, resamples=resamples, negatives=["m", "n"]
    )


def test_froc_is_the_sensitivity_when_so_many_false_positives_per_image_are_allowed():
    # Five images, four true boxes. None allowed: 1 box; 1/5 of a false positive per image: 2 boxes; more gives nothing more.
    table = with_negatives()
    found = [value(table, "froc", rate)["value"] for rate in detection.FROC_RATES]
    assert found == [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert value(table, "froc", 1.0)["n"] == 5
    assert value(table, "froc_mean")["value"] == pytest.approx(np.mean(found))


def test_equal_scores_come_together_in_froc():
    same = [(*row[:5], 0.5) for row in NEGATIVES]
    found = [value(with_negatives(same), "froc", rate)["value"] for rate in detection.FROC_RATES]
    # Two false positives on five images come at once, 0.4 per image.
    assert found == [0, 0, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_froc_ends_at_the_accuracy_at_the_same_overlap():
    rng = np.random.default_rng(3)
    rows = [
        (i, x, y, x + 12, y + 9, s) for i in "abc" for x, y, s in rng.random((4, 3)) * [5, 5, 1]
    ]
    table = with_negatives([*rows, *NEGATIVES])
    assert (
        value(table, "froc", 8.0)["value"]
        == value(table, "acc", detection.FROC_OVERLAP)["value"]
        > 0
    )


def test_a_prediction_on_a_negative_lowers_what_takes_negatives_in_and_nothing_else():
    clean, worse = with_negatives(NEGATIVES[::2]), with_negatives()
    moved = ~np.isclose(clean["value"], worse["value"])
    assert set(worse.loc[moved, "metric"]) == {"froc", "froc_mean", "rsna_map", "coco_ap"}
    assert (worse.loc[moved, "value"] <= clean.loc[moved, "value"]).all()


def test_rsna_leaves_out_images_without_any_box():
    # a: one of two boxes found, 1/2; b: 1; c: missed, 0; n and m: a prediction on a negative is 0, none is not counted.
    row = value(with_negatives(), "rsna_map")
    assert row["value"] == pytest.approx((1 / 2 + 1) / 5) and row["n"] == 5
    row = value(with_negatives(NEGATIVES[:3]), "rsna_map")
    assert row["value"] == pytest.approx((1 / 2 + 1) / 4) and row["n"] == 4


def test_rsna_is_the_mean_over_its_eight_thresholds():
    case = detection.Case(
        "a",
        np.array([[0, 0, 6.1, 10], [50, 50, 60, 60]]),
        np.array([1, 0.5]),
        np.array([[0, 0, 10, 10]]),
    )
    # IoU .61 is above .4 to .6, five of eight; then one of two boxes is right.
    assert detection.rsna_precision(case) == pytest.approx(5 / 8 * 1 / 2)


def test_a_prediction_takes_the_free_true_box_that_it_overlaps_most():
    overlaps = np.array([[0.9, 0.8], [0.85, 0.6], [0.7, 0.0]])
    assert detection.match(overlaps, [0.5], False)[:, 0].tolist() == [True, True, False]
    assert detection.match(overlaps, [0.6], False)[:, 0].tolist() == [True, False, False]
    assert detection.match(overlaps, [0.6], True)[:, 0].tolist() == [True, True, False], (
        "COCO takes a tie"
    )
    assert detection.match(np.zeros((2, 0)), [0.5, 0.6], True).tolist() == [[False, False]] * 2
    assert detection.match(np.zeros((0, 2)), [0.5], True).shape == (0, 1)


def test_an_image_is_positive_or_negative_and_has_a_patient():
    with pytest.raises(PnlocError, match="image 'a' has true boxes and is named as one without"):
        metrics.localization(found_of(FOUND), truth_of(TRUTH), PATIENTS, negatives=["a"])
    with pytest.raises(PnlocError, match="image 'n' has no patient"):
        metrics.localization(found_of(FOUND), truth_of(TRUTH), PATIENTS, negatives=["n"])


# Heat maps ------------------------------------------------------------------------------------------------


def test_contrast_to_noise_by_hand():
    heat = np.array([[4.0, 2, 0, 0], [2, 4, 2, 2]])
    # Inside 4 2 2 4: mean 3, variance 1; outside 0 0 2 2: mean 1, variance 1.
    assert metrics.contrast_to_noise(heat, np.array([[0, 0, 2, 2.0]])) == pytest.approx(
        2 / np.sqrt(2)
    )
    # The same contrast on the other side: it has no sign; and the mean over two boxes.
    assert metrics.contrast_to_noise(
        heat, np.array([[0, 0, 2, 2.0], [2, 0, 4, 2]])
    ) == pytest.approx(2 / np.sqrt(2))
    assert metrics.contrast_to_noise(np.ones((3, 3)), np.array([[0, 0, 1, 1.0]])) == 0, (
        "a flat map has no contrast"
    )
    assert np.isnan(metrics.contrast_to_noise(heat, np.array([[0, 0, 4, 2.0]]))), (
        "nothing lies outside"
    )


def test_the_table_of_heat_maps_counts_what_it_has():
    maps = pd.DataFrame({"image": ["a", "b", "c"], "cnr": [1.0, 2.0, np.nan]})
    row = metrics.heat_table(maps, PATIENTS, resamples=20).iloc[0]
    assert row["metric"] == "cnr" and row["value"] == 1.5 and row["n"] == 2
    none = metrics.heat_table(maps.assign(cnr=np.nan), PATIENTS, resamples=20).iloc[0]
    assert np.isnan(none["value"]) and none["n"] == 0


# Bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [1, 4, 5])
def test_a_prediction_that_is_no_number_is_named(bad, place):
    row = [*FOUND[2]]
    row[place] = bad
    rows = [*FOUND[:2], tuple(row)]
    with pytest.raises(PnlocError, match="prediction for image 'b'"):
        measured(rows)
    with pytest.raises(PnlocError, match="prediction for image 'b'"):
        metrics.differences(found_of(FOUND), found_of(rows), truth_of(TRUTH), PATIENTS)


def test_no_truth_and_no_patient_are_errors():
    with pytest.raises(PnlocError, match="no true box"):
        metrics.localization(found_of(FOUND), truth_of([]), PATIENTS)
    with pytest.raises(PnlocError, match="no true box"):
        metrics.differences(found_of(FOUND), found_of(FOUND), truth_of([]), PATIENTS)
    with pytest.raises(PnlocError, match="image 'b' has no patient"):
        metrics.localization(found_of(FOUND), truth_of(TRUTH), {"a": "p", "c": "q"})


# Against others -------------------------------------------------------------------------------------------

coordinate = st.floats(-50, 50, allow_nan=False, width=32)
length = st.floats(0.125, 40, allow_nan=False, width=32)
solid = st.tuples(coordinate, coordinate, length, length).map(
    lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3])
)
cell = st.integers(0, 12)
grid_box = st.tuples(cell, cell, cell, cell).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)


@settings(deadline=None, max_examples=150)
@given(st.lists(solid, min_size=1, max_size=5), st.lists(solid, min_size=1, max_size=5))
def test_iou_agrees_with_torchvision(first, second):
    expected = box_iou(
        torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    ).numpy()
    assert b.iou(first, second) == pytest.approx(expected, abs=1e-9)


def pixels(found: list[tuple[int, int, int, int]]) -> np.ndarray:
    mask = np.zeros((12, 12), dtype=bool)
    for x1, y1, x2, y2 in found:
        mask[y1:y2, x1:x2] = True
    return mask


@settings(deadline=None, max_examples=200)
@given(st.lists(grid_box, max_size=5), st.lists(grid_box, max_size=5))
def test_union_iou_agrees_with_counting_pixels_also_of_flat_and_absent_boxes(first, second):
    masks = pixels(first), pixels(second)
    union = (masks[0] | masks[1]).sum()
    expected = (masks[0] & masks[1]).sum() / union if union else 0.0
    assert b.union_iou(first, second) == pytest.approx(expected)


# Images of up to four true and six predicted boxes of whole coordinates, so that overlaps are the same numbers everywhere, ties included.
size = st.integers(1, 12)
whole = st.tuples(cell, cell, size, size).map(lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3]))
scored = st.tuples(whole, st.integers(1, 64))
scenes = st.lists(
    st.tuples(st.lists(scored, max_size=6), st.lists(whole, max_size=4)), min_size=1, max_size=5
).filter(lambda images: any(true for _, true in images))


def scene_cases(images) -> list[detection.Case]:
    found = []
    for number, (predicted, true) in enumerate(images):
        ordered = sorted(predicted, key=lambda p: -p[1])
        rows, scores = (
            b.as_boxes([box for box, _ in ordered]),
            np.array([s / 64 for _, s in ordered]),
        )
        found.append(detection.Case(str(number), rows, scores, b.as_boxes(true)))
    return found


def by_pycocotools(found: list[detection.Case]) -> np.ndarray:
    """Average precision at each of COCO's ten thresholds, by the reference code."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box):
        return [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]

    true = [(i, xywh(box)) for i, case in enumerate(found) for box in case.true]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(found))],
            "categories": [{"id": 1}],
            "annotations": [
                {
                    "id": n + 1,
                    "image_id": i,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "category_id": 1,
                }
                for n, (i, box) in enumerate(true)
            ],
        }
        coco.createIndex()
        results = [
            {"image_id": i, "bbox": xywh(box), "score": float(score), "category_id": 1}
            for i, case in enumerate(found)
            for box, score in zip(case.predicted, case.scores, strict=True)
        ]
        if not results:
            return np.zeros(10)
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, 0, 0, -1].mean(1)


def by_torchmetrics(found: list[detection.Case]) -> float:
    from torchmetrics.detection import MeanAveragePrecision

    judge = MeanAveragePrecision(
        iou_thresholds=detection.COCO_THRESHOLDS.tolist(),
        rec_thresholds=detection.COCO_RECALLS.tolist(),
        max_detection_thresholds=[1, 10, 100],  # any other last number makes it answer -1
    )

    def rows(boxes, **more):
        one = torch.zeros(len(boxes), dtype=torch.int64)
        return {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": one, **more}

    predicted = [
        rows(c.predicted, scores=torch.tensor(c.scores, dtype=torch.float32)) for c in found
    ]
    judge.update(predicted, [rows(c.true) for c in found])
    return float(judge.compute()["map"])


@settings(deadline=None, max_examples=150)
@given(scenes)
def test_average_precision_is_that_of_pycocotools(images):
    found = scene_cases(images)
    ours = detection.average_precision(found, np.ones((1, len(found)), dtype=int))[0]
    assert ours == pytest.approx(by_pycocotools(found), abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(scenes)
def test_average_precision_is_that_of_torchmetrics(images):
    found = scene_cases(images)
    ours = detection.average_precision(found, np.ones((1, len(found)), dtype=int))[0].mean()
    assert ours == pytest.approx(by_torchmetrics(found), abs=1e-6)


def plain_rsna(case: detection.Case) -> float:
    """The challenge's rule, threshold by threshold and box by box."""
    values = []
    for threshold in (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75):
        left, hits = list(range(len(case.true))), 0
        for box in case.predicted:
            overlaps = {t: b.iou([box], [case.true[t]])[0, 0] for t in left}
            if overlaps and max(overlaps.values()) > threshold + 1e-12:
                left.remove(max(overlaps, key=lambda t: (overlaps[t], t)))
                hits += 1
        values.append(hits / (len(case.predicted) + len(case.true) - hits))
    return float(np.mean(values))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(solid, st.floats(0.1, 1)), max_size=5),
    st.lists(solid, min_size=1, max_size=4),
)
def test_rsna_is_that_of_trying_every_box(predicted, true):
    ordered = sorted(predicted, key=lambda p: -p[1])
    case = detection.Case(
        "a",
        b.as_boxes([p for p, _ in ordered]),
        np.array([s for _, s in ordered]),
        b.as_boxes(true),
    )
    assert detection.rsna_precision(case) == pytest.approx(plain_rsna(case))


def test_samples_in_parts_are_those_in_one(monkeypatch):
    rng = np.random.default_rng(1)
    found = []
    for number in range(12):
        true = b.as_boxes([[x, y, x + 10, y + 10] for x, y in rng.integers(0, 30, (2, 2))])
        found.append(
            detection.Case(
                str(number),
                true + rng.integers(-2, 3, true.shape),
                np.sort(rng.random(2))[::-1],
                true,
            )
        )
    drawn = bootstrap.weights(12, 40, seed=0)
    whole = detection.average_precision(found, drawn), detection.froc(found, drawn)
    blocks = detection._blocks
    monkeypatch.setattr(
        detection, "_blocks", lambda weights, columns: blocks(weights, columns, most=70)
    )
    assert len(detection._blocks(drawn, 24)) > 10
    assert np.array_equal(detection.average_precision(found, drawn), whole[0])
    assert np.array_equal(detection.froc(found, drawn), whole[1]) and np.ptp(whole[0]) > 0


def plain_froc(found: list[detection.Case], overlap: float) -> list[float]:
    """FROC by trying every score in turn."""
    limits = sorted({s for c in found for s in c.scores}, reverse=True)
    points = []
    for limit in limits:
        hits = wrong = 0
        for case in found:
            kept = case.predicted[case.scores >= limit]
            hits += sum(any(b.iou([p], [t])[0, 0] > overlap for p in kept) for t in case.true)
            wrong += sum(not any(b.iou([p], [t])[0, 0] > overlap for t in case.true) for p in kept)
        points.append((wrong / len(found), hits / sum(len(c.true) for c in found)))
    return [
        max((hit for wrong, hit in points if wrong <= rate), default=0.0)
        for rate in detection.FROC_RATES
    ]


@settings(deadline=None, max_examples=100)
@given(scenes)
def test_froc_is_that_of_trying_every_score(images):
    found = scene_cases(images)
    ours = detection.froc(found, np.ones((1, len(found)), dtype=int))[0]
    assert ours == pytest.approx(plain_froc(found, detection.FROC_OVERLAP))


@settings(deadline=None, max_examples=60)
@given(scenes, st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_an_image_that_is_drawn_twice_counts_as_two(images, counts):
    """A row of weights gives what the same images give when they are really repeated."""
    found = scene_cases(images)
    counts = counts[: len(found)]
    repeated = [case for case, n in zip(found, counts, strict=True) for _ in range(n)]
    drawn = np.array([counts])
    if not any(len(case.true) for case in repeated):
        assert (
            np.isnan(detection.average_precision(found, drawn)).all()
            and np.isnan(detection.froc(found, drawn)).all()
        )
        return
    ones = np.ones((1, len(repeated)), dtype=int)
    assert detection.froc(found, drawn) == pytest.approx(detection.froc(repeated, ones))
    scores = [s for case in found for s in case.scores]
    if len(set(scores)) == len(scores):  # of equal scores the order matters to COCO
        assert detection.average_precision(found, drawn) == pytest.approx(
            detection.average_precision(repeated, ones)
        )


@settings(deadline=None, max_examples=50)
@given(st.lists(grid_box, max_size=4), st.lists(grid_box, min_size=1, max_size=4))
def test_one_image_gives_the_plain_numbers(predicted, true):
    table = metrics.localization(
        found_of([("a", *box, 1.0) for box in predicted]),
        truth_of([("a", *box) for box in true]),
        {"a": "p"},
        5,
    )
    best = [max((float(b.iou([p], [t])[0, 0]) for p in predicted), default=0.0) for t in true]
    assert value(table, "acc", 0.3)["value"] == pytest.approx(np.mean([v > 0.3 for v in best]))
    assert value(table, "miou")["value"] == pytest.approx(b.union_iou(predicted, true))


# The bootstrap --------------------------------------------------------------------------------------------


def half_good(patients: int, images: int) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Patients of whom every other one is hit in all images, and the others in none."""
    owner = {f"p{p:02d}-{i:02d}": f"p{p:02d}" for p in range(patients) for i in range(images)}
    found, truth = strips({image: float(int(patient[1:]) % 2) for image, patient in owner.items()})
    return found, truth, owner


def test_the_bootstrap_draws_patients_and_not_images():
    found, truth, owner = half_good(10, 20)
    by_patient = metrics.localization(found, truth, owner, resamples=1000)
    by_image = metrics.localization(found, truth, {image: image for image in owner}, resamples=1000)
    for metric, threshold in (("miou", None), ("acc", 0.5), ("pointing", None)):
        wide, narrow = value(by_patient, metric, threshold), value(by_image, metric, threshold)
        assert wide["value"] == narrow["value"] == 0.5
        # Standard errors .158 of ten patients and .035 of two hundred images, times 2 * 1.96.
        assert 0.5 < wide["high"] - wide["low"] <= 0.7
        assert 0.1 < narrow["high"] - narrow["low"] < 0.18


def test_more_images_of_the_same_patients_make_no_interval_narrower():
    few, many = (
        metrics.localization(*half_good(8, images), resamples=300, seed=5) for images in (1, 7)
    )
    assert many[["low", "high"]].to_numpy() == pytest.approx(few[["low", "high"]].to_numpy())


def test_patients_weigh_by_their_images():
    found, truth = strips({"a1": 1.0, "a2": 1.0, "a3": 1.0, "b1": 0.0})
    table = metrics.localization(
        found, truth, {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}, resamples=400
    )
    row = value(table, "miou")
    # Samples are aa, ab, ba, bb: 1, 3/4, 3/4, 0.
    assert (row["value"], row["low"], row["high"]) == (0.75, 0.0, 1.0)


def test_the_same_seed_gives_the_same_interval_and_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    shares = {f"i{n}": float(v) for n, v in enumerate(rng.random(30))}
    owner = {image: f"p{n // 2}" for n, image in enumerate(shares)}
    found, truth = strips(shares)
    first = metrics.localization(found, truth, owner, seed=1)
    mixed = metrics.localization(
        found.sample(frac=1, random_state=0), truth.sample(frac=1, random_state=1), owner, seed=1
    )
    pd.testing.assert_frame_equal(first, mixed)
    other = value(metrics.localization(found, truth, owner, seed=2), "miou")
    assert (
        other["value"] == value(first, "miou")["value"]
        and other["low"] != value(first, "miou")["low"]
    )
    assert (
        value(first, "miou")["low"] < value(first, "miou")["value"] < value(first, "miou")["high"]
    )


def test_weights_draw_as_many_patients_as_there_are():
    drawn = bootstrap.weights(7, 500, seed=0)
    assert drawn.shape == (500, 7) and (drawn.sum(1) == 7).all()
    assert drawn.mean(0) == pytest.approx(np.ones(7), abs=0.15) and drawn.max() > 2
    assert np.array_equal(drawn, bootstrap.weights(7, 500, seed=0))


def test_an_interval_leaves_out_what_is_not_finite():
    values = np.array([np.nan, *range(101), np.inf])
    assert bootstrap.interval(values) == pytest.approx((2.5, 97.5))
    assert np.isnan(bootstrap.interval(np.array([np.nan]))).all()


# Differences ----------------------------------------------------------------------------------------------


def test_differences_by_hand():
    table = metrics.differences(
        found_of(FOUND), found_of([]), truth_of(TRUTH), PATIENTS, resamples=20
    ).set_index("metric")
    assert list(table.columns) == ["value", "low", "high", "n", "p"]
    assert table["value"].to_dict() == pytest.approx(
        {"miou": 1 / 4, "pointing": 1 / 3, "acc@0.3": 1 / 4}
    )
    assert table["n"].to_dict() == {"miou": 3, "pointing": 3, "acc@0.3": 4}


def test_identical_predictions_differ_by_exactly_nothing():
    found, truth, owner = half_good(10, 2)
    table = metrics.differences(
        found, found.sample(frac=1, random_state=0), truth, owner, resamples=200
    )
    assert (table[["value", "low", "high"]] == 0).all(axis=None) and len(table) == 3
    assert (table["p"] == 1).all()


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    shares = {f"i{n:02d}": float(v) for n, v in enumerate(rng.uniform(0.1, 0.9, 40))}
    better, truth = strips({image: v + 0.1 for image, v in shares.items()})
    worse, _ = strips(shares)
    owner = {image: image for image in shares}
    row = metrics.differences(better, worse, truth, owner).set_index("metric").loc["miou"]
    # Always better by .1, however much the images differ among themselves.
    assert [row["value"], row["low"], row["high"]] == pytest.approx([0.1, 0.1, 0.1])
    alone = value(metrics.localization(better, truth, owner), "miou")
    assert alone["high"] - alone["low"] > 0.1


def test_differences_turn_their_sign_with_their_order():
    rng = np.random.default_rng(1)
    names = [f"i{n:02d}" for n in range(30)]
    owner = {image: f"p{n // 3}" for n, image in enumerate(names)}
    (one, truth), (two, _) = (
        strips(dict(zip(names, rng.random(30), strict=True))) for _ in range(2)
    )
    there, back = (
        metrics.differences(*pair, truth, owner, seed=4) for pair in ((one, two), (two, one))
    )
    for column, opposite in (("value", "value"), ("low", "high"), ("high", "low")):
        assert there[column].to_numpy() == pytest.approx(-back[opposite].to_numpy())
    assert (there["low"] < there["high"]).tolist() == [True, False, True], (
        "all point into the same strip"
    )
    separate = [
        value(metrics.localization(found, truth, owner), "miou")["value"] for found in (one, two)
    ]
    assert there.loc[0, "value"] == pytest.approx(separate[0] - separate[1])


# P values -------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    # Ordered .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .06 (never less than the one before).
    assert bootstrap.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert bootstrap.holm([0.5, 0.9]).tolist() == [1.0, 1.0] and bootstrap.holm([]).tolist() == []
    found = bootstrap.holm([0.01, np.nan, 0.04])
    assert found[[0, 2]] == pytest.approx([0.02, 0.04]) and np.isnan(found[1])


def test_the_p_value_is_that_of_the_interval_and_never_zero():
    drawn = np.linspace(-0.1, 0.9, 999)  # a tenth lies below 0
    assert bootstrap.p_value(drawn) == pytest.approx(0.2, abs=0.01)
    assert bootstrap.p_value(drawn + 1) == bootstrap.p_value(-drawn - 1) == pytest.approx(2 / 1000)
    assert bootstrap.p_value(np.zeros(50)) == 1.0 and np.isnan(
        bootstrap.p_value(np.array([np.nan]))
    )


def test_no_difference_is_significant_in_about_one_of_twenty():
    rng = np.random.default_rng(0)
    found = []
    for trial in range(300):
        values = rng.normal(0, 1, 60)
        drawn = bootstrap.weights(60, 300, seed=trial) @ values / 60
        found.append(bootstrap.p_value(drawn))
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.10


def test_the_area_under_the_roc_curve_of_each_sample_is_scikit_learns():
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 2, 60), rng.integers(0, 9, 60) / 10  # many ties
    drawn = rng.multinomial(60, np.full(60, 1 / 60), size=20)
    expected = [roc_auc_score(truth, scores, sample_weight=row) for row in drawn]
    assert metrics.auc(truth, scores, drawn) == pytest.approx(expected, abs=1e-12)


def test_the_area_under_the_roc_curve_by_hand():
    one = np.ones((1, 3))
    assert metrics.auc(np.array([0, 0, 1]), np.array([0.1, 0.5, 0.3]), one)[0] == 0.5
    assert metrics.auc(np.array([0, 1, 1]), np.array([0.2, 0.2, 0.2]), one)[0] == 0.5
    assert np.isnan(metrics.auc(np.array([1, 1, 1]), np.array([0.1, 0.5, 0.3]), one)[0])


def test_rows_are_drawn_with_their_patients():
    draws = bootstrap.Patients(["b", "a", "b"], 50, 1)
    drawn = draws.weights
    assert drawn.shape == (50, 3) and (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, :2].sum(1) == 2).all() and (drawn[:, 1] == draws.drawn[:, 0]).all()


def test_means_differences_and_statistics_of_the_same_rows_agree():
    rng = np.random.default_rng(0)
    a, b_, per = rng.random(40), rng.random(40), rng.integers(1, 4, 40).astype(float)
    draws = bootstrap.Patients([f"p{i // 3}" for i in range(40)], 100, 0)
    for one, other in (
        (draws.mean(a, per), draws.of(lambda w: w @ a / (w @ per))),
        (draws.difference(a, b_), draws.of(lambda w: w @ (a - b_) / w.sum(1))),
    ):
        assert [*one][:3] == pytest.approx([*other][:3]) and one.p == pytest.approx(other.p)
    assert draws.mean(a).n == 40 and draws.mean(a, per).n == per.sum()
