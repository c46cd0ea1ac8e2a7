"""The project as a whole: layers, versions, notebooks as committed, what the book's pages name, no machine paths."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import nbformat
import pytest
import yaml

from book._ext import check as site
from pnloc import __version__
from pnloc.view.notebook import PARAMETERS_CELL

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pnloc"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# A module imports only from those named before it. A folder counts as one module.
LAYERS = (
    "errors access files processes progress config boxes images records",
    "datasets",
    "duplicates audit decoding",
    "demo",
    "lexicon sentences scope reports phrases words",
    "train inputs pretrained detector regions shards model losses localize localizer choices baselines weak heatmaps grounding supervised priors lungs views",
    "bootstrap detection metrics calibration evaluation mesh severity published",
    "provenance cache figures display markup cohort pairs stages members comparators trained looks readouts severity_tables predict seeds results analysis folds",
    "sweep plans pages arms pooling experiment studies wordview explorer notebook book publishing extension site cli __main__",
)
ORDER = [name for layer in LAYERS for name in layer.split()]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it ('' is the package itself)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.add("a relative import")
        elif isinstance(node, ast.ImportFrom) and node.module == "pnloc":
            found |= {
                a.name
                for a in node.names
                if (PACKAGE / a.name).is_dir() or (PACKAGE / f"{a.name}.py").exists()
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pnloc."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("pnloc.")}
    return found


def tracked() -> list[Path]:
    """Files of the project: what git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


# Layers ---------------------------------------------------------------------------------------------------


def test_every_module_has_its_place_in_the_order():
    missing = sorted({module(p) for p in sources()} - set(ORDER) - {"__init__"})
    assert not missing, f"add to LAYERS in {Path(__file__).name}: {', '.join(missing)}"
    gone = [
        name
        for name in ORDER
        if not (PACKAGE / name).exists() and not (PACKAGE / f"{name}.py").exists()
    ]
    assert not gone, f"take out of LAYERS in {Path(__file__).name}: {', '.join(gone)}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_from_further_down(path):
    own = module(path)
    above = set(ORDER[: ORDER.index(own)]) | {own} if own in ORDER else set()
    below = imported(path) - above
    assert not below, (
        f"pnloc/{path.relative_to(PACKAGE)} imports {', '.join(sorted(below))}, which stand below {own}"
    )


def test_the_architecture_page_names_every_module_in_this_order():
    page = (ROOT / "book" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `pnloc\.(\w+)` \|", page, re.M)
    assert sorted(named) == sorted(set(ORDER) - {"__main__"})
    for path in sources():
        if module(path) in named:
            later = set(named[named.index(module(path)) + 1 :])
            assert not imported(path) & later, (
                f"{path.name} imports what stands below it on the architecture page"
            )


# Versions -------------------------------------------------------------------------------------------------


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_conda_and_pip_environments_name_the_same_versions():
    declared = project()
    wanted = {
        *declared["dependencies"],
        *(r for extra in declared["optional-dependencies"].values() for r in extra),
    }
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert f"python{declared['requires-python']}" in conda
    extras = ",".join(sorted(declared["optional-dependencies"]))
    assert set(pip) == wanted | {f"-e .[{extras}]"}
    assert any(r.startswith("jupyter-book>=1.0.4,<2") for r in wanted)


def test_the_ct_is_installed_in_one_version_everywhere():
    named = [
        (ROOT / f).read_text(encoding="utf-8")
        for f in ("Makefile", "environment.yml", "README.md", "pyproject.toml", "binder/postBuild")
    ]
    assert {v for text in named for v in re.findall(r"diffdrr==([\d.]+\d)", text)} == {"0.6.1"}
    assert all("diffdrr==" in text for text in named)


def test_binder_has_the_versions_of_torch_and_a_step_that_it_can_run():
    wanted = set(project()["dependencies"])
    conda = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text(encoding="utf-8"))[
        "dependencies"
    ]
    assert {d.replace("pytorch-cpu", "torch") for d in conda if "torch" in d} == {
        d for d in wanted if re.match("torch(vision)?>", d)
    }
    assert any(re.fullmatch(r"python=3\.\d+", d) for d in conda), (
        "repo2docker takes python=3.x and no range"
    )
    step = ROOT / "binder" / "postBuild"
    assert step.stat().st_mode & 0o111 and "-e '.[notebooks]'" in step.read_text(encoding="utf-8")


def test_the_package_itself_needs_nothing_of_jupyter():
    needed = " ".join(project()["dependencies"]).lower()
    assert not re.findall(r"jupyter|ipykernel|ipywidgets|papermill|nbformat|sphinx", needed)


WITHOUT = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"IPython", "ipykernel", "ipywidgets", "anywidget", "jupyter_book", "jupyter_client", "jupyter_core",
                                  "jupyterlab", "nbformat", "nbclient", "papermill", "sphinx", "yaml"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
import pnloc.view.figures, pnloc.run.results
from pnloc import cli
for given in (["reports", sys.argv[1]], ["reproduce", "--preset", "smoke", "--artifacts", sys.argv[2]]):
    print("status", cli.main(given))
"""


def test_the_package_works_without_jupyter_and_says_what_reproduce_needs(tmp_path):
    (tmp_path / "report.txt").write_text("FINDINGS: Patchy opacity in the right lower lobe.")
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "report.txt"), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert re.findall(r"status (\d)", done.stdout) == ["0", "2"], done.stderr
    assert "right" in done.stdout
    told = [line for line in done.stderr.splitlines() if line.startswith("pnloc: ")]
    assert (
        len(told) == 1
        and "pip install 'pnloc[notebooks]'" in told[0]
        and "Traceback" not in done.stderr
    )


def test_licence_and_citation():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == project()["license"] == "Apache-2.0"
    paper = citation["references"][0]
    assert [a["family-names"] for a in paper["authors"]] == [
        "Bhalodia",
        "Hatamizadeh",
        "Tam",
        "Xu",
        "Wang",
        "Turkbey",
        "Xu",
    ]


# Notebooks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_committed_clean_and_begin_alike(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert code[0].metadata.get("tags") == ["parameters"] and code[0].source == PARAMETERS_CELL
    assert "start(globals())" in code[1].source
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    for number, cell in enumerate(code, start=1):
        assert not cell.outputs and cell.execution_count is None, (
            f"code cell {number} holds outputs: run nbstripout"
        )
        assert len(cell.source.splitlines()) <= 25, (
            f"code cell {number} is long: move it to the package"
        )
        assert not re.search(r"^\s*[!%]", cell.source, re.M), f"code cell {number} leaves Python"


def test_every_notebook_is_a_page_and_every_page_exists():
    names = site.toc(ROOT / "book" / "_toc.yml")
    assert [n.removeprefix("pages/") for n in names if n.startswith("pages/")] == [
        p.stem for p in NOTEBOOKS
    ]
    assert all((ROOT / "book" / f"{n}.md").exists() for n in names if not n.startswith("pages/"))


# The book's own pages -------------------------------------------------------------------------------------


def defined(path: Path) -> set[str]:
    """Names that a module defines or imports at its top level."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {t.id for t in targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name for a in node.names}
    return names


@pytest.mark.parametrize("page", sorted((ROOT / "book").glob("*.md")), ids=lambda p: p.stem)
def test_what_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"`pnloc\.([a-z0-9_.]+(?:\.\w+)?)`", text, re.I)):
        parts, folder = name.split("."), PACKAGE
        while parts and (folder / parts[0]).is_dir():
            folder /= parts.pop(0)
        if parts:
            path = folder / f"{parts[0]}.py"
            path, parts = (path, parts[1:]) if path.exists() else (folder / "__init__.py", parts)
            assert path.exists() and (not parts or parts[0] in defined(path)), (
                f"{page.name} names pnloc.{name}"
            )
    for name in set(re.findall(r"`(tests/\w+\.py|notebooks/\w+\.ipynb)`", text)):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def rows(page: str) -> list[list[str]]:
    """The rows of the tables of one of the book's pages, without heads."""
    text = (ROOT / "book" / page).read_text(encoding="utf-8")
    tables = re.findall(r"^\|.*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.M)
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for table in tables
        for line in table.splitlines()
    ]


def test_the_paper_map_leads_from_each_line_to_functions_a_test_of_theirs_and_a_notebook():
    mapped = [row for row in rows("paper_map.md") if "`pnloc." in "".join(row)]
    assert len(mapped) > 15
    for row in mapped:
        functions = re.findall(r"`pnloc\.([\w.]+)\.(\w+)`", " ".join(row))
        tests = re.findall(r"`tests/(\w+\.py)`", " ".join(row))
        notebooks = re.findall(r"<pages/(\w+)>", " ".join(row))
        assert functions and tests and notebooks, (
            f"paper map: function, test or notebook is missing: {' | '.join(row)}"
        )
        assert all((ROOT / "notebooks" / f"{n}.ipynb").exists() for n in notebooks), row
        read = "".join((ROOT / "tests" / t).read_text(encoding="utf-8") for t in tests)
        for where, name in functions:
            assert where.rpartition(".")[2] in read or name in read, (
                f"paper map: {tests} know nothing of pnloc.{where}.{name}"
            )


def test_the_paper_map_and_the_bibliography_hold_every_reference_of_the_paper():
    bib = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    cited = re.findall(
        r"^@\w+\{(\w+),", bib.partition("cited by the paper")[2].partition("% ---")[0], re.M
    )
    assert len(cited) == 20
    text = (ROOT / "book" / "paper_map.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in text for key in cited)
    assert "```{bibliography}\n:all:" in (ROOT / "book" / "references.md").read_text(
        encoding="utf-8"
    )


def test_every_citation_is_in_the_bibliography_and_every_entry_is_cited():
    entries = re.findall(
        r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M
    )
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "book").glob("*.md"))
    cited = {key for keys in re.findall(r"\{cite:[tp]\}`([^`]+)`", text) for key in keys.split(",")}
    assert cited == set(entries) and len(entries) == len(set(entries))


def test_every_page_in_which_something_is_found_says_that_it_is_no_medical_device():
    for name in ("README.md", "_config.yml", "book/intro.md"):
        assert "not a medical device" in (ROOT / name).read_text(encoding="utf-8").lower(), name


# Cleanliness ----------------------------------------------------------------------------------------------


def test_no_file_names_a_path_of_somebodys_machine():
    pattern = re.compile(
        r"(?<![\w.$}~-])/(?:" + "|".join(("work", "root", "home", "tmp", "Users")) + r")/\w"
    )
    found = []
    for path in tracked():
        if path.suffix in {".png", ".safetensors", ".gz"} or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_no_data_nor_results_are_committed():
    kinds = {
        ".dcm",
        ".jpg",
        ".jpeg",
        ".png",
        ".nii",
        ".gz",
        ".safetensors",
        ".pt",
        ".pkl",
        ".parquet",
    }
    assert [str(p.relative_to(ROOT)) for p in tracked() if p.suffix.lower() in kinds] == []


def test_mathjax_is_there_so_that_equations_need_no_network():
    assert distribution("sphinx-mathjax-offline")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]
    assert (
        "://" not in config["config"]["mathjax_path"]
        and "book._ext.pnloc_sphinx" in config["extra_extensions"]
    )
