"""A study as jobs on a real SLURM of two nodes, which `slurm.sh` starts on this machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from dnrlib import cli, records, study
from dnrlib.check import check
from dnrlib.recipes import grid
from dnrlib.records import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CONF = Path("/etc/slurm/slurm.conf")
ARMS = ["plain+epochs=60", "dnr+epochs=60+generations=3"]
DNR = f"{sys.executable} -m dnrlib.cli"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The folder of a running SLURM."""
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="needs dnrlib[cluster]")
    needed = ("munged", "slurmctld", "slurmd", "sbatch")
    if missing := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"needs SLURM, but {', '.join(missing)} is not installed")
    if os.geteuid() != 0:
        pytest.skip("needs root, to start SLURM")
    script = ROOT / "tests" / "slurm.sh"
    # A machine has room for one SLURM, and the tests may run in several processes.
    with FileLock(tmp_path_factory.getbasetemp().parent / "slurm.lock"):
        if CONF.exists():
            pytest.skip(f"{CONF} is there: this machine belongs to a cluster")
        folder = tmp_path_factory.mktemp("slurm")
        try:
            subprocess.run([script, "start", folder], check=True)
            yield folder
        finally:
            subprocess.run([script, "stop", folder], check=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A folder with a plan, and under `runs` what a study on this machine made of it."""
    folder = tmp_path_factory.mktemp("local")
    words = ["--dataset", "digits", "--budget", "smoke", "--seeds", "2"]
    words += [word for arm in ARMS for word in ("--method", arm)]
    assert cli.main(["plan", *words, "--output", str(folder / "plan.jsonl")]) == 0
    study.study(configs(), published=False, workers=2, runs=folder / "runs")
    return folder


def configs():
    return grid("digits", ARMS, 2, "smoke")


def content(runs):
    """All records under a folder of runs, without the times that they took."""
    return {
        path.relative_to(runs): records.read(path) | {"timing": None, "seal": None}
        for path in runs.glob("*/*.json")
    }


def same(runs, local, monkeypatch):
    """Whether a tree of runs is whole, that of the local study, and all that a study needs."""
    monkeypatch.setattr(study, "_train", None)
    assert check(runs)[1] == []
    assert len(study.study(configs(), published=False, runs=runs)) == 4
    assert content(runs) == content(local / "runs")


def test_the_array_of_the_readme_gives_the_records_of_the_local_pool(
    slurm, local, tmp_path, monkeypatch
):
    """As it stands there, but for what these nodes do not have."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^sbatch --array.*$", text, re.MULTILINE)
    for there, here in (
        (" --gpus=1", " --wait"),
        ("--cpus-per-task=4", "--cpus-per-task=1"),
        ("--mem=32G", "--mem=500M"),
        ("--device cuda", "--device cpu"),
        (".venv/bin/dnr", DNR),
    ):
        assert there in command
        command = command.replace(there, here)
    shutil.copy(local / "plan.jsonl", tmp_path)
    done = subprocess.run(command, shell=True, cwd=tmp_path)
    logs = "".join(path.read_text() for path in tmp_path.glob("slurm-*.out"))
    assert done.returncode == 0, logs
    same(tmp_path / "runs", local, monkeypatch)


@pytest.mark.fault("Snakemake is killed", "its jobs go on, and so does it after `--unlock`")
def test_snakemake_that_was_killed_goes_on_once_unlocked(local, tmp_path, monkeypatch):
    """On one machine, where its jobs go on too, and are waited for."""
    pytest.importorskip("snakemake", reason="needs dnrlib[cluster]")
    runs, command = tmp_path / "runs", snakemake("local", local, tmp_path)
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not content(runs) and running.poll() is None:
            time.sleep(0.1)
        jobs = psutil.Process(running.pid).children(recursive=True)
    finally:
        running.kill()
    running.wait()
    psutil.wait_procs(jobs, timeout=300)
    assert len(content(runs)) < len(content(local / "runs"))
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "--unlock" in refused.stderr
    subprocess.run([*command, "--unlock"], check=True)
    subprocess.run(command, check=True)
    same(runs, local, monkeypatch)


def snakemake(profile, local, folder):
    """The command that trains the plan of `local` in another folder, and checks it."""
    command = [sys.executable, "-m", "snakemake", "check", "--directory", str(folder)]
    command += ["--snakefile", str(ROOT / "workflow" / "Snakefile")]
    command += ["--profile", str(ROOT / "workflow" / "profiles" / profile)]
    return [*command, "--config", f"plan={local / 'plan.jsonl'}", "device=cpu", "workers=1"]


def test_jobs_that_are_killed_give_the_records_of_the_local_pool(
    slurm, local, tmp_path, monkeypatch
):
    """In the middle one job is cancelled and the node of the other loses its power."""
    runs, log = tmp_path / "runs", tmp_path / "log"
    command = snakemake("slurm", local, tmp_path)
    # What is not so on a cluster: no GPU, no accounting, little memory, jobs of seconds.
    command += ["--set-resources", "seed:gpu=0", "--default-resources", "mem_mb=500"]
    command += ["--slurm-no-account", "--slurm-status-command", "squeue"]
    command += ["--slurm-init-seconds-before-status-checks", "3"]
    command += ["--seconds-between-status-checks", "3", "--latency-wait", "20"]
    with log.open("w") as file:
        running = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(3000):
            begun = {
                record["config"]["seed"] for record in content(runs).values() if "config" in record
            }
            if len(begun) == 2 or running.poll() is not None:
                break
            time.sleep(0.1)
        assert len(content(runs)) < len(content(local / "runs")), log.read_text()
        jobs = dict(line.split() for line in told("squeue", "--noheader", "--format=%N %A"))
        assert jobs.keys() == {"n1", "n2"}
        told("scancel", jobs["n1"])
        lose_power(slurm, "n2", jobs["n2"])
        assert running.wait(timeout=1200) == 0, log.read_text()
    finally:
        running.kill()
    same(runs, local, monkeypatch)


def told(*command):
    """The lines that a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def lose_power(slurm, node, job):
    """Kills all that runs on a node at once, and says that it is down, as SLURM would find out
    after five minutes."""
    os.kill(int((slurm / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
    for process in psutil.process_iter():
        try:
            step = f"slurmstepd: [{job}." in " ".join(process.cmdline())
            if step or process.environ().get("SLURMD_NODENAME") == node:
                process.kill()
        except psutil.Error:
            pass  # It has ended by itself, or is none of ours.
    told("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power")
