"""The results of a run: every table in `tables/`, and the localizer in `checkpoint/`.

What training with reports adds is told in boxes, over several seeds of the attention, since between
two of them the results differ by as much as text adds, and in severity.
"""

from itertools import product

import numpy as np
import pandas as pd

from pnloc.evaluation.bootstrap import Estimate, Patients
from pnloc.files import read_csv, write_table
from pnloc.localizer import Localizer
from pnloc.run import localization
from pnloc.run.evidence import Images, boxed_rows, unions
from pnloc.run.experience import METHOD, experience
from pnloc.run.methods import METHODS
from pnloc.run.predictions import choose
from pnloc.run.run import Run
from pnloc.run.sets import NAMES
from pnloc.run.severity import tables as severity

ARMS = ("text-attention", "image-label-attention")
GAIN = ["text", "labels", "value", "low", "high", "n"]
MEAN = "mean"  # in the column `seed`: all of them


def tables(run: Run) -> pd.DataFrame:
    """Write every table of results, and the checkpoint; returns the table of localization."""
    compared = localization.compared(run)
    for make in (severity.severity_table, localization.recall, localization.attributes, checkpoint):
        make(run)
    return compared["localization"]


def checkpoint(run: Run) -> Localizer:
    """Write `checkpoint/` (detector, model, words, config.json) and return its localizer."""
    model, _ = run.localizer(True)
    choice, _ = choose(run, METHOD)
    known = experience(run)
    localizer = Localizer(run.detector, model, NAMES, choice, run.preset.regions, known)
    config = run.preset.as_dict()["model"]
    localizer.save(run.root / "checkpoint", preset=run.preset.name, seed=run.seed, model=config)
    run.sets.vectors.save(run.root / "checkpoint" / "words.safetensors")
    return localizer


def seeds(run: Run) -> list[int]:
    """The seeds of the attention: the run's own, then others, far from those of other runs."""
    return [run.seed + 1000 * k for k in range(run.preset.seeds)]


def text_seeds(run: Run) -> pd.DataFrame:
    """`tables/text_seeds.csv`: dataset, seed, text, labels, value, low, high, n.

    Mean union IoU on test images with a box, of the attention trained with reports and with image
    labels alone, and their difference with its 95% interval over patients. The number of boxes is
    chosen on validation images for each training. In the row 'mean' the values of an image are
    first averaged over the seeds. Empty if the preset has one seed.
    """
    columns = ["dataset", "seed", *GAIN]
    if run.preset.seeds < 2:
        return pd.DataFrame(columns=columns)
    names = [run.title(role) for role in run.preset.roles.localization]

    def make() -> dict[str, pd.DataFrame]:
        rows = [row for name in names for row in _gains(run, name)]
        return {"text_seeds": pd.DataFrame(rows, columns=columns)}

    models = [run.localizer_stage(text, seed)[1] for seed in seeds(run) for text in (True, False)]
    models += [run.regions_stage(name)[1] for name in names]
    inputs = (models, run.preset.resamples, run.seed)
    return run.cache.tables("text-seeds", *inputs, make=make)["text_seeds"]


def _gains(run: Run, name: str) -> list[tuple]:
    """Rows of `text_seeds` for a set."""
    images, values = Images(run, name, boxed_rows(run, name, "test")), []
    if not len(images.rows):
        return []
    for method, seed in product(ARMS, seeds(run)):
        choice, _ = choose(run, method, seed=seed)
        boxes = METHODS[method].evidence(images, seed=seed).predictions(choice)
        values.append(unions(boxes, images.truth))
    text, labels = np.split(np.array(values), 2)
    patients = run.sets.records(name).images["patient"].to_numpy()[images.rows]
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
    columns = ["dataset", "measure", "score", *GAIN]
    parts = [pd.DataFrame(columns=columns)] if run.preset.generated else _on_real(run)
    result = pd.concat(parts, ignore_index=True)[columns]
    write_table(run.root / "tables" / "text_on_real.csv", result)
    return result


def _on_real(run: Run) -> list[pd.DataFrame]:
    compared = localization.compared(run)
    gaps = severity.at(compared["differences"], method=ARMS[0], against=ARMS[1], metric="miou")
    levels = severity.at(compared["localization"], metric="miou")
    levels = levels.set_index(["method", "dataset"])["value"]
    gaps = _with_arms(gaps, levels, ARMS, ["dataset"])
    parts = [gaps.assign(measure="union IoU", score="boxes")]
    mean = severity.at(text_seeds(run), seed=MEAN)
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
