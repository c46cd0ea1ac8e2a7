"""From notebooks to pages: papermill runs notebooks/NN.ipynb into a folder of pages. What becomes of them: book._ext.publish, book._ext.check."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pnloc.errors import PnlocError
from pnloc.files import atomic, digest
from pnloc.run.provenance import environment
from pnloc.view.notebook import check

try:
    import nbformat
    from jupyter_core.utils import run_sync
except ModuleNotFoundError as error:
    raise PnlocError(
        f"running notebooks needs {error.name}: pip install 'pnloc[notebooks]', or make env"
    ) from None

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

ROOT = Path(__file__).parents[2]
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
AHEAD = "__import__('pnloc.view.notebook')"  # what a kernel does while it waits for its notebook


def execute(
    notebooks: Path, pages: Path, parameters: dict[str, object], published: Path | None = None
) -> list[str]:
    """Run every notebook of a folder, in the order of their names, into `pages`; return the names that really ran.

    A page is skipped where it is newer than nothing that made it: its notebook, the notebooks before it, the
    package, the tables kept in `book/results`, the parameters, the entries of the data folder. It is written only when its notebook ends well; where one
    fails, its old page goes too (also from `published`), and PnlocError names notebook, cell and cause in one line.
    """
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise PnlocError(
            f"{notebooks}: no notebook here; they come with the repository: clone it, and make env there"
        )
    check_parameters(sources, parameters)
    pages.mkdir(parents=True, exist_ok=True)
    for stale in [p for p in pages.glob("*.ipynb") if p.name not in {s.name for s in sources}]:
        stale.unlink()
    key, keys = digest(parameters, package_digest(), listing(str(parameters.get("DATA", "")))), {}
    for source in sources:
        key = keys[source] = digest(key, source.read_text(encoding="utf-8"))
    changed = [s for s in sources if _key_of(pages / s.name) != keys[s]]
    width = max(len(s.stem) for s in sources)
    with _Kernels(changed) as kernels:
        for source in sources:
            page = pages / source.name
            if source not in changed:
                print(f"{source.stem:<{width}}  unchanged", flush=True)
                continue
            started = time.perf_counter()
            print(f"{source.stem:<{width}}  running", flush=True)
            try:
                with kernels.of(source) as kernel:
                    _run(source, page, parameters, keys[source], kernel)
            except BaseException:
                for old in [page, *([published / source.name] if published else [])]:
                    old.unlink(missing_ok=True)
                raise
            print(f"{source.stem:<{width}}  {time.perf_counter() - started:.1f} s", flush=True)
    return [source.stem for source in changed]


def check_parameters(sources: list[Path], parameters: dict[str, object]) -> None:
    """Raise PnlocError for a parameter that a notebook does not have (papermill only logs it) or of a wrong type."""
    import papermill

    check(parameters)
    for source in sources:
        try:
            known = papermill.inspect_notebook(str(source))
        except (ValueError, nbformat.reader.NotJSONError) as error:
            raise PnlocError(
                f"{source.name}: not a notebook that papermill can run ({_one_line(str(error))})"
            ) from None
        for name in [name for name in parameters if name not in known]:
            raise PnlocError(
                f"{source.name}: has no parameter {name}; it has {', '.join(known) or 'none'}"
            )


def package_digest() -> str:
    """Digest of the package's sources and of the kept tables that a notebook can reach, and of the versions of what computes."""
    files = sorted(
        p
        for p in (ROOT / "pnloc").rglob("*.*")
        if p.suffix in (".py", ".js", ".css", ".html", ".toml", ".csv", ".mplstyle")
    )
    return digest(
        [p.read_text(encoding="utf-8") for p in files if p.name not in ("cli.py", "__main__.py")],
        [p.read_text(encoding="utf-8") for p in sorted((ROOT / "book" / "results").rglob("*.*"))],
        [version(p) for p in ("torch", "torchvision", "numpy", "pandas")],
    )


def listing(folder: str) -> list:
    """Names, sizes and times of the entries of a folder and of its folders; empty where none is named."""
    entries = sorted([*Path(folder).glob("*"), *Path(folder).glob("*/*")]) if folder else []
    return [
        [str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns]
        for p in entries
        if p.exists()
    ]


def _run(
    source: Path, page: Path, parameters: dict[str, object], key: str, kernel: "AsyncKernelManager"
) -> None:
    """Run one notebook into its page."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    try:
        with atomic(page) as temporary:
            done = papermill.execute_notebook(
                str(source),
                None,
                parameters=parameters,
                kernel_name="python3",
                cwd=str(source.parent),
                progress_bar=sys.stderr.isatty(),
                km=kernel,
            )
            done.metadata["pnloc"] = {
                **done.metadata.get("pnloc", {}),
                "key": key,
                "made": environment(),
            }
            nbformat.write(done, temporary)
    except papermill.PapermillExecutionError as error:
        raise PnlocError(f"{source.name}: {cause(error)}") from None
    except (DeadKernelError, CellTimeoutError, RuntimeError) as error:
        raise PnlocError(
            f"{source.name}: the kernel did not finish ({_one_line(str(error)) or type(error).__name__})"
        ) from None


class _Kernels:
    """Kernels for some notebooks, one after the other; the next one starts, and imports what takes long, while one is at work.

    They are spoken to through sockets in a folder of their own: a port that was free when the kernel was given it can be taken before
    the kernel opens it.
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
    def of(self, source: Path) -> Iterator["AsyncKernelManager"]:
        """The kernel of a notebook, which must be the next one; it ends with the block."""
        while self.waiting and len(self.ready) < 2:
            self.ready.append(self._start(self.waiting.pop(0)))
        try:
            yield self.ready[0]
        finally:
            run_sync(self.ready.pop(0).shutdown_kernel)(now=True)

    def _start(self, source: Path) -> "AsyncKernelManager":
        """A kernel of this very Python with this very package, whatever kernels the machine has."""
        from ipykernel.kernelspec import get_kernel_dict
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import AsyncKernelManager

        class OwnKernel(AsyncKernelManager):
            @property
            def kernel_spec(self) -> KernelSpec:
                spec = KernelSpec(**get_kernel_dict())
                spec.argv = [sys.executable, *spec.argv[1:], "--IPKernelApp.log_level=40"]
                if "pnloc.view.notebook" in source.read_text(encoding="utf-8"):
                    spec.argv.append(f"--IPKernelApp.exec_lines={AHEAD}")
                paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
                spec.env = {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(paths)}
                return spec

        own = (
            {}
            if os.name == "nt"
            else {"transport": "ipc", "ip": f"{self.sockets.name}/{source.stem}"}
        )
        kernel = OwnKernel(**own)
        run_sync(kernel.start_kernel)(cwd=str(source.parent))
        return kernel


def cause(error: Exception) -> str:
    """One line for papermill's error: the cell and what it raised; the message alone for a PnlocError."""
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
