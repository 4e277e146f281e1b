"""The environment files agree with each other and with what is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from dnrlib import __version__
from dnrlib.records import ROOT

PYTHON = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
FIXED = ("torch", "torchvision", "jupyter", "jupyter-book", "matplotlib", "seaborn", "papermill")


def pins():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(r.specifier) == 1 and str(r.specifier).startswith("==") for r in found)
    return {r.name: r for r in found if r.marker is None or r.marker.evaluate()}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_direct_dependency_is_pinned_within_its_range():
    extras = project()["optional-dependencies"]
    direct = [*project()["dependencies"], *extras["book"], *extras["dev"]]
    pinned = pins()
    for requirement in map(Requirement, direct):
        pin = str(pinned[requirement.name].specifier).removeprefix("==")
        assert pin in requirement.specifier, requirement
    assert {*FIXED, "nbval"} <= pinned.keys()


def test_what_is_installed_is_what_is_pinned():
    for name in (*FIXED, "nbval", "numpy", "scikit-learn", "sphinx"):
        assert version(name).split("+")[0] == str(pins()[name].specifier).removeprefix("==")


def test_extensions_fit_this_jupyterlab():
    """Among them the one that shows roles and tables of MyST."""
    listed = subprocess.run(
        [sys.executable, "-m", "jupyter", "labextension", "list"],
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert re.search(r"jupyterlab-myst.*enabled.*OK", listed), listed
    assert "not compatible" not in listed


def test_conda_environment_takes_the_same_pins():
    """Its syntax and its parts; that conda can solve it was not tried (README)."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment.keys() == {"name", "channels", "dependencies"}
    *conda, pip = environment["dependencies"]
    assert all(re.fullmatch(r"[a-z]+(=[\d.]+)?", spec) for spec in conda)
    assert conda == ["python=3.11", "pip"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}


@pytest.mark.skipif(sys.platform == "win32", reason="Binder and make are not of Windows")
def test_the_environment_without_cuda_has_all_other_pins(tmp_path):
    """What it hands to uv; that uv gets torch without CUDA was not tried (README)."""
    environment = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text())
    assert environment["dependencies"][-1]["pip"][0] in (ROOT / "Makefile").read_text()
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\ncat >> {tmp_path}/pins\n')
    uv.chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        [ROOT / "binder" / "postBuild"], env={"PATH": path}, stdin=subprocess.DEVNULL, check=True
    )
    given = {
        line.split("==")[0] for line in (tmp_path / "pins").read_text().split("\n") if "==" in line
    }
    cuda = {name for name in pins() if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert given >= {*FIXED, "numpy"}
    assert {name.partition(" ")[0] for name in given} & pins().keys() == pins().keys() - cuda
    assert (tmp_path / "said").read_text().count(f"--python {sys.executable}") == 2


def test_zenodo_is_told_what_the_citation_says():
    """Zenodo reads the citation only where its own file is missing, which names the papers."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    for of in ("title", "version", "keywords"):
        assert zenodo[of] == citation[of]
    assert zenodo["description"] == citation["abstract"]
    assert zenodo["license"] == citation["license"].lower()
    assert zenodo["creators"] == citation["authors"]
    papers = [paper["url"] for paper in citation["references"]]
    assert [of["identifier"] for of in zenodo["related_identifiers"]] == papers


@pytest.mark.parametrize("code", PYTHON)
def test_the_python_of_the_readme_runs_as_it_stands(code):
    exec(code, {})


def test_workflows_run_targets_that_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            commands += [step["run"] for step in job["steps"] if "run" in step]
    called = [
        word
        for command in commands
        if command.startswith("make ")
        for word in command.split()[1:]
        if "=" not in word
    ]
    assert {"lint", "test", "test-portable", "book-only"} <= set(called) <= set(targets)


def test_the_core_needs_torch_and_numpy_alone():
    """Nothing else of what the project depends on is imported."""
    code = (
        "import sys, torch, dnrlib; from dnrlib.train import train\n"
        "model, batches = torch.nn.Linear(4, 2), [(torch.ones(3, 4), torch.tensor([0, 1, 1]))]\n"
        "for _ in dnrlib.regenerate(model, batches, 2): train(model, batches, 1)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"torch", "numpy"} <= loaded
    others = ("torchvision", "scipy", "pandas", "PIL", "sklearn", "joblib", "filelock")
    assert not loaded & {*others, "matplotlib", "seaborn", "IPython", "papermill", "yaml"}


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert __version__ == project()["version"] == citation["version"]


def test_the_book_is_built_by_jupyter_book_1():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["execute"]["execute_notebooks"] == "off"
    assert version("jupyter-book").startswith("1.")


def test_no_commit_is_that_of_another_repository(tmp_path):
    """The package may be installed below one."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(
        ["git", *author, "commit", "-q", "--allow-empty", "-m", "other"], cwd=tmp_path, check=True
    )
    shutil.copytree(ROOT / "dnrlib", tmp_path / "lib" / "dnrlib")
    asked = "from dnrlib.records import _commit; print(_commit())"
    for root in (tmp_path / "lib", ROOT):
        done = subprocess.run(
            [sys.executable, "-c", asked], cwd=root, capture_output=True, text=True, check=True
        )
        commit = done.stdout.strip().removesuffix("+changes")
        assert re.fullmatch("None" if root != ROOT else "[0-9a-f]{12}", commit)


def test_a_reader_of_the_output_may_have_enough():
    """As `dnr data list | head -1` has; Python would complain at its end."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "dnrlib.cli", "data", "list"]
    with subprocess.Popen(
        command, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
