"""The first call of every notebook: `run = start(globals())`.

All notebooks have the same parameters cell. papermill injects names that no notebook has without a
complaint, so `start` looks at the namespace itself and refuses unknown ones.
"""

import difflib
import os
from collections.abc import Mapping, MutableMapping

import torch
from joblib import cpu_count

from pnloc.errors import PnlocError
from pnloc.run import run as runs
from pnloc.view import figures

PARAMETERS: dict[str, type] = {"PRESET": str, "DATA": str, "SEED": int, "ARTIFACTS": str}
_SIMPLE = (str, bytes, int, float, complex, bool, list, tuple, dict, set, type(None))
_STARTED = "_pnloc_started"


def start(namespace: MutableMapping[str, object]) -> runs.Run:
    """Check the notebook's parameters, set figure style and threads, and open the run.

    `namespace` is the notebook's globals(). Unknown names are refused on the first call in a kernel
    only, so that cells can be run again by hand. Raises PnlocError for an unknown, missing or
    ill-typed parameter.
    """
    from pnloc.view import guard  # needs IPython, which `check` must not

    simple = [name for name, value in namespace.items() if isinstance(value, _SIMPLE)]
    own = [name for name in simple if not name.startswith("_") and name not in ("In", "Out")]
    names = [name for name in PARAMETERS if name in namespace]
    check({name: namespace[name] for name in (names if _STARTED in namespace else own)})
    if missing := [name for name in PARAMETERS if name not in names]:
        raise PnlocError(f"{', '.join(missing)} not set; run the notebook's parameters cell first")
    figures.style()
    guard.install()
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))  # of a control group
    namespace[_STARTED] = True
    return runs.open_run(*(namespace[name] for name in PARAMETERS))


def check(parameters: Mapping[str, object]) -> None:
    """Raise PnlocError for the first parameter that is unknown or of the wrong type."""
    for name, value in parameters.items():
        if name not in PARAMETERS:
            near = difflib.get_close_matches(name.upper(), PARAMETERS, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            names = ", ".join(PARAMETERS)
            raise PnlocError(f"unknown parameter {name}; the notebooks take {names}{hint}")
        kind = PARAMETERS[name]
        wrong = not isinstance(value, kind) or isinstance(value, bool)
        if wrong or (kind is int and value < 0):
            wanted = "text" if kind is str else "a whole number from 0 on"
            raise PnlocError(f"{name} is {wanted}, not {value!r}")
