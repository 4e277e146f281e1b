"""Means, intervals and verdicts; every comparison is paired by seed."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from . import UserError

LEVEL = 0.95
"""Confidence level of every interval."""
MARGIN = 0.5
"""Percentage points of accuracy within which two methods count as equivalent."""
PRIMARY = [("dnr", "long"), ("dnr", "tune"), ("dnr", "ke")]
"""The comparisons that a study is planned for: does DNR beat the long baseline, fine-tuning, KE?"""
POWER = 0.8
"""Power for which the number of seeds is planned."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with its spread and t interval."""

    n: int
    mean: float
    sd: float
    """Standard deviation (n - 1); NaN for n = 1."""
    low: float
    high: float
    p: float
    """Two-sided p-value of the t-test against 0; NaN for n = 1 and where there is no spread."""

    def above(self, bound: float) -> float:
        """One-sided p-value of the t-test that the mean is above a bound; where `p` is not NaN."""
        return float(stats.t.sf((self.mean - bound) / (self.sd / math.sqrt(self.n)), self.n - 1))

    def below(self, bound: float) -> float:
        """As `above`, that the mean is below it."""
        return float(stats.t.cdf((self.mean - bound) / (self.sd / math.sqrt(self.n)), self.n - 1))

    def within(self, margin: float) -> float:
        """The p-value of two one-sided tests that the mean is less than `margin` away from 0."""
        return max(self.above(-margin), self.below(margin))


def estimate(values: Iterable[float], level: float = LEVEL) -> Estimate:
    """The `Estimate` of the mean of independent values (at least one), with the interval of a
    confidence level."""
    values = np.asarray(list(values), dtype=float)
    n, mean = len(values), float(values.mean())
    if n == 1:
        return Estimate(1, mean, math.nan, math.nan, math.nan, math.nan)
    sd = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    # Accuracies come in steps, so a few seeds can agree by chance: no spread is no evidence.
    p = float(2 * stats.t.sf(abs(mean) / (sd / math.sqrt(n)), n - 1)) if sd > 1e-9 else math.nan
    return Estimate(n, mean, sd, mean - half, mean + half, p)


def crossed(values: np.ndarray, level: float = LEVEL) -> Estimate:
    """The `Estimate` of a mean over seeds and images (seeds x images), where both are samples: with
    few images, another sample would give another accuracy, however many seeds there are.

    `sd` is that of one seed with the `crossed_error`.
    """
    mean, n = float(values.mean()), len(values)
    error, freedom = crossed_error(values)
    if math.isnan(error):
        return estimate(values.mean(1), level)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Estimate(n, mean, error * math.sqrt(n), mean - half, mean + half, p)


def crossed_error(values: np.ndarray) -> tuple[float, float]:
    """The standard error of a mean over seeds and images, and its degrees of freedom; NaN for one
    seed and where nothing varies.

    The squared standard errors of both are added, and the degrees of freedom are Satterthwaite's.
    What seeds and images have to do with each other counts in both, so the error is rather too
    large than too small.
    """
    if len(values) == 1:
        return math.nan, math.nan
    errors = [values.mean(axis).var(ddof=1) / values.shape[1 - axis] for axis in (1, 0)]
    total = math.fsum(errors)
    if total < 1e-18:
        return math.nan, math.nan
    freedom = total**2 / sum(e**2 / (k - 1) for e, k in zip(errors, values.shape, strict=True))
    return math.sqrt(total), freedom


def bounds(values: Iterable[float]) -> tuple[float, float]:
    """The interval of `estimate`: low, high. For seaborn's `errorbar`."""
    found = estimate(values)
    return found.low, found.high


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values (Holm, 1979), in the order given."""
    p = np.asarray(p_values, dtype=float)
    order, adjusted = p.argsort(), np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]).clip(max=1)
    return adjusted.tolist()


def seeds_needed(sd: float, margin: float = MARGIN) -> int:
    """Seeds for which a paired t-test at 5 % sees a difference of `margin` with power 80 %.

    `sd` is the standard deviation of the paired differences. It is the smallest n with power
    P(t' > t_crit), t' noncentral with n - 1 degrees of freedom and shift margin / sd * sqrt(n); the
    other tail is negligible where the power is that high.
    """
    # With a known spread fewer would do.
    least = ((stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER)) * sd / margin) ** 2
    for n in itertools.count(max(2, int(least))):
        critical = stats.t.ppf((1 + LEVEL) / 2, n - 1)
        power = stats.nct.sf(critical, n - 1, margin / sd * math.sqrt(n))
        # Far beyond the critical value scipy's noncentral t is NaN.
        if not power < POWER:
            return n


def summary(frame: pd.DataFrame, column: str = "test_accuracy") -> pd.DataFrame:
    """Per method, in the order in which methods appear: n, mean, sd, low, high of the last
    generation's `column` (95 % t interval over seeds). Raises `UserError` for several datasets."""
    last = _last(frame)
    rows = [
        {"method": method} | vars(estimate(values))
        for method, part in last.groupby("method", sort=False)
        if len(values := part[column].dropna())
    ]
    columns = ["method", "n", "mean", "sd", "low", "high"]
    return pd.DataFrame(rows, columns=columns).set_index("method")


def _last(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last generations."""
    if "dataset" in frame and frame["dataset"].nunique() > 1:
        names = ", ".join(frame["dataset"].unique())
        raise UserError(
            f"runs on several datasets ({names}) have no common mean; select the rows of one"
        )
    return frame[frame["last"].astype(bool)]


def comparisons(
    frame: pd.DataFrame, pairs: list[tuple[str, str]], column: str = "test_accuracy"
) -> pd.DataFrame:
    """One row per (a, b): the paired difference a - b of the last `column` over common seeds.

    Columns: a, b, n, difference, sd, low, high (95 % t interval), p (Holm-adjusted over the rows),
    verdict and `seeds_needed` (for the margin, at the measured spread). The verdict is

    - `better` or `worse` if the adjusted p is below 5 %,
    - `equivalent` if the 90 % interval lies within the margin (two one-sided tests at 5 %),
    - `undecided` otherwise, or without a p-value (one seed, or no spread).

    A difference may be both significant and within the margin; then the verdict says both. The
    intervals and the tests of equivalence are those of each row alone; a row without a p-value
    counts in the adjustment with p = 1. Raises `UserError` for several datasets.
    """
    last = _last(frame).pivot(index="seed", columns="method", values=column)
    found = [(a, b, (last[a] - last[b]).dropna()) for a, b in pairs if a in last and b in last]
    found = [(a, b, estimate(values)) for a, b, values in found if len(values)]
    adjusted = holm([1.0 if math.isnan(e.p) else e.p for _, _, e in found])
    rows = []
    for (a, b, e), p in zip(found, adjusted, strict=True):
        needed = math.nan if math.isnan(e.p) else seeds_needed(e.sd)
        rows.append((a, b, e.n, e.mean, e.sd, e.low, e.high, p, verdict(e, p), needed))
    columns = ["a", "b", "n", "difference", "sd", "low", "high", "p", "verdict", "seeds_needed"]
    return pd.DataFrame(rows, columns=columns)


def verdict(difference: Estimate, p: float) -> str:
    """`better`, `worse`, `equivalent`, both or `undecided`, as `comparisons` defines them."""
    if math.isnan(difference.p):
        return "undecided"
    found = []
    if p < 1 - LEVEL:
        found.append("better" if difference.mean > 0 else "worse")
    if difference.within(MARGIN) < 1 - LEVEL:
        found.append("equivalent")
    return ", ".join(found) or "undecided"


def paired(frame: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """The difference a - b in test accuracy, in points: seeds that have both (rows) by generation
    (columns)."""
    axes = {"index": "seed", "columns": "generation", "values": "test_accuracy"}
    of_a, of_b = (frame[frame["method"] == arm].pivot(**axes) for arm in (a, b))
    return (of_a - of_b).dropna(how="all").dropna(axis="columns", how="all")


def line(x: Iterable[float], y: Iterable[float]) -> tuple[float, float, float]:
    """Slope and intercept of the least-squares line through points, and the largest residual in %
    of the largest y."""
    x, y = np.array([*x], dtype=float), np.array([*y], dtype=float)
    slope, intercept = np.polyfit(x, y, 1)
    off = np.abs(y - (slope * x + intercept)).max() / y.max()
    return float(slope), float(intercept), 100 * float(off)


def clustered(above: np.ndarray, below: np.ndarray, groups: Iterable) -> tuple[float, float, float]:
    """A mean of ratios of sums over images, in %, with its interval over groups of images (both
    eyes of a patient): value, low, high.

    `above` and `below`: each image's part of numerator and denominator (images x ratios). The
    interval is the percentile bootstrap's over whole groups, 10,000 times, from a fixed seed, so
    that methods are resampled alike. It is approximate: with few groups it is too narrow, and it
    has no width where all images are right. Signed numbers in `above` give the interval of a paired
    difference of two methods.
    """
    _, group = np.unique(list(groups), return_inverse=True)
    sums = [pd.DataFrame(part).groupby(group).sum().to_numpy() for part in (above, below)]
    n = len(sums[0])
    # RandomState is numpy's frozen generator: its streams do not change between releases.
    times = np.random.RandomState(0).multinomial(n, [1 / n] * n, size=10_000)
    tops, bottoms = (times @ part for part in sums)
    with np.errstate(invalid="ignore"):
        means = 100 * (tops / bottoms).mean(axis=1)
    # Where a class was not drawn at all, there is no value.
    low, high = np.nanpercentile(means, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return float(100 * (sums[0].sum(0) / sums[1].sum(0)).mean()), float(low), float(high)


def against(frame: pd.DataFrame, reference: str) -> list[tuple[str, str]]:
    """Pairs of every other arm in the frame with `reference`, in order."""
    return [(arm, reference) for arm in frame["method"].unique() if arm != reference]
