"""EVAR's wrapper: what it adds to a checkout, and the vectors that EVAR gets.

AJEPA_EVAR names a checkout of EVAR whose requirements are installed; without it only the part that runs
without EVAR's own code is tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ajepa import load_model
from ajepa.evar_model.__main__ import add_to, main

pd = pytest.importorskip("pandas", reason="pandas comes with the extras of the toolkits")

# What the wrapper is derived from: EVAR's base class without the libraries that its file imports.
BASE = """
from torch import nn


class BaseAudioRepr(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of EVAR that matter here, in its layout."""
    (tmp_path / "evar").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "evar" / "__init__.py").touch()
    (tmp_path / "evar" / "ar_base.py").write_text(BASE)
    (tmp_path / "evar" / "common.py").touch()
    return tmp_path


def test_it_is_added_once(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkout)]) == 0
    before = {path: path.read_text() for path in checkout.rglob("*.*")}
    assert add_to(checkout)[1] == checkout / "config" / "ajepa.yaml"
    assert {path: path.read_text() for path in checkout.rglob("*.*")} == before
    assert before[checkout / "evar" / "__init__.py"].count("import evar.ar_ajepa") == 1
    assert str(checkout / "evar" / "ar_ajepa.py") in capsys.readouterr().out
    assert main([str(checkout / "config")]) == 2
    assert "no checkout of EVAR, it has no evar/ar_base.py" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["\n", ""])
def test_what_is_there_stays(end: str, checkout: Path) -> None:
    (checkout / "evar" / "__init__.py").write_text(f"first = 1{end}")
    config = checkout / "config" / "ajepa.yaml"
    config.write_text("weight_file: mine\n")
    add_to(checkout)
    assert config.read_text() == "weight_file: mine\n"
    assert (checkout / "evar" / "__init__.py").read_text().startswith("first = 1\nimport evar.ar_ajepa")


def test_evar_gets_the_vectors_of_the_encoder(checkout: Path, source: str, tmp_path: Path) -> None:
    """In a process of its own, as EVAR names the class: `eval('evar.' + cfg.audio_repr)`."""
    add_to(checkout)
    wave_BS = 0.1 * torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    torch.save(wave_BS, tmp_path / "waves.pt")
    program = f"""
import types, torch, yaml
import evar.common
cfg = types.SimpleNamespace(**yaml.safe_load(open("config/ajepa.yaml")))
cfg.weight_file = {source!r}
model = eval("evar." + cfg.audio_repr)(cfg).eval()
waves = torch.load("waves.pt", weights_only=True)
with torch.no_grad():
    torch.save((model(waves), model.encode_frames(waves)), "found.pt")
cfg.sample_rate = 48_000
try:
    eval("evar." + cfg.audio_repr)(cfg)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "add sample_rate=16000 to --options" in done.stdout
    clip_BD, frames_BDT = torch.load(tmp_path / "found.pt", weights_only=True)
    with torch.no_grad():
        expected = load_model(source)(wave_BS)
    torch.testing.assert_close(clip_BD, expected.clip, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(frames_BDT, expected.frames.transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(
    "AJEPA_EVAR" not in os.environ, reason="AJEPA_EVAR names no checkout of EVAR with its requirements"
)
def test_evar_s_own_command(shared: Path, source: str) -> None:
    """Linear evaluation of a random encoder on ESC-10, in EVAR's place for ESC-50: above chance."""
    checkout = Path(os.environ["AJEPA_EVAR"])
    add_to(checkout)
    script = Path(__file__).parents[1] / "docs" / "experiments" / "evar_sets.py"
    prepare = [sys.executable, str(script), "esc10", str(shared / "data" / "esc50"), "esc50", str(checkout)]
    subprocess.run(prepare, check=True)
    command = ["lineareval.py", "config/ajepa.yaml", "esc50", f"--options=weight_file={source}"]
    done = subprocess.run([sys.executable, *command], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert pd.read_csv(checkout / "results" / "scores.csv").score.iloc[-1] > 0.3
