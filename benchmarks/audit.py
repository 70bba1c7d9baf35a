"""What `ajepa audit` finds of copies and wrong labels that were put into real sets, and what else it reports.

    python benchmarks/audit.py [--clips N] [--wrong SHARE] [--seeds N] [--model M] [--threads N]

Copies: of each set, N clips for each change are written again with that change, another N for the next, and
the whole set is audited together with them. Found are those that are reported as copies of their originals.
The near copies among the set's own clips are counted too: some of them are true ones. Labels: a share of the
labels is replaced by others, several times; precision counts the replaced labels among those that are
reported, as if all others were right. Sets: those of AJEPA_SHARED that are there.
"""

from __future__ import annotations

import io
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import soundfile
import soxr
import torch
from common import RATE, SHARED, write

from ajepa.audio import load
from ajepa.audit.clips import AuditClip, clips_of
from ajepa.audit.labels import groups_of, suspects
from ajepa.audit.run import audit
from ajepa.embed.inputs import Inputs
from ajepa.eval.tasks import open_task
from ajepa.model.loading import load_model

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def coded(form: str, subtype: str | None = None) -> Change:
    """Through a codec at nearly its lowest quality."""

    def change(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        buffer = io.BytesIO()
        soundfile.write(
            buffer, samples.clip(-1, 1), RATE, format=form, subtype=subtype, compression_level=0.95
        )
        buffer.seek(0)
        return soundfile.read(buffer, dtype="float32")[0]

    return change


def noisy(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    noise = generator.standard_normal(len(samples)).astype(np.float32)
    return samples + noise * samples.std() * 10 ** (-30 / 20)


def telephone(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return soxr.resample(soxr.resample(samples, RATE, RATE / 2), RATE / 2, RATE)


def late(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.concatenate([np.zeros(int(generator.uniform(0.05, 0.15) * RATE), np.float32), samples])


CHANGES: dict[str, Change] = {
    "MP3, lowest quality": coded("MP3"),
    "Ogg Vorbis, lowest quality": coded("OGG", "VORBIS"),
    "12 dB quieter": lambda samples, generator: samples / 4,
    "noise at 30 dB": noisy,
    "8 kHz": telephone,
    "0.05 to 0.15 s later": late,
    "a tenth cut off at both ends": lambda samples, generator: samples[
        len(samples) // 10 : -(len(samples) // 10)
    ],
    "the second half cut off": lambda samples, generator: samples[: len(samples) // 2],
}


def of_task(name: str, folder: str) -> list[AuditClip]:
    """The clips of a task."""
    clips = open_task(name, SHARED / "data" / folder).clips
    return [
        AuditClip(str(c.path), str(c.path), c.start, c.seconds, c.labels[0], c.split, c.group) for c in clips
    ]


def instruments() -> list[AuditClip]:
    """Single notes: the label is the instrument."""
    clips = clips_of(Inputs([str(SHARED / "data/pretrain/philharmonia")]))
    return [clip._replace(label=Path(clip.path).name.split("_")[0]) for clip in clips]


SETS: dict[str, tuple[str, Callable[[], list[AuditClip]]]] = {
    "ESC-10": ("esc50", lambda: of_task("esc10", "esc50")),
    "Speech Commands": (
        "speech_commands_v0.02",
        lambda: of_task("speech_commands_v2", "speech_commands_v0.02"),
    ),
    "single notes": ("pretrain/philharmonia", instruments),
}


def copies(clips: list[AuditClip], count: int, model: Any, folder: Path) -> tuple[dict[str, float], int, int]:
    """The share found of each change, near copies among the set's own clips, and copies of wrong clips."""
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(clips))[: count * len(CHANGES)].tolist()
    added, names = [], list(CHANGES)
    for number, place in enumerate(chosen):
        samples = CHANGES[names[number % len(names)]](load(clips[place].audio).numpy(), generator)
        path = folder / f"{number}.wav"
        soundfile.write(path, samples, RATE, subtype="FLOAT")
        added.append(AuditClip(str(path), str(path)))
    found = audit([*clips, *added], model)
    copied = {one.clip: one.other for one in found.findings if one.other is not None}
    hits: dict[str, list[bool]] = defaultdict(list)
    wrong = 0
    for number, place in enumerate(chosen):
        other = copied.get(len(clips) + number)
        hits[names[number % len(names)]].append(other == place)
        wrong += other is not None and other != place
    own = sum(clip < len(clips) for clip in copied)
    return {name: float(np.mean(values)) for name, values in hits.items()}, own, wrong


@torch.inference_mode()
def labels(clips: list[AuditClip], share: float, seeds: int, model: Any) -> dict[str, float]:
    """Of replaced labels: the share that is reported, and their share of what is reported."""
    values_ND = torch.stack([model(load(clip.audio, seconds=30)[None]).clip[0] for clip in clips])
    classes = sorted({clip.label for clip in clips})
    reported = right = replaced = 0
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        wrong = generator.random(len(clips)) < share
        given = [
            clip._replace(label=str(generator.choice([one for one in classes if one != clip.label])))
            if bad
            else clip
            for clip, bad in zip(clips, wrong, strict=True)
        ]
        found = list(suspects(given, range(len(given)), values_ND, groups_of(given, [])))
        reported, replaced = reported + len(found), replaced + int(wrong.sum())
        right += sum(bool(wrong[one.clip]) for one in found)
    as_they_are = list(suspects(clips, range(len(clips)), values_ND, groups_of(clips, [])))
    return {
        "precision": right / max(1, reported),
        "found": right / max(1, replaced),
        "reported as they are": len(as_they_are),
    }


def main() -> None:
    options = common.parser(__doc__)
    options.add_argument("--clips", type=int, default=40)
    options.add_argument("--wrong", type=float, default=0.05)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--model")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(given.model)
    report: dict[str, Any] = {}
    for name, (folder, made) in SETS.items():
        if not (SHARED / "data" / folder).is_dir():
            print(f"{name}: not there")
            continue
        clips = made()
        with tempfile.TemporaryDirectory() as place:
            shares, own, wrong = copies(clips, given.clips, model, Path(place))
        report[name] = {
            "clips": len(clips),
            "copies": shares,
            "near copies among its own": own,
            "copies of another clip": wrong,
            "labels": labels(clips, given.wrong, given.seeds, model),
        }
    print(f"| found of {given.clips} copies each | {' | '.join(report)} |")
    print("|---" * (1 + len(report)) + "|")
    for change in CHANGES:
        cells = " | ".join(f"{one['copies'][change]:.0%}" for one in report.values())
        print(f"| {change} | {cells} |")
    for key in ("clips", "near copies among its own", "copies of another clip"):
        cells = " | ".join(f"{one[key]:,}" for one in report.values())
        print(f"| {key} | {cells} |")
    for key in ("precision", "found", "reported as they are"):
        cells = " | ".join(f"{one['labels'][key]:.2f}" for one in report.values())
        print(f"| labels, {given.wrong:.0%} replaced: {key} | {cells} |")
    write(report, given.json)


if __name__ == "__main__":
    main()
