"""The results of a run: every table in `tables/`, and the localizer in `checkpoint/`."""

import pandas as pd

from pnloc.localizer import Localizer
from pnloc.run import localization
from pnloc.run import predictions as predict
from pnloc.run.experience import METHOD, experience
from pnloc.run.run import Run
from pnloc.run.sets import NAMES
from pnloc.run.severity import tables as severity


def tables(run: Run) -> dict[str, pd.DataFrame]:
    """Every table of results, by name; the checkpoint is written, too."""
    results = {
        "localization": localization.localization(run),
        "differences": localization.differences(run),
        "severity": severity.severity_table(run),
        "recall": localization.recall(run),
        "attributes": localization.attributes(run),
    }
    checkpoint(run)
    return results


def checkpoint(run: Run) -> Localizer:
    """Write `checkpoint/` (detector, model, words, config.json) and return its localizer."""
    model, _ = run.localizer(True)
    choice, _ = predict.choose(run, METHOD)
    known = experience(run)
    localizer = Localizer(run.detector, model, NAMES, choice, run.preset.regions, known)
    config = run.preset.as_dict()["model"]
    localizer.save(run.root / "checkpoint", preset=run.preset.name, seed=run.seed, model=config)
    run.sets.vectors.save(run.root / "checkpoint" / "words.safetensors")
    return localizer
