"""Corrupted views for the context encoder: denoising in latent space.

The context encoder gets a clip with noise, a room, a band limit, or another level; the target encoder and the
reconstruction get the clean clip. The predictor must then predict what does not depend on the recording
(M2D-X, arXiv 2404.06095, section 3.2; WavJEPA-Nat, arXiv 2509.23238). A-JEPA's own recipes leave this off.

Everything acts on the log-mel spectrogram, where a sum of sounds is a sum of powers and a linear filter adds
to the log: no waveform is changed, and a step takes hardly any longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ajepa.features import LogMelConfig
from ajepa.features.logmel import ENERGY_FLOOR

from .base import Share

NATS_PER_DB = torch.log(torch.tensor(10.0)).item() / 10
LARGEST_GAIN_DB = 40.0  # of an almost silent noise
BAND_SLOPE_DB = 6.0  # of a band limit, for each mel band beyond it
BAND_DEPTH_DB = 60.0
ROOM_FRAMES = 100  # length of a room's decay: 1 s at the usual hop of 10 ms
DRAWS = 14  # random numbers of a clip; one is spare, but another count would change the draws of earlier runs


@dataclass(frozen=True)
class CorruptionConfig:
    """Corruptions of the context encoder's clips. Draws from a range are uniform.

    Args:
        share: share of the clips that are corrupted; 0 leaves this off.
        noise: share of these with noise.
        snr_db: ratio of the clip's power to the noise's, over the whole crop.
        synthetic: share of stationary noises, with a random slope over frequency; the others are another clip
            of the micro-batch.
        room: share with reverberation: an exponential decay of each band's power.
        decay_seconds: time in which a room's sound falls by 60 dB.
        reverberant_db: power of the reverberation relative to the direct sound.
        band: share with a band limit: the bands above a place in the upper two thirds of the mel scale, and
            in half of the cases those of its lowest twelfth, fall by 6 dB a band down to -60 dB.
        level_db: the clip's level changes by up to this much in both directions.
    """

    share: float = 0.0
    noise: float = 1.0
    snr_db: tuple[float, float] = (-5.0, 20.0)
    synthetic: float = 0.25
    room: float = 0.0
    decay_seconds: tuple[float, float] = (0.2, 1.0)
    reverberant_db: tuple[float, float] = (-12.0, 3.0)
    band: float = 0.0
    level_db: float = 0.0

    @property
    def mixes_clips(self) -> bool:
        """Whether one clip can be another's noise."""
        return self.share > 0 and self.noise > 0 and self.synthetic < 1

    def __post_init__(self) -> None:
        for name in ("share", "noise", "synthetic", "room", "band"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.corruption.{name} is {getattr(self, name)}, must be in 0..1")
        for name in ("snr_db", "decay_seconds", "reverberant_db"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"objective.corruption.{name} is {low}, {high}: give the lower bound first")
        if self.decay_seconds[0] <= 0:
            raise ValueError(f"objective.corruption.decay_seconds is {self.decay_seconds}, must be above 0")
        if self.level_db < 0:
            raise ValueError(f"objective.corruption.level_db is {self.level_db}, must be at least 0")


class Corruption:
    """Draws and applies the corruptions of a configuration to normalised log-mel spectrograms."""

    def __init__(self, config: CorruptionConfig, front_end: LogMelConfig) -> None:
        self.config = config
        self.nats = 2 * front_end.std  # in one unit of the normalised spectrogram
        floor = torch.log(torch.tensor(ENERGY_FLOOR)).item()
        self.floor = (floor - front_end.mean) / self.nats
        self.hop_seconds = front_end.step_seconds

    def __call__(self, spectrogram_BLC: Tensor, generator: torch.Generator, share: Share) -> Tensor:
        """The context encoder's view of a batch.

        Args:
            spectrogram_BLC: normalised log-mel [B, L, C] of a share's clips.
            generator: source of all draws, on the spectrogram's device.
            share: which clips of the batch these are.

        Returns:
            [B, L, C], no value below that of digital silence.
        """
        config = self.config
        if config.share == 0:
            return spectrogram_BLC
        columns = iter(share.draw(DRAWS, generator)[:, :, None, None].unbind(1))  # each [B, 1, 1]

        def chosen(share: float) -> Tensor:
            return next(columns) < share

        def between(low: float, high: float) -> Tensor:
            return low + (high - low) * next(columns)

        corrupted = chosen(config.share)
        clean_BLC = nats_BLC = spectrogram_BLC.float() * self.nats
        if config.room:
            seconds, ratio = between(*config.decay_seconds), between(*config.reverberant_db)
            room_BLC = self._in_a_room(nats_BLC, seconds, ratio * NATS_PER_DB)
            nats_BLC = torch.where(chosen(config.room), room_BLC, nats_BLC)
        if config.noise:
            others = self._neighbours(clean_BLC, generator)
            made = self._stationary(nats_BLC.shape, between(-8.0, 2.0), between(0.0, 1.0), generator)
            noise_BLC = torch.where(chosen(config.synthetic), made, others)
            gain = _power(nats_BLC) - between(*config.snr_db) * NATS_PER_DB - _power(noise_BLC)
            noisy_BLC = _add_powers(nats_BLC, noise_BLC + gain.clamp_max(LARGEST_GAIN_DB * NATS_PER_DB))
            nats_BLC = torch.where(chosen(config.noise), noisy_BLC, nats_BLC)
        if config.band:
            limit = self._band_limit(nats_BLC.shape[2], between(1 / 3, 1.0), chosen(0.5))
            nats_BLC = torch.where(chosen(config.band), nats_BLC + limit, nats_BLC)
        if config.level_db:
            nats_BLC = nats_BLC + between(-config.level_db, config.level_db) * NATS_PER_DB
        view_BLC = (nats_BLC / self.nats).clamp_min(self.floor).to(spectrogram_BLC.dtype)
        return torch.where(corrupted, view_BLC, spectrogram_BLC)

    def _neighbours(self, nats_BLC: Tensor, generator: torch.Generator) -> Tensor:
        """For each clip another one of the micro-batch (itself in a micro-batch of one)."""
        clips = len(nats_BLC)
        # The same number for every share of the step; the order never maps a clip to itself.
        draw = torch.randint(2**30, (), generator=generator, device=nats_BLC.device)
        order = torch.arange(clips, device=nats_BLC.device) + 1 + draw % max(1, clips - 1)
        return nats_BLC[order % clips]

    def _stationary(
        self, shape: torch.Size, slope: Tensor, start: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Gaussian noise [B, L, C] whose power falls or rises by `slope` nats over the mel scale.

        One field is drawn for a step, and each clip starts at another place in it: a field for each clip
        would take minutes for a batch of hundreds.
        """
        _, frames, mels = shape
        field_LC = torch.rand(frames, mels, generator=generator, device=slope.device)
        # The power of Gaussian noise in one frequency bin has an exponential distribution.
        nats_LC = (-field_LC.clamp(1e-4, 1 - 1e-4).log()).log()
        place_BL = ((start * frames).long()[:, :, 0] + torch.arange(frames, device=slope.device)) % frames
        return nats_LC[place_BL] + slope * torch.linspace(0.0, 1.0, mels, device=slope.device)

    def _in_a_room(self, nats_BLC: Tensor, seconds: Tensor, ratio: Tensor) -> Tensor:
        """With an exponential decay of every band's power after the direct sound."""
        frames = min(ROOM_FRAMES, nats_BLC.shape[1])
        peak = nats_BLC.amax((1, 2), keepdim=True)
        power_BCL = (nats_BLC - peak).exp().transpose(1, 2)
        rate = -60 * NATS_PER_DB * self.hop_seconds / seconds  # nats a frame, [B, 1, 1]
        decay_B1K = (rate * torch.arange(frames, device=nats_BLC.device)).exp()
        kernel_B1K = ratio.exp() * decay_B1K / decay_B1K.sum(2, keepdim=True)
        kernel_B1K = torch.cat([kernel_B1K[..., :1] + 1.0, kernel_B1K[..., 1:]], 2).flip(2)
        # One kernel for each clip: its bands are the batch of a convolution whose groups are the clips.
        padded_CBL = functional.pad(power_BCL.transpose(0, 1), (frames - 1, 0))
        reverberant_CBL = functional.conv1d(padded_CBL, kernel_B1K, groups=len(nats_BLC))
        return reverberant_CBL.permute(1, 2, 0).clamp_min(1e-30).log() + peak

    def _band_limit(self, mels: int, top: Tensor, low_too: Tensor) -> Tensor:
        """Nats to add to each band [B, 1, C]."""
        band_C = torch.arange(mels, device=top.device)
        above = (band_C - top * mels).clamp_min(0)
        below = (mels / 12 - band_C).clamp_min(0) * low_too
        return -((above + below) * BAND_SLOPE_DB).clamp_max(BAND_DEPTH_DB) * NATS_PER_DB


def _add_powers(nats_BLC: Tensor, other_BLC: Tensor) -> Tensor:
    """`torch.logaddexp`, relative to each clip's peak: on a CPU three times as fast."""
    peak = torch.maximum(nats_BLC.amax((1, 2), keepdim=True), other_BLC.amax((1, 2), keepdim=True))
    power_BLC = (nats_BLC - peak).exp_().add_((other_BLC - peak).exp_())
    return power_BLC.clamp_min_(torch.finfo(power_BLC.dtype).tiny).log_().add_(peak)


def _power(nats_BLC: Tensor) -> Tensor:
    """Log of the mean power [B, 1, 1] over a crop."""
    return nats_BLC.logsumexp((1, 2), keepdim=True)
