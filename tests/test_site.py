"""The built book: complete, small, described, free of anything external or credentialed.

And what made a page.
"""

import json
import tomllib
from pathlib import Path

import nbformat
import pytest

from book._ext import check as site
from book._ext import publish as publishing
from pnloc import access
from pnloc.errors import PnlocError

TEXT = "words " * 30
TABLES = tomllib.loads(Path(__file__).with_name("book.toml").read_text(encoding="utf-8"))
EXTERNAL = Path(__file__).with_name("external.html").read_text(encoding="utf-8").splitlines()
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


@pytest.mark.parametrize("head", EXTERNAL)
def test_external_resources_are_refused(built, head):
    with pytest.raises(PnlocError, match=r"intro.html: loads .*example.org.*needs no network"):
        site.check(*built(head=head))


def test_a_style_sheet_that_loads_an_external_font_is_refused(built):
    folder, contents = built()
    font = "@font-face { src: url('https://fonts.example.org/a.woff2') }"
    (folder / "theme.css").write_text(font)
    with pytest.raises(PnlocError, match="theme.css: loads https://fonts.example.org/a.woff2"):
        site.check(folder, contents)


@pytest.mark.parametrize(("html", "message"), TABLES["pages"].items())
def test_a_missing_an_empty_or_a_broken_page_is_refused(built, html, message):
    folder, contents = built()
    contents.write_text("root: intro\nparts:\n- chapters:\n  - sections:\n    - file: a\n")
    if html:
        (folder / "a.html").write_text(html.format(text=TEXT))
    with pytest.raises(PnlocError, match=f"a.html: {message}"):
        site.check(folder, contents)


def notebook(path, *outputs, source="x", tags=(), **metadata):
    """Write a notebook of a title and a cell of code with outputs."""
    code = {"outputs": list(outputs), "metadata": {"tags": list(tags)}}
    cells = [nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell(source, **code)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def shown(text, **data):
    return nbformat.v4.new_output("display_data", {"text/plain": text, **data})


MARKED = nbformat.from_dict(shown("a report") | {"metadata": {"pnloc": "credentialed"}})
FAILED = nbformat.v4.new_output("error", ename="KeyError", evalue="x", traceback=[])


@pytest.mark.parametrize("place", ["_sources/pages/01_a.ipynb", "_downloads/0f/01_a.ipynb"])
def test_sources_and_downloads_of_a_built_book_are_checked_too(built, place):
    folder, _ = built()
    notebook(folder / place, shown("1"))
    site.check_access(folder)
    notebook(folder / place, MARKED)
    with pytest.raises(PnlocError, match=f"{place}, cell 2: its output is marked as credentialed"):
        site.check_access(folder)


def test_a_built_page_with_a_marked_element_is_refused(built):
    with pytest.raises(PnlocError, match="intro.html: shows a credentialed element"):
        site.check_access(built(f"<div {access.MARK}>a report</div>")[0])


@pytest.mark.parametrize(("chromium", "message"), TABLES["browsers"].items())
def test_a_pdf_without_a_browser_that_prints_is_an_error(tmp_path, monkeypatch, chromium, message):
    for name, value in {"PATH": str(tmp_path), "CHROMIUM": chromium}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(site, "MAC", tmp_path / "none")
    fake = tmp_path / "fake"
    fake.write_text("#!/bin/sh\necho out of paper >&2\n")
    fake.chmod(0o755)
    with pytest.raises(PnlocError, match=message):
        site.pdf(fake, tmp_path / "book.pdf")


# Publishing --------------------------------------------------------------------------------------


def test_published_pages_hold_no_machine_path_no_bar_and_no_live_widget(tmp_path):
    widget = shown("VBox(children=())", **{publishing.WIDGET: {"model_id": "1"}})
    streams = {"stdout": "read /here/data/rsna\n", "stderr": "\r 10%|#   | 1/10 [00:01<00:09]"}
    run = {"parameters": {"DATA": "/here/data"}, "input_path": "/here"}
    notebook(
        tmp_path / "pages" / "01_a.ipynb",
        widget,
        *(nbformat.v4.new_output("stream", name=name, text=text) for name, text in streams.items()),
        source='DATA = "/here/data"',
        tags=["injected-parameters"],
        papermill=run,
        widgets={"a": 1},
    )
    publishing.publish(tmp_path / "pages", tmp_path / "book")
    text = (tmp_path / "book" / "01_a.ipynb").read_text()
    assert "/here" not in text and "widget" not in text and "10%" not in text
    cell = nbformat.reads(text, as_version=4).cells[1]
    texts = [o.get("text", o.get("data", {}).get("text/plain")) for o in cell.outputs]
    assert texts == [publishing.NO_KERNEL.strip("*"), "read data/rsna\n"]
    assert cell.source == 'DATA = "data"'


def test_a_page_shows_the_parameters_that_were_used_and_not_the_defaults_above_them():
    own = nbformat.v4.new_notebook()
    tags = ("parameters", "injected-parameters")
    own.cells = [nbformat.v4.new_code_cell("SEED = 1", metadata={"tags": [tag]}) for tag in tags]
    defaults, _ = publishing.clean(own).cells
    assert "remove-cell" in defaults.metadata["tags"]
    own.cells.pop()
    assert publishing.clean(own).cells[0].metadata["tags"] == ["parameters"]
    assert publishing.folded(own).cells[0].metadata["tags"] == ["parameters", "hide-cell"]


def test_a_page_says_its_answer_under_its_question_and_once_more_at_its_end():
    said, cells = shown("7", **{"text/markdown": "**7**"}), nbformat.v4
    own = [cells.new_markdown_cell(text) for text in ("# One", "## Way", "## Answer")]
    page = cells.new_notebook(cells=[*own, cells.new_code_cell("x", outputs=[said, shown("8")])])
    answered = publishing.with_answer(nbformat.from_dict(page)).cells
    assert [c.source for c in answered[:1] + answered[3:]] == [c.source for c in page.cells]
    assert answered[2].outputs == [said] and "remove-input" in answered[2].metadata["tags"]
    assert publishing.with_answer(cells.new_notebook(cells=own[:2])).cells == own[:2]


def test_publishing_again_touches_nothing_and_removes_what_is_gone(tmp_path):
    for name in ("01_a", "02_b"):
        notebook(tmp_path / "pages" / f"{name}.ipynb")
    publishing.publish(tmp_path / "pages", tmp_path / "book")
    before = (tmp_path / "book" / "01_a.ipynb").stat().st_mtime_ns
    (tmp_path / "pages" / "02_b.ipynb").unlink()
    publishing.publish(tmp_path / "pages", tmp_path / "book")
    (left,) = (tmp_path / "book").iterdir()
    assert (left.name, left.stat().st_mtime_ns) == ("01_a.ipynb", before)


@pytest.mark.parametrize(
    ("outputs", "metadata", "message"),
    [
        ([MARKED], {}, "02_b.ipynb, cell 2: its output is marked as credentialed"),
        ([], {"pnloc": {"credentialed": True}}, "02_b.ipynb: marked as credentialed"),
        ([FAILED], {}, "02_b.ipynb, cell 2: holds a stored error"),
    ],
)
def test_nothing_is_published_beside_a_credentialed_or_a_failed_page(
    tmp_path, outputs, metadata, message
):
    notebook(tmp_path / "pages" / "01_a.ipynb")
    notebook(tmp_path / "pages" / "02_b.ipynb", *outputs, **metadata)
    with pytest.raises(PnlocError, match=message):
        publishing.publish(tmp_path / "pages", tmp_path / "book")
    assert not (tmp_path / "book").exists()


# What made a page ---------------------------------------------------------------------------------

VERSIONS = {"torch": "2.6.0", "scipy": "1"}
MADE = {"pnloc": "0.1.0", "python": "3.12.1", "commit": "0123456789abcdef+", "packages": VERSIONS}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Publishes a page with its provenance in its metadata or in run.json; returns its cells."""
    monkeypatch.setattr(publishing, "repository", lambda: "")

    def publish(made=None):
        path, target = tmp_path / "run" / "pages" / "01_a.ipynb", tmp_path / "book" / "pages"
        link = shown("", **{"text/markdown": "[6: What text adds](06_b.ipynb#What-text-adds)"})
        run = {"duration": 7.4, "parameters": {"PRESET": "smoke", "SEED": 3}}
        notebook(path, link, papermill=run, pnloc={"made": made} if made else {})
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


def test_a_page_links_to_its_public_notebook_and_to_where_it_runs(page, monkeypatch):
    monkeypatch.setattr(publishing, "repository", lambda: "https://github.com/someone/pnloc")
    facts = "".join(page(MADE)[0]["source"])
    for place in ("https://github.com", "mybinder.org/v2/gh", "colab.research.google.com/github"):
        assert f"{place}/someone/pnloc" in facts
