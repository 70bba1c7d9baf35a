"""`ajepa evaluate`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajepa.files import check_place
from ajepa.named_source import named_source

from . import tasks
from .device import check_device
from .usage import UsageError

if TYPE_CHECKING:
    from ajepa.eval.protocols import Protocol
    from ajepa.eval.results.record import Record

# What each protocol reads besides --model, --task, --json, --out and --device; another option is an error.
CLIPS = (*tasks.ARGUMENTS, "data", "baseline", "precision")
PROBE = (*CLIPS, "layer", "pool", "time", "class_weight", "cache", "corrupt", "noise")
TOOLKIT = ("data", "baseline", "set", "seeds")
READ = {
    "linear": PROBE,
    "knn": PROBE,
    "finetune": (*CLIPS, "recipe", "set", "seeds"),
    "hear": ("tasks_dir", "grid", "grid_points"),
    "s3prl": TOOLKIT,
    "xares": TOOLKIT,
}
OTHER = (*CLIPS, "set", "seeds", "cache")  # protocols of other packages
GOES_ON = "stopped; what is finished is kept, and the same command goes on"
NEEDED = {"hear": ("tasks_dir", "out"), "s3prl": ("task", "data", "out"), "xares": ("task", "data", "out")}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score models on labelled audio: a linear probe, nearest neighbours, fine-tuning, or the stock "
        "toolkits HEAR, s3prl (SUPERB) and X-ARES",
        description="Score models on labelled audio by one protocol. `ajepa compare` runs several protocols "
        "and tasks from one file. The exit status is 1 where a model failed.",
    )
    evaluate.add_argument(
        "kind",
        nargs="?",
        metavar="PROTOCOL",
        help=f"{', '.join(READ)}, or one of another package; default: hear with --tasks-dir, else linear",
    )
    evaluate.add_argument("--protocol", metavar="PROTOCOL", help="the same as an option")
    evaluate.add_argument(
        "--model",
        action="append",
        required=True,
        help="what ajepa.load_model takes (`default` is the encoder that comes with the package), `logmel`, "
        "`hear-naive`, or a folder saved by transformers; with s3prl also s3prl:UPSTREAM[:CHECKPOINT]; "
        "NAME=SOURCE names its row; may be repeated",
    )
    evaluate.add_argument(
        "--task",
        help="audioset_20k, audioset_2m, esc50, esc10, speech_commands_v1, speech_commands_v2, voxceleb1 or "
        "table; hear: one task's folder name (default: all of them); s3prl: speech_commands or voxceleb1; "
        "xares: X-ARES's name, such as esc50, speechcommandsv1 or voxceleb1",
    )
    evaluate.add_argument("--json", type=Path, help="write the record here (of several models a list)")
    evaluate.add_argument(
        "--out",
        type=Path,
        help="folder for results, logs and the toolkits' files: the same command goes on from it; needed by "
        "hear, s3prl and xares, else nothing is kept by default",
    )
    evaluate.add_argument(
        "--device", help="such as cuda; default: cpu, for the toolkits a GPU if there is one"
    )
    clips = evaluate.add_argument_group("linear, knn and finetune; the first two also s3prl and xares")
    clips.add_argument(
        "--data",
        type=Path,
        help="the data set's folder; for `table` a CSV file; s3prl: made by `ajepa data s3prl`; xares: the "
        "folder that `ajepa data xares` made its tars in",
    )
    clips.add_argument("--baseline", help="name of the model with which the others are compared")
    clips.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of the models")
    tasks.add(clips)
    probe = evaluate.add_argument_group("linear and knn")
    probe.add_argument(
        "--layer",
        default="last",
        help="last, a number from 1, each (a row for each), best on validation, or weighted (linear: a sum "
        "whose weights are learned with the probe); default: last",
    )
    probe.add_argument(
        "--pool",
        choices=["concat", "mean", "best"],
        default="concat",
        help="frequency patches side by side, averaged, or the better on validation; default: concat",
    )
    probe.add_argument(
        "--time",
        choices=["mean", "mean+std", "best"],
        default="mean",
        help="over time the mean, the mean and the standard deviation, or the better on validation; "
        "default: mean",
    )
    probe.add_argument(
        "--class-weight",
        choices=["none", "balanced"],
        default="none",
        help="linear: clips weigh alike, or classes do; default: none",
    )
    probe.add_argument(
        "--corrupt",
        action="append",
        default=[],
        metavar="HOW",
        help="also score corrupted test clips with the probe of clean ones: noise:10dB, reverb:0.6s, "
        "telephone, codec:8kbps, level:-20dB, or standard for the usual set; may be repeated",
    )
    probe.add_argument("--noise", metavar="FOLDER", help="recordings to take noise from; default: synthetic")
    probe.add_argument("--cache", type=Path, help="folder of embeddings; default: ~/.cache/ajepa/embeddings")
    trained = evaluate.add_argument_group("finetune, s3prl and xares")
    trained.add_argument(
        "--recipe",
        help="finetune: audioset-2m, audioset-20k, esc50, speech_commands, voxceleb1 or generic; default: "
        "the task's",
    )
    trained.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the recipe, such as epochs=20 or masked_share=0; s3prl: steps=200000, lr=1e-4, "
        "eval_every, frequency, cache_gigabytes, workers; xares: epochs, lr, frequency; may be repeated",
    )
    trained.add_argument("--seeds", help="such as 0,1,2; default: 0, with s3prl and xares the toolkit's")
    hear = evaluate.add_argument_group("hear")
    hear.add_argument("--tasks-dir", type=Path, help="made by `ajepa data hear-task`")
    hear.add_argument("--grid", choices=["default", "fast", "faster"], default="default")
    hear.add_argument("--grid-points", type=int, default=8, help="hyper-parameter settings to try")
    optional = {name for names in (*READ.values(), OTHER) for name in names}
    defaults = {name: evaluate.get_default(name) for name in optional}
    evaluate.set_defaults(run=partial(run_evaluate, defaults=defaults))


def run_evaluate(options: argparse.Namespace, defaults: dict[str, Any]) -> int:
    """`ajepa evaluate`; 1 where a model failed.

    Args:
        defaults: of all options that some protocol reads.
    """
    kind = _kind(options)
    needed = NEEDED.get(kind, ("task", "data"))
    if missing := [_flag(name) for name in needed if getattr(options, name) is None]:
        raise UsageError(f"the protocol {kind} needs {' and '.join(missing)}")
    given = {name for name, default in defaults.items() if getattr(options, name) != default}
    if surplus := [_flag(name) for name in sorted(given - set(READ.get(kind, OTHER)))]:
        raise UsageError(f"the protocol {kind} does not read {' and '.join(surplus)}; leave it out")
    if not all(named_source(text)[1] for text in options.model):
        raise UsageError("--model is empty; give SOURCE or NAME=SOURCE")
    if options.json:
        check_place(options.json, "--json")
    check_device(options.device)

    from ajepa.eval.compare.run import Comparison, evaluate
    from ajepa.eval.models.open import named_model
    from ajepa.eval.probe.embeddings import DEFAULT_CACHE
    from ajepa.eval.protocols import PROTOCOLS
    from ajepa.eval.results.errors import check_distinct
    from ajepa.eval.results.record import write_records
    from ajepa.eval.results.table import robustness_table, table

    how = PROTOCOLS.get(kind)
    if how is None:
        raise UsageError(f"no protocol {kind!r}; there are {', '.join(PROTOCOLS.names())}")
    models = [named_model(text) for text in options.model]
    check_distinct([name for name, _ in models], options.baseline, UsageError)
    comparison = Comparison(
        models=dict(models),
        tasks=_tasks(options, how),
        protocols={kind: _settings(options, how)},
        baseline=options.baseline,
        precision=options.precision,
    )
    shown: list[Record] = []

    def keep(records: list[Record]) -> None:
        shown[:] = records
        if options.json:
            write_records(options.json, records, single=True)

    # The table comes last, even if a later model fails or the disk is full.
    try:
        _, failures = evaluate(
            comparison, options.out, options.cache or DEFAULT_CACHE, device=options.device, keep=keep
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(GOES_ON if options.out else "") from None
    finally:
        for note in dict.fromkeys(f"note: {one.task}: {text}" for one in shown for text in one.notes):
            print(note, file=sys.stderr)
        if shown:
            print(table(shown))
            if any(record.corrupted for record in shown):
                print(f"\n{robustness_table(shown)}")
    return 1 if failures else 0


def _kind(options: argparse.Namespace) -> str:
    if options.kind and options.protocol and options.kind != options.protocol:
        raise UsageError(f"two protocols, {options.kind} and {options.protocol}; leave one out")
    return options.kind or options.protocol or ("hear" if options.tasks_dir else "linear")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _tasks(options: argparse.Namespace, how: type[Protocol]) -> dict[str, dict[str, Any]]:
    """The tasks as a comparison's file has them."""
    if how.reads == "data":
        return {options.task: {"data": str(options.data), **tasks.given(options)}}
    if how.reads == "hear":
        folders = sorted(path.parent for path in options.tasks_dir.glob("*/task_metadata.json"))
        found = {path.name: {"hear": str(path)} for path in folders if options.task in (None, path.name)}
        if not found:
            wanted = f" {options.task}" if options.task else ""
            raise UsageError(f"{options.tasks_dir}: no HEAR task{wanted}; `ajepa data hear-task` makes one")
        return found
    folder = options.data / options.task if how.reads == "xares" else options.data
    return {options.task: {how.reads: str(folder)}}


def _settings(options: argparse.Namespace, how: type[Protocol]) -> dict[str, Any]:
    """The protocol's settings as a comparison's file has them."""
    taken = {one.name for one in fields(how)}
    pairs = {}
    for text in options.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: give KEY=VALUE")
        pairs[key] = value
    settings = {"set": pairs} if "set" in taken else pairs
    for name in ("layer", "pool", "time", "class_weight", "recipe", "grid", "grid_points", "corrupt"):
        if name in taken:
            settings[name] = getattr(options, name)
    if options.noise is not None:
        settings["noise"] = options.noise
    if options.seeds is not None:
        try:
            settings["seeds"] = [int(seed) for seed in options.seeds.split(",")]
        except ValueError as error:
            raise UsageError(f"--seeds is {options.seeds!r}; give numbers such as 0,1,2") from error
    return settings
