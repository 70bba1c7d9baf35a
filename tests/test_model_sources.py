"""Models as commands and comparisons name them: NAME=SOURCE, and sources for toolkits in other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ajepa.eval.hear import Entry
from ajepa.eval.models import open_model
from ajepa.eval.stock import Checkpoint
from ajepa.eval.superb import Upstream
from ajepa.named_source import named_source


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Path:
    """A recipe in a folder with "=" in its name."""
    (tmp_path / "runs" / "lr=1e-3").mkdir(parents=True)
    return tiny.rename(tmp_path / "runs" / "lr=1e-3" / "steps=20.yaml")


def test_the_name_ends_at_the_first_equals_sign(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_source("logmel") == ("", "logmel")
    assert named_source(f"mine={run}") == ("mine", str(run))
    assert named_source(str(run)) == ("", str(run))
    assert named_source("mine=") == ("mine", "")
    monkeypatch.chdir(run.parent.parent)
    assert named_source("lr=1e-3") == ("", "lr=1e-3"), "it is there"
    assert named_source("lr=1e-4") == ("lr", "1e-4")


def test_a_path_with_an_equals_sign_is_a_source_for_every_protocol(run: Path) -> None:
    for text, name in ((str(run), "steps=20"), (f"mine={run}", "mine")):
        assert (open_model(text).name, open_model(text).source) == (name, str(run))
        for kind in (Entry, Checkpoint, Upstream):
            found = kind.parse(text)
            assert (found.name, found.source) == (name, str(run))
    assert Upstream.parse(f"s3prl:hf_hubert_custom:{run}") == Upstream(
        "hf_hubert_custom", "hf_hubert_custom", str(run)
    )
    assert Entry.of("a=b", str(run)) == Entry("a=b", "ajepa.hear_module", str(run)), (
        "as a comparison names it"
    )
