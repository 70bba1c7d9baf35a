"""A conditional diffusion model of spectrograms, in the manner of RCDM (arXiv 2112.09164).

diffusers' U-Net and schedulers. The condition, a pooled prediction, shifts and scales every residual block,
next to the time step. The picture is the crop's spectrogram at a low resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .predicted import VisualizeError

NOISE_STEPS = 1000
MULTIPLE = 4  # two halvings in the U-Net


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder.

    Args:
        frames, bands: of the picture, after pooling; the front end's are divided by the `pool` of each axis.
        pool: frames and mel bands that become one value.
        condition: D, width of the condition.
        channels: of the U-Net's three levels.
    """

    frames: int
    bands: int
    pool: tuple[int, int]
    condition: int
    channels: tuple[int, int, int] = (32, 64, 96)

    @classmethod
    def of(cls, frames: int, bands: int, condition: int, most: int = 32) -> DecoderConfig:
        """For crops of this size, pooled to at most `most` values along each axis."""
        pool = (-(-frames // most), -(-bands // most))
        return cls(frames // pool[0], bands // pool[1], pool, condition)


class Decoder(nn.Module):
    """From conditions [B, D] to pictures [B, frames, bands].

    Raises VisualizeError if diffusers is not installed.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        diffusers = _diffusers()
        down = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
        up = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
        self.unet: Any = diffusers.UNet2DModel(
            in_channels=1,
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

    def pooled(self, spectrogram_BLC: Tensor) -> Tensor:
        """A spectrogram at the picture's resolution."""
        frames, bands = self.config.frames, self.config.bands
        pool_frames, pool_bands = self.config.pool
        whole_BLC = spectrogram_BLC[:, : frames * pool_frames, : bands * pool_bands]
        return functional.avg_pool2d(whole_BLC[:, None], self.config.pool)[:, 0]

    def loss(self, picture_BXY: Tensor, condition_BD: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the noise at random time steps, scalar."""
        schedule = _diffusers().DDPMScheduler(NOISE_STEPS, beta_schedule="squaredcos_cap_v2")
        noise_BXY = torch.randn(picture_BXY.shape, generator=generator)
        step_B = torch.randint(NOISE_STEPS, (len(picture_BXY),), generator=generator)
        noisy_BXY = schedule.add_noise(picture_BXY, noise_BXY, step_B)
        return functional.mse_loss(self(noisy_BXY, step_B, condition_BD), noise_BXY)

    def forward(self, noisy_BXY: Tensor, step_B: Tensor, condition_BD: Tensor) -> Tensor:
        """The noise in a noisy picture."""
        _, frames, bands = noisy_BXY.shape
        padding = (0, -bands % MULTIPLE, 0, -frames % MULTIPLE)
        padded = functional.pad(noisy_BXY[:, None], padding)
        condition = self.condition(self.norm(condition_BD))
        found = self.unet(padded, step_B, class_labels=condition).sample
        return found[:, 0, :frames, :bands]

    @torch.no_grad()
    def sample(self, condition_BD: Tensor, generator: torch.Generator, steps: int = 50) -> Tensor:
        """Pictures by DDIM; one generator state gives every condition the same starting noise.

        Args:
            generator: its first draw is the noise of one picture, which all conditions share.
            steps: of DDIM.
        """
        shape = (1, self.config.frames, self.config.bands)
        picture_BXY = torch.randn(shape, generator=generator).repeat(len(condition_BD), 1, 1)
        schedule = _diffusers().DDIMScheduler(
            NOISE_STEPS, beta_schedule="squaredcos_cap_v2", clip_sample=False
        )
        schedule.set_timesteps(steps)
        for step in schedule.timesteps:
            noise_BXY = self(picture_BXY, step.expand(len(picture_BXY)), condition_BD)
            picture_BXY = schedule.step(noise_BXY, step, picture_BXY).prev_sample
        return picture_BXY


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise VisualizeError(
            "the decoder needs diffusers, which is not installed: pip install 'ajepa[viz]'"
        ) from error
    return diffusers
