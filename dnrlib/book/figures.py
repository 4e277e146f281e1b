"""Figures: a tidy frame in, axes out; one style and one colour per method everywhere.

Importing this module sets the style: figures of a notebook are SVG files on a transparent ground.
"""

import html
import itertools
import re
import textwrap
from collections.abc import Sequence

import pandas as pd
from IPython.core.getipython import get_ipython
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib_inline.config import InlineBackend

from ..methods import label
from ..stats import MARGIN, bounds, comparisons
from .tables import LEAST_SEEDS, MEASURES, number

# Six arms that are compared most can be told apart with the common kinds of colour blindness too;
# the others also by their labels. All can be seen on a white and on a dark page, where black, which
# is the colour of the text, becomes light (`inlined`).
COLOURS = {
    "plain": "#000000",
    "dsd": "#8c8c8c",
    "ke-dsd": "#5c8a7a",
    "repr": "#6b7f52",
    "ban": "#b07aa1",
    "ban-lineage": "#8f6bb3",
    "lw": "#9c755f",
    "lw-released": "#c08d6e",
    "llf": "#3b48fe",
    "llf-layer3": "#6e8fe0",
    "long": "#ca8206",
    "ensemble": "#7a5fa0",
    "tune": "#25a1fc",
    "ke": "#17b3a1",
    "ke-wels": "#cc79a7",
    "ke-wels-rand": "#7d5ba6",
    "shrink-perturb": "#8f8115",
    "dnr": "#a1470d",
    "dnr+criterion=random": "#ae3290",
    "dnr-released": "#d9702e",
    "dnr-released-magnitude": "#d98b5f",
    "dnr-matched": "#8a6a55",
    "dnr-highest": "#c0392b",
}
GREY = "#808080"
MASK = ListedColormap(["#f2b277", "#4d5560"])  # Dropped, kept.

# A phone shows a figure of 7 inches at two thirds of its size, where letters of 14 points are still
# 9 pixels high. Pictures of data in a figure have twice the density of its 72 points per inch.
plt.rcParams.update(
    {
        "figure.facecolor": "none",
        "figure.figsize": (7, 4),
        "figure.dpi": 144,
        "figure.constrained_layout.use": True,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "font.size": 14,
        "svg.fonttype": "none",
        "svg.hashsalt": "dnrlib",
    }
)
if get_ipython():
    # Without a date, a figure is the same file whenever it is drawn.
    InlineBackend.instance().print_figure_kwargs = {
        "bbox_inches": "tight",
        "metadata": {"Date": None},
    }
    InlineBackend.instance().figure_formats = {"svg"}


def colour(arm: str) -> str:
    """The colour of an arm: its own, or that of its method."""
    return COLOURS.get(arm) or COLOURS[arm.partition("+")[0]]


def not_run(ax: Axes) -> Axes:
    """Axes that say that nothing was run."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, "not run", ha="center", va="center", transform=ax.transAxes)
    return ax


def curves(frame: pd.DataFrame, methods: Sequence[str]) -> Axes:
    """Mean test accuracy after each generation with its 95 % interval over seeds (DNR Fig. 3).

    The long baseline is drawn dashed: before its last epoch its learning rate has not come down,
    so only its last point compares with the others.
    """
    ax = plt.subplots()[1]
    if frame.empty:
        return not_run(ax)
    for method, marker in zip(methods, itertools.cycle("osD^vPX")):
        part = frame[frame["method"] == method].groupby("generation")["test_accuracy"]
        if not part.ngroups:
            continue
        mean = part.mean()
        ax.plot(
            mean.index,
            mean,
            color=colour(method),
            linestyle="--" if method.partition("+")[0] == "long" else "-",
            marker=marker,
            markersize=4,
            label=label(method),
        )
        if (part.count() >= LEAST_SEEDS).all():
            ends = zip(*part.agg(bounds), strict=True)
            ax.fill_between(mean.index, *ends, color=colour(method), alpha=0.15, lw=0)
    ax.set(xlabel="generation", ylabel="test accuracy in %")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return ax


def legend_below(ax: Axes) -> None:
    """Puts the legend below the axes, where lines leave no room among them, and makes the figure as
    much higher."""
    ax.get_legend().remove()
    ax.figure.set_figheight(ax.figure.get_figheight() + 2)
    ax.figure.legend(loc="outside lower left", ncols=2, frameon=False)


def differences(
    frame: pd.DataFrame, pairs: list[tuple[str, str]], column: str = "test_accuracy"
) -> Axes:
    """Paired differences with their intervals (`forest`)."""
    compared = comparisons(frame, pairs, column)
    ax = plt.subplots(figsize=(7, 1 + 0.5 * len(compared)))[1]
    if compared.empty:
        return not_run(ax)
    one_reference = len({b for _, b in pairs}) == 1
    paint = (compared["a"] if one_reference else compared["b"]).map(colour)
    rows = compared.rename(columns={"difference": "mean"})
    rows = rows.assign(place=compared.index, colour=paint, marker="o")
    forest(ax, rows, [f"{label(row.a)} − {label(row.b)}" for row in compared.itertuples()])
    ax.set_xlabel(textwrap.fill(f"difference of {MEASURES[column]} in points", 45))
    return ax


def forest(ax: Axes, rows: pd.DataFrame, names: Sequence[str], far: float = 10) -> None:
    """Differences in points with their intervals (columns n, mean, low, high), each at its place
    from the top, in its colour and with its marker; the band is the margin of equivalence. One of
    more than `far` times the median reach of the rows (at least the margin) stands at the edge with
    its number, so that the others can be told from 0. `names` are those of the places 0, 1 ..."""
    extent = rows.loc[:, ["mean", "low", "high"]].abs().max(axis=1)
    beyond = rows["mean"].abs() > far * max(extent.median(), MARGIN)
    reach = 1.1 * max(extent[~beyond].max(), MARGIN)
    ax.axvspan(-MARGIN, MARGIN, color=GREY, alpha=0.2, lw=0)
    ax.axvline(0, color=GREY, lw=1)
    for row in rows.itertuples():
        if beyond[row.Index]:
            side, marker, inwards = (-1, "<", "left") if row.mean < 0 else (1, ">", "right")
            ax.plot(side * reach, row.place, marker, color=row.colour)
            ax.annotate(
                number(row.mean, sign=True),
                (side * reach, row.place),
                xytext=(-8 * side, 0),
                textcoords="offset points",
                ha=inwards,
                va="center",
            )
            continue
        if row.n >= LEAST_SEEDS:
            ax.plot([row.low, row.high], [row.place] * 2, color=row.colour, lw=2)
        ax.plot(row.mean, row.place, row.marker, color=row.colour)
    lines = {}
    for place, name in enumerate(names):
        # Two lines leave the picture its width. Each is a text of its own, for the letters of a
        # browser have other widths, and the lines of one text would not end at the same place.
        parts = [name] if len(name) < 25 else name.replace(" − ", "\n− ").split("\n")
        middle = (len(parts) - 1) / 2
        lines |= {place + (line - middle) * 0.4: part for line, part in enumerate(parts)}
    ax.set_yticks([*lines], [*lines.values()])
    ax.tick_params(left=False)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.spines["left"].set_visible(False)


def inlined(svg: str, alt: str, name: str) -> str:
    """A figure (an SVG file) as part of an HTML page: its text is text of the page, its black is
    the colour of the page's text, and its ids begin with `name`, so that a page can hold several.
    """
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    head = (
        f'<svg class="drawing" role="img" aria-label="{html.escape(alt)}" fill="currentColor" '
        f'stroke-linejoin="round" viewBox="0 0 {width} {height}" width="{1.2 * float(width):.0f}" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg">'
    )
    svg = re.sub(r"(?s)^.*?<svg.*?>|<metadata>.*?</metadata>|<style.*?</style>", "", svg)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return head + svg.replace("stroke: #000000", "stroke: currentColor")
