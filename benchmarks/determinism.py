"""What gives the same bits again, and how far the rest is apart, from runs on the CPU.

    python benchmarks/determinism.py [pretrain embed] [--json FILE]

Each row changes one thing of a command that has run before, and compares what it writes with that: the
weights of a finished encoder of a small recipe, or the embeddings of 24 clips by the encoder that comes with
the package. Every run is a process of its own. Distances are the largest difference between two values, as a
share of the largest value.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import soundfile

STEPS = 20
TINY = (
    *("encoder.width=64", "encoder.depth=3", "encoder.heads=4", "data.crop_seconds=1.28", "run.keep=9"),
    *("objective.predictor.width=64", "objective.predictor.depth=2", "objective.predictor.heads=4"),
    *("objective.target_layers=2", f"optim.steps={STEPS}", "optim.batch_size=8", "optim.warmup_steps=2"),
    *("run.accelerator=cpu", "run.precision=32-true", "run.compile=off"),
    *("run.log_every=5", "run.checkpoint_every=10"),
)


@dataclass(frozen=True)
class Variant:
    """A row: what is other than in the run that it is compared with."""

    what: str
    against: str = "one thread"
    options: tuple[str, ...] = ()
    threads: int = 1
    resumed: bool = False
    times: int = 1  # as many processes of the same command at once


PRETRAIN = (
    Variant("one thread", ""),
    Variant("the same again"),
    Variant("two threads", threads=2),
    Variant("two threads again", "two threads", threads=2),
    Variant("two loader processes", options=("data.workers=2",)),
    Variant("decoded clips kept in memory", options=("data.cache_megabytes=64",)),
    Variant("stopped after half of the steps, resumed", resumed=True),
    Variant("clips from tar shards", options=("data.source={shards}",)),
    Variant("micro-batches of half the size", options=("optim.accumulate=2",)),
    Variant("activations computed again", options=("run.activation_checkpointing=true",)),
    Variant("two processes (DDP, gloo)", options=("run.devices=2",)),
    Variant("two processes again", "two processes (DDP, gloo)", ("run.devices=2",)),
    Variant("bfloat16", options=("run.precision=bf16-mixed",)),
    Variant("bfloat16 again", "bfloat16", ("run.precision=bf16-mixed",)),
    Variant("torch.compile", options=("run.compile=on",)),
    Variant("torch.compile again", "torch.compile", ("run.compile=on",)),
)
EMBED = (
    Variant("one thread", ""),
    Variant("the same again"),
    Variant("two threads", threads=2),
    Variant("three processes that share the work", times=3),
    Variant("clips one by one", options=("--batch", "1")),
    Variant("four threads that decode", options=("--workers", "4")),
    Variant("each decoded in a helper process", options=("--isolate",)),
    Variant("bfloat16", options=("--precision", "bf16")),
    Variant("bfloat16 again", "bfloat16", ("--precision", "bf16")),
)


def prepare(work: Path) -> None:
    """Sound files, the same in shards, and a recipe."""
    from ajepa.data import open_clips
    from ajepa.data.pack import write_shards
    from ajepa.recipes import dump_recipe, load_recipe

    rng = np.random.default_rng(0)
    (work / "audio").mkdir()
    for number in range(24):
        seconds = 90 if number == 5 else rng.uniform(1, 6)  # one is long enough to be streamed
        samples = 0.1 * rng.standard_normal(round(seconds * common.RATE))
        soundfile.write(work / "audio" / f"{number:02d}.wav", samples, common.RATE)
    write_shards(open_clips(work / "audio"), work / "shards")
    recipe = load_recipe("ajepa-small-cpu", [*TINY, f"data.source={work / 'audio'}"])
    (work / "tiny.yaml").write_text(dump_recipe(recipe))


def run(command: list[str], threads: int, times: int = 1) -> None:
    """Run a command of `ajepa`, or several at once; ends this process if one fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    line = [sys.executable, "-m", "ajepa.cli", *command]
    started = [
        subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(times)
    ]
    for process in started:
        output = process.communicate()[0]
        if process.returncode:
            sys.exit(f"{' '.join(command)}\n{output.decode()[-3000:]}")


def pretrained(work: Path, number: int, variant: Variant) -> dict[str, np.ndarray]:
    """The weights of a finished encoder."""
    from ajepa.checkpoints import native

    out = work / f"run{number}"
    options = [option.format(shards=work / "shards") for option in variant.options]
    command = ["pretrain", str(work / "tiny.yaml"), *options, f"run.out={out}"]
    run(command, variant.threads)
    if variant.resumed:
        (out / "encoder.safetensors").unlink()
        for path in (out / "checkpoints").glob("step-*"):
            if path.stem != f"step-{STEPS // 2:08d}":
                path.unlink()
        run(command, variant.threads)
    return {name: value.numpy() for name, value in native.load(out / "encoder.safetensors").tensors.items()}


def embedded(work: Path, number: int, variant: Variant) -> dict[str, np.ndarray]:
    """The embeddings of all clips."""
    from ajepa import read_embeddings

    out = work / f"embeddings{number}"
    command = ["embed", str(work / "audio"), "--out", str(out), *variant.options]
    run(command, variant.threads, variant.times)
    found = read_embeddings(out)
    return dict(zip(found.paths, np.asarray(found.values), strict=True))


JOBS = {"pretrain": (PRETRAIN, pretrained), "embed": (EMBED, embedded)}


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The largest difference, as a share of the largest value; 0 only for equal bits."""
    assert ours.keys() == theirs.keys()
    if all(ours[name].tobytes() == theirs[name].tobytes() for name in ours):
        return 0.0
    most = max(float(np.abs(value).max()) for value in theirs.values())
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours) / most


def main() -> None:
    """Run all variants and print a row for each."""
    parser = common.parser(__doc__, threads=1)
    parser.add_argument("jobs", nargs="*", choices=[*JOBS, []], help="default: both")
    parser.add_argument("--work", type=Path, help="folder for their files; default: a temporary one")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    for job in options.jobs or JOBS:
        variants, made = JOBS[job]
        print(f"\n| `ajepa {job}` | compared with | |\n|---|---|---|", flush=True)
        found: dict[str, dict[str, np.ndarray]] = {}
        report[job] = {}
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            prepare(Path(folder))
            for number, variant in enumerate(variants):
                found[variant.what] = made(Path(folder), number, variant)
                if variant.against:
                    share = difference(found[variant.what], found[variant.against])
                    report[job][variant.what] = share
                    text = f"{share:.1g} apart" if share else "the same bits"
                    print(f"| {variant.what} | {variant.against} | {text} |", flush=True)
                common.write(report, options.json)


if __name__ == "__main__":
    main()
