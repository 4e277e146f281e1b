"""Which weights a child inherits: saliencies, selections, overlap, packed-bit storage.

A mask is a dict from state-dict names to boolean CPU tensors, True where the weight is kept. A name
that is absent is inherited whole.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
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


class Keep(Protocol):
    """A rule that says what the next generation inherits."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        """The mask, and where its saliency is exactly zero (empty for rules without saliency)."""


# --------------------------------------------------------------------------------------------------
# Saliencies


def probe(parent: Parent, share: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of normalised images and labels: a random share of the training split (at least one
    image), fresh for every generation, under the training augmentation (DNR section 3.2, the
    subset pi)."""
    config, train = parent.config, parent.data.train
    draw = stream(config.seed, parent.generation, "probe")
    count = max(1, round(share * len(train)))
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
    """Share of the training images, 0..1."""

    def scores(self, parent: Parent) -> Mask:
        """One float32 tensor per prunable name, on the CPU, at least 0."""
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


# --------------------------------------------------------------------------------------------------
# Selections


@dataclass(frozen=True)
class Everything:
    """The child inherits the whole network."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        return {}, {}


@dataclass(frozen=True)
class Top:
    """The most salient `share` of all prunable weights, one threshold for the whole network.

    Exactly round(share * m) of m weights are kept (DNR Eq. 6 keeps every weight at the threshold,
    which with many zero saliencies can be all of them).
    """

    score: Snip
    share: float
    """Share of weights kept, 0..1."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        scores = self.score.scores(parent)
        flat = torch.cat([score.reshape(-1) for score in scores.values()])
        if not torch.isfinite(flat).all():
            raise UserError(
                f"saliency after generation {parent.generation} is not finite; the training has "
                "diverged: lower lr or add warmup epochs"
            )
        kept = top(flat, round(self.share * len(flat)))
        sizes = [score.numel() for score in scores.values()]
        mask = {
            name: part.view(scores[name].shape)
            for name, part in zip(scores, kept.split(sizes), strict=True)
        }
        return mask, {name: score == 0 for name, score in scores.items()}


def top(scores: Tensor, count: int) -> Tensor:
    """True for exactly `count` of the largest of `scores` (n,); among equals, the first are kept.

    A comparison with a threshold alone would keep all or none of the ties.
    """
    if count == 0:
        return torch.zeros(len(scores), dtype=torch.bool)
    threshold = scores.kthvalue(len(scores) - count + 1).values
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
    """KE's weight-level split: exactly round(share * n) random weights of each layer, drawn once.

    The paper says a share of the weights; the released code draws each weight independently, so
    that its share holds in expectation only (D25).
    """

    share: float

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        draw = stream(parent.config.seed, 0, "mask")
        mask = {}
        for name, weight in prunable(parent.model).items():
            order = torch.randperm(weight.numel(), generator=draw)
            flat = torch.zeros(weight.numel(), dtype=torch.bool)
            flat[order[: round(self.share * weight.numel())]] = True
            mask[name] = flat.view(weight.shape)
        return mask, {}


# --------------------------------------------------------------------------------------------------
# Counting and storing


def count(mask: Mask) -> dict[str, int]:
    """The number of True values per name."""
    return {name: int(values.sum()) for name, values in mask.items()}


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
