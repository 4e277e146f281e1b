"""Figures: a tidy frame and axes in, axes out; one colour per method everywhere."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from scipy import stats

from ..methods import label
from ..stats import LEVEL, MARGIN, comparisons
from .tables import LEAST_SEEDS, MEASURES

# Okabe and Ito's colours, which colour-blind readers can tell apart, for the methods that are
# compared most; the others are told apart by their labels too.
COLOURS = {
    "plain": "#000000",
    "dsd": "#8c8c8c",
    "ke-dsd": "#5c8a7a",
    "repr": "#4d4d4d",
    "ban": "#b07aa1",
    "ban-lineage": "#d4b5cb",
    "lw": "#9c755f",
    "lw-released": "#c9ae9e",
    "llf": "#0072B2",
    "llf-layer3": "#7fb8d8",
    "long": "#E69F00",
    "ensemble": "#332288",
    "tune": "#56B4E9",
    "ke": "#009E73",
    "ke-wels": "#CC79A7",
    "ke-wels-rand": "#e3b6ce",
    "shrink-perturb": "#b3a125",
    "dnr": "#D55E00",
    "dnr-released": "#e89a66",
    "dnr-released-magnitude": "#f0c3a3",
    "dnr-matched": "#7a4a2b",
    "dnr-highest": "#7f2704",
}


def colour(arm: str) -> str:
    """The colour of an arm: that of its method."""
    return COLOURS[arm.partition("+")[0]]


def not_run(ax: Axes) -> Axes:
    """Axes that say that nothing was run."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, "not run", color="0.4", ha="center", va="center", transform=ax.transAxes)
    return ax


def curves(frame: pd.DataFrame, methods: Sequence[str]) -> Axes:
    """Mean test accuracy after each generation with its 95 % interval over seeds (DNR Fig. 3).

    The long baseline is drawn dashed: before its last epoch its learning rate has not come down,
    so only its last point compares with the others.
    """
    ax = plt.subplots(figsize=(7, 4), layout="constrained")[1]
    if frame.empty:
        return not_run(ax)
    for method in methods:
        part = frame[frame["method"] == method].groupby("generation")["test_accuracy"]
        mean, n = part.mean(), part.count()
        ax.plot(
            mean.index,
            mean,
            color=colour(method),
            linestyle="--" if method.partition("+")[0] == "long" else "-",
            marker="o",
            markersize=3,
            label=label(method),
        )
        if (n >= LEAST_SEEDS).all():
            half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * part.std(ddof=1) / np.sqrt(n)
            ax.fill_between(
                mean.index, mean - half, mean + half, color=colour(method), alpha=0.15, lw=0
            )
    ax.set(xlabel="generation", ylabel="test accuracy in %")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def differences(
    frame: pd.DataFrame, pairs: list[tuple[str, str]], column: str = "test_accuracy"
) -> Axes:
    """Paired differences with their intervals; the band is the margin of equivalence."""
    compared = comparisons(frame, pairs, column)
    ax = plt.subplots(figsize=(7, 1 + 0.5 * len(compared)), layout="constrained")[1]
    if compared.empty:
        return not_run(ax)
    ax.axvspan(-MARGIN, MARGIN, color="0.9", lw=0)
    ax.axvline(0, color="0.5", lw=1)
    one_reference = len({b for _, b in pairs}) == 1
    for position, row in enumerate(compared.itertuples()):
        paint = colour(row.a if one_reference else row.b)
        if row.n >= LEAST_SEEDS:
            ax.plot([row.low, row.high], [position] * 2, color=paint, lw=2)
        ax.plot(row.difference, position, "o", color=paint)
    names = [f"{label(row.a)} − {label(row.b)}" for row in compared.itertuples()]
    ax.set_yticks(range(len(compared)), names)
    ax.invert_yaxis()
    ax.set_xlabel(f"difference of {MEASURES[column]} in points")
    sns.despine(ax=ax, left=True)
    return ax
