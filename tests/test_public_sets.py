"""Public data sets from a local server: archives of the true layout, with a few clips."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

from ajepa.cli import main
from ajepa.data import download
from ajepa.data.download import DownloadError
from ajepa.data.speech_commands import KEYWORDS
from ajepa.data.synthetic import write_esc50, write_speech_commands
from ajepa.eval.tasks import open_task, public
from ajepa.eval.tasks.public import Archive, check_esc50, check_test_set, check_words
from tests.hear_tasks import tones
from tests.range_server import RangeServer, sha256


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
    tones(words, [f"{word}/{who}_nohash_0.wav" for word in (*KEYWORDS, "bed") for who in "abc"], seconds=0.05)
    tones(words / "_background_noise_", ["white_noise.wav", "running_tap.wav"], seconds=1.2)
    for split, who in (("validation", "b"), ("testing", "c")):
        names = "".join(f"{word}/{who}_nohash_0.wav\n" for word in (*KEYWORDS, "bed"))
        (words / f"{split}_list.txt").write_text(names)
    labels = (*KEYWORDS, "_unknown_", "_silence_")
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
    assert "no checksum is published" in printed
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
    assert "not complete" in capsys.readouterr().err


def test_a_set_appears_when_it_is_whole(
    small_sets: Path, web: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (esc50,) = public.SETS["esc50"]
    folder, url = small_sets / "ESC-50", f"{web.url}/master.zip"
    web.cuts = [1000, *[0] * download.ATTEMPTS]
    with pytest.raises(DownloadError, match="attempts without progress"):
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


def test_an_unknown_set_is_told_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"'esc51'; choose .*esc50"):
        public.get("esc51", tmp_path)


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
    with pytest.raises(DownloadError, match=r"damaged.*the download was removed"):
        public.get("esc50", small_sets, url=f"{web.url}/")
    with zipfile.ZipFile(site / "master.zip", "w") as file:
        for name, data in whole.items():
            file.writestr(name, data)
    assert public.get("esc50", small_sets, url=f"{web.url}/")[0][0].is_dir(), "fetched anew"

    (site / "speech_commands_v0.01.tar.gz").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="SHA-256"):
        public.get("speech_commands_v1", small_sets, url=f"{web.url}/")
    with pytest.raises(DownloadError, match="give their folder"):
        public.get("speech_commands_v1", small_sets, url=f"{web.url}/speech_commands_v0.01.tar.gz")


def test_incomplete_words_are_refused(tmp_path: Path) -> None:
    write_speech_commands(tmp_path / "words", words=2, speakers=3, takes=1, seconds=0.1, noise_seconds=1)
    check_words(tmp_path / "words", (2, 2, 2))
    with pytest.raises(DownloadError, match="2 / 2 / 2 clips, not 3 / 2 / 2"):
        check_words(tmp_path / "words", (3, 2, 2))
    labels = (*KEYWORDS, "_unknown_", "_silence_")
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
