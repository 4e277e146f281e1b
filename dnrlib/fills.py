"""What the reset part of a network becomes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .models import fan_in


@dataclass(frozen=True)
class Fresh:
    """New random values, U(-1/sqrt(fan-in), 1/sqrt(fan-in)): Kaiming-uniform with a = sqrt 5.

    This is what KE's, LLF's and DNR's code draws; its standard deviation is 0.41 times that of the
    initial weights (D21).
    """

    def values(self, weights: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
        """A full tensor per name, on the CPU: what is drawn for one weight never depends on which
        others are kept."""
        return {
            name: torch.empty(weight.shape).uniform_(
                -1 / math.sqrt(fan_in(weight)), 1 / math.sqrt(fan_in(weight)), generator=draw
            )
            for name, weight in weights.items()
        }
