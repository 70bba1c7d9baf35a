"""Recipes: all settings of a pre-training run. Each packaged recipe is a YAML file in this folder."""

from .recipe import (
    Recipe,
    RecipeError,
    dump_recipe,
    load_recipe,
    recipe_from_dict,
    recipe_names,
    recipe_path,
)

__all__ = [
    "Recipe",
    "RecipeError",
    "dump_recipe",
    "load_recipe",
    "recipe_from_dict",
    "recipe_names",
    "recipe_path",
]
