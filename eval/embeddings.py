"""Embeddings of a task's clips, computed once and kept on disk.

Clips are embedded at their native length, batched with clips of about the same length. A file of embeddings
is named by a hash of all that they depend on: the weights and settings of the model, each clip's file (path,
size, time of change) and stretch, layers, precision and the version of this package. It appears whole or not
at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ajepa import audio
from ajepa.data.threads import in_order
from ajepa.precision import autocast

from .hear import fingerprint
from .models import Named
from .tasks import Clip, Task

DEFAULT_CACHE = "~/.cache/ajepa/embeddings"
BATCH_SECONDS = 80.0  # of audio, padding included
MOST_CLIPS = 64


class Embedded(NamedTuple):
    """Embeddings of a task's clips.

    Attributes:
        values: [N, L, F, D] float32: clips, layers (the last one last), frequency patches, features.
        weights: fingerprint of the model.
        seconds: how long embedding took, decoding included, when it was done.
        cached: read from the disk.
    """

    values: Tensor
    weights: str
    seconds: float
    cached: bool

    def representations(self, layer: str, pool: str) -> dict[str, Callable[[], Tensor]]:
        """The representations that the choices allow, by name, as functions that give [N, features].

        Args:
            layer: "last", "best" (all of them) or a number from 1.
            pool: "concat" (frequency patches side by side), "mean" (averaged) or "best" (both).

        Raises:
            ValueError: no such layer or pooling.
        """
        _, layers, freq, _ = self.values.shape
        pools = ("concat", "mean") if pool == "best" else (pool,)
        if freq == 1:
            pools = ("concat",)
        if not set(pools) <= {"concat", "mean"}:
            raise ValueError(f"pool is {pool!r}; choose concat, mean or best")
        if layer in {"last", "best"}:
            chosen = range(layers) if layer == "best" else range(layers - 1, layers)
        elif layer.isdigit() and 1 <= int(layer) < layers:
            chosen = range(int(layer) - 1, int(layer))
        else:
            raise ValueError(f"layer is {layer!r}; choose last, best, each or 1 to {layers - 1}")
        return {
            f"{'last' if index == layers - 1 else index + 1}{'' if freq == 1 else ' ' + way}": self._pooled(
                index, way
            )
            for index in chosen
            for way in pools
        }

    def _pooled(self, layer: int, way: str) -> Callable[[], Tensor]:
        def features() -> Tensor:
            layer_NFD = self.values[:, layer]
            return layer_NFD.flatten(1) if way == "concat" else layer_NFD.mean(1)

        return features


def embed_task(
    model: Named,
    task: Task,
    *,
    all_layers: bool = False,
    cache: str | Path = DEFAULT_CACHE,
) -> Embedded:
    """The embeddings of the task's clips, from the cache or computed into it.

    Args:
        model: the model.
        task: its clips in its order.
        all_layers: all of them, not the last alone.
        cache: folder of the cache.

    Raises:
        AudioError: a clip cannot be decoded.
    """
    weights = fingerprint(model.module)
    folder = Path(cache).expanduser()
    path = folder / f"{_key(model, weights, task, all_layers)}.safetensors"
    if (found := _read(path, len(task.clips))) is not None:
        values, seconds = found
        return Embedded(values, weights, seconds, True)
    started = time.perf_counter()
    values = _compute(model, task, all_layers)
    seconds = time.perf_counter() - started
    folder.mkdir(parents=True, exist_ok=True)
    header = {"seconds": repr(seconds), "model": model.name, "source": model.source, "task": task.name}
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        save_file({"values": values}, partial, metadata=header)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # gone already if all went well
    return Embedded(values, weights, seconds, False)


def _key(model: Named, weights: str, task: Task, all_layers: bool) -> str:
    kind, rate = type(model.module).__name__, model.module.sample_rate
    parts = (version("ajepa"), kind, weights, rate, all_layers, model.precision)
    digest = hashlib.sha256(f"{parts}\n".encode())
    for clip in task.clips:
        status = clip.path.stat()
        entry = [str(clip.path.resolve()), status.st_size, status.st_mtime_ns, clip.start, clip.seconds]
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()[:32]


def _read(path: Path, clips: int) -> tuple[Tensor, float] | None:
    """None where there is no such file, or one that cannot be read: it is then written anew."""
    try:
        with safe_open(path, framework="pt") as file:
            values = file.get_tensor("values")
            seconds = float((file.metadata() or {}).get("seconds", "nan"))
    except (OSError, SafetensorError):
        return None
    return (values, seconds) if len(values) == clips else None


def _compute(model: Named, task: Task, all_layers: bool) -> Tensor:
    module = model.module
    rate = int(module.sample_rate)  # type: ignore[arg-type]
    device = next(chain(module.parameters(), module.buffers())).device
    values: Tensor | None = None
    with (
        closing(_batches(task.clips, rate, bool(module.ragged))) as batches,
        tqdm(total=len(task.clips), desc=f"{model.name} on {task.name}", unit="clip", disable=None) as bar,
        torch.no_grad(),
        autocast(model.precision, device),
    ):
        for rows, waveforms in batches:
            lengths = [len(waveform) for waveform in waveforms]
            waveform_BS = pad_sequence(waveforms, batch_first=True).to(device)
            part_BLFD = module(waveform_BS, lengths, all_layers).float().cpu()
            if values is None:
                values = part_BLFD.new_empty(len(task.clips), *part_BLFD.shape[1:])
            values[rows] = part_BLFD
            bar.update(len(rows))
    assert values is not None  # a task has clips
    return values


def _batches(
    clips: tuple[Clip, ...], rate: int, ragged: bool
) -> Generator[tuple[list[int], list[Tensor]], None, None]:
    """Clips by falling length, decoded in threads: (their places in the task, waveforms)."""
    seconds = [clip.seconds or audio.info(clip.path).seconds - clip.start for clip in clips]
    order = sorted(range(len(clips)), key=lambda index: -seconds[index])

    def decode(index: int) -> tuple[int, Tensor]:
        clip = clips[index]
        return index, audio.load(clip.path, start=clip.start, seconds=clip.seconds, sample_rate=rate)

    workers = min(4, os.cpu_count() or 1)
    rows: list[int] = []
    waveforms: list[Tensor] = []
    with closing(in_order(decode, order, workers)) as decoded:
        for index, waveform in decoded:
            padded = (len(rows) + 1) * (max(len(one) for one in waveforms) if waveforms else len(waveform))
            full = padded > BATCH_SECONDS * rate or len(rows) == MOST_CLIPS
            if rows and (full or (not ragged and len(waveform) != len(waveforms[0]))):
                yield rows, waveforms
                rows, waveforms = [], []
            rows.append(index)
            waveforms.append(waveform)
    yield rows, waveforms
