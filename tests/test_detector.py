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
from pnloc.detector import KINDS, normalize, place_losses, union_mask, zone_evidence
from pnloc.detector_training import Described, augment, describing, train_detector
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
    moved, boxes, _ = augment(torch.from_numpy(image), [np.array([[20.0, 30, 50, 60]])] * 40, rng)
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


# Places -------------------------------------------------------------------------------------------

ASKED = replace(SMALL, place_weight=1.0, pooled=1.0, elsewhere=0.5)
SIX = np.kron(np.array([[0, 1, 4, 0], [0, 2, 5, 0], [0, 3, 6, 0]]), np.ones((4, 4)))


def places_of(phrases: list[list[int]], most: int = 4) -> np.ndarray:
    """Phrases [most, 6] from the numbers of the places that each allows."""
    array = np.zeros((most, KINDS), dtype=np.float32)
    for row, allowed in enumerate(phrases):
        array[row, allowed] = 1
    return array


def told(logits: np.ndarray, phrases: list[list[int]], opacity: float) -> tuple[float, float]:
    """The two terms of one image, whose zones are columns 1 and 2 of its logits [3, 4]."""
    zones = torch.from_numpy(SIX.astype(np.uint8))[None]
    arrays = (np.asarray(logits)[None], places_of(phrases)[None], np.array([opacity]))
    z, p, o = (torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in arrays)
    return tuple(term.item() for term in place_losses(z, zones, p, o, ASKED))


def test_a_phrase_asks_for_an_opacity_in_one_of_its_places_and_none_elsewhere():
    zero, half = np.zeros((3, 4)), np.log(2)
    assert told(zero, [[0]], 1) == pytest.approx((1.5 * half, half))
    right_base = zero.copy()
    right_base[2, 1] = 5
    near = told(right_base, [[2]], 1)[0]
    assert near == pytest.approx(np.log1p(np.exp(-5)) + 0.5 * half, abs=1e-5)
    either = told(right_base, [[0, 1, 2], [3, 4, 5]], 1)[0]
    assert either == pytest.approx((np.log1p(np.exp(-5)) + half) / 2, abs=1e-5)
    assert told(right_base, [], 1)[0] == pytest.approx(np.log1p(np.exp(-5)), abs=1e-5)
    absent = (np.log1p(np.exp(5)) + 5 * half) / 6
    assert told(right_base, [], 0)[0] == pytest.approx(absent, abs=1e-5)
    assert told(right_base, [[2]], np.nan)[0] == 0, "an image with boxes does not count"
    beside = zero.copy()
    beside[:, 0] = 5
    outside = (np.log1p(np.exp(5)) + half) / 2
    assert told(beside, [], 0) == pytest.approx((half, outside), abs=1e-5)


def test_without_lungs_an_image_says_nothing_and_the_gradient_stays_finite():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    zones = torch.zeros(2, 12, 16, dtype=torch.uint8)
    phrases = torch.from_numpy(np.stack([places_of([[0]]), places_of([])]))
    terms = place_losses(logits, zones, phrases, torch.ones(2), ASKED)
    sum(terms).backward()
    assert [term.item() for term in terms] == [0, 0] and logits.grad.abs().sum() == 0


def test_the_evidence_of_a_zone_is_the_mean_of_its_highest_cells():
    zones = torch.ones(1, 32, 32, dtype=torch.uint8)
    logits = torch.arange(16.0).reshape(1, 4, 4)
    evidence, there = zone_evidence(logits, zones, 0.25)
    assert (
        evidence[0].tolist() == [13.5, 0, 0, 0, 0, 0] and there[0].tolist() == [True] + [False] * 5
    )


def test_a_flip_moves_the_zones_with_the_lungs_and_keeps_their_sides():
    rng = np.random.default_rng(2)
    zones = np.zeros((40, 24, 24), dtype=np.uint8)
    zones[:, 6:18, 3:9], zones[:, 6:18, 15:21] = 3, 6
    picture = np.kron(zones, np.ones((4, 4))).astype(np.uint8)[:, None] * 40
    moved, _, after = augment(torch.from_numpy(picture), [np.zeros((0, 4))] * 40, rng, zones)
    right, left = ((after == kind).float() for kind in (3, 6))
    means = [(moved[:, 0] * side).sum((1, 2)) / side.sum((1, 2)) for side in (right, left)]
    assert (means[1] > means[0]).all()
    columns = torch.arange(96.0)
    centres = [(side.sum(1) @ columns) / side.sum((1, 2)) for side in (right, left)]
    assert {bool(flipped) for flipped in centres[0] > centres[1]} == {True, False}


@pytest.fixture(scope="module")
def reported(squares):
    """Bright squares in one of six zones, told by a report alone; some images without any."""
    images, boxes = squares
    zones = np.zeros((len(images), 24, 24), dtype=np.uint8)
    for number, (row, column) in enumerate((r, c) for c in (0, 12) for r in (0, 8, 16)):
        zones[:, row : row + 8, column : column + 12] = 1 + number
    phrases = np.zeros((len(images), 4, KINDS), dtype=np.float32)
    for row, own in enumerate(boxes):
        for x1, y1, x2, y2 in own:
            phrases[row, 0, zones[row, int(y1 + y2) // 8, int(x1 + x2) // 8] - 1] = 1
    opacity = np.array([float(len(own) > 0) for own in boxes])
    return Described(images, zones, phrases, opacity)


def test_reports_alone_teach_the_map_where_an_opacity_is(squares, reported, tmp_path):
    images, boxes = squares
    asked = replace(ASKED, epochs=12, pooled=0.3, described=16)
    few = [np.zeros((0, 4))] * 8 + boxes[8:12] + [np.zeros((0, 4))] * 52
    place = {"seed": 0, "folder": tmp_path, "fingerprint": "t"}
    more = {"zones": reported.zones, "described": [reported]}
    model, history = train_detector(images, few, replace(asked, epochs=60), **more, **place)
    assert {"places", "outside"} <= set(history)
    with torch.no_grad():
        maps = torch.sigmoid(model.heads(torch.from_numpy(images[:8])[:, None]).places)
    peaks = [divmod(int(m.argmax()), m.shape[1]) for m in maps]
    hits = [
        own[0, 0] <= 8 * x + 4 <= own[0, 2] and own[0, 1] <= 8 * y + 4 <= own[0, 3]
        for (y, x), own in zip(peaks, boxes, strict=False)
    ]
    assert np.mean(hits) >= 0.75


def test_each_batch_has_negatives_of_every_set_and_no_image_of_unknown_opacity(reported):
    dark = replace(reported, images=reported.images // 8, opacity=1 - reported.opacity)
    unknown = replace(reported, opacity=np.full(len(reported.opacity), np.nan))

    def drawn() -> list:
        return list(describing([reported, dark, unknown], 12, 5, seed=0)(0))

    for pictures, targets in drawn():
        opacity = np.array([target["opacity"].item() for target in targets])
        of_dark = pictures.mean((1, 2, 3)).numpy() < 30
        assert opacity.sum() == 8 and (of_dark & (opacity == 0)).sum() == 2
    pairs = zip(drawn(), drawn(), strict=True)
    assert all(torch.equal(one[0], other[0]) for one, other in pairs)
