"""A conditional diffusion model of spectrograms, after RCDM (arXiv 2112.09164).

The condition is a pooled prediction, the picture the crop's spectrogram at a low resolution. A small network
draws what the condition says, the mean of all pictures that fit it; a diffusion model (diffusers' U-Net and
schedulers) adds what it leaves open, as in "predict and refine" (arXiv 2112.02475). The U-Net sees the mean
as a second picture, and the condition shifts and scales its residual blocks, next to the time step.

It predicts the velocity (arXiv 2202.00512), not the noise: where a picture is nearly all noise, which is
where the condition matters, the noise can be read off the picture itself, and predicting it teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .predicted import VisualizeError

FORM = 2  # of the networks; files of another form cannot be read
NOISE_STEPS = 1000
REST = 0.6  # the deviation of a picture from its mean, where pictures have a deviation of 1
MULTIPLE = 4  # two halvings in the U-Net


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder.

    Args:
        frames, bands: of the picture, after pooling; the front end's are divided by the `pool` of each axis.
        pool: frames and mel bands that become one value.
        condition: D, width of the condition.
        channels: of the U-Net's three levels.
        hidden: width of the network that draws the mean.
        form: FORM.
    """

    frames: int
    bands: int
    pool: tuple[int, int]
    condition: int
    channels: tuple[int, int, int] = (16, 48, 96)
    hidden: int = 256
    form: int = FORM

    @classmethod
    def of(cls, frames: int, bands: int, condition: int, most: int = 32) -> DecoderConfig:
        """For crops of this size, pooled to at most `most` values along each axis."""
        pool = (-(-frames // most), -(-bands // most))
        return cls(frames // pool[0], bands // pool[1], pool, condition)

    @property
    def covered(self) -> tuple[int, int]:
        """Frames and mel bands of the spectrogram that are in the picture: whole cells alone."""
        return self.frames * self.pool[0], self.bands * self.pool[1]


class Decoder(nn.Module):
    """From conditions [B, D] to pictures [B, frames, bands].

    Attributes:
        centre_XY, spread: mean picture and deviation of the training audio.

    Raises:
        VisualizeError: diffusers is not installed.
    """

    centre_XY: Tensor
    spread: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        diffusers = _diffusers()
        down = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
        up = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
        self.unet: Any = diffusers.UNet2DModel(
            in_channels=2,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=config.channels,
            down_block_types=down,
            up_block_types=up,
            norm_num_groups=8,
            attention_head_dim=32,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )
        self.condition = nn.Linear(config.condition, 4 * config.channels[0])
        # The condition's own scale differs from run to run.
        self.norm = nn.LayerNorm(config.condition, elementwise_affine=False)
        self.mean = nn.Sequential(
            nn.Linear(config.condition, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.frames * config.bands),
        )
        self.register_buffer("centre_XY", torch.zeros(config.frames, config.bands))
        self.register_buffer("spread", torch.ones(()))

    def pooled(self, spectrogram_BLC: Tensor) -> Tensor:
        """A spectrogram at the picture's resolution."""
        frames, bands = self.config.covered
        return functional.avg_pool2d(spectrogram_BLC[:, None, :frames, :bands], self.config.pool)[:, 0]

    def expected(self, condition_BD: Tensor) -> Tensor:
        """The mean of all pictures that fit a condition: what it says, [B, frames, bands]."""
        return self._mean(self.norm(condition_BD)) * self.spread + self.centre_XY

    def _mean(self, normed_BD: Tensor) -> Tensor:
        return self.mean(normed_BD).unflatten(1, (self.config.frames, self.config.bands))

    def loss(self, picture_BXY: Tensor, condition_BD: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the mean, and of the velocity at random time steps, scalar."""
        schedule = _schedule("DDPMScheduler")
        normed_BD = self.norm(condition_BD)
        mean_BXY = self._mean(normed_BD)
        wanted_BXY = (picture_BXY - self.centre_XY) / self.spread
        rest_BXY = (wanted_BXY - mean_BXY.detach()) / REST
        noise_BXY = torch.randn(rest_BXY.shape, generator=generator)
        step_B = torch.randint(NOISE_STEPS, (len(rest_BXY),), generator=generator)
        noisy_BXY = schedule.add_noise(rest_BXY, noise_BXY, step_B)
        found_BXY = self._velocity(noisy_BXY, step_B, mean_BXY.detach(), normed_BD)
        velocity_BXY = schedule.get_velocity(rest_BXY, noise_BXY, step_B)
        return functional.mse_loss(mean_BXY, wanted_BXY) + functional.mse_loss(found_BXY, velocity_BXY)

    def _velocity(self, noisy_BXY: Tensor, step_B: Tensor, mean_BXY: Tensor, normed_BD: Tensor) -> Tensor:
        _, frames, bands = noisy_BXY.shape
        padding = (0, -bands % MULTIPLE, 0, -frames % MULTIPLE)
        pictures = functional.pad(torch.stack([noisy_BXY, mean_BXY], 1), padding)
        found = self.unet(pictures, step_B, class_labels=self.condition(normed_BD)).sample
        return found[:, 0, :frames, :bands]

    @torch.no_grad()
    def sample(self, condition_BD: Tensor, generator: torch.Generator, steps: int = 50) -> Tensor:
        """Pictures by DDIM; one generator state gives every condition the same starting noise.

        Args:
            generator: its first draw is the noise of one picture, which all conditions share.
            steps: of DDIM.
        """
        shape = (1, self.config.frames, self.config.bands)
        rest_BXY = torch.randn(shape, generator=generator).repeat(len(condition_BD), 1, 1)
        normed_BD = self.norm(condition_BD)
        mean_BXY = self._mean(normed_BD)
        schedule = _schedule("DDIMScheduler", clip_sample=False)
        schedule.set_timesteps(steps)
        for step in schedule.timesteps:
            velocity_BXY = self._velocity(rest_BXY, step.expand(len(rest_BXY)), mean_BXY, normed_BD)
            rest_BXY = schedule.step(velocity_BXY, step, rest_BXY).prev_sample
        return (mean_BXY + REST * rest_BXY) * self.spread + self.centre_XY


def _schedule(name: str, **options: Any) -> Any:
    make = getattr(_diffusers(), name)
    return make(NOISE_STEPS, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", **options)


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise VisualizeError(
            "the decoder needs diffusers, which is not installed: pip install 'ajepa[viz]'"
        ) from error
    return diffusers
