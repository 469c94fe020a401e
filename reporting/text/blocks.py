"""The blocks of the report, from which both Markdown and HTML are made.

Backticks in a text mark inline code, and there is no other markup. A line break in a table's cell is a newline.
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
    """A table whose rows are as wide as the header.

    Columns from `text_columns` on hold numbers, which are aligned to the right. Their lines are not broken, nor are
    those of the `unbroken` columns.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    unbroken: tuple[int, ...] = ()

    @property
    def words_only(self) -> bool:
        """Whether no column holds numbers."""
        return self.text_columns >= len(self.header)

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), self.caption


@dataclass(frozen=True)
class Figure:
    """A picture with its name (of the file, without `.svg`), its text for readers who cannot see it, and its caption.

    `draw` makes the SVG on first use. A picture that is `apart` is a file for other pages.
    """

    name: str
    draw: Callable[[], str]
    alt: str
    caption: str
    apart: bool = False

    @cached_property
    def svg(self) -> str:
        return self.draw()


Block = Heading | Paragraph | Bullets | Code | Table | Figure
Document = Sequence[Block]


def on_the_page(document: Document) -> Document:
    return [block for block in document if not (isinstance(block, Figure) and block.apart)]


def code_spans(text: str) -> list[tuple[bool, str]]:
    """The pieces of `text`, each with whether it is code."""
    return [(number % 2 == 1, piece) for number, piece in enumerate(text.split("`")) if piece]
