"""What is run: the settings of each dataset, the arms of a study, and their configs."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from . import UserError
from .config import Config, meanings, not_one_of
from .datasets.augment import AUGMENTATIONS
from .datasets.catalogue import dataset as named_dataset
from .datasets.folder import full_name
from .losses import LOSSES
from .masks import SCOPES
from .methods import METHODS, plan
from .models import MODELS, STEMS
from .rules import CRITERIA

# The paper's recipes are DNR section 4, tables and appendix A.12. Settings that it leaves open: of
# the small sets, KE's learning rate (0.1 and 0.256 are given for unnamed sets), warm-up as in KE's
# and LLF's code (D23), the code's crop of 224, generations f1 to f10 (D18); the stem on CIFAR and
# Tiny ImageNet as in the code (D22), whose learning rate is that of CIFAR; of PAPILA, schedule,
# weight decay and augmentation as for the small sets, no warm-up, no smoothing. Metric learning has
# KE's batches and a tenth of the learning rate, as KE.

_SMALL = {
    "model": "resnet18",
    "width": 64,
    "stem": "7x7",
    "per_class": 0,
    "augment": "resized-crop",
    "epochs": 200,
    "generations": 10,
    "batch": 32,
    "lr": 0.256,
    "schedule": "cosine",
    "warmup": 5,
    "weight_decay": 1e-4,
    "smoothing": 0.1,
}
_CIFAR = _SMALL | {
    "model": "resnet50",
    "stem": "3x3",
    "augment": "crop-flip",
    "epochs": 160,
    "batch": 64,
    "lr": 0.1,
    "schedule": "step",
    "warmup": 0,
    "weight_decay": 5e-4,
}
_FLOWER_64 = _SMALL | {
    "width": 16,
    "augment": "crop-flip",
    "epochs": 40,
    "generations": 5,
    "warmup": 0,
}
_CIFAR_FEW = _FLOWER_64 | {"stem": "3x3", "per_class": 50, "epochs": 50, "lr": 0.03}
_METRIC = {"loss": "triplet", "batch": 125, "lr": 0.0256}
_METRIC_50 = _SMALL | _METRIC | {"model": "resnet50"}
_TINY = _CIFAR | {"stem": "7x7", "batch": 32, "warmup": 20}
_PAPILA = _SMALL | {
    "model": "resnet50",
    "generations": 3,
    "lr": 0.001,
    "warmup": 0,
    "smoothing": 0.0,
}
_HARD: dict[str, Any] = {"per_class": 20, "epochs": 20}
_ALL: dict[str, Any] = {"per_class": 0}

RECIPES: dict[str, dict[str, Any]] = {
    "flower102": _SMALL,
    "flower102-64": _FLOWER_64,
    "cub200": _SMALL,
    "aircraft": _SMALL,
    "mit67": _SMALL,
    "dogs": _SMALL,
    "cifar10": _CIFAR,
    "cifar10-few": _CIFAR_FEW,
    "cifar100": _CIFAR,
    "tinyimagenet": _TINY,
    "papila": _PAPILA,
    "cars196": _SMALL,
    "cifar10-imbalanced": _CIFAR,
    "cifar10-few-imbalanced": _CIFAR_FEW | {"per_class": 0},
    "papila-binary": _PAPILA,
    "cub200-metric": _METRIC_50,
    "cars196-metric": _METRIC_50,
    "flower102-64-metric": _FLOWER_64 | _METRIC | {"per_class": 10},
    "digits": {},
    "digits-32": {},
    "digits-hard": _HARD,
    "digits-hard-32": _HARD,
    "digits-colour": {"lr": 0.2, "epochs": 20, "generations": 5},
    "digits-imbalanced": _ALL,
    "digits-binary": _ALL | {"generations": 3},
    "digits-metric": _METRIC | {"per_class": 20, "batch": 25},
}
"""Settings per dataset that differ from the defaults of `Config`, which are those of `digits`."""

PHOTOGRAPHS = ("flower102-64", "cifar10-few", "cifar10-few-imbalanced", "flower102-64-metric")
"""Real photographs of the paper's datasets, with fewer pixels or images and a narrow network, so
that a CPU can train on them."""
OF_THE_PAPERS = tuple(
    name for name in RECIPES if not name.startswith("digits") and name not in PHOTOGRAPHS
)
"""The papers' datasets, whose recipe is the paper's; the digits named here are bundled."""


def scope(dataset: str) -> str:
    """The group of a dataset: `full` (the paper's own setting), `photographs`, or
    `embedded` (the digits, and folders of the user's own images)."""
    if dataset in OF_THE_PAPERS:
        return "full"
    return "photographs" if dataset in PHOTOGRAPHS else "embedded"


# Of a folder of the user's own images, by their size. Our choice: the paper's setting for
# photographs, a narrow network for what a CPU can train.
_UP_TO_64 = {"per_class": 0, "augment": "crop-flip", "width": 16, "generations": 5, "epochs": 40}
_LARGER = _SMALL | {"generations": 5, "lr": 0.1}


def recipe(dataset: str) -> dict[str, Any]:
    """The settings of a dataset that differ from the defaults of `Config`; raises `UserError` for
    an unknown dataset."""
    if dataset in RECIPES:
        return RECIPES[dataset]
    return _UP_TO_64 if named_dataset(dataset).size <= 64 else _LARGER


TUNED: dict[str, dict[str, dict[str, float]]] = {
    "digits": {
        "plain": {"weight_decay": 0.003, "lr": 0.1},
        "long": {"weight_decay": 0.01, "lr": 0.1},
        "tune": {"weight_decay": 0.03, "lr": 0.03},
        "ke": {"weight_decay": 0.003, "lr": 0.03},
        "llf": {"weight_decay": 0.003, "lr": 0.1},
        "dnr": {"weight_decay": 0.01, "lr": 0.1},
        "ensemble": {"weight_decay": 0.03, "lr": 0.03},
    },
    "flower102-64": {
        "plain": {"weight_decay": 0.005, "lr": 0.1},
        "long": {"weight_decay": 0.02, "lr": 0.03},
        "tune": {"weight_decay": 0.005, "lr": 0.1},
        "ke": {"weight_decay": 0.005, "lr": 0.1},
        "llf": {"weight_decay": 0.005, "lr": 0.03},
        "dnr": {"weight_decay": 0.005, "lr": 0.1},
    },
    "cifar10-few": {
        "plain": {"weight_decay": 0.02, "lr": 0.03},
        "long": {"weight_decay": 0.005, "lr": 0.1},
        "tune": {"weight_decay": 0.005, "lr": 0.1},
        "ke": {"weight_decay": 0.005, "lr": 0.1},
        "llf": {"weight_decay": 0.005, "lr": 0.1},
        "dnr": {"weight_decay": 0.005, "lr": 0.03},
    },
}
"""By dataset and method, the settings of the arm `METHOD+tuned`: learning rate and weight decay
with the highest accuracy on the tuning pool, out of one grid for all methods (`data/tuning`)."""

NAMES = {
    "method": METHODS,
    "model": MODELS,
    "stem": STEMS,
    "augment": AUGMENTATIONS,
    "criterion": CRITERIA,
    "loss": LOSSES,
    "scope": SCOPES,
}
"""The valid values of each setting that is a name of something registered."""
OF_CLASSES = ("ban", "ban-lineage", "ensemble", "dnr-released", "fisher")
"""Methods and criteria that need an output per class; Fisher information is of single images."""
BUDGETS = ("smoke",)


def configure(
    dataset: str, budget: str | None = None, *, tuned: bool = False, **overrides: Any
) -> Config:
    """The `Config` of one run: the dataset's recipe, or with `tuned` what was chosen for the method
    (`TUNED`), cut to the budget, then `overrides`.

    The budget `smoke` is the recipe cut to two generations of two epochs, for trials of seconds.
    Raises `UserError` for unknown names and bad values.
    """
    overrides = {name: value for name, value in overrides.items() if value is not None}
    unknown = overrides.keys() - meanings().keys()
    if unknown:
        raise UserError(
            f"unknown setting {', '.join(sorted(unknown))}; settings: {', '.join(meanings())}"
        )
    if not isinstance(dataset, str):
        raise UserError(f"dataset={dataset!r} is not the name of a dataset")
    if dataset not in RECIPES:
        dataset = full_name(dataset)
    settings = recipe(dataset) | {"dataset": dataset}
    if budget not in (None, *BUDGETS):
        raise UserError(not_one_of("budget", budget, BUDGETS))
    if tuned:
        method, chosen = overrides.get("method", Config.method), TUNED.get(dataset, {})
        if method not in chosen:
            listed = ", ".join(chosen) or "none"
            raise UserError(f"{method} was not tuned on {dataset}; these methods were: {listed}")
        settings |= chosen[method]
    if budget == "smoke":
        settings |= {"epochs": 2, "generations": 2, "warmup": 0}
    config = Config(**(settings | overrides))
    about = named_dataset(dataset)
    for name, valid in NAMES.items():
        if getattr(config, name) not in valid:
            raise UserError(not_one_of(name, getattr(config, name), valid))
    if about.unseen != bool(LOSSES[config.loss].embedding):
        raise UserError(
            f"loss={config.loss!r} does not fit {dataset!r}: embeddings (loss='triplet') are for "
            "datasets that are measured on unseen classes, such as digits-metric, and only they are"
        )
    if about.unseen and config.noise:
        raise UserError(f"noise is of the labels of all classes, and {dataset!r} trains on some")
    needing = [name for name in (config.method, config.criterion) if name in OF_CLASSES]
    if about.unseen and needing:
        raise UserError(f"{needing[0]} needs an output per class, which {dataset!r} has not")
    return config


def parse_arm(text: str) -> dict[str, Any]:
    """The settings of an arm of a study, for `configure`: METHOD or METHOD+setting=value+..., such
    as `dnr+keep=0.6`, or METHOD+tuned+...; raises `UserError` if it cannot be read."""
    method, *rest = text.strip().split("+")
    types = {spec.name: spec.type for spec in fields(Config)}
    settings: dict[str, Any] = {"method": method}
    for part in rest:
        if part == "tuned":
            settings["tuned"] = True
            continue
        name, _, value = part.partition("=")
        if name not in types or name in ("method", "dataset", "seed"):
            valid = sorted(types.keys() - {"method", "dataset", "seed"})
            raise UserError(
                f"{text!r}: {name!r} is no setting of an arm; METHOD+setting=value, with settings: "
                f"{', '.join(valid)}"
            )
        if name in settings:
            raise UserError(f"{text!r}: {name} is given twice")
        try:
            settings[name] = types[name](value)
        except ValueError:
            raise UserError(
                f"{text!r}: {name}={value!r} is not of type {types[name].__name__}"
            ) from None
    return settings


def arm_of(config: Config) -> str:
    """The arm that a config belongs to: its method, whether it is tuned, and by name what differs
    from the recipe of its dataset (or from that recipe cut to the smoke budget); of the ways to say
    this the one in fewest words."""
    own = config.method in TUNED.get(config.dataset, {})
    ways = []
    for budget, tuned in itertools.product((None, "smoke"), (True, False) if own else (False,)):
        base = configure(
            config.dataset, budget, tuned=tuned, method=config.method, seed=config.seed
        )
        differing = [
            # An arm has a plus sign before every setting, and nowhere else.
            f"{name}={value}".removesuffix(".0").replace("e+", "e")
            for name, value in sorted(vars(config).items())
            if value != getattr(base, name)
        ]
        ways.append([config.method, *["tuned"] * tuned, *differing])
    return "+".join(min(ways, key=len))


MOST_SEEDS = 10_000


def grid(
    dataset: str,
    arms: Iterable[str],
    seeds: int | Sequence[int],
    budget: str | None = None,
    **overrides: Any,
) -> list[Config]:
    """One config per arm and seed (a number n of seeds are 0..n-1), each once, seeds outermost,
    arms in the order given.

    Raises `UserError` for an arm with a setting that its method does not read, and for no seed or
    more than `MOST_SEEDS`.
    """
    number = seeds if isinstance(seeds, int) else len(seeds)
    if not 1 <= number <= MOST_SEEDS:
        raise UserError(f"seeds={number} must be at least 1 and at most {MOST_SEEDS}")
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    parsed = [parse_arm(arm) for arm in arms]
    settings = [overrides | arm for arm in parsed]
    for chosen, arm in zip(settings, parsed, strict=True):
        refuse_idle(configure(dataset, budget, **chosen), arm)
    configs = (
        configure(dataset, budget, seed=seed, **chosen) for seed in seeds for chosen in settings
    )
    return list(dict.fromkeys(configs))


def refuse_idle(config: Config, arm: dict[str, Any]) -> None:
    """Raises `UserError` if a setting of an arm is `idle`."""
    if names := idle(config, arm):
        raise UserError(f"{names[0]}={arm[names[0]]} changes nothing in {config.method}")


def idle(config: Config, arm: dict[str, Any]) -> list[str]:
    """The settings of an arm that leave the plan of its method as it is: with them it would be the
    same method under another name."""
    found = []
    for name in arm.keys() & config.part("plan").keys() - {"method"}:
        default = getattr(configure(config.dataset, method=config.method), name)
        without = dataclasses.replace(config, **{name: default})
        if without != config and plan(without) == plan(config):
            found.append(name)
    return found
