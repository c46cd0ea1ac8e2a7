"""Tables of the experiment: the curve, what reports are worth in boxes, and differences.

A value is the mean over replicates. Its 95% interval is bootstrapped over both: replicates are
drawn, and in each of them whole patients. Lines and points of one replicate are measured on the
same images with the same samples, so differences are paired.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.plan import BOXES, CONTROLS, LABELS, LINES, SHUFFLED, SWAPPED, TEXT, Plan
from experiments.worth import CAM, Experiment, Replicate
from pnloc.evaluation.bootstrap import NAN, Estimate, Patients, holm
from pnloc.evaluation.localization import auc, cases, per_image
from pnloc.evaluation.statistics import CORRELATIONS
from pnloc.files import atomic, copy, read_csv, read_json, write_json, write_table, write_text
from pnloc.run.cache import TIMING
from pnloc.run.provenance import environment
from pnloc.run.run import Run
from pnloc.view import figures
from pnloc.view import tables as pages

UNIONS = {"union IoU": ("miou", NAN), "pointing": ("pointing", NAN)}
METRICS = (*UNIONS, "acc@0.3", "AUC", *CORRELATIONS)
PAIRS = ((TEXT, LABELS), (TEXT, BOXES), (LABELS, BOXES), *((TEXT, c) for c in CONTROLS))
PAIRS += tuple((control, LABELS) for control in CONTROLS)
ESTIMATE = ["value", "low", "high"]


def run(data: Run, plan: Plan, out: Path | None = None) -> pd.DataFrame:
    """Carry out a plan on a run's data, or go on with it; the curve.

    The tables go into the folder `worth` of the run, and into `out`.
    """
    experiment = Experiment(data, plan)
    results, folder = tables(experiment), data.root / "worth"
    for table, rows in results.items():
        write_table(folder / f"{table}.csv", rows)
    made = facts(experiment)
    write_json(folder / "made.json", made)
    write_text(folder / "answer.md", answer(results, made) + "\n")
    draw(results["curve"], folder / "curve.svg")
    for path in sorted(folder.iterdir()) if out else ():
        copy(path, out / path.name)
    return results["curve"]


TOLD = {
    TEXT: "reports",
    LABELS: "image labels",
    SHUFFLED: "reports of other images",
    SWAPPED: "reports with sides swapped",
    CAM: "Grad-CAM of image labels",
}


def answer(results: dict[str, pd.DataFrame], made: dict) -> str:
    """What reports are worth with 0 and 25 boxed images; below, lines and controls without a box.

    results: `tables`; made: `facts`. Markdown: sentences, and a table.
    """
    reports, table = sum(made["captioned images"].values()), results["worth"]
    told = [pages.worth(table, n, reports) for n in (0, 25) if n in set(table["boxes"])]
    curve, gaps = (results[n].query("boxes == 0") for n in ("curve", "differences"))
    levels = curve.assign(row=curve["line"].map(TOLD))
    minus = gaps[gaps["line"] == TEXT]
    minus = minus.assign(row="reports minus " + minus["against"].map(TOLD))
    rows = [f"| without a box | {' | '.join(UNIONS)} |", "|---" * (1 + len(UNIONS)) + "|"]
    for part, signed in ((levels, False), (minus, True)):
        part = part[part["metric"].isin(UNIONS)].dropna(subset="row")
        for name, own in part.groupby("row", sort=False):
            cells = own.set_index("metric")[ESTIMATE].loc[[*UNIONS]].to_numpy()
            shown = (pages.cell(*values, 2 + signed, signed) for values in cells)
            rows.append(f"| {name} | {' | '.join(shown)} |")
    return " ".join(told) + "\n\n" + "\n".join(rows)


# Samples ----------------------------------------------------------------------------------------


class Samples:
    """Values and bootstrap samples [R, 1 + B] of every line, point and metric, by replicate."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.count = experiment, experiment.plan.resamples
        self.known: dict[tuple[str, int, str], list[np.ndarray]] = {}
        self.n: dict[str, int] = dict.fromkeys(METRICS, 0)
        self.choices: list[dict] = []
        for replicate in experiment.replicates:
            self._add(replicate)

    def _add(self, replicate: Replicate) -> None:
        measure = Measure(replicate, self.count)
        for metric in METRICS:
            n = measure.n(metric)
            self.n[metric] = n if metric in CORRELATIONS else self.n[metric] + n
        for training, boxes in self.experiment.trainings():
            own = replicate.measured(training, boxes)
            self._note(training.line, boxes, measure.all(own))
            chosen = own["choice"].iloc[0].to_dict()
            key = {"line": training.line, "boxes": boxes, "replicate": replicate.number}
            self.choices.append(key | chosen)
        rates = {line: self.experiment.rate(line) for line in LINES}
        for (line, point), table in replicate.references(self.experiment.points, rates).items():
            self._note(line, self.experiment.points[point], measure.places(table))

    def _note(self, line: str, boxes: int, values: dict[str, np.ndarray]) -> None:
        for metric, own in values.items():
            self.known.setdefault((line, boxes, metric), []).append(own)

    def of(self, line: str, boxes: int, metric: str) -> np.ndarray | None:
        """The mean over replicates, then its samples [1 + B]; None where it was not measured.

        The images of severity are the same in all replicates, and so are the patients drawn.
        """
        known = self.known.get((line, boxes, metric))
        if known is None:
            return None
        values, numbers = np.stack(known), np.arange(self.count)
        drawn = np.random.default_rng(0).integers(len(values), size=(len(values), self.count))
        turns = [numbers + (0 if metric in CORRELATIONS else 17 * k) for k in range(len(values))]
        pairs = zip(drawn, turns, strict=True)
        samples = [values[rows, 1 + turn % self.count] for rows, turn in pairs]
        return np.concatenate([[values[:, 0].mean()], np.mean(samples, axis=0)])

    def estimate(self, samples: np.ndarray, metric: str) -> Estimate:
        """A value with its interval, from what `of` gave."""
        return Estimate.of(float(samples[0]), samples[1:], self.n[metric])


class Measure:
    """The metrics of one replicate, each as a value and its bootstrap samples [1 + B]."""

    def __init__(self, replicate: Replicate, resamples: int) -> None:
        sets, self.replicate = replicate.run.sets, replicate
        images = replicate.images.iloc[replicate.test].set_index("image")
        boxes = sets.records(replicate.name).boxes
        self.truth = boxes[boxes["image"].isin(images.index)]
        self.patients = images["patient"]
        self.present = images.index.isin(self.truth["image"])
        self.boxed = self._weights(self.patients[sorted(set(self.truth["image"]))], resamples)
        self.every = self._weights(self.patients, resamples)
        self.scored = self._weights(replicate.scored["patient"], resamples)

    def _weights(self, patients: pd.Series, resamples: int) -> np.ndarray:
        weights = Patients(patients.astype(str), resamples, self.replicate.run.seed).weights
        return np.concatenate([np.ones((1, len(patients))), weights])

    def n(self, metric: str) -> int:
        """Images that a metric is measured on."""
        if metric == "AUC":
            return len(self.patients)
        return len(self.replicate.scored) if metric in CORRELATIONS else self.boxed.shape[1]

    def places(self, boxes: pd.DataFrame) -> dict[str, np.ndarray]:
        """The metrics of predicted boxes: image, x1, y1, x2, y2, score."""
        images = cases(boxes, self.truth)
        values, weights = [per_image(case) for case in images], self.boxed
        per_box = np.array([len(case.true) for case in images], dtype=float)
        means = {
            name: weights @ np.array([own[key] for own in values]) / weights.sum(1)
            for name, key in UNIONS.items()
        }
        hits = weights @ np.array([own["acc", 0.3] for own in values])
        return means | {"acc@0.3": hits / (weights @ per_box)}

    def all(self, measured: dict[str, pd.DataFrame]) -> dict[str, np.ndarray]:
        """Every metric of a training."""
        chance = measured["images"].set_index("image")["probability"].reindex(self.patients.index)
        values = self.places(measured["boxes"])
        values["AUC"] = auc(self.present, chance.to_numpy(), self.every)
        scored = self.replicate.scored
        grades = measured["severity"].set_index("image")["value"].reindex(scored["image"])
        truth = scored["score"].to_numpy(float)
        for name, statistic in CORRELATIONS.items():
            values[name] = statistic(grades.to_numpy(float), truth, self.scored)
        return values


# Tables -----------------------------------------------------------------------------------------


def tables(experiment: Experiment) -> dict[str, pd.DataFrame]:
    """The tables by name, from trainings that are on disk, or are made now."""
    samples = Samples(experiment)
    return {
        "curve": curve(samples),
        "worth": worth(samples),
        "differences": differences(samples),
        "replicates": replicates(samples),
        "choices": pd.DataFrame(samples.choices),
        "tuning": experiment.tuning,
    }


def curve(samples: Samples) -> pd.DataFrame:
    """line, boxes, metric, value, low, high, n, replicates."""
    rows = []
    for (line, boxes, metric), known in samples.known.items():
        own = samples.estimate(samples.of(line, boxes, metric), metric)
        rows.append((line, boxes, metric, *own, len(known)))
    columns = ["line", "boxes", "metric", *ESTIMATE, "n", "replicates"]
    return pd.DataFrame(rows, columns=columns)


def replicates(samples: Samples) -> pd.DataFrame:
    """line, boxes, metric, replicate, value."""
    rows = [
        (*key, number, own[0])
        for key, known in samples.known.items()
        for number, own in enumerate(known)
    ]
    return pd.DataFrame(rows, columns=["line", "boxes", "metric", "replicate", "value"])


def differences(samples: Samples) -> pd.DataFrame:
    """line, against, boxes, metric, value, low, high, n, p, p_holm; Holm over the whole table."""
    rows = []
    for boxes, (first, second), metric in product(_points(samples), PAIRS, METRICS):
        pair = [samples.of(line, boxes, metric) for line in (first, second)]
        if all(own is not None for own in pair):
            gap = samples.estimate(pair[0] - pair[1], metric)
            rows.append((first, second, boxes, metric, *gap, gap.p))
    columns = ["line", "against", "boxes", "metric", *ESTIMATE, "n", "p"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=holm(table["p"]))


def worth(samples: Samples) -> pd.DataFrame:
    """line, metric, boxes, further, low, high, least, most: what captions are worth in boxes.

    further: how many more boxed images the line of boxes alone needs for the same value. That line
    is taken as one that never falls, and as straight between its points; beyond them there is no
    answer: `further` then is `least` or `most`, and means at most or at least that many.
    """
    rows, points = [], [p for p in _points(samples) if p]
    rising: dict[str, np.ndarray] = {}  # by metric: the line of boxes alone, never falling
    for line, metric, boxes in product((TEXT, LABELS, *CONTROLS), METRICS, _points(samples)):
        own = samples.of(line, boxes, metric)
        if own is None:
            continue
        if metric not in rising:
            alone = np.stack([samples.of(BOXES, p, metric) for p in points])
            rising[metric] = np.maximum.accumulate(alone, axis=0)
        alone = rising[metric]
        further = np.array([np.interp(v, a, points) for v, a in zip(own, alone.T, strict=True)])
        estimate = samples.estimate(further - boxes, metric)
        limits = (points[0] - boxes, points[-1] - boxes)
        rows.append((line, metric, boxes, estimate.value, estimate.low, estimate.high, *limits))
    columns = ["line", "metric", "boxes", "further", "low", "high", "least", "most"]
    return pd.DataFrame(rows, columns=columns)


def _points(samples: Samples) -> list[int]:
    return [*samples.experiment.points.values()]


def draw(table: pd.DataFrame, path: Path) -> None:
    """The curve as a figure: union IoU, image AUC and the correlation with severity."""
    figures.style()
    panels = {"union IoU": "union IoU", "AUC": "image AUC", "pearson": "severity, Pearson's r"}
    with plt.rc_context({"svg.hashsalt": "worth"}):
        fig, axes = plt.subplots(1, 3, figsize=(10, 3.8), layout="constrained")
        for ax, (metric, label) in zip(axes, panels.items(), strict=True):
            figures.worth(table, metric, ax).set_ylabel(label)
        lines, labels = axes[0].get_legend_handles_labels()
        look = {"ncols": 3, "frameon": False, "fontsize": 9}
        fig.legend(lines, labels, loc="outside lower center", **look)
        with atomic(path) as target:
            fig.savefig(target, format="svg", metadata={"Date": None})
        plt.close(fig)


def facts(experiment: Experiment) -> dict:
    """What the tables were made from and with: plan, counts, commits, versions, date, hours."""
    run, first = experiment.run, experiment.replicates[0]
    told = dict(zip(run.describing, first.told(TEXT), strict=True))
    timing = read_csv(run.root / "timing.csv", TIMING)
    record = read_json(run.root / "run.json")
    stages = [s for n, s in record["stages"].items() if n.startswith("worth-")]
    return {
        "preset": run.preset.name,
        "seed": run.seed,
        "plan": asdict(experiment.plan),
        "boxed images": {"test": [int(r.boxed[r.test].sum()) for r in experiment.replicates]},
        "captioned images": {n: int(np.isfinite(own.opacity).sum()) for n, own in told.items()},
        "with an opacity": {n: int((own.opacity > 0.5).sum()) for n, own in told.items()},
        "hours": round(timing[timing["stage"].str.startswith("worth-")]["seconds"].sum() / 3600, 2),
        "commits": sorted({record["environments"][s["environment"]]["commit"] for s in stages}),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
    }
