"""The experiment: how many boxes is a report worth?

One network is trained with few to many boxed images: from these alone (`boxes`), with captioned
images and their image labels (`labels`), and with the places that their reports name (`text`). A
replicate has its own test patients, its own draw of boxed images and its own seed. Every training
and every prediction is a stage of the run (pnloc.run.cache); experiments.tables makes the tables.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

from experiments.plan import ALL, BOXES, CONTROLS, LABELS, LINES, SHUFFLED, SWAPPED, TEXT, Plan
from pnloc.baselines import heatmaps, priors
from pnloc.config import DetectorConfig
from pnloc.detector import Detector, zone_evidence
from pnloc.detector_training import Described, train_detector
from pnloc.evaluation.statistics import CORRELATIONS
from pnloc.files import read_csv, write_table
from pnloc.localizer import normalized_scores
from pnloc.model import PLACES
from pnloc.regions import Regions, extract
from pnloc.run import methods
from pnloc.run.cache import Trained
from pnloc.run.evidence import Detections, Evidence, Fixed, Heat, Images, Ranking, scaled
from pnloc.run.folds import home
from pnloc.run.predictions import boxes_table
from pnloc.run.run import Run
from pnloc.run.severity import lungs
from pnloc.run.severity.readouts import log_odds

SCORE = "geographic_extent"
FIXED, HEAT, LUNGS, CAM = "fixed boxes", "heat map of boxes", "whole lungs", "Grad-CAM"
CEILING = "best proposal"
FILES = ("choice", "boxes", "images", "severity")


@dataclass(frozen=True)
class Training:
    """One training: what it learns from, with how many boxed images, at which rate of learning."""

    line: str
    boxes: int
    rate: float

    @property
    def name(self) -> str:
        """The name of its stages, without the replicate."""
        number = "all" if self.boxes == ALL else self.boxes
        return f"{self.line.replace(' ', '-')}-{number}-rate-{self.rate:g}".replace(".", "")


@dataclass(frozen=True)
class Seen:
    """What a detector says of n images.

    regions of the images; maps [n, S, S] of places, None without such a head; zones [n, z, z].
    """

    regions: Regions
    maps: np.ndarray | None
    zones: np.ndarray

    def rows(self, rows: np.ndarray) -> "Seen":
        """Some of the images."""
        maps = None if self.maps is None else self.maps[rows]
        return Seen(self.regions.rows(rows), maps, self.zones[rows])

    def evidence(self, boxes: int, pooled: float) -> dict[str, Evidence]:
        """Every read-out of places; without a boxed image the map of places alone is trained."""
        side, chance = 8 * self.regions.mask.shape[-1], self.regions.image.numpy()
        finish, found = partial(scaled, probability=chance), {}
        if boxes:
            found["proposals"] = Ranking(self.regions, normalized_scores(self.regions), chance)
            masks = heatmaps.mask_maps(self.regions, side)
            found["mask"] = Heat(("",), lambda _: masks, finish)
        if self.maps is not None:
            found["map of places"] = Heat(("",), lambda _: self.maps, finish)
            found["zones"] = Detections(zone_boxes(self.maps, self.zones, pooled))
        return found

    def grades(self, boxes: int, here: lungs.Lungs) -> dict[str, np.ndarray]:
        """Every read-out of severity [n]; `here` are the lungs of the images."""
        values = {"image": log_odds(self.regions.image.numpy())}
        if boxes:
            values["mask in the lungs"] = here.mean(self.regions.mask.float().numpy())
        if self.maps is not None:
            values["map of places in the lungs"] = here.mean(self.maps[:, ::4, ::4])
        return values


def zone_boxes(maps: np.ndarray, zones: np.ndarray, pooled: float) -> list:
    """The zones of each image as boxes, and the evidence in each: [n, 4] and [n], best first.

    maps [N, S, S] of places; zones uint8 [N, z, z]. A zone that is not found gives no box.
    """
    coarse = torch.from_numpy(maps[:, ::4, ::4].copy())
    evidence, there = zone_evidence(coarse, torch.from_numpy(np.array(zones)), pooled)
    scale, result = maps.shape[-1] / zones.shape[-1], []
    for own, some, parts in zip(evidence.numpy(), there.numpy(), zones, strict=True):
        order = [k for k in np.argsort(-own, kind="stable") if some[k]]
        corners = np.zeros((len(order), 4))
        for row, kind in enumerate(order):
            y, x = np.nonzero(parts == 1 + kind)
            corners[row] = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) * scale
        result.append((corners, own[order].astype(float)))
    return result


class ImageHead(nn.Module):
    """A detector's score for the whole image, in the form that Grad-CAM explains."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector, self.body = detector, detector.backbone

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 1, S, S] -> logits [B, 1]."""
        return self.detector.heads(images).image[:, None]


@dataclass(frozen=True)
class Known(Images):
    """Images of the boxed set, for lines that know the boxes of the rows `drawn` alone."""

    drawn: tuple[int, ...] = ()

    @cached_property
    def training_boxes(self) -> np.ndarray:
        """The boxes [M, 4] of those rows, relative to their images."""
        records = self.run.sets.records(self.name)
        images = records.images.iloc[list(self.drawn)].assign(split="train")
        return priors.training_boxes(images, records.boxes)


# What reports say -------------------------------------------------------------------------------


def shuffled(told: Described, rng: np.random.Generator) -> Described:
    """Every report of an opacity moved to another image with one."""
    order, phrases = rng.permutation(np.flatnonzero(told.opacity > 0.5)), told.phrases.copy()
    phrases[order] = told.phrases[np.roll(order, 1)]
    return replace(told, phrases=phrases)


def swapped(told: Described) -> Described:
    """Right and left exchanged in what every report says."""
    return replace(told, phrases=np.roll(told.phrases, len(PLACES) // 2, axis=2))


# One replicate ----------------------------------------------------------------------------------


class Replicate:
    """The trainings of one replicate of a run, and what they say of its images."""

    def __init__(self, run: Run, plan: Plan, number: int) -> None:
        self.run, self.plan, self.number, self.name = run, plan, number, home(run)
        self.boxes = run.sets.true_boxes(self.name)
        self.boxed = np.array([len(boxes) > 0 for boxes in self.boxes])
        self.images = run.sets.records(self.name).images
        self.patients = self.images["patient"].to_numpy()
        split = StratifiedGroupKFold(plan.folds, shuffle=True, random_state=run.seed)
        folds = [rows for _, rows in split.split(self.boxed, self.boxed, self.patients)]
        self.test, self.held_out, *others = (
            folds[(number + k) % plan.folds] for k in range(plan.folds)
        )
        self.others = np.concatenate(others)
        self.graded = run.title(run.preset.roles.severity)
        self._contents = cache(self._contents)

    @property
    def available(self) -> int:
        """Boxed images that this replicate can learn from."""
        return int(self.boxed[self.others].sum())

    def drawn(self, boxes: int) -> np.ndarray:
        """Rows of so many boxed images, and of images without a box in their proportion.

        They are among those of every greater number.
        """
        rng = np.random.default_rng([self.run.seed, 71, self.number])
        own = self.boxed[self.others]
        positive, negative = (rng.permutation(self.others[own == kind]) for kind in (True, False))
        share = boxes / max(len(positive), 1)
        return np.sort(np.concatenate([positive[:boxes], negative[: round(share * len(negative))]]))

    def config(self, training: Training) -> DetectorConfig:
        """The network and its schedule."""
        names = ("body", "start", "body_rate", "frozen_stem", "batch", "described", "epochs")
        values = {name: getattr(self.plan, name) for name in names}
        values["place_weight"] = 0.0 if training.line == BOXES else self.plan.place_weight
        return replace(self.run.preset.detector, **values, rate=training.rate)

    def told(self, line: str) -> Iterator[Described]:
        """What a line learns of each captioned set, and of no patient of the held-out images."""
        held = set(self.patients[self.test]) | set(self.patients[self.held_out])
        for number, name in enumerate(self.run.describing):
            told, images = self.run.described(name), self.run.sets.records(name).images
            told = replace(
                told, opacity=np.where(images["patient"].isin(held), np.nan, told.opacity)
            )
            if line == SHUFFLED:
                seed = [self.run.seed, 72, self.number, number]
                told = shuffled(told, np.random.default_rng(seed))
            told = swapped(told) if line == SWAPPED else told
            yield told.without_places() if line == LABELS else told

    def trained(self, training: Training, boxes: int) -> Trained:
        """The stage of a training with `boxes` boxed images."""
        run, config, rows = self.run, self.config(training), self.drawn(boxes)
        captioned = training.line != BOXES

        def build() -> Detector:
            return Detector(config).to(memory_format=torch.channels_last)

        def fit(**place: object) -> tuple[Detector, pd.DataFrame]:
            told = list(self.told(training.line)) if captioned else []
            zones = run.zones(self.name)[rows] if captioned else None
            images, own = run.sets.pixels(self.name)[rows], [self.boxes[row] for row in rows]
            options = {"zones": zones, "described": told, "steps": self.plan.steps}
            return train_detector(images, own, config, **options, **place)

        inputs = (config, self.plan.steps, run.sets.decoded(self.name)[1], rows.tolist())
        inputs += (self._contents(training.line),) if captioned else ()
        options = {"seed": run.seed + 100 * self.number, "build": build, "fit": fit}
        stage = f"worth-{training.name}-replicate-{self.number}"
        return run.cache.trained(stage, *inputs, code=(train_detector,), **options)

    def _contents(self, line: str) -> str:
        """A digest of all that a line learns beside boxes, whatever code it comes from."""
        sha = hashlib.sha256(np.ascontiguousarray(self.run.zones(self.name)))
        for told in self.told(line):
            for values in (told.images, told.zones, told.phrases, told.opacity):
                sha.update(np.ascontiguousarray(values))
        return sha.hexdigest()

    # Measurements -------------------------------------------------------------------------------

    def seen(self, detector: Detector, name: str, rows: np.ndarray) -> Seen:
        """What a detector says of rows of a set."""
        pixels = self.run.sets.pixels(name)[rows]
        regions = extract(detector, pixels, replace(self.run.preset.regions, mirrored=False))
        maps = heatmaps.place_maps(detector, pixels) if detector.place_head else None
        return Seen(regions, maps, self.run.zones(name)[rows])

    def lungs(self, name: str, rows: np.ndarray) -> lungs.Lungs:
        """The lungs in rows of a set."""
        return lungs.find(self.run.lung_finder, self.run.sets.pixels(name)[rows])

    @cached_property
    def scored(self) -> pd.DataFrame:
        """row, image, patient, score of the test images that experts scored."""
        records = self.run.sets.records(self.graded)
        images = records.images[["image", "patient", "split"]].reset_index(names="row")
        scores = records.scores[["image", SCORE]].dropna().rename(columns={SCORE: "score"})
        return images[images["split"] == "test"].drop(columns="split").merge(scores, on="image")

    def measured(self, training: Training, boxes: int) -> dict[str, pd.DataFrame]:
        """Choices and predictions of a training, as a stage.

        choice    readout, choice, validation (its union IoU), severity (the read-out of severity)
        boxes     image, x1, y1, x2, y2, score: of the test images, in their own pixels
        images    image, probability: of the test images
        severity  image, value: of the scored images

        All is chosen on the replicate's validation images: the read-out of places by union IoU,
        that of severity by its correlation with the share of the lungs that the boxes cover.
        """
        stage = self.trained(training, boxes)

        def make(folder: Path, _: str) -> None:
            detector, pooled = stage.load(), self.run.preset.detector.pooled
            held = self.seen(detector, self.name, self.held_out)
            here = np.flatnonzero(self.boxed[self.held_out])
            truth = [self.boxes[row] for row in self.held_out]
            tried = held.rows(here).evidence(boxes, pooled)
            choices = {n: own.choose([truth[row] for row in here]) for n, own in tried.items()}
            best = max(choices, key=lambda name: choices[name][1])
            choice, union = choices[best]
            side, lungs_here = self.run.preset.detector.side, self.lungs(self.name, self.held_out)
            share = lungs_here.covered([own / side for own in truth])
            grade = _most_alike(held.grades(boxes, lungs_here), share)
            columns = ["readout", "choice", "validation", "severity"]
            row = pd.DataFrame([(best, str(choice), union, grade)], columns=columns)
            write_table(folder / "choice.csv", row)
            test = self.seen(detector, self.name, self.test)
            predictions = test.evidence(boxes, pooled)[best].predictions(choice)
            table = boxes_table(self.run, self.name, self.test, predictions)
            write_table(folder / "boxes.csv", table)
            images = self.images["image"].to_numpy()[self.test]
            columns = {"image": images, "probability": test.regions.image.numpy()}
            write_table(folder / "images.csv", pd.DataFrame(columns))
            rows = self.scored["row"].to_numpy()
            values = self.seen(detector, self.graded, rows)
            values = values.grades(boxes, self.lungs(self.graded, rows))[grade]
            table = self.scored[["image"]].assign(value=values)
            write_table(folder / "severity.csv", table)

        stage_name = f"worth-{training.name}-replicate-{self.number}-measured"
        folder, _ = self.run.cache.stage(stage_name, stage.key, boxes, make=make)
        return {name: read_csv(folder / f"{name}.csv", dtype={"image": str}) for name in FILES}

    def references(
        self, points: dict[int, int], rates: dict[str, float]
    ) -> dict[tuple[str, int], pd.DataFrame]:
        """Predictions beside the curve, by line and point: boxes as in `measured`, as a stage.

        From boxes alone, without an image; both lungs; Grad-CAM of image labels, without a box; and
        the proposals that overlap the true boxes most, the ceiling of a ranking. points: point ->
        number of boxed images.
        """
        alone = self.trained(Training(LABELS, 0, rates[LABELS]), 0)
        every = self.trained(Training(TEXT, ALL, rates[TEXT]), points[ALL])
        validated, rows = self.held_out[self.boxed[self.held_out]], self.test
        images = Images(self.run, self.name, self.test)

        def predictions() -> Iterator[tuple[str, int, list]]:
            for point, boxes in points.items():
                known = tuple(self.drawn(boxes).tolist()) if boxes else ()
                seen = [Known(self.run, self.name, own, known) for own in (validated, rows)]
                for line, look in ((FIXED, _fixed), (HEAT, methods.heat_prior)) if known else ():
                    choice, _ = look(seen[0]).choose(seen[0].truth)
                    yield line, point, look(seen[1]).predictions(choice)
            both = self.lungs(self.name, rows).boxes * images.side
            yield LUNGS, 0, Fixed(list(both)).predictions(None)
            head = ImageHead(alone.load())
            cam = partial(
                methods.explained, model=head, layers=("16", "32"), draw=heatmaps.grad_cam
            )
            seen = Images(self.run, self.name, validated)
            choice, _ = cam(seen).choose(seen.truth)
            yield CAM, 0, cam(images).predictions(choice)
            regions = self.seen(every.load(), self.name, rows).regions
            best = priors.best_proposals(regions, images.truth)
            yield CEILING, ALL, Fixed(best).predictions(None)

        def make(folder: Path, _: str) -> None:
            parts = [
                boxes_table(self.run, self.name, rows, own).assign(line=line, point=point)
                for line, point, own in predictions()
            ]
            write_table(folder / "boxes.csv", pd.concat(parts, ignore_index=True))

        inputs = (alone.key, every.key, sorted(points.items()))
        stage = f"worth-references-replicate-{self.number}"
        folder, _ = self.run.cache.stage(stage, *inputs, make=make)
        table = read_csv(folder / "boxes.csv", dtype={"image": str})
        return {key: rows for key, rows in table.groupby(["line", "point"])}


_fixed = partial(methods.same_boxes, priors.fixed_pair)


def _most_alike(grades: dict[str, np.ndarray], truth: np.ndarray) -> str:
    """The read-out with the greatest sum of its correlations with the truth [n]."""
    one = np.ones((1, len(truth)))
    sums = {
        name: sum(float(f(values, truth, one)[0]) for f in CORRELATIONS.values())
        for name, values in grades.items()
    }
    return max(sums, key=lambda name: np.nan_to_num(sums[name], nan=-np.inf))


# All of them ------------------------------------------------------------------------------------


class Experiment:
    """A plan on a run's data."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run, self.plan = run, plan
        self.replicates = [Replicate(run, plan, number) for number in range(plan.replicates)]
        most = min(replicate.available for replicate in self.replicates)
        self.points = {p: most if p == ALL else p for p in plan.points if p <= most}

    @cached_property
    def tuning(self) -> pd.DataFrame:
        """line, rate, boxes, validation (union IoU of the first replicate), chosen."""
        rows = []
        tried = product(LINES, self.plan.rates, self.plan.tuned)
        for line, rate, point in tried:
            own = self.replicates[0].measured(Training(line, point, rate), self.points[point])
            rows.append((line, rate, self.points[point], own["choice"]["validation"].iloc[0]))
        table = pd.DataFrame(rows, columns=["line", "rate", "boxes", "validation"])
        means = table.groupby(["line", "rate"], sort=False)["validation"].mean()
        best = means.groupby("line").idxmax()
        pairs = zip(table["line"], table["rate"], strict=True)
        return table.assign(chosen=[pair in set(best) for pair in pairs])

    def rate(self, line: str) -> float:
        """The rate of learning of a line; a control has that of the text."""
        chosen = self.tuning[self.tuning["chosen"]].groupby("line")["rate"].first()
        return float(chosen[TEXT if line in CONTROLS else line])

    def trainings(self) -> Iterator[tuple[Training, int]]:
        """Every training of a replicate after tuning, with its number of boxed images."""
        for line, point in product((*LINES, *CONTROLS), self.points):
            if (line == BOXES and point == 0) or (
                line in CONTROLS and point not in self.plan.controlled
            ):
                continue
            yield Training(line, point, self.rate(line)), self.points[point]
