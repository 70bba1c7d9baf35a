"""How fast clips are read from files and from tar shards, and how long a manifest of millions takes to open.

    taskset -c 0 python benchmarks/input.py [--json FILE] [--clips N] [--repeats N] [--rows N]

Clips of 10 s at 16 kHz, crops of 10 s, batches of 16. The sources are timed in turns, so that all meet the
same state of the machine. The table has medians of clips per second of wall-clock time and per second of
processor time (loader process included), which other work on the machine hardly changes. Shards hold exactly
the files' bytes. Files are in the page cache: this measures decoding, not a disk. Audio: recordings from the
folder named by AJEPA_SHARED (default: ../shared next to the repository), or tones in noise if it is missing.
The start from a manifest is measured in a fresh process. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import soundfile
import torch
from common import RATE, SHARED
from torch.utils.data import DataLoader

from ajepa.audio import find_audio, load
from ajepa.data import open_clips
from ajepa.data.clips import Clips
from ajepa.data.crops import CropDataset, collate
from ajepa.data.encode import FORMATS, Packing
from ajepa.data.order import StepSampler
from ajepa.data.pack import write_shards
from ajepa.eval.results.table import markdown
from ajepa.training.provenance import cpu_name

SECONDS, BATCH = 10, 16


def write_folders(root: Path, clips: int) -> str:
    """The same clips in each format, one folder per format; returns what they are."""
    recordings = SHARED / "data" / "pretrain" / "librispeech"
    samples = RATE * SECONDS
    if recordings.is_dir():
        name, files = "LibriSpeech recordings, joined", find_audio(recordings)
        joined: list[np.ndarray] = []
        while sum(len(piece_S) for piece_S in joined) < clips * samples:
            joined.append(load(files[len(joined) % len(files)]).numpy())
        audio_BS = np.concatenate(joined)[: clips * samples].reshape(clips, samples)
    else:
        name, rng, time_S = "tones in noise", np.random.default_rng(0), np.arange(samples) / RATE
        tones_BS = np.sin(2 * np.pi * rng.uniform(100, 4000, (clips, 1)) * time_S)
        audio_BS = 0.3 * tones_BS + 0.02 * rng.standard_normal((clips, samples))
    for suffix, (container, coding) in FORMATS.items():
        folder = root / suffix
        folder.mkdir()
        for number, clip_S in enumerate(audio_BS):
            soundfile.write(folder / f"{number}.{suffix}", clip_S, RATE, coding, format=container)
    return name


def clips_per_second(clips: Clips, workers: int) -> tuple[float, float]:
    """Clips/s of wall-clock time, from the first batch's arrival to the last one's; and per second of
    processor time, with all batches and the start of the loader process included."""
    sampler = StepSampler(len(clips), BATCH, 0, 1 + len(clips) // BATCH, seed=0)
    dataset = CropDataset(clips, SECONDS, RATE, 6.0)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate)
    arrivals, before = [], _processor_seconds()
    for batch in loader:
        if batch.failure:
            raise RuntimeError(batch.failure)
        arrivals.append(time.perf_counter())
    spent = _processor_seconds() - before
    return BATCH * (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]), BATCH * len(arrivals) / spent


def _processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)  # child processes that have ended
    return time.process_time() + children.ru_utime + children.ru_stime


def rates(clips: int, repeats: int) -> tuple[list[dict[str, Any]], str]:
    """One row for each format, source and number of loader processes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        audio = write_folders(root, clips)
        sources = {}
        for suffix in FORMATS:
            files = open_clips(root / suffix)
            write_shards(files, root / f"{suffix}-shards", Packing("copy"))
            sources[suffix, "folder"] = files
            sources[suffix, "shards"] = open_clips(root / f"{suffix}-shards")
        measured: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
        for _ in range(repeats):
            for (suffix, kind), source in sources.items():
                for workers in (0, 1):
                    rate = clips_per_second(source, workers)
                    measured.setdefault((suffix, kind, workers), []).append(rate)
        rows = []
        for (suffix, kind, workers), values in measured.items():
            bases = measured[suffix, "folder", workers]
            ratios = [ours / base for (_, ours), (_, base) in zip(values, bases, strict=True)]
            row = {
                "format": suffix,
                "source": kind,
                "workers": workers,
                "clips_per_s": statistics.median([clock for clock, _ in values]),
                "clips_per_core_s": statistics.median([processor for _, processor in values]),
                "of_the_folder": statistics.median(ratios),
                "bytes_per_clip": sum(file.stat().st_size for file in (root / suffix).iterdir()) // clips,
            }
            rows.append(row)
        return rows, audio


def write_manifests(root: Path, rows: int) -> dict[str, Path]:
    """A CSV and a Parquet file with `rows` rows; only the first audio file exists."""
    names = pa.array(
        (f"audio/{row // 1000:05d}/recording-{row:09d}.flac" for row in range(rows)), pa.string()
    )
    durations = np.random.default_rng(0).integers(16_000, 480_000, rows) / RATE
    table = pa.table({"path": names, "duration": durations})
    first = root / names[0].as_py()
    first.parent.mkdir(parents=True)
    soundfile.write(first, np.zeros(RATE), RATE)
    paths = {"CSV": root / "set.csv", "Parquet": root / "set.parquet"}
    pa.csv.write_csv(table, paths["CSV"])
    pa.parquet.write_table(table, paths["Parquet"])
    return paths


def start_of(manifest: str) -> None:
    """In its own process: everything before the first batch is decoded; prints JSON."""
    imported = _status_mib("VmHWM")
    started = time.perf_counter()
    clips = open_clips(manifest)
    read = time.perf_counter()
    fingerprint = clips.fingerprint()
    hashed = time.perf_counter()
    dataset = CropDataset(clips, SECONDS, RATE, 6.0, cache_megabytes=1024)
    sampler = StepSampler(len(clips), 512, 1000, 2000, seed=0)
    draws = next(iter(sampler))
    files = [str(clips.clip(draw.clip).audio) for draw in draws]
    ready = time.perf_counter()
    assert len(set(files)) == 512
    record = {
        "rows": fingerprint["files"],
        "read_s": read - started,
        "fingerprint_s": hashed - read,
        "dataset_and_draws_s": ready - hashed,
        "total_s": ready - started,
        "imported_mib": imported,
        "peak_mib": _status_mib("VmHWM"),
        "loader_private_mib": _private_mib_of_fork(dataset),
    }
    print(json.dumps(record))


def _private_mib_of_fork(dataset: CropDataset) -> float:
    """Memory that a forked process no longer shares after it has looked up 100,000 clips."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        for row in torch.randint(len(dataset), (100_000,)).tolist():
            dataset.clips.clip(row)
        rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
        private = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
        os.write(writing, str(private / 1024).encode())
        os._exit(0)
    os.waitpid(process, 0)
    return float(os.read(reading, 100))


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def starts(rows: int, repeats: int) -> list[dict[str, Any]]:
    """The median start from a CSV and from a Parquet file, each in fresh processes; Linux only."""
    with tempfile.TemporaryDirectory() as folder:
        records: dict[str, list[dict[str, Any]]] = {}
        paths = write_manifests(Path(folder), rows)
        for _ in range(repeats):
            for kind, path in paths.items():
                command = [sys.executable, __file__, "--start-of", str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                records.setdefault(kind, []).append(json.loads(done.stdout))
    return [
        {"manifest": kind} | {key: statistics.median([record[key] for record in runs]) for key in runs[0]}
        for kind, runs in records.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    return markdown(
        [
            {name: f"{value:.2f}" if isinstance(value, float) else str(value) for name, value in row.items()}
            for row in rows
        ]
    )


def main() -> None:
    parser = common.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=128, help="clips in each source")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the manifest")
    parser.add_argument("--start-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start_of:
        start_of(options.start_of)
        return
    torch.set_num_threads(options.threads)
    rows, audio = rates(options.clips, options.repeats)
    cores = len(os.sched_getaffinity(0))
    print(f"{cpu_name()}, {cores} of {os.cpu_count()} cores; {audio}\n\n{table(rows)}")
    manifests = starts(options.rows, min(3, options.repeats))
    print(table(manifests))
    record = {"cpu": cpu_name(), "cores": cores, "audio": audio, "rates": rows, "manifests": manifests}
    common.write(record, options.json)


if __name__ == "__main__":
    main()
