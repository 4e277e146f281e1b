"""Folders of the user's own images."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dnrlib import UserError, cli, models, records, study
from dnrlib.datasets import decoded, folder, official
from dnrlib.datasets.catalogue import _read, dataset, load, read
from dnrlib.datasets.official import SEVERITIES
from dnrlib.evaluate import evaluations
from dnrlib.evaluate.corruptions import CORRUPTIONS
from dnrlib.evaluate.evaluations import Corruptions
from dnrlib.recipes import configure
from dnrlib.run import chain
from dnrlib.study import Run
from tests import POSIX
from tests.publish import refuse_publishing


def image(path, number, size=(12, 10)):
    """An image of its own: no two numbers give the same pixels."""
    pixels = np.random.RandomState(number).randint(0, 256, (*size[::-1], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def build(root, counts, first=0, **kind):
    """A subfolder of `count` images per name; numbers go on over all of them."""
    number = first
    for name, count in counts.items():
        for _ in range(count):
            image(root / name / f"{number}.png", number, **kind)
            number += 1
    return f"folder:{root}"


def shares(name):
    return {pool: split.labels.bincount().tolist() for pool, split in read(name).items()}


def test_a_folder_of_classes_is_split_by_class(tmp_path):
    name = build(tmp_path / "mine", {"cat": 20, "dog": 10})
    assert dataset(name).classes == ("cat", "dog")
    assert shares(name) == {"train": [12, 6], "tuning": [4, 2], "test": [4, 2]}
    pixels = [one.numpy().tobytes() for split in read(name).values() for one in split.images]
    assert len(set(pixels)) == 30, "no image is in two pools"


def test_photographs_are_upright(tmp_path):
    name, exif = build(tmp_path / "mine", {"cat": 5, "dog": 5}), Image.Exif()
    before = read(name)["train"].images
    exif[0x0112] = 3
    for path in (tmp_path / "mine").rglob("*.png"):
        with Image.open(path) as stored:
            turned = stored.transpose(Image.Transpose.ROTATE_180)
        turned.save(path, exif=exif)
    after = [one.numpy().tobytes() for split in read(name).values() for one in split.images]
    assert {one.numpy().tobytes() for one in before} <= set(after)


def test_another_format_of_decoded_images_is_made_anew(tmp_path, monkeypatch):
    name = build(tmp_path / "mine", {"cat": 5, "dog": 5})
    before = decoded.manifest(configure(name).dataset)
    monkeypatch.setattr(decoded, "FORMAT", decoded.FORMAT + 1)
    after = decoded.manifest(configure(name).dataset)
    assert before["key"] != after["key"]


def test_the_split_depends_on_contents_alone(tmp_path):
    """The same images under other names, in another folder."""
    one = build(tmp_path / "a", {"cat": 12, "dog": 12})
    for path in (tmp_path / "a").rglob("*.png"):
        target = tmp_path / "b" / path.parent.name / f"renamed-{99 - int(path.stem)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    other = f"folder:{tmp_path / 'b'}"
    for pool, split in read(one).items():
        found = {image.numpy().tobytes() for image in read(other)[pool].images}
        assert found == {image.numpy().tobytes() for image in split.images}


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_given_pools_are_kept(tmp_path, validation):
    root = tmp_path / "mine"
    build(root / "train", {"cat": 5, "dog": 4})
    build(root / validation, {"cat": 2, "dog": 1}, 100)
    build(root / "test", {"cat": 3, "dog": 2}, 200)
    assert shares(f"folder:{root}") == {"train": [5, 4], "tuning": [2, 1], "test": [3, 2]}


def test_what_is_not_given_is_split_off_the_training_images(tmp_path):
    root = tmp_path / "mine"
    build(root / "train", {"cat": 10, "dog": 10})
    build(root / "test", {"cat": 3, "dog": 2}, 200)
    assert shares(f"folder:{root}") == {"train": [8, 8], "tuning": [2, 2], "test": [3, 2]}


def test_equal_images_stay_in_one_pool(tmp_path):
    """Ten copies of each of three images per class: a copy in two pools would leak."""
    root = tmp_path / "mine"
    for label in ("cat", "dog"):
        for number in range(30):
            image(root / label / f"{number}.png", (label == "cat") * 3 + number % 3)
    pools = read(f"folder:{root}")
    contents = [{one.numpy().tobytes() for one in split.images} for split in pools.values()]
    assert sum(map(len, contents)) == len(set.union(*contents)) == 6
    _, problems = folder.report(f"folder:{root}")
    assert problems == ["images that are copies of others: 54"]


@POSIX
def test_problems_are_reported(tmp_path):
    root = tmp_path / "mine"
    build(root / "train", {"cat": 12, "dog": 12, "rare": 2})
    build(root / "test", {"cat": 3, "dog": 3}, 200)
    image(root / "test" / "cat" / "again.png", 0)
    image(root / "train" / "dog" / "is-a-cat.png", 1)
    (root / "train" / "dog" / "notes.txt").write_text("x")
    (root / "train" / "cat" / ".hidden.png").write_text("x")
    (root / "train" / "cat" / "moved.png").symlink_to(tmp_path / "nowhere.png")
    (root / "train" / "iphone").mkdir()
    (root / "train" / "iphone" / "1.heic").write_text("x")
    counts, problems = folder.report(f"folder:{root}")
    assert list(counts.columns) == ["train", "tuning", "test"]
    assert counts.loc["rare"].tolist() == [2, 0, 0]
    text = "\n".join(problems)
    assert "class rare is small; images: 2" in text
    assert "class rare has no images in the test pool" in text
    assert f"in several pools: {root}/train/cat/0.png, {root}/test/cat/again.png" in text
    assert "in several classes" in text
    assert "is-a-cat.png" in text
    assert "images that are copies of others: 2" in text
    assert "left out (in no class, a link to nothing, or not named .jpg, .jpeg, .png, " in text
    assert "convert .heic files" in text
    assert "notes.txt" in text
    assert "moved.png" in text
    assert "iphone is no class: it has no image that can be read" in problems
    assert "hidden" not in text


def test_corrupt_images_are_listed_and_on_request_skipped(tmp_path, capsys):
    name = build(tmp_path / "mine", {"cat": 10, "dog": 10})
    bad = tmp_path / "mine" / "cat" / "bad.jpg"
    bad.write_text("no image")
    with pytest.raises(UserError, match=r"bad\.jpg: not an image(.|\n)*--skip-corrupt"):
        configure(name)
    assert cli.main(["data", "prepare", name]) == 1
    assert cli.main(["data", "prepare", name, "--skip-corrupt"]) == 0
    assert f"{bad} was skipped: not an image" in capsys.readouterr().out
    assert configure(name).dataset == name, "it stays skipped"
    image(tmp_path / "mine" / "cat" / "new.png", 500)
    with pytest.raises(UserError, match=r"bad\.jpg"):
        configure(name)


STRANGE = "my 'photos'; touch PWN $(x) `y`"


def corrupt(name, root):
    (root / "cat" / "bad.png").write_text("no image")
    dataset(name)


def without_manifest(name, root):
    (decoded.place(name) / "manifest.json").write_text("x")
    decoded.manifest(name)


def without_array(name, root):
    next(decoded.place(name).rglob("images.npy")).write_bytes(b"x")
    decoded.pools(name)


@pytest.mark.parametrize(
    ("harm", "command"),
    [
        (corrupt, ["dnr", "data", "prepare", "{name}", "--skip-corrupt"]),
        (without_manifest, ["rm", "{manifest}", "&&", "dnr", "data", "prepare", "{name}"]),
        (without_array, ["dnr", "data", "prepare", "{name}"]),
        (
            lambda *_: official.prepare("flower102", Path("/no", STRANGE)),
            ["dnr", "data", "prepare", "flower102", "--root", f"/no/{STRANGE}", "--download"],
        ),
    ],
)
@POSIX
def test_a_command_that_an_error_names_can_be_typed(tmp_path, harm, command):
    name = build(tmp_path / STRANGE, {"cat": 4, "dog": 4})
    dataset(name)
    with pytest.raises(UserError) as error:
        harm(name, tmp_path / STRANGE)
    typed = str(error.value).splitlines()[-1].split(": ", 1)[1]
    known = {"name": name, "manifest": str(decoded.place(name) / "manifest.json")}
    assert shlex.split(typed) == [word.format(**known) for word in command]


@POSIX
def test_a_damaged_array_is_made_again_by_the_command_that_is_named(tmp_path):
    name = build(tmp_path / "mine", {"cat": 10, "dog": 10})
    prepare = ["data", "prepare", name]
    assert cli.main(prepare) == 0
    (path,) = decoded.place(name).rglob("images.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    _read.cache_clear()
    with pytest.raises(records.DamagedFile, match=f"dnr data prepare {name}"):
        read(name)
    assert cli.main(prepare) == 0
    assert len(read(name)["train"]) == 12


def test_new_and_changed_images_are_noticed_within_a_process(tmp_path):
    name = build(tmp_path / "mine", {"cat": 10, "dog": 10})
    config, found = configure(name, method="plain"), []
    for step in ("as it is", "one more", "one is another", "larger ones"):
        if step == "one more":
            image(tmp_path / "mine" / "cat" / "new.png", 500)
        elif step == "one is another":
            image(tmp_path / "mine" / "cat" / "new.png", 501)
        elif step == "larger ones":
            image(tmp_path / "mine" / "dog" / "new.png", 502, size=(40, 40))
        pools = read(name)
        pixels = b"".join(split.images.numpy().tobytes() for split in pools.values())
        found.append((chain(config)[0].key, dataset(name).fingerprint, pixels))
        assert pools is read(name)
    assert [len(set(column)) for column in zip(*found, strict=True)] == [4, 4, 4]
    assert read(name)["train"].images.shape[-1] == 64


@POSIX
def test_a_change_behind_a_link_is_noticed(tmp_path):
    build(tmp_path / "elsewhere", {"cat": 10, "dog": 10})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train").symlink_to(tmp_path / "elsewhere")
    before = dataset(f"folder:{tmp_path / 'mine'}").fingerprint
    image(tmp_path / "elsewhere" / "cat" / "0.png", 500)
    assert dataset(f"folder:{tmp_path / 'mine'}").fingerprint != before


@POSIX
def test_a_class_may_be_a_link_and_one_that_leads_back_has_no_images(tmp_path):
    build(tmp_path / "elsewhere", {"cow": 10})
    name = build(mine := tmp_path / "mine", {"cat": 10, "dog": 10})
    (mine / "cow").symlink_to(tmp_path / "elsewhere" / "cow")
    (mine / "dog" / "back").symlink_to(mine)
    (tmp_path / "elsewhere" / "cow" / "back").symlink_to(mine)
    assert dataset(name).classes == ("cat", "cow", "dog")
    assert sum(len(split.labels) for split in read(name).values()) == 30


@POSIX
def test_links_in_a_circle_come_to_an_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
        (tmp_path / name / "to").symlink_to(tmp_path / other)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert len(set(folder._walk(tmp_path))) == 9


def test_changed_images_are_corrupted_anew(tmp_path, monkeypatch):
    made = []

    def noted(images, name, severity):
        made.append(images.tobytes())
        return images

    monkeypatch.setattr(evaluations, "corrupted", noted)
    for first in (0, 100):
        name = build(tmp_path / "mine", {"cat": 8, "dog": 8}, first, size=(32, 32))
        config = configure(name, width=4)
        Corruptions(per_class=0).result(models.build(config), load(config), config)
    assert len(made) == 2 * len(CORRUPTIONS) * SEVERITIES
    assert len(set(made)) == 2


def test_a_folder_that_changes_while_it_is_trained_on_is_an_error(tmp_path, monkeypatch):
    name = build(tmp_path / "mine", {"cat": 10, "dog": 10})
    small = {"width": 4, "epochs": 1, "generations": 1, "batch": 20}
    trained = study._train

    def and_then(*given):
        trained(*given)
        image(tmp_path / "mine" / "cat" / "new.png", 500)

    monkeypatch.setattr(study, "_train", and_then)
    with pytest.raises(UserError, match="changed while they were trained on"):
        study.study([configure(name, method="plain", **small)], workers=1)


@pytest.mark.parametrize(
    ("largest", "size"), [((32, 9), 32), ((33, 9), 64), ((64, 64), 64), ((65, 20), 256)]
)
def test_small_images_stay_small(tmp_path, largest, size):
    name = build(tmp_path / "mine", {"cat": 4, "dog": 4})
    image(tmp_path / "mine" / "cat" / "largest.png", 99, size=largest)
    assert read(name)["train"].images.shape[2:] == (size, size)
    assert dataset(name).size == {32: 32, 64: 64, 256: 224}[size]
    assert configure(name).augment == ("resized-crop" if size == 256 else "crop-flip")


def test_a_size_can_be_asked_for(tmp_path):
    name = build(tmp_path / "mine", {"cat": 4, "dog": 4})
    assert read(f"{name}@128")["train"].images.shape[2:] == (128, 128)
    assert dataset(f"{name}@128").size == 112
    for wrong in ("@20", "@8", "@520", "@-64"):
        with pytest.raises(UserError, match="multiple of 8 from 16 to 512"):
            dataset(name + wrong)
    build(tmp_path / "at@home", {"cat": 4, "dog": 4})
    assert len(dataset(f"folder:{tmp_path}/at@home").classes) == 2
    build(tmp_path / "year@2024", {"cat": 4, "dog": 4})
    assert dataset(f"folder:{tmp_path}/year@2024").size == 32
    assert dataset(f"folder:{tmp_path}/year@2024@64").size == 64


def test_one_folder_has_one_name(tmp_path, monkeypatch):
    name = build(tmp_path / "mine", {"cat": 4, "dog": 4})
    monkeypatch.chdir(tmp_path)
    assert configure("folder:mine") == configure(f"{name}/") == configure(name)


def strange(root):
    build(root / "train", {"cat": 4, "dog": 4})
    build(root / "holdout", {"cat": 4, "dog": 4})


def untrained(root):
    build(root / "train", {"cat": 4, "dog": 4})
    build(root / "test", {"cow": 4}, 100)


def phone(root):
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "IMG_0001.HEIC").write_bytes(b"x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "is not a folder"),
        (lambda root: root.write_text("x"), "is not a folder"),
        (
            lambda root: root.mkdir(),
            r"no images in it; it needs a subfolder per class, with .*\.jpg",
        ),
        (lambda root: image(root / "loose.png", 1), "no images in it"),
        (lambda root: build(root, {"cat": 4}), r"images of one class only \(cat\)"),
        (phone, r"convert others, such as \.heic"),
        (strange, "has train/ and holdout"),
        (lambda root: build(root, {"Train/cat": 4, "Test/cat": 4}), "call them train, val and"),
        (untrained, "class cow .* has no images to train on"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, make, message):
    make(tmp_path / "mine")
    with pytest.raises(UserError, match=message):
        configure(f"folder:{tmp_path / 'mine'}")


def test_a_run_on_a_folder(tmp_path, capsys):
    name = build(tmp_path / "mine", {"cat": 10, "dog": 10})
    arguments = ["--epochs", "1", "--generations", "2", "--width", "4", "--batch", "20"]
    assert cli.main(["run", "--dataset", name, "--method", "dnr", *arguments]) == 0
    assert "generation   2" in capsys.readouterr().out
    assert cli.main(["run", "--dataset", name + "@64", "--method", "dnr", *arguments]) == 0


def test_images_are_mapped_not_copied(tmp_path):
    """Views of one array on disk, which torch may write to without changing the file."""
    name = build(tmp_path / "mine", {"cat": 10, "dog": 10})
    config = configure(name)
    split = load(config).train
    assert split.images.is_contiguous(memory_format=torch.channels_last)
    (path,) = decoded.place(name).rglob("images.npy")
    before = path.read_bytes()
    split.images.zero_()
    assert path.read_bytes() == before
    pools = read(name).values()
    assert len({p.images.untyped_storage().data_ptr() for p in pools}) == 1


def test_a_folder_called_like_a_published_dataset_has_nothing_published(tmp_path):
    config = configure(build(tmp_path / "digits", {"cat": 4, "dog": 4}))
    assert records.published_seeds(config.dataset) == 0
    assert study.Archive().find(config) is None


def test_runs_on_a_folder_are_not_published(tmp_path):
    config = configure(build(tmp_path / "mine", {"cat": 4, "dog": 4}))
    with pytest.raises(UserError, match="nobody could repeat them"):
        refuse_publishing([Run(config, [], "runs")])
