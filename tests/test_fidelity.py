"""docs/fidelity.md says of the recipes what they hold, and names what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ajepa.eval.finetune.config import RECIPES
from ajepa.recipes import load_recipe, recipe_names

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
CLAIMS = sorted(set(re.findall(r"`([\w-]+): ([\w.]+)=([^`]+)`", PAGE)))


def held(recipe: str, key: str) -> Any:
    """What a recipe has under a key, pre-training's or fine-tuning's."""
    if recipe in RECIPES:
        return getattr(RECIPES[recipe], key)
    value = load_recipe(recipe).as_dict()
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize(("recipe", "key", "value"), CLAIMS)
def test_recipes_hold_what_the_page_says(recipe: str, key: str, value: str) -> None:
    found = held(recipe, key)
    found = list(found) if isinstance(found, tuple) else found
    assert found == yaml.safe_load(value) or str(found) == value


def test_the_page_covers_the_papers_recipes() -> None:
    named = {recipe for recipe, _, _ in CLAIMS}
    assert named >= {name for name in recipe_names() if name.endswith("as2m") and "plus" not in name}
    assert len(CLAIMS) > 60


def test_files_exist() -> None:
    files = set(re.findall(r"`((?:ajepa|eval)/[\w/]+\.py)`", PAGE))
    assert len(files) > 12
    assert not [name for name in files if not (ROOT / name).is_file()]
