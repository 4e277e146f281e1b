"""Where the files of the user's own runs lie, and checks that they are the right ones.

A folder per generation, named by its key: `record.json` and `weights.pt`; for the mask computed
after it `mask-KEY.json` and `mask-KEY.npz`; per evaluation `evaluation-KEY.json`. While it is
trained, `epochs` has a byte for each epoch that is done.
"""

import errno
import functools
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import UserError, masks, records
from .masks import Mask
from .records import DamagedFile, Record

OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE)
"""Errors of reading of which the file's content is not the cause."""


def short_of_memory(error: Exception) -> bool:
    """Whether the machine or a device has too little memory, which torch says in several ways."""
    said = "out of memory", "can't allocate memory", "ALLOC_FAILED"
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


@dataclass(frozen=True)
class Entry:
    """A record that a run has, or is to have."""

    kind: str
    """`generation`, `mask` or `evaluation`."""
    key: str
    generation: int
    """1-based."""
    link: str
    """The key of the generation that it belongs to."""

    def is_of(self, record: Record) -> bool:
        """Whether a record is the one that is meant."""
        named = (record["kind"], record["key"], record["generation"])
        return named == (self.kind, self.key, self.generation)


class Store:
    """The files under one folder of runs."""

    def __init__(self, runs: Path | None = None) -> None:
        self.runs = runs or records.runs_root()

    def path(self, entry: Entry, suffix: str = ".json") -> Path:
        """The file of an entry: its record, or what comes with it."""
        name = "record" if entry.kind == "generation" else f"{entry.kind}-{entry.key}"
        return self.runs / entry.link / f"{name}{suffix}"

    @contextmanager
    def lock(self, link: str) -> Iterator[None]:
        """Exclusive use of the folder of a generation among processes, in which what killed ones
        left is deleted: a temporary file of `records.write` that has an owner has the lock too."""
        folder = self.runs / link
        with records.lock(folder):
            for left in [*folder.glob(".*-????????"), folder / "epochs"]:
                left.unlink(missing_ok=True)
            yield

    @contextmanager
    def counting(self, entry: Entry) -> Iterator[Callable[[], None]]:
        """A function to call after each epoch of a generation, so that any process can ask
        `epochs`."""
        path = self.path(entry).with_name("epochs")

        def count() -> None:
            # No training is to end because of a full disk before it has something to keep.
            with suppress(OSError), path.open("ab") as file:
                file.write(b".")

        try:
            yield count
        finally:
            path.unlink(missing_ok=True)

    def epochs(self, entry: Entry) -> int:
        """How many epochs are done of a generation that is being trained; 0 of any other."""
        try:
            return self.path(entry).with_name("epochs").stat().st_size
        except OSError:
            return 0

    def read(self, entry: Entry) -> Record | None:
        """The record of an entry, or None if there is none; raises `DamagedFile`, also for a record
        of something else that was put in its place."""
        path = self.path(entry)
        record = records.read(path)
        if record is not None and not entry.is_of(records.of_a_run(record, path)):
            wrong = f"the {record['kind']} {record['key']!r}"
            raise DamagedFile(path, f"it is the record of {wrong}, which does not belong here")
        return record

    def write(self, entry: Entry, body: Record) -> Record:
        """Writes the record of an entry; returns it."""
        named = {"kind": entry.kind, "key": entry.key, "generation": entry.generation}
        return records.save(self.path(entry), named | body)

    def write_weights(self, entry: Entry, state: dict[str, Tensor]) -> str:
        """Writes the weights after a generation; returns their digest."""
        file = io.BytesIO()
        torch.save(state, file)
        records.write(self.path(entry).with_name("weights.pt"), file.getvalue())
        return records.tensors_digest(state)

    def weights(self, entry: Entry) -> dict[str, Tensor]:
        """The weights after a generation, on the CPU; raises `DamagedFile` if they are not those of
        its record."""
        path = self.path(entry).with_name("weights.pt")
        load = functools.partial(torch.load, weights_only=True, map_location="cpu")
        return self._proven(entry, path, load, "weights")

    def write_mask(self, entry: Entry, mask: Mask) -> str:
        """Writes a mask; returns its digest."""
        records.write(self.path(entry, ".npz"), masks.pack(mask))
        return records.tensors_digest(mask)

    def mask(self, entry: Entry) -> Mask:
        """A mask; raises `DamagedFile` if it is not that of its record."""
        return self._proven(entry, self.path(entry, ".npz"), masks.unpack, "bits")

    def _proven(
        self, entry: Entry, path: Path, load: Callable[[Path], dict[str, Tensor]], what: str
    ) -> dict[str, Tensor]:
        """What `load` reads from a file, if its digest is that of the record."""
        try:
            found = load(path)
            digest = records.tensors_digest(found)
        # What is damaged, or was never a dict of tensors, can raise anything.
        except Exception as error:
            if short_of_memory(error) or getattr(error, "errno", None) in OF_THE_MACHINE:
                raise  # The file is not to blame.
            if isinstance(error, PermissionError):
                said = f"{path} belongs to another user, who does not let you read it"
                raise UserError(said) from error
            raise DamagedFile(path, f"cannot be read: {type(error).__name__}") from error
        record, kind = self.read(entry), "weights" if entry.kind == "generation" else "mask"
        if record is None or digest != record["result"][kind]:
            raise DamagedFile(path, f"its {what} are not those of its record")
        return found
