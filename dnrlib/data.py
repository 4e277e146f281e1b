"""Datasets as resident uint8 tensors, splits that never share an image, augmentation in batches."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import UserError
from .config import Config
from .streams import stream


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
    """Height and width in pixels of what the network sees; stored images may be larger."""
    mean: tuple[float, ...]
    """Per channel, of pixel values scaled to 0..1, for normalisation."""
    std: tuple[float, ...]
    fingerprint: str
    """Identity of images and pools; enters the key of every run and is checked on reading."""
    pools: Callable[[], dict[str, Split]]
    """Reads the images; returns the disjoint pools `train`, `tuning` and `test`. Official datasets
    without a validation split have no `tuning`."""
    counts: tuple[int, ...] | None = None
    """Training images of each class in one run, where classes differ; None: all that there are."""
    groups: Callable[[], dict[str, list[str]]] | None = None
    """Per pool, in its order, whose image each is (the patient), where one gave several."""


@dataclass(frozen=True)
class Data:
    """The images of one run: its training split and the pool that accuracy is measured on."""

    dataset: Dataset
    train: Split
    evaluation: Split

    def to(self, device: torch.device) -> "Data":
        return Data(self.dataset, self.train.to(device), self.evaluation.to(device))


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


def _colour(image: np.ndarray, number: int) -> np.ndarray:
    """The digit as 3 x 32 x 32 in one colour on another; both depend on the number alone."""
    draw = np.random.RandomState(number)
    paper, ink = draw.uniform(0, 110, 3), draw.uniform(145, 255, 3)
    share = _enlarge(_pad(image, number))[..., None] / 255
    return np.rint(paper + share * (ink - paper)).astype(np.uint8).transpose(2, 0, 1)


def _digits(draw: Callable[[np.ndarray, int], np.ndarray], enlarge: bool) -> dict[str, Split]:
    images, labels = _raw_digits()
    drawn = [draw(image, number) for number, image in enumerate(images)]
    if enlarge:
        drawn = [_enlarge(image) for image in drawn]
    stacked = torch.from_numpy(np.stack(drawn)).contiguous()
    every = Split(stacked if stacked.dim() == 4 else stacked[:, None], torch.from_numpy(labels))
    return {pool: every[torch.from_numpy(index)] for pool, index in _digit_pools().items()}


def _late_digits() -> dict[str, Split]:
    """The digits with two classes: 0 to 7, and 8 or 9."""
    pools = _digits(_pad, False)
    return {name: Split(pool.images, (pool.labels > 7).long()) for name, pool in pools.items()}


def power_law(most: int, least: int, classes: int) -> tuple[int, ...]:
    """Images of each class that fall from `most` to `least` as a / (b + c), with c the number of
    the class from 1 on: DNR's imbalanced training sets, with gamma = 1 (D48)."""
    b = (classes * least - most) / (most - least)
    return tuple(round(most * (1 + b) / (b + c)) for c in range(1, classes + 1))


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


_PADDED = _digit_set(
    "handwritten digits, 10 x 10", 10, 0.196, 0.335, "fc60c9b0a567c399", _pad, False
)


DATASETS: dict[str, Dataset] = {
    "digits": _PADDED,
    "digits-32": _digit_set(
        "handwritten digits, 32 x 32", 32, 0.196, 0.289, "4850ec59a8d94981", _pad, True
    ),
    "digits-hard": _digit_set(
        "distorted digits, 12 x 12", 12, 0.148, 0.229, "7737f619766fb053", _distort, False
    ),
    "digits-hard-32": _digit_set(
        "distorted digits, 32 x 32", 32, 0.148, 0.200, "92d780148ad7373a", _distort, True
    ),
    "digits-colour": Dataset(
        title="coloured digits, 32 x 32",
        classes=tuple("0123456789"),
        channels=3,
        size=32,
        mean=(0.33, 0.33, 0.33),
        std=(0.2, 0.2, 0.2),
        fingerprint="411abe82ce39ac78",
        pools=functools.partial(_digits, _colour, False),
    ),
    "digits-imbalanced": dataclasses.replace(
        _PADDED, title="digits, from 60 to 3 images per class", counts=power_law(60, 3, 10)
    ),
    "digits-binary": dataclasses.replace(
        _PADDED,
        title="digits, 8 or 9 against the rest",
        classes=("0 to 7", "8 or 9"),
        fingerprint="eb7bb40212bf9cbc",
        pools=_late_digits,
        counts=(80, 20),
    ),
}
"""The bundled datasets by name. Digits are padded to at least 10 pixels: at 8, three stages of
stride 2 leave 1 x 1 maps, on which 8 of 9 taps of most kernels of the last stage only ever see
padding."""


CIFAR10_COUNTS = power_law(5000, 250, 10)
"""Training images of each class of DNR's imbalanced CIFAR-10 (D48). The released code takes the
first ones of each class; here every seed draws its own."""


def _imbalanced(counts: tuple[int, ...]) -> Callable[[Dataset], Dataset]:
    def view(whole: Dataset) -> Dataset:
        title = f"CIFAR-10, from {counts[0]} to {counts[-1]} images per class"
        return dataclasses.replace(whole, title=title, counts=counts)

    return view


def _without_suspects(whole: Dataset) -> Dataset:
    """PAPILA with two classes, healthy and glaucoma."""
    suspect = whole.classes.index("suspect")

    def certain() -> dict[str, Split]:
        pools = whole.pools()
        return {name: pool[pool.labels != suspect] for name, pool in pools.items()}

    def patients() -> dict[str, list[str]]:
        pools, groups = whole.pools(), whole.groups()
        return {
            name: [whose[at] for at in (pools[name].labels != suspect).nonzero()[:, 0]]
            for name, whose in groups.items()
        }

    return dataclasses.replace(
        whole,
        title=f"{whole.title} without suspects",
        classes=tuple(name for name in whole.classes if name != "suspect"),
        pools=certain,
        groups=patients,
    )


VIEWS: dict[str, tuple[str, Callable[[Dataset], Dataset]]] = {
    "cifar10-imbalanced": ("cifar10", _imbalanced(CIFAR10_COUNTS)),
    "cifar10-few-imbalanced": ("cifar10-few", _imbalanced(power_law(200, 10, 10))),
    "papila-binary": ("papila", _without_suspects),
}
"""Datasets that are made of an official one: its name, and how."""


def fingerprint(pools: dict[str, Split]) -> str:
    """The first 16 hex digits of the SHA-256 of all pixels, labels and pools."""
    sha = hashlib.sha256()
    for name, split in pools.items():
        sha.update(f"{name}{tuple(split.images.shape)}".encode())
        sha.update(split.images.numpy().tobytes())
        sha.update(split.labels.numpy().tobytes())
    return sha.hexdigest()[:16]


def dataset(name: str) -> Dataset:
    """A dataset by name: a bundled one, an official one that was prepared on this machine, or
    `folder:PATH`, a folder of the user's own images; raises `UserError` for any other."""
    if name in DATASETS:
        return DATASETS[name]
    from . import folder, official

    if name.startswith(folder.PREFIX):
        return folder.dataset(name)
    of, view = VIEWS.get(name, (name, None))
    if of not in official.sets():
        known = ", ".join([*official.sets(), *VIEWS, *DATASETS])
        raise UserError(
            f"dataset={name!r} is unknown; choose one of: {known}, or {folder.PREFIX}PATH for a "
            "folder with a subfolder of images per class"
        )
    found = official.dataset(of)
    if found is None:
        raise UserError(
            f"dataset={name!r} is not on this machine; to get it: dnr data prepare {of}"
        )
    return found if view is None else view(found)


def read(name: str) -> dict[str, Split]:
    """The pools of a dataset, read once per process; raises `UserError` if those of a bundled one
    have changed. A folder that has changed is read again."""
    return _read(name, dataset(name).fingerprint)


@functools.lru_cache(maxsize=4)
def _read(name: str, identity: str) -> dict[str, Split]:
    about = dataset(name)
    pools = about.pools()
    if name in DATASETS:
        found = fingerprint(pools)
        if found != about.fingerprint:
            raise UserError(
                f"the images of {name!r} have fingerprint {found}, not {about.fingerprint}: the "
                "library that brings or draws them has changed; install the pinned versions of "
                "requirements.txt"
            )
    return pools


def load(config: Config) -> Data:
    """The images of one run, on the CPU.

    The training split holds `per_class` images of each class, drawn from the training pool by the
    stream ("split" of the seed); with `per_class` 0 the dataset's `counts`, or the whole pool.
    """
    about = dataset(config.dataset)
    pools = read(config.dataset)
    train = pools["train"]
    if config.pool not in pools:
        raise UserError(
            f"pool={config.pool!r} does not exist: {config.dataset!r} has no official validation "
            f"split, only {' and '.join(pools)}"
        )
    if config.per_class:
        smallest = int(torch.bincount(train.labels).min())
        if config.per_class > smallest:
            raise UserError(
                f"per_class={config.per_class} is more than the {smallest} training images of the "
                f"smallest class of {config.dataset!r}; use 0 for all"
            )
        train = _drawn(train, [config.per_class] * len(about.classes), config.seed)
    elif about.counts:
        train = _drawn(train, about.counts, config.seed)
    return Data(about, train, pools[config.pool])


def _drawn(pool: Split, counts: Sequence[int], seed: int) -> Split:
    """As many images of each class as `counts` says, at random."""
    draw = stream(seed, 0, "split")
    chosen = []
    for label, count in enumerate(counts):
        members = (pool.labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=draw)
        chosen.append(members[order[:count]])
    return pool[torch.cat(chosen)]


# --------------------------------------------------------------------------------------------------
# Augmentation and batches


def moved(parameters: Tensor, device: torch.device) -> Tensor:
    """The parameters of a batch's augmentation, drawn on the host, on the device; the host does not
    wait for it."""
    return parameters.to(device, non_blocking=True)


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
        rows, columns = moved(rows, images.device), moved(columns, images.device)
        return F.pad(images, (self.pad,) * 4)[
            torch.arange(n, device=images.device)[:, None, None, None],
            torch.arange(channels, device=images.device)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


@dataclass(frozen=True)
class ResizedCrop:
    """A random part of the image, resized to 7/8 of its side (224 of 256), and with `flip` a
    horizontal flip of every other image: torchvision's `RandomResizedCrop` with parameters per
    image."""

    area: tuple[float, float] = (0.08, 1.0)
    """Least and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width of the part divided by its height."""
    tries: int = 10
    """Parts that are drawn until one lies within the image; if none does, it is the whole image."""
    flip: bool = True

    def __call__(self, images: Tensor, draw: torch.Generator) -> Tensor:
        """The images (uint8, n x c x side x side) as n x c x 7/8 side x 7/8 side, on the same
        device; pixels within one grey level of Pillow's antialiased bilinear resize."""
        boxes = self.boxes(len(images), images.shape[-1], draw)
        flipped = torch.rand(len(images), generator=draw) < 0.5 * self.flip
        resize = resize_each if images.device.type == "cpu" else resize_batch
        return resize(images, boxes, flipped, images.shape[-1] * 7 // 8)

    def boxes(self, n: int, side: int, draw: torch.Generator) -> Tensor:
        """Parts of n square images: top, left, height and width (int64, n x 4)."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        uniform = torch.rand((4, self.tries, n), generator=draw, dtype=torch.float64)
        area = side**2 * (self.area[0] + uniform[0] * (self.area[1] - self.area[0]))
        ratio = torch.exp(low + uniform[1] * (high - low))
        wide, tall = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
        fits = (wide > 0) & (wide <= side) & (tall > 0) & (tall <= side)
        first = fits.to(torch.uint8).argmax(0, keepdim=True)
        top = torch.floor(uniform[2] * (side - tall + 1))
        left = torch.floor(uniform[3] * (side - wide + 1))
        chosen = [values.gather(0, first)[0] for values in (top, left, tall, wide)]
        whole = torch.tensor([0, 0, side, side])
        return torch.where(fits.any(0)[:, None], torch.stack(chosen, 1).long(), whole)


def resize_each(images: Tensor, boxes: Tensor, flipped: Tensor, side: int) -> Tensor:
    """Parts of images resized to side x side, one by one in uint8: the fastest way on a CPU."""
    resized = torch.empty(
        (len(images), images.shape[1], side, side),
        dtype=torch.uint8,
        memory_format=torch.channels_last,
    )
    for number, (top, left, tall, wide) in enumerate(boxes.tolist()):
        part = images[number : number + 1, :, top : top + tall, left : left + wide]
        part = F.interpolate(part, (side, side), mode="bilinear", antialias=True)[0]
        resized[number] = part.flip(2) if flipped[number] else part
    return resized


def resize_batch(images: Tensor, boxes: Tensor, flipped: Tensor, side: int) -> Tensor:
    """Parts of images resized to side x side, all at once as two matrix products per image: the
    fastest way on a GPU."""
    top, left, tall, wide = moved(boxes, images.device).unbind(1)
    down = _triangles(top, tall, images.shape[2], side)
    across = _triangles(left, wide, images.shape[3], side)
    flipped = moved(flipped, images.device)[:, None, None]
    across = torch.where(flipped, across.flip(1), across)
    resized = down[:, None] @ images.float() @ across[:, None].transpose(2, 3)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _triangles(start: Tensor, length: Tensor, pixels: int, side: int) -> Tensor:
    """The weights (n x side x pixels) of Pillow's bilinear filter from `length` pixels on from
    `start` to `side` pixels; wider than one pixel where it shrinks, which is the antialiasing."""
    start, length = start[:, None, None].float(), length[:, None, None].float()
    scale = length / side
    at = torch.arange(pixels, device=start.device) + 0.5
    centre = start + (torch.arange(side, device=start.device)[:, None] + 0.5) * scale
    weights = (1 - (at - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((at > start) & (at < start + length))
    return weights / weights.sum(2, keepdim=True)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda images, draw: images,
    "shift": Crop(pad=1, flip=False),
    "crop": Crop(pad=4, flip=False),
    "crop-flip": Crop(pad=4, flip=True),
    "resized-crop": ResizedCrop(),
    "resized-crop-no-flip": ResizedCrop(flip=False),
}
"""Training augmentations by name; each gives every image of a batch parameters of its own."""

UNFLIPPED = {"crop-flip": "crop", "resized-crop": "resized-crop-no-flip"}
"""By augmentation that mirrors images, the same without that."""


def as_pixels(images: Tensor, dataset: Dataset) -> Tensor:
    """uint8 images as float32 in 0..1; of images larger than `dataset.size` the centre."""
    start = round((images.shape[-1] - dataset.size) / 2)
    window = slice(start, start + dataset.size)
    return images[:, :, window, window].float().div_(255)


def normalised(images: Tensor, dataset: Dataset) -> Tensor:
    """uint8 images as float32 with the dataset's mean 0 and standard deviation 1; of images larger
    than `dataset.size` the centre."""
    pixels = as_pixels(images, dataset)
    last = pixels.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    of = tuple(dataset.mean), tuple(dataset.std)
    mean, std = _planes(*of, pixels.shape[2:], layout, pixels.device)
    return pixels.sub_(mean).div_(std)


@functools.lru_cache(maxsize=8)
def _planes(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    shape: torch.Size,
    layout: torch.memory_format,
    device: torch.device,
) -> list[Tensor]:
    """Mean and standard deviation as whole planes (float32, 1 x c x h x w) in the layout of the
    pixels: broadcast, their two passes over a batch take twice the time."""
    # Whoever asks first may be in inference mode, whose tensors keep others from gradients.
    with torch.inference_mode(False):
        return [
            torch.tensor(values, device=device)
            .view(1, -1, 1, 1)
            .expand(1, -1, *shape)
            .contiguous(memory_format=layout)
            for values in (mean, std)
        ]


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
    for chosen in index.to(split.labels.device).tensor_split(-(-n // size)):
        yield split.images[chosen], split.labels[chosen]


@dataclass(frozen=True)
class Training:
    """The training inputs of one generation: float images and labels, batch by batch, shuffled,
    augmented and normalised anew every time it is iterated."""

    data: Data
    config: Config
    generation: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        augment = AUGMENTATIONS[self.config.augment]
        for images, labels in batches(self.data.train, self.config.batch, self.order):
            yield normalised(augment(images, self.draw), self.data.dataset), labels

    @functools.cached_property
    def order(self) -> torch.Generator:
        """The stream of the order of the images."""
        return stream(self.config.seed, self.generation, "order")

    @functools.cached_property
    def draw(self) -> torch.Generator:
        """The stream of the augmentation."""
        return stream(self.config.seed, self.generation, "augment")


EVALUATION_BATCH = 1000
"""Images of at most 64 x 64 pixels that are evaluated together; of larger ones fewer."""


def evaluated_together(dataset: Dataset) -> int:
    """The number of images in a batch of an evaluation."""
    return min(EVALUATION_BATCH, max(1, EVALUATION_BATCH * 64**2 // dataset.size**2))


def evaluation_batches(split: Split, dataset: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """A split once, in order, as a network is evaluated on it: normalised images, and labels."""
    for images, labels in batches(split, evaluated_together(dataset)):
        yield normalised(images, dataset), labels
