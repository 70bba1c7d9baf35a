"""Manifests: reading, checking, writing."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
import torch

from ajepa.audio import AudioError, info, load
from ajepa.cli import main
from ajepa.data import open_clips
from ajepa.data.clips import DataError
from ajepa.data.crops import CropDataset
from ajepa.data.manifest import Manifest
from ajepa.data.order import Draw
from ajepa.data.scan import scan_folder
from ajepa.embed.inputs import Inputs
from ajepa.embed.pieces import windows


def manifest(audio_folder: Path, text: str, name: str = "set.csv") -> Path:
    path = audio_folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_clips(audio_folder: Path) -> None:
    path = manifest(
        audio_folder,
        "split,path,start,duration,labels\n"
        'train,00.wav,,,"dog, barking"\n'
        "train,01.wav,0.1,0.2,\n"
        f"test,{audio_folder}/02.wav,0.25,,cat\n"
        "test,01.wav,0.3,0.1,\n",
    )
    clips = Manifest(path, labels=True)
    assert len(clips) == 4
    assert [(clip.start, clip.seconds, clip.labels) for clip in map(clips.clip, range(4))] == [
        (0.0, None, "dog, barking"),
        (0.1, 0.2, None),
        (0.25, None, "cat"),
        (0.3, 0.1, None),
    ]
    assert [clips.clip(row).audio for row in (0, 2)] == [f"{audio_folder}/0{n}.wav" for n in (0, 2)]
    assert open_clips(path).clip(0).labels is None


def test_csv_and_parquet_are_the_same_set(audio_folder: Path) -> None:
    text = "path,start,duration,labels\n00.wav,,0.5,a;b\n01.wav,0.25,,\n"
    from_csv = Manifest(manifest(audio_folder, text), labels=True)
    table = pa.table(
        {
            "labels": [["a", "b"], None],
            "path": pa.array(["00.wav", "01.wav"]).dictionary_encode(),
            "start": pa.array([None, 0.25], pa.float32()),
            "duration": [0.5, None],
        }
    )
    pa.parquet.write_table(table, audio_folder / "set.parquet")
    from_parquet = Manifest(audio_folder / "set.parquet", labels=True)
    ours, theirs = ([clips.clip(row)[:4] for row in range(2)] for clips in (from_csv, from_parquet))
    assert ours == theirs
    assert from_csv.clip(0).labels == from_parquet.clip(0).labels == "a;b"
    assert from_csv.fingerprint() == from_parquet.fingerprint()
    other = manifest(audio_folder, text.replace("0.25", "0.26"), "other.csv")
    assert Manifest(other).fingerprint()["sha256"] != from_csv.fingerprint()["sha256"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sound,start\n00.wav,0\n", ["no column is called path", "sound, start"]),
        ("", ["no column is called path", "none"]),
        ("path,path\na.wav,b.wav\n", ["two columns are named path"]),
        ("path\n", ["no rows"]),
        ("path,start\n00.wav,0\n00.wav,1\n00.wav,soon\n", ["row 3", "start is 'soon'", "number of seconds"]),
        ("path,start\n00.wav,0\n00.wav,-1\n00.wav,-2\n", ["row 2 (and 1 more rows)", "start", "at least 0"]),
        ("path,duration\n00.wav,\n00.wav,0\n", ["row 2", "duration", "more than 0"]),
        ("path,duration\n00.wav,inf\n", ["row 1", "duration"]),
        ("path,duration\n00.wav,nan\n", ["row 1", "duration"]),
        ("path,duration\n00.wav,1\n,1\n", ["row 2", "path is empty"]),
        ("path,duration\n00.wav,1\n00.wav,1,2\n", ["row 2 has 3 cells, and the header 2", "in quotes"]),
        ("path;start\n00.wav;0,5\n00.wav;0,5,1\n", ["row 2", "start is '0,5,1'"]),
        (
            "path\nelsewhere/00.wav\n",
            ["elsewhere/00.wav", "none of 1 listed files", "relative to the manifest"],
        ),
    ],
)
def test_mistakes_are_named(audio_folder: Path, text: str, words: list[str]) -> None:
    path = manifest(audio_folder, text)
    with pytest.raises(DataError) as raised:
        Manifest(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert all(word in message for word in words), message


TABLES = {
    "commas.csv": 'path,start,duration,labels\n00.wav,0.25,,"a, b"\n01.wav,,0.5,\n',
    "semicolons.csv": "\ufeffpath;start;duration;labels\r\n00.wav;0,25;;a, b\r\n01.wav;;0,5;\r\n;;;\r\n",
    "excel.csv": "sep=;\npath;start;duration;labels\n00.wav;0,25;;a, b\n01.wav;;0.5;\n",
    "tabs.tsv": "labels\tfile_name\tStart \tduration\na, b\t00.wav\t 0.25\n\t01.wav\t\t0.5\n",
    "list.json": '[{"path": "00.wav", "start": 0.25, "labels": "a, b"}, {"path": "01.wav", "duration": 0.5}]',
    "columns.json": '{"filename": ["00.wav", "01.wav"], "start": [0.25, null], "end": [null, 0.5], "labels": '
    '["a, b", null]}',
    "lines.jsonl": '{"path": "00.wav", "start": 0.25, "labels": "a, b"}\n\n{"path": "01.wav", "end": 0.5}\n',
    "unicode.csv": "path\tstart\tduration\tlabels\n00.wav\t0,25\t\ta, b\n01.wav\t\t0,5\t\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_manifests_are_read_as_other_tables(audio_folder: Path, name: str) -> None:
    path = audio_folder / name
    path.write_bytes(TABLES[name].encode("utf-16" if name == "unicode.csv" else "utf-8"))
    clips, expected = (
        open_clips(path, labels=True),
        [("00.wav", 0.25, None, "a, b"), ("01.wav", 0.0, 0.5, None)],
    )
    found = [clips.clip(row) for row in range(len(clips))]
    assert [(clip.name, clip.start, clip.seconds, clip.labels) for clip in found] == expected
    inputs = Inputs([str(path)])
    assert [item.key for item in inputs] == [
        f"{audio_folder}/00.wav\x000.25\x00None",
        f"{audio_folder}/01.wav\x000.0\x000.5",
    ]
    if "start,duration" in TABLES[name].replace(";", ",").replace("\t", ","):
        plain = manifest(audio_folder, TABLES["commas.csv"], "plain.csv")
        assert clips.fingerprint() == open_clips(plain).fingerprint()


def test_long_tables_are_read_in_pieces(audio_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'"{row % 12:02d}.wav",{row / 100}' for row in range(7)]
    path = manifest(audio_folder, "\n".join(["path,start", *rows]))
    whole = Manifest(path)
    monkeypatch.setattr("ajepa.data.manifest._ROWS", 3)
    assert [Manifest(path).clip(row) for row in range(7)] == [whole.clip(row) for row in range(7)]
    manifest(audio_folder, "\n".join(["path,start", *rows[:4], "", "00.wav,late", *rows]))
    with pytest.raises(DataError, match="row 5: start is 'late'; give a number of seconds"):
        Manifest(path)
    manifest(audio_folder, "Path,PATH\n00.wav,01.wav\n")
    with pytest.raises(DataError, match="no column is called path \\(there are: Path, PATH\\)"):
        Manifest(path)


def test_absent_and_damaged_manifests(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such manifest; make one with `ajepa data manifest"):
        open_clips(tmp_path / "none.csv")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"bad\.parquet: cannot be read as a manifest"):
        open_clips(tmp_path / "bad.parquet")
    (tmp_path / "latin.csv").write_bytes("path\nB\xe4r.wav\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv: is not UTF-8 .*; save it as UTF-8"):
        open_clips(tmp_path / "latin.csv")


def test_a_missing_file_is_told_with_its_row(audio_folder: Path) -> None:
    clips = open_clips(manifest(audio_folder, "path\n00.wav\ngone.wav\n"))
    stopping = CropDataset(clips, 0.5, 16_000, 0.0, skip_broken=False)
    assert "gone.wav: no such file" in stopping[Draw(1, 0)].failure
    assert f"(row 2 of {audio_folder}/set.csv)" in stopping[Draw(1, 0)].failure
    crop = CropDataset(clips, 0.5, 16_000, 0.0, skip_broken=True)[Draw(1, 0)]
    assert not crop.failure
    assert crop.file == f"{audio_folder}/00.wav"
    assert all("row 2" in reason for _, reason in crop.broken)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_scanning_a_folder_gives_the_same_crops(audio_folder: Path, suffix: str) -> None:
    """Durations in the table change no crop, whatever the rate: they are exact."""
    (audio_folder / "deep, er").mkdir()
    for number, rate in enumerate((44_100, 22_050, 11_025, 8_000, 12_345)):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 7_000 + 101 * number)
        soundfile.write(audio_folder / "deep, er" / f'a "b" {number}.wav', noise, rate)
    out = audio_folder / f"set.{suffix}"
    found = scan_folder(audio_folder, out, workers=3)
    count, seconds, broken = found.rows, found.seconds, found.broken
    folder, table = open_clips(audio_folder), open_clips(out)
    assert count == len(folder) == len(table) == 17
    assert broken == []
    assert seconds == pytest.approx(sum(info(path).seconds for path in audio_folder.rglob("*.wav")))
    assert [table.clip(row).audio for row in range(17)] == [folder.clip(row).audio for row in range(17)]
    assert all(table.clip(row).seconds == info(str(folder.clip(row).audio)).seconds for row in range(17))
    ours, theirs = (CropDataset(clips, 0.5, 16_000, 6.0) for clips in (folder, table))
    cached = CropDataset(table, 0.5, 16_000, 6.0, cache_megabytes=64)
    for row in range(17):
        assert torch.equal(ours[Draw(row, row)].waveform_S, theirs[Draw(row, row)].waveform_S)
        torch.testing.assert_close(
            cached[Draw(row, row)].waveform_S, theirs[Draw(row, row)].waveform_S, atol=1e-5, rtol=0
        )
    elsewhere = audio_folder.parent / "tables" / out.name
    scan_folder(audio_folder, elsewhere, workers=1)
    assert open_clips(elsewhere).clip(0).audio == str(audio_folder / "00.wav")


def test_shares_of_a_folder_are_nested(audio_folder: Path, tmp_path: Path) -> None:
    listed = []
    for share in (0.3, 0.7, 1.0):
        path = tmp_path / f"{share}.csv"
        scan_folder(audio_folder, path, share=share)
        clips = open_clips(path)
        listed.append({Path(str(clips.clip(index).audio)).name for index in range(len(clips))})
    assert listed[0] < listed[1] < listed[2] and len(listed[2]) == 12
    assert 1 <= len(listed[0]) <= 7 and 5 <= len(listed[1]) <= 11
    for share in (0, 1.5):
        with pytest.raises(DataError, match="--share is"):
            scan_folder(audio_folder, tmp_path / "none.csv", share=share)


def test_the_command_lists_what_it_leaves_out(audio_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (audio_folder / "05.wav").write_bytes(b"no audio")
    out = audio_folder.parent / "set.csv"
    assert main(["data", "manifest", str(audio_folder), str(out)]) == 2
    assert "05.wav" in capsys.readouterr().err
    assert not list(audio_folder.parent.glob("*set.csv*")), "nothing is left behind"
    assert main(["data", "manifest", str(audio_folder), str(out), "--skip-broken", "--workers", "2"]) == 0
    told = capsys.readouterr()
    assert "11 files" in told.out
    assert "left out: " in told.err
    assert "05.wav" in told.err
    assert out.read_text().splitlines()[1].startswith('"audio/00.wav",')
    assert main(["data", "manifest", str(audio_folder), "set.json"]) == 2
    assert ".csv or .parquet" in capsys.readouterr().err


@pytest.mark.parametrize("hop", [0.0, 0.7])
def test_segments_are_those_of_embedding(hop: float, audio_folder: Path, tmp_path: Path) -> None:
    command = ["data", "manifest", str(audio_folder), str(tmp_path / "set.csv"), "--segment", "1"]
    assert main([*command, *(["--hop", str(hop)] if hop else [])]) == 0
    clips = Manifest(tmp_path / "set.csv")
    rows = [clips.clip(row) for row in range(len(clips))]
    found = [(Path(str(clip.audio)).name, clip.start, clip.start + (clip.seconds or 0)) for clip in rows]
    step, expected = round((hop or 1.0) * 16_000), []
    for number in range(12):
        file = audio_folder / f"{number:02d}.wav"
        wave_S = load(file)
        for first, part_S in windows(iter(wave_S.split(5000)), 16_000, step):
            expected.append((file.name, first / 16_000, (first + len(part_S)) / 16_000))
    assert [name for name, *_ in found] == [name for name, *_ in expected]
    np.testing.assert_allclose([one[1:] for one in found], [one[1:] for one in expected], atol=1e-4)


def test_quiet_segments_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, rng = tmp_path / "audio", np.random.default_rng(0)
    folder.mkdir()
    noise = rng.standard_normal(16_000 * 6)
    noise *= np.repeat(10 ** (np.array([-20, -60, -45, -90, -30, -52]) / 20), 16_000) / noise.std()
    soundfile.write(folder / "a.wav", noise, 16_000, subtype="FLOAT")
    command = ["data", "manifest", str(folder), str(tmp_path / "set.csv"), "--segment", "1"]
    for level, starts in (("-50dB", [0, 2, 4]), ("-50", [0, 2, 4]), ("-25.5dB", [0])):
        assert main([*command, "--energy-above", level]) == 0
        clips = Manifest(tmp_path / "set.csv")
        assert [clips.clip(row).start for row in range(len(clips))] == starts
        said = capsys.readouterr().out
        assert f"1 files, {len(starts)} segments" in said and f"{6 - len(starts)} segments below" in said
    assert main([*command, "--energy-above", "-5dB"]) == 2
    assert "all 6 segments are below -5 dB; lower --energy-above" in capsys.readouterr().err
    assert main([*command[:4], "--hop", "1"]) == 2
    assert "--hop and --energy-above need --segment" in capsys.readouterr().err
    assert main([*command[:4], "--segment", "0"]) == 2
    assert "--segment is 0.0; give seconds above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--energy-above", "loud"])
    assert "'loud' is no level such as -50dB" in capsys.readouterr().err


def test_a_folder_without_usable_audio_leaves_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(DataError, match="no file can be used"):
        scan_folder(tmp_path, tmp_path / "set.csv", skip_broken=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="no audio files"):
        scan_folder(tmp_path / "empty", tmp_path / "set.csv")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.wav"]


def test_manifests_travel_to_other_processes(audio_folder: Path) -> None:
    clips = open_clips(manifest(audio_folder, "path,start\n00.wav,0.1\n01.wav,\n"))
    copy = pickle.loads(pickle.dumps(clips))
    assert [copy.clip(row) for row in range(2)] == [clips.clip(row) for row in range(2)]
