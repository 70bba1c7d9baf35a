"""`ajepa export`: a model or a classifier for other people and programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .usage import UsageError

if TYPE_CHECKING:
    from ajepa.export import Exported


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    export = commands.add_parser(
        "export",
        help="write a model with its card, as ONNX or torch.export, or put it on the Hugging Face Hub",
        description="Writes model.safetensors, which ajepa.load_model reads, and README.md, the model card. "
        "Example: ajepa export runs/first --out exported --onnx --records scores/records.json. Of a "
        "classifier that `ajepa evaluate --save` left: ajepa export birds --out birds.onnx",
    )
    export.add_argument(
        "model", help="a run's folder, a checkpoint or an official file; or a classifier's folder"
    )
    export.add_argument(
        "--out", type=Path, required=True, help="folder to write; of a classifier also FILE.onnx or FILE.pt2"
    )
    export.add_argument(
        "--encoder",
        "--weights",
        dest="weights",
        metavar="NAME",
        help="which of its encoders: target or context; default: the one that its recipe names",
    )
    export.add_argument(
        "--heads", type=int, help="attention heads of an official encoder; default: width / 64"
    )
    export.add_argument(
        "--sample-rate", type=int, help="sample rate of an Audio-JEPA file, Hz; default: 32000"
    )
    export.add_argument(
        "--dtype",
        choices=["float32", "float16"],
        default="float32",
        help="type of the stored weights; default: float32",
    )
    export.add_argument(
        "--pooling",
        choices=["mean", "mean+std"],
        help="over time, of clip and HEAR scene embeddings; default: the file's, else mean",
    )
    export.add_argument(
        "--layers",
        metavar="N+N",
        help="which layers frames and clip join, such as 2+4+6 or last; default: the file's, else last",
    )
    export.add_argument("--name", help="title of the card; default: the repository's or the folder's name")
    export.add_argument(
        "--records", type=Path, help="records.json of `ajepa evaluate`, for the card's scores"
    )
    export.add_argument("--licence", help="of the weights, such as cc-by-4.0; default: not stated")
    export.add_argument("--onnx", action="store_true", help="also model.onnx, checked in onnxruntime")
    export.add_argument("--torch-export", action="store_true", help="also model.pt2, for torch.export.load")
    export.add_argument(
        "--transformers", action="store_true", help="also settings and code, for AutoModel.from_pretrained"
    )
    export.add_argument(
        "--push", metavar="OWNER/NAME", help="put it on the Hub (HF_TOKEN or `hf auth login`)"
    )
    export.add_argument("--private", action="store_true", help="make the repository of --push private")
    export.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> None:
    """`ajepa export`."""
    from ajepa.checkpoints import hub
    from ajepa.eval.classifiers.folder import is_classifier
    from ajepa.export import ExportError

    if options.private and not options.push:
        raise ExportError("--private is of the repository that --push makes; give both or none")
    if options.push:
        hub.check_repo(options.push)
    exported = _classifier(options) if is_classifier(options.model) else _encoder(options)
    for path in exported.files:
        difference = exported.differences.get(path.name)
        note = "" if difference is None else f", within {difference:.1g} of the model"
        print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB{note}")
    if options.push:
        names = [path.name for path in exported.files]
        address = hub.upload(
            options.out,
            options.push,
            names,
            private=options.private,
            message=f"ajepa export of {options.model}",
        )
        load = "load_classifier" if is_classifier(options.model) else "load_model"
        print(f"{address}: load it with ajepa.{load}({address!r})")


def _classifier(options: argparse.Namespace) -> Exported:
    from ajepa.eval.classifiers import load_classifier
    from ajepa.eval.classifiers.exported import export_classifier

    for name in ("weights", "heads", "sample_rate", "pooling", "layers", "name", "records", "licence"):
        if getattr(options, name) is not None:
            flag = "encoder" if name == "weights" else name.replace("_", "-")
            raise UsageError(f"--{flag} is of encoders; {options.model} is a classifier: leave it out")
    if options.dtype != "float32":
        raise UsageError(f"--dtype {options.dtype} is of encoders; {options.model} is a classifier")
    if options.push and options.out.suffix:
        raise UsageError(f"--push needs a folder; --out is {options.out}")
    return export_classifier(
        load_classifier(options.model),
        options.out,
        onnx=options.onnx,
        torch_export=options.torch_export,
        transformers=options.transformers,
    )


def _encoder(options: argparse.Namespace) -> Exported:
    from ajepa.export import export_model
    from ajepa.export.card import read_records
    from ajepa.model.fingerprint import fingerprint
    from ajepa.model.loading import load_model

    model = load_model(
        options.model,
        weights=options.weights,
        heads=options.heads,
        sample_rate=options.sample_rate,
        pooling=options.pooling,
        layers=options.layers,
    )
    records = read_records(options.records, fingerprint(model)) if options.records else ()
    return export_model(
        model,
        options.out,
        name=options.name,
        dtype=options.dtype,
        records=records,
        licence=options.licence,
        repo=options.push,
        onnx=options.onnx,
        torch_export=options.torch_export,
        transformers=options.transformers,
    )
