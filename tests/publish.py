"""Trains everything that is published into the runs folder, or publishes it.

    python -m tests.publish [DATASET ...]              train what of it is not in the runs folder
    python -m tests.publish [DATASET ...] --publish    then copy the records to data/records

What is published is listed in `tests/test_published.py`.
"""

import argparse

from dnrlib import records
from dnrlib.cli import refuse_publishing
from dnrlib.config import grid
from dnrlib.study import study
from tests.test_published import SEEDS, evaluated


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or publish what is published.")
    parser.add_argument("datasets", nargs="*", metavar="DATASET", choices=[*SEEDS, []])
    parser.add_argument("--publish", action="store_true", help="copy the records to data/records")
    options = parser.parse_args()
    for dataset in options.datasets or SEEDS:
        of_arm = evaluated(dataset)
        alike: dict[tuple, list[str]] = {}
        for arm, seeds in SEEDS[dataset].items():
            alike.setdefault((seeds, tuple(of_arm[arm])), []).append(arm)
        for (seeds, evaluations), arms in alike.items():
            found = study(grid(dataset, arms, seeds), published=False, evaluations=evaluations)
            if options.publish:
                refuse_publishing(found, None)
                for run in found:
                    records.publish(dataset, run.config.seed, run.records)


if __name__ == "__main__":
    main()
