"""Read-outs: areas inside lungs by hand, the combination, and the tables of a finished smoke run."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import logit

from pnloc.images import Letterbox
from pnloc.localizer import Choice
from pnloc.regions import Regions
from pnloc.run.severity import ensemble as looks
from pnloc.run.severity import readouts

LUNGS = np.array([[[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 0.5]]])


def test_the_covered_share_counts_overlapping_boxes_once():
    boxes = np.array([[0.0, 0.0, 0.25, 1.0], [0.0, 0.0, 0.25, 0.5], [0.75, 0.25, 2.0, 9.0]])
    assert looks.covered([boxes], LUNGS)[0] == pytest.approx([0.5, 0.25], abs=0.02)
    assert looks.covered([np.zeros((0, 4))], LUNGS).tolist() == [[0, 0]]
    assert looks.covered([np.array([[-1.0, -1, 2, 2]])], LUNGS).tolist() == [[1, 1]]


def test_two_lungs_count_by_their_area():
    assert looks.in_lungs(np.array([[0.3, 0.9]]), LUNGS) == pytest.approx(
        [(0.3 * 0.5 + 0.9 * 0.25) / 0.75]
    )
    assert looks.in_lungs(np.array([[0.3, 0.9]]), np.zeros((1, 2, 4))).tolist() == [0]


def test_the_mask_is_averaged_inside_each_place():
    mask = np.zeros((1, 4, 4))
    mask[0, :2, 2:] = 0.8
    places = np.concatenate([LUNGS, [[[0.5, 0.0, 1.0, 1.0]]]], axis=1)
    assert looks.within(mask, places)[0] == pytest.approx([0, 0.8, 0.4])


def test_detected_area_is_that_of_the_kept_boxes_times_the_best_score():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3])
    scores = torch.tensor([[0.5, 0.4, 0.0], [0.0, 0, 0]])
    regions = Regions(
        boxes, scores, boxes.sum(-1) > 0, torch.zeros(2, 3, 9), torch.zeros(2, 5, 5), torch.zeros(2)
    )
    area = looks.detected_area(regions, Choice(share=0.3, most=2, grouped=False), 40)
    assert area == pytest.approx([(100 + 400) / 1600 * 0.5, 0])


def test_the_mean_look_averages_log_odds_masks_and_areas():
    look = looks.Look(
        np.array([[0.2], [0.9]]), np.array([[[[0.0]]], [[[1.0]]]]), np.array([[0.1], [0.3]])
    )
    image, mask, area = look.mean()
    assert (
        image == pytest.approx((logit(0.2) + logit(0.9)) / 2)
        and mask[0, 0, 0] == 0.5
        and area == pytest.approx(0.2)
    )
    assert look.mean(slice(0, 1))[0] == pytest.approx(logit(0.2))
    certain = looks.Look(np.array([[1.0], [1.0]]), np.zeros((2, 1, 1, 1)), np.zeros((2, 1)))
    assert np.isfinite(certain.mean()[0]).all()


def test_padding_does_not_count_as_picture():
    assert (
        looks.share(Letterbox(100, 50, 64)) == pytest.approx(0.5)
        and looks.share(Letterbox(9, 9, 64)) == 1
    )


def test_a_combination_is_the_mean_of_read_outs_on_one_scale():
    rng = np.random.default_rng(0)
    names = readouts.COMBINED["combined"]
    table = pd.DataFrame(rng.random((50, len(names))) * [1, 100, 0.01, 5, 3], columns=list(names))
    combination = readouts.combine(table)
    found = combination(table)
    alike = (table - table.mean()) / table.std(ddof=0)
    assert found["combined"].to_numpy() == pytest.approx(alike.mean(axis=1).to_numpy())
    assert found["detector: combined"].to_numpy() == pytest.approx(
        alike[list(readouts.DETECTED)].mean(axis=1).to_numpy()
    )
    # Other images are put on the scale of these, whatever they are themselves.
    other = combination(table.iloc[:2] + table.std(ddof=0))
    assert other["combined"].to_numpy() == pytest.approx(found["combined"].iloc[:2].to_numpy() + 1)


def test_read_outs_that_do_not_vary_add_nothing_to_a_combination():
    table = pd.DataFrame(0.3, index=range(4), columns=list(readouts.COMBINED["combined"]))
    table["detector: image"] = [0.1, 0.2, 0.3, 0.4]
    found = readouts.combine(table)(table)["combined"].to_numpy()
    assert np.isfinite(found).all() and (np.diff(found) > 0).all()


def test_patients_who_share_a_radiograph_by_content_count_as_one():
    rng = np.random.default_rng(0)
    pictures = [
        np.asarray(Image.fromarray(rng.integers(20, 250, (8, 8)).astype(np.uint8)).resize((64, 64)))
        for _ in range(3)
    ]
    pixels = np.stack([*pictures, np.maximum(pictures[0] // 2, 1), pictures[1]])
    images = pd.DataFrame({"patient": ["p", "q", "r", "s", "s"], "width": 64, "height": 64})
    sets = SimpleNamespace(
        records=lambda _: SimpleNamespace(images=images),
        pixels=lambda _: pixels,
        letterboxes=lambda rows: [Letterbox(64, 64, 64)] * len(rows),
    )
    run = SimpleNamespace(sets=sets)
    # The fourth is the first at half the exposure, the fifth the second: p, q and s are one person.
    person = readouts.persons(run, "covid19").tolist()
    assert person[0] == person[1] == person[3] == person[4] != person[2]
    assert images["patient"].tolist() == ["p", "q", "r", "s", "s"]
