"""The published records: whole, sound, and exactly the committed tables."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from dnrlib.book.pages import Parameters, published_runs, scope_verdicts, verdicts
from dnrlib.frames import generations
from dnrlib.methods import MAIN
from dnrlib.paper.exhibits import PLANNED, arms, evaluations_of, made_for, seeds_of
from dnrlib.recipes import configure, parse_arm
from dnrlib.records import PUBLISHED, ROOT
from dnrlib.run import chain
from dnrlib.stats import PRIMARY, comparisons, estimate, summary
from tests import test_recompute as recompute

GOLDEN = Path(__file__).parent / "golden"
TABULATED = set(MAIN)
_SIZES = {"5": 12, "20": 8, "0": 5}
SEEDS = {
    "digits": dict.fromkeys(arms("when", "digits"), 12)
    | dict.fromkeys([*arms("budget", "digits"), *arms("averaged", "digits")], 20)
    | dict.fromkeys(
        [
            *arms("ke_fig8", "digits"),
            *arms("ke_fig16", "digits"),
            "ke-dsd",
            "ke-wels+split_rate=0.64",
        ],
        8,
    )
    | dict.fromkeys(MAIN, 68)
    | {"ke-wels": 40, "plain+precision=bf16": 68, "dnr+precision=bf16": 12}
    | dict.fromkeys(
        [
            *("dsd+smoothing=0", "ban+smoothing=0", "ban-lineage+smoothing=0"),
            *("plain+smoothing=0", "ke+smoothing=0"),
            *("dnr+smoothing=0", "lw", "lw-released", "llf-layer3", "ke-wels-rand"),
            *("shrink-perturb", "dnr-released", "dnr-released-magnitude", "dnr-matched"),
            *("dnr-highest", "dnr+criterion=fisher", "dnr+criterion=magnitude"),
            *("dnr+criterion=random", "dnr+scope=layer", "dnr+probe=2", "dnr+probe=1"),
            *(f"dnr+keep={share}" for share in ("0.95", "0.9", "0.7", "0.6")),
            "long+generations=3",
        ],
        8,
    )
    | {
        f"{method}+generations=3+per_class={size}": seeds
        for size, seeds in _SIZES.items()
        for method in ("long", "tune", "ke", "dnr")
    }
    | {f"plain+per_class={size}": seeds for size, seeds in _SIZES.items()}
    | dict.fromkeys(
        [
            *("plain+loss=cs-kd", "ke+generations=3+loss=cs-kd", "ke+loss=cs-kd"),
            *("long+loss=cs-kd", "plain+loss=adacos", "repr+smoothing=0"),
        ],
        8,
    )
    | dict.fromkeys(("dnr+generations=30", "long+generations=20", "long+generations=30"), 5)
    | dict.fromkeys(("ke+generations=100", "tune+generations=100", "dnr+generations=100"), 3)
    | dict.fromkeys(("ke+model=googlenet", "ke+model=googlenet+split_rate=0.5"), 3),
    "digits-hard": dict.fromkeys(MAIN, 6),
    "digits-32": {"dnr+generations=2": 3},
    "digits-colour": dict.fromkeys(arms("fig5", "digits-colour"), 5),
    "digits-imbalanced": dict.fromkeys(arms("fig7", "digits-imbalanced"), 6),
    "digits-binary": dict.fromkeys(arms("table8", "digits-binary"), 12),
} | PLANNED
"""How many seeds (`seeds_of`) are published of each arm; fewer generations of one come with it.
What was planned is published whole."""


def evaluated(dataset):
    """The evaluations that are published, by arm."""
    found = {arm: {} for arm in SEEDS[dataset]}
    for exhibit in made_for(dataset):
        for arm in arms(exhibit, dataset):
            found.setdefault(arm, {}).update(dict.fromkeys(evaluations_of(exhibit, dataset)))
    return found


def committed_tables(dataset):
    found = [run for run in published_runs(dataset) if run.arm in TABULATED]
    frame = generations(found)
    return (
        summary(frame).to_csv(float_format="%.6f", lineterminator="\n")
        + "\n"
        + comparisons(frame, PRIMARY).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    )


@pytest.mark.parametrize("dataset", ["digits", "digits-hard"])
def test_published_records_give_exactly_the_committed_table(dataset):
    """Golden. After publishing anew: python -m tests.test_published"""
    assert committed_tables(dataset) == (GOLDEN / f"table1-{dataset}.csv").read_text()


def test_the_manifest_lists_every_file():
    digests = {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in PUBLISHED.glob("*/*")
    }
    assert json.loads((PUBLISHED / "manifest.json").read_text()) == digests


@pytest.mark.parametrize("dataset", SEEDS)
def test_every_method_and_seed_is_published_whole(dataset):
    seeds = SEEDS[dataset]
    files = sorted((PUBLISHED / dataset).glob("*"))
    assert [file.name for file in files] == [
        f"seed-{n:04d}.jsonl.gz" for n in range(max(seeds.values()))
    ]
    for seed, file in enumerate(files):
        chains = {
            arm: chain(configure(dataset, seed=seed, **parse_arm(arm)))
            for arm in seeds
            if seed in seeds_of(dataset, arm, seeds[arm])
        }
        wanted = {e.key for links in chains.values() for link in links for e in link.entries}
        wanted |= {
            links[-1].evaluated(each).key
            for arm, links in chains.items()
            for each in evaluated(dataset)[arm]
        }
        found = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        assert {record["key"] for record in found} == wanted
        assert file.stat().st_size < 1_000_000
        for record in found:
            assert record["provenance"]["commit"]
            assert "+changes" not in record["provenance"]["commit"]


def test_the_table_from_json_and_scipy_alone():
    """An independent recomputation: no code of the library reads, pairs or tests here."""
    final = {method: recompute.outcomes(method, "digits") for method in MAIN}
    golden = pd.read_csv(GOLDEN / "table1-digits.csv", nrows=len(MAIN), index_col="method")
    for method, by_seed in final.items():
        values = list(by_seed.values())
        assert golden.loc[method, "n"] == len(values)
        assert golden.loc[method, "mean"] == pytest.approx(sum(values) / len(values), abs=1e-5)
    compared = pd.read_csv(GOLDEN / "table1-digits.csv", skiprows=len(MAIN) + 1)
    for row in compared.itertuples():
        seeds = sorted(final[row.a].keys() & final[row.b].keys())
        a, b = ([final[name][seed] for seed in seeds] for name in (row.a, row.b))
        oracle = scipy_stats.ttest_rel(a, b)
        interval = oracle.confidence_interval(0.95)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-5)


def committed_ledger():
    ledger = verdicts(Parameters("digits")).drop(columns="decides")
    return ledger.to_csv(float_format="%.9g", lineterminator="\n")


def test_published_records_give_exactly_the_committed_ledger():
    """Golden. After publishing anew: python -m tests.test_published"""
    assert committed_ledger() == (GOLDEN / "ledger-digits.csv").read_text()


def test_published_photographs_are_judged_as_by_the_second_implementation():
    columns = ["verdict", "n", "value", "support", "refute"]
    ours = scope_verdicts("photographs")[columns]
    again = pd.DataFrame.from_dict(recompute.verdicts("photographs"), "index", columns=columns)
    pd.testing.assert_frame_equal(ours, again, check_names=False, check_dtype=False, atol=1e-6)


def test_the_short_answers_are_what_the_ledger_says():
    """They are written by hand."""
    first = (ROOT / "notebooks" / "start.ipynb").read_text("utf-8")
    short = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert "DNR was not found to be more accurate than one" in first
    assert "DNR was not found to be more accurate than one training as long, nor" in short
    for found in (verdicts(Parameters("digits")), scope_verdicts("photographs")):
        rows = found.loc[["beats-lb", "beats-tune"]]
        assert set(rows["verdict"]) == {"fails"}
        assert all(each.support >= 0.05 for row in rows["decides"] for each in row), "on any set"
        held = ["trivial-helps", "tuning-helps-lb", "ensemble-beats-lb"]
        assert set(found.loc[held, "verdict"]) == {"holds"}
        gains = [np.mean(each.values) for claim in held[:2] for each in found.loc[claim, "decides"]]
        assert all(3 <= round(gain) <= 7 for gain in gains)
        tuned = [f"tuned-{method}-beats-tuned-lb" for method in ("dnr", "ke", "tune")]
        for each in (each for claim in tuned for each in found.loc[claim, "decides"]):
            behind = estimate(each.values)
            assert behind.high < 0
            assert 2 <= round(-behind.mean) <= 4
    assert "each of the two gained 3 to 7 points on these sets" in first
    for text in (first, short):
        assert "ahead of DNR, KE and fine-tuning on all three sets, by 2 to 4 points" in text
    for claim in ("distorting-adds-to-tuning", "cutmix-adds-to-tuning"):
        by_set = {each.dataset: np.mean(each.values) for each in found.loc[claim, "decides"]}
        assert by_set["flower102-64"] < -10
    assert "settings that had been tuned without distortions failed together with them" in first
    for dataset in ("flower102-64", "cifar10-few"):
        frame = generations(published_runs(dataset))
        assert comparisons(frame, [("llf", "long")])["low"].item() > 0
    assert "was ahead of LB on photographs with default settings, and not with tuned ones" in first
    assert scope_verdicts("photographs").loc["tuned-llf-beats-tuned-lb", "verdict"] == "fails"
    ahead = [e.dataset for e in found.loc["beats-ke", "decides"] if e.support < 0.05]
    assert ahead == ["flower102-64"]
    assert "it was ahead of KE on one of the two sets of photographs" in first
    by_set = {each.dataset: each for each in found.loc["distorting-adds-to-tuning", "decides"]}
    assert by_set["cifar10-few"].refute < 0.05, "gained nothing"
    mixed = {each.dataset: each for each in found.loc["cutmix-helps", "decides"]}
    assert mixed["flower102-64"].support < 0.001, "on photographs alone they gained on Flowers"
    assert found.loc["cutmix-helps", "verdict"] == "undecided"
    recipe = (ROOT / "notebooks" / "advice.ipynb").read_text("utf-8")
    assert "on both sets of photographs, each of the two gained 3 to 7 points" in recipe
    assert "ahead of DNR, KE and fine-tuning on all three sets, by 2 to 4 points" in recipe
    assert "average three that share the epochs: they were ahead of one long\\n" in recipe


def test_what_holds_where_is_what_the_ledger_says():
    """The list of the introduction is written by hand."""
    pages = nbformat.read(ROOT / "notebooks" / "introduction.ipynb", as_version=4).cells
    (listed,) = [cell.source for cell in pages if cell.source.startswith("## What holds where")]
    digits, photographs = verdicts(Parameters("digits")), scope_verdicts("photographs")
    expected = {
        "Holds on digits and on photographs": [("holds", "holds")],
        "Ruled out on digits and on photographs": [("fails", "fails")],
        "Undecided on digits and on photographs": [("undecided", "undecided")],
        "Not the same on digits and on photographs": [
            ("undecided", "fails"),
            ("fails", "undecided"),
            ("holds", "fails"),
        ],
    }
    counted = 0
    for title, line in re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=^- |\Z)", listed, re.M | re.S):
        for claim in re.findall(r"<claim-([\w-]+)>", line):
            found = digits.loc[claim, "verdict"], photographs.loc[claim, "verdict"]
            assert found in expected[title], claim
            counted += 1
    assert counted == listed.count("<claim-") == 25
    behind = {each.dataset: each for each in photographs.loc["ke-below-lb", "decides"]}
    assert behind["flower102-64"].support < 0.05
    assert round(np.mean(behind["flower102-64"].values)) == 1
    assert "as long <claim-ke-below-lb>` (on Flowers it was, by about a point)" in listed


if __name__ == "__main__":
    for name in ("digits", "digits-hard"):
        (GOLDEN / f"table1-{name}.csv").write_text(committed_tables(name))
    (GOLDEN / "ledger-digits.csv").write_text(committed_ledger())
