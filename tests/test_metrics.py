"""Metrics: by hand, against torchvision and against pixels; the bootstrap moves patients and is paired."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from pnloc import boxes as b
from pnloc import metrics
from pnloc.errors import PnlocError

TRUTH = [("a", 0, 0, 10, 10), ("a", 20, 20, 30, 30), ("b", 0, 0, 10, 10), ("c", 0, 0, 4, 4)]
# a: its first true box twice, once exactly and once by half; b: IoU 40/160, 40% of the prediction inside; c: nothing; d: no truth.
FOUND = [("a", 0, 0, 10, 5, 0.5), ("a", 0, 0, 10, 10, 0.9), ("b", 6, 0, 16, 10, 0.8), ("d", 0, 0, 9, 9, 1.0)]
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
    return found_of([strip(i, s) for i, s in shares.items() if s]), truth_of([(i, 0, 0, 100, 10) for i in shares])


# By hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "share"), [(0.1, 2 / 4), (0.2, 2 / 4), (0.3, 1 / 4), (0.4, 1 / 4), (0.5, 1 / 4), (0.7, 1 / 4)]
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
    assert table["metric"].value_counts().to_dict() == {"acc": 7, "iobb": 5, "miou": 1, "pointing": 1}
    assert sorted(table.loc[table["metric"] == "acc", "threshold"]) == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    )
    assert sorted(table.loc[table["metric"] == "iobb", "threshold"]) == pytest.approx([0.1, 0.25, 0.5, 0.75, 0.9])
    assert table.loc[table["metric"].isin(["miou", "pointing"]), "threshold"].isna().all()


def test_a_threshold_itself_is_not_enough():
    half = found_of([("c", 0, 0, 4, 2, 1.0)])
    table = metrics.localization(half, truth_of(TRUTH[3:]), PATIENTS, resamples=10)
    assert value(table, "acc", 0.5)["value"] == 0 and value(table, "acc", 0.4)["value"] == 1


@pytest.mark.parametrize("rows", [[], [("d", 0, 0, 9, 9, 1.0)], [(i, 3, 3, 3, 9, 1.0) for i in "abc"]])
def test_without_predictions_everything_is_missed_and_nothing_is_left_out(rows):
    table = measured(rows)
    hits = table[table["metric"] != "pointing"]
    assert (hits[["value", "low", "high"]] == 0).all(axis=None)
    assert value(table, "acc", 0.1)["n"] == 4 and value(table, "miou")["n"] == 3


def test_perfect_predictions_reach_one_everywhere():
    table = measured([(*row, 1.0) for row in TRUTH])
    assert (table[["value", "low", "high"]] == 1).all(axis=None)


def test_false_positives_are_predicted_boxes_that_match_no_true_box_per_image():
    found, truth = found_of(FOUND), truth_of(TRUTH)
    assert metrics.afp(found, truth, 0.1) == 0
    assert metrics.afp(found, truth, 0.3) == pytest.approx(1 / 3)
    assert metrics.afp(found, truth, 0.5) == pytest.approx(2 / 3)
    assert metrics.afp(found_of([]), truth, 0.5) == 0
    assert metrics.afp(found_of([("c", 5, 5, 9, 9, 1.0)] * 6), truth, 0.1) == 2


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
    with pytest.raises(PnlocError, match="prediction for image 'b'"):
        metrics.afp(found_of(rows), truth_of(TRUTH), 0.5)


def test_no_truth_and_no_patient_are_errors():
    with pytest.raises(PnlocError, match="no true box"):
        metrics.localization(found_of(FOUND), truth_of([]), PATIENTS)
    with pytest.raises(PnlocError, match="no true box"):
        metrics.differences(found_of(FOUND), found_of(FOUND), truth_of([]), PATIENTS)
    with pytest.raises(PnlocError, match="image 'b' has true boxes but no patient"):
        metrics.localization(found_of(FOUND), truth_of(TRUTH), {"a": "p", "c": "q"})


# Against others -------------------------------------------------------------------------------------------

coordinate = st.floats(-50, 50, allow_nan=False, width=32)
length = st.floats(0.125, 40, allow_nan=False, width=32)
solid = st.tuples(coordinate, coordinate, length, length).map(lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3]))
cell = st.integers(0, 12)
grid_box = st.tuples(cell, cell, cell, cell).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)


@settings(deadline=None, max_examples=150)
@given(st.lists(solid, min_size=1, max_size=5), st.lists(solid, min_size=1, max_size=5))
def test_iou_agrees_with_torchvision(first, second):
    expected = box_iou(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)).numpy()
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


@settings(deadline=None, max_examples=50)
@given(st.lists(grid_box, max_size=4), st.lists(grid_box, min_size=1, max_size=4))
def test_one_image_gives_the_plain_numbers(predicted, true):
    table = metrics.localization(
        found_of([("a", *box, 1.0) for box in predicted]), truth_of([("a", *box) for box in true]), {"a": "p"}, 5
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
    few, many = (metrics.localization(*half_good(8, images), resamples=300, seed=5) for images in (1, 7))
    assert many[["low", "high"]].to_numpy() == pytest.approx(few[["low", "high"]].to_numpy())


def test_patients_weigh_by_their_images():
    found, truth = strips({"a1": 1.0, "a2": 1.0, "a3": 1.0, "b1": 0.0})
    table = metrics.localization(found, truth, {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}, resamples=400)
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
    assert other["value"] == value(first, "miou")["value"] and other["low"] != value(first, "miou")["low"]
    assert value(first, "miou")["low"] < value(first, "miou")["value"] < value(first, "miou")["high"]


def test_weights_draw_as_many_patients_as_there_are():
    drawn = metrics.weights(7, 500, seed=0)
    assert drawn.shape == (500, 7) and (drawn.sum(1) == 7).all()
    assert drawn.mean(0) == pytest.approx(np.ones(7), abs=0.15) and drawn.max() > 2
    assert np.array_equal(drawn, metrics.weights(7, 500, seed=0))


def test_an_interval_leaves_out_what_is_not_finite():
    values = np.array([np.nan, *range(101), np.inf])
    assert metrics.interval(values) == pytest.approx((2.5, 97.5))
    assert np.isnan(metrics.interval(np.array([np.nan]))).all()


# Differences ----------------------------------------------------------------------------------------------


def test_differences_by_hand():
    table = metrics.differences(found_of(FOUND), found_of([]), truth_of(TRUTH), PATIENTS, resamples=20).set_index(
        "metric"
    )
    assert list(table.columns) == ["value", "low", "high", "n"]
    assert table["value"].to_dict() == pytest.approx({"miou": 1 / 4, "pointing": 1 / 3, "acc@0.3": 1 / 4})
    assert table["n"].to_dict() == {"miou": 3, "pointing": 3, "acc@0.3": 4}


def test_identical_predictions_differ_by_exactly_nothing():
    found, truth, owner = half_good(10, 2)
    table = metrics.differences(found, found.sample(frac=1, random_state=0), truth, owner, resamples=200)
    assert (table[["value", "low", "high"]] == 0).all(axis=None) and len(table) == 3


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
    (one, truth), (two, _) = (strips(dict(zip(names, rng.random(30), strict=True))) for _ in range(2))
    there, back = (metrics.differences(*pair, truth, owner, seed=4) for pair in ((one, two), (two, one)))
    for column, opposite in (("value", "value"), ("low", "high"), ("high", "low")):
        assert there[column].to_numpy() == pytest.approx(-back[opposite].to_numpy())
    assert (there["low"] < there["high"]).tolist() == [True, False, True], "all point into the same strip"
    separate = [value(metrics.localization(found, truth, owner), "miou")["value"] for found in (one, two)]
    assert there.loc[0, "value"] == pytest.approx(separate[0] - separate[1])
