"""Boxes guessed without the image, and the rules by which a heat map becomes boxes, by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_metrics import BY_HAND

from pnloc.baselines import heatmaps, priors
from pnloc.baselines.heatmaps import HeatChoice, boxes_of
from pnloc.baselines.priors import fixed_pair
from pnloc.boxes import area
from pnloc.reports.phrases import asserted_places, padded

# Per side three boxes, one above the other; the right lung is on the left of the picture.
TRAINING = np.array([[x, y, x + 0.2, y + 0.2] for x in (0.2, 0.6) for y in (0.2, 0.4, 0.6)])
SIDES, PLACES, NONE = fixed_pair(TRAINING), priors.place_boxes(TRAINING), np.zeros((0, 4))


def guess(text: str) -> np.ndarray:
    return priors.report_boxes(asserted_places(text), PLACES, SIDES)


def test_training_boxes_are_relative_to_their_images_and_from_the_training_split():
    sizes = [("a", 100, 50, "train"), ("b", 10, 10, "test"), ("c", 20, 40, "train")]
    images = pd.DataFrame(sizes, columns=["image", "width", "height", "split"])
    rows = [("c", 2, 4, 10, 20), ("b", 0, 0, 5, 5), ("a", 10, 10, 50, 25), ("c", 0, 0, 20, 40)]
    boxes = pd.DataFrame(rows, columns=["image", "x1", "y1", "x2", "y2"])
    expected = [[0.1, 0.1, 0.5, 0.5], [0.1, 0.2, 0.5, 0.5], [0, 0, 1, 1]]
    assert priors.training_boxes(images, boxes) == pytest.approx(np.array(expected))


def test_one_box_over_both_lungs_leaves_out_a_twentieth_on_each_side():
    boxes = np.array([[x, x, x + 0.5, x + 0.5] for x in np.linspace(0, 0.4, 41)])
    assert priors.whole_lungs(boxes) == pytest.approx(np.array([[0.02, 0.02, 0.88, 0.88]]))
    assert priors.whole_lungs(TRAINING[:1]) == pytest.approx(TRAINING[:1])
    assert priors.whole_lungs(NONE).shape == (0, 4)


def test_the_heat_map_is_the_share_of_training_boxes_at_each_place():
    heat = priors.heat_map(np.array([[0, 0, 0.5, 1], [0, 0.5, 0.5, 1.0]]), cells=4)
    assert heat.tolist() == [[0.5, 0.5, 0, 0]] * 2 + [[1, 1, 0, 0]] * 2
    assert priors.heat_map(NONE, cells=3).tolist() == [[0.0] * 3] * 3
    boxes = np.array([[0, 0, 1, 1.0], [0, 0, 0.5, 0.5]])
    expected = [[2.25, 0.25], [0.25, 0.25]]
    assert heatmaps.coverage(boxes, np.array([0.25, 2.0]), 2).tolist() == expected


def test_each_place_has_the_median_of_its_training_boxes_or_a_third_of_its_side():
    moved = np.concatenate([TRAINING, TRAINING + 0.01, TRAINING - 0.01])
    assert priors.place_boxes(moved) == pytest.approx(TRAINING)
    boxes = priors.place_boxes(TRAINING[:3])
    assert boxes[:3] == pytest.approx(TRAINING[:3])
    x1, y1, x2, y2 = fixed_pair(TRAINING[:3])[1]
    assert (x1, y1, x2, y2) == pytest.approx((0.6, 0.4, 0.8, 0.6)), "the other side, mirrored"
    thirds = y1 + (y2 - y1) * np.arange(4) / 3
    expected = [[x1, top, x2, low] for top, low in zip(thirds[:-1], thirds[1:], strict=True)]
    assert boxes[3:] == pytest.approx(np.array(expected))
    assert np.isnan(priors.place_boxes(NONE)).all()


@pytest.mark.parametrize(("text", "places"), BY_HAND["places"])
def test_a_report_gives_the_boxes_of_the_places_that_it_asserts(text, places):
    boxes = np.concatenate([TRAINING, SIDES])[np.array(places, dtype=int)]
    assert guess(text) == pytest.approx(boxes) and guess(text).shape == boxes.shape


def test_places_of_a_lung_share_a_box_and_padding_or_unknown_places_have_none():
    boxes = priors.report_boxes(np.array([[1, 1, 0, 0, 0, 0]], dtype=float), PLACES, SIDES)
    assert boxes == pytest.approx(np.array([[0.2, 0.2, 0.4, 0.6]]))
    padding = padded([np.zeros((0, 6)), asserted_places("Opacity in the right lower lobe.")])[0]
    assert priors.report_boxes(padding, PLACES, SIDES).shape == (0, 4)
    places = priors.place_boxes(NONE), fixed_pair(NONE)
    assert priors.report_boxes(np.eye(6)[:1], *places).shape == (0, 4)


# From heat maps to boxes ----------------------------------------------------------------------

CHOICES = [choice for choice, _ in heatmaps.every_choice([], "")]
LARGE, CORE, PALE = [2, 2, 8, 8], [4, 4, 6, 6], [10, 12, 16, 18]
STEPS = np.zeros((20, 20))  # a square of .5 with a core of 1, and another of .3
STEPS[2:8, 2:8], STEPS[4:6, 4:6], STEPS[12:18, 10:16] = 0.5, 1.0, 0.3
RAMP = np.arange(400.0).reshape(20, 20)
NOISE = np.full((10, 10), 0.1) + np.random.default_rng(0).uniform(0, 0.02, (10, 10))
NOISE[3:6, 4:9] = 0.9


@pytest.mark.parametrize(
    ("heat", "choice", "boxes", "scores"),
    [
        # 60 of 255 is .24: all three; 180 is .71: the core only.
        (STEPS, HeatChoice("", rule="wang", most=None), [LARGE, CORE, PALE], [1, 1, 0.3]),
        (RAMP, HeatChoice("", rule="quantile", most=None), [[0, 19, 20, 20]], [399]),
        (NOISE, HeatChoice("", rule="otsu", most=None), [[4, 3, 9, 6]], [0.9]),
        (STEPS, HeatChoice("", 0.4, 2), [LARGE], [1]),
        (STEPS, HeatChoice("", 0.2, 1), [LARGE], [1]),
        (5 + 2 * STEPS, HeatChoice("", 0.2, 3), [LARGE, PALE], [7, 5.6]),
    ],
)
def test_each_rule_by_hand(heat, choice, boxes, scores):
    result = boxes_of(heat, choice)
    assert result[0].tolist() == boxes and result[1] == pytest.approx(scores)


@pytest.mark.parametrize("rule", heatmaps.RULES)
@pytest.mark.parametrize("heat", [np.zeros((5, 5)), np.full((5, 5), 0.7), np.zeros((1, 1))])
def test_a_flat_map_gives_no_box(rule, heat):
    boxes, scores = boxes_of(heat, HeatChoice("", rule=rule))
    assert boxes.shape == (0, 4) and scores.shape == (0,)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(CHOICES))
def test_every_box_is_real_and_lies_on_the_map(seed, choice):
    heat = np.random.default_rng(seed).random((9, 7))
    boxes, scores = boxes_of(heat, choice)
    assert len(boxes) == len(scores) > 0 and (area(boxes) >= 1).all()
    assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= 7).all() and (boxes[:, [1, 3]] <= 9).all()
    assert (np.diff(scores) <= 0).all() and scores[0] == heat.max()
    assert choice.most is None or len(boxes) <= choice.most


def test_every_rule_is_tried_on_every_layer_as_if_it_were_the_only_one():
    assert len(CHOICES) == len({repr(choice) for choice in CHOICES}) == 6 * 3 + 3
    for choice, (boxes,) in heatmaps.every_choice([STEPS], ""):
        pairs = zip(boxes, boxes_of(STEPS, choice), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)
