"""Tidy frames from the records of runs."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from . import UserError
from .evaluate.corruptions import CORRUPTIONS, GROUPED
from .evaluate.evaluations import (
    EVALUATED,
    METRICS,
    Attack,
    Corruptions,
    Evaluation,
    Predictions,
    WeightSizes,
    evaluated,
    mean_accuracies,
    measures,
    ratios,
    recalls,
)
from .models import LAYERS
from .stats import clustered
from .study import Run

OVERLAPS = ("previous", "first", "resampled")
STAGES = ("layer1", "layer4")
"""The first and the last stage of a network, whose overlaps are told apart."""
COLUMNS = [
    *("dataset", "method", "seed", "generation", "last", "epochs"),
    *("test_accuracy", "train_accuracy", "birth_accuracy", "masked_accuracy", "kept"),
    *(f"overlap_{name}" for name in OVERLAPS),
    *(f"overlap_{name}_{stage}" for name in OVERLAPS[:2] for stage in STAGES),
    *("seconds", "mask_seconds"),
    *EVALUATED,
]
LAYER_COLUMNS = [
    *("dataset", "method", "seed", "generation", "layer", "size", "kept", "zero_saliency"),
    *(f"with_{name}" for name in OVERLAPS),
]


def generations(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run and generation, tidy.

    Columns: dataset, method (the arm, `recipes.arm_of`), seed; generation (1-based), `last`
    (whether it is the run's last) and `epochs` trained so far; accuracies in %, of embeddings
    Recall@1: test, train, `birth_accuracy` (before the first step) and `masked_accuracy` (without
    the weights that the next mask drops); shares 0..1 over all layers: kept, overlap_previous,
    overlap_first (of the weights kept by this mask, those kept by the previous or the first one;
    DNR Figs. 2, 4), overlap_resampled (those kept by a mask from independent samples at the same
    weights), the first two also within the first and the last stage (`overlap_previous_layer4`);
    seconds of the training, mask_seconds of the mask; in the last row of a run what was found by
    its evaluations (`evaluations.EVALUATED`). Values that a generation does not have are NaN.

    A generation that is longer than `Config.epochs` gets a row per so many epochs too, with
    nothing but the test accuracy at that point of its schedule; `generation` then counts rows.
    """
    rows = []
    for run in found:
        about, rows_before = _about(run), len(rows)
        masks = {record["generation"]: record for record in run.records if record["kind"] == "mask"}
        epochs = 0
        for record in run.trained:
            result = record["result"]
            # Its last epoch has a row of its own.
            before = (len(result["curve"]) - 1) // run.config.epochs
            for passed, accuracy in enumerate(result["trace"][:before], 1):
                so_far = epochs + passed * run.config.epochs
                rows.append(about | {"epochs": so_far, "test_accuracy": accuracy})
            epochs += len(result["curve"])
            row = about | {"epochs": epochs, "seconds": record["timing"]["seconds"]}
            for name in ("test_accuracy", "train_accuracy", "birth_accuracy"):
                row[name] = result[name]
            if mask := masks.get(record["generation"]):
                row |= _shares(mask["result"])
                # The first published masks were not timed.
                row["mask_seconds"] = mask.get("timing", {}).get("seconds")
            rows.append(row)
        rows[-1] |= measures(run.records)
        for generation, row in enumerate(rows[rows_before:], 1):
            row |= {"generation": generation, "last": row is rows[-1]}
    return pd.DataFrame(rows, columns=COLUMNS)


def _about(run: Run) -> dict[str, Any]:
    return {"dataset": run.config.dataset, "method": run.arm, "seed": run.config.seed}


def _shares(result: dict[str, Any]) -> dict[str, float]:
    """What the result of a mask says of all layers, and of some stages."""

    def kept(of: str, stage: str = "") -> int:
        return sum(count for layer, count in result[of].items() if layer.startswith(stage))

    shares = {"masked_accuracy": result["masked_accuracy"], "kept": kept("kept") / kept("size")}
    for name in OVERLAPS:
        for stage in ("", *STAGES) if result.get(f"with_{name}") else ():
            if total := kept("kept", stage):
                column = f"overlap_{name}_{stage}".removesuffix("_")
                shares[column] = kept(f"with_{name}", stage) / total
    return shares


def layers(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run, generation with a mask, and layer: counts of weights.

    Columns: dataset, method, seed, generation, layer, size, kept, zero_saliency, with_previous,
    with_first, with_resampled (NaN where there is none).
    """
    rows = []
    for run in found:
        about = _about(run)
        for record in run.records:
            if record["kind"] == "mask":
                counts = {name: of for name, of in record["result"].items() if type(of) is dict}
                for layer in counts["size"]:
                    row = {name: of.get(layer) for name, of in counts.items()}
                    row |= {"generation": record["generation"], "layer": layer}
                    rows.append(about | row)
    frame = pd.DataFrame(rows, columns=LAYER_COLUMNS)
    return frame.assign(layer=frame["layer"].str.removesuffix(".weight"))


def overlaps(layers: pd.DataFrame, which: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Overlap of masks in %, and what it would be by chance, from a frame of `layers`.

    Rows are pairs of generations, columns the 18 layers and `all`, their mean weighted by their
    size; values are means over seeds, as in DNR Fig. 2 (`which` is `previous`) and Fig. 4
    (`first`). Overlap is |A and B| / |B|, with B the later mask. Two independent masks overlap by
    the share of a layer's weights that the earlier one keeps (D20). Raises `UserError` for layers
    of several methods.
    """
    if len(methods := layers["method"].unique()) > 1:
        raise UserError(f"an overlap map is of one method; these are {', '.join(methods)}")
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
    """By dataset and seed, from a frame of `layers`, after the first generation: the share
    of weights with saliency exactly zero among all weights (`zero`) and among the weights that are
    reset (`of_reset`), in %."""
    first = layers[(layers["generation"] == 1) & layers["zero_saliency"].notna()]
    counts = ["size", "kept", "zero_saliency"]
    sums = first.groupby(["dataset", "seed"], sort=False)[counts].sum()
    zero, reset = sums["zero_saliency"], sums["size"] - sums["kept"]
    shares = {"zero": zero / sums["size"], "of_reset": zero.clip(upper=reset) / reset}
    return 100 * pd.DataFrame(shares)


def corruption_frame(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run, way of normalising, corruption and severity (1 to 5; 0 is the clean images,
    as corruption `none`): method, seed, normalised, official, images (their number), corruption,
    severity, accuracy in %."""
    rows = []
    for run, evaluation, result in _measured(found, Corruptions):
        base = (run.arm, run.config.seed, evaluation.normalised, evaluation.official)
        base += (result["images"],)
        rows.append((*base, "none", 0, result["clean"]))
        for name in CORRUPTIONS:
            accuracies = enumerate(result["accuracy"][name], 1)
            rows += [(*base, name, severity, accuracy) for severity, accuracy in accuracies]
    columns = ["method", "seed", "normalised", "official", "images"]
    return pd.DataFrame(rows, columns=[*columns, "corruption", "severity", "accuracy"])


def _means(frame: pd.DataFrame, by: str | list[str]) -> pd.DataFrame:
    """Of a `corruption_frame`, mean accuracies in %: a row per corruption (`none` last)."""
    means = frame.pivot_table(index="corruption", columns=by, values="accuracy", sort=False)
    return means.reindex([*GROUPED, "none"])


def by_corruption(frame: pd.DataFrame, normalised: bool = True) -> pd.DataFrame:
    """Of a `corruption_frame`, the mean accuracy in % over severities and runs: a row per
    corruption (`GROUPED`), then `mCA 19` over all and `mCA 15` over those of the benchmark; a
    column per method."""
    means = _means(frame[frame["normalised"] == normalised], "method").drop("none")
    means.loc["mCA 19"], means.loc["mCA 15"] = mean_accuracies(means)
    return means.rename_axis(index=None)


def corruption_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Of a `corruption_frame`, one row per method, way of normalising and seed (the index):
    accuracies in % on `clean` images and over all (`mCA 19`) and the benchmark's (`mCA 15`)
    corruptions and severities, and what is `lost`, clean minus mCA 19."""
    means = _means(frame, ["method", "normalised", "seed"])
    mca, mca_15 = mean_accuracies(means.drop("none"))
    found = {"clean": means.loc["none"], "mCA 19": mca, "mCA 15": mca_15}
    return pd.DataFrame(found | {"lost": means.loc["none"] - mca})


def likeness(frame: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """How alike the corruptions are ordered by the accuracies of a `corruption_frame` and by those
    that are `printed` (a row per method, a column per corruption): Spearman's correlation. One row
    per printed method, seed and way of normalising: method, seed, normalised, correlation."""
    columns = ["method", "seed", "normalised"]
    means = _means(frame[frame["method"].isin(printed.index)], columns).drop("none")
    rows = [(*run, of.corr(printed.loc[run[0]], method="spearman")) for run, of in means.items()]
    return pd.DataFrame(rows, columns=[*columns, "correlation"])


def attack_frame(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run, attack and epsilon: method, seed, steps, restarts, images (their number),
    epsilon in 255ths, accuracy in %, and `no_gradient` (share of images)."""
    rows = []
    for run, evaluation, result in _measured(found, Attack):
        base = (run.arm, run.config.seed, evaluation.steps, evaluation.restarts, result["images"])
        for epsilon, accuracy in zip(evaluation.epsilons, result["accuracy"], strict=True):
            rows.append((*base, epsilon, accuracy, result["no_gradient"]))
    columns = ["method", "seed", "steps", "restarts", "images"]
    return pd.DataFrame(rows, columns=[*columns, "epsilon", "accuracy", "no_gradient"])


def recall_frame(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run and class: method, seed, class (its number), recall in %."""
    rows = []
    for run, _, result in _measured(found, Predictions):
        labels = np.array(result["labels"])
        each = zip(np.unique(labels), recalls(labels, np.array(result["predicted"])), strict=True)
        rows += [(run.arm, run.config.seed, int(number), recall) for number, recall in each]
    return pd.DataFrame(rows, columns=["method", "seed", "class", "recall"])


def size_frame(found: Iterable[Run]) -> pd.DataFrame:
    """One row per run, layer, part of KE's split (`fit` is kept, `reset` is not) and generation:
    method, seed, layer, part, generation, size (the mean absolute weight)."""
    rows = []
    for run, _, result in _measured(found, WeightSizes):
        for part in ("fit", "reset"):
            for layer, sizes in zip(result["layers"], result[part], strict=True):
                base = run.arm, run.config.seed, layer, part
                rows += [(*base, generation, size) for generation, size in enumerate(sizes, 1)]
    columns = ["method", "seed", "layer", "part", "generation", "size"]
    return pd.DataFrame(rows, columns=columns)


def clinical_frame(found: Iterable[Run]) -> pd.DataFrame:
    """One row per method and metric (`METRICS`), a mean over n seeds: method, n,
    metric, value, low and high (`stats.clustered` by patient, or by image where every image is
    alone) in %; and of the test pool: images, patients, and `commonest`, the accuracy in % of
    always naming the commonest class."""
    rows = []
    labels, groups, predicted = _predicted(found)
    for arm, by_seed in predicted.items():
        pool = (len(labels), len(set(groups)), 100 * np.bincount(labels).max() / len(labels))
        for metric in METRICS:
            value = clustered(*_mean_ratios(metric, labels, by_seed.values()), groups)
            rows.append((arm, len(by_seed), metric, *value, *pool))
    columns = ["method", "n", "metric", "value", "low", "high", "images", "patients", "commonest"]
    return pd.DataFrame(rows, columns=columns)


def clinical_differences(found: Iterable[Run], a: str, b: str) -> pd.DataFrame:
    """Method `a` minus method `b` over their common seeds, with intervals as in `clinical_frame`,
    of the same resamples. One row per metric: metric, n, difference, low, high in points; no row
    if there are none."""
    rows = []
    labels, groups, predicted = _predicted(found)
    of_a, of_b = predicted.get(a, {}), predicted.get(b, {})
    common = sorted(of_a.keys() & of_b.keys())
    for metric in METRICS if common else ():
        above, below = _mean_ratios(metric, labels, [of_a[seed] for seed in common])
        less, _ = _mean_ratios(metric, labels, [of_b[seed] for seed in common])
        rows.append((metric, len(common), *clustered(above - less, below, groups)))
    return pd.DataFrame(rows, columns=["metric", "n", "difference", "low", "high"])


def _predicted(
    found: Iterable[Run],
) -> tuple[np.ndarray, Sequence[Any], dict[str, dict[int, np.ndarray]]]:
    """Of the images that all runs were evaluated on, labels and groups (the number of the image
    where every image is alone); and what was predicted, by arm and seed."""
    labels, groups, predicted = np.array([]), [], {}
    for run, _, result in _measured(found, Predictions):
        labels = np.array(result["labels"])
        groups = result.get("groups", range(len(labels)))
        predicted.setdefault(run.arm, {})[run.config.seed] = np.array(result["predicted"])
    return labels, groups, predicted


def _mean_ratios(
    metric: str, labels: np.ndarray, predicted: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """`evaluations.ratios`, averaged over what several networks predicted."""
    above, below = zip(*(ratios(metric, labels, named) for named in predicted), strict=True)
    return np.mean(above, axis=0), below[0]


def _measured(
    found: Iterable[Run], kind: type[Evaluation]
) -> Iterator[tuple[Run, Any, dict[str, Any]]]:
    """Every evaluation of a kind among the records of runs: the run, the evaluation, the result."""
    for run in found:
        for evaluation, result in evaluated(run.records):
            if isinstance(evaluation, kind):
                yield run, evaluation, result
