"""Reads run folders: config.json, metrics.csv and, if present, the other files of a run."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from reporting.runs.run import FROM_FILE, NOT_RECORDED, Column, Data, Diagnostics, Run
from reporting.runs.settings import misfit, whole
from reporting.runs.words import LONGEST, plain
from utils import strict_json
from utils.columns import DIAGNOSTIC_COLUMNS, FIRST_COLUMNS, LAST_COLUMN, SPLITS
from utils.errors import DataError
from utils.files import folders_below, read_file
from utils.keys import value_at
from utils.run_files import CONFIG_NAME, DATA_NAME, DIAGNOSTICS_NAME, DIVERGED_NAME, LARGEST_JSON, METRICS_NAME

LARGEST_METRICS, LARGEST_DIAGNOSTICS = 1 << 24, 1 << 26  # bytes
LARGEST_FIGURE = 3.5e38
_T = TypeVar("_T")


class DamagedRun(Exception):
    """A file of a run cannot be read. The message has the reason, not the place."""


def find_runs(folders: list[Path]) -> tuple[list[Run], list[str]]:
    """All run folders in and below `folders`, by path, and warnings about those that are left out.

    Raises:
        DataError: a folder does not exist, or none holds a run that can be read.
    """
    runs: list[Run] = []
    warnings: list[str] = []
    seen: set[Path] = set()
    for number, root in enumerate(folders):
        if not root.is_dir():
            raise DataError(f"there is no folder {root} to look for runs in")
        for folder in _run_folders(root):
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            relative = folder.relative_to(root).as_posix()
            try:
                runs.append(_read_run(number, relative, folder, warnings))
            except DamagedRun as error:
                warnings.append(f"`{plain(relative)}` is left out: {plain(str(error))}.")
    if not runs:
        where = ", ".join(str(folder) for folder in folders)
        why = f"; of those that are there: {warnings[0]}" if warnings else ""
        raise DataError(f"no run in {where}: a run is a folder with {CONFIG_NAME} and {METRICS_NAME}{why}")
    return runs, warnings


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, files in folders_below(root):
        if CONFIG_NAME in files and (METRICS_NAME in files or DIVERGED_NAME in files):
            yield folder


def _read_run(number: int, relative: str, folder: Path, warnings: list[str]) -> Run:
    """Read a run folder. An unreadable file that the report does not need is left out, with a warning.

    Raises:
        DamagedRun: a file that the report needs is unreadable, or labels come from a file and the number of wrong ones
            is unknown.
    """

    def read(reader: Callable[[Path], _T], name: str) -> _T | None:
        try:
            return reader(folder / name) if os.path.lexists(folder / name) else None
        except DamagedRun as error:
            warnings.append(f"The {name} of `{plain(relative)}` is left out: {plain(str(error))}.")
            return None

    config = read_config(folder / CONFIG_NAME)
    diverged = read(read_divergence, DIVERGED_NAME)
    if diverged and not (folder / METRICS_NAME).exists():
        metrics: dict[str, Column] = dict.fromkeys(FIRST_COLUMNS, ())  # it had no whole epoch
    else:
        try:
            metrics = read_metrics(folder / METRICS_NAME)
        except DamagedRun as error:
            raise DamagedRun(f"its {METRICS_NAME} is damaged: {error}") from error
    diagnostics = read(read_diagnostics, DIAGNOSTICS_NAME)
    run = Run(number, relative, config, metrics, diagnostics, read(read_data, DATA_NAME), diverged)
    if run.noise_type == FROM_FILE and (run.data is None or run.data.wrong is None):
        raise DamagedRun(f"its labels come from a file, and it has no {DATA_NAME} that says how many are wrong")
    return run


def read_config(path: Path) -> dict[str, Any]:
    """A run's config as plain values. The values that the report uses have the types in `settings.SETTINGS`.

    Raises:
        DamagedRun: it is unreadable, not JSON, or one of those values is missing or has another type.
    """
    config: dict[str, Any] = _read_json(path, f"{path.name}: ")
    if found := misfit(config):
        setting, value = found
        raise DamagedRun(f"{path.name}: {setting.key} must be {setting.what}, is {json.dumps(value)[:60]}")
    return config


def read_metrics(path: Path) -> dict[str, Column]:
    """The columns by name, without `seconds`: the report must not depend on the machine.

    Raises:
        DamagedRun: a column or an epoch is missing, a row is cut short, or a cell is not a number.
    """
    table = _read_csv(path, FIRST_COLUMNS, LARGEST_METRICS)
    columns = {
        name: tuple(_number(cell, name, line) for line, cell in enumerate(cells, 2))
        for name, cells in table.items()
        if name != LAST_COLUMN
    }
    for name in FIRST_COLUMNS:
        if None in columns[name]:
            raise DamagedRun(f"{name} is empty or not finite in line {columns[name].index(None) + 2}")
    if columns["epoch"] != tuple(range(1, len(columns["epoch"]) + 1)):
        raise DamagedRun("the epochs are not 1, 2, 3 and so on")
    for name, values in columns.items():
        if name.endswith("_accuracy") and any(value is not None and not 0.0 <= value <= 1.0 for value in values):
            raise DamagedRun(f"{name} is not a share between 0 and 1 everywhere")
    return columns


def read_diagnostics(path: Path) -> Diagnostics:
    """The contents of a diagnostics.csv. Raises DamagedRun as `read_metrics` does."""
    table = _read_csv(path, DIAGNOSTIC_COLUMNS, LARGEST_DIAGNOSTICS)
    keys: dict[tuple[int, str], int] = {}  # with the row that has the figures
    for row, (cell, layer) in enumerate(zip(table["epoch"], table["layer"], strict=True)):
        epoch = _number(cell, "epoch", row + 2)
        if epoch is None or epoch != int(epoch):
            raise DamagedRun(f"no epoch in line {row + 2}")
        keys[int(epoch), layer] = row
    values = {
        name: {key: _number(table[name][row], name, row + 2) for key, row in keys.items()}
        for name in DIAGNOSTIC_COLUMNS[2:]
    }
    epochs = tuple(sorted({epoch for epoch, _ in keys}))
    layers = tuple(dict.fromkeys(layer for _, layer in keys))
    if len(epochs) * len(layers) > 2 * len(keys):  # what is drawn goes through all of both
        raise DamagedRun("most epochs lack most layers")
    return Diagnostics(epochs, layers, values)


def read_data(path: Path) -> Data:
    """The numbers of images and wrong labels in a data.json. Raises DamagedRun: unreadable, not JSON, or numbers
    missing."""
    record = _read_json(path)
    sizes = tuple(value_at(record, ("images", name)) for name in SPLITS)
    if not all(map(whole(1), sizes)):
        raise DamagedRun(f"images has not a number for each of {', '.join(SPLITS)}")
    wrong = value_at(record, ("wrong_labels", "train"))
    if wrong is not None and not whole(0, sizes[0])(wrong):
        raise DamagedRun("wrong_labels has more or less than there can be")
    environments = _list_of(record, "environments")
    changed = (value_at(environment, ("changed",)) for environment in environments)
    return Data(
        sizes,
        wrong,
        tuple(dict.fromkeys(map(_place, environments))),
        len(_list_of(record, "classes")) or None,
        str(value_at(record, ("sha256",)) or ""),
        value_at(record, ("from_python",)) is True,
        tuple(sorted({key for found in changed if isinstance(found, dict) for key in found})),
    )


def _list_of(record: Any, key: str) -> list[Any]:
    found = value_at(record, (key,))
    return found if isinstance(found, list) else []


def _place(environment: Any) -> tuple[str, str]:
    """Device and torch in words, and the code; threads are left out, as they differ too often and change little."""
    values = (value_at(environment, (key,)) for key in ("device", "torch", "code"))
    device, torch, code = (NOT_RECORDED if value is None else plain(str(value))[:LONGEST] for value in values)
    return f"{device}, torch {torch}", code


def read_divergence(path: Path) -> int:
    """The epoch in which a run's loss became NaN or infinite.

    Raises:
        DamagedRun: the file is unreadable, not JSON, or has no epoch.
    """
    epoch: int = value_at(_read_json(path), ("epoch",))
    if not whole(1)(epoch):
        raise DamagedRun("it has no epoch")
    return epoch


def _read_json(path: Path, where: str = "") -> Any:
    try:
        return strict_json.loads(read_file(path, LARGEST_JSON).decode("utf-8-sig"))
    except OSError as error:
        raise DamagedRun(where + (error.strerror or str(error))) from error
    except ValueError as error:
        raise DamagedRun(f"{where}not JSON: {error}") from error


def _read_csv(path: Path, required: tuple[str, ...], limit: int) -> dict[str, list[str]]:
    """The cells of each column."""
    try:
        text = read_file(path, limit).decode("utf-8-sig")
    except OSError as error:
        raise DamagedRun(error.strerror or str(error)) from error
    except ValueError as error:
        raise DamagedRun("it is no UTF-8 text") from error
    columns: list[list[str]] = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        names = next(reader, [])
        missing = [name for name in required if name not in names]
        if missing:
            raise DamagedRun(f"it has no column {missing[0]}")
        columns = [[] for _ in names]
        for line, row in enumerate((row for row in reader if row), 2):
            if len(row) != len(names):
                raise DamagedRun(f"line {line} has not as many cells as the header")
            for column, cell in zip(columns, row, strict=True):
                column.append(cell)
    except csv.Error as error:
        raise DamagedRun(str(error)) from error
    if not columns[0]:
        raise DamagedRun("it has no row")
    return dict(zip(names, columns, strict=True))


def _number(text: str, name: str, line: int) -> float | None:
    """The number in a cell; None if the cell is empty or its value is not finite in float32, in which runs compute."""
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise DamagedRun(f"{name} in line {line} is {text[:20]!r}, not a number") from error
    return value if abs(value) < LARGEST_FIGURE else None
