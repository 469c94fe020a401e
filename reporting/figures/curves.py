"""Draws training curves: loss and accuracy of all arms on train, validation and test, and the change between epochs."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from reporting.figures.style import MARKS, Look, label, legend, looks, panels, svg
from reporting.runs.run import Run
from reporting.runs.words import percent
from reporting.statistics.intervals import mean
from reporting.statistics.measures import chances, learnt, rate_steps
from reporting.statistics.results import Key, Results

Points = Sequence[tuple[int, float]]  # by epoch
SPLITS = (("train", "training"), ("val", "validation"), ("test", "test"))
MOST_POINTS = 50  # of a band's edge in a long run, and of a line of averages
CUT = 3.0  # losses above so many times the median of all that are drawn leave the panel,
CHANCE = 3.0  # unless they are below this, somewhat above the loss of guessing among ten classes


def curves(results: Results, dataset: str, noise: float) -> str:
    """Six panels as SVG. Rows: train, validation, test. Columns: loss, accuracy."""

    def draw(figure: Any) -> None:
        grid = panels(figure, 3, 2, sharex=True, sharey="col")
        losses: list[float] = []
        for row, (split, title) in enumerate(SPLITS):
            for column, (kind, scale, unit) in enumerate((("loss", 1.0, ""), ("accuracy", 100.0, ", %"))):
                drawn = draw_arms(grid[row, column], results, dataset, noise, by_epoch(f"{split}_{kind}", scale))
                grid[row, column].set_title(f"{title} {kind}{unit}")
                losses += drawn if kind == "loss" else []
        grid[0, 0].set_ylim(0.0, loss_limit(losses))
        grid[0, 1].set_ylim(bottom=0.0)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        legend(figure, grid[0, 0])

    return svg(5.6, draw)


def by_level(results: Results, levels: Sequence[tuple[str, float]], points: Callable[[Run], Points], unit: str) -> str:
    """A panel for each dataset and noise level as SVG, with the points of all arms by epoch."""

    def draw(figure: Any) -> None:
        grid = panels(figure, -(-len(levels) // 2), 2)
        for axes, (dataset, noise) in zip(grid.flat, levels, strict=False):
            draw_arms(axes, results, dataset, noise, points, unfinished=False)
            if points is learnt:
                _draw_chance(axes, results, dataset, noise)
            axes.set_title(f"{dataset}\n{percent(noise)} noise")
            axes.set_ylim(bottom=0.0)
            axes.set_xlabel("epoch")
        for axes in grid[:, 0]:
            axes.set_ylabel(unit)
        for axes in grid.flat[len(levels) :]:
            axes.remove()
        legend(figure, *grid.flat)

    return svg(0.4 + 1.7 * -(-len(levels) // 2), draw)


def _draw_chance(axes: Any, results: Results, dataset: str, noise: float) -> None:
    """Draw in grey how often the arms would hit the given labels by chance, their mean."""
    found: dict[int, list[float]] = {}
    for arm in results.arms(dataset, noise):
        for run in results.runs(dataset, noise, arm):
            for epoch, value in chances(run):
                found.setdefault(epoch, []).append(value)
    epochs = sorted(found)
    means = [mean(found[epoch]) for epoch in epochs]
    axes.plot(epochs, means, color="#999999", linewidth=2.6, linestyle=(0, (1, 0.6)), label="by chance", zorder=2)


def by_epoch(column: str, scale: float) -> Callable[[Run], Points]:
    return lambda run: [(epoch, scale * value) for epoch, value in enumerate(run.column(column), 1)]


def averaged(points: Callable[[Run], Points]) -> Callable[[Run], Points]:
    """Means of as many neighbouring points as it takes to have no more than MOST_POINTS, each at its last epoch."""

    def few(run: Run) -> Points:
        found = points(run)
        width = -(-len(found) // MOST_POINTS)
        groups = [found[first : first + width] for first in range(0, len(found), width)] if found else []
        return [(group[-1][0], mean([value for _, value in group])) for group in groups]

    return few


def draw_arms(
    axes: Any,
    results: Results,
    dataset: str,
    noise: float,
    points: Callable[[Run], Points],
    unfinished: bool = True,
) -> list[float]:
    """Draw the mean of each arm over seeds with a band from the lowest to the highest, and unfinished runs as thin
    lines.

    Vertical lines mark the steps of the learning rate. Returns the means drawn.
    """
    drawn: list[float] = []
    steps: set[int] = set()
    for number, arm in enumerate(results.arms(dataset, noise)):
        runs = results.runs(dataset, noise, arm)
        steps.update(step for run in runs for step in rate_steps(run))
        drawn += _draw_arm(axes, arm, looks(results)[arm], number, [dict(points(run)) for run in runs])
    begun = [(key, run) for key, cell in results.unfinished.items() for run in cell.values()]
    for key, run in begun if unfinished else ():
        if key == Key(dataset, noise, key.arm) and run.epochs:
            style = looks(results)[key.arm]
            name = None if results.runs(*key) else label(key.arm)
            axes.plot(
                *zip(*points(run), strict=True), color=style.colour, ls=style.dashes, lw=0.6, alpha=0.6, label=name
            )
            drawn += [value for _, value in points(run)]
    for step in sorted(steps):
        axes.axvline(step - 0.5, color="#777777", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0.5)
    return drawn


def _draw_arm(axes: Any, arm: str, style: Look, number: int, seeds: list[dict[int, float]]) -> list[float]:
    epochs = sorted(set.intersection(*(set(values) for values in seeds)))
    if not epochs:
        return []
    means = [mean([values[epoch] for values in seeds]) for epoch in epochs]
    spacing = -(-len(epochs) // MARKS)
    axes.plot(
        epochs,
        means,
        color=style.colour,
        linestyle=style.dashes,
        marker=style.mark,
        markevery=(number % spacing, spacing),
        label=label(arm),
        zorder=3 - 0.01 * number,
    )
    if len(seeds) > 1:
        every = -(-len(epochs) // MOST_POINTS)
        edges = sorted({*epochs[::every], epochs[-1]})
        low = [min(values[epoch] for values in seeds) for epoch in edges]
        high = [max(values[epoch] for values in seeds) for epoch in edges]
        axes.fill_between(edges, low, high, color=style.colour, alpha=0.16, linewidth=0)
    return means


def loss_limit(losses: Sequence[float]) -> float:
    """The upper limit of the loss panels: the highest loss, except for those far above both the rest and chance."""
    ceiling = max(CUT * statistics.median(losses), CHANCE)
    return 1.05 * max(loss for loss in losses if loss <= ceiling)
