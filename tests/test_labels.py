"""Tables of labels as pandas, spreadsheets and databases write them, through one reader."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ajepa.cli import main
from ajepa.data.labelled import read_labelled
from ajepa.data.tables import TaskError, locate, read_table
from ajepa.eval.results.record import read_records
from ajepa.eval.tasks import open_task
from tests.hear_tasks import tones, write_rows

ROWS = [("a.wav", "dog", "1"), ("b.wav", "cat; wild", "2"), ("c.wav", "x,y", "3")]


def frame() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=["filename", "label", "fold"])


def expected() -> list[dict[str, str]]:
    return [dict(zip(("filename", "label", "fold"), row, strict=True)) for row in ROWS]


def as_excel(path: Path, frame: pd.DataFrame) -> None:
    """As Excel writes "CSV UTF-8" where the comma is the decimal point, with an empty row at the end."""
    frame.to_csv(path, sep=";", decimal=",", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    with path.open("a", newline="") as file:
        file.write(";" * (frame.shape[1] - 1) + "\r\n")


WRITERS = {
    "comma.csv": lambda path: frame().to_csv(path, index=False),
    "index.csv": lambda path: frame().to_csv(path),
    "excel.csv": lambda path: as_excel(path, frame()),
    "tabs.tsv": lambda path: frame().to_csv(path, sep="\t", index=False),
    "tabs.csv": lambda path: frame().to_csv(path, sep="\t", index=False),
    "unicode.txt": lambda path: frame().to_csv(path, sep="\t", index=False, encoding="utf-16"),
    "named.csv": lambda path: path.write_text("sep=;\n" + frame().to_csv(sep=";", index=False)),
    "columns.json": lambda path: frame().to_json(path),
    "lists.json": lambda path: path.write_text(json.dumps(frame().to_dict("list"))),
    "records.json": lambda path: frame().to_json(path, orient="records"),
    "data.json": lambda path: path.write_text(json.dumps({"data": frame().to_dict("records")})),
    "lines.jsonl": lambda path: frame().to_json(path, orient="records", lines=True),
    "table.parquet": lambda path: frame().to_parquet(path),
    "category.parquet": lambda path: frame().astype("category").to_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_cells(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    rows = read_table(tmp_path / name, ["filename", "label", "fold"]).rows
    assert [{key: row[key] for key in ("filename", "label", "fold")} for row in rows] == expected()


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ('"a,b,c";d\n1;2\n', ["a,b,c", "d"]),
        ("path;label\na.wav;x,y,z\n", ["path", "label"]),
        ("path\na.wav\n", ["path"]),
        ("a,b;c\n1,2\n", ["a", "b;c"]),
        ("a,b;c;;\n1,2\n", ["a", "b;c;;"]),
        ('"a\n1",b\tc\td\n1\t2\t3\n', ["a\n1,b", "c", "d"]),
    ],
)
def test_the_header_decides_what_separates(text: str, columns: list[str], tmp_path: Path) -> None:
    """Separators within quotes, at the end, or in the rows below do not count; of equals the comma does."""
    (tmp_path / "t.csv").write_text(text)
    assert read_table(tmp_path / "t.csv").columns == columns


def test_numbers_empty_cells_and_lists(tmp_path: Path) -> None:
    table = pa.table(
        {
            "path": ["a", "b"],
            "labels": [["x", "y"], None],
            "fold": pa.array([1, None], pa.int64()),
            "start": [0.5, float("nan")],
            "audio": [{"bytes": b"RIFF", "path": "a.wav"}] * 2,
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert found.rows == [
        {"path": "a", "labels": "x;y", "fold": "1", "start": "0.5"},
        {"path": "b", "labels": "", "fold": "", "start": ""},
    ]
    (tmp_path / "t.jsonl").write_text('{"path": "a", "label": true}\n\n{"path": "b", "n": 1}\n')
    assert read_table(tmp_path / "t.jsonl").rows[1] == {"path": "b", "label": "", "n": "1"}
    with pytest.raises(TaskError, match=r"row 1: 'x' in a list contains 'x', which separates labels"):
        read_table(tmp_path / "t.parquet", joint="x")


def test_decimal_commas_where_the_comma_does_not_separate(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", "path;start;end", "a;1,5;2.25", "b;;1e1", "c;1,234.5;2", "d;nan;2")
    table = read_table(tmp_path / "t.csv")
    assert [table.number(0, name) for name in ("start", "end")] == [1.5, 2.25]
    assert [table.number(1, name) for name in ("start", "end")] == [None, 10.0]
    for row, text in ((2, "1,234.5"), (3, "nan")):
        with pytest.raises(TaskError, match=f"row {row + 1}: start is '{text}'; give a number"):
            table.number(row, "start")
    write_rows(tmp_path / "t.csv", "path,start", '"a","1,5"')
    with pytest.raises(TaskError, match="start is '1,5'"):
        read_table(tmp_path / "t.csv").number(0, "start")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.csv",
            b"path,label\na.wav,caf\xe9\n",
            "is not UTF-8 .*; save it as UTF-8, in Excel",
        ),
        ("t.csv", b"", "the table has no rows"),
        ("t.csv", b"path,label\n,\n", "the table has no rows"),
        ("t.csv", b"path,label\na.wav,x,y\n", "row 1 has 3 cells, and the header 2; put cells"),
        ("t.csv", b"path,label, path\na.wav,x\n", "two columns are named path"),
        ("t.json", b"[1, 2]", "expected a list of objects such as"),
        ("t.json", b'{"a": [1], "b": [1, 2]}', "its columns differ in length"),
        ("t.json", b"[" * 100_000, "cannot be read as a table"),
        ("t.json", b"{", "cannot be read as a table"),
        ("t.jsonl", b'{"a": 1}\n[2]\n', "line 2 is not an object"),
        ("t.jsonl", b'{"a": 1}\n{\n', "line 2 is not JSON"),
        ("t.parquet", b"PAR1", "cannot be read as a table"),
    ],
)
def test_what_is_no_table_is_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=f"{name}: {message}") as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_columns_by_their_usual_names(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", "File_Name,Label,FOLD", "a.wav,x,1", "b.wav,y,2")
    found = read_labelled(tmp_path / "t.csv")
    assert [(clip.name, clip.labels, clip.split) for clip in found.clips] == [
        ("a.wav", ("x",), "1"),
        ("b.wav", ("y",), "2"),
    ]
    assert found.folds and found.path_column == "File_Name"
    write_rows(tmp_path / "t.csv", "path,label,Label,LABEL,split", "a.wav,x,y,z,dev")
    assert read_labelled(tmp_path / "t.csv").clips[0].labels == ("x",)
    assert read_labelled(tmp_path / "t.csv", label="LABEL").clips[0].labels == ("z",)
    with pytest.raises(TaskError, match="no column lABEL"):
        read_labelled(tmp_path / "t.csv", label="lABEL")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b.wav,x,", "row 2: b.wav: column 'split' is empty; fill it in"),
        ("b.wav,x,later", "row 2: b.wav: column 'split' is 'later'; use train, valid and test"),
        ("b.wav,,test", "row 2: b.wav has no label"),
        (",x,test", "row 2: path is empty"),
        ("a.wav,y,train", "row 2: a.wav is listed twice"),
    ],
)
def test_a_cell_that_cannot_be_used_names_its_row(row: str, message: str, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "t.csv", "path,label,split", "a.wav,x,train", row)
    with pytest.raises(TaskError, match=f"t.csv: {message}"):
        read_labelled(table)


def test_names_as_people_write_them(tmp_path: Path) -> None:
    tones(tmp_path / "in", ["x/a.wav"])
    file = tmp_path / "in" / "x" / "a.wav"
    for name in ("x/a.wav", "x\\a.wav", "x/a", "x/a.mp3", " x/a.wav ", str(file), "../in/x/a.wav"):
        assert locate(tmp_path / "in", name, anywhere=True) == file, name
    for name in (str(file.parent / "b.wav"), "../in/x/a.wav", "..\\in\\x\\a.wav", ""):
        with pytest.raises(TaskError, match="leads out of"):
            locate(tmp_path / "in" / "y", name)


@pytest.mark.parametrize("name", ["excel.csv", "columns.json", "lines.jsonl", "table.parquet"])
def test_tables_of_others_go_through_the_command(name: str, tmp_path: Path) -> None:
    """Also in a HEAR task, by the same reader."""
    names = [f"{number}.wav" for number in range(9)]
    tones(tmp_path / "audio", names)
    clips = pd.DataFrame({"path": names, "label": list("ababababa"), "fold": [1, 2, 3] * 3})
    clips["path"] = [f"audio\\{name}" for name in names]
    write = {
        "excel.csv": lambda path: as_excel(path, clips),
        "columns.json": clips.to_json,
        "lines.jsonl": lambda path: clips.to_json(path, orient="records", lines=True),
        "table.parquet": clips.to_parquet,
    }
    write[name](tmp_path / name)
    arguments = ["--task", "table", "--data", str(tmp_path / name), "--cache", str(tmp_path / "cache")]
    record = tmp_path / "record.json"
    assert main(["evaluate", "knn", "--model", "logmel", *arguments, "--json", str(record)]) == 0
    (found,) = read_records(record)
    assert (found.clips_by_split, found.classes) == ({"1": 3, "2": 3, "3": 3}, 2)
    made = ["data", "hear-task", "table", "--source", str(tmp_path / name), "--out", str(tmp_path / "out")]
    assert main(made) == 0
    (folder,) = (tmp_path / "out").iterdir()
    assert json.loads((folder / "fold01.json").read_text()) == {
        "audio_1.wav": ["b"], "audio_4.wav": ["a"], "audio_7.wav": ["b"]
    }  # fmt: skip


def test_without_clips_for_validation(tmp_path: Path) -> None:
    names = [f"{number:02d}.wav" for number in range(30)]
    for name in names:
        (tmp_path / name).touch()
    rows = [f"{name},{'ab'[n % 2]},{'train' if n < 20 else 'test'}" for n, name in enumerate(names)]
    task = open_task("table", write_rows(tmp_path / "t.csv", "path,label,split", *rows))
    assert task.counts == {"train": 16, "valid": 4, "test": 10} and task.refit
    assert any("4 training clips are held out for choices" in note for note in task.notes)
    held = {clip.path.name for clip in task.clips if clip.split == "valid"}
    assert sorted(int(name[:2]) % 2 for name in held) == [0, 0, 1, 1], "both labels"
    task = open_task("table", write_rows(tmp_path / "t.csv", "path,label,split", *reversed(rows)))
    assert held == {clip.path.name for clip in task.clips if clip.split == "valid"}
    rows = [row.replace("test", "valid") for row in rows]
    task = open_task("table", write_rows(tmp_path / "t.csv", "path,label,split", *rows))
    assert task.counts == {"train": 16, "valid": 4, "test": 10}
    assert any("those for validation are tested" in note for note in task.notes)


def test_a_split_that_was_written_down_is_used_elsewhere(tmp_path: Path) -> None:
    names = [f"{number:02d}.wav" for number in range(20)]
    for name in names:
        (tmp_path / name).touch()
    rows = [f"{name},{'ab'[n % 2]}" for n, name in enumerate(names)]
    table = write_rows(tmp_path / "t.csv", "path,label", *rows)
    with pytest.raises(TaskError, match=r"expected a column 'fold' or 'split'.*--split auto"):
        open_task("table", table)
    first = open_task("table", table, split="auto")
    written = tmp_path / "t-split.csv"
    lines = written.read_text().replace("test", "T").replace("train", "test").replace("T", "train")
    (tmp_path / "theirs.csv").write_text(lines)
    second = open_task("table", table, split=str(tmp_path / "theirs.csv"))
    swapped = {"train": "test", "test": "train", "valid": "valid"}
    assert [clip.split for clip in second.clips] == [swapped[clip.split] for clip in first.clips]
    write_rows(tmp_path / "theirs.csv", *lines.splitlines()[:-1])
    with pytest.raises(TaskError, match=r"theirs\.csv: has no row for 19\.wav"):
        open_task("table", table, split=str(tmp_path / "theirs.csv"))
