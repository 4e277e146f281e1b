"""Trains everything that is published into the runs folder, or publishes it.

    python -m tests.publish [DATASET ...]              train what of it is not in the runs folder
    python -m tests.publish [DATASET ...] --publish    then copy the records to data/records
    python -m tests.publish DATASET --copied           list in the manifest of data/records what of
                                                       it was copied there from another clone
    python -m tests.publish DATASET --go-on            train and publish, seed by seed, what is not
                                                       published yet

What is published is listed in `tests/test_published.py`, which takes the plan of `PLANNED`.
"""

import argparse

from dnrlib import UserError, records
from dnrlib.paper.exhibits import seeds_of
from dnrlib.recipes import RECIPES, grid, scope
from dnrlib.study import Archive, Run, study
from tests.test_published import SEEDS, evaluated


def main() -> None:
    parser = argparse.ArgumentParser(description="Train or publish what is published.")
    parser.add_argument("datasets", nargs="*", metavar="DATASET", choices=[*SEEDS, []])
    parser.add_argument("--publish", action="store_true", help="copy the records to data/records")
    parser.add_argument("--copied", action="store_true", help="list files that were copied there")
    parser.add_argument(
        "--go-on", action="store_true", help="train and publish what is missing, seed by seed"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one per core)")
    options = parser.parse_args()
    if options.copied:
        for dataset in options.datasets:
            records.list_copied(dataset)
        return
    if options.go_on:
        for dataset in options.datasets:
            go_on(dataset, options.workers)
        return
    # The images of photographs are not in the repository.
    for dataset in options.datasets or [name for name in SEEDS if scope(name) == "embedded"]:
        of_arm = evaluated(dataset)
        alike: dict[tuple, list[str]] = {}
        for arm, seeds in SEEDS[dataset].items():
            alike.setdefault((seeds, tuple(of_arm[arm])), []).append(arm)
        for (seeds, evaluations), arms in alike.items():
            found = study(grid(dataset, arms, seeds), published=False, evaluations=evaluations)
            if options.publish:
                refuse_publishing(found)
                for run in found:
                    records.publish(dataset, run.config.seed, run.records)


def refuse_publishing(found: list[Run]) -> None:
    """Raises `UserError` for runs that must not be published."""
    if any(run.config.dataset not in RECIPES for run in found):
        raise UserError("runs on a folder of one's own are not published: nobody could repeat them")
    if any("+changes" in str(r["provenance"]["commit"]) for run in found for r in run.records):
        raise UserError("runs of a changed checkout are not published: commit, and train anew")


def go_on(dataset: str, workers: int) -> None:
    """Trains and publishes what is listed in `SEEDS` and not published. Arms with the same number
    of seeds are one step; steps are taken in the order of `SEEDS`, and within a step seed by seed,
    so that what is published is always comparable."""
    of_arm, steps = evaluated(dataset), {}
    for arm, seeds in SEEDS[dataset].items():
        steps.setdefault(seeds, []).append(arm)
    for seeds, arms in steps.items():
        for nth in range(seeds):
            alike: dict[tuple, list] = {}
            for arm in arms:
                (config,) = grid(dataset, [arm], seeds_of(dataset, arm, seeds)[nth : nth + 1])
                alike.setdefault(tuple(of_arm[arm]), []).append(config)
            for evaluations, configs in alike.items():
                missing = [
                    config
                    for config in configs
                    if Archive(own=False).find(config, evaluations) is None
                ]
                found = study(missing, published=False, workers=workers, evaluations=evaluations)
                refuse_publishing(found)
                for run in found:
                    records.publish(dataset, run.config.seed, run.records)


if __name__ == "__main__":
    main()
