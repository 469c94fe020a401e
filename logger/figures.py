"""Pictures of a run's results."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def confusion_figure(matrix: Tensor, classes: Sequence[str], title: str) -> Any:
    """A matplotlib figure of counts (C, C), true class by row: shares of the row as colour, counts as text."""
    from matplotlib.figure import Figure

    size = 2.5 + 0.55 * len(classes)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    share = (matrix.double() / matrix.sum(1, keepdim=True).clamp(min=1)).numpy()
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    for row in range(len(classes)):
        for column in range(len(classes)):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(matrix[row, column])), ha="center", va="center", color=colour, fontsize=8)
    return figure
