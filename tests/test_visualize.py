"""What the predictor knows: regions, the decoder's training, samples and their judgement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ajepa.cli import main
from ajepa.features import LogMel
from ajepa.features.inverse import waveform_of
from ajepa.masking import sample_masks
from ajepa.nn.grid import PatchGrid
from ajepa.recipes import Recipe
from ajepa.training.loop import pretrain
from ajepa.visualize.judge import judge, picture_cells
from ajepa.visualize.predicted import Predicted, VisualizeError
from ajepa.visualize.regions import Region, draw_regions, inside, masks_of
from ajepa.visualize.training import Training, crops_of, train_decoder

pytest.importorskip("diffusers")


@pytest.fixture
def run(tiny_recipe: Recipe) -> Path:
    pretrain(tiny_recipe)
    return Path(tiny_recipe.run.out)


def test_the_context_never_sees_the_region(generator: torch.Generator) -> None:
    grid = PatchGrid(12, 4)
    regions = draw_regions(grid, 200, generator)
    masks = masks_of(grid, regions, 16, generator)
    seen_BN = torch.zeros_like(masks.target_BMN[:, 0]).scatter_(
        1, masks.context_BMK[:, 0], masks.valid_BMK[:, 0]
    )
    assert not (seen_BN & inside(grid, regions)).any()
    assert (seen_BN.sum(1) == 16).all() and masks.target_BMN.sum() == sum(r.time * r.freq for r in regions)
    assert {r.low + r.freq <= 4 and r.start + r.time <= 12 for r in regions} == {True}
    assert len({r.start for r in regions}) > 4 and len({r.low for r in regions}) > 1


def test_the_pooled_prediction_is_the_mean_over_the_targets(run: Path, generator: torch.Generator) -> None:
    predicted = Predicted.load(run)
    spectrogram = predicted.spectrogram(
        torch.randn(3, predicted.recipe.crop_samples, generator=generator) / 9
    )
    config = predicted.objective.config.masking
    masks = sample_masks(config, predicted.grid, 3, 1, 2, generator)
    pooled = predicted.objective.pooled_prediction(spectrogram, masks)
    patches, grid = predicted.objective.encoder.patchify(spectrogram)
    with torch.no_grad():
        context = predicted.objective.encode_context(patches, masks, grid)
        places = masks.context_BMK.flatten(0, 1), masks.valid_BMK.flatten(0, 1)
        every = predicted.objective.predictor(context, *places, grid)
    for row, (values, chosen) in enumerate(zip(every, masks.target_BMN.flatten(0, 1), strict=True)):
        torch.testing.assert_close(pooled[row], values[chosen].mean(0))


def test_training_continues_exactly_and_belongs_to_one_predictor(
    run: Path, tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted, source = Predicted.load(run), tiny_recipe.data.source
    settings = Training(steps=4, batch_size=4, checkpoint_every=2)
    losses: list[tuple[int, float]] = []
    train_decoder(predicted, source, tmp_path / "whole", settings, lambda *line: losses.append(line))
    assert [step for step, _ in losses] == [2, 4] and all(np.isfinite(loss) for _, loss in losses)
    train_decoder(predicted, source, tmp_path / "parts", Training(steps=2, batch_size=4, checkpoint_every=2))
    train_decoder(predicted, source, tmp_path / "parts", settings)
    whole, parts = (load_file(tmp_path / name / "decoder.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(name.startswith("optimizer.") for name in whole)

    other = run / "checkpoints" / "step-00000000.safetensors"
    arguments = ["visualize", "--model", str(other), "--decoder", str(tmp_path / "whole"), "--steps", "4"]
    clip = next(Path(source).glob("*.wav"))
    assert main([*arguments, "--audio", str(clip), "--out", str(tmp_path / "x")]) == 2
    assert "the decoder of another predictor; take another --decoder" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["no step", "missing", "shape", "state"])
def test_a_damaged_decoder_is_named(fault: str, run: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    predicted, path = Predicted.load(run), tmp_path / "decoder.safetensors"
    train_decoder(predicted, tiny_recipe.data.source, tmp_path, Training(steps=1, batch_size=2))
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    if fault == "no step":
        del header["step"]
    elif fault == "missing":
        del tensors["average.condition.weight"]
    elif fault == "shape":
        tensors["decoder.condition.weight"] = torch.zeros(3)
    else:
        tensors["optimizer.x.step"] = torch.zeros(())
    save_file(tensors, path, header)
    with pytest.raises(VisualizeError, match=r"decoder\.safetensors: not a decoder .*; remove it") as caught:
        train_decoder(predicted, tiny_recipe.data.source, tmp_path, Training(steps=2, batch_size=2))
    assert "\n" not in str(caught.value)


def test_samples_depend_on_condition_and_seed(run: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    predicted = Predicted.load(run)
    decoder = train_decoder(predicted, tiny_recipe.data.source, tmp_path, Training(steps=1, batch_size=2))
    # Untrained, a U-Net's last convolution ignores nothing: its condition must reach the picture.
    condition = torch.randn(2, predicted.width, generator=torch.Generator().manual_seed(0))
    one, again, other = (
        decoder.sample(condition, torch.Generator().manual_seed(seed), steps=3) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again) and not torch.allclose(one, other)
    assert not torch.allclose(one[0], one[1])
    crops = crops_of(predicted, tiny_recipe.data.source, 4)
    assert crops.shape == (4, tiny_recipe.crop_samples), "as in pre-training, without a tail of zeros"
    verdict = judge(predicted, decoder, crops)
    assert verdict == judge(predicted, decoder, crops) and verdict.clips == 4
    assert verdict.between_seeds > 0 and verdict.interval[0] <= verdict.interval[1]


def test_a_region_covers_its_cells_of_the_picture(run: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    predicted = Predicted.load(run)
    decoder = train_decoder(predicted, tiny_recipe.data.source, tmp_path, Training(steps=1, batch_size=2))
    grid, shape = predicted.grid, (decoder.config.frames, decoder.config.bands)
    regions = [Region(0, 0, *grid), Region(0, 0, grid.time, grid.freq // 2)]
    cells = picture_cells(predicted, decoder, inside(grid, regions))
    assert cells.shape == (2, *shape) and cells[0].all()
    assert cells[1, :, : shape[1] // 2].all() and not cells[1, :, shape[1] // 2 :].any()


def test_the_command_draws_judges_and_is_reported(
    run: Path, tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = next(Path(tiny_recipe.data.source).glob("*.wav"))
    out = tmp_path / "drawn"
    command = ["visualize", "--model", str(run), "--audio", str(clip), "--out", str(out), "--steps", "2"]
    command += [
        "--positions",
        "2",
        "--samples",
        "2",
        "--judge",
        tiny_recipe.data.source,
        "--judge-clips",
        "3",
    ]
    assert main(command) == 0
    assert "samples of two seeds differ by" in capsys.readouterr().out
    facts = json.loads((out / "visualize.json").read_text())
    assert len(facts["regions"]) == 2 and facts["verdict"]["clips"] == 3
    for name in facts["sounds"].values():
        assert soundfile.info(out / name).duration == pytest.approx(1.28, abs=0.15)
    assert main(["report", str(out), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "What the predictor knows" in page and page.count("data:audio/mpeg") == 3

    (out / "visualize.json").write_text("{")
    assert main(["report", str(out), "--out", str(tmp_path / "r.html")]) == 2
    assert "visualize.json: cannot be shown" in capsys.readouterr().err


def test_other_sources_are_refused_in_a_line(
    run: Path, tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = next(Path(tiny_recipe.data.source).glob("*.wav"))
    rest = ["--audio", str(clip), "--out", str(tmp_path / "x")]
    assert main(["visualize", "--model", str(run / "encoder.safetensors"), *rest]) == 2
    assert "an encoder alone; give a training checkpoint" in capsys.readouterr().err
    assert main(["visualize", "--model", str(tmp_path), *rest]) == 2
    assert "no checkpoints in it" in capsys.readouterr().err


def test_crops_are_of_different_clips(run: Path, tiny_recipe: Recipe) -> None:
    """Also where more are asked for than there are: another clip's prediction is of another clip."""
    source = tiny_recipe.data.source
    crops = crops_of(Predicted.load(run), source, 1000)
    assert len(crops) == len(list(Path(source).glob("*.wav"))) == len(crops.unique(dim=0))


def test_sounds_line_up_with_their_clip() -> None:
    front_end = LogMel()
    frames = 150
    clicks = torch.zeros(1, (frames - 1) * front_end.config.hop + front_end.config.window)
    for place in (60, 4_000, 12_345, clicks.shape[1] - 80):
        clicks[0, place : place + 32] = 0.5 * torch.sin(torch.arange(32) * 0.9)
    again = waveform_of(front_end, front_end(clicks))
    assert again.shape == clicks.shape
    for place in (4_000, 12_345):
        near = slice(place - 800, place + 800)
        centre = (again[0, near].square() * torch.arange(1600)).sum() / again[0, near].square().sum()
        assert abs(centre - 816) < 40, "2.5 ms"


def test_a_spectrogram_is_heard_again() -> None:
    front_end = LogMel()
    time = torch.arange(32_000) / 16_000
    chirp = 0.3 * torch.sin(2 * torch.pi * (300 + 600 * time) * time)[None]
    spectrogram = front_end(chirp)
    again = front_end(waveform_of(front_end, spectrogram))
    frames = min(again.shape[1], spectrogram.shape[1])
    inner = slice(10, frames - 10)
    # The loudest band of nearly every frame is where it was, to one band.
    was, now = (one[0, inner].argmax(1) for one in (spectrogram, again))
    assert ((was - now).abs() <= 1).float().mean() > 0.9
    wild = torch.full((1, 20, 128), 1e6)
    assert waveform_of(front_end, wild).isfinite().all(), "what no sound has"
