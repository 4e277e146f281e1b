"""Many runs: find them on disk, or train them, in parallel."""

import functools
import itertools
import math
import operator
import shlex
import statistics
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from joblib import cpu_count
from tqdm.auto import tqdm

from . import UserError, parallel, records
from .config import Config
from .datasets.catalogue import dataset, read
from .evaluate.evaluations import Evaluation
from .methods import label
from .models import network, shape
from .paper.exhibits import EXHIBITS, evaluations_of, made_for
from .paper.exhibits import arms as paper_arms
from .recipes import arm_of, configure, idle, parse_arm
from .records import Record
from .run import Link, chain, check_descent, entries, pace, parent_digests, run
from .store import Entry, Store
from .train import device_named


class StudyFailed(UserError):
    """Some runs of a study failed; the others are on disk. The message names each failure."""


@dataclass(frozen=True)
class Run:
    """A finished run: its config, the records of its chain in order and then those of its
    evaluations, and where they are from."""

    config: Config
    records: list[Record]
    source: str
    """`published` or `runs`."""
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def arm(self) -> str:
        """Method and settings that differ from the dataset's recipe, as `recipes.arm_of`."""
        return arm_of(self.config)

    @property
    def trained(self) -> list[Record]:
        """The records of its generations, in order."""
        return [record for record in self.records if record["kind"] == "generation"]

    @property
    def last(self) -> Record:
        """The record of the last generation."""
        return self.trained[-1]


class Archive:
    """The finished runs on disk, published and the user's own; trains nothing."""

    def __init__(self, published: bool = True, own: bool = True, runs: Path | None = None) -> None:
        self.places = [name for name, asked in (("published", published), ("runs", own)) if asked]
        self.store = Store(runs)

    def find(self, config: Config, evaluations: Sequence[Evaluation] = ()) -> Run | None:
        """The run of a config with all of `evaluations`, from the first place that has it whole, or
        None."""
        runs = (self._whole(config, evaluations, place) for place in self.places)
        return next((run for run in runs if run is not None), None)

    def richest(self, config: Config, evaluations: Collection[Evaluation]) -> Run | None:
        """The run of a config with those of `evaluations` that were made of it, from the place
        where there are most: the records of a run must be of the same weights."""
        last = chain(config)[-1]
        made = {
            place: [e for e in evaluations if self._records(config, [last.evaluated(e)], place)]
            for place in self.places
        }
        place = max(made, key=lambda name: len(made[name]))
        return self._whole(config, made[place], place) if made[place] else self.find(config)

    def _whole(self, config: Config, evaluations: Sequence[Evaluation], place: str) -> Run | None:
        """The run with all of the evaluations from one place, or None."""
        wanted = entries(config, evaluations)
        found = self._records(config, wanted, place)
        return Run(config, found, place, tuple(evaluations)) if len(found) == len(wanted) else None

    def _records(self, config: Config, wanted: list[Entry], place: str) -> list[Record]:
        """The records of the entries at a place, up to the first that is missing."""
        own = place == "runs"
        published = {} if own else records.published(config.dataset, config.seed)
        found: list[Record] = []
        for entry in wanted:
            record = self.store.read(entry) if own else published.get(entry.key)
            if record is None:
                break
            if own and entry.kind == "generation":
                check_descent(record, parent_digests(found), self.store.path(entry))
            found.append(record)
        return found


def study(
    configs: Iterable[Config],
    *,
    train: bool = True,
    published: bool = True,
    workers: int = 0,
    device: str = "auto",
    runs: Path | None = None,
    evaluations: Sequence[Evaluation] = (),
) -> list[Run]:
    """The runs of all configs with all of `evaluations`, in order; the missing ones are trained and
    evaluated, or left out.

    With `train`, says how many runs are missing and about how long they take, then trains them on
    `workers` (see `processes`; a GPU can hold several), generations that several runs share first
    and once, under a progress bar. Without, says what is missing and with which command it is run.
    With `published` False only the user's own runs count.

    Raises `StudyFailed` after all others are done if runs failed; `UserError` before any is trained
    for bad arguments and images that are not there, and after it for images that have changed and
    workers that were killed too often.
    """
    configs = list(configs)
    if workers < 0:
        raise UserError(f"workers={workers} must be at least 0 (0: one per core)")
    # Settled here, because workers live on from study to study with the environment they began in.
    runs = runs or records.runs_root()
    archive = Archive(published, runs=runs)
    found = {config: archive.find(config, evaluations) for config in configs}
    missing = [config for config, run in found.items() if run is None]
    if missing and train:
        _train(missing, workers, device, runs, evaluations)
        found |= {config: archive.find(config, evaluations) for config in missing}
        if None in found.values():
            names = ", ".join({config.dataset: None for config in missing})
            raise UserError(
                f"the images of {names} changed while they were trained on; run it again"
            )
    elif missing:
        how = command(missing, evaluations)
        print(f"not run: {len(missing)} of {len(configs)} runs; to run them: {how}")
    else:
        places = Counter(run.source for run in found.values())
        listed = ", ".join(f"{number} {name}" for name, number in places.items())
        print(f"{len(found)} runs on disk, nothing to train ({listed})")
    return [found[config] for config in configs if found[config] is not None]


def command(configs: Iterable[Config], evaluations: Sequence[Evaluation] = ()) -> str:
    """What to type into a shell to train (at least) these configs, and to evaluate them if the
    evaluations are those of exhibits: one command per dataset and budget."""
    seeds: dict[tuple[str, bool], set[int]] = {}
    arms: dict[tuple[str, bool], dict[str, None]] = {}
    for config in configs:
        arm = arm_of(config)
        settings = parse_arm(arm)
        # Arms are named against the recipe, or the recipe cut to the smoke budget.
        smoke = configure(config.dataset, seed=config.seed, **settings) != config
        for name in idle(config, settings):
            arm = "+".join(part for part in arm.split("+") if not part.startswith(f"{name}="))
        group = config.dataset, smoke
        arms.setdefault(group, {})[arm] = None
        seeds.setdefault(group, set()).add(config.seed)
    commands = []
    for (of, smoke), chosen in arms.items():
        words = ["dnr", "study", "--dataset", of]
        words += ["--budget", "smoke"] if smoke else []
        words += _chosen(of, list(chosen), set(evaluations))
        commands.append(shlex.join(words + _seeds(seeds[of, smoke])))
    return " &&\n  ".join(commands)


def _seeds(seeds: set[int]) -> list[str]:
    """The options that name these seeds."""
    if seeds == {*range(len(seeds))}:
        return ["--seeds", str(len(seeds))]
    words = []
    # Seeds that follow each other have the same distance to their places.
    for _, part in itertools.groupby(enumerate(sorted(seeds)), lambda pair: pair[1] - pair[0]):
        row = [seed for _, seed in part]
        words += ["--seed", f"{row[0]}-{row[-1]}" if len(row) > 1 else str(row[0])]
    return words


def _chosen(dataset: str, arms: list[str], evaluations: set[Evaluation]) -> list[str]:
    """The options that name these arms and evaluations."""
    measured = {name: set(evaluations_of(name, dataset)) for name in EXHIBITS}
    # One word for many arms, if they are those of an exhibit.
    exhibits = sorted(EXHIBITS, key=lambda name: name not in made_for(dataset))
    for name in exhibits if evaluations or len(arms) > 3 else ():
        if measured[name] == evaluations and set(arms) == set(paper_arms(name, dataset)):
            return ["--exhibit", name]
    words = [word for arm in arms for word in ("--method", arm)]
    exhibits.sort(key=lambda name: measured[name] != evaluations)
    for name in exhibits:
        if measured[name] & evaluations:
            words += ["--evaluate", name]
            evaluations = evaluations - measured[name]
    return words


# --------------------------------------------------------------------------------------------------
# Training what is missing


def missing_links(configs: Iterable[Config], store: Store) -> dict[str, tuple[Config, Link]]:
    """By key, the generations of these runs that are not on disk; those that runs share once."""
    links = {link.key: (config, link) for config in configs for link in chain(config)}
    return {
        key: (config, link)
        for key, (config, link) in links.items()
        if any(store.read(entry) is None for entry in link.entries)
    }


def _alike(todo: Iterable[tuple[Config, Link]]) -> dict[tuple, tuple[Config, int]]:
    """Of generations to train, those whose epochs take as long: one of their configs, and their
    epochs in all."""
    found: dict[tuple, tuple[Config, int]] = {}
    for config, link in todo:
        kind = (config.dataset, *(getattr(config, name) for name in ALIKE))
        first, epochs = found.get(kind, (config, 0))
        found[kind] = first, epochs + link.stage.length(config)
    return found


def planned(
    configs: Iterable[Config], runs: Path | None = None, device: str = "auto"
) -> pd.DataFrame:
    """What there is to train for these runs, a row per seed, which share nothing: dataset, seed;
    runs, generations and epochs that are missing; `shared`, the trainings that are saved because
    several of the runs have the same generation; `hours` on one worker; `megabytes` of weights
    and masks; and `timed`, by what the hours are known: `published` records made on this kind of
    `device`, a few steps `here`, or nothing, without the images (NaN hours)."""
    rows, configs = [], list(configs)
    paces: dict[tuple, tuple[float, str]] = {}
    by = operator.attrgetter("dataset", "seed")
    for (of, seed), group in itertools.groupby(sorted(configs, key=by), by):
        own = list(group)
        todo = missing_links(own, Store(runs)).values()
        alike = _alike(todo)
        for kind, (config, _) in alike.items():
            paces[kind] = paces.get(kind) or _pace(config, device)
        missing = [c for c in own if Archive(published=False, runs=runs).find(c) is None]
        every = [link.key for config in own for link in chain(config)]
        rows.append(
            {
                "dataset": of,
                "seed": seed,
                "runs": len(missing),
                "generations": len(todo),
                "shared": len(every) - len(set(every)),
                "epochs": sum(number for _, number in alike.values()),
                "hours": sum(paces[kind][0] * n for kind, (_, n) in alike.items()) / 3600,
                "megabytes": sum(_bytes(c.model, *shape(c)) for c, _ in todo) / 1e6,
                "timed": ", ".join(sorted({paces[kind][1] for kind in alike} - {""})),
            }
        )
    return pd.DataFrame(rows)


def _pace(config: Config, device: str) -> tuple[float, str]:
    """Seconds per epoch of a run, and by what they are known."""
    if (seconds := seconds_per_epoch(config, device)) is not None:
        return seconds, "published"
    try:
        return pace(config, device), "here"
    except UserError:
        return math.nan, ""


@functools.cache
def _bytes(*made_of: Any) -> float:
    """What a generation of a `models.network` leaves on disk: its weights, and a bit for each."""
    with torch.device("meta"):
        state = network(*made_of).state_dict()
    numbers = sum(value.numel() for value in state.values())
    return numbers * (4 + 1 / 8)


def _train(
    configs: list[Config],
    workers: int,
    device: str,
    runs: Path,
    evaluations: Sequence[Evaluation],
) -> None:
    """Trains and evaluates what is missing of these runs, under a progress bar, and says before
    about how long that takes, if published records tell: to try it out would delay what is short.
    Raises `StudyFailed`."""
    for name in {config.dataset for config in configs}:
        read(name)  # One error here, instead of one per run, if its images are not on this machine.
        for each in evaluations:
            each.check(dataset(name))
    workers, devices = processes(workers, device)
    workers, store = min(workers, len(configs)), Store(runs)
    todo = missing_links(configs, store)
    alike = _alike(todo.values()).values()
    epochs = sum(number for _, number in alike)
    paces = [seconds_per_epoch(config, device) for config, _ in alike]
    duration = "no published runs tell how long"
    if None not in paces:
        seconds = sum(pace * number for pace, (_, number) in zip(paces, alike, strict=True))
        duration = f"about {_duration(seconds / workers)}"
    then = ", then the evaluations" if evaluations else ""
    print(
        f"{len(configs)} runs to train: {len(todo)} generations, {epochs} epochs, "
        f"on {workers} workers; {duration}{then}"
        if todo
        else f"{len(configs)} trained networks to evaluate, on {workers} workers",
        flush=True,
    )
    # A first generation that several runs share is one task; its run then goes on from there.
    first = Counter(chain(config)[0].key for config in configs)
    shared = {chain(c)[0].key: c for c in configs if first[chain(c)[0].key] > 1}
    failures: dict[str, str] = {}
    # In the log of a job once a minute, in a terminal every second, also while no epoch ends; the
    # time that is left is said by the mean of all epochs so far.
    shown = {"smoothing": 0, "miniters": 0, "mininterval": 0.1 if sys.stderr.isatty() else 60}
    with (
        tqdm(total=epochs, unit="epoch", desc="training", **shown) as bar,
        _watching(bar, store, todo),
    ):
        for phase, first_only in ((list(shared.values()), True), (configs, False)):
            if not phase:
                continue
            calls = [(config, runs, devices, first_only, evaluations) for config in phase]
            said = f"/{len(phase)} {'shared beginnings' if first_only else 'runs'} done"
            bar.set_postfix_str(f"0{said}")
            done = parallel.finished(_attempt, calls, workers)
            for number, (config, error) in enumerate(done, 1):
                bar.set_postfix_str(f"{number}{said}, last: {label(config.method)}")
                if error is not None:
                    failures[f"{config.dataset} {arm_of(config)} seed {config.seed}"] = error
    if failures:
        listed = "\n".join(f"  {name}: {error}" for name, error in failures.items())
        raise StudyFailed(f"{len(failures)} of {len(configs)} runs failed:\n{listed}")


@contextmanager
def _watching(bar: tqdm, store: Store, todo: dict[str, tuple[Config, Link]]) -> Iterator[None]:
    """Moves a bar by every epoch that is done, whichever process trains; never back, also where a
    generation is begun anew."""
    ended, of_ended = threading.Event(), 0

    def look() -> None:
        nonlocal of_ended
        done = [key for key, (_, link) in todo.items() if store.path(link.trained).exists()]
        of_ended += sum(link.stage.length(config) for config, link in map(todo.pop, done))
        under_way = sum(store.epochs(link.trained) for _, link in todo.values())
        bar.update(max(0, of_ended + under_way - bar.n))

    def watch() -> None:
        while not ended.wait(1):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        look()


def processes(workers: int, device: str) -> tuple[int, list[str]]:
    """How many processes train at once, and the devices that they take in turn: every GPU that is
    visible, unless one is named. Of 0 workers it becomes one per core, or one per GPU."""
    on = device_named(device)
    # Settled here: workers live on with the environment that they began in.
    devices = [str(on)]
    if on.type == "cuda" and on.index is None:
        devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return workers or (cpu_count() if on.type == "cpu" else len(devices)), devices


def _own(devices: list[str]) -> str:
    """The device of this process: joblib numbers its workers, which take the devices in turn."""
    number = current_process().name.rpartition("-")[2]
    return devices[int(number) % len(devices)] if number.isdecimal() else devices[0]


def _attempt(
    config: Config,
    runs: Path,
    devices: list[str],
    first_only: bool,
    evaluations: Sequence[Evaluation],
) -> tuple[Config, str | None]:
    """Runs a config, or only its first generation, on the own one of `devices`; never raises.
    Returns the config, and what went wrong: a line for a `UserError`, the whole traceback for any
    other."""
    try:
        run(config, runs, _own(devices), first_only=first_only, evaluations=evaluations)
    except UserError as error:
        return config, f"{type(error).__name__}: {error}"
    except OSError as error:
        return config, f"{error}; what is finished is kept: mend this, and run it again"
    except Exception:
        return config, traceback.format_exc().rstrip()
    return config, None


ALIKE = ("model", "width", "per_class", "precision")
"""What the time of an epoch depends on most, besides images and device."""


def seconds_per_epoch(config: Config, device: str) -> float | None:
    """Median seconds per training epoch of the dataset's published records that were made on this
    kind of device, with as many images and a network of this kind; or None."""
    part = config.part("root") | config.part("training")
    alike, here = {name: part.get(name) for name in ALIKE}, device_named(device).type
    times = [
        record["timing"]["seconds"] / len(record["result"]["curve"])
        for seed in range(min(records.published_seeds(config.dataset), 3))
        for record in records.published(config.dataset, seed).values()
        if record["kind"] == "generation"
        and record["provenance"]["device"] == here
        and {name: record["config"].get(name) for name in ALIKE} == alike
    ]
    return statistics.median(times) if times else None


def _duration(seconds: float) -> str:
    return "a minute" if seconds < 90 else f"{seconds / 60:.0f} minutes"
