"""Whatever ends a training leaves its last good state, from which it ends with the same bits."""

import json
import os
import resource
import signal
import subprocess
import time
from itertools import cycle

import numpy as np
import pytest
import safetensors.torch
import torch
from forks import CONTEXT, start
from safetensors import safe_open

from pnloc import cli, files, train
from pnloc.config import DetectorConfig, ModelConfig
from pnloc.errors import PnlocError
from pnloc.files import load_tensors, save_module
from pnloc.regions import Regions
from pnloc.reports.words import WordVectors
from pnloc.train import STATE
from pnloc.training import train_localizer

KILLS = 20


def detector(folder):
    """A small RetinaNet as the package trains it: channels last, batch normalization, bfloat16."""
    from pnloc.detector_training import train_detector

    rng = np.random.default_rng(1)
    images = rng.integers(1, 200, (24, 32, 32), dtype=np.uint8)
    boxes = [np.array([[4.0, 6, 20, 24]]) if row % 2 else np.zeros((0, 4)) for row in range(24)]
    sizes = {"side": 32, "width": 8, "pyramid": 8, "anchor_sizes": ((12.0,), (20.0,))}
    config = DetectorConfig(**sizes, batch=4, epochs=4)
    return train_detector(images, boxes, config, seed=2, folder=folder, fingerprint="f")[0]


def localizer(folder):
    """The cross-attention with its dropout."""
    rng = np.random.default_rng(1)
    regions = Regions(
        torch.zeros(60, 4, 4),
        torch.rand(60, 4, generator=torch.Generator().manual_seed(0)),
        torch.ones(60, 4, dtype=torch.bool),
        torch.from_numpy(rng.normal(size=(60, 4, 12))).half(),
        torch.zeros(60, 2, 2).half(),
        torch.zeros(60),
    )
    vectors = WordVectors(["", "left", "pneumonia"], rng.normal(size=(3, 6)).astype(np.float32))
    labels = (rng.uniform(size=(60, 2)) < 0.5).astype(np.float32)
    phrases = rng.integers(0, 2, (60, 2, 6)).astype(np.float32)
    config = ModelConfig(width=8, epochs=5, batch=6)
    words, names = rng.integers(-1, 3, (60, 4)), ("pneumonia", "side:left")
    data = (regions, words, phrases, labels, np.ones_like(labels), vectors, names, config)
    return train_localizer(*data, text=True, seed=2, folder=folder, fingerprint="f")[0]


def run(work, folder, begun=None):
    """Train to the end, with a checkpoint after each step, and keep the weights."""
    train.EVERY = 0.0
    if begun is not None:
        begun.send(True)
    save_module(folder / "weights.safetensors", work(folder))


def begin(work, folder):
    """Start `run` in a process of its own; returns it when its training begins."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = start(run, work, folder, there)
    there.close()
    assert here.poll(60) and here.recv()
    return process


def finished(work, folder) -> dict[str, torch.Tensor]:
    """The weights of a run in `folder` that is let go to its end."""
    process = begin(work, folder)
    process.join(60)
    assert process.exitcode == 0
    return load_tensors(folder / "weights.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def progress(folder) -> tuple[int, int]:
    """Whole epochs and further steps of the checkpoint in a folder; (0, 0) without one."""
    if not (folder / STATE).exists():
        return 0, 0
    with safe_open(folder / STATE, "pt") as file:
        state = json.loads(file.metadata()["progress"])
    return len(state["history"]), state["step"]


def test_twenty_kills_at_random_moments_change_no_bit(tmp_path):
    rng = np.random.default_rng(0)
    whole, lasts = {}, {}
    for work in (detector, localizer):
        process = begin(work, tmp_path / work.__name__)
        began = time.monotonic()
        process.join(60)
        lasts[work] = time.monotonic() - began
        whole[work] = load_tensors(tmp_path / work.__name__ / "weights.safetensors")
    kills, found = 0, set()
    for number, work in enumerate(cycle(whole)):
        folder = tmp_path / f"run-{number}"
        while kills < KILLS:
            process = begin(work, folder)
            process.join(rng.uniform(0, lasts[work] / 3))
            if not process.is_alive():
                break
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            found.add(progress(folder))
        assert same(finished(work, folder), whole[work]), f"{work.__name__}: {sorted(found)}"
        if kills >= KILLS:
            break
    assert len(found) >= 5 and any(step for _, step in found), "many moments, also within epochs"


def killed_in_a_write(work, folder, moment):
    """Train, and be killed in the ninth checkpoint: half written, before it is moved, or after."""
    train.EVERY = 0.0
    calls = []

    def ninth() -> bool:
        calls.append(0)
        return len(calls) == 9

    def end():
        os.kill(os.getpid(), signal.SIGKILL)

    save, replace = safetensors.torch.save_file, os.replace

    def half(tensors, path, metadata):
        save(tensors, path, metadata)
        if ninth():
            os.truncate(path, os.path.getsize(path) // 2)
            end()

    def moved(source, target):
        last = ninth()
        if last and moment == "before":
            end()
        replace(source, target)
        if last:
            end()

    if moment == "half":
        safetensors.torch.save_file = half
    else:
        files.os.replace = moved
    work(folder)


@pytest.mark.parametrize("moment", ["half", "before", "after"])
def test_a_kill_while_the_checkpoint_is_written_leaves_the_old_one_or_the_new_one(moment, tmp_path):
    process = start(killed_in_a_write, localizer, tmp_path / "killed", moment)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert progress(tmp_path / "killed") == (0, 9 if moment == "after" else 8)
    files_left = len(list((tmp_path / "killed").iterdir()))
    assert files_left == (1 if moment == "after" else 2), "a half file lies beside it"
    assert same(finished(localizer, tmp_path / "killed"), finished(localizer, tmp_path / "whole"))
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == [STATE, "weights.safetensors"]


def commanded(folder, begun):
    """The command line, whose training is a small one; its exit status becomes the process's."""
    train.EVERY = 0.0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

    def small(arguments):
        begun.send(True)
        localizer(folder)
        time.sleep(60)

    cli._train = small
    with open(folder / "stderr.txt", "w") as file:
        os.dup2(file.fileno(), 2)
        os._exit(cli.main(["train"]))


def test_control_c_is_one_line_and_keeps_the_state(tmp_path):
    here, there = CONTEXT.Pipe(duplex=False)
    folder = tmp_path / "stopped"
    folder.mkdir()
    process = start(commanded, folder, there)
    assert here.poll(60)
    while progress(folder) < (0, 3):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    message = (folder / "stderr.txt").read_text()
    assert message.count("\n") == 1 and "stopped" in message
    assert same(finished(localizer, folder), finished(localizer, tmp_path / "whole"))


class Stop(Exception):
    pass


def until(monkeypatch, step: int, work, folder) -> None:
    """Train in this process up to a step and no further."""
    calls, real = [], train._step

    def counted(*arguments):
        if len(calls) == step:
            raise Stop
        calls.append(0)
        return real(*arguments)

    monkeypatch.setattr(train, "EVERY", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(train, "_step", counted)
        work(folder)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_file_that_may_not_grow_ends_the_run_in_one_line_and_keeps_the_state(
    tmp_path, monkeypatch
):
    until(monkeypatch, 13, localizer, tmp_path)
    before = (tmp_path / STATE).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        advice = r"state\.safetensors: cannot be written .*too large.*make room"
        with pytest.raises(PnlocError, match=advice) as caught:
            localizer(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert (tmp_path / STATE).read_bytes() == before and progress(tmp_path) == (1, 3)
    assert [p.name for p in tmp_path.iterdir()] == [STATE], "nothing half written stays"
    assert same(localizer(tmp_path).state_dict(), localizer(tmp_path / "whole").state_dict())


def test_a_full_disk_ends_the_run_in_one_line_and_keeps_the_state(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small file system can be mounted; a file's size limit is tested instead")
    try:
        until(monkeypatch, 13, localizer, disk / "run")
        room = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize - 4096))
        with pytest.raises(PnlocError, match="cannot be written .*No space left"):
            localizer(disk / "run")
        advice = "table.csv: cannot be written .*No space left.*make room"
        with pytest.raises(PnlocError, match=advice):
            files.write_text(disk / "table.csv", "x" * 100_000)
        assert [p.name for p in (disk / "run").iterdir()] == [STATE]
        assert progress(disk / "run") == (1, 3)
        (disk / "filler").unlink()
        again = localizer(disk / "run").state_dict()
    finally:
        subprocess.run(["umount", disk], check=True)
    assert same(again, localizer(tmp_path / "whole").state_dict())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_value_that_is_not_finite_ends_the_run_and_keeps_the_step_before(
    what, tmp_path, monkeypatch
):
    def spoiled(model, *arguments):
        terms = real(model, *arguments)
        calls.append(0)
        if len(calls) == 14:
            zero = model.bias.sum() * 0  # the root's slope there is infinite
            terms["spoiled"] = zero * float("nan") if what == "loss" else zero.sqrt()
        return terms

    from pnloc import training

    real, calls = training.total, []
    monkeypatch.setattr(train, "EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(training, "total", spoiled)
        reason = f"text attention: the {what} is not finite.* epoch 1, step 3; .*keeps"
        with pytest.raises(PnlocError, match=reason):
            localizer(tmp_path)
    assert progress(tmp_path) == (1, 3)
    assert same(localizer(tmp_path).state_dict(), localizer(tmp_path / "whole").state_dict())
