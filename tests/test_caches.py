"""What can be made again: its folders, its limit, what damage and killed processes leave, `ajepa cache`."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from ajepa import caches, files
from ajepa.caches import CacheError
from ajepa.cli import main
from ajepa.data.synthetic import write_esc50
from ajepa.eval.compare.cells import Shelf
from ajepa.eval.compare.run import Comparison, compare
from ajepa.eval.models.open import EncoderModel, Named
from ajepa.eval.probe.embeddings import embed_clips
from ajepa.eval.tasks import Clip
from ajepa.model import AudioEncoder
from ajepa.recipes import Recipe
from tests.users import USER, as_another_user, only_root, open_folder


@pytest.fixture
def tiny(tiny_recipe: Recipe) -> Named:
    torch.manual_seed(0)
    return Named(
        "tiny", "", EncoderModel(AudioEncoder(tiny_recipe.front_end, tiny_recipe.encoder, 1.28)).eval()
    )


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Clip, ...]:
    rng = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(8_000), 16_000)
    return tuple(Clip(tmp_path / f"{number}.wav", ("a",), "0") for number in range(3))


# -- Folders --


def test_the_folder_follows_the_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.cache_folder("shards") == tmp_path / "xdg" / "ajepa" / "shards"
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert caches.cache_folder("shards") == tmp_path / "home" / ".cache" / "ajepa" / "shards"
    monkeypatch.delenv("XDG_CACHE_HOME")
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(tmp_path))
    assert caches.cache_folder("shards") == tmp_path / f"ajepa-cache-{os.getuid()}" / "shards"


def test_a_temporary_folder_of_another_user_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"ajepa-cache-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(CacheError, match="set XDG_CACHE_HOME"):
        caches.cache_folder("embeddings")
    folder.rmdir()
    folder.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(CacheError, match="belongs to another user"):
        caches.cache_folder("embeddings")


@only_root
def test_a_user_without_a_home_directory() -> None:
    """As in a container that is started with a bare user number."""
    code = (
        "cache_folder('embeddings').mkdir(parents=True)\n"
        "print(cache_folder('embeddings'))\n"
        "try: expanded('~/a')\n"
        "except PlaceError as error: print(error)\n"
    )
    imports = "from ajepa.caches import cache_folder; from ajepa.files import PlaceError, expanded"
    with open_folder(0o777) as folder:
        done = as_another_user(imports, code, folder)
    assert done.stdout.splitlines() == [
        f"{folder}/ajepa-cache-{USER}/embeddings",
        "~/a: no home directory is known here; write the path in full",
    ], done.stderr


# -- The limit --


def test_the_longest_unused_make_room(tmp_path: Path) -> None:
    now = time.time()
    for number in range(5):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(b"x" * 1_000_000)
        os.utime(path, (now, now - 1000 * (5 - number)))
    (tmp_path / "new.safetensors").write_bytes(b"x" * 1_000_000)
    (tmp_path / "other.txt").write_bytes(b"x" * 1_000_000)
    caches.set_limit(tmp_path, 0.003)
    caches.make_room(tmp_path, ".safetensors")
    left = {path.name for path in tmp_path.glob("*.safetensors")}
    assert left == {"3.safetensors", "4.safetensors", "new.safetensors"}
    assert (tmp_path / "other.txt").exists()
    caches.set_limit(tmp_path, 0)
    caches.make_room(tmp_path, ".safetensors")
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["new.safetensors"], "in use by this run"


def test_embeddings_keep_to_the_limit(tiny: Named, clips: tuple[Clip, ...], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = embed_clips(tiny, clips, "a", cache=cache)
    (stored,) = cache.glob("*.safetensors")
    os.utime(stored, (0, 0))
    caches.set_limit(cache, 1e-6)
    embed_clips(tiny, clips[:2], "a", cache=cache)
    assert not stored.exists()
    assert first.values.isfinite().all(), "still mapped"
    (stored,) = cache.glob("*.safetensors")
    os.utime(stored, (0, 0))
    embed_clips(tiny, clips[:2], "a", cache=cache)
    assert stored.stat().st_mtime > 1, "reading is using"


@pytest.mark.parametrize("text", ["", "3", '{"gigabytes": true}', '{"gigabytes": NaN}', '{"gigabytes": "x"}'])
def test_a_damaged_limit_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / caches.LIMIT).write_text(text)
    with pytest.raises(CacheError, match=r"limit\.json: damaged .*`ajepa cache limit`"):
        caches.limit_gigabytes(tmp_path)


# -- Damage --


@pytest.mark.parametrize("how", ["cut", "empty", "NaN", "other shape", "other type", "text"])
def test_damaged_embeddings_are_said_and_made_again(
    how: str, tiny: Named, clips: tuple[Clip, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    found = embed_clips(tiny, clips, "a", all_layers=True, cache=cache)
    before, (path,) = found.values.clone(), cache.glob("*.safetensors")
    del found  # mapped from the file that is damaged now
    content = path.read_bytes()
    if how in ("cut", "empty", "text"):
        path.write_bytes({"cut": content[:-5], "empty": b"", "text": b"text" * 9}[how])
    else:
        values = before.clone()
        values[1, 0, 0, 0, 3] = torch.nan
        changed = {"NaN": values, "other shape": before[:2], "other type": before.double()}[how]
        save_file({"values": changed.contiguous()}, path)
    capsys.readouterr()
    again = embed_clips(tiny, clips, "a", all_layers=True, cache=cache)
    assert not again.cached
    assert torch.equal(again.values, before)
    said = capsys.readouterr().err
    assert f"{path}: damaged (" in said and f"set aside as {path.name}.damaged" in said
    assert embed_clips(tiny, clips, "a", cache=cache).cached


def test_a_stored_file_is_one_of_safetensors(tiny: Named, clips: tuple[Clip, ...], tmp_path: Path) -> None:
    strange = os.fsdecode(b"caf\xe9 \xff")
    found = embed_clips(Named(strange, strange, tiny.module), clips, "a", cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    assert torch.equal(load_file(path)["values"], found.values)
    assert found.seconds > 0


def test_a_damaged_cell_is_said_and_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_esc50(tmp_path / "esc50", clips_per_class=10, classes=3, seconds=0.4)
    comparison = Comparison(
        {"log-mel": "logmel"}, {"sounds": {"task": "esc50", "data": str(tmp_path / "esc50")}}, ["knn"]
    )
    out = tmp_path / "out"

    def run() -> list[float]:
        records, failures = compare(comparison, out, tmp_path / "cache")
        assert not failures
        return [record.score for record in records]

    before = run()
    (draws,), (records,) = ((out / "cells").glob(kind) for kind in ("*.npy", "*.json"))
    stored = json.loads(records.read_text())
    damages = {
        draws: (draws.read_bytes()[:-5], b"", np.zeros((9, 1, 2)).tobytes(), b"\x93NUMPY\x01\x00\x10\x00x"),
        records: (
            b"",
            records.read_bytes()[:-9],
            json.dumps([stored[0] | {"score": "high"}]).encode(),
            json.dumps([stored[0] | {"interval": [1.0]}]).encode(),
            json.dumps([stored[0] | {"format": 1}]).encode(),
            json.dumps(stored * 2).encode(),
        ),
    }
    for path, contents in damages.items():
        for content in contents:
            path.write_bytes(content)
            capsys.readouterr()
            assert run() == before
            said = capsys.readouterr().err
            assert ": damaged (" in said and "log-mel on sounds, knn runs again" in said, (path, content)
            assert len(list((out / "cells").glob("*.damaged"))) >= 1
    capsys.readouterr()
    assert run() == before and capsys.readouterr().err == ""


# -- What killed processes leave --

WRITES = """
import sys, time
from pathlib import Path
from ajepa import files
with files.{call}(Path(sys.argv[1])) as partial:
    (partial / "half" if partial.is_dir() else partial).write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("call", ["in_place_of", "folder_in_place_of"])
def test_the_next_run_removes_what_a_killed_one_left(call: str, tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES.format(call=call), str(target)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    left = {path for path in tmp_path.iterdir() if not path.name.endswith("replaced")}
    files.remove_leftovers(tmp_path)
    assert left <= set(tmp_path.iterdir()), "its writer lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    files.remove_leftovers(tmp_path, "results")
    assert left <= set(tmp_path.iterdir()), "of another file"
    if call == "in_place_of":
        files.write(target, "whole")
    else:
        with files.folder_in_place_of(target) as partial:
            (partial / "whole").touch()
    assert list(tmp_path.iterdir()) == [target]


def test_what_another_machine_left_goes_after_a_day(tmp_path: Path) -> None:
    here = files.socket.gethostname()
    names = (
        ".ajepa.a.json.elsewhere.12.partial",
        ".ajepa.a.json.else.where.12.partial",
        ".hidden",
        ".a.1",
        "a.12.partial",
        ".thesis.2.swp",  # an editor's
        ".zcompdump-vm-5.8.1",
    )
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / f".ajepa.a.json.{here}.1.partial").touch()
    files.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for name in names:
        os.utime(tmp_path / name, (0, time.time() - files.ABANDONED_SECONDS - 60))
    files.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[2:])


REPLACES = """
import os, sys
from pathlib import Path
from ajepa import files
rename = Path.rename
def killed(self, target):
    rename(self, target)
    os._exit(9)
Path.rename = killed
with files.folder_in_place_of(Path(sys.argv[1])) as partial:
    (partial / "new").touch()
"""


@pytest.mark.parametrize("failing", [True, False])
def test_a_folder_is_never_lost(failing: bool, tmp_path: Path) -> None:
    """Killed between moving the old one aside and putting the new one there."""
    target = tmp_path / "saved"
    with files.folder_in_place_of(target) as partial:
        (partial / "old").touch()
    assert subprocess.run([sys.executable, "-c", REPLACES, str(target)], check=False).returncode == 9
    assert not target.exists()
    with suppress(ZeroDivisionError), files.folder_in_place_of(target) as partial:
        (partial / "newest").touch()
        assert [path.name for path in target.iterdir()] == ["old"]
        if failing:
            raise ZeroDivisionError
    assert [path.name for path in target.iterdir()] == ["old" if failing else "newest"]
    assert list(tmp_path.iterdir()) == [target]


def test_long_names_are_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120 + ".json")  # 245 bytes of the 255 that a name may have
    files.write(path, "whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]
    (tmp_path / f".ajepa.{files._short(path.name)}.{socket.gethostname()}.1.partial").touch()
    files.write(path, "again")
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_comparison_leaves_nothing_after_the_next(tmp_path: Path) -> None:
    here = files.socket.gethostname()
    for folder in ("cells", "work", "."):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f".ajepa.x.npy.{here}.1.partial").touch()
    Shelf(tmp_path).tidy()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# -- The command --


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    held = tmp_path / "ajepa" / "embeddings"
    held.mkdir(parents=True)
    for name, days in (("old", 40), ("new", 0)):
        (held / f"{name}.safetensors").write_bytes(b"x" * 20_000_000)
        os.utime(held / f"{name}.safetensors", (0, time.time() - days * 86_400))
    lists = tmp_path / "ajepa" / "s3prl" / "voxceleb1" / "x"
    lists.mkdir(parents=True)
    (lists / "train.pkl").touch()
    assert main(["cache", "limit", "20"]) == 0
    assert main(["cache", "show"]) == 0
    said = capsys.readouterr().out
    assert "0.04 GB" in said and "up to 20 GB" in said and "0 to 40 days ago" in said
    assert main(["cache", "clear", "--older-than", "30"]) == 0
    assert [path.name for path in held.glob("*.safetensors")] == ["new.safetensors"]
    assert lists.is_dir()
    assert main(["cache", "clear"]) == 0
    assert not lists.exists() and not list(held.glob("*.safetensors"))
    assert caches.limit_gigabytes(held) == 20
    for arguments, words in (
        (["clear", "embedings"], "no cache is called 'embedings'"),
        (["clear", "--older-than", "-1"], "--older-than is -1.0"),
        (["limit", "nan"], "the limit is nan GB"),
    ):
        capsys.readouterr()
        assert main(["cache", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_clearing_leaves_what_is_fetched_now(tmp_path: Path) -> None:
    for name in ("aa.tar", "bb.fetched.part", "cc.reserved"):
        (tmp_path / name).touch()
    with caches.FileLock(tmp_path / "bb.lock"), caches.FileLock(tmp_path / "cc.lock"):
        assert [entry.path.name for entry in caches.clear(tmp_path)] == ["aa.tar"]
    assert {entry.path.name for entry in caches.clear(tmp_path)} == {"bb.fetched.part", "cc.reserved"}


def test_a_cache_of_somebody_else_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files may be read and not touched."""

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr("ajepa.caches.os.utime", refuse)
    caches.used(tmp_path)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        caches.used(tmp_path / "gone")
