"""Reading run folders: config.json, metrics.csv and, where they are there, the other files of a run."""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from reporting.runs import FROM_FILE, REQUIRED, Column, Data, Diagnostics, Run, plain, value_at
from utils import strict_json
from utils.errors import DataError
from utils.run_files import CONFIG_NAME, DATA_NAME, DIAGNOSTICS_NAME, DIVERGED_NAME, METRICS_NAME

SPLITS = ("train", "val", "test")
DIAGNOSTIC_COLUMNS = ("largest_singular_value", "smallest_singular_value", "gradient_norm", "weight_norm")
_T = TypeVar("_T")


class DamagedRun(Exception):
    """A file of a run cannot be read; the message says what is wrong, not where."""


def find_runs(folders: list[Path]) -> tuple[list[Run], list[str]]:
    """All run folders in and below `folders`, by path, and warnings about those that had to be left out.

    Raises:
        DataError: a folder is not there, or none holds a run that can be read.
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
    for folder, below, files in os.walk(root):
        below.sort()
        if CONFIG_NAME in files and (METRICS_NAME in files or DIVERGED_NAME in files):
            yield Path(folder)


def _read_run(number: int, relative: str, folder: Path, warnings: list[str]) -> Run:
    """A warning is added for each file that the report can do without and cannot read.

    Raises:
        DamagedRun: for every other, and for wrong labels of a file whose number nothing says.
    """

    def read(reader: Callable[[Path], _T], name: str) -> _T | None:
        try:
            return reader(folder / name)
        except DamagedRun as error:
            warnings.append(f"The {name} of `{plain(relative)}` is left out: {plain(str(error))}.")
            return None

    config = read_config(folder / CONFIG_NAME)
    diverged = read(read_divergence, DIVERGED_NAME)
    if diverged and not (folder / METRICS_NAME).exists():
        metrics: dict[str, Column] = dict.fromkeys(REQUIRED, ())  # it had no whole epoch
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
    """A run's config as plain values, with the few that the report cannot do without checked.

    Older and newer configs than this code's are welcome, so it is not validated as a whole.

    Raises:
        DamagedRun: unreadable, not JSON, or one of those values is missing or of the wrong kind.
    """
    try:
        config = strict_json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not JSON: {error}"
        raise DamagedRun(f"{path.name}: {why}") from error
    for keys, kind, what in _NEEDED:
        value = value_at(config, keys)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DamagedRun(f"{path.name}: {'.'.join(keys)} must be {what}, is {json.dumps(value)[:60]}")
    return config


_NEEDED: tuple[tuple[tuple[str, ...], type | tuple[type, ...], str], ...] = (
    (("name",), str, "a name"),
    (("seed",), int, "a whole number"),
    (("arch", "args", "norm"), str, "the name of an arm"),
    (("data_loader", "type"), str, "the name of a dataset"),
    (("label_noise", "rate"), (int, float), "a share"),
    (("trainer", "epochs"), int, "a number of epochs"),
)


def read_metrics(path: Path) -> dict[str, Column]:
    """Columns by name, `seconds` left out: the report must not depend on the machine.

    Raises:
        DamagedRun: a column is missing, a row is cut short, an epoch is missing, a figure is none.
    """
    rows, names = _read_csv(path, REQUIRED)
    columns: dict[str, Column] = {}
    for name in names:
        if name != "seconds":
            columns[name] = tuple(_number(row[name], name, line) for line, row in enumerate(rows, 2))
    for name in REQUIRED:
        if None in columns[name]:
            raise DamagedRun(f"{name} is empty or not finite in line {columns[name].index(None) + 2}")
    if columns["epoch"] != tuple(range(1, len(rows) + 1)):
        raise DamagedRun("the epochs are not 1, 2, 3 and so on")
    for name, values in columns.items():
        if name.endswith("_accuracy") and any(value is not None and not 0.0 <= value <= 1.0 for value in values):
            raise DamagedRun(f"{name} is not a share between 0 and 1 everywhere")
    return columns


def read_diagnostics(path: Path) -> Diagnostics | None:
    """None if the run has none.

    Raises:
        DamagedRun: as for `read_metrics`.
    """
    if not path.is_file():
        return None
    rows, _ = _read_csv(path, ("epoch", "layer", *DIAGNOSTIC_COLUMNS))
    values: dict[str, dict[tuple[int, str], float | None]] = {name: {} for name in DIAGNOSTIC_COLUMNS}
    for line, row in enumerate(rows, 2):
        epoch = _number(row["epoch"], "epoch", line)
        if epoch is None or epoch != int(epoch):
            raise DamagedRun(f"no epoch in line {line}")
        for name in DIAGNOSTIC_COLUMNS:
            values[name][int(epoch), row["layer"]] = _number(row[name], name, line)
    keys = values[DIAGNOSTIC_COLUMNS[0]]
    epochs = tuple(sorted({epoch for epoch, _ in keys}))
    return Diagnostics(epochs, tuple(dict.fromkeys(layer for _, layer in keys)), values)


def read_data(path: Path) -> Data | None:
    """None for a run that does not say, as older ones do not.

    Raises:
        DamagedRun: unreadable, not JSON, or without the numbers of images.
    """
    if not path.is_file():
        return None
    record = _read_json(path)
    sizes = tuple(value_at(record, ("images", name)) for name in SPLITS)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise DamagedRun(f"images has not a number for each of {', '.join(SPLITS)}")
    wrong = value_at(record, ("wrong_labels", "train"))
    return Data(sizes, wrong if isinstance(wrong, int) else None)


def read_divergence(path: Path) -> int | None:
    """The epoch in which a run's loss became NaN or infinite; None if it did not.

    Raises:
        DamagedRun: unreadable, not JSON, or without an epoch.
    """
    if not path.is_file():
        return None
    epoch = value_at(_read_json(path), ("epoch",))
    if not isinstance(epoch, int) or epoch < 1:
        raise DamagedRun("it has no epoch")
    return epoch


def _read_json(path: Path) -> Any:
    try:
        return strict_json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedRun(str(error)) from error


def _read_csv(path: Path, required: tuple[str, ...]) -> tuple[list[dict[str, str]], list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DamagedRun(error.strerror or str(error)) from error
    except ValueError as error:
        raise DamagedRun("it is no UTF-8 text") from error
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        rows, names = list(reader), list(reader.fieldnames or [])
    except csv.Error as error:
        raise DamagedRun(str(error)) from error
    missing = [name for name in required if name not in names]
    if missing:
        raise DamagedRun(f"it has no column {missing[0]}")
    if not rows:
        raise DamagedRun("it has no row")
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DamagedRun(f"line {line} has not as many cells as the header")
    return rows, names


def _number(text: str, name: str, line: int) -> float | None:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise DamagedRun(f"{name} in line {line} is {text[:20]!r}, not a number") from error
    return value if math.isfinite(value) else None
