"""Measures the grid from which the tuned settings are chosen, on the tuning pool.

    python -m tests.tune DATASET     go on where it stopped, one cell of the grid after another

A cell is a weight decay, a learning rate and a seed; in it the same arms are trained. What is
finished is added to `data/tuning/DATASET.csv`: a row per cell and arm, with the accuracy in % of
the tuning images (of an ensemble, that of its averaged members) and of the training images, and
the seconds that its training took (generations that arms share are counted once, in the first arm
that has them).
"""

import argparse
import io
import itertools

import pandas as pd

from dnrlib import frames, records
from dnrlib.evaluate.evaluations import AveragedAccuracy
from dnrlib.recipes import PHOTOGRAPHS, configure
from dnrlib.study import study

GRID = records.ROOT / "data" / "tuning"
KEYS = ["seed", "weight_decay", "lr", "arm"]
ARMS = ("long", "tune", "ke", "dnr", "plain", "llf", "ensemble")
RECIPE: dict[str, float] = {}


def _cells(decays: tuple[float, ...], rates: tuple[float, ...]) -> list[dict[str, float]]:
    """The recipe, and every weight decay with every learning rate."""
    pairs = itertools.product(decays, rates)
    return [RECIPE, *({"weight_decay": decay, "lr": lr} for decay, lr in pairs)]


CELLS = {
    **dict.fromkeys(PHOTOGRAPHS[:2], _cells((5e-3, 2e-2), (0.1, 0.03))),
    "digits": _cells((3e-3, 1e-2, 3e-2), (0.1, 0.03)),
}
"""The cells of a dataset's grid, the same for all arms."""
SEEDS = {**dict.fromkeys(PHOTOGRAPHS[:2], (1000,)), "digits": (1000, 1001, 1002, 1003)}
"""The seeds that all cells are measured with. On photographs the recipe is measured with two more:
the spread of its paired differences may raise the number of seeds that are planned."""


def wanted(dataset: str) -> list[tuple[int, dict[str, float], tuple[str, ...]]]:
    """What is measured, in order: seed, settings of the cell, arms."""
    cells = [(seed, cell, ARMS) for cell in CELLS[dataset] for seed in SEEDS[dataset]]
    if dataset in PHOTOGRAPHS:
        cells += [(seed, RECIPE, ARMS[:4]) for seed in (1001, 1002)]
    return cells


def measured(dataset: str) -> pd.DataFrame:
    """What is measured so far: a row per seed, weight decay, lr and arm."""
    path = GRID / f"{dataset}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*KEYS, "accuracy"])


def best(dataset: str) -> dict[str, dict[str, float]]:
    """By arm whose grid is whole, the settings of the cell with the highest mean accuracy."""
    rows = measured(dataset)
    rows = rows[rows["seed"].isin(SEEDS[dataset])]
    found = {}
    for arm in ARMS:
        cells = rows[rows["arm"] == arm].groupby(["weight_decay", "lr"])["accuracy"]
        if cells.size().sum() == len(CELLS[dataset]) * len(SEEDS[dataset]):
            found[arm] = dict(zip(("weight_decay", "lr"), cells.mean().idxmax(), strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the grid of the tuned settings.")
    parser.add_argument("dataset", choices=CELLS)
    dataset = parser.parse_args().dataset
    for seed, cell, arms in wanted(dataset):
        rows = measured(dataset)
        there = set(rows[KEYS].itertuples(index=False, name=None))
        configs = [configure(dataset, method=arm, pool="tuning", seed=seed, **cell) for arm in arms]
        missing = [c for c in configs if (seed, c.weight_decay, c.lr, c.method) not in there]
        seen: set[str] = set()
        added = []
        for config in missing:
            measure = (AveragedAccuracy(),) if config.method == "ensemble" else ()
            (run,) = study([config], published=False, workers=1, evaluations=measure)
            new = [r for r in run.records if r["kind"] == "generation" and r["key"] not in seen]
            seen |= {record["key"] for record in new}
            end = frames.generations([run]).iloc[-1]
            added.append(
                {
                    "seed": seed,
                    "weight_decay": config.weight_decay,
                    "lr": config.lr,
                    "arm": config.method,
                    "accuracy": round(end["averaged" if measure else "test_accuracy"], 3),
                    "fit": round(end["train_accuracy"], 3),
                    "seconds": round(sum(record["timing"]["seconds"] for record in new), 1),
                    "commit": run.records[-1]["provenance"]["commit"],
                }
            )
        if added:
            text = io.StringIO()
            pd.concat([rows, pd.DataFrame(added)]).to_csv(text, index=False, lineterminator="\n")
            records.write(GRID / f"{dataset}.csv", text.getvalue().encode())
            print("measured:", seed, cell or "the recipe", *(row["arm"] for row in added))


if __name__ == "__main__":
    main()
