"""The HEAR API (neuralaudio.ai/hear2021-holistic-evaluation-of-audio-representations.html, "Common API").

    python -m heareval.embeddings.runner ajepa.hear_module --model CHECKPOINT --tasks-dir TASKS

`--model` takes any source of `ajepa.load_model`: a checkpoint, a run's folder, or a recipe's name for the
random twin. A scene embedding is the mean over time of the concatenated frequency patches, F * D features of
about unit variance; for weights exported with `--pooling mean+std` their standard deviation follows.
Timestamp embeddings come every 50 ms, interpolated linearly between the centres of the encoder's time steps
(160 ms apart with patches of 16 frames).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ajepa.model import AudioEncoder
from ajepa.model.loading import load_model as load_encoder

TIMESTAMP_MS = 50.0  # the coarsest spacing that the validator accepts without a warning

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


class HearModel(nn.Module):
    """An `AudioEncoder` with the attributes that the HEAR API requires."""

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.sample_rate = encoder.sample_rate
        self.scene_embedding_size = encoder.clip_size
        self.timestamp_embedding_size = encoder.embedding_size


def load_model(model_file_path: str = "") -> HearModel:
    """Load a model; without a path, the default one.

    Raises:
        ajepa.model.loading.ModelError: the source cannot be read.
    """
    return HearModel(load_encoder(model_file_path or None))


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding for each clip.

    Args:
        audio: [n_sounds, samples], mono at `model.sample_rate`, within ±1, 1 sample to hours.

    Returns:
        [n_sounds, scene_embedding_size], float32, on the model's device.
    """
    return model.encoder(audio).clip.float()


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embeddings at 25, 75, 125, ... ms; a clip under 50 ms gets one, at its centre.

    Args:
        audio: as in `get_scene_embeddings`.

    Returns:
        Embeddings [n_sounds, n_timestamps, timestamp_embedding_size], float32, and their time stamps in
        milliseconds [n_sounds, n_timestamps], both on the model's device.
    """
    encoder = model.encoder
    frames_BTX = encoder(audio).frames.float()
    stamps = timestamps_ms(audio.shape[1], model.sample_rate).to(frames_BTX.device)
    place = ((stamps - patch_centre_ms(encoder)) / (1000 * encoder.hop_seconds)).clamp(
        0, frames_BTX.shape[1] - 1
    )
    before = place.floor().long()
    after = (before + 1).clamp_max(frames_BTX.shape[1] - 1)
    embeddings = torch.lerp(frames_BTX[:, before], frames_BTX[:, after], (place - before)[:, None])
    return embeddings, stamps.expand(len(audio), -1)


def timestamps_ms(samples: int, sample_rate: int) -> Tensor:
    """Centres of the clip's whole 50 ms intervals, or the centre of a shorter clip; float32."""
    duration = 1000 * samples / sample_rate
    count = int(duration // TIMESTAMP_MS)
    if count == 0:
        return torch.tensor([duration / 2])
    return (torch.arange(count) + 0.5) * TIMESTAMP_MS


def patch_centre_ms(encoder: AudioEncoder) -> float:
    """Centre of the first time patch: frames start every hop and last one window."""
    config = encoder.features.config
    frames = encoder.encoder.config.patch[0]
    return 1000 * ((frames - 1) / 2 * config.step_seconds + config.frame_seconds / 2)
