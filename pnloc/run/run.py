"""The experiment as stages kept on disk (pnloc.run.cache), in the order of the paper.

`open_run` gives a `Run`. A notebook, the command line and a test call the same methods and find
what an earlier call left. Tables of results are made in pnloc.run.results.
"""

from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pnloc import parallel
from pnloc.baselines.classifier import Classifier, train_classifier
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
from pnloc.run.cache import Cache, Trained
from pnloc.run.sets import Sets
from pnloc.training import new_attention, train_localizer

REPOSITORY = Path(__file__).parents[2]


def open_run(preset_name: str, data: str = "", seed: int = 0, artifacts: str = "") -> "Run":
    """A run of a preset; `data` is the folder of the real sets, '' for generated presets.

    Raises PnlocError for an unknown preset, a missing folder or a seed that is no whole number
    from 0 on.
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
    home = REPOSITORY if (REPOSITORY / "notebooks").is_dir() else Path.cwd()
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
        """A detector trained on these rows of the detector's set, as a stage of that name."""
        name, config = self.title(self.preset.roles.detector), self.preset.detector
        findings = self.sets.findings(name)

        def build() -> Detector:
            return Detector(config).to(memory_format=torch.channels_last)

        def fit(**place: object) -> tuple[Detector, pd.DataFrame]:
            every = self.sets.true_boxes(name)
            boxes = [every[row] for row in rows]
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
        """Regions of a set; `count` per image, 0 for as many as the preset says."""
        config = replace(self.preset.regions, count=count or self.preset.regions.count)
        stage = f"regions-{name}" + (f"-R{count}" if count else "")

        def make(folder: Path, _: str) -> None:
            detector, pixels = self.detector, self.sets.pixels(name)

            def slice_of(rows: slice):
                return extract(detector, pixels[rows], config)

            feature_store.build(folder, len(pixels), slice_of)

        inputs = (self.detector_stage.key, self.sets.decoded(name)[1], config)
        return self.cache.stage(stage, *inputs, make=make, code=(extract,), together=True)

    def regions(self, name: str, count: int = 0) -> feature_store.Store:
        """Regions of every image of a set, on disk."""
        return feature_store.load(self.regions_stage(name, count)[0])

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

    @cached_property
    def classifier_stage(self) -> Trained:
        """The training of the image-label classifier."""

        def build() -> Classifier:
            return Classifier(self.detector)

        def fit(**place: object) -> tuple[Classifier, pd.DataFrame]:
            _ = self.detector  # before the seed: loading it draws random numbers
            torch.manual_seed(self.seed)
            model, config = build(), self.preset.classifier
            data = (self.sets.labelled(split) for split in ("train", "validate"))
            return model, train_classifier(model, *data, config, title="classifier", **place)

        upstream = [self.sets.decoded(name)[1] for name in self.sets.training]
        words, detector = self.sets.words_stage[1], self.detector_stage.key
        inputs = (self.preset.classifier, upstream, words, detector)
        options = {"code": (train_classifier, supervise), "together": parallel.shared()}
        options |= {"seed": self.seed, "build": build, "fit": fit}
        return self.cache.trained("classifier", *inputs, **options)

    @cached_property
    def classifier(self) -> Classifier:
        """The image-label classifier behind Grad-CAM."""
        return self.classifier_stage.load()

    def train(self) -> None:
        """Make the stages that several processes share, and the localizers."""
        used = dict.fromkeys([*self.sets.training, *self.sets.measured, *self.sets.real])
        for name in used:
            self.regions_stage(name)
        for text in (True, False):
            self.localizer_stage(text)
        _ = self.classifier_stage
