"""What users and maintainers wait for, before and now: `python -m benchmarks.waits BEFORE`.

BEFORE is a checkout of an earlier commit; its commands run in this environment. Each command runs
in both checkouts in turn, with compiled bytecode and on otherwise idle cores: the quick ones in
several rounds, the others once. Results go to benchmarks/results/waits.json: by command, what it
may take at most (`bound`, in `clock` seconds), and [CPU, wall] seconds of every round.
"""

import argparse
import ast
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import RESULTS
from dnrlib import records

PYTHON = sys.executable
DNR = [PYTHON, "-c", "import sys; from dnrlib.cli import main; sys.exit(main(sys.argv[1:]))"]
PYTEST = [PYTHON, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]
NBVAL = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", "300", "--dist", "loadfile"]
WAITS: dict[str, dict[str, Any]] = {
    "`dnr --help`": {"command": [*DNR, "--help"], "rounds": 5, "clock": "CPU", "bound": 0.4},
    "imports of a page": {"rounds": 5, "clock": "CPU", "bound": 3.5},
    "the book from records": {"command": [*DNR, "book"], "clock": "wall", "bound": 75},
    "the same again, nothing changed": {"command": [*DNR, "book"], "clock": "wall", "bound": 20},
    "the notebooks under nbval": {
        "command": [*PYTEST, *NBVAL, "notebooks"],
        "clock": "wall",
        "bound": 80,
    },
    "the fast tests": {
        "command": [*PYTEST, "--dist", "loadscope", "-m", "not slow"],
        "clock": "wall",
        # `make test` as a whole, with the notebooks: three minutes.
        "bound": 100,
    },
}


def imports(checkout: Path) -> list[str]:
    """A command that imports what the page of Table 1 does."""
    cells = json.loads((checkout / "notebooks" / "table1.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    wanted = [
        node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    return [PYTHON, "-c", "\n".join(map(ast.unparse, wanted))]


def timed(command: list[str], checkout: Path) -> list[float]:
    """CPU seconds of a command and all its processes, and wall seconds. Says so if it fails."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as runs:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            command,
            cwd=checkout,
            env=environment | {"DNRLIB_RUNS": runs},
            capture_output=True,
            text=True,
        )
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        print(f"{command} FAILED in {checkout}:\n{(done.stdout + done.stderr)[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [round(cpu, 3), round(wall, 3)]


def commit(checkout: Path) -> str:
    git = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="checkout of an earlier commit")
    parser.add_argument("--only", choices=WAITS, help="measure this again, and keep the rest")
    options = parser.parse_args()
    checkouts = {"before": options.before.resolve(), "now": records.ROOT}
    result: dict[str, Any] = {"seconds": {}}
    if options.only:
        result = json.loads((RESULTS / "waits.json").read_text())
    else:
        for checkout in checkouts.values():
            for folder in (checkout / "_build", checkout / "book" / "pages"):
                shutil.rmtree(folder, ignore_errors=True)
    commits = {name: commit(checkout) for name, checkout in checkouts.items()}
    result["machine"] = records.provenance(torch.device("cpu"), 1) | {"cores": os.cpu_count()}
    for what, about in WAITS.items() if not options.only else [(options.only, WAITS[options.only])]:
        found: dict[str, list] = {name: [] for name in checkouts}
        # The first round of a quick command compiles what it imports.
        for number in range(about.get("rounds", 0) + 1):
            for name, checkout in checkouts.items():
                took = timed(about.get("command") or imports(checkout), checkout)
                if number or "rounds" not in about:
                    found[name].append(took)
        result["seconds"][what] = {name: about[name] for name in ("clock", "bound")} | found
        result["seconds"][what]["commits"] = commits
        print(what, result["seconds"][what], flush=True)
    # At the end, for pages of the book are made of this file too.
    (RESULTS / "waits.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
