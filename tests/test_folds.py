"""Folds: patients whole, choices made elsewhere, blind boxes by hand, and the table of a small run with folds."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from pnloc.baselines import heatmaps
from pnloc.config import RegionConfig, preset
from pnloc.images import Letterbox
from pnloc.regions import GEOMETRY, Regions, both_ways
from pnloc.run import folds, members
from pnloc.run.severity import ensemble
from pnloc.view import tables as pages

SIDE = 64
BOX = np.array([[8.0, 8, 24, 40]])


def made(count: int = 60, kept: int = 3, seed: int = 0, validate: int = 12) -> SimpleNamespace:
    """A run as far as folds look at it: `count` images of 64 pixels, two per patient, a box in every third; the last ones held out."""
    names = [f"i{n:02d}" for n in range(count)]
    images = pd.DataFrame(
        {
            "image": names,
            "patient": [f"p{n // 2}" for n in range(count)],
            "width": SIDE,
            "height": SIDE,
        }
    )
    images["split"] = ["train"] * (count - validate) + ["validate"] * validate
    truth = [BOX + 2 * (n % 5) if n % 3 == 0 else np.zeros((0, 4)) for n in range(count)]
    boxes = pd.DataFrame(
        [(name, *box) for name, own in zip(names, truth, strict=True) for box in own],
        columns=["image", "x1", "y1", "x2", "y2"],
    )
    configuration = replace(preset("public"), folds=kept, resamples=50)
    return SimpleNamespace(
        preset=replace(configuration, detector=replace(configuration.detector, side=SIDE)),
        seed=seed,
        title=lambda role: role,
        sets=SimpleNamespace(
            records=lambda _: SimpleNamespace(images=images, boxes=boxes),
            true_boxes=lambda _: truth,
            letterboxes=lambda rows: [Letterbox(SIDE, SIDE, SIDE)] * len(rows),
            rows=lambda _, *splits: np.flatnonzero(images["split"].isin(splits)),
        ),
    )


class Hashable(SimpleNamespace):
    __hash__ = object.__hash__


def run_of(**given: int) -> Hashable:
    return Hashable(**vars(made(**given)))


def seen(run: SimpleNamespace) -> Regions:
    """Regions of a detector that finds each box exactly, beside a weaker one that is wrong, and a mask that covers each box."""
    truth = run.sets.true_boxes("rsna")
    n = len(truth)
    boxes, scores, mask = torch.zeros(n, 2, 4), torch.zeros(n, 2), torch.full((n, 8, 8), 0.02)
    for row, own in enumerate(truth):
        boxes[row, 1], scores[row] = torch.tensor([40.0, 40, 60, 60]), torch.tensor([0.9, 0.1])
        boxes[row, 0] = torch.tensor(own[0] if len(own) else [2.0, 2, 12, 12])
        for x1, y1, x2, y2 in (own / 8).round().astype(int):
            mask[row, y1:y2, x1:x2] = 0.9
    image = torch.tensor([0.9 if len(own) else 0.1 for own in truth])
    return Regions(boxes, scores, scores > 0, torch.zeros(n, 2, GEOMETRY + 2), mask, image)


def test_folds_keep_patients_whole_and_share_the_boxes_evenly():
    run = run_of()
    fold, images = members.folds(run), run.sets.records("rsna").images
    assert images.assign(fold=fold).groupby("patient")["fold"].nunique().max() == 1
    boxed = np.array([len(b) > 0 for b in run.sets.true_boxes("rsna")])
    counts = [int(boxed[fold == k].sum()) for k in (1, 2)]
    assert set(fold) == {0, 1, 2} and abs(counts[0] - counts[1]) <= 1
    assert ((fold == 0) == (images["split"] != "train")).all(), (
        "the first fold is what the run's own detector was not trained on"
    )


def test_each_detector_learns_from_all_images_but_those_of_its_fold():
    run = run_of()
    fold = members.folds(run)
    for number in (1, 2):
        title, rows, _ = members.plan(run, number)
        assert title == f"detector-fold-{number}" and sorted({*fold[rows]}) == sorted(
            {0, 1, 2} - {number}
        )
        assert set(rows) == set(np.flatnonzero(fold != number))
    title, rows, _ = members.plan(run, 3)  # beyond the folds: another seed
    assert title == "detector-member-3" and rows.tolist() == run.sets.rows("rsna", "train").tolist()
    assert len({members.plan(run, n)[2] for n in (1, 2, 3)}) == 3


def test_without_folds_further_detectors_differ_in_their_seed():
    run = run_of(kept=0)
    plans = [members.plan(run, n) for n in (1, 2)]
    assert [p[0] for p in plans] == ["detector-member-1", "detector-member-2"] and plans[0][
        2
    ] != plans[1][2]
    assert all(p[1].tolist() == run.sets.rows("rsna", "train").tolist() for p in plans)


@pytest.mark.parametrize(("folds_", "alone"), [(3, True), (0, False)])
def test_on_their_own_set_only_a_detector_speaks_that_has_not_seen_the_image(
    monkeypatch, folds_, alone
):
    run = run_of(kept=folds_)
    run.detector, run.sets.pixels = "own", lambda _: np.zeros((60, 1, 1))
    monkeypatch.setattr(ensemble, "detectors", lambda _: ["own", "other"])
    monkeypatch.setattr(ensemble, "view", lambda _run, shown_to, pixels, choice: shown_to)
    assert ensemble.unseen_view(run, "rsna", np.arange(3), None) == (
        ["own"] if alone else ["own", "other"]
    )
    assert ensemble.unseen_view(run, "covid19", np.arange(3), None) == ["own", "other"], (
        "elsewhere all speak"
    )


def test_a_way_is_chosen_on_the_other_folds():
    truth = [BOX, BOX, BOX, np.zeros((0, 4))]
    wrong = np.array([[40.0, 40, 60, 60]])
    first, second = [BOX, wrong, wrong, wrong], [wrong, BOX, wrong, wrong]
    # Fold 0 (image 0) sees images 1 and 2, where the second way is better; fold 1 sees only image 0.
    assert folds.chosen([first, second], truth, np.array([0, 1, 1, 1])).tolist() == [1, 0, 0, 0]
    assert (
        folds.chosen([first, second], [np.zeros((0, 4))] * 4, np.array([0, 1, 1, 1])).tolist()
        == [0] * 4
    )


def test_blind_lines_know_the_other_folds_boxes_only(monkeypatch):
    run = run_of()
    fold, truth = members.folds(run), run.sets.true_boxes("rsna")
    monkeypatch.setattr(members, "unseen_regions", lambda _: seen(run))
    found = folds.found(run)
    for k in range(3):
        elsewhere = np.concatenate([t for t, f in zip(truth, fold, strict=True) if f != k])
        row = int(np.flatnonzero(fold == k)[0])
        assert found["fixed-boxes"][row][0][0] == pytest.approx(np.median(elsewhere, axis=0))
    for method in folds.BLIND:
        same = {
            tuple(np.round(found[method][row][0].ravel(), 6)) for row in np.flatnonzero(fold == 1)
        }
        assert len(same) == 1, "blind boxes are the same on every image of a fold"


def test_a_detector_that_finds_every_box_has_the_best_table(monkeypatch):
    run = run_of()
    monkeypatch.setattr(members, "unseen_regions", lambda _: seen(run))
    tables = folds._made(run)
    table, gaps = tables["detector_folds"], tables["detector_folds_differences"]
    assert list(table.columns) == folds.COLUMNS and set(table["method"]) == set(folds.METHODS)
    own = table[(table["method"] == "detector") & table["threshold"].isna()].set_index("metric")[
        "value"
    ]
    assert (
        own["miou"] == pytest.approx(1)
        and own["boxes"] == pytest.approx(1)
        and own["auc"] == pytest.approx(1)
    )
    assert (
        gaps.loc[(gaps["method"] == "detector") & (gaps["metric"] == "miou"), "value"] > 0
    ).all()
    page = pages.readable(table, "rsna", folds.SHOWN, folds.METHODS)
    assert (
        page.loc["detector alone", "union IoU"].startswith("1.00")
        and page.loc["detector alone", "image AUC"] == "1.00\xa0[1.00,\xa01.00]"
    )
    assert (
        page.shape == (len(folds.METHODS), len(folds.SHOWN))
        and page.loc["two fixed boxes, no image", "boxes per image"] == "2.00\xa0[2.00,\xa02.00]"
    )
    count = sum(len(b) > 0 for b in run.sets.true_boxes("rsna"))
    assert (table.loc[table["metric"] == "miou", "n"] == count).all(), (
        "every boxed image counts once"
    )
    truth = tables["rsna-folds--truth"]
    assert (
        truth["image"].nunique() == 60
        and truth["patient"].notna().all()
        and truth["x1"].isna().sum() == 60 - count
    )


def test_there_are_no_tables_without_folds():
    table, gaps = folds.tables(run_of(kept=0))
    assert table.empty and gaps.empty


def test_the_mask_enlarged_is_the_square_input():
    run = run_of()
    maps = heatmaps.mask_maps(seen(run), SIDE)
    assert (
        maps.shape == (60, SIDE, SIDE)
        and maps[0, 24, 16] == pytest.approx(0.9, abs=1e-6)
        and maps[1].max() < 0.03
    )


def test_an_image_seen_both_ways_has_the_mean_mask_and_the_mean_log_odds():
    from pnloc.detector import Output

    one, other = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    one[0, 0, 0], other[0, 0, 3] = 0.8, 0.4  # the same place, seen from the other side
    boxes = [torch.ones(1, 4)]
    found = both_ways(
        Output(boxes, [torch.ones(1)], one, torch.tensor([0.2]), {}),
        Output([], [], other, torch.tensor([0.9]), {}),
    )
    assert found.mask[0, 0, 0] == pytest.approx(0.6) and found.mask.sum() == pytest.approx(0.6)
    odds = (np.log(0.25) + np.log(9)) / 2
    assert (
        found.image.item() == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-5)
        and found.boxes is boxes
    )


def test_only_the_real_preset_pays_for_folds_and_mirrored_images():
    for name in ("smoke", "demo"):
        assert (
            preset(name).folds == 0
            and preset(name).regions == RegionConfig()
            and not preset(name).regions.mirrored
        )
    public = preset("public")
    assert public.severity.detectors == public.folds, "what the folds cost serves severity, too"
