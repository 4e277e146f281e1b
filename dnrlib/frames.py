"""What pages compute of the frames of `study`: tidy frames of masks and of resets."""

import pandas as pd

from . import UserError
from .models import LAYERS


def overlaps(layers: pd.DataFrame, which: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Overlap of masks in %, and what it would be by chance, from a frame of `study.layers`.

    Rows are pairs of generations, columns the 18 layers and `all`, their mean weighted by their
    size; values are means over seeds, as in DNR Fig. 2 (`which` is `previous`) and Fig. 4
    (`first`). Overlap is |A and B| / |B|, with B the later mask. Two independent masks overlap by
    the share of a layer's weights that the earlier one keeps (D20). Raises `UserError` for layers
    of several methods.
    """
    if layers["method"].nunique() > 1:
        names = ", ".join(layers["method"].unique())
        raise UserError(f"an overlap map is of one method; these are {names}")
    part = layers[layers["layer"].isin(LAYERS)].sort_values("generation")
    kept = (100 * part["kept"] / part["size"]).groupby([part["seed"], part["layer"]])
    part = part.assign(
        overlap=100 * part[f"with_{which}"] / part["kept"],
        chance=kept.shift() if which == "previous" else kept.transform("first"),
    ).dropna(subset="overlap")
    sizes = part.groupby("layer")["size"].first()
    maps = []
    for column in ("overlap", "chance"):
        frame = part.pivot_table(index="generation", columns="layer", values=column)
        frame = frame.reindex(columns=LAYERS)
        frame["all"] = frame.mul(sizes).sum(axis=1) / sizes.sum()
        first = [number - 1 if which == "previous" else 1 for number in frame.index]
        pairs = [f"{a}–{b}" for a, b in zip(first, frame.index, strict=True)]
        maps.append(frame.set_axis(pd.Index(pairs, name="generations")))
    return maps[0], maps[1]


def shocks(frame: pd.DataFrame) -> pd.DataFrame:
    """By arm and seed with a second generation, from a frame of `study.generations`: test accuracy
    in % after the first generation (`before`), right after its reset (`after`) and at the `end`,
    and the share `kept` by the first mask, NaN without one."""
    runs = frame.set_index(["method", "seed"])
    first, second = (runs[runs["generation"] == number] for number in (1, 2))
    found = second[["birth_accuracy"]].set_axis(["after"], axis=1).dropna()
    end = runs.loc[runs["last"].astype(bool), "test_accuracy"]
    return found.assign(before=first["test_accuracy"], end=end, kept=first["kept"])


def dead(layers: pd.DataFrame) -> pd.DataFrame:
    """By dataset and seed, from a frame of `study.layers`, after the first generation: weights with
    exactly zero saliency in % of all weights (`zero`), and how much of the weights that are reset
    they make up, in % (`of_reset`)."""
    first = layers[(layers["generation"] == 1) & layers["zero_saliency"].notna()]
    counts = ["size", "kept", "zero_saliency"]
    sums = first.groupby(["dataset", "seed"], sort=False)[counts].sum()
    zero, reset = sums["zero_saliency"], sums["size"] - sums["kept"]
    shares = {"zero": zero / sums["size"], "of_reset": zero.clip(upper=reset) / reset}
    return 100 * pd.DataFrame(shares)
