"""`ajepa embed`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import device
from .usage import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ajepa.model import AudioEncoder

# Clips are sorted by length before they are batched: limits of what is held for that.
HELD_CLIPS, HELD_SECONDS = 64, 1200


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    embed = commands.add_parser("embed", help="embed audio files into one .npz file")
    embed.add_argument("audio", nargs="+", type=Path, help="audio files, or folders to search")
    embed.add_argument("--model", default=None, help="a source of ajepa.load_model; default: its default")
    embed.add_argument("--out", type=Path, required=True, help="embeddings.npz: arrays `files` and `clip`")
    embed.add_argument(
        "--encoder", metavar="NAME", help="of A-JEPA's and Audio-JEPA's runs: target or context"
    )
    device.add(embed)
    embed.add_argument(
        "--precision",
        choices=["float32", "bf16"],
        default="float32",
        help="bf16: about 3 times as fast if the processor multiplies in bfloat16; cosine above 0.999",
    )
    embed.add_argument("--batch", type=int, default=8, help="clips embedded at once; default: 8")
    embed.add_argument("--skip-broken", action="store_true", help="list unreadable files, do not stop")
    embed.set_defaults(run=run_embed)


def run_embed(options: argparse.Namespace) -> None:
    """`ajepa embed`."""
    import numpy as np

    from ajepa.audio import find_audio
    from ajepa.files import check_place, in_place_of
    from ajepa.model.loading import load_model

    check_place(options.out, "--out")
    files = [f for item in options.audio for f in (find_audio(item) if item.is_dir() else [item])]
    if options.batch < 1:
        raise UsageError(f"--batch is {options.batch}, must be at least 1")
    device.check_device(options.device)
    model = load_model(
        options.model, weights=options.encoder, device=options.device, precision=options.precision
    )
    names, clip_BE = embed_files(model, files, options)
    with in_place_of(options.out, "npz") as partial:
        np.savez(partial, files=np.array(names), clip=clip_BE.numpy())
    print(f"{options.out}: {len(names)} embeddings of {model.clip_size} features")


def embed_files(
    model: AudioEncoder, files: Sequence[Path], options: argparse.Namespace
) -> tuple[list[str], Tensor]:
    """Names of the readable files, and their clip embeddings [B, F * D].

    Raises:
        AudioError: a file cannot be read; with --skip-broken, no file can.
        ModelError: an embedding is not finite.
    """
    import torch
    from tqdm import tqdm

    from ajepa.audio import AudioError, load

    names: list[str] = []
    embedded: list[Tensor] = []
    held: list[Tensor] = []

    def embed_held() -> None:
        clip_BE = embed_clips(model, held, options.batch)
        check_finite(clip_BE, names[-len(held) :], options.model or "the default model")
        embedded.append(clip_BE)
        held.clear()

    for path in tqdm(files, unit="file", disable=None):
        try:
            waveform = load(path, sample_rate=model.sample_rate)
        except AudioError as error:
            if not options.skip_broken:
                raise
            print(error, file=sys.stderr)
            continue
        names.append(str(path))
        held.append(waveform)
        if len(held) == HELD_CLIPS or sum(map(len, held)) > HELD_SECONDS * model.sample_rate:
            embed_held()
    if held:
        embed_held()
    if not embedded:
        raise AudioError("none of the files could be read; their reasons are above")
    return names, torch.cat(embedded)


def check_finite(clip_BE: Tensor, names: Sequence[str], model: str) -> None:
    """Raises ModelError, which names the model and the first clip, for an embedding that is not finite."""
    from ajepa.model.loading import ModelError

    finite_B = clip_BE.isfinite().all(1).tolist()
    if not all(finite_B):
        raise ModelError(
            f"{model}: the embedding of {names[finite_B.index(False)]} has values that are NaN or infinite; "
            "the weights have diverged or are damaged, so nothing is written; use an earlier checkpoint"
        )


def embed_clips(model: AudioEncoder, waveforms: list[Tensor], batch: int) -> Tensor:
    """Clip embeddings [B, F * D] of waveforms [S], on the CPU; clips of like lengths share a batch."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    order = sorted(range(len(waveforms)), key=lambda clip: len(waveforms[clip]))
    most_samples = HELD_SECONDS * model.sample_rate
    embedded = torch.empty(len(waveforms), model.clip_size)
    while order:
        # Ascending lengths: short clips are not padded to the length of a long recording.
        rows = order[:batch]
        while len(rows) > 1 and len(rows) * len(waveforms[rows[-1]]) > most_samples:
            rows.pop()
        order = order[len(rows) :]
        padded_BS = pad_sequence([waveforms[row] for row in rows], batch_first=True)
        with torch.inference_mode():
            embedded[rows] = model(padded_BS, [len(waveforms[row]) for row in rows]).clip.cpu()
    return embedded
