"""From the official archives of Flowers-102 to an executed page, at the paper's image size.

`python -m tests.test_through 10 1` does it with the paper's 1020 training images.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torchvision
from PIL import Image

from dnrlib import cli
from dnrlib.datasets import decoded
from dnrlib.datasets.archives import digest
from dnrlib.datasets.official import facts
from tests.trees import Tree, mat, pack

ROOT = Path(__file__).parent.parent


def flowers(root, each):
    """A tree of Flowers-102 with so many training images per class, one to validate and one to
    test on; an image is a pattern of its class under noise."""
    tree = Tree(root, tuple(torchvision.datasets.Flowers102.classes))
    parts, labels, number = {"trnid": [], "valid": [], "tstid": []}, [], 0
    for label in range(102):
        pattern = np.random.RandomState(label).randint(0, 256, (6, 5, 3))
        for copy in range(each + 2):
            number += 1
            key = ("tstid", "valid")[copy] if copy < 2 else "trnid"
            noise = np.random.RandomState(1000 + number).normal(0, 40, pattern.shape)
            image = Image.fromarray(np.clip(pattern + noise, 0, 255).astype(np.uint8))
            pool = {"trnid": "train", "valid": "tuning", "tstid": "test"}[key]
            path = f"flowers-102/jpg/image_{number:05d}.jpg"
            tree.add(path, label, pool, image.resize((600, 500), Image.Resampling.BICUBIC))
            parts[key].append(number)
            labels.append(label + 1)
    tree.write("flowers-102/imagelabels.mat", mat(labels=np.array([labels], np.uint8)))
    tree.write("flowers-102/setid.mat", mat(**{k: np.array([v]) for k, v in parts.items()}))
    tree.archives = {
        "102flowers.tgz": [("flowers-102/jpg", "jpg")],
        "imagelabels.mat": [("flowers-102/imagelabels.mat", "")],
        "setid.mat": [("flowers-102/setid.mat", "")],
    }
    return tree


def through(folder, monkeypatch, each, epochs):
    """Packs the tree into archives, prepares it by the command, executes the page of Table 1;
    returns the page and what was printed."""
    tree = flowers(folder / "tree", each)
    packed = pack(tree, folder / "archives")
    sums = {file: digest(path, "md5") for file, path in packed.items()}
    known = facts()["flower102"]
    held = dataclasses.replace(
        known,
        splits=tree.splits,
        tree={path: md5 and sums[Path(path).name] for path, md5 in known.tree.items()},
        archives=tuple(
            dataclasses.replace(
                archive, md5=sums[archive.file], size=packed[archive.file].stat().st_size
            )
            for archive in known.archives
        ),
    )
    monkeypatch.setitem(facts(), "flower102", held)
    files = {
        part: (file, sums.get(file, md5))
        for part, (file, md5) in torchvision.datasets.Flowers102._file_dict.items()
    }
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_file_dict", files)
    assert cli.main(["data", "prepare", "flower102", "--root", str(folder / "archives")]) == 0
    output = folder / "table1-flower102.ipynb"
    given = {"dataset": "flower102", "seeds": "1", "methods": f"plain+epochs={epochs}+warmup=0"}
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "notebooks/table1.ipynb", str(output)]
        + [part for name, value in given.items() for part in ("-p", name, value)],
        cwd=ROOT,
        env=os.environ | {"DNRLIB_RUNS": str(folder / "runs"), "DNRLIB_DATA": str(decoded.root())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return nbformat.read(output, as_version=4)


@pytest.mark.slow
def test_from_archives_to_a_page(tmp_path, monkeypatch):
    page = through(tmp_path, monkeypatch, each=2, epochs=1)
    (path,) = (tmp_path / "runs").rglob("record.json")
    record = json.loads(path.read_text())
    recipe = {"dataset": "flower102", "model": "resnet18", "width": 64, "augment": "resized-crop"}
    assert recipe.items() <= record["config"].items()
    shown = [output for cell in page.cells for output in cell.get("outputs", [])]
    assert f"{record['result']['test_accuracy']:.2f}" in str(shown)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNRLIB_DATA", f"{temporary}/data")
        through(Path(temporary), patch, int(sys.argv[1]), int(sys.argv[2]))
        (found,) = Path(temporary, "runs").rglob("record.json")
        print(found.read_text())
