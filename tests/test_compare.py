"""The comparison on one's own images: its plan, its choice, and all of it once, tiny."""

import json
import math
import re
import shlex
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from dnrlib import UserError, cli, compare, methods, records, report, study, train
from dnrlib import export as export_module
from dnrlib.compare import DESIGNS, METHODS, Speed, choose, detectable, duration, measure, plan
from dnrlib.data import Split, dataset, evaluation_batches, read
from dnrlib.export import export, load_model
from dnrlib.methods import label
from dnrlib.recipes import configure
from dnrlib.run import chain, finished
from dnrlib.stats import LEVEL, estimate, seeds_needed
from tests.test_figures import Page
from tests.test_folder import build, image

BASE = configure("digits", pool="tuning")
ONE = Speed(workers=1, epoch=1.0, generation=0.0)

# --------------------------------------------------------------------------------------------------
# The plan


@pytest.mark.parametrize("generations", [2, 3, 10])
def test_the_estimate_counts_every_generation_that_is_trained_once(generations):
    configs = compare.Plan(2, generations, 7, 1, ONE, 0.0).configs(BASE, range(2))
    links = {link.key: link.stage.length(config) for config in configs for link in chain(config)}
    # Of each seed: one first generation for all, long, and four methods from there on.
    assert sum(links.values()) == 2 * 7 * (1 + generations + 4 * (generations - 1))
    assert duration(configs, ONE) == sum(links.values())
    assert duration(configs, Speed(1, 1.0, 0.5)) == sum(links.values()) + 0.5 * len(links)


def test_processes_share_the_work_as_study_hands_it_out():
    of_two = compare.Plan(2, 2, 10, 1, ONE, 0.0).configs(BASE, [0, 1])
    # 10 s for the first generation; then 20, 10, 10, 10, 10 s on two processes.
    assert duration(of_two[:6], Speed(2, 1.0, 0.0)) == 10 + 30
    assert duration(of_two, Speed(2, 1.0, 0.0)) == 10 + 60
    assert duration(of_two[:6], Speed(50, 1.0, 0.0)) == 10 + 20


def test_seeds_are_trained_together_only_where_that_saves_time():
    many = [(4, 2, 10)]
    assert [list(block) for block in plan(BASE, ONE, 1e5, designs=many).blocks()] == [
        [0],
        [1],
        [2],
        [3],
    ]
    two = plan(BASE, Speed(2, 1.0, 0.0), 1e5, designs=many)
    assert [list(block) for block in two.blocks()] == [[0, 1], [2, 3]]
    assert two.seconds == 140
    odd = compare.Plan(5, 2, 10, 3, ONE, 0.0)
    assert [list(block) for block in odd.blocks()] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("seconds", "design"),
    [
        (1e9, (5, 10, 200)),
        (5 * 47 * 100, (5, 10, 100)),
        (5 * 47 * 100 - 1, (5, 5, 200)),
        (5 * 22 * 50, (5, 5, 50)),
        (5 * 22 * 50 - 1, (5, 3, 80)),
        (5 * 12 * 30, (5, 3, 30)),
        (5 * 12 * 30 - 1, (4, 3, 30)),
        (3 * 12 * 30, (3, 3, 30)),
        (3 * 12 * 30 - 1, (5, 3, 15)),
        (5 * 12 * 10 - 1, (4, 3, 10)),
        (3 * 12 * 10, (3, 3, 10)),
    ],
)
def test_the_best_design_that_fits_is_planned(seconds, design):
    planned = plan(BASE, ONE, seconds / (1 - compare.RESERVE) + 1e-6)
    assert (planned.seeds, planned.generations, planned.epochs) == design
    assert planned.seconds <= seconds


def test_too_little_time_is_refused_with_the_time_that_is_enough():
    with pytest.raises(UserError, match=r"0\.1 hours are too few.*--hours 0\.2") as error:
        plan(BASE, ONE, 360)
    hours = float(re.search(r"--hours ([\d.]+)", str(error.value))[1])
    assert plan(BASE, ONE, hours * 3600).epochs == 10
    with pytest.raises(UserError, match=r"--hours 0\.3"):
        plan(BASE, ONE, hours * 3600, spent=400)


def test_seeds_that_were_asked_for_are_planned():
    assert plan(BASE, ONE, 1e9, seeds=12).seeds == 12
    assert plan(BASE, ONE, 360 / (1 - compare.RESERVE) + 1, seeds=3).epochs == 10
    with pytest.raises(UserError, match="too few"):
        plan(BASE, ONE, 360 / (1 - compare.RESERVE) + 1, seeds=4)


@pytest.mark.parametrize("design", [DESIGNS[0], DESIGNS[-1], (3, 7, 33)])
def test_all_methods_but_plain_have_one_budget(design):
    base = configure("digits", pool="tuning", warmup=5)
    configs = plan(base, ONE, 1e9, designs=[design]).configs(base, [4])
    assert [config.method for config in configs] == list(METHODS)
    _, generations, epochs = design
    spent = {config.method: methods.budget(config) for config in configs}
    assert spent.pop("plain") == epochs
    assert set(spent.values()) == {generations * epochs}
    assert {config.pool for config in configs} == {"tuning"}
    assert {config.warmup for config in configs} == {min(5, epochs // 10)}


def test_measuring_trains_and_leaves_nothing(tiny):
    base = tiny(per_class=0, width=4, pool="tuning")
    speed = measure(base, "cpu", workers=1)
    assert speed.workers == 1
    assert 0 < speed.epoch < 60
    assert 0 < speed.generation < 60
    assert not records.runs_root().exists()


# --------------------------------------------------------------------------------------------------
# The choice

NOISE = np.array([0.3, -0.5, 0.1, 0.4, -0.3])


def scores(**given):
    """Validation accuracies of five seeds, 80 for all but what is given, with unequal noise."""
    rows = []
    for number, method in enumerate(METHODS):
        values = given.get(method, 80 + np.roll(NOISE, number))
        rows += [
            {"method": method, "seed": seed, "validation": float(value)}
            for seed, value in enumerate(values)
        ]
    return pd.DataFrame(rows)


def test_a_clear_winner_is_advised():
    found = choose(scores(dnr=86 + NOISE[::-1], ke=83 + NOISE))
    assert (found.method, found.best, found.found) == ("dnr", "dnr", True)
    assert found.over_long.low > 0
    assert found.over_plain.mean == pytest.approx(6)


def test_no_difference_advises_the_simplest():
    found = choose(scores())
    assert (found.method, found.found) == ("plain", False)
    assert found.over_long.low < 0 < found.over_long.high
    assert 0 < found.detectable < 5


def test_longer_training_is_advised_if_it_alone_helps():
    found = choose(scores(long=84 + NOISE[::-1]))
    assert (found.method, found.best, found.found) == ("long", "long", False)
    assert found.longer.mean == pytest.approx(4, abs=0.1)
    assert found.over_long.high < 0


def test_of_the_two_lengths_the_better_mean_is_advised_and_nothing_claimed(there):
    """Twelve points that three noisy seeds cannot prove are no reason to train a third as long."""
    wild = {"plain": 80 + 20 * NOISE, "long": 92 + NOISE[::-1]}
    found = choose(scores(**(dict.fromkeys(METHODS, 90 + NOISE) | wild)))
    assert (found.method, found.found) == ("long", False)
    unsure = {"plain": 80 + 20 * NOISE, "long": 81 + NOISE[::-1]}
    said = report.answer(made(there, **(dict.fromkeys(METHODS, 78 + NOISE) | unsure)))
    assert "Use the long baseline" in said
    assert "may have helped" in said


def test_equal_means_are_a_tie_for_the_simplest():
    found = choose(scores(**{method: [80.0] * 5 for method in METHODS}))
    assert (found.method, found.best, found.found) == ("plain", "plain", False)
    assert math.isnan(found.detectable)


def test_a_difference_without_spread_is_no_evidence():
    level = 80 + NOISE
    equal = dict.fromkeys(METHODS, level)
    assert not choose(scores(**(equal | {"dnr": level + 2}))).found


def test_a_winner_must_beat_the_short_training_too():
    found = choose(scores(long=70 + NOISE[::-1], dnr=80.1 + NOISE))
    assert found.over_long.low > 0
    assert (found.method, found.found) == ("plain", False)


def test_picking_the_best_of_four_is_corrected_for():
    edge = np.array([0.2, 1.8, 0.6, 1.0, 1.4])
    equal = dict.fromkeys(METHODS, 80 + NOISE)
    found = choose(scores(**(equal | {"dnr": 80 + NOISE + edge})))
    assert estimate(edge).low > 0 > found.over_long.low
    assert not found.found
    test = stats.ttest_1samp(edge, 0).confidence_interval(1 - 0.05 / 4)
    assert (found.over_long.low, found.over_long.high) == pytest.approx((test.low, test.high))


def test_one_seed_decides_nothing():
    frame = scores(dnr=90 + NOISE)
    found = choose(frame[frame["seed"] == 0])
    assert (found.method, found.found) == ("plain", False)
    assert math.isnan(found.detectable)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("level", [LEVEL, 0.9875])
def test_what_can_be_detected_has_the_power(n, level):
    sd = 1.7
    difference = detectable(sd, n, level)
    critical = stats.t.ppf((1 + level) / 2, n - 1)
    power = 1 - stats.nct.cdf(critical, n - 1, difference / sd * math.sqrt(n))
    assert power == pytest.approx(0.8, abs=1e-6)
    if level == LEVEL:
        assert seeds_needed(sd, difference * 1.0001) == n
    assert detectable(2 * sd, n, level) == pytest.approx(2 * difference)


def test_nothing_can_be_said_of_one_seed_or_no_spread():
    assert math.isnan(detectable(1.0, 1))
    assert math.isnan(detectable(0.0, 5))
    assert math.isnan(detectable(math.nan, 5))


# --------------------------------------------------------------------------------------------------
# All of it

HOW = {
    "hours": 0.5,
    "workers": 1,
    "device": "cpu",
    "settings": {"width": 4, "per_class": 4, "batch": 20},
    "designs": [(3, 2, 2)],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A comparison with its report: the folders of its runs and of what it wrote."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNRLIB_RUNS", str(folder / "runs"))
        found = compare.compared("digits", folder / "out", **HOW)
        export(found.config(found.choice.method), folder / "out" / "model.pt", "cpu")
        assert report.write(folder / "out") == folder / "out" / "report.html"
    return folder


@pytest.fixture
def there(whole, monkeypatch):
    """The folder of the comparison, with its runs in place."""
    monkeypatch.setenv("DNRLIB_RUNS", str(whole / "runs"))
    return whole / "out"


def test_what_is_stored_is_what_the_networks_do(there):
    found = compare.load(there)
    assert found.scores.shape == (18, 5)
    assert (found.plan.seeds, found.done) == (3, 3)
    for row in found.scores.itertuples():
        if row.seed:
            continue
        config = found.config(row.method, row.seed)
        trainee, pools = finished(config), read("digits")
        assert trainee.measure(pools["test"])[0] == pytest.approx(row.test)
        accuracy = trainee.measure(pools["tuning"])[0]
        assert accuracy == pytest.approx(row.validation)
        # Classes of the digits' test pool are equally large.
        assert row.balanced == pytest.approx(row.test)


def test_the_report_is_one_file_with_the_answer_first(there):
    text = (there / "report.html").read_text()
    found = compare.load(there)
    loads = re.findall(r"""(?:src|href|action|data)\s*=\s*["']?([^"'\s>]+)""", text)
    assert loads
    assert all(target.startswith(("data:image/png", "#")) for target in loads)
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?http", text)
    assert "Traceback" not in text
    assert "import answer" not in text
    first = text[text.index("<p") : text.index("<h2")]
    assert "Use " in first
    assert label(found.choice.method) in first
    assert "n = 3" in first
    assert f"{report.majority(found):.1f} %" in first
    images = re.findall(r"<img[^>]*>", text)
    assert len(images) == 4
    assert all(re.search(r'alt="[^"]{30}', image) for image in images)
    for method in METHODS:
        assert label(method) in text


def test_the_same_command_again_trains_nothing(there, monkeypatch, capsys):
    before = json.loads((there / "plan.json").read_text())
    first = compare.load(there)
    monkeypatch.setattr(compare, "measure", None)
    monkeypatch.setattr(study, "_train", None)
    again = compare.compared("digits", there, **HOW)
    assert "going on with the plan" in capsys.readouterr().out
    after = json.loads((there / "plan.json").read_text())
    assert after["plan"] == before["plan"]
    assert after["seconds"] > before["seconds"]
    pd.testing.assert_frame_equal(again.scores, first.scores, check_like=True)


def test_other_arguments_make_another_plan_and_say_so(there, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "measure", lambda *arguments: ONE)
    (tmp_path / "plan.json").write_text((there / "plan.json").read_text())
    compare.compared("digits", tmp_path, **(HOW | {"hours": 0.7}))
    said = capsys.readouterr().out
    assert "made for other arguments (hours 0.5 -> 0.7); a new one is made" in said


def test_what_was_stopped_goes_on(tmp_path, monkeypatch):
    real, calls = compare.study, []

    def interrupted(configs, **how):
        calls.append({config.seed for config in configs})
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(configs, **how)

    monkeypatch.setattr(compare, "study", interrupted)
    monkeypatch.setattr(compare, "measure", lambda *arguments: ONE)
    with pytest.raises(KeyboardInterrupt):
        compare.compared("digits", tmp_path, **HOW)
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert not (tmp_path / "comparison.json").exists()
    monkeypatch.setattr(compare, "measure", None)
    found = compare.compared("digits", tmp_path, **HOW)
    assert json.loads((tmp_path / "plan.json").read_text())["plan"] == stored["plan"]
    assert found.done == 3
    assert calls == [{0}, {1}, {0}, {1}, {2}]


def test_no_seed_is_begun_that_would_pass_the_deadline(tmp_path, monkeypatch, capsys):
    """Training that takes a hundred times as long as was measured."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        compare,
        "time",
        SimpleNamespace(monotonic=lambda: clock.now, perf_counter=time.perf_counter),
    )
    monkeypatch.setattr(compare, "measure", lambda *arguments: Speed(1, 1.0, 0.0))
    real = compare.study

    def slow(configs, **how):
        clock.now += 1000
        return real(configs, **how)

    monkeypatch.setattr(compare, "study", slow)
    found = compare.compared("digits", tmp_path, **(HOW | {"hours": 2500 / 3600}))
    assert (found.plan.seeds, found.done) == (3, 2)
    assert set(found.scores["seed"]) == {0, 1}
    assert "the time is up: 2 of 3 seeds are done" in capsys.readouterr().out
    assert "Planned were 3 seeds; the time was up after 2" in report.answer(found)
    # The same again has its time anew; what is there costs none.
    assert compare.compared("digits", tmp_path, **(HOW | {"hours": 2500 / 3600})).done == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hours": 0.0}, "hours=0.0 must be"),
        ({"hours": math.nan}, "hours=nan must be"),
        ({"seeds": 2}, "at least 3"),
        ({"workers": -1}, "workers=-1"),
        ({"settings": {"colour": 1}}, "unknown setting colour"),
    ],
)
def test_bad_arguments_are_refused(change, said, tmp_path):
    with pytest.raises(UserError, match=said):
        compare.compared("digits", tmp_path, **(HOW | change))


def test_images_that_change_during_a_comparison_are_an_error(tmp_path, monkeypatch):
    name = build(tmp_path / "mine", {"cat": 8, "dog": 8})
    monkeypatch.setattr(compare, "measure", lambda *given: ONE)
    monkeypatch.setattr(compare, "_train", lambda *given: build(tmp_path / "mine", {"cat": 9}))
    with pytest.raises(UserError, match="changed during the comparison"):
        compare.compared(name, tmp_path / "out", hours=1, device="cpu")


def test_damaged_and_missing_comparisons_are_named(there, tmp_path):
    with pytest.raises(UserError, match="holds no comparison"):
        compare.load(tmp_path)
    (tmp_path / "comparison.json").write_text((there / "comparison.json").read_text()[:-40])
    with pytest.raises(UserError, match=r"comparison\.json is damaged"):
        compare.load(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        compare.compared("digits", tmp_path, **HOW)


@pytest.mark.parametrize(
    ("size", "augment"), [("64", "crop"), ("256", "resized-crop-no-flip")], ids=["small", "large"]
)
def test_without_flips_the_crops_stay(tmp_path, monkeypatch, size, augment):
    asked = []

    def stopped(*names, **how):
        asked.append(how["settings"])
        raise UserError("enough")

    monkeypatch.setattr(compare, "compared", stopped)
    build(tmp_path / "mine", {"cat": 4, "dog": 4})
    arguments = ["compare", str(tmp_path / "mine"), "--size", size]
    assert cli.main(arguments) == 1
    assert cli.main([*arguments, "--no-flip"]) == 1
    assert asked == [None, {"augment": augment}]


# --------------------------------------------------------------------------------------------------
# What the report says


def made(there, **given):
    """The stored comparison with other scores; the test accuracies are those of validation."""
    frame = scores(**given)
    frame = frame.assign(test=frame["validation"], balanced=frame["validation"])
    stored = vars(compare.load(there)) | {"scores": frame, "done": 5}
    return compare.Comparison(**stored)


def test_the_answer_says_by_how_much(there):
    said = report.answer(made(there, dnr=86 + NOISE[::-1]))
    assert said.startswith("**Use DNR**: 2 trainings of 2 epochs")
    assert "+6.00 points" in said
    assert "n = 5 seeds" in said
    assert "do not confirm" not in said


def test_the_answer_says_what_could_have_been_seen(there):
    found = made(there)
    said = report.answer(found)
    assert said.startswith("**Use plain training**: one training of 2 epochs. No difference")
    assert f"A difference of {found.choice.detectable:.1f} points would have been found" in said


def test_the_test_images_may_fail_to_confirm(there):
    found = made(there, dnr=86 + NOISE[::-1])
    found.scores["test"] = scores()["validation"]
    assert "do not confirm" in report.answer(found)


def test_names_from_outside_cannot_write_html():
    evil = "<img src=x onerror=alert(1)>"
    table = report.html_table(pd.DataFrame({evil: [evil]}), evil).data
    assert table.count("&lt;img src=x onerror=alert(1)&gt;") == 3
    assert "<img" not in table


def test_a_row_is_marked():
    table = report.html_table(pd.DataFrame({"method": ["LB", "DNR"], "n": [5, 6]}), "t", marked=1)
    assert re.search(r"<tr><td>LB</td>.*<tr class=chosen[^>]*><td>DNR</td><td[^>]*>6<", table.data)


def test_no_name_of_a_folder_class_or_file_is_markup_in_the_report(tmp_path):
    """The names are those of images that someone else has given away."""
    root = tmp_path / "<img src=x onerror=alert(1)>\n```\n# `*a*_b_"
    classes = ["<script>alert(2)", "| $c$ [d](javascript:e) &lt;"]
    name = build(root, dict.fromkeys(classes, 9))
    for folder in classes:
        image(root / folder / '<b onclick="f">.png', 99)
    base = configure(name, pool="tuning", width=4)
    labels = read(name)["test"].labels.numpy()
    found = compare.Comparison(
        base=base,
        plan=compare.Plan(5, 3, 2, 1, ONE, 1.0),
        hours=1.0,
        seconds=1.0,
        done=5,
        device="cpu",
        scores=scores().assign(test=75.0, balanced=75.0),
        curves=scores()
        .assign(generation=1, epochs=2)
        .rename(columns={"validation": "test_accuracy"}),
        predictions={(method, 0): 1 - labels for method in METHODS},
    )
    output = root.with_name(f"{root.name}-compared")
    compare.save(output, found)
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
    found = compare.load(there)
    labels = read("digits")["test"].labels.numpy()
    wrong = labels.copy()
    (four, *_) = np.flatnonzero(labels == 4)
    wrong[four] = 9
    found.predictions.clear()
    found.predictions.update(
        {(found.choice.method, 0): labels, (found.choice.method, 2): wrong, ("other", 0): wrong}
    )
    named = found.named()
    assert len(named) == 2 * len(labels)
    (row,) = named[named["label"] != named["named"]].itertuples()
    assert (row.seed, row.image, row.label, row.named) == (2, four, "4", "9")
    assert named["label"].cat.categories.tolist() == list("0123456789")


@pytest.mark.parametrize("method", METHODS)
def test_the_export_command_names_the_run(there, method):
    found = made(there, **{method: 90 + NOISE[::-1]})
    config = found.config(method)
    assert found.choice.method == method
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
        compare, "compared", lambda *given, **how: asked.update(given=given, **how) or found
    )
    monkeypatch.setattr("dnrlib.export.export", lambda *given: asked.update(export=given))
    monkeypatch.setattr(report, "write", lambda output: output / "report.html")
    found = made(there, dnr=86 + NOISE[::-1])
    assert cli.main(["compare", str(tmp_path / "mine"), "--hours", "3", "--no-flip"]) == 0
    output = tmp_path / "mine-compared"
    assert asked["given"] == (f"folder:{tmp_path / 'mine'}", output)
    assert (asked["hours"], asked["settings"]) == (3, {"augment": "crop"})
    assert asked["export"][:2] == (found.config("dnr", 0), output / "model.pt")
    said = capsys.readouterr().out
    assert "class cat is small; images: 8" in said
    assert "\nUse DNR: 2 trainings of 2 epochs" in said
    assert f"report: {output / 'report.html'}" in said


# --------------------------------------------------------------------------------------------------
# Export


def test_the_exported_network_is_the_trained_one(there, tmp_path):
    """From an image file, in this process and through the program that is written beside it."""
    found = compare.load(there)
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


def test_export_trains_what_is_missing(tiny, tmp_path):
    config = tiny(method="tune", generations=2)
    export(config, tmp_path / "new" / "net.pt", "cpu")
    assert study.Archive().find(config) is not None
    model = load_model(tmp_path / "new" / "net.pt")
    assert not model.network.training
    assert model.labels == dataset("digits").classes
    assert "'net.pt'" in (tmp_path / "new" / "use_model.py").read_text()


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
