"""Draws training curves: loss and accuracy of all arms on train, validation and test, and the change between epochs."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from reporting.figures.style import MARKS, Look, label, legend, looks, panels, svg
from reporting.runs.run import Run
from reporting.statistics.intervals import mean
from reporting.statistics.measures import changes, rate_steps
from reporting.statistics.results import Key, Results

Points = Sequence[tuple[int, float]]  # by epoch
SPLITS = (("train", "training"), ("val", "validation"), ("test", "test"))
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


def stability(results: Results) -> str:
    """The absolute change of test accuracy from epoch to epoch as SVG. Rows: datasets. Columns: noise levels."""
    noises = sorted({key.noise for key in results.cells})
    datasets = [dataset for dataset in results.datasets if results.noises(dataset)]

    def draw(figure: Any) -> None:
        grid = panels(figure, len(datasets), len(noises), sharex="row", sharey="row")
        for row, dataset in enumerate(datasets):
            for column, noise in enumerate(noises):
                axes = grid[row, column]
                if not draw_arms(axes, results, dataset, noise, changes, unfinished=False):
                    axes.text(0.5, 0.5, "no finished run", transform=axes.transAxes, ha="center", va="center")
                axes.set_title(f"{dataset}\n{100 * noise:g} % noise", fontsize=7.0)
                axes.set_ylim(bottom=0.0)
            grid[row, 0].set_ylabel("change, points")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        legend(figure, *grid.flat)

    return svg(0.6 + 1.55 * len(datasets), draw)


def by_epoch(column: str, scale: float) -> Callable[[Run], Points]:
    return lambda run: [(epoch, scale * value) for epoch, value in enumerate(run.column(column), 1)]


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
    spacing = max(1, len(epochs) // MARKS)
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
        low = [min(values[epoch] for values in seeds) for epoch in epochs]
        high = [max(values[epoch] for values in seeds) for epoch in epochs]
        axes.fill_between(epochs, low, high, color=style.colour, alpha=0.16, linewidth=0)
    return means


def loss_limit(losses: Sequence[float]) -> float:
    """The upper limit of the loss panels: the highest loss, except for those far above both the rest and chance."""
    ceiling = max(CUT * statistics.median(losses), CHANCE)
    return 1.05 * max(loss for loss in losses if loss <= ceiling)
