"""Stretched crops: what happens to time and mel, and that both encoders see the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.predictor import PredictorConfig
from ajepa.objectives.a_jepa import AJEPA, AJEPAConfig
from ajepa.objectives.base import Share
from ajepa.objectives.stretching import StretchingConfig, stretched

FRAMES, MELS = 64, 32


def ramp(clips: int = 6) -> Tensor:
    """Values that name their place: frame + 100 band, [B, L, C]."""
    frame_L, band_C = torch.arange(FRAMES), torch.arange(MELS)
    return (frame_L[:, None] + 100.0 * band_C).expand(clips, FRAMES, MELS)


def view(config: StretchingConfig, spectrogram_BLC: Tensor, seed: int = 0) -> Tensor:
    clips = len(spectrogram_BLC)
    return stretched(config, spectrogram_BLC, torch.Generator().manual_seed(seed), Share(0, clips, clips))


def test_off_by_default_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    clips_BLC = ramp()
    assert stretched(StretchingConfig(), clips_BLC, generator, Share(0, 6, 6)) is clips_BLC
    assert torch.equal(generator.get_state(), state)


def test_time_alone_is_read_at_an_even_pace() -> None:
    """Each frame comes from a place one factor after the one before; the border is a mirror."""
    view_BLC = view(StretchingConfig(share=1.0, time=0.25, mel=0.0), ramp(32))
    frame_BL = view_BLC[:, :, 0]
    torch.testing.assert_close(
        view_BLC - frame_BL[..., None], ramp(32) - ramp(32)[:, :, :1], atol=2e-3, rtol=0
    )
    assert (frame_BL >= 0).all() and (frame_BL <= FRAMES - 1).all()
    pace_BL = frame_BL.diff(dim=1).abs()
    middle_B = pace_BL.median(1).values
    assert middle_B.min() < 0.85 and middle_B.max() > 1.15
    assert ((middle_B >= 0.75 - 1e-4) & (middle_B <= 1.25 + 1e-4)).all()
    slower = middle_B < 1  # a part of the clip: no border is reached
    torch.testing.assert_close(
        pace_BL[slower], middle_B[slower, None].expand_as(pace_BL[slower]), atol=1e-3, rtol=0
    )


def test_mel_alone_repeats_the_border_bands() -> None:
    view_BLC = view(StretchingConfig(share=1.0, time=0.0, mel=0.2), ramp(32))
    band_BC = (view_BLC[:, 0] / 100).double()
    assert (band_BC >= 0).all() and (band_BC <= MELS - 1).all()
    assert (band_BC.diff(dim=1) >= -1e-5).all()
    widest_B = band_BC.diff(dim=1).amax(1)
    assert widest_B.min() < 0.9 and widest_B.max() > 1.1
    assert ((widest_B >= 0.8 - 1e-4) & (widest_B <= 1.2 + 1e-4)).all()


def test_the_share_of_clips_is_kept() -> None:
    view_BLC = view(StretchingConfig(share=0.5), ramp(400))
    changed = (view_BLC != ramp(400)).flatten(1).any(1).float().mean()
    assert 0.4 < changed < 0.6


def test_a_step_does_not_depend_on_how_it_is_shared() -> None:
    config = StretchingConfig(share=0.7)
    whole_BLC = view(config, ramp(6))
    parts = [
        stretched(config, ramp(6)[first : first + 2], torch.Generator().manual_seed(0), Share(first, 2, 6))
        for first in (0, 2, 4)
    ]
    assert torch.equal(torch.cat(parts), whole_BLC)


def test_one_frame_is_left_as_it_is() -> None:
    clip_BLC = torch.randn(2, 1, MELS)
    torch.testing.assert_close(view(StretchingConfig(share=1.0, mel=0.0), clip_BLC), clip_BLC)


def test_both_encoders_see_the_stretched_clip() -> None:
    """The loss of stretched clips is that of the same clips, stretched before."""
    config = AJEPAConfig(predictor=PredictorConfig(kind="global", depth=1, width=32, heads=2))
    torch.manual_seed(0)
    plain = AJEPA(config, EncoderConfig(width=32, depth=2, heads=2, mels=MELS, patch=(8, 8)), 10)
    torch.manual_seed(0)
    stretching = StretchingConfig(share=1.0)
    both = AJEPA(
        replace(config, stretching=stretching),
        EncoderConfig(width=32, depth=2, heads=2, mels=MELS, patch=(8, 8)),
        10,
    )
    clips_BLC = torch.randn(4, FRAMES, MELS)
    loss = both(clips_BLC, 0, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    before_BLC = stretched(stretching, clips_BLC, generator, Share(0, 4, 4))
    torch.testing.assert_close(loss.value, plain(before_BLC, 0, generator).value)


@pytest.mark.parametrize(("key", "value"), [("share", 1.5), ("time", 0.7), ("mel", -0.1)])
def test_a_value_out_of_range_is_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"objective\.stretching\.{key} is {value}"):
        StretchingConfig(**{key: value})
