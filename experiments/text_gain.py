"""The experiment: what text adds on generated data, pooled over data sets, detectors and seeds.

A replicate has its own generated data, detector and word vectors, and runs in a process of its own;
in it every arm is tuned on validation images over the same grid and then measured once on test
images. `run` makes whatever is not on disk yet, and the tables:

    localization.csv  dataset, method, metric, threshold, value, low, high, n, seed
    differences.csv   dataset, method, against, metric, value, low, high, n
    ablations.csv     ablation, method, against, value, low, high, n, seeds
    seeds.csv, tuning.csv, experiment.json

A value is averaged over the seeds of the attention for each image; 95% intervals are bootstrapped
over the anatomical variants of all replicates (experiments.pooling; book, The experiment).
"""

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.arms import Arm, Arms
from experiments.plans import ABLATIONS, FULL, GIVEN, LABELS, TEXT, Options, Plan
from experiments.pooling import COLUMNS, KEYS, tables
from pnloc.config import Preset, Roles, preset
from pnloc.errors import PnlocError
from pnloc.evaluation.localization import cases, per_image
from pnloc.files import copy, read_csv, read_json, write_json, write_table
from pnloc.localizer import Boxes, boxes_of
from pnloc.run.cache import TIMING
from pnloc.run.evidence import Images, boxed_rows
from pnloc.run.methods import CLASSIFIER, METHODS, in_group
from pnloc.run.predictions import boxes_table, choose, truth
from pnloc.run.provenance import environment
from pnloc.run.run import Run

REFERENCES = ("grad-cam", "detector", "detector-raw", "best-proposal")
RESUME = "finished stages are kept: start again"


class Replicate:
    """One generated data set with its detector; everything is a stage on disk."""

    def __init__(self, plan: Plan, seed: int, root: Path) -> None:
        configuration: Preset = replace(
            preset(plan.preset),
            name=f"experiment-{plan.name}",
            roles=Roles("rsna", ("mimic",), "", ("mimic",), "mimic", ""),
            variants=plan.variants,
            sizes=plan.sizes,
        )
        self.plan, self.run = plan, Run(configuration, None, seed, root / f"replicate-{seed}")
        self.arms = Arms(self.run, plan.prevalences)

    @cached_property
    def tuning(self) -> pd.DataFrame:
        """arm, prevalence, options, miou (validation images, mean over seeds), chosen."""
        tried = [Arm(*a) for a in product((True, False), self.plan.prevalences, self.plan.grid)]
        seeds = range(self.plan.tuning_seeds)
        trained = [self.arms.stage(arm, seed)[1] for arm in tried for seed in seeds]

        def make(folder: Path, _: str) -> None:
            rows = []
            for arm in tried:
                miou = np.mean([self.arms.choice(arm, seed, False, True)[1] for seed in seeds])
                method = TEXT if arm.text else LABELS
                rows.append((method, arm.prevalence, _spelled(arm.options), miou))
            table = pd.DataFrame(rows, columns=["arm", "prevalence", "options", "miou"])
            table["chosen"] = table.index.isin(
                table.groupby(["arm", "prevalence"])["miou"].idxmax()
            )
            write_table(folder / "tuning.csv", table.assign(replicate=self.run.seed))

        folder, _ = self.run.cache.stage("tuning", trained, make=make)
        return read_csv(folder / "tuning.csv")

    def tuned(self, text: bool, prevalence: float) -> Arm:
        """The arm with the options that did best on validation images."""
        chosen = self.tuning[self.tuning["chosen"]].set_index(["arm", "prevalence"])["options"]
        spelled = chosen[TEXT if text else LABELS, prevalence]
        options = next(o for o in self.plan.grid if _spelled(o) == spelled)
        return Arm(text, prevalence, options)

    def ablated(self, name: str) -> Arm:
        """The tuned text arm of the first cohort, changed by one ablation and not tuned again."""
        arm = self.tuned(True, self.plan.prevalences[0])
        change = ABLATIONS.get(name, {})
        return replace(arm, **{**change, "options": arm.options + change.get("options", ())})

    @cached_property
    def rows(self) -> np.ndarray:
        """Test images with a pneumonia."""
        return boxed_rows(self.run, self.run.sets.pairs[0], "test")

    def values(self, predictions: dict[str, Boxes]) -> pd.DataFrame:
        """Per test image with a pneumonia and method: image, variant, boxes, and COLUMNS.

        A column is a sum over the image's true boxes where PER_BOX says so.
        """
        run, name = self.run, self.run.sets.pairs[0]
        known = truth(run, name)
        parts = []
        for method, boxes in predictions.items():
            images = cases(boxes_table(run, name, self.rows, boxes), known.boxes)
            own = [[metrics[key] for key in KEYS] for metrics in map(per_image, images)]
            table = pd.DataFrame(own, columns=COLUMNS).assign(method=method)
            names, counts = [c.image for c in images], [len(c.true) for c in images]
            parts.append(table.assign(image=names, boxes=counts))
        table = pd.concat(parts, ignore_index=True)
        image, variant = f"{run.seed}/" + table["image"], table["image"].map(known.patients)
        return table.assign(variant=f"{run.seed}/" + variant, image=image)

    def _measured(self, name: str, *inputs: object, make) -> pd.DataFrame:
        """`values` of the predictions that `make()` gives, as a stage."""

        def measure(folder: Path, _: str) -> None:
            write_table(folder / "values.csv", self.values(make()))

        folder, _ = self.run.cache.stage(name, *inputs, make=measure)
        return read_csv(folder / "values.csv", dtype={"image": str, "variant": str})

    def measured(self, arm: Arm, seed: int, raw: bool = True) -> pd.DataFrame:
        """`values` of an arm: image alone and, with text, report given; grouped and raw."""

        def make() -> dict[str, Boxes]:
            predictions = {}
            reports = (False, True) if arm.text else (False,)
            for report, grouped in product(reports, (True, False) if raw else (True,)):
                method = GIVEN if report else TEXT if arm.text else LABELS
                choice, _ = self.arms.choice(arm, seed, report, grouped)
                seen = self.arms.evidence(arm, seed, self.rows, report, grouped)
                boxes = boxes_of(seen.regions, seen.ranks(), choice)
                predictions[method + ("" if grouped else "-raw")] = boxes
            return predictions

        inputs = (self.arms.stage(arm, seed)[1], raw)
        return self._measured(f"test-{arm.name}-seed{seed}", *inputs, make=make)

    def references(self) -> pd.DataFrame:
        """`values` of what has no seed: boxes without an image, detector, Grad-CAM, ceiling."""
        run, name = self.run, self.run.sets.pairs[0]

        def make() -> dict[str, Boxes]:
            images, predictions = Images(run, name, self.rows), {}
            for method in (*in_group("prior"), *REFERENCES):
                choice, _ = choose(run, method)
                predictions[method] = METHODS[method].evidence(images).predictions(choice)
            return predictions

        inputs = (CLASSIFIER.stage(run).key, run.regions_stage(name)[1])
        return self._measured("references", *inputs, make=make)

    def _over(self, seeds: int, *arms: Arm, raw: bool = True) -> pd.DataFrame:
        """`measured` of some arms for the first seeds, with a column seed."""
        parts = [self.measured(a, s, raw).assign(seed=s) for a in arms for s in range(seeds)]
        return pd.concat(parts, ignore_index=True)

    def all(self) -> dict[str, pd.DataFrame]:
        """Everything that the tables are made from, by name; whatever is not on disk is made."""
        plan = self.plan
        values = {"tuning": self.tuning}
        for prevalence in plan.prevalences:
            arms = [self.tuned(text, prevalence) for text in (True, False)]
            values[f"cohort {prevalence}"] = self._over(plan.seeds, *arms)
        values["references"] = self.references()
        for name in (FULL, *plan.ablations):
            arm = self.ablated(name)
            raw = name == FULL
            values[f"ablation {name}"] = self._over(plan.ablation_seeds, arm, raw=raw)
        return values


def _spelled(options: Options) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in options) or "as in the preset"


def run(plan: Plan, root: Path, out: Path | None = None) -> dict[str, pd.DataFrame]:
    """Run the replicates at the same time, one thread each; write `root`/tables, a copy into `out`.

    What is on disk under `root` is not made again. Raises PnlocError where a replicate failed.
    """
    root = root.resolve()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started here
    try:
        with ProcessPoolExecutor(len(plan.replicates), get_context("spawn")) as pool:
            replicates = list(pool.map(partial(_replicate, plan, root), plan.replicates))
    except BrokenProcessPool:
        raise PnlocError(f"a replicate of the experiment was killed; {RESUME}") from None
    results = tables(plan, replicates)
    for name, table in results.items():
        write_table(root / "tables" / f"{name}.csv", table)
    images = int(results["localization"].query("metric == 'miou'")["n"].max())
    facts = {**provenance(plan, root), "test_images_with_pneumonia": images}
    write_json(root / "tables" / "experiment.json", facts)
    for path in (root / "tables").iterdir() if out else ():
        copy(path, out / path.name)
    return results


def _replicate(plan: Plan, root: Path, seed: int) -> dict[str, pd.DataFrame]:
    try:
        return Replicate(plan, seed, root).all()
    except PnlocError as error:
        raise PnlocError(f"replicate {seed} of the experiment: {error}; {RESUME}") from None


def provenance(plan: Plan, root: Path) -> dict:
    """What the tables were made with: plan, commits, versions, date, seconds per stage."""
    folders = [root / f"replicate-{seed}" for seed in plan.replicates]
    timing = pd.concat([read_csv(folder / "timing.csv", TIMING) for folder in folders])
    seconds = timing.groupby(timing["stage"].str.split("-").str[0])["seconds"].sum().round(1)
    records = [read_json(folder / "run.json")["environments"] for folder in folders]
    return {
        "plan": asdict(plan),
        "commits": sorted({e["commit"] for record in records for e in record.values()}),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "seconds": seconds.to_dict(),
    }
