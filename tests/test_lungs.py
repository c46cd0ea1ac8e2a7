"""Lungs: zones and boxes by hand, what training does to images and masks, and a finder that learns two bright ellipses."""

import numpy as np
import pytest
import torch

from pnloc.run.severity import lungs

USUAL = np.array([[0.1, 0.1, 0.4, 0.9], [0.6, 0.1, 0.9, 0.9]])


def chest(count: int, seed: int = 0, side: int = lungs.INPUT) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures with two dark ellipses, and their masks: right lung on the left of the picture."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[0:side, 0:side] / side
    masks = np.zeros((count, 2, side, side), dtype=bool)
    for row, column in np.ndindex(count, 2):
        centre = np.array([0.3 + 0.4 * column, 0.5]) + rng.uniform(-0.04, 0.04, 2)
        masks[row, column] = np.hypot((x - centre[0]) / 0.13, (y - centre[1]) / 0.3) < 1
    return np.where(masks.any(1), 70, 170).astype(np.uint8), masks


def test_zones_are_thirds_of_each_lung_right_lung_first():
    zones = lungs.zones(np.array([[0.1, 0.1, 0.4, 0.7], [0.6, 0.0, 0.9, 0.9]]))
    assert zones.shape == (6, 4)
    assert zones[0] == pytest.approx([0.1, 0.1, 0.4, 0.3]) and zones[2] == pytest.approx(
        [0.1, 0.5, 0.4, 0.7]
    )
    assert zones[3] == pytest.approx([0.6, 0.0, 0.9, 0.3]) and zones[4] == pytest.approx(
        [0.6, 0.3, 0.9, 0.6]
    )
    many = np.random.default_rng(0).random((5, 2, 4))
    assert lungs.zones(many).shape == (5, 6, 4) and lungs.zones(many)[3] == pytest.approx(
        lungs.zones(many[3])
    )


def test_the_zones_of_a_lung_make_up_its_box():
    box = np.array([[0.1, 0.2, 0.4, 0.83], [0.6, 0.1, 0.9, 0.9]])
    zones = lungs.zones(box).reshape(2, 3, 4)
    area = (zones[..., 2] - zones[..., 0]) * (zones[..., 3] - zones[..., 1])
    assert area.sum(1) == pytest.approx((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))
    assert zones[:, :2, 3] == pytest.approx(zones[:, 1:, 1])


def test_a_box_lies_around_the_largest_part():
    mask = np.zeros((1, 2, 48, 48), dtype=np.float32)
    mask[0, 0, 12:36, 6:18] = 1
    mask[0, 0, 40:43, 40:43] = 1  # a speck elsewhere
    found, seen = lungs.boxes(mask, USUAL)
    assert found[0, 0] == pytest.approx([6 / 48, 12 / 48, 18 / 48, 36 / 48], abs=0.01)
    assert seen.tolist() == [[True, False]] and found[0, 1].tolist() == USUAL[1].tolist()


@pytest.mark.parametrize("value", [0.0, 0.4])
def test_what_is_not_found_lies_where_it_usually_does(value):
    found, seen = lungs.boxes(np.full((3, 2, 48, 48), value, dtype=np.float32), USUAL)
    assert not seen.any() and (found == USUAL).all()
    assert lungs.boxes(np.zeros((0, 2, 48, 48)), USUAL)[0].shape == (0, 2, 4)


def test_a_part_of_less_than_a_hundredth_is_no_lung():
    mask = np.zeros((1, 2, 48, 48), dtype=np.float32)
    mask[0, :, 10:13, 10:13] = 1
    assert not lungs.boxes(mask, USUAL)[1].any()


def test_disturbed_masks_keep_to_the_side_of_the_picture_and_to_what_is_lung():
    images, masks = chest(64)
    pictures, truth = lungs.disturb(images, masks, np.random.default_rng(0))
    assert pictures.shape == (64, 1, 96, 96) and truth.shape == (64, 2, 96, 96)
    assert (
        set(truth.unique().tolist()) == {0.0, 1.0} and pictures.min() >= 1 and pictures.max() <= 255
    )
    columns = torch.arange(96.0)
    centre = (truth.sum(2) * columns).sum(-1) / truth.sum((2, 3)).clamp_min(1)
    both = (truth.sum((2, 3)) > 100).all(1)
    assert both.sum() > 50 and (centre[both, 0] < centre[both, 1]).all(), (
        "mirrored images change the sides, too"
    )


def test_disturbing_is_a_matter_of_the_seed_alone():
    images, masks = chest(4)
    one, other, third = (lungs.disturb(images, masks, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (
        torch.equal(one[0], other[0])
        and torch.equal(one[1], other[1])
        and not torch.equal(one[0], third[0])
    )


def test_the_network_takes_pictures_of_any_side():
    net = lungs.LungNet()
    for side in (96, 128, 192):
        assert net(torch.randint(0, 255, (2, 1, side, side))).shape == (2, 2, 48, 48)
    assert lungs.masks(net, np.zeros((0, 96, 96), np.uint8)).shape == (0, 2, 48, 48)


def test_a_finder_learns_and_sees_an_image_and_its_mirror_alike(tmp_path):
    net, history = lungs.train_lungs(
        *chest(64), epochs=12, seed=0, folder=tmp_path, fingerprint="x"
    )
    assert history["loss"].iloc[-1] < 0.6 * history["loss"].iloc[0]
    images, masks = chest(6, seed=9)
    found, seen = lungs.boxes(lungs.masks(net, images), USUAL)
    true, _ = lungs.boxes(masks.astype(float), USUAL)
    assert seen.all() and np.abs(found - true).mean() < 0.05
    mirrored = lungs.masks(net, images[:, :, ::-1].copy())
    assert mirrored[:, ::-1, :, ::-1] == pytest.approx(lungs.masks(net, images), abs=1e-4)
