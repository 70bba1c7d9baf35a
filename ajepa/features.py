"""Log-mel spectrograms: Kaldi's filter banks as Audio-MAE calls them, batched and on any device.

The reference is ``torchaudio.compliance.kaldi.fbank(wav - wav.mean(), htk_compat=True,
sample_frequency=16000, use_energy=False, window_type="hanning", num_mel_bins=128, dither=0.0,
frame_shift=10)``. Kaldi takes one frame at a time: subtract the frame's mean, apply pre-emphasis
``x[n] - 0.97 x[n-1]``, multiply by the window, transform, sum the power in triangular mel filters, floor
and take the log. The same numbers come from less work:

* The Hann window is zero at its first and last sample. So Kaldi's special case for the first sample of
  a frame never counts, and pre-emphasis may run once over the waveform instead of once in each of the
  2.5 frames that a sample belongs to.
* Pre-emphasis turns a constant m into 0.03 m, so the frame's mean can be taken off after it.
* As each frame loses its mean, the mean of the clip (``wav - wav.mean()``) does not matter: it is left
  out, and with it the dependence of a frame on the padding behind its clip.
* Each mel filter spans few frequency bins, so the filter matrix is multiplied in diagonal blocks.

Rounding: single precision, here as in torchaudio, leaves an error of about 1e-7 of a frame's amplitude
in every frequency bin. Mel bands within 60 dB of the level of their frame agree with arithmetic in double
precision to 1e-3 in the log (only a DC offset that jumps within a clip, by hundreds of times the signal's
level, costs more); in weaker ones this module and torchaudio both stray by up to about 1e-2.
Where TF32 matrix products are allowed on a GPU, the sum over a mel filter is rounded to 11 bits, which
moves the log by less than 1e-3.

Axes: B clips, S samples, T frames, M mel bands, K frequency bins.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchaudio.compliance.kaldi import get_mel_banks

# The nearest single-precision number to Kaldi's 0.97, so that 1 - PREEMPHASIS is exactly what is left of
# a constant; with 0.03 a loud DC offset would leave a residue.
PREEMPHASIS = torch.tensor(0.97, dtype=torch.float32, device="cpu").item()
# Kaldi's floor on a mel energy: the spacing of single-precision numbers at 1.
ENERGY_FLOOR = torch.finfo(torch.float32).eps

# The working set of this many frames (some 6 MB) stays in a CPU's cache; other devices want large steps.
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

    def forward(self, waveform_BS: Tensor) -> Tensor:
        """Return the normalised spectrogram [B, T, M], float32; T is ``frames(S)``.

        Audio shorter than one window is zero-padded to one. Frame t depends on the samples from t·hop up
        to t·hop + window, and but for rounding on no others: zeros after the end of a clip leave its own
        frames as they are. (NaN or infinity in the first frame spreads to the whole clip.)

        Raises ValueError if the waveform is not [B, S] with S >= 1, or not floating point.
        """
        return self._spectrogram(waveform_BS, normalise=True)

    def fbank(self, waveform_BS: Tensor) -> Tensor:
        """Return natural-log mel energies [B, T, M], not normalised. Otherwise as ``forward``."""
        return self._spectrogram(waveform_BS, normalise=False)

    @overload
    def frames(self, samples: int) -> int: ...
    @overload
    def frames(self, samples: Tensor) -> Tensor: ...
    def frames(self, samples: int | Tensor) -> int | Tensor:
        """Return the number of frames of a clip (or an integer tensor of clips) of so many samples."""
        window, hop = self.config.window, self.config.hop
        if isinstance(samples, Tensor):
            return 1 + (samples - window).clamp_min(0) // hop
        return 1 + max(samples - window, 0) // hop

    def _spectrogram(self, waveform_BS: Tensor, normalise: bool) -> Tensor:
        if waveform_BS.ndim != 2 or 0 in waveform_BS.shape:
            raise ValueError(
                f"waveform has shape {list(waveform_BS.shape)}; give [clips, samples] with at least one of "
                "each (one clip: waveform[None])"
            )
        if not waveform_BS.is_floating_point():
            raise ValueError(f"waveform is {waveform_BS.dtype}; give floating-point samples in -1..1")
        window, hop = self.config.window, self.config.hop
        clips, samples = waveform_BS.shape
        if samples < window:
            waveform_BS = pad(waveform_BS, (0, window - samples))
        frames = self.frames(samples)
        # Any constant may be taken off, for each frame loses its mean later; taking off roughly the clip's
        # offset here keeps a loud one from costing the later steps their precision. The first frame's mean
        # is the same however the clip is padded, which the clip's mean is not.
        offset_B1 = waveform_BS[:, :window].float().mean(1, keepdim=True)
        step = max(1, (FRAMES_PER_STEP_CPU if waveform_BS.device.type == "cpu" else FRAMES_PER_STEP) // clips)
        with torch.autocast(waveform_BS.device.type, enabled=False):
            # A backward pass needs every step's intermediates anyway; a traced loop would fix the length.
            differentiate = torch.is_grad_enabled() and waveform_BS.requires_grad
            if torch.compiler.is_compiling() or differentiate or frames <= step:
                return self._log_mel(waveform_BS, offset_B1, normalise)
            shape = (clips, frames, self.config.mels)
            out_BTM = torch.empty(shape, dtype=torch.float32, device=waveform_BS.device)
            for first in range(0, frames, step):
                last = min(first + step, frames)
                piece_BS = waveform_BS[:, first * hop : (last - 1) * hop + window]
                out_BTM[:, first:last] = self._log_mel(piece_BS, offset_B1, normalise)
            return out_BTM

    def _log_mel(self, waveform_BS: Tensor, offset_B1: Tensor, normalise: bool) -> Tensor:
        """All frames of a waveform [B, S >= window] at once."""
        config = self.config
        waveform_BS = waveform_BS.float() - offset_B1
        dc_BT1 = waveform_BS.unfold(1, config.window, config.hop).mean(2, keepdim=True)
        # The first sample of a frame has window 0, so frames of the emphasised signal begin at the second.
        # Frames as long as the transform, with a window that ends in zeros, save a zero-padding of each.
        emphasised_BS = torch.sub(waveform_BS[:, 1:], waveform_BS[:, :-1], alpha=PREEMPHASIS)
        emphasised_BS = pad(emphasised_BS, (0, config.fft_size - config.window + 1))
        frames_BTL = emphasised_BS.unfold(1, config.fft_size, config.hop)
        frames_BTL = torch.sub(frames_BTL, dc_BT1, alpha=1 - PREEMPHASIS).mul_(self.window)
        squares_BTK2 = torch.view_as_real(torch.fft.rfft(frames_BTL)).square_()
        power_NK = (squares_BTK2[..., 0] + squares_BTK2[..., 1]).flatten(0, 1)
        mel_NM = torch.cat([power_NK[:, k] @ self.filters[k, m] for k, m in self.blocks], dim=1)
        log_mel_NM = mel_NM.clamp_min_(ENERGY_FLOOR).log_()
        if normalise:
            log_mel_NM = log_mel_NM.sub_(self.mean).div_(2 * self.std)
        return log_mel_NM.unflatten(0, frames_BTL.shape[:2])

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


def _constants(config: LogMelConfig) -> tuple[Tensor, Tensor]:
    """The window [fft_size], from a frame's second sample on, and the mel filters [K, M], on the CPU.

    The filters are torchaudio's own, in the single precision in which it makes them: made in double
    precision, the smallest weights differ by 0.2 %.
    """
    with torch.device("cpu"):
        window_L = torch.hann_window(config.window, periodic=False, dtype=torch.float64)[1:]
        window_L = pad(window_L, (0, config.fft_size - len(window_L))).float()
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
