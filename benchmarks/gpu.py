"""All measurements that need a GPU, in one JSON file; `benchmarks/gpu.sh` calls this.

    python benchmarks/gpu.py [--audio FOLDER] [--out FILE] [--minutes 7.5] [--only SECTION ...] [--cpu]

Sections: products, pretrain, log_mel, embedding, agreement, synchronisations, run. The file is written again
after each section, so that earlier measurements are kept whatever happens next. A section that fails is
recorded with its error; one that does not apply, or that has no time left, with the reason. Times are medians
with the lowest and the highest. `--cpu` uses networks of a few thousand weights: it tries the script, and its
numbers mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from pretrain_step import Step, measure, product_rate, seconds_of, synchronise
from torch import Tensor

from ajepa.features import LogMel
from ajepa.model import AudioEncoder
from ajepa.nn.encoder import Encoder
from ajepa.recipes import Recipe, load_recipe
from ajepa.training.provenance import describe_run

# Step rates: the recipe's size, clips per step, and the options of the run. The first ones matter most.
PRETRAIN: list[tuple[str, int, list[str]]] = [
    ("b", 128, ["run.compile=off"]),
    ("b", 256, ["run.compile=on"]),
    ("b", 512, ["run.compile=off", "run.activation_checkpointing=true"]),
    ("s", 256, ["run.compile=off"]),
    ("s", 512, ["run.compile=on"]),
    ("b", 256, ["run.compile=off"]),
    ("b", 32, ["run.compile=off", "run.precision=32-true"]),
]
TINY_PRETRAIN: list[tuple[str, int, list[str]]] = [
    ("s", 2, ["run.compile=off"]),
    ("s", 2, ["run.compile=off", "run.activation_checkpointing=true"]),
]
TINY = [
    "encoder.width=32",
    "encoder.depth=2",
    "encoder.heads=2",
    "objective.predictor.width=32",
    "objective.predictor.depth=2",
    "objective.predictor.heads=2",
    "data.crop_seconds=1.28",
]


class SkippedError(RuntimeError):
    """A section does not apply here; the message says why."""


@dataclass(frozen=True)
class Bench:
    """The device and the sizes to measure.

    Attributes:
        device: the device to measure.
        tiny: use sizes that only try the script.
        audio: folder for the short real run, if one was given.
        run_seconds: duration of that run.
        deadline: time.monotonic() after which nothing new starts.
    """

    device: torch.device
    tiny: bool
    audio: Path | None
    run_seconds: float
    deadline: float

    @property
    def sides(self) -> tuple[int, int, int] | None:
        """Of the products that give a rate, for `product_rate`."""
        return (256, 256, 256) if self.tiny else None

    def recipe(self, size: str, clips: int, overrides: Sequence[str] = ()) -> Recipe:
        """The paper's recipe of a size, on this device."""
        accelerator = "cpu" if self.device.type == "cpu" else "cuda"
        base = [f"optim.batch_size={clips}", "optim.steps=100000", f"run.accelerator={accelerator}"]
        return load_recipe(
            f"ajepa-vit-{size}-as2m",
            [*base, "run.precision=bf16-mixed", *(TINY if self.tiny else []), *overrides],
        )

    def times(self, call: Callable[[], Any], repeats: int = 9) -> dict[str, float]:
        """Times of a call in seconds, after two warm-up calls."""
        seconds = [seconds_of(call, self.device) for _ in range(repeats + 2)][2:]
        return {"median_s": statistics.median(seconds), "low_s": min(seconds), "high_s": max(seconds)}


def products(bench: Bench) -> dict[str, Any]:
    """FLOP/s of one large matrix product, which shares refer to."""
    types = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    return {
        name: {"flop_per_s": product_rate(bench.device, dtype, sides=bench.sides)}
        for name, dtype in types.items()
    }


def pretrain(bench: Bench) -> list[dict[str, Any]]:
    """Clips/s, model FLOP/s, their share of the product rate and peak memory, for each entry of the table."""
    results = []
    for size, clips, overrides in TINY_PRETRAIN if bench.tiny else PRETRAIN:
        asked = {"size": size, "clips": clips, "options": overrides}
        if time.monotonic() > bench.deadline:
            results.append(asked | {"skipped": "no time left"})
            continue
        try:
            found = measure(bench.recipe(size, clips, overrides), 2 if bench.tiny else 10, False, bench.sides)
            results.append(asked | {key: value for key, value in found.items() if key != "run"})
        except Exception as error:  # running out of memory at one size says nothing about the others
            results.append(asked | {"error": describe(error)})
        release(bench.device)
    return results


def log_mel(bench: Bench) -> dict[str, Any]:
    """Log-mel spectrograms of 10 s clips."""
    front_end = LogMel().to(bench.device)
    waveform_BS = noise(2 if bench.tiny else 128, 10).to(bench.device)
    times = bench.times(lambda: front_end(waveform_BS))
    return times | {"clips": len(waveform_BS), "clips_per_s": len(waveform_BS) / times["median_s"]}


def embedding(bench: Bench) -> dict[str, Any]:
    """Embeddings of 10 s clips with a ViT-B, waveform to clip vector, in both precisions."""
    recipe = bench.recipe("s" if bench.tiny else "b", 1)
    model = AudioEncoder(recipe.front_end, recipe.encoder, chunk_seconds=10.24).to(bench.device).eval()
    waveform_BS = noise(2 if bench.tiny else 64, 10).to(bench.device)
    results: dict[str, Any] = {"clips": len(waveform_BS)}
    clip_BD = {}

    def embed() -> Tensor:
        with torch.inference_mode():
            return model(waveform_BS).clip

    for name in ("float32", "bfloat16"):
        if name == "bfloat16":
            model.set_bf16()
        clip_BD[name] = embed().float().cpu()
        times = bench.times(embed, 5)
        results[name] = times | {"clips_per_s": len(waveform_BS) / times["median_s"]}
    return results | {"bfloat16_against_float32": difference(clip_BD["bfloat16"], clip_BD["float32"])}


def agreement(bench: Bench) -> dict[str, Any]:
    """The same clips on this device and on the CPU, and on this device in bfloat16 and float32."""
    recipe, clips = bench.recipe("s", 1), noise(2, 10 if not bench.tiny else 2)
    torch.manual_seed(0)
    encoder = Encoder(recipe.encoder).eval()

    def encode(device: torch.device, half: bool) -> Tensor:
        encoder.to(device)
        patches_BNP, grid = encoder.patchify(spectrogram_BLC.to(device))
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            output_BND, _ = encoder(patches_BNP, encoder.positions(grid, patches_BNP))
        return output_BND.float().cpu()

    cpu = torch.device("cpu")
    spectrogram_BLC = LogMel()(clips)
    there_BLC = LogMel().to(bench.device)(clips.to(bench.device)).cpu()
    reference, there = encode(cpu, False), encode(bench.device, False)
    half = encode(bench.device, True)
    return {
        "log_mel_device_against_cpu": difference(there_BLC, spectrogram_BLC),
        "encoder_device_against_cpu": difference(there, reference),
        "encoder_bfloat16_against_float32": difference(half, there),
        "float32_products": torch.get_float32_matmul_precision(),
    }


def synchronisations(bench: Bench) -> dict[str, Any]:
    """How often, and where, one training step makes the CPU wait for the GPU, as counted by torch."""
    if bench.device.type != "cuda":
        raise SkippedError("only a CUDA device can make the CPU wait")
    step = Step(bench.recipe("s", 8, ["run.compile=off"]))
    for _ in range(2):
        step()
    synchronise(bench.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchroniz" in str(warning.message)]
    places = sorted({f"{Path(warning.filename).name}:{warning.lineno}" for warning in waits})
    return {"in_one_step": len(waits), "at": places}


def run(bench: Bench) -> dict[str, Any]:
    """`ajepa pretrain` on real audio with all devices, stopped with Ctrl-C; returns what it logged."""
    if bench.audio is None:
        raise SkippedError("no --audio FOLDER was given")
    devices = torch.cuda.device_count() if bench.device.type == "cuda" else 1
    clips = 8 if bench.tiny else 128 * devices
    accelerator = "cpu" if bench.device.type == "cpu" else "cuda"
    options = [
        f"run.accelerator={accelerator}",
        f"run.devices={devices}",
        f"optim.batch_size={clips}",
        f"data.workers={0 if bench.tiny else max(1, (os.cpu_count() or 2) // devices - 1)}",
        "run.log_every=5",
        "run.precision=bf16-mixed",
        *(TINY if bench.tiny else []),
    ]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ajepa.cli", "pretrain", "ajepa-vit-b-as2m", "--skip-broken"]
        command += ["--data.source", str(bench.audio), "--run.out", folder, *options]
        log, began = Path(folder, "metrics.jsonl"), time.monotonic()
        with Path(folder, "output.txt").open("w+") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            try:
                # The clock starts at the first line of metrics: start-up is not measured.
                while process.poll() is None and time.monotonic() < min(began + 120, bench.deadline):
                    if log.is_file() and log.stat().st_size:
                        time.sleep(bench.run_seconds)
                        break
                    time.sleep(0.2)
                process.send_signal(signal.SIGINT)
                process.wait(60)
            finally:
                process.kill()
            output.seek(0)
            said = output.read().splitlines()
        records = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    if not records:
        raise RuntimeError(f"the run logged no step; its last output: {said[-5:]}")
    later = records[len(records) // 3 :]  # in the first steps, workers start and the model compiles
    return {
        "devices": devices,
        "clips_a_step": clips,
        "steps": records[-1]["step"],
        "exit": process.returncode,
        "clips_per_s": statistics.median(record["clips_per_s"] for record in later),
        "clips_per_s_range": [f(record["clips_per_s"] for record in later) for f in (min, max)],
        "share_of_time_waiting_for_audio": statistics.median(record["data_wait"] for record in later),
        "loss_first_and_last": [records[0]["loss"], records[-1]["loss"]],
    }


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "products": products,
    "log_mel": log_mel,
    "agreement": agreement,
    "synchronisations": synchronisations,
    "run": run,
    "embedding": embedding,
    "pretrain": pretrain,
}


def noise(clips: int, seconds: int) -> Tensor:
    """White noise [B, S] at 16 kHz."""
    return 0.1 * torch.randn(clips, seconds * 16_000, generator=torch.Generator().manual_seed(0))


def difference(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Largest and root mean square difference, divided by the reference's standard deviation."""
    error, spread = (ours - theirs).double(), theirs.double().std().item()
    return {"largest": error.abs().max().item() / spread, "rms": error.square().mean().sqrt().item() / spread}


def describe(error: Exception) -> str:
    """An error's last words and the place that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:600]} ({Path(place.filename).name}:{place.lineno})"


def release(device: torch.device) -> None:
    """Free what a section leaves behind, compiled graphs included."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def hardware(device: torch.device) -> dict[str, Any]:
    """Versions, commit and processor; for GPUs, memory and number."""
    found = describe_run(device) | {"cpus": os.cpu_count(), "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpus": torch.cuda.device_count(), "gpu_memory_gib": properties.total_memory / 2**30}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", type=Path, metavar="FOLDER", help="audio for a short real run")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), metavar="FILE")
    parser.add_argument("--minutes", type=float, default=7.5, help="start nothing new after this time")
    parser.add_argument("--run-seconds", type=float, default=60.0, help="length of that run")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--cpu", action="store_true", help="try the script without a GPU, on tiny networks")
    options = parser.parse_args(arguments)
    if not options.cpu and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; pass --cpu to try the script without one")
    started = time.monotonic()
    device = torch.device("cpu") if options.cpu else torch.device("cuda", 0)
    bench = Bench(device, options.cpu, options.audio, options.run_seconds, started + 60 * options.minutes)
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    report: dict[str, Any] = {"date": date, "tiny": options.cpu, "hardware": hardware(device), "sections": {}}
    for name in options.only:
        began = time.monotonic()
        try:
            if began > bench.deadline:
                raise SkippedError("no time left")
            entry: dict[str, Any] = {"result": SECTIONS[name](bench)}
        except SkippedError as reason:
            entry = {"skipped": str(reason)}
        except Exception as error:  # recorded; the other sections still run
            entry = {"error": describe(error)}
        release(device)
        report["sections"][name] = entry | {"seconds": time.monotonic() - began}
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        outcome = "skipped" if "skipped" in entry else "failed" if "error" in entry else "done"
        print(f"{name}: {outcome} after {time.monotonic() - began:.1f} s", flush=True)
    print(options.out)


if __name__ == "__main__":
    main()
