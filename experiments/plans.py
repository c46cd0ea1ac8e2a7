"""Plans of the experiment: sizes, seeds, cohorts, grid and ablations (book, The experiment)."""

from dataclasses import dataclass
from itertools import product

Options = tuple[tuple[str, float], ...]  # values of the preset's ModelConfig that an arm replaces
TEXT, LABELS, GIVEN = "text-attention", "image-label-attention", "report-given"
FULL = "as it is (20 regions)"
ABLATIONS = {
    "no contrastive term": {"options": (("contrast_weight", 0.0),)},
    "no attributes": {"attributes": False},
    "no distillation": {"options": (("distill_weight", 0.0),)},
    "no grounding of phrases": {"options": (("grounding_weight", 0.0),)},
    "shuffled reports": {"reports": "shuffled"},
    "sides swapped in reports": {"reports": "swapped"},
    "random vectors instead of word2vec": {"word2vec": False},
    "half of the reports": {"reports": "half"},
    "a tenth of the reports": {"reports": "tenth"},
    "5 regions": {"regions": 5},
    "10 regions": {"regions": 10},
    "50 regions": {"regions": 50},
}  # fields of experiments.arms.Arm


@dataclass(frozen=True)
class Plan:
    """Sizes, seeds and the grid; everything else is the preset's."""

    name: str
    preset: str
    variants: int
    sizes: tuple[tuple[str, int], ...]
    replicates: tuple[int, ...] = (1, 2)  # seeds of data, detector and word vectors
    seeds: int = 5  # of the attention
    tuning_seeds: int = 2  # of these, on which the grid is compared
    ablation_seeds: int = 3
    prevalences: tuple[float, ...] = (0.93, 0.5)  # the first is the cohort of the ablations
    grid: tuple[Options, ...] = tuple(
        product((("epochs", 10), ("epochs", 20)), (("tau", 0.1), ("tau", 0.2)))
    )
    ablations: tuple[str, ...] = tuple(ABLATIONS)
    resamples: int = 5000


def _sizes(rsna: int, mimic: int) -> tuple[tuple[str, int], ...]:
    return (("rsna", rsna), ("mimic", mimic), ("chestxray8", 4), ("covid", 4))


PLANS = {
    "full": Plan("full", "demo", 120, _sizes(900, 3000)),
    "smoke": Plan(
        "smoke",
        "smoke",
        6,
        _sizes(40, 90),
        seeds=2,
        tuning_seeds=1,
        ablation_seeds=1,
        grid=((("epochs", 3),), (("epochs", 6),)),
        ablations=("shuffled reports", "sides swapped in reports", "10 regions"),
        resamples=200,
    ),
}
