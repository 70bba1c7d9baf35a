"""A classifier for other programs: ONNX and torch.export with its labels, and a folder for transformers."""

from __future__ import annotations

import json
from pathlib import Path

from ajepa.export import ONNX, TORCH_EXPORT, Exported, ExportError
from ajepa.model.classifier import AudioClassifier

from .folder import ForeignAudioClassifier, save_classifier


def export_classifier(
    classifier: AudioClassifier,
    out: str | Path,
    *,
    onnx: bool = False,
    torch_export: bool = False,
    transformers: bool = False,
) -> Exported:
    """Write a classifier's folder and, on request, graphs and what transformers reads.

    Args:
        classifier: with one of our encoders, in single precision and on the CPU.
        out: the folder; or a file that ends in .onnx or .pt2, which is then all that is written.
        onnx, torch_export: also write model.onnx, model.pt2, and compare them with the classifier.
        transformers: also write what `pipeline("audio-classification")` reads.

    Raises:
        ExportError: the encoder is of somebody else, or a graph cannot be made or disagrees.
        ClassifierError: the folder has other files in it.
    """
    out = Path(out)
    if isinstance(classifier, ForeignAudioClassifier):
        raise ExportError(
            f"its encoder is {classifier.reference.source}; only a classifier with our encoder is exported"
        )
    places = {ONNX: onnx, TORCH_EXPORT: torch_export}
    graphs = [out / name for name, wanted in places.items() if wanted]
    files: list[Path] = []
    if alone := out.suffix in (".onnx", ".pt2"):
        if graphs or transformers:
            raise ExportError(f"--out {out} is one file; leave the other options out, or name a folder")
        graphs = [out]
    if not alone:
        files += save_classifier(classifier, out)
    differences = {}
    if graphs:
        from ajepa.export.programs import capture, write_onnx, write_torch

        program, metadata = capture(classifier), metadata_of(classifier)
        for path in graphs:
            write = write_onnx if path.suffix == ".onnx" else write_torch
            differences[path.name] = write(program, path, classifier, metadata)
    if transformers:
        try:
            from ajepa.hf import save_folder
        except ImportError as error:
            raise ExportError(
                f"a folder for transformers needs it: pip install 'ajepa[baselines]' ({error})"
            ) from error
        files += save_folder(classifier, out)
    return Exported([*files, *graphs], differences)


def metadata_of(classifier: AudioClassifier) -> dict[str, str]:
    """What a graph's user has to know: labels in the order of the outputs, rate, longest clip."""
    from ajepa.export.graph import ClassifierGraph

    labels = classifier.label_set
    return {
        "labels": json.dumps(labels.names, ensure_ascii=False),
        "several_labels": json.dumps(labels.several),
        "thresholds": json.dumps(labels.thresholds),
        "sample_rate": str(classifier.sample_rate),
        "most_samples": str(ClassifierGraph(classifier).most_samples),
    }
