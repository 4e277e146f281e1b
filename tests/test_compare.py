"""The comparison on one's own images: its time, its choice, and all of it once, tiny."""

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

from dnrlib import UserError, cli, methods, study, train
from dnrlib.book.tables import LEAST_SEEDS
from dnrlib.compare import choice, report
from dnrlib.compare import export as export_module
from dnrlib.compare.choice import METHODS, choose, detectable
from dnrlib.compare.export import export, load_model
from dnrlib.datasets.augment import evaluation_batches
from dnrlib.datasets.catalogue import dataset, read
from dnrlib.datasets.splits import Split
from dnrlib.methods import label
from dnrlib.recipes import configure
from dnrlib.run import chain, finished
from dnrlib.stats import LEVEL, MARGIN, estimate, seeds_needed
from tests.test_figures import Page
from tests.test_folder import build, image

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
    assert (found.method, found.leader, found.found) == ("dnr", "dnr", True)
    assert found.over_long.low > 0
    assert found.over_plain.mean == pytest.approx(6)


def test_no_difference_advises_the_simplest():
    found = choose(scores())
    assert (found.method, found.found) == ("plain", False)
    assert found.over_long.low < 0 < found.over_long.high
    assert 0 < found.detectable < 5


def test_longer_training_is_advised_if_it_alone_helps():
    found = choose(scores(long=84 + NOISE[::-1]))
    assert (found.method, found.found) == ("long", False)
    assert found.longer.mean == pytest.approx(4, abs=0.1)
    assert found.over_long.high < 0


def test_of_the_two_lengths_the_better_mean_is_advised_and_nothing_claimed(there):
    """Twelve points that three noisy seeds cannot prove are no reason to train a third as long."""
    wild = {"plain": 80 + 20 * NOISE, "long": 92 + NOISE[::-1]}
    found = choose(scores(**(dict.fromkeys(METHODS, 90 + NOISE) | wild)))
    assert (found.method, found.found) == ("long", False)
    unsure = {"plain": 80 + 20 * NOISE, "long": 81 + NOISE[::-1]}
    said = report.answer(made(there, scores(**(dict.fromkeys(METHODS, 78 + NOISE) | unsure))))
    assert "**No winner; the cheapest of those not worse is the long baseline" in said
    assert "the long baseline (LB) minus plain training is +1.00 points [" in said


def test_equal_means_are_a_tie_for_the_simplest():
    found = choose(scores(**{method: [80.0] * 5 for method in METHODS}))
    assert (found.method, found.found) == ("plain", False)
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


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_decide_nothing_and_have_no_interval(there, seeds):
    frame = scores(dnr=90 + NOISE)
    few = frame[frame["seed"] < seeds]
    found = choose(few)
    assert (found.method, found.found) == ("plain", False)
    assert found.over_long.mean == pytest.approx(10, abs=1)
    for difference in (found.over_long, found.over_plain, found.longer):
        assert math.isnan(difference.low)
        assert math.isnan(difference.high)
    said = report.answer(made(there, few))
    assert said.startswith("**No winner; the cheapest of those not worse is plain training**")
    assert f"fewer than {LEAST_SEEDS} seeds; give it more --hours" in said
    assert "[" not in said
    assert "nan" not in said


def test_seeds_that_agree_have_no_interval(there):
    found = made(there, scores(**{method: [80.0] * 5 for method in METHODS}))
    said = report.answer(found)
    assert math.isnan(found.choice.over_long.low)
    assert "[" not in said
    assert "The seeds do not differ" in said


@pytest.mark.parametrize(("behind", "advised"), [(MARGIN, "plain"), (MARGIN + 0.1, "long")])
def test_the_cheapest_that_is_not_worse_is_at_most_the_margin_behind(behind, advised):
    level = 90 + 10 * NOISE
    found = choose(scores(**(dict.fromkeys(METHODS, level) | {"plain": level[::-1] - behind})))
    assert (found.method, found.found) == (advised, False)


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
    assert found.scores.shape == (18, 6)
    assert (found.seeds, found.done) == (3, 3)
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
    assert label(found.choice.method) in first
    assert "n = 3" in first
    assert f"{report.majority(found):.1f} %" in first
    images = re.findall(r"<img[^>]*>", text)
    assert len(images) == 4
    assert all(re.search(r'alt="[^"]{30}', image) for image in images)
    for method in METHODS:
        assert label(method) in text


def test_all_methods_but_plain_have_one_budget(there):
    found = choice.load(there)
    configs = [found.config(method, 4) for method in METHODS]
    spent = {config.method: methods.budget(config) for config in configs}
    assert spent.pop("plain") == 2
    assert set(spent.values()) == {2 * 2}
    assert {(config.pool, config.seed) for config in configs} == {("tuning", 4)}


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
    monkeypatch.setattr(choice, "_recorded", lambda configs: 1000 if configs[0].seed < 2 else 0)
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
        ({"workers": -1}, "workers=-1"),
        ({"settings": {"colour": 1}}, "unknown setting colour"),
    ],
)
def test_bad_arguments_are_refused(change, said, tmp_path):
    with pytest.raises(UserError, match=said):
        choice.compared("digits", tmp_path, **(HOW | change))


def test_images_that_change_during_a_comparison_are_an_error(tmp_path, monkeypatch):
    name = build(tmp_path / "mine", {"cat": 8, "dog": 8})
    again = lambda *given: (build(tmp_path / "mine", {"cat": 9}), 0.0)  # noqa: E731
    monkeypatch.setattr(choice, "_trained", again)
    with pytest.raises(UserError, match="changed during the comparison"):
        choice.compared(name, tmp_path / "out", hours=1, device="cpu")


def test_damaged_and_missing_comparisons_are_named(there, tmp_path):
    with pytest.raises(UserError, match="holds no comparison"):
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
    said = report.answer(made(there, scores(dnr=86 + NOISE[::-1])))
    assert said.startswith("**Use DNR**: 2 trainings of 2 epochs")
    assert "+6.00 points" in said
    assert "n = 5 seeds" in said
    assert "do not confirm" not in said


def test_the_answer_says_what_could_have_been_seen(there):
    found = made(there, scores())
    said = report.answer(found)
    nothing = "**No winner; the cheapest of those not worse is plain training**: one training of 2"
    assert said.startswith(nothing)
    assert f"A difference of {found.choice.detectable:.1f} points would have been found" in said


def test_longer_training_may_be_what_helps(there):
    said = report.answer(made(there, scores(long=84 + NOISE[::-1])))
    assert said.startswith("**Use the long baseline (LB)**: one training of 4 epochs")
    assert "On the validation images the long baseline (LB) minus plain training is +4.0" in said
    # A gain that is sure, and smaller than the margin, is not worth the time.
    level = 80 + NOISE
    slight = made(there, scores(plain=level, long=level + 0.3 + NOISE[::-1] / 100))
    assert slight.choice.longer.low > 0
    assert "**No winner; the cheapest of those not worse is plain training**" in report.answer(
        slight
    )


def test_the_test_images_may_fail_to_confirm(there):
    found = made(there, scores(dnr=86 + NOISE[::-1]))
    found.scores["test"] = scores()["validation"]
    assert "do not confirm" in report.answer(found)


def test_names_from_outside_cannot_write_html():
    evil = "<img src=x onerror=alert(1)>"
    table = report.html_table(pd.DataFrame({evil: [evil]}), evil).data
    assert table.count("&lt;img src=x onerror=alert(1)&gt;") == 3
    assert "<img" not in table


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
    of_test = {"test": 75.0, "balanced": 75.0, "predicted": [(1 - labels).tolist()] * 30}
    found = choice.Comparison(
        base=base,
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


@pytest.mark.parametrize("method", METHODS)
def test_the_export_command_names_the_run(there, method):
    found = made(there, scores(**{method: 90 + NOISE[::-1]}))
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
        choice, "compared", lambda *given, **how: asked.update(given=given, **how) or found
    )
    monkeypatch.setattr("dnrlib.compare.export.export", lambda *given: asked.update(export=given))
    monkeypatch.setattr(report, "write", lambda output: output / "report.html")
    found = made(there, scores(dnr=86 + NOISE[::-1]))
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
