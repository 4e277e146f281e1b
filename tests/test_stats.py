"""Estimates, tests and verdicts, against scipy and statsmodels-style hand values."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from dnrlib import UserError, stats
from dnrlib.stats import clustered, comparisons, crossed, estimate, holm, seeds_needed, summary


def test_estimate_is_the_t_interval():
    values = [1.0, 2.5, 0.5, 3.0]
    found = estimate(values)
    oracle = scipy_stats.ttest_1samp(values, 0)
    low, high = oracle.confidence_interval(0.95)
    assert (found.n, found.mean) == (4, 1.75)
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(oracle.pvalue)
    assert stats.bounds(values) == (found.low, found.high)
    corrected, wider = estimate(values, 0.9875), oracle.confidence_interval(0.9875)
    assert (corrected.low, corrected.high) == pytest.approx((wider.low, wider.high))


def test_estimate_of_one_or_equal_values():
    assert estimate([3.0]).mean == 3.0
    assert math.isnan(estimate([3.0]).low)
    assert math.isnan(estimate([2.0, 2.0]).p)
    equal = [0.1 + 0.2, 0.3]
    assert comparisons(frame(a=equal, b=[0.0, 0.0]), [("a", "b")]).iloc[0].verdict == "undecided"


def test_holm_by_hand():
    """Three p-values: the smallest times 3, the next times 2, never decreasing, at most 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_needed_has_the_power_it_promises():
    """By simulation: with that many seeds about 80 % of paired t-tests see the margin."""
    n = seeds_needed(sd=1.1, margin=0.5)
    assert n == 40
    draws = np.random.default_rng(0).normal(0.5, 1.1, (20_000, n))
    power = (scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize("sd", [1e-14, 1e-6, 0.01])
def test_hardly_any_spread_needs_two_seeds(sd):
    assert seeds_needed(sd) == 2


def test_seeds_needed_is_the_smallest_number():
    """About (1.96 + 0.84)^2 (sd / margin)^2 for many seeds, and a few more for the t-test."""
    assert [seeds_needed(sd) for sd in (1.391083, 1.032536, 1.112133, 3.182435)] == [
        63,
        36,
        41,
        320,
    ]
    assert 31_000 < seeds_needed(31.6) < 31_700


def frame(**accuracies):
    return pd.DataFrame(
        {"method": method, "seed": seed, "last": True, "test_accuracy": value}
        for method, values in accuracies.items()
        for seed, value in enumerate(values)
        if value is not None
    )


def test_comparisons_are_paired_by_seed():
    """The methods vary by tens of points over seeds, their difference by tenths."""
    rng = np.random.default_rng(0)
    base = rng.normal(50, 20, 10)
    better = base + 1 + rng.normal(0, 0.1, 10)
    row = comparisons(frame(a=better, b=base), [("a", "b")]).iloc[0]
    oracle = scipy_stats.ttest_rel(better, base)
    assert row.difference == pytest.approx((better - base).mean())
    assert (row.low, row.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    assert row.p == pytest.approx(oracle.pvalue)
    assert row.verdict == "better"
    assert comparisons(frame(a=base, b=better), [("a", "b")]).iloc[0].verdict == "worse"


def test_comparisons_use_common_seeds_and_last_generations_only():
    data = frame(a=[1.0, 2.0, 3.0, None], b=[0.0, 1.0, None, 9.0])
    early = data.assign(last=False, test_accuracy=99.0)
    row = comparisons(pd.concat([early, data]), [("a", "b"), ("a", "absent")]).iloc[0]
    assert (row.n, row.difference) == (2, 1.0)
    assert len(comparisons(data, [("a", "absent")])) == 0


def test_p_values_are_adjusted_over_the_rows():
    rng = np.random.default_rng(1)
    data = frame(a=rng.normal(0.4, 1, 20), b=rng.normal(0, 1, 20), c=rng.normal(0, 1, 20))
    alone = [comparisons(data, [("a", other)]).iloc[0].p for other in "bc"]
    together = comparisons(data, [("a", "b"), ("a", "c")]).p
    assert together.tolist() == pytest.approx(holm(alone))


def test_equivalence_is_two_one_sided_tests():
    """Within the margin at 5 %: the larger of the two one-sided p-values is below 0.05."""
    for spread in (0.5, 1.0, 1.5, 2.0):
        values = np.random.default_rng(2).normal(0.1, spread, 30)
        row = comparisons(frame(a=values, b=np.zeros(30)), [("a", "b")]).iloc[0]
        larger = max(
            scipy_stats.ttest_1samp(values, -stats.MARGIN, alternative="greater").pvalue,
            scipy_stats.ttest_1samp(values, stats.MARGIN, alternative="less").pvalue,
        )
        assert ("equivalent" in row.verdict) == (larger < 0.05), spread


def test_too_few_seeds_decide_nothing():
    assert comparisons(frame(a=[5.0], b=[1.0]), [("a", "b")]).iloc[0].verdict == "undecided"


def test_summary_counts_each_method():
    table = summary(frame(a=[1.0, 3.0], b=[5.0]))
    assert table.loc["a", ["n", "mean"]].tolist() == [2, 2.0]
    assert table.loc["b", "n"] == 1
    assert math.isnan(table.loc["b", "sd"])
    assert summary(frame(a=[1.0]).iloc[:0]).empty


@pytest.mark.parametrize("ask", [summary, lambda frame: comparisons(frame, [("a", "b")])])
def test_datasets_are_not_pooled(ask):
    one, other = (frame(a=[1.0, 3.0], b=[5.0, 4.0]).assign(dataset=name) for name in ("x", "y"))
    # Other seeds, so that no run stands there twice.
    both = pd.concat([one, other.assign(seed=other["seed"] + 2)])
    with pytest.raises(UserError, match=r"several datasets \(x, y\)"):
        ask(both)
    pd.testing.assert_frame_equal(ask(both[both["dataset"] == "x"]), ask(one))


def ratios(*columns):
    """Images x ratios: what each adds above and below the line."""
    above, below = zip(*columns, strict=True)
    return np.array(above, float).T, np.array(below, float).T


def test_interval_over_groups_by_hand():
    """Group a has 1 of 2, b has 2 of 2: the four ways to draw two give 50, 75, 75 and 100 %."""
    above, below = ratios(([1, 0, 1, 1], [1, 1, 1, 1]))
    assert clustered(above, below, "aabb") == (75, 50, 100)
    # The ratio of sums, not the mean of the groups' ratios: 3 of 5.
    above, below = ratios(([1, 0, 1, 1, 0], [1, 1, 1, 1, 1]))
    assert clustered(above, below, "aabbb") == (pytest.approx(60), 50, pytest.approx(200 / 3))
    # The mean of two ratios: 1/2 and 2/3.
    above, below = ratios(([1, 0, 0, 0, 0], [1, 1, 0, 0, 0]), ([0, 0, 1, 1, 0], [0, 0, 1, 1, 1]))
    assert clustered(above, below, range(5))[0] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)


def eyes(n, seed):
    """Patients of one to three images; about 7 of 10 images are right, alike within a patient."""
    draw = np.random.RandomState(seed)
    groups = np.repeat(np.arange(n), draw.randint(1, 4, n))
    skill = draw.uniform(0.4, 1, n)[groups]
    right = (draw.uniform(size=len(groups)) < skill).astype(float)
    positive = draw.uniform(size=len(groups)) < 0.4
    return right, positive, groups


def test_interval_over_groups_is_that_of_a_slow_bootstrap():
    right, positive, groups = eyes(40, 0)
    above, below = ratios((right * positive, positive), (right * ~positive, ~positive))
    value, low, high = clustered(above, below, groups)
    draw, means = np.random.RandomState(7), []
    members = [np.flatnonzero(groups == group) for group in range(40)]
    for _ in range(4000):
        rows = np.concatenate([members[group] for group in draw.randint(0, 40, 40)])
        means.append(100 * np.mean(above[rows].sum(0) / below[rows].sum(0)))
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.8)
    assert value == pytest.approx(50 * (right[positive].mean() + right[~positive].mean()), abs=1e-9)
    assert 0 <= low < value < high <= 100


def test_interval_over_images_is_scipys():
    right, *_ = eyes(150, 1)
    above, below = ratios((right, np.ones(len(right))))
    value, low, high = clustered(above, below, range(len(right)))
    oracle = scipy_stats.bootstrap(
        (right,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert value == pytest.approx(100 * right.mean())
    assert (low, high) == pytest.approx((100 * oracle.low, 100 * oracle.high), abs=0.8)


def test_equal_eyes_count_as_one_patient():
    """Both eyes of each say the same: the interval is that of the patients, wider by about the root
    of two than if all eyes were independent."""
    once = np.random.RandomState(2).randint(0, 2, 80).astype(float)
    above, below = ratios((np.tile(once, 2), np.ones(160)))
    _, low, high = clustered(above, below, list(range(80)) * 2)
    _, single_low, single_high = clustered(*ratios((once, np.ones(80))), range(80))
    assert (low, high) == (single_low, single_high)
    _, naive_low, naive_high = clustered(above, below, range(160))
    assert (high - low) / (naive_high - naive_low) == pytest.approx(math.sqrt(2), rel=0.1)


def test_intervals_over_groups_are_repeatable_and_know_no_order():
    right, positive, groups = eyes(30, 3)
    above, below = ratios((right * positive, positive))
    first = clustered(above, below, groups)
    assert clustered(above, below, [f"{group:03d}" for group in groups]) == first
    shuffled = np.random.RandomState(0).permutation(len(groups))
    assert clustered(above[shuffled], below[shuffled], groups[shuffled]) == pytest.approx(first)


def test_resamples_without_a_positive_image_have_no_say():
    """One positive image, which is right: all that have it say 100 %."""
    above, below = ratios(([0, 0, 1], [0, 0, 1]))
    assert clustered(above, below, range(3)) == (100, 100, 100)


@pytest.mark.parametrize("share", [0.0, 0.03, 0.97, 1.0])
def test_intervals_of_shares_stay_within_0_and_100(share):
    right = (np.arange(60) < 60 * share).astype(float)
    value, low, high = clustered(*ratios((right, np.ones(60))), range(60))
    assert 0 <= low <= value <= high <= 100
    assert (low == high) == (share in (0.0, 1.0))


def test_interval_of_a_paired_difference():
    """Of equal predictions it has no width; where one is right more often it is that of the
    differences, narrower than the two intervals together."""
    right, _, groups = eyes(60, 4)
    ones = np.ones((len(right), 1))
    assert clustered((right - right)[:, None], ones, groups) == (0, 0, 0)
    better = right.copy()
    better[np.flatnonzero(right == 0)[:4]] = 1
    value, low, high = clustered((better - right)[:, None], ones, groups)
    assert value == pytest.approx(400 / len(right))
    assert 0 <= low < value < high < 10
    assert clustered((right - better)[:, None], ones, groups) == pytest.approx(
        (-value, -high, -low)
    )


def test_differences_are_paired_by_seed_and_generation():
    """b lacks seed 2, and seed 1 in generation 2; c was not run."""
    rows = [
        ("a", 0, 1, 5.0),
        ("a", 0, 2, 7.0),
        ("a", 1, 1, 6.0),
        ("a", 1, 2, 8.0),
        ("a", 2, 1, 9.0),
    ]
    rows += [("b", 0, 1, 4.0), ("b", 0, 2, 9.0), ("b", 1, 1, 4.0)]
    columns = ["method", "seed", "generation", "test_accuracy"]
    frame = pd.DataFrame(rows, columns=columns)
    found = stats.paired(frame, "a", "b")
    assert found.index.tolist() == [0, 1]
    assert found[1].tolist() == [1, 2]
    assert found[2].dropna().tolist() == [-2]
    assert stats.paired(frame, "a", "c").empty


def test_a_line_and_its_residual():
    assert stats.line([0, 1, 2], [1.0, 3.0, 5.0]) == pytest.approx((2, 1, 0))
    assert stats.line([0, 1, 2], [0.0, 1.0, 0.0])[2] == pytest.approx(100 * 2 / 3)


def test_crossed_has_the_variance_of_both_samples():
    """Of values that are a seed's part plus an image's part the mean varies with both, and the
    interval holds the true mean as often as it says."""
    draw, inside, means, errors = np.random.RandomState(0), 0, [], []
    for _ in range(2000):
        values = draw.normal(0, 2, (6, 1)) + draw.normal(0, 5, (1, 40)) + draw.normal(0, 1, (6, 40))
        found = crossed(values)
        inside += found.low < 0 < found.high
        means.append(found.mean)
        errors.append((found.sd / np.sqrt(6)) ** 2)
        assert (found.p < 0.05) == (not found.low < 0 < found.high)
    assert np.mean(errors) == pytest.approx(np.var(means), rel=0.1)
    assert inside / 2000 == pytest.approx(0.95, abs=0.02)


def test_crossed_without_one_of_the_samples_is_the_t_interval_of_the_other():
    seeds = np.array([1.0, 2.0, 4.0])
    only_seeds = crossed(np.tile(seeds[:, None], (1, 500)))
    plain = estimate(seeds)
    assert only_seeds.n == plain.n
    for name in ("mean", "sd", "low", "high", "p"):
        assert getattr(only_seeds, name) == pytest.approx(getattr(plain, name)), name
    images = np.tile(np.arange(50.0), (3, 1))
    expected = scipy_stats.t.interval(0.9, 49, 24.5, scipy_stats.sem(np.arange(50.0)))
    found = crossed(images, 0.9)
    assert (found.low, found.high) == pytest.approx(expected)
    assert math.isnan(crossed(images[:1]).low)
    assert crossed(np.ones((3, 4))).mean == 1
