"""An online probe: how well the encoder of a run in progress tells labelled clips apart."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ajepa.audio import load
from ajepa.encoder import Encoder
from ajepa.features import LogMel
from ajepa.model import AudioEncoder
from ajepa.recipe import ProbeConfig, Recipe, RecipeError

NEIGHBOURS = 10
CLIPS_A_PASS = 32


class Probe:
    """kNN accuracy on a small labelled table: cheap, without anything to tune.

    Clips are embedded as `AudioEncoder` does (mean over time, frequency patches side by side), features
    standardised on the reference clips, the 10 nearest by cosine vote with their similarity. With a
    split column the clips that it calls "train" are the reference and all others are scored; without one
    each clip is scored against all others.
    """

    def __init__(self, recipe: Recipe, front_end: LogMel, encoder: Encoder) -> None:
        rows = _read(recipe.run.probe)
        self.model = AudioEncoder(recipe.front_end, recipe.encoder, recipe.data.crop_seconds)
        # The run's own modules, so that every look sees the weights of its moment.
        self.model.features, self.model.encoder = front_end, encoder
        names = sorted({label for _, label, _ in rows})
        self.label_C = torch.tensor([names.index(label) for _, label, _ in rows])
        self.reference_C = torch.tensor([split in {"", "train"} for _, _, split in rows])
        self.alone = not bool((~self.reference_C).any())
        self.waveforms = [load(path, sample_rate=self.model.sample_rate) for path, _, _ in rows]
        if not self.reference_C.any():
            raise RecipeError(f"{recipe.run.probe.table}: no clip's split is `train`")

    @torch.no_grad()
    def score(self) -> float:
        """Accuracy of the weights as they are now, in 0..1."""
        training = self.model.encoder.training
        self.model.encoder.eval()
        features_CE = torch.cat(
            [
                self._embed(self.waveforms[first : first + CLIPS_A_PASS])
                for first in range(0, len(self.waveforms), CLIPS_A_PASS)
            ]
        )
        self.model.encoder.train(training)
        return knn_accuracy(features_CE, self.label_C, self.reference_C, self.alone)

    def _embed(self, waveforms: list[Tensor]) -> Tensor:
        batch_BS = nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        return self.model(batch_BS, [len(waveform) for waveform in waveforms]).clip.float().cpu()


def knn_accuracy(features_CE: Tensor, label_C: Tensor, reference_C: Tensor, alone: bool) -> float:
    """Share of clips whose neighbours among the reference vote for their label.

    Args:
        features_CE: one row for each of C clips.
        label_C: class numbers.
        reference_C: True for the clips that vote.
        alone: score the reference itself, each clip without its own vote; else the other clips.
    """
    reference_RE = features_CE[reference_C]
    mean_E, std_E = reference_RE.mean(0), reference_RE.std(0).clamp_min(1e-6)
    unit_CE = functional.normalize((features_CE - mean_E) / std_E, dim=1)
    scored_C = reference_C if alone else ~reference_C
    similarity = unit_CE[scored_C] @ unit_CE[reference_C].T
    if alone:
        similarity.fill_diagonal_(-torch.inf)
    voters = len(reference_RE) - alone
    weight, index = similarity.topk(min(NEIGHBOURS, voters), dim=1)
    votes = torch.zeros(len(weight), int(label_C.max()) + 1)
    # Similarities may be negative; a vote may not.
    votes.scatter_add_(1, label_C[reference_C][index], (weight + 1.0))
    return float((votes.argmax(1) == label_C[scored_C]).float().mean())


def _read(config: ProbeConfig) -> list[tuple[Path, str, str]]:
    """(path, label, split) of each row.

    Raises:
        RecipeError: no such table, column or file, or fewer than two clips or classes.
    """
    table = Path(config.table)
    if not table.is_file():
        raise RecipeError(f"run.probe.table {table}: no such file; give a CSV with path and label columns")
    rows = []
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        wanted = [config.path, config.label, *([config.split] if config.split else [])]
        missing = [name for name in wanted if name not in (reader.fieldnames or [])]
        if missing:
            raise RecipeError(
                f"{table}: no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or [])}"
            )
        for row in reader:
            path = table.parent / row[config.path]
            if not path.is_file():
                raise RecipeError(f"{table}, line {reader.line_num}: no such file {path}")
            rows.append((path, row[config.label], row[config.split] if config.split else ""))
    if len({label for _, label, _ in rows}) < 2:
        raise RecipeError(f"{table}: {len(rows)} clips of one class; a probe needs clips of at least two")
    return rows
