"""The look of arms in every figure: Okabe and Ito's colours, which the colour-blind tell apart, dashes and marks."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from reporting.runs.run import ARMS
from reporting.statistics.results import Results
from utils.drawing import draw

TITLE = "Results: the paper's experiments, reproduced and re-examined"
Dashes = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Look:
    colour: str
    dashes: Dashes
    mark: str


#: In the order of ARMS.
_LOOKS = (
    Look("#000000", "solid", "o"),
    Look("#E69F00", (0, (5, 1.5)), "s"),
    Look("#009E73", (0, (7, 1.5, 1.5, 1.5)), "^"),
    Look("#D55E00", (0, (1.2, 1.2)), "D"),
    Look("#0072B2", (0, (4, 1.2, 1, 1.2, 1, 1.2)), "v"),
    Look("#56B4E9", "solid", "P"),
    Look("#CC79A7", (0, (5, 1.5)), "X"),
    Look("#7F6A00", (0, (1.2, 1.2)), "<"),
    Look("#777777", (0, (7, 1.5, 1.5, 1.5)), ">"),
)
_MORE_MARKS = ("*", "p", "h", "d", "8", "H", "1", "2", "3", "4")

_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "report",  # ids by content, not at random
    "svg.fonttype": "none",  # text as text: small, and the reader's machine can search it
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "axes.grid": True,
    "xtick.bottom": False,  # the grid shows where the numbers stand
    "ytick.left": False,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.2,
}
#: Inches. Two panels side by side in it are still readable on a phone.
WIDTH = 4.3
MOST_PANELS = 120
MARKS = 6  # on a line, at the most


def looks(results: Results) -> dict[str, Look]:
    """The look of each arm. An unknown arm takes the colour of a known arm that is absent, with another mark."""
    arms = results.asked_arms
    known = dict(zip(ARMS, _LOOKS, strict=False))
    spare = [look for arm, look in reversed(known.items()) if arm not in arms] or list(_LOOKS)
    others = [arm for arm in arms if arm not in known]
    made = (replace(look, mark=mark) for look, mark in zip(cycle(spare), cycle(_MORE_MARKS), strict=False))
    return {arm: known[arm] for arm in arms if arm in known} | dict(zip(others, made, strict=False))


def label(arm: str) -> str:
    """The label of an arm in a legend; matplotlib leaves out labels that begin with an underscore."""
    return f" {arm}" if arm.startswith("_") else arm


def svg(height: float, paint: Callable[[Any], None]) -> str:
    """The figure that `paint` draws as SVG; its bytes depend neither on the time nor on the user's style."""
    metadata = {"Date": None, "Creator": None, "Title": TITLE}
    return shortened(draw(paint, (WIDTH, height), "svg", _SETTINGS, metadata=metadata).decode())


def panels(figure: Any, rows: int, columns: int, **options: Any) -> Any:
    """A matplotlib grid of axes. Raises ValueError if it would be too large to draw or to read."""
    if rows * columns > MOST_PANELS:
        raise ValueError(f"{rows * columns:,} panels are more than one picture holds ({MOST_PANELS})")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        axes.locator_params(nbins=4, steps=[1, 2, 5, 10])
    return grid


def legend(figure: Any, *panels: Any) -> None:
    """Add one legend above all panels, with every arm that a panel shows, in order from left to right."""
    shown: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(name, handle)
    columns = 2 if len(shown) in (2, 4) else min(3, len(shown))
    by_column = [name for first in range(columns) for name in list(shown)[first::columns]]  # as matplotlib fills it
    figure.legend(
        [shown[name] for name in by_column],
        by_column,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        handlelength=3.2,
        columnspacing=1.2,
    )


def shortened(text: str) -> str:
    """The SVG in a third of its size: short numbers and ids, each style once, nothing that nobody needs.

    What stands between the tags, which is text, does not change.
    """
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = _without_bare_groups(re.sub(_TAG, _short_tag, text))
    count = Counter(re.findall(rf"<[^>]+{_STYLE}", text))
    styles = {style: f"s{number}" for number, style in enumerate(style for style in count if count[style] > 1)}
    ids = {name: f"i{number}" for number, name in enumerate(re.findall(r'<[^>]+ id="([^"]*)"', text))}

    def named(tag: re.Match[str]) -> str:
        found = re.sub(r'(?<= id=")\w+|(?<=#)\w+', lambda name: ids.get(name[0], name[0]), tag[0])
        return re.sub(_STYLE, lambda style: f' class="{styles[style[1]]}"' if style[1] in styles else style[0], found)

    text = re.sub(_TAG, named, text)
    rules = "".join(f".{name}{{{style}}}" for style, name in styles.items())
    text = text.replace("</style>", f"{rules}</style>", 1)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"


_TAG, _STYLE = r"<[^>]+>", r' style="([^"]*)"'
_FONT = "'DejaVu Sans'"
_FONTS = f"{_FONT},Verdana,sans-serif"  # the second is as wide as the first, which phones lack


def _short_tag(tag: re.Match[str]) -> str:
    """A tag with numbers to a tenth of a point, or to a hundredth if they are small, as those of marks are."""

    def rounded(number: re.Match[str]) -> str:
        value = float(number[0])
        return f"{value:.{1 if abs(value) >= 10 else 2}f}".rstrip("0").rstrip(".")

    text = re.sub(r"-?\d+\.\d{2,}", rounded, tag[0])
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(?<=[A-Za-z]) | ?\n| (?=-)", "", path[0]), text)
    text = re.sub(_STYLE, lambda style: re.sub(r"(?<=[:;]) ", "", style[0]).replace(_FONT, _FONTS), text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    return re.sub(r'^<g id="[^"]*"', "<g", text)  # paths and clips are referred to by their ids, groups are not


def _without_bare_groups(text: str) -> str:
    """The SVG without groups that have no attribute."""
    kept: list[bool] = []

    def group(tag: re.Match[str]) -> str:
        if tag[0] != "</g>":
            kept.append(tag[0] != "<g>")
            return tag[0] if kept[-1] else ""
        return tag[0] if kept.pop() else ""

    return re.sub(r"<g\b[^>]*(?<!/)>|</g>", group, text)
