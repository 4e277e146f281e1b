"""What goes wrong outside: one line that says what to do, and nothing of it is used."""

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import pickle
import random
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dnrlib import UserError, cli, masks, records, run
from dnrlib.book.pages import Parameters
from dnrlib.compare.export import load_model
from dnrlib.datasets import archives, official
from dnrlib.datasets.archives import Archive
from dnrlib.evaluate.evaluations import Predictions
from dnrlib.records import DamagedFile
from dnrlib.store import Store
from tests import POSIX
from tests.trees import mat

# --------------------------------------------------------------------------------------------------
# Archives


def tarred(sizes=(3000, 3000)):
    file, draw = io.BytesIO(), random.Random(0)
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = size
            content = draw.randbytes(min(size, 3000)) + bytes(max(0, size - 3000))
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zipped(*contents, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number}.jpg", content)
    return file.getvalue()


TEXT = random.Random(1).randbytes(1500).hex()
PACKED = {
    "of.tgz": gzip.compress(tarred(), mtime=0),
    "of-xz.tar": lzma.compress(tarred()),
    "of-bz2.tar": bz2.compress(tarred()),
    "of.zip": zipped(TEXT),
    "of-lzma.zip": zipped(TEXT, method=zipfile.ZIP_LZMA),
}


@pytest.mark.fault(
    "a bit of a compressed archive flips",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize("name", PACKED)
def test_a_flipped_bit_of_an_archive_without_a_checksum_is_noticed(name, tmp_path):
    """What compresses has a checksum of its own, at the end. A flip in the header of a gzip or a
    zip, which holds times and names, may do no harm; the content is then the right one."""
    path, draw, content = tmp_path / name, random.Random(2), PACKED[name]
    path.write_bytes(content)
    archives.unpack(path, tmp_path / "right")
    right = {file.name: file.read_bytes() for file in (tmp_path / "right").iterdir()}
    noticed = 0
    for number in range(40):
        harmed = bytearray(content)
        harmed[draw.randrange(len(harmed))] ^= 1 << draw.randrange(8)
        path.write_bytes(harmed)
        to = tmp_path / str(number)
        try:
            archives.unpack(path, to)
            assert sorted(file.read_bytes() for file in to.iterdir()) == sorted(right.values())
        except UserError as error:
            noticed += bool(re.search(rf"{name} is not a whole archive \(.+\); del", str(error)))
    assert noticed >= 36


@pytest.mark.fault(
    "an archive is cut short",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize("name", PACKED)
def test_an_archive_that_is_cut_short_is_noticed(name, tmp_path):
    path = tmp_path / name
    for cut in range(len(PACKED[name]) - 1, 0, -len(PACKED[name]) // 20):
        path.write_bytes(PACKED[name][:cut])
        with pytest.raises(UserError, match="is not a whole archive"):
            archives.unpack(path, tmp_path / str(cut))


BOMBS = {
    "large.tgz": gzip.compress(tarred([3_000_000])),
    "large.zip": zipped(bytes(3_000_000)),
    "many.tgz": gzip.compress(tarred([0] * 3000)),
    "many.zip": zipped(*[b""] * 3000),
}


@pytest.mark.fault(
    "an archive would fill the disk",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize("name", BOMBS)
def test_an_archive_that_would_fill_the_disk_is_refused(name, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    archives.unpack(path, tmp_path / "allowed")
    monkeypatch.setattr(archives, "SMALL", 1_000_000)
    monkeypatch.setattr(archives, "RATIO", 3)
    to = tmp_path / "out"
    with pytest.raises(UserError, match=r"holds more than [\d,]+ bytes, .*fetch it again"):
        archives.unpack(path, to)
    assert sum(512 + file.stat().st_size for file in to.iterdir()) <= 1_000_000
    monkeypatch.setattr(archives, "RATIO", 2_000_000)
    archives.unpack(path, to)


@pytest.mark.fault(
    "another file lies where an archive is expected",
    "named, with what to delete or fetch; nothing of it is used",
)
def test_a_file_of_another_size_is_not_the_archive(tmp_path):
    """Also where no checksum is known."""
    path = tmp_path / "of.tar"
    path.write_bytes(bytes(3000))
    archives.verify(path, Archive("of.tar", size=3000))
    archives.verify(path, Archive("of.tar"))
    with pytest.raises(UserError, match=r"has size 3000 instead of 300: .*fetch it again"):
        archives.verify(path, Archive("of.tar", size=300))


@pytest.fixture
def answering():
    """Starts a server that answers everything with the same bytes, without end if they are to be
    repeated; returns its address."""
    servers = []

    def start(answer, repeated=b""):
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                    connection.recv(65536)
                    connection.sendall(answer)
                    while repeated:
                        connection.sendall(repeated)
                    connection.close()
                except OSError:
                    if server.fileno() < 0:
                        return

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/of.txt"

    yield start
    for server in servers:
        server.close()


LENGTHS = ["abc", "-5", "1e3", "\xff", "9" * 5000, "10", "99999999999999999999"]


@pytest.mark.fault("a server answers nonsense", "one line that says what is wrong")
@pytest.mark.parametrize("length", LENGTHS)
def test_a_wrong_length_in_a_header_is_found_out(length, answering, tmp_path):
    content = b"0123456789" * 100
    url = answering(
        f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode("latin1") + content
    )
    archive = Archive("of.txt", url, size=1000)
    wrong = {"10": "has size 10 instead of 1000", LENGTHS[-1]: "broke after 1,000 bytes"}
    if length in wrong:
        with pytest.raises(UserError, match=wrong[length]):
            archives.download(archive, tmp_path)
        assert not (tmp_path / "of.txt").exists()
    else:
        archives.download(archive, tmp_path)
        assert (tmp_path / "of.txt").read_bytes() == content


@pytest.mark.fault("a server answers nonsense", "one line that says what is wrong")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "the connection broke"),
        ("302 Found\r\nLocation: http://[::1\r\n\r\n", "Invalid IPv6 URL"),
        ("302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "not allowed"),
        ("206 Partial\r\nContent-Range: bytes 3-9/10\r\n\r\n3456789", "sends another part"),
        ("206 Partial\r\n\r\n3456789", "sends another part"),
        ("no http", r"of\.txt: "),
    ],
)
def test_an_answer_that_makes_no_sense_is_one_line(answer, said, answering, tmp_path):
    url = answering(f"HTTP/1.1 {answer}".encode())
    (tmp_path / "of.txt.part").write_bytes(b"01")
    with pytest.raises(UserError, match=said):
        archives.download(Archive("of.txt", url), tmp_path)
    assert not (tmp_path / "of.txt").exists()


@pytest.mark.fault("a server sends without an end", "one line that says what is wrong")
def test_a_file_without_an_end_is_not_fetched_for_ever(answering, tmp_path):
    url = answering(b"HTTP/1.1 200 OK\r\n\r\n", repeated=bytes(1000))
    with pytest.raises(UserError, match=r"has size \d+ instead of 5000"):
        archives.download(Archive("of.txt", url, size=5000), tmp_path)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------
# Files of runs


def without(record, name):
    """A sealed record without a field, or with another value there."""
    changed = json.loads(json.dumps(record))
    *path, last = name.split(".")
    inside = functools.reduce(dict.__getitem__, path, changed)
    del inside[last]
    return records.seal(changed)


@pytest.mark.fault(
    "a sealed record lacks something",
    "named, with what to delete or fetch; nothing of it is used",
)
def test_incomplete_and_foreign_records_are_damaged_files(tiny, tmp_path):
    """Whatever their seal says: each field that frames and pages read is missed."""
    config = tiny(method="dnr", generations=2)
    found = run.run(config, evaluations=[Predictions()])
    store, missed = Store(), set()
    for entry, record in zip(run.entries(config, [Predictions()]), found, strict=True):
        path = store.path(entry)
        for name in [*records.HELD[entry.kind], "kind"]:
            for wrong in (without(record, name), without(record, name.partition(".")[0])):
                path.write_text(json.dumps(wrong))
                with pytest.raises(DamagedFile, match=rf"{path.name} is damaged \("):
                    store.read(entry)
                missed.add(name)
        path.write_text(json.dumps(without(record, "schema")))
        with pytest.raises(UserError, match="has schema None, this version reads 1"):
            store.read(entry)
        path.write_text(json.dumps(record))
        assert store.read(entry) == record
    assert {"result.weights", "result.kept", "of", "config.seed"} <= missed


DEEP = "[" * 200_000 + "]" * 200_000


@pytest.mark.fault(
    "a record is no record, or nested without an end",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize(
    "text", [DEEP, f'{{"a":{DEEP}}}', "[]", "1", "null", "{}", '{"seal":1}', "9" * 5000, "NaN"]
)
def test_a_file_that_is_no_record_is_damaged(text, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(DamagedFile, match=r"record.json is damaged \((not a JSON|its content)"):
        records.read(path)


def test_a_list_of_published_files_that_is_too_deep_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PUBLISHED", tmp_path)
    (tmp_path / "manifest.json").write_text(DEEP)
    with pytest.raises(DamagedFile, match=r"manifest.json is damaged .* git checkout"):
        records.published("digits", 0)


def saved(write, thing):
    file = io.BytesIO()
    write(file, thing)
    return file.getvalue()


def arrays(**named):
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


def pickled(thing):
    return pickle.dumps(thing)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


FOREIGN = {
    "a list": saved(lambda file, thing: torch.save(thing, file), [torch.ones(2)]),
    "numbers": saved(lambda file, thing: torch.save(thing, file), {"a": 1}),
    "a name that is none": saved(lambda file, thing: torch.save(thing, file), {3: torch.ones(2)}),
    "sparse": saved(lambda file, thing: torch.save(thing, file), {"a": torch.eye(2).to_sparse()}),
    "a tensor": saved(lambda file, thing: torch.save(thing, file), torch.ones(2)),
    "a program": pickled(Evil()),
    "an array": saved(np.save, np.ones(3)),
    "objects": saved(np.save, np.array([{}], dtype=object)),
    "no bits": arrays(**{"a:bits": np.ones(3), "a:shape": np.array([3])}),
    "no shape": arrays(**{"a:bits": np.ones(3, np.uint8)}),
    "a negative shape": arrays(**{"a:bits": np.ones(3, np.uint8), "a:shape": np.array([-3])}),
    "a vast shape": arrays(**{"a:bits": np.ones(1, np.uint8), "a:shape": np.full(2, 1 << 31)}),
    "words": arrays(**{"a:bits": np.array(["x"]), "a:shape": np.array(["y"])}),
    "a zip": zipped("x"),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nothing": b"",
}


@pytest.mark.fault(
    "foreign content in weights, masks or models",
    "named, with what to delete or fetch; nothing of it is used",
)
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_weights_masks_and_models_are_named_and_not_run(name, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store, link = Store(), run.chain(tiny(method="dnr", generations=2))[0]
    weights, mask = store.path(link.trained).with_name("weights.pt"), store.path(link.mask, ".npz")
    weights.parent.mkdir(parents=True)
    for path, read, entry in (
        (weights, store.weights, link.trained),
        (mask, store.mask, link.mask),
    ):
        path.write_bytes(FOREIGN[name])
        with pytest.raises(DamagedFile, match=rf"{path.name} is damaged \((cannot be|its)"):
            read(entry)
    model = tmp_path / "model.pt"
    model.write_bytes(FOREIGN[name])
    with pytest.raises(UserError, match=r"model.pt is not a model that dnr export wrote"):
        load_model(model)
    assert not (tmp_path / "evil").exists()


LABELS = {
    "words": lambda number: {"labels": np.array([["a"] * number])},
    "pairs": lambda number: {"labels": np.array([[(1, 2.5)] * number], dtype="i,f")},
    "fewer": lambda number: {"labels": np.array([[1] * (number - 1)])},
    "nothing": lambda number: {"labels": np.full((1, number), np.nan)},
    "others": lambda number: {"other": np.array([[1] * number])},
}


@pytest.mark.fault(
    "foreign content in label files", "named, with what to delete or fetch; nothing of it is used"
)
@pytest.mark.parametrize("name", LABELS)
@POSIX
def test_foreign_labels_are_an_error_that_names_the_files(name, small, hold):
    """With the right checksum, as where none is known."""
    tree = small("flower102-64")
    tree.write("imagelabels.mat", mat(**LABELS[name](len(tree.images))))
    hold("flower102-64", tree)
    with pytest.raises(UserError, match=rf"{tree.root}.* delete the extracted files"):
        official.prepare("flower102-64", tree.root)


# --------------------------------------------------------------------------------------------------
# The command line, and the parameters of notebooks


@pytest.mark.fault("absurd numbers of seeds", "one line that says what is wrong")
@pytest.mark.parametrize("command", ["study", "plan"])
@pytest.mark.parametrize("seeds", ["1000000000", "1" + "0" * 40, "0", "-3"])
def test_absurd_numbers_of_seeds_are_one_line_and_no_list(command, seeds, capsys):
    tracemalloc.start()
    assert cli.main([command, "--method", "plain", "--seeds", seeds]) == 1
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert capsys.readouterr().err == f"dnr: seeds={seeds} must be at least 1 and at most 10000\n"


@pytest.mark.fault("parameters of a page of a wrong type", "one line that says what is wrong")
@pytest.mark.parametrize(
    "given",
    [{"dataset": wrong} for wrong in (None, 5, 1.5, ["digits"], {}, b"digits", True)]
    + [{"seed": wrong} for wrong in (None, "0", 1.5, [], -1)]
    + [{"seeds": wrong} for wrong in (None, "5", 1.5, [1], True, 0, 10**40)]
    + [{"budget": wrong} for wrong in (None, 5, [], {}, "all")]
    + [{"train": wrong} for wrong in (None, 2, "yes", [])]
    + [{"methods": wrong} for wrong in (None, 5, ["dnr"], {}, "", ",", "dnr,", "dnr+")],
    ids=str,
)
def test_parameters_of_a_wrong_type_are_one_line(given):
    (name,) = given
    with pytest.raises(UserError, match=name) as error:
        Parameters(**{"dataset": "digits"} | given).configs()
    assert "\n" not in str(error.value)


@pytest.mark.fault("a disk is full", "what was there before stays; one line")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    """Of what is printed into it, too; a device stays one."""
    words = ["run", "--method", "plain", "--width", "4", "--profile"]
    assert cli.main([*words, "/dev/full"]) == 1
    assert "/dev/full cannot be written: No space left on device\n" in capsys.readouterr().err
    assert cli.main(["plan", "--seeds", "1", "--output", "/dev/full"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert Path("/dev/full").is_char_device()
    # The profiler writes what fits, and says nothing.
    cut = lambda self, path: Path(path).write_text('{"traceEvents": [{"ph": ')  # noqa: E731
    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", cut)
    assert cli.main([*words, str(tmp_path / "trace.json")]) == 1
    assert "trace.json cannot be written: No space left on device\n" in capsys.readouterr().err


@pytest.mark.fault(
    "memory is short, of the machine or the device",
    "one line with what to make smaller",
)
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        MemoryError(),
    ],
    ids=str,
)
def test_a_device_without_memory_gives_advice_in_one_line(error):
    with (
        pytest.raises(
            UserError, match=r"^not enough memory \(.+\); use a smaller batch or width, or fewer"
        ) as caught,
        run.enough_memory(),
    ):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (PermissionError(13, "Permission denied"), "another user, who does not let you read it"),
    ],
    ids=["memory", "rights"],
)
def test_weights_are_not_to_blame_for_everything(tiny, monkeypatch, error, said):
    """They would be deleted, and trained again."""
    run.run(tiny(method="tune", generations=1))

    def fail(*given, **named):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UserError, match=said) as caught:
        run.run(tiny(method="tune", generations=2))
    assert "damaged" not in str(caught.value)
    run.run(tiny(method="ke", generations=1))
    monkeypatch.setattr(masks, "unpack", fail)
    with pytest.raises(UserError, match=said) as caught:
        run.run(tiny(method="ke", generations=2))
    assert "damaged" not in str(caught.value)


@POSIX
def test_a_command_that_a_cluster_stops_says_that_nothing_is_lost(tmp_path):
    command = [Path(sys.executable).parent / "dnr", "run", "--method", "plain", "--epochs", "5000"]
    stopped = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while stopped.poll() is None and not list((tmp_path / "runs").glob("*")):
        time.sleep(0.1)
    stopped.terminate()
    assert "dnr: stopped; what is finished is on disk" in stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 130
