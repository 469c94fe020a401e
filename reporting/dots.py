"""Figures of one number a run: robustness to label noise and what becomes of mislabelled training images."""

from collections.abc import Sequence
from typing import Any

from reporting.curves import legend
from reporting.measures import last_test, mean
from reporting.memorisation import PARTS, share
from reporting.results import Results
from reporting.robustness import drop
from reporting.style import look, name, svg

SPACING = 0.13  # between the dots of two arms in one group, a group being 1 wide


def robustness(results: Results) -> str:
    """A row a dataset as SVG: test accuracy by noise level, and the drop from the clean runs, of all arms."""
    datasets = [dataset for dataset in results.datasets if len(results.noises(dataset)) > 1]

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(datasets), 2, squeeze=False)
        for (left, right), dataset in zip(panels, datasets, strict=True):
            _accuracies(left, results, dataset)
            _drops(right, results, dataset)
        legend(figure, *panels.flat)

    return svg(0.9 + 2.3 * len(datasets), draw)


def _accuracies(axes: Any, results: Results, dataset: str) -> None:
    noises, arms = results.noises(dataset), results.arms(dataset)
    for number, arm in enumerate(arms):
        by_level = {noise: results.by_seed(dataset, noise, arm, last_test) for noise in noises}
        points = [(x, list(by_level[noise].values())) for x, noise in enumerate(noises) if by_level[noise]]
        _dots(axes, arm, _offset(number, len(arms)), points, joined=True)
    _levels(axes, noises)
    axes.set_title(f"{dataset}: test accuracy, %")


def _drops(axes: Any, results: Results, dataset: str) -> None:
    noises, arms = results.noises(dataset)[1:], results.arms(dataset)
    for number, arm in enumerate(arms):
        for x, noise in enumerate(noises):
            found = drop(results, dataset, noise, arm)
            if found is None:
                continue
            style, at = look(arm), x + _offset(number, len(arms))
            axes.plot(at, found.mean, color=style.colour, marker=style.mark, markersize=4.5, linestyle="none")
            if found.low is not None:
                axes.plot([at, at], [found.low, found.high], color=style.colour, linewidth=1.2)
    axes.axhline(0.0, color="#777777", linewidth=0.7, zorder=0.5)
    _levels(axes, noises)
    axes.set_title("drop from clean, points, 95 % CI")


def memorisation(results: Results) -> str:
    """Training accuracy of the last epoch as SVG on clean and mislabelled images: a row a dataset and noise level."""
    levels = [(d, n) for d in results.datasets for n in results.noises(d) if _has_parts(results, d, n)]

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(levels), 1, squeeze=False)[:, 0]
        for axes, (dataset, noise) in zip(panels, levels, strict=True):
            arms = results.arms(dataset, noise)
            for number, arm in enumerate(arms):
                found = [list(results.by_seed(dataset, noise, arm, share(column)).values()) for column, _ in PARTS]
                points = [(x, values) for x, values in enumerate(found) if values]
                _dots(axes, arm, _offset(number, len(arms)), points, joined=False)
            axes.set_xticks(range(len(PARTS)), [title.replace(", ", ",\n") for _, title in PARTS])
            axes.set_xlim(-0.5, len(PARTS) - 0.5)
            axes.set_ylim(bottom=0.0)
            axes.set_ylabel("accuracy, %")
            axes.set_title(f"{dataset}, {100 * noise:g} % noise")
        legend(figure, *panels)

    return svg(0.7 + 1.8 * len(levels), draw)


def _has_parts(results: Results, dataset: str, noise: float) -> bool:
    return any(
        results.by_seed(dataset, noise, arm, share(PARTS[0][0])) for arm in results.arms(dataset, noise)
    ) and bool(noise)


def _dots(axes: Any, arm: str, offset: float, points: Sequence[tuple[int, list[float]]], joined: bool) -> None:
    """A mark at the mean over seeds and a line from the least to the greatest."""
    style = look(arm)
    line = {"linestyle": style.dashes if joined else "none", "linewidth": 0.7}
    at = [x + offset for x, _ in points]
    means = [mean(values) for _, values in points]
    axes.plot(at, means, color=style.colour, marker=style.mark, markersize=4.5, label=name(arm), **line)
    for x, values in points:
        axes.plot([x + offset] * 2, [min(values), max(values)], color=style.colour, linewidth=1.2)


def _offset(number: int, count: int) -> float:
    return SPACING * (number - (count - 1) / 2)


def _levels(axes: Any, noises: Sequence[float]) -> None:
    axes.set_xticks(range(len(noises)), [f"{100 * noise:g} %" for noise in noises])
    axes.set_xlim(-0.5, max(len(noises), 1) - 0.5)
    axes.set_xlabel("label noise")
