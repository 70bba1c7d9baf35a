"""`UpstreamExpert` as s3prl calls it (s3prl/upstream/README.md, "UpstreamExpert")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchaudio.functional import resample

from ajepa.model.loading import load_model
from ajepa.nn.encoder import gather_tokens

from .cache import FeatureCache, clip_key, weights_key
from .options import UpstreamError, UpstreamOptions

SAMPLE_RATE = 16_000  # of all waveforms in s3prl, Hz


class UpstreamExpert(nn.Module):
    """An encoder for SUPERB's downstream models.

    Args:
        ckpt: any source of `ajepa.load_model`; None for its default.
        model_config: options, see `UpstreamOptions.read`.
        refresh: ignored, since nothing is downloaded here; s3prl passes it.
        options: as in `model_config`.

    Raises:
        ajepa.model.loading.ModelError: the source cannot be read.
        UpstreamError: an option does not exist or does not fit the encoder.
    """

    def __init__(
        self,
        ckpt: str | None = None,
        model_config: str | None = None,
        refresh: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = UpstreamOptions.read(model_config, options)
        self.model = load_model(ckpt, **self.options.of_model())
        patch_samples = round(self.model.hop_seconds * SAMPLE_RATE)
        self.rate, remainder = divmod(patch_samples, self.options.repeat)
        if remainder:
            raise UpstreamError(
                f"repeat is {self.options.repeat}; it must divide the {patch_samples} samples of a time step"
            )
        self._open_cache()

    def _open_cache(self) -> None:
        self.cache: FeatureCache | None = None
        if self.options.cache:
            self.cache = FeatureCache(self.options.cache, round(self.options.cache_gigabytes * 1e9))
        self._fingerprint: tuple[tuple[object, ...], str] | None = None

    def get_downsample_rates(self, key: str) -> int:
        """Samples between two frames of every hidden state, at 16 kHz."""
        return self.rate

    def frames(self, samples: int) -> int:
        """Frames of a clip, as s3prl counts them: ceil(samples / rate)."""
        return -(-samples // self.rate)

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Encode 1-D waveforms at 16 kHz, of any lengths from 1 sample; differentiable.

        Returns:
            `hidden_states`: every block's output, un-normed, then the last one normed, each
            [B, ceil(longest / rate), X] in float32 with X = F * D or D; and `last_hidden_state`. After the
            end of a clip its last frame is repeated.
        """
        frozen = not self.training and not torch.is_grad_enabled()
        hidden_states = self._cached(wavs) if self.cache is not None and frozen else self._encode(wavs)
        return {"hidden_states": hidden_states, "last_hidden_state": hidden_states[-1]}

    def _encode(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """All layers, each [B, T, X]."""
        lengths = [len(wav) for wav in wavs]
        waveform_BS = pad_sequence(list(wavs), batch_first=True).to(self.model.device)
        model_lengths = lengths
        if self.model.sample_rate != SAMPLE_RATE:
            waveform_BS = resample(waveform_BS.float(), SAMPLE_RATE, self.model.sample_rate)
            model_lengths = [-(-length * self.model.sample_rate // SAMPLE_RATE) for length in lengths]
        embedding = self.model(waveform_BS, model_lengths, layers=True)
        # s3prl counts ceil(length / rate) frames of each clip, sometimes one more than its patches: the last
        # valid frame is repeated, for each clip by its own length.
        frame_T = torch.arange(self.frames(max(lengths)), device=embedding.lengths.device)
        index_BT = torch.minimum(frame_T // self.options.repeat, embedding.lengths[:, None] - 1)
        return [
            gather_tokens(self._joined(state_BTFD), index_BT)
            for state_BTFD in (*embedding.layers, embedding.patches)
        ]

    def _joined(self, state_BTFD: Tensor) -> Tensor:
        return state_BTFD.mean(2) if self.options.frequency == "average" else state_BTFD.flatten(2)

    def _cached(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """All layers, each [B, T, X]; known clips come from the cache."""
        assert self.cache is not None
        model = self._model_key()
        keys = [clip_key(wav) for wav in wavs]
        clips_LTX = [self.cache.get(model, key) for key in keys]
        missing = [place for place, clip in enumerate(clips_LTX) if clip is None]
        if missing:
            encoded_LBTX = torch.stack(self._encode([wavs[place] for place in missing]))
            for row, place in enumerate(missing):
                clip_LTX = encoded_LBTX[:, row, : self.frames(len(wavs[place]))]
                self.cache.put(model, keys[place], clip_LTX)
                clips_LTX[place] = clip_LTX
        found = [clip for clip in clips_LTX if clip is not None]
        layers, _, width = found[0].shape
        longest = max(clip.shape[1] for clip in found)
        states_LBTX = torch.empty(layers, len(found), longest, width, device=self.model.device)
        for row, clip_LTX in enumerate(found):
            frames = clip_LTX.shape[1]
            states_LBTX[:, row, :frames] = clip_LTX
            states_LBTX[:, row, frames:] = clip_LTX[:, -1:]
        return list(states_LBTX)

    def _model_key(self) -> str:
        """`weights_key`, computed again only when weights have changed or moved."""
        state = tuple(
            (tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device)
            for tensor in self.model.state_dict(keep_vars=True).values()
        )
        if self._fingerprint is None or self._fingerprint[0] != state:
            self._fingerprint = state, weights_key(self.model, self.options.frequency, self.options.repeat)
        return self._fingerprint[1]
