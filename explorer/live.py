"""Curves of a training that is watched in JupyterLab."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib.pyplot as plt
import pandas as pd

from pnloc.parallel import attended
from pnloc.train import watched
from pnloc.view import figures

PAUSE = 1.0  # seconds


@contextmanager
def live_curves() -> Iterator[None]:
    """Draw the losses of whatever is trained in the block; they vanish when it ends.

    Nothing is drawn where nobody watches (papermill, nbconvert, a script).
    """
    if not attended():
        yield
        return
    from IPython.display import Markdown, display

    handle, latest = display(Markdown(""), display_id=True), 0.0

    def draw(title: str, history: pd.DataFrame) -> None:
        nonlocal latest
        if time.monotonic() - latest >= PAUSE:
            figure, ax = plt.subplots(figsize=(5, 3))
            figures.history(history, ax).set_title(title)
            plt.close(figure)
            handle.update(figure)
            latest = time.monotonic()

    try:
        with watched(draw):
            yield
    finally:
        handle.update(Markdown(""))
