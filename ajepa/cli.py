"""The command line. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for wrong use and bad input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.run is not run_pretrain:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    # The project's own errors derive from these two; anything else is a defect and keeps its traceback.
    try:
        return options.run(options) or 0
    except (ValueError, RuntimeError) as error:
        if not type(error).__module__.startswith("ajepa"):
            raise
        print(f"ajepa: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written: it names its path itself
        print(f"ajepa: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"ajepa: {stopped or 'interrupted'}", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ajepa", description="Pre-train audio encoders in latent space and evaluate them."
    )
    parser.add_argument("--version", action="version", version=version("ajepa"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    pretrain = commands.add_parser(
        "pretrain",
        help="train an encoder on a folder of audio, or go on with a run",
        description="Example: ajepa pretrain ajepa-small-cpu --data.source my_audio --run.out runs/first. "
        "Any key of the recipe is an option, written --optim.lr 1e-3 or optim.lr=1e-3. The same command "
        "goes on with a run that was stopped.",
    )
    pretrain.add_argument(
        "recipe", help="a packaged recipe's name or a .yaml file; `ajepa recipes` lists them"
    )
    pretrain.add_argument(
        "--skip-broken", action="store_true", help="list unreadable files instead of stopping"
    )
    pretrain.set_defaults(run=run_pretrain)

    recipes = commands.add_parser("recipes", help="list the packaged recipes, or print one")
    recipes.add_argument("name", nargs="?", help="print this recipe with all its values")
    recipes.set_defaults(run=run_recipes)

    embed = commands.add_parser("embed", help="embed audio files into one .npz file")
    embed.add_argument("audio", nargs="+", type=Path, help="audio files, or folders that are searched")
    embed.add_argument("--model", default=None, help="what ajepa.load_model takes; default: its default")
    embed.add_argument("--out", type=Path, required=True, help="embeddings.npz: arrays `files` and `clip`")
    embed.add_argument("--device", default=None)
    embed.add_argument("--skip-broken", action="store_true", help="list unreadable files, do not stop")
    embed.set_defaults(run=run_embed)

    _add_data(commands)
    _add_harness(commands)

    evaluate = commands.add_parser("evaluate", help="score models on HEAR tasks with the stock HEAR toolkit")
    evaluate.add_argument(
        "--model",
        action="append",
        required=True,
        help="what ajepa.load_model takes, or `logmel`; NAME=SOURCE names its row; may be repeated",
    )
    evaluate.add_argument("--protocol", choices=["hear"], default="hear")
    evaluate.add_argument("--tasks-dir", type=Path, required=True, help="made by `ajepa data hear-task`")
    evaluate.add_argument("--task", default="all", help="one task's folder name; default: all of them")
    evaluate.add_argument(
        "--out", type=Path, required=True, help="folder for embeddings, scores and records.json"
    )
    evaluate.add_argument("--grid", choices=["default", "fast", "faster"], default="default")
    evaluate.add_argument("--grid-points", type=int, default=8, help="hyper-parameter settings to try")
    evaluate.set_defaults(run=run_evaluate)

    demo = commands.add_parser("demo", help="the whole job on synthetic audio, in minutes")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    demo.add_argument("--data", type=Path, default=None, help="your own audio for pre-training")
    demo.set_defaults(run=run_demo)
    return parser


def _add_data(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    data = commands.add_parser("data", help="make data sets").add_subparsers(required=True, metavar="WHAT")
    task = data.add_parser("hear-task", help="write a HEAR task folder from a data set that you have")
    task.add_argument("dataset", choices=["esc50", "esc10", "speech_commands", "table"])
    task.add_argument(
        "--source", type=Path, required=True, help="the data set's folder; for `table` a CSV file"
    )
    task.add_argument("--out", type=Path, required=True, help="the tasks folder")
    task.add_argument("--csv", type=Path, help="esc50: another table than meta/esc50.csv")
    task.add_argument("--test-source", type=Path, help="speech_commands: the official test archive")
    task.add_argument("--name", help="the task's name")
    task.add_argument(
        "--audio-root", type=Path, help="table: where relative paths start; default: beside the CSV"
    )
    task.add_argument("--label", default="label", help="table: column of the labels")
    task.add_argument("--fold", help="table: column of the folds, for cross-validation")
    task.add_argument("--split", help="table: column of the splits train, valid, test")
    task.add_argument("--seconds", type=float, help="table: clip length; default: the longest clip's")
    task.add_argument("--multilabel", action="store_true", help="table: labels are lists, split at ;")
    task.add_argument("--skip-missing", action="store_true", help="leave out clips whose audio is not there")
    task.add_argument("--force", action="store_true", help="replace a task folder that exists")
    task.set_defaults(run=run_hear_task)

    synthetic = data.add_parser("synthetic", help="write synthetic audio in the layout of a real data set")
    synthetic.add_argument("layout", choices=["esc50", "speech_commands", "voxceleb1", "unlabelled"])
    synthetic.add_argument("--out", type=Path, required=True)
    synthetic.add_argument("--seed", type=int, default=0)
    synthetic.set_defaults(run=run_synthetic)


def _add_harness(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    harness = commands.add_parser(
        "harness", help="let the stock evaluation toolkits run in this environment"
    ).add_subparsers(required=True, metavar="WHAT")
    enable = harness.add_parser("enable", help="install a toolkit and the import hook it needs")
    enable.add_argument("name", choices=["hear"])
    enable.add_argument("--no-install", action="store_true", help="write the hook only")
    disable = harness.add_parser("disable", help="remove the hook")
    disable.add_argument("name", nargs="?", choices=["hear"])
    harness.add_parser("status", help="what is enabled and installed")
    once = harness.add_parser("run", help="run one stock module with its cures, without the hook")
    once.add_argument("module", help="such as heareval.embeddings.runner")
    once.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")
    for name, parser in harness.choices.items():
        parser.set_defaults(run=run_harness, action=name)


def run_pretrain(options: argparse.Namespace) -> None:
    """`ajepa pretrain`."""
    from ajepa.recipe import load_recipe
    from ajepa.training.loop import pretrain

    overrides = options.rest + (["--data.skip_broken=true"] if options.skip_broken else [])
    path = pretrain(load_recipe(options.recipe, overrides))
    print(f"{path}: the finished encoder; load it with ajepa.load_model({str(path.parent)!r})")


def run_recipes(options: argparse.Namespace) -> None:
    """`ajepa recipes`."""
    from ajepa.recipe import dump_recipe, load_recipe, recipe_names

    print(dump_recipe(load_recipe(options.name)) if options.name else "\n".join(recipe_names()))


def run_embed(options: argparse.Namespace) -> None:
    """`ajepa embed`."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from ajepa.audio import AudioError, find_audio, load
    from ajepa.model import load_model

    files = [f for item in options.audio for f in (find_audio(item) if item.is_dir() else [item])]
    model = load_model(options.model, device=options.device)
    names, clips = [], []
    for path in tqdm(files, unit="file", disable=None):
        try:
            waveform = load(path, sample_rate=model.sample_rate)
        except AudioError as error:
            if not options.skip_broken:
                raise
            print(error, file=sys.stderr)
            continue
        with torch.no_grad():
            clips.append(model(waveform[None]).clip[0].cpu().numpy())
        names.append(str(path))
    if not clips:
        raise AudioError("none of the files could be read; their reasons are above")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_name(f".{options.out.name}.npz")
    np.savez(partial, files=np.array(names), clip=np.stack(clips))
    partial.replace(options.out)
    print(f"{options.out}: {len(names)} embeddings of {model.embedding_size} features")


def run_hear_task(options: argparse.Namespace) -> None:
    """`ajepa data hear-task`."""
    from ajepa.hear_module import tasks

    common = {
        "task_name": options.name,
        "skip_missing": options.skip_missing,
        "force": options.force,
    }
    if options.dataset in {"esc50", "esc10"}:
        esc10 = options.dataset == "esc10"
        path = tasks.from_esc50(options.source, options.out, esc10=esc10, csv=options.csv, **common)
    elif options.dataset == "speech_commands":
        path = tasks.from_speech_commands(
            options.source, options.out, test_source=options.test_source, **common
        )
    else:
        path = tasks.from_table(
            options.source,
            options.out,
            audio_root=options.audio_root,
            label_column=options.label,
            fold_column=options.fold,
            split_column=options.split,
            seconds=options.seconds,
            multilabel=options.multilabel,
            **common,
        )
    print(f"{path}: HEAR task folder")


def run_synthetic(options: argparse.Namespace) -> None:
    """`ajepa data synthetic`."""
    from ajepa.data import synthetic

    getattr(synthetic, f"write_{options.layout}")(options.out, seed=options.seed)
    print(f"{options.out}: synthetic audio in the layout of {options.layout}")


def run_harness(options: argparse.Namespace) -> None:
    """`ajepa harness`."""
    from ajepa import harness

    if options.action == "run":
        harness.run(options.module, options.arguments)
        return
    if options.action == "enable":
        lines = harness.enable(options.name, install=not options.no_install)
    elif options.action == "disable":
        lines = harness.disable(options.name)
    else:
        lines = harness.status()
    print("\n".join(lines))


def run_evaluate(options: argparse.Namespace) -> None:
    """`ajepa evaluate`."""
    from ajepa.eval.hear import Entry, evaluate, table

    entries = [Entry.parse(text) for text in options.model]
    records = evaluate(
        entries,
        options.tasks_dir,
        options.out,
        task=options.task,
        grid=options.grid,
        grid_points=options.grid_points,
    )
    print(table(records))


def run_demo(options: argparse.Namespace) -> None:
    """`ajepa demo`."""
    from ajepa.eval.demo import demo

    demo(options.out, options.data)


if __name__ == "__main__":
    sys.exit(main())
