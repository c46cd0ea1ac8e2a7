"""What every notebook calls first: `run = start(globals())`.

The parameters cell is the same everywhere: PRESET, DATA, SEED, ARTIFACTS. papermill ends well when it is given a name
that no notebook has, so `start` looks at the namespace itself and refuses what it does not know.
"""

import difflib
import os
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

from pnloc.errors import PnlocError
from pnloc.parallel import attended

if TYPE_CHECKING:
    import pandas as pd

    from pnloc.run.run import Run

PARAMETERS: dict[str, type] = {"PRESET": str, "DATA": str, "SEED": int, "ARTIFACTS": str}
PARAMETERS_CELL = """PRESET = "demo"  # smoke, demo, public or mimic
DATA = ""  # folder that holds the real data sets; public and mimic need it
SEED = 0
ARTIFACTS = ""  # where results go; empty: artifacts/ of the repository"""
_SIMPLE = (str, bytes, int, float, complex, bool, list, tuple, dict, set, type(None))
_IPYTHON = {"In", "Out", "exit", "quit", "open", "get_ipython"}
_STARTED = "_pnloc_started"
PAUSE = 1.0  # seconds at least between two drawings of a live curve


def start(namespace: MutableMapping[str, object]) -> "Run":
    """Check the notebook's parameters, set figure style and threads, and open the run that they name.

    `namespace` is the notebook's globals(). Unknown names are looked for on the first call in a kernel only, so that cells
    can be run again by hand. Raises PnlocError for an unknown, missing or ill-typed parameter.
    """
    if not namespace.get(_STARTED):
        refuse_unknown(
            [name for name, value in namespace.items() if _looks_like_a_parameter(name, value)]
        )
    missing = [name for name in PARAMETERS if name not in namespace]
    if missing:
        raise PnlocError(f"{', '.join(missing)} not set; run the notebook's parameters cell first")
    given = {name: namespace[name] for name in PARAMETERS}
    check_types(given)
    figures, stages = imports()
    from pnloc.view import guard as display

    figures.style()
    display.install()
    limit_threads()
    run = stages.open_run(given["PRESET"], given["DATA"], given["SEED"], given["ARTIFACTS"])
    namespace[_STARTED] = True
    return run


def imports() -> tuple[ModuleType, ModuleType]:
    """pnloc.view.figures and pnloc.run.run, whose imports take seconds."""
    from pnloc.run import run as stages
    from pnloc.view import figures

    return figures, stages


def refuse_unknown(names: list[str]) -> None:
    """Raise PnlocError for the first of `names` that is no parameter; the message suggests the nearest one."""
    for name in names:
        if name not in PARAMETERS:
            near = difflib.get_close_matches(name.upper(), PARAMETERS, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise PnlocError(
                f"unknown parameter {name}; the notebooks take {', '.join(PARAMETERS)}{hint}"
            )


def check_types(given: dict[str, object]) -> None:
    """Raise PnlocError unless PRESET, DATA and ARTIFACTS are text and SEED is a whole number from 0 on."""
    for name, value in given.items():
        kind = PARAMETERS[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise PnlocError(
                f"{name} is {'text' if kind is str else 'a whole number'}, not {value!r}"
            )
    if int(given.get("SEED", 0)) < 0:
        raise PnlocError(f"SEED is a whole number from 0 on, not {given['SEED']}")


def limit_threads() -> None:
    """Let torch use the processors that are really there; OMP_NUM_THREADS, where set, has the last word."""
    if not os.environ.get("OMP_NUM_THREADS"):
        import torch
        from joblib import cpu_count  # within the quota of a control group

        torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))


@contextmanager
def live_curves() -> Iterator[None]:
    """Draw the losses of whatever is trained inside the block while it is trained; they vanish when the block ends.

    Where nobody watches (papermill, nbconvert, a script) nothing is drawn.
    """
    if not attended():
        yield
        return
    import matplotlib.pyplot as plt
    from IPython.display import Markdown, display

    from pnloc.train import watched
    from pnloc.view import figures

    handle, drawn = display(Markdown(""), display_id=True), 0.0

    def draw(title: str, history: "pd.DataFrame") -> None:
        nonlocal drawn
        if time.monotonic() - drawn >= PAUSE:
            figure, ax = plt.subplots(figsize=(5, 3))
            figures.history(history, ax).set_title(title)
            plt.close(figure)
            handle.update(figure)
            drawn = time.monotonic()

    try:
        with watched(draw):
            yield
    finally:
        handle.update(Markdown(""))


def _looks_like_a_parameter(name: str, value: object) -> bool:
    return not name.startswith("_") and name not in _IPYTHON and isinstance(value, _SIMPLE)
