"""The benchmarks do equal work, and what is said of their numbers is right."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks import generation
from benchmarks.data import photographs
from benchmarks.generation import Bare, Setting
from benchmarks.reference import Reference
from dnrlib import data, models, speed
from dnrlib.masks import prunable
from dnrlib.recipes import configure
from dnrlib.run import run
from dnrlib.speed import BUNDLED, LARGE, SMALL, goals_table, line, misses, parts
from tests import POSIX

TINY = {"dataset": "cifar10", "model": "resnet18", "width": 8, "batch": 8, "epochs": 2, "lr": 0.01}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A folder of small photographs, decoded, and the setting that is made of it."""
    setting = Setting(TINY, 2, 32, 32, 20, 10)
    monkeypatch.setitem(generation.SETTINGS, "tiny", setting)
    return generation.prepare(setting, tmp_path)


def passes(monkeypatch, work):
    """The images that go through networks while `work` is done: (training mode, gradients)."""
    counted = {}
    forward = models.ResNet.forward

    def counting(model, images):
        kind = model.training, torch.is_grad_enabled()
        counted[kind] = counted.get(kind, 0) + len(images)
        return forward(model, images)

    with monkeypatch.context() as patched:
        patched.setattr(models.ResNet, "forward", counting)
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
        loop = Reference(prepared, data.dataset("cifar10"), config, out, kind)
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
    assert set(found["seconds"]) == {"dnrlib", "reference", "kinder", "bare"}
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
    rounds = {"dnrlib": own, "bare": bare} | ({"reference": loop, "kinder": loop} if loop else {})
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


@pytest.mark.parametrize(
    ("part", "cells"),
    [
        (f"{LARGE}: the lineage's loop", "≥ 2.3 × | 2.30 × [2.00, 2.40], n = 3: reached"),
        (f"{LARGE}: its kinder version", "– | 2.30 × [2.00, 2.40], n = 3"),
        (f"{LARGE}: bare passes", "≤ 1.05 × | 1.04 × [1.00, 1.25], n = 3: reached"),
        (f"{SMALL}: the lineage's loop", "≥ 1.9 × | 1.90 ×: reached"),
        (f"{BUNDLED}: bare passes", "≤ 1.1 × | 1.00 × [1.00, 2.00], n = 3: reached"),
        # Half a second in 200 epochs of 4 seconds.
        ("saliency to reset, of 200 epochs", "≤ 1 % | 0.06 % [0.06, 0.06], n = 3: reached"),
        ("bytes of a mask: the lineage's file", "≥ 64 × | 64.0 ×: reached"),
        ("bytes of a mask: float32", "– | 32.0 ×"),
        (f"CUDA, {LARGE}, graphs: eager steps", "≥ 1.5 × | not measured on a GPU yet"),
    ],
)
def test_goals_are_judged_by_the_median_of_the_rounds(result, part, cells):
    assert f"| {part} | {cells} |" in goals_table([result], "t").data.splitlines()


def test_a_missed_goal_says_where_the_time_went(result):
    assert misses([result]).data == "Every goal that was measured is reached."
    result["generations"][f"{LARGE}, fp32"]["seconds"]["reference"] = [11.0, 12.0, 13.0]
    text = misses([result]).data
    assert text.startswith(f"- {LARGE}: the lineage's loop (A processor, one core, fp32): forward")
    assert "forward and backward 50.0 %" in text
    assert "switch 5.0 %" in text
    assert "The goal supposes bf16 arithmetic" in text
    assert "**missed**" in goals_table([result], "t").data


def test_a_gpu_has_its_own_goals(result):
    result["machine"] = {"device": "cuda", "processor": "A GPU"}
    rates = {"graph": [300.0], "eager": [200.0], "bare": [330.0]}
    rates |= {f"{n} processes": [100.0 * n] for n in (1, 2, 4)}
    result["images_per_second"] = {LARGE: rates}
    text = goals_table([result], "t").data
    assert "graphs: eager steps | ≥ 1.5 × | 1.50 ×: reached |" in text
    assert "bare passes: graphs | ≤ 1.15 × | 1.10 ×: reached |" in text
    assert "4 processes: one | – | 4.00 × |" in text
    assert "not measured on a GPU yet" not in text


def test_the_parts_of_a_generation_add_up(result):
    shares = parts(result)
    assert shares.loc[LARGE, "forward and backward"] == 50
    assert shares.loc[LARGE, "other"] == pytest.approx(10)
    assert shares.loc[[LARGE, SMALL]].sum(axis=1).tolist() == pytest.approx([100, 100])


def test_formats_are_paired_by_arm():
    arms = ["plain", "dnr+keep=0.6+precision=bf16", "plain+precision=bf16", "dnr+precision=bf16"]
    frame = pd.DataFrame({"method": [*arms, "dnr+keep=0.6"]})
    assert speed.in_bf16(frame) == [
        ("dnr+keep=0.6+precision=bf16", "dnr+keep=0.6"),
        ("plain+precision=bf16", "plain"),
    ]


def test_a_line_and_its_residual():
    (slope, start), residual = line(np.array([0, 1, 2]), np.array([1.0, 3.0, 5.0]))
    assert (slope, start, residual) == pytest.approx((2, 1, 0))
    _, residual = line(np.array([0, 1, 2]), np.array([0.0, 1.0, 0.0]))
    assert residual == pytest.approx(100 * 2 / 3)


def test_more_work_is_counted_from_the_rounds(result):
    x, y = speed.by_generations(result)
    assert (x.tolist(), y.tolist()) == ([1, 2, 3], [2, 4, 8])
    x, y = speed.by_images(result)
    assert (x.tolist(), y.tolist()) == ([50, 100], [2, 3])


def test_committed_results_are_of_this_benchmark():
    found = speed.results()
    assert found
    for one in found:
        assert one["machine"]["commit"]
        assert "+changes" not in one["machine"]["commit"]
        for setting in (LARGE, SMALL, BUNDLED):
            rounds = one["generations"][f"{setting}, fp32"]["seconds"]
            assert {len(seconds) for seconds in rounds.values()} == {
                generation.SETTINGS[setting].rounds
            }
