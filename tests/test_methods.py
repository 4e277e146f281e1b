"""What defines each method: tests that fail when its own step is left out."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dnrlib import models, records, run, train
from dnrlib.datasets import augment
from dnrlib.datasets.augment import Training
from dnrlib.datasets.catalogue import load
from dnrlib.losses import (
    LOSSES,
    AdaCos,
    Cosine,
    CosineHead,
    Distilled,
    Labels,
    SelfDistilled,
    cross_entropy,
)
from dnrlib.masks import prunable
from dnrlib.methods import METHODS, plan
from dnrlib.models import birth, build, normalise_after
from dnrlib.recipes import configure, parse_arm
from dnrlib.rules import Fresh, Parent
from dnrlib.run import chain
from dnrlib.store import Store
from dnrlib.streams import stream

BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]


def copies(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def aged(config):
    """A network in which nothing is as at birth, batch normalisation and statistics included."""
    model, draw = build(config), stream(99, 0, "test")
    for value in model.state_dict().values():
        value += 0.05 * torch.randn(value.shape, generator=draw) if value.is_floating_point() else 7
    return model


def child_of(config, number=1):
    """What stage `number` makes of an aged parent: its state before, its mask, and the child."""
    stage = plan(config)[number]
    parent = Parent(aged(config), load(config), config, number)
    before = copies(parent.model)
    mask, _ = stage.keep.mask(parent)
    stage.begin(parent, mask)
    return before, mask, parent.model


def changed(before, model):
    return {name for name, w in before.items() if not torch.equal(w, model.state_dict()[name])}


def newborn_within(parameters, before):
    """Checks that parameters are drawn like those of a newborn network: scale and offset of batch
    normalisation 1 and 0, all others new, convolutions normal and wider than the fill."""
    spread = {}
    for name, value in parameters.items():
        module = name.rsplit(".", 1)[0].rsplit(".", 1)[-1]
        if module.startswith("bn") or name.split(".")[-2:-1] == ["1"]:
            assert (value == float(name.endswith("weight"))).all(), name
            continue
        assert not (value == before[name]).any(), name
        if name != "fc.bias":
            spread[name] = (value * (value[0].numel() / 2) ** 0.5).flatten()
    whole = torch.cat(list(spread.values()))
    assert whole.std().item() == pytest.approx(1, abs=0.1)
    if len(whole) > 2000:
        assert whole.abs().max() > 2.5, "a uniform draw would end at 0.71 or 1.73"


@pytest.fixture
def watched(monkeypatch):
    """Per generation of a run: what `train.train` was called with, the state of the network before
    and after, and which weights were zero in each forward pass of the training."""
    seen = {}
    original = train.train

    def watching(model, batches, epochs, **rest):
        def look(module, inputs):
            if module.training:
                found.zeros.append({n: w == 0 for n, w in prunable(module).items()})

        found = SimpleNamespace(epochs=epochs, born=copies(model), zeros=[], **rest)
        if found.parent is not None:
            found.teaching, found.teacher = found.parent.training, copies(found.parent)
        seen[batches.generation] = found
        handle = model.register_forward_pre_hook(look)
        trained = original(model, batches, epochs, **rest)
        handle.remove()
        found.grown = copies(model)
        return trained

    monkeypatch.setattr(train, "train", watching)
    return seen


# --------------------------------------------------------------------------------------------------
# Later-layer forgetting and layer-wise reinitialisation


@pytest.mark.parametrize(
    ("method", "stages"), [("llf", ("layer4", "fc")), ("llf-layer3", ("layer3", "layer4", "fc"))]
)
def test_llf_resets_the_weights_of_the_last_stages_and_nothing_else(tiny, method, stages):
    """Their biases, batch normalisation and its statistics are inherited too."""
    children = []
    for number in (1, 2):
        before, _, model = child_of(tiny(method=method), number)
        reset = {name: w for name, w in prunable(model).items() if name.startswith(stages)}
        assert changed(before, model) == reset.keys()
        for name, weight in reset.items():
            assert not (weight == before[name]).any(), name
            assert weight.abs().max() <= weight[0].numel() ** -0.5, name
        children.append(reset)
    one, two = children
    assert not any(torch.equal(one[name], two[name]) for name in one), "drawn anew every time"


@pytest.mark.parametrize("number", range(1, 8))
def test_lw_keeps_one_more_block_at_its_norm_of_birth_and_all_else_is_born_anew(tiny, number):
    config = tiny(method="lw", generations=8, width=8)
    before, _, model = child_of(config, number)
    at_birth = build(config).state_dict()
    kept = ("conv1.", "bn1.", *(f"{block}." for block in BLOCKS[:number]))
    new = {}
    for name, value in model.named_parameters():
        if not name.startswith(kept):
            new[name] = value
            continue
        norm = at_birth[name].norm().item()
        assert value.norm().item() == pytest.approx(norm, rel=1e-5), name
        if norm:
            same_direction = before[name] * (norm / before[name].norm())
            torch.testing.assert_close(value, same_direction, msg=name)
    newborn_within(new, before)
    # Statistics are inherited, and move by the one batch that the normalisation is made from.
    moved = {name for name in model.state_dict() if name.endswith("num_batches_tracked")}
    assert all(model.state_dict()[name] == before[name] + 1 for name in moved)
    assert len(list(model.named_parameters())) == len(list(build(config).parameters()))


@pytest.mark.parametrize("number", range(1, 8))
def test_lw_normalises_after_the_last_kept_block(tiny, monkeypatch, number):
    """On the batch that it is made from, in training mode, every channel that varies has mean 0 and
    deviation 1."""
    given = []

    def noted(model, block, inputs):
        given.append(inputs)
        normalise_after(model, block, inputs)

    monkeypatch.setattr(models, "normalise_after", noted)
    _, _, model = child_of(tiny(method="lw", generations=8, width=8), number)
    block = BLOCKS[number - 1]
    inserted = {name for name in model.state_dict() if "fixed" in name}
    assert inserted == {f"{block}.fixed.mean", f"{block}.fixed.deviation"}
    outputs = []
    model.get_submodule(block).register_forward_hook(lambda *args: outputs.append(args[-1]))
    with torch.no_grad():
        model.train()(given[0])
    deviation, mean = torch.std_mean(outputs[0], (0, 2, 3), correction=0)
    varies = model.get_submodule(block).fixed.deviation.flatten() > 0.05
    assert len(given[0]) == 20, "one batch"
    assert varies.sum() >= 4
    torch.testing.assert_close(mean[varies], torch.zeros_like(mean[varies]), rtol=0, atol=1e-4)
    torch.testing.assert_close(deviation[varies], torch.ones_like(mean[varies]), rtol=1e-3, atol=0)


def test_lw_normalisation_is_never_trained_and_belongs_to_the_network(tiny, watched):
    config = tiny(method="lw")
    run.run(config)
    first, second = ("layer1.0.fixed.mean", "layer1.1.fixed.mean")
    assert first not in watched[1].grown
    assert second not in watched[2].grown
    for name in (first, first.replace("mean", "deviation")):
        for state in (watched[2].grown, watched[3].born, watched[3].grown):
            assert torch.equal(state[name], watched[2].born[name]), name
    assert torch.equal(watched[3].grown[second], watched[3].born[second])
    path = records.runs_root() / chain(config)[2].key / "weights.pt"
    stored = torch.load(path, weights_only=True)
    assert torch.equal(stored[second], watched[3].grown[second])


@pytest.mark.parametrize(("number", "stage"), list(enumerate((1, 2, 2, 3, 3, 4, 4), 1)))
def test_lw_released_resets_from_each_stage_twice_without_rescaling(tiny, number, stage):
    config = tiny(method="lw-released", generations=8)
    before, _, model = child_of(config, number)
    kept = ("conv1.", "bn1.", *(f"layer{earlier}." for earlier in range(1, stage)))
    new = {n: w for n, w in model.named_parameters() if not n.startswith(kept)}
    assert changed(before, model) == new.keys()
    newborn_within(new, before)
    assert model.state_dict().keys() == before.keys(), "no normalisation is inserted"


def test_lw_released_goes_through_the_blocks_and_the_classifier_of_a_resnet50(tiny):
    """Generation g of 8, from 0, resets from entry g * 17 // 8 of the list on: 2, 4, ..., 14."""
    planned = plan(tiny(method="lw-released", generations=8, model="resnet50"))
    assert [stage.keep.first for stage in planned[1:]] == [
        *("layer1.2", "layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5", "layer4.1"),
    ]


# --------------------------------------------------------------------------------------------------
# Dense-sparse-dense


def pruned_and_held(before, sparse):
    """Checks that the smallest 30 % of each layer of `before` are zero in every step of `sparse`,
    and that all else is inherited and trained; the zeros, by weight."""
    for name, zero in sparse.zeros[0].items():
        old = before.grown[name]
        assert int(zero.sum()) == zero.numel() - round(0.7 * zero.numel())
        assert old[zero].abs().max() <= old[~zero].abs().min(), name
        assert torch.equal(sparse.born[name][~zero], old[~zero]), name
        assert all(zeros[name][zero].all() for zeros in sparse.zeros), name
        assert (sparse.grown[name][zero] == 0).all(), name
        assert not torch.equal(sparse.grown[name], sparse.born[name]), name
    unpruned = before.grown.keys() - sparse.zeros[0].keys()
    assert all(torch.equal(sparse.born[name], before.grown[name]) for name in unpruned)
    return sparse.zeros[0]


def released_from(sparse, zeros, released):
    """Checks that a generation starts as `sparse` ended, and trains the weights that were zero."""
    assert all(torch.equal(released.born[name], w) for name, w in sparse.grown.items())
    assert all((released.grown[name][zero] != 0).any() for name, zero in zeros.items())


def test_dsd_prunes_holds_and_releases(tiny, watched, monkeypatch):
    rates, original = [], train.learning_rate

    def noted(*given):
        rates.append(original(*given))
        return rates[-1]

    monkeypatch.setattr(train, "learning_rate", noted)
    config = tiny(method="dsd", epochs=4, warmup=1)
    found = run.run(config)
    dense, sparse, released = (watched[number] for number in (1, 2, 3))
    assert [w.epochs for w in (dense, sparse, released)] == [4, 2, 2]
    # A quarter of a generation of warm-up and a cosine from 0.1; then twice one from 0.01.
    by_hand = [0.1, 0.1, 0.075, 0.025, 0.01, 0.005, 0.01, 0.005]
    assert rates == pytest.approx(by_hand)
    assert len(sparse.zeros) == 4, "two epochs of two steps"
    released_from(sparse, pruned_and_held(dense, sparse), released)
    assert [record["kind"] for record in found] == ["generation", "mask"] + 2 * ["generation"]


def test_ke_dsd_prunes_and_holds_in_every_second_generation_and_releases_in_the_next(tiny, watched):
    """All of full length, at the full learning rate."""
    run.run(tiny(method="ke-dsd", generations=5))
    assert [watched[number].epochs for number in (1, 2, 3, 4, 5)] == 5 * [1]
    assert all(w.peak == 1 for w in watched.values())
    for number in (2, 4):
        before, sparse, released = (watched[n] for n in (number - 1, number, number + 1))
        assert len(sparse.zeros) == 2, "one epoch of two steps"
        released_from(sparse, pruned_and_held(before, sparse), released)


# --------------------------------------------------------------------------------------------------
# Born-again networks


@pytest.mark.parametrize("method", ["ban", "ban-lineage"])
def test_a_born_again_network_shares_nothing_with_its_parent(tiny, method):
    before, _, model = child_of(tiny(method=method))
    newborn_within(dict(model.named_parameters()), before)
    assert not (model.fc.bias == before["fc.bias"]).any()
    for name, value in model.named_buffers():
        assert (value == float("running_var" in name)).all(), name
    first = build(tiny()).state_dict()
    assert not any(torch.equal(first[name], weight) for name, weight in prunable(model).items())


def test_a_born_again_network_learns_from_its_parent_which_stays_as_it_was(tiny, watched):
    run.run(tiny(method="ban"))
    assert watched[1].parent is None
    assert isinstance(watched[1].step.task, Labels)
    for number in (2, 3):
        now = watched[number]
        assert now.step.task == Distilled()
        assert not now.teaching
        assert not now.parent.training, "in evaluation mode to the end"
        for name, value in watched[number - 1].grown.items():
            assert torch.equal(now.teacher[name], value), name
            assert torch.equal(now.parent.state_dict()[name], value), name


@pytest.mark.parametrize(("reduction", "divided"), [("batchmean", 1), ("mean", 3)])
def test_distillation_by_hand(reduction, divided):
    """0.9 * 20^2 * KL(teacher / 20 || student / 20) + 0.1 * cross-entropy, smoothed by 0.1, over
    two images and three classes, and its gradient."""
    student = torch.tensor([[1.0, -2.0, 5.0], [30.0, 0.5, -7.0]], dtype=torch.float64)
    teacher = torch.tensor([[-4.0, 2.0, 25.0], [3.0, 9.0, 1.0]], dtype=torch.float64)
    student.requires_grad_()
    teacher.requires_grad_()
    loss = Distilled(reduction=reduction).loss(
        lambda inputs: student, torch.zeros(2), torch.tensor([2, 0]), lambda inputs: teacher, 0.1
    )
    loss.backward()

    def softmax(logits):
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    z, target = student.detach().numpy(), np.array([[0, 0, 0.9], [0.9, 0, 0]]) + 0.1 / 3
    p, q = softmax(teacher.detach().numpy() / 20), softmax(z / 20)
    divergence = (p * np.log(p / q)).sum() / 2 / divided
    entropy = -(target * np.log(softmax(z))).sum() / 2
    assert loss.item() == pytest.approx(0.9 * 400 * divergence + 0.1 * entropy, rel=1e-9)
    gradient = 0.9 * 20 * (q - p) / 2 / divided + 0.1 * (softmax(z) - target) / 2
    np.testing.assert_allclose(student.grad.numpy(), gradient, rtol=1e-9)
    assert teacher.grad is None


def test_the_cross_entropy_of_bfloat16_is_computed_in_float32():
    """Also where autocast does not see to it, as here without one."""
    outputs, labels = torch.tensor([[1.0, -2.0, 5.125], [3.0, 0.5, -7.0]]), torch.tensor([0, 2])
    found = cross_entropy(outputs.bfloat16(), labels, 0.1)
    assert found.dtype == torch.float32
    assert found == F.cross_entropy(outputs, labels, label_smoothing=0.1)


def test_the_cosine_loss_by_hand():
    """Of two images and two classes: 1 - cosine, and a tenth of the cross-entropy at length 1."""
    outputs = torch.tensor([[3.0, 4.0], [-5.0, 12.0]], dtype=torch.float64)
    loss = Cosine().loss(lambda inputs: outputs, None, torch.tensor([0, 1]), None, 0.1)
    units = np.array([[0.6, 0.8], [-5 / 13, 12 / 13]])
    entropies = np.log(np.exp(units).sum(1)) - [0.6, 12 / 13]
    assert loss.item() == pytest.approx(((0.4 + 1 / 13) + 0.1 * entropies.sum()) / 2, rel=1e-12)


def test_self_distillation_by_hand():
    """Cross-entropy of the first half, unsmoothed, plus 3 * 4^2 * KL(second / 4 || first / 4)."""
    logits = {0: torch.tensor([[1.0, -2.0, 5.0], [3.0, 0.5, -7.0]], dtype=torch.float64)}
    logits[1] = torch.tensor([[-4.0, 2.0, 2.5], [3.0, 9.0, 1.0]], dtype=torch.float64)
    for each in logits.values():
        each.requires_grad_()
    # The images say which half they are of.
    inputs = torch.tensor([0, 0, 1, 1])
    loss = SelfDistilled().loss(
        lambda images: logits[int(images[0])], inputs, torch.tensor([2, 0]), None, 0.1
    )
    loss.backward()

    def softmax(logits):
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    z, other = (logits[half].detach().numpy() for half in (0, 1))
    p, q = softmax(other / 4), softmax(z / 4)
    right = np.array([[0, 0, 1], [1, 0, 0]])
    entropy = -(right * np.log(softmax(z))).sum() / 2
    assert loss.item() == pytest.approx(entropy + 48 * (p * np.log(p / q)).sum() / 2, rel=1e-12)
    gradient = ((softmax(z) - right) + 12 * (q - p)) / 2
    np.testing.assert_allclose(logits[0].grad.numpy(), gradient, rtol=1e-9)
    assert logits[1].grad is None


def test_counterparts_are_of_the_same_class_and_others_every_time(tiny):
    config = tiny(per_class=8, augment="none")
    data = load(config)
    training = Training(data, config, 1, pairs=True)
    by_image = {
        image.numpy().tobytes(): int(label)
        for image, label in zip(data.train.images, data.train.labels, strict=True)
    }
    drawn = [training.counterparts(data.train.labels) for _ in range(30)]
    for images in drawn:
        found = [by_image[image.numpy().tobytes()] for image in images]
        assert found == data.train.labels.tolist()
    first = [images[0].numpy().tobytes() for images in drawn]
    assert len(set(first)) == 8
    plain = Training(data, config, 1)
    for (both, labels), (images, same) in zip(training, plain, strict=True):
        assert torch.equal(labels, same)
        assert torch.equal(both[: len(labels)], images)
        assert len(both) == 2 * len(labels)


def test_the_second_half_of_a_pair_moves_the_statistics_alone(tiny):
    """Batch normalisation sees it in a pass of its own."""
    config = tiny(method="plain", loss="cs-kd", augment="none")
    model, sizes = build(config), []
    model.bn1.register_forward_hook(
        lambda m, given, out: sizes.append((len(out), out.requires_grad))
    )
    data = load(config)
    train.train(model, Training(data, config, 1, pairs=True), 1, step=step_of(model, config))
    assert sizes == 2 * [(20, True), (20, False)]


def step_of(model, config):
    return train.Step(model, plan(config)[0].task, config)


def test_adacos_by_hand():
    """Two images, three classes; the scale begins at sqrt 2 log 2."""
    head = CosineHead(2, 3).double()
    assert head.scale.item() == pytest.approx(math.sqrt(2) * math.log(2))
    features = torch.tensor([[3.0, 4.0], [-1.0, 0.0]], dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.5], [-3.0, 4.0]]))
    cosines = np.array([[0.6, 0.8, 0.28], [-1.0, 0.0, 0.6]])
    np.testing.assert_allclose(head(features).detach(), cosines, atol=1e-12)
    scale = head.scale.item()
    loss = AdaCos().loss(head, features, torch.tensor([1, 2]), None, 0.1)
    wrong = np.exp(scale * cosines[[0, 0, 1, 1], [0, 2, 0, 1]]).sum() / 2
    # The median of two is the lower one in torch: arccos 0.8, below pi / 4.
    new = np.log(wrong) / 0.8
    assert head.scale.item() == pytest.approx(new)
    shares = np.exp(new * cosines) / np.exp(new * cosines).sum(1, keepdims=True)
    assert loss.item() == pytest.approx(-np.log(shares[[0, 1], [1, 2]]).mean())
    far = AdaCos().loss(head, features, torch.tensor([0, 0]), None, 0.1)
    assert torch.isfinite(far)
    wrong = np.exp(new * cosines[:, 1:]).sum() / 2
    assert head.scale.item() == pytest.approx(
        np.log(wrong) / np.cos(min(np.pi / 4, np.arccos(0.6)))
    )


def test_adacos_trains_a_network_of_cosines(tiny, tmp_path):
    """Its scale is part of what is stored, and goes on in the next generation."""
    found = run.run(tiny(method="ke", loss="adacos", generations=2, epochs=4), tmp_path)
    config = tiny(method="ke", loss="adacos", generations=2, epochs=4)
    states = [Store(tmp_path).weights(link.trained) for link in chain(config)]
    assert "fc.bias" not in states[0]
    assert states[0]["fc.scale"] != states[1]["fc.scale"]
    assert states[0]["fc.scale"] != build(config).fc.scale
    data, model = load(config), run.finished(config, runs=tmp_path).model
    images = augment.evaluation_batches(data.evaluation, data.dataset)
    assert all(outputs.abs().max() <= 1 + 1e-6 for outputs, _ in train.outputs(model, images))
    assert found[-2]["result"]["test_accuracy"] > 10


def test_what_has_not_arrived_is_not_looked_at(tiny, monkeypatch):
    """With images in two parts: nor trained on, nor in a probe."""
    config = tiny(method="dnr", parts=2, generations=4, augment="none", probe=1.0)
    half = {image.tobytes() for image in load(config).arrived(0.5).train.images.numpy()}
    whole = {image.tobytes() for image in load(config).train.images.numpy()}
    seen, as_it_is = [], augment.batches

    def watched(split, *rest):
        seen.append({image.tobytes() for image in split.images.numpy()})
        return as_it_is(split, *rest)

    monkeypatch.setattr("dnrlib.datasets.augment.batches", watched)
    monkeypatch.setattr("dnrlib.rules.batches", watched)
    run.run(config)
    ours = [images for images in seen if images <= whole]
    # Per generation: the training, its accuracy on what it was trained on, the probe and another.
    assert ours == 8 * [half] + 8 * [whole]


def test_distillation_enters_the_training(tiny):
    """The first step of a child from the same birth, with and without its parent."""
    config, data = tiny(batch=40, augment="none"), load(tiny())
    teacher, curves = aged(config).eval(), {}
    for task in (Labels(), Distilled()):
        model = build(config)
        step = train.Step(model, task, config)
        curves[task] = train.train(
            model, Training(data, config, 2), 1, config, parent=teacher, step=step
        )["curve"]
    inputs = (data.train.images.float() / 255 - 0.196) / 0.335
    with torch.no_grad():
        soft = (teacher(inputs) / 20).log_softmax(1)
        ours = (build(config).train()(inputs) / 20).log_softmax(1)
    divergence = F.kl_div(ours, soft, reduction="batchmean", log_target=True).item()
    expected = 360 * divergence + 0.1 * curves[Labels()][0]
    assert curves[Distilled()] == pytest.approx([expected], rel=1e-4)


# --------------------------------------------------------------------------------------------------
# Shrink and perturb; masks of single weights


def test_shrink_and_perturb_is_four_tenths_of_the_old_and_a_tenth_of_a_newborn(tiny):
    config = tiny(method="shrink-perturb", width=8)
    before, _, model = child_of(config, 2)
    newborn = birth(config, stream(config.seed, 3, "fill")).state_dict()
    assert changed(before, model) == prunable(model).keys()
    for name, weight in prunable(model).items():
        torch.testing.assert_close(weight.detach(), 0.4 * before[name] + 0.1 * newborn[name])
    noise = {n: (w - 0.4 * before[n]) / 0.1 for n, w in prunable(model).items()}
    newborn_within(noise, before)


@pytest.mark.parametrize(
    "arm",
    [
        *("ke-wels-rand", "dnr+criterion=fisher", "dnr+criterion=magnitude", "dnr+scope=layer"),
        *("dnr-released", "dnr-released-magnitude", "dnr-matched", "dnr-highest"),
    ],
)
def test_a_child_is_new_where_the_mask_says_so_and_nowhere_else(tiny, arm):
    """In the released code, what is masked in biases, batch normalisation and shortcuts stays."""
    before, mask, model = child_of(tiny(**parse_arm(arm)))
    released = arm.startswith("dnr-released")
    for name, value in model.state_dict().items():
        reset = torch.zeros(value.shape, dtype=torch.bool)
        if name in prunable(model) and not (released and ".downsample." in name):
            reset = ~mask[name]
        assert torch.equal(value != before[name], reset), name
        if reset.any():
            assert value[reset].abs().max() <= value[0].numel() ** -0.5, name
    assert changed(before, model)


def test_released_snip_masks_all_parameters(tiny):
    """Some are masked and yet not reset, in batch normalisation and on the shortcuts (D17)."""
    _, mask, model = child_of(tiny(method="dnr-released"))
    assert mask.keys() == dict(model.named_parameters()).keys()
    dropped = {name for name, kept in mask.items() if not kept.all()}
    assert {"layer4.1.bn2.bias", "layer4.0.downsample.0.weight"} <= dropped
    total = sum(kept.numel() for kept in mask.values())
    assert sum(int((~kept).sum()) for kept in mask.values()) >= int((1 - 0.8) * total)


def test_released_masks_are_applied_whole_when_the_sparse_network_is_measured(tiny):
    config = tiny(method="dnr-released", generations=2)
    found, links = run.run(config), chain(config)
    walk = run.Walk(config, Store(), torch.device("cpu"))
    trainee = walk.open(0)
    for name, kept in walk.store.mask(links[0].mask).items():
        trainee.model.state_dict()[name].mul_(kept)
    accuracy, _ = trainee.measure(trainee.data.evaluation)
    assert found[1]["result"]["masked_accuracy"] == accuracy


def test_shortcuts_left_alone_do_not_move_the_other_draws(tiny):
    config, model = tiny(), build(tiny())
    parent = Parent(model, load(config), config, 1)
    whole = Fresh().values(parent, stream(0, 2, "fill"))
    part = Fresh(shortcuts=False).values(parent, stream(0, 2, "fill"))
    assert whole.keys() - part.keys() == {f"layer{n}.0.downsample.0.weight" for n in (2, 3, 4)}
    assert all(torch.equal(whole[name], value) for name, value in part.items())


@pytest.mark.parametrize(("batch", "used"), [(20, 1), (2, 1), (1, 2)])
def test_released_snip_uses_a_thirty_second_of_the_batches(tiny, batch, used):
    """40 images are 2, 20 or 40 batches; it is the model that is asked, and in evaluation mode."""
    config = tiny(method="dnr-released", batch=batch)
    model, sizes = aged(config), []
    before = copies(model)
    model.register_forward_hook(lambda m, inputs, out: sizes.append((len(out), m.training)))
    plan(config)[1].keep.mask(Parent(model, load(config), config, 1))
    assert sizes == [(batch, False)] * used
    assert not changed(before, model)


@pytest.mark.slow
@pytest.mark.parametrize("model", models.MODELS)
def test_every_method_runs_on_every_network(tiny, model):
    """They share their first generation. What is not kept is new, and something is kept."""
    for method in METHODS:
        config = tiny(model=model, method=method, width=8, generations=2, lr=0.01, augment="none")
        found = run.run(config)
        assert len([r for r in found if r["kind"] == "generation"]) == len(plan(config))
        reborn = ("ban", "ban-lineage", "ensemble", "shrink-perturb")
        for record in found:
            if record["kind"] == "mask" and method not in reborn:
                kept = sum(record["result"]["kept"].values())
                assert 0 < kept < sum(record["result"]["size"].values()), method


@pytest.mark.slow
@pytest.mark.parametrize("model", models.MODELS)
def test_every_loss_trains_every_network(model):
    """KE over two generations; the last layer has what the loss needs, and learns."""
    small = {"width": 8, "generations": 2, "epochs": 1, "per_class": 10, "batch": 25, "lr": 0.01}
    for name, loss in LOSSES.items():
        of = "digits-metric" if loss.embedding else "digits"
        config = configure(of, model=model, method="ke", loss=name, augment="none", **small)
        found = run.run(config)
        assert len([r for r in found if r["kind"] == "generation"]) == 2
        head, born = (
            net.get_submodule(models.MODELS[model].head)
            for net in (run.finished(config).model, build(config))
        )
        assert isinstance(head, CosineHead) == (name == "adacos")
        assert len(head.weight) == (loss.embedding or 10)
        assert not torch.equal(head.weight, born.weight)
