"""Draws one number for each run: robustness to label noise."""

from collections.abc import Sequence
from typing import Any

from reporting.figures.style import Look, label, legend, looks, panels, svg
from reporting.statistics.intervals import mean
from reporting.statistics.measures import last_test
from reporting.statistics.results import Results
from reporting.statistics.robustness import drop

SPACING = 0.13  # between the dots of two arms in one group, a group being 1 wide


def robustness(results: Results) -> str:
    """Test accuracy by noise level and its drop from the clean runs, as SVG, of all arms. Rows: datasets."""
    datasets = [dataset for dataset in results.datasets if len(results.noises(dataset)) > 1]

    def draw(figure: Any) -> None:
        grid = panels(figure, len(datasets), 2)
        for (left, right), dataset in zip(grid, datasets, strict=True):
            _accuracies(left, results, dataset)
            _drops(right, results, dataset)
        legend(figure, *grid.flat)

    return svg(0.4 + 2.1 * len(datasets), draw)


def _accuracies(axes: Any, results: Results, dataset: str) -> None:
    noises, arms = results.noises(dataset), results.arms(dataset)
    for number, arm in enumerate(arms):
        found = [results.values(dataset, noise, arm, last_test) for noise in noises]
        points = [(x, values) for x, values in enumerate(found) if values]
        _dots(axes, arm, looks(results)[arm], _offset(number, len(arms)), points)
    _levels(axes, noises)
    axes.set_title(f"{dataset}\ntest accuracy, %")


def _drops(axes: Any, results: Results, dataset: str) -> None:
    noises, arms = results.noises(dataset)[1:], results.arms(dataset)
    for number, arm in enumerate(arms):
        for x, noise in enumerate(noises):
            found = drop(results, dataset, noise, arm)
            if found is None:
                continue
            style, at = looks(results)[arm], x + _offset(number, len(arms))
            axes.plot(at, found.mean, color=style.colour, marker=style.mark, markersize=4.5, linestyle="none")
            if found.low is not None:
                axes.plot([at, at], [found.low, found.high], color=style.colour, linewidth=1.2)
    axes.axhline(0.0, color="#777777", linewidth=0.7, zorder=0.5)
    _levels(axes, noises)
    axes.set_title(f"{dataset}\ndrop, points, and 95 % CI")


def _dots(axes: Any, arm: str, style: Look, offset: float, points: Sequence[tuple[int, list[float]]]) -> None:
    """Draw a mark at the mean over seeds and a line from the lowest to the highest."""
    at = [x + offset for x, _ in points]
    means = [mean(values) for _, values in points]
    line = {"linestyle": style.dashes, "linewidth": 0.7}
    axes.plot(at, means, color=style.colour, marker=style.mark, markersize=4.5, label=label(arm), **line)
    for x, values in points:
        axes.plot([x + offset] * 2, [min(values), max(values)], color=style.colour, linewidth=1.2)


def _offset(number: int, count: int) -> float:
    return SPACING * (number - (count - 1) / 2)


def _levels(axes: Any, noises: Sequence[float]) -> None:
    axes.set_xticks(range(len(noises)), [f"{100 * noise:g} %" for noise in noises])
    axes.set_xlim(-0.5, max(len(noises), 1) - 0.5)
    axes.set_xlabel("label noise")
