"""Every method as a Python generator of its generations.

In each generation the network starts as `fill`, keeps those weights of its parent that `keep`
selects, learns from `task` and is trained for `epochs`. A plan is data and trains nothing; the
methods are grouped by family.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from .config import Config, stored
from .filters import RePr
from .losses import LOSSES, Distilled, Labels
from .masks import Mask
from .models import MODELS
from .reinit import reinitialise
from .released import ReleasedMagnitude, ReleasedSnip
from .rules import (
    CRITERIA,
    AsIs,
    Birth,
    Everything,
    Fill,
    Fresh,
    Keep,
    Kels,
    Magnitude,
    Matched,
    Parent,
    Rescaled,
    ResetFrom,
    ShrinkPerturb,
    Snip,
    Top,
    Wels,
    Zeros,
)
from .streams import stream


@stored("Generation")
class Generation:
    """One stage of a plan. Each default is a no-op, so that new fields change no key."""

    keep: Keep = Everything()
    """What the network inherits from its parent; the first generation has no parent."""
    fill: Fill = Fresh()
    """What becomes of the rest."""
    epochs: float = 1.0
    """Length of the training in units of `Config.epochs`; its schedule runs once over all of it."""
    inherit: AsIs | Rescaled = AsIs()
    """What happens to the kept weights."""
    task: Labels = Labels()
    """What is learnt from."""
    hold: bool = False
    """Whether the reset weights are held at zero during the training (sparse phases)."""
    peak: float = 1.0
    """Peak learning rate in units of `Config.lr`; below 1 there is no warm-up."""
    average: float = 0.0
    """Decay of the moving average of the weights that the training ends with; 0: none."""
    mix: bool = False
    """Whether images are mixed with CutMix."""
    dropping: RePr | None = None
    """Whether filters are dropped and come back during the training."""
    images: float = 1.0
    """The share of the training images of each class that have arrived."""

    def length(self, config: Config) -> int:
        """The number of epochs of this stage, at least one."""
        return max(1, round(self.epochs * config.epochs))

    def begin(self, parent: Parent, mask: Mask) -> None:
        """Turns the parent's network into that of this generation, in place: what the mask does not
        keep becomes `fill` (DNR Eq. 7)."""
        self.inherit.apply(parent, mask)
        draw = stream(parent.config.seed, parent.generation + 1, "fill")
        reinitialise(parent.model, mask, lambda _, draws: self.fill.values(parent, draws), draw)


METHODS: dict[str, Callable[[Config], Iterator[Generation]]] = {}
"""Methods by name, in the order of the paper's tables."""


def method(label: str) -> Callable:
    """Registers a method; `label` is its name in tables and figures."""

    def register(plan: Callable) -> Callable:
        plan.label = label
        METHODS[plan.__name__.replace("_", "-")] = plan
        return plan

    return register


def reborn(config: Config) -> tuple[Keep, Fill]:
    """Everything is reset, to a new network."""
    return ResetFrom(MODELS[config.model].first, "state"), Birth()


def again(config: Config, *rules: object, **settings: object) -> Iterator[Generation]:
    """An ordinary first generation, then others that are all alike."""
    yield Generation()
    for _ in range(config.generations - 1):
        yield Generation(*rules, **settings)


@method("plain training")
def plain(config: Config) -> Iterator[Generation]:
    """Plain training, f_1 of every other method."""
    yield Generation()


# --------------------------------------------------------------------------------------------------
# Earlier methods of training in phases


@method("DSD")
def dsd(config: Config) -> Iterator[Generation]:
    """Dense-sparse-dense (Han et al., 2017): the smallest 30 % of each layer, as in KE's text, are
    pruned and held at zero for half a generation, then released for another half. Trains two
    generations' worth in all. KE resumes the learning rate between the phases without saying where;
    the later two start at a tenth here."""
    yield Generation()
    pruned = Top(Magnitude(), 0.7, scope="layer")
    yield Generation(pruned, Zeros(), epochs=0.5, peak=0.1, hold=True)
    yield Generation(epochs=0.5, peak=0.1)


@method("KE + DSD")
def ke_dsd(config: Config) -> Iterator[Generation]:
    """DSD over generations (KE appendix C.1, Algorithm 2): in every second one the smallest 30 % of
    each layer are pruned and held at zero, in the next they are released."""
    pruned = Generation(Top(Magnitude(), 0.7, scope="layer"), Zeros(), hold=True)
    for number in range(config.generations):
        yield pruned if number % 2 else Generation()


@method("RePr")
def repr(config: Config) -> Iterator[Generation]:
    """RePr (Prakash et al., 2019; KE Table 2): three times in one training the 30 % of all filters
    that overlap most are dropped, and come back orthogonal to what they were and to those that
    stayed. What reads a dropped filter stays, and a layer may lose all of its filters."""
    yield Generation(dropping=RePr())


@method("BAN")
def ban(config: Config) -> Iterator[Generation]:
    """Born-again networks (Furlanello et al., 2018): every generation is a new network that learns
    from the labels and from the outputs of its parent."""
    return again(config, *reborn(config), task=Distilled())


@method("BAN (lineage)")
def ban_lineage(config: Config) -> Iterator[Generation]:
    """Born-again networks with the loss of the code that KE's numbers come from: its divergence is
    averaged over the classes too. That code also trains with Adam, and leaves the teacher in
    training mode; neither is done here."""
    return again(config, *reborn(config), task=Distilled(reduction="mean"))


# --------------------------------------------------------------------------------------------------
# A part that depends on the place in the network is reset


@method("LW")
def lw(config: Config) -> Iterator[Generation]:
    """Layer-wise reinitialisation (Alabdulmohsin et al., 2021): over eight generations more and
    more blocks are kept and rescaled; later layers are reinitialised."""
    yield Generation()
    listed = MODELS[config.model].blocks
    for number in range(1, min(8, config.generations)):
        first = number * len(listed) // 8
        keep = ResetFrom(listed[first], "parameters")
        yield Generation(keep, Birth(), inherit=Rescaled(listed[first - 1]))


@method("LW (released)")
def lw_released(config: Config) -> Iterator[Generation]:
    """LW as the released DNR code runs it by its documented command (D19): over eight generations
    it goes through the four stages of a ResNet18, or through the blocks and the classifier of any
    other network (sixteen of a ResNet50), and neither rescales nor normalises."""
    yield Generation()
    stages = [f"layer{stage}" for stage in (1, 2, 3, 4)]
    others = [*MODELS[config.model].blocks, MODELS[config.model].head]
    listed = stages if config.model == "resnet18" else others
    for number in range(1, min(8, config.generations)):
        first = number * len(listed) // 8
        yield Generation(ResetFrom(listed[first], "parameters"), Birth())


@method("LLF")
def llf(config: Config) -> Iterator[Generation]:
    """Later-layer forgetting (Zhou et al., 2022): the last stage and the classifier are reset."""
    return again(config, ResetFrom(MODELS[config.model].later[1]))


@method("LLF (layer 3)")
def llf_layer3(config: Config) -> Iterator[Generation]:
    """Later-layer forgetting from the third stage on, the other reading of its depth."""
    return again(config, ResetFrom(MODELS[config.model].later[0]))


# --------------------------------------------------------------------------------------------------
# Nothing is reset


@method("long baseline (LB)")
def long(config: Config) -> Iterator[Generation]:
    """The long baseline LB: one uninterrupted schedule over the budget of all generations."""
    yield Generation(epochs=float(config.generations))


@method("fine-tuning")
def tune(config: Config) -> Iterator[Generation]:
    """Fine-tuning, the paper's 'transfer learning' (DNR Table 3): the schedule restarts, nothing is
    reset."""
    return again(config)


# --------------------------------------------------------------------------------------------------
# What else the same budget buys


@method("ensemble")
def ensemble(config: Config) -> Iterator[Generation]:
    """Networks that are trained one after the other, each for its share of the epochs, and whose
    probabilities are averaged: its accuracy is what `evaluations.AveragedAccuracy` finds."""
    share = config.generations / config.members
    yield Generation(epochs=share)
    for _ in range(config.members - 1):
        yield Generation(*reborn(config), epochs=share)


# --------------------------------------------------------------------------------------------------
# Knowledge Evolution


@method("KE (KELS)")
def ke(config: Config) -> Iterator[Generation]:
    """Knowledge Evolution with the kernel-level split (KELS), KE sections 3.1 and 3.2."""
    return again(config, Kels(config.split_rate))


@method("KE (WELS)")
def ke_wels(config: Config) -> Iterator[Generation]:
    """Knowledge Evolution with the weight-level split (WELS), KE section 3.2."""
    return again(config, Wels(config.split_rate))


@method("KE (WELS-Rand)")
def ke_wels_rand(config: Config) -> Iterator[Generation]:
    """WELS with a new random mask after every generation (KE Fig. 16, WELS-Rand)."""
    return again(config, Wels(config.split_rate, redraw=True))


@method("shrink and perturb")
def shrink_perturb(config: Config) -> Iterator[Generation]:
    """Shrink and perturb (Ash and Adams, 2020): all weights shrink, and noise is added. In neither
    paper; an older baseline with a similar purpose."""
    return again(config, ResetFrom(MODELS[config.model].first), ShrinkPerturb())


# --------------------------------------------------------------------------------------------------
# Dynamic Neural Regeneration


@method("DNR")
def dnr(config: Config) -> Iterator[Generation]:
    """Dynamic Neural Regeneration, DNR section 3: keep the weights that the criterion, SNIP by
    default, finds important."""
    return again(config, Top(CRITERIA[config.criterion](config), config.keep, config.scope))


@method("DNR (released)")
def dnr_released(config: Config) -> Iterator[Generation]:
    """DNR as the released code would compute it if its errors were repaired (D13-D17)."""
    return again(config, ReleasedSnip(config.keep), Fresh(shortcuts=False))


@method("magnitude (released)")
def dnr_released_magnitude(config: Config) -> Iterator[Generation]:
    """The released code's magnitude criterion, which keeps the largest signed weights (D16)."""
    return again(config, ReleasedMagnitude(config.keep), Fresh(shortcuts=False))


@method("random, SNIP's layer shares")
def dnr_matched(config: Config) -> Iterator[Generation]:
    """An intervention: random weights, in each layer as many as SNIP keeps there."""
    return again(config, Matched(Top(Snip(config.probe), config.keep)))


@method("DNR, highest reset")
def dnr_highest(config: Config) -> Iterator[Generation]:
    """An intervention: the weights that SNIP finds most important are reset."""
    return again(config, Top(Snip(config.probe), config.keep, least=True))


MAIN = ("plain", "long", "tune", "ke", "ke-wels", "dnr")
"""The methods that a study compares unless it is told otherwise."""


def label(arm: str) -> str:
    """An arm (`recipes.arm_of`) in words: `dnr+criterion=fisher+generations=3` is 'DNR, Fisher,
    f3'."""
    method, *settings = arm.split("+")
    words = (_in_words(*text.partition("=")[::2]) for text in settings)
    return ", ".join([METHODS[method].label, *words])


def _in_words(name: str, value: str) -> str:
    return {
        "tuned": "tuned",
        "noise": f"wrong labels {value}",
        "parts": f"data in {value} parts",
        "members": f"of {value}",
        "average": f"EMA {value}",
        "mix": {"cutmix": "CutMix"}.get(value, value),
        "augment": "TrivialAugment" if "trivial" in value else value,
        "loss": {"cs-kd": "CS-KD", "adacos": "AdaCos"}.get(value, f"{value} loss"),
        "generations": f"f{value}",
        "smoothing": "CE" if value == "0" else f"smoothing {value}",
        "per_class": "all images" if value == "0" else f"{value} per class",
        "criterion": {"fisher": "Fisher", "snip": "SNIP"}.get(value, value),
        "scope": f"per {value}",
        "probe": f"probe {'of all images' if value == '1' else value}",
        "keep": f"resets {100 - 100 * float(value):.0f} %" if name == "keep" else value,
    }.get(name, f"{name.replace('_', ' ')} {value}")


def plan(config: Config) -> list[Generation]:
    """The stages of a run, in order, with what its settings change in all of them. Images that come
    in `Config.parts` arrive at equal intervals; a method of one stage waits for them all."""
    stages = list(METHODS[config.method](config))
    task, mix, parts, many = LOSSES[config.loss](), config.mix != "none", config.parts, len(stages)
    return [
        replace(
            stage,
            # Distillation has a loss of its own.
            task=task if stage.task == Labels() else stage.task,
            mix=mix,
            average=config.average,
            images=math.ceil(number * parts / many) / parts,
        )
        for number, stage in enumerate(stages, 1)
    ]


def budget(config: Config) -> int:
    """Epochs that the method trains in all."""
    return sum(stage.length(config) for stage in plan(config))
