"""The script for machines with a GPU, on tiny networks without one."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
# This interpreter, so that the script makes no environment of its own.
ENVIRONMENT = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def report(tmp_path: Path, *options: str) -> dict[str, Any]:
    """What a call of the script wrote."""
    out = tmp_path / "gpu.json"
    command = [str(SCRIPT), "--cpu", "--out", str(out), *options]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
def test_every_section_reports_numbers(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        soundfile.write(audio / f"{number}.wav", 0.1 * rng.standard_normal(32_000), 16_000)
    found = report(tmp_path, "--audio", str(audio), "--run-seconds", "1")
    sections = found["sections"]
    assert found["tiny"] and found["hardware"]["torch"] and found["date"]
    assert sections["synchronisations"]["skipped"]
    assert not [name for name, entry in sections.items() if "error" in entry], sections
    for entry in sections["pretrain"]["result"]:
        assert entry["clips_per_s"] > 0 and entry["share_of_floor"] > 0, entry
    low, high = sections["run"]["result"]["clips_per_s_range"]
    assert 0 < low <= sections["run"]["result"]["clips_per_s"] <= high
    assert sections["log_mel"]["result"]["clips_per_s"] > 0
    embedded = sections["embedding"]["result"]
    assert embedded["bfloat16"]["clips_per_s"] > 0 and embedded["float32"]["clips_per_s"] > 0
    same = sections["agreement"]["result"]
    assert same["encoder_device_against_cpu"]["largest"] == 0
    # Half precision must show: equal numbers would mean that single precision was measured twice.
    assert 0 < embedded["bfloat16_against_float32"]["rms"] < 0.05
    assert 0 < same["encoder_bfloat16_against_float32"]["rms"] < 0.05


def test_a_failing_section_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    sections = report(tmp_path, "--only", "run", "log_mel", "--audio", str(empty))["sections"]
    assert str(empty) in sections["run"]["error"]
    assert sections["log_mel"]["result"]["clips_per_s"] > 0


def test_cost_is_epochs_over_the_measured_rate(tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    entry = {"recipe": "ajepa-vit-b-as2m", "clips": 256, "precision": "bf16-mixed", "compiled": True}
    entry |= {"clips_per_s": 1000.0, "run": {"device": "a device"}}
    rates.write_text(json.dumps(entry))
    command = [sys.executable, str(SCRIPT.with_name("cost.py")), str(rates)]
    command += ["--clips", "1500000", "--devices", "1", "8", "--efficiency", "0.5"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # 24 epochs of 1.5 million clips at 1,000 a second are 10 hours; eight devices at half their rate, 2.5.
    rows = [[cell.strip() for cell in line.split("|")[2:5]] for line in said.splitlines()[2:4]]
    assert rows == [["1", "10.0", "10"], ["8", "2.5", "20"]]


def test_cost_refuses_the_numbers_of_a_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = tmp_path / "gpu.json"
    rates.write_text(json.dumps({"tiny": True, "sections": {"pretrain": {"result": []}}}))
    cost = runpy.run_path(str(SCRIPT.with_name("cost.py")))["main"]
    with pytest.raises(SystemExit) as ended:
        cost([str(rates)])
    assert ended.value.code == 2 and "without --cpu" in capsys.readouterr().err
