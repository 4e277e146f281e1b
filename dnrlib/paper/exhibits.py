"""The papers' numbers, from `data/paper/*.csv`, and the runs that stand beside them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pandas as pd
import torch
from torch import nn

from .. import UserError
from ..config import Config, not_one_of
from ..datasets.catalogue import VIEWS
from ..evaluate.evaluations import (
    BEYOND,
    FIGURE,
    HARDER,
    Attack,
    AveragedAccuracy,
    Corruptions,
    Evaluation,
    Predictions,
    Retrieval,
    WeightSizes,
)
from ..models import LAYERS, network
from ..recipes import PHOTOGRAPHS, TUNED, configure, recipe, scope
from ..records import ROOT

PAPER = ROOT / "data" / "paper"


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """An exhibit of a paper, or a question of our own: what it compares, where and how."""

    notebook: str = ""
    """Its notebook, where that has another name."""
    arms: str = ""
    """The arms that it compares, in order; see also `arms`."""
    rows: dict[str, str] = field(default_factory=dict)
    """The printed row of an arm, where there is one."""
    columns: dict[str, str] = field(default_factory=dict)
    """The paper's datasets and their printed columns (empty where none is printed, or they are of
    something else than datasets)."""
    bundled: str | None = None
    """The bundled dataset, where it is run on one of them only."""
    photographs: tuple[str, ...] = PHOTOGRAPHS[:2]
    """The photographs that it is run on."""
    missing: bool = False
    """Whether it has a place on its page only: it was not run, and not on a bundled dataset."""
    evaluations: Callable[[str], tuple[Evaluation, ...]] = lambda dataset: ()
    """What it measures on a dataset beyond test accuracy."""


def _corruptions(dataset: str, normalised: bool = True) -> Corruptions:
    each = {"embedded": 20, "photographs": 50, "full": 0}[scope(dataset)]
    # The question does not depend on the disk: records are found by it.
    official = VIEWS.get(dataset, (dataset,))[0] == "cifar10"
    return Corruptions(each, normalised, official)


def _attacks(dataset: str) -> tuple[Evaluation, ...]:
    each = {"embedded": 10, "photographs": 20, "full": 0}[scope(dataset)]
    steps = Attack((HARDER,), steps=40, per_class=each)
    restarts = Attack((HARDER,), restarts=4, per_class=each)
    return Attack(FIGURE + BEYOND, per_class=each), steps, restarts


_TWO = {"cub200": "CUB", "aircraft": "Aircraft"}
_FIVE = _TWO | {"dogs": "Dog", "flower102": "Flower", "mit67": "MIT"}
_SMOOTH = {
    "plain": "Smth (f1)",
    "long": "Smth + LB (f10)",
    "ke": "Smth + KE (f10)",
    "dnr": "Smth + DNR (f10)",
}
_SHARES = "tune dnr+keep=0.95 dnr+keep=0.9 dnr dnr+keep=0.7 dnr+keep=0.6"
_FIVE_ARMS = "plain long tune ke dnr"
_TUNED = "plain+tuned long+tuned tune+tuned ke+tuned llf+tuned dnr+tuned"
_ALTERNATIVES = (
    "long+average=0.999 long+mix=cutmix long+loss=cosine long+augment=trivial "
    "long+augment=trivial-shift long+tuned+mix=cutmix long+tuned+augment=trivial "
    "long+tuned+augment=trivial-shift"
)
_LOSSES = ("+smoothing=0", "", "+loss=cs-kd")
_KE_ROWS = {
    f"{method}{loss}": f"{words} {row}"
    for loss, words in zip(_LOSSES, ("CE", "Smth", "CS-KD"), strict=True)
    for method, row in (("plain", "(N1)"), ("ke+generations=3", "+ KE-N3"), ("ke", "+ KE-N10"))
} | {
    "plain+loss=adacos": "CE + AdaCos",
    "repr+smoothing=0": "CE + RePr",
    "dsd+smoothing=0": "CE + DSD",
    "ban-lineage+smoothing=0": "CE + BANs-N10",
}
_PRETRAINED = {
    f"{arm}{model}": f"{words} | {row}"
    for model, words in (("", "ResNet18"), ("+model=densenet169", "DenseNet169"))
    for arm, row in (
        ("plain+smoothing=0+start=imagenet1k_v1", "CE + ImageNet"),
        ("ke+loss=cs-kd", "CS-KD + KE-N10"),
    )
}
_HUNDRED = "ke+generations=100 tune+generations=100 dnr+generations=100"
_RATES = ("0.2", "0.3", "0.5")
_AVERAGED = "ensemble ensemble+members=10 ensemble+tuned tune+tuned dnr+tuned"
_NOISE = " ".join(
    f"{arm}+noise={share}"
    for share in ("0.2", "0.4")
    for arm in ("long", "tune", "llf", "dnr", "long+tuned", "dnr+tuned")
)
_PARTS = "long long+generations=5 tune+parts=2 shrink-perturb+parts=2 llf+parts=2 dnr+parts=2"

_on_digits = partial(Exhibit, bundled="digits", photographs=())


def _named(arm: str) -> str:
    """An arm with its settings in the order of `recipes.arm_of`."""
    method, *settings = arm.split("+")
    return "+".join([method, *sorted(settings)])


def _densenet(ke: str, rows: tuple[str, ...]) -> Exhibit:
    """KE Tables 3, 7 and 8: those rows of Table 2 on a DenseNet169, with the split `ke`."""
    arms = {
        _named(f"{ke}{arm.removeprefix('ke')}" if arm.startswith("ke") else arm): row
        for arm, row in ((f"{arm}+model=densenet169", _KE_ROWS[arm]) for arm in rows)
    }
    return _on_digits(notebook="ke_table2", arms=" ".join(arms), rows=arms, columns=_FIVE)


_METRIC = Exhibit(
    notebook="ke_metric",
    arms="plain ke+generations=3 ke long tune dnr",
    columns={"cub200-metric": "", "cars196-metric": ""},
    bundled="digits-metric",
    photographs=("flower102-64-metric",),
    evaluations=lambda dataset: (Retrieval(),),
)
_SLIM = Exhibit(
    notebook="ke_slim",
    arms="ke ke+split_rate=0.5 ke+model=googlenet ke+model=googlenet+split_rate=0.5",
    bundled="digits",
)
_WEIGHTS = _on_digits(
    notebook="ke_slim",
    arms="ke+split_rate=0.5",
    evaluations=lambda dataset: (WeightSizes(),),
)

EXHIBITS = {
    "table1": Exhibit(
        arms="plain+smoothing=0 dsd+smoothing=0 ban+smoothing=0 ban-lineage+smoothing=0 "
        "ke+smoothing=0 dnr+smoothing=0 plain lw lw-released llf+generations=8 dnr+generations=8 "
        "long tune llf llf-layer3 ke ke-wels ke-wels-rand shrink-perturb dnr",
        rows=_SMOOTH
        | {
            "plain+smoothing=0": "CE (f1)",
            "dsd+smoothing=0": "DSD",
            "ban-lineage+smoothing=0": "BAN (f10)",
            "ke+smoothing=0": "KE (f10)",
            "dnr+smoothing=0": "DNR (f10)",
            "lw": "Smth + LW (f8)",
            "llf+generations=8": "Smth + LLF (f8)",
            "dnr+generations=8": "Smth + DNR (f8)",
        },
        columns=_FIVE,
    ),
    "table2": Exhibit(
        arms=_FIVE_ARMS,
        rows=_SMOOTH,
        columns={"cifar10": "CIFAR10", "cifar100": "CIFAR100", "tinyimagenet": "TinyImageNet"},
        photographs=("cifar10-few",),
    ),
    "table3": Exhibit(
        arms="plain long+generations=3 tune+generations=3 ke+generations=3 dnr+generations=3 "
        "long tune ke dnr",
        rows={
            "tune+generations=3": "Smth + transfer learning (f3)",
            "dnr+generations=3": "Smth + DNR (f3)",
        },
        columns=_FIVE,
    ),
    "table4": Exhibit(
        arms="long tune ke dnr+criterion=random dnr+criterion=fisher dnr+criterion=magnitude "
        "dnr-released-magnitude dnr dnr+scope=layer",
        rows={
            "long": "LB",
            "ke": "Random (KE)",
            "dnr+criterion=fisher": "FIM",
            "dnr+criterion=magnitude": "Weight Magnitude",
            "dnr": "SNIP",
        },
        columns={"cub200": "CUB200", "flower102": "Flower"},
    ),
    "table5": Exhibit(
        arms=_SHARES,
        rows={"dnr+keep=0.95": "5", "dnr+keep=0.9": "10", "dnr": "20"}
        | {"dnr+keep=0.7": "30", "dnr+keep=0.6": "40"},
        columns={"aircraft": "Aircraft", "cub200": "CUB"},
    ),
    "table6": Exhibit(
        arms="ke dnr",
        rows={"ke": "KE (f10)", "dnr": "DNR (f10)"},
        columns={"cub200": "Full model"},
    ),
    "table7": Exhibit(
        arms="dnr+probe=2 dnr+probe=128 dnr dnr+probe=1",
        rows={"dnr+probe=2": "128", "dnr+probe=128": "128", "dnr": "0.2|D|"},
        columns={"aircraft": "Aircraft", "cub200": "CUB"},
    ),
    "table8": Exhibit(
        arms=_FIVE_ARMS,
        rows={"tune": "Baseline (f3)", "dnr": "DNR (f3)"},
        columns={"papila": "", "papila-binary": ""},
        bundled="digits-binary",
        photographs=(),
        evaluations=lambda dataset: (Predictions(),),
    ),
    "table9": Exhibit(
        arms="dnr dnr+generations=20 dnr+generations=30 "
        "long long+generations=20 long+generations=30",
        rows={"dnr": "10", "dnr+generations=20": "20", "dnr+generations=30": "30"},
        columns={"flower102": "Accuracy (%)"},
    ),
    "table10": Exhibit(),
    "ske_table1": Exhibit(
        notebook="table3",
        arms="plain long+generations=3 ke+generations=3 dnr+generations=3 long ke dnr",
        rows=_SMOOTH
        | {
            "long+generations=3": "Smth + LB (f3)",
            "ke+generations=3": "Smth + KE (f3)",
            "dnr+generations=3": "Smth + SKE (f3)",
            "dnr": "Smth + SKE (f10)",
        },
        columns=_FIVE,
    ),
    "fig2": Exhibit(notebook="overlap", arms="dnr", columns={"cub200": ""}),
    "fig3": Exhibit(notebook="convergence", arms="tune dnr", columns={"cub200": ""}),
    "fig4": Exhibit(notebook="overlap", arms="dnr", columns={"cub200": ""}),
    "fig5": Exhibit(
        notebook="corruptions",
        arms="long tune ke llf dnr dnr+criterion=random",
        rows={"long": "LB", "ke": "KE", "dnr": "DNR"},
        columns={"cifar10": "mCA"},
        bundled="digits-colour",
        photographs=("cifar10-few",),
        evaluations=lambda dataset: (_corruptions(dataset),),
    ),
    "fig6": Exhibit(
        notebook="attacks",
        arms="long tune ke dnr",
        columns={"cifar10": ""},
        bundled="digits-colour",
        photographs=("cifar10-few",),
        evaluations=_attacks,
    ),
    "fig7": Exhibit(
        notebook="imbalance",
        arms=_FIVE_ARMS,
        columns={"cifar10-imbalanced": ""},
        bundled="digits-imbalanced",
        photographs=("cifar10-few-imbalanced",),
        evaluations=lambda dataset: (Predictions(),),
    ),
    "normalisation": Exhibit(
        arms="long ke dnr",
        rows={"long": "LB", "ke": "KE", "dnr": "DNR"},
        bundled="digits-colour",
        photographs=(),
        evaluations=lambda dataset: (_corruptions(dataset), _corruptions(dataset, False)),
    ),
    "released": Exhibit(arms="tune lw-released dnr-released dnr-released-magnitude dnr"),
    "shock": Exhibit(
        notebook="why",
        arms=f"{_SHARES} dnr+scope=layer dnr+criterion=fisher dnr+criterion=magnitude "
        "dnr-released dnr-released-magnitude ke ke-wels llf lw",
    ),
    "precision": Exhibit(
        notebook="speed", arms="plain plain+precision=bf16 dnr dnr+precision=bf16"
    ),
    "why": Exhibit(arms="tune dnr dnr-matched dnr+criterion=random dnr-highest"),
    "budget": Exhibit(arms=f"{_FIVE_ARMS} llf {_TUNED} {_ALTERNATIVES}", bundled="digits"),
    "averaged": Exhibit(
        notebook="budget",
        arms=_AVERAGED,
        bundled="digits",
        evaluations=lambda dataset: (AveragedAccuracy(),),
    ),
    "yardstick": Exhibit(arms="plain long long+tuned long+tuned+width=64"),
    "steps": _on_digits(
        notebook="ke_to_dnr",
        arms="ke ke-wels+split_rate=0.64 ke-wels ke-wels-rand dnr+criterion=random dnr",
    ),
    "ke_table2": Exhibit(
        arms=" ".join([*_KE_ROWS, "long", "long+loss=cs-kd"]),
        bundled="digits",
        rows=_KE_ROWS,
        columns=_FIVE,
    ),
    "ke_table3": _densenet("ke-wels+split_rate=0.7", tuple(_KE_ROWS)),
    "ke_table4": _METRIC,
    "ke_fig13": replace(_METRIC, columns={}),
    "ke_fig14": replace(_METRIC, columns={}),
    "ke_table5": _SLIM,
    "ke_table6": Exhibit(notebook="ke_costs", photographs=()),
    "ke_table7": _densenet("ke", tuple(_KE_ROWS)[:9]),
    "ke_table8": _densenet("ke-wels", tuple(_KE_ROWS)[:9]),
    "ke_table9": _on_digits(
        notebook="ke_table2",
        arms=" ".join(map(_named, _PRETRAINED)),
        rows={_named(arm): row for arm, row in _PRETRAINED.items()},
        columns=_FIVE,
    ),
    "ke_table10": replace(_METRIC, arms="plain ke", columns={}),
    "ke_table11": Exhibit(notebook="ke_correlation", photographs=()),
    "ke_table12": Exhibit(notebook="ke_correlation", photographs=()),
    "ke_table13": Exhibit(notebook="ke_slim", photographs=(), missing=True),
    "ke_fig7": _WEIGHTS,
    "ke_fig9": _SLIM,
    "ke_fig15": _WEIGHTS,
    "ke_fig17": Exhibit(notebook="ke_correlation", photographs=()),
    "ke_fig18": Exhibit(notebook="ke_correlation", photographs=()),
    "ke_fig19": Exhibit(notebook="ke_slim", photographs=(), missing=True),
    "ke_fig1": _on_digits(
        notebook="ke_generations",
        arms=f"plain {_HUNDRED}",
        photographs=("flower102-64",),
    ),
    "ke_fig8": _on_digits(
        notebook="ke_masks",
        arms="ke ke+split_rate=0.5 ke-wels ke-wels+split_rate=0.5",
    ),
    "ke_fig12": _on_digits(notebook="ke_masks", arms="ke ke-dsd"),
    "ke_fig16": _on_digits(
        notebook="ke_masks",
        arms=" ".join(
            f"{method}+split_rate={rate}" if rate else method
            for method in ("ke-wels", "ke-wels-rand")
            for rate in ("", *_RATES)
        ),
    ),
    "when": Exhibit(arms=f"{_PARTS} {_NOISE}", bundled="digits", photographs=("cifar10-few",)),
}
"""By name. Exhibits are of the DNR paper unless named `ske_` (its preprint) or `ke_` (Knowledge
Evolution), or not named after a table or a figure: these are our own."""

ANALOGUE = {n: each.bundled for n, each in EXHIBITS.items() if each.bundled not in (None, "digits")}
"""The bundled dataset of each exhibit that needs another one than digits."""
EVALUATING = [name for name, each in EXHIBITS.items() if each.evaluations("digits")]
"""The exhibits that measure more than test accuracy."""

_MAIN = "plain long tune llf ke ke-wels dnr tune+generations=3 ke+generations=3 dnr+generations=3"
_ABLATIONS = (
    "dnr+criterion=random dnr+criterion=fisher dnr+criterion=magnitude dnr-matched dnr-highest "
    "dnr+keep=0.95 dnr+keep=0.9 dnr+keep=0.7 dnr+keep=0.6 dnr+probe=128 long+generations=3"
)
_SWEPT = ("plain", "long+generations=3", "tune+generations=3", "dnr+generations=3")
_SIZES = {10: 6, 100: 6, 400: 3}
_EMBEDDED_ONLY = ("dnr+probe=2", "long+augment=trivial-shift", "long+tuned+augment=trivial-shift")
_NOT_EMBEDDED = (
    "dnr+probe=128",
    "long+augment=trivial",
    "long+tuned+augment=trivial",
    "long+tuned+width=64",
)


def _can_be_run(arm: str, dataset: str) -> bool:
    """Whether an arm of ours makes sense on a dataset: it has tuned settings where it needs them,
    the augmentation and the probe are those for the size of its images and classes, and pretrained
    weights, which are of the whole network, are for the paper's datasets."""
    method, *settings = arm.split("+")
    tuned = "tuned" not in settings or method in TUNED.get(dataset, {})
    other = _NOT_EMBEDDED if scope(dataset) == "embedded" else _EMBEDDED_ONLY
    fits = not any(name.startswith("start=") for name in settings) or scope(dataset) == "full"
    return tuned and fits and arm not in other


def _planned(dataset: str, **more: int) -> dict[str, int]:
    seeds: dict[str, int] = {}
    for arms, number in [
        (f"{_MAIN} long+tuned tune+tuned ke+tuned dnr+tuned", 12),
        (f"{_TUNED} {_AVERAGED} {_ALTERNATIVES}", 8),
        (_ABLATIONS, 6),
    ]:
        for arm in arms.split():
            if _can_be_run(arm, dataset):
                seeds.setdefault(arm, number)
    return seeds | {arm: n for arm, n in more.items() if _can_be_run(arm, dataset)}


PLANNED: dict[str, dict[str, int]] = {
    "flower102-64": _planned("flower102-64", **dict.fromkeys(_HUNDRED.split(), 1)),
    "cifar10-few": _planned(
        "cifar10-few",
        **{f"{arm}+per_class={n}": seeds for arm in _SWEPT for n, seeds in _SIZES.items()},
        **{arm: 6 for arm in _PARTS.split() if "parts" in arm},
        **{arm: 6 for arm in _NOISE.split() if "0.4" in arm},
        **{"long+tuned+width=64": 1},
    ),
    "cifar10-few-imbalanced": dict.fromkeys(_FIVE_ARMS.split(), 6),
    "flower102-64-metric": dict.fromkeys(_METRIC.arms.split(), 3),
    "digits-metric": dict.fromkeys(_METRIC.arms.split(), 8),
}
"""Where seeds were planned before the training, how many of each arm (`recipes.arm_of`) are
published (`seeds_of`); fixed before any of them was looked at, in the order of training."""
_OF_A_GPU = range(3, 7)


def seeds_of(dataset: str, arm: str, number: int) -> list[int]:
    """The first `number` seeds of an arm that are published: from 0; ablations of DNR on
    photographs pass over those of which a GPU trained the first generation, which they share."""
    shared = scope(dataset) == "photographs" and arm.startswith("dnr") and arm in _ABLATIONS.split()
    possible = (seed for seed in itertools.count() if not (shared and seed in _OF_A_GPU))
    return list(itertools.islice(possible, number))


def made_for(dataset: str) -> list[str]:
    """The exhibits that are run on a dataset in particular: the paper's on its datasets, those that
    are run on one bundled dataset only on that, and those that are run on photographs."""
    if scope(dataset) == "photographs":
        return [
            n for n, each in EXHIBITS.items() if dataset in each.photographs and arms(n, dataset)
        ]
    return [n for n, each in EXHIBITS.items() if dataset in (each.bundled, *each.columns)]


def run_on(dataset: str) -> list[str]:
    """The exhibits that are run on a dataset: those made for it (`made_for`), and on digits and
    folders without an exhibit of their own all that are bound to no dataset."""
    here, free = made_for(dataset), scope(dataset) == "embedded"
    free &= dataset not in ANALOGUE.values()
    return [n for n, of in EXHIBITS.items() if n in here or (free and of.bundled is None)]


def arms(exhibit: str, dataset: str) -> list[str]:
    """The arms of an exhibit on a dataset, in order.

    On other images than the paper's, Table 2, whose question is what happens when data is not
    small, becomes a sweep over images per class, with three generations; and on digits the 128
    probe images of Table 7, 2 % of CUB, become two of a hundred. Tuned arms are left out where no
    settings were chosen, and on photographs all that are not `PLANNED`. Raises `UserError` for an
    unknown exhibit.
    """
    if exhibit not in EXHIBITS:
        raise UserError(not_one_of("exhibit", exhibit, EXHIBITS))
    said_of, listed = scope(dataset), EXHIBITS[exhibit].arms.split()
    if exhibit == "table2" and said_of != "full":
        swept = [arm if arm == "plain" else f"{arm}+generations=3" for arm in listed]
        sizes = {"embedded": (5, 20, 0), "photographs": (10, 100, 400)}[said_of]
        own = configure(dataset).per_class
        listed = swept + [f"{arm}+per_class={n}" for n in sizes if n != own for arm in swept]
    if exhibit == "when":
        # What is left of the budget when all images have arrived.
        generations = recipe(dataset).get("generations", Config.generations)
        rest = f"long+generations={generations - generations // 2}"
        listed = [arm.replace("long+generations=5", rest) for arm in listed]
    planned = PLANNED[dataset] if said_of == "photographs" else listed
    return [arm for arm in listed if _can_be_run(arm, dataset) and arm in planned]


def sweep_pairs(dataset: str) -> list[tuple[str, str]]:
    """DNR and each method of equal budget, for every number of images per class of Table 2."""
    ours = [arm for arm in arms("table2", dataset) if arm.startswith("dnr")]
    return [(dnr, dnr.replace("dnr", other)) for dnr in ours for other in ("long", "tune", "ke")]


def discrepancies() -> pd.DataFrame:
    """Where paper, README and code disagree, one row per D-number: severity, where, what,
    consequence, ours (what is done here), setting (what changes that), confirmed (how)."""
    return pd.read_csv(PAPER / "discrepancies.csv", keep_default_na=False, index_col="id")


def readme_commands() -> pd.DataFrame:
    """The five documented commands of the DNR README and what the released code runs for each:
    name, documented, flags, runs, arm (the same here), because (D-numbers)."""
    return pd.read_csv(PAPER / "readme_commands.csv", keep_default_na=False)


def numbers(source: str, exhibit: str) -> pd.DataFrame:
    """The printed numbers of an exhibit, one per line: row, column, value, std (as printed after
    ±, or NaN), unit. `source` is `dnr`, `ske`, `ke` or `gem`, `exhibit` for instance `table1`.
    """
    path = PAPER / f"{source}_{exhibit}.csv"
    return pd.read_csv(path, dtype={"row": str, "column": str, "unit": str})


def wide(source: str, exhibit: str) -> pd.DataFrame:
    """The values of `numbers` as they are printed: a line per row, a column per column."""
    return numbers(source, exhibit).pivot(index="row", columns="column", values="value")


def printed_columns(exhibit: str, dataset: str) -> list[str]:
    """The columns of an exhibit beside which a dataset is read: its own, that of the dataset whose
    photographs it has with fewer pixels or images, or else, of digits and folders, all."""
    of = {name: column for name, column in EXHIBITS[exhibit].columns.items() if column}
    own = [of[name] for name in (dataset, dataset.partition("-")[0]) if name in of]
    return own[:1] or ([*of.values()] if scope(dataset) == "embedded" else [])


def beside_paper(table: pd.DataFrame, exhibit: str, dataset: str) -> pd.DataFrame:
    """`table` (indexed by arm) with the printed numbers of an exhibit in the columns `paper` and
    `paper_std`, NaN where nothing is printed.

    They are of `printed_columns`, the mean where these are several: numbers from another setting,
    to be read for their order, never as a target.
    """
    of = EXHIBITS[exhibit]
    source = exhibit if "_" in exhibit else f"dnr_{exhibit}"
    printed = numbers(*source.split("_"))
    by_row = printed[printed["column"].isin(printed_columns(exhibit, dataset))].groupby("row")
    found = by_row.agg(value=("value", "mean"), std=("std", "first"), n=("value", "size"))
    found.loc[found["n"] > 1, "std"] = float("nan")
    found = found.reindex([of.rows.get(arm) for arm in table.index])
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
    rows = numbers("dnr", exhibit)["row"].unique()
    frame = wide("dnr", exhibit).loc[rows, [str(number) for number in range(1, 19)]]
    frame = frame.set_axis(LAYERS, axis=1)
    network = resnet18()
    sizes = [network.get_submodule(layer).weight.numel() for layer in LAYERS]
    frame["all"] = (frame * sizes).sum(axis=1) / sum(sizes)
    return frame.rename(index=lambda pair: pair.replace("-", "–")).rename_axis("generations")


def evaluations_of(exhibit: str, dataset: str) -> tuple[Evaluation, ...]:
    """What an exhibit measures of its networks beyond their test accuracy; nothing for most."""
    return EXHIBITS[exhibit].evaluations(dataset)
