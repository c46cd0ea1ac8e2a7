"""The results of a run: every table in `tables/`, and the localizer in `checkpoint/`.

What training with reports adds is told in boxes and in severity. Between two seeds the results
differ by as much as text adds: several runs are compared by `python -m pnloc gather`.
"""

import pandas as pd

from pnloc.files import read_csv, write_table
from pnloc.localizer import Localizer
from pnloc.run import localization
from pnloc.run.experience import METHOD, experience
from pnloc.run.predictions import choose
from pnloc.run.run import Run
from pnloc.run.sets import NAMES
from pnloc.run.severity import tables as severity

ARMS = ("text-attention", "image-label-attention")
GAIN = ["text", "labels", "value", "low", "high", "n"]


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


def text_on_real(run: Run) -> pd.DataFrame:
    """`tables/text_on_real.csv`: dataset, measure, score, text, labels, value, low, high, n.

    The localizer trained with the reports of the pairs, the same one trained with image labels
    only, and their difference, paired over patients: the union IoU of the boxes; attention on the
    zones that radiologists scored; read-outs of severity. No patient of a measured image is in
    either training. Empty where the pairs are generated.
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
