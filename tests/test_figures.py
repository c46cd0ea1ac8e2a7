"""Figures: each draws what it is given, in the colour that means it."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from pnloc.config import BASELINES
from pnloc.evaluation import published
from pnloc.view import figures

FOUND = np.array([[1.0, 2, 5, 9], [10, 10, 30, 20]])


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def curves(*methods: str) -> pd.DataFrame:
    """Accuracy rows in no order, and another metric that must not be drawn."""
    rows = [
        (method, metric, t, v - t / 2, v - t / 2 - 0.1, v - t / 2 + 0.1)
        for method, v in zip(methods, (0.9, 0.8, 0.7, 0.6), strict=False)
        for metric in ("iobb", "acc")
        for t in (0.3, 0.1, 0.2)
    ]
    return pd.DataFrame(rows, columns=["method", "metric", "threshold", "value", "low", "high"])


def test_every_method_has_a_name_a_colour_and_a_marker_of_its_own():
    assert list(figures.NAMES) == list(figures.MARKERS) and set(figures.COLOURS) == set(
        figures.NAMES
    )
    for looks in (figures.COLOURS, figures.NAMES, figures.MARKERS):
        assert len(set(looks.values())) == len(figures.NAMES)
    assert (
        figures.TRUTH not in figures.COLOURS.values()
        and figures.COLOURS["text-attention"] == figures.OURS
    )


def test_every_method_of_the_tables_has_a_name_for_readers():
    from pnloc.run import predictions as predict

    names = [
        figures.reader_name(m)
        for m in (*predict.METHODS, *BASELINES, *(f"{m}-raw" for m in predict.ATTENTION))
    ]
    assert len(set(names)) == len(names) and not set(names) & set(predict.METHODS)
    assert (
        figures.reader_name("detector-raw") == "detector alone, ungrouped"
        and figures.reader_name("unheard-of") == "unheard-of"
    )


def test_style_sets_the_look_of_all_figures():
    with matplotlib.rc_context():
        figures.style()
        assert plt.rcParams["figure.dpi"] == 110 and plt.rcParams["figure.constrained_layout.use"]
        assert plt.rcParams["axes.grid"] is True


def test_a_radiograph_is_grey_over_the_whole_range_and_without_axes(ax):
    image = np.full((4, 6), 100, dtype=np.uint8)
    assert figures.radiograph(image, ax, "one") is ax
    drawn = ax.images[0]
    assert (
        np.array_equal(drawn.get_array(), image)
        and drawn.get_clim() == (0, 255)
        and drawn.cmap.name == "gray"
    )
    assert not ax.axison and ax.get_title() == "one"


def test_boxes_are_frames_at_their_places(ax):
    figures.boxes(FOUND, ax, figures.TRUTH, dashed=True, width=3)
    assert [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches] == [
        (1, 2, 4, 7),
        (10, 10, 20, 10),
    ]
    assert {to_hex(p.get_edgecolor()) for p in ax.patches} == {figures.TRUTH}
    assert {(p.get_fill(), p.get_linestyle(), p.get_linewidth()) for p in ax.patches} == {
        (False, "--", 3)
    }
    assert len(ax.texts) == 0


def test_boxes_carry_their_scores_where_given(ax):
    figures.boxes(FOUND, ax, figures.OURS, np.array([0.456, 1.0]))
    assert [t.get_text() for t in ax.texts] == ["0.46", "1.00"]
    assert [t.get_position() for t in ax.texts] == [(1, 0), (10, 8)]
    assert {p.get_linestyle() for p in ax.patches} == {"-"}


def test_no_boxes_draw_nothing(ax):
    figures.boxes(np.zeros((0, 4)), ax, figures.OURS, np.zeros(0))
    assert len(ax.patches) == len(ax.texts) == 0


def test_accuracy_has_a_line_per_method_in_order_and_bands_for_three(ax):
    figures.accuracy_curves(curves("detector", "text-attention", "grad-cam", "unheard-of"), ax)
    assert [line.get_label() for line in ax.lines] == [
        "text attention (ours)",
        "detector alone",
        "Grad-CAM",
    ]
    methods = ("text-attention", "detector", "grad-cam")
    assert [line.get_color() for line in ax.lines] == [figures.COLOURS[m] for m in methods]
    assert ax.lines[1].get_xdata().tolist() == [0.1, 0.2, 0.3]
    assert ax.lines[1].get_ydata().tolist() == pytest.approx([0.85, 0.8, 0.75])
    assert [to_hex(c.get_facecolor()[0]) for c in ax.collections] == [
        figures.COLOURS[m] for m in methods[:2]
    ]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        line.get_label() for line in ax.lines
    ]
    assert ax.get_ylim() == (0, 1.02)


def test_the_prior_and_the_ceiling_are_dashed(ax):
    figures.accuracy_curves(curves("fixed-boxes", "best-proposal", "grad-cam"), ax)
    looks = {line.get_label(): line.get_linestyle() for line in ax.lines}
    names = figures.NAMES
    assert looks == {
        names["fixed-boxes"]: "--",
        names["best-proposal"]: "--",
        names["grad-cam"]: "-",
    }


def test_published_lines_stand_beside_in_grey(ax):
    figures.accuracy_curves(curves("detector"), ax, published.lines())
    _, wang, readers = ax.lines
    assert wang.get_label() == "Wang et al. 2017, 120 boxes" and readers.get_label().startswith(
        "RSNA readers"
    )
    assert wang.get_xdata().tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert wang.get_ydata().tolist() == [0.6333, 0.35, 0.1666, 0.075, 0.0333, 0.0166, 0.0083]
    assert readers.get_ydata().tolist() == [0.97, 0.9, 0.82, 0.71, 0.58, 0.34, 0.16]
    assert wang.get_color() == readers.get_color() == "#777777"


def test_intervals_have_a_point_and_a_bar_per_row_from_the_top(ax):
    table = pd.DataFrame(
        {"method": ["detector", "mine"], "value": [0.5, 0.2], "low": [0.4, 0.1], "high": [0.7, 0.3]}
    )
    figures.intervals(table, ax, "method", "IoU", {"detector": "#123456"}, zero=True)
    data = [(line.get_xdata(), line.get_ydata(), line.get_color()) for line in ax.lines]
    assert [(list(x), list(y)) for x, y, _ in data[:4]] == [
        ([0.4, 0.7], [0, 0]),
        ([0.5], [0]),
        ([0.1, 0.3], [1, 1]),
        ([0.2], [1]),
    ]
    assert data[0][2] == data[1][2] == "#123456" and data[2][2] == data[3][2] != "#123456"
    assert len(data) == 5 and list(data[4][0]) == [0, 0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["detector alone", "mine"]
    assert ax.yaxis_inverted() and ax.get_xlabel() == "IoU"


def test_a_row_without_an_interval_has_its_point_alone(ax):
    nan = float("nan")
    figures.intervals(
        pd.DataFrame({"m": ["x"], "value": [0.5], "low": [nan], "high": [nan]}), ax, "m", "r"
    )
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.5]]


def test_a_place_map_counts_boxes_per_place(ax):
    figures.place_map(np.array([[0, 0, 0.5, 1], [0, 0.5, 0.5, 1.0]]), ax, cells=4)
    assert ax.images[0].get_array().tolist() == [[0.5, 0.5, 0, 0]] * 2 + [[1, 1, 0, 0]] * 2
    assert tuple(ax.images[0].get_extent()) == (0, 1, 1, 0)
    assert ax.figure.axes[1].get_ylabel() == "share of boxes"


def test_attention_is_as_opaque_as_it_is_large_and_leaves_out_what_is_next_to_nothing(ax):
    found = np.array([[0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 6, 6.0]])
    figures.attention(np.zeros((9, 9)), found, np.array([0.4, 0.8, 0.01]), ax, "word")
    assert [(p.get_x(), p.get_alpha(), p.get_linewidth()) for p in ax.patches] == [
        (0, 0.5, 1.75),
        (1, 1.0, 3.0),
    ]
    assert {to_hex(p.get_edgecolor()) for p in ax.patches} == {
        figures.OURS
    } and ax.get_title() == "word"


def test_attention_over_nothing_draws_the_image_alone(ax):
    figures.attention(np.zeros((9, 9)), np.zeros((0, 4)), np.zeros(0), ax)
    figures.attention(np.zeros((9, 9)), FOUND, np.zeros(2), ax)
    assert len(ax.patches) == 0 and len(ax.images) == 2


def test_history_has_a_line_per_term_and_counts_epochs_from_one(ax):
    figures.history(
        pd.DataFrame({"epoch": [0, 1], "loss": [3.0, 2.0], "contrastive": [1.0, 0.5]}), ax
    )
    assert [(line.get_label(), line.get_linewidth()) for line in ax.lines] == [
        ("loss", 2.5),
        ("contrastive", 1.5),
    ]
    assert ax.lines[0].get_xdata().tolist() == [1, 2] and ax.lines[1].get_ydata().tolist() == [
        1,
        0.5,
    ]
    assert ax.get_ylim()[0] == 0


def test_a_scatter_shows_the_scored_images_and_their_line(ax):
    table = pd.DataFrame(
        {"area": [0.1, 0.2, 0.3, np.nan, 0.5], "extent": [1.0, 2.0, 3.0, 4.0, np.nan]}
    )
    figures.severity_scatter(table, "area", "extent", ax, "geographic extent (0-8)")
    points = ax.collections[0]
    assert np.asarray(points.get_offsets()).tolist() == [[0.1, 1], [0.2, 2], [0.3, 3]]
    slope = np.diff(ax.lines[0].get_ydata()) / np.diff(ax.lines[0].get_xdata())
    assert slope == pytest.approx(np.full(len(slope), 10))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("area", "geographic extent (0-8)")


@pytest.mark.parametrize(("height", "width"), [(60, 90), (300, 150), (1000, 1000), (10, 400)])
def test_an_overlay_has_the_proportions_of_its_image(tmp_path, height, width):
    image = np.full((height, width), 80, dtype=np.uint8)
    figures.overlay(
        image, pd.DataFrame(columns=["x1", "y1", "x2", "y2", "score"]), tmp_path / "o.png"
    )
    with Image.open(tmp_path / "o.png") as drawn:
        assert drawn.format == "PNG" and max(drawn.size) == 900
        expected = (width * 900 / max(height, width), max(height * 900 / max(height, width), 60))
        assert drawn.size == pytest.approx(expected, abs=1)


def test_an_overlay_draws_its_boxes_where_they_are(tmp_path):
    image = np.full((100, 200), 80, dtype=np.uint8)
    found = pd.DataFrame([(50, 40, 150, 80, 0.9)], columns=["x1", "y1", "x2", "y2", "score"])
    figures.overlay(image, found, tmp_path / "o.png")
    assert [p.name for p in tmp_path.iterdir()] == ["o.png"]
    with Image.open(tmp_path / "o.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert pixels.shape == (450, 900, 3)
    red, green, blue = (int(figures.OURS[i : i + 2], 16) for i in (1, 3, 5))
    rows, columns = np.nonzero((np.abs(pixels - [red, green, blue]) < 25).all(-1))
    columns = columns[rows > 200]  # below the score
    # 4.5 pixels of the file per pixel of the image, whose first pixel has its centre at 0.
    assert (columns.min(), columns.max()) == pytest.approx((227, 677), abs=4)
    assert rows.max() == pytest.approx(362, abs=4)
    assert pixels[270, 450].tolist() == [80, 80, 80], "a frame, not a filled box"


def test_agreement_shows_differences_against_means_and_three_lines(ax):
    figures.severity_agreement(
        np.array([1.0, 4.0]), np.array([3.0, 2.0]), (0.0, -4.0, 4.0), ax, "extent"
    )
    assert np.asarray(ax.collections[0].get_offsets()).tolist() == [[2, -2], [3, 2]]
    assert [line.get_ydata()[0] for line in ax.lines] == [0, -4, 4]
    assert [text.get_text() for text in ax.texts] == ["+0.0", "-4.0", "+4.0"]


def test_classes_stand_in_their_order_with_their_numbers_and_absent_ones_are_left_out(ax):
    table = pd.DataFrame({"grade": ["severe", "none", "none"], "value": [0.9, 0.1, 0.2]})
    figures.severity_classes(table, "value", "grade", ax, ["none", "mild", "severe"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["none\nn=2", "severe\nn=1"]
    points = [tuple(p) for c in ax.collections for p in np.asarray(c.get_offsets())[:, 1:]]
    assert sorted(v for (v,) in points) == [0.1, 0.2, 0.9]


def test_two_readers_are_a_bar_with_their_mean(ax):
    table = pd.DataFrame({"x": [0.5], "senior": [4.0], "junior": [8.0]})
    figures.severity_readers(table, "x", ("senior", "junior"), ax, "Brixia")
    bars, points = ax.collections
    assert bars.get_segments()[0].tolist() == [[0.5, 4], [0.5, 8]]
    assert np.asarray(points.get_offsets()).tolist() == [[0.5, 6]]


def test_a_zone_map_fills_the_zones_inside_the_outline(ax):
    outline = np.zeros((2, 24, 24))
    outline[0, 3:21, 2:10], outline[1, 3:21, 14:22] = 1, 1
    places = np.array(
        [
            [x, y, x + 8 / 24, y + 6 / 24]
            for x in (2 / 24, 14 / 24)
            for y in (3 / 24, 9 / 24, 15 / 24)
        ]
    )
    figures.zone_map(np.arange(6.0), places, outline, ax, "mean", "score", 6.0)
    picture = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert (
        picture[4, 3] == 0 and picture[19, 5] == 2 and picture[4, 15] == 3 and picture[12, 20] == 4
    )
    assert np.isnan(picture[12, 12]) and np.isfinite(picture).sum() == 2 * 18 * 8
    assert [text.get_text() for text in ax.texts] == [
        f"{z}\n{v:.2f}" for v, z in enumerate("ABCDEF")
    ]


def test_a_severity_overlay_has_the_mask_over_the_whole_picture_and_two_lungs(ax):
    mask = np.zeros((6, 6))
    mask[2, 2] = 0.8
    lungs = np.array([[0.1, 0.1, 0.4, 0.9], [0.6, 0.1, 0.9, 0.9]])
    figures.severity_overlay(np.full((48, 48), 90, np.uint8), mask, lungs, ax, "x")
    assert ax.images[1].get_extent() == [-0.5, 47.5, 47.5, -0.5] and np.max(
        ax.images[1].get_alpha()
    ) == pytest.approx(0.48)
    assert [p.get_bbox().bounds for p in ax.patches] == [
        pytest.approx((4.8, 4.8, 14.4, 38.4)),
        pytest.approx((28.8, 4.8, 14.4, 38.4)),
    ]
