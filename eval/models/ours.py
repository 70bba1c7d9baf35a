"""Our encoders with the interface of all encoders."""

from __future__ import annotations

import torch
from torch import Tensor

from ajepa.hear_module import patch_centre_ms
from ajepa.model import AudioEncoder
from ajepa.model.embedding import layers_text, time_statistics

from .frames import FrameModel, Frames


class EncoderModel(FrameModel):
    """An `AudioEncoder`. Layers: the outputs of the blocks and the normed last one; alone: its `joined`."""

    ragged = True
    rounds = True
    trainable = True

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.sample_rate = encoder.sample_rate
        self.hop_seconds = encoder.hop_seconds
        self.first_seconds = patch_centre_ms(encoder) / 1000

    def frames(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Frames:
        """Frames with F frequency patches."""
        found = self.encoder(waveform_BS, lengths, layers=all_layers)
        layers = (*found.layers, found.patches) if all_layers else (found.joined,)
        return Frames(layers, found.lengths)

    @property
    def output(self) -> str:
        """Which layers are joined."""
        return layers_text(self.encoder.embedding_layers)

    def forward(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Tensor:
        """Clips with these lengths in samples to [B, L, 2, F, D]."""
        found = self.frames(waveform_BS, lengths, all_layers)  # zero after a clip's end
        return torch.stack([time_statistics(layer.float(), found.lengths) for layer in found.layers], 1)
