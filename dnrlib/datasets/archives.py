"""Archives of datasets: fetched so that a broken connection costs nothing, held to their checksums,
and extracted so that no member lands outside its folder.
"""

import functools
import gzip
import hashlib
import http.client
import os
import re
import shutil
import stat
import tarfile
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from .. import UserError, __version__

BLOCK = 1 << 20
"""Bytes that are read, hashed or written at once."""
_bytes_bar = functools.partial(tqdm, unit="B", unit_scale=True, leave=False)


@dataclass(frozen=True)
class Archive:
    """One file that an official set is distributed as: a tar, a zip, or a plain label file."""

    file: str
    url: str | None = None
    """Address that `prepare` downloads from; None: no longer offered by its authors."""
    md5: str | None = None
    sha256: str | None = None
    """Without either, the archive is proved by the counts of what comes out of it alone."""
    size: int | None = None
    """In bytes."""

    @property
    def checksum(self) -> tuple[str, str] | None:
        """Name of the hash function and hex digest, or None if none is known."""
        known = ("sha256", self.sha256), ("md5", self.md5)
        return next((each for each in known if each[1]), None)


def digest(path: Path, function: str) -> str:
    """The hex digest of a file."""
    sha, size = hashlib.new(function, usedforsecurity=False), path.stat().st_size
    with path.open("rb") as file, _bytes_bar(total=size, desc=f"checking {path.name}") as bar:
        while block := file.read(BLOCK):
            sha.update(block)
            bar.update(len(block))
    return sha.hexdigest()


def verify(path: Path, archive: Archive) -> None:
    """Raises `UserError` unless an archive is the published one, as far as that is known."""
    # Where a checksum decides, the size is not asked: a wrong note of it must not refuse the file.
    function, wanted = archive.checksum or ("size", archive.size)
    found = path.stat().st_size if function == "size" else digest(path, function)
    if wanted not in (None, found):
        raise UserError(
            f"{path} has {function} {found} instead of {wanted}: it was fetched in part, damaged, "
            "or is another file; delete it and fetch it again"
        )


def unpack(path: Path, to: Path) -> None:
    """Extracts an archive into a folder, or copies a plain file there; raises `UserError` for an
    archive that is damaged, or that holds anything but files and folders of its own."""
    to.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix in (".tgz", ".tar", ".gz"):
            _untar(path, to)
        elif path.suffix == ".zip":
            _unzip(path, to)
        else:
            shutil.copyfile(path, to / path.name)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is not a whole archive ({error}); delete it and fetch it again"
        ) from None


def _unsafe(path: Path, member: str) -> UserError:
    return UserError(
        f"{path} holds {member!r}, which would be written outside its folder or is no plain file; "
        "nothing of it was kept, and it is not the published archive: fetch it again"
    )


def _untar(path: Path, to: Path) -> None:
    with tarfile.open(path) as archive:
        for member in tqdm(archive, f"extracting {path.name}", unit="file", leave=False):
            # The filter would take the leading slash away and go on.
            if member.name.startswith("/"):
                raise _unsafe(path, member.name)
            try:
                archive.extract(member, to, filter="data")
            except tarfile.FilterError:
                raise _unsafe(path, member.name) from None


def _unzip(path: Path, to: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            kind = stat.S_IFMT(member.external_attr >> 16)
            if (
                ".." in parts
                or re.match(r"[A-Za-z]:|/|\\", member.filename)
                or kind not in (0, stat.S_IFREG, stat.S_IFDIR)
            ):
                raise _unsafe(path, member.filename)
        for member in tqdm(members, f"extracting {path.name}", unit="file", leave=False):
            archive.extract(member, to)


def download(archive: Archive, root: Path) -> None:
    """Fetches an archive to `root`; what an earlier call got of it is not fetched again. Raises
    `UserError` if the server does not give it, the connection is lost, or it is another file, which
    is not kept."""
    path, part = root / archive.file, root / f"{archive.file}.part"
    have = part.stat().st_size if part.exists() else 0
    asked = {"User-Agent": f"dnrlib/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    lost, broken = (OSError, http.client.HTTPException), ""
    try:
        request = urllib.request.Request(archive.url, headers=asked)
        response = urllib.request.urlopen(request, timeout=60)
    except lost as error:
        code, why = getattr(error, "code", None), getattr(error, "reason", error)
        if code == 416 and have:
            # There is nothing from there on: the part belongs to another file, or is the whole.
            part.unlink()
            return download(archive, root)
        said = f"the server answers {code} ({why})" if code else f"no connection ({why})"
        raise UserError(
            f"{archive.url} for {path}: {said}; run the command again, or fetch it by hand"
        ) from None
    if response.status != 206:
        have = 0
    total = None if response.length is None else have + response.length
    bar = _bytes_bar(total=total, initial=have, desc=f"fetching {archive.file}")
    with response, part.open("ab" if have else "wb") as file, bar:
        while True:
            try:
                # What has arrived, not a whole block: it is there when the connection is lost.
                block = response.read1(BLOCK)
            except lost as error:
                broken, block = f" ({error})", b""
            if not block:
                break
            file.write(block)
            bar.update(len(block))
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
