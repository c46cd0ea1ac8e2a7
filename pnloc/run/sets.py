"""The data sets of a run: read or generated, decoded once, split by patient and free of leaks.

Also the contents of their reports: words and their vectors, phrases, labels and loss weights.
"""

import shutil
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pnloc import access, reports
from pnloc.config import Preset
from pnloc.data import covid19, decode, duplicates, openi, readers, rocov2
from pnloc.data.records import Records, drop_patients
from pnloc.files import digest, load_tensors, read_json, save_tensors, write_json, write_table
from pnloc.images import Letterbox
from pnloc.reports import phrases, sentences, words
from pnloc.reports.supervision import NAMES, supervise
from pnloc.run.cache import Cache, tree_digest
from pnloc.run.provenance import data_digest

__all__ = ["NAMES", "Sets"]
FACTS = ("name", "access", "counts", "notes", "tally")
TABLES = ("images", "boxes", "reports", "scores", "quarantine")
BY_IMAGE = {"covid19": covid19.sources, "rocov2": rocov2.sources}  # a licence per image


class Sets:
    """The data sets of one preset and seed, by their titles in the tables.

    data      the folder of the real sets, if any
    pairs     the sets whose image-report pairs train the localizer
    training  the sets that train the localizer: the pairs, in some presets also one of labels
    measured  the sets whose test images are used in a measurement
    real      the real COVID-19 collection, if a run of generated sets has it, too
    names     all sets with images that this run uses
    """

    def __init__(self, configuration: Preset, data: Path | None, seed: int, cache_: Cache) -> None:
        self.preset, self.data, self.seed, self.cache = configuration, data, seed, cache_
        title, roles = configuration.title, configuration.roles
        self.pairs = tuple(map(title, roles.pairs))
        self.training = [*self.pairs, *map(title, filter(None, [roles.labels]))]
        measured = map(title, (*roles.localization, roles.severity))
        self.measured = list(dict.fromkeys(measured))
        beside = configuration.generated and data and "covid19" in readers.find(data)
        self.real = ["covid19"] if beside else []
        names = (title(roles.detector), *self.pairs, *self.measured, *self.real)
        self.names = tuple(dict.fromkeys(names))
        tables = (self._read, self.decoded, self.records, self.pixels, self.true_boxes)
        for method in (*tables, self.phrases):
            setattr(self, method.__name__, cache(method))  # once per data set

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the data sets of the preset; a generated preset makes it."""
        if not self.preset.generated:
            return self.data

        def make(folder: Path, _: str) -> None:
            from phantoms import PhantomSize, generate

            shutil.rmtree(folder / "data", ignore_errors=True)
            size = PhantomSize(variants=self.preset.variants, **dict(self.preset.sizes))
            generate(folder / "data", size, self.seed)

        inputs = (self.preset.variants, self.preset.sizes, self.seed)
        stage = self.cache.stage("generate", *inputs, make=make, code=("phantoms",))
        return stage[0] / "data"

    # Images, boxes and texts -------------------------------------------------------------------

    def readers(self) -> dict[str, Callable[[], Records]]:
        """A reader for each set of this run, and for each other set in the data folder."""
        names = [*self.names, *(readers.find(self.data) if self.data else ())]
        reads = {name: partial(self._read, name) for name in dict.fromkeys(names)}
        corpus = openi.place(self.data)
        if corpus or self.preset.roles.texts == "openi":
            reads["openi"] = partial(openi.read, corpus)
        return reads

    def _home(self, name: str) -> Path:
        """The folder that holds the folder of a set, beside those of others."""
        return self.folder if name.startswith("demo-") else self.data

    def place(self, name: str) -> Path:
        """The folder of a set."""
        return self._home(name) / readers.FOLDERS[name.removeprefix("demo-")]

    def _read(self, name: str) -> Records:
        """A set as it lies on disk."""
        role = name.removeprefix("demo-")
        return readers.read_all(self._home(name), [role])[role]

    def _trees(self, name: str) -> list[str]:
        """Digests of the folders that a set is read from."""
        folders = readers.related(name.removeprefix("demo-"))
        return [tree_digest(self._home(name) / folder) for folder in folders]

    @cached_property
    def test_patients(self) -> frozenset[str]:
        """Patients of the test images of `measured` sets: no training image may be theirs."""
        tested = [self._read(name).split("test")["patient"] for name in self.measured]
        return frozenset().union(*tested)

    @cached_property
    def test_thumbnails(self) -> np.ndarray:
        """Thumbnails uint8 [N, 32, 32] of those images: no training image may be one of them."""
        names = self.measured

        def make(folder: Path, _: str) -> None:
            parts = []
            for name in names:
                images, task = self._read(name).split("test"), f"look at the test images of {name}"
                parts.append(duplicates.thumbnails(images, task)[0])
            thumbnails = {"thumbnails": torch.from_numpy(np.concatenate(parts))}
            save_tensors(folder / "thumbnails.safetensors", thumbnails)

        trees = [self._trees(name) for name in names]
        code = (readers.read_all, duplicates.thumbnails)
        folder, _ = self.cache.stage("test-thumbnails", names, trees, make=make, code=code)
        return load_tensors(folder / "thumbnails.safetensors")["thumbnails"].numpy()

    def decoded(self, name: str) -> tuple[Path, str]:
        """The folder of a set's decoded images and tables, and a digest of its contents.

        If other code makes the same images and tables, nothing downstream changes.
        """
        side = self.preset.detector.side
        tested = (sorted(self.test_patients), digest(self.test_thumbnails.tobytes().hex()))

        def make(folder: Path, _: str) -> dict:
            records = self._read(name)
            before = len(records.images)
            records = drop_patients(records, self.test_patients, keep_split="test")
            records.counts["dropped_for_leak"] = before - len(records.images)
            with decode.scratch(folder, before, side) as room:
                records, pixels = decode.decode(records, side, room)
                records, pixels = duplicates.drop_twins(records, pixels, self.test_thumbnails)
                save_tensors(folder / "pixels.safetensors", {"pixels": torch.from_numpy(pixels)})
                images = records.images.drop(columns="path")
                data = data_digest(pixels, images, records.boxes, records.reports)
            for table in TABLES:
                write_table(folder / f"{table}.parquet", getattr(records, table))
            facts = {fact: getattr(records, fact) for fact in FACTS}
            write_json(folder / "facts.json", {**facts, "name": name, "data": data})
            return {"data": data}

        inputs = (name, side, self._trees(name), *tested)
        code = (readers.read_all, decode.decode, duplicates.drop_twins)
        folder, _ = self.cache.stage(f"decode-{name}", *inputs, make=make, code=code)
        return folder, digest(name, read_json(folder / "facts.json")["data"])

    def records(self, name: str) -> Records:
        """A set, decoded and free of leaks; the rows of `images` are those of `pixels`.

        No training or validation image is of a test patient of any set, or of a patient one of
        whose images is, by content, a test image. Files that cannot be decoded are in `quarantine`.
        """
        folder, _ = self.decoded(name)
        facts = read_json(folder / "facts.json")
        tables = {table: pd.read_parquet(folder / f"{table}.parquet") for table in TABLES}
        return Records(**{fact: facts[fact] for fact in FACTS}, **tables)

    def pixels(self, name: str) -> np.ndarray:
        """Images uint8 [N, S, S] of a set, padded to squares: a memory map."""
        pixels = load_tensors(self.decoded(name)[0] / "pixels.safetensors")["pixels"].numpy()
        return access.tag(pixels, self.records(name).access)

    def rows(self, name: str, *splits: str) -> np.ndarray:
        """Row numbers of a set's images in any of the splits."""
        return np.flatnonzero(self.records(name).images["split"].isin(splits))

    def letterboxes(self, images: pd.DataFrame) -> list[Letterbox]:
        """The transform of each image row from its own pixels to the square input."""
        sizes = images[["width", "height"]].to_numpy(int).tolist()
        return [Letterbox(*size, self.preset.detector.side) for size in sizes]

    def true_boxes(self, name: str, labels: frozenset[str] | None = None) -> list[np.ndarray]:
        """Boxes [n, 4] per image of a set, in pixels of the square input, with these labels."""
        records = self.records(name)
        boxes = records.boxes if labels is None else records.boxes.query("label in @labels")
        corners = boxes[["x1", "y1", "x2", "y2"]].to_numpy(float)
        rows = boxes.groupby("image").indices
        images = zip(records.images["image"], self.letterboxes(records.images), strict=True)
        return [box.boxes(corners[rows.get(image, [])]) for image, box in images]

    def texts(self, name: str) -> list[str]:
        """The report of each image of a set, '' for none."""
        records = self.records(name)
        texts = (access.tag(text, records.access) for text in records.reports["text"])
        by_study = dict(zip(records.reports["study"], texts, strict=True))
        return [by_study.get(study, "") for study in records.images["study"]]

    def may_show(self, name: str) -> bool:
        """Whether a page may show any image or report text of a set.

        Never those of a credentialed set, nor of a real set whose licence differs from image to
        image (`credits`).
        """
        return self.records(name).access != "credentialed" and name not in BY_IMAGE

    def credits(self, name: str) -> pd.DataFrame:
        """Whether a page may show each image of a set, by name, and the credit to print with it."""
        records = self.records(name)
        images = records.images["image"]
        if name in BY_IMAGE and records.access != "credentialed":
            sources = BY_IMAGE[name](self.place(name))
            return sources.set_index("image")[["shown", "credit"]].reindex(images)
        credit = images + (", generated" if records.access == "generated" else "")
        return pd.DataFrame({"shown": self.may_show(name), "credit": credit}).set_index(images)

    # Contents of reports -----------------------------------------------------------------------

    @cached_property
    def words_stage(self) -> tuple[Path, str]:
        """Word vectors and sentence model of the training reports and the preset's open texts."""
        config, corpus = self.preset.words, openi.place(self.data)

        def make(folder: Path, _: str) -> None:
            pairs = ((self.texts(name), self.rows(name, "train")) for name in self.pairs)
            training = {texts[row] for texts, rows in pairs for row in rows if texts[row]}
            if self.preset.roles.texts:
                training |= set(openi.read(corpus).reports["text"])
            splitter = sentences.train(sorted(training))
            splitter.save(folder / "sentences.json")
            lists = [reports.tokens(s) for text in sorted(training) for s in splitter(text)]
            vectors = words.train(lists, size=config.size, epochs=config.epochs, seed=self.seed)
            vectors.save(folder / "words.safetensors")

        tree = tree_digest(corpus) if corpus else ""
        decoded = [self.decoded(name)[1] for name in self.pairs]
        inputs = (config, decoded, self.preset.roles.texts, tree, self.seed)
        code = (words.train, sentences.train, reports.tokens, openi.read)
        return self.cache.stage("words", *inputs, make=make, code=code)

    @cached_property
    def vectors(self) -> words.WordVectors:
        """The word2vec vectors."""
        return words.WordVectors.load(self.words_stage[0] / "words.safetensors")

    @cached_property
    def splitter(self) -> sentences.Splitter:
        """The sentence model."""
        return sentences.Splitter.load(self.words_stage[0] / "sentences.json")

    def supervision(
        self, name: str, change: Callable[[str], str] = str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words [N, W], labels [N, A], weights [N, A] of a set, its reports changed by `change`."""
        texts = [change(text) for text in self.texts(name)]
        own = self.records(name).images["label"].to_numpy(float)
        return supervise(texts, own, self.splitter, self.vectors, self.preset.words.most)

    def phrases(self, name: str) -> np.ndarray:
        """Places [N, P, 6] of the opacities that each report of a set asserts."""
        places = [phrases.asserted_places(text, self.splitter) for text in self.texts(name)]
        return phrases.padded(places)
