"""`ajepa evaluate PROTOCOL`: a sub-command for each protocol, with the options that this protocol reads."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajepa.files import check_place
from ajepa.named_source import named_source

from . import device, tasks
from .usage import UsageError

if TYPE_CHECKING:
    from ajepa.eval.protocols import Protocol
    from ajepa.eval.results.record import Record

# Options of tasks that events need: recordings may have none, and rows are parts of them.
EVENT_OPTIONS = {
    "audacity": ("multilabel",),
    "table": ("multilabel", "segments"),
    "hf": ("multilabel", "segments"),
}
CONTINUES = "stopped; finished results are kept, and the same command continues"
SOURCES = "what ajepa.load_model takes (`default` is the encoder that comes with the package)"
BASELINES = (
    f"{SOURCES}, `logmel`, `hear-naive`, or an encoder of other people, such as hear:MODULE, s3prl:UPSTREAM, "
    "transformers:FOLDER or python:MODULE:FACTORY (docs/encoders_in.md)"
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its protocols to the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score models on labelled audio: a linear probe, nearest neighbours, fine-tuning, or the stock "
        "toolkits HEAR, s3prl (SUPERB) and X-ARES",
        description="Score models on labelled audio by one protocol. `ajepa compare` runs several protocols "
        "and tasks from one file. The exit status is 1 if a model failed.",
    )
    protocols = evaluate.add_subparsers(required=True, metavar="PROTOCOL", dest="kind")
    for name, text, options in (
        ("linear", "a linear probe on frozen embeddings", (_models, _clips, _linear, _probe, _save)),
        ("knn", "nearest neighbours among frozen embeddings", (_models, _clips, _knn, _probe)),
        ("finetune", "train all weights and a linear head", (_models, _clips, _recipe, _training, _save)),
        ("verify", "speaker verification by cosines, scored by the equal error rate", (_models, _verify)),
        (
            "events",
            "a linear probe on frozen frames that finds when sounds begin",
            (_models, _clips, _events),
        ),
        ("hear", "the stock HEAR toolkit, on tasks that `ajepa data hear-task` made", (_models, _hear)),
        ("s3prl", "s3prl's own heads (SUPERB), on data that `ajepa data s3prl` made", (_models, _s3prl)),
        ("xares", "the stock X-ARES toolkit, on tars that `ajepa data xares` made", (_models, _xares)),
        *(
            (one.name, f"a protocol of {one.value.partition(':')[0]}", (_models, _clips, _training, _cache))
            for one in entry_points(group="ajepa.protocols")
        ),
    ):
        if name not in protocols.choices:  # another package cannot replace one of ours
            parser = protocols.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
            for group in options:
                group(parser)
            parser.set_defaults(run=run_evaluate)


def _models(parser: argparse.ArgumentParser) -> None:
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


def _clips(parser: argparse.ArgumentParser) -> None:
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


def _linear(parser: argparse.ArgumentParser) -> None:
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


def _knn(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layer",
        default="last",
        help="last (the model's output), a number from 1, several joined as 2+4+6, each (a row for each), "
        "or best on validation; default: last",
    )


def _probe(parser: argparse.ArgumentParser) -> None:
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
    _cache(parser)


def _cache(parser: argparse.ArgumentParser) -> None:
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


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        help="audioset-2m, audioset-20k, esc50, speech_commands, voxceleb1 or generic, or Audio-MAE's: "
        "audio-mae-esc50 and so on; default: the task's",
    )


def _training(parser: argparse.ArgumentParser, settings: str = "epochs=20 or masked_share=0") -> None:
    parser.add_argument(
        "--set",
        action="append",
        type=_setting,
        metavar="KEY=VALUE",
        help=f"a setting of the training, such as {settings}; may be repeated",
    )
    parser.add_argument("--seeds", type=_seeds, help="such as 0,1,2; default: one, the protocol's first")


def _save(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FOLDER",
        help="store the classifier in this folder, for `ajepa predict`; with one --model only",
    )


def _verify(parser: argparse.ArgumentParser) -> None:
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
    _cache(parser)


def _events(parser: argparse.ArgumentParser) -> None:
    _one_layer(parser)
    parser.add_argument(
        "--collar",
        type=float,
        default=0.2,
        help="largest distance in seconds between the onsets of a found and a true event; default: 0.2",
    )
    _cache(parser)


def _hear(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks-dir", type=Path, required=True, help="made by `ajepa data hear-task`")
    parser.add_argument("--task", help="one task's folder name; default: all of them")
    parser.add_argument("--grid", choices=["default", "fast", "faster"], help="default: default")
    parser.add_argument("--grid-points", type=int, metavar="N", help="hyper-parameters to try; default: 8")
    _kept(parser)


def _s3prl(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, help="speech_commands or voxceleb1")
    parser.add_argument("--data", type=Path, required=True, help="made by `ajepa data s3prl`")
    _baseline(parser)
    settings = "steps=200000, lr=1e-4, eval_every, frequency, cache_gigabytes or workers"
    _training(parser, settings)
    _kept(parser)


def _xares(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", required=True, help="X-ARES's name, such as esc50, speechcommandsv1 or voxceleb1"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder in which `ajepa data xares` made tars"
    )
    _baseline(parser)
    _training(parser, "epochs, lr or frequency")
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


def run_evaluate(options: argparse.Namespace) -> int:
    """`ajepa evaluate`; 1 where a model failed."""
    if options.json:
        check_place(options.json, "--json")
    device.check_device(options.device)

    save = getattr(options, "save", None)
    if save:
        _check_save(options, save)

    from ajepa.eval.compare.run import Comparison, evaluate
    from ajepa.eval.models.open import named_model
    from ajepa.eval.protocols import PROTOCOLS
    from ajepa.eval.results.errors import check_distinct
    from ajepa.eval.results.record import write_records
    from ajepa.eval.results.table import robustness_table, table
    from ajepa.model.loading import encoder_file

    given = {name: value for name, value in vars(options).items() if value is not None}
    how = PROTOCOLS.get(options.kind)
    assert how is not None, "a sub-command is made for each protocol"
    models = [named_model(text) for text in options.model]
    if options.encoder:
        models = [(name, encoder_file(source, options.encoder)) for name, source in models]
    check_distinct([name for name, _ in models], given.get("baseline"), UsageError)
    comparison = Comparison(
        models=dict(models),
        tasks=_tasks(options, how),
        protocols={options.kind: _settings(given, how)},
        baseline=given.get("baseline"),
        precision=given.get("precision", "float32"),
    )
    shown: list[Record] = []

    def keep(records: list[Record]) -> None:
        shown[:] = records
        if options.json:
            write_records(options.json, _beside(options.json, options.out, records), single=True)

    # The table comes last, even if a later model fails or the disk is full.
    try:
        _, failures = evaluate(
            comparison,
            options.out,
            given.get("cache"),
            device=options.device,
            keep=keep,
            save=save,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(CONTINUES if options.out else "") from None
    finally:
        for note in dict.fromkeys(f"note: {one.task}: {text}" for one in shown for text in one.notes):
            print(note, file=sys.stderr)
        if shown:
            print(table(shown))
            if any(record.corrupted for record in shown):
                print(f"\n{robustness_table(shown)}")
    if save and not failures:
        print(f"{save}: the classifier; `ajepa predict FILES --model {save}` applies it")
    return 1 if failures else 0


def _beside(path: Path, out: Path | None, records: list[Record]) -> list[Record]:
    """The records with the names of their files as seen from the folder of `path`, or without them."""

    def seen(files: tuple[str, ...]) -> tuple[str, ...]:
        if out is None:
            return ()
        return tuple(os.path.relpath(out.absolute() / file, path.absolute().parent) for file in files)

    return [
        replace(record, answers=seen(record.answers), features=seen(record.features)) for record in records
    ]


def _check_save(options: argparse.Namespace, folder: Path) -> None:
    if len(options.model) > 1:
        raise UsageError(f"--save {folder} keeps the classifier of one model; give --model once")
    if getattr(options, "layer", None) == "each":
        raise UsageError("--save keeps one classifier; give --layer another value than each")

    from ajepa.eval.classifiers.folder import check_save

    check_save(folder)


def _tasks(options: argparse.Namespace, how: type[Protocol]) -> dict[str, dict[str, Any]]:
    """The tasks as a comparison's file has them."""
    if how.reads == "data":
        entry = {"data": str(options.data), **tasks.given(options)}
        if options.kind == "events":
            entry |= dict.fromkeys(EVENT_OPTIONS.get(options.task, ()), True)
        return {options.task: entry}
    if how.reads == "hear":
        folders = sorted(path.parent for path in options.tasks_dir.glob("*/task_metadata.json"))
        found = {path.name: {"hear": str(path)} for path in folders if options.task in (None, path.name)}
        if not found:
            wanted = f" {options.task}" if options.task else ""
            raise UsageError(f"{options.tasks_dir}: no HEAR task{wanted}; `ajepa data hear-task` makes one")
        return found
    if how.reads == "verify":
        return {options.trials.stem: {"verify": str(options.trials)}}
    folder = options.data / options.task if how.reads == "xares" else options.data
    return {options.task: {how.reads: str(folder)}}


def _settings(given: dict[str, Any], how: type[Protocol]) -> dict[str, Any]:
    """The protocol's settings as a comparison's file has them: options that are its fields, and --set."""
    taken = {one.name for one in fields(how)}
    pairs: Iterable[tuple[str, str]] = given.pop("set", ())
    settings = {"set": dict(pairs)} if "set" in taken else dict(pairs)
    return settings | {name: given[name] for name in taken & given.keys() - {"set"}}
