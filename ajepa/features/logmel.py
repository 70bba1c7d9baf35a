"""Log-mel spectrograms: Kaldi's filter banks as Audio-MAE calls them, batched and on any device.

The reference is ``torchaudio.compliance.kaldi.fbank(wav - wav.mean(), htk_compat=True,
sample_frequency=16000, use_energy=False, window_type="hanning", num_mel_bins=128, dither=0.0,
frame_shift=10)``. Kaldi takes one frame at a time: subtract the frame's mean, apply pre-emphasis
``x[n] - 0.97 x[n-1]``, multiply by the window, transform, sum the power in triangular mel filters, floor
and take the log.

Single precision leaves an error of about 1e-7 of a frame's amplitude in every frequency bin; the log shows
it in bands more than 60 dB below the level of their frame. There torchaudio differs from double precision by
1e-3 to 1e-2, and any other order of the same steps differs elsewhere, by up to 0.2 next to a full-scale tone.
Weights trained on the reference need its numbers, so the steps keep its order here. The work around them is
reduced: constants are made once, the batch is computed in parts in memory that stays in the caches, and the
filter matrix is multiplied in diagonal blocks, since a mel filter spans few frequency bins. LogMel agrees
with torchaudio to 1e-6 on the CPU, if both use the same number of threads. With TF32 matrix products on a GPU
the sum over a mel filter is rounded to 11 bits, which changes the log by less than 1e-3.

Axes: B clips, S samples, L frames, R frames of all clips, W samples of a frame, H frequency bins, C mel
bands.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.functional import pad
from torchaudio.compliance.kaldi import get_mel_banks

from .config import LogMelConfig

PREEMPHASIS = 0.97
# Kaldi's floor on a mel energy: the spacing of single-precision numbers at 1.
ENERGY_FLOOR = torch.finfo(torch.float32).eps

# The working set of 512 frames, about 5 MB, stays in a processor's caches; other devices want large steps.
FRAMES_PER_STEP_CPU = 512
FRAMES_PER_STEP = 32 * 1024
MEL_BLOCKS = 8


class LogMel(nn.Module):
    """Waveform [B, S] at ``config.sample_rate``, in -1..1, to a normalised log-mel spectrogram [B, L, C].

    The normalisation is Audio-MAE's, ``(log_mel - mean) / (2 std)``. Its two numbers are saved with the
    weights; window and filters are made again from the config. All numbers stay in float32, whatever the
    input, the autocast region, or a call of ``.half()`` on an enclosing model.

    ``silence`` is the value of a frame of digital silence.
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
        window_W, filters_HC = _constants(self.config)
        self.register_buffer("window", window_W, persistent=False)
        self.register_buffer("filters", filters_HC, persistent=False)
        self.blocks = _diagonal_blocks(filters_HC)
        self._update_silence()

    def forward(self, waveform_BS: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the normalised spectrogram [B, L, C], float32; L is ``config.frames(S)``.

        Audio shorter than one window is zero-padded to one. Frame l depends on the samples from l·hop up to
        l·hop + window, and except for rounding on no others. (NaN or infinity spreads to the whole clip.)

        ``lengths`` [B] are the samples of clips that are followed by zeros: each clip then has the mean and
        the frames that it has alone.

        Raises ValueError if the waveform is not [B, S] with S >= 1, or not floating point.
        """
        return self._spectrogram(waveform_BS, lengths, normalise=True)

    def fbank(self, waveform_BS: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return natural-log mel energies [B, L, C], not normalised. Otherwise as ``forward``."""
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
            return self._log_mel(waveform_BS, offset_B1, normalise, _no_room)
        step = FRAMES_PER_STEP_CPU if waveform_BS.device.type == "cpu" else FRAMES_PER_STEP
        shape = (clips, frames, self.config.mels)
        room = _Room(waveform_BS.device) if clips * frames > step else _no_room
        out_BLC = torch.empty(shape, dtype=torch.float32, device=waveform_BS.device)
        for some, first, last in _steps(clips, frames, step):
            piece_BS = waveform_BS[some, first * hop : (last - 1) * hop + window]
            out_BLC[some, first:last] = self._log_mel(piece_BS, offset_B1[some], normalise, room)
        return out_BLC

    def _log_mel(self, waveform_BS: Tensor, offset_B1: Tensor, normalise: bool, room: "_Place") -> Tensor:
        """All frames of a waveform [B, S >= window] at once; ``room`` has memory for intermediate results."""
        centred_BS = waveform_BS.float() - offset_B1
        means_BL1 = centred_BS.unfold(1, self.config.window, self.config.hop).mean(2, keepdim=True)
        with torch.autocast(centred_BS.device.type, enabled=False):
            log_mel_RC = self._rows(centred_BS, means_BL1, normalise, room)
        return log_mel_RC.unflatten(0, means_BL1.shape[:2])

    def _rows(self, centred_BS: Tensor, means_BL1: Tensor, normalise: bool, room: "_Place") -> Tensor:
        config, window = self.config, self.config.window
        shape, rows = means_BL1.shape[:2], means_BL1.shape[0] * means_BL1.shape[1]
        frames_BLW = torch.sub(
            centred_BS.unfold(1, window, config.hop), means_BL1, out=room("frames", *shape, window)
        )
        # The window is zero at a frame's first sample, so the sample before it does not matter.
        earlier_BLW = torch.mul(frames_BLW[..., :-1], PREEMPHASIS, out=room("emphasised", *shape, window - 1))
        emphasised_BLW = torch.sub(
            frames_BLW[..., 1:], earlier_BLW, out=room("emphasised", *shape, window - 1)
        )
        padded_BLW = room("padded", *shape, config.fft_size)  # zero, and past the window it stays so
        if padded_BLW is None:
            padded_BLW = pad(emphasised_BLW * self.window, (1, config.fft_size - window))
        else:
            torch.mul(emphasised_BLW, self.window, out=padded_BLW[..., 1:window])
        squares_BLH2 = torch.view_as_real(torch.fft.rfft(padded_BLW)).square_()
        power_BLH = torch.add(
            squares_BLH2[..., 0], squares_BLH2[..., 1], out=room("power", *shape, config.fft_size // 2 + 1)
        )
        power_RH, mel_RC = power_BLH.flatten(0, 1), room("mel", rows, config.mels)
        if mel_RC is None:
            mel_RC = torch.cat([power_RH[:, h] @ self.filters[h, c] for h, c in self.blocks], dim=1)
        else:
            for h, c in self.blocks:
                torch.mm(power_RH[:, h], self.filters[h, c], out=mel_RC[:, c])
        log_mel_RC = mel_RC.clamp_min_(ENERGY_FLOOR).log_()
        return log_mel_RC.sub_(self.mean).div_(2 * self.std) if normalise else log_mel_RC

    def _update_silence(self) -> None:
        # A plain number: padding with it neither waits for a GPU nor breaks a compiled graph.
        if not self.mean.is_meta:
            self.silence = (math.log(ENERGY_FLOOR) - self.mean.item()) / (2 * self.std.item())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._update_silence()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LogMel":
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)
        # .half() is meant for the network; here the features would lose precision. And constants that are in
        # no checkpoint must not stay empty after a move from the meta device.
        device = self.mean.device
        if self.mean.dtype != torch.float32:
            self.mean, self.std = mean.to(device), std.to(device)
        self.window, self.filters = (constant.to(device) for constant in _constants(self.config))
        return self


# Memory of a name and shape for a step's result, or None if each result needs its own.
_Place = Callable[..., Tensor | None]


def _no_room(name: str, *shape: int) -> None:
    return None


class _Room:
    """Memory that the parts of a batch share, allocated for the first part, which is the largest."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.held = device, dict[str, Tensor]()

    def __call__(self, name: str, *shape: int) -> Tensor:
        if name not in self.held:
            make = torch.zeros if name == "padded" else torch.empty
            self.held[name] = make(math.prod(shape), dtype=torch.float32, device=self.device)
        return self.held[name][: math.prod(shape)].view(shape)


def _recorded(tensor: Tensor) -> bool:
    """Whether a gradient, a trace or a transformation must see each step on this tensor."""
    return (
        torch.compiler.is_compiling()
        or type(tensor) is not Tensor
        or (tensor.requires_grad and torch.is_grad_enabled())
        or torch.jit.is_tracing()
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or forward_ad.unpack_dual(tensor).tangent is not None
    )


def _steps(clips: int, frames: int, step: int) -> Iterator[tuple[slice, int, int]]:
    """Parts of a batch with about ``step`` frames each: some clips, and their frames from first to last.

    Each part is one block of memory in a spectrogram [clips, frames, C].
    """
    if frames >= step:
        for clip in range(clips):
            for first in range(0, frames, step):
                yield slice(clip, clip + 1), first, min(first + step, frames)
    else:
        together = step // frames
        for clip in range(0, clips, together):
            yield slice(clip, clip + together), 0, frames


def _means(waveform_BS: Tensor, lengths: Tensor | None, window: int) -> Tensor:
    """The means [B, 1] of clips, each with at least one window of samples.

    The mean of each frame is subtracted later, but next to a loud tone the last bit of the clip's mean still
    changes the log of the weakest bands by 0.04. So on a CPU this is the expression of the reference, with
    its order of summation.
    """
    clips, samples = waveform_BS.shape
    if waveform_BS.device.type == "cpu" and not torch.compiler.is_compiling():
        ends = [samples] * clips if lengths is None else lengths.clamp_min(window).tolist()
        means = [clip_S[:end].float().mean() for clip_S, end in zip(waveform_BS, ends, strict=True)]
        return torch.stack(means)[:, None]
    # A traced loop would fix the number of clips; this equals the loop on one thread. A GPU sums in another
    # order, and double precision keeps the zeros after a clip from changing the result.
    count = samples if lengths is None else lengths.clamp_min(window)[:, None]
    precision = torch.float64 if waveform_BS.device.type == "cuda" else torch.float32
    return (waveform_BS.float().sum(1, keepdim=True, dtype=precision) / count).float()


def _constants(config: LogMelConfig) -> tuple[Tensor, Tensor]:
    """The window from its second sample on [window - 1], and the mel filters [H, C], on the CPU.

    Both are torchaudio's, in its single precision: in double precision the smallest filter weights differ by
    0.2 %.
    """
    with torch.device("cpu"):
        window_W = torch.hann_window(config.window, periodic=False, dtype=torch.float32)[1:]
        filters_CH, _ = get_mel_banks(
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
        return window_W, pad(filters_CH, (0, 1)).T.float().contiguous()


def _diagonal_blocks(filters_HC: Tensor) -> list[tuple[slice, slice]]:
    """Groups of neighbouring filters: (the frequency bins that a group uses, its mel bands)."""
    mels = filters_HC.shape[1]
    size = -(-mels // MEL_BLOCKS)
    blocks = []
    for low in range(0, mels, size):
        bands = slice(low, min(low + size, mels))
        used = filters_HC[:, bands].any(dim=1).nonzero().flatten().tolist() or [0]
        blocks.append((slice(used[0], used[-1] + 1), bands))
    return blocks
