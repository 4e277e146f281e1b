"""Every method as a generator of generations.

All of them are one sentence: the child starts as `fill`, inherits from its parent what `keep` kept,
and is trained for `epochs`. A plan exists as data before anything runs; reading this file top to
bottom is reading the literature.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .config import Config
from .fills import Fresh
from .masks import Everything, Keep, Kels, Snip, Top, Wels


@dataclass(frozen=True)
class Generation:
    """One stage of a plan. Every default is a no-op, so that a new field moves no key."""

    keep: Keep = Everything()  # noqa: RUF009 - frozen, without fields
    """What the network inherits from its parent; the first generation has no parent."""
    fill: Fresh = Fresh()  # noqa: RUF009 - frozen, without fields
    """What becomes of the rest."""
    epochs: float = 1.0
    """Length of the training in units of `Config.epochs`; its schedule runs once over all of it."""

    def length(self, config: Config) -> int:
        """The number of epochs of this stage."""
        return round(self.epochs * config.epochs)


def again(config: Config, keep: Keep) -> Iterator[Generation]:
    """An ordinary first generation, then children that inherit what `keep` keeps."""
    yield Generation()
    for _ in range(config.generations - 1):
        yield Generation(keep=keep)


def plain(config: Config) -> Iterator[Generation]:
    """Plain training, f_1 of every other method."""
    yield Generation()


def long(config: Config) -> Iterator[Generation]:
    """The long baseline LB: one uninterrupted schedule over the budget of all generations."""
    yield Generation(epochs=float(config.generations))


def tune(config: Config) -> Iterator[Generation]:
    """Fine-tuning, the paper's 'transfer learning': the schedule restarts, nothing is reset."""
    return again(config, Everything())


def ke(config: Config) -> Iterator[Generation]:
    """Knowledge Evolution with the kernel-level split (KELS), KE sections 3.1 and 3.2."""
    return again(config, Kels(config.split_rate))


def ke_wels(config: Config) -> Iterator[Generation]:
    """Knowledge Evolution with the weight-level split (WELS), KE section 3.2."""
    return again(config, Wels(config.split_rate))


def dnr(config: Config) -> Iterator[Generation]:
    """Dynamic Neural Regeneration, DNR section 3: keep the weights that SNIP finds important."""
    return again(config, Top(Snip(config.probe), config.keep))


METHODS: dict[str, Callable[[Config], Iterator[Generation]]] = {
    "plain": plain,
    "long": long,
    "tune": tune,
    "ke": ke,
    "ke-wels": ke_wels,
    "dnr": dnr,
}
"""Methods by name, in the order of the paper's tables."""

LABELS = {
    "plain": "plain training",
    "long": "long baseline (LB)",
    "tune": "fine-tuning",
    "ke": "KE (KELS)",
    "ke-wels": "KE (WELS)",
    "dnr": "DNR",
}
"""Names for tables and figures."""


def plan(config: Config) -> list[Generation]:
    """The stages of a run, in order."""
    return list(METHODS[config.method](config))


def budget(config: Config) -> int:
    """Epochs that the method trains in all."""
    return sum(stage.length(config) for stage in plan(config))
