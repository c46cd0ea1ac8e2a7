"""Further detectors of a run: of other seeds, on fewer images, and of the folds of a cross-validation by patient.

The first fold holds the images that the run's own detector was not trained on; the training images are split among the other folds, each with a
detector trained on all images but its own. They serve twice. Each image of the detector's set is measured by the one that has not seen its
patient (pnloc.run.folds); on other sets, where none has seen any patient, all are averaged (pnloc.run.severity.ensemble).
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pnloc.regions import Regions, concatenate, extract
from pnloc.run.cache import Trained
from pnloc.run.run import Run

if TYPE_CHECKING:
    from pnloc.detector import Detector


def home(run: Run) -> str:
    """Title of the set whose boxes train the detectors."""
    return run.title(run.preset.roles.detector)


def plan(run: Run, number: int) -> tuple[str, np.ndarray, int]:
    """Title, training rows and seed of the detector of that number, from 1 on: of a fold while there are any, then of another seed."""
    if number < run.preset.folds:
        return (
            f"detector-fold-{number}",
            np.flatnonzero(folds(run) != number),
            run.seed + 1000 * number,
        )
    return f"detector-member-{number}", run.sets.rows(home(run), "train"), run.seed + 1000 * number


def fold_detector(run: Run, fold: int) -> "Detector":
    """The detector that has not seen the images of a fold, from 0 on."""
    return run.train_detector(*plan(run, fold)).load() if fold else run.detector


def member_stage(run: Run, number: int) -> Trained:
    """The detector of that number, from 1 on."""
    return run.train_detector(*plan(run, number))


@lru_cache(None)
def further(run: Run) -> "list[Detector]":
    """The detectors that are averaged with the run's own."""
    return [member_stage(run, number).load() for number in range(1, run.preset.severity.detectors)]


@lru_cache(None)
def folds(run: Run) -> np.ndarray:
    """The fold [N], from 0 on, of each image of the detector's set: patients whole, about as many images with a box in each but the first."""
    from sklearn.model_selection import StratifiedGroupKFold

    name = home(run)
    boxed = np.array([len(b) > 0 for b in run.sets.true_boxes(name)])
    patients, training = (
        run.sets.records(name).images["patient"].to_numpy(),
        run.sets.rows(name, "train"),
    )
    split = StratifiedGroupKFold(run.preset.folds - 1, shuffle=True, random_state=run.seed)
    number = np.zeros(len(boxed), dtype=int)
    for fold, (_, rows) in enumerate(
        split.split(training, boxed[training], patients[training]), start=1
    ):
        number[training[rows]] = fold
    return number


def fold_keys(run: Run) -> list[str]:
    """Fingerprints of the detectors of all folds."""
    return [
        run.detector_stage[1],
        *(member_stage(run, number)[1] for number in range(1, run.preset.folds)),
    ]


def unseen_regions(run: Run) -> Regions:
    """Regions of every image of the detector's set, by the detector of its own fold, which has not seen its patient."""
    name, fold = home(run), folds(run)

    def make(folder: Path, _: str) -> None:
        parts = [
            extract(fold_detector(run, k), run.sets.pixels(name)[fold == k], run.preset.regions)
            for k in range(run.preset.folds)
        ]
        order = np.argsort(np.argsort(fold, kind="stable"))
        concatenate(parts).rows(order).save(folder / "regions.safetensors")

    folder, _ = run.cache.stage(
        "regions-folds", fold_keys(run), run.preset.regions, make=make, code=(extract,)
    )
    return Regions.load(folder / "regions.safetensors")
