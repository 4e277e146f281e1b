"""Augmentation, normalisation and batches, on the device where the images are."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import UserError
from ..config import Config
from ..streams import stream
from .splits import Data, Dataset, Split


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
        pixels = rows[:, :, None] * (width + 2 * self.pad) + columns[:, None]
        pixels = sent(pixels.view(n, 1, -1), images.device)
        # Several times as fast as indexing with rows and columns.
        padded = F.pad(images, (self.pad,) * 4).flatten(2)
        return padded.gather(2, pixels.expand(-1, channels, -1)).view(images.shape)


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """What was drawn on the host, on a device; CUDA fetches it while the host goes on."""
    cuda = device.type == "cuda"
    return (drawn.pin_memory() if cuda else drawn).to(device, non_blocking=cuda)


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
    top, left, tall, wide = sent(boxes, images.device).unbind(1)
    down = _triangles(top, tall, images.shape[2], side)
    across = _triangles(left, wide, images.shape[3], side)
    flipped = sent(flipped, images.device)[:, None, None]
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


@dataclass(frozen=True)
class Trivial:
    """TrivialAugment, wide (Müller and Hutter, 2021): after a crop, each image is changed by one of
    14 operations, of one of 31 strengths, both drawn with equal probability. The operations are
    torchvision's, which has the ranges of strength too."""

    crop: Callable[[Tensor, torch.Generator], Tensor]
    reach: float = 32.0
    """Largest translation in pixels; less for images that it would move out of the frame."""

    def __call__(self, images: Tensor, draw: torch.Generator) -> Tensor:
        """The images (uint8, n x c x h x w), on the same device."""
        operations = self.operations()
        chosen = torch.randint(len(operations), (len(images),), generator=draw).tolist()
        strength = torch.randint(31, (len(images),), generator=draw) / 30
        sign = 2 * torch.randint(2, (len(images),), generator=draw) - 1
        drawn = zip(self.crop(images, draw), chosen, (strength * sign).tolist(), strict=True)
        return torch.stack([operations[number](image, signed) for image, number, signed in drawn])

    def operations(self) -> list[Callable[[Tensor, float], Tensor]]:
        """The operations, functions of an image (uint8, c x h x w) and a strength in -1..1."""
        from torchvision.transforms.v2 import functional as change

        def affine(image: Tensor, x: float = 0, y: float = 0, moved: float = 0) -> Tensor:
            shift = [int(self.reach * x * moved), int(self.reach * y * moved)]
            slant = [math.degrees(math.atan(0.99 * each * (1 - moved))) for each in (x, y)]
            return change.affine(
                image, 0.0, shift, 1.0, slant, center=None if moved else [0.0, 0.0]
            )

        return [
            lambda image, s: image,
            lambda image, s: affine(image, x=s),
            lambda image, s: affine(image, y=s),
            lambda image, s: affine(image, x=s, moved=1),
            lambda image, s: affine(image, y=s, moved=1),
            lambda image, s: change.rotate(image, 135.0 * s),
            lambda image, s: change.adjust_brightness(image, 1 + 0.99 * s),
            lambda image, s: change.adjust_saturation(image, 1 + 0.99 * s),
            lambda image, s: change.adjust_contrast(image, 1 + 0.99 * s),
            lambda image, s: change.adjust_sharpness(image, 1 + 0.99 * s),
            lambda image, s: change.posterize(image, 8 - round(6 * abs(s))),
            lambda image, s: change.solarize(image, 255 * (1 - abs(s))),
            lambda image, s: change.autocontrast(image),
            lambda image, s: change.equalize(image),
        ]


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda images, draw: images,
    "shift": Crop(pad=1, flip=False),
    "crop": Crop(pad=4, flip=False),
    "crop-flip": Crop(pad=4, flip=True),
    "resized-crop": ResizedCrop(),
    "resized-crop-no-flip": ResizedCrop(flip=False),
    "trivial": Trivial(Crop(pad=4, flip=True)),
    "trivial-shift": Trivial(Crop(pad=1, flip=False), reach=2.0),
    "trivial-crop": Trivial(Crop(pad=4, flip=False)),
    "trivial-resized-crop": Trivial(ResizedCrop()),
    "trivial-resized-crop-no-flip": Trivial(ResizedCrop(flip=False)),
}
"""Training augmentations by name; each gives every image of a batch parameters of its own."""
UNFLIPPED = {"crop-flip": "crop", "resized-crop": "resized-crop-no-flip"}
"""By augmentation that mirrors images, the same without that."""
DISTORTED = {"crop-flip": "trivial"} | {
    name: f"trivial-{name}" for name in ("shift", "crop", "resized-crop", "resized-crop-no-flip")
}
"""By augmentation, TrivialAugment on top of it."""


def as_pixels(images: Tensor, dataset: Dataset) -> Tensor:
    """uint8 images as float32 in 0..1; of images larger than `dataset.size` the centre."""
    start = round((images.shape[-1] - dataset.size) / 2)
    window = slice(start, start + dataset.size)
    return images[:, :, window, window].float().div_(255)


def normalised(images: Tensor, dataset: Dataset) -> Tensor:
    """uint8 images as float32 with the dataset's mean 0 and standard deviation 1; of images larger
    than `dataset.size` the centre."""
    pixels = as_pixels(images, dataset)
    # Whole planes in the layout of the pixels: broadcast, both passes would take twice the time.
    mean, std = torch.empty_like(pixels[:1]), torch.empty_like(pixels[:1])
    moments = zip(dataset.mean, dataset.std, strict=True)
    for channel, moment in zip(range(pixels.shape[1]), moments, strict=True):
        mean[:, channel], std[:, channel] = moment
    return pixels.sub_(mean).div_(std)


def augmented(images: Tensor, data: Data, config: Config, draw: torch.Generator) -> Tensor:
    """Images of a run as its training sees them: augmented and `normalised`. Raises `UserError` for
    an augmentation that leaves fewer pixels than the network is given."""
    found = AUGMENTATIONS[config.augment](images, draw)
    if found.shape[-1] < data.dataset.size:
        raise UserError(
            f"augment={config.augment!r} leaves {found.shape[-1]} of the {data.dataset.size} "
            "pixels that the network is given of these images; it is for larger ones, use crop-flip"
        )
    return normalised(found, data.dataset)


def batches(
    split: Split, size: int, order: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """The split once: (images uint8, labels), in ceil(n / size) batches of equal size, give or
    take one image, shuffled if `order` is given.

    There are as many batches as in a loader that keeps its last, smaller batch, but none of them
    has only a few images, which would distort its batch statistics.
    """
    n = len(split)
    index = torch.arange(n) if order is None else torch.randperm(n, generator=order)
    for chosen in index.to(split.labels.device).tensor_split(-(-n // size)):
        yield split.images[chosen], split.labels[chosen]


def by_class(
    split: Split, size: int, each: int, draw: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """As many batches as have the images of the split together: (images uint8, labels), of `each`
    random images of as many random classes as fit into `size`, at least two."""
    members = [(split.labels == label).nonzero()[:, 0].cpu() for label in split.labels.unique()]
    together = min(max(2, size // each), len(members))
    for _ in range(-(-len(split) // (together * each))):
        classes = torch.randperm(len(members), generator=draw)[:together].tolist()
        drawn = [torch.randperm(len(members[c]), generator=draw)[:each] for c in classes]
        chosen = torch.cat([members[c][index] for c, index in zip(classes, drawn, strict=True)])
        yield split.images[chosen], split.labels[chosen]


@dataclass
class Training:
    """The training inputs of one generation: float images and labels, batch by batch, shuffled,
    augmented and normalised anew every time it is iterated."""

    data: Data
    config: Config
    generation: int
    mix: bool = False
    """Whether they are mixed with `cut_mix`."""
    pairs: bool = False
    """Whether each batch is followed by as many other images, each of the same class as its
    counterpart and drawn at random (it may be the same image)."""
    grouped: int = 0
    """Images of each class in a batch of `by_class`; 0: batches are those of `batches`."""

    def __post_init__(self) -> None:
        self.order = stream(self.config.seed, self.generation, "order")
        self.draw = stream(self.config.seed, self.generation, "augment")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        given = self.data.train, self.config.batch
        together = batches(*given, self.order)
        if self.grouped:
            together = by_class(*given, self.grouped, self.order)
        for images, labels in together:
            if self.pairs:
                images = torch.cat([images, self.counterparts(labels)])
            inputs = augmented(images, self.data, self.config, self.draw)
            if self.mix:
                inputs, labels = cut_mix(inputs, labels, len(self.data.dataset.classes), self.draw)
            yield inputs, labels

    @functools.cached_property
    def pair(self) -> torch.Generator:
        """The random numbers that choose counterparts."""
        return stream(self.config.seed, self.generation, "pairs")

    def counterparts(self, labels: Tensor) -> Tensor:
        """For each label, a random training image of its class."""
        train = self.data.train
        alike = train.labels == labels.to(train.labels.device)[:, None]
        drawn = torch.rand(alike.shape, generator=self.pair).to(alike.device)
        return train.images[drawn.masked_fill(~alike, -1).argmax(1)]


def cut_mix(
    images: Tensor, labels: Tensor, classes: int, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., 2019): a box of every image is that of the next one in the batch, in the
    same place, and the labels become probabilities (n x classes) by area. The box covers a share
    of the image that is uniform in 0..1, less where it reaches over an edge."""
    side, middle = torch.rand((), generator=draw).sqrt(), torch.rand(2, generator=draw)
    size = torch.tensor(images.shape[2:])
    low = ((middle - side / 2) * size).round().long().clamp(min=0)
    high = torch.minimum(((middle + side / 2) * size).round().long(), size)
    (top, left), (bottom, right) = low.tolist(), high.tolist()
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    share = (bottom - top) * (right - left) / size.prod().item()
    named = F.one_hot(labels, classes).float()
    return mixed, (1 - share) * named + share * named.roll(1, 0)


EVALUATION_BATCH = 1000
"""Images of at most 64 x 64 pixels that are evaluated together; of larger ones fewer."""


def evaluated_together(dataset: Dataset) -> int:
    """The number of images in a batch of an evaluation."""
    return min(EVALUATION_BATCH, max(1, EVALUATION_BATCH * 64**2 // dataset.size**2))


def evaluation_batches(split: Split, dataset: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """A split once, in order, as a network is evaluated on it: normalised images, and labels."""
    for images, labels in batches(split, evaluated_together(dataset)):
        yield normalised(images, dataset), labels
