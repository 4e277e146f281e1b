"""The report of a comparison: its answer in words, and `your_data.ipynb` as one HTML file."""

import dataclasses
import html
import math
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
from IPython.display import HTML

from .. import UserError, records
from ..book.build import execute
from ..book.pages import NOTEBOOKS
from ..book.tables import escaped, interval, number
from ..datasets.catalogue import dataset, read
from ..methods import label
from ..recipes import configure
from ..stats import LEVEL, Estimate, estimate
from .choice import Comparison, above, compared, load

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
    code = "import sys; from dnrlib.compare.report import demonstrate; demonstrate(*sys.argv[1:])"
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


def answer(found: Comparison) -> str:
    """Which method to use, by how much it is better, or what could have been seen; in Markdown."""
    choice = found.choice
    n = choice.over_long.n
    parts = [f"**Use {_named(choice.method)}**: {in_short(found, choice.method)}."]
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
        parts += _not_found(found)
    if found.done < found.plan.seeds:
        parts.append(
            f"Planned were {found.plan.seeds} seeds; the time was up after {found.done}, and more "
            "seeds may change this."
        )
    paragraphs = [" ".join(parts), _on_test(found)]
    if found.demonstration:
        note = "*A demonstration: trained too briefly to say anything of the methods.*"
        paragraphs.insert(0, note)
    return "\n\n".join(paragraphs)


def _not_found(found: Comparison) -> list[str]:
    """That no difference was found, and how large it would have had to be, in sentences."""
    choice = found.choice
    best, n = _named(choice.leader), choice.over_long.n
    corrected = f"(n = {n} seeds, corrected for having picked the best of {choice.compared})"
    verdict = "so it is worse" if choice.over_long.high < 0 else "which may be chance"
    lacking = (
        f"{best}, the best of the others, differs from ordinary training of the same length, "
        f"{_named('long')}, by {_points(choice.over_long)} on the validation images {corrected}, "
        f"{verdict}."
    )
    if choice.over_long.low > 0:
        lacking = (
            f"{best}, the best of the others, was ahead of {_named('long')} on the validation "
            f"images, but over {_named('plain')} its gain is {_points(choice.over_plain)} "
            f"{corrected}, which may be chance."
        )
    parts = [f"No difference was found that speaks for another method: {lacking}"]
    if choice.method == "long":
        parts.append(
            f"Training longer {'did help' if above(choice.longer) else 'may have helped'}: "
            f"{_named('long')} was better than {_named('plain')} by {_points(choice.longer)}."
        )
    scores = found.scores[found.scores["method"] == "long"]
    if math.isnan(choice.detectable):
        parts.append("The seeds do not differ, so what could have been seen is unknown.")
    elif choice.detectable > 100 - scores["validation"].mean():
        parts.append(
            "The seeds differ so much that hardly any difference could have been found: this "
            "needs more seeds, or more validation images."
        )
    else:
        parts.append(
            f"A difference of {number(choice.detectable, 1)} points would have been found with "
            "80 % power; a smaller one may be there."
        )
    return parts


def _on_test(found: Comparison) -> str:
    """How the advised method does on the test images."""
    method, wide = found.choice.method, found.scores.pivot(index="seed", columns="method")["test"]
    here = estimate(wide[method])
    over = {
        other: estimate(wide[method] - wide[other])
        for other in ("long", "plain")
        if other != method
    }
    text = (
        f"On the {len(read(found.base.dataset)['test'])} test images, which no choice has seen, "
        f"{_named(method)} recognises **{number(here.mean, 1)} %**"
    )
    text += f" ({LEVEL:.0%} interval {accuracies(here)})" if here.n > 1 else ""
    for other, difference in over.items():
        text += f"; {_points(difference)} against {_named(other)}"
    text += f". Always naming the commonest class would be right in {number(majority(found), 1)} %."
    if found.choice.found and not over["long"].low > 0:
        text += (
            f" The test images alone do not confirm the difference to {_named('long')}: its "
            "interval there contains 0."
        )
    return text


def _named(method: str) -> str:
    return "the long baseline (LB)" if method == "long" else label(method)


def _points(difference: Estimate) -> str:
    return (
        f"{number(difference.mean, sign=True)} points "
        f"{interval(difference.low, difference.high, sign=True)}"
    )


def accuracies(values: Estimate) -> str:
    """The interval of a mean accuracy, which lies between 0 and 100 %."""
    # In this order NaN stays NaN.
    return interval(max(values.low, 0.0), min(values.high, 100.0))


def in_short(found: Comparison, method: str) -> str:
    """What a method does with its epochs."""
    total = found.plan.generations * found.plan.epochs
    return IN_WORDS[method].format(**vars(found.plan), total=total)


def majority(found: Comparison) -> float:
    """The share of the commonest class among the test images, in %."""
    labels = read(found.base.dataset)["test"].labels
    return 100 * int(labels.bincount().max()) / len(labels)


def export_command(found: Comparison) -> str:
    """The command that trains the network of the advised method again and writes it to a file."""
    config = found.config(found.choice.method)
    recipe = configure(config.dataset, method=config.method, seed=config.seed)
    settings = [
        f"{name}={value}"
        for name, value in vars(config).items()
        if value != getattr(recipe, name) and (config.method, name) != ("plain", "generations")
    ]
    words = ["dnr", "export", "--dataset", config.dataset]
    words += ["--method", "+".join([config.method, *settings]), "--output", "model.pt"]
    return shlex.join(words)


# --------------------------------------------------------------------------------------------------
# As HTML


def html_table(
    frame: pd.DataFrame, caption: str, words: bool = False, marked: int | None = None
) -> HTML:
    """A frame without its index as a table that scrolls where it is too wide, under its caption;
    everything in it is escaped. Cells that hold `words` may wrap; one row may be `marked`."""

    def line(cells: tuple, tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)

    # Some styles stand here, for the page is also part of the book, which has a style of its own.
    body = "".join(
        f"<tr{' class=chosen style=font-weight:600' if at == marked else ''}>{line(row, 'td')}</tr>"
        for at, row in enumerate(frame.itertuples(index=False, name=None))
    )
    if not words:
        body = body.replace("</td><td>", "</td><td style=white-space:nowrap>")
    return HTML(
        f"<p class=caption>{html.escape(caption)}</p>"
        f"<div style=overflow-x:auto><table class='table{' words' if words else ''}'>"
        f"<thead><tr>{line(frame.columns, 'th')}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def write(output: Path) -> Path:
    """Makes `report.html` of the comparison in a folder: one file that loads nothing from anywhere.
    Returns its path. The executed notebook is kept beside it."""
    page = output / "report.ipynb"
    execute(NOTEBOOKS / "your_data.ipynb", page, {"comparison": str(output.resolve())})
    title = f"Which method for {dataset(load(output).base.dataset).title}?"
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
    page.cells[0].source = f"# {escaped(title)}"
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
