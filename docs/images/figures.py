"""Draw the figures of the concept pages.

    python docs/images/figures.py    # a_jepa.png, patches.png, collapse.svg, intervals.svg and load.svg

`collapse.json` holds the metrics of two runs, whose commands are in docs/concepts/collapse.md; `load.json` is
what `benchmarks/load.py` wrote.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from ajepa.data.synthetic.sounds import SOUNDS
from ajepa.features import LogMel
from ajepa.masking import MaskingConfig, sample_masks
from ajepa.nn.grid import PatchGrid

HERE = Path(__file__).parent
RECORDS = HERE.parent / "results"
CONTEXT, TARGET, INK, PALE = "#1b7f5c", "#d9702b", "#26323d", "#e9edf0"
GRID = PatchGrid(time=16, freq=8)
PATCH = 16


def clip() -> np.ndarray:
    """A log-mel clip of 2.56 s, [L, C], made of three synthetic sounds."""
    rng = np.random.default_rng(5)
    samples = np.zeros(41_200, dtype=np.float32)
    for name, start, length in (("bell", 0.0, 1.4), ("siren", 0.5, 1.9), ("dog_bark", 1.3, 1.1)):
        sound = np.asarray(SOUNDS[name](int(length * 16_000), rng), dtype=np.float32)
        samples[int(start * 16_000) :][: len(sound)] += sound
    samples += 0.003 * rng.standard_normal(len(samples)).astype(np.float32)
    return LogMel()(torch.from_numpy(samples)[None])[0, : GRID.time * PATCH].numpy()


def masked() -> tuple[np.ndarray, np.ndarray]:
    """Context and targets of one block mask, [T, F] of bool each."""
    config = MaskingConfig(kind="block", masks_per_clip=1)
    masks = sample_masks(config, GRID, 1, 0, 1, torch.Generator().manual_seed(11))
    context = np.zeros(GRID.tokens, dtype=bool)
    context[masks.context_BMK[0, 0][masks.valid_BMK[0, 0]].numpy()] = True
    shape = (GRID.time, GRID.freq)
    return context.reshape(shape), masks.target_BMN[0, 0].numpy().reshape(shape)


def spectrogram(axes: Axes, clip_LC: np.ndarray, shown_TF: np.ndarray | None = None) -> None:
    """A spectrogram with its grid; patches that are not shown are pale."""
    low, high = np.percentile(clip_LC, [2, 99.7])
    axes.imshow(
        clip_LC.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=low,
        vmax=high,
        extent=(0, 16, 0, 8),
        interpolation="none",
    )
    if shown_TF is not None:
        cells(axes, ~shown_TF, PALE)
    lines(axes)


def cells(axes: Axes, chosen_TF: np.ndarray, colour: str, *, alpha: float = 1.0, hatch: str = "") -> None:
    """Fill the chosen patches."""
    for time, freq in np.argwhere(chosen_TF):
        axes.add_patch(
            Rectangle(
                (time, freq), 1, 1, facecolor=to_rgba(colour, alpha), edgecolor="white", lw=0.3, hatch=hatch
            )
        )


def lines(axes: Axes) -> None:
    """The grid's lines, and no ticks."""
    for place in range(1, GRID.time):
        axes.axvline(place, color="white", lw=0.35)
    for place in range(1, GRID.freq):
        axes.axhline(place, color="white", lw=0.35)
    axes.set(xlim=(0, 16), ylim=(0, 8), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("#9aa5ad")


def box(figure: Figure, where: tuple[float, float, float, float], text: str, colour: str) -> None:
    """A rounded box with white text, in figure coordinates (left, bottom, width, height)."""
    left, bottom, width, height = where
    shape = "round,pad=0.004,rounding_size=0.012"
    figure.add_artist(FancyBboxPatch((left, bottom), width, height, boxstyle=shape, fc=colour, ec="none"))
    figure.text(
        left + width / 2, bottom + height / 2, text, ha="center", va="center", color="white", fontsize=10
    )


def arrow(
    figure: Figure,
    start: tuple[float, float],
    end: tuple[float, float],
    style: str = "-|>",
    colour: str = INK,
    line: str = "-",
) -> None:
    """An arrow in figure coordinates."""
    figure.add_artist(
        FancyArrowPatch(
            start, end, arrowstyle=style, mutation_scale=13, lw=1.4, color=colour, linestyle=line, shrinkB=0
        )
    )


def a_jepa() -> None:
    """The idea: predict the teacher's features of the targets from the context."""
    clip_LC = clip()
    context_TF, target_TF = masked()
    figure = plt.figure(figsize=(11, 3.7), facecolor="white")
    top, bottom, high = 0.57, 0.05, 0.34

    def panel(left: float, base: float, title: str, colour: str = INK) -> Axes:
        axes = figure.add_axes((left, base, 0.185, high))
        axes.set_title(title, fontsize=9.5, color=colour, pad=5)
        return axes

    spectrogram(panel(0.008, top, "context: what is shown", CONTEXT), clip_LC, context_TF)
    whole = panel(0.008, bottom, "whole log-mel spectrogram")
    spectrogram(whole, clip_LC)
    for time, freq in np.argwhere(target_TF):
        whole.add_patch(Rectangle((time, freq), 1, 1, facecolor="none", edgecolor=TARGET, lw=0.9))
    predicted = panel(0.61, top, "predicted features of the targets", TARGET)
    cells(predicted, np.ones_like(target_TF), PALE)
    cells(predicted, target_TF, TARGET, alpha=0.45, hatch="////")
    lines(predicted)
    wanted = panel(0.61, bottom, "the teacher's features of the targets", TARGET)
    cells(wanted, np.ones_like(target_TF), PALE)
    cells(wanted, target_TF, TARGET)
    lines(wanted)

    box(figure, (0.24, top + 0.09, 0.12, 0.17), "context\nencoder", CONTEXT)
    box(figure, (0.43, top + 0.09, 0.115, 0.17), "predictor", "#4b6a88")
    box(figure, (0.24, bottom + 0.09, 0.12, 0.17), "teacher", INK)
    middle, below = top + high / 2, bottom + high / 2
    for start, end, height in (
        (0.198, 0.232, middle),
        (0.367, 0.422, middle),
        (0.552, 0.605, middle),
        (0.198, 0.232, below),
        (0.367, 0.605, below),
    ):
        arrow(figure, (start, height), (end, height))
    arrow(figure, (0.30, top + 0.075), (0.30, bottom + 0.275), colour="#6b7782", line="--")
    figure.text(0.309, 0.485, "moving average\nof the weights", fontsize=8.5, color="#56626c", va="center")
    arrow(figure, (0.4875, 0.54), (0.4875, top + 0.075), colour="#6b7782")
    figure.text(0.4875, 0.50, "positions of the targets", fontsize=8.5, color="#56626c", ha="center")
    figure.text(0.4875, below + 0.03, "no gradient", fontsize=8.5, color="#56626c", ha="center")
    box(figure, (0.868, 0.405, 0.122, 0.17), "loss: their\ndifference", TARGET)
    arrow(figure, (0.80, middle), (0.89, 0.60))
    arrow(figure, (0.80, below), (0.89, 0.38))
    save(figure, "a_jepa.png")


def patches() -> None:
    """Waveform, log-mel spectrogram, patches."""
    clip_LC = clip()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 2.9), width_ratios=(1.35, 1), facecolor="white")
    low, high = np.percentile(clip_LC, [2, 99.7])
    left.imshow(
        clip_LC.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=low,
        vmax=high,
        extent=(0, 256, 0, 128),
        interpolation="none",
    )
    left.set(
        xlabel="L = 256 frames of 10 ms", ylabel="C = 128 mel bands", title="Log-mel spectrogram",
        xticks=range(0, 257, 64), yticks=range(0, 129, 32),
    )  # fmt: skip
    spectrogram(right, clip_LC)
    right.set(
        xlabel="T = 16 steps of 160 ms", ylabel="F = 8", title="N = T·F = 128 patches of 16 frames x 16 bands"
    )
    figure.tight_layout()
    save(figure, "patches.png")


def intervals() -> None:
    """The scores of the bundled encoder, its twins and log-mel statistics, with their intervals."""
    records = json.loads((RECORDS / "default_2026-11-30.json").read_text())
    models = {
        "log-mel statistics": ("log-mel statistics", "#8a949c"),
        "random twin": ("random weights", "#4b6a88"),
        "the default": ("the bundled encoder", TARGET),
    }
    tasks = {"esc10": "ESC-10", "words": "12 words", "speakers": "37 speakers"}
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 2.9), sharey=True, facecolor="white")
    for axes, protocol, title in zip(
        panels,
        ("linear, own output", "linear, own output, mean+std"),
        ("mean over time", "mean and standard deviation over time"),
        strict=True,
    ):
        found = {(r["model"], r["task"]): r for r in records if r["protocol"] == protocol}
        for row, task in enumerate(tasks):
            for place, (model, (label, colour)) in enumerate(models.items()):
                record = found[model, task]
                height = -row - 0.22 * (place - 1)
                axes.plot(record["interval"], [height, height], color=colour, lw=2.2)
                axes.plot(record["score"], height, "o", color=colour, ms=5, label=label if row == 0 else None)
        axes.set(title=title, xlabel="accuracy, linear probe", yticks=[-0.0, -1, -2], xlim=(0.3, 1))
        axes.set_yticklabels(tasks.values())
        axes.grid(axis="x", lw=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    save(figure, "intervals.svg")


def collapse() -> None:
    """Error, spread and rank of two runs, with and without the terms that hold the rank."""
    runs = json.loads((HERE / "collapse.json").read_text())
    titles = {
        "prediction_error": "prediction_error",
        "target_std": "target_std",
        "rankme": "rankme, of 192 dimensions",
    }
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.6), facecolor="white")
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for (run, metrics), colour in zip(runs.items(), (CONTEXT, TARGET), strict=True):
            steps, values = zip(*metrics[name], strict=True)
            axes.plot(steps, values, color=colour, label=run, lw=1.6)
        axes.set(title=title, xlabel="step", ylim=(0, None))
        axes.grid(lw=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False, loc="lower left")
    figure.tight_layout()
    save(figure, "collapse.svg")


def load() -> None:
    """Memory over long work."""
    titles = {"clips": "100,000 clips", "long": "10 hours", "epochs": "1,000 epochs", "runs": "200 runs"}
    figure, axes = plt.subplots(figsize=(6.5, 2.6), facecolor="white")
    for (name, row), colour in zip(
        json.loads((HERE / "load.json").read_text()).items(), (CONTEXT, TARGET, INK, "#7d8ea3"), strict=True
    ):
        seconds, megabytes, _ = zip(*row["curve"], strict=True)
        axes.plot(seconds, megabytes, color=colour, label=titles[name], lw=1.4)
    axes.set(xlabel="seconds", ylabel="MB", ylim=(0, 1000))
    axes.grid(lw=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="upper right")
    figure.tight_layout()
    save(figure, "load.svg")


def save(figure: Figure, name: str) -> None:
    """Write a figure."""
    figure.savefig(HERE / name, dpi=150, metadata={"Date": None} if name.endswith(".svg") else None)
    plt.close(figure)
    print(HERE / name)


if __name__ == "__main__":
    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "ajepa", "hatch.linewidth": 0.4})
    a_jepa()
    patches()
    collapse()
    intervals()
    load()
