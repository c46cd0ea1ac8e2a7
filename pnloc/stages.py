"""The experiment as stages: from data folders to predictions, each kept on disk (pnloc.cache).

`open_run` gives a `Run`; its methods are the stages, in the order of the paper. A notebook, the command line and a
test call the same methods and find what an earlier one left. Tables of results are made in pnloc.results.
"""

import shutil
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from pnloc import access, datasets, decoding, duplicates, phrases, processes, reports, sentences, shards, words
from pnloc.baselines import Classifier, train_classifier
from pnloc.cache import Cache, source_digest, tree_digest
from pnloc.config import Preset, preset, title
from pnloc.errors import PnlocError
from pnloc.files import digest, read_csv, read_json, write_json, write_table
from pnloc.images import Letterbox
from pnloc.localize import name_vectors, pad_words, supervision, train_localizer
from pnloc.model import PNEUMONIA, CrossAttention
from pnloc.provenance import data_digest
from pnloc.records import Records, drop_patients
from pnloc.regions import Regions, extract
from pnloc.train import device, load_module, load_tensors, save_module, save_tensors

if TYPE_CHECKING:  # what takes long to import is imported by the stage that needs it
    from pnloc.detector import Detector

REPOSITORY = Path(__file__).parents[1]
NAMES = (PNEUMONIA, *reports.ATTRIBUTES)
OPACITY_LABELS = frozenset({"Pneumonia", "Consolidation", "Lung Opacity"})  # boxes that count as a pneumonia's place
TABLES = ("images", "boxes", "reports", "scores", "quarantine")


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
    home = REPOSITORY if (REPOSITORY / "notebooks").is_dir() else Path.cwd()  # of an installed package, where one stands
    root = Path(artifacts).expanduser() if artifacts else home / "artifacts"
    return Run(configuration, folder, seed, root.resolve() / configuration.name)


class Run:
    """One run of one preset with one seed. Every method returns what it made or found on disk."""

    def __init__(self, configuration: Preset, data: Path | None, seed: int, root: Path) -> None:
        self.preset, self.data, self.seed, self.root = configuration, data, seed, root
        self.cache = Cache(root, preset=configuration.name, seed=seed)
        self.records = lru_cache(None)(self._records)
        self.pixels = lru_cache(None)(self._pixels)
        self.regions = lru_cache(None)(self._regions)
        self.localizer = lru_cache(None)(self._localizer)
        self.true_boxes = lru_cache(None)(self._true_boxes)
        self.phrases = lru_cache(None)(self._phrases)
        if processes.main():
            write_json(root / "config.json", {**configuration.as_dict(), "seed": seed})

    # Data ------------------------------------------------------------------------------------------------

    def title(self, role: str) -> str:
        """Name of a data set in the tables ('rsna' -> 'demo-rsna' where it is generated)."""
        return title(self.preset, role)

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the data sets of the preset; generated presets make it."""
        if not self.preset.generated:
            return self.data

        def make(folder: Path, _: str) -> None:
            from pnloc import demo

            shutil.rmtree(folder / "data", ignore_errors=True)
            size = demo.DemoSize(variants=self.preset.variants, **dict(self.preset.sizes))
            demo.generate(folder / "data", size, self.seed)

        inputs = (self.preset.variants, self.preset.sizes, self.seed, source_digest("demo"))
        return self.cache.stage("generate", *inputs, make=make)[0] / "data"

    @property
    def sets(self) -> tuple[str, ...]:
        """Titles of the sets with images that this run uses."""
        roles = self.preset.roles
        used = dict.fromkeys([roles.detector, roles.pairs, *roles.localization, roles.severity])
        real = ["covid19"] if self.preset.generated and self.data and "covid19" in datasets.find(self.data) else []
        return (*(self.title(role) for role in used), *real)

    @property
    def measured(self) -> list[str]:
        """Titles of the sets whose test images measure something."""
        roles = self.preset.roles
        return list(dict.fromkeys(self.title(role) for role in (*roles.localization, roles.severity)))

    @cached_property
    def test_patients(self) -> frozenset[str]:
        """Patients of the test images of every set that measures something: no training image may be theirs."""
        return frozenset().union(*(set(self._read(name).split("test")["patient"]) for name in self.measured))

    def readers(self) -> dict[str, Callable[[], Records]]:
        """What reads each set of this run, and every other set that the data folder holds, by title."""
        found = {name: partial(self._read, name) for name in self.sets}
        if self.data:
            found |= {name: partial(self._read, name) for name in datasets.find(self.data) if name not in found}
        place = datasets.openi.place(self.data)
        if place or self.preset.roles.texts == "openi":
            found["openi"] = partial(datasets.openi.read, place)
        return found

    @lru_cache(None)  # noqa: B019 - a run lives as long as its process
    def _read(self, name: str) -> Records:
        """One set as it lies on disk."""
        role = name.removeprefix("demo-")
        home = self.data if not name.startswith("demo-") else self.folder
        return datasets.read_all(home, [role])[role]

    @cached_property
    def test_thumbnails(self) -> np.ndarray:
        """Thumbnails uint8 [N, 32, 32] of the test images of every set that measures something, which no training image may be."""
        names = self.measured
        modules = source_digest("datasets", "records", "images", "duplicates")

        def make(folder: Path, _: str) -> None:
            found = [duplicates.thumbnails(self._read(name).split("test"), f"look at the test images of {name}")[0] for name in names]
            save_tensors(folder / "thumbnails.safetensors", {"thumbnails": torch.from_numpy(np.concatenate(found))})

        folder, _ = self.cache.stage("test-thumbnails", names, [self._trees(n) for n in names], modules, make=make)
        return load_tensors(folder / "thumbnails.safetensors")["thumbnails"].numpy()

    def _trees(self, name: str) -> list[str]:
        """Digests of the folders that a set is read from."""
        home = self.data if not name.startswith("demo-") else self.folder
        return [tree_digest(home / folder) for folder in datasets.related(name.removeprefix("demo-"))]

    def _records(self, name: str) -> Records:
        """A set, read, decoded and free of leaks: no training or validation image of a test patient of any set, nor of a patient
        of whom one is, by content, a test image under another name.

        What cannot be decoded has gone into `quarantine`; the rows of `images` are those of `pixels(name)`.
        """
        folder, _ = self._decoded(name)
        tables = {t: pd.read_parquet(folder / f"{t}.parquet") for t in TABLES}
        facts = read_json(folder / "facts.json")
        plain = {key: facts[key] for key in ("access", "counts", "notes", "tally")}
        return Records(facts["name"], **plain, **tables)

    def _pixels(self, name: str) -> np.ndarray:
        """Decoded images uint8 [N, S, S], padded to a square, one per row of `records(name).images`; a memory map: what is not read is not in memory."""
        folder, _ = self._decoded(name)
        pixels = load_tensors(folder / "pixels.safetensors")["pixels"].numpy()
        return access.tag(pixels, read_json(folder / "facts.json")["access"])

    def _decoded(self, name: str) -> tuple[Path, str]:
        """The folder of a set's decoded images and tables, and a digest of what is in it: the same images by another way change nothing after them."""
        side = self.preset.detector.side
        modules = source_digest("datasets", "records", "images", "boxes", "duplicates", "decoding")
        tested = (sorted(self.test_patients), digest(self.test_thumbnails.tobytes().hex()))
        inputs = (name, side, self._trees(name), modules, *tested, "digest of the content")

        def make(folder: Path, _: str) -> dict:
            records = self._read(name)
            before = len(records.images)
            test = records.images["split"] == "test"
            leaking = set(records.images.loc[~test, "patient"]) & self.test_patients
            records = drop_patients(records, leaking, keep_split="test")
            records.counts["dropped_for_leak"] = before - len(records.images)
            with decoding.scratch(folder, before, side) as room:
                records, pixels = decoding.decode(records, side, room)
                records, pixels = decoding.drop_twins(records, pixels, self.test_thumbnails)
                save_tensors(folder / "pixels.safetensors", {"pixels": torch.from_numpy(pixels)})
                told = data_digest(pixels, records.images.drop(columns="path"), records.boxes, records.reports)
            for table in TABLES:
                write_table(folder / f"{table}.parquet", getattr(records, table))
            facts = {key: getattr(records, key) for key in ("access", "counts", "notes", "tally")} | {"name": name}
            write_json(folder / "facts.json", {**facts, "data": told})
            return {"data": told}

        folder, _ = self.cache.stage(f"decode-{name}", *inputs, make=make)
        return folder, digest(name, read_json(folder / "facts.json")["data"])

    def letterboxes(self, images: pd.DataFrame) -> list[Letterbox]:
        """The transform of each image row from its own pixels to the square input."""
        side = self.preset.detector.side
        return [Letterbox(int(w), int(h), side) for w, h in zip(images["width"], images["height"], strict=True)]

    def may_show(self, name: str) -> bool:
        """Whether a page may show any image of a set: never credentialed ones, nor the real COVID-19 collection's, whose
        licence differs from image to image (`credits`)."""
        return self.records(name).access != "credentialed" and name != "covid19"

    def credits(self, name: str) -> pd.DataFrame:
        """Per image of a set, by name: shown (whether a page may show it) and credit (the line that then stands beside it)."""
        images = self.records(name).images["image"]
        if name == "covid19" and self.records(name).access != "credentialed":
            told = datasets.covid19.sources(self.data / datasets.FOLDERS[name]).set_index("image")
            return told[["shown", "credit"]].reindex(images)
        credit = images + (", generated" if self.records(name).access == "generated" else "")
        return pd.DataFrame({"shown": self.may_show(name), "credit": credit.to_numpy()}, index=images.to_numpy())

    def may_show_text(self, name: str) -> bool:
        """Whether a page may show report text of a set; the rule is that of its images."""
        return self.may_show(name)

    def _true_boxes(self, name: str, labels: frozenset[str] | None = None) -> list[np.ndarray]:
        """Boxes [n, 4] per image row of a set, in pixels of the square input; `labels` restricts their kind."""
        records = self.records(name)
        boxes = records.boxes if labels is None else records.boxes[records.boxes["label"].isin(labels)]
        by_image = {k: v[["x1", "y1", "x2", "y2"]].to_numpy(float) for k, v in boxes.groupby("image")}
        none = np.zeros((0, 4))
        pairs = zip(records.images["image"], self.letterboxes(records.images), strict=True)
        return [box.boxes(by_image.get(image, none)) for image, box in pairs]

    def rows(self, name: str, *splits: str) -> np.ndarray:
        """Row numbers of a set's images in any of the splits."""
        return np.flatnonzero(self.records(name).images["split"].isin(splits))

    # Detector and regions --------------------------------------------------------------------------------

    @cached_property
    def _detector_stage(self) -> tuple[Path, str]:
        name = self.title(self.preset.roles.detector)
        inputs = (self.preset.detector, self._decoded(name)[1], self.seed, source_digest("detector", "inputs", "train"))

        def make(folder: Path, key: str) -> None:
            from pnloc.detector import train_detector

            rows = self.rows(name, "train")
            boxes = self.true_boxes(name)
            images, chosen = self.pixels(name)[rows], [boxes[i] for i in rows]
            if not any(len(b) for b in chosen):
                raise PnlocError(f"{name}: no training image has a box, so there is nothing to train the detector on")
            detector, history = train_detector(
                images, chosen, self.preset.detector, seed=self.seed, folder=folder, fingerprint=key
            )
            save_module(folder / "detector.safetensors", detector)
            write_table(folder / "history.csv", history)

        return self.cache.stage("detector", *inputs, make=make, together=processes.shared())

    @cached_property
    def detector(self) -> "Detector":
        """The RetinaNet, trained on the boxes of the detector's set."""
        from pnloc.detector import Detector

        module = Detector(self.preset.detector)
        load_module(self._detector_stage[0] / "detector.safetensors", module)
        return module.to(device(), memory_format=torch.channels_last).eval()

    @property
    def detector_history(self) -> pd.DataFrame:
        """Loss terms per epoch."""
        return read_csv(self._detector_stage[0] / "history.csv")

    def _regions_stage(self, name: str) -> tuple[Path, str]:
        inputs = (
            self._detector_stage[1],
            self._decoded(name)[1],
            self.preset.regions,
            source_digest("regions", "shards", "boxes"),
        )

        def make(folder: Path, _: str) -> None:
            detector, pixels, config = self.detector, self.pixels(name), self.preset.regions
            shards.build(folder, len(pixels), lambda rows: extract(detector, pixels[rows], config))

        return self.cache.stage(f"regions-{name}", *inputs, make=make, together=True)

    def _regions(self, name: str) -> "Regions | shards.Shards":
        """Regions of every image of a set; those of a large one stay on disk."""
        return shards.load(self._regions_stage(name)[0])

    # Words and pairs -------------------------------------------------------------------------------------

    @property
    def pairs(self) -> str:
        """Title of the set whose image-report pairs train the localizer."""
        return self.title(self.preset.roles.pairs)

    def texts(self, name: str) -> list[str]:
        """The report of each image row of a set ('' where there is none)."""
        records = self.records(name)
        texts = (access.tag(text, records.access) for text in records.reports["text"])
        by_study = dict(zip(records.reports["study"], texts, strict=True))
        return [by_study.get(study, "") for study in records.images["study"]]

    @cached_property
    def _words_stage(self) -> tuple[Path, str]:
        config, openi = self.preset.words, datasets.openi.place(self.data)
        inputs = (
            config,
            self._decoded(self.pairs)[1],
            self.preset.roles.texts,
            tree_digest(openi) if openi else "",
            self.seed,
            source_digest("words", "sentences"),
        )

        def make(folder: Path, _: str) -> None:
            texts = self.texts(self.pairs)
            training = {texts[i] for i in self.rows(self.pairs, "train") if texts[i]}
            if self.preset.roles.texts:
                training |= set(datasets.openi.read(openi).reports["text"])
            splitter = sentences.train(sorted(training))
            splitter.save(folder / "sentences.json")
            lists = [reports.tokens(s) for text in sorted(training) for s in splitter(text)]
            words.train(lists, size=config.size, epochs=config.epochs, seed=self.seed).save(
                folder / "words.safetensors"
            )

        return self.cache.stage("words", *inputs, make=make)

    @cached_property
    def vectors(self) -> words.WordVectors:
        """word2vec of the training reports (and of the open texts that the preset names)."""
        return words.WordVectors.load(self._words_stage[0] / "words.safetensors")

    @cached_property
    def splitter(self) -> sentences.Splitter:
        """The sentence model of the same texts."""
        return sentences.Splitter.load(self._words_stage[0] / "sentences.json")

    def supervision(
        self, name: str, change: Callable[[str], str] = str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words [N, W], labels [N, A] and weights [N, A] of a set's images, from report (after `change`) and image label.

        An opacity is present if the report asserts one; else the set's own label counts; else, absent where a report
        mentions none and unknown without a report. Images without a report keep their label alone: what the
        pneumonia is like stays unknown.
        """
        texts = [change(text) for text in self.texts(name)]
        own = self.records(name).images["label"].to_numpy(float)
        said = np.array([reports.has_opacity(text, self.splitter) for text in texts], dtype=float)
        opacity = np.where(said == 1, 1.0, np.where(np.isnan(own), said, own))
        labels, weights = supervision(
            [reports.extract_attributes(text, self.splitter) for text in texts], opacity, NAMES
        )
        silent = np.array([not text for text in texts]) & (labels[:, 0] > 0)
        weights[silent, 1:] = 0
        indices = [self.vectors.index(reports.asserting_words(text, self.splitter)) for text in texts]
        return pad_words(indices, self.preset.words.most), labels, weights

    def _phrases(self, name: str) -> np.ndarray:
        """Places [N, P, 6] of the opacities that the report of each image of a set asserts (pnloc.phrases)."""
        return phrases.padded([phrases.asserted_places(text, self.splitter) for text in self.texts(name)])

    # Training --------------------------------------------------------------------------------------------

    def training_sets(self) -> list[str]:
        """Sets that the localizer learns from: the pairs, and the set of image labels where the preset has one."""
        extra = self.preset.roles.labels
        return [self.pairs, *([self.title(extra)] if extra else [])]

    def training_data(self) -> tuple["Regions | shards.Chosen", np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Regions, words, phrases, labels and weights of all training studies."""
        parts = []
        for name in self.training_sets():
            rows = self.rows(name, "train")
            tokens, labels, weights = (a[rows] for a in self.supervision(name))
            places = self.phrases(name)[rows]
            if name != self.pairs:
                tokens, places = np.full((len(rows), 0), -1), np.zeros((len(rows), 0, len(phrases.CELLS)), np.float32)
            parts.append(((self.regions(name), rows), tokens, places, labels, weights))
        regions = shards.join([p[0] for p in parts])
        tokens = _stacked([p[1] for p in parts], filling=-1)
        places = _stacked([p[2] for p in parts], filling=0)
        return regions, tokens, places, np.concatenate([p[3] for p in parts]), np.concatenate([p[4] for p in parts])

    def _localizer_stage(self, text: bool, seed: int | None = None) -> tuple[Path, str]:
        """The cross-attention with or without reports, of the run's own seed or of another."""
        seed = self.seed if seed is None else seed
        modules = source_digest(
            "model", "losses", "localize", "train", "reports", "lexicon", "sentences", "scope", "phrases", "stages"
        )
        upstream = [self._regions_stage(n)[1] for n in self.training_sets()]
        inputs = (self.preset.model, upstream, self._words_stage[1], seed, modules)
        title = f"attention-{'text' if text else 'labels'}" + (f"-seed{seed}" if seed != self.seed else "")

        def make(folder: Path, key: str) -> None:
            model, history = train_localizer(
                *self.training_data(), self.vectors, NAMES, self.preset.model,
                text=text, seed=seed, folder=folder, fingerprint=key,
            )  # fmt: skip
            save_module(folder / "model.safetensors", model)
            write_table(folder / "history.csv", history)

        return self.cache.stage(title, *inputs, make=make, together=processes.shared())

    def _localizer(self, text: bool, seed: int | None = None) -> tuple[CrossAttention, pd.DataFrame]:
        """The cross-attention, trained with (or without) reports, and its history; of the run's own seed or of another."""
        folder, _ = self._localizer_stage(text, seed)
        names = NAMES if text else NAMES[:1]
        model = CrossAttention(
            self.regions(self.pairs).features.shape[-1],
            torch.from_numpy(self.vectors.vectors),
            name_vectors(names, self.vectors),
            self.preset.model,
        )
        load_module(folder / "model.safetensors", model)
        return model.to(device()).eval(), read_csv(folder / "history.csv")

    def labelled(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, S, S] of the training sets' split whose label is known, and the labels [N], 1 for a pneumonia."""
        pictures, targets = [], []
        for name in self.training_sets():
            rows = self.rows(name, split)
            _, labels, weights = self.supervision(name)
            rows = rows[weights[rows, 0] > 0]
            pictures.append(self.pixels(name)[rows])
            targets.append(labels[rows, 0])
        return np.concatenate(pictures), np.concatenate(targets)

    @cached_property
    def _classifier_stage(self) -> tuple[Path, str]:
        upstream = [self._decoded(n)[1] for n in self.training_sets()]
        inputs = (
            self.preset.classifier,
            upstream,
            self._detector_stage[1],
            self.seed,
            source_digest("baselines", "inputs", "train"),
        )

        def make(folder: Path, key: str) -> None:
            model, history = train_classifier(
                Classifier, self.detector, *self.labelled("train"), self.labelled("validate"), self.preset.classifier,
                seed=self.seed, folder=folder, fingerprint=key,
            )  # fmt: skip
            save_module(folder / "classifier.safetensors", model)
            write_table(folder / "history.csv", history)

        return self.cache.stage("classifier", *inputs, make=make, together=processes.shared())

    def train(self) -> None:
        """Make every stage that several processes can share: detector, regions, both localizers, classifier."""
        roles = self.preset.roles
        only_boxes = {self.title(roles.detector)} - {self.title(r) for r in (*roles.localization, roles.severity)}
        for name in dict.fromkeys([*self.training_sets(), *(s for s in self.sets if s not in only_boxes)]):
            self._regions_stage(name)
        self._localizer_stage(True)
        self._localizer_stage(False)
        _ = self._classifier_stage

    @cached_property
    def classifier(self) -> Classifier:
        """The image-label classifier behind Grad-CAM."""
        model = Classifier(self.detector)
        load_module(self._classifier_stage[0] / "classifier.safetensors", model)
        return model.to(device()).eval()


def _stacked(arrays: list[np.ndarray], filling: int) -> np.ndarray:
    """Arrays [n, w, ...] of different widths w as one, padded with `filling`."""
    widest = max(a.shape[1] for a in arrays)
    pads = [[(0, 0), (0, widest - a.shape[1])] + [(0, 0)] * (a.ndim - 2) for a in arrays]
    return np.concatenate([np.pad(a, p, constant_values=filling) for a, p in zip(arrays, pads, strict=True)])
