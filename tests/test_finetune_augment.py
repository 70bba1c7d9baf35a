"""What fine-tuning does to its training clips."""

from __future__ import annotations

import torch

from ajepa.eval.finetune.augment import add_noise, mixup, spec_augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixup_mixes_clips_and_targets_alike() -> None:
    waveform_BS, lengths_B, target_BC = torch.eye(64), torch.full((64,), 64), torch.eye(64)
    mixed_BS, _, mixed_BC = mixup(waveform_BS, lengths_B, target_BC, 0.5, 10.0, generator())
    assert torch.equal(mixed_BS, mixed_BC)
    assert torch.allclose(mixed_BS.sum(1), torch.ones(64))
    changed = (mixed_BS != waveform_BS).any(1).float().mean()
    assert 0.3 < changed < 0.7
    own = mixed_BS.diagonal()[(mixed_BS != waveform_BS).any(1)]
    assert own.min() > 0.2 and own.max() < 0.8, "Beta(10, 10) lies about a half"
    assert torch.equal(mixup(waveform_BS, lengths_B, target_BC, 0.0, 10.0, generator())[0], waveform_BS)


def test_a_mixed_clip_is_as_long_as_the_longer_of_its_two() -> None:
    lengths_B = torch.arange(1, 65)
    waveform_BS = (torch.arange(64) < lengths_B[:, None]).float()
    _, mixed_lengths_B, share_BC = mixup(waveform_BS, lengths_B, torch.eye(64), 0.5, 10.0, generator())
    partners = share_BC > 0  # the clip itself, and the one that it was mixed with
    expected_B = torch.where(partners, lengths_B, 0).max(1).values
    assert torch.equal(mixed_lengths_B, expected_B)
    assert (mixed_lengths_B > lengths_B).any() and (partners.sum(1) == 1).any()


def test_mixup_with_clips_of_the_whole_set() -> None:
    """The others may be longer or shorter than the batch; a clip that is not mixed stays as it is."""
    waveform_BS, lengths_B, target_BC = torch.ones(64, 5), torch.full((64,), 5), torch.eye(64)
    for longest in (3, 8):
        others = 2 * torch.ones(64, longest), torch.full((64,), longest), torch.eye(64).flip(0)
        mixed_BS, mixed_lengths_B, share_BC = mixup(
            waveform_BS, lengths_B, target_BC, 0.5, 10.0, generator(), others
        )
        assert mixed_BS.shape == (64, max(5, longest))
        own_B = share_BC.diagonal()
        assert torch.allclose(mixed_BS[:, 0], own_B + 2 * (1 - own_B))
        assert torch.allclose(mixed_BS[:, 4], own_B + (2 * (1 - own_B) if longest == 8 else 0))
        assert torch.equal(mixed_lengths_B, torch.where(own_B < 1, max(5, longest), 5))


def test_spec_augment_hides_one_band_and_one_stretch() -> None:
    hidden = spec_augment(torch.ones(500, 40, 16), 4, 10, 0.0, generator()) == 0
    bands, frames = hidden.all(1), hidden.all(2)
    assert torch.equal(hidden, bands[:, None, :] | frames[:, :, None])
    assert sorted(set(bands.sum(1).tolist())) == list(range(5))
    assert sorted(set(frames.sum(1).tolist())) == list(range(11))
    for line in (bands, frames):
        starts = (line[:, 1:] & ~line[:, :-1]).sum(1) + line[:, 0]
        assert starts.max() == 1, "in one piece"
        assert line.any(0).all(), "anywhere"
    assert torch.equal(spec_augment(torch.ones(2, 3, 4), 0, 0, 0.0, generator()), torch.ones(2, 3, 4))


def test_noise_is_small_and_shifts() -> None:
    spectrogram = torch.zeros(8, 30, 4)
    spectrogram[:, 15] = 5.0
    noisy = add_noise(spectrogram, generator(1))
    peak = noisy.mean(2).argmax(1)
    assert len(set(peak.tolist())) == 1 and abs(int(peak[0]) - 15) <= 10
    assert (noisy - spectrogram.roll(int(peak[0]) - 15, 1)).min() >= 0 and noisy.max() < 5.1
