"""Locks on disks that have none, as those of clusters."""

import errno
import os
import signal
import tempfile
import threading

import pytest

from dnrlib import records
from dnrlib.run import run
from dnrlib.study import Archive
from tests import POSIX

fcntl = pytest.importorskip("fcntl")
pytestmark = POSIX


@pytest.fixture(params=records.NO_LOCKS, ids=errno.errorcode.get)
def no_locks(request, tmp_path, monkeypatch):
    """A folder on a disk that refuses locks; the temporary folder of this machine is another."""
    disk, here = tmp_path / "disk", tmp_path / "here"
    disk.mkdir()
    here.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    real = fcntl.flock

    def flock(file, how):
        there = {(of.st_dev, of.st_ino) for of in map(os.stat, disk.rglob("*"))}
        opened = os.fstat(file)
        if (opened.st_dev, opened.st_ino) in there:
            raise OSError(request.param, os.strerror(request.param))
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    return disk


def test_a_disk_without_locks_is_locked_on_this_machine(no_locks):
    entered = threading.Event()

    def second():
        with records.lock(no_locks / "a"):
            entered.set()

    with records.lock(no_locks / "a"):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not entered.wait(0.5)
        with records.lock(no_locks / "b"):
            pass
    waiting.join()
    assert entered.is_set()


def test_a_killed_owner_stops_nobody(no_locks):
    if not (child := os.fork()):
        with records.lock(no_locks):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with records.lock(no_locks):
        pass


def test_a_run_on_a_disk_without_locks_is_whole(tiny, no_locks):
    config = tiny(method="plain")
    found = run(config, no_locks)
    assert Archive(published=False, runs=no_locks).find(config).records == found


def test_any_other_error_of_a_lock_is_an_error(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"), records.lock(tmp_path):
        pass
