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

TINY = DetectorConfig(side=64, width=8, pyramid=16, anchor_sizes=((16.0, 24.0), (32.0, 48.0)))
HIDING = (weak.HideAndSeek, weak.AttentionDropout)
GROUNDING = (grounding.ContrastiveGrounding, grounding.Align2Ground)


def blobs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Noise [N, 64, 64], every other image with a bright square of 16 pixels; labels and boxes.

    The others have four squares of 8 pixels, as bright in sum, so that only the size tells.
    """
    rng = np.random.default_rng(seed)
    images, boxes = rng.integers(60, 100, (count, 64, 64)).astype(np.uint8), []
    corners = [(x, y) for x in range(2, 56, 16) for y in range(2, 56, 16)]
    for number, image in enumerate(images):
        large = [32 * rng.integers(0, 2, 2) + rng.integers(4, 13, 2)]
        size, places = (8, rng.permutation(corners)[:4]) if number % 2 else (16, large)
        for x, y in places:
            image[y : y + size, x : x + size] = 230
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


def options(folder, title: str = "x") -> dict:
    return {"seed": 0, "folder": folder, "fingerprint": "x", "title": title}


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
    return grounding.untrained(kind, 24, vectors, ModelConfig(width=16, dropout=dropout)).eval()


def test_comparing_equal_words_only_once_changes_no_score():
    words = torch.tensor([[1, 2, 3, -1], [1, 2, 3, -1], [3, 2, 1, 1], [-1, -1, -1, -1]])
    first, which = grounding.distinct(words)
    assert which.tolist()[:3] == which.tolist()[3:6] and which[first].tolist() == list(range(7))
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
    model, images = kind(Detector(TINY)).eval(), torch.from_numpy(blobs(4)[0])[:, None]
    plain = Classifier(Detector(TINY)).eval()
    plain.load_state_dict(model.state_dict())
    assert plain(images).equal(model(images))
    model.train()
    assert not model(images).equal(model(images))


def test_frozen_parts_stay_as_the_detector_left_them():
    torch.manual_seed(1)
    detector = Detector(TINY)
    model = Classifier(detector).train()
    model(torch.from_numpy(blobs(8)[0])[:, None]).sum().backward()
    assert all(p.grad is None for part in model.frozen() for p in part.parameters())
    assert model.body.stages["16"][0].downsample[0].weight.grad.abs().sum() > 0
    before, after = detector.backbone.state_dict(), model.body.state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and not any(name.startswith(("stem", "stages.8")) for name in changed), (
        "statistics of normalization, too"
    )


# Learning -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Detector:
    """A detector that has briefly learned where the bright squares are."""
    torch.manual_seed(0)
    (images, _, boxes), model = blobs(64, seed=5), Detector(TINY)
    config, place = FittingConfig(6, 0, 16, 5e-3), options(tmp_path_factory.mktemp("detector"))
    supervised.train_supervised(model, (images, boxes), (images[:0], []), config, **place)
    return model.eval()


@pytest.mark.parametrize("kind", [Classifier, *HIDING, weak.PatchMIL])
def test_a_baseline_of_image_labels_learns_and_points_at_the_bright_square(
    kind, detector, tmp_path
):
    (images, labels, _), (held_out, truth, boxes) = blobs(64), blobs(32, seed=1)
    torch.manual_seed(0)
    model, config, held = kind(detector), FittingConfig(12, 4, 16, 2e-3), (held_out, truth)
    history = train_classifier(model, (images, labels), held, config, **options(tmp_path))
    assert history["loss"].min() < history["loss"].iloc[0] and history["validation"].min() < 0.6
    probability = heatmaps.probabilities(model, held_out)
    assert probability[truth == 1].mean() > probability[truth == 0].mean() + 0.2
    maps = heatmaps.class_activation(model, held_out)
    assert maps.shape == held_out.shape and maps.min() >= 0 and maps.max() <= 1
    if kind in HIDING:  # where the others point in so small a picture depends on rounding
        peaks = [np.array(np.unravel_index(heat.argmax(), heat.shape)) for heat in maps[::2]]
        quarters = [box[0, 1::-1] // 32 for box in boxes[::2]]
        assert np.mean((np.array(peaks) // 32 == quarters).all(1)) > 0.7, "by chance one in four"


@pytest.mark.parametrize("kind", GROUNDING)
def test_grounding_learns_what_the_words_of_reports_look_like(kind, tmp_path):
    model, config = grounder(kind, [*"abcdefgh"], dropout=0.0), FittingConfig(15, 8, 16, 5e-3)
    data = pairs(240, 0), pairs(40, 1)
    history = grounding.train_grounding(model, *data, config, **options(tmp_path))
    assert history["loss"].iloc[-5:].mean() < history["loss"].iloc[0]
    assert history["validation"].min() < history["validation"].iloc[0]
    regions, words = pairs(60, 2)
    with torch.no_grad():
        weights, fits = model.grounded(make_batch(regions, words))
    place = regions.features.float().amax(2).argmax(1)
    assert (weights.argmax(1) == place).float().mean() > 0.6, "by chance one in four"
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


def test_faster_rcnn_learns_to_find_the_bright_square(detector, tmp_path):
    (images, _, boxes), (held_out, _, truth) = blobs(64), blobs(32, seed=1)
    torch.manual_seed(0)
    model, config = supervised.FasterRegions(detector), FittingConfig(6, 8, 16, 3e-3)
    held = held_out, truth
    history = supervised.train_supervised(model, (images, boxes), held, config, **options(tmp_path))
    assert history["loss"].iloc[-1] < 0.8 * history["loss"].iloc[0]
    assert history["validation"].min() < history["validation"].iloc[0]
    detections = supervised.detect(model, held_out)
    shifts = [own[0] - true[0] for (own, _), true in zip(detections[::2], truth[::2], strict=True)]
    assert (np.abs(shifts).max(1) < 12).mean() > 0.5
    assert all((np.diff(s) <= 0).all() and (s <= 1).all() for _, s in detections)
    assert supervised.detect(model, held_out[:0]) == []


def test_measuring_the_validation_loss_changes_neither_model_nor_mode(detector):
    model = supervised.FasterRegions(detector).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    targets = [{"boxes": torch.tensor([[9.0, 9, 25, 25]]), "labels": torch.tensor([0])}]
    with torch.no_grad():
        model.losses(torch.from_numpy(blobs(1)[0])[:, None].float(), targets)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


# Early stopping -------------------------------------------------------------------------------

FALLING = [1.0, 0.8, 0.6, 0.7, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1]


class Stopped(Exception):
    pass


def run(folder, values=FALLING, patience=2, first=0, stop_at=None):
    """A tiny training with given validation losses: module, history, weights after each epoch.

    first: how many epochs an interrupted training has behind it.
    """
    torch.manual_seed(3)
    module, weights = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)), []

    def batches(epoch):
        if epoch == stop_at:
            raise Stopped
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
    with pytest.raises(Stopped):
        run(tmp_path / "cut", stop_at=4)
    resumed, again, weights = run(tmp_path / "cut", first=4)
    assert len(weights) == 1 and again.equals(history)
    assert all(
        value.equal(resumed.state_dict()[name]) for name, value in whole.state_dict().items()
    )


def test_a_validation_loss_that_is_not_a_number_ends_the_run(tmp_path):
    with pytest.raises(PnlocError, match="the validation loss is not finite, in epoch 1"):
        run(tmp_path, [1.0, float("nan")])
