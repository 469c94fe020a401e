"""Draws the first figure of the report: each statement's differences with their intervals, those of the paper, and the
verdict as a word and a mark."""

import textwrap
from collections.abc import Sequence
from typing import Any

from reporting.figures.style import svg
from reporting.runs.words import percent
from reporting.statistics.statements import FAILS, HOLDS, OPEN, Finding, Level, Statement

INCHES = 0.19  # a row's height
LINE, ABOVE, GAP = 0.85, 1.1, 0.3  # in rows: a line of a statement, the last one above the datasets, between statements
LONGEST = 60  # characters in a line
LEFT, RIGHT = 0.65, 0.8  # room for the datasets and for the verdicts, in widths of what is between them
#: Of a noise level, in the order of the levels: the mark of its difference. The paper's own is a cross.
MARKS = ("o", "s", "^", "D", "v")
VERDICTS = {HOLDS: ("#007A59", "✔"), FAILS: ("#B84A00", "✘"), OPEN: ("#666666", "?")}
PAPER = "#AA4499"


def forest(found: Sequence[Finding]) -> str:
    """A row for each statement and dataset, as SVG, in a panel for each unit."""
    levels = sorted({at.level.noise for finding in found for at in finding.measured})
    marks = dict(zip(levels, MARKS * len(levels), strict=False))
    units = {unit: [f for f in found if f.statement.unit == unit] for unit in (f.statement.unit for f in found)}
    heights = [_height(part) for part in units.values()]

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(units), 1, squeeze=False, height_ratios=heights)
        for axes, (unit, part), height in zip(grid.flat, units.items(), heights, strict=True):
            axes.axvline(0.0, color="#777777", linewidth=0.7, zorder=0.5)
            _rows(axes, part, marks)
            axes.set_ylim(height, -0.6)
            _frame(axes)
            axes.set_xlabel(unit)
        _legend(figure, marks)

    return svg(0.6 + sum(INCHES * height + 0.42 for height in heights), draw)


def _height(found: Sequence[Finding]) -> float:
    lines = [len(_lines(statement)) for statement in {finding.statement for finding in found}]
    return sum(LINE * (count - 1) + ABOVE + GAP for count in lines) + len(found) - 0.4


def _lines(statement: Statement) -> list[str]:
    text = statement.in_brief.replace("`", "").replace(" less ", "\N{NO-BREAK SPACE}less\N{NO-BREAK SPACE}")
    return textwrap.wrap(text, LONGEST)


def _rows(axes: Any, found: Sequence[Finding], marks: dict[float, str]) -> None:
    """Draw each statement and below it its datasets."""
    y = 0.0
    for statement in dict.fromkeys(finding.statement for finding in found):
        for line in _lines(statement):
            text = _text(axes, 0.0, y, line, weight="bold")
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # not crossed by the line at 0
            y += LINE
        y += ABOVE - LINE
        for finding in (finding for finding in found if finding.statement == statement):
            _row(axes, finding, y, marks)
            y += 1.0
        y += GAP


def _text(axes: Any, x: float, y: float, text: str, **options: Any) -> Any:
    """Text that may reach beyond what the layout leaves it. `x` is a share of the width, `y` a row."""
    made = axes.text(x, y, text, transform=axes.get_yaxis_transform(), va="center", **options)
    made.set_in_layout(False)
    return made


def _row(axes: Any, finding: Finding, y: float, marks: dict[float, str]) -> None:
    """Draw the differences of a dataset, its noise levels from the top down, and the verdict."""
    colour, mark = VERDICTS[finding.verdict]
    _text(axes, 0.0, y, finding.dataset)
    _text(axes, 1.0, y, f"{mark} {finding.told}", ha="right", color=colour)
    noises = sorted({at.level.noise for at in finding.measured})
    for at in finding.measured:
        place = y + 0.26 * (noises.index(at.level.noise) - (len(noises) - 1) / 2)
        _difference(axes, at.level, place, marks[at.level.noise], colour, at.verdict != OPEN)


def _difference(axes: Any, level: Level, y: float, mark: str, colour: str, filled: bool) -> None:
    if level.theirs is not None:
        axes.plot(level.theirs, y, color=PAPER, marker="x", markersize=3.5, linestyle="none")
    if level.interval is None:
        return
    if level.interval.low is not None:
        axes.plot([level.interval.low, level.interval.high], [y, y], color=colour, linewidth=0.9)
    face = colour if filled else "white"
    axes.plot(level.interval.mean, y, color=colour, marker=mark, markersize=3.4, linestyle="none", markerfacecolor=face)


def _frame(axes: Any) -> None:
    """Leave room beside the differences: on the left for the datasets, on the right for the verdicts."""
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.margins(x=0.02)
    low, high = axes.get_xlim()
    axes.set_xlim(low - LEFT * (high - low), high + RIGHT * (high - low))
    axes.locator_params(axis="x", nbins=12)
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])


def _legend(figure: Any, marks: dict[float, str]) -> None:
    from matplotlib.lines import Line2D

    shape: dict[str, Any] = {"linestyle": "none", "color": "#000000", "markersize": 3.5}
    lines = [Line2D([], [], marker=mark, label=f"{percent(noise)} noise", **shape) for noise, mark in marks.items()]
    lines.append(Line2D([], [], marker="x", label="the paper's own", **{**shape, "color": PAPER}))
    hollow = {**shape, "markerfacecolor": "white", "marker": "o"}
    lines.append(Line2D([], [], label="hollow: does not decide", **hollow))
    figure.legend(handles=lines, loc="outside upper center", ncols=3, frameon=False, handletextpad=0.4)
