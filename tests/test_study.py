"""Studies: finding, training in parallel, refusing to mix, frames, publishing, agreement."""

import dataclasses
import gzip
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import psutil
import pytest
import torch

from dnrlib import UserError, cli, models, recipes, records, study, train
from dnrlib import run as runs
from dnrlib.book.agreement import agreement
from dnrlib.datasets import digits
from dnrlib.evaluate.evaluations import Attack, Predictions
from dnrlib.frames import generations, layers
from dnrlib.methods import METHODS
from dnrlib.paper import exhibits
from dnrlib.paper.exhibits import evaluations_of, made_for
from dnrlib.recipes import RECIPES, arm_of, configure, grid
from dnrlib.run import chain, run
from dnrlib.store import Store
from dnrlib.study import Archive, StudyFailed
from tests import POSIX
from tests import publish as tests_publish


@pytest.fixture
def published(tmp_path, monkeypatch):
    """An empty folder of published records."""
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "published")
    return tmp_path / "published"


def results(found):
    return [[record["result"] for record in run_.records] for run_ in found]


def publish(found):
    for run_ in found:
        records.publish(run_.config.dataset, run_.config.seed, run_.records)


def test_parallel_and_serial_give_the_same_bits(tiny, tmp_path, published, capsys):
    configs = [tiny(method=method, seed=seed) for seed in (0, 1) for method in ("tune", "dnr")]
    evaluated = (Predictions(), Attack((8.0,), steps=2, per_class=1))
    serial, parallel = (
        study.study(configs, workers=workers, runs=tmp_path / str(workers), evaluations=evaluated)
        for workers in (1, 2)
    )
    assert results(serial) == results(parallel)
    assert [record["kind"] for record in parallel[0].records[-2:]] == ["evaluation"] * 2
    assert [run_.config for run_ in parallel] == configs
    assert "4 runs to train: 10 generations, 10 epochs, on 2 workers" in capsys.readouterr().out


def test_the_bar_names_what_was_done_last(tiny, capsys):
    study.study([tiny(method="tune"), tiny(method="ke")], published=False, workers=1)
    assert "2/2 runs done, last: KE (KELS)" in capsys.readouterr().err
    study.study([tiny(seed=1)] * 2, published=False, workers=1)
    assert "shared beginnings" not in capsys.readouterr().err, "nothing is shared"
    study.study([tiny(seed=1)] * 2, published=False)
    assert "1 runs on disk" in capsys.readouterr().out


def test_the_time_is_that_of_each_kind_of_run(tiny, tmp_path, monkeypatch, capsys):
    """A wide network takes longer."""
    pace = {4: 60, 8: 6000}
    monkeypatch.setattr(study, "seconds_per_epoch", lambda config, device: pace.get(config.width))
    monkeypatch.setattr(study.parallel, "finished", lambda *given: ())
    for widths, said in (
        ((4, 8), "101 minutes"),
        ((4, 8, 16), "no published runs tell how long"),
    ):
        configs = [tiny(method="plain", width=width, epochs=1) for width in widths]
        study._train(configs, 1, "cpu", tmp_path, ())
        assert said in capsys.readouterr().out


@pytest.fixture(scope="module")
def everyone(tiny, tmp_path_factory):
    """A study of all methods, unpublished: its configs, its folder and what it found."""
    configs = [tiny(method=method, epochs=2) for method in METHODS]
    folder = tmp_path_factory.mktemp("everyone")
    return configs, folder, study.study(configs, workers=1, published=False, runs=folder)


def test_a_second_study_trains_nothing_and_says_so(everyone, published, capsys, monkeypatch):
    configs, folder, first = everyone
    monkeypatch.setattr(study, "_train", None)
    again = study.study(configs, runs=folder)
    number = len(METHODS)
    said = f"{number} runs on disk, nothing to train ({number} runs)\n"
    assert capsys.readouterr().out.endswith(said)
    assert [run_.records for run_ in first] == [run_.records for run_ in again]


def test_what_is_missing_is_named_with_its_command(tiny, published, capsys):
    assert study.study([tiny(method="dnr", seed=3), tiny(method="ke")], train=False) == []
    said = capsys.readouterr().out
    assert "not run: 2 of 2 runs" in said
    settings = "+batch=20+epochs=1+generations=3+per_class=4+width=4"
    methods = f"--method dnr{settings} --method ke{settings}"
    assert f"dnr study --dataset digits {methods} --seed 0 --seed 3" in said


@pytest.fixture
def typed(monkeypatch):
    """What the studies that a shell would start from a text train and evaluate: pairs of configs
    and evaluations, read as the command line reads them."""

    def read(text):
        asked = []

        def noted(configs, evaluations=(), **how):
            asked.append((configs, evaluations))
            raise UserError("enough")

        monkeypatch.setattr(study, "study", noted)
        for line in text.split(" &&\n"):
            words = shlex.split(line)
            assert words[:2] == ["dnr", "study"]
            assert cli.main(words[1:]) == 1
        return asked

    return read


@pytest.mark.parametrize(
    "configs",
    [
        grid("digits", ["dnr", "tune"], 2),
        grid("digits", ["dnr", "dnr+keep=0.6"], 1, "smoke"),
        grid("digits", ["dnr+epochs=2"], 1),
        grid("digits-hard", ["dnr+probe=128+smoothing=0"], 3, lr=1e-05),
        grid("digits", exhibits.arms("table4", "digits"), 1),
        [*grid("digits", ["dnr", "plain"], 1, "smoke"), *grid("digits", ["dnr"], 2, pool="tuning")],
        [configure(name, seed=seed) for seed, name in enumerate(["digits", "digits-hard"])],
        [configure("digits", method="plain", lr=1e20)],
    ],
    ids=["plain", "smoke", "short", "settings", "exhibit", "budgets", "datasets", "exponent"],
)
def test_the_command_trains_what_is_missing(configs, typed):
    asked = typed(study.command(configs))
    assert set(configs) <= {config for each, _ in asked for config in each}


@pytest.mark.parametrize(
    ("seeds", "named"),
    [([0, 1], "--seeds 2"), ([7], "--seed 7"), ([5, 0, 4, 3], "--seed 0 --seed 3-5")],
)
def test_the_command_names_no_other_seeds(seeds, named, typed):
    configs = grid("digits", ["dnr"], seeds)
    said = study.command(configs)
    assert said.endswith(named)
    ((asked, _),) = typed(said)
    assert {*asked} == {*configs}


def test_the_command_leaves_out_what_changes_nothing(typed):
    """The command line refuses it; the run is the same."""
    ((asked, _),) = typed(study.command([configure("digits", method="ke", keep=0.5, lr=0.3)]))
    assert asked == [configure("digits", method="ke", lr=0.3)]


@pytest.mark.parametrize("exhibit", [n for n, of in exhibits.EXHIBITS.items() if of.arms])
def test_the_command_of_an_exhibit_on_every_dataset_at_once(exhibit, typed, monkeypatch):
    """On datasets that are not on this machine too."""
    bundled = {True: digits.DATASETS["digits-metric"], False: digits.DATASETS["digits"]}
    monkeypatch.setattr(recipes, "named_dataset", lambda name: bundled[name.endswith("-metric")])
    folder = "folder:/x/my 'photos'; touch PWN"
    configs, wanted = [], {}
    for name in [*RECIPES, folder]:
        if name.endswith("-metric") and exhibit not in made_for(name):
            continue  # Many methods need an output per class.
        arms = exhibits.arms(exhibit, name)
        wanted |= dict.fromkeys(evaluations_of(exhibit, name)) if arms else {}
        for budget in (None, "smoke"):
            configs += grid(name, arms, 2, budget)
    asked = typed(study.command(configs, list(wanted)))
    assert set(configs) == {config for each, _ in asked for config in each}
    for each, evaluations in asked:
        assert set(evaluations_of(exhibit, each[0].dataset)) <= set(evaluations)


@pytest.mark.fault("some runs of a study fail", "the others are done, each failure is named")
def test_failures_are_collected_and_the_rest_is_done(tiny, published):
    good, bad = tiny(method="plain"), tiny(method="tune", lr=1e30, seed=5, epochs=5)
    with pytest.raises(StudyFailed) as error:
        study.study([bad, good], workers=2)
    said = str(error.value)
    assert f"1 of 2 runs failed:\n  digits {arm_of(bad)} seed 5: UserError: the training" in said
    assert said.count("\n") == 1
    assert Archive().find(good) is not None


def test_what_fails_on_one_dataset_does_not_keep_the_next_from_its_training(monkeypatch, capsys):
    begun = []

    def fails(configs, **how):
        begun.append(configs[0].dataset)
        raise StudyFailed(f"1 of 1 runs failed: {configs[0].dataset}")

    monkeypatch.setattr(study, "study", fails)
    words = ["study", "--dataset", "digits", "--dataset", "digits-hard", "--method", "plain"]
    assert cli.main(words) == 1
    assert begun == ["digits", "digits-hard"]
    said = capsys.readouterr().err
    assert said == "dnr: 1 of 1 runs failed: digits\n1 of 1 runs failed: digits-hard\n"


def test_a_run_that_is_asked_for_twice_is_trained_once(tiny, capsys):
    one = tiny(method="plain", seed=77)
    assert [run.config for run in study.study([one, one], workers=2)] == [one, one]
    assert "1 runs to train: 1 generations" in capsys.readouterr().out


def test_a_programming_error_in_a_worker_brings_its_traceback(tiny, published, monkeypatch):
    monkeypatch.setattr(study, "run", _broken)
    with pytest.raises(StudyFailed, match=r"digits plain.* seed 0: Traceback") as error:
        study.study([tiny(method="plain")], workers=1)
    assert re.search(r"(?s)test_study\.py\".*in _broken\n.*KeyError: 'a'$", str(error.value))


def _broken(*arguments, **named):
    return {}["a"]


def _full(*arguments, **named):
    raise OSError(28, "No space left on device", "weights.pt")


@pytest.mark.fault("the disk is full, or can only be read", "one line for each run")
def test_a_full_disk_is_a_line_for_each_run(tiny, published, monkeypatch):
    monkeypatch.setattr(study, "run", _full)
    with pytest.raises(StudyFailed, match="2 of 2 runs failed") as error:
        study.study([tiny(method="plain"), tiny(method="long")], workers=1)
    _, *lines = str(error.value).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "No space left on device: 'weights.pt'; what is finished is kept" in line


def test_a_published_record_is_never_replaced(tiny, published):
    """Nor by one of the same key that another processor made; the file stays as it is."""
    found = run(tiny(method="tune", generations=2))
    path = records.publish("digits", 0, found[:1])
    before = path.read_bytes()
    changed = found[0] | {"result": found[0]["result"] | {"test_accuracy": 1.0}}
    less = found[0] | {"result": {"test_accuracy": found[0]["result"]["test_accuracy"]}}
    for other in (changed, less):
        with pytest.raises(UserError, match="is published with another result, which stays"):
            records.publish("digits", 0, [found[1], other])
    more = found[0] | {"result": found[0]["result"] | {"also": 1}}
    records.publish("digits", 0, [records.seal(more)])
    assert path.read_bytes() == before
    assert list(records.published("digits", 0)) == [found[0]["key"]]
    timed = records.seal(found[0] | {"timing": {"seconds": 9}})
    records.publish("digits", 0, [timed, found[1]])
    assert records.published("digits", 0)[found[0]["key"]] == found[0]


def test_progress_moves_with_every_epoch(tiny, tmp_path, monkeypatch):
    """Also with those that another process has trained, each once, and never back."""
    config = tiny(method="dnr", generations=3, epochs=2)
    store, links = Store(tmp_path), chain(config)
    todo, ended = {link.key: (config, link) for link in links}, threading.Event()

    class Bar:
        n = 0

        def update(self, by):
            assert by >= 0
            self.n += by

    def shows(number):
        for _ in range(100):
            if bar.n == number:
                return True
            time.sleep(0.1)

    bar, real = Bar(), Store.counting

    @contextmanager
    def stopping(self, entry):
        """Training that is stopped after its first epoch in the second generation."""
        with real(self, entry) as count:
            yield lambda: (count(), ended.wait() if entry.generation == 2 else None)

    with study._watching(bar, store, todo):
        with monkeypatch.context() as patched:
            patched.setattr(Store, "counting", stopping)
            running = threading.Thread(target=run, args=(config, tmp_path))
            running.start()
            assert shows(3)
            # As where a killed training begins anew; the bar is moved every second.
            store.path(links[1].trained).with_name("epochs").unlink()
            time.sleep(1.5)
            assert bar.n == 3
            ended.set()
            running.join()
        assert shows(6)
    assert not todo
    assert not [*tmp_path.rglob("epochs")]


def test_seeds_can_be_named_one_by_one(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(study, "study", lambda configs, **how: asked.extend(configs) or [])
    words = ["study", "--method", "plain"]
    for options, seeds in (
        (["--seeds", "2"], [0, 1]),
        # The profile of one machine gives 0.
        (["--seed", "7", "--workers", "0"], [7]),
        (["--seed", "3", "--seed", "5-7"], [3, 5, 6, 7]),
    ):
        asked.clear()
        assert cli.main([*words, *options]) == 0
        assert [config.seed for config in asked] == seeds
    for wrong in ("a", "-1", "5-3", "0-999999999", "1-2-3"):
        with pytest.raises(SystemExit):
            cli.main([*words, f"--seed={wrong}"])
        assert repr(wrong) in capsys.readouterr().err


def test_a_plan_says_what_there_is_to_train(tmp_path, published, capsys):
    """Nine generations of 30 epochs for two seeds each: the first is shared by fine-tuning, DNR and
    plain training, and what is on disk is not counted."""
    given = ["--method", "plain", "--method", "tune+generations=5", "--method", "dnr+generations=5"]
    file = tmp_path / "plan.jsonl"
    assert cli.main(["plan", *given, "--seed", "3-4", "--output", str(file)]) == 0
    said = capsys.readouterr().out
    assert [line.split()[:6] for line in said.splitlines()[1:3]] == [
        ["digits", "3", "3", "9", "2", "270"],
        ["digits", "4", "3", "9", "2", "270"],
    ]
    assert said.splitlines()[3].split()[:5] == ["all", "6", "18", "4", "540"]
    assert "2 jobs, a dataset and a seed each" in said
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["seeds"] for line in lines] == [[3], [4]]
    frame = study.planned(grid("digits", ["plain"], [3]))
    assert frame["timed"][0] == "here"
    assert frame["hours"][0] > 0
    state = models.build(configure("digits")).state_dict().values()
    assert frame["megabytes"][0] == pytest.approx(sum(v.numel() for v in state) * 4.125e-6)
    run(configure("digits", method="plain", seed=3))
    assert study.planned(grid("digits", ["plain"], [3]))[["runs", "epochs"]].sum(axis=None) == 0


def test_hours_are_those_of_alike_records_or_measured(tmp_path, published, monkeypatch):
    """By published records of the same device, network and number of images, else here, where the
    images are."""
    twice = configure("digits", method="plain", epochs=2, warmup=0)
    record = run(twice)[0]
    records.publish("digits", 0, [record])
    monkeypatch.setattr(study, "pace", lambda config, device: 7.0)

    def hours(**settings):
        (row,) = study.planned([configure("digits", **settings)], tmp_path).itertuples()
        return row.hours * 3600 / row.epochs, row.timed

    assert hours(method="long") == (pytest.approx(record["timing"]["seconds"] / 2), "published")
    for other in ({"width": 16}, {"per_class": 5}, {"model": "resnet50"}, {"precision": "bf16"}):
        assert hours(method="plain", **other) == (pytest.approx(7), "here")
    monkeypatch.setattr(study, "device_named", lambda name: torch.device("cuda"))
    assert hours(method="plain") == (pytest.approx(7), "here")

    def without_images(config, device):
        raise UserError("not on this machine")

    monkeypatch.setattr(study, "pace", without_images)
    seconds, timed = hours(method="plain")
    assert math.isnan(seconds)
    assert timed == ""


def test_a_pace_is_that_of_the_second_of_two_short_epochs(monkeypatch):
    """Of 30 images in 3 steps within 6 seconds, and so of 100 images in 20."""
    config, seen = configure("digits", method="plain", batch=4), []

    def train(model, batches, epochs, *, step, after):
        seen.append([len(labels) for _ in range(epochs) for _, labels in batches])
        for _ in range(epochs):
            after(_)
        return {"images": sum(seen[0])}

    ticks = iter([10.0, 16.0])
    monkeypatch.setattr(runs.train, "train", train)
    monkeypatch.setattr(runs.time, "perf_counter", lambda: next(ticks))
    assert runs.pace(config, "cpu") == pytest.approx(6 * 100 / 30)
    assert sum(seen[0]) == 60


def test_several_datasets_are_studied_one_after_the_other(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(study, "study", lambda configs, **how: asked.append(configs) or [])
    words = ["study", "--method", "plain", "--seeds", "1", "--dataset", "digits-hard"]
    assert cli.main([*words, "--dataset", "digits"]) == 0
    assert [[config.dataset for config in configs] for configs in asked] == [
        ["digits-hard"],
        ["digits"],
    ]


def test_a_plan_is_carried_out_seed_by_seed(tmp_path, published, monkeypatch, capsys):
    file, asked = tmp_path / "plan.jsonl", []
    words = ["--exhibit", "fig7", "--budget", "smoke", "--seeds", "3"]
    assert cli.main(["plan", *words, "--output", str(file)]) == 0
    monkeypatch.setattr(study, "study", lambda configs, **how: asked.append((configs, how)) or [])
    assert cli.main(["study", "--plan", str(file), "--seed", "1", "--workers", "2"]) == 0
    ((configs, how),) = asked
    arms = exhibits.arms("fig7", "digits-imbalanced")
    assert configs == grid("digits-imbalanced", arms, [1], "smoke")
    assert (how["evaluations"], how["workers"]) == ((Predictions(),), 2)
    asked.clear()
    two = tmp_path / "two.jsonl"
    two.write_text(file.read_text().replace("[1]", "[1, 2]"))
    assert cli.main(["study", "--plan", str(two), "--seed", "2"]) == 0
    assert [configs[0].seed for configs, _ in asked] == [2], "both lines have it"
    asked.clear()
    assert cli.main(["study", "--plan", str(file)]) == 0
    ((configs, _),) = asked
    assert configs == grid("digits-imbalanced", arms, 3, "smoke"), "seeds side by side"
    for content, seed, wrong in (
        (file.read_text(), "7", "has no seed 7"),
        ("\n", "1", "is empty; is there such a line"),
        (re.sub(r'"arms": \[.*?\]', '"arms": []', file.read_text()), "1", "is not a plan"),
        ("{}\n", "1", "is not a plan"),
        ("[1]\n", "1", "is not a plan"),
        ("no json", "1", "is not a plan"),
        (file.read_text().replace("plain", "plane"), "1", "'plane' is unknown"),
    ):
        file.write_text(content)
        assert cli.main(["study", "--plan", str(file), "--seed", seed]) == 1
        assert wrong in capsys.readouterr().err
    capsys.readouterr()
    assert cli.main(["study", "--plan", str(tmp_path / "none")]) == 1
    assert "none cannot be read; a plan is written by: dnr plan" in capsys.readouterr().err
    for option in ("--method", "--dataset", "--exhibit", "--evaluate", "--budget", "--seeds"):
        value = {"--exhibit": "fig7", "--evaluate": "fig7", "--budget": "smoke", "--seeds": "3"}
        words = ["study", "--plan", str(file), option, value.get(option, "digits")]
        assert cli.main(words) == 1
        assert f"{option} is settled by the plan" in capsys.readouterr().err


@pytest.mark.fault("a study is killed, its workers are not", "they end by themselves")
@POSIX
def test_workers_end_with_the_study_that_started_them(tiny, tmp_path):
    """SIGKILL gives it no chance to stop them."""
    program = (
        "from dnrlib.recipes import grid; from dnrlib.study import study;"
        "study(grid('digits', ['plain+epochs=2000'], 2), published=False, workers=2)"
    )
    killed = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    # Importing takes three processes a minute on a slow machine with other work.
    for _ in range(2000):
        found = {
            child
            for child in psutil.Process(killed.pid).children()
            # None of one that has just ended.
            if any("LokyProcess" in word for word in child.as_dict(["cmdline"])["cmdline"] or ())
        }
        if len(found) == 2 and len(list((tmp_path / "runs").glob("*"))) == 2:
            break
        time.sleep(0.1)
    else:
        killed.kill()
        pytest.fail(f"after 200 seconds: {len(found)} workers, {list(tmp_path.rglob('*'))}")
    killed.kill()
    killed.wait()
    _, alive = psutil.wait_procs(found, timeout=30)
    for worker in alive:
        worker.kill()
    assert not alive


def test_workers_take_the_gpus_in_turn(tiny, tmp_path, monkeypatch):
    """As if there were two; each process keeps the one that it has."""
    assert study.processes(3, "auto") == (3, ["cpu"]), "not what it will be when a worker asks"
    monkeypatch.setattr(study, "device_named", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert study.processes(0, "cuda") == (2, ["cuda:0", "cuda:1"])
    assert study.processes(6, "cuda:1") == (6, ["cuda:1"])
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # As in a job that may use one core.
    assert study.processes(0, "cpu") == (1, ["cpu"])
    monkeypatch.setattr(study, "_attempt", _both_there)
    study._train([tiny(seed=seed) for seed in range(6)], 2, "cuda", tmp_path, ())
    used = [path.name.split("-") for path in tmp_path.iterdir()]
    assert len(used) == 2
    assert {device for _, device in used} == {"cuda:0", "cuda:1"}
    named = [SimpleNamespace(name=f"LokyProcess-{number}") for number in range(3, 9)]
    monkeypatch.setattr(study, "current_process", lambda: named.pop())
    devices = [study._own(["cuda:0", "cuda:1", "cuda:2"]) for _ in range(6)]
    assert Counter(devices) == {"cuda:0": 2, "cuda:1": 2, "cuda:2": 2}


def _both_there(config, runs, devices, *rest):
    """Notes the process and its device; waits until two have done so."""
    (runs / f"{os.getpid()}-{study._own(devices)}").touch()
    for _ in range(600):
        if len(list(runs.iterdir())) == 2:
            break
        time.sleep(0.1)
    return config, None


def test_a_task_is_done_on_the_device_of_its_process(tiny, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(study, "run", lambda config, runs, device, **how: asked.append(device))
    study._attempt(tiny(), tmp_path, ["cuda:0", "cuda:1"], False, ())
    assert asked == ["cuda:0"]


@pytest.mark.fault(
    "a worker process of a study is killed",
    "goes on from the last whole generation, with the same result",
)
@POSIX
def test_a_study_goes_on_when_a_worker_is_killed(tiny, tmp_path, published, monkeypatch, capsys):
    """In the second generation; what was trained before is read again."""
    configs = [tiny(method="tune", seed=seed) for seed in (0, 1)]
    undisturbed = study.study(configs, workers=1, runs=tmp_path / "undisturbed")
    monkeypatch.setattr(study, "_attempt", _attempt_killed_once)
    found = study.study(configs, workers=2)
    assert results(found) == results(undisturbed)
    assert "a worker process was killed" in capsys.readouterr().err
    first = records.runs_root() / chain(configs[0])[0].key / "weights.pt"
    assert first.stat().st_mtime < (records.runs_root() / "killed").stat().st_mtime


def _attempt_killed_once(config, runs, *rest):
    trained = train.train

    def until_the_second(model, batches, epochs, **named):
        if batches.generation == 2 and config.seed == 0 and not (runs / "killed").exists():
            (runs / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return trained(model, batches, epochs, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train", until_the_second)
        return _attempt(config, runs, *rest)


_attempt = study._attempt


def test_published_records_are_found_first_and_are_a_run_of_their_own(tiny, published):
    config = tiny(method="dnr")
    own = study.study([config], workers=1)
    assert own[0].source == "runs"
    publish(own)
    assert Archive().find(config).source == "published"
    assert Archive(published=False).find(config).source == "runs"
    assert Archive().find(config).records == own[0].records
    assert Archive().find(tiny(method="dnr", generations=2)) is not None, (
        "a prefix is published too"
    )
    assert Archive().find(tiny(method="dnr", generations=4)) is None


def test_publishing_twice_gives_the_same_file(tiny, published):
    configs = [tiny(method=method) for method in ("dnr", "ke")]
    found = study.study(configs, workers=1)
    publish(found)
    path = published / "digits" / "seed-0000.jsonl.gz"
    content = path.read_bytes()
    publish(reversed(found))
    assert path.read_bytes() == content
    assert len(gzip.decompress(content).splitlines()) == 3 + 2 + 3 + 3, (
        "the shared generation stands there once"
    )


def rewrite(path, change):
    """Writes a published file anew, each record changed."""
    found = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    lines = [json.dumps(record) for record in map(change, found)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def test_a_changed_published_record_is_noticed(tiny, published):
    """A number changed by hand does not fit the manifest, nor the seal of its record; under a new
    seal and in a new manifest it shows in the frame."""
    config = tiny(method="plain")
    publish(study.study([config], workers=1))
    path = published / "digits" / "seed-0000.jsonl.gz"
    before = generations([Archive().find(config)])["test_accuracy"][0]

    def better(record):
        record["result"]["test_accuracy"] += 1
        return record

    rewrite(path, better)
    with pytest.raises(records.DamagedFile, match=r"not the file that manifest.json lists"):
        Archive().find(config)
    with pytest.raises(records.DamagedFile, match=r"does not fit its seal"):
        records.list_copied("digits")
    rewrite(path, records.seal)
    records.list_copied("digits")
    assert generations([Archive().find(config)])["test_accuracy"][0] == before + 1


HARMS = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-9],
    "shortened": lambda content: gzip.compress(gzip.decompress(content).splitlines()[0]),
    "not compressed": gzip.decompress,
    "flipped": lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:],
    "missing": None,
}


@pytest.mark.fault(
    "a published file is damaged or missing",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_published_file_is_named(tiny, published, harm):
    config = tiny(method="dnr")
    publish(study.study([config], workers=1))
    path = published / "digits" / "seed-0000.jsonl.gz"
    content = path.read_bytes()
    path.unlink()
    if HARMS[harm]:
        path.write_bytes(HARMS[harm](content))
    with pytest.raises(records.DamagedFile, match=r"seed-0000.jsonl.gz is damaged .* git checkout"):
        Archive().find(config)
    assert records.published_seeds("digits") == 1
    if harm in ("cut short", "not compressed", "flipped"):
        with pytest.raises(
            records.DamagedFile, match=r"seed-0000.jsonl.gz is damaged .not gzipped"
        ):
            records.list_copied("digits")


def test_a_published_file_is_read_in_its_place_only(tiny, published):
    configs = [tiny(method="dnr", seed=seed) for seed in (0, 1)]
    publish(study.study(configs, workers=1))
    one, other = (published / "digits" / f"seed-000{seed}.jsonl.gz" for seed in (0, 1))
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    with pytest.raises(records.DamagedFile, match=r"seed-0001.jsonl.gz is damaged .not the file"):
        Archive().find(configs[1])
    with pytest.raises(
        records.DamagedFile, match=r"seed-0000.jsonl.gz is damaged .record '\w+' is of"
    ):
        records.list_copied("digits")


@pytest.mark.parametrize("wrong", [{"dataset": "digits-hard"}, {"seed": 1}, None])
def test_a_record_in_the_wrong_file_is_an_error(tiny, published, wrong):
    """A generation of another dataset or seed, or a mask of none that is there."""
    found = study.study([tiny(method="dnr")], workers=1)
    moved = [
        records.seal(record | {"config": record["config"] | (wrong or {})})
        if record["kind"] == "generation"
        else record
        for record in found[0].records
    ]
    if wrong is None:
        moved = moved[:1] + moved[3:4]
    with pytest.raises(records.DamagedFile, match="is of another dataset or seed"):
        records.publish("digits", 0, moved)
    assert not (published / "digits").exists()


def test_a_file_that_is_not_listed_is_refused_until_it_is(tiny, published, monkeypatch, tmp_path):
    config = tiny(method="plain", seed=1)
    publish(study.study([config], workers=1))
    (published / "manifest.json").unlink()
    for ask in (lambda: records.published_seeds("digits"), lambda: Archive().find(config)):
        with pytest.raises(
            UserError, match=r"not listed .*python -m tests.publish digits --copied"
        ):
            ask()
    monkeypatch.setattr(sys, "argv", ["publish", "digits", "--copied"])
    tests_publish.main()
    assert records.published_seeds("digits") == 1
    assert Archive().find(config).source == "published"
    (published / "manifest.json").write_text("[1]")
    with pytest.raises(records.DamagedFile, match=r"manifest.json is damaged .* git checkout"):
        Archive().find(config)


@POSIX
def test_the_manifest_lists_what_was_published_at_once(tiny, published, monkeypatch):
    """The seeds of one study, by as many processes, each slow to write the manifest."""
    written = records.write

    def slowly(path, content):
        time.sleep(0.3 * (path.name == "manifest.json"))
        written(path, content)
        # As on a file system that counts time in seconds.
        os.utime(path, (1, 1))

    found = study.study([tiny(method="plain", seed=seed) for seed in range(4)], workers=1)
    monkeypatch.setattr(records, "write", slowly)
    publish(found[3:])
    children = []
    for run_ in found[:2]:
        children.append(os.fork())
        if not children[-1]:
            try:
                records.publish("digits", run_.config.seed, run_.records)
                os._exit(0)
            finally:
                os._exit(1)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    publish(found[2:3])
    assert records.published_seeds("digits") == 4
    assert all(Archive(own=False).find(run_.config) for run_ in found)


def test_the_command_that_restores_a_published_file_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "my 'records'; touch PWN")
    path = records.PUBLISHED / "digits" / "seed-0000.jsonl.gz"
    _, command = str(records.DamagedFile(path, "x")).split("restore it with: ")
    assert shlex.split(command) == ["git", "checkout", "--", str(path)]


def test_precision_is_an_arm_like_any_other(tiny, published):
    configs = [tiny(method="plain"), tiny(method="plain", precision="bf16")]
    exact, coarse = generations(study.study(configs, workers=1))["method"]
    assert coarse == exact.replace("+width", "+precision=bf16+width")


def test_generations_are_tidy(everyone):
    configs, _, found = everyone
    frame = generations(found)
    assert frame["method"].unique().tolist() == [arm_of(config) for config in configs]
    frame["method"] = frame["method"].str.split("+").str[0]
    assert len(frame) == 2 + 3 * (len(METHODS) - 2)
    assert not frame.duplicated(["method", "seed", "generation"]).any()
    last = frame[frame["last"]].set_index("method")
    assert (last["epochs"].drop(["plain", "repr", "dsd"]) == 6).all()
    assert last.loc[["plain", "repr", "dsd"], "epochs"].tolist() == [2, 2, 4]
    assert last["train_accuracy"].notna().all()
    ours = frame[frame["method"] == "dnr"].set_index("generation")
    total = 43940
    assert (ours["kept"] * total).tolist() == pytest.approx([round(0.8 * total)] * 3)
    assert ours["overlap_previous"].isna().tolist() == [True, False, False]
    assert ours.loc[2, "overlap_previous"] == ours.loc[2, "overlap_first"]
    assert ours["overlap_resampled"].between(0.65, 0.999).all()
    assert frame[frame["method"] == "ke"]["overlap_first"].dropna().eq(1).all()


def test_the_long_baseline_has_its_course(tiny, published):
    (run_,) = study.study([tiny(method="long", epochs=2)], workers=1)
    frame = generations([run_])
    assert frame["epochs"].tolist() == [2, 4, 6]
    assert frame["last"].tolist() == [False, False, True]
    assert frame["test_accuracy"].tolist() == run_.records[0]["result"]["trace"]


def test_layers_sum_to_the_generation(tiny, published):
    found = study.study([tiny(method="dnr")], workers=1)
    counts = ["kept", "size", "with_previous", "with_resampled"]
    sums = layers(found).groupby("generation")[counts].sum()
    frame = generations(found).set_index("generation")
    assert (sums["kept"] / sums["size"]).tolist() == pytest.approx(frame["kept"].tolist())
    share = sums["with_previous"] / sums["kept"]
    assert share[2:].tolist() == pytest.approx(frame["overlap_previous"][2:].tolist())
    share = sums["with_resampled"] / sums["kept"]
    assert share.tolist() == pytest.approx(frame["overlap_resampled"].tolist())


def test_frames_of_nothing_have_their_columns():
    assert {"method", "last", "test_accuracy"} <= set(generations([]).columns)
    assert {"layer", "kept"} <= set(layers([]).columns)


def test_agreement_bit_for_bit_on_the_same_processor(tiny, published, tmp_path):
    configs = [tiny(method="dnr", seed=seed) for seed in (0, 1)]
    shown = study.study(configs, workers=1, runs=tmp_path / "elsewhere")
    assert agreement(shown).startswith("None of these runs was trained on this machine")
    # As the first published masks, which lack what is measured of a mask now.
    masks = [record for run_ in shown for record in run_.records if record["kind"] == "mask"]
    for record in masks:
        del record["result"]["with_resampled"]
        record |= records.seal(record)
    publish(shown)
    assert agreement(shown).startswith("None of these runs was trained on this machine")
    study.study(configs, published=False, workers=1)
    said = agreement(shown)
    assert said.startswith("2 of these runs are on this machine too, made with")
    assert "compared bit for bit, all agree" in said
    assert masks
    begins = study.study([tiny(method="plain", seed=0)], workers=1)
    assert agreement([*shown, *begins]).startswith(
        "3 of these runs are on this machine too (2 trainings: "
    )
    path = records.runs_root() / chain(configs[0])[-1].key / "record.json"
    record = records.read(path)
    record["result"]["weights"] = "0" * 20
    records.save(path, record)
    assert "compared bit for bit, 1 DIFFER" in agreement(shown)


def _elsewhere(run_, offset):
    """A run as if of another processor, its final accuracy moved by `offset` points."""
    moved = []
    for record in run_.records:
        record = json.loads(json.dumps(record))
        record["provenance"]["processor"] = "another one"
        record["result"]["test_accuracy"] += offset
        moved.append(records.seal(record))
    return dataclasses.replace(run_, records=moved)


@pytest.mark.parametrize(
    ("offsets", "word"), [((0.3, -0.2, 0.1), "no difference was found"), ((2, 2.1, 1.9), "DIFFER")]
)
def test_agreement_by_the_interval_on_another_processor(tiny, published, offsets, word):
    configs = [tiny(method="plain", seed=seed) for seed in range(3)]
    found = study.study(configs, workers=1)
    publish(_elsewhere(run_, offset) for run_, offset in zip(found, offsets, strict=True))
    said = agreement(found)
    assert "n = 3 seeds" in said
    assert "95 % interval" in said
    assert word in said


def test_damaged_own_records_are_named(tiny, published):
    config = tiny(method="plain")
    run(config)
    path = records.runs_root() / chain(config)[0].key / "record.json"
    path.write_text(path.read_text().replace("9", "8", 1))
    with pytest.raises(records.DamagedFile, match=r"record.json is damaged"):
        study.study([config])


@pytest.mark.fault("a disk is full", "what was there before stays; one line")
def test_writes_leave_nothing_behind_when_they_fail(tmp_path, monkeypatch):
    path = tmp_path / "file"
    records.write(path, b"old")
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        records.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_precision_enters_the_training(tiny):
    exact, coarse = (
        run(configure("digits", "smoke", method="plain", precision=name, width=4))[0]["result"]
        for name in ("fp32", "bf16")
    )
    assert exact["weights"] != coarse["weights"]
