"""What to search: embeddings that are there, or audio that is embedded first."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from ajepa import caches, files
from ajepa.audio import AudioError
from ajepa.audio.source import AudioBytes
from ajepa.embed import Embeddings, job, read_embeddings
from ajepa.embed.inputs import Inputs
from ajepa.embed.options import EmbedError, Wanted
from ajepa.embed.output import finish, job_folder, merged_blocks
from ajepa.embed.read import parts_of
from ajepa.embed.table import about_of, describe
from ajepa.errors import AjepaError
from ajepa.model import AudioEncoder
from ajepa.model.fingerprint import fingerprint

NEEDED = ("what", "window", "hop", "pooling", "weights", "source")  # of what `ajepa embed` noted


class SearchError(AjepaError, ValueError):
    """There is nothing to search, or it does not fit the encoder; the message says what to do."""


def stored_about(source: str) -> dict[str, Any] | None:
    """What `ajepa embed` noted in a Parquet file or a folder of parts; None if `source` is something else."""
    path = Path(source)
    parts = parts_of(path) if path.is_dir() else []
    if not parts and (not path.is_file() or path.suffix.lower() != ".parquet"):
        return None
    try:
        about = about_of(pq.read_schema(parts[0] if parts else path))
        return {key: about[key] for key in NEEDED} | about if about else None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SearchError(f"{path}: not readable as embeddings ({reason}); embed its audio again") from error


def read_stored(source: str, model: AudioEncoder) -> Embeddings:
    """Embeddings that `ajepa embed` wrote, one vector a row.

    Raises:
        SearchError: they are of another kind, of another encoder, or empty.
    """
    found = read_embeddings(source)
    if (what := found.about["what"]) != "clip":
        raise SearchError(
            f"{source}: holds {what}; search needs one vector a clip (`ajepa embed --what clip`)"
        )
    if found.about["weights"] != fingerprint(model):
        raise SearchError(
            f"{source}: embedded by another encoder (of the recipe {found.about['source'] or 'unknown'}, "
            f"weights {found.about['weights']}); name it with --model"
        )
    if not len(found):
        raise SearchError(f"{source}: no embeddings in it; embed some audio first")
    if not np.isfinite(found.values).all():
        raise SearchError(f"{source}: has values that are NaN or infinite; embed its audio again")
    return found


def embed_sources(
    sources: list[str], model: AudioEncoder, wanted: Wanted, out: Path | None, cache: Path
) -> Embeddings:
    """Embed audio, or read what an earlier call embedded. Files that cannot be used are reported.

    Args:
        out: where `ajepa embed` would put it: a later call embeds only what is new. None: in the cache, where
            it is embedded again once a file has changed.
    """
    inputs = Inputs(sources)
    if out is not None:
        embed_to(out, inputs, model, wanted)
        return read_embeddings(out)
    path = cache / f"{_digest(inputs, describe(model, wanted))}.parquet"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.is_file():
            caches.used(path)
        else:
            embed_to(path, inputs, model, wanted)
            shutil.rmtree(job_folder(path))  # its plan: nothing will be added
        return read_embeddings(path)


def embed_to(out: Path, inputs: Inputs, model: AudioEncoder, wanted: Wanted) -> None:
    """`ajepa embed --skip-broken`, with a bar.

    Raises:
        AudioError: none of the files can be read.
        EmbedError: another process is at work on it, or `out` holds something else.
    """
    if out.suffix.lower() == ".npz":
        raise EmbedError(f"--out {out}: name a folder or a .parquet file, to which clips can be added")
    files.check_place(out / job.JOB if not out.suffix else out, "--out")
    work = job.Job(job_folder(out), inputs, describe(model, wanted), merged_blocks(out))
    with tqdm(
        total=len(work), initial=len(work) - work.left(), desc="embedding", unit="clip", disable=None
    ) as bar:
        job.run(work, model, wanted, skip_broken=True, progress=bar.update)
    broken = work.broken()
    if broken == len(work):
        raise AudioError("none of the files could be read; their reasons are above", path=inputs[0].name)
    if broken:
        print(f"{broken} of {len(work)} files could not be used and are left out", file=sys.stderr)
    if not finish(work, out):
        raise EmbedError(f"{out}: other processes are embedding the same audio; wait for them")


def vectors(found: Embeddings) -> Tensor:
    """The values of `--what clip`, [N, features], without a copy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Arrow's memory is read-only; nobody writes to it
        return torch.from_numpy(found.values)


def _digest(inputs: Inputs, about: dict[str, Any]) -> str:
    """Changes with the encoder, with the size or date of any file, and with the content of any shard."""
    found = hashlib.sha256(json.dumps([about, *inputs.tars()], sort_keys=True).encode())
    for number in range(len(inputs)):
        item = inputs[number]
        audio = item.clip.audio
        state = (audio.size,) if isinstance(audio, AudioBytes) else _state(audio)
        found.update(f"{item.key}\0{state}\n".encode(errors="surrogateescape"))
    return found.hexdigest()[:32]


def _state(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116  # a million times
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns
