"""Trained baselines: their rules by hand, that each learns something, points at what it has learnt, and stops when it no longer learns."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pnloc.baselines import grounding, heatmaps, supervised, weak
from pnloc.baselines.classifier import Classifier, train_classifier
from pnloc.config import BASELINES, FROM_BOXES, DetectorConfig, FittingConfig, ModelConfig, preset
from pnloc.detector import Detector
from pnloc.errors import PnlocError
from pnloc.regions import Regions
from pnloc.reports.words import WordVectors
from pnloc.run import trained
from pnloc.train import Schedule, fit

TINY = DetectorConfig(side=64, width=8, pyramid=16, anchor_sizes=((16.0, 24.0), (32.0, 48.0)))
HIDING = (
    "hide-and-seek",
    "attention-dropout",
)  # that hide parts of a picture, or of its features, in training
KINDS = {
    "hide-and-seek": weak.HideAndSeek,
    "attention-dropout": weak.AttentionDropout,
    "patch-mil": weak.PatchMIL,
}


def blobs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Grey noise [N, 64, 64]; every other image has a bright square of 16 pixels inside one of its quarters. With labels and boxes.

    The others have four squares of 8 pixels, as bright in all, so that nothing but the large square tells.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 100, (count, 64, 64)).astype(np.uint8)
    boxes = [np.zeros((0, 4))] * count
    for i in range(1, count, 2):
        for x, y in rng.permutation([(x, y) for x in range(2, 56, 16) for y in range(2, 56, 16)])[
            :4
        ]:
            images[i, y : y + 8, x : x + 8] = 230
    for i in range(0, count, 2):
        x, y = 32 * rng.integers(0, 2, 2) + rng.integers(4, 13, 2)
        images[i, y : y + 16, x : x + 16] = 230
        boxes[i] = np.array([[x, y, x + 16, y + 16]], dtype=float)
    return images, np.array([float(len(b) > 0) for b in boxes]), boxes


# Rules by hand --------------------------------------------------------------------------------------------


def test_hide_and_seek_hides_half_of_the_cells_of_a_grid_and_sometimes_nothing():
    torch.manual_seed(0)
    shown = weak.hide(torch.ones(2000, 1, 28, 28), grids=(4, 7))
    assert shown.mean().item() == pytest.approx(0.5, abs=0.01)
    cells = weak.hide(torch.ones(50, 1, 28, 28), grids=(4,)).unfold(2, 7, 7).unfold(3, 7, 7)
    assert ((cells == 0).all(-1).all(-1) | (cells == 1).all(-1).all(-1)).all(), (
        "a cell is hidden whole or not at all"
    )
    assert weak.hide(torch.ones(9, 1, 28, 28), grids=(0,)).eq(1).all()
    assert weak.hide(torch.ones(9, 1, 28, 28), share=1.0, grids=(5,)).eq(0).all()


def test_the_drop_mask_is_zero_where_attention_is_near_its_maximum():
    # Two channels; their means are 1, 4 / 3.1, 3.3: of the maximum 4, .8 is 3.2.
    features = torch.tensor([[[[0.0, 4.0], [3.0, 3.3]], [[2.0, 4.0], [3.2, 3.3]]]])
    assert weak.drop_mask(features).tolist() == [[[[1.0, 0.0], [1.0, 0.0]]]]
    assert weak.drop_attention(features, rate=1.0).equal(features * weak.drop_mask(features))
    kept = weak.drop_attention(features, rate=0.0)
    assert kept == pytest.approx(
        features * torch.sigmoid(torch.tensor([[[[1.0, 4.0], [3.1, 3.3]]]]))
    )


def test_an_image_is_the_noisy_or_of_its_patches():
    patches = torch.tensor([[0.5, 0.2], [0.0001, 0.0001], [0.9, 0.999]])
    found = torch.sigmoid(weak.bag_logit(torch.logit(patches)))
    assert found.tolist() == pytest.approx(
        [1 - 0.5 * 0.8, 1 - 0.9999**2, 1 - 0.1 * 0.001], rel=1e-3
    )
    extreme = weak.bag_logit(torch.tensor([[-80.0] * 4, [80.0] * 4]).requires_grad_())
    assert torch.isfinite(extreme).all() and extreme[0] < -10 and extreme[1] > 10


def test_the_ranking_loss_is_the_mean_hinge_against_every_other_image_and_report():
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.5, 0.6], [0.0, 0.0, 0.0]])
    paired = torch.tensor(
        [True, True, False]
    )  # the third report has no words, its image is there to be mistaken
    # Report 1: .2 - .9 + .8 = .1, .2 - .9 + .1 < 0; report 2: .2 - .5 + .2 < 0, .2 - .5 + .6 = .3. Image 1: .2 - .9 + .2 < 0; 2: .2 - .5 + .8 = .5.
    assert grounding.ranking(scores, paired).item() == pytest.approx(
        (0.1 + 0 + 0 + 0.3) / 4 + (0 + 0.5) / 2
    )
    assert grounding.ranking(scores, torch.tensor([True, False, False])).item() == 0
    assert grounding.ranking(torch.eye(3), torch.ones(3, dtype=torch.bool)).item() == 0


def test_words_that_are_alike_with_their_neighbours_are_compared_once_and_change_no_score():
    words = torch.tensor([[1, 2, 3, -1], [1, 2, 3, -1], [3, 2, 1, 1], [-1, -1, -1, -1]])
    chosen, which = grounding.distinct(words)
    assert len(chosen) == 7 and which.tolist()[:3] == which.tolist()[3:6] and len(which) == 10
    assert which[chosen].tolist() == list(range(7))
    vectors = WordVectors(["", *"abc"], np.eye(4, 16, dtype=np.float32))
    torch.manual_seed(0)
    model = grounding.make("align2ground", 24, vectors, ModelConfig(width=16)).eval()
    regions, _ = pairs(4, 3)
    scores = model.match(grounding.make_batch(regions, words.numpy()))
    v, t = model.encode_regions(regions.features), model.encode_words(words)
    for report, image in ((0, 0), (2, 1)):  # slowly, one word after the other
        said = [t[report, w] for w in range(4) if words[report, w] >= 0]
        taken = torch.stack([v[image, (v[image] @ word).argmax()] for word in said]).mean(0)
        caption = torch.stack(said).mean(0)
        slow = torch.cosine_similarity(
            taken + model.taken(taken), caption + model.caption(caption), dim=0
        )
        assert scores[report, image].item() == pytest.approx(slow.item(), abs=1e-5)
    assert scores[3].tolist() == [0.0] * 4


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_hidden_nor_dropped_at_test(name):
    torch.manual_seed(1)
    model, images = KINDS[name](Detector(TINY)), torch.from_numpy(blobs(4)[0])[:, None]
    model.eval()
    with torch.no_grad():
        assert model(images).equal(model(images))
        plain = Classifier(Detector(TINY))
        if name != "patch-mil":
            plain.load_state_dict(model.state_dict())
            assert plain.eval()(images).equal(model(images)), "at test it is the classifier"
            model.train()
            assert not model(images).equal(model(images))


def test_what_is_not_trained_stays_as_the_detector_left_it():
    torch.manual_seed(1)
    detector = Detector(TINY)
    model = Classifier(detector).train()
    model(torch.from_numpy(blobs(8)[0])[:, None]).sum().backward()
    assert all(p.grad is None for part in model.kept() for p in part.parameters())
    assert model.body.stages["16"][0].downsample[0].weight.grad.abs().sum() > 0
    before, after = detector.backbone.state_dict(), model.body.state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and not any(name.startswith(("stem", "stages.8")) for name in changed), (
        "moments of normalization, too"
    )


# Learning -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A detector that has been shown where the bright squares are for a moment, as all baselines start from one."""
    torch.manual_seed(0)
    images, _, boxes = blobs(64, seed=5)
    model = Detector(TINY)
    config = FittingConfig(epochs=6, patience=0, batch=16, rate=5e-3)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        supervised.train_supervised(
            model,
            (images, boxes),
            (images[:0], []),
            config,
            seed=0,
            folder=folder,
            fingerprint="d",
            title="d",
        )
    return model.eval()


@pytest.mark.parametrize("name", ["cam", *KINDS])
def test_a_baseline_of_image_labels_learns_and_points_at_the_bright_square(
    name, detector, tmp_path
):
    images, labels, _ = blobs(64)
    held, known, boxes = blobs(32, seed=1)
    config = FittingConfig(epochs=12, patience=4, batch=16, rate=2e-3)
    kind = KINDS.get(name, Classifier)
    model, history = train_classifier(
        kind,
        detector,
        images,
        labels,
        (held, known),
        config,
        seed=0,
        folder=tmp_path,
        fingerprint="x",
        title=name,
    )
    assert history["loss"].min() < history["loss"].iloc[0] and history["validation"].min() < 0.6
    probability = heatmaps.probabilities(model, held)
    assert probability[known == 1].mean() > probability[known == 0].mean() + 0.2
    maps = heatmaps.heat_maps(model, held, name, "32")
    assert (
        maps.shape == held.shape
        and maps.min() >= 0
        and maps.max() <= 1
        and np.ptp(maps[known == 1], axis=(1, 2)).all()
    )
    if name not in HIDING:
        return  # where the others point in so small a picture hangs on how the processor rounds
    pointed = []
    for heat, box in zip(maps[::2], boxes[::2], strict=True):
        peak = np.unravel_index(heat.argmax(), heat.shape)
        pointed.append(peak[0] // 32 == box[0, 1] // 32 and peak[1] // 32 == box[0, 0] // 32)
    assert np.mean(pointed) > 0.7, (
        "the peak lies in the quarter of the square (by chance in one of four)"
    )


def pairs(count: int, seed: int) -> tuple[Regions, np.ndarray]:
    """Studies of four regions, one of which shows what the report says, one of eight words."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 0.3, (count, 4, 24)).astype(np.float32)
    words, places = rng.integers(1, 9, (count, 1)), rng.integers(0, 4, count)
    features[np.arange(count), places, words[:, 0]] += 3
    boxes = torch.tensor([[0.0, 0, 9, 9], [10, 0, 19, 9], [0, 10, 9, 19], [10, 10, 19, 19]]).repeat(
        count, 1, 1
    )
    regions = Regions(
        boxes,
        torch.full((count, 4), 0.5),
        torch.ones(count, 4, dtype=torch.bool),
        torch.from_numpy(features).half(),
        torch.zeros(count, 2, 2),
        torch.zeros(count),
    )
    return regions, words


@pytest.mark.parametrize("name", grounding.KINDS)
def test_grounding_learns_what_the_words_of_reports_look_like(name, tmp_path):
    vectors = WordVectors(["", *"abcdefgh"], np.eye(9, 16, dtype=np.float32))
    config = FittingConfig(epochs=15, patience=8, batch=16, rate=5e-3)
    train, held = pairs(240, 0), pairs(40, 1)
    model, history = grounding.train_grounding(
        name,
        train,
        held,
        vectors,
        config,
        ModelConfig(width=16, dropout=0.0),
        seed=0,
        folder=tmp_path,
        fingerprint="x",
    )
    assert (
        history["loss"].iloc[-5:].mean() < history["loss"].iloc[0]
        and history["validation"].min() < history["validation"].iloc[0]
    )
    regions, words = pairs(60, 2)
    with torch.no_grad():
        mass, fit_ = model.mass(grounding.make_batch(regions, words))
    place = regions.features.float().amax(2).argmax(1)
    assert (mass.argmax(1) == place).float().mean() > 0.6, (
        "a word points at the region that shows it (by chance 1 in 4)"
    )
    assert (
        mass.sum(1) == pytest.approx(torch.ones(60), abs=1e-4) and ((fit_ >= 0) & (fit_ <= 1)).all()
    )


def test_the_prompt_reads_no_report_and_padding_gets_nothing():
    vectors = WordVectors(["", "opacity", "lesion"], np.eye(3, 16, dtype=np.float32))
    regions, _ = pairs(3, 0)
    regions.valid[0, 2:] = False
    for name in grounding.KINDS:
        torch.manual_seed(0)
        model = grounding.make(name, 24, vectors, ModelConfig(width=16)).eval()
        mass, likely = grounding.prompt_mass(model, regions, vectors)
        assert (
            mass.shape == (3, 4)
            and mass.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
            and (mass[0, 2:] == 0).all()
        )
        assert likely.shape == (3,)
        assert grounding.prompt_mass(model, regions.rows([]), vectors)[0].shape == (0, 4)


@pytest.mark.parametrize("kind", [Detector, supervised.FasterRegions])
def test_supervised_detectors_learn_and_find_the_bright_square(kind, detector, tmp_path):
    images, _, boxes = blobs(64)
    held, _, true = blobs(32, seed=1)
    torch.manual_seed(0)
    model = supervised.FasterRegions(detector) if kind is not Detector else Detector(TINY)
    config = FittingConfig(epochs=12, patience=8, batch=16, rate=2e-3)
    history = supervised.train_supervised(
        model,
        (images, boxes),
        (held, true),
        config,
        seed=0,
        folder=tmp_path,
        fingerprint="x",
        title="s",
    )
    assert history["loss"].iloc[-1] < 0.8 * history["loss"].iloc[0]
    assert history["validation"].min() < history["validation"].iloc[0]
    if kind is Detector:
        return
    found = supervised.detect(model, held)
    middles = [
        (b[0, :2] + b[0, 2:]) / 2 - (t[0, :2] + t[0, 2:]) / 2
        for (b, _), t in zip(found[::2], true[::2], strict=True)
    ]
    assert (np.abs(middles).max(1) < 8).mean() > 0.6
    assert all((np.diff(s) <= 0).all() and (s <= 1).all() for _, s in found)
    assert supervised.detect(model, held[:0]) == []


def test_measuring_the_validation_loss_neither_trains_nor_draws_from_the_run(detector):
    torch.manual_seed(0)
    model = supervised.FasterRegions(detector).eval()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    images, _, boxes = blobs(4)
    targets = [
        {"boxes": torch.from_numpy(b).float(), "labels": torch.zeros(len(b), dtype=torch.int64)}
        for b in boxes
    ]
    with torch.no_grad(), torch.random.fork_rng():
        model.losses(torch.from_numpy(images)[:, None].float(), targets)
    assert all(
        v.equal(before[k]) for k, v in model.state_dict().items()
    ) and torch.get_rng_state().equal(state)
    assert not model.training


# Stopping -------------------------------------------------------------------------------------------------


def run(folder, losses_by_epoch, patience=2, epochs=10, stop_at=None):
    """A tiny training whose validation losses are given; returns the module, its history and the weights after each epoch."""
    torch.manual_seed(3)
    module, weights = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)), []

    def batches(epoch):
        if epoch == stop_at:
            raise KeyboardInterrupt
        yield from torch.randn(5, 16, 4, generator=torch.Generator().manual_seed(epoch))

    def validation():
        assert not module.training and not torch.is_grad_enabled()
        weights.append(module[0].weight.clone())
        return losses_by_epoch[batches_seen()]

    def batches_seen():
        return len(weights) - 1 + (stop_at_before or 0)

    stop_at_before = run.done if stop_at is None else 0
    history = fit(
        module,
        batches,
        lambda x: {"fit": (module(x)[:, 0] - x.sum(1)).square().mean()},
        Schedule(epochs, 5, 1e-2, 0.01, patience),
        folder=folder,
        fingerprint="f",
        seed=3,
        validation=validation,
    )
    return module, history, weights


run.done = 0  # epochs that an earlier, interrupted training has behind it
FALLING = [1.0, 0.8, 0.6, 0.7, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1]


def test_training_stops_when_the_validation_loss_has_stopped_falling_and_keeps_the_best_weights(
    tmp_path,
):
    module, history, weights = run(tmp_path, FALLING)
    assert history["validation"].tolist() == FALLING[:5], "two epochs after the lowest"
    assert module[0].weight.equal(weights[2]) and not module.training
    again, same, _ = run(
        tmp_path, FALLING
    )  # as after a kill between the last checkpoint and what comes next
    assert same.equals(history) and again[0].weight.equal(weights[2])


def test_without_patience_every_epoch_is_trained_and_the_best_is_kept_nevertheless(tmp_path):
    module, history, weights = run(tmp_path, FALLING, patience=0)
    assert len(history) == 10 and module[0].weight.equal(weights[5])


def test_a_stopped_training_resumes_to_the_very_same_weights_history_and_end(tmp_path):
    whole, history, _ = run(tmp_path / "whole", FALLING)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", FALLING, stop_at=4)
    run.done = 4
    try:
        resumed, again, weights = run(tmp_path / "cut", FALLING)
    finally:
        run.done = 0
    assert len(weights) == 1, "only the last epoch is trained again"
    assert again.equals(history)
    assert all(
        a.equal(b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_a_validation_loss_that_is_not_a_number_ends_the_run(tmp_path):
    with pytest.raises(PnlocError, match="the validation loss is not finite, in epoch 1"):
        run(tmp_path, [1.0, float("nan")])


# On a run -------------------------------------------------------------------------------------------------


def test_presets_name_baselines_that_exist_and_the_large_ones_have_all():
    for name in ("smoke", "demo", "public", "mimic"):
        assert set(preset(name).baselines) <= set(BASELINES)
    assert preset("public").baselines == preset("mimic").baselines == BASELINES
    assert pd.Series(BASELINES).is_unique


def test_a_preset_that_names_an_unknown_baseline_is_told_which_there_are(tmp_path):
    run = SimpleNamespace(preset=replace(preset("smoke"), baselines=("align2ground", "magic")))
    with pytest.raises(PnlocError, match="unknown baseline 'magic'; use some of hide-and-seek, "):
        trained.names(run)


def test_supervised_detectors_need_boxes_of_the_target_and_retinanet_is_not_trained_twice(
    monkeypatch,
):
    have = [np.zeros((0, 4)), np.ones((1, 4))]
    monkeypatch.setattr(trained, "_target", lambda run, split: (np.arange(2), have))
    names = {p: trained.names(SimpleNamespace(preset=preset(p))) for p in ("public", "mimic")}
    assert names["mimic"] == BASELINES
    assert set(BASELINES) - set(names["public"]) == {"supervised"}, (
        "on RSNA the detector is the supervised RetinaNet"
    )
    have.pop()
    assert not set(trained.names(SimpleNamespace(preset=preset("mimic")))) & set(FROM_BOXES)
