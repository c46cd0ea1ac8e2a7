"""Failures and calibration: shares, curves and errors by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from explorer import failures
from pnloc.evaluation import calibration
from pnloc.evaluation.localization import Truth

BOXES = ["image", "x1", "y1", "x2", "y2", "score"]
TRUE = pd.DataFrame([("a", 0, 0, 10, 10), ("b", 0, 0, 10, 10)], columns=BOXES[:5])
PATIENTS = {"a": "p", "b": "q", "n": "r"}


def scored(*rows: tuple) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["image", "score", "right"])
    return table.astype({"score": float, "right": float})


def test_a_box_is_right_where_it_overlaps_a_true_box_by_more_than_the_threshold():
    rows = [
        ("a", 0, 0, 10, 10, 0.9),
        ("a", 50, 50, 60, 60, 0.4),
        ("b", 0, 0, 10, 3, 0.7),  # IoU .3, not more
        ("n", 0, 0, 9, 9, 0.2),
        ("unknown", 0, 0, 9, 9, 0.2),
    ]
    predictions = pd.DataFrame(rows, columns=BOXES)
    table = calibration.right_boxes(predictions, Truth(TRUE, PATIENTS, ["n"]))
    expected = [("a", 0.9, 1.0), ("a", 0.4, 0.0), ("b", 0.7, 0.0), ("n", 0.2, 0.0)]
    assert list(table.itertuples(index=False, name=None)) == expected
    assert calibration.right_boxes(predictions.iloc[:0], Truth(TRUE, PATIENTS)).empty


def test_the_curve_and_its_error_by_hand(monkeypatch):
    monkeypatch.setattr(calibration, "BINS", 2)
    table = scored(("a", 0.2, 0), ("a", 0.3, 1), ("b", 0.7, 1), ("b", 0.9, 1))
    curve, error = calibration.calibration(table, PATIENTS, resamples=50)
    assert curve["score"].tolist() == pytest.approx([0.25, 0.8])
    assert curve["right"].tolist() == [0.5, 1.0] and curve["n"].tolist() == [2, 2]
    # A sample is twice a, twice b, or both once: .25, .2 or their mean.
    assert [*error] == pytest.approx([(0.25 + 0.2) / 2, 0.2, 0.25, 4])
    curve, error = calibration.calibration(table[:0], PATIENTS)
    assert curve.empty and np.isnan(error.value)


def test_the_share_of_boxes_found_by_size_and_kind_and_over_patients():
    sizes, kinds = ["large", "small", "small", "small"], ["k", "k", "k", "l"]
    true = pd.DataFrame({"image": list("aabb"), "x1": 0, "y1": 0, "x2": 1, "y2": 1})
    true = true.assign(size=sizes, kind=kinds, hit=[1.0, 0, 1, 0])
    table = failures.shares(true, PATIENTS, resamples=200).set_index(["factor", "level"])
    levels = [("size", "small"), ("size", "large"), ("kind", "k"), ("kind", "l")]
    assert table.index.tolist() == [("all", "all"), *levels]
    assert table["value"].tolist() == pytest.approx([0.5, 1 / 3, 1, 2 / 3, 0])
    assert table["n"].tolist() == [4, 3, 1, 3, 1]
    # One patient has 1 of 2, the other 0 of 1; samples without a large box do not count.
    assert table.loc[("size", "small"), ["low", "high"]].tolist() == [0.0, 0.5]
    assert table.loc[("size", "large"), ["low", "high"]].tolist() == [1.0, 1.0]


def test_a_true_box_is_found_by_any_box_of_its_own_image_only():
    predictions = pd.DataFrame([("a", 0, 0, 10, 9, 0.1), ("c", 0, 0, 10, 10, 0.9)], columns=BOXES)
    assert failures.hits(predictions, TRUE).tolist() == [1.0, 0.0]


def test_the_traits_are_those_of_the_nearest_opacity():
    opacities = "focal/right/lower/right lower/0.84;patchy/left/upper/left upper/0.50"
    truth = {"opacities": opacities, "others": "nodule/right", "severity": "mild"}
    truth["boxes"] = "0 50 10 60;40 5 60 20"
    near = failures.traits(SimpleNamespace(**truth), np.array([41.0, 5, 60, 21]))
    places = {"lobe": "left upper", "zone": "left upper", "kind": "patchy"}
    assert near == {**places, "severity": "mild", "beside": "another finding"}
    alone = failures.traits(SimpleNamespace(**truth | {"others": ""}), [0.0, 50, 10, 60])
    assert alone["kind"] == "focal" and alone["beside"] == "nothing else"
