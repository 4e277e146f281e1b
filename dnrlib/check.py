"""Whether a tree of runs is whole, such as one into which those of several machines were copied."""

from collections import Counter, defaultdict
from dataclasses import fields
from pathlib import Path

from tqdm.auto import tqdm

from . import UserError
from .config import Config, digest
from .datasets.catalogue import dataset
from .records import DamagedFile, Record, read
from .run import check_descent, derived, parent_digests, root_key
from .store import Entry, Store

ROOT_FIELDS = {spec.name for spec in fields(Config) if spec.metadata["part"] == "root"}


def check(runs: Path) -> tuple[Counter[str], list[str], list[Path]]:
    """Checks every record under a folder of runs, of whichever study, and what comes with it: seals
    and places, keys from the images on, descent, weights and masks. Returns the number of whole
    records by kind, a line for each fault, and the folders of generations that have weights and no
    record.

    Those are no faults: a killed run left them, and the next study goes on from there. Whether runs
    are missing altogether only a study can say. Raises `UserError` for a folder without records.
    """
    names = ("record.json", "mask-*.json", "evaluation-*.json")
    paths = [path for name in names for path in runs.rglob(name)]
    if not paths:
        raise UserError(f"{runs} has no records; name a folder of runs")
    tree, whole, faults = _Tree(runs), Counter[str](), []
    bar = tqdm(sorted(paths), unit="record", desc="checking", leave=False, disable=None)
    for path in bar:
        try:
            whole[tree.examine(path)] += 1
        except UserError as error:
            faults.append(str(error))
        except (KeyError, TypeError, AttributeError):
            # Its seal fits, so that it was made as it is.
            faults.append(str(DamagedFile(path, "not a record of a run")))
    weights = sorted(path.parent for path in runs.glob("*/weights.pt"))
    unfinished = [folder for folder in weights if not (folder / "record.json").exists()]
    # What all records of a dataset lack is one fault.
    return whole, list(dict.fromkeys(faults)), unfinished


class _Tree:
    """The files under a folder of runs, and by generation and config the records of its generations
    that can be read."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.store = Store(runs)
        self.made: dict[tuple[int, str], list[Record]] = defaultdict(list)
        for path in runs.glob("*/record.json"):
            try:
                record = read(path)
                self.made[record["generation"], digest(record["config"])].append(record)
            except (UserError, KeyError, TypeError):
                pass  # It is named when it is examined.

    def examine(self, path: Path) -> str:
        """The kind of the record at a path; raises `UserError` unless it is whole."""
        if path.parent.parent != self.runs:
            raise UserError(f"{path} lies too deep; move {path.parent} to {self.runs}")
        link = path.parent.name
        kind, _, key = path.stem.partition("-")
        if kind == "record":
            generation = read(path)["generation"]
            entry = Entry("generation", link, generation, link)
            record = self.store.read(entry)
            check_descent(record, self.parents(record, path), path)
            self.store.weights(entry)
            return entry.kind
        of = read(path.with_name("record.json"))
        if of is None:
            raise DamagedFile(path, "the generation that it is of is not here")
        entry = Entry(kind, key, of["generation"], link)
        record = self.store.read(entry)
        if derived(link, record["keep" if kind == "mask" else "evaluation"]) != key:
            raise DamagedFile(path, "its key is not that of its content")
        if kind == "mask":
            self.store.mask(entry)
        return kind

    def parents(self, record: Record, path: Path) -> list[str]:
        """The digests of what a generation descends from, which is what leads to its key."""
        parts = record["config"].items()
        root = {name: value for name, value in parts if name in ROOT_FIELDS}
        training = {name: value for name, value in parts if name not in ROOT_FIELDS}

        def led_by(key: str) -> bool:
            return derived(key, record["stage"], training) == record["key"]

        if record["generation"] == 1:
            images = dataset(root["dataset"]).fingerprint
            if not led_by(root_key(record["provenance"]["results"], images, root)):
                raise DamagedFile(path, "its key is not that of its content and of these images")
            return []
        before = self.made[record["generation"] - 1, digest(record["config"])]
        parent = next((each for each in before if led_by(each["key"])), None)
        if parent is None:
            raise DamagedFile(path, "no generation that is here leads to its key")
        found = [parent]
        if (keep := record["stage"]["Generation"].get("keep")) is not None:
            entry = Entry("mask", derived(parent["key"], keep), parent["generation"], parent["key"])
            found.append(self.store.read(entry))
            if found[-1] is None:
                raise DamagedFile(path, "the mask that it was trained with is not here")
        return parent_digests(found)
