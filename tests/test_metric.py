"""Metric learning: the triplet loss, batches by class, unseen classes, what embeddings find."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

from dnrlib import UserError, run
from dnrlib.compare.export import export
from dnrlib.datasets import catalogue
from dnrlib.datasets.augment import Training, by_class
from dnrlib.datasets.catalogue import load, read
from dnrlib.datasets.splits import Dataset, Split, held_out
from dnrlib.evaluate import retrieval
from dnrlib.evaluate.evaluations import Predictions, Retrieval
from dnrlib.frames import generations
from dnrlib.losses import Triplet
from dnrlib.models import build
from dnrlib.recipes import configure
from dnrlib.rules import Parent, Snip
from dnrlib.study import Run

SMALL = {"width": 4, "epochs": 2, "generations": 2, "per_class": 10}


def metric(**settings):
    return configure("digits-metric", **(SMALL | settings))


def embeddings(labels, seed=0, length=3):
    """Random rows of any length, some of them equal."""
    drawn = np.random.default_rng(seed).normal(size=(len(labels), length))
    drawn[1] = drawn[0]
    return torch.tensor(drawn)


def test_triplet_loss_by_hand():
    """On the circle, at 0, 60 and 90 degrees: D = 1, sqrt 2 and 0.5176. Anchor 0 with positive 1
    has the negative 2 at sqrt 2: too far for a margin of 0.2, semi-hard for one of 0.5. Anchor 1
    has it nearer than its positive: too hard."""
    angles = torch.tensor([0.0, 60.0, 90.0], dtype=torch.float64).deg2rad()
    # Embeddings get length 1 in the loss.
    given = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[3.0], [0.5], [1.0]])
    labels = torch.tensor([7, 7, 4])
    assert Triplet().of(given, labels) == 0
    assert Triplet(0.5).of(given, labels).item() == pytest.approx(1.5 - 2**0.5, rel=1e-12)


@pytest.mark.parametrize("margin", [0.2, 0.9])
def test_triplet_loss_is_the_mean_over_semi_hard_triplets(margin):
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 1])
    given = embeddings(labels)
    unit = given.numpy() / np.linalg.norm(given, axis=1, keepdims=True)
    found = []
    for a, p, n in itertools.product(range(len(labels)), repeat=3):
        if a != p and labels[a] == labels[p] != labels[n]:
            near, far = (np.linalg.norm(unit[a] - unit[other]) for other in (p, n))
            if near < far < near + margin:
                found.append(near - far + margin)
    assert 2 < len(found) < 60
    loss = Triplet(margin).of(given, torch.tensor(labels))
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(np.mean(found), rel=1e-12)


def test_the_triplet_loss_of_bfloat16_is_computed_in_float32():
    given, labels = embeddings(range(6)).bfloat16(), torch.arange(6) // 2
    found = Triplet(0.9).of(given, labels)
    assert found.dtype == torch.float32
    assert found == Triplet(0.9).of(given.float(), labels) > 0


def test_gradients_of_equal_images_and_of_no_triplet_are_numbers():
    given = embeddings(range(4)).requires_grad_()
    Triplet(2.0).of(given, torch.tensor([0, 0, 1, 1])).backward()
    assert given.grad.isfinite().all()
    assert given.grad.abs().sum() > 0
    given.grad = None
    Triplet().of(given, torch.tensor([0, 1, 2, 3])).backward()
    assert (given.grad == 0).all()


def test_recall_is_that_of_nearest_neighbours():
    labels = np.random.default_rng(1).integers(0, 4, 60)
    given = nn.functional.normalize(embeddings(labels, length=5))
    _, found = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(given).kneighbors(given)
    own, other, before = retrieval.nearest(given, torch.tensor(labels))
    for k in (1, 4):
        # The image itself is among the neighbours, not always first: two are equal.
        near = [[n for n in row if n != at][:k] for at, row in enumerate(found)]
        hits = [any(labels[near[at]] == labels[at]) for at in range(len(labels))]
        ties = {0, 1} if labels[0] != labels[1] else set()
        kept = [at for at in range(len(labels)) if at not in ties]
        assert [bool(before[at] < k) for at in kept] == [hits[at] for at in kept]
    distance = torch.cdist(given, given)
    for at in range(len(labels)):
        same = torch.tensor(labels == labels[at])
        assert other[at] == pytest.approx(distance[at][~same].min().item(), abs=1e-6)
        same[at] = False
        assert own[at] == pytest.approx(distance[at][same].min().item(), abs=1e-6)


def test_recall_of_many_images_is_that_of_all_at_once(monkeypatch):
    """They are searched in parts."""
    labels = torch.arange(1200) % 7
    given = nn.functional.normalize(torch.randn(1200, 4, generator=torch.Generator()))
    before = retrieval.nearest(given, labels)[2]
    last = retrieval.nearest(given.flip(0), labels.flip(0))[2].flip(0)
    assert torch.equal(before, last)
    assert 0 < retrieval.recall(before, 1) < retrieval.recall(before, 4) < 100


def test_an_image_alone_in_its_class_is_never_found():
    given = nn.functional.normalize(embeddings(range(5)))
    before = retrieval.nearest(given, torch.tensor([0, 0, 1, 1, 2]))[2]
    assert before[4] == 4
    assert before[0] == 0


def test_mutual_information_is_that_of_the_counts():
    """Two far apart clusters and three classes: 4 + 2 images, and 3; I / sqrt(H H) by hand."""
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    far = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    given = torch.tensor(np.eye(2)[far]) + 1e-3 * torch.randn(9, 2, generator=torch.Generator())
    given[4:6] += torch.tensor([0.5, 0])  # as many clusters as classes: three
    assert retrieval.mutual_information(given, torch.tensor(labels)) == pytest.approx(100)
    given[4:6] -= torch.tensor([0.5, 0])
    given[8] += torch.tensor([0.5, 0])  # now the second class is with the first
    shares = np.array([[4, 0, 0], [2, 0, 0], [0, 2, 1]]) / 9
    rows, columns = shares.sum(1), shares.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.nansum(shares * np.log(shares / np.outer(rows, columns)))
    entropies = [-(p * np.log(p)).sum() for p in (rows, columns)]
    expected = 100 * information / np.sqrt(np.prod(entropies))
    found = retrieval.mutual_information(given, torch.tensor(labels))
    assert found == pytest.approx(expected)


def test_batches_by_class_have_as_many_images_of_each():
    split = Split(torch.arange(46).view(-1, 1, 1, 1), torch.tensor([0, 1, 2] * 15 + [7]))
    seen = list(by_class(split, 10, 5, torch.Generator().manual_seed(1)))
    assert len(seen) == 5
    for images, labels in seen:
        assert len(set(labels.tolist())) == 2
        for label in labels.unique():
            of = images[labels == label].flatten().tolist()
            # The last class has a single image.
            assert len(set(of)) == len(of) == (1 if label == 7 else 5)
            assert all(split.labels[number] == label for number in of)
    assert len({labels.unique().numpy().tobytes() for _, labels in seen}) > 1
    # A batch of one class would have no negatives.
    assert all(len(labels.unique()) == 2 for _, labels in by_class(split, 5, 5, torch.Generator()))


def test_a_training_has_batches_by_class_of_its_own_seed():
    config = metric(augment="none")
    data = load(config)
    one, same, other = (Training(data, config, g, grouped=5) for g in (1, 1, 2))
    for (a, labels), (b, _), (c, _) in zip(one, same, other, strict=True):
        assert torch.bincount(labels).tolist() == [5] * 5
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_held_out_classes_are_trained_on_by_nobody():
    """By labels, and all images of a class but those for tuning are there."""
    whole, part = read("digits"), read("digits-metric")
    assert {name: set(split.labels.tolist()) for name, split in part.items()} == {
        "train": set(range(5)),
        "test": set(range(5, 10)),
        "tuning": set(range(5, 10)),
    }

    def images(*splits):
        return sorted(image.tobytes() for split in splits for image in split.images.numpy())

    both = images(whole["train"], whole["test"])
    assert images(part["train"], part["test"]) == both
    later = whole["tuning"].labels >= 5
    assert images(part["tuning"]) == images(whole["tuning"][later])
    assert not set(images(part["test"])) & set(images(part["tuning"]))


def test_a_dataset_without_tuning_images_is_split_too():
    split = Split(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 4, 0]))
    about = Dataset(
        "five",
        tuple("abcde"),
        1,
        2,
        (0,),
        (1,),
        "",
        lambda: dict.fromkeys(("train", "test"), split),
    )
    pools = held_out(about).pools()
    assert {name: part.labels.tolist() for name, part in pools.items()} == {
        "train": 2 * [0, 1, 0],
        "test": 2 * [2, 3, 4],
    }


def test_the_paper_s_sets_have_the_view(monkeypatch):
    about = replace(catalogue.dataset("digits"), title="CUB")
    monkeypatch.setattr(catalogue.official, "dataset", lambda name: about)
    for name in ("cub200-metric", "cars196-metric", "flower102-64-metric"):
        assert catalogue.dataset(name).unseen
        assert configure(name).batch == 125
    assert not catalogue.dataset("cub200").unseen


def test_saliency_is_of_the_loss_that_embeddings_are_trained_with():
    config = metric(augment="none", probe=1.0, batch=50)
    data, model = load(config), build(config).double()
    parent = Parent(model, data, config, 1)
    ((images, labels),) = parent.probe(1.0)
    batch = [(images.double(), labels)]
    parent = replace(parent)
    object.__setattr__(parent, "probe", lambda size: batch)
    found = Snip(1.0).scores(parent)["fc.weight"]
    model.eval()
    loss = Triplet().of(model(batch[0][0]), labels)
    (gradient,) = torch.autograd.grad(loss, model.fc.weight)
    expected = (model.fc.weight * gradient).abs()
    assert expected.sum() > 0
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", ["ke", "dnr"])
def test_a_run_of_embeddings_is_measured_by_what_they_find(method, tmp_path):
    config = metric(method=method)
    found = run.run(config, tmp_path, evaluations=(Retrieval(),))
    last = [record["result"] for record in found if record["kind"] == "generation"][-1]
    measured = found[-1]["result"]
    assert measured["dense"]["recall_1"] == pytest.approx(last["test_accuracy"])
    assert measured["dense"]["recall_4"] > last["test_accuracy"] > 20
    assert 0 < measured["dense"]["nmi"] < 100
    row = generations([Run(config, found, "runs")]).iloc[-1]
    assert row["nmi"] == measured["dense"]["nmi"]
    masked = [record["result"] for record in found if record["kind"] == "mask"][-1]
    assert ("slim" in measured) == (method == "ke")
    if method == "ke":
        # The slim network is the dense one with its mask.
        assert row["slim_recall_1"] == pytest.approx(masked["masked_accuracy"], abs=1)
    model = run.finished(config, runs=tmp_path).model
    assert model.fc.weight.shape[0] == 128


def test_what_has_no_meaning_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not fit 'digits'"):
        configure("digits", loss="triplet")
    with pytest.raises(UserError, match="does not fit 'digits-metric'"):
        metric(loss="labels")
    for settings in ({"method": "ban"}, {"method": "ensemble"}, {"criterion": "fisher"}):
        (named,) = settings.values()
        with pytest.raises(UserError, match=f"^{named} needs an output per class"):
            metric(**settings)
    about = catalogue.dataset("digits-metric")
    with pytest.raises(UserError, match="name no classes"):
        Predictions().check(about)
    Retrieval().check(about)
    with pytest.raises(UserError, match="no unseen classes"):
        Retrieval().check(catalogue.dataset("digits"))
    with pytest.raises(UserError, match="names no classes"):
        export(metric(method="plain"), tmp_path / "model.pt")
