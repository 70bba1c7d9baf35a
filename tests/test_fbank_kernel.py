"""The compiled kernel beside what LogMel does with torch alone, and what it leaves to torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from ajepa import fbank_kernel, features
from ajepa.features import LogMel, LogMelConfig
from tests.kaldi_reference import SIGNALS, assert_true, noise

needs_kernel = pytest.mark.skipif(
    not fbank_kernel.available(), reason="ajepa._fbank is not built: install the package with a C compiler"
)


def by_torch(log_mel: LogMel, waveform_BS: Tensor, lengths: Tensor | None = None) -> Tensor:
    """What LogMel gives where the kernel is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fbank_kernel, "available", lambda: False)
        return log_mel(waveform_BS, lengths)


@pytest.mark.parametrize("name", SIGNALS)
def test_equals_kaldi_without_the_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fbank_kernel, "available", lambda: False)
    assert_true(SIGNALS[name], LogMel().fbank(SIGNALS[name][None])[0])


CONFIGS = [
    LogMelConfig(),
    LogMelConfig(sample_rate=32_000, mels=97, window_seconds=0.04, hop_seconds=0.015),
    LogMelConfig(sample_rate=8_000, mels=5, window_seconds=0.032, hop_seconds=0.04, high_hz=3800.0),
    LogMelConfig(sample_rate=16_000, mels=1000),  # most filters fall between two bins
]


@needs_kernel
@settings(max_examples=40, deadline=None)
@given(
    config=st.sampled_from(CONFIGS),
    clips=st.integers(1, 5),
    samples=st.integers(1, 30_000),
    step=st.integers(1, 200),
    seed=st.integers(0, 1000),
)
def test_kernel_equals_torch(config: LogMelConfig, clips: int, samples: int, step: int, seed: int) -> None:
    levels_B1 = torch.logspace(-6, 0, clips)[:, None]
    waveform_BS = noise(clips, samples, seed=seed, level=1.0) * levels_B1 + 0.2
    log_mel = LogMel(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "FRAMES_PER_STEP_CPU", step)
        difference = log_mel(waveform_BS) - by_torch(log_mel, waveform_BS)
    assert difference.abs().max() < 1e-6


@needs_kernel
@pytest.mark.parametrize("config", CONFIGS)
def test_kernel_frames_equal_torch_s_to_the_last_bit(config: LogMelConfig) -> None:
    waveform_BS = noise(3, 9000) * torch.logspace(-4, 1, 3)[:, None] + 0.3
    window_L = LogMel(config).window
    frames_BTL = waveform_BS.unfold(1, config.window, config.hop)
    means_BT1 = frames_BTL.mean(2, keepdim=True)
    rows_NL = fbank_kernel.cut_frames(waveform_BS, means_BT1, window_L, config.hop, config.fft_size)
    frames_BTL = frames_BTL - means_BT1
    expected_BTL = (frames_BTL[..., 1:] - 0.97 * frames_BTL[..., :-1]) * window_L
    expected_BTL = pad(expected_BTL, (1, config.fft_size - config.window))
    assert torch.equal(rows_NL, expected_BTL.flatten(0, 1))


@needs_kernel
def test_kernel_log_over_all_magnitudes() -> None:
    """One bin, one filter: the energies are the squares of what goes in, from the smallest normal number."""
    amplitude_N1 = torch.logspace(-18.9, 19, 20_001, dtype=torch.float64)[:, None].float()
    filters = fbank_kernel.group(torch.ones(1, 1))
    log_N1 = fbank_kernel.log_mel(amplitude_N1.to(torch.complex64), filters, floor=0.0)
    expected_N1 = (amplitude_N1 * amplitude_N1).double().log()
    # Half a unit in the last place, and what the polynomial adds.
    assert ((log_N1 - expected_N1).abs() < expected_N1.abs() * 2**-24 + 1.2e-7).all()


@needs_kernel
def test_kernel_passes_on_what_is_not_finite() -> None:
    spectrum_NK = torch.tensor([[1.0], [torch.inf], [torch.nan], [0.0]], dtype=torch.complex64)
    log_N1 = fbank_kernel.log_mel(spectrum_NK, fbank_kernel.group(torch.ones(1, 1)), floor=0.5)
    torch.testing.assert_close(
        log_N1[:, 0], torch.tensor([0.0, torch.inf, torch.nan, np.log(0.5)]).float(), equal_nan=True
    )
    broken_BS = noise(2, 5000)
    broken_BS[0, 100] = torch.nan
    log_mel = LogMel()
    spectrogram_BTM = log_mel(broken_BS)
    assert spectrogram_BTM[0, 0].isnan().all() and spectrogram_BTM[1].isfinite().all()
    assert torch.equal(spectrogram_BTM.isnan(), by_torch(log_mel, broken_BS).isnan())


@needs_kernel
@pytest.mark.parametrize(
    "waveform_BS",
    [
        noise(5000, 3).T,
        noise(3, 10_000)[:, ::2],
        noise(1, 5000).expand(3, -1),
        noise(3, 5000).double() + 1e-9,
        noise(3, 5000).half(),
        torch.view_as_complex(noise(3, 5000, 2)).conj().imag,  # negated only when read
    ],
    ids=["transposed", "every other sample", "expanded", "double", "half", "negated view"],
)
def test_kernel_takes_any_memory_layout(waveform_BS: Tensor) -> None:
    log_mel = LogMel()
    plain_BS = waveform_BS.float().resolve_neg().contiguous()
    assert (log_mel(waveform_BS) - by_torch(log_mel, plain_BS)).abs().max() < 1e-6


@needs_kernel
def test_kernel_writes_into_what_it_is_given() -> None:
    spectrum_NK, log_mel = torch.randn(5, 257).to(torch.complex64), LogMel()
    out_NM = torch.empty(9, 128)
    fbank_kernel.log_mel(spectrum_NK, log_mel.grouped_filters, 1e-7, out_NM=out_NM[2:7])
    assert torch.equal(out_NM[2:7], fbank_kernel.log_mel(spectrum_NK, log_mel.grouped_filters, 1e-7))
    for wrong_NM in (torch.empty(128, 5).T, torch.empty(4, 128)):
        with pytest.raises(ValueError, match="in one block"):
            fbank_kernel.log_mel(spectrum_NK, log_mel.grouped_filters, 1e-7, out_NM=wrong_NM)


@needs_kernel
@pytest.mark.filterwarnings("ignore")  # jit.trace is deprecated, not gone; vmap says where it is slow
def test_kernel_leaves_recorded_work_to_torch() -> None:
    log_mel, waveform_BS = LogMel(), noise(2, 3000)
    assert fbank_kernel.takes(waveform_BS)
    assert not fbank_kernel.takes(waveform_BS.clone().requires_grad_())
    with torch.no_grad():
        assert fbank_kernel.takes(waveform_BS.clone().requires_grad_())
    assert not fbank_kernel.takes(torch.empty(2, 3000, device="meta"))
    tangent_BTM = torch.func.jvp(log_mel, (waveform_BS,), (noise(2, 3000, seed=1),))[1]
    assert tangent_BTM.abs().max() > 0
    mapped_BTM = torch.func.vmap(lambda clip_S: log_mel(clip_S[None])[0])(waveform_BS)
    assert (mapped_BTM - log_mel(waveform_BS)).abs().max() < 1e-5
    traced = torch.jit.trace(log_mel, waveform_BS, check_trace=False)
    other_BS = noise(2, 3000, seed=2)
    assert (traced(other_BS) - log_mel(other_BS)).abs().max() < 1e-5


@needs_kernel
def test_kernel_refuses_what_it_would_misread() -> None:
    log_mel = LogMel()
    means_BT1, window_L = torch.zeros(1, 2, 1), log_mel.window
    with pytest.raises(ValueError, match="matching shapes"):
        fbank_kernel.cut_frames(torch.zeros(1, 559), means_BT1, window_L, 160, 512)
    with pytest.raises(ValueError, match="float32 on the CPU"):
        fbank_kernel.cut_frames(torch.zeros(1, 560).double(), means_BT1, window_L, 160, 512)
    with pytest.raises(ValueError, match="one FFT size"):
        fbank_kernel.log_mel(torch.zeros(3, 129, dtype=torch.complex64), log_mel.grouped_filters, 1e-7)
