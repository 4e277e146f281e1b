"""The report of a comparison: the answer in words, tables, figures, and one HTML file of them."""

import dataclasses
import html
import math
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML, Markdown
from matplotlib.axes import Axes

from . import UserError, figures, folder, records
from .compare import METHODS, Comparison, above, compared, load, time_in_words
from .data import dataset, read
from .export import SNIPPET
from .methods import budget, label
from .recipes import configure
from .stats import LEVEL, Estimate, against, comparisons, estimate
from .tables import MISSING, interval, number, spread

POOLS = {"train": "training", "tuning": "validation", "test": "test"}
"""What each pool is called here."""

PAIRS = 5
"""Pairs of confused classes that are shown."""
PICTURES = 5
"""Images that are shown of each."""

_AGAIN = "{generations} trainings of {epochs} epochs, each from the weights of the one before"
IN_WORDS = {
    "plain": "one training of {epochs} epochs",
    "long": "one training of {total} epochs",
    "tune": _AGAIN,
    "llf": _AGAIN + ", with its last stage and classifier drawn anew",
    "ke": _AGAIN + ", with a fixed part of every layer drawn anew",
    "dnr": _AGAIN + ", with the weights that matter least drawn anew",
}

STYLE = """
body { font: 1rem/1.55 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 54rem;
  margin: 0 auto; padding: 1rem 1.25rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .3rem 0 .8rem; }
.caption { margin: 1rem 0 0; color: #444; font-size: .93rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
  overflow-wrap: normal; vertical-align: top; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
tr.chosen td { background: #f2f6fb; }
img { max-width: 100%; height: auto; } pre { white-space: pre-wrap; background: #f5f5f5;
  padding: .7rem; } code { font-size: .9em; }
summary { cursor: pointer; }
"""


def opened(comparison: str, name: str = "digits") -> Comparison:
    """The comparison in a folder; without one a demonstration, which trains tiny networks on the
    bundled dataset `name` for a few seconds, too short to show anything but how it is read."""
    if comparison:
        return load(Path(comparison))
    place = records.runs_root() / "demonstration"
    # In a process of its own: progress bars would be part of the page.
    code = "import sys; from dnrlib.report import demonstrate; demonstrate(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(place)], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"the demonstration failed: {done.stderr.strip().splitlines()[-1]}")
    return dataclasses.replace(load(place), demonstration=True)


def demonstrate(name: str, output: str) -> None:
    """A comparison of tiny networks on a bundled dataset, in seconds."""
    compared(name, Path(output), hours=1, device="cpu", workers=1, designs=[(3, 2, 6)])


# --------------------------------------------------------------------------------------------------
# In words


def answer(found: Comparison) -> Markdown:
    """The answer: which method to use, by how much it is better, or what could have been seen."""
    choice = found.choice
    n = choice.over_long.n
    parts = [f"**Use {_named(choice.method)}**: {_done(found, choice.method)}."]
    means = found.scores.groupby("method")["validation"].mean()
    if n < 2:
        parts.append(
            "With one seed nothing can be compared: this is ordinary training, as it did best."
        )
    elif choice.found:
        parts.append(
            f"On the validation images it was better than ordinary training of the same length, "
            f"{_named('long')}, by {_points(choice.over_long)}, and better than a single "
            f"generation of it, {_named('plain')}, by {_points(choice.over_plain)}; n = {n} seeds, "
            f"intervals corrected for having picked the best of {choice.compared} methods."
        )
    else:
        parts.append(f"No difference was found that speaks for another method: {_lacking(found)}")
        if choice.method == "long":
            parts.append(
                f"Training longer {'did help' if above(choice.longer) else 'may have helped'}: "
                f"{_named('long')} was better than {_named('plain')} by {_points(choice.longer)}."
            )
        if math.isnan(choice.detectable):
            parts.append("The seeds do not differ, so what could have been seen is unknown.")
        elif choice.detectable > 100 - means["long"]:
            parts.append(
                "The seeds differ so much that hardly any difference could have been found: this "
                "needs more seeds, or more validation images."
            )
        else:
            parts.append(
                f"A difference of {number(choice.detectable, 1)} points would have been found with "
                "80 % power; a smaller one may be there."
            )
    if found.done < found.plan.seeds:
        parts.append(
            f"Planned were {found.plan.seeds} seeds; the time was up after {found.done}, and more "
            "seeds may change this."
        )
    paragraphs = [" ".join(parts), _on_test(found)]
    if found.demonstration:
        note = "*A demonstration: trained too briefly to say anything of the methods.*"
        paragraphs.insert(0, note)
    return Markdown("\n\n".join(paragraphs))


def _lacking(found: Comparison) -> str:
    choice = found.choice
    best, n = _named(choice.leader), choice.over_long.n
    corrected = f"(n = {n} seeds, corrected for having picked the best of {choice.compared})"
    if choice.over_long.low > 0:
        return (
            f"{best}, the best of the others, was ahead of {_named('long')} on the validation "
            f"images, but over {_named('plain')} its gain is {_points(choice.over_plain)} "
            f"{corrected}, which may be chance."
        )
    verdict = "so it is worse" if choice.over_long.high < 0 else "which may be chance"
    return (
        f"{best}, the best of the others, differs from ordinary training of the same length, "
        f"{_named('long')}, by {_points(choice.over_long)} on the validation images {corrected}, "
        f"{verdict}."
    )


def _named(method: str) -> str:
    return "the long baseline (LB)" if method == "long" else label(method)


def _done(found: Comparison, method: str) -> str:
    """What a method does with its epochs."""
    plan = found.plan
    total = plan.generations * plan.epochs
    return IN_WORDS[method].format(**vars(plan), total=total)


def _accuracies(values: Estimate) -> str:
    """The interval of a mean accuracy, which lies between 0 and 100 %."""
    return interval(max(values.low, 0.0), min(values.high, 100.0)) if values.n > 1 else MISSING


def _points(difference: Estimate) -> str:
    return (
        f"{number(difference.mean, sign=True)} points "
        f"{interval(difference.low, difference.high, sign=True)}"
    )


def _on_test(found: Comparison) -> str:
    """How the advised method does on the test images."""
    method, wide = found.choice.method, found.scores.pivot(index="seed", columns="method")["test"]
    labels = read(found.base.dataset)["test"].labels
    here = estimate(wide[method])
    text = (
        f"On the {len(labels)} test images, which no choice has seen, {_named(method)} recognises "
        f"**{number(here.mean, 1)} %**"
    )
    text += f" ({LEVEL:.0%} interval {_accuracies(here)})" if here.n > 1 else ""
    for other in ("long", "plain"):
        if other != method:
            difference = estimate(wide[method] - wide[other])
            text += f"; {_points(difference)} against {_named(other)}"
    text += f". Always naming the commonest class would be right in {number(majority(found), 1)} %."
    difference = estimate(wide[method] - wide["long"])
    if found.choice.found and not difference.low > 0:
        text += (
            f" The test images alone do not confirm the difference to {_named('long')}: its "
            "interval there contains 0."
        )
    return text


def majority(found: Comparison) -> float:
    """The share of the commonest class among the test images, in %."""
    labels = read(found.base.dataset)["test"].labels
    return 100 * int(labels.bincount().max()) / len(labels)


# --------------------------------------------------------------------------------------------------
# Tables


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    caption: str,
    words: bool = False,
    marked: int | None = None,
) -> HTML:
    """A table that scrolls where it is too wide, under its caption; every cell is escaped, one row
    may be `marked`."""

    def line(cells: Sequence[Any], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)

    # Some styles stand here, for the page is also part of the book, which has a style of its own.
    body = "".join(
        f"<tr{' class=chosen style=font-weight:600' if at == marked else ''}>{line(row, 'td')}</tr>"
        for at, row in enumerate(rows)
    )
    if not words:
        body = body.replace("</td><td>", "</td><td style=white-space:nowrap>")
    return HTML(
        f"<p class=caption>{html.escape(caption)}</p>"
        f"<div style=overflow-x:auto><table class='table{' words' if words else ''}'>"
        f"<thead><tr>{line(header, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def scores_table(found: Comparison) -> HTML:
    """Every method: validation and test accuracy with its interval, and balanced accuracy."""
    rows = []
    for method in METHODS:
        part = found.scores[found.scores["method"] == method]
        validation, test, even = (
            estimate(part[name]) for name in ("validation", "test", "balanced")
        )
        rows.append(
            [
                label(method),
                test.n,
                spread(validation.mean, validation.sd),
                spread(test.mean, test.sd),
                _accuracies(test),
                spread(even.mean, even.sd),
            ]
        )
    caption = (
        f"Accuracy in %: mean ± standard deviation over n seeds, and the {LEVEL:.0%} interval of "
        "the mean on the test images. Balanced: the mean over classes, test images. Always naming "
        f"the commonest class: {number(majority(found), 1)} % of the test images. "
        f"Marked: the method that is advised."
    )
    header = ["method", "n", "validation", "test", "interval", "balanced"]
    return html_table(header, rows, caption, marked=METHODS.index(found.choice.method))


def methods_table(found: Comparison) -> HTML:
    """What each method does with its epochs."""
    caption = (
        "The methods, the simplest first. LLF: later-layer forgetting; KE: Knowledge Evolution; "
        "DNR: Dynamic Neural Regeneration."
    )
    rows = [
        [
            label(method),
            _done(found, method),
            budget(found.config(method)),
        ]
        for method in METHODS
    ]
    return html_table(["method", "what it does", "epochs in all"], rows, caption, True)


def frame(found: Comparison) -> pd.DataFrame:
    """The test accuracies as `stats.comparisons` wants them."""
    return found.scores.assign(last=True, test_accuracy=found.scores["test"])


def pairs(found: Comparison, reference: str) -> list[tuple[str, str]]:
    """Every other method with a reference."""
    return against(frame(found), reference)


def differences_table(found: Comparison, reference: str) -> HTML:
    """Differences to a reference on the test images."""
    rows = [
        [
            label(row.a),
            row.n,
            number(row.difference, sign=True),
            interval(row.low, row.high, sign=True),
            f"{row.p:.2g}" if row.n > 1 else MISSING,
        ]
        for row in comparisons(frame(found), pairs(found, reference)).itertuples()
    ]
    caption = (
        f"Test accuracy minus that of {label(reference)} in points, paired by seed, with "
        f"{LEVEL:.0%} intervals of each row alone; p is adjusted after Holm over the rows."
    )
    header = ["method", "n", "difference", "interval", "p"]
    return html_table(header, rows, caption)


def described(name: str) -> str:
    """What a dataset consists of, in lines: classes, images by pool, and what may be wrong."""
    counts, problems = _counts(name)
    about = dataset(name)
    listed = ", ".join(f"{counts[pool].sum()} {POOLS[pool]}" for pool in counts)
    smallest = counts["train"].min()
    lines = [
        f"{about.title}: {len(about.classes)} classes, {listed} images; {smallest} to "
        f"{counts['train'].max()} training images per class; the network sees {about.size} x "
        f"{about.size} pixels"
    ]
    return "\n".join([*lines, *(f"  note: {problem}" for problem in problems)])


def _counts(name: str) -> tuple[pd.DataFrame, list[str]]:
    if name.startswith(folder.PREFIX):
        return folder.report(name)
    classes = dataset(name).classes
    counts = {
        pool: split.labels.bincount(minlength=len(classes)).tolist()
        for pool, split in read(name).items()
    }
    return pd.DataFrame(counts, index=pd.Index(classes, name="class")), []


def data_table(found: Comparison) -> HTML:
    """The images by class and pool, and what may be wrong with them."""
    counts, problems = _counts(found.base.dataset)
    about = dataset(found.base.dataset)
    header = ["class", *(POOLS[pool] for pool in counts)]
    rows = [[name, *row] for name, row in zip(counts.index, counts.to_numpy(), strict=True)]
    caption = (
        f"How many images there are. The network sees {about.size} x {about.size} pixels of each."
    )
    listed = html_table(header, [*rows, ["all", *counts.sum()]], caption, marked=len(rows)).data
    if len(rows) > 20:
        listed = f"<details><summary>Images of {len(rows)} classes</summary>{listed}</details>"
    said = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
    noted = f"<p>What may be wrong with them:</p><ul>{said}</ul>" if said else ""
    return HTML((noted or "<p>Nothing was found to be wrong with them.</p>") + listed)


def plan_table(found: Comparison) -> HTML:
    """The plan, what came of it, and the time."""
    plan, base = found.plan, found.config("long")
    rows = [
        ["seeds", f"{plan.seeds} planned, {found.done} done"],
        ["generations", plan.generations],
        ["epochs per generation", plan.epochs],
        ["network", f"{base.model}, {base.width} channels in its first stage"],
        ["learning rate", f"{base.lr:g}, {base.schedule}, {base.warmup} epochs of warm-up"],
        ["augmentation", base.augment],
        ["trained on", f"{found.device}, {plan.speed.workers} at once"],
        ["measured before", f"{plan.speed.epoch:.2g} s per epoch"],
        ["time", f"{time_in_words(found.hours * 3600)} given"],
        ["", f"{time_in_words(plan.seconds)} planned for training"],
        ["", f"{time_in_words(found.seconds)} used"],
    ]
    return html_table(["", ""], rows, "The plan was made before anything was trained.", words=True)


# --------------------------------------------------------------------------------------------------
# Figures


def curves(found: Comparison) -> Axes:
    """Validation accuracy after each generation, all methods at equal budget."""
    ax = figures.curves(found.curves, METHODS)
    low, high = ax.get_ylim()
    ax.set(ylabel="validation accuracy in %", ylim=(max(low, 0), min(high, 100)))
    return ax


def differences(found: Comparison, reference: str) -> Axes:
    """The differences to a reference on the test images."""
    return figures.differences(frame(found), pairs(found, reference))


def confusion(found: Comparison) -> Axes:
    """Of the test images of each class, the share in % that the advised method gives to each
    class, mean over seeds."""
    counts = _confused(found)
    names = [_text(name) for name in dataset(found.base.dataset).classes]
    size = min(9, 2.5 + 0.35 * len(names))
    ax = plt.subplots(figsize=(size + 1, size), layout="constrained")[1]
    few = len(names) <= 40
    sns.heatmap(
        100 * counts / np.maximum(counts.sum(1, keepdims=True), 1),
        ax=ax,
        annot=len(names) <= 15,
        fmt=".0f",
        cmap="Blues",
        vmin=0,
        vmax=100,
        square=True,
        xticklabels=names if few else False,
        yticklabels=names if few else False,
        cbar_kws={"label": "% of the images of a class"},
    )
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel="named by the network", ylabel="class of the image")
    return ax


def _confused(found: Comparison) -> np.ndarray:
    """Counts by class of the image and class that the advised method names, over all seeds."""
    labels = read(found.base.dataset)["test"].labels.numpy()
    classes = len(dataset(found.base.dataset).classes)
    counts = np.zeros((classes, classes), int)
    for (method, _), predicted in found.predictions.items():
        if method == found.choice.method:
            np.add.at(counts, (labels, predicted), 1)
    return counts


def confused_pairs(found: Comparison) -> list[tuple[int, int, int]]:
    """The pairs (class of the image, class named, how often over all seeds) that the advised method
    confuses most, at most `PAIRS`."""
    counts = _confused(found)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:PAIRS]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [(true, named, int(counts[true, named])) for true, named in cells if counts[true, named]]


def confused_table(found: Comparison) -> HTML:
    """The pairs of classes that are confused most."""
    names = dataset(found.base.dataset).classes
    sizes = _confused(found).sum(1)
    rows = [
        [names[true], names[named], f"{times} of {sizes[true]}"]
        for true, named, times in confused_pairs(found)
    ]
    caption = (
        f"What {label(found.choice.method)} confuses most on the test images, counted over "
        f"{found.done} seeds."
    )
    return html_table(["class of the image", "is called", "how often"], rows, caption, words=True)


def confused_pictures(found: Comparison) -> Axes:
    """Test images of the pairs that are confused most, a row per pair; those that most seeds get
    wrong come first."""
    names, test = dataset(found.base.dataset).classes, read(found.base.dataset)["test"]
    listed = confused_pairs(found)
    labels = test.labels.numpy()
    _, axes = plt.subplots(
        max(len(listed), 1),
        PICTURES + 1,
        figsize=(1.2 * PICTURES + 1.8, 1.25 * max(len(listed), 1)),
        width_ratios=[1.5] + [1] * PICTURES,
        layout="constrained",
        squeeze=False,
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for row, (true, named, _) in zip(axes, listed, strict=False):
        wrong = Counter()
        for (method, _), predicted in found.predictions.items():
            if method == found.choice.method:
                wrong.update(np.flatnonzero((labels == true) & (predicted == named)).tolist())
        words = f"{_text(names[true])}\ncalled {_text(names[named])}"
        row[0].text(1, 0.5, words, ha="right", va="center", fontsize=9, transform=row[0].transAxes)
        ordered = sorted(wrong, key=lambda index: (-wrong[index], index))
        for ax, index in zip(row[1:], ordered, strict=False):
            picture = test.images[index].permute(1, 2, 0).numpy()
            ax.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray")
    if not listed:
        axes[0, 0].text(0, 0.5, "no test image is confused")
    return axes[0, 0]


def _text(name: str) -> str:
    """A class name for a figure: short, and without the sign that begins a formula."""
    short = name if len(name) <= 20 else name[:19] + "…"
    return short.replace("$", r"\$")


# --------------------------------------------------------------------------------------------------
# Using it


def use(found: Comparison) -> Markdown:
    """The command that trains the final network, and the program that uses it."""
    config = found.config(found.choice.method)
    recipe = configure(config.dataset, method=config.method, seed=config.seed)
    settings = [
        f"{name}={value}"
        for name, value in vars(config).items()
        if value != getattr(recipe, name) and (config.method, name) != ("plain", "generations")
    ]
    words = ["dnr", "export", "--dataset", config.dataset]
    words += ["--method", "+".join([config.method, *settings]), "--output", "model.pt"]
    return Markdown(
        "`dnr compare` writes the network of the advised method to `model.pt` beside its report, "
        "and `use_model.py`, which names what it sees in images: `python use_model.py IMAGE`. It "
        "is that of seed 0: the best one would only look better. To train it again, here or "
        f"elsewhere:\n\n```sh\n{shlex.join(words)}\n```\n\nThis is `use_model.py`; it needs "
        f"`dnrlib` installed:\n\n```python\n{SNIPPET.format(model='model.pt')}```"
    )


def write(output: Path) -> Path:
    """Makes `report.html` of the comparison in a folder: one file that loads nothing from anywhere.
    Returns its path. The executed notebook is kept beside it."""
    from .pages import NOTEBOOKS, execute

    page = output / "report.ipynb"
    execute(NOTEBOOKS / "your_data.ipynb", page, {"comparison": str(output.resolve())})
    found = load(output)
    title = f"Which method for {dataset(found.base.dataset).title}?"
    path = output / "report.html"
    records.write(path, as_html(nbformat.read(page, as_version=4), title).encode())
    return path


def as_html(page: nbformat.NotebookNode, title: str) -> str:
    """An executed notebook as one HTML page without its code, under a title of its own."""
    from nbconvert import HTMLExporter

    page.metadata.pop("widgets", None)
    page.cells = [
        cell for cell in page.cells if "not-in-report" not in cell.metadata.get("tags", [])
    ]
    page.cells[0].source = f"# {title}"
    for cell in page.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
        shown = cell.metadata.get("mystnb")
        for output in cell.outputs if shown else ():
            if "image/png" in output.get("data", {}):
                output.metadata["image/png"] = {"alt": shown["image"]["alt"]}
        if shown:
            words = html.escape(shown["figure"]["caption"])
            said = {"text/html": f"<p class='caption'>{words}</p>"}
            cell.outputs.append(nbformat.v4.new_output("display_data", said))
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(page)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )
