"""One base for every error of the package, so that callers need to know one name."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

import pytest

import ajepa
from ajepa import cli

PACKAGES = ("ajepa", "ajepa.eval", "ajepa.hear_module", "ajepa.s3prl_upstream")


def error_classes() -> dict[str, type[BaseException]]:
    """Every exception class that a module of the package defines, by its full name."""
    found = {}
    for name in PACKAGES:
        package = import_module(name)
        names = [item.name for item in pkgutil.walk_packages(package.__path__, f"{name}.")]
        for module in map(import_module, [name, *names]):
            for item in vars(module).values():
                if inspect.isclass(item) and issubclass(item, BaseException):
                    found[f"{item.__module__}.{item.__qualname__}"] = item
    return {name: item for name, item in found.items() if name.startswith("ajepa.")}


def test_every_public_error_derives_from_one_base() -> None:
    public = {name: item for name, item in error_classes().items() if not item.__name__.startswith("_")}
    assert len(public) > 30, "the walk missed parts of the package"
    assert [name for name, item in public.items() if not issubclass(item, ajepa.AjepaError)] == []
    # Code written for version 0.3.0 catches these.
    old = {name for name, item in public.items() if issubclass(item, (ValueError, RuntimeError))}
    assert public.keys() - old == {"ajepa.errors.AjepaError"}


def test_the_command_line_reports_them_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["curves", "no-such-run", "--out", "curves.png"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("ajepa: ") and message.count("\n") == 1


def test_the_command_line_leaves_defects_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: object) -> int:
        raise ValueError("a defect, not wrong use")

    monkeypatch.setattr("ajepa.cli.curves.run_curves", broken)
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["curves", "somewhere", "--out", "curves.png"])
