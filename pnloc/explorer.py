"""The explorer: choose a study, a report word or an attribute, and see where the attention lies (ipywidgets).

`study` gathers what is drawn from a run; `draw` makes the picture, with or without a kernel's widgets; `explore`
puts the controls around it. Research only, not a medical device.
"""

import io
from dataclasses import dataclass

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure

from pnloc import figures, reports
from pnloc.boxes import group, select
from pnloc.localize import make_batch
from pnloc.stages import NAMES, Run

SOURCES = {"report word": "word", "attribute, image alone": "attribute", "detector alone": "detector"}


@dataclass(frozen=True)
class Study:
    """One study as drawn: R regions, W words of the report's asserting sentences, A attributes.

    image uint8 [S, S]; boxes [R, 4] in its pixels; scores [R]; alpha [W, R]; beta [A, R]; probabilities [A]; truth [n, 4].
    """

    name: str
    report: str
    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    words: list[str]
    alpha: np.ndarray
    beta: np.ndarray
    probabilities: np.ndarray
    truth: np.ndarray

    def mass(self, source: str, item: int) -> np.ndarray:
        """Weights [R] of the chosen word or attribute; the detector's scores, to a sum of one, where there is no word."""
        if source == "word" and len(self.words):
            return self.alpha[item]
        if source == "attribute":
            return self.beta[item]
        return self.scores / max(float(self.scores.sum()), 1e-9)


@torch.no_grad()
def study(run: Run, name: str, row: int, truth: np.ndarray | None = None) -> Study:
    """Gather one image row of a set of a run."""
    model, _ = run.localizer(True)
    regions = run.regions(name).rows([row])
    n = int(regions.valid[0].sum())
    text = run.texts(name)[row]
    words = reports.asserting_words(text, run.splitter)[: run.preset.words.most]
    batch = make_batch(regions, run.vectors.index(words)[None] if words else None)
    beta, logits = model.image_only(batch)
    alpha = model.text_attention(batch)[0, :, :n].cpu().numpy() if words else np.zeros((0, n))
    return Study(
        str(run.records(name).images["image"].iloc[row]),
        text,
        run.pixels(name)[row],
        regions.boxes[0, :n].numpy().astype(float),
        regions.scores[0, :n].numpy(),
        words,
        alpha,
        beta[0, :, :n].cpu().numpy(),
        torch.sigmoid(logits)[0].cpu().numpy(),
        np.zeros((0, 4)) if truth is None else truth,
    )


def draw(
    one: Study, source: str = "attribute", item: int = 0, share: float = 0.5, most: int = 2, show_truth: bool = True
) -> Figure:
    """The study with its attention (left) and the boxes that would be reported (right)."""
    mass = one.mass(source, item)
    grouped = group(one.boxes, mass, one.scores)
    kept = select(one.boxes, grouped, share, most)
    figure = Figure(figsize=(8.4, 4.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    figures.attention(one.image, one.boxes, mass, left, "attention over the regions")
    figures.radiograph(one.image, right, "boxes kept" + (" (truth dashed)" if show_truth else ""))
    figures.boxes(one.boxes[kept], right, figures.OURS)
    if show_truth:
        figures.boxes(one.truth, right, figures.TRUTH, dashed=True)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches=None)
    return buffer.getvalue()


def explore(studies: list[Study]) -> widgets.Widget:
    """Controls and picture for some studies; every change redraws the picture."""
    chosen = widgets.Dropdown(options=[(s.name, i) for i, s in enumerate(studies)], description="study")
    source = widgets.ToggleButtons(options=list(SOURCES.items()), value="attribute")
    item = widgets.Select(description="look for", rows=8)
    share = widgets.FloatSlider(
        value=0.5, min=0.1, max=1.0, step=0.05, description="threshold", continuous_update=False
    )
    most = widgets.IntSlider(value=2, min=1, max=5, description="boxes")
    truth = widgets.Checkbox(value=True, description="show truth")
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
    report = widgets.HTML()

    def options(_: object = None) -> None:
        one = studies[chosen.value]
        listed = {
            "word": [(word, i) for i, word in enumerate(one.words)],
            "attribute": [(f"{n} ({p:.2f})", i) for i, (n, p) in enumerate(zip(NAMES, one.probabilities, strict=True))],
            "detector": [],
        }[source.value]
        item.options = listed or [("(nothing to choose)", 0)]
        item.value = item.options[0][1]
        plain = one.report.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")
        report.value = f"<b>Report</b> (never read for the attributes)<br>{plain or '(none)'}"
        redraw()

    def redraw(_: object = None) -> None:
        picture.value = png(
            draw(studies[chosen.value], source.value, item.value or 0, share.value, most.value, truth.value)
        )

    for control in (chosen, source):
        control.observe(options, "value")
    for control in (item, share, most, truth):
        control.observe(redraw, "value")
    options()
    controls = widgets.VBox([chosen, source, item, share, most, truth])
    return widgets.VBox([widgets.HBox([controls, picture], layout=widgets.Layout(flex_flow="row wrap")), report])
