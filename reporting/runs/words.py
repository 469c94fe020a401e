"""Formats the words of runs for the report."""

from collections.abc import Sequence

LONGEST = 250  # characters of a name, which is that of a folder


def plain(text: str) -> str:
    """`text` for a sentence or a figure: one printable line, without the marks of inline code and formulas."""
    return " ".join("".join(char if char.isprintable() and char not in "`$" else " " for char in text).split())


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def listed(words: list[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def first_of(words: Sequence[str], count: int, between: str = ", ") -> str:
    """The first `count` of `words`, and the number of the others."""
    more = f"{between.replace(',', '')}and {len(words) - count} more" if len(words) > count else ""
    return between.join(words[:count]) + more


def spans(numbers: Sequence[int]) -> str:
    """Whole numbers in order, neighbours as a span: `12, 15 to 17`."""
    groups: list[list[int]] = []
    for value in sorted(numbers):
        if groups and value == groups[-1][-1] + 1:
            groups[-1].append(value)
        else:
            groups.append([value])
    return ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups)
