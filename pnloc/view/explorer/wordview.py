"""The word-to-region view: studies as plain values that static/wordview.js draws, and as HTML that needs neither a kernel nor a network.

A page is made only of studies that a page may show (pnloc.run.sets.Sets.may_show).
"""

import base64
import io
import json
from functools import lru_cache
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from pnloc.baselines.heatmaps import heat_boxes
from pnloc.boxes import fuse, group, suppress
from pnloc.errors import PnlocError
from pnloc.files import digest
from pnloc.run.sets import NAMES
from pnloc.view.explorer.studies import Starts, Study

STATIC = Path(__file__).parent / "static"
MOST = 5  # boxes that the control goes up to
SHARES = tuple(
    round(0.05 * step, 2) for step in range(1, 21)
)  # what the threshold's control goes through
HEAT_SIDE = 64  # cells of the heat map that is shown
OVERLAP = 0.3  # that of pnloc.boxes.select


def ranked(boxes: np.ndarray, mass: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    """Score relative to the best and box (x1, y1, x2, y2), best first, of the regions that stay after grouping, suppression and fusion."""
    grouped = group(boxes, mass, scores)
    kept = suppress(boxes, grouped, OVERLAP)
    best = grouped[kept[0]] if len(kept) else 0.0
    relative = grouped[kept] / best if best > 0 else np.ones(len(kept))
    return [
        [round(float(r), 6), *map(float, box.round(1))]
        for r, box in zip(relative, fuse(boxes, grouped, kept), strict=True)
    ]


def keep(order: list[list[float]], share: float, most: int) -> np.ndarray:
    """The boxes [n, 4] that a threshold and a number leave of what `ranked` gave: those of pnloc.localizer.pick, to a tenth of a pixel."""
    return np.array([box for relative, *box in order if relative >= share - 1e-6][:most]).reshape(
        -1, 4
    )


def values(study: Study) -> dict:
    """A study as JSON's plain values; see the head of static/wordview.js for who draws them."""

    def item(label: str, source: str, number: int = 0, **more: object) -> dict:
        mass = study.mass(source, number)
        order = ranked(study.boxes, mass, study.scores)
        return {"label": label, "mass": [round(float(m), 4) for m in mass], "ranked": order, **more}

    return {
        "name": study.name,
        "credit": study.credit,
        "image": jpeg(study.image),
        "side": study.side,
        "boxes": study.boxes.round(1).tolist(),
        "truth": study.truth.round(1).tolist(),
        "report": study.report,
        "words": [
            item(word, "word", k, start=start, end=end)
            for k, (word, (start, end)) in enumerate(zip(study.words, study.spans, strict=True))
        ],
        "phrases": [item(text, "phrase", k) for k, text in enumerate(study.phrases)],
        "attributes": [
            item(name, "attribute", k, probability=round(float(study.probabilities[k]), 3))
            for k, name in enumerate(NAMES)
        ],
        "detector": item("detector", "detector"),
        "cam": None
        if study.heat is None
        else {"image": heat_png(study.heat), "boxes": cam_boxes(study.heat)},
    }


def cam_boxes(heat: np.ndarray) -> list[list[list[float]]]:
    """The boxes [n, 4] of a heat map [S, S] at each of SHARES, MOST at the most."""
    return [heat_boxes(heat, share, MOST)[0].tolist() for share in SHARES]


def jpeg(image: np.ndarray) -> str:
    """A grey image uint8 [H, W] as the data URI of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def heat_png(heat: np.ndarray) -> str:
    """A heat map [S, S], 0 to 1, as the data URI of a PNG that is the more opaque the hotter it is."""
    small = Image.fromarray(heat.astype(np.float32)).resize(
        (HEAT_SIDE, HEAT_SIDE), Image.Resampling.BILINEAR
    )
    level = np.asarray(small).clip(0, 1)
    colour = (colormaps["inferno"](level) * 255).astype(np.uint8)
    colour[..., 3] = (level * 145).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colour).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@lru_cache
def source(name: str) -> str:
    """The text of a file of static/."""
    return (STATIC / name).read_text(encoding="utf-8")


def html(studies: list[Study], starts: Starts, made: list[dict] | None = None) -> str:
    """Studies as one piece of HTML with its script, style and pictures; its first lines stand where scripts do not run.

    `made` are their `values`, where these are at hand. Raises PnlocError where a study is one that no page may show.
    """
    refuse_hidden(studies)
    given = {"studies": [values(s) for s in studies] if made is None else made, "starts": starts}
    data = json.dumps(given, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    name = f"pnloc-{digest(data)[:12]}"
    listed = ", ".join(escape(s.name) for s in studies)
    return (
        f"<style>{source('wordview.css')}</style>\n"
        f'<div id="{name}" role="region" aria-label="where words and attributes look">\n'
        f"<p>This view needs JavaScript; the figures on this page show the same without. Studies: {listed}.</p></div>\n"
        f'<script type="application/json" id="{name}-data">{data}</script>\n'
        f'<script type="module">{source("wordview.js")}\n'
        f'mount(document.getElementById("{name}"), JSON.parse(document.getElementById("{name}-data").textContent));</script>'
    )


def refuse_hidden(studies: list[Study]) -> None:
    """Raise PnlocError for the first study that no page may show."""
    for study in studies:
        if not study.shown:
            raise PnlocError(
                f"{study.name}: no page may show this study (credentialed, one's own, or of a licence that forbids it); leave it out"
            )
