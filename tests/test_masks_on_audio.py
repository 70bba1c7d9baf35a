"""Masks on a file's own spectrogram: the crop that training would see, and its axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import soundfile
import torch
from matplotlib.figure import Figure

from ajepa.audio import load
from ajepa.cli import main
from ajepa.features import LogMel, LogMelConfig
from ajepa.pictures.spectrogram import label_frequency, label_time, training_crop
from ajepa.recipes import Recipe, dump_recipe

RATE = 16_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five seconds of noise that gets louder."""
    path = tmp_path / "noise.wav"
    ramp = np.linspace(0.01, 0.5, 5 * RATE)
    soundfile.write(path, ramp * np.random.default_rng(0).uniform(-1, 1, 5 * RATE), RATE)
    return path


def test_the_crop_is_that_of_training(tiny_recipe: Recipe, file: Path) -> None:
    crop = training_crop(tiny_recipe, file, start=1.5)
    frames = tiny_recipe.crop_grid.time * tiny_recipe.encoder.patch[0]
    assert crop.values_LC.shape == (frames, 128)
    whole_BLC = LogMel(tiny_recipe.front_end)(load(file, start=1.5)[None])
    # Kaldi subtracts each frame's mean alone, so that a part's frames are the whole's.
    torch.testing.assert_close(crop.values_LC, whole_BLC[0, :frames], rtol=1e-4, atol=1e-4)


def test_beyond_its_end_a_file_is_repeated(tiny_recipe: Recipe, file: Path) -> None:
    late = training_crop(tiny_recipe, file, start=4.5).values_LC
    torch.testing.assert_close(
        late[60:], training_crop(tiny_recipe, file).values_LC[10 : 10 + len(late) - 60]
    )


def test_the_axes_say_where_a_sound_is(tiny_recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    time = np.arange(3 * RATE) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 1000 * time) * (time > 1.0), RATE)
    crop = training_crop(tiny_recipe, path, start=0.5)
    axis = Figure().subplots()
    label_frequency(axis, crop.front_end)
    label_time(axis, crop)
    heights, times = (
        dict(zip([label.get_text() for label in labels], places, strict=True))
        for labels, places in (
            (axis.get_yticklabels(), axis.get_yticks()),
            (axis.get_xticklabels(), axis.get_xticks()),
        )
    )
    bands, frames = crop.values_LC.shape[1], crop.values_LC.shape[0]
    loudest = int(crop.values_LC[-20:].mean(0).argmax())
    assert heights["1"] == pytest.approx((loudest + 0.5) / bands, abs=1 / bands)
    begins = int((crop.values_LC[:, loudest] > crop.values_LC.mean()).nonzero()[0])
    assert times["1"] == pytest.approx(begins / frames, abs=3 / frames)


def test_a_narrow_range_has_its_own_ticks() -> None:
    axis = Figure().subplots()
    label_frequency(axis, LogMelConfig(low_hz=900, high_hz=3000))
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "2"]


def test_command(tiny_recipe: Recipe, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, picture = tmp_path / "r.yaml", tmp_path / "masks.png"
    recipe.write_text(dump_recipe(replace(tiny_recipe, name="r")))
    command = ["masks", str(recipe), "--draws", "8", "--clips", "1"]
    assert main([*command, "--out", str(picture)]) == 0
    plain = matplotlib.image.imread(picture)
    assert main([*command, "--out", str(picture), "--audio", str(file)]) == 0
    drawn = matplotlib.image.imread(picture)
    colours = [len(np.unique(image.reshape(-1, 4), axis=0)) for image in (plain, drawn)]
    assert colours[1] > 3 * colours[0], "the spectrogram shines through"
    assert main([*command, "--audio", str(file)]) == 2
    assert "add --out masks.png" in capsys.readouterr().err
    for start, problem in (("-1", "--start is -1.0"), ("60", "ends at 5 s; start earlier")):
        assert main([*command, "--out", str(picture), "--audio", str(file), "--start", start]) == 2
        assert problem in capsys.readouterr().err
