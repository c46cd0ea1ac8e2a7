"""The experiment on generated data: what text adds, pooled over data sets, detectors and seeds (book, The experiment).

A replicate has its own generated data, detector and word vectors, and is worked off by a process of its own; in it every arm is tuned on
validation images with the same grid, and then measured on test images once. `run` makes whatever is not on disk yet, and the tables:

    localization.csv  dataset, method, metric, threshold, value, low, high, n, seed
    differences.csv   dataset, method, against, metric, value, low, high, n
    ablations.csv     ablation, method, against, value, low, high, n, seeds
    seeds.csv, tuning.csv, experiment.json

A value is averaged over the seeds of the attention for each image; intervals (95%) are bootstrapped over the anatomical variants of all replicates.
"""

import os
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.arms import Arm, Arms
from experiments.plans import ABLATIONS, FULL, GIVEN, LABELS, PLANS, TEXT, Options, Plan
from experiments.pooling import COLUMNS, KEYS, tables
from pnloc.config import Preset, Roles, preset
from pnloc.errors import PnlocError
from pnloc.evaluation.localization import cases, per_image
from pnloc.files import copy, read_csv, read_json, write_json, write_table
from pnloc.localizer import Boxes, boxes_of
from pnloc.run import predictions as predict
from pnloc.run.cache import TIMING
from pnloc.run.evidence import Images, boxed_rows
from pnloc.run.methods import METHODS, in_group
from pnloc.run.provenance import environment
from pnloc.run.run import Run

REFERENCES = ("grad-cam", "detector", "detector-raw", "best-proposal")


class Replicate:
    """One generated data set with its detector: every arm tuned, trained and measured, each a stage on disk."""

    def __init__(self, plan: Plan, seed: int, root: Path) -> None:
        configuration: Preset = replace(
            preset(plan.preset),
            name=f"experiment-{plan.name}",
            roles=Roles("rsna", "mimic", "", ("mimic",), "mimic", ""),
            variants=plan.variants,
            sizes=plan.sizes,
        )
        self.plan, self.run = plan, Run(configuration, None, seed, root / f"replicate-{seed}")
        self.arms = Arms(self.run, plan.prevalences)

    @cached_property
    def tuning(self) -> pd.DataFrame:
        """arm, prevalence, options, miou (on validation images, image alone, mean over seeds), chosen, replicate: the grid for every arm."""
        tried = [
            Arm(*given) for given in product((True, False), self.plan.prevalences, self.plan.grid)
        ]
        trained = [
            self.arms.stage(arm, seed)[1] for arm in tried for seed in range(self.plan.tuning_seeds)
        ]

        def make(folder: Path, _: str) -> None:
            rows = []
            for arm in tried:
                values = [
                    self.arms.choice(arm, seed, False, True)[1]
                    for seed in range(self.plan.tuning_seeds)
                ]
                rows.append(
                    (
                        TEXT if arm.text else LABELS,
                        arm.prevalence,
                        _spelled(arm.options),
                        np.mean(values),
                    )
                )
            table = pd.DataFrame(rows, columns=["arm", "prevalence", "options", "miou"])
            best = table.groupby(["arm", "prevalence"])["miou"].idxmax()
            write_table(
                folder / "tuning.csv",
                table.assign(chosen=table.index.isin(best), replicate=self.run.seed),
            )

        folder, _ = self.run.cache.stage("tuning", trained, make=make)
        return read_csv(folder / "tuning.csv")

    def tuned(self, text: bool, prevalence: float) -> Arm:
        """The arm with the options that did best on validation images."""
        table = self.tuning
        mine = (
            table["chosen"]
            & (table["arm"] == (TEXT if text else LABELS))
            & (table["prevalence"] == prevalence)
        )
        spelled = table.loc[mine, "options"].item()
        return Arm(text, prevalence, next(o for o in self.plan.grid if _spelled(o) == spelled))

    def ablated(self, name: str) -> Arm:
        """The tuned text arm of the first cohort, changed by one ablation; it is not tuned again."""
        arm, change = (
            self.tuned(True, self.plan.prevalences[0]),
            ABLATIONS[name] if name != FULL else {},
        )
        return replace(arm, **{**change, "options": arm.options + change.get("options", ())})

    def values(self, found: dict[str, Boxes]) -> pd.DataFrame:
        """Per test image with a pneumonia and method: image, variant, boxes, and COLUMNS (sums over its true boxes where PER_BOX says so)."""
        run, name, rows = self.run, self.run.sets.pairs, self.rows
        truth = predict.truth(run, name)
        parts = []
        for method, boxes in found.items():
            known = cases(predict.boxes_table(run, name, rows, boxes), truth.boxes)
            table = pd.DataFrame(
                [[own[key] for key in KEYS] for own in map(per_image, known)], columns=COLUMNS
            )
            parts.append(
                table.assign(
                    method=method,
                    image=[c.image for c in known],
                    boxes=[len(c.true) for c in known],
                )
            )
        table = pd.concat(parts, ignore_index=True)
        variants = table["image"].map(truth.patients)
        return table.assign(
            variant=f"{run.seed}/" + variants, image=f"{run.seed}/" + table["image"]
        )

    @cached_property
    def rows(self) -> np.ndarray:
        """Test images with a pneumonia."""
        return boxed_rows(self.run, self.run.sets.pairs, "test")

    def measured(self, arm: Arm, seed: int, raw: bool = True) -> pd.DataFrame:
        """`values` of a trained arm on test images: image alone and, with text, the report given; grouped and, if asked for, raw."""

        def make(folder: Path, _: str) -> None:
            found = {}
            for given, grouped in product(
                (False, True) if arm.text else (False,), (True, False) if raw else (True,)
            ):
                method = (GIVEN if given else TEXT if arm.text else LABELS) + (
                    "" if grouped else "-raw"
                )
                choice, _ = self.arms.choice(arm, seed, given, grouped)
                regions = self.arms.regions(arm.regions).rows(self.rows)
                found[method] = boxes_of(
                    regions, self.arms.scores(arm, seed, self.rows, given, grouped), choice
                )
            write_table(folder / "values.csv", self.values(found))

        inputs = (self.arms.stage(arm, seed)[1], raw)
        folder, _ = self.run.cache.stage(f"test-{arm.name}-seed{seed}", *inputs, make=make)
        return read_csv(folder / "values.csv", dtype={"image": str, "variant": str})

    def references(self) -> pd.DataFrame:
        """`values` of what has no seed of the attention: boxes without an image, detector, Grad-CAM, the best proposal."""
        run, name = self.run, self.run.sets.pairs

        def make(folder: Path, _: str) -> None:
            images, predictions = Images(run, name, self.rows), {}
            for method in (*in_group("prior"), *REFERENCES):
                choice, _ = predict.choose(run, method)
                predictions[method] = METHODS[method].evidence(images).predictions(choice)
            write_table(folder / "values.csv", self.values(predictions))

        folder, _ = run.cache.stage(
            "references", run.classifier_stage[1], run.regions_stage(name)[1], make=make
        )
        return read_csv(folder / "values.csv", dtype={"image": str, "variant": str})

    def cohort_values(self, prevalence: float) -> pd.DataFrame:
        """`values` of both arms of a cohort for every seed, with a column seed."""
        arms = [self.tuned(text, prevalence) for text in (True, False)]
        parts = [
            self.measured(arm, seed).assign(seed=seed)
            for arm in arms
            for seed in range(self.plan.seeds)
        ]
        return pd.concat(parts, ignore_index=True)

    def ablation_values(self, name: str) -> pd.DataFrame:
        """`values` of an ablation for its seeds, with a column seed."""
        arm = self.ablated(name)
        return pd.concat(
            [
                self.measured(arm, seed, arm == self.tuned(True, self.plan.prevalences[0])).assign(
                    seed=seed
                )
                for seed in range(self.plan.ablation_seeds)
            ],
            ignore_index=True,
        )

    def all(self) -> dict[str, pd.DataFrame]:
        """Everything that the tables are made from, by name; what is not on disk is made, the arms of the claim before the ablations."""
        tables = {"tuning": self.tuning}
        tables |= {f"cohort {p}": self.cohort_values(p) for p in self.plan.prevalences}
        tables["references"] = self.references()
        return tables | {
            f"ablation {name}": self.ablation_values(name) for name in (FULL, *self.plan.ablations)
        }


def _spelled(options: Options) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in options) or "as in the preset"


# The whole ------------------------------------------------------------------------------------------------


def run(plan: Plan, root: Path, out: Path | None = None) -> dict[str, pd.DataFrame]:
    """Work off the replicates, each in a process of its own with one thread, and write `root`/tables, a copy into `out`.

    What is on disk under `root` is not made again. Raises PnlocError where a process failed, once all have ended.
    """
    root = root.resolve()
    command = [sys.executable, "-m", "experiments.text_gain", plan.name]
    surroundings = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        ),
    }
    working = [
        subprocess.Popen([*command, str(seed), str(root)], env=surroundings)
        for seed in plan.replicates
    ]
    try:
        failed = [
            seed for seed, process in zip(plan.replicates, working, strict=True) if process.wait()
        ]
    finally:
        for process in working:
            process.terminate()
    if failed:
        raise PnlocError(
            f"replicate {', '.join(map(str, failed))} of the experiment failed; what was whole is kept: start again"
        )
    made = tables(plan, [Replicate(plan, seed, root).all() for seed in plan.replicates])
    for name, table in made.items():
        write_table(root / "tables" / f"{name}.csv", table)
    write_json(root / "tables" / "experiment.json", provenance(plan, root, made))
    for path in (root / "tables").iterdir() if out else ():
        copy(path, out / path.name)
    return made


def provenance(plan: Plan, root: Path, made: dict[str, pd.DataFrame]) -> dict:
    """What the tables were made with: plan, commits, versions, date, seconds of each kind of stage, counts."""
    seconds, commits = {}, set()
    for seed in plan.replicates:
        folder = root / f"replicate-{seed}"
        timing = read_csv(folder / "timing.csv", TIMING)
        kinds = timing["stage"].str.split("-").str[0]
        for kind, total in timing.groupby(kinds)["seconds"].sum().items():
            seconds[kind] = round(seconds.get(kind, 0.0) + total, 1)
        commits |= {e["commit"] for e in read_json(folder / "run.json")["environments"].values()}
    main = made["localization"].query("metric == 'miou'")
    return {
        "plan": asdict(plan),
        "commits": sorted(commits),
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "seconds": seconds,
        "test_images_with_pneumonia": int(main["n"].max()),
    }


def main(arguments: list[str]) -> int:
    """One replicate, in this process: PLAN SEED ROOT."""
    name, seed, root = arguments
    try:
        Replicate(PLANS[name], int(seed), Path(root)).all()
    except PnlocError as error:
        print(f"pnloc: replicate {seed}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
