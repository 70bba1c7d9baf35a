"""Kinds of files that the mutations of `make fuzz` found to be taken wrongly, each as a small one."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ajepa import AjepaError, load_model, load_recipe, read_embeddings
from ajepa.cli import main
from ajepa.data import open_clips
from ajepa.data.tables import TaskError, locate, read_table
from ajepa.data.tars import index_tars
from ajepa.embed.table import ABOUT
from ajepa.eval.classifiers import load_classifier
from ajepa.eval.compare.config import Comparison
from ajepa.eval.results.kept import KeptError
from ajepa.eval.results.kept import read_table as read_kept
from ajepa.model.fingerprint import fingerprint
from ajepa.search.among import read_stored, stored_about
from tests.fuzz import inputs

# -- Messages --


def test_a_message_is_one_line_that_can_be_shown() -> None:
    shown = str(AjepaError("caf\udce9\x1b[2J.wav:\n a\u202etab\t é"))
    assert shown == "caf\\udce9\\x1b[2J.wav:  a\\u202etab  é"
    assert len(str(AjepaError("x" * 10**6))) < 5_000


def test_names_are_shown_as_they_are(audio_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In tables too: neither the terminal's commands nor the markup of the tables' library."""
    name = "b\x1b[31m [bold].wav"
    for path in audio_folder.glob("0[3-9].wav"):
        path.unlink()
    (audio_folder / name).write_bytes((audio_folder / "00.wav").read_bytes())
    for command in (
        ["audit", str(audio_folder), "--model", "none"],
        ["similar", str(audio_folder / "00.wav"), "--among", str(audio_folder)],
    ):
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert "b\\x1b[31m [bold].wav" in printed and "\x1b" not in printed


# -- YAML --


@pytest.mark.parametrize(
    "text",
    [
        "name: !!int x",
        "name: !!timestamp x",
        "name: 2001-99-99",
        "name: &a [*a]",
        "name: [&a0 [x, x]" + "".join(f", &a{n + 1} [*a{n}, *a{n}]" for n in range(40)) + "]",
        "[" * 5_000,
        "name: " + "9" * 5_000,
        "a: b: c",
    ],
)
def test_yaml_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    begun = time.monotonic()
    for use in (lambda: load_recipe(str(path)), lambda: Comparison.read(path)):
        with pytest.raises(AjepaError, match=r"file\.yaml: "):
            use()
    assert time.monotonic() - begun < 20, "anchors that multiply are not walked"


# -- Tables --


def test_names_in_tables_may_be_too_long_for_the_system(tmp_path: Path) -> None:
    assert locate(tmp_path, "x" * 10_000, anywhere=True) == tmp_path / ("x" * 10_000)
    table = tmp_path / "t.csv"
    table.write_text('path,"two\nlines"\na.wav,1\n')
    with pytest.raises(TaskError) as raised:
        read_table(table, ["label"])
    assert str(raised.value) == f"{table}: no column label; its columns are path, two lines"


def test_texts_of_parquet_that_are_not_utf8(tmp_path: Path) -> None:
    offsets, content = pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    path = tmp_path / "m.parquet"
    path.write_bytes(
        inputs.parquet({"path": pa.StringArray.from_buffers(1, offsets, content), "label": ["x"]})
    )
    for use in (lambda: open_clips(path), lambda: read_table(path)):
        with pytest.raises(AjepaError, match=r"m\.parquet: cannot be read as a (manifest|table) "):
            use()


# -- Tars --


def _tar(path: Path, name: str, size: bytes | None = None) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(4_000), 16_000, format="WAV")
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as file:
        member = tarfile.TarInfo(name)
        member.size = len(buffer.getvalue())
        file.addfile(member, io.BytesIO(buffer.getvalue()))
    if size is not None:
        content = bytearray(path.read_bytes())
        content[124:136] = size
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("caf\udce9.wav", None, "its name is not UTF-8"),
        ("a.wav", b"\xff" * 11 + b"\x9c", "not readable as an uncompressed tar|no audio"),
        ("a.wav", b"77777777777\0", "more than are left|unexpected end"),
        ("a.wav", b"\x80" + b"\x7f" * 11, "not readable as an uncompressed tar|more than are left"),
    ],
)
def test_members_of_tars(name: str, size: bytes | None, message: str, tmp_path: Path) -> None:
    _tar(tmp_path / "a.tar", name, size)
    with pytest.raises(AjepaError, match=message) as raised:
        index_tars(tmp_path, skip_broken=True)
    assert str(tmp_path) in str(raised.value)


def test_an_index_that_claims_more_than_its_tars_hold(tmp_path: Path) -> None:
    """A few bytes of Parquet may say any number of rows, and would fill the memory."""
    _tar(tmp_path / "a.tar", "a.wav")
    index_tars(tmp_path)
    listing = json.loads((tmp_path / "shards.json").read_text())
    table = pa.parquet.read_table(tmp_path / "index.parquet")
    pa.parquet.write_table(pa.concat_tables([table] * 3), tmp_path / "index.parquet")
    with pytest.raises(AjepaError, match=r"index\.parquet: does not fit shards\.json"):
        open_clips(tmp_path)
    instant = table.set_column(table.column_names.index("seconds"), "seconds", pa.array([0.0]))
    pa.parquet.write_table(instant, tmp_path / "index.parquet")
    with pytest.raises(AjepaError, match=r"index\.parquet: does not fit shards\.json"):
        open_clips(tmp_path)
    listing["shards"][0]["clips"] = 10**15
    (tmp_path / "shards.json").write_text(json.dumps(listing))
    with pytest.raises(AjepaError, match=r"shards\.json: not a list of shards"):
        open_clips(tmp_path)


# -- Embeddings --


@pytest.mark.parametrize(
    ("key", "value"),
    [("what", 7), ("features", 10**30), ("features", 0), ("what", []), ("layers", "x"), (None, "[" * 5_000)],
)
def test_foreign_metadata_of_embeddings(key: str | None, value: Any, tmp_path: Path) -> None:
    columns, metadata = inputs.embeddings_seed()
    about = json.loads(metadata[ABOUT])
    text = value if key is None else json.dumps(about | {key: value})
    if key == "layers":
        text = json.dumps(about | {"what": "layers", "layers": value})
    path = tmp_path / "e.parquet"
    path.write_bytes(inputs.parquet(columns, {ABOUT: text.encode()}))
    with pytest.raises(AjepaError, match=r"e\.parquet: Parquet, but not of `ajepa embed`"):
        read_embeddings(path)
    path.write_bytes(inputs.parquet(columns | {"start": ["soon", "late"]}, metadata))
    with pytest.raises(AjepaError, match=r"e\.parquet: Parquet, but not of `ajepa embed`"):
        read_embeddings(path)


def test_embeddings_that_cannot_be_searched(tmp_path: Path) -> None:
    columns, metadata = inputs.embeddings_seed()
    path = tmp_path / "e.parquet"
    for text in ("{", "[" * 5_000, "[]x", '{"what": "clip"}', "7"):
        path.write_bytes(inputs.parquet(columns, {ABOUT: text.encode()}))
        with pytest.raises(AjepaError, match=r"e\.parquet: not readable as embeddings"):
            stored_about(str(path))
    model = load_model(inputs.FIXTURES / "a-jepa.encoder.safetensors")
    about = json.loads(metadata[ABOUT]) | {"weights": fingerprint(model), "source": ""}
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.full(8, np.nan, np.float32)), 4)
    path.write_bytes(inputs.parquet(columns | {"clip": values}, {ABOUT: json.dumps(about).encode()}))
    with pytest.raises(AjepaError, match=r"e\.parquet: has values that are NaN or infinite"):
        read_stored(str(path), model)


@pytest.mark.parametrize("values", [["x"], [1.0], [[1]], [None]])
def test_answers_of_another_type(values: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "answers.parquet"
    columns = {"layer": ["last"], "start": values, "truth": [["a"]]}
    path.write_bytes(inputs.parquet(columns))
    try:
        assert read_kept(path, list(columns))[0]["start"] in (1.0, None)
    except KeptError as error:
        assert str(error).startswith(f"{path}: damaged (")


# -- Weights --


@pytest.mark.parametrize("value", [1e30, 3e38, -1e7, float("nan"), float("inf")])
def test_weights_that_no_training_gives(value: float, tmp_path: Path) -> None:
    fixture = inputs.FIXTURES / "a-jepa.encoder.safetensors"
    with safe_open(fixture, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors["encoder.norm.weight"][0] = value
    save_file(tensors, tmp_path / "w.safetensors", metadata)
    with pytest.raises(AjepaError, match=r"w\.safetensors: encoder\.norm\.weight has (weights beyond|NaN)"):
        load_model(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(64).to_sparse(),
        torch.full((64,), 1e30),
        torch.zeros(64, dtype=torch.complex64),
        torch.empty(64, device="meta"),
    ],
)
def test_tensors_of_torch_files_that_are_no_weights(tensor: torch.Tensor, tmp_path: Path) -> None:
    """A tensor of one number whose strides are 0 claims a trillion numbers and takes a few bytes."""
    weights = inputs.audio_mae_seed() | {"blocks.0.norm1.bias": tensor}
    path = tmp_path / "w.pth"
    torch.save({"model": weights}, path)
    begun = time.monotonic()
    with pytest.raises(AjepaError, match=r"w\.pth: .*(norm1\.bias|damaged)"):
        load_model(path)
    assert time.monotonic() - begun < 10


def test_a_compressed_torch_file(tmp_path: Path) -> None:
    """torch reads it, and a few bytes of it may become any number."""
    path, packed = tmp_path / "w.pth", tmp_path / "packed.pth"
    torch.save({"model": inputs.audio_mae_seed()}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for one in old.infolist():
            new.writestr(one.filename, old.read(one))
    load_model(path)
    with pytest.raises(AjepaError, match=r"packed\.pth: .* in it is compressed"):
        load_model(packed)


def test_a_head_that_gives_no_probabilities(tmp_path: Path) -> None:
    for name, content in inputs.classifier_seed().items():
        if name.endswith("safetensors"):
            size = struct.unpack("<Q", content[:8])[0]
            place = json.loads(content[8 : 8 + size])["head.linear.weight"]["data_offsets"][0] + 8 + size
            content = content[:place] + struct.pack("<f", 1e30) + content[place + 4 :]
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AjepaError, match=r"model\.safetensors: head\.linear\.weight has weights beyond"):
        load_classifier(tmp_path)
