import dataclasses
import hashlib
import os
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision import datasets as torchvision

from dnrlib.datasets import archives, layouts
from dnrlib.datasets.official import facts
from dnrlib.recipes import configure
from tests import mistakes
from tests.trees import BUILDERS, md5

if name := os.environ.get(mistakes.VARIABLE):
    mistakes.make(name)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """No test reads or writes the runs or the datasets of whoever runs it."""
    monkeypatch.setenv("DNRLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DNRLIB_DATA", str(tmp_path / "data"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """As in every run; two test processes then leave each other alone."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny():
    """Builds configs that train in about a second: `tiny(method="dnr")`."""

    def build(**settings):
        small = {"width": 4, "epochs": 1, "generations": 3, "per_class": 4, "batch": 20}
        return configure("digits", **(small | settings))

    return build


@pytest.fixture
def hold(monkeypatch):
    """Holds a set to the counts and label files of a tree, and to given archives, instead of the
    published ones. What is not known of the published set stays unknown."""

    def to(name, tree, packed=None):
        known = facts()[name]
        changed = {
            "classes": len(tree.classes),
            **{
                layout: {
                    path: held and md5(tree.root / path)
                    for path, held in getattr(known, layout).items()
                }
                for layout in ("tree", "also")
            },
            # What is decoded of it has another fingerprint.
            "fingerprint": "",
            "contents": {pool: contents(tree, pool) for pool in known.contents},
        }
        if name == "papila":
            changed["per_class"] = tuple(
                Counter(label for _, label, _ in tree.images)[label] for label in range(3)
            )
        elif name == "cifar10c":
            changed["splits"] = {"test": len(tree.images)}
        else:
            changed["splits"] = tree.splits
        if packed:
            changed["archives"] = tuple(held_to(each, packed[each.file]) for each in known.archives)
        monkeypatch.setitem(facts(), name, dataclasses.replace(known, **changed))
        # Torchvision's own checksums stay in force as well.
        if name == "flower102":
            files = {
                part: (file, digest if part == "image" else md5(tree.root / "flowers-102" / file))
                for part, (file, digest) in torchvision.Flowers102._file_dict.items()
            }
            monkeypatch.setattr(torchvision.Flowers102, "_file_dict", files)
        if name == "cifar10-few":
            monkeypatch.setattr(layouts, "FEW", {"train": 3, "tuning": 1})
            monkeypatch.setattr(layouts, "WHOLE", {"train": {5, 4}, "test": {2}})
        if name in ("cifar10", "cifar10-few", "cifar100"):
            kind = getattr(torchvision, name.removesuffix("-few").upper())
            folder = tree.root / kind.base_folder
            for part in ("train_list", "test_list"):
                files = [[file, md5(folder / file)] for file, _ in getattr(kind, part)]
                monkeypatch.setattr(kind, part, files)
            meta = kind.meta | {"md5": md5(folder / kind.meta["filename"])}
            monkeypatch.setattr(kind, "meta", meta)
        return tree

    return to


def contents(tree, pool):
    """The SHA-256 over a line for every image of a pool, of the SHA-256 of its file or pixels, and
    its label."""
    lines = []
    for image, label, of in tree.images:
        if of == pool:
            pixels = isinstance(image, np.ndarray)
            content = image.tobytes() if pixels else (tree.root / image).read_bytes()
            lines.append(f"{hashlib.sha256(content).hexdigest()} {label}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def held_to(archive, path):
    content = path.read_bytes()
    known = {"size": archive.size and len(content)}
    for function in ("md5", "sha256"):
        if getattr(archive, function):
            known[function] = archives.digest(path, function)
    return dataclasses.replace(archive, **known)


@pytest.fixture
def small(tmp_path, hold):
    """Builds a set's tree and holds the set to it."""
    return lambda name: hold(name, BUILDERS[name](tmp_path / "tree"))
