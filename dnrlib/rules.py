"""What a plan is made of: rules that say which weights a generation inherits, what becomes of the
rest, and what happens to the part that is kept. Each is a value that enters keys and records."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from . import UserError, masks, models, reinit, slim
from .config import Config, stored
from .datasets.augment import augmented, batches
from .datasets.splits import Data
from .losses import LOSSES
from .masks import Mask, Scores
from .streams import stream


@dataclass(frozen=True)
class Parent:
    """A trained network, which then becomes that of the next generation, in place; and what a mask
    may be computed from."""

    model: nn.Module
    data: Data
    config: Config
    generation: int
    """Number of the generation that has just been trained, 1-based."""
    sample: int = 0
    """0 for the probe and the random numbers that the mask is made with; any other number draws
    independent ones, which shows how much of a mask is chance."""

    def draw(self, purpose: str) -> torch.Generator:
        """The random stream of this generation for `purpose`."""
        named = purpose if self.sample == 0 else f"{purpose}-{self.sample}"
        return stream(self.config.seed, self.generation, named)

    def probe(self, size: float) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of normalised images and labels: random training images, fresh for every
        generation, under the training augmentation (DNR section 3.2, the subset pi). `size` is a
        share up to 1 (at least one image), or a number of images above 1; raises `UserError` if
        there are fewer."""
        draw, train = self.draw("probe"), self.data.train
        count = int(size) if size > 1 else max(1, round(size * len(train)))
        if count > len(train):
            raise UserError(f"probe={size:g} is more than the {len(train)} training images")
        chosen = torch.randperm(len(train), generator=draw)[:count]
        for images, labels in batches(train[chosen.to(train.labels.device)], self.config.batch):
            yield augmented(images, self.data, self.config, draw), labels

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What saliencies are derivatives of, summed over a batch: the cross-entropy (DNR Eq. 4),
        or for embeddings, of which DNR does not speak, the loss that they are trained with."""
        task = LOSSES[self.config.loss]()
        if task.embedding:
            return len(labels) * task.of(outputs, labels)
        return masks.cross_entropy(outputs, labels)


# --------------------------------------------------------------------------------------------------
# Saliencies


class Saliency(Protocol):
    """A score of every prunable weight; the higher, the more it is worth keeping."""

    def scores(self, parent: Parent) -> Scores: ...


@stored("Snip")
class Snip:
    """`masks.snip` on a probe."""

    probe: float
    """Share of the training images up to 1, or a number of images."""

    def scores(self, parent: Parent) -> Scores:
        return masks.snip(parent.model, parent.probe(self.probe), loss=parent.loss)


@stored("Fisher")
class Fisher:
    """`masks.fisher` on a probe."""

    probe: float
    """As for `Snip`."""

    def scores(self, parent: Parent) -> Scores:
        return masks.fisher(parent.model, parent.probe(self.probe))


@stored("Magnitude")
class Magnitude:
    """`masks.magnitude`."""

    def scores(self, parent: Parent) -> Scores:
        return masks.magnitude(parent.model)


@stored("Chance")
class Chance:
    """`masks.chance`, new in every generation."""

    def scores(self, parent: Parent) -> Scores:
        return masks.chance(parent.model, generator=parent.draw("chance"))


CRITERIA: dict[str, Callable[[Config], Saliency]] = {
    "snip": lambda config: Snip(config.probe),
    "fisher": lambda config: Fisher(config.probe),
    "magnitude": lambda config: Magnitude(),
    "random": lambda config: Chance(),
}
"""Saliencies by the names that `Config.criterion` takes, in the order of DNR Table 4."""


# --------------------------------------------------------------------------------------------------
# What is kept


class Keep(Protocol):
    """A rule that says what the next generation inherits."""

    samples = False
    """Whether its mask is made from samples, so that other samples give another mask."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        """The mask, and where its saliency is exactly zero (empty for rules without saliency)."""


@stored("Everything")
class Everything(Keep):
    """The next generation inherits the whole network."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        return {}, {}


@stored("Top")
class Top(Keep):
    """The most salient `share` of all prunable weights (`masks.top`)."""

    samples = True
    score: Saliency
    share: float
    """Share of weights kept, 0..1."""
    scope: str = "global"
    """`global`: one ranking of the whole network. `layer`: the share holds in each layer."""
    least: bool = False
    """Keeps the least salient weights instead: an intervention, no method of the paper."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        scores = self.score.scores(parent)
        mask = masks.top(scores, self.share, self.scope, self.least)
        return mask, {name: score == 0 for name, score in scores.items()}


@stored("Kels")
class Kels(Keep):
    """`masks.kels`, with the input channels of `slim.kels_inputs`."""

    split_rate: float

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        return kels_of(parent.model, parent.config.model, self.split_rate), {}


def kels_of(model: nn.Module, name: str, split_rate: float) -> Mask:
    """The mask of `masks.kels` of a network of `models.MODELS`."""
    inputs = {}
    if models.MODELS[name].side_by_side:
        inputs = slim.kels_inputs(model, split_rate)
    return masks.kels(model, split_rate, inputs=inputs)


def slimmed(model: nn.Module, name: str, split_rate: float) -> nn.Module:
    """The `slim.slim` network of that mask."""
    return slim.slim(model, kels_of(model, name, split_rate))


@stored("Wels")
class Wels(Keep):
    """`masks.wels`."""

    share: float
    redraw: bool = False
    """Draws a new mask after every generation (KE's WELS-Rand) instead of one for all."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        draw = parent.draw("mask") if self.redraw else stream(parent.config.seed, 0, "mask")
        return masks.wels(parent.model, self.share, generator=draw), {}


@stored("Below")
class ResetFrom(Keep):
    """The module `first` and all that follows it in the order of the state dict are reset (LLF, LW;
    with `conv1` the whole network is); what comes before is kept."""

    first: str
    """Name of a module: `layer4`, `layer1.0`, `conv1`."""
    what: str = "weights"
    """What is reset from there on: prunable `weights`; all `parameters`, so also biases and batch
    normalisation's scale and shift; or the whole `state`, with its running statistics."""

    def mask(self, parent: Parent) -> tuple[Mask, Mask]:
        model = parent.model
        scope = {
            "weights": masks.prunable(model),
            "parameters": dict(model.named_parameters()),
            "state": model.state_dict(),
        }[self.what]
        mask, kept = {}, True
        for name in model.state_dict():
            kept = kept and not name.startswith(f"{self.first}.")
            if name in scope:
                mask[name] = torch.full(scope[name].shape, kept)
        return mask, {}


@stored("Matched")
class Matched(Keep):
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


def resampled(keep: Keep, parent: Parent, mask: Mask) -> dict[str, int]:
    """How many weights per name `mask` shares with the mask of independent samples at identical
    weights; empty for rules that are not made from samples."""
    return masks.both(mask, keep.mask(replace(parent, sample=1))[0]) if keep.samples else {}


# --------------------------------------------------------------------------------------------------
# What becomes of the rest


class Fill(Protocol):
    """New values for reset weights."""

    def values(self, parent: Parent, draw: torch.Generator) -> dict[str, Tensor]:
        """A full tensor per state-dict name, on the CPU. A name without a value keeps what it
        has."""


@stored("Fresh")
class Fresh:
    """`reinit.fresh`."""

    shortcuts: bool = True
    """Whether the convolutions on the shortcuts are reset too; in the released DNR code they are
    not (D17)."""

    def values(self, parent: Parent, draw: torch.Generator) -> dict[str, Tensor]:
        drawn = reinit.fresh(parent.model, draw)
        return {n: v for n, v in drawn.items() if self.shortcuts or ".downsample." not in n}


@stored("Zeros")
class Zeros:
    """`reinit.zeros` (DSD)."""

    def values(self, parent: Parent, draw: torch.Generator) -> dict[str, Tensor]:
        return reinit.zeros(parent.model)


@stored("Birth")
class Birth:
    """The values of a new network: Kaiming-normal weights, batch normalisation at 1 and 0."""

    def values(self, parent: Parent, draw: torch.Generator) -> dict[str, Tensor]:
        return models.birth(parent.config, draw).state_dict()


@stored("ShrinkPerturb")
class ShrinkPerturb:
    """`shrink` times the old weight plus `perturb` times that of a new network (Ash and Adams,
    2020). The factors are our choice and were not tuned."""

    shrink: float = 0.4
    perturb: float = 0.1

    def values(self, parent: Parent, draw: torch.Generator) -> dict[str, Tensor]:
        new = masks.prunable(models.birth(parent.config, draw))
        return {
            name: self.shrink * weight.detach().cpu() + self.perturb * new[name].detach()
            for name, weight in masks.prunable(parent.model).items()
        }


# --------------------------------------------------------------------------------------------------
# What happens to the part that is kept


@stored("AsIs")
class AsIs:
    """Kept weights stay bit for bit."""

    def apply(self, parent: Parent, mask: Mask) -> None:
        """Does nothing."""


@stored("Rescaled")
class Rescaled:
    """Layer-wise reinitialisation (LW; Alabdulmohsin et al., 2021): tensors that are kept whole are
    brought back to the Frobenius norm of their initial values, or to zero where that was zero, and
    a fixed normalisation is inserted after the last kept block: per channel, the mean and the
    standard deviation over one batch of training images, never learnt and never updated. That batch
    passes in training mode, so it moves the running statistics of batch normalisation once."""

    after: str
    """Name of that block."""

    def apply(self, parent: Parent, mask: Mask) -> None:
        """Changes the parent's network in place."""
        initial = dict(models.build(parent.config).named_parameters())
        with torch.no_grad():
            for name, weight in parent.model.named_parameters():
                if name in mask and bool(mask[name].all()):
                    norm, target = weight.norm(), initial[name].norm().item()
                    weight *= target / norm if target > 1e-6 and norm > 0 else 0
        draw = parent.draw("normalise")
        order = torch.randperm(len(parent.data.train), generator=draw)[: parent.config.batch]
        images = parent.data.train[order.to(parent.data.train.labels.device)].images
        inputs = augmented(images, parent.data, parent.config, draw)
        models.normalise_after(parent.model, self.after, inputs)
