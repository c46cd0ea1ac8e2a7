"""Bars are drawn in a terminal and in a notebook that somebody watches; never in a pipe nor in a batch run."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import nbformat
import pytest

from pnloc import parallel as progress
from pnloc.view.notebook import live_curves

ROOT = Path(__file__).parents[1]
CODE = "from pnloc.parallel import bar\nfor _ in bar(range(3), desc='told'):\n    pass"


class Kernel:
    def __init__(self, allow_stdin: bool) -> None:
        self._allow_stdin = allow_stdin


class Shell:
    def __init__(self, kernel: Kernel | None) -> None:
        if kernel is not None:
            self.kernel = kernel


@pytest.mark.parametrize(
    ("kernel", "terminal", "expected"),
    [
        (Kernel(True), False, True),
        (Kernel(False), True, False),
        (None, True, True),
        (None, False, False),
    ],
)
def test_who_watches(kernel, terminal, expected, monkeypatch):
    import IPython

    monkeypatch.setattr(IPython, "get_ipython", lambda: Shell(kernel))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert progress.attended() == expected


def test_a_pipe_sees_no_bar_and_a_terminal_does():
    told = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout == "" and told.stderr == ""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, stderr=theirs, check=True)
    assert select.select([ours], [], [], 1)[0] and b"told" in os.read(ours, 10_000)
    os.close(theirs)
    os.close(ours)


def test_a_batch_run_of_a_notebook_has_no_bar_and_no_live_curves(tmp_path):
    import papermill

    cell = f"{CODE}\nfrom pnloc.view.notebook import live_curves\nwith live_curves():\n    print('trained')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, tmp_path / "in.ipynb")
    papermill.execute_notebook(
        tmp_path / "in.ipynb",
        tmp_path / "out.ipynb",
        cwd=ROOT,
        kernel_name="python3",
        progress_bar=False,
        log_output=False,
    )
    outputs = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[0].outputs
    assert [output.get("text") for output in outputs] == ["trained\n"]


def test_live_curves_are_drawn_after_each_epoch_where_somebody_watches(tmp_path, monkeypatch):
    import IPython.display
    import torch

    from pnloc.train import Schedule, fit
    from pnloc.view import notebook

    shown = []

    class Handle:
        def update(self, value, **options):
            shown.append(value)

    monkeypatch.setattr(notebook, "attended", lambda: True)
    monkeypatch.setattr(notebook, "PAUSE", 0.0)
    monkeypatch.setattr(
        IPython.display,
        "display",
        lambda value, display_id=None, **options: shown.append(value) or Handle(),
    )
    module = torch.nn.Linear(2, 1)

    def train():
        fit(
            module,
            lambda e: [torch.ones(3, 2)],
            lambda x: {"fit": module(x).square().mean()},
            Schedule(4, 1, 0.1, 0.0),
            folder=tmp_path,
            fingerprint="x",
            seed=0,
            title="some training",
        )

    with live_curves():
        train()
    figures = [value for value in shown if hasattr(value, "axes")]
    assert len(figures) == 4 and figures[-1].axes[0].get_title() == "some training"
    assert len(figures[-1].axes[0].get_lines()[0].get_xdata()) == 4
    assert not hasattr(shown[-1], "axes"), (
        "the curves go when the training is done; the page keeps its own still figure"
    )
    with live_curves():
        pass
    train()
    assert len([value for value in shown if hasattr(value, "axes")]) == 4, (
        "outside the block nothing is drawn"
    )
