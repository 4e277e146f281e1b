"""The closed loop: conceive a network, train it for one generation, measure it.

Nothing here knows of methods: what is kept, what fills and how long is decided outside.
"""

import math
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import UserError
from .data import AUGMENTATIONS, Data, Split, batches, normalised
from .masks import Mask
from .models import prunable
from .streams import stream

if TYPE_CHECKING:
    from .config import Config
    from .fills import Fresh

EVALUATION_BATCH = 1000


def device_named(name: str) -> torch.device:
    """The device called `name` (auto, cpu, cuda, mps); auto takes the best one that is there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((device for device, found in there.items() if found), "cpu"))
    if name != "cpu" and not there.get(name.split(":")[0], False):
        raise UserError(f"device={name!r} is not available here; use auto or cpu")
    return torch.device(name)


def learning_rate(epoch: int, epochs: int, config: "Config") -> float:
    """The learning rate of an epoch (0-based) of a schedule over `epochs` epochs.

    Set once per epoch, as in the released code. Warm-up is linear and reaches the peak in its last
    epoch. `cosine` falls to nearly 0 over what is left; `step` divides by 10 at one half and again
    at three quarters (80 and 120 of 160).
    """
    if epoch < config.warmup:
        return config.lr * (epoch + 1) / config.warmup
    if config.schedule == "step":
        return config.lr * 0.1 ** ((epoch >= epochs / 2) + (epoch >= epochs * 3 / 4))
    progress = (epoch - config.warmup) / (epochs - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def conceive(model: nn.Module, mask: Mask, fill: "Fresh", draw: torch.Generator) -> None:
    """Turns the parent into its child, in place: theta <- M * theta + (1 - M) * fill (DNR Eq. 7).

    Kept weights stay bit for bit; what the mask does not name (biases, batch normalisation and its
    running statistics) is inherited whole.
    """
    weights = {name: prunable(model)[name] for name in mask}
    with torch.no_grad():
        for name, fresh in fill.values(weights, draw).items():
            reset = ~mask[name].to(weights[name].device)
            weights[name][reset] = fresh.to(weights[name].device)[reset]


def loss_of(logits: Tensor, labels: Tensor, config: "Config") -> Tensor:
    """The training loss: cross-entropy with label smoothing, mean over the batch."""
    return F.cross_entropy(logits, labels, label_smoothing=config.smoothing)


def train(
    model: nn.Module, data: Data, config: "Config", generation: int, epochs: int
) -> dict[str, Any]:
    """Trains `model` in place for `epochs` epochs and measures it; returns

    - `curve`: mean training loss of each epoch;
    - `trace`: accuracy on the evaluation pool in %, after every `config.epochs` epochs;
    - `seconds` of training, without the evaluations, and `images` seen.

    The optimiser is new, as in every generation of the released code: momentum starts at zero.
    Raises `UserError` if the loss stops being finite.
    """
    device = data.train.labels.device
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )
    order = stream(config.seed, generation, "order")
    draw = stream(config.seed, generation, "augment")
    augment = AUGMENTATIONS[config.augment]
    curve, trace, seconds = [], [], 0.0
    for epoch in range(epochs):
        start = time.perf_counter()
        rate = learning_rate(epoch, epochs, config)
        for group in optimiser.param_groups:
            group["lr"] = rate
        model.train()
        total = torch.zeros((), device=device)
        for images, labels in batches(data.train, config.batch, order):
            inputs = normalised(augment(images, draw), data.dataset)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss = loss_of(model(inputs), labels, config)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(labels)
        # The one place per epoch where the host waits for the device.
        mean = total.item() / len(data.train)
        seconds += time.perf_counter() - start
        if not math.isfinite(mean):
            raise UserError(
                f"the training loss is {mean} in generation {generation}, epoch {epoch + 1} of "
                f"{epochs}, at learning rate {rate:.4g}; lower lr or add warmup epochs"
            )
        curve.append(mean)
        if (epoch + 1) % config.epochs == 0:
            trace.append(evaluate(model, data, data.evaluation)[0])
    return {
        "curve": curve,
        "trace": trace,
        "seconds": seconds,
        "images": epochs * len(data.train),
    }


@torch.inference_mode()
def evaluate(model: nn.Module, data: Data, split: Split) -> tuple[float, float]:
    """Top-1 accuracy in % and mean cross-entropy (no smoothing) on a split, in evaluation mode."""
    model.eval()
    correct, loss = 0, 0.0
    for images, labels in batches(split, EVALUATION_BATCH):
        logits = model(normalised(images, data.dataset)).float()
        correct += int((logits.argmax(1) == labels).sum())
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
    return 100 * correct / len(split), loss / len(split)
