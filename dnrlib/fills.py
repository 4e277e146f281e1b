"""What the reset part of a network becomes, and what happens to the part that is kept."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from .data import AUGMENTATIONS, normalised
from .masks import Mask, Parent
from .models import birth, build, fan_in, normalise_after, prunable

if TYPE_CHECKING:
    from .config import Config


class Fill(Protocol):
    """New values for reset weights."""

    def values(
        self, model: nn.Module, config: "Config", draw: torch.Generator
    ) -> dict[str, Tensor]:
        """A full tensor per state-dict name, on the CPU: what is drawn for one weight never depends
        on which others are kept. A name without a value keeps what it has."""


@dataclass(frozen=True)
class Fresh:
    """New random values, U(-1/sqrt(fan-in), 1/sqrt(fan-in)): Kaiming-uniform with a = sqrt 5.

    This is what KE's, LLF's and DNR's code draws; its standard deviation is 0.41 times that of the
    initial weights (D21).
    """

    shortcuts: bool = True
    """Whether the convolutions on the shortcuts are reset too; in the released DNR code they are
    not (D17)."""

    def values(
        self, model: nn.Module, config: "Config", draw: torch.Generator
    ) -> dict[str, Tensor]:
        drawn = {}
        for name, weight in prunable(model).items():
            bound = 1 / math.sqrt(fan_in(weight))
            fresh = torch.empty(weight.shape).uniform_(-bound, bound, generator=draw)
            if self.shortcuts or ".downsample." not in name:
                drawn[name] = fresh
        return drawn


@dataclass(frozen=True)
class Zeros:
    """Zero, for weights that are pruned (DSD)."""

    def values(
        self, model: nn.Module, config: "Config", draw: torch.Generator
    ) -> dict[str, Tensor]:
        return {name: torch.zeros(weight.shape) for name, weight in prunable(model).items()}


@dataclass(frozen=True)
class Birth:
    """The values of a newborn network: Kaiming-normal weights, batch normalisation at 1 and 0."""

    def values(
        self, model: nn.Module, config: "Config", draw: torch.Generator
    ) -> dict[str, Tensor]:
        return birth(config, draw).state_dict()


@dataclass(frozen=True)
class ShrinkPerturb:
    """`shrink` times the old weight plus `perturb` times that of a newborn network (Ash and Adams,
    2020). The factors are our choice and were not tuned."""

    shrink: float = 0.4
    perturb: float = 0.1

    def values(
        self, model: nn.Module, config: "Config", draw: torch.Generator
    ) -> dict[str, Tensor]:
        newborn = prunable(birth(config, draw))
        return {
            name: self.shrink * weight.detach().cpu() + self.perturb * newborn[name].detach()
            for name, weight in prunable(model).items()
        }


# --------------------------------------------------------------------------------------------------
# What happens to the part that is kept


@dataclass(frozen=True)
class AsIs:
    """Kept weights stay bit for bit."""

    def apply(self, parent: Parent, mask: Mask) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Rescaled:
    """Layer-wise reinitialisation (LW; Alabdulmohsin et al., 2021): tensors that are kept whole are
    brought back to the Frobenius norm of their birth, or to zero where that was zero, and a fixed
    normalisation is inserted after the last kept block: per channel, the mean and the standard
    deviation over one batch of training images, never learnt and never updated. That batch passes
    in training mode, so it moves the running statistics of batch normalisation once."""

    after: str
    """Name of that block."""

    def apply(self, parent: Parent, mask: Mask) -> None:
        """Changes the parent's network in place."""
        newborn = dict(build(parent.config).named_parameters())
        with torch.no_grad():
            for name, weight in parent.model.named_parameters():
                if name in mask and bool(mask[name].all()):
                    norm, target = weight.norm(), newborn[name].norm().item()
                    weight *= target / norm if target > 1e-6 and norm > 0 else 0
        draw = parent.draw("normalise")
        order = torch.randperm(len(parent.data.train), generator=draw)[: parent.config.batch]
        images = parent.data.train[order.to(parent.data.train.labels.device)].images
        inputs = normalised(AUGMENTATIONS[parent.config.augment](images, draw), parent.data.dataset)
        normalise_after(parent.model, self.after, inputs)
