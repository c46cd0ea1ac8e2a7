"""Processes for tests, forked from a server that has imported torch and the package."""

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

CONTEXT = get_context("forkserver")
PRELOAD = ["pytest", "accelerate", "pnloc.detector_training", "pnloc.training", "pnloc.run.run"]
CONTEXT.set_forkserver_preload([*PRELOAD, "pnloc.baselines.classifier"])


def start(work: Callable, *arguments: object, **environment: str):
    """Start work(*arguments), a function at the top of a module, in a process of one thread."""
    process = CONTEXT.Process(target=_work, args=(work, arguments, environment))
    process.start()
    return process


def _work(work: Callable, arguments: tuple, environment: dict[str, str]) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    work(*arguments)


def together(work: Callable, folder: Path, *arguments: object, count: int = 2) -> None:
    """Run work(folder, *arguments) in `count` connected processes (gloo), as a launcher does.

    Fails with the message of the first one that failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(count):
        own = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
        own |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        started.append(start(_reporting, work, folder, rank, *arguments, **own))
    for process in started:
        process.join(120)
        process.kill()
    failed = [path.read_text() for path in sorted(folder.glob("failed-*"))]
    assert not failed, failed[0]
    assert [process.exitcode for process in started] == [0] * count


def _reporting(work: Callable, folder: Path, rank: int, *arguments: object) -> None:
    try:
        work(folder, *arguments)
        from pnloc import parallel

        parallel.wait()  # who ends first would cut the connection of those who are still making it
    except BaseException:
        (folder / f"failed-{rank}").write_text(traceback.format_exc())
        raise
