"""The report of a comparison: its answer in words, and `your_data.ipynb` as one HTML file."""

import html
import math
import shlex
from collections.abc import Iterable
from pathlib import Path

import nbformat
import pandas as pd
from IPython.display import HTML

from .. import records
from ..book.build import execute
from ..book.figures import inlined
from ..book.pages import NOTEBOOKS
from ..book.tables import LEAST_SEEDS, LEVEL_SAID, escaped, interval, number
from ..datasets.catalogue import dataset, read
from ..methods import label, plan
from ..recipes import configure
from ..stats import MARGIN, Estimate
from .choice import FINETUNED, ORDINARY, Comparison, estimated, load

_AGAIN = "{generations} trainings of {epochs} epochs, each from the weights of the one before"
IN_WORDS = {
    "plain": "one training of {epochs} epochs",
    "long": "one training of {total} epochs",
    "tune": _AGAIN,
    "ke": _AGAIN + ", with a fixed part of every layer drawn anew",
    "dnr": _AGAIN + ", with the weights that matter least drawn anew",
    FINETUNED: "one training of {epochs} epochs of a {model}, from its ImageNet weights",
    "ensemble": "{members} networks of {share} epochs each, whose probabilities are averaged",
}
UNTRIED = (
    "All of these begin with random weights. If you may, try a network first that was trained on "
    "many other images: on a small dataset it is usually better, and it is not compared here."
)

STYLE = """
body { font: 1rem/1.55 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 54rem;
  margin: 0 auto; padding: 1rem 1.25rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .3rem 0 .8rem; }
.caption { margin: 1rem 0 0; color: #444; font-size: .93rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left;
  overflow-wrap: normal; vertical-align: top; }
svg { max-width: 100%; height: auto; } svg text { font-family: inherit !important; }
pre { white-space: pre-wrap; background: #f5f5f5; padding: .7rem; } code { font-size: .9em; }
summary { cursor: pointer; }
"""


EXAMPLE = records.ROOT / "data" / "compared"
"""A finished comparison of the bundled digits, as if they were somebody's own images."""


def opened(comparison: str) -> Comparison:
    """The comparison in a folder, or without one the `EXAMPLE`."""
    return load(Path(comparison) if comparison else EXAMPLE)


def answer(found: Comparison) -> str:
    """Which method to use, by how much it is better or what could have been seen, and what it costs
    on new images; in Markdown."""
    choice = found.choice
    decided = "Use" if choice.decided else "No winner; the cheapest of those not worse is"
    if found.done < LEAST_SEEDS:
        decided = "Nothing is decided yet; so far the cheapest of those not worse is"
    parts = [
        f"**{decided} {named(choice.method)}**: {in_short(found, choice.method)}.",
        _why(found),
        _inference(found),
    ]
    if found.done < found.seeds:
        parts.append(
            f"{found.seeds} seeds were wanted; the time was up after {found.done}, and more seeds "
            "may change this."
        )
    pretrained = [] if FINETUNED in found.arms else [UNTRIED]
    paragraphs = [" ".join(parts), *pretrained, _on_test(found)]
    return "\n\n".join(paragraphs)


def _why(found: Comparison) -> str:
    """By how much the advised method is better than all that is cheaper, and how sure that is; or
    that no difference was found, and how large it would have had to be."""
    choice = found.choice
    if choice.found:
        return f"It is better than ordinary training: {_leading(found, ORDINARY)}."
    if found.done < LEAST_SEEDS:
        return f"Nothing can be decided with fewer than {LEAST_SEEDS} seeds; give it more --hours."
    said = (
        f"On the validation images it has {_against(found, choice.ahead)}. " if choice.ahead else ""
    )
    said += (
        f"A mean that is at most {MARGIN} points below the best ordinary training counts as not "
        "worse. No other method was "
        f"found to be better; the closest: {_leading(found, [choice.method])}."
    )
    if math.isnan(choice.detectable):
        return f"{said} The seeds do not differ, so what could have been seen is unknown."
    best = max(found.scores.groupby("method")["validation"].mean()[list(ORDINARY)])
    if choice.detectable > 100 - best:
        return (
            f"{said} Only a difference of {number(choice.detectable, 1)} points would be found in "
            "8 of 10 comparisons like this one, more than is left up to 100 %: this needs more "
            "seeds, or more validation images."
        )
    return (
        f"{said} If the first of these two were truly {number(choice.detectable, 1)} points "
        "better, 8 of 10 comparisons like this one would find it; a smaller difference may be "
        "there."
    )


def _leading(found: Comparison, ordinary: Iterable[str]) -> str:
    """How far the best of the others is ahead of ordinary trainings on the validation images."""
    choice = found.choice
    over = _against(found, {of: choice.over[of] for of in ordinary})
    return (
        f"on the validation images {named(choice.leader)} has {over} (n = {found.done} seeds; "
        f"intervals corrected for having picked the best of {len(choice.others)}: "
        f"{', '.join(titled(of) for of in choice.others)})"
    )


def _inference(found: Comparison) -> str:
    """What the advised method costs on new images."""
    networks = found.base.members if found.choice.method.startswith("ensemble") else 1
    if networks == 1:
        return "On new images it costs one pass of one network."
    return f"On new images it costs {networks} times the time and memory of one network."


def _on_test(found: Comparison) -> str:
    """How the advised method does on the test images."""
    method, right = found.choice.method, found.right("test")
    here = estimated(right[method])
    over = {of: estimated(right[method] - right[of]) for of in ORDINARY if of != method}
    text = (
        f"On the {len(read(found.base.dataset)['test'])} test images, which no choice has seen, "
        f"{named(method)} recognises **{number(here.mean, 1)} %**"
    )
    text += "" if math.isnan(here.low) else f" ({LEVEL_SAID} interval {accuracies(here)})"
    text += f"; {_against(found, over)}."
    text += f" Always naming the commonest class would be right in {number(majority(found), 1)} %."
    beaten = ORDINARY if found.choice.found else found.choice.ahead
    if here.low <= majority(found):
        text += (
            " **The interval holds this: by accuracy these networks cannot be told from that, "
            "so do not follow this advice. Train them longer, with more `--epochs`.**"
        )
    if found.choice.decided and not all(over[of].low > 0 for of in beaten):
        text += (
            " The test images alone do not confirm that it is better than "
            f"{'ordinary' if found.choice.found else 'cheaper'} training: not all of these "
            "intervals lie above 0."
        )
    return text


def named(arm: str) -> str:
    """An arm in a sentence."""
    text = titled(arm).replace("tuned", "tuned settings").replace(", ", " with ")
    return f"the {text}" if text.startswith(("long", "ensemble", "pretrained")) else text


def titled(arm: str) -> str:
    """An arm in words."""
    return "pretrained network" if arm == FINETUNED else label(arm)


def _against(found: Comparison, over: dict[str, Estimate]) -> str:
    """Differences to ordinary trainings. Plain training with tuned settings is left out where those
    are the given ones: it is the same training."""
    return "; ".join(
        f"{_points(points)} against {named(of)}"
        for of, points in over.items()
        if found.tuned or of != "plain+tuned"
    )


def _points(difference: Estimate) -> str:
    text = f"{number(difference.mean, sign=True)} points"
    if math.isnan(difference.low):
        return text
    return f"{text} {differences(difference)}"


def accuracies(values: Estimate) -> str:
    """The interval of a mean accuracy, which lies between 0 and 100 %."""
    # In this order NaN stays NaN.
    return interval(max(values.low, 0.0), min(values.high, 100.0))


def differences(values: Estimate) -> str:
    """The interval of a mean difference of accuracies, which lies between -100 and 100 points."""
    return interval(max(values.low, -100.0), min(values.high, 100.0), sign=True)


def in_short(found: Comparison, arm: str) -> str:
    """What an arm does with its epochs, and its settings where they were chosen."""
    config, (stage, *_) = found.config(arm), plan(found.config(arm))
    total = config.generations * config.epochs
    numbers = vars(config) | {"total": total, "share": stage.length(config)}
    said = IN_WORDS[arm.partition("+")[0]].format(**numbers)
    if "augment" in arm:
        said += ", on images that are distorted at random (TrivialAugment)"
    if "+tuned" in arm:
        said += f", with weight decay {config.weight_decay:g} and learning rate {config.lr:g}"
        said += "" if found.tuned else ", which are the default ones"
    return said


def majority(found: Comparison) -> float:
    """The share of the commonest class among the test images, in %."""
    labels = read(found.base.dataset)["test"].labels
    return 100 * int(labels.bincount().max()) / len(labels)


def export_command(found: Comparison) -> str:
    """The command that trains the network of the advised method again and writes it to a file."""
    config = found.config(found.choice.method)
    recipe = configure(config.dataset, method=config.method)
    settings = [
        f"{name}={value}"
        for name, value in vars(config).items()
        if value != getattr(recipe, name) and (config.method, name) != ("plain", "generations")
    ]
    words = ["dnr", "export", "--dataset", config.dataset]
    words += ["--method", "+".join([config.method, *settings]), "--output", "model.pt"]
    return shlex.join(words)


def html_table(frame: pd.DataFrame, caption: str) -> HTML:
    """A frame without its index as a table that scrolls where it is too wide, under its caption;
    everything in it is escaped."""
    with pd.option_context("display.max_colwidth", None):
        table = frame.to_html(index=False, border=0, classes="table", justify="left")
    # A style stands here, for the page is also part of the book, which has a style of its own.
    return HTML(
        f"<p class=caption>{html.escape(caption)}</p><div style=overflow-x:auto>{table}</div>"
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
    page.cells = [c for c in page.cells if "not-in-report" not in c.metadata.get("tags", [])]
    page.cells[0].source = f"# {escaped(title)}"
    for cell in (c for c in page.cells if c.cell_type == "code"):
        cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
        if "figure" in (shown := cell.metadata.get("mystnb", {})):
            for output in cell.outputs:
                if svg := output.get("data", {}).pop("image/svg+xml", None):
                    output.data["text/html"] = inlined(svg, shown["image"]["alt"], cell.id)
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
