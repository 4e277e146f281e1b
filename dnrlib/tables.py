"""Frames as tables to read: numbered, captioned MyST tables, also legible in JupyterLab."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from IPython.display import Markdown

from .methods import LABELS
from .models import LAYERS
from .paper import COLUMNS, beside_paper, overlap_printed
from .stats import LEVEL, MARGIN, comparisons, estimate, summary

MISSING = "–"
NOT_RUN = "*Not run.* The command that runs it stands at the end of this page."


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    caption: str,
    name: str,
    words: bool = False,
) -> Markdown:
    """A MyST table, its first column left-aligned; the others too if they hold `words`."""
    if not rows:
        return Markdown(NOT_RUN)
    lines = [
        "| " + " | ".join(header) + " |",
        "|:---" + ("|:---" if words else "|---:") * (len(header) - 1) + "|",
    ]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return Markdown(f":::{{table}} {caption}\n:name: {name}\n\n" + "\n".join(lines) + "\n:::")


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number for a table cell; a dash for a missing one, a true minus sign for a negative one."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(low: float, high: float, sign: bool = False) -> str:
    """An interval for a table cell."""
    if math.isnan(low):
        return MISSING
    return f"[{number(low, sign=sign)}, {number(high, sign=sign)}]"


def spread(mean: float, sd: float) -> str:
    """mean ± standard deviation; the mean alone where there is no spread."""
    return number(mean) + ("" if sd is None or math.isnan(sd) else f" ± {number(sd)}")


def accuracy_table(frame: pd.DataFrame, dataset: str, name: str) -> Markdown:
    """Ours beside the paper's: accuracy of the last generation per method, over seeds."""
    ours = beside_paper(summary(frame), dataset)
    what = COLUMNS.get(dataset, "mean of its five small datasets")
    rows = [
        [
            LABELS[method],
            int(row.n),
            spread(row["mean"], row.sd),
            interval(row.low, row.high),
            spread(row.paper, row.paper_std),
        ]
        for method, row in ours.iterrows()
    ]
    caption = (
        f"Test accuracy on {dataset} in %: mean ± standard deviation over n seeds, and the "
        f"{LEVEL:.0%} interval of the mean. Paper: Table 1, {what}."
    )
    return table(["method", "n", "ours", "interval", "paper"], rows, caption, name)


def comparison_table(frame: pd.DataFrame, pairs: list[tuple[str, str]], name: str) -> Markdown:
    """Paired differences between methods, with verdicts."""
    rows = [
        [
            f"{LABELS[row.a]} − {LABELS[row.b]}",
            row.n,
            number(row.difference, sign=True),
            interval(row.low, row.high, sign=True),
            f"{row.p:.2g}" if row.n > 1 else MISSING,
            row.verdict,
            number(row.seeds_needed, 0),
        ]
        for row in comparisons(frame, pairs).itertuples()
    ]
    caption = (
        f"Differences of test accuracy in points, paired by seed, with {LEVEL:.0%} intervals; p is "
        "adjusted after Holm over the rows, while intervals are those of each row alone and may "
        "leave out 0 where the verdict is undecided. Equivalent: within "
        f"±{MARGIN} points, by two one-sided tests at 5 %."
    )
    header = ["difference", "n", "mean", "interval", "p", "verdict", "seeds needed"]
    return table(header, rows, caption, name)


def findings(frame: pd.DataFrame, pairs: list[tuple[str, str]], dataset: str) -> Markdown:
    """The verdicts in words, and of what they are said."""
    compared = comparisons(frame, pairs)
    if compared.empty:
        return Markdown(NOT_RUN)
    lines = []
    for row in compared.itertuples():
        a, b = LABELS[row.a], LABELS[row.b]
        said = {
            "better": f"{a} beats {b}",
            "worse": f"{a} is worse than {b}",
            "equivalent": f"{a} and {b} are equivalent within {MARGIN} points",
            "undecided": f"whether {a} is better than {b} is undecided",
        }
        words = " and ".join(said[verdict] for verdict in row.verdict.split(", "))
        detail = f"{number(row.difference, sign=True)} points"
        if row.n > 1:
            detail += f", {LEVEL:.0%} interval {interval(row.low, row.high, sign=True)}"
        lines.append(f"- **{words[0].upper()}{words[1:]}** ({detail}, n = {row.n}).")
        if row.verdict == "undecided" and row.seeds_needed > row.n:
            lines[-1] += f" Deciding {MARGIN} points would take about {row.seeds_needed:.0f} seeds."
    if dataset not in COLUMNS:
        lines.append(
            f"\nThis is said of {dataset} with a narrow network. It neither confirms nor refutes "
            "what the paper says of its own datasets, which were not run here."
        )
    return Markdown("\n".join(lines))


def _by_generation(frame: pd.DataFrame, a: str, b: str) -> list[tuple[int, pd.Series, pd.Series]]:
    """(generation, accuracies of a, of b), the latter two by seed, for seeds that have both."""
    wide = frame.pivot(index=["generation", "seed"], columns="method", values="test_accuracy")
    if not {a, b} <= set(wide.columns):
        return []
    wide = wide[[a, b]].dropna().reset_index(level="generation")
    return [(number, part[a], part[b]) for number, part in wide.groupby("generation")]


def by_generation(frame: pd.DataFrame, a: str, b: str, name: str) -> Markdown:
    """Two methods side by side after each generation, with their paired difference."""
    rows = []
    for generation, of_a, of_b in _by_generation(frame, a, b):
        difference = estimate(of_a - of_b)
        rows.append(
            [
                generation,
                difference.n,
                number(of_a.mean()),
                number(of_b.mean()),
                number(difference.mean, sign=True),
                interval(difference.low, difference.high, sign=True),
            ]
        )
    caption = (
        f"Mean test accuracy in % after each generation, and the difference {LABELS[a]} − "
        f"{LABELS[b]} in points, paired by seed, with its {LEVEL:.0%} interval (not adjusted)."
    )
    header = ["generation", "n", LABELS[a], LABELS[b], "difference", "interval"]
    return table(header, rows, caption, name)


def steps(frame: pd.DataFrame, a: str, b: str) -> Markdown:
    """In words: how two methods compare over the generations after the first, which they share."""
    later = [(number, of_a - of_b) for number, of_a, of_b in _by_generation(frame, a, b)][1:]
    if not later:
        return Markdown(NOT_RUN)
    mean = estimate(sum(differences for _, differences in later) / len(later))
    apart = []
    for generation, differences in later:
        each = estimate(differences)
        if each.n > 1 and not each.low <= 0 <= each.high:
            apart.append(str(generation))
    text = (
        f"Over generations 2 to {later[-1][0]} {LABELS[a]} is on average "
        f"{number(mean.mean, sign=True)} points from {LABELS[b]} ({LEVEL:.0%} interval of the mean "
        f"{interval(mean.low, mean.high, sign=True)}, n = {mean.n}). "
    )
    if apart:
        text += (
            f"One by one, unadjusted, the intervals leave out 0 in generation {', '.join(apart)}."
        )
    else:
        text += "One by one, no generation's interval leaves out 0."
    return Markdown(text)


def overlap_table(
    previous: pd.DataFrame,
    chance: pd.DataFrame,
    first: pd.DataFrame,
    chance_first: pd.DataFrame,
    name: str,
) -> Markdown:
    """Overlap over all 18 layers by pair of generations: ours, by chance, and the paper's."""
    printed = overlap_printed("fig2"), overlap_printed("fig4")
    rows = []
    for step, after in zip(previous.index, first.index, strict=True):
        of_step = [frame["all"].get(step) for frame in (previous, chance, printed[0])]
        of_first = [frame["all"].get(after) for frame in (first, chance_first, printed[1])]
        rows.append([step, *(number(share, 1) for share in of_step)])
        rows[-1] += [after, *(number(share, 1) for share in of_first)]
    caption = (
        "Overlap in % over all 18 layers, weighted by size, with the mask before (left, Fig. 2) "
        "and with the first mask (right, Fig. 4): ours, of independent masks, and the paper's."
    )
    header = ["masks", "ours", "independent", "paper"]
    return table([*header, *header], rows, caption, name)


def overlap_findings(previous: pd.DataFrame, chance: pd.DataFrame, dataset: str) -> Markdown:
    """In words: the course of the overlap, and where it exceeds chance."""
    if previous.empty:
        return Markdown(NOT_RUN)
    course, printed = previous["all"], overlap_printed("fig2")["all"]
    moved = course.iloc[-1].round(1) - course.iloc[0].round(1)
    excess = (previous - chance)[LAYERS].mean()
    last = excess.index.str.startswith("layer4")
    elsewhere, in_last = excess[~last].mean(), excess[last].mean()
    return Markdown(
        f"- Over all layers, overlap with the mask before goes from {number(course.iloc[0], 1)} % "
        f"to {number(course.iloc[-1], 1)} % ({number(moved, 1, sign=True)} points). In the paper "
        f"it goes from {number(printed.iloc[0], 1)} % to {number(printed.iloc[-1], 1)} %.\n"
        f"- Above chance lie {number(elsewhere, 1, sign=True)} points of it in the stem, the first "
        f"three stages and the classifier, and {number(in_last, 1, sign=True)} points in the last "
        "stage (means over layers and generations). A layer that is kept nearly whole overlaps "
        "with itself whatever the masks do.\n"
        f"- This is said of {dataset} with a narrow network."
    )
