"""What a checkpoint knows of itself: what it was trained on, and what its numbers are worth.

How images look is learned from training images; the limit beyond which an image is unlike them, the
calibration of scores, and which attributes the image tells come from validation images alone.
"""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import block_diag
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from pnloc.evaluation import localization as metrics
from pnloc.evaluation.bootstrap import Patients
from pnloc.evaluation.calibration import LEAST, platt, right_boxes
from pnloc.files import load_tensors, read_json, save_tensors, write_json
from pnloc.localizer import BOX, Experience, image_attention
from pnloc.regions import GREY, appearance
from pnloc.run import predictions as predict
from pnloc.run.evidence import Images
from pnloc.run.methods import METHODS
from pnloc.run.run import Run
from pnloc.run.sets import NAMES

METHOD = "text-attention"  # the one that a checkpoint holds
CALIBRATED = f"{METHOD}-calibrated"  # its boxes with calibrated scores, in tables
COMPONENTS = 16  # of the pooled features
MOST = 1000  # images of a set and split that are looked at
QUANTILE = 0.99  # of the validation images' distances: the limit
RARE = 10  # training reports with an attribute, below which it is not given


def experience(run: Run) -> Experience:
    """The experience of a run's localizer, kept as a stage on disk."""
    names = list(dict.fromkeys([run.title(run.preset.roles.detector), *run.sets.training]))
    measured = run.title(run.preset.roles.localization[0])

    def make(folder: Path, _: str) -> None:
        made = _experience(run, names, measured)
        save_tensors(folder / "looks.safetensors", made.looks)
        write_json(folder / "experience.json", asdict(replace(made, looks={})))

    upstream = [run.regions_stage(name)[1] for name in [*names, measured]]
    inputs = (upstream, run.localizer_stage(True)[1], run.preset.resamples, run.seed)
    folder, _ = run.cache.stage("experience", *inputs, make=make)
    known = Experience(**read_json(folder / "experience.json"))
    return replace(known, looks=load_tensors(folder / "looks.safetensors"))


def _experience(run: Run, names: list[str], measured: str) -> Experience:
    training, held = ([_appearances(run, n, s) for n in names] for s in ("train", "validate"))
    known = Experience(looks=fit_looks(np.concatenate(training)))
    distances = known.distances(np.concatenate(held if any(map(len, held)) else training))
    counts = {name: len(run.sets.rows(name, "train")) for name in names}
    curves, reasons = attribute_curves(*_stated(run), resamples=run.preset.resamples, seed=run.seed)
    if curve := platt(*_boxes(run, measured)):
        curves[BOX] = curve
    else:
        few = f"fewer than {LEAST} right or wrong boxes on validation images"
        reasons[BOX] = f"scores of boxes are not calibrated: {few}"
    return replace(
        known,
        sets={n: {"images": counts[n], "generated": run.preset.generated} for n in names},
        limit=float(np.quantile(distances, QUANTILE)),
        curves=curves,
        reasons=reasons,
    )


def _appearances(run: Run, name: str, split: str) -> np.ndarray:
    """What at most MOST images of a set and split look like [n, F]."""
    rows = run.sets.rows(name, split)
    rows = rows[:: -(-len(rows) // MOST) or 1]
    return appearance(run.sets.pixels(name)[rows], run.regions(name).rows(rows))


def fit_looks(images: np.ndarray) -> dict[str, torch.Tensor]:
    """`Experience.looks` of the appearances [N, F] of training images.

    The first principal components of the pooled features, beside the grey statistics, under a
    shrunk covariance (Ledoit and Wolf 2004): many features of few images would fit these alone.
    """
    centre, scale = images.mean(0), images.std(0).clip(1e-3)
    standard = (images - centre) / scale
    pooled = standard[:, :-GREY]
    components = PCA(min(COMPONENTS, *pooled.shape), random_state=0).fit(pooled).components_
    basis = block_diag(components.T, np.eye(GREY))
    basis /= (standard @ basis).std(0).clip(1e-3)
    precision = LedoitWolf().fit(standard @ basis).precision_
    axes = basis @ np.linalg.cholesky(precision) / scale[:, None]
    return {"centre": torch.from_numpy(centre), "axes": torch.from_numpy(axes)}


def _boxes(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Score of each predicted box on a set's validation images, and whether it is right."""
    truth = predict.truth(run, name, "validate")
    if truth.boxes.empty:
        return np.zeros(0), np.zeros(0)
    images = run.sets.records(name).images["image"]
    images = Images(run, name, np.flatnonzero(images.isin(list(truth.patients))))
    choice, _ = predict.choose(run, METHOD)
    found = METHODS[METHOD].evidence(images).predictions(choice)
    boxes = right_boxes(predict.boxes_table(run, name, images.rows, found), truth)
    return boxes["score"].to_numpy(), boxes["right"].to_numpy()


def _stated(run: Run) -> tuple[np.ndarray, ...]:
    """What reports say: training studies with each attribute [A]; of N validation studies labels,
    weights and scores [N, A], and patients [N].
    """
    present, parts = np.zeros(len(NAMES)), []
    for name in run.sets.training:
        _, labels, weights = run.sets.supervision(name)
        trained, held = (run.sets.rows(name, split) for split in ("train", "validate"))
        present += (labels * (weights > 0))[trained].sum(0)
        scores = image_attention(run.localizer(True)[0], run.regions(name).rows(held))[1]
        patients = run.sets.records(name).images["patient"].to_numpy()[held]
        parts.append((labels[held], weights[held], scores, patients))
    return present, *map(np.concatenate, zip(*parts, strict=True))


def attribute_curves(
    present: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    scores: np.ndarray,
    patients: np.ndarray,
    **draws: int,
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Curves of the attributes that validation supports, and the reasons of the others, by name.

    present [A]: training studies with the attribute; of N validation studies labels, weights (0:
    unknown) and scores [N, A], and patients [N]. `draws`: resamples and seed.
    """
    curves, reasons = {}, {}
    for column, name in enumerate(NAMES):
        known = weights[:, column] > 0
        truth, own = labels[known, column], scores[known, column]
        reason = why_not(int(present[column]), truth, own, Patients(patients[known], **draws))
        if reason:
            reasons[name] = reason
        else:
            curves[name] = platt(own, truth)
    return curves, reasons


def why_not(present: int, truth: np.ndarray, scores: np.ndarray, drawn: Patients) -> str:
    """Why an attribute is not given a probability, in words; '' where it is.

    present: training studies with it; truth and scores [n]: of validation studies.
    """
    count, n = int(truth.sum()), len(truth)
    if present < RARE:
        return (
            f"present in {present} training studies only" if present else "never seen in training"
        )
    if min(count, n - count) < LEAST:
        return f"present in {count} of {n} validation studies: too few to test it"
    auc = drawn.of(partial(metrics.auc, truth, scores))
    if auc.low > 0.5:
        return ""
    interval = f"AUC {auc.value:.2f}, 95% interval {auc.low:.2f} to {auc.high:.2f}"
    return f"no better than chance on validation studies ({interval})"
