"""Figures and tables of DNR Figs. 5 to 7 and Table 8: what they show, computed by hand, and that
they draw without runs too."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from dnrlib import robustness
from dnrlib.corruptions import CORRUPTIONS, DEVIATIONS, GROUPS, corrupt
from dnrlib.data import read
from dnrlib.evaluations import BEYOND, FIGURE, attack_frame, corruption_frame, recall_frame
from dnrlib.paper import wide
from dnrlib.recipes import configure
from dnrlib.stats import clustered, estimate
from dnrlib.study import Run
from dnrlib.tables import NOT_RUN, comparison_table

ORDERED = [name for members in GROUPS.values() for name in members]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def corrupted(methods=("long", "dnr")):
    """Two seeds a point apart. Number i (from 0) of the 19 has a mean over severities of 50 + i,
    two points less per severity, for DNR two more; 90 % on clean images; 20 less of all without
    normalisation."""
    rows = []
    for method in methods:
        for seed in (0, 1):
            for normalised in (True, False):
                base = (2 if method == "dnr" else 0) + seed - (0 if normalised else 20)
                rows.append((method, seed, normalised, "none", 0, 90.0 + base))
                for i, name in enumerate(CORRUPTIONS):
                    for severity in range(1, 6):
                        value = 50.0 + base + i - 2 * (severity - 3)
                        rows.append((method, seed, normalised, name, severity, value))
    columns = ["method", "seed", "normalised", "corruption", "severity", "accuracy"]
    return pd.DataFrame(rows, columns=columns).assign(images=200, official=False)


def test_means_by_corruption():
    for normalised, less in ((True, 0), (False, 20)):
        means = robustness.by_corruption(corrupted(), normalised)
        assert means.index.tolist() == [*ORDERED, "mCA 19", "mCA 15"]
        assert means.loc["gaussian_noise"].to_dict() == {"long": 50.5 - less, "dnr": 52.5 - less}
        assert means.loc["saturate", "long"] == 68.5 - less
        # The means of 0 to 18 and of 0 to 14 are 9 and 7.
        assert means.loc["mCA 19", "long"] == pytest.approx(59.5 - less)
        assert means.loc["mCA 15", "dnr"] == pytest.approx(59.5 - less)


def test_map_of_corruptions():
    ax = robustness.corruption_map(corrupted())
    assert [text.get_text() for text in ax.get_yticklabels()][:2] == [
        *("gaussian noise", "shot noise")
    ]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["long baseline (LB)", "DNR"]
    said = [text.get_text() for text in ax.texts]
    assert said[2:4] == ["52", "54"], "51.5 and 53.5 of shot noise, to even"
    assert len(said) == 21 * 2


def test_curve_by_severity():
    ax = robustness.by_severity(corrupted())
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    assert lines["long baseline (LB)"] == pytest.approx([90.5, 63.5, 61.5, 59.5, 57.5, 55.5])
    assert lines["DNR"] == pytest.approx([92.5, 65.5, 63.5, 61.5, 59.5, 57.5])
    assert [text.get_text() for text in ax.get_xticklabels()] == list("012345")
    segments = ax.collections[0].get_segments()
    found = estimate([63.0, 64.0])
    assert segments[1][:, 1] == pytest.approx([found.low, found.high])


def test_table_of_corruptions():
    text = robustness.corruption_table(corrupted(("long", "dnr", "tune")), "squares", "t").data
    assert (
        "on squares in %, on 200 clean test images and on the same under corruptions made" in text
    )
    official = robustness.corruption_table(corrupted().assign(official=True), "squares", "t").data
    assert "on the same under the official files, mean" in official
    lb = "| long baseline (LB)"
    lost = "31.00 ± 0.00 | 23.4 |"
    assert f"{lb} | 2 | 90.50 ± 0.71 | 59.50 ± 0.71 | 57.50 ± 0.71 | {lost}" in text
    bare = f"{lb}, not normalised | 2 | 70.50 ± 0.71 | 39.50 ± 0.71 | 37.50 ± 0.71 | {lost}"
    assert bare in text
    assert "| DNR | 2 | 92.50 ± 0.71 | 61.50 ± 0.71 | 59.50 ± 0.71 |" in text
    tune = next(line for line in text.splitlines() if line.startswith("| fine-tuning"))
    assert tune.endswith("| – |"), "nothing is printed of it"


def test_likeness_is_the_rank_correlation_with_what_is_printed():
    """Accuracies that rise with the printed ones, and without normalisation fall with them."""
    frame, printed = corrupted(), wide("dnr", "fig5").loc["LB"]
    corruption = frame["severity"] > 0
    rank = frame["corruption"][corruption].map(printed)
    sign = np.where(frame["normalised"][corruption], 1, -1)
    frame.loc[corruption, "accuracy"] = 50 + sign * rank
    text = robustness.likeness_table(frame, "tbl-x").data
    line = next(line for line in text.splitlines() if line.startswith("| long baseline"))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells == ["2", "1.00", "−1.00", "−2.00", "[−2.00, −2.00]"]
    assert "fine-tuning" not in text
    # Against an independent computation, of numbers that are neither.
    plain = robustness.likeness_table(corrupted(), "tbl-x").data
    dnr = next(line for line in plain.splitlines() if line.startswith("| DNR"))
    order = pd.Series(range(19), index=list(CORRUPTIONS))
    oracle = order.rank().corr(wide("dnr", "fig5").loc["DNR", list(CORRUPTIONS)].rank())
    assert f"| {oracle:.2f} |".replace("-", "−") in dnr


def test_gap_of_normalisation():
    ax = robustness.normalisation_gap(corrupted())
    lines = {line.get_label(): line.get_xdata() for line in ax.get_lines()}
    printed = wide("dnr", "fig5").loc["LB"]
    place = ORDERED.index("fog")
    assert lines["normalised"][place] == 50.5 + list(CORRUPTIONS).index("fog")
    assert lines["not normalised"][place] == 30.5 + list(CORRUPTIONS).index("fog")
    assert lines["printed, CIFAR-10-C"][place] == printed["fog"]
    assert [text.get_text() for text in ax.get_yticklabels()][place] == "fog"


def test_gap_in_words():
    """Differences between the seeds: none on either kind of images."""
    frame = corrupted()
    # One seed loses 22 instead of 20, of clean images only.
    worse = (frame["seed"] == 1) & ~frame["normalised"] & (frame["corruption"] == "none")
    frame.loc[worse, "accuracy"] -= 2
    clean, changed = robustness.normalisation_findings(frame).data.splitlines()
    assert "on clean images goes from 91.5 to 70.5 % (mean over the methods;" in clean
    assert "difference −21.00 points, interval [−33.71, −8.29], n = 2)." in clean
    assert "on corrupted images goes from 60.5 to 40.5 %" in changed
    assert "difference −20.00 points, interval [−20.00, −20.00]" in changed
    assert robustness.normalisation_findings(corruption_frame([])).data == NOT_RUN


def test_pictures_are_of_one_image(monkeypatch):
    grid = robustness.corruption_pictures("digits-colour", index=3)
    assert len(grid) == 19 * 6
    image = read("digits-colour")["test"].images[3].permute(1, 2, 0).numpy()
    for row, name in enumerate(ORDERED):
        shown = [ax.images[0].get_array() for ax in grid[6 * row : 6 * row + 6]]
        assert np.array_equal(shown[0], image)
        if name in ("fog", "shot_noise", "pixelate"):
            for severity in range(1, 6):
                assert np.array_equal(shown[severity], corrupt(image, name, severity, 3))
        assert grid[6 * row].get_ylabel() == name.replace("_", " ")
    assert [ax.get_title() for ax in grid[:3]] == ["clean", "severity 1", "severity 2"]


def test_deviations_are_all_listed():
    lines = robustness.deviations().data.splitlines()
    assert len(lines) == len(DEVIATIONS)
    assert any(line.startswith("- *motion blur*: ImageMagick") for line in lines)


def attacked():
    """Ten steps from 80 % down, ten points per epsilon, less with 40 steps or 4 starts; the second
    seed is 2 points better."""
    rows = []
    for seed in (0, 1):
        for number, epsilon in enumerate(FIGURE + BEYOND):
            value = max(0, 80.0 - 10 * number + 2 * seed) if number < 7 else 0.0
            rows.append(("dnr", seed, 10, 1, epsilon, value, 0.01 * seed))
        rows.append(("dnr", seed, 40, 1, 6.0, 17.0 + 2 * seed, 0.01 * seed))
        rows.append(("dnr", seed, 10, 4, 6.0, 15.0 + 2 * seed, 0.01 * seed))
    columns = ["method", "seed", "steps", "restarts", "epsilon", "accuracy", "no_gradient"]
    return pd.DataFrame(rows, columns=columns).assign(images=100)


def test_attacks():
    text = robustness.attack_table(attacked(), "tbl-x").data
    header = "| method | n | clean | ε = 6 | 40 steps | 4 starts | ε = 16 | ε = 64 | no gradient |"
    assert header in text
    assert "| DNR | 2 | 81.0 | 21.0 | 18.0 | 16.0 | 0.0 | 0.0 | 1.0 |" in text
    ax = robustness.attack_curves(attacked())
    (line,) = (line for line in ax.get_lines() if line.get_label() == "DNR")
    assert line.get_ydata() == pytest.approx([81, 71, 61, 51, 41, 31, 21, 0, 0])
    joined = max(
        (line.get_ydata() for line in ax.get_lines() if line.get_marker() == "None"), key=len
    )
    assert len(joined) == len(FIGURE), "no line to epsilons that are far beyond"
    ticks = [text.get_text() for text in ax.get_xticklabels()]
    assert ticks == ["0", "1", "2", "3", "4", "5", "6", "16", "64"]


def test_what_is_lost_is_not_called_better():
    rows = [
        (method, seed, value + seed)
        for seed in range(3)
        for method, value in (("dnr", 1), ("tune", 9.5))
    ]
    frame = pd.DataFrame(rows, columns=["method", "seed", "mca_drop"]).assign(last=True)
    frame.loc[0, "mca_drop"] += 0.1
    text = comparison_table(frame, [("dnr", "tune"), ("tune", "dnr")], "t", "mca_drop").data
    assert "| loses less |" in text.splitlines()[-3]
    assert "| loses more |" in text.splitlines()[-2]


def test_law():
    text = robustness.law_table("tbl-x").data
    cifar = "| CIFAR-10 | 5000 | 1607 | 957 | 682 | 529 | 433 | 366 | 317 | 280 | 250 | 10421 |"
    assert cifar in text
    assert "| digits | 60 | 19 | 11 | 8 | 6 | 5 | 4 | 4 | 3 | 3 | 123 |" in text


def test_recall_by_class():
    rows = [
        ("dnr", seed, number, 100.0 - 5 * number + seed) for seed in (0, 1) for number in range(10)
    ]
    frame = pd.DataFrame(rows, columns=["method", "seed", "class", "recall"])
    ax = robustness.recall_curves(frame, configure("digits-imbalanced"))
    (line,) = (line for line in ax.get_lines() if line.get_marker() == "o")
    assert line.get_ydata() == pytest.approx([100.5 - 5 * number for number in range(10)])
    labels = [text.get_text() for text in ax.get_xticklabels()]
    assert labels[:2] == ["0\n(60)", "1\n(19)"]
    assert labels[-1] == "9\n(3)"


def predicted(method, seed, named, groups=None, labels=(0, 0, 0, 1, 1, 0)):
    result = {"labels": list(labels), "predicted": list(named)}
    if groups:
        result["groups"] = list(groups)
    record = {"kind": "evaluation", "evaluation": {"Predictions": {}}, "result": result}
    return Run(configure("digits-binary", method=method, seed=seed), [record], "runs")


def test_clinical_table_by_hand():
    """Of four negatives and two positives the seeds find 3 and 4, 1 and 2: means 87.5 and 75 %."""
    runs = [predicted("dnr", 0, [0, 0, 1, 1, 0, 0]), predicted("dnr", 1, [0, 0, 0, 1, 1, 0])]
    text = robustness.clinical_table(runs, "tbl-x").data
    row = next(line for line in text.splitlines() if line.startswith("| DNR"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[0] == "2"
    # Sensitivity, specificity, accuracy: 3 of 4, 7 of 8, 10 of 12.
    assert [cell.split()[0] for cell in cells[1:]] == ["75.00", "87.50", "83.33"]
    above = np.array([[0], [0], [0], [1], [0.5], [0]])
    below = np.array([[0], [0], [0], [1], [1], [0]])
    _, low, high = clustered(above, below, range(6))
    assert cells[1] == f"75.00 [{low:.2f}, {high:.2f}]" == "75.00 [50.00, 100.00]"
    assert "6 test images; always naming the commonest class has accuracy 66.67 %." in text


def test_clinical_table_with_patients():
    """Both eyes of three patients; the interval is of the three, wider than of six."""
    eyes = [predicted("dnr", 0, [0, 0, 1, 1, 0, 1], "aabbcc")]
    text = robustness.clinical_table(eyes, "tbl-x").data
    assert "6 test images of 3 patients; always naming" in text
    row = next(line for line in text.splitlines() if line.startswith("| DNR"))
    # Right are 2, 1 and 0 eyes of the patients.
    assert row.split("|")[-2].strip() == "50.00 [0.00, 100.00]"
    alone = robustness.clinical_table([predicted("dnr", 0, [0, 0, 1, 1, 0, 1])], "tbl-x").data
    row = next(line for line in alone.splitlines() if line.startswith("| DNR"))
    assert row.split("|")[-2].strip() == "50.00 [16.67, 83.33]"
    assert "patients;" not in alone


def test_clinical_differences_are_over_common_seeds():
    """Seed 1 is of DNR alone. In seed 0 DNR finds one positive more and one negative less."""
    runs = [
        *(predicted("dnr", 0, [1, 0, 0, 1, 1, 0]), predicted("dnr", 1, [1, 1, 1, 1, 1, 1])),
        predicted("tune", 0, [0, 0, 0, 1, 0, 0]),
    ]
    text = robustness.clinical_differences(runs, "dnr", "tune", "tbl-x").data
    assert "DNR minus fine-tuning" in text
    assert "| sensitivity | 1 | +50.00 | [+0.00, +100.00] |" in text
    assert "| specificity | 1 | −25.00 |" in text
    assert "| accuracy | 1 | +0.00 | [−50.00, +50.00] |" in text
    same = [predicted(method, 0, [1, 0, 0, 1, 0, 0]) for method in ("dnr", "tune")]
    text = robustness.clinical_differences(same, "dnr", "tune", "tbl-x").data
    assert text.count("| 1 | +0.00 | [+0.00, +0.00] |") == 3


def test_everything_draws_and_says_not_run_without_runs():
    of_corruptions, of_attacks = corruption_frame([]), attack_frame([])
    for ax in (
        robustness.corruption_map(of_corruptions),
        robustness.by_severity(of_corruptions),
        robustness.normalisation_gap(of_corruptions),
        robustness.attack_curves(of_attacks),
        robustness.recall_curves(recall_frame([]), configure("digits-imbalanced")),
    ):
        assert [text.get_text() for text in ax.texts] == ["not run"]
    for said in (
        robustness.corruption_table(of_corruptions, "squares", "t"),
        robustness.likeness_table(of_corruptions, "t"),
        robustness.attack_table(of_attacks, "t"),
        robustness.clinical_table([], "t"),
        robustness.clinical_differences([], "dnr", "tune", "t"),
        robustness.clinical_differences([predicted("dnr", 0, [0] * 6)], "dnr", "tune", "t"),
    ):
        assert said.data == NOT_RUN
