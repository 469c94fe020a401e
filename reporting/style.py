"""How arms look in every figure: Okabe and Ito's colours, told apart by colour-blind readers, and a dash and a mark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

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
    "figure.constrained_layout.use": True,
}
#: Inches. Two panels side by side in it are still readable on a phone.
WIDTH = 4.3


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """Of each arm. One that is not known here looks like a known one that is not there, with a mark of its own."""
    spare = [look for arm, look in reversed(_LOOKS.items()) if arm not in arms] or list(_LOOKS.values())
    others = [arm for arm in arms if arm not in _LOOKS]
    made = (replace(look, mark=mark) for look, mark in zip(cycle(spare), cycle(_MORE_MARKS), strict=False))
    return {arm: _LOOKS[arm] for arm in arms if arm in _LOOKS} | dict(zip(others, made, strict=False))


def label(arm: str) -> str:
    """For a legend, from which matplotlib leaves out what begins with an underscore."""
    return f" {arm}" if arm.startswith("_") else arm


def svg(height: float, draw: Callable[[Any], None]) -> str:
    """What `draw` draws on a matplotlib figure as SVG, the same bytes each time, whatever the user's own style."""
    import io
    import warnings

    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", _SETTINGS]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # text stays text, and the reader's machine has others
        figure = Figure(figsize=(WIDTH, height))
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _short(buffer.getvalue())


def _short(text: str) -> str:
    """With coordinates to a hundredth of a point instead of a millionth, which halves the file; text stays."""
    import re

    def rounded(tag: re.Match) -> str:
        return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag[0])

    text = re.sub(r"<[^>]+>", rounded, text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
