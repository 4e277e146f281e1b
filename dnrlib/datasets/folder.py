"""A folder of the user's own images as a dataset: `folder:PATH`, or `folder:PATH@SIZE`.

PATH holds one subfolder of images per class; or `train/` and optionally `val/` and `test/`, with
these subfolders. A missing pool is a fifth of every class of the training images.
"""

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from PIL import Image

from .. import UserError
from ..config import digest
from ..records import Record, located
from . import decoded
from .decoded import CorruptImages, Kind, Listing, Picture
from .splits import Dataset

PREFIX = "folder:"
SUFFIXES = ".jpg, .jpeg, .png, .webp, .avif, .gif, .tif, .tiff, .bmp, .ppm, .pgm"
"""The names of image files end so, in small or capital letters."""
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
Files = dict[tuple[str, str], list[Path]]
"""Image files by pool and class."""


def full_name(name: str) -> str:
    """The one name of a folder's dataset, with its whole path: it is part of the key of a run.
    Other names are returned as they are."""
    if not name.startswith(PREFIX):
        return name
    path, size = parse(name)
    return f"{PREFIX}{path}" + (f"@{size}" if size else "")


def parse(name: str) -> tuple[Path, int | None]:
    """Folder and size in pixels of `folder:PATH[@SIZE]`; raises `UserError` for a size that cannot
    be used. Images up to 64 pixels are shown whole to the network, of larger ones 7/8."""
    whole = located(name.removeprefix(PREFIX))
    path, at, size = name.removeprefix(PREFIX).rpartition("@")
    # A folder may be called so itself.
    if not at or not size.removeprefix("-").isdecimal() or whole.is_dir():
        return whole, None
    if int(size) not in range(16, 513) or int(size) % 8:
        raise UserError(f"@{size} in {name!r} must be a multiple of 8 from 16 to 512")
    return located(path), int(size)


def dataset(name: str) -> Dataset:
    """The dataset of a folder; its images are decoded if they have changed since they last were.
    Raises `UserError` for what `prepare` refuses.

    Every call looks at the names, sizes and times of change of all files, which takes less than
    0.1 s for ten thousand.
    """
    prepare(name, trusted=True)
    return decoded.dataset(full_name(name))


def prepare(name: str, skip_corrupt: bool = False, trusted: bool = False) -> Record:
    """Reads a folder and decodes its images unless that was done and nothing has changed; returns
    the manifest, whose `notes` hold the `problems` that were found, a list of sentences.

    The arrays are read through as well, and made again if they are damaged, unless they are
    `trusted`. Raises `UserError` for a folder without two classes of images, and for files that
    cannot be decoded, unless they are to be skipped.
    """
    name = full_name(name)
    path, size = parse(name)
    signature = _signature(path)
    known = decoded.manifest(name)
    unchanged = known and known["notes"]["signature"] == signature
    if unchanged and (trusted or not decoded.damaged(name, known)):
        return known
    files, others = _files(path)
    size = size or native(path)
    crop = size if size <= 64 else size * 7 // 8
    kind = Kind(f"images of {path.name}", size, crop, upright=True)
    skipped: dict[Path, str] = {}
    while True:
        listing, problems = _listing(path, files, skipped)
        if others:
            said = f"in no class, a link to nothing, or not named {SUFFIXES}; convert .heic files"
            problems.append(f"left out ({said}): {_few(others)}")
        listing.notes.update(signature=signature, problems=problems)
        try:
            return decoded.decode(name, listing, kind)
        except CorruptImages as error:
            if not skip_corrupt:
                raise UserError(
                    f"{error}\nor go on without them (dnr compare takes --skip-corrupt too): "
                    f"{decoded.preparing(name)} --skip-corrupt"
                ) from None
            skipped |= error.found


def native(path: Path) -> int:
    """The size in pixels that a folder's images are decoded to unless another is asked for: 32 or
    64 if none is larger, else 256. Raises `UserError` for a folder that cannot be used."""
    largest = 0
    for file in itertools.chain(*_files(path)[0].values()):
        try:
            with Image.open(file) as image:
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
    problems = decoded.manifest(full_name(name))["notes"]["problems"]
    return pd.DataFrame(counts, index=pd.Index(about.classes, name="class")), problems


def _few(paths: list[Path]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(str(path) for path in paths[:3]) + more


def _walk(root: str | Path, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The paths of all files under a folder, behind links too; hidden ones are passed over, and
    links to a folder that they lie in, which would have no end."""
    here = os.path.realpath(root)
    if here in above or not os.path.isdir(here):
        return
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            # Of a link to itself a `DirEntry` raises, where `isdir` says no.
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                yield from _walk(entry.path, above | {here})
            else:
                yield entry.path


def _signature(path: Path) -> str:
    """Changes with every file of a folder that is added, removed, renamed or written to, and with
    the format of what is decoded."""
    files = sorted(_walk(path))
    # A link may lead nowhere.
    states = [os.stat(file, follow_symlinks=os.path.exists(file)) for file in files]
    found = zip(files, states, strict=True)
    looks = [[file, state.st_size, state.st_mtime_ns] for file, state in found]
    return digest([decoded.FORMAT, looks])


def _files(path: Path) -> tuple[Files, list[Path]]:
    """The image files of a folder by pool and class, in order, and every other file in it. Images
    are in the pool `train` if the folder names none. Raises `UserError` if the folder is not there
    or not laid out as it must be."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder")
    inside = sorted(entry for entry in path.iterdir() if entry.name[0] != ".")
    folders = [entry for entry in inside if entry.is_dir()]
    pools, others = [("train", path)], []
    if any(folder.name == "train" for folder in folders):
        pools = [(POOLS.get(folder.name), folder) for folder in folders]
        others = [entry for entry in inside if not entry.is_dir()]
        named = [pool for pool, _ in pools]
        if None in named or len(named) != len(set(named)):
            raise UserError(
                f"{path} has train/ and {', '.join(f.name for f in folders if f.name != 'train')}; "
                "beside it there may be one val/ and one test/, or call the class train otherwise"
            )
    elif folders and all(
        folder.name.lower() in {*POOLS, "training", "testing"} for folder in folders
    ):
        raise UserError(
            f"{path} has {', '.join(folder.name for folder in folders)}; call them train, val and "
            "test, or, if they are classes, otherwise"
        )
    files: Files = defaultdict(list)
    for pool, root in pools:
        labels = [entry.name for entry in root.iterdir() if entry.is_dir()]
        files |= {(pool, label): [] for label in labels if label[0] != "."}
        for file in sorted(map(Path, _walk(root))):
            label, *below = file.relative_to(root).parts
            image = below and file.suffix.lower() in SUFFIXES.split(", ") and file.is_file()
            (files[pool, label] if image else others).append(file)
    if not any(files.values()):
        raise UserError(
            f"{path} has no images in it; it needs a subfolder per class, with files that end in "
            f"{SUFFIXES} (convert others, such as .heic of a phone)"
        )
    return files, sorted(others)


def _listing(path: Path, files: Files, skipped: dict[Path, str]) -> tuple[Listing, list[str]]:
    """The pools of a folder's images, and what may be wrong with them."""
    kept = {of: [file for file in found if file not in skipped] for of, found in files.items()}
    classes = sorted({label for (_, label), found in kept.items() if found})
    if len(classes) < 2:
        only = (
            f"images of one class only ({classes[0]})" if classes else "no image that can be read"
        )
        raise UserError(f"{path} has {only}")
    named = {pool for (pool, _), found in kept.items() if found}
    missing = [pool for pool in ("test", "tuning") if pool not in named]
    problems = [f"{file} was skipped: {what}" for file, what in skipped.items()]
    empty = sorted({label for _, label in files} - {*classes})
    problems += [f"{label} is no class: it has no image that can be read" for label in empty]
    pools: dict[str, list[Picture]] = {pool: [] for pool in ("train", "tuning", "test")}
    for label, name in enumerate(classes):
        own = {
            pool: [Picture(file, label) for file in kept.get((pool, name), ())] for pool in pools
        }
        if sum(map(len, own.values())) < FEW:
            problems.append(f"class {name} is small; images: {sum(map(len, own.values()))}")
        # By content, which is a shuffle that needs no random numbers, and puts equals together.
        spare = sorted(own["train"], key=lambda picture: picture.sha256)
        held = round(HELD_OUT * len(spare)) or 1 if len(spare) >= 3 else 0
        for pool in missing:
            cut = held
            while 0 < cut < len(spare) and spare[cut].sha256 == spare[cut - 1].sha256:
                cut += 1
            own[pool], spare = spare[:cut], spare[cut:]
        own["train"] = spare
        if not spare:
            raise UserError(f"class {name} of {path} has no images to train on, only to test on")
        for pool in pools:
            pools[pool] += own[pool]
            if not own[pool]:
                problems.append(f"class {name} has no images in the {pool} pool")
    listing = Listing(tuple(classes), pools)
    repeated = listing.repeated()
    for same in repeated:
        listed = _few([picture.source for _, picture in same])
        if len({picture.label for _, picture in same}) > 1:
            problems.append(f"the same image is in several classes: {listed}")
        elif len({pool for pool, _ in same}) > 1:
            problems.append(f"the same image is in several pools: {listed}")
    if repeated:
        twice = sum(len(same) - 1 for same in repeated)
        problems.append(f"images that are copies of others: {twice}")
    return listing, problems
