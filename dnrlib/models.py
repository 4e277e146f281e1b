"""Networks of torchvision, with a choice of width and of the first layers."""

import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from . import UserError
from .config import PRETRAINED, Config
from .datasets.catalogue import dataset
from .losses import LOSSES, CosineHead
from .masks import fan_in, prunable
from .streams import stream

STEMS = ("3x3", "7x7")


@dataclass(frozen=True)
class Network:
    """What is known of a network of torchvision; its parts are named as they are there."""

    first: str
    """The first convolution."""
    pools: tuple[str, ...]
    """The poolings that are left out on small images."""
    blocks: tuple[str, ...]
    """The blocks, from the input to the output."""
    later: tuple[str, str]
    """Where the last stage but one and the last stage begin."""
    head: str = "fc"
    """The last linear layer."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the network is made with."""
    deviation: float = 0.0
    """Standard deviation of the initial weights, a normal distribution cut off at two of them; 0:
    Kaiming-normal."""
    side_by_side: bool = False
    """Whether a layer sees several layers, or several pixels of a channel, side by side."""
    bias: bool = True
    """Whether the biases of linear layers are drawn; else they start at zero."""


def _numbered(name: str, start: int, depths: tuple[int, ...]) -> tuple[str, ...]:
    """The names of the blocks of stages of these depths, counted from `start` in each."""
    stages = enumerate(depths, 1)
    return tuple(name.format(stage, start + n) for stage, depth in stages for n in range(depth))


def _resnet(*depths: int) -> Network:
    return Network("conv1", ("maxpool",), _numbered("layer{}.{}", 0, depths), ("layer3", "layer4"))


MODELS = {
    "resnet18": _resnet(2, 2, 2, 2),
    "resnet34": _resnet(3, 4, 6, 3),
    "resnet50": _resnet(3, 4, 6, 3),
    "vgg11_bn": Network(
        "features.0",
        ("features.3", "features.7"),
        tuple(f"features.{number}" for number in (0, 4, 8, 11, 15, 18, 22, 25)),
        ("features.15", "features.22"),
        "classifier.6",
        {"init_weights": False, "dropout": 0.0},
        side_by_side=True,
    ),
    "googlenet": Network(
        "conv1.conv",
        ("maxpool1",),
        tuple(
            f"inception{part}" for part in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
        ),
        ("inception4a", "inception5a"),
        options={"init_weights": False, "aux_logits": False, "dropout": 0.0},
        deviation=0.01,
        side_by_side=True,
    ),
    "densenet169": Network(
        "features.conv0",
        ("features.pool0",),
        _numbered("features.denseblock{}.denselayer{}", 1, (6, 12, 32, 32)),
        ("features.denseblock3", "features.denseblock4"),
        "classifier",
        side_by_side=True,
        bias=False,
    ),
}
"""The networks of the papers, by their names in torchvision. They have no dropout, since torch
draws it from its global numbers. The branch '5x5' of GoogLeNet is 3x3 there and in KE's code."""


def network(
    name: str, classes: int, channels: int, width: int, stem: str, cosines: bool = False
) -> nn.Module:
    """A network of `MODELS`, on the current device; its values are not set.

    All of torchvision's numbers of channels are multiplied by `width` / 64, so that `width` is that
    of the first stage; at 64 it is torchvision's network. The stem `7x7` is torchvision's too; with
    `3x3`, for small images, the first convolution is 3x3 with stride 1, and `Network.pools` are
    left out. With `cosines` its last layer is a `CosineHead`. Raises `UserError` if a number of
    channels is not whole.
    """
    # Importing torchvision takes longer than all else that a page needs.
    from torchvision import models

    def times(number: int) -> int:
        whole, rest = divmod(number * width, 64)
        if rest:
            raise UserError(f"width={width} does not fit {name}; use a multiple of 8")
        return whole

    about = MODELS[name]
    with torch.device("meta"):
        model = getattr(models, name)(num_classes=classes, **about.options)
        for part, old in list(model.named_modules()):
            bias = getattr(old, "bias", None) is not None
            if stem == "3x3" and part in about.pools:
                new = nn.Identity()
            elif isinstance(old, nn.Conv2d):
                window = old.kernel_size, old.stride, old.padding
                if stem == "3x3" and part == about.first:
                    window = 3, 1, 1
                inputs = channels if part == about.first else times(old.in_channels)
                new = nn.Conv2d(inputs, times(old.out_channels), *window, bias=bias)
            elif isinstance(old, nn.BatchNorm2d):
                new = nn.BatchNorm2d(times(old.num_features), old.eps)
            elif isinstance(old, nn.Linear):
                outputs = classes if part == about.head else times(old.out_features)
                kind = CosineHead if cosines and part == about.head else nn.Linear
                new = kind(times(old.in_features), outputs)
            else:
                continue
            model.set_submodule(part, new)
    model.register_forward_pre_hook(_in_one_layout)
    return model.to_empty(device=torch.get_default_device())


def _in_one_layout(model: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    """Images that are channels last make every layer so, also where `birth` had to avoid it."""
    contiguous = next(model.parameters()).is_contiguous()
    return (given[0].contiguous(),) if contiguous else given


def shape(config: Config) -> tuple[int, int, int, str]:
    """The outputs, the channels of the images, the width and the stem of the network of a run."""
    images, embedding = dataset(config.dataset), LOSSES[config.loss].embedding
    return embedding or len(images.classes), images.channels, config.width, config.stem


def build(config: Config) -> nn.Module:
    """The network of a run with its initial weights, on the CPU; raises `UserError` if those of
    torchvision are not on this machine, or do not fit the network."""
    model = birth(config, stream(config.seed, 0, "birth"))
    if config.start == PRETRAINED:
        _load_pretrained(model, config)
    return model


def pretrained_file(name: str) -> Path:
    """Where torchvision keeps the ImageNet weights of a network on this machine."""
    from torchvision.models import get_model_weights

    url = get_model_weights(name)[PRETRAINED.upper()].url
    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(url).name


def _load_pretrained(model: nn.Module, config: Config) -> None:
    """Gives a network torchvision's weights, all but those of its last layer."""
    path, head = pretrained_file(config.model), MODELS[config.model].head
    if not path.exists():
        raise UserError(
            f"start={config.start!r} needs {path}; with a network connection, "
            f"torchvision.models.{config.model}(weights={config.start.upper()!r}) puts it there"
        )
    # The name ends in the first digits of its SHA-256.
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2]):
        raise UserError(f"{path} is damaged: it does not fit its name; delete it")
    # The file of a DenseNet says norm.1.weight where torchvision now says norm1.weight.
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.", r"\1", name): value
        for name, value in torch.load(path, weights_only=True, map_location="cpu").items()
    }
    own = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(f"{head}.") and not name.endswith("num_batches_tracked")
    }
    if missing := own.keys() - state.keys():
        raise UserError(f"{path} is not of the network {config.model}: no {min(missing)} is in it")
    if any(state[name].shape != value.shape for name, value in own.items()):
        raise UserError(
            f"start={config.start!r} is for width=64, stem='7x7' and colour images; not for this "
            "network"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def birth(config: Config, draw: torch.Generator) -> nn.Module:
    """A new network with random weights, on the CPU, as in KE's and the released DNR code.

    Convolution and linear weights are Kaiming-normal (fan-in, gain sqrt 2), those of GoogLeNet
    normal and cut off. Biases of linear layers are uniform in +-1/sqrt(fan-in), zero in DenseNet;
    those of convolutions are zero; batch normalisation starts at 1 and 0.

    Tensors are channels last, the faster layout; but not where torch 2.15 overruns a buffer in the
    backward pass of the shortcuts (1x1, stride 2; oneDNN issue 6035) and crashes: on several CPU
    threads, for fewer channels than a vector holds (8 with AVX2), and for fewer than 16 (AVX-512)
    on images of more than 40 pixels.
    """
    images, about = dataset(config.dataset), MODELS[config.model]
    model = network(config.model, *shape(config), cosines=config.loss == "adacos")
    for weight in prunable(model).values():
        if cut := 2 * about.deviation:
            nn.init.trunc_normal_(weight, 0, about.deviation, -cut, cut, generator=draw)
        else:
            nn.init.normal_(weight, 0, math.sqrt(2 / fan_in(weight)), generator=draw)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
        if isinstance(module, CosineHead):
            module.reset_scale()
        elif isinstance(module, nn.Linear) and about.bias:
            bound = 1 / math.sqrt(fan_in(module.weight))
            nn.init.uniform_(module.bias, -bound, bound, generator=draw)
        elif getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    narrow = config.width < 8 or (config.width < 16 and images.size > 40)
    unsafe = config.threads > 1 or narrow
    return model.to(memory_format=torch.contiguous_format if unsafe else torch.channels_last)


class Fixed(nn.Module):
    """Subtracts a mean and divides by a standard deviation per channel; neither is ever learnt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.deviation


def insert_fixed(model: nn.Module, block: str, channels: int) -> Fixed:
    """Appends a `Fixed` normalisation to a block, as its child `fixed`; returns it."""
    module = model.get_submodule(block)
    module.fixed = Fixed(channels).to(next(model.parameters()).device)
    module.register_forward_hook(lambda module, inputs, output: module.fixed(output))
    return module.fixed


def normalise_after(model: nn.Module, block: str, inputs: Tensor) -> None:
    """Appends a `Fixed` normalisation to a block, by its outputs on `inputs` in training mode: the
    running statistics of batch normalisation no longer fit weights that were just rescaled."""
    seen: list[Tensor] = []
    module = model.get_submodule(block)
    watch = module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        model.train()(inputs)
    watch.remove()
    fixed = insert_fixed(model, block, seen[0].shape[1])
    deviation, mean = torch.std_mean(seen[0], (0, 2, 3), correction=0, keepdim=True)
    fixed.mean.copy_(mean)
    # A channel that is dead on this batch has no spread.
    fixed.deviation.copy_(deviation + 1e-5)


def load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads a state dict into a network, with the fixed normalisations that it names."""
    for name, value in state.items():
        block = name.removesuffix(".fixed.mean")
        if block != name and not hasattr(model.get_submodule(block), "fixed"):
            insert_fixed(model, block, value.shape[1])
    model.load_state_dict(state)


LAYERS = ["conv1"]
LAYERS += [f"{block}.conv{n}" for block in MODELS["resnet18"].blocks for n in (1, 2)]
LAYERS += ["fc"]
"""The layers that the paper's overlap maps number 1 to 18: no shortcut convolutions."""
