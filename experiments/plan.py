"""Plans of the experiment: what a report is worth in boxes (book, The experiment).

A plan is a preset's data and a network with its schedule. Everything that is tried, drawn or
compared is listed here; nothing is chosen on test images.
"""

from dataclasses import dataclass

from pnloc.errors import PnlocError

BOXES, LABELS, TEXT = "boxes", "labels", "text"
SHUFFLED, SWAPPED = "shuffled reports", "swapped sides"
LINES = (BOXES, LABELS, TEXT)  # of the curve
CONTROLS = (SHUFFLED, SWAPPED)  # in the place of TEXT
ALL = -1  # as many boxed images as every replicate has


@dataclass(frozen=True)
class Plan:
    """Points, replicates and schedule; the data are those of the preset of the same name."""

    settings: str = "+detector.side=128"  # of that preset
    points: tuple[int, ...] = (0, 10, 25, 50, 100, ALL)  # numbers of boxed images
    controlled: tuple[int, ...] = (0, 25)  # points of CONTROLS
    folds: int = 5  # of the boxed set, by patient: one tests, the next one validates
    replicates: int = 3  # each with its own fold, seed and draw of boxed images
    rates: tuple[float, ...] = (1e-3, 2e-3)  # of learning, of which each line has its own
    tuned: tuple[int, ...] = (25, ALL)  # points at which they are compared
    body: str = "tf_efficientnet_lite0"
    start: str = "packaged"
    body_rate: float = 0.3
    frozen_stem: bool = True
    batch: int = 8  # boxed images, and as many others
    described: int = 8  # images with a report or an image label, beside them
    place_weight: float = 0.5
    epochs: int = 10
    steps: int = 20  # in an epoch, whatever the number of boxes
    resamples: int = 20_000  # so that p can be small after correction


PLANS = {
    "public": Plan(),
    "demo": Plan(epochs=8),
    "smoke": Plan(
        settings="",
        points=(0, ALL),
        controlled=(0,),
        folds=3,
        replicates=2,
        tuned=(ALL,),
        body="narrow",
        start="random",
        body_rate=1.0,
        frozen_stem=False,
        epochs=1,
        steps=3,
        resamples=100,
    ),
}


def plan_of(preset: str) -> Plan:
    """The plan of a preset; PnlocError for one without a plan."""
    if preset not in PLANS:
        raise PnlocError(f"no plan for preset '{preset}'; there are {', '.join(PLANS)}")
    return PLANS[preset]
