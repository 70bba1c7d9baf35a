"""Embeddings of a task's clips, computed once and kept on disk.

Clips are embedded at their native length, in batches of clips of about the same length. An embedding file
is named by a hash of everything that it depends on: the weights and settings of the model, each clip's file
(path, size, modification time) and stretch, layers, precision and the version of this package. A file appears
complete or not at all; those longest unused make room for others (`ajepa cache`).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ajepa import audio, caches, files
from ajepa.data.threads import in_order
from ajepa.errors import AjepaError
from ajepa.eval.digest import digest
from ajepa.eval.models.frames import FrameModel, device_of
from ajepa.eval.models.open import Named
from ajepa.eval.robustness.corruptions import Corruption
from ajepa.eval.tasks import Clip, Task
from ajepa.eval.tasks.reading import clip_seconds, own_rate, read_clip
from ajepa.memory import keep_freed_memory
from ajepa.model.embedding import LAST, parse_layers
from ajepa.model.fingerprint import fingerprint
from ajepa.model.precision import autocast

FORMAT = 2  # of the files; format 1 had no axis for statistics
SUFFIX = ".safetensors"
BATCH_SECONDS = 80.0  # of audio, including padding
MOST_CLIPS = 64
CHOSEN = ("best", "each", "weighted")  # layers that validation or the probe weighs
POOLS = ("concat", "mean")
TIMES = ("mean", "mean+std")


class EmbeddingError(AjepaError, ValueError):
    """A model's embeddings cannot be used; the message names the model and the clip."""


def check_layer(layer: object, layers: int | None = None) -> tuple[int, ...]:
    """The numbers of the blocks that a layer names; none for "last" and for those of `CHOSEN`.

    Args:
        layers: how many the model has, its output included; None if that is not known yet. A model with one
            layer gives that one for any number.

    Raises:
        ValueError: there is no such layer.
    """
    if layer in (LAST, *CHOSEN):
        return ()
    blocks = layers - 1 if layers and layers > 1 else None
    try:
        return parse_layers(str(layer), blocks, "layer")
    except ValueError:
        most = "a block's number from 1" if blocks is None else f"1 to {blocks}"
        several = "1+2" if blocks is None or blocks > 1 else "1"
        known = f"{LAST}, {', '.join(CHOSEN)}, {most}, or several such as {several}"
        raise ValueError(f"layer is {layer!r}; choose {known}") from None


class Embedded(NamedTuple):
    """Embeddings of a task's clips.

    Attributes:
        values: [N, L, X, F, D] float32: clips, layers (last layer last), statistics over time, frequency
            patches, features. Mapped from the file: only the parts in use are read.
        weights: fingerprint of the model.
        seconds: how long the embedding took when it was computed, decoding included.
        cached: whether it was read from disk.
        output: the blocks that the model's output joins, such as "2+4+6"; "last" for the last layer alone.
    """

    values: Tensor
    weights: str
    seconds: float
    cached: bool
    output: str = LAST

    def representations(self, layer: str, pool: str, time: str = "mean") -> dict[str, Callable[[], Tensor]]:
        """The representations that the choices allow, by name, as functions that return [N, features].

        Args:
            layer: "last" (the model's output), "best" (each of the blocks and the output), a block's number
                from 1, several joined such as "2+4+6", or "weighted": all layers in one, [N, L, features].
                A model with one layer, such as a baseline, always gives that layer.
            pool: over frequency patches: "concat" (joined), "mean" (averaged) or "best" (both).
            time: "mean", "mean+std" or "best" (both). A baseline's own statistics are always kept.

        Raises:
            ValueError: there is no such layer.
        """
        _, layers, statistics, freq, _ = self.values.shape
        pools = (POOLS if pool == "best" else (pool,))[: None if freq > 1 else 1]
        times = (TIMES if time == "best" else (time,))[: None if statistics > 1 else 1]
        numbers = check_layer(layer, layers)
        chosen: dict[str, int | slice | list[int]] = {}
        if layer == "weighted":
            chosen["weighted"] = slice(None)
        elif numbers and layers > 1:
            chosen[layer] = _places(numbers)
        else:
            if layer == "best":
                chosen.update({str(index + 1): index for index in range(layers - 1)})
            joined = parse_layers(self.output, None) if layers > 1 else ()
            chosen[LAST] = _places(joined) if joined else layers - 1
        found = {}
        for name, index in chosen.items():
            for way in pools:
                for over in times:
                    parts = [name, *([way] if freq > 1 else []), *([over] if statistics > 1 else [])]
                    found[" ".join(parts)] = self._pooled(index, way, over)
        return found

    def _pooled(self, layer: int | slice | list[int], pool: str, time: str) -> Callable[[], Tensor]:
        def features() -> Tensor:
            chosen = self.values[:, layer, : 1 if time == "mean" else 2]  # [N, (L,) X, F, D]
            if isinstance(layer, list):  # as in `Embedding.joined`
                chosen = torch.cat(chosen.unbind(1), -1)
            return chosen.flatten(-3) if pool == "concat" else chosen.mean(-2).flatten(-2)

        return features


def _places(numbers: Sequence[int]) -> int | list[int]:
    """Places of blocks among the layers; a list if they are joined."""
    places = [number - 1 for number in numbers]
    return places if len(places) > 1 else places[0]


def parts_of(name: str, shape: Sequence[int]) -> tuple[str, Any, Any]:
    """Layer, pool and time of a representation's name, for embeddings of a shape [N, L, X, F, D]."""
    layer, *rest = name.split()
    pool = rest.pop(0) if shape[3] > 1 else "concat"
    time = rest.pop(0) if shape[2] > 1 else "mean"
    return layer, pool, time


def embed_task(
    model: Named,
    task: Task,
    *,
    all_layers: bool = False,
    cache: str | Path | None = None,
    corruption: Corruption | None = None,
    before: Callable[[], object] = lambda: None,
) -> Embedded:
    """The embeddings of the task's clips in their order, read from the cache or computed and added to it.

    Args:
        all_layers: embed all layers, not only the last.
        cache: a folder; None: that of `ajepa cache`.
        corruption: applied to each clip first; then only `task.test_clips` are embedded.
        before: called before anything is computed.

    Raises:
        AudioError: a clip cannot be decoded.
        EmbeddingError: an embedding is not finite; then nothing is kept.
    """
    clips = task.clips if corruption is None else tuple(task.clips[place] for place in task.test_clips)
    return embed_clips(
        model, clips, task.name, all_layers=all_layers, cache=cache, corruption=corruption, before=before
    )


def embed_clips(
    model: Named,
    clips: tuple[Clip, ...],
    name: str,
    *,
    all_layers: bool = False,
    cache: str | Path | None = None,
    corruption: Corruption | None = None,
    before: Callable[[], object] = lambda: None,
) -> Embedded:
    """The embeddings of clips, as `embed_task`; `name` is for the progress bar."""
    weights = fingerprint(model.module)
    folder = files.expanded(cache or caches.cache_folder("embeddings"))
    key = cache_key(model, weights, clips, corruption)
    output = model.module.output if isinstance(model.module, FrameModel) else LAST
    last, every = (folder / f"{key}-{layers}{SUFFIX}" for layers in (output, "all"))
    path = every if all_layers else last
    found = _read(path, len(clips))
    if found is None and not all_layers and output == LAST:  # a file with all layers includes the last one
        found = _read(every, len(clips), last_layer=True)
    if found is not None:
        values, seconds = found
        return Embedded(values, weights, seconds, True, output)
    before()
    files.remove_leftovers(folder)
    started = time.perf_counter()
    heard = f"{name}, {corruption}" if corruption else name
    about = {"model": model.name, "source": model.source, "task": name}
    with files.in_place_of(path) as partial:
        _compute(model, clips, corruption, f"{model.name} on {heard}", all_layers, partial, started, about)
        values, seconds = _mapped(partial, len(clips))  # before another process can remove it
    caches.make_room(folder, SUFFIX)
    return Embedded(values, weights, seconds, False, output)


def count_layers(model: Named) -> int:
    """How many layers a model gives, as it does for a second of silence."""
    module, rate = model.module, int(model.module.sample_rate)
    device = device_of(module)
    with torch.no_grad(), autocast(model.precision, device):
        return module(torch.zeros(1, rate, device=device), [rate], True).shape[1]


def cache_key(model: Named, weights: str, clips: Sequence[Clip], corruption: Corruption | None) -> str:
    """Stats each clip's file, which takes 20 s for AudioSet's two million clips."""
    kind, rate = type(model.module).__name__, model.module.sample_rate
    parts = (FORMAT, version("ajepa"), kind, weights, rate, model.precision)

    def entry(clip: Clip) -> str:
        status, path = clip.path.stat(), str(clip.path.resolve())
        inside = [] if clip.inside is None else [clip.inside.name, clip.inside.size]
        return json.dumps([path, status.st_size, status.st_mtime_ns, clip.start, clip.seconds, *inside])

    heads = [f"{parts}\n"] if corruption is None else [f"{parts}\n", f"{corruption.key}\n"]
    return digest(chain(heads, map(entry, clips)), 32)


def _read(path: Path, clips: int, last_layer: bool = False) -> tuple[Tensor, float] | None:
    """Values and seconds of a file; None where there is none, or a damaged one, which is set aside."""
    try:
        values, seconds = _mapped(path, clips, last_layer)
        if not all(part.isfinite().all() for part in values):
            raise ValueError("values that are NaN or infinite")
        caches.used(path)
    except FileNotFoundError:
        return None
    except (SafetensorError, ValueError) as error:
        files.set_aside(path, error, "the clips are embedded again")
        return None
    return values, seconds


def _mapped(path: Path, clips: int, last_layer: bool = False) -> tuple[Tensor, float]:
    """Values and seconds of a file. Raises SafetensorError or ValueError for one that is not of `clips`."""
    with safe_open(path, framework="pt") as file:
        stored = file.get_slice("values")
        shape, kind = stored.get_shape(), stored.get_dtype()
        if len(shape) != 5 or shape[0] != clips or not all(shape) or kind != "F32":
            raise ValueError(f"{kind} of shape {shape}, expected F32 of {clips} clips")
        values = stored[:, shape[1] - 1 :] if last_layer else stored[:]
        return values, float((file.metadata() or {}).get("seconds", "nan"))


def _compute(
    model: Named,
    clips: tuple[Clip, ...],
    corruption: Corruption | None,
    label: str,
    all_layers: bool,
    path: Path,
    started: float,
    about: Mapping[str, str],
) -> None:
    """Write a safetensors file, each clip's values in their place as they are computed.

    All layers of a large set do not fit into memory: for ViT-B on Speech Commands they take 68 GB.
    """
    module = model.module
    rate = int(module.sample_rate)
    device = device_of(module)
    if device.type == "cpu":
        keep_freed_memory()
    least = round(getattr(module, "least_seconds", 0.0) * rate)
    with (
        path.open("wb") as file,
        closing(batches(clips, rate, bool(module.ragged), least, corruption)) as decoded,
        tqdm(total=len(clips), desc=label, unit="clip", disable=None) as bar,
        torch.no_grad(),
        autocast(model.precision, device),
    ):
        for rows, waveforms in decoded:
            lengths = [len(waveform) for waveform in waveforms]
            waveform_BS = pad_sequence(waveforms, batch_first=True).to(device)
            part = module(waveform_BS, lengths, all_layers).float().cpu().contiguous().numpy()
            header = _header((len(clips), *part.shape[1:]), about, 0.0)
            for row, values in zip(rows, part, strict=True):
                check_finite(values, model, clips[row])
                file.seek(len(header) + row * values.nbytes)
                file.write(values)
            bar.update(len(rows))
        file.seek(0)
        file.write(_header((len(clips), *part.shape[1:]), about, time.perf_counter() - started))


def _header(shape: Sequence[int], about: Mapping[str, str], seconds: float) -> bytes:
    """The beginning of a safetensors file of one tensor; as long for any number of seconds."""
    told = {name: files.printable(text) for name, text in about.items()} | {"seconds": f"{seconds:015.6f}"}
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * math.prod(shape)]}
    content = json.dumps({"__metadata__": told, "values": entry}).encode()
    padded = content.ljust(-(-len(content) // 8) * 8)
    return len(padded).to_bytes(8, "little") + padded


def check_finite(values: np.ndarray, model: Named, clip: Clip) -> None:
    """A probe would score NaN like ordinary values: all neighbours are then equally near."""
    if wrong := int((~np.isfinite(values)).sum()):
        raise EmbeddingError(
            f"{model.name}: {wrong:,} of {values.size:,} values of the embedding of {clip.name} are NaN or "
            "infinite; its weights have diverged: take an earlier checkpoint"
        )


def batches(
    clips: tuple[Clip, ...], rate: int, ragged: bool, least: int, corruption: Corruption | None
) -> Generator[tuple[list[int], list[Tensor]], None, None]:
    """Clips from longest to shortest, decoded in threads: (their places in the task, waveforms).

    Args:
        least: samples to which the model itself pads a shorter clip.
    """
    seconds = [clip_seconds(clip) for clip in clips]
    order = sorted(range(len(clips)), key=lambda index: -seconds[index])

    def decode(index: int) -> tuple[int, Tensor]:
        return index, _waveform(clips[index], rate, corruption)

    workers = min(4, os.cpu_count() or 1)
    rows: list[int] = []
    waveforms: list[Tensor] = []
    with closing(in_order(decode, order, workers)) as decoded:
        for index, waveform in decoded:
            padded = (len(rows) + 1) * max(least, *(len(one) for one in waveforms), len(waveform))
            full = padded > BATCH_SECONDS * rate or len(rows) == MOST_CLIPS
            if rows and (full or (not ragged and len(waveform) != len(waveforms[0]))):
                yield rows, waveforms
                rows, waveforms = [], []
            rows.append(index)
            waveforms.append(waveform)
    yield rows, waveforms


def _waveform(clip: Clip, rate: int, corruption: Corruption | None) -> Tensor:
    """A clip at the model's sample rate, corrupted at its own rate."""
    if corruption is None:
        return read_clip(clip, rate)
    own = own_rate(clip)
    waveform_S = read_clip(clip, own)
    # Two folders are in the name: Speech Commands gives one speaker's files the same name for every word.
    named = clip.path if clip.inside is None else Path(clip.inside.name)
    heard_S = corruption(waveform_S, own, f"{'/'.join(named.parts[-2:])} {clip.start:g}")
    return audio.resample(heard_S, own, rate)
