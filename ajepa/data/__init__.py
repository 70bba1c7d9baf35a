"""Audio on disk: sets of clips, crops of them for pre-training, and synthetic sets in the true layouts.

A set is a folder, a manifest or tar shards, here or on a web server: `open_clips` opens any of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # at run time where a set is opened: `ajepa.data.synthetic` needs no torch
    from .clips import Clips


def open_clips(
    source: str | Path,
    *,
    labels: bool = False,
    shard_window: int = 8,
    shard_cache: str | Path = "",
    shard_cache_megabytes: int = 32_768,
) -> Clips:
    """Open a set of clips.

    Args:
        source: a folder of audio, a manifest (a table: `cells.SUFFIXES`), a folder of indexed tar shards, or
            the http(s) address of such a folder.
        labels: keep a manifest's labels.
        shard_window: shards that are shuffled together at a time.
        shard_cache, shard_cache_megabytes: folder for fetched shards (that of `ajepa cache` if empty), and
            how much they may fill.

    Raises:
        AudioError: the folder is missing or holds no audio.
        DataError: the manifest or the index cannot be used or fetched.
    """
    from ajepa import files
    from ajepa.audio import AudioError
    from ajepa.caches import cache_folder

    from . import cells, clips, manifest, remote, shards

    if str(source).startswith(("http://", "https://")):
        cache = files.expanded(shard_cache or cache_folder("shards"))
        return remote.open_url(str(source), shard_window, cache, shard_cache_megabytes)
    path = Path(source)
    if path.suffix.lower() in cells.SUFFIXES and not path.is_dir():
        return manifest.Manifest(path, labels=labels)
    if (path / shards.LISTING).is_file():
        return shards.open_folder(path, shard_window)
    try:
        return clips.Folder(path)
    except AudioError as error:
        if any(path.glob("*.tar")):
            problem = f"{path}: tars without an index; make one with `ajepa data index {path}`"
            raise clips.DataError(problem) from error
        raise
