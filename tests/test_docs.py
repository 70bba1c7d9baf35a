"""The documentation does what it says: its commands run, and its site builds without a warning.

Every shell and Python block of README.md, the tutorials and the pages of HOW_TO is run, in order,
each page in an empty folder. Comments that no reader sees steer it:

    <!-- test: skip REASON -->         the next block is not run but counted; REASON begins with one of SKIPS
    <!-- test: setup ... -->           Python that runs here
    <!-- test: add "COMMAND" ... -->   commands that begin so get these arguments too, to the page's end
    <!-- test: file NAME -->           the next block is written to NAME
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from ajepa.checkpoints.unpickle import load_torch
from ajepa.cli import build_parser, main
from tests.test_official import GOLDEN

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
NAMES = "audit embedding encoders_in encoders_out labels look predict report visualize similar one_gpu"
HOW_TO = [ROOT / "docs" / f"{name}.md" for name in NAMES.split()]
PAGES = [ROOT / "README.md", *TUTORIALS, *HOW_TO]
ALL_PAGES = [
    *PAGES,
    *sorted(set((ROOT / "docs").glob("*.md")) - set(HOW_TO)),
    *sorted((ROOT / "docs" / "concepts").glob("*.md")),
]
SLOW = {"harnesses.md"}  # the stock toolkits, each in processes of its own
RUN = ("sh", "python")
SHOWN = ("text", "yaml", "json", "bibtex", "toml")
# Why a block cannot run here. "replaced": its set-up does the same with less.
SKIPS = ("gpu", "cluster", "network", "hours", "replaced")
PART = re.compile(
    r"<!-- test: (?P<verb>\w+)(?P<rest>.*?)-->|^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.S | re.M
)


class Block(NamedTuple):
    """A fenced block, or a set-up that readers do not see.

    Attributes:
        line: of the page, from 1.
        language: as the fence says; `setup` of what is hidden.
        code: its text.
        skip: why it is not run; empty where it is.
        file: where its text goes; empty for blocks to run.
        added: arguments by the beginning of a command.
    """

    line: int
    language: str
    code: str
    skip: str
    file: str
    added: dict[str, list[str]]


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    skip = file = ""
    added: dict[str, list[str]] = {}
    for part in PART.finditer(text):
        line = text.count("\n", 0, part.start()) + 1
        rest = (part["rest"] or "").strip()
        if part["verb"] == "skip":
            skip = rest
            assert rest.split()[0] in SKIPS, f"{page}:{line}: skip {rest}; reasons are {', '.join(SKIPS)}"
        elif part["verb"] == "file":
            file = rest
        elif part["verb"] == "add":
            command, *arguments = shlex.split(rest)
            added = {**added, command: arguments}
        elif part["verb"] == "setup":
            yield Block(line, "setup", rest, "", "", added)
        else:
            assert part["verb"] is None, f"{page}:{line}: test: {part['verb']} is not known here"
            yield Block(line, part["language"], part["code"], skip, file, added)
            skip = file = ""
    assert not skip and not file, f"{page}: the last comment has no block behind it"


def commands(code: str) -> list[str]:
    """The commands of a shell block: a line each, continued lines joined, comments left out."""
    lines = [line.strip() for line in code.replace("\\\n", " ").splitlines()]
    return [" ".join(line.split()) for line in lines if line and not line.startswith("#")]


def run_shell(block: Block) -> None:
    for command in commands(block.code):
        words = shlex.split(command, comments=True)
        for beginning, arguments in block.added.items():
            if words[: len(beginning.split())] == beginning.split():
                words += arguments
        alone = not any(
            word.startswith("run.devices") for word in words
        )  # others are started by its command line
        if words[0] == "ajepa" and alone:  # in this process: torch takes longer to import than most to run
            assert not main(words[1:]), command
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                ["bash", "-c", shlex.join(words)], env=environment, capture_output=True, text=True
            )
            assert not done.returncode, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def official_files() -> None:
    """Files in the official layout that load without a word, as the released ones do.

    The golden ones have 32 features a head, and positions without their pattern. Twice as wide they have the
    usual 64, and the first half of Audio-JEPA's table repeats with its 8 frequency patches.
    """
    if not GOLDEN.is_dir():
        pytest.skip(f"no official checkpoints in {GOLDEN} (AJEPA_GOLDEN names another folder)")
    for name, key in (("audio_mae.pth", "model"), ("audio_jepa.ckpt", "state_dict")):
        content = load_torch(GOLDEN / name)
        for tensor_name, tensor in content[key].items():
            if "_blocks." not in tensor_name:  # of the decoder and the predictor
                twice = [2 if size in (96, 3 * 96, 4 * 96) else 1 for size in tensor.shape]
                content[key][tensor_name] = tensor.repeat(twice)
            if name == "audio_jepa.ckpt" and tensor_name.endswith("encoder.pos_embed"):
                content[key][tensor_name][:, :, :96] = tensor[:, :8].repeat(1, 16, 1)
        torch.save(content, name)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=pytest.mark.slow if page.name in SLOW else ()) for page in PAGES],
)
def test_the_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    names: dict[str, object] = {"official_files": official_files}
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.skip:
            continue
        if block.file:
            (tmp_path / block.file).write_text(block.code)
            continue
        try:
            if block.language == "sh":
                run_shell(block)
            elif block.language in ("python", "setup"):
                exec(compile(block.code, where, "exec"), names)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{where}: {error}") from error


def test_no_block_is_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    """A block that is neither run nor marked has a language that is only shown."""
    ran, skipped = 0, Counter[str]()
    for page in PAGES:
        fences = page.read_text(encoding="utf-8").count("\n```")
        found = [block for block in blocks(page) if block.language != "setup"]
        assert fences == 2 * len(found), (
            f"{page}: {fences / 2} fenced blocks, of which {len(found)} are understood"
        )
        for block in found:
            assert block.language in RUN + SHOWN, f"{page}:{block.line}: language {block.language!r}"
            if block.skip:
                skipped[block.skip.split()[0]] += 1
            ran += block.language in RUN and not block.skip
    assert ran >= 25
    with capsys.disabled():
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
        print(f"\ndocs: {ran} blocks run, {skipped.total()} marked as not to be run here ({reasons})")


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.stem)
def test_every_command_is_one(page: Path) -> None:
    """Also where nothing is run, `ajepa` knows the command and its options."""
    parser = build_parser()
    for block in blocks(page):
        for command in commands(block.code) if block.language == "sh" else []:
            words = shlex.split(command, comments=True)
            if not words or words[0] != "ajepa" or "..." in words:
                continue
            try:
                options, rest = parser.parse_known_args(words[1:])
            except SystemExit:
                raise AssertionError(f"{page}:{block.line}: {command}") from None
            assert options.takes_rest or not rest, f"{page}:{block.line}: {command}: no {rest}"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; the [docs] extra has it")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def test_the_site_needs_no_network(site: Path) -> None:
    fetched = re.compile(
        r"""<(?:script|img|iframe)[^>]*\ssrc=["'](?:https?:)?//[^"']+|<link[^>]*rel=["'](?:stylesheet|preload)["'][^>]*"""
        r"""href=["'](?:https?:)?//[^"']+"""
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert not (found := fetched.findall(page.read_text(encoding="utf-8"))), f"{page.name}: {found}"


def test_the_site_has_every_command(site: Path) -> None:
    page = (site / "reference" / "command_line.html").read_text(encoding="utf-8")
    for name in ("ajepa pretrain", "ajepa evaluate", "ajepa data manifest", "ajepa harness enable"):
        assert f"<code>{name}" in page
