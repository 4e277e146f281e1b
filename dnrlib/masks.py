"""Which weights a child inherits: saliencies, selections, overlap, packed-bit storage.

A mask is a dict from state-dict names to boolean CPU tensors, True where the weight is kept. A name
that is absent is inherited whole.
"""

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import UserError
from .data import AUGMENTATIONS, Data, batches, normalised
from .models import prunable
from .streams import stream

if TYPE_CHECKING:
    from .config import Config

Mask = dict[str, Tensor]


@dataclass(frozen=True)
class Parent:
    """A trained network and what a mask may be computed from."""

    model: nn.Module
    data: Data
    config: "Config"
    generation: int
    """Number of the generation that has just been trained, 1-based."""
    sample: int = 0
    """0 for the probe and the random numbers that the mask is made with; any other number draws
    independent ones, which shows how much of a mask is chance."""

    def draw(self, purpose: str) -> torch.Generator:
        """The random stream of this generation for `purpose`."""
        named = purpose if self.sample == 0 else f"{purpose}-{self.sample}"
        return stream(self.config.seed, self.generation, named)


class Saliency(Protocol):
    """A score of every prunable weight; the higher, the more it is worth keeping."""

    def scores(self, parent: Parent) -> dict[str, Tensor]:
        """One tensor per prunable name, on the CPU, at least 0."""


class Keep(Protocol):
    """A rule that says what the next generation inherits."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        """The mask, and where its saliency is exactly zero (empty for rules without saliency)."""


# --------------------------------------------------------------------------------------------------
# Saliencies


def probe(parent: Parent, size: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of normalised images and labels: random training images, fresh for every generation,
    under the training augmentation (DNR section 3.2, the subset pi). `size` is a share up to 1 (at
    least one image), or a number of images above 1; raises `UserError` if there are fewer."""
    config, train = parent.config, parent.data.train
    draw = parent.draw("probe")
    count = int(size) if size > 1 else max(1, round(size * len(train)))
    if count > len(train):
        raise UserError(f"probe={size:g} is more than the {len(train)} training images")
    chosen = torch.randperm(len(train), generator=draw)[:count]
    for images, labels in batches(train[chosen.to(train.labels.device)], config.batch):
        yield normalised(AUGMENTATIONS[config.augment](images, draw), parent.data.dataset), labels


@dataclass(frozen=True)
class Snip:
    """Connection sensitivity |theta * dL/dtheta| after training (DNR Eqs. 4 and 5; SNIP, 2019).

    L is the mean cross-entropy over the whole probe, without smoothing; the network is in
    evaluation mode, so batch statistics are neither used nor changed. The normalisation of Eq. 5
    does not change the ranking and is left out. The paper leaves these points open; the released
    code sums |dL/dtheta| over batches instead (D15) and scores biases and batch normalisation too
    (D17).
    """

    probe: float
    """Share of the training images up to 1, or a number of images."""

    def scores(self, parent: Parent) -> dict[str, Tensor]:
        model = parent.model.eval()
        weights = prunable(model)
        batched = list(probe(parent, self.probe))
        count = sum(len(labels) for _, labels in batched)
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for images, labels in batched:
            loss = F.cross_entropy(model(images), labels, reduction="sum") / count
            for name, grad in zip(
                weights, torch.autograd.grad(loss, list(weights.values())), strict=True
            ):
                total[name] += grad
        return {name: (w.detach() * total[name]).abs().cpu() for name, w in weights.items()}


@dataclass(frozen=True)
class Fisher:
    """Empirical Fisher information: the sum over the probe of (d log p(y|x) / d theta)^2, image by
    image (DNR Table 4, 'FIM'; the paper gives no formula, and the released code squares the
    gradient of a batch mean). The network is in evaluation mode."""

    probe: float
    """As for `Snip`."""

    def scores(self, parent: Parent) -> dict[str, Tensor]:
        model = parent.model.eval()
        weights = prunable(model)
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for images, labels in probe(parent, self.probe):
            for image, label in zip(images.split(1), labels.split(1), strict=True):
                loss = F.cross_entropy(model(image), label)
                grads = torch.autograd.grad(loss, list(weights.values()))
                for name, grad in zip(weights, grads, strict=True):
                    total[name] += grad.square()
        return {name: values.cpu() for name, values in total.items()}


@dataclass(frozen=True)
class Magnitude:
    """|theta| (DNR Table 4, 'Weight Magnitude')."""

    def scores(self, parent: Parent) -> dict[str, Tensor]:
        return {name: w.detach().abs().cpu() for name, w in prunable(parent.model).items()}


@dataclass(frozen=True)
class Chance:
    """Independent uniform numbers, new in every generation. Not the row 'Random' of DNR Table 4,
    which is KE."""

    def scores(self, parent: Parent) -> dict[str, Tensor]:
        draw = parent.draw("chance")
        return {
            name: torch.rand(weight.shape, generator=draw)
            for name, weight in prunable(parent.model).items()
        }


CRITERIA: "dict[str, Callable[[Config], Saliency]]" = {
    "snip": lambda config: Snip(config.probe),
    "fisher": lambda config: Fisher(config.probe),
    "magnitude": lambda config: Magnitude(),
    "random": lambda config: Chance(),
}
"""Saliencies by the names that `Config.criterion` takes, in the order of DNR Table 4."""

SCOPES = ("global", "layer")


# --------------------------------------------------------------------------------------------------
# Selections


@dataclass(frozen=True)
class Everything:
    """The child inherits the whole network."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        return {}, {}


@dataclass(frozen=True)
class Top:
    """The most salient `share` of all prunable weights.

    Exactly round(share * m) of m weights are kept (DNR Eq. 6 keeps every weight at the threshold,
    which with many zero saliencies can be all of them).
    """

    score: Saliency
    share: float
    """Share of weights kept, 0..1."""
    scope: str = "global"
    """`global`: one ranking of the whole network. `layer`: the share holds in each layer."""
    least: bool = False
    """Keeps the least salient weights instead: an intervention, no method of the paper."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        scores = self.score.scores(parent)
        flat = torch.cat([score.reshape(-1) for score in scores.values()])
        # Of numbers that are at least 0, and much faster than `isfinite`.
        if not math.isfinite(flat.max()):
            raise UserError(
                f"saliency after generation {parent.generation} is not finite; the training has "
                "diverged: lower lr or add warmup epochs"
            )
        if self.least:
            flat = -flat
        parts = flat.split([score.numel() for score in scores.values()])
        if self.scope == "layer":
            kept = [top(part, round(self.share * len(part))) for part in parts]
        else:
            kept = top(flat, round(self.share * len(flat))).split([len(part) for part in parts])
        mask = {
            name: part.view(scores[name].shape) for name, part in zip(scores, kept, strict=True)
        }
        return mask, {name: score == 0 for name, score in scores.items()}


def top(scores: Tensor, count: int) -> Tensor:
    """True for exactly `count` of the largest of `scores` (n,); among equals, the first are kept.

    A comparison with a threshold alone would keep all or none of the ties.
    """
    if count == 0:
        return torch.zeros(len(scores), dtype=torch.bool)
    position = len(scores) - count
    # Several times as fast as `kthvalue`, for the same number.
    threshold = float(np.partition(scores.numpy(), position)[position])
    kept = scores > threshold
    ties = (scores == threshold).nonzero()[:, 0]
    kept[ties[: count - int(kept.sum())]] = True
    return kept


@dataclass(frozen=True)
class Kels:
    """KE's kernel-level split: the first ceil(s * filters) x ceil(s * channels) of each layer.

    The first convolution keeps all input channels, the last linear layer all outputs (KE section
    3.2). The mask depends on nothing but shapes, so it is the same after every generation. About
    s^2 of the weights are kept: s = 0.8 resets 36 %, not 20 % (D27).
    """

    split_rate: float

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        weights = prunable(parent.model)
        mask = {}
        for position, (name, weight) in enumerate(weights.items()):
            # 0.55 * 100 is 55.00000000000001 in floating point, and its ceiling is 55 all the same.
            outputs, inputs = (
                math.ceil(round(self.split_rate * size, 9)) for size in weight.shape[:2]
            )
            if position == 0:
                inputs = weight.shape[1]
            if position == len(weights) - 1:
                outputs = weight.shape[0]
            mask[name] = torch.zeros(weight.shape, dtype=torch.bool)
            mask[name][:outputs, :inputs] = True
        return mask, {}


@dataclass(frozen=True)
class Wels:
    """KE's weight-level split: exactly round(share * n) random weights of each layer.

    The paper says a share of the weights; the released code draws each weight independently, so
    that its share holds in expectation only (D25).
    """

    share: float
    redraw: bool = False
    """Draws a new mask after every generation (KE's WELS-Rand) instead of one for all."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        draw = parent.draw("mask") if self.redraw else stream(parent.config.seed, 0, "mask")
        mask = {}
        for name, weight in prunable(parent.model).items():
            order = torch.randperm(weight.numel(), generator=draw)
            flat = torch.zeros(weight.numel(), dtype=torch.bool)
            flat[order[: round(self.share * weight.numel())]] = True
            mask[name] = flat.view(weight.shape)
        return mask, {}


@dataclass(frozen=True)
class Below:
    """Everything below the module `first`, in the order of the state dict; that module and what
    follows it are reset (LLF; LW; with `conv1`, the whole network is)."""

    first: str
    """Name of a module: `layer4`, `layer1.0`, `conv1`."""
    what: str = "weights"
    """What is reset from there on: prunable `weights`; all `parameters`, so also biases and batch
    normalisation's scale and shift; or the whole `state`, with its running statistics."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        model = parent.model
        scope = {
            "weights": prunable(model),
            "parameters": dict(model.named_parameters()),
            "state": model.state_dict(),
        }[self.what]
        mask, above = {}, False
        for name in model.state_dict():
            above = above or name.startswith(f"{self.first}.")
            if name in scope:
                mask[name] = torch.full(scope[name].shape, not above)
        return mask, {}


@dataclass(frozen=True)
class Matched:
    """Random weights, as many in each layer as `like` keeps there: what is left of a criterion if
    only its choice of layers matters. An intervention, no method of the paper."""

    like: Keep

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        draw = parent.draw("mask")
        mask, zero = self.like.mask(parent)
        for name, kept in mask.items():
            order = torch.randperm(kept.numel(), generator=draw)
            mask[name] = kept.flatten()[order].view(kept.shape)
        return mask, zero


@dataclass(frozen=True)
class ReleasedSnip:
    """What the released code computes once repaired (D13-D17).

    Saliency |G * theta|, where G sums |gradient| over the first batches, ceil(number / 32) of them
    (D14, D15); one threshold over all parameters, biases and batch normalisation included, which
    drops the weights at it too (D17). What is dropped outside the convolutions and the classifier
    is left out of the evaluation of the sparse network, but not reset: see `Fresh.shortcuts`.
    """

    share: float

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        model, config, train = parent.model.eval(), parent.config, parent.data.train
        parameters = dict(model.named_parameters())
        total = {name: torch.zeros_like(weight) for name, weight in parameters.items()}
        draw = parent.draw("probe")
        listed = list(batches(train, config.batch, draw))
        for images, labels in listed[: math.ceil(len(listed) / 32)]:
            inputs = normalised(AUGMENTATIONS[config.augment](images, draw), parent.data.dataset)
            loss = F.cross_entropy(model(inputs), labels)
            grads = torch.autograd.grad(loss, list(parameters.values()))
            for name, grad in zip(parameters, grads, strict=True):
                total[name] += grad.abs()
        scores = {name: (w.detach() * total[name]).abs().cpu() for name, w in parameters.items()}
        flat = torch.cat([score.flatten() for score in scores.values()])
        threshold = flat.kthvalue(max(1, int((1 - self.share) * len(flat)))).values
        mask = {name: score > threshold for name, score in scores.items()}
        return mask, {name: score == 0 for name, score in scores.items()}


@dataclass(frozen=True)
class ReleasedMagnitude:
    """The released code's magnitude criterion: per layer, the floor(share * n) - 1 largest *signed*
    weights are kept, so that the most negative are reset (D16)."""

    share: float

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        mask = {}
        for name, weight in prunable(parent.model).items():
            if ".downsample." not in name:
                count = max(0, int(self.share * weight.numel()) - 1)
                mask[name] = top(weight.detach().cpu().flatten(), count).view(weight.shape)
        return mask, {}


# --------------------------------------------------------------------------------------------------
# Counting and storing


def count(mask: Mask) -> dict[str, int]:
    """The number of True values per name."""
    return {name: int(values.sum()) for name, values in mask.items()}


def resampled(keep: Keep, parent: Parent, mask: Mask) -> dict[str, int]:
    """How many weights per name `mask` shares with the mask of independent samples at identical
    weights, for rules that rank by a saliency (`Top`); empty for all others."""
    if not isinstance(keep, Top):
        return {}
    return both(mask, keep.mask(replace(parent, sample=1))[0])


def both(a: Mask, b: Mask) -> dict[str, int]:
    """The number of weights kept by both masks, per name that both have; overlap (DNR Fig. 2) is
    this number over that of the weights kept by `b` (D20)."""
    return {name: int((a[name] & b[name]).sum()) for name in a if name in b}


def pack(mask: Mask) -> bytes:
    """The mask as an .npz archive: per name its shape and one bit per weight."""
    arrays = {}
    for name, values in mask.items():
        arrays[f"{name}:bits"] = np.packbits(values.contiguous().numpy())
        arrays[f"{name}:shape"] = np.array(values.shape)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpack(path: Path) -> Mask:
    """The mask that `pack` stored at `path`."""
    with np.load(path, allow_pickle=False) as arrays:
        mask = {}
        for name in [key.removesuffix(":bits") for key in arrays if key.endswith(":bits")]:
            shape = tuple(arrays[f"{name}:shape"])
            bits = np.unpackbits(arrays[f"{name}:bits"], count=math.prod(shape))
            mask[name] = torch.from_numpy(bits.astype(bool)).view(shape)
        return mask
