"""The GPU: its numbers are the CPU's within tolerance; and, where there is none, nothing mixes its memory with the CPU's.

The second kind needs no GPU: fake tensors compute shapes and devices alone, and an operation between two devices fails as it would.
"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pnloc import detector as detection
from pnloc import losses, parallel
from pnloc.config import DetectorConfig, ModelConfig, RegionConfig
from pnloc.detector import Detector, union_mask
from pnloc.localizer import image_attention
from pnloc.model import Batch, CrossAttention
from pnloc.regions import Regions, extract
from pnloc.reports.words import WordVectors
from pnloc.training import train_detector, train_localizer

TINY = DetectorConfig(
    side=64,
    width=8,
    pyramid=8,
    anchor_sizes=((12.0, 16.0), (24.0, 32.0)),
    batch=6,
    rate=1e-4,
    epochs=1,
)
gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device here: GPU and CPU cannot be compared"
)


def batch(where: str, studies: int = 4) -> Batch:
    rng = torch.Generator().manual_seed(0)
    parts = (
        torch.randn(studies, 5, 21, generator=rng),
        torch.rand(studies, 5, generator=rng).log(),
        torch.ones(studies, 5, dtype=torch.bool),
        torch.rand(studies, 5, 2, generator=rng),
        torch.randint(-1, 9, (studies, 6), generator=rng),
        torch.randint(0, 2, (studies, 2, 6), generator=rng).float(),
        torch.randint(0, 2, (studies, 3), generator=rng).float(),
        torch.rand(studies, 3, generator=rng),
    )
    return Batch(*(part.to(where) for part in parts))


def attention() -> CrossAttention:
    torch.manual_seed(0)
    model = CrossAttention(
        21, torch.randn(9, 7), torch.randn(3, 7), ModelConfig(width=8, dropout=0.0)
    )
    torch.nn.init.normal_(model.classifier)
    return model


def images(count: int = 12) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    boxes = [
        np.array([[10.0, 12, 34, 40]]) if row % 2 else np.zeros((0, 4)) for row in range(count)
    ]
    return rng.integers(1, 255, (count, 64, 64), dtype=np.uint8), boxes


# Without a GPU --------------------------------------------------------------------------------------------


def test_the_detector_mixes_no_devices():
    with FakeTensorMode(), torch.device("cuda"):
        model = Detector(TINY)
        pyramid, outputs, anchors, mask, image, _ = model.heads(torch.empty(2, 1, 64, 64))
        found = [*pyramid.values(), *outputs.values(), *anchors, mask, image]
        assert {tensor.device.type for tensor in found} == {"cuda"}


@pytest.mark.parametrize("boxes", [0, 1, 3])
def test_the_mask_target_lies_where_the_boxes_lie(boxes):
    with FakeTensorMode():
        assert union_mask(torch.empty(boxes, 4, device="cuda"), 64, 8).device.type == "cuda"


def test_the_attention_mixes_no_devices():
    with FakeTensorMode(), torch.device("cuda"):
        model = CrossAttention(21, torch.empty(9, 7), torch.empty(3, 7), ModelConfig(width=8))
        empty = Batch(
            torch.empty(4, 5, 21),
            torch.empty(4, 5),
            torch.ones(4, 5, dtype=torch.bool),
            torch.empty(4, 5, 2),
            torch.zeros(4, 6, dtype=torch.int64),
            torch.ones(4, 2, 6),
            torch.empty(4, 3),
            torch.empty(4, 3),
        )
        beta, logits = model.image_only(empty)
        alpha = model.text_attention(empty)
        terms = [losses.attributes(logits, empty.labels, empty.weights)]
        gamma, likelihood = model.phrase_attention(empty)
        terms.append(losses.grounding(likelihood, empty.phrases))
        terms.append(losses.distillation(gamma, beta, empty.phrases, empty.labels))
        assert {tensor.device.type for tensor in (beta, logits, alpha, gamma, *terms)} == {"cuda"}


# With one -------------------------------------------------------------------------------------------------


@pytest.fixture
def both(monkeypatch):
    """Run something on the CPU and on the GPU, in float32 on both."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(detection, "autocast", lambda where: nullcontext())
    monkeypatch.setattr("pnloc.regions.autocast", lambda where: nullcontext())

    def results(work):
        found = []
        for where in ("cpu", "cuda"):
            monkeypatch.setattr(parallel, "device", lambda where=where: torch.device(where))
            found.append(work(where))
        return found

    return results


@gpu
def test_a_detector_trained_on_the_gpu_has_the_losses_of_the_cpu(both, tmp_path):
    cpu, cuda = both(
        lambda where: train_detector(
            *images(), TINY, seed=0, folder=tmp_path / where, fingerprint="g"
        )[1]
    )
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
def test_the_terms_of_the_attention_are_those_of_the_cpu(both):
    def terms(where):
        found = losses.total(
            attention().to(where), batch(where), ModelConfig(width=8, dropout=0.0), True
        )
        return {name: float(value.detach()) for name, value in found.items()}

    cpu, cuda = both(terms)
    assert cuda == pytest.approx(cpu, abs=1e-4)


@gpu
def test_an_attention_trained_on_the_gpu_says_what_that_of_the_cpu_says(both, tmp_path):
    rng = np.random.default_rng(0)
    regions = Regions(
        torch.rand(40, 5, 4),
        torch.rand(40, 5),
        torch.ones(40, 5, dtype=torch.bool),
        torch.from_numpy(rng.normal(size=(40, 5, 21))).half(),
        torch.zeros(40, 2, 2).half(),
        torch.zeros(40),
    )
    vectors = WordVectors(["", "left", "pneumonia"], rng.normal(size=(3, 6)).astype(np.float32))
    labels = (rng.uniform(size=(40, 2)) < 0.5).astype(np.float32)
    words, phrases = rng.integers(-1, 3, (40, 4)), rng.integers(0, 2, (40, 2, 6)).astype(np.float32)

    def train(where):
        model, history = train_localizer(
            regions,
            words,
            phrases,
            labels,
            np.ones_like(labels),
            vectors,
            ("pneumonia", "side:left"),
            ModelConfig(width=8, epochs=3, batch=8, dropout=0.0),
            text=True,
            seed=0,
            folder=tmp_path / where,
            fingerprint="g",
        )
        return history, image_attention(model, regions)

    (history, (beta, attributes)), (other, (gamma, others)) = both(train)
    assert np.allclose(history, other, atol=1e-3)
    assert np.allclose(beta, gamma, atol=1e-2) and np.allclose(attributes, others, atol=1e-2)


@gpu
def test_bfloat16_on_the_gpu_is_close_to_float32(tmp_path):
    """The loss before any step, as it is trained: three digits are what bfloat16 has."""
    found = []
    for precise in (True, False):
        torch.manual_seed(0)
        model = Detector(TINY).cuda()
        pixels, boxes = images()
        targets = [
            {
                "boxes": torch.from_numpy(b).float().cuda(),
                "labels": torch.zeros(len(b), dtype=torch.int64).cuda(),
            }
            for b in boxes
        ]
        with nullcontext() if precise else detection.autocast(torch.device("cuda")):
            found.append(
                sum(model.losses(torch.from_numpy(pixels)[:, None].cuda(), targets).values()).item()
            )
    assert found[1] == pytest.approx(found[0], rel=0.03)
