"""Work on several processes of which some are killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dnrlib import UserError, parallel
from tests import POSIX


def die_once(folder, number):
    """Kills its process where nothing of that number is in the folder yet."""
    marker = Path(folder) / str(number)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(folder):
    (Path(folder) / str(os.getpid())).touch()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("given", [None, "glibc.malloc.hugetlb=0"])
def test_workers_have_large_pages_unless_the_user_says_otherwise(given, monkeypatch):
    """In a process of its own: workers that are there already keep what they began with."""
    name, value = parallel.HUGE_PAGES
    monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(name, given)
    code = f"""
import os
from dnrlib.parallel import finished
print([*finished(os.getenv, [("{name}",)] * 2, 2)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([given or value] * 2)


@pytest.mark.fault(
    "a worker process is killed, whatever its work",
    "its work begins again",
)
@POSIX
def test_what_a_killed_worker_did_begins_again(tmp_path, capsys):
    for number in (0, 2, 3):
        (tmp_path / str(number)).touch()
    found = list(parallel.finished(die_once, [(tmp_path, number) for number in range(4)], 4))
    assert sorted(found) == [0, 1, 2, 3]
    said = capsys.readouterr().err
    assert said.count("a worker process was killed") == 1
    assert "goes on, on 2 workers" in said


@pytest.mark.fault("worker processes are killed again and again", "one line with what to do")
@POSIX
def test_workers_that_are_killed_again_and_again_are_one_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parallel, "RETRIES", 1)
    with pytest.raises(UserError, match=r"killed, .* 2 times; .*run it again, with fewer"):
        list(parallel.finished(die, [(tmp_path,)], 2))
    assert len(list(tmp_path.iterdir())) == 2
    assert capsys.readouterr().err.count("goes on") == 1


@pytest.mark.fault(
    "all processes of a study are killed at once",
    "the next one deletes what they left in shared memory",
)
@POSIX
def test_what_killed_pools_left_in_shared_memory_is_deleted(tmp_path, monkeypatch):
    """Of processes that are no more; nothing else."""
    monkeypatch.setattr(parallel, "SHARED", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    dead, alive = int(done.stdout), os.getpid()
    for pid in (dead, alive, 10**30):
        (tmp_path / f"sem.loky-{pid}-ab_12").touch()
        (tmp_path / f"joblib_memmapping_folder_{pid}_ab").mkdir()
    (tmp_path / f"joblib_memmapping_folder_{dead}_ab" / "array").touch()
    (tmp_path / f"sem.mine-{dead}").touch()
    assert list(parallel.finished(abs, [(-3,)], 1)) == [3]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"sem.mine-{dead}",
        *(f"sem.loky-{pid}-ab_12" for pid in (alive, 10**30)),
        *(f"joblib_memmapping_folder_{pid}_ab" for pid in (alive, 10**30)),
    }
