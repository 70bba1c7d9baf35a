"""Models on the Hub, through its own client, against a stand-in of its server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import ajepa
from ajepa.checkpoints import hub
from ajepa.checkpoints import native as checkpoint
from ajepa.cli import main
from ajepa.eval.models.open import default_name
from ajepa.eval.models.text import absolute
from ajepa.export.weights import Origin, write_weights
from ajepa.features import LogMelConfig
from ajepa.model import AudioEncoder
from ajepa.nn.encoder import EncoderConfig
from tests.hub_server import TOKEN, HubHandler, HubServer


@pytest.fixture
def encoder_file(tmp_path: Path) -> Path:
    """A small trained-looking encoder of ours."""
    config = EncoderConfig(size="ti", width=32, depth=1, heads=2)
    torch.manual_seed(0)
    model = AudioEncoder(LogMelConfig(), config, chunk_seconds=1.28)
    recipe = {
        "name": "tiny",
        "encoder": {"width": 32, "depth": 1, "heads": 2},
        "data": {"crop_seconds": 1.28},
    }
    path = tmp_path / "encoder.safetensors"
    write_weights(model, Origin(recipe, False, 7, {}), path)
    return path


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(("127.0.0.1", 0), HubHandler) as running:
        running.repositories, running.large, running.requests = {}, {}, []
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        # Large files go by plain requests, not by the client's transfer library: that has no open protocol.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def pushed(encoder_file: Path, out: Path, *options: str) -> int:
    return main(["export", str(encoder_file), "--out", str(out), "--push", "me/tiny", *options])


def test_a_pushed_model_loads_by_its_address(
    server: HubServer, encoder_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"of an earlier export")
    (out / "private.txt").write_text("not for others")
    assert pushed(encoder_file, out) == 0
    assert "ajepa.load_model('hf://me/tiny')" in capsys.readouterr().out
    (commit, files) = list(server.repositories["me/tiny"].commits.items())[-1]
    assert set(files) == {"model.safetensors", "README.md"}, "what else lies in the folder stays there"
    assert not server.repositories["me/tiny"].private
    clip = torch.randn(1, 9_000)
    expected = ajepa.load_model(encoder_file)(clip).clip
    server.requests.clear()
    for address in ("hf://me/tiny", f"hf://me/tiny@{commit}", "hf://me/tiny/model.safetensors"):
        model = ajepa.load_model(address)
        assert torch.equal(model(clip).clip, expected)
    assert model.source is not None and model.source.step == 7
    fetched = [request for request in server.requests if request.startswith("GET")]
    assert len(fetched) == 1, "one file, once; then from the cache"


def test_toolkits_are_given_the_downloaded_file(
    server: HubServer, encoder_file: Path, tmp_path: Path
) -> None:
    assert pushed(encoder_file, tmp_path / "out") == 0
    assert default_name("hf://me/tiny/model.safetensors") == "tiny"
    found = Path(absolute("hf://me/tiny/model.safetensors"))
    assert found.read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()


def test_a_revision_is_what_it_was(server: HubServer, encoder_file: Path, tmp_path: Path) -> None:
    assert pushed(encoder_file, tmp_path / "out") == 0
    repository = server.repositories["me/tiny"]
    repository.tags["v1"] = list(repository.commits)[-1]
    saved = checkpoint.load(encoder_file)
    other = {name: value + 1 for name, value in saved.tensors.items()}
    checkpoint.save(encoder_file, checkpoint.Checkpoint(other, saved.recipe, 8, {}))
    assert pushed(encoder_file, tmp_path / "out") == 0, "into the repository that exists"
    steps = [ajepa.load_model(address).source for address in ("hf://me/tiny", "hf://me/tiny@v1")]
    assert [source.step for source in steps if source] == [8, 7]


def test_private_repositories_need_a_token(
    server: HubServer, encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pushed(encoder_file, tmp_path / "out", "--private") == 0
    assert server.repositories["me/tiny"].private
    assert ajepa.load_model("hf://me/tiny").embedding_size == 256
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "of another user"))
    with pytest.raises(hub.HubError, match=r"no such repository, or it is private.*HF_TOKEN"):
        ajepa.load_model("hf://me/tiny")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://me/nothing", "hf://me/nothing: no such repository"),
        ("hf://me/tiny@v9", "no revision 'v9'"),
        ("hf://me/tiny/other.pth", "has no other.pth"),
        ("hf://tiny", "not an address on the Hub"),
        ("hf://me/tiny@", "not an address on the Hub"),
    ],
)
def test_what_the_hub_does_not_have(
    server: HubServer, encoder_file: Path, tmp_path: Path, address: str, words: str
) -> None:
    assert pushed(encoder_file, tmp_path / "out") == 0
    with pytest.raises(hub.HubError, match=words):
        ajepa.load_model(address)


def test_a_wrong_token_and_a_wrong_name(
    server: HubServer,
    encoder_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad_name = ["export", str(encoder_file), "--out", str(tmp_path / "new"), "--push", "me"]
    assert main(bad_name) == 2
    assert not (tmp_path / "new").exists(), "refused before anything is written"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert pushed(encoder_file, tmp_path / "out") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("ajepa: hf://me/tiny: ") and "HF_TOKEN" in message
    assert not server.repositories


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(hub.HubError, match="cannot be reached"):
        hub.download("hf://me/tiny")
    (tmp_path / "README.md").write_text("a card")
    with pytest.raises(hub.HubError, match="cannot be reached"):
        hub.upload(tmp_path, "me/tiny", ["README.md"], private=False, message="m")


def test_addresses() -> None:
    parse = hub.Address.parse
    assert parse("hf://me/net") == ("me/net", None, hub.WEIGHTS)
    assert parse("hf://me/net@v1.0/sub/one.pt") == ("me/net", "v1.0", "sub/one.pt")
    assert parse("hf://me/net@refs/pr/1") == ("me/net", "refs/pr/1", hub.WEIGHTS), (
        "the branch of a pull request"
    )
    assert parse("hf://me/net@refs/convert/parquet/a.pt") == ("me/net", "refs/convert/parquet", "a.pt")
