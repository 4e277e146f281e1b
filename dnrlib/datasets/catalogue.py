"""Every dataset by name, and the images of a run."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch

from .. import UserError
from ..config import Config
from ..streams import stream
from . import folder, official
from .digits import DATASETS
from .splits import Data, Dataset, Split, fingerprint, power_law

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
}
"""Datasets that are made of an official one: its name, and how."""


def dataset(name: str) -> Dataset:
    """A dataset by name: a bundled one, an official one that was prepared on this machine, or
    `folder:PATH`, a folder of the user's own images; raises `UserError` for any other."""
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith(folder.PREFIX):
        return folder.dataset(name)
    of, view = VIEWS.get(name, (name, None))
    if of not in official.sets():
        known = ", ".join([*official.sets(), *VIEWS, *DATASETS])
        raise UserError(
            f"dataset={name!r} is unknown; choose one of: {known}, or {folder.PREFIX}PATH for a "
            "folder with a subfolder of images per class"
        )
    found = official.dataset(of)
    if found is None:
        raise UserError(
            f"dataset={name!r} is not on this machine; to get it: dnr data prepare {of}"
        )
    return found if view is None else view(found)


def read(name: str) -> dict[str, Split]:
    """The pools of a dataset, read once per process; raises `UserError` if those of a bundled one
    have changed. A folder that has changed is read again."""
    return _read(name, dataset(name).fingerprint)


@lru_cache(maxsize=4)
def _read(name: str, identity: str) -> dict[str, Split]:
    about = dataset(name)
    pools = about.pools()
    if name in DATASETS:
        found = fingerprint(pools)
        if found != about.fingerprint:
            raise UserError(
                f"the images of {name!r} have fingerprint {found}, not {about.fingerprint}: the "
                "library that brings or draws them has changed; install the pinned versions of "
                "requirements.txt"
            )
    return pools


def load(config: Config) -> Data:
    """The images of one run, on the CPU.

    The training split holds `per_class` images of each class, drawn from the training pool by the
    stream ("split" of the seed); with `per_class` 0 the dataset's `counts`, or the whole pool.
    """
    about = dataset(config.dataset)
    pools = read(config.dataset)
    train = pools["train"]
    if config.pool not in pools:
        raise UserError(
            f"pool={config.pool!r} does not exist: {config.dataset!r} has no official validation "
            f"split, only {' and '.join(pools)}"
        )
    if config.per_class:
        smallest = int(torch.bincount(train.labels).min())
        if config.per_class > smallest:
            raise UserError(
                f"per_class={config.per_class} is more than the {smallest} training images of the "
                f"smallest class of {config.dataset!r}; use 0 for all"
            )
        train = _drawn(train, [config.per_class] * len(about.classes), config.seed)
    elif about.counts:
        train = _drawn(train, about.counts, config.seed)
    return Data(about, train, pools[config.pool])


def _drawn(pool: Split, counts: Sequence[int], seed: int) -> Split:
    """As many images of each class as `counts` says, at random."""
    draw = stream(seed, 0, "split")
    chosen = []
    for label, count in enumerate(counts):
        members = (pool.labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=draw)
        chosen.append(members[order[:count]])
    return pool[torch.cat(chosen)]
