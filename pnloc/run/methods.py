"""Every method of the tables: `METHODS`, in their order, and how the trained ones are trained.

A method is a function from images (`pnloc.run.evidence.Images`) to evidence, from which boxes and
heat maps follow; choices are made on validation images (`predictions.choose`). To add a baseline,
write one function and one entry of `METHODS`:

    def two_boxes(images):
        return Fixed(images.place(fixed_pair(images.training_boxes)))

    Method("prior", "two-boxes", "two fixed boxes, no image", two_boxes)

A trained baseline also names its `kind`, the class or function that builds the untrained model, and
its function takes the trained `model`, too. Its group decides what it is trained on (TRAINING).
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from pnloc import localizer, parallel
from pnloc.baselines import grounding, heatmaps, priors, supervised, weak
from pnloc.baselines.classifier import Classifier
from pnloc.baselines.grounding import Align2Ground, ContrastiveGrounding, Reconstruction
from pnloc.baselines.priors import fixed_pair
from pnloc.baselines.supervised import FasterRegions
from pnloc.config import BASELINES, FROM_BOXES
from pnloc.detector import Detector
from pnloc.errors import PnlocError
from pnloc.regions import extract
from pnloc.run.cache import Trained
from pnloc.run.evidence import Detections, Evidence, Fixed, Heat, Images, Ranking, scaled
from pnloc.run.fitting import TRAINING, Labels, TargetBoxes
from pnloc.run.run import BOXES, LABELS, Run

# Evidence -------------------------------------------------------------------------------------


def same_boxes(guess: Callable[[np.ndarray], np.ndarray], images: Images) -> Fixed:
    """The same boxes in every image, guessed from the training boxes."""
    return Fixed(images.place(guess(images.training_boxes)))


def report_anatomy(images: Images) -> Fixed:
    """Boxes at the places where the report sees a pneumonia (Wu et al. 2020)."""
    by_place, sides = priors.place_boxes(images.training_boxes), fixed_pair(images.training_boxes)
    return Fixed(images.place([priors.report_boxes(p, by_place, sides) for p in images.phrases]))


def heat_prior(images: Images) -> Heat:
    """The heat map of the training boxes, the same for all images and placed in each."""
    heat = priors.heat_map(images.training_boxes)

    def finish(predictions: localizer.Boxes) -> localizer.Boxes:
        ((boxes, scores),) = predictions
        return [(placed, scores) for placed in images.place(boxes / priors.GRID)]

    def shown(_: str, number: int) -> np.ndarray:
        (boxes,) = replace(images, rows=images.rows[[number]]).place(images.training_boxes)
        return heatmaps.coverage(boxes / images.side, np.ones(len(boxes)), images.side)

    return Heat(("",), lambda _: heat[None], finish, shown)


def explained(
    images: Images,
    model: Classifier | None = None,
    *,
    layers: tuple[str, ...] = ("",),
    draw: Callable = heatmaps.class_activation,
) -> Heat:
    """Heat maps of a classifier, by default CLASSIFIER.

    Every map ranges from 0 to 1, so values cannot be compared across images: a box's score is its
    highest value times the classifier's probability of a pneumonia.
    """
    model, pixels = model or trained(images.run, CLASSIFIER), images.pixels
    probabilities = cache(partial(heatmaps.probabilities, model, pixels))

    def finish(predictions: localizer.Boxes) -> localizer.Boxes:
        pairs = zip(predictions, probabilities(), strict=True)
        return [(boxes, scores * p) for (boxes, scores), p in pairs]

    return Heat(layers, cache(partial(draw, model, pixels)), finish)


def detector_mask(images: Images) -> Heat:
    """Heat maps from the detector's mask head."""
    maps = heatmaps.mask_maps(images.regions, images.side)
    return Heat(("",), lambda _: maps, partial(scaled, probability=images.regions.image.numpy()))


def place_map(images: Images) -> Heat:
    """Heat maps from the detector's map of places."""
    maps = heatmaps.place_maps(images.run.detector, images.pixels)
    return Heat(("",), lambda _: maps, partial(scaled, probability=images.regions.image.numpy()))


def detector(images: Images, model: Detector | None = None, *, grouped: bool = True) -> Ranking:
    """Region scores of the run's detector, or of another one, normalized to sum to 1."""
    regions = images.regions
    if model:
        regions = extract(model, images.pixels, images.run.preset.regions)
    return Ranking(regions, localizer.normalized_scores(regions), regions.image.numpy(), grouped)


def lesser(images: Images, *, arm: str) -> Ranking:
    """The detector as an arm of the run trains it, without reports or without places."""
    return detector(images, arm_detector(images.run, arm))


def attention(
    images: Images, *, text: bool = True, paper: bool = False, grouped: bool = True
) -> Ranking:
    """The cross-attention on images alone (`Run.localizer_stage`)."""
    model = images.run.localizer(text, paper)[0]
    beta, chances = localizer.image_attention(model, images.regions)
    return Ranking(images.regions, beta, chances[:, 0], grouped)


def report_given(images: Images, *, grouped: bool = True) -> Ranking:
    """The cross-attention with each image's report, or on images alone if the set has none.

    Images whose report asserts a pneumonia score above all others.
    """
    alone = attention(images, grouped=grouped)
    if not images.has_reports:
        return alone
    model, phrases = images.run.localizer(True)[0], images.phrases
    ranked = localizer.rank_with_report(model, alone.regions, phrases, alone.attention, grouped)
    probability = (alone.probability + phrases.any((1, 2))) / 2
    return replace(alone, scores=ranked[0], attention=ranked[1], probability=probability)


def grounded(images: Images, model: ContrastiveGrounding) -> Ranking:
    """The attention of a contrastive model to a fixed prompt."""
    weights, fit = grounding.prompted(model, images.regions, images.run.sets.vectors)
    return Ranking(images.regions, weights, fit)


def faster(images: Images, model: FasterRegions) -> Detections:
    """Detections of Faster R-CNN."""
    return Detections(supervised.detect(model, images.pixels))


def best_proposals(images: Images) -> Fixed:
    """The ceiling: the regions that overlap the true boxes most."""
    return Fixed(priors.best_proposals(images.regions, images.truth))


# The registry ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A method: its group, its name in tables and files, its title for readers, its function.

    kind: builds the untrained model, which is trained as TRAINING says for the group; reports:
    whether it reads reports at test, so that it is left out on sets without any; places: whether
    it needs a detector that reports have trained.
    """

    group: str
    name: str
    title: str
    look: Callable[..., Evidence]
    kind: Callable[..., nn.Module] | None = None
    reports: bool = False
    places: bool = False

    @property
    def training(self) -> Labels | None:
        """The training of its group; None for a method without one."""
        return TRAINING.get(self.group)

    def evidence(self, images: Images) -> Evidence:
        """The method's evidence on images."""
        model = {"model": trained(images.run, self)} if self.training else {}
        return self.look(images, **model)

    def stage(self, run: Run) -> Trained:
        """The stage that trains the method."""
        training, config = self.training, getattr(run.preset, self.training.config)

        def build() -> nn.Module:
            _ = run.detector  # before the seed: loading it draws random numbers
            torch.manual_seed(run.seed)
            return training.build(run, self.kind)

        def fit(**place: object) -> tuple[nn.Module, pd.DataFrame]:
            data = [training.data(run, split) for split in ("train", "validate")]
            model = build()
            return model, training.fit(model, *data, config, title=self.name, **place)

        inputs = (config, training.upstream(run), run.detector_stage.key)
        stage = self.name if self is CLASSIFIER else f"baseline-{self.name}"
        functions = {"build": build, "fit": fit, "code": (training.fit, self.kind, *training.code)}
        functions |= {"seed": run.seed, "together": training.shared and parallel.shared()}
        return run.cache.trained(stage, *inputs, **functions)


def _ungrouped(method: Method) -> Method:
    """The same method without the grouping step."""
    names = {"name": f"{method.name}-raw", "title": f"{method.title}, ungrouped"}
    return replace(method, group="ungrouped", look=partial(method.look, grouped=False), **names)


_grad_cam = partial(explained, layers=("16", "32"), draw=heatmaps.grad_cam)
_grad_cam_plus = partial(_grad_cam, draw=partial(heatmaps.grad_cam, plus=True))
_labels_only, _paper = partial(attention, text=False), partial(attention, paper=True)
_lungs = partial(same_boxes, priors.whole_lungs)
_boxes_alone, _no_places = (partial(lesser, arm=arm) for arm in (BOXES, LABELS))
_PAIRS = "contrastive grounding alone"
_FASTER = "supervised Faster R-CNN (bound)"
_ATTENTION = (
    Method("attention", "detector", "detector alone", detector),
    Method("attention", "image-label-attention", "image labels only, no text", _labels_only),
    Method("attention", "text-attention", "text attention (ours)", attention),
    Method("attention", "paper-attention", "the paper's form, as its reviews tell it", _paper),
    Method("attention", "report-given", "report given at test", report_given, reports=True),
)
_IN_ORDER = (
    Method("prior", "whole-image", "the whole image", partial(same_boxes, priors.whole_image)),
    Method("prior", "whole-lungs", "one box over both lungs", _lungs),
    Method("prior", "fixed-boxes", "two fixed boxes, no image", partial(same_boxes, fixed_pair)),
    Method("prior", "heat-map", "heat map of training boxes", heat_prior),
    Method("prior", "report-anatomy", "report + anatomy, no image", report_anatomy, reports=True),
    Method("classifier", "cam", "CAM", partial(explained, layers=("32",))),
    Method("classifier", "grad-cam", "Grad-CAM", _grad_cam),
    Method("classifier", "grad-cam++", "Grad-CAM++", _grad_cam_plus),
    Method("labels", "hide-and-seek", "hide and seek", explained, weak.HideAndSeek),
    Method("labels", "attention-dropout", "attention dropout", explained, weak.AttentionDropout),
    Method("labels", "patch-mil", "patch-wise MIL", explained, weak.PatchMIL),
    Method("pairs", "contrastive-grounding", _PAIRS, grounded, ContrastiveGrounding),
    Method("pairs", "align2ground", "Align2Ground", grounded, Align2Ground),
    Method("pairs", "reconstruction", "grounding by reconstruction", grounded, Reconstruction),
    Method("boxes", "supervised", "supervised RetinaNet (bound)", detector, deepcopy),
    Method("boxes", "supervised-faster-rcnn", _FASTER, faster, FasterRegions),
    Method("mask", "detector-mask", "detector's mask alone", detector_mask),
    Method("mask", "place-map", "detector's map of places alone", place_map, places=True),
    Method("arms", "detector-boxes", "detector, boxes alone", _boxes_alone, places=True),
    Method("arms", "detector-labels", "detector, boxes and image labels", _no_places, places=True),
    *_ATTENTION,
    Method("ceiling", "best-proposal", "best proposal (ceiling)", best_proposals),
    *map(_ungrouped, _ATTENTION),
)
METHODS = {method.name: method for method in _IN_ORDER}
# Trained like the baselines, but no method of the tables: CAM and Grad-CAM explain it.
CLASSIFIER = Method("labels", "classifier", "image-label classifier", explained, Classifier)


def in_group(*groups: str) -> tuple[str, ...]:
    """Names of the methods in these groups, in the order of the tables."""
    return tuple(name for name, method in METHODS.items() if method.group in groups)


def baselines(run: Run) -> tuple[str, ...]:
    """Names of the baselines that a run trains, from its preset.

    Detectors are left out if the target set has no training boxes, and RetinaNet if the detector's
    own set is the target: it would be trained twice.
    """
    chosen, roles = run.preset.baselines, run.preset.roles
    if unknown := set(chosen) - set(BASELINES):
        raise PnlocError(f"unknown baseline '{min(unknown)}'; use some of {', '.join(BASELINES)}")
    omitted = {"supervised"} if roles.localization[0] == roles.detector else set()
    if set(chosen) & set(FROM_BOXES) and not any(map(len, TargetBoxes().data(run, "train")[1])):
        omitted = set(FROM_BOXES)
    return tuple(name for name in BASELINES if name in chosen and name not in omitted)


def available(run: Run, reports: bool = True) -> list[Method]:
    """The methods of a run, in the order of the tables; without `reports` those that need none."""
    names = {*baselines(run), *(name for name, m in METHODS.items() if not m.training)}
    told = run.preset.detector.place_weight
    fit = [m for m in METHODS.values() if (reports or not m.reports) and (told or not m.places)]
    return [m for m in fit if m.name in names]


def train(run: Run) -> dict[str, Trained]:
    """Train the classifier and the baselines of a run: their stages, by name."""
    return {m.name: m.stage(run) for m in (CLASSIFIER, *map(METHODS.get, baselines(run)))}


@lru_cache(None)
def arm_detector(run: Run, arm: str) -> Detector:
    """The detector of an arm (pnloc.run.run.ARMS)."""
    return run.arm_stage(arm).load()


@lru_cache(8)
def trained(run: Run, method: Method) -> nn.Module:
    """The trained model of a baseline, or of the classifier."""
    return method.stage(run).load()


def history(run: Run) -> pd.DataFrame:
    """method, epoch, loss, validation of the classifier behind CAM and the run's baselines."""
    tables = [stage.history.assign(method=name) for name, stage in train(run).items()]
    return pd.concat(tables).reindex(columns=["method", "epoch", "loss", "validation"])
