"""Pools, splits, batches and augmentation."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from sklearn.datasets import load_digits, load_sample_images
from torchvision.transforms import CenterCrop, RandomResizedCrop
from torchvision.transforms.v2 import CutMix, TrivialAugmentWide

from dnrlib import UserError
from dnrlib.datasets import catalogue, digits, official
from dnrlib.datasets.augment import (
    AUGMENTATIONS,
    DISTORTED,
    Crop,
    ResizedCrop,
    Training,
    Trivial,
    batches,
    cut_mix,
    normalised,
    resize_batch,
    resize_each,
)
from dnrlib.datasets.catalogue import load, read
from dnrlib.datasets.digits import DATASETS
from dnrlib.datasets.splits import Split, power_law
from dnrlib.recipes import configure
from dnrlib.run import chain
from dnrlib.streams import stream

SEEN = [name for name, about in DATASETS.items() if not about.unseen]


@pytest.mark.parametrize("name", SEEN)
def test_pools_are_disjoint_and_whole(name):
    pools = read(name)
    dataset = DATASETS[name]
    assert {pool: len(split) for pool, split in pools.items()} == {
        "train": 797,
        "tuning": 300,
        "test": 700,
    }
    for pool, per_class in (("test", 70), ("tuning", 30)):
        of_class = [8 * per_class, 2 * per_class] if name == "digits-binary" else [per_class] * 10
        assert torch.bincount(pools[pool].labels).tolist() == of_class
    assert len(dataset.classes) == len(of_class)
    for split in pools.values():
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        assert split.images.shape[1:] == (dataset.channels, dataset.size, dataset.size)
    pixels = torch.cat([split.images.float() for split in pools.values()]) / 255
    for channel in range(dataset.channels):
        found = pixels[:, channel]
        assert found.mean().item() == pytest.approx(dataset.mean[channel], abs=0.01)
        assert found.std().item() == pytest.approx(dataset.std[channel], abs=0.01)


def test_no_image_is_in_two_pools_in_any_variant():
    """By number of the original image: the variants of a test image are test images too."""
    index = digits._digit_pools()
    for a, b in itertools.combinations(index.values(), 2):
        assert not set(a) & set(b)
    assert sorted(np.concatenate(list(index.values()))) == list(range(1797))
    raw = load_digits()
    for name in SEEN:
        for pool, split in read(name).items():
            labels = raw.target[index[pool]]
            if name == "digits-binary":
                labels = (labels >= 8).astype(int)
            assert split.labels.tolist() == labels.tolist(), name


def test_digits_are_those_of_scikit_learn():
    raw = load_digits().images[digits._digit_pools()["test"][:50]]
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


def test_power_law_of_the_imbalanced_sets():
    """The numbers of D48, which the paper's formula gives."""
    law = power_law(5000, 250, 10)
    assert law == (5000, 1607, 957, 682, 529, 433, 366, 317, 280, 250)
    assert sum(law) == 10_421
    assert power_law(60, 3, 10) == (60, 19, 11, 8, 6, 5, 4, 4, 3, 3)
    # a / (b + c) with b = 0: a share of the first each.
    assert power_law(60, 6, 10) == (60, 30, 20, 15, 12, 10, 9, 8, 7, 6)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("digits-imbalanced", [60, 19, 11, 8, 6, 5, 4, 4, 3, 3]), ("digits-binary", [80, 20])],
)
def test_classes_of_unequal_size_are_drawn_by_seed(name, counts):
    def keys(split, label=None):
        chosen = split.images if label is None else split.images[split.labels == label]
        return {image.numpy().tobytes() for image in chosen}

    splits = [load(configure(name, seed=seed)) for seed in (0, 0, 1, 2)]
    for split in splits:
        assert torch.bincount(split.train.labels).tolist() == counts
        assert len(keys(split.train)) == sum(counts)
        assert keys(split.train) <= keys(read(name)["train"])
        # Only training images are fewer.
        assert len(split.evaluation) == 700
    assert torch.equal(splits[0].train.images, splits[1].train.images)
    for a, b in itertools.combinations(splits[1:], 2):
        # A class of 60 may not differ in all, but the small ones are others.
        assert keys(a.train, 1) != keys(b.train, 1)
    equal = load(configure(name, per_class=2)).train
    assert torch.bincount(equal.labels).tolist() == [2] * len(counts)


def test_late_digits_are_the_digits_8_and_9():
    binary, ten = read("digits-binary"), read("digits")
    for pool in ten:
        assert torch.equal(binary[pool].images, ten[pool].images)
        assert binary[pool].labels.tolist() == [int(n in (8, 9)) for n in ten[pool].labels.tolist()]


def test_coloured_digits_are_one_colour_on_another():
    """Each pixel lies on the line from paper to ink, where the grey digit says; both depend on the
    number of the image, and ink is the brighter one."""
    colour, grey = read("digits-colour")["test"].images, read("digits-32")["test"].images
    colours = set()
    for image, shade in zip(colour[::20].float(), grey[::20, 0].float() / 255, strict=True):
        paper = image[:, 0, 0]
        at = int(shade.flatten().argmax())
        ink = paper + (image.flatten(1)[:, at] - paper) / shade.flatten()[at]
        expected = paper[:, None, None] + shade * (ink - paper)[:, None, None]
        assert (image - expected).abs().max() <= 1.5
        assert (paper <= 110).all()
        assert (ink >= 144).all()
        colours |= {(*paper.tolist(), *ink.round().tolist())}
    assert len(colours) == 35


def test_imbalanced_cifar10_has_the_test_images_of_the_whole(small, monkeypatch):
    """At a size that fits: three classes of three training images, 3, 2 and 1 of them drawn."""
    tree = small("cifar10")
    official.prepare("cifar10", tree.root)
    assert (catalogue.CIFAR10_COUNTS[0], catalogue.CIFAR10_COUNTS[-1]) == (5000, 250)
    assert sum(catalogue.CIFAR10_COUNTS) == 10_421
    view = functools.partial(catalogue._imbalanced, counts=(3, 2, 1))
    monkeypatch.setitem(catalogue.VIEWS, "cifar10-imbalanced", ("cifar10", view))
    catalogue._read.cache_clear()
    whole = load(configure("cifar10"))
    few = [load(configure("cifar10-imbalanced", seed=seed)) for seed in range(4)]
    assert len(whole.train) == 9
    for split in few:
        assert torch.bincount(split.train.labels).tolist() == [3, 2, 1]
        assert torch.equal(split.evaluation.images, whole.evaluation.images)
        assert torch.equal(split.evaluation.labels, whole.evaluation.labels)
    chosen = {tuple(split.train.images[-1].flatten()[:9].tolist()) for split in few}
    assert len(chosen) > 1
    assert few[0].dataset.fingerprint == whole.dataset.fingerprint
    keys = [chain(configure(name))[0].key for name in ("cifar10", "cifar10-imbalanced")]
    assert keys[0] != keys[1]
    catalogue._read.cache_clear()


def test_all_images_and_either_pool_can_be_asked_for():
    every = load(configure("digits", per_class=0, pool="tuning"))
    assert len(every.train) == 797
    assert torch.equal(every.evaluation.images, read("digits")["tuning"].images)
    with pytest.raises(UserError, match="more than the 74 training images of the smallest class"):
        load(configure("digits", per_class=75))


def test_changed_images_are_refused(monkeypatch):
    original = digits._raw_digits()

    def other():
        images = original[0].copy()
        images[5, 3, 3] ^= 1
        return images, original[1]

    monkeypatch.setattr(digits, "_raw_digits", other)
    catalogue._read.cache_clear()
    with pytest.raises(
        UserError, match=r"the images of 'digits' have fingerprint .*pinned versions"
    ):
        read("digits")
    catalogue._read.cache_clear()


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
    assert once.shape[2:] == ((8, 8) if "resized" in name else images.shape[2:])
    assert once.dtype == torch.uint8
    assert torch.equal(once, again)
    assert torch.equal(once, other) is (name == "none")


@pytest.mark.parametrize("name", sorted({*AUGMENTATIONS} - {"none", *DISTORTED.values()}))
def test_every_augmentation_has_a_distorted_one_with_the_same_crop(name):
    assert AUGMENTATIONS[DISTORTED[name]].crop == AUGMENTATIONS[name]


def test_digits_are_moved_by_at_most_two_pixels():
    """As the note in `data/paper/claims.csv` says."""
    image = torch.arange(100, dtype=torch.uint8).view(1, 10, 10)
    right, down = AUGMENTATIONS["trivial-shift"].operations()[3:5]
    assert torch.equal(right(image, 1.0)[:, :, 2:], image[:, :, :-2])
    assert torch.equal(down(image, 1.0)[:, 2:], image[:, :-2])


def test_trivial_augment_is_torchvisions():
    """Operation by operation and strength by strength. Ours has the strengths in double precision,
    which moves a few pixels by one grey level; translations and thresholds that it would move by a
    whole pixel or grey level are passed over."""
    oracle, (image,) = TrivialAugmentWide(), photographs(1)
    space, ours = oracle._AUGMENTATION_SPACE, Trivial(Crop(0, flip=False)).operations()
    assert len(space) == len(ours)
    for (name, (strengths, signed)), operation in zip(space.items(), ours, strict=True):
        listed = strengths(31, 256, 256)
        for number, sign in itertools.product(range(31), (1, -1)):
            strength = 0.0 if listed is None else float(listed[number])
            if name.startswith("Translate") and int(strength) != int(32 * (number / 30)):
                continue
            if name == "Solarize" and np.ceil(255 * strength) != np.ceil(255 * (1 - number / 30)):
                continue
            theirs = oracle._apply_image_or_video_transform(
                image,
                name,
                sign * strength if signed else strength,
                oracle.interpolation,
                oracle._fill,
            )
            away = (operation(image, sign * number / 30).int() - theirs.int()).abs()
            assert away.max() <= 1, (name, number)
            assert (away > 0).float().mean() < 0.1, (name, number)


def test_trivial_augment_draws_every_operation_and_strength_alike(monkeypatch):
    drawn = []
    recorded = [lambda image, s, n=n: drawn.append((n, s)) or image for n in range(14)]
    monkeypatch.setattr(Trivial, "operations", lambda self: recorded)
    images = torch.zeros(6000, 1, 2, 2, dtype=torch.uint8)
    Trivial(Crop(0, flip=False))(images, stream(0, 0, "test"))
    numbers, strengths = zip(*drawn, strict=True)
    assert np.bincount(numbers) / 6000 == pytest.approx(1 / 14, abs=0.02)
    signed, counts = np.unique(np.round(30 * np.array(strengths)), return_counts=True)
    assert signed.tolist() == list(range(-30, 31))
    assert counts[signed != 0] / 6000 == pytest.approx(1 / 62, abs=0.01)


def test_cut_mix_is_torchvisions(monkeypatch):
    """The same boxes give the same images and labels, at any size and place."""
    images, labels = torch.rand(5, 3, 12, 8), torch.arange(5)
    shares = []
    for seed in range(200):
        mixed, named = cut_mix(images, labels, 6, stream(seed, 0, "test"))
        share = named[0, 4].item()
        inside = (mixed != images).any(1)[0].nonzero()
        box = [0, 0, 0, 0]
        if len(inside):
            (top, left), (bottom, right) = inside.amin(0), inside.amax(0) + 1
            box = left, top, right, bottom
        oracle = CutMix(num_classes=6)
        given = {"box": box, "lam_adjusted": 1 - share, "batch_size": 5, "labels": labels}
        torch.testing.assert_close(oracle.transform(images, given), mixed, rtol=0, atol=0)
        torch.testing.assert_close(oracle._mixup_label(labels, lam=1 - share), named)
        assert share == pytest.approx(len(inside) / 96)
        shares.append(share)
    assert min(shares) == 0 or min(shares) < 0.01
    # A box in the middle covers a uniform share; those that reach over an edge cover less.
    assert 0.2 < np.mean(shares) < 0.4
    assert max(shares) > 0.7


def test_mixed_images_are_trained_on_with_mixed_labels():
    config = configure("digits", augment="none")
    data = load(config)
    plain, mixed = (list(Training(data, config, 1, mix)) for mix in (False, True))
    for (images, labels), (changed, named) in zip(plain, mixed, strict=True):
        assert changed.shape == images.shape
        assert named.sum(1).tolist() == pytest.approx(len(labels) * [1.0])
        assert torch.equal(named.gather(1, labels[:, None])[:, 0] > 0, torch.ones(50) > 0)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 1.0])
def test_wrong_labels_are_an_exact_share_of_the_training_images(share):
    clean, noisy = (load(configure("digits", noise=noise, seed=3)) for noise in (0.0, share))
    assert torch.equal(clean.train.images, noisy.train.images)
    assert torch.equal(clean.evaluation.labels, noisy.evaluation.labels)
    wrong = clean.train.labels != noisy.train.labels
    assert int(wrong.sum()) == round(100 * share)
    assert set(noisy.train.labels.tolist()) <= set(range(10))
    again = load(configure("digits", noise=share, seed=3)).train.labels
    assert torch.equal(noisy.train.labels, again)
    if share == 1:
        away = (noisy.train.labels - clean.train.labels) % 10
        assert set(away.tolist()) == set(range(1, 10)), "every other class is drawn"


def test_what_has_arrived_is_the_first_part_of_each_class():
    whole = load(configure("digits-imbalanced"))
    half = whole.arrived(0.5)
    counts = torch.bincount(whole.train.labels)
    assert torch.equal(torch.bincount(half.train.labels), -(-counts // 2))
    for label in range(10):
        here, there = (d.train.images[d.train.labels == label] for d in (half, whole))
        assert torch.equal(here, there[: len(here)])
    assert whole.arrived(1) is whole
    assert torch.bincount(whole.arrived(1e-6).train.labels).tolist() == [1] * 10
    assert half.evaluation is whole.evaluation


def photographs(n):
    """Real photographs, 256 x 256 (uint8, n x 3 x 256 x 256, channels last in memory)."""
    resized = [
        np.asarray(Image.fromarray(photo).resize((256, 256), Image.Resampling.BILINEAR))
        for photo in load_sample_images().images
    ]
    return torch.from_numpy(np.stack([resized[i % 2] for i in range(n)])).permute(0, 3, 1, 2)


@pytest.mark.parametrize("resize", [resize_each, resize_batch])
def test_resized_crops_equal_pillows_within_one_grey_level(resize):
    images, draw = photographs(300), stream(0, 0, "test")
    boxes = ResizedCrop().boxes(300, 256, draw)
    flipped = torch.rand(300, generator=draw) < 0.5
    found = resize(images, boxes, flipped, 224)
    assert found.shape == (300, 3, 224, 224)
    for image, box, flip, one in zip(images, boxes.tolist(), flipped, found, strict=True):
        top, left, tall, wide = box
        part = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(
            (left, top, left + wide, top + tall)
        )
        wanted = np.array(part.resize((224, 224), Image.Resampling.BILINEAR))
        wanted = torch.from_numpy(wanted).permute(2, 0, 1)
        wanted = wanted.flip(2) if flip else wanted
        assert (one.int() - wanted.int()).abs().max() <= 1


def test_both_ways_to_resize_agree_on_noise_within_two_grey_levels():
    draw = stream(0, 0, "test")
    images = torch.randint(0, 256, (20, 3, 64, 64), dtype=torch.uint8, generator=draw)
    boxes, flipped = ResizedCrop().boxes(20, 64, draw), torch.arange(20) % 2 == 0
    each, batch = (resize(images, boxes, flipped, 56) for resize in (resize_each, resize_batch))
    assert (each.int() - batch.int()).abs().max() <= 2


def test_parts_are_distributed_as_torchvisions():
    """Kolmogorov-Smirnov on height, width, top and left of 4000 parts of each."""
    ours = ResizedCrop().boxes(4000, 256, stream(0, 0, "test"))
    image = torch.empty(1, 256, 256)
    torch.manual_seed(0)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(4000)]
    )
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 0.01
    assert ks_2samp(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > 0.01
    assert (ours >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= 256).all()


def test_a_part_that_never_fits_is_the_whole_image():
    boxes = ResizedCrop(area=(1.0, 1.0), ratio=(2.0, 2.0)).boxes(5, 32, stream(0, 0, "test"))
    assert boxes.tolist() == [[0, 0, 32, 32]] * 5


def test_every_image_of_a_batch_gets_a_part_of_its_own():
    """A transform of torchvision's, called on a batch, would draw one for all."""
    cropped = AUGMENTATIONS["resized-crop"](
        photographs(2)[:1].repeat(8, 1, 1, 1), stream(0, 0, "t")
    )
    assert len({one.numpy().tobytes() for one in cropped}) == 8


def test_without_the_flip_the_parts_are_the_same_and_none_is_mirrored():
    images = photographs(16)
    plain, mirrored = (
        AUGMENTATIONS[name](images, stream(0, 0, "t"))
        for name in ("resized-crop-no-flip", "resized-crop")
    )
    same = [torch.equal(a, b) for a, b in zip(plain, mirrored, strict=True)]
    flipped = [torch.equal(a.flip(2), b) for a, b in zip(plain, mirrored, strict=True)]
    assert 0 < sum(same) < 16
    assert sum(same) + sum(flipped) == 16


def test_of_larger_images_the_network_sees_the_centre():
    """As torchvision's CenterCrop: 16 pixels less on every side of 256."""
    images = photographs(2)
    about = dataclasses.replace(
        DATASETS["digits"], channels=3, size=224, mean=(0.0,) * 3, std=(1 / 255,) * 3
    )
    assert torch.equal(normalised(images, about).round(), CenterCrop(224)(images).float())


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
