"""Recipes for pre-training, one YAML file each; `ajepa.recipe` reads them."""
