"""A figure in words, for whoever cannot see it: what it draws, over what, and the names and numbers that stand in it.

Made from the Axes themselves, so that every figure has such a text and none is out of date. `describe` reads titles, axis labels,
legends, and the artists; `set_alt` replaces what it would say.
"""

import re

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle

MOST = 900  # characters; a screen reader cannot skip inside
_NONE = ("", "None")


def set_alt(figure: Figure, text: str) -> Figure:
    """Give a figure an alternative text of one's own."""
    figure.pnloc_alt = " ".join(text.split())
    return figure


def describe(figure: Figure) -> str:
    """The alternative text of a figure: its own (`set_alt`), else a sentence for each of its panels; '' where nothing is drawn."""
    own = getattr(figure, "pnloc_alt", "")
    if own:
        return own
    scales = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    told = [text for ax in figure.axes if ax not in scales and (text := _panel(ax))]
    if len(told) > 1 and len(set(told)) == 1:
        told = [f"{len(told)} panels, each: {told[0]}"]
    elif len(told) > 1:
        told = [
            f"{len(told)} panels",
            *(f"Panel {n}: {text}" for n, text in enumerate(told, start=1)),
        ]
    shades = sorted({ax.get_ylabel() or ax.get_xlabel() for ax in scales} - {""})
    text = re.sub(r"\s+", " ", ". ".join([*told, *(f"Colours show {s}" for s in shades)])).strip(
        " ."
    )
    return (
        f"{text}."
        if 0 < len(text) < MOST
        else f"{text[: MOST - 1].rpartition(' ')[0]} …"
        if text
        else ""
    )


def _panel(ax: Axes) -> str:
    """One panel: its title, what is drawn, and over which axes."""
    drawn = [
        part
        for part in (_pictures(ax), _lines(ax), _errors(ax), _points(ax), _bars(ax), _quartiles(ax))
        if part
    ]
    title = ax.get_title() or ax.get_title("left")
    labels = [label for label in (ax.get_ylabel(), ax.get_xlabel()) if label] if ax.axison else []
    over = [" against ".join(labels)] if labels and drawn else []
    return ": ".join(part for part in (title, "; ".join([*drawn, *over])) if part)


def _names(ax: Axes, across: bool) -> dict[float, str]:
    """The categories of an axis, by their place; none where it counts in numbers."""
    axis, places = (
        (ax.get_xticklabels(), ax.get_xticks())
        if across
        else (ax.get_yticklabels(), ax.get_yticks())
    )
    found = {
        float(place): label.get_text().split("\n")[0]
        for place, label in zip(places, axis, strict=True)
    }
    found = {place: name for place, name in found.items() if name}
    return (
        {}
        if all(re.fullmatch(r"[\W\d_]*(?:mathdefault)?[\W\d_]*", name) for name in found.values())
        else found
    )


def _pictures(ax: Axes) -> str:
    kinds = ["radiograph" if i.get_cmap().name == "gray" else "coloured map" for i in ax.images]
    frames = [p for p in ax.patches if isinstance(p, Rectangle) and not p.get_fill()]
    dashed = sum(p.get_linestyle() == "--" for p in frames)
    parts = [" under a ".join(kinds)] if kinds else []
    if len(frames) > dashed:
        parts.append(_count(len(frames) - dashed, "box", "boxes"))
    if dashed:
        parts.append(_count(dashed, "dashed box", "dashed boxes"))
    return " with ".join(parts)


def _lines(ax: Axes) -> str:
    """Lines by their legend; or, where each row of the vertical axis has a point, the rows with their values."""
    rows = _rows(ax)
    if rows:
        return "points with intervals: " + ", ".join(f"{name} {value:.3g}" for name, value in rows)
    named = [
        line
        for line in ax.lines
        if not str(line.get_label()).startswith("_") and len(line.get_xdata()) > 1
    ]
    return ("lines: " + ", ".join(_ends(line) for line in named)) if named else ""


def _ends(line: Line2D) -> str:
    values = np.asarray(line.get_ydata(), dtype=float)
    values = values[np.isfinite(values)]
    return (
        f"{line.get_label()} from {values[0]:.3g} to {values[-1]:.3g}"
        if len(values)
        else str(line.get_label())
    )


def _rows(ax: Axes) -> list[tuple[str, float]]:
    names = _names(ax, across=False)
    single = [
        line
        for line in ax.lines
        if len(line.get_xdata()) == 1 and str(line.get_marker()) not in _NONE
    ]
    found = [
        (names.get(float(line.get_ydata()[0]), ""), float(line.get_xdata()[0])) for line in single
    ]
    return found if len(found) > 1 and all(name for name, _ in found) else []


def _errors(ax: Axes) -> str:
    """Points with error bars: their legend, and the categories that they stand for."""
    bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer) and c.lines[0] is not None]
    if not bars:
        return ""
    across = np.ptp(np.asarray(bars[0].lines[0].get_xdata(), dtype=float)) == 0
    names = list(_names(ax, across).values())
    series = [c.get_label() for c in bars if not str(c.get_label()).startswith("_")]
    parts = [
        f" of {', '.join(series)}" if series else "",
        f" for {', '.join(names)}" if names else "",
    ]
    return f"points with intervals{''.join(parts)}"


def _points(ax: Axes) -> str:
    count = sum(len(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection))
    return _count(count, "point", "points") + _for(ax) if count else ""


def _bars(ax: Axes) -> str:
    """Bars by their category, where the axis has categories; else how many."""
    bars = [
        p
        for p in ax.patches
        if isinstance(p, Rectangle) and p.get_fill() and p.get_width() and p.get_height()
    ]
    return _count(len(bars), "bar", "bars") + _for(ax) + _legend(ax) if bars else ""


def _quartiles(ax: Axes) -> str:
    count = sum(isinstance(p, PathPatch) for p in ax.patches)
    return _count(count, "box plot", "box plots") + _for(ax) + _legend(ax) if count else ""


def _for(ax: Axes) -> str:
    names = list((_names(ax, across=False) or _names(ax, across=True)).values())
    return f" for {', '.join(names)}" if 0 < len(names) <= 25 else ""


def _legend(ax: Axes) -> str:
    return (
        f", divided into {', '.join(t.get_text() for t in ax.get_legend().get_texts())}"
        if ax.get_legend()
        else ""
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
