"""`ajepa pretrain` and `ajepa recipes`."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  ajepa pretrain ajepa-small-cpu --data.source my_audio --run.out runs/first       an hour on a CPU core
  ajepa pretrain ajepa-plus-vit-b-as2m --data.source shards --run.out runs/field \\
      --skip-broken data.workers=8 optim.steps=20000 optim.decay_steps=2000 optim.accumulate=2    for a GPU
An epoch hears hours, not files: a long recording is drawn from in proportion to its length
(data.segment_seconds). docs/one_gpu.md goes through 300 hours on one GPU: shards, workers, batch, steps,
what to watch, and when to stop.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    pretrain = commands.add_parser(
        "pretrain",
        help="train an encoder on a folder of audio, or continue a run",
        description="Any key of the recipe is an option, written --optim.lr 1e-3 or optim.lr=1e-3.\n"
        "The same command continues a run that was stopped.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pretrain.add_argument(
        "recipe", help="a packaged recipe's name or a .yaml file; `ajepa recipes` lists them"
    )
    pretrain.add_argument(
        "--skip-broken", action="store_true", help="list unreadable files instead of stopping"
    )
    pretrain.add_argument(
        "--untrained",
        action="store_true",
        help="stop before the first step, with the run's random weights",
    )
    pretrain.set_defaults(run=run_pretrain, takes_rest=True)

    recipes = commands.add_parser("recipes", help="list the packaged recipes, or print one")
    recipes.add_argument("name", nargs="?", help="print this recipe with all its values")
    recipes.set_defaults(run=run_recipes)


def run_pretrain(options: argparse.Namespace) -> None:
    """`ajepa pretrain`."""
    from ajepa.recipes import load_recipe
    from ajepa.training.loop import pretrain

    overrides = options.rest + (["--data.skip_broken=true"] if options.skip_broken else [])
    path = pretrain(load_recipe(options.recipe, overrides), options.untrained)
    if options.untrained:
        print(f"{path}: the run's random weights; load them with ajepa.load_model({str(path)!r})")
    else:
        print(f"{path}: the finished encoder; load it with ajepa.load_model({str(path.parent)!r})")


def run_recipes(options: argparse.Namespace) -> None:
    """`ajepa recipes`."""
    from ajepa.recipes import dump_recipe, load_recipe, recipe_names

    print(dump_recipe(load_recipe(options.name)) if options.name else "\n".join(recipe_names()))
