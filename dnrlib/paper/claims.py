"""The ledger: every claim of the paper as a statement about arms, and what the records say of it.

Statements (columns `embedded`, `photographs` and `full` of data/paper/claims.csv):

    dnr > long & dnr > tune         every part must hold (intersection-union)
    dnr > tune > plain              the same, chained
    dnr+probe=2 = dnr               equivalent within the margin
    rise dnr, dnr+generations=20    a trend over arms in this order; also `fall`
    rise dnr@overlap_previous by generation
    dnr - long > ke - long          differences may be compared too

An arm is METHOD+setting=value (`recipes.arm_of`); `arm@column` names another column of
`frames.generations` than the test accuracy, of the run's last generation.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .. import UserError
from ..methods import label
from ..recipes import arm_of, configure, parse_arm
from ..stats import LEVEL, MARGIN, estimate, holm, seeds_needed
from .exhibits import ANALOGUE, EXHIBITS, PAPER, PLANNED, Exhibit, wide


@dataclass(frozen=True)
class Part:
    """One hypothesis: the first term is more than the second, the same, or all are a trend."""

    kind: str
    """`>`, `=`, `rise` or `fall`."""
    terms: tuple[str, ...]
    """Arms, or differences of two; of a trend a single one if it is one by generation."""

    def arms(self, dataset: str) -> list[str]:
        """The arms that it speaks of on a dataset, by the names that their runs have."""
        sides = [side for term in self.terms for side in term.split(" - ")]
        return [_named(side.partition("@")[0], dataset) for side in sides]


class Evidence(NamedTuple):
    """What a dataset says of a part of a claim."""

    support: float
    refute: float
    values: pd.Series
    """By seed, in points (`sample`)."""
    dataset: str
    words: str
    """The part in words; empty if the claim has only one."""
    planned: int
    """The seeds that it will have (`exhibits.PLANNED`); 0 where nothing is planned."""


def claims() -> pd.DataFrame:
    """The claims, one per row, by id; empty cells are empty strings. Those that our runs on digits
    cannot judge are `untestable`, for the reason in their note."""
    table = pd.read_csv(PAPER / "claims.csv", keep_default_na=False, index_col="id")
    said = "Not testable on digits. "
    untestable = table["note"].str.startswith(said)
    return table.assign(untestable=untestable, note=table["note"].str.removeprefix(said))


def parse(statement: str) -> list[Part]:
    """The parts of a statement; raises `UserError` if it cannot be read."""
    word, _, rest = statement.partition(" ")
    if word in ("rise", "fall"):
        terms = tuple(rest.removesuffix(" by generation").split(", "))
        if rest.endswith(" by generation") == (len(terms) == 1):
            return [Part(word, terms)]
    else:
        found = []
        for text in statement.split(" & "):
            kind = ">" if " > " in text else "="
            terms = text.split(f" {kind} ")
            found += [Part(kind, pair) for pair in itertools.pairwise(terms)]
        if found and all(term and ">" not in term for part in found for term in part.terms):
            return found
    raise UserError(f"the statement {statement!r} cannot be read")


def arms(statement: str, dataset: str) -> list[str]:
    """The arms that a statement speaks of on a dataset, each once, as `arm_of` names them."""
    return list(dict.fromkeys(arm for part in parse(statement) for arm in part.arms(dataset)))


def _named(arm: str, dataset: str) -> str:
    return arm_of(configure(dataset, **parse_arm(arm)))


def _values(term: str, frame: pd.DataFrame, by: str | list[str], dataset: str) -> pd.Series:
    """The value in points of a term, or of a difference of two, by seed (and generation); none if
    an arm was not run."""
    sides = []
    for side in term.split(" - "):
        arm, _, column = side.partition("@")
        runs = frame[frame["method"] == _named(arm, dataset)].set_index(by)
        unit = 100 if column.startswith("overlap") else 1
        sides.append(unit * runs[column or "test_accuracy"].dropna())
    return sides[0] - sides[1] if len(sides) == 2 else sides[0]


def sample(part: Part, frame: pd.DataFrame, dataset: str) -> pd.Series:
    """By seed, in points, what a part says is above 0 (or, for `=`, about 0): the paired
    difference, or the rise of the fitted line from the first to the last of the terms."""
    if len(part.terms) == 1:
        values = _values(*part.terms, frame, ["seed", "generation"], dataset)
        by_seed = values.unstack().dropna()
    else:
        last = frame[frame["last"].astype(bool)]
        values = [_values(term, last, "seed", dataset) for term in part.terms]
        by_seed = pd.concat(values, axis=1, keys=range(len(values))).dropna()
    if part.kind in (">", "="):
        return by_seed[0] - by_seed[1]
    steps = np.arange(by_seed.shape[1]) - (by_seed.shape[1] - 1) / 2
    slope = by_seed.to_numpy(dtype=float) @ steps / max((steps**2).sum(), 1)
    sign = -1 if part.kind == "fall" else 1
    return pd.Series(sign * slope * max(by_seed.shape[1] - 1, 0), index=by_seed.index)


def p_values(part: Part, values: pd.Series) -> tuple[float, float]:
    """(support, refute) of a part; 1 with fewer than two seeds or without any spread.

    `>` and trends: support is the two-sided p of the t-test against 0, or 1 if the mean is not
    above 0; refute is the one-sided p against the margin, small if any gain is below half a point.
    `=`: support is that of two one-sided tests within the margin, refute the two-sided p of a
    difference beyond it.
    """
    found = estimate(values) if len(values) else None
    if found is None or math.isnan(found.p):
        return 1.0, 1.0
    if part.kind == "=":
        beyond = min(found.above(MARGIN), found.below(-MARGIN))
        return found.within(MARGIN), min(1.0, 2 * beyond)
    return min(1.0, 2 * found.above(0)), found.below(MARGIN)


def ledger(frames: dict[str, pd.DataFrame], column: str = "embedded") -> pd.DataFrame:
    """One row per claim with a statement in `column`, by id, and its verdict.

    `frames` holds frames of `frames.generations` by dataset. In the column `embedded` a statement
    is made of the bundled dataset of the claim's exhibit where it has its own, else of each of the
    others; in `photographs` and `full`, of each of the exhibit's datasets. Columns:
    rank; n, value, low, high (seeds, mean and 95 % interval in points of the part that decides:
    the one most clearly refuted where the claim fails or would without the other claims, else the
    one least supported; n is the fewest of all parts where it is not finished); alone (the
    refutation before Holm);
    support, refute (p-values, Holm-adjusted over the claims of the same rank, those not run
    included with p = 1), verdict, where that is undecided `seeds_needed` (for a single test of
    that part to see the margin, at its measured spread), and `decides`: the `Evidence` that decides
    on each dataset, that of `value` first. A claim's support is its weakest part's; its refutation
    is its clearest part's after Bonferroni over its parts. The verdict is

    - `holds` if the adjusted support is below 5 %,
    - `fails` if the adjusted refutation is,
    - `undecided` otherwise; `not finished` where photographs have some, but not all, of the seeds
      that are planned (`exhibits.PLANNED`), and `not run` where there are none, or on other images
      an arm has no runs. Both count with p = 1;
    - `not testable here` in the column `embedded` where the claim is marked `untestable`, for the
      reason in its note. It has no value, but its p-values count as they were published: a family
      that changed with what was found would move the verdicts of the other claims.
    """
    rows = []
    for claim, stated in claims().iterrows():
        if not stated[column]:
            continue
        evidence, parts = [], parse(stated[column])
        for dataset in _datasets(stated["exhibit"], frames, column):
            planned, frame = PLANNED.get(dataset), frames.get(dataset)
            for part in parts:
                values = pd.Series() if frame is None else sample(part, frame, dataset)
                words = _in_words(part) if len(parts) > 1 else ""
                least = min(planned.get(arm, 0) for arm in part.arms(dataset)) if planned else 0
                evidence.append(Evidence(*p_values(part, values), values, dataset, words, least))
        finished = all(len(found.values) >= found.planned for found in evidence)
        row = {"id": claim, "rank": stated["rank"], "evidence": evidence, "n": 0, "decides": []}
        row |= {"support": 1.0, "refute": 1.0, "verdict": "" if finished else "not finished"}
        there = [len(found.values) > 0 for found in evidence]
        if not any(there) or (finished and not all(there)):
            row["verdict"] = "not run"
        elif finished:
            row["support"] = max(found.support for found in evidence)
            row["refute"] = min(1.0, len(evidence) * min(found.refute for found in evidence))
            if column == "embedded" and stated["untestable"]:
                row["verdict"] = "not testable here"
        rows.append(row)
    table = pd.DataFrame(rows)
    table["alone"] = table["refute"]
    by_rank = table.groupby("rank")
    for name in ("support", "refute"):
        table[name] = by_rank[name].transform(lambda p: pd.Series(holm(p), p.index))
    judged = [_judged(row) for row in table.to_dict("records")]
    columns = ["id", "rank", "n", "value", "low", "high", "alone", "support", "refute", "verdict"]
    return pd.DataFrame(judged, columns=[*columns, "seeds_needed", "decides"]).set_index("id")


def _datasets(exhibit: str, frames: Iterable[str], column: str) -> list[str]:
    of = EXHIBITS.get(exhibit, Exhibit())  # What is claimed of the cost is of no exhibit.
    if column == "embedded":
        others = [dataset for dataset in frames if dataset not in ANALOGUE.values()]
        return [of.bundled] if of.bundled else others
    return list(of.columns if column == "full" else of.photographs)


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the ledger with its verdict, and the part that decided it."""
    if row["verdict"] in ("not run", "not testable here"):
        return row
    holds, fails = row["support"] < 1 - LEVEL, row["refute"] < 1 - LEVEL
    row["verdict"] = row["verdict"] or ("holds" if holds else "fails" if fails else "undecided")
    there = [found for found in row["evidence"] if len(found.values)]
    # The clearest first where it fails or would without other claims, else the weakest.
    against = row["verdict"] != "holds" and row["alone"] < 1 - LEVEL
    there.sort(key=lambda found: found.refute if against else -found.support)
    shown = estimate(there[0].values)
    row |= {"n": shown.n, "value": shown.mean, "low": shown.low, "high": shown.high}
    if row["verdict"] == "not finished":
        there = sorted(row["evidence"], key=lambda found: len(found.values) - found.planned)
        row["n"] = min(len(found.values) for found in there)
    first: dict[str, Evidence] = {}
    for found in there:
        first.setdefault(found.dataset, found)
    row["decides"] = [*first.values()]
    if row["verdict"] == "undecided" and not math.isnan(shown.p):
        row["seeds_needed"] = seeds_needed(shown.sd)
    return row


def _in_words(part: Part) -> str:
    words = []
    for term in part.terms:
        sides = [side.partition("@") for side in term.split(" - ")]
        named = [
            label(arm) + (f" ({column.replace('_', ' ')})" if column else "")
            for arm, _, column in sides
        ]
        words.append(" − ".join(named) if len(named) == 1 else f"({' − '.join(named)})")
    return " − ".join(words)


def in_print(statement: str) -> tuple[int, list[str]]:
    """How many columns of an exhibit a statement about printed rows speaks of, and those in which
    the printed numbers contradict it. Only order is judged: the numbers are unpaired means of three
    runs whose spread is not defined."""
    exhibit, _, rest = statement.partition(": ")
    rest, _, restriction = rest.partition(" @ ")
    cells = wide(*exhibit.split("_"))
    columns = restriction.split(", ") if restriction else [c for c in cells if c != "Mean"]
    cells = cells[columns].dropna(axis="columns", how="all")
    against = {
        column
        for part in parse(rest)
        for column in cells
        if not cells.loc[part.terms[0], column] > cells.loc[part.terms[1], column]
    }
    return cells.shape[1], [column for column in cells if column in against]
