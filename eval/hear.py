"""The HEAR API for any encoder that `ajepa evaluate` takes.

    echo transformers:FOLDER > mine.source
    python -m heareval.embeddings.runner ajepa.eval.hear --model mine.source --tasks-dir TASKS

heareval takes only a file that exists as --model, so the text that names the encoder is in one.

A scene embedding is the mean over time of the last layer's frames, with the frequency patches of a time step
side by side; an encoder or baseline with its own vector a clip gives that. Timestamp embeddings come every
50 ms, interpolated between the encoder's frames.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ajepa.hear_module import timestamps_ms

from .models.frames import FrameModel, frames_at
from .models.open import open_frames

SUFFIX = ".source"

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


class HearModel(nn.Module):
    """An encoder with the attributes that the HEAR API requires."""

    def __init__(self, model: FrameModel) -> None:
        super().__init__()
        self.model = model
        self.sample_rate = model.sample_rate
        clip_BS = torch.zeros(1, self.sample_rate, device=model.device)
        self.scene_embedding_size = get_scene_embeddings(clip_BS, self).shape[-1]
        self.timestamp_embedding_size = get_timestamp_embeddings(clip_BS, self)[0].shape[-1]


def load_model(model_file_path: str = "") -> HearModel:
    """Load the encoder that a text names; without one, the one that comes with the package.

    Args:
        model_file_path: the text, or a file whose name ends in `.source` and which holds it.

    Raises:
        AjepaError: as `ajepa.eval.models.open.open_source`.
    """
    source = str(model_file_path) or "default"
    if source.endswith(SUFFIX):
        source = Path(source).read_text().strip()
    return HearModel(open_frames(source))


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding for each clip, [n_sounds, scene_embedding_size], float32.

    Args:
        audio: [n_sounds, samples], mono at `model.sample_rate`, within ±1.
    """
    audio_BS = audio.to(model.model.device)
    statistics_BLXFD = model.model(audio_BS, [audio_BS.shape[1]] * len(audio_BS), False)
    return statistics_BLXFD[:, -1, 0].flatten(1).float()


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embeddings at 25, 75, 125, ... ms, and these times; a clip under 50 ms gets one, at its centre.

    Returns:
        [n_sounds, n_timestamps, timestamp_embedding_size], float32, and [n_sounds, n_timestamps].
    """
    encoder = model.model
    audio_BS = audio.to(encoder.device)
    frames_BTFD = encoder.frames(audio_BS, [audio_BS.shape[1]] * len(audio_BS), False).layers[-1]
    stamps_K = timestamps_ms(audio.shape[1], model.sample_rate).to(frames_BTFD.device)
    embeddings_BKX = frames_at(
        frames_BTFD.flatten(2).float(), stamps_K / 1000, encoder.first_seconds, encoder.hop_seconds
    )
    return embeddings_BKX, stamps_K.expand(len(audio), -1)
