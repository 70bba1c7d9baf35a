"""Any encoder that `ajepa evaluate` takes as an upstream of s3prl, and its name for `-u`.

python run_downstream.py -m train -u ajepa_any -k transformers:FOLDER -d speech_commands -c CONFIG -n NAME
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.functional import resample

from ajepa.eval.models.foreign import S3PRL_RATE
from ajepa.eval.models.open import open_frames
from ajepa.s3prl_upstream import UpstreamError, UpstreamExpert, UpstreamOptions

__all__ = ["ajepa_any"]

LEAST_RATE = 160  # samples between two frames, 10 ms: denser frames are thinned out


class AnyUpstream(UpstreamExpert):
    """An encoder for SUPERB's downstream models: all its layers, at s3prl's 16 kHz.

    Args:
        ckpt: what `ajepa evaluate --model` takes.
        model_config, refresh, options: as for `UpstreamExpert`; of the options `frequency`, `cache` and
            `cache_gigabytes`.

    Raises:
        UpstreamError: another option is given.
        AjepaError: as `ajepa.eval.models.open.open_source`.
    """

    def __init__(
        self,
        ckpt: str | None = None,
        model_config: str | None = None,
        refresh: bool = False,
        **options: Any,
    ) -> None:
        nn.Module.__init__(self)
        self.options = UpstreamOptions.read(model_config, options)
        if self.options.of_model() != UpstreamOptions().of_model() or self.options.repeat != 1:
            raise UpstreamError(
                "-u ajepa_any takes frequency, cache and cache_gigabytes; the others are of -u ajepa"
            )
        encoder = open_frames(ckpt or "default")
        self.model: Any = encoder
        self.rate = max(LEAST_RATE, round(encoder.hop_seconds * S3PRL_RATE))
        self._open_cache()

    def _encode(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """All layers, each [B, T, X]. Clips go one by one unless the encoder keeps their padding apart."""
        rows = list(range(len(wavs)))
        groups = [rows] if self.model.ragged else [[row] for row in rows]
        frames = self.frames(max(map(len, wavs)))
        done: dict[int, Tensor] = {}  # [L, T, X]
        for group in groups:
            done |= zip(group, self._encode_group([wavs[row] for row in group], frames), strict=True)
        return list(torch.stack([done[row] for row in rows], 1))

    def _encode_group(self, wavs: Sequence[Tensor], frames: int) -> list[Tensor]:
        model = self.model
        given = [wav.to(model.device).float() for wav in wavs]
        if model.sample_rate != S3PRL_RATE:
            given = [resample(wav, S3PRL_RATE, model.sample_rate) for wav in given]
        waveform_BS = nn.utils.rnn.pad_sequence(given, batch_first=True)
        found = model.frames(waveform_BS, [len(wav) for wav in given], True)
        # The encoder's frame at the middle of each of s3prl's; after a clip's end its last one.
        middle_T = (torch.arange(frames, device=model.device) + 0.5) * self.rate / S3PRL_RATE
        place_T = ((middle_T - model.first_seconds) / model.hop_seconds).round().long().clamp_min(0)
        clips = []
        for row, length in enumerate(found.lengths.tolist()):
            index_T = place_T.clamp_max(length - 1)
            clips.append(torch.stack([self._joined(layer[row, index_T]) for layer in found.layers]))
        return clips

    def _joined(self, state_TFD: Tensor) -> Tensor:
        state_TFD = state_TFD.float()
        return state_TFD.mean(-2) if self.options.frequency == "average" else state_TFD.flatten(-2)


def ajepa_any(
    ckpt: str | None = None, model_config: str | None = None, refresh: bool = False, **options: Any
) -> AnyUpstream:
    """An encoder of any interface, as `ajepa evaluate --model` names it."""
    return AnyUpstream(ckpt, model_config, refresh, **options)
