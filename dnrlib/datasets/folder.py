"""A folder of the user's own images as a dataset: `folder:PATH`, or `folder:PATH@SIZE`.

PATH holds a subfolder of images per class; or `train/`, and as wanted `val/` and `test/`, which
hold these. What is not given is split off the training images: a fifth of every class each.
"""

import functools
import hashlib
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from .. import UserError
from ..config import digest
from . import decoded
from .decoded import CorruptImages, Kind, Listing, Picture
from .splits import Dataset

PREFIX = "folder:"
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"]
)
POOLS = {
    "train": "train",
    "val": "tuning",
    "valid": "tuning",
    "validation": "tuning",
    "test": "test",
}
"""The subfolders with a meaning of their own, and the pools that they become."""
HELD_OUT = 0.2
"""Share of every class that becomes a pool which has no folder."""
FEW = 10
"""A class with fewer images than this is reported."""


def canonical(name: str) -> str:
    """The one name of a folder's dataset, with its whole path: it is part of the key of a run.
    Other names are returned as they are."""
    if not name.startswith(PREFIX):
        return name
    path, size = parse(name)
    return f"{PREFIX}{path}" + (f"@{size}" if size else "")


def parse(name: str) -> tuple[Path, int | None]:
    """Folder and size in pixels of `folder:PATH[@SIZE]`; raises `UserError` for a size that cannot
    be used. Images up to 64 pixels are shown whole to the network, of larger ones 7/8."""
    whole = Path(name.removeprefix(PREFIX)).expanduser().resolve()
    path, at, size = name.removeprefix(PREFIX).rpartition("@")
    # A folder may be called so itself.
    if not at or not size.isdecimal() or whole.is_dir():
        return whole, None
    if int(size) not in range(16, 513) or int(size) % 8:
        raise UserError(f"@{size} in {name!r} must be a multiple of 8 from 16 to 512")
    return Path(path).expanduser().resolve(), int(size)


@dataclass(frozen=True)
class File:
    """An image file of a folder: its path, its class, and its pool if the folder names one."""

    path: Path
    label: str
    pool: str | None


def dataset(name: str) -> Dataset:
    """The dataset of a folder; its images are decoded if they have changed since it was last
    used. Raises `UserError` for what `prepare` refuses."""
    name = canonical(name)
    signature, spent = _seen.get(name, ("", 0.0))
    start = time.monotonic()
    if spent <= 1 + LOOKING * (start - _BEGIN):
        signature = _signature(_files(parse(name)[0])[0])
        _seen[name] = signature, spent + time.monotonic() - start
    return _dataset(name, signature)


LOOKING = 0.05
"""Share of a process's time, beyond one second, that it may look whether a folder has changed: each
config asks, and a look at ten thousand files takes a tenth of a second."""
_BEGIN = time.monotonic()
_seen: dict[str, tuple[str, float]] = {}
"""By dataset: its signature when it was last looked at, and the seconds of all looks."""


@functools.lru_cache(maxsize=8)
def _dataset(name: str, signature: str) -> Dataset:
    prepare(name, trusted=True)
    return decoded.dataset(name)


def _signature(files: list[File]) -> str:
    """Changes with every image file that is added, removed, renamed or written to."""
    found = [(file.path, file.path.stat()) for file in files]
    return digest([[str(path), state.st_size, state.st_mtime_ns] for path, state in found])


def prepare(name: str, skip_corrupt: bool = False, trusted: bool = False) -> dict[str, Any]:
    """Reads a folder and decodes its images unless that was done and nothing has changed; returns
    the manifest, whose `notes` hold the `problems` that were found, a list of sentences.

    The arrays are read through as well, and made again if they are damaged, unless they are
    `trusted`. Raises `UserError` for a folder without two classes of images, and for files that
    cannot be decoded, unless they are to be skipped.
    """
    name = canonical(name)
    path, size = parse(name)
    files, others = _files(path)
    signature = _signature(files)
    known = decoded.manifest(name)
    unchanged = known and known["notes"]["signature"] == signature
    if unchanged and (trusted or decoded.whole(name, known)):
        return known
    skipped: dict[Path, str] = {}
    while True:
        listing, problems = _listing(path, [file for file in files if file.path not in skipped])
        problems += [f"{file} was skipped: {what}" for file, what in skipped.items()]
        if others:
            problems.append(f"not an image, or in no class: {_few(others)}")
        size = size or native(path)
        crop = size if size <= 64 else size * 7 // 8
        listing.notes.update(signature=signature, problems=problems)
        try:
            return decoded.decode(name, listing, Kind(f"images of {path.name}", size, crop))
        except CorruptImages as error:
            if not skip_corrupt:
                raise UserError(
                    f"{error}\nor go on without them: {decoded.preparing(name)} --skip-corrupt"
                ) from None
            skipped |= error.found


def native(path: Path) -> int:
    """The size in pixels that a folder's images are decoded to unless another is asked for: 32 or
    64 if none is larger, else 256. Raises `UserError` for a folder that cannot be used."""
    files, _ = _files(path)
    largest = 0
    for file in files:
        try:
            with Image.open(file.path) as image:
                largest = max(largest, *image.size)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue  # Decoding will say what is wrong with it.
        if largest > 64:
            return 256
    return 32 if largest <= 32 else 64


def report(name: str) -> tuple[pd.DataFrame, list[str]]:
    """What was found in a folder: images per class (rows) and pool (columns), and sentences about
    what may be wrong with them."""
    about = dataset(name)
    counts = {
        pool: split.labels.bincount(minlength=len(about.classes)).tolist()
        for pool, split in about.pools().items()
    }
    problems = decoded.manifest(canonical(name))["notes"]["problems"]
    return pd.DataFrame(counts, index=pd.Index(about.classes, name="class")), problems


def _few(paths: list[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(str(path) for path in paths[:3]) + more


def _files(path: Path) -> tuple[list[File], list[Path]]:
    """The image files of a folder, in order, and every other file in it; hidden ones are passed
    over. Raises `UserError` if the folder is not there or not laid out as it must be."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder")
    inside = sorted(entry for entry in path.iterdir() if entry.name[0] != ".")
    folders = [entry for entry in inside if entry.is_dir()]
    pools = [(None, path)]
    if any(folder.name == "train" for folder in folders):
        strange = [folder.name for folder in folders if folder.name not in POOLS]
        pools = [(POOLS.get(folder.name), folder) for folder in folders]
        named = [pool for pool, _ in pools]
        if strange or len(named) != len(set(named)):
            raise UserError(
                f"{path} has train/ and {', '.join(f.name for f in folders if f.name != 'train')}; "
                "beside it there may be one val/ and one test/, or call the class train otherwise"
            )
    files, others = [], [entry for entry in inside if not entry.is_dir()]
    for pool, folder in pools:
        for entry in sorted(folder.rglob("*")):
            parts = entry.relative_to(folder).parts
            if entry.is_dir() or any(part[0] == "." for part in parts):
                continue
            if len(parts) > 1 and entry.suffix.lower() in SUFFIXES:
                files.append(File(entry, parts[0], pool))
            else:
                others.append(entry)
    if not files:
        raise UserError(f"{path} has no images in it; it needs a subfolder of images per class")
    return files, sorted(set(others))


def _listing(path: Path, files: list[File]) -> tuple[Listing, list[str]]:
    """The pools of a folder's images, and what may be wrong with them."""
    classes = sorted({file.label for file in files})
    if len(classes) < 2:
        raise UserError(f"{path} has images of one class only ({', '.join(classes)})")
    contents = {file.path: hashlib.sha256(file.path.read_bytes()).hexdigest() for file in files}
    problems: list[str] = []
    pools: dict[str, list[Picture]] = {pool: [] for pool in ("train", "tuning", "test")}
    missing = [pool for pool in ("test", "tuning") if pool not in {file.pool for file in files}]
    for label, name in enumerate(classes):
        own = [file for file in files if file.label == name]
        if len(own) < FEW:
            problems.append(f"class {name} is small; images: {len(own)}")
        # By content, which is a shuffle that needs no random numbers, and puts equals together.
        spare = sorted(
            (file for file in own if file.pool in (None, "train")), key=lambda f: contents[f.path]
        )
        held = round(HELD_OUT * len(spare)) or 1 if len(spare) >= 3 else 0
        for pool in missing:
            cut = held
            while (
                0 < cut < len(spare) and contents[spare[cut].path] == contents[spare[cut - 1].path]
            ):
                cut += 1
            taken, spare = spare[:cut], spare[cut:]
            pools[pool] += [Picture(file.path, label) for file in taken]
        if not spare:
            raise UserError(f"class {name} of {path} has no images to train on, only to test on")
        pools["train"] += [Picture(file.path, label) for file in spare]
        for pool in {"tuning", "test"} - set(missing):
            pools[pool] += [Picture(file.path, label) for file in own if file.pool == pool]
        problems += [
            f"class {name} has no images in the {pool} pool"
            for pool in ("tuning", "test")
            if not any(picture.label == label for picture in pools[pool])
        ]
    places = defaultdict(list)
    for pool, pictures in pools.items():
        for picture in pictures:
            places[contents[picture.source]].append((pool, picture))
    for same in places.values():
        listed = _few([picture.source for _, picture in same])
        if len({picture.label for _, picture in same}) > 1:
            problems.append(f"the same image is in several classes: {listed}")
        elif len({pool for pool, _ in same}) > 1:
            problems.append(f"the same image is in several pools: {listed}")
    twice = sum(len(same) - 1 for same in places.values())
    if twice:
        problems.append(f"images that are copies of others: {twice}")
    return Listing(tuple(classes), pools), problems
