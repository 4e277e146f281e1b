"""Frames of masks and resets, by hand."""

import pandas as pd
import pytest

from dnrlib import UserError
from dnrlib.frames import dead, generations, layers, overlaps, shocks
from dnrlib.models import LAYERS
from dnrlib.study import study


def masks_of_three_generations():
    """Every layer has 10 weights; mask 1 keeps 6, mask 2 keeps 8, 5 of them in mask 1; mask 3
    keeps 4, of which 3 are in mask 2 and 2 in mask 1. conv1 keeps everything, fc has 100 weights
    of which as many times more are kept. A shortcut is no layer of the maps."""
    rows = []
    for generation, kept, previous, first in ((1, 6, None, None), (2, 8, 5, 5), (3, 4, 3, 2)):
        for layer in [*LAYERS, "layer2.0.downsample.0"]:
            times = 10 if layer == "fc" else 1
            counts = {"kept": kept, "with_previous": previous, "with_first": first}
            counts = {
                name: None if count is None else 10 if layer == "conv1" else times * count
                for name, count in counts.items()
            }
            about = {"dataset": "digits", "method": "dnr", "seed": 0, "generation": generation}
            rows.append(about | {"layer": layer, "size": 10 * times} | counts)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("which", "pairs", "overlap", "chance"),
    [
        ("previous", ["1–2", "2–3"], [500 / 8, 300 / 4], [60, 80]),
        ("first", ["1–2", "1–3"], [500 / 8, 200 / 4], [60, 60]),
    ],
)
def test_overlap_is_of_the_later_mask_and_chance_the_share_of_the_earlier(
    which, pairs, overlap, chance
):
    for frame, values in zip(
        overlaps(masks_of_three_generations(), which), (overlap, chance), strict=True
    ):
        assert frame.index.tolist() == pairs
        assert frame.columns.tolist() == [*LAYERS, "all"]
        for layer in LAYERS[1:]:
            assert frame[layer].tolist() == pytest.approx(values)
        assert frame["conv1"].tolist() == [100, 100]
        # 16 layers of 10 weights, conv1 of 10, and the classifier of 100.
        mean = [(10 * 100 + 260 * value) / 270 for value in values]
        assert frame["all"].tolist() == pytest.approx(mean)


def test_overlaps_are_means_over_seeds_in_whatever_order():
    one = masks_of_three_generations()
    two = one.assign(seed=1, with_previous=one["with_previous"] / 2)
    overlap, chance = overlaps(pd.concat([two, one]).iloc[::-1], "previous")
    assert overlap["fc"].tolist() == pytest.approx([0.75 * 500 / 8, 0.75 * 300 / 4])
    assert chance["fc"].tolist() == pytest.approx([60, 80])


def test_a_long_training_has_a_row_per_so_many_epochs_and_one_at_its_end(tiny):
    frame = generations(study([tiny(method="ensemble", members=2, generations=5, epochs=2)]))
    assert frame["epochs"].tolist() == [2, 4, 5, 7, 9, 10]
    assert frame["test_accuracy"].notna().all()
    assert frame["seconds"].notna().tolist() == [False, False, True] * 2


def test_overlaps_of_several_methods_are_refused():
    one = masks_of_three_generations()
    with pytest.raises(UserError, match="of one method; these are dnr, ke"):
        overlaps(pd.concat([one, one.assign(method="ke")]), "first")


def test_shock_is_the_accuracy_right_after_the_first_reset():
    """dnr loses 1 point at the reset, ke 40; plain training has no second generation."""
    rows = []
    for method, birth in {"dnr": 69.0, "ke": 30.0, "plain": None}.items():
        for seed in (0, 1):
            run = {"method": method, "seed": seed, "kept": 0.8}
            accuracies = [70.0 + seed, 75.0, 80.0] if birth else [70.0]
            for number, accuracy in enumerate(accuracies, 1):
                about = {"generation": number, "last": number == len(accuracies)}
                births = {"birth_accuracy": (None, birth, 74.0)[number - 1]}
                rows.append(run | about | births | {"test_accuracy": accuracy})
    found = shocks(pd.DataFrame(rows))
    assert found.index.tolist() == [("dnr", 0), ("dnr", 1), ("ke", 0), ("ke", 1)]
    assert found["before"].tolist() == [70, 71, 70, 71]
    assert found["after"].tolist() == [69, 69, 30, 30]
    assert found["end"].tolist() == [80] * 4
    assert found["kept"].tolist() == [0.8] * 4


def test_dead_weights_are_counted_among_the_reset_ones():
    """20 weights, 16 kept, 2 of zero saliency: 10 % of all, half of the reset; where more are zero
    than reset, all of the reset are."""
    rows = [
        {"dataset": dataset, "seed": 0, "generation": number, "layer": layer}
        | {"size": 10, "kept": 8, "zero_saliency": zero}
        for dataset, zero in {"digits": 1, "fine": 7}.items()
        for number in (1, 2)
        for layer in ("conv1", "fc")
    ]
    found = dead(pd.DataFrame(rows))
    assert found.loc[("digits", 0)].tolist() == pytest.approx([10, 50])
    assert found.loc[("fine", 0)].tolist() == pytest.approx([70, 100])
    assert len(found) == 2


def test_without_runs_frames_are_empty():
    assert all(frame.empty for frame in overlaps(layers([]), "previous"))
    assert shocks(generations([])).empty
    assert dead(layers([])).empty
