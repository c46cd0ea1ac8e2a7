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
from pnloc.detector_training import train_detector
from pnloc.errors import PnlocError
from pnloc.files import digest, write_json
from pnloc.model import CrossAttention
from pnloc.regions import extract, feature_size
from pnloc.reports.phrases import asserted_places
from pnloc.reports.supervision import NAMES, supervise
from pnloc.run import feature_store
from pnloc.run.cache import ROOT, Cache, Trained
from pnloc.run.sets import Sets
from pnloc.training import new_attention, train_localizer


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

    def train_detector(self, stage: str, rows: np.ndarray, seed: int) -> Trained:
        """The training of a detector on rows of the detector's set, as a stage of that name."""
        name, config = self.title(self.preset.roles.detector), self.preset.detector
        findings = self.sets.findings(name)

        def build() -> Detector:
            return Detector(config).to(memory_format=torch.channels_last)

        def fit(**place: object) -> tuple[Detector, pd.DataFrame]:
            boxes = [self.sets.true_boxes(name)[row] for row in rows]
            if not any(map(len, boxes)):
                raise PnlocError(f"{name}: no training image has a box to train the detector on")
            own = None if findings is None else findings[rows]
            images = self.sets.pixels(name)[rows]
            return train_detector(images, boxes, config, findings=own, **place)

        labels = "" if findings is None else digest(findings.tobytes().hex())
        inputs = (config, self.sets.decoded(name)[1], labels, rows.tolist())
        options = {"seed": seed, "code": (train_detector,), "together": parallel.shared()}
        return self.cache.trained(stage, *inputs, build=build, fit=fit, **options)

    @cached_property
    def detector_stage(self) -> Trained:
        """The training of the run's own detector."""
        rows = self.sets.rows(self.title(self.preset.roles.detector), "train")
        return self.train_detector("detector", rows, self.seed)

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
            if name != self.sets.pairs:  # learnt from its image labels alone
                words = np.full((len(rows), columns[0][0].shape[1]), -1)
                places = np.zeros((len(rows), *columns[0][1].shape[1:]), dtype=np.float32)
            stores.append((self.regions(name), rows))
            columns.append((words, places, labels, weights))
        return feature_store.join(stores), *map(np.concatenate, zip(*columns, strict=True))

    def localizer_stage(self, text: bool, seed: int | None = None) -> Trained:
        """Training of the cross-attention, with or without reports; the run's seed by default."""
        seed = self.seed if seed is None else seed
        stage = f"attention-{'text' if text else 'labels'}"
        stage += f"-seed{seed}" if seed != self.seed else ""
        config, vectors = self.preset.model, self.sets.vectors

        def build() -> CrossAttention:
            features = feature_size(self.preset.detector.pyramid)
            return new_attention(features, vectors, NAMES if text else NAMES[:1], config)

        def fit(**place: object) -> tuple[CrossAttention, pd.DataFrame]:
            data = self.training_data()
            return train_localizer(*data, vectors, NAMES, config, text=text, **place)

        upstream = [self.regions_stage(name)[1] for name in self.sets.training]
        inputs = (config, upstream, self.sets.words_stage[1])
        code = (train_localizer, supervise, asserted_places)
        return self.cache.trained(stage, *inputs, seed=seed, build=build, fit=fit, code=code)

    def localizer(self, text: bool, seed: int | None = None) -> tuple[CrossAttention, pd.DataFrame]:
        """The cross-attention trained with or without reports, and its history."""
        stage = self.localizer_stage(text, seed)
        return stage.load(), stage.history

    def train(self) -> None:
        """Make the regions of all sets, which several processes share, and both localizers."""
        for name in dict.fromkeys([*self.sets.training, *self.sets.measured, *self.sets.real]):
            self.regions_stage(name)
        for text in (True, False):
            self.localizer_stage(text)
