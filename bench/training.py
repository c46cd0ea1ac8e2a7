"""Training and inference beside the stock RetinaNet and the detector alone; waiting for data.

Generated images (noise with bright ellipses in every other one) with reports from the demo's own
writer, weights as initialised: speed does not depend on them. Ours is the `demo` preset as it is
trained, torchvision's is RetinaNet on a ResNet-18 with a 256-channel pyramid at the same size. Both
take grey images to losses or to boxes, with the same number of proposals; each time is the least of
several repeats. With and without attention, boxes come from the same grouping step.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from bench import COLUMNS
from phantoms import wording
from phantoms.case import Case, Finding
from phantoms.rates import RATES
from pnloc import train
from pnloc.bodies import NARROW
from pnloc.config import preset
from pnloc.detector import Detector
from pnloc.detector_training import augment, placed, targets_of
from pnloc.localizer import Choice, image_attention, pick
from pnloc.parallel import autocast, device
from pnloc.regions import Regions, extract
from pnloc.reports import phrases
from pnloc.reports.findings import asserting_words, extract_attributes
from pnloc.reports.words import WordVectors
from pnloc.run.sets import NAMES
from pnloc.training import pad_words, supervision, train_localizer

PRESET = preset("demo")
SIDE, BATCH, MOST = PRESET.detector.side, PRESET.detector.batch, PRESET.regions.count
BODIES = (NARROW, "tf_efficientnet_lite0", "resnet18")  # the bodies of the presets
REPEATS = 3
PAIRS = 1024  # about as many as the preset trains on


def run() -> pd.DataFrame:
    """All rows of the table; about two minutes on two cores."""
    images, boxes = pictures(2 * BATCH)
    ours, *others = (made(Detector(replace(PRESET.detector, body=name))) for name in BODIES)
    stock, rows = made(stock_retinanet()), []
    steps = least(
        [
            *(partial(detector_step, model, images, boxes) for model in (ours, *others)),
            lambda: stock_step(stock, images, boxes),
        ]
    )
    looks = least(
        [
            *(partial(detections, model, images) for model in (ours, *others)),
            lambda: stock_detections(stock, images),
        ]
    )
    for what, seconds, count in (("training", steps, BATCH), ("inference", looks, len(images))):
        *each, theirs = (1000 * value / count for value in seconds)
        for name, own in zip(BODIES, each, strict=True):
            bar = 5.0 if name == NARROW else np.nan
            rows.append(
                [f"detector {what}, an image, {name} body", own, theirs, "ms", theirs / own, bar]
            )
    regions = many(extract(ours, images, PRESET.regions), PAIRS)
    model, epoch, waiting = attention(regions)
    few = regions.rows(range(len(images)))
    passed, ranked, attended = least(
        [
            lambda: extract(ours, images, PRESET.regions),
            lambda: pick(few, few.scores.numpy(), Choice()),
            lambda: pick(few, image_attention(model, few)[0], Choice()),
        ],
        repeats=5,
    )
    alone, both, each, step = (
        passed + ranked,
        passed + attended,
        passed / len(images),
        steps[0] / BATCH,
    )
    rows += [
        [
            "images to boxes, detector with attention against without",
            both,
            alone,
            "s",
            both / alone,
            1.05,
        ],
        [
            "attention, an epoch against a detector pass in training, an image",
            epoch,
            step,
            "s",
            epoch / step,
            1 / 50,
        ],
        [
            "attention, an epoch against a detector pass in inference, an image",
            epoch,
            each,
            "s",
            epoch / each,
            1 / 50,
        ],
        ["share of a detector step spent waiting for data", *detector_waiting(images, boxes), 0.05],
        ["share of an attention step spent waiting for data", *waiting, 0.05],
    ]
    table = pd.DataFrame(rows, columns=COLUMNS[:-1])
    least_or_most = np.where(
        table["bar"] >= 2, table["ratio"] >= table["bar"], table["ratio"] <= table["bar"]
    )
    return table.assign(met=least_or_most | table["bar"].isna())


def made(model: torch.nn.Module) -> torch.nn.Module:
    """A model as it is trained: on the device, channels last."""
    return model.to(device(), memory_format=torch.channels_last)


def pictures(count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Grey images uint8 [N, S, S] and the boxes of their ellipses, none in every other image."""
    rng = np.random.default_rng(0)
    images = rng.integers(30, 120, (count, SIDE, SIDE)).astype(np.float32)
    y, x = np.mgrid[:SIDE, :SIDE]
    boxes = [np.zeros((0, 4))] * count
    for row in range(0, count, 2):
        centre, radius = rng.uniform(0.3, 0.7, 2) * SIDE, rng.uniform(0.08, 0.2, 2) * SIDE
        images[row] += 90 * (
            ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2 < 1
        )
        boxes[row] = np.concatenate([centre - radius, centre + radius])[None]
    return images.clip(0, 255).astype(np.uint8), boxes


def least(works: list[Callable[[], object]], repeats: int = REPEATS) -> list[float]:
    """The least time of each work in seconds, after one unmeasured round.

    They take turns, so that load hits them alike.
    """
    times = [[] for _ in works]
    for number in range(repeats + 1):
        for work, found in zip(works, times, strict=True):
            started = time.perf_counter()
            work()
            if device().type == "cuda":
                torch.cuda.synchronize()
            if number:
                found.append(time.perf_counter() - started)
    return [min(found) for found in times]


def detector_step(model: Detector, images: np.ndarray, boxes: list[np.ndarray]) -> None:
    """Augmentation, forward and backward of one batch."""
    moved, found, _ = augment(
        torch.from_numpy(images[:BATCH])[:, None], boxes[:BATCH], np.random.default_rng(1)
    )
    model.train().zero_grad()
    with autocast(device()):
        losses = model.losses(*placed((moved, targets_of(found)), device()))
    sum(losses.values()).backward()


def stock_retinanet() -> torch.nn.Module:
    """torchvision's RetinaNet for square images of SIDE.

    A ResNet-18 pyramid of 256 channels, strides 8 to 128.
    """
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    body = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    sizes = tuple(
        (x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512)
    )  # torchvision's own
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    return RetinaNet(
        body,
        1,
        anchor_generator=anchors,
        min_size=SIDE,
        max_size=SIDE,
        detections_per_img=MOST,
        score_thresh=0.0,
    )


def stock_step(model: torch.nn.Module, images: np.ndarray, boxes: list[np.ndarray]) -> None:
    """The same batch through the stock network, with the same precision and augmentation."""
    moved, found, _ = augment(
        torch.from_numpy(images[:BATCH])[:, None], boxes[:BATCH], np.random.default_rng(1)
    )
    model.train().zero_grad()
    with autocast(device()):
        pictures, targets = placed((moved, targets_of(found)), device())
        losses = model(list((pictures / 255).expand(-1, 3, -1, -1)), targets)
    sum(losses.values()).float().backward()


@torch.no_grad()
def detections(model: Detector, images: np.ndarray) -> None:
    """Images to MOST boxes each, with what else our detector says of them."""
    model.eval()
    for start in range(0, len(images), BATCH):
        with autocast(device()):
            model(
                torch.from_numpy(images[start : start + BATCH])[:, None].to(device()),
                PRESET.regions.overlap,
                MOST,
            )


@torch.no_grad()
def stock_detections(model: torch.nn.Module, images: np.ndarray) -> None:
    """Images to MOST boxes each."""
    model.eval()
    for start in range(0, len(images), BATCH):
        pictures = torch.from_numpy(images[start : start + BATCH])[:, None].float() / 255
        with autocast(device()):
            model(list(pictures.expand(-1, 3, -1, -1).to(device())))


def many(regions: Regions, count: int) -> Regions:
    """As many images as asked for, from a few."""
    return regions.rows(np.arange(count) % len(regions))


def written(count: int) -> list[str]:
    """Reports of made-up cases, as the preset's own are written.

    As many with opacities, as many words, as often the same ones.
    """
    rng, shape = np.random.default_rng(0), np.zeros((0, 0), dtype=bool)

    def opacity() -> Finding:
        kind = rng.choice(list(RATES["kinds"]), p=list(RATES["kinds"].values()))
        side, zone = rng.choice(["left", "right"]), rng.choice(["upper", "middle", "lower"])
        return Finding(str(kind), 0, str(side), str(zone), 1.0, shape, (0.0, 0.0, 0.0, 0.0), 0)

    texts = []
    for _ in range(count):
        positive = rng.random() < RATES["mimic"]["positive"]
        number = 1 + rng.choice(3, p=RATES["opacities"]) if positive else 0
        shares = {side: rng.uniform(0, 0.8) for side in ("left", "right")}
        case = Case([opacity() for _ in range(number)], share=shares)
        texts.append(wording.write(case, rng)[0])
    return texts


def attention(regions: Regions) -> tuple[torch.nn.Module, float, tuple]:
    """The text attention trained on these regions.

    Gives the model, seconds per image and epoch, its share of waiting for data.
    """
    import tempfile

    texts = written(len(regions))
    said = [asserting_words(text) for text in texts]
    known = sorted({word for words in said for word in words})
    rng = np.random.default_rng(0)
    vectors = WordVectors(
        ["", *known], rng.normal(size=(len(known) + 1, PRESET.words.size)).astype("f4")
    )
    words = pad_words([vectors.index(found) for found in said], PRESET.words.most)
    places = phrases.padded([phrases.asserted_places(text) for text in texts])
    opacity = np.array([float(len(found) > 0) for found in said])
    labels, weights = supervision([extract_attributes(text) for text in texts], opacity, NAMES)
    times: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        train.watched(lambda *_: times.append(time.perf_counter())),
    ):
        waits, found = measured(
            lambda: train_localizer(
                regions,
                words,
                places,
                labels,
                weights,
                vectors,
                NAMES,
                PRESET.model,
                text=True,
                seed=0,
                folder=folder,
                fingerprint="bench",
            )[0]
        )
    return found.eval(), min(np.diff(times)) / len(regions), waits


def detector_waiting(images: np.ndarray, boxes: list[np.ndarray]) -> tuple:
    """Waiting for data, for the detector as it is trained.

    Seconds waited for batches, seconds of training, the unit and their ratio.
    """
    import tempfile

    from pnloc.detector_training import train_detector

    config = replace(PRESET.detector, epochs=4)
    with tempfile.TemporaryDirectory() as folder:
        return measured(
            lambda: train_detector(
                np.tile(images, (2, 1, 1)),
                boxes * 2,
                config,
                seed=0,
                folder=folder,
                fingerprint="b",
            )
        )[0]


def measured(work: Callable[[], object]) -> tuple[tuple, object]:
    """Run a training and measure it.

    Gives the seconds that its loop waited for batches, those of its steps, the unit and their
    ratio; and the result of the training.
    """
    waited, spent = [], []
    ahead, step = train._ahead, train._step

    def waiting(batches) -> Iterator:
        iterator = ahead(batches)
        while True:
            started = time.perf_counter()
            batch = next(iterator, None)
            waited.append(time.perf_counter() - started)
            if batch is None:
                return
            yield batch

    def stepping(*arguments):
        started = time.perf_counter()
        found = step(*arguments)
        spent.append(time.perf_counter() - started)
        return found

    train._ahead, train._step = waiting, stepping
    try:
        found = work()
    finally:
        train._ahead, train._step = ahead, step
    whole = sum(waited) + sum(spent)
    return (sum(waited), whole, "s", sum(waited) / whole), found
