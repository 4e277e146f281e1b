"""Readers of the official layouts: from the folder of an extracted tree to its images.

Nothing in a tree is trusted; whatever is not as published becomes a `UserError` that names the
file. Classes are in the order of their official labels, or of their names where there are none. How
many images there must be is `official`'s to say.
"""

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from . import UserError, archives
from .decoded import Listing, Picture, pixels


def wrong(path: Path, what: str) -> UserError:
    """The error that `path` in an extracted tree is not as published, in the way `what` says."""
    return UserError(
        f"{path} {what}: it was extracted in part, or changed since; delete the extracted files "
        "and run `dnr data prepare` with the archives again"
    )


def intact(path: Path, md5: str) -> None:
    """Raises `UserError` unless a file of an extracted tree is the published one."""
    if not path.is_file():
        raise wrong(path, "is missing")
    found = archives.digest(path, "md5")
    if found != md5:
        raise wrong(path, f"has MD5 {found} instead of {md5}")


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise wrong(path, "is missing") from None
    except UnicodeDecodeError as error:
        raise wrong(path, f"is no text ({error})") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def _table(path: Path) -> dict[str, str]:
    """A file of lines `ID value`, as {ID: value}."""
    pairs = [line.split(maxsplit=1) for line in _lines(path)]
    broken = next((number for number, pair in enumerate(pairs, 1) if len(pair) != 2), None)
    if broken:
        raise wrong(path, f"has no number and value in line {broken}")
    if len(dict(pairs)) != len(pairs):
        raise wrong(path, "lists a number twice")
    return dict(pairs)


def _number(path: Path, text: Any) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        raise wrong(path, f"has {text!r} where a number belongs") from None


def _mat(path: Path, *names: str) -> list[np.ndarray]:
    """Variables of a MATLAB file."""
    from scipy.io import loadmat

    if not path.exists():
        raise wrong(path, "is missing")
    try:
        found = loadmat(path, squeeze_me=True)
        return [np.atleast_1d(found[name]) for name in names]
    except Exception as error:  # A damaged file makes scipy raise anything.
        raise wrong(path, f"cannot be read ({type(error).__name__}: {error})") from None


def _torchvision(kind: type, base: Path, named: Path, **settings: Any) -> Any:
    """A dataset of torchvision; what it finds wrong is said of the path `named`."""
    try:
        return kind(base, **settings)
    except Exception as error:  # Torchvision raises what its own code happens to meet.
        what = f"is not what torchvision expects ({type(error).__name__}: {error})"
        raise wrong(named, what) from None


def flower102(base: Path) -> Listing:
    from torchvision.datasets import Flowers102

    folder, pools = base / "flowers-102", {}
    for pool, split in (("train", "train"), ("tuning", "val"), ("test", "test")):
        found = _torchvision(Flowers102, base, folder, split=split)
        # Its public items are decoded images; the files they come from are only known inside.
        pools[pool] = _pictures(found._image_files, found._labels)
    return Listing(tuple(Flowers102.classes), pools)


FLOWERS_64 = "colorization-tf-de236b5728bdff6c78b3d65ca472fd72a2e67a04"
"""The folder of the archive that offers Flowers-102 at 64 pixels."""


def flower102_64(base: Path) -> Listing:
    """The images lie in `jpg`, as in the official layout, or in the two folders of that archive."""
    files = {
        file.name: file
        for folder in ("jpg", f"{FLOWERS_64}/flowers", f"{FLOWERS_64}/testimages")
        for file in sorted((base / folder).glob("[!.]*"))
    }
    (labels,) = _mat(base / "imagelabels.mat", "labels")
    parts = _mat(base / "setid.mat", "trnid", "valid", "tstid")
    names = [f"image_{number:05d}.jpg" for number in range(1, len(labels) + 1)]
    strange = sorted(files.keys() - set(names))
    if strange:
        raise wrong(files[strange[0]], f"is none of the {len(names)} images")
    pools = {}
    for pool, numbers in zip(("train", "tuning", "test"), parts, strict=True):
        if not all(0 < number <= len(labels) for number in numbers):
            raise wrong(base / "setid.mat", f"lists {pool} images that have no label")
        pools[pool] = _pictures(
            [files.get(names[number - 1], base / "jpg" / names[number - 1]) for number in numbers],
            labels[numbers - 1] - 1,
        )
    return Listing(flower_names(), pools)


def flower_names() -> tuple[str, ...]:
    from torchvision.datasets import Flowers102

    return tuple(Flowers102.classes)


def aircraft(base: Path) -> Listing:
    from torchvision.datasets import FGVCAircraft

    folder, pools = base / "fgvc-aircraft-2013b" / "data", {}
    for pool, split in (("train", "train"), ("tuning", "val"), ("test", "test")):
        named = folder / f"images_variant_{split}.txt"
        found = _torchvision(FGVCAircraft, base, named, split=split)
        pools[pool] = _pictures(found._image_files, found._labels)
    return Listing(tuple(found.classes), pools)


def cars196(base: Path) -> Listing:
    from torchvision.datasets import StanfordCars

    pools = {}
    for pool, annotations in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        named = base / "stanford_cars" / annotations
        found = _torchvision(StanfordCars, base, named, split=pool)
        # Labels are bytes there: 1-based 0 would have become 255, which `listing` refuses.
        pools[pool] = _pictures(*zip(*found._samples, strict=True))
    return Listing(tuple(found.classes), pools)


def _cifar(base: Path, kind: type) -> Listing:
    folder, pools = base / kind.base_folder, {}
    # Checked before torchvision unpickles any of them; it checks again, but does not say which.
    for file, md5 in (*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])):
        intact(folder / file, md5)
    for pool in ("train", "test"):
        found = _torchvision(kind, base, folder, train=pool == "train")
        pools[pool] = [
            Picture(image, int(label))
            for image, label in zip(found.data, found.targets, strict=True)
        ]
    return Listing(tuple(found.classes), pools)


def cifar10(base: Path) -> Listing:
    from torchvision.datasets import CIFAR10

    return _cifar(base, CIFAR10)


def cifar100(base: Path) -> Listing:
    from torchvision.datasets import CIFAR100

    return _cifar(base, CIFAR100)


CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
FEW = {"train": 400, "tuning": 100}
"""Images of each class in a pool of the few-image CIFAR-10."""
WHOLE = {"train": 5000, "test": 1000}
"""Images of each class in CIFAR-10."""


def cifar10_few(base: Path) -> Listing:
    """Per class, the training images whose pixels (uint8: rows, then columns, then RGB) have the
    smallest SHA-256, in that order, and all test images, in that order too. The rule looks at
    pixels alone: the official batches, all of CIFAR-10 as a folder of PNG files per class, and only
    these images in such folders give the same."""
    batches = (base / "cifar-10-batches-py").is_dir()
    whole = cifar10(base) if batches else _class_folders(base)
    pools: dict[str, list[Picture]] = {"train": [], "tuning": [], "test": []}
    for pool, pictures in whole.pools.items():
        ordered = sorted(pictures, key=lambda p: hashlib.sha256(p.source.tobytes()).digest())
        for label in range(len(whole.classes)):
            members = [picture for picture in ordered if picture.label == label]
            if pool == "train":
                cut = FEW["train"]
                pools["tuning"] += members[cut : cut + FEW["tuning"]]
                members = members[:cut]
            pools[pool] += members
    return Listing(whole.classes, pools)


def _class_folders(base: Path) -> Listing:
    """CIFAR-10 as PNG files in `train/CLASS` and `test/CLASS`, all or just the few."""
    pools: dict[str, list[Picture]] = {}
    for pool, number in WHOLE.items():
        folder, pools[pool] = base / pool, []
        held = sorted(entry.name for entry in folder.glob("[!.]*"))
        if held != list(CIFAR10):
            strange = ", ".join(sorted(set(held) ^ set(CIFAR10))[:3])
            raise wrong(folder, f"does not hold a folder for each of the 10 classes ({strange})")
        counts = {number, sum(FEW.values())} if pool == "train" else {number}
        for label, name in enumerate(CIFAR10):
            files = sorted((folder / name).glob("[!.]*"))
            if len(files) not in counts:
                wanted = " or ".join(map(str, sorted(counts)))
                raise wrong(folder / name, f"holds {len(files)} images instead of {wanted}")
            counts = {len(files)}
            pools[pool] += [Picture(_read(file), label) for file in files]
    return Listing(CIFAR10, pools)


def _read(file: Path) -> np.ndarray:
    try:
        return pixels(file, 32)
    except ValueError as error:
        raise wrong(file, f"cannot be read ({error})") from None


def _pictures(files: Any, labels: Any) -> list[Picture]:
    return [Picture(Path(file), int(label)) for file, label in zip(files, labels, strict=True)]


def cub200(base: Path) -> Listing:
    folder = base / "CUB_200_2011"
    images = _table(folder / "images.txt")
    columns = []
    for file in ("image_class_labels.txt", "train_test_split.txt"):
        columns.append(_table(folder / file))
        differing = images.keys() ^ columns[-1].keys()
        if differing:
            raise wrong(
                folder / file,
                f"and {folder / 'images.txt'} list different images (such as image "
                f"{min(differing, key=lambda text: (len(text), text))})",
            )
    labels, in_train = columns
    names = _table(folder / "classes.txt")
    if list(names) != [str(number) for number in range(1, len(names) + 1)]:
        raise wrong(folder / "classes.txt", "does not number its classes from 1")
    pools: dict[str, list[Picture]] = {"train": [], "test": []}
    for image, file in images.items():
        if in_train[image] not in ("0", "1"):
            raise wrong(folder / "train_test_split.txt", f"gives image {image} no 0 or 1")
        label = _number(folder / "image_class_labels.txt", labels[image]) - 1
        pool = "train" if in_train[image] == "1" else "test"
        pools[pool].append(Picture(folder / "images" / file, label))
    return Listing(tuple(names.values()), pools)


def mit67(base: Path) -> Listing:
    files = {
        pool: _lines(base / file)
        for pool, file in (("train", "TrainImages.txt"), ("test", "TestImages.txt"))
    }
    classes = sorted({str(PurePosixPath(file).parent) for pool in files.values() for file in pool})
    number = {name: label for label, name in enumerate(classes)}
    pools = {
        pool: [
            Picture(base / "Images" / file, number[str(PurePosixPath(file).parent)])
            for file in listed
        ]
        for pool, listed in files.items()
    }
    return Listing(tuple(classes), pools)


def dogs(base: Path) -> Listing:
    pools, folders = {}, {}
    for pool, file in (("train", "train_list.mat"), ("test", "test_list.mat")):
        files, labels = _mat(base / file, "file_list", "labels")
        if len(files) != len(labels):
            raise wrong(base / file, f"has {len(labels)} labels for {len(files)} images")
        pools[pool] = _pictures([base / "Images" / str(name) for name in files], labels - 1)
        for picture in pools[pool]:
            folder = picture.source.parent.name
            if folders.setdefault(picture.label, folder) != folder:
                raise wrong(
                    base / file,
                    f"gives label {picture.label + 1} to images of {folder} and of "
                    f"{folders[picture.label]}",
                )
    return Listing(tuple(folders[label] for label in sorted(folders)), pools)


def tinyimagenet(base: Path) -> Listing:
    folder = base / "tiny-imagenet-200"
    classes = sorted(_lines(folder / "wnids.txt"))
    number = {name: label for label, name in enumerate(classes)}
    train = [
        Picture(file, number[name])
        for name in classes
        for file in sorted((folder / "train" / name / "images").glob("*.JPEG"))
    ]
    test, annotations = [], folder / "val" / "val_annotations.txt"
    for line in _lines(annotations):
        file, name, *_ = [*line.split("\t"), ""]
        if name not in number:
            raise wrong(annotations, f"gives {file} the class {name!r}, which is none")
        test.append(Picture(folder / "val" / "images" / file, number[name]))
    return Listing(tuple(classes), {"train": train, "test": test})


PAPILA = "PapilaDB-PAPILA-17f8fa7746adb20275b5b6a0d99dc9dfe3007e9f"
_DIAGNOSES = ("healthy", "glaucoma", "suspect")
"""By the number that the spreadsheets give them."""
_SEVERITY = (0, 2, 1)
"""Of each diagnosis: suspect lies between healthy and glaucoma."""


def papila(base: Path) -> Listing:
    """Both eyes of a patient are in the same pool: about 60, 20 and 20 percent of the patients of
    each severity (that of the worse eye), in the order of the SHA-256 of their numbers."""
    eyes: dict[str, dict[str, int]] = {}
    for eye in ("OD", "OS"):
        path = base / PAPILA / "ClinicalData" / f"patient_data_{eye.lower()}.xlsx"
        eyes[eye] = _diagnoses(path)
    if eyes["OD"].keys() != eyes["OS"].keys():
        differing = ", ".join(sorted(eyes["OD"].keys() ^ eyes["OS"].keys())[:5])
        raise wrong(path, f"and patient_data_od.xlsx differ in the patients {differing}")
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
    return Listing(_DIAGNOSES, pools)


def patient(file: Path) -> str:
    """The number of PAPILA's patient that a photograph (`RET002OD.jpg`) shows."""
    return file.stem.removeprefix("RET")[:-2]


def _diagnoses(path: Path) -> dict[str, int]:
    """The diagnosis of every patient in one of PAPILA's spreadsheets, by number (`002`)."""
    import openpyxl

    if not path.exists():
        raise wrong(path, "is missing")
    try:
        rows = list(openpyxl.load_workbook(path, data_only=True).active.values)
    except Exception as error:  # A damaged file makes openpyxl raise anything.
        raise wrong(path, f"cannot be read ({type(error).__name__}: {error})") from None
    # Two or three rows of headings, some of them merged; patients are #002 and so on.
    column = next((row.index("Diagnosis") for row in rows if "Diagnosis" in row), None)
    if column is None:
        raise wrong(path, "has no column Diagnosis")
    found: dict[str, int] = {}
    for row in rows:
        if not re.fullmatch(r"#?\d+", str(row[0]).strip()):
            continue
        patient = str(row[0]).strip().lstrip("#")
        if row[column] not in (0, 1, 2):
            raise wrong(path, f"gives patient {patient} the diagnosis {row[column]!r}")
        if patient in found:
            raise wrong(path, f"lists patient {patient} twice")
        found[patient] = int(row[column])
    return found


def npy(path: Path, kind: type[np.integer], shape: tuple[int, ...]) -> np.memmap:
    """A NumPy file, mapped from disk, whose numbers must be of that kind and shape."""
    try:
        found = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise wrong(path, "is missing") from None
    except (OSError, ValueError, EOFError) as error:
        raise wrong(path, f"cannot be read ({error})") from None
    if found.shape != shape or not np.issubdtype(found.dtype, kind):
        wanted = f"{kind.__name__} {shape}"
        raise wrong(path, f"holds {found.dtype} {found.shape} instead of {wanted}")
    return found


def cifar10c(base: Path) -> Listing:
    raise UserError(
        "cifar10c has no training images: networks trained on cifar10 are evaluated on it "
        "(official.corruptions)"
    )
