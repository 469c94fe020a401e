"""The report as a list of blocks, from which Markdown and HTML are both made.

Text holds inline code between backticks and nothing else that is marked up. A line break within a table's cell is a
newline.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Heading:
    level: int
    text: str

    @property
    def anchor(self) -> str:
        kept = "".join(char if char.isalnum() else " " for char in self.text.lower())
        return "-".join(kept.split())


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Table:
    """Rows as wide as the header.

    Columns from `text_columns` on hold figures: they are set to the right and their lines are not broken, nor are those
    of the `unbroken` columns.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    unbroken: tuple[int, ...] = ()

    @property
    def words_only(self) -> bool:
        """Whether no column holds figures."""
        return self.text_columns >= len(self.header)

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), self.caption


@dataclass(frozen=True)
class Figure:
    """A picture, its name (of the file, less `.svg`), what a reader who cannot see it is told, and its caption.

    `draw` makes it as SVG, when it is wanted.
    """

    name: str
    draw: Callable[[], str]
    alt: str
    caption: str

    @cached_property
    def svg(self) -> str:
        return self.draw()


Block = Heading | Paragraph | Bullets | Code | Table | Figure
Document = Sequence[Block]


def code_spans(text: str) -> list[tuple[bool, str]]:
    """`text` in pieces, each with whether it is code."""
    return [(number % 2 == 1, piece) for number, piece in enumerate(text.split("`")) if piece]
