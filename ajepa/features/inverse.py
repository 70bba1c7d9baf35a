"""From a log-mel spectrogram back to a waveform: the mel filters inverted, phases by Griffin and Lim.

What is heard is an estimate: a mel band is spread over its frequencies, and phases are made up. Voices stay
intelligible at 128 bands and a hop of 10 ms; a pooled spectrogram gives only the outline.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import griffinlim, lfilter

from .logmel import PREEMPHASIS, LogMel

ITERATIONS = 64
LOUDEST = 15.0  # log energy of a band; a full-scale tone has about 10


def waveform_of(front_end: LogMel, spectrogram_BLC: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """An estimate of the waveforms [B, S] whose normalised log-mel this is, aligned with the originals.

    S is (L - 1) * hop + window, the samples that L frames cover.

    Args:
        spectrogram_BLC: as `front_end` returns it.
        iterations: of Griffin and Lim's algorithm ("Signal estimation from modified short-time Fourier
            transform", 1984), here torchaudio's with momentum.
    """
    config = front_end.config
    log_BLC = spectrogram_BLC.double() * 2 * front_end.std + front_end.mean
    energy_BLC = log_BLC.clamp(max=LOUDEST).exp()
    # Least squares with the filters themselves; what they leave open, the norm keeps small.
    inverse_CH = torch.linalg.pinv(front_end.filters.double(), rcond=1e-3)
    power_BLH = (energy_BLC @ inverse_CH).clamp_min(0.0).float()
    # Torchaudio's sound runs from the centre of the first window to that of the last one. Repeated outer
    # frames let it cover what comes before and after.
    more = -(-(config.window // 2) // config.hop)
    power_BHL = functional.pad(power_BLH.transpose(1, 2), (more, more), mode="replicate")
    window_W = functional.pad(front_end.window, (1, 0))
    waveform_BS = griffinlim(
        power_BHL,
        window=window_W,
        n_fft=config.fft_size,
        hop_length=config.hop,
        win_length=config.window,
        power=2.0,
        n_iter=iterations,
        momentum=0.99,
        length=None,
        rand_init=False,
    )
    start = more * config.hop - config.window // 2
    samples = (spectrogram_BLC.shape[1] - 1) * config.hop + config.window
    waveform_BS = waveform_BS[:, start : start + samples]
    # The front end's pre-emphasis, undone.
    one, emphasis = waveform_BS.new_tensor([[1.0, 0.0], [1.0, -PREEMPHASIS]])
    waveform_BS = lfilter(waveform_BS, emphasis, one, clamp=False)
    return waveform_BS / waveform_BS.abs().amax(1, keepdim=True).clamp_min(1.0)
