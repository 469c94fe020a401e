"""The confusion matrix: its counts, and a picture of bounded size."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.drawing import draw
from utils.text import visible

MOST_NAMED = 30  # classes whose names and counts can be read in one picture
MOST_CELLS = 400  # cells along a side of the picture; with more classes, several share a cell
LISTED = 20  # mistakes listed beside a picture without names
LONGEST = 24  # characters of a class's name in the picture


class Mistake(NamedTuple):
    """`images` images of class `true`, a `share` of that class, were classified as `predicted`."""

    true: str
    predicted: str
    images: int
    share: float

    def __str__(self) -> str:
        names = f"{visible(self.true, LONGEST)} taken for {visible(self.predicted, LONGEST)}"
        return f"{names}: {self.images:,} ({self.share:.0%})"


@dataclass(frozen=True, eq=False)
class Confusion:
    """The pairs of a true and a predicted class that occur, and their counts: int64 (K,) each.

    There are at most as many pairs as images, while a matrix of 20,000 classes has 400 million cells.
    """

    classes: Sequence[str]
    true: Tensor
    predicted: Tensor
    counts: Tensor

    @classmethod
    def of(cls, predicted: Tensor, true: Tensor, classes: Sequence[str]) -> "Confusion":
        """From the classes int64 (N,) of images, on the CPU. A network may have more outputs than there are classes."""
        outputs = max(len(classes), int(predicted.max()) + 1)
        pairs, counts = torch.unique(true * outputs + predicted, return_counts=True)
        return cls(classes, pairs // outputs, pairs % outputs, counts)

    @property
    def images(self) -> Tensor:
        """The number of each class's images: int64 (C,)."""
        return torch.zeros(len(self.classes), dtype=torch.int64).index_add_(0, self.true, self.counts)

    @property
    def right(self) -> Tensor:
        """The number of each class's images that are classified correctly: int64 (C,)."""
        hit = self.true == self.predicted
        return torch.zeros(len(self.classes), dtype=torch.int64).index_add_(0, self.true[hit], self.counts[hit])

    def matrix(self, side: int | None = None) -> Tensor:
        """Counts int64 (C, C), a row for each true class; or (side, side), where neighbouring classes share a cell."""
        side = len(self.classes) if side is None else side
        known = self.predicted < len(self.classes)
        rows, columns = (labels[known] * side // len(self.classes) for labels in (self.true, self.predicted))
        cells = torch.zeros(side * side, dtype=torch.int64).index_add_(0, rows * side + columns, self.counts[known])
        return cells.reshape(side, side)

    def worst(self, limit: int) -> list[Mistake]:
        """The `limit` most frequent mistakes; equally frequent ones are in the order of the classes."""
        wrong = (self.true != self.predicted).nonzero()[:, 0]
        order = wrong[self.counts[wrong].sort(descending=True, stable=True).indices[:limit]]
        totals, names = self.images, dict(enumerate(self.classes))
        return [
            Mistake(names[true], names.get(predicted, f"output {predicted}"), count, count / int(totals[true]))
            for true, predicted, count in torch.stack([self.true, self.predicted, self.counts], 1)[order].tolist()
        ]


def confusion_picture(confusion: Confusion, title: str) -> bytes:
    """A PNG whose colours show the share of each true class (row) that is classified as each class (column).

    Up to MOST_NAMED classes have names and counts in it. With more, the worst mistakes are listed beside the matrix.
    """
    few = len(confusion.classes) <= MOST_NAMED
    side = 2.5 + 0.55 * len(confusion.classes)

    def paint(figure: Any) -> None:
        axes, beside = (figure.subplots(), None) if few else figure.subplots(1, 2, width_ratios=(7, 4))
        counts = confusion.matrix(min(len(confusion.classes), MOST_CELLS))
        share = (counts.double() / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
        edge = len(confusion.classes) - 0.5
        extent = (-0.5, edge, edge, -0.5)
        axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, extent=extent, interpolation="nearest")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(visible(title, 120), fontsize="medium")
        if beside is None:
            _name_and_count(axes, confusion.classes, counts, share)
        else:
            beside.axis("off")
            lines = "\n".join(map(str, confusion.worst(LISTED))) or "none"
            listed = f"The most frequent mistakes\n\n{lines}"
            beside.text(0.0, 1.0, listed, va="top", fontsize=7, linespacing=1.5).set_in_layout(False)

    return draw(paint, (side, side) if few else (11.0, 6.5), "png")


def confusion_table(confusion: Confusion) -> str:
    """The LISTED most frequent mistakes, as a table in Markdown."""
    rows = [
        f"| {_cell(each.true)} | {_cell(each.predicted)} | {each.images:,} | {each.share:.0%} |"
        for each in confusion.worst(LISTED)
    ]
    head = ["| class | taken for | images | share of the class |", "|---|---|---:|---:|"]
    return "\n".join([*head, *rows]) if rows else "no mistake"


def _cell(name: str) -> str:
    """A class's name, which may be a stranger's, as text of a table in Markdown."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~-])", r"\\\1", visible(name, LONGEST))


def _name_and_count(axes: Any, classes: Sequence[str], counts: Tensor, share: Any) -> None:
    names = [visible(name, LONGEST) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row, line in enumerate(counts.tolist()):
        for column, count in enumerate(line):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
            text.set_in_layout(False)  # it lies within its cell
