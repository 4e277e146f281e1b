"""Tidy frames from the records of runs."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from . import UserError
from .evaluations import EVALUATED, measures
from .models import LAYERS
from .records import Record
from .study import Run

STAGES = ("layer1", "layer4")
"""The first and the last stage of a network, whose overlaps are told apart."""
COLUMNS = [
    *("dataset", "method", "seed", "source", "generation", "last", "epochs"),
    *("test_accuracy", "train_accuracy", "birth_accuracy", "masked_accuracy"),
    *("test_loss", "train_loss", "kept", "zero_saliency"),
    *("overlap_previous", "overlap_first", "overlap_resampled"),
    *(f"overlap_{name}_{stage}" for name in ("previous", "first") for stage in STAGES),
    *("seconds", "images_per_second", "mask_seconds"),
    *EVALUATED,
]
LAYER_COLUMNS = [
    *("dataset", "method", "seed", "generation", "layer", "size", "kept"),
    *("zero_saliency", "with_previous", "with_first", "with_resampled"),
]


def generations(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run and generation, tidy.

    Columns: dataset, method, seed, source; generation (1-based), `last` (whether it is the run's
    last) and `epochs` trained so far; accuracies in %: test, train, `birth_accuracy` (before the
    first step) and `masked_accuracy` (without the weights that the next mask drops); test_loss,
    train_loss; shares 0..1 over all layers: kept, zero_saliency, overlap_previous, overlap_first
    (of the weights kept by this mask, those kept by the previous or the first one; DNR Figs. 2, 4),
    overlap_resampled (those kept by a mask from independent samples at the same weights), the first
    two also within the first and the last stage (`overlap_previous_layer4`); seconds and
    images_per_second of the training, mask_seconds of the mask; in the last row of a run what
    was found by its evaluations (`evaluations.EVALUATED`). Values that a generation does not have
    are NaN. `method` is the run's arm, its method and what differs from the recipe
    (`recipes.arm_of`).

    A run that is one long generation gets a row per `Config.epochs` epochs too, with nothing but
    the test accuracy at that point of its schedule.
    """
    rows = []
    for run_ in found:
        by_kind: dict[tuple[str, int], Record] = {
            (record["kind"], record["generation"]): record for record in run_.records
        }
        last = max(number for _, number in by_kind)
        arm, epochs, generation = run_.arm, 0, 0
        for number in range(1, last + 1):
            record = by_kind["generation", number]
            result = record["result"]
            base = {
                "dataset": run_.config.dataset,
                "method": arm,
                "seed": run_.config.seed,
                "source": run_.source,
            }
            for passed, accuracy in enumerate(result["trace"][:-1], 1):
                generation += 1
                rows.append(
                    base
                    | {
                        "generation": generation,
                        "last": False,
                        "epochs": epochs + passed * run_.config.epochs,
                        "test_accuracy": accuracy,
                    }
                )
            generation += 1
            epochs += len(result["curve"])
            row = base | {"generation": generation, "last": number == last, "epochs": epochs}
            for name in (
                "test_accuracy",
                "train_accuracy",
                "birth_accuracy",
                "test_loss",
                "train_loss",
            ):
                row[name] = result[name]
            row |= {name: record["timing"][name] for name in ("seconds", "images_per_second")}
            mask = by_kind.get(("mask", number))
            if mask is not None:
                row |= _shares(mask["result"])
                # The first published masks were not timed.
                row["mask_seconds"] = mask.get("timing", {}).get("seconds")
            if number == last:
                row |= measures(run_.records)
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _shares(result: dict[str, Any]) -> dict[str, float]:
    total = {name: sum(counts.values()) for name, counts in result.items() if type(counts) is dict}
    shares = {
        "kept": total["kept"] / total["size"],
        "masked_accuracy": result["masked_accuracy"],
    }
    if result["zero_saliency"]:
        shares["zero_saliency"] = total["zero_saliency"] / total["size"]
    for name in ("previous", "first", "resampled"):
        if result.get(f"with_{name}") and total["kept"]:
            shares[f"overlap_{name}"] = total[f"with_{name}"] / total["kept"]
            for stage in STAGES if name != "resampled" else ():
                kept, both = (
                    sum(n for layer, n in result[counts].items() if layer.startswith(f"{stage}."))
                    for counts in ("kept", f"with_{name}")
                )
                if kept:
                    shares[f"overlap_{name}_{stage}"] = both / kept
    return shares


def layers(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run, generation with a mask, and layer: counts of weights.

    Columns: dataset, method, seed, generation, layer, size, kept, zero_saliency, with_previous,
    with_first, with_resampled (NaN where there is none).
    """
    rows = []
    for run_ in found:
        arm = run_.arm
        for record in run_.records:
            if record["kind"] != "mask":
                continue
            result = record["result"]
            counts = {name: values for name, values in result.items() if type(values) is dict}
            for layer in result["size"]:
                rows.append(
                    {
                        "dataset": run_.config.dataset,
                        "method": arm,
                        "seed": run_.config.seed,
                        "generation": record["generation"],
                        "layer": layer.removesuffix(".weight"),
                    }
                    | {name: values.get(layer) for name, values in counts.items()}
                )
    return pd.DataFrame(rows, columns=LAYER_COLUMNS)


# --------------------------------------------------------------------------------------------------
# What pages compute of these frames


def overlaps(layers: pd.DataFrame, which: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Overlap of masks in %, and what it would be by chance, from a frame of `layers`.

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
    """By arm and seed with a second generation, from a frame of `generations`: test accuracy
    in % after the first generation (`before`), right after its reset (`after`) and at the `end`,
    and the share `kept` by the first mask, NaN without one."""
    runs = frame.set_index(["method", "seed"])
    first, second = (runs[runs["generation"] == number] for number in (1, 2))
    found = second[["birth_accuracy"]].set_axis(["after"], axis=1).dropna()
    end = runs.loc[runs["last"].astype(bool), "test_accuracy"]
    return found.assign(before=first["test_accuracy"], end=end, kept=first["kept"])


def dead(layers: pd.DataFrame) -> pd.DataFrame:
    """By dataset and seed, from a frame of `layers`, after the first generation: weights with
    exactly zero saliency in % of all weights (`zero`), and how much of the weights that are reset
    they make up, in % (`of_reset`)."""
    first = layers[(layers["generation"] == 1) & layers["zero_saliency"].notna()]
    counts = ["size", "kept", "zero_saliency"]
    sums = first.groupby(["dataset", "seed"], sort=False)[counts].sum()
    zero, reset = sums["zero_saliency"], sums["size"] - sums["kept"]
    shares = {"zero": zero / sums["size"], "of_reset": zero.clip(upper=reset) / reset}
    return 100 * pd.DataFrame(shares)
