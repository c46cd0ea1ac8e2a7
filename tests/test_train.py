"""The training loop: a foreign checkpoint is not resumed, Control-C ends it between two steps."""

import signal

import pytest
import torch
from torch import nn

from pnloc import train
from pnloc.errors import PnlocError
from pnloc.train import Schedule, fit


def weights(folder, seed):
    """What a layer learns from the same batches with a seed."""
    torch.manual_seed(seed)
    module = nn.Linear(4, 1)
    place = {"folder": folder, "fingerprint": "f", "seed": seed}

    def losses(x):
        return {"fit": (module(x)[:, 0] - x.sum(1)).square().mean()}

    fit(module, lambda epoch: [torch.eye(4)] * 3, losses, Schedule(2, 3, 1e-2, 0.01), **place)
    return module.weight


def test_another_seed_does_not_resume_a_foreign_checkpoint(tmp_path):
    own = weights(tmp_path / "own", seed=4)
    weights(tmp_path / "both", seed=3)
    assert torch.equal(weights(tmp_path / "both", seed=4), own)


def test_no_batch_is_an_error():
    with pytest.raises(PnlocError, match="nothing to train on"):
        Schedule(1, 0, 1e-3, 0.0)


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal: a shell's background jobs, and what they start, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_control_c_waits_for_the_end_of_a_step_and_is_never_lost(interruptible):
    before = signal.getsignal(signal.SIGINT)
    steps = []
    with pytest.raises(KeyboardInterrupt), train._stoppable() as stop:
        for step in range(3):
            if step == 1:
                signal.raise_signal(signal.SIGINT)
            steps.append(step)
            stop()
    assert steps == [0, 1] and signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), train._stoppable():
        signal.raise_signal(signal.SIGINT)  # after the last step
    with pytest.raises(KeyboardInterrupt), train._stoppable():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the second does not wait
        raise AssertionError("not reached")
    assert signal.getsignal(signal.SIGINT) is before
