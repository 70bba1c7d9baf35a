"""The official Audio-MAE's files, pre-trained and fine-tuned (arXiv 2207.06405)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ajepa.features import InputConfig, LogMelConfig
from ajepa.nn.decoder import DecoderConfig
from ajepa.nn.positions import TableConfig
from ajepa.objectives.audio_mae import AudioMAEConfig

from .account import VIT_PARTS, TensorAccount, count, fast_axis, mlp_ratio
from .contents import Official, OfficialError

# Before the normalisation clips are padded to 1024, 512 or 128 frames, all multiples of 8 time patches.
INPUTS = InputConfig(fill="zero", steps=8)
DECODER = ("decoder", "mask_token")  # how the names of its tensors start
SWIN_PARTS = VIT_PARTS | {
    "attn.meta_mlp.fc1": "attn.position_mlp.fc1",
    "attn.meta_mlp.fc2": "attn.position_mlp.fc2",
}


def read_audio_mae(path: Path, weights: dict[str, Any], step: object, heads: int | None) -> Official:
    """The weights of an Audio-MAE file; with `head` or `fc_norm` it is a fine-tuned one.

    Copies may lack the classifier's head or the decoder; a decoder that cannot be read is left out too.

    Raises:
        OfficialError: a tensor is missing or unexpected, or a size does not fit.
    """
    tensors = TensorAccount(path, weights)
    patch_time, patch_freq = tensors.shape("patch_embed.proj.weight", 4)[2:]
    tensors.shape("pos_embed", 3)
    positions = tensors.left["pos_embed"]
    table = _audio_mae_table(path, positions[0, 1:], patch_freq)
    front_end = LogMelConfig(mels=table.freq * patch_freq)
    tensors.take("cls_token", "encoder.cls_token", lambda token: (token + positions[:, :1]).flatten())
    tensors.take("pos_embed", "encoder.position_table.table", lambda codes: codes[0, 1:])
    tuned = any(name in tensors.left for name in ("head.weight", "fc_norm.weight"))
    encoder = tensors.encoder(
        "",
        "encoder.",
        "fc_norm" if tuned else "norm",
        VIT_PARTS,
        heads,
        mels=front_end.mels,
        cls_token=True,
        table=table,
        inputs=INPUTS,
    )
    config, lacks = None, ""
    if tuned and any(name.startswith("head.") for name in tensors.left):
        tensors.affine("head", "head")
    elif not tuned:
        decoder, lacks = tensors.apart(DECODER, lambda part: _audio_mae_decoder(part, table))
        config = AudioMAEConfig(decoder=decoder) if decoder else None
    seconds = table.time * patch_time * front_end.hop_seconds
    system = "Audio-MAE, fine-tuned" if tuned else "Audio-MAE"
    done = count(path, step)
    return Official(path, system, front_end, encoder, seconds, config, done, tensors.finish(), lacks)


def _audio_mae_table(path: Path, codes_ND: Tensor, patch_freq: int) -> TableConfig:
    """The grid of a table that runs band by band; 128 mel bands if the table does not show it."""
    tokens = len(codes_ND)
    time = fast_axis(codes_ND) or tokens // (LogMelConfig().mels // patch_freq)
    if time < 1 or tokens % time:
        raise OfficialError(f"{path}: pos_embed has {tokens} patches, not a grid of {time} time steps")
    return TableConfig(time, tokens // time, transposed=True)


def _audio_mae_decoder(tensors: TensorAccount, table: TableConfig) -> DecoderConfig:
    width = tensors.shape("decoder_embed.weight", 2)[0]
    heads = tensors.shape("decoder_blocks.0.attn.tau", 1)[0]
    hidden = tensors.shape("decoder_blocks.0.mlp.fc1.weight", 2)[0]
    tensors.affine("decoder_embed", "decoder.embed")
    tensors.take("mask_token", "decoder.mask_token", torch.flatten)
    # The decoder drops the class token before its blocks, so its position code is never used.
    tensors.take("decoder_pos_embed", "decoder.position_table.table", lambda codes: codes[0, 1:])
    depth = tensors.blocks("decoder_blocks", "decoder.blocks", SWIN_PARTS)
    for number in range(depth):
        tensors.take(f"decoder_blocks.{number}.attn.tau", f"decoder.blocks.{number}.attn.temperature")
    tensors.affine("decoder_norm", "decoder.norm")
    tensors.affine("decoder_pred", "decoder.head")
    return DecoderConfig(
        depth=depth, width=width, heads=heads, mlp_ratio=mlp_ratio(hidden, width), table=table
    )
