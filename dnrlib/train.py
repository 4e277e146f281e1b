"""The closed loop: conceive a network, train it for one generation, measure it.

Nothing here knows of methods: what is kept, what fills and how long is decided outside.
"""

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import UserError
from .clock import Clock
from .data import AUGMENTATIONS, Data, Dataset, Split, batches, normalised
from .losses import Distilled, Labels
from .masks import Mask, Parent
from .models import prunable
from .streams import stream

if TYPE_CHECKING:
    from .config import Config
    from .methods import Generation

EVALUATION_BATCH = 1000
"""Images of at most 64 x 64 pixels that are evaluated together; of larger ones fewer."""


def device_named(name: str) -> torch.device:
    """The device called `name` (auto, cpu, cuda, mps); auto takes the best one that is there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((device for device, found in there.items() if found), "cpu"))
    if name != "cpu" and not there.get(name.split(":")[0], False):
        raise UserError(f"device={name!r} is not available here; use auto or cpu")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; others imitate it, which takes longer than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(able.get(f"{unit}_bf16") for unit in ("avx512", "sve"))


def learning_rate(epoch: int, epochs: int, config: "Config", peak: float = 1.0) -> float:
    """The learning rate of an epoch (0-based) of a schedule over `epochs` epochs.

    Set once per epoch, as in the released code. Warm-up is linear and reaches the peak in its last
    epoch. `cosine` falls to nearly 0 over what is left; `step` divides by 10 at one half and again
    at three quarters (80 and 120 of 160). With `peak` below 1 the schedule starts at that share of
    `Config.lr`, without warm-up.
    """
    lr, warmup = peak * config.lr, config.warmup if peak == 1 else 0
    if epoch < warmup:
        return lr * (epoch + 1) / warmup
    if config.schedule == "step":
        return lr * 0.1 ** ((epoch >= epochs / 2) + (epoch >= epochs * 3 / 4))
    progress = (epoch - warmup) / (epochs - warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * progress))


def conceive(parent: Parent, mask: Mask, stage: "Generation") -> None:
    """Turns the parent into its child, in place: theta <- M * theta + (1 - M) * fill (DNR Eq. 7).

    Kept weights stay bit for bit unless the stage rescales them; what the mask does not name
    (biases, batch normalisation and its running statistics) is inherited whole.
    """
    stage.inherit.apply(parent, mask)
    state = parent.model.state_dict()
    draw = stream(parent.config.seed, parent.generation + 1, "fill")
    for name, values in stage.fill.values(parent.model, parent.config, draw).items():
        if name in mask:
            kept, values = (tensor.to(state[name].device) for tensor in (mask[name], values))
            state[name].copy_(torch.where(kept, state[name], values))


class Step:
    """What a batch does to a network: forward and backward, then the update of its weights.

    Made once for a network and a task, and restarted for every generation.
    """

    def __init__(self, model: nn.Module, task: Labels | Distilled, config: "Config") -> None:
        self.model = model
        self.task = task
        self.config = config
        self.device = next(model.parameters()).device

    def restart(self, parent: nn.Module | None, held: Mask) -> None:
        """Begins a generation with a new optimiser, as the released code does: momentum starts at
        zero. `parent` is the network that a distillation learns from; weights outside the mask
        `held` stay at zero."""
        self.parent = parent
        weights = prunable(self.model)
        self.held = {name: (weights[name], held[name].to(self.device)) for name in held}
        self.optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=self.config.lr,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
            fused=True,
        )

    def set_rate(self, rate: float | Tensor) -> None:
        """Sets the learning rate of the steps that follow."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def learn(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over a batch (detached); its gradients are left on the weights."""
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            loss = self.task.loss(self.model(inputs), labels, inputs, self.parent, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def update(self) -> None:
        """Changes the weights by their gradients."""
        self.optimiser.step()
        for weight, kept in self.held.values():
            weight *= kept


def train(
    model: nn.Module,
    data: Data,
    config: "Config",
    generation: int,
    epochs: int,
    *,
    peak: float = 1.0,
    parent: nn.Module | None = None,
    held: Mask | None = None,
    step: Step | None = None,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Trains `model` in place for `epochs` epochs and measures it; returns

    - `curve`: mean training loss of each epoch;
    - `trace`: accuracy on the evaluation pool in %, after every `config.epochs` epochs;
    - `test_accuracy` and `test_loss` on that pool at the end;
    - `seconds` of training, without the evaluations, and `images` seen.

    `peak` scales the learning rate; `parent` is the network before the reset, for tasks that learn
    from it, and weights outside the mask `held` stay at zero. `step` is the training step of this
    network, which knows its task (without one it learns from labels); `clock` is told where the
    time goes. Raises `UserError` for no epoch, and if the loss stops being finite.
    """
    if epochs < 1:
        raise UserError(f"epochs={epochs} must be at least 1")
    device = data.train.labels.device
    clock = clock or Clock(device)
    step = step or Step(model, Labels(), config)
    step.restart(parent, held or {})
    order = stream(config.seed, generation, "order")
    draw = stream(config.seed, generation, "augment")
    curve, trace, seconds = [], [], 0.0
    for epoch in range(epochs):
        start = time.perf_counter()
        rate = learning_rate(epoch, epochs, config, peak)
        step.set_rate(rate)
        if not model.training:
            model.train()
        total = torch.zeros((), device=device)
        for inputs, labels in clock.each("data", augmented(data, config, order, draw)):
            with clock.part("forward and backward"):
                loss = step.learn(inputs, labels)
            with clock.part("optimiser"):
                step.update()
            total += loss * len(labels)
        # The one place per epoch where the host waits for the device.
        mean = total.item() / len(data.train)
        clock.settle()
        seconds += time.perf_counter() - start
        if not math.isfinite(mean):
            raise UserError(
                f"the training loss is {mean} in generation {generation}, epoch {epoch + 1} of "
                f"{epochs}, at learning rate {rate:.4g}; lower lr or add warmup epochs"
            )
        curve.append(mean)
        due, last = (epoch + 1) % config.epochs == 0, epoch + 1 == epochs
        if due or last:
            with clock.part("evaluation"):
                accuracy, loss = evaluate(model, data, data.evaluation)
        if due:
            trace.append(accuracy)
    return {
        "curve": curve,
        "trace": trace,
        "test_accuracy": accuracy,
        "test_loss": loss,
        "seconds": seconds,
        "images": epochs * len(data.train),
    }


def augmented(
    data: Data, config: "Config", order: torch.Generator, draw: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The inputs of an epoch, batch by batch: shuffled, augmented and normalised, and labels."""
    augment = AUGMENTATIONS[config.augment]
    for images, labels in batches(data.train, config.batch, order):
        yield normalised(augment(images, draw), data.dataset), labels


def evaluated_together(dataset: Dataset) -> int:
    """The number of images in a batch of an evaluation."""
    return min(EVALUATION_BATCH, max(1, EVALUATION_BATCH * 64**2 // dataset.size**2))


@torch.inference_mode()
def outputs(model: nn.Module, dataset: Dataset, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """The outputs of a network (float32, n x classes) and the labels, batch by batch, in evaluation
    mode."""
    model.eval()
    for images, labels in batches(split, evaluated_together(dataset)):
        yield model(normalised(images, dataset)).float(), labels


@torch.inference_mode()
def evaluate(model: nn.Module, data: Data, split: Split) -> tuple[float, float]:
    """Top-1 accuracy in % and mean cross-entropy (no smoothing) on a split, in evaluation mode."""
    correct, loss = 0, 0.0
    for logits, labels in outputs(model, data.dataset, split):
        correct += int((logits.argmax(1) == labels).sum())
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
    return 100 * correct / len(split), loss / len(split)
