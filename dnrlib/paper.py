"""The papers' numbers, from `data/paper/*.csv`, and our tables beside them."""

import functools

import pandas as pd
import torch

from . import UserError
from .models import LAYERS, MODELS, ResNet
from .records import ROOT

PAPER = ROOT / "data" / "paper"

ROWS = {
    "plain": "Smth (f1)",
    "long": "Smth + LB (f10)",
    "ke": "Smth + KE (f10)",
    "dnr": "Smth + DNR (f10)",
}
"""Rows of DNR Table 1 by method. Fine-tuning stands in Table 3 only, for three generations; KE with
WELS in neither."""

COLUMNS = {
    "cub200": "CUB",
    "aircraft": "Aircraft",
    "dogs": "Dog",
    "flower102": "Flower",
    "mit67": "MIT",
}
"""Columns of DNR Table 1 by dataset."""


@functools.cache
def numbers(source: str, exhibit: str) -> pd.DataFrame:
    """The printed numbers of an exhibit, one per line: row, column, value, std (as printed after
    ±, NaN where nothing is), unit. `source` is `dnr`, `ske` or `ke`; `exhibit` e.g. `table1`."""
    path = PAPER / f"{source}_{exhibit}.csv"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in PAPER.glob("*.csv")))
        raise UserError(f"there is no exhibit {source}_{exhibit}; there are: {known}")
    return pd.read_csv(path, dtype={"row": str, "column": str, "unit": str})


def beside_paper(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """`table` (indexed by method) with the numbers of DNR Table 1 in the columns `paper` and
    `paper_std`.

    For a dataset that the paper does not have these are the means over its five small datasets:
    numbers from another setting, to be read for their order, never as a target.
    """
    printed = numbers("dnr", "table1")
    printed = printed[printed["column"] == COLUMNS.get(dataset, "Mean")].set_index("row")
    rows = [ROWS.get(method) for method in table.index]
    found = printed.reindex(rows)
    return table.assign(
        paper=found["value"].to_numpy(),
        paper_std=found["std"].to_numpy(),
    )


def overlap_printed(exhibit: str) -> pd.DataFrame:
    """The overlap map of DNR `fig2` or `fig4` in %, rows pairs of generations, columns layers.

    The column `all` is the mean over layers weighted by their size in the paper's ResNet18.
    """
    printed = numbers("dnr", exhibit).pivot(index="row", columns="column", values="value")
    frame = printed[[str(number) for number in range(1, 19)]].set_axis(LAYERS, axis=1)
    order = sorted(frame.index, key=lambda pair: [int(number) for number in pair.split("-")])
    with torch.device("meta"):
        network = ResNet(*MODELS["resnet18"], classes=200, channels=3, width=64, stem="7x7")
    sizes = [network.get_submodule(layer).weight.numel() for layer in LAYERS]
    frame["all"] = (frame * sizes).sum(axis=1) / sum(sizes)
    frame = frame.loc[order].rename(index=lambda pair: pair.replace("-", "–"))
    frame.index.name = "generations"
    return frame
