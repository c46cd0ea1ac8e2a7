"""The experiment as stages: from data folders to predictions, each kept on disk (pnloc.run.cache).

`open_run` gives a `Run`; its methods are the stages, in the order of the paper. A notebook, the command line and a
test call the same methods and find what an earlier one left. Tables of results are made in pnloc.run.results.
"""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from pnloc import parallel
from pnloc.baselines.classifier import Classifier, train_classifier
from pnloc.config import Preset, preset
from pnloc.data import readers as datasets
from pnloc.errors import PnlocError
from pnloc.files import digest, load_module, read_csv, save_module, write_json, write_table
from pnloc.model import CrossAttention
from pnloc.parallel import device
from pnloc.regions import Regions, extract
from pnloc.reports import phrases
from pnloc.run import feature_store as shards
from pnloc.run.cache import Cache
from pnloc.run.sets import NAMES, Sets
from pnloc.training import name_vectors, train_localizer

if TYPE_CHECKING:  # what takes long to import is imported by the stage that needs it
    from pnloc.detector import Detector

REPOSITORY = Path(__file__).parents[2]


def open_run(preset_name: str, data: str = "", seed: int = 0, artifacts: str = "") -> "Run":
    """A run of a preset; `data` is the folder that holds the real sets ('' for generated presets).

    Raises PnlocError for an unknown preset, a missing folder or a seed that is not a whole number from 0 on.
    """
    configuration = preset(preset_name)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise PnlocError(f"the seed is a whole number from 0 on, not {seed!r}")
    if not configuration.generated and not data:
        raise PnlocError(
            f"preset '{preset_name}' needs the folder of the data sets: give DATA=FOLDER (book, Data access)"
        )
    folder = Path(data).expanduser().resolve() if data else None
    if folder is not None and not folder.is_dir():
        raise PnlocError(
            f"{data}: no such folder; DATA names the folder that holds {', '.join(datasets.FOLDERS.values())}"
        )
    home = (
        REPOSITORY if (REPOSITORY / "notebooks").is_dir() else Path.cwd()
    )  # of an installed package, where one stands
    root = Path(artifacts).expanduser() if artifacts else home / "artifacts"
    return Run(configuration, folder, seed, root.resolve() / configuration.name)


class Run:
    """One run of one preset with one seed. Every method returns what it made or found on disk."""

    def __init__(self, configuration: Preset, data: Path | None, seed: int, root: Path) -> None:
        self.preset, self.data, self.seed, self.root = configuration, data, seed, root
        self.cache = Cache(root, preset=configuration.name, seed=seed)
        self.sets = Sets(configuration, data, seed, self.cache)
        self.regions = lru_cache(None)(self._regions)
        self.localizer = lru_cache(None)(self._localizer)
        if parallel.main():
            write_json(root / "config.json", {**configuration.as_dict(), "seed": seed})

    def title(self, role: str) -> str:
        """Name of a data set in the tables ('rsna' -> 'demo-rsna' where it is generated)."""
        return self.preset.title(role)

    # Detector and regions --------------------------------------------------------------------------------

    @property
    def detector_inputs(self) -> tuple:
        """What a detector depends on beside the images that it is shown: its configuration, and digests of its set and of the findings."""
        name = self.title(self.preset.roles.detector)
        known = self.sets.findings(name)
        return (
            self.preset.detector,
            self.sets.decoded(name)[1],
            "" if known is None else digest(known.tobytes().hex()),
        )

    def detector_data(self, rows: np.ndarray) -> dict:
        """Images, boxes and findings of some rows of the detector's set, as pnloc.training.train_detector takes them."""
        name = self.title(self.preset.roles.detector)
        boxes, known = self.sets.true_boxes(name), self.sets.findings(name)
        found = None if known is None else known[rows]
        return {
            "images": self.sets.pixels(name)[rows],
            "boxes": [boxes[i] for i in rows],
            "findings": found,
        }

    @cached_property
    def detector_stage(self) -> tuple[Path, str]:
        name = self.title(self.preset.roles.detector)
        inputs = (*self.detector_inputs, self.seed)

        def make(folder: Path, key: str) -> None:
            from pnloc.training import train_detector

            rows = self.sets.rows(name, "train")
            data = self.detector_data(rows)
            if not any(len(b) for b in data["boxes"]):
                raise PnlocError(
                    f"{name}: no training image has a box, so there is nothing to train the detector on"
                )
            detector, history = train_detector(
                **data, config=self.preset.detector, seed=self.seed, folder=folder, fingerprint=key
            )
            save_module(folder / "detector.safetensors", detector)
            write_table(folder / "history.csv", history)

        return self.cache.stage(
            "detector", *inputs, make=make, code=("pnloc.training",), together=parallel.shared()
        )

    @cached_property
    def detector(self) -> "Detector":
        """The RetinaNet, trained on the boxes of the detector's set."""
        from pnloc.detector import Detector

        module = Detector(self.preset.detector)
        load_module(self.detector_stage[0] / "detector.safetensors", module)
        return module.to(device(), memory_format=torch.channels_last).eval()

    @property
    def detector_history(self) -> pd.DataFrame:
        """Loss terms per epoch."""
        return read_csv(self.detector_stage[0] / "history.csv")

    def regions_stage(self, name: str) -> tuple[Path, str]:
        inputs = (self.detector_stage[1], self.sets.decoded(name)[1], self.preset.regions)

        def make(folder: Path, _: str) -> None:
            detector, pixels, config = self.detector, self.sets.pixels(name), self.preset.regions
            shards.build(folder, len(pixels), lambda rows: extract(detector, pixels[rows], config))

        return self.cache.stage(
            f"regions-{name}", *inputs, make=make, code=(extract,), together=True
        )

    def _regions(self, name: str) -> "Regions | shards.Shards":
        """Regions of every image of a set; those of a large one stay on disk."""
        return shards.load(self.regions_stage(name)[0])

    # Training --------------------------------------------------------------------------------------------

    def training_data(
        self,
    ) -> tuple["Regions | shards.Chosen", np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Regions, words, phrases, labels and weights of all training studies."""
        parts = []
        for name in self.sets.training:
            rows = self.sets.rows(name, "train")
            tokens, labels, weights = (a[rows] for a in self.sets.supervision(name))
            places = self.sets.phrases(name)[rows]
            if name != self.sets.pairs:
                tokens, places = (
                    np.full((len(rows), 0), -1),
                    np.zeros((len(rows), 0, len(phrases.PLACES)), np.float32),
                )
            parts.append(((self.regions(name), rows), tokens, places, labels, weights))
        regions = shards.join([p[0] for p in parts])
        tokens = _stacked([p[1] for p in parts], filling=-1)
        places = _stacked([p[2] for p in parts], filling=0)
        return (
            regions,
            tokens,
            places,
            np.concatenate([p[3] for p in parts]),
            np.concatenate([p[4] for p in parts]),
        )

    def localizer_stage(self, text: bool, seed: int | None = None) -> tuple[Path, str]:
        """The cross-attention with or without reports, of the run's own seed or of another."""
        seed = self.seed if seed is None else seed
        upstream = [self.regions_stage(n)[1] for n in self.sets.training]
        inputs = (self.preset.model, upstream, self.sets.words_stage[1], seed)
        title = f"attention-{'text' if text else 'labels'}" + (
            f"-seed{seed}" if seed != self.seed else ""
        )

        def make(folder: Path, key: str) -> None:
            model, history = train_localizer(
                *self.training_data(),
                self.sets.vectors,
                NAMES,
                self.preset.model,
                text=text,
                seed=seed,
                folder=folder,
                fingerprint=key,
            )
            save_module(folder / "model.safetensors", model)
            write_table(folder / "history.csv", history)

        return self.cache.stage(title, *inputs, make=make, code=(train_localizer, "pnloc.run.sets"))

    def _localizer(
        self, text: bool, seed: int | None = None
    ) -> tuple[CrossAttention, pd.DataFrame]:
        """The cross-attention, trained with (or without) reports, and its history; of the run's own seed or of another."""
        folder, _ = self.localizer_stage(text, seed)
        names = NAMES if text else NAMES[:1]
        model = CrossAttention(
            self.regions(self.sets.pairs).features.shape[-1],
            torch.from_numpy(self.sets.vectors.vectors),
            name_vectors(names, self.sets.vectors),
            self.preset.model,
        )
        load_module(folder / "model.safetensors", model)
        return model.to(device()).eval(), read_csv(folder / "history.csv")

    @cached_property
    def classifier_stage(self) -> tuple[Path, str]:
        upstream = [self.sets.decoded(n)[1] for n in self.sets.training]
        inputs = (self.preset.classifier, upstream, self.detector_stage[1], self.seed)

        def make(folder: Path, key: str) -> None:
            torch.manual_seed(self.seed)
            model = Classifier(self.detector)
            data = (self.sets.labelled(split) for split in ("train", "validate"))
            options = {"seed": self.seed, "folder": folder, "fingerprint": key}
            history = train_classifier(
                model, *data, self.preset.classifier, title="classifier", **options
            )
            save_module(folder / "classifier.safetensors", model)
            write_table(folder / "history.csv", history)

        return self.cache.stage(
            "classifier",
            *inputs,
            make=make,
            code=(train_classifier, "pnloc.run.sets"),
            together=parallel.shared(),
        )

    def train(self) -> None:
        """Make every stage that several processes can share: detector, regions, classifier; and both localizers."""
        roles = self.preset.roles
        only_boxes = {self.title(roles.detector)} - {
            self.title(r) for r in (*roles.localization, roles.severity)
        }
        for name in dict.fromkeys(
            [*self.sets.training, *(s for s in self.sets.names if s not in only_boxes)]
        ):
            self.regions_stage(name)
        self.localizer_stage(True)
        self.localizer_stage(False)
        _ = self.classifier_stage

    @cached_property
    def classifier(self) -> Classifier:
        """The image-label classifier behind Grad-CAM."""
        model = Classifier(self.detector)
        load_module(self.classifier_stage[0] / "classifier.safetensors", model)
        return model.to(device()).eval()


def _stacked(arrays: list[np.ndarray], filling: int) -> np.ndarray:
    """Arrays [n, w, ...] of different widths w as one, padded with `filling`."""
    widest = max(a.shape[1] for a in arrays)
    pads = [[(0, 0), (0, widest - a.shape[1])] + [(0, 0)] * (a.ndim - 2) for a in arrays]
    return np.concatenate(
        [np.pad(a, p, constant_values=filling) for a, p in zip(arrays, pads, strict=True)]
    )
