"""What only a mutant asked for; each test here catches one of `tests/mutations.py`."""

import pytest
import torch
from torch import nn

from dnrlib import masks, methods, models, records, rules, run, train
from dnrlib.datasets import augment, catalogue
from dnrlib.datasets.augment import Training, normalised
from dnrlib.datasets.catalogue import load
from dnrlib.models import build
from dnrlib.recipes import parse_arm
from dnrlib.records import DamagedFile
from dnrlib.rules import Kels, Parent
from dnrlib.run import Walk, chain
from dnrlib.store import Store
from dnrlib.streams import stream


def test_every_generation_trains_like_a_plain_loop_written_by_hand(tiny, monkeypatch):
    """Two generations of four full-batch steps: normalisation, smoothed labels, batch statistics,
    L2 penalty, and momentum and cosine schedule that both start anew.

    In float64, because in float32 another order of summation moves an activation over the kink of
    its ReLU now and then, and two correct loops drift apart.
    """
    monkeypatch.setattr(augment, "normalised", lambda *given: normalised(*given).double())
    config = tiny(epochs=1, batch=40, lr=0.05, weight_decay=0.05, augment="none", smoothing=0.2)
    images = load(config)
    inputs = (images.train.images.double() / 255 - 0.196) / 0.335
    target = torch.full((40, 10), 0.2 / 10, dtype=torch.float64)
    target[torch.arange(40), images.train.labels] += 0.8
    trained, by_hand = build(config).double(), build(config).double()
    for generation in (1, 2):
        curve = []
        velocity = [torch.zeros_like(weight) for weight in by_hand.parameters()]
        for rate in (0.05, 0.0426777, 0.025, 0.0073223):
            by_hand.train()
            loss = -(target * by_hand(inputs).log_softmax(1)).sum(1).mean()
            by_hand.zero_grad()
            loss.backward()
            curve.append(loss.item())
            with torch.no_grad():
                for weight, speed in zip(by_hand.parameters(), velocity, strict=True):
                    speed.mul_(0.9).add_(weight.grad + 0.05 * weight)
                    weight -= rate * speed
        found = train.train(trained, Training(images, config, generation), 4, config)
        assert found["curve"] == pytest.approx(curve, rel=1e-5)
        for name, value in by_hand.state_dict().items():
            torch.testing.assert_close(
                trained.state_dict()[name], value, rtol=1e-4, atol=1e-4, msg=name
            )


@pytest.mark.parametrize(
    ("arm", "of_masks"),
    [
        ("dnr", ["probe", "probe-1"]),
        ("dnr+criterion=random", ["chance", "chance-1"]),
        ("dnr-released", ["probe"]),
        ("dnr-matched", ["probe", "mask"]),
        ("ke-wels-rand", ["mask"]),
        ("llf", []),
        ("shrink-perturb", []),
    ],
)
def test_every_draw_of_a_run_has_a_stream_of_its_own(tiny, monkeypatch, arm, of_masks):
    """By the seed, the generation that it is for, and its purpose."""
    opened = []

    def named(*names):
        opened.append(names)
        return stream(*names)

    for module in (augment, catalogue, methods, models, rules):
        monkeypatch.setattr(module, "stream", named)
    run.run(tiny(**parse_arm(arm), generations=2, seed=7))
    expected = {(7, 0, "split"), (7, 0, "birth"), (7, 2, "fill")}
    expected |= {(7, number, what) for number in (1, 2) for what in ("order", "augment", *of_masks)}
    assert set(opened) == expected
    assert len(opened) == len(expected), "no stream is begun twice"


def test_kels_rounds_up_and_keeps_all_colours_and_all_classes(tiny):
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 7, 1), nn.Linear(7, 10))
    mask, _ = Kels(0.5).mask(Parent(model, load(tiny()), tiny(), 1))
    counts = {name: (values.any(1).sum(), values.any(0).sum()) for name, values in mask.items()}
    assert counts == {"0.weight": (3, 3), "1.weight": (4, 3), "2.weight": (10, 4)}


def test_kels_of_55_percent_of_100_filters_keeps_55(tiny):
    """0.55 * 100 is 55.00000000000001 in floating point."""
    model = nn.Sequential(nn.Conv2d(3, 100, 1), nn.Linear(100, 10))
    mask, _ = Kels(0.55).mask(Parent(model, load(tiny()), tiny(), 1))
    assert masks.count(mask) == {"0.weight": 55 * 3, "1.weight": 55 * 10}


def test_probe_is_augmented_like_the_training(tiny):
    config = tiny(augment="shift")
    parent = Parent(build(config), load(config), config, 1)
    train_images = normalised(parent.data.train.images, parent.data.dataset)
    given = {image.numpy().tobytes() for image in train_images}
    seen = [image for images, _ in parent.probe(1.0) for image in images]
    assert len(seen) == 40
    assert sum(image.numpy().tobytes() in given for image in seen) < 20


def test_each_child_is_born_of_its_own_parent_and_mask(tiny, monkeypatch):
    """And the mask after the last generation changes neither its weights nor its accuracy."""
    config = tiny(method="dnr", seed=2)
    born, grown = {}, {}
    original = train.train

    def watched(model, batches, epochs, **rest):
        generation = batches.generation
        born[generation] = {name: w.clone() for name, w in model.state_dict().items()}
        found = original(model, batches, epochs, **rest)
        grown[generation] = {name: w.clone() for name, w in model.state_dict().items()}
        return found

    monkeypatch.setattr(train, "train", watched)
    found = run.run(config)
    links = chain(config)
    walk = Walk(config, Store(), torch.device("cpu"))
    for link in links:
        path = records.runs_root() / link.key / "weights.pt"
        stored = torch.load(path, weights_only=True)
        assert all(torch.equal(stored[name], w) for name, w in grown[link.generation].items())
        if link.generation < 3:
            child = born[link.generation + 1]
            for name, kept in walk.store.mask(link.mask).items():
                assert torch.equal(child[name] == grown[link.generation][name], kept), name
    assert found[-2]["result"]["trace"] == [found[-2]["result"]["test_accuracy"]]


def test_a_mask_of_another_run_is_not_used(tiny):
    config, other = (tiny(method="dnr", generations=2, seed=seed) for seed in (0, 1))
    for one in (config, other):
        run.run(one)
    root = records.runs_root()
    mine, theirs = (next((root / chain(c)[0].key).glob("*.npz")) for c in (config, other))
    mine.write_bytes(theirs.read_bytes())
    (root / chain(config)[1].key / "record.json").unlink()
    with pytest.raises(DamagedFile, match="its bits are not those of its record"):
        run.run(config)
