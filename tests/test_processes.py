"""Several processes train as one, resume together, and wait for each other's files."""

import os

import pytest
import torch
from forks import start, together

from pnloc import parallel, train
from pnloc.errors import PnlocError
from pnloc.run.cache import Cache
from pnloc.train import Schedule, fit


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def trained(folder, module=None, epochs=3, spoil=False):
    """A regression on batches of 6 rows and one of 2; every process keeps its weights."""
    module = network() if module is None else module
    rng = torch.Generator().manual_seed(0)
    data = [[torch.randn(n, k, generator=rng) for k in (3, 1)] for n in (6, 6, 2, 6)]

    def losses(batch):
        x, y = batch
        error = (module(x) - y).square().mean()
        return {"fit": error / (0.0 if spoil and parallel.index() == 1 else 1.0)}

    schedule = Schedule(epochs, len(data), 1e-2, 0.0)
    place = {"folder": folder, "fingerprint": "f", "seed": 0}
    history = fit(module, lambda epoch: data, losses, schedule, **place, shared=True)
    torch.save(module.state_dict(), folder / f"weights-{parallel.index()}.pt")
    return history["loss"].tolist()


def weights(folder, index=0):
    return torch.load(folder / f"weights-{index}.pt", weights_only=True)


@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_a_batch_train_what_the_whole_batch_trains(count, tmp_path):
    together(trained, tmp_path / "one", count=1)
    together(trained, tmp_path / "many", count=count)
    whole = weights(tmp_path / "one")
    for index in range(count):
        for name, value in weights(tmp_path / "many", index).items():
            assert torch.allclose(value, whole[name], atol=1e-5), name
    assert not torch.equal(whole["0.weight"], network().state_dict()["0.weight"])


def interrupted(folder, at):
    """Training that stops after `at` steps and is started again."""
    step, steps = train._step, []

    def counted(*arguments):
        if len(steps) == at:
            raise KeyboardInterrupt
        steps.append(0)
        return step(*arguments)

    train._step, train.EVERY = counted, 0.0
    with pytest.raises(KeyboardInterrupt):
        trained(folder)
    train._step = step
    parallel.wait()  # for the last checkpoint
    trained(folder)


def test_processes_resume_together_to_the_same_bits(tmp_path):
    together(trained, tmp_path / "whole")
    together(interrupted, tmp_path / "again", 6)
    for index in range(2):
        for name, value in weights(tmp_path / "whole", index).items():
            assert torch.equal(value, weights(tmp_path / "again", index)[name]), name


def spoiled(folder):
    with pytest.raises(PnlocError, match="loss is not finite"):
        trained(folder, spoil=True)


def test_a_loss_that_is_not_finite_in_one_process_ends_them_all(tmp_path):
    together(spoiled, tmp_path)


def stages(folder):
    """Stages of both kinds, and a note of who made what."""
    cache = Cache(folder / "run", preset="none", seed=0)

    def make(name):
        def write(into, key):
            with (folder / f"{name}-made").open("a") as file:
                file.write(f"{parallel.index()} of {parallel.count()}\n")

        return write

    first, _ = cache.stage("first", 1, make=make("first"))
    assert (first / "done.json").exists(), "the others wait for the one that makes it"
    cache.stage("second", 1, make=make("second"), together=True)
    cache.stage("second", 1, make=make("second"), together=True)
    assert not parallel.shared(), "on CPUs one process trains"
    assert parallel.leave() == (int(os.environ["RANK"]) == 0)
    assert parallel.count() == 1


def test_a_stage_is_made_by_one_process_or_by_all_and_once(tmp_path):
    together(stages, tmp_path)
    assert (tmp_path / "first-made").read_text() == "0 of 1\n"
    assert sorted((tmp_path / "second-made").read_text().splitlines()) == ["0 of 2", "1 of 2"]


def test_one_process_needs_no_connection(monkeypatch):
    monkeypatch.delattr(parallel, "_accelerator")
    assert parallel.count() == 1 and parallel.main() and parallel.leave() and not parallel.shared()
    assert parallel.agree(3) == 3 and parallel.mean(torch.ones(2)).tolist() == [1, 1]
    assert parallel.launch(print, "never", processes=1) is False


def notebook(folder):
    """What a notebook does before it asks for a result that several processes make."""
    assert parallel.launch(note, folder, processes=2) and parallel.count() == 1


def note(folder):
    (folder / f"{parallel.index()} of {parallel.count()}").touch()


def test_a_notebook_launches_processes_and_waits_for_them(tmp_path):
    process = start(notebook, tmp_path)
    process.join(100)
    assert process.exitcode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]
