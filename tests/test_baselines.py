"""Baselines that need no training: boxes that no image is read for, and the rules by which a heat map becomes boxes; all by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pnloc.baselines import classifier as baselines
from pnloc.baselines import heatmaps, priors
from pnloc.baselines.heatmaps import HeatChoice, boxes_of
from pnloc.boxes import area, fixed_pair
from pnloc.reports.phrases import PLACES, asserted_places, padded

# Per side three boxes one above the other (upper, middle, lower), the right lung on the left of the picture.
TRAINING = np.array([[x, y, x + 0.2, y + 0.2] for x in (0.2, 0.6) for y in (0.2, 0.4, 0.6)])
SIDES = fixed_pair(TRAINING)


def place(text: str) -> np.ndarray:
    return asserted_places(text)


def boxes_for(text: str) -> np.ndarray:
    return priors.report_boxes(place(text), priors.place_boxes(TRAINING), SIDES)


# Without the image ----------------------------------------------------------------------------------------


def test_one_box_over_both_lungs_leaves_out_a_twentieth_on_each_side():
    boxes = np.array([[x, x, x + 0.5, x + 0.5] for x in np.linspace(0, 0.4, 41)])
    assert priors.whole_lungs(boxes) == pytest.approx(np.array([[0.02, 0.02, 0.88, 0.88]]))
    assert priors.whole_lungs(TRAINING[:1]) == pytest.approx(TRAINING[:1])
    assert priors.whole_lungs(np.zeros((0, 4))).shape == (0, 4)


def test_the_heat_map_is_the_share_of_training_boxes_at_each_place():
    heat = priors.heat_map(np.array([[0, 0, 0.5, 1], [0, 0.5, 0.5, 1.0]]), cells=4)
    assert heat.tolist() == [[0.5, 0.5, 0, 0]] * 2 + [[1, 1, 0, 0]] * 2
    assert priors.heat_map(np.zeros((0, 4)), cells=3).tolist() == [[0.0] * 3] * 3
    assert heatmaps.coverage(
        np.array([[0, 0, 1, 1.0], [0, 0, 0.5, 0.5]]), np.array([0.25, 2.0]), 2
    ).tolist() == [[2.25, 0.25], [0.25, 0.25]]


def test_each_place_has_the_median_of_the_training_boxes_there():
    found = priors.place_boxes(np.concatenate([TRAINING, TRAINING + 0.01, TRAINING - 0.01]))
    assert found == pytest.approx(TRAINING) and len(found) == len(PLACES)


def test_a_place_without_training_boxes_takes_its_third_of_its_side():
    only_right = TRAINING[:3]
    found = priors.place_boxes(only_right)
    assert found[:3] == pytest.approx(only_right)
    x1, y1, x2, y2 = fixed_pair(only_right)[1]
    assert found[3:, [0, 2]] == pytest.approx(np.array([[x1, x2]] * 3))
    assert found[3:, 1] == pytest.approx(y1 + (y2 - y1) * np.arange(3) / 3) and found[
        5, 3
    ] == pytest.approx(y2)
    assert np.isnan(priors.place_boxes(np.zeros((0, 4)))).all()


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("Opacity in the right lower lobe.", [2]),
        ("Consolidation in the left upper lobe.", [3]),
        ("Bibasilar opacities.", [2, 5]),
        ("Opacity in the right lower lobe. Consolidation in the left upper lobe.", [2, 3]),
    ],
)
def test_a_report_gives_the_boxes_of_the_places_that_it_names(text, cells):
    assert boxes_for(text) == pytest.approx(TRAINING[cells])


def test_a_lung_is_the_box_of_its_side_and_no_place_is_both():
    assert boxes_for("Opacity in the left lung.") == pytest.approx(SIDES[1:])
    assert boxes_for("There is pneumonia.") == pytest.approx(SIDES)
    two_thirds = np.array([[1, 1, 0, 0, 0, 0]], dtype=float)
    around = priors.report_boxes(two_thirds, priors.place_boxes(TRAINING), SIDES)
    assert around == pytest.approx(np.array([[0.2, 0.2, 0.4, 0.6]])), (
        "the box around upper and middle"
    )


def test_what_a_report_denies_or_does_not_say_gives_no_box():
    assert boxes_for("No focal consolidation.").shape == boxes_for("").shape == (0, 4)
    padding = padded([np.zeros((0, 6)), place("Opacity in the right lower lobe.")])[0]
    assert priors.report_boxes(padding, priors.place_boxes(TRAINING), SIDES).shape == (0, 4)
    unknown = priors.report_boxes(
        np.eye(6)[:1], priors.place_boxes(np.zeros((0, 4))), fixed_pair(np.zeros((0, 4)))
    )
    assert unknown.shape == (0, 4)


def test_the_prior_is_in_pixels_of_each_image():
    found = baselines.prior_boxes(TRAINING, np.array([100, 200]), np.array([50, 100]))
    assert found[0] == pytest.approx(SIDES * [100, 50, 100, 50]) and found[1] == pytest.approx(
        2 * found[0]
    )


# From heat maps to boxes ----------------------------------------------------------------------------------


def steps() -> np.ndarray:
    """20 x 20, from 0 to 1: a square of .5 with a core of 1, and another of .3."""
    heat = np.zeros((20, 20))
    heat[2:8, 2:8], heat[4:6, 4:6], heat[12:18, 10:16] = 0.5, 1.0, 0.3
    return heat


LARGE, CORE, PALE = [2, 2, 8, 8], [4, 4, 6, 6], [10, 12, 16, 18]


def test_wang_takes_both_thresholds_and_one_box_per_connected_region():
    # 60 of 255 is .24, above which all three lie; 180 is .71, above which only the core does.
    boxes, scores = boxes_of(steps(), HeatChoice("", rule="wang", most=None))
    assert sorted(boxes.tolist()) == sorted([LARGE, CORE, PALE]) and scores.tolist() == [1, 1, 0.3]


def test_the_quantile_keeps_a_twentieth_of_the_pixels():
    heat = np.arange(400.0).reshape(20, 20)
    boxes, scores = boxes_of(heat, HeatChoice("", rule="quantile", most=None))
    assert boxes.tolist() == [[0, 19, 20, 20]] and scores.tolist() == [399.0]


def test_otsu_separates_two_groups():
    heat = np.full((10, 10), 0.1) + np.random.default_rng(0).uniform(0, 0.02, (10, 10))
    heat[3:6, 4:9] = 0.9
    assert boxes_of(heat, HeatChoice("", rule="otsu", most=None))[0].tolist() == [[4, 3, 9, 6]]


def test_a_share_of_the_range_and_the_best_boxes_alone():
    assert boxes_of(steps(), HeatChoice("", 0.4, 2))[0].tolist() == [LARGE]
    assert boxes_of(steps(), HeatChoice("", 0.2, 1))[0].tolist() == [LARGE]
    assert heatmaps.heat_boxes(5 + 2 * steps(), 0.2, 3)[0].tolist() == [LARGE, PALE], (
        "a share of the range, not of the value"
    )


@pytest.mark.parametrize("rule", heatmaps.RULES)
@pytest.mark.parametrize("heat", [np.zeros((5, 5)), np.full((5, 5), 0.7), np.zeros((1, 1))])
def test_a_flat_map_gives_no_box(rule, heat):
    boxes, scores = boxes_of(heat, HeatChoice("", rule=rule))
    assert boxes.shape == (0, 4) and scores.shape == (0,)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(heatmaps.candidates("")))
def test_every_box_is_real_and_lies_on_the_map(seed, choice):
    heat = np.random.default_rng(seed).random((9, 7))
    boxes, scores = boxes_of(heat, choice)
    assert len(boxes) == len(scores) > 0 and (area(boxes) >= 1).all()
    assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= 7).all() and (boxes[:, [1, 3]] <= 9).all()
    assert (np.diff(scores) <= 0).all() and scores[0] == heat.max()
    assert choice.most is None or len(boxes) <= choice.most


def test_every_rule_is_tried_on_every_layer():
    tried = heatmaps.candidates("16", "32")
    assert len(tried) == len({repr(c) for c in tried}) == 2 * (6 * 3 + 3)
    assert {(c.layer, c.rule) for c in tried} == {
        (layer, rule) for layer in ("16", "32") for rule in heatmaps.RULES
    }
