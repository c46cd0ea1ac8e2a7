"""Read-outs of severity, from the image alone: what several detectors, the localizer and the lung finder say of it, per image and per zone.

Nothing here has seen a severity score. The read-out that speaks for the method is chosen on validation patients of the detector's set, whose
opacities are boxed: the truth there is the share of the lungs that the boxes cover.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from pnloc.baselines import heatmaps
from pnloc.boxes import fixed_pair
from pnloc.data import duplicates
from pnloc.data import readers as datasets
from pnloc.evaluation import severity
from pnloc.localizer import Choice, image_attention, pick
from pnloc.run import members
from pnloc.run.run import Run
from pnloc.run.sets import NAMES
from pnloc.run.severity import ensemble as looks
from pnloc.run.severity import lungs

OURS = (
    "combined",
    "detector: combined",
    "detector: image",
    "detector: mask in the lungs",
    "detector: mask",
    "detector: area",
    "attended area",
    "expected severity",
    "pneumonia (text)",
)
CONTROLS = (
    "attended area (labels only)",
    "pneumonia (labels only)",
)  # what text is measured against; none speaks for the method
READOUTS = (*OURS, *CONTROLS)
TRIVIAL = ("image-label classifier", "brightness in the lungs", "brightness", "fixed boxes")
ZONED = (
    "zone brightness",
    "zone fixed boxes",
)  # trivial: equalised brightness of the zone, its share under the two fixed boxes
DETECTED = ("detector: image", "detector: mask in the lungs", "detector: area")
COMBINED = {
    "combined": (*DETECTED, "attended area", "expected severity"),
    "detector: combined": DETECTED,
}
CHOICES = (
    "text-attention",
    "image-label-attention",
    "detector",
)  # what must be chosen on validation images before


# Values ---------------------------------------------------------------------------------------------------


def values(run: Run, name: str, rows: np.ndarray, choices: dict[str, Choice]) -> pd.DataFrame:
    """Every read-out but the combined ones, for some rows of a set; probabilities of an image as log-odds.

    With 'zone A' to 'zone F' (mean of the mask), the same of the trivial ways to score zones (ZONED), the columns of `attended`, and 'lungs found'.
    """
    pixels, images = run.sets.pixels(name)[rows], run.sets.records(name).images.iloc[rows]
    boxes, side = run.sets.letterboxes(images), pixels.shape[-1]
    picture = np.array([looks.share(b) for b in boxes])
    here, seen = looks.find_lungs(run, pixels), looks.look_at(run, name, rows, choices["detector"])
    table = pd.DataFrame(
        of_look(seen, here, picture) | attended(run, name, rows, choices, here),
        index=images["image"],
    )
    table["detector: image, one"] = looks.odds(seen.image[0])
    prior = fixed_boxes(run)
    pair = [b.boxes(prior * [b.width, b.height, b.width, b.height]) / side for b in boxes]
    table["fixed boxes"] = looks.in_lungs(looks.covered(pair, here.boxes), here.boxes)
    table["brightness"] = np.concatenate(
        [severity.brightness(p[None], q) for p, q in zip(pixels, pair, strict=True)]
    )
    table["brightness in the lungs"] = severity.brightness_within(
        pixels, looks.lung_pixels(run, pixels)
    )
    table["image-label classifier"] = looks.odds(classify(run, pixels))
    zoned = {
        "zone": looks.within(seen.mean()[1], here.zones),
        ZONED[0]: looks.within(np.stack([severity.equalized(p) for p in pixels]), here.zones),
        ZONED[1]: looks.covered(pair, here.zones),
    }
    for column, zone in enumerate(lungs.ZONES):
        table = table.assign(
            **{f"{what} {zone}": found[:, column] for what, found in zoned.items()}
        )
    table["lungs found"] = here.found.sum(1)
    return table


def attended(
    run: Run, name: str, rows: np.ndarray, choices: dict[str, Choice], here: looks.Lungs
) -> dict[str, np.ndarray]:
    """The localizer's read-outs of some rows of a set, trained with text and with image labels only: each [N].

    'attention (text) A' (of 'labels only' too) to F are, per zone, the mean of the attention of the regions that cover a place, times the
    probability of a pneumonia.
    """
    regions, side, found = run.regions(name).rows(rows), run.preset.detector.side, {}
    for arm, method in (("text", "text-attention"), ("labels only", "image-label-attention")):
        mass, chances = image_attention(run.localizer(arm == "text")[0], regions)
        boxes = [b / side for b, _ in pick(regions, mass, choices[method])]
        area = looks.in_lungs(looks.covered(boxes, here.boxes), here.boxes)
        found["attended area" + ("" if arm == "text" else f" ({arm})")] = area * chances[:, 0]
        found[f"pneumonia ({arm})"] = looks.odds(chances[:, 0])
        heat = [
            heatmaps.coverage(b / side, m, looks.CELLS)
            for b, m in zip(regions.boxes.numpy(), mass, strict=True)
        ]
        zoned = looks.within(np.stack(heat), here.zones) * chances[:, :1]
        found |= {
            f"attention ({arm}) {zone}": zoned[:, column] for column, zone in enumerate(lungs.ZONES)
        }
        if arm == "text":
            grades = severity.expected_severity(pd.DataFrame(chances, columns=list(NAMES)))
            found["expected severity"] = grades.to_numpy()
    return found


def of_look(seen: looks.Look, here: looks.Lungs, picture: np.ndarray) -> dict[str, np.ndarray]:
    """The detectors' read-outs from a look and the lungs; picture [N] is the share of the square that is not padding."""
    image, mask, area = seen.mean()
    return {
        "detector: image": image,
        "detector: mask in the lungs": looks.in_lungs(looks.within(mask, here.boxes), here.boxes),
        "detector: mask": mask.mean((1, 2)) / picture,
        "detector: area": area / picture,
    }


def fixed_boxes(run: Run) -> np.ndarray:
    """The fixed-box prior [2, 4], relative to the picture, from training boxes of the detector's set."""
    name = run.title(run.preset.roles.detector)
    images = run.sets.records(name).images
    truth, boxes = run.sets.true_boxes(name), run.sets.letterboxes(images)
    relative = [
        boxes[i].inverse(truth[i]) / ([boxes[i].width, boxes[i].height] * 2)
        for i in run.sets.rows(name, "train")
    ]
    return fixed_pair(np.concatenate(relative))


@torch.no_grad()
def classify(run: Run, pixels: np.ndarray, batch: int = 32) -> np.ndarray:
    """Probability [N] of a pneumonia by the classifier trained on image labels alone."""
    model, found = run.classifier, [np.zeros(0, dtype=np.float32)]
    where = next(model.parameters()).device
    for start in range(0, len(pixels), batch):
        pictures = torch.from_numpy(pixels[start : start + batch])[:, None].to(where)
        found.append(torch.sigmoid(model(pictures)[:, 0]).float().cpu().numpy())
    return np.concatenate(found)


# Combined and chosen where boxes are known ----------------------------------------------------------------


@dataclass(frozen=True)
class Combination:
    """The mean of some read-outs, each standardized as `mean` and `deviation` say (by read-out); no weight is fitted."""

    mean: pd.Series
    deviation: pd.Series

    def __call__(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table [N] of read-outs with the COMBINED ones."""
        alike = (table[self.mean.index] - self.mean) / self.deviation
        return table.assign(
            **{name: alike[list(parts)].mean(axis=1) for name, parts in COMBINED.items()}
        )


def combine(table: pd.DataFrame) -> Combination:
    """The combination that standardizes by the read-outs of these images."""
    parts = table[list(dict.fromkeys(p for parts in COMBINED.values() for p in parts))]
    return Combination(parts.mean(), parts.std(ddof=0).clip(lower=1e-9))


def choosing_rows(run: Run) -> np.ndarray:
    """Rows of the detector's set by which the read-out is chosen: they were in no training, and are no images of a severity set."""
    return run.sets.rows(members.home(run), *run.preset.severity.chosen_on)


def validated(run: Run, choices: dict[str, Choice]) -> tuple[pd.DataFrame, np.ndarray]:
    """Read-outs of the images by which a read-out is chosen, and the share [N] of their lungs that the true boxes cover."""
    name, rows = members.home(run), choosing_rows(run)
    table = saved(run, name, rows, choices)
    table = combine(table)(table)
    here, truth = looks.find_lungs(run, run.sets.pixels(name)[rows]), run.sets.true_boxes(name)
    boxed = [truth[i] / run.preset.detector.side for i in rows]
    return table, looks.in_lungs(looks.covered(boxed, here.boxes), here.boxes)


def saved(run: Run, name: str, rows: np.ndarray, choices: dict[str, Choice]) -> pd.DataFrame:
    """What `values` gives, kept on disk as a stage."""
    models = [members.member_stage(run, n)[1] for n in range(1, run.preset.severity.detectors)]
    models += [
        run.regions_stage(name)[1],
        run.localizer_stage(True)[1],
        run.localizer_stage(False)[1],
    ]
    models += [
        run.classifier_stage[1],
        looks.lungs_stage(run)[1],
        repr([choices[c] for c in CHOICES]),
    ]

    def make(folder: Path, _: str) -> None:
        values(run, name, rows, choices).reset_index().to_parquet(folder / "values.parquet")

    folder, _ = run.cache.stage(f"readouts-{name}", models, rows.tolist(), make=make)
    return pd.read_parquet(folder / "values.parquet").set_index("image")


def comparison(run: Run, choices: dict[str, Choice]) -> pd.DataFrame:
    """How each read-out follows the truth of the validation images: readout, pearson, spearman, auc, n, positives, chosen.

    pearson and spearman: with the boxed share of the lungs; auc: of a box's presence. Chosen, to speak for the method, is that of
    OURS with the highest sum of both correlations.
    """
    table, truth = validated(run, choices)
    one, rows = np.ones((1, len(truth))), []
    for readout in (*READOUTS, *TRIVIAL, "detector: image, one"):
        x = table[readout].to_numpy(float)
        both = [float(f(x, truth, one)[0]) for f in (severity._pearson, severity._spearman)]
        auc = roc_auc_score(truth > 0, x) if 0 < (truth > 0).sum() < len(truth) else np.nan
        rows.append((readout, *both, auc, len(truth), int((truth > 0).sum())))
    found = pd.DataFrame(rows, columns=["readout", "pearson", "spearman", "auc", "n", "positives"])
    ours = found["readout"].isin(OURS)
    best = (found["pearson"] + found["spearman"]).where(ours).fillna(-np.inf).idxmax()
    return found.assign(chosen=found.index == best)


def scored(run: Run, name: str, choices: dict[str, Choice]) -> pd.DataFrame:
    """One row per scored image of a set: image, patient, view, width, height, its scores, and every read-out."""
    records = run.sets.records(name)
    facts = records.images[["image", "patient", "view", "width", "height"]].assign(
        patient=persons(run, name)
    )
    table = records.scores.merge(facts, on="image")
    rows = pd.Series(np.arange(len(records.images)), index=records.images["image"])[
        table["image"]
    ].to_numpy()
    found = saved(run, name, rows, choices)
    found = combine(validated(run, choices)[0])(found)
    return table.join(found, on="image")


def persons(run: Run, name: str) -> pd.Series:
    """The patient of each image row of a set; patients of whom images are the same by content count as one."""
    images = run.sets.records(name).images
    boxes = run.sets.letterboxes(images)
    small = np.array(
        [duplicates.thumbnail(p, b) for p, b in zip(run.sets.pixels(name), boxes, strict=True)],
        dtype=np.uint8,
    )
    person = images["patient"].copy()
    for a, b in duplicates.pairs(small.reshape(-1, duplicates.SIDE, duplicates.SIDE))[
        ["a", "b"]
    ].to_numpy(int):
        person = person.replace(person.iloc[b], person.iloc[a])
    return person


def folder(run: Run, name: str) -> Path:
    """The folder of a COVID-19 set."""
    return (run.sets.folder if name.startswith("demo-") else run.data) / datasets.FOLDERS["covid19"]
