"""One base for every error of the package, so that callers need to know one name."""

from __future__ import annotations

import inspect
import pkgutil
import tempfile
from importlib import import_module
from pathlib import Path

import pytest
import torch

import ajepa
from ajepa import cli

PACKAGES = ("ajepa", "ajepa.eval", "ajepa.hear_module", "ajepa.s3prl_upstream", "ajepa.evar_model")
NEED_A_CHECKOUT = {"ajepa.evar_model.representation"}  # of EVAR


def error_classes() -> dict[str, type[BaseException]]:
    """Every exception class that a module of the package defines, by its full name."""
    found = {}
    for name in PACKAGES:
        package = import_module(name)
        names = {item.name for item in pkgutil.walk_packages(package.__path__, f"{name}.")} - NEED_A_CHECKOUT
        for module in map(import_module, [name, *sorted(names)]):
            for item in vars(module).values():
                if inspect.isclass(item) and issubclass(item, BaseException):
                    found[f"{item.__module__}.{item.__qualname__}"] = item
    return {name: item for name, item in found.items() if name.startswith("ajepa.")}


def test_every_public_error_derives_from_one_base() -> None:
    public = {
        name: item
        for name, item in error_classes().items()
        if not item.__name__.startswith("_") and not issubclass(item, Warning)
    }
    assert len(public) > 30, "the walk missed parts of the package"
    assert [name for name, item in public.items() if not issubclass(item, ajepa.AjepaError)] == []
    # Code written for version 0.3.0 catches these.
    old = {name for name, item in public.items() if issubclass(item, (ValueError, RuntimeError))}
    assert public.keys() - old == {"ajepa.errors.AjepaError"}


def test_the_command_line_reports_them_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["curves", "no-such-run", "--out", "curves.png"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("ajepa: ") and message.count("\n") == 1


@pytest.mark.parametrize("debug", [False, True])
def test_the_command_line_keeps_the_traceback_of_a_defect(
    debug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In a file, or with --debug on stderr; the last line says in both cases that it is a defect."""

    def broken(options: object) -> int:
        raise ValueError("not wrong use")

    monkeypatch.setattr("ajepa.cli.curves.run_curves", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = ["curves", "somewhere", "--out", "curves.png", *(["--debug"] if debug else [])]
    assert cli.main(line) == 70
    said = capsys.readouterr().err
    last = said.splitlines()[-1]
    assert last.startswith("ajepa: ValueError: not wrong use. This is a defect of ajepa; please report it")
    if debug:
        traceback = said
        assert not list(tmp_path.iterdir())
    else:
        (kept,) = tmp_path.iterdir()
        assert said.count("\n") == 1 and str(kept) in last
        traceback = kept.read_text()
    assert "in broken" in traceback


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), "pip install onnx"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 GiB"), "use smaller batches"),
        (PermissionError(13, "Permission denied", "/place"), "/place"),
    ],
)
def test_what_a_user_can_correct_is_no_defect(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(options: object) -> int:
        raise error

    monkeypatch.setattr("ajepa.cli.curves.run_curves", failing)
    assert cli.main(["curves", "somewhere", "--out", "curves.png"]) == 2
    said = capsys.readouterr().err
    assert words in said and "defect" not in said and said.count("\n") == 1
