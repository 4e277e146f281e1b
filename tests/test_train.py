"""The training step in all its modes, and where its time goes."""

import copy
import json
import shutil
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dnrlib import UserError, cli, graphs, records, run, train
from dnrlib.clock import Clock
from dnrlib.config import Settings
from dnrlib.datasets.augment import batches, normalised
from dnrlib.datasets.catalogue import dataset, load
from dnrlib.graphs import Replayed
from dnrlib.losses import Labels
from dnrlib.methods import METHODS
from dnrlib.models import build
from dnrlib.recipes import configure
from dnrlib.train import Step

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def without_cuda(monkeypatch):
    """Captures on the CPU: the work is done at once and again at every replay, into the tensors of
    the first time. What a graph may rely on, nothing moving, is all that it relies on here."""

    def captured(work):
        result = work()

        def replay():
            again = work()
            if result is not None:
                result.copy_(again)

        return result, replay

    monkeypatch.setattr(graphs, "captured", captured)
    monkeypatch.setattr(graphs, "warm_up", lambda work: [work() for _ in range(3)])


def smooth(model):
    """The network without kinks: where rounding moves an activation over that of a ReLU, whole
    gradients change, by a third in bf16 at random weights, however right the arithmetic is."""
    for module in model.modules():
        if hasattr(module, "relu"):
            module.relu = torch.nn.Softplus()
    return model


def by_hand(model, inputs, labels, config, rates):
    """Steps of SGD in double precision, contiguous, weight by weight; returns the losses."""
    velocity, losses = [torch.zeros_like(weight) for weight in model.parameters()], []
    model.train()
    for rate in rates:
        loss = F.cross_entropy(model(inputs), labels, label_smoothing=config.smoothing)
        losses.append(loss.item())
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for weight, speed, grad in zip(model.parameters(), velocity, grads, strict=True):
                speed.mul_(config.momentum).add_(grad + config.weight_decay * weight)
                weight.sub_(rate * speed)
    return losses


MODES = {
    "fp32, channels last": (Step, "fp32", torch.channels_last, 1e-4),
    "fp32, contiguous": (Step, "fp32", torch.contiguous_format, 1e-4),
    "bf16, channels last": (Step, "bf16", torch.channels_last, 0.05),
    "bf16, contiguous": (Step, "bf16", torch.contiguous_format, 0.05),
    "replayed": (Replayed, "fp32", torch.channels_last, 1e-4),
    "replayed, bf16": (Replayed, "bf16", torch.channels_last, 0.05),
}
"""Step, precision, layout; and how far an update may be from that in double precision, as a share
of its norm."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["digits", "digits-colour"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_a_step_agrees_with_the_plain_path(device, name, mode, request):
    make, precision, layout, tolerance = MODES[mode]
    if device == "cpu":
        request.getfixturevalue("without_cuda")
    config = configure(name, precision=precision, weight_decay=0.01)
    images = load(config).to(torch.device(device))
    inputs = normalised(images.train.images[:50], images.dataset)
    labels = images.train.labels[:50]
    model = smooth(build(config)).to(device).to(memory_format=layout)
    exact = copy.deepcopy(model).double().to(memory_format=torch.contiguous_format)
    before = [weight.detach().clone() for weight in model.parameters()]
    step = make(model, Labels(), config)
    step.restart(None, {})
    model.train()
    losses = []
    with run.arithmetic(1):
        for rate in (0.01, 0.02):
            step.set_rate(rate)
            losses.append(step.learn(inputs, labels).item())
            step.update()
    expected = by_hand(exact, inputs.double().contiguous(), labels, config, (0.01, 0.02))
    assert losses == pytest.approx(expected, rel=tolerance)
    moved = torch.cat([(w - b).flatten() for w, b in zip(model.parameters(), before, strict=True)])
    right = torch.cat([(w - b).flatten() for w, b in zip(exact.parameters(), before, strict=True)])
    assert (moved - right).norm() / right.norm() < tolerance
    statistics = model.bn1.running_mean.double()
    torch.testing.assert_close(statistics, exact.bn1.running_mean, rtol=tolerance, atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_replayed_runs_are_eager_runs(tiny, method, without_cuda, monkeypatch, tmp_path):
    """Over generations, with two batch shapes, held masks and distillation: the same bits."""
    # Graphs read the learning rate as a float32.
    exactly = train.learning_rate
    monkeypatch.setattr(train, "learning_rate", lambda *of: float(np.float32(exactly(*of))))
    config = tiny(method=method, batch=19, epochs=2)
    assert len({len(labels) for _, labels in batches(load(config).train, 19)}) == 2
    eager = run.run(config, tmp_path / "eager")
    made = []
    monkeypatch.setattr(train, "Step", lambda *of: made.append(Replayed(*of)) or made[-1])
    replayed = run.run(config, tmp_path / "replayed")
    assert [record["result"] for record in replayed] == [record["result"] for record in eager]
    assert all(len(step.graphs) == 2 for step in made)


@pytest.mark.parametrize(("method", "captures"), [("dnr", 1), ("ban", 2), ("dsd", 3), ("long", 1)])
def test_one_step_serves_the_generations_that_are_alike(tiny, method, captures, monkeypatch):
    made = []
    monkeypatch.setattr(train, "Step", lambda *of: made.append(Step(*of)) or made[-1])
    run.run(tiny(method=method, generations=4))
    assert len(made) == captures


def test_a_replayed_step_holds_the_mask_of_each_generation(without_cuda):
    config = configure("digits", width=4)
    images, model = load(config), build(config)
    inputs = normalised(images.train.images[:20], images.dataset)
    step = Replayed(model, Labels(), config)
    for number in (0, 1):
        held = {"conv1.weight": torch.ones(4, 1, 3, 3, dtype=torch.bool)}
        held["conv1.weight"][number] = False
        with torch.no_grad():
            model.conv1.weight.fill_(1.0)
        step.restart(None, held)
        step.set_rate(0.1)
        model.train()
        step.learn(inputs, images.train.labels[:20])
        step.update()
        zero = (model.conv1.weight == 0).flatten(1).all(1)
        assert zero.nonzero().tolist() == [[number]]
    assert len(step.graphs) == 1


@CUDA
@pytest.mark.parametrize("method", ["dnr", "dsd", "ban"])
def test_cuda_graphs_train_as_eager_steps_do(tiny, method, monkeypatch, tmp_path):
    config = tiny(method=method, batch=19, lr=0.01)
    replayed = run.run(config, tmp_path / "replayed", "cuda")
    monkeypatch.setattr(run, "Replayed", Step)
    eager = run.run(config, tmp_path / "eager", "cuda")
    for one, other in zip(replayed, eager, strict=True):
        if one["kind"] == "generation":
            assert one["result"]["curve"] == pytest.approx(other["result"]["curve"], rel=1e-2)


@CUDA
@pytest.mark.parametrize("method", METHODS)
def test_on_cuda_a_run_has_the_same_bits_each_time_and_when_it_goes_on(tiny, method, tmp_path):
    config = tiny(method=method, epochs=2)
    whole, again = (run.run(config, tmp_path / name, "cuda") for name in "ab")
    shutil.rmtree(tmp_path / "b" / run.chain(config)[-1].key)
    resumed = run.run(config, tmp_path / "b", "cuda")
    for other in again, resumed:
        assert [record["result"] for record in other] == [record["result"] for record in whole]


@CUDA
def test_cuda_and_cpu_make_the_same_mask_of_the_same_weights(tiny):
    """Up to rounding, which moves weights at the threshold only."""
    from dnrlib.rules import Parent, Snip, Top

    config = configure("digits")
    images, model = load(config), build(config)
    rule, kept = Top(Snip(config.probe), 0.8), []
    for device in ("cpu", "cuda"):
        there = images.to(torch.device(device))
        with run.arithmetic(1):
            mask, _ = rule.mask(Parent(copy.deepcopy(model).to(device), there, config, 1))
        kept.append(torch.cat([values.flatten() for values in mask.values()]))
    assert (kept[0] != kept[1]).float().mean() < 1e-3


# --------------------------------------------------------------------------------------------------
# Where the time goes

PARTS = {"data", "evaluation", "files", "forward and backward", "optimiser", "start", "switch"}


def test_the_moving_average_by_hand(tiny):
    """In double precision, over a training: decay (1 + n) / (10 + n), at most the given one. The
    accuracy that is measured is that of the average."""
    config = tiny(epochs=3)
    data, seen, ends = load(config), [], []
    model = build(config)
    start = {name: value.double().clone() for name, value in model.state_dict().items()}
    step = train.Step(model, Labels(), config)
    update = step.update

    def watched():
        update()
        seen.append({n: v.double().clone() for n, v in model.state_dict().items()})

    step.update = watched
    given = [(normalised(images, data.dataset), of) for images, of in batches(data.train, 5)]

    def after(epoch):
        ends.append(copy.deepcopy(model.state_dict()))

    train.train(model, given, 3, config, step=step, average=0.3, after=after)
    assert len(seen) == 24
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        expected = start[name]
        for number, state in enumerate(seen, 1):
            decay = min(0.3, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * state[name]
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(ends[-1][name], value), "measured after it has become its average"
        assert torch.equal(ends[0][name].double(), seen[7][name]), "and not before the end"


def test_a_step_brings_its_own_settings(tiny, monkeypatch):
    """The schedule is of the same settings as momentum, weight decay and smoothing."""
    config, rates = tiny(), []
    model = build(config)
    step = Step(model, Labels(), Settings(lr=0.001, schedule="step"))
    monkeypatch.setattr(step, "set_rate", rates.append)
    images = load(config).train
    train.train(
        model, [(normalised(images.images, load(config).dataset), images.labels)], 1, step=step
    )
    assert rates == [0.001]


def test_a_warm_up_that_does_not_end_is_refused(tiny):
    with pytest.raises(UserError, match="warmup=5 must be smaller than epochs=2"):
        train.train(build(tiny()), [], 2, Settings(warmup=5))


@pytest.mark.parametrize("epochs", [0, -1])
def test_a_training_of_no_epoch_is_refused(tiny, epochs):
    config = tiny()
    with pytest.raises(UserError, match=f"epochs={epochs} must be at least 1"):
        train.train(build(config), [], epochs, config)


def test_every_record_says_where_its_time_went(tiny):
    start = time.perf_counter()
    found = run.run(tiny(method="dnr", epochs=3))
    wall = time.perf_counter() - start
    parts = [record["timing"]["parts"] for record in found]
    assert [set(each) for each in parts[::2]] == 3 * [PARTS]
    assert [set(each) for each in parts[1::2]] == 3 * [
        {"evaluation", "files", "resampling", "switch"}
    ]
    total = sum(seconds for each in parts for seconds in each.values())
    assert 0.8 * wall < total <= wall
    training = ("data", "forward and backward", "optimiser")
    for record in found[::2]:
        inside = sum(record["timing"]["parts"][name] for name in training)
        assert 0.8 * record["timing"]["seconds"] < inside <= record["timing"]["seconds"]


def test_a_clock_adds_up_parts_and_the_making_of_items():
    clock = Clock(torch.device("cpu"))

    def items():
        for number in range(3):
            time.sleep(0.02)
            yield number

    assert list(clock.each("items", items())) == [0, 1, 2]
    for _ in range(2):
        with clock.part("sleep"):
            time.sleep(0.03)
    spent = clock.seconds()
    assert set(spent) == {"items", "sleep"}
    assert spent["items"] >= 0.06
    assert spent["sleep"] >= 0.06


def test_a_profile_is_a_trace_with_all_parts_and_leaves_no_records(tmp_path, capsys):
    trace = tmp_path / "trace.json"
    asked = ["run", "--method", "dnr", "--width", "4", "--profile", str(trace)]
    assert cli.main(asked) == 0
    assert f"trace: {trace}" in capsys.readouterr().out
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert names >= PARTS | {"resampling", "aten::conv2d"}
    assert not records.runs_root().exists()


def test_a_profile_is_short_whatever_the_dataset(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "run", lambda config, folder, device: asked.append(config))
    run.profile(configure("digits-32", per_class=0, batch=7), tmp_path / "t.json.gz", "cpu")
    run.profile(configure("digits", method="long"), tmp_path / "t.json.gz", "cpu")
    large, small = asked
    assert 0 < len(dataset("digits").classes) * large.per_class <= 20 * 7
    assert (small.per_class, small.epochs, small.generations) == (10, 1, 2)
    assert (tmp_path / "t.json.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_wrong_labels_do_not_change_how_few_images_a_short_run_has():
    few = [run._few(configure("digits", per_class=0, noise=share), 10**6) for share in (0.0, 0.4)]
    assert few[0].per_class == few[1].per_class


def test_a_gpu_is_named_only_if_it_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert train.device_named("cuda:1") == torch.device("cuda", 1)
    for name in ("cuda:2", "cuda:x", "cuda:", "cpu:0"):
        with pytest.raises(UserError, match=f"device='{name}' is not available here"):
            train.device_named(name)
    monkeypatch.setenv("DNRLIB_DEVICE", "tpu")
    with pytest.raises(UserError, match="DNRLIB_DEVICE='tpu' is not available here"):
        train.device_named("auto")
    assert train.device_named("cpu") == torch.device("cpu")


def test_a_profile_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    with pytest.raises(UserError, match=r"trace.json cannot be written: No such file"):
        run.profile(configure("digits"), tmp_path / "absent" / "trace.json", "cpu")
    with pytest.raises(UserError, match=r"cannot be written: Is a directory"):
        run.profile(configure("digits"), tmp_path, "cpu")
    assert tmp_path.is_dir()


def test_a_run_says_where_its_time_went(capsys):
    assert cli.main(["run", "--budget", "smoke", "--width", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if line.startswith("when they were made, "))
    assert all(f"{name} " in line for name in PARTS)


def test_imitated_bf16_is_said(capsys, monkeypatch):
    asked = ["run", "--budget", "smoke", "--width", "4", "--method", "plain", "--precision", "bf16"]
    monkeypatch.setattr(train, "has_bf16", lambda device: False)
    assert cli.main(asked) == 0
    assert "this device imitates bf16" in capsys.readouterr().out
    monkeypatch.setattr(train, "has_bf16", lambda device: True)
    assert cli.main(asked) == 0
    assert "imitates" not in capsys.readouterr().out


def test_imitated_bf16_is_told_from_real_one(monkeypatch):
    for able, expected in (({"avx512_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert train.has_bf16(torch.device("cpu")) is expected
    assert not train.has_bf16(torch.device("mps"))
