"""One run: walk its chain of generations from the longest prefix on disk, train what is missing."""

import copy
import functools
import io
import os
import pickle
import tempfile
import time
import zipfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import UserError, masks, models, records, train
from .clock import Clock
from .config import RESULTS_VERSION, Config, canonical, digest
from .data import Data, dataset, load
from .graphs import Replayed
from .losses import Distilled
from .masks import Everything, Keep, Mask, Parent
from .methods import Generation, plan
from .records import DamagedFile, Record

if TYPE_CHECKING:
    from .evaluations import Evaluation


@dataclass(frozen=True)
class Link:
    """One generation of a chain. Its key names everything that its result depends on."""

    generation: int
    """1-based."""
    stage: Generation
    key: str
    keep: Keep
    """The rule of the mask computed after this generation: the next stage's, or after the last
    generation its own once more, for a mask that is stored and never applied."""

    @functools.cached_property
    def mask_key(self) -> str | None:
        """The key of that mask; None where everything is inherited and there is no mask."""
        if isinstance(self.keep, Everything):
            return None
        return digest([self.key, canonical(self.keep)])

    @property
    def keys(self) -> list[str]:
        """The keys of all records that belong to this link."""
        return [self.key] if self.mask_key is None else [self.key, self.mask_key]


def evaluation_key(link: Link, evaluation: "Evaluation") -> str:
    """The key of what an evaluation finds of the network after a link."""
    return digest([link.key, canonical(evaluation)])


def chain(config: Config) -> tuple[Link, ...]:
    """The links of a run.

    A key is the hash of its parent's key, its stage and the training settings; the first stands on
    the images, the network and the seed. Methods that begin alike therefore share links, and fewer
    generations are a prefix of more.
    """
    return _chain(config, dataset(config.dataset).fingerprint)


@functools.cache
def _chain(config: Config, fingerprint: str) -> tuple[Link, ...]:
    key = digest({"results": RESULTS_VERSION, "fingerprint": fingerprint} | config.part("root"))
    stages = plan(config)
    keeps = [stage.keep for stage in stages[1:]] + [stages[-1].keep]
    links = []
    for number, (stage, keep) in enumerate(zip(stages, keeps, strict=True), 1):
        key = digest([key, canonical(stage), config.part("training")])
        links.append(Link(number, stage, key, keep))
    return tuple(links)


def run(
    config: Config,
    runs: Path | None = None,
    device: str = "auto",
    report: Callable[[Record], None] = lambda record: None,
    first_only: bool = False,
    evaluations: Sequence["Evaluation"] = (),
) -> list[Record]:
    """The records of a run, in order: per generation one of kind `generation` and, where something
    is reset, one of kind `mask`; then one of kind `evaluation` for each of `evaluations`, of the
    network after the last generation.

    What is on disk under `runs` is read, what is missing is trained and written; a run that was
    killed goes on from its last whole generation. `report` is called with each record. With
    `first_only` the walk ends after the first generation, which other runs may share. Raises
    `DamagedFile` for a file that is not what was written, and `UserError` for a training that
    diverges or a chain begun on another kind of device.
    """
    session = Session(config, runs or records.runs_root(), train.device_named(device))
    found = []
    links = chain(config)
    on_gpu = session.device.type == "cuda"
    with threads(config.threads), torch.cuda.device(session.device) if on_gpu else nullcontext():
        for position, link in enumerate(links[:1] if first_only else links):
            with records.lock(session.folder(link)):
                here = [session.generation(links, position, born_of(found))]
                if link.mask_key is not None:
                    here.append(session.mask(links, position))
                if link is links[-1] and not first_only:
                    here += [session.evaluation(links, each) for each in evaluations]
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
    most = max(1, 20 * config.batch // len(dataset(config.dataset).classes))
    smallest = int(torch.bincount(load(replace(config, per_class=0)).train.labels).min())
    per_class = min(config.per_class or smallest, smallest, most)
    short = replace(config, epochs=1, warmup=0, generations=2, per_class=per_class)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if train.device_named(device).type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    try:
        path.open("ab").close()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.profiler.profile(activities=kinds) as traced,
    ):
        run(short, Path(folder), device)
    traced.export_chrome_trace(str(path))


def born_of(found: list[Record]) -> list[str]:
    """The digests of the last weights among the records of a chain and, where there is one, of the
    mask computed from them: what the next generation descends from."""
    last = [record["result"] for record in found if record["generation"] == found[-1]["generation"]]
    return [result.get("weights") or result["mask"] for result in last]


def check_descent(record: Record, parents: list[str], path: Path) -> None:
    """Raises `DamagedFile` if a generation was trained from other weights or another mask than
    those now on disk, which happens if its parent was deleted and trained anew elsewhere."""
    # The first published generations do not say what they descend from.
    if record.get("parents", parents) != parents:
        raise DamagedFile(path, "what it was trained from has been trained anew since")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Fixes the number of CPU threads, which the last bits of a result depend on."""
    cores = os.cpu_count() or 1
    if number > cores:
        raise UserError(f"threads={number} is more than the {cores} cores of this machine")
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Session:
    """The network and images of a run that is being trained; built when first needed."""

    def __init__(self, config: Config, runs: Path, device: torch.device) -> None:
        self.config = config
        self.runs = runs
        self.device = device
        self.data: Data | None = None
        self.model: models.ResNet | None = None
        self.step: tuple[Hashable, train.Step] | None = None
        """The training step that was used last, and what it is good for."""
        self.masks: dict[str, Mask] = {}
        """The first mask of the run and the last, by key, once they are known."""
        self.at: str | None = None
        """Key of the link whose weights the network holds."""

    def folder(self, link: Link) -> Path:
        return self.runs / link.key

    def generation(self, links: tuple[Link, ...], position: int, parents: list[str]) -> Record:
        """The record of a generation, read or trained; `parents` is what it descends from."""
        link = links[position]
        path = self.folder(link) / "record.json"
        record = records.read(path)
        if record is not None:
            check_descent(record, parents, path)
            made_on = record["provenance"]["device"]
            if made_on != self.device.type:
                raise UserError(
                    f"{path.parent} was trained on {made_on}, this run is on {self.device.type}; "
                    f"pass --device {made_on}, or set DNRLIB_RUNS to another folder"
                )
            return record
        config, clock = self.config, Clock(self.device)
        stage, mask, ancestor = link.stage, {}, None
        with clock.part("start"):
            self.start()
        with clock.part("files"):
            self.open(links, position - 1)
            if position > 0 and links[position - 1].mask_key is not None:
                mask = self.read_mask(links[position - 1])
        with clock.part("switch"):
            if isinstance(stage.task, Distilled):
                ancestor = copy.deepcopy(self.model).eval()
            if mask:
                parent = Parent(self.model, self.data, config, generation=position)
                train.conceive(parent, mask, stage)
        self.at = None
        with clock.part("evaluation"):
            birth, _ = train.evaluate(self.model, self.data, self.data.evaluation)
        trained = train.train(
            self.model,
            self.data,
            config,
            link.generation,
            stage.length(config),
            peak=stage.peak,
            parent=ancestor,
            held=mask if stage.hold else None,
            step=self.step_of(stage),
            clock=clock,
        )
        with clock.part("evaluation"):
            train_accuracy, train_loss = train.evaluate(self.model, self.data, self.data.train)
        with clock.part("files"):
            state = {name: value.cpu() for name, value in self.model.state_dict().items()}
            file = io.BytesIO()
            torch.save(state, file)
            records.write(self.folder(link) / "weights.pt", file.getvalue())
            digest_of_weights = records.weights_digest(state)
        self.at = link.key
        return records.save(
            path,
            {
                "kind": "generation",
                "key": link.key,
                "generation": link.generation,
                "parents": parents,
                "stage": canonical(link.stage),
                "config": config.part("root") | config.part("training"),
                "result": {
                    "birth_accuracy": birth,
                    "test_accuracy": trained["test_accuracy"],
                    "test_loss": trained["test_loss"],
                    "train_accuracy": train_accuracy,
                    "train_loss": train_loss,
                    "curve": trained["curve"],
                    "trace": trained["trace"],
                    "weights": digest_of_weights,
                },
                "timing": {
                    "seconds": trained["seconds"],
                    "images_per_second": trained["images"] / trained["seconds"],
                    "parts": clock.seconds(),
                },
                "provenance": records.provenance(self.device, config.threads),
            },
        )

    def mask(self, links: tuple[Link, ...], position: int) -> Record:
        """The record of the mask after a generation, read or computed.

        Counts per layer are whole numbers; shares are left to whoever reads them. `with_previous`
        and `with_first` count the weights that are kept by this mask and by the one before, or by
        the first of the run; `with_resampled` those also kept by a mask that was made from
        independent samples at the same weights (`masks.resampled`).
        """
        link = links[position]
        path = self.folder(link) / f"mask-{link.mask_key}.json"
        record = records.read(path)
        if record is not None:
            return record
        clock = Clock(self.device)
        with clock.part("files"):
            self.open(links, position)
        parent = Parent(self.model, self.data, self.config, generation=link.generation)
        with clock.part("switch"):
            mask, zero = link.keep.mask(parent)
        result = {
            "size": {name: values.numel() for name, values in mask.items()},
            "kept": masks.count(mask),
            "zero_saliency": masks.count(zero),
        }
        with clock.part("resampling"):
            result["with_resampled"] = masks.resampled(link.keep, parent, mask)
        with clock.part("files"):
            if position > 0 and links[position - 1].mask_key is not None:
                result["with_previous"] = masks.both(mask, self.read_mask(links[position - 1]))
                result["with_first"] = masks.both(mask, self.read_mask(links[0]))
            result["mask"] = records.weights_digest(mask)
            records.write(path.with_suffix(".npz"), masks.pack(mask))
            self.masks = {
                key: known for key, known in self.masks.items() if key == links[0].mask_key
            } | {link.mask_key: mask}
        with clock.part("evaluation"):
            result["masked_accuracy"] = self.masked_accuracy(mask)
        parts = clock.seconds()
        return records.save(
            path,
            {
                "kind": "mask",
                "key": link.mask_key,
                "generation": link.generation,
                "of": link.key,
                "keep": canonical(link.keep),
                "result": result,
                "timing": {"seconds": parts["switch"], "parts": parts},
                "provenance": records.provenance(self.device, self.config.threads),
            },
        )

    def evaluation(self, links: tuple[Link, ...], evaluation: "Evaluation") -> Record:
        """The record of an evaluation of the last network, read or measured."""
        link, key = links[-1], evaluation_key(links[-1], evaluation)
        path = self.folder(link) / f"evaluation-{key}.json"
        record = records.read(path)
        if record is not None:
            return record
        self.open(links, len(links) - 1)
        start = time.perf_counter()
        result = evaluation.result(self.model, self.data, self.config)
        return records.save(
            path,
            {
                "kind": "evaluation",
                "key": key,
                "generation": link.generation,
                "of": link.key,
                "evaluation": canonical(evaluation),
                "result": result,
                "timing": {"seconds": time.perf_counter() - start},
                "provenance": records.provenance(self.device, self.config.threads),
            },
        )

    def step_of(self, stage: Generation) -> train.Step:
        """The training step of a stage: the last one's, with all that CUDA captured, if the stages
        are alike in it."""
        modules = frozenset(name for name, _ in self.model.named_modules())
        alike = (stage.task, stage.hold, modules)
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
        accuracy, _ = train.evaluate(self.model, self.data, self.data.evaluation)
        for name in mask:
            state[name].copy_(whole[name])
        return accuracy

    def start(self) -> None:
        """Reads the images and builds the network, once."""
        if self.model is None:
            self.data = load(self.config).to(self.device)
            self.model = models.build(self.config).to(self.device)

    def open(self, links: tuple[Link, ...], position: int) -> None:
        """Makes the network hold the weights after a generation; position -1 is its birth."""
        self.start()
        if position < 0 or self.at == links[position].key:
            return
        link = links[position]
        path = self.folder(link) / "weights.pt"
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            raise DamagedFile(path, f"cannot be read: {type(error).__name__}") from error
        record = records.read(self.folder(link) / "record.json")
        if records.weights_digest(state) != record["result"]["weights"]:
            raise DamagedFile(path, "its weights are not those of its record")
        models.load_state(self.model, state)
        self.at = link.key

    def read_mask(self, link: Link) -> Mask:
        """The mask stored after a generation."""
        if link.mask_key in self.masks:
            return self.masks[link.mask_key]
        path = self.folder(link) / f"mask-{link.mask_key}.npz"
        try:
            mask = masks.unpack(path)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DamagedFile(path, f"cannot be read: {type(error).__name__}") from error
        record = records.read(path.with_suffix(".json"))
        if records.weights_digest(mask) != record["result"]["mask"]:
            raise DamagedFile(path, "its bits are not those of its record")
        return mask
