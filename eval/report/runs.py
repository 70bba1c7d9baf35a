"""What a report shows of runs: their facts, curves, masks, and what the encoder sees in a clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ajepa import audio
from ajepa.audio import AudioError
from ajepa.checkpoints.layout import finished_encoder
from ajepa.data import open_clips
from ajepa.data.clips import DataError
from ajepa.features import LogMel
from ajepa.masking import hard_share
from ajepa.model import AudioEncoder
from ajepa.model.loading import ModelError, load_model
from ajepa.nn.blocks import Attention
from ajepa.pages.media import packed, picture, sound
from ajepa.pictures.curves import CurvesError, curve, panels, read_metrics, training_time
from ajepa.pictures.loudest import loudest
from ajepa.pictures.masks import TOTAL, MaskCase, cell_codes
from ajepa.recipes import Recipe, RecipeError, dump_recipe, load_recipe

from .errors import ReportError

PLACES = 11  # of a curriculum
DRAWS = 3  # of masks at each place
CLIPS = 3
HEARD = 30.0  # seconds of a clip in which its loudest crop is looked for
MOST_TOKENS = 600  # of a crop whose similarities are shown: N * N numbers


class RunReport:
    """A run's folder as a report reads it.

    Raises:
        ReportError: it has no recipe, or one that this version cannot read.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        try:
            self.recipe: Recipe = load_recipe(str(folder / "recipe.yaml"))
        except RecipeError as error:
            raise ReportError(f"{error}; a report needs the run's recipe.yaml") from error
        try:
            self.metrics: list[dict[str, Any]] = read_metrics(folder)
        except CurvesError:
            self.metrics = []
        self.model: AudioEncoder | None = None
        with suppress(ModelError, ValueError, OSError):  # a run that has just begun has no weights
            self.model = load_model(folder)

    def facts(self) -> list[tuple[str, str]]:
        """What was trained on what, and what it cost."""
        recipe, start = self.recipe, self._last_start()
        done = max((row["step"] for row in self.metrics), default=0)
        width, depth, _ = recipe.encoder.dimensions
        patch = " x ".join(map(str, recipe.encoder.patch))
        found = [
            ("objective", f"{recipe.objective.title}, recipe {recipe.name}"),
            ("encoder", f"{depth} blocks of {width}, patches of {patch} (frames x bands)"),
            ("data", f"{recipe.data.source}, crops of {recipe.data.crop_seconds:g} s"),
            ("steps", f"{done:,} of {recipe.optim.steps:,}, {recipe.optim.batch_size} clips each"),
            ("finished", "yes" if finished_encoder(self.folder) else "no"),
        ]
        if self.model is not None:
            count = sum(one.numel() for one in self.model.encoder.parameters())
            found.insert(2, ("parameters", f"{count / 1e6:.1f} M in the encoder"))
        if files := (start.get("data") or {}).get("files"):
            found.append(("clips in the data", f"{files:,}"))
        if seconds := training_time(self.metrics, self.recipe.optim.batch_size)[1]:
            found.append(("time in training", _duration(seconds)))
            found.append(("clips/s", f"{done * recipe.optim.batch_size / seconds:.1f}"))
        versions = [f"{key} {start[key]}" for key in ("ajepa", "commit", "torch", "python") if start.get(key)]
        if start.get("device"):
            found.append(("hardware", f"{start['device']}, {start.get('threads', '?')} threads"))
        if versions:
            found.append(("versions", ", ".join(versions)))
        if self.metrics and (broken := self.metrics[-1].get("broken")):
            found.append(("files that could not be used", f"{broken:.0f}"))
        found.append(("seed", str(recipe.run.seed)))
        return found

    def yaml(self) -> str:
        """The whole recipe."""
        return dump_recipe(self.recipe)

    def _last_start(self) -> dict[str, Any]:
        try:
            starts = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            return dict(starts[-1])
        except (OSError, ValueError, TypeError, IndexError):
            return {}

    def masks(self) -> list[dict[str, Any]]:
        """Masks along the curriculum: for each place its title and draws, a digit for each token.

        0 is context, 1 visible but left out by the budget, 2 a target, 3 hidden.
        """
        config = self.recipe.objective.masking
        if config is None:
            return []
        moving = config.kind in ("curriculum", "inverse")
        found = []
        for place in np.linspace(0, 1, PLACES) if moving else [0.0]:
            title: str = config.kind
            if moving:
                share = hard_share(config, round(place * TOTAL), TOTAL)
                title = f"{place:.0%} of the steps: a share of {share:.2f} is time-frequency masks"
            codes_BN = cell_codes(MaskCase(title, config, float(place)), self.recipe.crop_grid, DRAWS, seed=0)
            draws = ["".join(map(str, row)) for row in codes_BN.tolist()]
            found.append({"title": title, "draws": draws})
        return found

    def views(self, files: Sequence[Path] = ()) -> list[dict[str, Any]]:
        """Clips with their spectrogram and what the encoder sees in them.

        Args:
            files: clips to show; empty for the first ones of the run's data, if these are still there.

        Raises:
            AudioError: one of `files` cannot be used.
        """
        config, recipe = self.recipe.front_end, self.recipe
        given = [(file.name, str(file), 0.0) for file in files] or self._own_clips()
        found = []
        for name, source, start in given[:CLIPS]:
            try:
                waveform_S = audio.load(source, start=start, seconds=HEARD, sample_rate=config.sample_rate)
            except (AudioError, OSError):
                if files:  # which the user named
                    raise
                continue
            waveform_S = loudest(waveform_S, recipe.crop_samples)
            samples = len(waveform_S)
            view: dict[str, Any] = {
                "run": self.name,
                "name": name,
                "seconds": samples / config.sample_rate,
                "grid": list(recipe.crop_grid),
                "audio": sound(waveform_S.numpy(), config.sample_rate),
            }
            with torch.no_grad():
                view["image"] = picture(LogMel(config)(waveform_S[None])[0].numpy())
                if self.model is not None and recipe.crop_grid.tokens <= MOST_TOKENS:
                    view |= look(self.model, waveform_S)
            found.append(view)
        return found

    def _own_clips(self) -> list[tuple[str, Any, float]]:
        data = self.recipe.data
        try:
            clips = open_clips(data.source)
        except (AudioError, DataError, OSError):
            return []
        step = max(1, len(clips) // CLIPS)
        chosen = [clips.clip(index) for index in range(0, len(clips), step)]
        return [(clip.name, clip.audio, clip.start) for clip in chosen]


def curves(runs: Mapping[str, RunReport]) -> list[dict[str, Any]]:
    """A chart for each gauge that a run logged."""
    found = []
    for metric, panel in panels().items():
        lines = []
        for name, run in runs.items():
            steps, values = curve(run.metrics, metric)
            if steps:
                lines.append({"run": name, "x": steps, "y": [float(f"{value:.5g}") for value in values]})
        if lines:
            found.append({"title": panel.title, "explanation": panel.explanation, "lines": lines})
    return found


def look(model: AudioEncoder, waveform_S: Tensor) -> dict[str, Any]:
    """How the encoder sees one clip, as N x N bytes each, N = T * F.

    `similarity`: cosines of the patches' outputs, from -1 (0) to 1 (255). `attention`: of the last block, the
    mean over heads, each row relative to its largest weight.
    """
    seen: list[Tensor] = []
    attention = model.encoder.blocks[-1].attn
    assert isinstance(attention, Attention)

    def keep(module: Attention, inputs: tuple[Tensor, ...]) -> None:
        query, key, _ = module.split(module.qkv(inputs[0])).unbind(0)
        weight_RHNN = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        seen.append(weight_RHNN[0].mean(0))

    handle = attention.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            embedding = model(waveform_S[None])
    finally:
        handle.remove()
    _, time, freq, _ = embedding.patches.shape
    patches_ND = functional.normalize(embedding.patches[0].flatten(0, 1).float(), dim=1)
    cosine_NN = patches_ND @ patches_ND.T
    found: dict[str, Any] = {
        "tokens": [time, freq],
        "similarity": packed(((cosine_NN + 1) * 127.5).clamp(0, 255).round().numpy()),
    }
    if len(seen) == 1:  # a clip of several chunks has no one matrix
        first = len(seen[0]) - time * freq  # after the class token, if there is one
        weight_NN = seen[0][first:, first:]
        relative_NN = weight_NN / weight_NN.amax(1, keepdim=True)
        found["attention"] = packed((relative_NN * 255).round().numpy())
    return found


def _duration(seconds: float) -> str:
    hours, minutes = seconds / 3600, seconds / 60
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 2 else f"{seconds:.0f} s"
