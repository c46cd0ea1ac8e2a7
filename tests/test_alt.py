"""A figure in words: what it draws, its titles, axes and legend; nothing for a figure that draws nothing."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pnloc import alt
from pnloc.view import figures


def one() -> tuple[Figure, plt.Axes]:
    made = Figure()
    return made, made.subplots()


def test_a_radiograph_with_found_and_true_boxes():
    figure, ax = one()
    figures.radiograph(np.zeros((9, 9), np.uint8), ax, "IoU 0.61")
    figures.boxes(np.array([[1, 1, 3, 3], [2, 2, 5, 5]]), ax, figures.OURS)
    figures.boxes(np.array([[1, 1, 4, 4]]), ax, figures.TRUTH, dashed=True)
    assert alt.describe(figure) == "IoU 0.61: radiograph with 2 boxes with 1 dashed box."


def test_lines_are_told_by_their_legend_with_where_they_begin_and_end():
    figure, ax = one()
    figures.history(
        pd.DataFrame({"epoch": [0, 1, 2], "loss": [3.0, 1.0, 0.5], "focal": [2.0, np.nan, np.nan]}),
        ax,
    )
    assert (
        alt.describe(figure)
        == "lines: loss from 3 to 0.5, focal from 2 to 2; loss (weighted terms) against epoch."
    )


def test_a_forest_plot_is_its_rows_with_their_values():
    figure, ax = one()
    table = pd.DataFrame(
        {"m": ["detector", "grad-cam"], "value": [0.5, 0.25], "low": [0.4, 0.2], "high": [0.6, 0.3]}
    )
    figures.intervals(table, ax, "m", "mean union IoU")
    assert (
        alt.describe(figure)
        == "points with intervals: detector alone 0.5, Grad-CAM 0.25; mean union IoU."
    )


def test_bars_points_error_bars_and_box_plots_are_told_with_their_categories():
    figure = Figure()
    left, middle, right, last = figure.subplots(1, 4)
    left.bar(["PA", "AP"], [3, 4])
    left.set(xlabel="view", ylabel="images")
    middle.scatter([1, 2, 3], [1, 2, 3])
    right.errorbar([0.5, 0.6], [0, 1], xerr=0.1, fmt="o", label="final")
    right.set(yticks=[0, 1], yticklabels=["side", "zone"], xlabel="F1")
    figures.severity_classes(
        pd.DataFrame({"g": ["mild"] * 3, "v": [0.1, 0.2, 0.3]}), "v", "g", last, ["mild", "severe"]
    )
    text = alt.describe(figure)
    assert text.startswith(
        "4 panels. Panel 1: 2 bars for PA, AP; images against view. Panel 2: 3 points"
    )
    assert (
        "points with intervals of final for side, zone; F1" in text
        and "Panel 4: 3 points for mild; 1 box plot for mild" in text
    )


def test_panels_that_say_the_same_are_told_once_and_colour_bars_as_what_colours_show():
    figure = Figure()
    for ax in figure.subplots(1, 2):
        figures.radiograph(np.zeros((9, 9), np.uint8), ax)
    assert alt.describe(figure) == "2 panels, each: radiograph."
    figure, ax = one()
    figures.place_map(np.array([[0.1, 0.1, 0.5, 0.5]]), ax)
    assert (
        alt.describe(figure)
        == "coloured map; y (relative) against x (relative). Colours show share of boxes."
    )


def test_ones_own_text_comes_first_and_a_long_one_ends_in_time():
    figure, ax = one()
    ax.set_title("word " * 400)
    assert len(alt.describe(figure)) <= alt.MOST and alt.describe(figure).endswith("…")
    assert alt.describe(alt.set_alt(figure, " What it\n shows. ")) == "What it shows."


@pytest.mark.parametrize("draw", [lambda ax: None, lambda ax: ax.set_axis_off()])
def test_a_figure_that_draws_nothing_has_no_text_so_that_the_books_check_names_it(draw):
    figure, ax = one()
    draw(ax)
    assert alt.describe(figure) == "" and alt.describe(Figure()) == ""
