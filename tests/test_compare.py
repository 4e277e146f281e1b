"""The comparison on one's own images: its time, its choice, and all of it once, tiny."""

import dataclasses
import importlib.util
import math
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from dnrlib import UserError, cli, methods, records, run, study, train
from dnrlib.book.tables import LEAST_SEEDS, MISSING
from dnrlib.compare import choice, report
from dnrlib.compare import export as export_module
from dnrlib.compare.choice import ARMS, CELLS, ORDINARY, choose, detectable, estimated
from dnrlib.compare.export import export, load_model
from dnrlib.datasets.augment import DISTORTED, evaluation_batches
from dnrlib.datasets.catalogue import dataset, read
from dnrlib.datasets.splits import Split
from dnrlib.methods import label
from dnrlib.models import build as build_network
from dnrlib.models import load_state
from dnrlib.recipes import configure
from dnrlib.run import chain, finished
from dnrlib.stats import LEVEL, MARGIN, Estimate, crossed_error, estimate, seeds_needed
from dnrlib.store import Store
from tests import POSIX
from tests.test_figures import Page
from tests.test_folder import build, image

# --------------------------------------------------------------------------------------------------
# The choice

NOISE = np.array([0.3, -0.5, 0.1, 0.4, -0.3])


def scores(**given):
    """Accuracies of five seeds, 80 for all but what is given, with unequal noise; every image has
    the accuracy of its seed, so that images add nothing to the spread. In names two
    underscores stand for the plus sign."""
    rows, given = [], {name.replace("__", "+"): values for name, values in given.items()}
    for number, method in enumerate(dict.fromkeys([*ARMS, *given])):
        values = given.get(method, 80 + np.roll(NOISE, number))
        rows += [
            {"method": method, "seed": seed, "validation": float(value)}
            | {f"{pool}_right": 30 * [float(value)] for pool in ("validation", "test")}
            for seed, value in enumerate(values)
        ]
    return pd.DataFrame(rows)


def chosen(**given):
    frame = scores(**given)
    return choose({arm: np.array(rows.tolist()) for arm, rows in by_arm(frame)})


def by_arm(frame):
    return frame.groupby("method")["validation_right"]


def all_like(values):
    return {arm.replace("+", "__"): values for arm in ARMS}


def test_a_clear_winner_is_advised():
    found = chosen(dnr__tuned=86 + NOISE[::-1], ke=83 + NOISE)
    assert (found.method, found.leader, found.found) == ("dnr+tuned", "dnr+tuned", True)
    assert found.decided
    assert list(found.over) == list(ORDINARY)
    assert all(each.low > 0 for each in found.over.values())
    assert found.over["plain"].mean == pytest.approx(6)


def test_no_difference_advises_the_simplest():
    found = chosen()
    assert (found.method, found.found, found.decided) == ("plain", False, False)
    assert found.over["long+tuned"].low < 0 < found.over["long+tuned"].high
    assert 0 < found.detectable < 5


def test_longer_training_is_advised_if_it_alone_helps():
    found = chosen(long__tuned=84 + NOISE[::-1])
    assert (found.method, found.found, found.decided) == ("long+tuned", False, True)
    assert found.ahead["plain"].mean == pytest.approx(4, abs=0.1)
    assert list(found.ahead) == ["plain", "plain+tuned", "long+augment=trivial"]
    assert found.over["long+tuned"].high < 0


def test_of_ordinary_trainings_the_better_mean_is_advised_and_nothing_claimed(there):
    """Twelve points that three noisy seeds cannot prove are no reason to train a third as long."""
    wild = {"plain": 80 + 20 * NOISE, "plain__tuned": 80 - 20 * NOISE}
    found = chosen(**(all_like(90 + NOISE) | wild | {"long__tuned": 92 + NOISE[::-1]}))
    assert (found.method, found.found) == ("long+tuned", False)
    unsure = wild | {"long__tuned": 81 + NOISE[::-1]}
    said = report.answer(made(there, scores(**(all_like(78 + NOISE) | unsure))))
    assert "**No winner; the cheapest of those not worse is the long baseline" in said
    assert "On the validation images it has +1.00 points [" in said


def test_equal_means_are_a_tie_for_the_simplest():
    found = chosen(**all_like([80.0] * 5))
    assert (found.method, found.found) == ("plain", False)
    assert math.isnan(found.detectable)


def test_a_difference_without_spread_is_no_evidence():
    assert not chosen(**(all_like(80 + NOISE) | {"dnr__tuned": 82 + NOISE})).found


@pytest.mark.parametrize("of", ORDINARY)
def test_a_winner_must_beat_every_ordinary_training(of):
    low = dict.fromkeys(ORDINARY, 70 + NOISE[::-1])
    given = low | {of: 80 + NOISE} | dict.fromkeys(("ke", "tune", "ensemble+tuned"), 70 + NOISE)
    found = chosen(**given, dnr__tuned=80.1 + np.roll(NOISE, 2))
    assert sum(each.low > 0 for each in found.over.values()) == 3
    assert (found.method, found.found) == (of, False)


def test_picking_the_best_of_four_is_corrected_for():
    edge = np.array([0.2, 1.8, 0.6, 1.0, 1.4])
    found = chosen(**(all_like(80 + NOISE) | {"dnr__tuned": 80 + NOISE + edge}))
    over = found.over["long+tuned"]
    assert estimate(edge).low > 0 > over.low
    assert not found.found
    test = stats.ttest_1samp(edge, 0).confidence_interval(1 - 0.05 / 4)
    assert (over.low, over.high) == pytest.approx((test.low, test.high))


def test_few_images_are_less_sure_than_many():
    """Six of a hundred images more, in every seed, may be an accident of the images."""
    draw = np.random.RandomState(0)
    right = {arm: 100.0 * (draw.rand(5, 100) < 0.8) for arm in ARMS}
    right["plain"][:, :6], right["ke"] = 0, right["plain"].copy()
    right["ke"][:, :6] = 100 * (draw.rand(5, 6) < 0.9)
    shifted = {arm: np.tile(values, (1, 40)) for arm, values in right.items()}
    few, many = (estimated(each["ke"] - each["plain"]) for each in (right, shifted))
    assert few.mean == pytest.approx(many.mean)
    by_seed = estimate(right["ke"].mean(1) - right["plain"].mean(1))
    assert few.low + 1 < many.low <= by_seed.low + 1e-9


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_decide_nothing_and_have_no_interval(there, seeds):
    frame = scores(dnr__tuned=90 + NOISE)
    few = frame[frame["seed"] < seeds]
    found = choose({arm: np.array(rows.tolist()) for arm, rows in by_arm(few)})
    assert (found.method, found.found) == ("plain", False)
    assert found.over["long+tuned"].mean == pytest.approx(10, abs=1)
    for difference in (*found.over.values(), *found.ahead.values()):
        assert math.isnan(difference.low)
        assert math.isnan(difference.high)
    said = report.answer(made(there, few))
    assert said.startswith(
        "**Nothing is decided yet; so far the cheapest of those not worse is plain"
    )
    assert f"fewer than {LEAST_SEEDS} seeds; give it more --hours" in said
    assert "[" not in said
    assert "nan" not in said


def test_seeds_that_agree_have_no_interval(there):
    found = made(there, scores(**all_like([80.0] * 5)))
    said = report.answer(found)
    assert math.isnan(found.choice.over["long+tuned"].low)
    assert "[" not in said
    assert "The seeds do not differ" in said


@pytest.mark.parametrize(("behind", "advised"), [(MARGIN, "plain"), (MARGIN + 0.1, "plain+tuned")])
def test_the_cheapest_that_is_not_worse_is_at_most_the_margin_behind(behind, advised):
    level = 90 + 10 * NOISE
    found = chosen(**(all_like(level) | {"plain": level[::-1] - behind}))
    assert (found.method, found.found) == (advised, False)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("level", [LEVEL, 0.9875])
def test_what_can_be_detected_has_the_power(n, level):
    sd = 1.7
    difference = detectable(sd / math.sqrt(n), n - 1, level)
    critical = stats.t.ppf((1 + level) / 2, n - 1)
    power = 1 - stats.nct.cdf(critical, n - 1, difference / sd * math.sqrt(n))
    assert power == pytest.approx(0.8, abs=1e-6)
    if level == LEVEL:
        assert seeds_needed(sd, difference * 1.0001) == n
    assert detectable(2 * sd / math.sqrt(n), n - 1, level) == pytest.approx(2 * difference)


def test_nothing_can_be_said_of_one_seed_or_no_spread():
    assert math.isnan(detectable(*crossed_error(np.array([[0.0, 100.0, 100.0]])), 0.95))
    assert math.isnan(detectable(*crossed_error(np.full((3, 4), 100.0)), 0.95))


@pytest.mark.parametrize("images", [24, 400])
def test_a_difference_that_can_be_detected_is_found_four_times_in_five(images):
    """By the report's own rule, with seeds and images that vary."""
    rng, seeds = np.random.default_rng(0), 5

    def drawn(shift):
        of_image, of_seed = rng.normal(0, 30, images), rng.normal(0, 2, (seeds, 1))
        return shift + of_image + of_seed + rng.normal(0, 60, (seeds, images))

    def of(shift):
        return choose(dict.fromkeys(ARMS, np.zeros((seeds, images))) | {"tune": drawn(shift)})

    said = np.median([of(100).detectable for _ in range(100)])
    assert 0.7 < np.mean([of(said).found for _ in range(400)]) < 0.95


# --------------------------------------------------------------------------------------------------
# All of it

HOW = {
    "hours": 0.5,
    "workers": 1,
    "device": "cpu",
    "seeds": 3,
    "settings": {"width": 4, "per_class": 4, "batch": 20, "generations": 2, "epochs": 2},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A comparison with its report: the folders of its runs and of what it wrote."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNRLIB_RUNS", str(folder / "runs"))
        found = choice.compared("digits", folder / "out", **HOW)
        export(found.config(found.choice.method), folder / "out" / "model.pt", "cpu")
        assert report.write(folder / "out") == folder / "out" / "report.html"
    return folder


@pytest.fixture
def there(whole, monkeypatch):
    """The folder of the comparison, with its runs in place."""
    monkeypatch.setenv("DNRLIB_RUNS", str(whole / "runs"))
    return whole / "out"


def test_what_is_stored_is_what_the_networks_do(there):
    found = choice.load(there)
    assert found.scores.shape == (24, 8)
    assert (found.seeds, found.done) == (3, 3)
    for row in found.scores.itertuples():
        if row.seed:
            continue
        config = found.config(row.method, row.seed)
        trainee, pools = finished(config), read("digits")
        assert trainee.measure(pools["test"])[0] == pytest.approx(row.test)
        assert np.mean(row.test_right) == pytest.approx(row.test)
        assert np.mean(row.validation_right) == pytest.approx(row.validation)
        accuracy = trainee.measure(pools["tuning"])[0]
        assert accuracy == pytest.approx(row.validation)
        # Classes of the digits' test pool are equally large.
        assert row.balanced == pytest.approx(row.test)


def test_the_report_is_one_file_with_the_answer_first(there):
    text = (there / "report.html").read_text()
    found = choice.load(there)
    loads = re.findall(r"""(?:src|href|action|data)\s*=\s*["']?([^"'\s>]+)""", text)
    assert loads
    assert all(target.startswith(("data:image/png", "#")) for target in loads)
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?http", text)
    assert "Traceback" not in text
    assert "import answer" not in text
    first = text[text.index("<p") : text.index("<h2")]
    assert re.search("<strong>(Use|No winner; the cheapest of those not worse is) ", first)
    assert report.named(found.choice.method) in first
    assert "n = 3" in first
    assert f"{report.majority(found):.1f} %" in first
    images = re.findall(r"<svg[^>]*>", text)
    assert len(images) == 4
    assert all(re.search(r'aria-label="[^"]{30}', image) for image in images)
    assert "<img" not in text
    for arm in ARMS:
        assert label(arm) in text
    assert "If you may, try a network first that was trained on many other images" in first


def test_all_arms_of_several_generations_have_one_budget(there):
    found = choice.load(there)
    configs = [found.config(arm, 4) for arm in ARMS]
    spent = [methods.budget(config) for config in configs]
    # Three members cannot be shorter than an epoch each.
    assert spent == [2, 2, 4, 4, 4, 4, 4, 3]
    assert {(config.pool, config.seed) for config in configs} == {("tuning", 4)}


def test_tuned_settings_are_those_of_the_best_short_training(there, tmp_path, monkeypatch):
    found = choice.load(there)
    accuracies = [
        run.run(config)[-1]["result"]["test_accuracy"] for config in choice.tuning_runs(found.base)
    ]
    assert found.tried == accuracies
    assert found.tuned == CELLS[int(np.argmax(accuracies))]
    for arm in ARMS:
        config = found.config(arm)
        settings = {name: getattr(config, name) for name in ("weight_decay", "lr")}
        given = {name: getattr(found.base, name) for name in settings}
        assert settings == (given | found.tuned if "+tuned" in arm else given)
        assert (config.augment == DISTORTED[found.base.augment]) == arm.endswith("trivial")
    large = dataclasses.replace(found.base, augment="resized-crop-no-flip")
    distorted = choice.configured(large, {}, "long+augment=trivial", 0)
    assert distorted.augment == "trivial-resized-crop-no-flip"


def test_a_setting_that_does_not_train_is_left_out(tiny, monkeypatch):
    base = tiny(pool="tuning")
    monkeypatch.setattr(choice, "CELLS", [{"lr": 1e30}, {"lr": 0.05}])
    how = {"published": False, "workers": 1, "device": "cpu"}
    broken, trained = choice._tried(base, how)
    assert broken is None
    assert 0 <= trained <= 100
    monkeypatch.setattr(choice, "CELLS", [{"lr": 1e30}])
    with pytest.raises(UserError, match="trained with none of the settings"):
        choice._tried(base, how)


def test_the_same_command_again_trains_nothing_and_knows_its_time(there, monkeypatch):
    first = choice.load(there)
    monkeypatch.setattr(study, "_train", None)
    again = choice.compared("digits", there, **HOW)
    pd.testing.assert_frame_equal(again.scores, first.scores, check_like=True)
    assert 0.5 * first.seconds < again.seconds < 2 * first.seconds


@pytest.fixture
def clock(monkeypatch):
    """A `cost` of a thousand seconds for every study; `seeds` notes those begun. The one at
    `stop_at` is stopped after two of its methods."""
    noted = SimpleNamespace(now=0.0, cost=1000, seeds=[], stop_at=None)
    real = choice.study

    def slow(configs, **how):
        if configs[0].seed == choice.TUNING_SEED:
            return real(configs, **how)
        noted.seeds.append(configs[0].seed)
        if configs[0].seed == noted.stop_at:
            real(configs[:2], **how)
            raise KeyboardInterrupt
        noted.now += noted.cost
        return real(configs, **how)

    monkeypatch.setattr(choice, "time", SimpleNamespace(monotonic=lambda: noted.now))
    monkeypatch.setattr(choice, "study", slow)
    return noted


def test_no_seed_is_begun_that_would_pass_the_deadline(clock, tmp_path, monkeypatch, capsys):
    how = HOW | {"hours": 2500 / 3600}
    found = choice.compared("digits", tmp_path, **how)
    assert clock.seeds == [0, 1]
    assert (found.seeds, found.done, found.seconds) == (3, 2, 2000)
    assert set(found.scores["seed"]) == {0, 1}
    said = capsys.readouterr().out
    # Three would take 3000 s.
    assert "the time is up: 2 of 3 seeds are done; the same command with --hours 0.9 adds" in said
    assert "3 seeds were wanted; the time was up after 2" in report.answer(found)
    # The same again costs nothing and has no more time; what is on disk is shown.
    clock.cost, clock.seeds[:] = 0, []
    monkeypatch.setattr(choice, "_recorded", lambda configs: 1000 * (configs[0].seed < 2))
    assert choice.compared("digits", tmp_path, **how).done == 2
    assert choice.compared("digits", tmp_path, **(how | {"hours": 0.9})).done == 3
    assert clock.seeds == [0, 1, 0, 1, 2]


def test_the_first_seed_is_trained_however_little_time_there_is(clock, tmp_path):
    assert choice.compared("digits", tmp_path, **(HOW | {"hours": 1e-6})).done == 1


def test_what_was_stopped_goes_on_and_its_time_counts(clock, tmp_path, monkeypatch):
    clock.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        choice.compared("digits", tmp_path, **(HOW | {"hours": 1}))
    assert not (tmp_path / "comparison.json").exists()
    clock.stop_at, clock.now = None, 0.0
    real, counted = choice._recorded, []

    def recorded(configs):
        if configs[0].seed == choice.TUNING_SEED:
            return 0.0
        counted.append(real(configs))
        return 1200.0 if counted[-1] else 0.0

    monkeypatch.setattr(choice, "_recorded", recorded)
    # 1000 s for each of these two seeds now, and 1200 s for what was on disk of each before.
    found = choice.compared("digits", tmp_path, **(HOW | {"hours": 6500 / 3600}))
    assert clock.seeds == [0, 1, 0, 1]
    assert (found.done, found.seconds) == (2, 4400)
    assert all(0 < seconds < 60 for seconds in counted)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hours": 0.0}, "hours=0.0 must be"),
        ({"hours": math.nan}, "hours=nan must be"),
        ({"seeds": 2}, "at least 3"),
        ({"settings": {"augment": "none"}}, "augment='none' is unknown; choose one of: crop-flip"),
        ({"workers": -1}, "workers=-1"),
        ({"settings": {"colour": 1}}, "unknown setting colour"),
    ],
)
def test_bad_arguments_are_refused(change, said, tmp_path):
    with pytest.raises(UserError, match=said):
        choice.compared("digits", tmp_path, **(HOW | change))


def test_images_that_change_during_a_comparison_are_an_error(tmp_path, monkeypatch):
    name = build(tmp_path / "mine", {"cat": 8, "dog": 8})
    real = choice._tried
    again = lambda *given: build(tmp_path / "mine", {"cat": 9}) and real(*given)  # noqa: E731
    monkeypatch.setattr(choice, "_tried", again)
    brief = {"width": 4, "epochs": 1, "generations": 2}
    with pytest.raises(UserError, match="changed during the comparison"):
        choice.compared(name, tmp_path / "out", seeds=3, device="cpu", settings=brief)


def test_damaged_and_missing_comparisons_are_named(there, tmp_path):
    with pytest.raises(UserError, match="holds no comparison"):
        choice.load(tmp_path)
    earlier = records.read(there / "comparison.json")
    del earlier["tried"]
    records.save(tmp_path / "comparison.json", earlier)
    with pytest.raises(UserError, match="is of an earlier version; compare again"):
        choice.load(tmp_path)
    (tmp_path / "comparison.json").write_text((there / "comparison.json").read_text()[:-40])
    with pytest.raises(UserError, match=r"comparison\.json is damaged"):
        choice.load(tmp_path)


@pytest.mark.parametrize(
    ("size", "augment"), [("64", "crop"), ("256", "resized-crop-no-flip")], ids=["small", "large"]
)
def test_without_flips_the_crops_stay(tmp_path, monkeypatch, size, augment):
    asked = []

    def compared(*names, **how):
        asked.append(how["settings"])
        raise UserError("enough")

    monkeypatch.setattr(choice, "compared", compared)
    build(tmp_path / "mine", {"cat": 4, "dog": 4})
    arguments = ["compare", str(tmp_path / "mine"), "--size", size]
    assert cli.main(arguments) == 1
    assert cli.main([*arguments, "--no-flip"]) == 1
    assert cli.main([*arguments, "--epochs", "3"]) == 1
    assert asked == [{}, {"augment": augment}, {"epochs": 3, "warmup": 0}]


# --------------------------------------------------------------------------------------------------
# What the report says


def made(there, frame):
    """The stored comparison with other scores; the test accuracies are those of validation."""
    frame = frame.assign(test=frame["validation"], balanced=frame["validation"])
    stored = vars(choice.load(there)) | {"scores": frame, "seeds": frame["seed"].nunique()}
    return choice.Comparison(**stored)


def test_the_answer_says_by_how_much(there):
    said = report.answer(made(there, scores(dnr__tuned=86 + NOISE[::-1])))
    assert said.startswith("**Use DNR with tuned settings**: 2 trainings of 2 epochs")
    assert "it costs one pass of one network" in said
    assert "+6.00 points" in said
    assert "n = 5 seeds" in said
    assert "do not confirm" not in said


def test_networks_like_the_commonest_class_advise_nothing(there):
    floor = report.majority(choice.load(there))
    # The interval of a mean 0.2 points above reaches below: it is about half a point to each side.
    near, above = (scores(**all_like(floor + more + NOISE)) for more in (0.2, 5))
    assert "do not follow this advice" in report.answer(made(there, near))
    assert "do not follow this advice" not in report.answer(made(there, above))


@pytest.mark.parametrize("wrong", [("--hours", "0"), ("--seeds", "2")])
def test_bad_limits_are_refused_before_images_are_decoded(tmp_path, capsys, wrong):
    build(tmp_path / "mine", {"cat": 4, "dog": 4})
    assert cli.main(["compare", str(tmp_path / "mine"), *wrong]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert f"{wrong[0].removeprefix('--')}=" in said.err


def test_no_interval_goes_beyond_what_there_can_be():
    wide = Estimate(n=3, mean=95.0, sd=9.0, low=-130.0, high=140.0, p=0.5)
    assert report.accuracies(wide) == "[0.00, 100.00]"
    assert report.differences(wide) == "[−100.00, +100.00]"
    unknown = dataclasses.replace(wide, low=math.nan, high=math.nan)
    assert report.accuracies(unknown) == report.differences(unknown) == MISSING


def test_the_answer_says_what_could_have_been_seen(there):
    found = made(there, scores())
    said = report.answer(found)
    nothing = "**No winner; the cheapest of those not worse is plain training**: one training of 2"
    assert said.startswith(nothing)
    assert f"were truly {found.choice.detectable:.1f} points better, 8 of 10" in said


def test_an_ensemble_says_what_it_costs(there):
    said = report.answer(made(there, scores(ensemble__tuned=86 + NOISE[::-1])))
    assert said.startswith("**Use the ensemble with tuned settings**: 3 networks of 1 epochs each")
    assert "On new images it costs 3 times the time and memory of one network" in said


def test_longer_training_may_be_what_helps(there):
    said = report.answer(made(there, scores(long__tuned=84 + NOISE[::-1])))
    assert said.startswith(
        "**Use the long baseline (LB) with tuned settings**: one training of 4 epochs"
    )
    assert "On the validation images it has +4.0" in said
    distorted = {"long+augment=trivial": 84 + NOISE[::-1]}
    assert report.answer(made(there, scores(**distorted))).startswith(
        "**Use the long baseline (LB) with TrivialAugment**: one training of 4 epochs, "
        "on images that are distorted at random (TrivialAugment). "
    )
    # A gain that is sure, and smaller than the margin, is not worth the time.
    level = 80 + NOISE
    longer = level + 0.3 + NOISE[::-1] / 100
    slight = made(there, scores(plain=level, plain__tuned=level, long__tuned=longer))
    answer = report.answer(slight)
    assert "**No winner; the cheapest of those not worse is plain training**" in answer


def test_given_settings_that_were_the_best_are_said_to_be(there):
    """Plain training with tuned settings is then plain training, which is named once."""
    frame = scores(long__tuned=84 + NOISE[::-1])
    for tried, times in (([60.0, 60.0, None], 0), ([60.0, None, 61.0], 2)):
        found = dataclasses.replace(made(there, frame), tried=tried)
        said = report.answer(found)
        assert said.count("against plain training with tuned settings") == times
        assert said.count("against plain training") == 2 + times
        assert (", which are the default ones" in said) == (times == 0)


def test_the_chapter_counts_what_is_compared():
    text = (records.ROOT / "book" / "your_data.md").read_text("utf-8")
    table = text.partition(":name: tbl-compared")[2].partition(":::")[0]
    named = re.findall(r"^\| (?!method|:)(.+?) \|", table, re.MULTILINE)
    assert named == [report.titled(arm).replace("KE (KELS)", "KE") for arm in ARMS]
    assert len(re.findall(r"\| \$N E\$ \|$", table, re.MULTILINE)) == 6
    assert "trains about $6N$ times $E$ epochs" in text
    words = {4: "four", 8: "eight"}
    assert f"One command compares {words[len(ARMS)]} ways" in text
    assert f"better than each of the {words[len(ORDINARY)]} *ordinary* trainings" in text
    assert f"the first {words[len(ORDINARY)]} rows of the table" in text


@pytest.mark.parametrize(
    ("as_good", "than"),
    [(["dnr+tuned"], "ordinary"), (["long+augment=trivial", "long+tuned"], "cheaper")],
)
def test_the_test_images_may_fail_to_confirm(there, as_good, than):
    """What is dearer than the advised one need not be worse."""
    found = made(there, scores(**dict.fromkeys(as_good, 86 + NOISE[::-1])))
    said = f"do not confirm that it is better than {than} training"
    assert said not in report.answer(found)
    found.scores["test_right"] = scores()["test_right"]
    assert report.answer(found).startswith("**Use ")
    assert said in report.answer(found)


def test_names_from_outside_cannot_write_html():
    evil = "<img src=x onerror=alert(1)>"
    table = report.html_table(pd.DataFrame({evil: [evil]}), evil).data
    assert table.count("&lt;img src=x onerror=alert(1)&gt;") == 3
    assert "<img" not in table


@POSIX
def test_no_name_of_a_folder_class_or_file_is_markup_in_the_report(tmp_path):
    """The names are those of images that someone else has given away."""
    root = tmp_path / "<img src=x onerror=alert(1)>\n```\n# `*a*_b_"
    classes = ["<script>alert(2)", "| $c$ [d](javascript:e) &lt;"]
    # Of two images of a class none is left to test on.
    name = build(root, dict.fromkeys(classes, 9) | {"rare": 2})
    for folder in classes:
        image(root / folder / '<b onclick="f">.png', 99)
    base = configure(name, pool="tuning", width=4)
    labels = read(name)["test"].labels.numpy()
    of_test = {"test": 75.0, "balanced": 75.0, "predicted": [(1 - labels).tolist()] * len(scores())}
    found = choice.Comparison(
        base=base,
        tried=[50.0] * len(CELLS),
        seeds=5,
        hours=1.0,
        seconds=1.0,
        device="cpu",
        scores=scores().assign(**of_test),
        curves=scores()
        .assign(generation=1, epochs=2)
        .rename(columns={"validation": "test_accuracy"}),
    )
    output = root.with_name(f"{root.name}-compared")
    choice.save(output, found)
    page = Page(report.write(output).read_text())
    names = {name for _, *attributes in page.tags for name in attributes}
    assert not [each for each in names if each.startswith("on")]
    tags = {tag for tag, *_ in page.tags}
    assert not tags & {"script", "b", "i"}
    assert page.links
    assert all(link.startswith(("data:image/png;", "#")) for link in page.links)
    said = " ".join(page.words.split())
    for words in (
        root.name,
        *classes,
        f'{root / classes[0]}/<b onclick="f">.png',
        f"'folder:{root}'",
    ):
        assert " ".join(words.split()) in said, words


def test_what_the_advised_method_names(there):
    found = choice.load(there)
    labels = read("digits")["test"].labels.numpy()
    wrong = labels.copy()
    (four, *_) = np.flatnonzero(labels == 4)
    wrong[four] = 9
    found.scores["predicted"] = [
        (wrong if row.seed == 2 or row.method != found.choice.method else labels).tolist()
        for row in found.scores.itertuples()
    ]
    named = found.named()
    assert len(named) == 3 * len(labels)
    (row,) = named[named["label"] != named["named"]].itertuples()
    assert (row.seed, row.image, row.label, row.named) == (2, four, "4", "9")
    assert named["label"].cat.categories.tolist() == list("0123456789")


def test_a_pretrained_network_is_compared_where_its_weights_are(there, tmp_path, monkeypatch):
    """On images with colours; else the answer says what was not tried."""
    assert report.UNTRIED in report.answer(choice.load(there))
    there_too = SimpleNamespace(exists=lambda: True)
    monkeypatch.setattr(choice, "pretrained_file", lambda name: there_too)
    name, asked = build(tmp_path / "mine", {"cat": 8, "dog": 8}), []

    def enough(configs, **how):
        asked.extend(configs)
        raise KeyboardInterrupt

    monkeypatch.setattr(choice, "_tried", lambda *given: [50.0])
    monkeypatch.setattr(choice, "study", enough)
    for images in ("digits", name):
        asked.clear()
        with pytest.raises(KeyboardInterrupt):
            choice.compared(images, tmp_path / "out", seeds=3, device="cpu")
        assert len(asked) == len(ARMS) + (images == name)
    assert (asked[-1].method, asked[-1].start) == ("plain", "imagenet1k_v1")
    assert (asked[-1].width, asked[-1].stem, asked[-1].seed) == (64, "7x7", 0)
    found = made(there, scores(pretrained=95 + NOISE[::-1]))
    said = report.answer(found)
    assert said.startswith("**Use the pretrained network**: one training of 2 epochs of a resnet18")
    assert "the best of 5" in said
    assert report.UNTRIED not in said


@pytest.mark.parametrize("arm", ARMS)
def test_the_export_command_names_the_run(there, arm):
    found = made(there, scores(**{arm.replace("+", "__"): 90 + NOISE[::-1]}))
    config = found.config(arm)
    assert found.choice.method == arm
    options = cli.parser().parse_args(shlex.split(report.export_command(found))[1:])
    assert chain(cli._config(options))[-1].key == chain(config)[-1].key


def test_the_command_compares_exports_and_reports(there, tmp_path, monkeypatch, capsys):
    """On a folder; the comparison, the network and the report themselves are tested above."""
    for number in range(16):
        path = tmp_path / "mine" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 10 * number, np.uint8)).save(path)
    asked = {}
    monkeypatch.setattr(
        choice, "compared", lambda *given, **how: asked.update(given=given, **how) or found
    )
    monkeypatch.setattr("dnrlib.compare.export.export", lambda *given: asked.update(export=given))
    monkeypatch.setattr(report, "write", lambda output: output / "report.html")
    found = made(there, scores(dnr__tuned=86 + NOISE[::-1]))
    assert cli.main(["compare", str(tmp_path / "mine"), "--hours", "3", "--no-flip"]) == 0
    output = tmp_path / "mine-compared"
    assert asked["given"] == (f"folder:{tmp_path / 'mine'}", output)
    assert (asked["hours"], asked["settings"]) == (3, {"augment": "crop"})
    assert asked["export"][:2] == (found.config("dnr+tuned", 0), output / "model.pt")
    said = capsys.readouterr().out
    assert "class cat is small; images: 8" in said
    assert "\nUse DNR with tuned settings: 2 trainings of 2 epochs" in said
    assert f"report: {output / 'report.html'}" in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--size", "0"], "@0"),
        (["--output", "taken"], "name a folder: --output"),
        pytest.param(["--output", "/proc"], "name a folder: --output", marks=POSIX),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, option, said
):
    monkeypatch.setattr(choice, "study", lambda *given, **how: pytest.fail("it was begun"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    build(tmp_path / "mine", {"cat": 9, "dog": 9})
    assert cli.main(["compare", str(tmp_path / "mine"), *option]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("epochs", ["0", "-1", "many"])
def test_epochs_are_refused_before_images_are_decoded(epochs, capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", "no folder", f"--epochs={epochs}"])
    assert f"{epochs!r} must be a whole number of at least 1" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# Export


def test_the_exported_network_is_the_trained_one(there, tmp_path):
    """From an image file, in this process and through the program that is written beside it."""
    found = choice.load(there)
    config = found.config(found.choice.method)
    stored = torch.load(there / "model.pt", weights_only=True)
    assert stored["labels"] == list("0123456789")
    assert stored["config"] == vars(config)
    trainee = finished(config)
    for name, value in trainee.model.state_dict().items():
        assert torch.equal(stored["state_dict"][name], value)
    test = read("digits")["test"]
    picture = tmp_path / "a picture.png"
    Image.fromarray(test.images[5, 0].numpy()).save(picture)
    one = Split(test.images[5:6], test.labels[5:6])
    ((expected, _),) = train.outputs(trainee.model, evaluation_batches(one, dataset("digits")))
    model = load_model(there / "model.pt")
    torch.testing.assert_close(model.logits(picture), expected[0], rtol=1e-3, atol=1e-3)
    lying, exif = tmp_path / "lying.png", Image.Exif()
    exif[0x0112] = 6
    Image.open(picture).transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif)
    assert torch.equal(model.logits(lying), model.logits(picture))
    done = subprocess.run(
        [sys.executable, str(there / "use_model.py"), str(picture)],
        capture_output=True,
        text=True,
        check=True,
    )
    shares = expected[0].softmax(0)
    said = [line.split("\t") for line in done.stdout.splitlines()]
    best = shares.argsort(descending=True)[:3].tolist()
    assert [line[:2] for line in said] == [[str(picture), str(n)] for n in best]
    percent = [float(line[2].removesuffix("%")) for line in said]
    assert percent == pytest.approx((100 * shares[best]).tolist(), abs=0.1)


def test_the_program_names_what_it_cannot_read_and_goes_on(there, tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("L", (8, 8)).save(good)
    bad.write_bytes(good.read_bytes()[:40])

    def done(*images):
        command = [sys.executable, there / "use_model.py", *images]
        return subprocess.run(command, capture_output=True, text=True)

    found = done(bad, good)
    assert found.returncode == 1
    assert found.stderr.startswith(f"{bad} cannot be read: ")
    assert found.stderr.count("\n") == 1
    assert [line.split("\t")[0] for line in found.stdout.splitlines()] == [str(good)] * 3
    assert done().stderr == "usage: python use_model.py IMAGE [IMAGE ...]\n"
    assert done().returncode == 1


def test_an_exported_ensemble_averages_its_members(tiny, tmp_path):
    config = tiny(method="ensemble", epochs=2)
    export(config, tmp_path / "net.pt", "cpu")
    test, model = read("digits")["test"], load_model(tmp_path / "net.pt")
    ((inputs, _),) = evaluation_batches(
        Split(test.images[:20], test.labels[:20]), dataset("digits")
    )
    total = 0
    for link in chain(config):
        member = build_network(config)
        load_state(member, Store().weights(link.trained))
        with torch.inference_mode():
            total = total + member.eval()(inputs).softmax(1)
    torch.testing.assert_close(model.network(inputs).softmax(1), total / 3, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_an_exported_slim_network_is_the_masked_one(tiny, tmp_path, capsys, name):
    """Read back as a model, and as a program that needs nothing of this library."""
    config = tiny(method="ke", model=name, width=16, generations=2, lr=0.01)
    settings = [f"--{n.replace('_', '-')}={v}" for n, v in vars(config).items()]
    assert cli.main(["export", "--slim", "--output", str(tmp_path / "net.pt"), *settings]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "use_net.py") in said
    shares = [
        int(n) for n in re.search(r"dense network: (\d+)% .* (\d+)% .* (\d+)%", said).groups()
    ]
    assert 50 < shares[0] < 80
    assert 50 < shares[1] < 80
    walk = run.Walk(config, Store(), torch.device("cpu"))
    mask = walk.mask_after(1)
    dense = walk.open(1).model.eval()
    with torch.no_grad():
        for key, kept in mask.items():
            dense.state_dict()[key].mul_(kept)
    images = torch.rand(7, 1, 10, 10)
    model, program = load_model(tmp_path / "net.pt"), torch.export.load(tmp_path / "net.pt2")
    with torch.inference_mode():
        expected = dense(images)
        torch.testing.assert_close(model.network(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(program.module()(images), expected, rtol=1e-4, atol=1e-5)
    # That of ONNX was compared with its runtime when it was written, where that is installed.
    runtime = importlib.util.find_spec("onnxruntime") is not None
    assert (tmp_path / "net.onnx").exists() == runtime
    assert (tmp_path / "net.pt").stat().st_size < 0.8 * dense_size(dense, tmp_path)


def dense_size(model, folder):
    torch.save(model.state_dict(), folder / "dense.pt")
    return (folder / "dense.pt").stat().st_size


def test_only_what_kels_keeps_can_be_slim(tiny, tmp_path):
    with pytest.raises(UserError, match="use --method ke, not ke-wels"):
        export(tiny(method="ke-wels"), tmp_path / "net.pt", "cpu", slim=True)
    with pytest.raises(UserError, match="where a program will lie"):
        export(tiny(method="ke"), tmp_path / "net.onnx", "cpu", slim=True)
    assert not list(tmp_path.glob("net.*"))


def test_export_trains_what_is_missing(tiny, tmp_path):
    config = tiny(method="tune", generations=2)
    export(config, tmp_path / "new" / "net.pt", "cpu")
    assert study.Archive().find(config) is not None
    model = load_model(tmp_path / "new" / "net.pt")
    assert not model.network.training
    assert model.labels == dataset("digits").classes
    assert "'net.pt'" in (tmp_path / "new" / "use_net.py").read_text()


def test_no_flipped_bit_changes_what_a_model_says(there, tmp_path):
    """It is noticed, or it is in what the archive holds beside the model."""
    content, blank = (there / "model.pt").read_bytes(), np.full((10, 10, 3), 200, np.uint8)
    whole = load_model(there / "model.pt")
    expected, refused = whole.network(whole.prepared(blank)), 0
    path = tmp_path / "model.pt"
    for place in range(0, len(content), len(content) // 150):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            model = load_model(path)
        except UserError:
            refused += 1
        else:
            assert torch.equal(model.network(model.prepared(blank)), expected), place
            assert (model.labels, model.preprocessing) == (whole.labels, whole.preprocessing)
    assert refused > 100


def changed_model(there, path, change, seal=True):
    """Writes the model with a change, under a seal that fits, unless that is to be the old one."""
    stored = torch.load(there / "model.pt", weights_only=True)
    change(stored)
    if seal:
        stored["seal"] = export_module._seal(stored)
    torch.save(stored, path)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["network"].update(model="vgg"), "holds the network vgg .* knows resnet18, "),
        (lambda m: m["network"].update(stem="9x9"), "with stem 9x9"),
        (lambda m: m["network"].update(width=8), "is not a model that dnr export wrote .Runtime"),
        (lambda m: m["network"].update(width="4"), "is not a model"),
        (lambda m: m["network"].pop("classes"), r"is not a model .*KeyError"),
        *((lambda m, name=name: m.pop(name), "is not a model") for name in ("network", "labels")),
        (lambda m: m["labels"].pop(), "do not fit each other"),
        (lambda m: m.update(labels="0123456789"), "do not fit each other"),
        (lambda m: m.update(labels=list(range(10))), "do not fit each other"),
        (lambda m: m.update(preprocessing=None), "is not a model"),
        (lambda m: m["preprocessing"].pop("mean"), "is not a model"),
        (lambda m: m["preprocessing"].update(crop=12), "do not fit|is not a model"),
        (lambda m: m["preprocessing"].update(std=[0.0]), "do not fit each other"),
        (lambda m: m["state_dict"].pop("fc.bias"), "is not a model"),
        (lambda m: m["state_dict"].update({"fc.bias": torch.zeros(9)}), "is not a model"),
        (lambda m: m["state_dict"].update({"fc.bias": torch.zeros(10).long()}), "do not fit"),
        (lambda m: m["state_dict"].update({"a.fixed.mean": torch.zeros(1, 1)}), "is not a model"),
        (lambda m: m["state_dict"]["fc.bias"].fill_(math.nan), "not finite numbers"),
        (lambda m: m["state_dict"]["bn1.running_var"][0].fill_(math.inf), "not finite numbers"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(there, tmp_path, change, said):
    path = changed_model(there, tmp_path / "model.pt", change)
    with pytest.raises(UserError, match=rf"model\.pt {said}|model\.pt .*{said}"):
        load_model(path)


def test_a_model_without_its_seal_is_to_be_exported_again(there, tmp_path):
    def old(stored):
        del stored["seal"]
        stored["format"] = 1

    path = changed_model(there, tmp_path / "model.pt", old, seal=False)
    with pytest.raises(UserError, match=r"has format 1, .* has a seal; export it again"):
        load_model(path)

    def swap(stored):
        stored["labels"].reverse()

    path = changed_model(there, tmp_path / "model.pt", swap, seal=False)
    with pytest.raises(UserError, match=r"is damaged .*export it again"):
        load_model(path)


def test_what_is_no_model_and_no_image_is_refused(there, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_model(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes((there / "model.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"is not a model"):
        load_model(tmp_path / "model.pt")
    torch.save({"state_dict": {}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"is not a model"):
        load_model(tmp_path / "model.pt")
    for other in (b"", b"text", "a string", [1], 5):
        torch.save(other, tmp_path / "model.pt")
        if isinstance(other, bytes):
            (tmp_path / "model.pt").write_bytes(other)
        with pytest.raises(UserError, match=r"is not a model"):
            load_model(tmp_path / "model.pt")
    (tmp_path / "note.png").write_text("no image")
    with pytest.raises(UserError, match=r"note\.png cannot be read"):
        load_model(there / "model.pt").logits(tmp_path / "note.png")
