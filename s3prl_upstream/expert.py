"""`UpstreamExpert` as s3prl calls it (s3prl/upstream/README.md, "UpstreamExpert")."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ajepa.model import load_model


class UpstreamExpert(nn.Module):
    """An encoder for SUPERB's downstream models.

    Args:
        ckpt: any source of `ajepa.load_model`; None for the default.
        model_config: unused, part of s3prl's signature.

    Each hidden state is [batch, ceil(longest / rate), F * D] with the rate of `get_downsample_rates`: the
    frequency patches of a time step side by side (as SSAST and MAE-AST give them to SUPERB).
    """

    def __init__(self, ckpt: str | None = None, model_config: str | None = None) -> None:
        super().__init__()
        self.model = load_model(ckpt)

    def get_downsample_rates(self, key: str) -> int:
        """Samples between two frames of every hidden state."""
        return round(self.model.hop_seconds * self.model.sample_rate)

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Encode 1-D waveforms at 16 kHz, of any lengths from 1 sample on; differentiable."""
        lengths = [len(wav) for wav in wavs]
        embedding = self.model(pad_sequence(list(wavs), batch_first=True), lengths, layers=True)
        frames = math.ceil(max(lengths) / self.get_downsample_rates("hidden_states"))
        states = [*embedding.layers, embedding.patches]
        return {"hidden_states": [_fit(state.flatten(2), frames) for state in states]}


def _fit(state_BTX: Tensor, frames: int) -> Tensor:
    """As many frames as s3prl computes from the length: the last one is repeated or left out."""
    missing = frames - state_BTX.shape[1]
    if missing <= 0:
        return state_BTX[:, :frames]
    return nn.functional.pad(state_BTX.transpose(1, 2), (0, missing), mode="replicate").transpose(1, 2)
