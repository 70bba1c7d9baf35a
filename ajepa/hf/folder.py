"""A folder for the transformers library that needs no ajepa: weights, settings, and code of this package.

The code is not written twice: the modules that the model needs are copied next to each other under flat names
(`ajepa/nn/grid.py` becomes `ajepa_nn_grid.py`), and their imports of each other follow.
"""

from __future__ import annotations

import ast
from dataclasses import asdict
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from ajepa import contents, files
from ajepa.checkpoints import hub
from ajepa.checkpoints import native as checkpoint
from ajepa.model import AudioEncoder
from ajepa.model.classifier import AudioClassifier
from ajepa.model.embedding import layers_text

from .configuration_ajepa import AjepaConfig
from .feature_extraction_ajepa import AjepaFeatureExtractor
from .modeling_ajepa import AjepaForAudioClassification, AjepaModel

ROOTS = ("configuration_ajepa", "feature_extraction_ajepa", "modeling_ajepa")
AUTO_MAP = {
    "AutoConfig": "configuration_ajepa.AjepaConfig",
    "AutoModel": "modeling_ajepa.AjepaModel",
    "AutoModelForAudioClassification": "modeling_ajepa.AjepaForAudioClassification",
}
_Model = TypeVar("_Model", bound=AjepaModel)
EXTRACTOR_MAP = {"AutoFeatureExtractor": "feature_extraction_ajepa.AjepaFeatureExtractor"}


def from_encoder(encoder: AudioEncoder) -> AjepaModel:
    """The same encoder, its weights shared, as a model of transformers."""
    return _sharing(AjepaModel(_config(encoder)), encoder)


def from_classifier(classifier: AudioClassifier) -> AjepaForAudioClassification:
    """The same classifier, its weights shared, as a model of transformers."""
    labels = classifier.label_set
    kind = "multi_label" if labels.activation == "sigmoid" else "single_label"
    config = _config(
        classifier.encoder,
        head=asdict(classifier.head.config),
        longest_seconds=classifier.longest_seconds,
        thresholds=labels.thresholds,
        id2label=dict(enumerate(labels.names)),
        label2id={name: number for number, name in enumerate(labels.names)},
        problem_type=f"{kind}_classification",
    )
    model = _sharing(AjepaForAudioClassification(config), classifier.encoder)
    model.head = classifier.head
    object.__setattr__(model, "classifier", classifier)
    return model


def _config(encoder: AudioEncoder, **of_labels: Any) -> AjepaConfig:
    network = asdict(encoder.encoder.config)
    network.pop("init")  # of its training
    return AjepaConfig(
        front_end=asdict(encoder.features.config),
        encoder=network,
        chunk_seconds=encoder.chunk_patches * encoder.hop_seconds,
        pooling=encoder.pooling,
        layers=encoder.embedding_layers,
        recipe=encoder.source.recipe if encoder.source else "",
        **of_labels,
    )


def _sharing(model: _Model, encoder: AudioEncoder) -> _Model:
    model.features, model.encoder = encoder.features, encoder.encoder
    object.__setattr__(model, "audio", encoder)
    return model.eval()


def save_folder(encoder: AudioEncoder | AudioClassifier, folder: str | Path) -> list[Path]:
    """Write settings, feature extractor and code next to the weights of an encoder or a classifier.

    Returns the files.
    """
    folder = Path(folder)
    model = from_encoder(encoder) if isinstance(encoder, AudioEncoder) else from_classifier(encoder)
    settings = model.config.to_diff_dict() | {"architectures": [type(model).__name__]}
    written = [folder / hub.CONFIG, *_extractor(model, folder), *write_code(folder)]
    files.write_json(written[0], settings | {"auto_map": AUTO_MAP})
    return written


def complete(model: AjepaModel, folder: str | Path) -> None:
    """Complete what `save_pretrained` wrote: code, feature extractor, and the header of our own weights."""
    folder = Path(folder)
    config = folder / hub.CONFIG
    files.write_json(config, contents.read_json(config) | {"auto_map": AUTO_MAP})
    _extractor(model, folder)
    write_code(folder)
    weights = folder / hub.WEIGHTS
    if not weights.is_file():
        return  # in several files, which only transformers reads
    recipe = {
        "name": model.config.recipe or "unnamed",
        "front_end": asdict(model.features.config),
        "encoder": asdict(model.encoder.config),
        "data": {"crop_seconds": model.config.chunk_seconds},
    }
    tensors = dict(model.state_dict())
    chosen = {"pooling": model.config.pooling, "layers": layers_text(model.config.layers)}
    checkpoint.save(weights, checkpoint.Checkpoint(tensors, recipe, 0, chosen))


def _extractor(model: AjepaModel, folder: Path) -> list[Path]:
    extractor = AjepaFeatureExtractor(model.config.sampling_rate)
    path = folder / hub.EXTRACTOR
    files.write_json(path, extractor.to_dict() | {"auto_map": EXTRACTOR_MAP})
    return [path]


# -- code --


def write_code(folder: str | Path) -> list[Path]:
    """Write the modules that the model needs into a folder; returns the files."""
    head = f"{hub.COPIED}{version('ajepa')} (Apache-2.0), imports changed; {{}} there.\n"
    written = []
    for module in (needed := _needed()):
        path = Path(folder) / f"{_flat(module)}.py"
        tail = _listed(needed) if _flat(module) in ROOTS else ""
        files.write(path, head.format(module) + _rewritten(module) + tail)
        written.append(path)
    return written


def _listed(modules: list[str]) -> str:
    """Imports that never run. From a local folder, transformers up to 5.0 copies only the files that a file
    itself imports, and not what those import."""
    lines = [f"    from .{_flat(module)} import *\n" for module in modules if _flat(module) not in ROOTS]
    return "".join(
        ["\n\nif False:  # for transformers, which copies the files that it finds named here\n", *lines]
    )


def _needed() -> list[str]:
    """Our modules that the model imports, directly or not."""
    found = dict.fromkeys(f"ajepa.hf.{root}" for root in ROOTS)
    queue = list(found)
    while queue:
        for _, name in _imports(queue.pop()):
            if name not in found:
                found[name] = None
                queue.append(name)
    return sorted(found)


def _rewritten(module: str) -> str:
    """A module's code with flat imports of ours."""
    lines = _code(module).splitlines()
    for node, name in _imports(module):
        line = lines[node.lineno - 1]
        start = line.index("from ") + len("from ")
        lines[node.lineno - 1] = f"{line[:start]}.{_flat(name)} {line[line.index('import', start) :]}"
    return "\n".join(lines) + "\n"


def _imports(module: str) -> list[tuple[ast.ImportFrom, str]]:
    """The statements of a module that import from ours, with the full name of the other module."""
    package = module.split(".") if _is_package(module) else module.split(".")[:-1]
    found = []
    for node in ast.walk(ast.parse(_code(module))):
        if not isinstance(node, ast.ImportFrom):
            continue
        above = package[: len(package) - node.level + 1] if node.level else []
        name = ".".join([*above, *([node.module] if node.module else [])])
        if name.split(".")[0] == "ajepa":
            found.append((node, name))
    return found


def _flat(module: str) -> str:
    """The file of a module in the folder, without its suffix."""
    return module.removeprefix("ajepa.hf.") if module.startswith("ajepa.hf.") else module.replace(".", "_")


def _place(module: str) -> Any:
    """A module's file, or a package's folder."""
    place = resources.files("ajepa")
    for part in module.split(".")[1:]:
        place = place.joinpath(part)
    return place


def _is_package(module: str) -> bool:
    return _place(module).is_dir()


def _code(module: str) -> str:
    place = _place(module)
    file = place.joinpath("__init__.py") if place.is_dir() else place.parent.joinpath(f"{place.name}.py")
    return file.read_text(encoding="utf-8")
