"""Which weights are kept: saliencies of a network, exact selections, overlap, packed storage.

Networks are any `torch.nn.Module`; batches are `(inputs, labels)` from a `DataLoader`, a list, or
any iterable. Scores and masks are dicts from state-dict names to CPU tensors of a weight's shape; a
mask is boolean, True where the weight is kept. A name that is absent is kept whole.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import UserError
from .config import not_one_of

Scores = dict[str, Tensor]
Mask = dict[str, Tensor]
Batches = Iterable[tuple[Any, Tensor]]
Excluded = str | nn.Module | Iterable[str | nn.Module]
Loss = Callable[[Any, Tensor], Tensor]

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
SCOPES = ("global", "layer")


def prunable(model: nn.Module, exclude: Excluded = ()) -> dict[str, nn.Parameter]:
    """The tensors that are scored and may be reset, by state-dict name: the weights of all
    convolutions and linear layers, and the input projections of attention. Biases and
    normalisation are always kept.

    Left out are frozen weights (without `requires_grad`) and those in the modules `exclude`, given
    by name or themselves. A weight that several layers share counts once, under its first name.
    Raises `UserError` for one in `exclude` that is no module of the network.
    """
    modules = dict(model.named_modules())
    exclude, own = excluded(exclude), {*modules, *modules.values()}
    if missing := [each for each in exclude if each not in own]:
        raise UserError(f"exclude={missing[0]!r} is no module of the network")
    roots = [modules[name] if isinstance(name, str) else name for name in exclude]
    inside = {part for root in roots for part in root.modules()}
    found: dict[str, nn.Parameter] = {}
    seen = set()
    for name, module in modules.items():
        attribute = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
        weight = getattr(module, attribute, None)
        kind = isinstance(module, (*CONVOLUTIONS, nn.Linear, nn.MultiheadAttention))
        # With weight normalisation the weight is computed and no parameter.
        if not kind or module in inside or not isinstance(weight, nn.Parameter):
            continue
        if weight.requires_grad and id(weight) not in seen:
            seen.add(id(weight))
            found[f"{name}.{attribute}".removeprefix(".")] = weight
    return found


def excluded(exclude: Excluded) -> list[str | nn.Module]:
    """The modules to leave out as a list; one of them may be given alone."""
    return [exclude] if isinstance(exclude, str | nn.Module) else list(exclude)


def fan_in(weight: Tensor) -> int:
    """The number of inputs of one output of a convolution or linear weight (of a transposed
    convolution what torch calls so, too)."""
    return weight[0].numel()


# --------------------------------------------------------------------------------------------------
# Saliencies


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """The sum of the cross-entropy over a batch, without smoothing. Raises `UserError` for outputs
    that are no tensor."""
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"the network returns a {type(outputs).__name__}: pass loss=, a function of that and "
            "the labels that returns the sum over a batch"
        )
    return F.cross_entropy(outputs, labels, reduction="sum")


def snip(
    model: nn.Module,
    batches: Batches,
    *,
    loss: Loss = cross_entropy,
    exclude: Excluded = (),
) -> Scores:
    """Connection sensitivity |theta * dL/dtheta| of every prunable weight after training (DNR Eqs.
    4 and 5; SNIP, Lee et al., 2019): float tensors on the CPU, at least 0.

    L is the mean over all images of `loss`, a function of outputs and labels that returns the sum
    over a batch. The network is in evaluation mode meanwhile: running statistics are used, not
    changed; its modes, gradients and buffers are left as they were. The normalisation of Eq. 5 does
    not change the ranking and is left out. The paper leaves these points open; the released code
    sums |dL/dtheta| over batches instead (D15) and scores biases and batch normalisation too (D17).
    A weight that the output does not depend on has the score 0.

    All batches are held in memory at once: a sample is enough. Raises `UserError` if there are no
    batches or no prunable weights, and for a batch that is no pair.
    """
    weights = scorable(model, exclude)
    listed = list(pairs(batches))
    count = sum(len(labels) for _, labels in listed)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with evaluating(model):
        for inputs, labels in on_device_of(model, listed):
            add_gradients(total, weights, loss(model(inputs), labels) / count)
    return {name: (w.detach() * total[name]).abs().cpu() for name, w in weights.items()}


def fisher(
    model: nn.Module,
    batches: Batches,
    *,
    loss: Loss = cross_entropy,
    exclude: Excluded = (),
) -> Scores:
    """Empirical Fisher information: the sum over all images of (d loss / d theta)^2, image by image
    (DNR Table 4, 'FIM'; the paper gives no formula, and the released code squares the gradient of a
    batch mean). Otherwise as `snip`; inputs are tensors."""
    weights = scorable(model, exclude)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with evaluating(model):
        for inputs, labels in on_device_of(model, batches):
            for image, label in zip(inputs.split(1), labels.split(1), strict=True):
                add_gradients(total, weights, loss(model(image), label), torch.square)
    return {name: values.cpu() for name, values in total.items()}


def magnitude(model: nn.Module, batches: Batches = (), *, exclude: Excluded = ()) -> Scores:
    """|theta| of every prunable weight (DNR Table 4, 'Weight Magnitude'); needs no batches."""
    return {name: w.detach().abs().cpu() for name, w in scorable(model, exclude).items()}


def chance(
    model: nn.Module,
    batches: Batches = (),
    *,
    exclude: Excluded = (),
    generator: torch.Generator | None = None,
) -> Scores:
    """Independent uniform numbers; needs no batches. Not the row 'Random' of DNR Table 4, which is
    KE."""
    weights = scorable(model, exclude)
    return {name: torch.rand(w.shape, generator=generator) for name, w in weights.items()}


def scorable(model: nn.Module, exclude: Excluded = ()) -> dict[str, nn.Parameter]:
    """The `prunable` weights; raises `UserError` if there are none."""
    weights = prunable(model, exclude)
    if not weights:
        raise UserError(
            "the network has no convolution or linear weight to score: all that it has are "
            "excluded or frozen (requires_grad is False)"
        )
    return weights


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients; afterwards every module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def pairs(batches: Batches) -> Iterator[tuple[Any, Tensor]]:
    """The batches as they are; raises `UserError` for one that is no pair (inputs, labels)."""
    for batch in batches:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise UserError(
                f"a batch must be a pair (inputs, labels), not a {type(batch).__name__}; of dicts "
                'make pairs: [(each["inputs"], each["labels"]) for each in loader]'
            )
        yield batch


def on_device_of(model: nn.Module, batches: Batches) -> Iterator[tuple[Any, Tensor]]:
    """The batches on the device of the network; raises `UserError` if there are none."""
    device, empty = next(model.parameters()).device, True
    for inputs, labels in pairs(batches):
        empty = empty and not len(labels)
        yield inputs.to(device), labels.to(device)
    if empty:
        raise UserError(
            "there are no images in the batches; an iterator that was used up gives none, so pass "
            "a list or a DataLoader"
        )


def add_gradients(
    total: Scores,
    weights: dict[str, nn.Parameter],
    loss: Tensor,
    change: Callable[[Tensor], Tensor] = lambda grad: grad,
) -> None:
    """Adds the gradients of a loss, each after a `change`, to the totals by name."""
    grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    for name, grad in zip(weights, grads, strict=True):
        if grad is not None:
            total[name] += change(grad)


# --------------------------------------------------------------------------------------------------
# Selections


def top(scores: Scores, keep: float, scope: str = "global", least: bool = False) -> Mask:
    """The mask of the weights with the largest scores, the share `keep` of them (0..1).

    Exactly round(keep * m) of m weights are kept; among equal scores, the first (DNR Eq. 6 keeps
    every weight at the threshold, which with many zero saliencies can be all of them). `global` is
    one ranking of the whole network; with `layer` the share holds in each layer. With `least` the
    smallest scores are kept instead. Raises `UserError` for scores that are not finite.
    """
    check_share(keep)
    if scope not in SCOPES:
        raise UserError(not_one_of("scope", scope, SCOPES))
    flat = torch.cat([score.detach().reshape(-1).cpu() for score in scores.values()])
    flat = flat if flat.dtype == torch.float64 else flat.float()
    if not math.isfinite(sum(map(float, flat.aminmax()))):
        raise UserError(
            "a saliency is not finite; the training has diverged: lower lr or add warmup epochs"
        )
    flat = -flat if least else flat
    sizes = [score.numel() for score in scores.values()]
    if scope == "layer":
        kept = [largest(part, round(keep * len(part))) for part in flat.split(sizes)]
    else:
        kept = largest(flat, round(keep * len(flat))).split(sizes)
    return {name: part.view(scores[name].shape) for name, part in zip(scores, kept, strict=True)}


def check_share(share: float, name: str = "keep") -> None:
    """Raises `UserError` for a share outside 0..1."""
    if not 0 <= share <= 1:
        raise UserError(f"{name}={share!r} must lie between 0 and 1")


def largest(scores: Tensor, count: int) -> Tensor:
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


def kels(
    model: nn.Module,
    split_rate: float,
    inputs: dict[str, Tensor] | None = None,
) -> Mask:
    """KE's kernel-level split: the first ceil(s * filters) x ceil(s * channels) of each layer.

    The first convolution keeps all input channels, the last linear layer all outputs (KE section
    3.2). The mask depends on nothing but shapes, so it is the same after every generation. About
    s^2 of the weights are kept: s = 0.8 resets 36 %, not 20 % (D27). `inputs` are the input
    channels (indices) of layers that keep others than the first, by the name of their weight:
    `slim.kels_inputs`. Raises `UserError` for a share outside 0..1.
    """
    check_share(split_rate, "split_rate")
    weights = scorable(model)
    mask, last = {}, len(weights) - 1
    for position, (name, weight) in enumerate(weights.items()):
        outputs, first = (first_channels(split_rate, size) for size in weight.shape[:2])
        columns = (inputs or {}).get(name, torch.arange(first if position else weight.shape[1]))
        mask[name] = torch.zeros(weight.shape, dtype=torch.bool)
        mask[name][: None if position == last else outputs, columns] = True
    return mask


def first_channels(split_rate: float, size: int) -> int:
    """How many of `size` filters or channels KELS keeps: the first ceil(s * size)."""
    # 0.55 * 100 is 55.00000000000001 in floating point, and its ceiling is 55 all the same.
    return math.ceil(round(split_rate * size, 9))


def wels(
    model: nn.Module,
    share: float,
    generator: torch.Generator | None = None,
) -> Mask:
    """KE's weight-level split: exactly round(share * n) random weights of each layer (KE section
    3.2).

    The paper says a share of the weights; the released code draws each weight independently, so
    that its share holds in expectation only (D25). Raises `UserError` for a share outside 0..1.
    """
    check_share(share, "share")
    mask = {}
    for name, weight in scorable(model).items():
        order = torch.randperm(weight.numel(), generator=generator)
        flat = torch.zeros(weight.numel(), dtype=torch.bool)
        flat[order[: round(share * weight.numel())]] = True
        mask[name] = flat.view(weight.shape)
    return mask


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
            # Cut off, not asked for by number: a damaged shape may name more than memory holds.
            bits = np.unpackbits(arrays[f"{name}:bits"])[: math.prod(shape)]
            mask[name] = torch.from_numpy(bits.astype(bool)).view(shape)
        return mask
