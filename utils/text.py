"""Text from files and from users, made fit to be shown."""

import unicodedata

from utils.errors import ConfigError

CELL = 40  # characters of a name in a table


def visible(text: str, limit: int = 2000) -> str:
    """`text` in one line of at most `limit` characters, with whatever a terminal would act on as a visible escape.

    Runs of white space become one space; control characters, lone surrogates, bidirectional marks and the like become
    \\x1b, \\u202e and so on.
    """
    line = escaped(" ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 4] + " ..."


def control_character(text: str) -> str | None:
    """The first character of `text` that ends a line or that a terminal acts on, as an escape such as \\n; or None.

    Those are the categories of control characters and of line and paragraph separators.
    """
    for char in text:
        if unicodedata.category(char) in ("Cc", "Zl", "Zp"):
            return char.encode("unicode_escape").decode("ascii")
    return None


def one_line(text: str, what: str) -> str:
    """`text` itself, which ends in a script, a command line or a log. Raises ConfigError if it has a control character,
    for what follows a line's end could be taken for a command."""
    found = control_character(text)
    if found is not None:
        raise ConfigError(f"{what} must not hold the control character {found}: {text!r}")
    return text


FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the last four are the first in their wide forms


def csv_cell(value: object) -> object:
    """What to write into a CSV for `value`, which may be text that is not ours.

    A spreadsheet runs text as a formula that starts with =, +, -, @, a tab or a line break, so it gets a quotation mark
    in front. What reads as a number stays as it is.
    """
    if not isinstance(value, str) or not (value.lstrip()[:1] in FORMULA or value[:1] in tuple("\t\r\n")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def shown(text: str, limit: int) -> str:
    """`visible` for a line whose spaces stay as they are; newlines and tabs become escapes as well."""
    line = escaped(text[: limit + 1])
    return line if len(line) <= limit else line[: limit - 4] + " ..."


def escaped(text: str, but: str = "") -> str:
    """`text` with each character that is not to be seen, and is none of `but`, as an escape."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in but else char.encode("unicode_escape").decode("ascii") for char in text
    )
