"""Several processes train what one would have trained, share the regions, and wait for each other's files."""

import os
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from forks import start, together

from pnloc import processes
from pnloc.baselines.classifier import Classifier, train_classifier
from pnloc.config import DetectorConfig, FittingConfig, ModelConfig
from pnloc.errors import PnlocError
from pnloc.localize import train_localizer
from pnloc.regions import Regions
from pnloc.reports.words import WordVectors
from pnloc.run import feature_store as shards
from pnloc.run.cache import Cache

TINY = DetectorConfig(
    side=64, width=8, pyramid=8, anchor_sizes=((12.0, 16.0), (24.0, 32.0)), batch=6, rate=1e-4
)


def pictures(count: int = 18) -> tuple[np.ndarray, list[np.ndarray]]:
    """Noise with a bright square in every other image, and its box."""
    rng = np.random.default_rng(5)
    images = rng.integers(1, 80, (count, 64, 64), dtype=np.uint8)
    boxes = [np.zeros((0, 4))] * count
    for row in range(0, count, 2):
        x, y = rng.integers(4, 30, 2)
        images[row, y : y + 24, x : x + 20] += 100
        boxes[row] = np.array([[x, y, x + 20, y + 24]], dtype=np.float64)
    return images, boxes


def detector(folder, epochs=2, rate=1e-4):
    """Train a small detector in float32; keep its history and weights."""
    from pnloc import detector as module

    module.autocast = lambda where: nullcontext()
    config = replace(TINY, epochs=epochs, rate=rate)
    model, history = module.train_detector(
        *pictures(), config, seed=1, folder=folder, fingerprint="d"
    )
    keep(folder, model, history)


def localizer(folder, text=True, batch=7):
    rng = np.random.default_rng(2)
    count, found = 37, 6
    regions = Regions(
        torch.from_numpy(rng.uniform(0, 64, (count, found, 4))).float(),
        torch.from_numpy(rng.uniform(0, 1, (count, found))).float(),
        torch.from_numpy(rng.uniform(0, 1, (count, found)) < 0.9),
        torch.from_numpy(rng.normal(size=(count, found, 21))).half(),
        torch.zeros(count, 8, 8).half(),
        torch.zeros(count),
    )
    names = ("pneumonia", "side:left", "side:right")
    vectors = WordVectors(
        ("left", "right", "pneumonia", "base"), rng.normal(size=(4, 10)).astype(np.float32)
    )
    words = rng.integers(-1, 4, (count, 5))
    phrases = rng.integers(0, 2, (count, 2, 6)).astype(np.float32)
    labels = (rng.uniform(size=(count, 3)) < 0.4).astype(np.float32)
    weights = rng.uniform(0.1, 1, (count, 3)).astype(np.float32)
    config = ModelConfig(width=16, epochs=4, batch=batch, dropout=0.3)
    torch.manual_seed(9)
    model, history = train_localizer(
        regions,
        words,
        phrases,
        labels,
        weights,
        vectors,
        names,
        config,
        text=text,
        seed=1,
        folder=folder,
        fingerprint="l",
    )
    keep(folder, model, history)


def classifier(folder):
    from pnloc.baselines import classifier as baselines
    from pnloc.detector import Detector

    baselines.autocast = lambda where: nullcontext()
    torch.manual_seed(4)
    images, boxes = pictures()
    labels = np.array([float(len(b) > 0) for b in boxes])
    config, held = FittingConfig(epochs=2, batch=5, rate=1e-4), (images[:4], labels[:4])
    keep(
        folder,
        *train_classifier(
            Classifier,
            Detector(TINY),
            images,
            labels,
            held,
            config,
            seed=1,
            folder=folder,
            fingerprint="c",
        ),
    )


def keep(folder, model, history):
    if processes.main():
        history.to_csv(folder / "history.csv", index=False)
        torch.save(
            {name: value.clone() for name, value in model.state_dict().items()},
            folder / "weights.pt",
        )


def kept(folder) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    return pd.read_csv(folder / "history.csv"), torch.load(folder / "weights.pt", weights_only=True)


@pytest.mark.parametrize(
    ("work", "count"),
    [(detector, 2), (detector, 3), (localizer, 2), (localizer, 3), (classifier, 2)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_losses_and_weights_are_those_of_one_process(work, count, tmp_path):
    together(work, tmp_path / "one", count=1)
    together(work, tmp_path / "many", count=count)
    (one, weights), (many, others) = kept(tmp_path / "one"), kept(tmp_path / "many")
    assert (one - many).abs().max().max() < 1e-4
    assert one["loss"].nunique() > 1
    for name, value in weights.items():
        assert torch.allclose(value.float(), others[name].float(), atol=2e-3), name


def localizer_of_images(folder):
    localizer(folder, text=False)


def localizer_of_a_small_batch(folder):
    localizer(folder, batch=2)


@pytest.mark.parametrize(
    "work", [localizer_of_images, localizer_of_a_small_batch], ids=lambda w: w.__name__
)
def test_image_labels_alone_and_batches_too_small_to_split(work, tmp_path):
    together(work, tmp_path / "one", count=1)
    together(work, tmp_path / "many", count=3)
    assert (kept(tmp_path / "one")[0] - kept(tmp_path / "many")[0]).abs().max().max() < 1e-4


def gradients(folder):
    """Gradients of one step of the detector, in float64, with this process's part of the batch."""
    from pnloc import detector as module

    normalize = module.normalize
    module.normalize = lambda images: normalize(images).double()
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.manual_seed(3)
    model = module.Detector(TINY).train()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    images, boxes = pictures(7)
    mine = processes.part(7) if processes.count() > 1 else slice(0, 7)
    targets = [
        {"boxes": torch.from_numpy(b), "labels": torch.zeros(len(b), dtype=torch.int64)}
        for b in boxes[mine]
    ]
    with processes.whole_batch(model):
        total = sum(model.losses(torch.from_numpy(images[mine])[:, None], targets).values())
    (total * (mine.stop - mine.start) / 7 * processes.count()).backward()
    processes.average_gradients(model)
    state = {n: p.grad for n, p in model.named_parameters()} | {
        n: b for n, b in model.named_buffers()
    }
    if processes.main():
        torch.save(state, folder / "weights.pt")


def test_the_gradient_of_parts_is_that_of_the_batch_to_the_last_digits(tmp_path):
    """In float64, where rounding cannot hide an error: batch normalization, weighting and averaging are exact."""
    together(gradients, tmp_path / "one", count=1)
    together(gradients, tmp_path / "three", count=3)
    one, three = (
        torch.load(tmp_path / k / "weights.pt", weights_only=True) for k in ("one", "three")
    )
    for name, value in one.items():
        assert torch.allclose(value, three[name], rtol=1e-6, atol=1e-9), name
    assert sum(float(v.abs().sum()) for n, v in one.items() if "bn1.weight" in n) > 0


def stopped(folder, at):
    """A detector trained by several processes that stops once after some steps, and is then started again."""
    from pnloc import train

    step, taken = train._step, []

    def counted(*arguments):
        if len(taken) == at:
            raise KeyboardInterrupt
        taken.append(0)
        return step(*arguments)

    if at:
        train._step, train.EVERY = counted, 0.0
        with pytest.raises(KeyboardInterrupt):
            detector(folder)
        train._step = step
    detector(folder)


def test_several_processes_resume_together_to_the_same_weights(tmp_path):
    together(stopped, tmp_path / "whole", 0)
    together(stopped, tmp_path / "stopped", 4)
    whole, again = kept(tmp_path / "whole"), kept(tmp_path / "stopped")
    assert whole[0].equals(again[0])
    assert all(torch.equal(value, again[1][name]) for name, value in whole[1].items())


def spoiled(folder):
    """One process's part of the batch gives a loss that is not finite."""
    from pnloc.train import Schedule, fit

    module = torch.nn.Linear(2, 1)

    def losses(x):
        return {"fit": module(x).square().mean() / (0.0 if processes.index() == 1 else 1.0)}

    def share(x):
        return x[processes.part(len(x))], 0.5

    with pytest.raises(PnlocError, match="loss is not finite"):
        fit(
            module,
            lambda e: [torch.ones(4, 2)],
            losses,
            Schedule(1, 1, 0.1, 0.0),
            folder=folder,
            fingerprint="s",
            seed=0,
            share=share,
        )


def test_a_loss_that_is_not_finite_in_one_process_ends_them_all(tmp_path):
    together(spoiled, tmp_path)


def too_few(folder):
    with pytest.raises(PnlocError, match="batch of 2 cannot be split over 3 processes"):
        processes.part(2)
    assert processes.part(7) == [slice(0, 2), slice(2, 4), slice(4, 7)][processes.index()]


def test_parts_cover_a_batch_and_a_batch_too_small_is_named(tmp_path):
    together(too_few, tmp_path, count=3)


def stages(folder):
    """Stages of both kinds, and a note of who made what."""
    cache = Cache(folder / "run", preset="none", seed=0)

    def make(name):
        def write(into, key):
            with (folder / f"{name}-made").open("a") as file:
                file.write(f"{processes.index()} of {processes.count()}\n")

        return write

    first, _ = cache.stage("first", 1, make=make("first"))
    assert (first / "done.json").exists(), (
        "the others wait for the files of the one that makes them"
    )
    cache.stage("second", 1, make=make("second"), together=True)
    cache.stage("second", 1, make=make("second"), together=True)
    shared = processes.shared()
    assert processes.leave() == (int(os.environ["RANK"]) == 0)
    assert processes.count() == 1 and not shared


def test_a_stage_is_made_by_one_process_or_by_all_and_once(tmp_path):
    together(stages, tmp_path)
    assert (tmp_path / "first-made").read_text() == "0 of 1\n"
    assert sorted((tmp_path / "second-made").read_text().splitlines()) == ["0 of 2", "1 of 2"]


def splitting(folder, expected):
    assert processes.shared() == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, False), ({"PNLOC_SPLIT": "1"}, True), ({"LOCAL_WORLD_SIZE": "1"}, True)],
)
def test_training_is_split_over_machines_and_where_it_is_asked_for(environment, expected, tmp_path):
    together(splitting, tmp_path, expected, **environment)


def some_regions(rows: slice) -> Regions:
    numbers = torch.arange(rows.start, rows.stop).float()
    return Regions(
        numbers[:, None, None].expand(-1, 3, 4).clone(),
        numbers[:, None].expand(-1, 3).clone(),
        torch.ones(len(numbers), 3, dtype=torch.bool),
        numbers[:, None, None].expand(-1, 3, 5).half(),
        numbers[:, None, None].expand(-1, 2, 2).half(),
        numbers,
    )


def extraction(folder, small):
    def make(rows):
        (folder / f"{rows.start}-by-{processes.index()}").touch()
        return some_regions(rows)

    shards.build(folder / "regions", 23, make, length=5, small=small)
    assert shards.load(folder / "regions").rows([22, 0]).image.tolist() == [22, 0]


@pytest.mark.parametrize("small", [0, 100])
def test_processes_share_the_shards_of_a_set(small, tmp_path):
    together(extraction, tmp_path, small)
    assert sorted(p.name for p in tmp_path.glob("*-by-*")) == [
        "0-by-0",
        "10-by-0",
        "15-by-1",
        "20-by-0",
        "5-by-1",
    ]


def test_one_process_needs_no_connection():
    assert (
        processes.count() == 1
        and processes.index() == 0
        and processes.main()
        and not processes.shared()
    )
    values = torch.tensor([1.0, 2.0])
    processes.average([values])
    processes.wait()
    assert values.tolist() == [1, 2] and processes.agree(True) and not processes.agree(False)
    assert processes.launch(print, "never", processes=1) is False


def notebook(folder):
    """What a notebook does before it asks for a result that several processes are to make."""
    assert processes.launch(note, folder, processes=2) and processes.count() == 1


def note(folder):
    (folder / f"{processes.index()} of {processes.count()}").touch()


def test_a_notebook_launches_processes_and_waits_for_them(tmp_path):
    process = start(notebook, tmp_path)
    process.join(100)
    assert process.exitcode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]
