"""Weights from strangers: what they say of themselves is data, and other people's copies are read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import ajepa
from ajepa import AjepaError, load_model, load_recipe
from ajepa.checkpoints.official import OfficialError, read_official
from ajepa.recipes import RecipeError
from tests.pickles import MakesFolder

FIXTURE = Path(__file__).parent / "fixtures" / "a-jepa.encoder.safetensors"


def fixture() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(FIXTURE, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


def rewritten(path: Path, key: str, value: Any) -> Path:
    """The fixture with one value of its recipe (`encoder.width`) or of its header (`info`) changed."""
    tensors, header = fixture()
    place, _, rest = key.partition(".")
    if place == "recipe" and rest:
        recipe = inner = json.loads(header["recipe"])
        *groups, last = rest.split(".")
        for group in groups:
            inner = inner[group]
        inner[last] = value
        header["recipe"] = json.dumps(recipe)
    elif value is None:
        del header[place]
    else:
        header[place] = value
    save_file(tensors, path, metadata=header)
    return path


HOSTILE = [
    ("recipe", None, "no recipe in its header"),
    ("recipe", "null", "must be mappings"),
    ("recipe", "[" * 5000, "is no JSON"),
    ("recipe", "{", "is no JSON"),
    ("info", "null", "must be mappings"),
    ("info", "[]", "must be mappings"),
    ("step", '"many"', "must be mappings"),
    ("step", "-3", "must be mappings"),
    ("step", "1e400", "must be mappings"),
    ("recipe.encoder", "/etc/passwd", "encoder is '/etc/passwd', must be a mapping"),
    ("recipe.encoder", [], "encoder is .*, must be a mapping"),
    ("recipe.objective", "ajepa.objectives.a_jepa.AJEPAConfig", "must be a mapping"),
    ("recipe.objective.system", "os.system", "objective.system is 'os.system'"),
    ("recipe.objective.system", ["a"], "objective.system"),
    ("recipe.data", {"class_path": "os.system", "init_args": {}}, "no such key"),
    ("recipe.encoder.width", 10**9, "its recipe needs"),
    ("recipe.encoder.width", 10**30, "must be a whole number"),
    ("recipe.encoder.width", True, "must be a whole number"),
    ("recipe.encoder.width", "64", "must be a whole number"),
    ("recipe.encoder.depth", 10**9, "blocks, its recipe needs"),
    ("recipe.encoder.heads", 0, "at least 1"),
    ("recipe.encoder.mlp_ratio", 1e300, "its recipe needs"),
    ("recipe.encoder.patch", [16], "must be a list of 2"),
    ("recipe.encoder.table", {"time": 10**12, "freq": 8}, "its recipe needs|must agree"),
    ("recipe.encoder.nothing", 1, "no such key"),
    ("recipe.data.crop_seconds", float("inf"), "crop_seconds is inf, must be a finite number"),
    ("recipe.data.crop_seconds", float("nan"), "must be a finite number"),
    ("recipe.data.crop_seconds", 1e300, "must be at most 3600"),
    ("recipe.front_end.mels", 10**9, "needs 4 to 1024 bands"),
    ("recipe.front_end.window_seconds", 1e9, "at most 65536 samples"),
    ("recipe.front_end.sample_rate", 2**40, "give 1 to 1000000 Hz"),
    ("recipe.name", {"a": 1}, "name is .*, must be a text"),
]


@pytest.mark.parametrize(("key", "value", "message"), HOSTILE)
def test_metadata_is_data(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = rewritten(tmp_path / "a.safetensors", key, value)
    with pytest.raises(AjepaError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor.to(torch.int32), "must be a float"),
        (lambda tensor: tensor > 0, "must be a float"),
        (lambda tensor: tensor.to(torch.complex64), "must be a float"),
        (lambda tensor: tensor[:4], "has the shape"),
        (lambda tensor: tensor * float("nan"), "NaN or infinite"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path: Path, change: Any, message: str) -> None:
    tensors, header = fixture()
    tensors["encoder.norm.weight"] = change(tensors["encoder.norm.weight"]).contiguous()
    path = tmp_path / "a.safetensors"
    try:
        save_file(tensors, path, metadata=header)
    except KeyError:
        pytest.skip("this safetensors writes no such numbers")
    with pytest.raises(AjepaError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_recipe_file_names_no_other_files(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    for key in ("encoder", "objective", "objective.masking", "run.probe"):
        inner = "/etc/passwd"
        for part in reversed(key.split(".")):
            inner = f"{{{part}: {inner}}}"
        path.write_text(inner)
        with pytest.raises(RecipeError, match=rf"{path}: {key} is '/etc/passwd', must be a mapping"):
            load_recipe(str(path))
    path.write_bytes(b"name: caf\xe9")
    with pytest.raises(RecipeError, match="not readable"):
        load_recipe(str(path))


def test_the_strange_files_found_so_far(shared: Path) -> None:
    folder = shared / "cases" / "strange"
    if not folder.is_dir():
        pytest.skip("shared/cases/strange is not here")
    for path in sorted(folder.iterdir()):
        with pytest.raises(AjepaError) as caught:
            load_model(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


# --- Other people's copies of official weights ---


def audio_mae(width: int = 64) -> dict[str, torch.Tensor]:
    """A fine-tuned Audio-MAE of one block."""
    state = {
        "cls_token": torch.zeros(1, 1, width),
        "pos_embed": torch.randn(1, 513, width),
        "patch_embed.proj.weight": torch.randn(width, 1, 16, 16),
        "patch_embed.proj.bias": torch.zeros(width),
        "head.weight": torch.randn(527, width),
        "head.bias": torch.zeros(527),
    }
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for name, shape in linear.items():
        state |= {
            f"blocks.0.{name}.weight": torch.randn(shape),
            f"blocks.0.{name}.bias": torch.zeros(shape[0]),
        }
    for name in ("blocks.0.norm1", "blocks.0.norm2", "fc_norm"):
        state |= {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
    return state


def test_copies_of_audio_mae(tmp_path: Path) -> None:
    state, path = audio_mae(), tmp_path / "t.pth"
    waveform_BS = torch.randn(1, 32_000)
    torch.save({"model": state}, path)
    with torch.no_grad():
        expected = load_model(path)(waveform_BS).clip

    def prefixed(prefix: str) -> dict[str, torch.Tensor]:
        return {f"{prefix}{name}": tensor for name, tensor in state.items()}

    encoder = {name.replace("fc_norm", "norm"): value for name, value in state.items() if "head" not in name}
    copies: list[tuple[Any, dict[str, Any]]] = [
        ({"model": prefixed("module.")}, {}),
        ({"model": prefixed("_orig_mod.")}, {}),
        ({"model": prefixed("module._orig_mod.")}, {}),
        (state, {}),
        ({"state_dict": state}, {}),
        ({"model": state}, {"_use_new_zipfile_serialization": False}),
        ({"model": state, "epoch": None}, {}),
        ({"model": {name: value for name, value in state.items() if "head" not in name}}, {}),
        ({"model": encoder}, {}),
    ]
    for content, how in copies:
        torch.save(content, path, **how)
        with torch.no_grad():
            torch.testing.assert_close(load_model(path)(waveform_BS).clip, expected)
    with pytest.raises(OfficialError, match="no decoder"):
        read_official(path).objective()
    for broken in ({"epoch": "x"}, {"epoch": 1.5}):
        torch.save({"model": state} | broken, path)
        with pytest.raises(AjepaError, match="count of steps"):
            load_model(path)
    torch.save({"model": state | {"blocks.0.norm1.bias": torch.zeros(64, dtype=torch.int64)}}, path)
    with pytest.raises(AjepaError, match=r"not tensors of finite floats: blocks\.0\.norm1\.bias"):
        load_model(path)


def test_an_audio_jepa_encoder_needs_no_predictor(shared: Path, tmp_path: Path) -> None:
    paths = sorted((shared / "golden").glob("*jepa*.ckpt"))
    if not paths:
        pytest.skip("shared/golden has no Audio-JEPA file")
    content = torch.load(paths[0], weights_only=True)
    expected = load_model(paths[0], heads=6)(torch.randn(1, 32_000, generator=torch.manual_seed(0))).clip
    weights = content["state_dict"]
    path = tmp_path / "t.ckpt"
    for kept in (("encoder.", "target_encoder."), ("target_encoder.",)):
        torch.save({"state_dict": {k: v for k, v in weights.items() if k.startswith(kept)}}, path)
        model = load_model(path, heads=6)
        found = model(torch.randn(1, 32_000, generator=torch.manual_seed(0))).clip
        torch.testing.assert_close(found, expected)
        with pytest.raises(OfficialError, match="predictor"):
            read_official(path, heads=6).objective()
    width = len(weights["predictor.mask_token"].flatten())
    changes = {
        "unusual width": {
            name: value[..., : width - 1] if value.shape[-1] == width else value
            for name, value in weights.items()
            if name.startswith("predictor.")
        },
        "cut": {"predictor.predictor_embed.weight": None},
        "scalar": {"predictor.predictor_embed.weight": torch.tensor(1.0)},
        "stranger": {"predictor.strange": torch.zeros(1)},
    }
    for what, change in changes.items():
        changed = {k: v for k, v in (weights | change).items() if v is not None}
        torch.save({"state_dict": changed}, path)
        found = load_model(path, heads=6)(torch.randn(1, 32_000, generator=torch.manual_seed(0))).clip
        torch.testing.assert_close(found, expected, msg=what)
        with pytest.raises(OfficialError, match="predictor"):
            read_official(path, heads=6).objective()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embed.proj.weight", (64, 1, 16, 0)),
        ("patch_embed.proj.weight", (64, 1, 16, 200)),
        ("patch_embed.proj.weight", (64, 1, 0, 16)),
        ("patch_embed.proj.weight", (0, 1, 16, 16)),
        ("pos_embed", (0, 513, 64)),
        ("pos_embed", (1, 0, 64)),
        ("pos_embed", (1, 513, 32)),
        ("cls_token", (3, 3, 3)),
        ("blocks.0.mlp.fc1.weight", (0, 64)),
        (f"blocks.{'9' * 5000}.mlp.fc1.weight", (1,)),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "t.pth"
    torch.save({"model": audio_mae() | {name: torch.ones(shape)}}, path)
    with pytest.raises(AjepaError, match=rf"^{path}: ") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_pickled_code_runs(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "t.pth", tmp_path / "trace"
    torch.save(
        {"model": audio_mae(), "args": MakesFolder(trace)}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(AjepaError, match=r"t\.pth") as caught:
        ajepa.load_model(path)
    assert "\n" not in str(caught.value) and not trace.exists()
    path.write_bytes(pickle.dumps(MakesFolder(trace)))
    with pytest.raises(AjepaError):
        ajepa.load_model(path)
    assert not trace.exists()
