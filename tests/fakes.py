"""A run and regions that are made up."""

from functools import partial
from types import SimpleNamespace

import pandas as pd
import torch

from pnloc.config import Preset
from pnloc.regions import Regions
from pnloc.run.run import Run
from pnloc.run.sets import Sets


class FakeRun(Run):
    """A run whose data sets all are the same tables of images and boxes; nothing is on disk."""

    def __init__(self, configuration: Preset, images: pd.DataFrame, boxes: pd.DataFrame) -> None:
        self.preset, self.seed = configuration, 0
        self.sets = Sets(configuration, None, 0, None)
        self.sets.records = lambda _: SimpleNamespace(images=images, boxes=boxes)


def random_regions(count: int, seed: int = 0) -> Regions:
    """Four regions of 12 features in each of `count` images, some of them padding."""
    draw = partial(torch.rand, generator=torch.Generator().manual_seed(seed))
    parts = draw(count, 4, 4), draw(count, 4), draw(count, 4) < 0.8, draw(count, 4, 12).half()
    return Regions(*parts, draw(count, 3, 3).half(), draw(count))
