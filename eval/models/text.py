"""The text that names an encoder: `SCHEME:REST`, a baseline, or a source of `ajepa.load_model`.

| text | encoder |
|---|---|
| `hear:MODULE[@WEIGHTS]` | a module with the HEAR API, by its name or its file |
| `s3prl:UPSTREAM[:CHECKPOINT]` | an upstream of s3prl |
| `xares:FILE.py` | a file with an encoder for X-ARES |
| `transformers:FOLDER_OR_NAME[?trust_remote_code]` | a model that transformers loads |
| `python:MODULE:FACTORY[:ARGUMENT]` | what a function returns; MODULE is a name or a file |
| `timm:NAME[@FILE]` | a Vision Transformer of timm; `ajepa.load_model` takes it too |
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ajepa.checkpoints import hub
from ajepa.checkpoints.timm_vit import SCHEME as TIMM
from ajepa.checkpoints.timm_vit import Timm
from ajepa.errors import AjepaError
from ajepa.eval.digest import digest
from ajepa.model.loading import DEFAULT, bundled
from ajepa.named_source import name_of, named_source
from ajepa.recipes import recipe_path

HEAR, S3PRL, XARES, TRANSFORMERS, PYTHON = "hear:", "s3prl:", "xares:", "transformers:", "python:"
SCHEMES = (HEAR, S3PRL, XARES, TRANSFORMERS, PYTHON, TIMM)
TRUST = "?trust_remote_code"


class SourceError(AjepaError, ValueError):
    """The text that names an encoder is wrong, or what it names cannot be used; the message says why."""


def has_scheme(source: str) -> bool:
    """Whether it names an encoder of another interface."""
    return source.startswith(SCHEMES)


def runs_code(source: str) -> bool:
    """Whether opening it runs code that is not of this package or of transformers."""
    return source.startswith((HEAR, S3PRL, XARES, PYTHON)) or source.endswith(TRUST)


def named_model(text: str) -> tuple[str, str]:
    """The name and the source in SOURCE or NAME=SOURCE; without a name, the source's default name."""
    # After a scheme an equals sign belongs to a path.
    name, source = ("", text) if has_scheme(text) else named_source(text)
    return name or default_name(source), source


def default_name(source: str) -> str:
    """A model's name in tables if none is given."""
    rest = source.partition(":")[2]
    if source.startswith(HEAR):
        module, weights = hear_parts(source)
        name = name_of(module) if is_file(module) else module
        return f"{name} {Path(weights).stem}" if weights else name
    if source.startswith(S3PRL):
        return rest.partition(":")[0]
    if source.startswith(TRANSFORMERS):
        return name_of(rest.removesuffix(TRUST))
    if source.startswith(PYTHON):
        return python_parts(source)[1]
    if source.startswith(TIMM):
        return Timm.parse(source).name
    if source.startswith(hub.SCHEME):
        return hub.Address.parse(source).repo.rpartition("/")[2]
    return name_of(source)


def absolute(source: str) -> str:
    """The same encoder, named in a way that holds in any folder, for a toolkit that runs in another one.

    `default` and recipes are files of this package; sources on the Hub are downloaded.

    Raises:
        SourceError: a text without its parts.
        HubError: the Hub does not have it, or cannot be reached.
        RecipeError: the source is neither on disk nor a recipe's name.
    """
    scheme, _, rest = source.partition(":")
    if source.startswith(HEAR):
        module, weights = hear_parts(source)
        return f"{HEAR}{_path(module)}" + (f"@{_path(weights)}" if weights else "")
    if source.startswith(S3PRL):
        upstream, _, checkpoint = rest.partition(":")
        return f"{S3PRL}{upstream}" + (f":{_path(checkpoint)}" if checkpoint else "")
    if source.startswith(XARES):
        return f"{scheme}:{_path(rest)}"
    if source.startswith(TRANSFORMERS):
        kept = TRUST if rest.endswith(TRUST) else ""
        return f"{scheme}:{_path(rest.removesuffix(TRUST))}{kept}"
    if source.startswith(PYTHON):
        module, factory, argument = python_parts(source)
        return f"{PYTHON}{_path(module)}:{factory}" + (f":{_path(argument)}" if argument else "")
    if source.startswith(TIMM):
        name, file = Timm.parse(source)
        return f"{TIMM}{name}" + (f"@{_path(file)}" if file else "")
    if source == DEFAULT:
        return str(bundled().resolve())
    if source.startswith(hub.SCHEME):
        return str(hub.download(source))
    path = Path(source) if Path(source).exists() else recipe_path(source)
    return str(path.resolve())


def hear_parts(source: str) -> tuple[str, str]:
    """Module (a name or a file) and weights of `hear:MODULE[@WEIGHTS]`. Raises SourceError."""
    module, _, weights = source.removeprefix(HEAR).partition("@")
    if not module:
        raise SourceError(f"{source}: names no module; write hear:MODULE or hear:MODULE@WEIGHTS")
    return module, weights


def python_parts(source: str) -> tuple[str, str, str]:
    """Module (a name or a file), factory and argument of `python:MODULE:FACTORY[:ARGUMENT]`.

    Raises SourceError.
    """
    module, _, rest = source.removeprefix(PYTHON).partition(":")
    factory, _, argument = rest.partition(":")
    if not module or not factory.isidentifier():
        raise SourceError(f"{source}: write python:MODULE:FACTORY, such as python:my_package.encoder:load")
    return module, factory, argument


def is_file(module: str) -> bool:
    """Whether a module is named by its file."""
    return module.endswith(".py")


def imported(module: str, source: str) -> ModuleType:
    """A module by its name, the current folder included as with `python -m`, or by its file.

    Raises SourceError if it is not there or cannot be imported.
    """
    try:
        if not is_file(module):
            if (here := str(Path.cwd())) not in sys.path:
                sys.path.append(here)
            return importlib.import_module(module)
        path = Path(module).resolve()
        if not path.is_file():
            raise SourceError(f"{source}: there is no file {path}; check the path")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None  # the suffix is .py
        found = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, found)  # for what its classes look up by name
        spec.loader.exec_module(found)
        return found
    except ImportError as error:
        raise SourceError(
            f"{source}: {module} cannot be imported ({error}); install what it needs"
        ) from error


def described(module: ModuleType, *names: str) -> tuple[object, ...]:
    """What identifies code and the files that it reads, for a fingerprint: names and hashes of contents."""
    own = str(getattr(module, "__file__", None) or "")
    return (module.__name__.rpartition(".")[2], *(_content(name) for name in (own, *names) if name))


def _content(name: str) -> tuple[str, str]:
    path = Path(name)
    return (path.name, digest([path])) if path.is_file() else (name, "")


def _path(text: str) -> str:
    """An absolute path if it exists; other text, such as a module's name, as it is."""
    return str(Path(text).resolve()) if Path(text).exists() else text
