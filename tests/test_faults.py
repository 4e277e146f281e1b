"""What goes wrong outside: one line that says what to do, and nothing of it is used."""

import bz2
import gzip
import io
import lzma
import random
import re
import socket
import tarfile
import threading
import zipfile

import pytest

from dnrlib import UserError
from dnrlib.datasets import archives
from dnrlib.datasets.archives import Archive

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


def test_a_file_without_an_end_is_not_fetched_for_ever(answering, tmp_path):
    url = answering(b"HTTP/1.1 200 OK\r\n\r\n", repeated=bytes(1000))
    with pytest.raises(UserError, match=r"has size \d+ instead of 5000"):
        archives.download(Archive("of.txt", url, size=5000), tmp_path)
    assert list(tmp_path.iterdir()) == []
