"""The trainer: SGD over batches of `(inputs, labels)`, and the accuracy of a network.

It depends on no method or dataset: the caller decides what is kept, what is reset and how long.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import UserError
from .clock import Clock
from .config import Settings
from .losses import Labels
from .masks import Batches, Mask, on_device_of


def device_named(name: str) -> torch.device:
    """The device called `name` (auto, cpu, cuda, cuda:N, mps); auto is what $DNRLIB_DEVICE names,
    or takes the best one that is there. Raises `UserError` for one that is not."""
    said, of_system = "device", os.environ.get("DNRLIB_DEVICE")
    if name == "auto" and of_system:
        said, name = "DNRLIB_DEVICE", of_system
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((device for device, found in there.items() if found), "cpu"))
    kind, colon, number = name.partition(":")
    numbered = not colon or number in map(str, range(torch.cuda.device_count()))
    if name != "cpu" and not (there.get(kind, False) and numbered):
        raise UserError(f"{said}={name!r} is not available here; use auto or cpu")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; others imitate it, which takes longer than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(able.get(f"{unit}_bf16") for unit in ("avx512", "sve"))


def learning_rate(epoch: int, epochs: int, settings: Settings, peak: float = 1.0) -> float:
    """The learning rate of an epoch (0-based) of a schedule over `epochs` epochs.

    Set once per epoch, as in the released code. Warm-up is linear and reaches the peak in its last
    epoch. `cosine` falls to nearly 0 over what is left; `step` divides by 10 at one half and again
    at three quarters (80 and 120 of 160). With `peak` below 1 the schedule starts at that share of
    `Settings.lr`, without warm-up.
    """
    lr, warmup = peak * settings.lr, settings.warmup if peak == 1 else 0
    if epoch < warmup:
        return lr * (epoch + 1) / warmup
    if settings.schedule == "step":
        return lr * 0.1 ** ((epoch >= epochs / 2) + (epoch >= epochs * 3 / 4))
    progress = (epoch - warmup) / (epochs - warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * progress))


class Step:
    """What a batch does to a network: forward and backward, then the update of its weights.

    Made once for a network and a task; every generation begins with `restart`, the first too.
    """

    def __init__(self, model: nn.Module, task: Labels, settings: Settings) -> None:
        self.model = model
        self.task = task
        self.settings = settings
        self.device = next(model.parameters()).device

    def restart(self, parent: nn.Module | None, held: Mask) -> None:
        """Begins a generation with a new optimiser, as the released code does: momentum starts at
        zero. `parent` is the network that a distillation learns from; weights outside the mask
        `held` stay at zero."""
        self.parent = parent
        weights = dict(self.model.named_parameters())
        self.held = {name: (weights[name], held[name].to(self.device)) for name in held}
        self.optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=self.settings.lr,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )

    def set_rate(self, rate: float | Tensor) -> None:
        """Sets the learning rate of the steps that follow."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def learn(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over a batch (detached); its gradients are left on the weights."""
        bf16 = self.settings.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            given = inputs, labels, self.parent, self.settings.smoothing
            loss = self.task.loss(self.model, *given)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def update(self) -> None:
        """Changes the weights by their gradients."""
        self.optimiser.step()
        for weight, kept in self.held.values():
            weight *= kept


class MovingAverage:
    """The exponential moving average of a network's weights and running statistics, of decay
    `decay`, or (1 + n) / (10 + n) at step n where that is smaller."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.current = [v for v in model.state_dict().values() if v.is_floating_point()]
        self.mean = [value.clone() for value in self.current]
        self.decay = decay
        self.steps = 0

    def update(self) -> None:
        """Takes in the network as it is after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.mean, self.current, 1 - decay)

    def apply(self) -> None:
        """Makes the network its average."""
        torch._foreach_copy_(self.current, self.mean)


def train(
    model: nn.Module,
    batches: Batches,
    epochs: int,
    settings: Settings | None = None,
    *,
    peak: float = 1.0,
    step: Step | None = None,
    parent: nn.Module | None = None,
    held: Mask | None = None,
    average: float = 0.0,
    clock: Clock | None = None,
    after: Callable[[int], None] = lambda epoch: None,
) -> dict[str, Any]:
    """Trains `model` in place, on its device, for `epochs` passes over the batches; returns

    - `curve`: mean training loss of each epoch;
    - `seconds` of training, and `images` seen.

    `batches` are iterated once per epoch. Without `settings` they are those of `Settings()`, and
    `peak` scales their learning rate. `after` is called with the number of every epoch, from 1.
    `step` is the training step of this network, with a task and settings of its own, which count
    instead of `settings` (without one it learns from labels); `parent` is the network that a
    distillation learns from, and weights outside the mask `held` stay at zero; with `average` the
    network becomes its `MovingAverage` of that decay at the end; `clock` is told where the time
    goes. Raises `UserError` for no epoch, a warm-up that does not end, and a loss that is not
    finite.
    """
    if epochs < 1:
        raise UserError(f"epochs={epochs!r} must be at least 1")
    step = step or Step(model, Labels(), settings or Settings())
    settings = step.settings
    if peak == 1 and settings.warmup >= epochs:
        raise UserError(f"warmup={settings.warmup} must be smaller than epochs={epochs}")
    clock = clock or Clock(step.device)
    step.restart(parent, held or {})
    averaged = MovingAverage(model, average) if average else None
    curve, seconds, images = [], 0.0, 0
    for epoch in range(epochs):
        start, seen = time.perf_counter(), 0
        rate = learning_rate(epoch, epochs, settings, peak)
        step.set_rate(rate)
        if not model.training:
            model.train()
        total = torch.zeros((), device=step.device)
        for inputs, labels in clock.each("data", on_device_of(model, batches)):
            with clock.part("forward and backward"):
                loss = step.learn(inputs, labels)
            with clock.part("optimiser"):
                step.update()
                if averaged:
                    averaged.update()
            total += loss * len(labels)
            seen += len(labels)
        # The one place per epoch where the host waits for the device.
        with clock.part("forward and backward"):
            mean = total.item() / seen
        clock.settle()
        seconds += time.perf_counter() - start
        if not math.isfinite(mean):
            raise UserError(
                f"the training loss is {mean} in epoch {epoch + 1} of {epochs}, at learning rate "
                f"{rate:.4g}; lower lr or add warmup epochs"
            )
        curve.append(mean)
        images += seen
        if averaged and epoch == epochs - 1:
            averaged.apply()
        after(epoch + 1)
    return {"curve": curve, "seconds": seconds, "images": images}


@torch.inference_mode()
def outputs(model: nn.Module, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """The outputs of a network (float32, n x classes) and the labels, batch by batch, in evaluation
    mode, in which it is left."""
    model.eval()
    for inputs, labels in on_device_of(model, batches):
        yield model(inputs).float(), labels


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Top-1 accuracy in % and mean cross-entropy (no smoothing), in evaluation mode, in which the
    network is left."""
    correct, loss, count = 0, 0.0, 0
    for logits, labels in outputs(model, batches):
        correct += int((logits.argmax(1) == labels).sum())
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        count += len(labels)
    return 100 * correct / count, loss / count
