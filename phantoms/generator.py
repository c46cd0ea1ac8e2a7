"""All sets of a run, drawn by the rates and written to disk."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from numpy.random import Generator

from phantoms import anatomy, film, layouts, wording
from phantoms.anatomy import LOBE_NAMES, LOBES, Variant
from phantoms.case import Case, degree_grade
from phantoms.findings import add_opacity, add_other, merge
from phantoms.layouts import Shot
from phantoms.rates import RATES
from pnloc.errors import PnlocError
from pnloc.files import write_json, write_table
from pnloc.parallel import bar

# Shares of anatomical variants in each pool; of each set, those of its images from each pool.
POOLS = {"train": 0.56, "validate": 0.14, "test": 0.30}
SHARES = {"rsna": (0.72, 0.12, 0.16), "mimic": (0.66, 0.12, 0.22)}
SHARES |= dict.fromkeys(("chestxray8", "covid"), (0.0, 0.0, 1.0))
SETS = tuple(SHARES)

Task = tuple[str, int, int, str]  # set, number in the set, variant, pool


@dataclass(frozen=True)
class PhantomSize:
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
    train, validate = (max(1, round(variants * POOLS[name])) for name in ("train", "validate"))
    train = min(train, variants - validate - 1)
    parts = np.split(np.arange(variants), [train, train + validate])
    return dict(zip(POOLS, parts, strict=True))


def plan(size: PhantomSize, seed: int) -> list[Task]:
    """Every image to make: set, number in the set, variant, pool."""
    by_pool, planned = pools(size.variants), []
    for place, (name, shares) in enumerate(SHARES.items()):
        rng = np.random.default_rng([seed, 101, place])
        counts = np.diff(np.round(np.cumsum(shares) * getattr(size, name)), prepend=0)
        for number, pool in enumerate(np.repeat(list(POOLS), counts.astype(int)).tolist()):
            planned.append((name, number, int(rng.choice(by_pool[pool])), pool))
    return planned


def _choice(rng: Generator, rates: dict[str, float]) -> str:
    return str(rng.choice(list(rates), p=list(rates.values())))


def make_case(variant: Variant, rng: Generator, name: str) -> tuple[Case, np.ndarray]:
    """The findings of an image of a set, and the millimetres of water [S, S] that they add."""
    rates = RATES[name]
    case, added = Case(), np.zeros(variant.path.shape, dtype=np.float32)
    if rng.random() < rates["positive"]:
        counts = RATES["covid_opacities" if name == "covid" else "opacities"]
        wanted = 1 + rng.choice(len(counts), p=counts)
        kind = _choice(rng, RATES["kinds"])
        for lobe in rng.choice(LOBES, size=wanted, replace=False, p=RATES["lobes"]):
            if drawn := add_opacity(variant, rng, name, int(lobe), kind):
                case.opacities.append(drawn[0])
                added += drawn[1]
    case.opacities = merge(case.opacities, variant)
    for _ in range(min(rng.poisson(rates["distractor"]), 3)):
        kind = _choice(rng, RATES["distractors"])
        drawn = add_other(variant, rng, kind)
        if drawn and kind not in [o.kind for o in case.others]:
            case.others.append(drawn[0])
            added += drawn[1]
    for side, lung in variant.sides.items():
        here = [o for o in case.opacities if o.side == side]
        covered = np.any([o.mask for o in here], axis=0) & lung
        share = case.share[side] = float(covered.sum() / max(lung.sum(), 1))
        areas = [o.area for o in here]
        density = np.average([o.density for o in here], weights=areas) if here else 0.0
        case.degree[side] = degree_grade(share, density)
    return case, added


def make_shot(variant: Variant, task: Task, seed: int) -> tuple[Shot, np.ndarray]:
    """One image with its truth and its text; it depends on seed, set and number alone.

    Gives the shot and its picture uint8 [S, S].
    """
    name, number, person, pool = task
    rng = np.random.default_rng([seed, 103, SETS.index(name), number])
    case, added = make_case(variant, rng, name)
    picture = film.develop(variant, added, rng)
    boxes = [o.box for o in case.opacities]
    if name == "rsna":
        boxes += [o.box for o in case.others if rng.random() < RATES["boxed"][o.kind]]
    text = wording.note(case, rng) if name == "covid" else wording.write(case, rng)[0]
    view = "AP" if variant.portable else "PA"
    if name == "covid" and variant.portable and rng.random() < 0.5:
        view = "AP Supine"
    drawn = np.random.default_rng([seed, 107, person])
    sex, age = str(drawn.choice(["M", "F"])), int(drawn.integers(25, 90))
    side = len(picture)
    return Shot(name, number, person, pool, side, case, boxes, text, view, sex, age), picture


def _write(tasks: list[Task], seed: int, side: int, folder: Path) -> list[Shot]:
    """Write all images of one variant, projected once as AP and once as PA where needed."""
    projected, shots = {}, []
    for task in tasks:
        name, image, number, _ = task
        rng = np.random.default_rng([seed, 109, SETS.index(name), image])
        portable = bool(rng.random() < RATES[name]["portable"])
        if portable not in projected:
            rng = np.random.default_rng([seed, 113, number])
            projected[portable] = anatomy.project(anatomy.read_chest(), rng, side, portable)
        shot, picture = make_shot(projected[portable], task, seed)
        layouts.save_image(folder, shot, picture)
        shots.append(shot)
    return shots


def generate(folder: Path, size: PhantomSize, seed: int, workers: int = 2) -> None:
    """Write all sets under `folder`, which must not exist yet; it appears whole or not at all.

    The same seed gives the same files, whatever the number of workers. Beside the sets lie
    `truth.csv` (a row per image) and `rates.json`. Raises PnlocError where the chest CT is not
    installed.
    """
    if folder.exists():
        raise PnlocError(f"{folder}: already there; generated data replace no other files")
    anatomy.chest_files()
    folder.parent.mkdir(parents=True, exist_ok=True)
    tasks = plan(size, seed)
    by_variant = [[t for t in tasks if t[2] == n] for n in sorted({t[2] for t in tasks})]
    with TemporaryDirectory(prefix=".phantoms-", dir=folder.parent) as scratch:
        home = Path(scratch, "data")
        write = partial(_write, seed=seed, side=size.side, folder=home)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            written = pool.map(write, by_variant)
            parts = list(bar(written, desc="generate", unit="anatomy", total=len(by_variant)))
        shots = sorted(sum(parts, []), key=lambda shot: (shot.set, shot.number))
        layouts.write_tables(home, shots)
        write_table(home / "truth.csv", pd.DataFrame(map(_truth, shots)))
        write_json(home / "rates.json", RATES)
        home.rename(folder)


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
