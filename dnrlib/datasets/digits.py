"""The bundled datasets, all made of the handwritten digits of scikit-learn."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from .splits import Dataset, Split, held_out, power_law

TEST_PER_CLASS = 70
TUNING_PER_CLASS = 30


def _raw_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1797 handwritten digits of scikit-learn: uint8 n x 8 x 8 (0..255) and labels n."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target.astype(np.int64)


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


def _digit_set(
    title: str,
    size: int,
    mean: float,
    std: float,
    fingerprint: str,
    draw,
    enlarge=False,
    channels=1,
) -> Dataset:
    moments = (mean,) * channels, (std,) * channels
    pools = functools.partial(_digits, draw, enlarge)
    return Dataset(title, tuple("0123456789"), channels, size, *moments, fingerprint, pools)


_PADDED = _digit_set("handwritten digits, 10 x 10", 10, 0.196, 0.335, "fc60c9b0a567c399", _pad)
DATASETS: dict[str, Dataset] = {
    "digits": _PADDED,
    "digits-32": _digit_set(
        "handwritten digits, 32 x 32", 32, 0.196, 0.289, "4850ec59a8d94981", _pad, enlarge=True
    ),
    "digits-hard": _digit_set(
        "distorted digits, 12 x 12", 12, 0.148, 0.229, "7737f619766fb053", _distort
    ),
    "digits-hard-32": _digit_set(
        "distorted digits, 32 x 32", 32, 0.148, 0.200, "92d780148ad7373a", _distort, enlarge=True
    ),
    "digits-colour": _digit_set(
        "coloured digits, 32 x 32", 32, 0.33, 0.2, "411abe82ce39ac78", _colour, channels=3
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
    "digits-metric": dataclasses.replace(held_out(_PADDED), fingerprint="9faa36675dd2398a"),
}
"""The bundled datasets by name. Digits are padded to at least 10 pixels: at 8, three stages of
stride 2 leave 1 x 1 maps, on which 8 of 9 taps of most kernels of the last stage only ever see
padding."""
