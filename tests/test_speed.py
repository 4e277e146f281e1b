"""The benchmarks do equal work, and what is said of their numbers is right."""

import json

import pandas as pd
import pytest
import torch
from torch import nn
from torchvision.models import ResNet

from benchmarks import generation
from benchmarks.data import RESULTS, photographs
from benchmarks.generation import BUNDLED, LARGE, SMALL, Bare, Setting
from benchmarks.reference import Reference
from benchmarks.summary import summaries, summary
from dnrlib import models
from dnrlib.datasets import catalogue
from dnrlib.masks import prunable
from dnrlib.recipes import configure
from dnrlib.run import run
from tests import POSIX

TINY = {"dataset": "cifar10", "model": "resnet18", "width": 8, "batch": 8, "epochs": 2, "lr": 0.01}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A folder of small photographs, decoded, and the setting that is made of it."""
    setting = Setting(TINY, 2, 32, 32, 20, 10)
    monkeypatch.setitem(generation.SETTINGS, "tiny", setting)
    generation.prepare(setting, tmp_path, torch.device("cpu"))
    return tmp_path


def passes(monkeypatch, work):
    """The images that go through networks while `work` is done: (training mode, gradients)."""
    counted = {}
    forward = ResNet.forward

    def counting(model, images):
        kind = model.training, torch.is_grad_enabled()
        counted[kind] = counted.get(kind, 0) + len(images)
        return forward(model, images)

    with monkeypatch.context() as patched:
        patched.setattr(ResNet, "forward", counting)
        work()
    return counted


def test_bare_passes_are_those_of_a_generation(prepared, monkeypatch, tmp_path):
    config = configure(**TINY, generations=3, warmup=0)
    run(configure(**TINY, generations=2, warmup=0), tmp_path / "runs", "cpu")
    ours = passes(monkeypatch, lambda: run(config, tmp_path / "runs", "cpu"))
    bare = Bare(config, torch.device("cpu"))
    assert passes(monkeypatch, bare.generation) == ours
    assert ours[True, True] == 2 * 20


@POSIX
def test_the_reference_does_the_work_of_a_generation(prepared, monkeypatch):
    """But for the second sample of images that are scored."""
    config = configure(**TINY, generations=2, warmup=0)
    monkeypatch.setattr("benchmarks.reference.WORKERS", 1)
    for kind in (False, True):
        out = prepared / f"out-{kind}"
        out.mkdir()
        loop = Reference(prepared, catalogue.dataset("cifar10"), config, out, kind)
        bare = passes(monkeypatch, Bare(config, torch.device("cpu")).generation)
        bare[False, True] //= 2
        before = {name: weight.clone() for name, weight in prunable(loop.model).items()}
        assert passes(monkeypatch, loop.generation) == bare
        layers = [m for m in loop.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        kept = torch.cat([layer.mask.flatten() for layer in layers]).mean().item()
        assert kept == pytest.approx(config.keep, abs=0.01)
        assert all(not torch.equal(before[n], w) for n, w in prunable(loop.model).items())
        sizes = loop.mask_bytes()
        assert (
            sizes["state"] > 1.9 * sizes["float"] > 1.9 * 4 * sum(map(torch.numel, before.values()))
        )


@POSIX
def test_whole_generations_are_measured_in_rounds(prepared, monkeypatch):
    monkeypatch.setattr("benchmarks.reference.WORKERS", 1)
    found = generation.whole("tiny", "fp32", torch.device("cpu"), prepared)
    assert set(found["seconds"]) == {"dnrlib", "reference", "persistent", "bare"}
    assert all(len(rounds) == 2 for rounds in found["seconds"].values())
    assert len(found["parts"]) == 2
    for counted, seconds in zip(found["parts"], found["seconds"]["dnrlib"], strict=True):
        assert 0.7 * seconds < sum(counted.values()) <= seconds
    bits = sum(map(torch.numel, prunable(models.build(configure(**TINY))).values()))
    assert bits / 8 < found["mask_bytes"]["packed"] < bits / 8 + 20_000


def test_photographs_have_the_size_that_is_asked_for(tmp_path):
    small = photographs(tmp_path, 4, 32)
    assert [path.suffix for path in small] == 4 * [".png"]
    assert {path.parent.name for path in small} == {"0", "1"}


# --------------------------------------------------------------------------------------------------
# What is said of the numbers


def measured(own, bare, loop=None, seconds=None):
    rounds = {"dnrlib": own, "bare": bare} | (
        {"reference": loop, "persistent": loop} if loop else {}
    )
    one = {"data": 1.0, "forward and backward": 5.0, "optimiser": 2.0, "switch": 0.5, "files": 0.5}
    return {"config": {"epochs": 2}, "seconds": rounds, "parts": [one for _ in own]}


@pytest.fixture
def result():
    large = measured([10.0, 10.0, 10.0], [8.0, 9.6, 10.0], [20.0, 23.0, 24.0])
    large["mask_bytes"] = {"packed": 100, "state": 6400, "float": 3200}
    return {
        "machine": {"device": "cpu", "processor": "A processor"},
        "generations": {
            f"{LARGE}, fp32": large,
            f"{SMALL}, fp32": measured([10.0], [10.0], [19.0]),
            f"{BUNDLED}, fp32": measured([2.0, 2.0, 4.0], [2.0, 2.0, 2.0]),
        },
        "images": {"100": [3.0, 2.0, 9.0], "50": [2.0, 2.0, 2.0]},
    }


def test_generations_are_set_beside_the_others_round_by_round(result):
    name, found = summary(result)
    assert name == "A processor, one core, fp32"
    rounds = found["rounds"]
    assert rounds[f"{LARGE}: the lineage's loop"] == [2.0, 2.3, 2.4]
    assert rounds[f"{LARGE}: bare passes"] == pytest.approx([10 / 8, 10 / 9.6, 1])
    assert rounds[f"{SMALL}: with persistent workers"] == [1.9]
    assert rounds[f"{BUNDLED}: bare passes"] == [1, 1, 2]
    assert rounds[f"{BUNDLED}: the lineage's loop"] == []
    # Half a second in 200 epochs of 4 seconds.
    assert rounds["saliency to reset, of 200 epochs"] == pytest.approx(3 * [50 / 800.5])
    assert rounds["bytes of a mask: the lineage's file"] == [64]
    assert rounds["bytes of a mask: float32"] == [32]
    assert rounds[f"CUDA, {LARGE}, graphs: eager steps"] == []


def test_more_work_is_counted_from_the_rounds(result):
    """Medians of rounds, by number and not by name, and how far they are from a line."""
    _, found = summary(result)
    assert found["seconds"] == {"generations": {1: 2, 2: 4, 3: 8}, "images": {50: 2, 100: 3}}
    # 2, 4, 8 are 1/3, 2/3 and 1/3 away from 3 x - 4/3.
    assert found["rounds"]["more generations: off the line"] == pytest.approx([100 * 2 / 3 / 8])


def test_a_gpu_is_measured_in_its_own_ways_and_in_its_fastest_format(result):
    result["machine"] = {"device": "cuda", "processor": "A GPU"}
    rates = {"graph": [300.0], "eager": [200.0], "any order": [360.0], "bare": [330.0]}
    rates |= {f"{n} processes": [100.0 * n] for n in (1, 4)}
    result["images_per_second"] = {LARGE: rates}
    for setting in (LARGE, SMALL):
        result["generations"][f"{setting}, bf16"] = measured([2.0], [1.0])
    name, found = summary(result)
    assert name == "A GPU, bf16"
    rounds = found["rounds"]
    assert rounds[f"CUDA, {LARGE}, graphs: eager steps"] == [1.5]
    assert rounds[f"CUDA, {LARGE}, bare passes: graphs"] == [1.1]
    assert rounds[f"CUDA, {LARGE}, sums in any order: graphs"] == [1.2]
    assert rounds[f"CUDA, {LARGE}, 4 processes: one"] == [4]
    assert rounds[f"{LARGE}: bare passes"] == [2]
    assert rounds["bytes of a mask: float32"] == []


def test_the_parts_of_a_generation_add_up(result):
    parts = summary(result)[1]["parts"]
    assert parts[LARGE]["forward and backward"] == 50
    assert parts[LARGE]["other"] == pytest.approx(10)
    assert [sum(parts[of].values()) for of in (LARGE, SMALL)] == pytest.approx([100, 100])


def test_committed_results_are_of_this_benchmark_and_summed_up():
    found = [json.loads(path.read_text()) for path in RESULTS.glob("generation-*.json")]
    for one in found:
        assert one["machine"]["commit"]
        assert "+changes" not in one["machine"]["commit"]
        assert one["generations"]
        for name, of in one["generations"].items():
            setting = generation.SETTINGS[name.rpartition(", ")[0]]
            assert {len(seconds) for seconds in of["seconds"].values()} == {setting.rounds}
    written = json.loads((RESULTS / "summary.json").read_text())
    fresh = json.loads(json.dumps(summaries()))
    said = "run python -m benchmarks.summary"
    assert written.keys() == fresh.keys(), said
    goals = pd.read_csv(RESULTS.parent / "goals.csv")
    for machine, one in written.items():
        assert {*goals["what"]} <= one["rounds"].keys()
        for what, values in one["rounds"].items():
            assert values == pytest.approx(fresh[machine]["rounds"][what], abs=1e-3), said
        for part in ("parts", "seconds"):
            for of, values in one[part].items():
                assert values == pytest.approx(fresh[machine][part][of], abs=1e-3), said
