"""The explorer without a browser: what it draws, what a file adds, what a notebook stores."""

import importlib
import io
import sys

import numpy as np
import pytest
from PIL import Image
from test_wordview import STARTS, embedded, study

from explorer import widget
from pnloc.errors import PnlocError
from pnloc.images import load

WIDGET = "application/vnd.jupyter.widget-view+json"


def read(path):
    """A study as explorer.studies.Viewer.read makes it, of a file that is decoded."""
    _, letterbox = load(path, 64)
    sizes = {"width": letterbox.width, "height": letterbox.height}
    reading = {**sizes, "grade": 1.5, "share": 0.05, "boxes": [[1.0, 2, 11, 22, 0.8]]}
    return study(shown=False, report="", words=[], phrases=[], reading=reading)


@pytest.fixture
def explorer():
    return widget.Explorer([study(), study(seed=1)], STARTS, read)


def png(width: int = 40, height: int = 60) -> bytes:
    buffer = io.BytesIO()
    pixels = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_uploaded_image_is_shown_with_its_reading(explorer):
    assert "Not a medical device" in explorer.children[0].value
    explorer.load("C:\\scans\\mine & yours.png", png())
    assert "Loaded mine &amp; yours.png, 40 × 60 pixels" in explorer.message.value
    assert explorer.view.state["study"] == 2 and len(explorer.view.studies) == 3
    assert explorer.view.studies[2]["reading"]["boxes"] == [[1.0, 2, 11, 22, 0.8]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken.dcm", b"nothing of the kind", "broken.dcm: "),
        ("notes.txt", b"text", "notes.txt: not an image"),
        ("../<b>.png", b"", "&lt;b&gt;.png: not an image"),
        ("cut.png", png()[:60], "cut.png: "),
    ],
)
def test_a_file_that_is_no_image_is_named_and_changes_nothing(explorer, name, content, message):
    before = (explorer.view.state, len(explorer.view.studies))
    explorer.load(name, content)
    shown = explorer.message.value
    assert "Not loaded" in shown and message in shown and "Traceback" not in shown
    assert "/" not in shown.replace("</", ""), "no path of this machine"
    assert (explorer.view.state, len(explorer.view.studies)) == before
    explorer.load("good.png", png())
    assert "Loaded good.png" in explorer.message.value


def test_html_without_a_kernel_stands_beside_the_widget_unless_no_page_may_show_a_study(explorer):
    data, metadata = explorer._repr_mimebundle_()
    shown = embedded(data["text/html"])["studies"]
    assert WIDGET in data and len(shown) == 2 and "pnloc" not in metadata
    explorer.load("mine.png", png())
    for one in (explorer, widget.Explorer([study(shown=False)], STARTS)):
        data, metadata = one._repr_mimebundle_()
        assert "text/html" not in data and metadata["pnloc"] == "credentialed"


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(PnlocError, match="needs anywidget.*notebooks"):
        importlib.reload(widget)
    monkeypatch.undo()
    importlib.reload(widget)
