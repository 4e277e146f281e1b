"""What becomes of the weights that are not kept: reinitialisation, and the loop around it."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from . import UserError
from .config import not_one_of
from .masks import (
    SCOPES,
    Batches,
    Excluded,
    Mask,
    Scores,
    check_share,
    excluded,
    fan_in,
    prunable,
    scorable,
    snip,
    top,
)

Values = Callable[[nn.Module, torch.Generator | None], dict[str, Tensor]]


def fresh(model: nn.Module, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """New values for all prunable weights, U(-1/sqrt(fan-in), 1/sqrt(fan-in)): Kaiming-uniform with
    a = sqrt 5, what torch initialises these layers with (the projections of attention apart).

    This is what KE's, LLF's and DNR's code draws; its standard deviation is 0.41 times that of
    their initial weights (D21).
    """
    values = {}
    for name, weight in prunable(model).items():
        bound = 1 / math.sqrt(fan_in(weight))
        values[name] = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
    return values


def zeros(model: nn.Module, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Zero, for weights that are pruned."""
    return {name: torch.zeros(weight.shape) for name, weight in prunable(model).items()}


def reinitialise(
    model: nn.Module,
    mask: Mask,
    fill: Values = fresh,
    generator: torch.Generator | None = None,
) -> None:
    """Resets what a mask does not keep, in place: theta <- M * theta + (1 - M) * fill (DNR Eq. 7).

    `fill` is a function of the network and the generator that returns a full CPU tensor per name,
    so that what is drawn for one weight never depends on which others are kept. Kept weights stay
    bit for bit; so does all that the mask or the fill does not name (biases, batch normalisation
    and its running statistics). Without a `generator` the numbers are torch's global ones. Raises
    `UserError` for a mask of another network.
    """
    state = model.state_dict()
    for name, kept in mask.items():
        shape = tuple(state[name].shape) if name in state else "not there"
        if kept.dtype != torch.bool or tuple(kept.shape) != shape:
            raise UserError(
                f"the mask does not fit the network: {name} is {kept.dtype} {tuple(kept.shape)} in "
                f"the mask and {shape} in the network"
            )
    with torch.no_grad():
        for name, values in fill(model, generator).items():
            if name in mask:
                kept, values = (tensor.to(state[name].device) for tensor in (mask[name], values))
                state[name].copy_(torch.where(kept, state[name], values))


def regenerate(
    model: nn.Module,
    batches: Batches,
    generations: int,
    keep: float = 0.8,
    *,
    saliency: Callable[..., Scores] = snip,
    scope: str = "global",
    exclude: Excluded = (),
    fill: Values = fresh,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """The loop of DNR (section 3) around a training of your own: yields the number of each
    generation, from 1, before it is trained.

        for generation in regenerate(model, loader, generations=10):
            train(model, loader)

    From the second on, the share `keep` of the weights with the largest `saliency` on the batches
    is kept (`masks.top`), and the rest reset (`reinitialise`), before the number is yielded. Make a
    new optimiser for each generation, as the paper does. Raises `UserError` before the first
    training for a network or a share that cannot be used, and for batches that can be read only
    once.
    """
    check_share(keep)
    if scope not in SCOPES:
        raise UserError(not_one_of("scope", scope, SCOPES))
    if generations < 1:
        raise UserError(f"generations={generations!r} must be at least 1")
    if iter(batches) is batches:
        raise UserError("the batches can be read only once; give a list of them, or a DataLoader")
    exclude = excluded(exclude)
    scorable(model, exclude)
    for generation in range(1, generations + 1):
        if generation > 1:
            mask = top(saliency(model, batches, exclude=exclude), keep, scope)
            reinitialise(model, mask, fill, generator)
        yield generation
