"""What every notebook calls first, how notebooks become pages, and how pages become the book."""

import os
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import psutil
import pytest

import pnloc
from book._ext import check as site
from book._ext import publish as publishing
from book._ext import run as book
from pnloc.errors import PnlocError
from pnloc.view.notebook import PARAMETERS_CELL, cores, start

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PARAMETERS = {"PRESET": "smoke", "DATA": "", "SEED": 3, "ARTIFACTS": ""}


@pytest.fixture
def opened(monkeypatch):
    """A stand-in for pnloc.run.run that records what `start` opens."""
    calls = []
    stages = SimpleNamespace(open_run=lambda *given: calls.append(given) or "the run")
    monkeypatch.setitem(sys.modules, "pnloc.run.run", stages)
    monkeypatch.setattr(pnloc, "stages", stages, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return calls


def fresh(**names):
    return {
        **PARAMETERS,
        "__name__": "__main__",
        "_ih": [""],
        "In": [""],
        "Out": {},
        "exit": None,
        "os": os,
        **names,
    }


def test_start_opens_the_run_that_the_parameters_name(opened):
    assert start(fresh()) == "the run"
    assert opened == [("smoke", "", 3, "")]


def test_a_misspelt_parameter_is_refused_with_a_suggestion(opened):
    with pytest.raises(PnlocError, match=r"^unknown parameter PRSET; .*\(did you mean PRESET\?\)$"):
        start(fresh(PRSET="smoke"))
    assert opened == []


def test_cells_can_be_run_again_by_hand_with_variables_of_their_own(opened):
    namespace = fresh()
    start(namespace)
    namespace["count"] = 7
    start(namespace)
    assert len(opened) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("SEED", "1"), ("SEED", True), ("SEED", -1), ("PRESET", 3), ("DATA", None)]
)
def test_a_parameter_of_the_wrong_kind_is_named(opened, name, value):
    with pytest.raises(PnlocError, match=f"^{name} is "):
        start(fresh(**{name: value}))


def test_a_notebook_whose_parameters_cell_was_not_run_says_so(opened):
    namespace = fresh()
    del namespace["SEED"]
    with pytest.raises(PnlocError, match="SEED not set; run the notebook's parameters cell"):
        start(namespace)


def test_there_is_at_least_one_core_and_no_more_than_the_machine_has():
    assert 1 <= cores() <= os.cpu_count()


# Running --------------------------------------------------------------------------------------------------


def write(folder, name, *cells, parameters=PARAMETERS_CELL):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL})
    notebook.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def texts(page):
    notebook = nbformat.read(page, as_version=4)
    return "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "notebooks", tmp_path / "pages"


def test_pages_come_from_this_python_with_the_parameters_given(folders, tmp_path, monkeypatch):
    decoy = tmp_path / "kernels" / "python3"
    decoy.mkdir(parents=True)
    (decoy / "kernel.json").write_text(
        '{"argv": ["/nowhere/python"], "display_name": "x", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    write(folders[0], "01_a", "import sys; print(sys.executable, PRESET, SEED + 1)")
    assert book.execute(*folders, PARAMETERS) == ["01_a"]
    assert texts(folders[1] / "01_a.ipynb").split() == [sys.executable, "smoke", "4"]


def test_only_what_changed_and_what_follows_it_runs_again(folders):
    for name in ("01_a", "02_b", "03_c"):
        write(folders[0], name, "print(PRESET)")
    assert book.execute(*folders, PARAMETERS) == ["01_a", "02_b", "03_c"]
    assert book.execute(*folders, PARAMETERS) == []
    write(folders[0], "02_b", "print(PRESET, 'changed')")
    assert book.execute(*folders, PARAMETERS) == ["02_b", "03_c"]
    (folders[0] / "01_a.ipynb").unlink()
    book.execute(*folders, {**PARAMETERS, "SEED": 4})
    assert sorted(p.name for p in folders[1].iterdir()) == ["02_b.ipynb", "03_c.ipynb"]


def test_a_changed_data_folder_makes_every_page_old(folders, tmp_path):
    (tmp_path / "data" / "a-set").mkdir(parents=True)
    given = {**PARAMETERS, "DATA": str(tmp_path / "data")}
    write(folders[0], "01_a", "1")
    assert book.execute(*folders, given) == ["01_a"]
    (tmp_path / "data" / "a-set" / "labels.csv").write_text("x\n")
    assert book.execute(*folders, given) == ["01_a"]


def test_changed_kept_tables_make_every_page_old(tmp_path, monkeypatch):
    """Notebook 9 shows them."""
    kept = tmp_path / "book" / "results" / "public"
    kept.mkdir(parents=True)
    monkeypatch.setattr(book, "ROOT", tmp_path)
    before = book.package_digest()
    (kept / "localization.csv").write_text("x\n")
    after = book.package_digest()
    (kept / "localization.csv").write_text("y\n")
    assert len({before, after, book.package_digest()}) == 3


def test_a_notebook_that_fails_leaves_no_page_and_one_line(folders, tmp_path):
    write(folders[0], "01_a", "1")
    write(folders[0], "02_b", "2")
    book.execute(*folders, PARAMETERS)
    published = tmp_path / "published"
    publishing.publish(folders[1], published)
    write(folders[0], "02_b", "def inner():\n    raise ValueError('seven\\nlines')", "inner()")
    with pytest.raises(PnlocError, match=r"^02_b.ipynb: cell \d+: ValueError: seven$"):
        book.execute(*folders, PARAMETERS, published)
    assert [p.name for p in folders[1].iterdir()] == ["01_a.ipynb"]
    assert [p.name for p in published.iterdir()] == ["01_a.ipynb"]


def test_a_users_error_in_a_notebook_is_passed_on_as_it_is(folders):
    write(
        folders[0],
        "01_a",
        "from pnloc.errors import PnlocError\nraise PnlocError('labels.csv: lacks the column x')",
    )
    with pytest.raises(PnlocError, match=r"^01_a.ipynb: labels.csv: lacks the column x$"):
        book.execute(*folders, PARAMETERS)


def test_a_kernel_that_dies_is_an_error_of_one_line(folders):
    write(folders[0], "01_a", "import os; os._exit(1)")
    with pytest.raises(PnlocError, match=r"^01_a.ipynb: the kernel did not finish"):
        book.execute(*folders, PARAMETERS)


def test_the_next_kernel_is_ready_before_its_notebook_and_ends_when_that_never_comes(
    folders, tmp_path
):
    mark = tmp_path / "running"
    waits = (
        f"import pathlib, psutil, time; mark = pathlib.Path({str(mark)!r}); mine = psutil.Process()",
        "for _ in range(600):\n    others = [p for p in mine.parent().children() if p.pid != mine.pid and 'ipykernel' in str(p.cmdline())]\n"
        "    if others: break\n    time.sleep(0.1)",
        "mark.write_text(str(others[0].pid)); assert False",
    )
    write(folders[0], "01_a", *waits)
    write(folders[0], "02_b", "1")
    with pytest.raises(PnlocError, match=r"^01_a.ipynb: cell \d+: AssertionError"):
        book.execute(*folders, PARAMETERS)
    assert not psutil.pid_exists(int(mark.read_text())), (
        "a kernel outlives the notebooks it was started for"
    )


def test_a_kernel_has_imported_the_package_before_its_notebook_asks(folders):
    code = "import sys; print('pnloc.run.run' in sys.modules, 'pnloc' in globals())"
    write(folders[0], "01_a", code + "  # pnloc.view.notebook")
    write(folders[0], "02_b", code)
    book.execute(*folders, PARAMETERS)
    assert texts(folders[1] / "01_a.ipynb").split() == ["True", "False"]
    assert texts(folders[1] / "02_b.ipynb").split() == ["False", "False"], (
        "only notebooks of this project need it"
    )


def test_parameters_that_a_notebook_lacks_are_refused_before_anything_runs(folders):
    write(folders[0], "01_a", "1")
    write(folders[0], "02_b", "1", parameters='PRESET = "demo"')
    with pytest.raises(PnlocError, match="did you mean SEED"):
        book.execute(*folders, {**PARAMETERS, "SEDE": 1})
    with pytest.raises(PnlocError, match="02_b.ipynb: has no parameter DATA"):
        book.execute(*folders, PARAMETERS)
    assert not folders[1].exists()


# Publishing -----------------------------------------------------------------------------------------------


def page(folder, name, *outputs, source="x", metadata=None, tags=()):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL, **(metadata or {})})
    notebook.cells = [
        nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})
    ]
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")


def test_published_pages_hold_no_machine_path_no_bar_and_no_live_widget(tmp_path):
    widget = {publishing.WIDGET: {"model_id": "1"}, "text/plain": "VBox(children=())"}
    bar = {
        publishing.WIDGET: {"model_id": "2"},
        "text/plain": "detector:   0%|          | 0/14 [00:00<?, ?epoch/s]",
    }
    page(
        tmp_path / "pages",
        "01_a",
        nbformat.v4.new_output("display_data", bar),
        nbformat.v4.new_output("display_data", widget),
        nbformat.v4.new_output("stream", name="stdout", text="read /here/it/is/data/rsna\n"),
        nbformat.v4.new_output(
            "stream", name="stderr", text="\r 10%|#   | 1/10 [00:01<00:09, 1.0it/s]"
        ),
        source='DATA = "/here/it/is/data"',
        metadata={
            "papermill": {"parameters": {"DATA": "/here/it/is/data"}, "input_path": "/here"},
            "widgets": {"a": 1},
        },
        tags=["injected-parameters"],
    )
    publishing.publish(tmp_path / "pages", tmp_path / "book")
    text = (tmp_path / "book" / "01_a.ipynb").read_text()
    assert "/here" not in text and "widget" not in text and "10%" not in text
    cell = nbformat.read(tmp_path / "book" / "01_a.ipynb", as_version=4).cells[0]
    assert cell.source == 'DATA = "data"'
    assert [o.get("text", o.get("data", {}).get("text/plain")) for o in cell.outputs] == [
        publishing.NO_KERNEL.strip("*"),
        "read data/rsna\n",
    ]


def test_a_page_shows_the_parameters_that_were_used_and_not_the_defaults_above_them(tmp_path):
    for name, injected in (("01_a", True), ("02_b", False)):
        notebook = nbformat.v4.new_notebook()
        tags = ["parameters", *(["injected-parameters"] if injected else [])]
        notebook.cells = [
            nbformat.v4.new_code_cell(f"SEED = {i}", metadata={"tags": [t]})
            for i, t in enumerate(tags)
        ]
        (tmp_path / "pages").mkdir(exist_ok=True)
        nbformat.write(notebook, tmp_path / "pages" / f"{name}.ipynb")
    publishing.publish(tmp_path / "pages", tmp_path / "book")
    published = [
        nbformat.read(tmp_path / "book" / f"{n}.ipynb", as_version=4).cells
        for n in ("01_a", "02_b")
    ]
    assert [c.metadata["tags"] for c in published[0]] == [
        ["parameters", "remove-cell"],
        ["injected-parameters"],
    ]
    assert [c.metadata["tags"] for c in published[1]] == [["parameters"]]


def test_publishing_again_touches_nothing_and_removes_what_is_gone(tmp_path):
    for name in ("01_a", "02_b"):
        page(tmp_path / "pages", name)
    publishing.publish(tmp_path / "pages", tmp_path / "book")
    before = (tmp_path / "book" / "01_a.ipynb").stat().st_mtime_ns
    (tmp_path / "pages" / "02_b.ipynb").unlink()
    publishing.publish(tmp_path / "pages", tmp_path / "book")
    assert [(p.name, p.stat().st_mtime_ns) for p in (tmp_path / "book").iterdir()] == [
        ("01_a.ipynb", before)
    ]


def test_nothing_is_published_where_anything_is_marked_as_credentialed(tmp_path):
    page(tmp_path / "pages", "01_a")
    output = nbformat.v4.new_output(
        "display_data", {"text/plain": "a report"}, metadata={"pnloc": "credentialed"}
    )
    page(tmp_path / "pages", "02_b", output)
    with pytest.raises(
        PnlocError, match="02_b.ipynb, cell 1: its output is marked as credentialed"
    ):
        publishing.publish(tmp_path / "pages", tmp_path / "book")
    page(tmp_path / "pages", "02_b", metadata={"pnloc": {"credentialed": True}})
    with pytest.raises(PnlocError, match="02_b.ipynb: marked as credentialed"):
        publishing.publish(tmp_path / "pages", tmp_path / "book")
    assert not (tmp_path / "book").exists()


def test_a_page_with_a_stored_error_is_not_published(tmp_path):
    page(
        tmp_path / "pages",
        "01_a",
        nbformat.v4.new_output("error", ename="KeyError", evalue="x", traceback=[]),
    )
    with pytest.raises(PnlocError, match="01_a.ipynb, cell 1: holds a stored error"):
        publishing.publish(tmp_path / "pages", tmp_path / "book")


# Checking -------------------------------------------------------------------------------------------------


def test_the_table_of_contents_is_read_in_order(tmp_path):
    (tmp_path / "_toc.yml").write_text(
        "root: intro\nparts:\n- chapters:\n  - file: a\n    sections:\n    - file: b\n  - file: pages/c\n"
    )
    assert site.toc(tmp_path / "_toc.yml") == ["intro", "a", "b", "pages/c"]


def test_a_book_with_a_missing_an_empty_or_a_broken_page_is_refused(tmp_path):
    contents = tmp_path / "_toc.yml"
    contents.write_text("root: intro\nchapters:\n- file: pages/a\n")
    full = "<article>" + "words " * 30 + "</article>"
    (tmp_path / "intro.html").write_text(full)
    with pytest.raises(PnlocError, match="a.html: the book was built without this page"):
        site.check(tmp_path, contents)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.html").write_text("<article><h1>Title</h1></article>")
    with pytest.raises(PnlocError, match="a.html: the page is empty"):
        site.check(tmp_path, contents)
    (tmp_path / "pages" / "a.html").write_text(
        full + '<div class="output traceback highlight">KeyError</div>'
    )
    with pytest.raises(PnlocError, match="a.html: the page holds the traceback"):
        site.check(tmp_path, contents)
    (tmp_path / "pages" / "a.html").write_text(full)
    assert site.check(tmp_path, contents) == tmp_path / "intro.html"


def test_an_error_in_a_kernel_is_shown_as_one_line():
    code = "from IPython.core.interactiveshell import InteractiveShell as S; S.instance().run_cell("
    code += "\"from pnloc.errors import PnlocError; raise PnlocError('what; what to do')\")"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout + done.stderr).strip() == "PnlocError: what; what to do"
