"""Processes for tests, forked from a server that has imported torch and the package."""

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

CONTEXT = get_context("forkserver")
PRELOAD = ["pytest", "accelerate", "pnloc.detector_training", "pnloc.training", "pnloc.run.run"]
CONTEXT.set_forkserver_preload([*PRELOAD, "pnloc.baselines.classifier"])


def start(work: Callable, *arguments: object):
    """Start work(*arguments), a function at the top of a module, in a process of one thread."""
    process = CONTEXT.Process(target=_work, args=(work, *arguments))
    process.start()
    return process


def _work(work: Callable, *arguments: object) -> None:
    import torch

    torch.set_num_threads(1)
    work(*arguments)


def together(work: Callable, folder: Path, *arguments: object, count: int = 2) -> None:
    """Run work(folder, *arguments) in `count` connected processes (gloo), as a launcher does.

    Fails with the traceback of the first one that failed.
    """
    from torch.distributed.elastic.utils.distributed import get_free_port
    from torch.multiprocessing import start_processes

    folder.mkdir(parents=True, exist_ok=True)
    own = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": 1}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": get_free_port()}
    start_processes(_ranked, (own, work, folder, *arguments), count, start_method="forkserver")


def _ranked(rank: int, environment: dict[str, object], work: Callable, *arguments: object) -> None:
    own = {**environment, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in own.items()})
    _work(work, *arguments)
    from pnloc import parallel

    parallel.wait()  # who ends first would cut the connection of those who are still making it


def commanded(arguments: list[str], spoken: Path) -> None:
    """Be the command line: its exit status becomes this process's, its complaints a file.

    SIGINT is as in a terminal; a shell's background jobs ignore it.
    """
    from pnloc.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(spoken, "w") as file:
        os.dup2(file.fileno(), 2)
        os._exit(main(arguments))
