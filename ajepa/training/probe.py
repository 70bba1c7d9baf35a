"""An online probe: how well the encoder of a running pre-training separates labelled clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ajepa.audio import load
from ajepa.data.labelled import AUTO, SPLIT_NAMES, Labelled, read_labelled
from ajepa.data.tables import TaskError
from ajepa.features import LogMel
from ajepa.model import AudioEncoder
from ajepa.nn.encoder import Encoder
from ajepa.recipes import Recipe, RecipeError
from ajepa.recipes.parts import ProbeConfig

NEIGHBOURS = 10
CLIPS_A_PASS = 32
REFERENCE = "train"
VALIDATION = "valid"


class Probe:
    """kNN accuracy on a small labelled table: cheap, with nothing to tune.

    Clips are embedded by `AudioEncoder` (mean over time, concatenated frequency patches), features
    standardised on the reference clips; the 10 nearest by cosine vote with their similarity. Without a split
    column each clip is scored against all others. With one, clips of the split "train" are the reference, and
    those of "valid" or "validation" are scored: the score chooses the best encoder, so test clips must not
    affect it. Without such clips all others are scored.

    Raises:
        RecipeError: the table cannot be used, or has fewer than two reference clips or none to score.
        AudioError: a clip cannot be read.
    """

    def __init__(self, recipe: Recipe, front_end: LogMel, encoder: Encoder) -> None:
        rows = _scorable(_read(recipe.run.probe), recipe.run.probe)
        self.model = AudioEncoder(recipe.front_end, recipe.encoder, recipe.chunk_seconds)
        # The run's own modules, so that every score is of the current weights.
        self.model.features, self.model.encoder = front_end, encoder
        names = sorted({row.labels[0] for row in rows})
        self.label_B = torch.tensor([names.index(row.labels[0]) for row in rows])
        self.alone = not recipe.run.probe.split
        self.reference_B = torch.tensor([self.alone or row.split == REFERENCE for row in rows])
        self.waveforms = [
            load(row.path, start=row.start, seconds=row.seconds, sample_rate=self.model.sample_rate)
            for row in rows
        ]

    @torch.no_grad()
    def score(self) -> float:
        """Accuracy of the current weights, in 0..1."""
        training = self.model.encoder.training
        self.model.encoder.eval()
        features_BE = torch.cat(
            [
                self._embed(self.waveforms[first : first + CLIPS_A_PASS])
                for first in range(0, len(self.waveforms), CLIPS_A_PASS)
            ]
        )
        self.model.encoder.train(training)
        return knn_accuracy(features_BE, self.label_B, self.reference_B, self.alone)

    def _embed(self, waveforms: list[Tensor]) -> Tensor:
        batch_BS = nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        return self.model(batch_BS, [len(waveform) for waveform in waveforms]).clip.float().cpu()


def knn_accuracy(features_BE: Tensor, label_B: Tensor, reference_B: Tensor, alone: bool) -> float:
    """Share of clips whose neighbours among the reference vote for their label.

    Args:
        features_BE: one row for each of B clips, E features.
        label_B: class numbers.
        reference_B: True for the clips that vote.
        alone: score the reference, each clip without its own vote; else the other clips.
    """
    reference_RE = features_BE[reference_B]
    mean_E, std_E = reference_RE.mean(0), reference_RE.std(0, correction=0).clamp_min(1e-6)
    unit_BE = functional.normalize((features_BE - mean_E) / std_E, dim=1)
    scored_B = reference_B if alone else ~reference_B
    similarity = unit_BE[scored_B] @ unit_BE[reference_B].T
    if alone:
        similarity.fill_diagonal_(-torch.inf)
    voters = len(reference_RE) - alone
    weight, index = similarity.topk(min(NEIGHBOURS, voters), dim=1)
    votes = torch.zeros(len(weight), int(label_B.max()) + 1)
    # Similarities may be negative; a vote may not.
    votes.scatter_add_(1, label_B[reference_B][index], (weight + 1.0))
    return float((votes.argmax(1) == label_B[scored_B]).float().mean())


def _scorable(rows: Sequence[Labelled], config: ProbeConfig) -> Sequence[Labelled]:
    """The rows that a score uses; raises RecipeError if there are too few, or only one class."""
    if any(row.split == VALIDATION for row in rows):
        rows = [row for row in rows if row.split in (REFERENCE, VALIDATION)]
    reference = sum(not config.split or row.split == REFERENCE for row in rows)
    scored = len(rows) - reference if config.split else len(rows)
    if reference < 2 or scored < 1:
        where = f", column {config.split}: `{REFERENCE}` marks the reference" if config.split else ""
        raise RecipeError(
            f"run.probe.table {config.table}: {reference} reference clips and {scored} to score; a probe "
            f"needs two or more and one or more{where}"
        )
    if len({row.labels[0] for row in rows}) < 2:
        raise RecipeError(
            f"run.probe.table {config.table}: {len(rows)} clips of one class; a probe needs clips of at "
            "least two"
        )
    return rows


def _read(config: ProbeConfig) -> Sequence[Labelled]:
    """The clips of the table; raises RecipeError without the table, a column, a file or a clip's split."""
    try:
        clips = read_labelled(
            Path(config.table),
            path_column=config.path,
            label=config.label,
            fold=config.split or None,  # any names
            split=None if config.split else AUTO,
        ).clips
    except TaskError as error:
        raise RecipeError(f"run.probe.table: {error}") from error
    if missing := [clip.path for clip in clips if not clip.path.is_file()]:
        raise RecipeError(f"run.probe.table {config.table}: no such file {missing[0]}")
    return [clip._replace(split=SPLIT_NAMES.get(clip.split.lower(), clip.split)) for clip in clips]
