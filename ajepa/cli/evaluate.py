"""`ajepa evaluate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ajepa.cli import tasks

STOCK = ("task", "data", "out")  # what the protocols s3prl and xares need
DEFAULTS = ("last", "concat", "mean", "float32")  # of --layer, --pool, --time and --precision


class UsageError(ValueError):
    """Options that are missing or do not go together."""


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
        help="what ajepa.load_model takes, `logmel`, `hear-naive`, or a folder saved by "
        "transformers; s3prl: also s3prl:UPSTREAM[:CHECKPOINT], one of its own; NAME=SOURCE names its row; "
        "may be repeated",
    )
    evaluate.add_argument(
        "--protocol",
        choices=["linear", "knn", "finetune", "hear", "s3prl", "xares"],
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
        help="over time the mean, with the standard deviation behind it, or the better on validation; "
        "default: mean",
    )
    probe.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of the models")
    probe.add_argument("--cache", type=Path, help="folder of embeddings; default: ~/.cache/ajepa/embeddings")
    tasks.add(probe)
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
    evaluate.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> None:
    """`ajepa evaluate`."""
    protocol = options.protocol or ("hear" if options.tasks_dir else "linear")
    needed = {"hear": ("tasks_dir", "out"), "s3prl": STOCK, "xares": STOCK}.get(protocol, ("task", "data"))
    if missing := [f"--{name.replace('_', '-')}" for name in needed if getattr(options, name) is None]:
        raise UsageError(f"the protocol {protocol} needs {' and '.join(missing)}")
    if protocol in ("s3prl", "xares") and _frozen_options(options) != DEFAULTS:
        raise UsageError(f"--layer, --pool, --time and --precision are not for {protocol}; see --set")
    if protocol == "hear":
        _run_hear(options)
    elif protocol == "finetune":
        _run_finetune(options)
    elif protocol == "s3prl":
        _run_s3prl(options)
    elif protocol == "xares":
        _run_xares(options)
    else:
        _run_probe(options, protocol)


def _run_hear(options: argparse.Namespace) -> None:
    from ajepa.eval.hear import Entry, evaluate, table

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
    from ajepa.eval.models import open_model
    from ajepa.eval.native import table, write_records

    task = tasks.open_from(options)
    config = config_for(options.task, options.recipe, options.set)
    models = [open_model(text, options.device) for text in options.model]

    def report(model: str, split: str, seed: int, line: dict[str, float]) -> None:
        values = ", ".join(f"{name} {value:.4g}" for name, value in line.items())
        print(f"{model}, seed {seed}, {split}: {values}", file=sys.stderr)

    seeds = _seeds(options, 0)
    bf16 = options.precision == "bf16"
    records = finetune_models(models, task, config, options.baseline, seeds=seeds, bf16=bf16, report=report)
    if options.json:
        write_records(options.json, records)
    print(table(records))


def _run_s3prl(options: argparse.Namespace) -> None:
    from ajepa.eval.stock import with_settings
    from ajepa.eval.superb import SEED, SuperbSettings, Upstream, evaluate_superb

    records = evaluate_superb(
        [Upstream.parse(text) for text in options.model],
        options.task,
        options.data,
        options.out,
        with_settings(SuperbSettings(), options.set, "s3prl"),
        seeds=_seeds(options, SEED),
        baseline=options.baseline,
        device=options.device,
        report=_say,
    )
    _finish(options, records)


def _run_xares(options: argparse.Namespace) -> None:
    from ajepa.eval.stock import Checkpoint, with_settings
    from ajepa.eval.xares_runs import SEED, XaresSettings, evaluate_xares

    records = evaluate_xares(
        [Checkpoint.parse(text) for text in options.model],
        options.task,
        options.data,
        options.out,
        with_settings(XaresSettings(), options.set, "xares"),
        seeds=_seeds(options, SEED),
        baseline=options.baseline,
        device=options.device,
        report=_say,
    )
    _finish(options, records)


def _seeds(options: argparse.Namespace, default: int) -> list[int]:
    """The numbers of --seeds."""
    if options.seeds is None:
        return [default]
    try:
        return [int(seed) for seed in options.seeds.split(",")]
    except ValueError as error:
        raise UsageError(f"--seeds is {options.seeds!r}; give numbers such as 0,1,2") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _finish(options: argparse.Namespace, records: list[dict[str, Any]]) -> None:
    """Write the records where --json says and show their table."""
    from ajepa.eval.native import table, write_records

    for note in dict.fromkeys(note for record in records for note in record["notes"]):
        _say(f"note: {note}")
    if options.json:
        write_records(options.json, records)
    print(table(records))


def _frozen_options(options: argparse.Namespace) -> tuple[str, ...]:
    return options.layer, options.pool, options.time, options.precision


def _run_probe(options: argparse.Namespace, protocol: str) -> None:
    from ajepa.eval.embeddings import DEFAULT_CACHE
    from ajepa.eval.models import open_model
    from ajepa.eval.native import ProbeOptions, probe_models, table, write_records

    task = tasks.open_from(options)
    how = ProbeOptions(
        protocol=protocol,
        layer=options.layer,
        pool=options.pool,
        time=options.time,
        cache=options.cache or DEFAULT_CACHE,
    )
    models = [open_model(text, options.device, options.precision) for text in options.model]

    def report(record: dict[str, Any]) -> None:
        low, high = record["interval"]
        name = f"{record['model']}, layer {record['layer']}"
        print(f"{name}: {record['score']:.3f} ({low:.3f} to {high:.3f})", file=sys.stderr)

    records = probe_models(models, task, how, options.baseline, report)
    if options.json:
        write_records(options.json, records)
    print(table(records))
