"""The names of weights in a run's folder, which training writes and loading and comparisons read."""

from __future__ import annotations

import re
from pathlib import Path

ENCODER = "encoder.safetensors"  # the finished encoder with its front end
CHECKPOINT = re.compile(r"step-\d{8,}\.safetensors")


def checkpoint_path(out: Path, step: int) -> Path:
    """The file of a step's checkpoint."""
    return out / "checkpoints" / f"step-{step:08d}.safetensors"


def checkpoint_paths(out: Path) -> list[Path]:
    """All checkpoints in a run's folder, the first step first; copies under other names are left out."""
    paths = (out / "checkpoints").glob("step-*.safetensors")
    return sorted((path for path in paths if CHECKPOINT.fullmatch(path.name)), key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """The step whose checkpoint this file is."""
    return int(path.stem.removeprefix("step-"))


def latest_checkpoint(out: Path, until: int | None = None) -> Path | None:
    """The checkpoint of the highest step, of those up to `until` if given; None where there is none."""
    paths = [path for path in checkpoint_paths(out) if until is None or checkpoint_step(path) <= until]
    return paths[-1] if paths else None


def encoder_file(name: str) -> str:
    """The file of another of a run's encoders than the evaluated one, by its name."""
    return f"encoder-{name}.safetensors"


def finished_encoder(out: Path) -> Path | None:
    """What a run leaves at its end; None before."""
    path = out / ENCODER
    return path if path.is_file() else None
