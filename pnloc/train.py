"""One training loop for every network: AdamW, a rate schedule, early stopping, exact resume.

`fit` takes a module, a function that yields an epoch's batches and one that turns a batch into
named loss terms; it knows neither images nor reports. Once a minute and after each epoch, all that
the rest of the training depends on goes into one file, atomically: weights, optimizer, random
numbers and history. The same call continues from there, in the middle of an epoch if need be, and
ends with the same bits as a training that was never interrupted.
"""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from pnloc import parallel
from pnloc.errors import PnlocError
from pnloc.files import digest, load_tensors, save_tensors

Losses = dict[str, Tensor]
STATE = "state.safetensors"
EVERY = 60.0  # seconds between checkpoints within an epoch
_watchers: list[Callable[[str, pd.DataFrame], None]] = []


@dataclass(frozen=True)
class Schedule:
    """Number of epochs, `steps` batches in each, and the peak `rate` of the one-cycle schedule.

    With a `patience`, training stops early, after that many epochs without a lower validation loss;
    without a validation loss it has no effect. `epochs` is then the maximum, and the rate rises
    during the first epoch and stays, since no cycle fits an unknown number of epochs.
    """

    epochs: int
    steps: int
    rate: float
    weight_decay: float
    patience: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.steps < 1:
            raise PnlocError(f"nothing to train on: {self.epochs} epochs of {self.steps} batches")

    def rates(self, optimizer: Optimizer, done: int) -> LRScheduler:
        """The learning rates after `done` steps; rate and momentum depend on the step alone."""
        if self.patience:
            rates = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / self.steps))
        else:
            peaks = [group["lr"] for group in optimizer.param_groups]
            rates = OneCycleLR(optimizer, peaks, total_steps=self.epochs * self.steps)
        optimizer._opt_called = True
        if done:
            rates.last_epoch = done - 1
            rates.step()
        return rates


def parts(rows: np.ndarray | list, size: int, count: int | None = None) -> Iterator:
    """`count` consecutive parts of `size` rows, by default all; the last one may be smaller."""
    count = math.ceil(len(rows) / size) if count is None else count
    return (rows[number * size : (number + 1) * size] for number in range(count))


def generator(*seed: int) -> np.random.Generator:
    """A NumPy generator for a tuple of non-negative integers such as (seed, stage, epoch)."""
    return np.random.default_rng(list(seed))


@contextmanager
def watched(watcher: Callable[[str, pd.DataFrame], None]) -> Iterator[None]:
    """Inside the block every training calls watcher(title, history so far) after each epoch."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@dataclass
class Progress:
    """Whole epochs in `history`, then `step` batches, whose mean losses so far are `sums`."""

    history: list[dict] = field(default_factory=list)
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def waited(self) -> int:
        """Epochs since the lowest validation loss; 0 where none has been measured."""
        measured = [entry["validation"] for entry in self.history if "validation" in entry]
        return len(measured) - 1 - int(np.argmin(measured)) if measured else 0


class Checkpoint:
    """The state of a training, in a file: weights, best weights, optimizer, random numbers."""

    def __init__(self, folder: Path, key: str, module: nn.Module, optimizer: Optimizer):
        self.path, self.key, self.module, self.optimizer = folder / STATE, key, module, optimizer
        self.best: dict[str, Tensor] = {}  # weights at the lowest validation loss so far
        self.saved = time.monotonic()

    def write(self, progress: Progress) -> None:
        """Write the file, in the main process."""
        if not parallel.main():
            return
        groups = {"module": self.module.state_dict(), "best": self.best}
        for index, state in self.optimizer.state_dict()["state"].items():
            groups[f"optimizer.{index}"] = state
        groups["random"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            groups["random"]["cuda"] = torch.cuda.get_rng_state()
        tensors = {
            f"{group}.{name}": value.detach().cpu()
            for group, values in groups.items()
            for name, value in values.items()
        }
        facts = {"fingerprint": self.key, "progress": json.dumps(asdict(progress))}
        save_tensors(self.path, tensors, facts)
        self.saved = time.monotonic()

    def read(self) -> Progress:
        """Restore the state, random numbers included; a new Progress where there is no file."""
        if parallel.main():  # a process killed while it wrote has left half a file
            for rest in self.path.parent.glob(f".{self.path.stem}-*"):
                rest.unlink()
        if not self.path.exists():
            return Progress()
        tensors = load_tensors(self.path)
        with safe_open(self.path, "pt") as file:
            facts = file.metadata() or {}
        if facts.get("fingerprint") != self.key:
            return Progress()
        groups: dict[str, dict[str, Tensor]] = {"module": {}, "best": {}, "optimizer": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = value
        self.module.load_state_dict(groups["module"])
        self.best = groups["best"]
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, value in groups["optimizer"].items():
            index, _, kind = name.partition(".")
            like = parameters[int(index)]
            # Moments lie in memory as weights do (channels last), or sums would round otherwise.
            if value.dim() and value.shape == like.shape:
                value = torch.empty_like(like).copy_(value).detach()
            state.setdefault(int(index), {})[kind] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        torch.set_rng_state(groups["random"]["cpu"])
        if torch.cuda.is_available() and "cuda" in groups["random"]:
            torch.cuda.set_rng_state(groups["random"]["cuda"])
        return Progress(**json.loads(facts["progress"]))


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
    groups: list[dict] | None = None,
    validation: Callable[[], float] | None = None,
) -> pd.DataFrame:
    """Train `module` in place; its history: epoch, mean of each loss term and of their sum.

    batches(epoch) yields exactly `schedule.steps` batches and must depend on the epoch and its own
    seed only, not on torch's random numbers; the next batch is prepared while one is worked on.
    `losses` gives weighted terms; their sum is minimised, with the gradient's norm clipped at 5.
    Raises PnlocError where a loss or a gradient is not finite; the checkpoint then still holds the
    last good state.

    validation() gives a loss on other images, after each epoch, with the module in evaluation mode
    and without gradients; the module ends with the weights of the epoch where it was lowest.

    shared: the losses are means over the rows of a batch, a tuple of columns, of which each of
    several processes (pnloc.parallel) may take a part. groups: those of the optimizer, all of the
    module's parameters ('params') among them, with their own peak rates ('lr').
    """
    schedule = schedule if validation else replace(schedule, patience=0)
    key, decay = digest(fingerprint, asdict(schedule), seed), schedule.weight_decay
    optimizer = AdamW(groups or module.parameters(), lr=schedule.rate, weight_decay=decay)
    checkpoint = Checkpoint(Path(folder), key, module, optimizer)
    done = checkpoint.read()
    rates = schedule.rates(optimizer, len(done.history) * schedule.steps + done.step)
    resumed = done.step > 0  # then the random numbers have been restored, too
    several = shared and parallel.count() > 1
    if several:
        losses = parallel.replicate(module, losses)
        parallel.wait()  # all have read the checkpoint before one is written
    module.train()
    epochs = range(len(done.history), schedule.epochs)
    with _stoppable() as stop:
        for epoch in parallel.bar(epochs, desc=title, unit="epoch"):
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
                        where = f"in epoch {epoch}, step {done.step}"
                        advice = f"{folder} keeps the last good state"
                        raise PnlocError(f"{title}: the {error}, {where}; {advice}") from None
                    rates.step()
                    done.step += 1
                    stop()
                    for name, value in terms.items():
                        done.sums[name] = done.sums.get(name, 0.0) + value / schedule.steps
                    due = time.monotonic() - checkpoint.saved >= EVERY
                    if due and done.step < schedule.steps:
                        checkpoint.write(done)
            entry = {"epoch": epoch, **done.sums}
            if validation is not None:
                entry["validation"] = _measure(module, validation, title, epoch)
            done = Progress([*done.history, entry])
            if validation is not None and done.waited() == 0:
                state = module.state_dict()
                checkpoint.best = {name: value.detach().clone() for name, value in state.items()}
            checkpoint.write(done)
            for watcher in _watchers:
                watcher(title, pd.DataFrame(done.history))
    if checkpoint.best:
        module.load_state_dict(checkpoint.best)
    module.eval()
    return pd.DataFrame(done.history)


def _measure(module: nn.Module, validation: Callable[[], float], title: str, epoch: int) -> float:
    """The validation loss, the same in every process; PnlocError where it is not finite."""
    module.eval()
    with torch.no_grad():
        value = parallel.agree(float(validation()))
    module.train()
    if not math.isfinite(value):
        raise PnlocError(f"{title}: the validation loss is not finite, in epoch {epoch}")
    return value


def _step(
    module: nn.Module, optimizer: Optimizer, losses: Callable, batch: object, several: bool
) -> dict[str, float]:
    """One step of the optimizer: the values of the loss terms and, as 'loss', of their sum.

    Raises FloatingPointError, before a weight has changed, where a value is not finite.
    """
    terms = losses(parallel.part(batch) if several else batch)
    terms = {**terms, "loss": torch.stack(list(terms.values())).sum()}
    values = torch.stack([value.detach().float() for value in terms.values()])
    values = parallel.mean(values) if several else values
    if not torch.isfinite(values[-1]):
        named = {name: round(float(value), 4) for name, value in zip(terms, values, strict=True)}
        raise FloatingPointError(f"loss is not finite ({named})")
    optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    norm = nn.utils.clip_grad_norm_(module.parameters(), 5.0)
    if not torch.isfinite(norm):
        raise FloatingPointError("gradient is not finite")
    optimizer.step()
    return dict(zip(terms, values.tolist(), strict=True))


@contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C wait for the end of a step, where the yielded function raises KeyboardInterrupt.

    Python raises it anywhere, and loses it inside a destructor or a callback from C. A second
    Ctrl-C does not wait. No effect outside the main thread and where the signal is ignored.
    """
    before, pressed = signal.getsignal(signal.SIGINT), []
    main = threading.current_thread() is threading.main_thread()

    def stop() -> None:
        if pressed:
            raise KeyboardInterrupt

    def press(number: int, frame: object) -> None:
        stop()
        pressed.append(number)

    if not main or before in (None, signal.SIG_IGN):
        yield stop
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield stop
        stop()
    finally:
        signal.signal(signal.SIGINT, before)


def _ahead(batches: Iterable) -> Iterator:
    """The same batches in the same order, each prepared in a thread while the last one is used."""
    iterator, end = iter(batches), object()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = pool.submit(next, iterator, end)
        while (batch := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield batch
