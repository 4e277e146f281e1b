"""The official datasets: where their archives are, what proves them whole, and how they are read.

`prepare` goes from whatever is there (nothing, archives, an extracted tree) to a decoded dataset.
What a set consists of is stated in `OFFICIAL` and every tree is held to it; anything else is a
`UserError` that names the file.
"""

import functools
import hashlib
import os
import shlex
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import UserError, archives, decoded, layouts, records
from .archives import Archive
from .corruptions import CORRUPTIONS
from .data import Dataset, Split
from .decoded import Kind, Listing, Picture


@dataclass(frozen=True)
class Official:
    """What is known of an official dataset before its files are read."""

    page: str
    """Where a person reads about it and gets it."""
    archives: tuple[Archive, ...]
    tree: dict[str, str | None]
    """Paths that its extracted tree must have, with the MD5 of label files where it is known."""
    lists: dict[str, str]
    """Per pool, the path in the tree that says which images belong to it."""
    classes: int
    splits: dict[str, int]
    """Images per official pool; `tuning` is the official validation split. Empty if there is no
    official split."""
    kind: Kind
    terms: str
    """Under what terms it is offered, as far as known."""
    read: Callable[[Path], Listing]
    """From the folder of the extracted tree; see `listing`, which also verifies it."""
    per_class: tuple[int, ...] = ()
    """Images of each class over all pools, where that is what is known instead of `splits`."""
    also: dict[str, str | None] = field(default_factory=dict)
    """Like `tree`: another layout in which the extracted files may lie."""
    contents: dict[str, str] = field(default_factory=dict)
    """Per pool, the SHA-256 over its images and labels (`content`), where that is known."""
    fingerprint: str = ""
    """That of the decoded images, where results are published: their records can be read without
    the images."""
    names: Callable[[], tuple[str, ...]] = tuple
    """The classes in the order of their labels; known where a fingerprint is."""

    @property
    def title(self) -> str:
        return self.kind.title

    @property
    def images(self) -> int:
        """Images of all pools."""
        return sum(self.splits.values()) or sum(self.per_class)


# --------------------------------------------------------------------------------------------------
# The sets. MD5s are those of torchvision (Flowers, CIFAR, Cars), Zenodo, or of loaders in common
# use; sizes are those that TensorFlow Datasets or the offering site state.

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_CIFAR = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
_FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
_AIRCRAFT = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"
_CUB = "https://data.caltech.edu/records/65de6-vp158/files"
_MIT = "https://web.mit.edu/torralba/www"
_LABELME = "http://groups.csail.mit.edu/vision/LabelMe/NewImages"
_DOGS = "http://vision.stanford.edu/aditya86/ImageNetDogs"
_TORONTO = "https://www.cs.toronto.edu/~kriz"
_STANFORD = "http://cs231n.stanford.edu"
_ZENODO = "https://zenodo.org/records/2535967"


def _photographs(title: str) -> Kind:
    return Kind(title, 256, 224, **_IMAGENET)


def _archive(
    at: str | None, file: str, size: int | None = None, digest: str = "", into: str = ""
) -> Archive:
    """The archive `file` offered at the address `at`, with an MD5 (32 digits) or a SHA-256."""
    known = {"md5" if len(digest) == 32 else "sha256": digest} if digest else {}
    return Archive(file, at and f"{at}/{file}", size=size, into=into, **known)


def _paths(folder: str, *names: str) -> dict[str, None]:
    return {f"{folder}/{name}": None for name in names}


_COLORIZATION = (
    "https://github.com/Shmaltalk/colorization-tf/archive/de236b5728bdff6c78b3d65ca472fd72a2e67a04"
)
_FLOWER_LABELS = {
    "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
    "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
}
_CIFAR10_ARCHIVES = (
    _archive(_TORONTO, "cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a"),
)
_CIFAR10_TREE = _paths(
    "cifar-10-batches-py",
    *(f"data_batch_{number}" for number in range(1, 6)),
    *("test_batch", "batches.meta"),
)

SEVERITIES = 5
# From the loader of TorchUncertainty; that of the labels is stated elsewhere too.
_CIFAR10C = {
    "gaussian_noise": "ecaf8b9a2399ffeda7680934c33405fd",
    "shot_noise": "3a7239bb118894f013d9bf1984be7f11",
    "impulse_noise": "2090e01c83519ec51427e65116af6b1a",
    "defocus_blur": "7d1322666342a0702b1957e92f6254bc",
    "glass_blur": "7361fb4019269e02dbf6925f083e8629",
    "motion_blur": "fffa5f852ff7ad299cfe8a7643f090f4",
    "zoom_blur": "6ea8e63f1c5cdee1517533840641641b",
    "snow": "bb238de8555123da9c282dea23bd6e55",
    "frost": "31f6ab3bce1d9934abfb0cc13656f141",
    "fog": "7b397314b5670f825465fbcd1f6e9ccd",
    "brightness": "0a81ef75e0b523c3383219c330a85d48",
    "contrast": "3c8262171c51307f916c30a3308235a8",
    "elastic_transform": "9421657c6cd452429cf6ce96cc412b5f",
    "pixelate": "0f14f7e2db14288304e1de10df16832f",
    "jpeg_compression": "2b9cc4c864e0193bb64db8d7728f8187",
    "speckle_noise": "ef00b87611792b00df09c0b0237a1e30",
    "gaussian_blur": "c33370155bc9b055fb4a89113d3c559d",
    "spatter": "8a5a3903a7f8f65b59501a6093b4311e",
    "saturate": "1cfae0964219c5102abbb883e538cc56",
    "labels": "c439b113295ed5254878798ffe28fd54",
}

OFFICIAL: dict[str, Official] = {
    "flower102": Official(
        page=f"{_FLOWERS}/",
        archives=tuple(
            _archive(_FLOWERS, *known, into="flowers-102")
            for known in (
                ("102flowers.tgz", 344_862_509, "52808999861908f626f3c1f4e79d11fa"),
                ("imagelabels.mat", 502, "e0620be6f572b9609742df49c70aed4d"),
                ("setid.mat", 14_989, "a5357ecc9cb78c4bef273ce3793fc85c"),
            )
        ),
        tree={
            "flowers-102/jpg": None,
            "flowers-102/imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
            "flowers-102/setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
        },
        lists=dict.fromkeys(("train", "tuning", "test"), "flowers-102/setid.mat"),
        classes=102,
        splits={"train": 1020, "tuning": 1020, "test": 6149},
        kind=_photographs("Oxford 102 Flower"),
        terms="no licence stated",
        read=layouts.flower102,
    ),
    "flower102-64": Official(
        page=f"{_FLOWERS}/",
        archives=(
            Archive(f"{layouts.FLOWERS_64}.tar.gz", f"{_COLORIZATION}.tar.gz"),
            _archive(_FLOWERS, "imagelabels.mat", 502, "e0620be6f572b9609742df49c70aed4d"),
            _archive(_FLOWERS, "setid.mat", 14_989, "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
        tree=_paths(layouts.FLOWERS_64, "flowers", "testimages") | _FLOWER_LABELS,
        also={"jpg": None} | _FLOWER_LABELS,
        lists=dict.fromkeys(("train", "tuning", "test"), "setid.mat"),
        classes=102,
        splits={"train": 1020, "tuning": 1020, "test": 6149},
        kind=Kind("Oxford 102 Flower at 64 pixels", 64, 64, **_IMAGENET),
        terms="no licence stated",
        read=layouts.flower102_64,
        contents={
            "train": "ea3ef244a0aa9bd944157094d6576ce18eabf1851bd1ad4ec9f7a2cc00a5721c",
            "tuning": "d09148de7ea46f335dc2803524eafbe98919fdb7731f0065c7213dbc58244679",
            "test": "d351ae1bbc3c90fb688d1a0c696def9c3ab624f81ae70b12a3495edfe020d185",
        },
        fingerprint="12a6784df97719bdb3a4",
        names=layouts.flower_names,
    ),
    "cub200": Official(
        page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        archives=(
            _archive(
                _CUB,
                "CUB_200_2011.tgz",
                1_150_585_339,
                "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
            ),
        ),
        tree=_paths(
            "CUB_200_2011",
            *("images", "images.txt", "image_class_labels.txt", "train_test_split.txt"),
            "classes.txt",
        ),
        lists=dict.fromkeys(("train", "test"), "CUB_200_2011/train_test_split.txt"),
        classes=200,
        splits={"train": 5994, "test": 5794},
        kind=_photographs("Caltech-UCSD Birds-200-2011"),
        terms="no licence stated",
        read=layouts.cub200,
    ),
    "aircraft": Official(
        page=f"{_AIRCRAFT}/",
        archives=(
            _archive(
                f"{_AIRCRAFT}/archives",
                "fgvc-aircraft-2013b.tar.gz",
                2_753_340_328,
                "d4acdd33327262359767eeaa97a4f732",
            ),
        ),
        tree=_paths(
            "fgvc-aircraft-2013b/data",
            *("images", "variants.txt", "images_variant_train.txt", "images_variant_val.txt"),
            "images_variant_test.txt",
        ),
        lists={
            "train": "fgvc-aircraft-2013b/data/images_variant_train.txt",
            "tuning": "fgvc-aircraft-2013b/data/images_variant_val.txt",
            "test": "fgvc-aircraft-2013b/data/images_variant_test.txt",
        },
        classes=100,
        splits={"train": 3334, "tuning": 3333, "test": 3333},
        kind=_photographs("FGVC-Aircraft 2013b"),
        terms="non-commercial research only; the photographers keep their copyright",
        read=layouts.aircraft,
    ),
    "mit67": Official(
        page=f"{_MIT}/indoor.html",
        archives=(
            _archive(_LABELME, "indoorCVPR_09.tar"),
            _archive(_MIT, "TrainImages.txt"),
            _archive(_MIT, "TestImages.txt"),
        ),
        tree=dict.fromkeys(("Images", "TrainImages.txt", "TestImages.txt")),
        lists={"train": "TrainImages.txt", "test": "TestImages.txt"},
        classes=67,
        splits={"train": 5360, "test": 1340},
        kind=_photographs("MIT Indoor 67"),
        terms="research only",
        read=layouts.mit67,
    ),
    "dogs": Official(
        page=f"{_DOGS}/",
        archives=(
            _archive(_DOGS, "images.tar", 793_579_520, "1bb1f2a596ae7057f99d7d75860002ef"),
            _archive(_DOGS, "lists.tar", 481_280, "edbb9f16854ec66506b5f09b583e0656"),
        ),
        tree={
            "Images": None,
            "train_list.mat": "d37f459eacccfa4d299373dffba9648d",
            "test_list.mat": "66f60c285efbc3ce2fb7893bd26c6b80",
        },
        lists={"train": "train_list.mat", "test": "test_list.mat"},
        classes=120,
        splits={"train": 12_000, "test": 8580},
        kind=_photographs("Stanford Dogs"),
        terms="no licence stated; images of ImageNet",
        read=layouts.dogs,
    ),
    "cifar10": Official(
        page=f"{_TORONTO}/cifar.html",
        archives=_CIFAR10_ARCHIVES,
        tree=_CIFAR10_TREE,
        lists={"train": "cifar-10-batches-py", "test": "cifar-10-batches-py/test_batch"},
        classes=10,
        splits={"train": 50_000, "test": 10_000},
        kind=Kind("CIFAR-10", 32, 32, **_CIFAR),
        terms="no licence stated",
        read=layouts.cifar10,
    ),
    "cifar10-few": Official(
        page=f"{_TORONTO}/cifar.html",
        archives=_CIFAR10_ARCHIVES,
        tree=_CIFAR10_TREE,
        also=dict.fromkeys(
            f"{pool}/{name}" for pool in ("train", "test") for name in layouts.CIFAR10
        ),
        lists={"train": "train", "tuning": "train", "test": "test"},
        classes=10,
        splits={"train": 4000, "tuning": 1000, "test": 10_000},
        kind=Kind("CIFAR-10, at most 400 images per class", 32, 32, **_CIFAR),
        terms="no licence stated",
        read=layouts.cifar10_few,
        contents={
            "train": "67859b14411c5a9b307e7b3545dfe1a9c34f5edbbc91b30fc78c287953ef8388",
            "tuning": "43e002d886b8acfb94d0f734e5bb30fa1246b116eb5fdd7f7de1440f33ede208",
            "test": "06cc90f04451b058ad3d231f7a813e276bc52a16a35f57d9992aa2768127609f",
        },
        fingerprint="2030e34dd09611ac72c4",
        names=lambda: layouts.CIFAR10,
    ),
    "cifar100": Official(
        page=f"{_TORONTO}/cifar.html",
        archives=(
            _archive(
                _TORONTO, "cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"
            ),
        ),
        tree=_paths("cifar-100-python", "train", "test", "meta"),
        lists={"train": "cifar-100-python/train", "test": "cifar-100-python/test"},
        classes=100,
        splits={"train": 50_000, "test": 10_000},
        kind=Kind("CIFAR-100", 32, 32, **_CIFAR),
        terms="no licence stated",
        read=layouts.cifar100,
    ),
    "tinyimagenet": Official(
        page=f"{_STANFORD}/",
        archives=(
            _archive(
                _STANFORD, "tiny-imagenet-200.zip", 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"
            ),
        ),
        tree=_paths(
            "tiny-imagenet-200", "train", "val/images", "val/val_annotations.txt", "wnids.txt"
        ),
        # Labels of its test images were never given out: the validation images are the test pool.
        lists={
            "train": "tiny-imagenet-200/train",
            "test": "tiny-imagenet-200/val/val_annotations.txt",
        },
        classes=200,
        splits={"train": 100_000, "test": 10_000},
        kind=Kind("Tiny ImageNet", 64, 64, **_IMAGENET),
        terms="no licence stated; images of ImageNet",
        read=layouts.tinyimagenet,
    ),
    "cars196": Official(
        page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        archives=tuple(
            _archive(None, *known, into="stanford_cars")
            for known in (
                ("car_devkit.tgz", 330_960, "c3b158d763b6e2245038c8ad08e45376"),
                ("cars_train.tgz", 979_269_282, "065e5b463ae28d29e77c1b4b166cfe61"),
                ("cars_test.tgz", 977_350_468, "4ce7ebf6a94d07f1952d94dd34c4d501"),
                ("cars_test_annos_withlabels.mat", 185_758, "b0a2b23655a3edd16d84508592a98d10"),
            )
        ),
        tree=_paths(
            "stanford_cars",
            *("cars_train", "cars_test", "devkit/cars_meta.mat", "devkit/cars_train_annos.mat"),
        )
        | {"stanford_cars/cars_test_annos_withlabels.mat": "b0a2b23655a3edd16d84508592a98d10"},
        lists={
            "train": "stanford_cars/devkit/cars_train_annos.mat",
            "test": "stanford_cars/cars_test_annos_withlabels.mat",
        },
        classes=196,
        splits={"train": 8144, "test": 8041},
        kind=_photographs("Stanford Cars"),
        terms="no licence stated",
        read=layouts.cars196,
    ),
    "papila": Official(
        page="https://figshare.com/articles/dataset/PAPILA/14798004",
        archives=(
            Archive(
                "PAPILA.zip",
                "https://ndownloader.figshare.com/files/35013982",
                sha256="15b053dff496bc8e53eb8a8d0707ef73ba3d56c988eea92b65832c9c82852a7d",
                size=590_857_635,
            ),
        ),
        tree=_paths(
            layouts.PAPILA,
            *("FundusImages", "ClinicalData/patient_data_od.xlsx"),
            "ClinicalData/patient_data_os.xlsx",
        ),
        lists=dict.fromkeys(("train", "tuning", "test"), f"{layouts.PAPILA}/ClinicalData"),
        classes=3,
        splits={},
        per_class=(333, 87, 68),
        kind=_photographs("PAPILA"),
        terms="GPL 3.0 or later, as its figshare record says",
        read=layouts.papila,
    ),
    "cifar10c": Official(
        page=_ZENODO,
        archives=(
            _archive(
                f"{_ZENODO}/files",
                "CIFAR-10-C.tar",
                2_918_471_680,
                "c72763e101c723b7c507b96205f7e938912a5d587376173b825850cf3cb876a7",
            ),
        ),
        tree={f"CIFAR-10-C/{name}.npy": md5 for name, md5 in _CIFAR10C.items()},
        lists={"test": "CIFAR-10-C/labels.npy"},
        classes=10,
        splits={"test": len(CORRUPTIONS) * 50_000},
        kind=Kind("CIFAR-10-C", 32, 32, **_CIFAR),
        terms="CC BY 4.0",
        read=layouts.cifar10c,
    ),
}
"""The papers' datasets by name."""


# --------------------------------------------------------------------------------------------------
# From archives to a decoded dataset


def prepare(name: str, root: Path | None = None, download: bool = False) -> dict[str, Any]:
    """Makes an official dataset ready for use and returns its manifest (`decoded.decode`).

    Looks in `root` (default: a folder of that name beside the decoded ones) for the extracted tree,
    else for the archives, which are verified and extracted to a folder in it; with `download`,
    archives that are not there are fetched first. CIFAR-10-C is only verified and its folder noted;
    what comes back then are its classes, counts and folder. Raises `UserError` if anything is
    missing, damaged or not as published, and says what to do.
    """
    official = _official(name)
    root = Path(root or decoded.root() / name).expanduser().resolve()
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds {name} with --root")
    try:
        base = _tree(name, root)
        if base is None:
            missing = [each for each in official.archives if not (root / each.file).exists()]
            if missing and not download and _decoded_whole(name):
                return decoded.manifest(name)
            if any(not download or each.url is None for each in missing):
                raise _absent(name, root, missing)
            with records.lock(root):
                base = _tree(name, root) or _extracted(name, root)
        if name == "cifar10c":
            return _verified_corruptions(base)
        found = listing(name, base)
    except OSError as error:
        raise UserError(
            f"{name} cannot be prepared in {root}: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}; make room there, or give a "
            "folder that can be written to with --root"
        ) from error
    notes: dict[str, Any] = {"page": official.page, "terms": official.terms}
    if official.contents:
        notes["copies"] = _copies(found)
    if name == "papila":
        notes["patients"] = {
            pool: [layouts.patient(picture.source) for picture in pictures]
            for pool, pictures in found.pools.items()
        }
    return decoded.decode(name, found, official.kind, notes=notes)


def listing(name: str, base: Path) -> Listing:
    """What the extracted tree of an official dataset in the folder `base` consists of, held to the
    published classes and counts; raises `UserError` that names the file that differs."""
    official = _official(name)
    _check_files(official, base)
    found = official.read(base)
    if len(found.classes) != official.classes:
        raise layouts.wrong(
            base / official.lists["train"],
            f"gives {len(found.classes)} classes instead of {official.classes}",
        )
    seen: set[Path] = set()
    for pool, pictures in found.pools.items():
        path = base / official.lists[pool]
        for picture in pictures:
            if not 0 <= picture.label < official.classes:
                raise layouts.wrong(
                    path,
                    f"or a label file beside it gives {_named(picture)} the label "
                    f"{picture.label + 1}, which is not in 1 to {official.classes}",
                )
        if official.splits and len(pictures) != official.splits[pool]:
            raise layouts.wrong(
                path, f"gives {len(pictures)} {pool} images instead of {official.splits[pool]}"
            )
        files = [picture.source for picture in pictures if isinstance(picture.source, Path)]
        for file in files:
            if file in seen:
                raise layouts.wrong(path, f"lists {file} a second time")
            seen.add(file)
        absent = [file for file in files if not file.is_file()]
        if absent:
            raise layouts.wrong(
                absent[0],
                f"does not exist, though {path} lists it ({len(absent)} of {len(files)} images of "
                "this pool do not)",
            )
    labels = Counter(picture.label for pictures in found.pools.values() for picture in pictures)
    counts = tuple(labels[label] for label in range(official.classes))
    if official.per_class and counts != official.per_class:
        raise layouts.wrong(
            base / official.lists["train"],
            f"gives {counts} images per class instead of {official.per_class}",
        )
    _check_contents(name, base, found)
    return found


def content(pictures: Iterable[Picture]) -> tuple[str, list[str]]:
    """The SHA-256 over all images and labels of a pool, and that of every image: of its file or, if
    there is none, of its pixels (rows, then columns, then RGB)."""
    sha, images = hashlib.sha256(), []
    for picture in pictures:
        found = picture.source
        raw = found.tobytes() if isinstance(found, np.ndarray) else found.read_bytes()
        images.append(hashlib.sha256(raw).hexdigest())
        sha.update(f"{images[-1]} {picture.label}\n".encode())
    return sha.hexdigest(), images


def _copies(found: Listing) -> list[list[str]]:
    """Groups of equal images in different pools, each as `train image_00001.jpg`."""
    places = defaultdict(list)
    for pool, pictures in found.pools.items():
        for picture, image in zip(pictures, content(pictures)[1], strict=True):
            file = picture.source.name if isinstance(picture.source, Path) else image[:8]
            places[image].append((pool, file))
    return [
        [" ".join(place) for place in same]
        for same in places.values()
        if len({pool for pool, _ in same}) > 1
    ]


def _check_contents(name: str, base: Path, found: Listing) -> None:
    """Raises `UserError` unless the images are the published ones, as far as these are known."""
    known = records.ROOT / "data" / "checksums" / f"{name}.txt"
    sums = set(known.read_text().split()) if known.exists() else set()
    for pool, wanted in OFFICIAL[name].contents.items():
        sha, images = content(found.pools[pool])
        if sha == wanted:
            continue
        files = [str(picture.source) for picture in found.pools[pool]]
        strange = [file for file, image in zip(files, images, strict=True) if image[:8] not in sums]
        named = f": {', '.join(strange[:3])} ({len(strange)} in all)" if sums and strange else ""
        raise layouts.wrong(
            base, f"has {pool} images or labels that are not the published ones{named}"
        )


def dataset(name: str) -> Dataset | None:
    """A dataset that was decoded; or, where its fingerprint is known, without its images, which
    must be here only to be read; else None. Raises `UserError` if it was decoded to other pixels
    than the published ones."""
    known, found = OFFICIAL.get(name), decoded.dataset(name)
    if known is None or not known.fingerprint:
        return found
    if found is None:
        return Dataset(
            title=known.title,
            classes=tuple(known.names()),
            channels=3,
            size=known.kind.crop,
            mean=known.kind.mean,
            std=known.kind.std,
            fingerprint=known.fingerprint,
            pools=functools.partial(_not_here, name),
        )
    if found.fingerprint != known.fingerprint:
        decoder = decoded.manifest(name)["decoder"]
        raise UserError(
            f"the images of {name!r} have fingerprint {found.fingerprint}, not "
            f"{known.fingerprint}: this decoder ({decoder}) gives other pixels; install the pinned "
            f"versions of requirements.txt and run: dnr data prepare {name}"
        )
    return found


def _not_here(name: str) -> dict[str, Split]:
    raise UserError(
        f"the images of {name!r} are not on this machine; to get them: dnr data prepare {name}"
    )


def overview() -> pd.DataFrame:
    """One line per official dataset: name, title, classes, images per pool and in all, size of the
    archives in GB where it is known, terms, and whether it is `here`. Looks for files in the
    default folders only, and reads none of them."""
    rows = []
    for name, official in OFFICIAL.items():
        sizes = [archive.size for archive in official.archives]
        rows.append(
            {
                "name": name,
                "title": official.title,
                "classes": official.classes,
                **{pool: official.splits.get(pool) for pool in ("train", "tuning", "test")},
                "images": official.images,
                "GB": None if None in sizes else round(sum(sizes) / 1e9, 2),
                "terms": official.terms,
                "here": _state(name),
            }
        )
    counts = dict.fromkeys(("train", "tuning", "test"), "Int64")
    return pd.DataFrame(rows).astype(counts)


def corruptions(base: Path) -> tuple[dict[str, np.memmap], np.ndarray]:
    """CIFAR-10-C, from the folder that holds `CIFAR-10-C/`: images by corruption (uint8, 5 n x 32 x
    32 x 3, mapped from disk) and labels (int64, 5 n). Rows (s - 1) n to s n have severity s, in the
    order of the n test images of CIFAR-10. Raises `UserError` for anything else."""
    folder = base / "CIFAR-10-C"
    rows = OFFICIAL["cifar10c"].splits["test"] // len(CORRUPTIONS)
    shape = (rows, 32, 32, 3)
    found = {name: layouts.npy(folder / f"{name}.npy", np.uint8, shape) for name in CORRUPTIONS}
    path = folder / "labels.npy"
    labels = layouts.npy(path, np.integer, (rows,)).astype(np.int64)
    if labels.min() < 0 or labels.max() >= OFFICIAL["cifar10c"].classes:
        raise layouts.wrong(path, f"has labels {labels.min()} to {labels.max()} instead of 0 to 9")
    if (labels.reshape(SEVERITIES, -1) != labels[: rows // SEVERITIES]).any():
        raise layouts.wrong(
            path, f"does not repeat the same labels for all {SEVERITIES} severities"
        )
    return found, labels


def corruptions_here() -> Path | None:
    """The folder that holds `CIFAR-10-C/`: where it was prepared, or its default place; or None."""
    known = records.read(_prepared_corruptions())
    root = decoded.root() / "cifar10c" if known is None else Path(known["folder"])
    return _tree("cifar10c", root)


def verified_corruption(name: str) -> tuple[np.memmap, np.ndarray]:
    """Images of one corruption and labels as in `corruptions`, from `corruptions_here`; raises
    `UserError` unless both files are the published ones."""
    base = corruptions_here()
    if base is None:
        raise UserError("cifar10c is not on this machine; to get it: dnr data prepare cifar10c")
    for path in (f"CIFAR-10-C/{name}.npy", "CIFAR-10-C/labels.npy"):
        _intact_once(base / path, OFFICIAL["cifar10c"].tree[path], (base / path).stat().st_mtime_ns)
    found, labels = corruptions(base)
    return found[name], labels


@functools.lru_cache
def _intact_once(path: Path, md5: str, changed: int) -> None:
    layouts.intact(path, md5)


def _prepared_corruptions() -> Path:
    return decoded.root() / "cifar10c.json"


def _check_files(official: Official, base: Path) -> None:
    """Raises `UserError` unless the files of a tree whose checksum is known are the published
    ones."""
    for path, md5 in (official.tree | official.also).items():
        if md5 is not None:
            layouts.intact(base / path, md5)


def _official(name: str) -> Official:
    if name not in OFFICIAL:
        raise UserError(f"{name!r} is no official dataset; choose one of: {', '.join(OFFICIAL)}")
    return OFFICIAL[name]


def _state(name: str) -> str:
    official, root = OFFICIAL[name], decoded.root() / name
    try:
        if decoded.manifest(name) is not None:
            return "decoded"
    except records.DamagedFile:
        return "damaged: prepare it again"
    if _tree(name, root) is not None:
        return "extracted"
    there = sum((root / archive.file).exists() for archive in official.archives)
    if there == len(official.archives):
        return "archives there"
    return "some archives there" if there else "not here"


def _decoded_whole(name: str) -> bool:
    try:
        return decoded.manifest(name) is not None and bool(decoded.pools(name))
    except records.DamagedFile:
        return False


def _tree(name: str, root: Path) -> Path | None:
    """The folder that the extracted tree lies in: `root`, or what was extracted there; or None."""
    official = OFFICIAL[name]
    for base in (root, root / f"{name}-extracted"):
        if any(layout and not _lacking(base, layout) for layout in (official.tree, official.also)):
            return base
    return None


def _lacking(base: Path, layout: Iterable[str]) -> list[str]:
    return [path for path in layout if not (base / path).exists()]


def _absent(name: str, root: Path, missing: list[Archive]) -> UserError:
    """What to fetch, and where to put it."""
    official, wanted = OFFICIAL[name], []
    for archive in missing:
        known = [f"{archive.size:,} bytes"] if archive.size else []
        known += [" ".join(archive.checksum)] if archive.checksum else []
        wanted.append(
            f"  {archive.file} ({', '.join(known) or 'no checksum known'}) from "
            f"{archive.url or 'whoever has it: its authors no longer offer it'}"
        )
    layout = min(
        official.tree, official.also or official.tree, key=lambda x: len(_lacking(root, x))
    )
    lacking = _lacking(root, layout)
    some = 0 < len(lacking) < len(layout)
    found = f" (the extracted files there lack {', '.join(lacking[:3])})" if some else ""
    offered = all(archive.url for archive in missing)
    fetch = ["dnr", "data", "prepare", name, "--root", str(root), "--download"]
    lines = [
        f"{name} is not in {root}{found}. Put there, under these names, and run the command again:",
        *wanted,
        f"(see {official.page})",
        *([f"or run: {shlex.join(fetch)}"] if offered else []),
    ]
    return UserError("\n".join(lines))


def _named(picture: Picture) -> str:
    return str(picture.source) if isinstance(picture.source, Path) else "an image"


def _verified_corruptions(base: Path) -> dict[str, Any]:
    official = OFFICIAL["cifar10c"]
    _check_files(official, base)
    found, _ = corruptions(base)
    return records.save(
        _prepared_corruptions(),
        {
            "classes": [str(label) for label in range(official.classes)],
            "counts": [[name, len(images)] for name, images in found.items()],
            "folder": str(base),
        },
    )


def _extracted(name: str, root: Path) -> Path:
    """Extracts the archives in `root`, fetching those that are not there; returns the new folder,
    which is there whole or not at all."""
    official = OFFICIAL[name]
    final, unfinished = root / f"{name}-extracted", root / f".{name}-extracting"
    if final.exists():
        raise UserError(
            f"{final} lacks {_lacking(final, official.tree)[0]}; delete that folder, it is made "
            "again from the archives"
        )
    for archive in official.archives:
        path = root / archive.file
        if path.exists():
            archives.verify(path, archive)
            continue
        archives.download(archive, root)
        try:
            archives.verify(path, archive)
        except UserError:
            path.unlink()
            raise
    # A killed extraction leaves this behind.
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for archive in official.archives:
            archives.unpack(root / archive.file, unfinished / archive.into)
        for path in official.tree:
            if not (unfinished / path).exists():
                raise UserError(
                    f"the archives in {root} do not hold {path}; they are not the published ones: "
                    f"fetch them again ({official.page})"
                )
        os.replace(unfinished, final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return final
