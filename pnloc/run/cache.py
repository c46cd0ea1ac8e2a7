"""Stages on disk: one folder per stage, named by a digest of everything it depends on.

A stage whose inputs have not changed is not run again. Its folder is complete once it holds
`done.json`, which is written last. If two runs share a folder, one makes a stage while the other
waits. A stage records its time and peak memory in `timing.csv`, and in `run.json` its fingerprint
with the versions, the commit and the machine.
"""

import ast
import inspect
import resource
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from filelock import FileLock, Timeout
from torch import nn

from pnloc import files, parallel
from pnloc.files import digest
from pnloc.run.provenance import ROOT, environment

PACKAGES = ("pnloc", "phantoms", "experiments")
PLUMBING = frozenset(f"pnloc.{m}" for m in ("errors", "files", "access", "parallel", "config"))
STAGES = frozenset(f"pnloc.run.{m}" for m in ("cache", "provenance", "run", "sets"))
TIMING = ["stage", "seconds", "peak_mib"]

Make = Callable[[Path, str], dict | None]  # of a stage's folder and fingerprint
Code = tuple[str | Callable, ...]
Tables = dict[str, pd.DataFrame]
Build = Callable[[], nn.Module]
Fit = Callable[..., tuple[nn.Module, pd.DataFrame]]  # of folder, fingerprint and seed, by name


@cache
def imports(module: str) -> frozenset[str]:
    """`module` and the modules of PACKAGES that it imports, directly or not.

    Imports count anywhere in a file. PLUMBING is left out, because it decides no number, and so are
    STAGES other than `module` itself, because their results enter through their own fingerprints.
    """
    closure, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in closure or (name != module and name in STAGES | PLUMBING) or not _source(name):
            continue
        closure.add(name)
        waiting += _imported(_source(name))
    return frozenset(closure)


@cache
def _imported(path: Path) -> list[str]:
    """Names that a file imports, which may be modules or what is in them."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _source(module: str) -> Path | None:
    """The file of a module of these packages; None for any other name, and for `pnloc` itself."""
    parts = module.split(".")
    if parts[0] not in PACKAGES or module == "pnloc":
        return None
    path = ROOT.joinpath(*parts)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)


@cache
def source_digest(*modules: str) -> str:
    """Digest of modules and everything they import (`imports`).

    A data file beside a module and with the same name (lexicon.toml) is part of it. Files are read
    once per process: the code that runs is the code that was imported, even if a file changes.
    """
    sources = [(name, _source(name)) for name in sorted(set().union(*map(imports, modules)))]
    paths = [(name, p) for name, s in sources for p in sorted(s.parent.glob(f"{s.stem}.*"))]
    return digest(*((name, p.suffix, p.read_text(encoding="utf-8")) for name, p in paths))


def tree_digest(folder: Path) -> str:
    """Digest of the names, sizes and times of change of all files in a folder; '' if missing."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [(path.relative_to(folder).as_posix(), digest(path)) for path in paths]
    return digest(entries) if folder.exists() else ""


def lay_out(folder: Path, root: Path) -> None:
    """Copy a stage's CSV files: <set>--<method>.csv to `root`/predictions, others to /tables."""
    for path in folder.glob("*.csv"):
        files.copy(path, root / ("predictions" if "--" in path.name else "tables") / path.name)


class Trained(NamedTuple):
    """A trained module on disk: the folder and fingerprint of its stage, and its constructor."""

    folder: Path
    key: str
    build: Build

    def load(self) -> nn.Module:
        """The module with its trained weights, on this process's device, in evaluation mode."""
        module = files.load_module(self.folder / "model.safetensors", self.build())
        return module.to(parallel.device()).eval()

    @property
    def history(self) -> pd.DataFrame:
        """The training history, a row per epoch."""
        return files.read_csv(self.folder / "history.csv")


class Cache:
    """The stages of one run, under `root/cache`; `facts` (preset, seed) go into its `run.json`."""

    def __init__(self, root: Path, **facts: object) -> None:
        self.root, self.facts = root, facts
        self.ran: list[str] = []  # stages that this process made

    def stage(
        self, name: str, *inputs: object, make: Make, code: Code = (), together: bool = False
    ) -> tuple[Path, str]:
        """The folder of a stage and its fingerprint; `make(folder, fingerprint)` fills the folder.

        `inputs` are plain values, dataclasses and the fingerprints of earlier stages. The
        fingerprint also covers the source of `make` and of `code` with all that it imports
        (`source_digest`): modules, or functions for their modules; by default the module of `make`.
        A folder left by an interrupted run is passed to `make` again, which may resume there. A
        dict returned by `make` is added to the stage's entry in run.json. With several processes,
        the main one makes the stage while the others wait; with `together`, all call `make` and
        share the work, and then every process must reach such stages in the same order.
        """
        modules = {part if isinstance(part, str) else part.__module__ for part in code or (make,)}
        plain = [asdict(i) if is_dataclass(i) else i for i in inputs]
        key = digest(name, *plain, inspect.getsource(make), source_digest(*sorted(modules)))
        folder = self.root / "cache" / f"{name}-{key}"
        whole = folder / "done.json"
        if not together and not parallel.main():
            while not whole.exists():
                time.sleep(0.2)
            return folder, key
        turn = self._turn(name) if parallel.main() and not whole.exists() else nullcontext()
        with turn, nullcontext() if together else parallel.alone():
            if parallel.agree(not whole.exists()):
                folder.mkdir(parents=True, exist_ok=True)
                started = time.perf_counter()
                facts = make(folder, key) or {}
                parallel.wait()
                if parallel.main():
                    self._finish(name, folder, {"fingerprint": key, **facts}, started)
                parallel.wait()
                self.ran.append(name)
        return folder, key

    def tables(self, name: str, *inputs: object, make: Callable[[], Tables]) -> Tables:
        """The tables of a stage, which `make()` returns by name, copied to where `lay_out` says."""

        def write(folder: Path, _: str) -> None:
            for table, rows in make().items():
                files.write_table(folder / f"{table}.csv", rows)

        folder, _ = self.stage(name, *inputs, make=write, code=(make,))
        lay_out(folder, self.root)
        paths = [path for path in folder.glob("*.csv") if "--" not in path.name]
        return {p.stem: files.read_csv(p, float_precision="round_trip") for p in paths}

    def trained(
        self, name: str, *inputs: object, seed: int, build: Build, fit: Fit, **options: object
    ) -> Trained:
        """A stage that trains a module; `fit` returns the module and its history.

        `fit` gets the keyword arguments `folder`, `fingerprint` and `seed`, as the training
        functions do. `build` returns a module that the trained weights can be read into. `options`
        are those of `stage`: code and together.
        """

        def make(folder: Path, key: str) -> None:
            module, history = fit(folder=folder, fingerprint=key, seed=seed)
            if parallel.main():
                files.save_module(folder / "model.safetensors", module)
                files.write_table(folder / "history.csv", history)

        sources = [inspect.getsource(function) for function in (build, fit)]
        return Trained(*self.stage(name, *inputs, seed, sources, make=make, **options), build)

    def _turn(self, name: str) -> AbstractContextManager:
        """A lock on a stage, or on a file of the run; it is released if the process dies."""
        path = self.root / ".locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            print(f"pnloc: another run in {self.root} is at '{name}'; waiting", file=sys.stderr)
            return lock.acquire()

    def _finish(self, name: str, folder: Path, entry: dict, started: float) -> None:
        """Record a stage, mark it complete, remove its checkpoints, half files, older folders."""
        seconds = round(time.perf_counter() - started, 2)
        with self._turn("run.json"):
            self._time(name, seconds)
            self._note(name, entry)
        files.write_json(folder / "done.json", {"stage": name, "seconds": seconds})
        for rest in [*folder.rglob("state*.safetensors"), *folder.rglob(".*.*")]:
            rest.unlink()
        for old in (self.root / "cache").glob(f"{name}-*"):
            if old != folder and old.name[len(name) + 1 :].isalnum():
                shutil.rmtree(old)

    def _note(self, name: str, entry: dict) -> None:
        """Add a stage and its environment to run.json; other stages stay."""
        path = self.root / "run.json"
        run = files.read_json(path) if path.exists() else {}
        used = digest(environment())
        stages = {**run.get("stages", {}), name: {**entry, "environment": used}}
        every = {**run.get("environments", {}), used: environment()}
        environments = {s["environment"]: every[s["environment"]] for s in stages.values()}
        files.write_json(path, {**self.facts, "environments": environments, "stages": stages})

    def _time(self, name: str, seconds: float) -> None:
        """Write a stage's row of timing.csv, replacing an older one."""
        path = self.root / "timing.csv"
        users = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        peak = max(resource.getrusage(user).ru_maxrss for user in users) / 1024
        row = pd.DataFrame([[name, seconds, round(peak, 1)]], columns=TIMING)
        table = files.read_csv(path, TIMING) if path.exists() else row[:0]
        files.write_table(path, pd.concat([table[table["stage"] != name], row]))
