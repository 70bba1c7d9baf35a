"""The graph of an encoder or a classifier as files that run without this package: ONNX, and a program of
torch.export.

Each file is loaded again and compared with the model on clips of many lengths; a file that disagrees is an
error and is not kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from ajepa.files import in_place_of
from ajepa.model import AudioEncoder
from ajepa.model.classifier import AudioClassifier

from .errors import ExportError
from .graph import ClassifierGraph, EmbeddingGraph, Outputs

TOLERANCE = 1e-4
INPUT_NAMES = ("waveform", "lengths")
EXAMPLE_CLIPS = 2  # of the traced example; the file accepts any number

Runner = Callable[[Tensor, Tensor], Sequence[Tensor]]
Model = AudioEncoder | AudioClassifier


def graph_of(model: Model) -> EmbeddingGraph | ClassifierGraph:
    """The computation of one chunk, in tensors alone."""
    return EmbeddingGraph(model) if isinstance(model, AudioEncoder) else ClassifierGraph(model)


@torch.no_grad()
def capture(model: Model) -> torch.export.ExportedProgram:
    """Trace waveform [B, S], lengths [B] to the graph's outputs, with any B, and any S up to `most_samples`.

    Raises:
        ExportError: the model is not in single precision, or torch is too old for variable B and S.
    """
    # Private, but torch.onnx.export sets it too: otherwise a clip of one time step would be a special case.
    from torch.fx.experimental import _config

    encoder = model if isinstance(model, AudioEncoder) else model.encoder
    if encoder.precision != "float32":
        raise ExportError("a graph is made in single precision; load the model with precision='float32'")
    graph = graph_of(model).eval()
    samples = graph.most_samples // 2
    example = (torch.zeros(EXAMPLE_CLIPS, samples), torch.tensor([samples, samples // 2]))
    batch = torch.export.Dim("clips", min=1)
    longest = torch.export.Dim("samples", min=1, max=graph.most_samples)
    try:
        with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            return torch.export.export(graph, example, dynamic_shapes=({0: batch, 1: longest}, {0: batch}))
    except torch._dynamo.exc.UserError as error:  # 2.8 finds constraints where there are none
        raise ExportError(
            f"torch {torch.__version__} cannot export a graph for clips of any length; upgrade it (2.14 can)"
        ) from error


def write_torch(
    program: torch.export.ExportedProgram,
    path: Path,
    model: Model,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> float:
    """Write a program for `torch.export.load`; returns the largest difference from the model.

    Args:
        metadata: kept as extra files of these names.

    Raises:
        ExportError: it disagrees with the model.
    """
    with in_place_of(path, "pt2") as partial:
        with warnings.catch_warnings():
            # The front end's filters are views of one tensor, which are saved separately.
            warnings.filterwarnings("ignore", "No complete tensor found")
            torch.export.save(program, partial, extra_files=dict(metadata))
        return _checked(path, torch.export.load(partial).module(), model)


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    model: Model,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> float:
    """Write an ONNX file; returns the largest difference from the model.

    Args:
        metadata: kept in the file's metadata properties.

    Raises:
        ExportError: onnx is not installed, or the file disagrees with the model in onnxruntime.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch.onnx translates with
    except ImportError as error:
        raise ExportError("ONNX needs its packages: pip install 'ajepa[onnx]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own internals
        translated = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=INPUT_NAMES,
            output_names=graph_of(model).outputs,
        )
    assert translated is not None
    translated.model.metadata_props.update(metadata)
    with in_place_of(path, "onnx") as partial:
        translated.save(partial)
        session = onnxruntime.InferenceSession(partial, providers=["CPUExecutionProvider"])

        def run(waveform_BS: Tensor, lengths_B: Tensor) -> Sequence[Tensor]:
            feeds = dict(zip(INPUT_NAMES, (waveform_BS.numpy(), lengths_B.numpy()), strict=True))
            return [torch.from_numpy(value) for value in session.run(None, feeds)]

        return _checked(path, run, model)


def _checked(path: Path, run: Runner, model: Model) -> float:
    worst = 0.0
    for waveform_BS, lengths_B in check_batches(graph_of(model).most_samples, model.sample_rate):
        difference = _difference(run, model, waveform_BS, lengths_B)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{path}: differs from the model by {difference:.2g} (allowed: {TOLERANCE:g}) for clips of "
                f"{lengths_B.tolist()} samples, and was not written. Other versions of torch, onnxscript or "
                "onnxruntime may agree"
            )
        worst = max(worst, difference)
    return worst


@torch.no_grad()
def _difference(run: Runner, model: Model, waveform_BS: Tensor, lengths_B: Tensor) -> float:
    if isinstance(model, AudioClassifier):
        probability_BY, _ = run(waveform_BS, lengths_B)
        expected_BY = model.predict(waveform_BS, lengths_B).probabilities
        return float((probability_BY - expected_BY).abs().amax())
    expected = model(waveform_BS, lengths_B)
    found = Outputs(*run(waveform_BS, lengths_B))
    if not torch.equal(found.steps, expected.lengths):
        return float("inf")
    steps = expected.frames.shape[1]
    past = found.frames[:, steps:].abs().amax() if found.frames.shape[1] > steps else torch.zeros(())
    differences = (
        (found.frames[:, :steps] - expected.frames).abs().amax(),
        (found.clip - expected.clip).abs().amax(),
        past,
    )
    return float(torch.stack(differences).amax())


def check_batches(most_samples: int, sample_rate: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of noise with tones at the level of recordings, from one sample to the longest clip."""
    generator = torch.Generator().manual_seed(0)
    for clips, samples in ((1, 1), (3, most_samples // 20), (1, most_samples // 3), (2, most_samples)):
        time_S = torch.arange(samples) / sample_rate
        pitch_B1 = torch.rand(clips, 1, generator=generator) * 2000 + 100
        noise_BS = torch.randn(clips, samples, generator=generator)
        # Each clip is shorter than the one before it; its padding is loud, since it must not matter.
        lengths_B = torch.tensor([max(1, samples // (1 + clip)) for clip in range(clips)])
        yield 0.1 * (2 * torch.pi * pitch_B1 * time_S).sin() + 0.03 * noise_BS, lengths_B
