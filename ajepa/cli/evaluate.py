"""`ajepa evaluate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ajepa.files import check_place
from ajepa.named_source import named_source

from . import tasks
from .usage import UsageError

STOCK = ("task", "data", "out")  # what the protocols s3prl and xares need
# What each protocol reads beside --model and --task: anything else that is given would go unheeded.
PROBE = (
    *tasks.ARGUMENTS,
    *("data", "json", "baseline", "device", "layer", "pool", "time", "class_weight", "precision", "cache"),
)
TOOLKIT = ("data", "json", "baseline", "device", "out", "set", "seeds")
READ = {
    "linear": PROBE,
    "knn": PROBE,
    "finetune": (
        *tasks.ARGUMENTS,
        *("data", "json", "baseline", "device", "precision", "recipe", "set", "seeds"),
    ),
    "hear": ("tasks_dir", "out", "grid", "grid_points"),
    "s3prl": TOOLKIT,
    "xares": TOOLKIT,
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score models on labelled audio: a linear probe, nearest neighbours, fine-tuning, or the stock "
        "toolkits HEAR, s3prl (SUPERB) and X-ARES",
    )
    evaluate.add_argument(
        "--model",
        action="append",
        required=True,
        help="what ajepa.load_model takes (`default` is the encoder that comes with the package), `logmel`, "
        "`hear-naive`, or a folder saved by transformers; s3prl: also s3prl:UPSTREAM[:CHECKPOINT], one of "
        "its own; NAME=SOURCE names its row; may be repeated",
    )
    evaluate.add_argument(
        "--protocol",
        choices=list(READ),
        help="default: hear with --tasks-dir, else linear",
    )
    evaluate.add_argument(
        "--task",
        default=None,
        help="audioset_20k, audioset_2m, esc50, esc10, speech_commands_v1, speech_commands_v2, voxceleb1 or "
        "table; hear: one task's folder name (default: all of them); s3prl: speech_commands or voxceleb1; "
        "xares: its own name, such as esc50, speechcommandsv1 or voxceleb1",
    )
    probe = evaluate.add_argument_group("linear, knn and finetune; the first four also s3prl and xares")
    probe.add_argument(
        "--data",
        type=Path,
        help="the data set's folder; for `table` a CSV file; s3prl: made by `ajepa data s3prl`; xares: the "
        "folder of its tars, made by `ajepa data xares`",
    )
    probe.add_argument("--json", type=Path, help="write the record here (of several models a list)")
    probe.add_argument("--baseline", help="name of the model that the others are compared with")
    probe.add_argument("--device", default=None)
    probe.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of the models")
    tasks.add(probe)
    frozen = evaluate.add_argument_group("linear and knn")
    frozen.add_argument(
        "--layer",
        default="last",
        help="last, a number from 1, each (a row for each), best on validation, or weighted (linear: a sum "
        "whose weights are learned with the probe); default: last",
    )
    frozen.add_argument(
        "--pool",
        choices=["concat", "mean", "best"],
        default="concat",
        help="frequency patches side by side, averaged, or the better on validation; default: concat",
    )
    frozen.add_argument(
        "--time",
        choices=["mean", "mean+std", "best"],
        default="mean",
        help="over time the mean, with the standard deviation behind it, or the better on validation; "
        "default: mean",
    )
    frozen.add_argument(
        "--class-weight",
        choices=["none", "balanced"],
        default="none",
        help="linear: clips weigh alike, or classes do; default: none",
    )
    frozen.add_argument("--cache", type=Path, help="folder of embeddings; default: ~/.cache/ajepa/embeddings")
    finetune = evaluate.add_argument_group("finetune, s3prl and xares")
    finetune.add_argument(
        "--recipe",
        help="finetune: audioset-2m, audioset-20k, esc50, speech_commands or voxceleb1; default: the task's",
    )
    finetune.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the recipe, such as epochs=20 or masked_share=0; s3prl: steps=200000, lr=1e-4, "
        "eval_every, frequency, cache_gigabytes, workers; xares: epochs, lr, frequency; may be repeated",
    )
    finetune.add_argument("--seeds", help="such as 0,1,2; default: 0, the toolkit's own with s3prl and xares")
    hear = evaluate.add_argument_group("hear")
    hear.add_argument("--tasks-dir", type=Path, help="made by `ajepa data hear-task`")
    hear.add_argument(
        "--out", type=Path, help="also s3prl and xares: folder for embeddings, logs and records"
    )
    hear.add_argument("--grid", choices=["default", "fast", "faster"], default="default")
    hear.add_argument("--grid-points", type=int, default=8, help="hyper-parameter settings to try")
    every = {name for names in READ.values() for name in names}
    defaults = {name: evaluate.get_default(name) for name in every}
    evaluate.set_defaults(run=partial(run_evaluate, defaults=defaults))


def run_evaluate(options: argparse.Namespace, defaults: dict[str, Any]) -> None:
    """`ajepa evaluate`; `defaults` are those of all options that some protocol reads."""
    protocol = options.protocol or ("hear" if options.tasks_dir else "linear")
    needed = {"hear": ("tasks_dir", "out"), "s3prl": STOCK, "xares": STOCK}.get(protocol, ("task", "data"))
    if missing := [_flag(name) for name in needed if getattr(options, name) is None]:
        raise UsageError(f"the protocol {protocol} needs {' and '.join(missing)}")
    given = {name for name, default in defaults.items() if getattr(options, name) != default}
    if surplus := [_flag(name) for name in sorted(given - set(READ[protocol]))]:
        raise UsageError(f"the protocol {protocol} does not read {' and '.join(surplus)}; leave it out")
    if not all(named_source(text)[1] for text in options.model):
        raise UsageError("--model is empty; give SOURCE or NAME=SOURCE")
    if options.json:
        check_place(options.json, "--json")
    if options.device:
        _check_device(options.device)
    if protocol == "hear":
        _run_hear(options)
    elif protocol == "finetune":
        _run_finetune(options)
    elif protocol in ("s3prl", "xares"):
        _run_toolkit(options, protocol)
    else:
        _run_probe(options, protocol)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # no such kind, no such number, not on this machine
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device}: {reason}; leave it out, or choose cpu") from error


def _run_hear(options: argparse.Namespace) -> None:
    from ajepa.eval.toolkits.hear import Entry, evaluate, table

    entries = [Entry.parse(text) for text in options.model]
    records = evaluate(
        entries,
        options.tasks_dir,
        options.out,
        task=options.task or "all",
        grid=options.grid,
        grid_points=options.grid_points,
    )
    print(table(records))


def _run_finetune(options: argparse.Namespace) -> None:
    from ajepa.eval.finetune.config import config_for
    from ajepa.eval.finetune.records import finetune_models
    from ajepa.eval.models.open import open_model

    task = tasks.open_from(options)
    config = config_for(options.task, options.recipe, options.set, multilabel=task.multilabel)
    models = [open_model(text, options.device) for text in options.model]

    def report(model: str, split: str, seed: int, line: dict[str, float]) -> None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in line.items())
        _say(f"{model}, seed {seed}, {split}: {values}")

    seeds = _seeds(options, 0)
    bf16 = options.precision == "bf16"
    with _keeping(options) as keep:
        finetune_models(
            models, task, config, options.baseline, seeds=seeds, bf16=bf16, report=report, done=keep
        )


def _run_toolkit(options: argparse.Namespace, protocol: str) -> None:
    """The stock toolkits s3prl and X-ARES, which are given the same."""
    from ajepa.eval.toolkits import s3prl as superb
    from ajepa.eval.toolkits.stock import Checkpoint, with_settings
    from ajepa.eval.toolkits.xares import runs as xares_runs

    toolkits: dict[str, tuple[Any, Any, int, Callable[..., list[dict[str, Any]]]]] = {
        "s3prl": (superb.Upstream, superb.SuperbSettings(), superb.SEED, superb.evaluate_superb),
        "xares": (Checkpoint, xares_runs.XaresSettings(), xares_runs.SEED, xares_runs.evaluate_xares),
    }
    kind, settings, seed, evaluate = toolkits[protocol]
    records = evaluate(
        [kind.parse(text) for text in options.model],
        options.task,
        options.data,
        options.out,
        with_settings(settings, options.set, protocol),
        seeds=_seeds(options, seed),
        baseline=options.baseline,
        device=options.device,
        report=_say,
    )
    for note in dict.fromkeys(note for record in records for note in record["notes"]):
        _say(f"note: {note}")
    with _keeping(options) as keep:
        for record in records:
            keep(record)


def _seeds(options: argparse.Namespace, default: int) -> list[int]:
    """The numbers of --seeds."""
    if options.seeds is None:
        return [default]
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError as error:
        raise UsageError(f"--seeds is {options.seeds!r}; give numbers such as 0,1,2") from error
    if len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):  # numpy's range
        raise UsageError(f"--seeds is {options.seeds!r}; give different numbers from 0 to {2**32 - 1}")
    return seeds


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _keeping(options: argparse.Namespace) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What takes each record when it is there and writes all so far where --json says.

    The table of what was taken is shown at the end, that even if a later model fails or the disk is full.
    """
    from ajepa.eval.results.result import table, write_records

    records: list[dict[str, Any]] = []

    def keep(record: dict[str, Any]) -> None:
        records.append(record)
        if options.json:
            write_records(options.json, records)

    try:
        yield keep
    finally:
        if records:
            print(table(records))


def _run_probe(options: argparse.Namespace, protocol: str) -> None:
    from ajepa.eval.models.open import open_model
    from ajepa.eval.probe.embeddings import DEFAULT_CACHE
    from ajepa.eval.probe.run import ProbeOptions, probe_models

    task = tasks.open_from(options)
    how = ProbeOptions(
        protocol=protocol,
        layer=options.layer,
        pool=options.pool,
        time=options.time,
        class_weight=options.class_weight,
        cache=options.cache or DEFAULT_CACHE,
    )
    models = [open_model(text, options.device, options.precision) for text in options.model]

    with _keeping(options) as keep:

        def report(record: dict[str, Any]) -> None:
            low, high = record["interval"]
            _say(
                f"{record['model']}, layer {record['layer']}: {record['score']:.3f} ({low:.3f} to {high:.3f})"
            )
            keep(record)

        probe_models(models, task, how, options.baseline, report)
