"""Studies as the explorer shows them: one image with what each way of looking makes of its regions, and its report where it has one.

`gather` takes them from a run, `read` from an image file of one's own. Everything that is drawn later is computed here, once.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from pnloc import access, reports
from pnloc.baselines import heatmaps
from pnloc.evaluation.severity import box_area, expected_severity
from pnloc.files import read_csv
from pnloc.images import Letterbox, load
from pnloc.localizer import Choice, Localizer, make_batch
from pnloc.regions import Regions
from pnloc.reports.phrases import PLACES, Phrase, padded, phrases
from pnloc.run import evidence
from pnloc.run import predictions as predict
from pnloc.run.run import Run
from pnloc.training import pad_words

if TYPE_CHECKING:
    from pnloc.baselines.classifier import Classifier
    from pnloc.reports.sentences import Splitter

SHOWN_SIDE = 384  # pixels of the picture that is shown, at the most
# Ways of looking -> the method of the tables whose choice on validation images the controls start from.
SOURCES = {
    "word": "report-given",
    "attribute": "text-attention",
    "cam": "grad-cam",
    "detector": "detector",
}
Starts = dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Study:
    """One study: R regions, W words of the sentences that assert an opacity, P phrases, A attributes.

    image uint8 [T, T] is shown; boxes [R, 4] and truth [n, 4] are in pixels of the `side` x `side` input. `spans` [W] say where the words
    stand in the report (-1, -1: nowhere). alpha [W, R], gamma [P, R], beta [A, R] are attentions, heat [S, S] is Grad-CAM's map, or None.
    `shown`: whether a page may show it; `credit` is the line that then stands beside it.
    """

    name: str
    image: np.ndarray
    side: int
    boxes: np.ndarray
    scores: np.ndarray
    beta: np.ndarray
    probabilities: np.ndarray
    heat: np.ndarray | None = None
    report: str = ""
    words: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    alpha: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    phrases: list[str] = field(default_factory=list)
    gamma: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    truth: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    credit: str = ""
    shown: bool = False

    @property
    def zoom(self) -> float:
        """Pixels of the picture that is shown per pixel of the input."""
        return self.image.shape[-1] / self.side

    def mass(self, source: str, item: int = 0) -> np.ndarray:
        """Weights [R] of a 'word', 'phrase' or 'attribute'; or the 'detector' scores, to a sum of one."""
        if source == "detector":
            return self.scores / max(float(self.scores.sum()), 1e-9)
        return {"word": self.alpha, "phrase": self.gamma, "attribute": self.beta}[source][item]


def examples(run: Run, most: int = 6) -> tuple[str, list[int]]:
    """A set that a page may show and the rows of its first test studies with a true box; of the pairs, only those whose report asserts an opacity.

    ('', []) where no set may be shown or has a box.
    """
    for name in dict.fromkeys((run.sets.pairs, *run.sets.names)):
        rows = evidence.boxed_rows(run, name, "test") if run.sets.may_show(name) else []
        if len(rows):
            said = [
                row for row in rows if name != run.sets.pairs or run.sets.phrases(name)[row].any()
            ]
            return name, [int(row) for row in (said or rows)[:most]]
    return "", []


def typical_row(run: Run) -> int | None:
    """The pairs' test study at the median of text attention's union IoU, by its row number.

    Among those whose report asserts an opacity; the first of them where the pairs have no boxes. None
    where there is none, or none may be shown.
    """
    name = run.sets.pairs
    boxed = "text-attention" in predict.saved_predictions(run, name)
    ranked = predict.ranked(run, name, "text-attention") if boxed else []
    rows, texts = [row for row, _, _ in ranked], run.sets.texts(name)
    rows = rows or run.sets.rows(name, "test").tolist()
    rows = [row for row in rows if reports.asserting_words(texts[row], run.sets.splitter)]
    if not rows or not run.sets.may_show(name) or not run.sets.may_show_text(name):
        return None
    return rows[len(rows) // 2 if ranked else 0]


def gather(run: Run, name: str, rows: list[int]) -> list[Study]:
    """Some image rows of a set of a run as studies; none for no rows."""
    if not rows:
        return []
    regions, images = run.regions(name).rows(rows), run.sets.records(name).images.iloc[rows]
    texts = [run.sets.texts(name)[row] for row in rows]
    words = [
        reports.asserting_words(text, run.sets.splitter)[: run.preset.words.most] for text in texts
    ]
    said = [distinct(phrases(text, run.sets.splitter)) for text in texts]
    places = padded(
        [np.array([p.cells for p in s], dtype=np.float32).reshape(-1, len(PLACES)) for s in said]
    )
    model, _ = run.localizer(True)
    indices = pad_words([run.sets.vectors.index(w) for w in words], run.preset.words.most)
    batch, side = make_batch(regions, indices, places), run.preset.detector.side
    with (
        torch.no_grad()
    ):  # around the model alone: a stage that is made on the way may have to train
        beta, logits = model.image_only(batch)
        seen = (
            model.text_attention(batch),
            model.phrase_attention(batch)[0],
            beta,
            torch.sigmoid(logits),
        )
    alpha, gamma, beta, chances = (t.cpu().numpy() for t in seen)
    layer = choices(run).loc[SOURCES["cam"], "layer"]
    heat = grad_cam(run.classifier, run.sets.pixels(name)[rows], str(int(layer)))
    truth, credits = evidence.pneumonia_boxes(run, name), run.sets.credits(name)
    found, kind = [], run.sets.records(name).access
    for k, (row, image) in enumerate(zip(rows, images.itertuples(), strict=True)):
        n = int(regions.valid[k].sum())
        found.append(
            Study(
                image.image,
                access.tag(
                    load(image.path, min(SHOWN_SIDE, max(image.width, image.height)))[0], kind
                ),
                side,
                *_seen(regions, k),
                beta[k, :, :n],
                chances[k],
                heat[k],
                texts[k],
                words[k],
                spans(texts[k], words[k], run.sets.splitter),
                alpha[k, : len(words[k]), :n],
                [p.text for p in said[k]],
                gamma[k, : len(said[k]), :n],
                truth[row],
                str(credits.loc[image.image, "credit"]),
                bool(credits.loc[image.image, "shown"]),
            )
        )
    return found


def read(
    path: str | Path,
    localizer: Localizer,
    classifier: "Classifier | None" = None,
    layer: str = "16",
) -> tuple[Study, pd.DataFrame, pd.Series]:
    """An image file as a study that no page may show, its boxes and its attributes as `localizer` gives them.

    Raises PnlocError, naming the file, where it cannot be read.
    """
    seen = localizer.propose(path)
    regions, letterbox = seen.regions, seen.letterbox
    with torch.no_grad():
        beta = localizer.model.image_only(make_batch(regions))[0].cpu().numpy()
    boxes, attributes = localizer(seen)
    heat = None if classifier is None else grad_cam(classifier, seen.picture[None], layer)[0]
    larger = load(path, min(SHOWN_SIDE, max(letterbox.width, letterbox.height)))[0]
    n = int(regions.valid[0].sum())
    study = Study(
        Path(path).name,
        larger,
        len(seen.picture),
        *_seen(regions, 0),
        beta[0, :, :n],
        attributes.to_numpy(float),
        heat,
    )
    return study, boxes, attributes


def severity(
    boxes: pd.DataFrame, attributes: pd.Series, letterbox: Letterbox
) -> tuple[float, float]:
    """Expected grade, 0 to 3, and the share of the picture that the boxes cover, each times its score (pnloc.evaluation.severity)."""
    size = pd.DataFrame({"image": [""], "width": [letterbox.width], "height": [letterbox.height]})
    return float(expected_severity(attributes.to_frame().T).iloc[0]), float(
        box_area(boxes.assign(image=""), size).iloc[0]
    )


def distinct(found: list[Phrase]) -> list[Phrase]:
    """The asserted phrases of a report, each once: an impression repeats its findings."""
    kept: dict[tuple, Phrase] = {}
    for phrase in found:
        if phrase.asserted:
            kept.setdefault((phrase.text.lower(), phrase.cells), phrase)
    return list(kept.values())


def grad_cam(classifier: "Classifier", images: np.ndarray, layer: str) -> np.ndarray:
    """Grad-CAM's maps [N, S, S] of uint8 images [N, S, S]."""
    return heatmaps.grad_cam(classifier, images, layer)


@lru_cache(4)
def choices(run: Run) -> pd.DataFrame:
    """What each method was set to on validation images, by method: share, most, rule, layer (pnloc.run.predictions.predict)."""
    predict.predict(run)
    return read_csv(run.root / "tables" / "choices.csv").set_index("method")


def starts(run: Run) -> Starts:
    """Threshold and number of boxes that each way of looking was set to on validation images, those of `Choice` where its rule has none."""
    table, usual = choices(run), Choice()
    found = {}
    for source, method in SOURCES.items():
        share, most = table.loc[method, ["share", "most"]].astype(float)
        found[source] = (
            (share, int(most)) if np.isfinite([share, most]).all() else (usual.share, usual.most)
        )
    return found


def spans(text: str, words: list[str], splitter: "Splitter | None" = None) -> list[tuple[int, int]]:
    """Start and end in a report of each of the first `words` of its asserting sentences; (-1, -1) for one that is not found."""
    lowered, at, places = "".join(c.lower()[:1] for c in text), 0, []  # as long as the text
    tokens = reports.tokens(text)
    for token in tokens:  # what lies between tokens has no letter, digit or underscore, so the next hit is the token itself
        start = lowered.find(token, at)
        at = start + len(token)
        places.append((start, at))
    found: list[tuple[int, int]] = []
    sentences = {f.sentence: f for f in reports.findings(text, splitter) if f.current}
    for number in sorted(sentences):
        finding = sentences[number]
        first = next((i for i, (_, end) in enumerate(places) if end > finding.span[0]), 0)
        size = len(finding.words)
        begins = [
            k
            for k in range(first, first - size, -1)
            if k >= 0 and tuple(tokens[k : k + size]) == finding.words
        ]
        found += places[begins[0] : begins[0] + size] if begins else [(-1, -1)] * size
    return found[: len(words)]


def _seen(regions: Regions, row: int) -> tuple[np.ndarray, np.ndarray]:
    n = int(regions.valid[row].sum())
    return regions.boxes[row, :n].numpy().astype(float), regions.scores[row, :n].numpy()
