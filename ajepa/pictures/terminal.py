"""A run's progress in a terminal, by rich: what `ajepa watch` shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from .curves import curve, panels
from .progress import Progress, duration, warnings

LEVELS, ASCII_LEVELS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
STYLES = {"starting": "cyan", "running": "green", "stopped": "yellow", "finished": "bold green"}
FEWEST, MOST = 8, 60  # letters of a sparkline


def view(progress: Progress) -> RenderableType:
    """A run at one moment: how far it is, its gauges, and what looks wrong."""
    parts: list[RenderableType] = [_head(progress), _advance(progress)]
    parts.append(_gauges(progress) if progress.rows else Text("no line of metrics yet", style="dim"))
    parts += [_warning(text) for text in warnings(progress)]
    return Group(*parts)


def _head(progress: Progress) -> RenderableType:
    recipe, latest = progress.recipe, progress.starts[-1] if progress.starts else {}
    facts = [recipe.name, recipe.objective.title]
    if files := latest.get("data", {}).get("files"):
        facts.append(f"{files:,} clips")
    if device := latest.get("device"):
        facts.append(str(device))
    if len(progress.starts) > 1:
        facts.append(f"started {len(progress.starts)} times")
    title = Text.assemble((progress.name, "bold"), "  ", (progress.state, STYLES[progress.state]))
    return Group(Rule(title, align="left", style="dim"), Text(", ".join(facts), style="dim"))


def _advance(progress: Progress) -> RenderableType:
    steps = progress.recipe.optim.steps
    facts = []
    if progress.clips_per_s:
        facts.append(f"{progress.clips_per_s:.1f} clips/s")
    if progress.seconds_trained:
        facts.append(f"trained {duration(progress.seconds_trained)}")
    if progress.state == "running":
        if progress.seconds_left is not None:
            facts.append(f"{duration(progress.seconds_left)} left")
        facts.append(f"last line {duration(progress.silent)} ago")
    share = min(1.0, progress.step / steps)
    grid = Table.grid(padding=(0, 1))
    place = Text(f"{share:.0%}, step {progress.step:,} of {steps:,}")
    grid.add_row(ProgressBar(total=1.0, completed=share, width=30), place)
    return Padding(Group(grid, Text(", ".join(facts))), (0, 0, 1, 0))


def _gauges(progress: Progress) -> Table:
    """First and latest value of each gauge, and its course."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("gauge", overflow="fold")
    table.add_column("first", justify="right", min_width=8, style="dim", no_wrap=True, overflow="crop")
    table.add_column("now", justify="right", min_width=8, style="bold", no_wrap=True, overflow="crop")
    table.add_column("course", min_width=FEWEST)
    for metric, panel in panels().items():
        _, values = curve(progress.rows, metric)
        if values:
            latest = next(row[metric] for row in reversed(progress.rows) if metric in row)
            table.add_row(panel.title, _number(values[0]), _number(latest), Sparkline(values))
    if progress.rows and "lr" in progress.rows[-1]:
        _, rates = curve(progress.rows, "lr")
        table.add_row("learning rate", _number(rates[0]), _number(progress.rows[-1]["lr"]), Sparkline(rates))
    return table


def _warning(text: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("!", style="bold yellow"), Text(text, style="yellow"))
    return Padding(grid, (1, 0, 0, 0))


class Sparkline:
    """A curve in one line of text, as wide as there is room: each letter is the mean of its part."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(FEWEST, max(FEWEST, min(MOST, options.max_width)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        levels = ASCII_LEVELS if options.ascii_only else LEVELS
        yield Text(sparkline(self.values, max(FEWEST, min(MOST, options.max_width)), levels), style="cyan")


def sparkline(values: Sequence[float], width: int, levels: str = LEVELS) -> str:
    """The values as letters between their lowest and their highest.

    >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8)
    '▁▂▃▄▅▆▇█'
    """
    count = min(width, len(values))
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[math.floor((mean - low) * scale + 0.5)] for mean in means)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
