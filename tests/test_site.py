"""The built book: complete, small, described, free of anything external or credentialed.

And what made a page.
"""

import json

import nbformat
import pytest

from book._ext import check as site
from book._ext import publish as publishing
from pnloc import access
from pnloc.errors import PnlocError

TEXT = "words " * 30
ALT = 'alt="A radiograph with one box."'


@pytest.fixture
def built(tmp_path):
    """Writes a book of one page with some HTML; returns its folder and its table of contents."""

    def write(inside="", head=""):
        (tmp_path / "html" / "_images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "html" / "_images" / "a.png").write_bytes(b"0" * 1000)
        page = f"<html><head>{head}</head><article>{TEXT}{inside}</article></html>"
        (tmp_path / "html" / "intro.html").write_text(page)
        (tmp_path / "_toc.yml").write_text("root: intro\n")
        return tmp_path / "html", tmp_path / "_toc.yml"

    return write


def test_a_page_with_described_pictures_links_and_its_own_scripts_is_good(built):
    folder, contents = built(
        f'<img src="_images/a.png" {ALT}><a href="https://example.org/x.js">x</a>'
        f'<script src="_static/a.js"></script><img src="data:image/png;base64,0" {ALT}>'
        '<script type="application/json">"https://a.org/b.js"</script>'
    )
    assert site.check(folder, contents) == folder / "intro.html"


@pytest.mark.parametrize(
    "alt", ["", 'alt=""', 'alt="figure"', 'alt="_images/6101192cd716c4af.png"']
)
def test_a_picture_without_a_text_is_named(built, alt):
    with pytest.raises(PnlocError, match=r"intro.html: figure 1 \(a.png\) has no alternative text"):
        site.check(*built(f'<img src="_images/a.png" {alt}>'))


def test_a_page_counts_with_its_pictures(built):
    folder, contents = built(f'<img src="_images/a.png" {ALT}>')
    (folder / "_images" / "a.png").write_bytes(b"0" * (site.LARGEST + 1))
    with pytest.raises(PnlocError, match="intro.html: 3.0 MB with its figures, more than 3 MB"):
        site.check(folder, contents)


@pytest.mark.parametrize(
    "head",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        '<script src="//cdn.example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
        '<link rel="preconnect" href="https://fonts.example.org">',
        f'<img src="http://example.org/a.png" {ALT}>',
        f'<img src="_images/a.png" srcset="https://example.org/a.png 2x" {ALT}>',
        '<script>const URL = "https://example.org/lib/index.js"</script>',
        '<script type="module">import("https://example.org/lib/index.mjs")</script>',
        "<style>@import 'https://example.org/a.css';</style>",
        '<p style="background: url(https://example.org/a.png)"></p>',
    ],
)
def test_external_resources_are_refused(built, head):
    with pytest.raises(PnlocError, match=r"intro.html: loads .*example.org.*needs no network"):
        site.check(*built(head=head))


def test_a_style_sheet_that_loads_an_external_font_is_refused(built):
    folder, contents = built()
    font = "@font-face { src: url('https://fonts.example.org/a.woff2') }"
    (folder / "theme.css").write_text(font)
    with pytest.raises(PnlocError, match="theme.css: loads https://fonts.example.org/a.woff2"):
        site.check(folder, contents)


def notebook(path, **output):
    cells = [nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell("x")]
    cells[1].outputs = [nbformat.v4.new_output("display_data", **output)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.mark.parametrize("place", ["_sources/pages/01_a.ipynb", "_downloads/0f/01_a.ipynb"])
def test_sources_and_downloads_of_a_built_book_are_checked_too(built, place):
    folder, _ = built()
    notebook(folder / place, data={"text/plain": "1"})
    site.check_access(folder)
    notebook(folder / place, data={"text/plain": "1"}, metadata={"pnloc": "credentialed"})
    with pytest.raises(PnlocError, match=f"{place}, cell 2: its output is marked as credentialed"):
        site.check_access(folder)


def test_a_built_page_with_a_marked_element_is_refused(built):
    with pytest.raises(PnlocError, match="intro.html: shows a credentialed element"):
        site.check_access(built(f"<div {access.MARK}>a report</div>")[0])


def test_a_pdf_without_a_browser_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(site, "MAC", tmp_path / "none")
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(PnlocError, match="needs Chromium or Chrome; .* make pdf CHROMIUM=path"):
        site.browser()
    monkeypatch.setenv("CHROMIUM", "nowhere")
    with pytest.raises(PnlocError, match="CHROMIUM=nowhere: no such program"):
        site.browser()


def test_a_browser_that_prints_nothing_is_an_error_with_its_last_words(tmp_path, monkeypatch):
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\necho out of paper >&2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CHROMIUM", str(fake))
    (tmp_path / "index.html").write_text("x")
    with pytest.raises(PnlocError, match=r"made no PDF \(out of paper\)"):
        site.pdf(tmp_path / "index.html", tmp_path / "book.pdf")


# What made a page ---------------------------------------------------------------------------------

VERSIONS = {"torch": "2.6.0", "scipy": "1"}
MADE = {"pnloc": "0.1.0", "python": "3.12.1", "commit": "0123456789abcdef+", "packages": VERSIONS}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Publishes a page with its provenance in its metadata or in run.json; returns its cells."""
    monkeypatch.setattr(publishing, "repository", lambda: "")

    def publish(made=None):
        path, target = tmp_path / "run" / "pages" / "01_a.ipynb", tmp_path / "book" / "pages"
        link = "[6: What text adds](06_b.ipynb#What-text-adds)"
        notebook(path, data={"text/markdown": link})
        own = nbformat.read(path, as_version=4)
        own.metadata.papermill = {"duration": 7.4, "parameters": {"PRESET": "smoke", "SEED": 3}}
        own.metadata.pnloc = {"made": made} if made else {}
        nbformat.write(own, path)
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        (tmp_path / "notebooks" / "01_a.ipynb").write_text("{}")
        publishing.publish(path.parent, target, tmp_path / "notebooks")
        return json.loads((target / "01_a.ipynb").read_text(encoding="utf-8"))["cells"]

    return publish


def test_a_page_names_its_run_and_versions_and_links_to_pages(page):
    title, code = page(MADE)
    facts = "".join(title["source"])
    values = ("7 s", "smoke", "seed **3**", "0123456789+", "0.1.0", "3.12.1", "torch 2.6.0")
    assert facts.startswith("# One\n") and all(value in facts for value in values)
    assert "`source notebook <../../notebooks/01_a.ipynb>`" in facts
    link = "".join(code["outputs"][0]["data"]["text/markdown"])
    assert link == "[6: What text adds](06_b.html#what-text-adds)"


def test_an_older_page_takes_versions_from_its_run(tmp_path, page):
    (tmp_path / "run").mkdir()
    record = {"preset": "demo", "seed": 0, "environments": {"x": MADE}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    source = "".join(page()[0]["source"])
    assert all(value in source for value in ("0123456789+", "smoke", "torch 2.6.0"))


def test_a_public_repository_gives_links_to_binder_and_colab(monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/pnloc")
    source, binder, colab = publishing.hosted("01_a.ipynb")
    assert "(https://github.com/someone/pnloc/blob/main/notebooks/01_a.ipynb)" in source
    assert "mybinder.org/v2/gh/someone/pnloc/main?urlpath=lab/tree/notebooks/01_a.ipynb" in binder
    assert "colab.research.google.com/github/someone/pnloc/blob/main/notebooks/01_a.ipynb" in colab
    monkeypatch.delenv("GITHUB_REPOSITORY")
    monkeypatch.setattr(publishing, "repository", lambda: "")
    assert publishing.hosted("01_a.ipynb") == []
