"""Which method for these images? A comparison planned to the time there is, and its answer.

The design is fixed before anything is trained and depends on time alone. Methods are chosen on the
validation pool (`tuning`); the test pool is looked at once, after the choice.
"""

import dataclasses
import heapq
import math
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from scipy import optimize, stats
from tqdm.auto import tqdm

from .. import UserError, methods, records, train
from ..config import RESULTS_VERSION, Config, digest
from ..datasets.augment import evaluation_batches
from ..datasets.catalogue import dataset, read
from ..datasets.catalogue import load as load_images
from ..datasets.splits import Data
from ..evaluate.evaluations import recalls
from ..frames import generations
from ..recipes import configure
from ..run import Walk, chain, finished, parent_digests, threads
from ..stats import LEVEL, POWER, Estimate, estimate
from ..store import Store
from ..study import Archive, Run, study

METHODS = ("plain", "long", "tune", "llf", "ke", "dnr")
"""What is compared, the simplest first: where means are equal the simpler one is advised."""

SIMPLE = ("plain", "long")
"""Ordinary training, at the budget of one generation and of all."""

EPOCHS = (200, 160, 120, 100, 80, 60, 50, 40, 30, 20, 15, 10)
LADDER = (
    *((5, 10, 100), (5, 5, 50), (5, 3, 30)),
    *((4, 3, 30), (3, 3, 30)),
    *((5, 3, 10), (4, 3, 10), (3, 3, 10)),
)
"""Seeds, generations and least epochs per generation, the best first: more generations only where
each is long enough to learn, and five seeds unless they would cost that."""

DESIGNS = tuple(
    dict.fromkeys(
        (seeds, many, epochs)
        for seeds, many, least in LADDER
        for epochs in EPOCHS
        if epochs >= least
    )
)
"""Designs as (seeds, generations, epochs per generation); the first that fits is taken."""

LEAST_SEEDS = 3
RESERVE = 0.15
"""Share of the time that is kept for the evaluation, the report, and errors of the estimate."""

TRIAL_IMAGES = 256
"""Training images, at most, that one epoch is timed on; larger datasets are extrapolated."""


# --------------------------------------------------------------------------------------------------
# The plan


@dataclass(frozen=True)
class Speed:
    """What was measured before planning."""

    workers: int
    """Processes at once."""
    epoch: float
    """Seconds that a training epoch takes while as many processes train."""
    generation: float
    """Seconds of a generation beside its epochs: reading, evaluating, the mask, writing."""


@dataclass(frozen=True)
class Plan:
    """The design of a comparison, settled before anything is trained."""

    seeds: int
    generations: int
    epochs: int
    """Per generation."""
    block: int
    """Seeds that are trained together."""
    speed: Speed
    seconds: float
    """Estimated time of all trainings."""

    def configs(self, base: Config, seeds: Iterable[int]) -> list[Config]:
        """The runs of some seeds: every method, seeds outermost. `base` is the dataset's recipe."""
        return [
            dataclasses.replace(
                base,
                method=method,
                seed=seed,
                generations=self.generations,
                epochs=self.epochs,
                # The recipe's warm-up is meant for its own, longer generations.
                warmup=min(base.warmup, self.epochs // 10),
            )
            for seed in seeds
            for method in METHODS
        ]

    def blocks(self) -> list[range]:
        """The seeds that are trained together, block by block."""
        starts = range(0, self.seeds, self.block)
        return [range(start, min(start + self.block, self.seeds)) for start in starts]


def plan(
    base: Config,
    speed: Speed,
    budget: float,
    spent: float = 0.0,
    seeds: int | None = None,
    designs: Sequence[tuple[int, int, int]] = DESIGNS,
) -> Plan:
    """The first design that fits into `budget` seconds, of which `spent` are over.

    All methods but plain training train `generations` times `epochs` epochs; the first generation
    that they share is counted once. `seeds` overrules those of the designs. Raises `UserError` that
    says how many hours are needed at least.
    """
    usable = (budget - spent) * (1 - RESERVE)
    smallest = math.inf
    for number, many, epochs in dict.fromkeys((seeds or s, many, e) for s, many, e in designs):
        planned = _planned(base, speed, number, many, epochs)
        if planned.seconds <= usable:
            return planned
        smallest = min(smallest, planned.seconds)
    needed = math.ceil((smallest / (1 - RESERVE) + spent) / 360 + 1e-9) / 10
    raise UserError(
        f"{budget / 3600:.3g} hours are too few for a fair comparison of {len(METHODS)} methods "
        f"here: an epoch takes {speed.epoch:.3g} s with {speed.workers} at once; give at least "
        f"--hours {needed:.1f}, or smaller images (--size), or use a GPU"
    )


def _planned(base: Config, speed: Speed, seeds: int, many: int, epochs: int) -> Plan:
    """The plan of a design, with the fewest seeds per block that waste next to no time: a
    comparison can stop after each block."""
    sizes = [Plan(seeds, many, epochs, block, speed, 0.0) for block in range(1, seeds + 1)]
    timed = [
        dataclasses.replace(
            sized,
            seconds=sum(duration(sized.configs(base, block), speed) for block in sized.blocks()),
        )
        for sized in sizes
    ]
    fastest = min(planned.seconds for planned in timed)
    return next(planned for planned in timed if planned.seconds <= 1.05 * fastest)


def duration(configs: Sequence[Config], speed: Speed) -> float:
    """Seconds in which `study` trains the configs from nothing: first generations that several runs
    of a seed share, each once, then what is left of every run, by the process that is free."""

    def cost(config: Config, stages: Iterable[methods.Generation]) -> float:
        return sum(stage.length(config) * speed.epoch + speed.generation for stage in stages)

    stages = {config: methods.plan(config) for config in configs}
    counts = Counter((config.seed, first) for config, (first, *_) in stages.items())
    shared, rest = {}, []
    for config, (first, *others) in stages.items():
        if counts[config.seed, first] > 1:
            shared[config.seed, first] = cost(config, [first])
            rest.append(cost(config, others))
        else:
            rest.append(cost(config, [first, *others]))
    return _makespan(shared.values(), speed.workers) + _makespan(rest, speed.workers)


def _makespan(tasks: Iterable[float], workers: int) -> float:
    ends = [0.0] * workers
    for seconds in tasks:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


# --------------------------------------------------------------------------------------------------
# Measuring


def measure(base: Config, device: str = "auto", workers: int = 0) -> Speed:
    """Trains for a moment, warm, with as many processes at once as pay, and times it.

    On a CPU that is one process per core; on a GPU their number is doubled as long as the epochs
    per second grow by a tenth and the memory holds. `workers` fixes it. Nothing of it is kept.
    """
    where = train.device_named(device)
    cores = os.cpu_count() or 1
    if workers:
        tried = [workers]
    elif where.type == "cpu":
        tried = [cores]
    else:
        tried = [2**power for power in range(10) if 2**power <= min(cores, 16)]
    best: Speed | None = None
    for number in tried:
        try:
            found = _timed(base, device, number)
        except (torch.OutOfMemoryError, TerminatedWorkerError) as error:
            if best is not None:
                break
            raise UserError(
                f"the memory does not hold {number} trainings at once of {base.dataset!r}; use "
                "fewer --workers or smaller images (--size)"
            ) from error
        if best is not None and found.workers / found.epoch < 1.1 * best.workers / best.epoch:
            break
        best = found
        if where.type == "cuda" and not _room(base, where, 2 * number):
            break
    return best


def _timed(base: Config, device: str, workers: int) -> Speed:
    """The speed with so many processes, from a short run of two generations in each."""
    trial = dataclasses.replace(base, method="dnr", generations=2, epochs=1, warmup=0)
    whole = len(load_images(base).train)
    scale = whole / min(whole, TRIAL_IMAGES)

    def at_once(epochs: int) -> tuple[float, float]:
        configs = [dataclasses.replace(trial, seed=s, epochs=epochs) for s in range(workers)]
        found = Parallel(n_jobs=workers)(delayed(_trial)(config, device) for config in configs)
        return tuple(statistics.median(values) for values in zip(*found, strict=True))

    epoch, generation = at_once(1)
    if epoch < 1:
        # Too short to be sure of, and the first time a process trains it also warms up.
        epoch, generation = at_once(min(100, math.ceil(1 / epoch)))
    # Every generation also looks at all training images once, which costs a third of learning them.
    return Speed(workers, epoch * scale, generation + epoch * (scale - 1) / 3)


def _trial(config: Config, device: str) -> tuple[float, float]:
    """Seconds per epoch of a second generation, and per generation beside its epochs, on some of
    the training images: evenly spaced ones, which are of every class as many as there are."""
    where = train.device_named(device)
    with tempfile.TemporaryDirectory() as folder, threads(config.threads):
        start = time.perf_counter()
        walk = Walk(config, Store(Path(folder)), where)
        data = load_images(config)
        some = data.train[torch.linspace(0, len(data.train) - 1, TRIAL_IMAGES).long().unique()]
        walk.trainee.data = Data(data.dataset, some, data.evaluation).to(where)
        found = [walk.generation(0, []), walk.mask(0)]
        found.append(walk.generation(1, parent_digests(found)))
        passed = time.perf_counter() - start
    if torch.cuda.is_available():
        # Idle processes must not keep memory from those that are tried next.
        del walk
        torch.cuda.empty_cache()
    seconds = [r["timing"]["seconds"] for r in found if r["kind"] == "generation"]
    return seconds[-1] / config.epochs, max(0.0, passed - sum(seconds)) / len(seconds)


def _room(base: Config, where: torch.device, workers: int) -> bool:
    """Whether a GPU has room for the images of so many processes beside what they need to train:
    every process holds its own copy of the training and validation images there."""
    pools = read(base.dataset)
    images = sum(pools[pool].images.numel() for pool in ("train", "tuning"))
    free, _ = torch.cuda.mem_get_info(where)
    return workers * (images + 3 * 2**30) < 0.8 * free


# --------------------------------------------------------------------------------------------------
# The choice


@dataclass(frozen=True)
class Choice:
    """What the validation images say."""

    method: str
    """The method that is advised."""
    best: str
    """The method of the highest mean, which may be better by chance."""
    found: bool
    """Whether a difference was found: `best` against ordinary training of both lengths."""
    leader: str
    """The best of the methods that are not ordinary training."""
    over_long: Estimate
    """`leader` minus `long`, paired by seed; the interval is corrected for `compared` methods."""
    over_plain: Estimate
    """`leader` minus `plain`, in the same way."""
    longer: Estimate
    """`long` minus `plain`, paired by seed."""
    compared: int
    """Methods of which the leader was picked."""
    detectable: float
    """The difference in points that a comparison of this size sees with 80 % power at the spread
    measured, or NaN where there is none to measure."""


def choose(scores: pd.DataFrame) -> Choice:
    """The choice from a frame with columns method, seed and `validation` (accuracy in %).

    The method of the highest mean is advised if its paired differences to both `long` and `plain`
    have intervals above 0, at a level corrected for having picked the best of several (Bonferroni).
    Otherwise no difference was found, and ordinary training is advised, of the length with the
    higher mean: that is a setting like any other, of which nothing is claimed. The spread for
    `detectable` is the root mean square over all methods compared with `long`.
    """
    wide = scores.pivot(index="seed", columns="method", values="validation").dropna()
    means = wide.mean().round(9)
    best = max(METHODS, key=lambda method: means[method])
    others = [method for method in METHODS if method not in SIMPLE]
    level = 1 - (1 - LEVEL) / len(others)
    leader = max(others, key=lambda method: means[method])
    longer = estimate(wide["long"] - wide["plain"])
    simple = max(SIMPLE, key=lambda method: means[method])
    over_plain, over_long = (estimate(wide[leader] - wide[other], level) for other in SIMPLE)
    found = best == leader and above(over_long) and above(over_plain)
    spreads = [estimate(wide[method] - wide["long"]).sd for method in others]
    return Choice(
        method=best if found else simple,
        best=best,
        found=found,
        leader=leader,
        over_long=over_long,
        over_plain=over_plain,
        longer=longer,
        compared=len(others),
        detectable=detectable(float(np.sqrt(np.mean(np.square(spreads)))), len(wide), level),
    )


def above(difference: Estimate) -> bool:
    """Whether an interval lies above 0."""
    # A few seeds may agree by chance: no spread is no evidence.
    return not math.isnan(difference.p) and difference.low > 0


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


# --------------------------------------------------------------------------------------------------
# The whole of it


@dataclass(frozen=True)
class Comparison:
    """A finished comparison, as it is stored in `comparison.json`."""

    base: Config
    plan: Plan
    hours: float
    """The time that was given."""
    seconds: float
    """The time that was used, over all calls."""
    done: int
    """Seeds that were trained, of `plan.seeds`."""
    device: str
    scores: pd.DataFrame
    """One row per method and seed: validation, test and balanced (accuracies in %)."""
    curves: pd.DataFrame
    """`frames.generations` by method, of the validation images."""
    predictions: dict[tuple[str, int], np.ndarray]
    """By method and seed: predicted labels of the test images, in their order."""
    demonstration: bool = False

    @property
    def choice(self) -> Choice:
        return choose(self.scores)

    def config(self, method: str, seed: int = 0) -> Config:
        """The run of a method and seed."""
        return next(c for c in self.plan.configs(self.base, [seed]) if c.method == method)

    def named(self) -> pd.DataFrame:
        """What the networks of the advised method see in the test images, one row per seed and
        image: seed, image (its number), label and named (class names, as categories)."""
        labels, classes = read(self.base.dataset)["test"].labels, dataset(self.base.dataset).classes
        each = [
            pd.DataFrame(
                {
                    "seed": seed,
                    "image": range(len(labels)),
                    "label": pd.Categorical.from_codes(labels, classes),
                    "named": pd.Categorical.from_codes(predicted, classes),
                }
            )
            for (method, seed), predicted in self.predictions.items()
            if method == self.choice.method
        ]
        return pd.concat(each, ignore_index=True)


def compared(
    name: str,
    output: Path,
    *,
    hours: float = 2.0,
    seeds: int | None = None,
    device: str = "auto",
    workers: int = 0,
    settings: dict[str, Any] | None = None,
    designs: Sequence[tuple[int, int, int]] = DESIGNS,
) -> Comparison:
    """Compares `METHODS` on a dataset in about the time given, and writes `comparison.json` into
    the folder `output`.

    The plan is kept in `plan.json`: called again with the same arguments, it goes on with that plan
    and reads what is trained. A killed call loses at most the generations in training. `settings`
    change the dataset's recipe. Raises `UserError` for bad arguments, a dataset without one of its
    three pools, and too little time.
    """
    start = time.monotonic()
    if not (math.isfinite(hours) and hours > 0):
        raise UserError(f"hours={hours!r} must be a number greater than 0")
    if seeds is not None and seeds < LEAST_SEEDS:
        raise UserError(f"seeds={seeds!r} must be at least {LEAST_SEEDS}: fewer say nothing")
    if workers < 0:
        raise UserError(f"workers={workers} must be at least 0 (0: as many as pay)")
    base = configure(name, pool="tuning", **(settings or {}))
    name = base.dataset
    missing = [pool for pool in ("train", "tuning", "test") if not len(read(name).get(pool, ()))]
    if missing:
        raise UserError(f"{name} has no images in the pools {', '.join(missing)}; all are needed")
    where = train.device_named(device)
    made_for = {
        "images": dataset(name).fingerprint,
        "settings": {"dataset": name} | (settings or {}),
        "hours": hours,
        "seeds": seeds,
        "device": where.type,
        "workers": workers,
        "designs": digest(list(designs)),
        "results": RESULTS_VERSION,
    }
    with records.lock(output):
        path = output / "plan.json"
        planned, before = _stored(path, made_for)
        if planned is None:
            print("measuring how fast this machine trains", flush=True)
            speed = measure(base, device, workers)
            spent = time.monotonic() - start
            planned = plan(base, speed, hours * 3600, spent, seeds, designs)
        _keep(path, made_for, planned, before)
        print(in_words(planned), flush=True)

        def used() -> float:
            seconds = before + time.monotonic() - start
            _keep(path, made_for, planned, seconds)
            return seconds

        try:
            runs = _train(base, planned, device, start + hours * 3600)
        finally:
            used()
        if dataset(name).fingerprint != made_for["images"]:
            raise UserError(f"the images of {name} changed during the comparison; compare again")
        comparison = Comparison(
            base=base,
            plan=planned,
            hours=hours,
            seconds=0.0,
            done=len({run_.config.seed for run_ in runs}),
            device=runs[0].records[0]["provenance"]["processor"],
            **_tested(runs, device),
        )
        comparison = dataclasses.replace(comparison, seconds=used())
        save(output, comparison)
    return comparison


def in_words(planned: Plan) -> str:
    """A plan in one sentence."""
    return (
        f"plan: {len(METHODS)} methods x {planned.seeds} seeds, {planned.generations} generations "
        f"of {planned.epochs} epochs each (plain training: one), on {planned.speed.workers} "
        f"processes at once; an epoch takes {planned.speed.epoch:.2g} s, all of it about "
        f"{time_in_words(planned.seconds)}"
    )


def time_in_words(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _stored(path: Path, made_for: dict[str, Any]) -> tuple[Plan | None, float]:
    """The plan on disk if it was made for these arguments, and the seconds it has used so far."""
    try:
        known = records.read(path)
    except records.DamagedFile:
        raise UserError(
            f"{path} is damaged; delete it to plan anew, what is trained is kept"
        ) from None
    if known is None:
        return None, 0.0
    changed = [name for name in made_for if known["made_for"].get(name) != made_for[name]]
    if changed:
        was = ", ".join(
            f"{name} {known['made_for'].get(name)} -> {made_for[name]}" for name in changed
        )
        print(f"the plan in {path} was made for other arguments ({was}); a new one is made")
        return None, 0.0
    print(f"going on with the plan in {path}")
    return _plan_of(known["plan"]), known["seconds"]


def _plan_of(stored: dict[str, Any]) -> Plan:
    return Plan(**(stored | {"speed": Speed(**stored["speed"])}))


def _keep(path: Path, made_for: dict[str, Any], planned: Plan, seconds: float) -> None:
    records.save(path, {"made_for": made_for, "plan": asdict(planned), "seconds": seconds})


def _train(base: Config, planned: Plan, device: str, deadline: float) -> list[Run]:
    """Trains the plan block by block; stops before a block that would pass the deadline. That
    depends on time alone: nobody has looked at a result."""
    done: list[Run] = []
    pace = 1.0
    for block in planned.blocks():
        configs = planned.configs(base, block)
        if any(Archive(published=False).find(config) is None for config in configs):
            expected = pace * duration(configs, planned.speed)
            if done and time.monotonic() + expected > deadline:
                print(
                    f"the time is up: {block.start} of {planned.seeds} seeds are done; the same "
                    "command adds the others",
                    flush=True,
                )
                break
            left = pace * sum(
                duration(planned.configs(base, later), planned.speed)
                for later in planned.blocks()
                if later.start >= block.start
            )
            print(
                f"seed {' and '.join(str(seed + 1) for seed in block)} of {planned.seeds}; about "
                f"{time_in_words(left)} left in all",
                flush=True,
            )
        start, fresh = time.monotonic(), _fresh(configs)
        done += study(configs, published=False, workers=planned.speed.workers, device=device)
        if fresh:
            pace = (time.monotonic() - start) / duration(configs, planned.speed)
    return done


def _fresh(configs: list[Config]) -> bool:
    """Whether nothing of these runs is on disk, so that their time tells the pace."""
    root = records.runs_root()
    return not any((root / link.key).exists() for c in configs for link in chain(c))


def _tested(runs: list[Run], device: str) -> dict[str, Any]:
    """The scores, curves and predictions of all runs."""
    name = runs[0].config.dataset
    labels = read(name)["test"].labels.numpy()
    rows, predictions = [], {}
    for run_ in tqdm(runs, unit="network", desc="testing"):
        config = run_.config
        predicted = predict(config, device)
        predictions[config.method, config.seed] = predicted
        last = [record for record in run_.records if record["kind"] == "generation"][-1]
        rows.append(
            {
                "method": config.method,
                "seed": config.seed,
                "validation": last["result"]["test_accuracy"],
                "test": 100 * float(np.mean(predicted == labels)),
                "balanced": float(np.mean(recalls(labels, predicted))),
            }
        )
    curves = generations(runs)[["method", "seed", "generation", "epochs", "test_accuracy"]]
    curves = curves.assign(method=curves["method"].str.partition("+")[0])
    return {"scores": pd.DataFrame(rows), "curves": curves, "predictions": predictions}


def predict(config: Config, device: str = "auto") -> np.ndarray:
    """The labels that a finished run gives to the test images, from its weights on disk; raises
    `DamagedFile` if they are not those of its record."""
    model = finished(config, device).model
    images = evaluation_batches(read(config.dataset)["test"], dataset(config.dataset))
    with threads(config.threads):
        found = train.outputs(model, images)
        return torch.cat([logits.argmax(1).cpu() for logits, _ in found]).numpy()


def save(output: Path, comparison: Comparison) -> None:
    """Writes a comparison, whole or not at all."""
    stored = {
        "kind": "comparison",
        "base": vars(comparison.base),
        "images": dataset(comparison.base.dataset).fingerprint,
        "plan": asdict(comparison.plan),
        "hours": comparison.hours,
        "seconds": comparison.seconds,
        "done": comparison.done,
        "device": comparison.device,
        "scores": comparison.scores.to_dict("records"),
        "curves": comparison.curves.to_dict("records"),
        "predictions": [
            [method, seed, labels.tolist()]
            for (method, seed), labels in comparison.predictions.items()
        ],
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
    return Comparison(
        base=base,
        plan=_plan_of(stored["plan"]),
        scores=pd.DataFrame(stored["scores"]),
        curves=pd.DataFrame(stored["curves"]),
        predictions={
            (method, seed): np.array(labels) for method, seed, labels in stored["predictions"]
        },
        **{name: stored[name] for name in ("hours", "seconds", "done", "device")},
    )
