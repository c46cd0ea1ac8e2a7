"""On a GPU the numbers are the CPU's; without one, fake tensors show that no devices mix.

Fake tensors compute shapes and devices alone, and an operation between two devices fails.
"""

from contextlib import nullcontext
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pnloc import losses, parallel
from pnloc.config import DetectorConfig, ModelConfig, RegionConfig
from pnloc.detector import Detector, union_mask
from pnloc.detector_training import train_detector
from pnloc.model import Batch, CrossAttention
from pnloc.regions import extract

SIZES = {"anchor_sizes": ((12.0, 16.0), (24.0, 32.0)), "batch": 6, "rate": 1e-4, "epochs": 1}
TINY = DetectorConfig(side=64, width=8, pyramid=8, **SIZES)
CONFIG = ModelConfig(width=8, dropout=0.0)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to compare with")


def batch() -> Batch:
    valid = torch.ones(4, 5, dtype=torch.bool)
    regions = torch.randn(4, 5, 21), torch.rand(4, 5).log(), valid, torch.rand(4, 5, 2)
    phrases = torch.randint(0, 2, (4, 2, 6)).float()
    labels = torch.randint(0, 2, (4, 3)).float()
    return Batch(*regions, torch.randint(0, 9, (4, 6)), phrases, labels, torch.rand(4, 3))


def attention() -> CrossAttention:
    return CrossAttention(21, torch.randn(9, 7), torch.randn(3, 7), CONFIG)


def images(count: int = 12) -> tuple[np.ndarray, list[np.ndarray]]:
    rng, box = np.random.default_rng(0), np.array([[10.0, 12, 34, 40]])
    pixels = rng.integers(1, 255, (count, 64, 64), dtype=np.uint8)
    return pixels, [box[: row % 2] for row in range(count)]


# Without a GPU


def test_the_detector_mixes_no_devices():
    with FakeTensorMode(), torch.device("cuda"):
        model = Detector(replace(TINY, place_weight=1.0))
        heads = model.heads(torch.empty(2, 1, 64, 64))
        maps = [heads.mask, heads.image, heads.places]
        found = [*heads.pyramid.values(), *heads.outputs.values(), *heads.anchors, *maps]
        assert {tensor.device.type for tensor in found} == {"cuda"}


@pytest.mark.parametrize("boxes", [0, 1, 3])
def test_the_mask_target_lies_where_the_boxes_lie(boxes):
    with FakeTensorMode():
        assert union_mask(torch.empty(boxes, 4, device="cuda"), 64, 8).device.type == "cuda"


def test_the_attention_mixes_no_devices():
    with FakeTensorMode(), torch.device("cuda"):
        model, own = attention(), batch()
        terms = losses.total(model, own, CONFIG, text=True)
        results = [*model.image_only(own), model.match(own), *terms.values()]
        assert {tensor.device.type for tensor in results} == {"cuda"}


# With one


@pytest.fixture
def both(monkeypatch):
    """Run something on the CPU and on the GPU, in float32 on both."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for module in ("detector_training", "regions"):
        monkeypatch.setattr(f"pnloc.{module}.autocast", lambda where: nullcontext())

    def results(work):
        values = []
        for name in ("cpu", "cuda"):
            where = torch.device(name)
            for module in ("parallel", "detector_training"):
                monkeypatch.setattr(f"pnloc.{module}.device", lambda where=where: where)
            values.append(work(name))
        return values

    return results


@gpu
def test_a_detector_trained_on_the_gpu_has_the_losses_of_the_cpu(both, tmp_path):
    def history(where):
        place = {"folder": tmp_path / where, "fingerprint": "g"}
        return train_detector(*images(), TINY, seed=0, **place)[1]

    cpu, cuda = both(history)
    assert np.allclose(cpu, cuda, atol=1e-3)


@gpu
def test_regions_from_the_gpu_are_those_of_the_cpu(both):
    torch.manual_seed(0)
    model = Detector(TINY).eval()
    cpu, cuda = both(lambda where: extract(model.to(where), images()[0], RegionConfig(count=6)))
    assert torch.allclose(cpu.mask.float(), cuda.mask.float(), atol=2e-3)
    assert torch.allclose(cpu.image, cuda.image, atol=1e-4)
    assert torch.allclose(cpu.scores.max(1).values, cuda.scores.max(1).values, atol=1e-3)


@gpu
def test_terms_and_gradients_of_the_attention_are_those_of_the_cpu(both):
    torch.manual_seed(0)
    model, own = attention(), batch()

    def terms(where):
        moved = Batch(*(getattr(own, f.name).to(where) for f in fields(Batch)))
        model.to(where).zero_grad()
        values = losses.total(model, moved, CONFIG, True)
        sum(values.values()).backward()
        gradients = [p.grad.norm().item() for p in model.parameters() if p.grad is not None]
        return [value.item() for value in values.values()] + gradients

    cpu, cuda = both(terms)
    assert cuda == pytest.approx(cpu, abs=1e-4)


@gpu
def test_bfloat16_on_the_gpu_is_close_to_float32():
    """The loss before any step; bfloat16 has three digits."""
    torch.manual_seed(0)
    (pixels, boxes), model, totals = images(), Detector(TINY).cuda(), []
    moved = [torch.from_numpy(own).float().cuda() for own in boxes]
    targets = [{"boxes": own, "labels": torch.zeros(len(own)).long().cuda()} for own in moved]
    for context in (nullcontext(), parallel.autocast(torch.device("cuda"))):
        with context:
            terms = model.losses(torch.from_numpy(pixels)[:, None].cuda(), targets)
        totals.append(sum(terms.values()).item())
    assert totals[1] == pytest.approx(totals[0], rel=0.03)
