"""The input of a method (`Images`) and the four forms of its evidence for a pneumonia.

    Fixed       boxes without scores: there is nothing to choose
    Heat        heat maps: layer, rule, threshold and number of boxes are chosen
    Ranking     attention over the proposals: threshold and number of boxes are chosen
    Detections  a detector's own boxes: threshold and number of boxes are chosen

Predictions are boxes [n, 4], in pixels of the square input, and scores [n] per image, best first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import pandas as pd

from pnloc.baselines import heatmaps, priors
from pnloc.baselines.heatmaps import HeatChoice
from pnloc.boxes import as_boxes, union_iou
from pnloc.files import read_csv
from pnloc.localizer import Boxes, Choice, boxes_of, rank_regions
from pnloc.regions import Regions
from pnloc.run.run import Run

OPACITIES = frozenset({"Pneumonia", "Consolidation", "Lung Opacity"})
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)  # relative thresholds that are tried
MOST = (1, 2, 3, 4)  # maximum numbers of boxes that are tried


def pneumonia_labels(name: str) -> frozenset[str] | None:
    """The labels of a set's boxes that count as a pneumonia; None where all do, as in RSNA."""
    names = {"rsna": None, "chestxray8": frozenset({"Pneumonia"})}
    return names.get(name.removeprefix("demo-"), OPACITIES)


def pneumonia_boxes(run: Run, name: str) -> list[np.ndarray]:
    """True boxes [n, 4] of a pneumonia per image of a set, in pixels of the square input."""
    return run.sets.true_boxes(name, pneumonia_labels(name))


def boxed_rows(run: Run, name: str, split: str) -> np.ndarray:
    """Row numbers of the images of a split that have a box of a pneumonia."""
    truth = pneumonia_boxes(run, name)
    return np.array([row for row in run.sets.rows(name, split) if len(truth[row])], dtype=int)


def generated_truth(run: Run, name: str) -> pd.DataFrame:
    """The generator's truth of a generated set, by image: opacities, others, boxes, severity."""
    columns = ["set", "image", "opacities", "others", "boxes", "severity"]
    truth = read_csv(run.sets.folder / "truth.csv", columns, dtype=str, keep_default_na=False)
    return truth[truth["set"] == name.removeprefix("demo-")].set_index("image")


def parsed_boxes(text: str) -> np.ndarray:
    """The boxes [n, 4] of 'x1 y1 x2 y2;...', in pixels of their image."""
    return as_boxes([box.split() for box in text.split(";") if box])


@dataclass(frozen=True)
class Images:
    """n images of one of a run's sets, by row number."""

    run: Run
    name: str
    rows: np.ndarray

    @property
    def side(self) -> int:
        """S, the side of the square input."""
        return self.run.preset.detector.side

    @property
    def pixels(self) -> np.ndarray:
        """The pixels of the images, uint8 [n, S, S]."""
        return self.run.sets.pixels(self.name)[self.rows]

    @cached_property
    def regions(self) -> Regions:
        """The detector's proposals."""
        return self.run.regions(self.name).rows(self.rows)

    @property
    def truth(self) -> list[np.ndarray]:
        """True boxes [n, 4] of a pneumonia per image, in pixels of the square input."""
        return [pneumonia_boxes(self.run, self.name)[row] for row in self.rows]

    @property
    def has_reports(self) -> bool:
        """Whether these images have reports of their own."""
        return self.name in self.run.sets.pairs

    @property
    def phrases(self) -> np.ndarray:
        """Places [n, P, 6] asserted by the reports."""
        return self.run.sets.phrases(self.name)[self.rows]

    @cached_property
    def training_boxes(self) -> np.ndarray:
        """The detector's training boxes [M, 4], relative to their images."""
        records = self.run.sets.records(self.run.title(self.run.preset.roles.detector))
        return priors.training_boxes(records.images, records.boxes)

    def place(self, boxes: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
        """Relative boxes [n, 4], the same for all images or a list per image, in input pixels."""
        table = self.run.sets.records(self.name).images.iloc[self.rows]
        boxes = boxes if isinstance(boxes, list) else [boxes] * len(table)
        pairs = zip(self.run.sets.letterboxes(table), boxes, strict=True)
        return [box.boxes(as_boxes(b) * np.tile([box.width, box.height], 2)) for box, b in pairs]


class Evidence(ABC):
    """A method's evidence on n images, before the number of its boxes is chosen."""

    def choose(self, truth: list[np.ndarray]) -> tuple[Choice | HeatChoice | None, float]:
        """The choice with the greatest mean union IoU with the true boxes, and that IoU.

        Without images a default and NaN; None and NaN where there is nothing to choose.
        """
        return None, float("nan")

    @abstractmethod
    def predictions(self, choice: Choice | HeatChoice | None) -> Boxes:
        """Boxes and scores per image."""

    def heat(self, choice: Choice | HeatChoice | None, number: int) -> np.ndarray | None:
        """The heat map [S, S] of one of the images, or None for a method without maps."""
        return None


@dataclass(frozen=True)
class Fixed(Evidence):
    """Boxes [n, 4] per image; each scores 1."""

    boxes: list[np.ndarray]

    def predictions(self, choice: None) -> Boxes:
        return [(boxes, np.ones(len(boxes))) for boxes in self.boxes]


@dataclass(frozen=True)
class Detections(Evidence):
    """Predictions whose scores are probabilities."""

    boxes: Boxes

    def choose(self, truth: list[np.ndarray]) -> tuple[Choice, float]:
        return best_of(self.boxes, truth)

    def predictions(self, choice: Choice) -> Boxes:
        result = []
        for boxes, scores in self.boxes:
            rows = np.flatnonzero(scores >= choice.share * scores.max(initial=0.0))[: choice.most]
            result.append((boxes[rows], scores[rows]))
        return result


@dataclass(frozen=True)
class Ranking(Evidence):
    """Attention over the regions [n, R], and the probability [n] of a pneumonia.

    `scores` [n, R] rank the regions, by default as the attention does. A box's score is its share
    of the best score of the image, times the probability. The heat map shows at each place the
    attention of the regions over it.
    """

    regions: Regions
    attention: np.ndarray
    probability: np.ndarray
    grouped: bool = True
    scores: np.ndarray | None = None

    def ranks(self) -> np.ndarray:
        """The scores that rank the regions [n, R]."""
        if self.scores is not None:
            return self.scores
        return rank_regions(self.regions, self.attention, self.grouped)

    def choose(self, truth: list[np.ndarray]) -> tuple[Choice, float]:
        first = Choice(0.0, max(MOST), self.grouped)
        return best_of(boxes_of(self.regions, self.ranks(), first), truth, self.grouped)

    def predictions(self, choice: Choice) -> Boxes:
        return scaled(boxes_of(self.regions, self.ranks(), choice), self.probability)

    def heat(self, choice: Choice, number: int) -> np.ndarray:
        side = 8 * self.regions.mask.shape[-1]
        boxes = self.regions.boxes[number].numpy() / side
        return heatmaps.coverage(boxes, self.attention[number], side)


@dataclass(frozen=True)
class Heat(Evidence):
    """Heat maps, for each of several layers.

    draw: layer -> maps [n, S, S]; finish: boxes and values of the maps -> predictions; shown: layer
    and number of an image -> the map that is displayed, by default the same.
    """

    layers: tuple[str, ...]
    draw: Callable[[str], np.ndarray]
    finish: Callable[[Boxes], Boxes]
    shown: Callable[[str, int], np.ndarray] | None = None

    def choose(self, truth: list[np.ndarray]) -> tuple[HeatChoice, float]:
        best, value = HeatChoice(self.layers[0]), float("nan")
        for layer in self.layers if truth else ():
            for choice, boxes in heatmaps.every_choice(self.draw(layer), layer):
                union = unions(self.finish(boxes), truth).mean()
                if not union <= value:
                    best, value = choice, float(union)
        return best, value

    def predictions(self, choice: HeatChoice) -> Boxes:
        return self.finish([heatmaps.boxes_of(heat, choice) for heat in self.draw(choice.layer)])

    def heat(self, choice: HeatChoice, number: int) -> np.ndarray:
        if self.shown:
            return self.shown(choice.layer, number)
        return self.draw(choice.layer)[number]


def best_of(
    candidates: Boxes, truth: list[np.ndarray], grouped: bool = True
) -> tuple[Choice, float]:
    """The choice with the greatest mean union IoU with the true boxes of N images, and that IoU.

    candidates: ranked boxes of each image, of which a choice keeps the first few. Without images a
    default and NaN.
    """
    if not truth:
        return Choice(grouped=grouped), float("nan")
    choices = [Choice(share, most, grouped) for share, most in product(SHARES, MOST)]
    values = np.zeros((len(candidates), len(choices)))
    for row, ((boxes, own), true) in enumerate(zip(candidates, truth, strict=True)):
        overlaps = [union_iou(boxes[:n], true) for n in range(min(len(boxes), max(MOST)) + 1)]
        least = own.max(initial=0.0)
        values[row] = [overlaps[min(c.most, (own >= c.share * least).sum())] for c in choices]
    means = values.mean(0)
    return choices[int(np.argmax(means))], float(means.max())


def unions(predictions: Boxes, truth: list[np.ndarray]) -> np.ndarray:
    """IoU [n] of the unions of predicted and true boxes, per image."""
    pairs = zip(predictions, truth, strict=True)
    return np.array([union_iou(boxes, true) for (boxes, _), true in pairs])


def scaled(predictions: Boxes, probability: np.ndarray) -> Boxes:
    """The same boxes; each score is its share of the image's best, times a probability [n]."""
    pairs = zip(predictions, probability, strict=True)
    return [(boxes, s / max(s.max(initial=0.0), 1e-12) * p) for (boxes, s), p in pairs]
