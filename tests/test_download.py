"""Files from a local server: fetched, gone on with, checked, and unpacked without harm."""

from __future__ import annotations

import bz2
import errno
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from ajepa.data import download
from ajepa.data.download import ArchiveError, DownloadError, fetch, unpack
from tests.range_server import RangeHandler, RangeServer, sha256


@pytest.fixture
def content(tmp_path: Path, web: RangeServer) -> bytes:
    data = bytes(number * number % 251 for number in range(50_000))
    (tmp_path / "web" / "file").write_bytes(data)
    return data


def test_a_transfer_that_breaks_off_goes_on(content: bytes, web: RangeServer, tmp_path: Path) -> None:
    web.cuts = [20_000, 10_000]
    seen: list[tuple[int, int | None]] = []
    out = tmp_path / "out"
    assert fetch(f"{web.url}/file", out, report=lambda *done: seen.append(done)) == sha256(content)
    assert out.read_bytes() == content
    assert web.asked == ["", "bytes=20000-", "bytes=30000-"]
    assert seen[-1] == (50_000, 50_000)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out"]


def test_the_next_call_goes_on_too(content: bytes, web: RangeServer, tmp_path: Path) -> None:
    web.cuts = [20_000, *[0] * download.ATTEMPTS]
    with pytest.raises(DownloadError, match=r"attempts without progress.*broken off after 20,000 of 50,000"):
        fetch(f"{web.url}/file", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    web.cuts, web.asked = [], []
    fetch(f"{web.url}/file", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert web.asked == ["bytes=20000-"]


@pytest.mark.parametrize("tags", [True, False])
def test_parts_of_different_files_are_not_joined(
    content: bytes, web: RangeServer, tmp_path: Path, tags: bool
) -> None:
    web.cuts, web.tags = [20_000, *[0] * 20], tags
    with pytest.raises(DownloadError):
        fetch(f"{web.url}/file", tmp_path / "out")
    web.cuts = []
    (tmp_path / "web" / "file").write_bytes(content[::-1])
    fetch(f"{web.url}/file", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content[::-1]


def test_a_server_that_marks_nothing_is_trusted_as_far_as_the_checksum(
    content: bytes, web: RangeServer, tmp_path: Path
) -> None:
    web.cuts, web.tags = [20_000], False
    fetch(f"{web.url}/file", tmp_path / "out", sha256=sha256(content))
    assert web.asked == ["", "bytes=20000-"]
    (tmp_path / "out2.part").write_bytes(content)  # stopped between the last byte and the check
    fetch(f"{web.url}/file", tmp_path / "out2", sha256=sha256(content))
    (tmp_path / "out3.part").write_bytes(content + b"more")
    fetch(f"{web.url}/file", tmp_path / "out3", sha256=sha256(content))
    assert (tmp_path / "out3").read_bytes() == (tmp_path / "out2").read_bytes() == content


def test_what_a_server_cannot_give(content: bytes, web: RangeServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DownloadError, match=r"absent: the server answers 404.*--url"):
        fetch(f"{web.url}/absent", out)
    web.answers = {"file": [503, 429]}
    assert fetch(f"{web.url}/file", out) == sha256(content), "busy for a while"
    out.unlink()
    with pytest.raises(DownloadError, match=r"SHA-256 is .* not 0000.*removed.*--url"):
        fetch(f"{web.url}/file", out, sha256="0" * 64)
    assert not list(tmp_path.glob("out*"))
    with pytest.raises(DownloadError, match=r"attempts without progress.*refused"):
        fetch("http://127.0.0.1:9/file", out)
    with pytest.raises(DownloadError, match="not an http"):
        fetch(f"file://{tmp_path}/web/file", out)


def test_a_full_disk(
    content: bytes, web: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(download.shutil.disk_usage(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(download.shutil, "disk_usage", lambda _: usage(100, 80, 20))
        with pytest.raises(DownloadError, match=r"MB are needed, 0 MB are free"):
            fetch(f"{web.url}/file", tmp_path / "out")
    full = Path("/dev/full")
    if full.exists():
        (tmp_path / "full.part").symlink_to(full)
        with pytest.raises(DownloadError, match=f"cannot be written.*{errno.ENOSPC}"):
            download._append(tmp_path / "full.part", b"x")


def test_a_server_that_gives_less_than_it_is_asked_for(
    content: bytes, web: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some give at most so many bytes a request: the length that counts is the one behind the slash."""

    def a_third(self: RangeHandler) -> None:
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        part = content[start : start + len(content) // 3]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part) if start else len(content)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)

    monkeypatch.setattr(RangeHandler, "do_GET", a_third)
    fetch(f"{web.url}/file", tmp_path / "a.tar", sha256=sha256(content))
    assert (tmp_path / "a.tar").read_bytes() == content


def test_attempts_that_start_anew_and_get_nowhere_come_to_an_end(
    content: bytes, web: RangeServer, tmp_path: Path
) -> None:
    web.tags = False  # and no checksum: nothing can be gone on with
    web.cuts = [5, 3] * 20
    with pytest.raises(DownloadError, match="6 attempts without progress"):
        fetch(f"{web.url}/file", tmp_path / "a.tar")
    assert len(web.asked) == 6


@pytest.mark.parametrize(
    "address", ["", "file:///etc/hosts", "http://", "http://[::1", "http://a:b/c", "http://a b"]
)
def test_what_is_no_address(address: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="not an http"):
        fetch(address, tmp_path / "a.tar")


def add(tar: tarfile.TarFile, name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, len(data) * (kind == tarfile.REGTYPE), "/etc/passwd"
    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out.txt", tarfile.REGTYPE),
        ("/tmp/out.txt", tarfile.REGTYPE),
        ("a/../../out.txt", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("fifo", tarfile.FIFOTYPE),
    ],
)
def test_tars_do_not_reach_out(name: str, kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        add(tar, "good/file.txt")
        add(tar, name, kind=kind)
    with pytest.raises(DownloadError, match="is refused"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "in" / "out")
    assert not (tmp_path / "out.txt").exists()
    assert not (tmp_path / "in" / "out.txt").exists()


def test_zips_do_not_reach_out(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    members: list[str | zipfile.ZipInfo] = ["../out.txt", "/out.txt", "a\\..\\out.txt", link]
    for number, member in enumerate(members):
        archive = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(member, "x")
        with pytest.raises(DownloadError, match="is refused"):
            unpack(archive, tmp_path / f"out{number}")


def test_damaged_archives(tmp_path: Path) -> None:
    data = bytes(number * number % 251 for number in range(50_000))
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as tar:
        add(tar, "./words/file.wav", data)
    assert unpack(tmp_path / "whole.tar.gz", tmp_path / "good") == 1
    assert (tmp_path / "good" / "words" / "file.wav").read_bytes() == data
    cut = (tmp_path / "whole.tar.gz").read_bytes()[:-200]
    (tmp_path / "cut.tar.gz").write_bytes(cut)
    (tmp_path / "page.html").write_text("<html>sign in to the network</html>")
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as file:
        file.writestr("top/file.wav", data)
    flipped = bytearray((tmp_path / "whole.zip").read_bytes())
    flipped[1000] ^= 1
    (tmp_path / "flipped.zip").write_bytes(flipped)
    for number, name in enumerate(("cut.tar.gz", "page.html", "flipped.zip")):
        with pytest.raises(DownloadError, match="damaged"):
            unpack(tmp_path / name, tmp_path / f"bad{number}")
    assert unpack(tmp_path / "whole.zip", tmp_path / "stripped", strip=True) == 1
    assert (tmp_path / "stripped" / "file.wav").read_bytes() == data
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        add(tar, "a")
        add(tar, "./a")
    with pytest.raises(DownloadError, match="twice"):
        unpack(tmp_path / "twice.tar", tmp_path / "twice")


def test_archives_that_cannot_be_unpacked_are_not_the_disks_fault(tmp_path: Path) -> None:
    """What the disk refuses is kept for another try, an archive that is wrong is not."""
    archive = tmp_path / "a.tar"
    for names in (["a", "a/b/c"], ["x" * 300], [""]):
        with tarfile.open(archive, "w") as tar:
            for name in names:
                add(tar, name)
        with pytest.raises(ArchiveError):
            unpack(archive, tmp_path / f"out-{names[0][:1]}")
    packed = bytearray(bz2.compress(archive.read_bytes() + bytes(range(256)) * 4000))
    packed[len(packed) // 2] ^= 255
    (tmp_path / "a.tar.bz2").write_bytes(packed)
    with pytest.raises(ArchiveError, match="damaged"):
        unpack(tmp_path / "a.tar.bz2", tmp_path / "bz2")
