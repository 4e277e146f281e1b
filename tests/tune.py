"""Measures the grid from which the tuned settings of photographs are chosen, on the tuning pool.

    python -m tests.tune DATASET     go on where it stopped, one cell of the grid after another

A cell is a weight decay, a learning rate and a seed; in it the same arms are trained. Cells are
added to `data/tuning/DATASET.csv` when all their arms are finished: a row per arm, with the
accuracy in % of the tuning images and of the training images, and the seconds that its training
took (generations that arms share are counted once, in the first arm that has them).
"""

import argparse
import io

import pandas as pd

from dnrlib import frames, records
from dnrlib.recipes import PHOTOGRAPHS, configure
from dnrlib.study import study

GRID = records.ROOT / "data" / "tuning"
KEYS = ("seed", "weight_decay", "lr")
ARMS = ("long", "tune", "ke", "dnr")
RECIPE: dict[str, float] = {}
CELLS = [
    RECIPE,
    *({"weight_decay": decay, "lr": lr} for decay in (5e-3, 2e-2) for lr in (0.1, 0.03)),
]
"""The cells that are measured with seed 1000, the first of them the paper's recipe, which is
measured with two more seeds: the spread of its paired differences decides how many are planned."""
PLAN = [(1000, cell) for cell in CELLS] + [(seed, RECIPE) for seed in (1001, 1002)]


def measured(dataset: str) -> pd.DataFrame:
    """What is measured so far: a row per seed, weight decay, lr and arm."""
    path = GRID / f"{dataset}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=KEYS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the grid of the tuned settings.")
    parser.add_argument("dataset", choices=PHOTOGRAPHS[:2])
    dataset = parser.parse_args().dataset
    for seed, cell in PLAN:
        configs = [configure(dataset, method=arm, pool="tuning", seed=seed, **cell) for arm in ARMS]
        rows, first = measured(dataset), configs[0]
        wanted = seed, first.weight_decay, first.lr
        if wanted in rows[[*KEYS]].itertuples(index=False, name=None):
            continue
        seen: set[str] = set()
        added = []
        for run in study(configs, published=False, workers=1):
            new = [record for record in run.records if record["key"] not in seen]
            seen |= {record["key"] for record in new}
            end = frames.generations([run]).iloc[-1]
            added.append(
                {
                    "seed": seed,
                    "weight_decay": run.config.weight_decay,
                    "lr": run.config.lr,
                    "arm": run.config.method,
                    "accuracy": round(end["test_accuracy"], 3),
                    "fit": round(end["train_accuracy"], 3),
                    "seconds": round(sum(record["timing"]["seconds"] for record in new), 1),
                    "commit": run.records[-1]["provenance"]["commit"],
                }
            )
        text = io.StringIO()
        pd.concat([rows, pd.DataFrame(added)]).to_csv(text, index=False, lineterminator="\n")
        records.write(GRID / f"{dataset}.csv", text.getvalue().encode())
        print("measured:", seed, cell or "the recipe", flush=True)


if __name__ == "__main__":
    main()
