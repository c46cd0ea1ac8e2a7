"""One training loop for every network here: AdamW with a one-cycle rate, checkpoint and resume, seeds.

`fit` is given a module, a function that yields an epoch's batches and one that turns a batch into
named loss terms. It knows neither images nor reports. Once a minute and after each epoch all that the rest of the training
depends on is written into one file, atomically: weights, optimizer, random numbers, history. A run that is
started again with the same fingerprint goes on from there, in the middle of an epoch if need be, and ends with the same
weights as one that was never stopped. A training that is given a validation loss ends once that has stopped falling.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor, nn

from pnloc import parallel
from pnloc.errors import PnlocError
from pnloc.files import digest, load_tensors, save_tensors

Losses = dict[str, Tensor]
Watcher = Callable[[str, pd.DataFrame], None]  # is given the title and the history so far
STATE = "state.safetensors"
EVERY = 60.0  # seconds between checkpoints within an epoch
_watchers: list[Watcher] = []


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: `steps` batches in each of `epochs`, peak `rate` of the one-cycle schedule.

    With a `patience`, training ends after that many epochs without a lower validation loss, `epochs` are the most that there may be, and
    the rate rises during the first and then stays, since no cycle can be laid over an unknown number of them.
    """

    epochs: int
    steps: int
    rate: float
    weight_decay: float
    patience: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.steps < 1:
            raise PnlocError(f"nothing to train on: {self.epochs} epochs of {self.steps} batches")


def generator(*seed: int) -> np.random.Generator:
    """A NumPy generator for a tuple of non-negative integers such as (seed, stage, epoch)."""
    return np.random.default_rng(list(seed))


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Whatever is trained inside the block calls watcher(title, history so far) after each of its epochs."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@dataclass
class Progress:
    """How far a training has come: whole epochs in `history`, then `step` batches whose mean losses so far are `sums`."""

    history: list[dict] = field(default_factory=list)
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def waited(self) -> int:
        """Epochs since the lowest validation loss; 0 where none has been measured."""
        measured = [entry["validation"] for entry in self.history if "validation" in entry]
        return len(measured) - 1 - int(np.argmin(measured)) if measured else 0


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
    shared: bool = False,
    validation: Callable[[], float] | None = None,
) -> pd.DataFrame:
    """Train `module` in place and return its history: epoch, the mean of each loss term and of their sum, and the validation loss.

    batches(epoch) yields exactly `schedule.steps` batches and must depend on the epoch and its own seed only, not on
    torch's random numbers; the next batch is made in the background while one is worked on. `losses` gives weighted
    terms; their sum is minimised, with the gradient's norm clipped at 5. Raises PnlocError where a loss or a gradient is
    not finite; the checkpoint then still holds the last good state.

    validation() gives a loss on images that are not trained on; it is called after each epoch, with the module at rest (`eval`) and without
    gradients. The module ends with the weights of the epoch in which it was lowest, and `schedule.patience` says when to stop.

    shared: the losses are means over the rows of a batch, a tuple of columns; several processes (pnloc.parallel) then take a part each.
    """
    folder = Path(folder)
    fingerprint = digest(fingerprint, asdict(schedule), seed)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay
    )
    cycle = _rates(optimizer, schedule)
    done, best = _resume(module, optimizer, folder, fingerprint) or (Progress(), {})
    _replay(cycle, len(done.history) * schedule.steps + done.step)
    resumed = done.step > 0  # then the random numbers have been restored, too
    several = shared and parallel.count() > 1
    if several:
        losses = parallel.replicate(module, losses)
        parallel.wait()  # all have read the checkpoint before one is written
    saved = time.monotonic()
    module.train()
    with _stoppable() as stop:
        for epoch in parallel.bar(
            range(len(done.history), schedule.epochs), desc=title, unit="epoch"
        ):
            if schedule.patience and done.waited() >= schedule.patience:
                break
            if not resumed:
                torch.manual_seed(seed * 100_003 + epoch)
            resumed = False
            with closing(_ahead(islice(batches(epoch), done.step, None))) as coming:
                for batch in coming:
                    try:
                        terms = _step(module, optimizer, losses, batch, several)
                    except FloatingPointError as error:
                        kept = f"{folder} keeps the last good state"
                        raise PnlocError(
                            f"{title}: the {error}, in epoch {epoch}, step {done.step}; {kept}"
                        ) from None
                    cycle.step()
                    done.step += 1
                    stop()
                    for name, value in terms.items():
                        done.sums[name] = done.sums.get(name, 0.0) + value / schedule.steps
                    if done.step < schedule.steps and time.monotonic() - saved >= EVERY:
                        _checkpoint(module, optimizer, done, folder, fingerprint, best)
                        saved = time.monotonic()
            measured = (
                {}
                if validation is None
                else {"validation": _measure(module, validation, title, epoch)}
            )
            done = Progress([*done.history, {"epoch": epoch, **done.sums, **measured}])
            if measured and done.waited() == 0:
                best = {name: value.detach().clone() for name, value in module.state_dict().items()}
            _checkpoint(module, optimizer, done, folder, fingerprint, best)
            saved = time.monotonic()
            for watcher in _watchers:
                watcher(title, pd.DataFrame(done.history))
    if best:
        module.load_state_dict(best)
    module.eval()
    return pd.DataFrame(done.history)


def _rates(
    optimizer: torch.optim.Optimizer, schedule: Schedule
) -> torch.optim.lr_scheduler.LRScheduler:
    """One cycle over all epochs; with a patience, a rise over the first epoch and the full rate from then on."""
    if schedule.patience:
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / schedule.steps)
        )
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.rate, total_steps=schedule.epochs * schedule.steps
    )


def _measure(module: nn.Module, validation: Callable[[], float], title: str, epoch: int) -> float:
    """The validation loss, the same in every process; PnlocError where it is not finite."""
    module.eval()
    with torch.no_grad():
        value = torch.tensor([float(validation())], dtype=torch.float64)
    module.train()
    value = parallel.agree(value)
    if not torch.isfinite(value).all():
        raise PnlocError(f"{title}: the validation loss is not finite, in epoch {epoch}")
    return float(value)


def _step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Callable[[object], Losses],
    batch: object,
    several: bool,
) -> dict[str, float]:
    """One step of the optimizer; the values of the loss terms and, as 'loss', of their sum, over the whole batch.

    Raises FloatingPointError, before a weight has changed, where a value is not finite.
    """
    terms = losses(parallel.part(batch) if several else batch)
    terms = {**terms, "loss": torch.stack(list(terms.values())).sum()}
    values = torch.stack([value.detach().float() for value in terms.values()])
    values = parallel.mean(values) if several else values
    if not torch.isfinite(values[-1]):
        said = {name: round(float(value), 4) for name, value in zip(terms, values, strict=True)}
        raise FloatingPointError(f"loss is not finite ({said})")
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    norm = nn.utils.clip_grad_norm_(module.parameters(), 5.0)
    if not torch.isfinite(norm):
        raise FloatingPointError("gradient is not finite")
    optimizer.step()
    return dict(zip(terms, values.tolist(), strict=True))


@contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """Ctrl-C waits for the end of a step: a function to call there, which raises KeyboardInterrupt if it was pressed.

    Python raises it wherever it happens to be, and loses it where that is a destructor or a callback from C. A second
    Ctrl-C does not wait. Signals reach the main thread only; in another one, and where they are ignored, this does nothing.
    """
    before, asked = signal.getsignal(signal.SIGINT), []
    if threading.current_thread() is not threading.main_thread() or before in (
        None,
        signal.SIG_IGN,
    ):
        yield lambda: None
        return

    def remember(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def stop() -> None:
        if asked:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, remember)
    try:
        yield stop
        stop()
    finally:
        signal.signal(signal.SIGINT, before)


def _ahead(batches: Iterable) -> Iterator:
    """The same batches in the same order, each made in a thread while the one before is used."""
    iterator, end = iter(batches), object()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = pool.submit(next, iterator, end)
        while (batch := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield batch


def _replay(cycle: torch.optim.lr_scheduler.OneCycleLR, steps: int) -> None:
    """Put the schedule after `steps` steps: rate and momentum are functions of the step alone."""
    cycle.optimizer._opt_called = True
    if steps:
        cycle.last_epoch = steps - 1
        cycle.step()


def _checkpoint(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    done: Progress,
    folder: Path,
    key: str,
    best: dict[str, Tensor],
) -> None:
    """Write weights, the best ones so far, optimizer state, random numbers and progress into one file, in the main process."""
    if not parallel.main():
        return
    tensors = {
        f"module.{name}": value.detach().cpu() for name, value in module.state_dict().items()
    }
    tensors |= {f"best.{name}": value.cpu() for name, value in best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": value.detach().cpu() for name, value in state.items()
        }
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    save_tensors(
        folder / STATE, tensors, {"fingerprint": key, "progress": json.dumps(asdict(done))}
    )


def _resume(
    module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, key: str
) -> tuple[Progress, dict[str, Tensor]] | None:
    """Load the last checkpoint of the same fingerprint, if there is one, with its random numbers; returns the best weights so far, too."""
    if parallel.main():
        for left in folder.glob(
            f".{Path(STATE).stem}-*"
        ):  # half a file, of a process killed while it wrote
            left.unlink()
    path = folder / STATE
    if not path.exists():
        return None
    tensors = load_tensors(path)
    with safe_open(path, "pt") as file:
        facts = file.metadata() or {}
    if facts.get("fingerprint") != key:
        return None
    state: dict[int, dict[str, Tensor]] = {}
    parameters = dict(enumerate(module.parameters()))
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, kind = name.split(".")
            like = parameters[int(index)]
            # Moments lie in memory as their weights do (channels last), or sums would round differently.
            state.setdefault(int(index), {})[kind] = (
                torch.empty_like(like).copy_(value).detach()
                if value.shape == like.shape and value.dim()
                else value
            )
    module.load_state_dict(
        {n.removeprefix("module."): v for n, v in tensors.items() if n.startswith("module.")}
    )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
    best = {
        name.removeprefix("best."): value
        for name, value in tensors.items()
        if name.startswith("best.")
    }
    return Progress(**json.loads(facts["progress"])), best
