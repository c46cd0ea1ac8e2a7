"""Stages on disk: a folder per stage, named by the digest of all that went into it.

A stage whose inputs have not changed is not run again; its folder appears whole or not at all, as far as a
reader is concerned, since `done.json` is written last. Each stage that runs leaves its time and peak memory in
`timing.csv`.
"""

import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from pnloc.files import digest, read_csv, write_json, write_table

SOURCES = Path(__file__).parent
TIMING = ["stage", "seconds", "peak_mib"]


@lru_cache(None)
def source_digest(*modules: str) -> str:
    """Digest of the text of some modules of the package ('detector', 'demo', ...); a name may be a folder.

    Read once per process: what runs is what was imported, whatever becomes of the files meanwhile.
    """
    texts = []
    for module in sorted(modules):
        path = SOURCES / module
        files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        texts += [f.read_text(encoding="utf-8") for f in files]
    return digest(*texts)


def tree_digest(folder: Path) -> str:
    """Digest of names, sizes and times of change of every file under a folder ('' if there is none)."""
    if not folder.exists():
        return ""
    entries = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        status = path.stat()
        entries.append([str(path.relative_to(folder)), status.st_size, status.st_mtime_ns])
    return digest(entries)


class Cache:
    """The stages of one run, under `root/cache`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[str] = []  # stages that really ran in this process

    def stage(self, name: str, *inputs: object, make: Callable[[Path, str], None]) -> tuple[Path, str]:
        """The folder of a stage and its fingerprint; `make(folder, fingerprint)` fills it where it is not whole yet.

        `inputs` are plain values, dataclasses, and the fingerprints of earlier stages. A folder that an
        interrupted run left is handed to `make` again, which may resume in it.
        """
        key = digest(name, *(asdict(i) if is_dataclass(i) else i for i in inputs))
        folder = self.root / "cache" / f"{name}-{key}"
        if not (folder / "done.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            make(folder, key)
            seconds = time.perf_counter() - started
            for state in folder.rglob("state-*.safetensors"):
                state.unlink()
            self._time(name, seconds)
            write_json(folder / "done.json", {"stage": name, "seconds": round(seconds, 2)})
            self.ran.append(name)
            for old in (self.root / "cache").glob(f"{name}-*"):
                if old != folder and old.name[len(name) + 1 :].isalnum():
                    shutil.rmtree(old)
        return folder, key

    def _time(self, name: str, seconds: float) -> None:
        """Put this stage's row into timing.csv, in place of an older one."""
        path = self.root / "timing.csv"
        table = read_csv(path, TIMING) if path.exists() else pd.DataFrame(columns=TIMING)
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
        row = pd.DataFrame([[name, round(seconds, 2), round(peak, 1)]], columns=TIMING)
        table = table[table["stage"] != name]
        write_table(path, row if table.empty else pd.concat([table, row]))
