"""`ajepa export`: a model for other people and programs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    export = commands.add_parser(
        "export",
        help="write a model with its card, as ONNX or torch.export, or put it on the Hugging Face Hub",
        description="Writes model.safetensors, which ajepa.load_model reads, and README.md, the model card. "
        "Example: ajepa export runs/first --out exported --onnx --records scores/records.json",
    )
    export.add_argument("model", help="a run's folder, a checkpoint or an official file")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    export.add_argument(
        "--encoder",
        "--weights",
        dest="weights",
        metavar="NAME",
        help="which of its encoders: target or context; default: the one that its recipe has evaluated",
    )
    export.add_argument("--heads", type=int, help="of an official encoder; default: width / 64")
    export.add_argument("--sample-rate", type=int, help="of an Audio-JEPA file, Hz; default: 32000")
    export.add_argument(
        "--dtype", choices=["float32", "float16"], default="float32", help="of stored weights"
    )
    export.add_argument(
        "--pooling",
        choices=["mean", "mean+std"],
        help="over time, of clip and HEAR scene embeddings; default: the file's, else mean",
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
    export.add_argument("--private", action="store_true", help="of a repository that --push makes")
    export.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> None:
    """`ajepa export`."""
    from ajepa.checkpoints import hub
    from ajepa.export import ExportError, export_model
    from ajepa.export.card import read_records
    from ajepa.model.fingerprint import fingerprint
    from ajepa.model.loading import load_model

    if options.private and not options.push:
        raise ExportError("--private is of the repository that --push makes; give both or none")
    if options.push:
        hub.check_repo(options.push)
    model = load_model(
        options.model,
        weights=options.weights,
        heads=options.heads,
        sample_rate=options.sample_rate,
        pooling=options.pooling,
    )
    records = read_records(options.records, fingerprint(model)) if options.records else ()
    exported = export_model(
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
        print(f"{address}: load it with ajepa.load_model({address!r})")
