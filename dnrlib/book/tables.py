"""Frames as tables to read: numbered, captioned MyST tables, also legible in JupyterLab."""

import base64
import html
import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from ..frames import corruption_means
from ..methods import label
from ..paper import exhibits
from ..paper.claims import claims
from ..paper.exhibits import beside_paper
from ..recipes import recipe, scope
from ..stats import LEVEL, MARGIN, Estimate, comparisons, estimate, summary

MISSING = "–"
LEVEL_SAID = f"{100 * LEVEL:.0f} %"
"""`LEVEL` in prose."""
LEAST_SEEDS = 3
"""Figures, and the report on one's own images, give no interval of fewer seeds."""
MEASURES = {
    "test_accuracy": "test accuracy",
    "averaged": "accuracy of the averaged networks",
    "mca": "accuracy on corrupted images",
    "mca_drop": "accuracy lost to corruptions",
    "pgd": "accuracy under attack",
    "pgd_drop": "accuracy lost to the attack",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "recall_1": "Recall@1",
    "recall_4": "Recall@4",
    "nmi": "normalised mutual information",
}
"""Columns of frames that methods are compared by, in words."""
NOT_RUN = "*Not run.* The command that runs it stands at the end of this page."
CLAIM_WORDS = {
    "holds": ("holds", "The runs support the sentence."),
    "fails": (
        "ruled out",
        "A gain of half a point or more is excluded. For photographs one of the sets is enough: it "
        "stands first, and on the other the sentence may be true. Where the "
        "sentence says *as good as*, the two differ by more than half a point.",
    ),
    "undecided": ("undecided", "Neither; the reason is given."),
    "not finished": ("not finished", "Some of the planned seeds are not trained yet."),
    "not testable here": (
        "not testable here",
        "A method does not behave on digits as it does in the paper; the row says how.",
    ),
    "not run": ("not run", "There are no runs."),
}
"""What is said of a sentence: a verdict of `claims.ledger`, the words for it, what they mean."""
DIFFERENCE_WORDS = {
    "better": "A is more accurate than B, after Holm's correction over the rows of the table.",
    "worse": "A is less accurate than B, after the same correction.",
    "equivalent": "A and B are less than half a point apart.",
    "no gain": "A is not better than B by half a point or more; whether it is worse is open.",
    "no loss": "A is not worse than B by half a point or more; whether it is better is open.",
    "undecided": "None of these.",
}
"""What is said of a difference A − B. Of the sentence *A is better than B*: it holds where the
difference is better, and is ruled out where it is worse, equivalent or no gain."""
OTHER_SEEDS = " Rows of different n have different seeds: compare them by paired differences."
FAMILIES = {
    "primary": "The three primary claims",
    "secondary": "The other claims of DNR",
    "robustness": "DNR on corrupted, attacked, unequal and medical images",
    "KE": "Claims of Knowledge Evolution",
    "KE metric": "Knowledge Evolution: metric learning",
    "KE RePr": "Knowledge Evolution: RePr",
    "tuned": "Our own: with tuned settings",
    "alternatives": "Our own: what to use instead",
    "when": "Our own: when it might help",
    "later layers": "Our own: resetting the last layers",
    "both together": "Our own: tuned settings and CutMix together",
    "both distorted": "Our own: tuned settings and TrivialAugment together",
}
"""The families of claims (column `rank`), within which tests are corrected, in words."""


def table(
    header: Sequence[str], rows: Sequence[Sequence], caption: str, name: str, words: bool = False
) -> Markdown:
    """A MyST table, its first column left-aligned; the others too if they hold `words`. Cells and
    caption are Markdown; names from outside in them must be `escaped`."""
    if not rows:
        return Markdown(NOT_RUN)
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|:---" + ("|:---" if words else "|---:") * (len(header) - 1) + "|")
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


def frame_table(
    frame: pd.DataFrame,
    caption: str,
    name: str,
    digits: int | dict[str, int] = 2,
    signed: Sequence[str] = (),
) -> Markdown:
    """A frame as a `table`, without its index and its empty columns. Booleans are shown as
    yes or no, integers unchanged, other numbers with `digits` decimals (for all columns, or by
    column with 2 as default), and those of `signed` columns with their sign."""
    cells = []
    for label_, column in (frame := frame.dropna(axis=1, how="all")).items():
        if column.dtype == bool:
            cells.append(column.map({True: "yes", False: "no"}))
        elif pd.api.types.is_numeric_dtype(column):
            places = digits.get(label_, 2) if isinstance(digits, dict) else digits
            places = 0 if pd.api.types.is_integer_dtype(column) else places
            cells.append([number(value, places, sign=label_ in signed) for value in column])
        else:
            cells.append(column)
    header = [str(label_).replace("_", " ") for label_ in frame]
    return table(header, list(zip(*cells, strict=True)), caption, name)


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number for a table cell; a dash for a missing one, a true minus sign for a negative one."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:{'+' if sign else ''}z.{digits}f}".replace("-", "−")


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
        f"over n seeds, and the {LEVEL_SAID} interval of the mean."
    )
    if ours["n"].nunique() > 1:
        caption += OTHER_SEEDS
    if missing := [label(arm) for arm in listed if arm not in found.index]:
        caption += f" Not run: {'; '.join(f'*{name}*' for name in missing)}."
    # Fig. 3 and some others print no numbers.
    if columns := exhibits.printed_columns(exhibit, dataset):
        beside = beside_paper(ours, exhibit, dataset)
        # A sweep has no printed rows, but for the one method that it shares with the paper's table.
        if beside["paper"].notna().sum() > 1:
            mean = "mean of " * (len(columns) > 1) + ", ".join(columns)
            caption += f" Paper: {titled(exhibit)}, {mean}."
            header.append("paper")
            for row, theirs in zip(rows, beside.itertuples(), strict=True):
                row.append(spread(theirs.paper, theirs.paper_std))
    return table(header, rows, caption, name)


def titled(exhibit: str) -> str:
    """The name of an exhibit in prose: `table4` is 'Table 4', `ske_table1` the preprint's."""
    source, _, bare = exhibit.rpartition("_")
    words = bare.replace("table", "Table ").replace("fig", "Fig. ")
    of = {"ske": "the preprint", "ke": "KE"}
    return f"{words} of {of[source]}" if source else words


def comparison_table(
    frame: pd.DataFrame, pairs: list[tuple[str, str]], name: str, column: str = "test_accuracy"
) -> Markdown:
    """Paired differences between methods, with verdicts."""
    found = comparisons(frame, pairs, column)
    planned = exhibits.PLANNED.get(next(iter(frame.get("dataset", ())), ""), {})
    unfinished, meaning = CLAIM_WORDS["not finished"]
    found["verdict"] = [
        unfinished
        if row.n < min(planned.get(row.a, 0), planned.get(row.b, 0))
        else difference_word(row)
        for row in found.itertuples()
    ]
    found.loc[found["verdict"].isin(("better", "worse")), "seeds_needed"] = math.nan
    if column.endswith("_drop"):
        words = {"better": "loses more", "worse": "loses less"}
        words |= {"no gain": "does not lose more", "no loss": "does not lose less"}
        found["verdict"] = found["verdict"].replace(words, regex=True)
    rows = [
        [
            f"{label(row.a)} − {label(row.b)}",
            row.verdict,
            row.n,
            number(row.difference, sign=True),
            interval(row.low, row.high, sign=True),
            f"{row.p:.2g}" if row.n > 1 else MISSING,
            number(row.seeds_needed, 0),
        ]
        for row in found.itertuples()
    ]
    caption = (
        f"Differences of {MEASURES[column]} in points, paired by seed, with {LEVEL_SAID} "
        "intervals. Better and worse are said after Holm's correction over the rows (p); "
        f"intervals, equivalent, no gain and no loss (margin: {MARGIN} points; one-sided tests at "
        "5 %) are of each row alone. Seeds needed: with so many, half a point would be seen with "
        "80 % power."
    )
    if unfinished in set(found["verdict"]):
        caption += f" {unfinished.capitalize()}: {meaning}"
    header = ["difference", "verdict", "n", "mean", "interval", "p", "seeds needed"]
    return table(header, rows, caption, name)


def difference_word(row: Any) -> str:
    """The verdict of a row of `stats.comparisons` in `DIFFERENCE_WORDS`."""
    if row.verdict != "undecided" or math.isnan(row.seeds_needed):
        return row.verdict
    found = Estimate(row.n, row.difference, row.sd, row.low, row.high, row.p)
    if found.below(MARGIN) < 1 - LEVEL:
        return "no gain"
    return "no loss" if found.above(-MARGIN) < 1 - LEVEL else "undecided"


def measured(row: Any, sentence: Any) -> str:
    """What was measured for a row of the ledger, on each dataset of it (the part that decides, with
    its interval and its seeds); and where the claim, `sentence`, is undecided, why."""
    if row.verdict == "not finished":
        return "; ".join(
            f"{of.dataset}, {len(of.values)} of {of.planned} seeds" for of in row.decides
        )
    texts = []
    for of in row.decides:
        shown, several = estimate(of.values), len(row.decides) > 1
        where = "".join(f"{word}: " for word in (of.dataset * several, of.words) if word)
        value, between = number(shown.mean, sign=True), interval(shown.low, shown.high, sign=True)
        texts.append(f"{where}{value} points {between}, {shown.n} seeds")
    if row.verdict == "undecided":
        texts[0] += f" ({_undecided(row, sentence['type'] == 'equivalence')})"
    return "; ".join(texts)


def _undecided(row: Any, same: bool) -> str:
    """Why a claim is undecided, by the part that comes closest to a verdict or is farthest off."""
    corrected = "but not after the correction for the family"
    if row.alone < 1 - LEVEL:
        return f"ruled out by itself, {corrected}"
    if max(row.low, -row.high) > (MARGIN if same else 0):
        found = "lies beyond half a point" if same else "leaves out zero"
        return f"the interval {found}, {corrected}"
    reasons = ["the interval reaches beyond half a point"] * same
    if row.seeds_needed > row.n:
        half = f"to see half a point, one test would need {row.seeds_needed:.0f}"
        reasons.append(f"too few seeds: {half}")
    return "; ".join(reasons) or "the interval holds zero and half a point"


def printed_table(exhibit: str, name: str) -> Markdown:
    """The printed numbers of an exhibit as they stand."""
    cells = exhibits.numbers(*(exhibit if "_" in exhibit else f"dnr_{exhibit}").split("_"))
    cells = cells.assign(
        text=[
            number(row.value, digits=3) if row.unit == "nmi" else spread(row.value, row.std)
            for row in cells.itertuples()
        ]
    )
    shown = cells.pivot(index="row", columns="column", values="text").fillna(MISSING)
    shown = shown.loc[cells["row"].unique(), cells["column"].unique()].reset_index()
    of = "" if "_" in exhibit else " of the paper"
    caption = f"As printed in {titled(exhibit)}{of}."
    return table(["", *shown.columns[1:]], shown.to_numpy().tolist(), caption, name)


def findings(verdicts: pd.DataFrame, exhibit: str, dataset: str) -> Markdown:
    """The sentences of an exhibit (or several, by spaces), of a rank (`primary`), or single ones by
    their names in the ledger, each with its verdict, which leads to its place in the ledger, and
    what was measured; and of what this is said."""
    lines, own, wanted = [], claims(), exhibit.split()
    own = own[own["exhibit"].isin(wanted) | own["rank"].isin(wanted) | own.index.isin(wanted)]
    judged = own[own.index.isin(verdicts.index)]
    for claim, said in judged.iterrows():
        row, found = verdicts.loc[claim], measured(verdicts.loc[claim], said)
        word = f"{{ref}}`{CLAIM_WORDS[row.verdict][0].capitalize()} <claim-{claim}>`"
        whose = "" if said["source"] == "ours" else f" *({place(said)}.)*"
        text = f"{word}: {found}." if found else f"{word}."
        # Notes are on digits.
        note = f" {said['note']}" if said["note"] and scope(dataset) == "embedded" else ""
        lines += [f"- {said['words']}{whose}", f"  {text}{note}"]
    if others := len(own) - len(judged):
        more = " more" if len(judged) else ""
        lines.append(
            f"\nThe {{doc}}`ledger </pages/holds>` has {others}{more} of this exhibit, not asked "
            "of these images."
        )
    if scope(dataset) == "embedded":
        lines.append(
            f"\nThis holds for {escaped(dataset)} and a narrow network. It neither confirms nor "
            "refutes what the paper says about its own datasets, which were not run here."
        )
    elif scope(dataset) == "photographs" and len(judged):
        lines.append(
            "\nThese photographs are of the paper's datasets, with fewer pixels or images, a "
            "narrower network and shorter trainings than the paper's: eight or ten generations in "
            f"a sentence are {recipe(dataset)['generations']} here, where a row names no other "
            "number. A claim holds if it holds on every set of photographs that is named. It is "
            "ruled out if it is ruled out on one of them, which is named first."
        )
    return Markdown("\n".join(lines))


def place(claim: Any) -> str:
    """Where a claim, a row of `claims`, stands, and whether it is a sentence or read off."""
    source = {"ske": " of the preprint", "ours": "", "ke": ""}.get(claim["source"], "")
    return claim["place"] + source + (", read off it" if claim["basis"] == "exhibit" else "")


def corruption_table(frame: pd.DataFrame, dataset: str, name: str) -> Markdown:
    """`frames.corruption_means` over seeds, beside the printed mean of DNR Fig. 5; where
    networks were also evaluated without the normalisation of their training, in rows of their
    own."""
    printed, rows = exhibits.wide("dnr", "fig5")["mCA"], []
    means = corruption_means(frame)
    for (method, normalised), part in means.groupby(level=[0, 1], sort=False):
        found = [estimate(part[column]) for column in part]
        of = label(method) + ("" if normalised else ", not normalised")
        cells = [spread(each.mean, each.sd) for each in found]
        theirs = number(printed.get(exhibits.EXHIBITS["fig5"].rows.get(method)), 1)
        rows.append([of, found[0].n, *cells, theirs])
    images = ", ".join(f"{n:,}" for n in frame["images"].unique())
    files = "the official files" if frame["official"].any() else "corruptions made here"
    caption = (
        f"Accuracy on {escaped(dataset)} in %, on {images} clean test images and on the same under "
        f"{files}, mean ± standard deviation over n seeds; lost: clean minus mCA 19. Paper: mCA of "
        "Fig. 5, on CIFAR-10-C, whose level cannot be compared with that of another dataset."
    )
    if len({n for _, n, *_ in rows}) > 1:
        caption += OTHER_SEEDS
    return table(["method", "n", *means, "paper"], rows, caption, name)


def download(frame: pd.DataFrame, name: str, **behind: pd.DataFrame) -> HTML:
    """Links that save a frame as NAME.csv, and the frames behind figures that show other numbers as
    NAME-KEY.csv by their keys; the files lie in the links themselves."""
    files = {name: ("The numbers behind this page, as CSV", frame)}
    files |= {f"{name}-{key}": (key.replace("_", " "), other) for key, other in behind.items()}
    links = []
    for file, (words, shown) in files.items():
        text = shown.to_csv(index=False, float_format="%.6g")
        address = "data:text/csv;base64," + base64.b64encode(text.encode()).decode()
        link = f'<a download="{html.escape(file)}.csv" href="{address}">{words}</a>'
        links.append(f"{link} ({len(shown):,} rows)")
    return HTML(links[0] + ("; behind its figures: " if behind else "") + ", ".join(links[1:]))
