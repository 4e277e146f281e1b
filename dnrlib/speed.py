"""What the benchmarks found: goals and what was measured, where the time goes, what is linear."""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown
from matplotlib.axes import Axes

from .figures import axes
from .records import ROOT
from .tables import number, table

RESULTS = ROOT / "benchmarks" / "results"
PAPER_EPOCHS = 200
"""Epochs of a generation in the papers' protocol."""
LARGE, SMALL = "ResNet18, 224 pixels", "ResNet18, 32 pixels"
BUNDLED = "embedded (digits, width 8)"

Result = dict[str, Any]


def results() -> list[Result]:
    """The committed results of `benchmarks/generation.py`, one per machine."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("generation-*.json"))]


def precision(found: Result) -> str:
    """The fastest number format of a machine: bf16 where it computes in it."""
    return "bf16" if f"{LARGE}, bf16" in found["generations"] else "fp32"


def machine(found: Result) -> str:
    """The machine of a result, in words."""
    made = found["machine"]
    cores = "" if made["device"] == "cuda" else ", one core"
    return f"{made['processor']}{cores}, {precision(found)}"


def measured(found: Result, setting: str) -> dict[str, Any]:
    """What a machine measured of a setting, in its fastest number format; the bundled dataset has
    one for all."""
    used = "fp32" if setting == BUNDLED else precision(found)
    return found["generations"][f"{setting}, {used}"]


def _ratios(setting: str, above: str, below: str) -> Callable[[Result], list[float]]:
    def rounds(found: Result) -> list[float]:
        seconds = measured(found, setting)["seconds"]
        if not {above, below} <= seconds.keys():
            return []
        return [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]

    return rounds


def _switch(found: Result) -> list[float]:
    """Saliency, selection, mask and reset in % of a generation of 200 epochs; the epochs and the
    switch are those of a short generation on few images."""
    short = measured(found, LARGE)
    training = ("data", "forward and backward", "optimiser")
    shares = []
    for parts in short["parts"]:
        epoch = sum(parts[name] for name in training) / short["config"]["epochs"]
        shares.append(100 * parts["switch"] / (PAPER_EPOCHS * epoch + parts["switch"]))
    return shares


def _mask_bytes(of: str) -> Callable[[Result], list[float]]:
    def one(found: Result) -> list[float]:
        stored = found["generations"][f"{LARGE}, fp32"].get("mask_bytes")
        return [stored[of] / stored["packed"]] if stored else []

    return one


def _steps(above: str, below: str) -> Callable[[Result], list[float]]:
    def rounds(found: Result) -> list[float]:
        rates = found.get("images_per_second", {}).get(LARGE)
        if rates is None:
            return []
        return [a / b for a, b in zip(rates[above], rates[below], strict=False)]

    return rounds


def by_generations(found: Result) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of generations, and the seconds that a run of so many takes."""
    seconds = measured(found, BUNDLED)["seconds"]["dnrlib"]
    return np.arange(1, len(seconds) + 1), np.cumsum(seconds)


def by_images(found: Result) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of training images, and the median seconds of a generation on them."""
    images = sorted(found["images"], key=int)
    seconds = [statistics.median(found["images"][number]) for number in images]
    return np.array([int(number) for number in images]), np.array(seconds)


def line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The least-squares line (slope, intercept), and the largest residual in % of the largest y."""
    fit = np.polyfit(x, y, 1)
    return fit, 100 * float(np.abs(y - np.polyval(fit, x)).max() / y.max())


@dataclass(frozen=True)
class Goal:
    """A number that the project aims at."""

    part: str
    unit: str
    rounds: Callable[[Result], list[float]]
    """The measured number in every round; none if a machine did not measure it."""
    bound: float | None = None
    at_most: bool = False
    digits: int = 2
    note: str = ""
    """Why a goal may be missed that a profile does not explain."""

    def words(self) -> str:
        if self.bound is None:
            return "–"
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}{self.unit}"

    def found(self, found: Result) -> str:
        """Median and quartiles over rounds, and whether the median reaches the goal."""
        rounds = self.rounds(found)
        if not rounds:
            return "not measured"
        middle = statistics.median(rounds)
        text = f"{number(middle, self.digits)}{self.unit}"
        if len(rounds) > 2:
            low, _, high = statistics.quantiles(rounds, n=4)
            text += f" [{number(low, self.digits)}, {number(high, self.digits)}], n = {len(rounds)}"
        if self.bound is None:
            return text
        reached = middle <= self.bound if self.at_most else middle >= self.bound
        return f"{text}: {'reached' if reached else '**missed**'}"


NO_BF16 = "The goal supposes bf16 arithmetic, which this processor does not have"
HEADERS = "There is one bit for 64; what is missing are the names and shapes in our file"


def _beside(setting: str, loop: float) -> list["Goal"]:
    """The goals of a setting beside the lineage's loop, its kinder version and the bare passes."""
    lineage, kinder, bare = (
        _ratios(setting, *of)
        for of in (("reference", "dnrlib"), ("kinder", "dnrlib"), ("dnrlib", "bare"))
    )
    return [
        Goal(f"{setting}: the lineage's loop", " ×", lineage, loop, note=NO_BF16),
        Goal(f"{setting}: its kinder version", " ×", kinder),
        Goal(f"{setting}: bare passes", " ×", bare, 1.05, at_most=True),
    ]


GOALS = (
    *_beside(LARGE, 2.3),
    *_beside(SMALL, 1.9),
    Goal(f"{BUNDLED}: bare passes", " ×", _ratios(BUNDLED, "dnrlib", "bare"), 1.1, at_most=True),
    Goal("saliency to reset, of 200 epochs", " %", _switch, 1, at_most=True),
    Goal("bytes of a mask: the lineage's file", " ×", _mask_bytes("state"), 64, False, 1, HEADERS),
    Goal("bytes of a mask: float32", " ×", _mask_bytes("float"), digits=1),
    Goal(
        "more generations: off the line", " %", lambda of: [line(*by_generations(of))[1]], digits=1
    ),
    Goal("more images: off the line", " %", lambda of: [line(*by_images(of))[1]], digits=1),
)
ON_CUDA = (
    Goal("graphs: eager steps", " ×", _steps("graph", "eager"), 1.5),
    Goal("bare passes: graphs", " ×", _steps("bare", "graph"), 1.15, at_most=True),
    *(Goal(f"{n} processes: one", " ×", _steps(f"{n} processes", "1 processes")) for n in (2, 4)),
)


def goals_table(found: list[Result], name: str) -> Markdown:
    """Goals and what every machine measured."""
    header = ["what", "goal", *(machine(one) for one in found)]
    rows = [[goal.part, goal.words(), *(goal.found(one) for one in found)] for goal in GOALS]
    on_cuda = any(one["machine"]["device"] == "cuda" for one in found)
    for goal in ON_CUDA:
        cells = [goal.found(one) for one in found]
        if not on_cuda:
            cells = ["not measured on a GPU yet" for _ in found]
        rows.append([f"CUDA, {LARGE}, {goal.part}", goal.words(), *cells])
    caption = (
        "Whole generations: median of the rounds' ratios [quartiles], n rounds. The loop and its "
        "kinder version: their time over ours; bare passes: ours over theirs."
    )
    return table(header, rows, caption, name, words=True)


def misses(found: list[Result]) -> Markdown:
    """Of every goal that was missed, where the time of its generation went."""
    lines = []
    for one in found:
        for goal in GOALS:
            if "missed" not in goal.found(one):
                continue
            why = f"- {goal.part} ({machine(one)})"
            setting = next((s for s in (LARGE, SMALL, BUNDLED) if goal.part.startswith(s)), None)
            if setting:
                shares = parts(one).loc[setting]
                listed = [f"{part} {number(share, 1)} %" for part, share in shares.items()]
                why += f": {', '.join(listed)}"
            if goal.note and precision(one) == "fp32":
                why += f". {goal.note}"
            lines.append(f"{why}.")
    return Markdown("\n".join(lines) or "Every goal that was measured is reached.")


def parts(found: Result) -> pd.DataFrame:
    """Where the time of a generation goes on a machine: by setting (rows), the parts' medians over
    rounds in % of the generation's; `other` is what no part counts."""
    rows = {}
    for setting in (LARGE, SMALL, BUNDLED):
        one = measured(found, setting)
        shares = pd.DataFrame(one["parts"]).div(one["seconds"]["dnrlib"], axis=0) * 100
        shares["other"] = 100 - shares.sum(axis=1)
        rows[setting] = shares.median()
    return pd.DataFrame(rows).T.reindex(columns=[*PARTS]).fillna(0.0)


PARTS = {
    "forward and backward": "#0072B2",
    "evaluation": "#56B4E9",
    "switch": "#D55E00",
    "resampling": "#E69F00",
    "data": "#009E73",
    "optimiser": "#CC79A7",
    "files": "#999999",
    "start": "#444444",
    "other": "#dddddd",
}
"""The parts of a generation and their colours."""


def parts_figure(found: Result, ax: Axes | None = None) -> Axes:
    """Where the time of a generation goes, as bars, and what of it bare passes would take."""
    ax = axes(ax, height=2.6)
    shares = parts(found)
    left = np.zeros(len(shares))
    for part, colour in PARTS.items():
        ax.barh(shares.index, shares[part], left=left, color=colour, label=part)
        left += shares[part].to_numpy()
    for row, setting in enumerate(shares.index):
        bare = 100 / statistics.median(_ratios(setting, "dnrlib", "bare")(found))
        place = [row - 0.45, row + 0.45]
        ax.plot([bare, bare], place, color="black", label=None if row else "bare passes")
    ax.invert_yaxis()
    ax.set(xlabel="% of the time of a generation", xlim=(0, 108))
    ax.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.45, -0.25))
    sns.despine(ax=ax)
    return ax


def linear_figure(found: Result) -> list[Axes]:
    """Seconds by generations and by images, with their lines."""
    _, both = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    for ax, fit, label in zip(
        both, (by_generations, by_images), ("generations", "training images"), strict=True
    ):
        x, y = fit(found)
        (slope, start), _ = line(x, y)
        ax.plot(x, y, "o", markersize=4, color="#0072B2")
        ax.axline((0, start), slope=slope, color="0.6", zorder=0)
        ax.set(xlabel=label, ylabel="seconds", xlim=(0, None), ylim=(0, None))
        sns.despine(ax=ax)
    return list(both)


def in_bf16(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of arms of a frame: each in bfloat16 with itself in float32."""
    arms = frame["method"].unique()
    pairs = [(arm, arm.replace("+precision=bf16", "")) for arm in arms]
    return [(coarse, exact) for coarse, exact in pairs if coarse != exact and exact in arms]


def input_table(name: str) -> Markdown:
    """What `benchmarks/data.py` found."""
    found = json.loads((RESULTS / "data.json").read_text())
    words = {
        "pillow": "Pillow, file by file (the lineage's loader)",
        "each": "decoded array, image by image (on a CPU)",
        "batch": "decoded array, as matrix products (on a GPU)",
    }
    ratios = {
        way: f"{r['median']:.1f} [{r['lower_quartile']:.1f}, {r['upper_quartile']:.1f}]"
        for way, r in found["ratio_to_pillow"].items()
    }
    rates = found["images_per_core_second"]
    rows = [[words[way], f"{rates[way]['median']:.0f}", ratios.get(way, "1")] for way in words]
    caption = (
        f"Training input at 224 pixels: images per core-second, and ratio to the first row, median "
        f"[quartiles] of {found['rounds']} interleaved rounds ({found['machine']})."
    )
    return table(["input", "images per core-second", "ratio"], rows, caption, name, words=True)
