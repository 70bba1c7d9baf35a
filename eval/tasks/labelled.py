"""A task from labelled clips of the user, in whatever form they came: splits where they lack them, checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ajepa.data.labelled import Labelled, check_no_overlap
from ajepa.data.splitting import hold_out, with_splits
from ajepa.data.tables import listed, without_missing

from .task import Clip, Task, TaskError


def make_task(
    source: Path,
    clips: Sequence[Labelled],
    *,
    name: str,
    folds: bool = False,
    split: str | None = None,
    multilabel: bool = False,
    segments: bool = False,
    skip_missing: bool = False,
    path_column: str = "path",
    notes: Sequence[str] = (),
) -> Task:
    """The task of clips that all have splits, or none.

    Clips without splits are split by `split`, a file that such a split was written to, or anew. Without a
    split for validation, one training clip in five makes the choices, and the scored model is then trained on
    all training clips. Without one for testing, the validation clips are tested.

    Args:
        source: the table or folder of the clips, for messages.
        segments: the clips are parts of files; those of one file are a group unless they have one.

    Raises:
        TaskError: a file is missing, a label is never trained on, or the same audio is in two splits.
    """
    if segments:
        clips = [clip if clip.group else clip._replace(group=clip.name) for clip in clips]
    clips = [clip for _, clip in without_missing([(clip.path, clip) for clip in clips], source, skip_missing)]
    stratified = not multilabel or (segments and all(len(clip.labels) < 2 for clip in clips))
    said = list(notes)
    if not any(clip.split for clip in clips):
        clips, how = with_splits(source, clips, split, stratified=stratified, path_column=path_column)
        said.append(how)
    check_no_overlap(clips, source)
    refit = False
    if not folds:
        clips, refit = _complete(source, clips, stratified, said)
    said += _shared_groups(clips)
    task = Task(
        name,
        tuple(
            Clip(one.path, one.labels, one.split, one.group, one.start, one.seconds, one.inside)
            for one in clips
        ),
        folds,
        multilabel,
        tuple(said),
        refit,
    )
    trained = {"train", "valid"} if refit else {"train"}
    splits = _splits((label, clip.split) for clip in task.clips for label in clip.labels)
    # With folds, a label's clips in one fold are scored by a model trained on the other folds.
    unseen = [
        label for label in task.classes if (len(splits[label]) < 2 if folds else not splits[label] & trained)
    ]
    if unseen:
        problem = "occur in one fold only" if folds else "have no clip for training"
        raise TaskError(
            f"{source}: the labels {listed(unseen)} {problem}; split them again or leave them out"
        )
    return task


def _complete(
    source: Path, clips: Sequence[Labelled], stratified: bool, said: list[str]
) -> tuple[Sequence[Labelled], bool]:
    """Clips with all three splits, and whether the validation clips are trained on too; adds to the notes."""
    found = {clip.split for clip in clips}
    if found == {"train", "valid"}:
        clips = [clip._replace(split="test") if clip.split == "valid" else clip for clip in clips]
        said.append("no clips are for testing: those for validation are tested")
    elif found != {"train", "test"}:
        return clips, False
    clips = hold_out(source, clips, stratified=stratified)
    held = sum(clip.split == "valid" for clip in clips)
    said.append(
        f"no clips are for validation: {held:,} training clips are held out for choices, and the model that "
        "is scored is trained on them too"
    )
    return clips, True


def _splits(found: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """The splits that each label or group occurs in."""
    splits: dict[str, set[str]] = defaultdict(set)
    for name, split in found:
        splits[name].add(split)
    return splits


def _shared_groups(clips: Iterable[Labelled]) -> list[str]:
    """A note about groups with clips in both training and testing."""
    splits = _splits((clip.group, clip.split) for clip in clips if clip.group)
    shared = sorted(group for group, found in splits.items() if len(found) > 1)
    if not shared:
        return []
    return [f"{len(shared):,} of {len(splits):,} groups have clips in several splits: {listed(shared)}"]
