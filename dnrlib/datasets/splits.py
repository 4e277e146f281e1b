"""Datasets, and the images that one run uses."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


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
    unseen: bool = False
    """Whether it is measured on other classes than it is trained on, for metric learning."""


@dataclass(frozen=True)
class Data:
    """The images of one run: its training split and the pool that accuracy is measured on."""

    dataset: Dataset
    train: Split
    evaluation: Split

    def to(self, device: torch.device) -> "Data":
        return Data(self.dataset, self.train.to(device), self.evaluation.to(device))

    def arrived(self, share: float) -> "Data":
        """The same with the first `share` of each class's training images, at least one."""
        if share == 1:
            return self
        labels = self.train.labels
        members = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
        first = [each[: math.ceil(share * len(each))] for each in members]
        return Data(self.dataset, self.train[torch.cat(first)], self.evaluation)


def power_law(most: int, least: int, classes: int) -> tuple[int, ...]:
    """Images of each class that fall from `most` to `least` as a / (b + c), with c the number of
    the class from 1 on: DNR's imbalanced training sets, with gamma = 1 (D48)."""
    b = (classes * least - most) / (most - least)
    return tuple(round(most * (1 + b) / (b + c)) for c in range(1, classes + 1))


def held_out(whole: Dataset) -> Dataset:
    """A dataset for metric learning: trained on the first half of the classes, measured on the
    others, as is usual (Oh Song et al., 2016) on CUB and Cars. The training and the test images of
    a class are taken together; those for tuning stay apart."""
    half = len(whole.classes) // 2

    def pools() -> dict[str, Split]:
        parts = whole.pools()
        given = parts["train"], parts["test"]
        both = Split(*(torch.cat([getattr(s, n) for s in given]) for n in ("images", "labels")))
        found = {"train": both[both.labels < half], "test": both[both.labels >= half]}
        if "tuning" in parts:
            found["tuning"] = parts["tuning"][parts["tuning"].labels >= half]
        return found

    title = f"{whole.title}, half of the classes held out"
    return dataclasses.replace(whole, title=title, pools=pools, unseen=True)


def fingerprint(pools: dict[str, Split]) -> str:
    """The first 16 hex digits of the SHA-256 of all pixels, labels and pools."""
    sha = hashlib.sha256()
    for name, split in pools.items():
        sha.update(f"{name}{tuple(split.images.shape)}".encode())
        sha.update(split.images.numpy().tobytes())
        sha.update(split.labels.numpy().tobytes())
    return sha.hexdigest()[:16]
