"""The papers' numbers, from `data/paper/*.csv`, and the runs that stand beside them."""

import dataclasses
import functools
import itertools

import pandas as pd
import torch
from torch import nn

from .. import UserError
from ..datasets.catalogue import VIEWS
from ..evaluate.evaluations import (
    BEYOND,
    FIGURE,
    HARDER,
    Attack,
    Corruptions,
    Evaluation,
    Predictions,
)
from ..models import LAYERS, network
from ..recipes import PHOTOGRAPHS, configure, scope
from ..records import ROOT

PAPER = ROOT / "data" / "paper"

_SIZES = {"embedded": ("5", "20", "0"), "photographs": ("10", "100", "400")}

ROWS: dict[str, dict[str, str | None]] = {
    "table1": {
        "plain+smoothing=0": "CE (f1)",
        "dsd+smoothing=0": "DSD",
        "ban+smoothing=0": None,
        "ban-lineage+smoothing=0": "BAN (f10)",
        "ke+smoothing=0": "KE (f10)",
        "dnr+smoothing=0": "DNR (f10)",
        "plain": "Smth (f1)",
        "lw": "Smth + LW (f8)",
        "lw-released": None,
        "llf+generations=8": "Smth + LLF (f8)",
        "dnr+generations=8": "Smth + DNR (f8)",
        "long": "Smth + LB (f10)",
        "tune": None,
        "llf": None,
        "llf-layer3": None,
        "ke": "Smth + KE (f10)",
        "ke-wels": None,
        "ke-wels-rand": None,
        "shrink-perturb": None,
        "dnr": "Smth + DNR (f10)",
    },
    "table2": {
        "plain": "Smth (f1)",
        "long": "Smth + LB (f10)",
        "tune": None,
        "ke": "Smth + KE (f10)",
        "dnr": "Smth + DNR (f10)",
    },
    "table3": {
        "plain": None,
        "long+generations=3": None,
        "tune+generations=3": "Smth + transfer learning (f3)",
        "ke+generations=3": None,
        "dnr+generations=3": "Smth + DNR (f3)",
        "long": None,
        "tune": None,
        "ke": None,
        "dnr": None,
    },
    "table4": {
        "long": "LB",
        "tune": None,
        "ke": "Random (KE)",
        "dnr+criterion=random": None,
        "dnr+criterion=fisher": "FIM",
        "dnr+criterion=magnitude": "Weight Magnitude",
        "dnr-released-magnitude": None,
        "dnr": "SNIP",
        "dnr+scope=layer": None,
    },
    "table5": {
        "tune": None,
        "dnr+keep=0.95": "5",
        "dnr+keep=0.9": "10",
        "dnr": "20",
        "dnr+keep=0.7": "30",
        "dnr+keep=0.6": "40",
    },
    "table6": {"ke": "KE (f10)", "dnr": "DNR (f10)"},
    "table7": {
        "dnr+probe=2": "128",
        "dnr+probe=128": "128",
        "dnr": "0.2|D|",
        "dnr+probe=1": None,
    },
    "table9": {
        "dnr": "10",
        "dnr+generations=20": "20",
        "dnr+generations=30": "30",
        "long": None,
        "long+generations=20": None,
        "long+generations=30": None,
    },
    "ske_table1": {
        "plain": "Smth (f1)",
        "long+generations=3": "Smth + LB (f3)",
        "ke+generations=3": "Smth + KE (f3)",
        "dnr+generations=3": "Smth + SKE (f3)",
        "long": "Smth + LB (f10)",
        "ke": "Smth + KE (f10)",
        "dnr": "Smth + SKE (f10)",
    },
    "fig2": {"dnr": None},
    "fig3": {"tune": None, "dnr": None},
    "fig4": {"dnr": None},
    "fig5": {
        "long": "LB",
        "tune": None,
        "ke": "KE",
        "llf": None,
        "dnr": "DNR",
        "dnr+criterion=random": None,
    },
    "fig6": {"long": None, "tune": None, "ke": None, "dnr": None},
    "fig7": {"plain": None, "long": None, "tune": None, "ke": None, "dnr": None},
    "table8": {
        "plain": None,
        "long": None,
        "tune": "Baseline (f3)",
        "ke": None,
        "dnr": "DNR (f3)",
    },
    "normalisation": {"long": "LB", "ke": "KE", "dnr": "DNR"},
    "released": {
        "tune": None,
        "lw-released": None,
        "dnr-released": None,
        "dnr-released-magnitude": None,
        "dnr": None,
    },
    "shock": {
        "tune": None,
        "dnr+keep=0.95": None,
        "dnr+keep=0.9": None,
        "dnr": None,
        "dnr+keep=0.7": None,
        "dnr+keep=0.6": None,
        "dnr+scope=layer": None,
        "dnr+criterion=fisher": None,
        "dnr+criterion=magnitude": None,
        "dnr-released": None,
        "dnr-released-magnitude": None,
        "ke": None,
        "ke-wels": None,
        "llf": None,
        "lw": None,
    },
    "precision": {
        "plain": None,
        "plain+precision=bf16": None,
        "dnr": None,
        "dnr+precision=bf16": None,
    },
    "why": {
        "tune": None,
        "dnr": None,
        "dnr-matched": None,
        "dnr+criterion=random": None,
        "dnr-highest": None,
    },
}
"""By exhibit, the arms that it compares, in order, each with its printed row (None: ours only).
Exhibits are of the DNR paper unless named `ske_`; the last five are our own."""

_SMALL = {
    "cub200": "CUB",
    "aircraft": "Aircraft",
    "dogs": "Dog",
    "flower102": "Flower",
    "mit67": "MIT",
}
COLUMNS: dict[str, dict[str, str]] = {
    "table1": _SMALL,
    "table2": {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "tinyimagenet": "TinyImageNet"},
    "table3": _SMALL,
    "table4": {"cub200": "CUB200", "flower102": "Flower"},
    "table5": {"aircraft": "Aircraft", "cub200": "CUB"},
    "table6": {"cub200": "Full model"},
    "table7": {"aircraft": "Aircraft", "cub200": "CUB"},
    "table9": {"flower102": "Accuracy (%)"},
    "ske_table1": _SMALL,
    "fig2": {"cub200": ""},
    "fig3": {"cub200": ""},
    "fig4": {"cub200": ""},
    "fig5": {"cifar10": "mCA"},
    "fig6": {"cifar10": ""},
    "fig7": {"cifar10-imbalanced": ""},
    "table8": {"papila": "", "papila-binary": ""},
}
"""By exhibit, the paper's datasets and their printed columns (empty where none is printed, or they
are of something else than datasets)."""

ANALOGUE = {
    "fig5": "digits-colour",
    "normalisation": "digits-colour",
    "fig6": "digits-colour",
    "fig7": "digits-imbalanced",
    "table8": "digits-binary",
}
"""The bundled dataset of each exhibit that needs one of its own."""


PHOTOGRAPHED = {
    "table2": ("cifar10-few",),
    "fig5": ("cifar10-few",),
    "fig6": ("cifar10-few",),
    "fig7": ("cifar10-few-imbalanced",),
    "table8": (),
    "normalisation": (),
}
"""The photographs of each exhibit that is not run on both sets."""


def photographs(exhibit: str) -> tuple[str, ...]:
    """The photographs that an exhibit is run on."""
    return PHOTOGRAPHED.get(exhibit, PHOTOGRAPHS[:2])


_MAIN = ("plain", "long", "tune", "llf", "ke", "ke-wels", "dnr")
_ABLATIONS = (
    *("dnr+criterion=random", "dnr+criterion=fisher", "dnr+criterion=magnitude", "dnr-matched"),
    *("dnr-highest", "dnr+keep=0.95", "dnr+keep=0.9", "dnr+keep=0.7", "dnr+keep=0.6"),
    *("dnr+probe=128", "long+generations=3"),
)
_SWEPT = {10: 6, 100: 6, 400: 3}
_PLANNED = dict.fromkeys(
    (*_MAIN, *(f"{arm}+generations=3" for arm in ("tune", "ke", "dnr"))), 12
) | dict.fromkeys(_ABLATIONS, 6)
PLANNED: dict[str, dict[str, int]] = {
    "flower102-64": _PLANNED,
    "cifar10-few": _PLANNED
    | {f"plain+per_class={size}": seeds for size, seeds in _SWEPT.items()}
    | {
        f"{arm}+generations=3+per_class={size}": seeds
        for arm in ("long", "tune", "dnr")
        for size, seeds in _SWEPT.items()
    },
    "cifar10-few-imbalanced": dict.fromkeys(("plain", "long", "tune", "ke", "dnr"), 6),
}
"""On photographs, how many seeds of each arm (`recipes.arm_of`) are published in the end, from 0;
fixed before any of them was looked at, in the order in which they are trained."""


def made_for(dataset: str) -> list[str]:
    """The exhibits that are run on a dataset in particular: the paper's on its datasets, those that
    have a bundled one of their own on that, and those that are run on photographs."""
    if scope(dataset) == "photographs":
        return [name for name in ROWS if dataset in photographs(name) and arms(name, dataset)]
    return [name for name in ROWS if dataset in (ANALOGUE.get(name), *COLUMNS.get(name, ()))]


EXHIBITS = {
    **{name: name for name in ("table1", "table2", "table3", "table4", "table5", "table6")},
    **{name: name for name in ("table7", "table8", "table9", "table10")},
    **{"fig5": "corruptions", "fig6": "attacks", "fig7": "imbalance"},
    "fig2": "overlap",
    "fig3": "convergence",
    "fig4": "overlap",
}
"""The notebook of each exhibit of the DNR paper that the book has."""

ALL_EXHIBITS = [*(f"table{n}" for n in range(1, 11)), *(f"fig{n}" for n in range(2, 8))]
"""The exhibits of the DNR paper that show results or data."""


def arms(exhibit: str, dataset: str) -> list[str]:
    """The arms of an exhibit on a dataset, in order.

    On other images than the paper's, Table 2, whose question is what happens when data is not
    small, becomes a sweep over images per class, with three generations; and on digits the 128
    probe images of Table 7, 2 % of CUB, become two of a hundred. On photographs those arms are left
    out that are not `PLANNED`. Raises `UserError` for an unknown exhibit.
    """
    if exhibit not in ROWS:
        raise UserError(f"exhibit={exhibit!r} is unknown; choose one of: {', '.join(ROWS)}")
    said_of, listed = scope(dataset), list(ROWS[exhibit])
    if exhibit == "table2" and said_of in _SIZES:
        swept = [m if m == "plain" else f"{m}+generations=3" for m in listed]
        own = str(configure(dataset).per_class)
        sizes = ["", *(f"+per_class={size}" for size in _SIZES[said_of] if size != own)]
        listed = [arm + size for size, arm in itertools.product(sizes, swept)]
    left_out = "dnr+probe=128" if said_of == "embedded" else "dnr+probe=2"
    listed = [arm for arm in listed if arm != left_out]
    return [arm for arm in listed if said_of != "photographs" or arm in PLANNED[dataset]]


def sweep_pairs(dataset: str) -> list[tuple[str, str]]:
    """DNR and each method of equal budget, for every number of images per class of Table 2."""
    others = [method for method in ROWS["table2"] if method not in ("plain", "dnr")]
    ours = [arm for arm in arms("table2", dataset) if arm.startswith("dnr")]
    return [(dnr, dnr.replace("dnr", other)) for dnr in ours for other in others]


@functools.cache
def discrepancies() -> pd.DataFrame:
    """Where paper, README and code disagree, one row per D-number: severity, where, what,
    consequence, ours (what is done here), setting (what changes that), confirmed (how)."""
    return pd.read_csv(PAPER / "discrepancies.csv", keep_default_na=False, index_col="id")


@functools.cache
def readme_commands() -> pd.DataFrame:
    """The five documented commands of the DNR README and what the released code runs for each:
    name, documented, flags, runs, arm (the same here), because (D-numbers)."""
    return pd.read_csv(PAPER / "readme_commands.csv", keep_default_na=False)


@functools.cache
def numbers(source: str, exhibit: str) -> pd.DataFrame:
    """The printed numbers of an exhibit, one per line: row, column, value, std (as printed after
    ±, NaN where nothing is), unit. `source` is `dnr`, `ske` or `ke`; `exhibit` e.g. `table1`."""
    path = PAPER / f"{source}_{exhibit}.csv"
    if not path.exists():
        known = ", ".join(file.stem for file in printed_files())
        raise UserError(f"there is no exhibit {source}_{exhibit}; there are: {known}")
    return pd.read_csv(path, dtype={"row": str, "column": str, "unit": str})


def wide(source: str, exhibit: str) -> pd.DataFrame:
    """The values of `numbers` as they are printed: a line per row, a column per column."""
    return numbers(source, exhibit).pivot(index="row", columns="column", values="value")


def printed_files() -> list:
    """The files of printed numbers, one per exhibit."""
    return sorted(path for source in ("dnr", "ske", "ke") for path in PAPER.glob(f"{source}_*.csv"))


def beside_paper(table: pd.DataFrame, exhibit: str, dataset: str) -> pd.DataFrame:
    """`table` (indexed by arm) with the printed numbers of an exhibit in the columns `paper` and
    `paper_std`, NaN where nothing is printed.

    For a dataset that the exhibit does not have these are the means over its datasets: numbers from
    another setting, to be read for their order, never as a target.
    """
    columns = COLUMNS[exhibit]
    source = exhibit if "_" in exhibit else f"dnr_{exhibit}"
    printed = numbers(*source.split("_"))
    printed = printed[
        printed["column"].isin([columns[dataset]] if dataset in columns else columns.values())
    ]
    by_row = printed.groupby("row").agg(
        value=("value", "mean"), std=("std", "first"), n=("value", "size")
    )
    by_row.loc[by_row["n"] > 1, "std"] = float("nan")
    found = by_row.reindex([ROWS[exhibit].get(arm) for arm in table.index])
    return table.assign(paper=found["value"].to_numpy(), paper_std=found["std"].to_numpy())


def resnet18() -> nn.Module:
    """The network of the printed overlap maps: ResNet18 with the classes of CUB, without values."""
    classes = int(wide("dnr", "table10").at["CUB-200", "Classes"])
    with torch.device("meta"):
        return network("resnet18", classes, channels=3, width=64, stem="7x7")


def overlap_printed(exhibit: str) -> pd.DataFrame:
    """The overlap map of DNR `fig2` or `fig4` in %, rows pairs of generations, columns layers.

    The column `all` is the mean over layers weighted by their size in the paper's ResNet18.
    """
    frame = wide("dnr", exhibit)[[str(number) for number in range(1, 19)]].set_axis(LAYERS, axis=1)
    order = sorted(frame.index, key=lambda pair: [int(number) for number in pair.split("-")])
    network = resnet18()
    sizes = [network.get_submodule(layer).weight.numel() for layer in LAYERS]
    frame["all"] = (frame * sizes).sum(axis=1) / sum(sizes)
    frame = frame.loc[order].rename(index=lambda pair: pair.replace("-", "–"))
    frame.index.name = "generations"
    return frame


def evaluations_of(exhibit: str, dataset: str) -> tuple[Evaluation, ...]:
    """What an exhibit measures of its networks beyond their test accuracy; nothing for most."""
    said_of = scope(dataset)
    if exhibit in ("fig5", "normalisation"):
        # The question does not depend on the disk: records are found by it.
        official = VIEWS.get(dataset, (dataset,))[0] == "cifar10"
        each = {"embedded": 20, "photographs": 50, "full": 0}[said_of]
        of = Corruptions(per_class=each, official=official)
        bare = dataclasses.replace(of, normalised=False)
        return (of,) if exhibit == "fig5" else (of, bare)
    if exhibit == "fig6":
        each = {"embedded": 10, "photographs": 20, "full": 0}[said_of]
        steps = Attack((HARDER,), steps=40, per_class=each)
        restarts = Attack((HARDER,), restarts=4, per_class=each)
        return Attack(FIGURE + BEYOND, per_class=each), steps, restarts
    return (Predictions(),) if exhibit in ("fig7", "table8") else ()
