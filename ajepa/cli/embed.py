"""`ajepa embed`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    embed = commands.add_parser("embed", help="embed audio files into one .npz file")
    embed.add_argument("audio", nargs="+", type=Path, help="audio files, or folders that are searched")
    embed.add_argument("--model", default=None, help="what ajepa.load_model takes; default: its default")
    embed.add_argument("--out", type=Path, required=True, help="embeddings.npz: arrays `files` and `clip`")
    embed.add_argument("--device", default=None)
    embed.add_argument("--skip-broken", action="store_true", help="list unreadable files, do not stop")
    embed.set_defaults(run=run_embed)


def run_embed(options: argparse.Namespace) -> None:
    """`ajepa embed`."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from ajepa.audio import AudioError, find_audio, load
    from ajepa.model import load_model

    files = [f for item in options.audio for f in (find_audio(item) if item.is_dir() else [item])]
    model = load_model(options.model, device=options.device)
    names, clips = [], []
    for path in tqdm(files, unit="file", disable=None):
        try:
            waveform = load(path, sample_rate=model.sample_rate)
        except AudioError as error:
            if not options.skip_broken:
                raise
            print(error, file=sys.stderr)
            continue
        with torch.no_grad():
            clips.append(model(waveform[None]).clip[0].cpu().numpy())
        names.append(str(path))
    if not clips:
        raise AudioError("none of the files could be read; their reasons are above")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_name(f".{options.out.name}.npz")
    np.savez(partial, files=np.array(names), clip=np.stack(clips))
    partial.replace(options.out)
    print(f"{options.out}: {len(names)} embeddings of {model.embedding_size} features")
