"""Pools, splits, batches and augmentation."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dnrlib import UserError, data
from dnrlib.config import configure
from dnrlib.data import AUGMENTATIONS, DATASETS, Crop, Split, batches, load, normalised, read
from dnrlib.streams import stream


@pytest.mark.parametrize("name", DATASETS)
def test_pools_are_disjoint_and_whole(name):
    pools = read(name)
    dataset = DATASETS[name]
    assert {pool: len(split) for pool, split in pools.items()} == {
        "train": 797,
        "tuning": 300,
        "test": 700,
    }
    for pool, per_class in (("test", 70), ("tuning", 30)):
        assert (torch.bincount(pools[pool].labels) == per_class).all()
    for split in pools.values():
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == (1, dataset.size, dataset.size)
    pixels = torch.cat([split.images.float() for split in pools.values()]) / 255
    assert pixels.mean().item() == pytest.approx(dataset.mean[0], abs=0.01)
    assert pixels.std().item() == pytest.approx(dataset.std[0], abs=0.01)


def test_no_image_is_in_two_pools_in_any_variant():
    """By number of the original image: the variants of a test image are test images too."""
    index = data._digit_pools()
    for a, b in itertools.combinations(index.values(), 2):
        assert not set(a) & set(b)
    assert sorted(np.concatenate(list(index.values()))) == list(range(1797))
    raw = load_digits()
    for name in DATASETS:
        for pool, split in read(name).items():
            assert split.labels.tolist() == raw.target[index[pool]].tolist(), name


def test_digits_are_those_of_scikit_learn():
    raw = load_digits().images[data._digit_pools()["test"][:50]]
    images = read("digits")["test"].images[:50, 0]
    assert (images[:, 0] == 0).all()
    assert (images[:, :, -1] == 0).all()
    np.testing.assert_allclose(images[:, 1:9, 1:9].double().numpy() * 16 / 255, raw, atol=0.04)


def test_training_splits_follow_the_seed():
    def keys(split):
        return {image.numpy().tobytes() for image in split.images}

    splits = [load(configure("digits", seed=seed)).train for seed in (0, 0, 1)]
    assert torch.equal(splits[0].images, splits[1].images)
    assert keys(splits[0]) != keys(splits[2])
    pools = read("digits")
    for split in splits:
        assert (torch.bincount(split.labels) == 10).all()
        assert keys(split) <= keys(pools["train"])
        assert not keys(split) & (keys(pools["test"]) | keys(pools["tuning"]))


def test_all_images_and_either_pool_can_be_asked_for():
    every = load(configure("digits", per_class=0, pool="tuning"))
    assert len(every.train) == 797
    assert torch.equal(every.evaluation.images, read("digits")["tuning"].images)
    with pytest.raises(UserError, match="more than the 74 training images of the smallest class"):
        load(configure("digits", per_class=75))


def test_changed_images_are_refused(monkeypatch):
    original = data._raw_digits()

    def other():
        images = original[0].copy()
        images[5, 3, 3] ^= 1
        return images, original[1]

    monkeypatch.setattr(data, "_raw_digits", other)
    read.cache_clear()
    with pytest.raises(
        UserError, match=r"the images of 'digits' have fingerprint .*pinned versions"
    ):
        read("digits")
    read.cache_clear()


@pytest.mark.parametrize(("n", "size", "expected"), [(100, 50, [50, 50]), (100, 32, [25] * 4)])
def test_batches_are_of_equal_size(n, size, expected):
    split = Split(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.arange(n))
    assert [len(labels) for _, labels in batches(split, size)] == expected


@pytest.mark.parametrize(("n", "size"), [(1020, 32), (7, 3), (1, 50), (33, 32)])
def test_batches_hold_every_image_once_in_as_many_steps_as_a_loader(n, size):
    split = Split(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.arange(n))
    parts = [labels for _, labels in batches(split, size, stream(0, 1, "order"))]
    assert len(parts) == -(-n // size)
    assert max(map(len, parts)) <= size
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert sorted(torch.cat(parts).tolist()) == list(range(n))


def test_batches_are_shuffled_anew_every_epoch():
    split = Split(torch.zeros(50, 1, 2, 2, dtype=torch.uint8), torch.arange(50))
    order = stream(0, 1, "order")
    epochs = [torch.cat([labels for _, labels in batches(split, 20, order)]) for _ in range(2)]
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], torch.arange(50))


def test_shift_moves_each_image_by_its_own_draw():
    """Every result is one of the nine shifts of its image, and all nine occur about equally."""
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    moved = Crop(pad=1, flip=False)(image.repeat(900, 1, 1, 1), stream(0, 0, "test"))
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))[0, 0]
    shifts = [padded[y : y + 5, x : x + 5] for y in range(3) for x in range(3)]
    counts = [sum(torch.equal(one[0], shift) for one in moved) for shift in shifts]
    assert sum(counts) == 900
    assert min(counts) > 60


def test_flip_mirrors_half_of_the_images():
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    flipped = Crop(pad=0, flip=True)(image.repeat(400, 1, 1, 1), stream(0, 0, "test"))
    mirrored = sum(torch.equal(one, image[0].flip(-1)) for one in flipped)
    same = sum(torch.equal(one, image[0]) for one in flipped)
    assert mirrored + same == 400
    assert 150 < mirrored < 250


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_keeps_shape_and_type_and_follows_its_stream(name):
    images = read("digits")["train"].images[:20]
    once, again, other = (AUGMENTATIONS[name](images, stream(s, 1, "augment")) for s in (0, 0, 1))
    assert once.shape == images.shape
    assert once.dtype == torch.uint8
    assert torch.equal(once, again)
    assert torch.equal(once, other) is (name == "none")


def test_normalised_images_have_mean_0_and_deviation_1():
    pixels = normalised(read("digits")["train"].images, DATASETS["digits"])
    assert pixels.dtype == torch.float32
    assert pixels.mean().item() == pytest.approx(0, abs=0.02)
    assert pixels.std().item() == pytest.approx(1, abs=0.02)


def test_streams_depend_on_each_of_their_names():
    def first(*names):
        return torch.rand(3, generator=stream(*names)).tolist()

    base = first(0, 1, "order")
    assert base == first(0, 1, "order")
    assert base not in (first(1, 1, "order"), first(0, 2, "order"), first(0, 1, "augment"))
    assert first(1, 11, "x") != first(11, 1, "x")


def test_stream_draws_are_pinned():
    """Golden: a change here changes every result."""
    draws = torch.randint(0, 1000, (6,), generator=stream(0, 1, "order")).tolist()
    assert draws == [11, 440, 148, 190, 678, 906]
