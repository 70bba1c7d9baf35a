"""Environments of other Pythons and other releases of the libraries, each made anew: 7 GB, so one at a time.

    nox -s tests-3.10              everything on one Python, with the newest libraries that it has
    nox -s oldest                  the core with the lower bounds of pyproject.toml, on the oldest Python
    nox -s "with_oldest(timm)"     everything, with one library at its lower bound

Words after `--` are pytest's. Sessions leave their environments in .nox; `rm -rf .nox` frees the space.
"""

from __future__ import annotations

import nox
from packaging.requirements import Requirement

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT, max_version="3.13")
TOOLKITS = ("hear", "s3prl", "xares")
# Libraries that are tried alone at their lower bounds, with those that have to match them.
ALONE = {
    "torch": ("torch", "torchaudio"),
    "timm": ("timm",),
    "scikit-learn": ("scikit-learn",),
    "lightning-fabric": ("lightning-fabric",),
}
# Of the core; the other tests need the toolkits and other extras.
CORE = (
    *("test_features", "test_audio", "test_masking", "test_encoder", "test_training", "test_resume"),
    *("test_checkpoint", "test_recipes", "test_manifest", "test_curves", "test_shards", "test_embed"),
    *("test_hostile_files", "test_hostile_weights"),
)

nox.options.default_venv_backend = "venv"
nox.options.sessions = [f"tests-{PYTHONS[0]}", f"tests-{PYTHONS[-1]}", "oldest"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Everything, with the newest libraries."""
    _everything(session)


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """The core with the lower bounds of all dependencies."""
    bounds = [_lowest(Requirement(line)) for line in PROJECT["project"]["dependencies"]]
    session.install("-e", ".", "pytest", "pytest-xdist", "hypothesis", "pandas", *bounds)
    _pytest(session, *(f"tests/{name}.py" for name in CORE))


@nox.session(python="3.11")
@nox.parametrize("library", list(ALONE), ids=list(ALONE))
def with_oldest(session: nox.Session, library: str) -> None:
    """Everything, with one library at its lower bound."""
    bounds = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    _everything(session, *(_lowest(one) for one in bounds if one.name in ALONE[library]))


def _everything(session: nox.Session, *pins: str) -> None:
    session.install("-e", f".[dev,{','.join(TOOLKITS)}]", *pins)
    for toolkit in TOOLKITS:
        session.run("ajepa", "harness", "enable", toolkit)
    _pytest(session)


def _pytest(session: nox.Session, *tests: str) -> None:
    session.run(
        "pytest",
        *(session.posargs or ["-n", "auto", "--dist", "loadscope", "--no-loadscope-reorder"]),
        *tests,
    )


def _lowest(requirement: Requirement) -> str:
    """A requirement of the lower bound alone; of one written as 2.8 any release 2.8.x."""
    (bound,) = (one.version for one in requirement.specifier if one.operator == ">=")
    exact = f"=={bound}" if bound.count(".") > 1 else f"=={bound}.*"
    return f"{requirement.name}{exact}"
