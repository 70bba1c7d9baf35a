"""`ajepa visualize`: what a predictor knows of a region that the encoder did not see."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .usage import UsageError, seed


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    visualize = commands.add_parser(
        "visualize",
        help="draw spectrograms from A-JEPA's predictions with a diffusion decoder",
        description="Draw what A-JEPA's predictor knows of hidden regions (section 4.4 of the paper). "
        "A small diffusion decoder is trained on the frozen predictor first, which takes minutes to hours. "
        "The decoder is kept: the same command continues its training, or uses it. Needs diffusers: "
        "pip install 'ajepa[viz]'.",
    )
    visualize.add_argument(
        "--model", type=Path, required=True, help="a run's folder, or one of its training checkpoints"
    )
    visualize.add_argument(
        "--audio", type=Path, required=True, help="the clip to show; its loudest crop is used"
    )
    visualize.add_argument(
        "--out", type=Path, required=True, help="folder for figure.png, sounds and numbers"
    )
    visualize.add_argument(
        "--decoder", type=Path, help="folder of the decoder; default: decoder/ in the run's folder"
    )
    visualize.add_argument("--data", help="audio to train the decoder on; default: the run's own")
    visualize.add_argument(
        "--steps", type=int, default=4000, help="training steps of the decoder; default: 4000"
    )
    visualize.add_argument("--positions", type=int, default=3, help="regions in the figure; default: 3")
    visualize.add_argument("--samples", type=int, default=4, help="samples for each region; default: 4")
    visualize.add_argument(
        "--judge",
        metavar="DATA",
        help="audio that the decoder has not seen: measure whether samples differ more between regions than "
        "between seeds, and whether they are nearer to the truth than with another clip's prediction",
    )
    visualize.add_argument(
        "--judge-clips", type=int, default=64, metavar="N", help="clips of --judge to use; default: 64"
    )
    visualize.add_argument("--seed", type=seed, default=0, help="seed of regions and contexts; default: 0")
    visualize.set_defaults(run=run_visualize)


def run_visualize(options: argparse.Namespace) -> None:
    """`ajepa visualize`."""
    for name, least in (("steps", 1), ("positions", 1), ("samples", 1), ("judge_clips", 2)):
        if (value := getattr(options, name)) < least:
            raise UsageError(f"--{name.replace('_', '-')} is {value}, must be at least {least}")
    if not options.audio.is_file():
        raise UsageError(f"--audio {options.audio}: no such file")
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out}: is a file; name a folder")

    from ajepa.audio import load
    from ajepa.pictures.loudest import loudest
    from ajepa.visualize.draw import draw_samples, write_drawing
    from ajepa.visualize.judge import judge
    from ajepa.visualize.predicted import Predicted, VisualizeError
    from ajepa.visualize.training import Training, crops_of, train_decoder

    predicted = Predicted.load(options.model)
    run = options.model if options.model.is_dir() else options.model.parent.parent
    recipe, source = predicted.recipe, options.data or predicted.recipe.data.source
    waveform_S = load(options.audio, seconds=30.0, sample_rate=recipe.front_end.sample_rate)
    crop_S = loudest(waveform_S, recipe.crop_samples)
    judged_BS = crops_of(predicted, options.judge, options.judge_clips) if options.judge else None

    def report(step: int, loss: float) -> None:
        print(f"decoder, step {step} of {options.steps}: loss {loss:.4f}", file=sys.stderr)

    settings = Training(steps=options.steps)
    if not source:
        raise VisualizeError(
            f"{options.model}: its recipe names no audio; give --data to train the decoder on"
        )
    decoder = train_decoder(predicted, source, options.decoder or run / "decoder", settings, report)
    drawn = draw_samples(
        predicted, decoder, crop_S, positions=options.positions, seeds=options.samples, seed=options.seed
    )
    verdict = judge(predicted, decoder, judged_BS) if judged_BS is not None else None
    about = {"model": str(options.model), "recipe": recipe.name, "decoder_steps": options.steps}
    write_drawing(predicted, drawn, options.out, clip=options.audio.name, verdict=verdict, about=about)
    if verdict:
        low, high = verdict.interval
        print(
            f"{verdict.clips} clips that the decoder has not seen\n"
            f"samples for two regions differ by   {verdict.between_positions:.3f}\n"
            f"samples of two seeds differ by      {verdict.between_seeds:.3f}\n"
            f"within the region, from the truth   {verdict.to_truth:.3f}\n"
            f"with another clip's prediction      {verdict.to_truth_shuffled:.3f} "
            f"(farther by {low:.3f} to {high:.3f}, 95 %; own is nearer for {verdict.nearer:.0%})\n"
            f"the means in place of samples       {verdict.mean_to_truth:.3f} and "
            f"{verdict.mean_to_truth_shuffled:.3f}"
        )
    print(f"{options.out / 'figure.png'}; `ajepa report {options.out} --out report.html` shows and plays it")
