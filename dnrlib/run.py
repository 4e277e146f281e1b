"""One run: read its generations from disk up to the first missing one, then train the rest."""

import copy
import errno
import functools
import gzip
import math
import os
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import UserError, masks, models, records, train
from .clock import Clock
from .config import RESULTS_VERSION, Config, canonical, digest
from .datasets.augment import Training, evaluation_batches
from .datasets.catalogue import dataset, load
from .datasets.splits import Data, Split
from .evaluate import retrieval
from .evaluate.evaluations import Averaged, Evaluation
from .filters import Dropping
from .graphs import Replayed
from .losses import LOSSES
from .masks import Mask
from .methods import Generation, plan
from .records import DamagedFile, Record
from .rules import Everything, Keep, Parent, resampled
from .store import Entry, Store, short_of_memory
from .streams import stream


@dataclass(frozen=True)
class Link:
    """One generation of a chain. Its key names everything that its result depends on."""

    generation: int
    """1-based."""
    stage: Generation
    key: str
    next_keep: Keep
    """The rule of the mask computed after this generation: that of the next stage, or in the last
    generation its own (that mask is stored, but never applied)."""

    @functools.cached_property
    def trained(self) -> Entry:
        """The record of the training."""
        return Entry("generation", self.key, self.generation, self.key)

    @functools.cached_property
    def mask(self) -> Entry | None:
        """The record of that mask; None where everything is inherited and there is no mask."""
        if self.next_keep == Everything():
            return None
        key = derived(self.key, canonical(self.next_keep))
        return Entry("mask", key, self.generation, self.key)

    @property
    def entries(self) -> list[Entry]:
        """The records that every run with this link has."""
        return [self.trained] if self.mask is None else [self.trained, self.mask]

    def evaluated(self, evaluation: Evaluation) -> Entry:
        """The record of what an evaluation finds of the network after this link."""
        key = derived(self.key, canonical(evaluation))
        return Entry("evaluation", key, self.generation, self.key)


def root_key(results: int, fingerprint: str, root: dict[str, Any]) -> str:
    """What the first key of a chain stands on: the version of the results, the images, and the part
    `root` of a config."""
    return digest({"results": results, "fingerprint": fingerprint} | root)


def derived(key: str, *parts: Any) -> str:
    """The key of what is made of that which has `key`: of a generation by its stage and the part
    `training` of its config, of a mask by its rule, of an evaluation by what it measures; all as
    JSON-ready data."""
    return digest([key, *parts])


def chain(config: Config) -> tuple[Link, ...]:
    """The links of a run.

    A key is the hash of its parent's key, its stage and the training settings; the first stands on
    the images, the network and the seed. Methods that begin alike therefore share links, and fewer
    generations are a prefix of more.
    """
    return _chain(config, dataset(config.dataset).fingerprint)


@functools.cache
def _chain(config: Config, fingerprint: str) -> tuple[Link, ...]:
    key = root_key(RESULTS_VERSION, fingerprint, config.part("root"))
    stages, training = plan(config), config.part("training")
    keeps = [stage.keep for stage in stages[1:]] + [stages[-1].keep]
    links = []
    for number, (stage, keep) in enumerate(zip(stages, keeps, strict=True), 1):
        key = derived(key, canonical(stage), training)
        links.append(Link(number, stage, key, keep))
    return tuple(links)


def entries(config: Config, evaluations: Sequence[Evaluation] = ()) -> list[Entry]:
    """The records of a run, in order: per generation one of kind `generation` and, where something
    is reset, one of kind `mask`; then one of kind `evaluation` for each of `evaluations`, of the
    network after the last generation."""
    links = chain(config)
    measured = [links[-1].evaluated(each) for each in evaluations]
    return [entry for link in links for entry in link.entries] + measured


def run(
    config: Config,
    runs: Path | None = None,
    device: str = "auto",
    report: Callable[[Record], None] = lambda record: None,
    first_only: bool = False,
    evaluations: Sequence[Evaluation] = (),
) -> list[Record]:
    """The records of a run, in the order of `entries`.

    What is on disk under `runs` is read, what is missing is trained and written; a run that was
    killed goes on from its last whole generation. `report` is called with each record. With
    `first_only` the walk ends after the first generation, which other runs may share. Raises
    `DamagedFile` for a file that is not what was written, and `UserError` for a training that
    diverges or a chain begun on another kind of device.
    """
    walk = Walk(config, Store(runs), train.device_named(device))
    found: list[Record] = []
    with conditions(config, walk.trainee.device):
        for position, link in enumerate(walk.links[:1] if first_only else walk.links):
            measured = evaluations if link is walk.links[-1] and not first_only else ()
            wanted = [*link.entries, *map(link.evaluated, measured)]
            # What is finished needs no lock, which could not be made in a folder to read only.
            whole = all(walk.store.read(entry) is not None for entry in wanted)
            with nullcontext() if whole else walk.store.lock(link.key):
                here = [walk.generation(position, parent_digests(found))]
                if link.mask is not None:
                    here.append(walk.mask(position))
                here += [walk.evaluation(each) for each in measured]
            for record in here:
                report(record)
            found += here
    return found


def profile(config: Config, path: Path, device: str = "auto") -> None:
    """Writes a Chrome trace of the first two generations of a run to `path`, with every operation
    and the parts that `Clock` counts; gzipped if its name ends so.

    They have one epoch of at most about 20 steps each, for a trace that a browser can show, and
    leave no records. Raises `UserError` if the file cannot be written.
    """
    short = replace(_few(config, 20), epochs=1, warmup=0, generations=2)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if train.device_named(device).type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path.open("ab").close()
            with torch.profiler.profile(activities=kinds) as traced:
                run(short, Path(folder), device)
            written = Path(folder, "trace.json")
            traced.export_chrome_trace(str(written))
            content = written.read_bytes()
            # The profiler does not say when the disk is full.
            if not content.rstrip().endswith(b"}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            records.write(path, gzip.compress(content) if path.suffix == ".gz" else content)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _few(config: Config, steps: int) -> Config:
    """This run with so few images that an epoch has about `steps` steps."""
    most = max(1, steps * config.batch // len(dataset(config.dataset).classes))
    whole = load(replace(config, per_class=0, noise=0.0))
    smallest = int(torch.bincount(whole.train.labels).min())
    return replace(config, per_class=min(config.per_class or smallest, smallest, most))


def pace(config: Config, device: str) -> float:
    """Seconds that an epoch of a run takes on this device, by the second of two short epochs."""
    few = replace(_few(config, 8), epochs=2, warmup=0)
    trainee, link, ends = Trainee(few, train.device_named(device)), chain(few)[0], []
    with conditions(few, trainee.device):
        images = train.train(
            trainee.model,
            trainee.batches(link),
            2,
            step=trainee.step_of(link.stage),
            after=lambda epoch: ends.append(time.perf_counter()),
        )["images"]
    return (ends[1] - ends[0]) / (images / 2) * len(load(config).train.labels)


def parent_digests(found: list[Record]) -> list[str]:
    """The digests of the last weights among the records of a chain and, where there is one, of the
    mask computed from them: what the next generation descends from."""
    last = [record["result"] for record in found if record["generation"] == found[-1]["generation"]]
    return [result.get("weights") or result["mask"] for result in last]


def check_descent(record: Record, parents: list[str], path: Path) -> None:
    """Raises `DamagedFile` if a generation was trained from other weights or another mask than
    those now on disk, which happens if its parent was deleted and trained anew elsewhere."""
    if record.get("parents") != parents:
        raise DamagedFile(path, "what it was trained from has been trained anew since")


@contextmanager
def arithmetic(threads: int) -> Iterator[None]:
    """Fixes what the last bits of a result depend on: the number of CPU threads, and of CUDA that
    its convolutions add up in a fixed order, and compute float32 numbers in float32, which torch
    would round to TF32 (ten bits)."""
    cores = os.cpu_count() or 1
    if threads > cores:
        raise UserError(f"threads={threads} is more than the {cores} cores of this machine")
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.conv.fp32_precision
    torch.set_num_threads(threads)
    cudnn.deterministic, cudnn.conv.fp32_precision = True, "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.conv.fp32_precision = before[1:]


@contextmanager
def conditions(config: Config, device: torch.device) -> Iterator[None]:
    """What a run is trained under: its arithmetic, its device, and advice where memory is short."""
    here = torch.accelerator.device_index(device.index)
    with enough_memory(), arithmetic(config.threads), here:
        yield


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raises `UserError` with advice where memory does not suffice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if short_of_memory(error):
            what = (str(error) or "the machine has none left").splitlines()[0]
            raise UserError(
                f"not enough memory ({what}); use a smaller batch or width, or fewer workers"
            ) from error
        raise


# --------------------------------------------------------------------------------------------------
# The network of a run, which knows no files of runs


class Trainee:
    """The network and the images of a run, made when first needed."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.step: tuple[Hashable, train.Step] | None = None
        """The training step that was used last, and what it is good for."""

    @functools.cached_property
    def data(self) -> Data:
        """The images of the run, on its device."""
        return load(self.config).to(self.device)

    @functools.cached_property
    def model(self) -> torch.nn.Module:
        """The network of the run, on its device; newly initialised when first asked for."""
        return models.build(self.config).to(self.device)

    def parent(self, generation: int, images: float) -> Parent:
        """What the mask after a generation may be computed from, when the share `images` of the
        training images has arrived."""
        return Parent(self.model, self.data.arrived(images), self.config, generation)

    def measure(self, split: Split) -> tuple[float, float]:
        """Accuracy in % and loss on a split, of embeddings those of `retrieval.evaluate`; raises
        `UserError` for a network that has diverged."""
        measure = retrieval.evaluate if LOSSES[self.config.loss].embedding else train.evaluate
        accuracy, loss = measure(self.model, evaluation_batches(split, self.data.dataset))
        if not math.isfinite(loss):
            raise UserError(f"the loss on images is {loss}; lower lr or add warmup epochs")
        return accuracy, loss

    def batches(self, link: Link) -> Training:
        """The batches that a generation is trained on."""
        stage, task = link.stage, link.stage.task
        data = self.data.arrived(stage.images)
        return Training(data, self.config, link.generation, stage.mix, task.pairs, task.grouped)

    def learn(
        self, link: Link, mask: Mask, clock: Clock, count: Callable[[], None]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Resets what `mask` does not keep and trains one generation; returns what came out of it,
        and `seconds` and `images_per_second`. `count` is called after every epoch."""
        stage, epochs, ancestor = link.stage, link.stage.length(self.config), None
        batches = self.batches(link)
        with clock.part("switch"):
            if stage.task.needs_parent:
                ancestor = copy.deepcopy(self.model).eval()
            if mask:
                stage.begin(self.parent(link.generation - 1, stage.images), mask)
        with clock.part("evaluation"):
            birth, _ = self.measure(self.data.evaluation)
        step, dropping = self.step_of(stage), None
        if stage.dropping:
            draw = stream(self.config.seed, link.generation, "dropping")
            dropping = Dropping(stage.dropping, self.model, epochs, draw)
        held = mask if stage.hold else dropping.whole if dropping else None
        trace: list[float] = []
        measured: list[tuple[float, float]] = []

        def after(epoch: int) -> None:
            if dropping:
                dropping.after(epoch, step)
            due = epoch % self.config.epochs == 0
            if due or epoch == epochs:
                with clock.part("evaluation"):
                    measured.append(self.measure(self.data.evaluation))
            if due:
                trace.append(measured[-1][0])
            count()

        trained = train.train(
            self.model,
            batches,
            epochs,
            peak=stage.peak,
            step=step,
            parent=ancestor,
            held=held,
            average=stage.average,
            clock=clock,
            after=after,
        )
        accuracy, loss = measured[-1]
        with clock.part("evaluation"):
            train_accuracy, train_loss = self.measure(batches.data.train)
        result = {
            "birth_accuracy": birth,
            "test_accuracy": accuracy,
            "test_loss": loss,
            "train_accuracy": train_accuracy,
            "train_loss": train_loss,
            "curve": trained["curve"],
            "trace": trace,
        }
        seconds = trained["seconds"]
        return result, {"seconds": seconds, "images_per_second": trained["images"] / seconds}

    def step_of(self, stage: Generation) -> train.Step:
        """The training step of a stage: the last one's, with all that CUDA captured, if the stages
        are alike in it."""
        modules = frozenset(name for name, _ in self.model.named_modules())
        alike = (stage.task, stage.hold, stage.dropping, modules)
        if self.step is None or self.step[0] != alike:
            make = Replayed if self.device.type == "cuda" else train.Step
            self.step = alike, make(self.model, stage.task, self.config)
        return self.step[1]

    def masked_accuracy(self, mask: Mask) -> float:
        """Accuracy in % of the network without the weights that are not kept (DNR Table 6)."""
        state = self.model.state_dict()
        whole = {name: state[name].clone() for name in mask}
        for name in mask:
            state[name].mul_(mask[name].to(self.device))
        accuracy, _ = self.measure(self.data.evaluation)
        for name in mask:
            state[name].copy_(whole[name])
        return accuracy


# --------------------------------------------------------------------------------------------------
# The walk along its chain, which reads and writes


class Walk:
    """A run on its way: its chain, its files, and its network. It reads a record that is on disk,
    and makes and writes any other."""

    def __init__(self, config: Config, store: Store, device: torch.device) -> None:
        self.config = config
        self.links = chain(config)
        self.store = store
        self.trainee = Trainee(config, device)
        self.at: str | None = None
        """Key of the link whose weights the network holds."""

    def open(self, position: int) -> Trainee:
        """The network with the weights after the link at `position`; at -1 with its initial
        ones."""
        if position >= 0 and self.at != self.links[position].key:
            state = self.store.weights(self.links[position].trained)
            models.load_state(self.trainee.model, state)
            self.at = self.links[position].key
        return self.trainee

    def mask_after(self, position: int) -> Mask:
        """The mask on disk that was computed after a link; empty if there is none."""
        entry = self.links[position].mask if position >= 0 else None
        return {} if entry is None else self.store.mask(entry)

    def write(self, entry: Entry, **body: Any) -> Record:
        """Writes the record of an entry, with its provenance; returns it."""
        body["provenance"] = records.provenance(self.trainee.device, self.config.threads)
        return self.store.write(entry, body)

    def generation(self, position: int, parents: list[str]) -> Record:
        """The record of a generation, read or trained; `parents` is what it descends from."""
        link, here = self.links[position], self.trainee.device.type
        record = self.store.read(link.trained)
        if record is not None:
            path = self.store.path(link.trained)
            check_descent(record, parents, path)
            made_on = record["provenance"]["device"]
            if made_on != here:
                raise UserError(
                    f"{path.parent} was trained on {made_on}, this run is on {here}; "
                    f"pass --device {made_on}, or set DNRLIB_RUNS to another folder"
                )
            return record
        clock = Clock(self.trainee.device)
        with clock.part("start"):
            self.trainee.data, self.trainee.model  # noqa: B018 - read and built once
        with clock.part("files"):
            trainee = self.open(position - 1)
            mask = self.mask_after(position - 1)
        self.at = None
        with self.store.counting(link.trained) as count:
            result, timing = trainee.learn(link, mask, clock, count)
        with clock.part("files"):
            state = {name: value.cpu() for name, value in trainee.model.state_dict().items()}
            result["weights"] = self.store.write_weights(link.trained, state)
        self.at = link.key
        return self.write(
            link.trained,
            parents=parents,
            stage=canonical(link.stage),
            config=self.config.part("root") | self.config.part("training"),
            result=result,
            timing=timing | {"parts": clock.seconds()},
        )

    def mask(self, position: int) -> Record:
        """The record of the mask after a generation, read or computed.

        Counts per layer are whole numbers; shares are left to whoever reads them. `with_previous`
        and `with_first` count the weights that are kept by this mask and by the one before, or by
        the first of the run; `with_resampled` those also kept by a mask that was made from
        independent samples at the same weights (`rules.resampled`).
        """
        link = self.links[position]
        record = self.store.read(link.mask)
        if record is not None:
            return record
        clock = Clock(self.trainee.device)
        with clock.part("files"):
            trainee = self.open(position)
        parent = trainee.parent(link.generation, link.stage.images)
        with clock.part("switch"):
            mask, zero = link.next_keep.mask(parent)
        result = {
            "size": {name: values.numel() for name, values in mask.items()},
            "kept": masks.count(mask),
            "zero_saliency": masks.count(zero),
        }
        with clock.part("resampling"):
            result["with_resampled"] = resampled(link.next_keep, parent, mask)
        with clock.part("files"):
            if previous := self.mask_after(position - 1):
                result["with_previous"] = masks.both(mask, previous)
                result["with_first"] = masks.both(mask, self.mask_after(0))
            result["mask"] = self.store.write_mask(link.mask, mask)
        with clock.part("evaluation"):
            result["masked_accuracy"] = trainee.masked_accuracy(mask)
        parts = clock.seconds()
        return self.write(
            link.mask,
            of=link.key,
            keep=canonical(link.next_keep),
            result=result,
            timing={"seconds": parts["switch"], "parts": parts},
        )

    def averaged(self) -> Averaged:
        """The networks after all generations as one."""
        networks = []
        for link in self.links:
            networks.append(models.build(self.config))
            models.load_state(networks[-1], self.store.weights(link.trained))
        return Averaged(networks).to(self.trainee.device)

    def evaluation(self, evaluation: Evaluation) -> Record:
        """The record of an evaluation, read or measured."""
        link = self.links[-1]
        record = self.store.read(link.evaluated(evaluation))
        if record is not None:
            return record
        start = time.perf_counter()
        last = len(self.links) - 1
        model = self.averaged() if evaluation.all_generations else self.open(last).model
        result = evaluation.result(model, self.trainee.data, self.config)
        return self.write(
            link.evaluated(evaluation),
            of=link.key,
            evaluation=canonical(evaluation),
            result=result,
            timing={"seconds": time.perf_counter() - start},
        )


def finished(config: Config, device: str = "auto", runs: Path | None = None) -> Trainee:
    """The network of a finished run, from its weights on disk; of an ensemble all its members as
    one. Raises `DamagedFile`."""
    walk = Walk(config, Store(runs), train.device_named(device))
    if config.method == "ensemble":
        walk.trainee.model = walk.averaged()
        return walk.trainee
    return walk.open(len(walk.links) - 1)
