"""The training step on CUDA: captured once, replayed with two launches."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .masks import Mask
from .train import Step

WARM_UP = 3
"""Steps taken before a capture, in which libraries choose their kernels and workspaces."""


@dataclass(frozen=True)
class Graphs:
    """What was captured for one batch shape."""

    inputs: Tensor
    labels: Tensor
    loss: Tensor
    learn: Callable[[], None]
    update: Callable[[], None]


class Replayed(Step):
    """A training step captured in CUDA graphs, when it first sees a batch shape: an eager step of a
    residual network at batch 32 is paced by the host, which launches hundreds of small kernels.

    What a graph reads and writes stays where it is. Weights, running statistics, momentum, learning
    rate, the parent of a distillation and the mask that is held change in place, so that one
    capture serves all generations with this network and task.
    """

    graphs: dict[torch.Size, Graphs] | None = None

    def restart(self, parent: nn.Module | None, held: Mask) -> None:
        if self.graphs is None:
            self.graphs = {}
            super().restart(copy.deepcopy(parent), held)
            self.rate = torch.zeros((), device=self.device)
            super().set_rate(self.rate)
            for weight in self.model.parameters():
                self.optimiser.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            return
        for state in self.optimiser.state.values():
            state["momentum_buffer"].zero_()
        for name, (_, kept) in self.held.items():
            kept.copy_(held[name])
        if parent is not None:
            self.parent.load_state_dict(parent.state_dict())

    def set_rate(self, rate: float) -> None:
        self.rate.fill_(rate)

    def learn(self, inputs: Tensor, labels: Tensor) -> Tensor:
        if inputs.shape not in self.graphs:
            self.graphs[inputs.shape] = self._capture(inputs, labels)
        self.current = self.graphs[inputs.shape]
        self.current.inputs.copy_(inputs)
        self.current.labels.copy_(labels)
        self.current.learn()
        return self.current.loss

    def update(self) -> None:
        self.current.update()

    def _capture(self, inputs: Tensor, labels: Tensor) -> Graphs:
        inputs, labels = inputs.clone(), labels.clone()
        learn, update = super().learn, super().update

        def step() -> None:
            learn(inputs, labels)
            update()

        changing = list(self.model.state_dict().values())
        changing += [state["momentum_buffer"] for state in self.optimiser.state.values()]
        before = [tensor.clone() for tensor in changing]
        # Streams are made on the device that is the current one.
        with torch.accelerator.device_index(self.device.index):
            warm_up(step)
            # A graph makes gradients of its own, which are the ones that its update reads.
            self.optimiser.zero_grad(set_to_none=True)
            loss, learn_again = captured(lambda: learn(inputs, labels))
            _, update_again = captured(update)
        for tensor, value in zip(changing, before, strict=True):
            tensor.copy_(value)
        return Graphs(inputs, labels, loss, learn_again, update_again)


def warm_up(work: Callable[[], None]) -> None:
    """Does `work` a few times, on a stream of its own, as a capture asks for."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(aside)


def captured(work: Callable[[], Tensor | None]) -> tuple[Tensor | None, Callable[[], None]]:
    """What `work` will return, not yet computed, and a function that computes it."""
    graph = torch.cuda.CUDAGraph()
    # Its default stream belongs to the device of the first capture in this process.
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        result = work()
    return result, graph.replay
