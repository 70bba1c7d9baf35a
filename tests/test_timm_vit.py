"""A ViT of timm on spectrograms: the same network where nothing has to be resampled, AST's way elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ajepa import load_model, pretrain
from ajepa.checkpoints.official import OfficialError
from ajepa.checkpoints.timm_vit import read_timm
from ajepa.eval.models.open import EncoderModel, open_model
from ajepa.export.weights import origin_of, write_weights
from ajepa.model.loading import ModelError
from ajepa.nn.encoder import Encoder
from ajepa.nn.grid import PatchGrid
from ajepa.recipes import RecipeError, dump_recipe, load_recipe

NAME = "test_vit"  # 6 blocks of 64 features, for images of 160 x 160


@pytest.fixture(scope="module")
def vit() -> Any:
    torch.manual_seed(0)
    model = timm.create_model(NAME).eval()
    nn.init.normal_(model.pos_embed, std=0.5)  # so that misplaced positions show
    return model


@pytest.fixture
def file(vit: Any, tmp_path: Path) -> Path:
    path = tmp_path / "vit.safetensors"
    save_file({name: value.contiguous() for name, value in vit.state_dict().items()}, path)
    return path


def test_the_same_network_on_a_grid_of_the_image_s_size(vit: Any, file: Path) -> None:
    """An image whose colours are one spectrogram: rows are mel bands, columns frames."""
    found = read_timm(f"timm:{NAME}@{file}", PatchGrid(10, 10), mels=160)
    encoder = Encoder(found.encoder).eval()
    encoder.load_state_dict(found.part("encoder"))
    spectrogram_BLC = torch.randn(2, 160, 160, generator=torch.Generator().manual_seed(1))
    patches_BNP, grid = encoder.patchify(spectrogram_BLC)
    with torch.no_grad():
        image_B3CL = spectrogram_BLC.transpose(1, 2)[:, None].expand(-1, 3, -1, -1)
        expected = vit.forward_features(image_B3CL)[:, vit.num_prefix_tokens :]
        expected = expected.unflatten(1, (10, 10)).transpose(1, 2).flatten(1, 2)
        tokens, _ = encoder(patches_BNP, encoder.positions(grid, patches_BNP))
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


def test_positions_are_cut_in_the_middle_and_stretched(vit: Any, file: Path) -> None:
    """AST's rule, by hand: 8 of the 10 rows, and 20 columns between the 10."""
    table = read_timm(f"timm:{NAME}@{file}", PatchGrid(20, 8)).tensors["encoder.position_table.table"]
    codes_HWD = vit.pos_embed[0, vit.num_prefix_tokens :].detach().unflatten(0, (10, 10))[1:9]
    table_TFD = table.unflatten(0, (20, 8))
    first, second = codes_HWD[:, 0], codes_HWD[:, 1]
    torch.testing.assert_close(table_TFD[0], first)
    torch.testing.assert_close(table_TFD[1], 0.75 * first + 0.25 * second)
    torch.testing.assert_close(table_TFD[2], 0.25 * first + 0.75 * second)


def test_kernels_of_another_size_are_resampled(file: Path) -> None:
    found = read_timm(f"timm:{NAME}@{file}", PatchGrid(32, 2), patch=(4, 64))
    assert found.tensors["encoder.patch_embed.weight"].shape == (64, 4 * 64)
    assert found.encoder.patch == (4, 64)


def test_it_is_an_encoder_like_any_other(file: Path, tmp_path: Path) -> None:
    model = load_model(f"timm:{NAME}@{file}")
    assert model.source is not None and model.source.recipe == f"timm {NAME}"
    waveform_BS = 0.1 * torch.randn(2, 20_000)
    clip = model(waveform_BS).clip
    assert clip.shape == (2, 8 * 64) and clip.isfinite().all()
    named = open_model(f"timm:{NAME}@{file}")
    assert named.name == NAME and isinstance(named.module, EncoderModel)
    write_weights(model, origin_of(model), tmp_path / "model.safetensors")
    torch.testing.assert_close(load_model(tmp_path / "model.safetensors")(waveform_BS).clip, clip)


def test_what_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="names no model"):
        load_model("timm:")
    with pytest.raises(ModelError, match=r"timm cannot make it .*check the name"):
        load_model(f"timm:vit_nonsense@{file}")
    with pytest.raises(ModelError, match="not a plain ViT: it is a ByobNet"):
        load_model(f"timm:test_byobnet@{file}")
    with pytest.raises(ModelError, match="no such file"):
        load_model(f"timm:{NAME}@{tmp_path / 'absent.pth'}")
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "blocks.2.mlp.fc1" not in k}, tmp_path / "cut.safetensors")
    with pytest.raises(OfficialError, match=r"tensors missing: blocks\.2\.mlp\.fc1\.weight"):
        read_timm(f"timm:{NAME}@{tmp_path / 'cut.safetensors'}")
    torch.save({"state_dict": tensors}, tmp_path / "vit.pth")
    same = read_timm(f"timm:{NAME}@{tmp_path / 'vit.pth'}").tensors
    assert all(
        torch.equal(value, same[name]) for name, value in read_timm(f"timm:{NAME}@{file}").tensors.items()
    )


def test_pre_training_starts_from_it(file: Path, tiny_recipe: Any, tmp_path: Path) -> None:
    """Both encoders of A-JEPA, before the first step; a checkpoint of the run needs the file no more."""
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe))
    config = timm.create_model(NAME).blocks[0].attn
    sizes = ["encoder.width=64", "encoder.depth=6", f"encoder.heads={config.num_heads}", "optim.steps=1"]
    ratio = load_file(file)["blocks.0.mlp.fc1.weight"].shape[0] / 64
    sizes += [f"encoder.mlp_ratio={ratio}", "encoder.table.time=8", "encoder.table.freq=8"]
    recipe = load_recipe(str(path), [f"encoder.init=timm:{NAME}@{file}", *sizes])
    vit = read_timm(f"timm:{NAME}@{file}").tensors
    pretrain(recipe)
    file.unlink()
    first = tmp_path / "run" / "checkpoints" / "step-00000000.safetensors"
    for name in ("target", "context"):
        found = load_model(first, weights=name).encoder.state_dict()
        blocks = {name: value for name, value in found.items() if name.startswith(("blocks.", "norm."))}
        assert len(blocks) > 6 * 10 and all(
            torch.equal(value, vit[f"encoder.{name}"]) for name, value in blocks.items()
        )
        assert found["position_table.table"].abs().max() > 0.5, "the ViT's positions"
    with pytest.raises(
        RecipeError, match=r"encoder\.init .* has other sizes: .*give the encoder the same sizes"
    ):
        pretrain(load_recipe(str(path), ["encoder.init=default", f"run.out={tmp_path / 'other'}"]))


def test_pre_training_starts_from_an_encoder_of_ours(tiny_recipe: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny_recipe))
    pretrain(load_recipe(str(path)))
    again = [f"encoder.init={tmp_path / 'run'}", f"run.out={tmp_path / 'again'}", "optim.steps=1"]
    pretrain(load_recipe(str(path), again))
    start = load_model(tmp_path / "again" / "checkpoints" / "step-00000000.safetensors").encoder.state_dict()
    end = load_model(tmp_path / "run").encoder.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in end.items())
