"""What a run was made with: versions, machine, commit, and a digest of the data as it was read. Names no host and no user."""

import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd

from pnloc import __version__, parallel
from pnloc.files import digest

PACKAGES = (
    "torch",
    "torchvision",
    "accelerate",
    "numpy",
    "pandas",
    "scipy",
    "gensim",
    "nltk",
    "safetensors",
)
ROOT = Path(__file__).parents[2]


def commit(root: Path = ROOT) -> str:
    """The git commit that is checked out in `root`, with '+' where tracked files differ from it; else 'unknown'."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return "unknown"  # the package lies inside somebody else's repository
        return git("rev-parse", "HEAD") + (
            "+" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@lru_cache(None)
def environment() -> dict[str, object]:
    """Versions of Python, of this package and of those that its numbers depend on; machine, processes, commit."""
    import torch

    where = parallel.device()
    return {
        "pnloc": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": parallel.count(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def data_digest(pixels: np.ndarray, *tables: pd.DataFrame) -> str:
    """Digest of decoded images uint8 [N, S, S] and of tables, whatever their row labels; nothing of paths or file times."""
    sha = hashlib.sha256(str(pixels.shape).encode())
    for start in range(
        0, len(pixels), 256
    ):  # in pieces, so that a memory-mapped set is never in memory as a whole
        sha.update(np.ascontiguousarray(pixels[start : start + 256]).data)
    return digest(sha.hexdigest(), *(table.to_csv(index=False) for table in tables))
