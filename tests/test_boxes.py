"""Boxes: overlaps by hand, unions against pixels, grouping and selection."""

import numpy as np
import pytest

from pnloc import boxes as b

NONE = np.zeros((0, 4))
BOXES = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [20, 20, 30, 30]])


def test_iou_by_hand_and_boxes_without_area_overlap_nothing():
    # Two 2x2 squares that share a 1x1 corner: 1 / (4 + 4 - 1).
    assert b.iou([[0, 0, 2, 2]], [[1, 1, 3, 3]])[0, 0] == pytest.approx(1 / 7)
    flat = np.array([[1.0, 1, 1, 5], [0, 0, 0, 0], [3, 3, 1, 1]])
    assert (b.iou(flat, flat) == 0).all()
    assert b.iou(NONE, flat).shape == (0, 3)


def test_union_iou_agrees_with_counting_pixels_also_of_flat_and_absent_boxes():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sets, masks = [], []
        for _ in range(2):
            low = rng.integers(0, 20, (rng.integers(0, 5), 2))
            sets.append(np.concatenate([low, low + rng.integers(0, 12, low.shape)], axis=1))
            masks.append(np.zeros((40, 40), dtype=bool))
            for x1, y1, x2, y2 in sets[-1]:
                masks[-1][y1:y2, x1:x2] = True
        expected = (masks[0] & masks[1]).sum() / max((masks[0] | masks[1]).sum(), 1)
        assert b.union_iou(*sets) == pytest.approx(expected)


def test_grouping_adds_the_mass_of_overlapping_boxes():
    # The first two overlap with IoU .9 and share their mass of .2 + .3; the third stands alone.
    grouped = b.group(BOXES[:3], [0.2, 0.3, 0.5], [1.0, 0.5, 1.0])
    assert grouped == pytest.approx([0.5, 0.25, 0.5])
    assert b.group(NONE, [], []).shape == (0,)
    assert b.group([[5.0, 5, 5, 5]], [0.4], [0.5]) == pytest.approx([0.2]), "a box of no area"


def test_select_keeps_good_boxes_that_do_not_repeat():
    scores = np.array([0.9, 0.8, 0.5, 0.1])
    assert b.select(BOXES, scores, share=0.5, most=3).tolist() == [0, 2]
    assert b.select(BOXES, scores, share=0.0, most=2).tolist() == [0, 2]
    assert b.select(NONE, np.zeros(0), share=0.5, most=3).tolist() == []


def test_a_fused_box_is_the_mean_of_those_that_overlap_it_by_score():
    # The second box overlaps the first by 10 / 12; weights 3 and 1: x to (3 * 10 + 12) / 4.
    boxes = np.array([[0.0, 0, 10, 1], [0, 0, 12, 1], [50, 0, 60, 1]])
    assert b.fuse(boxes, [3.0, 1.0, 9.0], [0, 2]).tolist() == [[0, 0, 10.5, 1], [50, 0, 60, 1]]
    unscored = b.fuse(boxes, [0.0, 0.0, 0.0], [1])
    assert unscored.tolist() == [[0, 0, 12, 1]], "without any score a box stays"
    assert b.fuse(NONE, np.zeros(0), np.zeros(0)).shape == (0, 4)
