"""Figures draw their data where they lie, and nothing else."""

from itertools import product

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image

from pnloc.run.methods import METHODS
from pnloc.view import figures, overlays
from pnloc.view.tables import published

BOXES = np.array([[1.0, 2, 5, 9], [10, 10, 30, 20]])
NAN = float("nan")


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def lines(ax: Axes) -> dict[str, list]:
    """Labelled lines of an Axes: label -> y values."""
    named = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    return {line.get_label(): np.asarray(line.get_ydata(), float).tolist() for line in named}


def points(ax: Axes) -> list[list[float]]:
    """All points that scatter plots on an Axes show."""
    shown = [c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)]
    return [[float(v) for v in point] for offsets in shown for point in offsets]


def test_boxes_are_frames_at_their_places_with_their_scores(ax):
    figures.boxes(BOXES, ax, figures.OURS, np.array([0.456, 1.0]))
    shown = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches]
    assert shown == [(1, 2, 4, 7), (10, 10, 20, 10)] and not any(p.get_fill() for p in ax.patches)
    assert [t.get_text() for t in ax.texts] == ["0.46", "1.00"]


def test_attention_is_as_opaque_as_it_is_large_and_negligible_weights_are_left_out(ax):
    corners = np.array([[0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 6, 6.0]])
    figures.attention(np.zeros((9, 9)), corners, np.array([0.4, 0.8, 0.01]), ax)
    assert [(p.get_x(), p.get_alpha()) for p in ax.patches] == [(0, 0.5), (1, 1.0)]
    figures.attention(np.zeros((9, 9)), BOXES, np.zeros(2), ax)
    assert len(ax.patches) == 2


def test_accuracy_has_a_line_per_known_method_beside_the_published_ones(ax):
    methods = {"detector": 0.8, "text-attention": 0.9, "unheard-of": 0.5}
    rows = list(product(methods, ("iobb", "acc"), (0.3, 0.1)))
    table = pd.DataFrame(rows, columns=["method", "metric", "threshold"])
    value = table["method"].map(methods) - table["threshold"]
    table = table.assign(value=value, low=value - 0.1, high=value + 0.1)
    assert set(figures.COLOURS) < set(METHODS)
    figures.accuracy_curves(table, ax, published()["published_accuracy"])
    ours, detector, wang, readers = lines(ax).items()
    assert (ours[0], detector[0]) == ("text attention (ours)", "detector alone")
    assert ours[1] == pytest.approx([0.8, 0.6]) and detector[1] == pytest.approx([0.7, 0.5])
    assert (wang[1][0], readers[1][0]) == (0.6333, 0.97)


def test_a_forest_plot_has_a_point_per_row_and_a_bar_where_there_is_an_interval(ax):
    rows = [("detector", 0.5, 0.4, 0.7), ("mine", 0.2, NAN, NAN)]
    table = pd.DataFrame(rows, columns=["method", "value", "low", "high"])
    figures.intervals(table, ax, "method", {"detector": "#123456"})
    assert points(ax) == [[0.5, 0], [0.2, 1]]
    bars = [s.tolist() for s in ax.collections[0].get_segments() if len(s)]
    assert bars == [[[0.4, 0], [0.7, 0]]]


def test_a_zone_is_filled_inside_its_lung_only(ax):
    outline = np.zeros((2, 4, 6))
    outline[0, :, :2] = outline[1, :, 4:] = 1
    thirds = [(k / 3, (k + 1) / 3) for k in range(3)]
    places = np.array([[x, a, x + 0.5, b] for x in (0, 0.5) for a, b in thirds])
    figures.zone_map(np.arange(6.0), places, outline, ax, "mean", 6.0)
    picture = ax.images[0].get_array()
    assert picture.mask[:, 2:4].all() and not picture.mask[:, [0, 1, 4, 5]].any()
    assert picture[:, 0].tolist() == [0, 1, 1, 2] and picture[0, 5] == 3


@pytest.mark.parametrize(("height", "width"), [(60, 90), (300, 150), (10, 400)])
def test_an_overlay_has_the_proportions_of_its_image_and_its_box_in_place(tmp_path, height, width):
    picture = overlays.canvas(np.full((height, width), 80, np.uint8), width, height)
    box = [width / 4, 4, width / 2, 8, 0.9]
    overlays.draw(picture, width, height, [box], tmp_path / "o.png")
    shown, scale = Image.open(tmp_path / "o.png"), 900 / max(height, width)
    assert shown.format == "PNG"
    assert shown.size == pytest.approx((width * scale, max(height * scale, 60)), abs=1)
    pixels = np.asarray(shown.convert("RGB")).astype(int)
    ours = [int(figures.OURS[i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero((np.abs(pixels - ours) < 25).all(-1))
    right = width / 2 * scale
    assert columns[rows > 6 * scale].max() == pytest.approx(right, abs=4)
