"""Trees of runs: what is whole, what is named, and what copying several into one gives."""

import dataclasses
import re
import shutil
from collections import Counter

import pytest

from dnrlib import cli, records, study
from dnrlib.check import check
from dnrlib.datasets import digits
from dnrlib.evaluate.evaluations import Predictions
from dnrlib.run import chain, run
from dnrlib.store import Store


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """The folder of runs of two methods, which share their first generation."""
    folder = tmp_path_factory.mktemp("made")
    for method in ("tune", "dnr"):
        run(tiny(method=method), folder, evaluations=[Predictions()])
    return folder


@pytest.fixture
def links(tiny):
    return chain(tiny(method="dnr"))


@pytest.fixture
def runs(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs")


def test_a_whole_tree_is_one_line(runs, capsys):
    whole, faults, _ = check(runs)
    assert (whole, faults) == (Counter(generation=5, mask=3, evaluation=2), [])
    assert cli.main(["records", "check", str(runs)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("10 records are whole (")
    assert said.out.count("\n") == 1
    assert cli.main(["records", "check"]) == 0, "these are $DNRLIB_RUNS"


def test_what_a_killed_run_leaves_is_no_fault(runs, links, capsys):
    """The last generation without its record; its temporary file; the lock."""
    folder = runs / links[-1].key
    for path in folder.glob("*.json"):
        path.unlink()
    (folder / ".record.json-abcdefgh").write_text("{")
    assert check(runs) == (Counter(generation=4, mask=2, evaluation=1), [], [folder])
    assert cli.main(["records", "check", str(runs)]) == 0
    assert "1 generations have weights and no record" in capsys.readouterr().out


def test_trees_of_several_nodes_are_one_by_copying(tiny, tmp_path, monkeypatch, capsys):
    """Of a seed each, and a study of both trains nothing."""
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "published")
    configs = [tiny(method=method, seed=seed) for seed in (0, 1) for method in ("tune", "dnr")]
    nodes = tmp_path / "node-0", tmp_path / "node-1"
    for node, own in zip(nodes, (configs[:2], configs[2:]), strict=True):
        study.study(own, workers=1, runs=node)
    alone = [check(node)[0] for node in nodes]
    merged = tmp_path / "merged"
    for node in nodes:
        shutil.copytree(node, merged, dirs_exist_ok=True)
    assert check(merged) == (alone[0] + alone[1], [], [])
    monkeypatch.setattr(study, "_train", None)
    assert len(study.study(configs, runs=merged)) == 4
    assert "nothing to train" in capsys.readouterr().out


def change(path, **values):
    """Changes a record and seals it again."""
    records.save(path, records.read(path) | values)


def flip_weights(store, links):
    path = store.path(links[1].trained).with_name("weights.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_weights(store, links):
    shutil.copy(store.runs / links[0].key / "weights.pt", store.runs / links[1].key)


def no_weights(store, links):
    (store.runs / links[2].key / "weights.pt").unlink()


def other_mask(store, links):
    shutil.copy(store.path(links[0].mask, ".npz"), store.path(links[2].mask, ".npz"))


def broken_seal(store, links):
    path = store.path(links[2].trained)
    path.write_text(path.read_text().replace('"generation":3', '"generation":2'))


def other_kind(store, links):
    shutil.copy(store.path(links[2].trained), store.path(links[2].mask))


def renamed(store, links):
    folder = store.runs / links[2].key
    for path in folder.glob("*-*.json"):
        path.unlink()
    folder.rename(folder.with_name("0" * 20))


def other_generation(store, links):
    change(store.path(links[2].trained), generation=2)
    for path in (store.runs / links[2].key).glob("*-*.json"):
        path.unlink()


def other_settings(store, links):
    record = records.read(store.path(links[2].trained))
    change(store.path(links[2].trained), config=record["config"] | {"lr": 0.5})


def other_stage(store, links):
    change(store.path(links[2].trained), stage={"Generation": {"epochs": 7.0}})


def trained_anew(store, links):
    """Sound by itself, with other weights, as from another processor."""
    record = store.read(links[1].trained)
    state = {name: value + 1 for name, value in store.weights(links[1].trained).items()}
    result = record["result"] | {"weights": store.write_weights(links[1].trained, state)}
    store.write(links[1].trained, record | {"result": result})


def no_parent(store, links):
    shutil.rmtree(store.runs / links[1].key)


def no_mask(store, links):
    store.path(links[1].mask).unlink()


def other_rule(store, links):
    change(store.path(links[2].mask), keep={"Top": {"share": 0.1}})


def other_evaluation(store, links):
    (path,) = (store.runs / links[2].key).glob("evaluation-*.json")
    change(path, evaluation={"Attack": {}})


def no_generation(store, links):
    store.path(links[2].trained).unlink()
    store.path(links[2].mask).unlink()


def too_deep(store, links):
    shutil.copytree(store.runs / links[0].key, store.runs / "copied" / links[0].key)
    for path in (store.runs / "copied" / links[0].key).glob("mask-*.json"):
        path.unlink()


def no_record(store, links):
    for path in (store.runs / links[2].key).glob("*-*.json"):
        path.unlink()
    records.save(store.path(links[2].trained), {"kind": "generation"})


FAULTS = {
    flip_weights: (1, r"weights.pt is damaged \("),
    other_weights: (1, r"weights.pt is damaged \(its weights are not those of its record"),
    no_weights: (2, r"weights.pt is damaged \(cannot be read: FileNotFoundError"),
    other_mask: (2, r"mask-\w+.npz is damaged \(its bits are not those of its record"),
    broken_seal: (2, r"record.json is damaged \(its content does not fit its seal"),
    other_kind: (2, r"mask-\w+.json is damaged \(it is the record of the generation"),
    renamed: (None, r"/0{20}/record.json is damaged \(it is the record of the generation"),
    other_generation: (2, r"record.json is damaged \(no generation that is here leads to its key"),
    other_settings: (2, r"record.json is damaged \(no generation that is here leads to its key"),
    other_stage: (2, r"record.json is damaged \(no generation that is here leads to its key"),
    trained_anew: (2, r"record.json is damaged \(what it was trained from has been trained anew"),
    no_parent: (2, r"record.json is damaged \(no generation that is here leads to its key"),
    no_mask: (2, r"record.json is damaged \(the mask that it was trained with is not here"),
    other_rule: (2, r"mask-\w+.json is damaged \(its key is not that of its content"),
    other_evaluation: (2, r"evaluation-\w+.json is damaged \(its key is not that of its content"),
    no_generation: (2, r"evaluation-\w+.json is damaged \(the generation that it is of is not"),
    too_deep: (0, r"record.json lies too deep; move .* to "),
    no_record: (2, r"record.json is damaged \(not a record of a run"),
}


@pytest.mark.parametrize("harm", FAULTS, ids=lambda harm: harm.__name__)
def test_a_fault_is_one_line_and_names_its_file(runs, links, harm, capsys):
    position, said = FAULTS[harm]
    harm(Store(runs), links)
    _, faults, _ = check(runs)
    assert len(faults) == 1, faults
    assert re.search(said, faults[0])
    assert position is None or links[position].key in faults[0]
    assert cli.main(["records", "check", str(runs)]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{faults[0]}\n"
    assert printed.err == f"dnr: faults in {runs}: 1\n"


def test_the_first_generation_is_of_the_images_that_are_here(runs, links, monkeypatch):
    changed = dataclasses.replace(digits.DATASETS["digits"], fingerprint="0" * 20)
    monkeypatch.setitem(digits.DATASETS, "digits", changed)
    _, (fault,), _ = check(runs)
    assert re.search(r"record.json is damaged \(its key is not that of its content and of", fault)
    assert links[0].key in fault
    monkeypatch.delitem(digits.DATASETS, "digits")
    _, (fault,), _ = check(runs)
    assert "dataset='digits' is unknown" in fault


def test_a_folder_without_records_is_an_error(tmp_path, capsys):
    assert cli.main(["records", "check", str(tmp_path)]) == 1
    assert "has no records" in capsys.readouterr().err
