"""The project as a whole: imports, versions, notebooks, what the book names, no machine paths."""

import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from pkgutil import resolve_name

import nbformat
import pytest
import yaml

from book._ext import check as site
from pnloc import __version__
from pnloc.run import cache

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pnloc"
PHANTOMS, EXPLORER = ROOT / "phantoms", ROOT / "explorer"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS_CELL = """PRESET = "demo"  # smoke, demo, public or mimic
DATA = ""  # folder that holds the real data sets; public and mimic need it
SEED = 0
ARTIFACTS = ""  # where results go; empty: artifacts/ of the repository"""
# A room imports from itself and from those before it; reports, data and evaluation share a floor.
FLOORS = ("core images", "reports data evaluation", "baselines", "run", "view", "explorer", "cli")
# The generator beside the package imports these alone of it, and the room run alone imports it.
OF_PHANTOMS = {f"pnloc.{m}" for m in ("errors", "files", "parallel", "data", "data.tables")}
SUFFIXES = ".dcm .jpg .jpeg .png .nii .gz .safetensors .pt .pkl .parquet .npy"
BINARY = set(SUFFIXES.split())
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}


def tracked() -> list[Path]:
    """Files of the project: what git knows or would add."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


# Imports -----------------------------------------------------------------------------------------


def room(module: str) -> str:
    """The room of a module: a folder of the package or beside it, or core; the cli is above all."""
    if module.partition(".")[0] != "pnloc":
        return module.partition(".")[0]
    name = module.split(".")[1]
    return name if (PACKAGE / name).is_dir() else "cli" if name in ("cli", "__main__") else "core"


def test_a_room_imports_from_the_rooms_below_it_alone_and_there_is_no_circle():
    paths = [p for home in (PACKAGE, PHANTOMS, EXPLORER) for p in home.rglob("*.py")]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}
    names = {n.removesuffix(".__init__"): p for n, p in names.items() if n != "pnloc.__init__"}
    graph = {}
    for name, path in names.items():
        needed = set(cache._imported(path))
        assert not [n for n in needed if n.startswith(("experiments", "book"))], name
        needed = needed & set(names) - {name}
        generator = {n for n in needed if room(n) == "phantoms"}
        if room(name) == "phantoms":
            assert needed - generator <= OF_PHANTOMS, f"{name} imports {needed - generator}"
        else:
            assert not generator or room(name) == "run", f"{name} imports {generator}"
            upwards = [n for n in needed - generator if FLOOR[room(n)] > FLOOR[room(name)]]
            assert not upwards, f"{name} imports {upwards}"
        # A module that is imported from its package does not need the whole package.
        graph[name] = {n for n in needed if not any(m.startswith(f"{n}.") for m in needed)}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_from_an_image_to_boxes_no_module_reads_a_report():
    modules = cache.imports("pnloc.localizer")
    assert not [m for m in modules if m.startswith("pnloc.reports")] and len(modules) <= 14
    assert not any("nltk" in cache._source(m).read_text(encoding="utf-8") for m in modules)


# Versions -----------------------------------------------------------------------------------------


def project() -> dict:
    return tomllib.loads(text("pyproject.toml"))["project"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_conda_and_pip_environments_name_the_same_versions():
    declared = project()
    extras = declared["optional-dependencies"]
    wanted = {*declared["dependencies"], *(r for extra in extras.values() for r in extra)}
    environment = yaml.safe_load(text("environment.yml"))["dependencies"]
    pip = next(d["pip"] for d in environment if isinstance(d, dict))
    assert f"python{declared['requires-python']}" in environment
    assert set(pip) == wanted | {f"-e .[{','.join(sorted(extras))}]"} and len(set(pip)) == len(pip)


def test_the_ct_is_installed_in_one_version_everywhere():
    for name in ("Makefile", "environment.yml", "README.md", "pyproject.toml", "binder/postBuild"):
        assert set(re.findall(r"diffdrr==([\d.]+\d)", text(name))) == {"0.6.1"}, name


def test_binder_has_the_versions_of_torch_and_a_step_that_it_can_run():
    conda = yaml.safe_load(text("binder/environment.yml"))["dependencies"]
    torch = {d.replace("pytorch-cpu", "torch") for d in conda if "torch" in d}
    assert torch == {d for d in project()["dependencies"] if re.match("torch(vision)?>", d)}
    assert any(re.fullmatch(r"python=3\.\d+", d) for d in conda), "repo2docker takes no range"
    assert (ROOT / "binder" / "postBuild").stat().st_mode & 0o111
    assert "-e '.[notebooks]'" in text("binder/postBuild")


WITHOUT = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"IPython", "ipykernel", "jupyter_client", "nbformat"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
from pnloc import cli
import pnloc.run.results
for command in (["reports", sys.argv[1]], ["reproduce", "--preset", "smoke"]):
    print("status", cli.main(command))
"""


def test_the_package_works_without_jupyter_and_says_what_reproduce_needs(tmp_path):
    (tmp_path / "report.txt").write_text("FINDINGS: Patchy opacity in the right lower lobe.")
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "report.txt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert re.findall(r"status (\d)", done.stdout) == ["0", "2"], done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith("pnloc: ")]
    assert len(complaints) == 1 and "pip install 'pnloc[notebooks]'" in complaints[0]


def test_licence_and_citation():
    assert "Apache License" in text("LICENSE") and "END OF TERMS AND CONDITIONS" in text("LICENSE")
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == __version__
    assert citation["license"] == project()["license"] == "Apache-2.0"


# Notebooks ----------------------------------------------------------------------------------------


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
        assert not cell.outputs and cell.execution_count is None, f"cell {number}: run nbstripout"
        assert len(cell.source.splitlines()) <= 25, f"cell {number}: move it to the package"
        assert not re.search(r"^\s*[!%]", cell.source, re.M), f"cell {number} leaves Python"


def test_every_notebook_is_a_page_and_every_page_exists():
    names = site.toc(ROOT / "book" / "_toc.yml")
    pages = [n.removeprefix("pages/") for n in names if n.startswith("pages/")]
    assert pages == [p.stem for p in NOTEBOOKS]
    assert all((ROOT / "book" / f"{n}.md").exists() for n in names if not n.startswith("pages/"))


# The book's own pages ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted((ROOT / "book").glob("*.md")), ids=lambda p: p.stem)
def test_what_a_page_names_exists(page):
    words = page.read_text(encoding="utf-8")
    for name in set(
        re.findall(r"`((?:pnloc|phantoms|explorer|experiments|book\._ext)\.[\w.]+\w)`", words)
    ):
        try:
            resolve_name(name)
        except (ImportError, AttributeError) as error:
            raise AssertionError(f"{page.name} names {name}: {error}") from None
    for name in set(re.findall(r"`(tests/\w+\.py|notebooks/\w+\.ipynb)`", words)):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_paper_map_leads_from_each_line_to_functions_a_test_of_theirs_and_a_notebook():
    mapped = re.findall(r"^\|.*`pnloc\..*$", text("book/paper_map.md"), re.M)
    assert len(mapped) > 15
    for row in mapped:
        functions = re.findall(r"`pnloc\.([\w.]+)\.(\w+)`", row)
        tests = re.findall(r"`(tests/\w+\.py)`", row)
        notebooks = re.findall(r"<pages/(\w+)>", row)
        assert functions and tests and notebooks, f"function, test or notebook is missing: {row}"
        assert all((ROOT / "notebooks" / f"{n}.ipynb").exists() for n in notebooks), row
        tested = "".join(map(text, tests))
        for module, name in functions:
            known = name in tested or module.rpartition(".")[2] in tested
            assert known, f"{tests} know nothing of pnloc.{module}.{name}"


def test_the_paper_map_and_the_bibliography_hold_every_reference_of_the_paper():
    own = text("book/references.bib").partition("cited by the paper")[2].partition("% ---")[0]
    keys = re.findall(r"^@\w+\{(\w+),", own, re.M)
    assert len(keys) == 20 and all(f"`{key}`" in text("book/paper_map.md") for key in keys)
    assert "```{bibliography}\n:all:" in text("book/references.md")


def test_every_citation_is_in_the_bibliography_and_every_entry_is_cited():
    entries = re.findall(r"^@\w+\{(\w+),", text("book/references.bib"), re.M)
    words = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "book").glob("*.md"))
    keys = [key for own in re.findall(r"\{cite:[tp]\}`([^`]+)`", words) for key in own.split(",")]
    assert set(keys) == set(entries) and len(entries) == len(set(entries))


@pytest.mark.parametrize("name", ["README.md", "_config.yml", "book/intro.md"])
def test_the_project_says_that_it_is_no_medical_device(name):
    assert "not a medical device" in text(name).lower()


# Cleanliness -------------------------------------------------------------------------------------


def test_no_file_names_a_path_of_somebodys_machine():
    folders = "|".join(("work", "root", "home", "tmp", "Users"))
    pattern = re.compile(rf"^.*(?<![\w.$}}~-])/(?:{folders})/\w.*$", re.M)
    texts = [p for p in tracked() if p.suffix not in BINARY and p.name != "LICENSE"]
    lines = [(p.name, pattern.search(p.read_text(encoding="utf-8"))) for p in texts]
    assert not [(name, line[0]) for name, line in lines if line]


def test_no_data_nor_results_are_committed_but_small_cases():
    binary = [p for p in tracked() if p.suffix.lower() in BINARY]
    assert [p for p in binary if ROOT / "tests/cases" not in p.parents] == []
    assert max(p.stat().st_size for p in binary) < 100_000
