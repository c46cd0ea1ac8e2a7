"""Studies as the explorer shows them: an image, its regions, and what attends to them.

`gather` takes studies from a run, `Viewer.read` makes one from an image file. Everything that is
drawn later is computed here.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pnloc import access, reports
from pnloc.baselines import heatmaps
from pnloc.baselines.classifier import Classifier
from pnloc.config import WordConfig
from pnloc.evaluation.severity import LEVELS, expected_severity
from pnloc.files import read_csv
from pnloc.images import Letterbox, load
from pnloc.localizer import Choice, Localizer, Proposals, make_batch
from pnloc.model import PLACES, PNEUMONIA
from pnloc.reports.findings import asserting_words
from pnloc.reports.phrases import Phrase, phrases
from pnloc.reports.sentences import Splitter
from pnloc.reports.words import WordVectors
from pnloc.run import evidence, predictions, results
from pnloc.run.methods import CLASSIFIER, trained
from pnloc.run.run import Run
from pnloc.run.sets import NAMES

SHOWN_SIDE = 384  # largest side of the image that is shown, in pixels
# Sources of attention -> the method whose choice on validation images the controls start from.
SOURCES = dict(word="report-given", attribute="text-attention", cam="grad-cam", detector="detector")
Starts = dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Item:
    """A word, phrase or attribute, or the detector, with its attention `mass` [R] over regions.

    start, end: of a word in the report, -1 if not located; probability: of an attribute, None for
    the `reason` that pnloc.localizer.Experience gives.
    """

    label: str
    mass: np.ndarray
    start: int = -1
    end: int = -1
    probability: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Study:
    """An image uint8 [T, T], its R regions, and what attends to them.

    boxes [R, 4], scores [R] (the detector's) and truth [n, 4] are in pixels of the `side` x `side`
    input; heat [S, S] is Grad-CAM's map. `shown`: whether a page may show the study, with `credit`.
    `reading` of one's own image: width, height, grade (None if not supported) and share of
    severity, boxes in its pixels. `warning`: why the numbers cannot be relied on, if so.
    """

    name: str
    image: np.ndarray
    side: int
    boxes: np.ndarray
    scores: np.ndarray
    attributes: list[Item]
    heat: np.ndarray
    report: str = ""
    words: list[Item] = field(default_factory=list)
    phrases: list[Item] = field(default_factory=list)
    truth: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    credit: str = ""
    shown: bool = False
    reading: dict | None = None
    warning: str = ""

    @property
    def zoom(self) -> float:
        """Pixels of the shown image per pixel of the input."""
        return self.image.shape[-1] / self.side

    @property
    def detector(self) -> Item:
        """The detector's scores, normalised to sum to 1."""
        return Item("detector", self.scores / max(float(self.scores.sum()), 1e-9))

    def likely(self, most: int) -> dict[str, Item]:
        """The attributes of greatest probability, by name and number; those without come last."""
        ranked = sorted(self.attributes, key=lambda item: -(item.probability or 0.0))[:most]
        numbers = ["" if i.probability is None else f": {i.probability:.2f}" for i in ranked]
        return {i.label + number: i for i, number in zip(ranked, numbers, strict=True)}


@dataclass(frozen=True)
class Viewer:
    """What makes a study of an image: localizer, word vectors, and a classifier for Grad-CAM."""

    localizer: Localizer
    vectors: WordVectors
    classifier: Classifier
    layer: str = "16"
    splitter: Splitter | None = None

    def study(
        self, name: str, proposals: Proposals, image: np.ndarray, report: str = "", **facts: object
    ) -> Study:
        """A study of an image's proposals; `facts` are further fields of it."""
        regions, model = proposals.regions, self.localizer.model
        n = int(regions.valid[0].sum())
        words = asserting_words(report, self.splitter)[: WordConfig.most]
        asserted = distinct(phrases(report, self.splitter))
        cells = np.array([p.cells for p in asserted], np.float32).reshape(1, -1, len(PLACES))
        batch = make_batch(regions, self.vectors.index(words)[None], cells)
        with torch.no_grad():
            beta, logits = model.image_only(batch)
            attention = model.text_attention(batch), model.phrase_attention(batch)[0], beta
        alpha, gamma, beta = (a[0, :, :n].cpu().numpy() for a in attention)
        chances = torch.sigmoid(logits[0]).cpu().numpy()
        named = self.localizer.experience.attributes(NAMES, chances)
        rows = zip(named.itertuples(index=False), beta, strict=True)
        located = zip(words, alpha, spans(report, words, self.splitter), strict=True)
        facts["attributes"] = [
            Item(name, b, probability=None if reason else p, reason=reason)
            for (name, p, reason), b in rows
        ]
        facts["warning"] = self.localizer.unlike(proposals)
        facts["words"] = [Item(word, a, *place) for word, a, place in located]
        facts["phrases"] = [Item(p.text, a) for p, a in zip(asserted, gamma, strict=True)]
        facts["heat"] = heatmaps.grad_cam(self.classifier, proposals.picture[None], self.layer)[0]
        boxes, scores = regions.boxes[0, :n].numpy().astype(float), regions.scores[0, :n].numpy()
        side = len(proposals.picture)
        return Study(name, image, side, boxes, scores, report=report, **facts)

    def read(self, path: str | Path) -> Study:
        """An image file as a study that no page may show, with its `reading` by the localizer.

        Raises PnlocError, naming the file, if it cannot be read.
        """
        proposals = self.localizer.propose(path)
        boxes, attributes = self.localizer.read([proposals])[0]
        size = {"width": proposals.letterbox.width, "height": proposals.letterbox.height}
        sizes = pd.DataFrame([{"image": "", **size}])
        named = attributes.set_index("attribute")[["probability"]].T
        supported = named[[PNEUMONIA, *LEVELS]].notna().all(axis=None)
        reading = size | {
            "grade": float(expected_severity(named).iloc[0]) if supported else None,
            "share": float(box_area(boxes.assign(image=""), sizes).iloc[0]),
            "boxes": boxes.to_numpy(float).round(3).tolist(),
        }
        shown = _shown(path, proposals.letterbox)
        return self.study(Path(path).name, proposals, shown, reading=reading)


def viewer(run: Run) -> Viewer:
    """The models of a run."""
    layer, sets = str(int(choices(run).loc[SOURCES["cam"], "layer"])), run.sets
    classifier = trained(run, CLASSIFIER)
    return Viewer(results.checkpoint(run), sets.vectors, classifier, layer, sets.splitter)


def box_area(predictions: pd.DataFrame, sizes: pd.DataFrame) -> pd.Series:
    """Sum over an image's boxes of score times the box's share of the picture; 0 without boxes.

    predictions: image, x1, y1, x2, y2, score; sizes: image, width, height in the same pixels.
    """
    table = predictions.merge(sizes, on="image")
    width, height = table["x2"] - table["x1"], table["y2"] - table["y1"]
    share = width * height / (table["width"] * table["height"])
    sums = (share * table["score"]).groupby(table["image"]).sum()
    return sums.reindex(sizes["image"], fill_value=0.0).astype(float)


def examples(run: Run, most: int = 6) -> tuple[str, list[int]]:
    """A set that a page may show, and the rows of its first test studies with a true box.

    Of the image-report pairs only studies whose report asserts an opacity. ('', []) without any.
    """
    for name in dict.fromkeys((*run.sets.pairs, *run.sets.names)):
        rows = evidence.boxed_rows(run, name, "test") if run.sets.may_show(name) else []
        if len(rows):
            paired = name in run.sets.pairs
            asserting = [row for row in rows if not paired or run.sets.phrases(name)[row].any()]
            return name, [int(row) for row in (asserting or rows)[:most]]
    return "", []


def gather(run: Run, name: str, rows: list[int]) -> list[Study]:
    """The studies in some image rows of one of a run's sets."""
    if not rows:
        return []
    sets, models, studies = run.sets, viewer(run), []
    records, credits = sets.records(name), sets.credits(name)
    truth = evidence.pneumonia_boxes(run, name)
    images = records.images.iloc[rows]
    three = zip(rows, sets.letterboxes(images), images.itertuples(), strict=True)
    for row, letterbox, image in three:
        proposals = Proposals(sets.pixels(name)[row], run.regions(name).rows([row]), letterbox)
        shown = access.tag(_shown(image.path, letterbox), records.access)
        facts = {"truth": truth[row], **credits.loc[image.image, ["credit", "shown"]]}
        studies.append(models.study(image.image, proposals, shown, sets.texts(name)[row], **facts))
    return studies


def _shown(path: str | Path, letterbox: Letterbox) -> np.ndarray:
    """The image in the size in which it is shown."""
    return load(path, min(SHOWN_SIDE, max(letterbox.width, letterbox.height)))[0]


def distinct(mentions: list[Phrase]) -> list[Phrase]:
    """The asserted phrases of a report, each once: an impression repeats its findings."""
    unique: dict[tuple, Phrase] = {}
    for phrase in mentions:
        if phrase.asserted:
            unique.setdefault((phrase.text.lower(), phrase.cells), phrase)
    return list(unique.values())


@lru_cache(4)
def choices(run: Run) -> pd.DataFrame:
    """Each method's choice on validation images, by method: share, most, rule and layer."""
    predictions.predict(run)
    return read_csv(run.root / "tables" / "choices.csv").set_index("method")


def starts(run: Run) -> Starts:
    """Threshold and number of boxes that each source starts from; by default those of `Choice`."""
    table = choices(run).loc[list(SOURCES.values()), ["share", "most"]].astype(float)
    table[table.isna().any(axis=1)] = Choice.share, Choice.most
    rows = zip(SOURCES, table.to_numpy().tolist(), strict=True)
    return {source: (share, int(most)) for source, (share, most) in rows}


def spans(text: str, words: list[str], splitter: Splitter | None = None) -> list[tuple[int, int]]:
    """Start and end in a report of the first `words` of its asserting sentences, or (-1, -1)."""
    lowered = "".join(c.lower()[:1] for c in text)  # as long as the text
    sentences = {f.sentence: f for f in reports.findings(text, splitter) if f.current}
    places: list[tuple[int, int]] = []
    for _, finding in sorted(sentences.items()):
        pattern = r"[^a-z\d_]*".join(f"({re.escape(word)})" for word in finding.words)
        matches = re.finditer(pattern, lowered)
        match = next((m for m in matches if m.start() <= finding.span[0] < m.end()), None)
        numbers = range(1, len(finding.words) + 1)
        places += [match.span(k) if match else (-1, -1) for k in numbers]
    return places[: len(words)]
