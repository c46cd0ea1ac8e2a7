"""The built book: one that a reader could not use, or must not see, is refused; and it is printed.

`check` looks at every page: it is there, has text and no traceback, is small enough, describes its figures in words, and loads nothing
from elsewhere. `check_access` looks for credentialed data. As a command, after `jupyter-book build book`:
`python -m book._ext.check [check | publish RUN_DIR | pdf]`.
"""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from book._ext.publish import ROOT, Secret, refuse
from pnloc import access
from pnloc.errors import PnlocError
from pnloc.files import read_text

try:
    import nbformat
    import yaml
except ModuleNotFoundError as error:
    raise PnlocError(
        f"the book needs {error.name}: pip install 'pnloc[notebooks]', or make env"
    ) from None

BUILD, CONTENTS = ROOT / "_build", ROOT / "book" / "_toc.yml"
HTML = BUILD / "html"
LARGEST = 3_000_000  # bytes of a page with its pictures
SHORTEST = 15  # characters of an alternative text that says something
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}
LINKED = {
    "stylesheet",
    "preload",
    "modulepreload",
    "icon",
    "shortcut icon",
    "manifest",
    "prefetch",
    "preconnect",
    "dns-prefetch",
}
ELSEWHERE = re.compile(r"(?:https?:)?//", re.I)
CODE = re.compile(
    r"""["'`(](?:https?:)?//[^"'`)\s]+\.(?:m?js|css|woff2?|ttf|otf)\b""", re.I
)  # as a script or a style would load it
STYLE = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""", re.I)
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def toc(path: Path) -> list[str]:
    """The pages of a table of contents, in its order, without suffixes."""

    def files(node: object) -> list[str]:
        if isinstance(node, list):
            return [name for item in node for name in files(item)]
        if isinstance(node, dict):
            own = [node[k] for k in ("root", "file") if k in node]
            return own + [
                name for k in ("parts", "chapters", "sections") for name in files(node.get(k, []))
            ]
        return []

    return files(yaml.safe_load(path.read_text(encoding="utf-8")))


class _Page(HTMLParser):
    """What a page shows and loads: its pictures with their texts, addresses that it loads from, its scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.pictures: list[tuple[str, str]] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given.get("id", ""), given.get("name", "")}
        if tag == "a":
            self.links.append(given.get("href", ""))
        if tag == "img":
            self.pictures.append((given.get("src", ""), given.get("alt", "")))
        if tag in LOADS and given.get(LOADS[tag]):
            self.loads.append(given[LOADS[tag]])
        if tag == "link" and given.get("rel", "").lower() in LINKED:
            self.loads.append(given.get("href", ""))
        self.loads += [
            part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()
        ]
        self.code["style"].append(given.get("style", ""))
        data = tag == "script" and given.get("type", "text/javascript") not in (
            "",
            "module",
            "text/javascript",
        )
        self._inside = tag if tag in self.code and not data else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.code[self._inside].append(data)


def check(build: Path, contents: Path) -> Path:
    """Refuse a book that a reader could not use; return its first page.

    `build` is the folder of the HTML. Raises PnlocError for the first page of the table of contents that is missing, empty, broken or
    larger than LARGEST, shows a bare object of IPython, has a picture that is missing or without an alternative text, loads anything
    from another site, or links to a page or a section that is not there.
    """
    names, pages = toc(contents), {}
    for name in names:
        path = build / f"{name}.html"
        if not path.exists():
            raise PnlocError(f"{path}: the book was built without this page")
        html = path.read_text(encoding="utf-8")
        article = re.search(r"<article\b.*?</article>", html, re.S)
        if not article or len(re.sub(r"<[^>]+>|\s", "", article[0])) < 80:
            raise PnlocError(f"{path}: the page is empty")
        if re.search(
            r'class="output traceback|Traceback \(most recent call last\)|papermill-error-cell',
            html,
        ):
            raise PnlocError(f"{path}: the page holds the traceback of a cell that failed")
        if "&lt;IPython.core.display." in html:
            raise PnlocError(
                f"{path}: the page shows an empty text as the name of its class; let the cell end with None instead"
            )
        page = pages[path.resolve()] = _Page(html)
        _check_pictures(path, page, len(html.encode()))
        _check_loads(path, page.loads, page.code["script"], page.code["style"])
    _check_links(pages)
    for path in sorted(
        set(build.glob("*.html")) - {build / f"{name}.html" for name in names}
    ):  # search and index
        page = _Page(path.read_text(encoding="utf-8"))
        _check_loads(path, page.loads, page.code["script"], page.code["style"])
    for path in sorted(build.rglob("*.css")):
        _check_loads(path, [], [], [path.read_text(encoding="utf-8", errors="replace")])
    return build / f"{names[0]}.html"


def _check_pictures(path: Path, page: _Page, size: int) -> None:
    for number, (source, alt) in enumerate(page.pictures, start=1):
        if len(alt.strip()) < SHORTEST or Path(alt).suffix in (".png", ".svg", ".jpg", ".jpeg"):
            told = "has no text for those who cannot see it; notebooks get one from pnloc.view.notebook.start, pages from :alt:"
            raise PnlocError(f"{path}: figure {number} ({Path(source[:80]).name}) {told}")
        if not ELSEWHERE.match(source) and not source.startswith("data:"):
            file = path.parent / unquote(urlsplit(source).path)
            if not file.exists():
                raise PnlocError(f"{path}: figure {number} ({source}) is missing")
            size += file.stat().st_size
    if size > LARGEST:
        told = "draw fewer or smaller figures"
        raise PnlocError(
            f"{path}: {size / 1e6:.1f} MB with its figures, more than {LARGEST / 1e6:.0f} MB; {told}"
        )


def _check_links(pages: dict[Path, _Page]) -> None:
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            known = pages.get(target)
            if not target.exists() or (known and unquote(address.fragment) not in known.places):
                raise PnlocError(f"{path}: links to {link}, which is not there")


def _check_loads(path: Path, loads: list[str], scripts: list[str], styles: list[str]) -> None:
    found = [address for address in loads if ELSEWHERE.match(address)]
    found += [match[0].strip("\"'`(") for script in scripts for match in CODE.finditer(script)]
    found += [match[1] for style in styles for match in STYLE.finditer(style)]
    if found:
        raise PnlocError(
            f"{path}: loads {found[0]}; the book needs no network, so bring it along in book/_static"
        )


def check_access(build: Path, run: Path | None = None) -> None:
    """Refuse a built book with anything credentialed, in its pages or in their sources; PnlocError names page and cell.

    `run` is the folder of the run that made its notebooks' pages; with it, names and report texts of its credentialed sets are looked
    for, too.
    """
    secret = Secret.of(run) if run else Secret()
    sources = sorted((build / "_sources").rglob("*.ipynb")) + sorted(
        (build / "_downloads").rglob("*.ipynb")
    )
    refuse({str(p.relative_to(build)): nbformat.read(p, as_version=4) for p in sources}, secret)
    pages = {str(p.relative_to(build)): read_text(p) for p in sorted(build.rglob("*.html"))}
    for name, html in pages.items():
        if access.MARK in html:
            raise PnlocError(
                f"{name}: shows an element that is marked as credentialed; do not publish it"
            )
    secret.refuse(pages)


# As one file ----------------------------------------------------------------------------------------------


def browser() -> str:
    """The Chromium or Chrome of this machine: what CHROMIUM names, else what is found."""
    named = os.environ.get("CHROMIUM", "")
    found = (
        shutil.which(named)
        if named
        else next(filter(None, map(shutil.which, BROWSERS)), MAC if MAC.exists() else None)
    )
    if not found:
        told = (
            f"CHROMIUM={named}: no such program"
            if named
            else "the PDF needs Chromium or Chrome, and neither is here"
        )
        raise PnlocError(
            f"{told}; install one (Debian: apt install chromium), or name it: make pdf CHROMIUM=path"
        )
    return str(found)


def pdf(page: Path, target: Path) -> Path:
    """Print the whole book as one HTML page (Sphinx's singlehtml) into a PDF; return the PDF."""
    if not page.exists():
        raise PnlocError(f"{page}: no such page; make pdf builds it")
    with TemporaryDirectory() as profile:
        command = [
            browser(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--no-pdf-header-footer",
            "--virtual-time-budget=60000",
            f"--print-to-pdf={target}",
            page.as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            told = (done.stderr.strip().splitlines() or ["no message"])[-1]
        except subprocess.TimeoutExpired:
            told = "no answer within five minutes"
    if not target.exists() or target.read_bytes()[:5] != b"%PDF-":
        raise PnlocError(f"{target}: {command[0]} made no PDF ({told})")
    return target


def main(arguments: list[str] | None = None) -> int:
    """Check the built book, or what else is asked for, and say where it is, as the last line."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["pdf"]:
            print(
                "The book as a PDF: "
                + pdf(
                    BUILD / "singlehtml" / f"{toc(CONTENTS)[0]}.html", BUILD / "pnloc.pdf"
                ).as_uri()
            )
            return 0
        check(HTML, CONTENTS)
        check_access(HTML, Path(given[1]) if given[:1] == ["publish"] and len(given) > 1 else None)
    except PnlocError as error:
        print(f"pnloc: {error}", file=sys.stderr)
        return 1
    if given[:1] == ["publish"]:
        print(f"Nothing credentialed in it, and it needs no network. To publish: {HTML}")
    else:
        print("The book: " + (HTML / "index.html").as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
