"""The papers' numbers and our tables beside them."""

import pandas as pd
import pytest

from dnrlib import UserError
from dnrlib.paper.claims import arms as stated_arms
from dnrlib.paper.exhibits import (
    ANALOGUE,
    EXHIBITS,
    PAPER,
    PLANNED,
    arms,
    beside_paper,
    discrepancies,
    numbers,
    overlap_printed,
    printed_columns,
    readme_commands,
    seeds_of,
    sweep_pairs,
    wide,
)
from dnrlib.recipes import OF_THE_PAPERS, RECIPES, arm_of, configure, parse_arm


def test_all_1461_numbers_are_there():
    names = [path.stem for paper in ("dnr", "ske", "ke") for path in PAPER.glob(f"{paper}_*.csv")]
    frames = {name: numbers(*name.split("_")) for name in names}
    assert sum(map(len, frames.values())) == 1461
    for name, frame in frames.items():
        # Three datasets have no validation images; the papers print N/A.
        assert set(frame["column"][frame["value"].isna()]) <= {"Validation", "Val"}, name
        assert frame[["row", "column", "unit"]].notna().all(axis=None), name
        assert not frame.duplicated(["row", "column"]).any(), name


@pytest.mark.parametrize("exhibit", ["table1", "table2"])
def test_printed_means_are_those_of_their_rows(exhibit):
    cells = wide("dnr", exhibit)
    assert (cells.drop(columns="Mean").mean(axis=1) - cells["Mean"]).abs().max() < 0.006


def test_the_printed_mean_of_gem_is_that_of_its_datasets():
    cells = wide("gem", "results")
    assert (cells.drop(columns="Avg.").mean(axis=1) - cells["Avg."]).abs().max() < 0.006


def test_numbers_by_hand():
    """DNR Table 1, Smth + DNR (f10) on CUB: 71.37 ± 0.22."""
    table = numbers("dnr", "table1").set_index(["row", "column"])
    row = table.loc[("Smth + DNR (f10)", "CUB")]
    assert (row["value"], row["std"]) == (71.37, 0.22)


def test_rows_and_columns_exist():
    for exhibit, of in EXHIBITS.items():
        if not of.columns:
            continue
        assert of.columns.keys() <= RECIPES.keys()
        assert of.rows.keys() <= set(of.arms.split())
        rows = set(of.rows.values())
        # Some figures print no values.
        if exhibit in ("fig3", "fig6", "fig7"):
            assert not rows
            assert not (PAPER / f"dnr_{exhibit}.csv").exists()
            continue
        table = numbers(*(exhibit if "_" in exhibit else f"dnr_{exhibit}").split("_"))
        assert set(of.columns.values()) - {""} <= set(table["column"]), exhibit
        assert rows <= set(table["row"]), exhibit


def test_exhibits_with_a_bundled_dataset_of_their_own():
    """Its recipe is there, and so are the exhibit's arms and datasets."""
    for exhibit, dataset in ANALOGUE.items():
        assert dataset in RECIPES
        assert dataset not in OF_THE_PAPERS
        assert EXHIBITS[exhibit].arms
        assert set(EXHIBITS[exhibit].columns) <= set(OF_THE_PAPERS)
    # One of them is our own, with what Fig. 5 prints; the others print nothing by dataset.
    none = [name for name in ANALOGUE if not EXHIBITS[name].columns]
    assert none == ["normalisation", "ke_fig13", "ke_fig14", "ke_table10"]
    assert EXHIBITS["normalisation"].rows.items() <= EXHIBITS["fig5"].rows.items()


def test_photographs_stand_beside_the_dataset_that_they_are_of_or_beside_nothing():
    assert printed_columns("table1", "flower102-64") == ["Flower"]
    assert printed_columns("table1", "cifar10-few") == []
    assert len(printed_columns("table1", "digits")) == 5


def test_every_table_and_figure_of_ke_with_results_has_a_row():
    tables = {f"ke_table{number}" for number in range(2, 14)}
    figures = {f"ke_fig{number}" for number in (1, 7, 8, 9, *range(12, 20))}
    assert {name for name in EXHIBITS if name.startswith("ke_")} == tables | figures


def test_every_arm_of_every_exhibit_can_be_run_and_has_its_own_name():
    for exhibit in EXHIBITS:
        for dataset in ("digits", "digits-hard"):
            listed = arms(exhibit, dataset)
            assert [arm_of(configure(dataset, **parse_arm(arm))) for arm in listed] == listed
    assert seeds_of("flower102-64", "dnr+keep=0.9", 6) == [0, 1, 2, 7, 8, 9]
    for dataset, arm in (("flower102-64", "dnr"), ("digits", "dnr+keep=0.9")):
        assert seeds_of(dataset, arm, 6) == [*range(6)]
    for dataset, planned in PLANNED.items():
        assert [arm_of(configure(dataset, **parse_arm(arm))) for arm in planned] == list(planned)
    with pytest.raises(UserError, match="exhibit='table99' is unknown; choose one of: table1"):
        arms("table99", "digits")


def test_table2_is_a_sweep_on_bundled_images_and_a_table_on_the_papers():
    assert arms("table2", "cifar10") == ["plain", "long", "tune", "ke", "dnr"]
    assert arms("table2", "digits")[:7] == [
        *("plain", "long+generations=3", "tune+generations=3", "ke+generations=3"),
        *("dnr+generations=3", "plain+per_class=5", "long+generations=3+per_class=5"),
    ]
    assert sweep_pairs("cifar10") == [("dnr", "long"), ("dnr", "tune"), ("dnr", "ke")]
    assert len(sweep_pairs("digits")) == 12
    # 20 per class is what digits-hard has anyway.
    assert len(sweep_pairs("digits-hard")) == 9


def test_the_probe_of_table7_fits_the_dataset():
    assert arms("table7", "cub200") == ["dnr+probe=128", "dnr", "dnr+probe=1"]
    assert arms("table7", "digits") == ["dnr+probe=2", "dnr", "dnr+probe=1"]


def test_discrepancies_are_whole():
    found = discrepancies()
    assert found.index.is_unique
    assert set(found["severity"]) == {"result", "detail", "text"}
    assert set(found["confirmed"]) <= {"recomputed", "code", "paper", "elsewhere"}
    for column in ("where", "what", "consequence", "ours"):
        assert (found[column] != "").all(), column
    for row in readme_commands().itertuples():
        assert stated_arms(f"{row.arm} > plain", "digits")
        assert set(row.because.split(", ")) <= set(found.index)


def test_beside_paper_joins_the_row_of_the_method_and_the_column_of_the_dataset():
    ours = pd.DataFrame({"mean": [1.0, 2.0, 3.0]}, index=["dnr", "tune", "ke"])
    flower = beside_paper(ours, "table1", "flower102")
    assert flower["paper"].tolist()[::2] == [68.36, 62.56]
    assert flower["paper_std"].tolist()[::2] == [0.14, 0.17]
    assert flower["paper"].isna().tolist() == [False, True, False]
    assert flower["mean"].tolist() == [1.0, 2.0, 3.0], "ours stays ours"
    mean = beside_paper(ours, "table1", "digits")
    assert mean["paper"].round(2).tolist()[::2] == [67.45, 63.17]
    assert mean["paper_std"].isna().all(), "a mean over datasets has no printed spread"
    ours = pd.DataFrame({"mean": [1.0, 2.0]}, index=["ban+smoothing=0", "ban-lineage+smoothing=0"])
    assert beside_paper(ours, "table1", "cub200")["paper"].fillna(0).tolist() == [0, 53.71]
    ours = pd.DataFrame({"mean": [1.0]}, index=["dnr+criterion=fisher"])
    assert beside_paper(ours, "table4", "cub200")["paper"].tolist() == [67.73]


def test_printed_overlap_maps():
    """The weighted mean of Fig. 2 goes from 81.1 to 86.8 % (D20)."""
    fig2 = overlap_printed("fig2")
    assert fig2.loc["1–2", "conv1"] == 98.5
    assert fig2.loc["9–10", "fc"] == 96.9
    assert fig2["all"].round(1).iloc[[0, -1]].tolist() == [81.1, 86.8]
    assert list(overlap_printed("fig4").index) == [f"1–{number}" for number in range(2, 11)]
