"""Bars and live curves are drawn where somebody watches; never in a pipe nor in a batch run."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import IPython
import IPython.display
import pytest
import torch

from explorer import live
from pnloc import parallel
from pnloc.train import Schedule, fit

ROOT = Path(__file__).parents[1]
CODE = "from pnloc.parallel import bar\nfor _ in bar(range(3), desc='title'):\n    pass"


@pytest.mark.parametrize(
    ("input_allowed", "terminal", "expected"),
    [(True, False, True), (False, True, False), (None, True, True), (None, False, False)],
)
def test_who_watches(input_allowed, terminal, expected, monkeypatch):
    """papermill and nbconvert allow a notebook no input."""
    kernel = None if input_allowed is None else SimpleNamespace(_allow_stdin=input_allowed)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert parallel.attended() == expected


def test_a_pipe_sees_no_bar_and_a_terminal_does():
    command = [sys.executable, "-c", CODE]
    piped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert piped.stdout == "" and piped.stderr == ""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run(command, cwd=ROOT, stderr=theirs, check=True)
    assert select.select([ours], [], [], 1)[0] and b"title" in os.read(ours, 10_000)
    os.close(theirs)
    os.close(ours)


def test_live_curves_are_drawn_after_each_epoch_and_vanish_at_the_end(tmp_path, monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda value, **_: shown.append(value))
    monkeypatch.setattr(live, "attended", lambda: True)
    monkeypatch.setattr(live, "PAUSE", 0.0)
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: handle)
    module, place = torch.nn.Linear(2, 1), {"folder": tmp_path, "fingerprint": "x", "seed": 0}

    def losses(x):
        return {"fit": module(x).square().mean()}

    def train():
        schedule = Schedule(4, 1, 0.1, 0.0)
        fit(module, lambda e: [torch.ones(3, 2)], losses, schedule, **place, title="some training")

    with live.live_curves():
        train()
    axes = [value.axes[0] for value in shown if hasattr(value, "axes")]
    assert len(axes) == 4 and axes[-1].get_title() == "some training"
    assert len(axes[-1].get_lines()[0].get_xdata()) == 4 and not hasattr(shown[-1], "axes")
    train()
    assert len(shown) == 5, "outside the block nothing is drawn"
