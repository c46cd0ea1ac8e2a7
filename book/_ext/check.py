"""Check the built HTML: size, alternative texts, external loads, access; print it as a PDF.

As a command, after `jupyter-book build book`: `python -m book._ext.check [check | publish RUN |
pdf]`. Sphinx itself checks links and missing pictures (`-n -W`).
"""

import os
import re
import shutil
import subprocess
import sys
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
    from bs4 import BeautifulSoup
except ModuleNotFoundError as error:
    raise PnlocError(
        f"the book needs {error.name}: pip install 'pnloc[notebooks]', or make env"
    ) from None

BUILD, CONTENTS = ROOT / "_build", ROOT / "book" / "_toc.yml"
HTML = BUILD / "html"
LARGEST = 3_000_000  # bytes of a page with its pictures
SHORTEST = 15  # characters of an alternative text that says something
LINKED = [
    "stylesheet",
    "preload",
    "modulepreload",
    "icon",
    "manifest",
    "prefetch",
    "preconnect",
    "dns-prefetch",
]
SCRIPTS = ("", "module", "text/javascript")  # types of a script that runs
EXTERNAL = re.compile(r"(?:https?:)?//", re.I)
# An address as a script or a style would load it.
CODE = re.compile(r"""["'`(]((?:https?:)?//[^"'`)\s]+\.(?:m?js|css|woff2?|ttf|otf)\b)""", re.I)
STYLE = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""", re.I)
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def toc(path: Path) -> list[str]:
    """The pages of a table of contents, in its order, without suffixes."""

    def files(node: object) -> list[str]:
        if isinstance(node, list):
            return [name for item in node for name in files(item)]
        own = [node[key] for key in ("root", "file") if key in node]
        inner = [node[key] for key in ("parts", "chapters", "sections") if key in node]
        return own + files(inner)

    return files(yaml.safe_load(path.read_text(encoding="utf-8")))


def check(build: Path, contents: Path) -> Path:
    """Check the folder of the HTML against the table of contents; return its first page.

    Raises PnlocError for the first page that is missing, empty, broken, larger than LARGEST, has a
    picture without an alternative text, or loads anything from another site.
    """
    names = toc(contents)
    for name in names:
        path = build / f"{name}.html"
        if not path.exists():
            raise PnlocError(f"{path}: the book was built without this page")
        html = path.read_text(encoding="utf-8")
        page = BeautifulSoup(html, "html.parser")
        if not page.article or len("".join(page.article.get_text().split())) < 80:
            raise PnlocError(f"{path}: the page is empty")
        if re.search(r'class="output traceback|Traceback \(most|papermill-error-cell', html):
            raise PnlocError(f"{path}: the page holds the traceback of a cell that failed")
        _check_pictures(path, page)
    for path in sorted(build.rglob("*.html")):
        _check_loads(path, *_loads(BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")))
    for path in sorted(build.rglob("*.css")):
        _check_loads(path, *STYLE.findall(path.read_text(encoding="utf-8", errors="replace")))
    return build / f"{names[0]}.html"


def _check_pictures(path: Path, page: BeautifulSoup) -> None:
    size = path.stat().st_size
    for number, picture in enumerate(page("img"), start=1):
        source, alt = picture.get("src", ""), picture.get("alt", "").strip()
        if len(alt) < SHORTEST or Path(alt).suffix in (".png", ".svg", ".jpg", ".jpeg"):
            name = f"{path}: figure {number} ({Path(source[:80]).name})"
            raise PnlocError(f"{name} has no alternative text: set mystnb.image.alt of its cell")
        file = path.parent / unquote(urlsplit(source).path) if source[:5] != "data:" else path
        size += file.stat().st_size if file != path and file.exists() else 0
    if size > LARGEST:
        limit = f"more than {LARGEST / 1e6:.0f} MB; draw fewer or smaller figures"
        raise PnlocError(f"{path}: {size / 1e6:.1f} MB with its figures, {limit}")


def _loads(page: BeautifulSoup) -> list[str]:
    """External addresses that a page loads by itself."""
    links = [link.get("href", "") for link in page("link") if {*link.get("rel", [])} & {*LINKED}]
    sources = [tag["src"] for tag in page(src=True)] + [tag["data"] for tag in page(data=True)]
    sources += [
        part.split()[0]
        for tag in page(srcset=True)
        for part in tag["srcset"].split(",")
        if part.strip()
    ]
    styles = [tag["style"] for tag in page(style=True)] + [tag.text for tag in page("style")]
    scripts = [tag.text for tag in page("script") if tag.get("type", "") in SCRIPTS]
    loads = [address for address in (*links, *sources) if EXTERNAL.match(address)]
    loads += [address for text in scripts for address in CODE.findall(text)]
    return loads + [address for text in styles for address in STYLE.findall(text)]


def _check_loads(path: Path, *loads: str) -> None:
    if loads:
        hint = "the book needs no network, so bring it along in book/_static"
        raise PnlocError(f"{path}: loads {loads[0]}; {hint}")


def check_access(build: Path, run: Path | None = None) -> None:
    """Refuse a built book with anything credentialed in its pages or sources.

    PnlocError names page and cell. `run` is the folder of the run that made the notebooks' pages;
    with it, names and report texts of its credentialed sets are looked for, too.
    """
    secret = Secret.of(run) if run else Secret()
    folders = (build / "_sources", build / "_downloads")
    sources = [path for folder in folders for path in sorted(folder.rglob("*.ipynb"))]
    refuse({str(p.relative_to(build)): nbformat.read(p, as_version=4) for p in sources}, secret)
    pages = {str(p.relative_to(build)): read_text(p) for p in sorted(build.rglob("*.html"))}
    for name, html in pages.items():
        if access.MARK in html:
            raise PnlocError(f"{name}: shows a credentialed element; do not publish it")
    secret.refuse(pages)


# As one file ------------------------------------------------------------------------------------


def browser() -> str:
    """The Chromium or Chrome of this machine: the one that CHROMIUM names, else any."""
    named = os.environ.get("CHROMIUM", "")
    paths = [*map(shutil.which, [named] if named else BROWSERS), MAC if MAC.exists() else None]
    path = next(filter(None, paths[:1] if named else paths), None)
    if path is None:
        missing = (
            f"CHROMIUM={named}: no such program" if named else "the PDF needs Chromium or Chrome"
        )
        hint = "install one (Debian: apt install chromium), or name it: make pdf CHROMIUM=path"
        raise PnlocError(f"{missing}; {hint}")
    return str(path)


def pdf(page: Path, target: Path) -> Path:
    """Print the whole book as one HTML page (Sphinx's singlehtml) into a PDF; return the PDF."""
    if not page.exists():
        raise PnlocError(f"{page}: no such page; make pdf builds it")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    with TemporaryDirectory() as profile:
        places = [f"--user-data-dir={profile}", f"--print-to-pdf={target}", page.as_uri()]
        command = [browser(), *options, "--virtual-time-budget=60000", *places]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        except subprocess.TimeoutExpired:
            reason = "no answer within five minutes"
    if not target.exists() or target.read_bytes()[:5] != b"%PDF-":
        raise PnlocError(f"{target}: {command[0]} made no PDF ({reason})")
    return target


def main(arguments: list[str] | None = None) -> int:
    """Check the built book, or print it; the last line of the output says where it is."""
    what, *rest = (sys.argv[1:] if arguments is None else arguments) or ["check"]
    try:
        if what == "pdf":
            page = BUILD / "singlehtml" / f"{toc(CONTENTS)[0]}.html"
            print("The book as a PDF: " + pdf(page, BUILD / "pnloc.pdf").as_uri())
            return 0
        check(HTML, CONTENTS)
        check_access(HTML, Path(rest[0]) if what == "publish" and rest else None)
    except PnlocError as error:
        print(f"pnloc: {error}", file=sys.stderr)
        return 1
    if what == "publish":
        print(f"Nothing credentialed in it, and it needs no network. To publish: {HTML}")
    else:
        print("The book: " + (HTML / "index.html").as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
