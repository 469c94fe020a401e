"""Draws diagnostics.csv: singular values of the layers' transfer matrices, gradient and weight norms."""

from collections.abc import Iterable
from typing import Any

from reporting.figures.style import MARKS, Look, label, legend, looks, panels, svg
from reporting.runs.run import Diagnostics
from reporting.statistics.intervals import mean
from reporting.statistics.measures import GRADIENT, LARGEST, SMALLEST, WEIGHT, over_layers
from reporting.statistics.results import Results


def diagnostics(results: Results, dataset: str, noise: float) -> str:
    """Four panels as SVG, means over seeds: singular values by layer and by epoch, gradient and weight norm."""

    def draw(figure: Any) -> None:
        (layers, epochs), (gradients, weights) = panels(figure, 2, 2)
        for arm in results.arms(dataset, noise):
            runs, style = results.runs(dataset, noise, arm), looks(results)[arm]
            found = [run.diagnostics for run in runs if run.diagnostics]
            if not found:
                continue
            for column in (LARGEST, SMALLEST):
                values = [
                    _seeds_mean(r.diagnostics.values[column].get((r.epochs, layer)) for r in runs if r.diagnostics)
                    for layer in found[0].layers
                ]
                _line(layers, arm, style, list(enumerate(values, 1)), by_layer=True)
                _line(epochs, arm, style, _by_epoch(found, column))
            _line(gradients, arm, style, _by_epoch(found, GRADIENT))
            _line(weights, arm, style, _by_epoch(found, WEIGHT))
        layers.set_title("singular values\nby layer, last epoch")
        layers.set_xlabel("layer, in order")
        epochs.set_title("singular values\nof all layers")
        gradients.set_title("gradient norm")
        weights.set_title("weight norm")
        for axes in (layers, epochs, gradients):
            _log_if_wide(axes)
        for axes in (epochs, gradients, weights):
            axes.set_xlabel("epoch")
        legend(figure, epochs, gradients, weights)

    return svg(4.4, draw)


def _log_if_wide(axes: Any) -> None:
    """Make the axis logarithmic if the values span more than a decade."""
    values = [value for line in axes.get_lines() for value in line.get_ydata() if value > 0.0]
    if values and max(values) > 10.0 * min(values):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")


def _by_epoch(found: list[Diagnostics], column: str) -> list[tuple[int, float | None]]:
    epochs = sorted(set.intersection(*(set(d.epochs) for d in found)))
    return [(epoch, _seeds_mean(over_layers(d, column, epoch) for d in found)) for epoch in epochs]


def _seeds_mean(cells: Iterable[float | None]) -> float | None:
    values = [value for value in cells if value is not None]
    return mean(values) if values else None


def _line(axes: Any, arm: str, style: Look, points: list[tuple[int, float | None]], by_layer: bool = False) -> None:
    """Draw a line; if it runs over layers, it is faint and marks every layer, because neighbours are unrelated."""
    known = [(x, value) for x, value in points if value is not None]
    if not known:
        return
    axes.plot(
        *zip(*known, strict=True),
        color=style.colour,
        linestyle=style.dashes,
        marker=style.mark,
        markevery=1 if by_layer else -(-len(known) // MARKS),
        markersize=2.2 if by_layer else None,
        linewidth=0.4 if by_layer else 1.1,
        label=label(arm),
    )
