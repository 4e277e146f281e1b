"""Every dataset by name, and the images of a run."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import lru_cache, partial

import torch

from .. import UserError
from ..config import Config, not_one_of
from ..streams import stream
from . import folder, official
from .digits import DATASETS
from .splits import Data, Dataset, Split, fingerprint, held_out, power_law

CIFAR10_COUNTS = power_law(5000, 250, 10)
"""Training images of each class of DNR's imbalanced CIFAR-10 (D48). The released code takes the
first ones of each class; here every seed draws its own."""


def _imbalanced(whole: Dataset, counts: tuple[int, ...]) -> Dataset:
    title = f"CIFAR-10, from {counts[0]} to {counts[-1]} images per class"
    return dataclasses.replace(whole, title=title, counts=counts)


def _without_suspects(whole: Dataset) -> Dataset:
    """PAPILA with two classes, healthy and glaucoma."""
    suspect = whole.classes.index("suspect")

    def certain() -> dict[str, Split]:
        return {name: pool[pool.labels != suspect] for name, pool in whole.pools().items()}

    def patients() -> dict[str, list[str]]:
        pools, groups = whole.pools(), whole.groups()
        return {
            name: list(itertools.compress(whose, pools[name].labels != suspect))
            for name, whose in groups.items()
        }

    return dataclasses.replace(
        whole,
        title=f"{whole.title} without suspects",
        classes=tuple(name for name in whole.classes if name != "suspect"),
        pools=certain,
        groups=patients,
    )


VIEWS: dict[str, tuple[str, Callable[[Dataset], Dataset]]] = {
    "cifar10-imbalanced": ("cifar10", partial(_imbalanced, counts=CIFAR10_COUNTS)),
    "cifar10-few-imbalanced": ("cifar10-few", partial(_imbalanced, counts=power_law(200, 10, 10))),
    "papila-binary": ("papila", _without_suspects),
    **{f"{name}-metric": (name, held_out) for name in ("cub200", "cars196", "flower102-64")},
}
"""Datasets that are made of an official one: its name, and how."""


def dataset(name: str) -> Dataset:
    """A dataset by name: a bundled one, an official one that was prepared on this machine or
    that has published records (without its images, reading them raises), or `folder:PATH`, a folder
    of the user's own images; raises `UserError` for any other."""
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith(folder.PREFIX):
        return folder.dataset(name)
    of, view = VIEWS.get(name, (name, lambda whole: whole))
    trained = [each for each in official.facts() if each != "cifar10c"]
    if of not in trained:
        raise UserError(not_one_of("dataset", name, [*trained, *VIEWS, *DATASETS, "folder:PATH"]))
    found = official.dataset(of)
    if found is None:
        raise UserError(
            f"dataset={name!r} is not on this machine; to get it: dnr data prepare {of}"
        )
    return view(found)


def read(name: str) -> dict[str, Split]:
    """The pools of a dataset, read once per process; raises `UserError` if those of a bundled one
    have changed. A folder that has changed is read again."""
    return _read(name, dataset(name).fingerprint)


@lru_cache(maxsize=4)
def _read(name: str, wanted: str) -> dict[str, Split]:
    pools = dataset(name).pools()
    if name in DATASETS and (found := fingerprint(pools)) != wanted:
        raise UserError(
            f"the images of {name!r} have fingerprint {found}, not {wanted}: scikit-learn or scipy "
            "has changed; install the pinned versions of requirements.txt"
        )
    return pools


def load(config: Config) -> Data:
    """The images of one run, on the CPU.

    The training split holds `per_class` images of each class, drawn from the training pool by the
    stream ("split" of the seed); with `per_class` 0 the dataset's `counts`, or the whole pool. The
    share `noise` of its labels, exactly, is replaced by other ones at random.
    """
    about, pools = dataset(config.dataset), read(config.dataset)
    train, counts = pools["train"], about.counts
    if config.pool not in pools:
        raise UserError(
            f"pool={config.pool!r} does not exist: {config.dataset!r} has no official validation "
            f"split, only {' and '.join(pools)}"
        )
    if config.per_class:
        counts = (config.per_class,) * len(about.classes)
        smallest = int(torch.bincount(train.labels).min())
        if config.per_class > smallest:
            raise UserError(
                f"per_class={config.per_class} is more than the {smallest} training images of the "
                f"smallest class of {config.dataset!r}; use 0 for all"
            )
    if counts:
        draw, chosen = stream(config.seed, 0, "split"), []
        for label, count in enumerate(counts):
            members = (train.labels == label).nonzero()[:, 0]
            chosen.append(members[torch.randperm(len(members), generator=draw)[:count]])
        train = train[torch.cat(chosen)]
    if config.noise:
        draw = stream(config.seed, 0, "noise")
        wrong = torch.randperm(len(train), generator=draw)[: round(config.noise * len(train))]
        away = torch.randint(1, len(about.classes), wrong.shape, generator=draw)
        labels = train.labels.clone()
        labels[wrong] = (labels[wrong] + away) % len(about.classes)
        train = Split(train.images, labels)
    return Data(about, train, pools[config.pool])
