"""Severity over time: what radiographs of one patient on different days say, against the experts.

Only test patients count: no training has seen an image or a note of theirs.
"""

import re

import numpy as np
import pandas as pd

from pnloc.data import covid19
from pnloc.evaluation.bootstrap import Patients
from pnloc.run.run import Run
from pnloc.run.severity import readouts, tables

# What a note says of the change since the last radiograph, by a word of it.
CHANGES = {
    -1: re.compile(r"\b(?:improv|resol[uv]|better|decreas|regress|clear(?:ed|ing)\b)", re.I),
    1: re.compile(r"\b(?:wors|progress|increas|deteriorat|more extensive)", re.I),
    0: re.compile(r"\b(?:unchanged|no (?:significant )?change|stable)", re.I),
}


def told(note: str) -> float:
    """Whether a note says improved (-1), unchanged (0) or worse (1); NaN for none, or several."""
    changes = [change for change, words in CHANGES.items() if words.search(note)]
    return float(changes[0]) if len(changes) == 1 else np.nan


def course(run: Run, name: str, readout: str) -> pd.DataFrame:
    """The test images of a set's patients with radiographs on two days or more, in their order.

    Columns image, patient, day, value (of the read-out), told (by the note), the scores.
    """
    records, rows = run.sets.records(name), run.sets.rows(name, "test")
    values = readouts.combine(readouts.saved_values(run, name, rows), readouts.validation(run))[
        readout
    ]
    notes = run.sets.texts(name)
    days = covid19.sources(run.sets.place(name)).set_index("image")["day"]
    table = records.images.iloc[rows][["image"]].assign(
        patient=readouts.persons(run, name)[rows].to_numpy(),
        told=[told(notes[row]) for row in rows],
    )
    table = table.join(days, on="image").join(values.rename("value"), on="image")
    table = table.dropna(subset="day").merge(records.scores, on="image", how="left")
    several = table.groupby("patient")["day"].transform("nunique") > 1
    return table[several].sort_values(["patient", "day", "image"]).reset_index(drop=True)


def steps(images: pd.DataFrame) -> pd.DataFrame:
    """From one day of a patient to the next: patient, start, end, and the change of each column.

    images: of `course`. Radiographs of one day are averaged; `told` is what the later notes say.
    """
    kinds = ["value", *tables.known(images)]
    by_day = images.groupby(["patient", "day"])[[*kinds, "told"]].mean().reset_index()
    changes = by_day.groupby("patient")[kinds].diff()
    start = by_day.groupby("patient")["day"].shift()
    table = by_day[["patient", "told"]].assign(start=start, end=by_day["day"]).join(changes)
    return table.dropna(subset="start").reset_index(drop=True)


def agreement(changes: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """against, value, low, high, n, worse: how often the sign of the predicted change is right.

    Over the steps in which the experts' score, or the note, changes at all; `worse` is the share of
    them that get worse, which a guess of 'worse' would have right.
    """
    rows = []
    for against in [*(score for score in tables.SCORES if score in changes), "told"]:
        own = changes[changes[against].fillna(0) != 0]
        if len(own):
            right = (np.sign(own["value"]) == np.sign(own[against])).to_numpy(float)
            patients = Patients(own["patient"].astype(str), resamples, seed)
            rows.append((against, *patients.mean(right), float((own[against] > 0).mean())))
    return pd.DataFrame(rows, columns=["against", "value", "low", "high", "n", "worse"])
