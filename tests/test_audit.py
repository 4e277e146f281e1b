"""The audit of the paper's numbers: what it finds, against arithmetic by hand."""

import pandas as pd
import pytest

from dnrlib import audit, paper


def rows(frame, *columns):
    return [tuple(row) for row in frame[list(columns)].itertuples(index=False)]


def change(monkeypatch, exhibit, row, column, **values):
    """One printed number altered."""
    original = audit.numbers

    def altered(source, name):
        frame = original(source, name)
        if (source, name) == tuple(exhibit.split("_")):
            frame = frame.copy()
            at = (frame["row"] == row) & (frame["column"] == column)
            assert at.sum() == 1
            for field, value in values.items():
                frame.loc[at, field] = value
        return frame

    for module in (audit, paper):
        monkeypatch.setattr(module, "numbers", altered)


def test_every_printed_mean_recomputes():
    """DNR Table 1, CE (f1): (53.57 + 51.28 + 63.83 + 48.48 + 55.28) / 5 = 54.488."""
    frame = audit.means()
    assert frame["exhibit"].value_counts().to_dict() == {"dnr_table1": 12, "dnr_table2": 4}
    assert frame["agrees"].all()
    assert frame["row"].iloc[0] == "CE (f1)"
    assert frame["recomputed"].iloc[0] == pytest.approx(54.488)


def test_a_mean_that_is_off_by_a_hundredth_is_found(monkeypatch):
    change(monkeypatch, "dnr_table1", "Smth + LW (f8)", "Mean", value=66.40)
    frame = audit.means()
    assert rows(frame[~frame["agrees"]], "exhibit", "row") == [("dnr_table1", "Smth + LW (f8)")]


def test_which_tables_carry_spreads():
    frame = audit.spreads().set_index("exhibit")
    counts = frame.apply(tuple, axis=1)
    assert counts["dnr_table1"] == (60, 60), "5 datasets x 12 rows, without the means"
    assert counts["dnr_table2"] == (12, 12)
    assert counts["ske_table2"] == (12, 0)
    assert counts["dnr_table5"] == (10, 0)
    assert frame.loc["KE, all tables", "with_spread"] == 0
    assert "dnr_table10" not in frame.index, "images are no accuracies"


def test_quantities_printed_with_two_values():
    """SNIP on CUB 71.87 against 71.37 (D34); f8 70.95 in the paper, 70.87 in the preprint (D35)."""
    found = audit.repeats()
    found = found[~found["agrees"]]
    groups = found.groupby(["row", "column"])
    assert {key: set(part["value"]) for key, part in groups} == {
        ("Smth + DNR (f10)", "CUB"): {71.37, 71.87},
        ("Smth + DNR (f8)", "CUB"): {70.95, 70.87},
    }
    odd = found[found["value"] == 71.87]
    assert odd["exhibit"].tolist() == ["dnr_table4", "ske_table3"]
    assert set(found["std"].dropna()) == {0.22, 0.16}


def test_repeats_know_the_names_of_other_tables():
    """LB on Flower stands in Tables 1 and 4 of the paper, and in Tables 1 and 3 of the preprint; CE
    and label-smoothed DNR are not mixed up, nor is a reset share with a number of generations."""
    groups = audit.repeats().groupby(["row", "column"])["exhibit"].agg(list)
    four = ["dnr_table1", "dnr_table4", "ske_table1", "ske_table3"]
    assert groups["Smth + LB (f10)", "Flower"] == four
    assert groups["Smth + DNR (f10)", "Flower"] == [
        "dnr_table1",
        *four[1:2],
        "dnr_table9",
        *four[2:],
    ]
    assert groups["DNR (f10)", "CUB"] == ["dnr_table1", "ske_table1"]
    assert groups["Smth + LLF (f8)", "Dog"] == ["dnr_table1", "ske_table6"]
    assert groups["Smth + DNR (f10)", "Sparse model"] == ["dnr_table6", "ske_table7"]
    assert groups["10", "CUB"] == ["dnr_table5", "ske_table4"]
    assert groups["Smth + DNR (f3)", "CUB"] == ["dnr_table3", "ske_table1", "ske_table5"]


def test_a_spread_that_differs_is_found(monkeypatch):
    change(monkeypatch, "ske_table1", "Smth + LB (f10)", "Dog", std=0.3)
    found = audit.repeats()
    keys = set(rows(found[~found["agrees"]], "row", "column"))
    assert ("Smth + LB (f10)", "Dog") in keys
    assert len(keys) == 3


def test_rows_without_smoothing_equal_those_of_ke():
    frame = audit.from_ke()
    assert frame.groupby("row")["equal"].sum().to_dict() == {
        **dict.fromkeys(("CE (f1)", "DSD", "BAN (f10)", "KE (f10)"), 5),
        **{"Smth (f1)": 1, "Smth + KE (f3)": 3, "Smth + KE (f10)": 1},
    }
    assert (frame.groupby("row").size() == 5).all()
    assert frame["std"].notna().all()
    assert frame["ke_std"].isna().all()


def test_cells_beside_ke_by_hand():
    frame = audit.from_ke().set_index(["row", "column"])
    assert frame.loc[("Smth + KE (f10)", "Aircraft"), ["value", "ke"]].tolist() == [63.32, 60.03]
    assert frame.loc[("Smth + KE (f10)", "Dog"), ["value", "ke"]].tolist() == [63.86, 67.06]
    same = frame.loc["Smth + KE (f3)", "equal"]
    assert same[same].index.tolist() == ["CUB", "Flower", "MIT"]


def test_limits_of_overlap_by_hand():
    """ResNet18 with 200 classes: 10,994,880 + 102,400 weights in the maps, 172,032 in shortcuts,
    9,600 of batch normalisation and 200 biases outside. 0.8 x 11,269,312 / 11,097,280 = 81.24 %."""
    frame = audit.overlap_limits().set_index("scored")
    assert (frame["mapped"] == 10_994_880 + 102_400).all()
    assert frame["m"].tolist() == [11_269_312, 11_269_312 + 9_600 + 200]
    assert frame["most"].round(2).tolist() == [81.24, 81.31]
    assert frame["least"].round(2).tolist() == [79.69, 79.67]


def test_overlap_of_fig_2_exceeds_a_share_of_all_weights_and_fig_4_does_not_exceed_chance():
    frame = audit.overlap()
    two, four = (frame[frame["figure"] == name].reset_index() for name in ("fig2", "fig4"))
    assert two["overlap"].round(1).iloc[[0, -1]].tolist() == [81.1, 86.8]
    assert two["impossible"].tolist() == [False] + 8 * [True]
    assert four["excess"].round(1).tolist() == [1.1, 0.7, 0.6, 0.6, 0.5, 0.5, 0.5, 0.4, 0.5]
    assert not four["impossible"].any()
    assert four["chance"].all()
    assert four["generations"].iloc[-1] == "1–10"


def test_verdicts_on_overlap_hold_for_every_number_that_rounds_to_the_printed_one():
    frame, limits = audit.overlap(), audit.overlap_limits()
    edges = pd.concat([limits["least"], limits["most"]])
    nearest = frame["overlap"].apply(lambda value: (edges - value).abs().min())
    assert (nearest > 0.05).all()


def test_where_others_are_ahead_of_dnr():
    f8, f10 = "Smth + DNR (f8)", "Smth + DNR (f10)"
    frame = audit.ahead("table1")
    assert set(rows(frame, "row", "row_dnr", "column")) == {
        ("DSD", "DNR (f10)", "Aircraft"),
        ("Smth + LW (f8)", f8, "Aircraft"),
        ("Smth + LW (f8)", f10, "Aircraft"),
        ("Smth + LLF (f8)", f8, "CUB"),
        ("Smth + LLF (f8)", f8, "Aircraft"),
        ("Smth + LLF (f8)", f10, "Aircraft"),
        ("Smth + LLF (f8)", f8, "Mean"),
    }
    dsd = frame.iloc[0]
    assert dsd["difference"] == pytest.approx(57.24 - 55.87)
    assert dsd["spread"] == pytest.approx((0.21**2 + 0.47**2) ** 0.5)
    assert audit.ahead("table2").empty


def test_differences_by_hand():
    """Magnitude beats random on Flower; LB and KE stand above plain training on CIFAR100."""
    frame = audit.differences("table4", [("Weight Magnitude", "Random (KE)")])
    assert frame["difference"].round(2).tolist() == [-2.33, 4.34]
    assert frame["spread"].iloc[1] == pytest.approx((0.11**2 + 0.17**2) ** 0.5)
    pairs = [("Smth + LB (f10)", "Smth (f1)"), ("Smth + KE (f10)", "Smth (f1)")]
    frame = audit.differences("table2", pairs).set_index(["a", "column"])
    above = frame.index[frame["difference"] > 0]
    assert list(above) == [("Smth + LB (f10)", "CIFAR100"), ("Smth + KE (f10)", "CIFAR100")]


def test_differences_of_the_ablations():
    """40 % against 20 %: 62.79 - 66.63 on Aircraft, 66.87 - 71.37 on CUB. Flower: +3.74, +1.46."""
    shares = audit.differences("table5", [("40", "20")])
    assert rows(shares.round(2), "column", "difference") == [("Aircraft", -3.84), ("CUB", -4.5)]
    assert shares["spread"].isna().all()
    longer = audit.differences("table9", [("20", "10"), ("30", "20")])
    assert longer["difference"].round(2).tolist() == [3.74, 1.46]


def test_images_per_second():
    """10 x 200 x 5994 images in 6048 s; a tenth of it; 1199 in 20.3 s; 100 x 200 x 1020 in 8 h."""
    frame = audit.speeds()
    assert frame["images"].tolist() == [11_988_000, 1_198_800, 1199, 20_400_000]
    assert frame["rate"].round(1).tolist() == [1982.1, 198.2, 59.1, 708.3]


def test_accuracy_between_sensitivity_and_specificity():
    """Baseline: (56.90 - 58.68) / (56.11 - 58.68) = 0.693; DNR: 0.37 / -0.80 = -0.4625."""
    frame = audit.binary().set_index("row")
    assert frame["between"].to_dict() == {"Baseline (f3)": True, "DNR (f3)": False}
    assert frame["positives"].round(2).tolist() == [69.26, -46.25]
    assert (frame["majority"] > frame["accuracy"]).all()
    assert frame["majority"].iloc[0] == pytest.approx(68.24, abs=0.005)
