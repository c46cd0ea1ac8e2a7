"""Figures: tables and Axes in, Axes out. No metric is computed here and nothing is saved, but for `overlay`.

One colour means one thing throughout: TRUTH, OURS (text attention), REPORT (report given), LABELS (image labels only),
DETECTOR, CAM, PRIOR, CEILING; all from the colour-blind palette of seaborn.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pnloc import access
from pnloc.files import atomic

_PALETTE = sns.color_palette("colorblind").as_hex()
TRUTH, OURS = _PALETTE[2], _PALETTE[3]
COLOURS = {
    "text-attention": OURS,
    "report-given": _PALETTE[4],
    "image-label-attention": _PALETTE[1],
    "detector": _PALETTE[0],
    "grad-cam": _PALETTE[5],
    "contrastive-grounding": _PALETTE[6],
    "supervised": _PALETTE[9],
    "fixed-boxes": _PALETTE[7],
    "best-proposal": "#222222",
}
NAMES = {
    "text-attention": "text attention (ours)",
    "report-given": "report given at test",
    "image-label-attention": "image labels only, no text",
    "detector": "detector alone",
    "grad-cam": "Grad-CAM",
    "contrastive-grounding": "contrastive grounding alone",
    "supervised": "supervised RetinaNet (bound)",
    "fixed-boxes": "two fixed boxes, no image",
    "best-proposal": "best proposal (ceiling)",
}
MARKERS = dict(zip(NAMES, "osD^v<*XP", strict=True))
# What stands in the tables and not in the figures.
OTHERS = {
    "detector-mask": "detector's mask alone",
    "detector-top": "detector's best region alone",
    "cam": "CAM",
    "grad-cam++": "Grad-CAM++",
    "heat-map": "heat map of training boxes",
    "whole-lungs": "one box over both lungs",
    "whole-image": "the whole image",
    "report-anatomy": "report + anatomy, no image",
    "hide-and-seek": "hide and seek",
    "attention-dropout": "attention dropout",
    "patch-mil": "patch-wise MIL",
    "align2ground": "Align2Ground",
    "supervised-faster-rcnn": "supervised Faster R-CNN (bound)",
    "classifier": "classifier behind CAM",
}


def reader_name(method: str) -> str:
    """The name of a method for a reader; one that ends in '-raw' ranks without the grouping step."""
    plain = method.removesuffix("-raw")
    return (NAMES | OTHERS).get(plain, plain) + (", ungrouped" if plain != method else "")


def style() -> None:
    """The look of every figure of the book."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "axes.titlesize": "medium",
            "figure.constrained_layout.use": True,
        }
    )


def radiograph(image: np.ndarray, ax: Axes, title: str = "") -> Axes:
    """A grey image [H, W], without axes; its access class (pnloc.access) goes with it."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=255).set_gid(access.of(image) or None)
    ax.set_axis_off()
    ax.set_title(title, fontsize=9)
    return ax


def boxes(
    found: np.ndarray,
    ax: Axes,
    colour: str,
    scores: np.ndarray | None = None,
    dashed: bool = False,
    width: float = 2.0,
) -> Axes:
    """Boxes [n, 4] (pixels of what the Axes show), with their scores where given."""
    for row, (x1, y1, x2, y2) in enumerate(np.asarray(found).reshape(-1, 4)):
        ax.add_patch(
            Rectangle(
                (x1, y1),
                x2 - x1,
                y2 - y1,
                fill=False,
                ec=colour,
                lw=width,
                ls="--" if dashed else "-",
            )
        )
        if scores is not None:
            ax.text(
                x1,
                y1 - 2,
                f"{scores[row]:.2f}",
                color="white",
                fontsize=7,
                va="bottom",
                backgroundcolor=colour,
            )
    return ax


def accuracy_curves(table: pd.DataFrame, ax: Axes, reference: pd.DataFrame | None = None) -> Axes:
    """Accuracy against T(IoU) with 95% bands, for the methods in NAMES; `reference` adds published lines (T, value, line)."""
    for method, label in NAMES.items():
        rows = table[(table["method"] == method) & (table["metric"] == "acc")].sort_values(
            "threshold"
        )
        if rows.empty:
            continue
        dashed = method in ("fixed-boxes", "best-proposal")
        ax.plot(
            rows["threshold"],
            rows["value"],
            color=COLOURS[method],
            marker=MARKERS[method],
            ms=5,
            ls="--" if dashed else "-",
            label=label,
        )
        if method in ("text-attention", "detector", "fixed-boxes"):
            ax.fill_between(
                rows["threshold"],
                rows["low"],
                rows["high"],
                color=COLOURS[method],
                alpha=0.15,
                lw=0,
            )
    if reference is not None:
        for (line, rows), dash in zip(
            reference.groupby("line", sort=False),
            (":", (0, (3, 1, 1, 1)), (0, (1, 3))),
            strict=False,
        ):
            ax.plot(rows["threshold"], rows["value"], color="#777777", ls=dash, lw=1.5, label=line)
    ax.set(xlabel="T(IoU)", ylabel="share of true boxes found", ylim=(0, 1.02), xlim=(0.08, 0.72))
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return ax


def intervals(
    table: pd.DataFrame,
    ax: Axes,
    label: str,
    xlabel: str,
    colours: dict[str, str] | None = None,
    zero: bool = False,
) -> Axes:
    """A forest plot: one row per value of column `label`, a point at `value` and a bar from `low` to `high`."""
    names = list(table[label])
    for place, row in enumerate(table.itertuples(index=False)):
        name = getattr(row, label)
        colour = (colours or {}).get(name, _PALETTE[0])
        if np.isfinite(row.low):
            ax.plot(
                [row.low, row.high], [place, place], color=colour, lw=2.5, solid_capstyle="butt"
            )
        ax.plot(row.value, place, "o", color=colour, ms=6)
    if zero:
        ax.axvline(0, color="#444444", lw=1)
    ax.set_yticks(range(len(names)), [reader_name(n) for n in names], fontsize=9)
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    ax.grid(axis="y", visible=False)
    return ax


def place_map(relative: np.ndarray, ax: Axes, cells: int = 64) -> Axes:
    """How often each place of the picture lies in a box, from relative boxes [n, 4]; needs at least one box."""
    centres = (np.arange(cells) + 0.5) / cells
    inside = (relative[:, None, 0] <= centres) & (centres < relative[:, None, 2])
    rows = (relative[:, None, 1] <= centres) & (centres < relative[:, None, 3])
    share = (rows[:, :, None] & inside[:, None, :]).mean(0)
    drawn = ax.imshow(share, cmap="cividis", extent=(0, 1, 1, 0))
    ax.figure.colorbar(drawn, ax=ax, label="share of boxes", shrink=0.8)
    ax.set(xlabel="x (relative)", ylabel="y (relative)")
    ax.grid(visible=False)
    return ax


def attention(
    image: np.ndarray,
    found: np.ndarray,
    weights: np.ndarray,
    ax: Axes,
    title: str = "",
    colour: str = OURS,
) -> Axes:
    """Attention over regions: boxes [n, 4] drawn as opaque and as thick as their weights [n] are large."""
    radiograph(image, ax, title)
    top = max(float(np.max(weights, initial=0)), 1e-9)
    for (x1, y1, x2, y2), weight in zip(found, weights, strict=True):
        if weight > 0.02 * top:
            strength = float(weight / top)
            ax.add_patch(
                Rectangle(
                    (x1, y1),
                    x2 - x1,
                    y2 - y1,
                    fill=False,
                    ec=colour,
                    alpha=strength,
                    lw=0.5 + 2.5 * strength,
                )
            )
    return ax


def history(table: pd.DataFrame, ax: Axes) -> Axes:
    """Loss terms per epoch."""
    for name in [c for c in table.columns if c != "epoch"]:
        ax.plot(table["epoch"] + 1, table[name], label=name, lw=2.5 if name == "loss" else 1.5)
    ax.set(xlabel="epoch", ylabel="loss (weighted terms)", ylim=(0, None))
    ax.legend(fontsize=8, frameon=False)
    return ax


def fitting(table: pd.DataFrame, ax: Axes) -> Axes:
    """Training and validation loss per epoch of one method, and the epoch whose weights are kept; columns epoch, loss, validation."""
    epochs = table["epoch"] + 1
    ax.plot(epochs, table["loss"], color="#777777", ls="--", marker=".", label="training")
    ax.plot(epochs, table["validation"], color=_PALETTE[0], marker=".", label="validation")
    if table["validation"].notna().any():
        best = table["validation"].idxmin()
        ax.plot(
            epochs[best],
            table["validation"][best],
            "o",
            color=OURS,
            ms=8,
            mfc="none",
            mew=2,
            label="kept",
        )
    ax.set(xlabel="epoch", ylabel="loss", xlim=(0.5, len(table) + 0.5))
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def reliability(curves: pd.DataFrame, ax: Axes, methods: list[str]) -> Axes:
    """Share of boxes that are right against their mean score, with 95% bars; columns method, score, right, low, high."""
    ax.plot([0, 1], [0, 1], color="#444444", lw=1)
    for method in methods:
        rows = curves[curves["method"] == method]
        colour = COLOURS.get(method, "#777777")
        ax.vlines(rows["score"], rows["low"], rows["high"], color=colour, lw=1.5, alpha=0.4)
        ax.plot(
            rows["score"],
            rows["right"],
            color=colour,
            marker=MARKERS.get(method, "."),
            ms=5,
            label=reader_name(method),
        )
    ax.set(
        xlabel="mean score of the boxes",
        ylabel="share of them with IoU > .3",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return ax


def failures(table: pd.DataFrame, ax: Axes) -> Axes:
    """Share of true boxes found by factor and level, a point and a 95% bar per method; columns method, factor, level, value, low, high, n."""
    methods = list(table["method"].unique())
    first = table[table["method"] == methods[0]]
    levels = list(zip(first["factor"], first["level"], strict=True))
    for shift, method in zip(np.linspace(-0.25, 0.25, len(methods)), methods, strict=True):
        rows = table[table["method"] == method].set_index(["factor", "level"]).loc[levels]
        places = np.arange(len(levels)) + shift
        ax.hlines(places, rows["low"], rows["high"], color=COLOURS[method], lw=2)
        ax.plot(
            rows["value"],
            places,
            MARKERS[method],
            color=COLOURS[method],
            ms=5,
            label=reader_name(method),
        )
    names = ["all boxes" if f == "all" else f"{f}: {level}" for f, level in levels]
    ax.set_yticks(
        range(len(levels)),
        [f"{name} (n={n})" for name, n in zip(names, first["n"], strict=True)],
        fontsize=8,
    )
    for place in [k for k in range(1, len(levels)) if levels[k][0] != levels[k - 1][0]]:
        ax.axhline(place - 0.5, color="#bbbbbb", lw=0.8)
    ax.invert_yaxis()
    ax.set(xlabel="share of true boxes found (IoU > .3)", xlim=(0, 1))
    ax.grid(axis="y", visible=False)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return ax


def severity_scatter(table: pd.DataFrame, readout: str, score: str, ax: Axes, unit: str) -> Axes:
    """A read-out against a score, with a regression line and its 95% band."""
    rows = table[table[score].notna() & table[readout].notna()]
    sns.regplot(
        data=rows,
        x=readout,
        y=score,
        ax=ax,
        color=OURS,
        scatter_kws={"s": 18, "alpha": 0.6},
        seed=0,
        n_boot=300,
    )
    ax.set(xlabel=readout, ylabel=unit)
    return ax


def overlay(image: np.ndarray, found: pd.DataFrame, path: str | Path) -> None:
    """Write a PNG of an image [H, W] with its boxes (x1, y1, x2, y2 in its pixels, score), in the image's proportions."""
    height, width = image.shape
    scale = 900 / max(height, width)
    figure = Figure(
        figsize=(max(width * scale, 60) / 100, max(height * scale, 60) / 100),
        dpi=100,
        layout="none",
    )
    ax = figure.add_axes((0, 0, 1, 1))
    radiograph(image, ax)
    boxes(found[["x1", "y1", "x2", "y2"]].to_numpy(float), ax, OURS, found["score"].to_numpy())
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    with (
        atomic(path) as temporary,
        plt.rc_context({"savefig.bbox": "standard"}),
    ):  # not cut to what is drawn, as in the book
        figure.savefig(temporary, format="png")


def severity_agreement(
    fitted: np.ndarray, score: np.ndarray, limits: tuple[float, float, float], ax: Axes, unit: str
) -> Axes:
    """Bland and Altman: fitted minus score against their mean, with the mean difference and the limits of agreement."""
    ax.scatter((fitted + score) / 2, fitted - score, s=18, alpha=0.6, color=OURS)
    for value, dash in zip(limits, ("-", "--", "--"), strict=True):
        ax.axhline(value, color="#444444", lw=1.2, ls=dash)
        ax.annotate(
            f"{round(value, 1) + 0.0:+.1f}",
            (1.01, value),
            xycoords=("axes fraction", "data"),
            fontsize=9,
            va="center",
        )
    ax.set(xlabel=f"mean of fit and experts, {unit}", ylabel="fit minus experts")
    return ax


def severity_classes(
    table: pd.DataFrame, readout: str, label: str, ax: Axes, names: list[str]
) -> Axes:
    """A read-out by class (column `label`, in the order of `names`): boxes, every image a point, and how many there are."""
    counts = table[label].value_counts()
    shown = [name for name in names if counts.get(name, 0)]
    sns.boxplot(
        data=table,
        x=label,
        y=readout,
        order=shown,
        ax=ax,
        color="#dddddd",
        showfliers=False,
        width=0.5,
    )
    sns.stripplot(
        data=table,
        x=label,
        y=readout,
        order=shown,
        ax=ax,
        color=OURS,
        size=4,
        alpha=0.5,
        jitter=0.15,
        legend=False,
    )
    ax.set_xticks(range(len(shown)), [f"{name}\nn={counts[name]}" for name in shown])
    ax.set(xlabel="", ylabel=readout)
    return ax


def severity_readers(
    table: pd.DataFrame, readout: str, readers: tuple[str, str], ax: Axes, unit: str
) -> Axes:
    """A read-out against two readers' scores: a bar from one to the other, a point at their mean."""
    one, other = (table[r] for r in readers)
    ax.vlines(
        table[readout],
        np.minimum(one, other),
        np.maximum(one, other),
        color=_PALETTE[0],
        alpha=0.5,
        lw=1.5,
    )
    ax.scatter(table[readout], (one + other) / 2, s=16, color=OURS, alpha=0.7, zorder=3)
    ax.set(xlabel=readout, ylabel=unit)
    return ax


def zone_map(
    zones: np.ndarray,
    places: np.ndarray,
    outline: np.ndarray,
    ax: Axes,
    title: str,
    label: str,
    top: float,
) -> Axes:
    """Six values, A to F, on the outline of the lungs: each fills its zone [6, 4] (relative) inside the outline [2, h, w] above one half."""
    height, width = outline.shape[1:]
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    picture = np.full((height, width), np.nan)
    for place, value in enumerate(zones):
        x1, y1, x2, y2 = places[place]
        inside = np.outer((y1 <= y) & (y < y2), (x1 <= x) & (x < x2)) & (outline[place // 3] > 0.5)
        picture[inside] = value
        ax.text(
            (x1 + x2) / 2 * width - 0.5,
            (y1 + y2) / 2 * height - 0.5,
            f"{'ABCDEF'[place]}\n{value:.2f}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if value > 0.55 * top else "black",
        )
    drawn = ax.imshow(picture, cmap="cividis_r", vmin=0, vmax=top)
    for lung in outline:
        ax.contour(lung, levels=[0.5], colors="#444444", linewidths=1)
    ax.figure.colorbar(drawn, ax=ax, label=label, shrink=0.8)
    ax.set_title(title)
    ax.set_axis_off()
    return ax


def severity_overlay(
    image: np.ndarray, mask: np.ndarray, lungs: np.ndarray, ax: Axes, title: str
) -> Axes:
    """A radiograph [S, S] with the detectors' mask [h, w] over it, and the boxes of the lungs [2, 4] (relative)."""
    side = image.shape[-1]
    radiograph(image, ax, title)
    ax.imshow(
        mask,
        cmap="inferno",
        alpha=0.6 * mask,
        vmin=0,
        vmax=1,
        extent=(-0.5, side - 0.5, side - 0.5, -0.5),
        interpolation="bilinear",
    )
    boxes(lungs * side, ax, COLOURS["fixed-boxes"], dashed=True, width=1.2)
    return ax
