"""Low and high tones in noise, with a table of labels: a tiny encoder of random weights tells them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
SPLITS = ("train", "train", "valid", "test")


def tone(high: bool, seconds: float, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(int(RATE * seconds)) / RATE
    hz = rng.uniform(1500, 2500) if high else rng.uniform(200, 500)
    return rng.uniform(0.05, 0.3) * np.sin(2 * np.pi * hz * time) + 0.01 * rng.standard_normal(len(time))


def write_table(folder: Path, *, clips: int = 48, several: bool = False) -> Path:
    """A table with columns for splits and folds; clips of 0.3 to 2.5 s.

    Args:
        several: also a label `loud` for some clips, and clips without any label.
    """
    rng = np.random.default_rng(0)
    lines = ["filename,label,split,fold"]
    for number in range(clips):
        high = number % 2
        wave = tone(bool(high), rng.uniform(0.3, 2.5), rng)
        soundfile.write(folder / f"{number}.wav", wave, RATE)
        label = "high" if high else "low"
        if several:
            label += ";loud" if abs(wave).max() > 0.2 else ""
            label = "" if number % 16 == 7 else label
        lines.append(f"{number}.wav,{label},{SPLITS[number // 2 % 4]},{number // 2 % 3}")
    table = folder / "tones.csv"
    table.write_text("\n".join(lines) + "\n")
    return table
