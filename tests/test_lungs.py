"""Lungs: zones, boxes and areas by hand, augmentation, and a network that learns two ellipses."""

import numpy as np
import pytest
import torch
from test_metrics import BY_HAND

from phantoms.lungs import augment
from pnloc.run.severity import lungs

USUAL = np.array([[0.1, 0.1, 0.4, 0.9], [0.6, 0.1, 0.9, 0.9]])
PAIR = lungs.Lungs(np.array([[[0.0, 0, 0.5, 1], [0.5, 0, 1, 0.5]]]), np.ones((1, 2), bool))


def chest(count: int, seed: int = 0, side: int = lungs.INPUT) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures with two dark ellipses, and their masks: right lung on the left."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[0:side, 0:side] / side
    masks = np.zeros((count, 2, side, side), dtype=bool)
    for row, column in np.ndindex(count, 2):
        centre = np.array([0.3 + 0.4 * column, 0.5]) + rng.uniform(-0.04, 0.04, 2)
        masks[row, column] = np.hypot((x - centre[0]) / 0.13, (y - centre[1]) / 0.3) < 1
    return np.where(masks.any(1), 70, 170).astype(np.uint8), masks


def test_zones_are_thirds_of_each_lung_right_lung_first():
    boxes = np.array([USUAL, [[0.1, 0.1, 0.4, 0.7], [0.6, 0.0, 0.9, 0.9]]])
    zones = lungs.Lungs(boxes, np.ones((2, 2), bool)).zones
    expected = [[0.1, 0.1, 0.4, 0.3], [0.1, 0.5, 0.4, 0.7], [0.6, 0.3, 0.9, 0.6]]
    assert zones.shape == (2, 6, 4) and zones[1, [0, 2, 4]] == pytest.approx(np.array(expected))


def test_a_box_lies_around_the_largest_part():
    mask = np.zeros((2, 2, 48, 48), dtype=np.float32)
    mask[0, 0, 12:36, 6:18] = 1
    mask[0, 0, 40:43, 40:43] = 1  # a speck elsewhere
    mask[0, 1, 10:13, 10:13] = 1  # less than a hundredth of the picture
    found = lungs.around(mask, USUAL)
    boxes, found = found.boxes, found.found
    assert boxes[0, 0] == pytest.approx([6 / 48, 12 / 48, 18 / 48, 36 / 48], abs=0.01)
    assert found.tolist() == [[True, False], [False, False]], "others lie in the usual place"
    assert (boxes[0, 1] == USUAL[1]).all() and (boxes[1] == USUAL).all()
    assert lungs.around(mask[:0], USUAL).boxes.shape == (0, 2, 4)


@pytest.mark.parametrize(("boxes", "shares"), BY_HAND["covered"])
def test_the_covered_share_counts_overlapping_boxes_once(boxes, shares):
    boxes = [np.reshape(boxes, (-1, 4))]
    assert lungs.covered(boxes, PAIR.boxes)[0] == pytest.approx(shares, abs=0.02)
    # Two lungs count by their area.
    both = (shares[0] * 0.5 + shares[1] * 0.25) / 0.75
    assert PAIR.covered(boxes) == pytest.approx([both], abs=0.02)


def test_a_mask_is_averaged_inside_each_place():
    mask = np.zeros((1, 4, 4))
    mask[0, :2, 2:] = 0.8
    places = np.concatenate([PAIR.boxes, [[[0.5, 0.0, 1.0, 1.0]]]], axis=1)
    assert lungs.within(mask, places)[0] == pytest.approx([0, 0.8, 0.4])
    assert PAIR.mean(mask) == pytest.approx([0.8 / 3])
    assert lungs.Lungs(PAIR.boxes * 0, PAIR.found).mean(mask).tolist() == [0]


def test_augmentation_depends_on_the_seed_and_keeps_lungs_on_their_side():
    images, masks = chest(64)
    draws = [augment(images, masks, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    (pictures, truth), again, other = draws
    assert torch.equal(pictures, again[0]) and torch.equal(truth, again[1])
    assert not torch.equal(pictures, other[0])
    assert set(truth.unique().tolist()) == {0.0, 1.0}
    assert pictures.min() >= 1 and pictures.max() <= 255
    centre = (truth.sum(2) * torch.arange(96.0)).sum(-1) / truth.sum((2, 3)).clamp_min(1)
    both = (truth.sum((2, 3)) > 100).all(1)
    assert both.sum() > 50 and (centre[both, 0] < centre[both, 1]).all(), "also when mirrored"


def test_the_network_learns_and_treats_an_image_like_its_mirror_image(tmp_path):
    place = {"folder": tmp_path, "fingerprint": "x"}
    net, history = lungs.train_lungs(*chest(32), epochs=12, seed=0, **place)
    assert history["loss"].iloc[-1] < 0.75 * history["loss"].iloc[0]
    images, masks = chest(6, seed=9)
    found, true = lungs.find(net, images), lungs.around(masks.astype(float), USUAL).boxes
    assert found.found.all() and np.abs(found.boxes - true).mean() < 0.02
    assert net.usual.numpy() == pytest.approx(np.median(true, axis=0), abs=0.05)
    mirrored = lungs.masks(net, images[:, :, ::-1].copy())
    assert mirrored[:, ::-1, :, ::-1] == pytest.approx(lungs.masks(net, images), abs=1e-4)
