"""`ajepa embed`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from . import device
from .usage import UsageError

EXAMPLES = """\
examples:
  ajepa embed recordings/ --out embeddings.parquet
  ajepa embed recordings/ --out embeddings/ --window 10 --hop 5      a row for each window of long recordings
  ajepa embed segments.csv --out embeddings.parquet                  columns path, start, end
The same command continues where it was stopped, and adds files that are new.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    embed = commands.add_parser(
        "embed",
        help="embed audio, from ten files to millions, as Parquet or NPZ",
        description="Embed audio. --out decides the format: a folder of Parquet parts for large jobs, a "
        ".parquet file, or an .npz file for small ones. Processes that run the same command share the work.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    embed.add_argument(
        "audio",
        nargs="+",
        help="audio files, folders that are searched, manifests and tables of segments (.csv, .tsv, .jsonl, "
        ".parquet with path and perhaps start and end or duration), folders of tar shards or their addresses",
    )
    embed.add_argument("--out", type=Path, required=True, help="a folder, or FILE.parquet, or FILE.npz")
    embed.add_argument(
        "--model", help="anything ajepa.load_model takes; default: the encoder that comes with ajepa"
    )
    embed.add_argument(
        "--encoder", metavar="NAME", help="which encoder of an A-JEPA or Audio-JEPA run: target or context"
    )
    embed.add_argument(
        "--what",
        default="clip",
        choices=["clip", "frames", "patches", "layers"],
        help="one vector per clip, one per time step, one per patch, or the clip's vector from every block; "
        "default: clip",
    )
    embed.add_argument(
        "--window", type=float, default=0.0, metavar="S", help="seconds of a window; default: whole clips"
    )
    embed.add_argument(
        "--hop", type=float, default=0.0, metavar="S", help="seconds between windows; default: the window"
    )
    embed.add_argument(
        "--pooling",
        choices=["mean", "mean+std"],
        help="statistics over time, for clip and layers; default: the model's",
    )
    embed.add_argument(
        "--layers",
        metavar="N+N",
        help="which blocks clip, frames and patches join, such as 2+4+6, or last; default: the model's",
    )
    embed.add_argument(
        "--numbers",
        choices=["float32", "float16"],
        default="float32",
        help="type of the stored values; default: float32",
    )
    device.add(embed)
    embed.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="processes, each with its own GPU if there are GPUs; torchrun does the same",
    )
    device.add_precision(
        embed,
        "bf16 is faster if the processor multiplies in bfloat16: 1.6 times with the default encoder, 3 "
        "times with a ViT-B; cosine above 0.999",
    )
    embed.add_argument("--batch", type=int, default=8, help="clips embedded at once; default: 8")
    embed.add_argument("--workers", type=int, default=2, help="threads that decode ahead; default: 2")
    embed.add_argument("--skip-broken", action="store_true", help="list unreadable files and go on")
    embed.set_defaults(run=run_embed)


def run_embed(options: argparse.Namespace) -> int:
    """`ajepa embed`."""
    from ajepa.embed.inputs import Inputs
    from ajepa.embed.job import JOB
    from ajepa.embed.options import Wanted
    from ajepa.embed.output import job_folder, merged_blocks
    from ajepa.files import check_place

    for name in ("batch", "workers", "devices"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is {getattr(options, name)}, must be at least 1")
    if options.layers is not None and options.what == "layers":
        raise UsageError(
            f"--layers is {options.layers!r}, but --what layers gives every block; leave one out"
        )
    wanted = Wanted(options.what, options.window, options.hop, options.numbers)
    folder, merged = job_folder(options.out), merged_blocks(options.out)
    check_place(folder / JOB if folder == options.out else options.out, "--out")
    inputs = Inputs(options.audio)
    if "LOCAL_RANK" not in os.environ:
        inputs.say_left_out()
    if options.devices > 1:
        return _several(options.devices)
    place = options.device or _of_torchrun()
    device.check_device(place)

    from tqdm import tqdm

    from ajepa.audio import AudioError
    from ajepa.embed import job as jobs
    from ajepa.embed.output import ONE_FILE, broken_list, finish
    from ajepa.embed.table import describe
    from ajepa.memory import keep_freed_memory
    from ajepa.model.loading import load_model

    model = load_model(
        options.model,
        device=place,
        weights=options.encoder,
        precision=options.precision,
        pooling=options.pooling,
        layers=options.layers,
    )
    if model.device.type == "cpu":
        keep_freed_memory()
    job = jobs.Job(folder, inputs, describe(model, wanted), merged)
    with tqdm(total=len(job), initial=len(job) - job.left(), unit="clip", disable=None) as bar:
        jobs.run(
            job,
            model,
            wanted,
            batch=options.batch,
            workers=options.workers,
            skip_broken=options.skip_broken,
            progress=bar.update,
        )
    broken = job.broken()
    if broken == len(job):
        raise AudioError("none of the files could be read; their reasons are above", path=options.audio[0])
    if not finish(job, options.out):
        print(f"{options.out}: other processes are at work on {job.left()} clips; the last one finishes it")
        return 0
    one_file = options.out.suffix.lower() in ONE_FILE
    listed = broken_list(options.out) if one_file else f"broken-*.csv in {folder}"
    left_out = f"; {broken} could not be used, see {listed}" if broken else ""
    print(f"{options.out}: {len(job) - broken} clips, {job.about['features']} features{left_out}")
    return 0


def _of_torchrun() -> str | None:
    """The GPU of this process under torchrun; None elsewhere or without GPUs."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None:
        return None
    import torch

    return f"cuda:{rank}" if torch.cuda.is_available() else None


def _several(count: int) -> int:
    """The same command in several processes, which share the job; the first failure's exit status."""
    import torch

    arguments = list(sys.argv[1:])
    place = next(n for n, word in enumerate(arguments) if word.startswith("--devices"))
    del arguments[place : place + (1 if "=" in arguments[place] else 2)]
    gpus = torch.cuda.device_count()
    threads = str(max(1, torch.get_num_threads() // count))
    processes = []
    for number in range(count):
        environment = os.environ | {"LOCAL_RANK": str(number % max(1, gpus)), "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-m", "ajepa.cli", *arguments]
        processes.append(subprocess.Popen(command, env=environment))
    statuses = [process.wait() for process in processes]
    for status in statuses:
        if status < 0:
            name = signal.Signals(-status).name
            print(f"ajepa: a process was ended by {name}; the same command goes on", file=sys.stderr)
    return next((status if status > 0 else 1 for status in statuses if status), 0)
