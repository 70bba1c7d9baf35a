"""Log-mel spectrograms: Kaldi's filter banks as Audio-MAE calls them, batched and on any device.

The reference is ``torchaudio.compliance.kaldi.fbank(wav - wav.mean(), htk_compat=True,
sample_frequency=16000, use_energy=False, window_type="hanning", num_mel_bins=128, dither=0.0,
frame_shift=10)``. Kaldi takes one frame at a time: subtract the frame's mean, apply pre-emphasis
``x[n] - 0.97 x[n-1]``, multiply by the window, transform, sum the power in triangular mel filters, floor
and take the log.

Single precision leaves an error of about 1e-7 of a frame's amplitude in every frequency bin, and the log
shows it in bands more than 60 dB below the level of their frame: there torchaudio strays from arithmetic in
double precision by 1e-3 to 1e-2, and any other order of the same steps strays elsewhere (by up to 0.2 beside
a full-scale tone). So that weights trained on the reference meet the very numbers they know, the steps stand
here in its order; what is saved is the work around them: all clips and frames at once, constants made once,
and the filter matrix multiplied in diagonal blocks, since each mel filter spans few frequency bins. LogMel
agrees with torchaudio to 1e-6 on the CPU, if both run on as many threads. Where TF32 matrix products are
allowed on a GPU, the sum over a mel filter is rounded to 11 bits, which moves the log by less than 1e-3.

Axes: B clips, S samples, T frames, M mel bands, K frequency bins.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.functional import pad
from torchaudio.compliance.kaldi import get_mel_banks

PREEMPHASIS = 0.97
# Kaldi's floor on a mel energy: the spacing of single-precision numbers at 1.
ENERGY_FLOOR = torch.finfo(torch.float32).eps

# The working set of so many frames (some 6 MB) stays in a processor's caches; other devices want large steps.
FRAMES_PER_STEP_CPU = 1024
FRAMES_PER_STEP = 32 * 1024
MEL_BLOCKS = 8


@dataclass(frozen=True)
class LogMelConfig:
    """What a log-mel spectrogram is made of. Raises ValueError for settings that cannot work.

    ``high_hz`` follows Kaldi: zero or less counts from the Nyquist frequency. ``mean`` and ``std`` are
    of log energies over the training data; the defaults are Audio-MAE's for AudioSet.
    """

    sample_rate: int = 16_000
    mels: int = 128
    window_seconds: float = 0.025
    hop_seconds: float = 0.010
    low_hz: float = 20.0
    high_hz: float = 0.0
    mean: float = -4.2677393
    std: float = 4.5689974

    def __post_init__(self) -> None:
        if self.sample_rate <= 0:
            raise ValueError(f"sample_rate is {self.sample_rate}; give a positive number of hertz")
        if self.mels < 4:
            raise ValueError(f"mels is {self.mels}; Kaldi's filter bank needs at least 4 bands")
        if self.window < 4:
            raise ValueError(
                f"window_seconds={self.window_seconds} is {self.window} samples at {self.sample_rate} Hz; "
                "give at least 4 samples"
            )
        if self.hop < 1:
            raise ValueError(
                f"hop_seconds={self.hop_seconds} is under one sample at {self.sample_rate} Hz; lengthen it"
            )
        nyquist = self.sample_rate / 2
        high_hz = self.high_hz if self.high_hz > 0 else nyquist + self.high_hz
        if not 0 <= self.low_hz < high_hz <= nyquist:
            raise ValueError(
                f"mel bands from low_hz={self.low_hz} to high_hz={high_hz} do not fit into 0 to {nyquist} Hz "
                "(half the sample rate); change low_hz, high_hz or sample_rate"
            )
        if not self.std > 0:
            raise ValueError(f"std is {self.std}; give a positive number (0.5 with mean 0 changes nothing)")

    # Kaldi cuts to whole samples; rounding first keeps 0.1 + 0.2 style noise from losing a sample.
    @property
    def window(self) -> int:
        """Samples in a frame."""
        return int(round(self.sample_rate * self.window_seconds, 6))

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return int(round(self.sample_rate * self.hop_seconds, 6))

    @overload
    def frames(self, samples: int) -> int: ...
    @overload
    def frames(self, samples: Tensor) -> Tensor: ...
    def frames(self, samples: int | Tensor) -> int | Tensor:
        """Return the number of frames of a clip (or an integer tensor of clips) of so many samples."""
        if isinstance(samples, Tensor):
            return 1 + (samples - self.window).clamp_min(0) // self.hop
        return 1 + max(samples - self.window, 0) // self.hop

    @property
    def fft_size(self) -> int:
        """The window, zero-padded to a power of two."""
        return 1 << (self.window - 1).bit_length()


class LogMel(nn.Module):
    """Waveform [B, S] at ``config.sample_rate``, in -1..1, to a normalised log-mel spectrogram [B, T, M].

    The normalisation is Audio-MAE's, ``(log_mel - mean) / (2 std)``. Its two numbers are saved with the
    weights; window and filters are made anew from the config. All numbers stay in float32 whatever the
    input, the autocast region or a call of ``.half()`` on an enclosing model say.

    ``silence`` is the value that a frame of digital silence takes.
    """

    mean: Tensor
    std: Tensor
    window: Tensor
    filters: Tensor
    silence: float

    def __init__(self, config: LogMelConfig | None = None) -> None:
        super().__init__()
        self.config = config or LogMelConfig()
        self.register_buffer("mean", torch.tensor(self.config.mean, dtype=torch.float32, device="cpu"))
        self.register_buffer("std", torch.tensor(self.config.std, dtype=torch.float32, device="cpu"))
        window_L, filters_KM = _constants(self.config)
        self.register_buffer("window", window_L, persistent=False)
        self.register_buffer("filters", filters_KM, persistent=False)
        self.blocks = _diagonal_blocks(filters_KM)
        self._update_silence()

    def forward(self, waveform_BS: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the normalised spectrogram [B, T, M], float32; T is ``config.frames(S)``.

        Audio shorter than one window is zero-padded to one. Frame t depends on the samples from t·hop up
        to t·hop + window, and but for rounding on no others. (NaN or infinity spreads to the whole clip.)

        ``lengths`` [B] are the samples of clips that are followed by zeros: each clip's mean is then its own,
        and its frames are those it has alone.

        Raises ValueError if the waveform is not [B, S] with S >= 1, or not floating point.
        """
        return self._spectrogram(waveform_BS, lengths, normalise=True)

    def fbank(self, waveform_BS: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return natural-log mel energies [B, T, M], not normalised. Otherwise as ``forward``."""
        return self._spectrogram(waveform_BS, lengths, normalise=False)

    def _spectrogram(self, waveform_BS: Tensor, lengths: Tensor | None, normalise: bool) -> Tensor:
        if waveform_BS.ndim != 2 or 0 in waveform_BS.shape:
            raise ValueError(
                f"waveform has shape {list(waveform_BS.shape)}; give [clips, samples] with at least one of "
                "each (one clip: waveform[None])"
            )
        if not waveform_BS.is_floating_point():
            raise ValueError(f"waveform is {waveform_BS.dtype}; give floating-point samples in -1..1")
        window, hop = self.config.window, self.config.hop
        clips, samples = waveform_BS.shape
        if waveform_BS.stride(1) != 1:  # sums over another layout round otherwise
            waveform_BS = waveform_BS.contiguous()
        if samples < window:
            waveform_BS = pad(waveform_BS, (0, window - samples))
        frames = self.config.frames(samples)
        offset_B1 = _means(waveform_BS, lengths, window)
        # A backward pass needs every step's intermediates anyway; a traced loop would fix the length.
        if _recorded(waveform_BS):
            return self._log_mel(waveform_BS, offset_B1, normalise)
        step = FRAMES_PER_STEP_CPU if waveform_BS.device.type == "cpu" else FRAMES_PER_STEP
        shape = (clips, frames, self.config.mels)
        out_BTM = torch.empty(shape, dtype=torch.float32, device=waveform_BS.device)
        for some, first, last in _steps(clips, frames, step):
            piece_BS = waveform_BS[some, first * hop : (last - 1) * hop + window]
            self._log_mel(piece_BS, offset_B1[some], normalise, out_BTM[some, first:last])
        return out_BTM

    def _log_mel(
        self, waveform_BS: Tensor, offset_B1: Tensor, normalise: bool, out_BTM: Tensor | None = None
    ) -> Tensor:
        """All frames of a waveform [B, S >= window] at once; written to ``out_BTM``, one block, if given."""
        centred_BS = waveform_BS.float() - offset_B1
        means_BT1 = centred_BS.unfold(1, self.config.window, self.config.hop).mean(2, keepdim=True)
        with torch.autocast(centred_BS.device.type, enabled=False):
            log_mel_NM = self._rows(centred_BS, means_BT1, normalise)
        log_mel_BTM = log_mel_NM.unflatten(0, means_BT1.shape[:2])
        return log_mel_BTM if out_BTM is None else out_BTM.copy_(log_mel_BTM)

    def _rows(self, centred_BS: Tensor, means_BT1: Tensor, normalise: bool) -> Tensor:
        config = self.config
        frames_BTL = centred_BS.unfold(1, config.window, config.hop) - means_BT1
        # The window is zero at a frame's first sample: what Kaldi takes for the one before does not matter.
        emphasised_BTL = frames_BTL[..., 1:] - PREEMPHASIS * frames_BTL[..., :-1]
        windowed_BTL = pad(emphasised_BTL * self.window, (1, config.fft_size - config.window))
        squares_BTK2 = torch.view_as_real(torch.fft.rfft(windowed_BTL)).square_()
        power_NK = (squares_BTK2[..., 0] + squares_BTK2[..., 1]).flatten(0, 1)
        mel_NM = torch.cat([power_NK[:, k] @ self.filters[k, m] for k, m in self.blocks], dim=1)
        log_mel_NM = mel_NM.clamp_min_(ENERGY_FLOOR).log_()
        return log_mel_NM.sub_(self.mean).div_(2 * self.std) if normalise else log_mel_NM

    def _update_silence(self) -> None:
        # A plain number, so that padding with it neither waits for a GPU nor breaks a compiled graph.
        if not self.mean.is_meta:
            self.silence = (math.log(ENERGY_FLOOR) - self.mean.item()) / (2 * self.std.item())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._update_silence()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LogMel":
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)
        # .half() is meant for the network: here it would cost the features their precision. And constants
        # that are in no checkpoint must not stay empty after a move from the meta device.
        device = self.mean.device
        if self.mean.dtype != torch.float32:
            self.mean, self.std = mean.to(device), std.to(device)
        self.window, self.filters = (constant.to(device) for constant in _constants(self.config))
        return self


def _recorded(tensor: Tensor) -> bool:
    """Whether a gradient, a trace or a transformation has to see each step on this tensor."""
    return (
        torch.compiler.is_compiling()
        or type(tensor) is not Tensor
        or (tensor.requires_grad and torch.is_grad_enabled())
        or torch.jit.is_tracing()
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or forward_ad.unpack_dual(tensor).tangent is not None
    )


def _steps(clips: int, frames: int, step: int) -> Iterator[tuple[slice, int, int]]:
    """Parts of a batch with about ``step`` frames each: some clips, and their frames from first to last. Each
    part is one block of memory in a spectrogram [clips, frames, M]."""
    if frames >= step:
        for clip in range(clips):
            for first in range(0, frames, step):
                yield slice(clip, clip + 1), first, min(first + step, frames)
    else:
        together = step // frames
        for clip in range(0, clips, together):
            yield slice(clip, clip + together), 0, frames


def _means(waveform_BS: Tensor, lengths: Tensor | None, window: int) -> Tensor:
    """The means [B, 1] of clips, of which each has at least one window of samples.

    Each frame loses its mean later, but beside a loud tone the last bit of the clip's is seen, by 0.04 in the
    log of the weakest bands. So on a CPU it is the reference's own expression, with its order of summation.
    """
    clips, samples = waveform_BS.shape
    if waveform_BS.device.type == "cpu" and not torch.compiler.is_compiling():
        ends = [samples] * clips if lengths is None else lengths.clamp_min(window).tolist()
        means = [clip_S[:end].float().mean() for clip_S, end in zip(waveform_BS, ends, strict=True)]
        return torch.stack(means)[:, None]
    # A traced loop would fix the number of clips: this gives what the loop gives on one thread. A GPU has an
    # order of its own, and double precision there keeps zeros behind a clip from changing it.
    count = samples if lengths is None else lengths.clamp_min(window)[:, None]
    precision = torch.float64 if waveform_BS.device.type == "cuda" else torch.float32
    return (waveform_BS.float().sum(1, keepdim=True, dtype=precision) / count).float()


def _constants(config: LogMelConfig) -> tuple[Tensor, Tensor]:
    """The window from its second sample on [window - 1], and the mel filters [K, M], on the CPU.

    Both are torchaudio's own, in the single precision in which it makes them: made in double precision, the
    smallest filter weights differ by 0.2 %.
    """
    with torch.device("cpu"):
        window_L = torch.hann_window(config.window, periodic=False, dtype=torch.float32)[1:]
        filters_MK, _ = get_mel_banks(
            config.mels,
            config.fft_size,
            float(config.sample_rate),
            config.low_hz,
            config.high_hz,
            vtln_low=100.0,
            vtln_high=-500.0,
            vtln_warp_factor=1.0,
        )
        # Kaldi gives the Nyquist bin to no filter.
        return window_L, pad(filters_MK, (0, 1)).T.float().contiguous()


def _diagonal_blocks(filters_KM: Tensor) -> list[tuple[slice, slice]]:
    """Groups of neighbouring filters: (the frequency bins that a group uses, its mel bands)."""
    mels = filters_KM.shape[1]
    size = -(-mels // MEL_BLOCKS)
    blocks = []
    for low in range(0, mels, size):
        bands = slice(low, min(low + size, mels))
        used = filters_KM[:, bands].any(dim=1).nonzero().flatten().tolist() or [0]
        blocks.append((slice(used[0], used[-1] + 1), bands))
    return blocks
