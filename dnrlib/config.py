"""What an experiment is: one frozen, flat `Config`, and the keys made of it.

A `Config` is a value: it knows types and ranges, and opens no file. Names (of datasets, methods,
networks) are checked by `recipes.configure`.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, dataclass_transform

from . import UserError

RESULTS_VERSION = 1
"""Raised with any change that alters a number; it is part of every key."""


def knob(default: Any, part: str, meaning: str, *, late: bool = False) -> Any:
    """A dataclass field with its meaning and the part of a chain's key that it enters.

    `root` fields enter the first link of the chain, `training` fields every link, `plan` fields
    only through the stages that the method makes of them. A `late` field was added when records
    had been published: keys have it where it is not at its default.
    """
    return field(default=default, metadata={"part": part, "meaning": meaning, "late": late})


AT_LEAST = {
    **dict.fromkeys(("per_class", "warmup", "lr", "weight_decay", "seed"), 0),
    **dict.fromkeys(("width", "generations", "epochs", "batch", "threads", "parts"), 1),
    "members": 2,
}
PRETRAINED = "imagenet1k_v1"
"""The weights of torchvision that a network can start from."""
AT_MOST = {"width": 4096, "epochs": 1_000_000, "batch": 1_000_000, "threads": 1024}
AT_MOST |= dict.fromkeys(("generations", "members", "parts"), 10_000)
"""More is a slip of the keyboard."""
ONE_OF = {
    "start": ("random", PRETRAINED),
    "pool": ("test", "tuning"),
    "mix": ("none", "cutmix"),
    "schedule": ("cosine", "step"),
    "precision": ("fp32", "bf16"),
}
SHARES = ("keep", "split_rate", "momentum", "smoothing", "noise", "average")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a network is trained with `train.train`. Raises `UserError` for a value of another type
    or out of range."""

    lr: float = knob(0.1, "training", "peak learning rate")
    schedule: str = knob("cosine", "training", "learning-rate schedule: cosine or step")
    warmup: int = knob(0, "training", "epochs of linear warm-up at the start of a generation")
    momentum: float = knob(0.9, "training", "momentum of SGD")
    weight_decay: float = knob(1e-4, "training", "L2 penalty on every parameter")
    smoothing: float = knob(0.1, "training", "label smoothing, 0..1")
    precision: str = knob("fp32", "training", "number format of the training passes: fp32 or bf16")

    def __post_init__(self) -> None:
        for spec in fields(self):
            name, value = spec.name, getattr(self, spec.name)
            if spec.type is float and type(value) is int and abs(value) < 2**53:
                value = float(value)
                object.__setattr__(self, name, value)
            if type(value) is not spec.type:
                raise UserError(
                    f"{name}={value!r} is not of type {spec.type.__name__} "
                    f"({spec.metadata['meaning']})"
                )
            elif name in ONE_OF and value not in ONE_OF[name]:
                raise UserError(not_one_of(name, value, ONE_OF[name]))
            elif spec.type is float and not math.isfinite(value):
                raise UserError(f"{name}={value!r} must be a finite number")
            elif name in AT_LEAST and value < AT_LEAST[name]:
                raise UserError(f"{name}={value!r} must be at least {AT_LEAST[name]}")
            elif name in AT_MOST and value > AT_MOST[name]:
                raise UserError(f"{name}={value!r} must be at most {AT_MOST[name]}")
            elif name in SHARES and not 0 <= value <= 1:
                raise UserError(f"{name}={value!r} must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """One run: a method on a dataset with a seed. Primitives only; see `meanings()`."""

    dataset: str = knob("digits", "root", "name of the dataset: bundled, official, or folder:PATH")
    method: str = knob("dnr", "plan", "name of the method")
    seed: int = knob(0, "root", "seed of the split, the initial weights and every later draw")
    per_class: int = knob(10, "root", "training images per class; 0 means all of the training pool")
    pool: str = knob("test", "root", "images that accuracy is measured on: test, or tuning")
    model: str = knob("resnet18", "root", "network")
    width: int = knob(8, "root", "channels of the first stage; 64 is the published network")
    stem: str = knob("3x3", "root", "first layers: 3x3 (stride 1, no pooling) or 7x7 (and pooling)")
    generations: int = knob(
        10, "plan", "number of generations N; f_N is the network after the N-th"
    )
    epochs: int = knob(30, "training", "epochs per generation")
    batch: int = knob(50, "training", "largest number of images per step")
    augment: str = knob(
        "shift",
        "training",
        "augmentation; trivial: TrivialAugment on top of crop-flip, trivial-X: on top of X",
    )
    threads: int = knob(1, "training", "CPU threads of one run; they change the last bits")
    keep: float = knob(0.8, "plan", "share of weights that DNR keeps, 0..1")
    criterion: str = knob("snip", "plan", "saliency of DNR")
    scope: str = knob(
        "global", "plan", "DNR keeps its share of the whole network (global) or of each layer"
    )
    probe: float = knob(
        0.2,
        "plan",
        "training images that saliency is computed from: a share up to 1, or a number above 1",
    )
    split_rate: float = knob(
        0.8, "plan", "KE's s_r: KELS keeps this share of filters and channels, WELS of weights"
    )
    loss: str = knob("labels", "plan", "what is learnt from")
    mix: str = knob("none", "plan", "how images are mixed: none or cutmix")
    average: float = knob(
        0.0, "plan", "decay of a moving average of the weights, which the training ends with"
    )
    members: int = knob(3, "plan", "networks of an ensemble")
    parts: int = knob(
        1, "plan", "parts in which the training images arrive, one after the other over the run"
    )
    start: str = knob(
        "random", "root", "weights that training starts from: random or torchvision's", late=True
    )
    noise: float = knob(
        0.0, "root", "share of training labels that name another class, 0..1", late=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probe <= 0 or self.split_rate == 0:
            raise UserError("probe and split_rate must be greater than 0")
        if self.probe > 1 and self.probe != int(self.probe):
            raise UserError(f"probe={self.probe!r} must be a share up to 1 or a whole number")
        if self.mix != "none" and self.loss != "labels":
            raise UserError(f"mix={self.mix!r} mixes labels, which loss={self.loss!r} cannot learn")
        if self.warmup >= self.epochs:
            raise UserError(f"warmup={self.warmup} must be smaller than epochs={self.epochs}")

    def part(self, name: str) -> dict[str, Any]:
        """What one part of the key (`root`, `training` or `plan`) is made of, by name."""
        chosen = [spec for spec in fields(self) if spec.metadata["part"] == name]
        values = {spec.name: getattr(self, spec.name) for spec in chosen}
        late = {spec.name: spec.default for spec in chosen if spec.metadata["late"]}
        return {n: value for n, value in values.items() if n not in late or value != late[n]}


def not_one_of(name: str, value: Any, valid: Any) -> str:
    """The message for a setting whose value is none of `valid`."""
    return f"{name}={value!r} is unknown; choose one of: {', '.join(valid)}"


def meanings() -> dict[str, str]:
    """What each field of `Config` means, by name."""
    return {spec.name: spec.metadata["meaning"] for spec in fields(Config)}


# --------------------------------------------------------------------------------------------------
# Keys


@dataclass_transform(frozen_default=True)
def stored(name: str) -> Callable[[type], type]:
    """A frozen dataclass whose instances enter keys and records under `name`. The class can be
    renamed; `name`, the names of its fields and their defaults cannot without moving keys."""

    def decorate(cls: type) -> type:
        cls.stored_as = name
        return dataclass(frozen=True)(cls)

    return decorate


def canonical(thing: Any) -> Any:
    """`thing` as JSON-ready data; what is `stored` becomes {name: its non-default fields}.

    Defaults of stages are no-ops by rule, so leaving them out means that a new field does not move
    old keys. `Config` is never passed here whole: its fields enter keys explicitly.
    """
    if dataclasses.is_dataclass(thing):
        inside = {
            spec.name: canonical(getattr(thing, spec.name))
            for spec in fields(thing)
            if getattr(thing, spec.name) != spec.default
        }
        return {thing.stored_as: inside}
    return thing


def compact(thing: Any) -> str:
    """`thing` as JSON on one line, always the same."""
    return json.dumps(thing, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(thing: Any) -> str:
    """The first 20 hex digits of the SHA-256 of `thing` as `compact` JSON."""
    return hashlib.sha256(compact(thing).encode()).hexdigest()[:20]
