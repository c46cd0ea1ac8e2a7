"""Read-outs of severity, from the image alone: what several detectors, the localizer and the lung finder say of it, per image and per zone.

Nothing here has seen a severity score. What is fitted (the combination) or chosen (the read-out that speaks for the method) is so on validation
patients of the detector's set, whose opacities are boxed: the truth there is the share of the lungs that the boxes cover.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from pnloc import baselines, datasets, duplicates, lungs, severity, views
from pnloc.boxes import as_boxes
from pnloc.cache import source_digest
from pnloc.images import Letterbox
from pnloc.localize import Choice, image_mass, pick
from pnloc.progress import bar
from pnloc.regions import Regions, extract, mask_mean
from pnloc.stages import NAMES, Run
from pnloc.train import device, generator, load_module, load_tensors, save_module, save_tensors

if TYPE_CHECKING:
    from pnloc.detector import Detector

READOUTS = (
    "combined",
    "detector: image",
    "detector: mask in the lungs",
    "detector: mask",
    "detector: area",
    "attended area",
    "expected severity",
    "pneumonia (text)",
    "attended area (labels only)",
    "pneumonia (labels only)",
)
TRIVIAL = ("image-label classifier", "brightness in the lungs", "brightness", "fixed boxes")
PARTS = ("detector: image", "detector: mask in the lungs", "detector: area", "attended area", "expected severity")
CHOICES = ("text-attention", "image-label-attention", "detector")  # what must be chosen on validation images before
CELLS = 64  # per side of the grid on which areas inside the lungs are measured


# Networks -------------------------------------------------------------------------------------------------


def _stage(run: Run, title: str, rows: np.ndarray, seed: int) -> tuple[Path, str]:
    """A further detector, trained as the run's own but with another seed or on other images."""
    name = run.title(run.preset.roles.detector)
    modules = source_digest("detector", "inputs", "train")

    def make(folder: Path, key: str) -> None:
        from pnloc.detector import train_detector

        pixels, boxes = run.pixels(name)[rows], run.true_boxes(name)
        detector, _ = train_detector(
            pixels, [boxes[i] for i in rows], run.preset.detector, seed=seed, folder=folder, fingerprint=key
        )
        save_module(folder / "detector.safetensors", detector)

    inputs = (run.preset.detector, run._decoded(name)[1], rows.tolist(), seed, modules)
    return run.cache.stage(title, *inputs, make=make)


def _member_stage(run: Run, number: int) -> tuple[Path, str]:
    """The detector of another seed."""
    rows = run.rows(run.title(run.preset.roles.detector), "train")
    return _stage(run, f"detector-member-{number}", rows, run.seed + 1000 * number)


def _trained(run: Run, title: str, rows: np.ndarray, seed: int) -> "Detector":
    from pnloc.detector import Detector

    module = load_module(_stage(run, title, rows, seed)[0] / "detector.safetensors", Detector(run.preset.detector))
    return module.to(device(), memory_format=torch.channels_last).eval()


@lru_cache(None)
def detectors(run: Run) -> "list[Detector]":
    """The run's detector and, where the preset asks for more, those of other seeds."""
    rows = run.rows(run.title(run.preset.roles.detector), "train")
    numbers = range(1, run.preset.severity.detectors)
    return [run.detector, *(_trained(run, f"detector-member-{n}", rows, run.seed + 1000 * n) for n in numbers)]


def _lungs_stage(run: Run) -> tuple[Path, str]:
    config = run.preset.severity
    inputs = (config.anatomies, config.epochs, run.seed, source_digest("lungs", "demo", "inputs", "train"))

    def make(folder: Path, key: str) -> None:
        images, masks = lungs.generated(config.anatomies, run.seed)
        net, _ = lungs.train_lungs(
            images, masks, epochs=config.epochs, seed=run.seed, folder=folder, fingerprint=key
        )  # fmt: skip
        save_module(folder / "lungs.safetensors", net)
        shown = torch.from_numpy(np.stack([lungs.boxes(m[None].astype(float), np.zeros((2, 4)))[0][0] for m in masks]))
        save_tensors(folder / "usual.safetensors", {"boxes": shown.float()})

    return run.cache.stage("lungs", *inputs, make=make)


@lru_cache(None)
def lung_finder(run: Run) -> lungs.LungNet:
    """The lung finder of the run, trained on generated radiographs."""
    return load_module(_lungs_stage(run)[0] / "lungs.safetensors", lungs.LungNet()).to(device()).eval()


@dataclass(frozen=True)
class Lungs:
    """Lungs of N pictures of S x S pixels: boxes [N, 2, 4] relative to the picture, found [N, 2] bool."""

    boxes: np.ndarray
    found: np.ndarray

    @property
    def zones(self) -> np.ndarray:
        """[N, 6, 4], A to F, relative to the picture."""
        return lungs.zones(self.boxes)


def find_lungs(run: Run, pixels: np.ndarray) -> Lungs:
    """Lungs of uint8 pictures [N, S, S]; one that is not found lies where it usually does in generated radiographs."""
    usual = load_tensors(_lungs_stage(run)[0] / "usual.safetensors")["boxes"].median(0).values.numpy()
    return Lungs(*lungs.boxes(lungs.masks(lung_finder(run), pixels), usual))


# Looks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What V looks (each detector, at the image as it is and mirrored) say of N images.

    image [V, N] probability of an opacity; mask [V, N, h, w] probability per cell; area [V, N] of the detected boxes, in pictures.
    """

    image: np.ndarray
    mask: np.ndarray
    area: np.ndarray

    def mean(self, looks: slice = slice(None)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image [N], by the mean of the log-odds; mask [N, h, w]; area [N]: means over some looks."""
        odds = logit(self.image[looks].clip(1e-6, 1 - 1e-6)).mean(0)
        return expit(odds), self.mask[looks].mean(0), self.area[looks].mean(0)


def look(run: Run, members: "list[Detector]", pixels: np.ndarray, choice: Choice, mirrored: bool = True) -> Look:
    """Show uint8 pictures [N, S, S] to some detectors. Looks come detector by detector, each first as it is."""
    images, masks, areas = [], [], []
    for detector in members:
        for flipped in (False, True) if mirrored else (False,):
            regions = extract(detector, pixels[..., ::-1].copy() if flipped else pixels, run.preset.regions)
            mask = regions.mask.float().numpy()
            images.append(regions.image.numpy())
            masks.append(mask[..., ::-1] if flipped else mask)
            areas.append(detected_area(regions, choice, pixels.shape[-1]))
    return Look(np.stack(images), np.stack(masks), np.stack(areas))


def masks_of(run: Run, pixels: np.ndarray) -> np.ndarray:
    """The mean mask [N, h, w] of all detectors on uint8 pictures [N, S, S]."""
    return look(run, detectors(run), pixels, Choice()).mean()[1]


def share(box: Letterbox) -> float:
    """The picture's share of its padded square."""
    return box.width * box.height * (box.scale / box.side) ** 2


def detected_area(regions: Regions, choice: Choice, side: int) -> np.ndarray:
    """Area [N] of the boxes that a choice keeps of the detector's, in pictures of side x side, times the best region's score."""
    scores = regions.scores.numpy()
    mass = scores / np.maximum(scores.sum(1, keepdims=True), 1e-9)
    return np.array([
        np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum() / side**2 * (best.max() if len(best) else 0.0)
        for (boxes, _), best in zip(pick(regions, mass, choice), scores, strict=True)
    ])  # fmt: skip


def covered(found: list[np.ndarray], places: np.ndarray) -> np.ndarray:
    """Share [N, K] of each of K places [N, K, 4] that the union of an image's boxes [n, 4] covers; all relative to the picture."""
    shares = np.zeros(places.shape[:2])
    centres = (np.arange(CELLS) + 0.5) / CELLS
    for row, boxes in enumerate(found):
        for column, (x1, y1, x2, y2) in enumerate(places[row]):
            x, y = x1 + centres * (x2 - x1), y1 + centres * (y2 - y1)
            inside = np.zeros((CELLS, CELLS), dtype=bool)
            for left, top, right, bottom in as_boxes(boxes):
                inside |= np.outer((top <= y) & (y < bottom), (left <= x) & (x < right))
            shares[row, column] = inside.mean()
    return shares


def in_lungs(values: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Values of the two lungs [N, 2] as one [N], weighted by the area of their boxes [N, 2, 4]."""
    area = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    return (values * area).sum(1) / np.maximum(area.sum(1), 1e-9)


def within(masks: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Mean [N, K] of masks [N, h, w] inside each of K places [N, K, 4], relative to the picture."""
    return np.stack([mask_mean(m, p, 1) for m, p in zip(masks, places, strict=True)])


# Values ---------------------------------------------------------------------------------------------------


def values(run: Run, name: str, rows: np.ndarray, choices: dict[str, Choice]) -> pd.DataFrame:
    """Every read-out but the combined one, for some rows of a set; with 'zone A' to 'zone F' (mean of the mask) and 'lungs found'."""
    pixels, regions = run.pixels(name)[rows], run.regions(name).rows(rows)
    images = run.records(name).images.iloc[rows]
    boxes = run.letterboxes(images)
    picture = np.array([share(b) for b in boxes])
    here, seen = find_lungs(run, pixels), look(run, detectors(run), pixels, choices["detector"])
    table = pd.DataFrame(of_look(seen, here, picture), index=images["image"])
    table["detector: image, one"] = seen.image[0]
    side = pixels.shape[-1]
    for arm, text in (("text", True), ("labels only", False)):
        model, _ = run.localizer(text)
        mass, chances = image_mass(model, regions)
        found = [
            b / side for b, _ in pick(regions, mass, choices["text-attention" if text else "image-label-attention"])
        ]
        attended = in_lungs(covered(found, here.boxes), here.boxes) * chances[:, 0]
        table["attended area" + ("" if text else f" ({arm})")] = attended
        table[f"pneumonia ({arm})"] = chances[:, 0]
        if text:
            graded = severity.expected_severity(pd.DataFrame(chances, columns=list(NAMES)))
            table["expected severity"] = graded.to_numpy()
    prior = fixed_boxes(run)
    pair = [b.boxes(prior * [b.width, b.height, b.width, b.height]) / side for b in boxes]
    table["fixed boxes"] = in_lungs(covered(pair, here.boxes), here.boxes)
    table["brightness"] = np.concatenate([severity.brightness(p[None], q) for p, q in zip(pixels, pair, strict=True)])
    table["brightness in the lungs"] = np.concatenate(
        [severity.brightness(p[None], q) for p, q in zip(pixels, here.boxes, strict=True)]
    )
    table["image-label classifier"] = classify(run, pixels)
    zoned = within(seen.mean()[1], here.zones)
    for column, zone in enumerate(lungs.ZONES):
        table[f"zone {zone}"] = zoned[:, column]
    table["lungs found"] = here.found.sum(1)
    return table


def of_look(seen: Look, here: Lungs, picture: np.ndarray) -> dict[str, np.ndarray]:
    """The detectors' read-outs from a look and the lungs; picture [N] is the share of the square that is not padding."""
    image, mask, area = seen.mean()
    return {
        "detector: image": image,
        "detector: mask in the lungs": in_lungs(within(mask, here.boxes), here.boxes),
        "detector: mask": mask.mean((1, 2)) / picture,
        "detector: area": area / picture,
    }


def fixed_boxes(run: Run) -> np.ndarray:
    """The fixed-box prior [2, 4], relative to the picture, from training boxes of the detector's set."""
    name = run.title(run.preset.roles.detector)
    images = run.records(name).images
    truth, boxes = run.true_boxes(name), run.letterboxes(images)
    relative = [boxes[i].inverse(truth[i]) / ([boxes[i].width, boxes[i].height] * 2) for i in run.rows(name, "train")]
    return baselines.fixed_pair(np.concatenate(relative))


@torch.no_grad()
def classify(run: Run, pixels: np.ndarray, batch: int = 32) -> np.ndarray:
    """Probability [N] of a pneumonia by the classifier trained on image labels alone."""
    model, found = run.classifier, [np.zeros(0, dtype=np.float32)]
    where = next(model.parameters()).device
    for start in range(0, len(pixels), batch):
        pictures = torch.from_numpy(pixels[start : start + batch])[:, None].to(where)
        found.append(torch.sigmoid(model(pictures)[:, 0]).float().cpu().numpy())
    return np.concatenate(found)


# Fitted and chosen where boxes are known ------------------------------------------------------------------


@dataclass(frozen=True)
class Combination:
    """A sum of standardized PARTS with weights of at least 0, fitted to the boxed share of the lungs."""

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray

    def __call__(self, table: pd.DataFrame) -> np.ndarray:
        """The combined read-out [N] of a table that has the PARTS."""
        return ((table[list(PARTS)].to_numpy(float) - self.mean) / self.deviation) @ self.weights


def combine(table: pd.DataFrame, truth: np.ndarray) -> Combination:
    """Non-negative least squares of truth [N] on the PARTS, each at its own mean; equal weights where truth does not vary."""
    parts = table[list(PARTS)].to_numpy(float)
    mean, deviation = parts.mean(0), np.maximum(parts.std(0), 1e-9)
    weights, _ = nnls((parts - mean) / deviation, truth - truth.mean())
    return Combination(mean, deviation, weights if weights.any() else np.full(len(PARTS), 1 / len(PARTS)))


def validated(run: Run, choices: dict[str, Choice]) -> tuple[pd.DataFrame, np.ndarray]:
    """Read-outs of the detector's set's validation images, and the share [N] of their lungs that the true boxes cover."""
    name = run.title(run.preset.roles.detector)
    rows = run.rows(name, "validate")
    table = saved(run, name, rows, choices)
    here, truth = find_lungs(run, run.pixels(name)[rows]), run.true_boxes(name)
    boxed = [truth[i] / run.preset.detector.side for i in rows]
    return table, in_lungs(covered(boxed, here.boxes), here.boxes)


def saved(run: Run, name: str, rows: np.ndarray, choices: dict[str, Choice]) -> pd.DataFrame:
    """What `values` gives, kept on disk as a stage."""
    models = [_member_stage(run, n)[1] for n in range(1, run.preset.severity.detectors)]
    models += [run._regions_stage(name)[1], run._localizer_stage(True)[1], run._localizer_stage(False)[1]]
    models += [run._classifier_stage[1], _lungs_stage(run)[1], [choices[c] for c in CHOICES].__repr__()]
    modules = source_digest("readouts", "severity", "localize", "regions", "boxes", "lungs", "baselines")

    def make(folder: Path, _: str) -> None:
        values(run, name, rows, choices).reset_index().to_parquet(folder / "values.parquet")

    folder, _ = run.cache.stage(f"readouts-{name}", models, rows.tolist(), modules, make=make)
    return pd.read_parquet(folder / "values.parquet").set_index("image")


def comparison(run: Run, choices: dict[str, Choice]) -> pd.DataFrame:
    """How each read-out follows the truth of the validation images: readout, pearson, spearman, auc, n, positives, chosen.

    pearson and spearman: with the boxed share of the lungs; auc: of a box's presence. The combined read-out of an image is that of weights
    fitted on all others. Chosen, to speak for the method, is the read-out of ours with the highest sum of both correlations.
    """
    table, truth = validated(run, choices)
    table = table.assign(combined=0.0)
    for place in range(len(table)):
        others = np.arange(len(table)) != place
        table.iloc[place, table.columns.get_loc("combined")] = combine(table[others], truth[others])(table[~others])[0]
    one, rows = np.ones((1, len(truth))), []
    for readout in (*READOUTS, *TRIVIAL, "detector: image, one"):
        x = table[readout].to_numpy(float)
        both = [float(f(x, truth, one)[0]) for f in (severity._pearson, severity._spearman)]
        auc = roc_auc_score(truth > 0, x) if 0 < (truth > 0).sum() < len(truth) else np.nan
        rows.append((readout, *both, auc, len(truth), int((truth > 0).sum())))
    found = pd.DataFrame(rows, columns=["readout", "pearson", "spearman", "auc", "n", "positives"])
    ours = found["readout"].isin(READOUTS)
    best = (found["pearson"] + found["spearman"]).where(ours).fillna(-np.inf).idxmax()
    return found.assign(chosen=found.index == best)


def scored(run: Run, name: str, choices: dict[str, Choice]) -> pd.DataFrame:
    """One row per scored image of a set: image, patient, view, width, height, its scores, and every read-out."""
    records = run.records(name)
    facts = records.images[["image", "patient", "view", "width", "height"]].assign(patient=persons(run, name))
    table = records.scores.merge(facts, on="image")
    rows = pd.Series(np.arange(len(records.images)), index=records.images["image"])[table["image"]].to_numpy()
    found = saved(run, name, rows, choices)
    found = found.assign(combined=combine(*validated(run, choices))(found))
    return table.join(found, on="image")


def persons(run: Run, name: str) -> pd.Series:
    """The patient of each image row of a set; patients of whom images are the same by content count as one."""
    images = run.records(name).images
    boxes = run.letterboxes(images)
    small = np.array([duplicates.thumbnail(p, b) for p, b in zip(run.pixels(name), boxes, strict=True)], dtype=np.uint8)
    person = images["patient"].copy()
    for a, b in duplicates.pairs(small.reshape(-1, duplicates.SIDE, duplicates.SIDE))[["a", "b"]].to_numpy(int):
        person = person.replace(person.iloc[b], person.iloc[a])
    return person


def home(run: Run, name: str) -> Path:
    """The folder of a COVID-19 set."""
    return (run.folder if name.startswith("demo-") else run.data) / datasets.FOLDERS["covid19"]


# Input handling -------------------------------------------------------------------------------------------


def by_input(run: Run, name: str, rows: np.ndarray, choices: dict[str, Choice]) -> dict[str, pd.DataFrame]:
    """The read-outs of the run's own detector by way of showing it some images of a set (pnloc.views), kept on disk."""
    models = [run._regions_stage(name)[1], _lungs_stage(run)[1], repr(choices["detector"])]
    modules = source_digest("readouts", "views", "lungs", "regions", "boxes", "images")
    images = run.records(name).images.iloc[rows]

    def make(folder: Path, _: str) -> None:
        training = run.title(run.preset.roles.detector)
        fixed = views.unnormalised(run.detector, run.pixels(training)[run.rows(training, "train")])
        found = []
        for way, made in bar(
            views.ways(run.pixels(name)[rows], run.letterboxes(images), list(images["path"])).items(),
            desc="ways to show an image",
        ):
            pixels, picture = made()
            detector = fixed if way.startswith(views.FIXED) else run.detector
            seen = look(run, [detector], pixels, choices["detector"], mirrored=False)
            table = pd.DataFrame(of_look(seen, find_lungs(run, pixels), picture))
            found.append(table.assign(image=images["image"].to_numpy(), way=way))
        pd.concat(found).to_parquet(folder / "inputs.parquet")

    folder, _ = run.cache.stage(f"inputs-{name}", models, rows.tolist(), modules, make=make)
    table = pd.read_parquet(folder / "inputs.parquet")
    return {way: rows.set_index("image") for way, rows in table.groupby("way", sort=False)}


def by_share(
    run: Run, names: list[str], choices: dict[str, Choice]
) -> Iterator[tuple[float, dict[str, int], str, pd.DataFrame]]:
    """Detectors trained on shares of the training images: share, how many images (and how many boxed), set, read-outs by image.

    Beside the sets' scored images come the validation images of the detector's set, with 'truth' and 'patient'. One detector alone,
    the run's own, is the whole share; nothing is trained where the preset names no shares.
    """
    home = run.title(run.preset.roles.detector)
    boxes, training = run.true_boxes(home), run.rows(home, "train")
    shown = {name: run.rows(name, "test") for name in names} | {home: run.rows(home, "validate")}
    for part in (*run.preset.severity.shares, 1.0) if run.preset.severity.shares else ():
        rows = np.sort(generator(run.seed, 301).permutation(training)[: round(part * len(training))])
        counts = {"images": len(rows), "boxed": sum(len(boxes[i]) > 0 for i in rows)}
        detector = run.detector if part == 1 else _trained(run, f"detector-share-{round(part * 100)}", rows, run.seed)
        for name, wanted in shown.items():
            images, pixels = run.records(name).images.iloc[wanted], run.pixels(name)[wanted]
            here = find_lungs(run, pixels)
            picture = np.array([share(b) for b in run.letterboxes(images)])
            found = of_look(look(run, [detector], pixels, choices["detector"], mirrored=False), here, picture)
            table = pd.DataFrame(found, index=images["image"]).assign(patient=images["patient"].to_numpy())
            if name == home:
                boxed = [boxes[i] / run.preset.detector.side for i in wanted]
                table["truth"] = in_lungs(covered(boxed, here.boxes), here.boxes)
            yield part, counts, name, table
