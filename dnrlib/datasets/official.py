"""The official datasets: what is known of them, and how their files become decoded datasets.

The facts are in `official.toml`. Every tree of files is held to them; anything else is a
`UserError` that names the file.
"""

import functools
import hashlib
import os
import shlex
import shutil
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from .. import UserError, records
from ..records import Record, located
from . import archives, decoded, layouts
from .archives import Archive
from .decoded import Kind, Listing
from .layouts import wrong
from .splits import Dataset, Split

SEVERITIES = 5


@dataclass(frozen=True)
class Official:
    """What is known of an official dataset before its files are read; see `official.toml`. `tree`
    and `also` give the MD5 of a path, where it is known."""

    name: str
    kind: Kind
    page: str
    terms: str
    classes: int
    archives: tuple[Archive, ...]
    tree: dict[str, str | None]
    also: dict[str, str | None]
    lists: dict[str, str]
    into: str = ""
    splits: dict[str, int] = field(default_factory=dict)
    per_class: tuple[int, ...] = ()
    contents: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    names: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Images of all pools."""
        return sum(self.splits.values()) or sum(self.per_class)


@functools.cache
def facts() -> dict[str, Official]:
    """The papers' datasets by name, from `official.toml`."""
    known = tomllib.loads(Path(__file__).with_name("official.toml").read_text("utf-8"))
    found = {}
    for name, own in known["sets"].items():
        about = known["sets"].get(own.get("like"), {}) | own
        about = {key: tuple(v) if isinstance(v, list) else v for key, v in about.items()}
        about.pop("like", None)
        moments = known["normalisation"][about.pop("normalised")]
        kind = Kind(about.pop("title"), *about.pop("pixels"), *map(tuple, moments.values()))
        packed = tuple(Archive(file, **known["archives"][file]) for file in about.pop("archives"))
        held = {str(PurePosixPath(about.get("into", ""), each.file)): each.md5 for each in packed}
        tree = {path: held.get(path) for path in about.pop("tree", ())} | about.pop("md5", {})
        also = {path: held.get(path) for path in about.pop("also", ())}
        found[name] = Official(name, kind, archives=packed, tree=tree, also=also, **about)
    return found


def prepare(name: str, root: Path | None = None, download: bool = False) -> Record:
    """Makes an official dataset ready for use and returns its manifest (`decoded.decode`).

    Looks in `root` (default: a folder of that name beside the decoded ones) for the extracted tree,
    else for the archives, which are verified and extracted to a folder in it; with `download`,
    missing archives are fetched first. CIFAR-10-C is only verified, and its classes, counts and
    folder come back. Raises `UserError` for what is missing, damaged or not as published.
    """
    if name not in facts():
        raise UserError(f"{name!r} is no official dataset; choose one of: {', '.join(facts())}")
    official = facts()[name]
    root = located(root or decoded.root() / name)
    try:
        if root.exists() and not root.is_dir():
            raise UserError(f"{root} is not a folder; give the folder of {name} with --root")
        base = _tree(official, root)
        if base is None:
            missing = [each for each in official.archives if not (root / each.file).exists()]
            known = decoded.manifest(name) if missing and not download else None
            if known and not decoded.damaged(name, known):
                return known
            if any(not download or each.url is None for each in missing):
                raise _absent(official, root, missing)
            with records.lock(root):
                base = _tree(official, root) or _extracted(official, root)
        if name == "cifar10c":
            names = [Path(path).stem for path in official.tree if "labels" not in path]
            counts = [[each, len(corruption(each, base)[0])] for each in names]
            note = {"classes": list("0123456789"), "counts": counts, "folder": str(base)}
            return records.save(decoded.root() / NOTE, note)
        found = listing(name, base)
    except OSError as error:
        mend = "run the command again when that is mended"
        if error.errno in records.REFUSED:
            mend = "make room there, or give a folder that can be written to with --root"
        raise UserError(f"{name} cannot be prepared in {root}: {error}; {mend}") from error
    if official.contents:
        found.notes["copies"] = [
            [f"{pool} {picture.source.name}" for pool, picture in same]
            for same in found.repeated()
            if len({pool for pool, _ in same}) > 1
        ]
    return decoded.decode(name, found, official.kind)


def listing(name: str, base: Path) -> Listing:
    """What the extracted tree of an official dataset in the folder `base` consists of, held to the
    published checksums, classes and counts; raises `UserError` that names the file that differs."""
    official = facts()[name]
    for path, md5 in (official.tree | official.also).items():
        if md5 is not None:
            layouts.intact(base / path, md5)
    reader = getattr(layouts, name.replace("-", "_"))
    with layouts.reading(base, f"does not hold {name}"):
        found = reader(base, official.names) if official.names else reader(base)
    first = base / official.lists["train"]
    if len(found.classes) != official.classes:
        raise wrong(first, f"gives {len(found.classes)} classes instead of {official.classes}")
    _check_files(official, base, found)
    if official.per_class:
        labels = [picture.label for pictures in found.pools.values() for picture in pictures]
        counts = tuple(map(labels.count, range(official.classes)))
        if counts != official.per_class:
            raise wrong(first, f"gives {counts} images per class instead of {official.per_class}")
    _check_contents(official, base, found)
    return found


def _check_files(official: Official, base: Path, found: Listing) -> None:
    """Raises `UserError` unless every pool has its number of images, each with a label, and every
    image file is there and listed once."""
    seen: set[Path] = set()
    for pool, pictures in found.pools.items():
        path, number = base / official.lists[pool], official.splits.get(pool, len(pictures))
        files = [picture.source for picture in pictures if isinstance(picture.source, Path)]
        for picture in pictures:
            if picture.label not in range(official.classes):
                what = f"the label {picture.label + 1}, which is not in 1 to {official.classes}"
                raise wrong(path, f"or a label file beside it gives {picture.source} {what}")
        if len(pictures) != number:
            raise wrong(path, f"gives {len(pictures)} {pool} images instead of {number}")
        for file in files:
            if file in seen:
                raise wrong(path, f"lists {file} a second time")
            seen.add(file)
        absent = [file for file in files if not file.is_file()]
        if absent:
            of = f"({len(absent)} of {len(files)} images of this pool do not)"
            raise wrong(absent[0], f"does not exist, though {path} lists it {of}")


def _check_contents(official: Official, base: Path, found: Listing) -> None:
    """Raises `UserError` unless images and labels are the published ones, where these are known."""
    known = records.ROOT / "data" / "checksums" / f"{official.name}.txt"
    sums = set(known.read_text().split()) if known.exists() else set()
    for pool, wanted in official.contents.items():
        pictures = found.pools[pool]
        lines = "".join(f"{picture.sha256} {picture.label}\n" for picture in pictures)
        if hashlib.sha256(lines.encode()).hexdigest() != wanted:
            strange = [str(each.source) for each in pictures if each.sha256[:8] not in sums]
            more = f": {', '.join(strange[:3])} ({len(strange)} in all)" if sums and strange else ""
            raise wrong(base, f"has {pool} images or labels that are not the published ones{more}")


def _tree(official: Official, root: Path) -> Path | None:
    """The folder that the extracted tree lies in: `root`, or what was extracted there; or None."""
    for base in (root, root / f"{official.name}-extracted"):
        if any(layout and not _lacking(base, layout) for layout in (official.tree, official.also)):
            return base
    return None


def _lacking(base: Path, layout: Iterable[str]) -> list[str]:
    return [path for path in layout if not (base / path).exists()]


def _absent(official: Official, root: Path, missing: list[Archive]) -> UserError:
    """What to fetch, and where to put it."""
    name, wanted = official.name, []
    for archive in missing:
        known = [f"{archive.size:,} bytes"] if archive.size else []
        known += [" ".join(archive.checksum)] if archive.checksum else []
        wanted.append(
            f"  {archive.file} ({', '.join(known) or 'no checksum known'}) from "
            f"{archive.url or 'whoever has it: its authors no longer offer it'}"
        )
    lines = [
        f"{name} is not in {root}. Put there, under these names, and run the command again:",
        *wanted,
        f"(see {official.page})",
    ]
    if all(archive.url for archive in missing):
        lines.append(f"or run: dnr data prepare {name} --root {shlex.quote(str(root))} --download")
    return UserError("\n".join(lines))


def _extracted(official: Official, root: Path) -> Path:
    """Extracts the archives in `root`, fetching those that are not there; returns the new folder,
    which is there whole or not at all."""
    final, unfinished = root / f"{official.name}-extracted", root / f".{official.name}-extracting"
    if final.exists():
        raise UserError(
            f"{final} lacks {_lacking(final, official.tree)[0]}; delete that folder, it is made "
            "again from the archives"
        )
    for archive in official.archives:
        if (root / archive.file).exists():
            archives.verify(root / archive.file, archive)
        else:
            archives.download(archive, root)
    # A killed extraction leaves this behind.
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for archive in official.archives:
            archives.unpack(root / archive.file, unfinished / official.into)
        if lacking := _lacking(unfinished, official.tree):
            raise UserError(
                f"the archives in {root} do not hold {lacking[0]}; they are not the published "
                f"ones: fetch them again ({official.page})"
            )
        os.replace(unfinished, final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return final


def dataset(name: str) -> Dataset | None:
    """The decoded dataset; if it is not decoded but its fingerprint is known, a dataset whose
    images cannot be read; else None. Raises `UserError` if it was decoded to other pixels
    than the published ones."""
    known, found = facts()[name], decoded.dataset(name)
    if found and known.fingerprint not in ("", found.fingerprint):
        raise UserError(
            f"this decoder gives other pixels of {name!r} than the published ones; install the "
            f"pinned versions of requirements.txt and run: dnr data prepare {name}"
        )
    if found or not known.fingerprint:
        return found
    about = {"classes": known.names, "fingerprint": known.fingerprint, "notes": {}}
    about["kind"] = asdict(known.kind)
    return decoded.described(about, functools.partial(_not_here, name))


def _not_here(name: str) -> dict[str, Split]:
    raise UserError(
        f"the images of {name!r} are not on this machine; to get them: dnr data prepare {name}"
    )


def overview() -> pd.DataFrame:
    """One line per official dataset: name, title, classes, images per pool and in all, size of the
    archives in GB where it is known, terms, and whether it is `here`. Looks for files in the
    default folders only, and reads none of them."""
    rows, pools = [], ("train", "tuning", "test")
    for name, official in facts().items():
        sizes = [archive.size for archive in official.archives]
        rows.append(
            {
                "name": name,
                "title": official.kind.title,
                "classes": official.classes,
                **{pool: official.splits.get(pool) for pool in pools},
                "images": official.images,
                "GB": None if None in sizes else round(sum(sizes) / 1e9, 2),
                "terms": official.terms,
                "here": _state(official),
            }
        )
    return pd.DataFrame(rows).astype(dict.fromkeys(pools, "Int64"))


def _state(official: Official) -> str:
    root = decoded.root() / official.name
    try:
        if decoded.manifest(official.name) is not None:
            return "decoded"
    except records.DamagedFile:
        return "damaged: prepare it again"
    if _tree(official, root) is not None:
        return "extracted"
    there = [(root / archive.file).exists() for archive in official.archives]
    if all(there):
        return "archives there"
    return "some archives there" if any(there) else "not here"


NOTE = "cifar10c.json"
"""Says where CIFAR-10-C was prepared: it is not trained on, and stays there."""


def corruption(name: str, base: Path | None = None) -> tuple[np.memmap, np.ndarray]:
    """Images (uint8, 5 n x 32 x 32 x 3, mapped from disk) and labels (int64, 5 n) of a corruption,
    from the folder that holds `CIFAR-10-C/` (default: `corruptions_here`). Rows (s - 1) n to s n
    have severity s, in the order of the n test images of CIFAR-10. Raises `UserError` unless both
    files are the published ones."""
    base, found = base or corruptions_here(), []
    for path in (f"CIFAR-10-C/{name}.npy", "CIFAR-10-C/labels.npy"):
        layouts.intact(base / path, facts()["cifar10c"].tree[path])
        found.append(np.load(base / path, mmap_mode="r"))
    images, labels = found
    return images, labels.astype(np.int64)


def corruptions_here() -> Path:
    """The folder that holds `CIFAR-10-C/`: where it was prepared, or its default place; raises
    `UserError` if it is in neither."""
    known = decoded.prepared("cifar10c", decoded.root() / NOTE)
    root = decoded.root() / "cifar10c" if known is None else Path(known["folder"])
    base = _tree(facts()["cifar10c"], root)
    if base is None:
        raise UserError(
            "cifar10c is not on this machine; to get it: dnr data prepare cifar10c --download; to "
            "corrupt the images here instead: study(configs, evaluations=[Corruptions()])"
        )
    return base
