"""Embedding in bfloat16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ajepa
from ajepa.audio import find_audio, load
from ajepa.cli import main


@torch.no_grad()
def test_bf16_embeddings_agree_with_single_precision(shared: Path) -> None:
    single = ajepa.load_model("ajepa-small-cpu")
    half = ajepa.load_model("ajepa-small-cpu", precision="bf16")
    files = sorted(find_audio(shared / "data" / "esc50" / "audio"))[:12]
    clips = torch.stack([load(path, sample_rate=16_000)[:48_000] for path in files])
    ours, theirs = half(clips, layers=True), single(clips)
    assert ours.clip.dtype == torch.float32
    assert all(layer.dtype == torch.float32 for layer in ours.layers), "the residual stream is not rounded"
    # Less what all clips share: random weights embed all sounds alike.
    mean = theirs.clip.mean(0)
    assert torch.nn.functional.cosine_similarity(ours.clip - mean, theirs.clip - mean).min() > 0.999
    assert not torch.equal(ours.clip, theirs.clip)


@torch.no_grad()
def test_bf16_embeds_a_clip_alone_as_in_a_batch() -> None:
    """As closely as bfloat16 computes: the batch changes no more than rounding does."""
    single, model = ajepa.load_model(), ajepa.load_model(precision="bf16")
    noise, tone = 0.1 * torch.randn(1, 40_000), 0.1 * torch.sin(0.3 * torch.arange(9_000))[None]
    # What follows the short clip is loud: the batch would tell if any of it were seen.
    batch = torch.cat([noise, torch.cat([tone, torch.randn(1, 31_000)], 1)])
    together = model(batch, [40_000, 9_000]).clip
    alone, exact = (torch.cat([one(noise).clip, one(tone).clip]) for one in (model, single))
    rounding = (alone - exact).norm(dim=1)
    assert ((together - alone).norm(dim=1) <= rounding).all()
    assert (rounding < 0.02 * (exact[0] - exact[1]).norm()).all(), "the clips are told apart by far more"


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="float32, bf16"):
        ajepa.load_model("ajepa-demo", precision="fp8")  # type: ignore[arg-type]


def test_the_command_embeds_files_of_any_lengths_together(audio_folder: Path, tmp_path: Path) -> None:
    paths = {}
    for precision, batch in (("float32", "5"), ("float32", "1"), ("bf16", "5")):
        out = tmp_path / f"{precision}{batch}.npz"
        options = ["--model", "ajepa-demo", "--precision", precision, "--batch", batch]
        assert main(["embed", str(audio_folder), "--out", str(out), *options]) == 0
        with np.load(out) as arrays:
            assert [Path(name).stem for name in arrays["files"]] == [f"{n:02d}" for n in range(12)]
            paths[precision, batch] = torch.from_numpy(arrays["clip"])
    together, alone = paths["float32", "5"], paths["float32", "1"]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    model = ajepa.load_model("ajepa-demo")
    third = load(audio_folder / "02.wav", sample_rate=16_000)
    torch.testing.assert_close(together[2], model(third[None]).clip[0].detach(), atol=1e-5, rtol=0)
    half = paths["bf16", "5"]
    assert not torch.equal(half, together)
    assert torch.nn.functional.cosine_similarity(half, together).min() > 0.999
