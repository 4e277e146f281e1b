"""Evaluations of finished networks: corrupted and attacked images, predictions, their records."""

import copy
import dataclasses
import itertools
import json
import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from dnrlib import UserError, cli, frames, records, study, train
from dnrlib.book.agreement import agreement
from dnrlib.book.pages import Parameters, find_evaluated, reproduce
from dnrlib.config import canonical
from dnrlib.datasets import catalogue, layouts, official
from dnrlib.datasets.augment import as_pixels, evaluation_batches, normalised
from dnrlib.datasets.catalogue import load
from dnrlib.datasets.splits import Split
from dnrlib.evaluate import corruptions, evaluations
from dnrlib.evaluate.corruptions import CORRUPTIONS
from dnrlib.evaluate.evaluations import (
    BEYOND,
    EVALUATED,
    FIGURE,
    HARDER,
    Attack,
    Averaged,
    AveragedAccuracy,
    Corruptions,
    Predictions,
    Retrieval,
    WeightSizes,
    attack,
    gradient,
    measures,
    ratios,
    recalls,
)
from dnrlib.frames import clinical_frame, generations
from dnrlib.masks import prunable
from dnrlib.models import build, load_state
from dnrlib.paper.exhibits import ANALOGUE, arms, evaluations_of
from dnrlib.recipes import configure, grid
from dnrlib.run import chain, finished, run
from dnrlib.store import Store
from dnrlib.streams import stream
from dnrlib.study import Archive, Run
from tests import trees
from tests.test_study import publish, published, results  # noqa: F401

CPU = torch.device("cpu")


def trained(config, folder):
    """A network that was trained a little, its images and config."""
    run(config, folder)
    trainee = finished(config, runs=folder)
    return trainee.model, trainee.data, config


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """About 70 % accurate."""
    small = {"width": 4, "epochs": 2, "per_class": 0, "batch": 20}
    return trained(configure("digits", method="plain", **small), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """About 80 % accurate; what it thinks of images depends on their normalisation."""
    small = {"width": 4, "epochs": 2, "per_class": 0, "batch": 20}
    config = configure("digits-colour", method="plain", **small)
    return trained(config, tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def _forget():
    """Datasets of one name have other images in other tests."""
    yield
    for cached in (catalogue._read, evaluations._generated):
        cached.cache_clear()


def by_hand(model, split, mean, std):
    """Accuracy in %, pixels normalised here."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    with torch.no_grad():
        named = model.eval()((split.images / 255 - mean) / std).argmax(1)
    return 100 * int((named == split.labels).sum()) / len(split)


def test_first_images_of_each_class():
    labels = torch.tensor([1, 0, 1, 1, 0, 2])
    assert evaluations._first(labels, 1).tolist() == [0, 1, 5]
    assert evaluations._first(labels, 2).tolist() == [0, 1, 2, 4, 5]
    assert evaluations._first(labels, 0).tolist() == [0, 1, 2, 3, 4, 5]


# --------------------------------------------------------------------------------------------------
# Attacks


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "random"])
@pytest.mark.parametrize("steps", [1, 10])
def test_the_attack_is_foolboxes(trained, steps, colour):
    """From the image itself, for foolbox draws its own random starts; with channels that are
    normalised differently. In float64, for a step is the sign of a gradient, and in float32 that of
    one near zero is rounding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import foolbox
    model, images, config = colour
    model = copy.deepcopy(model if trained else build(config)).double().eval()
    about = dataclasses.replace(images.dataset, mean=(0.2, 0.33, 0.4), std=(0.2, 0.25, 0.3))
    pixels, labels = (
        as_pixels(images.evaluation.images[::50], about).double(),
        images.evaluation.labels[::50],
    )
    normalisation = {"mean": about.mean, "std": about.std, "axis": -3}
    for epsilon in (0.5 / 255, 6 / 255, 64 / 255):
        ours = attack(model, about, pixels, labels, epsilon, steps, torch.zeros_like(pixels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            oracle = foolbox.PyTorchModel(model, (0, 1), CPU, normalisation)
            pgd = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / steps, steps=steps, random_start=False)
            theirs, _, _ = pgd(oracle, pixels, labels, epsilons=epsilon)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        assert not torch.equal(ours, pixels)


@pytest.mark.parametrize("epsilon", [1 / 255, 6 / 255, 0.5])
def test_changes_stay_within_epsilon_and_the_image(epsilon, digits):
    """Digits have many pixels at 0 and 1; the start alone would leave the image."""
    model, images, _ = digits
    model.eval()
    pixels = as_pixels(images.evaluation.images[::35], images.dataset)
    labels = images.evaluation.labels[::35]
    assert pixels.min() == 0
    assert pixels.max() == 1
    for start in (torch.rand_like(pixels) * 2 - 1, torch.ones_like(pixels)):
        for steps in (1, 10):
            changed = attack(model, images.dataset, pixels, labels, epsilon, steps, start)
            assert changed.min() >= 0
            assert changed.max() <= 1
            moved = (changed - pixels).abs().max().item()
            # All of it is used, as a step is longer than a quarter of it.
            assert moved == pytest.approx(epsilon, abs=1e-6)


def test_without_any_change_the_accuracy_is_that_on_clean_images(digits):
    model, images, config = digits
    pixels = as_pixels(images.evaluation.images[:5], images.dataset)
    none = attack(model, images.dataset, pixels, images.evaluation.labels[:5], 0.0, 10, pixels + 9)
    assert torch.equal(none, pixels)
    chosen = images.evaluation[evaluations._first(images.evaluation.labels, 13)]
    clean, _ = train.evaluate(model, evaluation_batches(chosen, images.dataset))
    found = Attack((0.0,), restarts=2, per_class=13).result(model, images, config)
    assert found == {
        "accuracy": [pytest.approx(clean, abs=1e-4)],
        "images": 130,
        "no_gradient": 0.0,
    }
    whole = Attack((0.0,)).result(model, images, config)
    assert whole["accuracy"] == [
        pytest.approx(
            train.evaluate(model, evaluation_batches(images.evaluation, images.dataset))[0]
        )
    ]
    assert whole["images"] == 700


def test_accuracy_falls_to_nothing_as_epsilon_grows(digits):
    model, images, config = digits
    clean, attacked, most = Attack((0.0, 16.0, 128.0), per_class=5).result(model, images, config)[
        "accuracy"
    ]
    assert clean > attacked > most == 0


def test_the_attack_on_a_linear_network_finds_the_worst_images():
    """By hand: with two classes every pixel moves by epsilon, or to 0 or 1, against its weight."""
    images = catalogue.load(configure("digits-binary"))
    mean, std = images.dataset.mean[0], images.dataset.std[0]
    pixels, labels = images.evaluation.images.flatten(1) / 255, images.evaluation.labels
    weight = pixels[labels == 1].mean(0) - pixels[labels == 0].mean(0)
    bias = -(weight @ (pixels[labels == 1].mean(0) + pixels[labels == 0].mean(0))) / 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-weight, weight]) * std)
        model[1].bias.copy_(torch.stack([-bias, bias]) + model[1].weight.sum(1) * mean / std)
    side = 2.0 * labels - 1
    towards = side[:, None] * weight.sign()
    expected = []
    for epsilon in (0, 4, 16, 64):
        worst = (pixels - epsilon / 255 * towards).clamp(0, 1)
        expected.append(100 * ((worst @ weight + bias) * side > 0).float().mean().item())
    assert expected[0] > expected[1] > expected[2] > expected[3]
    for steps in (1, 10):
        attacked = Attack((0.0, 4.0, 16.0, 64.0), steps)
        found = attacked.result(model, images, configure("digits-binary"))
        assert found["accuracy"] == pytest.approx(expected)


def test_an_image_is_right_only_if_it_is_right_after_every_start(digits, monkeypatch):
    """By hand: a single step, so that starts matter; in float64, as above."""
    trained, images, config = digits
    model = copy.deepcopy(trained).double().eval()
    monkeypatch.setattr(evaluations, "as_pixels", lambda *of: as_pixels(*of).double())
    epsilons = (2.0, 8.0, 16.0, 32.0)
    right = {}
    chosen = images.evaluation[evaluations._first(images.evaluation.labels, 12)]
    pixels = evaluations.as_pixels(chosen.images, images.dataset)
    for number in range(3):
        start = torch.rand(pixels.shape, generator=stream(config.seed, number, "attack")) * 2 - 1
        for epsilon in epsilons:
            changed = attack(model, images.dataset, pixels, chosen.labels, epsilon / 255, 1, start)
            named = model((changed - images.dataset.mean[0]) / images.dataset.std[0]).argmax(1)
            right[number, epsilon] = named == chosen.labels
    all_found = []
    for restarts in (1, 2, 3):
        found = Attack(epsilons, 1, restarts, 12).result(model, images, config)["accuracy"]
        expected = [
            100 * torch.stack([right[n, e] for n in range(restarts)]).all(0).float().mean().item()
            for e in epsilons
        ]
        assert found == pytest.approx(expected)
        all_found.append(found)
    for fewer, more in itertools.pairwise(all_found):
        assert all(b <= a for a, b in zip(fewer, more, strict=True))
    assert all_found[2] != all_found[0]
    assert any(
        (right[0, e] & ~right[1, e]).any() and (right[1, e] & ~right[0, e]).any() for e in epsilons
    ), "neither start is the better one everywhere"


class Blind(nn.Module):
    """Names class 0 whatever it sees; its outputs depend on one row of pixels if it is bright."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, images):
        light = images[:, 0, 4].mean(1)
        first = 1 + torch.where(light > self.threshold, light - self.threshold, 0)
        return torch.cat([first[:, None], torch.zeros(len(images), 9)], 1)


def test_gradients_that_are_zero_are_reported(digits):
    _, images, config = digits
    chosen = images.evaluation[evaluations._first(images.evaluation.labels, 11)]
    mean, std = images.dataset.mean[0], images.dataset.std[0]
    light = ((chosen.images[:, 0, 4] / 255 - mean) / std).mean(1).sort().values
    # Many are equally bright; the threshold is between two that are not.
    dark = 30 + int(light[29:80].diff().argmax())
    attacked = Attack((0.0, 64.0), per_class=11)
    between = (light[dark - 1] + light[dark]) / 2
    for threshold, none in ((99, 110), (between, dark)):
        assert attacked.result(Blind(threshold), images, config) == {
            "accuracy": [pytest.approx(10)] * 2,
            "images": 110,
            "no_gradient": pytest.approx(none / 110),
        }


def test_gradients_are_of_each_image_alone(digits):
    """In float64, where rounding moves no activation over the kink of its ReLU."""
    trained, images, _ = digits
    model = copy.deepcopy(trained).double().eval()
    pixels = as_pixels(images.evaluation.images[:6], images.dataset).double()
    labels = images.evaluation.labels[:6]
    together = gradient(model, images.dataset, pixels, labels)
    each = [gradient(model, images.dataset, pixels[n : n + 1], labels[n : n + 1]) for n in range(6)]
    torch.testing.assert_close(together, torch.cat(each), rtol=1e-9, atol=1e-12)
    assert pixels.requires_grad is False
    # Against the loss itself; in a longer step some activations pass their kinks.
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)).double()
    slope = (together * direction).sum()
    mean, std = images.dataset.mean[0], images.dataset.std[0]
    with torch.no_grad():
        up, down = (
            nn.functional.cross_entropy(
                model((pixels + sign * 1e-9 * direction - mean) / std), labels, reduction="sum"
            )
            for sign in (1, -1)
        )
    assert slope.item() == pytest.approx(((up - down) / 2e-9).item(), rel=1e-3)


def test_evaluations_leave_the_network_as_it_is(digits, colour):
    for (model, images, config), evaluation in (
        (digits, Attack((8.0,), steps=2, restarts=2, per_class=2)),
        (digits, Predictions()),
        (colour, Corruptions(per_class=1, normalised=False)),
    ):
        model.train()
        model.zero_grad()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        first = evaluation.result(model, images, config)
        after = model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert not model.training
        for weight in model.parameters():
            assert weight.requires_grad
            assert weight.grad is None
        assert evaluation.result(model, images, config) == first
        assert json.loads(json.dumps(first)) == first


def test_starts_depend_on_the_seed_and_their_number_alone(digits, monkeypatch):
    model, images, config = digits

    def starts(evaluation, **settings):
        seen = {}

        def noted(model, dataset, pixels, labels, epsilon, steps, start):
            seen.setdefault(round(255 * epsilon), []).append(start)
            return pixels

        monkeypatch.setattr(evaluations, "attack", noted)
        evaluation.result(model, images, dataclasses.replace(config, **settings))
        return seen

    few = starts(Attack((4.0, 8.0), steps=3, restarts=2, per_class=2))
    assert [len(each) for each in few.values()] == [2, 2]
    first, second = few[4]
    assert first.shape == (20, 1, 10, 10)
    assert first.abs().max() <= 1
    assert first.min() < -0.95
    assert first.max() > 0.95
    assert torch.equal(few[8][0], first), "the same for every epsilon"
    assert not torch.equal(first, second)
    same = starts(Attack((1.0,), restarts=1, per_class=2), method="dnr", lr=0.2)
    assert torch.equal(same[1][0], first)
    other = starts(Attack((1.0,), restarts=1, per_class=2), seed=1)
    assert not torch.equal(other[1][0], first)


# --------------------------------------------------------------------------------------------------
# Corruptions


@pytest.mark.parametrize("normalised", [True, False])
def test_accuracies_are_those_on_the_corrupted_images(normalised, colour):
    model, images, config = colour
    found = Corruptions(per_class=2, normalised=normalised).result(model, images, config)
    about = images.dataset
    how, otherwise = (about.mean, about.std), ((0.0,) * 3, (1.0,) * 3)
    if not normalised:
        how, otherwise = otherwise, how
    chosen = images.evaluation[evaluations._first(images.evaluation.labels, 2)]
    assert torch.bincount(chosen.labels).tolist() == [2] * 10
    assert found["images"] == 20
    assert found["clean"] == by_hand(model, chosen, *how)
    assert list(found["accuracy"]) == list(CORRUPTIONS)
    rows = chosen.images.permute(0, 2, 3, 1).numpy()
    expected, wrong = [], []
    for name in ("shot_noise", "contrast", "pixelate", "saturate"):
        for severity in range(1, 6):
            changed = torch.from_numpy(corruptions.corrupted(rows, name, severity))
            split = Split(changed.permute(0, 3, 1, 2), chosen.labels)
            expected.append(by_hand(model, split, *how))
            wrong.append(by_hand(model, split, *otherwise))
        assert found["accuracy"][name] == expected[-5:], name
    assert expected != wrong, "or it could not be told whether images are normalised"
    if normalised:
        assert len(set(expected)) > 2, "or the corruptions could not be told apart"


def test_all_images_are_corrupted_unless_fewer_are_asked_for(colour, monkeypatch):
    model, images, config = colour
    sizes = []

    def noted(images, name, severity):
        sizes.append(len(images))
        return images

    monkeypatch.setattr(evaluations, "corrupted", noted)
    monkeypatch.setattr(evaluations, "CORRUPTIONS", ["fog", "frost"])
    found = Corruptions().result(model, images, config)
    assert found["images"] == 700
    assert set(sizes) == {700}
    assert (
        found["clean"]
        == train.evaluate(model, evaluation_batches(images.evaluation, images.dataset))[0]
    )
    # None of them was changed here.
    assert found["accuracy"] == dict.fromkeys(("fog", "frost"), [found["clean"]] * 5)


def test_corruptions_are_made_once_for_all_networks(colour, monkeypatch):
    model, images, config = colour
    first = Corruptions(per_class=1).result(model, images, config)
    monkeypatch.setattr(evaluations, "corrupted", None)
    assert Corruptions(per_class=1).result(model, images, config) == first


def test_corruptions_are_refused_for_other_images(tiny, monkeypatch):
    with pytest.raises(UserError, match=r"32 x 32"):
        run(tiny(method="plain"), evaluations=[Corruptions(per_class=1)])
    monkeypatch.setattr(study, "run", None)
    with pytest.raises(UserError, match=r"32 x 32"):
        study.study([tiny(method="plain")], evaluations=(Corruptions(per_class=1),))


@pytest.fixture
def cifar(tmp_path, hold):
    """Prepares a small CIFAR-10, and a CIFAR-10-C whose test images have these labels; returns the
    config of a network that trains in a second, and the tree of CIFAR-10-C."""

    def make(labels=(2, 1, 0)):
        ten = hold("cifar10", trees.cifar10(tmp_path / "ten"))
        corrupted = hold("cifar10c", trees.cifar10c(tmp_path / "corrupted", labels))
        assert cli.main(["data", "prepare", "cifar10", "--root", str(ten.root)]) == 0
        official.prepare("cifar10c", corrupted.root)
        small = {"model": "resnet18", "width": 4, "epochs": 1, "batch": 3, "augment": "none"}
        return configure("cifar10", method="plain", **small), corrupted

    return make


@pytest.mark.parametrize("normalised", [True, False])
def test_official_files_are_evaluated_end_to_end(normalised, cifar, tmp_path):
    config, tree = cifar()
    asked = Corruptions(normalised=normalised, official=True)
    found = run(config, evaluations=[asked])[-1]["result"]
    model, images, _ = trained(config, records.runs_root())
    assert images.evaluation.labels.tolist() == [2, 1, 0]
    about = images.dataset
    how = (about.mean, about.std) if normalised else ((0.0,) * 3, (1.0,) * 3)
    # A network that never saw an image, but tells noise from noise, beside the trained one.
    torch.manual_seed(0)
    other = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    seen = set()
    for network, result in ((model, found), (other, asked.result(other, images, config))):
        assert result["images"] == 3
        assert result["clean"] == by_hand(network, images.evaluation, *how)
        for name in trees.CORRUPTIONS:
            rows = np.stack([row for row, _, corruption in tree.images if corruption == name])
            pixels = torch.from_numpy(rows).permute(0, 3, 1, 2)
            for severity in range(5):
                split = Split(pixels[3 * severity : 3 * severity + 3], images.evaluation.labels)
                accuracy = by_hand(network, split, *how)
                assert result["accuracy"][name][severity] == accuracy
                seen.add(round(accuracy))
    assert {0, 33, 67} <= seen


def test_some_of_the_official_images(cifar):
    """One of each of three classes, in the order of the test images."""
    config, _ = cifar()
    whole = run(config, evaluations=[Corruptions(official=True)])[-1]["result"]
    first = run(config, evaluations=[Corruptions(1, official=True)])[-1]["result"]
    assert first == whole


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("missing", r"cifar10c is not on this machine; to get it: dnr data prepare cifar10c"),
        ("moved", r"cifar10c is not on this machine; to get it: dnr data prepare cifar10c"),
        ("changed", r"snow\.npy has MD5 [0-9a-f]{32} instead of [0-9a-f]{32}"),
        ("labels changed", r"labels\.npy has MD5 [0-9a-f]{32} instead of [0-9a-f]{32}"),
    ],
)
def test_official_files_that_are_not_whole(harm, message, cifar, tmp_path):
    config, tree = cifar()
    official.corruption("snow")
    path = tree.root / "CIFAR-10-C" / ("labels.npy" if "labels" in harm else "snow.npy")
    if harm == "missing":
        path.unlink()
    elif harm == "moved":
        tree.root.rename(tmp_path / "elsewhere")
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        run(config, evaluations=[Corruptions(official=True)])
    assert run(config)[-1]["kind"] == "generation", "the training is whole"
    if harm == "moved":
        official.prepare("cifar10c", tmp_path / "elsewhere")
        assert len(run(config, evaluations=[Corruptions(official=True)])) == 2


def test_only_the_files_that_are_asked_for_are_read(cifar):
    _, tree = cifar()
    (tree.root / "CIFAR-10-C/snow.npy").write_bytes(b"no array")
    images, labels = official.corruption("fog")
    assert images.shape == (15, 32, 32, 3)
    assert labels.tolist() == [2, 1, 0] * 5


@pytest.mark.parametrize("labels", [(0, 1, 2), (2, 1), (2, 1, 0, 0)], ids=["order", "few", "many"])
def test_official_files_must_be_of_the_test_images(labels, cifar):
    config, _ = cifar(labels)
    with pytest.raises(UserError, match=r"labels of CIFAR-10-C are not those of the test images"):
        run(config, evaluations=[Corruptions(official=True)])


def test_official_files_that_were_never_there(colour):
    model, images, config = colour
    with pytest.raises(UserError, match=r"cifar10c is not on this machine; to get it: dnr data"):
        Corruptions(official=True).result(model, images, config)


def test_every_official_file_is_opened_once_for_a_network(cifar, monkeypatch):
    config, _ = cifar()
    run(config)
    opened, real = Counter(), layouts.intact
    monkeypatch.setattr(
        layouts, "intact", lambda path, md5: opened.update([path.stem]) or real(path, md5)
    )
    run(config, evaluations=[Corruptions(official=True)])
    assert opened == dict.fromkeys(trees.CORRUPTIONS, 1) | {"labels": 19}


def test_without_the_official_files_nothing_is_trained(cifar, monkeypatch):
    """What an exhibit asks does not depend on the disk: what was evaluated is found without the
    files, and whoever does not have them is told what to do before an hour is spent."""
    config, tree = cifar()
    asked = evaluations_of("fig5", "cifar10")
    (found,) = study.study([config], workers=1, evaluations=asked)
    shutil.rmtree(tree.root)
    assert evaluations_of("fig5", "cifar10") == asked == (Corruptions(official=True),)
    (again,) = study.study([config], evaluations=asked)
    assert again.records == found.records
    other = dataclasses.replace(config, seed=1)
    assert study.study([other], train=False, evaluations=asked) == []
    with monkeypatch.context() as patch:
        patch.setattr(study, "run", None)
        with pytest.raises(UserError) as caught:
            study.study([other], workers=1, evaluations=asked)
    assert "dnr data prepare cifar10c --download" in str(caught.value)
    assert "here instead: study(configs, evaluations=[Corruptions()])" in str(caught.value)
    (ours,) = study.study([config], workers=1, evaluations=[Corruptions()])
    assert ours.records[-1]["evaluation"] == {"Corruptions": {}}


# --------------------------------------------------------------------------------------------------
# Predictions and what follows from them


def test_predictions_are_the_classes_that_the_network_names(digits):
    model, images, config = digits
    found = Predictions().result(model, images, config)
    assert found.keys() == {"labels", "predicted"}, "the digits have no groups"
    assert found["labels"] == images.evaluation.labels.tolist()
    right = np.mean(np.equal(found["labels"], found["predicted"]))
    assert 100 * right == pytest.approx(by_hand(model, images.evaluation, (0.196,), (0.335,)))
    assert len(set(found["predicted"])) > 5


def noted(evaluation, result):
    """A record as it comes back from the disk: names are sorted, tuples are lists."""
    record = {"kind": "evaluation", "evaluation": canonical(evaluation), "result": result}
    return json.loads(json.dumps(record, sort_keys=True))


def percent(metric, labels, predicted):
    above, below = ratios(metric, np.array(labels), np.array(predicted))
    return float(np.mean(100 * above.sum(0) / below.sum(0)))


def test_two_classes_by_hand():
    """Of three negatives two are named so, of two positives one."""
    labels, predicted = [0, 0, 0, 1, 1], [0, 1, 0, 0, 1]
    assert recalls(np.array(labels), np.array(predicted)) == pytest.approx([200 / 3, 50])
    found = measures([noted(Predictions(), {"labels": labels, "predicted": predicted})])
    assert found == pytest.approx(
        {"balanced_accuracy": 175 / 3, "sensitivity": 50, "specificity": 200 / 3}
    )
    assert percent("accuracy", labels, predicted) == 60
    above, below = ratios("sensitivity", np.array(labels), np.array(predicted))
    assert above[:, 0].tolist() == [0, 0, 0, 0, 1]
    assert below[:, 0].tolist() == [0, 0, 0, 1, 1]
    above, below = ratios("specificity", np.array(labels), np.array(predicted))
    assert above[:, 0].tolist() == [1, 0, 1, 0, 0]
    assert below[:, 0].tolist() == [1, 1, 1, 0, 0]


def test_three_classes_by_hand():
    """Recalls 1/2, 2/2, 1/2; of the four others of each class 1, 1, 0 are named it."""
    labels, predicted = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    assert recalls(np.array(labels), np.array(predicted)) == [50, 100, 50]
    result = {"labels": labels, "predicted": predicted}
    found = measures([noted(Predictions(), result | {"groups": list("aabbcc")})])
    assert found == pytest.approx(
        {"balanced_accuracy": 200 / 3, "sensitivity": 200 / 3, "specificity": 250 / 3}
    )
    # Of patients only: digits have no sick.
    assert measures([noted(Predictions(), result)]).keys() == {"balanced_accuracy"}


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_metrics_are_those_of_scikit_learn(classes):
    draw = np.random.RandomState(classes)
    for _ in range(20):
        labels = np.concatenate([np.arange(classes), draw.randint(0, classes, 30)])
        predicted = draw.randint(0, classes, len(labels))
        groups = {"groups": list(range(len(labels)))}
        found = measures([noted(Predictions(), _lists(labels, predicted) | groups)])
        matrix = metrics.confusion_matrix(labels, predicted, labels=np.arange(classes))
        specific = [
            (np.delete(matrix, c, 0).sum() - np.delete(matrix, c, 0)[:, c].sum())
            / np.delete(matrix, c, 0).sum()
            for c in range(classes)
        ]
        if classes == 2:
            sensitivity, specificity = metrics.recall_score(labels, predicted), specific[1]
        else:
            sensitivity = metrics.recall_score(labels, predicted, average="macro")
            specificity = np.mean(specific)
        balanced = metrics.balanced_accuracy_score(labels, predicted)
        assert found == pytest.approx(
            {
                "balanced_accuracy": 100 * balanced,
                "sensitivity": 100 * sensitivity,
                "specificity": 100 * specificity,
            }
        )
        each = metrics.recall_score(labels, predicted, average=None)
        assert recalls(labels, predicted) == pytest.approx((100 * each).tolist())
        right = metrics.accuracy_score(labels, predicted)
        assert percent("accuracy", labels, predicted) == pytest.approx(100 * right)


def _lists(labels, predicted):
    return {"labels": labels.tolist(), "predicted": predicted.tolist()}


def test_of_two_classes_accuracy_lies_between_the_two_recalls():
    """D46: with two classes it is their weighted mean; means over more classes do not bound it."""
    draw = np.random.RandomState(0)
    for _ in range(50):
        labels = np.array([0, 1, *draw.randint(0, 2, 20)])
        predicted = draw.randint(0, 2, 22)
        ends = sorted(percent(m, labels, predicted) for m in ("sensitivity", "specificity"))
        assert ends[0] - 1e-9 <= percent("accuracy", labels, predicted) <= ends[1] + 1e-9
    labels, predicted = [0] * 8 + [1, 2], [0] * 10
    assert percent("accuracy", labels, predicted) == 80
    assert percent("sensitivity", labels, predicted) == pytest.approx(100 / 3)
    assert percent("specificity", labels, predicted) == pytest.approx(200 / 3)


def corrupted_accuracies(start):
    """Number i of the 19 has a mean of `start` + i, from 1 on, over severities."""
    return {name: [start + i] * 4 + [start + i + 5] for i, name in enumerate(CORRUPTIONS)}


def test_what_corruptions_and_attacks_say():
    """The means of 1 to 19 and of 1 to 15 are 10 and 8, of the attacks at 1 to 6 it is 35."""
    both = [
        noted(Corruptions(20), {"clean": 99.0, "accuracy": corrupted_accuracies(0)}),
        noted(Corruptions(20, False), {"clean": 60.0, "accuracy": corrupted_accuracies(20)}),
    ]
    bare = {"mca_unnormalised": 30, "clean_unnormalised": 60}
    assert measures(both) == pytest.approx({"mca": 10, "mca_15": 8, "mca_drop": 89} | bare)
    assert measures(both) == measures(both[::-1])
    accuracies = [90, 60, 50, 40, 30, 20, 10, 5, 0]
    attacks = [
        noted(Attack(FIGURE + BEYOND), {"accuracy": accuracies}),
        noted(Attack((HARDER,), steps=40), {"accuracy": [1.0]}),
    ]
    assert measures(attacks) == {"pgd": 35, "pgd_drop": 55}
    harder = noted(Attack(FIGURE + BEYOND, steps=40), {"accuracy": [0.0] * 9})
    assert measures([*attacks, harder]) == {"pgd": 35, "pgd_drop": 55}
    ours = noted(Corruptions(), {"clean": 99.0, "accuracy": corrupted_accuracies(0)})
    with pytest.raises(UserError, match="two evaluations of one run give mca, mca_15, mca_drop"):
        measures([*both, ours])
    assert measures([{"kind": "generation"}, {"kind": "mask"}]) == {}


def test_what_each_exhibit_evaluates():
    assert evaluations_of("table1", "digits") == evaluations_of("fig2", "cub200") == ()
    (few,) = evaluations_of("fig5", "digits-colour")
    assert (few.per_class, few.normalised, few.official) == (20, True, False)
    assert evaluations_of("normalisation", "digits-colour") == (few, Corruptions(20, False))
    both = (Corruptions(official=True), Corruptions(normalised=False, official=True))
    for name in ("cifar10", "cifar10-imbalanced"):
        assert evaluations_of("normalisation", name) == both
        assert evaluations_of("fig5", name) == both[:1]
    # Its test images are in another order.
    assert evaluations_of("fig5", "cifar10-few") == (Corruptions(per_class=50),)
    first, steps, starts = evaluations_of("fig6", "digits-colour")
    assert first == Attack((0, 1, 2, 3, 4, 5, 6, 16, 64), steps=10, restarts=1, per_class=10)
    assert (steps.epsilons, steps.steps, steps.restarts) == ((6,), 40, 1)
    assert (starts.epsilons, starts.steps, starts.restarts) == ((6,), 10, 4)
    assert evaluations_of("fig6", "cifar10")[0].per_class == 0
    assert evaluations_of("fig7", "digits-imbalanced") == (Predictions(),)
    assert evaluations_of("table8", "papila") == (Predictions(),)
    page = Parameters("digits-colour", exhibit="fig6")
    assert page.evaluations == evaluations_of("fig6", "digits-colour")


@pytest.mark.parametrize("method", ["ensemble", "lw"])
def test_averaged_networks_by_hand(tiny, tmp_path, method):
    """From the weights on disk and in double precision; those of LW get layers on the way."""
    config = tiny(method=method, generations=4, epochs=2)
    found = run(config, tmp_path, evaluations=[AveragedAccuracy()])
    result, data, total = found[-1]["result"], load(config), 0
    for link in chain(config):
        model = build(config)
        load_state(model, Store(tmp_path).weights(link.trained))
        inputs = normalised(data.evaluation.images, data.dataset).double()
        total = total + model.double().eval()(inputs).softmax(1)
    named, networks = total.argmax(1), len(chain(config))
    assert networks == (3 if method == "ensemble" else 4)
    accuracy = 100 * (named == data.evaluation.labels).double().mean().item()
    chosen = (total / networks).gather(1, data.evaluation.labels[:, None])
    assert result["networks"] == networks
    assert result["accuracy"] == pytest.approx(accuracy, abs=0.3)
    assert result["loss"] == pytest.approx(-chosen.log().mean().item(), rel=1e-4)
    frame = generations([Run(config, found, "runs")])
    assert frame["averaged"].tolist()[-1] == result["accuracy"]


def test_sizes_of_weights_by_hand(tiny):
    """Of filters that are kept 2 and -4, of the others 1 and 0 in the first generation, and half of
    that in the second; a mean without the absolute value would be smaller."""
    config = tiny(method="ke", split_rate=0.5)
    first = build(config)
    with torch.no_grad():
        for name, weight in prunable(first).items():
            rows = torch.zeros(len(weight))
            rows[: len(weight) if name == "fc.weight" else len(weight) // 2] = 1
            inputs = torch.ones(weight.shape[1])
            inputs[0 if name == "conv1.weight" else len(inputs) // 2 :] = name == "conv1.weight"
            kept = (rows[:, None] * inputs).bool()
            signs = torch.tensor([2.0, -4.0]).repeat(kept.numel())[: int(kept.sum())]
            others = torch.tensor([1.0, 0.0]).repeat(kept.numel())[: int((~kept).sum())]
            values = torch.empty(kept.shape)
            values[kept], values[~kept] = signs, others
            weight.copy_(values[..., None, None] if weight.dim() > 2 else values)
    second = copy.deepcopy(first)
    for weight in prunable(second).values():
        weight.data /= 2
    found = WeightSizes().result(Averaged([first, second]), None, config)
    assert found["layers"] == [name.removesuffix(".weight") for name in prunable(first)]
    assert found["fit"] == [[3.0, 1.5]] * len(found["layers"])
    assert found["reset"] == [[0.5, 0.25]] * len(found["layers"])


def test_sizes_of_weights_of_a_run_are_those_of_its_generations(tiny, tmp_path):
    """Of four filters 0.8 keeps all four: such a layer has no part that is reset."""
    config = tiny(method="ke", generations=2)
    found = run(config, tmp_path, evaluations=[WeightSizes()])
    result = found[-1]["result"]
    assert "layer1.0.conv1" not in result["layers"]
    frame = frames.size_frame([Run(config, found, "runs")])
    assert len(frame) == 2 * 2 * len(result["layers"])
    for generation, link in enumerate(chain(config), 1):
        weight = Store(tmp_path).weights(link.trained)["layer4.1.conv2.weight"].double().numpy()
        # 26 of 32.
        kept = np.zeros(weight.shape, dtype=bool)
        kept[:26, :26] = True
        at = frame[(frame["layer"] == "layer4.1.conv2") & (frame["generation"] == generation)]
        sizes = at.set_index("part")["size"]
        assert sizes["fit"] == pytest.approx(np.abs(weight[kept]).mean(), rel=1e-6)
        assert sizes["reset"] == pytest.approx(np.abs(weight[~kept]).mean(), rel=1e-6)


def test_every_measure_is_a_column(tiny):
    found = {"recall_1": 1, "recall_4": 1, "nmi": 1}
    said = measures(
        [
            noted(Corruptions(), {"clean": 9, "accuracy": corrupted_accuracies(0)}),
            noted(Corruptions(0, False), {"clean": 9, "accuracy": corrupted_accuracies(0)}),
            noted(Attack(FIGURE + BEYOND), {"accuracy": [1] * 9}),
            noted(Predictions(), {"labels": [0, 1], "predicted": [0, 1]}),
            noted(AveragedAccuracy(), {"accuracy": 1}),
            noted(Retrieval(), {"dense": found, "slim": found}),
        ]
    )
    assert set(said) == set(EVALUATED) <= set(generations([]).columns)


def made(method, seed, *found):
    return Run(configure("digits-colour", method=method, seed=seed), list(found), "runs")


def test_frames_of_evaluations():
    corrupted = {"clean": 99.0, "images": 200, "accuracy": corrupted_accuracies(0)}
    frame = frames.corruption_frame(
        [
            made("dnr", 3, {"kind": "generation"}, noted(Corruptions(20), corrupted)),
            made("tune", 4, noted(Corruptions(20, False), corrupted)),
        ]
    )
    assert len(frame) == 2 * (1 + 19 * 5)
    of = frame.set_index(["method", "corruption", "severity"])
    assert of.loc[("dnr", "none", 0)].tolist() == [3, True, False, 200, 99.0]
    assert of.loc[("dnr", "gaussian_noise", 1)].tolist() == [3, True, False, 200, 0]
    assert of.loc[("dnr", "saturate", 5)].tolist() == [3, True, False, 200, 23]
    assert of.loc[("tune", "shot_noise", 2)].tolist() == [4, False, False, 200, 1]
    attacks = [
        noted(Attack((0.0, 6.0)), {"accuracy": [80.0, 7.0], "images": 9, "no_gradient": 0.0}),
        noted(Attack((6.0,), 40, 4), {"accuracy": [5.0], "images": 9, "no_gradient": 0.25}),
    ]
    frame = frames.attack_frame([made("dnr", 3, *attacks)])
    assert frame.to_numpy().tolist() == [
        ["dnr", 3, 10, 1, 9, 0.0, 80.0, 0.0],
        ["dnr", 3, 10, 1, 9, 6.0, 7.0, 0.0],
        ["dnr", 3, 40, 4, 9, 6.0, 5.0, 0.25],
    ]
    named = noted(Predictions(), {"labels": [0, 0, 1, 2], "predicted": [0, 1, 1, 0]})
    frame = frames.recall_frame([made("dnr", 3, named), made("ke", 1, named)])
    assert frame[frame["method"] == "dnr"].to_numpy().tolist() == [
        *(["dnr", 3, 0, 50.0], ["dnr", 3, 1, 100.0], ["dnr", 3, 2, 0.0]),
    ]
    gap = noted(Predictions(), {"labels": [0, 2], "predicted": [0, 1]})
    assert frames.recall_frame([made("dnr", 3, gap)])["class"].tolist() == [0, 2]
    for build_frame in ("corruption_frame", "attack_frame", "recall_frame"):
        assert getattr(frames, build_frame)([]).empty


# --------------------------------------------------------------------------------------------------
# Records


ATTACKED = Attack((0.0, 8.0), steps=2, per_class=1)
BOTH = (Predictions(), ATTACKED)


def never(*arguments, **settings):
    raise AssertionError("trained or evaluated")


def test_keys_of_evaluations(tiny):
    links = [chain(tiny(method="tune", **settings))[-1] for settings in ({}, {"seed": 1})]
    links += [chain(tiny(method="tune"))[0]]
    asked = [
        *(Predictions(), Attack((8.0,)), Attack((4.0,)), Attack((4.0, 8.0)), Attack((8.0,), 20)),
        *(Attack((8.0,), restarts=2), Attack((8.0,), per_class=2)),
        *(Corruptions(), Corruptions(5), Corruptions(normalised=False), Corruptions(official=True)),
    ]
    keys = {link.evaluated(each).key for link in links for each in asked}
    assert len(keys) == len(links) * len(asked)
    assert not keys & {entry.key for link in links for entry in link.entries}
    # Saying what is so anyway changes nothing.
    said = Attack((8.0,), steps=10, restarts=1, per_class=0)
    assert links[0].evaluated(said).key == links[0].evaluated(Attack((8.0,))).key


def test_records_of_a_run_end_with_its_evaluations(tiny):
    config, reported = tiny(method="tune"), []
    found = run(config, report=reported.append, evaluations=BOTH)
    assert [record["kind"] for record in found] == ["generation"] * 3 + ["evaluation"] * 2
    assert reported == found
    last = chain(config)[-1]
    for record, asked in zip(found[3:], BOTH, strict=True):
        assert record["key"] == last.evaluated(asked).key
        assert (record["of"], record["generation"]) == (last.key, 3)
        assert record["evaluation"] == canonical(asked)
        assert record["timing"]["seconds"] > 0
        path = records.runs_root() / last.key / f"evaluation-{record['key']}.json"
        assert records.read(path) == json.loads(json.dumps(record))
    model, images, _ = trained(config, records.runs_root())
    assert found[3]["result"] == Predictions().result(model, images, config)
    assert found[4]["result"] == ATTACKED.result(model, images, config)
    right = np.equal(found[3]["result"]["labels"], found[3]["result"]["predicted"]).mean()
    assert 100 * right == pytest.approx(found[2]["result"]["test_accuracy"])


def test_a_shared_first_generation_is_not_evaluated(tiny):
    config = tiny(method="tune")
    found = run(config, first_only=True, evaluations=BOTH)
    assert [record["kind"] for record in found] == ["generation"]
    (alone,) = run(tiny(method="plain"), first_only=True, evaluations=BOTH)
    assert alone["kind"] == "generation"


def test_a_second_study_evaluates_nothing(tiny, published, capsys, monkeypatch):  # noqa: F811
    configs = [tiny(method="tune"), tiny(method="plain")]
    first = study.study(configs, workers=1, evaluations=BOTH)
    assert "4 epochs" not in capsys.readouterr().out
    for owner, name in ((study, "_train"), (Attack, "result"), (train, "train")):
        monkeypatch.setattr(owner, name, never)
    again = study.study(configs, workers=1, evaluations=BOTH)
    assert results(again) == results(first)
    assert again[0].evaluations == BOTH
    assert "2 runs on disk, nothing to train" in capsys.readouterr().out
    # They are found without their evaluations too, in another order, and after one more.
    assert [record["kind"] for record in Archive().find(configs[1]).records] == ["generation"]
    assert Archive().find(configs[1], BOTH[::-1]).records[1] == first[1].records[2]
    assert Archive().find(configs[0], (*BOTH, Attack((1.0,)))) is None


def test_networks_that_are_there_are_evaluated_untrained(
    tiny,
    published,  # noqa: F811
    capsys,
    monkeypatch,
):
    config = tiny(method="tune")
    study.study([config], workers=1)
    monkeypatch.setattr(train, "train", never)
    capsys.readouterr()
    assert study.study([config], train=False, evaluations=BOTH) == []
    assert "not run: 1 of 1 runs" in capsys.readouterr().out
    (found,) = study.study([config], workers=1, evaluations=BOTH)
    said = capsys.readouterr().out
    assert "1 trained networks to evaluate, on 1 workers" in said
    assert [record["kind"] for record in found.records[-2:]] == ["evaluation"] * 2


def test_a_killed_evaluation_is_made_again_without_training(tiny, monkeypatch):
    config = tiny(method="tune")

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Attack, "result", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, evaluations=BOTH)
    folder = records.runs_root() / chain(config)[-1].key
    first, second = (folder / f"evaluation-{chain(config)[-1].evaluated(e).key}.json" for e in BOTH)
    assert (folder / "weights.pt").exists()
    assert first.exists()
    assert not second.exists()
    assert Archive().find(config) is not None
    assert Archive().find(config, BOTH) is None
    with monkeypatch.context() as patch:
        patch.setattr(train, "train", never)
        patch.setattr(Predictions, "result", never)
        found = run(config, evaluations=BOTH)
    fresh = run(config, records.runs_root() / "elsewhere", evaluations=BOTH)
    assert [r["result"] for r in found] == [r["result"] for r in fresh]


def test_evaluations_are_of_the_weights_of_the_record(tiny):
    config = tiny(method="plain")
    run(config)
    path = records.runs_root() / chain(config)[-1].key / "weights.pt"
    state = torch.load(path, weights_only=True)
    state["fc.bias"][0] += 1
    torch.save(state, path)
    with pytest.raises(records.DamagedFile, match=r"its weights are not those of its record"):
        run(config, evaluations=[Predictions()])


def test_a_damaged_evaluation_is_named(tiny):
    config = tiny(method="plain")
    record = run(config, evaluations=[Predictions()])[-1]
    name = f"evaluation-{record['key']}.json"
    path = records.runs_root() / chain(config)[-1].key / name
    path.write_text(path.read_text().replace('"predicted":[', '"predicted":[9,', 1))
    for again in (run, lambda config, evaluations: Archive().find(config, evaluations)):
        with pytest.raises(records.DamagedFile, match=rf"{name} is damaged"):
            again(config, evaluations=[Predictions()])
    assert Archive().find(config) is not None, "the network is whole"


def test_evaluations_are_published_and_found(tiny, published, monkeypatch):  # noqa: F811
    config = tiny(method="tune")
    own = study.study([config], workers=1, evaluations=BOTH)
    publish(own)
    found = Archive().find(config, BOTH)
    assert (found.source, found.records) == ("published", json.loads(json.dumps(own[0].records)))
    assert Archive().find(config).records == found.records[:3]
    assert Archive(published=False).find(config, BOTH).source == "runs"
    # Measured by the user beside what is published.
    more = (*BOTH, Attack((1.0,), 1, per_class=1))
    assert Archive().find(config, more) is None
    (run_,) = study.study([config], workers=1, evaluations=more)
    assert run_.source == "runs"
    assert len(run_.records) == 6
    assert Archive(own=False).find(config, more) is None
    # A second publication adds to the first.
    publish([run_])
    assert Archive(own=False).find(config, more).source == "published"


def test_measures_stand_in_the_last_row_of_a_run(tiny, published):  # noqa: F811
    small = {"width": 4, "epochs": 1, "batch": 20}
    config = configure("digits-binary", method="tune", **small)
    (found,) = study.study([config], workers=1, evaluations=(Predictions(),))
    frame = generations([found])
    columns = ["balanced_accuracy", "sensitivity", "specificity"]
    assert frame[columns].isna().all(axis=1).tolist() == [True, True, False]
    result = found.records[-1]["result"]
    oracle = 100 * metrics.balanced_accuracy_score(result["labels"], result["predicted"])
    assert frame["balanced_accuracy"].iloc[-1] == pytest.approx(oracle)
    assert frame[["mca", "pgd"]].isna().all(axis=None)
    said = reproduce(Parameters("digits-binary", exhibit="table8"), "table8", [found]).data
    assert "their training and evaluation took" in said
    assert f"\n{study.command([config], found.evaluations)}\n" in said
    assert " --evaluate " in study.command([config], found.evaluations)
    # What the page of the ledger takes.
    assert find_evaluated(config, Archive()).evaluations == (Predictions(),)
    assert (
        find_evaluated(configure("digits-binary", method="tune", seed=1, **small), Archive())
        is None
    )


def test_the_ledger_takes_the_evaluations_that_there_are(tiny, published):  # noqa: F811
    small = {"width": 4, "epochs": 1, "batch": 20, "per_class": 2}
    config = configure("digits-colour", method="plain", **small)
    run(config)
    assert find_evaluated(config, Archive()).evaluations == ()
    chosen = evaluations_of("fig5", "digits-colour")[:1]
    few = dataclasses.replace(chosen[0], per_class=1)
    run(config, evaluations=[few])
    assert find_evaluated(config, Archive()).evaluations == (), "not one of an exhibit"
    links = chain(config)
    record = Archive().find(config, [few]).records[-1]
    key = links[-1].evaluated(chosen[0]).key
    record = record | {"key": key, "evaluation": canonical(chosen[0])}
    records.save(records.runs_root() / links[-1].key / f"evaluation-{key}.json", record)
    assert find_evaluated(config, Archive()).evaluations == chosen


@pytest.mark.parametrize(
    ("exhibit", "chosen", "words"),
    [
        ("fig5", None, "--exhibit fig5"),
        ("fig6", None, "--exhibit fig6"),
        ("fig5", ["dnr", "long"], "--method dnr --method long --evaluate fig5"),
        ("normalisation", None, "--exhibit normalisation"),
        ("normalisation", ["ke"], "--method ke --evaluate normalisation"),
        ("fig6", ["dnr"], "--method dnr --evaluate fig6"),
        ("fig7", None, "--exhibit fig7"),
        ("table8", ["ke"], "--method ke --evaluate"),
    ],
)
def test_the_command_trains_and_evaluates_what_is_missing(exhibit, chosen, words, monkeypatch):
    """Read as the command line reads it."""
    asked = []

    def noted(configs, evaluations=(), **how):
        asked.append((configs, evaluations))
        raise UserError("enough")

    dataset = ANALOGUE[exhibit]
    configs = grid(dataset, chosen or arms(exhibit, dataset), 2)
    wanted = evaluations_of(exhibit, dataset)
    command = study.command(configs, wanted)
    assert words in command
    assert ("--method" in command) == (chosen is not None)
    monkeypatch.setattr(study, "study", noted)
    cli.main(command.split()[1:])
    assert asked == [(configs, wanted)]


def test_exhibits_bring_their_bundled_dataset(monkeypatch, capsys):
    asked = []

    def noted(configs, evaluations=(), **how):
        asked.append(({config.dataset for config in configs}, evaluations))
        raise UserError("enough")

    monkeypatch.setattr(study, "study", noted)
    for words in (
        "--exhibit fig7",
        "--method dnr --evaluate fig6",
        "--exhibit fig5 --evaluate fig6",
        "--exhibit fig7 --dataset digits",
        "--exhibit table1",
        "--method dnr",
    ):
        assert cli.main(["study", *words.split()]) == 1
    colour = "digits-colour"
    both = (*evaluations_of("fig5", colour), *evaluations_of("fig6", colour))
    assert asked == [
        ({"digits-imbalanced"}, (Predictions(),)),
        ({colour}, evaluations_of("fig6", colour)),
        ({colour}, both),
        ({"digits"}, (Predictions(),)),
        *[({"digits"}, ())] * 2,
    ]
    capsys.readouterr()
    assert cli.main(["study", "--exhibit", "fig5", "--exhibit", "fig7"]) == 1
    said = "fig5, fig7 have different datasets (digits-colour, digits-imbalanced); study them one"
    assert said in capsys.readouterr().err
    assert len(asked) == 6


def test_a_study_prints_what_its_evaluations_found(capsys):
    words = "study --method plain+epochs=1+width=4 --evaluate table8 --seeds 1 --workers 1"
    assert cli.main(words.split()) == 0
    said = capsys.readouterr().out
    for column in ("test_accuracy", "balanced_accuracy", "sensitivity", "specificity"):
        assert f": {column} in %\n" in said
    assert "mca in %" not in said


def test_a_study_that_is_missing_evaluations_names_the_command(tiny, published, capsys):  # noqa: F811
    configs = grid("digits-binary", ["dnr"], 1)
    assert study.study(configs, train=False, evaluations=(Predictions(),)) == []
    said = capsys.readouterr().out
    assert "dnr study --dataset digits-binary --method dnr --evaluate" in said


def test_agreement_is_of_the_evaluations_too(tiny, published, tmp_path):  # noqa: F811
    configs = [tiny(method="plain", seed=seed) for seed in (0, 1)]
    shown = study.study(configs, workers=1, runs=tmp_path / "elsewhere", evaluations=BOTH)
    publish(shown)
    study.study(configs, published=False, workers=1)
    assert agreement(shown).startswith("None of these runs"), "they were not evaluated here"
    study.study(configs, published=False, workers=1, evaluations=BOTH)
    assert "compared bit for bit, all agree" in agreement(shown)
    link = chain(configs[0])[-1]
    path = records.runs_root() / link.key / f"evaluation-{link.evaluated(BOTH[0]).key}.json"
    record = records.read(path)
    record["result"]["predicted"][0] += 1
    records.save(path, record)
    assert "compared bit for bit, 1 DIFFER" in agreement(shown)


# --------------------------------------------------------------------------------------------------
# Patients


@pytest.fixture
def papila(small):
    tree = small("papila")
    official.prepare("papila", tree.root)
    return tree


def test_papila_without_suspects(papila):
    """Of each pool what is left are the certain eyes, in their order, each with its patient."""
    whole, certain = catalogue.dataset("papila"), catalogue.dataset("papila-binary")
    assert whole.classes == ("healthy", "glaucoma", "suspect")
    assert certain.classes == ("healthy", "glaucoma")
    groups, pools, all_groups = certain.groups(), certain.pools(), whole.groups()
    for pool, split in pools.items():
        eyes = [
            (patient, label, image)
            for patient, label, image in zip(
                all_groups[pool],
                whole.pools()[pool].labels.tolist(),
                whole.pools()[pool].images,
                strict=True,
            )
            if label != 2
        ]
        assert groups[pool] == [patient for patient, _, _ in eyes]
        assert split.labels.tolist() == [label for _, label, _ in eyes]
        assert all(torch.equal(a, b) for a, (*_, b) in zip(split.images, eyes, strict=True))
        assert set(split.labels.tolist()) == {0, 1}
        for patient, label in zip(groups[pool], split.labels.tolist(), strict=True):
            assert label in trees.PAPILA_EYES[patient]
    for a, b in itertools.combinations(groups.values(), 2):
        assert not set(a) & set(b)
    certain_eyes = [eye for eyes in trees.PAPILA_EYES.values() for eye in eyes if eye != 2]
    assert sum(len(split) for split in pools.values()) == len(certain_eyes)
    # One eye of a patient may be certain: 020 to 023 and 034 have one or two.
    assert "034" in groups["tuning"]
    assert groups["tuning"].count("034") == 1


def test_papila_binary_is_got_as_papila():
    with pytest.raises(UserError, match=r"'papila-binary' is not on .*dnr data prepare papila$"):
        configure("papila-binary")
    with pytest.raises(UserError, match=r"'cifar10-imbalanced' is not .* prepare cifar10$"):
        configure("cifar10-imbalanced")


@pytest.mark.parametrize("name", ["papila", "papila-binary"])
def test_patients_come_with_the_predictions(name, papila, published):  # noqa: F811
    small = {"model": "resnet18", "width": 4, "epochs": 1, "batch": 12, "generations": 2}
    configs = [
        configure(name, method=method, augment="none", **small) for method in ("plain", "tune")
    ]
    found = study.study(configs, workers=1, evaluations=(Predictions(),))
    result = found[0].records[-1]["result"]
    assert result["groups"] == catalogue.dataset(name).groups()["test"]
    assert len(result["groups"]) == len(result["labels"]) == len(result["predicted"])
    assert len(set(result["groups"])) < len(result["groups"])
    assert generations(found)["sensitivity"].notna().sum() == 2
    row = clinical_frame(found).iloc[0]
    assert row["images"] == len(result["groups"])
    assert row["patients"] == len(set(result["groups"]))
