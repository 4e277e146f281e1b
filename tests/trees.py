"""Small trees in the layout of each official dataset, made of real JPEG, PNG, MAT, NPY and XLSX
files, and their archives. Layouts are written down here a second time, from the sets' own
documentation: nothing is taken from `dnrlib.official`.
"""

import hashlib
import io
import pickle
import shutil
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openpyxl
from PIL import Image
from scipy.io import savemat

FLOWERS_64 = "colorization-tf-de236b5728bdff6c78b3d65ca472fd72a2e67a04"
PAPILA = "PapilaDB-PAPILA-17f8fa7746adb20275b5b6a0d99dc9dfe3007e9f"


@dataclass
class Tree:
    """A tree under `root`, and what is in it."""

    root: Path
    classes: tuple[str, ...]
    images: list[tuple[str | np.ndarray, int, str]] = field(default_factory=list)
    """Per image, in the order of its pool: path under `root` (or pixels), label, pool."""
    whole: list[tuple[np.ndarray, int, str]] = field(default_factory=list)
    """All images and labels of a set of which `images` are a few."""
    archives: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Per archive: what is in it, as (path under root, name inside); a plain file if that is ''."""

    @property
    def splits(self) -> dict[str, int]:
        return dict(Counter(pool for _, _, pool in self.images))

    def add(self, path: str, label: int, pool: str, image: Image.Image | None = None) -> None:
        """Writes one image, and notes it."""
        number = len(self.images)
        self.write(path, encoded(image or picture(number)))
        self.images.append((path, label, pool))

    def write(self, path: str, content: bytes | str) -> None:
        whole = self.root / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(content if isinstance(content, bytes) else content.encode())


def picture(number: int) -> Image.Image:
    """An image of 12 x 9 pixels that no other number gives."""
    draw = np.random.RandomState(number)
    return Image.fromarray(draw.randint(0, 256, (9, 12, 3), dtype=np.uint8))


def encoded(image: Image.Image) -> bytes:
    """A file's bytes: GIF if the image has a palette, PNG if it has transparency (whatever the name
    says, as in the wild), else JPEG."""
    file = io.BytesIO()
    image.save(file, {"P": "GIF", "RGBA": "PNG"}.get(image.mode, "JPEG"))
    return file.getvalue()


def in_mode(number: int, mode: str) -> Image.Image:
    return picture(number).convert(mode)


def mat(**variables) -> bytes:
    file = io.BytesIO()
    savemat(file, variables)
    return file.getvalue()


def flower102(root: Path) -> Tree:
    from torchvision.datasets import Flowers102

    tree = Tree(root, tuple(Flowers102.classes))
    labels = [5, 102, 1, 5, 77, 102, 1, 1, 77]
    parts = {"trnid": [6, 2, 3], "valid": [1, 8, 9], "tstid": [5, 4, 7]}
    pools = {"trnid": "train", "valid": "tuning", "tstid": "test"}
    for key, numbers in parts.items():
        for number in numbers:
            path = f"flowers-102/jpg/image_{number:05d}.jpg"
            tree.add(path, labels[number - 1] - 1, pools[key])
    tree.write("flowers-102/imagelabels.mat", mat(labels=np.array([labels], np.uint8)))
    tree.write(
        "flowers-102/setid.mat",
        mat(**{key: np.array([ids], np.uint16) for key, ids in parts.items()}),
    )
    tree.archives = {
        "102flowers.tgz": [("flowers-102/jpg", "jpg")],
        "imagelabels.mat": [("flowers-102/imagelabels.mat", "")],
        "setid.mat": [("flowers-102/setid.mat", "")],
    }
    return tree


def flower102_64(root: Path) -> Tree:
    """As the repository that offers it holds it; `as_official` brings it into the other layout."""
    from torchvision.datasets import Flowers102

    tree = Tree(root, tuple(Flowers102.classes))
    labels = [5, 102, 1, 5, 77, 102, 1, 1]
    parts = {"trnid": [6, 2, 3], "valid": [1, 8], "tstid": [5, 4, 7]}
    for numbers, pool in zip(parts.values(), ("train", "tuning", "test"), strict=True):
        for number in numbers:
            folder = "testimages" if number in (3, 7) else "flowers"
            image = picture(len(tree.images)).resize((64, 64))
            path = f"{FLOWERS_64}/{folder}/image_{number:05d}.jpg"
            tree.add(path, labels[number - 1] - 1, pool, image)
    tree.write(f"{FLOWERS_64}/data.py", "# something else\n")
    tree.write("imagelabels.mat", mat(labels=np.array([labels], np.uint8)))
    tree.write("setid.mat", mat(**{key: np.array([ids], np.uint16) for key, ids in parts.items()}))
    tree.archives = {
        f"{FLOWERS_64}.tar.gz": [(FLOWERS_64, FLOWERS_64)],
        "imagelabels.mat": [("imagelabels.mat", "")],
        "setid.mat": [("setid.mat", "")],
    }
    return tree


def as_official(tree: Tree) -> None:
    """Moves all images of a `flower102_64` into `jpg`."""
    (tree.root / "jpg").mkdir()
    for path, _, _ in tree.images:
        (tree.root / path).rename(tree.root / "jpg" / Path(path).name)
    shutil.rmtree(tree.root / FLOWERS_64)


def cub200(root: Path) -> Tree:
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    tree = Tree(root, names)
    lines = {"images": [], "image_class_labels": [], "train_test_split": []}
    modes = {2: "L", 5: "CMYK"}
    for number in range(1, 9):
        label = (number - 1) // 3
        name = f"{names[label]}/{names[label][4:]}_{number:04d}_{number * 37}.jpg"
        pool = "train" if number % 3 else "test"
        image = in_mode(number, modes[number]) if number in modes else None
        tree.add(f"CUB_200_2011/images/{name}", label, pool, image)
        lines["images"].append(f"{number} {name}")
        lines["image_class_labels"].append(f"{number} {label + 1}")
        lines["train_test_split"].append(f"{number} {int(pool == 'train')}")
    lines["classes"] = [f"{number} {name}" for number, name in enumerate(names, 1)]
    lines["bounding_boxes"] = [f"{number} 1.0 1.0 5.0 5.0" for number in range(1, 9)]
    for file, listed in lines.items():
        tree.write(f"CUB_200_2011/{file}.txt", "\n".join(listed) + "\n")
    tree.write("attributes.txt", "1 has_bill_shape::curved\n")
    tree.archives = {
        "CUB_200_2011.tgz": [
            ("attributes.txt", "attributes.txt"),
            ("CUB_200_2011", "CUB_200_2011"),
        ]
    }
    return tree


def aircraft(root: Path) -> Tree:
    names = ("707-320", "Boeing 717", "F/A-18")
    tree = Tree(root, names)
    folder = "fgvc-aircraft-2013b/data"
    ids = iter(range(34309, 99999, 707))
    listed = {}
    for split, pool in (("train", "train"), ("val", "tuning"), ("test", "test")):
        listed[split] = []
        for label in (2, 0, 1) if split == "test" else (0, 1, 2, 2):
            number = f"{next(ids):07d}"
            tree.add(f"{folder}/images/{number}.jpg", label, pool)
            listed[split].append(f"{number} {names[label]}")
    listed["trainval"] = listed["train"] + listed["val"]
    for split, lines in listed.items():
        tree.write(f"{folder}/images_variant_{split}.txt", "\n".join(lines) + "\n")
    tree.write(f"{folder}/variants.txt", "\n".join(names) + "\n")
    tree.write(f"{folder}/families.txt", "Boeing 707\nBoeing 717\nF/A-18\n")
    tree.archives = {"fgvc-aircraft-2013b.tar.gz": [("fgvc-aircraft-2013b",) * 2]}
    return tree


def mit67(root: Path) -> Tree:
    names = ("airport_inside", "bar", "winecellar")
    tree = Tree(root, names)
    lists = {"train": [], "test": []}
    for number in range(7):
        label = (2, 0, 1)[number % 3]
        pool = "test" if number in (1, 5) else "train"
        name = f"{names[label]}/{names[label]} {number}_gif.jpg"
        image = in_mode(number, "P") if number == 4 else None
        tree.add(f"Images/{name}", label, pool, image)
        lists[pool].append(name)
    # Most images of the archive are in neither list.
    tree.write("Images/bar/bar_0001.jpg", encoded(picture(99)))
    tree.write("TrainImages.txt", "\n".join(lists["train"]) + "\n")
    tree.write("TestImages.txt", "\n".join(lists["test"]))
    tree.archives = {
        "indoorCVPR_09.tar": [("Images", "Images")],
        "TrainImages.txt": [("TrainImages.txt", "")],
        "TestImages.txt": [("TestImages.txt", "")],
    }
    return tree


def dogs(root: Path) -> Tree:
    names = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02116738-African_hunting_dog")
    tree = Tree(root, names)
    for pool, labels in (("train", (0, 0, 1, 2)), ("test", (0, 1, 1, 2, 2))):
        files = []
        for label in labels:
            number = len(tree.images)
            name = f"{names[label]}/{names[label].split('-')[0]}_{number * 311}.jpg"
            image = in_mode(number, "RGBA") if number == 3 else None
            tree.add(f"Images/{name}", label, pool, image)
            files.append(name)
        cells = np.array(files, object)[:, None]
        column = np.array(labels, np.uint8)[:, None] + 1
        tree.write(f"{pool}_list.mat", mat(file_list=cells, annotation_list=cells, labels=column))
    tree.write("file_list.mat", mat(labels=np.ones((9, 1))))
    tree.archives = {
        "images.tar": [("Images", "Images")],
        "lists.tar": [
            (file, file) for file in ("file_list.mat", "train_list.mat", "test_list.mat")
        ],
    }
    return tree


def _cifar_batch(tree: Tree, number: int, labels: tuple[int, ...], pool: str) -> np.ndarray:
    """Images as CIFAR stores them: n x 3072, channel by channel."""
    draw = np.random.RandomState(number)
    rows = draw.randint(0, 256, (len(labels), 3072), dtype=np.uint8)
    for row, label in zip(rows, labels, strict=True):
        tree.images.append((row.reshape(3, 32, 32).transpose(1, 2, 0), label, pool))
    return rows


def cifar10(root: Path) -> Tree:
    names = ("airplane", "automobile", "bird")
    tree = Tree(root, names)
    folder = "cifar-10-batches-py"
    for number in range(1, 7):
        labels = ((0, 2), (1,), (2, 2, 0), (1, 1), (0,), (2, 1, 0))[number - 1]
        file, pool = ("test_batch", "test") if number == 6 else (f"data_batch_{number}", "train")
        content = {
            "batch_label": file,
            "labels": list(labels),
            "data": _cifar_batch(tree, number, labels, pool),
            "filenames": [f"{number}_{label}.png" for label in labels],
        }
        tree.write(f"{folder}/{file}", pickle.dumps(content, protocol=2))
    tree.write(f"{folder}/batches.meta", pickle.dumps({"label_names": list(names)}, protocol=2))
    tree.archives = {"cifar-10-python.tar.gz": [(folder, folder)]}
    return tree


TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar10_few(root: Path) -> Tree:
    """All of it as official batches: five training images and two test images of each class, of
    which three become training images and one is for tuning (`small_few` in the tests)."""
    tree = Tree(root, tuple(TEN))
    folder = "cifar-10-batches-py"
    for number in range(1, 7):
        # Shuffled, so that no order of the batches is that of the classes.
        labels = tuple(int(n) for n in np.random.RandomState(number).permutation(10))
        labels += labels if number == 6 else ()
        file, pool = ("test_batch", "test") if number == 6 else (f"data_batch_{number}", "train")
        content = {"labels": list(labels), "data": _cifar_batch(tree, number, labels, pool)}
        tree.write(f"{folder}/{file}", pickle.dumps(content, protocol=2))
    tree.write(f"{folder}/batches.meta", pickle.dumps({"label_names": TEN}, protocol=2))
    tree.archives = {"cifar-10-python.tar.gz": [(folder, folder)]}
    whole, tree.images = tree.images, []
    for pool in ("train", "tuning", "test"):
        for label in range(10):
            members = [
                pixels
                for pixels, of, official in whole
                if (of, official) == (label, "test" if pool == "test" else "train")
            ]
            members.sort(key=lambda pixels: hashlib.sha256(pixels.tobytes()).hexdigest())
            chosen = {"train": members[:3], "tuning": members[3:4], "test": members}[pool]
            tree.images += [(pixels, label, pool) for pixels in chosen]
    tree.whole = whole
    return tree


def as_folders(tree: Tree, all_of_it: bool) -> None:
    """A `cifar10_few` as PNG files in a folder per class instead: all of CIFAR-10, or the few."""
    shutil.rmtree(tree.root / "cifar-10-batches-py")
    for number, (pixels, label, pool) in enumerate(tree.whole if all_of_it else tree.images):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        folder = "test" if pool == "test" else "train"
        # Names in an order that says nothing.
        tree.write(f"{folder}/{TEN[label]}/{number * 7919 % 1009:04d}.png", file.getvalue())


def cifar100(root: Path) -> Tree:
    names = ("apple", "aquarium_fish", "baby", "bear")
    tree = Tree(root, names)
    folder = "cifar-100-python"
    for number, (pool, labels) in enumerate((("train", (3, 1, 0, 2, 1)), ("test", (2, 0, 3, 1)))):
        content = {
            "fine_labels": list(labels),
            "coarse_labels": [0] * len(labels),
            "data": _cifar_batch(tree, 100 + number, labels, pool),
        }
        tree.write(f"{folder}/{pool}", pickle.dumps(content, protocol=2))
    meta = {"fine_label_names": list(names), "coarse_label_names": ["fish"]}
    tree.write(f"{folder}/meta", pickle.dumps(meta, protocol=2))
    tree.archives = {"cifar-100-python.tar.gz": [(folder, folder)]}
    return tree


def tinyimagenet(root: Path) -> Tree:
    names = ("n01443537", "n01629819", "n02124075")
    tree = Tree(root, names)
    folder = "tiny-imagenet-200"

    def image(mode: str) -> Image.Image:
        return picture(1000 + len(tree.images)).resize((64, 64)).convert(mode)

    for label, name in enumerate(names):
        for number in range(3):
            mode = "L" if number == 1 else "RGB"
            tree.add(
                f"{folder}/train/{name}/images/{name}_{number}.JPEG", label, "train", image(mode)
            )
        tree.write(f"{folder}/train/{name}/{name}_boxes.txt", f"{name}_0.JPEG\t0\t0\t9\t9\n")
    lines = []
    for number, label in enumerate((2, 0, 1, 2)):
        tree.add(f"{folder}/val/images/val_{number}.JPEG", label, "test", image("RGB"))
        lines.append(f"val_{number}.JPEG\t{names[label]}\t0\t32\t44\t62")
    tree.write(f"{folder}/val/val_annotations.txt", "\n".join(lines) + "\n")
    tree.write(f"{folder}/test/images/test_0.JPEG", encoded(picture(7)))
    # Not in the order of their folders.
    tree.write(f"{folder}/wnids.txt", "\n".join(names[::-1]) + "\n")
    tree.write(f"{folder}/words.txt", "n01443537\tgoldfish, Carassius auratus\n")
    tree.archives = {"tiny-imagenet-200.zip": [(folder, folder)]}
    return tree


def cars196(root: Path) -> Tree:
    names = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Dodge Ram 2500")
    tree = Tree(root, names)
    folder = "stanford_cars"

    def annotations(pool: str, labels: tuple[int, ...]) -> bytes:
        kind = [(n, object) for n in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
        rows = np.zeros((1, len(labels)), kind)
        for number, label in enumerate(labels):
            name = f"{number + 1:05d}.jpg"
            tree.add(f"{folder}/cars_{pool}/{name}", label, pool)
            rows[0, number] = (1, 2, 3, 4, np.uint8(label + 1), name)
        return mat(annotations=rows)

    tree.write(f"{folder}/devkit/cars_train_annos.mat", annotations("train", (2, 0, 1, 1)))
    tree.write(f"{folder}/cars_test_annos_withlabels.mat", annotations("test", (1, 2, 0)))
    tree.write(f"{folder}/devkit/cars_meta.mat", mat(class_names=np.array(names, object)[None]))
    tree.archives = {
        "car_devkit.tgz": [(f"{folder}/devkit", "devkit")],
        "cars_train.tgz": [(f"{folder}/cars_train", "cars_train")],
        "cars_test.tgz": [(f"{folder}/cars_test", "cars_test")],
        "cars_test_annos_withlabels.mat": [(f"{folder}/cars_test_annos_withlabels.mat", "")],
    }
    return tree


PAPILA_EYES = {
    # Right and left eye: 0 healthy, 1 glaucoma, 2 suspect.
    **{f"{number:03d}": (0, 0) for number in (2, 4, 5, 6, 8, 9, 10, 12, 13, 105)},
    **{f"{number:03d}": (1, 1) for number in (14, 15, 17, 18)},
    "020": (0, 1),
    "021": (2, 1),
    "022": (2, 1),
    "023": (1, 2),
    **{f"{number:03d}": (2, 2) for number in (30, 31, 33)},
    "034": (0, 2),
}


def papila(root: Path) -> Tree:
    """Its pools are not official: they are noted as `any`."""
    tree = Tree(root, ("healthy", "glaucoma", "suspect"))
    for patient, eyes in PAPILA_EYES.items():
        for eye, label in zip(("OD", "OS"), eyes, strict=True):
            tree.add(f"{PAPILA}/FundusImages/RET{patient}{eye}.jpg", label, "any")
    for column, eye in enumerate(("od", "os")):
        rows = {f"#{patient}": eyes[column] for patient, eyes in PAPILA_EYES.items()}
        tree.write(f"{PAPILA}/ClinicalData/patient_data_{eye}.xlsx", spreadsheet(rows))
    tree.archives = {"PAPILA.zip": [(PAPILA, PAPILA)]}
    return tree


def spreadsheet(rows: dict[str, int], column: str = "Diagnosis") -> bytes:
    """One of PAPILA's spreadsheets: headings over two rows, partly merged, then a row ID."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append([None, "Age", "Gender", column, "Refractive Defect", None, None])
    sheet.append([None, None, None, None, "dioptre_1", "dioptre_2", "astigmatism"])
    sheet.append(["ID", None, None, None, None, None, None])
    sheet.merge_cells("E1:G1")
    for patient, diagnosis in rows.items():
        sheet.append([patient, 47, 0, diagnosis, 0.75, -1.75, None])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


CORRUPTIONS = (
    *("brightness", "contrast", "defocus_blur", "elastic_transform", "fog", "frost"),
    *("gaussian_blur", "gaussian_noise", "glass_blur", "impulse_noise", "jpeg_compression"),
    *("motion_blur", "pixelate", "saturate", "shot_noise", "snow", "spatter", "speckle_noise"),
    "zoom_blur",
)


def cifar10c(root: Path, labels: tuple[int, ...] = (7, 3)) -> Tree:
    """Test images of these labels, at five severities."""
    tree = Tree(root, tuple("0123456789"))
    labels = np.tile(np.array(labels, np.uint8), 5)
    for number, name in enumerate((*CORRUPTIONS, "labels")):
        draw = np.random.RandomState(number)
        content = draw.randint(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        file = io.BytesIO()
        np.save(file, labels if name == "labels" else content)
        tree.write(f"CIFAR-10-C/{name}.npy", file.getvalue())
        if name != "labels":
            tree.images += [
                (row, int(label), name) for row, label in zip(content, labels, strict=True)
            ]
    tree.archives = {"CIFAR-10-C.tar": [("CIFAR-10-C", "CIFAR-10-C")]}
    return tree


BUILDERS = {
    build.__name__.replace("_", "-"): build
    for build in (
        *(flower102, flower102_64, cub200, aircraft, mit67, dogs, cifar10, cifar10_few, cifar100),
        *(tinyimagenet, cars196, papila, cifar10c),
    )
}


def pack(tree: Tree, folder: Path) -> dict[str, Path]:
    """Writes the archives of a tree into a folder; returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in tree.archives.items():
        to = folder / name
        if parts[0][1] == "":
            to.write_bytes((tree.root / parts[0][0]).read_bytes())
        elif name.endswith(".zip"):
            with zipfile.ZipFile(to, "w") as archive:
                for path, inside in parts:
                    for file in sorted((tree.root / path).rglob("*")):
                        relative = file.relative_to(tree.root / path)
                        archive.write(file, f"{inside}/{relative}")
        else:
            with tarfile.open(to, "w" if name.endswith(".tar") else "w:gz") as archive:
                for path, inside in parts:
                    archive.add(tree.root / path, inside)
    return {name: folder / name for name in tree.archives}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
