"""Trained baselines: their rules by hand, what each learns, and when its training stops."""

import numpy as np
import pytest
import torch
from torch import nn

from pnloc.baselines import grounding, heatmaps, supervised, weak
from pnloc.baselines.classifier import Classifier, train_classifier
from pnloc.config import DetectorConfig, FittingConfig, ModelConfig
from pnloc.detector import Detector
from pnloc.errors import PnlocError
from pnloc.localizer import make_batch
from pnloc.regions import Regions
from pnloc.reports.words import WordVectors
from pnloc.train import Schedule, fit
from pnloc.training import new_attention

TINY = DetectorConfig(side=64, width=8, pyramid=16, anchor_sizes=((16.0, 24.0), (32.0, 48.0)))
HIDING = (weak.HideAndSeek, weak.AttentionDropout)
GROUNDING = (grounding.ContrastiveGrounding, grounding.Align2Ground, grounding.Reconstruction)


def blobs(count: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Noise [N, 64, 64], every other image with a bright square of 16 pixels; labels and boxes."""
    rng = np.random.default_rng(0)
    images, boxes = rng.integers(60, 100, (count, 64, 64)).astype(np.uint8), []
    for number, image in enumerate(images):
        x, y = 32 * rng.integers(0, 2, 2) + rng.integers(4, 13, 2)
        if number % 2 == 0:
            image[y : y + 16, x : x + 16] = 230
        boxes.append(np.array([[x, y, x + 16, y + 16.0]][number % 2 :]).reshape(-1, 4))
    return images, np.arange(1.0, count + 1) % 2, boxes


def pairs(count: int, seed: int) -> tuple[Regions, np.ndarray]:
    """Studies of four regions, one of which shows what the report says, one of eight words."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 0.3, (count, 4, 24)).astype(np.float32)
    words, places = rng.integers(1, 9, (count, 1)), rng.integers(0, 4, count)
    features[np.arange(count), places, words[:, 0]] += 3
    boxes = torch.tensor([[0.0, 0, 9, 9], [10, 0, 19, 9], [0, 10, 9, 19], [10, 10, 19, 19]])
    scores, masks = torch.full((count, 4), 0.5), torch.zeros(count, 2, 2)
    parts = (scores, scores > 0, torch.from_numpy(features).half(), masks, torch.zeros(count))
    return Regions(boxes.repeat(count, 1, 1), *parts), words


def options(folder) -> dict:
    return {"seed": 0, "folder": folder, "fingerprint": "x", "title": "x"}


# Rules by hand --------------------------------------------------------------------------------


def test_hide_and_seek_hides_half_of_the_cells_of_a_grid_and_sometimes_nothing():
    torch.manual_seed(0)
    cells = weak.hide(torch.ones(2000, 1, 28, 28), grids=(4,)).unfold(2, 7, 7).unfold(3, 7, 7)
    assert cells.mean().item() == pytest.approx(0.5, abs=0.01)
    assert (cells == cells[..., :1, :1]).all(), "a cell is hidden as a whole or not at all"
    assert weak.hide(torch.ones(9, 1, 28, 28), grids=(0,)).eq(1).all()


def test_the_drop_mask_is_zero_where_attention_is_near_its_maximum():
    # Means over two channels: 1, 4 / 3.1, 3.3; .8 of the maximum 4 is 3.2.
    features = torch.tensor([[[[0.0, 4.0], [3.0, 3.3]], [[2.0, 4.0], [3.2, 3.3]]]])
    assert weak.drop_mask(features).tolist() == [[[[1.0, 0.0], [1.0, 0.0]]]]
    assert weak.drop_attention(features, rate=1.0).equal(features * weak.drop_mask(features))
    importance = torch.sigmoid(torch.tensor([[[[1.0, 4.0], [3.1, 3.3]]]]))
    assert torch.allclose(weak.drop_attention(features, rate=0.0), features * importance)


def test_an_image_is_the_noisy_or_of_its_patches():
    patches = torch.tensor([[0.5, 0.2], [0.0001, 0.0001], [0.9, 0.999]])
    expected = [1 - 0.5 * 0.8, 1 - 0.9999**2, 1 - 0.1 * 0.001]
    logits = weak.bag_logit(torch.logit(patches))
    assert torch.sigmoid(logits).tolist() == pytest.approx(expected, rel=1e-3)
    extreme = weak.bag_logit(torch.tensor([[-80.0] * 4, [80.0] * 4]))
    assert torch.isfinite(extreme).all() and extreme[0] < -10 and extreme[1] > 10


def test_the_ranking_loss_is_the_mean_hinge_against_every_other_image_and_report():
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.5, 0.6], [0.0, 0.0, 0.0]])
    paired = torch.tensor([True, True, False])  # without words, its image is only a distractor
    # Hinges: report 1 .1 and 0, report 2 0 and .3; image 1 0, image 2 .5.
    expected = (0.1 + 0 + 0 + 0.3) / 4 + (0 + 0.5) / 2
    assert grounding.ranking(scores, paired).item() == pytest.approx(expected)
    assert grounding.ranking(scores, torch.tensor([True, False, False])).item() == 0
    assert grounding.ranking(torch.eye(3), torch.ones(3, dtype=torch.bool)).item() == 0


def grounder(kind: type, words: list[str], dropout: float = 0.2) -> nn.Module:
    vectors = WordVectors(["", *words], np.eye(len(words) + 1, 16, dtype=np.float32))
    torch.manual_seed(0)
    config = ModelConfig(width=16, dropout=dropout)
    return new_attention(24, vectors, ("pneumonia",), config, kind).eval()


def test_comparing_equal_words_only_once_changes_no_score():
    words = torch.tensor([[1, 2, 3, -1], [1, 2, 3, -1], [3, 2, 1, 1], [-1, -1, -1, -1]])
    model, (regions, _) = grounder(grounding.Align2Ground, [*"abc"]), pairs(4, 3)
    scores = model.match(make_batch(regions, words.numpy()))
    v, t = model.encode_regions(regions.features), model.encode_words(words)
    for report, image in ((0, 0), (2, 1)):  # slowly, one word after the other
        own = t[report, words[report] >= 0]
        picked = torch.stack([v[image, (v[image] @ word).argmax()] for word in own]).mean(0)
        both = picked + model.picked(picked), own.mean(0) + model.caption(own.mean(0))
        slow = torch.cosine_similarity(*both, dim=0).item()
        assert scores[report, image].item() == pytest.approx(slow, abs=1e-5)
    assert scores[3].tolist() == [0.0] * 4


@pytest.mark.parametrize("kind", HIDING)
def test_at_test_hiding_classifiers_are_the_plain_one(kind):
    torch.manual_seed(1)
    model, images = kind(Detector(TINY)).eval(), torch.from_numpy(blobs(2)[0])[:, None]
    plain = Classifier(Detector(TINY)).eval()
    plain.load_state_dict(model.state_dict())
    assert plain(images).equal(model(images))
    model.train()
    assert not model(images).equal(model(images))


def test_frozen_parts_stay_as_the_detector_left_them():
    detector = Detector(TINY)
    model = Classifier(detector).train()
    model(torch.from_numpy(blobs(2)[0])[:, None]).sum().backward()
    assert all(p.grad is None for part in model.frozen() for p in part.parameters())
    before, after = detector.backbone.state_dict(), model.body.state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and not any(name.startswith(("stem", "stages.8")) for name in changed)


# Learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Classifier, *HIDING, weak.PatchMIL])
def test_a_baseline_of_image_labels_learns_and_draws_a_map(kind, tmp_path):
    torch.manual_seed(0)
    model, (images, labels, _) = kind(Detector(TINY)), blobs(16)
    data = (images, labels), (images[:8], labels[:8])
    history = train_classifier(model, *data, FittingConfig(4, 4, 8, 2e-3), **options(tmp_path))
    assert history["loss"].min() < history["loss"].iloc[0] and history["validation"].gt(0).all()
    maps = heatmaps.class_activation(model, images)
    assert maps.shape == images.shape and maps.min() >= 0 and maps.max() <= 1


@pytest.mark.parametrize("kind", GROUNDING)
def test_grounding_learns_what_the_words_of_reports_look_like(kind, tmp_path):
    model, config = grounder(kind, [*"abcdefgh"], dropout=0.0), FittingConfig(8, 8, 16, 1e-2)
    data = pairs(128, 0), pairs(32, 1)
    history = grounding.train_grounding(model, *data, config, **options(tmp_path))
    assert history["validation"].min() < history["validation"].iloc[0]
    regions, words = pairs(60, 2)
    with torch.no_grad():
        weights, fits = model.grounded(make_batch(regions, words))
    place = regions.features.float().amax(2).argmax(1)
    assert (weights.argmax(1) == place).float().mean() > 0.5, "by chance one in four"
    assert torch.allclose(weights.sum(1), torch.ones(60), atol=1e-4)
    assert ((fits >= 0) & (fits <= 1)).all()


@pytest.mark.parametrize("kind", GROUNDING)
def test_the_prompt_reads_no_report_and_padding_gets_no_attention(kind):
    regions, vectors = pairs(3, 0)[0], WordVectors(["", "opacity"], np.eye(2, 16, dtype=np.float32))
    regions.valid[0, 2:] = False
    model = grounder(kind, ["opacity"])
    weights, fits = grounding.prompted(model, regions, vectors)
    assert weights.sum(1) == pytest.approx(np.ones(3), abs=1e-5) and (weights[0, 2:] == 0).all()
    assert fits.shape == (3,)
    assert grounding.prompted(model, regions.rows([]), vectors)[0].shape == (0, 4)


def test_faster_rcnn_learns_and_its_validation_changes_neither_model_nor_mode(tmp_path):
    torch.manual_seed(0)
    (images, _, boxes), model = blobs(16), supervised.FasterRegions(Detector(TINY))
    data, config = (images, boxes), FittingConfig(2, 2, 8, 3e-3)
    history = supervised.train_supervised(model, data, data, config, **options(tmp_path))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    for own, scores in supervised.detect(model, images[:2]):
        assert own.shape == (len(scores), 4) and (np.diff(scores) <= 0).all() and scores[0] <= 1
    assert supervised.detect(model, images[:0]) == []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    targets = [{"boxes": torch.tensor([[9.0, 9, 25, 25]]), "labels": torch.tensor([0])}]
    with torch.no_grad():
        model.losses(torch.from_numpy(images[:1])[:, None].float(), targets)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


# Early stopping -------------------------------------------------------------------------------

FALLING = [1.0, 0.8, 0.6, 0.7, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1]


def run(folder, values=FALLING, patience=2, first=0, stop_at=None):
    """A tiny training with these validation losses: module, history, weights after each epoch.

    first: how many epochs an interrupted training has behind it.
    """
    torch.manual_seed(3)
    module, weights = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)), []

    def batches(epoch):
        if epoch == stop_at:
            raise InterruptedError
        yield from torch.randn(5, 16, 4, generator=torch.Generator().manual_seed(epoch))

    def losses(batch):
        return {"fit": (module(batch)[:, 0] - batch.sum(1)).square().mean()}

    def validation():
        assert not module.training and not torch.is_grad_enabled()
        weights.append(module[0].weight.clone())
        return values[first + len(weights) - 1]

    schedule = Schedule(10, 5, 1e-2, 0.01, patience)
    place = {"folder": folder, "fingerprint": "f", "seed": 3}
    return module, fit(module, batches, losses, schedule, **place, validation=validation), weights


@pytest.mark.parametrize(("patience", "epochs", "best"), [(2, 5, 2), (0, 10, 5)])
def test_training_stops_when_the_validation_loss_has_stopped_falling_and_keeps_the_best(
    tmp_path, patience, epochs, best
):
    module, history, weights = run(tmp_path, patience=patience)
    assert history["validation"].tolist() == FALLING[:epochs]
    assert module[0].weight.equal(weights[best]) and not module.training
    again, same, _ = run(tmp_path, patience=patience)  # as after a kill behind the last checkpoint
    assert same.equals(history) and again[0].weight.equal(weights[best])


def test_a_stopped_training_resumes_to_the_same_weights_history_and_end(tmp_path):
    whole, history, _ = run(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", stop_at=4)
    resumed, again, weights = run(tmp_path / "cut", first=4)
    assert len(weights) == 1 and again.equals(history)
    weights = resumed.state_dict()
    assert all(value.equal(weights[name]) for name, value in whole.state_dict().items())


def test_a_validation_loss_that_is_not_a_number_ends_the_run(tmp_path):
    with pytest.raises(PnlocError, match="the validation loss is not finite, in epoch 1"):
        run(tmp_path, [1.0, float("nan")])
