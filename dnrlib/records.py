"""What came out of a run: sealed JSON records, atomic files, the published and the user's own.

Two places, never confused: `data/records/` holds the published records, committed, one gzipped file
per dataset and seed with a record per line, and `manifest.json`, which lists their digests; `runs/`
what this user trained, a folder per link.
"""

import ctypes
import errno
import functools
import gzip
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor

from . import UserError, __version__
from .config import RESULTS_VERSION, compact

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "data" / "records"
SCHEMA = 1
UMASK = os.umask(0)
os.umask(UMASK)

Record = dict[str, Any]


class DamagedFile(UserError):
    """A file whose content is not what was written."""

    def __init__(self, path: Path, what: str, mend: str | None = None) -> None:
        if mend is None and PUBLISHED in path.parents:
            mend = shlex.join(["git", "checkout", "--", str(path)])
        again = (
            "delete that file to measure it again"
            if path.name.startswith("evaluation-")
            else f"delete the folder {path.parent} to train this generation again"
        )
        super().__init__(
            f"{path} is damaged ({what}); {f'restore it with: {mend}' if mend else again}"
        )


def runs_root() -> Path:
    """The folder of the user's own runs: $DNRLIB_RUNS, or `runs/` beside the package."""
    return located(os.environ.get("DNRLIB_RUNS") or ROOT / "runs")


def located(path: str | Path) -> Path:
    """A path in full, with `~` for a home; raises `UserError` for that of a user unknown here."""
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user on this machine") from None


def write(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, whenever the process dies. What is no
    file, such as /dev/stdout, is written to."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private to their owner; this one is to be like any other file.
        os.chmod(name, 0o666 & ~UMASK)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


REFUSED = errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EROFS, errno.ENOSPC, errno.EDQUOT
"""Errors of writing that another folder mends."""
NO_LOCKS = errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP
"""What a disk without locks answers, such as Lustre without `flock` or NFS without its daemon."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Exclusive use of a folder among processes. The system frees it when its owner dies.

    On a disk without locks it holds among the processes of one machine, by a file in its temporary
    folder. A file whose mere existence locks would hold among all, but one left by a killed job
    would stop the job that is to go on elsewhere for ever. Where jobs are a seed each, no two
    machines make the same folder; if they do all the same, what does not fit is noticed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = _locked(folder / "lock", folder)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:20]
        held = _locked(Path(tempfile.gettempdir()) / f"dnrlib-{name}.lock", folder)
    try:
        yield
    finally:
        held.release()


def _locked(path: Path, folder: Path) -> BaseFileLock:
    """A lock of the file at `path` for a folder, acquired."""
    held = FileLock(path, fallback_to_soft=False)
    try:
        held.acquire(timeout=2)
    except Timeout:
        print(f"waiting for another process, which is making {folder}", file=sys.stderr, flush=True)
        held.acquire()
    return held


# --------------------------------------------------------------------------------------------------
# Sealed records


def seal(record: Record) -> Record:
    """The record with a `seal`: the SHA-256 of everything else in it."""
    body = {name: value for name, value in record.items() if name != "seal"}
    return body | {"seal": hashlib.sha256(compact(body).encode()).hexdigest()}


def parse(text: str, path: Path) -> Record:
    """The record in `text`; raises `DamagedFile` naming `path` if its seal does not fit."""
    try:
        record = json.loads(text)
        sealed = isinstance(record, dict) and seal(record)["seal"] == record.get("seal")
    except (ValueError, RecursionError):
        raise DamagedFile(path, "not a JSON record") from None
    if not sealed:
        raise DamagedFile(path, "its content does not fit its seal")
    if record.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {record.get('schema')!r}, this version reads {SCHEMA}")
    return record


_ALL = {"key": str, "generation": int, "provenance.results": int}
_ALL |= dict.fromkeys((f"provenance.{name}" for name in ("package", "torch", "device")), str)
HELD: dict[str, dict[str, type]] = {
    "generation": _ALL
    | {"config.dataset": str, "config.seed": int, "timing.seconds": float, "result.weights": str}
    | dict.fromkeys(("result.curve", "result.trace"), list)
    | dict.fromkeys((f"result.{of}_accuracy" for of in ("birth", "test", "train")), float),
    "mask": _ALL
    | {"of": str, "result.mask": str, "result.masked_accuracy": float}
    | dict.fromkeys((f"result.{name}" for name in ("size", "kept", "zero_saliency")), dict),
    "evaluation": _ALL | {"of": str, "result": dict, "timing.seconds": float},
}
"""By kind, what a record of a run holds at least."""


def of_a_run(record: Record, path: Path) -> Record:
    """The record; raises `DamagedFile` if it lacks what every record of its kind holds."""
    kind = str(record.get("kind"))
    if kind not in HELD:
        raise DamagedFile(path, f"a record of kind {kind!r}, which runs do not have")
    for name, wanted in HELD[kind].items():
        value: Any = record
        for word in name.split("."):
            value = value.get(word) if isinstance(value, dict) else None
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise DamagedFile(path, f"its {name} is not of type {wanted.__name__}")
    return record


def save(path: Path, record: Record) -> Record:
    """Writes a record, sealed; returns it."""
    record = seal(record | {"schema": SCHEMA})
    write(path, (compact(record) + "\n").encode())
    return record


def read(path: Path) -> Record | None:
    """The record at `path`, or None if there is none; raises `DamagedFile`."""
    try:
        return parse(path.read_text(), path) if path.exists() else None
    except (UnicodeDecodeError, IsADirectoryError):
        raise DamagedFile(path, "not a JSON record") from None


def tensors_digest(state: dict[str, Tensor]) -> str:
    """The first 20 hex digits of the SHA-256 over names and values of a state dict or mask."""
    sha = hashlib.sha256()
    for name, value in state.items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:20]


# --------------------------------------------------------------------------------------------------
# Provenance


@functools.cache
def _commit() -> str | None:
    """The commit of the package's checkout, marked if files were changed; None outside one."""
    try:
        ours, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
            for words in (
                ("rev-parse", "--show-toplevel", "--short=12", "HEAD"),
                ("status", "--porcelain", "dnrlib"),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    top, commit = ours.stdout.split("\n")[:2]
    if Path(top).resolve() != ROOT.resolve():
        return None  # An installed package may lie in a checkout of something else.
    return commit + ("+changes" if changed.stdout.strip() else "")


def processor() -> str:
    """The processor's name and the instruction set that torch uses on it; and, where MKL was told
    who made the processor, on which its rounding depends, what it was told."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    if sys.platform == "darwin":
        ask = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(ask, capture_output=True, text=True).stdout.strip() or name
    name = f"{name}, {torch.backends.cpu.get_cpu_capability()}"
    preloaded = ctypes.CDLL(None) if os.name == "posix" else None
    intel = getattr(preloaded, "mkl_serv_intel_cpu_true", None)
    return f"{name}, MKL as on {'Intel' if intel() else 'AMD'}" if intel else name


def provenance(device: torch.device, threads: int) -> dict[str, Any]:
    """Where and with what a record was made."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "package": __version__,
        "commit": _commit(),
        "results": RESULTS_VERSION,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
        "processor": name,
        "threads": threads,
    }


# --------------------------------------------------------------------------------------------------
# Published records


def _manifest() -> dict[str, str]:
    """The SHA-256 of every published file, by `DATASET/FILE`."""
    path = PUBLISHED / "manifest.json"
    try:
        return dict(json.loads(path.read_bytes())) if path.exists() else {}
    except (ValueError, TypeError, RecursionError):
        raise DamagedFile(path, "not a JSON object") from None


@functools.lru_cache(maxsize=512)
def _published_file(path: Path, changed: int, digest: str) -> dict[str, Record]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedFile(path, "not the file that manifest.json lists")
    return _published_records(path, content)


def _published_records(path: Path, content: bytes) -> dict[str, Record]:
    """What a published file of this content holds, by key; raises `DamagedFile`."""
    try:
        text = gzip.decompress(content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        raise DamagedFile(path, "not gzipped text") from None
    listed = (of_a_run(parse(line, path), path) for line in text.splitlines())
    found = {record["key"]: record for record in listed}
    here = path.parent.name, int(path.name.removeprefix("seed-").partition(".")[0])
    own = {
        key
        for key, record in found.items()
        if record["kind"] == "generation"
        and (record["config"]["dataset"], record["config"]["seed"]) == here
    }
    for key, record in found.items():
        # A mask or an evaluation names the generation that it is of.
        if record.get("of", key) not in own:
            raise DamagedFile(path, f"record {key!r} is of another dataset or seed")
    return found


def _published_path(dataset: str, seed: int) -> Path:
    return PUBLISHED / dataset / f"seed-{seed:04d}.jsonl.gz"


def _name(path: Path) -> str:
    """How the manifest calls a published file."""
    return path.relative_to(PUBLISHED).as_posix()


def _unlisted(path: Path) -> UserError:
    return UserError(
        f"{path} is not listed in {PUBLISHED / 'manifest.json'}; take it away, or if it is one of "
        f"yours list it with: python -m tests.publish {path.parent.name} --copied"
    )


def published_seeds(dataset: str) -> int:
    """How many seeds of a dataset have published records; they are numbered from 0. Raises
    `UserError` for a file that the manifest does not list."""
    manifest = _manifest()
    for path in (PUBLISHED / dataset).glob("seed-*.jsonl.gz"):
        if _name(path) not in manifest:
            raise _unlisted(path)
    return sum(name.startswith(f"{dataset}/") for name in manifest)


def published(dataset: str, seed: int) -> dict[str, Record]:
    """The published records of a dataset and seed, by key. Raises `DamagedFile` for a file that is
    not as the manifest lists it or is missing, and `UserError` for one that is not listed."""
    path = _published_path(dataset, seed)
    digest = _manifest().get(_name(path))
    if not path.exists():
        if digest is not None:
            raise DamagedFile(path, "missing, but listed in manifest.json")
        return {}
    if digest is None:
        raise _unlisted(path)
    return _published_file(path, path.stat().st_mtime_ns, digest)


def publish(dataset: str, seed: int, records: Iterable[Record]) -> Path:
    """Adds records to the published file of a dataset and seed; returns its path.

    Lines are ordered by generation, kind and key, so that republishing gives the same file. Raises
    `DamagedFile` for records of another dataset or seed, and `UserError` for a record that is
    published with another result. One that is published with less stays as it is.
    """
    path = _published_path(dataset, seed)
    with lock(PUBLISHED):
        merged = dict(published(dataset, seed))
        for record in records:
            there = merged.setdefault(record["key"], record)
            if record["result"] | there["result"] != record["result"]:
                raise UserError(
                    f"record {record['key']} is published with another result, which stays: a run "
                    "goes on from published generations only on the processor that made them"
                )
        ordered = sorted(merged.values(), key=lambda r: (r["generation"], r["kind"], r["key"]))
        lines = "".join(compact(record) + "\n" for record in ordered)
        content = gzip.compress(lines.encode(), mtime=0)
        _published_records(path, content)
        write(path, content)
        _list([path])
    return path


def list_copied(dataset: str) -> None:
    """Lists all files of a dataset that lie in `data/records` in the manifest; raises `DamagedFile`
    for one that is not sound."""
    with lock(PUBLISHED):
        paths = sorted((PUBLISHED / dataset).glob("seed-*.jsonl.gz"))
        for path in paths:
            _published_records(path, path.read_bytes())
        _list(paths)


def _list(paths: Iterable[Path]) -> None:
    digests = {_name(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    text = json.dumps(_manifest() | digests, indent=1, sort_keys=True) + "\n"
    write(PUBLISHED / "manifest.json", text.encode())
