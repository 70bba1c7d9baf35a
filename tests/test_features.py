"""LogMel against torchaudio's Kaldi filter banks, called as Audio-MAE calls them.

The steps and their order are the same, so that even bands far below the level of their frame, which hold
little but rounding, agree.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch import Tensor
from torch.nn.functional import pad

from ajepa.features import LogMel, LogMelConfig
from ajepa.features import logmel as features
from ajepa.features.logmel import ENERGY_FLOOR
from tests.kaldi_reference import RATE, SIGNALS, assert_true, noise, reference


@pytest.fixture
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", SIGNALS)
def test_equals_kaldi(name: str) -> None:
    assert_true(SIGNALS[name], LogMel().fbank(SIGNALS[name][None])[0])


@pytest.mark.parametrize("level", [1.0, 0.1, 1e-2, 1e-3])
def test_equals_kaldi_on_tones(level: float) -> None:
    hz_B1 = torch.tensor([[25.0], [60], [220], [1000], [1234.5], [3000], [5000], [7000], [7990]]).double()
    tones_BS = (level * torch.sin(2 * torch.pi * hz_B1 * torch.arange(RATE) / RATE)).float()
    for tone_S, log_mel_TM in zip(tones_BS, LogMel().fbank(tones_BS), strict=True):
        assert_true(tone_S, log_mel_TM)


def test_equals_kaldi_on_recordings(shared: Path) -> None:
    paths = [
        *sorted(shared.glob("data/esc50/audio/*.ogg"))[::40],
        *sorted(shared.glob("data/speech_commands_v0.02/*/*.wav"))[::150],
    ]
    if not paths:
        pytest.skip(f"no recordings under {shared / 'data'}; set AJEPA_SHARED to the folder that holds data/")
    log_mel = LogMel()
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform_S = torch.from_numpy(soxr.resample(samples.mean(1), rate, RATE))
        log_mel_TM = log_mel.fbank(waveform_S[None])[0]
        assert_true(waveform_S, log_mel_TM)


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(1, 4000), seed=st.integers(0, 1000))
def test_any_length(samples: int, seed: int) -> None:
    waveform_S = noise(samples, seed=seed)
    padded_S = pad(waveform_S, (0, max(0, 400 - samples)))
    log_mel = LogMel()
    log_mel_TM = log_mel.fbank(waveform_S[None])[0]
    frames = log_mel.config.frames
    assert len(log_mel_TM) == frames(samples) == frames(torch.tensor([samples])).item()
    assert_true(padded_S, log_mel_TM)


def test_frames() -> None:
    frames = LogMelConfig().frames
    lengths = [0, 1, 399, 400, 559, 560, 160_000, 57_600_000]
    expected = [1, 1, 1, 1, 1, 2, 998, 359_998]
    assert [frames(length) for length in lengths] == expected
    assert frames(torch.tensor(lengths)).tolist() == expected


@pytest.mark.parametrize(
    "config",
    [
        LogMelConfig(sample_rate=32_000, mels=96, window_seconds=0.04, hop_seconds=0.015),
        LogMelConfig(sample_rate=22_050, mels=64, low_hz=50.0, high_hz=-500.0),
        LogMelConfig(sample_rate=8_000, mels=23, window_seconds=0.032, hop_seconds=0.04, high_hz=3800.0),
    ],
    ids=["32 kHz", "22.05 kHz", "window of a power of two, gaps between frames"],
)
def test_other_settings(config: LogMelConfig) -> None:
    waveform_S = noise(config.sample_rate + 17)
    truth_TM = reference(waveform_S.double(), config)
    log_mel_TM = LogMel(config).fbank(waveform_S[None])[0]
    assert log_mel_TM.shape == truth_TM.shape
    assert (log_mel_TM - truth_TM).abs().max() < 1e-3


def test_normalisation_is_audio_mae_s() -> None:
    waveform_BS = noise(2, RATE)
    log_mel = LogMel(LogMelConfig(mean=-6.6268077, std=5.358466))
    expected = (log_mel.fbank(waveform_BS) + 6.6268077) / (2 * 5.358466)
    torch.testing.assert_close(log_mel(waveform_BS), expected)


def test_silence_is_the_value_of_a_silent_frame() -> None:
    log_mel = LogMel()
    spectrogram = log_mel(torch.zeros(1, RATE))
    assert (spectrogram - log_mel.silence).abs().max() < 1e-6
    assert log_mel.silence == pytest.approx((np.log(ENERGY_FLOOR) + 4.2677393) / (2 * 4.5689974), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_padding_and_company_change_nothing(lengths: list[int], seed: int) -> None:
    clips = [noise(length, seed=seed + i, level=0.3) + 0.1 * i for i, length in enumerate(lengths)]
    batch_BS = torch.zeros(len(clips), max(lengths) + 700)
    for row_S, clip_S in zip(batch_BS, clips, strict=True):
        row_S[: len(clip_S)] = clip_S
    log_mel = LogMel()
    for together_TM, clip_S in zip(log_mel(batch_BS, torch.tensor(lengths)), clips, strict=True):
        alone_TM = log_mel(clip_S[None])[0]
        assert (together_TM[: len(alone_TM)] - alone_TM).abs().max() < 1e-5


def test_steps_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    waveform_BS = noise(3, RATE) + 0.2
    whole = LogMel()(waveform_BS)
    monkeypatch.setattr(features, "FRAMES_PER_STEP_CPU", 21)
    assert (LogMel()(waveform_BS) - whole).abs().max() < 1e-6


def test_gradient_is_that_of_kaldi() -> None:
    waveform_S = noise(3000).requires_grad_()
    weights_TM = noise(17, 128, seed=1)
    (LogMel().fbank(waveform_S[None])[0] * weights_TM).sum().backward()
    double_S = waveform_S.detach().double().requires_grad_()
    (reference(double_S) * weights_TM).sum().backward()
    assert waveform_S.grad is not None and double_S.grad is not None
    error = (waveform_S.grad - double_S.grad).norm() / double_S.grad.norm()
    assert error < 1e-3


def test_gradient_does_not_depend_on_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch too long for one step still reaches every sample."""
    monkeypatch.setattr(features, "FRAMES_PER_STEP_CPU", 10)
    waveform_BS = noise(2, 8000).requires_grad_()
    LogMel()(waveform_BS).sum().backward()
    assert waveform_BS.grad is not None and (waveform_BS.grad[:, 200:7800] != 0).float().mean() > 0.99


def test_gradient_on_silence_is_finite() -> None:
    silence_BS = torch.zeros(1, 2000, requires_grad=True)
    LogMel()(silence_BS).sum().backward()
    assert silence_BS.grad is not None and silence_BS.grad.isfinite().all()


def test_autocast_changes_nothing() -> None:
    waveform_BS = noise(2, RATE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = LogMel()(waveform_BS)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, LogMel()(waveform_BS))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_input_precision(dtype: torch.dtype) -> None:
    waveform_BS = noise(1, RATE).to(dtype)
    assert torch.equal(LogMel()(waveform_BS), LogMel()(waveform_BS.float()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_casting_the_model_keeps_the_constants(dtype: torch.dtype) -> None:
    model = torch.nn.Sequential(LogMel()).to(dtype)
    assert torch.equal(model(noise(1, RATE)), LogMel()(noise(1, RATE)))


def test_what_is_saved() -> None:
    source, target = LogMel(LogMelConfig(mean=-6.0, std=5.0)), LogMel()
    assert {name: value.item() for name, value in source.state_dict().items()} == {"mean": -6.0, "std": 5.0}
    target.load_state_dict(source.state_dict())
    assert target.silence == source.silence != LogMel().silence
    assert torch.equal(target(noise(1, 5000)), source(noise(1, 5000)))


def test_from_the_meta_device() -> None:
    source = LogMel()
    with torch.device("meta"):
        target = LogMel().to("meta").to_empty(device="cpu")
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(noise(1, 5000)), source(noise(1, 5000)))


def test_traces_as_one_graph(one_thread: None) -> None:
    log_mel = LogMel()
    compiled = torch.compile(log_mel, backend="eager", fullgraph=True, dynamic=True)
    for samples in (200_000, 4000, 300):
        waveform_BS = noise(2, samples)
        assert (compiled(waveform_BS) - log_mel(waveform_BS)).abs().max() < 1e-6


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.9"), reason="torch 2.8 finds constraints on the length"
)
def test_exports_with_any_length(one_thread: None) -> None:
    log_mel = LogMel()
    shapes = {"waveform_BS": {0: torch.export.Dim("clips"), 1: torch.export.Dim("samples", min=800)}}
    program = torch.export.export(log_mel, (noise(2, 4000),), dynamic_shapes=shapes).module()
    waveform_BS = noise(3, 23_456)
    assert (program(waveform_BS) - log_mel(waveform_BS)).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(RATE,), (1, 1, RATE), (0, RATE), (1, 0)])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \[clips, samples\]"):
        LogMel()(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.complex64])
def test_wrong_dtype(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="give floating-point samples"):
        LogMel()(torch.zeros(1, RATE, dtype=dtype))


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ({"sample_rate": 0}, "give 1 to 1000000 Hz"),
        ({"mels": 3}, "needs 4 to 1024 bands"),
        ({"window_seconds": 1e-4}, "at least 4 samples"),
        ({"hop_seconds": 1e-5}, "lengthen it"),
        ({"low_hz": 9000.0}, "change low_hz"),
        ({"high_hz": 8001.0}, "change low_hz"),
        ({"std": 0.0}, "give a positive number"),
        ({"mels": 10**9}, "needs 4 to 1024 bands"),
        ({"window_seconds": 1e9}, "at most 65536 samples"),
        ({"hop_seconds": float("inf")}, "finite number"),
    ],
)
def test_settings_that_cannot_work(setting: dict, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        LogMelConfig(**setting)


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
def test_any_memory_layout(waveform_BS: Tensor) -> None:
    plain_BS = waveform_BS.float().resolve_neg().contiguous()
    assert (LogMel()(waveform_BS) - LogMel()(plain_BS)).abs().max() < 1e-6


@pytest.mark.filterwarnings("ignore")  # jit.trace is deprecated, not gone; vmap warns where it is slow
def test_transformations_see_every_step() -> None:
    log_mel, waveform_BS = LogMel(), noise(2, 3000)
    tangent_BTM = torch.func.jvp(log_mel, (waveform_BS,), (noise(2, 3000, seed=1),))[1]
    assert tangent_BTM.abs().max() > 0
    mapped_BTM = torch.func.vmap(lambda clip_S: log_mel(clip_S[None])[0])(waveform_BS)
    assert (mapped_BTM - log_mel(waveform_BS)).abs().max() < 1e-5
    traced = torch.jit.trace(log_mel, waveform_BS, check_trace=False)
    other_BS = noise(2, 3000, seed=2)
    assert (traced(other_BS) - log_mel(other_BS)).abs().max() < 1e-5
