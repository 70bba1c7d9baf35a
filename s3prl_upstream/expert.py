"""`UpstreamExpert` as s3prl calls it (s3prl/upstream/README.md, "UpstreamExpert")."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ajepa.encoder import gather_tokens
from ajepa.model import load_model


class UpstreamExpert(nn.Module):
    """An encoder for SUPERB's downstream models.

    Args:
        ckpt: any source of `ajepa.load_model`; None for the default.
        model_config, refresh: unused, part of the signature that s3prl calls.

    Each hidden state is [batch, ceil(longest / rate), F * D] with the rate of `get_downsample_rates`: the
    frequency patches of a time step side by side (as SSAST and MAE-AST give them to SUPERB).
    """

    def __init__(
        self, ckpt: str | None = None, model_config: str | None = None, refresh: bool = False
    ) -> None:
        super().__init__()
        self.model = load_model(ckpt)

    def get_downsample_rates(self, key: str) -> int:
        """Samples between two frames of every hidden state."""
        return round(self.model.hop_seconds * self.model.sample_rate)

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Encode 1-D waveforms at 16 kHz, of any lengths from 1 sample on; differentiable."""
        lengths = [len(wav) for wav in wavs]
        embedding = self.model(pad_sequence(list(wavs), batch_first=True), lengths, layers=True)
        rate = self.get_downsample_rates("hidden_states")
        # s3prl counts ceil(length / rate) frames of each clip, at times one more than its patches: the last
        # valid frame is repeated, for each clip by its own length.
        frame = torch.arange(math.ceil(max(lengths) / rate), device=embedding.lengths.device)
        index_BT = torch.minimum(frame, embedding.lengths[:, None] - 1)
        states = [*embedding.layers, embedding.patches]
        return {"hidden_states": [gather_tokens(state.flatten(2), index_BT) for state in states]}
