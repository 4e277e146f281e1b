"""The ledger of claims: its grammar, its tests and its verdicts, by hand and against scipy."""

import ast
import math
import re

import nbformat
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from dnrlib import UserError, frames
from dnrlib.book import pages, tables
from dnrlib.paper import claims, exhibits
from dnrlib.paper.claims import Evidence, Part, arms, in_print, ledger, p_values, parse, sample
from dnrlib.paper.exhibits import EXHIBITS


def frame(**by_arm):
    """Last generations: arm -> accuracies of seeds 0, 1, ... (None: not run)."""
    return pd.DataFrame(
        {
            "method": arm.replace("_", "-"),
            "seed": seed,
            "generation": 1,
            "last": True,
            "test_accuracy": value,
            "masked_accuracy": value - 1,
        }
        for arm, values in by_arm.items()
        for seed, value in enumerate(values)
        if value is not None
    )


def only(monkeypatch, **statements):
    """A ledger of these statements alone, all secondary unless named `primary...`."""
    rows = {
        name.replace("_", "-"): {
            "exhibit": "table1",
            "rank": "primary" if name.startswith("primary") else "secondary",
            "untestable": False,
            "embedded": statement,
            "photographs": statement,
            "full": statement,
        }
        for name, statement in statements.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    monkeypatch.setattr(claims, "claims", lambda: table)


def test_grammar():
    assert parse("dnr > long & dnr > tune > ke") == [
        Part(">", ("dnr", "long")),
        Part(">", ("dnr", "tune")),
        Part(">", ("tune", "ke")),
    ]
    assert parse("dnr+probe=2 = dnr") == [Part("=", ("dnr+probe=2", "dnr"))]
    assert parse("fall dnr, dnr+keep=0.7, dnr+keep=0.6") == [
        Part("fall", ("dnr", "dnr+keep=0.7", "dnr+keep=0.6"))
    ]
    assert parse("rise dnr@overlap_first by generation") == [Part("rise", ("dnr@overlap_first",))]
    for bad in ("", "dnr", "rise dnr", "dnr >", "> dnr", "rise dnr, ke by generation"):
        with pytest.raises(UserError, match="cannot be read"):
            parse(bad)


def test_arms_of_a_statement_are_named_as_in_the_frames():
    assert arms("dnr+generations=10 - long > ke@masked_accuracy", "digits") == ["dnr", "long", "ke"]


def test_every_claim_can_be_read_and_every_printed_row_exists():
    table = claims.claims()
    assert len(table) >= 40
    assert table.index.is_unique
    assert (table["rank"] == "primary").sum() == 3
    assert set(table["exhibit"]) <= EXHIBITS.keys() | {"cost"}
    assert set(table["basis"]) == {"text", "exhibit", "ours"}
    assert set(table["source"]) == {"dnr", "ske", "ke", "ours"}
    assert ((table["basis"] == "ours") == (table["source"] == "ours")).all()
    for column in ("known", "looked"):
        assert set(table[column]) == {"yes", ""}
    assert table.index[table["untestable"]].tolist() == [
        *("beats-ban", "ke-beats-repr", "repr-is-below-first"),
    ]
    kinds = {"=": {"equivalence"}, "rise": {"trend"}, "fall": {"trend"}}
    for _, row in table[table["embedded"] != ""].iterrows():
        kind = parse(row["embedded"])[0].kind
        assert row["type"] in kinds.get(kind, {"difference", "ordering"}), row
    for _, row in table.iterrows():
        assert "" not in (row["words"], row["place"]), row
        hedged = {"may", "might", "could", "potentially"} & {*row["words"].split()}
        assert not hedged, "what may be so cannot be ruled out"
        stated = row["embedded"] and not row["untestable"]
        assert stated or row["note"], "a claim that is not judged says why"
        if row["embedded"]:
            arms(row["embedded"], "digits")
        if row["full"]:
            parse(row["full"])
            assert "per_class" not in row["full"], "the paper's setting has no sweep"
        if row["printed"]:
            assert " = " not in row["printed"], "of printed numbers only order is judged"
            columns, against = in_print(row["printed"])
            assert columns >= 1
            assert len(against) <= columns


def test_claims_are_of_the_datasets_of_their_exhibit():
    """Exhibits with a bundled dataset of their own are judged there alone, all others elsewhere; in
    the paper's setting on the datasets of the exhibit, whatever was run."""
    frames = ["digits", "digits-colour", "digits-imbalanced", "digits-binary"]
    assert list(claims._datasets("fig5", frames, "embedded")) == ["digits-colour"]
    assert list(claims._datasets("table8", [], "embedded")) == ["digits-binary"]
    assert list(claims._datasets("table1", frames, "embedded")) == ["digits"]
    both = ["digits-hard", *frames]
    assert list(claims._datasets("cost", both, "embedded")) == ["digits-hard", "digits"]
    assert list(claims._datasets("fig5", frames, "full")) == ["cifar10"]
    assert list(claims._datasets("table8", frames, "full")) == ["papila", "papila-binary"]


def test_claims_with_a_column_of_an_evaluation(monkeypatch):
    """DNR's mean accuracy on corrupted images is higher on the coloured digits, and lower on the
    digits, where nobody asks."""
    only(monkeypatch, corrupted="dnr@mca > long@mca")
    claims.claims()["exhibit"] = "fig5"
    colour = frame(dnr=[80.0, 81.0, 82.0], long=[80.0, 81.0, 82.0])
    colour["mca"] = [50.0, 51.5, 52.0, 40.0, 41.0, 42.0]
    other = colour.assign(mca=-colour["mca"])
    verdicts = ledger({"digits": other, "digits-colour": colour})
    assert verdicts.loc["corrupted", ["n", "verdict"]].tolist() == [3, "holds"]
    assert verdicts.loc["corrupted", "value"] == pytest.approx(61 / 6)
    assert ledger({"digits": other}).loc["corrupted", "verdict"] == "not run"


def test_a_difference_is_paired_by_seed():
    given = frame(dnr=[3.0, 5.0, 9.0], long=[1.0, None, 4.0])
    assert sample(parse("dnr > long")[0], given, "digits").to_dict() == {0: 2.0, 2: 5.0}
    assert sample(parse("dnr@masked_accuracy > dnr")[0], given, "digits").tolist() == [-1, -1, -1]


def test_differences_of_differences():
    given = frame(dnr=[3.0, 5.0], long=[1.0, 2.0], ke=[1.0, 1.0], tune=[1.0, 0.0])
    values = sample(parse("dnr - long > ke - tune")[0], given, "digits")
    assert values.tolist() == [2.0, 2.0]


def test_a_trend_is_the_rise_of_the_fitted_line():
    """0, 1, 5: slope 2.5, over two steps 5; straight lines give their own rise."""
    given = frame(plain=[0.0, 0.0], tune=[1.0, 1.0], dnr=[5.0, 2.0])
    assert sample(parse("rise plain, tune, dnr")[0], given, "digits").tolist() == [5.0, 2.0]
    assert sample(parse("fall plain, tune, dnr")[0], given, "digits").tolist() == [-5.0, -2.0]


def test_a_trend_by_generation_in_points_of_overlap():
    given = pd.DataFrame(
        {
            "method": "dnr",
            "seed": 0,
            "generation": [1, 2, 3, 4],
            "last": [False, False, False, True],
            "test_accuracy": 50.0,
            "overlap_previous": [math.nan, 0.80, 0.81, 0.82],
        }
    )
    part = parse("rise dnr@overlap_previous by generation")[0]
    assert sample(part, given, "digits").tolist() == pytest.approx([2.0])


def test_p_values_are_those_of_scipy():
    values = pd.Series([0.4, 0.1, -0.2, 0.9, 0.3])
    support, refute = p_values(Part(">", ("a", "b")), values)
    assert support == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue)
    assert refute == pytest.approx(scipy_stats.ttest_1samp(values, 0.5, alternative="less").pvalue)
    assert p_values(Part(">", ("a", "b")), -values)[0] == 1.0
    support, refute = p_values(Part("=", ("a", "b")), values)
    lower = scipy_stats.ttest_1samp(values, -0.5, alternative="greater").pvalue
    upper = scipy_stats.ttest_1samp(values, 0.5, alternative="less").pvalue
    assert support == pytest.approx(max(lower, upper))
    assert p_values(Part("=", ("a", "b")), -values)[0] == pytest.approx(max(lower, upper))
    beyond = scipy_stats.ttest_1samp(values, 0.5, alternative="greater").pvalue
    assert refute == pytest.approx(min(1, 2 * beyond))
    for none in (pd.Series([1.0]), pd.Series([1.0, 1.0]), pd.Series(dtype=float)):
        assert p_values(Part(">", ("a", "b")), none) == (1.0, 1.0)


def test_verdicts(monkeypatch):
    only(
        monkeypatch,
        wins="dnr > long",
        loses="long > dnr",
        best="dnr > long & dnr > tune",
        open="tune > ke",
        same="dnr = ke-wels",
        missing="dnr > lw",
        partly_missing="dnr > long & dnr > lw",
    )
    given = frame(
        dnr=[50.0, 52.1, 54.0, 50.2],
        long=[48.0, 50.0, 52.0, 48.1],
        tune=[50.1, 52.0, 54.1, 50.1],
        ke=[46.0, 58.0, 50.0, 55.0],
        ke_wels=[50.01, 52.11, 54.0, 50.21],
    )
    found = ledger({"digits": given})
    assert found["verdict"].to_dict() == {
        "wins": "holds",
        "loses": "fails",
        "best": "fails",
        "open": "undecided",
        "same": "holds",
        "missing": "not run",
        "partly-missing": "not run",
    }
    assert found.loc["wins", "value"] == pytest.approx(2.05)
    assert found.loc["best", "value"] == pytest.approx(0.0), "that of the weakest part"
    assert found.loc["open", "seeds_needed"] > 100
    assert math.isnan(found.loc["wins", "seeds_needed"])


def test_families_are_adjusted_apart(monkeypatch):
    """One primary claim stays at its own p however many secondary ones there are."""
    only(monkeypatch, primary_one="dnr > long", a="dnr > long", b="dnr > long", c="dnr > lw")
    given = frame(dnr=[51.0, 52.0, 53.5], long=[50.0, 50.0, 50.0])
    found = ledger({"digits": given})
    alone = p_values(Part(">", ("dnr", "long")), pd.Series([1.0, 2.0, 3.5]))[0]
    assert found.loc["primary-one", "support"] == pytest.approx(alone)
    # c was not run, and counts all the same: the family does not shrink.
    assert found.loc["a", "support"] == pytest.approx(3 * alone)


def test_an_untestable_claim_is_not_judged_and_counts_in_its_family_as_before(monkeypatch):
    """The p-value of `c`, the smallest, still counts before those of `a` and `b`."""
    given = frame(dnr=[51.0, 52.0, 53.5], long=[50.0, 50.0, 50.0], ke=[41.1, 42.0, 43.5])
    only(monkeypatch, a="dnr > long", b="dnr > long", c="dnr > ke")
    before = ledger({"digits": given})
    claims.claims().loc["c", "untestable"] = True
    after = ledger({"digits": given})
    others = ["a", "b"]
    pd.testing.assert_frame_equal(after.loc[others], before.loc[others], check_dtype=False)
    assert after.loc["c", ["n", "verdict"]].tolist() == [0, "not testable here"]
    assert after.loc["c", ["value", "low", "high", "seeds_needed"]].isna().all()
    assert after.loc["c", "support"] == before.loc["c", "support"]
    assert ledger({"digits": given[:0]}).loc["c", "verdict"] == "not run"
    monkeypatch.setattr(claims, "_named", lambda arm, dataset: arm)
    every = dict.fromkeys(EXHIBITS["table1"].columns, given)
    assert "not testable here" not in set(ledger(every, "full")["verdict"]), "of digits alone"


def holds(monkeypatch, digits, photographs):
    """What the notebook `holds` says of verdicts on digits and on photographs."""
    monkeypatch.setattr(pages, "verdicts", lambda page: digits)
    nothing = ledger({}, "full")
    found = {"photographs": photographs, "full": nothing}
    monkeypatch.setattr(pages, "scope_verdicts", lambda scope: found[scope])
    names, said = {}, []
    for cell in nbformat.read(pages.NOTEBOOKS / "holds.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, cell.id, "exec"), names)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), cell.id, "eval"), names)
                said.append(getattr(value, "data", ""))
    return "\n".join(said)


def row_of(said, claim):
    """The row of a claim in the ledger; there is exactly one."""
    (row,) = (line for line in said.splitlines() if f"{{#claim-{claim}}}" in line)
    return row


def test_pages_say_which_claim_is_not_testable_and_why(monkeypatch):
    """It is counted."""
    names = ("plain", "dnr", "ke", "ban", "dsd")
    arms = {f"{name}+smoothing=0": [50.0, 51.0, 53.0] for name in names}
    verdicts = ledger({"digits": frame(**arms).reindex(columns=frames.COLUMNS)})
    note = "On digits neither loss gives what the paper prints for BAN"
    said = holds(monkeypatch, verdicts, ledger({}, "photographs"))
    assert f"| not testable here: {note}" in row_of(said, "beats-ban")
    assert "not testable here 1" in said
    found = tables.findings(verdicts, "table1", "digits").data
    assert f"{{ref}}`Not testable here <claim-beats-ban>`. {note}" in found


def test_every_claim_has_one_row_with_an_address_and_its_evidence(monkeypatch):
    said = holds(monkeypatch, ledger({}), ledger({}, "photographs"))
    for name, claim in claims.claims().iterrows():
        row = row_of(said, name)
        assert claim["words"] in row
        assert f"[#](#claim-{name})" in row
        assert "Evidence: {doc}`" in row, "the page of its exhibit"


def test_pages_mark_what_was_seen_before_a_claim_was_stated(monkeypatch):
    """On photographs another thing than on digits."""
    monkeypatch.setitem(exhibits.PLANNED, "cifar10-few", {"dnr": 3, "long": 2, "plain": 3})
    monkeypatch.setitem(exhibits.PLANNED, "flower102-64", {"dnr": 3, "long": 2, "plain": 3})
    given = frame(dnr=[51.0, 52.0], long=[50.0, 50.5], plain=[49.0, 48.0])
    given = given.reindex(columns=frames.COLUMNS)
    both = dict.fromkeys(("cifar10-few", "flower102-64"), given)
    verdicts = ledger(both, "photographs")
    said = holds(monkeypatch, ledger({}), verdicts)
    some = "flower102-64, 2 of 3 seeds; cifar10-few, 2 of 3 seeds"
    assert f"| not finished †: {some} |" in row_of(said, "beats-plain")
    both = ["flower102-64: +1.25 points [", "cifar10-few: +1.25 points ["]
    row = row_of(said, "beats-lb")
    assert "| undecided †: " in row
    assert all(each in row for each in both)
    assert "| not run † | not run |" in row_of(said, "ke-same-share"), "known, not looked at"


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({"low": -1, "high": 2, "seeds_needed": 43}, "difference", "too few seeds: .* need 43"),
        ({"low": 0.1, "high": 2, "seeds_needed": 43}, "difference", "leaves out zero, but not"),
        ({"low": -2, "high": -0.1, "seeds_needed": 43}, "trend", "leaves out zero, but not"),
        ({"low": -1, "high": 0.1, "seeds_needed": 9, "alone": 0.04}, "ordering", "out by itself"),
        ({"low": -0.2, "high": 0.6, "seeds_needed": 5}, "ordering", "holds zero and half a point"),
        ({"low": -0.7, "high": -0.1, "seeds_needed": 5}, "equivalence", r"beyond half a point\)$"),
        ({"low": -0.7, "high": -0.6, "seeds_needed": 5}, "equivalence", "lies .*, but not after"),
        ({"low": -2, "high": 2, "seeds_needed": 9}, "equivalence", "beyond half a point; too few"),
    ],
)
def test_an_undecided_claim_says_why(row, kind, reason):
    evidence = Evidence(1.0, 1.0, pd.Series([0.1, 0.5]), "digits", "", 0)
    row = pd.Series({"n": 8, "alone": 1.0, "decides": [evidence], "verdict": "undecided"} | row)
    assert re.search(reason, tables.measured(row, {"type": kind}))
    holds = row.replace("undecided", "holds")
    assert not re.search(reason, tables.measured(holds, {"type": kind}))


def test_what_is_ruled_out_by_itself_is_what_is_shown_and_its_set_says_so(monkeypatch):
    """Not the part that is least supported, and not behind another set."""
    only(monkeypatch, two="dnr > long & dnr > ke")
    monkeypatch.setitem(exhibits.PLANNED, "cifar10-few", {})
    monkeypatch.setitem(exhibits.PLANNED, "flower102-64", {})
    by_seed = [-4.0, 3.0, -5.0, 2.0], [0.30, 0.35, 0.28, 0.31]
    given = frame(
        dnr=[50.0] * 4,
        long=[50 - value for value in by_seed[0]],
        ke=[50 - value for value in by_seed[1]],
    )
    monkeypatch.setattr(claims, "holm", lambda p: [1.0] * len(p))
    row = ledger({"digits": given}).loc["two"]
    assert row["verdict"] == "undecided"
    assert row["value"] == pytest.approx(sum(by_seed[1]) / 4)
    said = tables.measured(row, {"type": "difference"})
    assert re.fullmatch(r"DNR − KE.*points.*seeds \(ruled out by itself, but not .*\)", said)
    both = ledger(dict.fromkeys(("cifar10-few", "flower102-64"), given), "photographs").loc["two"]
    first, second = tables.measured(both, {"type": "difference"}).split("; ")
    assert "(ruled out by itself" in first
    assert "(" not in second.replace("(LB)", "").replace("(KELS)", "")


def test_words_of_verdicts_cover_every_verdict():
    assert tables.FAMILIES.keys() == set(claims.claims()["rank"])
    for golden in (ledger({}), pages.verdicts(pages.Parameters("digits"))):
        assert set(golden["verdict"]) <= tables.CLAIM_WORDS.keys()


def test_refutation_by_any_of_several_parts_is_adjusted(monkeypatch):
    given = frame(dnr=[51.0, 52.0, 53.5], long=[50.0, 50.0, 50.0], ke=[40.0, 45.0, 41.0])
    alone = p_values(Part(">", ("long", "dnr")), pd.Series([-1.0, -2.0, -3.5]))[1]
    only(monkeypatch, one="long > dnr")
    assert ledger({"digits": given}).loc["one", "refute"] == pytest.approx(alone)
    only(monkeypatch, two="long > dnr & long > ke")
    assert ledger({"digits": given}).loc["two", "refute"] == pytest.approx(2 * alone)


def test_in_the_papers_setting_every_dataset_of_the_exhibit_must_be_run(monkeypatch):
    only(monkeypatch, wins="dnr > long")
    given = frame(dnr=[51.0, 52.0, 53.5, 55.0], long=[50.0, 50.0, 50.0, 50.1])
    monkeypatch.setattr(claims, "_named", lambda arm, dataset: arm)
    some = dict.fromkeys(["cub200", "aircraft"], given)
    assert ledger(some, "full").loc["wins", "verdict"] == "not run"
    every = dict.fromkeys(EXHIBITS["table1"].columns, given)
    assert ledger(every, "full").loc["wins", "verdict"] == "holds"


def test_on_photographs_nothing_is_judged_before_all_planned_seeds_are_there(monkeypatch):
    only(monkeypatch, wins="dnr > long")
    monkeypatch.setitem(exhibits.PLANNED, "cifar10-few", {"dnr": 4, "long": 4})
    monkeypatch.setitem(exhibits.PLANNED, "flower102-64", {"dnr": 9})
    given = frame(dnr=[51.0, 52.0, 53.5, 55.0], long=[50.0, 50.0, 50.0, 50.1])
    row = ledger({"cifar10-few": given}, "photographs").loc["wins"]
    assert row["verdict"] == "not run", "both sets are needed"
    both = {"cifar10-few": given, "flower102-64": given}
    assert ledger(both, "photographs").loc["wins", "verdict"] == "holds"
    both["cifar10-few"] = given[given["seed"] < 3]
    row = ledger(both, "photographs").loc["wins"]
    assert (row["verdict"], row["support"], row["refute"]) == ("not finished", 1, 1)
    assert row["n"] >= 3
    worse = frame(dnr=[49.0, 48.0, 47.5, 48.2], long=[50.0, 50.0, 50.0, 50.1])
    both["cifar10-few"] = worse
    row = ledger(both, "photographs").loc["wins"]
    assert row["verdict"] == "fails", "one set decides"
    decides = [(each.dataset, each.values.mean() > 0) for each in row["decides"]]
    assert decides == [("cifar10-few", False), ("flower102-64", True)], "and stands first"
    assert row["value"] == row["decides"][0].values.mean()


def test_statements_on_photographs_speak_of_what_is_planned_there():
    for _, stated in claims.claims().iterrows():
        if stated["photographs"]:
            for dataset in exhibits.EXHIBITS[stated["exhibit"]].photographs:
                known = exhibits.PLANNED[dataset]
                assert set(claims.arms(stated["photographs"], dataset)) <= known.keys()


def test_printed_numbers_are_judged_by_order_alone():
    """DSD on Aircraft, 57.24, is above DNR's 55.87 (D43)."""
    assert in_print("dnr_table1: DNR (f10) > DSD") == (5, ["Aircraft"])
    assert in_print("dnr_table1: DNR (f10) > DSD @ CUB, Dog") == (2, [])
    assert in_print("dnr_table5: 20 > 5 & 20 > 40") == (2, [])
    assert in_print("dnr_table2: Smth (f1) > Smth + LB (f10)") == (3, ["CIFAR100"])
