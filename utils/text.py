"""Text from files and from users, made fit to be shown."""

CELL = 40  # characters of a name in a table


def visible(text: str, limit: int = 2000) -> str:
    """`text` in one line of at most `limit` characters, with whatever a terminal would act on as a visible escape.

    Runs of white space become one space; control characters, lone surrogates, bidirectional marks and the like become
    \\x1b, \\u202e and so on.
    """
    line = escaped(" ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 4] + " ..."


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
