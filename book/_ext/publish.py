"""From pages to the book's source: a copy without machine paths, with a line on what made it, and without anything credentialed.

`publish` copies; `refuse` says which cell of which page keeps it from being published. A cell is credentialed where the code that drew
it has marked its output (pnloc.view.guard), and, as a second net, where an output holds the name of a credentialed image, study or
patient, or eight words in a row of a credentialed report.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from html import unescape
from pathlib import Path

import pandas as pd

from pnloc import access
from pnloc.errors import PnlocError
from pnloc.files import atomic, read_json

try:
    import nbformat
    from nbformat import NotebookNode
except ModuleNotFoundError as error:
    raise PnlocError(
        f"pages need {error.name}: pip install 'pnloc[notebooks]', or make env"
    ) from None

ROOT = Path(__file__).parents[2]
BAR = re.compile(r"\d+%\|.*\|\s*\d+/\d+ \[|\d+\w* \[\d\d:\d\d")  # what tqdm draws
WIDGET = "application/vnd.jupyter.widget-view+json"
NO_KERNEL = "*Controls stand here when the notebook runs in JupyterLab.*"
_SECTION = re.compile(r"\]\((\d\d_\w+)\.ipynb(?:#([^)\s]+))?\)")
KEPT = "nothing was copied into the book"
RUN = 8  # words in a row that make a quotation of a report
SHOWN = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "gensim",
)  # versions in the line under a page's title


def publish(pages: Path, target: Path, sources: Path = ROOT / "notebooks") -> None:
    """Copy pages into the book's source, free of machine paths; unchanged ones keep their time, stale ones go.

    `pages` lies in the folder of the run, whose `cache` names what is credentialed. `sources` holds the notebooks that the pages were
    made from. Nothing is copied where any page must not leave this machine or holds a stored error (`refuse`).
    """
    found = {p.name: nbformat.read(p, as_version=4) for p in sorted(pages.glob("*.ipynb"))}
    if not found:
        raise PnlocError(f"{pages}: no page to publish; run the notebooks first (make book)")
    refuse(found, Secret.of(pages.parent))
    target.mkdir(parents=True, exist_ok=True)
    for stale in [p for p in target.glob("*.ipynb") if p.name not in found]:
        stale.unlink()
    for name, page in found.items():
        told = facts(name, page, pages.parent, target, sources)
        text = nbformat.writes(with_facts(clean(page), told)) + "\n"
        if not (target / name).exists() or (target / name).read_text(encoding="utf-8") != text:
            with atomic(target / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


# What must not be published -------------------------------------------------------------------------------


class Secret:
    """What gives credentialed data away in a text: names of images, studies and patients, and words of reports."""

    def __init__(self, images: Iterable[pd.DataFrame] = (), reports: Iterable[str] = ()) -> None:
        self.names = set().union(*(access.identifiers(table) for table in images))
        self.reports = list(dict.fromkeys(reports))

    @classmethod
    def of(cls, run: Path) -> "Secret":
        """That of all credentialed sets of a run, as its cache holds them."""
        sets = [
            p.parent
            for p in run.glob("cache/decode-*/facts.json")
            if read_json(p)["access"] == access.CREDENTIALED
        ]
        images = [pd.read_parquet(s / "images.parquet", columns=list(access.NAMES)) for s in sets]
        reports = [text for s in sets for text in pd.read_parquet(s / "reports.parquet")["text"]]
        return cls(images, reports)

    def refuse(self, texts: dict[str, str]) -> None:
        """Raise PnlocError for the first of some texts (HTML or plain, by where they stand) that gives something away."""
        runs: dict[str, str] = {}
        for where, text in texts.items() if self.names or self.reports else ():
            plain = unescape(re.sub(r"<[^>]+>", "", text))
            if access.named(f"{text} {plain}", self.names):
                raise PnlocError(
                    f"{where} holds the name of a credentialed image, study or patient; {KEPT}"
                )
            runs |= dict.fromkeys(_runs(plain), where)
        for report in self.reports if runs else ():
            quoted = next((run for run in _runs(report) if run in runs), "")
            if quoted:
                raise PnlocError(f"{runs[quoted]} quotes a credentialed report; {KEPT}")


def _runs(text: str) -> Iterator[str]:
    """Every RUN words in a row of a text, in lower case."""
    said = re.findall(r"\w+", text.lower())
    return (" ".join(said[i : i + RUN]) for i in range(len(said) - RUN + 1))


def refuse(pages: dict[str, NotebookNode], secret: Secret | None = None) -> None:
    """Raise PnlocError, with page and cell, where one of some pages (by name) must not leave this machine, or holds an error."""
    texts: dict[str, str] = {}
    for name, page in pages.items():
        if page.metadata.get("pnloc", {}).get("credentialed"):
            raise PnlocError(f"{name}: marked as credentialed, so no page is published; {KEPT}")
        for number, cell in enumerate(page.cells, start=1):
            where = f"{name}, cell {number}: its output"
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    told = f"holds a stored error ({output.ename}); run the notebook again"
                    raise PnlocError(f"{name}, cell {number}: {told}")
                found = [
                    v
                    for k, v in output.get("data", {}).items()
                    if isinstance(v, str) and not k.startswith("image/")
                ]
                found += [str(output["text"])] if "text" in output else []
                if output.get("metadata", {}).get("pnloc") == access.CREDENTIALED or any(
                    access.MARK in t for t in found
                ):
                    raise PnlocError(f"{where} is marked as credentialed; {KEPT}")
                texts[where] = "\n".join([texts.get(where, ""), *found])
    (secret or Secret()).refuse(texts)


# What a page is, without what made it ---------------------------------------------------------------------


def clean(page: NotebookNode) -> NotebookNode:
    """A page as it is published: without papermill's records, machine paths, progress bars and widgets.

    The injected parameters keep their names; a folder is reduced to its own name. A widget needs a kernel, so that a line
    of text says where to find it; the bars of a running notebook say nothing to a reader.
    """
    page = nbformat.from_dict(page)
    folders = {str(Path.home()), str(ROOT), sys.prefix}
    for name in ("DATA", "ARTIFACTS"):
        folders.add(
            str((page.metadata.get("papermill", {}).get("parameters") or {}).get(name) or "")
        )
    for key in ("papermill", "widgets"):
        page.metadata.pop(key, None)
    injected = any("injected-parameters" in cell.metadata.get("tags", []) for cell in page.cells)
    for cell in page.cells:
        if injected and "parameters" in cell.metadata.get(
            "tags", []
        ):  # the values that were used stand in the next cell
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
    if (
        WIDGET in output.get("data", {}) and "text/html" in output.data
    ):  # a widget that brings what stands without a kernel
        output.data.pop(WIDGET)
    elif WIDGET in output.get("data", {}):
        return nbformat.v4.new_output(
            "display_data", {"text/markdown": NO_KERNEL, "text/plain": NO_KERNEL.strip("*")}
        )
    if output.output_type == "stream":
        output.text = "".join(
            line for line in re.split(r"(?<=[\n\r])", output.text) if not BAR.search(line)
        )
    for holder, key in (
        (output, "text"),
        *((output.get("data", {}), k) for k in output.get("data", {})),
    ):
        if isinstance(holder.get(key), str) and not key.startswith("image/png"):
            holder[key] = _without(holder[key], folders)
    if "text/markdown" in output.get("data", {}):
        output.data["text/markdown"] = _SECTION.sub(_to_page, output.data["text/markdown"])
    return output


def _to_page(match: re.Match) -> str:
    """A link to a heading of a notebook, as JupyterLab names it, as the link to the book's page, as Sphinx names it."""
    heading = re.sub(r"[^\w-]+", "", match[2].lower()) if match[2] else ""
    return f"]({match[1]}.html{'#' + heading if heading else ''})"


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


# What made a page -----------------------------------------------------------------------------------------


def facts(name: str, page: NotebookNode, run: Path, target: Path, sources: Path) -> str:
    """The line under a page's title: its source, downloads, how long it ran, preset, seed, commit and versions ('' if none is known).

    From the page's metadata (papermill's duration, and what book._ext.run noted), else from the run's `run.json`.
    """
    record = read_json(run / "run.json") if (run / "run.json").exists() else {}
    made = page.metadata.get("pnloc", {}).get("made") or next(
        iter(record.get("environments", {}).values()), {}
    )
    papermill = page.metadata.get("papermill", {})
    given = {
        "PRESET": record.get("preset"),
        "SEED": record.get("seed"),
        **(papermill.get("parameters") or {}),
    }
    links = []
    if (sources / name).exists():
        relative = Path(os.path.relpath(sources / name, target)).as_posix()
        links = [
            f"{{download}}`source notebook <{relative}>`",
            f"{{download}}`as it was run <{name}>`",
            *hosted(name),
        ]
    told = [f"took **{papermill['duration']:.0f} s**"] if papermill.get("duration") else []
    told += [f"preset **{given['PRESET']}**"] if given["PRESET"] else []
    told += [f"seed **{given['SEED']}**"] if given["SEED"] is not None else []
    told += [f"commit `{_short(made['commit'])}`"] if made else []
    versions = [f"pnloc {made['pnloc']}", f"Python {made['python']}"] if made else []
    versions += [f"{p} {made['packages'][p]}" for p in SHOWN if p in made.get("packages", {})]
    lines = [" · ".join(part) for part in (links, told) if part] + (
        [", ".join(versions)] if versions else []
    )
    return "\n\n".join(lines)


def _short(commit: str) -> str:
    return commit[:10] + ("+" if commit.endswith("+") and len(commit) > 10 else "")


def with_facts(page: NotebookNode, told: str) -> NotebookNode:
    """A page with a line under its title."""
    if told and page.cells and page.cells[0].source.startswith("# "):
        title, _, rest = page.cells[0].source.partition("\n")
        page.cells[0].source = f"{title}\n\n::::{{container}} page-facts\n{told}\n::::\n{rest}"
    return page


def hosted(name: str) -> list[str]:
    """Links to a notebook where its repository lies, on Binder and on Colab; none where the repository has no public home."""
    home = repository()
    path = home.removeprefix("https://github.com/")
    if not home:
        return []
    return [
        f"[in the repository]({home}/blob/main/notebooks/{name})",
        f"[Binder](https://mybinder.org/v2/gh/{path}/main?urlpath=lab/tree/notebooks/{name})",
        f"[Colab](https://colab.research.google.com/github/{path}/blob/main/notebooks/{name})",
    ]


def repository(root: Path = ROOT) -> str:
    """Address of the project on GitHub, from the workflow's variables or git's remote 'origin'; '' where it is not there."""
    if os.environ.get("GITHUB_REPOSITORY"):
        return f"https://github.com/{os.environ['GITHUB_REPOSITORY']}"
    done = subprocess.run(
        ["git", "config", "remote.origin.url"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.fullmatch(
        r"(?:https://|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?", done.stdout.strip()
    )
    return f"https://github.com/{match[1]}" if match else ""
