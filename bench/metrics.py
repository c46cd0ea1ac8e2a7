"""The bootstrap of the localization table: all samples as one product of matrices, beside a loop.

The loop measures every sample anew: it draws patients and sums what each image gives, as one would
write it first; COCO's average precision it takes from the reference code, pycocotools. Both sides
start from the same matched boxes or per-image values, so that drawing and summing is what is
compared.
"""

import contextlib
import io
import time

import numpy as np
import pandas as pd

from bench import COLUMNS
from pnloc.evaluation import bootstrap
from pnloc.evaluation import froc_ap as detection
from pnloc.evaluation import localization as metrics

IMAGES, NEGATIVES, PATIENTS, RESAMPLES = 300, 300, 350, 2000
LOOPED, JUDGED = 100, 4  # samples that the slow sides are timed on


def scene(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str], list[str]]:
    """Predictions, true boxes, patients and negatives, as many as in a test set of `demo`."""
    rng = np.random.default_rng(seed)
    names = [f"{n:04d}" for n in range(IMAGES + NEGATIVES)]
    owners = {name: f"p{rng.integers(PATIENTS):03d}" for name in names}

    def boxes(chosen: np.ndarray) -> pd.DataFrame:
        corner, size = rng.uniform(0, 120, (len(chosen), 2)), rng.uniform(20, 70, (len(chosen), 2))
        table = pd.DataFrame(
            np.concatenate([corner, corner + size], axis=1), columns=metrics.CORNERS
        )
        return table.assign(image=[names[i] for i in chosen])

    truth = boxes(np.repeat(np.arange(IMAGES), rng.integers(1, 3, IMAGES)))
    near = truth.assign(**{c: truth[c] + rng.normal(0, 8, len(truth)) for c in metrics.CORNERS})
    found = pd.concat([near, boxes(rng.integers(0, len(names), 500))], ignore_index=True)
    return found.assign(score=rng.random(len(found))), truth, owners, names[IMAGES:]


def best_of(function, repeats: int) -> float:
    """The least seconds of some runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def looped(values: np.ndarray, index: np.ndarray, resamples: int) -> np.ndarray:
    """Means over images [resamples, columns], patient after patient in a loop."""
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(index == p) for p in range(index.max() + 1)]
    means = []
    for _ in range(resamples):
        drawn = np.concatenate([members[p] for p in rng.integers(0, len(members), len(members))])
        means.append(values[drawn].mean(0))
    return np.array(means)


def by_pycocotools(cases: list[detection.Case]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box: np.ndarray) -> list[float]:
        return [float(v) for v in (*box[:2], *(box[2:] - box[:2]))]

    true = [(i, xywh(box)) for i, case in enumerate(cases) for box in case.true]
    found = [
        (i, xywh(b), float(s))
        for i, c in enumerate(cases)
        for b, s in zip(c.predicted, c.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(cases))],
            "categories": [{"id": 1}],
            "annotations": [
                {
                    "id": n + 1,
                    "image_id": i,
                    "bbox": b,
                    "area": b[2] * b[3],
                    "iscrowd": 0,
                    "category_id": 1,
                }
                for n, (i, b) in enumerate(true)
            ],
        }
        coco.createIndex()
        results = coco.loadRes(
            [{"image_id": i, "bbox": b, "score": s, "category_id": 1} for i, b, s in found]
        )
        judge = COCOeval(coco, results, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [100]
        judge.evaluate()
        judge.accumulate()


def run() -> pd.DataFrame:
    """Seconds for 2,000 samples; the slow sides are timed on fewer and scaled up."""
    found, truth, owners, negatives = scene()
    cases = metrics.cases(found, truth, negatives)
    patients = [owners[case.image] for case in cases]
    boxed = [case for case in cases if len(case.true)]  # they come first
    values = np.array([list(metrics.per_image(case).values()) for case in boxed])

    def vectorised() -> None:
        draws = bootstrap.Patients(patients[: len(boxed)], RESAMPLES, 0)
        _ = draws.drawn @ draws.sums(*values.T)

    drawn = bootstrap.Patients(patients, RESAMPLES, 0).weights
    index = bootstrap.Patients(patients[: len(boxed)], RESAMPLES, 0).index
    loop = best_of(lambda: looped(values, index, LOOPED), 3) * RESAMPLES / LOOPED
    coco = best_of(lambda: [by_pycocotools(cases) for _ in range(JUDGED)], 3) * RESAMPLES / JUDGED
    ours = best_of(vectorised, 5)
    precision = best_of(lambda: detection.average_precision(cases, drawn), 3)
    table = best_of(
        lambda: metrics.localization(found, metrics.Truth(truth, owners, negatives), RESAMPLES), 3
    )
    size = f"{len(cases)} images, {len(found)} predictions, {RESAMPLES} samples"
    rows = [
        [
            f"means over images: {size}; other: a plain loop",
            ours,
            loop,
            "s",
            loop / ours,
            "> 1",
            loop > ours,
        ],
        [
            f"COCO AP: {size}; other: pycocotools on every sample",
            precision,
            coco,
            "s",
            coco / precision,
            "> 10",
            coco > 10 * precision,
        ],
        [
            f"whole table of a method: {size}; other: its bar",
            table,
            2.0,
            "s",
            table / 2,
            "< 2 s",
            table < 2,
        ],
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
