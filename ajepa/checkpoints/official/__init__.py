"""Checkpoints of the official Audio-MAE and Audio-JEPA, in this project's modules.

Sizes are read from the file; what it does not say (heads, front end) is a published constant or an argument.
Every tensor of an encoder is used: a missing or unexpected one is an error that names it. A decoder or
predictor that cannot be read is an error where the whole objective is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ajepa.checkpoints.unpickle import load_torch
from ajepa.errors import AjepaError

from .account import SIZES_DO_NOT_FIT, plain_name
from .audio_jepa import read_audio_jepa
from .audio_mae import read_audio_mae
from .contents import Classifier, Official, OfficialError

__all__ = ["Classifier", "Official", "OfficialError", "read_official"]


def read_official(
    path: str | Path,
    *,
    heads: int | None = None,
    sample_rate: int | None = None,
) -> Official:
    """Read an official checkpoint, recognised by its content.

    Args:
        heads: attention heads of the encoder, which the file does not say; width / 64 by default.
        sample_rate: of Audio-JEPA's front end, Hz; 32,000 by default, as published.

    Raises:
        UnpickleError: the file is damaged or has pickled objects that are not read.
        OfficialError: an unknown file, a missing or unexpected tensor, or an argument that does not apply.
    """
    path = Path(path)
    try:
        return _recognised(path, load_torch(path), heads, sample_rate)
    except AjepaError:
        raise
    except SIZES_DO_NOT_FIT as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OfficialError(f"{path}: the sizes of its tensors do not fit together ({reason})") from error


def _recognised(path: Path, content: Any, heads: int | None, sample_rate: int | None) -> Official:
    keys = sorted(map(str, content)) if isinstance(content, dict) else [type(content).__name__]
    content = content if isinstance(content, dict) else {}
    for key in ("model", "state_dict", None):  # None: the file is the weights alone
        weights = content if key is None else content.get(key)
        if not isinstance(weights, dict):
            continue
        names = {plain_name(name) for name in weights}
        if {"patch_embed.proj.weight", "pos_embed"} & names:
            if sample_rate is not None:
                raise OfficialError(
                    f"{path}: only `heads` can be chosen for Audio-MAE; leave out sample_rate"
                )
            return read_audio_mae(path, weights, content.get("epoch") if key else None, heads)
        if any(name.startswith("target_encoder.") for name in names):
            return read_audio_jepa(
                path, weights, content.get("global_step") if key else None, heads, sample_rate
            )
    raise OfficialError(
        f"{path}: neither weights of Audio-MAE (patch_embed.*) nor of Audio-JEPA (target_encoder.*)"
        f": it holds {', '.join(keys[:12])}"
    )
