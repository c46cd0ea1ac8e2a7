"""The gain from training with reports: in boxes, over several seeds of the attention, and severity.

Between two seeds the results differ by as much as text adds.
"""

import numpy as np
import pandas as pd

from pnloc.evaluation.bootstrap import Estimate, Patients
from pnloc.files import read_csv, write_table
from pnloc.run import localization
from pnloc.run.evidence import Images, boxed_rows, unions
from pnloc.run.methods import METHODS
from pnloc.run.predictions import choose
from pnloc.run.run import Run
from pnloc.run.severity import tables as severity

COLUMNS = ["dataset", "seed", "text", "labels", "value", "low", "high", "n"]
ARMS = ("text-attention", "image-label-attention")
MEAN = "mean"  # in the column `seed`: all of them


def table(run: Run) -> pd.DataFrame:
    """`tables/text_seeds.csv`: dataset, seed, text, labels, value, low, high, n.

    Mean union IoU on test images with a box, of the attention trained with reports and with image
    labels alone, and their difference with its 95% interval over patients. The number of boxes is
    chosen on validation images for each training. In the row 'mean' the values of an image are
    first averaged over the seeds. Empty if the preset has one seed.
    """
    if run.preset.seeds < 2:
        return pd.DataFrame(columns=COLUMNS)
    names = [run.title(role) for role in run.preset.roles.localization]

    def make() -> dict[str, pd.DataFrame]:
        values = {name: np.array([_values(run, name, arm) for arm in ARMS]) for name in names}
        rows = [row for name, both in values.items() for row in _rows(run, name, *both)]
        return {"text_seeds": pd.DataFrame(rows, columns=COLUMNS)}

    models = [run.localizer_stage(text, seed)[1] for seed in seeds(run) for text in (True, False)]
    models += [run.regions_stage(name)[1] for name in names]
    run.cache.tables("text-seeds", models, run.preset.resamples, run.seed, make=make)
    return read_csv(run.root / "tables" / "text_seeds.csv", COLUMNS, dtype={"seed": str})


def seeds(run: Run) -> list[int]:
    """The seeds of the attention: the run's own, then others, far from those of other runs."""
    return [run.seed + 1000 * k for k in range(run.preset.seeds)]


def _values(run: Run, name: str, method: str) -> list[np.ndarray]:
    """Union IoU [seeds, n] of a method on the test images of a set that have a box."""
    images, values = Images(run, name, boxed_rows(run, name, "test")), []
    for seed in seeds(run):
        choice, _ = choose(run, method, seed=seed)
        boxes = METHODS[method].evidence(images, seed=seed).predictions(choice)
        values.append(unions(boxes, images.truth))
    return values


def _rows(run: Run, name: str, text: np.ndarray, labels: np.ndarray) -> list[tuple]:
    """Rows of COLUMNS from the union IoU [seeds, n] of both arms."""
    patients = run.sets.records(name).images["patient"].to_numpy()[boxed_rows(run, name, "test")]
    if not len(patients):
        return []
    draws = Patients(patients, **localization.draws(run))
    counts = draws.drawn[:, draws.index]
    arms = {MEAN: (text.mean(0), labels.mean(0))}
    arms |= {str(seed): (text[k], labels[k]) for k, seed in enumerate(seeds(run))}
    rows = []
    for seed, (a, b) in arms.items():
        gap = Estimate.of((a - b).mean(), counts @ (a - b) / counts.sum(1), len(patients))
        rows.append((name, seed, a.mean(), b.mean(), *gap))
    return rows


def text_on_real(run: Run) -> pd.DataFrame:
    """`tables/text_on_real.csv`: dataset, measure, score, text, labels, value, low, high, n.

    The localizer trained with the reports of the pairs, the same one trained with image labels
    only, and their difference, paired over patients: the union IoU of the boxes, for the run's
    seed and averaged over seeds; attention on the zones that radiologists scored; read-outs of
    severity. No patient of a measured image is in either training. Empty where the pairs are
    generated.
    """
    columns = ["dataset", "measure", "score", *COLUMNS[2:]]
    parts = [pd.DataFrame(columns=columns)] if run.preset.generated else _on_real(run)
    result = pd.concat(parts, ignore_index=True)[columns]
    write_table(run.root / "tables" / "text_on_real.csv", result)
    return result


def _on_real(run: Run) -> list[pd.DataFrame]:
    gaps, levels = localization.differences(run), localization.localization(run)
    gaps = severity.at(gaps, method=ARMS[0], against=ARMS[1], metric="miou")
    levels = severity.at(levels, metric="miou").set_index(["method", "dataset"])["value"]
    gaps = _with_arms(gaps, levels, ARMS, ["dataset"])
    parts = [gaps.assign(measure="union IoU", score="boxes")]
    mean = severity.at(table(run), seed=MEAN)
    parts.append(mean.assign(measure=f"union IoU, {run.preset.seeds} seeds", score="boxes"))
    levels = severity.at(severity.severity_table(run), fit="zero-shot")
    names = ("text", "differences")
    zones, gaps = (read_csv(run.root / "tables" / f"severity_{name}.csv") for name in names)
    measure, score = "zones, " + zones["statistic"], "Brixia, " + zones["against"]
    parts.append(zones.assign(measure=measure, score=score))
    on = ["dataset", "score", "statistic"]
    levels = levels.set_index(["readout", *on])["value"]
    for arms in severity.TEXT:
        rows = _with_arms(severity.at(gaps, readout=arms[0], against=arms[1]), levels, arms, on)
        measure = rows["statistic"] + ", " + arms[0].removesuffix(" (text)")
        parts.append(rows.assign(measure=measure))
    return parts


def _with_arms(
    gaps: pd.DataFrame, levels: pd.Series, arms: tuple[str, str], on: list[str]
) -> pd.DataFrame:
    """Differences with the value of either arm beside them; levels are indexed by arm and `on`."""
    return gaps.join(levels.unstack(0)[list(arms)].set_axis(["text", "labels"], axis=1), on=on)
