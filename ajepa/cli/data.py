"""`ajepa data`: data sets from the user's files, and synthetic ones."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import data_get, data_xares
from .usage import UsageError, count, rate, seed

if TYPE_CHECKING:
    from tqdm import tqdm

    from ajepa.data.shards import Listing


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ajepa data` and its commands."""
    data = commands.add_parser("data", help="make data sets").add_subparsers(required=True, metavar="WHAT")
    data_get.add(data)
    task = data.add_parser("hear-task", help="write a HEAR task folder from a data set that you have")
    task.add_argument("dataset", choices=["esc50", "esc10", "speech_commands", "table"])
    task.add_argument("--source", type=Path, required=True, help="the data set's folder; for `table` a table")
    task.add_argument("--out", type=Path, required=True, help="the tasks folder")
    task.add_argument(
        "--sample-rate",
        type=rate,
        default=16_000,
        help="of the written audio, Hz: that of the models to score; default: 16000",
    )
    task.add_argument("--csv", type=Path, help="esc50: another table than meta/esc50.csv")
    task.add_argument("--test-source", type=Path, help="speech_commands: the official test archive")
    task.add_argument("--name", help="the task's name")
    task.add_argument("--audio-root", type=Path, help="table: folder of relative paths; default: the table's")
    task.add_argument("--path", help="table: column of the files; default: filename, path, file_name or file")
    task.add_argument("--label", help="table: column of the labels; default: label or labels")
    task.add_argument("--fold", help="table: column of the folds, for cross-validation; default: fold")
    task.add_argument(
        "--split", help="table: column of train, valid and test; auto: make a split; default: split"
    )
    task.add_argument(
        "--segments", action="store_true", help="table: rows are parts of files, with columns start and end"
    )
    task.add_argument(
        "--seconds",
        type=float,
        help="table: length to which clips are cut or padded; default: their own lengths",
    )
    task.add_argument("--multilabel", action="store_true", help="table: clips have several labels")
    task.add_argument(
        "--label-separator", default=";", help="table: between the labels of --multilabel; default: ;"
    )
    task.add_argument("--skip-missing", action="store_true", help="leave out clips whose audio is missing")
    task.add_argument("--force", action="store_true", help="replace an existing task folder")
    task.set_defaults(run=run_hear_task)

    s3prl = data.add_parser("s3prl", help="convert a data set that you have for s3prl")
    s3prl.add_argument("dataset", choices=["speech_commands", "voxceleb1"])
    s3prl.add_argument("--source", type=Path, required=True, help="the data set's folder")
    s3prl.add_argument("--out", type=Path, required=True, help="the folder to write")
    s3prl.add_argument(
        "--keywords",
        type=lambda text: tuple(text.split(",")),
        metavar="WORD,WORD,...",
        help="speech_commands: up to ten words instead of the ten that s3prl knows, which get their names",
    )
    s3prl.add_argument("--test-source", type=Path, help="speech_commands: the official test archive")
    s3prl.add_argument("--meta", type=Path, help="voxceleb1: another split than SOURCE/iden_split.txt")
    s3prl.add_argument("--skip-missing", action="store_true", help="voxceleb1: leave out missing files")
    s3prl.add_argument("--force", action="store_true", help="replace an existing folder")
    s3prl.set_defaults(run=run_s3prl)

    data_xares.add(data)

    manifest = data.add_parser("manifest", help="list a folder's audio, with durations, in a table")
    manifest.add_argument("source", type=Path, metavar="FOLDER")
    manifest.add_argument("out", type=Path, metavar="OUT.csv|.parquet")
    manifest.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="list this share of the files, by a hash of their paths; smaller shares are part of larger ones",
    )
    manifest.add_argument(
        "--segment",
        type=float,
        metavar="S",
        help="cut recordings into segments of S seconds, a row each with start and end",
    )
    manifest.add_argument(
        "--hop", type=float, metavar="S", help="seconds between segments; default: the segment"
    )
    manifest.add_argument(
        "--energy-above",
        type=_decibels,
        metavar="DB",
        help="leave out segments of a lower level, such as -50dB (relative to full scale); decodes the audio",
    )
    # A level is below 0: argparse takes what looks like a negative number for a value, not for an option.
    manifest._negative_number_matcher = re.compile(r"^-\d+(\.\d+)?(dB)?$", re.IGNORECASE)
    _add_scanning(manifest)
    manifest.set_defaults(run=run_manifest)

    shard = data.add_parser(
        "shard",
        help="write a folder or a manifest as WebDataset tars with an index",
        description="The same command continues unfinished shards.",
    )
    shard.add_argument("source", help="a folder of audio or a manifest")
    shard.add_argument("out", type=Path, metavar="OUT", help="the folder of the shards")
    shard.add_argument(
        "--format",
        choices=["wav", "flac", "opus", "copy"],
        default="flac",
        help="wav and flac have 16 bits; copy keeps the original bytes; default: flac",
    )
    shard.add_argument("--sample-rate", type=int, default=16_000, help="Hz, not for copy; default: 16000")
    shard.add_argument("--shard-megabytes", type=int, default=256, help="default: 256")
    _add_scanning(shard)
    shard.set_defaults(run=run_shard)

    index = data.add_parser("index", help="index a folder of tars from elsewhere")
    index.add_argument("source", type=Path, metavar="FOLDER")
    _add_scanning(index)
    index.set_defaults(run=run_index)

    synthetic = data.add_parser("synthetic", help="write synthetic audio in the layout of a real data set")
    synthetic.add_argument(
        "layout", choices=["esc50", "speech_commands", "voxceleb1", "events", "unlabelled"]
    )
    synthetic.add_argument("--out", type=Path, required=True)
    synthetic.add_argument("--seed", type=seed, default=0)
    synthetic.set_defaults(run=run_synthetic)


def _add_scanning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=count, default=os.cpu_count() or 1, help="default: one per core")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out and list unreadable files instead of stopping"
    )


def _decibels(text: str) -> float:
    try:
        value = float(text.lower().removesuffix("db"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no level such as -50dB")
    return value


def _advancing(bar: tqdm[Any]) -> Callable[[int], None]:
    """A function that moves a progress bar to the number of items done."""

    def report(done: int) -> None:
        bar.update(done - bar.n)

    return report


def run_manifest(options: argparse.Namespace) -> None:
    """`ajepa data manifest`."""
    from tqdm import tqdm

    from ajepa.audio import left_out
    from ajepa.data.scan import scan_folder
    from ajepa.data.segments import Cut

    if options.segment is None and (options.hop is not None or options.energy_above is not None):
        raise UsageError("--hop and --energy-above need --segment, the length of each segment in seconds")
    cut = None if options.segment is None else Cut(options.segment, options.hop or 0.0, options.energy_above)
    with tqdm(unit="file", disable=None) as bar:
        found = scan_folder(
            options.source,
            options.out,
            workers=max(1, options.workers),
            skip_broken=options.skip_broken,
            share=options.share,
            cut=cut,
            report=_advancing(bar),
        )
    for reason in found.broken:
        print(f"left out: {reason}", file=sys.stderr)
    if found.others:
        print(f"{options.source}: left out: {left_out(found.others)}", file=sys.stderr)
    rows = "" if cut is None else f", {found.rows} segments"
    quiet = f"; {found.quiet} segments below {options.energy_above:g} dB" if found.quiet else ""
    print(
        f"{options.out}: {found.files} files{rows}, {found.seconds / 3600:.2f} h, "
        f"{len(found.broken)} left out{quiet}"
    )


def run_shard(options: argparse.Namespace) -> None:
    """`ajepa data shard`."""
    from tqdm import tqdm

    from ajepa.data import open_clips
    from ajepa.data.clips import say_left_out
    from ajepa.data.encode import Packing
    from ajepa.data.pack import write_shards

    packing = Packing(options.format, options.sample_rate, options.shard_megabytes)
    clips = open_clips(options.source, labels=True)
    say_left_out(clips, options.source)
    with tqdm(total=len(clips), unit="clip", disable=None) as bar:
        listing = write_shards(
            clips,
            options.out,
            packing,
            workers=max(1, options.workers),
            skip_broken=options.skip_broken,
            report=_advancing(bar),
        )
    _print_listing(options.out, listing)
    broken = options.out / "broken.txt"
    if broken.is_file():
        print(f"{broken}: the clips left out, with reasons")


def run_index(options: argparse.Namespace) -> None:
    """`ajepa data index`."""
    from ajepa.data.tars import index_tars

    listing = index_tars(options.source, workers=max(1, options.workers), skip_broken=options.skip_broken)
    _print_listing(options.source, listing)


def _print_listing(folder: Path, listing: Listing) -> None:
    seconds = sum(shard.seconds for shard in listing.shards)
    size = sum(shard.size for shard in listing.shards)
    print(
        f"{folder}: {listing.fingerprint()['files']} clips, {seconds / 3600:.2f} h, "
        f"{size / 2**20:.1f} MiB in {len(listing.shards)} shards"
    )


def run_hear_task(options: argparse.Namespace) -> None:
    """`ajepa data hear-task`."""
    from ajepa.hear_module import tasks

    common = {
        "sample_rate": options.sample_rate,
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
            path_column=options.path,
            label_column=options.label,
            fold_column=options.fold,
            split_column=options.split,
            seconds=options.seconds,
            multilabel=options.multilabel,
            label_separator=options.label_separator,
            segments=options.segments,
            **common,
        )
    print(f"{path}: HEAR task folder")


def run_s3prl(options: argparse.Namespace) -> None:
    """`ajepa data s3prl`."""
    from ajepa.s3prl_upstream import sets

    if options.dataset == "speech_commands":
        path = sets.speech_commands(
            options.source,
            options.out,
            keywords=options.keywords or sets.KEYWORDS,
            test_source=options.test_source,
            force=options.force,
        )
    else:
        path = sets.voxceleb1(
            options.source,
            options.out,
            meta=options.meta,
            skip_missing=options.skip_missing,
            force=options.force,
        )
        print(
            "note: the bridge keeps s3prl's file lists of each data set separate; without it, delete "
            "downstream/voxceleb1/.cache in s3prl's folder, or s3prl reads the list of another data set",
            file=sys.stderr,
        )
    print(f"{path}: s3prl's {options.dataset}; run it with -d {options.dataset} -c {path / sets.CONFIG}")


def run_synthetic(options: argparse.Namespace) -> None:
    """`ajepa data synthetic`."""
    from ajepa.data import synthetic

    getattr(synthetic, f"write_{options.layout}")(options.out, seed=options.seed)
    print(f"{options.out}: synthetic audio in the layout of {options.layout}")
