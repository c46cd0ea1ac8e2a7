"""Read-outs of severity from the image alone, per image and per zone.

They come from the detectors, the localizer and the lung finder, none of which has seen a severity
score. The outputs of several detectors are averaged; an image of their own set is shown only to
detectors that have not seen its patient. One read-out is chosen on validation patients of the
detector's set, whose opacities are boxed: the truth there is the share of the lungs that the boxes
cover.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from pnloc.baselines import heatmaps, priors
from pnloc.data import duplicates
from pnloc.detector import Detector
from pnloc.evaluation import severity
from pnloc.localizer import Choice, image_attention, normalized_scores, pick
from pnloc.regions import Regions, extract
from pnloc.run import folds
from pnloc.run.evidence import Images
from pnloc.run.methods import CLASSIFIER, arm_detector, trained
from pnloc.run.predictions import choose
from pnloc.run.run import ATTENTIONS, BOXES, LABELS, TEXT, Run
from pnloc.run.sets import NAMES
from pnloc.run.severity import lungs

Views = tuple[np.ndarray, np.ndarray, np.ndarray]
DETECTED = ("detector: image", "detector: mask in the lungs", "detector: mask", "detector: area")
SINGLE = (*DETECTED, "attended area", "expected severity", "pneumonia (text)")
COMBINED = {
    "combined": tuple(r for r in SINGLE if r not in ("detector: mask", "pneumonia (text)")),
    "detector: combined": tuple(r for r in DETECTED if r != "detector: mask"),
}
OURS = (*COMBINED, *SINGLE)
# What text is measured against: the attention trained without it.
CONTROLS = ("attended area (labels only)", "pneumonia (labels only)")
# The paper's own read-out: what the image is given for 'severe' and 'mild', by ours and its form.
GRADES = {"P(severe)": (1, 0), "P(mild)": (0, 1), "P(severe) - P(mild)": (1, -1)}
PAPER = tuple(f"{grade} ({arm})" for arm in ("text", "paper") for grade in GRADES)
READOUTS = (*OURS, *CONTROLS, "attended area (paper)", "pneumonia (paper)", *PAPER)
# One detector, trained with reports, with image labels and with boxes alone.
ONES = {arm: f"mask in the lungs, one ({arm})" for arm in (TEXT, LABELS, BOXES)}
TRIVIAL = ("image-label classifier", "brightness in the lungs", "brightness", "fixed boxes")
ONE = "detector: image, one"  # of the ensemble
# Trivial for a zone: its equalised brightness, its share under the two fixed boxes.
ZONED = ("zone brightness", "zone fixed boxes")
# Methods whose choice on validation images is needed.
CHOICES = ("text-attention", "image-label-attention", "paper-attention", "detector")
BOXED = "boxed share of the lungs"


# Detectors and the lung finder --------------------------------------------------------------------


@lru_cache(None)
def detectors(run: Run) -> list[Detector]:
    """The run's detector and, where the preset asks for more, further ones (pnloc.run.folds)."""
    others = range(1, run.preset.severity.detectors)
    return [run.detector, *(folds.member_stage(run, number).load() for number in others)]


def unseeing(run: Run, name: str) -> list[Detector]:
    """The detectors of the run that have not seen the images of a set that are read out.

    In the detectors' own set others than the run's own may have been trained on these images.
    """
    return [run.detector] if run.preset.folds and name == folds.home(run) else detectors(run)


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Log-odds: they do not crowd below 1, as probabilities do where opacities are common."""
    return logit(np.asarray(probability, dtype=np.float64).clip(1e-6, 1 - 1e-6))


def views(run: Run, ensemble: list[Detector], pixels: np.ndarray, choice: Choice) -> Views:
    """Outputs for uint8 pictures [N, S, S] in V views: by each detector, as they are and mirrored.

    They are the probability of an opacity [V, N], masks [V, N, h, w] with a probability per cell,
    and the area of the detected boxes [V, N] as a share of the picture.
    """
    outputs, config = [], replace(run.preset.regions, mirrored=False)
    for detector, step in product(ensemble, (1, -1)):
        regions = extract(detector, np.ascontiguousarray(pixels[..., ::step]), config)
        mask = regions.mask.float().numpy()[..., ::step]
        areas = detected_area(regions, choice, pixels.shape[-1])
        outputs.append((regions.image.numpy(), mask, areas))
    return tuple(map(np.stack, zip(*outputs, strict=True)))


def means(image: np.ndarray, mask: np.ndarray, area: np.ndarray) -> Views:
    """Means of `views` over V: image [N], as log-odds; mask [N, h, w]; area [N]."""
    return log_odds(image).mean(0), mask.mean(0), area.mean(0)


def masks_of(run: Run, pixels: np.ndarray) -> np.ndarray:
    """The mean mask [N, h, w] of all detectors on uint8 pictures [N, S, S]."""
    return means(*views(run, detectors(run), pixels, Choice()))[1]


def detected_area(regions: Regions, choice: Choice, side: int) -> np.ndarray:
    """Area [N] of the detector's boxes by a choice, times the best region's score.

    The unit is the area of a picture, side x side pixels.
    """
    picked = pick(regions, normalized_scores(regions), choice)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum() / side**2 for boxes, _ in picked]
    return np.array(areas) * regions.scores.numpy().max(1, initial=0.0)


# Values -------------------------------------------------------------------------------------------


@lru_cache(None)
def choices(run: Run) -> dict[str, Choice]:
    """The choice of each method of CHOICES."""
    return {method: choose(run, method)[0] for method in CHOICES}


def values(run: Run, name: str, rows: np.ndarray) -> pd.DataFrame:
    """Every read-out but the combined ones, for rows of a set; probabilities as log-odds.

    For each zone A to F also 'zone A' (mean of the mask) and the trivial ones (ZONED); and 'lungs
    found'.
    """
    pixels, images = run.sets.pixels(name)[rows], run.sets.records(name).images.iloc[rows]
    picture = np.array([box.share for box in run.sets.letterboxes(images)])
    here, shown = lungs.find(run.lung_finder, pixels), Images(run, name, rows)
    seen = views(run, unseeing(run, name), pixels, choices(run)["detector"])
    pairs = [pair / shown.side for pair in shown.place(priors.fixed_pair(shown.training_boxes))]
    equalized = np.stack([severity.equalized(p) for p in pixels])
    masks = np.stack([heatmaps.coverage(pair, np.ones(2), shown.side) > 0 for pair in pairs])
    inside = lungs.pixels(run.lung_finder, pixels)
    chances = heatmaps.probabilities(trained(run, CLASSIFIER), pixels)
    columns = {
        **of_views(seen, here, picture),
        **attention_readouts(run, name, rows, here),
        **{ONES[arm]: here.mean(mask) for arm, mask in _masks(run, pixels, seen).items()},
        ONE: log_odds(seen[0][0]),
        "fixed boxes": here.covered(pairs),
        "brightness": severity.means_inside(equalized, masks),
        "brightness in the lungs": severity.means_inside(equalized, inside),
        "image-label classifier": log_odds(chances),
    }
    zones = {
        "zone": lungs.within(means(*seen)[1], here.zones),
        ZONED[0]: lungs.within(equalized, here.zones),
        ZONED[1]: lungs.covered(pairs, here.zones),
    }
    for column, zone in enumerate(lungs.ZONES):
        columns |= {f"{what} {zone}": of_zones[:, column] for what, of_zones in zones.items()}
    return pd.DataFrame(columns | {"lungs found": here.found.sum(1)}, index=images["image"])


def _masks(run: Run, pixels: np.ndarray, seen: Views) -> dict[str, np.ndarray]:
    """The masks [N, h, w] of one detector of each arm, where reports have trained the run's own."""
    if not run.preset.detector.place_weight:
        return {}
    masks = {TEXT: seen[1][:2].mean(0)}  # the run's own comes first, both ways
    for arm in (LABELS, BOXES):
        masks[arm] = means(*views(run, [arm_detector(run, arm)], pixels, Choice()))[1]
    return masks


def attention_readouts(
    run: Run, name: str, rows: np.ndarray, here: lungs.Lungs
) -> dict[str, np.ndarray]:
    """The localizer's read-outs [N] of rows of a set, of each form of its training.

    An area is the share of the lungs that the boxes cover, times the probability of a pneumonia.
    """
    regions, side, columns = run.regions(name).rows(rows), run.preset.detector.side, {}
    for arm, method in zip(ATTENTIONS, CHOICES, strict=False):
        attention, chances = image_attention(run.localizer(*ATTENTIONS[arm])[0], regions)
        boxes = [b / side for b, _ in pick(regions, attention, choices(run)[method])]
        suffix = "" if arm == "text" else f" ({arm})"
        columns[f"attended area{suffix}"] = here.covered(boxes) * chances[:, 0]
        columns[f"pneumonia ({arm})"] = log_odds(chances[:, 0])
        if arm != "labels only":
            mild, severe = (chances[:, NAMES.index(f"severity:{g}")] for g in ("mild", "severe"))
            for grade, (more, less) in GRADES.items():
                columns[f"{grade} ({arm})"] = more * severe + less * mild
        if arm == "text":
            grades = severity.expected_severity(pd.DataFrame(chances, columns=list(NAMES)))
            columns["expected severity"] = grades.to_numpy()
    return columns


def of_views(seen: Views, here: lungs.Lungs, picture: np.ndarray) -> dict[str, np.ndarray]:
    """The detectors' read-outs; picture [N] is the share of the square that is not padding."""
    image, mask, area = means(*seen)
    readouts = (image, here.mean(mask), mask.mean((1, 2)) / picture, area / picture)
    return dict(zip(DETECTED, readouts, strict=True))


# Combined and chosen where boxes are known --------------------------------------------------------


def combine(table: pd.DataFrame, scale: pd.DataFrame) -> pd.DataFrame:
    """A table of read-outs with the COMBINED ones.

    Each is the mean of read-outs, standardized by those of the images of `scale`; no weight is
    fitted.
    """
    names = list(dict.fromkeys(name for parts in COMBINED.values() for name in parts))
    mean, deviation = scale[names].mean(), scale[names].std(ddof=0).clip(lower=1e-9)
    alike = (table[names] - mean) / deviation
    return table.assign(**{name: alike[[*parts]].mean(axis=1) for name, parts in COMBINED.items()})


def validation(run: Run) -> pd.DataFrame:
    """Read-outs of the validation images, their patient and the boxed share of their lungs.

    They are images of the detector's set that are in no training and in no severity set.
    """
    name = folds.home(run)
    rows = run.sets.rows(name, *run.preset.severity.chosen_on)
    table = saved_values(run, name, rows)
    boxed = [run.sets.true_boxes(name)[i] / run.preset.detector.side for i in rows]
    here = lungs.find(run.lung_finder, run.sets.pixels(name)[rows])
    patients = run.sets.records(name).images["patient"].to_numpy()[rows]
    return combine(table, table).assign(**{BOXED: here.covered(boxed)}, patient=patients)


def models(run: Run, name: str) -> list[str]:
    """Fingerprints of everything that read-outs of a set depend on, except the choices."""
    stages = [folds.member_stage(run, n) for n in range(1, run.preset.severity.detectors)]
    if run.preset.detector.place_weight:
        stages += [run.arm_stage(arm) for arm in (LABELS, BOXES)]
    stages += [run.regions_stage(name), *(run.localizer_stage(*f) for f in ATTENTIONS.values())]
    return [stage[1] for stage in (*stages, CLASSIFIER.stage(run), run.lungs_stage)]


def saved_values(run: Run, name: str, rows: np.ndarray) -> pd.DataFrame:
    """`values`, as a stage on disk."""

    def make(folder: Path, _: str) -> None:
        values(run, name, rows).reset_index().to_parquet(folder / "values.parquet")

    inputs = (models(run, name), repr([*choices(run).values()]), rows.tolist())
    folder, _ = run.cache.stage(f"readouts-{name}", *inputs, make=make)
    return pd.read_parquet(folder / "values.parquet").set_index("image")


def comparison(table: pd.DataFrame) -> pd.DataFrame:
    """The association of the read-outs of `validation` with the boxed share of the lungs.

    Table readout, pearson, spearman, auc (of a box's
    presence), n, positives, chosen: that of OURS with the highest sum of both correlations.
    """
    truth, rows = table[BOXED].to_numpy(), []
    one, positives = np.ones((1, len(truth))), int((truth > 0).sum())
    for readout in (*READOUTS, *TRIVIAL, ONE):
        x = table[readout].to_numpy(float)
        both = [float(f(x, truth, one)[0]) for f in severity.CORRELATIONS.values()]
        auc = roc_auc_score(truth > 0, x) if 0 < positives < len(truth) else np.nan
        rows.append((readout, *both, auc, len(truth), positives))
    columns = ["readout", *severity.CORRELATIONS, "auc", "n", "positives"]
    compared = pd.DataFrame(rows, columns=columns)
    sums = (compared["pearson"] + compared["spearman"]).where(compared["readout"].isin(OURS))
    return compared.assign(chosen=compared.index == sums.fillna(-np.inf).idxmax())


def cases(run: Run, name: str, scale: pd.DataFrame) -> pd.DataFrame:
    """Read-outs of the scored images of a set, combined on the scale of those of `validation`.

    Each row has image, patient, view, width, height, the scores, and every read-out.
    """
    records = run.sets.records(name)
    facts = records.images[["image", "patient", "view", "width", "height"]]
    table = records.scores.merge(facts.assign(patient=persons(run, name)), on="image")
    values = saved_values(run, name, run.sets.rows(name, "test"))
    return table.join(combine(values, scale), on="image")


def persons(run: Run, name: str) -> pd.Series:
    """The patient of each image of a set; patients who share an image by content count as one."""
    images = run.sets.records(name).images
    pairs = zip(run.sets.pixels(name), run.sets.letterboxes(images), strict=True)
    small = np.array([duplicates.thumbnail(p, b) for p, b in pairs], dtype=np.uint8)
    twins = duplicates.pairs(small.reshape(-1, duplicates.SIDE, duplicates.SIDE))
    person = images["patient"].copy()
    for a, b in twins[["a", "b"]].to_numpy(int):
        person = person.replace(person.iloc[b], person.iloc[a])
    return person
