"""One training loop for every network here: AdamW with a one-cycle rate, checkpoint and resume, seeds.

`fit` is given a module, a function that yields an epoch's batches and one that turns a batch into
named loss terms. It knows neither images nor reports. After each epoch the weights, the optimizer's
state and the history are written (safetensors and JSON, atomically); a run that is started again with
the same fingerprint goes on from there and ends with the same weights as one that was never stopped.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from pnloc.errors import PnlocError
from pnloc.files import atomic, digest, read_json, write_json

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `steps` batches in each of `epochs`, peak `rate` of the one-cycle schedule."""

    epochs: int
    steps: int
    rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.steps < 1:
            raise PnlocError(f"nothing to train on: {self.epochs} epochs of {self.steps} batches")


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(where: torch.device) -> torch.autocast:
    """bfloat16 where the hardware computes it natively; elsewhere float32."""
    if where.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_bf16_supported())
    native = torch.cpu.get_capabilities().get("avx512_bf16", False) if hasattr(torch.cpu, "get_capabilities") else False
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(native))


def generator(*seed: int) -> np.random.Generator:
    """A NumPy generator for a tuple of non-negative integers such as (seed, stage, epoch)."""
    return np.random.default_rng(list(seed))


def save_module(path: str | Path, module: nn.Module) -> None:
    """Write a module's weights and buffers as safetensors."""
    save_tensors(path, {name: value.detach().cpu() for name, value in module.state_dict().items()})


def load_module(path: str | Path, module: nn.Module) -> nn.Module:
    """Read weights into `module`, strictly; a file that is missing or does not fit raises PnlocError."""
    try:
        module.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise PnlocError(f"{path}: does not fit the model ({str(error).splitlines()[0]})") from None
    return module


def save_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors atomically as safetensors."""
    with atomic(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, str(temporary), metadata)


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file; a missing or broken one raises PnlocError with its name."""
    try:
        return load_file(str(path))
    except FileNotFoundError:
        raise PnlocError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise PnlocError(f"{path}: not readable as safetensors ({error})") from None


def fit(
    module: nn.Module,
    batches: Callable[[int], Iterable],
    losses: Callable[[object], Losses],
    schedule: Schedule,
    *,
    folder: str | Path,
    fingerprint: str,
    seed: int,
    title: str = "training",
) -> pd.DataFrame:
    """Train `module` in place and return its history: epoch, and the mean of each loss term and of their sum.

    batches(epoch) yields exactly `schedule.steps` batches and must depend on the epoch and its own seed
    only. `losses` gives weighted terms; their sum is minimised, with the gradient's norm clipped at 5. Raises
    PnlocError where a loss is not finite; the checkpoint then still holds the last good epoch.
    """
    folder = Path(folder)
    fingerprint = digest(fingerprint, asdict(schedule), seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.rate, total_steps=schedule.epochs * schedule.steps)
    history = _resume(module, optimizer, folder, fingerprint)
    # A scheduler has no state but its step: replaying it restores the rate and the momentum of the cycle.
    optimizer._opt_called = True
    for _ in range(len(history) * schedule.steps):
        cycle.step()
    module.train()
    for epoch in tqdm(range(len(history), schedule.epochs), desc=title, unit="epoch", leave=False, disable=None):
        torch.manual_seed(seed * 100_003 + epoch)
        sums: dict[str, float] = {}
        for batch in batches(epoch):
            terms = losses(batch)
            total = torch.stack(list(terms.values())).sum()
            if not torch.isfinite(total):
                values = {name: float(value.detach()) for name, value in terms.items()}
                raise PnlocError(
                    f"{title}: the loss is not finite in epoch {epoch} ({values}); {folder} keeps the last good epoch"
                )
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            cycle.step()
            for name, value in {**terms, "loss": total}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / schedule.steps
        history.append({"epoch": epoch, **sums})
        _checkpoint(module, optimizer, history, folder, fingerprint)
    module.eval()
    return pd.DataFrame(history)


def _checkpoint(
    module: nn.Module, optimizer: torch.optim.Optimizer, history: list[dict], folder: Path, key: str
) -> None:
    """Write weights, optimizer state and history; the JSON file is written last and names the tensors' file."""
    tensors = {f"module.{name}": value.detach().cpu() for name, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.detach().cpu() for name, value in state.items()}
    name = f"state-{len(history):04d}.safetensors"
    save_tensors(folder / name, tensors)
    write_json(folder / "progress.json", {"fingerprint": key, "history": history, "tensors": name})
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def _resume(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, key: str) -> list[dict]:
    """Load the last checkpoint of the same fingerprint, if there is one, and return its history."""
    if not (folder / "progress.json").exists():
        return []
    progress = read_json(folder / "progress.json")
    if progress.get("fingerprint") != key:
        return []
    tensors = load_tensors(folder / progress["tensors"])
    module.load_state_dict(
        {name.removeprefix("module."): v for name, v in tensors.items() if name.startswith("module.")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return list(progress["history"])
