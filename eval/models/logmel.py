"""The log-mel baseline as a HEAR module: how far the front end alone gets, with nothing learned.

    python -m heareval.embeddings.runner ajepa.eval.logmel --tasks-dir TASKS

Scene embeddings are the mean and the standard deviation over time of each of 128 log-mel bands, which any
encoder has to beat. Timestamp embeddings are the log-mel frames averaged over 50 ms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ajepa.features import LogMel, LogMelConfig
from ajepa.hear_module import TIMESTAMP_MS, timestamps_ms

__all__ = ["LogMelStatistics", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


class LogMelStatistics(nn.Module):
    """A front end with the attributes that the HEAR API expects."""

    def __init__(self, config: LogMelConfig | None = None) -> None:
        super().__init__()
        self.features = LogMel(config or LogMelConfig())
        self.sample_rate = self.features.config.sample_rate
        self.scene_embedding_size = 2 * self.features.config.mels
        self.timestamp_embedding_size = self.features.config.mels


def load_model(model_file_path: str = "") -> LogMelStatistics:
    """The baseline; it has no weights to load.

    Raises:
        ValueError: a path was given.
    """
    if model_file_path:
        raise ValueError(f"{model_file_path}: the log-mel baseline has no weights; leave the path out")
    return LogMelStatistics()


@torch.no_grad()
def get_scene_embeddings(audio: Tensor, model: LogMelStatistics) -> Tensor:
    """Mean and standard deviation over time: [n_sounds, samples] to [n_sounds, 2 * mels]."""
    frames_BLC = model.features(audio)
    return torch.cat([frames_BLC.mean(1), frames_BLC.std(1, correction=0)], dim=1)


@torch.no_grad()
def get_timestamp_embeddings(audio: Tensor, model: LogMelStatistics) -> tuple[Tensor, Tensor]:
    """Log-mel frames averaged over 50 ms: [n_sounds, n_timestamps, mels], and their times in milliseconds."""
    frames_BLC = model.features(audio)
    stamps = timestamps_ms(audio.shape[1], model.sample_rate).to(frames_BLC.device)
    config = model.features.config
    centres = 1000 * (torch.arange(frames_BLC.shape[1], device=stamps.device) * config.step_seconds)
    centres = centres + 500 * config.frame_seconds
    first = torch.searchsorted(centres, stamps - TIMESTAMP_MS / 2)
    count = torch.searchsorted(centres, stamps + TIMESTAMP_MS / 2, right=True) - first
    # Short or final stretches may contain no frame's centre: they take the nearest frame.
    midpoints = (centres[1:] + centres[:-1]) / 2
    first = torch.where(count > 0, first, torch.searchsorted(midpoints, stamps))
    count = count.clamp_min(1)
    place = torch.arange(int(count.max()), device=stamps.device)
    frames = (first[:, None] + place).clamp_max(frames_BLC.shape[1] - 1)
    weight = (place < count[:, None]) / count[:, None]
    embeddings = (frames_BLC[:, frames] * weight[..., None]).sum(2)
    return embeddings, stamps.expand(len(audio), -1)
