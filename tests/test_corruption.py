"""Corrupted views: what each corruption does to a spectrogram, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ajepa.features import LogMel, LogMelConfig
from ajepa.masking import MaskingConfig
from ajepa.nn.encoder import EncoderConfig
from ajepa.nn.predictor import PredictorConfig
from ajepa.objectives.a_jepa import AJEPA, AJEPAConfig
from ajepa.objectives.base import Share
from ajepa.objectives.corruption import Corruption, CorruptionConfig

RATE = 16_000
QUIET = CorruptionConfig(share=1.0, noise=0.0)


def waveforms(clips: int = 8, seconds: float = 2.0) -> Tensor:
    """Tones of different pitch that come and go, [B, samples]."""
    time_S = torch.arange(int(RATE * seconds)) / RATE
    pitch_B1 = 200.0 * 1.4 ** torch.arange(clips)[:, None]
    return 0.3 * torch.sin(2 * torch.pi * pitch_B1 * time_S) * (torch.sin(5 * time_S) > 0)


def view(
    config: CorruptionConfig, spectrogram_BLC: Tensor, seed: int = 0, share: Share | None = None
) -> Tensor:
    share = share or Share(0, len(spectrogram_BLC), len(spectrogram_BLC))
    return Corruption(config, LogMelConfig())(spectrogram_BLC, torch.Generator().manual_seed(seed), share)


def decibels(spectrogram_BLC: Tensor) -> Tensor:
    """Power over a crop in dB, [B]."""
    nats_BLC = spectrogram_BLC * 2 * LogMelConfig().std
    return nats_BLC.logsumexp((1, 2)) * 10 / torch.log(torch.tensor(10.0))


def test_off_by_default_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    spectrogram_BLC = LogMel()(waveforms())
    share = Share(0, 8, 8)
    assert (
        Corruption(CorruptionConfig(), LogMelConfig())(spectrogram_BLC, generator, share) is spectrogram_BLC
    )
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("synthetic", [0.0, 1.0])
@pytest.mark.parametrize("ratio", [-5.0, 5.0, 20.0])
def test_noise_is_added_at_the_ratio(ratio: float, synthetic: float) -> None:
    clean_BLC = LogMel()(waveforms())
    config = replace(QUIET, noise=1.0, snr_db=(ratio, ratio), synthetic=synthetic)
    noisy_BLC = view(config, clean_BLC)
    added_B = decibels(noisy_BLC) - decibels(clean_BLC)
    expected = 10 * torch.log10(torch.tensor(1 + 10 ** (-ratio / 10)))
    torch.testing.assert_close(added_B, expected.expand(8), atol=0.05, rtol=0)
    assert (noisy_BLC >= clean_BLC - 1e-5).all()


def test_a_mixture_is_the_mixture_of_waveforms() -> None:
    """Powers add up: tones of different bands, mixed here and as waveforms."""
    waveform_BS = waveforms(2)
    config = replace(QUIET, noise=1.0, snr_db=(0.0, 0.0), synthetic=0.0)
    front_end = LogMel()
    powers_B = decibels(front_end(waveform_BS))
    gain_B1 = 10 ** ((powers_B - powers_B.flip(0)) / 20)[:, None]
    expected_BLC = front_end(waveform_BS + gain_B1 * waveform_BS.flip(0))
    mixed_BLC = view(config, front_end(waveform_BS))
    loud = expected_BLC > expected_BLC.amax() - 1.0  # within 40 dB of the loudest
    assert (mixed_BLC - expected_BLC)[loud].abs().mean() < 0.05


def test_a_room_decays_at_its_rate() -> None:
    """Behind a click each band falls by 60 dB in the room's time."""
    waveform_BS = torch.zeros(2, RATE * 2)
    waveform_BS[:, RATE // 4] = 0.9
    config = replace(QUIET, room=1.0, decay_seconds=(0.5, 0.5), reverberant_db=(0.0, 0.0))
    nats_L = view(config, LogMel()(waveform_BS))[0].mean(1) * 2 * LogMelConfig().std
    fall_db = (nats_L[28] - nats_L[38]) * 10 / torch.log(torch.tensor(10.0))
    assert fall_db == pytest.approx(60 * 0.1 / 0.5, abs=0.3)


def test_a_room_leaves_what_precedes_a_sound() -> None:
    clean_BLC = LogMel()(waveforms())
    clean_BLC[:, :100] = LogMel().silence
    config = replace(QUIET, room=1.0)
    # Digital silence has a floor, whose own reverberation is at most as loud again.
    assert view(config, clean_BLC)[:, :100].max() < LogMel().silence + 0.15


def test_a_band_limit_lowers_high_bands_alone() -> None:
    clean_BLC = LogMel()(torch.randn(8, RATE, generator=torch.Generator().manual_seed(0)))
    change_BC = (view(replace(QUIET, band=1.0), clean_BLC) - clean_BLC).mean(1)
    assert (change_BC <= 1e-6).all()
    assert torch.equal(change_BC[:, 20:42].abs() < 1e-5, torch.ones(8, 22, dtype=torch.bool))
    assert (change_BC[:, -1] < -0.2).sum() >= 6  # but for limits close to the top


def test_levels_move_whole_clips() -> None:
    clean_BLC = LogMel()(waveforms()) + 1.0  # far from the floor
    change_BLC = view(replace(QUIET, level_db=12.0), clean_BLC) - clean_BLC
    change_B = change_BLC[:, 0, 60]
    loud = clean_BLC > LogMel().silence + 1.5
    assert (change_BLC - change_B[:, None, None])[loud].abs().max() < 1e-5
    assert change_B.unique().numel() == 8
    limit = 12 * torch.log(torch.tensor(10.0)) / 10 / (2 * LogMelConfig().std)
    assert change_B.abs().max() <= limit


def test_no_value_below_silence_and_all_finite() -> None:
    config = CorruptionConfig(share=1.0, room=1.0, band=1.0, level_db=12.0)
    silent_BLC = LogMel()(torch.zeros(4, RATE))
    for spectrogram_BLC in (silent_BLC, LogMel()(waveforms(4))):
        seen_BLC = view(config, spectrogram_BLC)
        assert seen_BLC.isfinite().all() and (seen_BLC >= LogMel().silence - 1e-6).all()


def test_share_of_clips() -> None:
    clean_BLC = LogMel()(waveforms(4)).repeat(64, 1, 1)
    changed = (view(CorruptionConfig(share=0.7), clean_BLC) != clean_BLC).any(2).any(1)
    assert 0.6 < changed.float().mean() < 0.8


def test_shares_draw_as_the_whole_batch() -> None:
    """Levels, rooms and bands of a clip are the same however the step is shared."""
    config = replace(QUIET, room=0.5, band=0.5, level_db=6.0, synthetic=1.0, noise=1.0)
    clean_BLC = LogMel()(waveforms())
    whole_BLC = view(config, clean_BLC)
    parts = [view(config, clean_BLC[first : first + 4], share=Share(first, 4, 8)) for first in (0, 4)]
    torch.testing.assert_close(torch.cat(parts), whole_BLC)


def test_only_the_context_encoder_sees_it() -> None:
    """Targets and reconstruction are those of the clean clip; the loss and its gradient change."""

    def objective(corruption: CorruptionConfig) -> AJEPA:
        torch.manual_seed(0)
        config = AJEPAConfig(
            masking=MaskingConfig(kind="random"),
            predictor=PredictorConfig(kind="global", depth=1, width=32, heads=2),
            reconstruction_weight=1.0,
            corruption=corruption,
        )
        return AJEPA(config, EncoderConfig(width=32, depth=1, heads=2), 10)

    clean_BLC = LogMel()(waveforms(4, 2.575))[:, :256]
    losses = [
        objective(corruption)(clean_BLC, 0, torch.Generator().manual_seed(1))
        for corruption in (CorruptionConfig(), CorruptionConfig(share=1.0))
    ]
    assert torch.equal(losses[0].features, losses[1].features)
    assert torch.equal(losses[0].metrics["target_std"], losses[1].metrics["target_std"])
    assert not torch.equal(losses[0].value, losses[1].value)


def test_couples_clips() -> None:
    assert not AJEPAConfig().couples_clips
    assert AJEPAConfig(corruption=CorruptionConfig(share=0.5)).couples_clips
    assert not AJEPAConfig(corruption=CorruptionConfig(share=0.5, synthetic=1.0)).couples_clips


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1.5}, r"objective\.corruption\.share is 1\.5"),
        ({"snr_db": (20.0, -5.0)}, "lower bound first"),
        ({"decay_seconds": (0.0, 1.0)}, "above 0"),
        ({"level_db": -1.0}, "at least 0"),
    ],
)
def test_refuses_what_makes_no_sense(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorruptionConfig(**values)
