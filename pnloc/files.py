"""Atomic writes, digests, tables, JSON and tensors; nothing here knows about radiographs.

Every write goes to a temporary name in the same folder and is moved into place, so that a reader
sees the old file or the new one, never half of one.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

from pnloc.errors import PnlocError

# Parser errors and bad encodings are ValueErrors; the others come from compressed files.
_UNREADABLE = (ValueError, OSError, EOFError, RecursionError, zlib.error, SafetensorError)
_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}  # by the disk


def unwritable(path: str | Path, reason: object) -> PnlocError:
    """The error of a file that the disk refuses."""
    advice = "make room and start again: what was whole is kept"
    return PnlocError(f"{path}: cannot be written ({reason}); {advice}")


@contextmanager
def _readable(path: str | Path, kind: str) -> Iterator[None]:
    """Turn errors of reading a file inside the block into PnlocError with its name."""
    try:
        yield
    except FileNotFoundError:
        raise PnlocError(f"{path}: no such file") from None
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PnlocError(f"{path}: not readable as {kind} ({reason})") from None


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved into place if the block succeeds, else removed.

    A disk that is full or may not be written to raises PnlocError.
    """
    path, name = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(path.suffix, f".{path.stem}-", path.parent)
        os.close(handle)
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise unwritable(path, error.strerror) from None
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def copy(source: str | Path, path: str | Path) -> None:
    """Copy a file atomically."""
    with atomic(path) as temporary:
        shutil.copyfile(source, temporary)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: str | Path) -> str:
    """Read UTF-8 text; a missing file, or one that is not text, raises PnlocError with its name."""
    with _readable(path, "text"):
        return Path(path).read_text(encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write JSON atomically, indented and with a stable order of keys."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: str | Path) -> dict:
    """Read JSON; a missing or broken file raises PnlocError with its name."""
    with _readable(path, "JSON"):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table atomically: CSV or Parquet, by the suffix. The index is not kept."""
    with atomic(path) as temporary:
        if Path(path).suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)


def read_csv(path: str | Path, columns: Iterable[str] = (), **options: object) -> pd.DataFrame:
    """Read a CSV (optionally gzipped) and require `columns`.

    Further `options` go to pandas.read_csv. Raises PnlocError, naming the file, where it is
    missing, cannot be parsed, or lacks a column (the message lists the columns that it has).
    """
    with _readable(path, "a table"):
        table = pd.read_csv(path, **options)
    return require(path, table, columns)


def require(path: str | Path, table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """The table of a file; PnlocError, which lists the columns that it has, where it lacks one."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        lacking, present = ", ".join(missing), ", ".join(map(str, table.columns))
        raise PnlocError(f"{path}: lacks the column(s) {lacking}; it has {present}")
    return table


def digest(*parts: object) -> str:
    """A short digest of JSON-like values; a Path stands for its name, size and time of change."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            status = part.stat()
            part = [part.name, status.st_size, status.st_mtime_ns]
        sha.update(json.dumps(part, sort_keys=True, default=str).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def save_module(path: str | Path, module: object) -> None:
    """Write the weights and buffers of a torch module as safetensors."""
    save_tensors(path, {name: value.detach().cpu() for name, value in module.state_dict().items()})


def load_module(path: str | Path, module: object) -> object:
    """Read weights into a torch module, strictly; PnlocError where the file does not fit."""
    try:
        module.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise PnlocError(f"{path}: does not fit the model ({str(error).splitlines()[0]})") from None
    return module


def save_tensors(path: str | Path, tensors: dict, metadata: dict[str, str] | None = None) -> None:
    """Write torch tensors by name, atomically, as safetensors.

    A full disk raises PnlocError and leaves the older file as it was.
    """
    from safetensors.torch import save_file  # torch takes a second to import: not for every command

    with atomic(path) as temporary:
        try:
            whole = {name: value.contiguous() for name, value in tensors.items()}
            save_file(whole, str(temporary), metadata)
        except SafetensorError as error:
            raise unwritable(path, error) from None


def load_tensors(path: str | Path) -> dict:
    """Torch tensors by name from a safetensors file; PnlocError where it is missing or broken."""
    from safetensors.torch import load_file

    with _readable(path, "safetensors"):
        return load_file(str(path))
