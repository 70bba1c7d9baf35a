"""`ajepa embed` as a command: rates next to a plain loop, the share of decoding, curves of cost and memory.

    python benchmarks/embed_job.py [--what loop share length files processes] [--repeats N] [--threads N]

loop       The command and a script of ten lines (below: soundfile, resampling by torchaudio, one clip at a
           time through the same encoder), on the same files, in turns. Both are processes of their own, which
           import torch and load the encoder; the same with one file gives what that costs, and is taken off.
           Times are medians; `ratio` is the loop's time over the command's.
share      Processor time of decoding alone, of decoding and log-mel, and of the whole, in this process.
length     Processor time per hour of audio, and peak memory, for clips of 1 s to 10 hours.
files      The same for 10 to 100,000 files, which are links to a few.
processes  Clock time of 1 and 2 processes that share a job, each with --threads threads.

The audio is --data's (searched, decoded, cut and joined to the lengths that are needed), or else pink noise.
A quiet machine is needed for the clock; processor time and memory are less sensitive.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import common
import numpy as np
import soundfile
import torch
from common import RATE

import ajepa
from ajepa.audio import AudioError, find_audio, load
from ajepa.data.threads import in_order
from ajepa.embed.inputs import Inputs
from ajepa.embed.options import Wanted
from ajepa.embed.pieces import decode
from ajepa.memory import keep_freed_memory
from ajepa.training.provenance import describe_run

LOOP = """
import sys, numpy, soundfile, torch, torchaudio, ajepa
files, out, bf16 = sys.argv[1], sys.argv[2], sys.argv[3] == "bf16"
model = ajepa.load_model(precision="bf16" if bf16 else "float32")
found = []
with torch.inference_mode():
    for path in open(files).read().split("\\n"):
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
        wave = torchaudio.functional.resample(torch.from_numpy(wave.mean(1)), rate, model.sample_rate)
        found.append(model(wave[None]).clip[0].numpy())
numpy.save(out, numpy.stack(found))
"""
LENGTHS = (1.0, 10.0, 60.0, 600.0, 3600.0, 36_000.0)  # seconds
FILES = (10, 100, 1_000, 10_000, 100_000)
SHORT = 0.5  # seconds of a clip of the curve over files


class Cost(NamedTuple):
    """What processes cost together; memory is that of the largest."""

    clock: float
    processor: float
    megabytes: float


def measured(*commands: list[str], threads: int) -> Cost:
    """Run commands at the same time, each with so many threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    since = time.perf_counter()
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
    processor = largest = 0.0
    for command, process in zip(commands, running, strict=True):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # nobody else may wait for it
        if process.returncode:
            raise SystemExit(f"{command[:6]} ... ended with {process.returncode}")
        processor += used.ru_utime + used.ru_stime
        largest = max(largest, used.ru_maxrss / 1024)
    return Cost(time.perf_counter() - since, processor, largest)


def embed(inputs: list[str], out: Path, *more: str) -> list[str]:
    """The command, on an empty place."""
    return [sys.executable, "-m", "ajepa.cli", "embed", *inputs, "--out", str(out), *more]


# -- audio --


def sound(folder: Path, seconds: float) -> np.ndarray:
    """So much audio in 16 bits at RATE: recordings joined, or pink noise; repeated if there is less."""
    samples, held = round(seconds * RATE), 0
    parts: list[np.ndarray] = []
    if folder.is_dir():
        for path in sorted(find_audio(folder)):
            try:
                parts.append(load(path).numpy())
            except AudioError:  # the folder holds damaged files on purpose
                continue
            held += len(parts[-1])
            if held >= samples:
                break
    if not parts:
        spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(RATE * 60))
        noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)))
        parts.append((0.1 * noise / noise.std()).astype(np.float32))
    whole = np.concatenate(parts)
    return (np.clip(whole, -1, 1) * 32_767).astype(np.int16)


def write_long(path: Path, wave: np.ndarray, seconds: float) -> None:
    """A file of any length, block by block."""
    left = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while left:
            file.write(wave[:left])
            left -= min(left, len(wave))


def write_clips(
    folder: Path, wave: np.ndarray, seconds: float, count: int, suffix: str = ".flac"
) -> list[Path]:
    """Clips cut one after the other, from the start again at the end."""
    folder.mkdir()
    samples, paths = round(seconds * RATE), []
    for number in range(count):
        first = number * samples % max(1, len(wave) - samples)
        paths.append(folder / f"{number:06d}{suffix}")
        soundfile.write(paths[-1], wave[first : first + samples], RATE)
    return paths


# -- the measurements --


def loop(wave: np.ndarray, folder: Path, options: Any) -> dict[str, Any]:
    found = {}
    for seconds in options.seconds:
        paths = write_clips(folder / f"loop-{seconds:g}", wave, seconds, options.clips, options.format)
        listed = folder / "listed.txt"
        costs: dict[str, list[Cost]] = {}
        for turn in range(options.repeats):
            for files in (paths, paths[:1]):
                listed.write_text("\n".join(map(str, files)))
                out, kind = folder / f"loop-{seconds:g}-{turn}-{len(files)}", options.precision
                inputs = [str(files[0].parent)] if len(files) > 1 else [str(files[0])]
                commands = {
                    "command": embed(inputs, out, "--precision", kind, "--batch", str(options.batch)),
                    "loop": [sys.executable, "-c", LOOP, str(listed), f"{out}.npy", kind],
                }
                for name, command in commands.items():
                    cost = measured(command, threads=options.threads)
                    costs.setdefault(f"{name} {len(files)}", []).append(cost)
                if len(files) > 1:
                    agreement = _agreement(out, Path(f"{out}.npy"))
        sides: dict[str, Any] = {}
        for name in ("command", "loop"):
            whole, start = costs[f"{name} {len(paths)}"], costs[f"{name} 1"]
            clock, processor = (
                statistics.median(getattr(one, what) for one in whole)
                - statistics.median(getattr(one, what) for one in start)
                for what in ("clock", "processor")
            )
            sides[name] = {
                "clips_per_s": (len(paths) - 1) / clock,
                "processor_ms_per_clip": 1000 * processor / (len(paths) - 1),
                "start_s": statistics.median(one.clock for one in start),
                "megabytes": max(one.megabytes for one in whole),
            }
        ours, theirs = sides["command"], sides["loop"]
        ratios = {
            "ratio": ours["clips_per_s"] / theirs["clips_per_s"],
            "processor_ratio": theirs["processor_ms_per_clip"] / ours["processor_ms_per_clip"],
        }
        found[f"{seconds:g} s"] = sides | ratios | {"cosine": agreement}
        print(
            f"{seconds:g} s: command {ours['clips_per_s']:.1f} clips/s, loop {theirs['clips_per_s']:.1f}; "
            f"x {ratios['ratio']:.2f}, by processor time x {ratios['processor_ratio']:.2f}; least cosine "
            f"{agreement:.6f}",
            flush=True,
        )
    return found


def _agreement(parts: Path, array: Path) -> float:
    ours, theirs = (
        torch.from_numpy(np.array(ajepa.read_embeddings(parts).values)),
        torch.from_numpy(np.load(array)),
    )
    return float(torch.nn.functional.cosine_similarity(ours, theirs).min())


def share(wave: np.ndarray, folder: Path, options: Any) -> dict[str, Any]:
    model = ajepa.load_model(precision=options.precision)
    found = {}
    for seconds in options.seconds:
        paths = write_clips(folder / f"share-{seconds:g}", wave, seconds, options.clips, options.format)
        items = list(Inputs([str(path) for path in paths]))

        def decoded(items: list[Any] = items) -> Iterator[torch.Tensor]:
            with closing(in_order(lambda item: decode(item, Wanted(), RATE), items, 1)) as pieces:
                for one in pieces:
                    yield from (piece.waveform_S for piece in one.pieces if piece.waveform_S is not None)

        def batches(decoded: Callable[[], Iterator[torch.Tensor]] = decoded) -> Iterator[torch.Tensor]:
            clips = decoded()
            while batch := list(islice(clips, options.batch)):
                yield torch.stack(batch)

        @torch.inference_mode()
        def all_of(what: Callable[[torch.Tensor], object], batches: Any = batches) -> None:
            for waveform_BS in batches():
                what(waveform_BS)

        calls: dict[str, Callable[[], Any]] = {
            "decoding": lambda run=all_of: run(lambda waveform_BS: None),  # type: ignore[misc]
            "and log-mel": lambda run=all_of: run(model.features),  # type: ignore[misc]
            "and encoder": lambda run=all_of: run(model),  # type: ignore[misc]
        }
        times = common.medians(calls, options.repeats, time.process_time, warm_up=1)
        whole = times["and encoder"]
        found[f"{seconds:g} s"] = {
            "decoding": times["decoding"] / whole,
            "log_mel": (times["and log-mel"] - times["decoding"]) / whole,
            "processor_ms_per_clip": 1000 * whole / len(paths),
        }
        shares = found[f"{seconds:g} s"]
        print(
            f"{seconds:g} s: decoding {100 * shares['decoding']:.1f} % of the processor time, log-mel "
            f"{100 * shares['log_mel']:.1f} %, of {shares['processor_ms_per_clip']:.1f} ms a clip",
            flush=True,
        )
    return found


def length(wave: np.ndarray, folder: Path, options: Any) -> dict[str, Any]:
    found = {}
    for seconds in LENGTHS:
        if seconds > options.longest:
            continue
        place = folder / f"length-{seconds:g}"
        total = max(seconds, 600.0)  # of audio, so that the start does not decide
        if seconds <= 600:
            write_clips(place, wave, seconds, round(total / seconds), options.format)
        else:
            place.mkdir()
            write_long(place / f"long{options.format}", wave, seconds)
        found[f"{seconds:g} s"] = _curve(place, total / 3600, "an hour of audio", options, f"{seconds:g} s")
    return found


def files(wave: np.ndarray, folder: Path, options: Any) -> dict[str, Any]:
    originals = write_clips(folder / "originals", wave, SHORT, 10, ".wav")
    found = {}
    for count in FILES:
        if count > options.most_files:
            continue
        place = folder / f"files-{count}"
        for number, original in enumerate(islice(cycle(originals), count)):
            target = place / f"{number // 1000:03d}" / f"{number:06d}.wav"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(original)
        found[str(count)] = _curve(place, count / 1000, "1,000 files", options, f"{count:,} files")
    return found


def _curve(place: Path, amount: float, unit: str, options: Any, name: str) -> dict[str, float]:
    out = place.with_name(f"{place.name}-out")
    cost = measured(embed([str(place)], out, "--precision", options.precision), threads=options.threads)
    result = {"clock_s": cost.clock, "processor_s": cost.processor, "megabytes": cost.megabytes}
    per_unit = cost.processor / amount
    print(
        f"{name}: {per_unit:.1f} s of processor time for {unit} (clock {cost.clock:.1f} s in all), "
        f"peak {cost.megabytes:.0f} MB",
        flush=True,
    )
    return result | {"processor_s_per_unit": per_unit}


def processes(wave: np.ndarray, folder: Path, options: Any) -> dict[str, Any]:
    place = folder / "processes"
    write_clips(place, wave, 5.0, max(4096, options.clips), options.format)  # four blocks of a job, or more
    found = {}
    for count in (1, 2):
        costs = []
        for turn in range(options.repeats):
            out = folder / f"processes-{count}-{turn}"
            command = embed([str(place)], out, "--precision", options.precision)
            costs.append(measured(*[command] * count, threads=options.threads))
        found[str(count)] = {
            "clock_s": statistics.median(one.clock for one in costs),
            "processor_s": statistics.median(one.processor for one in costs),
        }
        print(f"{count} processes: {found[str(count)]['clock_s']:.1f} s", flush=True)
    return found


MEASUREMENTS = {"loop": loop, "share": share, "length": length, "files": files, "processes": processes}


def main() -> None:
    parser = common.parser(__doc__, threads=1)
    parser.add_argument("--what", nargs="+", choices=list(MEASUREMENTS), default=list(MEASUREMENTS))
    parser.add_argument("--data", type=Path, default=common.SHARED / "data", help="recordings")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[1.0, 5.0, 10.0], help="of loop and share"
    )
    parser.add_argument("--clips", type=int, default=256, help="of loop and share")
    parser.add_argument("--format", choices=[".wav", ".flac", ".mp3", ".ogg"], default=".flac")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--longest", type=float, default=LENGTHS[-1], help="seconds of the longest clip")
    parser.add_argument("--most-files", type=int, default=FILES[-1])
    parser.add_argument("--folder", type=Path, help="where audio and results are for a while; default: /tmp")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command does; for `share`, which runs in this process
    run = describe_run(torch.device("cpu"))
    print(f"{run['device']}, {options.threads} threads a process, torch {run['torch']}, {options.precision}")
    report: dict[str, Any] = {
        "run": run,
        "options": {name: str(value) for name, value in vars(options).items()},
    }
    with TemporaryDirectory(dir=options.folder) as folder:
        wave = sound(options.data, 600)
        for name in options.what:
            print(f"-- {name}")
            report[name] = MEASUREMENTS[name](wave, Path(folder), options)
            common.write(report, options.json)


if __name__ == "__main__":
    main()
