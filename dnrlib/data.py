"""Datasets as resident uint8 tensors, splits that never share an image, augmentation in batches."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import UserError
from .streams import stream

if TYPE_CHECKING:
    from .config import Config


@dataclass(frozen=True)
class Split:
    """Images (uint8, n x channels x height x width) and labels (int64, n) on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> "Split":
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before its images are read."""

    title: str
    classes: tuple[str, ...]
    channels: int
    size: int
    """Height and width of an image in pixels."""
    mean: tuple[float, ...]
    """Per channel, of pixel values scaled to 0..1, for normalisation."""
    std: tuple[float, ...]
    fingerprint: str
    """Identity of images and pools; enters the key of every run and is checked on reading."""
    pools: Callable[[], dict[str, Split]]
    """Reads the images; returns the disjoint pools `train`, `tuning` and `test`."""


@dataclass(frozen=True)
class Data:
    """The images of one run: its training split and the pool that accuracy is measured on."""

    dataset: Dataset
    train: Split
    evaluation: Split


# --------------------------------------------------------------------------------------------------
# The bundled digits

TEST_PER_CLASS = 70
TUNING_PER_CLASS = 30


@functools.cache
def _raw_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1797 handwritten digits of scikit-learn: uint8 n x 8 x 8 (0..255) and labels n."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)


@functools.cache
def _digit_pools() -> dict[str, np.ndarray]:
    """Indices of the digits in each pool, the same for all variants of the set.

    Per class, images are ordered by the SHA-256 of their pixels: a shuffle that needs no random
    numbers and is therefore the same for every library version and processor.
    """
    images, labels = _raw_digits()
    hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    cuts = (TEST_PER_CLASS, TEST_PER_CLASS + TUNING_PER_CLASS)
    parts: list[list[int]] = [[], [], []]
    for label in range(10):
        members = sorted(np.flatnonzero(labels == label), key=lambda i: hashes[i])
        for part, chosen in zip(parts, np.split(np.array(members), cuts), strict=True):
            part.extend(chosen)
    test, tuning, train = (np.array(part) for part in parts)
    return {"train": train, "tuning": tuning, "test": test}


def _pad(image: np.ndarray, number: int) -> np.ndarray:
    return np.pad(image, 1)


def _distort(image: np.ndarray, number: int) -> np.ndarray:
    """The digit on a 12 x 12 canvas: rotated, scaled, shifted, fainter, cluttered and noisy.

    Every draw depends on the number of the image alone. `RandomState` is numpy's frozen generator:
    its streams do not change between releases.
    """
    from scipy import ndimage

    draw = np.random.RandomState(number)
    angle = np.deg2rad(draw.uniform(-20, 20))
    scale = draw.uniform(0.9, 1.2)
    shift = draw.uniform(-1, 1, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = np.array([5.5, 5.5]) + shift
    canvas = ndimage.affine_transform(
        image.astype(float), turn, np.array([3.5, 3.5]) - turn @ centre, (12, 12), order=1
    )
    canvas *= draw.uniform(0.6, 1.0)
    for _ in range(2):
        along = draw.uniform(0, 12, 2) + np.linspace(0, 1, 9)[:, None] * draw.uniform(-4, 4, 2)
        rows, columns = np.clip(np.floor(along), 0, 11).astype(int).T
        canvas[rows, columns] = np.maximum(canvas[rows, columns], draw.uniform(80, 200))
    canvas += draw.normal(0, 15, canvas.shape)
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)


def _enlarge(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))


def _digits(draw: Callable[[np.ndarray, int], np.ndarray], enlarge: bool) -> dict[str, Split]:
    images, labels = _raw_digits()
    drawn = [draw(image, number) for number, image in enumerate(images)]
    if enlarge:
        drawn = [_enlarge(image) for image in drawn]
    every = Split(torch.from_numpy(np.stack(drawn))[:, None], torch.from_numpy(labels))
    return {pool: every[torch.from_numpy(index)] for pool, index in _digit_pools().items()}


def _digit_set(title: str, size: int, mean: float, std: float, fingerprint: str, *how) -> Dataset:
    return Dataset(
        title=title,
        classes=tuple("0123456789"),
        channels=1,
        size=size,
        mean=(mean,),
        std=(std,),
        fingerprint=fingerprint,
        pools=functools.partial(_digits, *how),
    )


DATASETS: dict[str, Dataset] = {
    "digits": _digit_set(
        "handwritten digits, 10 x 10", 10, 0.196, 0.335, "fc60c9b0a567c399", _pad, False
    ),
    "digits-32": _digit_set(
        "handwritten digits, 32 x 32", 32, 0.196, 0.289, "4850ec59a8d94981", _pad, True
    ),
    "digits-hard": _digit_set(
        "distorted digits, 12 x 12", 12, 0.148, 0.229, "7737f619766fb053", _distort, False
    ),
    "digits-hard-32": _digit_set(
        "distorted digits, 32 x 32", 32, 0.148, 0.200, "92d780148ad7373a", _distort, True
    ),
}
"""Every dataset by name. Digits are padded to at least 10 pixels: at 8, three stages of stride 2
leave 1 x 1 maps, on which 8 of 9 taps of most kernels of the last stage only ever see padding."""


def fingerprint(pools: dict[str, Split]) -> str:
    """The first 16 hex digits of the SHA-256 of all pixels, labels and pools."""
    sha = hashlib.sha256()
    for name, split in pools.items():
        sha.update(f"{name}{tuple(split.images.shape)}".encode())
        sha.update(split.images.numpy().tobytes())
        sha.update(split.labels.numpy().tobytes())
    return sha.hexdigest()[:16]


@functools.lru_cache(maxsize=4)
def read(name: str) -> dict[str, Split]:
    """The pools of a dataset, read once per process; raises `UserError` if they have changed."""
    pools = DATASETS[name].pools()
    found = fingerprint(pools)
    if found != DATASETS[name].fingerprint:
        raise UserError(
            f"the images of {name!r} have fingerprint {found}, not {DATASETS[name].fingerprint}: "
            "the library that brings or draws them has changed; install the pinned versions of "
            "requirements.txt"
        )
    return pools


def load(config: "Config") -> Data:
    """The images of one run, on the CPU.

    The training split holds `per_class` images of each class, drawn from the training pool by the
    stream ("split" of the seed); with `per_class` 0 it is the whole pool.
    """
    dataset = DATASETS[config.dataset]
    pools = read(config.dataset)
    train = pools["train"]
    if config.per_class:
        smallest = int(torch.bincount(train.labels).min())
        if config.per_class > smallest:
            raise UserError(
                f"per_class={config.per_class} is more than the {smallest} training images of the "
                f"smallest class of {config.dataset!r}; use 0 for all"
            )
        draw = stream(config.seed, 0, "split")
        chosen = []
        for label in range(len(dataset.classes)):
            members = (train.labels == label).nonzero()[:, 0]
            order = torch.randperm(len(members), generator=draw)
            chosen.append(members[order[: config.per_class]])
        train = train[torch.cat(chosen)]
    return Data(dataset, train, pools[config.pool])


# --------------------------------------------------------------------------------------------------
# Augmentation and batches


@dataclass(frozen=True)
class Crop:
    """A random crop of the image padded with zeros, and a horizontal flip of every other image."""

    pad: int
    """Pixels of zero padding on each side; the largest shift."""
    flip: bool

    def __call__(self, images: Tensor, draw: torch.Generator) -> Tensor:
        """The images (uint8, n x c x h x w) with parameters of their own, on the same device."""
        n, channels, height, width = images.shape
        shifts = torch.randint(0, 2 * self.pad + 1, (2, n), generator=draw)
        rows = shifts[0][:, None] + torch.arange(height)
        columns = shifts[1][:, None] + torch.arange(width)
        if self.flip:
            flipped = torch.rand(n, generator=draw) < 0.5
            columns[flipped] = columns[flipped].flip(1)
        rows, columns = rows.to(images.device), columns.to(images.device)
        return F.pad(images, (self.pad,) * 4)[
            torch.arange(n, device=images.device)[:, None, None, None],
            torch.arange(channels, device=images.device)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda images, draw: images,
    "shift": Crop(pad=1, flip=False),
    "crop-flip": Crop(pad=4, flip=True),
}
"""Training augmentations by name; each gives every image of a batch parameters of its own."""


def normalised(images: Tensor, dataset: Dataset) -> Tensor:
    """uint8 images as float32 with the dataset's mean 0 and standard deviation 1."""
    mean = torch.tensor(dataset.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(dataset.std, device=images.device).view(1, -1, 1, 1)
    return (images.float() / 255 - mean) / std


def batches(
    split: Split, size: int, order: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The split once: (images uint8, labels), in ceil(n / size) batches of equal size, give or
    take one image, shuffled if `order` is given.

    As many steps as a loader makes that keeps its last, smaller batch; but no step is taken, and no
    batch statistics are computed, on a remainder of a few images.
    """
    n = len(split)
    index = torch.arange(n) if order is None else torch.randperm(n, generator=order)
    for part in index.tensor_split(-(-n // size)):
        chosen = part.to(split.labels.device)
        yield split.images[chosen], split.labels[chosen]
