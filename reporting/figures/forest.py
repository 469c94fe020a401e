"""Draws the first figure of the report: each statement's differences with their intervals, those of the paper, and the
verdict as a word and a mark."""

from collections.abc import Sequence
from typing import Any

from reporting.figures.style import WIDTH, svg
from reporting.runs.words import percent
from reporting.statistics.statements import FAILS, HOLDS, OPEN, Finding, Measured

ROW, HEADING = 1.0, 1.15  # heights, in rows
INCHES = 0.19  # a row's
#: Of a noise level, in the order of the levels: the mark of its difference. The paper's own is a cross.
MARKS = ("o", "s", "^", "D", "v")
VERDICTS = {HOLDS: ("#009E73", "✔ holds"), FAILS: ("#D55E00", "✘ does not hold"), OPEN: ("#777777", "? not decided")}
PAPER = "#CC79A7"


def forest(found: Sequence[Finding]) -> str:
    """A row for each statement and dataset, as SVG. `found` are findings on differences in points."""
    statements = list(dict.fromkeys(finding.statement for finding in found))
    levels = sorted({at.noise for finding in found for at in finding.measured})
    marks = dict(zip(levels, MARKS * len(levels), strict=False))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        y = 0.0
        for statement in statements:
            axes.text(0.0, y, statement.text, transform=axes.get_yaxis_transform(), va="center", weight="bold")
            y += 0.8
            axes.text(
                0.0,
                y,
                statement.measured.replace("`", ""),
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=6.5,
            )
            y += HEADING
            for finding in (finding for finding in found if finding.statement == statement):
                _row(axes, finding, y, marks)
                y += ROW
            y += 0.3
        axes.axvline(0.0, color="#777777", linewidth=0.7, zorder=0.5)
        axes.set_ylim(y, -0.8)
        axes.set_yticks([])
        axes.grid(visible=False, axis="y")
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.margins(x=0.02)
        low, high = axes.get_xlim()
        axes.set_xlim(low - 0.42 * (high - low), high + 0.38 * (high - low))
        axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
        axes.set_xlabel("points of accuracy; bars are 95 % intervals")
        _legend(figure, axes, marks)

    rows = len(found) * ROW + len(statements) * (0.8 + HEADING + 0.3)
    return svg(0.75 + INCHES * rows, draw)


def _row(axes: Any, finding: Finding, y: float, marks: dict[float, str]) -> None:
    """Draw the differences of a dataset, its noise levels from the top down, and the verdict."""
    colour, verdict = VERDICTS[finding.verdict]
    across = axes.get_yaxis_transform()
    axes.text(0.0, y, finding.dataset, transform=across, va="center")
    axes.text(1.0, y, verdict, transform=across, va="center", ha="right", color=colour)
    for number, at in enumerate(finding.measured):
        _difference(axes, at, y + 0.24 * (number - (len(finding.measured) - 1) / 2), marks[at.noise], colour)


def _difference(axes: Any, at: Measured, y: float, mark: str, colour: str) -> None:
    if at.theirs is not None:
        axes.plot(at.theirs, y, color=PAPER, marker="x", markersize=3.5, linestyle="none")
    if at.interval is None:
        return
    face = colour if at.verdict != OPEN else "white"
    if at.interval.low is not None:
        axes.plot([at.interval.low, at.interval.high], [y, y], color=colour, linewidth=0.9)
    axes.plot(at.interval.mean, y, color=colour, marker=mark, markersize=3.2, linestyle="none", markerfacecolor=face)


def _legend(figure: Any, axes: Any, marks: dict[float, str]) -> None:
    from matplotlib.lines import Line2D

    shape: dict[str, Any] = {"linestyle": "none", "color": "#000000", "markersize": 3.5}
    lines = [Line2D([], [], marker=mark, label=f"{percent(noise)} noise", **shape) for noise, mark in marks.items()]
    lines.append(Line2D([], [], marker="x", label="the paper's own", **{**shape, "color": PAPER}))
    hollow = {**shape, "markerfacecolor": "white", "marker": "o"}
    lines.append(Line2D([], [], label="hollow: this level alone decides nothing", **hollow))
    figure.legend(handles=lines, loc="outside upper center", ncols=3 if WIDTH < 5 else 5, frameon=False, fontsize=6.5)
