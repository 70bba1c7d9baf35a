"""Public data sets from a local server: archives of the true layout, with a few clips."""

from __future__ import annotations

import bz2
import errno
import hashlib
import io
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

from ajepa.cli import main
from ajepa.data import download
from ajepa.data.download import ArchiveError, DownloadError, fetch, unpack
from ajepa.data.synthetic import write_esc50, write_speech_commands
from ajepa.eval.tasks import open_task, public
from ajepa.eval.tasks.public import Archive, check_esc50, check_test_set, check_words
from ajepa.hear_module.tasks import HEAR_WORDS
from tests.file_server import Handler, Server
from tests.hear_tasks import tones


class RangeHandler(Handler):
    """Serves parts of files, says which it was asked for, and breaks off where it is told to."""

    server: RangeServer

    def do_GET(self) -> None:  # noqa: N802
        name = self.path.rsplit("/", 1)[-1]
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        if not path.is_file() or self.server.answers.get(name):
            return super().do_GET()
        data = path.read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        same = self.headers.get("If-Range", tag) == tag
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and same else 0
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if self.server.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(data)
        self.wfile.write(data[start : start + cut])
        return None


class RangeServer(Server):
    asked: list[str]
    cuts: list[int]  # bytes after which the next transfers break off
    tags: bool


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    (tmp_path / "web").mkdir()
    with RangeServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(tmp_path / "web"))) as server:
        server.requests, server.answers = Counter(), {}
        server.asked, server.cuts, server.tags = [], [], True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def content(tmp_path: Path, web: RangeServer) -> bytes:
    data = bytes(number * number % 251 for number in range(50_000))
    (tmp_path / "web" / "file").write_bytes(data)
    return data


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
    with pytest.raises(DownloadError, match=r"attempts brought nothing.*broken off after 20,000 of 50,000"):
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
    with pytest.raises(DownloadError, match=r"attempts brought nothing.*refused"):
        fetch("http://127.0.0.1:9/file", out)
    with pytest.raises(DownloadError, match="not an http"):
        fetch(f"file://{tmp_path}/web/file", out)


def test_a_full_disk(
    content: bytes, web: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(download.shutil.disk_usage(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(download.shutil, "disk_usage", lambda _: usage(100, 80, 20))
        with pytest.raises(DownloadError, match=r"MB are to come, 0 MB are free"):
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
    with pytest.raises(DownloadError, match="6 attempts brought nothing"):
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


def pack_tar(folder: Path, archive: Path) -> str:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=".")  # as the official ones: ./yes/0a7c2a8d_nohash_0.wav
    return sha256(archive.read_bytes())


@pytest.fixture
def small_sets(tmp_path: Path, web: RangeServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three sets with few clips, their archives on the server under their official names."""
    source, site = tmp_path / "source", tmp_path / "web"
    write_esc50(source / "ESC-50-master", clips_per_class=5, classes=2, seconds=0.1)
    with zipfile.ZipFile(site / "master.zip", "w") as file:
        for path in sorted((source / "ESC-50-master").rglob("*")):
            file.write(path, path.relative_to(source))
    lines = [
        f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted((source / "ESC-50-master" / "audio").iterdir())
    ]
    words = source / "words"
    tones(
        words, [f"{word}/{who}_nohash_0.wav" for word in (*HEAR_WORDS, "bed") for who in "abc"], seconds=0.05
    )
    tones(words / "_background_noise_", ["white_noise.wav", "running_tap.wav"], seconds=1.2)
    for split, who in (("validation", "b"), ("testing", "c")):
        names = "".join(f"{word}/{who}_nohash_0.wav\n" for word in (*HEAR_WORDS, "bed"))
        (words / f"{split}_list.txt").write_text(names)
    labels = (*HEAR_WORDS, "_unknown_", "_silence_")
    tones(source / "test", [f"{label}/d_nohash_0.wav" for label in labels], seconds=0.05)

    (esc50,) = public.SETS["esc50"]
    checks: dict[str, Callable[[Path], None]] = {
        "ESC-50": partial(check_esc50, clips=10, sums=sha256("".join(lines).encode()))
    }
    sums: dict[str, str | None] = {}
    for version in ("0.01", "0.02"):
        for kind, folder in (("", words), ("test_set_", source / "test")):
            name = f"speech_commands_{kind}v{version}"
            sums[name] = pack_tar(folder, site / f"{name}.tar.gz")
            checks[name] = (
                partial(check_test_set, clips=12) if kind else partial(check_words, counts=(11, 11, 11))
            )
    for name, archives in public.SETS.items():
        small = [
            one._replace(check=checks[one.folder], sha256=one.sha256 and sums[one.folder]) for one in archives
        ]
        monkeypatch.setitem(public.SETS, name, tuple(small))
    assert esc50.url.endswith("/ESC-50/archive/master.zip")
    return tmp_path / "data"


def test_sets_open_as_tasks(small_sets: Path, web: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    mirror = f"{web.url}/"
    for name in public.SETS:
        assert main(["data", "get", name, "--out", str(small_sets), "--url", mirror]) == 0
    printed = capsys.readouterr().out
    assert f"--task esc50 --data {small_sets / 'ESC-50'}" in printed
    assert "no checksum of it is published" in printed
    assert len(open_task("esc50", small_sets / "ESC-50").clips) == 10
    v1 = open_task("speech_commands_v1", small_sets / "speech_commands_v0.01")
    assert v1.counts["test"] == 12, "the test archive is found beside"
    assert len(open_task("speech_commands_v2", small_sets / "speech_commands_v0.02").clips) == 33
    assert not list(small_sets.glob(".*")), "nothing is left of the work"
    web.asked.clear()
    assert main(["data", "get", "speech_commands_v1", "--out", str(small_sets), "--url", mirror]) == 0
    assert web.asked == [], "what is there and whole is not fetched again"
    (small_sets / "ESC-50" / "audio").rename(small_sets / "elsewhere")
    assert main(["data", "get", "esc50", "--out", str(small_sets), "--url", mirror]) == 2
    assert "not whole" in capsys.readouterr().err


def test_a_set_appears_when_it_is_whole(
    small_sets: Path, web: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (esc50,) = public.SETS["esc50"]
    folder, url = small_sets / "ESC-50", f"{web.url}/master.zip"
    web.cuts = [1000, *[0] * download.ATTEMPTS]
    with pytest.raises(DownloadError, match="attempts brought nothing"):
        public.get("esc50", small_sets, url=url)
    assert not folder.exists()

    # Stopped while unpacking: the next call takes nothing of that for complete, and does not fetch again.
    def stopped(check: Path) -> None:
        raise KeyboardInterrupt

    web.cuts = []
    monkeypatch.setitem(public.SETS, "esc50", (esc50._replace(check=stopped),))
    with pytest.raises(KeyboardInterrupt):
        public.get("esc50", small_sets, url=url)
    assert not folder.exists()
    (small_sets / ".ESC-50.partial" / "unpacked" / "audio" / "stray.wav").write_bytes(b"")
    web.asked.clear()
    monkeypatch.setitem(public.SETS, "esc50", (esc50,))
    ((got, evidence),) = public.get("esc50", small_sets, url=url)
    assert (got, web.asked) == (folder, [])
    assert sha256((tmp_path / "web" / "master.zip").read_bytes()) in evidence
    assert not (folder / "audio" / "stray.wav").exists()


def test_one_process_at_a_time(small_sets: Path, web: RangeServer) -> None:
    work = small_sets / ".ESC-50.partial"
    work.mkdir(parents=True)
    with FileLock(work / "lock"), pytest.raises(DownloadError, match="another process"):
        public.get("esc50", small_sets, url=f"{web.url}/")
    assert public.get("esc50", small_sets, url=f"{web.url}/")[0][0].is_dir()


def test_another_content_is_refused(small_sets: Path, web: RangeServer, tmp_path: Path) -> None:
    site = tmp_path / "web"
    with zipfile.ZipFile(site / "master.zip") as file:
        whole = {name: file.read(name) for name in file.namelist() if not name.endswith("/")}
    changed = next(name for name in whole if name.endswith(".wav"))
    with zipfile.ZipFile(site / "master.zip", "w") as file:
        for name, data in (whole | {changed: whole[changed][:-1] + b"?"}).items():
            file.writestr(name, data)
    with pytest.raises(DownloadError, match=r"not ESC-50's, by their checksums.*removed"):
        public.get("esc50", small_sets, url=f"{web.url}/")
    assert not (small_sets / "ESC-50").exists()

    (site / "master.zip").write_text("<html>sign in to the network</html>")
    with pytest.raises(DownloadError, match=r"damaged.*what came is removed"):
        public.get("esc50", small_sets, url=f"{web.url}/")
    with zipfile.ZipFile(site / "master.zip", "w") as file:
        for name, data in whole.items():
            file.writestr(name, data)
    assert public.get("esc50", small_sets, url=f"{web.url}/")[0][0].is_dir(), "fetched anew"

    (site / "speech_commands_v0.01.tar.gz").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="SHA-256"):
        public.get("speech_commands_v1", small_sets, url=f"{web.url}/")
    with pytest.raises(DownloadError, match="give the folder of both"):
        public.get("speech_commands_v1", small_sets, url=f"{web.url}/speech_commands_v0.01.tar.gz")


def test_incomplete_words_are_refused(tmp_path: Path) -> None:
    write_speech_commands(tmp_path / "words", words=2, speakers=3, takes=1, seconds=0.1, noise_seconds=1)
    check_words(tmp_path / "words", (2, 2, 2))
    with pytest.raises(DownloadError, match="2 / 2 / 2 clips, not 3 / 2 / 2"):
        check_words(tmp_path / "words", (3, 2, 2))
    labels = (*HEAR_WORDS, "_unknown_", "_silence_")
    tones(tmp_path / "test", [f"{label}/d.wav" for label in labels], seconds=0.05)
    with pytest.raises(DownloadError, match="12 clips, not 13"):
        check_test_set(tmp_path / "test", 13)
    (tmp_path / "test" / "yes" / "d.wav").write_text("<html>not audio</html>")
    with pytest.raises(DownloadError, match="not a WAV file"):
        check_test_set(tmp_path / "test", 12)


def test_official_addresses_and_sums() -> None:
    archives: list[Archive] = [archive for archives in public.SETS.values() for archive in archives]
    assert all(len(one.sha256 or "0" * 64) == 64 for one in archives)
    assert [one.folder for one in archives if one.sha256 is None] == [
        "ESC-50",
        "speech_commands_test_set_v0.01",
    ]
