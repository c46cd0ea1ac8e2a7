"""The data sets of a run: found or generated, decoded once, split by patient and free of leaks.

With them stands what their reports say: words and their vectors, phrases, labels and loss weights.
"""

import shutil
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pnloc import access, reports
from pnloc.config import Preset
from pnloc.data import covid19, duplicates, openi, rsna
from pnloc.data import decode as decoding
from pnloc.data import readers as datasets
from pnloc.data.records import Records, drop_patients
from pnloc.detector import FINDINGS
from pnloc.errors import PnlocError
from pnloc.files import digest, load_tensors, read_json, save_tensors, write_json, write_table
from pnloc.images import Letterbox
from pnloc.model import PNEUMONIA
from pnloc.reports import phrases, sentences, words
from pnloc.run.cache import Cache, tree_digest
from pnloc.run.provenance import data_digest
from pnloc.training import pad_words, supervision

NAMES = (PNEUMONIA, *reports.ATTRIBUTES)
TABLES = ("images", "boxes", "reports", "scores", "quarantine")


class Sets:
    """The data sets of one preset and seed; `data` is the folder of the real ones, None without."""

    def __init__(self, configuration: Preset, data: Path | None, seed: int, cache: Cache) -> None:
        self.preset, self.data, self.seed, self.cache = configuration, data, seed, cache
        self.records = lru_cache(None)(self._records)
        self.pixels = lru_cache(None)(self._pixels)
        self.true_boxes = lru_cache(None)(self._true_boxes)
        self.findings = lru_cache(None)(self._findings)
        self.phrases = lru_cache(None)(self._phrases)
        self.decoded = lru_cache(None)(self._decode)

    def title(self, role: str) -> str:
        """Name of a data set in the tables ('rsna' -> 'demo-rsna' where it is generated)."""
        return self.preset.title(role)

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the data sets of the preset; generated presets make it."""
        if not self.preset.generated:
            return self.data

        def make(folder: Path, _: str) -> None:
            from pnloc.data import demo

            shutil.rmtree(folder / "data", ignore_errors=True)
            size = demo.DemoSize(variants=self.preset.variants, **dict(self.preset.sizes))
            demo.generate(folder / "data", size, self.seed)

        inputs = (self.preset.variants, self.preset.sizes, self.seed)
        return (
            self.cache.stage("generate", *inputs, make=make, code=("pnloc.data.demo",))[0] / "data"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Titles of the sets with images that this run uses."""
        roles = self.preset.roles
        used = dict.fromkeys([roles.detector, roles.pairs, *roles.localization, roles.severity])
        real = (
            ["covid19"]
            if self.preset.generated and self.data and "covid19" in datasets.find(self.data)
            else []
        )
        return (*(self.title(role) for role in used), *real)

    @property
    def measured(self) -> list[str]:
        """Titles of the sets whose test images measure something."""
        roles = self.preset.roles
        return list(
            dict.fromkeys(self.title(role) for role in (*roles.localization, roles.severity))
        )

    @cached_property
    def test_patients(self) -> frozenset[str]:
        """Patients of the test images of every set that measures something: no training image may be theirs."""
        return frozenset().union(
            *(set(self._read(name).split("test")["patient"]) for name in self.measured)
        )

    def readers(self) -> dict[str, Callable[[], Records]]:
        """What reads each set of this run, and every other set that the data folder holds, by title."""
        found = {name: partial(self._read, name) for name in self.names}
        if self.data:
            found |= {
                name: partial(self._read, name)
                for name in datasets.find(self.data)
                if name not in found
            }
        place = openi.place(self.data)
        if place or self.preset.roles.texts == "openi":
            found["openi"] = partial(openi.read, place)
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

        def make(folder: Path, _: str) -> None:
            found = [
                duplicates.thumbnails(
                    self._read(name).split("test"), f"look at the test images of {name}"
                )[0]
                for name in names
            ]
            save_tensors(
                folder / "thumbnails.safetensors",
                {"thumbnails": torch.from_numpy(np.concatenate(found))},
            )

        folder, _ = self.cache.stage(
            "test-thumbnails",
            names,
            [self._trees(n) for n in names],
            make=make,
            code=("pnloc.data.readers", "pnloc.data.duplicates"),
        )
        return load_tensors(folder / "thumbnails.safetensors")["thumbnails"].numpy()

    def _trees(self, name: str) -> list[str]:
        """Digests of the folders that a set is read from."""
        home = self.data if not name.startswith("demo-") else self.folder
        return [
            tree_digest(home / folder) for folder in datasets.related(name.removeprefix("demo-"))
        ]

    def _records(self, name: str) -> Records:
        """A set, read, decoded and free of leaks: no training or validation image of a test patient of any set, nor of a patient
        of whom one is, by content, a test image under another name.

        What cannot be decoded has gone into `quarantine`; the rows of `images` are those of `pixels(name)`.
        """
        folder, _ = self.decoded(name)
        tables = {t: pd.read_parquet(folder / f"{t}.parquet") for t in TABLES}
        facts = read_json(folder / "facts.json")
        plain = {key: facts[key] for key in ("access", "counts", "notes", "tally")}
        return Records(facts["name"], **plain, **tables)

    def _pixels(self, name: str) -> np.ndarray:
        """Decoded images uint8 [N, S, S], padded to a square, one per row of `records(name).images`; a memory map: what is not read is not in memory."""
        folder, _ = self.decoded(name)
        pixels = load_tensors(folder / "pixels.safetensors")["pixels"].numpy()
        return access.tag(pixels, read_json(folder / "facts.json")["access"])

    def _decode(self, name: str) -> tuple[Path, str]:
        """The folder of a set's decoded images and tables, and a digest of what is in it: the same images by another way change nothing after them."""
        side = self.preset.detector.side
        tested = (sorted(self.test_patients), digest(self.test_thumbnails.tobytes().hex()))
        inputs = (name, side, self._trees(name), *tested)

        def make(folder: Path, _: str) -> dict:
            records = self._read(name)
            before = len(records.images)
            test = records.images["split"] == "test"
            leaking = set(records.images.loc[~test, "patient"]) & self.test_patients
            records = drop_patients(records, leaking, keep_split="test")
            records.counts["dropped_for_leak"] = before - len(records.images)
            with decoding.scratch(folder, before, side) as room:
                records, pixels = decoding.decode(records, side, room)
                records, pixels = duplicates.drop_twins(records, pixels, self.test_thumbnails)
                save_tensors(folder / "pixels.safetensors", {"pixels": torch.from_numpy(pixels)})
                told = data_digest(
                    pixels, records.images.drop(columns="path"), records.boxes, records.reports
                )
            for table in TABLES:
                write_table(folder / f"{table}.parquet", getattr(records, table))
            facts = {
                key: getattr(records, key) for key in ("access", "counts", "notes", "tally")
            } | {"name": name}
            write_json(folder / "facts.json", {**facts, "data": told})
            return {"data": told}

        folder, _ = self.cache.stage(
            f"decode-{name}",
            *inputs,
            make=make,
            code=("pnloc.data.readers", "pnloc.data.duplicates"),
        )
        return folder, digest(name, read_json(folder / "facts.json")["data"])

    def letterboxes(self, images: pd.DataFrame) -> list[Letterbox]:
        """The transform of each image row from its own pixels to the square input."""
        side = self.preset.detector.side
        return [
            Letterbox(int(w), int(h), side)
            for w, h in zip(images["width"], images["height"], strict=True)
        ]

    def may_show(self, name: str) -> bool:
        """Whether a page may show any image of a set: never credentialed ones, nor the real COVID-19 collection's, whose
        licence differs from image to image (`credits`)."""
        return self.records(name).access != "credentialed" and name != "covid19"

    def credits(self, name: str) -> pd.DataFrame:
        """Per image of a set, by name: shown (whether a page may show it) and credit (the line that then stands beside it)."""
        images = self.records(name).images["image"]
        if name == "covid19" and self.records(name).access != "credentialed":
            told = covid19.sources(self.data / datasets.FOLDERS[name]).set_index("image")
            return told[["shown", "credit"]].reindex(images)
        credit = images + (", generated" if self.records(name).access == "generated" else "")
        return pd.DataFrame(
            {"shown": self.may_show(name), "credit": credit.to_numpy()}, index=images.to_numpy()
        )

    def may_show_text(self, name: str) -> bool:
        """Whether a page may show report text of a set; the rule is that of its images."""
        return self.may_show(name)

    def _true_boxes(self, name: str, labels: frozenset[str] | None = None) -> list[np.ndarray]:
        """Boxes [n, 4] per image row of a set, in pixels of the square input; `labels` restricts their kind."""
        records = self.records(name)
        boxes = (
            records.boxes if labels is None else records.boxes[records.boxes["label"].isin(labels)]
        )
        by_image = {
            k: v[["x1", "y1", "x2", "y2"]].to_numpy(float) for k, v in boxes.groupby("image")
        }
        none = np.zeros((0, 4))
        pairs = zip(records.images["image"], self.letterboxes(records.images), strict=True)
        return [box.boxes(by_image.get(image, none)) for image, box in pairs]

    def _findings(self, name: str) -> np.ndarray | None:
        """What the detector learns of each image of its set beside the boxes, [N, 15] (pnloc.data.rsna.findings); None where the preset has it learn
        from boxes alone."""
        if not self.preset.detector.finding_weight:
            return None
        if self.preset.generated:
            raise PnlocError(
                "generated radiographs have no labels of findings: detector.finding_weight must be 0"
            )
        images = self.records(name).images["image"].tolist()
        return rsna.findings(self.data / datasets.FOLDERS[name], images, FINDINGS)

    def rows(self, name: str, *splits: str) -> np.ndarray:
        """Row numbers of a set's images in any of the splits."""
        return np.flatnonzero(self.records(name).images["split"].isin(splits))

    def texts(self, name: str) -> list[str]:
        """The report of each image row of a set ('' where there is none)."""
        records = self.records(name)
        texts = (access.tag(text, records.access) for text in records.reports["text"])
        by_study = dict(zip(records.reports["study"], texts, strict=True))
        return [by_study.get(study, "") for study in records.images["study"]]

    @property
    def pairs(self) -> str:
        """Title of the set whose image-report pairs train the localizer."""
        return self.title(self.preset.roles.pairs)

    @cached_property
    def words_stage(self) -> tuple[Path, str]:
        config, corpus = self.preset.words, openi.place(self.data)
        inputs = (
            config,
            self.decoded(self.pairs)[1],
            self.preset.roles.texts,
            tree_digest(corpus) if corpus else "",
            self.seed,
        )

        def make(folder: Path, _: str) -> None:
            texts = self.texts(self.pairs)
            training = {texts[i] for i in self.rows(self.pairs, "train") if texts[i]}
            if self.preset.roles.texts:
                training |= set(openi.read(corpus).reports["text"])
            splitter = sentences.train(sorted(training))
            splitter.save(folder / "sentences.json")
            lists = [reports.tokens(s) for text in sorted(training) for s in splitter(text)]
            words.train(lists, size=config.size, epochs=config.epochs, seed=self.seed).save(
                folder / "words.safetensors"
            )

        return self.cache.stage(
            "words",
            *inputs,
            make=make,
            code=("pnloc.reports.words", "pnloc.reports.sentences", "pnloc.data.openi"),
        )

    @cached_property
    def vectors(self) -> words.WordVectors:
        """word2vec of the training reports (and of the open texts that the preset names)."""
        return words.WordVectors.load(self.words_stage[0] / "words.safetensors")

    @cached_property
    def splitter(self) -> sentences.Splitter:
        """The sentence model of the same texts."""
        return sentences.Splitter.load(self.words_stage[0] / "sentences.json")

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
        indices = [
            self.vectors.index(reports.asserting_words(text, self.splitter)) for text in texts
        ]
        return pad_words(indices, self.preset.words.most), labels, weights

    def _phrases(self, name: str) -> np.ndarray:
        """Places [N, P, 6] of the opacities that the report of each image of a set asserts (pnloc.reports.phrases)."""
        return phrases.padded(
            [phrases.asserted_places(text, self.splitter) for text in self.texts(name)]
        )

    @property
    def training(self) -> list[str]:
        """Titles of the sets that the localizer learns from: the pairs, and the set of image labels where the preset has one."""
        extra = self.preset.roles.labels
        return [self.pairs, *([self.title(extra)] if extra else [])]

    def labelled(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, S, S] of the training sets' split whose label is known, and the labels [N], 1 for a pneumonia."""
        pictures, targets = [], []
        for name in self.training:
            rows = self.rows(name, split)
            _, labels, weights = self.supervision(name)
            rows = rows[weights[rows, 0] > 0]
            pictures.append(self.pixels(name)[rows])
            targets.append(labels[rows, 0])
        return np.concatenate(pictures), np.concatenate(targets)
