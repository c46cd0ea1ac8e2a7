"""Ways to show a radiograph: grey values by hand, padding left as it is, shapes from the file."""

import numpy as np
import pytest
import torch
from PIL import Image

from pnloc.config import preset
from pnloc.detector import Detector
from pnloc.images import Letterbox
from pnloc.inputs import normalize
from pnloc.run.severity import inputs as views


@pytest.fixture
def made(tmp_path):
    """Two files, wide and high, as padded squares; what `ways` gives."""
    paths, squares, boxes = [], [], []
    for number, (width, height) in enumerate([(96, 48), (40, 80)]):
        picture = np.random.default_rng(number).integers(20, 200, (height, width)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
        boxes.append(Letterbox(width, height, 48))
        squares.append(boxes[-1].image(picture))
    return np.stack(squares), {
        name: make() for name, make in views.ways(np.stack(squares), boxes, paths).items()
    }


def test_every_way_gives_squares_of_one_kind_and_the_share_that_is_no_padding(made):
    squares, ways = made
    for name, (pixels, share) in ways.items():
        assert pixels.shape == squares.shape and pixels.dtype == np.uint8, name
        whole = name in ("stretched", "centre crop")
        assert share.tolist() == pytest.approx([1, 1] if whole else [0.5, 0.5]), name
    assert (ways["padded"][0] == squares).all() and len(ways) == 14


def test_padding_stays_padding_and_the_picture_stays_picture(made):
    squares, ways = made
    for name in (
        "equalised",
        "1st to 99th percentile",
        "brighter (gamma 0.5)",
        "darker (gamma 2)",
        "JPEG, quality 10",
    ):
        assert ((ways[name][0] > 0) == (squares > 0)).all(), name


def test_stretching_and_cropping_fill_the_square_as_they_should(made):
    _, ways = made
    assert (ways["stretched"][0] > 0).all() and (ways["centre crop"][0] > 0).all()


def test_grey_values_by_hand():
    values = np.array([0.0, 64, 128, 255])
    assert views.gamma(values, 0.5) == pytest.approx(np.sqrt(values / 255) * 255)
    assert views.equalised(np.array([10.0, 10, 20, 30])) == pytest.approx(
        [63.75, 63.75, 159.375, 223.125]
    )
    assert views.flattened(np.array([100.0, 200])).tolist() == [103, 153]
    assert views.clipped(np.linspace(0, 100, 101)).tolist()[::50] == pytest.approx(
        [-255 / 98, 127.5, 255 + 255 / 98]
    )


def test_flat_values_stay():
    flat = np.full(5, 70.0)
    assert (views.equalised(flat) == flat).all() and (views.clipped(flat) == flat).all()
    black = np.zeros((1, 48, 48), np.uint8)
    assert (views.ways(black, [Letterbox(48, 48, 48)], [""])["equalised"]()[0] == 0).all()


def test_marks_are_white_and_few():
    square = np.full((192, 192), 90, np.uint8)
    marked = views.marked(square)
    changed = marked != square
    assert marked.max() == 255 and 0.002 < changed.mean() < 0.05


def test_a_detector_without_normalisation_sees_exposure_that_the_other_does_not():
    torch.manual_seed(0)
    detector = Detector(preset("smoke").detector).eval()
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 200, (1, 192, 192)).astype(np.uint8)
    fixed = views.unnormalised(detector, pixels)
    darker = torch.from_numpy(pixels // 2)[:, None].float()
    same = torch.from_numpy(pixels // 2 * 2)[:, None].float()
    with torch.no_grad():
        for net, moved in ((detector, False), (fixed, True)):
            one, other = (net.features(p)[1] for p in (same, darker))
            assert (not torch.allclose(one, other, atol=1e-2)) == moved
        assert torch.allclose(fixed.features(same)[1], detector.features(same)[1], atol=0.05), (
            "alike where they must be"
        )
    assert type(detector) is Detector


def test_an_adapted_detector_has_the_statistics_of_what_it_was_shown():
    torch.manual_seed(0)
    detector = Detector(preset("smoke").detector).eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    pixels = np.random.default_rng(0).integers(1, 255, (5, 96, 96)).astype(np.uint8)
    copy = views.adapted(detector, pixels, batch=5)
    stem = detector.backbone.stem[0](normalize(torch.from_numpy(pixels)[:, None]))
    first = next(m for m in copy.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert first.running_mean.numpy() == pytest.approx(
        stem.mean((0, 2, 3)).detach().numpy(), abs=0.02
    )
    assert first.running_var.numpy() == pytest.approx(
        stem.var((0, 2, 3)).detach().numpy(), rel=0.1, abs=0.01
    )
    assert not copy.training and not any(m.training for m in copy.modules())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items()), (
        "the first stays as it was"
    )
    alone = views.adapted(detector, pixels[:0])
    assert all(torch.equal(value, before[name]) for name, value in alone.state_dict().items())
