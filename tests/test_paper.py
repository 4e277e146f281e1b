"""The papers' numbers and our tables beside them."""

import pandas as pd
import pytest

from dnrlib import UserError
from dnrlib.config import RECIPES
from dnrlib.methods import METHODS
from dnrlib.paper import COLUMNS, PAPER, ROWS, beside_paper, numbers, overlap_printed


def test_all_1461_numbers_are_there():
    frames = {path.stem: numbers(*path.stem.split("_")) for path in PAPER.glob("*.csv")}
    assert sum(map(len, frames.values())) == 1461
    for name, frame in frames.items():
        # Three datasets have no validation images; the papers print N/A.
        assert set(frame["column"][frame["value"].isna()]) <= {"Validation", "Val"}, name
        assert frame[["row", "column", "unit"]].notna().all(axis=None), name
        assert not frame.duplicated(["row", "column"]).any(), name


@pytest.mark.parametrize("exhibit", ["table1", "table2"])
def test_printed_means_are_those_of_their_rows(exhibit):
    wide = numbers("dnr", exhibit).pivot(index="row", columns="column", values="value")
    assert (wide.drop(columns="Mean").mean(axis=1) - wide["Mean"]).abs().max() < 0.006


def test_numbers_by_hand():
    """DNR Table 1, Smth + DNR (f10) on CUB: 71.37 ± 0.22."""
    table = numbers("dnr", "table1").set_index(["row", "column"])
    row = table.loc[("Smth + DNR (f10)", "CUB")]
    assert (row["value"], row["std"]) == (71.37, 0.22)


def test_an_unknown_exhibit_is_an_error():
    with pytest.raises(UserError, match="no exhibit dnr_table99; there are: dnr_fig2"):
        numbers("dnr", "table99")


def test_rows_and_columns_exist():
    table = numbers("dnr", "table1")
    assert set(ROWS.values()) <= set(table["row"])
    assert set(COLUMNS.values()) <= set(table["column"])
    assert ROWS.keys() <= METHODS.keys()
    assert COLUMNS.keys() <= RECIPES.keys()


def test_beside_paper_joins_the_row_of_the_method_and_the_column_of_the_dataset():
    ours = pd.DataFrame({"mean": [1.0, 2.0, 3.0]}, index=["dnr", "tune", "ke"])
    flower = beside_paper(ours, "flower102")
    assert flower["paper"].tolist()[::2] == [68.36, 62.56]
    assert flower["paper_std"].tolist()[::2] == [0.14, 0.17]
    assert flower["paper"].isna().tolist() == [False, True, False]
    assert flower["mean"].tolist() == [1.0, 2.0, 3.0], "ours stays ours"
    assert beside_paper(ours, "digits")["paper"].tolist()[::2] == [67.45, 63.17]


def test_printed_overlap_maps():
    """The weighted mean of Fig. 2 goes from 81.1 to 86.8 % (D20)."""
    fig2 = overlap_printed("fig2")
    assert fig2.loc["1–2", "conv1"] == 98.5
    assert fig2.loc["9–10", "fc"] == 96.9
    assert fig2["all"].round(1).iloc[[0, -1]].tolist() == [81.1, 86.8]
    assert list(overlap_printed("fig4").index) == [f"1–{number}" for number in range(2, 11)]
