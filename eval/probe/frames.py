"""Frames of recordings, computed once and kept on disk next to the embeddings of clips.

Shape suffixes: R recordings, L frames of all recordings one after another, D features.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ajepa import caches, files
from ajepa.eval.digest import digest
from ajepa.eval.models.baselines import LogMelBaseline
from ajepa.eval.models.foreign import HearEncoder
from ajepa.eval.models.frames import FrameModel, VectorModel, frames_at
from ajepa.eval.models.open import Named
from ajepa.eval.tasks import Clip
from ajepa.model.embedding import LAST, join, parse_layers
from ajepa.model.fingerprint import fingerprint
from ajepa.model.precision import autocast

from .embeddings import SUFFIX, EmbeddingError, batches, cache_key, check_finite

FORMAT = 1
FINEST_SECONDS = 0.05  # frames that are closer are interpolated at this spacing, that of HEAR's timestamps


class RecordingFrames(NamedTuple):
    """Frames of recordings.

    Attributes:
        values_LD: float32; mapped from the file when it was read from disk.
        counts_R: frames of each recording.
        seconds_R: length of each recording.
        first_seconds, step_seconds: centre of a recording's first frame, and the spacing.
        weights: fingerprint of the model.
        seconds: how long the embedding took when it was computed, decoding included.
        cached: whether it was read from disk.
    """

    values_LD: Tensor
    counts_R: Tensor
    seconds_R: Tensor
    first_seconds: float
    step_seconds: float
    weights: str
    seconds: float
    cached: bool


def with_timed_frames(module: torch.nn.Module) -> FrameModel | None:
    """The model as one that gives frames at known times; None if it gives one vector a clip.

    `logmel` has its statistics for clips; its frames are log-mel bands every 50 ms.
    """
    if isinstance(module, LogMelBaseline):
        return HearEncoder("hear:ajepa.eval.logmel")
    if not isinstance(module, FrameModel) or isinstance(module, VectorModel):
        return None
    return module if isinstance(module, HearEncoder) or not module.one_vector else None


def embed_recordings(
    model: Named, recordings: tuple[Clip, ...], name: str, *, layer: str, pool: str, cache: str | Path
) -> RecordingFrames:
    """The frames of recordings in their order, read from the cache or computed and added to it.

    Args:
        name: for the progress bar.
        layer: "last" (the model's output), a block's number from 1, or several such as "2+4+6"; a model with
            one layer gives that one.
        pool: over frequency patches, "concat" or "mean".

    Raises:
        AudioError: a recording cannot be decoded.
        EmbeddingError: a frame is not finite, or the model has no such layer; then nothing is kept.
    """
    module = with_timed_frames(model.module)
    assert module is not None, "the protocol has asked whether it gives frames"
    weights = fingerprint(model.module)
    step, first = float(module.hop_seconds), float(module.first_seconds)
    if step < FINEST_SECONDS:
        step, first = FINEST_SECONDS, FINEST_SECONDS / 2
    folder = files.expanded(cache)
    key = digest([repr((FORMAT, cache_key(model, weights, recordings, None), layer, pool))], 32)
    path = folder / f"{key}-frames{SUFFIX}"
    found, cached = _read(path, len(recordings)), True
    if found is None:
        files.remove_leftovers(folder)
        started, cached = time.perf_counter(), False
        found = _compute(model, module, recordings, f"{model.name} on {name}", layer, pool, first, step)
        found["seconds"] = torch.tensor(time.perf_counter() - started)
        with files.in_place_of(path) as partial:
            save_file(found, partial)
        caches.make_room(folder, SUFFIX)
    return RecordingFrames(
        found["values_LD"],
        found["counts_R"],
        found["seconds_R"],
        first,
        step,
        weights,
        float(found["seconds"]),
        cached,
    )


def _read(path: Path, recordings: int) -> dict[str, Tensor] | None:
    """The tensors of a file; None where there is none, or a damaged one, which is set aside."""
    try:
        found = load_file(path)
        if len(found["counts_R"]) != recordings or int(found["counts_R"].sum()) != len(found["values_LD"]):
            raise ValueError(f"{len(found['counts_R'])} recordings, expected {recordings}")
        if not all(part.isfinite().all() for part in found["values_LD"].split(4096)):
            raise ValueError("values that are NaN or infinite")
        caches.used(path)
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, ValueError) as error:
        files.set_aside(path, error, "the recordings are embedded again")
        return None
    return found


def _compute(
    model: Named,
    module: FrameModel,
    recordings: tuple[Clip, ...],
    label: str,
    layer: str,
    pool: str,
    first: float,
    step: float,
) -> dict[str, Tensor]:
    rate, device = int(module.sample_rate), module.device
    least = round(module.least_seconds * rate)
    parts: dict[int, Tensor] = {}
    seconds_R = torch.zeros(len(recordings), dtype=torch.float64)
    with (
        closing(batches(recordings, rate, bool(module.ragged), least, None)) as decoded,
        tqdm(total=len(recordings), desc=label, unit="recording", disable=None) as bar,
        torch.no_grad(),
        autocast(model.precision, device),
    ):
        for rows, waveforms in decoded:
            lengths = [len(waveform) for waveform in waveforms]
            waveform_BS = pad_sequence(waveforms, batch_first=True).to(device)
            frames = module.frames(waveform_BS, lengths, layer != LAST)
            chosen_BTFD = _layer(frames.layers, layer, model.name).float().cpu()
            for row, own_TFD, steps, samples in zip(
                rows, chosen_BTFD, frames.lengths.tolist(), lengths, strict=True
            ):
                own_TFD = own_TFD[:steps]
                own_TD = own_TFD.flatten(1) if pool == "concat" else own_TFD.mean(1)
                if module.hop_seconds < step:
                    times = first + step * torch.arange(max(1, int(samples / rate / step + 1e-6)))
                    own_TD = frames_at(own_TD[None], times, module.first_seconds, module.hop_seconds)[0]
                check_finite(own_TD.numpy(), model, recordings[row])
                parts[row], seconds_R[row] = own_TD, samples / rate
            bar.update(len(rows))
    ordered = [parts.pop(row) for row in range(len(recordings))]
    counts_R = torch.tensor([len(part) for part in ordered])
    return {"values_LD": torch.cat(ordered), "counts_R": counts_R, "seconds_R": seconds_R}


def _layer(layers: tuple[Tensor, ...], layer: str, name: str) -> Tensor:
    if layer == LAST or len(layers) == 1:
        return layers[-1]
    try:
        numbers = parse_layers(layer, len(layers) - 1, "layer")
    except ValueError as error:
        raise EmbeddingError(f"{name}: {error}") from error
    return join(layers, numbers)
