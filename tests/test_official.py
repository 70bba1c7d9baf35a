"""Official checkpoints: the official models' own numbers, and files that are not what they should be."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchaudio.compliance import kaldi

import ajepa
from ajepa.checkpoints.official import OfficialError, read_official
from ajepa.checkpoints.official.account import mlp_ratio
from ajepa.checkpoints.official.contents import Official
from ajepa.checkpoints.unpickle import UnpickleError, load_torch
from ajepa.hear_module import HearModel, get_scene_embeddings, get_timestamp_embeddings
from ajepa.masking import Masks
from ajepa.masking.masks import first_places
from ajepa.model import AudioEncoder
from ajepa.model.loading import ModelError
from ajepa.model.reconstruct import load_reconstructor
from ajepa.objectives.audio_jepa import AudioJEPA, AudioJEPAConfig
from ajepa.objectives.audio_mae import AudioMAE
from ajepa.objectives.targets import ERRORS, layer_normed
from tests.pickles import MakesFolder

GOLDEN = Path(os.environ.get("AJEPA_GOLDEN", Path(__file__).parents[1].parent / "shared" / "golden"))
TOLERANCE = 1e-4


def cases() -> dict[str, dict[str, Any]]:
    listing = GOLDEN / "cases.json"
    return json.loads(listing.read_text()) if listing.is_file() else {}


def golden(system: str) -> list[Any]:
    """The cases of one system; where there are none, one that is skipped with the reason."""
    found = [name for name, case in cases().items() if system_of(case) == system]
    missing = pytest.mark.skip(reason=f"no golden cases in {GOLDEN} (AJEPA_GOLDEN names another folder)")
    return found or [pytest.param("none", marks=missing)]


def system_of(case: dict[str, Any]) -> str:
    names = set(load_file(GOLDEN / case["io"]))
    if "logits" in names:
        return "tuned"
    return "mae" if "latent_visible" in names else "jepa"


def official(case: dict[str, Any]) -> Official:
    found = read_official(GOLDEN / case["checkpoint"], heads=case.get("encoder_heads"))
    config = found.objective_config
    if not isinstance(config, AudioJEPAConfig):
        return found
    # A small predictor, which has fewer heads than the published one; no file says how many.
    predictor = replace(config.predictor, heads=case["predictor_heads"])
    return replace(found, objective_config=replace(config, predictor=predictor))


def opened(name: str) -> tuple[Official, dict[str, Tensor], Tensor]:
    """What a case's file holds, its inputs and outputs, and the spectrogram [B, frames, mels]."""
    case = cases()[name]
    values = load_file(GOLDEN / case["io"])
    return official(case), values, values["spectrogram"][:, 0]


def agrees(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", golden("mae"))
@torch.no_grad()
def test_audio_mae_encoder(name: str) -> None:
    found, values, spectrogram = opened(name)
    system = found.objective()
    patches, grid = system.encoder.patchify(spectrogram)
    positions = system.encoder.positions(grid, patches)
    features, blocks = system.encoder(patches, positions, keep_layers=-1, keep_cls=True)
    agrees(features, values["features"])
    agrees(torch.stack(blocks), values["block_outputs"])


@pytest.mark.parametrize("name", golden("mae"))
@torch.no_grad()
def test_audio_mae_objective(name: str) -> None:
    found, values, spectrogram = opened(name)
    system = found.objective()
    assert isinstance(system, AudioMAE)
    patches, grid = system.encoder.patchify(spectrogram)
    visible = values["latent_visible"].shape[1] - 1
    index = values["noise"].argsort(1)[:, None, :visible]
    hidden = torch.ones_like(values["mask"], dtype=torch.bool).scatter(1, index[:, 0], False)
    assert torch.equal(hidden, values["mask"].bool())
    masks = Masks(index, torch.ones_like(index, dtype=torch.bool), hidden[:, None])
    latent = system.encode_visible(patches, masks, grid)
    agrees(latent, values["latent_visible"])
    prediction = system.decode(latent, masks, grid)
    agrees(prediction, values["prediction"])
    errors = system.patch_errors(prediction, patches)
    agrees(errors[hidden].mean(), values["loss"])
    # The same loss with the masks in the order that our own sampler gives.
    ours, valid = first_places(~hidden, visible)
    ordered = Masks(ours[:, None], valid[:, None], hidden[:, None])
    prediction = system.decode(system.encode_visible(patches, ordered, grid, padded=False), ordered, grid)
    agrees(system.patch_errors(prediction, patches)[hidden].mean(), values["loss"])


@pytest.mark.parametrize("name", golden("tuned"))
@torch.no_grad()
def test_fine_tuned_audio_mae(name: str) -> None:
    found, values, spectrogram = opened(name)
    classifier = found.classifier()
    agrees(classifier.embed(spectrogram), values["clip_embedding"])
    agrees(classifier(spectrogram), values["logits"])
    with pytest.raises(OfficialError, match="no decoder"):
        found.objective()


@pytest.mark.parametrize("name", golden("jepa"))
@torch.no_grad()
def test_audio_jepa(name: str) -> None:
    found, values, spectrogram = opened(name)
    system = found.objective()
    assert isinstance(system, AudioJEPA)
    patches, grid = system.encoder.patchify(spectrogram)
    positions = system.target_encoder.positions(grid, patches)
    full = system.target_encoder(patches, positions)[0]
    agrees(full, values["target_encoder_output"])
    context, targets = values["context_indices"], values["target_indices"]
    valid, real = (torch.ones_like(index, dtype=torch.bool) for index in (context, targets))
    wanted = torch.zeros(patches.shape[:2], dtype=torch.bool).scatter(1, targets, True)
    encoded = system.encode_context(patches, Masks(context[:, None], valid[:, None], wanted[:, None]), grid)
    agrees(encoded, values["context_output"])
    prediction = system.predictor(encoded, context, valid, grid, (targets, real))
    agrees(prediction, values["prediction"])
    target = layer_normed(full).gather(1, targets[..., None].expand(-1, -1, full.shape[-1]))
    agrees(ERRORS[system.config.loss](prediction, target).mean(), values["loss"])
    with pytest.raises(OfficialError, match="no classifier"):
        found.classifier()


@pytest.mark.parametrize("name", golden("jepa"))
def test_input_size_is_read_off_the_positions(name: str) -> None:
    case = cases()[name]
    found = read_official(GOLDEN / case["checkpoint"], heads=case.get("encoder_heads"))
    table, patch = found.encoder.table, found.encoder.patch
    assert table is not None
    assert [table.time * patch[0], table.freq * patch[1]] == case["input_size"]
    assert system_of(case) == "jepa" and isinstance(found.objective_config, AudioJEPAConfig)
    assert found.objective_config.predictor.table == table


def loaded(name: str) -> AudioEncoder:
    case = cases()[name]
    return ajepa.load_model(GOLDEN / case["checkpoint"], heads=case.get("encoder_heads"))


@pytest.mark.parametrize("name", golden("mae"))
@pytest.mark.parametrize("seconds", [1, 5, 10])
@torch.no_grad()
def test_audio_mae_from_the_waveform(name: str, seconds: int) -> None:
    """As the official loader has it: padded with zeros to 128, 512 or 1024 frames, then normalised."""
    model = loaded(name)
    wave = 0.1 * torch.randn(1, 16_000 * seconds, generator=torch.Generator().manual_seed(3))
    frames = {1: 128, 5: 512, 10: 1024}[seconds]
    energies = model.features.fbank(wave)
    energies = torch.nn.functional.pad(energies, (0, 0, 0, frames - energies.shape[1]))
    patches, grid = model.encoder.patchify((energies + 4.2677393) / (2 * 4.5689974))
    expected = model.encoder(patches, model.encoder.positions(grid, patches))[0].unflatten(1, tuple(grid))
    found = model(wave).patches
    torch.testing.assert_close(found, expected[:, : found.shape[1]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", golden("jepa"))
@torch.no_grad()
def test_audio_jepa_from_the_waveform(name: str) -> None:
    """As the published transform has it, with torchaudio: full scale, 10 s, the missing frames zeros."""
    model = loaded(name)
    wave = 0.01 * torch.randn(1, 320_000, generator=torch.Generator().manual_seed(3)) + 0.1
    config, table = model.features.config, model.encoder.config.table
    assert table is not None
    assert (model.sample_rate, config.mels) == (32_000, table.freq * model.encoder.config.patch[1])
    centred = wave - wave.mean()
    frames = table.time * model.encoder.config.patch[0]
    energies = kaldi.fbank(
        centred / centred.abs().max(),
        sample_frequency=32_000,
        frame_length=2.5 * 10_000 / frames,
        frame_shift=10_000 / frames,
        num_mel_bins=config.mels,
        window_type="hanning",
    )
    energies = torch.nn.functional.pad(energies, (0, 0, 0, frames - len(energies)))[None]
    patches, grid = model.encoder.patchify(energies)
    expected = model.encoder(patches, model.encoder.positions(grid, patches))[0].unflatten(1, tuple(grid))
    torch.testing.assert_close(model(wave).patches, expected, atol=1e-3, rtol=0)
    assert model(torch.zeros(1, 50_000)).clip.isfinite().all(), "silence is finite"


@pytest.mark.parametrize("name", [*cases()])
@torch.no_grad()
def test_any_length_alone_and_in_any_batch(name: str) -> None:
    model = loaded(name)
    assert model.source is not None
    assert model.source.path == str(GOLDEN / cases()[name]["checkpoint"])
    assert model.source.recipe.startswith("Audio-")
    rate = model.sample_rate
    lengths = [1, rate // 20, rate, 3 * rate + 7, 12 * rate]
    clips = [0.1 * torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    batch = model(padded, lengths, layers=True)
    for row, clip in enumerate(clips):
        alone = model(clip[None], layers=True)
        steps = int(alone.lengths)
        assert int(batch.lengths[row]) == steps
        assert alone.clip.isfinite().all()
        torch.testing.assert_close(batch.frames[row, :steps], alone.frames[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(batch.layers[0][row, :steps], alone.layers[0][0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [*cases()])
def test_hear_takes_them(name: str) -> None:
    model = HearModel(loaded(name))
    audio = 0.1 * torch.randn(2, 2 * model.sample_rate)
    assert get_scene_embeddings(audio, model).shape == (2, model.scene_embedding_size)
    embeddings, stamps = get_timestamp_embeddings(audio, model)
    assert embeddings.shape == (2, 40, model.timestamp_embedding_size)
    assert torch.equal(stamps[0].diff(), torch.full((39,), 50.0))
    assert embeddings.isfinite().all()


@pytest.mark.parametrize("name", golden("mae"))
def test_options_that_do_not_apply_are_refused(name: str) -> None:
    case = cases()[name]
    path, heads = GOLDEN / case["checkpoint"], case.get("encoder_heads")
    with pytest.raises(ModelError, match="has no encoder 'target_encoder'"):
        ajepa.load_model(path, heads=heads, weights="target_encoder")
    with pytest.raises(ModelError, match="only `heads` can be chosen"):
        ajepa.load_model(path, heads=heads, sample_rate=16_000)
    with pytest.raises(ModelError, match="apply only to official files"):
        ajepa.load_model("ajepa-small-cpu", heads=3)
    assert load_reconstructor(path, heads=heads).grid(16_000) == (7, 8)


@pytest.mark.parametrize("name", [*cases()])
def test_every_tensor_is_accounted_for(name: str, tmp_path: Path) -> None:
    case = cases()[name]
    content = load_torch(GOLDEN / case["checkpoint"])
    tensors = content["state_dict"] if "state_dict" in content else content["model"]
    lost = next(key for key in tensors if key.endswith("blocks.0.norm2.bias"))
    tensors["stranger"] = tensors.pop(lost)
    changed = tmp_path / "changed.pth"
    torch.save(content, changed)
    with pytest.raises(OfficialError, match=rf"missing: {lost}; not expected: stranger"):
        read_official(changed, heads=case.get("encoder_heads"))


@pytest.mark.parametrize("name", golden("mae"))
def test_block_numbers_that_no_network_has(name: str, tmp_path: Path) -> None:
    content = load_torch(GOLDEN / cases()[name]["checkpoint"])
    content["model"]["blocks.1000000000.norm1.weight"] = torch.zeros(1)
    path = tmp_path / "numbers.pth"
    torch.save(content, path)
    with pytest.raises(OfficialError, match="numbered up to 1000000000"):
        read_official(path, heads=cases()[name].get("encoder_heads"))


def test_hidden_widths_survive_the_ratio() -> None:
    for width in (49, 96, 768):
        assert [int(width * mlp_ratio(hidden, width)) for hidden in range(1, 400)] == [*range(1, 400)]


@pytest.mark.parametrize("name", [*cases()])
def test_heads_that_the_file_does_not_say(name: str) -> None:
    case = cases()[name]
    if official(case).encoder.dimensions[0] % 64:
        with pytest.raises(OfficialError, match="give heads="):
            read_official(GOLDEN / case["checkpoint"])
    with pytest.raises(OfficialError, match="0 heads do not divide"):
        read_official(GOLDEN / case["checkpoint"], heads=0)
    with pytest.raises(OfficialError, match="997 heads do not divide"):
        read_official(GOLDEN / case["checkpoint"], heads=997)


class Foreign:
    """A class that no official file holds."""


def test_other_pickled_classes_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "args": Foreign()}, path)
    with pytest.raises(UnpickleError, match=r"tests\.test_official\.Foreign"):
        read_official(path)
    with pytest.raises(ModelError, match=r"tests\.test_official\.Foreign"):
        ajepa.load_model(path)


def test_options_that_official_files_pickle_are_read(tmp_path: Path) -> None:
    path = tmp_path / "options.pth"
    torch.save({"args": argparse.Namespace(folder=Path("a") / "b", lr=0.1)}, path)
    assert load_torch(path)["args"].lr == 0.1


def test_a_name_alone_runs_nothing(tmp_path: Path) -> None:
    """A pickle that calls a function on reading is refused before it is read."""
    path, witness = tmp_path / "call.pth", tmp_path / "witness"
    torch.save({"model": MakesFolder(witness)}, path)
    with pytest.raises(UnpickleError, match="mkdir"):
        load_torch(path)
    assert not witness.exists()


def test_other_torch_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(OfficialError, match="it holds weights"):
        read_official(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(OfficialError, match="it holds list"):
        read_official(path)
    torch.save({"model": {"pos_embed": torch.zeros(1, 3, 4)}}, path)
    with pytest.raises(OfficialError, match=r"missing: patch_embed\.proj\.weight"):
        read_official(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnpickleError, match="damaged"):
        read_official(path)
    with pytest.raises(ModelError, match="damaged"):
        ajepa.load_model(path)
    path.write_bytes(b"neither torch nor safetensors")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        ajepa.load_model(path)
