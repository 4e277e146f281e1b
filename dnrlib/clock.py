"""Where the time of a generation goes."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch.profiler import record_function

T = TypeVar("T")


class Clock:
    """Adds up the seconds of named parts of the work on a device.

    On CUDA they are taken between events of its stream, so that the host never waits for a
    measurement; elsewhere by the host's clock. A profile shows the parts under the same names.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self.spent: dict[str, float] = {}
        self.open: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def _now(self) -> "float | torch.cuda.Event":
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what is done inside as `name`."""
        # Naming a part in a profile that nobody makes would cost more than all the measuring.
        named = record_function(name) if torch.autograd._profiler_enabled() else nullcontext()
        with named:
            start = self._now()
            yield
            end = self._now()
        if self.on_cuda:
            self.open.append((name, start, end))
        else:
            self.spent[name] = self.spent.get(name, 0.0) + end - start

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time that it takes to make them counts as `name`."""
        items, last = iter(items), object()
        while True:
            with self.part(name):
                item = next(items, last)
            if item is last:
                return
            yield item

    def settle(self) -> None:
        """Reads the events of CUDA, which would pile up; waits until the device has reached
        them."""
        if self.open:
            torch.cuda.synchronize()
        for name, start, end in self.open:
            spent = start.elapsed_time(end) / 1000
            self.spent[name] = self.spent.get(name, 0.0) + spent
        self.open.clear()

    def seconds(self) -> dict[str, float]:
        """Seconds by part."""
        self.settle()
        return dict(self.spent)
