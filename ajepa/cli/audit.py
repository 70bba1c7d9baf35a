"""`ajepa audit`: what is wrong with a set of audio."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ajepa.errors import shown

from . import device, tasks
from .tables import console, new_table
from .usage import UsageError

if TYPE_CHECKING:
    from ajepa.audit.clips import AuditClip
    from ajepa.audit.run import Audit

EXAMPLES = """\
examples:
  ajepa audit recordings/ --html audit.html
  ajepa audit recordings/ --model none --out audit.csv       without an encoder: no labels, fewer cut copies
  ajepa audit --task folder --data birds/ --out audit.csv    with splits and labels
  ajepa audit --task table --data labels.csv --strict        exit status 1 if anything is found
"""
SHOWN = 5  # findings of a kind in the terminal
MOST_ROWS = 200  # of a kind on the page


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    audit = commands.add_parser(
        "audit",
        help="find broken, silent, clipped and duplicate clips, leaks and suspicious labels",
        description="Look for problems in a set of audio before you train or test on it: files that "
        "cannot be decoded, silent, short and clipped clips, copies, copies across the splits of a task, and "
        "labels that look wrong. No file is changed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    audit.add_argument(
        "audio",
        nargs="*",
        help="audio files, folders, manifests and tables of segments, folders of tar shards",
    )
    audit.add_argument("--task", help="a labelled task instead of audio, as in `ajepa evaluate`; with --data")
    audit.add_argument("--data", help="the task's data")
    tasks.add(audit.add_argument_group("options of the task"))
    audit.add_argument(
        "--model",
        help="anything ajepa.load_model takes; or none: no encoder, which finds fewer cut copies and "
        "checks no labels; default: the encoder that comes with ajepa",
    )
    audit.add_argument("--out", type=Path, help="write all findings to FILE.csv, .json or .parquet")
    audit.add_argument("--html", type=Path, help="write an HTML page to this file; it plays the clips")
    audit.add_argument("--strict", action="store_true", help="exit status 1 if anything is found")
    audit.add_argument("--workers", type=int, default=2, help="threads that decode; default: 2")
    device.add(audit)
    audit.set_defaults(run=run_audit)


def run_audit(options: argparse.Namespace) -> int:
    """`ajepa audit`."""
    from ajepa.audit.output import check_ending, write_table
    from ajepa.files import check_place

    if options.workers < 1:
        raise UsageError(f"--workers is {options.workers}, must be at least 1")
    if options.out:
        check_ending(options.out)
    for name in ("out", "html"):
        if getattr(options, name):
            check_place(getattr(options, name), f"--{name}")
    device.check_device(options.device)
    clips = _clips(options)

    from tqdm import tqdm

    from ajepa.audit.run import audit
    from ajepa.model.loading import load_model

    model = None if options.model == "none" else load_model(options.model, device=options.device)
    with tqdm(unit="", disable=None) as bar:

        def progress(what: str, done: int, total: int) -> None:
            if done == 1:
                bar.reset(total)
                bar.set_description(what)
            bar.update()

        found = audit(clips, model, workers=options.workers, progress=progress)
    _print(found)
    if options.out:
        write_table(found, options.out)
        print(f"{options.out}: {len(found.findings)} findings")
    if options.html:
        _write_page(options, found)
        print(f"{options.html}: open it in a browser")
    return int(options.strict and bool(found.findings))


def _clips(options: argparse.Namespace) -> list[AuditClip]:
    from ajepa.audit.clips import AuditClip, clips_of

    if bool(options.audio) == bool(options.task):
        raise UsageError("name audio, or a task with --task and --data")
    given = tasks.given(options)
    if options.audio:
        if options.data or given:
            raise UsageError(f"--{next(iter(given), 'data').replace('_', '-')} belongs to a task: add --task")
        from ajepa.embed.inputs import Inputs

        return clips_of(Inputs(options.audio))
    if options.data is None:
        raise UsageError(f"--task {options.task}: add --data, the folder or the table of its data")
    from ajepa.eval.tasks import open_task

    task = open_task(options.task, options.data, **given)
    return [
        AuditClip(
            str(clip.path) if clip.inside is None else clip.name,
            str(clip.path) if clip.inside is None else clip.inside,
            clip.start,
            clip.seconds,
            "" if task.multilabel else clip.labels[0],
            clip.split,
            clip.group,
        )
        for clip in task.clips
    ]


def _print(found: Audit) -> None:
    from ajepa.audit.clips import KINDS

    screen, table = console(), new_table()
    hours = found.seconds / 3600
    if not found.findings:
        screen.print(f"{len(found.clips):,} clips, {hours:.2f} h: nothing found")
        return
    table.add_column("", justify="right")
    table.add_column("")
    table.add_column("clip", overflow="fold")
    table.add_column("", overflow="fold")
    for kind, (title, _) in KINDS.items():
        ours = [one for one in found.findings if one.kind == kind]
        leaks = sum(one.leak for one in ours)
        for place, one in enumerate(ours[:SHOWN]):
            other = "" if one.other is None else f" = {found.clips[one.other].path}"
            head = (f"{len(ours):,}", title) if place == 0 else ("", "")
            table.add_row(*head, shown(_name(found.clips[one.clip])), shown(f"{one.note}{other}"))
        if len(ours) > SHOWN:
            table.add_row("", "", f"and {len(ours) - SHOWN:,} more", "")
        if leaks:
            table.add_row("", "", "", f"{leaks:,} of them are copies across splits: leaks", style="bold")
    screen.print(table)
    places = {one.clip for one in found.findings}
    screen.print(f"{len(found.clips):,} clips, {hours:.2f} h: findings about {len(places):,} of them")


def _name(clip: AuditClip) -> str:
    """The file, and of a part of it where it begins."""
    return f"{clip.path} from {clip.start:g} s" if clip.start else clip.path


def _write_page(options: argparse.Namespace, found: Audit) -> None:
    from ajepa.audit.clips import KINDS
    from ajepa.pages.rows import Clip, Row, Section, write_page

    def shown(number: int) -> Clip:
        clip = found.clips[number]
        end = None if clip.seconds is None else clip.start + clip.seconds
        return Clip(clip.path, clip.start, end)

    sections = []
    for kind, (title, explanation) in KINDS.items():
        ours = [one for one in found.findings if one.kind == kind]
        if not ours:
            continue
        rows = [
            Row(
                (one.note,),
                tuple(shown(number) for number in (one.clip, one.other) if number is not None),
            )
            for one in ours[:MOST_ROWS]
        ]
        if len(ours) > MOST_ROWS:
            explanation += f" The worst {MOST_ROWS} of {len(ours):,}; --out writes them all."
        sections.append(Section(title, explanation, ("what",), rows))
    source: Any = options.task or ", ".join(options.audio)
    facts = [
        ("Clips", f"{len(found.clips):,}, {found.seconds / 3600:.2f} h"),
        ("Findings", f"{len(found.findings):,}"),
        ("Copies across splits", f"{sum(one.leak for one in found.findings):,}"),
    ]
    if not sections:
        print("nothing found: the page has no rows", file=sys.stderr)
    write_page(options.html, f"Audit of {source}", facts, sections)
