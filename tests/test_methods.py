"""The registry of methods, forms of evidence, and what the stage of a baseline depends on."""

import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fakes import FakeRun

from pnloc.baselines.heatmaps import HeatChoice
from pnloc.boxes import as_boxes
from pnloc.config import BASELINES, DetectorConfig, preset
from pnloc.detector import Detector
from pnloc.errors import PnlocError
from pnloc.localizer import Choice
from pnloc.regions import Regions
from pnloc.run import cache, methods, predictions
from pnloc.run.evidence import Detections, Fixed, Heat, Images, Ranking
from pnloc.run.methods import CLASSIFIER, METHODS, Method

TABLES = tomllib.loads(Path(__file__).with_name("methods.toml").read_text(encoding="utf-8"))
TRUTH = [as_boxes([[0, 0, 8, 8]]), as_boxes([])]


@pytest.fixture
def run():
    """A run of one set, 'demo-rsna', of two images of 32 x 16 pixels, shown as 16 x 16."""
    columns = {"image": ["a", "b"], "patient": ["p", "q"], "label": [1.0, 0.0]}
    images = pd.DataFrame(columns).assign(split="train", width=32, height=16)
    boxes = pd.DataFrame([("a", 0, 0, 16, 8)], columns=["image", "x1", "y1", "x2", "y2"])
    small = replace(preset("smoke"), detector=replace(preset("smoke").detector, side=16))
    run = FakeRun(small, images, boxes.assign(label="Pneumonia"))
    run.sets.decoded = run.regions_stage = lambda name: (None, name)
    run.sets.words_stage, run.sets.vectors = (None, "words"), None
    tiny = DetectorConfig(side=64, width=8, pyramid=16)
    run.detector_stage = SimpleNamespace(key="detector", load=lambda: Detector(tiny))
    run.cache = SimpleNamespace(trained=lambda name, *inputs, **options: options)
    return run


# The registry ---------------------------------------------------------------------------------


def test_a_new_entry_is_all_that_a_method_needs(run, monkeypatch):
    box = as_boxes([[0.25, 0.25, 0.75, 0.75]])
    centre = Method("prior", "centre", "the centre", lambda images: Fixed(images.place(box)))
    monkeypatch.setitem(METHODS, "centre", centre)
    assert methods.available(run)[-1] is centre and predictions.choose(run, "centre")[0] is None
    (boxes, scores), _ = centre.evidence(Images(run, "demo-rsna", np.arange(2))).predictions(None)
    assert boxes.tolist() == [[4, 6, 12, 10]] and scores.tolist() == [1]


def test_an_unknown_baseline_is_refused_with_those_that_there_are(run):
    run.preset = replace(run.preset, baselines=("align2ground", "magic"))
    with pytest.raises(PnlocError, match="unknown baseline 'magic'; use some of hide-and-seek, "):
        methods.baselines(run)


@pytest.mark.parametrize(("name", "boxes", "left_out"), TABLES["left_out"])
def test_supervised_detectors_need_boxes_of_the_target_and_none_is_trained_twice(
    monkeypatch, name, boxes, left_out
):
    data = (None, [np.ones((boxes, 4))])
    monkeypatch.setattr(methods.TargetBoxes, "data", lambda *_: data)
    trained = methods.baselines(SimpleNamespace(preset=preset(name)))
    assert set(BASELINES) - set(trained) == set(left_out)


@pytest.mark.parametrize(("module", "retrained"), TABLES["retrained"].items())
def test_an_edit_retrains_what_depends_on_it_and_nothing_else(run, module, retrained):
    stages = {m.name: m.stage(run) for m in (CLASSIFIER, *map(METHODS.get, BASELINES))}
    stages["attention"] = run.localizer_stage(True)
    for name, stage in stages.items():
        sources = frozenset().union(*(cache.imports(f.__module__) for f in stage["code"]))
        assert (f"pnloc.{module}" in sources) == (name in retrained), name


# Evidence -------------------------------------------------------------------------------------


def test_detections_are_cut_at_a_share_of_the_best_score():
    boxes = as_boxes([[0, 0, 8, 8], [8, 8, 16, 16], [0, 8, 8, 16]])
    evidence = Detections([(boxes, np.array([0.8, 0.5, 0.1])), (boxes[:0], np.zeros(0))])
    (first, scores), (none, _) = evidence.predictions(Choice(0.5, 3))
    assert first.tolist() == boxes[:2].tolist() and scores.tolist() == [0.8, 0.5] and not len(none)
    assert evidence.choose(TRUTH)[0].most == 1 and evidence.heat(Choice(), 0) is None


def test_a_ranking_scores_by_probability_and_draws_its_attention():
    boxes = torch.tensor([[[0.0, 0, 8, 8], [8, 8, 16, 16]]])
    scores, valid = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    regions = Regions(boxes, scores, valid, torch.zeros(1, 2, 9), torch.zeros(1, 2, 2), scores[0])
    attention = np.array([[0.75, 0.25]])
    ranking = Ranking(regions, attention, np.array([0.4]), grouped=False)
    ((found, values),) = ranking.predictions(Choice(0.0, 2))
    assert found.tolist() == boxes[0].tolist() and values == pytest.approx([0.4, 0.4 / 3])
    heat = ranking.heat(Choice(), 0)
    assert heat[0, 0] == 0.75 and heat[15, 15] == 0.25 and heat[0, 15] == 0
    other = replace(ranking, scores=np.array([[0.0, 1.0]]))
    assert other.choose([as_boxes([[8, 8, 16, 16]])])[1] == 1


def test_a_heat_map_is_tried_layer_by_layer():
    maps = {"16": np.eye(16)[None], "32": np.zeros((1, 16, 16))}
    maps["32"][0, :8, :8] = 1
    evidence = Heat(("16", "32"), maps.get, list)
    choice, value = evidence.choose(TRUTH[:1])
    assert choice.layer == "32" and value == 1 and (evidence.heat(choice, 0) == maps["32"]).all()
    assert evidence.predictions(choice)[0][0].tolist() == TRUTH[0].tolist()
    assert evidence.choose([])[0] == HeatChoice("16")


def test_the_heat_map_of_training_boxes_lies_in_the_picture_of_each_image(run):
    evidence = METHODS["heat-map"].evidence(Images(run, "demo-rsna", np.arange(2)))
    boxes, _ = evidence.predictions(HeatChoice("", 0.5, 1))[1]
    assert boxes == pytest.approx(as_boxes([[0, 4, 8, 8]]))
    heat = evidence.heat(HeatChoice(""), 0)
    assert heat.sum() == 8 * 4 and heat[4:8, :8].all()


# Files ----------------------------------------------------------------------------------------


def test_maps_are_measured_inside_the_picture_of_images_with_boxes(run):
    heat = np.full((16, 16), 9.0)  # on the bars, which do not count
    heat[4:12] = np.arange(16) % 2
    heat[4:8, :8] = 2
    table = predictions.heat_rows(Images(run, "demo-rsna", np.arange(2)), lambda number: heat)
    assert table["image"].tolist() == ["a"] and table["cnr"].item() == pytest.approx(3)


def test_predictions_come_back_to_the_pixels_of_their_image_and_truth_names_negatives(run):
    inside = [(as_boxes([[0, 4, 8, 8]]), np.array([0.5])), (as_boxes([]), np.zeros(0))]
    table = predictions.boxes_table(run, "demo-rsna", np.arange(2), inside)
    assert table.to_numpy().tolist() == [["a", 0, 0, 16, 8, 0.5]]
    truth = predictions.truth_file(predictions.truth(run, "demo-rsna", "train"))
    assert truth["patient"].tolist() == ["p", "q"] and truth["x2"].isna().tolist() == [False, True]


def test_a_model_starts_from_the_same_weights_whether_or_not_the_detector_was_loaded(run):
    build = METHODS["hide-and-seek"].stage(run)["build"]
    first, second = (build().state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
