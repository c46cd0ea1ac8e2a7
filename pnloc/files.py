"""Atomic writes, digests, tables, JSON and tensors; nothing here knows about radiographs.

Every write goes to a temporary name in the same folder and is moved into place, so that a reader
sees the old file or the new one, never half of one.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
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
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = _FULL | {errno.EROFS, errno.EACCES}  # by the disk, while a file is being written
_SUFFIX = 20  # characters of a suffix that a temporary file keeps
_STEM = 40  # and of the name before it: the temporary name is then no longer than a name may be


def unwritable(path: str | Path, reason: object, full: bool = True) -> PnlocError:
    """The error of a file that cannot be written; `full`: for want of room on the disk."""
    advice = "; make room and start again: what was whole is kept" if full else ""
    return PnlocError(f"{path}: cannot be written ({reason}){advice}")


@contextmanager
def _writing(path: str | Path, errors: set[int] | None = None) -> Iterator[None]:
    """Turn OSErrors inside the block, all or those with some numbers, into a PnlocError."""
    try:
        yield
    except OSError as error:
        if errors is not None and error.errno not in errors:
            raise
        raise unwritable(path, error.strerror, error.errno in _FULL) from None


def check_path(path: str, kind: str, written: bool = False) -> None:
    """Raise PnlocError where `path` cannot be the 'file' or 'folder' (`kind`) that is asked for.

    One that is `written` may be missing, as may the folders above it, which are not made here. A
    missing one that is to be read is left to its reader.
    """
    if not path:
        raise PnlocError(f"an empty name, where a {kind} is wanted")
    for place in (Path(path), *Path(path).parents):
        try:
            mode = place.stat().st_mode
            break
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise PnlocError(f"{path}: {error.strerror}") from None
    else:
        raise PnlocError(f"{path}: the current folder is gone")
    folder, there = stat.S_ISDIR(mode), place == Path(path)
    if not folder and not there:
        raise PnlocError(f"{path}: {place} is a file, not a folder")
    if there and folder != (kind == "folder"):
        raise PnlocError(f"{path}: a {'folder' if folder else 'file'}, where a {kind} is wanted")
    if not written:
        if there and not os.access(path, os.R_OK):
            raise PnlocError(f"{path}: {os.strerror(errno.EACCES)}")
        return
    if there and kind == "file" and not stat.S_ISREG(mode):
        raise unwritable(path, "not a regular file", full=False)
    home = place if folder else place.parent
    names, longest = Path(path).relative_to(place).parts, os.pathconf(home, "PC_NAME_MAX")
    if any(len(os.fsencode(name)) > longest for name in names):
        raise unwritable(path, os.strerror(errno.ENAMETOOLONG), full=False)
    if not os.access(home, os.W_OK | os.X_OK):
        raise unwritable(path, f"no right to write in {home}", full=False)


def make_folder(path: str | Path) -> Path:
    """Make a folder, with those above it, where it is missing; PnlocError where that fails."""
    with _writing(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


@contextmanager
def readable(path: str | Path, kind: str) -> Iterator[None]:
    """Turn errors of reading a file inside the block into PnlocError with its name."""
    try:
        yield
    except FileNotFoundError:
        raise PnlocError(f"{path}: no such file") from None
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PnlocError(f"{path}: not readable as {kind} ({reason})") from None


@contextmanager
def form(path: str | Path, problem: str) -> Iterator[None]:
    """Turn errors of a block that reads nested content into one PnlocError: `problem`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise PnlocError(f"{path}: {problem} ({type(error).__name__}: {error})") from None


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved into place if the block succeeds, else removed.

    A place that cannot be written to, or a full disk, raises PnlocError.
    """
    path, name = Path(path), None
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = path.suffix[:_SUFFIX], f".{path.stem[:_STEM]}-", path.parent
            handle, name = tempfile.mkstemp(*parts)
            os.close(handle)
        with _writing(path, _REFUSED):
            yield Path(name)
        with _writing(path):
            os.chmod(name, 0o644)
            os.replace(name, path)
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def append(path: str | Path, lines: Iterable[str]) -> None:
    """Add whole lines to a text file, or none where the disk is full: that raises PnlocError."""
    text = "".join(f"{line}\n" for line in lines).encode()
    with _writing(path), open(path, "ab", buffering=0) as stream:
        before = stream.tell()
        if stream.write(text) < len(text):
            stream.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
    with readable(path, "text"):
        return Path(path).read_text(encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write JSON atomically, indented and with a stable order of keys."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: str | Path) -> dict:
    """Read JSON; a missing or broken file raises PnlocError with its name."""
    with readable(path, "JSON"):
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
    with readable(path, "a table"):
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

    with readable(path, "safetensors"):
        return load_file(str(path))
