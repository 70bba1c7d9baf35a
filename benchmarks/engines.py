"""The encoder of the package by several engines: rates, shares of the products' rate, and agreement.

    python benchmarks/engines.py [--data FOLDER] [--batch N] [--repeats N] [--threads N]

Sides, from waveform to clip embedding, on clips as long as the encoder's training crops (an exported graph
takes no more), in turns:

    float32, bf16         `ajepa.load_model` as it is
    onnxruntime           the graph of `ajepa export --onnx`
    torch 8-bit           linear layers of the blocks by torch's dynamic quantisation
    onnxruntime 8-bit     the same graph, its products by onnxruntime's dynamic quantisation

Times are medians of processor time. The floor is the time that the FLOPs take at the rate of one large
product, in float32 for float32 sides, in bfloat16 for the others. Cosines are with the float32 embeddings of
real clips (--data), as they are and less their mean.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
import torch
from common import RATE
from embed import CPU, Embed, cosines, real_clips, token_flops
from pretrain_step import product_rate
from torch import Tensor, nn

import ajepa
from ajepa.cli import main as command
from ajepa.memory import keep_freed_memory
from ajepa.training.provenance import describe_run

CLIPS = 64  # real ones


def sides(folder: Path, threads: int) -> dict[str, Embed]:
    """Each side's call, [B, S] to [B, D]."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    single, half, eight = (ajepa.load_model(precision=kind) for kind in ("float32", "bf16", "float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves this to torchao, whose kernels need a compiler
        blocks = torch.ao.quantization.quantize_dynamic(eight.encoder.blocks, {nn.Linear}, dtype=torch.qint8)
    eight.encoder.blocks = blocks
    assert command(["export", "default", "--out", str(folder), "--onnx"]) == 0
    graph, small = folder / "model.onnx", folder / "model8.onnx"
    quantize_dynamic(
        graph, small, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"]
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads

    def session(path: Path) -> Embed:
        made = onnxruntime.InferenceSession(path, options)

        def call(waveform_BS: Tensor) -> Tensor:
            lengths = np.full(len(waveform_BS), waveform_BS.shape[1], np.int64)
            fed = {"waveform": waveform_BS.numpy(), "lengths": lengths}
            return torch.from_numpy(made.run(["clip"], fed)[0])

        return call

    return {
        "float32": lambda waveform_BS: single(waveform_BS).clip,
        "onnxruntime": session(graph),
        "bf16": lambda waveform_BS: half(waveform_BS).clip,
        "torch 8-bit": lambda waveform_BS: eight(waveform_BS).clip,
        "onnxruntime 8-bit": session(small),
    }


@torch.inference_mode()
def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    model = ajepa.load_model()
    samples = int(model.chunk_patches * model.hop_seconds * RATE)
    calls = sides(folder, options.threads)
    waveform_BS = 0.1 * torch.randn(options.batch, samples, generator=torch.Generator().manual_seed(0))
    flops = token_flops(model, waveform_BS)
    rates = {
        kind: product_rate(CPU, getattr(torch, kind), clock=time.process_time)
        for kind in ("float32", "bfloat16")
    }
    timed = {name: lambda call=call: call(waveform_BS) for name, call in calls.items()}
    times = common.medians(timed, options.repeats, time.process_time)
    report: dict[str, Any] = {"seconds": samples / RATE, "batch": options.batch, "gflops": flops / 1e9}
    report |= {"rates": rates, "sides": {}}
    clips = real_clips(options.data, samples / RATE, CLIPS)
    reference = None if clips is None else embedded(calls["float32"], clips, options.batch)
    for name, seconds in times.items():
        rate = rates["float32" if name in ("float32", "onnxruntime") else "bfloat16"]
        side = {"clips_per_s": options.batch / seconds, "share_of_floor": flops / seconds / rate}
        if clips is not None and reference is not None:
            found = embedded(calls[name], clips, options.batch)
            side["cosine"], side["cosine_centred"] = cosines(found, reference)
        report["sides"][name] = side
        print(name, {key: round(value, 5) for key, value in side.items()}, flush=True)
    return report | {"real_clips": 0 if clips is None else len(clips)}


def embedded(call: Embed, clips: Tensor, batch: int) -> Tensor:
    return torch.cat([call(part.contiguous()) for part in clips.split(batch)])


def main() -> None:
    parser = common.parser(__doc__, threads=1)
    parser.add_argument("--data", type=Path, default=common.SHARED / "data", help="real audio")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    run = describe_run(CPU)
    print(f"{run['device']}, {options.threads} threads, torch {run['torch']}")
    with TemporaryDirectory() as folder:
        report = measure(Path(folder), options)
    common.write({"run": run, **report}, options.json)


if __name__ == "__main__":
    main()
