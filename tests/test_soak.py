"""The soak counts what happened, and notices a chain that differs."""

import json
import shutil

import pytest
import torch

from dnrlib import train
from tests import POSIX, soak


@pytest.mark.fault(
    "a run is killed in training or in writing a file",
    "goes on from the last whole generation, with the same result",
)
@POSIX
def test_a_short_soak_kills_resumes_and_finds_no_difference(tmp_path):
    log = soak.soak(3, 10, 2, tmp_path)
    assert log["chains"] == 3
    assert sum(log["kills"].values()) >= log["resumed"] >= 1
    assert (log["differing"], log["left"]) == (0, 0)
    config = soak.chains(3)[-1]
    alone, disturbed = (soak.Store(tmp_path / name) for name in ("undisturbed", "disturbed"))
    assert soak.content(config, alone) == soak.content(config, disturbed)


@POSIX
def test_a_soak_notices_what_differs_and_what_is_left(tmp_path, monkeypatch):
    """A disturbed chain that trains at another rate."""
    rate = train.learning_rate

    def changed(*given):
        here = (tmp_path / "disturbed").exists()
        return rate(*given) * (1 + 0.01 * here)

    monkeypatch.setattr(train, "learning_rate", changed)
    monkeypatch.setattr(soak, "GO_ON", 1)
    log = soak.soak(1, 10, 0, tmp_path)
    assert (log["chains"], log["differing"], log["left"]) == (1, 1, 0)
    shutil.rmtree(tmp_path / "undisturbed")
    (next((tmp_path / "disturbed").iterdir()) / ".weights.pt-abcdefgh").touch()
    log = soak.soak(1, 10, 0, tmp_path)
    assert log["left"] == 1


@POSIX
def test_a_process_that_fails_ends_the_soak(tmp_path, monkeypatch, capfd):
    torch.set_num_threads(1)
    first = soak.chains(1)[0]
    soak.run(first, tmp_path / "undisturbed", "cpu", evaluations=soak.MEASURED)
    monkeypatch.setattr(soak, "run", lambda *given, **named: 1 / (given[1].name == "undisturbed"))
    with pytest.raises(ChildProcessError, match="failed with status"):
        soak.soak(1, 10, 0, tmp_path)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_committed_log_is_of_a_soak_that_found_nothing():
    log = json.loads(soak.LOG.read_text())
    assert (log["differing"], log["left"]) == (0, 0)
    assert log["chains"] >= log["resumed"] >= 100
    assert min(log["kills"].values()) > 0
