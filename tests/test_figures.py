"""Figures and tables: what they show, computed by hand, and that they draw without runs too."""

import base64
import io
import itertools
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from nbconvert.filters import markdown2html_mistune

from dnrlib.book import figures, tables
from dnrlib.frames import COLUMNS, generations
from dnrlib.methods import METHODS
from dnrlib.paper.claims import ledger
from dnrlib.stats import PRIMARY
from tests.test_evaluated_frames import corrupted


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def course():
    """Two seeds, three generations; dnr is 1 point above tune in generation 2, 2 in 3."""
    rows = []
    for method, accuracies in {
        "tune": [50, 60, 70],
        "dnr": [50, 61, 72],
        "long": [40, 60, 71],
    }.items():
        for seed in (0, 1):
            for number, accuracy in enumerate(accuracies, 1):
                rows.append(
                    {
                        "method": method,
                        "seed": seed,
                        "generation": number,
                        "last": number == 3,
                        "test_accuracy": accuracy
                        + 5 * seed
                        + (0.1 * seed if method == "dnr" else 0),
                    }
                )
    return pd.DataFrame(rows)


def test_curves_draw_the_means_of_what_was_run():
    ax = figures.curves(course(), ["tune", "dnr", "lw"])
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.get_lines()}
    assert lines.keys() == {"fine-tuning", "DNR"}
    assert lines["fine-tuning"] == [52.5, 62.5, 72.5]
    assert {arm.partition("+")[0] for arm in figures.COLOURS} == METHODS.keys()


def test_differences_draw_the_comparisons():
    ax = figures.differences(course(), [("dnr", "tune"), ("dnr", "long")])
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "DNR − fine-tuning",
        "DNR − long baseline (LB)",
    ]
    points = [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() == "o"]
    assert points == pytest.approx([2.05, 1.05])


def test_a_difference_far_beyond_the_others_stands_at_the_edge_with_its_number():
    frame = course()
    frame.loc[frame["method"] == "tune", "test_accuracy"] -= 60
    frame = pd.concat([frame, frame[frame["method"] == "long"].assign(method="ke")])
    ax = figures.differences(frame, [("dnr", "long"), ("dnr", "ke"), ("tune", "dnr")])
    drawn = {line.get_marker(): line.get_xdata()[0] for line in ax.get_lines()}
    assert [text.get_text() for text in ax.texts] == ["−62.05"]
    assert -3 < drawn["<"] < 0
    low, high = ax.get_xlim()
    assert -3 < low < high < 3


def test_both_lines_of_a_long_name_are_texts_of_their_own():
    ax = figures.differences(course(), [("tune", "long"), ("dnr", "tune")])
    lines = {text.get_text(): text.get_position()[1] for text in ax.get_yticklabels()}
    assert [*lines] == ["fine-tuning", "− long baseline (LB)", "DNR − fine-tuning"]
    assert [*lines.values()] == pytest.approx([-0.2, 0.2, 1])


def test_tables_say_what_the_frame_says():
    text = tables.accuracy_table(course(), ["dnr", "ke"], "table1", "digits", "tbl-x").data
    assert "| DNR | 2 | 74.55 ± 3.61 | [42.15, 106.95] | 67.45 |" in text
    assert "Not run: *KE (KELS)*." in text
    assert "| fine-tuning | 2 | 72.50 ± 3.54 |" in text
    text = tables.comparison_table(course(), [("dnr", "tune")], "tbl-y").data
    assert "| DNR − fine-tuning | better | 2 | +2.05 | [+1.41, +2.69] | 0.016 | – |" in text
    verdicts = ledger({"digits": course().reindex(columns=COLUMNS)})
    words = tables.findings(verdicts, "primary", "digits").data
    assert tables.number(-0.001) == "0.00", "no minus zero"
    holds = "{ref}`Holds <claim-beats-tune>`: +2.05 points [+1.41, +2.69], 2 seeds."
    assert f"*(Section 5.4, Table 3.)*\n  {holds}" in words, "the sentence, then the verdict"
    assert "{ref}`Not run <claim-beats-ke>`. KE with KELS" in words
    assert "neither confirms nor refutes" in words
    assert "neither confirms" not in tables.findings(verdicts, "table1", "flower102").data


def test_no_difference_is_judged_before_its_planned_seeds_are_there():
    rows = [("plain", seed, 50.0 + seed % 2) for seed in range(3)]
    rows += [("dnr", seed, 70.0) for seed in range(3)]
    frame = pd.DataFrame(rows, columns=["method", "seed", "test_accuracy"]).assign(last=1)
    for dataset, word in (("flower102-64", "not finished"), ("digits", "better")):
        text = tables.comparison_table(frame.assign(dataset=dataset), [("dnr", "plain")], "t").data
        assert f"| {word} |" in text
        assert ("planned seeds are not trained yet" in text) == (word == "not finished")


def test_what_is_not_asked_of_images_is_counted_and_nothing_is_said_of_them():
    judged = ledger({"digits": course().reindex(columns=COLUMNS)})
    asked, not_asked = (
        tables.findings(of, "beats-tune", "flower102-64").data for of in (judged, judged[:0])
    )
    assert "These photographs are of the paper's datasets" in asked
    assert "not asked" not in asked
    assert "has 1 of this exhibit, not asked of these images" in not_asked
    assert "These photographs" not in not_asked


def test_single_sentences_are_told_by_their_names():
    words = tables.findings(verdicts(), "dynamic-mask beats-tune", "digits").data
    assert re.findall(r"<claim-(.+?)>", words) == ["beats-tune", "dynamic-mask"]


def test_a_bar_in_a_cell_begins_no_other_cell():
    """As in the rows 'ResNet18 | CE + ImageNet' of KE Table 9."""
    printed = tables.printed_table("ke_table9", "t").data
    html = markdown2html_mistune("\n".join(printed.splitlines()[3:-1]))
    rows = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in html.split("<tr>")[1:]]
    assert rows[0] == ["", "Flower", "CUB", "Aircraft", "MIT", "Dog"]
    assert rows[1] == ["ResNet18 | CE + ImageNet", "88.83", "74.46", "61.01", "72.84", "74.29"]


def light(colour):
    return np.array(
        [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    )


def contrast(a, b):
    """The ratio of WCAG 2."""
    one, other = sorted(light(of) @ [0.2126, 0.7152, 0.0722] + 0.05 for of in (a, b))
    return other / one


def seen(colour, eyes):
    """A colour in OKLab (Ottosson 2020), as eyes see it, given as a matrix of linear RGB."""
    to_cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return to_lab @ np.cbrt(to_cones @ np.clip(eyes @ light(colour), 0, 1))


# Protanopia and deuteranopia of Machado, Oliveira and Fernandes (2009), severity 1.
EYES = (
    np.eye(3),
    np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.052]]),
    np.array([[0.3673, 0.8607, -0.228], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
)


def test_colours_are_seen_on_both_grounds_and_told_apart():
    drawn = {*figures.COLOURS.values(), figures.GREY} - {"#000000"}
    assert len(drawn) == len(figures.COLOURS)
    for paint in drawn:
        assert min(contrast(paint, "white"), contrast(paint, "#121212")) > 2.5, paint
    most = ("long", "tune", "ke", "llf", "dnr", "dnr+criterion=random")
    for a, b in itertools.combinations(map(figures.colour, most), 2):
        for eyes in EYES:
            assert np.linalg.norm(seen(a, eyes) - seen(b, eyes)) > 0.12, (a, b)


def drawn():
    """A figure as a notebook writes it."""
    ax = figures.curves(course(), ["tune", "dnr"])
    ax.set_title("<b> & accuracy")
    file = io.BytesIO()
    ax.figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue().decode()


def test_a_figure_is_the_same_file_every_time_and_its_text_is_text():
    assert drawn() == drawn()
    assert ">test accuracy in %</text>" in drawn()


def test_two_figures_stand_on_one_page_without_sharing_an_id():
    trees = [
        ElementTree.fromstring(figures.inlined(drawn(), 'Two "curves" <b>', name))
        for name in ("a", "b")
    ]
    ids = [{node.get("id") for node in tree.iter() if node.get("id")} for tree in trees]
    assert not ids[0] & ids[1]
    for tree, known in zip(trees, ids, strict=True):
        text = ElementTree.tostring(tree, "unicode")
        asked = {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)}
        assert asked <= known
        assert len(asked) > 2
        assert tree.get("aria-label") == 'Two "curves" <b>'
        assert "#000000" not in text
        assert "currentColor" in text
        assert not [node for node in tree.iter() if node.tag.endswith(("style", "metadata"))]


@pytest.mark.parametrize(
    ("others", "column", "word"),
    [
        ([0.6, 0.2, 0.4, 0.3, 0.7, 0.0], "test_accuracy", "no gain"),
        ([1.2, -0.1, 0.9, -0.3, 0.6, 0.0], "test_accuracy", "no gain"),
        ([-0.6, -0.2, -0.4, -0.3, -0.7, 0.0], "test_accuracy", "no loss"),
        ([0.6, -0.2, 0.1, -0.3, 0.2, 0.0], "test_accuracy", "equivalent"),
        ([4.0, -4.0, 3.0, -1.0, 2.0, -2.5], "test_accuracy", "undecided"),
        ([0.6, 0.2, 0.4, 0.3, 0.7, 0.0], "mca_drop", "does not lose more"),
    ],
)
def test_a_difference_without_a_sign_says_what_is_excluded(others, column, word):
    """Two others of no spread hold the adjusted p above 5 %."""
    arms = {"dnr": [0.0] * 6, "long": others, "ke": [0.0] * 6, "tune": [0.0] * 6}
    frame = pd.DataFrame(
        {"method": arm, "seed": seed, "last": True, column: 50 + value}
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    )
    pairs = [("dnr", "long"), *[("ke", "tune")] * 40]
    text = tables.comparison_table(frame, pairs, "t", column).data
    assert f"| {word} |" in next(line for line in text.splitlines() if "DNR − long" in line)


def test_a_frame_is_saved_from_its_link():
    frame = pd.DataFrame({"method": ["dnr", "ke, <b>"], "test_accuracy": [90.25, 1 / 3]})
    links = tables.download(frame, "table1-<x>", by_seed=frame[:1]).data
    assert re.findall('download="([^"]*)"', links) == [
        *("table1-&lt;x&gt;.csv", "table1-&lt;x&gt;-by_seed.csv"),
    ]
    for content, saved in zip(re.findall('base64,([^"]*)', links), (frame, frame[:1]), strict=True):
        again = pd.read_csv(io.BytesIO(base64.b64decode(content)))
        pd.testing.assert_frame_equal(again, saved, atol=1e-5)
    assert links.endswith(">by seed</a> (1 rows)")
    assert "figures" not in tables.download(frame, "table1").data


def test_everything_draws_and_says_not_run_without_runs():
    frame = generations([])
    figures.curves(frame, list(METHODS))
    figures.differences(frame, PRIMARY)
    for said in (
        tables.accuracy_table(frame, [], "table1", "digits", "t"),
        tables.comparison_table(frame, PRIMARY, "t"),
        tables.frame_table(frame, "C.", "t"),
    ):
        assert said.data == tables.NOT_RUN


def test_not_run_stands_in_the_middle_of_the_axes_whatever_their_limits():
    ax = plt.subplots()[1]
    ax.set(xlim=(10, 20), ylim=(-5, 0))
    (text,) = figures.not_run(ax).texts
    place = text.get_transform().transform(text.get_position())
    assert place == pytest.approx(ax.transAxes.transform((0.5, 0.5)))


def test_frames_as_tables():
    frame = pd.DataFrame(
        {
            "exhibit": ["Table 1", "Fig. 2"],
            "value_a": [1.5, 2.0],
            "difference": [-0.25, float("nan")],
            "n": [3, 1234],
            "equal": [True, False],
            "spread": [float("nan")] * 2,
        }
    )
    text = tables.frame_table(frame, "C.", "tbl-x", signed=["value_a"]).data
    assert ":::{table} C.\n:name: tbl-x\n" in text
    assert "| exhibit | value a | difference | n | equal |" in text, "no column without a value"
    assert "| Table 1 | +1.50 | −0.25 | 3 | yes |" in text
    assert "| Fig. 2 | +2.00 | – | 1234 | no |" in text
    text = tables.frame_table(frame, "C.", "tbl-x", digits={"value_a": 1}).data
    assert "| Table 1 | 1.5 | −0.25 | 3 | yes |" in text
    assert "| Fig. 2 | 2 | – | 1234 | no |" in tables.frame_table(frame, "C.", "t", digits=0).data


class Page(HTMLParser):
    """What a browser makes of a text: its tags with the names of their attributes (but for the
    spans of coloured code), where they lead, and its words."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.words = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags += [(tag, *(name for name, _ in attributes))] * (tag != "span")
        self.links += [
            value for name, value in attributes if name in ("src", "href", "action", "xlink:href")
        ]

    def handle_data(self, text):
        self.words += text


HOSTILE = (
    "folder:/x/<img src=x onerror=alert(1)>\n```\n<script>*a* _b_ | $c$ [d](javascript:e) &lt;"
)


@pytest.mark.parametrize(
    "say",
    [
        lambda name: tables.accuracy_table(course(), ["ke"], "table1", name, f"tbl-{name}"),
        lambda name: tables.findings(verdicts(), "table1", name),
        lambda name: tables.corruption_table(corrupted(("long", "dnr")), name, "t"),
        lambda name: Markdown(f"# {tables.escaped(name)}"),
        lambda name: Markdown(tables.fenced(name, "sh")),
    ],
)
def test_a_name_from_outside_is_text_wherever_it_stands(say):
    """The page has the same tags whatever the name is, and shows it."""
    plain, hostile = (Page(markdown2html_mistune(say(name).data)) for name in ("digits", HOSTILE))
    assert hostile.tags == plain.tags
    assert " ".join(HOSTILE.split()) in " ".join(hostile.words.split())


def verdicts():
    return ledger({"digits": course().reindex(columns=COLUMNS)})


def test_what_is_lost_is_not_called_better():
    rows = [
        (method, seed, value + seed)
        for seed in range(3)
        for method, value in (("dnr", 1), ("tune", 9.5))
    ]
    frame = pd.DataFrame(rows, columns=["method", "seed", "mca_drop"]).assign(last=True)
    frame.loc[0, "mca_drop"] += 0.1
    text = tables.comparison_table(frame, [("dnr", "tune"), ("tune", "dnr")], "t", "mca_drop").data
    less, more = text.splitlines()[-3:-1]
    assert "| loses less |" in less
    assert "| loses more |" in more
    assert less.endswith("| – |"), "what is decided needs no more seeds"
    assert more.endswith("| – |")


def test_missing_numbers_are_dashes_and_minus_signs_are_minus_signs():
    assert tables.number(float("nan")) == tables.number(None) == "–"
    assert tables.number(-1.234, sign=True) == "−1.23"
    assert tables.interval(float("nan"), float("nan")) == "–"
