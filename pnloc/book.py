"""From notebooks to pages to the book: papermill runs them, a copy publishes them, a check looks at the HTML.

`execute` runs notebooks/NN.ipynb into a folder of pages; `publish` copies these, without machine paths, into the book's
source; `check` asserts that every page of the table of contents became HTML. As a command:
`python -m pnloc.book`, after `jupyter-book build book`.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pnloc.cache import source_digest
from pnloc.errors import PnlocError
from pnloc.files import atomic, digest
from pnloc.notebook import check_types, refuse_unknown

try:
    import nbformat
    import yaml
    from jupyter_core.utils import run_sync
    from nbformat import NotebookNode
except ModuleNotFoundError as error:
    raise PnlocError(f"running notebooks needs {error.name}: pip install 'pnloc[notebooks]', or make env") from None

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

PACKAGE = Path(__file__).parent
ROOT = PACKAGE.parent
NOT_IN_NOTEBOOKS = {"book", "cli", "__main__"}  # modules that no notebook's result depends on
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
BAR = re.compile(r"\d+%\|.*\|\s*\d+/\d+ \[|\d+\w* \[\d\d:\d\d")  # what tqdm draws
WIDGET = "application/vnd.jupyter.widget-view+json"
AHEAD = "__import__('pnloc.notebook').notebook.imports()"  # what a kernel does while it waits for its notebook
NO_KERNEL = "*Controls stand here when the notebook runs in JupyterLab.*"


# Running --------------------------------------------------------------------------------------------------


def execute(notebooks: Path, pages: Path, parameters: dict[str, object], published: Path | None = None) -> list[str]:
    """Run every notebook of a folder, in the order of their names, into `pages`; return the names that really ran.

    A page is skipped where it is newer than nothing that made it: its notebook, the notebooks before it, the
    package, the parameters, the entries of the data folder. It is written only when its notebook ends well; where one
    fails, its old page goes too (also from `published`), and PnlocError names notebook, cell and cause in one line.
    """
    sources = sorted(notebooks.glob("*.ipynb"))
    if not sources:
        raise PnlocError(f"{notebooks}: no notebook here")
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

    refuse_unknown(list(parameters))
    check_types(parameters)
    for source in sources:
        try:
            known = papermill.inspect_notebook(str(source))
        except (ValueError, nbformat.reader.NotJSONError) as error:
            raise PnlocError(
                f"{source.name}: not a notebook that papermill can run ({_one_line(str(error))})"
            ) from None
        for name in [name for name in parameters if name not in known]:
            raise PnlocError(f"{source.name}: has no parameter {name}; it has {', '.join(known) or 'none'}")


def package_digest() -> str:
    """Digest of the package's sources that a notebook can reach, and of the versions of what computes."""
    modules = sorted(p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.glob("*.py"))))
    return digest(
        source_digest(*(m for m in modules if m not in NOT_IN_NOTEBOOKS)),
        [p.read_text(encoding="utf-8") for p in sorted((PACKAGE / "static").iterdir())],
        [version(p) for p in ("torch", "torchvision", "numpy", "pandas")],
    )


def listing(folder: str) -> list:
    """Names, sizes and times of the entries of a folder and of its folders; empty where none is named."""
    entries = sorted([*Path(folder).glob("*"), *Path(folder).glob("*/*")]) if folder else []
    return [[str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns] for p in entries if p.exists()]


def _run(source: Path, page: Path, parameters: dict[str, object], key: str, kernel: "AsyncKernelManager") -> None:
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
            done.metadata["pnloc"] = {**done.metadata.get("pnloc", {}), "key": key}
            nbformat.write(done, temporary)
    except papermill.PapermillExecutionError as error:
        raise PnlocError(f"{source.name}: {cause(error)}") from None
    except (DeadKernelError, CellTimeoutError, RuntimeError) as error:
        raise PnlocError(
            f"{source.name}: the kernel did not finish ({_one_line(str(error)) or type(error).__name__})"
        ) from None


class _Kernels:
    """Kernels for some notebooks, one after the other; the next one starts, and imports what takes long, while one is at work."""

    def __init__(self, sources: list[Path]) -> None:
        self.waiting, self.ready = list(sources), []

    def __enter__(self) -> "_Kernels":
        return self

    def __exit__(self, *error: object) -> None:
        for kernel in self.ready:
            run_sync(kernel.shutdown_kernel)(now=True)

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
                if "pnloc.notebook" in source.read_text(encoding="utf-8"):
                    spec.argv.append(f"--IPKernelApp.exec_lines={AHEAD}")
                paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
                spec.env = {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(paths)}
                return spec

        kernel = OwnKernel()
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


# Publishing -----------------------------------------------------------------------------------------------


def publish(pages: Path, target: Path) -> None:
    """Copy pages into the book's source, free of machine paths; unchanged ones keep their time, stale ones go.

    Nothing is copied where any page is marked as credentialed (notebook metadata `pnloc.credentialed`, or an output's
    metadata {'pnloc': 'credentialed'}) or holds a stored error; PnlocError names notebook and cell.
    """
    found = {p.name: nbformat.read(p, as_version=4) for p in sorted(pages.glob("*.ipynb"))}
    if not found:
        raise PnlocError(f"{pages}: no page to publish; run the notebooks first (make book)")
    for name, page in found.items():
        _refuse(name, page)
    target.mkdir(parents=True, exist_ok=True)
    for stale in [p for p in target.glob("*.ipynb") if p.name not in found]:
        stale.unlink()
    for name, page in found.items():
        text = nbformat.writes(clean(page)) + "\n"
        if not (target / name).exists() or (target / name).read_text(encoding="utf-8") != text:
            with atomic(target / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


def _refuse(name: str, page: NotebookNode) -> None:
    """Raise PnlocError where a page must not leave this machine, or holds an error."""
    if page.metadata.get("pnloc", {}).get("credentialed"):
        raise PnlocError(f"{name}: marked as credentialed, so no page is published; nothing was copied into the book")
    for number, cell in enumerate(page.cells, start=1):
        for output in cell.get("outputs", []):
            if output.get("metadata", {}).get("pnloc") == "credentialed":
                raise PnlocError(
                    f"{name}, cell {number}: its output is marked as credentialed; nothing was copied into the book"
                )
            if output.output_type == "error":
                raise PnlocError(
                    f"{name}, cell {number}: holds a stored error ({output.ename}); run the notebook again"
                )


def clean(page: NotebookNode) -> NotebookNode:
    """A page as it is published: without papermill's records, machine paths, progress bars and widgets.

    The injected parameters keep their names; a folder is reduced to its own name. A widget needs a kernel, so that a line
    of text says where to find it; the bars of a running notebook say nothing to a reader.
    """
    page = nbformat.from_dict(page)
    folders = {str(Path.home()), str(ROOT), sys.prefix}
    for name in ("DATA", "ARTIFACTS"):
        folders.add(str((page.metadata.get("papermill", {}).get("parameters") or {}).get(name) or ""))
    for key in ("papermill", "widgets"):
        page.metadata.pop(key, None)
    injected = any("injected-parameters" in cell.metadata.get("tags", []) for cell in page.cells)
    for cell in page.cells:
        if injected and "parameters" in cell.metadata.get("tags", []):  # the values that were used stand in the next cell
            cell.metadata["tags"] = [*cell.metadata["tags"], "remove-cell"]
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell.source = _without(cell.source, folders)
            outputs = [_plain(o, folders) for o in cell.outputs if not _is_bar(o)]
            cell.outputs = [o for o in outputs if o.output_type != "stream" or o.text.strip()]
    return page


def _plain(output: NotebookNode, folders: set[str]) -> NotebookNode:
    """An output without machine paths and progress bars, a widget replaced by its own HTML or by a line of text."""
    if WIDGET in output.get("data", {}) and "text/html" in output.data:  # a widget that brings what stands without a kernel
        output.data.pop(WIDGET)
    elif WIDGET in output.get("data", {}):
        return nbformat.v4.new_output("display_data", {"text/markdown": NO_KERNEL, "text/plain": NO_KERNEL.strip("*")})
    if output.output_type == "stream":
        output.text = "".join(line for line in re.split(r"(?<=[\n\r])", output.text) if not BAR.search(line))
    for holder, key in ((output, "text"), *((output.get("data", {}), k) for k in output.get("data", {}))):
        if isinstance(holder.get(key), str) and not key.startswith("image/png"):
            holder[key] = _without(holder[key], folders)
    return output


def _without(text: str, folders: set[str]) -> str:
    """A text in which each of some folders is reduced to its last name, and a cell's temporary file to 'cell'."""
    text = re.sub(r"(?<![^\s\"'])[^\s\"']*ipykernel_\d+[/\\]\d+\.py", "cell", text)
    for folder in sorted((f for f in folders if len(f) > 1 and os.sep in f), key=len, reverse=True):
        text = text.replace(folder, Path(folder).name)
    return text


def _is_bar(output: NotebookNode) -> bool:
    """Whether an output is a tqdm bar drawn as a widget."""
    data = output.get("data", {})
    return WIDGET in data and bool(BAR.search(data.get("text/plain", "")))


# Checking -------------------------------------------------------------------------------------------------


def toc(path: Path) -> list[str]:
    """The pages of a table of contents, in its order, without suffixes."""

    def files(node: object) -> list[str]:
        if isinstance(node, list):
            return [name for item in node for name in files(item)]
        if isinstance(node, dict):
            own = [node[k] for k in ("root", "file") if k in node]
            return own + [name for k in ("parts", "chapters", "sections") for name in files(node.get(k, []))]
        return []

    return files(yaml.safe_load(path.read_text(encoding="utf-8")))


def check(build: Path, contents: Path) -> Path:
    """Assert that every page of the table of contents is HTML with text and without a stored error; return the first.

    `build` is the folder of the HTML. Raises PnlocError with the name of the first page that is missing, empty or broken.
    """
    names = toc(contents)
    for name in names:
        page = build / f"{name}.html"
        if not page.exists():
            raise PnlocError(f"{page}: the book was built without this page")
        html = page.read_text(encoding="utf-8")
        article = re.search(r"<article\b.*?</article>", html, re.S)
        if not article or len(re.sub(r"<[^>]+>|\s", "", article[0])) < 80:
            raise PnlocError(f"{page}: the page is empty")
        if re.search(r'class="output traceback|Traceback \(most recent call last\)|papermill-error-cell', html):
            raise PnlocError(f"{page}: the page holds the traceback of a cell that failed")
    return build / f"{names[0]}.html"


def add_mathjax(build: Path) -> None:
    """Put MathJax beside the pages, from the package jupyter-server-mathjax, so that equations need no network."""
    spec = find_spec("jupyter_server_mathjax")
    if spec is None:
        raise PnlocError(
            "equations need the package jupyter-server-mathjax: pip install 'pnloc[notebooks]', or make env"
        )
    source, target = Path(spec.origin).parent / "static", build / "_static" / "mathjax"
    if not (target / "MathJax.js").exists():
        shutil.copytree(
            source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("localization", "a11y", "NativeMML")
        )


def main() -> int:
    """Add MathJax to the built book, check it and say where it is, as the last line."""
    try:
        add_mathjax(ROOT / "_build" / "html")
        check(ROOT / "_build" / "html", ROOT / "book" / "_toc.yml")
    except PnlocError as error:
        print(f"pnloc: {error}", file=sys.stderr)
        return 1
    print("The book: " + (ROOT / "_build" / "html" / "index.html").as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
