"""Presets: every number that a run depends on, as frozen dataclasses; their values: presets.toml.

`preset(name)` is the only way to get one. A stage takes all its numbers from here, so that a digest
of these values tells whether it must run again.
"""

import tomllib
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from math import isfinite
from pathlib import Path

from pnloc.errors import PnlocError

PRESETS = Path(__file__).with_name("presets.toml")
# Baselines that are trained beside the image-label classifier, by what they learn from.
FROM_LABELS = ("hide-and-seek", "attention-dropout", "patch-mil")
FROM_PAIRS = ("contrastive-grounding", "align2ground", "reconstruction")
FROM_BOXES = ("supervised", "supervised-faster-rcnn")
BASELINES = (*FROM_LABELS, *FROM_PAIRS, *FROM_BOXES)


@dataclass(frozen=True)
class DetectorConfig:
    """RetinaNet and its training (pnloc.detector); sizes in pixels of the model's square input."""

    side: int = 192
    body: str = "narrow"  # or a network of timm (pnloc.bodies)
    start: str = "random"  # or 'packaged', 'hub': weights of ImageNet for a network of timm
    width: int = 32  # of the narrow body: channels after its first convolution
    pyramid: int = 64  # channels of the feature pyramid
    # Of strides 16 and 32, for a side of 192; they grow with the side.
    anchor_sizes: tuple[tuple[float, float], ...] = ((25.0, 36.0), (52.0, 74.0))
    aspect_ratios: tuple[float, ...] = (0.8, 1.3, 2.1)  # height / width
    epochs: int = 24
    batch: int = 16
    rate: float = 2e-3
    body_rate: float = 1.0  # of the body, as a share of `rate`
    frozen_stem: bool = False  # the body keeps the first layers that it starts with, up to stride 4
    frozen_norm: bool = False  # and all its batch statistics
    weight_decay: float = 0.05
    mask_weight: float = 1.0
    image_weight: float = 0.5
    # Reports (pnloc.detector.place_losses). 0: no map of places, no captioned image in the training
    place_weight: float = 0.0
    described: int = 16  # images with a report or an image label, beside each batch of boxed ones
    pooled: float = 0.3  # share of a zone's cells that are its evidence
    elsewhere: float = 0.3  # weight of the zones that no phrase names
    outside: float = 0.5  # weight of the cells outside the lungs


@dataclass(frozen=True)
class RegionConfig:
    """Proposals per image (pnloc.regions)."""

    count: int = 20  # R
    overlap: float = 0.6  # IoU from which on the lesser of two detections is dropped
    components: int = 4  # of the R, connected components of the mask head
    mirrored: bool = False  # average mask and image score with the mirrored image; twice the time


@dataclass(frozen=True)
class WordConfig:
    """word2vec (pnloc.reports.words)."""

    size: int = 64  # E
    epochs: int = 30
    most: int = 48  # words per report


@dataclass(frozen=True)
class ModelConfig:
    """The cross-attention localizer and its training (pnloc.model, pnloc.losses, pnloc.train)."""

    width: int = 64  # D
    text: str = "sentences"  # that assert an opacity, or 'attributes': the names of those asserted
    geometry: bool = True  # regions know where they lie
    tau: float = 0.1  # temperature of both attentions
    contrast_tau: float = 0.1  # temperature of the in-batch contrastive loss
    contrast_weight: float = 0.3
    contrast_group: int = 16  # studies among which a report is to find its image
    contrast_words: int = 8  # consecutive words of a report, drawn anew for each epoch
    attribute_weight: float = 1.0
    grounding_weight: float = 0.3
    distill_weight: float = 0.5
    dropout: float = 0.2
    epochs: int = 20
    batch: int = 64
    rate: float = 1e-3
    weight_decay: float = 0.05

    def reviewed(self) -> "ModelConfig":
        """The paper's own form, as far as its public reviews tell it (book, Fidelity)."""
        weights = {"grounding_weight": 0.0, "distill_weight": 0.0}  # no phrase has a place
        return replace(self, text="attributes", geometry=False, **weights)


@dataclass(frozen=True)
class FittingConfig:
    """Training of a baseline, with early stopping.

    It stops after `patience` epochs without a lower validation loss, and after `epochs`.
    """

    epochs: int = 40
    patience: int = 5
    batch: int = 32
    rate: float = 5e-4
    weight_decay: float = 0.05


@dataclass(frozen=True)
class SeverityConfig:
    """Severity read-outs beside the localizer (pnloc.run.severity)."""

    # Detectors of the ensemble: the run's own, those of the other folds, then other seeds.
    detectors: int = 1
    anatomies: int = 12  # generated, to train the lung finder on
    epochs: int = 40  # of the lung finder
    chosen_on: tuple[str, ...] = ("validate",)  # splits of the detector's set, for the read-out


@dataclass(frozen=True)
class Roles:
    """The data set in each role, by its name in pnloc.data.readers and in the tables."""

    detector: str = "rsna"  # its boxes train the detector
    pairs: tuple[str, ...] = ("mimic",)  # their image-report pairs train the localizer
    labels: str = ""  # a further set whose image labels (no report) join the pairs, or ''
    localization: tuple[str, ...] = ("mimic", "chestxray8")  # their test boxes measure it
    severity: str = "covid19"
    texts: str = ""  # further report texts for word2vec, or ''


@dataclass(frozen=True)
class Preset:
    """One size of the whole experiment."""

    name: str = ""
    generated: bool = False
    roles: Roles = Roles()
    variants: int = 0
    sizes: tuple[tuple[str, int], ...] = ()  # generated images per set
    resamples: int = 2000  # of the bootstrap
    folds: int = 0  # of the detector's set; the run's own detector serves the first
    detector: DetectorConfig = DetectorConfig()
    regions: RegionConfig = RegionConfig()
    words: WordConfig = WordConfig()
    model: ModelConfig = ModelConfig()
    baselines: tuple[str, ...] = BASELINES
    classifier: FittingConfig = FittingConfig()  # and FROM_LABELS
    grounding: FittingConfig = FittingConfig(60, 5, 64, 1e-3)  # FROM_PAIRS
    supervised: FittingConfig = FittingConfig(40, 5, 16, 5e-4)  # FROM_BOXES
    severity: SeverityConfig = SeverityConfig()

    def title(self, dataset: str) -> str:
        """The name of a data set in the tables: 'demo-' precedes that of a generated one."""
        return f"demo-{dataset}" if self.generated else dataset

    def as_dict(self) -> dict:
        """Nested plain values, as written beside every run."""
        return asdict(self)


def frozen(value: object) -> object:
    """A TOML or JSON value as a field holds it: tuples for lists, pairs for a table."""
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def _replaced(part: object, values: dict) -> object:
    """A dataclass with other values; a table changes values of the dataclass in that field."""
    changes = {}
    for name, value in values.items():
        old = getattr(part, name)
        changes[name] = _replaced(old, value) if is_dataclass(old) else frozen(value)
    return replace(part, **changes)


@cache
def _presets() -> dict[str, Preset]:
    """The presets of presets.toml."""
    presets = {}
    for name, values in tomllib.loads(PRESETS.read_text(encoding="utf-8")).items():
        base = presets[values.pop("base")] if "base" in values else Preset()
        presets[name] = _replaced(base, {"name": name, **values})
    return presets


def preset(name: str) -> Preset:
    """A preset by name; 'demo+model.distill_weight=0+detector.epochs=12' also sets numbers of it.

    Raises PnlocError, with a list of what there is, for an unknown preset or field, and for a value
    of another kind.
    """
    base, *settings = name.split("+")
    presets = _presets()
    if base not in presets:
        raise PnlocError(f"unknown preset '{base}'; use one of {', '.join(presets)}")
    result = presets[base]
    for setting in settings:
        path, _, value = setting.partition("=")
        result = _with(result, path, value, setting)
    return replace(result, name=name)


def _with(part: object, path: str, value: str, setting: str) -> object:
    """A dataclass with one number, at `path`, replaced."""
    name, _, rest = path.partition(".")
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    numbers = {n: v for n, v in values.items() if is_dataclass(v) or type(v) in (int, float)}
    old = numbers.get(name)
    if old is None or is_dataclass(old) != bool(rest):
        listed = ", ".join(numbers)
        raise PnlocError(f"setting '{setting}': no number '{name}' here; there are {listed}")
    if rest:
        return replace(part, **{name: _with(old, rest, value, setting)})
    try:
        number = type(old)(value)
        if not isfinite(number):
            raise ValueError
    except ValueError:
        kind = "whole number" if isinstance(old, int) else "number"
        raise PnlocError(f"setting '{setting}': {value!r} is no {kind}") from None
    return replace(part, **{name: number})
