"""The first call of every notebook, and how notebooks become pages."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import psutil
import pytest
from test_project import PARAMETERS_CELL

from book._ext import run as book
from pnloc.errors import PnlocError
from pnloc.view import notebook
from pnloc.view.notebook import start

TABLES = tomllib.loads(Path(__file__).with_name("book.toml").read_text(encoding="utf-8"))
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PARAMETERS = {"PRESET": "smoke", "DATA": "", "SEED": 3, "ARTIFACTS": ""}


@pytest.fixture
def opened(monkeypatch):
    """The runs that `start` opens, by their arguments."""
    calls = []
    monkeypatch.setattr(notebook.runs, "open_run", lambda *own: calls.append(own) or "the run")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return calls


def fresh(**names):
    """The globals of a notebook after its parameters cell."""
    kernel = {"__name__": "__main__", "_ih": [""], "In": [""], "Out": {}, "exit": exit, "os": os}
    return {**PARAMETERS, **kernel, **names}


def test_start_opens_the_run_that_the_parameters_name_and_cells_can_be_run_again(opened):
    namespace = fresh()
    assert start(namespace) == "the run"
    namespace["count"] = 7
    start(namespace)
    assert opened == [("smoke", "", 3, "")] * 2


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        (fresh(PRSET="smoke"), r"^unknown parameter PRSET; .*\(did you mean PRESET\?\)$"),
        (fresh(SEED=True), "^SEED is a whole number"),
        (fresh(SEED=-1), "^SEED is "),
        (fresh(DATA=None), "^DATA is text"),
        ({"PRESET": "smoke"}, "SEED, ARTIFACTS not set; run the notebook's parameters cell"),
    ],
)
def test_an_unknown_missing_or_ill_typed_parameter_is_named(opened, namespace, message):
    with pytest.raises(PnlocError, match=message):
        start(namespace)
    assert opened == []


# Running --------------------------------------------------------------------------------------


def write(folder, name, *cells, parameters=PARAMETERS_CELL):
    own = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL})
    own.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    own.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    folder.mkdir(exist_ok=True)
    nbformat.write(own, folder / f"{name}.ipynb")


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "notebooks", tmp_path / "pages"


def test_pages_come_from_this_python_with_the_parameters(folders, tmp_path, monkeypatch):
    decoy = tmp_path / "kernels" / "python3"
    decoy.mkdir(parents=True)
    spec = '{"argv": ["/nowhere/python"], "display_name": "x", "language": "python"}'
    (decoy / "kernel.json").write_text(spec)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    shown = "print(sys.executable, SEED + 1, 'pnloc.run.run' in sys.modules)"
    write(folders[0], "01_a", f"import sys; {shown}  # pnloc.view.notebook is imported ahead")
    assert book.execute(*folders, PARAMETERS) == ["01_a"]
    code = nbformat.read(folders[1] / "01_a.ipynb", as_version=4).cells[-1]
    assert code.outputs[0]["text"].split() == [sys.executable, "4", "True"]


def test_only_what_changed_and_what_follows_it_runs_again(folders, tmp_path):
    (tmp_path / "data" / "a-set").mkdir(parents=True)
    parameters = {**PARAMETERS, "DATA": str(tmp_path / "data")}
    for name in ("01_a", "02_b"):
        write(folders[0], name, "1")
    assert book.execute(*folders, parameters) == ["01_a", "02_b"]
    assert book.execute(*folders, parameters) == []
    write(folders[0], "02_b", "2")
    assert book.execute(*folders, parameters) == ["02_b"]
    (folders[0] / "01_a.ipynb").unlink()
    (tmp_path / "data" / "a-set" / "labels.csv").write_text("x\n")
    assert book.execute(*folders, parameters) == ["02_b"], "the data changed"
    assert [p.name for p in folders[1].iterdir()] == ["02_b.ipynb"]


def test_changed_results_of_larger_runs_make_every_page_old(tmp_path, monkeypatch):
    table = tmp_path / "book" / "results" / "public" / "localization.csv"
    table.parent.mkdir(parents=True)
    monkeypatch.setattr(book, "ROOT", tmp_path)
    table.write_text("x\n")
    before = book.package_digest()
    table.write_text("y\n")
    assert book.package_digest() != before


@pytest.mark.parametrize(("cell", "message"), TABLES["cells"].items())
def test_a_notebook_that_fails_leaves_no_page_and_one_line(folders, tmp_path, cell, message):
    published = tmp_path / "published"
    for name in ("01_a", "02_b"):
        for folder in (*folders, published):
            write(folder, name, "1")
    write(folders[0], "02_b", cell)
    with pytest.raises(PnlocError, match=f"^02_b.ipynb: {message}"):
        book.execute(*folders, PARAMETERS, published)
    for folder in (folders[1], published):
        assert [p.name for p in folder.iterdir()] == ["01_a.ipynb"]


def test_a_kernel_that_was_started_ahead_ends_when_its_notebook_never_comes(folders, tmp_path):
    mark = tmp_path / "running"
    cell = (
        "import pathlib, psutil, time\nmine = psutil.Process()\n"
        "def others():\n"
        "    return [p.pid for p in mine.parent().children() if 'ipykernel' in str(p.cmdline())]\n"
        "while len(others()) < 2:\n    time.sleep(0.1)\n"
        f"pathlib.Path({str(mark)!r}).write_text(str(max(others())))\nassert False"
    )
    write(folders[0], "01_a", cell)
    write(folders[0], "02_b", "1")
    with pytest.raises(PnlocError, match=r"^01_a.ipynb: cell \d+: AssertionError"):
        book.execute(*folders, PARAMETERS)
    assert not psutil.pid_exists(int(mark.read_text()))


def test_unknown_parameters_are_refused_before_anything_runs(folders):
    write(folders[0], "01_a", "1")
    write(folders[0], "02_b", "1", parameters='PRESET = "demo"')
    with pytest.raises(PnlocError, match="did you mean SEED"):
        book.execute(*folders, {**PARAMETERS, "SEDE": 1})
    with pytest.raises(PnlocError, match="02_b.ipynb: has no parameter DATA"):
        book.execute(*folders, PARAMETERS)
    assert not folders[1].exists()


def test_an_error_in_a_kernel_is_shown_as_one_line():
    cell = "from pnloc.errors import PnlocError; raise PnlocError('what; what to do')"
    code = "from IPython.core.interactiveshell import InteractiveShell as Shell\n"
    code += f"Shell.instance().run_cell({cell!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout + done.stderr).strip() == "PnlocError: what; what to do"
