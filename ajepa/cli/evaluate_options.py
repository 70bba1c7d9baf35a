"""The options of each protocol of `ajepa evaluate`, in groups that protocols share."""

from __future__ import annotations

import argparse
from pathlib import Path

from ajepa.named_source import named_source

from . import device, tasks

SOURCES = "what ajepa.load_model takes (`default` is the encoder that comes with the package)"
BASELINES = (
    f"{SOURCES}, `logmel`, `hear-naive`, or an encoder of other people, such as hear:MODULE, s3prl:UPSTREAM, "
    "transformers:FOLDER or python:MODULE:FACTORY (docs/encoders_in.md)"
)


def models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        type=_model,
        metavar="[NAME=]SOURCE",
        help=f"{BASELINES}; NAME=SOURCE names its row; may be repeated",
    )
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        help="which encoder of A-JEPA's or Audio-JEPA's runs: target or context; default: the one that the "
        "recipe names",
    )
    parser.add_argument("--json", type=Path, help="write the record to this file (a list for several models)")
    parser.add_argument(
        "--device", help="such as cuda; default: cpu; for the toolkits, a GPU if there is one"
    )


def clips(parser: argparse.ArgumentParser) -> None:
    task = parser.add_argument_group("the task")
    task.add_argument(
        "--task",
        required=True,
        help="your own labels: table, folder (one folder per class), audacity (label tracks next to audio) "
        "or hf (a data set of Hugging Face); a public set: audioset_20k, audioset_2m, esc50, esc10, "
        "speech_commands_v1, speech_commands_v2 or voxceleb1; or one of another package",
    )
    task.add_argument(
        "--data",
        required=True,
        help="the data set's folder; for `table` the table; for `hf` also hf://datasets/owner/name",
    )
    tasks.add(task)
    _baseline(parser)
    device.add_precision(parser)
    parser.add_argument(
        "--out", type=Path, help="folder for results; the same command continues from it; default: none"
    )


def _baseline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--baseline", help="name of the model with which the others are compared")


def linear(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layer",
        default="last",
        help="last (the model's output), a number from 1, several joined as 2+4+6, each (a row for each), "
        "best on validation, or weighted (a sum whose weights are learned with the probe); default: last",
    )
    parser.add_argument(
        "--class-weight",
        choices=["none", "balanced"],
        default="none",
        help="none: every clip has the same weight; balanced: every class has; default: none",
    )


def knn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layer",
        default="last",
        help="last (the model's output), a number from 1, several joined as 2+4+6, each (a row for each), "
        "or best on validation; default: last",
    )


def probe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pool",
        choices=["concat", "mean", "best"],
        default="concat",
        help="frequency patches side by side, averaged, or whichever is better on validation; "
        "default: concat",
    )
    parser.add_argument(
        "--time",
        choices=["mean", "mean+std", "best"],
        default="mean",
        help="over time: the mean, mean and standard deviation, or whichever is better on validation; "
        "default: mean",
    )
    parser.add_argument(
        "--corrupt",
        action="append",
        metavar="HOW",
        help="also score corrupted test clips with the probe trained on clean ones: noise:10dB, reverb:0.6s, "
        "telephone, codec:8kbps, level:-20dB, or standard for the usual set; may be repeated",
    )
    parser.add_argument("--noise", metavar="FOLDER", help="recordings to take noise from; default: synthetic")
    cache(parser)


def cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", type=Path, help="folder of embeddings; default: that of `ajepa cache`")


def _one_layer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layer",
        default="last",
        help="last, a number from 1, or several joined such as 2+4+6; default: last",
    )
    parser.add_argument(
        "--pool",
        choices=["concat", "mean"],
        default="concat",
        help="frequency patches side by side, or averaged; default: concat",
    )


def recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        help="audioset-2m, audioset-20k, esc50, speech_commands, voxceleb1 or generic, or Audio-MAE's: "
        "audio-mae-esc50 and so on; default: the task's",
    )


def training(parser: argparse.ArgumentParser, settings: str = "epochs=20 or masked_share=0") -> None:
    parser.add_argument(
        "--set",
        action="append",
        type=_setting,
        metavar="KEY=VALUE",
        help=f"a setting of the training, such as {settings}; may be repeated",
    )
    parser.add_argument("--seeds", type=_seeds, help="such as 0,1,2; default: one, the protocol's first")


def save(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FOLDER",
        help="store the classifier in this folder, for `ajepa predict`; with one --model only",
    )


def verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trials",
        type=Path,
        required=True,
        metavar="FILE",
        help="lines `1 PATH PATH` (one speaker) or `0 PATH PATH`, such as VoxCeleb1's veri_test.txt; next to "
        "the speakers' folders or to wav/ with them",
    )
    _one_layer(parser)
    parser.add_argument(
        "--time", choices=["mean", "mean+std"], default="mean", help="over time; default: mean"
    )
    parser.add_argument(
        "--center",
        choices=["no", "yes"],
        default="no",
        help="subtract the mean over all utterances of the trials first; default: no",
    )
    _baseline(parser)
    device.add_precision(parser)
    parser.add_argument("--out", type=Path, help="folder for results; default: none")
    cache(parser)


def events(parser: argparse.ArgumentParser) -> None:
    _one_layer(parser)
    parser.add_argument(
        "--collar",
        type=float,
        default=0.2,
        help="largest distance in seconds between the onsets of a found and a true event; default: 0.2",
    )
    cache(parser)


def hear(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks-dir", type=Path, required=True, help="made by `ajepa data hear-task`")
    parser.add_argument("--task", help="one task's folder name; default: all of them")
    parser.add_argument("--grid", choices=["default", "fast", "faster"], help="default: default")
    parser.add_argument("--grid-points", type=int, metavar="N", help="hyper-parameters to try; default: 8")
    _kept(parser)


def s3prl(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, help="speech_commands or voxceleb1")
    parser.add_argument("--data", type=Path, required=True, help="made by `ajepa data s3prl`")
    _baseline(parser)
    settings = "steps=200000, lr=1e-4, eval_every, frequency, cache_gigabytes or workers"
    training(parser, settings)
    _kept(parser)


def xares(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", required=True, help="X-ARES's name, such as esc50, speechcommandsv1 or voxceleb1"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder in which `ajepa data xares` made tars"
    )
    _baseline(parser)
    training(parser, "epochs, lr or frequency")
    _kept(parser)


def _kept(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for results, logs and the toolkit's files; the same command continues from it",
    )


def _model(text: str) -> str:
    if not named_source(text)[1]:
        raise argparse.ArgumentTypeError(f"{text!r} names no model; give SOURCE or NAME=SOURCE")
    return text


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are not numbers such as 0,1,2") from None


# What each protocol is, and its groups of options.
OPTIONS = {
    "linear": ("a linear probe on frozen embeddings", (models, clips, linear, probe, save)),
    "knn": ("nearest neighbours among frozen embeddings", (models, clips, knn, probe)),
    "finetune": ("train all weights and a linear head", (models, clips, recipe, training, save)),
    "verify": ("speaker verification by cosines, scored by the equal error rate", (models, verify)),
    "events": ("a linear probe on frozen frames that finds when sounds begin", (models, clips, events)),
    "hear": ("the stock HEAR toolkit, on tasks that `ajepa data hear-task` made", (models, hear)),
    "s3prl": ("s3prl's own heads (SUPERB), on data that `ajepa data s3prl` made", (models, s3prl)),
    "xares": ("the stock X-ARES toolkit, on tars that `ajepa data xares` made", (models, xares)),
}
OF_OTHERS = (models, clips, training, cache)  # protocols of other packages
