"""What can be checked in the DNR paper without training: its numbers against one another."""

import re

import numpy as np
import pandas as pd

from ..config import Config
from ..masks import prunable
from ..models import LAYERS
from ..recipes import RECIPES
from .exhibits import PAPER, numbers, overlap_printed, resnet18, wide

KEEP, PROBE, EPOCHS = Config.keep, Config.probe, RECIPES["cub200"]["epochs"]
"""The paper's settings: share of weights kept, share of images scored, epochs per generation."""

# Healthy eyes and all images of PAPILA as its publication counts them; not verified by us.
HEALTHY, IMAGES = 333, 488

FROM_KE = {
    "CE (f1)": "CE (N1)",
    "DSD": "CE + DSD",
    "BAN (f10)": "CE + BANs-N10",
    "KE (f10)": "CE + KE-N10",
    "Smth (f1)": "Smth (N1)",
    "Smth + KE (f3)": "Smth + KE-N3",
    "Smth + KE (f10)": "Smth + KE-N10",
}
"""Rows of DNR Table 1, and of the preprint's (f3), that KE Table 2 has too; their names there."""

# What rows and columns of other tables are in Table 1.
_DNR, _DNR8, _KE = "Smth + DNR (f10)", "Smth + DNR (f8)", "Smth + KE (f10)"
_LB, _LLF, _LW = "Smth + LB (f10)", "Smth + LLF (f8)", "Smth + LW (f8)"
_CRITERIA = {"LB": _LB, "Random (KE)": _KE, "SNIP": _DNR}
_SPARSE = {"KE (f10)": _KE, "DNR (f10)": _DNR}
_ABLATED = {"20": _DNR, "0.2|D|": _DNR}
_ROWS = {
    **dict.fromkeys(["dnr_table4", "ske_table3"], _CRITERIA),
    **dict.fromkeys(["dnr_table6", "ske_table7"], _SPARSE),
    **dict.fromkeys(["dnr_table5", "dnr_table7", "ske_table4", "ske_table8"], _ABLATED),
    "dnr_table9": {"10": _DNR},
    "ske_table6": {"LW (f8)": _LW, "LLF (f8)": _LLF, "DNR (f8)": _DNR8},
}
_COLUMNS = {"CUB200": "CUB", "Full model": "CUB", "Accuracy (%)": "Flower"}


def _accuracies(*sources: str) -> pd.DataFrame:
    """All numbers in % in the tables of the sources but column means, with their exhibit."""
    names = [f"{source}_table{n}" for source in sources for n in range(1, 14)]
    names = [name for name in names if (PAPER / f"{name}.csv").exists()]
    frame = pd.concat([numbers(*name.split("_")).assign(exhibit=name) for name in names])
    return frame[(frame["unit"] == "%") & (frame["column"] != "Mean")].reset_index(drop=True)


def means() -> pd.DataFrame:
    """Every printed Mean (DNR Tables 1 and 2; the preprint and KE have none) beside the mean of its
    row, in %: exhibit, row, printed, recomputed, agrees (to two decimals)."""
    parts = []
    for name in ("table1", "table2"):
        cells = wide("dnr", name)
        mean = cells.drop(columns="Mean").mean(axis=1)
        part = {"exhibit": f"dnr_{name}", "printed": cells["Mean"], "recomputed": mean}
        parts.append(pd.DataFrame(part).reindex(numbers("dnr", name)["row"].unique()).reset_index())
    frame = pd.concat(parts, ignore_index=True)[["exhibit", "row", "printed", "recomputed"]]
    # Half a unit of the last digit, and a hair for binary fractions.
    return frame.assign(agrees=(frame["printed"] - frame["recomputed"]).abs() < 0.005 + 1e-9)


def spreads() -> pd.DataFrame:
    """How many printed numbers in % carry a ±, column means aside: exhibit (all tables of KE as
    one), numbers, with_spread (D32, D47)."""
    frame = _accuracies("dnr", "ske", "ke")
    frame["exhibit"] = frame["exhibit"].str.replace("^ke_.*", "KE, all tables", regex=True)
    groups = frame.groupby("exhibit", sort=False)
    return groups.agg(numbers=("value", "size"), with_spread=("std", "count")).reset_index()


def repeats() -> pd.DataFrame:
    """Accuracies in % that the DNR paper and its preprint print in more than one table, one line
    per printing: row and column (as DNR Table 1 names them), exhibit, value, std, agrees (whether
    the quantity has one value and one spread; D34, D35). A spread that is missing in one place is
    no disagreement; `spreads` counts those."""
    frame = _accuracies("dnr", "ske")
    # The preprint says SKE for DNR and N8 for f8, and names the loss in "CE + DSD".
    same = {"SKE": "DNR", r"\(N8": "(f8", r"CE \+ ": ""}
    frame["row"] = frame["row"].replace(same, regex=True)
    pairs = zip(frame["exhibit"], frame["row"], strict=True)
    frame["row"] = [_ROWS.get(exhibit, {}).get(row, row) for exhibit, row in pairs]
    frame["column"] = frame["column"].replace(_COLUMNS)
    frame = frame[frame.duplicated(["row", "column"], keep=False)]
    frame = frame.sort_values(["row", "column"], kind="stable", ignore_index=True)
    different = frame.groupby(["row", "column"])[["value", "std"]].transform("nunique")
    frame["agrees"] = (different <= 1).all(axis=1)
    return frame[["row", "column", "exhibit", "value", "std", "agrees"]]


def from_ke() -> pd.DataFrame:
    """The rows of `FROM_KE` cell by cell, in %: row, column, value, std (as DNR or its preprint
    print them), ke, ke_std, equal (to two decimals) (D32)."""
    printed = pd.concat([numbers("dnr", "table1"), numbers("ske", "table1")])
    printed = printed.drop_duplicates(["row", "column"])
    printed["name"] = printed["row"].map(FROM_KE)
    ke = numbers("ke", "table2").rename(columns={"row": "name", "value": "ke", "std": "ke_std"})
    frame = printed.merge(ke, on=["name", "column"])
    frame["equal"] = frame["value"] == frame["ke"]
    return frame[["row", "column", "value", "std", "ke", "ke_std", "equal"]]


def overlap_limits() -> pd.DataFrame:
    """What share of the weights in the overlap maps a mask can keep, in %, if it keeps 80 % of what
    is scored: scored (weights, or all parameters as in the released code, D17), m (how many),
    mapped (weights in the 18 layers, which leave the shortcuts out), least, most.

    `most` bounds the mean of |A and B| / N over layers, weighted by their N; and for independent
    masks the same mean of |A and B| / |B| is what A keeps, so it lies between the two (D20).
    """
    network = resnet18()
    mapped = sum(network.get_submodule(layer).weight.numel() for layer in LAYERS)
    scored = {"weights": prunable(network).values(), "all parameters": network.parameters()}
    counts = {name: sum(tensor.numel() for tensor in tensors) for name, tensors in scored.items()}
    frame = pd.DataFrame({"scored": counts.keys(), "m": counts.values(), "mapped": mapped})
    kept = KEEP * frame["m"]
    frame["least"] = 100 * (kept - (frame["m"] - mapped)) / mapped
    return frame.assign(most=100 * kept / mapped)


def overlap() -> pd.DataFrame:
    """The printed maps of Figs. 2 and 4, averaged over layers weighted by size, in %: figure,
    generations, overlap, excess (over the 80 % kept), impossible (as |A and B| / N, whatever is
    scored), chance (within what independent masks can give) (D20)."""
    limits = overlap_limits()
    least, most = limits["least"].min(), limits["most"].max()
    maps = {name: overlap_printed(name)["all"].rename("overlap") for name in ("fig2", "fig4")}
    frame = pd.concat(maps, names=["figure"]).reset_index()
    return frame.assign(
        excess=frame["overlap"] - 100 * KEEP,
        impossible=frame["overlap"] > most,
        chance=frame["overlap"].between(least, most),
    )


def ahead(exhibit: str) -> pd.DataFrame:
    """Where a row prints more than a row of DNR with the same loss, in %: column, row, value,
    row_dnr, value_dnr, difference, spread (of both, added in quadrature) (D43)."""
    printed = numbers("dnr", exhibit)
    printed["smoothing"] = printed["row"].str.startswith("Smth")
    ours = printed["row"].str.contains("DNR")
    both = printed[~ours].merge(printed[ours], on=["smoothing", "column"], suffixes=("", "_dnr"))
    both["difference"] = both["value"] - both["value_dnr"]
    both["spread"] = np.hypot(both["std"], both["std_dnr"])
    shown = ["column", "row", "value", "row_dnr", "value_dnr", "difference", "spread"]
    return both.loc[both["difference"] > 0, shown].reset_index(drop=True)


def differences(exhibit: str, pairs: list[tuple[str, str]]) -> pd.DataFrame:
    """Differences a - b of rows of an exhibit by column, in points: a, b, column, value_a, value_b,
    difference, spread (of both, added in quadrature; NaN where none is printed)."""
    printed = numbers("dnr", exhibit)[["row", "column", "value", "std"]]
    frame = pd.DataFrame(pairs, columns=["a", "b"]).merge(printed, left_on="a", right_on="row")
    cell, suffixes = ["row", "column"], ("_a", "_b")
    frame = frame.merge(printed, left_on=["b", "column"], right_on=cell, suffixes=suffixes)
    frame["difference"] = frame["value_a"] - frame["value_b"]
    frame["spread"] = np.hypot(frame["std_a"], frame["std_b"])
    return frame[["a", "b", "column", "value_a", "value_b", "difference", "spread"]]


def speeds() -> pd.DataFrame:
    """Images per second that the printed times imply: reading, images, seconds, rate. Training
    reads each image once per epoch; a mask reads the probe once (D41)."""
    cub = int(wide("dnr", "table10").at["CUB-200", "Train"])
    flower = int(wide("ke", "table1").at["Flower-102", "Trn"])
    dnr, ke = (numbers(source, "text").set_index("row") for source in ("dnr", "ke"))
    # "10 generations CUB ...", "100 generations Flower-102 ...", in hours.
    n, n_ke = (int(re.match(r"\d+", f.at["training time", "column"])[0]) for f in (dnr, ke))
    hours, hours_ke = (f.at["training time", "value"] for f in (dnr, ke))
    mask = dnr.at["SNIP mask time", "value"]
    rows = [
        (f"DNR: {n} generations in {hours} h", n * EPOCHS * cub, 3600 * hours),
        (f"DNR: one generation in {hours} h", EPOCHS * cub, 3600 * hours),
        (f"DNR: one mask in {mask} s", round(PROBE * cub), mask),
        (f"KE: {n_ke} generations in {hours_ke:.0f} h", n_ke * EPOCHS * flower, 3600 * hours_ke),
    ]
    frame = pd.DataFrame(rows, columns=["reading", "images", "seconds"])
    return frame.assign(rate=frame["images"] / frame["seconds"])


def binary() -> pd.DataFrame:
    """DNR Table 8, in %: row, sensitivity, specificity, accuracy, between (lies accuracy between
    the two, as it must for two classes), positives (the share of positive images for which accuracy
    is the weighted mean of the two), majority (the score of the constant answer "healthy" on all
    images, by counts that we have not verified) (D46)."""
    frame = wide("dnr", "table8").rename(columns=str.lower).rename_axis(columns=None).reset_index()
    frame = frame[["row", "sensitivity", "specificity", "accuracy"]]
    above = frame["accuracy"] - frame["specificity"]
    share = above / (frame["sensitivity"] - frame["specificity"])
    frame = frame.assign(between=share.between(0, 1), positives=100 * share)
    return frame.assign(majority=100 * HEALTHY / IMAGES)
