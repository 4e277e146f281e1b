"""The slim network of KE (section 3.2): what a mask of whole filters and channels keeps, as a small
dense network of its own."""

import copy
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from . import UserError
from .masks import Mask, first_channels

Channels = dict[str, tuple[Tensor, Tensor]]


def channels(model: nn.Module, outputs: Callable[[str, nn.Module], Tensor]) -> Channels:
    """The input and the output channels (indices) that are kept of every convolution, linear layer
    and batch normalisation, by name, if `outputs` says which outputs of a layer are.

    What a layer gets from a concatenation are the channels kept of each of its parts, as in KE
    appendix B. Raises `UserError` for a network that cannot be traced, and where the parts of a sum
    keep different channels.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise UserError(f"the network cannot be traced: {error}") from error
    found: Channels = {}
    kept: dict[fx.Node, tuple[Tensor, int]] = {}
    """By value of the graph, the channels that are kept of it, and how many it has."""
    for node in graph.nodes:
        parts = [kept[part] for part in node.all_input_nodes if part in kept]
        module = model.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.Conv2d | nn.Linear):
            wide = module.weight.shape[1]
            inputs, total = parts[0] if parts else (torch.arange(wide), wide)
            # A linear layer may see several pixels of each channel.
            pixels = torch.arange(wide // total)
            inputs = (inputs[:, None] * len(pixels) + pixels).flatten()
            found[node.target] = inputs, outputs(node.target, module)
            kept[node] = found[node.target][1], module.weight.shape[0]
        elif node.target is torch.cat:
            totals = [total for _, total in parts]
            starts = itertools.accumulate(totals, initial=0)
            joined = [inputs + start for (inputs, _), start in zip(parts, starts, strict=False)]
            kept[node] = torch.cat(joined), sum(totals)
        elif parts:
            if any(not torch.equal(inputs, parts[0][0]) for inputs, _ in parts):
                raise UserError(f"{node} adds layers of which different channels are kept")
            if isinstance(module, nn.BatchNorm2d):
                found[node.target] = parts[0][0], parts[0][0]
            kept[node] = parts[0]
    return found


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) or super().is_leaf_module(module, name)


def kels_inputs(model: nn.Module, split_rate: float) -> dict[str, Tensor]:
    """The inputs that KELS keeps of each layer, by the name of its weight: behind a concatenation
    the first channels of each part (KE appendix B), all pixels of a channel together. For
    `masks.kels`."""
    found = channels(
        model, lambda _, layer: torch.arange(first_channels(split_rate, layer.weight.shape[0]))
    )
    return {f"{name}.weight": inputs for name, (inputs, _) in found.items()}


def operations(model: nn.Module, shape: tuple[int, ...]) -> int:
    """The multiplications and additions of a network for an input of this shape (batch included),
    as torch counts them: those of convolutions and matrix products, two per weight and position.
    Nothing is computed."""
    empty = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        empty(torch.empty(shape, device="meta"))
    return counter.get_total_flops()


def slim(model: nn.Module, mask: Mask) -> nn.Module:
    """A new, smaller network, in the mode of `model`, that computes what `model` does with the
    weights outside `mask` at zero.

    `mask` keeps whole filters and channels, as `masks.kels` does. Raises `UserError` for any other
    mask, for a network that cannot be traced, and for one with weights in other layers than
    convolutions, linear layers and batch normalisations. What else mixes channels, such as a
    softmax over them, is not noticed.
    """

    def outputs(name: str, layer: nn.Module) -> Tensor:
        rows = mask.get(f"{name}.weight", torch.ones(layer.weight.shape, dtype=torch.bool))
        return rows.flatten(1).any(1).nonzero()[:, 0]

    small, found = copy.deepcopy(model), channels(model, outputs)
    for name, layer in model.named_modules():
        if name not in found and next(layer.parameters(recurse=False), None) is not None:
            raise UserError(f"{name} is a {type(layer).__name__}, which cannot be made slim")
    if missing := [name for name in mask if name.rpartition(".")[0] not in found]:
        raise UserError(f"the mask has {missing[0]}, which is no weight of the network")
    for name, (inputs, kept) in found.items():
        old = model.get_submodule(name)
        if isinstance(old, nn.BatchNorm2d):
            how = old.eps, old.momentum, old.affine, old.track_running_stats
            new = nn.BatchNorm2d(len(kept), *how)
        else:
            part = torch.zeros(old.weight.shape, dtype=torch.bool)
            part[kept[:, None], inputs] = True
            if not torch.equal(mask.get(f"{name}.weight", part), part):
                raise UserError(f"the mask of {name} does not keep whole filters and channels")
            with_bias = old.bias is not None
            if isinstance(old, nn.Linear):
                new = type(old)(len(inputs), len(kept), with_bias)
            else:
                window = old.kernel_size, old.stride, old.padding, old.dilation
                how = {"bias": with_bias, "padding_mode": old.padding_mode}
                new = nn.Conv2d(len(inputs), len(kept), *window, **how)
        state = {
            key: value[kept.to(value.device)] if value.dim() else value
            for key, value in old.state_dict().items()
        }
        if not isinstance(old, nn.BatchNorm2d):
            state["weight"] = state["weight"][:, inputs.to(state["weight"].device)]
        # A batch normalisation may have no weights of its own.
        new.to(next(old.parameters(), next(model.parameters()))).load_state_dict(state)
        small.set_submodule(name, new.train(old.training))
    return small
