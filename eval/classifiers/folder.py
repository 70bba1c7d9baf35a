"""A classifier's folder: `model.safetensors`, `classifier.json` and `README.md`, its card.

With one of our encoders the folder needs nothing else, and `ajepa.load_model` reads the encoder from it. The
encoder of somebody else stays where it is: the folder names it, with a fingerprint of its weights.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ajepa import files
from ajepa.checkpoints import hub
from ajepa.checkpoints import native as checkpoint
from ajepa.checkpoints.sizes import check_finite
from ajepa.errors import AjepaError
from ajepa.eval.models.frames import together
from ajepa.eval.results.record import Record
from ajepa.export import CLASSIFIER
from ajepa.export.weights import Origin, encoder_tensors, origin_of
from ajepa.model import AudioEncoder
from ajepa.model.classifier import AudioClassifier, LabelSet
from ajepa.model.embedding import parse_layers
from ajepa.model.fingerprint import fingerprint
from ajepa.model.head import WEIGHTED, Head, HeadConfig
from ajepa.model.loading import load_model
from ajepa.model.precision import Precision
from ajepa.recipes.stored import StoredError, from_plain

from .card import write_card

FORMAT = 1
LARGEST_OF_HEAD = 1e12  # it divides by deviations, which may be small
FILE, CARD = CLASSIFIER, "README.md"


class ClassifierError(AjepaError, ValueError):
    """A classifier's folder cannot be read or written; the message names it and the remedy."""


@dataclass(frozen=True)
class Reference:
    """The encoder of somebody else.

    Attributes:
        source: what it is opened from; see `ajepa.eval.models.text`.
        fingerprint: of its weights, before any training here.
        trained: whether the folder has weights that replace them.
    """

    source: str
    fingerprint: str
    trained: bool = False


@dataclass(frozen=True)
class _Content:
    """What `classifier.json` needs for use; the rest of it is `about`."""

    labels: LabelSet
    head: HeadConfig
    longest_seconds: float = 0.0
    encoder: Reference | None = None

    def __post_init__(self) -> None:
        if self.longest_seconds < 0:
            raise ValueError(f"longest_seconds is {self.longest_seconds}, must be at least 0")
        if self.head.labels != len(self.labels.names):
            raise ValueError(f"the head has {self.head.labels} outputs for {len(self.labels.names)} labels")


class ForeignAudioClassifier(AudioClassifier):
    """A classifier with the encoder of somebody else, or a baseline: a clip model as probes take it."""

    def __init__(
        self,
        encoder: nn.Module,
        head: Head,
        label_set: LabelSet,
        reference: Reference,
        longest_seconds: float = 0.0,
    ) -> None:
        super().__init__(encoder, head, label_set, longest_seconds)  # type: ignore[arg-type]
        self.reference = reference

    def statistics(self, waveform_BS: Tensor, lengths: list[int]) -> Tensor:
        """Clips of one length at a time, unless the encoder takes others together."""
        waveform_BS = waveform_BS.to(self.device)
        found: dict[int, Tensor] = {}
        for rows in together(lengths, self.encoder.ragged):
            own = [lengths[row] for row in rows]
            part = self.encoder(waveform_BS[rows, : max(own)], own, self.head.every_layer)
            found |= zip(rows, part, strict=True)
        return torch.stack([found[row] for row in range(len(lengths))]).float()


def check_save(folder: Path) -> None:
    """Raises ClassifierError if a classifier cannot be written there, before the hours that it takes."""
    files.check_place(folder / FILE, "--save")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / FILE).is_file()):
        raise ClassifierError(f"--save {folder}: has other files in it; name a new folder")


def save_classifier(classifier: AudioClassifier, folder: str | Path) -> list[Path]:
    """Write a classifier's folder, whole or not at all; it replaces another classifier's.

    Returns the files.

    Raises:
        ClassifierError: the folder has files other than a classifier's.
    """
    folder = Path(folder)
    check_save(folder)
    foreign = classifier.reference if isinstance(classifier, ForeignAudioClassifier) else None
    content = _Content(classifier.label_set, classifier.head.config, classifier.longest_seconds, foreign)
    with files.folder_in_place_of(folder) as partial:
        _write_weights(classifier, partial / hub.WEIGHTS)
        files.write_json(partial / FILE, {"format": FORMAT, **asdict(content), **_published(classifier)})
        write_card(partial / CARD, folder.resolve().name, classifier, foreign.source if foreign else "")
    return [folder / name for name in (hub.WEIGHTS, FILE, CARD)]


def _published(classifier: AudioClassifier) -> dict[str, Any]:
    """What is said of its making, with the last part of every path alone: folders are given to others."""
    about = copy.deepcopy(classifier.about)
    if "source" in about.get("record", {}):
        about["record"]["source"] = Path(about["record"]["source"]).name
    return about


def _write_weights(classifier: AudioClassifier, path: Path) -> None:
    tensors = {f"head.{name}": value for name, value in classifier.head.state_dict().items()}
    encoder = classifier.encoder
    if isinstance(encoder, AudioEncoder):
        origin = origin_of(encoder, random=True)
        recipe = copy.deepcopy(origin.recipe)
        # Fine-tuning may change the normalisation, and how much audio is encoded at once.
        recipe["front_end"] = asdict(encoder.features.config)
        recipe.setdefault("data", {})["crop_seconds"] = encoder.chunk_patches * encoder.hop_seconds
        tensors |= encoder_tensors(encoder)
    else:
        assert isinstance(classifier, ForeignAudioClassifier)
        recipe, origin = {"name": classifier.reference.source}, Origin({}, False, 0, {})
        if classifier.reference.trained:
            state = encoder.state_dict()
            tensors |= {
                f"encoder.{name}": value for name, value in state.items() if value.is_floating_point()
            }
    info = origin.info | {"pooling": getattr(encoder, "pooling", "mean")}
    checkpoint.save(path, checkpoint.Checkpoint(tensors, recipe, origin.step, info))


def is_classifier(source: str | Path) -> bool:
    """Whether it is a classifier's folder."""
    return (Path(source) / FILE).is_file()


def is_kept(folder: Path | None, record: Record) -> bool:
    """Whether the folder holds the classifier of this record."""
    if folder is None or not is_classifier(folder):
        return False
    held = _read(folder / FILE)[1].get("record", {})
    names = ("score", "seconds", "weights", "task_hash")
    return all(held.get(name) == getattr(record, name) for name in names)


def load_classifier(
    source: str | Path,
    *,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    encoder: str | None = None,
) -> AudioClassifier:
    """Load a classifier, in evaluation mode.

    Args:
        source: a folder of `ajepa evaluate linear|finetune --save`, or `hf://owner/name[@revision]`.
        device: None for the CPU.
        precision: of the encoder's matrix products, as of `ajepa.load_model`; only of our encoders.
        encoder: source of the encoder of somebody else that it was made with. None takes the one that the
            folder names, if no code from elsewhere runs for it.

    Raises:
        ClassifierError: no such folder, it is damaged, or the encoder of somebody else is not the one that it
            was made with.
        HubError: the Hub does not have it, or cannot be reached.
    """
    text = str(source)
    if text.startswith(hub.SCHEME):
        hub.download(f"{text}/{hub.WEIGHTS}")
        source = hub.download(f"{text}/{FILE}").parent
    folder = Path(source)
    if not is_classifier(folder):
        raise ClassifierError(
            f"{folder}: no {FILE} in it; name a folder that `ajepa evaluate linear|finetune --save` wrote"
        )
    content, about = _read(folder / FILE)
    classifier: AudioClassifier
    if content.encoder is None:
        if encoder is not None:
            raise ClassifierError(f"{folder}: has its encoder with it; leave {encoder} out")
        model = load_model(folder / hub.WEIGHTS, precision=precision)
        _check_fits(folder, content.head, model)
        head = _head(folder, content)
        classifier = AudioClassifier(model, head, content.labels, content.longest_seconds)
    else:
        head = _head(folder, content)
        module = _foreign(folder, content.encoder, encoder)
        classifier = ForeignAudioClassifier(
            module, head, content.labels, content.encoder, content.longest_seconds
        )
    classifier.about = about
    return classifier.to(device or "cpu").eval()


def _read(path: Path) -> tuple[_Content, dict[str, Any]]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(given, dict) or given.get("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}; update ajepa")
        used = {name: given.pop(name) for name in ("labels", "head", "longest_seconds", "encoder")}
        return from_plain(_Content, used), {k: v for k, v in given.items() if k != "format"}
    except (OSError, StoredError, ValueError, KeyError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ClassifierError(f"{path}: not a classifier of ajepa ({reason})") from error


def _head(folder: Path, content: _Content) -> Head:
    path = folder / hub.WEIGHTS
    saved = checkpoint.load(path, prefixes=("head.",))
    state = {name.removeprefix("head."): value for name, value in saved.tensors.items()}
    check_finite(path, saved.tensors, LARGEST_OF_HEAD)
    config = content.head
    wanted = {"linear.weight": (config.labels, config.values)}
    if config.layers:
        wanted["mix_LV"] = (config.layers, config.values)
    for name, shape in wanted.items():  # before anything of that size is built
        if (found := saved.shapes.get(f"head.{name}")) != shape:
            raise ClassifierError(f"{path}: head.{name} has the shape {found}, {FILE} says {shape}")
    head = Head(config)
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise ClassifierError(f"{path}: {' '.join(str(error).split())}") from error
    return head


def _check_fits(folder: Path, config: HeadConfig, model: AudioEncoder) -> None:
    """Raises ClassifierError if the head takes statistics that the encoder does not give."""
    depth = len(model.encoder.blocks)
    numbers = () if config.layer == WEIGHTED else parse_layers(config.layer, None)
    bands = model.encoder.freq_patches if config.pool == "concat" else 1
    width = max(1, len(numbers)) * model.encoder.width
    values = bands * width * (2 if config.time == "mean+std" else 1)
    if values != config.values or config.layers not in (0, depth + 1) or max(numbers, default=0) > depth:
        raise ClassifierError(f"{folder}: its head does not fit its encoder of {depth} blocks; fit it again")


def _foreign(folder: Path, reference: Reference, given: str | None) -> nn.Module:
    # Imports what other people's encoders need.
    from ajepa.eval.models.open import open_source
    from ajepa.eval.models.text import runs_code

    if given is None and runs_code(reference.source):
        raise ClassifierError(
            f"{folder}: its encoder is {reference.source}, whose code runs only if you name it yourself, by "
            f"--encoder or load_classifier(..., encoder={reference.source!r})"
        )
    module = open_source("", given or reference.source).module
    if (found := fingerprint(module)) != reference.fingerprint:
        raise ClassifierError(
            f"{folder}: made with other weights of {reference.source} (fingerprint {reference.fingerprint}, "
            f"now {found}); give that encoder its weights back, or fit the classifier again"
        )
    if reference.trained:
        saved = checkpoint.load(folder / hub.WEIGHTS, prefixes=("encoder.",))
        state = {name.removeprefix("encoder."): value for name, value in saved.tensors.items()}
        missing, unexpected = module.load_state_dict(state, strict=False)
        floats = {name for name, value in module.state_dict().items() if value.is_floating_point()}
        if unexpected or (lost := floats & set(missing)):
            names = ", ".join(sorted(unexpected or lost)[:3])
            raise ClassifierError(f"{folder / hub.WEIGHTS}: does not fit {reference.source} ({names})")
    return module
