"""`ajepa evaluate`: options that do not go together, or cannot work, are refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from ajepa.cli import main
from ajepa.eval.protocols import ProtocolError
from ajepa.eval.protocols.xares import Xares
from tests.hear_tasks import tones

DATA = ["--task", "table", "--data", "labels.csv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["linear", *DATA, "--set", "epochs=3"], "unrecognized arguments: --set epochs=3"),
        (["knn", *DATA, "--class-weight", "balanced"], "unrecognized arguments: --class-weight"),
        (["finetune", *DATA, "--timee", "best"], "unrecognized arguments: --timee best"),
        (["linear", *DATA, "--laier", "best"], "(did you mean --layer?)"),
        (["linear", "--data", "labels.csv"], "required: --task"),
        (
            ["hear", "--out", "o", "--tasks-dir", "tasks", "--baseline", "a"],
            "unrecognized arguments: --baseline",
        ),
        (["lineer", *DATA], "'lineer' is unknown (did you mean linear?)"),
        (["linear", *DATA, "--model", "mine="], "'mine=' names no model; give SOURCE or NAME=SOURCE"),
        (["linear", *DATA, "--json", "."], "--json .: cannot be written"),
        (["linear", *DATA, "--json", "labels.csv/a.json"], "labels.csv/a.json: cannot be written"),
        (["linear", *DATA, "--device", "toaster"], "--device toaster: "),
        (["s3prl", *DATA, "--out", "o", "--seeds", "1,1"], "give different numbers"),
        (["xares", *DATA, "--out", "o", "--seeds", "-1"], "give different numbers"),
    ],
)
def test_what_does_not_go_together(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").touch()
    try:
        status: object = main(["evaluate", arguments[0], "--model", "ajepa-demo", *arguments[1:]])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"], "nothing is left behind"


def test_scores_are_shown_where_the_record_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tones(tmp_path, [f"{number}.wav" for number in range(9)])
    rows = ["filename,label,split"]
    for number in range(9):
        rows.append(f"{number}.wav,{'ab'[number % 2]},{('train', 'valid', 'test')[number // 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")

    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    command = ["evaluate", "linear", "--model", "logmel", "--task", "table", "--split", "split"]
    command += ["--data", str(tmp_path / "labels.csv"), "--cache", str(tmp_path / "cache")]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 0
    monkeypatch.setattr("ajepa.eval.results.record.write_json", full)
    capsys.readouterr()
    assert main([*command, "--json", str(tmp_path / "a.json")]) == 2
    said = capsys.readouterr()
    assert "No space left" in said.err
    assert "linear" in said.out


@pytest.mark.parametrize("value", ["nan", "inf", "x", ""])
def test_settings_are_numbers_to_calculate_with(value: str) -> None:
    with pytest.raises(ProtocolError, match=r"lr is .*; expected a value such as 0\.0"):
        Xares("xares", lr=value)  # type: ignore[arg-type]
