"""Decode once: the array is whole and right, or not there."""

import errno
import os
import pickle
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import transforms

from dnrlib import UserError, records
from dnrlib.datasets import decoded
from dnrlib.datasets.catalogue import _read, load
from dnrlib.datasets.decoded import CorruptImages, Kind, Listing, Picture, decode
from dnrlib.recipes import configure
from tests import POSIX

KIND = Kind("squares", size=16, crop=16)


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "CHUNK", 4)
    _read.cache_clear()
    return tmp_path / "data"


def picture(path, seed, size=(20, 13), mode="RGB"):
    """A smooth random image, written to `path`."""
    small = np.random.RandomState(seed).randint(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def listing(folder, counts=(("train", 9), ("tuning", 3), ("test", 5))):
    pools, number = {}, 0
    for pool, count in counts:
        pools[pool] = []
        for _ in range(count):
            path = picture(folder / f"{number}.png", number)
            pools[pool].append(Picture(path, number % 3))
            number += 1
    return Listing(("a", "b", "c"), pools)


def expected(path, size):
    return np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.BILINEAR))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_pool_holds_its_own_images_and_labels(tmp_path, workers):
    """The manifest is read back from disk, where the keys of a record are sorted."""
    listed = listing(tmp_path / "images")
    decode("squares", listed, KIND, workers)
    pools = decoded.dataset("squares").pools()
    assert list(pools) == ["train", "tuning", "test"]
    for name, pictures in listed.pools.items():
        assert pools[name].labels.tolist() == [p.label for p in pictures]
        assert pools[name].images.shape == (len(pictures), 3, 16, 16)
        for image, source in zip(pools[name].images, pictures, strict=True):
            assert np.array_equal(image.permute(1, 2, 0), expected(source.source, 16))


def test_photographs_equal_torchvisions_resize(tmp_path):
    """The transform of the released code, on Pillow images."""
    resize = transforms.Compose([transforms.Resize((256, 256)), transforms.PILToTensor()])
    for number, photo in enumerate(load_sample_images().images):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(photo).save(path)
        found = torch.from_numpy(decoded.pixels(path, 256).copy()).permute(2, 0, 1)
        assert torch.equal(found, resize(Image.open(path)))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("P", "gif"), ("CMYK", "jpg"), ("RGBA", "png"), ("1", "png"), ("RGB", "avif")],
)
def test_every_mode_becomes_rgb(tmp_path, mode, suffix):
    path = picture(tmp_path / f"x.{suffix}", 1, mode=mode)
    assert Image.open(path).mode in (mode, "P")
    assert np.array_equal(decoded.pixels(path, 16), expected(path, 16))


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""By EXIF orientation, how stored pixels are to be shown (Exif 2.3, tag 274)."""


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_photographs_are_turned_upright_where_they_are_to_be(tmp_path, orientation):
    """Of the papers' sets they are read as they are stored."""
    path, exif = tmp_path / "x.png", Image.Exif()
    exif[0x0112] = orientation
    array = np.random.default_rng(orientation).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(array).save(path, exif=exif)
    turned = UPRIGHT[orientation](array)
    assert np.array_equal(decoded.pixels(path, 16), array)
    listed = Listing(("a",), {"train": [Picture(path, 0)]})
    for upright, wanted in ((False, array), (True, turned)):
        decode("squares", listed, Kind("squares", 16, 16, upright=upright), 1)
        (found,) = decoded.dataset("squares").pools()["train"].images
        assert np.array_equal(found.permute(1, 2, 0), wanted)


ODD = b"Exif\0\0II*\0\x08\0\0\0\2\0" + struct.pack(
    "<HHIiHHIHHI", *(0x0100, 9, 1, -1), *(0x0112, 3, 1, 6, 0), 0
)
"""A width of -1, which cannot be written again, and the orientation 6."""


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08", ODD])
def test_images_with_broken_exif_are_images(tmp_path, suffix, exif):
    path = tmp_path / f"x.{suffix}"
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(array).save(path, exif=exif)
    shown = np.asarray(Image.open(path).convert("RGB"))
    turned = np.rot90(shown, -1) if exif == ODD else shown
    assert np.array_equal(decoded.pixels(path, 16, upright=True), turned)


def test_what_cannot_be_decoded_is_named(tmp_path):
    whole = listing(tmp_path / "images")
    bad = {name: tmp_path / name for name in ("cut.jpg", "text.jpg", "deep.png", "gone.jpg")}
    picture(bad["cut.jpg"], 1, size=(200, 200))
    bad["cut.jpg"].write_bytes(bad["cut.jpg"].read_bytes()[:-400])
    bad["text.jpg"].write_text("no image")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(bad["deep.png"])
    pictures = [*whole.pools["train"], *(Picture(path, 0) for path in bad.values())]
    with pytest.raises(CorruptImages) as raised:
        decode("squares", Listing(whole.classes, {"train": pictures}), KIND, 1)
    assert raised.value.found.keys() == set(bad.values())
    for path, what in {
        bad["cut.jpg"]: "truncated",
        bad["text.jpg"]: "not an image",
        bad["deep.png"]: "more than 8 bits",
        bad["gone.jpg"]: "no such file",
    }.items():
        assert what in raised.value.found[path]
        assert str(path) in str(raised.value)
    assert decoded.dataset("squares") is None, "no partial array is believed"


def test_pixels_are_taken_as_they_are():
    block = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    decode("squares", Listing(("a",), {"train": [Picture(block, 0)]}), KIND)
    image = decoded.dataset("squares").pools()["train"].images[0]
    assert np.array_equal(image.permute(1, 2, 0), block)


def test_mean_and_deviation_are_those_of_the_training_pool(tmp_path):
    listed = listing(tmp_path / "images")
    decode("squares", listed, KIND)
    about = decoded.dataset("squares")
    pixels = np.stack([expected(p.source, 16) for p in listed.pools["train"]]) / 255
    assert about.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-4)
    assert about.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-4)
    decode("squares", listed, Kind("squares", 16, 16, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)))
    assert decoded.dataset("squares").mean == (0.1, 0.2, 0.3)


def test_a_dataset_without_a_validation_split_cannot_be_tuned_on(tmp_path):
    whole = listing(tmp_path / "images")
    pools = {pool: whole.pools[pool] for pool in ("train", "test")}
    decode("flower102", Listing(whole.classes, pools), KIND, 1)
    assert len(load(configure("flower102")).evaluation) == 5
    with pytest.raises(UserError, match=r"no official validation split, only train and test"):
        load(configure("flower102", pool="tuning"))


def test_images_are_decoded_once(tmp_path, monkeypatch):
    listed = listing(tmp_path / "images")
    first = decode("squares", listed, KIND, 1)
    monkeypatch.setattr(decoded, "pixels", lambda *given: pytest.fail("decoded again"))
    assert decode("squares", listed, KIND, 1) == first


def test_a_changed_file_is_decoded_again_and_the_old_array_goes(tmp_path, data):
    listed = listing(tmp_path / "images")
    first = decode("squares", listed, KIND, 1)
    path = listed.pools["test"][0].source
    picture(path, 99)
    os.utime(path, (1, 1))
    second = decode("squares", listed, KIND, 1)
    assert second["fingerprint"] != first["fingerprint"]
    image = decoded.dataset("squares").pools()["test"].images[0]
    assert np.array_equal(image.permute(1, 2, 0), expected(path, 16))
    folders = [entry for entry in (data / "decoded" / "squares").iterdir() if entry.is_dir()]
    assert [folder.name for folder in folders] == [second["key"]]


def test_the_fingerprint_knows_pixels_labels_and_pools(tmp_path):
    listed = listing(tmp_path / "images")
    train, test = listed.pools["train"], listed.pools["test"]
    found = {
        decode(f"set-{number}", Listing(listed.classes, pools), KIND, 1)["fingerprint"]
        for number, pools in enumerate(
            [
                {"train": train, "test": test},
                {"train": train, "test": test},
                {"train": train[::-1], "test": test},
                {"train": [Picture(p.source, 0) for p in train], "test": test},
                {"train": train + test[:1], "test": test[1:]},
            ]
        )
    }
    assert len(found) == 4, "the first two are the same"


@pytest.mark.fault("the decoding of images is killed", "it goes on where it stopped")
def test_a_killed_decoding_goes_on(tmp_path, data, monkeypatch):
    """The first call dies after two of five chunks; the second decodes only the other three."""
    listed = listing(tmp_path / "images")
    program = """
import os, pickle, sys
from dnrlib.datasets import decoded
decoded.CHUNK = 4
true, seen = decoded._chunk, []
def chunk(*given):
    if len(seen) == 2:
        os._exit(9)
    seen.append(1)
    return true(*given)
decoded._chunk = chunk
decoded.decode("squares", pickle.load(sys.stdin.buffer), decoded.Kind("squares", 16, 16), 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(listed), capture_output=True
    )
    assert done.returncode == 9, done.stderr.decode()
    assert decoded.dataset("squares") is None
    made, true = [], decoded._chunk
    monkeypatch.setattr(decoded, "_chunk", lambda *given: made.append(given[1]) or true(*given))
    resumed = decode("squares", listed, KIND, 1)
    assert made == [8, 12, 16]
    monkeypatch.setenv("DNRLIB_DATA", str(tmp_path / "other"))
    assert resumed["fingerprint"] == decode("squares", listed, KIND, 1)["fingerprint"]


def test_a_chunk_that_changed_before_the_rest_was_made_is_made_again(tmp_path, data, monkeypatch):
    listed, true = listing(tmp_path / "images"), decoded._chunk

    def interrupted(images, row, *given):
        if row == 8:
            raise KeyboardInterrupt
        return true(images, row, *given)

    monkeypatch.setattr(decoded, "_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode("squares", listed, KIND, 1)
    monkeypatch.setattr(decoded, "_chunk", true)
    (images,) = data.rglob("images.npy")
    content = bytearray(images.read_bytes())
    content[200] ^= 255
    images.write_bytes(content)
    decode("squares", listed, KIND, 1)
    image = decoded.dataset("squares").pools()["train"].images[0]
    assert np.array_equal(image.permute(1, 2, 0), expected(listed.pools["train"][0].source, 16))


@pytest.mark.fault(
    "a decoded image is changed on disk",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize("which", ["images.npy", "labels.npy", "manifest.json"])
@pytest.mark.parametrize("harm", ["flipped", "cut short", "gone"])
def test_a_damaged_file_is_named_and_made_again(tmp_path, data, which, harm):
    listed = listing(tmp_path / "images")
    decode("squares", listed, KIND, 1)
    about = decoded.dataset("squares")
    (path,) = data.rglob(which)
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flipped" else content[:-3])
    if which == "manifest.json":
        if harm == "gone":
            assert decoded.dataset("squares") is None
        else:
            with pytest.raises(records.DamagedFile, match=r"manifest\.json.*rm "):
                decoded.dataset("squares")
        return
    with pytest.raises(records.DamagedFile, match=f"{which}.*dnr data prepare squares"):
        about.pools()
    decode("squares", listed, KIND, 1)
    assert len(about.pools()["train"]) == 9


def test_an_array_that_is_whole_is_not_hashed_by_every_process(tmp_path, data, monkeypatch):
    decode("squares", listing(tmp_path / "images"), KIND, 1)
    about = decoded.dataset("squares")
    first = about.pools()
    with monkeypatch.context() as patch:
        patch.setattr(decoded, "_digest", lambda block: pytest.fail("hashed again"))
        for pool, split in about.pools().items():
            assert torch.equal(split.images, first[pool].images)
    # Without a note that can be believed, or a place for it, everything is read.
    stamp = data / "decoded/squares/verified"
    hashed, real = [], decoded._digest
    monkeypatch.setattr(decoded, "_digest", lambda block: hashed.append(1) or real(block))
    for content in (b"{}", stamp.read_bytes()[:-9], b""):
        stamp.write_bytes(content)
        hashed.clear()
        about.pools()
        assert len(hashed) == 5
    stamp.unlink()

    def full(path, content):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(records, "write", full)
    assert len(about.pools()["train"]) == 9
    assert not stamp.exists()


@pytest.mark.parametrize("which", ["images.npy", "labels.npy", "manifest.json"])
@POSIX
def test_what_was_written_to_is_read_through_again(tmp_path, data, which):
    """Also if size and time of change were put back; a clock's tick has to pass."""
    decode("squares", listing(tmp_path / "images"), KIND, 1)
    about = decoded.dataset("squares")
    about.pools()
    (path,) = data.rglob(which)
    before = path.stat()
    time.sleep(0.05)
    if which == "manifest.json":
        known = records.read(path)
        records.save(path, known | {"labels": "0" * 64})
    else:
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(records.DamagedFile, match="its content changed"):
        about.pools()


def test_a_bit_that_flips_by_itself_is_found_by_preparing(tmp_path, data):
    """No file looks changed then; it is as if it had been damaged and then noted as whole."""
    listed = listing(tmp_path / "images")
    known = decode("squares", listed, KIND, 1)
    (path,) = data.rglob("images.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    records.write(decoded.place("squares") / "verified", decoded._looks("squares", known))
    about = decoded.dataset("squares")
    assert len(about.pools()["test"]) == 5
    assert decoded.damaged("squares", known) == path
    decode("squares", listed, KIND, 1)
    assert decoded.damaged("squares", known) is None
    image = about.pools()["test"].images[-1]
    assert np.array_equal(image.permute(1, 2, 0), expected(listed.pools["test"][-1].source, 16))


def test_what_is_decoded_is_hashed_once(tmp_path, monkeypatch):
    hashed, real = [], decoded._digest
    monkeypatch.setattr(decoded, "_digest", lambda block: hashed.append(1) or real(block))
    decode("squares", listing(tmp_path / "images"), KIND, 1)
    assert len(hashed) == 5


@pytest.mark.fault("a disk is full", "what was there before stays; one line")
@POSIX
def test_a_full_disk_says_what_is_needed(tmp_path, data, monkeypatch):
    """The system refuses to let the file grow beyond 3 kB."""
    listed = listing(tmp_path / "images")
    program = """
import pickle, resource, signal, sys
from dnrlib import UserError
from dnrlib.datasets import decoded
decoded.CHUNK = 4
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    decoded.decode("squares", pickle.load(sys.stdin.buffer), decoded.Kind("squares", 16, 16), 1)
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(listed), capture_output=True
    )
    assert "cannot be decoded into" in done.stdout.decode(), done.stderr.decode()
    assert "DNRLIB_DATA" in done.stdout.decode()
    assert decoded.dataset("squares") is None
    assert decode("squares", listed, KIND, 1)["fingerprint"], "there is room again"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, data):
    """A file where the folder should be: a read-only folder would not stop a superuser."""
    data.write_text("")
    with pytest.raises(UserError, match=r"cannot be decoded into .*DNRLIB_DATA"):
        decode("squares", listing(tmp_path / "images"), KIND, 1)


def test_of_two_processes_at_once_one_works_and_the_other_waits(tmp_path, data):
    program = """
import pickle, sys, time
from dnrlib.datasets import decoded
decoded.CHUNK = 4
true = decoded._chunk
def chunk(*given):
    print(given[1], flush=True)
    time.sleep(0.2)
    return true(*given)
decoded._chunk = chunk
decoded.decode("squares", pickle.load(sys.stdin.buffer), decoded.Kind("squares", 16, 16), 1)
"""
    listed = pickle.dumps(listing(tmp_path / "images"))
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in both:
        process.stdin.write(listed)
        process.stdin.close()
    made = [process.stdout.read().split() for process in both]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(made) == [[], [b"0", b"4", b"8", b"12", b"16"]]
