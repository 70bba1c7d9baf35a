"""The feature extractor of an encoder: it pads waveforms. The spectrogram is a part of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor


class AjepaFeatureExtractor(SequenceFeatureExtractor):
    """From waveforms of any lengths to one padded batch, with a mask of each clip's own samples.

    Args:
        sampling_rate: of the model's waveforms, Hz.
    """

    model_input_names = ["input_values", "attention_mask"]  # noqa: RUF012

    def __init__(self, sampling_rate: int = 16_000, **options: Any) -> None:
        given = {"feature_size": 1, "padding_value": 0.0, "return_attention_mask": True} | options
        super().__init__(sampling_rate=sampling_rate, **given)

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[float] | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
        **options: Any,
    ) -> BatchFeature:
        """`input_values` [clips, samples] and `attention_mask` of one waveform, or of a list of them.

        Args:
            raw_speech: mono, within ±1.
            sampling_rate: of the waveforms; another one than the model's is an error.
            return_tensors: "pt" for torch.

        Raises:
            ValueError: another sampling rate, audio that is not mono, or whole numbers.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the audio has {sampling_rate} Hz, the model takes {self.sampling_rate}; resample it first"
            )
        several = isinstance(raw_speech, (list, tuple)) and len(raw_speech) and np.ndim(raw_speech[0]) > 0
        batched = several or (isinstance(raw_speech, np.ndarray) and raw_speech.ndim == 2)
        given = [np.asarray(wave) for wave in (raw_speech if batched else [raw_speech])]
        if any(wave.dtype.kind in "iu" and wave.any() for wave in given):
            raise ValueError(f"waveforms are of {given[0].dtype}; give floating-point samples within -1..1")
        waves = [wave.astype(np.float32) for wave in given]
        if any(wave.ndim != 1 or not len(wave) for wave in waves):
            raise ValueError(f"waveforms have shapes {[wave.shape for wave in waves]}; give mono [samples]")
        return self.pad(
            BatchFeature({"input_values": waves}), padding=padding, return_tensors=return_tensors, **options
        )
