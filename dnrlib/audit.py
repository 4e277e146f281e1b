"""What can be checked in the DNR paper without training: its numbers against one another."""

import re

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Markdown
from matplotlib.axes import Axes

from .config import Config
from .corruptions import EXTRA
from .figures import axes
from .masks import prunable
from .models import LAYERS
from .paper import PAPER, numbers, overlap_printed, resnet18, wide
from .recipes import RECIPES
from .tables import number, table

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

_DNR, _DNR8, _KE = "Smth + DNR (f10)", "Smth + DNR (f8)", "Smth + KE (f10)"
_LB, _LLF, _LW = "Smth + LB (f10)", "Smth + LLF (f8)", "Smth + LW (f8)"
GAPS = [(_DNR, _LB), (_DNR8, _LLF), (_DNR8, _LW), (_DNR, _LLF), (_DNR, _LW)]
"""Pairs of rows of Table 1 whose differences the page draws."""

# What rows and columns of other tables are in Table 1.
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


def sizes() -> pd.DataFrame:
    """DNR Table 10 in images: dataset, parts (sum of its splits), total (printed), agrees, classes,
    train, per_class (training images per class)."""
    cells = wide("dnr", "table10")
    parts, total = cells[["Train", "Validation", "Test"]].sum(axis=1), cells["Total"]
    frame = pd.DataFrame({"parts": parts, "total": total, "agrees": parts == total})
    frame = frame.assign(classes=cells["Classes"], train=cells["Train"])
    frame["per_class"] = frame["train"] / frame["classes"]
    return frame.rename_axis("dataset").reset_index()


def spreads() -> pd.DataFrame:
    """How many printed numbers in % carry a ±, column means aside: exhibit (all tables of KE as
    one), numbers, with_spread (D32, D47)."""
    frame = _accuracies("dnr", "ske", "ke")
    frame["exhibit"] = frame["exhibit"].str.replace("^ke_.*", "KE, all tables", regex=True)
    groups = frame.groupby("exhibit", sort=False)
    return groups.agg(numbers=("value", "size"), with_spread=("std", "count")).reset_index()


def repeats() -> pd.DataFrame:
    """Accuracies in % that the DNR paper and its preprint print in more than one table, one line
    per printing: row and column (as DNR Table 1 names them), exhibit, value, std."""
    frame = _accuracies("dnr", "ske")
    # The preprint says SKE for DNR and N8 for f8, and names the loss in "CE + DSD".
    same = {"SKE": "DNR", r"\(N8": "(f8", r"CE \+ ": ""}
    frame["row"] = frame["row"].replace(same, regex=True)
    pairs = zip(frame["exhibit"], frame["row"], strict=True)
    frame["row"] = [_ROWS.get(exhibit, {}).get(row, row) for exhibit, row in pairs]
    frame["column"] = frame["column"].replace(_COLUMNS)
    frame = frame[frame.duplicated(["row", "column"], keep=False)]
    frame = frame.sort_values(["row", "column"], kind="stable", ignore_index=True)
    return frame[["row", "column", "exhibit", "value", "std"]]


def disagreements() -> pd.DataFrame:
    """The lines of `repeats` whose quantity is printed with different values or spreads (D34, D35).
    A spread that is missing in one place is no disagreement; `spreads` counts those."""
    found = repeats()
    groups = found.groupby(["row", "column"])
    differs = (groups["value"].transform("nunique") > 1) | (groups["std"].transform("nunique") > 1)
    return found[differs].reset_index(drop=True)


def from_ke() -> pd.DataFrame:
    """The rows of `FROM_KE` cell by cell, in %: row, column, value, std (as DNR or its preprint
    print them), ke, ke_std, equal (to two decimals) (D32)."""
    printed = pd.concat([numbers("dnr", "table1"), numbers("ske", "table1")])
    printed = printed.drop_duplicates(["row", "column"]).assign(
        name=lambda f: f["row"].map(FROM_KE)
    )
    ke = numbers("ke", "table2").rename(columns={"row": "name", "value": "ke", "std": "ke_std"})
    frame = printed.merge(ke, on=["name", "column"])
    frame = frame[["row", "column", "value", "std", "ke", "ke_std"]]
    return frame.assign(equal=frame["value"] == frame["ke"])


def equal_to_ke() -> pd.DataFrame:
    """`from_ke` by row: row, equal, of, with_spread (cells that DNR prints with a ±),
    ke_with_spread (that KE does)."""
    groups = from_ke().groupby("row")
    counts = {"with_spread": ("std", "count"), "ke_with_spread": ("ke_std", "count")}
    frame = groups.agg(equal=("equal", "sum"), of=("equal", "size"), **counts)
    return frame.reindex(list(FROM_KE)).reset_index()


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
    least, most = overlap_limits()["least"].min(), overlap_limits()["most"].max()
    maps = {name: overlap_printed(name)["all"].rename("overlap") for name in ("fig2", "fig4")}
    frame = pd.concat(maps, names=["figure"]).reset_index()
    return frame.assign(
        excess=frame["overlap"] - 100 * KEEP,
        impossible=frame["overlap"] > most,
        chance=frame["overlap"].between(least, most),
    )


def _blocks(exhibit: str) -> pd.DataFrame:
    printed = numbers("dnr", exhibit)
    return printed.assign(smoothing=printed["row"].str.startswith("Smth"))


def best(exhibit: str) -> pd.DataFrame:
    """The best row of each column of an exhibit, in %, among the rows with label smoothing and
    among those without: smoothing, column, row, value, std (D43)."""
    printed = _blocks(exhibit)
    found = printed.groupby(["smoothing", "column"], sort=False)["value"].idxmax()
    return printed.loc[found, ["smoothing", "column", "row", "value", "std"]].reset_index(drop=True)


def ahead(exhibit: str) -> pd.DataFrame:
    """Where a row prints more than a row of DNR with the same loss, in %: column, row, value,
    row_dnr, value_dnr, difference, spread (of both, added in quadrature) (D43)."""
    printed = _blocks(exhibit)
    ours = printed["row"].str.contains("DNR")
    keys, suffixes = ["smoothing", "column"], ("", "_dnr")
    both = printed[~ours].merge(printed[ours], on=keys, suffixes=suffixes)
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


def corruptions() -> pd.DataFrame:
    """Mean accuracy on CIFAR-10-C from DNR Fig. 5, in %: row, text and figure (the printed mCA),
    all (mean over the 19 corruptions), benchmark (over 15), best (corruptions it leads) (D37)."""
    cells = wide("dnr", "fig5").loc[["LB", "KE", "DNR"]]
    each = cells.drop(columns="mCA")
    text = numbers("dnr", "text").query("row == 'mCA'").set_index("column")["value"]
    frame = pd.DataFrame({"text": text, "figure": cells["mCA"], "all": each.mean(axis=1)})
    frame["benchmark"] = each.drop(columns=list(EXTRA)).mean(axis=1)
    frame["best"] = each.idxmax().value_counts().reindex(frame.index, fill_value=0)
    return frame.loc[cells.index].rename_axis("row").reset_index()


def speeds() -> pd.DataFrame:
    """Images per second that the printed times imply: reading, images, seconds, rate. Training
    reads each image once per epoch; a mask reads the probe once (D41)."""
    cub = wide("dnr", "table10").at["CUB-200", "Train"]
    flower = wide("ke", "table1").at["Flower-102", "Trn"]
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


def show(frame: pd.DataFrame, caption: str, name: str, digits: int = 2) -> Markdown:
    """A frame of this module as a MyST table, without its empty columns."""
    frame, signed = frame.dropna(axis=1, how="all"), ("difference", "excess")
    cells = {}
    for label, column in frame.items():
        if column.dtype == bool:
            cells[label] = column.map({True: "yes", False: "no"})
        elif pd.api.types.is_numeric_dtype(column):
            places = 0 if (column.dropna() % 1 == 0).all() else digits
            cells[label] = [number(value, places, sign=label in signed) for value in column]
        else:
            named = {"^dnr_table": "DNR Table ", "^ske_table": "SKE Table ", "^fig": "Fig. "}
            cells[label] = column.replace(named, regex=True)
    header = [str(label).replace("_", " ") for label in frame.columns]
    return table(header, list(zip(*cells.values(), strict=True)), caption, name)


def overlap_course(ax: Axes | None = None) -> Axes:
    """`overlap` by pair of generations, with the band that independent masks can reach; what no
    |A and B| / N can is tinted."""
    ax, frame, limits = axes(ax), overlap(), overlap_limits()
    for figure, colour in {"fig2": "#D55E00", "fig4": "#0072B2"}.items():
        part = frame.loc[frame["figure"] == figure, "overlap"]
        label = figure.replace("fig", "Fig. ")
        ax.plot(range(2, 2 + len(part)), part, "o-", color=colour, label=label)
    least, most, top = limits["least"].min(), limits["most"].max(), frame["overlap"].max() + 1
    ax.axhspan(least, most, color="0.85", lw=0, label="independent masks")
    ax.axhspan(most, top, color="#FBEFE6", lw=0, label="out of reach for |A∩B| / N")
    ax.axhline(100 * KEEP, color="0.4", ls="--", lw=1, label="share kept")
    ax.set(xlabel="later generation", ylabel="overlap in %, all layers", ylim=(least - 0.5, top))
    ax.legend(framealpha=1, edgecolor="white", loc="upper left")
    sns.despine(ax=ax)
    return ax


def table1_gaps(ax: Axes | None = None) -> Axes:
    """The differences `GAPS` by column of Table 1; bars: both printed ± in quadrature. Hollow where
    the numbers of generations differ."""
    ax, frame = axes(ax, height=5.5), differences("table1", GAPS)
    columns = list(frame["column"].unique())
    colours = {_LB: "#E69F00", _LLF: "#0072B2", _LW: "#CC79A7"}
    for place, ((a, b), part) in enumerate(frame.groupby(["a", "b"], sort=False)):
        at = [columns.index(column) + 0.15 * (place - 2) for column in part["column"]]
        style = {"color": colours[b], "mfc": colours[b] if a[-4:] == b[-4:] else "white"}
        label = f"{a} − {b}".replace("Smth + ", "")
        ax.errorbar(part["difference"], at, xerr=part["spread"], fmt="o", label=label, **style)
    ax.axvline(0, color="0.5", lw=1)
    ax.set_yticks(range(len(columns)), columns)
    ax.invert_yaxis()
    ax.set_xlabel("difference of printed accuracies in points")
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    sns.despine(ax=ax, left=True)
    return ax
