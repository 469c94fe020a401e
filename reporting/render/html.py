"""Renders the document as one self-contained HTML page: no script, no font, no request; figures are inlined."""

import base64
from html import escape

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

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --page: #fff; --soft: #f3f4f6; --rule: #c9ccd1; --link: #0059a8;
  --faint: #5c6169; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --page: #16181b; --soft: #23262b; --rule: #464b53; --link: #7db8f0;
    --faint: #a3a9b2; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.8rem; line-height: 1.2; }
h2 { font-size: 1.35rem; margin-top: 2.5rem; border-top: 1px solid var(--rule); padding-top: 1rem; }
h3 { font-size: 1.1rem; margin-top: 1.8rem; }
p, li { max-width: 46rem; }
a { color: var(--link); }
code { font: 0.92em/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; background: var(--soft);
  padding: 0.05em 0.25em; border-radius: 3px; }
pre { overflow-x: auto; background: var(--soft); padding: 0.8rem; border-radius: 4px; }
pre code { padding: 0; }
nav ul { columns: 2; padding-left: 1.2rem; }
.table { overflow-x: auto; margin: 0.4rem 0 1.2rem; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
.caption { margin: 1.2rem 0 0.4rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--rule); vertical-align: top; text-align: left; }
th { background: var(--soft); }
.number { text-align: right; white-space: nowrap; }
.lines { white-space: nowrap; }
figure { margin: 1.5rem 0; }
figure img { display: block; width: 100%; max-width: 36rem; height: auto; background: #fff; border-radius: 4px; }
figcaption { max-width: 46rem; margin-top: 0.4rem; font-size: 0.92rem; }
@media (max-width: 40rem) {
  nav ul { columns: 1; }
  th, td { padding: 0.3rem 0.45rem; }
  .figures th:first-child, .figures td:first-child { position: sticky; left: 0; background: var(--page); }
  .words table, .words tbody, .words tr, .words td { display: block; }
  .words thead { display: none; }
  .words tr { padding: 0.5rem 0; border-bottom: 1px solid var(--rule); }
  .words td { padding: 0.1rem 0 0.1rem 1rem; border: 0; }
  .words td:first-child { padding-left: 0; font-weight: 600; }
  .words td:not(:first-child)::before { content: attr(data-column) ": "; color: var(--faint); }
  .words td:has(br)::before { display: block; }
  .words .lines { white-space: normal; }
}
"""


def html(document: Document) -> str:
    """The page; its title is the document's first heading."""
    document = on_the_page(document)
    title = next(block.text for block in document if isinstance(block, Heading))
    parts = [_block(block) for block in document]
    first_section = next(
        (n for n, block in enumerate(document) if isinstance(block, Heading) and block.level == 2), len(parts)
    )
    parts.insert(first_section, _contents(document))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _contents(document: Document) -> str:
    sections = [block for block in document if isinstance(block, Heading) and block.level == 2]
    links = "\n".join(f'<li><a href="#{section.anchor}">{_text(section.text)}</a></li>' for section in sections)
    return f'<nav aria-label="Contents">\n<ul>\n{links}\n</ul>\n</nav>'


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f'<h{block.level} id="{block.anchor}">{_text(block.text)}</h{block.level}>'
        case Paragraph():
            return f"<p>{_text(block.text)}</p>"
        case Bullets():
            return "<ul>\n" + "\n".join(f"<li>{_text(item)}</li>" for item in block.items) + "\n</ul>"
        case Code():
            return f"<pre><code>{escape(block.text)}</code></pre>"
        case Figure():
            # As an image rather than as elements, so that the ids of two figures do not meet in one page.
            picture = base64.b64encode(block.svg.encode()).decode()
            image = f'<img src="data:image/svg+xml;base64,{picture}" alt="{escape(block.alt)}">'
            return f"<figure>\n{image}\n<figcaption>{_text(block.caption)}</figcaption>\n</figure>"
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    # On a phone the first column of figures stays in sight while the others scroll; a row of words becomes a list.
    kind = "words" if table.words_only else "figures"
    head = "".join(_cell("th", column, text, table) for column, text in enumerate(table.header))
    rows = [
        "<tr>" + "".join(_cell("td", column, text, table) for column, text in enumerate(row)) + "</tr>"
        for row in table.rows
    ]
    # The caption stands outside of the box that scrolls, or a wide table would carry it off a phone's screen.
    return (
        f'<p class="caption">{_text(table.caption)}</p>\n'
        f'<div class="table {kind}" tabindex="0" role="region" aria-label="{escape(_bare(table.caption))}">\n'
        "<table>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table>\n</div>"
    )


def _cell(tag: str, column: int, text: str, table: Table) -> str:
    kind = ' class="number"' if column >= table.text_columns else ' class="lines"' if column in table.unbroken else ""
    scope = ' scope="col"' if tag == "th" else ""
    label = f' data-column="{escape(_bare(table.header[column]))}"' if tag == "td" and table.words_only else ""
    return f"<{tag}{scope}{kind}{label}>{_text(text)}</{tag}>"


def _text(text: str) -> str:
    pieces = [f"<code>{escape(piece)}</code>" if code else escape(piece) for code, piece in code_spans(text)]
    return "".join(pieces).replace("\n", "<br>")


def _bare(text: str) -> str:
    return text.replace("`", "")
