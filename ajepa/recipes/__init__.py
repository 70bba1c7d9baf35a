"""Recipes for pre-training, one YAML file each; `ajepa.training.recipe` reads them."""
