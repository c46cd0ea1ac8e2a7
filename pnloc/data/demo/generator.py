"""All sets of a run, drawn by the rates and written to disk."""

import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator

from pnloc.data.demo import anatomy, film, layouts, others, wording
from pnloc.data.demo.anatomy import LOBE_NAMES, LOBES, Variant
from pnloc.data.demo.case import Case, degree_grade
from pnloc.data.demo.layouts import Shot
from pnloc.data.demo.opacities import add_opacity, merge
from pnloc.data.demo.rates import POOLS, RATES
from pnloc.errors import PnlocError
from pnloc.files import write_json, write_table
from pnloc.parallel import bar

POOL_NAMES = ("train", "validate", "test")
# Sets, with the shares of their images that come from each pool of variants.
SHARES = {"rsna": (0.72, 0.12, 0.16), "mimic": (0.66, 0.12, 0.22)}
SHARES |= dict.fromkeys(("chestxray8", "covid"), (0.0, 0.0, 1.0))
SETS = tuple(SHARES)

Task = tuple[str, int, int, str]  # set, number in the set, variant, pool


@dataclass(frozen=True)
class DemoSize:
    """How many anatomical variants, how many images of each set, and their side in pixels."""

    variants: int
    rsna: int
    mimic: int
    chestxray8: int
    covid: int
    side: int = 256

    def __post_init__(self) -> None:
        if self.variants < 3 or min(getattr(self, name) for name in SETS) < 1 or self.side < 64:
            raise PnlocError(f"too small to be split by patient: {self}")


def pools(variants: int) -> dict[str, np.ndarray]:
    """The variants of each pool; no variant is in two, and every pool has at least one."""
    validate = max(1, round(variants * POOLS[1]))
    train = min(max(1, round(variants * POOLS[0])), variants - validate - 1)
    parts = np.split(np.arange(variants), [train, train + validate])
    return dict(zip(POOL_NAMES, parts, strict=True))


def plan(size: DemoSize, seed: int) -> list[Task]:
    """Every image to make: set, number in the set, variant, pool."""
    by_pool, planned = pools(size.variants), []
    for place, (name, shares) in enumerate(SHARES.items()):
        rng = np.random.default_rng([seed, 101, place])
        count = getattr(size, name)
        limits = np.round(np.cumsum(shares) * count)
        for number in range(count):
            pool = POOL_NAMES[int(np.searchsorted(limits, number, side="right").clip(0, 2))]
            planned.append((name, number, int(rng.choice(by_pool[pool])), pool))
    return planned


def _choice(rng: Generator, rates: dict[str, float]) -> str:
    return str(rng.choice(list(rates), p=list(rates.values())))


def make_case(variant: Variant, rng: Generator, name: str) -> tuple[Case, np.ndarray]:
    """The findings of an image of a set, and the millimetres of water [S, S] that they add."""
    rates, own = RATES, getattr(RATES, name)
    covid, enlarge = name == "covid", 1.8 if name == "covid" else 1.55
    case, added = Case(), np.zeros(variant.path.shape, dtype=np.float32)
    if rng.random() < own.positive:
        counts = rates.covid_opacities if covid else rates.opacities
        wanted = 1 + rng.choice(len(counts), p=counts)
        kind = _choice(rng, rates.kinds)
        for lobe in rng.choice(LOBES, size=min(wanted, 5), replace=False, p=rates.lobes):
            drawn = add_opacity(variant, rng, own.density, int(lobe), kind, enlarge)
            if drawn:
                case.opacities.append(drawn[0])
                added += drawn[1]
    case.opacities = merge(case.opacities, variant)
    for _ in range(min(rng.poisson(own.distractor), 3)):
        name = _choice(rng, rates.distractors)
        drawn = others.add_other(variant, rng, name)
        if drawn and name not in [o.kind for o in case.others]:
            case.others.append(drawn[0])
            added += drawn[1]
    for side, lung in variant.sides.items():
        here = [o for o in case.opacities if o.side == side]
        covered = np.any([o.mask for o in here], axis=0) & lung if here else np.zeros_like(lung)
        share = case.share[side] = float(covered.sum() / max(lung.sum(), 1))
        areas = [o.area for o in here]
        density = np.average([o.density for o in here], weights=areas) if here else 0.0
        case.degree[side] = float(degree_grade(share, float(density)))
    return case, added


def make_shot(variant: Variant, task: Task, seed: int) -> Shot:
    """One image with its truth and its text; it depends on seed, set and number alone."""
    name, number, person, pool = task
    rng = np.random.default_rng([seed, 103, SETS.index(name), number])
    case, added = make_case(variant, rng, name)
    picture = film.develop(variant, added, rng)
    boxes = [o.box for o in case.opacities]
    if name == "rsna":
        boxes += [o.box for o in case.others if rng.random() < RATES.boxed[o.kind]]
    if name == "covid":
        text = wording.note(case, rng, RATES)
    else:
        text = wording.write(case, rng, RATES).text
    view = "AP" if variant.portable else "PA"
    if name == "covid" and variant.portable and rng.random() < 0.5:
        view = "AP Supine"
    drawn = np.random.default_rng([seed, 107, person])
    sex, age = str(drawn.choice(["M", "F"])), int(drawn.integers(25, 90))
    side = len(picture)
    return Shot(name, number, person, pool, picture, side, case, boxes, text, view, sex, age)


def _work(tasks: list[Task], seed: int, side: int, chest: Path, folder: Path) -> list[Shot]:
    """Write all images of one variant, projected once as AP and once as PA where needed.

    Gives the shots without their pictures.
    """
    projected, shots = {}, []
    for task in tasks:
        name, image, number, _ = task
        rng = np.random.default_rng([seed, 109, SETS.index(name), image])
        portable = bool(rng.random() < getattr(RATES, name).portable)
        if portable not in projected:
            rng = np.random.default_rng([seed, 113, number])
            projected[portable] = anatomy.project(anatomy.Chest.load(chest), rng, side, portable)
        variant = projected[portable]
        shot = make_shot(variant, task, seed)
        layouts.save_image(folder, shot)
        shots.append(replace(shot, picture=np.zeros((0, 0), np.uint8)))
    return shots


def generate(
    folder: Path, size: DemoSize, seed: int, workers: int = 2, progress: bool = True
) -> None:
    """Write all sets under `folder`, which must not exist yet; it appears whole or not at all.

    The same seed gives the same files, whatever the number of workers. Beside the sets lie
    `truth.csv` (a row per image) and `rates.json`. Raises PnlocError where the chest CT is not
    installed.
    """
    folder = Path(folder)
    if folder.exists():
        raise PnlocError(
            f"{folder}: already there; generated data are not written over other files"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".demo-", dir=folder.parent))
    chest, home = scratch / "chest", scratch / "data"
    try:
        anatomy.read_chest().save(chest)
        tasks, shots = plan(size, seed), []
        by_variant = [[t for t in tasks if t[2] == n] for n in sorted({t[2] for t in tasks})]
        with (
            ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
            bar(total=len(tasks), desc="generate", unit="image", shown=progress) as drawn,
        ):
            waiting = [pool.submit(_work, t, seed, size.side, chest, home) for t in by_variant]
            for done in as_completed(waiting):
                shots += done.result()
                drawn.update(len(done.result()))
        shots.sort(key=lambda shot: (shot.set, shot.number))
        for name, write in layouts.WRITERS.items():
            write(home, [shot for shot in shots if shot.set == name])
        write_table(home / "truth.csv", pd.DataFrame(map(_truth, shots)))
        write_json(home / "rates.json", RATES.as_dict())
        home.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _truth(shot: Shot) -> dict:
    """The exact truth of an image as one row."""
    case = shot.case
    described = [
        f"{o.kind}/{o.side}/{o.zone}/{LOBE_NAMES[LOBES.index(o.lobe)]}/{o.density:.2f}"
        for o in case.opacities
    ]
    boxes = [" ".join(f"{v:.0f}" for v in o.box) for o in case.opacities]
    row = {"set": shot.set, "image": layouts.image_name(shot), "variant": shot.variant}
    row |= {"pool": shot.pool, "view": shot.view, "opacities": ";".join(described)}
    row |= {"others": ";".join(f"{o.kind}/{o.side}" for o in case.others), "boxes": ";".join(boxes)}
    row |= {f"share_{side}": round(case.share[side], 4) for side in ("right", "left")}
    row |= {"geographic_extent": case.extent, "opacity": case.opacity}
    return row | {"severity": case.severity if case.opacities else ""}
