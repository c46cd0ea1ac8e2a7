"""Figures: each function draws a table or an image on an Axes and returns the Axes.

No metric is computed here, and nothing is saved. Colours mean the same everywhere:
TRUTH, OURS and those of the methods (looks.csv), from seaborn's palette for the colour-blind.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pnloc import access
from pnloc.run.methods import METHODS
from pnloc.view import LOOKS, OURS

COLOURS, MARKERS = LOOKS["colour"].to_dict(), LOOKS["marker"].to_dict()
Array = np.ndarray
TRUTH, BLUE = "#029e73", COLOURS["detector"]
GREY, DARK = "#777777", "#444444"
# Lines of the experiment: whose look they have, and their title.
WORTH = tomllib.loads(Path(__file__).with_name("tables.toml").read_text(encoding="utf-8"))["worth"]
TITLES = {method.name: method.title for method in METHODS.values()} | {
    "detector-top": "detector's best region alone",
    "classifier": "classifier behind CAM",
    "text-attention-calibrated": "text attention, calibrated",
}


def reader_name(method: str) -> str:
    """The title of a method, or its name."""
    return TITLES.get(method, method)


def style() -> None:
    """The style of every figure of the book."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.style.use(Path(__file__).with_name("pnloc.mplstyle"))


# Images ---------------------------------------------------------------------------------------


def radiograph(image: Array, ax: Axes, title: str = "") -> Axes:
    """A grey image [H, W] without axes; the drawn image carries its access class (pnloc.access)."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=255).set_gid(access.of(image) or None)
    ax.set_axis_off()
    ax.set_title(title, fontsize=9)
    return ax


def boxes(corners: Array, ax: Axes, colour: str, scores: Array | None = None, **line) -> Axes:
    """Boxes [n, 4] in pixels of the image on the Axes, labelled with their scores [n] if any.

    line: of the edges, as matplotlib takes it (lw, ls, alpha).
    """
    for row, (x1, y1, x2, y2) in enumerate(np.reshape(corners, (-1, 4))):
        look = {"fill": False, "ec": colour, "lw": 2.0, **line}
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **look))
        if scores is not None:
            label = {"color": "white", "fontsize": 7, "backgroundcolor": colour}
            ax.text(x1, y1 - 2, f"{scores[row]:.2f}", va="bottom", **label)
    return ax


def attention(image: Array, corners: Array, weights: Array, ax: Axes, colour: str = OURS) -> Axes:
    """Attention over regions: boxes [n, 4], thicker and more opaque for larger weights [n]."""
    radiograph(image, ax)
    strengths = np.asarray(weights) / max(np.max(weights, initial=0), 1e-9)
    for box, strength in zip(corners, strengths.tolist(), strict=True):
        if strength > 0.02:
            boxes(box, ax, colour, alpha=strength, lw=0.5 + 2.5 * strength)
    return ax


def heat_map(heat: Array, ax: Axes, label: str) -> Axes:
    """A map [h, w] of the unit square, with a labelled colour bar."""
    shades = ax.imshow(heat, cmap="cividis", extent=(0, 1, 1, 0))
    ax.figure.colorbar(shades, ax=ax, label=label, shrink=0.8)
    ax.set(xlabel="x (relative)", ylabel="y (relative)")
    ax.grid(visible=False)
    return ax


# Training -------------------------------------------------------------------------------------


def history(table: pd.DataFrame, ax: Axes) -> Axes:
    """Loss terms per epoch: columns epoch, loss (their sum) and one per term."""
    for name in table.columns.drop("epoch"):
        ax.plot(table["epoch"] + 1, table[name], label=name, lw=2.5 if name == "loss" else 1.5)
    ax.set(xlabel="epoch", ylabel="loss (weighted terms)", ylim=(0, None))
    ax.legend(fontsize=8, frameon=False)
    return ax


# Tables with intervals ------------------------------------------------------------------------


def whiskers(rows: pd.DataFrame, places: Array, ax: Axes, **look: object) -> None:
    """Points at `value` with bars from `low` to `high`, if there are any, at heights `places`."""
    ax.hlines(places, rows["low"], rows["high"], colors=look["color"], lw=2.5)
    ax.scatter(rows["value"], places, s=32, zorder=3, **look)


def named_rows(names: Sequence[str], ax: Axes) -> None:
    """Names on the vertical axis, the first on top."""
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def look_of(method: str) -> dict[str, str]:
    """Colour, marker and title of a method, as matplotlib takes them; grey without a look."""
    look = {"color": COLOURS.get(method, GREY), "marker": MARKERS.get(method, "p")}
    return look | {"label": reader_name(method)}


def legend(ax: Axes) -> None:
    """The legend of an Axes, to its right."""
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def accuracy_curves(table: pd.DataFrame, ax: Axes, reference: pd.DataFrame | None = None) -> Axes:
    """Accuracy against the IoU threshold per method of looks.csv, some with 95% bands.

    Columns method, metric, threshold, value, low, high; reference: threshold, value, line of
    published results.
    """
    table = table[table["metric"] == "acc"].sort_values("threshold").set_index("threshold")
    for method, look in LOOKS[LOOKS.index.isin(table["method"])].iterrows():
        rows = table[table["method"] == method]
        ax.plot(rows["value"], ls=look["line"], ms=5, **look_of(method))
        if look["band"] == "yes":
            band = {"color": look["colour"], "alpha": 0.15, "lw": 0}
            ax.fill_between(rows.index, rows["low"], rows["high"], **band)
    lines = [] if reference is None else reference.groupby("line", sort=False)
    for (line, rows), dash in zip(lines, (":", "-."), strict=False):
        ax.plot(rows["threshold"], rows["value"], color=GREY, ls=dash, lw=1.5, label=line)
    ax.set(xlabel="T(IoU)", ylabel="share of true boxes found", ylim=(0, 1.02), xlim=(0.08, 0.72))
    legend(ax)
    return ax


def intervals(table: pd.DataFrame, ax: Axes, label: str, colours: dict | None = None) -> Axes:
    """A forest plot: a row per value of column `label`; columns value, low, high.

    colours: by that value.
    """
    looks = [(colours or {}).get(name, BLUE) for name in table[label]]
    whiskers(table, np.arange(len(table)), ax, color=looks)
    named_rows([reader_name(name) for name in table[label]], ax)
    return ax


def worth(table: pd.DataFrame, metric: str, ax: Axes) -> Axes:
    """A metric against the number of boxed images, with 95% bands (experiments.tables.curve).

    Columns line, boxes, metric, value, low, high. What reads no image is dashed; what has learned
    from no box is a mark without a line.
    """
    rows = table[table["metric"] == metric].sort_values("boxes")
    places = {boxes: place for place, boxes in enumerate(rows["boxes"].drop_duplicates())}
    for line, (method, title) in WORTH.items():
        own, look = rows[rows["line"] == line], look_of(method) | {"label": title}
        where = own["boxes"].map(places)
        ax.plot(where, own["value"], ls=LOOKS["line"].get(method, "none"), ms=6, **look)
        if LOOKS["band"].get(method) == "yes":
            ax.fill_between(where, own["low"], own["high"], color=look["color"], alpha=0.15, lw=0)
    ax.set_xticks(range(len(places)), [f"{boxes}" for boxes in places])
    ax.set(xlabel="boxed images", ylabel=metric)
    return ax


# Severity -------------------------------------------------------------------------------------


def zone_map(zones: Array, places: Array, outline: Array, ax: Axes, label: str, top: float) -> Axes:
    """Six values, A to F, each filling its zone of the lungs.

    places: zones [6, 4] in relative coordinates; outline: probabilities [2, h, w] of the two lungs;
    top: value of the darkest colour.
    """
    height, width = outline.shape[1:]
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    picture = np.full((height, width), np.nan)
    for number, (value, (x1, y1, x2, y2)) in enumerate(zip(zones, places, strict=True)):
        inside = np.outer((y1 <= y) & (y < y2), (x1 <= x) & (x < x2))
        picture[inside & (outline[number // 3] > 0.5)] = value
        centre = ((x1 + x2) / 2 * width - 0.5, (y1 + y2) / 2 * height - 0.5)
        look = {"fontsize": 9, "color": "white" if value > 0.55 * top else "black"}
        ax.text(*centre, f"{'ABCDEF'[number]}\n{value:.2f}", ha="center", va="center", **look)
    shades = ax.imshow(picture, cmap="cividis_r", vmin=0, vmax=top)
    for lung in outline:
        ax.contour(lung, levels=[0.5], colors=DARK, linewidths=1)
    ax.figure.colorbar(shades, ax=ax, label=label, shrink=0.8)
    ax.set_axis_off()
    return ax


def severity_overlay(image: Array, mask: Array, lungs: Array, ax: Axes, title: str) -> Axes:
    """A radiograph [S, S] under the detectors' mask [h, w], with lung boxes [2, 4] (relative)."""
    side = image.shape[-1]
    radiograph(image, ax, title)
    look = {"cmap": "inferno", "vmin": 0, "vmax": 1, "interpolation": "bilinear"}
    ax.imshow(mask, alpha=0.6 * mask, extent=(-0.5, side - 0.5, side - 0.5, -0.5), **look)
    return boxes(lungs * side, ax, COLOURS["fixed-boxes"], ls="--", lw=1.2)
