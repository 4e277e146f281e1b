"""Frames as tables to read: numbered, captioned MyST tables, also legible in JupyterLab."""

import dataclasses
import html
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown

from . import paper
from .claims import claims, in_print
from .config import Config, canonical
from .data import DATASETS, read
from .evaluations import corruption_means
from .methods import METHODS, Generation, budget, label, plan
from .models import LAYERS
from .paper import beside_paper, overlap_printed
from .recipes import configure, scope
from .rules import CRITERIA, AsIs, Everything
from .stats import LEVEL, MARGIN, comparisons, estimate, summary

MISSING = "–"
MEASURES = {
    "test_accuracy": "test accuracy",
    "mca": "accuracy on corrupted images",
    "mca_drop": "accuracy lost to corruptions",
    "pgd": "accuracy under attack",
    "pgd_drop": "accuracy lost to the attack",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
"""Columns of frames that methods are compared by, in words."""
NOT_RUN = "*Not run.* The command that runs it stands at the end of this page."


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    caption: str,
    name: str,
    words: bool = False,
) -> Markdown:
    """A MyST table, its first column left-aligned; the others too if they hold `words`. Cells and
    caption are Markdown; names from outside in them must be `escaped`."""
    if not rows:
        return Markdown(NOT_RUN)
    lines = [
        "| " + " | ".join(header) + " |",
        "|:---" + ("|:---" if words else "|---:") * (len(header) - 1) + "|",
    ]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    # The name of a folder may be part of it.
    name = re.sub(r"[^A-Za-z0-9-]+", "-", name)
    return Markdown(f":::{{table}} {caption}\n:name: {name}\n\n" + "\n".join(lines) + "\n:::")


def escaped(name: str) -> str:
    """A name from outside, such as that of a folder, as text in Markdown and HTML: characters that
    could be markup become character references."""
    return re.sub(r"[^\w .,()/-]|_", lambda found: f"&#{ord(found[0])};", name)


def fenced(text: str, language: str) -> str:
    """A block of code in Markdown, between fences that nothing in it can close."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


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
    return number(mean) + ("" if math.isnan(sd) else f" ± {number(sd)}")


def accuracy_table(
    frame: pd.DataFrame,
    wanted: Sequence[str],
    exhibit: str,
    dataset: str,
    name: str,
    column: str = "test_accuracy",
) -> Markdown:
    """Accuracy (or another `column`) of the last generation of every arm, `wanted` ones first, ours
    beside the paper's if the exhibit prints them; the caption names `wanted` ones that were not
    run."""
    listed = [*dict.fromkeys([*wanted, *frame["method"].unique()])]
    found = summary(frame, column)
    ours = found.loc[[arm for arm in listed if arm in found.index]]
    rows = [
        [label(arm), int(row.n), spread(row["mean"], row.sd), interval(row.low, row.high)]
        for arm, row in ours.iterrows()
    ]
    header = ["method", "n", "ours", "interval"]
    caption = (
        f"{MEASURES[column].capitalize()} on {escaped(dataset)} in %: mean ± standard deviation "
        f"over n seeds, and the {LEVEL:.0%} interval of the mean."
    )
    if ours["n"].nunique() > 1:
        caption += " Rows of different n have different seeds: compare them by paired differences."
    missing = [label(arm) for arm in listed if arm not in found.index]
    if missing:
        caption += f" Not run: {'; '.join(missing)}."
    # Fig. 3 and some others print no numbers.
    columns = {name: of for name, of in paper.COLUMNS.get(exhibit, {}).items() if of}
    beside = beside_paper(ours, exhibit, dataset) if columns else ours.assign(paper=math.nan)
    # A sweep has no printed rows, but for the one method that it shares with the paper's table.
    if beside["paper"].notna().sum() > 1:
        if dataset in columns or len(columns) == 1:
            of = columns.get(dataset, next(iter(columns)))
        else:
            of = f"mean of {', '.join(columns.values())}"
        caption += f" Paper: {titled(exhibit)}, {of}."
        header.append("paper")
        for row, (_, printed_) in zip(rows, beside.iterrows(), strict=True):
            row.append(spread(printed_.paper, printed_.paper_std))
    return table(header, rows, caption, name)


def titled(exhibit: str) -> str:
    """The name of an exhibit in prose: `table4` is 'Table 4', `ske_table1` the preprint's."""
    source, _, bare = exhibit.rpartition("_")
    words = bare.replace("table", "Table ").replace("fig", "Fig. ")
    return f"{words} of the preprint" if source == "ske" else words


def comparison_table(
    frame: pd.DataFrame, pairs: list[tuple[str, str]], name: str, column: str = "test_accuracy"
) -> Markdown:
    """Paired differences between methods, with verdicts."""
    rows = [
        [
            f"{label(row.a)} − {label(row.b)}",
            row.n,
            number(row.difference, sign=True),
            interval(row.low, row.high, sign=True),
            f"{row.p:.2g}" if row.n > 1 else MISSING,
            _of_losses(row.verdict) if column.endswith("_drop") else row.verdict,
            number(row.seeds_needed, 0),
        ]
        for row in comparisons(frame, pairs, column).itertuples()
    ]
    caption = (
        f"Differences of {MEASURES[column]} in points, paired by seed, with {LEVEL:.0%} intervals; "
        "p is adjusted after Holm over the rows, while intervals are those of each row alone and "
        "may leave out 0 where the verdict is undecided. Equivalent: within "
        f"±{MARGIN} points, by two one-sided tests at 5 %."
    )
    header = ["difference", "n", "mean", "interval", "p", "verdict", "seeds needed"]
    return table(header, rows, caption, name)


def _of_losses(verdict: str) -> str:
    return verdict.replace("better", "loses more").replace("worse", "loses less")


VERDICTS = {
    "holds": "**holds**",
    "fails": "**fails**",
    "undecided": "undecided",
    "not finished": "not finished",
    "not testable here": "not testable here",
    "not run": "not run",
}
SEEN = {
    "embedded": ("known", "Stated when its runs were known."),
    "photographs": (
        "looked",
        "Before it was stated, one run of each of its methods had been looked at, on the images "
        "kept for tuning and with other settings.",
    ),
}
"""By scope, the column of claims.csv that marks what was seen before it was stated, in words."""


def measured(row: Any) -> str:
    """The evidence for a verdict: the value of the part that decides, with interval and n."""
    text = f"{row.part}: " if row.part else ""
    text += f"{number(row.value, sign=True)} {interval(row.low, row.high, sign=True)}, n = {row.n}"
    if row.verdict == "undecided" and (row.low > 0 or row.high < 0):
        text += "; not decided after the correction for many claims"
    elif row.seeds_needed > row.n:
        text += f"; a single test would see half a point with about {row.seeds_needed:.0f} seeds"
    return text


def printed(statement: str) -> str:
    """Whether the paper's own printed numbers agree with a sentence, in words."""
    if not statement:
        return MISSING
    columns, against = in_print(statement)
    if not against:
        return f"agrees, {columns} of {columns}"
    return f"contradicted in {len(against)} of {columns}: {', '.join(against)}"


def ledger_table(
    verdicts: pd.DataFrame, in_paper: pd.DataFrame, dataset: str, name: str
) -> Markdown:
    """All claims: what was found on a dataset, in the paper's setting and in print; verdicts of
    three kinds that are never merged."""
    rows = []
    of = scope(dataset)
    where = "photographs" if of == "photographs" else escaped(dataset)
    column, seen = SEEN.get(of, ("", ""))
    for claim, stated in claims().iterrows():
        place = f"{stated['place']}{'' if stated['source'] == 'dnr' else ' of the preprint'}"
        place += ", read off the exhibit" if stated["basis"] == "exhibit" else ""
        words = f"**{claim.replace('-', ' ')}**: {stated['words']}"
        words += " (Primary.)" if stated["rank"] == "primary" else ""
        cells = ["not stated on our runs", MISSING, MISSING]
        if claim in verdicts.index:
            row = verdicts.loc[claim]
            cells[0] = VERDICTS[row.verdict] + (" †" if stated.get(column) else "")
            if row.verdict == "not testable here":
                cells[0] += f": {stated['note']}"
            if row.n:
                other = paper.ANALOGUE.get(stated["exhibit"]) if of == "embedded" else None
                cells[0] += f" (on {other})" if other else ""
                cells[1] = f"{number(row.value, sign=True)} "
                cells[1] += f"{interval(row.low, row.high, sign=True)} {row.part}".rstrip()
                cells[2] = (
                    f"{row.n} ({row.seeds_needed:.0f})" if row.seeds_needed > row.n else row.n
                )
        full = in_paper.loc[claim, "verdict"] if claim in in_paper.index else "not stated"
        rows.append([f"{words} *{place}*", *cells, full, printed(stated["printed"])])
    caption = (
        f"Claims in our words, and what was found, on {where} where no other is named. Points: "
        f"the part of the claim that decides, with its {LEVEL:.0%} interval. n: its seeds, and in "
        "brackets those with which a single test would see half a point, where there are fewer. In "
        "print: whether the paper's own numbers have the order of the sentence, and in how many "
        "columns."
    )
    caption += f" † {seen}" if seen else ""
    header = ["claim", f"on {where}", "points", "n", "the paper's setting", "in print"]
    return table(header, rows, caption, name, words=True)


def counted(verdicts: pd.DataFrame) -> Markdown:
    """How many claims hold, fail, are undecided, by rank."""
    lines = []
    for rank in verdicts["rank"].unique():
        part = verdicts[verdicts["rank"] == rank]
        numbered = part["verdict"].value_counts()
        words = ", ".join(
            f"{numbered[verdict]} {said}"
            for verdict, said in (
                ("holds", "hold"),
                ("fails", "fail"),
                ("undecided", "undecided"),
                ("not finished", "not finished"),
                ("not testable here", "not testable here"),
                ("not run", "not run"),
            )
            if verdict in numbered
        )
        about = f"claims on {rank}" if rank == "robustness" else f"{rank} claims"
        lines.append(f"- Of {len(part)} {about}: {words}.")
    return Markdown("\n".join(lines))


def commands_table(name: str) -> Markdown:
    """The command that runs each exhibit in the paper's setting."""
    rows = []
    for exhibit, columns in paper.COLUMNS.items():
        if "_" not in exhibit:
            first, notebook = next(iter(columns)), paper.EXHIBITS[exhibit]
            command = f"`papermill notebooks/{notebook}.ipynb out.ipynb -p dataset {first}`"
            rows.append([titled(exhibit), ", ".join(columns), command])
    caption = "Commands for the paper's setting; other datasets of an exhibit by their names."
    return table(["exhibit", "datasets", "command"], rows, caption, name, words=True)


def printed_table(exhibit: str, name: str) -> Markdown:
    """The printed numbers of an exhibit of the DNR paper as they stand."""
    cells = paper.numbers("dnr", exhibit)
    columns = list(dict.fromkeys(cells["column"]))
    by_cell = {(row.row, row.column): spread(row.value, row.std) for row in cells.itertuples()}
    rows = [
        [row, *(by_cell.get((row, column), MISSING) for column in columns)]
        for row in dict.fromkeys(cells["row"])
    ]
    return table(["", *columns], rows, f"As printed in {titled(exhibit)} of the paper.", name)


def sizes_table(name: str) -> Markdown:
    """Images of the bundled datasets by pool, beside the sizes that DNR Table 10 prints."""
    rows = []
    for dataset, about in DATASETS.items():
        pools = {pool: len(split) for pool, split in read(dataset).items()}
        config = configure(dataset)
        drawn = config.per_class * len(about.classes) or sum(about.counts or ())
        trained_on = drawn or pools["train"]
        rows.append([dataset, len(about.classes), trained_on, *pools.values(), about.size])
    cells = paper.wide("dnr", "table10")
    for row, found in cells.iterrows():
        shown = ["Classes", "Train", "Train", "Validation", "Test"]
        rows.append([f"{row} (paper)", *(number(found.get(c), 0) for c in shown), MISSING])
    caption = (
        "Images: training images of one run, training pool, pool for tuning, test pool, and size "
        "in pixels. The paper's sets as printed in its Table 10."
    )
    header = ["dataset", "classes", "trained on", "pool", "tuning", "test", "pixels"]
    return table(header, rows, caption, name)


def commands_run_table(name: str) -> Markdown:
    """What the documented commands of the DNR README run, once the released code is repaired."""
    rows = [
        [row.name, row.flags, row.runs, f"`{row.arm}`", row.because]
        for row in paper.readme_commands().itertuples()
    ]
    caption = "Documented commands of the released code, and what they compute once it is repaired."
    header = ["command", "flags", "what runs", "here", "see"]
    return table(header, rows, caption, name, words=True)


def discrepancies_table() -> HTML:
    """All places where paper, README and code disagree, with a field to search them."""
    severity = {"result": "changes results", "detail": "changes details", "text": "text only"}
    body = "".join(
        f'<tr id="{name}"><th scope="row">{name}</th><td>{severity[row.severity]}</td>'
        + "".join(f"<td>{html.escape(row[column])}</td>" for column in ("where", "what"))
        + f"<td>{html.escape(row.consequence)} <em>{html.escape(row.ours)}</em></td>"
        + f"<td><code>{html.escape(row.setting)}</code></td><td>{row.confirmed}</td></tr>"
        for name, row in paper.discrepancies().iterrows()
    )
    heads = ("", "severity", "where", "what", "consequence, and what is done here", "set by", "by")
    header = "".join(f'<th scope="col">{text}</th>' for text in heads)
    search = (
        '<label>Search: <input type="search" placeholder="SNIP, Table 4, D27 ..." oninput="'
        "for (const row of this.closest('div').querySelectorAll('tbody tr')) "
        "row.hidden = !row.textContent.toLowerCase().includes(this.value.toLowerCase())"
        '"></label>'
    )
    return HTML(
        f'<div class="searchable" style="overflow-x:auto">{search}<table class="table">'
        f"<thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def findings(verdicts: pd.DataFrame, exhibit: str, dataset: str) -> Markdown:
    """The verdicts on the claims of an exhibit, or of a rank (`primary`), in words, and of what
    they are said."""
    own = claims()[(claims()["exhibit"] == exhibit) | (claims()["rank"] == exhibit)]
    lines = []
    for claim, stated in own.iterrows():
        if claim not in verdicts.index:
            lines.append(f"- *No statement on our runs:* {stated['words']} {stated['note']}")
            continue
        row = verdicts.loc[claim]
        word = row.verdict.capitalize()
        lines.append(f"- **{word}**: {stated['words']}")
        if row.n:
            lines[-1] += f" ({measured(row)}.)"
        if stated["note"]:
            lines[-1] += f" {stated['note']}"
    if scope(dataset) == "embedded":
        lines.append(
            f"\nThis is said of {escaped(dataset)} with a narrow network. It neither confirms nor "
            "refutes what the paper says of its own datasets, which were not run here."
        )
    elif scope(dataset) == "photographs":
        lines.append(
            "\nThis is said of photographs of the paper's datasets with fewer pixels or images, a "
            "narrower network and shorter trainings than the paper's. A claim holds if it holds on "
            "all photographs that its exhibit is run on."
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
        f"Mean test accuracy in % after each generation, and the difference {label(a)} − "
        f"{label(b)} in points, paired by seed, with its {LEVEL:.0%} interval (not adjusted)."
    )
    header = ["generation", "n", label(a), label(b), "difference", "interval"]
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
        f"Over generations 2 to {later[-1][0]} {label(a)} is on average "
        f"{number(mean.mean, sign=True)} points from {label(b)} ({LEVEL:.0%} interval of the mean "
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
        f"- This is said of {escaped(dataset)} with a narrow network."
    )


def shocks(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By arm with a second generation, by seed: accuracy in % after the first generation
    (`before`), right after its reset (`after`) and at the `end`, and the share `kept` by the first
    mask, NaN without one."""
    found = {}
    for arm, part in frame.groupby("method", sort=False):
        wide = part.pivot(index="seed", columns="generation")
        if 2 in wide["birth_accuracy"] and wide["birth_accuracy"][2].notna().any():
            before, after = wide["test_accuracy"][1], wide["birth_accuracy"][2]
            end, kept = wide["test_accuracy"].iloc[:, -1], wide["kept"][1]
            columns = {"before": before, "after": after, "end": end, "kept": kept}
            found[arm] = pd.DataFrame(columns)
    return found


def shock_table(frame: pd.DataFrame, name: str) -> Markdown:
    """Accuracy of the first generation, right after the first reset, and at the end, by arm."""
    rows = []
    for arm, part in shocks(frame).items():
        lost, kept = estimate((part["after"] - part["before"]).dropna()), part["kept"].mean()
        rows.append(
            [
                label(arm),
                lost.n,
                number(100 * (1 - kept), 1) if not math.isnan(kept) else "0.0",
                number(part["before"].mean()),
                number(part["after"].mean()),
                number(lost.mean, sign=True),
                number(part["end"].mean()),
            ]
        )
    caption = (
        "The shock of the first reset: share of what the mask covers that it drops, in %, and test "
        "accuracy in % after the first generation, right after the reset and before any training, "
        "and after the last generation. Means over n seeds. (LW's masks cover batch normalisation "
        "too; the released code drops some parameters that it then does not reset.)"
    )
    header = ["method", "n", "dropped", "before", "right after", "change", "at the end"]
    return table(header, rows, caption, name)


def causes(frame: pd.DataFrame, layers: pd.DataFrame) -> Markdown:
    """In words: the shock of SNIP's reset and of others that reset a random fifth, how much of the
    mask's change sampling makes, and how much of what is reset is dead."""
    lost = {arm: (part["after"] - part["before"]).mean() for arm, part in shocks(frame).items()}
    lines = []
    if {"dnr", "dnr+criterion=random"} <= lost.keys():
        lines.append(
            f"- SNIP's first reset changes the accuracy by {number(lost['dnr'], sign=True)} points "
            f"at once, that of as many random weights by "
            f"{number(lost['dnr+criterion=random'], sign=True)}."
        )
    snip = frame[(frame["method"] == "dnr") & frame["overlap_resampled"].notna()]
    snip = snip[snip["overlap_previous"].notna()]
    if len(snip):
        noise = (1 - snip["overlap_resampled"]).mean() / (1 - snip["overlap_previous"]).mean()
        lines.append(
            f"- {number(100 * noise, 0)} % of what changes in SNIP's mask from one generation to "
            "the next changes as well between two samples of images at the same weights."
        )
    first = layers[(layers["generation"] == 1) & layers["zero_saliency"].notna()]
    for dataset, part in first.groupby("dataset", sort=False):
        sums = part[["size", "kept", "zero_saliency"]].sum()
        share = min(1, sums["zero_saliency"] / (sums["size"] - sums["kept"]))
        lines.append(
            f"- On {escaped(dataset)}, weights of exactly zero saliency make up "
            f"{number(100 * share, 0)} % of what SNIP resets after the first generation."
        )
    return Markdown("\n".join(lines) or NOT_RUN)


def dead_table(layers: pd.DataFrame, name: str) -> Markdown:
    """How much of what SNIP resets after the first generation has exactly zero saliency."""
    rows = []
    first = layers[(layers["generation"] == 1) & layers["zero_saliency"].notna()]
    for dataset, part in first.groupby("dataset", sort=False):
        by_seed = part.groupby("seed")[["size", "kept", "zero_saliency"]].sum()
        zero = estimate(100 * by_seed["zero_saliency"] / by_seed["size"])
        reset = by_seed["size"] - by_seed["kept"]
        share = estimate(100 * by_seed["zero_saliency"].clip(upper=reset) / reset)
        rows.append(
            [
                escaped(dataset),
                zero.n,
                spread(zero.mean, zero.sd),
                spread(share.mean, share.sd),
            ]
        )
    caption = (
        "Weights with exactly zero saliency after the first generation, in % of all weights, and "
        "how much of the weights that are reset they make up, in %. Mean ± standard deviation."
    )
    header = ["dataset", "n", "zero saliency", "share of the reset weights"]
    return table(header, rows, caption, name)


def noise_table(frame: pd.DataFrame, name: str) -> Markdown:
    """By generation: change of the mask, and change between two samples at identical weights."""
    part = frame.dropna(subset=["overlap_previous", "overlap_resampled"])
    rows = []
    for generation, group in part.groupby("generation"):
        moved = 100 * (1 - group["overlap_previous"].mean())
        noise = 100 * (1 - group["overlap_resampled"].mean())
        rows.append(
            [generation, len(group), number(moved), number(noise), number(100 * noise / moved, 0)]
        )
    caption = (
        "Weights kept by a mask and not by the mask of the generation before, and not by a mask "
        "from other samples at the same weights, in % of those kept; and the ratio of the two in %."
    )
    header = [
        "generation",
        "n",
        "changed since the last mask",
        "changed by sampling alone",
        "ratio",
    ]
    return table(header, rows, caption, name)


def cost_table(frame: pd.DataFrame, name: str) -> Markdown:
    """Seconds per generation and per mask, by arm, and the mask's share."""
    rows = []
    for arm, part in frame.groupby("method", sort=False):
        timed = part[part["seconds"].notna() & part["mask_seconds"].notna()]
        if timed.empty:
            continue
        mask, trained = timed["mask_seconds"].median(), timed["seconds"].median()
        rows.append(
            [
                label(arm),
                len(timed),
                number(trained, 3),
                number(mask, 3),
                number(100 * mask / trained),
            ]
        )
    caption = (
        "Seconds of training per generation and of one mask on a CPU core: medians over all "
        "generations that were timed; the mask in % of its generation."
    )
    return table(["method", "generations", "training", "mask", "mask in %"], rows, caption, name)


def linear_cost(frame: pd.DataFrame) -> Markdown:
    """In words: how well seconds of training follow a line in the number of generations."""
    timed = cumulative_seconds(frame)
    lines = []
    for arm, mean in timed.items():
        if len(mean) > 2:
            fit = np.polyfit(mean.index, mean, 1)
            residual = (mean - np.polyval(fit, mean.index)).abs().max()
            lines.append(
                f"- {label(arm)}: {number(fit[0])} seconds per generation; no generation is "
                f"further from the line than {number(100 * residual / mean.iloc[-1], 1)} % of the "
                "total."
            )
    return Markdown("\n".join(lines) or NOT_RUN)


def cumulative_seconds(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """By arm, seconds of training up to each generation: sums of medians over runs, because a
    machine that does something else at the same time only ever adds."""
    found = {}
    for arm, part in frame.dropna(subset=["seconds"]).groupby("method", sort=False):
        by_run = part.pivot(index="generation", columns="seed", values="seconds")
        found[arm] = by_run.median(axis=1).cumsum()
    return found


def corruption_table(frame: pd.DataFrame, dataset: str, name: str) -> Markdown:
    """`evaluations.corruption_means` over seeds, beside the printed mean of DNR Fig. 5; where
    networks were also evaluated without the normalisation of their training, in rows of their
    own."""
    printed, rows = paper.wide("dnr", "fig5")["mCA"], []
    means = corruption_means(frame)
    for (method, normalised), part in means.groupby(level=[0, 1], sort=False):
        found = [estimate(part[column]) for column in part]
        of = label(method) + ("" if normalised else ", not normalised")
        cells = [spread(each.mean, each.sd) for each in found]
        theirs = number(printed.get(paper.ROWS["fig5"].get(method)), 1)
        rows.append([of, found[0].n, *cells, theirs])
    images = ", ".join(f"{n:,}" for n in frame["images"].unique())
    files = "the official files" if frame["official"].any() else "corruptions made here"
    caption = (
        f"Accuracy on {escaped(dataset)} in %, on {images} clean test images and on the same under "
        f"{files}, mean ± standard deviation over n seeds; lost: clean minus mCA 19. Paper: mCA of "
        "Fig. 5, on CIFAR-10-C, whose level cannot be compared with that of another dataset."
    )
    return table(["method", "n", *means, "paper"], rows, caption, name)


def criteria_cards() -> Markdown:
    """What each criterion of DNR Table 4 scores, from the docstrings of its saliency."""
    lines = []
    for name, made in CRITERIA.items():
        words = " ".join((type(made(configure("digits"))).__doc__ or "").split())
        lines.append(f"`criterion={name}`\n: {words}\n")
    return Markdown("\n".join(lines))


def cards(names: Sequence[str], config: Config) -> Markdown:
    """A card per method: where it is from, its plan printed from its generator, its budget."""
    return Markdown("\n\n".join(_card(name, config) for name in names))


def _card(method: str, config: Config) -> str:
    chosen = dataclasses.replace(config, method=method)
    rows: list[list[Any]] = []
    for number_, stage in enumerate(plan(chosen), 1):
        said = _stage_in_words(stage)
        if rows and rows[-1][1:] == said:
            rows[-1][0] = f"{str(rows[-1][0]).partition('–')[0]}–{number_}"
        else:
            rows.append([number_, *said])
    spent = budget(chosen) / config.epochs
    words = " ".join((METHODS[method].__doc__ or "").split())
    header = ["generation", "inherits", "the rest becomes", "learns from", "epochs"]
    caption = f"Plan of {label(method)}, printed from its generator; {spent:g} E in all."
    shown = table(header, rows, caption, f"tbl-plan-{method}", words=True).data
    return f"**{label(method)}**, `{method}`. {words}\n\n{shown}"


def _stage_in_words(stage: Generation) -> list[str]:
    whole = isinstance(stage.keep, Everything)
    kept = "everything" if whole else f"`{_call(stage.keep)}`"
    if not isinstance(stage.inherit, AsIs):
        kept += f", `{_call(stage.inherit)}`"
    length = f"{stage.epochs:g} E" if stage.epochs != 1 else "E"
    if stage.peak != 1:
        length += f", peak {stage.peak:g} lr"
    if stage.hold:
        length += ", mask held"
    return [
        kept,
        MISSING if whole else f"`{_call(stage.fill)}`",
        f"`{_call(stage.task)}`",
        length,
    ]


def _call(part: Any) -> str:
    """A stage's part as a call with the fields that differ from their defaults."""
    inside = canonical(part)
    if not isinstance(inside, dict):
        return str(inside)
    ((name, changed),) = inside.items()
    return f"{name}({', '.join(f'{field}={_call(value)}' for field, value in changed.items())})"
