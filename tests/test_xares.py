"""X-ARES: encoders, tars, its bridge, and (slow) the protocol with the stock runner."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from ajepa.cli import main
from ajepa.data.synthetic import write_esc50, write_speech_commands, write_voxceleb1
from ajepa.eval.protocols import ProtocolError, TaskEntry
from ajepa.eval.protocols import xares as xares_runs
from ajepa.eval.protocols.xares import Xares, task_files
from ajepa.eval.results.errors import EvaluationError
from ajepa.eval.toolkits.xares.encoder import XaresEncoder, XaresError, encoder_class, write_encoder
from ajepa.eval.toolkits.xares.encoder import main as write_main
from ajepa.eval.toolkits.xares.sets import READY, XaresSetError, write_tars
from ajepa.harness import xares as bridge
from tests import forks
from tests.pickles import MakesFolder
from tests.toolkits import enabled_site, python


def _installed() -> bool:
    try:
        return importlib.util.find_spec("xares.run") is not None and bool(importlib.util.find_spec("ignite"))
    except ModuleNotFoundError:
        return False


needs_xares = pytest.mark.skipif(
    not _installed(), reason="X-ARES is not installed; `ajepa harness enable xares` installs it"
)


def _members(tar: Path) -> dict[str, bytes]:
    with tarfile.open(tar) as members:
        return {member.name: members.extractfile(member).read() for member in members}  # type: ignore[union-attr]


# -- encoders --


@pytest.mark.parametrize("samples", [1, 799, 16_000, 50_000])
def test_frames(tiny: Path, samples: int) -> None:
    encoder = XaresEncoder(str(tiny))
    audio_BS = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        frames_BTX = encoder(audio_BS)
        expected = encoder.encoder.encoder(audio_BS).frames
        assert frames_BTX.shape == (2, expected.shape[1], encoder.output_dim)
        assert torch.equal(frames_BTX, expected)
        assert torch.allclose(encoder(audio_BS[0]), frames_BTX[:1], atol=1e-5)
    assert encoder.sampling_rate == 16_000
    assert encoder.hop_size_in_ms == pytest.approx(160)
    assert frames_BTX.dtype == torch.float32


def test_averaged_frequency(tiny: Path) -> None:
    encoder = XaresEncoder(str(tiny), "average")
    assert encoder.output_dim == 32
    audio_BS = torch.randn(1, 8000)
    with torch.inference_mode():
        assert torch.equal(encoder(audio_BS), encoder.encoder.encoder(audio_BS).patches.mean(2))
    with pytest.raises(XaresError, match="concatenate or average"):
        XaresEncoder(str(tiny), "max")


def test_padding_counts_as_silence(tiny: Path) -> None:
    """X-ARES gives no lengths: frames before the padding may change, and those of the padding are there."""
    encoder = XaresEncoder(str(tiny))
    audio_BS = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    padded_BS = nn.functional.pad(audio_BS, (0, 16_000))
    with torch.inference_mode():
        assert encoder(padded_BS).shape[1] > encoder(audio_BS).shape[1]
        assert not torch.allclose(encoder(padded_BS).mean(1), encoder(audio_BS).mean(1), atol=1e-3)


def _written(file: Path) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(file.read_text(), file, "exec"), names)
    return names


def test_files_of_checkpoints_have_names_of_their_own(tiny: Path, tmp_path: Path) -> None:
    first, first_class = write_encoder(tiny, tmp_path, name="My run, 2")
    assert (first, first_class) == write_encoder(tiny, tmp_path, name="My run, 2")
    assert first.stem.isidentifier()
    assert first.name.startswith("ajepa_my_run_2_")
    averaged, averaged_class = write_encoder(tiny, tmp_path, name="My run, 2", frequency="average")
    tiny.write_text(tiny.read_text().replace("depth: 2", "depth: 1"))
    other, other_class = write_encoder(tiny, tmp_path, name="My run, 2")
    names = []
    for file in (first, averaged, other):
        made = _written(file)
        (name,) = (name for name in made if name.endswith("Encoder"))  # X-ARES wants exactly one
        names.append(name)
    assert names == [first_class, averaged_class, other_class]
    assert len({first, averaged, other}) == len(set(names)) == 3
    encoder = made[names[2]]()  # type: ignore[operator]
    assert type(encoder).__name__ == names[2]
    with pytest.raises(XaresError, match="was written for"):
        _written(first)[names[0]]()  # type: ignore[operator]


def test_other_weights_are_refused(tiny: Path) -> None:
    cls = encoder_class("AjepaTinyEncoder", str(tiny), weights="0123456789abcdef")
    with pytest.raises(XaresError, match=r"AjepaTinyEncoder was written for 0123.*ajepa\.eval\.xares"):
        cls()
    for wrong in ("Ajepa", "my encoderEncoder"):
        with pytest.raises(XaresError, match="ends in Encoder"):
            encoder_class(wrong, str(tiny))


def test_the_command_writes_a_file(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_main([str(tiny), "--out", str(tmp_path / "x")]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert write_main([str(tmp_path / "absent.safetensors"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("ajepa: ")


@needs_xares
def test_x_ares_accepts_it(tiny: Path) -> None:
    from xares.audio_encoder_checker import check_audio_encoder

    assert check_audio_encoder(encoder_class("AjepaTinyEncoder", str(tiny))())


# -- the bridge --


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "VORBIS")])
def test_decoded_audio(suffix: str, subtype: str) -> None:
    samples_SC = np.random.default_rng(0).uniform(-0.5, 0.5, (1600, 2))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples_SC, 8000, format=suffix, subtype=subtype)
    found = bridge.decode(f"clip.{suffix}", buffer.getvalue())
    assert found is not None
    waveform_CS, rate = found
    assert (rate, waveform_CS.shape, waveform_CS.dtype) == (8000, (2, 1600), torch.float32)
    if subtype == "PCM_16":
        assert np.abs(waveform_CS.numpy().T - samples_SC).max() < 2 / 2**15
    assert bridge.decode("clip.json", b"{}") is None


@needs_xares
def test_x_ares_reads_audio_without_torchcodec(tmp_path: Path) -> None:
    """In a process of its own: the cure reaches X-ARES's module, and webdataset stays as it is."""
    write_esc50(tmp_path / "esc50", clips_per_class=5, classes=2, seconds=0.3)
    tars = write_tars("esc50", tmp_path / "esc50", tmp_path / "env")
    code = (
        "import sys, webdataset\n"
        "from ajepa.harness import hook\n"
        "hook.install('xares')\n"
        "before = webdataset.torch_audio\n"
        "from xares.audiowebdataset import create_rawaudio_webdataset\n"
        "assert webdataset.torch_audio is before\n"
        "loader = create_rawaudio_webdataset(sys.argv[1:], target_sample_rate=16000, num_workers=0)\n"
        "print(sum(len(names) for (audio, lengths), about, names in loader))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tars / "wds-audio-fold-1-*.tar")], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["2"], done.stderr


@needs_xares
@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pyd", "pth"])
def test_pickled_members_of_tars_run_no_code(suffix: str, tmp_path: Path) -> None:
    write_esc50(tmp_path / "esc50", clips_per_class=5, classes=2, seconds=0.3)
    tar = write_tars("esc50", tmp_path / "esc50", tmp_path / "env") / "wds-audio-fold-1-0000000.tar"
    with tarfile.open(tar) as members:
        name = members.getnames()[0].partition(".")[0]
    opened, content = tmp_path / "opened", io.BytesIO()
    torch.save(MakesFolder(opened), content) if suffix == "pth" else pickle.dump(MakesFolder(opened), content)
    with tarfile.open(tar, "a") as members:
        member = tarfile.TarInfo(f"{name}.{suffix}")
        member.size = len(content.getvalue())
        members.addfile(member, io.BytesIO(content.getvalue()))
    code = (
        "import sys\n"
        "from ajepa.harness import hook\n"
        "hook.install('xares')\n"
        "from xares.audiowebdataset import create_rawaudio_webdataset\n"
        "list(create_rawaudio_webdataset(sys.argv[1:], target_sample_rate=16000, num_workers=0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tar)], capture_output=True, text=True)
    assert not opened.exists(), done.stderr


# -- tars --


def test_tars_of_esc50(tmp_path: Path) -> None:
    write_esc50(tmp_path / "esc50", clips_per_class=5, classes=3, seconds=0.3)
    folder = write_tars("esc50", tmp_path / "esc50", tmp_path / "env")
    assert folder == tmp_path / "env" / "esc50"
    assert {path.name for path in folder.iterdir()} == {
        READY,
        *(f"wds-audio-fold-{fold}-0000000.tar" for fold in range(1, 6)),
    }
    labels: Counter[int] = Counter()
    for tar in folder.glob("*.tar"):
        members = _members(tar)
        audio = {name for name in members if not name.endswith(".json")}
        assert {name.rpartition(".")[0] for name in audio} == {
            name.rpartition(".")[0] for name in members if name.endswith(".json")
        }
        for name in audio:
            stem = name.rpartition(".")[0]
            assert "." not in stem, "webdataset cuts names at their first dot"
            (source,) = (tmp_path / "esc50" / "audio").glob(f"{stem.removeprefix('esc50-audio-')}.*")
            assert members[name] == source.read_bytes()
            about = json.loads(members[f"{stem}.json"])
            assert int(stem.rpartition("-")[2]) == about["label"], "ESC-50's names end in the class number"
            assert about["group"]
            labels[about["label"]] += 1
    assert set(labels.values()) == {5}
    stamps = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    with pytest.raises(XaresSetError, match="--force"):
        write_tars("esc50", tmp_path / "esc50", tmp_path / "env")
    write_tars("esc50", tmp_path / "esc50", tmp_path / "env", force=True)
    assert stamps == {path.name: path.read_bytes() for path in folder.glob("*.tar")}, "the same every time"


def test_force_replaces_nothing_but_tars(tmp_path: Path) -> None:
    """`--source data/esc50 --out data`: the tars' folder would be the data set's own."""
    write_esc50(tmp_path / "esc50", clips_per_class=5, classes=2, seconds=0.3)
    with pytest.raises(XaresSetError, match="is not a folder of X-ARES tars"):
        write_tars("esc50", tmp_path / "esc50", tmp_path, force=True)
    assert (tmp_path / "esc50" / "meta" / "esc50.csv").is_file()


def test_categories_that_the_table_lacks_are_named(tmp_path: Path) -> None:
    write_esc50(tmp_path / "esc50", clips_per_class=5, classes=2, seconds=0.3)
    table = (tmp_path / "esc50" / "meta" / "esc50.csv").read_text()
    category = table.splitlines()[1].split(",")[3]
    (tmp_path / "own.csv").write_text(table.replace(category, "other"))
    with pytest.raises(XaresSetError, match="no category 'other'"):
        write_tars("esc50", tmp_path / "esc50", tmp_path / "env", csv=tmp_path / "own.csv")
    assert not (tmp_path / "env").exists()


def test_folds_that_x_ares_lacks_are_refused(tmp_path: Path) -> None:
    write_esc50(tmp_path / "esc50", clips_per_class=5, classes=2, seconds=0.3)
    table = tmp_path / "esc50" / "meta" / "esc50.csv"
    rows = table.read_text().splitlines()
    three = [row for row in rows[1:] if row.split(",")[1] in "123"]
    table.write_text("\n".join([rows[0], *three]) + "\n")
    with pytest.raises(XaresSetError, match="has the splits 1, 2, 3"):
        write_tars("esc50", tmp_path / "esc50", tmp_path / "env")
    assert not (tmp_path / "env" / "esc50").exists()


def _write_words(folder: Path, *names: str, **options: Any) -> None:
    """Speech Commands with words of these names, which the synthetic ones take."""
    write_speech_commands(folder, words=len(names), noise_seconds=2.0, **options)
    lists = [folder / "testing_list.txt", folder / "validation_list.txt"]
    invented = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "_")
    for old, new in zip(invented, names, strict=True):
        (folder / old).rename(folder / new)
        for path in lists:
            path.write_text(path.read_text().replace(f"{old}/", f"{new}/"))


def test_tars_of_words_and_speakers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_words(tmp_path / "words", "yes", "no", "backward", speakers=14, takes=1, seconds=0.3)
    folder = write_tars("speechcommandsv1", tmp_path / "words", tmp_path / "env")
    assert "clips of other classes left out" in capsys.readouterr().err
    for split, name in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        listed = [line.split("/")[0] for line in (tmp_path / "words" / name).read_text().split()]
        members = _members(folder / f"wds-audio-{split}-0000000.tar")
        found = [json.loads(data)["labels"] for name, data in members.items() if name.endswith(".json")]
        assert Counter(found) == Counter(word for word in listed if word != "backward")  # of version 0.02
    write_voxceleb1(tmp_path / "speakers", speakers=3, sessions=3, utterances=2, seconds=0.4)
    folder = write_tars("voxceleb1", tmp_path / "speakers", tmp_path / "env")
    lines = (tmp_path / "speakers" / "iden_split.txt").read_text().split("\n")
    for number, split in (("1", "train"), ("2", "valid"), ("3", "test")):
        members = _members(folder / f"voxceleb1_{split}_0000000.tar")
        found = [json.loads(data)["speakerid"] for name, data in members.items() if name.endswith(".json")]
        assert Counter(found) == Counter(
            line.split()[1].split("/")[0] for line in lines if line[:1] == number
        )


# -- the protocol --


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = TaskEntry("sounds", "esc50", {"xares": str(tmp_path / "esc50")})
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(EvaluationError, match="ajepa harness enable xares"):
            Xares("xares").depends_on(entry, "")
    monkeypatch.setattr(xares_runs, "task_files", lambda: {"esc50": "tasks/esc50_task.py"})
    with pytest.raises(EvaluationError, match="accuracy of clips are esc50"):
        Xares("xares").depends_on(replace(entry, folders={"xares": str(tmp_path / "clotho")}), "")
    with pytest.raises(EvaluationError, match="`ajepa data xares` makes"):
        Xares("xares").depends_on(entry, "")
    with pytest.raises(ProtocolError, match="concatenate or average"):
        Xares("xares", frequency="max")
    (tmp_path / "esc50").mkdir()
    (tmp_path / "esc50" / "a.tar").write_bytes(b"<html>" * 200)
    with pytest.raises(EvaluationError, match=r"a\.tar: damaged, or not a tar; make"):
        xares_runs._clips(tmp_path / "esc50" / "a.tar")


@needs_xares
def test_tasks_of_x_ares() -> None:
    files = task_files()
    assert files["esc50"] == "tasks/esc50_task.py"
    assert files["cremad"] == "tasks/crema_d_task.py", "the name is the configuration's, not the file's"
    assert {"speechcommandsv1", "voxceleb1", "ravdess"} <= set(files)
    assert not {"clotho", "fsd50k", "desed", "librispeech"} & set(files), (
        "not scored by the accuracy of clips"
    )


@pytest.mark.slow
@needs_xares
def test_the_stock_command(tiny: Path, tmp_path: Path) -> None:
    """`python -m xares.run`, literal, as after `ajepa harness enable xares`: folds of ESC-50 are embedded."""
    enabled_site(tmp_path, "xares")
    write_esc50(tmp_path / "esc50", clips_per_class=5, classes=2, seconds=0.3)
    write_tars("esc50", tmp_path / "esc50", tmp_path / "env")
    file, _ = write_encoder(tiny, tmp_path)
    run = ["-m", "xares.run", "--max-jobs", "0", "--to-stage", "1", file.name, "tasks/esc50_task.py"]
    repository = Path(__file__).resolve().parent.parent
    done = python(*run, cwd=tmp_path, path=[tmp_path / "site", repository])
    assert "Stage 1 completed" in done.stdout
    for fold in range(1, 6):
        tars = list((tmp_path / "env" / "esc50" / "embeddings").glob(f"*/wds-encoded-fold-{fold}-*.tar"))
        assert sum(name.endswith(".npy") for tar in tars for name in _members(tar)) == 2


@pytest.mark.slow
@needs_xares
def test_a_record(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ajepa evaluate xares`: X-ARES's own runner on tars, its score, an interval, one record."""
    _write_words(tmp_path / "words", "yes", "no", "up", speakers=16, takes=2, seconds=0.5)
    env, out, file = tmp_path / "env", tmp_path / "out", tmp_path / "record.json"
    made = ["--source", str(tmp_path / "words"), "--out", str(env)]
    assert main(["data", "xares", "speechcommandsv1", *made]) == 0
    command = ["evaluate", "xares", "--task", "speechcommandsv1", "--data", str(env)]
    command += ["--model", f"mine={tiny}", "--out", str(out), "--json", str(file), "--device", "cpu"]
    command += ["--set", "epochs=2", "--seeds", "1,2"]
    with forks.forked(forks.XARES):
        assert main(command) == 0
    record = json.loads(file.read_text())
    assert record["protocol"] == "xares"
    assert 0 <= record["interval"][0] <= record["score"] <= record["interval"][1] <= 1
    assert record["seeds"] == [1, 2]
    assert record["details"]["config"]["epochs"] == 2
    assert record["versions"]["xares"]
    assert set(record["folds"]) == {"test"}
    assert 0 <= record["details"]["knn_score"] <= 1
    assert record["clips"] == sum(record["clips_by_split"].values()) == 96
    assert "groups of clips" in record["interval_method"], "speakers are drawn together"
    assert not list((out / "xares").rglob("*.npy")), "embeddings are removed"
    assert not list(out.rglob("wds-encoded*"))
    log = next(out.rglob("seed-1.log")).read_text()
    assert "already exists. Skip training" not in log

    def stop(*arguments: object) -> float:
        raise AssertionError("run again")

    monkeypatch.setattr(xares_runs, "run_stock", stop)
    assert main(command) == 0
    again = json.loads(file.read_text())
    assert (again["score"], again["interval"]) == (record["score"], record["interval"])
