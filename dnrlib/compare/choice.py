"""Which method for these images? The methods are trained seed by seed in the time there is.

Whether another seed is trained depends on time alone. Methods are chosen on the validation pool
(`tuning`); the test pool is looked at once, after the choice.
"""

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats
from tqdm.auto import tqdm

from .. import UserError, records, train
from ..book.tables import LEAST_SEEDS
from ..config import Config
from ..datasets.catalogue import dataset, read
from ..datasets.splits import Data
from ..evaluate.evaluations import Predictions, recalls
from ..frames import generations
from ..recipes import configure
from ..run import entries, finished, threads
from ..stats import LEVEL, MARGIN, POWER, Estimate, estimate
from ..store import Store
from ..study import Archive, Run, study

METHODS = ("plain", "long", "tune", "llf", "ke", "dnr")
"""What is compared: ordinary training of one generation and of all, then the others, the simplest
first. All but `plain` cost the same."""

OTHERS = METHODS[2:]


@dataclass(frozen=True)
class Choice:
    """What the validation images say."""

    method: str
    """The method that is advised."""
    leader: str
    """The one of `OTHERS` with the highest mean."""
    found: bool
    """Whether the leader was found to be better than ordinary training of both lengths."""
    over_long: Estimate
    """`leader` minus `long`, paired by seed; the interval is corrected for the number of
    `OTHERS`."""
    over_plain: Estimate
    """`leader` minus `plain`, in the same way."""
    longer: Estimate
    """`long` minus `plain`, paired by seed."""
    detectable: float
    """The difference in points that a comparison of this size sees with 80 % power at the spread
    measured, or NaN where there is none to measure."""


def choose(scores: pd.DataFrame) -> Choice:
    """The choice from a frame with columns method, seed and `validation` (accuracy in %).

    The best of `OTHERS` is advised if its paired differences to both `long` and `plain` have
    intervals above 0, at a level corrected for having picked the best of several (Bonferroni).
    Otherwise the cheapest method that is not worse than `long` is advised: `plain` if its mean is
    at most `MARGIN` lower, else `long`. The spread for `detectable` is the root mean square over
    all methods compared with `long`.
    """
    wide = scores.pivot(index="seed", columns="method", values="validation")
    means = wide.mean().round(9)
    leader = max(OTHERS, key=lambda method: means[method])
    level = 1 - (1 - LEVEL) / len(OTHERS)
    over_long, over_plain = (estimated(wide[leader] - wide[of], level) for of in ("long", "plain"))
    found = over_long.low > 0 and over_plain.low > 0
    cheapest = "plain" if means["plain"] >= means["long"] - MARGIN else "long"
    sd = np.sqrt(np.mean([estimate(wide[of] - wide["long"]).sd ** 2 for of in OTHERS]))
    return Choice(
        method=leader if found else cheapest,
        leader=leader,
        found=found,
        over_long=over_long,
        over_plain=over_plain,
        longer=estimated(wide["long"] - wide["plain"]),
        detectable=detectable(float(sd), len(wide), level),
    )


def estimated(values: pd.Series, level: float = LEVEL) -> Estimate:
    """`stats.estimate`, with NaN for the interval of fewer than `LEAST_SEEDS` seeds and of seeds
    that agree: a few may do so by chance, and no spread is no evidence."""
    found = estimate(values, level)
    if found.n >= LEAST_SEEDS and not math.isnan(found.p):
        return found
    return dataclasses.replace(found, low=math.nan, high=math.nan)


def detectable(sd: float, n: int, level: float = LEVEL) -> float:
    """The difference that a paired t-test at 1 - `level` sees with power 80 %, with n seeds whose
    differences have standard deviation `sd`; NaN for fewer than two seeds or no spread."""
    if n < 2 or not sd > 1e-9:
        return math.nan
    critical = stats.t.ppf((1 + level) / 2, n - 1)

    def lacking(shift: float) -> float:
        return POWER - float(stats.nct.sf(critical, n - 1, shift))

    # The shift is just above the critical value, and more so where that has few degrees of freedom.
    return optimize.brentq(lacking, 0, 2 * critical + 2) * sd / math.sqrt(n)


@dataclass(frozen=True)
class Comparison:
    """A finished comparison, as it is stored in `comparison.json`."""

    base: Config
    """The settings that all runs share."""
    seeds: int
    """The seeds that were asked for."""
    hours: float
    """The time that was given."""
    seconds: float
    """The time that the training took, over all calls."""
    device: str
    scores: pd.DataFrame
    """One row per method and seed: validation, test and balanced (accuracies in %; the last the
    mean over the classes that have test images), and `predicted`, a list of the labels given to the
    test images in their order."""
    curves: pd.DataFrame
    """`frames.generations` by method, of the validation images."""
    demonstration: bool = False

    @property
    def choice(self) -> Choice:
        return choose(self.scores)

    @property
    def done(self) -> int:
        """The seeds that were trained."""
        return self.scores["seed"].nunique()

    def config(self, method: str, seed: int = 0) -> Config:
        """The run of a method and seed."""
        return dataclasses.replace(self.base, method=method, seed=seed)

    def named(self) -> pd.DataFrame:
        """What the networks of the advised method see in the test images, one row per seed and
        image: seed, image (its number), label and named (class names, as categories)."""
        labels, classes = read(self.base.dataset)["test"].labels, dataset(self.base.dataset).classes
        own = self.scores[self.scores["method"] == self.choice.method]
        frame = own[["seed", "predicted"]].explode("predicted", ignore_index=True)
        return pd.DataFrame(
            {
                "seed": frame["seed"],
                "image": [*range(len(labels))] * len(own),
                "label": pd.Categorical.from_codes(labels.repeat(len(own)), classes),
                "named": pd.Categorical.from_codes(frame["predicted"].astype(int), classes),
            }
        )


def compared(
    name: str,
    output: Path,
    *,
    hours: float = 2.0,
    seeds: int = 5,
    device: str = "auto",
    workers: int = 0,
    settings: dict[str, Any] | None = None,
) -> Comparison:
    """Compares `METHODS` on a dataset in about the time given, and writes `comparison.json` into
    the folder `output`.

    What is on disk is read, and the time that it took counts: called again, it goes on where it
    was. `settings` change the dataset's recipe. Raises `UserError` for bad arguments, and for a
    dataset without one of its three pools.
    """
    if not (math.isfinite(hours) and hours > 0):
        raise UserError(f"hours={hours!r} must be a number greater than 0")
    if seeds < LEAST_SEEDS:
        raise UserError(f"seeds={seeds!r} must be at least {LEAST_SEEDS}: fewer say nothing")
    base = configure(name, pool="tuning", **(settings or {}))
    name = base.dataset
    missing = [pool for pool in ("train", "tuning", "test") if not len(read(name).get(pool, ()))]
    if missing:
        raise UserError(f"{name} has no images in the pools {', '.join(missing)}; all are needed")
    images = dataset(name).fingerprint
    runs, seconds = _trained(base, seeds, hours, device, workers)
    if dataset(name).fingerprint != images:
        raise UserError(f"the images of {name} changed during the comparison; compare again")
    curves = generations(runs)[["method", "seed", "generation", "epochs", "test_accuracy"]]
    comparison = Comparison(
        base=base,
        seeds=seeds,
        hours=hours,
        seconds=seconds,
        device=runs[0].records[0]["provenance"]["processor"],
        scores=_scores(runs, device),
        curves=curves.assign(method=curves["method"].str.partition("+")[0]),
    )
    save(output, comparison)
    return comparison


def _trained(
    base: Config, seeds: int, hours: float, device: str, workers: int
) -> tuple[list[Run], float]:
    """The runs of all methods, seed by seed, and the seconds that they took; the first seed always,
    another one only if at the pace so far it ends before the time is up."""
    on_cpu = train.device_named(device).type == "cpu"
    at_once = min(workers or (os.cpu_count() or 1 if on_cpu else 1), len(METHODS))
    start, earlier, runs = time.monotonic(), 0.0, []
    for seed in range(seeds):
        configs = [dataclasses.replace(base, method=method, seed=seed) for method in METHODS]
        used = earlier + time.monotonic() - start
        whole = all(Archive(published=False).find(config) for config in configs)
        expected = used * (seed + 1) / max(seed, 1)
        if seed and not whole and expected > 3600 * hours:
            print(
                f"the time is up: {seed} of {seeds} seeds are done; the same command with "
                f"--hours {math.ceil(expected / 360) / 10} adds another"
            )
            break
        print(f"seed {seed + 1} of {seeds}; {timedelta(seconds=round(used))} used", flush=True)
        earlier += _recorded(configs) / at_once
        runs += study(configs, published=False, workers=workers, device=device)
    return runs, earlier + time.monotonic() - start


def _recorded(configs: Sequence[Config]) -> float:
    """Seconds of work on what is on disk of these runs, by its records."""
    store = Store()
    wanted = {entry.key: entry for config in configs for entry in entries(config)}
    found = [store.read(entry) for entry in wanted.values()]
    # Records of earlier versions do not say.
    return sum(sum(record["timing"].get("parts", {}).values()) for record in found if record)


def _scores(runs: Sequence[Run], device: str) -> pd.DataFrame:
    """`Comparison.scores` of these runs, from their weights on disk; raises `DamagedFile`."""
    name, rows = runs[0].config.dataset, []
    test = read(name)["test"]
    data, labels = Data(dataset(name), test, test), test.labels.numpy()
    for run_ in tqdm(runs, unit="network", desc="testing"):
        config = run_.config
        with threads(config.threads):
            found = Predictions().result(finished(config, device).model, data, config)
        predicted = np.array(found["predicted"])
        rows.append(
            {
                "method": config.method,
                "seed": config.seed,
                "validation": run_.last["result"]["test_accuracy"],
                "test": 100 * float(np.mean(predicted == labels)),
                "balanced": float(np.mean(recalls(labels, predicted))),
                "predicted": found["predicted"],
            }
        )
    return pd.DataFrame(rows)


def save(output: Path, comparison: Comparison) -> None:
    """Writes a comparison, whole or not at all."""
    stored = vars(comparison) | {
        "kind": "comparison",
        "base": vars(comparison.base),
        "images": dataset(comparison.base.dataset).fingerprint,
        "scores": comparison.scores.to_dict("records"),
        "curves": comparison.curves.to_dict("records"),
    }
    records.save(output / "comparison.json", stored)


def load(output: Path) -> Comparison:
    """The comparison stored in a folder; raises `UserError` if there is none."""
    path = output / "comparison.json"
    try:
        stored = records.read(path)
    except records.DamagedFile:
        raise UserError(f"{path} is damaged; run the comparison again to write it anew") from None
    if stored is None:
        raise UserError(f"{output} holds no comparison; make one with: dnr compare PATH")
    base = Config(**stored["base"])
    if dataset(base.dataset).fingerprint != stored["images"]:
        raise UserError(
            f"the images of {base.dataset} have changed since {path} was made; compare again"
        )
    scores, curves = (pd.DataFrame(stored[name]) for name in ("scores", "curves"))
    kept = {name: stored[name] for name in ("seeds", "hours", "seconds", "device")}
    return Comparison(base=base, scores=scores, curves=curves, **kept)
