"""Failures and calibration: shares, curves and errors by hand; what is not known of a box is not made up."""

import numpy as np
import pandas as pd
import pytest

from pnloc.evaluation import calibration
from pnloc.run import analysis

BOXES = ["image", "x1", "y1", "x2", "y2", "score"]
TRUTH = pd.DataFrame([("a", 0, 0, 10, 10), ("b", 0, 0, 10, 10)], columns=BOXES[:5])
PATIENTS = {"a": "p", "b": "q", "n": "r"}


def boxes(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image", "score", "right"]).astype(
        {"score": float, "right": float}
    )


# Calibration ----------------------------------------------------------------------------------------------


def test_a_box_is_right_where_it_overlaps_a_true_box_by_more_than_the_threshold():
    found = pd.DataFrame(
        [
            ("a", 0, 0, 10, 10, 0.9),
            ("a", 50, 50, 60, 60, 0.4),
            ("b", 0, 0, 10, 3, 0.7),
            ("n", 0, 0, 9, 9, 0.2),
            ("unknown", 0, 0, 9, 9, 0.2),
        ],
        columns=BOXES,
    )
    table = calibration.right_boxes(found, TRUTH, ["n"])
    assert list(zip(table["image"], table["score"], table["right"], strict=True)) == [
        ("a", 0.9, 1.0),
        ("a", 0.4, 0.0),
        ("b", 0.7, 0.0),
        ("n", 0.2, 0.0),  # the third: IoU .3, not more
    ]
    assert calibration.right_boxes(found.iloc[:0], TRUTH).empty


def test_the_curve_and_its_error_by_hand():
    table = boxes(("a", 0.2, 0), ("a", 0.3, 1), ("b", 0.7, 1), ("b", 0.9, 1))
    curve, error = calibration.calibration(table, PATIENTS, resamples=50, bins=2)
    assert curve["score"].tolist() == pytest.approx([0.25, 0.8]) and curve["right"].tolist() == [
        0.5,
        1.0,
    ]
    assert curve["n"].tolist() == [2, 2]
    assert error.value == pytest.approx((0.25 + 0.2) / 2)
    # A sample is twice a, twice b, or both once: .25, .2 or their mean.
    assert (error.low, error.high) == pytest.approx((0.2, 0.25))


def test_a_score_that_is_the_chance_has_no_error_and_certainty_about_nothing_has_the_whole():
    honest = boxes(*[("a", 0.25, i == 0) for i in range(4)])
    assert calibration.calibration(honest, PATIENTS, 10)[1].value == pytest.approx(0)
    wrong = boxes(*[("a", 1.0, 0) for _ in range(4)])
    curve, error = calibration.calibration(wrong, PATIENTS, 10)
    assert [*error] == pytest.approx([1, 1, 1, 4]) and len(curve) == 1, "equal scores are one bin"


def test_no_box_has_no_curve():
    curve, error = calibration.calibration(boxes(), PATIENTS)
    assert curve.empty and np.isnan(error.value)


# Failures -------------------------------------------------------------------------------------------------


def test_the_share_of_boxes_found_by_size_and_kind_and_over_patients():
    true = pd.DataFrame(
        {
            "image": list("aabb"),
            "x1": 0,
            "y1": 0,
            "x2": 1,
            "y2": 1,
            "size": ["large", "small", "small", "small"],
            "kind": ["k", "k", "k", "l"],
            "found": [1.0, 0, 1, 0],
        }
    )
    table = analysis.found_by(true, PATIENTS, resamples=200).set_index(["factor", "level"])
    assert table.index.tolist() == [
        ("all", "all"),
        ("size", "small"),
        ("size", "large"),
        ("kind", "k"),
        ("kind", "l"),
    ]
    assert table["value"].tolist() == pytest.approx([0.5, 1 / 3, 1, 2 / 3, 0])
    assert table["n"].tolist() == [4, 3, 1, 3, 1]
    assert table.loc[("size", "small"), ["low", "high"]].tolist() == [0.0, 0.5], (
        "one patient of 1 in 2, one of 0 in 1"
    )
    assert table.loc[("size", "large"), ["low", "high"]].tolist() == [1.0, 1.0], (
        "samples without such a box do not count"
    )


def test_a_true_box_is_found_by_any_box_of_its_own_image_only():
    predictions = pd.DataFrame([("a", 0, 0, 10, 9, 0.1), ("c", 0, 0, 10, 10, 0.9)], columns=BOXES)
    assert analysis._found(TRUTH, predictions).tolist() == [1.0, 0.0]


def test_the_generator_tells_of_the_nearest_opacity():
    truth = pd.Series(
        {
            "opacities": "focal/right/lower/right lower/0.84;patchy/left/upper/left upper/0.50",
            "others": "nodule/right",
            "boxes": "0 50 10 60;40 5 60 20",
            "severity": "mild",
        }
    )
    told = analysis._told(truth, np.array([[41.0, 5, 60, 21]]))
    assert told == {
        "lobe": "left upper",
        "zone": "left upper",
        "kind": "patchy",
        "severity": "mild",
        "beside": "another finding",
    }
    alone = analysis._told(pd.Series({**truth, "others": ""}), np.array([[0.0, 50, 10, 60]]))
    assert alone["kind"] == "focal" and alone["beside"] == "nothing else"
