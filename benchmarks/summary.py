"""What the results of `benchmarks.generation` come to: `python -m benchmarks.summary`.

It writes benchmarks/results/summary.json, which the book's page on speed reads. By machine, in the
fastest number format that it computes in:

- `device`.
- `rounds`: what `benchmarks/goals.csv` names, a number for every round that measured it.
- `parts`: by setting, where the time of a generation goes, in % of it; `other` is what no part
  counts.
- `seconds`: of a run by its generations, and of a generation by its training images.
"""

import itertools
import json
import statistics
from typing import Any

import pandas as pd

from benchmarks.data import RESULTS
from benchmarks.generation import AT_ONCE, BUNDLED, FLOWERS, LARGE, SMALL, rounded
from dnrlib.recipes import RECIPES
from dnrlib.stats import line

Result = dict[str, Any]
PARTS = [
    *("forward and backward", "evaluation", "switch", "resampling", "data", "optimiser"),
    *("files", "start", "other"),
]


def beside(setting: str, found: Result) -> dict[str, pd.Series]:
    """Whole generations beside bare passes and the loop of the lineage, in both its versions."""
    seconds = pd.DataFrame(found["seconds"], columns=["dnrlib", "reference", "persistent", "bare"])
    return {
        f"{setting}: the lineage's loop": seconds["reference"] / seconds["dnrlib"],
        f"{setting}: with persistent workers": seconds["persistent"] / seconds["dnrlib"],
        f"{setting}: bare passes": seconds["dnrlib"] / seconds["bare"],
    }


def once(found: Result) -> dict[str, pd.Series]:
    """Saliency, selection, mask and reset in % of a generation as long as the paper's, and the
    bytes of a mask; the epochs and the switch are those of a short generation on few images."""
    parts = pd.DataFrame(found["parts"])
    epoch = parts[["data", "forward and backward", "optimiser"]].sum(axis=1)
    training = RECIPES["cub200"]["epochs"] * epoch / found["config"]["epochs"]
    share = 100 * parts["switch"] / (training + parts["switch"])
    stored = pd.DataFrame([found.get("mask_bytes", {})], columns=["packed", "state", "float"])
    return {
        "saliency to reset, of 200 epochs": share,
        "bytes of a mask: the lineage's file": stored["state"] / stored["packed"],
        "bytes of a mask: float32": stored["float"] / stored["packed"],
    }


def on_cuda(setting: str, rates: dict[str, list[float]]) -> dict[str, pd.Series]:
    """Images per second of training steps that are made in one way, over those of another."""
    ways = {"graphs: eager steps": ("graph", "eager"), "bare passes: graphs": ("bare", "graph")}
    ways["sums in any order: graphs"] = "any order", "graph"
    n = AT_ONCE[setting]
    ways[f"{n} processes: one"] = f"{n} processes", "1 processes"
    return {
        f"CUDA, {setting}, {words}": pd.Series(rates.get(a), dtype=float)
        / pd.Series(rates.get(b), dtype=float)
        for words, (a, b) in ways.items()
    }


def shares(found: Result) -> dict[str, float]:
    """The parts of a generation in % of its seconds, medians over rounds."""
    parts = pd.DataFrame(found["parts"]).div(found["seconds"]["dnrlib"], axis=0) * 100
    parts["other"] = 100 - parts.sum(axis=1)
    return parts.median().reindex(PARTS, fill_value=0).to_dict()


def summary(result: Result) -> tuple[str, Result]:
    """The name of a machine, and what it measured."""
    machine, measured = result["machine"], result["generations"]
    precision = "bf16" if f"{LARGE}, bf16" in measured else "fp32"
    used = {LARGE: precision, SMALL: precision, FLOWERS: "fp32", BUNDLED: "fp32"}
    named = {setting: f"{setting}, {number}" for setting, number in used.items()}
    found = {setting: measured[name] for setting, name in named.items() if name in measured}
    # A machine may have measured some of all this.
    rounds = dict.fromkeys(pd.read_csv(RESULTS.parent / "goals.csv")["what"], pd.Series())
    for setting, rates in result.get("images_per_second", {}).items():
        rounds |= on_cuda(setting, rates)
    rounds |= once(found[LARGE]) if LARGE in found else {}
    for setting, of in found.items():
        rounds |= beside(setting, of)
    seconds: dict[str, dict[int, float]] = {}
    if BUNDLED in found:
        by_generations = itertools.accumulate(found[BUNDLED]["seconds"]["dnrlib"])
        seconds["generations"] = dict(enumerate(by_generations, 1))
    if images := result.get("images"):
        by_images = {int(n): statistics.median(took) for n, took in images.items()}
        seconds["images"] = dict(sorted(by_images.items()))
    for more, points in seconds.items():
        rounds[f"more {more}: off the line"] = pd.Series(line(points, points.values())[2])
    cores = "" if machine["device"] == "cuda" else ", one core"
    return f"{machine['processor']}{cores}, {precision}", {
        "device": machine["device"],
        "rounds": {what: list(values.dropna()) for what, values in rounds.items()},
        "parts": {setting: shares(of) for setting, of in found.items()},
        "seconds": seconds,
    }


def summaries() -> Result:
    """By machine, what its committed results come to."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("generation-*.json"))]
    return rounded(dict(map(summary, results)))


if __name__ == "__main__":
    (RESULTS / "summary.json").write_text(json.dumps(summaries(), indent=1) + "\n")
