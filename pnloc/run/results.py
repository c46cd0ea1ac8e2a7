"""The results of a run: every table in `tables/`, and the localizer in `checkpoint/`.

Between two seeds the results differ by as much as text adds: several runs are compared by
`python -m pnloc gather`.
"""

import pandas as pd

from pnloc.localizer import Localizer
from pnloc.run import localization
from pnloc.run.experience import METHOD, experience
from pnloc.run.predictions import choose
from pnloc.run.run import Run
from pnloc.run.sets import NAMES
from pnloc.run.severity import tables as severity


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
