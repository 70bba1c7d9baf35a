"""Install a bridge in this environment, show it, or remove it; or use it for one process."""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import runpy
import shlex
import site
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement

from ajepa import files

from . import hook
from .bridges import BRIDGES, Bridge, HarnessError, bridge_of

PTH_NAME = "ajepa-harness.pth"
HOOK_NAME = "ajepa_harness_hook.py"


def enable(name: str, *, install: bool = True, site_dir: Path | None = None) -> list[str]:
    """Install the toolkit of the bridge `name` and write the import hook. Repeating it changes nothing.

    install: install missing packages with pip.
    site_dir: folder for the hook; by default the site-packages of the running interpreter.
    Returns what was done, as lines to print. Raises HarnessError with the remedy.
    """
    bridge, directory = BRIDGES[_checked(name)], site_dir or _site_packages()
    if not os.access(directory, os.W_OK):
        raise HarnessError(_not_writable(directory, "no write permission, or no such folder"))
    report = _install(bridge) if install else [f"{name}: packages not changed"]
    try:
        _write_hook(directory, {*_enabled(directory), name})
    except OSError as error:
        raise HarnessError(_not_writable(directory, str(error))) from error
    return [
        *report,
        f"{name}: hook written to {directory / PTH_NAME} and {directory / HOOK_NAME}",
        f"It affects every Python of {sys.prefix} that imports {' or '.join(bridge.packages)}; "
        f"`ajepa harness disable {name}` removes it.",
    ]


def disable(name: str | None = None, *, site_dir: Path | None = None) -> list[str]:
    """Remove the hook of one bridge, or of all. The toolkit's packages stay.

    Returns what was done, as lines to print. Raises HarnessError if the files cannot be removed.
    """
    directory = site_dir or _site_packages()
    enabled = _enabled(directory)
    removed = enabled if name is None else enabled & {_checked(name)}
    if not removed and (enabled or not _has_hook(directory)):
        return [f"{name or 'no bridge'}: not enabled in {directory}; nothing to do"]
    try:
        if enabled - removed:
            _write_hook(directory, enabled - removed)
        else:
            _remove_hook(directory)
    except OSError as error:
        raise HarnessError(_not_writable(directory, str(error))) from error
    lines = [f"{bridge}: hook removed from {directory}" for bridge in sorted(removed)]
    lines += [
        f"The packages stay; `{_pip('uninstall', *map(_name, BRIDGES[bridge].toolkit))}` removes them."
        for bridge in sorted(removed)
    ]
    return lines or [f"hook files without a bridge removed from {directory}"]


def status(*, site_dir: Path | None = None) -> list[str]:
    """The hook's place, whether it is active in this process, and each bridge's packages and cures."""
    directory = site_dir or _site_packages()
    enabled = _enabled(directory)
    finder = hook.active_finder()
    lines = [
        f"hook: {_hook_state(directory)}",
        f"active in this process: {', '.join(sorted(finder.bridged_packages)) if finder else 'no'}",
    ]
    lines += [
        f"another hook: {other / PTH_NAME}; delete it and {HOOK_NAME} next to it unless you need it"
        for other in _site_directories()
        if other != directory and (other / PTH_NAME).exists()
    ]
    for name, bridge in BRIDGES.items():
        lines.append(f"{name}: {'enabled' if name in enabled else 'not enabled'}")
        requirements = [*bridge.toolkit, *bridge.extra_requirements()]
        lines += [f"  {_state(requirement)}" for requirement in requirements]
        lines += [
            f"  {'repair of' if cure.needed() else 'no repair needed here of'} {module}: it {cure.breaks}"
            for module, cures in [
                *bridge.cures.items(),
                (f"{', '.join(bridge.packages)}.*", bridge.everywhere),
            ]
            for cure in cures
        ]
    return lines


def run(module: str, args: Sequence[str]) -> None:
    """Run `python -m module args...` in this process, with its cures; writes nothing.

    Raises HarnessError for a module that no bridge contains or whose toolkit is missing; what the module
    raises, SystemExit included, passes through.
    """
    _cure(module)
    # `python -m` imports from the working directory; a console script would not.
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, str(Path.cwd()))
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def imported(module: str) -> ModuleType:
    """A module of a toolkit, imported in this process with its cures.

    Raises HarnessError for a module that no bridge contains or whose toolkit is missing.
    """
    _cure(module)
    return importlib.import_module(module)


def _cure(module: str) -> None:
    """Apply the cures of a module's toolkit to this process."""
    bridge = bridge_of(module)
    if bridge is None:
        known = ", ".join(package for known in BRIDGES.values() for package in known.packages)
        raise HarnessError(f"no bridge for {module}; there are bridges for modules of {known}")
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise HarnessError(
            f"{package} is not installed; run `{_pip('install', '--no-deps', *bridge.toolkit)}` and, for its "
            f"imports, `{_pip('install', *bridge.extra_requirements())}`"
        )
    hook.install(*bridge.packages)


def _checked(name: str) -> str:
    if name not in BRIDGES:
        raise HarnessError(f"no bridge named {name!r}; choose from {', '.join(BRIDGES)}")
    return name


# -- packages --


def _name(requirement: str) -> str:
    return Requirement(requirement).name


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_met(requirement: str) -> bool:
    parsed = Requirement(requirement)
    version = _version(parsed.name)
    return version is not None and parsed.specifier.contains(version, prereleases=True)


def _state(requirement: str) -> str:
    name = _name(requirement)
    needs = "" if _is_met(requirement) else f" (needs {requirement})"
    return f"{name} {_version(name) or 'missing'}{needs}"


def _pip(*args: str) -> str:
    return shlex.join([sys.executable, "-m", "pip", *args])


def _install(bridge: Bridge) -> list[str]:
    """Install the toolkit's imports, then the toolkit without its pins (HEAR: numpy 1.19, TensorFlow)."""
    steps = [
        [requirement for requirement in bridge.extra_requirements() if not _is_met(requirement)],
        [requirement for requirement in bridge.toolkit if not _is_met(requirement)],
    ]
    if not any(steps):
        return [f"{', '.join(bridge.toolkit)} and what they import: already installed"]
    commands = [["install", *steps[0]]] if steps[0] else []
    commands += [["install", "--no-deps", *steps[1]]] if steps[1] else []
    by_hand = " && ".join(_pip(*command) for command in commands)
    if importlib.util.find_spec("pip") is None:
        raise HarnessError(
            f"this environment has no pip; do with your own tool what these commands would do, then add "
            f"--no-install: {by_hand}"
        )
    for command in commands:
        if subprocess.run([sys.executable, "-m", "pip", *command], check=False).returncode:
            raise HarnessError(f"pip failed (see above); no hook was written. Try it by hand: {by_hand}")
    importlib.invalidate_caches()
    return [
        f"installed {', '.join(steps[0] + steps[1])}",
        "pip may report that the toolkit requires other packages or versions: this is expected.",
    ]


# -- hook files --


def _site_packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _site_directories() -> list[Path]:
    """The folders whose .pth files a Python of this environment may read."""
    candidates = [*site.getsitepackages(), site.getusersitepackages()]
    return list(dict.fromkeys(Path(candidate) for candidate in candidates))


def _not_writable(directory: Path, reason: str) -> str:
    return (
        f"cannot write {directory / PTH_NAME}: {reason}; use a virtual environment (`python -m venv`), or "
        "`ajepa harness run MODULE ARGS...`, which writes nothing"
    )


def _has_hook(directory: Path) -> bool:
    return (directory / PTH_NAME).exists() or (directory / HOOK_NAME).exists()


def _enabled(directory: Path) -> set[str]:
    """The bridges whose packages the .pth file in `directory` names."""
    pth = directory / PTH_NAME
    packages = set(re.findall(r'"(\w+)"', pth.read_text(encoding="ascii"))) if pth.is_file() else set()
    return {name for name, bridge in BRIDGES.items() if packages.issuperset(bridge.packages)}


def _pth_text(names: set[str]) -> str:
    packages = ", ".join(f'"{package}"' for name in sorted(names) for package in BRIDGES[name].packages)
    module = HOOK_NAME.removesuffix(".py")
    return (
        f"# Written by `ajepa harness enable {' '.join(sorted(names))}`.\n"
        "# `ajepa harness disable` removes it.\n"
        f"import {module}; {module}.install({packages})\n"
    )


def _write_hook(directory: Path, names: set[str]) -> None:
    """Write both files whole, the .pth file after the module that it imports."""
    files.write(directory / HOOK_NAME, _hook_source())
    files.write(directory / PTH_NAME, _pth_text(names))  # its partial file is not called *.pth either


def _remove_hook(directory: Path) -> None:
    (directory / PTH_NAME).unlink(missing_ok=True)
    (directory / HOOK_NAME).unlink(missing_ok=True)
    Path(importlib.util.cache_from_source(str(directory / HOOK_NAME))).unlink(missing_ok=True)


def _hook_source() -> str:
    return Path(hook.__file__).read_text(encoding="ascii")


def _hook_state(directory: Path) -> str:
    if not _has_hook(directory):
        return f"absent from {directory}"
    names = _enabled(directory)
    module = directory / HOOK_NAME
    if not names or not module.exists() or module.read_text(encoding="ascii") != _hook_source():
        return (
            f"present in {directory}, but not as this ajepa writes it; run `ajepa harness enable NAME` again"
        )
    return f"present, {directory / PTH_NAME}"
