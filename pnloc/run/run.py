"""The experiment as stages on disk (pnloc.run.cache), in the order of the paper.

`open_run` returns a `Run`. Notebooks, the command line and tests call the same methods and reuse
each other's results. The tables are made in pnloc.run.results.
"""

from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pnloc import parallel
from pnloc.config import Preset, preset
from pnloc.data import readers
from pnloc.detector import Detector
from pnloc.detector_training import PHRASES, Described, train_detector
from pnloc.errors import PnlocError
from pnloc.files import load_tensors, save_tensors, write_json
from pnloc.model import CrossAttention
from pnloc.regions import extract, feature_size
from pnloc.reports.phrases import asserted_places
from pnloc.reports.supervision import NAMES, supervise
from pnloc.run import feature_store
from pnloc.run.cache import ROOT, Cache, Trained
from pnloc.run.sets import Sets
from pnloc.run.severity import lungs
from pnloc.training import new_attention, stacked, train_localizer

ARMS = BOXES, LABELS, TEXT = ("boxes", "labels", "text")
# What the attention learns from: reports or not, in the form of the paper's reviews or ours.
ATTENTIONS = {"text": (True, False), "labels only": (False, False), "paper": (True, True)}


def open_run(preset_name: str, data: str = "", seed: int = 0, artifacts: str = "") -> "Run":
    """A run of a preset; `data` is the folder of the real sets, '' for generated presets.

    Raises PnlocError for an unknown preset, a missing folder or a seed that is not a whole number
    of at least 0.
    """
    configuration = preset(preset_name)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise PnlocError(f"the seed is a whole number from 0 on, not {seed!r}")
    if not configuration.generated and not data:
        message = f"preset '{preset_name}' needs the folder of the data sets"
        raise PnlocError(f"{message}: give DATA=FOLDER (book, Data access)")
    folder = Path(data).expanduser().resolve() if data else None
    if folder is not None and not folder.is_dir():
        holds = ", ".join(readers.FOLDERS.values())
        raise PnlocError(f"{data}: no such folder; DATA names the folder that holds {holds}")
    # An installed package has no repository around it: its runs lie where they are started.
    home = ROOT if (ROOT / "notebooks").is_dir() else Path.cwd()
    root = Path(artifacts).expanduser() if artifacts else home / "artifacts"
    return Run(configuration, folder, seed, root.resolve() / configuration.name)


class Run:
    """One run of a preset with a seed, in the folder `root`; `data` holds the real sets, if any."""

    def __init__(self, configuration: Preset, data: Path | None, seed: int, root: Path) -> None:
        self.preset, self.data, self.seed, self.root = configuration, data, seed, root
        self.cache = Cache(root, preset=configuration.name, seed=seed)
        self.sets = Sets(configuration, data, seed, self.cache)
        for method in (self.regions, self.localizer):
            setattr(self, method.__name__, cache(method))
        if parallel.main():
            write_json(root / "config.json", {**configuration.as_dict(), "seed": seed})

    def title(self, role: str) -> str:
        """Name of a data set in the tables ('rsna' -> 'demo-rsna' where it is generated)."""
        return self.preset.title(role)

    # Detector and regions ----------------------------------------------------------------------

    @cached_property
    def lungs_stage(self) -> Trained:
        """The training of the lung finder on generated radiographs."""
        config = self.preset.severity

        def fit(seed: int, **place: object) -> tuple[lungs.LungNet, pd.DataFrame]:
            from phantoms.lungs import generate_lungs

            shown = generate_lungs(config.anatomies, lungs.INPUT, seed)
            return lungs.train_lungs(*shown, epochs=config.epochs, seed=seed, **place)

        functions = {"build": lungs.LungNet, "fit": fit, "code": (lungs.train_lungs,)}
        inputs = (config.anatomies, config.epochs)
        return self.cache.trained("lungs", *inputs, seed=self.seed, **functions)

    @cached_property
    def lung_finder(self) -> lungs.LungNet:
        """The lung finder."""
        return self.lungs_stage.load()

    def zones_stage(self, name: str) -> tuple[Path, str]:
        """The stage of the zones of a set's images."""

        def make(folder: Path, _: str) -> None:
            zones = torch.from_numpy(lungs.zones(self.lung_finder, self.sets.pixels(name)))
            save_tensors(folder / "zones.safetensors", {"zones": zones})

        inputs = (self.lungs_stage.key, self.sets.decoded(name)[1])
        return self.cache.stage(f"zones-{name}", *inputs, make=make, code=(lungs.zones,))

    def zones(self, name: str) -> np.ndarray:
        """Zones of the lungs uint8 [N, z, z] of a set's images (pnloc.run.severity.lungs)."""
        return load_tensors(self.zones_stage(name)[0] / "zones.safetensors")["zones"].numpy()

    @property
    def describing(self) -> list[str]:
        """The sets whose reports, or image labels, train the detector beside its own boxes."""
        home = self.title(self.preset.roles.detector)
        return [name for name in self.sets.training if name != home]

    def described(self, name: str) -> Described:
        """What the reports of a set's training images say, to train the detector."""
        _, labels, weights = self.sets.supervision(name)
        held = np.ones(len(labels), dtype=bool)
        held[self.sets.rows(name, "train")] = False
        opacity = np.where(held | (weights[:, 0] == 0), np.nan, labels[:, 0])
        places = self.sets.phrases(name)[:, :PHRASES]
        places = np.pad(places, [(0, 0), (0, PHRASES - places.shape[1]), (0, 0)])
        told = Described(self.sets.pixels(name), self.zones(name), places, opacity)
        return told if name in self.sets.pairs else told.without_places()

    def train_detector(self, stage: str, rows: np.ndarray, seed: int, arm: str = TEXT) -> Trained:
        """The training of a detector on rows of the detector's set, as a stage of that name.

        arm: what it learns from (ARMS), if the preset has it learn from reports at all.
        """
        name, config = self.title(self.preset.roles.detector), self.preset.detector
        if arm == BOXES:
            config = replace(config, place_weight=0.0)
        names = self.describing if config.place_weight else []

        def build() -> Detector:
            return Detector(config).to(memory_format=torch.channels_last)

        def fit(**place: object) -> tuple[Detector, pd.DataFrame]:
            boxes = [self.sets.true_boxes(name)[row] for row in rows]
            if not any(map(len, boxes)):
                raise PnlocError(f"{name}: no training image has a box to train the detector on")
            images, others = self.sets.pixels(name)[rows], [self.described(n) for n in names]
            others = [o.without_places() for o in others] if arm == LABELS else others
            zones = self.zones(name)[rows] if names else None
            if names and not any(other.zones.any() for other in others):
                raise PnlocError(f"no lung is found in {', '.join(names)}: reports have no places")
            return train_detector(images, boxes, config, zones=zones, described=others, **place)

        inputs = (config, self.sets.decoded(name)[1], rows.tolist())
        if names:
            upstream = [self.zones_stage(n)[1] for n in (name, *names)]
            inputs += (arm, upstream, self.sets.words_stage[1])
        options = {"seed": seed, "together": parallel.shared()}
        options["code"] = (train_detector, *((supervise, asserted_places) if names else ()))
        return self.cache.trained(stage, *inputs, build=build, fit=fit, **options)

    @cached_property
    def detector_stage(self) -> Trained:
        """The training of the run's own detector."""
        rows = self.sets.rows(self.title(self.preset.roles.detector), "train")
        return self.train_detector("detector", rows, self.seed)

    def arm_stage(self, arm: str) -> Trained:
        """The training of the run's own detector from what an arm learns from (ARMS)."""
        rows = self.sets.rows(self.title(self.preset.roles.detector), "train")
        return self.train_detector(f"detector-{arm}", rows, self.seed, arm)

    @cached_property
    def detector(self) -> Detector:
        """The RetinaNet, trained on the boxes of the detector's set."""
        return self.detector_stage.load()

    def regions_stage(self, name: str, count: int = 0) -> tuple[Path, str]:
        """The stage of a set's regions; `count` per image, 0 for the number of the preset."""
        config = replace(self.preset.regions, count=count or self.preset.regions.count)
        stage = f"regions-{name}" + (f"-R{count}" if count else "")

        def make(folder: Path, _: str) -> None:
            detector, pixels = self.detector, self.sets.pixels(name)
            feature_store.build(
                folder, len(pixels), lambda rows: extract(detector, pixels[rows], config)
            )

        inputs = (self.detector_stage.key, self.sets.decoded(name)[1], config)
        return self.cache.stage(stage, *inputs, make=make, code=(extract,), together=True)

    def regions(self, name: str, count: int = 0) -> feature_store.Store:
        """Regions of every image of a set."""
        folder, _ = self.regions_stage(name, count)
        return feature_store.load(folder, len(self.sets.pixels(name)))

    # Training ----------------------------------------------------------------------------------

    def training_data(self) -> tuple[feature_store.Store, *tuple[np.ndarray, ...]]:
        """Regions, words, places, labels and weights of all training studies."""
        stores, columns = [], []
        for name in self.sets.training:
            rows = self.sets.rows(name, "train")
            words, labels, weights = (column[rows] for column in self.sets.supervision(name))
            places = self.sets.phrases(name)[rows]
            if name not in self.sets.pairs:  # learnt from its image labels alone
                words, places = words[:, :0], places[:, :0]
            stores.append((self.regions(name), rows))
            columns.append((words, places, labels, weights))
        filled = zip(zip(*columns, strict=True), (-1, 0, 0, 0), strict=True)
        return feature_store.join(stores), *(stacked(parts, fill) for parts, fill in filled)

    def localizer_stage(self, text: bool, paper: bool = False) -> Trained:
        """Training of the cross-attention, with or without reports, or in the paper's form."""
        stage = f"attention-{'paper' if paper else 'text' if text else 'labels'}"
        config, vectors = self.preset.model, self.sets.vectors
        config = config.reviewed() if paper else config

        def build() -> CrossAttention:
            features = feature_size(self.preset.detector.pyramid)
            return new_attention(features, vectors, NAMES if text else NAMES[:1], config)

        def fit(**place: object) -> tuple[CrossAttention, pd.DataFrame]:
            data = self.training_data()
            return train_localizer(*data, vectors, NAMES, config, text=text, **place)

        upstream = [self.regions_stage(name)[1] for name in self.sets.training]
        inputs = (config, upstream, self.sets.words_stage[1])
        code = (train_localizer, supervise, asserted_places)
        return self.cache.trained(stage, *inputs, seed=self.seed, build=build, fit=fit, code=code)

    def localizer(self, text: bool, paper: bool = False) -> tuple[CrossAttention, pd.DataFrame]:
        """The cross-attention of `localizer_stage`, and its history."""
        stage = self.localizer_stage(text, paper)
        return stage.load(), stage.history

    def train(self) -> None:
        """Make the regions of all sets, which several processes share, and both localizers."""
        for name in dict.fromkeys([*self.sets.training, *self.sets.measured, *self.sets.real]):
            self.regions_stage(name)
        for form in ATTENTIONS.values():
            self.localizer_stage(*form)
