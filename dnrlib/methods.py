"""Every method as a generator of generations.

All of them are one sentence: the child starts as `fill`, inherits from its parent what `keep` kept,
learns from `task` and is trained for `epochs`. A plan exists as data before anything runs; reading
this file top to bottom is reading the literature.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .config import Config
from .fills import AsIs, Birth, Fill, Fresh, Rescaled, ShrinkPerturb, Zeros
from .losses import Distilled, Labels
from .masks import (
    CRITERIA,
    Below,
    Everything,
    Keep,
    Kels,
    Magnitude,
    Matched,
    ReleasedMagnitude,
    ReleasedSnip,
    Snip,
    Top,
    Wels,
)
from .models import blocks


@dataclass(frozen=True)
class Generation:
    """One stage of a plan. Every default is a no-op, so that a new field moves no key."""

    keep: Keep = Everything()  # noqa: RUF009 - frozen, without fields
    """What the network inherits from its parent; the first generation has no parent."""
    fill: Fill = Fresh()  # noqa: RUF009 - frozen, all defaults
    """What becomes of the rest."""
    epochs: float = 1.0
    """Length of the training in units of `Config.epochs`; its schedule runs once over all of it."""
    inherit: AsIs | Rescaled = AsIs()  # noqa: RUF009 - frozen, without fields
    """What happens to the kept weights."""
    task: Labels | Distilled = Labels()  # noqa: RUF009 - frozen, without fields
    """What is learnt from."""
    hold: bool = False
    """Whether the reset weights are held at zero during the training (sparse phases)."""
    peak: float = 1.0
    """Peak learning rate in units of `Config.lr`; below 1 there is no warm-up."""

    def length(self, config: Config) -> int:
        """The number of epochs of this stage, at least one."""
        return max(1, round(self.epochs * config.epochs))


def again(config: Config, *child: object, **parts: object) -> Iterator[Generation]:
    """An ordinary first generation, then children that are all alike."""
    yield Generation()
    for _ in range(config.generations - 1):
        yield Generation(*child, **parts)


# --------------------------------------------------------------------------------------------------
# Nothing is reset


def plain(config: Config) -> Iterator[Generation]:
    """Plain training, f_1 of every other method."""
    yield Generation()


def long(config: Config) -> Iterator[Generation]:
    """The long baseline LB: one uninterrupted schedule over the budget of all generations."""
    yield Generation(epochs=float(config.generations))


def tune(config: Config) -> Iterator[Generation]:
    """Fine-tuning, the paper's 'transfer learning' (DNR Table 3): the schedule restarts, nothing is
    reset."""
    return again(config)


# --------------------------------------------------------------------------------------------------
# Earlier methods of training in phases


def dsd(config: Config) -> Iterator[Generation]:
    """Dense-sparse-dense (Han et al., 2017): the smallest 30 % of each layer, as in KE's text, are
    pruned and held at zero for half a generation, then released for another half. Trains two
    generations' worth in all. KE resumes the learning rate between the phases without saying where;
    the later two start at a tenth here."""
    yield Generation()
    pruned = Top(Magnitude(), 0.7, scope="layer")
    yield Generation(pruned, Zeros(), epochs=0.5, peak=0.1, hold=True)
    yield Generation(epochs=0.5, peak=0.1)


def ban(config: Config) -> Iterator[Generation]:
    """Born-again networks (Furlanello et al., 2018): every generation is a new network that learns
    from the labels and from the outputs of its parent."""
    return again(config, Below("conv1", "state"), Birth(), task=Distilled())


def ban_lineage(config: Config) -> Iterator[Generation]:
    """Born-again networks as in the code that KE's numbers come from: its divergence is averaged
    over the classes too."""
    return again(config, Below("conv1", "state"), Birth(), task=Distilled(reduction="mean"))


# --------------------------------------------------------------------------------------------------
# A part that depends on the place in the network is reset


def lw(config: Config) -> Iterator[Generation]:
    """Layer-wise reinitialisation (Alabdulmohsin et al., 2021): over eight generations more and
    more blocks are kept and rescaled, and all that follows is born anew."""
    yield Generation()
    listed = blocks(config)
    for number in range(1, min(8, config.generations)):
        first = number * len(listed) // 8
        keep = Below(listed[first], "parameters")
        yield Generation(keep, Birth(), inherit=Rescaled(listed[first - 1]))


def lw_released(config: Config) -> Iterator[Generation]:
    """LW as the released DNR code runs it by its documented command (D19): over eight generations
    it goes through the four stages of a ResNet18, or through the sixteen blocks and the classifier
    of a ResNet50, and neither rescales nor normalises."""
    yield Generation()
    stages = [f"layer{stage}" for stage in (1, 2, 3, 4)]
    listed = stages if config.model == "resnet18" else [*blocks(config), "fc"]
    for number in range(1, min(8, config.generations)):
        yield Generation(Below(listed[number * len(listed) // 8], "parameters"), Birth())


def llf(config: Config) -> Iterator[Generation]:
    """Later-layer forgetting (Zhou et al., 2022): the last stage and the classifier are reset."""
    return again(config, Below("layer4"))


def llf_layer3(config: Config) -> Iterator[Generation]:
    """Later-layer forgetting from the third stage on, the other reading of its depth."""
    return again(config, Below("layer3"))


# --------------------------------------------------------------------------------------------------
# Knowledge Evolution


def ke(config: Config) -> Iterator[Generation]:
    """Knowledge Evolution with the kernel-level split (KELS), KE sections 3.1 and 3.2."""
    return again(config, Kels(config.split_rate))


def ke_wels(config: Config) -> Iterator[Generation]:
    """Knowledge Evolution with the weight-level split (WELS), KE section 3.2."""
    return again(config, Wels(config.split_rate))


def ke_wels_rand(config: Config) -> Iterator[Generation]:
    """WELS with a new random mask after every generation (KE Fig. 16, WELS-Rand)."""
    return again(config, Wels(config.split_rate, redraw=True))


def shrink_perturb(config: Config) -> Iterator[Generation]:
    """Shrink and perturb (Ash and Adams, 2020): all weights shrink, and noise is added. In neither
    paper; a later baseline for the same purpose."""
    return again(config, Below("conv1"), ShrinkPerturb())


# --------------------------------------------------------------------------------------------------
# Dynamic Neural Regeneration


def dnr(config: Config) -> Iterator[Generation]:
    """Dynamic Neural Regeneration, DNR section 3: keep the weights that the criterion, SNIP by
    default, finds important."""
    return again(config, Top(CRITERIA[config.criterion](config), config.keep, config.scope))


def dnr_released(config: Config) -> Iterator[Generation]:
    """DNR as the released code would compute it if its errors were repaired (D13-D17)."""
    return again(config, ReleasedSnip(config.keep), Fresh(shortcuts=False))


def dnr_released_magnitude(config: Config) -> Iterator[Generation]:
    """The released code's magnitude criterion, which keeps the largest signed weights (D16)."""
    return again(config, ReleasedMagnitude(config.keep), Fresh(shortcuts=False))


def dnr_matched(config: Config) -> Iterator[Generation]:
    """An intervention: random weights, in each layer as many as SNIP keeps there."""
    return again(config, Matched(Top(Snip(config.probe), config.keep)))


def dnr_highest(config: Config) -> Iterator[Generation]:
    """An intervention: the weights that SNIP finds most important are reset."""
    return again(config, Top(Snip(config.probe), config.keep, least=True))


METHODS: dict[str, Callable[[Config], Iterator[Generation]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(plain, dsd, ban, ban_lineage, lw, lw_released, llf, llf_layer3, long, tune),
        *(ke, ke_wels, ke_wels_rand, shrink_perturb),
        *(dnr, dnr_released, dnr_released_magnitude, dnr_matched, dnr_highest),
    )
}
"""Methods by name, in the order of the paper's tables."""

MAIN = ("plain", "long", "tune", "ke", "ke-wels", "dnr")
"""The methods that a study compares unless it is told otherwise."""

LABELS = {
    "plain": "plain training",
    "dsd": "DSD",
    "ban": "BAN",
    "ban-lineage": "BAN (lineage)",
    "lw": "LW",
    "lw-released": "LW (released)",
    "llf": "LLF",
    "llf-layer3": "LLF (layer 3)",
    "long": "long baseline (LB)",
    "tune": "fine-tuning",
    "ke": "KE (KELS)",
    "ke-wels": "KE (WELS)",
    "ke-wels-rand": "KE (WELS-Rand)",
    "shrink-perturb": "shrink and perturb",
    "dnr": "DNR",
    "dnr-released": "DNR (released)",
    "dnr-released-magnitude": "magnitude (released)",
    "dnr-matched": "random, SNIP's layer shares",
    "dnr-highest": "DNR, highest reset",
}
"""Names for tables and figures."""


def label(arm: str) -> str:
    """An arm (`config.arm_of`) in words: `dnr+criterion=fisher+generations=3` is 'DNR, Fisher,
    f3'."""
    method, *settings = arm.split("+")
    return ", ".join([LABELS[method], *(_in_words(*text.split("=")) for text in settings)])


def _in_words(name: str, value: str) -> str:
    return {
        "generations": f"f{value}",
        "smoothing": "CE" if value == "0" else f"smoothing {value}",
        "per_class": "all images" if value == "0" else f"{value} per class",
        "criterion": {"fisher": "Fisher", "snip": "SNIP"}.get(value, value),
        "scope": f"per {value}",
        "probe": f"probe {'of all images' if value == '1' else value}",
    }.get(name, f"{name} {value}")


def plan(config: Config) -> list[Generation]:
    """The stages of a run, in order."""
    return list(METHODS[config.method](config))


def budget(config: Config) -> int:
    """Epochs that the method trains in all."""
    return sum(stage.length(config) for stage in plan(config))
