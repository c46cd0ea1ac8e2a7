"""More than one process: who does what, and the arithmetic by which many train what one would have trained.

Hugging Face accelerate starts the processes (`accelerate launch ... -m pnloc train`, or `launch` below) and connects
them: NCCL between GPUs, gloo between CPUs. In a single process everything here does nothing and costs nothing.

A batch means the same whatever the number of processes. Two ways to split it, for two kinds of loss:

- A loss that is a mean over images (detector, classifier): each process takes its part of the batch and weighs its
  loss by the part's share; gradients are summed. Batch normalization, the one thing that looks across images, takes its
  moments from the whole batch (`whole_batch`). torch's SyncBatchNorm does so on GPUs only; this one code runs on both.
- A loss that looks across studies (the localizer contrasts each report with every image of the batch, and divides by sums
  of weights): each process encodes its part of the regions, the encodings are gathered, and each computes the loss
  of the whole batch. The encoder holds most of the arithmetic; reports, losses and their random numbers stay those of one process.

What differs is rounding, as it does between one thread and two. A step's losses agree to 1e-6; a detector trained from scratch,
whose first steps each amplify a difference tenfold and more, is then a different detector, as good as the other. Training is therefore
split where that is of use (`shared`), and elsewhere one process trains what it would have trained alone, to the last bit.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pnloc.errors import PnlocError

SIZES = (
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MV2_COMM_WORLD_SIZE",
)  # torchrun, accelerate, MPI
PATIENCE = timedelta(days=1)  # of processes that have done their shards, with the one that has not

_alone = False


@lru_cache(None)
def _state():
    """accelerate's state of this process; made on first use, which connects the processes."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def count() -> int:
    """How many processes work together; 1 where nothing started more, inside `alone` and after `leave`."""
    if _alone or all(int(os.environ.get(name) or 1) < 2 for name in SIZES):
        return 1
    return _state().num_processes


def index() -> int:
    """Number of this process, from 0."""
    return _state().process_index if count() > 1 else 0


def main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return index() == 0


def device() -> torch.device:
    """This process's accelerator where there is one, else the CPU."""
    if count() > 1:
        return _state().device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def local() -> int:
    """How many of the processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or count()) if count() > 1 else 1


def shared() -> bool:
    """Whether the processes split the arithmetic of training: on GPUs, and over several machines.

    On the CPUs of one machine torch's threads split it better; there one process trains with the cores of all, and the
    others wait. The environment variable PNLOC_SPLIT (1 or 0) has the last word.
    """
    if count() == 1:
        return False
    word = os.environ.get("PNLOC_SPLIT", "")
    return word == "1" if word else device().type != "cpu" or local() < count()


def cores() -> int:
    """Processors that this process may really use: its affinity, within the quota of its control group."""
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        usable = min(usable, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups, or no quota ('max')
        pass
    return usable


@contextmanager
def alone() -> Iterator[None]:
    """Inside the block this process is one by itself, with the threads of those on its machine, which wait for files."""
    global _alone
    before, threads, neighbours = _alone, torch.get_num_threads(), local()
    _alone = True
    if neighbours > 1:
        torch.set_num_threads(max(threads, min(cores(), threads * neighbours)))
    try:
        yield
    finally:
        _alone = before
        if neighbours > 1:
            torch.set_num_threads(threads)


def wait() -> None:
    """Return when every process has come here."""
    if count() > 1:
        _state().wait_for_everyone()


def agree(flag: bool) -> bool:
    """The main process's answer, in every process."""
    if count() == 1:
        return flag
    word = torch.tensor([int(flag)], device=device())
    torch.distributed.broadcast(word, 0)
    return bool(word.item())


def leave() -> bool:
    """End the common work: True in the main process, which goes on alone and with all cores; the others may end."""
    global _alone
    first = main()
    if count() > 1:
        wait()
        torch.set_num_threads(
            max(torch.get_num_threads(), min(cores(), torch.get_num_threads() * local()))
        )
        _state().destroy_process_group()
        _alone = True
    return first


def launch(work: Callable[..., object], *arguments: object, processes: int | None = None) -> bool:
    """From a notebook: run work(*arguments) in several new processes and wait for them; True if that was done.

    processes: how many; left out, one for each GPU. With one or none there is nothing to do here: the notebook's own
    process does the work when it asks for the result. No GPU may have been used in the notebook before.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # counts GPUs without touching them
    processes = torch.cuda.device_count() if processes is None else processes
    if processes < 2 or count() > 1:
        return False
    from accelerate import notebook_launcher

    notebook_launcher(
        _launched, (work, *arguments), num_processes=processes, use_port=str(free_port())
    )
    return True


def _launched(work: Callable[..., object], *arguments: object) -> None:
    """A forked process cannot use the threads of its parent's pool; torch hangs if it tries."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    work(*arguments)


def free_port() -> int:
    """A port on which nobody listens now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Arithmetic -----------------------------------------------------------------------------------------------


def part(size: int) -> slice:
    """This process's rows of a batch of `size`; parts are contiguous and differ by one row at the most."""
    if size < count():
        raise PnlocError(
            f"a batch of {size} cannot be split over {count()} processes: start fewer, or enlarge the batch"
        )
    return slice(index() * size // count(), (index() + 1) * size // count())


def share(batch: tuple) -> tuple[tuple, float]:
    """This process's part of a batch, a tuple of columns of the same length, and the part's share of it: for losses that are means over its rows."""
    mine = part(len(batch[0]))
    return tuple(column[mine] for column in batch), (mine.stop - mine.start) / len(batch[0])


def average(tensors: list[Tensor]) -> None:
    """Replace each float tensor by its mean over the processes, in place and in one message."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([t.detach().reshape(-1).to(tensors[0]) for t in tensors])
    torch.distributed.all_reduce(flat)
    flat /= count()
    for tensor, value in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(value.view(tensor.shape))


def average_gradients(module: nn.Module) -> None:
    """Mean of the gradients over the processes; a parameter that no process used keeps none."""
    if count() == 1:
        return
    used = [p for p in module.parameters() if p.requires_grad]
    unused = [p for p in used if p.grad is None]
    for parameter in unused:
        parameter.grad = torch.zeros_like(parameter)
    average([p.grad for p in used])
    for parameter in unused:
        if not parameter.grad.any():
            parameter.grad = None


def same_start(module: nn.Module) -> None:
    """Give every process the main one's weights and buffers."""
    if count() > 1:
        for value in module.state_dict().values():
            torch.distributed.broadcast(value, 0)


@contextmanager
def whole_batch(module: nn.Module, *encoders: nn.Module) -> Iterator[None]:
    """While training inside the block: batch normalization over all processes, and `encoders` split over their rows.

    An encoder is a part of `module` that treats the rows of its input [B, ...] one by one. It is called with the whole batch in
    every process and returns that of the whole batch; dropout inside it draws the numbers of the whole batch.
    """
    changed: list[nn.Module] = []

    def change(target: nn.Module, forward: Callable) -> None:
        target.forward = forward
        changed.append(target)

    if count() > 1:
        for norm in module.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                change(norm, partial(_normalize, norm))
        for encoder in encoders:
            rows: list[
                int
            ] = []  # of the batch that is being encoded; shared with the dropouts inside
            for inner in encoder.modules():
                if isinstance(inner, nn.Dropout):
                    change(inner, partial(_drop, inner, rows))
            change(encoder, partial(_encode, encoder.forward, rows))
    try:
        yield
    finally:
        for target in changed:
            del target.forward


class _Sum(torch.autograd.Function):
    """Sum over the processes, both ways: every process's loss depends on every process's summand."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class _Gather(torch.autograd.Function):
    """Parts [b, ...] of all processes as one [B, ...].

    Every process then computes the same loss, so a part's gradient is there already; it is multiplied by the number of
    processes because the mean over processes, of which only one has it, is taken later.
    """

    @staticmethod
    def forward(ctx, value: Tensor, size: int) -> Tensor:
        ctx.rows = part(size)
        whole = value.new_zeros((size, *value.shape[1:]))
        whole[ctx.rows] = value
        torch.distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.rows] * count(), None


def _normalize(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """Batch normalization of [b, C, ...] with the moments of all processes' images."""
    if not norm.training:
        return type(norm).forward(norm, x)
    axes, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    values = x.float()
    size = x.numel() // x.shape[1]
    moments = torch.cat(
        [values.sum(axes), values.square().sum(axes), values.new_tensor([float(size)])]
    )
    total, squares, number = _Sum.apply(moments).split([x.shape[1], x.shape[1], 1])
    number = number.detach()
    mean = total / number
    variance = (squares / number - mean.square()).clamp_min(0)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * number / (number - 1), norm.momentum)
    scale = torch.rsqrt(variance + norm.eps) * norm.weight
    return ((values - mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)).to(x.dtype)


def _encode(forward: Callable[[Tensor], Tensor], rows: list[int], x: Tensor) -> Tensor:
    """What `forward` gives for [B, ...], each process having worked on its part. A batch too small is not split."""
    if len(x) < count():
        return forward(x)
    rows.append(len(x))
    try:
        return _Gather.apply(forward(x[part(len(x))]), len(x))
    finally:
        rows.pop()


def _drop(dropout: nn.Dropout, rows: list[int], x: Tensor) -> Tensor:
    """Dropout of a part [b, ...] with this part's share of the numbers that the whole batch would have drawn."""
    if not rows:
        return type(dropout).forward(dropout, x)
    kept = type(dropout).forward(dropout, x.new_ones((rows[-1], *x.shape[1:])))
    return x * kept[part(rows[-1])]
