"""Figures and tables of DNR Figs. 5 to 7 and Table 8: frames of `evaluations` in, pages out."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from scipy import stats

from .config import Config
from .corruptions import CORRUPTIONS, DEVIATIONS, EXTRA, GROUPED, corrupt
from .data import CIFAR10_COUNTS, dataset, load, read
from .evaluations import BEYOND, FIGURE, HARDER, METRICS, Predictions, evaluated, parts
from .figures import axes, colour, not_run
from .methods import label
from .official import SEVERITIES
from .paper import ROWS, wide
from .stats import LEVEL, clustered, estimate
from .study import Run
from .tables import NOT_RUN, escaped, interval, number, spread, table

# --------------------------------------------------------------------------------------------------
# Corrupted images (DNR Fig. 5)


def corruption_pictures(name: str, index: int = 0) -> list[Axes]:
    """One test image of a dataset (32 x 32, RGB), clean and under every corruption and severity."""
    image = read(name)["test"].images[index].permute(1, 2, 0).numpy()
    _, grid = plt.subplots(len(CORRUPTIONS), SEVERITIES + 1, figsize=(7, 20), layout="constrained")
    for row, corruption in zip(grid, GROUPED, strict=True):
        for severity, ax in enumerate(row):
            shown = image if severity == 0 else corrupt(image, corruption, severity, index)
            # Smoothed, noise would make the picture four times as many bytes.
            ax.imshow(shown, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(corruption.replace("_", " "), rotation=0, ha="right", va="center")
    for severity, ax in enumerate(grid[0]):
        ax.set_title(f"severity {severity}" if severity else "clean", fontsize=9)
    return list(grid.flat)


def deviations() -> Markdown:
    """Where our corruptions differ from the program that made CIFAR-10-C."""
    return Markdown(
        "\n".join(f"- *{name.replace('_', ' ')}*: {why}" for name, why in DEVIATIONS.items())
    )


def by_corruption(frame: pd.DataFrame, normalised: bool = True) -> pd.DataFrame:
    """Mean accuracy in % over severities and runs: corruptions in their groups' order by method,
    then `mCA 19` over all and `mCA 15` over those of the benchmark."""
    part = frame[(frame["normalised"] == normalised) & (frame["severity"] > 0)]
    means = part.pivot_table(index="corruption", columns="method", values="accuracy", sort=False)
    fifteen = means.drop(index=list(EXTRA)).mean()
    lines = [means.mean().to_frame("mCA 19").T, fifteen.to_frame("mCA 15").T]
    return pd.concat([means.loc[list(GROUPED)], *lines])


def corruption_map(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The accuracies of `by_corruption` as a heat map."""
    ax = axes(ax, width=7, height=7)
    if frame.empty:
        return not_run(ax)
    means = by_corruption(frame)
    means.index = means.index.str.replace("_", " ")
    sns.heatmap(
        means.rename(columns=label),
        ax=ax,
        annot=True,
        fmt=".0f",
        cmap="viridis",
        annot_kws={"size": 8},
        cbar_kws={"label": "accuracy in %"},
    )
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="x", rotation=30)
    return ax


def by_severity(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean accuracy over corruptions by severity, with 95 % intervals over seeds; 0 is clean."""
    frame = frame[frame["normalised"].astype(bool)]
    means = frame.groupby(["method", "seed", "severity"], sort=False)["accuracy"].mean()
    ax = _curves(means.reset_index(), "severity", "accuracy", axes(ax))
    ax.set(xlabel="severity", ylabel="accuracy in %")
    return ax


def _curves(frame: pd.DataFrame, column: str, value: str, ax: Axes, joined: int = 99) -> Axes:
    """Means of `value` by `column` with 95 % intervals over seeds, one line per method through the
    first `joined` of its points."""
    if frame.empty:
        return not_run(ax)
    methods, ticks = frame["method"].unique(), sorted(frame[column].unique())
    for place, method in enumerate(methods):
        part = frame[frame["method"] == method].groupby(column)[value]
        found = {ticks.index(at): estimate(values) for at, values in part}
        # A little apart, so that intervals do not hide each other.
        at = np.array(list(found)) + 0.06 * (place - (len(methods) - 1) / 2)
        mean, low, high = (
            [getattr(e, name) for e in found.values()] for name in ("mean", "low", "high")
        )
        ax.plot(at[:joined], mean[:joined], color=colour(method))
        ax.plot(at, mean, "o", ms=3, color=colour(method), label=label(method))
        ax.vlines(at, low, high, color=colour(method))
    ax.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def corruption_table(frame: pd.DataFrame, dataset: str, name: str) -> Markdown:
    """The mean corruption accuracy of every method over 19 and over 15 corruptions, beside the
    accuracy on the same clean images, what is lost, and the printed number; where networks were
    also evaluated without the normalisation of their training, in rows of their own."""
    fifteen = [each for each in CORRUPTIONS if each not in EXTRA]
    wanted = {"clean": ["none"], "mCA 19": list(CORRUPTIONS), "mCA 15": fifteen}
    printed, rows = wide("dnr", "fig5")["mCA"], []
    for (method, normalised), part in frame.groupby(["method", "normalised"], sort=False):
        means = {
            column: part[part["corruption"].isin(names)].groupby("seed")["accuracy"].mean()
            for column, names in wanted.items()
        }
        means["lost"] = means["clean"] - means["mCA 19"]
        cells = [spread(found.mean, found.sd) for found in map(estimate, means.values())]
        of = label(method) if normalised else f"{label(method)}, not normalised"
        paper = printed.get(ROWS["fig5"].get(method), math.nan)
        rows.append([of, part["seed"].nunique(), *cells, number(paper, 1)])
    images = ", ".join(f"{n:,}" for n in frame["images"].unique())
    files = "the official files" if frame["official"].any() else "corruptions made here"
    caption = (
        f"Accuracy on {escaped(dataset)} in %, on {images} clean test images and on the same under "
        f"{files}, mean ± standard deviation over n seeds; lost: clean minus mCA 19. Paper: mCA of "
        "Fig. 5, on CIFAR-10-C, whose level cannot be compared with that of another dataset."
    )
    return table(["method", "n", *wanted, "lost", "paper"], rows, caption, name)


def likeness_table(frame: pd.DataFrame, name: str) -> Markdown:
    """How alike the 19 corruptions are ordered by our accuracies and by the printed ones of the
    same method: Spearman's correlation seed by seed, with and without normalisation."""
    figure, rows = wide("dnr", "fig5")[list(CORRUPTIONS)], []
    for method, part in frame.groupby("method", sort=False):
        row = ROWS["fig5"].get(method)
        if row is None:
            continue
        of = {
            normalised: pd.Series(
                {
                    seed: stats.spearmanr(
                        by_corruption(own, normalised)[method][figure.columns], figure.loc[row]
                    ).statistic
                    for seed, own in part.groupby("seed")
                }
            )
            for normalised in (True, False)
        }
        more = estimate(of[False] - of[True])
        cells = [number(of[True].mean()), number(of[False].mean()), number(more.mean, sign=True)]
        rows.append([label(method), len(of[True]), *cells, interval(more.low, more.high, True)])
    header = ["method", "n", "normalised", "not normalised", "difference", "interval"]
    caption = (
        "Rank correlation, over the 19 corruptions, of our accuracies with the printed ones of "
        "Fig. 5, mean over seeds, and the difference that the normalisation makes. Another dataset "
        "and network: likeness is a hint, no proof."
    )
    return table(header, rows, caption, name)


def normalisation_gap(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy of the long baseline by corruption: normalised, not normalised, and as printed."""
    ax = axes(ax, width=7, height=6)
    frame = frame[frame["method"] == "long"]
    if frame.empty:
        return not_run(ax)
    with_, without = (by_corruption(frame, normalised)["long"] for normalised in (True, False))
    names = list(GROUPED)
    places = range(len(names))
    ax.hlines(places, without[names], with_[names], color="0.85", lw=3, zorder=0)
    ax.plot(with_[names], places, "o", color="#0072B2", label="normalised")
    ax.plot(without[names], places, "o", color="#D55E00", label="not normalised")
    ax.plot(wide("dnr", "fig5").loc["LB", names], places, "kx", label="printed, CIFAR-10-C")
    ax.set_yticks(places, [name.replace("_", " ") for name in names])
    ax.invert_yaxis()
    ax.set_xlabel("accuracy of the long baseline in %")
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    sns.despine(ax=ax, left=True)
    return ax


def normalisation_findings(frame: pd.DataFrame) -> Markdown:
    """What leaving out the normalisation does, in words."""
    if frame.empty:
        return Markdown(NOT_RUN)
    lines = []
    for words, chosen in (("clean images", ["none"]), ("corrupted images", list(CORRUPTIONS))):
        part = frame[frame["corruption"].isin(chosen)]
        means = part.pivot_table(index=["method", "seed"], columns="normalised", values="accuracy")
        lost = estimate((means[False] - means[True]).groupby("seed").mean())
        lines.append(
            f"- Without the normalisation, accuracy on {words} goes from "
            f"{means[True].mean():.1f} to {means[False].mean():.1f} % (mean over the methods; "
            f"difference {number(lost.mean, sign=True)} points, interval "
            f"{interval(lost.low, lost.high, sign=True)}, n = {lost.n})."
        )
    return Markdown("\n".join(lines))


# --------------------------------------------------------------------------------------------------
# Adversarial images (DNR Fig. 6)


def attack_curves(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy under the ten-step attack by epsilon, with 95 % intervals over seeds; epsilons
    beyond the paper's axis are its last ticks."""
    ten = (frame["steps"] == 10) & (frame["restarts"] == 1)
    ax = _curves(frame[ten], "epsilon", "accuracy", axes(ax), joined=len(FIGURE))
    ax.set(xlabel="epsilon, in 255ths", ylabel="accuracy in %")
    return ax


def attack_table(frame: pd.DataFrame, name: str) -> Markdown:
    """What would betray an attack that fails for want of gradients."""
    rows = []
    for method, part in frame.groupby("method", sort=False):
        ten = part[(part["steps"] == 10) & (part["restarts"] == 1)]
        attacks = [ten[ten["epsilon"] == epsilon] for epsilon in (0, HARDER)]
        attacks += [part[part["steps"] != 10], part[part["restarts"] != 1]]
        attacks += [ten[ten["epsilon"] == epsilon] for epsilon in BEYOND]
        cells = [number(each["accuracy"].mean(), 1) for each in attacks]
        none = 100 * part["no_gradient"].max()
        rows.append([label(method), part["seed"].nunique(), *cells, number(none, 1)])
    more = frame["steps"].max() if len(frame) else 0
    starts = frame["restarts"].max() if len(frame) else 0
    images = ", ".join(f"{n:,}" for n in frame["images"].unique())
    header = ["method", "n", "clean", f"ε = {HARDER:g}", f"{more} steps", f"{starts} starts"]
    header += [f"ε = {epsilon:g}" for epsilon in BEYOND] + ["no gradient"]
    caption = (
        f"Accuracy in % on {images} test images under attack, mean over n seeds: at "
        f"ε = {HARDER:g} with 10 steps from one start, with {more} steps, and with the worst of "
        f"{starts} starts; and at changes so large that a sound attack leaves nothing. Last: the "
        "largest share of images, in %, whose gradient is zero."
    )
    return table(header, rows, caption, name)


# --------------------------------------------------------------------------------------------------
# Classes of unequal size (DNR Fig. 7)


def law_table(name: str) -> Markdown:
    """Training images of each class by D48's law: CIFAR-10's, and those of the digits."""
    small = dataset("digits-imbalanced").counts
    rows = [[of, *n, sum(n)] for of, n in (("CIFAR-10", CIFAR10_COUNTS), ("digits", small))]
    header = ["", *(f"class {c}" for c in range(10)), "all"]
    return table(header, rows, "Training images of each class, a / (b + c) (D48).", name)


def recall_curves(frame: pd.DataFrame, config: Config, ax: Axes | None = None) -> Axes:
    """Recall by class, with 95 % intervals over seeds, and the training images of each class."""
    ax = _curves(frame, "class", "recall", axes(ax))
    if len(frame):
        counts = np.bincount(load(config).train.labels.numpy())
        ax.set_xticks(range(len(counts)), [f"{c}\n({n})" for c, n in enumerate(counts)])
        ax.set(xlabel="class (training images)", ylabel="recall in %")
    return ax


# --------------------------------------------------------------------------------------------------
# Two kinds of error (DNR Table 8)


def clinical_table(found: Sequence[Run], name: str) -> Markdown:
    """Sensitivity, specificity and accuracy of every method with intervals over patients (or over
    images, where every image is alone), beside always naming the commonest class."""
    rows, about = [], ""
    for method, (labels, groups, predicted) in _pooled(found).items():
        cells = []
        for metric in METRICS:
            value, low, high = clustered(*_mean_parts(metric, labels, predicted), groups)
            cells.append(f"{number(value)} {interval(low, high)}")
        rows.append([label(method), len(predicted), *cells])
        counts = np.bincount(labels)
        alone = len(set(groups)) == len(labels)
        about = (
            f" {len(labels)} test images{'' if alone else f' of {len(set(groups))} patients'}; "
            "always naming the commonest class has accuracy "
            f"{100 * counts.max() / counts.sum():.2f} %."
        )
    caption = (
        f"In %, predictions averaged over n seeds; approximate {LEVEL:.0%} intervals are of the "
        f"test images, resampled by patient where there are patients.{about}"
    )
    return table(["method", "n", *METRICS], rows, caption, name)


def clinical_differences(found: Sequence[Run], a: str, b: str, name: str) -> Markdown:
    """Differences a - b of the three metrics over common seeds, with intervals over patients or
    images."""
    of = _pooled(found)
    rows = []
    if {a, b} <= of.keys():
        labels, groups, _ = of[a]
        common = of[a][2].keys() & of[b][2].keys()
        for metric in METRICS:
            sides = [
                _mean_parts(metric, labels, {seed: of[arm][2][seed] for seed in sorted(common)})
                for arm in (a, b)
            ]
            value, low, high = clustered(sides[0][0] - sides[1][0], sides[0][1], groups)
            rows.append(
                [metric, len(common), number(value, sign=True), interval(low, high, sign=True)]
            )
    caption = f"{label(a)} minus {label(b)}, in points; intervals as above, of the same resamples."
    return table(["", "n", "difference", "interval"], rows, caption, name)


def _pooled(found: Iterable[Run]) -> dict[str, tuple[np.ndarray, list, dict[int, np.ndarray]]]:
    """By arm: labels, groups (the number of the image where every image is alone), and what was
    predicted, by seed."""
    pooled: dict[str, tuple[np.ndarray, list, dict[int, np.ndarray]]] = {}
    for run, result, _ in evaluated(found, Predictions):
        labels = np.array(result["labels"])
        groups = result.get("groups", list(range(len(labels))))
        of = pooled.setdefault(run.arm, (labels, groups, {}))
        of[2][run.config.seed] = np.array(result["predicted"])
    return pooled


def _mean_parts(
    metric: str, labels: np.ndarray, predicted: dict[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """`evaluations.parts`, averaged over seeds."""
    each = [parts(metric, labels, named) for named in predicted.values()]
    return np.mean([above for above, _ in each], axis=0), each[0][1]
