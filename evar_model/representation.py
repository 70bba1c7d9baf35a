"""The audio representation that EVAR calls (its evar/ar_base.py). Only importable in a checkout of EVAR."""

from __future__ import annotations

from typing import Any

from evar.ar_base import BaseAudioRepr
from torch import Tensor

from ajepa.model.loading import load_model

__all__ = ["AR_AJEPA"]


class AR_AJEPA(BaseAudioRepr):  # noqa: N801  (EVAR's form of names)
    """An encoder. `cfg.weight_file` is any source of `ajepa.load_model`; without one, the default encoder.

    Raises:
        ajepa.model.loading.ModelError: the source cannot be read.
        ValueError: `cfg.sample_rate`, at which EVAR reads its audio, is not the encoder's.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg=cfg)
        self.encoder = load_model(cfg.weight_file or None)
        if cfg.sample_rate != self.encoder.sample_rate:
            raise ValueError(
                f"sample_rate is {cfg.sample_rate}, {cfg.weight_file or 'the default encoder'} takes "
                f"{self.encoder.sample_rate} Hz; add sample_rate={self.encoder.sample_rate} to --options"
            )

    def encode_frames(self, batch_audio: Tensor) -> Tensor:
        """Waveforms [B, samples] to frames [B, D, T], the frequency patches of a time step side by side."""
        return self.encoder(batch_audio).frames.transpose(1, 2)

    def forward(self, batch_audio: Tensor) -> Tensor:
        """One vector a clip, over all samples that EVAR gives: [B, D]."""
        return self.encoder(batch_audio).clip
