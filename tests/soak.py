"""Trains many small chains while their process is killed again and again, at random moments.

    nice python -m tests.soak [--chains 200] [--minutes 60] [--seed 0]

Each chain is trained undisturbed, and once more by processes that get SIGKILL in the training of a
generation, in the writing of a file, or between the two, until one of them gets to the end. Its
records must be those of the undisturbed one but for time and provenance, its weights and masks
whole, and nothing else may be left. What came out is written to `data/faults/soak.json`; the exit
code is 1 if a chain differs.
"""

import argparse
import json
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from dnrlib import records, train
from dnrlib.config import Config
from dnrlib.evaluate.evaluations import Predictions
from dnrlib.methods import METHODS
from dnrlib.recipes import configure
from dnrlib.run import chain, entries, run
from dnrlib.store import Store

LOG = records.ROOT / "data" / "faults" / "soak.json"
PHASES = ("between", "training", "writing")
LASTS = {"between": 0.05, "training": 0.2, "writing": 0.005}
"""About how many seconds a phase takes."""
OFTEN = {"between": 8, "training": 3, "writing": 6}
"""About how often a chain is in it."""
GO_ON = 0.25
"""Share of processes that are left alone."""
MEASURED = (Predictions(),)


def chains(number: int) -> list[Config]:
    """The first so many of all methods with seed 0, then with seed 1, and so on."""
    small = {"width": 4, "epochs": 1, "generations": 3, "per_class": 4, "batch": 20}
    methods = list(METHODS)
    return [
        configure("digits", method=methods[n % len(methods)], seed=n // len(methods), **small)
        for n in range(number)
    ]


def started(config: Config, runs: Path, seen: mmap.mmap) -> int:
    """Starts a process that trains a chain; returns its id. `seen` holds the phase that it is in,
    and then how often it was in each."""
    seen[:] = bytes(1 + len(PHASES))
    child = os.fork()
    if child:
        return child

    def noted(phase: str, function: Any) -> Any:
        number = PHASES.index(phase)

        def call(*given: Any, **named: Any) -> Any:
            seen[0], seen[1 + number] = number, min(seen[1 + number] + 1, 255)
            try:
                return function(*given, **named)
            finally:
                seen[0], seen[1] = 0, min(seen[1] + 1, 255)

        return call

    try:
        train.train, records.write = (
            noted("training", train.train),
            noted("writing", records.write),
        )
        run(config, runs, "cpu", evaluations=MEASURED)
        os._exit(0)
    finally:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def killed(child: int, seen: mmap.mmap, draw: random.Random) -> str | None:
    """Kills a process in a random moment of a random phase; returns the phase that it was in, or
    None if it ended before. Raises `ChildProcessError` if it failed."""
    wanted = draw.randrange(len(PHASES))
    times, wait = (draw.uniform(0, of[PHASES[wanted]]) for of in (OFTEN, LASTS))
    spare = draw.random() < GO_ON
    while not (done := os.waitpid(child, 0 if spare else os.WNOHANG))[0]:
        if seen[0] == wanted and seen[1 + wanted] > times:
            time.sleep(wait)
            os.kill(child, signal.SIGKILL)
            done = os.waitpid(child, 0)
            break
        time.sleep(0.0005)
    if os.WIFSIGNALED(done[1]) and os.WTERMSIG(done[1]) == signal.SIGKILL:
        return PHASES[seen[0]]
    if done[1]:
        raise ChildProcessError(f"a chain failed with status {done[1]}")
    return None


def content(config: Config, store: Store) -> list[dict[str, Any] | None]:
    """The records of a chain but for time and provenance; raises `DamagedFile` if its weights or
    masks are not theirs."""
    for link in chain(config):
        store.weights(link.trained)
        if link.mask is not None:
            store.mask(link.mask)
    others = ("timing", "provenance", "seal")
    found = [store.read(entry) for entry in entries(config, MEASURED)]
    return [record and {k: v for k, v in record.items() if k not in others} for record in found]


def whole(config: Config, store: Store) -> int:
    """How many records of a chain are on disk."""
    return sum(store.read(entry) is not None for entry in entries(config, MEASURED))


def soak(number: int, minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """Trains so many chains, or what of them the minutes allow, in a folder; returns the log."""
    draw, seen, start = random.Random(seed), mmap.mmap(-1, 1 + len(PHASES)), time.monotonic()
    kills, counted = Counter(dict.fromkeys(PHASES, 0)), Counter()
    alone, disturbed = Store(folder / "undisturbed"), Store(folder / "disturbed")
    for config in chains(number):
        if time.monotonic() - start > 60 * minutes:
            break
        # Here, so that the processes begin with what is imported and read.
        run(config, alone.runs, "cpu", evaluations=MEASURED)
        before, resumed = whole(config, disturbed), False
        while phase := killed(started(config, disturbed.runs, seen), seen, draw):
            kills[phase] += 1
            resumed |= whole(config, disturbed) > before
        first, second = content(config, alone), content(config, disturbed)
        counted.update(
            chains=1,
            resumed=resumed,
            records=len(first),
            differing=first != second or None in first,
        )
        print(f"{counted['chains']} chains, {kills.total()} kills", file=sys.stderr, flush=True)
    return {
        "machine": records.provenance(torch.device("cpu"), 1),
        "seed": seed,
        "minutes": (time.monotonic() - start) / 60,
        "kills": dict(kills),
        **counted,
        "left": len(list(disturbed.runs.glob("*/.*"))),
    }


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--chains", type=int, default=200)
    words.add_argument("--minutes", type=float, default=60, help="begin no chain after these")
    words.add_argument("--seed", type=int, default=0, help="of the killer")
    options = words.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        log = soak(options.chains, options.minutes, options.seed, Path(folder))
    records.write(LOG, (json.dumps(log, indent=1) + "\n").encode())
    print(json.dumps(log, indent=1))
    return int(log["differing"] or log["left"])


if __name__ == "__main__":
    sys.exit(main())
