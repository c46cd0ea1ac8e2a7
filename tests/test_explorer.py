"""The explorer without a browser: what it draws, what becomes of a file, and what a notebook stores of it."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_wordview import STARTS, study

from pnloc.baselines.heatmaps import heat_boxes
from pnloc.boxes import fuse, group, select
from pnloc.errors import PnlocError
from pnloc.images import Letterbox, load
from pnloc.run.sets import NAMES
from pnloc.view.explorer import widget as explorer
from pnloc.view.explorer import wordview

WIDGET = "application/vnd.jupyter.widget-view+json"


def read(path):
    """What pnloc.view.explorer.studies.read gives, from a file that is really read."""
    load(path, 64)
    attributes = pd.Series(np.linspace(0.9, 0.1, len(NAMES)), list(NAMES))
    boxes = pd.DataFrame([[1.0, 2, 11, 22, 0.8]], columns=["x1", "y1", "x2", "y2", "score"])
    return study(shown=False, report="", words=[], spans=[], phrases=[]), boxes, attributes


@pytest.fixture
def made():
    return explorer.Explorer([study(), study(seed=1)], STARTS, read)


def png(width: int = 40, height: int = 60) -> bytes:
    kept = io.BytesIO()
    Image.fromarray(np.arange(width * height, dtype=np.uint8).reshape(height, width)).save(
        kept, "PNG"
    )
    return kept.getvalue()


def test_the_warning_comes_first_and_the_view_has_every_study(made):
    assert "Not a medical device" in made.children[0].value
    assert made.view.studies == [wordview.values(s) for s in made.studies]
    assert made.view.state["source"] == "attribute" and made.view.state["share"] == 0.5


@pytest.mark.parametrize("source", ["word", "phrase", "attribute", "detector"])
def test_boxes_are_those_that_the_view_keeps(made, source):
    made.view.state = {
        **made.view.state,
        "study": 1,
        "source": source,
        "item": 0,
        "share": 0.3,
        "most": 4,
    }
    one = made.studies[1]
    grouped = group(one.boxes, one.mass(source, 0), one.scores)
    kept = fuse(one.boxes, grouped, select(one.boxes, grouped, 0.3, 4))
    assert made.boxes.to_numpy().tolist() == kept.round(1).tolist()


def test_boxes_of_grad_cam_are_those_of_its_map(made):
    made.view.state = {**made.view.state, "source": "cam", "share": 0.8, "most": 3}
    assert made.boxes.to_numpy().tolist() == heat_boxes(made.studies[0].heat, 0.8, 3)[0].tolist()
    assert list(explorer.Explorer([], STARTS, read).boxes.columns) == ["x1", "y1", "x2", "y2"]


def test_an_image_of_ones_own_is_shown_with_boxes_attributes_and_severity(made):
    made.load("C:\\scans\\mine & yours.png", png())
    assert "Loaded mine &amp; yours.png, 40 × 60 pixels" in made.message.value
    assert made.view.state["study"] == 2 and len(made.view.studies) == 3
    assert (
        "expected grade" in made.readout.value
        and "pneumonia" not in made.readout.value.split("Attributes")[1]
    )
    assert "<td>11</td>" in made.readout.value


def test_severity_is_that_of_the_package():
    attributes = pd.Series(0.0, list(NAMES))
    attributes[["pneumonia", "severity:severe"]] = 0.5
    boxes = pd.DataFrame([[0.0, 0, 10, 20, 0.5]], columns=["x1", "y1", "x2", "y2", "score"])
    said = explorer.readout(boxes, attributes, Letterbox(40, 50, 64))
    assert "expected grade 1.50 of 3" in said, "all of the grade is severe, 3, times one half"
    assert "5.0% of the picture" in said, "200 of 2,000 pixels times one half"
    assert "No box." in explorer.readout(boxes[:0], attributes, Letterbox(40, 50, 64))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.dcm", b"nothing of the kind", "broken.dcm: "),
        ("notes.txt", b"text", "notes.txt: not an image"),
        ("empty.png", b"", "empty.png: not an image"),
        ("../<b>.png", b"", "&lt;b&gt;.png: not an image"),
        ("cut.png", png()[:60], "cut.png: "),
    ],
)
def test_a_file_that_is_no_image_is_named_and_changes_nothing(made, name, content, message):
    before = (made.view.state, len(made.view.studies))
    made.load(name, content)
    assert "Not loaded" in made.message.value and message in made.message.value
    assert "Traceback" not in made.message.value and "/" not in made.message.value.replace(
        "</", ""
    ).replace("pneumonia/", "")
    assert (made.view.state, len(made.view.studies)) == before and made.readout.value == ""


def test_a_good_file_after_a_broken_one_is_read(made):
    made.load("broken.png", b"x")
    made.load("good.png", png())
    assert "Loaded good.png" in made.message.value


def test_beside_the_widget_stands_what_needs_no_kernel(made):
    data, metadata = made._repr_mimebundle_()
    assert (
        WIDGET in data
        and embedded_names(data["text/html"]) == ["a", "a"]
        and "pnloc" not in metadata
    )


def test_what_no_page_may_show_is_marked_and_never_stands_beside_the_widget(made):
    made.load("mine.png", png())
    for one in (made, explorer.Explorer([study(shown=False)], STARTS)):
        data, metadata = one._repr_mimebundle_()
        assert "text/html" not in data and metadata["pnloc"] == "credentialed"


def test_without_a_reader_nothing_can_be_loaded():
    assert len(explorer.Explorer([study()], STARTS).children) == 2


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(PnlocError, match="needs anywidget.*notebooks"):
        importlib.reload(explorer)
    monkeypatch.undo()
    importlib.reload(explorer)


def embedded_names(html: str) -> list[str]:
    from test_wordview import embedded

    return [s["name"] for s in embedded(html)["studies"]]
