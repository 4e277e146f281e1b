"""Residual networks in torchvision's topology, with a choice of stem and width."""

import functools
import math

import torch
from torch import Tensor, nn

from .config import Config
from .datasets.catalogue import dataset
from .masks import fan_in, prunable
from .streams import stream

MODELS = {"resnet18": ("BasicBlock", (2, 2, 2, 2)), "resnet50": ("Bottleneck", (3, 4, 6, 3))}
"""Networks by name: the block of torchvision that they are made of, and how many per stage."""
STEMS = ("3x3", "7x7")


@functools.cache
def resnet() -> type[nn.Module]:
    """The class of our networks: torchvision's ResNet with `width` channels in the first stage and
    a stem for small images.

    Layer names, and at width 64 with the 7x7 stem the function too, are torchvision's own. Its
    constructor fixes the widths, so this one repeats it with `width` in their place. Made when
    first asked for: importing torchvision takes longer than all else that a page needs.
    """
    from torchvision.models import resnet as original

    class ResNet(original.ResNet):
        def __init__(self, name: str, classes: int, channels: int, width: int, stem: str) -> None:
            nn.Module.__init__(self)
            block, depths = getattr(original, MODELS[name][0]), MODELS[name][1]
            self._norm_layer = nn.BatchNorm2d
            self.inplanes = width
            self.dilation = 1
            self.groups = 1
            self.base_width = 64
            kernel, stride = (7, 2) if stem == "7x7" else (3, 1)
            self.conv1 = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "7x7" else nn.Identity()
            self.layer1 = self._make_layer(block, width, depths[0])
            self.layer2 = self._make_layer(block, 2 * width, depths[1], stride=2)
            self.layer3 = self._make_layer(block, 4 * width, depths[2], stride=2)
            self.layer4 = self._make_layer(block, 8 * width, depths[3], stride=2)
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(8 * width * block.expansion, classes)

        def forward(self, images: Tensor) -> Tensor:
            # Images that are channels last make every layer so, where `birth` had to avoid it.
            if self.conv1.weight.is_contiguous():
                images = images.contiguous()
            return super().forward(images)

    return ResNet


def network(name: str, classes: int, channels: int, width: int, stem: str) -> nn.Module:
    """A network of `MODELS` by name, with torch's initial weights, on the current device."""
    return resnet()(name, classes, channels, width, stem)


def build(config: Config) -> nn.Module:
    """The network of a run with its random initial weights, on the CPU."""
    return birth(config, stream(config.seed, 0, "birth"))


def birth(config: Config, draw: torch.Generator) -> nn.Module:
    """A new network with random weights, on the CPU.

    Convolution and linear weights are Kaiming-normal (fan-in, gain sqrt 2), the bias of `fc` is
    uniform in +-1/sqrt(fan-in), batch normalisation starts at 1 and 0, as in the released code.

    Tensors are channels last, the faster layout; but not where torch 2.15 overruns a buffer in the
    backward pass of the shortcuts (1x1, stride 2; oneDNN issue 6035) and crashes: on several CPU
    threads, for fewer channels than a vector holds (8 with AVX2), and for fewer than 16 (AVX-512)
    on images of more than 40 pixels.
    """
    about = dataset(config.dataset)
    shape = len(about.classes), about.channels, config.width, config.stem
    with torch.device("meta"):
        model = network(config.model, *shape)
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        for weight in prunable(model).values():
            weight.normal_(0, math.sqrt(2 / fan_in(weight)), generator=draw)
        bound = 1 / math.sqrt(fan_in(model.fc.weight))
        model.fc.bias.uniform_(-bound, bound, generator=draw)
    narrow = config.width < 8 or (config.width < 16 and about.size > 40)
    unsafe = config.threads > 1 or narrow
    return model.to(memory_format=torch.contiguous_format if unsafe else torch.channels_last)


def blocks(name: str) -> list[str]:
    """The names of the residual blocks of a network of `MODELS`, from the input to the output."""
    _, depths = MODELS[name]
    return [f"layer{stage}.{block}" for stage, n in enumerate(depths, 1) for block in range(n)]


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
    module.fixed = Fixed(channels)
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
    fixed = insert_fixed(model, block, seen[0].shape[1]).to(inputs.device)
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
LAYERS += [f"{block}.conv{n}" for block in blocks("resnet18") for n in (1, 2)]
LAYERS += ["fc"]
"""The layers that the paper's overlap maps number 1 to 18: no shortcut convolutions."""
