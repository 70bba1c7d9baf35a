"""Log-mel features: speed against torchaudio, agreement with it, and memory for an hour of audio.

    python benchmarks/features.py [--json FILE] [--threads N] [--repeats N]

Each pair is timed in one run, in turns, so that both meet the same state of the machine. torchaudio gets one
clip at a time, because its Kaldi filter bank takes no more. Audio: ESC-50 recordings from the folder named by
AJEPA_SHARED (default: ../shared next to the repository), or noise if it is missing.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
import torchaudio
from common import RATE, SHARED, kaldi_fbank, medians, parser, write
from torch import Tensor

from ajepa.features import LogMel
from ajepa.training.provenance import cpu_name

SHAPES = {"16 clips of 10 s": (16, 10), "1 clip of 1 s": (1, 1), "1 clip of 60 s": (1, 60)}
HOUR_SECONDS = 3600


def fbank_of_each(waveform_BS: Tensor) -> Tensor:
    """torchaudio's features, clip by clip."""
    return torch.stack([kaldi_fbank(clip_S) for clip_S in waveform_BS])


def audio(seconds: int) -> tuple[Tensor, str]:
    """A given number of seconds of joined recordings, or of noise, and which of the two."""
    paths = sorted(SHARED.glob("data/esc50/audio/*.ogg"))
    if not paths:
        generator = torch.Generator().manual_seed(0)
        return 0.1 * torch.randn(seconds * RATE, generator=generator), "noise"
    pieces, samples = [], 0
    for path in paths:
        piece, rate = soundfile.read(path, dtype="float32", always_2d=True)
        pieces.append(soxr.resample(piece.mean(1), rate, RATE))
        samples += len(pieces[-1])
        if samples >= seconds * RATE:
            break
    joined = np.resize(np.concatenate(pieces), seconds * RATE)
    # Digital silence is common at the ends of these clips: start shortly before the loudest sample.
    loudest = int(np.abs(joined).argmax())
    return torch.from_numpy(np.roll(joined, RATE // 2 - loudest)), "ESC-50 recordings"


def compare(repeats: int) -> tuple[dict[str, dict[str, float]], str]:
    """Times and differences for each shape of batch."""
    log_mel = LogMel()
    results: dict[str, dict[str, float]] = {}
    waveform_S, source = audio(max(clips * seconds for clips, seconds in SHAPES.values()))
    for name, (clips, seconds) in SHAPES.items():
        waveform_BS = waveform_S[: clips * seconds * RATE].view(clips, -1)
        calls = {
            "log_mel": partial(log_mel.fbank, waveform_BS),
            "torchaudio": partial(fbank_of_each, waveform_BS),
        }
        times = medians(calls, repeats)
        truth_BLC = fbank_of_each(waveform_BS.double())
        ours_BLC, theirs_BLC = (call() for call in calls.values())
        results[name] = {
            "log_mel_seconds": times["log_mel"],
            "torchaudio_seconds": times["torchaudio"],
            "ratio": times["torchaudio"] / times["log_mel"],
            "max_difference": (ours_BLC - theirs_BLC).abs().max().item(),
            "share_above_1e-3": ((ours_BLC - theirs_BLC).abs() > 1e-3).float().mean().item(),
            "log_mel_max_error": (ours_BLC - truth_BLC).abs().max().item(),
            "torchaudio_max_error": (theirs_BLC - truth_BLC).abs().max().item(),
        }
    return results, source


def write_hour(path: Path) -> None:
    """An hour of 16 kHz audio, a minute at a time."""
    minute = audio(60)[0].numpy()
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(HOUR_SECONDS // 60):
            file.write(minute)


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def peak_of_hour(path: Path) -> dict[str, float]:
    """Peak resident memory of this process when it reads a file and computes its features.

    The waveform is read in blocks into one array, because decoding is not measured here.
    """
    imported = _peak_mib()
    with soundfile.SoundFile(path) as file:
        waveform_S = np.empty(file.frames, dtype=np.float32)
        for start in range(0, len(waveform_S), 60 * RATE):
            file.read(out=waveform_S[start : start + 60 * RATE])
    read = _peak_mib()
    start_time = time.perf_counter()
    spectrogram_BLC = LogMel()(torch.from_numpy(waveform_S)[None])
    seconds = time.perf_counter() - start_time
    return {
        "audio_seconds": len(waveform_S) / RATE,
        "compute_seconds": seconds,
        "waveform_mib": waveform_S.nbytes / 2**20,
        "spectrogram_mib": spectrogram_BLC.nbytes / 2**20,
        "peak_after_import_mib": imported,
        "peak_after_reading_mib": read,
        "peak_mib": _peak_mib(),
    }


def measure_hour(threads: int) -> dict[str, float]:
    """``peak_of_hour`` in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hour.wav"
        write_hour(path)
        command = [sys.executable, __file__, "--threads", str(threads), "--hour-file", str(path)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def show(report: dict[str, Any]) -> None:
    print(f"{report['cpu']}, {report['cpus']} CPUs, {report['threads']} threads")
    print(f"torch {report['torch']}, torchaudio {report['torchaudio']}; {report['audio']}")
    print(f"median of {report['repeats']}; differences in the natural log of the mel energy\n")
    for name, row in report["speed"].items():
        print(
            f"{name:>16}: LogMel {1e3 * row['log_mel_seconds']:8.2f} ms, "
            f"torchaudio {1e3 * row['torchaudio_seconds']:8.2f} ms: {row['ratio']:.2f} times as fast\n"
            f"{'':>18}largest difference {row['max_difference']:.1e} "
            f"(above 1e-3: {row['share_above_1e-3']:.1e} of all bands)\n"
            f"{'':>18}largest error against double precision: "
            f"LogMel {row['log_mel_max_error']:.1e}, torchaudio {row['torchaudio_max_error']:.1e}"
        )
    hour = report["hour"]
    print(
        f"\n{hour['audio_seconds'] / 60:.0f} minutes of audio in {hour['compute_seconds']:.2f} s; "
        f"peak memory {hour['peak_mib']:.0f} MiB "
        f"(libraries {hour['peak_after_import_mib']:.0f}, waveform {hour['waveform_mib']:.0f}, "
        f"spectrogram {hour['spectrogram_mib']:.0f})"
    )


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=15)
    made.add_argument("--hour-file", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    if options.hour_file:
        print(json.dumps(peak_of_hour(options.hour_file)))
        return
    # Runs first: a child's peak memory starts from the memory of the process that started it.
    hour = measure_hour(options.threads)
    speed, source = compare(options.repeats)
    report = {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": options.threads,
        "torch": torch.__version__,
        "torchaudio": torchaudio.__version__,
        "audio": source,
        "repeats": options.repeats,
        "speed": speed,
        "hour": hour,
    }
    show(report)
    write(report, options.json)


if __name__ == "__main__":
    main()
