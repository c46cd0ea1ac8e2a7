"""Read-outs: the ensemble's means, inputs, the combination, and patients who are one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import FakeRun
from PIL import Image
from scipy.special import logit

from pnloc.config import preset
from pnloc.images import Letterbox
from pnloc.localizer import Choice
from pnloc.regions import Regions
from pnloc.run.severity import readouts


def test_the_detected_area_is_that_of_the_chosen_boxes_times_the_best_score():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3])
    scores = torch.tensor([[0.5, 0.4, 0.0], [0.0, 0, 0]])
    rest = torch.zeros(2, 3, 9), torch.zeros(2, 5, 5), torch.zeros(2)
    regions = Regions(boxes, scores, boxes.sum(-1) > 0, *rest)
    area = readouts.detected_area(regions, Choice(share=0.3, most=2, grouped=False), 40)
    assert area == pytest.approx([(100 + 400) / 1600 * 0.5, 0])


def test_views_are_averaged_as_log_odds_masks_and_areas():
    masks = np.array([[[[0.0]]], [[[1.0]]]])
    seen = np.array([[0.2], [0.9]]), masks, np.array([[0.1], [0.3]])
    image, mask, area = readouts.means(*seen)
    assert image == pytest.approx((logit(0.2) + logit(0.9)) / 2)
    assert mask[0, 0, 0] == 0.5 and area == pytest.approx(0.2)
    assert np.isfinite(readouts.log_odds(np.array([0.0, 1.0]))).all()


def test_padding_does_not_count_as_picture():
    boxes = [Letterbox(100, 50, 64), Letterbox(9, 9, 64)]
    assert [box.share for box in boxes] == pytest.approx([0.5, 1])


def test_a_combination_is_the_mean_of_read_outs_on_one_scale():
    names = list(readouts.COMBINED["combined"])
    table = pd.DataFrame(np.random.default_rng(0).random((50, len(names))), columns=names)
    table *= [1, 100, 0.01, 5, 3]
    combined, alike = readouts.combine(table, table), (table - table.mean()) / table.std(ddof=0)
    for name, parts in readouts.COMBINED.items():
        assert combined[name].to_numpy() == pytest.approx(alike[list(parts)].mean(axis=1))
    # Other images are put on the scale of these, whatever they are themselves.
    other = readouts.combine(table.iloc[:2] + table.std(ddof=0), table)
    assert other["combined"].to_numpy() == pytest.approx(combined["combined"].iloc[:2] + 1)


def test_read_outs_that_do_not_vary_add_nothing_to_a_combination():
    table = pd.DataFrame(0.3, index=range(4), columns=list(readouts.COMBINED["combined"]))
    table["detector: image"] = [0.1, 0.2, 0.3, 0.4]
    combined = readouts.combine(table, table)["combined"].to_numpy()
    assert np.isfinite(combined).all() and (np.diff(combined) > 0).all()


def test_patients_who_share_a_radiograph_by_content_count_as_one():
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(20, 250, (8, 8)).astype(np.uint8)) for _ in range(3)]
    pictures = [np.asarray(image.resize((64, 64))) for image in small]
    pixels = np.stack([*pictures, np.maximum(pictures[0] // 2, 1), pictures[1]])
    images = pd.DataFrame({"patient": ["p", "q", "r", "s", "s"], "width": 64, "height": 64})
    own = preset("public")
    run = FakeRun(replace(own, detector=replace(own.detector, side=64)), images, None)
    run.sets.pixels = lambda _: pixels
    # The fourth is the first at half the exposure, the fifth the second: p, q and s are one person.
    person = readouts.persons(run, "covid19").tolist()
    assert person[0] == person[1] == person[3] == person[4] != person[2]
    assert images["patient"].tolist() == ["p", "q", "r", "s", "s"]
