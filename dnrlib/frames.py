"""Tidy frames from the records of runs."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .evaluations import EVALUATED, measures
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
