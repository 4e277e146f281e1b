"""Figures: a tidy frame and axes in, axes out; one colour per method everywhere."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from scipy import stats
from torch import Tensor

from . import UserError
from .claims import claims
from .methods import label
from .models import LAYERS
from .stats import LEVEL, MARGIN, comparisons
from .tables import MEASURES, cumulative_seconds, shocks

# Okabe and Ito's colours, which colour-blind readers can tell apart, for the methods that are
# compared most; the others are told apart by their labels too.
COLOURS = {
    "plain": "#000000",
    "dsd": "#8c8c8c",
    "ban": "#b07aa1",
    "ban-lineage": "#d4b5cb",
    "lw": "#9c755f",
    "lw-released": "#c9ae9e",
    "llf": "#0072B2",
    "llf-layer3": "#7fb8d8",
    "long": "#E69F00",
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
VERDICT_COLOURS = {"holds": "#009E73", "fails": "#D55E00", "undecided": "0.55"}


def colour(arm: str) -> str:
    """The colour of an arm: that of its method."""
    return COLOURS[arm.partition("+")[0]]


def axes(ax: Axes | None, width: float = 7, height: float = 4) -> Axes:
    """The given axes, or new ones of a size in inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")[1] if ax is None else ax


def not_run(ax: Axes) -> Axes:
    """Axes that say that nothing was run."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, "not run", ha="center", va="center", color="0.4")
    return ax


def curves(frame: pd.DataFrame, methods: Sequence[str], ax: Axes | None = None) -> Axes:
    """Mean test accuracy after each generation with its 95 % interval over seeds (DNR Fig. 3).

    The long baseline is drawn dashed: before its last epoch its learning rate has not come down,
    so only its last point compares with the others.
    """
    ax = axes(ax)
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
        if (n > 1).all():
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
    frame: pd.DataFrame,
    pairs: list[tuple[str, str]],
    ax: Axes | None = None,
    column: str = "test_accuracy",
) -> Axes:
    """Paired differences with their intervals; the band is the margin of equivalence."""
    compared = comparisons(frame, pairs, column)
    ax = axes(ax, height=1 + 0.5 * len(compared))
    if compared.empty:
        return not_run(ax)
    ax.axvspan(-MARGIN, MARGIN, color="0.9", lw=0)
    ax.axvline(0, color="0.5", lw=1)
    one_reference = len({b for _, b in pairs}) == 1
    for position, row in enumerate(compared.itertuples()):
        paint = colour(row.a if one_reference else row.b)
        ax.plot([row.low, row.high], [position] * 2, color=paint, lw=2)
        ax.plot(row.difference, position, "o", color=paint)
    names = [f"{label(row.a)} − {label(row.b)}" for row in compared.itertuples()]
    ax.set_yticks(range(len(compared)), names)
    ax.invert_yaxis()
    ax.set_xlabel(f"difference of {MEASURES[column]} in points")
    sns.despine(ax=ax, left=True)
    return ax


def overlap_frame(layers: pd.DataFrame, which: str) -> pd.DataFrame:
    """Overlap in % by pair of generations and layer, mean over runs; as DNR Figs. 2 and 4.

    `which` is `previous` or `first`. Overlap is |A and B| / |B|, with B the later mask (D20). The
    column `all` is the mean over the 18 layers, weighted by their size.
    """
    part = layers[layers["layer"].isin(LAYERS)].dropna(subset=[f"with_{which}"])
    return _shares(part, f"with_{which}", "kept", which)


def keep_frame(layers: pd.DataFrame, which: str) -> pd.DataFrame:
    """What overlap would be by chance, in %: the share of a layer's weights that the earlier mask
    keeps. Two independent masks overlap by that much (D20)."""
    part = layers[layers["layer"].isin(LAYERS)]
    earlier = part[["method", "seed", "generation", "layer", "kept", "size"]].copy()
    if which == "previous":
        earlier["generation"] += 1
        earlier = earlier[earlier["generation"] <= part["generation"].max()]
    else:
        first = earlier[earlier["generation"] == 1]
        later = range(2, int(part["generation"].max()) + 1) if len(part) else []
        earlier = pd.concat([first.assign(generation=number) for number in later] or [first])
    return _shares(earlier, "kept", "size", which)


def _shares(part: pd.DataFrame, above: str, below: str, which: str) -> pd.DataFrame:
    if part.empty:
        return pd.DataFrame(columns=[*LAYERS, "all"])
    if part["method"].nunique() > 1:
        raise UserError(
            f"an overlap map is of one method; these are {', '.join(part['method'].unique())}"
        )
    runs = ["method", "seed", "generation"]
    part = part.assign(share=100 * part[above] / part[below])
    weighted = (
        part.assign(share=part["share"] * part["size"]).groupby(runs)[["share", "size"]].sum()
    )
    whole = (weighted["share"] / weighted["size"]).rename("share").reset_index().assign(layer="all")
    both = pd.concat([part[[*runs, "layer", "share"]], whole])
    frame = both.pivot_table(index="generation", columns="layer", values="share", aggfunc="mean")
    frame.index = [f"{number - 1 if which == 'previous' else 1}–{number}" for number in frame.index]
    frame.index.name = "generations"
    return frame[[*LAYERS, "all"]]


def overlap_map(overlap: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A frame of `overlap_frame` as a heat map, one column per layer."""
    ax = axes(ax, width=10, height=0.6 + 0.32 * len(overlap))
    if overlap.empty:
        return not_run(ax)
    sns.heatmap(
        overlap,
        ax=ax,
        annot=True,
        fmt=".0f",
        cmap="viridis",
        vmin=50,
        vmax=100,
        annot_kws={"size": 7},
        cbar_kws={"label": "overlap in %"},
    )
    ax.set_xticks(
        [number + 0.5 for number in range(len(LAYERS) + 1)],
        [*(str(number) for number in range(1, len(LAYERS) + 1)), "all"],
        rotation=0,
    )
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="layer", ylabel="generations")
    return ax


def overlap_excess(overlap: pd.DataFrame, chance: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Overlap by layer against the chance line, mean over pairs of generations."""
    ax = axes(ax)
    if overlap.empty:
        return not_run(ax)
    positions = range(1, len(LAYERS) + 1)
    ax.plot(positions, overlap[LAYERS].mean(), "o-", color=COLOURS["dnr"], label="measured")
    ax.plot(positions, chance[LAYERS].mean(), "s--", color="0.4", label="independent masks")
    ax.set(xlabel="layer", ylabel="overlap in %", xticks=list(positions))
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def pictures(images: Tensor, labels: Tensor, columns: int = 10) -> list[Axes]:
    """Images (uint8, n x c x h x w) in a grid, row by row, with their labels above."""
    rows = math.ceil(len(images) / columns)
    _, grid = plt.subplots(
        rows, columns, figsize=(0.7 * columns, 0.85 * rows), layout="constrained", squeeze=False
    )
    for ax in grid.flat:
        ax.set_axis_off()
    for ax, image, title in zip(grid.flat, images, labels, strict=False):
        picture = image.permute(1, 2, 0).numpy()
        ax.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray")
        ax.set_title(int(title), fontsize=8)
    return list(grid.flat)


def kept_by_layer(mask: dict[str, Tensor], ax: Axes | None = None) -> Axes:
    """The share of each layer's weights that a mask keeps."""
    ax = axes(ax, height=3)
    shares = [100 * mask[f"{layer}.weight"].float().mean().item() for layer in LAYERS]
    ax.bar(range(1, len(LAYERS) + 1), shares, color=COLOURS["dnr"])
    ax.set(xlabel="layer", ylabel="weights kept in %", xticks=range(1, len(LAYERS) + 1))
    sns.despine(ax=ax)
    return ax


def mask_picture(mask: Tensor, ax: Axes | None = None) -> Axes:
    """The mask of one convolution (outputs x inputs x height x width) as a map of filters by taps;
    bright weights are kept."""
    ax = axes(ax, height=3)
    ax.imshow(mask.flatten(1).numpy(), cmap="viridis", aspect="auto", interpolation="nearest")
    ax.set(xlabel="input channel and tap", ylabel="filter")
    return ax


def loss_curves(losses: dict[str, Sequence[float]], ax: Axes | None = None) -> Axes:
    """Training loss by epoch, one line per name."""
    ax = axes(ax, height=3)
    for name, values in losses.items():
        ax.plot(range(1, len(values) + 1), values, label=name)
    ax.set(xlabel="epoch", ylabel="training loss")
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def forest(verdicts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The measured value of every claim that was judged with its interval, coloured by its verdict;
    the band is the margin."""
    shown = verdicts[verdicts["verdict"].isin(VERDICT_COLOURS)]
    ax = axes(ax, width=8, height=1.2 + 0.27 * len(shown))
    if shown.empty:
        return not_run(ax)
    ax.axvspan(-MARGIN, MARGIN, color="0.92", lw=0)
    ax.axvline(0, color="0.5", lw=1)
    for position, row in enumerate(shown.itertuples()):
        paint = VERDICT_COLOURS[row.verdict]
        ax.plot([row.low, row.high], [position] * 2, color=paint, lw=2)
        ax.plot(row.value, position, "o", color=paint, markersize=5)
    same = claims().loc[shown.index, "type"] == "equivalence"
    names = [
        f"{claim.replace('-', ' ')}{' (=)' if same[claim] else ''}: {row.verdict}"
        for claim, row in shown.iterrows()
    ]
    ax.set_yticks(range(len(shown)), names, fontsize=9)
    ax.invert_yaxis()
    # Gains over a single training are ten times as large as anything else here.
    ax.set_xscale("symlog", linthresh=2, linscale=1.5)
    ticks = [-20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20]
    low, high = shown["low"].min(), shown["high"].max()
    shown_ticks = [tick for tick in ticks if low * 1.5 - 1 <= tick <= high * 1.5 + 1]
    ax.set_xticks(shown_ticks, [f"{tick:g}" for tick in shown_ticks])
    ax.set_xlabel("points, in favour of the claim to the right (linear to 2, then logarithmic)")
    sns.despine(ax=ax, left=True)
    return ax


def shock(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean test accuracy before the first reset (grey), and right after it, by arm."""
    found = shocks(frame)
    ax = axes(ax, height=1 + 0.3 * len(found))
    if not found:
        return not_run(ax)
    for position, (arm, part) in enumerate(found.items()):
        before, after = part["before"].mean(), part["after"].mean()
        ax.plot([after, before], [position] * 2, color="0.8", lw=2, zorder=0)
        ax.plot(before, position, "o", color="0.6")
        ax.plot(after, position, "o", color=colour(arm))
    ax.set_yticks(range(len(found)), [label(arm) for arm in found], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlabel("test accuracy in %: before the reset (grey) and right after it")
    sns.despine(ax=ax, left=True)
    return ax


def zero_by_layer(layers: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Weights with exactly zero saliency after the first generation, by layer and dataset."""
    ax = axes(ax)
    first = layers[(layers["generation"] == 1) & layers["layer"].isin(LAYERS)]
    first = first.dropna(subset=["zero_saliency"])
    if first.empty:
        return not_run(ax)
    for (dataset, part), marker in zip(first.groupby("dataset", sort=False), "os^dv", strict=False):
        sums = part.groupby("layer")[["zero_saliency", "size"]].sum().reindex(LAYERS)
        share = 100 * sums["zero_saliency"] / sums["size"]
        ax.plot(range(1, len(LAYERS) + 1), share, marker=marker, label=dataset)
    ax.set(xlabel="layer", ylabel="zero saliency in %", xticks=range(1, len(LAYERS) + 1))
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def mask_noise(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Overlap of DNR's mask with the one before, and of two masks made from different samples at
    the same weights; dotted: the share of weights that a mask keeps."""
    ax = axes(ax)
    part = frame.dropna(subset=["overlap_resampled"])
    if part.empty:
        return not_run(ax)
    grey = {"color": "0.45", "marker": "s", "linestyle": "--"}
    for column, words, style in (
        ("overlap_resampled", "other sample, same weights", grey),
        ("overlap_previous", "generation before", {"color": colour("dnr"), "marker": "o"}),
    ):
        mean = 100 * part.groupby("generation")[column].mean()
        ax.plot(mean.index, mean, label=words, **style)
    ax.axhline(100 * part["kept"].mean(), color="0.6", linestyle=":", label="share kept")
    ax.set(xlabel="generation", ylabel="overlap in %")
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def cumulative_cost(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Seconds of training up to each generation, one line per arm."""
    ax = axes(ax)
    found = cumulative_seconds(frame)
    if not found:
        return not_run(ax)
    for arm, seconds in found.items():
        ax.plot(seconds.index, seconds, "o-", markersize=3, color=colour(arm), label=label(arm))
    ax.set(xlabel="generation", ylabel="seconds of training")
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax
