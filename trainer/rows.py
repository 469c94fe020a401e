"""The rows of diagnostics.csv as a checkpoint holds them.

A run has one for each layer and epoch. As plain values they would be dozens of parts of a pickle each, and only so many
parts are read; as a table they are a few, whatever their number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from logger.tables import DiagnosticRow
from utils.columns import DIAGNOSTIC_COLUMNS


def to_table(rows: Sequence[DiagnosticRow]) -> dict[str, Any]:
    """The layers' names, and a tensor (rows, columns) in which a name is its number.

    It holds the bits of the figures: one may be NaN, and a tensor of floats in a checkpoint may not.
    """
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    numbers = {layer: float(number) for number, layer in enumerate(layers)}
    lines = [[numbers.get(value, value) for value in row.values()] for row in rows]
    return {"layers": layers, "bits": torch.tensor(lines, dtype=torch.float64).view(torch.int64)}


def to_rows(table: Mapping[str, Any]) -> list[DiagnosticRow]:
    """The rows that `to_table` was given. Raises any Exception if `table` is not of that form."""
    layers, bits = table["layers"], table["bits"]
    if bits.dtype != torch.int64 or bits.shape[1:] != (len(DIAGNOSTIC_COLUMNS),):
        raise ValueError("it is no table")
    return [
        dict(zip(DIAGNOSTIC_COLUMNS, (int(epoch), layers[int(layer)], *figures), strict=True))
        for epoch, layer, *figures in bits.view(torch.float64).tolist()
    ]
