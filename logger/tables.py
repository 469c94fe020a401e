"""The tables of a run: metrics.csv, diagnostics.csv, diverged.json."""

import contextlib
import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from utils.columns import DIAGNOSTIC_COLUMNS, FIRST_COLUMNS, LAST_COLUMN
from utils.errors import FileSystemError
from utils.folder import Folder
from utils.run_files import DIAGNOSTICS_NAME, DIVERGED_NAME, METRICS_NAME
from utils.text import csv_cell

Row = Mapping[str, float]
DiagnosticRow = dict[str, Any]  # keys DIAGNOSTIC_COLUMNS; an integer, a module's path and floats


def columns(history: Sequence[Row]) -> list[str]:
    """The columns of metrics.csv for these epochs."""
    keys = dict.fromkeys(key for row in history for key in row)  # a resumed run may have more metrics than before
    others = [key for key in keys if key not in FIRST_COLUMNS and key != LAST_COLUMN]
    return [*FIRST_COLUMNS, *others, LAST_COLUMN]


def write_csv(folder: Folder, history: Sequence[Row]) -> None:
    """Write metrics.csv of all epochs so far, atomically. Raises FileSystemError.

    It is written from the history each time, not appended to, so that after any crash it agrees with the checkpoint
    that the run resumes from.
    """
    if not history:
        return
    text = io.StringIO()
    names = columns(history)
    csv.writer(text, lineterminator="\n").writerow(map(csv_cell, names))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    for row in history:
        writer.writerow({key: value if key == "epoch" else f"{value:.8g}" for key, value in row.items()})
    folder.write(METRICS_NAME, text.getvalue().encode())


def write_divergence(folder: Folder, epoch: int, step: int) -> None:
    """Write diverged.json: where the loss became NaN or infinite. A failure is ignored: the divergence is the error."""
    with contextlib.suppress(FileSystemError):
        folder.write(DIVERGED_NAME, (json.dumps({"epoch": epoch, "step": step}) + "\n").encode())


def write_diagnostics(folder: Folder, rows: Sequence[DiagnosticRow]) -> None:
    """Write diagnostics.csv of all epochs so far, as `write_csv` does. Raises FileSystemError."""
    if not rows:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DIAGNOSTIC_COLUMNS)
    for row in rows:
        writer.writerow([f"{value:.8g}" if isinstance(value, float) else csv_cell(value) for value in row.values()])
    folder.write(DIAGNOSTICS_NAME, text.getvalue().encode())
