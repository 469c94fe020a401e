"""The rows of a run's tables as a checkpoint holds them.

A row of plain values is dozens of parts of a pickle, and only so many are read. A table is a few, whatever its length.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from utils.columns import DIAGNOSTIC_COLUMNS

_WHOLE, _TEXT = DIAGNOSTIC_COLUMNS[:2]  # the columns that are no floats
_ABSENT = -1  # the bits of a NaN that no arithmetic gives: the row lacks this column


def to_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows as their columns and one tensor (rows, columns). A text is a number, of its place in `texts`.

    The tensor holds the bits of floats: a figure may be NaN, and a tensor of floats in a checkpoint may not.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    texts = list(dict.fromkeys(row[_TEXT] for row in rows if _TEXT in row))
    numbers = {text: number for number, text in enumerate(texts)}
    lines = [[numbers.get(value, value) for value in (row.get(name, 0.0) for name in columns)] for row in rows]
    bits = torch.tensor(lines, dtype=torch.float64).view(torch.int64)
    if short := [at for at, row in enumerate(rows) if len(row) < len(columns)]:
        lacks = torch.tensor([[name not in rows[at] for name in columns] for at in short])
        bits[short] = bits[short].masked_fill(lacks, _ABSENT)
    return {"columns": columns, "texts": texts, "bits": bits}


def to_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that `to_table` was given. Raises any Exception if `table` is not of that form."""
    columns, texts, bits = table["columns"], table["texts"], table["bits"]
    if not columns or bits.dtype != torch.int64:  # rows without columns cost no memory in a file, and some here
        raise ValueError("it is no table")
    rows = [dict(zip(columns, line, strict=True)) for line in bits.view(torch.float64).tolist()]
    for at, place in (bits == _ABSENT).nonzero().tolist():
        del rows[at][columns[place]]
    for row in rows:
        row[_WHOLE] = int(row[_WHOLE])
        if _TEXT in row:
            row[_TEXT] = texts[int(row[_TEXT])]
    return rows
