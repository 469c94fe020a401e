"""The document as Markdown."""

from reporting.text.blocks import (
    Block,
    Bullets,
    Code,
    Document,
    Figure,
    Heading,
    Paragraph,
    Table,
    code_spans,
    on_the_page,
)

_ESCAPED = {"<": "&lt;", ">": "&gt;", "*": r"\*"}


def markdown(document: Document, figures: str) -> str:
    """`figures` is the folder of the figures, relative to the file."""
    return "\n\n".join(_block(block, figures) for block in on_the_page(document)) + "\n"


def _block(block: Block, figures: str) -> str:
    match block:
        case Heading():
            return "#" * block.level + " " + _text(block.text)
        case Paragraph():
            return _text(block.text)
        case Bullets():
            return "\n".join(f"- {_text(item)}" for item in block.items)
        case Code():
            return f"```\n{block.text}\n```"
        case Figure():
            return f"![{_text(block.alt)}]({figures}/{block.name}.svg)\n\n{_text(block.caption)}"
        case Table():
            return f"{_text(block.caption)}\n\n{_table(block)}"


def _table(table: Table) -> str:
    rule = ["---" if column < table.text_columns else "---:" for column in range(len(table.header))]
    lines = [[_cell(text) for text in row] for row in (table.header, *table.rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def _cell(text: str) -> str:
    return _text(text).replace("|", r"\|").replace("\n", "<br>")


def _text(text: str) -> str:
    return "".join(f"`{piece}`" if code else _escaped(piece) for code, piece in code_spans(text))


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(char, char) for char in text).replace("](", r"]\(")
