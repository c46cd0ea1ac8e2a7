"""The training loop: resume equals never stopping, other seeds differ, bad losses end clearly."""

import signal

import pytest
import torch
from torch import nn

from pnloc import train
from pnloc.errors import PnlocError
from pnloc.train import Schedule, fit


def run(folder, epochs_allowed=None, seed=3, spoil=False):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))

    def batches(epoch):
        if epochs_allowed is not None and epoch >= epochs_allowed:
            raise KeyboardInterrupt
        rng = torch.Generator().manual_seed(seed * 100 + epoch)
        for _ in range(30):
            yield torch.randn(16, 4, generator=rng)

    def losses(x):
        value = (module(x)[:, 0] - x.sum(1)).square().mean()
        return {"fit": value * float("nan") if spoil else value}

    schedule = Schedule(5, 30, 1e-2, 0.01)
    place = {"folder": folder, "fingerprint": "f", "seed": seed}
    return module, fit(module, batches, losses, schedule, **place)


def test_a_stopped_run_resumes_to_the_very_same_weights(tmp_path):
    whole, history = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", epochs_allowed=2)
    resumed, again = run(tmp_path / "stopped")
    again_weights = resumed.state_dict()
    assert all(torch.equal(v, again_weights[n]) for n, v in whole.state_dict().items())
    assert history.equals(again)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_another_seed_does_not_resume_a_foreign_checkpoint(tmp_path):
    one, _ = run(tmp_path, seed=3)
    other, _ = run(tmp_path, seed=4)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_clear_error(tmp_path):
    reason = "loss is not finite .* in epoch 0, step 0; .* keeps the last good state"
    with pytest.raises(PnlocError, match=reason):
        run(tmp_path, spoil=True)
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
