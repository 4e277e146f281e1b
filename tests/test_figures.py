"""Figures and tables: what they show, computed by hand, and that they draw without runs too."""

import matplotlib

matplotlib.use("Agg")

import pandas as pd
import pytest
from matplotlib import pyplot as plt

from dnrlib import figures, tables
from dnrlib.methods import METHODS
from dnrlib.models import LAYERS
from dnrlib.stats import PRIMARY
from dnrlib.study import generations, layers


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
    assert previous["all"].iloc[0] == pytest.approx(100 * (10 + 17 * 5) / (10 + 17 * 8))
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
    text = tables.accuracy_table(course(), "digits", "tbl-x").data
    assert "| DNR | 2 | 74.55 ± 3.61 | [42.15, 106.95] | 67.45 |" in text
    assert "| fine-tuning | 2 | 72.50 ± 3.54 |" in text
    text = tables.comparison_table(course(), [("dnr", "tune")], "tbl-y").data
    assert "| DNR − fine-tuning | 2 | +2.05 | [+1.41, +2.69] | 0.016 | better | 3 |" in text
    text = tables.by_generation(course(), "dnr", "tune", "tbl-z").data
    assert "| 2 | 2 | 63.55 | 62.50 | +1.05 | [+0.41, +1.69] |" in text
    words = tables.findings(course(), [("dnr", "tune")], "digits").data
    assert words.startswith(
        "- **DNR beats fine-tuning** (+2.05 points, 95% interval [+1.41, +2.69]"
    )
    assert "neither confirms nor refutes" in words
    assert "neither confirms" not in tables.findings(course(), [("dnr", "tune")], "flower102").data
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
    assert "| 1–2 | 65.1 | 62.2 | 81.1 | 1–2 | 65.1 | 62.2 | 81.1 |" in text
    words = tables.overlap_findings(maps[0], maps[1], "digits").data
    assert "from 65.1 % to 78.2 % (+13.1 points)" in words


def test_everything_draws_and_says_not_run_without_runs():
    frame, none = generations([]), layers([])
    figures.curves(frame, list(METHODS))
    figures.differences(frame, PRIMARY)
    maps = [
        f(none, w)
        for w in ("previous", "first")
        for f in (figures.overlap_frame, figures.keep_frame)
    ]
    figures.overlap_map(maps[0])
    figures.overlap_excess(maps[0], maps[1])
    for said in (
        tables.accuracy_table(frame, "digits", "t"),
        tables.comparison_table(frame, PRIMARY, "t"),
        tables.findings(frame, PRIMARY, "digits"),
        tables.by_generation(frame, "dnr", "tune", "t"),
        tables.steps(frame, "dnr", "tune"),
        tables.overlap_table(*maps, "t"),
        tables.overlap_findings(maps[0], maps[1], "digits"),
    ):
        assert said.data == tables.NOT_RUN


def test_missing_numbers_are_dashes_and_minus_signs_are_minus_signs():
    assert tables.number(float("nan")) == tables.number(None) == "–"
    assert tables.number(-1.234, sign=True) == "−1.23"
    assert tables.interval(float("nan"), float("nan")) == "–"
