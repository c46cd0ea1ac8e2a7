"""The explorer: choose a study and a word of its report or an attribute, and see where it attends.

The image is drawn in the browser (static/wordview.js), as in a page without a kernel; a kernel adds
images of one's own. Research only, not a medical device.
"""

import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path

from explorer import studies, wordview
from explorer.studies import Starts, Study
from pnloc import access
from pnloc.errors import PnlocError
from pnloc.run.run import Run

try:
    import anywidget
    import ipywidgets as widgets
    import traitlets
except ModuleNotFoundError as error:
    advice = "pip install 'pnloc[notebooks]', or make env"
    raise PnlocError(f"the explorer needs {error.name}: {advice}") from None

ACCEPTED = ".png,.jpg,.jpeg,.dcm,.dicom"
WARNING = "<b>Not a medical device.</b> Research software; do not use it for the care of a patient."
PROMPT = (
    "A chest radiograph of your own, frontal, as PNG, JPEG or DICOM. It stays with this kernel."
)
Reader = Callable[[Path], Study]


class View(anywidget.AnyWidget):
    """The view as a widget: it draws `studies` from `starts`; `state` is the current selection."""

    _esm = wordview.STATIC / "wordview.js"
    _css = wordview.STATIC / "wordview.css"
    studies = traitlets.List().tag(sync=True)
    starts = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)


class Explorer(widgets.VBox):
    """The view, and above it an upload, if `read` makes a study of a file.

    Without a kernel the view is HTML if a page may show every study; else the output is marked.
    """

    def __init__(self, shown: list[Study], starts: Starts, read: Reader | None = None) -> None:
        """`shown` may be empty: the view then begins with the first image that is loaded."""
        self.studies, self.read = list(shown), read
        plain = [wordview.values(study) for study in shown]
        self.view = View(studies=plain, starts=starts, state={"study": 0})
        options = {"description": "load an image", "layout": {"width": "auto"}}
        self.upload = widgets.FileUpload(accept=ACCEPTED, **options)
        self.message = widgets.HTML(PROMPT)
        self.upload.observe(self._loaded, "value")
        row = widgets.HBox([self.upload, self.message], layout={"flex_flow": "row wrap"})
        super().__init__([widgets.HTML(WARNING), *([row] if read else []), self.view])

    def _loaded(self, change: dict) -> None:
        for file in change["new"]:
            self.load(file["name"], bytes(file["content"]))
        self.upload.value = ()  # so that the same file may be chosen again

    def load(self, name: str, content: bytes) -> None:
        """Show an image file.

        A file that cannot be read leaves a message and changes nothing else.
        """
        name = Path(name.replace("\\", "/")).name or "image"
        self.message.value = f"reading {escape(name)} …"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            try:
                path.write_bytes(content)
                study = self.read(path)
            except (PnlocError, OSError, ValueError) as error:
                reason = escape(str(error).replace(str(path), name))
                self.message.value = f'<span role="alert"><b>Not loaded.</b> {reason}</span>'
                return
        self.studies.append(study)
        self.view.studies = [*self.view.studies, wordview.values(study)]
        other = self.view.state.get("other", -1)
        self.view.state = {"study": len(self.studies) - 1, "other": other}
        sides = f"{study.reading['width']} × {study.reading['height']} pixels"
        self.message.value = f"Loaded {escape(name)}, {sides}."

    def _repr_mimebundle_(self, **options: object) -> tuple[dict, dict]:
        """The widget and its HTML, or a mark that keeps the output from being published."""
        data = super()._repr_mimebundle_(**options)
        if not all(study.shown for study in self.studies):
            return data, {"pnloc": access.CREDENTIALED}
        if self.studies:
            data["text/html"] = wordview.html(self.studies, self.view.starts, self.view.studies)
        return data, {}


def explore(run: Run, shown: list[Study]) -> Explorer:
    """The explorer of a run: some of its studies, and images of one's own."""
    return Explorer(shown, studies.starts(run), studies.viewer(run).read)
