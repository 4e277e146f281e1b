"""Frames of corrupted images, and of two kinds of error, computed by hand (DNR Fig. 5, Table 8)."""

import numpy as np
import pandas as pd
import pytest

from dnrlib.book.tables import NOT_RUN, OTHER_SEEDS, corruption_table
from dnrlib.evaluate.corruptions import CORRUPTIONS, GROUPED
from dnrlib.frames import (
    by_corruption,
    clinical_differences,
    clinical_frame,
    corruption_frame,
    corruption_means,
    likeness,
)
from dnrlib.paper.exhibits import wide
from dnrlib.recipes import configure
from dnrlib.stats import clustered
from dnrlib.study import Run

PRINTED = wide("dnr", "fig5").rename({"LB": "long", "DNR": "dnr"})


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
        means = by_corruption(corrupted(), normalised)
        assert means.index.tolist() == [*GROUPED, "mCA 19", "mCA 15"]
        assert means.loc["gaussian_noise"].to_dict() == {"long": 50.5 - less, "dnr": 52.5 - less}
        assert means.loc["saturate", "long"] == 68.5 - less
        # The means of 0 to 18 and of 0 to 14 are 9 and 7.
        assert means.loc["mCA 19", "long"] == pytest.approx(59.5 - less)
        assert means.loc["mCA 15", "dnr"] == pytest.approx(59.5 - less)


def test_means_by_seed():
    means = corruption_means(corrupted())
    # 90 and 50 + 9, or 50 + 7, and a point more for seed 1.
    assert means.loc["long", True, 1].tolist() == pytest.approx([91, 60, 58, 31])
    assert means.loc["dnr", False, 0].tolist() == pytest.approx([72, 41, 39, 31])
    assert means.columns.tolist() == ["clean", "mCA 19", "mCA 15", "lost"]
    assert len(means) == 2 * 2 * 2


def test_table_of_corruptions():
    text = corruption_table(corrupted(("long", "dnr", "tune")), "squares", "t").data
    assert (
        "on squares in %, on 200 clean test images and on the same under corruptions made" in text
    )
    assert OTHER_SEEDS not in text
    fewer = corrupted().query("method == 'dnr' or seed == 0")
    assert OTHER_SEEDS in corruption_table(fewer, "squares", "t").data
    official = corruption_table(corrupted().assign(official=True), "squares", "t").data
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
    frame = corrupted(("long", "tune"))
    corruption = frame["severity"] > 0
    rank = frame["corruption"][corruption].map(PRINTED.loc["long"])
    sign = np.where(frame["normalised"][corruption], 1, -1)
    frame.loc[corruption, "accuracy"] = 50 + sign * rank
    found = likeness(frame, PRINTED)
    assert set(found["method"]) == {"long"}, "nothing is printed of fine-tuning"
    assert found["seed"].tolist() == [0, 0, 1, 1]
    assert found["correlation"].tolist() == pytest.approx([1, -1, 1, -1])
    # Against an independent computation, of numbers that are neither.
    order = pd.Series(range(19), index=list(CORRUPTIONS))
    oracle = order.rank().corr(PRINTED.loc["dnr", list(CORRUPTIONS)].rank())
    dnr = likeness(corrupted(("dnr",)), PRINTED)
    assert dnr["correlation"].tolist() == pytest.approx([oracle] * 4)


def predicted(method, seed, named, groups=None, labels=(0, 0, 0, 1, 1, 0)):
    result = {"labels": list(labels), "predicted": list(named)}
    if groups:
        result["groups"] = list(groups)
    record = {"kind": "evaluation", "evaluation": {"Predictions": {}}, "result": result}
    return Run(configure("digits-binary", method=method, seed=seed), [record], "runs")


def test_clinical_frame_by_hand():
    """Of four negatives and two positives the seeds find 3 and 4, 1 and 2: means 87.5 and 75 %."""
    runs = [predicted("dnr", 0, [0, 0, 1, 1, 0, 0]), predicted("dnr", 1, [0, 0, 0, 1, 1, 0])]
    found = clinical_frame(runs).set_index("metric")
    # Sensitivity, specificity, accuracy: 3 of 4, 7 of 8, 10 of 12.
    assert found["value"].to_dict() == pytest.approx(
        {"sensitivity": 75, "specificity": 87.5, "accuracy": 1000 / 12}
    )
    above = np.array([[0], [0], [0], [1], [0.5], [0]])
    below = np.array([[0], [0], [0], [1], [1], [0]])
    row = found.loc["sensitivity"]
    assert (row["value"], row["low"], row["high"]) == clustered(above, below, range(6))
    assert (row["low"], row["high"]) == (50, 100)
    assert set(found["n"]) == {2}
    assert set(found["images"]) == set(found["patients"]) == {6}
    assert found["commonest"].tolist() == pytest.approx([200 / 3] * 3)


def test_intervals_are_over_patients():
    """Both eyes of three patients, of which 2, 1 and 0 are right; wider than over six."""
    eyes = clinical_frame([predicted("dnr", 0, [0, 0, 1, 1, 0, 1], "aabbcc")]).iloc[-1]
    assert (eyes["metric"], eyes["images"], eyes["patients"]) == ("accuracy", 6, 3)
    assert eyes[["value", "low", "high"]].tolist() == [50, 0, 100]
    alone = clinical_frame([predicted("dnr", 0, [0, 0, 1, 1, 0, 1])]).iloc[-1]
    assert alone[["value", "low", "high"]].tolist() == pytest.approx([50, 100 / 6, 500 / 6])


def test_clinical_differences_are_over_common_seeds():
    """In seed 0, the only common one, DNR finds one positive more and one negative less."""
    runs = [
        *(predicted("dnr", 0, [1, 0, 0, 1, 1, 0]), predicted("dnr", 1, [1, 1, 1, 1, 1, 1])),
        *(predicted("tune", 0, [0, 0, 0, 1, 0, 0]), predicted("tune", 2, [1, 1, 1, 1, 1, 1])),
    ]
    found = clinical_differences(runs, "dnr", "tune").set_index("metric")
    assert found["n"].tolist() == [1, 1, 1]
    assert found["difference"].tolist() == [50, -25, 0]
    assert found.loc["sensitivity", ["low", "high"]].tolist() == [0, 100]
    assert found.loc["accuracy", ["low", "high"]].tolist() == [-50, 50]
    same = [predicted(method, 0, [1, 0, 0, 1, 0, 0]) for method in ("dnr", "tune")]
    found = clinical_differences(same, "dnr", "tune")
    assert (found[["difference", "low", "high"]] == 0).all(axis=None)


def test_without_runs_frames_are_empty():
    none = corruption_frame([])
    assert by_corruption(none).shape == (21, 0)
    assert corruption_table(none, "squares", "t").data == NOT_RUN
    for frame in (
        corruption_means(none),
        likeness(none, PRINTED),
        clinical_frame([]),
        clinical_differences([], "dnr", "tune"),
        clinical_differences([predicted("dnr", 0, [0] * 6)], "dnr", "tune"),
    ):
        assert frame.empty
