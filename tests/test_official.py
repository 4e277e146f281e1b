"""The official datasets: layouts, what goes wrong with them, archives and downloads.

Trees are small and made here (`trees`); the counts and checksums that a set is held to are put in
place of the published ones, never left out.
"""

import dataclasses
import errno
import hashlib
import http.server
import io
import os
import pickle
import re
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torchvision import datasets as torchvision

from dnrlib import UserError, cli, records
from dnrlib.datasets import archives, catalogue, decoded, official
from dnrlib.datasets.official import corruption, facts, listing, overview, prepare
from dnrlib.recipes import configure
from tests import POSIX, trees
from tests.trees import BUILDERS, PAPILA, pack

WITH_TRAINING = tuple(name for name in BUILDERS if name != "cifar10c")
FILES = tuple(name for name in WITH_TRAINING if not name.startswith("cifar"))
FEW = "cifar10-few"


@pytest.fixture(autouse=True)
def _own_images_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DNRLIB_DATA", str(tmp_path / "images"))


def counts(manifest):
    return dict(manifest["counts"])


def named(picture, root):
    """A picture as the builders note it."""
    if isinstance(picture.source, np.ndarray):
        return picture.source.tobytes(), picture.label
    return str(picture.source.relative_to(root)), picture.label


# --------------------------------------------------------------------------------------------------
# What is stated


def test_counts_are_those_of_the_papers_table():
    table = pd.read_csv(records.ROOT / "data" / "paper" / "dnr_table10.csv")
    rows = {
        "CUB-200": "cub200",
        "Flower-102": "flower102",
        "MIT67": "mit67",
        "Aircraft": "aircraft",
        "Stanford-Dogs": "dogs",
    }
    assert set(table["row"]) == set(rows)
    pools = {"Train": "train", "Validation": "tuning", "Test": "test"}
    for _, line in table.iterrows():
        known = facts()[rows[line["row"]]]
        printed = None if pd.isna(line["value"]) else int(line["value"])
        if line["column"] in pools:
            assert known.splits.get(pools[line["column"]]) == printed, line.to_dict()
        else:
            assert {"Classes": known.classes, "Total": known.images}[line["column"]] == printed


def test_what_is_stated_fits_together():
    assert set(facts()) == set(BUILDERS)
    for name, known in facts().items():
        pools = known.splits or dict.fromkeys(("train", "tuning", "test"))
        assert set(known.lists) == set(pools), name
        assert len(known.per_class) in (0, known.classes)
        layouts = (*known.tree, *known.also)
        for path in known.lists.values():
            assert any(f"{each}/".startswith(f"{path}/") for each in layouts), (name, path)
        # Published records can be read without the images: all that is needed is known.
        assert bool(known.fingerprint) == bool(known.contents) == bool(known.names)
        assert len(known.names) in (0, known.classes)
        assert known.contents.keys() in (set(), known.splits.keys())
        for archive in known.archives:
            # The pixels of the first are held to a digest whatever they came in.
            assert archive.checksum or known.contents or name == "mit67", archive
            assert re.fullmatch("[0-9a-f]{32}", archive.md5 or "0" * 32)
            assert re.fullmatch("[0-9a-f]{64}", archive.sha256 or "0" * 64)
        native = {"tinyimagenet": 64, "flower102-64": 64}.get(name, 32)
        photographs = not name.startswith(("cifar", "tiny")) and name != "flower102-64"
        sizes = (known.kind.size, known.kind.crop)
        assert sizes == ((256, 224) if photographs else (native, native)), name


def test_checksums_are_those_that_torchvision_knows():
    ours = {each.file: each.md5 for known in facts().values() for each in known.archives}
    for file, digest in torchvision.Flowers102._file_dict.values():
        assert ours[file] == digest
    for kind in (torchvision.CIFAR10, torchvision.CIFAR100):
        assert ours[kind.filename] == kind.tgz_md5
    for kind in (torchvision.CIFAR10, torchvision.CIFAR100, torchvision.FGVCAircraft):
        url = getattr(kind, "url", None) or kind._URL
        assert url in {each.url for known in facts().values() for each in known.archives}


# --------------------------------------------------------------------------------------------------
# Layouts


@pytest.mark.parametrize("name", [name for name in WITH_TRAINING if name != "papila"])
def test_a_layout_is_read_as_it_was_built(name, small):
    tree = small(name)
    found = listing(name, tree.root)
    assert found.classes == tree.classes
    built = {pool: [] for pool in tree.splits}
    for source, label, pool in tree.images:
        source = source.tobytes() if isinstance(source, np.ndarray) else source
        built[pool].append((source, label))
    read = {
        pool: [named(picture, tree.root) for picture in pictures]
        for pool, pictures in found.pools.items()
    }
    assert read == built


ORACLES = {
    "flower102": (torchvision.Flowers102, {"train": "train", "tuning": "val", "test": "test"}),
    "aircraft": (torchvision.FGVCAircraft, {"train": "train", "tuning": "val", "test": "test"}),
    "cars196": (torchvision.StanfordCars, {"train": "train", "test": "test"}),
    "cifar10": (torchvision.CIFAR10, {"train": True, "test": False}),
    "cifar100": (torchvision.CIFAR100, {"train": True, "test": False}),
}


@pytest.mark.parametrize("name", ORACLES)
def test_pixels_and_labels_are_those_that_torchvision_gives(name, small):
    tree = small(name)
    kind, splits = ORACLES[name]
    found = listing(name, tree.root)
    assert set(found.pools) == set(splits)
    for pool, split in splits.items():
        oracle = kind(tree.root, split) if isinstance(split, str) else kind(tree.root, train=split)
        assert tuple(oracle.classes) == found.classes
        assert len(oracle) == len(found.pools[pool]) > 0
        for (image, label), picture in zip(oracle, found.pools[pool], strict=True):
            assert label == picture.label
            source = picture.source
            own = source if isinstance(source, np.ndarray) else Image.open(source).convert("RGB")
            assert np.array_equal(np.asarray(image), np.asarray(own))


def test_all_forms_of_the_few_give_the_same_pixels(small):
    """Official batches, all of CIFAR-10 as files, just the few as files: one array, one key."""
    tree = small(FEW)
    made = [prepare(FEW, tree.root)]
    for all_of_it in (True, False):
        trees.as_folders(tree, all_of_it)
        found = listing(FEW, tree.root)
        read = {pool: [named(p, None) for p in pictures] for pool, pictures in found.pools.items()}
        for pool, pictures in read.items():
            assert pictures == [
                (pixels.tobytes(), label) for pixels, label, of in tree.images if of == pool
            ]
        shutil.rmtree(decoded.place(FEW))
        made.append(prepare(FEW, tree.root))
        shutil.rmtree(tree.root / "train")
        shutil.rmtree(tree.root / "test")
        (tree.root / "cifar-10-batches-py").mkdir()
    assert len({each["fingerprint"] for each in made}) == len({e["sources"] for e in made}) == 1
    assert dict(made[0]["counts"]) == {"train": 30, "tuning": 10, "test": 20}


def test_both_layouts_of_the_small_flowers_give_the_same_pixels(small):
    tree = small("flower102-64")
    made = prepare("flower102-64", tree.root)
    trees.as_official(tree)
    shutil.rmtree(decoded.place("flower102-64"))
    assert prepare("flower102-64", tree.root)["fingerprint"] == made["fingerprint"]
    assert decoded.dataset("flower102-64").size == 64


@pytest.mark.parametrize("name", ["flower102-64", FEW])
def test_what_is_published_of_photographs_is_known_without_them(name, small, monkeypatch, capsys):
    about = catalogue.dataset(name)
    known = facts()[name]
    assert (about.fingerprint, len(about.classes)) == (known.fingerprint, known.classes)
    with pytest.raises(UserError, match=f"not on this machine; .* dnr data prepare {name}"):
        catalogue.load(configure(name))
    assert cli.main(["study", "--dataset", name, "--method", "plain", "--seeds", "2"]) == 1
    assert capsys.readouterr().err.startswith(f"dnr: the images of '{name}' are not on this")
    # Decoded on this machine, its pixels must be those of the published records.
    made = prepare(name, small(name).root)
    other = dataclasses.replace(facts()[name], fingerprint="0" * 20)
    monkeypatch.setitem(facts(), name, other)
    with pytest.raises(UserError, match="gives other pixels"):
        catalogue.dataset(name)
    right = dataclasses.replace(other, fingerprint=made["fingerprint"])
    monkeypatch.setitem(facts(), name, right)
    assert catalogue.dataset(name).fingerprint == made["fingerprint"]


@pytest.mark.parametrize("name", ["flower102-64", FEW])
def test_images_are_hashed_once_while_a_set_is_prepared(name, small, monkeypatch):
    tree = small(name)
    hashed, real = Counter(), hashlib.sha256

    def noted(content=b"", **settings):
        hashed[bytes(content)] += 1
        return real(content, **settings)

    monkeypatch.setattr(decoded.hashlib, "sha256", noted)
    prepare(name, tree.root)
    for image, _, _ in tree.images:
        content = image.tobytes() if isinstance(image, np.ndarray) else None
        assert hashed[content or (tree.root / image).read_bytes()] == 1


def test_equal_images_in_different_pools_are_reported(tmp_path, hold, capsys):
    tree = BUILDERS["flower102-64"](tmp_path / "tree")
    first, last = tree.images[0][0], tree.images[-1][0]
    shutil.copy(tree.root / first, tree.root / last)
    hold("flower102-64", tree)
    assert cli.main(["data", "prepare", "flower102-64", "--root", str(tree.root)]) == 0
    said = "the same image: train image_00006.jpg = test image_00007.jpg"
    assert capsys.readouterr().out.count(said) == 1


def test_the_few_know_their_classes_as_torchvision_does(small):
    tree = small(FEW)
    assert listing(FEW, tree.root).classes == facts()[FEW].names == tuple(trees.TEN)


def test_papila_is_split_by_patient(small):
    tree = small("papila")
    found = listing("papila", tree.root)
    assert found.classes == ("healthy", "glaucoma", "suspect")
    read = [named(picture, tree.root) for pool in found.pools.values() for picture in pool]
    assert sorted(read) == sorted((path, label) for path, label, _ in tree.images)
    pools = {
        pool: [picture.source.name[3:6] for picture in pictures]
        for pool, pictures in found.pools.items()
    }
    for pool, listed in pools.items():
        assert listed == sorted(2 * list(set(listed))), pool
    # By the worse eye: 10 healthy, 4 suspect, 8 glaucoma; a fifth of each is 2, 1 and 2.
    worse = {patient: max(eyes, key=(0, 2, 1).index) for patient, eyes in trees.PAPILA_EYES.items()}
    assert Counter(worse.values()) == {0: 10, 1: 8, 2: 4}
    for pool, expected in {
        "train": {0: 6, 1: 4, 2: 2},
        "tuning": {0: 2, 1: 2, 2: 1},
        "test": {0: 2, 1: 2, 2: 1},
    }.items():
        assert Counter(worse[patient] for patient in set(pools[pool])) == expected, pool
    assert len(set().union(*pools.values())) == sum(len(set(listed)) for listed in pools.values())
    # Runs depend on it: the split of these patients stays this one.
    assert sorted(set(pools["test"])) == ["010", "015", "023", "031", "105"]
    assert sorted(set(pools["tuning"])) == ["005", "009", "014", "018", "034"]


def test_cifar10c_is_verified_and_mapped(small, capsys):
    tree = small("cifar10c")
    for name in trees.CORRUPTIONS:
        found, labels = corruption(name, tree.root)
        assert labels.tolist() == [7, 3] * 5
        assert isinstance(found, np.memmap)
        built = [(row, label) for row, label, corruption in tree.images if corruption == name]
        assert np.array_equal(found, [row for row, _ in built])
        assert labels.tolist() == [label for _, label in built]
    assert cli.main(["data", "prepare", "cifar10c", "--root", str(tree.root)]) == 0
    assert "cifar10c: 10 classes, 10 gaussian_noise, " in capsys.readouterr().out
    made = prepare("cifar10c", tree.root)
    assert counts(made) == dict.fromkeys(trees.CORRUPTIONS, 10)
    assert decoded.manifest("cifar10c") is None


@pytest.mark.parametrize("name", WITH_TRAINING)
def test_a_set_is_decoded(name, small):
    tree = small(name)
    made = prepare(name, tree.root)
    found = listing(name, tree.root)
    assert made["classes"] == list(tree.classes)
    dataset = decoded.dataset(name)
    assert dataset.size == facts()[name].kind.crop
    for pool, split in dataset.pools().items():
        assert split.labels.tolist() == [picture.label for picture in found.pools[pool]]
        for image, picture in zip(split.images, found.pools[pool], strict=True):
            source, size = picture.source, facts()[name].kind.size
            if not isinstance(source, np.ndarray):
                # CMYK, grey, palette and transparent ones are among them.
                source = Image.open(source).convert("RGB").resize((size, size), 2)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(source))
    # A second call finds it done, also when the files it came from are gone.
    shutil.rmtree(tree.root)
    assert prepare(name)["fingerprint"] == made["fingerprint"]
    if name == "papila":
        assert dataset.groups() == {
            pool: [picture.source.name[3:6] for picture in pictures]
            for pool, pictures in found.pools.items()
        }


def test_images_of_every_mode_are_among_those_that_are_read(tmp_path):
    modes = set()
    for name in FILES:
        tree = BUILDERS[name](tmp_path / name)
        modes |= {Image.open(tree.root / path).mode for path, _, _ in tree.images}
    assert modes == {"RGB", "L", "CMYK", "P", "RGBA"}


# --------------------------------------------------------------------------------------------------
# Trees that are broken


def cut_line(path):
    """Takes the last line of a label file away."""
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def short_mat(path, **changed):
    from scipy.io import loadmat, savemat

    found = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    savemat(path, found | {key: change(found[key]) for key, change in changed.items()})


def short_sheet(root, eye, **changed):
    rows = {f"#{patient}": eyes[eye == "os"] for patient, eyes in trees.PAPILA_EYES.items()}
    rows = {key: value for key, value in rows.items() if key != "#105"} | changed
    path = root / PAPILA / "ClinicalData" / f"patient_data_{eye}.xlsx"
    path.write_bytes(trees.spreadsheet(rows))


BROKEN = {
    "flower102: an image is missing": (
        lambda root: (root / "flowers-102/jpg/image_00002.jpg").unlink(),
        r"image_00002\.jpg does not exist, though .*setid\.mat lists it \(1 of 3",
    ),
    "flower102: half extracted": (
        lambda root: shutil.rmtree(root / "flowers-102/jpg"),
        r"flowers-102 is not what torchvision expects",
    ),
    "flower102: labels one short": (
        lambda root: short_mat(root / "flowers-102/imagelabels.mat", labels=lambda x: x[:, :-1]),
        r"imagelabels\.mat has MD5 [0-9a-f]{32} instead of",
    ),
    "flower102-64: an image is missing": (
        lambda root: (root / trees.FLOWERS_64 / "flowers/image_00002.jpg").unlink(),
        r"image_00002\.jpg does not exist, though .*setid\.mat lists it \(1 of 3",
    ),
    "flower102-64: an image too many": (
        lambda root: (root / trees.FLOWERS_64 / "flowers/image_00009.jpg").write_bytes(b""),
        r"image_00009\.jpg is none of the 8 images",
    ),
    "flower102-64: a damaged image": (
        lambda root: flip(root / trees.FLOWERS_64 / "flowers/image_00006.jpg"),
        r"has train images or labels that are not the published ones",
    ),
    "flower102-64: labels of another file": (
        lambda root: short_mat(root / "imagelabels.mat", labels=lambda x: x[:, ::-1]),
        r"imagelabels\.mat has MD5 [0-9a-f]{32} instead of",
    ),
    "cifar10-few: a batch is damaged": (
        lambda root: flip(root / "cifar-10-batches-py/data_batch_3"),
        r"data_batch_3 has MD5 [0-9a-f]{32} instead of",
    ),
    "cub200: half extracted": (
        lambda root: shutil.rmtree(root / "CUB_200_2011/images/003.Sooty_Albatross"),
        r"Sooty_Albatross_0007_259\.jpg does not exist, though .*\(2 of 6",
    ),
    "cub200: labels one line short": (
        lambda root: cut_line(root / "CUB_200_2011/image_class_labels.txt"),
        r"image_class_labels\.txt cannot be read \(KeyError: '8'\)",
    ),
    "cub200: split one line short": (
        lambda root: cut_line(root / "CUB_200_2011/train_test_split.txt"),
        r"train_test_split\.txt cannot be read \(KeyError: '8'\)",
    ),
    "cub200: all lists one line short": (
        lambda root: [
            cut_line(root / f"CUB_200_2011/{file}.txt")
            for file in ("images", "image_class_labels", "train_test_split")
        ],
        r"train_test_split\.txt gives 5 train images instead of 6",
    ),
    "cub200: label out of range": (
        lambda root: replace(root / "CUB_200_2011/image_class_labels.txt", "1 1", "1 4"),
        r"gives .*_0001_37\.jpg the label 4, which is not in 1 to 3",
    ),
    "cub200: label 0": (
        lambda root: replace(root / "CUB_200_2011/image_class_labels.txt", "1 1", "1 0"),
        r"the label 0, which is not in 1 to 3",
    ),
    "cub200: label is no number": (
        lambda root: replace(root / "CUB_200_2011/image_class_labels.txt", "1 1", "1 x"),
        r"image_class_labels\.txt cannot be read \(ValueError: .*'x'\)",
    ),
    "cub200: line without a value": (
        lambda root: replace(root / "CUB_200_2011/images.txt", "2 001", "2\n001"),
        r"images\.txt cannot be read \(ValueError: .*element #1 has length 1",
    ),
    "cub200: an image is listed twice": (
        lambda root: replace(root / "CUB_200_2011/images.txt", "\n2 ", "\n1 "),
        r"train_test_split\.txt gives 5 train images instead of 6",
    ),
    "cub200: one file under two numbers": (
        lambda root: replace(root / "CUB_200_2011/images.txt", "_0002_74", "_0001_37"),
        r"lists .*_0001_37\.jpg a second time",
    ),
    "cub200: a class is missing": (
        lambda root: cut_line(root / "CUB_200_2011/classes.txt"),
        r"gives 2 classes instead of 3",
    ),
    "cub200: a split is neither 0 nor 1": (
        lambda root: replace(root / "CUB_200_2011/train_test_split.txt", "1 1", "1 2"),
        r"train_test_split\.txt cannot be read \(KeyError: '2'\)",
    ),
    "aircraft: train list one line short": (
        lambda root: cut_line(root / "fgvc-aircraft-2013b/data/images_variant_train.txt"),
        r"images_variant_train\.txt gives 3 train images instead of 4",
    ),
    "aircraft: validation list one line short": (
        lambda root: cut_line(root / "fgvc-aircraft-2013b/data/images_variant_val.txt"),
        r"images_variant_val\.txt gives 3 tuning images instead of 4",
    ),
    "aircraft: a variant is missing": (
        lambda root: cut_line(root / "fgvc-aircraft-2013b/data/variants.txt"),
        r"images_variant_train\.txt is not what torchvision expects \(KeyError: 'F/A-18'\)",
    ),
    "aircraft: an image is missing": (
        lambda root: (root / "fgvc-aircraft-2013b/data/images/0034309.jpg").unlink(),
        r"0034309\.jpg does not exist, though .*images_variant_train\.txt lists it",
    ),
    "mit67: train list one line short": (
        lambda root: cut_line(root / "TrainImages.txt"),
        r"TrainImages\.txt gives 4 train images instead of 5",
    ),
    "mit67: test list is missing": (
        lambda root: (root / "TestImages.txt").unlink(),
        r"TestImages\.txt is missing",
    ),
    "mit67: half extracted": (
        lambda root: shutil.rmtree(root / "Images/winecellar"),
        r"winecellar 0_gif\.jpg does not exist, though .*TrainImages\.txt lists it \(3 of 5",
    ),
    "mit67: a test image is in the train list": (
        lambda root: replace(root / "TestImages.txt", "airport_inside 1", "airport_inside 4"),
        r"TestImages\.txt lists .*airport_inside 4_gif\.jpg a second time",
    ),
    "dogs: train list one short": (
        lambda root: short_mat(
            root / "train_list.mat", labels=lambda x: x[:-1], file_list=lambda x: x[:-1]
        ),
        r"train_list\.mat has MD5",
    ),
    "dogs: half extracted": (
        lambda root: shutil.rmtree(root / "Images/n02085620-Chihuahua"),
        r"n02085620_0\.jpg does not exist, though .*train_list\.mat",
    ),
    "cifar10: a batch is cut short": (
        lambda root: (root / "cifar-10-batches-py/data_batch_4").write_bytes(b"\x80\x02}"),
        r"data_batch_4 has MD5 \w+ instead of",
    ),
    "cifar10: a batch is missing": (
        lambda root: (root / "cifar-10-batches-py/data_batch_2").unlink(),
        r"data_batch_2 is missing",
    ),
    "cifar100: names are changed": (
        lambda root: (root / "cifar-100-python/meta").write_bytes(pickle.dumps({})),
        r"cifar-100-python/meta has MD5",
    ),
    "tinyimagenet: a training image is missing": (
        lambda root: (root / "tiny-imagenet-200/train/n01629819/images/n01629819_1.JPEG").unlink(),
        r"tiny-imagenet-200/train gives 8 train images instead of 9",
    ),
    "tinyimagenet: annotations one line short": (
        lambda root: cut_line(root / "tiny-imagenet-200/val/val_annotations.txt"),
        r"val_annotations\.txt gives 3 test images instead of 4",
    ),
    "tinyimagenet: unknown class": (
        lambda root: replace(
            root / "tiny-imagenet-200/val/val_annotations.txt", "n02124075", "n99999999"
        ),
        r"val_annotations\.txt cannot be read \(ValueError: 'n99999999' is not in list\)",
    ),
    "tinyimagenet: a validation image is missing": (
        lambda root: (root / "tiny-imagenet-200/val/images/val_3.JPEG").unlink(),
        r"val_3\.JPEG does not exist, though .*val_annotations\.txt",
    ),
    "cars196: test annotations replaced": (
        lambda root: shutil.copy(
            root / "stanford_cars/devkit/cars_train_annos.mat",
            root / "stanford_cars/cars_test_annos_withlabels.mat",
        ),
        r"cars_test_annos_withlabels\.mat has MD5",
    ),
    "cars196: train annotations one short": (
        lambda root: short_mat(
            root / "stanford_cars/devkit/cars_train_annos.mat", annotations=lambda x: x[:, :-1]
        ),
        r"cars_train_annos\.mat gives 3 train images instead of 4",
    ),
    "cars196: train annotations are no MATLAB file": (
        lambda root: (root / "stanford_cars/devkit/cars_train_annos.mat").write_bytes(b"MATLAB"),
        r"cars_train_annos\.mat is not what torchvision expects",
    ),
    "cars196: half extracted": (
        lambda root: (root / "stanford_cars/cars_test/00003.jpg").unlink(),
        r"cars_test/00003\.jpg does not exist",
    ),
    "papila: one sheet a patient short": (
        lambda root: short_sheet(root, "os"),
        r"patient_data_os\.xlsx and patient_data_od\.xlsx differ in the patients 105",
    ),
    "papila: both sheets a patient short": (
        lambda root: [short_sheet(root, eye) for eye in ("od", "os")],
        r"ClinicalData gives \(20, 12, 10\) images per class instead of \(22, 12, 10\)",
    ),
    "papila: no diagnosis": (
        lambda root: short_sheet(root, "od", **{"#105": None}),
        r"patient_data_od\.xlsx gives patient 105 the diagnosis None",
    ),
    "papila: unknown diagnosis": (
        lambda root: short_sheet(root, "od", **{"#105": 3}),
        r"patient_data_od\.xlsx gives patient 105 the diagnosis 3",
    ),
    "papila: a patient is listed twice": (
        lambda root: short_sheet(root, "od", **{"#105": 0, "105": 0}),
        r"patient_data_od\.xlsx lists patient 105 twice",
    ),
    "papila: a sheet without its column": (
        lambda root: (root / PAPILA / "ClinicalData/patient_data_os.xlsx").write_bytes(
            trees.spreadsheet({"#002": 0}, column="Verdict")
        ),
        r"patient_data_os\.xlsx has no column Diagnosis",
    ),
    "papila: a sheet without patients": (
        lambda root: (root / PAPILA / "ClinicalData/patient_data_os.xlsx").write_bytes(
            trees.spreadsheet({})
        ),
        r"patient_data_os\.xlsx and patient_data_od\.xlsx differ in the patients 002, 004",
    ),
    "papila: an eye without a label": (
        lambda root: short_sheet(root, "os", **{"#105": ""}),
        r"patient_data_os\.xlsx gives patient 105 the diagnosis",
    ),
    "papila: a sheet is missing": (
        lambda root: (root / PAPILA / "ClinicalData/patient_data_os.xlsx").unlink(),
        r"patient_data_os\.xlsx is missing",
    ),
    "papila: a sheet is damaged": (
        lambda root: (root / PAPILA / "ClinicalData/patient_data_od.xlsx").write_bytes(b"PK"),
        r"patient_data_od\.xlsx cannot be read",
    ),
    "papila: half extracted": (
        lambda root: (root / PAPILA / "FundusImages/RET020OS.jpg").unlink(),
        r"RET020OS\.jpg does not exist",
    ),
}


FOLDERS = {
    "an image is missing": (
        lambda root, all_of_it: some(root / "train/cat").unlink(),
        r"train/cat holds \d images instead of [45]:",
    ),
    "an image too many": (
        lambda root, all_of_it: [
            (root / f"test/dog/{n}.png").write_bytes(some(root / "test/dog").read_bytes())
            for n in "xy"
        ],
        r"test/dog holds 4 images instead of 2",
    ),
    "a damaged image": (
        lambda root, all_of_it: some(root / "test/ship").write_bytes(b"\x89PNG"),
        r"test/ship/\d+\.png cannot be read",
    ),
    "an image of another size": (
        lambda root, all_of_it: trees.picture(1).save(some(root / "test/ship")),
        r"has test images or labels that are not the published ones",
    ),
    "two images in the wrong class": (
        lambda root, all_of_it: swap(some(root / "test/ship"), some(root / "test/frog")),
        r"has test images or labels that are not the published ones",
    ),
    "a class is missing": (
        lambda root, all_of_it: (root / "test/bird").rename(root / "test/.bird"),
        r"test does not hold a folder for each of the 10 classes \(bird\)",
    ),
    "a class too many": (
        lambda root, all_of_it: (root / "train/cow").mkdir(),
        r"train does not hold a folder for each of the 10 classes \(cow\)",
    ),
}


def some(folder):
    return sorted(folder.iterdir())[0]


def swap(a, b):
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def flip(path):
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("all_of_it", [True, False])
@pytest.mark.parametrize("case", FOLDERS)
def test_what_is_broken_in_folders_is_named(case, all_of_it, small):
    damage, message = FOLDERS[case]
    tree = small(FEW)
    trees.as_folders(tree, all_of_it)
    listing(FEW, tree.root)
    damage(tree.root, all_of_it)
    with pytest.raises(UserError, match=message):
        listing(FEW, tree.root)


def test_damaged_flowers_are_named_where_their_checksums_are_known(small, tmp_path, monkeypatch):
    tree = small("flower102-64")
    sums = "".join(
        hashlib.sha256((tree.root / path).read_bytes()).hexdigest()[:8] + "\n"
        for path, _, _ in tree.images
    )
    monkeypatch.setattr(records, "ROOT", tmp_path)
    (tmp_path / "data" / "checksums").mkdir(parents=True)
    (tmp_path / "data" / "checksums" / "flower102-64.txt").write_text(sums)
    listing("flower102-64", tree.root)
    flip(tree.root / tree.images[0][0])
    with pytest.raises(UserError, match=r"published ones: .*image_00006\.jpg \(1 in all\)"):
        listing("flower102-64", tree.root)


def test_the_list_of_checksums_is_whole():
    found = (records.ROOT / "data" / "checksums" / "flower102-64.txt").read_text().split()
    assert len(found) == facts()["flower102-64"].images
    assert all(re.fullmatch("[0-9a-f]{8}", each) for each in found)


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(case, small):
    damage, message = BROKEN[case]
    name = case.split(":")[0]
    tree = small(name)
    listing(name, tree.root)
    damage(tree.root)
    with pytest.raises(UserError, match=message) as caught:
        listing(name, tree.root)
    assert "run `dnr data prepare`" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "changed", "message"),
    [
        (
            "flower102",
            "flowers-102/setid.mat",
            {"valid": lambda x: x[:, :-1]},
            r"setid\.mat gives 2 tuning images instead of 3",
        ),
        (
            "flower102",
            "flowers-102/imagelabels.mat",
            {"labels": lambda x: x[:, :-1]},
            r"flowers-102 is not what torchvision expects \(KeyError: 9\)",
        ),
        (
            "flower102",
            "flowers-102/imagelabels.mat",
            {"labels": lambda x: np.where(x == 102, 103, x)},
            r"image_00006\.jpg the label 103, which is not in 1 to 102",
        ),
        (
            "dogs",
            "test_list.mat",
            {"labels": lambda x: x[:-1], "file_list": lambda x: x[:-1]},
            r"test_list\.mat gives 4 test images instead of 5",
        ),
        (
            "dogs",
            "train_list.mat",
            {"file_list": lambda x: x, "labels": lambda x: x + 1},
            r"train_list\.mat gives 4 classes instead of 3",
        ),
    ],
)
def test_label_files_are_held_to_the_counts_too(name, file, changed, message, small, hold):
    """As if their checksum did not give them away."""
    tree = small(name)
    short_mat(tree.root / file, **changed)
    hold(name, tree)
    with pytest.raises(UserError, match=message):
        listing(name, tree.root)


@pytest.mark.parametrize("file", ["fog", "labels"])
def test_files_of_cifar10c_are_held_to_their_checksums(file, small):
    tree = small("cifar10c")
    flip(tree.root / f"CIFAR-10-C/{file}.npy")
    for refused in (prepare, lambda name, root: corruption("fog", root)):
        with pytest.raises(UserError, match=rf"{file}\.npy has MD5 \w+ instead of"):
            refused("cifar10c", tree.root)
    with pytest.raises(UserError, match="cifar10c is not on this machine"):
        official.corruptions_here()


def test_files_of_cifar10c_must_be_there_and_whole(small):
    tree = small("cifar10c")
    path = tree.root / "CIFAR-10-C/snow.npy"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"snow\.npy has MD5"):
        corruption("snow", tree.root)
    path.unlink()
    with pytest.raises(UserError, match=r"snow\.npy is missing"):
        corruption("snow", tree.root)


def test_images_that_cannot_be_decoded_are_named(small):
    tree = small("cub200")
    path = tree.root / tree.images[3][0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=re.escape(str(path))):
        prepare("cub200", tree.root)
    assert decoded.manifest("cub200") is None


# --------------------------------------------------------------------------------------------------
# Archives


@pytest.fixture
def packed(tmp_path, hold):
    """Writes the archives of a set into a folder, holds the set to them; returns that folder."""

    def make(name):
        tree = BUILDERS[name](tmp_path / "tree")
        folder = tmp_path / "here"
        hold(name, tree, pack(tree, folder))
        return folder

    return make


@pytest.mark.parametrize("name", BUILDERS)
def test_archives_are_extracted_once(name, packed, tmp_path, monkeypatch):
    folder = packed(name)
    made = prepare(name, folder)
    tree = BUILDERS[name](tmp_path / "again")
    for path, _, _ in tree.images:
        if isinstance(path, str):
            assert (folder / f"{name}-extracted" / path).read_bytes() == (
                tree.root / path
            ).read_bytes()
    assert sum(counts(made).values()) == len(tree.images)
    left = {path.name for path in folder.iterdir()}
    assert left == {*tree.archives, f"{name}-extracted", "lock"}

    def never(*arguments):
        raise AssertionError("extracted again")

    monkeypatch.setattr(archives, "unpack", never)
    assert prepare(name, folder) == made


def test_two_at_once_extract_once(packed, monkeypatch):
    folder = packed("dogs")
    real, done = archives.unpack, []

    def noted(path, to):
        done.append(path.name)
        real(path, to)

    monkeypatch.setattr(archives, "unpack", noted)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: prepare("dogs", folder), range(2)))
    assert made[0]["fingerprint"] == made[1]["fingerprint"]
    assert done == ["images.tar", "lists.tar"]


@pytest.mark.fault("the extraction of an archive is killed", "it begins again")
def test_a_killed_extraction_is_not_taken_for_a_whole_one(packed, monkeypatch):
    folder = packed("dogs")
    real = archives.unpack

    def killed(path, to):
        if path.name == "lists.tar":
            os.makedirs(to, exist_ok=True)
            raise KeyboardInterrupt
        real(path, to)

    monkeypatch.setattr(archives, "unpack", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare("dogs", folder)
    assert official._tree(facts()["dogs"], folder) is None
    monkeypatch.setattr(archives, "unpack", real)
    # What a process leaves that could not even clean up:
    (folder / ".dogs-extracting/Images/n02085620-Chihuahua").mkdir(parents=True)
    (folder / ".dogs-extracting/leftover").write_text("x")
    assert counts(prepare("dogs", folder)) == {"train": 4, "test": 5}
    assert not list(folder.glob(".*-extracting"))
    assert not (folder / "dogs-extracted/leftover").exists()


def test_a_full_disk_while_extracting(packed, monkeypatch):
    folder = packed("mit67")

    def full(source, target, *arguments, **settings):
        target.write(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", full)
        with pytest.raises(UserError, match=r"mit67 .*No space left on device.*make room there"):
            prepare("mit67", folder)
    assert not list(folder.glob("*-extracted"))
    assert not list(folder.glob(".*-extracting"))
    assert counts(prepare("mit67", folder)) == {"train": 5, "test": 2}


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to(code, packed, monkeypatch):
    """An extracted tree can be read there, archives cannot be extracted."""
    folder = packed("mit67")
    real = Path.mkdir

    def refused(path, *arguments, **settings):
        if folder in path.parents:
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *arguments, **settings)

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(UserError, match=r"Read-only|denied") as caught:
        prepare("mit67", folder)
    assert "--root" in str(caught.value)
    with tarfile.open(folder / "indoorCVPR_09.tar") as archive:
        archive.extractall(folder, filter="data")
    assert counts(prepare("mit67", folder)) == {"train": 5, "test": 2}


def test_a_file_in_place_of_a_folder(tmp_path, packed):
    folder = packed("mit67")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is not a folder; .*--root"):
        prepare("mit67", tmp_path / "file")
    (folder / ".mit67-extracting").write_text("")
    with pytest.raises(UserError, match=r"\.mit67-extracting"):
        prepare("mit67", folder)


@pytest.mark.parametrize("name", ["flower102", "papila"])
def test_a_wrong_checksum(name, packed):
    folder = packed(name)
    path = folder / facts()[name].archives[0].file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    function = "md5" if name == "flower102" else "sha256"
    with pytest.raises(UserError, match=rf"{path.name} has {function} \w+ instead of \w+"):
        prepare(name, folder)
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"{path.name} has {function} \w+ instead of \w+"):
        prepare(name, folder)
    assert path.exists()
    assert not list(folder.glob("*-extracted"))


def test_an_archive_without_a_checksum_is_held_to_the_counts(packed):
    folder = packed("mit67")
    path = folder / "indoorCVPR_09.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        cut = members[-2].offset
    path.write_bytes(whole[:cut])
    with pytest.raises(UserError, match=r"does not exist, though|not a whole archive"):
        prepare("mit67", folder)
    shutil.rmtree(folder / "mit67-extracted", ignore_errors=True)
    path.write_bytes(whole[: members[-1].offset_data + 10])
    with pytest.raises(UserError, match=r"indoorCVPR_09\.tar is not a whole archive"):
        prepare("mit67", folder)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match=r"indoorCVPR_09\.tar is not a whole archive"):
        prepare("mit67", folder)
    assert not list(folder.glob("*-extracted"))


@pytest.mark.parametrize(
    ("name", "cut"), [("aircraft", -40), ("tinyimagenet", -40), ("tinyimagenet", 60)]
)
def test_a_damaged_archive_with_the_right_checksum(name, cut, packed, hold, tmp_path):
    folder = packed(name)
    path = folder / facts()[name].archives[0].file
    content = bytearray(path.read_bytes())
    if cut < 0:
        path.write_bytes(content[:cut])
    else:
        at = content.index(b"\xff\xd8") + cut
        content[at] ^= 255
        path.write_bytes(content)
    hold(name, BUILDERS[name](tmp_path / "again"), {path.name: path})
    with pytest.raises(UserError, match=rf"{path.name} is not a whole archive"):
        prepare(name, folder)
    assert not list(folder.glob("*-extracted"))


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 4 if kind == tarfile.REGTYPE else 0
    return info


EVIL = {
    "../evil.txt": member("../evil.txt"),
    "Images/../../evil.txt": member("Images/../../evil.txt"),
    "/tmp/evil.txt": member("/tmp/evil.txt"),
    "Images/link": member("Images/link", tarfile.SYMTYPE, "../../../evil"),
    "Images/absolute": member("Images/absolute", tarfile.SYMTYPE, "/etc/passwd"),
    "Images/hard": member("Images/hard", tarfile.LNKTYPE, "../../evil"),
    "Images/device": member("Images/device", tarfile.CHRTYPE),
    "Images/pipe": member("Images/pipe", tarfile.FIFOTYPE),
}


@pytest.mark.fault(
    "an archive would write outside its folder",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize("name", EVIL)
def test_members_of_a_tar_that_leave_its_folder(name, packed, hold, tmp_path):
    folder = packed("mit67")
    with tarfile.open(folder / "indoorCVPR_09.tar", "a") as archive:
        archive.addfile(EVIL[name], io.BytesIO(b"evil"))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=rf"indoorCVPR_09\.tar holds '{name}', which would be"):
        prepare("mit67", folder)
    assert set(tmp_path.rglob("*")) - before == {folder / "lock"}
    assert not Path("/tmp/evil.txt").exists()


@pytest.mark.parametrize(
    "name", ["../evil.txt", "train/../../evil.txt", "/tmp/evil.txt", "C:/evil.txt", "..\\evil.txt"]
)
@POSIX
def test_members_of_a_zip_that_leave_its_folder(name, packed, hold, tmp_path):
    folder = packed("tinyimagenet")
    path = folder / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), "evil")
    hold("tinyimagenet", BUILDERS["tinyimagenet"](tmp_path / "tree"), {path.name: path})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=rf"200\.zip holds {re.escape(repr(name))}, which would be"):
        prepare("tinyimagenet", folder)
    assert set(tmp_path.rglob("*")) - before == {folder / "lock"}


def test_links_in_a_zip_are_refused(packed, hold, tmp_path):
    folder = packed("tinyimagenet")
    path = folder / "tiny-imagenet-200.zip"
    link = zipfile.ZipInfo("tiny-imagenet-200/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    hold("tinyimagenet", BUILDERS["tinyimagenet"](tmp_path / "tree"), {path.name: path})
    with pytest.raises(UserError, match=r"holds 'tiny-imagenet-200/link'"):
        prepare("tinyimagenet", folder)


def test_archives_of_something_else(packed, tmp_path):
    folder = packed("mit67")
    with tarfile.open(folder / "indoorCVPR_09.tar", "w") as archive:
        archive.add(tmp_path / "tree" / "Images" / "bar", "Scenes/bar")
    with pytest.raises(UserError, match=r"do not hold Images; .*fetch them again"):
        prepare("mit67", folder)
    assert not list(folder.glob("*-extracted"))


@POSIX
def test_missing_archives_are_said_with_where_to_get_them(packed, tmp_path):
    folder = packed("flower102")
    nowhere = tmp_path / "nowhere"
    with pytest.raises(UserError) as caught:
        prepare("flower102", nowhere)
    for archive in facts()["flower102"].archives:
        line = f"  {archive.file} ({archive.size:,} bytes, md5 {archive.md5}) from {archive.url}"
        assert line in str(caught.value).splitlines()
    assert f"dnr data prepare flower102 --root {nowhere} --download" in str(caught.value)
    assert not nowhere.exists()
    (folder / "setid.mat").unlink()
    with pytest.raises(UserError, match=r"setid\.mat") as caught:
        prepare("flower102", folder)
    assert "102flowers.tgz" not in str(caught.value)


def test_an_extracted_tree_that_lacks_a_file(small):
    tree = small("cub200")
    (tree.root / "CUB_200_2011/images.txt").unlink()
    with pytest.raises(UserError, match=r"cub200 is not in .* Put(.|\n)*_2011\.tgz \("):
        prepare("cub200", tree.root)


def test_an_altered_extraction_is_not_deleted(packed):
    folder = packed("cub200")
    prepare("cub200", folder)
    (folder / "cub200-extracted/CUB_200_2011/images.txt").unlink()
    shutil.rmtree(decoded.root())
    with pytest.raises(
        UserError, match=r"cub200-extracted lacks CUB_200_2011/images\.txt; delete that"
    ):
        prepare("cub200", folder)
    assert (folder / "cub200-extracted/CUB_200_2011/classes.txt").exists()


def test_sets_that_nobody_offers_any_more(tmp_path):
    with pytest.raises(UserError, match="its authors no longer offer it") as caught:
        prepare("cars196", tmp_path / "cars", download=True)
    assert "--download" not in str(caught.value)


def test_unknown_names():
    with pytest.raises(
        UserError, match=r"'cub' is no official dataset; choose one of: flower102, "
    ):
        prepare("cub")


# --------------------------------------------------------------------------------------------------
# What is here


def here():
    return overview().set_index("name")


def test_overview(packed, tmp_path):
    frame = here()
    assert list(frame.index) == list(facts())
    assert set(frame["here"]) == {"not here"}
    assert frame.loc[
        "aircraft", ["classes", "train", "tuning", "test", "images", "GB"]
    ].tolist() == [*(100, 3334, 3333, 3333, 10_000, 2.75)]
    assert frame.loc["cub200", "tuning"] is pd.NA
    assert pd.isna(frame.loc["mit67", "GB"])
    assert frame.loc["papila", "images"] == 488
    root = decoded.root()
    root.mkdir()
    packed("dogs").rename(root / "dogs")
    assert here().loc["dogs", "here"] == "archives there"
    (root / "dogs/lists.tar").rename(tmp_path / "lists.tar")
    assert here().loc["dogs", "here"] == "some archives there"
    (tmp_path / "lists.tar").rename(root / "dogs/lists.tar")
    prepare("dogs")
    assert here().loc["dogs", "here"] == "decoded"
    (decoded.place("dogs") / "manifest.json").unlink()
    assert here().loc["dogs", "here"] == "extracted"
    (decoded.place("dogs") / "manifest.json").write_text("{}")
    assert here().loc["dogs", "here"].startswith("damaged")


def test_overview_reads_no_archive(packed, monkeypatch):
    root = decoded.root()
    root.mkdir()
    packed("aircraft").rename(root / "aircraft")

    def never(*arguments):
        raise AssertionError("hashed")

    monkeypatch.setattr(archives, "digest", never)
    assert here().loc["aircraft", "here"] == "archives there"


# --------------------------------------------------------------------------------------------------
# Downloads


class Server(http.server.ThreadingHTTPServer):
    """Serves files by name, as its settings say; notes what was asked for."""

    files: dict[str, bytes]
    ranges = True
    cut: int | None = None
    """Ends the connection after so many bytes."""
    lost = False
    """Whether it ends as if the network were gone."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = files, []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        content = server.files.get(self.path.lstrip("/"))
        if content is None:
            return self.send_error(404)
        if server.lost and not server.cut:
            return self.lose()
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            end = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", end)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : None if server.cut is None else start + server.cut])
        if server.lost:
            # The client reads what came before the connection is reset.
            time.sleep(0.2)
            self.lose()

    def lose(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(packed, monkeypatch):
    """A server of the archives of MIT67, of which none are here; returns it and the folder."""
    folder = packed("mit67")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    known = facts()["mit67"]
    changed = tuple(
        dataclasses.replace(
            archive,
            url=f"{address}/{archive.file}",
            size=len(files[archive.file]),
            md5=hashlib.md5(files[archive.file]).hexdigest(),
        )
        for archive in known.archives
    )
    monkeypatch.setitem(facts(), "mit67", dataclasses.replace(known, archives=changed))
    yield server, folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_archives_are_downloaded(served):
    server, folder = served
    (folder).mkdir()
    (folder / "TestImages.txt").write_bytes(server.files["TestImages.txt"])
    assert counts(prepare("mit67", folder, download=True)) == {"train": 5, "test": 2}
    assert server.asked == [("/indoorCVPR_09.tar", None), ("/TrainImages.txt", None)]
    assert not list(folder.glob("*.part"))


def test_nothing_is_downloaded_unasked(served):
    server, folder = served
    with pytest.raises(UserError, match="--download"):
        prepare("mit67", folder)
    assert server.asked == []


@pytest.mark.fault("a download breaks off", "it goes on where it stopped")
@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(ranges, served):
    server, folder = served
    server.cut, server.ranges = 7000, ranges
    with pytest.raises(UserError, match=r"broke after 7,000 bytes.*it goes on from there"):
        prepare("mit67", folder, download=True)
    part = folder / "indoorCVPR_09.tar.part"
    assert part.read_bytes() == server.files["indoorCVPR_09.tar"][:7000]
    assert not (folder / "indoorCVPR_09.tar").exists()
    server.cut = None
    assert counts(prepare("mit67", folder, download=True)) == {"train": 5, "test": 2}
    assert server.asked[1] == ("/indoorCVPR_09.tar", "bytes=7000-")
    assert not part.exists()


@pytest.mark.parametrize(
    ("cut", "said"),
    [(None, r"indoorCVPR_09\.tar:"), (7000, "the connection broke after 7,000 bytes")],
)
@POSIX
def test_a_lost_connection_is_said_to_be_one(cut, said, served):
    """And not taken for a folder that cannot be written to; nothing that came is lost."""
    server, folder = served
    server.lost, server.cut = True, cut
    with pytest.raises(UserError, match=rf"{said} .*reset.*run the command again") as caught:
        prepare("mit67", folder, download=True)
    assert "--root" not in str(caught.value)
    server.lost, server.cut = False, None
    assert counts(prepare("mit67", folder, download=True)) == {"train": 5, "test": 2}
    assert server.asked[1] == ("/indoorCVPR_09.tar", cut and f"bytes={cut}-")


@pytest.mark.parametrize("call", ["exists", "read_text"])
@POSIX
def test_a_disk_that_is_gone_is_neither_full_nor_damaged(call, small, monkeypatch):
    """As of a folder on another machine to which the connection is lost."""
    tree = small("mit67")

    def gone(path, *given):
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))

    monkeypatch.setattr(Path, call, gone)
    with pytest.raises(UserError, match=r"mit67 .*not connected.*; run the command again") as said:
        prepare("mit67", tree.root)
    assert "--root" not in str(said.value)
    assert "delete" not in str(said.value)


def test_a_part_that_is_longer_than_the_file(served):
    _, folder = served
    folder.mkdir()
    (folder / "indoorCVPR_09.tar.part").write_bytes(bytes(10**6))
    assert counts(prepare("mit67", folder, download=True)) == {"train": 5, "test": 2}


def test_a_download_with_a_wrong_checksum_is_not_kept(served):
    server, folder = served
    good = server.files["TrainImages.txt"]
    server.files["TrainImages.txt"] = b"x" * len(good)
    with pytest.raises(UserError, match=r"TrainImages\.txt has md5 \w+ instead of"):
        prepare("mit67", folder, download=True)
    assert not (folder / "TrainImages.txt").exists()
    server.files["TrainImages.txt"] = good
    assert counts(prepare("mit67", folder, download=True)) == {"train": 5, "test": 2}


def test_a_part_of_another_file_is_found_out(served):
    _, folder = served
    folder.mkdir()
    (folder / "indoorCVPR_09.tar.part").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"indoorCVPR_09\.tar has md5"):
        prepare("mit67", folder, download=True)
    assert counts(prepare("mit67", folder, download=True)) == {"train": 5, "test": 2}


def test_a_file_that_the_server_does_not_have(served):
    server, folder = served
    del server.files["TestImages.txt"]
    with pytest.raises(UserError, match=r"/TestImages\.txt for .*HTTP Error 404"):
        prepare("mit67", folder, download=True)
    assert (folder / "TrainImages.txt").exists()


def test_a_server_that_is_not_there(served, monkeypatch):
    _, folder = served
    known = facts()["mit67"]
    changed = tuple(
        dataclasses.replace(archive, url="http://127.0.0.1:9/x") for archive in known.archives
    )
    monkeypatch.setitem(facts(), "mit67", dataclasses.replace(known, archives=changed))
    with pytest.raises(UserError, match=r"indoorCVPR_09\.tar: .*refused"):
        prepare("mit67", folder, download=True)


def test_a_full_disk_while_downloading(served, monkeypatch):
    _, folder = served
    real = Path.open

    class Full(io.BytesIO):
        def write(self, block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(path, mode="r", *arguments, **settings):
        return Full() if path.suffix == ".part" else real(path, mode, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(UserError, match=r"No space left on device.*make room there"):
            prepare("mit67", folder, download=True)
    assert not (folder / "indoorCVPR_09.tar").exists()
    assert counts(prepare("mit67", folder, download=True)) == {"train": 5, "test": 2}


# --------------------------------------------------------------------------------------------------
# The chapter, and what is shipped

CHAPTER = records.ROOT / "book" / "data.md"


def chapter():
    """The text of book/data.md, the rows of its two tables made from what is stated."""
    rows = {"tbl-datasets": "", "tbl-terms": ""}
    for name, known in facts().items():
        counts = [known.splits.get(pool, "–") for pool in ("train", "tuning", "test")]
        cells = [f"`{name}`", f"[{known.kind.title}]({known.page})", known.classes]
        cells += (counts if known.splits else ["by patient"] * 3) + [known.kind.size]
        shown = [f"{cell:,}" if isinstance(cell, int) else cell for cell in cells]
        rows["tbl-datasets"] += f"| {' | '.join(shown)} |\n"
        function = {"sha256": "SHA-256", "md5": "MD5", None: "counts"}
        checked = {function[each.checksum and each.checksum[0]] for each in known.archives}
        if known.contents:
            checked = {"pixels" if name == FEW else "SHA-256 of all images"}
        rows["tbl-terms"] += f"| `{name}` | {' and '.join(sorted(checked))} | {known.terms} |\n"
    text = CHAPTER.read_text()
    for name, lines in rows.items():
        text, found = re.subn(
            rf"(?<=:name: {name}\n\n)(\|.*\n\|:.*\n)(?:\|.*\n)+", rf"\g<1>{lines}", text
        )
        assert found == 1
    return text


def test_the_chapter_says_what_is_stated():
    """After a change of `official.toml`: python -m tests.test_official"""
    text, eyes, cifar = CHAPTER.read_text(), facts()["papila"], facts()["cifar10"].kind
    assert text == chapter()
    for said in (
        f"all {facts()['flower102-64'].images:,} photographs",
        f"has {eyes.images} photographs",
        "({} healthy, {} with glaucoma, {} suspect)".format(*eyes.per_class),
        "both CIFARs with ({:.4f}, {:.4f}, {:.4f}) and ({:.4f}, {:.4f}, {:.4f})".format(
            *cifar.mean, *cifar.std
        ),
        f"the {facts()[FEW].splits['test']:,} test images of CIFAR-10 under 19 corruptions at 5",
    ):
        assert said in text, said


def test_the_names_of_the_flowers_are_those_of_torchvision():
    assert facts()["flower102-64"].names == tuple(torchvision.Flowers102.classes)


def test_no_checksum_is_stated_twice():
    text = Path(official.__file__).with_name("official.toml").read_text()
    (twice,) = Counter(re.findall(r'"([0-9a-f]{20,})"', text)).most_common(1)
    assert twice[1] == 1


def test_what_is_known_of_the_sets_is_shipped(tmp_path):
    for path in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(records.ROOT / path, tmp_path)
    shutil.copytree(records.ROOT / "dnrlib", tmp_path / "dnrlib")
    program = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "dnrlib/datasets/official.toml" in zipfile.ZipFile(wheel).namelist()


if __name__ == "__main__":
    CHAPTER.write_text(chapter())
