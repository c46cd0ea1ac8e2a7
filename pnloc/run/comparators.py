"""The baselines at work on a run: what each is chosen by on validation images, its boxes on test images, and what its heat maps are worth.

A heat map is measured only inside the picture, not on the bars that make it a square.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch.nn.functional as F

from pnloc.baselines import classifier as baselines
from pnloc.baselines import heatmaps, priors
from pnloc.baselines.heatmaps import HeatChoice
from pnloc.boxes import as_boxes, fixed_pair, union_iou
from pnloc.evaluation import localization as metrics

if TYPE_CHECKING:
    from pnloc.baselines.classifier import Classifier
    from pnloc.regions import Regions
    from pnloc.run.run import Run

OPACITY_LABELS = frozenset(
    {"Pneumonia", "Consolidation", "Lung Opacity"}
)  # boxes that count as a pneumonia's place
BLIND = (
    "whole-image",
    "whole-lungs",
    "fixed-boxes",
    "heat-map",
    "report-anatomy",
)  # what reads no image
CAMS = tuple(heatmaps.LAYERS)
MASK = "detector-mask"  # the detector's mask head as a heat map
Found = list[
    tuple[np.ndarray, np.ndarray]
]  # per image boxes [n, 4], in pixels of the square input, and scores [n]


def kinds(name: str) -> frozenset[str] | None:
    """Which labels of a set's boxes count as truth: RSNA has one kind, NIH's must be Pneumonia."""
    role = name.removeprefix("demo-")
    return {"rsna": None, "chestxray8": frozenset({"Pneumonia"})}.get(role, OPACITY_LABELS)


def boxed_rows(run: "Run", name: str, split: str) -> np.ndarray:
    """Row numbers of a set's images in a split that have a box of a pneumonia."""
    truth = run.sets.true_boxes(name, kinds(name))
    return np.array([i for i in run.sets.rows(name, split) if len(truth[i])], dtype=int)


def mean_union(found: Found, truth: list[np.ndarray]) -> float:
    """Mean over images of the IoU of the unions."""
    return float(
        np.mean([union_iou(boxes, true) for (boxes, _), true in zip(found, truth, strict=True)])
    )


def scored(found: Found, probability: np.ndarray) -> Found:
    """The same boxes; a score is the image's probability [N] of a pneumonia times the box's share of the image's best score."""
    return [
        (b, s / max(s.max(initial=0.0), 1e-12) * p)
        for (b, s), p in zip(found, probability, strict=True)
    ]


def training_boxes(run: "Run") -> np.ndarray:
    """The detector's training boxes [M, 4], relative to their images."""
    name = run.title(run.preset.roles.detector)
    own = run.sets.records(name).images
    sides = own[["width", "height", "width", "height"]].to_numpy(float)
    boxes = run.sets.records(name).boxes.merge(
        own.assign(row=np.arange(len(own)))[["image", "row", "split"]], on="image"
    )
    boxes = boxes[boxes["split"] == "train"]
    return boxes[["x1", "y1", "x2", "y2"]].to_numpy(float) / sides[boxes["row"]]


def placed(run: "Run", name: str, rows: np.ndarray, relative: list[np.ndarray]) -> list[np.ndarray]:
    """Boxes relative to each image, in pixels of the square input."""
    images = run.sets.records(name).images.iloc[rows]
    sides = images[["width", "height", "width", "height"]].to_numpy(float)
    return [
        t.boxes(as_boxes(b) * s)
        for t, b, s in zip(run.sets.letterboxes(images), relative, sides, strict=True)
    ]


def choose_heat(
    run: "Run", method: str, model: "Classifier | None" = None
) -> tuple[HeatChoice, float]:
    """The choice of a heat map with the best mean union IoU on validation images, and that IoU (NaN without boxes).

    The map is that of a method of CAMS, 'heat-map', or that of a trained `model` of pnloc.baselines.weak.
    """
    name = run.title(run.preset.roles.localization[0])
    rows = boxed_rows(run, name, "validate")
    layers = heatmaps.LAYERS.get(method, ("",))
    if len(rows) == 0:
        return HeatChoice(layers[0]), float("nan")
    truth = [run.sets.true_boxes(name, kinds(name))[i] for i in rows]
    tried, values = [], []
    for layer in layers:
        if method == "heat-map":
            heat = priors.heat_map(training_boxes(run))
            given = ((c, heat_prior(run, name, rows, heat, c)) for c in heatmaps.candidates(layer))
        elif method == MASK:
            given = heatmaps.every_choice(
                mask_maps(run.regions(name).rows(rows), run.preset.detector.side), layer
            )
        else:
            maps = heatmaps.heat_maps(
                model or run.classifier, run.sets.pixels(name)[rows], method, layer
            )
            given = heatmaps.every_choice(maps, layer)
        for choice, found in given:
            tried.append(choice)
            values.append(mean_union(found, truth))
    return tried[int(np.argmax(values))], max(values)


def heat_prior(
    run: "Run", name: str, rows: np.ndarray, heat: np.ndarray, choice: HeatChoice
) -> Found:
    """The boxes of the heat map of training boxes, the same relative ones on each image."""
    boxes, scores = heatmaps.boxes_of(heat, choice)
    return [(b, scores) for b in placed(run, name, rows, [boxes / len(heat)] * len(rows))]


def blind(run: "Run", name: str, rows: np.ndarray, choice: HeatChoice) -> dict[str, Found]:
    """Boxes of every method of BLIND on some rows of a set; the report is read where the set has reports that are paired with its images."""
    training, images = training_boxes(run), run.sets.records(name).images.iloc[rows]
    pairs = baselines.prior_boxes(training, images["width"], images["height"])
    boxes = {
        "whole-image": placed(run, name, rows, [priors.WHOLE_IMAGE] * len(rows)),
        "whole-lungs": placed(run, name, rows, [priors.whole_lungs(training)] * len(rows)),
        "fixed-boxes": [
            t.boxes(b) for t, b in zip(run.sets.letterboxes(images), pairs, strict=True)
        ],
    }
    if name == run.sets.pairs:
        by_place, sides = priors.place_boxes(training), fixed_pair(training)
        relative = [priors.report_boxes(p, by_place, sides) for p in run.sets.phrases(name)[rows]]
        boxes["report-anatomy"] = placed(run, name, rows, relative)
    found = {method: [(b, np.ones(len(b))) for b in one] for method, one in boxes.items()}
    return found | {"heat-map": heat_prior(run, name, rows, priors.heat_map(training), choice)}


def activations(
    run: "Run", name: str, rows: np.ndarray, choices: dict[str, HeatChoice]
) -> Iterator[tuple[str, Found, np.ndarray]]:
    """Each method of CAMS with its boxes on some rows of a set, and its maps [n, S, S]."""
    pixels = run.sets.pixels(name)[rows]
    likely = heatmaps.probabilities(run.classifier, pixels)
    for method in CAMS:
        yield method, *activation(run.classifier, pixels, method, choices[method], likely)


def activation(
    model: "Classifier", pixels: np.ndarray, method: str, choice: HeatChoice, likely: np.ndarray
) -> tuple[Found, np.ndarray]:
    """The boxes that a method's heat maps give on images [n, S, S] of which a pneumonia is as `likely` [n] as that, and the maps [n, S, S].

    Every map goes from 0 to 1, so that its values say nothing across images: a box's score is its highest value times the classifier's
    probability of a pneumonia.
    """
    maps = heatmaps.heat_maps(model, pixels, method, choice.layer)
    boxes = [heatmaps.boxes_of(m, choice) for m in maps]
    return [(b, s * p) for (b, s), p in zip(boxes, likely, strict=True)], maps


def mask_maps(regions: "Regions", side: int) -> np.ndarray:
    """The mask of the detector's mask head on N images as maps [N, S, S] of the square input."""
    small = regions.mask.float()[:, None]
    return F.interpolate(small, (side, side), mode="bilinear", align_corners=False)[:, 0].numpy()


def mask_boxes(
    run: "Run", name: str, rows: np.ndarray, choice: HeatChoice
) -> tuple[Found, np.ndarray]:
    """Boxes around the parts of the detector's mask on some rows of a set, and the maps [n, S, S]; a box's score is the part's highest value."""
    maps = mask_maps(run.regions(name).rows(rows), run.preset.detector.side)
    return [heatmaps.boxes_of(m, choice) for m in maps], maps


def heat_rows(
    run: "Run", name: str, rows: np.ndarray, maps: "np.ndarray | list[np.ndarray]"
) -> pd.DataFrame:
    """Table image, cnr of maps [n, S, S] of some rows, for those that have true boxes (pnloc.evaluation.localization.heat_table)."""
    truth, images = run.sets.true_boxes(name, kinds(name)), run.sets.records(name).images
    table = []
    for row, heat in zip(rows, maps, strict=True):
        if len(truth[row]):
            image = images.iloc[row]
            whole = run.sets.letterboxes(images.iloc[[row]])[0].boxes(
                [[0, 0, image["width"], image["height"]]]
            )[0]
            x1, y1, x2, y2 = whole.round().astype(int)
            true = truth[row] - [x1, y1, x1, y1]
            cut = heat[y1:y2, x1:x2]
            table.append((image["image"], metrics.contrast_to_noise(cut, true)))
    return pd.DataFrame(table, columns=["image", "cnr"])


def drawn(run: "Run", name: str, row: int, relative: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Boxes [n, 4], relative to an image, with weights [n], as a map [S, S] on its square input (pnloc.baselines.heatmaps.coverage)."""
    side = run.preset.detector.side
    return heatmaps.coverage(placed(run, name, [row], [relative])[0] / side, weights, side)


def maps_of_regions(run: "Run", name: str, rows: np.ndarray, mass: np.ndarray) -> list[np.ndarray]:
    """A mass over regions [n, R] of some rows as maps [S, S]: at each place the mass of the regions that cover it."""
    side, boxes = run.preset.detector.side, run.regions(name).rows(rows).boxes.numpy()
    return [heatmaps.coverage(b / side, m, side) for b, m in zip(boxes, mass, strict=True)]
