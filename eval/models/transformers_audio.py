"""Audio encoders of the transformers library: every `AutoModel` with a feature extractor for audio that gives
hidden states.

    transformers:FOLDER_OR_NAME[?trust_remote_code]

Each encoder gets its input from its own feature extractor at its own sample rate, and only a clip's own time
counts. Of an encoder with a decoder only the encoder runs. Whisper, AST and CLAP take a fixed length: shorter
clips are padded as their extractors do, and the padding does not count; longer ones are cut into pieces. A
folder is read without a network; a name is downloaded. Code from the folder or the Hub runs only if the
source says `?trust_remote_code`.

Shape suffixes: B clips, S samples, T time steps, F frequency patches, D features.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

import ajepa.hf  # noqa: F401  (registers our own, which are read as any other)

from .baselines import BaselineError
from .foreign import as_written
from .frames import FrameModel, Frames

AST = "audio-spectrogram-transformer"
AUDIO_TOWERS = ("audio_model", "audio_tower", "audio_encoder")  # of models of several kinds of input
# Only masked training uses this weight; some checkpoints leave it out.
NOT_NEEDED = {"masked_spec_embed"}
LEAST_SECONDS = 0.1  # given to a model that does not say how little it can take
PIECES = 8  # of a fixed length that are encoded at once


class _Piece(NamedTuple):
    """Hidden states [B, T, F, D] of stretches, from each layer and the final output, and their own T."""

    layers: tuple[Tensor, ...]
    steps: list[int]


class TransformersModel(FrameModel):
    """An encoder of the library. Layers are the blocks' outputs and the final output.

    F is 1, except for AST (12) and for models whose output has a frequency axis. A model whose blocks have
    outputs of different shapes has one layer, its final output.

    Raises:
        BaselineError: it cannot be loaded, or is no audio encoder.
    """

    rounds = True
    trainable = True

    def __init__(self, place: str | Path, trust_remote_code: bool = False) -> None:
        super().__init__()
        place = str(place)
        local = Path(place).is_dir()
        if local and not (Path(place) / "preprocessor_config.json").is_file():
            raise BaselineError(
                f"{place}: no preprocessor_config.json, which defines the model's input; "
                "save the model's feature extractor there too"
            )
        options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": trust_remote_code}
        try:
            config = AutoConfig.from_pretrained(place, **options)
            self.extractor: Any = AutoFeatureExtractor.from_pretrained(place, **options)
            model, report = AutoModel.from_pretrained(place, output_loading_info=True, **options)
        except (OSError, ValueError, ImportError, KeyError) as error:
            reason = " ".join(str(error).split())
            remedy = (
                ""
                if trust_remote_code or "trust_remote_code" not in reason
                else (f"; its code runs only on your word: transformers:{place}?trust_remote_code")
            )
            raise BaselineError(f"{place}: transformers cannot load it ({reason}){remedy}") from error
        if missing := sorted(set(report["missing_keys"]) - NOT_NEEDED):
            raise BaselineError(f"{place}: {len(missing)} weights are missing, such as {missing[0]}")
        if not hasattr(self.extractor, "sampling_rate"):
            raise BaselineError(
                f"{place}: a model of type {config.model_type!r}, whose extractor takes no audio; use an "
                "audio encoder, such as wav2vec2, HuBERT, Whisper or AST"
            )
        self.place = place
        self.model: Any = _encoder(model)
        self.accepted = set(inspect.signature(self.model.forward).parameters)
        self.config = self.extractor  # `fingerprint` reads it from this module; `model` has its own
        self.kind = config.model_type
        self.sample_rate = int(self.extractor.sampling_rate)
        self.fixed = self._fixed_samples()
        self.ragged = self.fixed is not None
        self.least_seconds = (self.fixed or 0) / self.sample_rate
        self._hop: float | None = None

    @property
    def hop_seconds(self) -> float:  # type: ignore[override]
        """Seconds between two steps: as the configuration says, else as seen on silence."""
        settings = self.model.config
        if self.kind == AST:
            return settings.time_stride / 100
        if strides := getattr(settings, "conv_stride", None):
            return math.prod(strides) / self.sample_rate
        if self._hop is None:
            counts = []
            for seconds in (1, 3):
                silence_BS = torch.zeros(1, seconds * self.sample_rate, device=self.device)
                with torch.no_grad():
                    counts.append(int(self.frames(silence_BS, [silence_BS.shape[1]], False).lengths))
            self._hop = 2 / max(1, counts[1] - counts[0])
        return self._hop

    @property
    def first_seconds(self) -> float:  # type: ignore[override]
        """The middle of what the first step covers."""
        return max(self._least_samples() / self.sample_rate, self.hop_seconds) / 2

    def frames(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Frames:
        """Frames of clips, each with these lengths in samples."""
        size = self.fixed or max(lengths)
        pieces = [
            (clip, waveform_BS[clip, first : min(first + size, length)])
            for clip, length in enumerate(lengths)
            for first in range(0, length, size)
        ]
        clips: list[list[Tensor]] = [[] for _ in lengths]  # of each piece its layers, [L, T, F, D]
        at_once = PIECES if self.fixed else len(pieces)
        for start in range(0, len(pieces), at_once):
            some = pieces[start : start + at_once]
            found = self._encode([waveform_S for _, waveform_S in some], waveform_BS.device, all_layers)
            states_BLTFD = torch.stack(found.layers, 1)
            for (clip, _), states_LTFD, steps in zip(some, states_BLTFD, found.steps, strict=True):
                clips[clip].append(states_LTFD[:, :steps])
        joined = [torch.cat(own, 1).transpose(0, 1) for own in clips]  # [T, L, F, D]
        padded_BTLFD = pad_sequence(joined, batch_first=True)
        steps_B = torch.tensor([len(one) for one in joined], device=waveform_BS.device)
        return Frames(padded_BTLFD.unbind(2), steps_B)

    def _fixed_samples(self) -> int | None:
        """Samples that the model takes at once, to which its extractor pads; None for any number."""
        if self.kind == AST:
            return self.extractor.max_length * self.sample_rate // 100  # Kaldi's hop of 10 ms
        for name in ("n_samples", "nb_max_samples"):  # Whisper, CLAP
            if isinstance(samples := getattr(self.extractor, name, None), int):
                return samples
        return None

    def _least_samples(self) -> int:
        """Samples that the model's first time step covers."""
        if self.fixed:
            return self.sample_rate // 40  # Kaldi's window of 25 ms
        settings = self.model.config
        if not hasattr(settings, "conv_kernel"):
            return round(LEAST_SECONDS * self.sample_rate)
        seen, step = 1, 1
        for kernel, stride in zip(settings.conv_kernel, settings.conv_stride, strict=True):
            seen, step = seen + (kernel - 1) * step, step * stride
        return seen + (getattr(settings, "squeeze_factor", 1) - 1) * step

    def _encode(self, waveforms: Sequence[Tensor], device: torch.device, all_layers: bool) -> _Piece:
        """Waveforms [S], all of one length unless the model's is fixed."""
        least = self._least_samples()
        samples = [max(least, len(one)) for one in waveforms]
        with as_written(device):
            clips = [
                nn.functional.pad(one.detach().float().cpu(), (0, count - len(one))).numpy()
                for one, count in zip(waveforms, samples, strict=True)
            ]
            batch = self.extractor(clips, sampling_rate=self.sample_rate, return_tensors="pt")
        inputs = {name: value.to(device) for name, value in batch.items() if name in self.accepted}
        found = self.model(**inputs, output_hidden_states=True if all_layers else None, return_dict=True)
        if getattr(found, "last_hidden_state", None) is None:
            raise BaselineError(
                f"{self.place}: gives {', '.join(found)}, and no hidden states; use an encoder"
            )
        output, hidden = found.last_hidden_state, getattr(found, "hidden_states", None) or ()
        if output.ndim == 4:  # [B, D, F, T], such as CLAP's
            return _Piece((output.permute(0, 3, 2, 1),), self._steps(output.shape[3], samples))
        # The first is the blocks' input, which some models leave out.
        first = 0 if len(hidden) == getattr(self.model.config, "num_hidden_layers", None) else 1
        blocks = hidden[first:] if all_layers else ()
        if any(one.shape != output.shape for one in blocks):
            blocks = ()
        layers = (*blocks, output)
        if self.kind == AST:
            return self._patches(layers, samples)
        steps = self._steps(output.shape[1], [len(one) for one in waveforms])
        return _Piece(tuple(layer[:, :, None] for layer in layers), steps)

    def _steps(self, steps: int, samples: Sequence[int]) -> list[int]:
        """Of the steps of a fixed length those that belong to clips of these numbers of samples."""
        if not self.fixed:
            return [steps] * len(samples)
        return [min(steps, math.ceil(steps * count / self.fixed)) for count in samples]

    def _patches(self, layers: tuple[Tensor, ...], samples: Sequence[int]) -> _Piece:
        """AST's tokens without the two special ones, frequency-major, as [B, T, F, D]."""
        config = self.model.config
        bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        grids = tuple(layer[:, 2:].unflatten(1, (bands, -1)).transpose(1, 2) for layer in layers)
        hop, window = self.sample_rate // 100, self.sample_rate // 40
        frames = [1 + max(0, count - window) // hop for count in samples]
        return _Piece(grids, [min(grids[0].shape[1], math.ceil(own / config.time_stride)) for own in frames])


def _encoder(model: Any) -> Any:
    """The part of a model that encodes audio."""
    for name in AUDIO_TOWERS:
        if isinstance(tower := getattr(model, name, None), nn.Module):
            return tower
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "get_encoder"):
        return model.get_encoder()
    return model
