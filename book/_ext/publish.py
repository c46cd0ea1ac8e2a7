"""From pages to the book's source: without machine paths, with a line on what made them.

`publish` copies; `refuse` says which cell of which page must not be published. A cell is
credentialed where the code that drew it has marked its output (pnloc.view.guard), and, as a second
net, where an output holds the name of a credentialed image, study or patient, or eight words in a
row of a credentialed report.
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
from pnloc.files import read_json, read_text, write_text

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
QUOTE = 8  # words in a row that make a quotation of a report
PACKAGES = ("torch", "torchvision", "numpy", "pandas", "gensim")  # whose versions a page names


def publish(pages: Path, target: Path, sources: Path = ROOT / "notebooks") -> None:
    """Copy pages into the book's source; unchanged ones keep their time, stale ones go.

    `pages` lies in the folder of the run, whose `cache` names what is credentialed. `sources` holds
    the notebooks that the pages were made from. Nothing is copied where any page must not leave
    this machine or holds a stored error (`refuse`).
    """
    notebooks = {p.name: nbformat.read(p, as_version=4) for p in sorted(pages.glob("*.ipynb"))}
    if not notebooks:
        raise PnlocError(f"{pages}: no page to publish; run the notebooks first (make book)")
    refuse(notebooks, Secret.of(pages.parent))
    target.mkdir(parents=True, exist_ok=True)
    for stale in {p.name for p in target.glob("*.ipynb")} - set(notebooks):
        (target / stale).unlink()
    for name, page in notebooks.items():
        line = facts(name, page, pages.parent, target, sources)
        page = with_answer(with_facts(folded(clean(page)), line))
        text = nbformat.writes(page) + "\n"
        if not (target / name).exists() or read_text(target / name) != text:
            write_text(target / name, text)


# What must not be published -----------------------------------------------------------------------


class Secret:
    """What gives credentialed data away: names of images, studies and patients; reports."""

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
        """Raise PnlocError for the first text (HTML or plain) that gives something away."""
        quotes: dict[str, str] = {}
        for place, text in texts.items() if self.names or self.reports else ():
            plain = unescape(re.sub(r"<[^>]+>", "", text))
            if access.named(f"{text} {plain}", self.names):
                what = "the name of a credentialed image, study or patient"
                raise PnlocError(f"{place} holds {what}; {KEPT}")
            quotes |= dict.fromkeys(_quotes(plain), place)
        for report in self.reports if quotes else ():
            if quote := next((q for q in _quotes(report) if q in quotes), ""):
                raise PnlocError(f"{quotes[quote]} quotes a credentialed report; {KEPT}")


def _quotes(text: str) -> Iterator[str]:
    """Every QUOTE words in a row of a text, in lower case."""
    words = re.findall(r"\w+", text.lower())
    return (" ".join(words[i : i + QUOTE]) for i in range(len(words) - QUOTE + 1))


def refuse(pages: dict[str, NotebookNode], secret: Secret | None = None) -> None:
    """Raise PnlocError, with page and cell, where a page must not be published."""
    texts: dict[str, str] = {}
    for name, page in pages.items():
        if page.metadata.get("pnloc", {}).get("credentialed"):
            raise PnlocError(f"{name}: marked as credentialed, so no page is published; {KEPT}")
        for number, cell in enumerate(page.cells, start=1):
            place = f"{name}, cell {number}: its output"
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    reason = f"holds a stored error ({output.ename}); run the notebook again"
                    raise PnlocError(f"{name}, cell {number}: {reason}")
                data = {"text": output.get("text"), **output.get("data", {})}
                own = [v for k, v in data.items() if isinstance(v, str) and k[:6] != "image/"]
                marked = output.get("metadata", {}).get("pnloc") == access.CREDENTIALED
                if marked or any(access.MARK in text for text in own):
                    raise PnlocError(f"{place} is marked as credentialed; {KEPT}")
                texts[place] = "\n".join([texts.get(place, ""), *own])
    (secret or Secret()).refuse(texts)


# What a page is, without what made it -------------------------------------------------------------


def clean(page: NotebookNode) -> NotebookNode:
    """A page without papermill's records, machine paths, progress bars and widgets.

    The injected parameters keep their names; a folder is reduced to its own name. A widget needs a
    kernel, so that a line of text says where to find it.
    """
    page = nbformat.from_dict(page)
    parameters = page.metadata.get("papermill", {}).get("parameters") or {}
    folders = {str(Path.home()), str(ROOT), sys.prefix}
    folders |= {str(parameters.get(name) or "") for name in ("DATA", "ARTIFACTS")}
    for key in ("papermill", "widgets"):
        page.metadata.pop(key, None)
    injected = any("injected-parameters" in cell.metadata.get("tags", []) for cell in page.cells)
    for cell in page.cells:
        tags = cell.metadata.get("tags", [])
        if injected and "parameters" in tags:  # the values that were used are in the next cell
            cell.metadata["tags"] = [*tags, "remove-cell"]
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            if "injected-parameters" in tags:
                cell.source = _without(cell.source, folders)
            outputs = [_plain(o, folders) for o in cell.outputs if not _is_bar(o)]
            cell.outputs = [o for o in outputs if o.output_type != "stream" or o.text.strip()]
    return page


def _plain(output: NotebookNode, folders: set[str]) -> NotebookNode:
    """An output without machine paths, bars and widgets."""
    data = output.get("data", {})
    if data.pop(WIDGET, None) and "text/html" not in data:
        text = {"text/markdown": NO_KERNEL, "text/plain": NO_KERNEL.strip("*")}
        return nbformat.v4.new_output("display_data", text)
    if output.output_type == "stream":
        lines = re.split(r"(?<=[\n\r])", output.text)
        output.text = _without("".join(line for line in lines if not BAR.search(line)), folders)
    for kind, text in data.items():
        if isinstance(text, str) and not kind.startswith("image/png"):
            data[kind] = _without(text, folders)
    if "text/markdown" in data:
        data["text/markdown"] = _SECTION.sub(_to_page, data["text/markdown"])
    return output


def _to_page(match: re.Match) -> str:
    """The link to a heading in JupyterLab as the link to it in the book."""
    heading = re.sub(r"[^\w-]+", "", match[2].lower()) if match[2] else ""
    return f"]({match[1]}.html{'#' + heading if heading else ''})"


def _without(text: str, folders: set[str]) -> str:
    """A text with folders reduced to their last names, and a cell's temporary file to 'cell'."""
    text = re.sub(r"(?<![^\s\"'])[^\s\"']*ipykernel_\d+[/\\]\d+\.py", "cell", text)
    for folder in sorted((f for f in folders if len(f) > 1 and os.sep in f), key=len, reverse=True):
        text = text.replace(folder, Path(folder).name)
    return text


def _is_bar(output: NotebookNode) -> bool:
    """Whether an output is a tqdm bar drawn as a widget."""
    data = output.get("data", {})
    return WIDGET in data and bool(BAR.search(data.get("text/plain", "")))


# What made a page ---------------------------------------------------------------------------------


def facts(name: str, page: NotebookNode, run: Path, target: Path, sources: Path) -> str:
    """The lines under a page's title: downloads, duration, preset, seed, commit and versions.

    From the page's metadata (papermill's, and what book._ext.run noted), else from `run.json`; ''
    if nothing is known.
    """
    record = read_json(run / "run.json") if (run / "run.json").exists() else {}
    environments = list(record.get("environments", {}).values())
    made = page.metadata.get("pnloc", {}).get("made") or next(iter(environments), {})
    papermill = page.metadata.get("papermill", {})
    values = {"PRESET": record.get("preset"), "SEED": record.get("seed")}
    values |= papermill.get("parameters") or {}
    links = []
    if (sources / name).exists():
        source = Path(os.path.relpath(sources / name, target)).as_posix()
        links = [
            f"{{download}}`source notebook <{source}>`",
            f"{{download}}`as it was run <{name}>`",
        ]
    own = [f"took **{papermill['duration']:.0f} s**"] if papermill.get("duration") else []
    own += [f"preset **{values['PRESET']}**"] if values["PRESET"] else []
    own += [f"seed **{values['SEED']}**"] if values["SEED"] is not None else []
    own += [f"commit `{_short(made['commit'])}`"] if made else []
    versions = [f"pnloc {made['pnloc']}", f"Python {made['python']}"] if made else []
    packages = made.get("packages", {})
    versions += [f"{p} {packages[p]}" for p in PACKAGES if p in packages]
    lines = [" · ".join([*links, *hosted(name)] if links else []), " · ".join(own)]
    return "\n\n".join(filter(None, [*lines, ", ".join(versions)]))


def _short(commit: str) -> str:
    return commit[:10] + ("+" if commit.endswith("+") and len(commit) > 10 else "")


def with_facts(page: NotebookNode, facts: str) -> NotebookNode:
    """A page with some lines under its title."""
    if facts and page.cells and page.cells[0].source.startswith("# "):
        title, _, rest = page.cells[0].source.partition("\n")
        page.cells[0].source = f"{title}\n\n::::{{container}} page-facts\n{facts}\n::::\n{rest}"
    return page


def folded(page: NotebookNode) -> NotebookNode:
    """A page whose cells of parameters and of the start fold away."""
    for cell in page.cells:
        tags = cell.metadata.get("tags", [])
        starts = cell.source.startswith("from pnloc.view.notebook import start")
        if starts or {*tags} & {"parameters", "injected-parameters"}:
            cell.metadata["tags"] = [*tags, "hide-cell"]
    return page


def with_answer(page: NotebookNode) -> NotebookNode:
    """A page whose answer, what its last section says, stands under its question as well."""
    heads = [n for n, cell in enumerate(page.cells) if cell.source.strip() == "## Answer"]
    below = page.cells[heads[-1] :] if heads else []
    outputs = [out for cell in below for out in cell.get("outputs", [])]
    said = [nbformat.from_dict(out) for out in outputs if "text/markdown" in out.get("data", {})]
    if said:
        hidden = {"tags": ["remove-input"]}
        page.cells[1:1] = [
            nbformat.v4.new_markdown_cell("**Answer** (the way to it is below):", id="answer"),
            nbformat.v4.new_code_cell("# below", id="answer-said", outputs=said, metadata=hidden),
        ]
    return page


def hosted(name: str) -> list[str]:
    """Links to a notebook in its repository, on Binder and Colab; none if it is not public."""
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
    """Address of the project on GitHub, from the workflow or git's remote; '' without."""
    if os.environ.get("GITHUB_REPOSITORY"):
        return f"https://github.com/{os.environ['GITHUB_REPOSITORY']}"
    command = ["git", "config", "remote.origin.url"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    pattern = r"(?:https://|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?"
    match = re.fullmatch(pattern, done.stdout.strip())
    return f"https://github.com/{match[1]}" if match else ""
