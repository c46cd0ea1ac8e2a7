"""Progress bars for whoever is watching: in a terminal and in a notebook, never in a pipe or a batch run."""

import sys
from collections.abc import Iterable

from tqdm.auto import tqdm

from pnloc import processes


def attended() -> bool:
    """Whether somebody watches: standard error is a terminal, or a notebook's front-end that could answer a question.

    papermill and nbconvert run notebooks in the same kernel as JupyterLab does, but tell it that nobody can type.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stderr is not None and sys.stderr.isatty()


def bar(
    iterable: Iterable | None = None,
    *,
    desc: str,
    unit: str = "it",
    total: int | None = None,
    shown: bool = True,
):
    """A tqdm bar that vanishes when it is full; without `shown`, or where nobody watches, it is never drawn."""
    hidden = not (shown and processes.main() and attended())
    return tqdm(iterable, desc=desc, unit=unit, total=total, leave=False, disable=hidden)
