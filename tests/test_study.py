"""Studies: finding, training in parallel, refusing to mix, frames, publishing, agreement."""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from dnrlib import UserError, cli, paper, records, study
from dnrlib.evaluations import Attack, Predictions
from dnrlib.frames import generations, layers
from dnrlib.methods import METHODS
from dnrlib.recipes import arm_of, configure, grid
from dnrlib.run import chain, run
from dnrlib.study import Archive, StudyFailed, agreement
from tests import POSIX


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
    assert f"dnr study --dataset digits {methods} --seeds 4" in said


@pytest.mark.parametrize(
    "configs",
    [
        grid("digits", ["dnr", "tune"], 2),
        grid("digits", ["dnr", "dnr+keep=0.6"], 1, "smoke"),
        grid("digits", ["dnr+epochs=2"], 1),
        grid("digits-hard", ["dnr+probe=128+smoothing=0"], 3, lr=1e-05),
        grid("digits", paper.arms("table4", "digits"), 1),
    ],
    ids=["plain", "smoke", "as short as smoke", "settings", "exhibit"],
)
def test_the_command_trains_what_is_missing(configs, monkeypatch):
    """Read as the command line reads it."""
    asked = []

    def noted(configs, **how):
        asked.extend(configs)
        raise UserError("enough")

    monkeypatch.setattr(study, "study", noted)
    words = study.command(configs).split()
    assert words[0] == "dnr"
    cli.main(words[1:])
    assert set(configs) <= set(asked)


def test_failures_are_collected_and_the_rest_is_done(tiny, published):
    good, bad = tiny(method="plain"), tiny(method="tune", lr=1e30, seed=5, epochs=5)
    with pytest.raises(StudyFailed) as error:
        study.study([bad, good], workers=2)
    said = str(error.value)
    assert f"1 of 2 runs failed:\n  digits {arm_of(bad)} seed 5: UserError: the training" in said
    assert Archive().find(good) is not None


def test_workers_end_with_the_study_that_started_them(tiny, tmp_path):
    """SIGKILL gives it no chance to stop them."""
    program = (
        "from dnrlib.config import grid; from dnrlib.study import study;"
        "study(grid('digits', ['plain+epochs=2000'], 2), published=False, workers=2)"
    )
    killed = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    # Importing takes three processes a minute on a slow machine with other work.
    for _ in range(2000):
        found = {
            child
            for child in psutil.Process(killed.pid).children()
            if any("LokyProcess" in word for word in child.cmdline())
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


@POSIX
def test_a_killed_worker_is_an_error_that_says_what_to_do(tiny, published, monkeypatch):
    monkeypatch.setattr(study, "_attempt", _die)
    with pytest.raises(StudyFailed, match=r"a worker process was killed.*run it again"):
        study.study([tiny(seed=0), tiny(seed=1)], workers=2)


def _die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


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


@pytest.mark.parametrize("seal", ["old", "new"])
def test_a_changed_published_record_is_noticed(tiny, published, seal):
    """A number changed by hand breaks its seal; with a new seal it shows in the frame."""
    config = tiny(method="plain")
    publish(study.study([config], workers=1))
    path = published / "digits" / "seed-0000.jsonl.gz"
    record = json.loads(gzip.decompress(path.read_bytes()))
    before = generations([Archive().find(config)])["test_accuracy"][0]
    record["result"]["test_accuracy"] += 1
    if seal == "new":
        record = records.seal(record)
    path.write_bytes(gzip.compress(json.dumps(record).encode()))
    if seal == "old":
        with pytest.raises(
            records.DamagedFile, match=r"seed-0000.jsonl.gz is damaged .* git checkout"
        ):
            Archive().find(config)
    else:
        assert generations([Archive().find(config)])["test_accuracy"][0] == before + 1


@pytest.mark.parametrize("harm", ["cut short", "not compressed", "flipped"])
def test_a_damaged_published_file_is_named(tiny, published, harm):
    config = tiny(method="plain")
    publish(study.study([config], workers=1))
    path = published / "digits" / "seed-0000.jsonl.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(
        {
            "cut short": path.read_bytes()[:-9],
            "not compressed": gzip.decompress(path.read_bytes()),
            "flipped": bytes(content),
        }[harm]
    )
    with pytest.raises(records.DamagedFile, match=r"seed-0000.jsonl.gz is damaged .* git checkout"):
        Archive().find(config)


@pytest.mark.parametrize(
    ("what", "value"), [("device", "cuda"), ("results", 0)], ids=["device", "results version"]
)
def test_runs_of_different_conditions_are_not_compared(tiny, published, what, value):
    configs = [tiny(method="plain", seed=seed) for seed in (0, 1)]
    study.study(configs, workers=1)
    path = records.runs_root() / chain(configs[0])[0].key / "record.json"
    record = records.read(path)
    record["provenance"][what] = value
    records.save(path, record)
    with pytest.raises(UserError, match=r"cannot be compared: .*; .*fresh folder"):
        study.study(configs)


def test_precision_is_an_arm_like_any_other(tiny, published):
    configs = [tiny(method="plain"), tiny(method="plain", precision="bf16")]
    exact, coarse = generations(study.study(configs, workers=1))["method"]
    assert coarse == exact.replace("+width", "+precision=bf16+width")


def test_generations_are_tidy(everyone):
    configs, _, found = everyone
    frame = generations(found)
    assert frame["method"].unique().tolist() == [arm_of(config) for config in configs]
    frame["method"] = frame["method"].str.split("+").str[0]
    assert len(frame) == 1 + 3 * (len(METHODS) - 1)
    assert not frame.duplicated(["method", "seed", "generation"]).any()
    last = frame[frame["last"]].set_index("method")
    assert (last["epochs"].drop(["plain", "dsd"]) == 6).all()
    assert last.loc[["plain", "dsd"], "epochs"].tolist() == [2, 4]
    assert last["train_accuracy"].notna().all()
    ours = frame[frame["method"] == "dnr"].set_index("generation")
    total = 43940
    assert (ours["kept"] * total).tolist() == pytest.approx([round(0.8 * total)] * 3)
    assert ours["overlap_previous"].isna().tolist() == [True, False, False]
    assert ours.loc[2, "overlap_previous"] == ours.loc[2, "overlap_first"]
    assert (ours["zero_saliency"] < 1).all()
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
    configs = [tiny(method="tune", seed=seed) for seed in (0, 1)]
    shown = study.study(configs, workers=1, runs=tmp_path / "elsewhere")
    assert agreement(shown).startswith("None of these runs was trained on this machine")
    publish(shown)
    assert agreement(shown).startswith("None of these runs was trained on this machine")
    study.study(configs, published=False, workers=1)
    assert "compared bit for bit, all agree" in agreement(shown)
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
