"""Our names for `-u` of s3prl, in the form of its own `hubconf.py` files.

| name | what -k takes |
|---|---|
| `ajepa` | any source of `ajepa.load_model`, or nothing |
| `ajepa_local` | a file or a run's folder |
| `ajepa_url` | the address of a checkpoint; downloaded once, `-r` downloads it again |
| `audio_mae_local`, `audio_mae_url` | the same for Audio-MAE; a checkpoint of another system is refused |
| `audio_jepa_local`, `audio_jepa_url` | the same for Audio-JEPA |

All take `-g`, see `UpstreamOptions`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .expert import UpstreamExpert as _UpstreamExpert
from .options import UpstreamError as _UpstreamError

__all__ = [
    "ajepa",
    "ajepa_local",
    "ajepa_url",
    "audio_jepa_local",
    "audio_jepa_url",
    "audio_mae_local",
    "audio_mae_url",
]


def ajepa(
    ckpt: str | None = None, model_config: str | None = None, refresh: bool = False, **options: Any
) -> _UpstreamExpert:
    """An encoder from any source."""
    return _UpstreamExpert(ckpt, model_config, refresh, **options)


def ajepa_local(
    ckpt: str, model_config: str | None = None, refresh: bool = False, **options: Any
) -> _UpstreamExpert:
    """An encoder from a file or a run's folder."""
    if not ckpt or not Path(ckpt).exists():
        raise _UpstreamError(f"-k {ckpt}: no such file or folder; give a checkpoint or a run's folder")
    return _UpstreamExpert(ckpt, model_config, refresh, **options)


def ajepa_url(
    ckpt: str, model_config: str | None = None, refresh: bool = False, **options: Any
) -> _UpstreamExpert:
    """An encoder that s3prl downloads into its own cache folder."""
    from s3prl.util.download import _urls_to_filepaths

    if not ckpt or not ckpt.startswith(("http://", "https://")):
        raise _UpstreamError(f"-k {ckpt}: not a web address; -u ajepa takes any other source")
    return _UpstreamExpert(_urls_to_filepaths(ckpt, refresh=refresh), model_config, refresh, **options)


def audio_mae_local(ckpt: str, *arguments: Any, **options: Any) -> _UpstreamExpert:
    """Audio-MAE from an official `.pth` or one of our checkpoints."""
    return _of_system("audio-mae", ckpt, ajepa_local(ckpt, *arguments, **options))


def audio_mae_url(ckpt: str, *arguments: Any, **options: Any) -> _UpstreamExpert:
    """Audio-MAE, downloaded."""
    return _of_system("audio-mae", ckpt, ajepa_url(ckpt, *arguments, **options))


def audio_jepa_local(ckpt: str, *arguments: Any, **options: Any) -> _UpstreamExpert:
    """Audio-JEPA from an official `.ckpt` or one of our checkpoints."""
    return _of_system("audio-jepa", ckpt, ajepa_local(ckpt, *arguments, **options))


def audio_jepa_url(ckpt: str, *arguments: Any, **options: Any) -> _UpstreamExpert:
    """Audio-JEPA, downloaded."""
    return _of_system("audio-jepa", ckpt, ajepa_url(ckpt, *arguments, **options))


def _of_system(system: str, ckpt: str, expert: _UpstreamExpert) -> _UpstreamExpert:
    source = expert.model.source
    found = source.recipe if source else "unknown"
    if not found.lower().startswith(system):
        raise _UpstreamError(f"-k {ckpt}: this is {found}, not {system}; use -u ajepa, which takes any")
    return expert
