"""What a run was made with: versions, machine, commit, a digest of its data; no host, no user."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pnloc import __version__, parallel
from pnloc.files import digest

PACKAGES = ("torch", "torchvision", "accelerate", "safetensors", "numpy", "pandas", "scipy")
PACKAGES += ("gensim", "nltk")
ROOT = Path(__file__).parents[2]


def commit(root: Path = ROOT) -> str:
    """The git commit checked out in `root`, with '+' where tracked files differ; else 'unknown'.

    A package inside somebody else's repository has none.
    """
    command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}", "describe"]
    command += ["--always", "--exclude=*", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@cache
def environment() -> dict[str, object]:
    """Versions of Python, this package and those it depends on; machine, processes, commit."""
    device = parallel.device()
    return {
        "pnloc": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": parallel.count(),
    }


def data_digest(pixels: np.ndarray, *tables: pd.DataFrame) -> str:
    """Digest of images uint8 [N, S, S] and of tables without their index; not of paths or times."""
    sha = hashlib.sha256(str(pixels.shape).encode())
    sha.update(np.ascontiguousarray(pixels))  # no copy of a memory-mapped set
    return digest(sha.hexdigest(), *(table.to_csv(index=False) for table in tables))
