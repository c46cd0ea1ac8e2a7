"""The word-to-region view: studies as JSON that static/wordview.js draws, alone or in a page.

`html` needs neither a kernel nor a network; it takes only studies that a page may show
(pnloc.run.sets.Sets.may_show).
"""

import base64
import io
import json
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from matplotlib import colormaps
from PIL import Image

from explorer.studies import Item, Starts, Study
from pnloc.baselines.heatmaps import HeatChoice, boxes_of
from pnloc.boxes import fuse, group, suppress
from pnloc.errors import PnlocError
from pnloc.files import digest

STATIC = Path(__file__).parent / "static"
MOST = 5  # boxes that the control goes up to
SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))  # steps of the threshold's control
HEAT_SIDE = 64  # cells of the heat map that is shown
OVERLAP = 0.3  # that of pnloc.boxes.select


def ranked(boxes: np.ndarray, mass: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    """Score relative to the best one and box (x1, y1, x2, y2) of each place, best first.

    Places are what grouping, suppression and fusion leave of the regions. The boxes of
    pnloc.localizer.pick are the first few of them whose score reaches the threshold.
    """
    grouped = group(boxes, mass, scores)
    rows = suppress(boxes, grouped, OVERLAP)
    best = grouped[rows].max(initial=0.0)
    relative = grouped[rows] / best if best > 0 else np.ones(len(rows))
    table = np.column_stack([relative.round(6), fuse(boxes, grouped, rows).round(1)])
    return table.tolist()


def values(study: Study) -> dict:
    """A study as plain values for static/wordview.js."""

    def plain(item: Item) -> dict:
        places = ranked(study.boxes, item.mass, study.scores)
        return asdict(item) | {"mass": item.mass.astype(float).round(4).tolist(), "ranked": places}

    shown = {
        key: getattr(study, key)
        for key in ("name", "credit", "report", "side", "reading", "warning")
    }
    shown |= {key: getattr(study, key).round(1).tolist() for key in ("boxes", "truth")}
    for key in ("words", "phrases", "attributes"):
        shown[key] = [plain(item) for item in getattr(study, key)]
    image = _uri(Image.fromarray(study.image), "JPEG", quality=85)
    cam = {"image": heat_png(study.heat), "boxes": cam_boxes(study.heat)}
    return shown | {"detector": plain(study.detector), "image": image, "cam": cam}


def cam_boxes(heat: np.ndarray) -> list[list[list[float]]]:
    """Up to MOST boxes of a heat map [S, S] at each of SHARES."""
    return [boxes_of(heat, HeatChoice("", share, MOST))[0].tolist() for share in SHARES]


def heat_png(heat: np.ndarray) -> str:
    """A heat map [S, S], 0 to 1, as the data URI of a PNG, more opaque where it is hotter."""
    whole = Image.fromarray(heat.astype(np.float32))
    level = np.asarray(whole.resize((HEAT_SIDE, HEAT_SIDE), Image.Resampling.BILINEAR)).clip(0, 1)
    colour = colormaps["inferno"](level, bytes=True)
    colour[..., 3] = (level * 145).astype(np.uint8)
    return _uri(Image.fromarray(colour), "PNG")


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def html(studies: list[Study], starts: Starts, plain: list[dict] | None = None) -> str:
    """Studies as one piece of HTML with its script, style and images.

    plain: their `values`, if at hand. Raises PnlocError for a study that no page may show.
    """
    for study in studies:
        if not study.shown:
            reasons = "credentialed, one's own, or of a licence that forbids it"
            raise PnlocError(f"{study.name}: no page may show this study ({reasons}); leave it out")
    shown = {"studies": plain or [values(study) for study in studies], "starts": starts}
    data = json.dumps(shown, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    names = ("html", "css", "js")
    files = {n: (STATIC / f"wordview.{n}").read_text(encoding="utf-8") for n in names}
    name, listed = f"pnloc-{digest(data)[:12]}", ", ".join(escape(one.name) for one in studies)
    return Template(files["html"]).substitute(files, name=name, studies=listed, data=data)
