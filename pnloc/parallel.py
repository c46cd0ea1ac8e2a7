"""Several processes in one run, a device to compute on, and progress bars.

Hugging Face accelerate starts the processes (`accelerate launch ... -m pnloc train`, or `launch`
below) and connects them: NCCL between GPUs, gloo between CPUs. They extract regions in parts, and
on GPUs they train detector and classifiers as one, each on its part of every batch (`replicate`).
The main process makes whatever else a run needs while the others wait for its files; without GPUs
that includes all training, which torch's threads split better. In a single process nothing here
has an effect.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

TIMEOUT = timedelta(days=1)  # how long a process waits for the slowest one

_alone = False


@lru_cache(None)
def _accelerator():
    """Connects the processes, when first used."""
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    handlers = [unused, InitProcessGroupKwargs(timeout=TIMEOUT)]
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=handlers)


def count() -> int:
    """Number of processes that work together; 1 inside `alone` and after `leave`."""
    if _alone or int(os.environ.get("WORLD_SIZE") or 1) < 2:
        return 1
    return _accelerator().num_processes


def index() -> int:
    """Number of this process, from 0."""
    return _accelerator().process_index if count() > 1 else 0


def main() -> bool:
    """Whether this process is the one that writes files and reports progress."""
    return index() == 0


def device() -> torch.device:
    """This process's GPU where there is one, else the CPU."""
    if count() > 1:
        return _accelerator().device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shared() -> bool:
    """Whether the processes share the training of a network: several of them, on GPUs."""
    return count() > 1 and device().type == "cuda"


def autocast(where: torch.device) -> torch.autocast:
    """bfloat16 where the hardware computes it natively, else float32.

    GPUs do from compute capability 8.0 on; older ones emulate it, slower than float32. x86 CPUs do
    with AVX-512 BF16 or AMX. ARM stays at float32: not measured.
    """
    if where.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.autocast(where.type, torch.bfloat16, enabled=native)


@contextmanager
def alone() -> Iterator[None]:
    """Inside the block this process works by itself; the others wait for its files."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def wait() -> None:
    """Return once every process has come here."""
    if count() > 1:
        _accelerator().wait_for_everyone()


def agree(value: object) -> object:
    """The main process's value, in every process."""
    if count() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def leave() -> bool:
    """End the common work: True in the main process, which goes on alone; the others may end."""
    global _alone
    first = main()
    if count() > 1:
        wait()
        _accelerator().state.destroy_process_group()
        _alone = True
    return first


def launch(work: Callable, *arguments: object, processes: int | None = None) -> bool:
    """Run work(*arguments) in several new processes from a notebook; True if there were several.

    processes: their number, by default one for each GPU. With fewer than two the notebook's own
    process does the work when it asks for the result. The notebook must not have used a GPU before.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # counts GPUs without using one
    processes = torch.cuda.device_count() if processes is None else processes
    if processes < 2 or count() > 1:
        return False
    from accelerate import notebook_launcher
    from torch.distributed.elastic.utils.distributed import get_free_port

    notebook_launcher(work, arguments, num_processes=processes, use_port=str(get_free_port()))
    return True


class _Objective(nn.Module):
    """The losses of a module as a forward pass, which DistributedDataParallel asks for."""

    def __init__(self, module: nn.Module, losses: Callable) -> None:
        super().__init__()
        self.module, self.losses = module, losses

    def forward(self, batch: object) -> dict[str, Tensor]:
        return self.losses(batch)


def replicate(module: nn.Module, losses: Callable) -> nn.Module:
    """`losses` of a batch, such that the gradients of `module` are means over the processes.

    All start from the main process's weights. On GPUs batch normalization sees the parts of all.
    """
    if device().type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return _accelerator().prepare(_Objective(module, losses))


def part(batch: tuple) -> tuple:
    """This process's rows of a batch, a tuple of columns; all rows of one too small to split."""
    if len(batch[0]) < count():
        return batch
    return tuple(column[index() :: count()] for column in batch)


def mean(values: Tensor) -> Tensor:
    """Mean of a tensor over the processes."""
    return _accelerator().reduce(values, "mean") if count() > 1 else values


def attended() -> bool:
    """Whether anyone watches: standard error is a terminal, or a notebook's front end takes input.

    papermill and nbconvert use the kernel that JupyterLab uses, but allow it no input.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stderr is not None and sys.stderr.isatty()


def bar(iterable: Iterable | None = None, *, shown: bool = True, **options: object) -> tqdm:
    """A tqdm bar that disappears when full; never drawn without `shown` or where nobody watches.

    Further `options` go to tqdm.
    """
    return tqdm(iterable, leave=False, disable=not (shown and main() and attended()), **options)
