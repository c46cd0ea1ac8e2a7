"""Detector and regions: masks and boxes by hand, shapes, padding, learning a bright square."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock

from pnloc.baselines.classifier import Classifier
from pnloc.baselines.heatmaps import class_activation, grad_cam
from pnloc.boxes import iou
from pnloc.config import DetectorConfig, RegionConfig
from pnloc.detector import FINDINGS, finding_loss, normalize, union_mask
from pnloc.detector_training import augment, train_detector
from pnloc.errors import PnlocError
from pnloc.regions import Regions, components, extract, feature_size, mask_mean
from pnloc.run.cache import imports

SMALL = DetectorConfig(
    side=96, width=16, pyramid=16, epochs=25, batch=8, anchor_sizes=((16.0, 24.0), (36.0, 52.0))
)


def test_an_edit_of_the_localizers_losses_retrains_no_detector():
    assert "pnloc.detector" in imports("pnloc.detector_training")
    assert "pnloc.losses" not in imports("pnloc.detector_training")


@pytest.fixture(scope="module")
def squares():
    """Noisy images with one bright square, or none; their boxes."""
    rng = np.random.default_rng(0)
    images, boxes = rng.normal(90, 12, (64, 96, 96)), []
    for image in images[:48]:
        x, y = rng.integers(4, 56, 2)
        image[y : y + 32, x : x + 30] += 60
        boxes.append(np.array([[x, y, x + 30.0, y + 32.0]]))
    return images.clip(1, 255).astype(np.uint8), boxes + [np.zeros((0, 4))] * 16


@pytest.fixture(scope="module")
def trained(squares, shared):
    """One worker trains; for the others the last checkpoint in the shared folder is the end."""
    images, boxes = squares
    rows, place = [*range(8, 48), *range(52, 64)], {"folder": shared / "d", "fingerprint": "t"}
    with FileLock(shared / "detector.lock"):
        return train_detector(images[rows], [boxes[i] for i in rows], SMALL, seed=0, **place)[0]


def test_union_mask_by_hand():
    # The left half of a 4-pixel picture on a 2 x 2 grid, and half of the lower right cell.
    mask = union_mask(torch.tensor([[0.0, 0, 2, 4], [2, 2, 3, 4]]), side=4, cells=2)
    assert mask.tolist() == [[1.0, 0.0], [1.0, 0.5]]
    assert union_mask(torch.zeros(0, 4), 4, 2).sum() == 0


def test_normalize_leaves_padding_out_and_survives_a_flat_image():
    image = torch.zeros(1, 1, 4, 4)
    image[..., :2] = torch.tensor([10.0, 20.0])
    inside = normalize(image)[..., :2]
    assert inside.mean() == pytest.approx(0, abs=1e-6)
    assert inside.std(correction=0) == pytest.approx(1, abs=1e-5)
    assert normalize(torch.full((1, 1, 4, 4), 7.0)).abs().max() == 0
    assert torch.isfinite(normalize(torch.zeros(1, 1, 4, 4))).all()


def test_boxes_move_with_the_pixels():
    rng = np.random.default_rng(1)
    image = np.zeros((40, 1, 96, 96), dtype=np.uint8)
    image[:, 0, 30:60, 20:50] = 255
    moved, boxes = augment(torch.from_numpy(image), [np.array([[20.0, 30, 50, 60]])] * 40, rng)
    for picture, found in zip(moved[:, 0].numpy(), boxes, strict=True):
        rows, columns = np.nonzero(picture > 127)
        bright = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
        assert iou(bright, found.numpy())[0, 0] > 0.85


def test_the_detector_learns_and_regions_find_what_it_learned(squares, trained, tmp_path):
    images, boxes = squares
    regions = extract(trained, images[:8], RegionConfig(count=6))
    best = [iou(boxes[i], regions.boxes[i].numpy()).max() for i in range(8)]
    assert np.mean(best) > 0.6
    assert regions.features.shape == (8, 6, feature_size(SMALL.pyramid))
    assert (regions.scores.diff(dim=1) <= 1e-6).all(), "the surest region comes first"
    empty = extract(trained, images[:0], RegionConfig(count=6))
    assert len(empty) == 0 and empty.features.shape[1:] == regions.features.shape[1:]
    black = extract(trained, 0 * images[:1], RegionConfig(count=4))
    assert torch.isfinite(black.scores).all() and torch.isfinite(black.features).all()
    regions.save(tmp_path / "r.safetensors")
    assert torch.equal(Regions.load(tmp_path / "r.safetensors").features, regions.features)


def test_mask_mean_and_components_by_hand():
    mask = np.zeros((4, 4))
    mask[:2, :2] = 1.0
    boxes = [[0, 0, 4, 4], [0, 0, 8, 4], [8, 8, 16, 16], [3, 3, 3, 9], [4, 0, 12, 4]]
    assert mask_mean(mask, boxes, side=16) == pytest.approx([1, 1, 0, 0, 0.5])
    found = components(mask, side=16, levels=(0.5,))
    assert len(found) == 1 and iou(found, [[0, 0, 8, 8]])[0, 0] > 0.7
    assert components(np.zeros((4, 4)), side=16).shape == (0, 4)


@pytest.mark.parametrize("layer", ["16", "32"])
def test_grad_cam_gives_finite_maps_and_leaves_the_model_as_it_was(trained, squares, layer):
    torch.manual_seed(0)
    model, images = Classifier(trained).eval(), squares[0][:2]
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    maps, plus = (grad_cam(model, images, layer, plus) for plus in (False, True))
    for heat in (maps, plus):
        assert heat.shape == (2, 96, 96) and np.isfinite(heat).all() and heat.min() >= 0
    assert maps.max() > 0 and not np.array_equal(plus, maps)
    assert grad_cam(model, images[:0], layer).shape == (0, 96, 96)
    assert before == {name: value.requires_grad for name, value in model.named_parameters()}


def test_cam_is_where_the_linear_layer_finds_its_evidence(trained, squares):
    """CAM, averaged over the picture, and the layer's bias are the logit."""
    model, pictures = Classifier(trained).eval(), torch.from_numpy(squares[0][:2])[:, None]
    with torch.no_grad():
        raw = model.activation(pictures)
        assert torch.allclose(raw.mean((1, 2)) + model.head.bias, model(pictures)[:, 0], atol=1e-4)
    maps = class_activation(model, squares[0][:2])
    assert maps.shape == (2, 96, 96) and maps.min() == 0 and maps.max() == pytest.approx(1)
    place = np.array(np.unravel_index(maps[0].argmax(), maps[0].shape)) // 32
    assert abs(place - np.array(np.unravel_index(raw[0].argmax().item(), raw[0].shape))).max() <= 1
    model.head.weight.data.neg_()
    inverse = class_activation(model, squares[0][:2])
    assert np.allclose(inverse, 1 - maps, atol=1e-4), "negative evidence is not cut off"


def test_findings_count_where_they_are_known():
    logits, truth = torch.zeros(2, len(FINDINGS)), torch.full((2, len(FINDINGS)), torch.nan)
    assert finding_loss(logits, truth) == 0, "nothing is known"
    truth[0, 0], logits[0, 0] = 1, 2.0
    normal = np.log1p(np.exp(-2))
    assert finding_loss(logits, truth).item() == pytest.approx(normal, abs=1e-6)
    truth[1, 3], logits[1, 3], truth[0, 5] = 0, 1.0, 1  # log(1 + e), log 2: twice their mean
    others = np.log1p(np.e) + np.log(2)
    assert finding_loss(logits, truth).item() == pytest.approx(normal + others, abs=1e-6)


def test_a_detector_learns_findings_where_it_is_asked_to(squares, tmp_path):
    images, boxes = squares
    asked = replace(SMALL, finding_weight=1.0, epochs=8)
    known = np.full((len(images), len(FINDINGS)), np.nan, dtype=np.float32)
    known[:, 0] = [len(b) == 0 for b in boxes]
    place = {"seed": 0, "folder": tmp_path, "fingerprint": "t"}
    with pytest.raises(PnlocError, match="there are none"):
        train_detector(images, boxes, asked, **place)
    model, history = train_detector(images, boxes, asked, findings=known, **place)
    assert history["findings"].iloc[-1] < 0.7 * history["findings"].iloc[0]
    short = replace(SMALL, epochs=1)
    plain, without = train_detector(images, boxes, short, findings=known, **place)
    assert plain.finding_head is None and "findings" not in without
    extra = {n for n in model.state_dict() if n not in plain.state_dict()}
    assert extra == {"finding_head.weight", "finding_head.bias"}
