"""The published Audio-JEPA's Lightning files (arXiv 2507.02915)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ajepa.features import InputConfig, LogMelConfig
from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.positions import TableConfig
from ajepa.nn.predictor import PredictorConfig
from ajepa.objectives.audio_jepa import AudioJEPAConfig

from .account import VIT_PARTS, TensorAccount, attention_heads, fast_axis, mlp_ratio
from .contents import Official, OfficialError

# 10 s at 32 kHz; the hop is the clip over its frames, the window 2.5 hops. No normalisation of the log
# energies, but each clip's waveform at full scale; the frames that a whole window lacks at its end are zeros.
SECONDS, SAMPLE_RATE = 10.0, 32_000
INPUTS = InputConfig(level="peak", fill="zero")
PREDICTOR_HEADS = 12  # of 32 features each, as published

# flash-attn's names; its packed projection holds q, k and v one after the other, as timm's does.
FLASH_PARTS = VIT_PARTS | {"attn.Wqkv": "attn.qkv", "attn.out_proj": "attn.proj"}
del FLASH_PARTS["attn.qkv"], FLASH_PARTS["attn.proj"]


def read_audio_jepa(
    path: Path,
    content: dict[str, Any],
    heads: int | None,
    sample_rate: int | None,
) -> Official:
    """The content of an Audio-JEPA file.

    Raises:
        OfficialError: a tensor is missing or too many, or a size does not fit.
    """
    tensors = TensorAccount(path, content["state_dict"])
    width, _, *patch = tensors.shape("target_encoder.patch_embed.proj.weight", 4)
    tensors.shape("target_encoder.pos_embed", 3)
    table = _audio_jepa_table(path, tensors.left["target_encoder.pos_embed"][0])
    hidden = tensors.shape("target_encoder.blocks.0.mlp.fc1.weight", 2)[0]
    predictor_width = tensors.shape("predictor.predictor_embed.weight", 2)[0]
    predictor_hidden = tensors.shape("predictor.predictor_blocks.0.mlp.fc1.weight", 2)[0]
    for name in ("encoder", "target_encoder"):
        tensors.take(f"{name}.patch_embed.proj.weight", f"{name}.patch_embed.weight", lambda w: w.flatten(1))
        tensors.take(f"{name}.patch_embed.proj.bias", f"{name}.patch_embed.bias")
        tensors.take(f"{name}.pos_embed", f"{name}.position_table.table", lambda codes: codes[0])
        depth = tensors.blocks(f"{name}.blocks", f"{name}.blocks", FLASH_PARTS)
        tensors.affine(f"{name}.norm", f"{name}.norm")
    tensors.take("predictor.mask_token", "predictor.mask_token", torch.flatten)
    tensors.take("predictor.predictor_pos_embed", "predictor.position_table.table", lambda codes: codes[0])
    tensors.affine("predictor.predictor_embed", "predictor.embed")
    predictor_depth = tensors.blocks("predictor.predictor_blocks", "predictor.blocks", FLASH_PARTS)
    tensors.affine("predictor.predictor_norm", "predictor.norm")
    tensors.affine("predictor.predictor_proj", "predictor.head")
    hop = SECONDS / (table.time * patch[0])
    front_end = LogMelConfig(
        sample_rate=sample_rate or SAMPLE_RATE,
        mels=table.freq * patch[1],
        hop_seconds=hop,
        window_seconds=2.5 * hop,
        mean=0.0,
        std=0.5,  # what LogMel divides by is 2 std: nothing changes
    )
    encoder = EncoderConfig(
        width=width,
        depth=depth,
        heads=attention_heads(path, width, heads),
        patch=(patch[0], patch[1]),
        mels=front_end.mels,
        mlp_ratio=mlp_ratio(hidden, width),
        table=table,
        inputs=INPUTS,
    )
    predictor = PredictorConfig(
        kind="targets",
        depth=predictor_depth,
        width=predictor_width,
        # Of no account to embeddings: a predictor of another width is read all the same.
        heads=PREDICTOR_HEADS if predictor_width % PREDICTOR_HEADS == 0 else 1,
        mlp_ratio=mlp_ratio(predictor_hidden, predictor_width),
        table=table,
    )
    return Official(
        path,
        "Audio-JEPA",
        front_end,
        encoder,
        SECONDS,
        AudioJEPAConfig(predictor=predictor),
        int(content.get("global_step", -1)),
        tensors.finish(),
    )


def _audio_jepa_table(path: Path, codes_ND: Tensor) -> TableConfig:
    """The grid of a table that runs time step by time step."""
    freq = fast_axis(codes_ND)
    if freq is None:
        raise OfficialError(
            f"{path}: target_encoder.pos_embed has {len(codes_ND)} patches and shows no grid; it must be the "
            "sine-cosine table of Audio-JEPA's code, time step by time step"
        )
    return TableConfig(len(codes_ND) // freq, freq)
