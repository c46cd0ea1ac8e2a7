"""The explorer: choose a study, a word of its report or an attribute, and see where the attention lies; or load an image of one's own.

The picture is drawn in the browser (static/wordview.js), the same as in the page without a kernel; with a kernel come images of one's
own, and `boxes` tells what is kept at the moment. Research only, not a medical device.
"""

import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path

import pandas as pd

from pnloc.baselines.heatmaps import heat_boxes
from pnloc.errors import PnlocError
from pnloc.images import Letterbox, size
from pnloc.localizer import Choice, Localizer
from pnloc.run.run import Run
from pnloc.run.sets import NAMES
from pnloc.view.explorer import studies, wordview
from pnloc.view.explorer.studies import Starts, Study

try:
    import anywidget
    import ipywidgets as widgets
    import traitlets
except ModuleNotFoundError as error:
    raise PnlocError(
        f"the explorer needs {error.name}: pip install 'pnloc[notebooks]', or make env"
    ) from None

ACCEPTED = ".png,.jpg,.jpeg,.dcm,.dicom"
WARNING = "<b>Not a medical device.</b> Research software; nothing here is meant for the care of a patient."
ASKED = "A chest radiograph of your own, frontal, as PNG, JPEG or DICOM. It stays with this kernel."
STYLE = "<style>.pnloc-readout p { margin: 0.3rem 0; line-height: 1.45; } .pnloc-readout :is(td, th) { padding: 0 0.6rem 0 0; line-height: 1.45; text-align: right; }</style>"
SHOWN = 0.5  # attributes from this probability on are named first
Reader = Callable[[Path], tuple[Study, pd.DataFrame, pd.Series]]


class View(anywidget.AnyWidget):
    """The word-to-region view as a widget: `studies` and `starts` are what it draws, `state` what is chosen in it."""

    _esm = wordview.STATIC / "wordview.js"
    _css = wordview.STATIC / "wordview.css"
    studies = traitlets.List().tag(sync=True)
    starts = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)


class Explorer(widgets.VBox):
    """The view, and above it an image of one's own. `read` makes a study of a file; without it nothing can be loaded.

    Where there is no kernel the same view stands as HTML, but only if a page may show every study; else the output is marked.
    """

    def __init__(self, found: list[Study], starts: Starts, read: Reader | None = None) -> None:
        """`found` may be empty where `read` is given: the view begins with the first image that is loaded."""
        self.studies, self.read = list(found), read
        self.view = View(
            studies=[wordview.values(s) for s in found], starts=starts, state=self._begin(0, starts)
        )
        wide = widgets.Layout(width="auto")
        self.upload = widgets.FileUpload(
            accept=ACCEPTED, multiple=False, description="load an image", layout=wide
        )
        self.message, self.readout = widgets.HTML(ASKED), widgets.HTML()
        self.upload.observe(self._loaded, "value")
        own = [
            widgets.HBox([self.upload, self.message], layout=widgets.Layout(flex_flow="row wrap")),
            self.readout,
        ]
        super().__init__([widgets.HTML(WARNING), *(own if read else []), self.view])

    def _begin(self, study: int, starts: Starts) -> dict:
        share, most = starts["attribute"]
        return dict(
            study=study,
            other=-1,
            source="attribute",
            item=0,
            label=NAMES[0],
            share=share,
            most=most,
            truth=True,
        )

    @property
    def boxes(self) -> pd.DataFrame:
        """What is kept at the moment: x1, y1, x2, y2 (pixels of the square input) of the study that is shown."""
        state, kept = self.view.state, []
        if self.studies:
            one = self.studies[state["study"]]
            if state["source"] == "cam":
                kept = (
                    []
                    if one.heat is None
                    else heat_boxes(one.heat, state["share"], state["most"])[0]
                )
            else:
                order = wordview.ranked(
                    one.boxes, one.mass(state["source"], state["item"]), one.scores
                )
                kept = wordview.keep(order, state["share"], state["most"])
        return pd.DataFrame(kept, columns=["x1", "y1", "x2", "y2"], dtype=float)

    def _loaded(self, change: dict) -> None:
        """A file was chosen in the browser: show it, or say in one line why not."""
        for file in change["new"]:
            self.load(file["name"], bytes(file["content"]))
        self.upload.value = ()  # so that the same file may be chosen again

    def load(self, name: str, content: bytes) -> None:
        """Show an image of one's own: its boxes, attributes and severity; what cannot be read leaves a message and changes nothing."""
        name, self.readout.value = Path(name.replace("\\", "/")).name or "image", ""
        self.message.value = f"reading {escape(name)} …"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            try:
                path.write_bytes(content)
                study, boxes, attributes = self.read(path)
                letterbox = Letterbox(*size(path), study.side)
            except (PnlocError, OSError, ValueError) as error:
                said = str(error).replace(str(path), name)
                self.message.value = f'<span role="alert"><b>Not loaded.</b> {escape(said)}</span>'
                return
        self.studies.append(study)
        self.view.studies = [*self.view.studies, wordview.values(study)]
        self.view.state = {
            **self._begin(len(self.studies) - 1, self.view.starts),
            "other": self.view.state["other"],
        }
        self.message.value = (
            f"Loaded {escape(name)}, {letterbox.width} × {letterbox.height} pixels."
        )
        self.readout.value = readout(boxes, attributes, letterbox)

    def _repr_mimebundle_(self, **given: object) -> tuple[dict, dict]:
        """The widget; beside it HTML for who has no kernel, or a mark that keeps the output from being published."""
        found = super()._repr_mimebundle_(**given) or {}
        data, metadata = found if isinstance(found, tuple) else (found, {})
        if not all(study.shown for study in self.studies):
            return data, {**metadata, "pnloc": "credentialed"}
        if self.studies:
            data = {
                **data,
                "text/html": wordview.html(self.studies, self.view.starts, self.view.studies),
            }
        return data, metadata


def readout(boxes: pd.DataFrame, attributes: pd.Series, letterbox: Letterbox) -> str:
    """Boxes in pixels of the file, attributes and severity of one image, as HTML."""
    grade, share = studies.severity(boxes, attributes, letterbox)
    likely = attributes.iloc[1:].sort_values(ascending=False)
    named = likely[likely >= SHOWN] if (likely >= SHOWN).any() else likely.head(3)
    table = boxes.round({"x1": 0, "y1": 0, "x2": 0, "y2": 0, "score": 3}).astype(
        {c: int for c in ("x1", "y1", "x2", "y2")}
    )
    rows = (
        f"<p><b>Boxes</b>, in pixels of the file:</p>{table.to_html(index=False, border=0)}"
        if len(table)
        else "<p>No box.</p>"
    )
    return (
        f"{STYLE}<div class='pnloc-readout'><p><b>Pneumonia</b>: probability {attributes.iloc[0]:.2f}. "
        f"<b>Severity</b>: expected grade {grade:.2f} of 3 (0 none, 1 mild, 2 moderate, 3 severe); "
        f"boxes times scores cover {share:.1%} of the picture.</p>"
        f"<p><b>Attributes</b>: {', '.join(f'{escape(a)} {p:.2f}' for a, p in named.items())}.</p>{rows}</div>"
    )


def explore(run: Run, found: list[Study]) -> Explorer:
    """The explorer of a run: some of its studies, and images of one's own through its localizer and its Grad-CAM."""
    starts, layer = (
        studies.starts(run),
        str(int(studies.choices(run).loc[studies.SOURCES["cam"], "layer"])),
    )
    model, _ = run.localizer(True)
    choice = Choice(*starts["attribute"])
    localizer = Localizer(run.detector, model, NAMES, run.sets.vectors, choice, run.preset.regions)
    return Explorer(
        found, starts, lambda path: studies.read(path, localizer, run.classifier, layer)
    )
