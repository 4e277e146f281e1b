"""Archives of datasets: downloads that can resume, checksums, and extraction that never writes
outside its folder.
"""

import errno
import functools
import hashlib
import http.client
import math
import os
import shutil
import stat
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TypeVar

from tqdm.auto import tqdm

from .. import UserError, __version__

T = TypeVar("T")
RATIO, SMALL = 20, 100_000_000
"""Images hardly become smaller in an archive; lists and label files do, and are small."""


@dataclass(frozen=True)
class Archive:
    """One file that an official set is distributed as: a tar, a zip, or a plain label file."""

    file: str
    url: str | None = None
    """Address that `prepare` downloads from; None: no longer offered by its authors."""
    md5: str | None = None
    sha256: str | None = None
    """Without either, only the counts of extracted images are checked."""
    size: int | None = None
    """In bytes."""

    @property
    def checksum(self) -> tuple[str, str] | None:
        """Name of the hash function and hex digest, or None if none is known."""
        known = ("sha256", self.sha256), ("md5", self.md5)
        return next((each for each in known if each[1]), None)


def digest(path: Path, function: str) -> str:
    """The hex digest of a file."""
    with path.open("rb") as file:
        new = functools.partial(hashlib.new, function, usedforsecurity=False)
        return hashlib.file_digest(file, new).hexdigest()


def verify(path: Path, archive: Archive) -> None:
    """Raises `UserError` if an archive has another checksum than the published one, or another size
    where only that is known."""
    function, wanted = archive.checksum or ("size", archive.size)
    found = digest(path, function) if archive.checksum else path.stat().st_size
    if wanted not in (None, found):
        raise UserError(
            f"{path} has {function} {found} instead of {wanted}: it was fetched in part, damaged, "
            "or is another file; delete it and fetch it again"
        )


def of_the_system(error: Exception) -> bool:
    """Whether an error says something of the machine, such as that its disk is full, and nothing of
    the file that was read."""
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EINVAL)


def unpack(path: Path, to: Path) -> None:
    """Extracts an archive into a folder, or copies a plain file there; raises `UserError` for an
    archive that is damaged, that holds anything but files and folders of its own, or more than
    `RATIO` times its size and more than `SMALL`."""
    to.mkdir(parents=True, exist_ok=True)
    shown = functools.partial(tqdm, desc=f"extracting {path.name}", unit="file", leave=False)
    try:
        if path.suffix in (".tgz", ".tar", ".gz"):
            with tarfile.open(path) as archive:
                members = _within(path, archive, lambda member: member.size)
                archive.extractall(to, shown(members), filter=_own)
                # The checksum of a compressed file stands at its end, after all of its files.
                while archive.fileobj.read(1 << 20):
                    pass
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    inside = PureWindowsPath(member.filename)  # Knows both slashes, and drives.
                    link = stat.S_ISLNK(member.external_attr >> 16)
                    if inside.anchor or ".." in inside.parts or link:
                        raise _unsafe(path, member.filename)
                members = _within(path, archive.infolist(), lambda member: member.file_size)
                archive.extractall(to, shown(members))
        else:
            shutil.copyfile(path, to / path.name)
    except tarfile.FilterError as error:
        raise _unsafe(path, error.tarinfo.name) from None
    # Readers of damaged archives raise whatever comes to them.
    except Exception as error:
        if isinstance(error, UserError) or of_the_system(error):
            raise
        what = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path} is not a whole archive ({what}); delete it and fetch it again"
        ) from None


def _within(path: Path, members: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
    """The members of an archive, up to what it may hold."""
    most = max(RATIO * path.stat().st_size, SMALL)
    room = most
    for member in members:
        # Files without content fill a disk too.
        room -= size(member) + 512
        if room < 0:
            raise UserError(
                f"{path} holds more than {most:,} bytes, which no archive of images of its size "
                "does; nothing of it was kept: fetch it again"
            )
        yield member


def _own(member: tarfile.TarInfo, to: str) -> tarfile.TarInfo:
    """Refuses what lands outside a folder, links that leave it, and devices."""
    # `data_filter` would take the leading slash away and go on.
    if member.name.startswith("/"):
        raise tarfile.AbsolutePathError(member)
    return tarfile.data_filter(member, to)


def _unsafe(path: Path, member: str) -> UserError:
    return UserError(
        f"{path} holds {member!r}, which would be written outside its folder or is no plain file; "
        "nothing of it was kept, and it is not the published archive: fetch it again"
    )


def download(archive: Archive, root: Path) -> None:
    """Fetches an archive to `root`; what an earlier call got of it is not fetched again. Raises
    `UserError` if the server does not give it, the connection is lost, or it is another file, which
    is not kept."""
    path, part = root / archive.file, root / f"{archive.file}.part"
    have = part.stat().st_size if part.exists() else 0
    asked = {"User-Agent": f"dnrlib/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        request = urllib.request.Request(archive.url, headers=asked)
        response = urllib.request.urlopen(request, timeout=60)
    # A redirection to what is no address is a ValueError.
    except (OSError, http.client.HTTPException, ValueError) as error:
        if have and getattr(error, "code", None) == 416:
            # There is nothing from there on: the part belongs to another file, or is the whole.
            part.unlink()
            return download(archive, root)
        raise UserError(
            f"{archive.url} for {path}: {error}; run the command again, or fetch it by hand"
        ) from None
    from_there = str(response.headers["Content-Range"]).startswith(f"bytes {have}-")
    if response.status == 206 and not from_there:
        raise UserError(
            f"{archive.url} sends another part than the one that {part} lacks; delete that file "
            "and run the command again"
        )
    have = have if response.status == 206 else 0
    total = None if response.length is None else have + response.length
    shown = {"unit": "B", "unit_scale": True, "leave": False, "desc": f"fetching {archive.file}"}
    broken = ""
    with (
        response,
        part.open("ab" if have else "wb") as file,
        tqdm(total=total, initial=have, **shown) as bar,
    ):
        try:
            # What has arrived, not a whole block: it is there when the connection is lost.
            while block := response.read1(1 << 20):
                file.write(block)
                bar.update(len(block))
                if file.tell() > (archive.size or math.inf):
                    total = None  # It is another file, perhaps without an end.
                    break
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            broken = f" ({error})"
    found = part.stat().st_size
    if broken or total not in (None, found):
        raise UserError(
            f"{archive.url} for {path}: the connection broke after {found:,} bytes{broken}; run "
            "the command again, it goes on from there"
        )
    os.replace(part, path)
    try:
        verify(path, archive)
    except UserError:
        path.unlink()
        raise
