"""The linear probe of `ajepa evaluate`, sweep and folds included, against scikit-learn and heareval.

    python benchmarks/probe.py [--json FILE] [--threads N] [--clips N] [--widths 768 6144] [--heareval]

2,000 clips of 50 classes in 5 folds, as in ESC-50, with synthetic features of a ViT-B's width: once the mean
over frequency patches (768) and once eight of them joined (6144). Each test fold is scored once, after its
penalty was chosen on the other four: ten sweeps over the penalties and five final fits.

Times are processor times. scikit-learn fits the same penalties on the training clips of one of the ten
sweeps, with its default settings. The agreement of predictions is reported against its fits with a far
smaller tolerance, in double precision.
--heareval runs heareval's own predictions on the same features, on 8 points of its default grid, which takes
many minutes.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ajepa.eval.probe.probes import PROBES, linear, standardised
from ajepa.eval.probe.selection import run_probe
from ajepa.eval.tasks import Clip, Task
from ajepa.training.provenance import cpu_name

CLASSES, FOLDS = 50, 5
SWEEPS = FOLDS * (FOLDS - 1) // 2
SIGNAL, RANK = 0.5, 128
COMPARED = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


def made(clips: int, width: int) -> tuple[Tensor, Task]:
    """Features [clips, width] with principal axes that fall off as a network's do, and their task."""
    generator = torch.Generator().manual_seed(0)
    label_N = torch.arange(clips) % CLASSES
    centres = SIGNAL * torch.randn(CLASSES, RANK, generator=generator)
    latent_NR = centres[label_N] + torch.randn(clips, RANK, generator=generator)
    mix = torch.randn(RANK, width, generator=generator) * torch.logspace(0, -2, RANK)[:, None]
    features_NX = latent_NR @ mix + 0.05 * torch.randn(clips, width, generator=generator)
    members = [
        Clip(Path(f"{number}.wav"), (f"class {label}",), f"fold{number // CLASSES % FOLDS:02d}")
        for number, label in enumerate(label_N.tolist())
    ]
    return features_NX, Task("made", tuple(members), folds=True)


def timed_probe(features_NX: Tensor, task: Task, protocol: str) -> tuple[float, float]:
    """(seconds, score) of the whole protocol."""
    started = time.process_time()
    outcome = run_probe({"last": lambda: features_NX}, task, PROBES[protocol])
    return time.process_time() - started, outcome.score


def one_sweep(features_NX: Tensor, task: Task) -> dict[str, float]:
    """Seconds for all penalties on the clips of three folds, ours and scikit-learn's, and their agreement."""
    fold_N = np.array([clip.split for clip in task.clips])
    train, rest = np.isin(fold_N, ["fold00", "fold01", "fold02"]), fold_N == "fold03"
    target = torch.from_numpy(task.target())
    train_NX, rest_NX = (part.numpy() for part in standardised(features_NX[train], features_NX[rest]))

    def ours(values: Sequence[float], final: bool) -> np.ndarray:
        scores = linear(features_NX[train], target[train], features_NX[rest], values, CLASSES, final)
        return scores.argmax(2).numpy()

    def theirs(values: Sequence[float], dtype: type = np.float32, **options: float) -> np.ndarray:
        given_NX, asked_NX = train_NX.astype(dtype), rest_NX.astype(dtype)
        fits = [
            LogisticRegression(C=value, **options).fit(given_NX, target[train].numpy()) for value in values
        ]
        return np.stack([fit.predict(asked_NX) for fit in fits])

    started = time.process_time()
    ours(PROBES["linear"].values, False)
    seconds = time.process_time() - started
    started = time.process_time()
    theirs(PROBES["linear"].values, max_iter=1000)
    reference = time.process_time() - started
    exact = theirs(COMPARED, np.float64, tol=1e-8, max_iter=10_000)  # its single precision is inexact itself
    return {
        "sweep_seconds": seconds,
        "scikit_learn_sweep_seconds": reference,
        "same_predictions_in_sweeps": float(np.mean(exact == ours(COMPARED, False))),
        "same_predictions_in_final_fits": float(np.mean(exact == ours(COMPARED, True))),
    }


def heareval_seconds(features_NX: Tensor, task: Task, grid_points: int) -> tuple[float, float]:
    """(seconds, score) of heareval's predictions, on the features in the files it expects."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "embeddings", "made", "made-v1-full")
        folder.mkdir(parents=True)
        splits = sorted(task.counts)
        metadata = {
            "task_name": "made",
            "version": "v1",
            "mode": "full",
            "embedding_type": "scene",
            "prediction_type": "multiclass",
            "split_mode": "presplit_kfold",
            "splits": splits,
            "nfolds": len(splits),
            "sample_duration": 5.0,
            "evaluation": ["top1_acc"],
        }
        (folder / "task_metadata.json").write_text(json.dumps(metadata))
        vocabulary = [f"{index},{label}" for index, label in enumerate(task.classes)]
        (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *vocabulary]) + "\n")
        for split in splits:
            rows = [index for index, clip in enumerate(task.clips) if clip.split == split]
            labels = {task.clips[index].path.name: list(task.clips[index].labels) for index in rows}
            (folder / f"{split}.json").write_text(json.dumps(labels))
            values = features_NX[rows].numpy().astype(np.float32)
            (folder / f"{split}.embeddings.npy").write_bytes(values.tobytes())  # read by memmap
            (folder / f"{split}.embedding-dimensions.json").write_text(json.dumps(values.shape))
            (folder / f"{split}.target-labels.pkl").write_bytes(pickle.dumps(list(labels.values())))
        command = ["-m", "ajepa.cli", "harness", "run", "heareval.predictions.runner"]
        arguments = [str(folder.relative_to(scratch)), "--grid-points", str(grid_points)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, *command, *arguments],
            cwd=scratch,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if done.returncode:
            raise SystemExit(f"heareval's predictions failed:\n{done.stderr[-2000:]}")
        scores = json.loads((folder / "test.predicted-scores.json").read_text())
        folds = [value["test_score"] for value in scores.values() if "validation_score" in value]
        return seconds, statistics.fmean(folds)


def main() -> None:
    parser = common.parser(__doc__, threads=1)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--widths", type=int, nargs="+", default=[768, 6144])
    parser.add_argument("--heareval", action="store_true", help="also run heareval's predictions")
    parser.add_argument("--grid-points", type=int, default=8, help="number of heareval's grid points")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{cpu_name()}, {options.threads} threads; torch {torch.__version__}; {options.clips} clips")
    report: dict[str, Any] = {"cpu": cpu_name(), "threads": options.threads, "torch": torch.__version__}
    torch.optim.LBFGS([torch.zeros(1)])  # the first one in a process imports torch's compiler: about a second
    for width in options.widths:
        features_NX, task = made(options.clips, width)
        found: dict[str, float] = {}
        for protocol in PROBES:
            found[f"{protocol}_seconds"], found[f"{protocol}_score"] = timed_probe(
                features_NX, task, protocol
            )
        found |= one_sweep(features_NX, task)
        sweep, reference = found["sweep_seconds"], found["scikit_learn_sweep_seconds"]
        print(
            f"\n{width} features\n"
            f"  linear, whole protocol {found['linear_seconds']:8.1f} s, "
            f"accuracy {found['linear_score']:.3f}\n"
            f"  knn, whole protocol    {found['knn_seconds']:8.1f} s, accuracy {found['knn_score']:.3f}\n"
            f"  one sweep of {SWEEPS}         {sweep:8.1f} s; scikit-learn {reference:.1f} s, "
            f"{reference / sweep:.1f} times as long\n"
            f"  same predictions as scikit-learn: {found['same_predictions_in_sweeps']:.2%} when choosing, "
            f"{found['same_predictions_in_final_fits']:.2%} in final fits"
        )
        if options.heareval:
            seconds, score = heareval_seconds(features_NX, task, options.grid_points)
            found |= {"heareval_seconds": seconds, "heareval_score": score}
            ratio = seconds / found["linear_seconds"]
            print(
                f"  heareval, {options.grid_points} points    {seconds:8.1f} s, accuracy {score:.3f}, "
                f"{ratio:.1f} times as long as linear"
            )
        report[str(width)] = found
    common.write(report, options.json)


if __name__ == "__main__":
    main()
