"""From notebooks to pages: papermill runs notebooks/NN.ipynb into a folder of pages.

What becomes of the pages: book._ext.publish, book._ext.check.
"""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from pnloc.errors import PnlocError
from pnloc.files import atomic, digest
from pnloc.run.provenance import environment
from pnloc.view.notebook import check

try:
    import nbformat
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
except ModuleNotFoundError as error:
    raise PnlocError(
        f"running notebooks needs {error.name}: pip install 'pnloc[notebooks]', or make env"
    ) from None

ROOT = Path(__file__).parents[2]
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
AHEAD = "__import__('pnloc.view.notebook')"  # what a kernel does while it waits for its notebook
SOURCES = (".py", ".js", ".css", ".html", ".toml", ".csv", ".mplstyle")


def execute(
    notebooks: Path, pages: Path, parameters: dict[str, object], published: Path | None = None
) -> list[str]:
    """Run the notebooks of a folder, by name, into `pages`; return the names of those that ran.

    A notebook is skipped where nothing that its page depends on has changed: it and the notebooks
    before it, the package, the tables in `book/results`, the parameters, the entries of the data
    folder. A page is written only when its notebook ends well; where one fails, its old page goes
    too (also from `published`), and PnlocError names notebook, cell and cause in one line.
    """
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise PnlocError(
            f"{notebooks}: no notebooks here; clone the repository, and make env there"
        )
    check_parameters(sources, parameters)
    pages.mkdir(parents=True, exist_ok=True)
    for stale in {p.name for p in pages.glob("*.ipynb")} - {s.name for s in sources}:
        (pages / stale).unlink()
    key, keys = digest(parameters, package_digest(), listing(str(parameters.get("DATA", "")))), {}
    for source in sources:
        key = keys[source] = digest(key, source.read_text(encoding="utf-8"))
    changed = [s for s in sources if _key_of(pages / s.name) != keys[s]]
    width = max(len(s.stem) for s in sources)
    with _Kernels(changed) as kernels:
        for source in sources:
            page, name = pages / source.name, f"{source.stem:<{width}}"
            if source not in changed:
                print(f"{name}  unchanged", flush=True)
                continue
            started = time.perf_counter()
            print(f"{name}  running", flush=True)
            try:
                with kernels.next() as kernel:
                    _run(source, page, parameters, keys[source], kernel)
            except BaseException:
                for folder in filter(None, (pages, published)):
                    (folder / source.name).unlink(missing_ok=True)
                raise
            print(f"{name}  {time.perf_counter() - started:.1f} s", flush=True)
    return [source.stem for source in changed]


def check_parameters(sources: list[Path], parameters: dict[str, object]) -> None:
    """Raise PnlocError for a parameter of the wrong type, or that a notebook does not have."""
    check(parameters)
    for source in sources:
        try:
            known = papermill.inspect_notebook(str(source))
        except (ValueError, nbformat.reader.NotJSONError) as error:
            reason = _one_line(str(error))
            raise PnlocError(f"{source.name}: papermill cannot run it ({reason})") from None
        for name in [name for name in parameters if name not in known]:
            names = ", ".join(known) or "none"
            raise PnlocError(f"{source.name}: has no parameter {name}; it has {names}")


def package_digest() -> str:
    """Digest of the packages, of the kept tables and of the versions of what computes."""
    folders = (ROOT / "pnloc", ROOT / "phantoms", ROOT / "explorer")
    files = [p for folder in folders for p in folder.rglob("*.*") if p.suffix in SOURCES]
    files = [p for p in files if p.name not in ("cli.py", "__main__.py")]
    files += (ROOT / "book" / "results").rglob("*.*")
    texts = [p.read_text(encoding="utf-8") for p in sorted(files)]
    return digest(texts, [version(p) for p in ("torch", "torchvision", "numpy", "pandas")])


def listing(folder: str) -> list:
    """Names, sizes and times of the entries of a folder and of its folders; empty for ''."""
    entries = sorted([*Path(folder).glob("*"), *Path(folder).glob("*/*")]) if folder else []
    states = [(str(p.relative_to(folder)), p.stat()) for p in entries if p.exists()]
    return [[name, state.st_size, state.st_mtime_ns] for name, state in states]


def _run(
    source: Path, page: Path, parameters: dict[str, object], key: str, kernel: AsyncKernelManager
) -> None:
    """Run one notebook into its page."""
    options = {"kernel_name": "python3", "progress_bar": sys.stderr.isatty(), "km": kernel}
    try:
        with atomic(page) as temporary:
            done = papermill.execute_notebook(
                str(source), None, parameters=parameters, cwd=str(source.parent), **options
            )
            facts = {"key": key, "made": environment()}
            done.metadata["pnloc"] = {**done.metadata.get("pnloc", {}), **facts}
            nbformat.write(done, temporary)
    except papermill.PapermillExecutionError as error:
        raise PnlocError(f"{source.name}: {cause(error)}") from None
    except (DeadKernelError, CellTimeoutError, RuntimeError) as error:
        reason = _one_line(str(error)) or type(error).__name__
        raise PnlocError(f"{source.name}: the kernel did not finish ({reason})") from None


class _ThisPython(AsyncKernelManager):
    """A kernel of this very Python, whatever kernels the machine has."""

    kernel_spec = KernelSpec(**get_kernel_dict())


class _Kernels:
    """Kernels for notebooks, in order; the next one starts, and imports, while one works.

    They are reached through sockets in a folder of their own: a free port could be taken by another
    program before the kernel opens it.
    """

    def __init__(self, sources: list[Path]) -> None:
        self.waiting, self.ready = list(sources), []

    def __enter__(self) -> "_Kernels":
        self.sockets = tempfile.TemporaryDirectory(prefix="pnloc-")
        return self

    def __exit__(self, *error: object) -> None:
        for kernel in self.ready:
            run_sync(kernel.shutdown_kernel)(now=True)
        self.sockets.cleanup()

    @contextmanager
    def next(self) -> Iterator[AsyncKernelManager]:
        """The kernel of the next notebook; it ends with the block."""
        while self.waiting and len(self.ready) < 2:
            self.ready.append(self._start(self.waiting.pop(0)))
        try:
            yield self.ready[0]
        finally:
            run_sync(self.ready.pop(0).shutdown_kernel)(now=True)

    def _start(self, source: Path) -> AsyncKernelManager:
        sockets = {"transport": "ipc", "ip": f"{self.sockets.name}/{source.stem}"}
        kernel = _ThisPython(**(sockets if os.name != "nt" else {}))
        arguments = ["--IPKernelApp.log_level=40"]
        if "pnloc.view.notebook" in source.read_text(encoding="utf-8"):
            arguments.append(f"--IPKernelApp.exec_lines={AHEAD}")
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environ = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path}
        start = run_sync(kernel.start_kernel)
        start(cwd=str(source.parent), env=environ, extra_arguments=arguments)
        return kernel


def cause(error: Exception) -> str:
    """papermill's error in a line: the cell and what it raised; a PnlocError's message alone."""
    message = _one_line(str(error.evalue))
    if error.ename == "PnlocError":
        return message
    return f"cell {error.exec_count}: {error.ename}{': ' if message else ''}{message}"


def _one_line(text: str) -> str:
    """The first line that says something, without colours."""
    return next((line.strip() for line in ANSI.sub("", text).splitlines() if line.strip()), "")


def _key_of(page: Path) -> str:
    """The key that a page was made under; '' where there is no whole page."""
    try:
        return nbformat.read(page, as_version=4).metadata.get("pnloc", {}).get("key", "")
    except (OSError, ValueError):
        return ""
