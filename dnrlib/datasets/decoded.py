"""Decode once: the image files of a dataset as one memory-mapped array that is whole or not there.

The paper resizes every photograph to 256 x 256 before anything else. So that is done once, and
every method, seed and generation reads the same uint8 array.
"""

import contextlib
import functools
import hashlib
import os
import re
import shlex
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from joblib import cpu_count
from PIL import Image, ImageOps, UnidentifiedImageError, features
from tqdm.auto import tqdm

from .. import UserError, parallel, records
from ..config import digest
from ..records import Record
from .splits import Dataset, Split

FORMAT = 2
CHUNK = 256
"""Images that are decoded, journalled and checked together; another number is another format."""


class CorruptImages(UserError):
    """Image files that cannot be decoded: `found` is a dict of path to what is wrong with it."""

    def __init__(self, found: dict[Path, str]) -> None:
        self.found = found
        listed = "\n".join(f"  {path}: {what}" for path, what in list(found.items())[:20])
        more = f"\n  and {len(found) - 20} more" if len(found) > 20 else ""
        super().__init__(
            f"{len(found)} images cannot be read; replace them or take them away:\n{listed}{more}"
        )


@dataclass(frozen=True)
class Picture:
    """One image of a dataset, before it is decoded."""

    source: Path | np.ndarray
    """A file, or pixels (uint8, height x width x 3)."""
    label: int
    """Number of its class, from 0."""

    @functools.cached_property
    def sha256(self) -> str:
        """Hex digest of the file or of the pixels (rows, then columns, then RGB)."""
        file = isinstance(self.source, Path)
        content = self.source.read_bytes() if file else self.source.tobytes()
        return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Listing:
    """What a dataset consists of: its classes in order, and its images by pool (first `train`, then
    `tuning` and `test`; `tuning` may be missing)."""

    classes: tuple[str, ...]
    pools: dict[str, list[Picture]]
    notes: dict[str, Any] = field(default_factory=dict)
    """What else its manifest is to hold."""

    def repeated(self) -> list[list[tuple[str, Picture]]]:
        """Of every image that is there more than once, the pools and the pictures."""
        places = defaultdict(list)
        for pool, pictures in self.pools.items():
            for picture in pictures:
                places[picture.sha256].append((pool, picture))
        return [same for same in places.values() if len(same) > 1]


@dataclass(frozen=True)
class Kind:
    """How a dataset is decoded and shown to a network."""

    title: str
    size: int
    """Height and width in pixels that every image is resized to, whatever its shape."""
    crop: int
    """Height and width in pixels that the network sees."""
    mean: tuple[float, ...] | None = None
    """Per channel, of pixels scaled to 0..1; None: that of the training pool. So for `std`."""
    std: tuple[float, ...] | None = None
    upright: bool = False
    """Whether photographs are turned as their EXIF orientation says. The papers' readers do not."""


def root() -> Path:
    """The folder of image files and decoded datasets: $DNRLIB_DATA, or `data/images/` beside the
    package."""
    given = os.environ.get("DNRLIB_DATA")
    return records.located(given or records.ROOT / "data" / "images")


def slug(name: str) -> str:
    """The name of a dataset as a file name."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    return name if plain == name else f"{plain[-40:]}-{digest(name)[:8]}"


def place(name: str) -> Path:
    """The folder of a decoded dataset."""
    return root() / "decoded" / slug(name)


def manifest(name: str) -> Record | None:
    """What is known of a decoded dataset, or None if it was not decoded; raises `DamagedFile`."""
    return prepared(name, place(name) / "manifest.json")


def prepared(name: str, path: Path) -> Record | None:
    """What preparing a dataset wrote to a file, or None if it is not there; raises `DamagedFile`
    with the command that writes it anew."""
    try:
        return records.read(path)
    except records.DamagedFile:
        mend = f"{shlex.join(['rm', str(path)])} && {preparing(name)}"
        raise records.DamagedFile(path, "not what was written", mend) from None


def preparing(name: str) -> str:
    """What to type into a shell to decode a dataset."""
    return shlex.join(["dnr", "data", "prepare", name])


def pixels(path: Path, size: int, upright: bool = False) -> np.ndarray:
    """An image file as uint8 (size x size x 3), equal to Pillow's bilinear, antialiased resize.

    Grey, palette and CMYK images become RGB, transparency is dropped; `upright` turns an image as
    its EXIF orientation says. Raises `ValueError` that says what is wrong with the file.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits per channel (mode {image.mode})")
            if upright:
                # EXIF that cannot be read says nothing, and fails in many ways.
                with contextlib.suppress(Exception):
                    ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            image = image.convert("RGB")
            if image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(image)
    except UnidentifiedImageError:
        raise ValueError("not an image that Pillow knows") from None
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None


def decode(name: str, listing: Listing, kind: Kind, workers: int = 0) -> Record:
    """Decodes a dataset into its `place` unless that was done before; returns its manifest.

    The array is keyed by its sources (path, size and time of change of every file, or pixels), its
    size, whether they are turned upright, and the version of the decoder. It counts as there when
    its manifest is, which is written last. A killed call goes on from the chunks that it had
    finished; of several at once, one works and the others wait. An array that is there is read
    through, and made again if it is damaged; an older one stays until the new one is whole. Raises
    `CorruptImages`, and `UserError` if the disk is full or read-only.
    """
    ordered = [picture for pictures in listing.pools.values() for picture in pictures]
    about = {
        "classes": list(listing.classes),
        # Pairs, for the rows of the array follow their order, one pool after the other.
        "counts": [[pool, len(pictures)] for pool, pictures in listing.pools.items()],
        "size": kind.size,
        "upright": kind.upright,
        "sources": _sources(ordered),
        "decoder": f"{FORMAT}, Pillow {PIL.__version__}, libjpeg {features.version('jpg')}",
    }
    key = digest(about)
    folder = place(name)
    try:
        with records.lock(folder):
            known = manifest(name)
            if known is None or known["key"] != key or damaged(name, known):
                known = about | {"key": key} | _fill(folder / key, about, ordered, workers)
                known["fingerprint"] = digest([known["chunks"], known["labels"], about["counts"]])
            known |= {"kind": asdict(kind), "notes": listing.notes}
            known = records.save(folder / "manifest.json", known)
            for old in folder.iterdir():
                if old.is_dir() and old.name != key:
                    # Windows keeps what another process has mapped.
                    shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        needed = len(ordered) * kind.size**2 * 3 / 1e6
        raise UserError(
            f"{name} cannot be decoded into {folder}: {error.strerror or error} ({needed:,.0f} MB "
            "are needed); make room there, or set DNRLIB_DATA to another folder"
        ) from error
    return known


def _sources(ordered: list[Picture]) -> str:
    """The SHA-256 over the identity and the label of every image."""
    sha = hashlib.sha256()
    for picture in ordered:
        if isinstance(picture.source, np.ndarray):
            sha.update(picture.source.tobytes())
        elif picture.source.exists():
            found = picture.source.stat()
            sha.update(f"{picture.source} {found.st_size} {found.st_mtime_ns}".encode())
        sha.update(f" {picture.label}\n".encode())
    return sha.hexdigest()


def _fill(folder: Path, about: Record, ordered: list[Picture], workers: int) -> Record:
    """Decodes what a folder does not hold yet; returns the digests of its `chunks` and `labels`,
    and `mean` and `std` of the training pool per channel."""
    images, journal = folder / "images.npy", folder / "journal"
    shape = _shape(about)
    if _array(images, shape) is None:
        records.write(journal, b"")
        np.lib.format.open_memmap(images, "w+", np.uint8, shape)
    array = _array(images, shape)
    # A line may have been cut short; its digest is then a wrong one.
    done = dict(line.partition(" ")[::2] for line in journal.read_text().splitlines())
    rows = range(0, len(ordered), CHUNK)
    missing = [
        row
        for row in rows
        if str(row) not in done or _digest(array[row : row + CHUNK]) != done[str(row)]
    ]
    corrupt: dict[Path, str] = {}
    workers = max(1, min(workers or cpu_count(), len(missing)))
    calls = [(images, row, ordered[row : row + CHUNK], about) for row in missing]
    made = parallel.finished(_chunk, calls, workers)
    total = sum(len(pictures) for _, _, pictures, _ in calls)
    bar = tqdm(desc="decoding", unit="image", leave=False, total=total)
    with bar, journal.open("a") as file:
        for row, found, wrong in made:
            bar.update(len(ordered[row : row + CHUNK]))
            corrupt |= wrong
            if not wrong:
                done[str(row)] = found
                file.write(f"{row} {found}\n")
                file.flush()
    if corrupt:
        raise CorruptImages(corrupt)
    labels = np.array([picture.label for picture in ordered], np.int64)
    np.save(folder / "labels.npy", labels)
    mean, std = _moments(array[: dict(about["counts"])["train"]])
    return {
        "chunks": [[row, done[str(row)]] for row in rows],
        "labels": hashlib.sha256(labels).hexdigest(),
        "mean": mean,
        "std": std,
    }


def _array(path: Path, shape: tuple[int, ...], kind: type = np.uint8) -> np.ndarray | None:
    """A stored array, mapped; None if there is none of this shape and kind."""
    try:
        # Copy on write: torch wants memory that it may write to, the file never changes.
        array = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == kind else None


def _chunk(
    images: Path, row: int, pictures: list[Picture], about: Record
) -> tuple[int, str, dict[Path, str]]:
    """Decodes images into the array from a row on; returns the row, their digest, and the files
    that failed."""
    size, upright, wrong = about["size"], about["upright"], {}
    block = np.zeros((len(pictures), size, size, 3), np.uint8)
    for number, picture in enumerate(pictures):
        source = picture.source
        try:
            file = isinstance(source, Path)
            block[number] = pixels(source, size, upright) if file else source
        except ValueError as error:
            wrong[source] = str(error)
    start = np.load(images, mmap_mode="r").offset
    # Written, not mapped: on a full disk a mapped page would kill the process.
    with images.open("r+b") as file:
        file.seek(start + row * block[0].nbytes)
        file.write(block)
    return row, _digest(block), wrong


def _digest(block: np.ndarray) -> str:
    return hashlib.sha256(block).hexdigest()[:16]


def _shape(known: Record) -> tuple[int, int, int, int]:
    return (sum(count for _, count in known["counts"]), known["size"], known["size"], 3)


def _moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of images, scaled to 0..1."""
    # Counts of the 256 grey levels are exact, and need no copy of the images.
    levels = np.zeros((3, 256), np.int64)
    for row in range(0, len(images), CHUNK):
        for channel in range(3):
            values = images[row : row + CHUNK, ..., channel].ravel()
            levels[channel] += np.bincount(values, minlength=256)
    shares, values = levels / levels.sum(1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    std = np.sqrt(shares @ values**2 - mean**2)
    return mean.round(4).tolist(), std.round(4).tolist()


def damaged(name: str, known: Record) -> Path | None:
    """The file of a decoded dataset that is not what was written, or None; reads them all."""
    folder, shape = place(name) / known["key"], _shape(known)
    array = _array(folder / "images.npy", shape)
    if array is None or any(
        _digest(array[row : row + CHUNK]) != found for row, found in known["chunks"]
    ):
        return folder / "images.npy"
    labels = _array(folder / "labels.npy", shape[:1], np.int64)
    if labels is None or hashlib.sha256(labels).hexdigest() != known["labels"]:
        return folder / "labels.npy"
    return None


def _looks(name: str, known: Record) -> bytes:
    """Sizes and modification times of the files of a decoded dataset, and the seal of its manifest:
    they change when a file is written."""
    states = [path.stat() for path in sorted((place(name) / known["key"]).glob("*.npy"))]
    looks = [known["seal"], [[s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in states]]
    return digest(looks).encode()


def dataset(name: str) -> Dataset | None:
    """A dataset that was decoded, as the rest of the library knows datasets; else None."""
    known = manifest(name)
    return known and described(known, functools.partial(pools, name))


def described(known: Record, pools: Callable[[], dict[str, Split]]) -> Dataset:
    """The dataset that a manifest is of."""
    kind = known["kind"]
    return Dataset(
        title=kind["title"],
        classes=tuple(known["classes"]),
        channels=3,
        size=kind["crop"],
        mean=tuple(kind["mean"] or known["mean"]),
        # A channel without any contrast must not be divided by 0.
        std=tuple(max(value, 1 / 255) for value in kind["std"] or known["std"]),
        fingerprint=known["fingerprint"],
        pools=pools,
        groups=(lambda: known["notes"]["patients"]) if "patients" in known["notes"] else None,
    )


def pools(name: str) -> dict[str, Split]:
    """The pools of a decoded dataset, mapped from disk, images as n x 3 x size x size (channels
    last in memory); raises `DamagedFile` if a pixel or a label is not what was written.

    The files are read through and held to their digests once, which is noted beside them in
    `verified`; from then on only if a size or a time of change is another than it was. So a process
    starts at once, and whatever writes to a file is still noticed. What is not noticed is a bit
    that flips on the disk while nobody writes: `dnr data prepare` reads everything each time.
    """
    known = manifest(name)
    folder, stamp, looks = place(name) / known["key"], place(name) / "verified", _looks(name, known)
    if not stamp.exists() or stamp.read_bytes() != looks:
        if path := damaged(name, known):
            raise records.DamagedFile(path, "its content changed", preparing(name))
        # A folder that cannot be written to is read through by every process.
        with contextlib.suppress(OSError):
            records.write(stamp, looks)
    shape, (names, sizes) = _shape(known), zip(*known["counts"], strict=True)
    images = torch.from_numpy(_array(folder / "images.npy", shape)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(_array(folder / "labels.npy", shape[:1], np.int64))
    parts = map(Split, images.split(sizes), labels.split(sizes))
    return dict(zip(names, parts, strict=True))
