"""Which method for these images? The methods are trained seed by seed in the time there is.

Whether another seed is trained depends on time alone. Methods are chosen on the validation pool
(`tuning`); the test pool is looked at once, after the choice.
"""

import dataclasses
import math
import tempfile
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

from .. import UserError, records
from ..book.tables import LEAST_SEEDS
from ..config import PRETRAINED, Config, not_one_of
from ..datasets.augment import DISTORTED
from ..datasets.catalogue import dataset, read
from ..datasets.splits import Data
from ..evaluate.evaluations import Predictions, recalls
from ..frames import generations
from ..models import pretrained_file
from ..recipes import configure, parse_arm
from ..run import arithmetic, entries, finished
from ..stats import LEVEL, MARGIN, POWER, Estimate, crossed, crossed_error
from ..store import Store
from ..study import Archive, Run, StudyFailed, processes, study

ORDINARY = ("plain", "plain+tuned", "long+augment=trivial", "long+tuned")
"""Ordinary training, the cheapest first: one generation with the settings given, and with tuned
ones; all generations with the settings given on distorted images, and with tuned ones on others.
Tuned settings are chosen without distortions, and some go badly with them."""
OTHERS = ("tune", "ke", "dnr+tuned", "ensemble+tuned")
"""What is compared with it. They cost as much as LB; an ensemble costs more at inference."""
ARMS = ORDINARY + OTHERS
FINETUNED = "pretrained"
"""Where torchvision's ImageNet weights of a ResNet18 are on this machine, they are compared too."""
SETTINGS = {"model": "resnet18", "width": 64, "stem": "7x7", "start": PRETRAINED, "lr": 0.01}
"""Of that network; the learning rate is a usual one and was not tuned."""
CELLS: list[dict[str, float]] = [{}]
CELLS += [{"weight_decay": decay, "lr": lr} for decay in (5e-3, 2e-2) for lr in (0.1, 0.03)]
"""The settings from which the tuned ones are chosen, the given ones first; the grid of the book."""
TUNING_SEED = 1000
"""The seed of that choice, which is none of those that are reported."""


@dataclass(frozen=True)
class Choice:
    """What the validation images say."""

    method: str
    """The arm that is advised."""
    leader: str
    """The one of the `others` with the highest mean."""
    others: tuple[str, ...]
    """What was compared with ordinary training."""
    found: bool
    """Whether the leader was found to be better than all ordinary training."""
    over: dict[str, Estimate]
    """`leader` minus each of `ORDINARY`; intervals are corrected for the number of `others`."""
    ahead: dict[str, Estimate]
    """The advised one of `ORDINARY` minus each cheaper one."""
    detectable: float
    """The difference in points between the leader and the advised arm that would be found with 80 %
    power at the spread measured, or NaN where there is none to measure."""

    @property
    def decided(self) -> bool:
        """Whether the advice was found to be better than all that is cheaper."""
        ahead = [over.low > 0 for over in self.ahead.values()]
        return self.found or (all(ahead) and ahead != [])


def choose(right: dict[str, np.ndarray]) -> Choice:
    """The choice from what each arm named rightly (seeds x validation images, 0 or 100).

    The best of `OTHERS`, or the pretrained network, is advised if its differences to all of
    `ORDINARY`, paired by seed and image, have intervals above 0 (`stats.crossed`), at a level
    corrected for having picked the best of several (Bonferroni). Otherwise the cheapest of
    `ORDINARY` is advised whose mean is at most `MARGIN` below their best.
    """
    means = {arm: round(float(values.mean()), 9) for arm, values in right.items()}
    others = tuple(arm for arm in (*OTHERS, FINETUNED) if arm in means)
    leader = max(others, key=lambda arm: means[arm])
    level = 1 - (1 - LEVEL) / len(others)
    over = {of: estimated(right[leader] - right[of], level) for of in ORDINARY}
    found = all(each.low > 0 for each in over.values())
    best = max(means[arm] for arm in ORDINARY)
    cheapest = next(arm for arm in ORDINARY if means[arm] >= best - MARGIN)
    cheaper = ORDINARY[: ORDINARY.index(cheapest)]
    return Choice(
        method=leader if found else cheapest,
        leader=leader,
        others=others,
        found=found,
        over=over,
        ahead={of: estimated(right[cheapest] - right[of]) for of in cheaper},
        detectable=detectable(*crossed_error(right[leader] - right[cheapest]), level),
    )


def estimated(values: np.ndarray, level: float = LEVEL) -> Estimate:
    """`stats.crossed`, with NaN for the interval of fewer than `LEAST_SEEDS` seeds and of seeds
    that agree: a few may do so by chance, and no spread is no evidence."""
    found = crossed(values, level)
    agree = np.ptp(values.mean(1)) < 1e-9
    if found.n >= LEAST_SEEDS and not agree:
        return found
    return dataclasses.replace(found, low=math.nan, high=math.nan, p=math.nan)


def detectable(error: float, freedom: float, level: float) -> float:
    """The difference that a t-test at 1 - `level` sees with power 80 %, with a standard error and
    its degrees of freedom (`stats.crossed_error`); NaN where they are."""
    if math.isnan(error):
        return math.nan
    critical = stats.t.ppf((1 + level) / 2, freedom)

    def lacking(shift: float) -> float:
        return POWER - float(stats.nct.sf(critical, freedom, shift))

    # The shift is just above the critical value, and more so where that has few degrees of freedom.
    return optimize.brentq(lacking, 0, 2 * critical + 2) * error


@dataclass(frozen=True)
class Comparison:
    """A finished comparison, as it is stored in `comparison.json`."""

    base: Config
    """The settings that all runs share, but those that are `tuned`."""
    tried: list[float | None]
    """By cell of `CELLS` the accuracy in % on the validation images after one generation; None if
    it did not train."""
    seeds: int
    """The seeds that were asked for."""
    hours: float
    """The time that was given."""
    seconds: float
    """The time that the training took, over all calls."""
    device: str
    scores: pd.DataFrame
    """One row per method (an arm) and seed: validation, test and balanced (accuracies in %; the
    last the mean over the classes that have test images), `validation_right` and `test_right`
    (lists over images of 100 where it was right, else 0), and `predicted` (a list of the labels
    given to the test images)."""
    curves: pd.DataFrame
    """`frames.generations` by method, of the validation images."""

    @property
    def tuned(self) -> dict[str, float]:
        """The settings of the tuned methods; empty: those of `base`."""
        return best(self.tried)

    @property
    def choice(self) -> Choice:
        """The method to use, chosen on the validation images."""
        return choose(self.right("validation"))

    @property
    def done(self) -> int:
        """The seeds that were trained."""
        return self.scores["seed"].nunique()

    @property
    def arms(self) -> list[str]:
        """What was compared, the simplest first."""
        return self.scores["method"].drop_duplicates().tolist()

    def right(self, pool: str) -> dict[str, np.ndarray]:
        """By arm, what it names rightly of `validation` or `test`: seeds x images, 0 or 100."""
        by_arm = self.scores.groupby("method", sort=False)[f"{pool}_right"]
        return {arm: np.array(rows.tolist(), dtype=float) for arm, rows in by_arm}

    def config(self, arm: str, seed: int = 0) -> Config:
        """The run of an arm and seed."""
        return configured(self.base, self.tuned, arm, seed)

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


def configured(base: Config, tuned: dict[str, float], arm: str, seed: int) -> Config:
    """The run of an arm, with the settings `tuned` if it is a tuned one, and with TrivialAugment on
    top of the augmentation of `base` if it has that; or that of the pretrained network."""
    if arm == FINETUNED:
        return dataclasses.replace(base, method="plain", seed=seed, **SETTINGS)
    settings = parse_arm(arm)
    if settings.pop("tuned", False):
        settings |= tuned
    if "augment" in settings:
        settings["augment"] = DISTORTED[base.augment]
    return dataclasses.replace(base, seed=seed, **settings)


def refuse(hours: float, seeds: int) -> None:
    """Raises `UserError` for a time or a number of seeds with which nothing can be compared."""
    if not (math.isfinite(hours) and hours > 0):
        raise UserError(f"hours={hours!r} must be a number greater than 0")
    if seeds < LEAST_SEEDS:
        raise UserError(f"seeds={seeds!r} must be at least {LEAST_SEEDS}: fewer say nothing")


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
    """Compares `ARMS` and a pretrained network on a dataset in about the time given, and writes
    `comparison.json` into the folder `output`.

    What is on disk is read, and the time that it took counts: called again, it goes on where it
    was. `settings` change the dataset's recipe. Raises `UserError` for bad arguments, for a folder
    that cannot be written to, and for a dataset without one of its three pools.
    """
    refuse(hours, seeds)
    base = configure(name, pool="tuning", **(settings or {}))
    if base.augment not in DISTORTED:
        raise UserError(not_one_of("augment", base.augment, DISTORTED))
    name = base.dataset
    missing = [pool for pool in ("train", "tuning", "test") if not len(read(name).get(pool, ()))]
    if missing:
        raise UserError(f"{name} has no images in the pools {', '.join(missing)}; all are needed")
    try:
        output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {output} ({error.strerror}); name a folder: --output"
        ) from None
    images = dataset(name).fingerprint
    there = dataset(name).channels == 3 and pretrained_file(SETTINGS["model"]).exists()
    arms = [*ARMS, FINETUNED] if there else ARMS
    at_once = min(processes(workers, device)[0], len(arms))
    how = {"published": False, "workers": workers, "device": device}
    start, earlier = time.monotonic(), _recorded(tuning_runs(base)) / at_once
    tried = _tried(base, how)
    tuned = best(tried)
    runs: dict[tuple[str, int], Run] = {}
    before = earlier + time.monotonic() - start
    for seed in range(seeds):
        configs = [configured(base, tuned, arm, seed) for arm in arms]
        used = earlier + time.monotonic() - start
        whole = all(Archive(published=False).find(config) for config in configs)
        expected = before + (used - before) * (seed + 1) / max(seed, 1)
        if seed and not whole and expected > 3600 * hours:
            print(
                f"the time is up: {seed} of {seeds} seeds are done; the same command with "
                f"--hours {math.ceil(expected / 360) / 10} adds another"
            )
            break
        print(f"seed {seed + 1} of {seeds}; {timedelta(seconds=round(used))} used", flush=True)
        earlier += _recorded(configs) / at_once
        of_seed = study(configs, **how)
        runs |= {(arm, seed): run for arm, run in zip(arms, of_seed, strict=True)}
    seconds = earlier + time.monotonic() - start
    if dataset(name).fingerprint != images:
        raise UserError(f"the images of {name} changed during the comparison; compare again")
    curves = pd.concat(generations([run]).assign(method=arm) for (arm, _), run in runs.items())
    comparison = Comparison(
        base=base,
        tried=tried,
        seeds=seeds,
        hours=hours,
        seconds=seconds,
        device=runs[ARMS[0], 0].records[0]["provenance"]["processor"],
        scores=_scores(runs, device),
        curves=curves[["method", "seed", "generation", "epochs", "test_accuracy"]],
    )
    save(output, comparison)
    return comparison


def tuning_runs(base: Config) -> list[Config]:
    """One short training per cell of the grid."""
    return [dataclasses.replace(base, method="plain", seed=TUNING_SEED, **cell) for cell in CELLS]


def _tried(base: Config, how: dict[str, Any]) -> list[float | None]:
    """`Comparison.tried`; raises `UserError` if no cell trains."""
    configs = tuning_runs(base)
    print(f"weight decay and learning rate: {len(configs)} short trainings", flush=True)
    try:
        study(configs, **how)
    except StudyFailed as error:
        print(f"left out: {error}")
    found = [Archive(published=False).find(config) for config in configs]
    if not any(found):
        raise UserError("the network trained with none of the settings; the reasons stand above")
    return [run.last["result"]["test_accuracy"] if run else None for run in found]


def best(tried: list[float | None]) -> dict[str, float]:
    """The cell of the grid with the highest accuracy, of equal ones the first."""
    return CELLS[tried.index(max(of for of in tried if of is not None))]


def _recorded(configs: Sequence[Config]) -> float:
    """Seconds of work on what is on disk of these runs, by its records."""
    store = Store()
    wanted = {entry.key: entry for config in configs for entry in entries(config)}
    found = [store.read(entry) for entry in wanted.values()]
    return sum(sum(record["timing"]["parts"].values()) for record in found if record)


def _scores(runs: dict[tuple[str, int], Run], device: str) -> pd.DataFrame:
    """`Comparison.scores` of these runs, from their weights on disk; raises `DamagedFile`."""
    rows = []
    for (arm, seed), of in tqdm(runs.items(), unit="network", desc="testing"):
        config, row = of.config, {"method": arm, "seed": seed}
        about, pools = dataset(config.dataset), read(config.dataset)
        with arithmetic(config.threads):
            model = finished(config, device).model
            for name, pool in (("validation", "tuning"), ("test", "test")):
                data = Data(about, pools[pool], pools[pool])
                predicted = Predictions().result(model, data, config)["predicted"]
                right = 100 * (np.array(predicted) == pools[pool].labels.numpy())
                row |= {name: float(right.mean()), f"{name}_right": right.tolist()}
        balanced = recalls(pools["test"].labels.numpy(), np.array(predicted))
        rows.append(row | {"balanced": float(np.mean(balanced)), "predicted": predicted})
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
    if "tried" not in stored:
        raise UserError(f"{path} is of an earlier version; compare again")
    base = Config(**stored["base"])
    if dataset(base.dataset).fingerprint != stored["images"]:
        raise UserError(
            f"the images of {base.dataset} have changed since {path} was made; compare again"
        )
    scores, curves = (pd.DataFrame(stored[name]) for name in ("scores", "curves"))
    kept = {name: stored[name] for name in ("tried", "seeds", "hours", "seconds", "device")}
    return Comparison(base=base, scores=scores, curves=curves, **kept)
