"""Folds: patients whole, choices made elsewhere, blind boxes by hand, the tables of a small run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import FakeRun

from pnloc.config import preset
from pnloc.detector import Output
from pnloc.regions import GEOMETRY, Regions, both_ways
from pnloc.run import folds
from pnloc.run.severity import readouts

SIDE, COUNT = 64, 30
BOX, WRONG = np.array([[8.0, 8, 24, 40]]), np.array([[40.0, 40, 60, 60]])


def run_of(number: int = 3) -> FakeRun:
    """A run as far as folds read it: two images per patient, a box in every third; six held out."""
    names = [f"i{n:02d}" for n in range(COUNT)]
    patients = [f"p{n // 2}" for n in range(COUNT)]
    images = pd.DataFrame({"image": names, "patient": patients, "width": SIDE, "height": SIDE})
    images["split"] = ["train"] * (COUNT - 6) + ["validate"] * 6
    corners = np.concatenate([BOX + 2 * (n % 5) for n in range(0, COUNT, 3)])
    boxes = pd.DataFrame(corners, columns=["x1", "y1", "x2", "y2"]).assign(image=names[::3])
    detector = replace(preset("public").detector, side=SIDE)
    small = {"folds": number, "resamples": 20, "detector": detector}
    return FakeRun(replace(preset("public"), **small), images, boxes)


def regions_of(run: FakeRun) -> Regions:
    """Of a detector that finds each box exactly, beside a weaker wrong one; the mask covers it."""
    truth = run.sets.true_boxes("rsna")
    boxes = torch.tensor(np.stack([[t[0] if len(t) else WRONG[0], WRONG[0]] for t in truth]))
    scores, mask = torch.tensor([[0.9, 0.1]] * COUNT), torch.full((COUNT, 8, 8), 0.02)
    for row, own in enumerate(truth):
        for x1, y1, x2, y2 in (own / 8).round().astype(int):
            mask[row, y1:y2, x1:x2] = 0.9
    image = torch.tensor([0.9 if len(own) else 0.1 for own in truth])
    features = torch.zeros(COUNT, 2, GEOMETRY + 2)
    return Regions(boxes.float(), scores, scores > 0, features, mask, image)


@pytest.fixture
def run(monkeypatch) -> FakeRun:
    monkeypatch.setattr(folds, "unseen_regions", regions_of)
    return run_of()


def test_folds_keep_patients_whole_and_share_the_boxes_evenly(run):
    fold, images = folds.folds(run), run.sets.records("rsna").images
    assert images.assign(fold=fold).groupby("patient")["fold"].nunique().max() == 1
    boxed = np.array([len(boxes) > 0 for boxes in run.sets.true_boxes("rsna")])
    counts = [int(boxed[fold == k].sum()) for k in (1, 2)]
    assert set(fold) == {0, 1, 2} and abs(counts[0] - counts[1]) <= 1
    # The first fold is what the run's own detector was not trained on.
    assert ((fold == 0) == (images["split"] != "train")).all()


@pytest.mark.parametrize("number", [3, 0])
def test_a_detector_learns_from_all_images_but_those_of_its_fold_or_has_another_seed(number):
    run, own = run_of(number), []
    for detector in (1, 2, 3):
        stage, rows, seed = folds.plan(run, detector)
        if detector < number:
            expected = np.flatnonzero(folds.folds(run) != detector)
        else:  # beyond the folds
            expected = run.sets.rows("rsna", "train")
        assert stage == f"detector-{'fold' if detector < number else 'member'}-{detector}"
        assert rows.tolist() == expected.tolist()
        own.append(seed)
    assert len({run.seed, *own}) == 4


@pytest.mark.parametrize("number", [3, 0])
def test_a_training_image_is_scored_by_detectors_that_have_not_seen_it(monkeypatch, number):
    run = run_of(number)
    run.detector = "own"
    monkeypatch.setattr(readouts, "detectors", lambda _: ["own", "other"])
    assert readouts.unseeing(run, "rsna") == (["own"] if number else ["own", "other"])
    assert readouts.unseeing(run, "covid19") == ["own", "other"]


def test_no_box_of_a_fold_moves_its_own_predictions(run, monkeypatch):
    regions, own = regions_of(run), folds.folds(run) == 1
    monkeypatch.setattr(folds, "unseen_regions", lambda _: regions)
    before = folds.predictions(run)
    truth = run.sets.true_boxes("rsna")
    truth = [WRONG if here and len(t) else t for here, t in zip(own, truth, strict=True)]
    run.sets.true_boxes = lambda *_: truth
    for method, found in folds.predictions(run).items():
        for row in np.flatnonzero(own):
            assert np.array_equal(found[row][0], before[method][row][0]), method


def test_blind_methods_know_the_other_folds_boxes_only(run):
    fold, truth, found = folds.folds(run), run.sets.true_boxes("rsna"), folds.predictions(run)
    for k in range(3):
        rows = np.flatnonzero(fold == k)
        elsewhere = np.concatenate([t for t, f in zip(truth, fold, strict=True) if f != k])
        boxes, _ = found["fixed-boxes"][rows[0]]
        assert boxes[0] == pytest.approx(np.median(elsewhere, axis=0))
        for method in folds.BLIND:  # the same on every image of a fold
            assert len({found[method][row][0].round(6).tobytes() for row in rows}) == 1


def test_a_detector_that_finds_every_box_has_the_best_table(run):
    tables, boxed = folds._tables(run), COUNT // 3
    table, gaps = tables["detector_folds"], tables["detector_folds_differences"]
    assert list(table.columns) == folds.COLUMNS and set(table["method"]) == set(folds.METHODS)
    own = table[(table["method"] == "detector") & table["threshold"].isna()].set_index("metric")
    for metric in ("miou", "boxes", "auc"):
        assert own.loc[metric, "value"] == pytest.approx(1)
    gap = gaps[(gaps["method"] == "detector") & (gaps["metric"] == "miou")]
    assert (gap["value"] > 0).all() and set(gap["against"]) == set(folds.BLIND)
    assert (table.loc[table["metric"] == "miou", "n"] == boxed).all(), "each image counts once"
    truth = tables["rsna-folds--truth"]
    assert truth["image"].nunique() == COUNT and truth["patient"].notna().all()
    assert truth["x1"].isna().sum() == COUNT - boxed


def test_an_image_seen_both_ways_has_the_mean_mask_and_the_mean_log_odds():
    one, other = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    one[0, 0, 0], other[0, 0, 3] = 0.8, 0.4  # the same place, seen from the other side
    boxes = [torch.ones(1, 4)]
    plain = Output(boxes, [torch.ones(1)], one, torch.tensor([0.2]), {})
    both = both_ways(plain, Output([], [], other, torch.tensor([0.9]), {}))
    assert both.mask[0, 0, 0] == pytest.approx(0.6) and both.mask.sum() == pytest.approx(0.6)
    odds = (np.log(0.25) + np.log(9)) / 2
    assert both.image.item() == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-5)
    assert both.boxes is boxes
