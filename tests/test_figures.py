"""Figures and tables: what they show, computed by hand, and that they draw without runs too."""

from html.parser import HTMLParser

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import pytest
from IPython.display import Markdown
from matplotlib import pyplot as plt
from nbconvert.filters import markdown2html_mistune

from dnrlib import figures, tables
from dnrlib.claims import ledger
from dnrlib.frames import COLUMNS, generations, layers
from dnrlib.methods import METHODS
from dnrlib.models import LAYERS
from dnrlib.paper import discrepancies
from dnrlib.recipes import configure
from dnrlib.stats import PRIMARY
from tests.test_evaluated_frames import corrupted


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def masks_of_two_generations():
    """Every layer has 10 weights; mask 1 keeps 6, mask 2 keeps 8, 5 of them in mask 1; mask 3
    keeps 4, of which 3 are in mask 2 and 2 in mask 1. conv1 keeps everything."""
    rows = []
    for generation, kept, previous, first in ((1, 6, None, None), (2, 8, 5, 5), (3, 4, 3, 2)):
        for layer in LAYERS:
            whole = layer == "conv1"
            rows.append(
                {
                    "dataset": "digits",
                    "method": "dnr",
                    "seed": 0,
                    "generation": generation,
                    "layer": layer,
                    "size": 10,
                    "kept": 10 if whole else kept,
                    "with_previous": None if previous is None else 10 if whole else previous,
                    "with_first": None if first is None else 10 if whole else first,
                }
            )
        rows.append(rows[-1] | {"layer": "layer2.0.downsample.0", "kept": 0, "size": 99})
    return pd.DataFrame(rows)


def test_overlap_is_of_the_later_mask_and_chance_the_share_of_the_earlier():
    frame = masks_of_two_generations()
    previous = figures.overlap_frame(frame, "previous")
    first = figures.overlap_frame(frame, "first")
    assert previous.index.tolist() == ["1–2", "2–3"]
    assert first.index.tolist() == ["1–2", "1–3"]
    assert previous["fc"].tolist() == [100 * 5 / 8, 100 * 3 / 4]
    assert first["fc"].tolist() == [100 * 5 / 8, 100 * 2 / 4]
    assert previous["conv1"].tolist() == [100, 100]
    # The mean over layers by their size, here all of 10 weights.
    assert previous["all"].iloc[0] == pytest.approx((100 + 17 * 100 * 5 / 8) / 18)
    chance = figures.keep_frame(frame, "previous")
    chance_first = figures.keep_frame(frame, "first")
    assert chance["fc"].tolist() == pytest.approx([60, 80])
    assert chance_first["fc"].tolist() == pytest.approx([60, 60])
    assert chance.index.tolist() == ["1–2", "2–3"]
    assert chance_first.index.tolist() == ["1–2", "1–3"]
    assert chance["all"].iloc[0] == pytest.approx(100 * (10 + 17 * 6) / 180)


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


def test_curves_draw_the_means():
    ax = figures.curves(course(), ["tune", "dnr"])
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.get_lines()}
    assert lines["fine-tuning"] == [52.5, 62.5, 72.5]
    assert figures.COLOURS.keys() == METHODS.keys()


def test_differences_draw_the_comparisons():
    ax = figures.differences(course(), [("dnr", "tune"), ("dnr", "long")])
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "DNR − fine-tuning",
        "DNR − long baseline (LB)",
    ]
    points = [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() == "o"]
    assert points == pytest.approx([2.05, 1.05])


def test_tables_say_what_the_frame_says():
    text = tables.accuracy_table(course(), ["dnr", "ke"], "table1", "digits", "tbl-x").data
    assert "| DNR | 2 | 74.55 ± 3.61 | [42.15, 106.95] | 67.45 |" in text
    assert "Not run: KE (KELS)." in text
    assert "| fine-tuning | 2 | 72.50 ± 3.54 |" in text
    text = tables.comparison_table(course(), [("dnr", "tune")], "tbl-y").data
    assert "| DNR − fine-tuning | 2 | +2.05 | [+1.41, +2.69] | 0.016 | better | 3 |" in text
    text = tables.by_generation(course(), "dnr", "tune", "tbl-z").data
    assert "| 2 | 2 | 63.55 | 62.50 | +1.05 | [+0.41, +1.69] |" in text
    verdicts = ledger({"digits": course().reindex(columns=COLUMNS)})
    words = tables.findings(verdicts, "primary", "digits").data
    assert "- **Holds**: DNR is more accurate than fine-tuning" in words
    assert "(+2.05 [+1.41, +2.69], n = 2.)" in words
    assert "- **Not run**: DNR is more accurate than KE" in words
    assert "neither confirms nor refutes" in words
    assert "neither confirms" not in tables.findings(verdicts, "table1", "flower102").data
    steps = tables.steps(course(), "dnr", "tune").data
    assert "on average +1.55 points" in steps
    assert "leave out 0 in generation 2, 3" in steps


def test_overlap_words_and_table():
    frame = masks_of_two_generations()
    maps = [
        f(frame, w)
        for w in ("previous", "first")
        for f in (figures.overlap_frame, figures.keep_frame)
    ]
    text = tables.overlap_table(*maps, "tbl-o").data
    assert "| 1–2 | 64.6 | 62.2 | 81.1 | 1–2 | 64.6 | 62.2 | 81.1 |" in text
    words = tables.overlap_findings(maps[0], maps[1], "digits").data
    assert "from 64.6 % to 76.4 % (+11.8 points)" in words


def test_everything_draws_and_says_not_run_without_runs():
    frame, none = generations([]), layers([])
    verdicts = ledger({"digits": frame})
    figures.curves(frame, list(METHODS))
    figures.differences(frame, PRIMARY)
    figures.forest(verdicts)
    figures.shock(frame)
    figures.zero_by_layer(none)
    figures.mask_noise(frame)
    figures.cumulative_cost(frame)
    maps = [
        f(none, w)
        for w in ("previous", "first")
        for f in (figures.overlap_frame, figures.keep_frame)
    ]
    figures.overlap_map(maps[0])
    figures.overlap_excess(maps[0], maps[1])
    for said in (
        tables.accuracy_table(frame, [], "table1", "digits", "t"),
        tables.comparison_table(frame, PRIMARY, "t"),
        tables.by_generation(frame, "dnr", "tune", "t"),
        tables.steps(frame, "dnr", "tune"),
        tables.overlap_table(*maps, "t"),
        tables.overlap_findings(maps[0], maps[1], "digits"),
        tables.shock_table(frame, "t"),
        tables.dead_table(none, "t"),
        tables.causes(frame, none),
        tables.noise_table(frame, "t"),
        tables.cost_table(frame, "t"),
        tables.linear_cost(frame),
    ):
        assert said.data == tables.NOT_RUN
    assert "not run" in tables.ledger_table(verdicts, verdicts, "digits", "t").data


class Page(HTMLParser):
    """What a browser makes of a text: its tags with the names of their attributes (but for the
    spans of coloured code), where they lead, and its words."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.words = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags += [(tag, *(name for name, _ in attributes))] * (tag != "span")
        self.links += [value for name, value in attributes if name in ("src", "href", "action")]

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
        lambda name: tables.ledger_table(verdicts(), verdicts(), name, f"tbl-{name}"),
        lambda name: tables.overlap_findings(*maps(), name),
        lambda name: tables.dead_table(resets(name), "t"),
        lambda name: tables.causes(reset_runs(), resets(name)),
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


def maps():
    frame = masks_of_two_generations()
    return figures.overlap_frame(frame, "previous"), figures.keep_frame(frame, "previous")


def resets(name):
    sums = {"size": 100, "kept": 80, "zero_saliency": 5}
    return pd.DataFrame([{"dataset": name, "generation": 1, "seed": 0, "layer": "fc"} | sums])


def reset_runs():
    """Two seeds, two generations; dnr loses 1 point at the reset, ke 40; both end at 80."""
    rows = []
    for method, birth in {"dnr": 69.0, "ke": 30.0}.items():
        for seed in (0, 1):
            common = {"method": method, "seed": seed, "seconds": 2.0, "mask_seconds": 0.1}
            common |= {"kept": 0.8, "masked_accuracy": 60.0 + seed, "epochs": 30}
            rows.append(common | {"generation": 1, "last": False, "test_accuracy": 70.0})
            rows.append(
                common
                | {"generation": 2, "last": True, "birth_accuracy": birth, "test_accuracy": 80.0}
                | {"overlap_previous": 0.9, "overlap_resampled": 0.95}
            )
    return pd.DataFrame(rows)


def test_shock_is_the_accuracy_right_after_the_first_reset():
    text = tables.shock_table(reset_runs(), "t").data
    assert "| DNR | 2 | 20.0 | 70.00 | 69.00 | −1.00 | 80.00 |" in text
    assert "| KE (KELS) | 2 | 20.0 | 70.00 | 30.00 | −40.00 | 80.00 |" in text
    ax = figures.shock(reset_runs())
    points = [line.get_xdata()[0] for line in ax.get_lines() if line.get_marker() == "o"]
    assert points == [70, 69, 70, 30]


def test_causes_in_words():
    frame = reset_runs().replace({"ke": "dnr+criterion=random"})
    layer = {"dataset": "digits", "generation": 1, "size": 10, "kept": 8, "zero_saliency": 1}
    said = tables.causes(frame, pd.DataFrame([layer])).data
    assert "by −1.00 points at once, that of as many random weights by −40.00." in said
    assert "- 50 % of what changes in SNIP's mask" in said
    assert "On digits, weights of exactly zero saliency make up 50 %" in said


def test_noise_is_set_beside_the_change_of_the_mask():
    snip = reset_runs().query("method == 'dnr'")
    assert "| 2 | 2 | 10.00 | 5.00 | 50 |" in tables.noise_table(snip, "t").data


def test_cost_of_a_mask_and_of_a_generation():
    assert "| DNR | 4 | 2.000 | 0.100 | 5.00 |" in tables.cost_table(reset_runs(), "t").data
    three = pd.DataFrame(
        {
            "method": "tune",
            "seed": 0,
            "generation": [1, 2, 3],
            "seconds": [2.0, 2.0, 2.0],
        }
    )
    said = tables.linear_cost(three).data
    assert "fine-tuning: 2.00 seconds per generation" in said
    assert "than 0.0 % of the total" in said


def test_what_is_lost_is_not_called_better():
    rows = [
        (method, seed, value + seed)
        for seed in range(3)
        for method, value in (("dnr", 1), ("tune", 9.5))
    ]
    frame = pd.DataFrame(rows, columns=["method", "seed", "mca_drop"]).assign(last=True)
    frame.loc[0, "mca_drop"] += 0.1
    text = tables.comparison_table(frame, [("dnr", "tune"), ("tune", "dnr")], "t", "mca_drop").data
    assert "| loses less |" in text.splitlines()[-3]
    assert "| loses more |" in text.splitlines()[-2]


def test_dead_weights_are_counted_among_the_reset_ones():
    """10 weights, 8 kept, 1 of zero saliency: 10 % of all, half of the reset; where more are zero
    than reset, all of the reset are."""
    rows = [
        {"dataset": "digits", "seed": 0, "generation": 1, "layer": "fc", "size": 10, "kept": 8},
        {"dataset": "fine", "seed": 0, "generation": 1, "layer": "fc", "size": 10, "kept": 8},
    ]
    frame = pd.DataFrame(rows).assign(zero_saliency=[1, 7])
    text = tables.dead_table(frame, "t").data
    assert "| digits | 1 | 10.00 | 50.00 |" in text
    assert "| fine | 1 | 70.00 | 100.00 |" in text


def test_forest_draws_a_row_per_claim_that_was_run():
    verdicts = ledger({"digits": course().reindex(columns=COLUMNS)})
    names = [text.get_text() for text in figures.forest(verdicts).get_yticklabels()]
    assert names[:2] == ["beats lb: undecided", "beats tune: holds"]
    assert not any("beats ke" in name for name in names)


def test_cards_are_printed_from_the_plan():
    text = tables.cards(["dsd", "dnr"], configure("digits")).data
    assert "| 2 | `Top(score=Magnitude(), share=0.7, scope=layer)` | `Zeros()` |" in text
    assert "| 2–10 | `Top(score=Snip(probe=0.2), share=0.8)` | `Fresh()` | `Labels()` | E |" in text
    assert "2 E in all" in text


def test_discrepancies_are_escaped_and_searchable():
    text = tables.discrepancies_table().data
    assert text.count("<tr id=") == len(discrepancies()) >= 50
    assert 'type="search"' in text
    assert "<script" not in text


def test_missing_numbers_are_dashes_and_minus_signs_are_minus_signs():
    assert tables.number(float("nan")) == tables.number(None) == "–"
    assert tables.number(-1.234, sign=True) == "−1.23"
    assert tables.interval(float("nan"), float("nan")) == "–"
