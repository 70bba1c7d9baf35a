"""Models for other people and programs: weights with a model card, ONNX, torch.export, the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ajepa.checkpoints.hub import CONFIG, COPIED, EXTRACTOR, WEIGHTS
from ajepa.model import AudioEncoder

from .card import write_card
from .errors import ExportError
from .weights import Dtype, origin_of, write_weights

__all__ = ["CARD", "ONNX", "TORCH_EXPORT", "ExportError", "Exported", "export_model"]

CARD = "README.md"
ONNX, TORCH_EXPORT = "model.onnx", "model.pt2"
CLASSIFIER = "classifier.json"  # of a classifier's folder, whose weights look the same


class Exported(NamedTuple):
    """The written files, and the largest difference of each graph from the model."""

    files: list[Path]
    differences: dict[str, float]


def export_model(
    model: AudioEncoder,
    out: str | Path,
    *,
    name: str | None = None,
    dtype: Dtype = "float32",
    records: Sequence[dict[str, Any]] = (),
    licence: str | None = None,
    repo: str | None = None,
    onnx: bool = False,
    torch_export: bool = False,
    transformers: bool = False,
) -> Exported:
    """Write model.safetensors (which `load_model` reads), a model card and, on request, graphs.

    Args:
        model: from `load_model`, in single precision and on the CPU.
        out: a folder that is missing, empty, or an earlier export, which is replaced.
        name: title of the card; the folder's by default.
        dtype: of the stored weights.
        records: of `ajepa.export.card.read_records`.
        licence: of the weights, such as "cc-by-4.0".
        repo: owner/name on the Hub, for the card's example.
        onnx, torch_export: also write model.onnx, model.pt2 and compare them with the model.
        transformers: also write what AutoModel reads, settings and code.

    Raises:
        ExportError: random weights, `out` holds something else, or a graph cannot be made or disagrees with
            the model.
        CheckpointError: the folder cannot be written.
    """
    out = Path(out)
    origin = origin_of(model)
    _make_room(out)
    files, differences = [out / WEIGHTS], {}
    write_weights(model, origin, files[0], dtype)
    if onnx or torch_export:
        from .programs import capture, write_onnx, write_torch

        program = capture(model)
        if onnx:
            differences[ONNX] = write_onnx(program, out / ONNX, model)
        if torch_export:
            differences[TORCH_EXPORT] = write_torch(program, out / TORCH_EXPORT, model)
    files += [out / file for file in differences]
    if transformers:
        try:
            from ajepa.hf import save_folder
        except ImportError as error:
            raise ExportError(
                f"a folder for transformers needs it: pip install 'ajepa[baselines]' ({error})"
            ) from error
        files += save_folder(model, out)
    files.append(out / CARD)
    write_card(
        out / CARD,
        name or (repo.split("/")[-1] if repo else out.resolve().name),
        model,
        origin,
        records,
        licence,
        repo,
        tuple(differences),
    )
    return Exported(files, differences)


def _make_room(out: Path) -> None:
    """Remove what an earlier export left: the folder is to be one model.

    Raises:
        ExportError: it is no folder for an encoder, or holds something else.
    """
    if out.suffix in (Path(ONNX).suffix, Path(TORCH_EXPORT).suffix):
        raise ExportError(
            f"--out {out}: an encoder's export is a folder; name one, and add --onnx or --torch-export"
        )
    held = [path for path in out.iterdir() if not path.name.startswith(".")] if out.is_dir() else []
    if held and ((out / CLASSIFIER).exists() or not (out / WEIGHTS).is_file()):
        raise ExportError(f"--out {out}: has other files in it; name a new folder")
    for path in held:
        if path.name in (CONFIG, EXTRACTOR, ONNX, TORCH_EXPORT) or (path.suffix == ".py" and _is_copy(path)):
            path.unlink()


def _is_copy(path: Path) -> bool:
    """Whether a module was written by an export for transformers."""
    with path.open("rb") as file:
        return file.read(len(COPIED)) == COPIED.encode()
