"""Whole generations against a loop of the papers' lineage and against the bare limit:
`python -m benchmarks.generation`.

A run of DNR is trained; between its generations the others take their turns, so that whatever else
the machine does falls on all of them alike. One thread, on one core.

- `dnrlib`: a generation as `dnr run` makes it: augmentation, training, evaluations, saliency (once
  more from other images, which is recorded too), mask, reset, files.
- `reference`, `persistent`: `benchmarks.reference`.
- `bare`: as many forward and backward passes on random tensors that are there already.

Then the cost of more images; or, on a CUDA device, which is given more images from the start, the
training step as captured graphs, eagerly and bare, and several processes at once. Results go to
benchmarks/results/generation-DEVICE.json: seconds of every round.
"""

import argparse
import functools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.data import MEAN, RESULTS, STD, photographs
from benchmarks.reference import Reference
from dnrlib import models, records, train
from dnrlib.config import Config
from dnrlib.datasets import augment, catalogue, decoded
from dnrlib.datasets.decoded import Kind, Listing, Picture, slug
from dnrlib.graphs import Replayed, captured, warm_up
from dnrlib.losses import Labels
from dnrlib.masks import prunable
from dnrlib.recipes import RECIPES, configure
from dnrlib.run import arithmetic, run

LARGE, SMALL = "ResNet18, 224 pixels", "ResNet18, 32 pixels"
FLOWERS = "Flowers' recipe (64 pixels, width 16)"
BUNDLED = "embedded (digits, width 8)"
AT_ONCE = {LARGE: 4, FLOWERS: 16}
"""How many processes are measured on one GPU."""


@dataclass(frozen=True)
class Setting:
    """What is trained: images decoded to `stored` pixels and shown at `seen` pixels; or a bundled
    dataset."""

    config: dict[str, Any]
    rounds: int
    stored: int = 0
    seen: int = 0
    train: int = 0
    test: int = 0
    lineage: bool = True
    """Whether the loop of the lineage is run beside it."""


SHORT = {"batch": 32, "epochs": 2, "warmup": 0, "lr": 0.01}
SETTINGS = {
    LARGE: Setting({"dataset": "flower102"} | SHORT, 3, 256, 224, 32, 16),
    SMALL: Setting({"dataset": "cifar10", "model": "resnet18"} | SHORT, 4, 32, 32, 96, 32),
    FLOWERS: Setting(
        RECIPES["flower102-64"] | {"dataset": "tinyimagenet"}, 3, 64, 64, 1020, 6149, lineage=False
    ),
    BUNDLED: Setting({"dataset": "digits"}, 12),
}


ON_CUDA = 16
"""How many times as many images the lineage's settings have there."""


def prepare(setting: Setting, folder: Path, device: torch.device) -> None:
    """Writes image files to a folder and decodes them as the setting's dataset."""
    pools = {}
    times = ON_CUDA if setting.lineage and device.type == "cuda" else 1
    for pool, number in (("train", times * setting.train), ("test", setting.test)):
        paths = photographs(folder / pool, number, setting.stored if setting.stored < 256 else 0)
        pools[pool] = [Picture(path, int(path.parent.name)) for path in paths]
    kind = Kind("photographs", setting.stored, setting.seen, MEAN, STD)
    decoded.decode(setting.config["dataset"], Listing(("china", "flower"), pools), kind, 1)


class Bare:
    """The passes of a generation and nothing else."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.model = models.build(config).to(device)
        images = catalogue.load(config)
        together = augment.evaluated_together(images.dataset)
        scored = round(config.probe * len(images.train))
        self.passes = [
            ("evaluation", 3, sizes(len(images.evaluation), together)),
            ("evaluation", 1, sizes(len(images.train), together)),
            ("training", config.epochs, sizes(len(images.train), config.batch)),
            ("saliency", 2, sizes(scored, config.batch)),
        ]
        about = images.dataset
        self.inputs = {}
        for size in {size for _, _, found in self.passes for size in found}:
            shape = (size, about.channels, about.size, about.size)
            inputs = torch.randn(shape, device=device)
            if not self.model.conv1.weight.is_contiguous():
                inputs = inputs.to(memory_format=torch.channels_last)
            labels = torch.randint(len(about.classes), (size,), device=device)
            self.inputs[size] = inputs, labels

    def forward_and_backward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            loss = F.cross_entropy(self.model(inputs), labels)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        return loss

    def generation(self) -> None:
        for kind, times, found in self.passes:
            self.model.train(kind == "training")
            for inputs, labels in times * [self.inputs[size] for size in found]:
                if kind == "evaluation":
                    with torch.inference_mode():
                        self.model(inputs)
                elif kind == "training":
                    self.forward_and_backward(inputs, labels)
                else:
                    loss = F.cross_entropy(self.model(inputs), labels)
                    torch.autograd.grad(loss, list(prunable(self.model).values()))
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def sizes(images: int, together: int) -> list[int]:
    """The numbers of images in the batches that `augment.batches` makes."""
    return [len(part) for part in torch.arange(images).tensor_split(-(-images // together))]


def alone(work: Callable, *arguments: Any) -> Any:
    """What `work` returns in a new process, which no earlier work has filled or slowed down."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def whole(name: str, precision: str, device: torch.device, folder: Path) -> dict[str, Any]:
    """Rounds of whole generations in one setting."""
    torch.set_num_threads(1)
    setting = SETTINGS[name]
    config = configure(
        **setting.config | {"precision": precision, "generations": setting.rounds + 1}
    )
    others: dict[str, Callable[[], None]] = {"bare": Bare(config, device).generation}
    references = {}
    if setting.lineage and setting.stored and device.type == "cpu":
        about = catalogue.dataset(config.dataset)
        for persistent in (False, True):
            out = folder / f"reference-{persistent}"
            out.mkdir()
            references[persistent] = Reference(folder, about, config, out, persistent)
            others["persistent" if persistent else "reference"] = references[persistent].generation
    seconds: dict[str, list[float]] = {own: [] for own in ("dnrlib", *others)}
    parts: list[Counter] = []
    begun = [time.perf_counter()]

    def taken(record: records.Record) -> None:
        if record["kind"] == "generation":
            parts.append(Counter(record["timing"]["parts"]))
            return
        parts[-1].update(record["timing"]["parts"])
        own = time.perf_counter() - begun[0]
        others_took = {other: timed(work) for other, work in others.items()}
        # The first generation warms up.
        if record["generation"] > 1:
            for of, took in ({"dnrlib": own} | others_took).items():
                seconds[of].append(took)
            print(name, {of: round(took[-1], 3) for of, took in seconds.items()}, flush=True)
        begun[0] = time.perf_counter()

    run(config, folder / "runs", device.type, taken)
    found = {
        "config": vars(config),
        "seconds": seconds,
        "parts": [dict(counted) for counted in parts[1:]],
    }
    if references:
        stored = next((folder / "runs").rglob("mask-*.npz")).stat().st_size
        found["mask_bytes"] = {"packed": stored} | references[False].mask_bytes()
    return found


def of_images(folder: Path) -> dict[str, list[float]]:
    """Seconds of a generation for more and more images per class, in rounds."""
    found: dict[str, list[float]] = {}
    for number in range(4):
        for per_class in (5, 10, 20, 40):
            config = configure("digits", per_class=per_class, generations=2)
            stamps = []
            runs = folder / f"images-{number}-{per_class}"
            run(config, runs, "cpu", lambda record, at=stamps: at.append(time.perf_counter()))
            if number:
                # Records come in pairs, generation and mask.
                found.setdefault(str(10 * per_class), []).append(stamps[3] - stamps[1])
    return found


@arithmetic(1)
def steps(config: Config, device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Images per second of training epochs on a CUDA device, by the way the step is made; "any
    order" is "graph" without what gives the same bits each time."""
    images = catalogue.load(config).to(device)
    bare = Bare(config, device)
    bare.model.train()
    shapes = [size for kind, _, found in bare.passes if kind == "training" for size in found]
    graphs = {}
    for size in set(shapes):
        warm_up(lambda of=bare.inputs[size]: bare.forward_and_backward(*of))
        bare.model.zero_grad(set_to_none=True)
        _, graphs[size] = captured(lambda of=bare.inputs[size]: bare.forward_and_backward(*of))

    def bare_epochs() -> None:
        for _ in range(config.epochs):
            for size in shapes:
                graphs[size]()
        torch.cuda.synchronize()

    ways: dict[str, Callable[[], float]] = {"bare": lambda: timed(bare_epochs)}

    def epochs(step: train.Step, in_order: bool) -> float:
        torch.backends.cudnn.deterministic = in_order
        inputs = augment.Training(images, config, 1)
        return train.train(step.model, inputs, config.epochs, step=step)["seconds"]

    for way, make in (("eager", train.Step), ("graph", Replayed), ("any order", Replayed)):
        step = make(models.build(config).to(device), Labels(), config)
        ways[way] = functools.partial(epochs, step, way != "any order")
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, work in ways.items():
            took = work()
            if number:
                rates[way].append(config.epochs * len(images.train) / took)
    return rates


def _one_process(config: Config, rounds: int, barrier: Any, rates: Any) -> None:
    device = torch.device("cuda")
    images = catalogue.load(config).to(device)
    model = models.build(config).to(device)
    step = Replayed(model, Labels(), config)
    for number in range(rounds + 1):
        barrier.wait()
        inputs = augment.Training(images, config, number + 1)
        with arithmetic(1):
            trained = train.train(model, inputs, config.epochs, step=step)
        if number:
            rates.put((number - 1, trained["images"] / trained["seconds"]))


def processes(config: Config, number: int, rounds: int) -> list[float]:
    """Images per second of several processes together that train on one GPU, in rounds."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(number, timeout=600), context.Queue()
    started = [
        context.Process(target=_one_process, args=(config, rounds, barrier, rates), daemon=True)
        for _ in range(number)
    ]
    for process in started:
        process.start()
    total = [0.0] * rounds
    for _ in range(rounds * number):
        at, rate = rates.get(timeout=600)
        total[at] += rate
    for process in started:
        process.join()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--only", choices=SETTINGS, help="one setting, beside what was measured")
    options = parser.parse_args()
    device = train.device_named(options.device)
    if device.type == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    precision = "bf16" if train.has_bf16(device) else "fp32"
    machine = records.provenance(device, 1)
    path = RESULTS / f"generation-{slug(machine['processor'])}.json"
    result: dict[str, Any] = {"generations": {}}
    if options.only and path.exists():
        result = json.loads(path.read_text())
    result |= {"machine": machine, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as temporary:
        for number, (name, setting) in enumerate(SETTINGS.items()):
            if options.only not in (None, name):
                continue
            folder = Path(temporary, str(number))
            os.environ["DNRLIB_DATA"] = str(folder / "decoded")
            folder.mkdir()
            if setting.stored:
                prepare(setting, folder, device)
            formats = {"fp32", precision} if setting.stored and setting.lineage else {"fp32"}
            for used in sorted(formats):
                inside = folder / used
                inside.mkdir()
                for pool in ("train", "test") if setting.stored else ():
                    (inside / pool).symlink_to(folder / pool)
                found = alone(whole, name, used, device, inside)
                result["generations"][f"{name}, {used}"] = found
            if device.type == "cuda" and name in AT_ONCE:
                used = precision if setting.lineage else "fp32"
                config = configure(**setting.config | {"precision": used, "epochs": 5})
                result.setdefault("images_per_second", {})[name] = steps(config, device, 5) | {
                    f"{n} processes": processes(config, n, 3) for n in (1, AT_ONCE[name])
                }
        if device.type == "cpu" and not options.only:
            result["images"] = alone(of_images, Path(temporary))
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(rounded(result), indent=1) + "\n")
    for name, found in result["generations"].items():
        medians = {of: round(statistics.median(took), 3) for of, took in found["seconds"].items()}
        print(name, medians)
    print(path)


def rounded(thing: Any) -> Any:
    """Seconds to four digits after the point, wherever they are."""
    if isinstance(thing, dict):
        return {name: rounded(value) for name, value in thing.items()}
    if isinstance(thing, list):
        return [rounded(value) for value in thing]
    return round(thing, 4) if isinstance(thing, float) else thing


if __name__ == "__main__":
    main()
