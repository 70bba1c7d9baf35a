"""`ajepa masks`: a recipe's masks in numbers and as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from .usage import UsageError, seed


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    masks = commands.add_parser(
        "masks",
        help="draw a recipe's masks and measure how much they show and hide",
        description="Example: ajepa masks ajepa-small-cpu --out masks.png objective.masking.kind=block. "
        "Keys of the recipe are options, as in `ajepa pretrain`.",
    )
    masks.add_argument("recipe", help="a packaged recipe's name or a .yaml file; `ajepa recipes` lists them")
    masks.add_argument("--out", type=Path, help="picture to write, such as masks.png")
    masks.add_argument(
        "--audio",
        type=Path,
        metavar="FILE",
        help="draw them on the spectrogram of this file, as the recipe's front end makes it",
    )
    masks.add_argument(
        "--start", type=float, default=0.0, metavar="S", help="where its crop begins, in seconds; default: 0"
    )
    masks.add_argument("--json", type=Path, help="write the fractions there too")
    masks.add_argument("--kinds", action="store_true", help="every kind of mask instead of the curriculum")
    masks.add_argument("--seed", type=seed, default=0)
    masks.add_argument("--clips", type=int, default=4, help="clips in the picture")
    masks.add_argument("--draws", type=int, default=4096, help="clips behind each number of the table")
    masks.set_defaults(run=run_masks, takes_rest=True)


def run_masks(options: argparse.Namespace) -> None:
    """`ajepa masks`."""
    from ajepa.files import check_place, write_json
    from ajepa.masking import context_tokens, target_budget
    from ajepa.pictures.files import check_picture
    from ajepa.pictures.masks import cases_by_kind, cases_of, draw_masks, fraction_table, mask_fractions
    from ajepa.pictures.spectrogram import training_crop
    from ajepa.recipes import load_recipe

    if options.out:
        check_picture(options.out)
    if options.json:
        check_place(options.json, "--json")
    for name in ("clips", "draws"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is {getattr(options, name)}, must be at least 1")
    if options.audio and not options.out:
        raise UsageError(f"--audio {options.audio}: there is no picture to draw on it; add --out masks.png")
    if not options.start >= 0:
        raise UsageError(f"--start is {options.start}, must be at least 0")
    recipe = load_recipe(options.recipe, options.rest)
    config = recipe.objective.masking
    if config is None:
        raise UsageError(
            f"{options.recipe}: {recipe.objective.title} hides no patches; choose another recipe"
        )
    crop = training_crop(recipe, options.audio, options.start) if options.audio else None
    grid = recipe.crop_grid
    cases = cases_by_kind(config) if options.kinds else cases_of(config)
    print(
        f"{grid.time} x {grid.freq} patches (time x frequency); a context takes at most "
        f"{context_tokens(config, grid)} of {grid.tokens}, a mask has at most "
        f"{max(target_budget(case.config, grid) for case in cases)} targets\n"
    )
    results = {case.title: mask_fractions(case, grid, options.draws, options.seed) for case in cases}
    print(fraction_table(results))
    if options.json:
        write_json(options.json, {"grid": grid._asdict(), "fractions": results})
    if options.out:
        draw_masks(cases, grid, options.out, clips=options.clips, seed=options.seed, crop=crop)
        print(f"\n{options.out}: {options.clips} clips, {len(cases)} cases")
