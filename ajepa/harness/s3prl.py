"""The cures of s3prl 0.4.18, the PyPI package and a checkout alike.

Each is a context manager around the execution of one of its modules, see `ajepa.harness.hear`. This does not
reach one module: `run_downstream.py`, run by its path, is `__main__` and not imported. It imports `s3prl.hub`
first, and `for_the_script` then cures the names that the script has or is about to import.
"""

import argparse
import functools
import hashlib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from packaging.version import Version

from ajepa.caches import cache_folder
from ajepa.files import set_aside

from .errors import HarnessError
from .overlay import attributes, importable, with_names
from .pickles import load_plain

# Imported by name when s3prl needs it: the core does not depend on the plug-ins.
UPSTREAMS = ("ajepa.s3prl_upstream.hubconf", "ajepa.eval.toolkits.s3prl")
SCRIPT = "run_downstream.py"


# -- torchaudio --


def _torchaudio_names() -> dict[str, Any]:
    from . import s3prl_audio

    effects: Any = ModuleType("torchaudio.sox_effects", "Stand-in for the effects that s3prl applies.")
    effects.apply_effects_file = s3prl_audio.apply_effects_file
    effects.apply_effects_tensor = s3prl_audio.apply_effects_tensor
    return {
        "load": s3prl_audio.load,
        "info": s3prl_audio.info,
        "save": s3prl_audio.save,
        "set_audio_backend": s3prl_audio.set_audio_backend,
        "sox_effects": effects,
    }


@functools.cache
def torchaudio_is_bare() -> bool:
    """Whether torchaudio lacks sox effects (2.9 and later)."""
    return Version(importlib.metadata.version("torchaudio")) >= Version("2.9")


@contextmanager
def torchaudio_with_files(module: ModuleType) -> Iterator[None]:
    """Give a module of s3prl a torchaudio that reads files and has sox effects.

    While the module is executed the names are in torchaudio itself, for what it imports and calls at once;
    afterwards they are in an overlay that only this module sees.
    """
    import torchaudio

    names, real_load = _torchaudio_names(), torchaudio.load
    with importable(names["sox_effects"]), attributes(torchaudio, **names):
        yield
    for name, real, instead in (
        ("torchaudio", torchaudio, with_names(torchaudio, **names)),
        ("load", real_load, names["load"]),
    ):
        if vars(module).get(name) is real:
            setattr(module, name, instead)


# -- huggingface_hub --


class HfFolder:
    """The store of the token in huggingface_hub before 1.0."""

    @staticmethod
    def get_token() -> str | None:
        from huggingface_hub import get_token

        return get_token()

    @staticmethod
    def save_token(token: str) -> None:
        from huggingface_hub import login

        login(token)


class Repository:
    """The git clone of huggingface_hub before 1.0, which `--push_to_hf_hub` works with."""

    def __init__(self, *args: object, **options: object) -> None:
        raise HarnessError(
            "--push_to_hf_hub needs huggingface_hub.Repository, gone in version 1.0; the results are in "
            "the experiment's folder, upload it with `hf upload REPOSITORY FOLDER`"
        )


@contextmanager
def huggingface_names(module: ModuleType) -> Iterator[None]:
    """Let `from huggingface_hub import HfFolder, Repository` succeed while `module` is executed."""
    import huggingface_hub

    with attributes(huggingface_hub, HfFolder=HfFolder, Repository=Repository):
        yield


# -- checkpoints --


def _torch_that_loads_arguments() -> ModuleType:
    """torch, with a `load` that accepts the command-line arguments in s3prl's checkpoints."""
    import torch
    from torch.serialization import safe_globals

    def load(*args: Any, **options: Any) -> Any:
        with safe_globals([argparse.Namespace]):
            return torch.load(*args, **options)

    return with_names(torch, load=load)


@contextmanager
def loadable_checkpoints(module: Any) -> Iterator[None]:
    """Let s3prl load its own checkpoints, still with `weights_only=True`: they hold an argparse.Namespace."""
    yield
    module.torch = _torch_that_loads_arguments()


# -- the hub --


@contextmanager
def our_upstreams(module: ModuleType) -> Iterator[None]:
    """Add our upstreams to `s3prl.hub`, a fixed list of imports, without replacing any."""
    yield
    for hubconf in map(importlib.import_module, UPSTREAMS):
        for name in hubconf.__all__:
            vars(module).setdefault(name, getattr(hubconf, name))


@contextmanager
def for_the_script(module: ModuleType) -> Iterator[None]:
    """Cure `python run_downstream.py`, which imports the hub after torch and torchaudio, before the rest.

    Its process runs only s3prl, so huggingface_hub may keep the name that the script imports.
    """
    main: Any = sys.modules.get("__main__")
    if Path(getattr(main, "__file__", None) or "").name == SCRIPT and hasattr(main, "torchaudio"):
        import huggingface_hub
        import torchaudio

        if main.torchaudio is torchaudio:
            main.torchaudio = with_names(torchaudio, **_torchaudio_names())
        main.torch = _torch_that_loads_arguments()
        if not hasattr(huggingface_hub, "HfFolder"):
            vars(huggingface_hub)["HfFolder"] = HfFolder
    yield


# -- downstream tasks --


@contextmanager
def sampler_without_catalyst(module: ModuleType) -> Iterator[None]:
    """Give keyword spotting the one class that it imports of catalyst.

    No release of catalyst can be installed by a current pip and imported on Python 3.10 or later.
    """
    catalyst, data = ModuleType("catalyst"), ModuleType("catalyst.data")
    sampler: Any = ModuleType("catalyst.data.sampler", "Stand-in for the class that s3prl uses.")
    sampler.DistributedSamplerWrapper = _distributed_sampler_wrapper()
    with importable(catalyst, data, sampler):
        yield


def _distributed_sampler_wrapper() -> type:
    from torch.utils.data import DistributedSampler, Sampler

    class DistributedSamplerWrapper(DistributedSampler):
        """Each process's share of another sampler's draws, which are the same on all (they share a seed)."""

        def __init__(self, sampler: Sampler[int], **options: Any) -> None:
            super().__init__(range(len(sampler)), **options)  # type: ignore[arg-type]
            self.sampler = sampler

        def __iter__(self) -> Iterator[int]:
            drawn = list(self.sampler)
            return (drawn[place] for place in super().__iter__())

    return DistributedSamplerWrapper


@contextmanager
def file_lists_of_each_data_set(module: Any) -> Iterator[None]:
    """Keep the cached file lists of voxceleb1 separate for each data set, and out of the package's folder.

    s3prl names them only after the split: a second data set, or a changed meta file, silently got the lists
    of the first. Here their folder is named by the data's path and the content of the meta file. They are
    pickles, of which only a list of text is read; a cut one is made again.
    """
    yield
    module.pickle = with_names(module.pickle, load=load_plain)
    data_set = module.SpeakerClassifiDataset
    construct: Callable[..., None] = data_set.__init__

    def __init__(self: Any, mode: str, file_path: Any, meta_data: str, *args: Any, **options: Any) -> None:  # noqa: N807
        digest = hashlib.sha256(os.fsencode(Path(file_path).resolve()) + Path(meta_data).read_bytes())
        folder = cache_folder("s3prl") / "voxceleb1" / digest.hexdigest()[:16]
        module.CACHE_PATH = str(folder)
        _check_list(folder / f"{mode}.pkl")
        construct(self, mode, file_path, meta_data, *args, **options)

    data_set.__init__ = __init__


def _check_list(path: Path) -> None:
    """Set a cached list aside that is not a list of paths."""
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            found = load_plain(file)
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise HarnessError("not a list of paths")
    except HarnessError as error:
        set_aside(path, error, "s3prl makes the list again")
