"""The published records: whole, sound, and exactly the committed tables."""

import json
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats as scipy_stats

from dnrlib.config import configure
from dnrlib.methods import METHODS
from dnrlib.pages import published_runs
from dnrlib.records import PUBLISHED
from dnrlib.run import chain
from dnrlib.stats import PRIMARY, comparisons, summary
from dnrlib.study import generations

GOLDEN = Path(__file__).parent / "golden"
SEEDS = {
    "digits": dict.fromkeys(METHODS, 68) | {"ke-wels": 40},
    "digits-hard": dict.fromkeys(METHODS, 6),
}
"""How many seeds, from 0, are published of each method."""


def committed_tables(dataset):
    frame = generations(published_runs(dataset))
    return (
        summary(frame).to_csv(float_format="%.6f", lineterminator="\n")
        + "\n"
        + comparisons(frame, PRIMARY).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    )


@pytest.mark.parametrize("dataset", SEEDS)
def test_published_records_give_exactly_the_committed_table(dataset):
    """Golden. After publishing anew: python -m tests.test_published"""
    assert committed_tables(dataset) == (GOLDEN / f"table1-{dataset}.csv").read_text()


@pytest.mark.parametrize("dataset", SEEDS)
def test_every_method_and_seed_is_published_whole(dataset):
    seeds = SEEDS[dataset]
    files = sorted((PUBLISHED / dataset).glob("*.jsonl"))
    assert [file.name for file in files] == [
        f"seed-{n:04d}.jsonl" for n in range(max(seeds.values()))
    ]
    assert len(published_runs(dataset)) == sum(seeds.values())
    for seed, file in enumerate(files):
        wanted = {
            key
            for method in METHODS
            if seed < seeds[method]
            for link in chain(configure(dataset, method=method, seed=seed))
            for key in link.keys
        }
        found = [json.loads(line) for line in file.read_text().splitlines()]
        assert {record["key"] for record in found} == wanted
        assert file.stat().st_size < 1_000_000
        for record in found:
            assert record["provenance"]["commit"]
            assert "+changes" not in record["provenance"]["commit"]


def test_the_table_from_json_and_scipy_alone():
    """An independent recomputation: no code of the library reads, pairs or tests here."""
    final = {}
    for path in sorted((PUBLISHED / "digits").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["kind"] != "generation":
                continue
            stage = record["stage"]["Generation"]
            rule = next(iter(stage.get("keep", {"nothing reset": None})))
            accuracy = record["result"]["test_accuracy"]
            if stage.get("epochs") == 10.0:
                final.setdefault("long", {})[path.name] = accuracy
            elif record["generation"] == 10:
                name = {"Top": "dnr", "Kels": "ke", "Wels": "ke-wels", "nothing reset": "tune"}[
                    rule
                ]
                final.setdefault(name, {})[path.name] = accuracy
            elif record["generation"] == 1:
                final.setdefault("plain", {})[path.name] = accuracy
    golden = pd.read_csv(GOLDEN / "table1-digits.csv", nrows=len(METHODS), index_col="method")
    assert final.keys() == METHODS.keys()
    for method, by_seed in final.items():
        values = list(by_seed.values())
        assert golden.loc[method, "n"] == len(values)
        assert golden.loc[method, "mean"] == pytest.approx(sum(values) / len(values), abs=1e-5)
    compared = pd.read_csv(GOLDEN / "table1-digits.csv", skiprows=len(METHODS) + 1)
    for row in compared.itertuples():
        seeds = sorted(final[row.a].keys() & final[row.b].keys())
        a, b = ([final[name][seed] for seed in seeds] for name in (row.a, row.b))
        oracle = scipy_stats.ttest_rel(a, b)
        interval = oracle.confidence_interval(0.95)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-5)


if __name__ == "__main__":
    for name in SEEDS:
        (GOLDEN / f"table1-{name}.csv").write_text(committed_tables(name))
