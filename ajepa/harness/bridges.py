"""The bridges, and how their cures get into a toolkit's modules."""

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from packaging.requirements import Requirement

from . import hear, s3prl, xares
from .errors import HarnessError


@dataclass(frozen=True)
class Cure:
    """One break of a toolkit and its remedy.

    breaks: what the module does that fails without the cure.
    around: called with the module; the module's code is executed inside the context that it returns.
    needed: whether the break occurs in this environment.
    """

    breaks: str
    around: Callable[[ModuleType], AbstractContextManager[None]]
    needed: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class Bridge:
    """What one toolkit needs.

    toolkit: pip requirements of the toolkit itself, installed without their pinned dependencies.
    extra: the extra of `ajepa` that lists the packages which the toolkit imports.
    cures: module name -> its cures.
    mains: module name -> the function that `python -m` calls.
    everywhere: cures of all modules of the toolkit.
    """

    toolkit: tuple[str, ...]
    extra: str
    cures: Mapping[str, Sequence[Cure]]
    mains: Mapping[str, str]
    everywhere: tuple[Cure, ...] = ()

    @property
    def packages(self) -> tuple[str, ...]:
        """The top-level packages whose imports the hook watches."""
        return tuple(sorted({name.partition(".")[0] for name in self.cures}))

    def cures_of(self, module: str) -> tuple[Cure, ...]:
        """The cures of one of the toolkit's modules."""
        return (*self.everywhere, *self.cures.get(module, ()))

    def extra_requirements(self) -> list[str]:
        """The requirements of the extra, from the metadata of the installed `ajepa`."""
        try:
            declared = importlib.metadata.requires("ajepa") or []
        except importlib.metadata.PackageNotFoundError as error:
            raise HarnessError("ajepa itself is not installed; run `pip install` on it first") from error
        requirements = [Requirement(line) for line in declared]
        return [
            f"{requirement.name}{requirement.specifier}"
            for requirement in requirements
            if requirement.marker
            and requirement.marker.evaluate({"extra": self.extra})
            and not requirement.marker.evaluate({"extra": ""})
        ]


_TENSORFLOW = Cure("imports tensorflow", hear.tensorflow_stand_in, hear.tensorflow_is_absent)
_S3PRL_RUNNER = (
    Cure("imports HfFolder and Repository, gone in huggingface_hub 1", s3prl.huggingface_names),
    Cure("loads its checkpoints with a class that torch 2.6 refuses", s3prl.loadable_checkpoints),
)

BRIDGES: dict[str, Bridge] = {
    "hear": Bridge(
        toolkit=("heareval==2021.1.3", "hearvalidator==2021.0.2"),
        extra="hear",
        cures={
            "heareval.embeddings.runner": (_TENSORFLOW,),
            "heareval.embeddings.task_embeddings": (_TENSORFLOW,),
            "hearvalidator.validate": (_TENSORFLOW,),
            "heareval.gpu_max_mem": (
                Cure("decodes the GPU's name, a str since pynvml 11.5", hear.gpu_name_as_bytes),
            ),
            "heareval.predictions.task_predictions": (
                Cure("calls Trainer(gpus=...), gone in Lightning 2", hear.trainer_with_gpus),
                Cure("defines validation_epoch_end, refused by Lightning 2", hear.outputs_at_epoch_end),
                Cure("sets fit_loop.current_epoch, which Lightning ignores", hear.settable_epoch),
                Cure("loads its checkpoints with classes that torch 2.6 refuses", hear.loadable_checkpoints),
                Cure("runs what a stranger's pickled labels call", hear.plain_labels),
            ),
        },
        mains={
            "heareval.embeddings.runner": "runner",
            "heareval.predictions.runner": "runner",
            "hearvalidator.validate": "main",
        },
    ),
    "s3prl": Bridge(
        toolkit=("s3prl>=0.4.18,<0.5",),
        extra="s3prl",
        cures={
            "s3prl.hub": (
                Cure("has no place for upstreams of other packages", s3prl.our_upstreams),
                Cure("is what run_downstream.py imports before it breaks", s3prl.for_the_script),
            ),
            "s3prl.downstream.runner": _S3PRL_RUNNER,
            "s3prl.run_downstream": _S3PRL_RUNNER,
            "s3prl.downstream.speech_commands.expert": (
                Cure(
                    "imports catalyst, which has no release for this Python", s3prl.sampler_without_catalyst
                ),
            ),
            "s3prl.downstream.voxceleb1.dataset": (
                Cure(
                    "uses the file lists of one data set for all, cut ones too",
                    s3prl.file_lists_of_each_data_set,
                ),
            ),
        },
        mains={"s3prl.run_downstream": "main"},
        everywhere=(
            Cure(
                "calls torchaudio's load, set_audio_backend or sox_effects, gone in torchaudio 2.9",
                s3prl.torchaudio_with_files,
                s3prl.torchaudio_is_bare,
            ),
        ),
    ),
    "xares": Bridge(
        toolkit=("xares>=0.1.3,<0.2",),
        extra="xares",
        cures={
            "xares.audiowebdataset": (
                Cure(
                    "decodes with torchaudio.load, which since 2.9 needs TorchCodec and FFmpeg, and leaves "
                    "out what it cannot decode",
                    xares.audio_by_soundfile,
                    s3prl.torchaudio_is_bare,
                ),
                Cure("unpickles members of tars, which come from the web", xares.no_pickled_members),
            ),
        },
        mains={},
    ),
}


def bridge_of(module: str) -> Bridge | None:
    """The bridge whose toolkit contains `module`, or None."""
    package = module.partition(".")[0]
    return next((bridge for bridge in BRIDGES.values() if package in bridge.packages), None)


def cured_spec(
    fullname: str, path: Sequence[str] | None, target: ModuleType | None, finders: Iterable[Any]
) -> ModuleSpec | None:
    """The first spec that `finders` return for `fullname`, its loader wrapped if there are cures."""
    found = (finder.find_spec(fullname, path, target) for finder in finders if hasattr(finder, "find_spec"))
    spec = next((spec for spec in found if spec is not None), None)
    bridge = bridge_of(fullname)
    if spec is None or bridge is None or type(spec.loader) is not SourceFileLoader:
        return spec
    cures, main = bridge.cures_of(fullname), bridge.mains.get(fullname)
    if cures or main:
        spec.loader = CuringLoader(spec.loader, cures, main)
    return spec


class CuringLoader(SourceFileLoader):
    """Loads a toolkit's module from its unchanged file, inside its cures."""

    def __init__(self, loader: SourceFileLoader, cures: Sequence[Cure], main: str | None):
        super().__init__(loader.name, loader.path)
        self.cures = cures
        self.main = main

    def exec_module(self, module: ModuleType) -> None:
        with ExitStack() as stack:
            for cure in self.cures:
                if cure.needed():
                    stack.enter_context(cure.around(module))
            code = super().get_code(module.__name__)
            assert code is not None, "a SourceFileLoader always has code"
            exec(code, module.__dict__)

    def get_code(self, fullname: str) -> CodeType | None:
        """The code that `python -m` executes.

        `python -m` takes a module's code and never calls `exec_module`, which applies the cures. The code
        returned here imports the module by its name, cured, and calls its main function.
        """
        if self.main is None:
            return super().get_code(fullname)
        source = f"from {fullname} import {self.main}\nif __name__ == '__main__':\n    {self.main}()\n"
        return compile(source, f"<ajepa harness: python -m {fullname}>", "exec")
