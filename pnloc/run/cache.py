"""Stages on disk: a folder per stage, named by the digest of all that went into it.

A stage whose inputs have not changed is not run again; its folder appears whole or not at all, as far as a
reader is concerned, since `done.json` is written last. Of two runs in the same folder at the same time, one makes a stage and
the other waits for it. Each stage that runs leaves its time and peak memory in `timing.csv`, and in `run.json` its fingerprint
and the versions, the commit and the machine that it was made with.
"""

import ast
import inspect
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from pnloc import parallel
from pnloc.files import copy, digest, read_csv, read_json, write_json, write_table
from pnloc.run.provenance import environment

ROOT = Path(__file__).parents[2]
PACKAGES = ("pnloc", "experiments")
PLUMBING = frozenset(
    f"pnloc.{name}" for name in ("errors", "files", "access", "parallel", "config")
)
STAGES = frozenset(f"pnloc.run.{name}" for name in ("cache", "provenance", "run", "sets"))
TIMING = ["stage", "seconds", "peak_mib"]


@lru_cache(None)
def imports(module: str) -> frozenset[str]:
    """`module` and the modules of this package that it imports, directly or not, anywhere in a file.

    Left out is PLUMBING, which moves data and decides no number, and, beyond `module` itself, STAGES,
    whose results enter by fingerprints of their own. Imports for type checkers alone do not count.
    """
    known, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in known or (name != module and name in STAGES | PLUMBING) or not _source(name):
            continue
        known.add(name)
        for node in _statements(ast.parse(_source(name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return frozenset(known)


def _source(module: str) -> Path | None:
    """The file of a module of this package; None for any other name."""
    top, *parts = module.split(".")
    if top not in PACKAGES or not parts:
        return None
    path = ROOT.joinpath(top, *parts)
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a module but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        yield node
        yield from _statements(node)


@lru_cache(None)
def source_digest(*modules: str) -> str:
    """Digest of the sources of some modules and of all that they import (`imports`).

    A data file beside a module, of the same name (`lexicon.toml`), counts as part of its source.

    Read once per process: what runs is what was imported, whatever becomes of the files meanwhile.
    """
    names = sorted(frozenset().union(*map(imports, modules)))
    sources = {name: _source(name) for name in names}
    files = [(n, f) for n, s in sources.items() for f in sorted(s.parent.glob(f"{s.stem}.*"))]
    return digest(*((name, file.name, file.read_text(encoding="utf-8")) for name, file in files))


def tree_digest(folder: Path) -> str:
    """Digest of names, sizes and times of change of every file under a folder ('' if there is none)."""
    if not folder.exists():
        return ""
    entries = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        status = path.stat()
        entries.append([str(path.relative_to(folder)), status.st_size, status.st_mtime_ns])
    return digest(entries)


def lay_out(folder: Path, root: Path) -> None:
    """Copy a stage's CSV files to where a reader looks for them under a run's `root`: `predictions/<set>--<of what>.csv`, else `tables/`."""
    for path in folder.glob("*.csv"):
        copy(path, root / ("predictions" if "--" in path.name else "tables") / path.name)


class Cache:
    """The stages of one run, under `root/cache`; `facts` (preset, seed) stand in its `run.json`."""

    def __init__(self, root: Path, **facts: object) -> None:
        self.root, self.facts = root, facts
        self.ran: list[str] = []  # stages that really ran in this process

    def stage(
        self,
        name: str,
        *inputs: object,
        make: Callable[[Path, str], dict | None],
        code: tuple[str | Callable, ...] = (),
        together: bool = False,
    ) -> tuple[Path, str]:
        """The folder of a stage and its fingerprint; `make(folder, fingerprint)` fills it where it is not whole yet.

        `inputs` are plain values, dataclasses, and the fingerprints of earlier stages. The fingerprint covers
        the source of `make` and that of `code` with all that it imports (`source_digest`): modules, or
        functions for their modules; by default the module of `make`. A folder that an
        interrupted run left is handed to `make` again, which may resume in it. A dict that `make` returns joins the stage's
        entry in run.json. Of several processes the main one makes the stage while the others wait for its files, or,
        `together`, all call `make` and share the work; such stages come in the same order in every process.
        """
        modules = [c if isinstance(c, str) else c.__module__ for c in code or (make,)]
        plain = [asdict(i) if is_dataclass(i) else i for i in inputs]
        key = digest(name, *plain, inspect.getsource(make), source_digest(*sorted(set(modules))))
        folder = self.root / "cache" / f"{name}-{key}"
        whole = folder / "done.json"
        if not together and not parallel.main():
            while not whole.exists():
                time.sleep(0.2)
            return folder, key
        with self._turn(name) if parallel.main() and not whole.exists() else nullcontext():
            if parallel.agree(not whole.exists()) if together else not whole.exists():
                self._make(name, folder, key, make, together)
        return folder, key

    def tables(
        self, name: str, *inputs: object, make: Callable[[], dict[str, pd.DataFrame]]
    ) -> Path:
        """The folder of a stage of tables: `make()` gives them by name; copies are laid out."""

        def write(folder: Path, _: str) -> None:
            for table, rows in make().items():
                write_table(folder / f"{table}.csv", rows)

        folder, _ = self.stage(name, *inputs, make=write, code=(make,))
        lay_out(folder, self.root)
        return folder

    def _make(
        self,
        name: str,
        folder: Path,
        key: str,
        make: Callable[[Path, str], dict | None],
        together: bool,
    ) -> None:
        """Run a stage, in this process or, `together`, in all."""
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        with nullcontext() if together else parallel.alone():
            noted = make(folder, key) or {}
        if together:
            parallel.wait()
        if parallel.main():
            self._finish(name, folder, key, noted, time.perf_counter() - started)
        if together:
            parallel.wait()
        self.ran.append(name)

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Inside the block no other run in this folder makes a stage of that name. The turn of a process that is killed is free at once."""
        home = self.root / ".locks"
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(
                f"pnloc: another run in {self.root} is at '{name}'; waiting for it",
                file=sys.stderr,
                flush=True,
            )
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _finish(self, name: str, folder: Path, key: str, noted: dict, seconds: float) -> None:
        """Write a stage's records, declare it whole, and only then remove what it needed to resume and its older folders."""
        with self._turn("run.json"):
            self._time(name, seconds)
            self._note(name, {"fingerprint": key, **noted})
        write_json(folder / "done.json", {"stage": name, "seconds": round(seconds, 2)})
        for state in [*folder.rglob("state*.safetensors"), *folder.rglob(".state*.safetensors")]:
            state.unlink()
        for old in (self.root / "cache").glob(f"{name}-*"):
            if old != folder and old.name[len(name) + 1 :].isalnum():
                shutil.rmtree(old)

    def _note(self, name: str, entry: dict) -> None:
        """Put this stage into run.json, with what it was made with; what other stages say of themselves stays."""
        path = self.root / "run.json"
        known = read_json(path) if path.exists() else {}
        made = digest(environment())
        stages = {**known.get("stages", {}), name: {**entry, "environment": made}}
        used = {**known.get("environments", {}), made: environment()}
        kept = {stage["environment"] for stage in stages.values()}
        environments = {key: value for key, value in used.items() if key in kept}
        write_json(path, {**self.facts, "environments": environments, "stages": stages})

    def _time(self, name: str, seconds: float) -> None:
        """Put this stage's row into timing.csv, in place of an older one."""
        path = self.root / "timing.csv"
        table = read_csv(path, TIMING) if path.exists() else pd.DataFrame(columns=TIMING)
        peak = (
            max(
                resource.getrusage(who).ru_maxrss
                for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            )
            / 1024
        )
        row = pd.DataFrame([[name, round(seconds, 2), round(peak, 1)]], columns=TIMING)
        table = table[table["stage"] != name]
        write_table(path, row if table.empty else pd.concat([table, row]))
