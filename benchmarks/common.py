"""What the benchmarks share: options, timing in turns, and torchaudio's features."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchaudio.compliance import kaldi

RATE = 16_000
SHARED = Path(os.environ.get("AJEPA_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def parser(description: str | None, *, threads: int | None = None) -> argparse.ArgumentParser:
    """A parser with --json, and --threads with this default."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    made.add_argument("--threads", type=int, default=threads or torch.get_num_threads())
    return made


def write(report: Mapping[str, Any], path: Path | None) -> None:
    """Write the numbers, if --json names a file."""
    if path:
        path.write_text(json.dumps(report, indent=1) + "\n")


def medians(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 2,
) -> dict[str, float]:
    """Median time of each call; the calls take turns, so that all meet the same state of the machine."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + warm_up):
        for name, call in calls.items():
            start = clock()
            call()
            if turn >= warm_up:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def kaldi_fbank(waveform_S: Tensor, mels: int = 128) -> Tensor:
    """Audio-MAE's call of torchaudio for one clip [S]: log-mel energies [L, C]."""
    return kaldi.fbank(
        waveform_S[None] - waveform_S.mean(),
        htk_compat=True,
        sample_frequency=RATE,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=mels,
        dither=0.0,
        frame_shift=10,
    )
