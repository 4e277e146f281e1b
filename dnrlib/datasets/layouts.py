"""Readers of the official layouts: from the folder of an extracted tree to its images.

Each dataset has a reader of its name. Nothing in a tree is trusted: any difference from what is
published is a `UserError` with the path. Classes are in the order of their official labels, or of
their names where there are none. How many images there must be is `official`'s to say.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .. import UserError
from . import archives
from .decoded import Listing, Picture, pixels


def wrong(path: Path, what: str) -> UserError:
    """The error that `path` in an extracted tree is not as published, in the way `what` says."""
    return UserError(
        f"{path} {what}: it was extracted in part, or changed since; delete the extracted files "
        "and run `dnr data prepare` with the archives again"
    )


def intact(path: Path, md5: str) -> None:
    """Raises `UserError` unless a file of an extracted tree is the published one."""
    found = path.is_file() and archives.digest(path, "md5")
    if found != md5:
        raise wrong(path, f"has MD5 {found} instead of {md5}" if found else "is missing")


@contextmanager
def reading(path: Path, what: str = "cannot be read") -> Iterator[None]:
    """Turns any error in reading a damaged or foreign file into a `UserError`."""
    if not path.exists():
        raise wrong(path, "is missing")
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or archives.of_the_system(error):
            raise
        raise wrong(path, f"{what} ({type(error).__name__}: {error})") from None


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    with reading(path):
        text = path.read_text("utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _table(path: Path) -> dict[str, str]:
    """A file of lines `ID value`, as {ID: value}."""
    lines = _lines(path)
    with reading(path):
        return dict(line.split(maxsplit=1) for line in lines)


def _mat(path: Path, *names: str) -> list[np.ndarray]:
    """Variables of a MATLAB file."""
    from scipy.io import loadmat

    with reading(path):
        found = loadmat(path, squeeze_me=True)
        return [np.atleast_1d(found[name]) for name in names]


def _pictures(sources: Iterable[Any], labels: Iterable[Any]) -> list[Picture]:
    return [Picture(source, int(label)) for source, label in zip(sources, labels, strict=True)]


def _torchvision(kind: str, base: Path, named: str, **settings: Any) -> Any:
    """A dataset of torchvision; what it finds wrong is said of the path `named` in the tree."""
    import torchvision

    with reading(base / named, "is not what torchvision expects"):
        return getattr(torchvision.datasets, kind)(base, **settings)


def _official_split(kind: str, named: str, base: Path) -> Listing:
    pools = {}
    for pool, split in (("train", "train"), ("tuning", "val"), ("test", "test")):
        found = _torchvision(kind, base, named.format(split), split=split)
        # Its public items are decoded images; the files they come from are only known inside.
        pools[pool] = _pictures(map(Path, found._image_files), found._labels)
    return Listing(tuple(found.classes), pools)


flower102 = partial(_official_split, "Flowers102", "flowers-102")
aircraft = partial(
    _official_split, "FGVCAircraft", "fgvc-aircraft-2013b/data/images_variant_{}.txt"
)


def cars196(base: Path) -> Listing:
    """The official split: annotations of the training and of the test images name file and class;
    classes in the order of the devkit."""
    pools = {}
    for pool, annotations in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        found = _torchvision("StanfordCars", base, f"stanford_cars/{annotations}", split=pool)
        # Labels are bytes there: 1-based 0 would have become 255, which `listing` refuses.
        files, labels = zip(*found._samples, strict=True)
        pools[pool] = _pictures(map(Path, files), labels)
    return Listing(tuple(found.classes), pools)


def _cifar(kind: str, base: Path) -> Listing:
    from torchvision import datasets

    known, pools = getattr(datasets, kind), {}
    meta = (known.meta["filename"], known.meta["md5"])
    # Checked before torchvision unpickles any of them; it checks again, but does not say which.
    for file, md5 in (*known.train_list, *known.test_list, meta):
        intact(base / known.base_folder / file, md5)
    for pool in ("train", "test"):
        found = _torchvision(kind, base, known.base_folder, train=pool == "train")
        pools[pool] = _pictures(found.data, found.targets)
    return Listing(tuple(found.classes), pools)


cifar10, cifar100 = partial(_cifar, "CIFAR10"), partial(_cifar, "CIFAR100")

FEW = {"train": 400, "tuning": 100}
"""Images of each class in a pool of the few-image CIFAR-10."""
WHOLE = {"train": {5000, sum(FEW.values())}, "test": {1000}}
"""Images of each class in CIFAR-10, and in the folders of just the few."""


def cifar10_few(base: Path, names: tuple[str, ...]) -> Listing:
    """Per class, the training images whose pixels (uint8: rows, then columns, then RGB) have the
    smallest SHA-256, in that order, and all test images, in that order too. The rule looks at
    pixels alone: the official batches, all of CIFAR-10 as a folder of PNG files per class, and only
    these images in such folders give the same."""
    batches = (base / "cifar-10-batches-py").is_dir()
    whole = cifar10(base).pools if batches else _class_folders(base, names)
    pools: dict[str, list[Picture]] = {"train": [], "tuning": [], "test": []}
    for label in range(len(names)):
        train, test = (
            sorted((each for each in pictures if each.label == label), key=lambda p: p.sha256)
            for pictures in (whole["train"], whole["test"])
        )
        pools["train"] += train[: FEW["train"]]
        pools["tuning"] += train[FEW["train"] : sum(FEW.values())]
        pools["test"] += test
    return Listing(names, pools)


def _class_folders(base: Path, names: tuple[str, ...]) -> dict[str, list[Picture]]:
    """CIFAR-10 as PNG files in `train/CLASS` and `test/CLASS`, all or just the few."""
    pools: dict[str, list[Picture]] = {}
    for pool, counts in WHOLE.items():
        folder, pools[pool] = base / pool, []
        if strange := {entry.name for entry in folder.glob("[!.]*")} ^ set(names):
            listed = ", ".join(sorted(strange)[:3])
            raise wrong(folder, f"does not hold a folder for each of the 10 classes ({listed})")
        for label, name in enumerate(names):
            files = sorted((folder / name).glob("[!.]*"))
            if len(files) not in counts:
                wanted = " or ".join(map(str, sorted(counts)))
                raise wrong(folder / name, f"holds {len(files)} images instead of {wanted}")
            counts = {len(files)}
            for file in files:
                with reading(file):
                    pools[pool].append(Picture(pixels(file, 32), label))
    return pools


FLOWERS_64 = "colorization-tf-de236b5728bdff6c78b3d65ca472fd72a2e67a04"
"""The folder of the archive that offers Flowers-102 at 64 pixels."""


def flower102_64(base: Path, names: tuple[str, ...]) -> Listing:
    """The images lie in `jpg`, as in the official layout, or in the two folders of that archive."""
    found = {
        file.name: file
        for folder in ("jpg", f"{FLOWERS_64}/flowers", f"{FLOWERS_64}/testimages")
        for file in sorted((base / folder).glob("[!.]*"))
    }
    (labels,) = _mat(base / "imagelabels.mat", "labels")
    parts = _mat(base / "setid.mat", "trnid", "valid", "tstid")
    known = {f"image_{number:05d}.jpg" for number in range(1, len(labels) + 1)}
    if strange := sorted(found.keys() - known):
        raise wrong(found[strange[0]], f"is none of the {len(known)} images")
    pools = {}
    for pool, numbers in zip(("train", "tuning", "test"), parts, strict=True):
        files = [f"image_{number:05d}.jpg" for number in numbers]
        files = [found.get(file, base / "jpg" / file) for file in files]
        pools[pool] = _pictures(files, labels[numbers - 1] - 1)
    return Listing(names, pools)


def cub200(base: Path) -> Listing:
    """The official split of `train_test_split.txt`; classes in the order of `classes.txt`."""
    folder = base / "CUB_200_2011"
    images, labels, in_train, names = (
        _table(folder / f"{file}.txt")
        for file in ("images", "image_class_labels", "train_test_split", "classes")
    )
    pools: dict[str, list[Picture]] = {"train": [], "test": []}
    with reading(folder / "image_class_labels.txt"):
        pictures = {
            image: Picture(folder / "images" / file, int(labels[image]) - 1)
            for image, file in images.items()
        }
    with reading(folder / "train_test_split.txt"):
        for image, picture in pictures.items():
            pools[{"1": "train", "0": "test"}[in_train[image]]].append(picture)
    with reading(folder / "classes.txt"):
        return Listing(tuple(names[str(number + 1)] for number in range(len(names))), pools)


def mit67(base: Path) -> Listing:
    """The official split of `TrainImages.txt` and `TestImages.txt`; classes: folders, sorted."""
    lists = {
        pool: [PurePosixPath(line) for line in _lines(base / file)]
        for pool, file in (("train", "TrainImages.txt"), ("test", "TestImages.txt"))
    }
    classes = sorted({str(file.parent) for files in lists.values() for file in files})
    pools = {
        pool: [Picture(base / "Images" / file, classes.index(str(file.parent))) for file in files]
        for pool, files in lists.items()
    }
    return Listing(tuple(classes), pools)


def dogs(base: Path) -> Listing:
    """The official split of `train_list.mat` and `test_list.mat`; classes by their labels."""
    pools, folders = {}, {}
    for pool, file in (("train", "train_list.mat"), ("test", "test_list.mat")):
        files, labels = _mat(base / file, "file_list", "labels")
        pools[pool] = _pictures([base / "Images" / str(name) for name in files], labels - 1)
        folders |= {picture.label: picture.source.parent.name for picture in pools[pool]}
    return Listing(tuple(folders[label] for label in sorted(folders)), pools)


def tinyimagenet(base: Path) -> Listing:
    """The training images, and the labelled validation images as test images; classes are the
    WordNet numbers, sorted."""
    folder = base / "tiny-imagenet-200"
    classes = sorted(_lines(folder / "wnids.txt"))
    train = [
        Picture(file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / "train" / name / "images").glob("*.JPEG"))
    ]
    test, annotations = [], folder / "val" / "val_annotations.txt"
    lines = _lines(annotations)
    with reading(annotations):
        for line in lines:
            file, name = line.split("\t")[:2]
            test.append(Picture(folder / "val" / "images" / file, classes.index(name)))
    return Listing(tuple(classes), {"train": train, "test": test})


PAPILA = "PapilaDB-PAPILA-17f8fa7746adb20275b5b6a0d99dc9dfe3007e9f"
_DIAGNOSES = ("healthy", "glaucoma", "suspect")
"""By the number that the spreadsheets give them."""
_SEVERITY = (0, 2, 1)
"""Of each diagnosis: suspect lies between healthy and glaucoma."""


def papila(base: Path) -> Listing:
    """Both eyes of a patient are in the same pool: about 60, 20 and 20 percent of the patients of
    each severity (that of the worse eye), in the order of the SHA-256 of their numbers."""
    sheets = {
        eye: base / PAPILA / "ClinicalData" / f"patient_data_{eye.lower()}.xlsx"
        for eye in ("OD", "OS")
    }
    eyes = {eye: _diagnoses(path) for eye, path in sheets.items()}
    differing = eyes["OD"].keys() ^ eyes["OS"].keys()
    if differing:
        listed = ", ".join(sorted(differing)[:5])
        raise wrong(sheets["OS"], f"and {sheets['OD'].name} differ in the patients {listed}")
    strata: dict[int, list[str]] = {}
    for patient in sorted(eyes["OD"], key=lambda text: hashlib.sha256(text.encode()).hexdigest()):
        worse = max((eyes[eye][patient] for eye in eyes), key=_SEVERITY.__getitem__)
        strata.setdefault(worse, []).append(patient)
    chosen: dict[str, list[str]] = {"train": [], "tuning": [], "test": []}
    for stratum in strata.values():
        fifth = round(len(stratum) / 5)
        chosen["test"] += stratum[:fifth]
        chosen["tuning"] += stratum[fifth : 2 * fifth]
        chosen["train"] += stratum[2 * fifth :]
    folder = base / PAPILA / "FundusImages"
    pools = {
        pool: [
            Picture(folder / f"RET{patient}{eye}.jpg", eyes[eye][patient])
            for patient in sorted(listed)
            for eye in eyes
        ]
        for pool, listed in chosen.items()
    }
    patients = {pool: [each for each in sorted(of) for _ in eyes] for pool, of in chosen.items()}
    return Listing(_DIAGNOSES, pools, {"patients": patients})


def _diagnoses(path: Path) -> dict[str, int]:
    """The diagnosis of every patient in one of PAPILA's spreadsheets, by number (`002`)."""
    import openpyxl

    with reading(path):
        rows = list(openpyxl.load_workbook(path, data_only=True).active.values)
    # Two or three rows of headings, some of them merged; patients are #002 and so on.
    column = next((row.index("Diagnosis") for row in rows if "Diagnosis" in row), None)
    if column is None:
        raise wrong(path, "has no column Diagnosis")
    found: dict[str, int] = {}
    for row in rows:
        if number := re.fullmatch(r"#?(\d+)", str(row[0]).strip()):
            if row[column] not in (0, 1, 2):
                raise wrong(path, f"gives patient {number[1]} the diagnosis {row[column]!r}")
            if number[1] in found:
                raise wrong(path, f"lists patient {number[1]} twice")
            found[number[1]] = int(row[column])
    return found
