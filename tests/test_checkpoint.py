"""Our checkpoint files: names that last, whole or not at all, nothing foreign."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from ajepa.checkpoints import layout
from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.native import Checkpoint, CheckpointError
from ajepa.recipes import Recipe
from ajepa.training.loop import pretrain


def test_checkpoint_names_are_pinned(tiny_recipe: Recipe) -> None:
    """Files outlive versions: a changed name needs a new format."""
    out = pretrain(tiny_recipe).parent
    saved = checkpoint.load(out / "checkpoints" / "step-00000006.safetensors")
    groups = Counter(name.split(".")[0] for name in saved.tensors)
    assert set(groups) == {"objective", "features", "optimizer"}
    encoder = {name for name in saved.tensors if name.startswith("objective.encoder.blocks.0.")}
    assert encoder == {
        f"objective.encoder.blocks.0.{part}.{kind}"
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }
    exported = checkpoint.load(out / "encoder.safetensors")
    outside = {name for name in exported.tensors if ".blocks." not in name}
    assert outside == {
        "encoder.patch_embed.weight",
        "encoder.patch_embed.bias",
        "encoder.norm.weight",
        "encoder.norm.bias",
        "features.mean",
        "features.std",
    }
    assert exported.step == saved.step == 6
    assert exported.recipe["name"] == "tiny"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_failed_write_leaves_the_old_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoint.save(path, Checkpoint({"a": torch.zeros(2)}, {}, 1, {}))

    def full_disk(tensors: object, filename: str, metadata: object) -> None:
        Path(filename).write_bytes(b"part of a file")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: cannot be written \(.*No space left"):
        checkpoint.save(path, Checkpoint({"a": torch.ones(2)}, {}, 2, {}))
    assert checkpoint.load(path).step == 1
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="not a checkpoint of ajepa"):
        checkpoint.load(foreign)
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.load(tmp_path / "absent.safetensors")


def test_copies_under_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    for step in (2, 123_456_789, 99_999_999):
        layout.checkpoint_path(tmp_path, step).parent.mkdir(exist_ok=True)
        layout.checkpoint_path(tmp_path, step).touch()
    for copy in ("step-00000002-good", "step-00000002_good", "step-2"):
        (tmp_path / "checkpoints" / f"{copy}.safetensors").touch()
    assert [layout.checkpoint_step(path) for path in layout.checkpoint_paths(tmp_path)] == [
        2,
        99_999_999,
        123_456_789,
    ]
    assert layout.latest_checkpoint(tmp_path) == layout.checkpoint_path(tmp_path, 123_456_789)
