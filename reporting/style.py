"""How arms look in every figure: Okabe and Ito's colours, told apart by colour-blind readers, and a dash and a mark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from reporting.marks import TITLE
from utils.drawing import draw

Dashes = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Look:
    colour: str
    dashes: Dashes
    mark: str


_LOOKS = {
    "bn": Look("#000000", "solid", "o"),
    "conv": Look("#E69F00", (0, (5, 1.5)), "s"),
    "bncn": Look("#009E73", (0, (7, 1.5, 1.5, 1.5)), "^"),
    "conv_published": Look("#D55E00", (0, (1.2, 1.2)), "D"),
    "bncn_published": Look("#0072B2", (0, (4, 1.2, 1, 1.2, 1, 1.2)), "v"),
    "gn": Look("#56B4E9", "solid", "P"),
    "ln": Look("#CC79A7", (0, (5, 1.5)), "X"),
    "in": Look("#7F6A00", (0, (1.2, 1.2)), "<"),
    "none": Look("#777777", (0, (7, 1.5, 1.5, 1.5)), ">"),
}
_MORE_MARKS = ("*", "p", "h", "d", "8", "H", "1", "2", "3", "4")

_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "report",  # ids by content, not at random
    "svg.fonttype": "none",  # text as text: small, and the reader's machine can search it
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8.0,
    "axes.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.2,
}
#: Inches. Two panels side by side in it are still readable on a phone.
WIDTH = 4.3
MOST_PANELS = 120


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """Of each arm. One that is not known here looks like a known one that is not there, with a mark of its own."""
    spare = [look for arm, look in reversed(_LOOKS.items()) if arm not in arms] or list(_LOOKS.values())
    others = [arm for arm in arms if arm not in _LOOKS]
    made = (replace(look, mark=mark) for look, mark in zip(cycle(spare), cycle(_MORE_MARKS), strict=False))
    return {arm: _LOOKS[arm] for arm in arms if arm in _LOOKS} | dict(zip(others, made, strict=False))


def label(arm: str) -> str:
    """For a legend, from which matplotlib leaves out what begins with an underscore."""
    return f" {arm}" if arm.startswith("_") else arm


def svg(height: float, paint: Callable[[Any], None]) -> str:
    """What `paint` draws on a matplotlib figure as SVG, the same bytes each time, whatever the user's own style."""
    metadata = {"Date": None, "Creator": None, "Title": TITLE}
    return _short(draw(paint, (WIDTH, height), "svg", _SETTINGS, metadata=metadata).decode())


def panels(figure: Any, rows: int, columns: int, **options: Any) -> Any:
    """A matplotlib grid of axes. Raises ValueError where it would be too large to draw or to read."""
    if rows * columns > MOST_PANELS:
        raise ValueError(f"{rows * columns:,} panels are more than one picture holds ({MOST_PANELS})")
    return figure.subplots(rows, columns, squeeze=False, **options)


def _short(text: str) -> str:
    """With coordinates to a hundredth of a point instead of a millionth, which halves the file; text stays."""
    import re

    def rounded(tag: re.Match[str]) -> str:
        return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag[0])

    text = re.sub(r"<[^>]+>", rounded, text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
