"""Generated radiographs with masks of their lungs, for the lung finder of pnloc."""

import numpy as np

from phantoms.anatomy import project, read_chest
from phantoms.film import develop
from phantoms.generator import make_case
from pnloc.parallel import bar

SIDES = ("right", "left")
VIEWS = 8  # radiographs per projected anatomy


def generate_lungs(anatomies: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Radiographs uint8 [N, S, S] of anatomies, PA and AP in turn, and lungs bool [N, 2, S, S].

    S is `side`; the right lung comes first. Opacities are those of the COVID-like set, so that a
    network learns from lungs that are partly white. Raises PnlocError if the chest CT is not
    installed.
    """
    chest, images, masks = read_chest(), [], []
    for number in bar(range(anatomies), desc="generate lungs", unit="anatomy"):
        rng = np.random.default_rng([seed, 201, number])
        variant = project(chest, rng, side, portable=bool(number % 2))
        for _ in range(VIEWS):
            _, added = make_case(variant, rng, "covid")
            images.append(develop(variant, added, rng))
        masks += [np.stack([variant.sides[name] for name in SIDES])] * VIEWS
    return np.stack(images), np.stack(masks)
