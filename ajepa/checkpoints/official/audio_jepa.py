"""The published Audio-JEPA's Lightning files (arXiv 2507.02915)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ajepa.features import InputConfig, LogMelConfig
from ajepa.nn.positions import TableConfig
from ajepa.nn.predictor import PredictorConfig
from ajepa.objectives.audio_jepa import AudioJEPAConfig

from .account import VIT_PARTS, TensorAccount, count, fast_axis, mlp_ratio
from .contents import Official, OfficialError

# 10 s at 32 kHz; the hop is the clip's length over its frames, the window 2.5 hops. Log energies are not
# normalised, but each waveform has full scale; frames without a whole window at the end are zeros.
SECONDS, SAMPLE_RATE = 10.0, 32_000
INPUTS = InputConfig(level="peak", fill="zero")
PREDICTOR_HEADS = 12  # of 32 features each, as published

# flash-attn's names; its packed projection holds q, k and v in the order of timm's.
FLASH_PARTS = VIT_PARTS | {"attn.Wqkv": "attn.qkv", "attn.out_proj": "attn.proj"}
del FLASH_PARTS["attn.qkv"], FLASH_PARTS["attn.proj"]


def read_audio_jepa(
    path: Path,
    weights: dict[str, Any],
    step: object,
    heads: int | None,
    sample_rate: int | None,
) -> Official:
    """The weights of an Audio-JEPA file; copies may lack the context encoder and the predictor.

    A predictor that cannot be read is left out too: embeddings do not need it.

    Raises:
        OfficialError: a tensor of an encoder is missing, one is unexpected, or a size does not fit.
    """
    tensors = TensorAccount(path, weights)
    patch_time, patch_freq = tensors.shape("target_encoder.patch_embed.proj.weight", 4)[2:]
    tensors.shape("target_encoder.pos_embed", 3)
    table = _audio_jepa_table(path, tensors.left["target_encoder.pos_embed"][0])
    has_context = any(name.startswith("encoder.") for name in tensors.left)
    for name in ("encoder", "target_encoder") if has_context else ("target_encoder",):
        tensors.take(f"{name}.pos_embed", f"{name}.position_table.table", lambda codes: codes[0])
        encoder = tensors.encoder(
            f"{name}.",
            f"{name}.",
            "norm",
            FLASH_PARTS,
            heads,
            mels=table.freq * patch_freq,
            table=table,
            inputs=INPUTS,
        )
    predictor, lacks = tensors.apart(("predictor.",), lambda part: _predictor(part, table))
    hop = SECONDS / (table.time * patch_time)
    front_end = LogMelConfig(
        sample_rate=SAMPLE_RATE if sample_rate is None else sample_rate,
        mels=encoder.mels,
        hop_seconds=hop,
        window_seconds=2.5 * hop,
        mean=0.0,
        std=0.5,  # LogMel divides by 2 std: no change
    )
    # Without the predictor or the context encoder there is no objective, but the target encoder is whole.
    if not has_context:
        lacks = lacks or "no context encoder"
    return Official(
        path,
        "Audio-JEPA",
        front_end,
        encoder,
        SECONDS,
        AudioJEPAConfig(predictor=predictor or PredictorConfig(kind="targets")),
        count(path, step),
        tensors.finish(),
        lacks,
    )


def _predictor(tensors: TensorAccount, table: TableConfig) -> PredictorConfig:
    width = tensors.shape("predictor.predictor_embed.weight", 2)[0]
    hidden = tensors.shape("predictor.predictor_blocks.0.mlp.fc1.weight", 2)[0]
    tensors.take("predictor.mask_token", "predictor.mask_token", torch.flatten)
    tensors.take("predictor.predictor_pos_embed", "predictor.position_table.table", lambda codes: codes[0])
    tensors.affine("predictor.predictor_embed", "predictor.embed")
    depth = tensors.blocks("predictor.predictor_blocks", "predictor.blocks", FLASH_PARTS)
    tensors.affine("predictor.predictor_norm", "predictor.norm")
    tensors.affine("predictor.predictor_proj", "predictor.head")
    return PredictorConfig(
        kind="targets",
        depth=depth,
        width=width,
        # Embeddings do not depend on it, so a predictor of another width is read too.
        heads=PREDICTOR_HEADS if width % PREDICTOR_HEADS == 0 else 1,
        mlp_ratio=mlp_ratio(hidden, width),
        table=table,
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
