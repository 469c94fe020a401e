"""Makes text from files and users safe to show, and guesses what was meant."""

import difflib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from utils.errors import ConfigError

CELL = 40  # characters of a name in a table
LONGEST_GUESS = 100  # characters of a word for which another is looked for


def visible(text: str, limit: int = 2000) -> str:
    """`text` in one line of at most `limit` characters, with all control characters as visible escapes.

    Runs of white space become one space. Control characters, lone surrogates, bidirectional marks and the like become
    \\x1b, \\u202e and so on.
    """
    line = escaped(" ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 4] + " ..."


def unfit_character(text: str) -> str | None:
    """The first character that ends a line, that a terminal acts on, or that no name of a file can have, in words such
    as "the control character \\n"; None if `text` has none.

    The surrogates from U+DC80 to U+DCFF stand for the bytes of a name that is not UTF-8; no other one has a meaning.
    """
    for char in text:
        category = unicodedata.category(char)
        if category in ("Cc", "Zl", "Zp") or (category == "Cs" and not "\udc80" <= char <= "\udcff"):
            return f"the {'' if category == 'Cs' else 'control '}character {escaped(char)}"
    return None


def one_line(text: str, what: str) -> str:
    """`text` itself, which goes into a script, a command line or a log. Raises ConfigError for an `unfit_character`:
    text after a newline could be run as a command."""
    found = unfit_character(text)
    if found is not None:
        raise ConfigError(f"{what} must not hold {found}: {text!r}")
    return text


FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the last four are wide forms of the first four


def csv_cell(value: object) -> object:
    """The form of `value` in a CSV; `value` may be a stranger's text.

    A spreadsheet runs text that starts with =, +, -, @, a tab or a line break as a formula, so such text gets a
    quotation mark in front. Numbers in text do not change.
    """
    if not isinstance(value, str) or not (value.lstrip()[:1] in FORMULA or value[:1] in tuple("\t\r\n")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def as_line(text: str, limit: int) -> str:
    """As `visible`, but spaces stay, and newlines and tabs become escapes."""
    line = escaped(text[: limit + 1])
    return line if len(line) <= limit else line[: limit - 4] + " ..."


def escaped(text: str, but: str = "") -> str:
    """`text` with each unprintable character, except those in `but`, as an escape."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in but else char.encode("unicode_escape").decode("ascii") for char in text
    )


def encodable(text: str) -> str:
    """`text` with each surrogate, which UTF-8 does not have, as an escape; a path that is not UTF-8 has some."""
    return text.encode(errors="backslashreplace").decode()


def first_of(texts: Iterable[str], most: int = 20) -> str:
    """The first `most` texts in one line, each cut to fit into a message, and the number of the others."""
    every = list(texts)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(visible(text, 80) for text in every[:most]) + more


def quoted(names: Iterable[object], most: int = 8) -> str:
    """`first_of` for names, or other values, from a stranger's file: each in quotation marks, or "nothing"."""
    return first_of((repr(visible(_text(name), 60)) for name in names), most) or "nothing"


def _text(name: object) -> str:
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    return text if isinstance(text, str) else f"{type(text).__name__} {text}"


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """The end of a message: the choice that is most like `word`, if any is."""
    if len(word) > LONGEST_GUESS:
        return ""
    close = difflib.get_close_matches(word.lower(), [choice.lower() for choice in choices], n=1, cutoff=0.5)
    if not close:
        return ""
    match = next(choice for choice in choices if choice.lower() == close[0])
    return f"; did you mean {match!r}?"


def shortened(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
