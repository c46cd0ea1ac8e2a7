"""Credentialed images, texts and rows: recognised where they are shown, marked, and refused."""

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.display import HTML
from matplotlib.figure import Figure

from book._ext import publish as publishing
from pnloc import access
from pnloc.data import readers as datasets
from pnloc.data.records import BOX_COLUMNS, IMAGE_COLUMNS, Records
from pnloc.errors import PnlocError
from pnloc.view import figures, markup
from pnloc.view import guard as display

ROW = ("02aa804e-bde0afdd", "mimic:10000032", "s50414267")
IMAGES = pd.DataFrame([ROW], columns=["image", "patient", "study"])
IMAGE = np.full((8, 8), 90, dtype=np.uint8)
REPORT = "There is a new patchy opacity in the right lower lobe, concerning for pneumonia."


@pytest.fixture(autouse=True)
def alone():
    yield
    access._held.clear()
    access._known.clear()
    plt.close("all")


def records(kind: str) -> Records:
    boxes, reports = (pd.DataFrame(columns=c) for c in (BOX_COLUMNS, ["study", "text"]))
    images = IMAGES.reindex(columns=IMAGE_COLUMNS)
    return Records("mimic", kind, images, boxes, reports, pd.DataFrame(), {})


def figure(image: np.ndarray, draw=figures.radiograph) -> Figure:
    made = Figure()
    draw(image, made.subplots())
    return made


def kind(shown: object, **data: str) -> str:
    return display.kind(shown, data)


# Recognised


def test_an_image_keeps_its_class_in_its_parts_and_what_is_computed_from_it():
    images = access.tag(np.zeros((3, 4, 4), np.uint8), "open")
    parts = images[0], images[[0, 2]], images[images.sum((1, 2)) == 0], images[0] / 2
    assert {access.of(part) for part in parts} == {"open"}
    assert access.of(access.tag("a report", "generated")) == "generated"


def test_untagged_data_count_as_credentialed_only_while_a_credentialed_set_is_loaded():
    assert access.of(IMAGE) == "" and access.of("text") == ""
    records("open")
    assert access.of(IMAGE) == ""
    records("credentialed")
    assert access.of(IMAGE) == access.of("text") == "credentialed"
    assert access.of(access.tag(IMAGE, "open")) == "open"


def test_names_are_recognised_in_paths_with_a_suffix_and_without_the_prefix_of_their_set():
    access.hold("mimic", IMAGES)
    texts = "x/02aa804e-bde0afdd.jpg", "<td>mimic:10000032</td>", "patient 10000032", "s50414267"
    assert all(map(access.named, texts))
    assert access.named("1000003 and s5041426, 0.10000032 of 200 boxes") == ""
    short = pd.DataFrame({"image": ["7"], "patient": ["mimic:12"]})
    assert access.identifiers(short) == {"mimic:12"}, "any number would be the image's name"


# Marked

NONE = np.zeros((2, 4))
DRAWN = [
    figures.radiograph,
    lambda image, ax: figures.attention(image, NONE[:0], NONE[:0, 0], ax),
    lambda image, ax: figures.severity_overlay(image, NONE[:, :2], NONE, ax, ""),
    lambda image, ax: ax.imshow(image, cmap="gray"),
    lambda image, ax: ax.imshow(np.stack([image] * 3, -1)),
]


@pytest.mark.parametrize("draw", DRAWN)
def test_no_image_of_a_credentialed_set_is_drawn_without_a_mark(draw):
    assert kind(figure(IMAGE, draw)) == ""
    records("credentialed")
    assert kind(figure(IMAGE, draw)) == "credentialed", "an image of unknown origin"
    assert kind(figure(access.tag(IMAGE, "credentialed"), draw)) == "credentialed"


def test_open_images_and_maps_over_many_images_are_drawn_beside_credentialed_ones():
    records("credentialed")
    assert kind(figure(access.tag(IMAGE, "open"))) == ""
    assert kind(figure(np.eye(4), lambda heat, ax: figures.heat_map(heat, ax, "boxes"))) == ""


def test_a_report_is_marked_in_its_html():
    assert access.MARK not in markup.report(REPORT)
    records("credentialed")
    for marked in (REPORT, access.tag(REPORT, "credentialed")):
        assert access.MARK in markup.report(marked)
    assert access.MARK not in markup.report(REPORT, kind="open")
    assert access.MARK not in markup.report(access.tag(REPORT, "open"))
    assert kind(HTML(""), **{"text/html": markup.report(REPORT)}) == "credentialed"


def test_a_table_with_a_row_of_an_image_is_marked_and_one_of_means_is_not():
    records("credentialed")
    rows = pd.DataFrame({"image": ["02aa804e-bde0afdd"], "score": [0.5]})
    assert kind(rows, **{"text/html": rows.to_html()}) == "credentialed"
    means = pd.DataFrame({"method": ["detector"], "value": [0.123456], "n": [10000]})
    assert kind(means, **{"text/html": means.to_html(), "text/plain": str(means)}) == ""


def test_the_mark_reaches_the_metadata_of_the_output():
    formatter = display.Guard()
    formatter.formatters["image/png"].for_type(Figure, lambda figure: b"x")
    assert formatter.format(figure(IMAGE))[1] == {}
    records("credentialed")
    assert formatter.format(figure(IMAGE))[1] == {"pnloc": "credentialed"}


# Refused, from end to end

HEAD = """from pnloc.view.notebook import start
run = start(globals())
import matplotlib.pyplot as plt
from IPython.display import HTML
from pnloc.view import figures, markup
name = "mimic"
"""
SHOWING = {
    "drawn": "figures.radiograph(run.sets.pixels(name)[0], plt.figure().add_subplot()); plt.show()",
    "told": "HTML(markup.report(next(t for t in run.sets.texts(name) if t)))",
    "listed": "run.sets.records(name).images[['image', 'sex', 'view']].head(2)",
    "printed": "print(run.sets.records(name).images['patient'].iloc[0])",
    "quoted": "print('Quoting:', next(t for t in run.sets.texts(name) if len(t) > 160)[20:160])",
}
COUNTED = "run.sets.records(name).images.groupby(['split', 'view']).size().to_frame('images')"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The folder of a run whose notebook shows a credentialed set in every way.

    The set is a small generated tree without the mark that it was generated.
    """
    from test_project import PARAMETERS_CELL

    import phantoms
    from book._ext import run as book

    root = tmp_path_factory.mktemp("credentialed")
    data, run = root / "data", root / "artifacts" / "mimic"
    size = phantoms.PhantomSize(variants=3, rsna=12, mimic=12, chestxray8=6, covid=6)
    phantoms.generate(data, size, seed=0)
    (data / "rates.json").unlink()
    assert datasets.mimic_cxr.read(data / datasets.FOLDERS["mimic"]).access == "credentialed"
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    tags = {"tags": ["parameters"]}
    cells = [nbformat.v4.new_code_cell(PARAMETERS_CELL, metadata=tags)]
    cells += [nbformat.v4.new_code_cell(code) for code in (HEAD, *SHOWING.values(), COUNTED)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    (root / "notebooks").mkdir()
    nbformat.write(notebook, root / "notebooks" / "01_all.ipynb")
    values = {"DATA": str(data), "SEED": 0, "ARTIFACTS": str(root / "artifacts")}
    book.execute(root / "notebooks", run / "pages", {"PRESET": "mimic", **values})
    return run


def only(executed: Path, tmp_path: Path, source: str, unmarked: bool = False) -> Path:
    """The run with a page of a single cell; `unmarked`, as if nobody had marked its output."""
    page = nbformat.read(executed / "pages" / "01_all.ipynb", as_version=4)
    page.cells = [c for c in page.cells if c.source == source]
    assert len(page.cells) == 1 and page.cells[0].outputs
    for output in page.cells[0].outputs if unmarked else ():
        output.get("metadata", {}).pop("pnloc", None)
        for kind, text in output.get("data", {}).items():
            output.data[kind] = text.replace(access.MARK, "")
    run = tmp_path / "run"
    (run / "pages").mkdir(parents=True)
    (run / "cache").symlink_to(executed / "cache")
    shutil.copy(executed / "run.json", run / "run.json")
    nbformat.write(page, run / "pages" / "01_one.ipynb")
    return run


MARKED, NAMED = "is marked as credentialed", "holds the name of a credentialed image"
QUOTED = "quotes a credentialed report"
WAYS = [(way, False, MARKED) for way in ("drawn", "told", "listed")]
WAYS += [("listed", True, NAMED), ("printed", True, NAMED)]
WAYS += [("told", True, QUOTED), ("quoted", True, QUOTED)]


@pytest.mark.parametrize(("way", "unmarked", "why"), WAYS)
def test_a_page_that_shows_credentialed_data_is_refused(executed, tmp_path, way, unmarked, why):
    """By its mark, or, had nobody marked it, by what it says."""
    run = only(executed, tmp_path, SHOWING[way], unmarked)
    with pytest.raises(PnlocError, match=f"01_one.ipynb, cell 1: its output {why}"):
        publishing.publish(run / "pages", tmp_path / "book")
    assert not (tmp_path / "book").exists()


def test_a_table_of_counts_of_credentialed_data_is_published(executed, tmp_path):
    run = only(executed, tmp_path, COUNTED)
    publishing.publish(run / "pages", tmp_path / "book")
    page = json.loads((tmp_path / "book" / "01_one.ipynb").read_text(encoding="utf-8"))
    assert page["cells"][0]["outputs"]
